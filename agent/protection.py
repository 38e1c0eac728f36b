"""Decides, from what the UPS really said and when, which servers must be told to shut down. Pure.

`step(state, look, now_s, ...)` is called for every frame and every half second. It alone confirms on-battery and
on-line; nothing else may. Its rules:

* Only a fresh frame confirms: two battery frames that span 3 s make an outage, mains frames over 10 s end the
  danger, 70 s of them close the outage. A gap of 15 s starts a run anew.
* Nothing but a confirmed outage latches a stage. Low battery, silence, output off or a self test on mains never do.
* Low battery, a runtime within the budget, or silence on battery latch all stages at once.
* A latched stage stays latched until the outage is closed; an earlier stage is latched with a later one.

Levels, not edges: what must be told is read off the state, so a restart resumes where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from .config import Stage
from .model import Condition, Source, Status

CONFIRM_S = 3.0  # battery frames must span this, and be two
ON_LINE_S = 10.0  # mains frames for so long: on line
CLOSE_S = 60.0  # on line for so long: the outage is over
STALE_S = 15.0  # a gap between two frames after which a run starts anew
BLIND_S = 60.0  # on battery without a frame for so long: latch all
LOST_POLLS = 3  # silence counts only if it was asked so often
MARGIN_S = 30.0  # added to the longest shutdown time
EXCUSE_S = 60.0  # a self test may look like an outage for so long
RUNTIME_RISE_PER_S = 0.10 / 60  # a runtime may not rise faster than 10 % a minute on battery
VIRTUAL_RUNTIME = 0.8  # of the last known runtime, when the UPS is silent
#: why a stage is latched; the value is seconds, percent, or the stage that takes it along
WHYS = ("on-battery", "runtime", "charge", "low-battery", "budget", "silence", "before")
MAINS_SEEN_V = 60.0  # an input voltage above this is mains, whatever the nominal


class Phase(Enum):
    """Where an outage is."""

    IDLE = "idle"
    COUNTDOWN = "countdown"  # on battery, confirmed
    HOLD = "hold"  # mains is back, the outage not yet closed
    COMMITTED = "committed"  # every stage is latched


@dataclass(frozen=True, slots=True, kw_only=True)
class Latch:
    """A stage whose servers must be told, since when, and why: one of WHYS, and a value behind a blank."""

    stage: str
    at_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that protection remembers; written to the slots whenever `durable()` changes. Times are monotonic."""

    phase: Phase = Phase.IDLE
    on_battery: bool = False  # confirmed
    outage: str | None = None  # 16 hex digits
    began_s: float | None = None  # the first battery frame of this outage
    latched: tuple[Latch, ...] = ()
    unproven: bool = False  # after a reboot: tell nobody until this boot has seen the outage itself
    battery_from_s: float | None = None  # the run of battery frames
    battery_frames: int = 0
    line_from_s: float | None = None  # the run of mains frames
    test_from_s: float | None = None  # the run of frames with a self test
    seen_battery: bool = False  # the last frame that said either said battery
    last_frame_s: float | None = None
    runtime_s: float | None = None  # as last believed
    charge_pct: float | None = None
    low: bool = False

    def durable(self) -> tuple[object, ...]:
        """What must not be lost: the slots are written when this changes."""
        return self.phase, self.on_battery, self.outage, self.began_s, self.latched, self.unproven, self.seen_battery

    def to_tell(self) -> tuple[str, ...]:
        """The stages whose servers must be told now, in the order of their latching."""
        return () if self.unproven else tuple(latch.stage for latch in self.latched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What protection needs of the configuration: the stages in their order, and the longest time of each."""

    stages: tuple[Stage, ...] = ()
    needs_s: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds of its slowest server


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Something to write into the log; `kind`: outage-began, mains-back, battery-again, latched, outage-closed."""

    kind: str
    stage: str = ""
    why: str = ""


def step(
    state: State, look: Status | None, now_s: float, *, plan: Plan, failed_polls: int, fresh_id: str
) -> tuple[State, tuple[Effect, ...]]:
    """One step. `look` is a frame just received, or None for a tick or a failed poll.

    `now_s` is the monotonic second (not before `look.taken_s`), `failed_polls` the number of polls in a row that
    brought nothing, `fresh_id` the id a new outage would get. Returns the new state and what to write down.
    """
    effects: list[Effect] = []
    if look is not None:
        state = _take(state, look)
        state = _confirm(state, look.taken_s, fresh_id, effects)
    if state.on_battery and state.seen_battery:
        state = _latch(state, now_s, plan, failed_polls, effects)
    return state, tuple(effects)


def resume(state: State, now_s: float, *, same_boot: bool) -> State:
    """The state after a restart of the program: in the same boot all clocks go on; after a reboot they begin anew.

    After a reboot nobody is told before this boot has seen the outage, or has been blind for 60 s.
    """
    state = replace(state, battery_from_s=None, battery_frames=0, line_from_s=None, test_from_s=None)
    if same_boot or state.phase is Phase.IDLE:
        return state
    return replace(
        state,
        began_s=now_s,
        last_frame_s=now_s,
        runtime_s=None,
        latched=tuple(replace(latch, at_s=now_s) for latch in state.latched),
        unproven=True,
    )


def confirms_at_s(state: State) -> float | None:
    """The second at which one more battery frame would confirm the outage; None while none is in sight."""
    if state.battery_from_s is None or (state.on_battery and not state.unproven):
        return None
    return state.battery_from_s + CONFIRM_S


def budget_s(state: State, plan: Plan) -> float:
    """Seconds that the stages not yet latched still need, with the margin; 0 if none of them has a server."""
    latched = {latch.stage for latch in state.latched}
    needs = [plan.needs_s[s.name] for s in plan.stages if s.name not in latched and s.name in plan.needs_s]
    return max(needs) + MARGIN_S if needs else 0.0


def virtual_runtime_s(state: State, now_s: float) -> float | None:
    """The runtime as last believed, or less when the UPS has been silent since; None if it never said one."""
    if state.runtime_s is None or state.last_frame_s is None:
        return None
    age_s = now_s - state.last_frame_s
    return state.runtime_s if age_s <= STALE_S else VIRTUAL_RUNTIME * state.runtime_s - age_s


def _take(state: State, look: Status) -> State:
    """The frame's facts: runs of battery and mains frames, and the numbers."""
    now_s = look.taken_s
    gap = state.last_frame_s is None or now_s - state.last_frame_s > STALE_S
    if gap:
        state = replace(state, battery_from_s=None, battery_frames=0, line_from_s=None, test_from_s=None)
    testing = Condition.TEST_RUNNING in look.flags
    test_from_s = (now_s if state.test_from_s is None else state.test_from_s) if testing else None
    battery = look.source is Source.BATTERY and not _excused(look, test_from_s)
    line = look.source in (Source.MAINS, Source.BYPASS, Source.BOOST, Source.BUCK)
    runtime_s = look.battery.runtime_s
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
        charge_pct=look.battery.charge_pct,
        low=look.battery.low is True or Condition.LOW_BATTERY in look.flags,
    )


def _excused(look: Status, test_from_s: float | None) -> bool:
    """A battery frame during a self test is no outage: as long as the input is seen to be there, else for 60 s
    and only until low battery."""
    if test_from_s is None:
        return False
    volts = [line.voltage_v for line in look.inputs if line.voltage_v is not None]
    if volts and min(volts) > MAINS_SEEN_V:
        return True
    low = look.battery.low is True or Condition.LOW_BATTERY in look.flags
    return not low and look.taken_s - test_from_s < EXCUSE_S


def _confirm(state: State, now_s: float, fresh_id: str, effects: list[Effect]) -> State:
    """On battery, on line, outage closed: at the receipt of a frame only."""
    if (
        state.battery_from_s is not None
        and state.battery_frames >= 2
        and now_s - state.battery_from_s >= CONFIRM_S
        and (not state.on_battery or state.unproven)
    ):
        if state.phase is Phase.IDLE:
            effects.append(Effect(kind="outage-began"))
            return replace(
                state, phase=Phase.COUNTDOWN, on_battery=True, outage=fresh_id, began_s=state.battery_from_s
            )
        effects.append(Effect(kind="battery-again"))
        phase = Phase.COUNTDOWN if state.phase is Phase.HOLD else state.phase
        return replace(state, phase=phase, on_battery=True, unproven=False)
    line_s = 0.0 if state.line_from_s is None else now_s - state.line_from_s
    if state.on_battery and line_s >= ON_LINE_S:
        effects.append(Effect(kind="mains-back"))
        held = Phase.HOLD if state.phase is Phase.COUNTDOWN else state.phase
        state = replace(state, on_battery=False, phase=held)
    if state.phase is not Phase.IDLE and line_s >= ON_LINE_S + CLOSE_S:
        effects.append(Effect(kind="outage-closed"))
        return State(
            last_frame_s=state.last_frame_s,
            line_from_s=state.line_from_s,
            runtime_s=state.runtime_s,
            charge_pct=state.charge_pct,
            low=state.low,
        )
    return state


def _latch(state: State, now_s: float, plan: Plan, failed_polls: int, effects: list[Effect]) -> State:
    """Latch what is due. The outage is confirmed, and the last frame that said either said battery."""
    if state.last_frame_s is None or state.began_s is None:
        return state
    age_s = now_s - state.last_frame_s
    if age_s > STALE_S and failed_polls < LOST_POLLS:
        return state  # nobody has asked: a process that was stopped must look before it acts
    if state.unproven and age_s < BLIND_S:
        return state
    latched = {latch.stage for latch in state.latched}
    runtime_s = virtual_runtime_s(state, now_s)
    critical = _critical(state, runtime_s, age_s, budget_s(state, plan))
    on_battery_s = now_s - state.began_s
    if critical and state.unproven:
        state = replace(state, unproven=False)
    last_due = -1
    reasons: dict[int, str] = {}
    for number, stage in enumerate(plan.stages):
        why = critical or _trigger(stage, on_battery_s, runtime_s, state.charge_pct)
        if why:
            last_due, reasons[number] = number, why
    new = [
        Latch(stage=stage.name, at_s=now_s, why=reasons.get(number, f"before {plan.stages[last_due].name}"))
        for number, stage in enumerate(plan.stages[: last_due + 1])
        if stage.name not in latched
    ]
    if new:
        effects.extend(Effect(kind="latched", stage=latch.stage, why=latch.why) for latch in new)
        state = replace(state, latched=(*state.latched, *new))
    if plan.stages and {s.name for s in plan.stages} <= latched | {latch.stage for latch in new}:
        return replace(state, phase=Phase.COMMITTED)
    return state


def _critical(state: State, runtime_s: float | None, age_s: float, needed_s: float) -> str:
    """Why every stage must be latched at once, or ''."""
    if age_s >= BLIND_S:
        return f"silence {age_s:.0f}"
    if state.low:
        return "low-battery"
    if runtime_s is not None and needed_s > 0 and runtime_s <= needed_s:
        return f"budget {max(0.0, runtime_s):.0f}"
    return ""


def _trigger(stage: Stage, on_battery_s: float, runtime_s: float | None, charge_pct: float | None) -> str:
    """Why this stage is due by its own triggers, or ''."""
    if stage.on_battery_s is not None and on_battery_s >= stage.on_battery_s:
        return f"on-battery {on_battery_s:.0f}"
    if stage.runtime_below_s is not None and runtime_s is not None and runtime_s < stage.runtime_below_s:
        return f"runtime {max(0.0, runtime_s):.0f}"
    if stage.charge_below_pct is not None and charge_pct is not None and charge_pct < stage.charge_below_pct:
        return f"charge {charge_pct:.0f}"
    return ""
