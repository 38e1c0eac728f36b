"""An SNMP agent as the source: its tables, its refusals, its lost UPS, and datagrams of others."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import ber, snmp3link, snmplink, snmptables
from agent.drivers import snmp
from agent.model import Command, Condition, Link, LinkError, OrderError, Source, TestResult
from agent.snmplook import whole_oid
from agent.snmptables import APC, CPS, UPS, XUPS
from tests.simulators.snmpunit import ID, RFC, SnmpUnit, Value

TICKS = ber.integer(180000, ber.TIMETICKS)

POWERNET: dict[str, Value | bytes] = {
    ID: (1, 3, 6, 1, 4, 1, 318, 1, 3, 27),
    **{f"{APC}.{k}": v for k, v in {
        "1.1.1.0": "Smart-UPS 1500", "1.2.3.0": "AS1", "2.1.1.0": 2, "2.2.1.0": 90, "2.2.3.0": TICKS, "2.2.4.0": 2,
        "2.3.1.0": 905, "2.3.4.0": 271, "3.2.1.0": 231, "3.3.1.0": 2309, "4.1.1.0": 2, "4.2.3.0": 31, "4.3.3.0": -1,
        "5.2.4.0": 1, "6.2.1.0": 1, "7.2.2.0": 1, "7.2.3.0": 1, "8.1.0": 1,
    }.items()},
}  # fmt: skip
EATON: dict[str, Value | bytes] = {
    ID: (1, 3, 6, 1, 4, 1, 534, 1),
    **{f"{XUPS}.{k}": v for k, v in {
        "1.1.0": "EATON", "1.2.0": "9PX", "2.1.0": 1800, "2.2.0": 240, "2.4.0": 88, "2.5.0": 2, "3.1.0": 500,
        "3.3.0": 1, "3.4.1.2.1": 0, "4.1.0": 40, "4.3.0": 1, "4.4.1.2.1": 230, "4.5.0": 5, "6.1.0": 31, "6.6.0": 45,
        "7.1.0": 2, "7.2.1.2.1": (1, 3, 6, 1, 4, 1, 534, 1, 7, 3), "7.2.1.2.2": (1, 3, 6, 1, 4, 1, 534, 1, 7, 4),
        "8.2.0": 2, "9.1.0": -1, "9.6.0": -1,
    }.items()},
}  # fmt: skip
CYBER: dict[str, Value | bytes] = {
    ID: (1, 3, 6, 1, 4, 1, 3808, 1, 1, 1),
    **{f"{CPS}.{k}": v for k, v in {
        "1.1.1.0": "OR1500", "2.1.1.0": 3, "2.2.1.0": 12, "2.2.4.0": TICKS, "3.2.1.0": 0, "4.1.1.0": 3, "4.2.3.0": 12,
    }.items()},
}  # fmt: skip


def driver(unit: SnmpUnit, mib: str = "auto") -> snmp.Snmp:
    made = snmp.connect({"mib": mib}, unit, lambda: unit.now_s)
    assert isinstance(made, snmp.Snmp)
    return made


@pytest.mark.parametrize("version", [1, 2])
def test_rfc_1628_with_three_phases(version: int) -> None:
    unit = SnmpUnit(RFC, version)
    it = driver(unit)
    for _ in range(2):  # found, and then asked for by name
        status = it.poll()
        assert status.source is Source.MAINS and status.battery.low is False and status.flags == frozenset()
        assert (status.battery.runtime_s, status.battery.charge_pct, status.battery.voltage_v) == (1800.0, 97.0, 54.1)
        assert [line.voltage_v for line in status.inputs] == [231.0, 232.0, 233.0]
        assert [line.load_pct for line in status.outputs] == [10.0, 20.0, 30.0]
        assert {line.frequency_hz for line in status.outputs} == {50.0} and status.bypass == ()
        assert status.test is not None and status.test.result is TestResult.PASSED
        assert (status.beeper_on, status.rating.low_battery_s, status.ident.model) == (True, 120.0, "Three 9")
    assert status.taken_s <= unit.now_s


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("rows", "source", "charge", "runtime_s", "low", "flag"),
    [
        (POWERNET, Source.MAINS, 90.5, 1800.0, False, Condition.BATTERY_BAD),
        (EATON, Source.BATTERY, 88.0, 1800.0, True, Condition.LOW_BATTERY),
        (CYBER, Source.BATTERY, 12.0, 1800.0, True, Condition.LOW_BATTERY),
    ],
)
def test_the_makers_tables(
    rows: dict[str, Any], source: Source, charge: float, runtime_s: float, low: bool, flag: Condition, version: int
) -> None:
    unit = SnmpUnit(rows, version)
    status = driver(unit).poll()
    assert (status.source, status.battery.charge_pct, status.battery.runtime_s) == (source, charge, runtime_s)
    assert status.battery.low is low and status.flags == {flag}
    assert len(status.inputs) == len(status.outputs) == 1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("rows", [RFC, POWERNET, EATON, CYBER])
def test_a_status_is_of_its_own_poll_also_where_the_agent_ends_before_the_table(
    rows: dict[str, Any], version: int
) -> None:
    unit = SnmpUnit(rows, version)
    it = driver(unit)
    for _ in range(4):
        begin_s = unit.now_s
        assert begin_s <= it.poll().taken_s <= unit.now_s
        unit.now_s += snmp.LOOK_AGAIN_S / 2


@pytest.mark.parametrize(("count", "lines"), [(0, 0), (1, 1), (2, 2), (3, 3), (65535, 3)])
def test_there_are_as_many_lines_as_the_agent_counts_or_has(count: int, lines: int) -> None:
    status = driver(SnmpUnit({**RFC, f"{UPS}.3.2.0": count, f"{UPS}.4.3.0": count})).poll()
    assert [line.voltage_v for line in status.inputs] == [231.0, 232.0, 233.0][:lines]
    assert [line.load_pct for line in status.outputs] == [10.0, 20.0, 30.0][:lines]


def test_a_load_of_the_whole_is_no_phases_own() -> None:
    three = {f"{XUPS}.4.3.0": 3, **{f"{XUPS}.4.4.1.2.{n}": 230 for n in (1, 2, 3)}}
    own = {f"{UPS}.4.4.1.5.{n}": 10 * n for n in (1, 2, 3)}
    for more, loads in ((three, [40.0] * 3), (three | own, [10.0, 20.0, 30.0])):
        assert [line.load_pct for line in driver(SnmpUnit({**EATON, **more})).poll().outputs] == loads


def test_the_finer_value_counts_and_a_negative_one_is_none() -> None:
    status = driver(SnmpUnit(POWERNET)).poll()
    assert status.inputs[0].voltage_v == 230.9 and status.outputs[0].load_pct == 31.0
    assert status.ident.manufacturer == "APC"


def test_the_name_that_the_agent_gives_itself_chooses_and_can_be_overruled() -> None:
    both = {**RFC, **EATON, ID: RFC[ID]}
    assert driver(SnmpUnit(both)).poll().source is Source.MAINS
    assert driver(SnmpUnit(both), "xups").poll().source is Source.BATTERY
    assert driver(SnmpUnit({**both, ID: (1, 3, 6, 1, 4, 1, 9)})).poll().source is Source.BATTERY
    with pytest.raises(LinkError, match="no object of a UPS"):
        driver(SnmpUnit(RFC), "powernet").poll()


@pytest.mark.parametrize(
    "more",
    [
        {f"{UPS}.6.1.0": 1, f"{UPS}.6.2.1.2.7": (1, 3, 6, 1, 2, 1, 33, 1, 6, 3, 20)},
        {f"{APC}.8.1.0": 2, ID: (1, 3, 6, 1, 4, 1, 318), f"{APC}.4.1.1.0": 2},
    ],
)
def test_an_agent_that_has_lost_its_ups_is_a_lost_link_and_never_on_line(more: dict[str, Any]) -> None:
    unit = SnmpUnit({**RFC, **more})
    it = driver(unit)
    with pytest.raises(LinkError, match="lost its UPS"):
        it.poll()
    unit.rows = SnmpUnit(RFC).rows  # it has found it again
    if f"{UPS}.6.1.0" in more:
        assert it.poll().source is Source.MAINS


def test_alarms_are_flags_and_the_source_is_judged_here() -> None:
    root = (1, 3, 6, 1, 2, 1, 33, 1, 6, 3)
    alarms = {f"{UPS}.6.2.1.2.{row}": (*root, n) for row, n in ((3, 2), (4, 8), (9, 16))}
    status = driver(SnmpUnit({**RFC, f"{UPS}.6.1.0": 3, **alarms})).poll()
    assert status.flags == {Condition.OVERLOAD, Condition.FAN_FAILURE}


def test_rows_that_go_and_come_are_followed() -> None:
    unit = SnmpUnit(RFC, version=1)
    it = driver(unit)
    it.poll()
    source = unit.rows.pop(tuple(map(int, f"{UPS}.4.1.0".split("."))))
    with pytest.raises(LinkError, match="where the power comes from"):
        it.poll()
    unit.rows[tuple(map(int, f"{UPS}.4.1.0".split(".")))] = source
    assert it.poll().source is Source.MAINS


def test_an_agent_with_little_room_is_asked_for_less() -> None:
    unit = SnmpUnit(RFC)
    unit.limit_bytes = 300
    it = driver(unit)
    assert it.poll().battery.charge_pct == it.poll().battery.charge_pct == 97.0


def test_orders_are_sets_in_one_request() -> None:
    unit = SnmpUnit(RFC)
    it = driver(unit)
    it.poll()
    assert it.order(Command.SHUTDOWN_RETURN, delay_s=60.2, return_delay_s=180) is None
    assert unit.orders[-1] == {
        f"{UPS}.8.1.0": ber.integer(1), f"{UPS}.8.5.0": ber.integer(1), f"{UPS}.8.2.0": ber.integer(61)
    }  # fmt: skip
    it.order(Command.TEST_QUICK)
    assert unit.orders[-1] == {
        f"{UPS}.7.2.0": ber.integer(5), f"{UPS}.7.1.0": ber.oid((1, 3, 6, 1, 2, 1, 33, 1, 7, 7, 4))
    }  # fmt: skip
    it.order(Command.SHUTDOWN_STOP)
    assert unit.orders[-1] == {f"{UPS}.8.2.0": ber.integer(-1)}
    unit.refuses = 6
    with pytest.raises(OrderError, match="no access.*may write"):
        it.order(Command.BEEPER_OFF)
    with pytest.raises(OrderError, match="cannot do"):
        it.order(Command.LOAD_OFF)


def test_a_timer_that_does_not_count_after_it_was_set_is_said_after_three_looks() -> None:
    unit = SnmpUnit(RFC)
    it = driver(unit)
    it.poll()
    timer, asked = whole_oid(f"{UPS}.8.2.0"), len(unit.sent)
    unit.rows = Forgets(unit.rows, timer)
    assert it.order(Command.SHUTDOWN_STAY_OFF, delay_s=60) == "the UPS shows no countdown"
    assert unit.sent[asked + 1 :] == [snmp.request(ber.GET, [timer])] * 3


def test_an_agent_that_says_nothing_after_it_took_an_order_has_taken_it() -> None:
    unit = SnmpUnit(RFC)
    it = driver(unit)
    it.poll()
    said = unit.ask

    def silent_afterwards(command: bytes, **more: Any) -> Any:
        unit.silent = bool(unit.orders)
        return said(command, **more)

    unit.ask = silent_afterwards  # type: ignore[method-assign]
    word = it.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    assert word == "it was not seen whether it counts down: no answer in time" and len(unit.orders) == 1


class Forgets(dict[ber.Oid, bytes]):
    """Rows of which one takes what is set, and does nothing with it."""

    def __init__(self, rows: dict[ber.Oid, bytes], name: ber.Oid) -> None:
        super().__init__(rows)
        self._name = name

    def update(self, *rows: Any, **more: Any) -> None:
        super().update([(name, value) for name, value in dict(*rows, **more).items() if name != self._name])


def test_every_order_of_every_table_has_its_object_and_a_value() -> None:
    for table in snmptables.TABLES:
        objects = {row.oid for row in table.rows}
        assert table.probe in objects
        for steps in table.orders.values():
            for part in " ".join(steps).split():
                oid, _, value = part.partition("=")
                assert value.startswith(".") or oid in objects, (table.name, oid)
                assert value in ("delay", "lock") or value.lstrip("-.").replace(".", "").isdigit()


@given(st.binary(max_size=200))
def test_no_answer_breaks_the_driver(answer: bytes) -> None:
    unit = SnmpUnit(RFC)
    it = driver(unit)
    it.poll()
    unit._answer = lambda *_: answer  # type: ignore[method-assign]
    try:
        it.poll()
    except LinkError:
        pass


# --- the link


@contextmanager
def agent(answer: Callable[[bytes], list[bytes]]) -> Iterator[int]:
    """Something on a UDP port of loopback that answers each datagram with these."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(5.0)

    def run() -> None:
        while True:
            try:
                data, sender = sock.recvfrom(2048)
            except OSError:
                return
            if not data:
                return
            for said in answer(data):
                sock.sendto(said, sender)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        sock.sendto(b"", sock.getsockname())
        thread.join(5.0)
        sock.close()


def opened(port: int, **more: Any) -> Link:
    section = {"host": "127.0.0.1", "udp_port": port, "secret": "ups", "password": "hidden", **more}
    return snmplink.open(section, time.monotonic)


def answered(data: bytes, community: bytes = b"hidden", plus: int = 0, tag: int = ber.RESPONSE) -> bytes:
    header = ber.read_header(data)
    pdu = ber.read_pdu(data, header.pdu_at)
    number = ber.integer(ber.number(pdu.request_id, 0, len(pdu.request_id))[0] + plus)
    prefix = ber.integer(header.version) + ber.tlv(ber.OCTET_STRING, community)
    return ber.message(prefix, tag, number, 0, 0, pdu.bindings)


ASKED = snmp.request(ber.GET, [(1, 3, 6, 1, 2, 1, 1, 2, 0)])


def test_only_the_answer_to_this_request_is_taken() -> None:
    def answer(data: bytes) -> list[bytes]:
        return [
            b"", b"\x30\x80nonsense", answered(data, plus=1), answered(data, community=b"other"),
            answered(data, tag=ber.GET), answered(data) + b"\0", answered(data), answered(data, plus=-1),
        ]  # fmt: skip

    with agent(answer) as port:
        link = opened(port)
        for _ in range(2):
            assert link.ask(ASKED, within_s=2.0).data.startswith(ber.integer(0) + ber.integer(0))
        link.close()


def test_a_question_is_asked_again_and_an_order_is_not() -> None:
    heard: list[bytes] = []

    def answer(data: bytes) -> list[bytes]:
        heard.append(data)
        return [answered(data)] if len(heard) == 2 else []

    with agent(answer) as port:
        link = opened(port)
        link.ask(ASKED, within_s=2.0)
        assert heard[0] == heard[1] and len(heard) == 2
        with pytest.raises(LinkError, match="no answer in time"):
            link.ask(bytes((ber.SET,)) + ASKED[1:], within_s=0.8)
        assert len(heard) == 3
        link.close()


def test_a_flood_of_others_answers_ends_with_the_time_and_hides_no_right_one() -> None:
    right: list[bytes] = []

    def answer(data: bytes) -> list[bytes]:
        return [answered(data, plus=1)] * 80 + [answered(data) for _ in right]

    with agent(answer) as port:
        link = opened(port)
        with pytest.raises(LinkError, match="in time"):
            link.ask(ASKED, within_s=0.5)
        right.append(b"")
        assert link.ask(ASKED, within_s=2.0).data
        link.close()


class Slow:
    """A socket whose agent answers one request after the other, each `pace_s` after the last; time is a number."""

    def __init__(self, pace_s: float) -> None:
        self.now_s, self.pace_s, self.wait_s, self.requests = 0.0, pace_s, 0.0, 0
        self.due: list[tuple[float, bytes]] = []

    def settimeout(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def send(self, data: bytes) -> None:
        self.requests += 1
        begins_s = max([self.now_s, *(at_s for at_s, _ in self.due[-1:])])
        self.due.append((begins_s + self.pace_s, answered(data)))

    def recv(self, _: int) -> bytes:
        if not self.due or self.due[0][0] > self.now_s + self.wait_s:
            self.now_s += self.wait_s
            raise TimeoutError
        self.now_s = max(self.now_s, self.due[0][0])
        return self.due.pop(0)[1]


@pytest.mark.parametrize("pace_s", [0.3, 0.7, 1.0])
def test_repetitions_do_not_pile_up_at_an_agent_that_takes_its_time(pace_s: float) -> None:
    sock = Slow(pace_s)
    prefix = ber.integer(ber.V2C) + ber.tlv(ber.OCTET_STRING, b"hidden")
    link = snmplink.SnmpLink(sock, lambda: sock.now_s, prefix, "slow")  # type: ignore[arg-type]
    took_s = []
    for _ in range(12):
        began_s = sock.now_s
        link.ask(ASKED, within_s=2.5)
        took_s.append(sock.now_s - began_s)
    assert sock.requests <= 15 and took_s[-5:] == pytest.approx([pace_s] * 5)


@pytest.mark.parametrize("version", [1, 2])
def test_many_alarms_are_read_over_some_polls_and_then_at_once(version: int) -> None:
    root = (1, 3, 6, 1, 2, 1, 33, 1, 6, 3)
    rows = {f"{UPS}.6.2.1.2.{n}": (*root, 2 if n < 30 else 3) for n in range(1, 31)}
    unit = SnmpUnit({**RFC, f"{UPS}.4.1.0": 5, f"{UPS}.6.1.0": 30, **rows}, version)
    it, fast = driver(unit), unit.ask

    def slow(*args: Any, **more: Any) -> Any:
        unit.now_s += 0.3
        return fast(*args, **more)

    unit.ask = slow  # type: ignore[method-assign]
    lost = 0
    for _ in range(10):
        try:
            status = it.poll()
            break
        except LinkError as e:
            assert "alarms are read so far" in str(e)
            lost += 1
    assert status.source is Source.BATTERY and status.battery.low is True and lost <= 4
    for number in (29, 17, 1):  # now at once, also what comes in between and at the end
        del unit.rows[(*whole_oid(f"{UPS}.6.2.1.2"), number)]
    unit.rows[(*whole_oid(f"{UPS}.6.2.1.2"), 17, 1)] = ber.oid((*root, 8))
    unit.rows[(*whole_oid(f"{UPS}.6.2.1.2"), 31)] = ber.oid((*root, 16))
    status = it.poll()
    assert status.flags == {Condition.LOW_BATTERY, Condition.OVERLOAD, Condition.FAN_FAILURE}
    unit.rows[whole_oid(f"{UPS}.6.1.0")] = ber.integer(0)
    assert it.poll().flags == frozenset()


@pytest.mark.parametrize(
    ("rows", "state", "low", "flags"),
    [
        (RFC, 3, True, {Condition.LOW_BATTERY}),
        (RFC, 4, True, {Condition.LOW_BATTERY, Condition.BATTERY_DEPLETED}),
        ({**POWERNET, f"{APC}.2.2.4.0": 1}, 3, True, {Condition.LOW_BATTERY}),
        ({**POWERNET, f"{APC}.2.2.4.0": 1}, 4, None, {Condition.BATTERY_BAD}),  # batteryInFaultCondition
        ({**POWERNET, f"{APC}.2.2.4.0": 1}, 5, None, {Condition.BATTERY_BAD}),  # noBatteryPresent
        (CYBER, 3, True, {Condition.LOW_BATTERY}),
        (CYBER, 4, None, set()),
    ],
)
def test_what_is_a_low_battery_is_each_tables_own(
    rows: dict[str, Any], state: int, low: bool | None, flags: set[Condition]
) -> None:
    unit = SnmpUnit(rows)
    name = {RFC[ID]: f"{UPS}.2.1.0", POWERNET[ID]: f"{APC}.2.1.1.0", CYBER[ID]: f"{CPS}.2.1.1.0"}[rows[ID]]
    unit.rows[whole_oid(name)] = ber.integer(state)
    status = driver(unit).poll()
    assert (status.battery.low, status.flags) == (low, flags)


@pytest.mark.parametrize(
    ("rows", "name", "battery", "mains", "neither"),
    [
        (
            POWERNET,
            f"{APC}.4.1.1.0",
            {3, 15},
            {2, 4, 6, 9, 10, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 24, 25, 28},
            {26},
        ),
        (EATON, f"{XUPS}.4.5.0", {5}, {3, 4, 6, 7, 8, 9, 10, 11, 12}, {1, 2}),
        (CYBER, f"{CPS}.4.1.1.0", {3}, {2, 4, 8, 9, 10, 11}, {1, 5, 6, 7}),
    ],
)
def test_every_state_of_the_output_ends_an_outage_or_does_not(
    rows: dict[str, Any], name: str, battery: set[int], mains: set[int], neither: set[int]
) -> None:
    for state in battery | mains | neither:
        unit = SnmpUnit(rows)
        unit.rows[whole_oid(name)] = ber.integer(state)
        source = driver(unit).poll().source
        on_line = source in (Source.MAINS, Source.BYPASS, Source.BOOST, Source.BUCK)
        assert (source is Source.BATTERY, on_line) == (state in battery, state in mains), (state, source)


def test_what_is_wrong_is_said_and_the_community_is_not() -> None:
    with pytest.raises(LinkError, match="no IP address"):
        opened(1, host="localhost")
    with pytest.raises(LinkError, match="ridethrough secret set ups"):
        opened(1, password=None)
    with pytest.raises(LinkError) as told:
        opened(9).ask(ASKED, within_s=0.3)
    assert "hidden" not in str(told.value)


# --- version 3: the child


class Said:
    """A child that says this."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    def ask(self, request: dict[str, Any], within_s: float) -> dict[str, Any]:
        return self._said


@pytest.mark.parametrize(
    "said",
    [
        {"error": 0, "index": 0, "bindings": [["1", "0500"]]},
        {"error": float("inf"), "index": 0, "bindings": []},
        {"error": 0, "index": 0, "bindings": None},
        {"error": 0, "index": 0, "bindings": [["1.3.x", "0500"]]},
    ],
)
def test_nonsense_of_the_child_is_a_lost_link(said: dict[str, Any]) -> None:
    link = snmp3link.Snmp3Link(Said(said), lambda: 0.0, "unit")  # type: ignore[arg-type]
    with pytest.raises(LinkError, match="the program for version 3 said"):
        link.ask(ASKED)


V3 = {"version": "3", "user": "ops", "password": "sign-it-well crypt-it-well"}
LOOP = "import sys, json\nfor line in sys.stdin:\n    "


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of the program that is run as the child."""
    path = tmp_path / "child.py"
    monkeypatch.setattr(snmp3link, "CHILD", path)
    yield path
    for one in snmp3link._children.values():
        one.end()
    snmp3link._children.clear()


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("", "it ended.*started again"),
        ("print('nonsense')", "started again"),
        ("print('[]')", "no object"),
        ('print(\'{"missing": "No module"}\')', "pysnmp-lextudio: No module"),
        (f"{LOOP}pass", "still starting"),
    ],
)
def test_a_child_that_fails_is_a_lost_link_and_waits_before_it_is_started_again(
    child: Path, program: str, told: str
) -> None:
    child.write_text(program)
    link = opened(161, **V3)
    with pytest.raises(LinkError, match=told):
        link.ask(ASKED, within_s=0.2 if "starting" in told else 4.0)  # a busy machine is slow at starting it
    with pytest.raises(LinkError, match=told if "starting" in told else "started again soon"):
        link.ask(ASKED, within_s=0.1)
    link.close()


def test_what_the_child_says_is_the_answer_and_an_old_one_is_not(child: Path) -> None:
    child.write_text(
        "import sys, json\nprint('{\"ready\": true}', flush=True)\nsys.stdin.readline()\n"
        "for line in sys.stdin:\n    r = json.loads(line)\n"
        "    for n in (r['id'] - 1, r['id']):\n"
        "        print(json.dumps({'id': n, 'error': n, 'index': 0, 'bindings': r['bindings']}), flush=True)\n"
    )
    link = opened(161, **V3)
    for n in (1, 2):
        data = link.ask(ASKED, within_s=2.0).data
        assert data.startswith(ber.integer(n) + ber.integer(0)) and ASKED[2:] in data
    assert opened(161, **V3)._child is link._child  # type: ignore[attr-defined]


def test_the_child_serves_the_last_request_alone_because_nobody_waits_for_those_before() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        first = {
            "host": "127.0.0.1",
            "port": nobody.getsockname()[1],
            "user": "u",
            "auth": "sha256",
            "priv": "aes128",
        }
        with subprocess.Popen(
            [sys.executable, "-I", "-W", "ignore", str(snmp3link.CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None and process.stdout is not None

            def tell(*lines: dict[str, Any]) -> None:
                assert process.stdin is not None
                process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
                process.stdin.flush()

            tell(first | {"auth_key": "a long passphrase", "priv_key": "another passphrase"})
            assert json.loads(process.stdout.readline()) == {"ready": True}
            order = {"tag": ber.SET, "bindings": [["1.3.6.1.2.1.33.1.8.2.0", "02013c"]], "within_s": 0.4}
            tell(*({"id": n, **order} for n in (1, 2, 3)))
            assert json.loads(process.stdout.readline())["id"] == 3
            tell({"id": 4, **order})
            assert json.loads(process.stdout.readline())["id"] == 4
            process.stdin.close()
            assert process.wait(5.0) == 0


def test_the_child_is_heard_also_while_an_outage_has_a_thousand_sockets_open(child: Path, many_files: None) -> None:
    child.write_text(
        "import sys, json\nprint('{\"ready\": true}', flush=True)\nsys.stdin.readline()\n"
        "for line in sys.stdin:\n    r = json.loads(line)\n"
        "    print(json.dumps({'id': r['id'], 'error': 0, 'index': 0, 'bindings': r['bindings']}), flush=True)\n"
    )
    assert ASKED[2:] in opened(161, **V3).ask(ASKED, within_s=4.0).data


def test_a_late_answer_ends_no_child_and_one_that_hangs_is_started_again(
    child: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child.write_text(
        "import sys, json, time\nprint('{\"ready\": true}', flush=True)\nsys.stdin.readline()\n"
        "for line in sys.stdin:\n    r = json.loads(line)\n    time.sleep(0.15 if r['id'] == 1 else 0)\n"
        "    said = {'id': r['id'], 'error': r['id'], 'index': 0, 'bindings': r['bindings']}\n"
        "    print(json.dumps(said), flush=True)\n"
    )
    monkeypatch.setattr(snmp3link, "OVER_S", 0.0)
    link = opened(161, **V3)
    with pytest.raises(LinkError, match="still starting|no answer in time"):
        link.ask(ASKED, within_s=0.1)
    until_s = time.monotonic() + 5.0
    while time.monotonic() < until_s:
        try:
            data = link.ask(ASKED, within_s=0.1).data
            break
        except LinkError:
            continue
    one = link._child  # type: ignore[attr-defined]
    assert not data.startswith(ber.integer(1)) and one.process.poll() is None
    monkeypatch.setattr(snmp3link, "HUNG_S", 0.0)
    os.kill(one.process.pid, signal.SIGSTOP)
    with pytest.raises(LinkError, match="failed.*started again"):
        link.ask(ASKED, within_s=0.1)
    assert one.process is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Wrong SNMP PDU digest", "first passphrase of .* and auth"),
        ("Ciphering services not available or ciphertext is broken", "second passphrase of .* and priv"),
        ("there, but no answer", "is there and does not answer what is encrypted.* second passphrase"),
        ("Unknown USM user", r"does not know \[ups\] user"),
        ("no answer in time", "no answer in time"),
    ],
)
def test_what_is_wrong_with_a_user_of_version_3_is_said_with_its_remedy(child: Path, said: str, told: str) -> None:
    child.write_text(
        "import sys, json\nprint('{\"ready\": true}', flush=True)\nsys.stdin.readline()\n"
        "for line in sys.stdin:\n"
        f"    print(json.dumps({{'id': json.loads(line)['id'], 'failed': {said!r}}}), flush=True)\n"
    )
    with pytest.raises(LinkError, match=told):
        opened(161, **V3).ask(ASKED, within_s=2.0)


def test_a_section_of_version_3_that_is_not_whole_is_said() -> None:
    with pytest.raises(LinkError, match="name of the agent's user"):
        opened(161, **{**V3, "user": ""})
    with pytest.raises(LinkError, match="two passphrases"):
        opened(161, **{**V3, "password": "only-one-of-them"})
