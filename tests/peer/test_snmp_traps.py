"""Notifications against net-snmp's snmptrapd: traps and informs of every version, in one run each."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent import ber, engineid, mib, notices, receiver
from agent.mib import Look
from agent.model import Battery, Condition, Event
from agent.notices import Notice
from agent.notify import Notifier
from tests.peer.test_snmp_agent import PATH, free_port
from tests.peer.test_snmp_v3 import AUTHS, PRIVS, offered
from tests.snmp_kit import ON_LINE, UPS, Net, Stage, since, view

MISSING = [] if shutil.which("snmptrapd", path=PATH) else ["snmptrapd"]
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"not run: {', '.join(MISSING)} missing"),
]
SIGN, CRYPT = "the-signing-phrase", "the-secret-phrase"
WITHIN_S = 15.0


@contextmanager
def snmptrapd(folder: Path, conf: str, port: int = 0) -> Iterator[tuple[int, Path]]:
    """snmptrapd, its port (0: a free one), and the file in which it writes what it got."""

    port = port or free_port(socket.SOCK_DGRAM)
    (folder / "snmptrapd.conf").write_text(conf)
    log = folder / "traps.log"
    argv = [
        "snmptrapd", "-f", "-n", "-On", "-C", "-c", str(folder / "snmptrapd.conf"), "-Lf", str(log), "-F",
        "%W %w %q from %B: %v END\n", f"udp:127.0.0.1:{port}",
    ]  # fmt: skip
    env = {**os.environ, "PATH": PATH, "MIBS": "", "SNMP_PERSISTENT_DIR": str(folder / "persistent")}
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env) as child:
        try:
            end_s = time.monotonic() + WITHIN_S
            while "NET-SNMP version" not in (log.read_text() if log.exists() else ""):
                assert time.monotonic() < end_s and child.poll() is None, "snmptrapd does not start"
                time.sleep(0.05)
            yield port, log
        finally:
            child.terminate()


def told(folder: Path, one: receiver.Receiver, log: Path, wanted: list[str]) -> str:
    """An overload comes; what snmptrapd wrote, once all that is wanted stands there."""
    stage = Stage(view(ON_LINE, last_event_id=0), Net(folder / "net").folder)
    notifier = Notifier(stage.agent.look, stage.agent.last_row, lambda q, s: {"events": []}, [one], folder / "state")
    stage.now_s = time.monotonic()
    notifier.turn(stage.now_s)
    stage.view = view(ON_LINE, since(Condition.OVERLOAD, stage.now_s), last_event_id=1)
    event = {"id": 1, "kind": "began", "name": Condition.OVERLOAD.value}
    notifier._ask = lambda q, s: {"events": [event]}
    end_s = time.monotonic() + WITHIN_S
    while True:
        notifier.turn(time.monotonic())
        said = log.read_text()
        if all(text in said for text in wanted) and not one.busy:
            one.close()
            return said
        assert time.monotonic() < end_s, f"{said}\nstill waiting: {one._open}"
        time.sleep(0.05)


ALARM = f".{UPS}.6.3.8"


@pytest.mark.parametrize("version", ["1", "2c", "2c inform"])
def test_traps_with_a_community_arrive(tmp_path: Path, version: str) -> None:
    with snmptrapd(tmp_path, "authCommunity log not-public\n") as (port, log):
        one = receiver.Receiver(
            ("127.0.0.1", port), ber.V1 if version == "1" else ber.V2C, community=b"not-public",
            inform="inform" in version,
        )  # fmt: skip
        said = told(tmp_path, one, log, [ALARM])
    if version == "1":
        assert "Cold Start" in said and "Enterprise Specific" in said
    else:
        assert ".1.3.6.1.6.3.1.1.5.1" in said and ".1.3.6.1.2.1.33.2.3" in said


@pytest.mark.parametrize("inform", [False, True])
@pytest.mark.parametrize(
    ("auth", "priv"),
    [
        *((auth, "aes128") for auth in AUTHS), *((auth, "") for auth in AUTHS), ("sha256", "aes256"),
        ("sha512", "aes256"), ("sha1", "des"), ("md5", "des"),
    ],
)  # fmt: skip
def test_traps_and_informs_of_version_3_arrive(tmp_path: Path, auth: str, priv: str, inform: bool) -> None:
    if not offered(priv):
        pytest.skip(f"this net-snmp has no {priv}")
    folder = tmp_path / "engine"
    found, boots = engineid.started(folder)
    row = engineid.made(found, auth, SIGN, priv, CRYPT, informs=True)
    ops = engineid.user("ops", "auth-priv" if priv else "auth", False, row, found, True)
    keys = f"{AUTHS[auth]} {SIGN}" + (f" {PRIVS[priv]} {CRYPT}" if priv else "")
    engine = "" if inform else f"-e 0x{found.hex()} "
    conf = f"createUser {engine}ops {keys}\nauthUser log ops {'priv' if priv else 'auth'}\n"
    with snmptrapd(tmp_path, conf) as (port, log):
        one = receiver.Receiver(
            ("127.0.0.1", port), ber.V3, inform=inform, user=ops, engine=mib.Engine(found, boots, time.monotonic()),
            for_engine=engineid.for_engine(ops, row) if inform else None,
        )  # fmt: skip
        said = told(tmp_path, one, log, [ALARM])
    assert ".1.3.6.1.6.3.1.1.5.1" in said and ".1.3.6.1.2.1.33.2.3" in said


def test_a_receiver_that_was_installed_anew_gets_informs_again(tmp_path: Path) -> None:
    ours, boots = engineid.started(tmp_path / "engine")
    row = engineid.made(ours, "sha256", SIGN, "aes128", CRYPT, informs=True)
    ops = engineid.user("ops", "auth-priv", False, row, ours, False)
    conf = f"createUser ops SHA-256 {SIGN} AES {CRYPT}\nauthUser log ops priv\n"
    engine, port, one = mib.Engine(ours, boots, time.monotonic()), 0, None
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        theirs = f"80000000050{number}0{number}0{number}0{number}"
        with snmptrapd(folder, f"exactEngineID 0x{theirs}\n{conf}", port) as (port, log):
            if one is None:
                one = receiver.Receiver(
                    ("127.0.0.1", port), ber.V3, inform=True, user=ops, engine=engine,
                    for_engine=engineid.for_engine(ops, row),
                )  # fmt: skip
            one.put([Notice((*notices.TRAPS, number), 0, b"")])
            end_s = time.monotonic() + WITHIN_S
            while one.busy:
                one.turn(time.monotonic())
                assert time.monotonic() < end_s, log.read_text()
                time.sleep(0.05)
            assert f".1.3.6.1.2.1.33.2.{number}" in log.read_text()
            assert one._peer is not None and one._peer.engine_id.hex() == theirs
    if one is not None:
        one.close()


@pytest.mark.parametrize("version", ["1", "2c", "2c inform"])
def test_a_value_that_nobody_knows_is_shown_as_none(tmp_path: Path, version: str) -> None:
    event = Event(id=1, kind="began", name=Condition.ON_BATTERY.value)
    unknown = replace(ON_LINE, battery=Battery())
    told = notices.Watch(0).events([event], Look(view(unknown, on_battery_s=42.0), unknown, 100.0, 0.0, {}), 0)
    with snmptrapd(tmp_path, "authCommunity log not-public\n") as (port, log):
        one = receiver.Receiver(
            ("127.0.0.1", port), ber.V1 if version == "1" else ber.V2C, community=b"not-public",
            inform="inform" in version,
        )  # fmt: skip
        one.put(told)
        end_s = time.monotonic() + WITHIN_S
        while one.busy or "33.1.9.7.0" not in log.read_text():
            one.turn(time.monotonic())
            assert time.monotonic() < end_s, log.read_text()
            time.sleep(0.05)
        one.close()
        said = log.read_text()
    assert f".{UPS}.2.3.0 = {'NULL' if version == '1' else 'No Such Instance'}" in said
    assert f".{UPS}.2.2.0 = INTEGER: 42" in said and f".{UPS}.9.7.0 = INTEGER: 3" in said
