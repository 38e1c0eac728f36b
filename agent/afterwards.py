"""What follows when everybody was told: the UPS is switched off late, and those that went down come back. Pure.

* The point of no return is COMMITTED: every stage is latched, everybody is told, also when the mains comes back.
  Servers that went down with the mains on would stay off for ever, so their power is cycled, or they are woken.
* The UPS is switched off only after the last server has had its time, only with the return of the mains ordered in
  the same command, and only where the driver is proven to do so; on mains only if it is proven to cycle on mains.
  Without that it is left out, and said.
* Recovery waits until the battery can carry another outage: a charge, or a time on line.
"""

from __future__ import annotations

from dataclasses import replace

from .outage import Effect, Phase, Plan, Seen, State, down_s

ON_LINE_S = 10.0  # mains frames for so long: on line
CLOSE_S = 60.0  # on line for so long: the outage is over
FRESH_S = 15.0  # an older frame is no reason to switch off on battery: the mains may be back unseen
OFF_PATIENCE_S = 60.0  # after the delay: a UPS that still runs has ignored the order
RECOVERY_LIMIT_S = 24 * 3600.0
PLANNED_LIMIT_S = 900.0  # a planned shutdown goes on trying for so long after the last server's time


def fresh(state: State) -> State:
    """A state without an outage: only what the last frames said."""
    return State(
        last_frame_s=state.last_frame_s,
        battery_from_s=state.battery_from_s,
        battery_frames=state.battery_frames,
        line_from_s=state.line_from_s,
        test_from_s=state.test_from_s,
        seen_battery=state.seen_battery,
        runtime_s=state.runtime_s,
        charge_pct=state.charge_pct,
        low=state.low,
        said_runtime_s=state.said_runtime_s,
        said_charge_pct=state.said_charge_pct,
        said_low=state.said_low,
        charge_guessed=state.charge_guessed,
        says_low=state.says_low,
    )


def closed(state: State, now_s: float, seen: Seen, effects: list[Effect]) -> State:
    """Mains frames for 70 s: an outage that is not committed is over. After a reboot before the UPS was switched off
    a committed one is, too: the power came back, and those that were told are woken. What an administrator has
    ordered meanwhile is done first."""
    if state.phase is not Phase.HOLD and not (state.phase is Phase.COMMITTED and state.unproven):
        return state
    ordered_s = [latch.at_s for latch in state.latched if latch.why in ("planned", "ordered")]
    if ordered_s and not seen.all_told and now_s < max(ordered_s) + PLANNED_LIMIT_S:
        return state
    effects.append(Effect(kind="outage-closed"))
    if not state.latched and not state.owed:
        return fresh(state)
    return _recover(state, now_s, effects)


def go_on(state: State, now_s: float, plan: Plan, seen: Seen, effects: list[Effect]) -> State:
    """What the passing of time brings in the phases behind the countdown."""
    if state.phase is Phase.COMMITTED and not state.unproven and now_s >= down_s(state, plan, seen):
        state = replace(state, phase=Phase.OFF_ARMED)
    if state.phase is Phase.OFF_ARMED and not state.unproven:
        state = _switch_off(state, now_s, plan, seen, effects)
    if state.phase is Phase.OFF_ARMED:
        return _mains_for_good(state, now_s, plan, effects)
    if state.phase is Phase.RECOVERY:
        return _recovery(state, now_s, plan, seen, effects)
    if state.phase is Phase.PLANNED:
        end_s = down_s(state, plan, seen)
        if now_s >= end_s + (0.0 if seen.all_told else PLANNED_LIMIT_S):
            effects.append(Effect(kind="planned-ended"))
            return fresh(state)
    return state


def _switch_off(state: State, now_s: float, plan: Plan, seen: Seen, effects: list[Effect]) -> State:
    """Order the UPS off, once, and again when it did not obey. Or leave it out, and say so."""
    delay_s = plan.off_delay_s()
    if plan.ups_off == "no":
        return _left_out(state, plan.no_off_why, effects)
    if now_s < down_s(state, plan, seen):
        return state  # somebody was told only now, and has his time as well
    if state.off_sent_s is None:
        fresh = state.last_frame_s is not None and now_s - state.last_frame_s <= FRESH_S
        if (state.runs_on_battery() and fresh) or (plan.ups_off == "always" and not state.on_battery):
            effects.append(Effect(kind="ups-off", delay_s=delay_s))
            return replace(state, off_sent_s=now_s, off_taken=False)
        return state if state.on_battery else _left_out(state, "mains", effects)
    ignored_s = state.off_sent_s + delay_s + OFF_PATIENCE_S
    if state.runs_on_battery() and state.last_frame_s is not None and state.last_frame_s >= ignored_s:
        effects.append(Effect(kind="ups-off-ignored"))
        effects.append(Effect(kind="ups-off", delay_s=delay_s))
        return replace(state, off_sent_s=now_s, off_taken=False)
    return state


def _left_out(state: State, why: str, effects: list[Effect]) -> State:
    if state.off_skipped:
        return state
    effects.append(Effect(kind="ups-off-skipped", why=why))
    return replace(state, off_skipped=True)


def _mains_for_good(state: State, now_s: float, plan: Plan, effects: list[Effect]) -> State:
    """After the UPS was switched off and on again, or that was left out: the recovery begins with 70 s of mains."""
    if line_s(state) < ON_LINE_S + CLOSE_S:
        return state
    if state.off_sent_s is not None and now_s < state.off_sent_s + plan.off_delay_s() + OFF_PATIENCE_S:
        return state
    effects.append(Effect(kind="outage-closed"))
    return _recover(state, now_s, effects)


def line_s(state: State) -> float:
    """For how long the frames have said mains."""
    if state.line_from_s is None or state.last_frame_s is None:
        return 0.0
    return state.last_frame_s - state.line_from_s


def _recover(state: State, now_s: float, effects: list[Effect]) -> State:
    effects.append(Effect(kind="recovery-began"))
    return replace(
        fresh(state),
        phase=Phase.RECOVERY,
        outage=state.outage,
        began_s=state.began_s,
        latched=state.latched,
        off_sent_s=state.off_sent_s,
        cycled=state.cycled,
        recovery_from_s=now_s,
    )


def may_wake(state: State, now_s: float, plan: Plan, seen: Seen) -> bool:
    """May the servers be woken: had everybody his time to go down, and can the battery carry another outage?"""
    if state.line_from_s is None or (not state.cycled and now_s < down_s(state, plan, seen)):
        return False
    return charged(state, plan) or line_s(state) >= plan.wake_after_s


def charged(state: State, plan: Plan) -> bool:
    """Can the battery carry another outage, by the unit's own word? What is guessed of a voltage is full as soon as
    the charger lifts that."""
    return state.charge_pct is not None and not state.charge_guessed and state.charge_pct >= plan.wake_charge_pct


def _recovery(state: State, now_s: float, plan: Plan, seen: Seen, effects: list[Effect]) -> State:
    over = state.recovery_from_s is not None and now_s - state.recovery_from_s >= RECOVERY_LIMIT_S
    if over or (state.waking and seen.all_back):
        effects.append(Effect(kind="recovered", why="given-up" if over else ""))
        return fresh(state)
    if not state.waking and may_wake(state, now_s, plan, seen):
        effects.append(Effect(kind="waking"))
        return replace(state, waking=True)
    return state
