"""What an outage would bring if it began now, or still brings: when each stage, when all are down. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import protection
from .config import Stage
from .curve import Curve
from .model import Condition, Forecast, Source, Status
from .outage import Latch, Phase, Plan, State, budget_s

CONFIGURED_LOAD_FLOOR_PCT = 50.0  # below it, what the UPS itself consumes counts too much to promise more


@dataclass(frozen=True, slots=True)
class Expectation:
    """The forecast, and for each stage not yet latched the seconds until it would be; None: not before the battery's
    end."""

    forecast: Forecast
    stages: Mapping[str, float | None]


def filled(look: Status, curve: Curve | None, full_load_minutes: float | None) -> Status:
    """The frame with a runtime where the unit says none but a charge: from the learned curve, else from the
    configured minutes at full load, longer at less load as far as CONFIGURED_LOAD_FLOOR_PCT. Marked as estimated;
    else nothing is invented. Of a guessed charge the smaller of both, and none that was not configured."""
    battery = look.battery
    if battery.runtime_s is not None or battery.charge_pct is None:
        return look
    learned_s, configured_s = _learned_s(look, curve), None
    if full_load_minutes is not None:
        load = load_pct(look)
        part = 1.0 if load is None else max(CONFIGURED_LOAD_FLOOR_PCT, load) / 100.0
        configured_s = full_load_minutes * 60.0 * battery.charge_pct / 100.0 / part
    runtime_s = configured_s if learned_s is None else learned_s
    if is_guessed(look) and runtime_s is not None:
        # a voltage hardly falls for long and then all at once: what was not seen may be much less
        runtime_s = None if configured_s is None else min(configured_s, runtime_s)
    if runtime_s is None:
        return look
    return replace(look, battery=replace(battery, runtime_s=runtime_s, estimated=battery.estimated | {"runtime_s"}))


def is_guessed(look: Status) -> bool:
    """Is its charge guessed of the battery's voltage?"""
    return "charge_pct" in look.battery.estimated


def _usable(look: Status, curve: Curve | None) -> Curve | None:
    """The curve, if it was learned on the scale of this frame's charge."""
    return curve if curve is not None and curve.guessed == is_guessed(look) else None


def _learned_s(look: Status, curve: Curve | None) -> float | None:
    usable = _usable(look, curve)
    return usable.runtime_s(look.battery.charge_pct, load_pct(look)) if usable else None


def load_pct(look: Status) -> float | None:
    """The load of the phase that carries most."""
    return max((line.load_pct for line in look.outputs if line.load_pct is not None), default=None)


def expect(state: State, plan: Plan, look: Status | None, curve: Curve | None, now_s: float) -> Expectation | None:
    """What is to be expected; None if nobody knows how long the battery lasts. On mains: from an outage now."""
    found = _runtime(look, curve)
    if look is None or found is None:
        return None
    runtime_s, basis = found
    if state.on_battery and state.runtime_s is not None:  # protection does not believe one that jumps up
        runtime_s = min(runtime_s, state.runtime_s)
    earliest_s = _earliest_s(state, now_s)
    pace = _pace(state, look, runtime_s)
    state = _in_outage(state, now_s)
    due_s = _due_s(state, plan, look, curve, runtime_s, pace, now_s, earliest_s)
    down_s = _down_s({**{latch.stage: latch.at_s - now_s for latch in state.latched}, **due_s}, plan)
    margin_s = None if down_s is None else runtime_s - down_s
    return Expectation(Forecast(runtime_s=runtime_s, basis=basis, down_s=down_s, margin_s=margin_s), due_s)


def countdown(state: State, plan: Plan, expected: Expectation | None, now_s: float) -> dict[str, float]:
    """For each stage not yet latched the seconds until it will be, as far as anybody knows: by its time on battery,
    as expected of the battery, by silence, or with a later stage. Nothing while the mains is seen."""
    if not state.battery_now() or state.cycled or state.last_frame_s is None:
        return {}
    said: Mapping[str, float | None]
    if now_s - state.last_frame_s > protection.STALE_S:
        said = _silent_s(state, plan, now_s)
    else:
        said = expected.stages if expected else {}
    latched = {latch.stage for latch in state.latched}
    due, soonest_s = dict[str, float](), math.inf
    for stage in reversed(plan.stages):
        if stage.name in latched:
            continue
        by_time_s, by_battery_s = protection.due_at_s(stage, state), said.get(stage.name)
        if by_time_s is not None:
            soonest_s = min(soonest_s, max(_earliest_s(state, now_s), by_time_s - now_s))
        if by_battery_s is not None:
            soonest_s = min(soonest_s, by_battery_s)
        if soonest_s < math.inf:
            due[stage.name] = max(0.0, soonest_s)
    return due


def _silent_s(state: State, plan: Plan, now_s: float) -> dict[str, float]:
    """The UPS is silent: its battery runs down as protection pretends, and 60 s without a frame are an emergency."""
    blind_s = (state.last_frame_s or now_s) + protection.BLIND_S - now_s
    runtime_s = protection.virtual_runtime_s(state, now_s)
    told = dict.fromkeys((stage.name for stage in plan.stages), blind_s)
    if state.unproven or runtime_s is None:
        return told
    nothing = Status(taken_s=now_s, source=Source.BATTERY)
    due = _due_s(state, plan, nothing, None, max(0.0, runtime_s), 1.0, now_s, 0.0)
    return {name: min(blind_s, s) if (s := due.get(name)) is not None else blind_s for name in told}


def _earliest_s(state: State, now_s: float) -> float:
    """Until the outage is confirmed: no stage is latched before."""
    if state.on_battery and not state.unproven:
        return 0.0
    confirmed_s = protection.confirms_at_s(state)
    return protection.CONFIRM_S if confirmed_s is None else max(0.0, confirmed_s - now_s)


def _in_outage(state: State, now_s: float) -> State:
    """The state as it is, or would be if the battery had to carry the load now: an outage that is not closed goes on,
    with its stages, its beginning and what people asked for."""
    if state.on_battery:
        return state
    from_s = now_s if state.battery_from_s is None else state.battery_from_s
    if state.phase in (Phase.IDLE, Phase.RECOVERY):
        return State(began_s=from_s)
    return replace(state, began_s=from_s) if state.phase is Phase.PLANNED else state


def _down_s(begins_s: Mapping[str, float | None], plan: Plan) -> float | None:
    """When every server has had its time; None if one of them is not told before the battery's end, or there is none.
    This host waits for all stages, also for those that have no server."""
    counts = [stage.name for stage in plan.stages if stage.name in plan.needs_s or plan.local_needs_s]
    ends_s = []
    for name in counts:
        begins = begins_s.get(name)
        if begins is None:
            return None
        ends_s.append(begins + plan.needs_s.get(name, 0.0))
    return max(0.0, *ends_s) + plan.local_needs_s if ends_s else None


def _runtime(look: Status | None, curve: Curve | None) -> tuple[float, str] | None:
    """How long the battery lasts, and who says so. The smaller counts: a UPS that says an hour and lived twenty
    minutes last time is not believed."""
    if look is None:
        return None
    said = []
    battery = look.battery
    learned_s = _learned_s(look, curve)
    if learned_s is not None and (battery.runtime_s is not None or not is_guessed(look)):
        said.append((learned_s, "learned"))
    if battery.runtime_s is not None and "runtime_s" not in battery.estimated:
        said.append((battery.runtime_s, "ups"))
    elif battery.runtime_s is not None and (learned_s is None or is_guessed(look)):
        said.append((battery.runtime_s, "configured"))
    return min(said, default=None, key=lambda one: one[0])


def _pace(state: State, look: Status, runtime_s: float) -> float:
    """Real seconds for each second by which the runtime falls that protection acts on: the UPS's word, which is too
    long if this battery was learned to last less."""
    said_s = look.battery.runtime_s
    if said_s is not None and state.on_battery and state.runtime_s is not None:
        said_s = min(said_s, state.runtime_s)
    return min(1.0, runtime_s / said_s) if said_s else 1.0


def _due_s(
    state: State,
    plan: Plan,
    look: Status,
    curve: Curve | None,
    runtime_s: float,
    pace: float,
    now_s: float,
    earliest_s: float,
) -> dict[str, float | None]:
    """When each stage would be latched. One after the other, because the budget shrinks with each that is."""
    latched = {latch.stage for latch in state.latched}
    waiting = [stage for stage in plan.stages if stage.name not in latched]
    due: dict[str, float | None] = {}
    while waiting:
        own = [min(_own_s(stage, state, look, curve, runtime_s, pace, now_s), default=math.inf) for stage in waiting]
        first_s = max(earliest_s, min(own))
        emergency_s = max(earliest_s, _emergency_s(state, plan, look, runtime_s, pace))
        at_s = min(first_s, emergency_s)
        if at_s > max(earliest_s, runtime_s):
            return due | dict.fromkeys((stage.name for stage in waiting), None)
        count = len(waiting)
        if first_s < emergency_s:  # the last that is due takes those before it along
            count = max(number for number, own_s in enumerate(own, start=1) if max(earliest_s, own_s) == first_s)
        due |= {stage.name: at_s for stage in waiting[:count]}
        gone = (Latch(stage=stage.name, at_s=now_s, why="") for stage in waiting[:count])
        state, waiting = replace(state, latched=(*state.latched, *gone)), waiting[count:]
    return due


def _emergency_s(state: State, plan: Plan, look: Status, runtime_s: float, pace: float) -> float:
    """Until low battery, or a runtime within the budget, would latch all stages."""
    times = [math.inf]
    if needed_s := budget_s(state, plan):
        times.append(runtime_s - needed_s * pace)
    if not plan.ignore_low:
        if look.battery.low is True or Condition.LOW_BATTERY in look.flags:
            return 0.0
        if look.rating.low_battery_s is not None:
            times.append(runtime_s - look.rating.low_battery_s * pace)
    return min(times)


def _own_s(
    stage: Stage, state: State, look: Status, curve: Curve | None, runtime_s: float, pace: float, now_s: float
) -> list[float]:
    """Seconds until each of the stage's own triggers."""
    if state.aborted:
        return []
    times = []
    due_at_s = protection.due_at_s(stage, state)
    if due_at_s is not None:
        times.append(due_at_s - now_s)
    quiet_s = state.quiet_until_s - now_s
    if stage.runtime_below_s is not None:
        times.append(max(quiet_s, runtime_s - stage.runtime_below_s * pace))
    charge_pct = look.battery.charge_pct
    if stage.charge_below_pct is not None and charge_pct is not None:
        times.append(max(quiet_s, _until_charge_s(charge_pct, stage.charge_below_pct, look, curve, runtime_s)))
    return times


def _until_charge_s(
    charge_pct: float, below_pct: float, look: Status, curve: Curve | None, runtime_s: float
) -> float:
    """Until the charge has fallen so far: in the learned curve's shape, else evenly."""
    if charge_pct <= below_pct:
        return 0.0
    load, usable = load_pct(look), _usable(look, curve)
    whole_s, rest_s = (usable.runtime_s(pct, load) if usable else None for pct in (charge_pct, below_pct))
    if whole_s and rest_s is not None:
        return runtime_s * (1 - rest_s / whole_s)
    return runtime_s * (1 - below_pct / charge_pct)
