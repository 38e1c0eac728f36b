"""Settles what the UPS says into conditions: what is so, after flicker is filtered out. Pure.

On-battery comes from protection alone and is not filtered a second time. Every other condition has a row in DELAYS:
for how long it must be so, or not so, before it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .model import Condition, Event, Line, Rating, Source, Status

COMM_LOST_S = 15.0
COMM_LOST_POLLS = 3
DEFAULT_DELAY_S = (3.0, 3.0)

#: condition -> (seconds it must be so, seconds it must be not so). Those not listed: DEFAULT_DELAY_S.
DELAYS: Mapping[Condition, tuple[float, float]] = {
    Condition.OUTPUT_OFF: (30.0, 3.0),  # a self test may show it for a moment
    Condition.UPS_SYSTEM_OFF: (30.0, 3.0),
    Condition.BATTERY_BAD: (10.0, 30.0),
    Condition.TEST_RUNNING: (0.0, 0.0),
    Condition.SHUTDOWN_PENDING: (0.0, 0.0),
    Condition.SHUTDOWN_IMMINENT: (0.0, 0.0),
    Condition.TEMPERATURE_BAD: (10.0, 30.0),
}
#: what the agent knows by itself: exact, so not filtered
EXACT = frozenset(
    {
        Condition.ON_BATTERY,
        Condition.COMM_LOST,
        Condition.SHUTDOWN_IMMINENT,
        Condition.NOT_PROTECTED,
        Condition.CONFIG_ERROR,
        Condition.STORAGE_FAILED,
        Condition.SERVER_UNPROVEN,
    }
)
OVERLOAD_PCT, OVERLOAD_ENDS_PCT = 100.0, 95.0
TOLERANCE, TOLERANCE_ENDS = 0.20, 0.18  # of the nominal input voltage, where the unit gives no transfer points


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The conditions that are so, and for each that is about to change since when it has been different."""

    conditions: frozenset[Condition] = frozenset()
    pending: Mapping[Condition, float] = field(default_factory=dict)
    bad_lines: int = 0  # input lines out of tolerance in the last frame
    input_bads: int = 0  # RFC 1628 upsInputLineBads: times that bad_lines went from 0 up


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the agent knows by itself, and protection's word on on-battery."""

    on_battery: bool = False
    shutting_down: bool = False  # every stage is latched, and the outage not over
    age_s: float = 0.0  # of the last valid frame, or since the start if there was none
    failed_polls: int = 0
    not_protected: bool = False
    config_error: bool = False
    storage_failed: bool = False
    server_unproven: bool = False


def settle(before: Settled, look: Status | None, known: Known, now_s: float) -> Settled:
    """One step. `look` is a frame just received, or None: then the unit's own conditions stay as they are."""
    bad_lines, input_bads = before.bad_lines, before.input_bads
    conditions = set(before.conditions)
    pending = before.pending
    if look is not None:
        bad_lines = _bad_lines(look, before.bad_lines > 0)
        input_bads += bad_lines > 0 and before.bad_lines == 0
        raw = _raw(look, bad_lines, Condition.OVERLOAD in before.conditions)
        changing: dict[Condition, float] = {}
        for condition in raw ^ (before.conditions - EXACT):
            since_s = pending.get(condition, now_s)
            begins = condition in raw
            delay_s = DELAYS.get(condition, DEFAULT_DELAY_S)[0 if begins else 1]
            if condition is Condition.LOW_BATTERY and begins and known.on_battery:
                delay_s = 0.0
            if now_s - since_s < delay_s:
                changing[condition] = since_s
            elif begins:
                conditions.add(condition)
            else:
                conditions.discard(condition)
        pending = changing
    conditions -= EXACT
    conditions |= _exact(known, look is None and Condition.COMM_LOST in before.conditions)
    return Settled(conditions=frozenset(conditions), pending=pending, bad_lines=bad_lines, input_bads=input_bads)


def changes(before: frozenset[Condition], after: frozenset[Condition]) -> list[tuple[str, Condition]]:
    """('ended', c) for what is no longer so, then ('began', c) for what is new, in the order of the Enum."""
    if before == after:
        return []
    ended = [("ended", c) for c in Condition if c in before and c not in after]
    return ended + [("began", c) for c in Condition if c in after and c not in before]


def still_so(conditions: frozenset[Condition]) -> list[Event]:
    """What a restart tells the others once more: the log already has the rows."""
    return [Event(id=0, kind="began", name=c.value, again=True) for c in Condition if c in conditions]


def _raw(look: Status, bad_lines: int, overloaded: bool) -> frozenset[Condition]:
    """What this one frame says, unfiltered, without what the agent knows better."""
    found = set(look.flags - EXACT)
    if look.battery.low:
        found.add(Condition.LOW_BATTERY)
    if look.source is Source.BYPASS:
        found.add(Condition.ON_BYPASS)
    if look.source is Source.NONE:
        found.add(Condition.OUTPUT_OFF)
    limit_pct = OVERLOAD_ENDS_PCT if overloaded else OVERLOAD_PCT
    if any(line.load_pct is not None and line.load_pct > limit_pct for line in look.outputs):
        found.add(Condition.OVERLOAD)
    if bad_lines:
        found.add(Condition.INPUT_BAD)
    return frozenset(found)


def _bad_lines(look: Status, was_bad: bool) -> int:
    """How many input lines are out of tolerance; with hysteresis."""
    return sum(1 for line in look.inputs if _is_bad(line, look.rating, was_bad))


def _is_bad(line: Line, rating: Rating, was_bad: bool) -> bool:
    if line.voltage_v is None:
        return False
    low_v, high_v = rating.low_transfer_v, rating.high_transfer_v
    if (low_v is None or high_v is None) and rating.input_voltage_v is not None:
        spread_v = rating.input_voltage_v * (TOLERANCE_ENDS if was_bad else TOLERANCE)
        low_v, high_v = rating.input_voltage_v - spread_v, rating.input_voltage_v + spread_v
    return low_v is not None and high_v is not None and not low_v <= line.voltage_v <= high_v


def _exact(known: Known, still_lost: bool) -> set[Condition]:
    """What the agent knows by itself. Only a frame ends comm-lost."""
    lost = still_lost or (known.failed_polls >= COMM_LOST_POLLS and known.age_s >= COMM_LOST_S)
    facts = {
        Condition.ON_BATTERY: known.on_battery,
        Condition.COMM_LOST: lost,
        Condition.SHUTDOWN_IMMINENT: known.shutting_down,
        Condition.NOT_PROTECTED: known.not_protected,
        Condition.CONFIG_ERROR: known.config_error,
        Condition.STORAGE_FAILED: known.storage_failed,
        Condition.SERVER_UNPROVEN: known.server_unproven,
    }
    return {condition for condition, so in facts.items() if so}
