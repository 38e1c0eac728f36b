"""Puts together the View: everything that the core says about now, from what its rooms know. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .afterwards import charged, line_s
from .config import Config, Stage
from .curve import Curve
from .forecast import Expectation, countdown, expect
from .lasttest import LastTest
from .model import VERSION, Active, Condition, ServerView, StageView, Status, View
from .outage import Phase, Plan, Seen, State, down_s
from .ups import Polled


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the engine knows at `now_s`."""

    boot: str
    now_s: float
    wall_s: float
    clock_synced: bool
    started_s: float
    config: Config
    problems: tuple[str, ...]
    polled: Polled  # the last poll
    status: Status | None  # the last frame
    state: State
    plan: Plan
    seen: Seen
    curve: Curve | None
    drill_left_s: float | None
    active: Mapping[Condition, Active]
    servers: tuple[ServerView, ...]
    counters: Mapping[str, int]
    polls: int
    poll_errors: int
    last_event_id: int
    last_test: LastTest


def view(facts: Facts) -> View:
    """The View of these facts. After comm-lost there is no measurement any more."""
    config, state, now_s = facts.config, facts.state, facts.now_s
    lost = Condition.COMM_LOST in facts.active
    expected = None if lost else expect(state, facts.plan, facts.status, facts.curve, now_s)
    on_battery_s = now_s - state.began_s if state.on_battery and state.began_s is not None else None
    return View(
        boot=facts.boot,
        now_s=now_s,
        wall_s=facts.wall_s,
        clock_synced=facts.clock_synced,
        version=VERSION,
        name=config.name,
        started_s=facts.started_s,
        mode=config.mode,
        driver=config.driver,
        link=facts.polled.link,
        link_detail=facts.polled.error,
        link_hint=facts.polled.hint,
        status=None if lost else facts.status,
        age_s=None if facts.status is None else now_s - facts.status.taken_s,
        conditions=tuple(facts.active[c] for c in Condition if c in facts.active),
        phase=state.phase.value,
        outage=state.outage,
        on_battery_s=on_battery_s,
        held_s=state.held_s,
        aborted=state.aborted,
        wake_charge_pct=facts.plan.wake_charge_pct,
        off_in_s=_off_in_s(facts),
        wake_in_s=_wake_in_s(facts),
        drill_left_s=facts.drill_left_s,
        forecast=expected.forecast if expected else None,
        stages=_stages(facts, expected),
        servers=facts.servers,
        commands=facts.polled.commands,
        config_errors=facts.problems,
        power_failures=facts.counters["power-failures"],
        battery_total_s=facts.counters["seconds-on-battery"],
        input_bads=facts.counters.get("input-bads", 0),
        polls=facts.polls,
        poll_errors=facts.poll_errors,
        last_event_id=facts.last_event_id,
        test_order=facts.last_test.order,
        test_s=facts.last_test.began_s,
    )


def _stages(facts: Facts, expected: Expectation | None) -> tuple[StageView, ...]:
    due = countdown(facts.state, facts.plan, expected, facts.now_s)
    return tuple(_stage(s, facts.state, expected, due.get(s.name)) for s in facts.config.stages)


def _stage(stage: Stage, state: State, expected: Expectation | None, due_in_s: float | None) -> StageView:
    latch = next((latch for latch in state.latched if latch.stage == stage.name), None)
    return StageView(
        name=stage.name,
        on_battery_s=stage.on_battery_s,
        runtime_below_s=stage.runtime_below_s,
        charge_below_pct=stage.charge_below_pct,
        latched=latch is not None,
        why=latch.why if latch else "",
        forecast_s=expected.stages.get(stage.name) if expected else None,
        due_in_s=due_in_s,
    )


def _off_in_s(facts: Facts) -> float | None:
    if facts.state.phase is not Phase.COMMITTED:
        return None
    return max(0.0, down_s(facts.state, facts.plan, facts.seen) - facts.now_s)


def _wake_in_s(facts: Facts) -> float | None:
    """Recovery: until the servers are woken at the latest; 0 while they are."""
    state, plan = facts.state, facts.plan
    if state.phase is not Phase.RECOVERY:
        return None
    if state.waking:
        return 0.0
    had_time_s = 0.0 if state.cycled else down_s(state, plan, facts.seen) - facts.now_s
    return max(0.0, had_time_s, 0.0 if charged(state, plan) else plan.wake_after_s - line_s(state))
