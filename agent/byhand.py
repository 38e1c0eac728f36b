"""What an administrator may ask of protection: hold, abort, release, shut down now, clear. Pure.

Each takes the state and gives the new one with what happened; OrderError says why not. An emergency (low battery,
budget, silence on battery) latches stages whatever was asked here.
"""

from __future__ import annotations

from dataclasses import replace

from . import protection
from .afterwards import fresh
from .model import OrderError
from .outage import Effect, Phase, Plan, State

HOLD_S = 300.0
HELD_LIMIT_S = 24 * 3600.0

Result = tuple[State, tuple[Effect, ...]]


def hold(state: State, now_s: float, plan: Plan) -> Result:
    """Put off every stage that is not yet latched by 5 minutes."""
    _must_be_open(state, plan)
    if state.held_s + HOLD_S > HELD_LIMIT_S:
        raise OrderError("put off for a whole day already")
    quiet_s = max(now_s, state.quiet_until_s) + HOLD_S
    held = replace(state, held_s=state.held_s + HOLD_S, quiet_until_s=quiet_s)
    return held, (Effect(kind="held", why=f"{held.held_s:.0f}"),)


def abort(state: State, plan: Plan) -> Result:
    """Latch no further stage in this outage, but in an emergency."""
    _must_be_open(state, plan)
    return replace(state, aborted=True), (Effect(kind="aborted"),)


def release(state: State) -> Result:
    """Undo hold and abort."""
    if not state.aborted and not state.held_s:
        raise OrderError("nothing is held or aborted")
    return replace(state, aborted=False, held_s=0.0, quiet_until_s=0.0), (Effect(kind="released"),)


def shutdown(state: State, stage: str, now_s: float, plan: Plan, fresh_id: str) -> Result:
    """Latch `stage` ("all": every one) and all before it, now. Without an outage this is a planned shutdown: its
    servers stay down until somebody wakes them."""
    names = [s.name for s in plan.stages]
    if not names:
        raise OrderError("there is no stage, so nobody to shut down")
    if stage != "all" and stage not in names:
        raise OrderError(f"no such stage: {stage}; there are: {', '.join(names)}")
    if state.phase is Phase.RECOVERY:
        raise OrderError("servers are being brought back; end that first (clear)")
    if state.unproven:
        raise OrderError("the board has just rebooted in an outage; try again in a minute")
    last = len(names) - 1 if stage == "all" else names.index(stage)
    if {s.name for s in plan.stages[: last + 1]} <= {latch.stage for latch in state.latched}:
        raise OrderError(f"{'every stage' if stage == 'all' else stage} is latched already")
    effects: list[Effect] = []
    why = "ordered" if state.on_battery else "planned"
    if state.phase is Phase.IDLE:
        state = replace(state, phase=Phase.PLANNED, outage=fresh_id, began_s=now_s)
    whys = [why if number <= last else "" for number in range(len(names))]
    state = protection.latch_up_to(state, whys, now_s, plan, effects)
    return state, tuple(effects)


def clear(state: State) -> Result:
    """End a planned shutdown or a recovery now."""
    if state.phase not in (Phase.PLANNED, Phase.RECOVERY):
        raise OrderError("there is no planned shutdown and no recovery to end")
    return fresh(state), (Effect(kind="cleared", why=state.phase.value),)


def _must_be_open(state: State, plan: Plan) -> None:
    if state.phase not in (Phase.COUNTDOWN, Phase.HOLD):
        raise OrderError("there is no countdown: nothing to put off or to stop")
    if {s.name for s in plan.stages} <= {latch.stage for latch in state.latched}:
        raise OrderError("every stage is latched already: there is no way back")
