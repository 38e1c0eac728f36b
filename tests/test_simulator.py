"""The simulated UPS: its battery, its buttons, its timelines, and the same unit behind a serial line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agent import link, pretend
from agent.drivers import megatec, simulator
from agent.model import Command, Condition, ConfigError, Flow, LinkError, OrderError, Source, TestResult
from agent.pretend import Scene, Unit, parse_timeline
from agent.q1 import meaning
from agent.q1.megatec import Q1
from tests.simulators.dialects import IDENTITY, RATING, q1
from tests.simulators.megatec import FAULTS, MegatecPty, control


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 5000.0

    def __call__(self) -> float:
        return self.now_s


def connected(**section: Any) -> tuple[Any, Clock]:
    clock = Clock()
    return simulator.connect(section, None, clock), clock


# --- the driver -------------------------------------------------------------------------------------------------


def test_on_mains_it_is_full_and_believable() -> None:
    driver, clock = connected()
    seen = set()
    for _ in range(30):
        clock.now_s += 1
        status = driver.poll()
        assert status.taken_s == clock.now_s and status.source is Source.MAINS
        assert 228 <= status.inputs[0].voltage_v <= 232 and status.battery.charge_pct == 100
        assert status.flags == frozenset() and status.battery.flow is Flow.RESTING
        seen.add(status.inputs[0].voltage_v)
    assert len(seen) > 10  # the mains wobbles


def test_the_same_seconds_bring_the_same_values() -> None:
    runs = []
    for _ in range(2):
        driver, clock = connected()
        values = []
        for _ in range(10):
            clock.now_s += 1
            values.append(driver.poll())
        runs.append(values)
    assert runs[0] == runs[1]


def test_cutting_the_mains_runs_the_battery_down_to_low_and_empty() -> None:
    driver, clock = connected(runtime_s=1000.0, battery_low_pct=20.0)
    driver.order(Command.SIMULATE, mains="off")
    status = driver.poll()
    assert status.source is Source.BATTERY and status.battery.flow is Flow.DISCHARGING
    assert status.inputs[0].voltage_v == 0 and status.outputs[0].voltage_v == 230
    clock.now_s += 500
    status = driver.poll()
    assert (status.battery.charge_pct, status.battery.runtime_s, status.battery.low) == (50.0, 500, False)
    clock.now_s += 301
    status = driver.poll()
    assert status.battery.low and status.flags == {Condition.LOW_BATTERY}
    clock.now_s += 200
    status = driver.poll()
    assert status.source is Source.NONE and status.outputs[0].voltage_v == 0 and status.battery.charge_pct == 0
    assert Condition.AWAITING_POWER in status.flags
    driver.order(Command.SIMULATE, mains="on")
    status = driver.poll()
    assert status.source is Source.MAINS and status.battery.flow is Flow.CHARGING
    clock.now_s += 600
    assert 9 <= driver.poll().battery.charge_pct <= 11


def test_speed_hurries_the_battery_alone() -> None:
    driver, clock = connected(runtime_s=1200.0, speed=60.0)
    driver.order(Command.SIMULATE, mains="off")
    clock.now_s += 10
    status = driver.poll()
    assert status.battery.charge_pct == 50 and status.battery.runtime_s == 600 and status.taken_s == clock.now_s
    driver.order(Command.SIMULATE, mains="on")
    driver.order(Command.TEST_QUICK)
    clock.now_s += 9
    assert driver.poll().test.result is TestResult.RUNNING
    clock.now_s += 1
    assert driver.poll().test.result is TestResult.PASSED


def test_a_deep_test_ends_at_low_battery_and_a_test_with_a_low_battery_fails() -> None:
    driver, clock = connected(runtime_s=1000.0)
    driver.order(Command.TEST_DEEP)
    clock.now_s += 799
    status = driver.poll()
    assert status.test.result is TestResult.RUNNING and status.source is Source.MAINS
    assert status.battery.flow is Flow.DISCHARGING and Condition.TEST_RUNNING in status.flags
    clock.now_s += 2
    assert driver.poll().test.result is TestResult.PASSED
    driver.order(Command.TEST_QUICK)
    clock.now_s += 10
    assert driver.poll().test.result is TestResult.FAILED
    driver.order(Command.TEST_MINUTES, minutes=2)
    driver.order(Command.TEST_STOP)
    assert driver.poll().test.result is TestResult.ABORTED


def test_a_shutdown_counts_down_switches_off_and_returns_with_the_mains() -> None:
    driver, clock = connected()
    driver.order(Command.SIMULATE, mains="off")
    driver.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=180)
    assert Condition.SHUTDOWN_PENDING in driver.poll().flags
    clock.now_s += 29
    assert driver.poll().source is Source.BATTERY
    clock.now_s += 1
    status = driver.poll()
    assert status.source is Source.NONE and Condition.AWAITING_POWER in status.flags
    clock.now_s += 1000
    assert driver.poll().source is Source.NONE
    driver.order(Command.SIMULATE, mains="on")
    assert driver.poll().source is Source.MAINS


def test_a_shutdown_can_be_stopped_and_staying_off_ends_by_order_only() -> None:
    driver, clock = connected()
    driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=12)
    driver.order(Command.SHUTDOWN_STOP)
    clock.now_s += 60
    assert driver.poll().source is Source.MAINS
    driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=12)
    clock.now_s += 13
    assert driver.poll().source is Source.NONE
    clock.now_s += 100_000
    assert driver.poll().source is Source.NONE
    driver.order(Command.SHUTDOWN_STOP)
    assert driver.poll().source is Source.MAINS


@pytest.mark.parametrize("args", [{}, {"mains": "maybe"}, {"mains": True}, {"mains": "on", "x": 1}])
def test_the_mains_button_knows_on_and_off(args: dict[str, Any]) -> None:
    with pytest.raises(OrderError, match="mains must be on or off"):
        connected()[0].order(Command.SIMULATE, **args)


def test_the_beeper_and_wrong_arguments() -> None:
    driver, _ = connected()
    driver.order(Command.BEEPER_OFF)
    assert driver.poll().beeper_on is False
    driver.order(Command.BEEPER_ON)
    assert driver.poll().beeper_on is True
    with pytest.raises(OrderError, match="from 1 to 99"):
        driver.order(Command.TEST_MINUTES, minutes=0)


def test_it_lives_on_when_the_agent_connects_again() -> None:
    clock = Clock()
    driver = simulator.connect({}, None, clock)
    driver.order(Command.SIMULATE, mains="off")
    driver.close()
    assert simulator.connect({}, None, clock).poll().source is Source.BATTERY
    assert simulator.connect({"load_pct": 40.0}, None, clock).poll().source is Source.MAINS


# --- timelines --------------------------------------------------------------------------------------------------

STORY = """\
# the mains fails, and the cable with it
0 set load_pct 50
10 set mains off
12 silence
20 reply (000.0 140.0 227.0   2 00.0 23.0 56.0 10001000
22 garbage 00ff0d
24 set line live

30 set mains on
"""


def test_the_driver_plays_a_timeline_through_a_lost_connection(tmp_path: Path) -> None:
    (tmp_path / "story.seq").write_text(STORY)
    section = {"timeline": str(tmp_path / "story.seq")}
    driver, clock = connected(**section)
    assert driver.poll().outputs[0].load_pct == 50
    clock.now_s += 11
    assert driver.poll().source is Source.BATTERY
    clock.now_s += 2
    with pytest.raises(LinkError, match="silence"):
        driver.poll()
    driver = simulator.connect(section, None, clock)
    clock.now_s += 8
    status = driver.poll()
    assert status.source is Source.BATTERY and status.outputs[0].load_pct == 2 and status.temperature_c == 56.0
    clock.now_s += 2
    with pytest.raises(LinkError, match=r"\\x00\\xff"):
        driver.poll()
    clock.now_s += 2
    assert driver.poll().source is Source.BATTERY
    clock.now_s += 10
    assert driver.poll().source is Source.MAINS


def test_a_gap_between_two_looks_plays_each_step_in_its_time() -> None:
    unit = Unit(0.0, runtime_s=1000.0)
    Scene(unit, parse_timeline("100 set mains off\n600 set mains on\n", "x"), 0.0).play(601.0)
    assert unit.source is Source.MAINS and 50.0 <= unit.charge_pct < 50.1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("silence", "begins with its second"),
        ("-1 silence", "begins with its second"),
        ("nan silence", "begins with its second"),
        ("1", "must be SECONDS and"),
        ("1 shout", "must be SECONDS and"),
        ("1 silence please", "must be SECONDS and"),
        ("1 reply", "must be SECONDS and"),
        ("1 reply (23ü", "must be SECONDS and"),
        ("1 garbage xyz", "non-hexadecimal"),
        ("1 set mains", "must be SECONDS and"),
        ("1 set mains maybe", "mains must be on, off, 1 or 0"),
        ("1 set mains_v 1e9", "mains_v must be a number from 0 to 1000"),
        ("1 set mains_v nan", "mains_v must be"),
        ("1 set __class__ 1", "no such key"),
        ("0.5 silence", "before the line above"),
    ],
)
def test_a_wrong_timeline_names_file_line_and_fault(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_timeline(f"# first\n0.9 silence\n{line}\n", "story.seq")
    assert str(caught.value).startswith("story.seq:3: ")


@pytest.mark.parametrize("content", [b"0 shout\n", b"\xff\xfe", b"#" * (simulator.TIMELINE_LIMIT_BYTES + 1), None])
def test_a_timeline_that_cannot_be_read_is_a_link_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.seq"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LinkError, match="timeline"):
        connected(timeline=str(path))


def test_every_setting_of_a_tester_reaches_the_unit() -> None:
    examples = {"mains": "off", "mains_v": "190", "charge_pct": "30", "load_pct": "70", "temperature_c": "41"}
    before = simulator.status(Unit(0.0))
    for key in pretend.SETTINGS:
        unit = Unit(0.0)
        unit.set(key, examples.get(key, "off" if key == "beeper" else "on"))
        assert simulator.status(unit) != before, key


def test_brown_out_and_surge_are_boosted_bucked_or_borne_by_the_battery() -> None:
    for volts, source in (
        ("230", "mains"),
        ("200", "boost"),
        ("260", "buck"),
        ("160", "battery"),
        ("300", "battery"),
    ):
        unit = Unit(0.0)
        unit.set("mains_v", volts)
        assert unit.source.value == source
        assert meaning.look(Q1.parse(q1(unit)[:-1]), taken_s=0.0).source is unit.source


# --- the same unit behind a serial line -------------------------------------------------------------------------


@pytest.fixture
def ups(tmp_path: Path) -> Any:
    with MegatecPty(tmp_path / "ups") as it:
        yield it


@pytest.fixture
def driver(ups: MegatecPty) -> Any:
    it = megatec.connect({}, link.open({"port": str(ups.path)}, time.monotonic), time.monotonic)
    yield it
    it.close()


def test_the_megatec_driver_reads_over_the_line_what_the_unit_is(ups: MegatecPty, driver: Any) -> None:
    driver.poll()
    for settings in (
        (),
        (("mains", "off"),),
        (("battery_low", "1"),),
        (("mains", "on"), ("test", "on")),
        (("fault", "1"),),
    ):
        for key, value in settings:
            ups.set(key, value)
        there, here = simulator.status(ups.unit), driver.poll()
        assert here.source is there.source and here.flags == there.flags
        assert here.inputs[0].voltage_v == there.inputs[0].voltage_v
        assert here.outputs[0].voltage_v == there.outputs[0].voltage_v
        assert here.outputs[0].load_pct == there.outputs[0].load_pct
        assert here.battery.voltage_v == there.battery.voltage_v
        assert abs(here.battery.charge_pct - there.battery.charge_pct) < 1.0
        assert here.beeper_on is there.beeper_on and here.temperature_c == there.temperature_c


def test_orders_over_the_line_do_what_they_say(ups: MegatecPty, driver: Any) -> None:
    driver.poll()
    driver.order(Command.TEST_QUICK)
    assert Condition.TEST_RUNNING in driver.poll().flags
    driver.order(Command.TEST_STOP)
    assert driver.poll().test.result is TestResult.ABORTED
    driver.order(Command.BEEPER_OFF)
    assert driver.poll().beeper_on is False
    driver.order(Command.SHUTDOWN_RETURN, delay_s=600, return_delay_s=180)
    assert Condition.SHUTDOWN_PENDING in driver.poll().flags
    driver.order(Command.SHUTDOWN_STOP)
    assert driver.poll().flags == frozenset()
    ups.fault("echo")
    with pytest.raises((OrderError, LinkError), match="refuse"):
        driver.order(Command.TEST_QUICK)


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"silence", "truncated", "crawl", "slow"}))
def test_each_fault_is_a_good_frame_or_a_link_error_and_then_all_is_well(
    ups: MegatecPty, driver: Any, fault: str
) -> None:
    driver.poll()
    ups.fault(fault)
    try:
        status = driver.poll()
    except LinkError:
        assert fault in ("garbage", "endless", "short", "long", "echo")
    else:
        assert fault in ("none", "stale-tail", "nul-flags", "dashes", "per-cell")
        assert status.source is Source.MAINS and status.inputs[0].voltage_v == 230.0
        assert status.temperature_c == (None if fault == "dashes" else 25.0)
        assert abs(status.battery.voltage_v - 26.0) < 0.2
    ups.fault("none")
    assert driver.poll().battery.voltage_v == 26.0


def test_the_wire_format_of_the_pretend_unit_has_the_widths_of_the_protocol() -> None:
    assert len(q1(Unit(0.0))) == len(q1(Unit(0.0), per_cell=True)) == 47
    assert (len(RATING), len(IDENTITY)) == (22, 39)


def test_an_unknown_command_is_echoed_and_a_control_command_has_no_answer(ups: MegatecPty) -> None:
    with_cr = {c: ups.answer(c) for c in (b"QGS", b"S99R0001", b"T00", b"T5", b"", b"T", b"CT", b"Q", b"S.5", b"C")}
    assert [c for c, answer in with_cr.items() if answer] == [b"QGS", b"S99R0001", b"T00", b"T5", b""]
    assert all(answer in (b"", c + b"\r") for c, answer in with_cr.items())
    assert ups.answer(b"D") == ups.answer(b"Q1")


def test_the_control_lines_of_the_program(ups: MegatecPty) -> None:
    assert control(ups, "set mains off\n") and not ups.unit.mains
    assert control(ups, "fault silence 0.5") and control(ups, "fault none") and control(ups, "")
    assert control(ups, "unplug") and not ups.path.is_symlink()
    assert control(ups, "replug") and ups.path.is_symlink()
    assert not control(ups, "quit")
    for wrong in ("set mains", "set mains maybe", "fault", "fault x", "fault silence soon", "jump"):
        with pytest.raises(ValueError):
            control(ups, wrong)


def test_the_unit_behind_the_line_plays_timelines_too(tmp_path: Path) -> None:
    steps = parse_timeline("0 silence\n50 set line live\n50 set mains off\n", "x")
    with MegatecPty(tmp_path / "ups", steps=steps, speed=1000.0) as ups:
        it = megatec.connect({}, link.open({"port": str(ups.path)}, time.monotonic), time.monotonic)
        time.sleep(0.06)
        assert it.poll().source is Source.BATTERY
        it.close()
