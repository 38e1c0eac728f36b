"""The APC Modbus driver: the codec, both wires, what the registers mean, and orders that are read back."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import modbus
from agent.drivers import apcmodbus
from agent.model import Command, Condition, LinkError, OrderError, Reply, Source, Status, TestResult
from tests.simulators.modbusunit import RegistersLink, Wire, checksum


def connected() -> tuple[apcmodbus.ApcModbus, RegistersLink]:
    line = RegistersLink()
    driver = apcmodbus.connect({}, line, lambda: line.now_s)
    assert isinstance(driver, apcmodbus.ApcModbus)
    return driver, line


def test_the_crc_is_that_of_the_standard() -> None:
    assert modbus.crc(b"123456789") == 0x4B37  # the check value of CRC-16/MODBUS
    assert checksum(b"123456789") == b"\x37\x4b"
    assert modbus.rtu(1, modbus.read_request(0x0204, 0x78))[:6] == bytes.fromhex("010302040078")


@given(st.binary(max_size=300), st.integers(1, 120))
def test_any_bytes_are_an_answer_or_a_link_error(data: bytes, count: int) -> None:
    for parse in (
        lambda: modbus.parse_read(data, count),
        lambda: modbus.check_written(data, 1538, 2),
        lambda: modbus.from_rtu(1, data),
        lambda: modbus.rtu_size(data),
    ):
        try:
            parse()
        except LinkError:
            pass


@given(st.lists(st.integers(0, 0xFFFF), min_size=27 + 44 + 120 + 5, max_size=27 + 44 + 120 + 5))
def test_any_registers_are_a_status_or_a_link_error(n: list[int]) -> None:
    try:
        got = apcmodbus.look(tuple(n[:27]), tuple(n[27:71]), tuple(n[71:191]), tuple(n[191:]), 1.0)
    except LinkError:
        return
    assert isinstance(got, Status)


@pytest.mark.parametrize("kind", ["rtu", "tcp"])
def test_a_unit_is_read_over_its_wire_and_an_outage_is_seen(kind: str) -> None:
    with Wire(kind) as it:
        link = modbus.open(it.section, time.monotonic)
        driver = apcmodbus.connect({}, link, time.monotonic)
        status = driver.poll()
        assert (status.source, status.battery.charge_pct, status.battery.runtime_s) == (Source.MAINS, 100.0, 3600.0)
        assert (status.battery.voltage_v, status.battery.temperature_c) == (27.5, 25.0)
        assert status.inputs[0].voltage_v == 231.0
        out = status.outputs[0]
        assert (out.voltage_v, out.frequency_hz, out.current_a, out.load_pct) == (230.0, 50.0, 2.0, 30.0)
        assert (out.power_w, out.apparent_va) == (810.0, 960.0)
        assert (status.ident.model, status.ident.serial) == ("Smart-UPS SRT 3000", "AS1404224998")
        assert (status.rating.low_transfer_v, status.rating.high_transfer_v) == (207.0, 253.0)
        assert status.test is not None and status.test.result is TestResult.PASSED
        it.unit.mains(False)
        it.unit.put(18, 1 << 1)
        status = driver.poll()
        assert status.source is Source.BATTERY and Condition.LOW_BATTERY in status.flags
        driver.order(Command.TEST_QUICK)
        assert it.unit.written == [(1541, (0x0201,))]
        driver.close()


@pytest.mark.parametrize("kind", ["rtu", "tcp"])
def test_after_a_wrong_answer_the_link_is_dead_until_it_is_opened_again(kind: str) -> None:
    with Wire(kind, damage=lambda frame: bytes((frame[0] ^ 0x20,)) + frame[1:]) as it:
        link = modbus.open(it.section, time.monotonic)
        for _ in range(2):
            with pytest.raises(LinkError):
                link.ask(modbus.read_request(0, 27), within_s=0.2)
        it.damage = lambda frame: frame
        with pytest.raises(LinkError):
            link.ask(modbus.read_request(0, 27))
        link.close()


@pytest.mark.parametrize("kind", ["rtu", "tcp"])
def test_an_answer_that_comes_late_is_not_taken_for_the_next(kind: str) -> None:
    kept: list[bytes] = []

    def late(frame: bytes) -> bytes:
        kept.append(frame)
        return kept[-2] if len(kept) > 1 else b""

    va, watts = modbus.read_request(588, 1), modbus.read_request(589, 1)
    with Wire(kind, damage=late) as it:
        link = modbus.open(it.section, time.monotonic)
        with pytest.raises(LinkError):
            link.ask(va, within_s=0.2)
        with pytest.raises(LinkError):
            link.ask(watts)  # the unit's next word would be that of 588
        link.close()
        it.damage = lambda frame: frame
        link = modbus.open(it.section, time.monotonic)
        assert modbus.parse_read(link.ask(watts).data, 1) == (2700,)
        link.close()


@pytest.mark.parametrize("kind", ["rtu", "tcp"])
def test_a_refusal_is_an_answer_and_the_link_goes_on(kind: str) -> None:
    with Wire(kind) as it:
        link = modbus.open(it.section, time.monotonic)
        with pytest.raises(modbus.Refused, match="illegal address"):
            modbus.parse_read(link.ask(modbus.read_request(9000, 1)).data, 1)
        assert modbus.parse_read(link.ask(modbus.read_request(589, 1)).data, 1) == (2700,)
        link.close()


#: bits of the outlets' register: 0 cancel, 1 on, 2 off, 3 shutdown, 6 on delay, 7 off delay, 8 main, 13 local user
@pytest.mark.parametrize(
    ("command", "args", "requests"),
    [
        (Command.LOAD_ON, {}, ["10 0602 0002 04 0000 2102"]),
        (Command.LOAD_OFF, {}, ["10 0602 0002 04 0000 2104"]),
        (Command.SHUTDOWN_STOP, {}, ["10 0602 0002 04 0000 2101", "03 009b 0001"]),
        (
            Command.SHUTDOWN_STAY_OFF,
            {"delay_s": 60},
            ["10 0405 0001 02 003c", "03 0405 0001", "10 0602 0002 04 0000 2184", "03 009b 0001"],
        ),
        (
            Command.SHUTDOWN_RETURN,
            {"delay_s": 60, "return_delay_s": 180},
            [
                *("10 0405 0001 02 003c", "03 0405 0001", "10 0406 0001 02 00b4", "03 0406 0001"),
                *("10 0602 0002 04 0000 21c8", "03 009b 0001"),
            ],
        ),
        (Command.TEST_QUICK, {}, ["10 0605 0001 02 0201"]),
        (Command.TEST_DEEP, {}, ["10 0606 0001 02 0201"]),
        (Command.TEST_STOP, {}, ["10 0605 0001 02 0202", "10 0606 0001 02 0202"]),
    ],
)
def test_an_order_is_these_bytes(command: Command, args: dict[str, float], requests: list[str]) -> None:
    driver, line = connected()
    driver.order(command, **args)
    assert line.sent == [bytes.fromhex(request) for request in requests]


def test_a_firmware_of_all_its_registers_is_whole_and_a_longer_one_is_cut_by_the_unit() -> None:
    driver, line = connected()
    assert driver.poll().ident.firmware == "UPS 15.0 / ID=18"
    line.unit.put(524, *struct.unpack(">2H", b"ABCD"))  # not the firmware's any more
    assert driver.poll().ident.firmware == "UPS 15.0 / ID=18"


def test_a_shutdown_writes_its_delays_reads_them_back_and_orders_last() -> None:
    driver, line = connected()
    driver.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=180)
    assert line.unit.written == [(1029, (60,)), (1030, (180,)), (1538, (0, 0x21C8))]


SHUTDOWNS = (
    (Command.SHUTDOWN_RETURN, {"delay_s": 60, "return_delay_s": 180}),
    (Command.SHUTDOWN_STAY_OFF, {"delay_s": 60}),
)


def test_a_countdown_is_looked_at_up_to_three_times_and_what_is_not_seen_is_said() -> None:
    driver, line = connected()
    for command, args in SHUTDOWNS:
        assert driver.order(command, **args) is None and line.unit.there[155] == 60
        assert driver.order(Command.SHUTDOWN_STOP) is None and line.unit.there[155] == 0xFFFF
    line.unit.frozen.add(155)
    for command, args in SHUTDOWNS:
        line.sent.clear()
        assert driver.order(command, **args) == "the UPS shows no countdown"
        assert line.sent.count(bytes.fromhex("03 009b 0001")) == 3
        assert driver.order(Command.SHUTDOWN_STOP) is None
    line.unit.there[155] = 40
    assert driver.order(Command.SHUTDOWN_STOP) == "the UPS still shows a countdown"


def test_what_cannot_be_seen_of_a_countdown_refuses_no_order() -> None:
    driver, line = connected()
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=0) is None  # it is off
    del line.unit.there[155]  # it does not have it
    for command, args in SHUTDOWNS:
        assert driver.order(command, **args) is None
    driver, line = connected()
    ask = line.ask

    def dies(command: bytes, **how: Any) -> Reply:
        line.silent = command[:3] == bytes.fromhex("03 009b")
        return ask(command, **how)

    line.ask = dies  # type: ignore[method-assign]
    began_s = line.now_s
    said = driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    assert said is not None and "not seen whether it counts down" in said
    assert line.unit.written[-1][0] == 1538 and line.now_s - began_s <= 10.0


def test_a_delay_that_does_not_read_back_switches_nothing() -> None:
    driver, line = connected()
    line.unit.frozen.add(1029)
    with pytest.raises(OrderError, match="nothing was switched"):
        driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    assert [start for start, _ in line.unit.written] == [1029]


def test_a_block_that_the_unit_refuses_costs_no_poll() -> None:
    driver, line = connected()
    for n in range(516, 636):
        del line.unit.there[n]
    assert driver.poll().ident.model is None


@pytest.mark.parametrize("block", [apcmodbus.INVENTORY, apcmodbus.LIMITS])
def test_a_unit_that_says_nothing_of_who_it_is_is_read_without(
    block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As agent/ups.py does: after a failed poll the link is dead and the unit is connected anew."""
    monkeypatch.setattr(modbus, "_unanswered", {})
    now_s, asked, failed = 1000.0, 0, 0
    deaf = modbus.read_request(*block)

    def connect() -> apcmodbus.ApcModbus:
        line = RegistersLink()
        ask = line.ask

        def hear(command: bytes, **how: Any) -> Reply:
            nonlocal now_s, asked
            asked += command == deaf
            line.now_s, line.silent = now_s, command == deaf and now_s < 9000.0
            try:
                return ask(command, **how)
            finally:
                now_s = line.now_s

        line.ask = hear  # type: ignore[method-assign]
        driver = apcmodbus.connect({"port": "/dev/x"}, line, lambda: now_s)
        assert isinstance(driver, apcmodbus.ApcModbus)
        return driver

    driver = connect()
    while now_s < 8000.0:
        try:
            assert driver.poll().battery.charge_pct == 100.0
        except LinkError:
            failed += 1
            driver = connect()
        now_s += 1.0
    assert asked == failed and 2 < failed < 8  # twice, then after 5 minutes, 10, 20, ...
    now_s = 20000.0
    status = driver.poll()
    assert (status.ident.model, status.rating.high_transfer_v) == ("Smart-UPS SRT 3000", 253.0)


@pytest.mark.parametrize("code", [4, 5, 6, 10, 11])
def test_a_unit_that_is_busy_is_asked_again_at_once_and_what_it_said_stays(code: int) -> None:
    driver, line = connected()
    assert driver.poll().ident.model == "Smart-UPS SRT 3000"
    hear, busy = line.unit.hear, bytes((0x83, code))
    line.unit.hear = lambda pdu: hear(pdu) if pdu[1:3] == b"\0\0" else busy  # type: ignore[method-assign]
    line.now_s += apcmodbus.AGAIN_S
    status = driver.poll()
    assert status.ident.model == "Smart-UPS SRT 3000" and status.battery.charge_pct is None
    line.unit.hear = hear  # type: ignore[method-assign]
    line.unit.put(532, *struct.unpack(">16H", b"Another".ljust(32)))
    status = driver.poll()
    assert status.ident.model == "Another" and status.battery.charge_pct == 100.0


@pytest.mark.parametrize("late", [0, 1, 3])
def test_an_order_that_the_unit_acknowledges_and_takes_its_time_with_is_read_back(late: int) -> None:
    """Exception 5: accepted, it takes its time. Not a refusal."""
    driver, line = connected()
    hear, waiting = line.unit.hear, list[list[Any]]()

    def slow(pdu: bytes) -> bytes:
        for one in waiting[:]:
            one[0] -= 1
            if one[0] < 0:
                hear(one[1])
                waiting.remove(one)
        if pdu[0] == 3:
            return hear(pdu)
        waiting.append([late, pdu])
        return bytes((0x90, 5))

    line.unit.hear = slow  # type: ignore[method-assign]
    if late == 3:
        with pytest.raises(OrderError, match="nothing was switched"):
            driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
        return
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60) is None
    assert line.unit.written == [(1029, (60,)), (1538, (0, 0x2184))]
    line.unit.hear = lambda pdu: bytes((pdu[0] | 0x80, 6))  # type: ignore[method-assign]
    with pytest.raises(OrderError, match="busy"):
        driver.order(Command.LOAD_OFF)


def test_a_unit_that_refuses_its_measurements_is_read_for_its_status() -> None:
    driver, line = connected()
    for n in range(128, 172):
        del line.unit.there[n]
    for mains, source in ((True, Source.MAINS), (False, Source.BATTERY)):
        line.unit.mains(mains)
        status = driver.poll()
        assert status.source is source
        assert status.battery.charge_pct is status.battery.runtime_s is status.outputs[0].load_pct is None
    assert sum(request == modbus.read_request(*apcmodbus.DYNAMIC) for request in line.sent) == 1


def test_either_test_is_aborted_though_the_other_is_refused() -> None:
    for refused in (1541, 1542):
        driver, line = connected()
        del line.unit.there[refused]
        driver.order(Command.TEST_STOP)
        assert [start for start, _ in line.unit.written] == [1541 + 1542 - refused]
    driver, line = connected()
    del line.unit.there[1541], line.unit.there[1542]
    with pytest.raises(OrderError, match="test-stop"):
        driver.order(Command.TEST_STOP)


def test_on_line_and_on_battery_together_is_unknown_and_neither_is_no_status() -> None:
    driver, line = connected()
    line.unit.put(0, 0, 0b110)
    assert driver.poll().source is Source.UNKNOWN
    line.unit.put(0, 0, 0)
    with pytest.raises(LinkError):
        driver.poll()


def test_outlet_groups_are_read_and_switched_and_a_shutdown_means_all_of_them() -> None:
    driver, line = connected()
    assert driver.poll().outlets == () and Command.OUTLET_OFF not in driver.commands
    line.unit.switched_groups(True, False)
    line.now_s += apcmodbus.AGAIN_S
    assert [(o.number, o.name, o.on) for o in driver.poll().outlets] == [(1, "Group 1", True), (2, "Group 2", False)]
    driver.order(Command.OUTLET_OFF, number=1)
    driver.order(Command.OUTLET_ON, number=2)
    assert line.unit.written == [(1538, (0, 0x2204)), (1538, (0, 0x2402))]
    with pytest.raises(OrderError, match="the outlets 1, 2, not 3"):
        driver.order(Command.OUTLET_OFF, number=3)
    line.unit.written.clear()
    driver.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=180)
    assert line.unit.written == [
        *((1029, (60,)), (1030, (180,)), (1034, (60,)), (1035, (180,)), (1039, (60,)), (1040, (180,))),
        (1538, (0, 0x27C8)),  # main and two switched groups
    ]


def test_groups_that_the_unit_does_not_tell_are_none_and_orders_mean_the_main_one() -> None:
    for unknown in (0, 0xFFFF):
        driver, line = connected()
        line.unit.put(590, unknown)
        assert driver.poll().outlets == ()
        driver.order(Command.LOAD_OFF)
        assert line.unit.written == [(1538, (0, 0x2104))]


def test_a_group_whose_delay_does_not_read_back_switches_none() -> None:
    driver, line = connected()
    line.unit.switched_groups(True)
    driver.poll()
    line.unit.frozen.add(1034)
    with pytest.raises(OrderError, match="nothing was switched"):
        driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    assert [start for start, _ in line.unit.written] == [1029, 1034]


def test_after_a_write_over_tcp_there_is_a_pause_in_which_nothing_may_come() -> None:
    with Wire("tcp") as it:
        link = modbus.open(it.section, time.monotonic)
        link.ask(modbus.write_request(1029, (60,)))
        began_s = time.monotonic()
        link.ask(modbus.read_request(1029, 1))
        assert time.monotonic() - began_s >= 0.09
        link.ask(modbus.read_request(1029, 1))
        it.damage = lambda frame: frame * 2
        link.ask(modbus.write_request(1029, (70,)))
        it.damage = lambda frame: frame
        with pytest.raises(LinkError, match="unasked"):
            link.ask(modbus.read_request(1029, 1))
        link.close()


def test_a_slow_network_card_is_read_and_a_poll_ends_in_time() -> None:
    driver, line = connected()
    ask, spent_s = line.ask, [1.5]

    def slow(command: bytes, **how: float) -> Reply:
        line.now_s += spent_s[0]
        assert how["within_s"] >= spent_s[0], "it would have been given up"
        return ask(command, **how)

    line.ask = slow  # type: ignore[method-assign, assignment]
    began_s = line.now_s
    assert driver.poll().source is Source.MAINS
    assert line.now_s - began_s < 4.5
    spent_s[0] = 0.1
    assert driver.poll().ident.model == "Smart-UPS SRT 3000"


def test_a_port_and_a_host_exclude_each_other_and_a_host_is_an_address() -> None:
    for section in ({"port": "/dev/x", "host": "127.0.0.1"}, {"host": "ups.example"}):
        with pytest.raises(LinkError):
            modbus.open(section, time.monotonic)
