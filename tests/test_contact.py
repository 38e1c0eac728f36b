"""The contact driver: cables, bouncing, what an unplugged cable looks like, switching off, and whole lives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.drivers import contact
from agent.drivers.contact import BREAK, CABLES, Cable, outputs, signal
from agent.lines import INPUTS, OUTPUTS, GpioLines
from agent.model import Command, Condition, LinkError, OrderError, Source, Status
from tests.kit import Play
from tests.simulators.contact import Uart, UartLines
from tests.test_lines import Gpiod

#: without sense, an unplugged one of these looks like mains, or (the last) like an outage
MUTE = {
    "upsonic-lan-saver-600", "apc-940-0095a", "apc-940-0020b", "powertech-comp1000", "apc-940-0023a",
    "apc-940-0119a", "powerware-5119rm", "tripp-lite-omni-450lan",
}  # fmt: skip
REAL = sorted(set(CABLES) - {"custom"})


def connected(
    cable: str = "generic-rups", *, loop: str = "", counts: bool = True, **section: Any
) -> tuple[Any, Uart]:
    row = CABLES[cable]
    if cable == "custom":
        row = Cable("", "", None, *(str(section.get(f, "")) for f in Cable._fields[3:]))
    uart = Uart(row, loop=loop, counts=counts)
    if cable in MUTE and "sense" not in section:
        section["sense"] = "none"
    driver = contact.connect({"cable": cable, **section}, UartLines(uart), lambda: uart.now_s)
    return driver, uart


def polls(driver: Any, uart: Uart, seconds: int) -> list[Status | None]:
    """One poll a second; None: it failed."""
    found: list[Status | None] = []
    for _ in range(seconds):
        try:
            found.append(driver.poll())
        except LinkError:
            found.append(None)
        uart.pass_s(1.0)
    return found


def sources(found: list[Status | None]) -> list[Source | None]:
    return [None if s is None else s.source for s in found]


# --- cables -------------------------------------------------------------------------------------------------------


def test_the_table_has_every_type_of_nut_once_and_only_lines_that_exist() -> None:
    assert [CABLES[name].upstype for name in CABLES] == [*range(24), None]
    for name in REAL:
        row = CABLES[name]
        used = [signal(t) for t in (row.on_line, row.low_battery, row.replace_battery, row.bypass)]
        assert used[0] is not None and used[1] is not None, name
        assert {s.line for s in used if s} <= INPUTS, name
        assert outputs(row.power) <= OUTPUTS and outputs(row.shutdown) <= OUTPUTS, name


#: NUT's table (drivers/genericups.h; the last row: its `upstype` 23), by itself: type, lines on for power, line and
#: level of mains, of low battery, lines on to switch off (break: TxD; "": none, or not known)
NUT: tuple[tuple[int, str, str, bool, str, bool, str], ...] = (
    (0, "dtr rts", "cts", False, "dcd", True, "rts"),
    (1, "dtr", "ri", False, "dcd", True, "rts"),
    (2, "rts", "cts", False, "dcd", True, "dtr rts"),
    (3, "dtr", "cts", False, "dcd", True, "dtr rts"),
    (4, "rts", "cts", True, "dcd", False, ""),
    (5, "dtr", "cts", True, "dcd", False, "dtr rts"),
    (6, "dtr", "cts", True, "dcd", False, "rts"),
    (7, "rts", "cts", True, "dcd", False, "dtr"),
    (8, "dtr", "cts", True, "dcd", False, ""),
    (9, "", "dcd", False, "cts", True, "rts"),
    (10, "rts", "cts", True, "dcd", False, "dtr"),
    (11, "dtr", "cts", False, "dcd", False, "break"),
    (12, "rts", "cts", False, "dcd", True, "dtr"),
    (13, "dtr rts", "dcd", True, "cts", False, "break"),
    (14, "dtr", "dcd", True, "cts", False, "rts"),
    (15, "dtr", "cts", True, "dcd", False, "break"),
    (16, "dtr rts", "cts", True, "dcd", False, ""),
    (17, "dtr", "cts", True, "dcd", False, ""),
    (18, "dtr", "cts", True, "dcd", True, ""),
    (19, "dtr", "cts", True, "dcd", False, "rts"),
    (20, "dtr", "cts", False, "dcd", True, "break"),
    (21, "rts", "cts", True, "dcd", False, "dtr rts"),
    (22, "rts", "cts", True, "dcd", False, "dtr"),
    (23, "rts", "cts", True, "dcd", False, ""),
)


class Wires(Uart):
    """A port whose inputs are what the test puts on them, whatever our own table says."""

    on: frozenset[str] = frozenset()

    def inputs(self) -> frozenset[str]:
        return self.on


@pytest.mark.parametrize("row", NUT, ids=lambda row: str(row[0]))
def test_the_lines_of_each_type_mean_what_they_mean_to_nut(row: tuple[int, str, str, bool, str, bool, str]) -> None:
    upstype, power, mains, mains_on, low, low_on, off = row
    (name,) = (name for name, cable in CABLES.items() if cable.upstype == upstype)
    uart = Wires(CABLES[name])
    driver: Any = contact.connect({"cable": name, "sense": "none"}, UartLines(uart), lambda: uart.now_s)
    assert uart.outputs == set(power.split())
    calm = {"ri", "dsr"} if name == "fttx" else set()  # replace battery, bypass: off
    for is_mains, is_low in ((True, False), (False, False), (False, True)):
        put = {mains: mains_on is is_mains, low: low_on is is_low}
        uart.on = frozenset({line for line, on in put.items() if on} | calm)
        uart._count()
        status = polls(driver, uart, 3)[-1]
        assert status is not None and status.source is (Source.MAINS if is_mains else Source.BATTERY)
        assert status.battery.low is is_low and status.flags == ({Condition.LOW_BATTERY} if is_low else set())
    assert bool(driver.commands) is bool(off)
    if off:
        driver.order(Command.SHUTDOWN_RETURN, delay_s=0, return_delay_s=60)
        driver.poll()
        assert uart.breaking is (off == "break")
        assert uart.outputs == set((power if off == "break" else off).split())


@pytest.mark.parametrize("name", REAL)
def test_each_cable_tells_mains_battery_and_low(name: str) -> None:
    driver, uart = connected(name)
    assert uart.outputs == outputs(CABLES[name].power)
    status = polls(driver, uart, 3)[-1]
    assert status is not None and (status.source, status.battery.low) == (Source.MAINS, False)
    uart.set(mains=False)
    status = polls(driver, uart, 3)[-1]
    assert status is not None and (status.source, status.battery.low) == (Source.BATTERY, False)
    uart.set(low=True)
    status = polls(driver, uart, 3)[-1]
    assert status is not None and (status.source, status.battery.low) == (Source.BATTERY, True)
    assert Condition.LOW_BATTERY in status.flags
    uart.set(mains=True)
    status = polls(driver, uart, 3)[-1]
    assert status is not None and (status.source, status.battery.low) == (Source.MAINS, True)


def test_replace_and_bypass_have_lines_too() -> None:
    driver, uart = connected("fttx")
    uart.set(replace=True, bypass=True)
    status = polls(driver, uart, 3)[-1]
    assert status is not None and status.source is Source.BYPASS
    assert status.flags == {Condition.BATTERY_BAD, Condition.ON_BYPASS}


def test_a_ups_on_bypass_that_loses_its_mains_is_on_battery() -> None:
    driver, uart = connected("fttx")
    uart.set(bypass=True, mains=False)
    status = polls(driver, uart, 3)[-1]
    assert status is not None and status.source is Source.BATTERY and Condition.ON_BYPASS not in status.flags


def test_every_part_of_a_cable_can_be_set_otherwise_and_custom_is_all_of_it() -> None:
    driver, uart = connected(
        "custom", on_line="ri", low_battery="-dsr", power="dtr", shutdown="rts", sense="dcd", loop="dcd"
    )
    assert uart.outputs == {"dtr"} and sources(polls(driver, uart, 3))[-1] is Source.MAINS
    cable = contact.cable_of({"cable": "generic-rups", "shutdown": "dtr", "low_battery": "none"})
    assert (cable.on_line, cable.low_battery, cable.shutdown) == ("cts", "none", "dtr")
    with pytest.raises(LinkError, match="custom needs .* on_line"):
        contact.cable_of({"cable": "custom"})
    with pytest.raises(LinkError, match="cable 'x' is not known"):
        contact.cable_of({"cable": "x"})


def test_what_the_contacts_do_not_say_is_not_said() -> None:
    driver, uart = connected("custom", on_line="cts", power="rts", sense="none")
    status = polls(driver, uart, 3)[-1]
    assert status is not None and status.inputs == () and status.outputs == ()
    assert status.battery.low is None and status.battery.charge_pct is None and driver.commands == frozenset()


def test_it_is_never_found_by_looking() -> None:
    uart = Uart()
    line: Any = UartLines(uart)
    assert contact.probe(line) == 0.0 and contact.QUERIES == () and uart.requests == []


# --- what bounces -------------------------------------------------------------------------------------------------


def test_until_the_contacts_have_been_still_for_a_second_the_source_is_unknown() -> None:
    driver, uart = connected()
    assert sources(polls(driver, uart, 3)) == [Source.UNKNOWN, Source.MAINS, Source.MAINS]


def test_a_contact_that_bounces_between_two_looks_is_not_believed_though_each_look_shows_the_same() -> None:
    driver, uart = connected()
    polls(driver, uart, 3)
    for _ in range(8):
        uart.bounce(6, mains=False)
        uart.bounce(1, mains=False)  # and each look finds it open
        assert sources(polls(driver, uart, 1)) == [Source.MAINS]
        uart.bounce(1, mains=True)
        uart.bounce(1, mains=False)
    assert sources(polls(driver, uart, 2))[-1] is Source.BATTERY


@pytest.mark.parametrize("debounce_s", [0.5, 1.0, 3.0])
def test_contacts_count_when_they_were_still_for_the_time_that_is_set_and_not_before(debounce_s: float) -> None:
    driver, uart = connected(debounce_s=debounce_s)
    polls(driver, uart, 6)
    uart.set(mains=False)
    began_s = uart.now_s
    while driver.poll().source is Source.MAINS:
        uart.pass_s(0.1)
    assert uart.now_s - began_s == pytest.approx(debounce_s, abs=0.06)


def test_contacts_that_are_never_still_are_an_error_and_not_the_last_thing_they_said() -> None:
    driver, uart = connected()
    polls(driver, uart, 3)
    found = []
    for _ in range(30):
        uart.bounce(2, mains=False)
        found += sources(polls(driver, uart, 1))
    assert set(found[:10]) == {Source.MAINS} and set(found[12:]) == {None}
    assert sources(polls(driver, uart, 3))[-1] is Source.MAINS


def test_without_a_counter_of_edges_two_looks_that_differ_do_the_same() -> None:
    driver, uart = connected(counts=False)
    polls(driver, uart, 3)
    found = []
    for n in range(6):
        uart.set(mains=bool(n % 2))
        found += sources(polls(driver, uart, 1))
    assert set(found) == {Source.MAINS}


def test_a_change_of_a_line_that_means_nothing_disturbs_nobody() -> None:
    driver, uart = connected("custom", on_line="cts", low_battery="-dcd", power="rts", loop="dsr")
    polls(driver, uart, 3)
    for _ in range(20):
        uart._changes["dsr"] += 3
        assert sources(polls(driver, uart, 1)) == [Source.MAINS]


@pytest.mark.parametrize(("lost_s", "first"), [(5.0, Source.BATTERY), (600.0, Source.UNKNOWN)])
@pytest.mark.parametrize("cable", ["apc-940-0020b", "generic-rups"])
def test_after_a_connection_that_was_lost_for_long_the_state_of_before_is_not_told_as_new(
    cable: str, lost_s: float, first: Source
) -> None:
    uart = Uart(CABLES[cable])
    section, now = {"cable": cable, "sense": "none"}, lambda: uart.now_s
    driver: Any = contact.connect(section, UartLines(uart), now)
    uart.set(mains=False)
    polls(driver, uart, 3)
    driver.close()
    uart.pass_s(lost_s)
    uart.set(mains=True)
    found = polls(contact.connect(section, UartLines(uart), now), uart, 3)
    assert sources(found) == [first, Source.MAINS, Source.MAINS]
    assert found[0] is not None and (found[0].battery.low is None) is (first is Source.UNKNOWN)


def test_but_an_outage_of_before_is_remembered_so_that_a_low_battery_then_is_no_missing_cable() -> None:
    uart = Uart(CABLES["generic-rups"])
    section, now = {"cable": "generic-rups"}, lambda: uart.now_s
    driver: Any = contact.connect(section, UartLines(uart), now)
    uart.set(mains=False)
    polls(driver, uart, 3)
    driver.close()
    uart.pass_s(600.0)
    uart.set(low=True)
    found = polls(contact.connect(section, UartLines(uart), now), uart, 3)
    assert found[-1] is not None and (found[-1].source, found[-1].battery.low) == (Source.BATTERY, True)


def test_a_cable_that_was_missing_for_long_is_plugged_in_and_nothing_is_told_before_it_was_still() -> None:
    uart = Uart(CABLES["generic-rups"])
    section, now = {"cable": "generic-rups"}, lambda: uart.now_s
    driver: Any = contact.connect(section, UartLines(uart), now)
    polls(driver, uart, 3)
    uart.set(plugged=False)
    polls(driver, uart, 60)
    uart.set(plugged=True, mains=False)
    assert sources(polls(driver, uart, 3)) == [Source.UNKNOWN, Source.BATTERY, Source.BATTERY]


# --- an unplugged cable -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(REAL) - {"fttx"}))  # all four inputs of that one are taken
def test_with_a_sense_line_an_unplugged_cable_is_missing_and_never_mains_or_low(name: str) -> None:
    free = "dsr"
    assert free not in CABLES[name].on_line + CABLES[name].low_battery
    driver, uart = connected(name, sense=free, loop=free)
    for low, mains in ((False, True), (False, False), (True, False)):
        uart.set(plugged=True, mains=mains, low=low)
        before = sources(polls(driver, uart, 4))[-1]
        assert before is (Source.MAINS if mains else Source.BATTERY)
        uart.set(plugged=False)
        found = polls(driver, uart, 6)
        assert set(sources(found[1:])) == {None}
        assert found[0] is None or (found[0].source, found[0].battery.low) == (before, low)  # not settled yet


@pytest.mark.parametrize("name", sorted(set(REAL) - MUTE))
def test_without_one_it_is_missing_when_all_lines_fall_at_once(name: str) -> None:
    driver, uart = connected(name)
    polls(driver, uart, 3)
    uart.set(plugged=False)
    assert set(sources(polls(driver, uart, 6)[1:])) == {None}
    uart.set(plugged=True)
    assert sources(polls(driver, uart, 3))[-1] is Source.MAINS


STEP_S = 0.05


class Happening(Uart):
    """Things happen at their second (from the beginning on), also while the driver waits within a poll."""

    def __init__(self, cable: Cable, events: list[tuple[float, dict[str, bool]]]) -> None:
        super().__init__(cable)
        self._events = [(self.now_s + at_s, facts) for at_s, facts in events]

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            super().pass_s(STEP_S)
            while self._events and self.now_s > self._events[0][0]:
                self.set(**self._events.pop(0)[1])


def lived(name: str, poll_s: float, events: list[tuple[float, dict[str, bool]]], until_s: float) -> list[str]:
    """What each poll said: mains, battery, battery low, or missing."""
    uart = Happening(CABLES[name], events)
    lines = UartLines(uart)
    driver = contact.connect({"cable": name}, lines, lambda: uart.now_s)
    found, end_s = [], uart.now_s + until_s
    while uart.now_s < end_s:
        next_s = uart.now_s + poll_s
        lines.waited_s = 0.0
        try:
            status = driver.poll()
            found.append(status.source.value + " low" * bool(status.battery.low))
        except LinkError:
            found.append("missing")
        assert lines.waited_s < 1.0
        uart.pass_s(next_s - uart.now_s)
    return found


@pytest.mark.parametrize("phase_s", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("poll_s", [0.5, 1.0, 2.0])
def test_a_battery_that_is_low_soon_after_the_mains_went_is_an_outage_and_no_missing_cable(
    poll_s: float, phase_s: float
) -> None:
    first_s = 6.0 + phase_s * poll_s
    then_s = first_s + poll_s + contact.PLUG_S + STEP_S
    for first, then in (({"mains": False}, {"low": True}), ({"low": True}, {"mains": False})):
        for name in ("generic-rups", "online-p"):
            found = lived(name, poll_s, [(first_s, first), (then_s, then)], 30.0)
            assert found[-1] == "battery low" and "missing" not in found


@pytest.mark.parametrize("phase_s", [n / 10 for n in range(10)])
def test_a_plug_whose_pins_part_one_after_the_other_is_missing_and_no_outage(phase_s: float) -> None:
    for first in ({"mains": False}, {"low": True}):  # as its pins look
        events = [(6.0 + phase_s, dict(first)), (6.2 + phase_s, {"plugged": False})]
        found = lived("generic-rups", 1.0, events, 30.0)
        assert set(found[1:7]) == {"mains"} and set(found[10:]) == {"missing"}
        assert "battery" not in " ".join(found)


@pytest.mark.parametrize(
    ("name", "sense"), [("generic-rups", "dsr"), ("apc-940-0020b", "none"), ("tripp-lite-omni-450lan", "none")]
)
def test_a_cable_that_shows_it_otherwise_or_never_costs_no_second_look(name: str, sense: str) -> None:
    driver, uart = connected(name, sense=sense, loop=sense.replace("none", ""))
    for facts in ({"mains": False}, {"low": True}, {"mains": True}, {"low": False}):
        uart.set(**facts)
        polls(driver, uart, 3)
    assert driver._lines.waited_s == 0.0


@pytest.mark.parametrize(("poll_s", "debounce_s"), [(0.2, 1.0), (1.0, 0.1), (1.0, 1.0), (10.0, 1.0), (10.0, 5.0)])
def test_an_outage_is_seen_a_poll_and_the_debounce_after_it_began(poll_s: float, debounce_s: float) -> None:
    for tenth in range(10):
        driver, uart = connected("generic-rups", debounce_s=debounce_s)

        def step() -> Source:
            source: Source = driver.poll().source  # noqa: B023
            uart.pass_s(min(poll_s, driver.again_s or poll_s))  # noqa: B023
            return source

        while step() is not Source.MAINS:
            pass
        driver.poll()
        uart.pass_s(poll_s * tenth / 10)
        uart.set(mains=False)
        cut_s = uart.now_s
        uart.pass_s(poll_s * (10 - tenth) / 10)
        while step() is not Source.BATTERY:
            pass
        assert uart.now_s - poll_s - cut_s <= poll_s + debounce_s + 0.4  # 0.3 for a plug that may be leaving


def test_after_an_outage_that_is_over_a_pulled_plug_is_missing_again() -> None:
    events = [(6.0, {"mains": False}), (7.5, {"mains": True}), (12.0, {"plugged": False})]
    found = lived("generic-rups", 1.0, events, 30.0)
    assert found[-1] == "missing" and "battery low" not in found


@pytest.mark.parametrize("name", sorted(set(REAL) - MUTE))
def test_a_start_without_the_cable_says_nothing_of_mains_or_battery(name: str) -> None:
    driver, uart = connected(name)
    uart.set(plugged=False)
    found = sources(polls(driver, uart, 6))
    assert found[0] is Source.UNKNOWN and set(found[1:]) == {None}


@pytest.mark.parametrize("name", sorted(MUTE))
def test_a_cable_that_cannot_show_that_it_is_missing_wants_a_decision(name: str) -> None:
    with pytest.raises(LinkError, match='looks like (mains|an outage): set .* sense .* or sense = "none"'):
        contact.connect({"cable": name}, UartLines(Uart(CABLES[name])), lambda: 0.0)
    with pytest.raises(LinkError, match="shows nothing"):
        contact.connect({"cable": name, "sense": "-dsr"}, UartLines(Uart(CABLES[name])), lambda: 0.0)
    driver, uart = connected(name, sense="none")
    polls(driver, uart, 3)
    uart.set(plugged=False)
    looks_like = Source.BATTERY if name == "tripp-lite-omni-450lan" else Source.MAINS
    assert sources(polls(driver, uart, 4))[-1] is looks_like  # this is what was accepted


def test_gpio_contacts_that_open_when_cut_are_missing_when_the_plug_is() -> None:
    chip, now = Gpiod(), [0.0]
    board = GpioLines("/dev/gpiochip0", "pull-up", chip, lambda: now[0])
    section = {"cable": "custom", "on_line": "-17", "low_battery": "27", "shutdown": "22"}
    driver = contact.connect(section, board, lambda: now[0])
    chip.move(17, 0)
    chip.move(27, 0)  # both contacts are closed: mains, and the battery is well
    found = []
    for _ in range(3):
        found.append(driver.poll().source)
        now[0] += 1.0
    assert found[-1] is Source.MAINS and driver.wake_fd == chip.fd
    chip.move(17, 1)
    chip.move(27, 1)
    driver.poll()
    assert driver.wake_fd is None  # while they may bounce, or each edge would be a poll
    now[0] += 1.0
    with pytest.raises(LinkError, match="unplugged"):
        driver.poll()
    driver.close()


def test_the_edge_of_the_first_pin_wakes_the_driver_and_is_no_outage_when_the_plug_goes_on_leaving() -> None:
    chip, now = Gpiod(), [0.0]

    class Board(GpioLines):
        def pause(self, for_s: float) -> None:
            now[0] += for_s
            chip.move(27, 1)

    board = Board("/dev/gpiochip0", "pull-up", chip, lambda: now[0])
    driver = contact.connect({"cable": "custom", "on_line": "-17", "low_battery": "27"}, board, lambda: now[0])
    chip.move(17, 0)
    chip.move(27, 0)
    for _ in range(3):
        driver.poll()
        now[0] += 1.0
    chip.move(17, 1)
    assert driver.poll().source is Source.MAINS
    now[0] += 1.0
    with pytest.raises(LinkError, match="unplugged"):
        driver.poll()


# --- switching off ------------------------------------------------------------------------------------------------

ABLE = [name for name in REAL if CABLES[name].shutdown]


@pytest.mark.parametrize("name", ABLE)
def test_the_shutdown_signal_comes_after_its_delay_is_held_and_let_go(name: str) -> None:
    driver, uart = connected(name)
    uart.set(mains=False)
    polls(driver, uart, 3)
    assert driver.commands == {Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STOP}
    driver.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=60)
    found = polls(driver, uart, 29)
    assert not uart.off and not uart.breaking and uart.outputs == outputs(CABLES[name].power)
    assert all(s is not None and Condition.SHUTDOWN_PENDING in s.flags for s in found)
    polls(driver, uart, 5)
    assert uart.off
    polls(driver, uart, 8)
    assert not uart.breaking and uart.outputs == outputs(CABLES[name].power)


def test_it_can_be_called_off_and_is_left_out_when_the_mains_is_back() -> None:
    driver, uart = connected("cyberpower-power99")
    uart.set(mains=False)
    polls(driver, uart, 3)
    driver.order(Command.SHUTDOWN_RETURN, delay_s=5, return_delay_s=60)
    driver.order(Command.SHUTDOWN_STOP)
    polls(driver, uart, 10)
    assert not uart.off
    driver.order(Command.SHUTDOWN_RETURN, delay_s=5, return_delay_s=60)
    uart.set(mains=True)
    found = polls(driver, uart, 10)
    assert not uart.off and uart.outputs == {"rts"}
    assert found[-1] is not None and Condition.SHUTDOWN_PENDING not in found[-1].flags


def test_a_break_lasts_at_least_as_long_as_nut_sends_it() -> None:
    driver, uart = connected("powerware-5119")
    assert CABLES["powerware-5119"].shutdown == BREAK
    uart.set(mains=False)
    polls(driver, uart, 3)
    driver.order(Command.SHUTDOWN_RETURN, delay_s=0, return_delay_s=0)
    held_s = 0
    for _ in range(12):
        polls(driver, uart, 1)
        held_s += uart.breaking
    assert 5 <= held_s <= 6


def test_while_the_contacts_bounce_nothing_is_switched_off() -> None:
    driver, uart = connected("best-patriot")
    uart.set(mains=False)
    polls(driver, uart, 3)
    driver.order(Command.SHUTDOWN_RETURN, delay_s=2, return_delay_s=60)
    for _ in range(6):
        uart.bounce(2, mains=True)
        polls(driver, uart, 1)
        assert uart.outputs == {"dtr"}
    polls(driver, uart, 1)
    assert uart.outputs == {"rts"}, "and when they are still, it is looked once more"


HELD = [("powerware-3115", 5.0, 5), ("best-patriot", 30.0, 30)]  # by break, by a line: asked for, held


def ordered_off(cable: str, hold_s: float) -> tuple[Any, Uart]:
    """On battery, and the shutdown signal has just begun."""
    driver, uart = connected(cable, sense="dsr", loop="dsr", shutdown_hold_s=hold_s)
    uart.set(mains=False)
    polls(driver, uart, 3)
    driver.order(Command.SHUTDOWN_RETURN, delay_s=0, return_delay_s=60)
    polls(driver, uart, 1)
    assert signals_off(uart)
    return driver, uart


def signals_off(uart: Uart) -> bool:
    return uart.breaking or uart.outputs != outputs(uart.cable.power)


@pytest.mark.parametrize(("cable", "hold_s", "held"), HELD)
def test_the_signal_lasts_its_time_and_ends_though_the_ups_goes_off_at_once(
    cable: str, hold_s: float, held: int
) -> None:
    driver, uart = ordered_off(cable, hold_s)
    uart.set(off=True)
    for _ in range(held - 1):
        (status,) = polls(driver, uart, 1)
        assert signals_off(uart) and status is not None and Condition.SHUTDOWN_PENDING in status.flags
        assert status.source in (Source.BATTERY, Source.UNKNOWN) and not status.battery.low
    assert sources(polls(driver, uart, 3)) == [None] * 3, "and then it is a cable that is missing"
    assert not signals_off(uart)


def test_it_lasts_its_time_though_the_contacts_never_stand_still() -> None:
    driver, uart = ordered_off("best-patriot", 30.0)
    for _ in range(28):
        uart.bounce(2, mains=True)
        assert polls(driver, uart, 1)[0] is not None and signals_off(uart)
    uart.bounce(2, mains=True)
    polls(driver, uart, 1)
    uart.bounce(2, mains=True)
    assert sources(polls(driver, uart, 1)) == [None] and not signals_off(uart)


@pytest.mark.parametrize(("cable", "hold_s", "_held"), HELD)
def test_giving_the_port_back_ends_it_and_whoever_has_the_port_next_does_not_begin_it_again(
    cable: str, hold_s: float, _held: int
) -> None:
    driver, uart = ordered_off(cable, hold_s)
    driver.close()
    assert not signals_off(uart)
    driver, _ = contact.connect({"cable": cable, "sense": "dsr"}, UartLines(uart), lambda: uart.now_s), uart
    found = polls(driver, uart, 10)
    assert not signals_off(uart) and found[-1] is not None and not found[-1].flags


def test_a_port_that_fails_when_the_signal_should_end_is_asked_once_more_and_given_back_all_the_same() -> None:
    driver, uart = ordered_off("powerware-3115", 5.0)
    uart.pass_s(5.0)
    uart.set(gone=True)
    assert sources(polls(driver, uart, 1)) == [None]
    uart.set(gone=False)
    assert sources(polls(driver, uart, 1)) == [Source.BATTERY] and not uart.breaking
    driver, uart = ordered_off("powerware-3115", 5.0)
    uart.set(gone=True)
    driver.close()
    assert driver._lines.closed


@pytest.mark.parametrize(
    ("command", "args"),
    [
        (Command.SHUTDOWN_RETURN, {}),
        (Command.SHUTDOWN_RETURN, {"delay_s": -1, "return_delay_s": 60}),
        (Command.SHUTDOWN_RETURN, {"delay_s": 5, "return_delay_s": 60, "now": True}),
        (Command.SHUTDOWN_STOP, {"x": 1}),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 5}),
        (Command.TEST_QUICK, {}),
    ],
)
def test_a_wrong_order_is_refused(command: Command, args: dict[str, Any]) -> None:
    driver, _ = connected("cyberpower-power99")
    with pytest.raises(OrderError):
        driver.order(command, **args)


# --- whole lives: through the engine ------------------------------------------------------------------------------


class Life:
    """A driver on a pretend port, its frames played to the engine; opened again after three errors, like the core."""

    def __init__(self, cable: str, **section: Any) -> None:
        self.play = Play()
        self.section = {"cable": cable, **section}
        self.uart = Uart(CABLES[cable], loop=str(section.get("sense", "none")).replace("none", ""))
        self.uart.now_s = self.play.clock.now_s
        self.now = lambda: self.uart.now_s
        self.driver = self._connect()
        self.errors = 0
        self.seconds(20)
        assert self.play.view.conditions == ()

    def _connect(self) -> Any:
        return contact.connect(self.section, UartLines(self.uart), self.now)

    def seconds(self, count: int, wobble: int = 0, **facts: bool) -> None:
        """So many seconds; `wobble`: the contacts of `facts` bounce so often in each, and come back."""
        for _ in range(count):
            if wobble:
                self.uart.bounce(wobble, **facts)
            status = None
            try:
                status = self.driver.poll()
                self.errors = 0
            except LinkError:
                self.errors += 1
                if self.errors % 3 == 0:
                    self.driver.close()
                    self.driver = self._connect()
            self.play.second(status)
            self.uart.pass_s(self.play.clock.now_s - self.uart.now_s)

    def nobody_is_told(self) -> bool:
        return not any(orders.tell for orders in self.play.orders)


SENSED = {"cable": "apc-940-0020b", "sense": "dsr"}
PLAIN = {"cable": "generic-rups"}


@pytest.mark.parametrize("section", [PLAIN, SENSED], ids=["all lines fall", "sense line"])
def test_a_contact_that_bounces_for_ten_minutes_tells_nobody(section: dict[str, Any]) -> None:
    """F25."""
    life = Life(**section)
    for _ in range(60):
        life.seconds(2, wobble=20, mains=False)  # 50 ms there and back
        life.seconds(8)
    assert life.nobody_is_told() and "on-battery" not in life.play.so()
    life.seconds(120, wobble=20, mains=False)  # without a rest
    assert life.nobody_is_told() and "comm-lost" in life.play.so()


@pytest.mark.parametrize("section", [PLAIN, SENSED], ids=["all lines fall", "sense line"])
def test_a_broken_wire_on_mains_is_comm_lost_and_tells_nobody(section: dict[str, Any]) -> None:
    """F25."""
    life = Life(**section)
    life.uart.set(plugged=False)
    life.seconds(600)
    assert life.nobody_is_told() and life.play.so() >= {"comm-lost"}
    assert not life.play.so() & {"on-battery", "low-battery"}
    life.uart.set(plugged=True)
    life.seconds(20)
    assert life.play.so() == set() and life.nobody_is_told()


def test_a_low_battery_contact_that_bounces_on_mains_tells_nobody() -> None:
    life = Life(**PLAIN)
    life.seconds(60, wobble=7, low=True)
    life.seconds(20)
    assert life.nobody_is_told()


@pytest.mark.parametrize("section", [PLAIN, SENSED], ids=["all lines fall", "sense line"])
def test_a_real_outage_with_bouncing_contacts_tells_everybody_in_order(section: dict[str, Any]) -> None:
    life = Life(**section)
    life.uart.bounce(21, mains=False)
    life.seconds(40)
    assert "on-battery" in life.play.so() and life.nobody_is_told()
    life.seconds(40)
    assert life.play.tell == ("web",)
    life.uart.bounce(9, low=True)
    life.seconds(10)
    assert life.play.tell == ("web", "files")


def test_a_real_outage_with_a_battery_that_is_low_within_two_seconds_tells_everybody() -> None:
    life = Life(**PLAIN)
    life.uart.set(mains=False)
    life.seconds(1)
    life.uart.pass_s(0.3)
    life.uart.set(low=True)
    life.seconds(15)
    assert life.play.so() >= {"on-battery", "low-battery"} and life.play.tell == ("web", "files")


def test_the_documentation_has_every_cable_as_it_is_in_the_table() -> None:
    text = (Path(__file__).parent.parent / "docs" / "drivers-contact.md").read_text()
    for name in REAL:
        row = CABLES[name]
        cells = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |")).split(" | ")
        assert cells[1] == str(row.upstype) and cells[3].lower() == (row.power or "-")
        for cell, said in ((cells[4], row.on_line), (cells[5].partition(";")[0], row.low_battery)):
            assert cell == f"{said.lstrip('-').upper()} {'off' if said.startswith('-') else 'on'}", name
        assert cells[6].lower() == (row.shutdown or "-")
        assert (cells[7].rstrip(" |") == "missing") is (name not in MUTE)
