"""The discharge curve that outages teach: coarse, jumping and interrupted ones, and what teaches nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from kit import Play, look

from agent import wire
from agent.curve import BANDS, BELIEVED_S, Curve, Learner, is_another, sane
from agent.model import Ident, Source, Status

FLAT = Curve(s_per_pct=(6.0,) * 10, outages=1)  # 600 s at full load


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


LEARNED = st.lists(st.one_of(st.none(), st.floats(*BELIEVED_S)), min_size=10, max_size=10).map(
    lambda rows: Curve(s_per_pct=tuple(rows), outages=1)
)


@given(LEARNED, st.floats(0, 100), st.floats(0, 100), st.floats(0, 150), st.floats(0, 150))
def test_more_charge_is_never_less_runtime_and_more_load_never_more(
    curve: Curve, a: float, b: float, load_a: float, load_b: float
) -> None:
    low, high = curve.runtime_s(min(a, b), load_a), curve.runtime_s(max(a, b), load_a)
    light, heavy = curve.runtime_s(a, min(load_a, load_b)), curve.runtime_s(a, max(load_a, load_b))
    if all(value is None for value in curve.s_per_pct):
        assert low is high is light is heavy is None
        return
    assert low is not None and high is not None and light is not None and heavy is not None
    assert low <= high + 1e-6 and heavy <= light + 1e-6


FRAMES = st.tuples(st.floats(0, 15.2), st.one_of(st.none(), st.floats(-5, 105)), st.floats(0, 120))


@given(st.lists(st.one_of(FRAMES, FRAMES, FRAMES, FRAMES, FRAMES, FRAMES, st.none()), min_size=30, max_size=200))
def test_whatever_the_frames_say_what_is_learned_is_sane(
    frames: list[tuple[float, float | None, float] | None],
) -> None:
    learner, now_s = Learner(), 0.0
    for frame in frames:
        if frame is None:
            learner.pause()
            continue
        now_s += frame[0]
        learner.see(now_s, *frame[1:])
    curve = learner.finish()
    event("learned" if curve else "nothing")
    if curve is not None:
        assert sane(curve) and sane(FLAT.merge(curve)) and curve.runtime_s(100.0, 0.0) is not None


def even(from_s: int, until_s: int, begins_pct: float = 100.0) -> list[tuple[float, float]]:
    """1200 s from full to empty at 50 % load."""
    return [(float(t), begins_pct - (t - from_s) / 12) for t in range(from_s, until_s)]


def test_a_plateau_at_full_charge_and_a_drop_are_learned_where_they_are() -> None:
    frames = [(float(t), 100.0) for t in range(300)] + [(300.0 + t, 60.0 - t / 20) for t in range(1200)]
    curve = discharge(frames)
    assert curve is not None and curve.runtime_s(100.0, 50.0) == pytest.approx(1500.0, rel=0.05)
    assert curve.runtime_s(60.0, 50.0) == pytest.approx(1200.0, rel=0.05)


def test_a_charge_that_one_frame_alone_says_is_not_believed() -> None:
    for number, garbage in ((30, 0.0), (0, 0.0), (500, 100.0), (1099, 0.0)):
        frames = even(0, 1100)
        frames[number] = (frames[number][0], garbage)
        curve = discharge(frames)
        assert curve is not None and curve.runtime_s(100.0, 50.0) == pytest.approx(1200.0, rel=0.05)


def test_a_charge_that_rises_for_a_while_on_battery_is_not_counted_twice() -> None:
    frames = [(t, pct + 8.0 if 400 <= t < 430 else pct) for t, pct in even(0, 1100)]
    curve = discharge(frames)
    assert curve is not None and curve.runtime_s(100.0, 50.0) == pytest.approx(1200.0, rel=0.05)


def test_a_gap_teaches_nothing_and_spoils_nothing() -> None:
    curve = discharge(even(0, 300) + [(t, 100.0 - t / 12) for t, _ in even(400, 1100)])
    assert curve is not None
    assert curve.s_per_pct == pytest.approx((6.0,) * 10, rel=0.05)


def test_mains_in_between_is_left_out_whether_the_charge_rises_meanwhile_or_not() -> None:
    for again_pct in (50.0, 80.0):
        learner = Learner()
        for at_s, charge_pct in even(0, 601):
            learner.see(at_s, charge_pct, 50.0)
        for _ in range(60):
            learner.pause()
        for at_s, charge_pct in even(661, 1661, again_pct):
            learner.see(at_s, charge_pct, 50.0)
        curve = learner.finish()
        assert curve is not None and curve.s_per_pct == pytest.approx((6.0,) * 10, rel=0.05)


def test_a_coarse_charge_goes_on_where_the_mains_interrupted_it() -> None:
    learner = Learner()
    for t in range(1100):
        if 450 <= t < 510:
            learner.pause()
        on_s = t if t < 450 else t - 60 if t >= 510 else 450
        if not 450 <= t < 510:
            learner.see(float(t), [100.0, 83.0, 66.0, 50.0, 33.0, 16.0][on_s // 200], 50.0)
    curve = learner.finish()
    assert curve is not None and curve.runtime_s(100.0, 50.0) == pytest.approx(1200.0, rel=0.05)


def test_a_load_that_is_not_said_is_taken_for_half_when_learning_and_when_asked() -> None:
    curve = discharge(even(0, 1100), None)
    assert curve is not None and curve.runtime_s(100.0, None) == pytest.approx(1200.0, rel=0.05)
    assert curve.runtime_s(100.0, 50.0) == curve.runtime_s(100.0, None)


def test_a_load_below_a_tenth_counts_as_a_tenth() -> None:
    assert FLAT.runtime_s(100.0, 0.0) == FLAT.runtime_s(100.0, 10.0) == 6000.0
    idle = discharge(even(0, 1100), 0.0)
    assert idle is not None and idle == discharge(even(0, 1100), 10.0)


def test_a_charge_that_cannot_be_is_not_taken() -> None:
    frames = [(t, 255.0 if t < 300 else pct) for t, pct in even(0, 1100)]
    assert discharge(frames) == discharge(even(0, 1100)[300:])


def test_a_day_of_flapping_needs_no_more_memory_than_a_minute() -> None:
    def held(learner: Learner) -> int:
        return sum(len(v) if isinstance(v, list) else 1 for v in vars(learner).values())

    learner = Learner()
    before = held(learner)
    for t in range(86_400):
        if t % 10 == 9:
            learner.pause()
        else:
            learner.see(float(t), 100.0 - (t % 1000) / 10, 50.0)
    assert held(learner) == before


def test_bands_that_were_not_seen_take_the_nearest_that_was() -> None:
    curve = Curve(s_per_pct=(None,) * 3 + (2.0,) + (None,) * 4 + (8.0, None))
    assert [curve._near(band) for band in range(BANDS)] == [2, 2, 2, 2, 2, 2, 8, 8, 8, 8]
    assert curve.runtime_s(100.0, 100.0) == 10 * (6 * 2 + 4 * 8)
    assert Curve().runtime_s(100.0, 50.0) is None and FLAT.runtime_s(None, 50.0) is None


def test_the_newer_outage_weighs_half_and_only_where_it_was_seen() -> None:
    newer = Curve(s_per_pct=(2.0, None) + (6.0,) * 8, outages=1)
    mixed = FLAT.merge(newer)
    assert mixed.s_per_pct == (4.0, 6.0) + (6.0,) * 8 and mixed.outages == 2
    assert Curve().merge(newer) == newer and FLAT.merge(None) is FLAT


def test_two_scales_of_charge_are_not_mixed() -> None:
    guesses = Curve(s_per_pct=(2.0,) * 10, outages=1, guessed=True)
    assert FLAT.merge(guesses) == guesses and guesses.merge(FLAT) == FLAT
    assert guesses.merge(guesses) == replace(guesses, outages=2)
    learner = Learner()
    for second in range(121):
        learner.see(float(second), 100.0 - second / 2, 100.0, guessed=True)
        learner.see(float(second), 100.0 - second, 100.0)  # falls twice as fast, on another scale
    learned = learner.finish()
    assert learned is not None and learned.guessed and learned.s_per_pct[8] == pytest.approx(2.0)


def test_of_guessed_percents_those_that_the_voltage_falls_at_once_last_no_time() -> None:
    sagged = Curve(s_per_pct=(None, 4.0, None, 2.0, None, None, None, None, None, None), guessed=True)
    assert sagged.runtime_s(100.0, 100.0) == sagged.runtime_s(40.0, 100.0) == 10 * (4 + 4 + 2 + 2)
    assert replace(sagged, guessed=False).runtime_s(100.0, 100.0) == 10 * (4 + 4 + 2 + 2 * 7)


SMALL, LARGE = Ident(model="Smart 700", serial="A1"), Ident(model="Smart 3000", serial="B2")


@pytest.mark.parametrize(
    ("before", "now", "another"),
    [
        (SMALL, SMALL, False), (SMALL, LARGE, True), (SMALL, replace(SMALL, serial="B2"), True),
        (SMALL, replace(SMALL, model="Smart 701"), False), (SMALL, Ident(), False), (Ident(), SMALL, False),
        (SMALL, Ident(model="Smart 700"), False), (SMALL, Ident(model="Smart 3000"), True),
        (SMALL, Ident(serial="A1", firmware="2"), False),
    ],
)  # fmt: skip
def test_another_ups_is_known_by_its_serial_number_else_by_its_model(
    before: Ident, now: Ident, another: bool
) -> None:
    assert is_another(before, now) is another


def of(who: Ident, source: Source = Source.MAINS, charge_pct: float = 100.0) -> Status:
    return replace(look(source, runtime_s=None, charge_pct=charge_pct), ident=who)


def runtime_s(play: Play) -> float | None:
    status = play.engine.view.status
    assert status is not None
    return status.battery.runtime_s


def outage_of(who: Ident) -> Play:
    """One that has taught the curve of this UPS."""
    play = Play()
    play.second(of(who))
    for percent in range(100, 40, -1):
        play.second(of(who, Source.BATTERY, float(percent)))
        play.second(of(who, Source.BATTERY, float(percent)))
    for _ in range(90):
        play.second(of(who))
    return play


@pytest.mark.parametrize("restart", [False, True])
def test_another_ups_in_the_same_place_is_said_and_does_not_get_the_battery_of_the_old_one(restart: bool) -> None:
    play = outage_of(SMALL)
    assert play.learned[-1].of == SMALL and runtime_s(play) is not None
    if restart:
        play = Play(after=play)
    play.second(of(Ident()))  # it has lost its strings for the moment
    assert "ups-changed" not in play.names() and runtime_s(play) is not None
    play.second(of(LARGE))
    play.second(of(LARGE))
    assert runtime_s(play) is None and play.learned[-1] == Curve(of=LARGE)
    (said,) = [one for one in play.history.events if one.name == "ups-changed"]
    assert said.data == {"old": "Smart 700 A1", "new": "Smart 3000 B2"}
    assert wire.from_json(Curve, wire.to_json(play.learned[-1])) == play.learned[-1]


def test_what_is_learned_is_believable_and_a_damaged_file_is_not_sane() -> None:
    sudden = discharge([(float(t), 100.0 if t < 60 else 0.0) for t in range(70)], 0.0)
    assert sudden is not None and sane(sudden)
    slow = discharge([(t * 14.0, 100.0 - t / 1000) for t in range(6000)], 100.0)
    assert slow is not None and max(v for v in slow.s_per_pct if v is not None) == BELIEVED_S[1]
    for rows in ((6.0,) * 9, (math.nan,) * 10, (-1.0,) * 10, (1e9,) * 10):
        assert not sane(Curve(s_per_pct=rows))
