"""A pretend UPS, and the timelines that are played on it, for the demo and for tests. Pure: time is a number.

drivers/simulator.py shows it to the agent as it is; tests/simulators/megatec.py puts it behind a serial line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .model import ConfigError, Flow, Source, TestResult

NOMINAL_V, NOMINAL_HZ, NOMINAL_VA, POWER_FACTOR = 230.0, 50.0, 1000.0, 0.6
BATTERY_V = 24.0
RECHARGE = 6.0  # recharging takes so many times the runtime
TEST_QUICK_S = 10.0
WOBBLE_PERIOD_S = 23.0


class Unit:
    """A line-interactive UPS. `step(now_s)` moves it on; the attributes are what a tester may set or read."""

    def __init__(
        self,
        now_s: float,
        *,
        load_pct: float = 30.0,
        runtime_s: float = 1200.0,
        battery_low_pct: float = 20.0,
        speed: float = 1.0,
        wobble_v: float = 0.0,
    ) -> None:
        """Full, on mains. `speed` is that of the battery alone; `wobble_v` lets the mains swing by so much."""
        self.now_s = now_s
        self.load_pct = self._rated_load_pct = load_pct
        self._runtime_s, self._low_pct, self._speed, self._wobble_v = runtime_s, battery_low_pct, speed, wobble_v
        self.mains = True
        self.mains_v = NOMINAL_V
        self.fault_v = NOMINAL_V  # of the mains when the unit went to battery last
        self.charge_pct = 100.0
        self.temperature_c = 25.0
        self.force_low = self.fault = self.bypass = self.eco = False
        self.beeper = True
        self.outlets = [True, True]
        self.output_on = True
        self.off_at_s: float | None = None  # a shutdown is counting down
        self._return_s: float | None = None  # then stay off for so long; None: for good
        self._on_from_s: float | None = None  # off now, and may come back from this second; None: not by itself
        self._test_ends_s: float | None = None
        self._test_to_low = False
        self.test_result = TestResult.NONE

    @property
    def input_v(self) -> float:
        if not self.mains:
            return 0.0
        return self.mains_v + self._wobble_v * math.sin(2 * math.pi * self.now_s / WOBBLE_PERIOD_S)

    @property
    def mains_usable(self) -> bool:
        return self.mains and 0.75 * NOMINAL_V <= self.mains_v <= 1.25 * NOMINAL_V

    @property
    def source(self) -> Source:
        if not self.output_on:
            return Source.NONE
        if not self.mains_usable:
            return Source.BATTERY
        if self.bypass:
            return Source.BYPASS
        if self.mains_v < 0.9 * NOMINAL_V:
            return Source.BOOST
        return Source.BUCK if self.mains_v > 1.1 * NOMINAL_V else Source.MAINS

    @property
    def output_v(self) -> float:
        if not self.output_on:
            return 0.0
        if self.testing:
            return NOMINAL_V
        factor = {Source.BATTERY: 0.0, Source.BOOST: 1.15, Source.BUCK: 0.87}.get(self.source, 1.0)
        return self.input_v * factor or NOMINAL_V

    @property
    def load_now_pct(self) -> float:
        return self.load_pct if self.output_on else 0.0

    @property
    def testing(self) -> bool:
        return self.test_result is TestResult.RUNNING

    @property
    def low(self) -> bool:
        return self.force_low or self.charge_pct < self._low_pct

    @property
    def battery_v(self) -> float:
        """From 20.8 V empty to 26 V full: the line that NUT assumes (q1/meaning.py)."""
        return BATTERY_V * (104 + 26 * self.charge_pct / 100) / 120

    @property
    def runtime_s(self) -> float:
        """What is left at the present load, in seconds of the battery's own speed."""
        return self._runtime_s * self.charge_pct / 100 * self._rated_load_pct / max(1.0, self.load_pct)

    @property
    def flow(self) -> Flow:
        if self.output_on and (self.testing or not self.mains_usable):
            return Flow.DISCHARGING
        return Flow.CHARGING if self.mains_usable and self.charge_pct < 100 else Flow.RESTING

    def step(self, now_s: float) -> None:
        """Move on to `now_s`: battery, test, shutdown and return."""
        timed_test = self.testing and not self._test_to_low and self.mains_usable
        passed_s = max(0.0, now_s - self.now_s) * (1.0 if timed_test else self._speed)  # or it would be a deep test
        self.now_s = now_s
        if self.flow is Flow.DISCHARGING:
            full_s = self._runtime_s * max(1.0, self._rated_load_pct) / max(1.0, self.load_pct)
            self.charge_pct = max(0.0, self.charge_pct - 100 * passed_s / full_s)
        elif self.flow is Flow.CHARGING:
            self.charge_pct = min(100.0, self.charge_pct + 100 * passed_s / (RECHARGE * self._runtime_s))
        if self.testing and ((self._test_to_low and self.low) or now_s >= (self._test_ends_s or 0.0)):
            passed = self._test_to_low or not self.low
            self.test_result = TestResult.PASSED if passed else TestResult.FAILED
        if self.source is Source.BATTERY and self.charge_pct <= 0:
            self._switch_off(0.0)
        if self.off_at_s is not None and now_s >= self.off_at_s:
            self._switch_off(self._return_s)
        if self._on_from_s is not None and now_s >= self._on_from_s and self.mains_usable:
            self.output_on, self._on_from_s = True, None

    def _switch_off(self, return_s: float | None) -> None:
        self.output_on, self.off_at_s = False, None
        self._on_from_s = None if return_s is None else self.now_s + return_s
        if self.testing:
            self.test_result = TestResult.ABORTED

    @property
    def awaiting_power(self) -> bool:
        return self._on_from_s is not None and not self.mains_usable

    def set(self, key: str, value: str) -> None:
        """A tester's `set KEY VALUE`, see SETTINGS. ValueError says what is allowed."""
        self.assign(key, setting(key, value))

    def assign(self, key: str, value: Any) -> None:
        """`set` with a value that `setting` has read."""
        if key == "test":
            self.start_test(math.inf) if value else self.stop_test()
            return
        if key in ("mains", "mains_v"):
            before, usable = self.input_v, self.mains_usable
            setattr(self, key, value)
            if usable and not self.mains_usable:
                self.fault_v = self.input_v if self.mains else before
            return
        setattr(self, {"battery_low": "force_low"}.get(key, key), value)

    def start_test(self, for_s: float, *, to_low: bool = False) -> None:
        if self.output_on and self.mains_usable:
            self.test_result, self._test_ends_s, self._test_to_low = TestResult.RUNNING, self.now_s + for_s, to_low

    def stop_test(self) -> None:
        if self.testing:
            self.test_result = TestResult.ABORTED

    def order_off(self, delay_s: float, return_s: float | None) -> None:
        """Off after `delay_s`, on again `return_s` later if there is mains; None: for good."""
        self.off_at_s, self._return_s = self.now_s + delay_s, return_s

    def obey(self, command: bytes) -> bool:
        """A control command of the Megatec protocol without its CR; whether the unit knows it."""
        if command == b"Q":
            self.beeper = not self.beeper
        elif command == b"T":
            self.start_test(TEST_QUICK_S)
        elif command == b"TL":
            self.start_test(math.inf, to_low=True)
        elif command == b"CT":
            self.stop_test()
        elif match := re.fullmatch(rb"T(0[1-9]|[1-9]\d)", command):
            self.start_test(60.0 * int(match[1]))
        elif match := re.fullmatch(rb"S(\.[2-9]|0[0-9]|10)(?:R(\d{4}))?", command):
            minutes = 0 if match[2] is None else int(match[2]) or None
            self.order_off(60.0 * float(match[1]), None if minutes is None else 60.0 * minutes)
        elif command == b"C":
            self.off_at_s = None
            if not self.output_on:
                self._on_from_s = self.now_s
        else:
            return False
        return True


# --- timelines --------------------------------------------------------------------------------------------------


def _switch(text: str) -> bool:
    return {"on": True, "off": False, "1": True, "0": False}[text]


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1000:
        raise ValueError
    return value


#: key of `set` -> (reader, what is allowed)
SETTINGS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(("mains", "battery_low", "fault", "bypass", "beeper", "test"), (_switch, "on, off, 1 or 0")),
    **dict.fromkeys(("mains_v", "charge_pct", "load_pct", "temperature_c"), (_amount, "a number from 0 to 1000")),
}


def setting(key: str, text: str) -> Any:
    """The value of `set KEY VALUE`. ValueError says what is allowed."""
    if key not in SETTINGS:
        raise ValueError(f"no such key: {key!r}; there are: {', '.join(SETTINGS)}")
    read, allowed = SETTINGS[key]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise ValueError(f"{key} must be {allowed}, not {text!r}") from None


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a timeline: from `at_s` on, `verb` is so (line live|silence|answer) or a setting is made."""

    at_s: float
    verb: str  # set | live | silence | reply | garbage
    data: bytes = b""
    key: str = ""
    value: Any = None


def parse_timeline(text: str, name: str) -> tuple[Step, ...]:
    """A timeline (.seq): one line each, in the order of time; `#` begins a comment line.

        SECONDS reply TEXT       from then on every Q1 is answered with TEXT
        SECONDS garbage HEX      from then on everything is answered with these bytes
        SECONDS silence          from then on nothing is answered
        SECONDS set line live    from then on the unit answers for itself again
        SECONDS set KEY VALUE    a setting of the unit, see SETTINGS

    ConfigError names the file (`name`), the line and what is wrong.
    """
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            steps.append(_step(line))
            if len(steps) > 1 and steps[-1].at_s < steps[-2].at_s:
                raise ValueError("this is before the line above")
        except ValueError as e:
            raise ConfigError(f"{name}:{number}: {e}: {line.strip()!r}") from None
    return tuple(steps)


def _step(line: str) -> Step:
    words = line.strip().split(maxsplit=2)
    if not re.fullmatch(r"\d+(\.\d+)?", words[0]):
        raise ValueError("a line begins with its second")
    at_s, verb, rest = float(words[0]), words[1] if len(words) > 1 else "", words[2] if len(words) > 2 else ""
    if verb == "silence" and not rest:
        return Step(at_s, verb)
    if verb == "reply" and rest and rest.isascii():
        return Step(at_s, verb, rest.encode())
    if verb == "garbage" and rest:
        return Step(at_s, verb, bytes.fromhex(rest))
    if verb == "set" and rest == "line live":
        return Step(at_s, "live")
    if verb == "set" and len(rest.split()) == 2:
        key, value = rest.split()
        return Step(at_s, verb, key=key, value=setting(key, value))
    raise ValueError("must be SECONDS and: reply TEXT, silence, garbage HEX, or set KEY VALUE")


class Scene:
    """A unit and the timeline that is played on it from `start_s`. `line` is live, silence, reply or garbage."""

    def __init__(self, unit: Unit, steps: tuple[Step, ...], start_s: float) -> None:
        self.unit, self.line, self.data = unit, "live", b""
        self._steps, self._next, self._start_s = steps, 0, start_s

    def play(self, now_s: float) -> None:
        """Move on to `now_s`, each step in its time."""
        while self._next < len(self._steps) and self._start_s + self._steps[self._next].at_s <= now_s:
            step = self._steps[self._next]
            self._next += 1
            self.unit.step(self._start_s + step.at_s)
            if step.verb == "set":
                self.unit.assign(step.key, step.value)
            else:
                self.line, self.data = step.verb, step.data
        self.unit.step(now_s)
