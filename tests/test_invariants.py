"""One directed test for each invariant of protection and each arrow of its diagram, and the race for the power.

Random search alone misses some faults; these show each rule at its edge. I6, I9, I12, I14 and I15 are the engine's
and the core's (tests/test_guard.py, tests/test_engine.py, tests/peer): the core of protection has no clock, no disk
and no mode.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent import afterwards, byhand, protection
from agent.config import Stage
from agent.model import Condition, OrderError, Source, Status
from agent.outage import Phase, Plan, Seen, State, budget_s
from tests.kit import BATTERY, MAINS, look
from tests.test_protection import PLAN, TEST, Walk

OFF = replace(PLAN, ups_off="battery")


class Drive(Walk):
    """A walk whose delivery tells everybody at once, and wakes everybody at once."""

    def __init__(self, plan: Plan = PLAN) -> None:
        super().__init__(plan)
        self.seen = Seen(all_told=True, all_back=True)
        self.offs: list[tuple[float, float]] = []  # when, and the delay
        self.all: list[tuple[float, str, str]] = []

    def frame(self, status: Status | None, *, tick: bool = False, gap_s: float = 1.0) -> None:
        self.failed = 0 if status is not None else self.failed + (not tick)
        given = None if status is None else replace(status, taken_s=self.now_s)
        self.state, effects = protection.step(
            self.state, given, self.now_s, plan=self.plan, failed_polls=self.failed, fresh_id=next(self.ids),
            seen=self.seen
        )  # fmt: skip
        self.effects += effects
        self.all += [(self.now_s, e.kind, e.why) for e in effects]
        self.offs += [(self.now_s, e.delay_s) for e in effects if e.kind == "ups-off"]
        self.now_s += gap_s

    def kinds(self) -> list[str]:
        return [kind for _, kind, _ in self.all]

    def at(self, kind: str) -> float:
        return next(at_s for at_s, found, _ in self.all if found == kind)

    def reboot(self, up_s: float = 20.0) -> None:
        self.state, self.now_s = protection.resume(self.state, up_s, same_boot=False), up_s


def committed(plan: Plan = PLAN) -> Drive:
    drive = Drive(plan)
    drive.frames(4, low=True)
    assert drive.state.phase is Phase.COMMITTED
    return drive


# --- I1 to I17 --------------------------------------------------------------------------------------------------


def test_i1_nothing_is_latched_without_an_outage_since_the_last_recovery() -> None:
    drive = Drive().frames(61)
    drive.frames(200, MAINS)
    assert drive.state.phase is Phase.IDLE
    before = len(drive.effects)
    drive.frames(600, MAINS, low=True, charge_pct=0.0, runtime_s=0.0)
    drive.silence(600)
    assert len(drive.effects) == before


def test_i2_an_emergency_latches_everybody_within_the_confirmation_and_a_frame() -> None:
    for more in ({"low": True}, {"runtime_s": 100.0}):
        drive = Drive()
        drive.frames(5, **more)
        assert drive.latched == ("a", "b", "c")


def test_i2b_silence_on_battery_latches_everybody_after_a_minute_and_not_before() -> None:
    drive = Drive(replace(PLAN, stages=tuple(Stage(name=n) for n in "abc"))).frames(5, runtime_s=None)
    drive.silence(59)
    assert drive.latched == ()
    drive.silence(1)
    assert drive.latched == ("a", "b", "c")


def test_i2b_a_virtual_battery_runs_down_at_eight_tenths() -> None:
    drive = Drive(replace(PLAN, stages=(Stage(name="c", runtime_below_s=200.0),))).frames(5, runtime_s=300.0)
    last_s = drive.now_s - 1
    while not drive.latched:
        drive.silence(1)
    assert drive.now_s - 1 - last_s == pytest.approx(41.0)  # 0.8 * 300 - 40 is not below 200


def test_i3_latches_stay_until_the_recovery_is_over() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    for _ in range(300):
        drive.frame(look(MAINS))
        assert [x.stage for x in drive.state.latched] == ["a"]
    drive.seen = Seen(all_back=True)
    drive.frames(1, MAINS)
    assert drive.state.latched == () and drive.kinds()[-1] == "recovered"


def test_i3b_committed_ends_only_through_off_armed() -> None:
    drive = committed()
    latched_s = drive.now_s - 1
    while drive.state.phase is Phase.COMMITTED:
        drive.frame(look(MAINS))
    assert drive.now_s - 1 - latched_s == 120.0  # the last server has its time, mains or not
    kinds = drive.kinds()
    assert kinds.index("committed") < kinds.index("ups-off-skipped") < kinds.index("recovery-began")
    held = committed(OFF)
    held.frames(121)
    assert held.state.phase is Phase.OFF_ARMED


def test_i4_who_is_latched_is_told_and_nobody_else() -> None:
    drive = Drive().frames(61)
    assert drive.latched == ("a",)
    drive.frames(5, MAINS)
    assert drive.latched == ("a",)  # at least once, also while the mains is back
    drive.frames(100, MAINS)
    assert drive.latched == ()  # but not in the recovery


@pytest.mark.parametrize("seconds", [1, 30, 61, 100])
def test_i5_a_crash_and_a_reboot_lose_no_latch(seconds: int) -> None:
    drive = Drive().frames(seconds)
    before = drive.state
    same = protection.resume(before, drive.now_s, same_boot=True)
    assert (same.latched, same.outage, same.began_s) == (before.latched, before.outage, before.began_s)
    other = protection.resume(before, 9.0, same_boot=False)
    assert [x.stage for x in other.latched] == [x.stage for x in before.latched]
    assert all(x.at_s == 9.0 for x in other.latched) and other.outage == before.outage


def test_i5_what_must_not_be_lost_is_written_when_it_changes() -> None:
    state = State()
    changes = (
        {"latched": ("x",)}, {"phase": Phase.HOLD}, {"on_battery": True}, {"outage": "x"}, {"began_s": 1.0},
        {"unproven": True}, {"seen_battery": True}, {"held_s": 1.0}, {"quiet_until_s": 1.0}, {"aborted": True},
        {"off_sent_s": 1.0}, {"off_skipped": True}, {"cycled": True}, {"recovery_from_s": 1.0}, {"waking": True},
    )  # fmt: skip
    for change in changes:
        assert replace(state, **change).durable() != state.durable(), change  # type: ignore[arg-type]
    assert replace(state, last_frame_s=1.0, runtime_s=5.0).durable() == state.durable()


def test_i7_the_ups_is_switched_off_once_after_everybody_had_his_time_and_only_if_that_is_proven() -> None:
    drive = committed(OFF)
    drive.frames(110, low=True)
    assert drive.offs == []
    drive.frames(20, low=True)
    assert len(drive.offs) == 1 and drive.offs[0][0] == drive.state.latched[0].at_s + 120.0
    drive = committed(PLAN)
    drive.frames(300, low=True)
    assert drive.offs == [] and drive.kinds().count("ups-off-skipped") == 1


def test_i7_a_server_that_took_the_order_late_has_its_time_as_well() -> None:
    drive = committed(OFF)
    drive.seen = Seen(down_by_s=drive.now_s + 500.0)
    drive.frames(490, low=True)
    assert drive.offs == []
    drive.frames(20, low=True)
    assert len(drive.offs) == 1


def test_i7_those_that_could_not_be_told_have_five_seconds_more() -> None:
    quick, slow = committed(OFF), committed(OFF)
    slow.seen = Seen(all_told=False)
    for drive in (quick, slow):
        drive.frames(150, low=True)
    assert slow.offs[0][0] - quick.offs[0][0] == 5.0


def test_i7_an_order_that_is_ignored_is_given_again_when_a_frame_shows_it_and_not_before() -> None:
    drive = committed(OFF)
    drive.frames(130, low=True)
    sent_s = drive.offs[0][0]
    drive.silence(200)
    assert len(drive.offs) == 1
    drive.frames(2, low=True)
    assert len(drive.offs) == 2 and "ups-off-ignored" in drive.kinds()
    drive = committed(OFF)
    while drive.now_s < sent_s + 30 + 60:
        drive.frames(1, low=True)
    assert len(drive.offs) == 1
    drive.frames(2, low=True)
    assert len(drive.offs) == 2


def test_i8_an_earlier_stage_goes_with_a_later_one_and_a_later_one_never_with_an_earlier() -> None:
    drive = Drive().frames(10, runtime_s=290.0)
    assert drive.latched == ("a", "b")
    assert Drive().frames(61).latched == ("a",)


def test_i11_and_f8_a_second_before_and_after_the_commit() -> None:
    before = Drive(replace(PLAN, stages=(Stage(name="a", on_battery_s=60.0),))).frames(60)
    before.frames(100, MAINS)
    assert before.kinds() == ["outage-began", "mains-back", "outage-closed"]
    after = Drive(replace(OFF, ups_off="always", stages=(Stage(name="a", on_battery_s=60.0),))).frames(61)
    after.frames(200, MAINS)
    assert after.kinds()[:3] == ["outage-began", "latched", "committed"] and len(after.offs) == 1


@pytest.mark.parametrize("source", [MAINS, Source.BYPASS, Source.BOOST, Source.BUCK, Source.NONE, Source.UNKNOWN])
@pytest.mark.parametrize("flags", [frozenset(), TEST, frozenset({Condition.OUTPUT_OFF})])
def test_i13_low_and_empty_without_battery_is_nothing(source: Source, flags: frozenset[Condition]) -> None:
    drive = Drive()
    drive.frames(100, source, low=True, charge_pct=0.0, runtime_s=0.0, flags=flags)
    assert drive.effects == []


@pytest.mark.parametrize("source", [MAINS, Source.BYPASS, Source.NONE, Source.UNKNOWN])
def test_i13_while_the_mains_is_back_low_and_empty_latch_nothing_more(source: Source) -> None:
    drive = Drive().frames(10)
    drive.frames(1, MAINS)
    drive.frames(60, source, low=True, charge_pct=0.0, runtime_s=0.0)
    assert drive.latched == ()


def test_i16_a_stage_that_is_deleted_in_the_outage_stays_latched() -> None:
    drive = Drive().frames(61)
    drive.plan = replace(PLAN, stages=PLAN.stages[1:])
    drive.frames(10)
    assert drive.latched == ("a",)


def test_i17_no_trigger_is_early() -> None:
    stages = {
        "time": (Stage(name="x", on_battery_s=60.0), {}, {}),
        "runtime": (Stage(name="x", runtime_below_s=300.0), {"runtime_s": 300.0}, {"runtime_s": 299.0}),
        "charge": (Stage(name="x", charge_below_pct=20.0), {"charge_pct": 20.0}, {"charge_pct": 19.0}),
    }
    for name, (stage, not_yet, due) in stages.items():
        drive = Drive(Plan(stages=(stage,)))
        drive.frames(30, **not_yet)
        assert drive.latched == (), name
        drive.frames(31 if name == "time" else 2, **due)
        assert drive.latched == ("x",), name


# --- the budget, the hold, people -------------------------------------------------------------------------------


def test_the_budget_is_the_slowest_server_this_host_and_the_margin() -> None:
    plan = replace(PLAN, local_needs_s=20.0)
    assert budget_s(State(), plan) == 120.0 + 20.0 + 30.0
    drive = Drive(plan)
    drive.frames(10, runtime_s=171.0)
    assert drive.latched == ("a", "b")  # a second more than the last stage needs
    assert Drive(plan).frames(5, runtime_s=170.0).latched == ("a", "b", "c")
    assert plan.off_delay_s() == 50.0 and PLAN.off_delay_s() == 30.0


def test_the_budget_counts_a_last_stage_in_which_this_host_is_alone() -> None:
    stages = (Stage(name="a", on_battery_s=20.0), Stage(name="this-host"))
    plan = Plan(stages=stages, needs_s={"a": 60.0}, local_needs_s=40.0, ups_off="battery", ignore_low=True)
    drive = Drive(plan).frames(30)
    assert drive.latched == ("a",)
    drive.frames(2, runtime_s=71.0)
    assert drive.latched == ("a",)
    drive.frames(2, runtime_s=70.0)
    assert drive.latched == ("a", "this-host") and drive.state.phase is Phase.COMMITTED
    drive.frames(60, runtime_s=0.0)
    assert drive.state.tells_local() and len(drive.offs) == 1


def test_a_unit_that_says_low_far_too_early_may_be_ignored_and_runtime_decides() -> None:
    drive = Drive(replace(PLAN, ignore_low=True)).frames(30, low=True, runtime_s=1000.0)
    assert drive.latched == ()
    drive.frames(2, low=True, runtime_s=100.0)
    assert drive.latched == ("a", "b", "c")


def test_hold_shifts_the_time_by_exactly_five_minutes_and_keeps_runtime_and_charge_quiet() -> None:
    drive = Drive().frames(30)
    drive.state, _ = byhand.hold(drive.state, drive.now_s, drive.plan)
    drive.frames(100, runtime_s=290.0)
    assert drive.latched == ()
    drive.frames(201, runtime_s=290.0)
    assert drive.latched == ("a", "b")  # quiet for 300 s, then the runtime counts
    drive = Drive().frames(30)
    drive.state, _ = byhand.hold(drive.state, drive.now_s, drive.plan)
    drive.frames(330)
    assert drive.latched == ()
    drive.frames(1)
    assert drive.latched == ("a",)


@pytest.mark.parametrize("do", ["hold", "abort"])
@pytest.mark.parametrize("emergency", ["low", "budget", "silence"])
def test_neither_hold_nor_abort_stops_an_emergency(do: str, emergency: str) -> None:
    drive = Drive().frames(30)
    drive.state = (byhand.hold(drive.state, drive.now_s, PLAN) if do == "hold" else byhand.abort(drive.state, PLAN))[
        0
    ]
    if emergency == "silence":
        drive.silence(61)
    else:
        drive.frames(2, **({"low": True} if emergency == "low" else {"runtime_s": 100.0}))
    assert drive.latched == ("a", "b", "c")


def test_abort_stops_every_trigger_and_release_lets_them_count_again() -> None:
    aborted = Drive().frames(30)
    aborted.state, _ = byhand.abort(aborted.state, PLAN)
    aborted.frames(100, runtime_s=290.0)
    assert aborted.latched == ()
    drive = Drive(replace(PLAN, stages=(*PLAN.stages[:2], Stage(name="c", charge_below_pct=20.0)))).frames(30)
    drive.state, _ = byhand.abort(drive.state, PLAN)
    drive.frames(100, charge_pct=1.0)
    assert drive.latched == ()
    drive.state, _ = byhand.release(drive.state)
    assert (drive.state.aborted, drive.state.held_s, drive.state.quiet_until_s) == (False, 0.0, 0.0)
    drive.frames(1)
    assert drive.latched == ("a",)


def test_what_is_not_open_cannot_be_held_and_an_outage_cannot_be_cleared() -> None:
    for state in (State(), committed().state):
        for do in (byhand.hold, byhand.abort):
            with pytest.raises(OrderError):
                do(state, *((1.0,) if do is byhand.hold else ()), PLAN)  # type: ignore[arg-type]
    for state in (State(), Drive().frames(61).state, committed().state):
        with pytest.raises(OrderError):
            byhand.clear(state)
    assert byhand.HOLD_S == 300.0


# --- the arrows -------------------------------------------------------------------------------------------------


def test_countdown_hold_countdown_is_one_outage_and_its_clock_goes_on() -> None:
    drive = Drive().frames(20)
    outage, began_s = drive.state.outage, drive.state.began_s
    drive.frames(9, MAINS)
    assert drive.state.phase is Phase.COUNTDOWN
    drive.frames(3, MAINS)
    assert drive.state.phase is Phase.HOLD
    drive.frames(57, MAINS)
    assert drive.state.phase is Phase.HOLD
    drive.frames(4)
    assert (drive.state.phase, drive.state.outage, drive.state.began_s) == (Phase.COUNTDOWN, outage, began_s)


def test_bypass_is_mains() -> None:
    drive = Drive().frames(20).frames(80, Source.BYPASS)
    assert drive.state.phase is Phase.IDLE


def test_another_outage_in_the_recovery_begins_with_nothing_latched() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(100, MAINS)
    old = drive.state.outage
    assert drive.state.phase is Phase.RECOVERY
    drive.frames(4)
    assert drive.state.phase is Phase.COUNTDOWN and drive.state.latched == () and drive.state.outage != old


def test_the_recovery_waits_for_the_servers_time_and_for_charge_or_time_on_line() -> None:
    drive = Drive().frames(61)  # a needs 60 s, latched at 160
    drive.seen = Seen(all_back=False)
    drive.frames(400, MAINS, charge_pct=10.0)
    line_s = drive.at("mains-back") - 10.0
    assert drive.at("waking") - line_s == pytest.approx(300.0, abs=1)
    drive = Drive().frames(61)
    drive.seen = Seen(down_by_s=drive.now_s + 200.0, all_back=False)
    drive.frames(250, MAINS, charge_pct=50.0)
    assert drive.at("waking") == pytest.approx(361.0, abs=1)


def test_a_charge_that_is_guessed_of_a_voltage_wakes_nobody_before_the_time_on_line() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(400, MAINS, charge_pct=100.0, guessed=frozenset({"charge_pct"}))
    line_s = drive.at("mains-back") - 10.0
    assert drive.at("waking") - line_s == pytest.approx(300.0, abs=1)


def test_in_the_recovery_only_the_mains_counts_as_time_on_line() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(80, MAINS, charge_pct=10.0)
    for _ in range(400):
        drive.frame(look(Source.NONE, charge_pct=90.0))
    assert "waking" not in drive.kinds()


def test_the_recovery_is_given_up_after_a_day() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(100, MAINS)
    drive.now_s += afterwards.RECOVERY_LIMIT_S
    drive.frames(1, MAINS)
    assert drive.state.phase is Phase.IDLE and drive.all[-1][1:] == ("recovered", "given-up")


def test_after_the_order_the_recovery_waits_for_the_ups_to_come_back() -> None:
    drive = committed(OFF)
    drive.frames(125, low=True)
    sent_s = drive.offs[0][0]
    drive.frames(300, MAINS)
    assert drive.at("recovery-began") >= sent_s + 30.0 + 60.0


def test_a_planned_shutdown_tells_waits_and_ends_and_a_quarter_hour_later_at_the_latest() -> None:
    drive = Drive().frames(3, MAINS)
    drive.state, effects = byhand.shutdown(drive.state, "b", drive.now_s, PLAN, "p" * 16)
    assert [(e.stage, e.why) for e in effects] == [("a", "planned"), ("b", "planned")]
    assert drive.latched == ("a", "b") and drive.state.phase is Phase.PLANNED
    drive.frames(85, MAINS)
    assert drive.state.phase is Phase.PLANNED
    drive.frames(10, MAINS)
    assert drive.state.phase is Phase.IDLE
    drive.state, _ = byhand.shutdown(drive.state, "a", drive.now_s, PLAN, "q" * 16)
    drive.seen = Seen(all_told=False)
    drive.frames(900, MAINS)
    assert drive.state.phase is Phase.PLANNED
    drive.frames(100, MAINS)
    assert drive.state.phase is Phase.IDLE


def test_a_planned_shutdown_of_all_on_mains_commits_nothing_and_an_outage_in_it_does() -> None:
    drive = Drive(OFF).frames(3, MAINS)
    drive.state, _ = byhand.shutdown(drive.state, "all", drive.now_s, OFF, "p" * 16)
    drive.frames(20, MAINS)
    assert drive.state.phase is Phase.PLANNED and {x.why for x in drive.state.latched} == {"planned"}
    drive.frames(5)
    assert drive.state.phase is Phase.COMMITTED and drive.state.outage == "p" * 16


def test_an_order_in_an_outage_is_ordered_and_commits_when_all_are_latched() -> None:
    drive = Drive().frames(10)
    drive.state, effects = byhand.shutdown(drive.state, "all", drive.now_s, PLAN, "x")
    assert drive.state.phase is Phase.COMMITTED and {x.why for x in drive.state.latched} == {"ordered"}


def test_battery_again_does_not_undo_the_commitment() -> None:
    drive = committed(OFF)
    drive.frames(12, MAINS)
    assert not drive.state.on_battery
    drive.frames(4)
    assert drive.state.on_battery and drive.state.phase is Phase.COMMITTED


# --- silence, gaps, and numbers that change ---------------------------------------------------------------------


def test_after_fifteen_seconds_of_silence_only_a_third_failed_poll_lets_a_stage_be_due() -> None:
    drive = Drive().frames(50, runtime_s=None)
    drive.now_s += 20.0
    for failed in (1, 2):
        drive.frame(None, gap_s=0.5)
        assert drive.failed == failed and drive.latched == ()
    drive.frame(None)
    assert drive.latched == ("a",)


def test_two_battery_frames_ten_seconds_apart_confirm() -> None:
    drive = Drive()
    drive.frame(look(BATTERY), gap_s=10.0)
    drive.frame(look(BATTERY), gap_s=10.0)
    assert drive.state.on_battery


def test_the_virtual_battery_begins_with_the_silence_and_not_between_two_frames() -> None:
    drive = Drive(Plan(stages=(Stage(name="x", runtime_below_s=150.0),)))
    for _ in range(20):
        drive.frame(look(BATTERY, runtime_s=180.0), gap_s=7.0)
        drive.frame(None, tick=True, gap_s=7.0)
    assert drive.latched == ()


def test_a_runtime_may_rise_by_a_tenth_in_a_minute() -> None:
    drive = Drive().frames(5, runtime_s=1000.0)
    drive.frames(60, runtime_s=5000.0)
    assert drive.state.runtime_s == pytest.approx(1100.0, rel=0.02)


def test_one_live_phase_of_three_excuses_no_self_test_for_long() -> None:
    drive = Drive()
    lines = tuple(replace(look(BATTERY).inputs[0], voltage_v=v) for v in (230.0, 0.0, 0.0))
    for _ in range(70):
        drive.frame(replace(look(BATTERY, flags=TEST), inputs=lines))
    assert drive.state.on_battery


# --- reboots ----------------------------------------------------------------------------------------------------


def test_a_reboot_in_a_committed_outage_with_the_mains_back_tells_nobody_and_wakes() -> None:
    for on_battery in (True, False):
        drive = committed()
        drive.frames(*((5,) if on_battery else (15, MAINS)))
        drive.reboot()
        drive.frames(72, MAINS)
        assert drive.latched == () and "recovery-began" in drive.kinds()


def test_a_reboot_in_a_committed_outage_on_battery_tells_everybody_once_more() -> None:
    drive = committed(OFF)
    drive.frames(130, low=True)
    drive.reboot()
    drive.frames(3, low=True)
    assert drive.latched == ()
    drive.frames(2, low=True)
    assert drive.latched == ("a", "b", "c") and drive.state.phase is Phase.COMMITTED
    drive.frames(110, low=True)
    assert len(drive.offs) == 1
    drive.frames(20, low=True)
    assert len(drive.offs) == 2  # everybody has his time again


def test_a_board_that_was_cycled_and_is_blind_tells_nobody() -> None:
    drive = committed(OFF)
    drive.frames(130, low=True)
    drive.reboot()
    drive.silence(300)
    assert drive.latched == ()
    drive.frames(75, MAINS, charge_pct=90.0)
    assert "waking" in drive.kinds()  # at once: their power went, so they had their time


def test_a_board_that_was_not_cycled_and_is_blind_tells_everybody_after_a_minute() -> None:
    drive = committed(OFF)
    drive.frames(10, low=True)
    drive.reboot()
    drive.silence(59)
    assert drive.latched == ()
    drive.silence(3)
    assert drive.latched == ("a", "b", "c")


def test_a_planned_shutdown_needs_no_evidence_after_a_reboot() -> None:
    drive = Drive().frames(3, MAINS)
    drive.state, _ = byhand.shutdown(drive.state, "a", drive.now_s, PLAN, "p" * 16)
    drive.reboot()
    assert drive.latched == ("a",)


def test_a_restart_starts_every_run_of_frames_anew() -> None:
    drive = Drive().frames(3)
    drive.state = protection.resume(drive.state, drive.now_s, same_boot=True)
    drive.frames(3)
    assert not drive.state.on_battery
    drive.frames(1)
    assert drive.state.on_battery


def test_after_a_reboot_a_hold_does_not_wait_by_the_old_boots_clock() -> None:
    drive = Drive().frames(30)
    drive.now_s += 10.0
    drive.state, _ = byhand.hold(drive.state, drive.now_s, PLAN)
    drive.reboot(5.0)
    drive.frames(6, runtime_s=290.0)
    assert drive.latched == ("a", "b")  # by the runtime, which is no longer kept quiet


def test_after_a_reboot_the_day_of_the_recovery_begins_anew() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(100, MAINS)
    drive.reboot(5.0)
    assert drive.state.recovery_from_s == 5.0
    drive.now_s = 5.0 + afterwards.RECOVERY_LIMIT_S
    drive.frames(1, MAINS)
    assert drive.state.phase is Phase.IDLE


def test_a_cycled_board_that_sees_an_outage_again_counts_silence_again() -> None:
    drive = committed(OFF)
    drive.frames(130, low=True)
    drive.reboot()
    drive.frames(5)
    assert drive.state.phase is Phase.COMMITTED and not drive.state.cycled
    drive = committed(replace(OFF, stages=PLAN.stages[:2]))
    drive.frames(130, low=True)
    drive.reboot()
    drive.plan = OFF
    drive.frames(5, runtime_s=None)
    drive.silence(61)
    assert "c" in {x.stage for x in drive.state.latched}


def test_what_was_left_out_on_mains_is_done_when_the_battery_is_back() -> None:
    drive = committed(OFF)
    drive.frames(105, low=True)
    drive.frames(25, MAINS)
    assert drive.state.off_skipped and drive.state.phase is Phase.OFF_ARMED
    drive.frames(5, low=True)
    assert len(drive.offs) == 1


def test_a_second_hold_keeps_runtime_and_charge_quiet_for_five_minutes_more() -> None:
    drive = Drive().frames(30)
    for _ in range(2):
        drive.state, _ = byhand.hold(drive.state, drive.now_s, PLAN)
    drive.frames(590, runtime_s=290.0)
    assert drive.latched == ()
    drive.frames(15, runtime_s=290.0)
    assert drive.latched == ("a", "b")


def test_nobody_is_ordered_down_while_servers_are_brought_back() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(100, MAINS)
    with pytest.raises(OrderError, match="brought back"):
        byhand.shutdown(drive.state, "all", drive.now_s, PLAN, "x" * 16)


# --- this host --------------------------------------------------------------------------------------------------


def test_this_host_is_told_only_when_all_others_had_their_time_and_its_power_goes() -> None:
    drive = committed(OFF)
    assert not drive.state.tells_local()
    drive.frames(130, low=True)
    assert drive.state.tells_local()
    spared = committed(OFF)
    for _ in range(200):
        spared.frame(look(MAINS))
        assert not spared.state.tells_local()


def test_this_host_stays_up_when_the_mains_came_back_just_before_its_turn() -> None:
    drive = committed(OFF)
    drive.frames(105)
    drive.frames(25, MAINS)
    assert drive.state.phase is Phase.OFF_ARMED and not drive.state.tells_local()


def test_after_a_reboot_this_host_does_not_go_by_the_old_boots_runtime() -> None:
    plan = Plan(stages=(Stage(name="a", on_battery_s=10.0),), needs_s={"a": 60.0}, local_needs_s=60.0)
    drive = Drive(plan).frames(90, runtime_s=130.0)
    assert drive.state.phase is Phase.OFF_ARMED and not drive.state.power_ends
    drive.reboot()
    drive.silence(25)
    drive.frames(90, runtime_s=3600.0)
    assert drive.state.phase is Phase.OFF_ARMED and not drive.state.tells_local()


# --- the race for the power -------------------------------------------------------------------------------------

RACE = replace(OFF, stages=(Stage(name="a", on_battery_s=20.0), Stage(name="b", on_battery_s=40.0)), needs_s={"a": 30.0, "b": 40.0})  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("ups_off", ["no", "battery", "always"])
@pytest.mark.parametrize("back_s", range(1, 130))
def test_whenever_the_power_comes_back_nobody_is_left_down(back_s: int, ups_off: str) -> None:
    """Told servers are cycled or woken; the UPS is never switched off on mains unless that is proven."""
    drive = Drive(replace(RACE, ups_off=ups_off))
    drive.frames(back_s)
    told = drive.latched
    on_mains_from_s = drive.now_s
    for _ in range(400):
        drive.frame(look(MAINS))
        if told and drive.state.phase not in (Phase.RECOVERY, Phase.IDLE):
            assert drive.latched == told  # nobody is told because the mains is back, and nobody is un-told
    assert drive.state.phase is Phase.IDLE
    assert ("waking" in drive.kinds()) == bool(told)
    late = [at_s for at_s, _ in drive.offs if at_s >= on_mains_from_s]
    assert not late or ups_off == "always"
    assert len(drive.offs) <= 1
    if ups_off == "always" and told == ("a", "b"):
        assert len(drive.offs) == 1
