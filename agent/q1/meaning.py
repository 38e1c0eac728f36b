"""What the facts of a UPS of the Q1 family mean together: a Status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..model import Battery, Condition, Flow, Ident, Line, Outlet, Rating, Source, Status, Test
from ..plausible import BATTERY_V, CELSIUS, CHARGE_PCT, HERTZ, LOAD_PCT, RATED_V, VOLTS
from .form import Facts

PER_CELL_BELOW_V = 3.5  # a battery voltage below this is that of one 2 V cell: no UPS runs on less than 6 V
EMPTY, FULL = 104 / 120, 130 / 120  # of the nominal voltage (NUT, docs/man/nutdrv_qx.txt)

#: fact (without the number of its line) -> lowest and highest plausible value; see agent/plausible.py
PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("input_v", "fault_v", "output_v", "bypass_v"), VOLTS),
    **dict.fromkeys(("rated_v", "rated_input_v", "rated_output_v", "rated_battery_v"), RATED_V),
    **dict.fromkeys(("frequency_hz", "output_hz", "bypass_hz", "rated_hz"), HERTZ),
    **dict.fromkeys(("temperature_c", "battery_temperature_c"), CELSIUS),
    "load_pct": LOAD_PCT,
    "charge_pct": CHARGE_PCT,
    "battery_v": BATTERY_V,
}
MAY_BE_ZERO = frozenset(  # a dead line; a rating that the unit does not say
    ("frequency_hz", "output_hz", "bypass_hz", "rated_v", "rated_input_v", "rated_output_v", "rated_hz")
) | {"rated_battery_v"}

CONDITIONS: Mapping[str, Condition] = {
    "battery_low": Condition.LOW_BATTERY,
    "failed": Condition.GENERAL_FAULT,
    "testing": Condition.TEST_RUNNING,
    "shutdown_active": Condition.SHUTDOWN_PENDING,
    "battery_bad": Condition.BATTERY_BAD,
    "overload": Condition.OVERLOAD,
    "fan_failed": Condition.FAN_FAILURE,
    "fuse_failed": Condition.FUSE_FAILURE,
    "too_hot": Condition.TEMPERATURE_BAD,
    "charger_failed": Condition.CHARGER_FAILED,
    "bypass_bad": Condition.BYPASS_BAD,
    "input_bad": Condition.INPUT_BAD,
    "output_bad": Condition.OUTPUT_BAD,
    "output_short": Condition.OUTPUT_BAD,
    "bypass_absent": Condition.BYPASS_BAD,
    "battery_empty": Condition.BATTERY_DEPLETED,
    "battery_high": Condition.BATTERY_BAD,
    "no_battery": Condition.BATTERY_BAD,
    "emergency_off": Condition.GENERAL_FAULT,
    "failed_parallel": Condition.GENERAL_FAULT,
}
_INPUT = {
    "voltage_v": "input_v",
    "frequency_hz": "frequency_hz",
    "current_a": "input_a",
    "fault_voltage_v": "fault_v",
}
_OUTPUT = {
    "voltage_v": "output_v", "frequency_hz": "output_hz", "current_a": "output_a", "load_pct": "load_pct",
    "power_w": "output_w", "apparent_va": "output_va",
}  # fmt: skip
_IDENT = ("manufacturer", "model", "firmware", "serial")
_BYPASS = {"voltage_v": "bypass_v", "frequency_hz": "bypass_hz"}


def plausible(facts: Facts) -> tuple[Facts, dict[str, Any]]:
    """The facts with None for a number that no such thing can have, and those numbers by name."""
    odd = {name: value for name, value in facts.items() if not _can_be(name, value)}
    return {name: None if name in odd else value for name, value in facts.items()}, odd


def _can_be(name: str, value: object) -> bool:
    name = name.rstrip("23")
    limits = PLAUSIBLE.get(name)
    if limits is None or not isinstance(value, float) or (value == 0 and name in MAY_BE_ZERO):
        return True
    return limits[0] <= value <= limits[1]


def place(name: str) -> str:
    """The place in a Status of a fact that is asked once; "": it is none by itself."""
    return "ident" if name in _IDENT else "rating" if name.startswith("rated_") else ""


def per_cell(facts: Facts) -> bool:
    """Whether battery_v is the voltage of one 2 V cell."""
    volts = facts.get("battery_v")
    return isinstance(volts, float) and 0 < volts < PER_CELL_BELOW_V


def with_battery(facts: Facts, cells: int | None) -> Facts:
    """The facts with the voltage of the whole battery instead of that of one cell (None if the number of cells is not
    known), and the nominal voltage.

    Cells: configured, or as the unit says, or as its rating says (2 V each): that is an estimate, because some units
    rate one battery of several.
    """
    said, rated_v = facts.get("cells"), facts.get("rated_battery_v")
    count = cells or said or (None if not isinstance(rated_v, float) else round(rated_v / 2))
    nominal_v = cells * 2.0 if cells else rated_v if rated_v else said * 2.0 if isinstance(said, float) else None
    found: Facts = {**facts, "nominal_v": nominal_v}
    if per_cell(facts):
        found["battery_v"] = None if not count else round(facts["battery_v"] * count, 2)
        found["battery_v_estimated"] = not cells and not said
    return found


def look(facts: Facts, *, test: Test | None = None, taken_s: float) -> Status:
    """What plausible facts mean together. `test`: see Status."""
    charge_pct = facts.get("charge_pct")
    guess = _guessed_pct(facts) if charge_pct is None and facts.get("may_guess", True) else None
    source = _source(facts)
    by_rating = bool(facts.get("battery_v_estimated")) and facts.get("battery_v") is not None
    guesses = {"charge_pct": guess is not None, "voltage_v": by_rating}
    flags = {condition for name, condition in CONDITIONS.items() if facts.get(name)}
    if source is Source.BYPASS:
        flags.add(Condition.ON_BYPASS)
    if source is Source.NONE:
        flags.add(Condition.OUTPUT_OFF)
    return Status(
        taken_s=taken_s,
        source=source,
        inputs=_lines(facts, _INPUT) or (Line(),),
        outputs=_lines(facts, _OUTPUT) or (Line(),),
        bypass=_lines(facts, _BYPASS),
        battery=Battery(
            charge_pct=guess if charge_pct is None else charge_pct,
            runtime_s=facts.get("runtime_s"),
            voltage_v=facts.get("battery_v"),
            current_a=facts.get("battery_a"),
            temperature_c=facts.get("battery_temperature_c"),
            flow=_flow(facts),
            low=facts.get("battery_low"),
            estimated=frozenset(name for name, guessed in guesses.items() if guessed),
        ),
        ident=Ident(**{name: facts.get(name) for name in _IDENT}),
        rating=_rating(facts),
        outlets=tuple(
            Outlet(number=n, on=facts[f"outlet_{n}"]) for n in range(1, 5) if facts.get(f"outlet_{n}") is not None
        ),
        test=test,
        temperature_c=facts.get("temperature_c"),
        beeper_on=facts.get("beeper_on"),
        flags=frozenset(flags),
    )


def _guessed_pct(facts: Facts) -> float | None:
    """Between the two voltages that the unit says are empty and full, else by the nominal one."""
    volts, empty_v, full_v = (facts.get(name) for name in ("battery_v", "battery_empty_v", "battery_full_v"))
    if volts and empty_v and full_v and empty_v < full_v:
        return _between(volts, empty_v, full_v)
    return estimate_charge_pct(volts, facts.get("nominal_v"))


def _between(volts: float, empty_v: float, full_v: float) -> float:
    return round(min(100.0, max(0.0, 100 * (volts - empty_v) / (full_v - empty_v))), 1)


def estimate_charge_pct(battery_v: float | None, nominal_v: float | None) -> float | None:
    """A guess: empty at nominal * 104/120, full at nominal * 130/120, linear between (NUT, docs/man/nutdrv_qx.txt).

    None if a voltage is unknown, or the two cannot belong to one battery: some units rate one battery of several,
    some measure one, and no cell of 2 V that feeds a load has less than 1.5.
    """
    if not battery_v or not nominal_v or not 0.75 * nominal_v <= battery_v <= 1.3 * nominal_v:
        return None
    return _between(battery_v, nominal_v * EMPTY, nominal_v * FULL)


def _lines(facts: Facts, columns: Mapping[str, str]) -> tuple[Line, ...]:
    """One Line, or three; a frequency belongs to all of them."""
    rows = []
    for suffix in ("", "2", "3"):
        row = {column: facts.get(name + suffix) for column, name in columns.items()}
        if suffix and all(value is None for value in row.values()):
            break
        if suffix:
            row["frequency_hz"] = facts.get(columns["frequency_hz"])
        rows.append(row)
    if len(rows) == 1 and all(value is None for value in rows[0].values()):
        return ()
    return tuple(Line(**row) for row in rows)


def _rating(facts: Facts) -> Rating:
    """Where one voltage and one frequency is said, it is for both sides: such a unit makes what it takes."""
    both_v, both_hz = facts.get("rated_v") or None, facts.get("rated_hz") or None  # made for 0 V: it does not say
    return Rating(
        input_voltage_v=facts.get("rated_input_v") or both_v,
        input_frequency_hz=both_hz,
        output_voltage_v=facts.get("rated_output_v") or both_v,
        output_frequency_hz=both_hz,
        output_current_a=facts.get("rated_a") or None,
        apparent_va=facts.get("rated_va") or None,
        power_w=facts.get("rated_w") or None,
        battery_voltage_v=facts.get("rated_battery_v") or None,
    )


def _flow(facts: Facts) -> Flow | None:
    if facts.get("utility_fail"):
        return Flow.DISCHARGING
    return Flow.CHARGING if facts.get("charging") else None


def _source(facts: Facts) -> Source:
    """A unit that says in which mode it is, is believed; else the bits count.

    One bit of Q1 means bypass, boost or buck: the ratio output/input tells which, as in NUT (drivers/blazer.c).
    """
    if facts.get("off"):
        return Source.NONE
    if facts.get("utility_fail"):
        return Source.BATTERY
    if facts.get("on_bypass"):
        return Source.BYPASS
    input_v, output_v = facts.get("input_v"), facts.get("output_v")
    if (
        not facts.get("regulating")
        or not isinstance(input_v, float)
        or not input_v
        or not isinstance(output_v, float)
    ):
        return Source.MAINS
    ratio = output_v / input_v
    for limit, source in ((0.5, Source.MAINS), (0.95, Source.BUCK), (1.05, Source.BYPASS), (1.5, Source.BOOST)):
        if ratio < limit:
            return source
    return Source.MAINS
