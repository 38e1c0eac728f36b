"""Decides, from what the UPS really said and when, which servers must be told to shut down. Pure.

`step(state, look, now_s, ...)` is called for every frame and every half second. It alone confirms on-battery and
on-line; nothing else may. Its rules:

* Only a fresh frame confirms: two battery frames that span 3 s make an outage, mains frames over 10 s end the
  danger, 70 s of them close the outage. A gap of 15 s starts a run anew.
* Nothing but a confirmed outage latches a stage, or an administrator's order (agent/byhand.py). Low battery,
  silence, output off or a self test on mains never do.
* Low battery, a runtime within the budget, or silence on battery latch all stages at once. One frame alone says
  neither: of two in a row the milder counts, so that a damaged one shuts nobody down; before silence the last does.
* A latched stage stays latched until the recovery; an earlier stage is latched with a later one. When all are,
  there is no way back: see agent/afterwards.py.

Levels, not edges: what must be told is read off the state, so a restart resumes where it was.
"""

from __future__ import annotations

from dataclasses import replace

from . import afterwards
from .config import Stage
from .model import FED_BY_MAINS, Condition, Source, Status
from .outage import MARGIN_S, Effect, Latch, Phase, Plan, Seen, State, budget_s

CONFIRM_S = 3.0  # battery frames must span this, and be two
LOW_AGAIN_S = 1.0  # after a first frame with low battery, whatever the usual pace
STALE_S = 15.0  # a gap between two frames after which a run starts anew
BLIND_S = 60.0  # on battery without a frame for so long: latch all
LOST_POLLS = 3  # silence counts only if it was asked so often
EXCUSE_S = 60.0  # a self test may look like an outage for so long
RUNTIME_RISE_PER_S = 0.10 / 60  # a runtime may not rise faster than 10 % a minute on battery
VIRTUAL_RUNTIME = 0.8  # of the last known runtime, when the UPS is silent
NOTHING_SEEN = Seen()
MAINS_PART = 0.8, 1.2  # of the nominal voltage: the mains is there
NOMINALS_V = (110.0, 230.0)  # of a UPS that does not say its own


def step(
    state: State,
    look: Status | None,
    now_s: float,
    *,
    plan: Plan,
    failed_polls: int,
    fresh_id: str,
    seen: Seen = NOTHING_SEEN,
) -> tuple[State, tuple[Effect, ...]]:
    """One step. `look` is a frame just received, or None for a tick or a failed poll.

    `now_s` is the monotonic second (not before `look.taken_s`), `failed_polls` the number of polls in a row that
    brought nothing, `fresh_id` the id a new outage would get, `seen` what the delivery knows. Returns the new state
    and what happened.
    """
    effects: list[Effect] = []
    if look is not None:
        state = _take(state, look)
        state = _confirm(state, look.taken_s, fresh_id, seen, effects)
    if state.battery_now() and not state.cycled:
        state = _latch(state, now_s, plan, failed_polls, effects)
    ends = (state.power_ends or _power_ends(state, now_s, plan, failed_polls)) and state.battery_now()
    if ends != state.power_ends:
        state = replace(state, power_ends=ends)
    state = afterwards.go_on(state, now_s, plan, seen, effects)
    return state, tuple(effects)


def resume(state: State, now_s: float, *, same_boot: bool) -> State:
    """The state after a restart of the program: in the same boot all clocks go on; after a reboot they begin anew.

    Nothing more is latched before a frame came, or three polls failed: the mains may be back since.
    After a reboot nobody is told before this boot has seen the outage, or has been blind for 60 s. An order to shut
    down that an administrator gave goes on: it needs no evidence.
    """
    state = replace(state, battery_from_s=None, battery_frames=0, line_from_s=None, test_from_s=None, unheard=True)
    if same_boot or state.phase is Phase.IDLE:
        return replace(state, off_taken=state.off_sent_s is not None)
    state = replace(
        state,
        began_s=now_s,
        last_frame_s=now_s,
        runtime_s=None,
        said_runtime_s=None,
        quiet_until_s=0.0,
        latched=tuple(replace(latch, at_s=now_s) for latch in state.latched),
    )
    if state.phase is Phase.PLANNED:
        return state
    if state.phase is Phase.RECOVERY:
        return replace(state, recovery_from_s=now_s, waking=False)
    cycled = state.cycled or state.off_sent_s is not None
    return replace(state, unproven=True, cycled=cycled, off_sent_s=None, off_taken=False, power_ends=False)


def confirms_at_s(state: State) -> float | None:
    """The second at which one more battery frame would confirm the outage; None while none is in sight."""
    if state.battery_from_s is None or (state.on_battery and not state.unproven):
        return None
    return state.battery_from_s + CONFIRM_S


def look_again_at_s(state: State) -> float | None:
    """The second at which one more frame would decide something: confirm the outage, or a low battery in it."""
    if state.battery_now() and state.said_low and not state.low and state.last_frame_s is not None:
        return state.last_frame_s + LOW_AGAIN_S
    return confirms_at_s(state)


def virtual_runtime_s(state: State, now_s: float) -> float | None:
    """The runtime as last believed, or less when the UPS has been silent since: then what it said last counts, though
    it said so once. None if it says none."""
    if state.last_frame_s is None:
        return None
    age_s = now_s - state.last_frame_s
    if age_s <= STALE_S:
        return state.runtime_s
    last_s = state.said_runtime_s if state.runtime_s is None else state.runtime_s
    return None if last_s is None else VIRTUAL_RUNTIME * last_s - age_s


def _take(state: State, look: Status) -> State:
    """The frame's facts: runs of battery and mains frames, and the numbers."""
    now_s = look.taken_s
    gap = state.last_frame_s is None or now_s - state.last_frame_s > STALE_S
    if gap:
        state = replace(state, battery_from_s=None, battery_frames=0, line_from_s=None, test_from_s=None)
    testing = Condition.TEST_RUNNING in look.flags
    test_from_s = (now_s if state.test_from_s is None else state.test_from_s) if testing else None
    battery = look.source is Source.BATTERY and not _excused(look, test_from_s)
    line = look.source in FED_BY_MAINS or look.source is Source.BYPASS
    said, low = look.battery, _is_low(look)
    runtime_s = _milder(said.runtime_s, state.said_runtime_s, on_battery=True)
    if runtime_s is not None and state.on_battery and state.runtime_s is not None and state.last_frame_s is not None:
        rise = 1 + RUNTIME_RISE_PER_S * max(0.0, now_s - state.last_frame_s)
        runtime_s = min(runtime_s, state.runtime_s * rise)
    return replace(
        state,
        battery_from_s=(now_s if state.battery_from_s is None else state.battery_from_s) if battery else None,
        battery_frames=state.battery_frames + 1 if battery else 0,
        line_from_s=(now_s if state.line_from_s is None else state.line_from_s) if line else None,
        test_from_s=test_from_s,
        seen_battery=battery or (state.seen_battery and not line),
        last_frame_s=now_s,
        runtime_s=runtime_s,
        charge_pct=_milder(said.charge_pct, state.said_charge_pct, on_battery=battery),
        charge_guessed="charge_pct" in said.estimated,
        low=low and state.said_low and not gap,
        said_runtime_s=said.runtime_s,
        said_charge_pct=said.charge_pct,
        said_low=low,
        says_low=state.says_low or look.battery.low is not None,
        unheard=False,
    )


def _milder(said: float | None, before: float | None, *, on_battery: bool) -> float | None:
    """Of a number in two frames that on which less would be done: on battery the larger, else the smaller. None: one
    of them does not say it, and one alone is not believed, also after a gap."""
    if said is None or before is None:
        return None
    return max(said, before) if on_battery else min(said, before)


def _is_low(look: Status) -> bool:
    return look.battery.low is True or Condition.LOW_BATTERY in look.flags


def _excused(look: Status, test_from_s: float | None) -> bool:
    """A battery frame during a self test is no outage: as long as the input is seen to be there, else for 60 s
    and only until low battery."""
    if test_from_s is None:
        return False
    volts = [line.voltage_v for line in look.inputs if line.voltage_v is not None]
    if volts and all(_is_mains(voltage_v, look.rating.input_voltage_v) for voltage_v in volts):
        return True
    return not _is_low(look) and look.taken_s - test_from_s < EXCUSE_S


def _is_mains(voltage_v: float, nominal_v: float | None) -> bool:
    """Is this an input voltage from which no UPS would switch to its battery?"""
    low, high = MAINS_PART
    nominals = (nominal_v,) if nominal_v else NOMINALS_V
    return any(low * nominal <= voltage_v <= high * nominal for nominal in nominals)


def _confirm(state: State, now_s: float, fresh_id: str, seen: Seen, effects: list[Effect]) -> State:
    """On battery, on line, outage closed: at the receipt of a frame only."""
    if (
        state.battery_from_s is not None
        and state.battery_frames >= 2
        and now_s - state.battery_from_s >= CONFIRM_S
        and (not state.on_battery or state.unproven)
    ):
        return _on_battery(state, state.battery_from_s, fresh_id, effects)
    line_s = 0.0 if state.line_from_s is None else now_s - state.line_from_s
    if state.on_battery and line_s >= afterwards.ON_LINE_S:
        effects.append(Effect(kind="mains-back"))
        state = replace(state, on_battery=False, phase=Phase.HOLD if state.phase is Phase.COUNTDOWN else state.phase)
    if line_s >= afterwards.ON_LINE_S + afterwards.CLOSE_S:
        return afterwards.closed(state, now_s, seen, effects)
    return state


def _on_battery(state: State, from_s: float, fresh_id: str, effects: list[Effect]) -> State:
    """Confirmed: another outage, or the one that was open goes on."""
    if state.phase in (Phase.IDLE, Phase.RECOVERY):
        effects.append(Effect(kind="outage-began"))
        owed = state.phase is Phase.RECOVERY  # it is interrupted: whoever is still down is woken after this one
        fresh = afterwards.fresh(state)
        return replace(fresh, phase=Phase.COUNTDOWN, on_battery=True, outage=fresh_id, began_s=from_s, owed=owed)
    effects.append(Effect(kind="battery-again"))
    if state.phase is Phase.PLANNED:
        return replace(state, phase=Phase.COUNTDOWN, on_battery=True, began_s=from_s)
    if state.unproven and state.phase is Phase.OFF_ARMED:  # after a reboot everybody gets his time once more
        state = replace(state, phase=Phase.COMMITTED, off_skipped=False)
    phase = Phase.COUNTDOWN if state.phase is Phase.HOLD else state.phase
    return replace(state, phase=phase, on_battery=True, unproven=False, cycled=False)


def _latch(state: State, now_s: float, plan: Plan, failed_polls: int, effects: list[Effect]) -> State:
    """Latch what is due. The outage is confirmed, and the last frame that said either said battery."""
    if state.last_frame_s is None or state.began_s is None:
        return state
    age_s = now_s - state.last_frame_s
    if (age_s > STALE_S or state.unheard) and failed_polls < LOST_POLLS:
        return state  # nobody has asked: a process that was stopped must look before it acts
    if state.unproven and age_s < BLIND_S:
        return state
    runtime_s = virtual_runtime_s(state, now_s)
    critical = _critical(state, runtime_s, age_s, plan)
    if critical and state.unproven:
        state = replace(state, unproven=False)
    whys = [critical or _trigger(stage, state, now_s, runtime_s) for stage in plan.stages]
    return latch_up_to(state, whys, now_s, plan, effects)


def latch_up_to(state: State, whys: list[str], now_s: float, plan: Plan, effects: list[Effect]) -> State:
    """Latch the stages with a reason (`whys`, one for each of the plan, '' for none) and all before the last of them.

    On battery, with all of them latched, the outage is committed.
    """
    latched = {latch.stage for latch in state.latched}
    last_due = max((number for number, why in enumerate(whys) if why), default=-1)
    new = [
        Latch(stage=stage.name, at_s=now_s, why=why or f"before {plan.stages[last_due].name}")
        for stage, why in zip(plan.stages[: last_due + 1], whys, strict=False)
        if stage.name not in latched
    ]
    effects.extend(Effect(kind="latched", stage=latch.stage, why=latch.why) for latch in new)
    state = replace(state, latched=(*state.latched, *new)) if new else state
    everything = bool(plan.stages) and {s.name for s in plan.stages} <= {latch.stage for latch in state.latched}
    if everything and state.phase is Phase.COUNTDOWN and state.on_battery:
        effects.append(Effect(kind="committed"))
        return replace(state, phase=Phase.COMMITTED)
    return state


def _power_ends(state: State, now_s: float, plan: Plan, failed_polls: int) -> bool:
    """Everybody had his time, and the battery is at its end, as far as anybody can know: low, a runtime that just
    suffices for this host, silence, or a UPS that says neither."""
    if state.phase is not Phase.OFF_ARMED or not state.battery_now() or state.last_frame_s is None:
        return False
    age_s = now_s - state.last_frame_s
    if age_s > STALE_S and failed_polls < LOST_POLLS:
        return False
    runtime_s = virtual_runtime_s(state, now_s)
    if age_s >= BLIND_S or (_low(state, age_s) and not plan.ignore_low):
        return True
    return runtime_s <= plan.local_needs_s + MARGIN_S if runtime_s is not None else not state.says_low


def _critical(state: State, runtime_s: float | None, age_s: float, plan: Plan) -> str:
    """Why every stage must be latched at once, or ''."""
    if age_s >= BLIND_S:
        return f"silence {age_s:.0f}"
    if _low(state, age_s) and not plan.ignore_low:
        return "low-battery"
    needed_s = budget_s(state, plan)
    if runtime_s is not None and needed_s > 0 and runtime_s <= needed_s:
        return f"budget {max(0.0, runtime_s):.0f}"
    return ""


def _low(state: State, age_s: float) -> bool:
    """Two frames have said so, or the last one before silence."""
    return state.low or (state.said_low and age_s > STALE_S)


def due_at_s(stage: Stage, state: State) -> float | None:
    """The second at which this stage is due by its time on battery, holds included; None: not by time."""
    if stage.on_battery_s is None or state.began_s is None or state.aborted:
        return None
    return state.began_s + stage.on_battery_s + state.held_s


def _trigger(stage: Stage, state: State, now_s: float, runtime_s: float | None) -> str:
    """Why this stage is due by its own triggers, or ''."""
    due_s = due_at_s(stage, state)
    if due_s is not None and now_s >= due_s:
        return f"on-battery {now_s - (state.began_s or 0.0):.0f}"
    if state.aborted or now_s < state.quiet_until_s:
        return ""
    if stage.runtime_below_s is not None and runtime_s is not None and runtime_s < stage.runtime_below_s:
        return f"runtime {max(0.0, runtime_s):.0f}"
    charge_pct = state.charge_pct
    if stage.charge_below_pct is not None and charge_pct is not None and charge_pct < stage.charge_below_pct:
        return f"charge {charge_pct:.0f}"
    return ""
