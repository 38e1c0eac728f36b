"""Pins and the adapter's key: made once, kept, damaged, lost, revoked."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import enroll, enrolments, pins, senderkey
from agent.config import Server
from agent.engine import Note
from agent.enrolments import Enrolments
from agent.errands import Enrolled
from agent.model import ConfigError, ServerView, View
from agent.pins import Pins
from tests.fakecore import on_line
from tests.secure_peer import keys, pem

PIN, OTHER = "ab" * 32, "cd" * 32


def server(name: str, how: str = "rccmd", **options: Any) -> Server:
    return Server(name=name, address="192.0.2.1", how=how, options=options)


def view_of(*servers: Server) -> View:
    rows = [ServerView(name=s.name, address="", port=1, how=s.how, stage="all", needs_s=1.0) for s in servers]
    return on_line(servers=tuple(rows))


class Made:
    """Enrolments in a folder, and what they said."""

    def __init__(self, folder: Path) -> None:
        self.notes, self.proven = list[Note](), list[Enrolled]()
        self.enrolments = Enrolments(folder, self.notes.append, self.proven.append)

    def names(self) -> list[str]:
        return [note.name for note in self.notes]


# --- pins -------------------------------------------------------------------------------------------------------


def test_a_pin_is_on_the_disk_when_it_counts_and_survives_a_restart(tmp_path: Path) -> None:
    kept = Pins(tmp_path / "pins.json")
    assert kept.get("nas") == ""
    kept.add("nas", PIN, 1_790_000_000.0)
    assert Pins(tmp_path / "pins.json").get("nas") == kept.get("nas") == PIN
    assert (tmp_path / "pins.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "pins.json").read_text()) == {"nas": {"sha256": PIN, "enrolled_s": 1_790_000_000.0}}
    kept.add("nas", OTHER, 1.0)  # enrolled anew
    assert Pins(tmp_path / "pins.json").get("nas") == OTHER


def test_enrolled_anew_the_former_certificate_is_good_until_the_new_one_was_seen(tmp_path: Path) -> None:
    path, third = tmp_path / "pins.json", "ef" * 32
    kept = Pins(path)
    kept.add("nas", PIN, 0.0)
    kept.add("nas", OTHER, 1.0)
    assert (Pins(path).get("nas"), Pins(path).former("nas")) == (OTHER, (PIN,))
    kept.add("nas", third, 2.0)  # the second try: the server may have got as far as to use the first one
    assert (kept.get("nas"), Pins(path).former("nas")) == (third, (OTHER, PIN))
    kept.add("nas", PIN, 2.5)  # with the key that it had all the time
    assert (kept.get("nas"), kept.former("nas")) == (PIN, (third, OTHER))
    kept.add("nas", third, 3.0)
    kept.settle("nas", third)
    assert kept.former("nas") == () and Pins(path).former("nas") == (PIN, OTHER)
    kept.save()
    assert (Pins(path).get("nas"), Pins(path).former("nas")) == (third, ())
    kept.settle("nobody", PIN)
    assert kept.keep(()) == ("nas",) and kept.former("nas") == ()


def test_a_former_certificate_that_answers_is_the_one_at_work_and_the_newest_may_still_come(tmp_path: Path) -> None:
    path, third = tmp_path / "pins.json", "ef" * 32
    kept = Pins(path)
    for sha256 in (PIN, OTHER, third):
        kept.add("nas", sha256, 0.0)
    kept.settle("nas", OTHER)
    assert (kept.get("nas"), kept.former("nas")) == (third, (OTHER,))
    kept.save()
    assert Pins(path).former("nas") == (OTHER,)


def test_of_many_enrolments_that_failed_the_oldest_certificate_and_the_newest_are_kept(tmp_path: Path) -> None:
    kept = Pins(tmp_path / "pins.json")
    digests = [f"{n:064x}" for n in range(20)]
    for sha256 in digests:
        kept.add("nas", sha256, 0.0)
    former = kept.former("nas")
    assert len(former) == pins.FORMER_LIMIT and former[-1] == digests[0]  # which is the one that was seen at work
    assert former[:-1] == tuple(reversed(digests[-pins.FORMER_LIMIT : -1]))


def test_an_answer_that_was_on_its_way_while_it_was_enrolled_anew_settles_nothing(tmp_path: Path) -> None:
    kept = Pins(tmp_path / "pins.json")
    kept.add("nas", PIN, 0.0)
    asked = kept.get("nas")
    kept.add("nas", OTHER, 1.0)  # meanwhile
    kept.settle("nas", asked)
    assert kept.former("nas") == (PIN,)


def test_what_could_not_be_saved_is_saved_later(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    kept = Pins(path)
    kept.add("nas", PIN, 0.0)
    kept.add("nas", OTHER, 0.0)
    kept.settle("nas", OTHER)
    (tmp_path / "pins.json.new").mkdir()
    kept.save()
    (tmp_path / "pins.json.new").rmdir()
    assert Pins(path).former("nas") == (PIN,)
    kept.save()
    assert Pins(path).former("nas") == ()


def test_a_former_certificate_as_an_earlier_version_kept_it_is_read(tmp_path: Path) -> None:
    row = {"sha256": OTHER, "enrolled_s": 1.0, "former": PIN}
    (tmp_path / "pins.json").write_text(json.dumps({"nas": row}))
    assert Pins(tmp_path / "pins.json").former("nas") == (PIN,)


@pytest.mark.parametrize("former", ["x", 7, None, [7], ["x"], [PIN] * (pins.FORMER_LIMIT + 1), {"a": 1}, PIN.upper()])
def test_a_former_certificate_that_is_none_damages_the_file(tmp_path: Path, former: Any) -> None:
    row = {"sha256": PIN, "enrolled_s": 1.0, "former": former}
    (tmp_path / "pins.json").write_text(json.dumps({"nas": row}))
    assert Pins(tmp_path / "pins.json").damaged


@pytest.mark.parametrize("name, sha256", [("nas", PIN.upper()), ("nas", PIN[:-1]), ("../x", PIN), ("", PIN)])
def test_what_is_no_pin_is_refused(tmp_path: Path, name: str, sha256: str) -> None:
    with pytest.raises(ValueError):
        Pins(tmp_path / "pins.json").add(name, sha256, 0.0)
    assert not (tmp_path / "pins.json").exists()


def test_pins_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "SERVERS_LIMIT", 2)
    kept = Pins(tmp_path / "pins.json")
    kept.add("a", PIN, 0.0)
    kept.add("b", PIN, 0.0)
    with pytest.raises(ValueError, match="2 servers are enrolled already"):
        kept.add("c", PIN, 0.0)
    kept.add("a", OTHER, 0.0)
    assert (len(kept), kept.get("c")) == (2, "")


def test_a_disk_that_cannot_be_written_enrols_nobody_and_revokes_all_the_same(tmp_path: Path) -> None:
    kept = Pins(tmp_path / "folder" / "pins.json")
    kept.add("a", PIN, 0.0)
    (tmp_path / "folder" / "pins.json.new").mkdir()
    with pytest.raises(OSError):
        kept.add("b", PIN, 0.0)
    assert kept.get("b") == ""
    assert kept.keep(()) == ("a",) and kept.get("a") == ""


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b'{"nas": "x"}', b'{"nas": {"sha256": "AB", "enrolled_s": 1}}', b"\xff", b"1" * 5000,
     b'{"nas": {"sha256": "' + PIN.encode() + b'", "enrolled_s": NaN}}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_set_aside_and_said(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "pins.json").write_bytes(raw)
    made = Made(tmp_path)
    assert made.names() == ["pins-lost"] and "must be enrolled anew" in made.notes[0].text
    assert made.enrolments.pin("nas") == ""
    assert (tmp_path / "pins.json.damaged").read_bytes() == raw and not (tmp_path / "pins.json").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_file_stops_the_core(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "pins.json").write_bytes(raw)
    Pins(tmp_path / "pins.json")


# --- the key ----------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_by_a_child_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = senderkey.ensure(tmp_path / "core")
    path = tmp_path / "core" / "sender.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert senderkey.ensure(tmp_path / "core") == first and senderkey.damaged(tmp_path / "core") == ""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path)
    found = x509.load_pem_x509_certificate(first.encode())
    assert (found.not_valid_before_utc.year, found.not_valid_after_utc.year) == (2000, 9999)
    assert "PRIVATE" not in first


def test_no_key_can_be_made_where_nothing_can_be_written() -> None:
    with pytest.raises(ConfigError, match="no key could be made"):
        senderkey.ensure(Path("/proc/nowhere"))


@pytest.mark.parametrize("how", ["empty", "torn", "no key", "binary", "two", "wrong key"])
def test_a_damaged_key_is_recognised(tmp_path: Path, how: str) -> None:
    good = keys("sender")
    at = good.index(b"-----BEGIN CERTIFICATE")
    data = {
        "empty": b"", "torn": good[: at + 200], "no key": good[at:], "binary": b"\xff" * 100, "two": good * 2,
        "wrong key": keys("server")[: keys("server").index(b"-----BEGIN CERTIFICATE")] + good[at:],
    }[how]  # fmt: skip
    (tmp_path / "sender.pem").write_bytes(data)
    assert senderkey.damaged(tmp_path)


def made_within(folder: Path, within_s: float = 20.0) -> str:
    end_s = time.monotonic() + within_s
    while not (folder / "sender.pem").exists() and time.monotonic() < end_s:
        time.sleep(0.02)
    return senderkey.certificate(folder)


def test_a_key_is_there_before_the_first_server_is_enrolled_but_not_for_classic_ones(tmp_path: Path) -> None:
    made = Made(tmp_path / "classic")
    made.enrolments.prepare((server("a", secure=False), server("b", "ssh")))
    assert not (tmp_path / "classic" / "sender.pem").exists()
    made = Made(tmp_path / "core")
    made.enrolments.prepare((server("a"),))
    assert made_within(tmp_path / "core") and made.names() == []


def test_a_damaged_key_is_set_aside_a_new_one_made_and_the_log_says_whom_to_enrol(tmp_path: Path) -> None:
    Pins(tmp_path / "pins.json").add("nas", PIN, 0.0)
    (tmp_path / "sender.pem").write_bytes(b"\0" * 500)
    made = Made(tmp_path)
    made.enrolments.prepare((server("nas"),))
    assert made.names() == ["sender-key-lost"]
    assert "enrolled anew: ridethrough enroll NAME" in made.notes[0].text
    assert (tmp_path / "sender.pem.damaged").read_bytes() == b"\0" * 500
    assert made_within(tmp_path)


def test_a_key_that_is_gone_is_said_only_when_somebody_trusted_it(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.enrolments.prepare((server("nas", secure=True),))
    assert made.names() == []
    made_within(tmp_path)
    os.unlink(tmp_path / "sender.pem")
    Pins(tmp_path / "pins.json").add("nas", PIN, 0.0)
    made = Made(tmp_path)
    made.enrolments.prepare((server("nas", secure=True),))
    assert made.names() == ["sender-key-lost"] and "is gone" in made.notes[0].text
    made_within(tmp_path)


# --- enrolling and revoking -------------------------------------------------------------------------------------


def test_an_enrolled_server_is_pinned_and_then_proven_and_gets_our_certificate(tmp_path: Path) -> None:
    (tmp_path / "sender.pem").write_bytes(keys("sender"))
    made = Made(tmp_path)
    assert made.enrolments.enrol("nas", PIN, (server("nas"),)) == pem(keys("sender"))
    assert made.enrolments.pin("nas") == PIN and made.proven == [Enrolled("nas")]


def test_a_key_that_takes_long_to_make_refuses_and_pins_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def make(folder: Path) -> str:
        go.wait(5)
        (folder / senderkey.NAME).write_bytes(keys("sender"))
        return ""

    monkeypatch.setattr(senderkey, "ensure", make)
    monkeypatch.setattr(enrolments, "KEY_WAIT_S", 0.05)
    made = Made(tmp_path)
    with pytest.raises(ConfigError, match="not made yet"):
        made.enrolments.enrol("nas", PIN, (server("nas"),))
    assert made.enrolments.pin("nas") == "" and made.proven == []
    monkeypatch.setattr(enrolments, "KEY_WAIT_S", 5.0)
    go.set()
    assert made.enrolments.enrol("nas", PIN, (server("nas"),)) == pem(keys("sender"))
    assert enroll.CORE_WITHIN_S > 8.0  # the page hears the refusal


def test_a_damaged_key_that_nobody_trusted_yet_does_not_stop_the_first_enrolment(tmp_path: Path) -> None:
    made = Made(tmp_path)
    (tmp_path / "sender.pem").write_bytes(b"x")
    made.enrolments.prepare((server("nas"),))  # looks at nothing: TLS is not needed
    assert made.enrolments.enrol("nas", PIN, (server("nas"),)) == senderkey.certificate(tmp_path)
    assert made.names() == ["sender-key-lost"] and (tmp_path / "sender.pem.damaged").exists()


def test_a_key_that_cannot_be_read_now_is_not_set_aside(tmp_path: Path) -> None:
    (tmp_path / "sender.pem").mkdir()  # what root cannot read either
    assert senderkey.damaged(tmp_path) == ""


@pytest.mark.parametrize(
    "name, sha256, why",
    [
        ("other", PIN, "there is no"),
        ("by-ssh", PIN, "there is no"),
        ("classic", PIN, "secure = false"),
        ("by-udp", PIN, "udp = true"),
        ("nas", "x", "not a name and the SHA-256"),
    ],
)
def test_who_cannot_be_enrolled_is_told_why(tmp_path: Path, name: str, sha256: str, why: str) -> None:
    (tmp_path / "sender.pem").write_bytes(keys("sender"))
    made = Made(tmp_path)
    servers = (server("nas"), server("by-ssh", "ssh"), server("classic", secure=False), server("by-udp", udp=True))
    with pytest.raises(ConfigError, match=why):
        made.enrolments.enrol(name, sha256, servers)
    assert made.enrolments.pin(name) == "" and made.proven == []


def test_a_server_that_left_the_configuration_is_revoked_once_nobody_must_tell_it(tmp_path: Path) -> None:
    kept = Pins(tmp_path / "pins.json")
    for name in ("nas", "web"):
        kept.add(name, PIN, 0.0)
    nas, web = server("nas"), server("web")
    kept_by = Made(tmp_path).enrolments
    kept_by.forget(view_of(), (nas,))  # the engine has not taken the configuration yet
    kept_by.forget(view_of(nas, web), (nas,))  # web must still be told in this outage
    assert kept_by.pin("web") == kept_by.pin("nas") == PIN
    kept_by.forget(view_of(nas), (nas,))
    assert (kept_by.pin("web"), kept_by.pin("nas")) == ("", PIN)
    assert Pins(tmp_path / "pins.json").get("web") == ""
    kept_by.forget(view_of(nas, web), (nas, web))  # a new one of that name must enrol anew
    assert kept_by.pin("web") == ""
    kept_by.forget(view_of(server("nas", "ssh"), web), (server("nas", "ssh"), web))
    assert kept_by.pin("nas") == ""


def test_a_file_of_pins_that_cannot_be_read_now_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    path.mkdir()  # as good as one that another user owns
    pins = Pins(path)
    with pytest.raises(OSError):
        pins.add("nas", "a" * 64, 1.0)
    path.rmdir()
    first = Pins(path)
    first.add("web", "b" * 64, 1.0)
    pins.add("nas", "a" * 64, 2.0)
    assert {name for name in ("web", "nas") if Pins(path).get(name)} == {"web", "nas"}
