"""What no UPS can have is unknown: the limits of measurements, and a Status without what is outside them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from .model import Source, Status

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
_RATING: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("input_voltage_v", "output_voltage_v", "battery_voltage_v"), RATED_V),
    **dict.fromkeys(("input_frequency_hz", "output_frequency_hz"), HERTZ),
    **dict.fromkeys(("low_transfer_v", "high_transfer_v"), VOLTS),
    "low_battery_s": (0.0, 7 * 86400.0),
}
_MAY_BE_ZERO = frozenset(("frequency_hz",))


def believable(status: Status) -> tuple[Status, dict[str, float]]:
    """The status with None for every number that cannot be, and those numbers by name (`input 1 voltage_v`)."""
    odd: dict[str, float] = {}
    fed = status.source in (Source.MAINS, Source.BOOST, Source.BUCK)
    live = any(row.voltage_v is not None and row.voltage_v >= LIVE_V[0] for row in status.inputs)
    line = {"inputs": {**_LINE, "voltage_v": LIVE_V} if fed and not live else _LINE}
    inputs, outputs, bypass = (
        tuple(
            _cut(row, line.get(side, _LINE), f"{side} {n}", odd)
            for n, row in enumerate(getattr(status, side), start=1)
        )
        for side in ("inputs", "outputs", "bypass")
    )
    battery = _cut(status.battery, _BATTERY, "battery", odd)
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
