"""The forecast against protection itself on an ideal battery, and the curve that outages teach."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agent import wire
from agent.config import Stage
from agent.curve import Curve, Learner, sane
from agent.forecast import expect, filled
from agent.model import Battery, Rating, Status
from agent.outage import Plan, State
from agent.protection import step
from tests.kit import BATTERY, MAINS, Play, look

FLAT = Curve(s_per_pct=(6.0,) * 10, outages=1)  # 600 s at full load


def plain(status: Status, **battery: object) -> Status:
    return replace(status, rating=Rating(), battery=Battery(**battery))  # type: ignore[arg-type]


def near(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and abs(a - b) <= 4.0)


STAGES = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(5, 2000)),
        st.one_of(st.none(), st.integers(1, 2000)),
        st.one_of(st.none(), st.integers(1, 99)),
        st.one_of(st.none(), st.integers(1, 600)),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(STAGES, st.integers(60, 3000), st.integers(20, 100))
def test_the_forecast_is_what_protection_does_on_an_ideal_battery(
    rows: list[tuple[int | None, ...]], runtime_s: int, charge_pct: int
) -> None:
    stages = tuple(
        Stage(name=f"s{n}", on_battery_s=a, runtime_below_s=b, charge_below_pct=c)
        for n, (a, b, c, _) in enumerate(rows)
    )
    plan = Plan(stages=stages, needs_s={f"s{n}": float(row[3]) for n, row in enumerate(rows) if row[3]})
    mains = plain(look(MAINS), charge_pct=float(charge_pct), runtime_s=float(runtime_s))
    expected = expect(State(), plan, mains, None, 0.0)
    for more_s in (-2.0, 2.0):  # where two seconds decide, the forecast may be wrong
        other = expect(State(), plan, plain(mains, charge_pct=charge_pct, runtime_s=runtime_s + more_s), None, 0.0)
        assume(expected and other and all(near(s, other.stages[n]) for n, s in expected.stages.items()))
    assert expected is not None and expected.forecast.basis == "ups"
    state, at, now_s = State(), dict[str, float](), 0.0
    while now_s <= runtime_s and len(at) < len(stages):
        left = 1 - now_s / runtime_s
        frame = plain(look(BATTERY, at_s=now_s), charge_pct=charge_pct * left, runtime_s=runtime_s * left)
        state, effects = step(state, frame, now_s, plan=plan, failed_polls=0, fresh_id="x")
        at |= {e.stage: now_s for e in effects if e.kind == "latched"}
        now_s += 1.0
    for name, due_s in expected.stages.items():
        if due_s is None or due_s > runtime_s:
            assert name not in at or at[name] >= runtime_s - 2
        else:
            assert at[name] == pytest.approx(due_s, abs=2.0)


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


def test_where_the_unit_says_no_runtime_it_is_learned_or_configured_and_marked_or_not_there() -> None:
    silent = plain(look(MAINS), charge_pct=50.0)
    assert filled(silent, None, None) is silent
    configured = filled(silent, None, 10.0).battery
    assert configured.runtime_s == 300.0 and configured.estimated == {"runtime_s"}
    assert filled(silent, FLAT, 10.0).battery.runtime_s == pytest.approx(1000.0)  # 300 s of full load, at 30 %
    said = plain(look(MAINS), charge_pct=50.0, runtime_s=77.0)
    assert filled(said, FLAT, 10.0) is said
    nothing = plain(look(MAINS))
    assert filled(nothing, FLAT, 10.0) is nothing


def discharge(points: list[tuple[float, float]], load_pct: float | None = 50.0) -> Curve | None:
    learner = Learner()
    for at_s, charge_pct in points:
        learner.see(at_s, charge_pct, load_pct)
    return learner.finish()


def test_a_discharge_is_learned_also_from_coarse_steps() -> None:
    even = discharge([(float(t), 100.0 - t / 12) for t in range(1100)])
    coarse = discharge([(float(t), [100.0, 83.0, 66.0, 50.0, 33.0, 16.0][t // 200]) for t in range(1100)])
    for curve in (even, coarse):
        assert curve is not None and sane(curve)
        assert curve.runtime_s(100.0, 50.0) == pytest.approx(1200.0, rel=0.05)
        assert curve.runtime_s(100.0, 25.0) == pytest.approx(2400.0, rel=0.05)
        assert wire.from_json(Curve, wire.to_json(curve)) == curve


@pytest.mark.parametrize(
    "points",
    [
        [(float(t), 100.0) for t in range(600)],  # it never moved
        [(float(t), 100.0 - t) for t in range(50)],  # too short
        [(t * 100.0, 100.0 - t) for t in range(60)],  # never two frames in a row
        [],
    ],
)
def test_what_teaches_nothing_is_not_learned(points: list[tuple[float, float]]) -> None:
    assert discharge(points) is None


@given(
    st.lists(st.tuples(st.floats(0, 20), st.one_of(st.none(), st.floats(-5, 105)), st.floats(0, 120)), max_size=200),
    st.floats(0, 100), st.floats(0, 100), st.floats(0, 150), st.floats(0, 150),
)  # fmt: skip
def test_more_charge_is_never_less_runtime_and_more_load_never_more(
    frames: list[tuple[float, float | None, float]], a: float, b: float, load_a: float, load_b: float
) -> None:
    learner, now_s = Learner(), 0.0
    for gap_s, charge_pct, load_pct in frames:
        now_s += gap_s
        learner.see(now_s, charge_pct, load_pct)
    curve = learner.finish()
    if curve is None:
        return
    assert sane(curve) and sane(FLAT.merge(curve))
    low, high = curve.runtime_s(min(a, b), load_a), curve.runtime_s(max(a, b), load_a)
    light, heavy = curve.runtime_s(a, min(load_a, load_b)), curve.runtime_s(a, max(load_a, load_b))
    assert low is not None and high is not None and light is not None and heavy is not None
    assert low <= high + 1e-6 and heavy <= light + 1e-6


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
