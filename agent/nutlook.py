"""What the variables of a NUT server mean together: one look at a UPS. Pure. Names: NUT, docs/nut-names.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .model import (
    Battery,
    Condition,
    Flow,
    Ident,
    Line,
    LinkError,
    Outlet,
    Rating,
    Sensor,
    Source,
    Status,
    Test,
    TestResult,
)
from .phases import with_load

OUTLETS = range(1, 65)
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{0,9})?")

#: token of ups.status -> what it says of the source; the first counts. OFF is the last: there are units that say it
#: for ever while they feed their load (NUT's device library: MGE Pulsar M 3000, Eaton 5SC 750, APC ES 700)
SOURCES: Mapping[str, Source] = {
    "OB": Source.BATTERY,
    "BYPASS": Source.BYPASS,
    "BOOST": Source.BOOST,
    "TRIM": Source.BUCK,
    "OL": Source.MAINS,
    "OFF": Source.NONE,
}
FLAGS: Mapping[str, Condition] = {
    "LB": Condition.LOW_BATTERY,
    "RB": Condition.BATTERY_BAD,
    "OVER": Condition.OVERLOAD,
    "OFF": Condition.OUTPUT_OFF,
    "FSD": Condition.SHUTDOWN_PENDING,
    "CAL": Condition.TEST_RUNNING,
    "TEST": Condition.TEST_RUNNING,
    "ALARM": Condition.GENERAL_FAULT,
}
FLOWS: Mapping[str, Flow] = {"DISCHRG": Flow.DISCHARGING, "CHRG": Flow.CHARGING}
#: how ups.test.result begins, or a word in it (NUT, drivers usbhid-ups, snmp-ups, apcsmart) -> what it means
RESULTS: tuple[tuple[str, TestResult], ...] = (
    ("progress", TestResult.RUNNING),
    ("running", TestResult.RUNNING),
    ("warning", TestResult.WARNING),
    ("abort", TestResult.ABORTED),
    ("error", TestResult.FAILED),
    ("not ok", TestResult.FAILED),
    ("fail", TestResult.FAILED),
    ("no test", TestResult.NONE),
    ("pass", TestResult.PASSED),
    ("ok", TestResult.PASSED),
)


def look(variables: Mapping[str, str], taken_s: float) -> Status:
    """The Status that NUT's variables mean. LinkError without ups.status."""
    if "ups.status" not in variables:
        raise LinkError("the NUT server does not say ups.status")
    tokens = frozenset(variables["ups.status"].upper().split())
    v = variables
    # FSD on battery: the other agent has decided that the load goes, which is a low battery to all behind it
    low = "LB" in tokens or {"FSD", "OB"} <= tokens
    flags = {condition for token, condition in FLAGS.items() if token in tokens}
    return Status(
        taken_s=taken_s,
        source=_source(tokens),
        inputs=_lines(v, ("input",)),
        outputs=with_load(_lines(v, ("output",), whole=True), number(v, "ups.load", 0, 1000)),
        bypass=_lines(v, ("input.bypass", "output.bypass")),
        battery=Battery(
            charge_pct=_at_most(number(v, "battery.charge", 0, 110), 100.0),
            runtime_s=number(v, "battery.runtime", 0),
            voltage_v=number(v, "battery.voltage", 0, 2000),
            current_a=number(v, "battery.current"),
            temperature_c=number(v, "battery.temperature", -60, 200),
            flow=next((flow for token, flow in FLOWS.items() if token in tokens), None),
            low=low,
        ),
        ident=Ident(
            manufacturer=_first(v, "device.mfr", "ups.mfr"),
            model=_first(v, "device.model", "ups.model"),
            firmware=_first(v, "ups.firmware"),
            serial=_first(v, "device.serial", "ups.serial"),
        ),
        rating=_rating(v),
        outlets=tuple(
            Outlet(number=n, name=_first(v, f"outlet.{n}.desc"), on=_switch(v.get(f"outlet.{n}.status"), "on", "off"))
            for n in OUTLETS
            if f"outlet.{n}.status" in v or f"outlet.{n}.desc" in v
        ),
        sensors=_sensors(v),
        test=_test(v),
        temperature_c=number(v, "ups.temperature", -60, 200),
        beeper_on=_switch(v.get("ups.beeper.status"), "enabled", "disabled", "muted"),
        flags=frozenset(flags | ({Condition.LOW_BATTERY} if low else set())),
    )


def _source(tokens: frozenset[str]) -> Source:
    """By SOURCES; a status that says both OL and OB, or nothing of it, is unknown."""
    if {"OL", "OB"} <= tokens:
        return Source.UNKNOWN
    return next((source for token, source in SOURCES.items() if token in tokens), Source.UNKNOWN)


def _lines(v: Mapping[str, str], places: tuple[str, ...], *, whole: bool = False) -> tuple[Line, ...]:
    """One or three lines of the first place that NUT tells of; `whole`: one with what `ups.` says of it."""
    for place in places:
        hertz = number(v, f"{place}.frequency", 0, 500)
        three = tuple(
            Line(
                voltage_v=number(v, f"{place}.L{n}-N.voltage", 0, 2000, f"{place}.L{n}.voltage"),
                frequency_hz=hertz,
                current_a=number(v, f"{place}.L{n}.current"),
                power_w=number(v, f"{place}.L{n}.realpower"),
                load_pct=number(v, f"{place}.L{n}.power.percent", 0, 1000),
                apparent_va=number(v, f"{place}.L{n}.power"),
            )
            for n in (1, 2, 3)
        )
        if any(line != Line(frequency_hz=hertz) for line in three):
            return three
        one = Line(
            voltage_v=number(v, f"{place}.voltage", 0, 2000),
            frequency_hz=hertz,
            current_a=number(v, f"{place}.current"),
            power_w=number(v, f"{place}.realpower", also="ups.realpower" if whole else ""),
            apparent_va=number(v, f"{place}.power", also="ups.power" if whole else ""),
            fault_voltage_v=number(v, f"{place}.voltage.fault", 0, 2000),
        )
        if one != Line():
            return (one,)
    return ()


def _rating(v: Mapping[str, str]) -> Rating:
    return Rating(
        input_voltage_v=number(v, "input.voltage.nominal", 0, 2000),
        input_frequency_hz=number(v, "input.frequency.nominal", 0, 500),
        output_voltage_v=number(v, "output.voltage.nominal", 0, 2000),
        output_frequency_hz=number(v, "output.frequency.nominal", 0, 500),
        output_current_a=number(v, "output.current.nominal", 0),
        apparent_va=number(v, "ups.power.nominal", 0),
        power_w=number(v, "ups.realpower.nominal", 0),
        battery_voltage_v=number(v, "battery.voltage.nominal", 0, 2000),
        low_battery_s=number(v, "battery.runtime.low", 0),
        low_transfer_v=number(v, "input.transfer.low", 0, 2000),
        high_transfer_v=number(v, "input.transfer.high", 0, 2000),
    )


def _sensors(v: Mapping[str, str]) -> tuple[Sensor, ...]:
    found = []
    for place in ("ambient", *(f"ambient.{n}" for n in range(1, 17))):
        warm, wet = number(v, f"{place}.temperature", -60, 200), number(v, f"{place}.humidity", 0, 100)
        if warm is not None or wet is not None:
            found.append(Sensor(name=v.get(f"{place}.name") or place, temperature_c=warm, humidity_pct=wet))
    return tuple(found)


def _test(v: Mapping[str, str]) -> Test | None:
    text = v.get("ups.test.result")
    if text is None:
        return None
    return Test(result=next((r for word, r in RESULTS if word in text.lower()), TestResult.NONE), detail=text)


def number(v: Mapping[str, str], name: str, low: float = -1e9, high: float = 1e9, also: str = "") -> float | None:
    """A variable as a number; None if it is not there, is no number, or cannot be."""
    text = v.get(name, v.get(also, ""))
    value = float(text) if _NUMBER.fullmatch(text) else None
    return value if value is not None and low <= value <= high else None


def _at_most(value: float | None, limit: float) -> float | None:
    return None if value is None else min(value, limit)


def _switch(text: str | None, on: str, *off: str) -> bool | None:
    return True if text == on else False if text in off else None


def _first(v: Mapping[str, str], *names: str) -> str | None:
    return next((v[name].strip() for name in names if v.get(name, "").strip()), None)
