"""Where the reports of USB power devices hide each fact: the usual paths of every variable, the best one first.

The first path that a unit has, and does not refuse, is taken. Paths are written without the outermost `UPS.`.
Source: USB-IF, HID Usage Tables for Power Devices 1.1, and what units really do: the descriptors in tests/cases/hid
and NUT's drivers/*-hid.c (facts, no code).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import hid, usages

PHASES = (1, 2, 3)
OUTLETS = tuple(range(1, 9))


def _under(prefixes: Iterable[str], *names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" if prefix else name for name in names for prefix in prefixes)


SUMMARY = ("PowerSummary.PresentStatus", "PowerSummary", "PresentStatus", "")
BATTERY = ("Battery", "BatterySystem.Battery", "BatterySystem")
STATUS = (*SUMMARY, *(f"{place}.PresentStatus" for place in BATTERY), *BATTERY)
CONVERTER = (
    "PowerConverter.PresentStatus",
    "PowerConverter.Input.[1].PresentStatus",
    "PowerConverter.Output.PresentStatus",
    "Output.PresentStatus",
    "Output",
    "PowerConverter.Input.PresentStatus",
    "Input.PresentStatus",
    "Input",
)
INPUT = ("Input", "PowerConverter.Input.[1]", "PowerConverter.Input", "PowerSummary.Input", "Input.[1]")
OUTPUT = ("Output", "PowerConverter.Output", "Output.[1]", "PowerConverter.Output.[1]", "PowerSummary.Output")
BYPASS = ("PowerConverter.Input.[2]",)
TIMERS = ("PowerSummary", "Output", "OutletSystem.Outlet.[1]", "OutletSystem.Outlet", "")

#: what protection looks at: where the power comes from, how the battery is, and whether a test really has its mains
ESSENTIAL: Mapping[str, tuple[str, ...]] = {
    "ac": _under(STATUS, "ACPresent"),
    "discharging": _under(STATUS, "Discharging"),
    "charging": _under(STATUS, "Charging"),
    "below_limit": _under(STATUS, "BelowRemainingCapacityLimit"),
    "time_expired": _under(STATUS, "RemainingTimeLimitExpired"),
    "imminent": _under(SUMMARY, "ShutdownImminent"),
    "charge": ("PowerSummary.RemainingCapacity", *_under(BATTERY, "RemainingCapacity")),
    "runtime": ("PowerSummary.RunTimeToEmpty", *_under(BATTERY, "RunTimeToEmpty")),
    "input.voltage": _under(INPUT, "Voltage"),
}

_LINE = {
    "voltage": "Voltage",
    "frequency": "Frequency",
    "current": "Current",
    "power": "ActivePower",
    "apparent": "ApparentPower",
    "load": "PercentLoad",
}


def _lines(side: str, prefixes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`input.voltage` for the whole, `input.2.voltage` for phase 2."""
    found = {f"{side}.{name}": _under(prefixes, usage) for name, usage in _LINE.items()}
    for phase in PHASES:
        places = tuple(f"{prefix}.Phase.[{phase}]" for prefix in prefixes)
        found |= {f"{side}.{phase}.{name}": _under(places, usage) for name, usage in _LINE.items()}
    return found


#: numbers and flags that may be some seconds old
MEASURED: Mapping[str, tuple[str, ...]] = {
    **_lines("input", INPUT),
    **_lines("output", OUTPUT),
    **_lines("bypass", BYPASS),
    "load": _under(
        ("PowerSummary", "Output", "PowerConverter", "PowerConverter.Output", "OutletSystem.Outlet"), "PercentLoad"
    ),
    "battery.voltage": _under(("PowerSummary", *BATTERY), "Voltage"),
    "battery.current": _under((*BATTERY, "PowerSummary"), "Current"),
    "battery.temperature": _under(BATTERY, "Temperature"),
    "temperature": _under(("PowerSummary", "PowerConverter", "PowerConverter.Output", ""), "Temperature"),
    "test": _under((*BATTERY, "Output", "PowerSummary", ""), "Test"),
    "beeper": _under(("PowerSummary", "", *BATTERY), "AudibleAlarmControl"),
    "off_in": _under(TIMERS, "DelayBeforeShutdown"),
    "replace": _under(STATUS, "NeedReplacement"),
    "battery_present": _under(STATUS, "BatteryPresent"),
    "depleted": _under(STATUS, "FullyDischarged"),
    "failure": _under((*SUMMARY, "PowerConverter.PresentStatus"), "InternalFailure"),
    "charger_failure": _under(("BatterySystem.Charger.PresentStatus", "Charger.PresentStatus"), "InternalFailure"),
    "fan": ("PowerSummary.PresentStatus.FanFailure", "PowerConverter.PresentStatus.FanFailure"),
    "fuse": ("PowerConverter.PresentStatus.FuseFault", "PowerSummary.PresentStatus.FuseFault"),
    "communication": _under(SUMMARY, "CommunicationLost"),
    "good": ("PowerSummary.PresentStatus.Good", "PresentStatus.Good"),
    "overload": _under((*SUMMARY, *CONVERTER), "Overload"),
    "hot": _under((*SUMMARY, *CONVERTER), "OverTemperature"),
    "input_bad": _under((*SUMMARY, *CONVERTER), "VoltageOutOfRange", "FrequencyOutOfRange"),
    "boost": _under((*SUMMARY, *CONVERTER), "Boost"),
    "buck": _under((*SUMMARY, *CONVERTER), "Buck"),
    "awaiting": _under((*SUMMARY, *CONVERTER), "AwaitingPower"),
    "requested": _under(SUMMARY, "ShutdownRequested"),
    "on_bypass": ("PowerConverter.Input.[2].PresentStatus.Used", "PowerConverter.Input.[4].PresentStatus.Used"),
    **{
        f"outlet.{n}.on": (
            f"OutletSystem.Outlet.[{n}].PresentStatus.SwitchOn/Off",
            f"OutletSystem.Outlet.[{n}].SwitchOn/Off",
        )
        for n in OUTLETS
    },
}

#: asked once after connecting
FIXED: Mapping[str, tuple[str, ...]] = {
    "full_charge": ("PowerSummary.FullChargeCapacity", *_under(BATTERY, "FullChargeCapacity")),
    "capacity_mode": ("PowerSummary.CapacityMode", *_under(BATTERY, "CapacityMode")),
    "low_limit": ("PowerSummary.RemainingTimeLimit", *_under(BATTERY, "RemainingTimeLimit")),
    "rated.battery_voltage": _under(("PowerSummary", *BATTERY), "ConfigVoltage"),
    "rated.input_voltage": _under((*INPUT, "Flow.[1]", "Flow"), "ConfigVoltage"),
    "rated.input_frequency": _under((*INPUT, "Flow.[1]", "Flow"), "ConfigFrequency"),
    "rated.output_voltage": _under((*OUTPUT, "Flow.[4]", "Flow"), "ConfigVoltage"),
    "rated.output_frequency": _under((*OUTPUT, "Flow.[4]", "Flow"), "ConfigFrequency"),
    "rated.output_current": _under((*OUTPUT, "Flow.[4]", "Flow"), "ConfigCurrent"),
    "rated.apparent": _under((*OUTPUT, "PowerConverter", "Flow.[4]", "Flow"), "ConfigApparentPower"),
    "rated.power": _under((*OUTPUT, "PowerConverter", "Flow.[4]", "Flow"), "ConfigActivePower"),
    "transfer.low": _under((*INPUT, *OUTPUT), "LowVoltageTransfer"),
    "transfer.high": _under((*INPUT, *OUTPUT), "HighVoltageTransfer"),
    "string.model": ("PowerSummary.iModel",),
    "string.firmware": ("PowerSummary.iVersion",),
    "string.ups_firmware": ("APC_UPS_FirmwareRevision",),
    **{f"outlet.{n}.switchable": (f"OutletSystem.Outlet.[{n}].PresentStatus.Switchable",) for n in OUTLETS},
}

#: those of them that somebody may set at the unit: asked again from time to time
SETTINGS = frozenset(("low_limit", "transfer.low", "transfer.high"))

#: what can be written
ORDERS: Mapping[str, tuple[str, ...]] = {
    "test": MEASURED["test"],
    "beeper": MEASURED["beeper"],
    "off": _under(TIMERS, "DelayBeforeShutdown"),
    "on": _under(TIMERS, "DelayBeforeStartup"),
    **{f"outlet.{n}.off": (f"OutletSystem.Outlet.[{n}].DelayBeforeShutdown",) for n in OUTLETS},
    **{f"outlet.{n}.on": (f"OutletSystem.Outlet.[{n}].DelayBeforeStartup",) for n in OUTLETS},
}

READ: Mapping[str, tuple[str, ...]] = {**ESSENTIAL, **MEASURED, **FIXED}


@dataclass(frozen=True, slots=True)
class Place:
    """One place where a variable may be read, by `feature` on asking or by `input` (both may have it)."""

    path: str
    feature: hid.Field | None
    input: hid.Field | None


def places(
    descriptor: hid.Descriptor, drop: frozenset[str], more: Mapping[str, tuple[str, ...]]
) -> dict[str, list[Place]]:
    """Variable -> its places in this unit, the best first. `drop`: paths that a quirk takes for untrue; `more`: those
    of a maker's own, which go first."""
    fields: dict[str, dict[str, hid.Field]] = {}
    for field in descriptor.fields:
        if field.kind != "output":
            fields.setdefault(short(field.path), {}).setdefault(field.kind, field)
    found = {}
    for name, paths in READ.items():
        here = [p for p in (*more.get(name, ()), *paths) if p in fields and p not in drop]
        if here:
            found[name] = [Place(p, fields[p].get("feature"), fields[p].get("input")) for p in here]
    return found


def writable(descriptor: hid.Descriptor) -> dict[str, hid.Field]:
    """Order -> the first feature of this unit that takes it."""
    fields: dict[str, hid.Field] = {}
    for field in descriptor.fields:
        if field.kind == "feature" and not field.constant:
            fields.setdefault(short(field.path), field)
    return {
        name: fields[here[0]]
        for name, paths in ORDERS.items()
        if (here := [path for path in paths if path in fields])
    }


def short(path: tuple[int, ...]) -> str:
    """The path as text, without the outermost UPS."""
    return usages.text(path).removeprefix("UPS.")
