"""What the numbers of a USB power device mean together: one look at a UPS. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from .hidtable import FIXED, OUTLETS, PHASES
from .model import Battery, Condition, Flow, Ident, Line, LinkError, Outlet, Rating, Source, Status, Test, TestResult
from .phases import with_load
from .quirks import Quirk

Numbers = Mapping[
    str, float
]  # variable (hidtable.READ) -> its value in SI units; what is not there, the unit does not say

FULL_PCT = 90.0  # with so much, a "shutdown imminent" of a unit known to cry early is no low battery
NO_RUNTIME_S = (65535.0, 4294967295.0, 2147483647.0)  # all ones: it does not know
KELVIN_FROM = 200.0  # some units say °C where the standard wants K (PowerCOM, 39)

#: Test (HID Usage Tables for Power Devices 1.1, 4.1): read values
TESTS = {
    1: TestResult.PASSED,
    2: TestResult.WARNING,
    3: TestResult.FAILED,
    4: TestResult.ABORTED,
    5: TestResult.RUNNING,
    6: TestResult.NONE,
    7: TestResult.NONE,  # scheduled
}


_LINE_FIELDS = {
    "voltage": "voltage_v", "frequency": "frequency_hz", "current": "current_a", "power": "power_w",
    "load": "load_pct", "apparent": "apparent_va",
}  # fmt: skip
#: variable -> the place in a Status that it fills (agent/ages.py); the others fill none by themselves
PLACES: Mapping[str, str] = {
    "charge": "battery.charge_pct",
    "runtime": "battery.runtime_s",
    "battery.voltage": "battery.voltage_v",
    "battery.current": "battery.current_a",
    "battery.temperature": "battery.temperature_c",
    **dict.fromkeys(("below_limit", "time_expired", "imminent"), "battery.low"),
    "temperature": "temperature_c",
    "load": "outputs[0].load_pct",
    "test": "test",
    "beeper": "beeper_on",
    **dict.fromkeys(
        (
            "off_in", "replace", "battery_present", "depleted", "failure", "charger_failure", "fan", "fuse",
            "communication", "good", "overload", "hot", "input_bad", "awaiting", "requested",
        ),
        "flags",
    ),
    **dict.fromkeys((name for name in FIXED if name.startswith(("rated.", "transfer.", "low_limit"))), "rating"),
    **{f"outlet.{n}.on": "outlets" for n in OUTLETS},
    **{
        f"{side}.{phase}{name}": f"{rows}[{int(phase.rstrip('.') or 1) - 1}].{field}"
        for side, rows in (("input", "inputs"), ("output", "outputs"), ("bypass", "bypass"))
        for phase in ("", *(f"{n}." for n in PHASES))
        for name, field in _LINE_FIELDS.items()
    },
}  # fmt: skip


def look(numbers: Numbers, quirk: Quirk, ident: Ident, *, taken_s: float) -> Status:
    """The Status of a unit. LinkError if nothing in it says whether the mains is there."""
    source = _source(numbers, quirk)
    charge_pct = _charge_pct(numbers)
    test = TESTS.get(int(numbers["test"])) if "test" in numbers else None
    return Status(
        taken_s=taken_s,
        source=source,
        inputs=_lines("input", numbers),
        outputs=with_load(_lines("output", numbers), numbers.get("load")),
        bypass=_lines("bypass", numbers),
        battery=Battery(
            charge_pct=charge_pct,
            runtime_s=_runtime_s(numbers),
            voltage_v=numbers.get("battery.voltage"),
            current_a=numbers.get("battery.current"),
            temperature_c=celsius(numbers.get("battery.temperature")),
            flow=_flow(numbers, quirk, source),
            low=_low(numbers, quirk, source, charge_pct),
        ),
        ident=ident,
        rating=_rating(numbers),
        outlets=_outlets(numbers),
        test=Test(result=test) if test is not None else None,
        temperature_c=celsius(numbers.get("temperature")),
        beeper_on=_beeper(numbers, quirk),
        flags=_flags(numbers, source, _low(numbers, quirk, source, charge_pct), test),
    )


def _so(numbers: Numbers, name: str) -> bool:
    """A flag; newer Eaton units send bytes for bits."""
    return bool(numbers.get(name))


def _source(numbers: Numbers, quirk: Quirk) -> Source:
    """The mains is one fact and what the battery does another: units discharge on mains, in a test or by habit."""
    if "ac" in numbers:
        battery = not numbers["ac"] or (quirk.discharging_is_battery and _so(numbers, "discharging"))
    elif "discharging" in numbers and not quirk.flag_lies:
        battery = _so(numbers, "discharging")
    else:
        raise LinkError("none of its reports says whether the mains is there")
    if battery:
        return Source.BATTERY
    for name, source in (("on_bypass", Source.BYPASS), ("boost", Source.BOOST), ("buck", Source.BUCK)):
        if _so(numbers, name):
            return source
    return Source.MAINS


def _charge_pct(numbers: Numbers) -> float | None:
    """Percent; some units count ampere seconds (mode 0, 1) and say how many are all of them."""
    charge, full = numbers.get("charge"), numbers.get("full_charge")
    if charge is None:
        return None
    if numbers.get("capacity_mode", 2) in (0, 1) and full and (full > 100 or charge > 100):
        charge = 100 * charge / full
    return round(min(charge, 100.0), 1) if 0 <= charge <= 200 else None


def _runtime_s(numbers: Numbers) -> float | None:
    runtime_s = numbers.get("runtime")
    return None if runtime_s is None or runtime_s in NO_RUNTIME_S or runtime_s < 0 else runtime_s


def _flow(numbers: Numbers, quirk: Quirk, source: Source) -> Flow | None:
    if source is not Source.BATTERY and quirk.flag_lies:
        return Flow.CHARGING if _so(numbers, "charging") else None
    if _so(numbers, "discharging") or source is Source.BATTERY:
        return Flow.DISCHARGING
    if _so(numbers, "charging"):
        return Flow.CHARGING
    return Flow.RESTING if {"charging", "discharging"} <= numbers.keys() else None


def _low(numbers: Numbers, quirk: Quirk, source: Source, charge_pct: float | None) -> bool | None:
    """Below its limit, out of its time, or about to switch off (on battery; not if this model cries early)."""
    names = {"below_limit", "time_expired", "imminent"} & numbers.keys()
    if not names:
        return None
    imminent = _so(numbers, "imminent") and source is Source.BATTERY
    if quirk.imminent_early and charge_pct is not None and charge_pct > FULL_PCT:
        imminent = False
    return _so(numbers, "below_limit") or _so(numbers, "time_expired") or imminent


def _flags(numbers: Numbers, source: Source, low: bool | None, test: TestResult | None) -> frozenset[Condition]:
    facts = {
        Condition.LOW_BATTERY: bool(low),
        Condition.BATTERY_BAD: _so(numbers, "replace") or numbers.get("battery_present") == 0,
        Condition.BATTERY_DEPLETED: _so(numbers, "depleted"),
        Condition.OVERLOAD: _so(numbers, "overload"),
        Condition.TEMPERATURE_BAD: _so(numbers, "hot"),
        # a unit that answers is not silent, whatever it has lost: see docs/drivers.md
        Condition.GENERAL_FAULT: _so(numbers, "failure") or _so(numbers, "communication"),
        Condition.CHARGER_FAILED: _so(numbers, "charger_failure"),
        Condition.FUSE_FAILURE: _so(numbers, "fuse"),
        Condition.INPUT_BAD: _so(numbers, "input_bad") and source is not Source.BATTERY,
        Condition.OUTPUT_OFF: numbers.get("good") == 0,
        Condition.ON_BYPASS: source is Source.BYPASS,
        Condition.AWAITING_POWER: _so(numbers, "awaiting"),
        Condition.FAN_FAILURE: _so(numbers, "fan"),
        Condition.SHUTDOWN_PENDING: _so(numbers, "requested") or _counting(numbers),
        Condition.TEST_RUNNING: test is TestResult.RUNNING,
        Condition.TEST_FAILED: test is TestResult.FAILED,
    }
    return frozenset(condition for condition, so in facts.items() if so)


def _counting(numbers: Numbers) -> bool:
    """Whether the shutdown timer runs: all ones is how a unit without signs says -1 (Minuteman, 65535)."""
    left_s = numbers.get("off_in", -1.0)
    return left_s > 0 and left_s not in NO_RUNTIME_S


def _lines(side: str, numbers: Numbers) -> tuple[Line, ...]:
    """One line, or three where the unit names a second phase; none where it says nothing."""
    if any(name.startswith(f"{side}.2.") for name in numbers):
        return tuple(_line(f"{side}.{phase}", numbers, numbers.get(f"{side}.frequency")) for phase in PHASES)
    line = _line(side, numbers, None)
    return () if line == Line() else (line,)


def _line(place: str, numbers: Numbers, frequency_hz: float | None) -> Line:
    def value(name: str) -> float | None:
        return numbers.get(f"{place}.{name}")

    own_hz = value("frequency")
    return Line(
        voltage_v=value("voltage"),
        frequency_hz=own_hz if own_hz is not None else frequency_hz,
        current_a=value("current"),
        power_w=value("power"),
        load_pct=value("load"),
        apparent_va=value("apparent"),
    )


def _rating(numbers: Numbers) -> Rating:
    """0 where a unit is made for something: it does not say."""

    def made_for(name: str) -> float | None:
        return numbers.get(name) or None

    return Rating(
        input_voltage_v=made_for("rated.input_voltage"),
        input_frequency_hz=made_for("rated.input_frequency"),
        output_voltage_v=made_for("rated.output_voltage"),
        output_frequency_hz=made_for("rated.output_frequency"),
        output_current_a=made_for("rated.output_current"),
        apparent_va=made_for("rated.apparent"),
        power_w=made_for("rated.power"),
        battery_voltage_v=made_for("rated.battery_voltage"),
        low_battery_s=made_for("low_limit"),
        low_transfer_v=made_for("transfer.low"),
        high_transfer_v=made_for("transfer.high"),
    )


def _outlets(numbers: Numbers) -> tuple[Outlet, ...]:
    """Those that the unit numbers."""
    there = [n for n in OUTLETS if f"outlet.{n}.on" in numbers or f"outlet.{n}.switchable" in numbers]
    return tuple(Outlet(number=n, on=_on(numbers.get(f"outlet.{n}.on"))) for n in there)


def _on(value: float | None) -> bool | None:
    return None if value is None else bool(value)


def _beeper(numbers: Numbers, quirk: Quirk) -> bool | None:
    state = numbers.get("beeper")
    return None if state not in (1, 2, 3) else state == quirk.beeper_on


def celsius(value: float | None) -> float | None:
    """Kelvin where the number can only be that; None where it can be neither."""
    if value is None:
        return None
    value = round(value - 273.15, 1) if value > KELVIN_FROM else value
    return value if -40 <= value <= 120 else None
