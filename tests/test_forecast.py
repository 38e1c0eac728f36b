"""The forecast against protection itself on an ideal battery: through holds, aborts, orders and mains in between."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agent import byhand, ladder, rehearse, verbs, words
from agent.config import Server, Stage
from agent.curve import Curve
from agent.forecast import Expectation, expect, filled
from agent.model import Battery, Condition, OrderError, Rating, Source, Status
from agent.outage import Latch, Phase, Plan, State
from agent.protection import step
from tests.kit import BATTERY, MAINS, Play, look

FLAT = Curve(s_per_pct=(6.0,) * 10, outages=1)  # 600 s at full load


def plain(status: Status, **battery: object) -> Status:
    return replace(status, rating=Rating(), battery=Battery(**battery))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ideal:
    """A battery that lasts exactly as long as its UPS says, or as its curve, of which the UPS says nothing, or
    `boast` times as much."""

    runtime_s: float
    charge_pct: float
    curve: Curve | None
    low_s: float | None
    boast: float | None = None

    def lasts_s(self) -> float:
        learned_s = self.curve.runtime_s(self.charge_pct, 30.0) if self.curve else None
        return self.runtime_s if learned_s is None else learned_s

    def frame(self, spent_s: float, now_s: float, *, mains: bool) -> Status:
        """After so many seconds of battery."""
        rest_s = max(0.0, self.lasts_s() - spent_s)
        low = self.low_s is not None and rest_s * (self.boast if self.curve and self.boast else 1.0) <= self.low_s
        status = replace(look(MAINS if mains else BATTERY, at_s=now_s), rating=Rating(low_battery_s=self.low_s))
        if self.curve is None:
            charge_pct = self.charge_pct * rest_s / self.runtime_s
            return replace(status, battery=Battery(charge_pct=charge_pct, runtime_s=rest_s, low=low))
        charge_pct, full_load_s = 0.0, rest_s * 0.3
        for per_pct in self.curve.s_per_pct:
            charge_pct += min(10.0, full_load_s / (per_pct or 1.0))
            full_load_s = max(0.0, full_load_s - 10.0 * (per_pct or 1.0))
        said_s = None if self.boast is None else rest_s * self.boast
        battery = Battery(charge_pct=charge_pct, runtime_s=said_s, low=low)
        return filled(replace(status, battery=battery), self.curve, None)


ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(5, 2000)),  # on battery
        st.one_of(st.none(), st.integers(1, 1500)),  # runtime below
        st.one_of(st.none(), st.integers(1, 99)),  # charge below
        st.one_of(st.none(), st.integers(1, 600)),  # its slowest server
    ),
    min_size=1,
    max_size=4,
)
CURVES = st.lists(st.floats(1.0, 12.0), min_size=10, max_size=10).map(lambda rows: Curve(s_per_pct=tuple(rows)))
BATTERIES = st.builds(
    Ideal,
    runtime_s=st.integers(60, 2000).map(float),
    charge_pct=st.integers(20, 100).map(float),
    curve=st.one_of(st.none(), CURVES),
    low_s=st.one_of(st.none(), st.integers(10, 300).map(float)),
    boast=st.one_of(st.none(), st.sampled_from([1.0, 1.5, 3.0])),
)
#: what happened before the forecast: seconds on battery or mains, or an administrator's order
PAST = st.lists(
    st.one_of(
        st.tuples(st.just("battery"), st.integers(1, 300)),
        st.tuples(st.just("mains"), st.integers(1, 75)),
        st.tuples(st.sampled_from(["hold", "abort", "release", "shutdown"]), st.just(0)),
    ),
    max_size=5,
)


class Outage:
    """Protection on that battery, a frame a second."""

    def __init__(self, plan: Plan, battery: Ideal) -> None:
        self.plan, self.battery = plan, battery
        self.state, self.now_s, self.spent_s = State(), 1000.0, 0.0
        self.status = battery.frame(0.0, self.now_s, mains=True)

    def second(self, *, mains: bool) -> None:
        self.status = self.battery.frame(self.spent_s, self.now_s, mains=mains)
        self.state, _ = step(self.state, self.status, self.now_s, plan=self.plan, failed_polls=0, fresh_id="x")
        self.now_s += 1.0
        self.spent_s += 0.0 if mains else 1.0

    def order(self, do: str) -> None:
        try:
            if do == "hold":
                self.state, _ = byhand.hold(self.state, self.now_s, self.plan)
            elif do == "abort":
                self.state, _ = byhand.abort(self.state, self.plan)
            elif do == "release":
                self.state, _ = byhand.release(self.state)
            else:
                self.state, _ = byhand.shutdown(self.state, self.plan.stages[0].name, self.now_s, self.plan, "x")
        except OrderError:
            pass

    def forecast(self, other_s: float = 0.0) -> Expectation:
        """From now; `other_s`: of a battery that is so many seconds further."""
        state = replace(self.state, runtime_s=None) if other_s else self.state
        frame = self.battery.frame(self.spent_s + other_s, self.now_s, mains=not self.state.seen_battery)
        found = expect(state, self.plan, frame, self.battery.curve, self.now_s)
        assert found is not None
        return found

    def is_clear(self) -> bool:
        """Whether the forecast is no matter of two seconds more or less."""
        later, _ = step(self.state, None, self.now_s + 5, plan=self.plan, failed_polls=0, fresh_id="x")
        if self.state.phase is Phase.PLANNED and later.phase is not Phase.PLANNED:
            return False  # it ends while the outage is being confirmed
        here = self.forecast().stages
        for other in (self.forecast(-2.0).stages, self.forecast(2.0).stages):
            for name, due_s in here.items():
                else_s = other[name]
                if (due_s is None) != (else_s is None) or abs((due_s or 0.0) - (else_s or 0.0)) > 4.0:
                    return False
        return True


def plan_of(rows: list[tuple[int | None, ...]], local_needs_s: float, ignore_low: bool) -> Plan:
    stages = tuple(
        Stage(name=f"s{n}", on_battery_s=a, runtime_below_s=b, charge_below_pct=c)
        for n, (a, b, c, _) in enumerate(rows)
    )
    needs_s = {f"s{n}": float(row[3]) for n, row in enumerate(rows) if row[3]}
    return Plan(stages=stages, needs_s=needs_s, local_needs_s=local_needs_s, ignore_low=ignore_low)


def played(play: Outage) -> dict[str, float]:
    """Battery until its end: the seconds from now at which each stage was latched."""
    began_s = play.now_s
    while play.spent_s <= play.battery.lasts_s() + 4:
        if play.state.phase is not Phase.RECOVERY and len(play.state.latched) == len(play.plan.stages):
            break
        play.second(mains=False)
    return {latch.stage: latch.at_s - began_s for latch in play.state.latched}


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(ROWS, BATTERIES, PAST, st.sampled_from([0.0, 0.0, 60.0]), st.booleans())
def test_the_forecast_is_what_protection_does_on_an_ideal_battery(
    rows: list[tuple[int | None, ...]],
    battery: Ideal,
    past: list[tuple[str, int]],
    local_needs_s: float,
    ignore_low: bool,
) -> None:
    play = Outage(plan_of(rows, local_needs_s, ignore_low), battery)
    play.second(mains=True)
    for do, seconds in past:
        if not seconds:
            play.order(do)
        for _ in range(seconds):
            play.second(mains=do == "mains")
    assume(play.spent_s + 10 < battery.lasts_s() and play.is_clear())
    expected, plan = play.forecast(), play.plan
    rest_s = battery.lasts_s() - play.spent_s
    assert expected.forecast.runtime_s == pytest.approx(rest_s, abs=2.0)
    at = played(play)
    for name, due_s in expected.stages.items():
        if due_s is None:
            assert name not in at or at[name] >= rest_s - 3
        else:
            assert at[name] == pytest.approx(due_s, abs=3.0)  # two frames must say so
    counts = [s.name for s in plan.stages if s.name in plan.needs_s or local_needs_s]
    if not counts or any(expected.stages.get(name, 0.0) is None for name in counts):
        assert expected.forecast.down_s is None and expected.forecast.margin_s is None
        return
    down_s = max(0.0, *(at[name] + plan.needs_s.get(name, 0.0) for name in counts)) + local_needs_s
    assert expected.forecast.down_s == pytest.approx(down_s, abs=3.0)
    assert expected.forecast.margin_s == pytest.approx(rest_s - down_s, abs=5.0)


TWO = (Stage(name="a", on_battery_s=60), Stage(name="b", on_battery_s=600))
OPEN = State(phase=Phase.HOLD, outage="x", began_s=-500.0, latched=(Latch(stage="a", at_s=-440.0, why=""),))


def due(state: State, status: Status, plan: Plan = Plan(stages=TWO, needs_s={"a": 60, "b": 60})) -> dict[str, float]:
    found = expect(state, plan, status, None, 0.0)
    assert found is not None
    return dict(found.stages)  # type: ignore[arg-type]


def test_an_outage_that_is_not_closed_goes_on_from_its_beginning() -> None:
    assert due(OPEN, look(MAINS)) == {"b": 100.0}
    assert due(replace(OPEN, held_s=300.0), look(MAINS)) == {"b": 400.0}
    assert due(replace(OPEN, aborted=True), look(MAINS)) == {"b": 1710.0}  # the budget alone
    assert due(replace(OPEN, began_s=-5000.0), look(MAINS)) == {"b": 3.0}  # confirmed first
    assert due(replace(OPEN, phase=Phase.PLANNED), look(MAINS)) == {"b": 600.0}
    assert due(replace(OPEN, phase=Phase.RECOVERY), look(MAINS)) == {"a": 60.0, "b": 600.0}


def test_an_outage_that_is_not_yet_confirmed_began_with_its_first_frame() -> None:
    assert due(State(battery_from_s=-2.0, battery_frames=2), look(BATTERY)) == {"a": 58.0, "b": 598.0}
    low = due(State(battery_from_s=-2.0, battery_frames=2), look(BATTERY, low=True))
    assert low == {"a": 1.0, "b": 1.0}


def test_a_confirmed_outage_waits_no_more_but_after_a_reboot_for_its_confirmation() -> None:
    state = State(phase=Phase.COUNTDOWN, on_battery=True, began_s=-70.0, battery_from_s=-2.0, battery_frames=3)
    assert due(state, look(BATTERY)) == {"a": 0.0, "b": 530.0}
    assert due(replace(state, unproven=True), look(BATTERY)) == {"a": 1.0, "b": 530.0}


def test_an_empty_battery_latches_all_as_soon_as_the_outage_is_confirmed() -> None:
    assert due(State(), look(MAINS, runtime_s=0.0, charge_pct=0.0)) == {"a": 3.0, "b": 3.0}


@pytest.mark.parametrize("more", [{"low": True}, {"flags": frozenset({Condition.LOW_BATTERY})}])
def test_a_battery_that_is_low_already_latches_all_as_soon_as_the_outage_is_confirmed(
    more: dict[str, object],
) -> None:
    status = look(MAINS, **more)  # type: ignore[arg-type]
    assert due(State(), status) == {"a": 3.0, "b": 3.0}
    ignoring = Plan(stages=TWO, needs_s={"a": 60, "b": 60}, ignore_low=True)
    assert due(State(), status, ignoring) == {"a": 60.0, "b": 600.0}


def test_a_runtime_that_jumps_up_in_an_outage_is_no_more_believed_than_by_protection() -> None:
    state = State(phase=Phase.COUNTDOWN, on_battery=True, began_s=-20.0, runtime_s=600.0)
    plan = Plan(stages=(Stage(name="a", runtime_below_s=300),))
    assert due(state, look(BATTERY, runtime_s=3000.0), plan) == {"a": 300.0}


def test_a_stage_that_its_own_trigger_would_reach_after_the_batterys_end_comes_with_the_budget() -> None:
    late = (Stage(name="a", on_battery_s=10), Stage(name="b", on_battery_s=5000))
    found = expect(State(), Plan(stages=late, needs_s={"a": 60}), look(MAINS), None, 0.0)
    assert found is not None and found.stages == {"a": 10.0, "b": 1770.0}
    assert found.forecast.down_s == 70.0  # nobody waits for a stage without a server
    found = expect(State(), Plan(stages=late, needs_s={"a": 60}, local_needs_s=60), look(MAINS), None, 0.0)
    assert found is not None and found.stages == {"a": 10.0, "b": 1710.0}
    assert found.forecast.down_s == 1770.0  # but this host does


def test_the_smaller_of_what_the_ups_says_and_what_was_learned_counts() -> None:
    plan = Plan(stages=(Stage(name="all", on_battery_s=60),), needs_s={"all": 120})
    status = plain(replace(look(MAINS), outputs=()), charge_pct=100.0, runtime_s=3600.0)
    found = expect(State(), plan, status, FLAT, 0.0)
    assert found is not None and found.forecast.basis == "learned" and found.forecast.runtime_s == 1200.0  # at 50 %
    assert found.forecast.down_s == 180.0 and found.forecast.margin_s == 1020.0
    found = expect(State(), plan, plain(status, charge_pct=100.0, runtime_s=100.0), FLAT, 0.0)
    assert found is not None and found.forecast.basis == "ups"
    assert found.stages == {"all": 3.0}  # the budget at once
    assert found.forecast.margin_s == pytest.approx(-23.0)


def test_where_the_ups_says_too_much_the_forecast_says_that_its_word_comes_too_late() -> None:
    plan = Plan(stages=(Stage(name="all", runtime_below_s=300),), needs_s={"all": 120})
    status = plain(replace(look(MAINS), outputs=()), charge_pct=100.0, runtime_s=3600.0)
    found = expect(State(), plan, status, FLAT, 0.0)
    assert found is not None and found.stages == {"all": 1100.0}  # a third of the time for each second that it says
    assert found.forecast.margin_s == pytest.approx(-20.0)


def test_where_the_unit_says_no_runtime_it_is_learned_or_configured_and_marked_or_not_there() -> None:
    silent = plain(look(MAINS), charge_pct=50.0)
    assert filled(silent, None, None) is silent
    configured = filled(silent, None, 10.0).battery
    assert configured.runtime_s == 600.0 and configured.estimated == {"runtime_s"}
    assert filled(silent, FLAT, 10.0).battery.runtime_s == pytest.approx(1000.0)  # 300 s of full load, at 30 %
    said = plain(look(MAINS), charge_pct=50.0, runtime_s=77.0)
    assert filled(said, FLAT, 10.0) is said
    nothing = plain(look(MAINS))
    assert filled(nothing, FLAT, 10.0) is nothing


def test_the_engine_learns_in_an_outage_and_forecasts_from_it() -> None:
    play = Play()
    play.mains(5, runtime_s=None, charge_pct=100.0)
    assert play.view.forecast is None
    for second in range(200):
        play.battery(1, runtime_s=None, charge_pct=100.0 - second / 2)
    assert play.learned  # each minute, in case the board goes with the UPS
    play.mains(75, runtime_s=None, charge_pct=20.0)
    play.mains(5, runtime_s=None, charge_pct=100.0)
    forecast = play.view.forecast
    assert forecast is not None and forecast.basis == "learned"
    assert forecast.runtime_s == pytest.approx(200.0, rel=0.05)
    assert play.view.status is not None and "runtime_s" in play.view.status.battery.estimated
    assert play.view.stages[0].forecast_s == 3.0  # less than the 300 s of the last stage


def guessed(status: Status) -> Status:
    return replace(status, battery=replace(status.battery, estimated=frozenset({"charge_pct"})))


def test_a_guessed_charge_gives_a_runtime_only_where_one_is_configured_and_then_the_smaller_one() -> None:
    silent = guessed(plain(look(MAINS), charge_pct=50.0))  # at 30 % load
    of_guesses = replace(FLAT, guessed=True)
    assert filled(silent, None, None) is silent and filled(silent, of_guesses, None) is silent
    assert filled(silent, None, 10.0).battery.runtime_s == 600.0
    assert filled(silent, of_guesses, 10.0).battery.runtime_s == 600.0  # 1000 were learned
    found = filled(silent, of_guesses, 20.0).battery
    assert found.runtime_s == pytest.approx(1000.0) and found.estimated == {"charge_pct", "runtime_s"}


def test_what_was_learned_on_one_scale_of_charge_says_nothing_on_the_other() -> None:
    silent = plain(look(MAINS), charge_pct=50.0)
    of_guesses = replace(FLAT, guessed=True)
    assert filled(guessed(silent), FLAT, 20.0).battery.runtime_s == 1200.0
    assert filled(silent, of_guesses, 10.0).battery.runtime_s == 600.0
    plan = Plan(stages=(Stage(name="all", charge_below_pct=25.0),), needs_s={"all": 60})
    found = expect(State(), plan, guessed(plain(look(MAINS), charge_pct=50.0, runtime_s=900.0)), FLAT, 0.0)
    assert found is not None and found.forecast.basis == "ups" and found.stages == {"all": 450.0}


def test_the_engine_learns_of_a_guessed_charge_that_the_battery_lasts_less_than_configured() -> None:
    play = Play(full_load_minutes=10)  # 20 min at the load of 30 %

    def second(source: Source, charge_pct: float) -> None:
        play.second(guessed(look(source, runtime_s=None, charge_pct=charge_pct)))

    for _ in range(5):
        second(MAINS, 100.0)
    assert play.view.forecast is not None and play.view.forecast.basis == "configured"
    assert play.view.forecast.runtime_s == 1200.0
    for passed_s in range(200):
        second(BATTERY, max(70.0, 100.0 - 10 * passed_s) - passed_s / 4)  # sags, then falls slowly
    assert play.learned and play.learned[-1].guessed
    for _ in range(300):  # the servers have had their time
        second(MAINS, 100.0)
    forecast = play.view.forecast
    assert forecast is not None and forecast.basis == "learned"
    assert forecast.runtime_s == pytest.approx(4 * 70.0, rel=0.1)


# --- the countdown ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "runtime_s", "silent_from"),
    [
        ([(900.0, 400.0), (1200.0, None)], 450.0, None),  # its runtime comes long before its time
        ([(900.0, None), (1200.0, None)], 300.0, None),  # the budget does
        ([(60.0, None), (90.0, None)], 3000.0, None),  # its time
        ([(90.0, None), (40.0, None)], 3000.0, None),  # a later stage's time
        ([(90.0, None), (40.0, None)], None, None),  # of a battery of which nothing is known
        ([(900.0, None), (1200.0, None)], None, 10),  # silence, 60 s
        ([(900.0, None), (1200.0, None)], 3000.0, 10),
        ([(30.0, None), (1200.0, None)], 3000.0, 10),  # its time comes sooner
        ([(900.0, 400.0), (1200.0, None)], 545.0, 10),  # the runtime as protection pretends it in the silence
        ([(900.0, None), (1200.0, None)], 250.0, 10),  # the budget of it
    ],
)  # fmt: skip
def test_the_countdown_counts_to_what_really_comes_first(
    stages: list[tuple[float, float | None]], runtime_s: float | None, silent_from: int | None
) -> None:
    rows = [Stage(name=f"s{n}", on_battery_s=at_s, runtime_below_s=b_s) for n, (at_s, b_s) in enumerate(stages)]
    servers = [Server(name=r.name, address=f"192.0.2.{n}", stage=r.name) for n, r in enumerate(rows, start=1)]
    play = Play(stages=tuple(rows), servers=tuple(servers))
    play.mains(5)
    said: dict[str, list[tuple[int, float | None]]] = {row.name: [] for row in rows}
    for second in range(200):
        silent = silent_from is not None and second >= silent_from
        left_s = None if runtime_s is None else runtime_s - second
        play.second(None if silent else look(BATTERY, runtime_s=left_s))
        for stage in play.view.stages:
            if not stage.latched:
                said[stage.name].append((second, stage.due_in_s))
        if all(stage.latched for stage in play.view.stages):
            break
    first = [stage for stage in play.view.stages if stage.latched]
    assert first
    from_s = 5 if silent_from is None else silent_from + 16
    for stage in first:
        latched_s = said[stage.name][-1][0] + 1
        for second, due_in_s in said[stage.name]:
            if second >= from_s:
                assert due_in_s == pytest.approx(latched_s - second, abs=2.0), (stage.name, second, latched_s)


def test_nothing_is_counted_down_while_the_mains_is_seen_or_nobody_knows() -> None:
    play = Play(stages=(Stage(name="all", runtime_below_s=300.0),), servers=())
    play.battery(5, runtime_s=None, charge_pct=None)
    assert play.view.phase == "countdown" and play.view.stages[0].due_in_s is None
    play.battery(2)
    assert play.view.stages[0].due_in_s is not None
    play.mains(2)
    assert play.view.phase == "countdown" and play.view.stages[0].due_in_s is None


def test_page_status_and_rehearsal_say_the_same_time() -> None:
    play = Play(stages=(Stage(name="first", on_battery_s=900.0, runtime_below_s=400.0),))
    play.mains(5)
    for second in range(10):
        play.second(look(BATTERY, runtime_s=450.0 - second))
    due_s = play.view.stages[0].due_in_s
    assert due_s is not None and 35 < due_s < 45
    made = ladder.pieces(play.view, words.load()["en"], play.view.now_s)
    assert f"in 00:{due_s:.0f}" in made["stage-0"] and f"00:{due_s:.0f}" in made["forecast"]
    assert f"stage first: waiting, due in {due_s:.0f} s" in verbs.describe(play.view)
    assert rehearse.walk(play.view)[1].text == f"stage first: from now at 0:{due_s:.0f}"
