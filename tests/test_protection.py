"""Protection: whom to tell, when, and above all when not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import outage, protection
from agent.config import Stage
from agent.model import Condition, Source, Status
from agent.outage import Phase, Plan, State
from agent.protection import step
from tests.kit import BATTERY, MAINS, look

TEST = frozenset({Condition.TEST_RUNNING})
PLAN = Plan(
    stages=(Stage(name="a", on_battery_s=60.0), Stage(name="b", runtime_below_s=300.0), Stage(name="c")),
    needs_s={"a": 60.0, "b": 90.0, "c": 120.0},
)


class Walk:
    """Protection alone, fed a frame a second."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.state, self.plan, self.now_s, self.failed = State(), plan, 100.0, 0
        self.effects: list[outage.Effect] = []
        self.ids = iter(f"{n:016x}" for n in range(1, 10_000))

    def frame(self, status: Status | None, *, tick: bool = False, gap_s: float = 1.0) -> None:
        self.failed = 0 if status is not None else self.failed + (not tick)
        given_look = None if status is None else replace(status, taken_s=self.now_s)
        self.state, effects = step(
            self.state, given_look, self.now_s, plan=self.plan, failed_polls=self.failed, fresh_id=next(self.ids)
        )
        self.effects += effects
        self.now_s += gap_s

    def frames(self, count: int, source: Source = BATTERY, **more: object) -> Walk:
        for _ in range(count):
            self.frame(look(source, **more))  # type: ignore[arg-type]
        return self

    def silence(self, count: int) -> Walk:
        for _ in range(count):
            self.frame(None)
        return self

    @property
    def latched(self) -> tuple[str, ...]:
        return self.state.to_tell()


def test_two_battery_frames_over_three_seconds_make_an_outage() -> None:
    walk = Walk().frames(3)
    assert not walk.state.on_battery
    walk.frames(1)
    assert walk.state.on_battery and walk.state.phase is Phase.COUNTDOWN
    assert walk.state.began_s == 100.0  # counted from the first frame
    assert walk.latched == ()


def test_a_blip_of_nearly_three_seconds_is_nothing() -> None:
    walk = Walk()
    walk.frame(look(BATTERY), gap_s=2.9)
    walk.frame(look(BATTERY), gap_s=0.1)
    walk.frames(30, MAINS)
    assert walk.state.phase is Phase.IDLE and walk.effects == []


def test_the_passing_of_time_confirms_nothing() -> None:
    walk = Walk().frames(2)
    for _ in range(100):
        walk.frame(None, tick=True)
    assert not walk.state.on_battery
    walk.silence(100)
    assert not walk.state.on_battery and walk.latched == ()


def test_a_gap_of_more_than_fifteen_seconds_starts_the_run_anew() -> None:
    walk = Walk().frames(2)
    walk.now_s += 16
    walk.frames(3)
    assert not walk.state.on_battery
    walk.frames(1)
    assert walk.state.on_battery


def test_a_stage_is_latched_by_time_on_battery_exactly_when_due() -> None:
    walk = Walk().frames(60)
    assert walk.latched == ()  # 59 s since the first battery frame
    walk.frames(1)
    assert walk.latched == ("a",)


def test_a_later_stage_takes_the_earlier_ones_with_it() -> None:
    walk = Walk().frames(10, runtime_s=290.0)
    assert walk.latched == ("a", "b")
    assert walk.state.latched[0].why == "before b"


def test_low_battery_latches_all_stages_the_moment_the_outage_is_confirmed() -> None:
    walk = Walk().frames(4, low=True)
    assert walk.latched == ("a", "b", "c") and walk.state.phase is Phase.COMMITTED


def test_a_runtime_within_the_budget_latches_all_stages() -> None:
    walk = Walk().frames(10, runtime_s=400.0)
    assert walk.latched == ()
    walk = Walk().frames(10, runtime_s=150.0)  # 120 s needed + 30 s margin
    assert walk.latched == ("a", "b", "c")


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        (MAINS, frozenset()),
        (Source.BYPASS, frozenset()),
        (Source.NONE, frozenset({Condition.OUTPUT_OFF})),
        (Source.UNKNOWN, frozenset()),
        (MAINS, TEST),
    ],
)
def test_low_battery_without_a_confirmed_outage_tells_nobody(source: Source, flags: frozenset[Condition]) -> None:
    walk = Walk().frames(600, source, low=True, charge_pct=0.0, runtime_s=0.0, flags=flags)
    assert walk.latched == () and walk.state.phase is Phase.IDLE


def test_silence_on_mains_tells_nobody_for_a_day() -> None:
    walk = Walk().frames(10, MAINS)
    for _ in range(24 * 60):
        walk.frame(None, gap_s=60.0)
    assert walk.latched == () and walk.state.phase is Phase.IDLE


def test_silence_on_battery_latches_all_after_sixty_seconds() -> None:
    walk = Walk().frames(5)
    last_s = walk.state.last_frame_s
    assert last_s is not None
    while not walk.latched:
        walk.silence(1)
    # stage a is due at 60 s on battery, which comes first; the rest follow when the UPS was silent for 60 s
    assert walk.latched == ("a",)
    while walk.state.phase is not Phase.COMMITTED:
        walk.silence(1)
    assert walk.now_s - 1 - last_s == pytest.approx(60.0)


def test_silence_on_battery_latches_earlier_when_the_virtual_battery_is_at_the_budget() -> None:
    walk = Walk().frames(5, runtime_s=240.0)  # 0.8 * 240 - age <= 150 at age 42
    last_s = walk.state.last_frame_s
    assert last_s is not None
    while walk.state.phase is not Phase.COMMITTED:
        walk.silence(1)
    assert walk.now_s - 1 - last_s == pytest.approx(42.0)


def test_a_process_that_was_stopped_looks_before_it_acts() -> None:
    walk = Walk().frames(5)
    walk.now_s += 3600
    walk.frame(None, tick=True)
    assert walk.latched == ()  # nobody has asked the UPS
    walk.frames(1, MAINS)
    walk.frames(80, MAINS)
    assert walk.latched == () and walk.state.phase is Phase.IDLE


def test_mains_a_second_before_a_stage_is_due_stops_it() -> None:
    walk = Walk().frames(60)
    walk.frames(100, MAINS)
    assert walk.latched == ()


def test_a_latched_stage_stays_latched_until_the_outage_is_closed() -> None:
    walk = Walk().frames(61).frames(69, MAINS)
    assert walk.latched == ("a",) and walk.state.phase is Phase.HOLD
    walk.frames(2, MAINS)
    assert walk.latched == () and walk.state.phase is Phase.RECOVERY


def test_flapping_is_one_outage_and_its_clock_goes_on() -> None:
    walk = Walk()
    for _ in range(6):
        walk.frames(5).frames(5, MAINS)
    walk.frames(5)
    assert walk.state.outage == "0000000000000004"
    assert walk.latched == ("a",)  # 61 s since the first battery frame


def test_a_self_test_on_battery_is_excused_as_long_as_the_input_is_there() -> None:
    walk = Walk().frames(600, BATTERY, flags=TEST, volts=230.0, low=True)
    assert walk.state.phase is Phase.IDLE and walk.latched == ()


def test_a_self_test_without_input_is_excused_for_sixty_seconds_and_until_low_battery() -> None:
    walk = Walk().frames(60, BATTERY, flags=TEST)
    assert walk.state.phase is Phase.IDLE
    walk.frames(5, BATTERY, flags=TEST)
    assert walk.state.phase is Phase.COUNTDOWN
    walk = Walk().frames(5, BATTERY, flags=TEST).frames(4, BATTERY, flags=TEST, low=True)
    assert walk.state.phase is Phase.COMMITTED


def test_output_off_in_an_outage_neither_ends_nor_feeds_it() -> None:
    walk = Walk().frames(10).frames(30, Source.NONE)
    assert walk.state.on_battery and walk.latched == ()


def test_a_frame_that_says_neither_leaves_the_last_word_in_force() -> None:
    walk = Walk().frames(59)
    walk.frames(3, Source.UNKNOWN)
    assert walk.latched == ("a",)


def test_after_a_reboot_nothing_new_is_latched_before_the_outage_was_seen_again() -> None:
    walk = Walk(replace(PLAN, stages=(Stage(name="quick", on_battery_s=20.0), *PLAN.stages[1:]))).frames(10)
    walk.state, walk.now_s = protection.resume(walk.state, 5.0, same_boot=False), 5.0
    walk.silence(40)
    assert walk.state.latched == ()


def test_a_runtime_that_jumps_up_on_battery_is_not_believed_at_once() -> None:
    walk = Walk().frames(10, runtime_s=310.0)
    walk.frames(1, runtime_s=9000.0)
    assert walk.state.runtime_s is not None and walk.state.runtime_s < 320.0


def test_a_restart_in_the_same_boot_goes_on_as_if_nothing_had_happened() -> None:
    walk = Walk().frames(61)
    walk.state = protection.resume(walk.state, walk.now_s, same_boot=True)
    assert walk.latched == ("a",)
    walk.frames(1)
    assert walk.latched == ("a",) and walk.state.outage == "0000000000000004"


@pytest.mark.parametrize(("source", "told"), [(MAINS, ()), (BATTERY, ("a",))])
def test_after_a_restart_nothing_is_latched_before_it_has_looked(source: Source, told: tuple[str, ...]) -> None:
    walk = Walk().frames(58)
    walk.now_s += 4.0  # the stage became due while nobody was there
    walk.state = protection.resume(walk.state, walk.now_s, same_boot=True)
    walk.frame(None, tick=True)
    assert walk.latched == ()
    walk.frames(5, source)
    assert walk.latched == told


def test_after_a_restart_three_failed_polls_are_a_look() -> None:
    walk = Walk().frames(58)
    walk.now_s += 4.0
    walk.state, walk.failed = protection.resume(walk.state, walk.now_s, same_boot=True), 0
    walk.silence(2)
    assert walk.latched == ()
    walk.silence(1)
    assert walk.latched == ("a",)


def test_after_a_reboot_nobody_is_told_before_the_outage_was_seen_again() -> None:
    walk = Walk().frames(61)
    before = walk.state
    walk.state, walk.now_s = protection.resume(before, 5.0, same_boot=False), 5.0
    assert walk.latched == ()
    walk.frames(3)
    assert walk.latched == ()
    walk.frames(1)
    assert walk.latched == ("a",) and walk.state.outage == before.outage
    walk.state, walk.now_s = protection.resume(before, 5.0, same_boot=False), 5.0
    walk.frames(100, MAINS)
    assert walk.latched == () and walk.state.phase is Phase.RECOVERY


def test_after_a_reboot_a_dead_line_still_latches_all_after_sixty_seconds() -> None:
    walk = Walk().frames(10)
    walk.state, walk.now_s = protection.resume(walk.state, 5.0, same_boot=False), 5.0
    walk.silence(60)
    assert walk.latched == ()
    walk.silence(2)
    assert walk.latched == ("a", "b", "c")


def test_without_a_stage_nothing_is_ever_latched() -> None:
    walk = Walk(Plan()).frames(100, low=True)
    assert walk.latched == () and walk.state.phase is Phase.COUNTDOWN


FRAMES = st.tuples(
    st.just(BATTERY) | st.sampled_from([*Source]),
    st.booleans(),
    st.sampled_from([None, 0.0, 100.0, 200.0, 5000.0]),
    st.booleans(),
    st.sampled_from([0.0, 230.0, None]),
    st.sampled_from([0.2, 1.0, 3.0, 14.0, 20.0, 70.0]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.none(), FRAMES), min_size=1, max_size=60))
def test_nothing_is_latched_without_battery_frames_and_latches_only_go_with_their_outage(
    script: list[tuple[Source, bool, float | None, bool, float | None, float] | None],
) -> None:
    walk = Walk()
    battery_seen = 0
    for item in script:
        before, effects_before = walk.state, len(walk.effects)
        if item is None:
            walk.frame(None)
        else:
            source, low, runtime_s, testing, volts, gap_s = item
            flags = TEST if testing else frozenset()
            battery_seen += source is BATTERY
            walk.frame(look(source, low=low, runtime_s=runtime_s, flags=flags, volts=volts), gap_s=gap_s)
        state, new = walk.state, walk.effects[effects_before:]
        if state.latched:
            assert battery_seen >= 2
        lost = {latch.stage for latch in before.latched} - {latch.stage for latch in state.latched}
        assert not lost or {"recovered", "outage-began"} & {e.kind for e in new}
        assert {latch.why.split()[0] for latch in state.latched} <= set(outage.WHYS)
        names = [latch.stage for latch in state.latched]
        assert len(names) == len(set(names))
        order = [s.name for s in PLAN.stages]
        if names:
            assert set(order[: max(map(order.index, names)) + 1]) == set(names)
        if state.phase in (Phase.COMMITTED, Phase.OFF_ARMED):
            assert set(names) == set(order)
        assert (state.outage is None) == (state.phase is Phase.IDLE)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([MAINS, Source.BYPASS, Source.NONE, Source.UNKNOWN, Source.BOOST, None]), max_size=80)
)
def test_low_and_empty_without_battery_frames_never_sends(script: list[Source | None]) -> None:
    walk = Walk()
    for source in script:
        walk.frame(None if source is None else look(source, low=True, charge_pct=0.0, runtime_s=0.0))
        assert walk.state.phase is Phase.IDLE


@pytest.mark.parametrize(
    "odd",
    [{"low": True}, {"runtime_s": 0.0}, {"charge_pct": 0.0}, {"low": True, "runtime_s": 0.0, "charge_pct": 0.0}],
)
def test_one_odd_frame_in_an_outage_latches_nothing_and_two_in_a_row_do(odd: dict[str, object]) -> None:
    plan = replace(PLAN, stages=(Stage(name="a", charge_below_pct=20.0), Stage(name="b", runtime_below_s=300.0)))
    walk = Walk(plan).frames(10)
    for _ in range(20):
        walk.frames(1, **odd).frames(1)
    assert walk.state.on_battery and walk.latched == ()
    walk.frames(2, **odd)
    assert walk.latched


@pytest.mark.parametrize("odd", [{"runtime_s": 0.0}, {"charge_pct": 0.0}])
def test_one_odd_frame_after_one_that_did_not_say_it_or_after_a_gap_latches_nothing(odd: dict[str, float]) -> None:
    plan = replace(PLAN, stages=(Stage(name="a", charge_below_pct=20.0), Stage(name="b", runtime_below_s=300.0)))
    walk, nothing = Walk(plan).frames(10), dict.fromkeys(odd)
    for _ in range(20):
        walk.frames(1, **nothing).frames(1, **odd).frames(1)
    walk.silence(20).frames(1, **odd).frames(1)
    walk.state = protection.resume(walk.state, walk.now_s, same_boot=True)
    walk.frames(1, **odd).frames(1)
    never = Walk(plan).frames(10, **nothing).frames(1, **odd).frames(1, **nothing)
    assert walk.state.on_battery and walk.latched == () and never.state.on_battery and never.latched == ()
    assert walk.frames(2, **odd).latched and never.frames(2, **odd).latched


def test_a_runtime_that_was_said_once_counts_in_the_silence_after_it() -> None:
    walk = Walk().frames(10, runtime_s=None).frames(1, runtime_s=200.0)
    assert walk.latched == (), "within the budget, and not believed"
    walk.silence(14)
    assert walk.latched == ()
    walk.silence(3)
    assert walk.latched == ("a", "b", "c") and walk.state.latched[0].why.startswith("budget")


def test_the_last_word_before_silence_counts_though_it_was_said_once() -> None:
    walk = Walk().frames(10).frames(1, low=True)
    walk.silence(14)
    assert walk.latched == ()
    walk.silence(3)
    assert walk.latched == ("a", "b", "c") and walk.state.latched[0].why == "low-battery"


def test_the_frame_that_confirms_is_one_of_the_two() -> None:
    walk = Walk().frames(3).frames(1, low=True)
    assert walk.state.on_battery and walk.latched == ()
    walk.frames(1, low=True)
    assert walk.latched == ("a", "b", "c")


def test_one_odd_charge_on_mains_wakes_nobody_early() -> None:
    walk = Walk().frames(3, MAINS, charge_pct=5.0).frames(1, MAINS, charge_pct=100.0)
    assert walk.state.charge_pct == 5.0
    assert walk.frames(1, MAINS, charge_pct=100.0).state.charge_pct == 100.0
