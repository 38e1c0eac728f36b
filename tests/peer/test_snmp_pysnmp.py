"""SNMP version 3 against pysnmp, whose user-based security shares no code with ours: the independent oracle."""

from __future__ import annotations

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
from tests.peer.test_snmp_v3 import CRYPT, SIGN, SYS_NAME, agent
from tests.pysnmp_client import AUTHS, PRIVS, Listener, Manager
from tests.snmp_kit import ON_LINE, UPS, Net, view

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Net(tmp_path_factory.mktemp("net") / "net").folder


@contextmanager
def manager(port: int, auth: str, priv: str, *, sign: str = SIGN, crypt: str = CRYPT) -> Iterator[Manager]:
    made = Manager(port, "").with_user("ops", auth, sign, priv, crypt)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("priv", PRIVS)
@pytest.mark.parametrize("auth", AUTHS)
def test_every_pair_of_ways_is_understood_by_pysnmp(net: Path, tmp_path: Path, auth: str, priv: str) -> None:
    with agent(net, tmp_path, auth, priv) as port, manager(port, auth, priv) as pysnmp:
        assert pysnmp.get(SYS_NAME) == ("", 0, [(SYS_NAME, "OctetString", "rack-3")])


def test_pysnmp_walks_and_reads_in_bulk_and_cannot_set(net: Path, tmp_path: Path) -> None:
    with agent(net, tmp_path, "sha256", "aes128") as port, manager(port, "sha256", "aes128") as pysnmp:
        walked = pysnmp.walk(UPS)
        assert len(walked) > 40
        error, _, bindings = pysnmp.getbulk(0, 20, UPS)
        assert not error and [name for name, _, _ in bindings] == [name for name, _, _ in walked[:20]]
        assert pysnmp.set(f"{UPS}.1.5.0", "mine")[:2] == ("noAccess", 1)


@pytest.mark.parametrize(("sign", "crypt"), [("another-phrase", CRYPT), (SIGN, "another-phrase")])
def test_pysnmp_with_another_key_gets_nothing(net: Path, tmp_path: Path, sign: str, crypt: str) -> None:
    with (
        agent(net, tmp_path, "sha256", "aes128") as port,
        manager(port, "sha256", "aes128", sign=sign, crypt=crypt) as pysnmp,
        pytest.raises(TimeoutError),
    ):
        pysnmp.get(SYS_NAME)


# --- notifications ----------------------------------------------------------------------------------------------

WITHIN_S = 15.0


def heard(listener: Listener, one: receiver.Receiver, told: list[Notice]) -> list[tuple[str, str]]:
    """The one notification that comes of it, once the receiver is content."""
    one.put(told)
    end_s, before = time.monotonic() + WITHIN_S, len(listener.got)
    while one.busy or len(listener.got) == before:
        assert time.monotonic() < end_s, f"nothing, or not confirmed: {one._open}"
        one.turn(time.monotonic())
        listener.listen()
    return listener.got[-1]


@pytest.mark.parametrize("how", ["1", "2c", "2c inform", "3", "3 inform"])
def test_pysnmp_takes_notifications_of_all_versions_with_a_value_that_nobody_knows(tmp_path: Path, how: str) -> None:
    ours, boots = engineid.started(tmp_path)
    row = engineid.made(ours, "sha256", SIGN, "aes128", CRYPT, informs=True)
    ops = engineid.user("ops", "auth-priv", False, row, ours, False)
    unknown = replace(ON_LINE, battery=Battery())
    event = Event(id=1, kind="began", name=Condition.ON_BATTERY.value)
    told = notices.Watch(0).events([event], Look(view(unknown, on_battery_s=42.0), unknown, 100.0, 0.0, {}), 0)
    listener = Listener("not-public").with_user("ops", SIGN, CRYPT, ours)
    one = receiver.Receiver(
        ("127.0.0.1", listener.port), {"1": ber.V1, "2": ber.V2C, "3": ber.V3}[how[0]], community=b"not-public",
        inform="inform" in how, user=ops, engine=mib.Engine(ours, boots, time.monotonic()),
        for_engine=engineid.for_engine(ops, row),
    )  # fmt: skip
    bindings = heard(listener, one, told)
    one.close()
    listener.close()
    assert bindings[-3:] == [
        (f"{UPS}.2.3.0", "Null" if how == "1" else "NoSuchInstance"),
        (f"{UPS}.2.2.0", "Integer32" if how == "1" else "Integer"),
        (f"{UPS}.9.7.0", "Integer32" if how == "1" else "Integer"),
    ]


def test_a_pysnmp_that_was_installed_anew_gets_informs_again(tmp_path: Path) -> None:
    ours, boots = engineid.started(tmp_path)
    row = engineid.made(ours, "sha256", SIGN, "aes128", CRYPT, informs=True)
    ops = engineid.user("ops", "auth-priv", False, row, ours, False)
    engine, port, one = mib.Engine(ours, boots, time.monotonic()), 0, None
    for number in (1, 2):
        theirs = bytes.fromhex("8000000005") + bytes((number,)) * 8
        listener = Listener("not-public", port, theirs).with_user("ops", SIGN, CRYPT, ours)
        port = listener.port
        if one is None:
            one = receiver.Receiver(
                ("127.0.0.1", port), ber.V3, inform=True, user=ops, engine=engine,
                for_engine=engineid.for_engine(ops, row),
            )  # fmt: skip
        heard(listener, one, [Notice((*notices.TRAPS, number), 0, b"")])
        listener.close()
        assert one._peer is not None and one._peer.engine_id == theirs
    if one is not None:
        one.close()
