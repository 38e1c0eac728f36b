"""Values that no UPS can have are unknown, whatever driver brought them, and one line in the log says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.config import Config, Stage
from agent.drivers import megatec
from agent.forecast import filled
from agent.model import Battery, Condition, Driver, Line, Rating, Source, Status
from agent.outage import Plan, State
from agent.plausible import Oddities, believable
from agent.pretend import Unit
from agent.protection import step
from agent.ups import Ups
from agent.usbport import Rescue
from agent.verbs import describe
from tests.fakecore import on_line
from tests.kit import Play
from tests.simulators.dialects import SPEAKERS
from tests.simulators.script import SpeakerLink

GOOD = Status(
    taken_s=1.0,
    source=Source.MAINS,
    inputs=(Line(voltage_v=2.0, frequency_hz=0.0), Line(voltage_v=230.0, frequency_hz=50.0)),
    outputs=(Line(voltage_v=230.0, load_pct=30.0),),
    battery=Battery(charge_pct=80.0, voltage_v=27.0, runtime_s=600.0, temperature_c=25.0),
    temperature_c=25.0,
)


def test_what_can_be_stays_as_it_is_and_a_dead_mains_is_a_value() -> None:
    assert believable(GOOD) == (GOOD, {})


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("inputs", "voltage_v", 2160.0), ("inputs", "voltage_v", -1.0), ("inputs", "frequency_hz", 500.0),
        ("inputs", "frequency_hz", 39.0), ("outputs", "load_pct", 655.0), ("battery", "voltage_v", 2.28),
        ("battery", "voltage_v", 600.0), ("battery", "charge_pct", 101.0), ("battery", "charge_pct", float("nan")),
        ("battery", "temperature_c", 273.0), ("battery", "runtime_s", -60.0),
    ],
)  # fmt: skip
def test_what_cannot_be_is_unknown_and_the_rest_stays(part: str, name: str, value: float) -> None:
    was = getattr(GOOD, part)
    bent = replace(was, **{name: value}) if part == "battery" else (replace(was[0], **{name: value}), *was[1:])
    status, odd = believable(replace(GOOD, **{part: bent}))
    cut = replace(was, **{name: None}) if part == "battery" else (replace(was[0], **{name: None}), *was[1:])
    assert status == replace(GOOD, **{part: cut}) and list(odd) == [
        f"{part} 1 {name}" if part != "battery" else f"battery {name}"
    ]


@pytest.mark.parametrize(
    ("charge_pct", "low", "flags", "believed"),
    [
        (100.0, False, (), False), (100.0, None, (), False), (90.0, None, (), False), (89.0, None, (), True),
        (100.0, True, (), True), (100.0, None, (Condition.LOW_BATTERY,), True), (None, None, (), True),
    ],
)  # fmt: skip
def test_no_runtime_beside_a_full_battery_is_unknown(
    charge_pct: float | None, low: bool | None, flags: tuple[Condition, ...], believed: bool
) -> None:
    battery = Battery(charge_pct=charge_pct, runtime_s=0.0, low=low)
    status, odd = believable(Status(taken_s=1.0, source=Source.BATTERY, battery=battery, flags=frozenset(flags)))
    assert status.battery.runtime_s == (0.0 if believed else None)
    assert odd == ({} if believed else {"battery runtime_s": 0.0})


def test_a_unit_that_always_says_no_runtime_does_not_end_an_outage_when_it_begins() -> None:
    state, plan = State(), Plan(stages=(Stage(name="all", on_battery_s=600.0),), needs_s={"all": 30.0})
    for second in range(20):
        battery = Battery(charge_pct=100.0, runtime_s=0.0)
        look, _ = believable(Status(taken_s=float(second), source=Source.BATTERY, battery=battery))
        state, _ = step(state, look, float(second), plan=plan, failed_polls=0, fresh_id="0" * 16)
    assert state.on_battery and state.latched == ()


class Process:
    """The agent's process, with a Voltronic unit at its line whose battery says this runtime, in minutes."""

    def __init__(self, unit: Unit, runtime: Callable[[], bytes], after: Play | None = None) -> None:
        def speak(unit: Unit, command: bytes) -> bytes:
            said = SPEAKERS["voltronic"](unit, command)
            return said[:-4] + runtime() + b"\r" if command == b"QBV" else said

        link = SpeakerLink(speak, unit)
        self.unit, self.play = unit, Play(stages=(Stage(name="first", on_battery_s=600.0),), after=after)
        self._ups = Ups(
            lambda: megatec.connect({"dialect": "voltronic"}, link, lambda: link.now_s),
            lambda polled: self.play.second(polled.status),
            1.0,
            Rescue(time.monotonic),
        )

    def seconds(self, count: int, *, mains: bool, charge_pct: float) -> Process:
        for _ in range(count):
            self.unit.mains, self.unit.charge_pct = mains, charge_pct
            self._ups._poll()
        return self


def test_a_unit_without_a_runtime_ends_no_outage_after_a_restart_in_it_or_with_half_a_battery() -> None:
    one = Process(Unit(0.0), lambda: b"000").seconds(5, mains=True, charge_pct=100.0)
    one.seconds(10, mains=False, charge_pct=60.0)
    assert "on-battery" in one.play.so() and one.play.tell == ()
    again = Process(one.unit, lambda: b"000", one.play).seconds(10, mains=False, charge_pct=55.0)
    assert "on-battery" in again.play.so() and again.play.tell == ()
    half = Process(Unit(0.0), lambda: b"000").seconds(5, mains=True, charge_pct=40.0)
    assert half.seconds(10, mains=False, charge_pct=38.0).play.tell == ()
    assert half.play.view.status is not None and half.play.view.status.battery.runtime_s is None


def test_an_empty_battery_is_seen_after_a_restart_too() -> None:
    one = Process(Unit(0.0), lambda: b"000").seconds(5, mains=True, charge_pct=25.0)
    one.seconds(10, mains=False, charge_pct=24.0)
    assert one.play.tell and one.play.history.settled
    told = iter([b"002"] * 5)
    one = Process(Unit(0.0), lambda: next(told, b"000")).seconds(5, mains=True, charge_pct=60.0)
    assert one.seconds(10, mains=False, charge_pct=50.0).play.tell, "it has told that it has one to tell"


def test_one_damaged_digit_of_a_unit_without_a_runtime_ends_no_outage() -> None:
    said = iter([b"000"] * 15 + [b"001"])
    one = Process(Unit(0.0), lambda: next(said, b"000")).seconds(5, mains=True, charge_pct=100.0)
    assert one.seconds(30, mains=False, charge_pct=80.0).play.tell == ()
    assert "on-battery" in one.play.so()


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize(("volts", "dead"), [(0.0, True), (2.9, True), (4.9, True), (5.0, False), (230.0, False)])
def test_an_input_without_a_voltage_feeds_no_load_but_is_true_of_a_dead_mains(
    volts: float, dead: bool, source: Source
) -> None:
    on_mains = source in (Source.MAINS, Source.BOOST, Source.BUCK)
    look = replace(
        GOOD, source=source, inputs=(Line(voltage_v=volts, frequency_hz=0.0),), outputs=(Line(voltage_v=0.0),)
    )
    status, odd = believable(look)
    assert status.inputs[0].voltage_v == (None if dead and on_mains else volts)
    assert list(odd) == (["inputs 1 voltage_v"] if dead and on_mains else [])
    assert status.outputs == look.outputs, "an output that is off has none, and not every UPS says that it is off"
    three = replace(look, inputs=(*look.inputs, Line(voltage_v=230.0), Line(voltage_v=0.0)))
    assert believable(three) == (three, {}), "a phase may be dead"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_voltage_v", 2300.0), ("output_voltage_v", 2.0), ("battery_voltage_v", 0.24),
        ("input_frequency_hz", 500.0), ("output_frequency_hz", 5.0), ("low_transfer_v", -1.0),
        ("high_transfer_v", float("inf")), ("low_battery_s", -2.0),
    ],
)  # fmt: skip
def test_a_rating_that_no_ups_has_is_unknown(name: str, value: float) -> None:
    rated = replace(GOOD, rating=Rating(input_voltage_v=230.0, battery_voltage_v=24.0, low_battery_s=120.0))
    assert believable(rated) == (rated, {})
    status, odd = believable(replace(rated, rating=replace(rated.rating, **{name: value})))
    assert status.rating == replace(rated.rating, **{name: None}) and list(odd) == [f"rating {name}"]


def test_what_cannot_be_is_no_estimate_either() -> None:
    guessed = replace(GOOD, battery=replace(GOOD.battery, estimated=frozenset(("voltage_v", "charge_pct"))))
    assert believable(guessed)[0].battery.estimated == {"voltage_v", "charge_pct"}
    status, _ = believable(replace(guessed, battery=replace(guessed.battery, voltage_v=2.28)))
    assert status.battery.voltage_v is None and status.battery.estimated == {"charge_pct"}


def test_it_is_said_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agent.ups")

    def nobody() -> Driver:
        raise AssertionError

    ups = Ups(nobody, lambda polled: None, 1.0, Rescue(time.monotonic))
    wrong = replace(GOOD, battery=replace(GOOD.battery, voltage_v=2.28))
    for look in (wrong, wrong, wrong, GOOD, GOOD):
        ups._believed(look)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "the UPS says battery voltage_v = 2.28, which cannot be; taken as unknown"),
        ("INFO", "the UPS says a plausible battery voltage_v again"),
    ]


def test_a_value_that_flaps_is_said_once_an_hour_with_a_count() -> None:
    it, lines = Oddities(), []
    wrong = {"input 1 voltage_v": 999.0, "input 2 voltage_v": 998.0}
    for second in range(3 * 3600):
        lines += [(second, line) for _, line in it.step(wrong if second % 2 else {}, float(second))]
    assert [(second, line) for second, line in lines if "input 1" in line] == [
        (1, "the UPS says input 1 voltage_v = 999, which cannot be; taken as unknown"),
        (2, "the UPS says a plausible input 1 voltage_v again"),
        (3601, "the UPS said input 1 voltage_v = 999, which cannot be, 1800 more times in 60 min"),
        (7201, "the UPS said input 1 voltage_v = 999, which cannot be, 1800 more times in 60 min"),
    ]
    assert len(lines) == 8, "the other phase as well"
    assert it.step({}, 3 * 3600.0) == []
    tail = [line for second in range(4 * 3600, 8 * 3600) for _, line in it.step({}, float(second))]
    assert len(tail) == 2 and all("more times" in line for line in tail), "what was counted is said, and no more"
    assert len(it.step(wrong, 9 * 3600.0)) == 2, "and then it is new"


def test_a_value_that_stays_wrong_is_said_once() -> None:
    it = Oddities()
    assert sum(len(it.step({"temperature_c": 999.0}, float(second))) for second in range(0, 86400, 10)) == 1
    assert [line for _, line in it.step({}, 86400.0)] == ["the UPS says a plausible temperature_c again"]


@pytest.mark.parametrize(("load", "minutes"), [(100.0, 4.0), (80.0, 5.0), (50.0, 8.0), (5.0, 8.0), (None, 4.0)])
def test_the_configured_runtime_is_that_of_the_load_and_marked(load: float | None, minutes: float) -> None:
    silent = replace(GOOD, battery=Battery(charge_pct=80.0), outputs=(Line(load_pct=load),))
    found = filled(silent, None, 5.0)
    assert found.battery.runtime_s == pytest.approx(minutes * 60) and found.battery.estimated == {"runtime_s"}
    assert filled(silent, None, Config().full_load_minutes) == silent, "nothing is invented"
    text = "\n".join(describe(replace(on_line(), status=found)))
    assert "min (estimated)" in text, text
    per_cell = replace(silent, battery=Battery(voltage_v=27.0, estimated=frozenset(("voltage_v",))))
    assert "V (estimated)" in "\n".join(describe(replace(on_line(), status=per_cell)))
    assert "(estimated)" not in "\n".join(describe(replace(on_line(), status=silent)))
