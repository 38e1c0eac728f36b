"""A drill: a pretend outage plays through the plan, beside the armed protection, and nobody is told. Pure.

The real protection goes on with the real frames; the first real outage ends the drill (agent/engine.py).
"""

from __future__ import annotations

from dataclasses import replace

from . import protection
from .model import Condition, Source, Status
from .outage import Effect, Plan, State

DRILL_S = 1800.0
NOT_IN_A_DRILL = frozenset({Condition.TEST_RUNNING, Condition.LOW_BATTERY})


class Drill:
    """A pretend outage that begins at `now_s`."""

    def __init__(self, now_s: float) -> None:
        self._began_s, self._state, self._runtime_s = now_s, State(), None  # type: float, State, float | None
        self._charge_pct: float | None = None
        self.over = ""  # why it is over: played (every stage), time

    def left_s(self, now_s: float) -> float:
        """Seconds until it ends at the latest."""
        return max(0.0, self._began_s + DRILL_S - now_s)

    def step(self, look: Status | None, now_s: float, plan: Plan) -> tuple[Effect, ...]:
        """The stages that would be latched now. `look`: a real frame, or None."""
        if now_s - self._began_s >= DRILL_S:
            self.over = "time"
        if look is None or self.over:
            return ()
        self._state, effects = protection.step(
            self._state, self._pretend(look), now_s, plan=plan, failed_polls=0, fresh_id="drill"
        )
        if any(effect.kind == "committed" for effect in effects):
            self.over = "played"
        return tuple(effect for effect in effects if effect.kind == "latched")

    def _pretend(self, look: Status) -> Status:
        """The frame as it might be without the mains: the runtime runs down from what it was."""
        battery = look.battery
        if self._state.last_frame_s is None:
            self._runtime_s, self._charge_pct = battery.runtime_s, battery.charge_pct
        gone_s = look.taken_s - self._began_s
        runtime_s = None if self._runtime_s is None else max(0.0, self._runtime_s - gone_s)
        charge_pct = self._charge_pct
        if charge_pct is not None and self._runtime_s:
            charge_pct = max(0.0, charge_pct * (1 - gone_s / self._runtime_s))
        return replace(
            look,
            source=Source.BATTERY,
            battery=replace(battery, runtime_s=runtime_s, charge_pct=charge_pct, low=False),
            flags=look.flags - NOT_IN_A_DRILL,
        )
