"""What a well-known SNMP library gets wrong (pysnmp-lextudio 6.1.2, P1 to P13) cannot be seen from outside.

The library is not in the way of any datagram of ours; one test for each defect says what a manager sees instead.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import test_usm as secured
from snmp_kit import COMMUNITY, UPS, Net, Stage, arcs, request, since, three_phase, view
from test_notices import Core, Peer
from test_upsset import ALL, LOCK, NAME, TEST, Desk

from agent import ber, config, engineid, snmp, usm, v3
from agent.model import Condition
from agent.netif import Interfaces
from agent.receiver import Receiver
from tests.snmp_damage import CRAFTED

NO_ACCESS, WRONG_TYPE, WRONG_VALUE, INCONSISTENT_VALUE, TOO_BIG = 6, 7, 10, 12, 1
TEXT = ber.tlv(ber.OCTET_STRING, b"changed")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(view(three_phase(), *(since(c) for c in list(Condition)[:24])), Net(tmp_path / "net").folder)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def secured_agent(folder: Path, level: int = usm.AUTH_PRIV) -> snmp.Agent:
    """An agent whose user ops may read, with the engine of the tests of version 3."""
    users = (config.User(name="ops", sources=("127.0.0.0/8",)),)
    ops = secured.replace(secured.OPS, level=level)
    responder = v3.Responder(secured.ENGINE, {"ops": ops})
    settings = config.Snmp(users=users)
    return snmp.Agent(
        settings, {}, lambda: view(commands=ALL), 1000.0, host="h", responder=responder,
        interfaces=Interfaces(str(folder)), clock=lambda: secured.NOW_S,
    )  # fmt: skip


def scoped(tag: int, name: str, value: bytes = b"\x05\x00", context: bytes = b"") -> bytes:
    prefix = ber.tlv(ber.OCTET_STRING, secured.ENGINE_ID) + ber.tlv(ber.OCTET_STRING, context)
    return ber.message(prefix, tag, ber.integer(77), 0, 0, ber.binding(ber.oid(arcs(name)), value))


def opened(data: bytes | None) -> ber.Pdu:
    assert data is not None
    return v3.read_scoped(v3.opened(data, v3.read(data), secured.OPS))[3]


@pytest.mark.parametrize("version", [ber.V1, ber.V2C])
def test_p1_who_may_only_read_cannot_set(stage: Stage, version: int) -> None:
    answered = stage.ask(request(ber.SET, NAME, version=version, value=TEXT))
    assert answered is not None and answered.error == (NO_ACCESS if version == ber.V2C else 2)
    assert stage.walk(f"{UPS}.1")[NAME][1] == b"rack-3"


def test_p1_a_user_who_may_only_read_cannot_set(tmp_path: Path) -> None:
    agent = secured_agent(tmp_path)
    answered = opened(agent.answer(secured.sent(scoped=scoped(ber.SET, NAME, TEXT)), "127.0.0.1"))
    assert answered.first == NO_ACCESS
    assert b"rack-3" in opened(agent.answer(secured.sent(scoped=scoped(ber.GET, NAME)), "127.0.0.1")).bindings


@pytest.mark.parametrize("tag", [ber.GET, ber.GETNEXT, ber.GETBULK])
@pytest.mark.parametrize("level", [usm.NO_AUTH, usm.AUTH])
def test_p2_no_value_leaves_on_a_lower_level_than_the_users(tmp_path: Path, tag: int, level: int) -> None:
    answer = secured_agent(tmp_path).answer(secured.sent(level=level, scoped=scoped(tag, NAME)), "127.0.0.1")
    assert answer is not None and b"rack-3" not in answer
    assert v3.read_scoped(v3.read(answer).scoped)[3].first == v3.AUTHORIZATION_ERROR


def test_p3_no_secret_is_in_any_object(tmp_path: Path) -> None:
    agent = secured_agent(tmp_path)
    secrets = [secured.SIGN, secured.CRYPT, COMMUNITY]
    keys = [secured.OPS.auth_key, secured.OPS.priv_key]
    name, values = "1.3", b""
    for _ in range(2000):
        message = secured.sent(scoped=scoped(ber.GETNEXT, name))
        bindings = opened(agent.answer(message, "127.0.0.1")).bindings
        ((body, tag, value),) = list(ber.values(bindings))
        if tag == 0x82:
            break
        values += value
        name = ".".join(map(str, ber.arcs(body)))
        foreign = ("1.3.6.1.4.1.20408.", "1.3.6.1.6.3.18.", "1.3.6.1.6.3.15.1.2.", "1.3.6.1.6.3.16.")
        assert not name.startswith(foreign), name
    else:
        raise AssertionError("a walk without an end")
    assert values and not any(s.encode() in values for s in secrets) and not any(k in values for k in keys)


@pytest.mark.parametrize("wrong", [1, 2, 3, 4])
def test_p4_the_index_is_that_of_the_name_that_failed(desk: Desk, wrong: int) -> None:
    pairs: list[tuple[str, object]] = [
        (NAME, "one"), ("1.3.6.1.2.1.1.4.0", "two"), ("1.3.6.1.2.1.1.5.0", "three"), ("1.3.6.1.2.1.1.6.0", "four"),
    ]  # fmt: skip
    pairs[wrong - 1] = (pairs[wrong - 1][0], 7)
    assert desk.set(*pairs) == (WRONG_TYPE, wrong)
    assert desk.saved == {}


def test_p4_a_wrong_spin_lock_is_named_behind_other_objects(desk: Desk) -> None:
    quick = (*arcs(UPS), 7, 7, 4)
    contact = "1.3.6.1.2.1.1.4.0"
    assert desk.set((NAME, "one"), (contact, "two"), (LOCK, 99), (TEST, quick)) == (INCONSISTENT_VALUE, 3)
    assert desk.orders == [] and desk.saved == {}


def test_p5_a_bulk_is_cut_by_size_alone(stage: Stage) -> None:
    answered = stage.ask(request(ber.GETBULK, "1.3", second=200))
    assert answered is not None and answered.error == 0
    data = stage.agent.answer(request(ber.GETBULK, "1.3.6.1.2.1.2.2.1", second=200), "127.0.0.1")
    assert data is not None and 1400 < len(data) <= 1472, "filled as far as the names go"
    for repetitions in (0, -1):
        answered = stage.ask(request(ber.GETBULK, "1.3", second=repetitions))
        assert answered is not None and (answered.error, answered.bindings) == (0, [])


def test_p6_what_does_not_fit_is_too_big_and_not_silence(stage: Stage) -> None:
    answered = stage.ask(request(ber.GET, *["1.3.6.1.2.1.1.1.0"] * 60))
    assert answered is not None and (answered.error, answered.bindings) == (TOO_BIG, [])


def test_p7_malformed_datagrams_leave_one_line_and_no_traceback(
    stage: Stage, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        for data in CRAFTED.values():
            stage.agent.answer(data, "127.0.0.1")
    assert len(caplog.records) == 1 and not any(r.exc_info for r in caplog.records)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_p8_an_unknown_context_gets_its_report(tmp_path: Path) -> None:
    message = secured.sent(scoped=scoped(ber.GET, NAME, context=b"vlan-1"))
    answered = opened(secured_agent(tmp_path).answer(message, "127.0.0.1"))
    assert answered.tag == ber.REPORT
    assert answered.names == (ber.oid_body((*v3.REPORTS["snmpUnknownContexts"], 0)),)


def test_p9_the_engine_is_kept_in_our_folder_for_us_alone(tmp_path: Path) -> None:
    first, boots = engineid.started(tmp_path)
    again, next_boots = engineid.started(tmp_path)
    assert (again, next_boots) == (first, boots + 1)
    assert engineid.path(tmp_path).parent == tmp_path
    assert engineid.path(tmp_path).stat().st_mode & 0o077 == 0


#: The faces as they are started, in a process whose wall clock is set: prints snmpEngineTime of a report and of a
#: trap, before and after. Nothing of ours is imported before the wall clock is in the test's hands.
SET_THE_CLOCK = """
import socket, sys, threading, time
wall_s = [1.0e9]
time.time = lambda: wall_s[0]
time.time_ns = lambda: int(wall_s[0] * 1e9)
time.clock_gettime = lambda which, real=time.clock_gettime: wall_s[0] if which == time.CLOCK_REALTIME else real(which)

from pathlib import Path
from agent import ber, config, engineid, faces, usm, v3
from agent.model import Condition
from tests.snmp_kit import ON_LINE, since, view

folder, heard = Path(sys.argv[1]), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("127.0.0.1", 0))
heard.settimeout(10.0)
state = folder / "faces" / "snmp"
keys = engineid.made(engineid.engine_id(state), "sha256", "to-sign-with", "aes128", "to-hide-with")
engineid.write_keys(state, {"ops": keys})

class Bus:
    shown = view(ON_LINE, last_event_id=0)
    def view(self):
        return self.shown
    def wait(self, version, within_s):
        stop.wait(0.02)
        return version + 1
    def ask(self, query, within_s):
        return {"events": [{"id": 1, "kind": "began", "name": "overload"}]}

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
    free.bind(("127.0.0.1", 0))
    listen = free.getsockname()
settings = config.Config(state_dir=str(folder), snmp=config.Snmp(
    listen="127.0.0.1:%d" % listen[1], users=(config.User(name="ops", sources=("127.0.0.0/8",)),), receivers=(
        config.TrapReceiver(name="n", address="127.0.0.1", port=heard.getsockname()[1], version="3", user="ops"),
    ),
))
stop, bus = threading.Event(), Bus()
thread = faces._start_snmp(settings, bus, stop)
empty = ber.tlv(ber.OCTET_STRING, b"")
scoped = ber.message(empty + empty, ber.GET, ber.integer(1), 0, 0, b"")
ask = v3.seal(1, v3.REPORTABLE, b"", 0, 0, None, b"", scoped, usm.Salts())
for step_s in (1.0e9, 0.0):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10.0)
        sock.sendto(ask, listen)
        print(v3.read(sock.recv(4096)).time_s, v3.read(heard.recv(4096)).time_s)
    wall_s[0] += step_s
    bus.shown = view(ON_LINE, since(Condition.OVERLOAD), last_event_id=1)
stop.set()
thread.join(5.0)
"""


def test_p10_engine_time_does_not_follow_the_wall_clock(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    path = os.pathsep.join((str(root), str(root / "tests"), *filter(None, sys.path)))
    argv = [sys.executable, "-c", SET_THE_CLOCK, str(tmp_path)]
    said = subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    times = [int(word) for word in said.stdout.split()]
    assert len(times) == 4 and all(0 <= time_s < 30 for time_s in times), said.stdout + said.stderr


def test_p11_notifications_leave_in_the_default_context(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.settimeout(2.0)
        address = ("127.0.0.1", int(heard.getsockname()[1]))
        core = Core(tmp_path)
        core.receiver.close()
        core.receiver = Receiver(address, ber.V3, user=secured.OPS, engine=secured.ENGINE)
        core.tell(core.receiver)
        core.stage.now_s = secured.NOW_S
        core.turn()
        data = heard.recv(4096)
        core.receiver.close()
        core.peer.sock.close()
    context_engine, context, _, pdu = v3.read_scoped(v3.opened(data, v3.read(data), secured.OPS))
    assert (context_engine, context, pdu.tag) == (secured.ENGINE_ID, b"", ber.TRAP_V2)


def test_p12_an_inform_of_version_2c_is_settled_by_its_confirmation(tmp_path: Path) -> None:
    core = Core(tmp_path, inform=True)
    assert len(core.turn()) == 1
    assert core.turn(60) == [], "confirmed, so it is not sent again"
    core.peer.sock.close()
    core.receiver.close()


def test_p12_a_trap_of_version_1_names_the_address_that_it_leaves_from(tmp_path: Path) -> None:
    core, peer = Core(tmp_path), Peer()
    core.receiver.close()
    core.receiver = Receiver(peer.address, ber.V1, community=b"public-not")
    core.tell(core.receiver)
    core.notifier.turn(101.0)
    data = peer.sock.recv(4096)
    assert ber.tlv(0x40, bytes((127, 0, 0, 1))) in data
    for sock in (core.peer.sock, peer.sock, core.receiver):
        sock.close()


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [(f"{UPS}.8.5.0", 3, WRONG_VALUE), (f"{UPS}.8.2.0", -2, WRONG_VALUE), (NAME, 7, WRONG_TYPE)],
)
def test_p13_a_wrong_value_and_a_wrong_type_get_their_errors(desk: Desk, name: str, value: int, error: int) -> None:
    assert desk.set((name, value)) == (error, 1)
    assert desk.orders == [] and desk.saved == {}
