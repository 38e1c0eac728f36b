"""`ridethrough snmp-user` says of each way to sign or encrypt what a person must know before he chooses it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from agent import config, snmpuser, usm
from agent.__main__ import parser
from agent.config import Config

PHRASES = "the-signing-phrase\nthe-secret-phrase\n"


def asked(
    folder: Path, *words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weak: bool = False
) -> str:
    """All that it says."""
    monkeypatch.setattr("sys.stdin", io.StringIO(PHRASES))
    snmp = config.Snmp(users=(config.User(name="ops", sources=("127.0.0.0/8",)),), allow_weak=weak)
    settings = replace(Config(), state_dir=str(folder), snmp=snmp)
    assert snmpuser.main(parser().parse_args(["snmp-user", *words]), settings) == 0
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize("auth", usm.AUTHS)
@pytest.mark.parametrize("priv", [*usm.PRIVS, "none"])
def test_what_is_no_standard_and_what_is_weak_is_said_when_it_is_chosen_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], auth: str, priv: str
) -> None:
    chosen = asked(tmp_path, "ops", "--auth", auth, "--priv", priv, monkeypatch=monkeypatch, capsys=capsys)
    listed = asked(tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    for said in (chosen, listed):
        assert ("aes256 is an extension that is in no standard" in said) == (priv == "aes256")
        for way, chose in (("md5", auth), ("des", priv)):
            assert (f"{way} is weak, and off without allow_weak" in said) == (way == chose)
    allowed = asked(tmp_path, monkeypatch=monkeypatch, capsys=capsys, weak=True)
    assert "off without" not in allowed and ("is weak" in allowed) == (auth == "md5" or priv == "des")


def test_the_help_says_so_before(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["snmp-user", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "aes256 is an extension that is in no standard" in said
    for way in (*usm.AUTHS, *usm.PRIVS):
        assert way in said, way
    for way in ("md5", "des"):
        assert f"{way} is weak, and off without allow_weak" in said
