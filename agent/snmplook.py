"""What the values of a UPS's SNMP agent mean as a Status, by one of the tables. Pure.

Sources: RFC 1628 and the makers' MIBs that are named in agent/snmptables.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache

from .ber import Oid
from .model import (
    Battery,
    Condition,
    Flow,
    Ident,
    Line,
    LinkError,
    Rating,
    Sensor,
    Source,
    Status,
    Test,
    TestResult,
)
from .phases import with_load
from .snmptables import PHASES, Table

FLOWS: Mapping[int, Flow] = {1: Flow.CHARGING, 2: Flow.DISCHARGING, 3: Flow.RESTING, 4: Flow.RESTING}
BEEPERS: Mapping[str, Mapping[int, bool]] = {
    "rfc1628": {1: False, 2: True, 3: False},
    "powernet": {1: True, 2: True, 3: False, 4: False},
}

Value = float | str | Oid


@lru_cache(maxsize=1024)
def whole_oid(oid: str) -> Oid:
    """The arcs of a written object identifier."""
    return tuple(int(arc) for arc in oid.split("."))


def places(table: Table, values: Mapping[Oid, Value]) -> dict[str, float | str]:
    """What is known of each place of the table, in SI units; the first object that says something counts."""
    known: dict[str, float | str] = {}
    for row in table.rows:
        value = values.get(whole_oid(row.oid))
        if value is None or isinstance(value, tuple) or row.place in known or value == "":
            continue
        if isinstance(value, str):
            known[row.place] = value
        elif value >= 0 or row.place.endswith(("current_a", "temperature_c")):
            known[row.place] = round(value * row.scale, 3)  # a negative one means: it does not say
    return known


def look(table: Table, known: Mapping[str, float | str], alarms: frozenset[Condition], taken_s: float) -> Status:
    """The Status that the values mean. LinkError: the agent does not say its source, or has lost its UPS."""
    if table.lost >= 0 and known.get("comm") == table.lost:
        raise LinkError("the agent says that it has lost its UPS")
    source = _code(known, "source")
    if source is None:
        raise LinkError("the agent does not say where the power comes from")
    flags = alarms | {condition for place, value, condition in table.flags if known.get(place) == value}
    state = _code(known, "battery.state")
    low = Condition.LOW_BATTERY in alarms or state in table.low
    says_low = low or state == 2 or table.low_alarm
    result = table.tests.get(_code(known, "test.result") or 0)
    if result is TestResult.RUNNING:
        flags |= {Condition.TEST_RUNNING}
    beeper = BEEPERS.get(table.name, {}).get(_code(known, "beeper") or 0)
    ambient = {name: _number(known, f"ambient.{name}") for name in ("temperature_c", "humidity_pct")}
    return Status(
        taken_s=taken_s,
        source=table.sources.get(source, Source.UNKNOWN),
        inputs=_lines(known, "input"),
        outputs=with_load(_lines(known, "output"), _number(known, "load_pct")),
        bypass=_lines(known, "bypass"),
        battery=Battery(
            charge_pct=_number(known, "battery.charge_pct"),
            runtime_s=_number(known, "battery.runtime_s"),
            voltage_v=_number(known, "battery.voltage_v"),
            current_a=_number(known, "battery.current_a"),
            temperature_c=_number(known, "battery.temperature_c"),
            flow=FLOWS.get(_code(known, "battery.flow") or 0),
            low=low if says_low else None,
        ),
        ident=Ident(
            manufacturer=_text(known, "ident.manufacturer") or table.maker,
            model=_text(known, "ident.model"),
            firmware=_text(known, "ident.firmware"),
            serial=_text(known, "ident.serial"),
        ),
        rating=Rating(**{field.name: _number(known, f"rating.{field.name}") for field in fields(Rating)}),
        sensors=(Sensor(name="ambient", **ambient),) if any(v is not None for v in ambient.values()) else (),
        test=Test(result=result, detail=_text(known, "test.detail") or "") if result else None,
        temperature_c=_number(known, "temperature_c"),
        beeper_on=beeper,
        flags=flags | ({Condition.LOW_BATTERY} if low else set()),
    )


def _lines(known: Mapping[str, float | str], place: str) -> tuple[Line, ...]:
    """As many phases as the agent counts, or else has; what it says once for all of them is said of each."""
    count = _code(known, f"{place}.count")
    if count == 0:
        return ()
    if count not in PHASES:
        count = PHASES[-1] if f"{place}.{PHASES[-1]}.voltage_v" in known else 1
    hertz = _number(known, f"{place}.frequency_hz")
    found = []
    for n in PHASES[:count]:
        said = {field.name: _number(known, f"{place}.{n}.{field.name}") for field in fields(Line)}
        if said["frequency_hz"] is None:
            said["frequency_hz"] = hertz
        found.append(Line(**said))
    return tuple(found) if any(line != Line() for line in found) else ()


def _number(known: Mapping[str, float | str], place: str) -> float | None:
    value = known.get(place)
    return value if isinstance(value, float) else None


def _code(known: Mapping[str, float | str], place: str) -> int | None:
    value = _number(known, place)
    return None if value is None else int(value)


def _text(known: Mapping[str, float | str], place: str) -> str | None:
    value = known.get(place)
    return value.strip() if isinstance(value, str) and value.strip() else None
