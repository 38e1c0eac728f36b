"""What no UPS can have is unknown: the limits of measurements, a Status without what is outside, and what the log
says of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .model import FED_BY_MAINS, Condition, Status

#: A dead mains reads 2 or 3 V on real units, so nothing is too low for a line but LIVE_V; a dead line has 0 Hz.
VOLTS, HERTZ, LOAD_PCT, CHARGE_PCT = (0.0, 500.0), (40.0, 70.0), (0.0, 250.0), (0.0, 100.0)
#: of an input that feeds the load, if none of its lines has more. An output may have none with any source: not every
#: UPS says that it has switched it off
LIVE_V = (5.0, 500.0)
BATTERY_V, CELSIUS, RATED_V = (8.0, 500.0), (-40.0, 120.0), (5.0, 500.0)

_LINE: Mapping[str, tuple[float, float]] = {
    "voltage_v": VOLTS,
    "fault_voltage_v": VOLTS,
    "frequency_hz": HERTZ,
    "load_pct": LOAD_PCT,
}
_BATTERY: Mapping[str, tuple[float, float]] = {
    "charge_pct": CHARGE_PCT,
    "runtime_s": (0.0, 7 * 86400.0),
    "voltage_v": BATTERY_V,
    "temperature_c": CELSIUS,
}
#: with so much charge, and not low, a runtime of 0 is that of a unit which has none to tell: it would end an outage
#: in its third second. Less is enough as long as the unit has told no other since the program started
FULL_PCT, SOME_PCT = 90.0, 30.0
_SOME_RUNTIME = {**_BATTERY, "runtime_s": (1.0, _BATTERY["runtime_s"][1])}
_RATING: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("input_voltage_v", "output_voltage_v", "battery_voltage_v"), RATED_V),
    **dict.fromkeys(("input_frequency_hz", "output_frequency_hz"), HERTZ),
    **dict.fromkeys(("low_transfer_v", "high_transfer_v"), VOLTS),
    "low_battery_s": (0.0, 7 * 86400.0),
}
_MAY_BE_ZERO = frozenset(("frequency_hz",))

SAID_EVERY_S = 3600.0  # of a value that comes and goes: one line, with how often


def believable(status: Status, *, tells_runtime: bool | None = True) -> tuple[Status, dict[str, float]]:
    """The status with None for every number that cannot be, and those numbers by name (`input 1 voltage_v`).
    `tells_runtime`: see Runtimes."""
    odd: dict[str, float] = {}
    live = any(row.voltage_v is not None and row.voltage_v >= LIVE_V[0] for row in status.inputs)
    line = {"inputs": {**_LINE, "voltage_v": LIVE_V} if status.source in FED_BY_MAINS and not live else _LINE}
    inputs, outputs, bypass = (
        tuple(
            _cut(row, line.get(side, _LINE), f"{side} {n}", odd)
            for n, row in enumerate(getattr(status, side), start=1)
        )
        for side in ("inputs", "outputs", "bypass")
    )
    some = tells_runtime is False or _has(status, FULL_PCT if tells_runtime else SOME_PCT)
    battery = _cut(status.battery, _SOME_RUNTIME if some else _BATTERY, "battery", odd)
    rating = _cut(status.rating, _RATING, "rating", odd)
    temperature_c = status.temperature_c
    if temperature_c is not None and not _inside(temperature_c, CELSIUS):
        odd["temperature_c"], temperature_c = temperature_c, None
    if not odd:
        return status, odd
    known = {f.name for f in fields(battery) if getattr(battery, f.name) is not None}
    battery = replace(battery, estimated=battery.estimated & known)
    cut = replace(status, inputs=inputs, outputs=outputs, bypass=bypass, battery=battery, temperature_c=temperature_c)
    return replace(cut, rating=rating), odd


class Runtimes:
    """Whether this unit has a runtime to tell. One that says 0 with a full battery has none, with an emptier one
    either; one that has said more in two frames in a row has. `tells` None: not known yet."""

    def __init__(self) -> None:
        self.tells: bool | None = None
        self._said = False  # by the last frame

    def step(self, status: Status, odd: Mapping[str, float]) -> None:
        """What is left of a frame, and what was not."""
        said = bool(status.battery.runtime_s)
        if said and self._said:
            self.tells = True
        elif odd.get("battery runtime_s") == 0 and _has(status, FULL_PCT):
            self.tells = False
        self._said = said


def _has(status: Status, pct: float) -> bool:
    """Does it say so much charge, and not that it is low?"""
    charge_pct, low = status.battery.charge_pct, status.battery.low or Condition.LOW_BATTERY in status.flags
    return charge_pct is not None and charge_pct >= pct and not low


def _cut(part: Any, limits: Mapping[str, tuple[float, float]], where: str, odd: dict[str, float]) -> Any:
    wrong = {}
    for name, allowed in limits.items():
        value = getattr(part, name, None)
        if value is not None and not _inside(value, allowed) and not (value == 0 and name in _MAY_BE_ZERO):
            wrong[name] = value
    odd.update({f"{where} {name}": value for name, value in wrong.items()})
    return replace(part, **dict.fromkeys(wrong)) if wrong else part


def _inside(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]  # NaN is not


@dataclass(slots=True)
class _Known:
    said_s: float  # the last line
    value: float
    told: bool = True  # that it is so now; then its end is told as well
    more: int = 0  # times that it began without a line


class Oddities:
    """What is said of values that cannot be: their beginning and end at once, of one that flaps a line an hour."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._before: frozenset[str] = frozenset()

    def step(self, odd: Mapping[str, float], now_s: float) -> list[tuple[bool, str]]:
        """The lines for a frame in which these values, by name, were taken as unknown; True: it is a warning."""
        lines = []
        for name in sorted(odd.keys() - self._before):
            known = self._known.get(name)
            if known is None:
                self._known[name] = _Known(now_s, odd[name])
                lines.append((True, f"the UPS says {name} = {odd[name]:g}, which cannot be; taken as unknown"))
            else:
                known.more, known.value = known.more + 1, odd[name]
        for name in sorted(self._before - odd.keys()):
            if self._known[name].told:
                lines.append((False, f"the UPS says a plausible {name} again"))
                self._known[name].told = False
        self._before = frozenset(odd)
        for name, known in sorted(self._known.items()):
            if now_s - known.said_s < SAID_EVERY_S:
                continue
            if known.more:
                times, minutes = known.more, round((now_s - known.said_s) / 60)
                text = f"the UPS said {name} = {known.value:g}, which cannot be, {times} more times in {minutes} min"
                lines.append((True, text))
                known.said_s, known.more = now_s, 0
            elif name not in odd:
                del self._known[name]
        return lines
