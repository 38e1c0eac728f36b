"""Protection at its edges: the second before and after, and what happens where two rules meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent import afterwards, byhand, protection
from agent.config import Stage
from agent.model import OrderError, Source
from agent.outage import Phase, Plan, Seen
from tests.kit import BATTERY, MAINS, look
from tests.test_invariants import OFF, RACE, Drive, committed
from tests.test_protection import PLAN

UNHURT = replace(PLAN, stages=tuple(Stage(name=name) for name in "abc"))  # only an emergency latches


# --- frames -----------------------------------------------------------------------------------------------------


def test_frames_fifteen_seconds_apart_make_a_run_and_a_moment_more_does_not() -> None:
    for gap_s, confirmed in ((15.0, True), (15.25, False)):
        drive = Drive()
        for _ in range(4):
            drive.frame(look(BATTERY), gap_s=gap_s)
        assert drive.state.on_battery is confirmed


def test_a_frame_that_says_neither_interrupts_a_run_of_battery() -> None:
    drive = Drive().frames(3).frames(1, Source.UNKNOWN).frames(3)
    assert not drive.state.on_battery
    assert drive.frames(1).state.on_battery


def test_the_virtual_battery_begins_when_the_last_frame_is_stale() -> None:
    drive = Drive(replace(PLAN, stages=(Stage(name="c", runtime_below_s=200.0),))).frames(5, runtime_s=240.0)
    drive.silence(15)
    assert drive.latched == ()
    drive.silence(1)
    assert drive.latched == ("c",)


def test_silence_counts_from_the_third_poll_that_failed() -> None:
    drive = Drive(UNHURT).frames(5)
    drive.now_s += 70.0
    drive.silence(2)
    assert drive.latched == ()
    drive.silence(1)
    assert drive.latched == ("a", "b", "c")


def test_the_budget_does_not_count_who_is_latched_already() -> None:
    stages = (Stage(name="slow", on_battery_s=20.0), Stage(name="quick"))
    drive = Drive(Plan(stages=stages, needs_s={"slow": 300.0, "quick": 10.0})).frames(30, runtime_s=400.0)
    drive.frames(5, runtime_s=200.0)
    assert drive.latched == ("slow",)
    drive.frames(2, runtime_s=40.0)
    assert drive.latched == ("slow", "quick")


# --- the mains comes and goes -----------------------------------------------------------------------------------


def test_an_order_for_all_while_the_mains_is_back_commits_nothing_until_it_fails_again() -> None:
    drives = []
    for _ in range(2):
        drive = Drive(OFF).frames(10).frames(12, MAINS)
        drive.state, _ = byhand.shutdown(drive.state, "all", drive.now_s, OFF, "x" * 16)
        assert drive.state.phase is Phase.HOLD and drive.latched == ("a", "b", "c")
        drives.append(drive)
    back, again = drives
    back.frames(400, MAINS)
    assert "committed" not in back.kinds() and "waking" in back.kinds() and back.offs == []
    again.frames(4)
    assert again.state.phase is Phase.COMMITTED


def test_an_order_in_a_hold_that_cannot_be_carried_out_ends_with_its_limit() -> None:
    drive = Drive(OFF).frames(10).frames(12, MAINS)
    drive.state, _ = byhand.shutdown(drive.state, "all", drive.now_s, OFF, "x" * 16)
    drive.seen = replace(drive.seen, all_told=False)
    drive.frames(int(afterwards.PLANNED_LIMIT_S) - 30, MAINS)
    assert "outage-closed" not in drive.kinds()
    drive.frames(60, MAINS)
    assert drive.kinds().count("outage-closed") == 1


def test_a_single_battery_frame_latches_nothing_in_a_recovery_or_a_planned_shutdown() -> None:
    recovering = Drive().frames(61)
    recovering.seen = Seen(all_back=False)
    recovering.frames(80, MAINS, charge_pct=10.0)
    planned = Drive().frames(3, MAINS)
    planned.state, _ = byhand.shutdown(planned.state, "a", planned.now_s, PLAN, "p" * 16)
    for drive in (recovering, planned):
        before = drive.state.latched
        drive.frames(3, low=True, runtime_s=0.0)
        assert drive.state.latched == before


def test_a_single_battery_frame_after_the_mains_is_back_does_not_switch_the_ups_off() -> None:
    drive = committed(OFF).frames(100).frames(30, MAINS)
    assert drive.state.phase is Phase.OFF_ARMED and drive.kinds()[-1] == "ups-off-skipped"
    drive.frames(3)
    assert drive.offs == []


def test_the_ups_is_not_switched_off_on_the_word_of_a_stale_frame() -> None:
    """The mains may be back unseen: a link is often lost when the power changes."""
    drives = []
    for _ in range(2):
        drive = committed(OFF).frames(60).silence(100)
        assert isinstance(drive, Drive) and drive.state.phase is Phase.OFF_ARMED and drive.offs == []
        drives.append(drive)
    back, again = drives
    back.frames(100, MAINS)
    assert back.offs == [] and "ups-off-skipped" in back.kinds() and "recovery-began" in back.kinds()
    again.frames(1)
    assert len(again.offs) == 1  # seen again, and everybody has had his time
    recent = committed(OFF).frames(108).silence(12)
    assert isinstance(recent, Drive) and len(recent.offs) == 1


def test_this_host_is_not_told_once_the_mains_is_seen() -> None:
    drive = committed(OFF).frames(100)
    for _ in range(60):
        drive.frame(look(MAINS))
        assert not drive.state.tells_local()
    assert drive.state.phase is Phase.OFF_ARMED


def test_where_nothing_switches_the_ups_off_this_host_stays_until_the_battery_is_at_its_end() -> None:
    """It would stay off when the mains comes back before the battery is empty."""
    plan = replace(PLAN, local_needs_s=40.0)
    for end in ({"low": True}, {"runtime_s": 70.0}, {"runtime_s": None}):
        drive = committed(plan).frames(200)
        assert drive.state.phase is Phase.OFF_ARMED and not drive.state.tells_local()
        drive.frames(2, **end)
        assert drive.state.tells_local() == (end != {"runtime_s": None}), "this UPS will say that it is low"
    silent = committed(plan).frames(200).silence(62)
    assert silent.state.tells_local()
    silent.frames(1, MAINS)
    assert not silent.state.tells_local()


def test_the_delay_leaves_this_host_its_time() -> None:
    drive = committed(replace(OFF, local_needs_s=70.0)).frames(125, low=True)
    assert [delay_s for _, delay_s in drive.offs] == [100.0]


# --- the recovery -----------------------------------------------------------------------------------------------


def test_who_still_answers_before_he_was_woken_is_not_back() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=True)
    drive.frames(200, MAINS, charge_pct=10.0)
    assert drive.state.phase is Phase.RECOVERY and "waking" not in drive.kinds()


def test_waking_is_said_once() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(300, MAINS)
    assert drive.kinds().count("waking") == 1


@pytest.mark.parametrize(("charge_pct", "after_s"), [(30.0, 119.0), (29.0, 300.0), (None, 300.0)])
def test_a_charge_of_thirty_percent_is_enough_and_an_unknown_one_is_not(charge_pct: float, after_s: float) -> None:
    drive = Drive(replace(PLAN, needs_s={"a": 120.0})).frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(400, MAINS, charge_pct=charge_pct)
    line_s = drive.at("mains-back") - 10.0
    assert drive.at("waking") - line_s == pytest.approx(after_s, abs=1.5)


def test_a_recovery_is_given_up_after_a_day_of_this_boot() -> None:
    drive = Drive().frames(61)
    drive.seen = Seen(all_back=False)
    drive.frames(100, MAINS)
    began_s = drive.state.recovery_from_s
    assert began_s is not None and "waking" in drive.kinds()
    drive.now_s = began_s + 86_399.0
    drive.frames(1, MAINS)
    drive.reboot(20.0)
    drive.all.clear()
    drive.frames(100, MAINS)
    assert drive.kinds() == ["waking"]  # again: the board may have lost who was
    drive.now_s = 20.0 + 86_399.0
    drive.frames(1, MAINS)
    assert drive.state.phase is Phase.RECOVERY
    drive.frames(1, MAINS)
    assert drive.all[-1][1:] == ("recovered", "given-up")


# --- reboots ----------------------------------------------------------------------------------------------------


def test_after_a_reboot_the_runtime_of_the_boot_before_is_not_believed() -> None:
    drive = Drive(UNHURT).frames(10, runtime_s=400.0)
    drive.reboot()
    drive.frames(5, runtime_s=2000.0)
    assert drive.state.runtime_s == 2000.0


def test_after_a_reboot_a_frame_that_says_neither_is_no_evidence() -> None:
    for seconds in (10, 130):  # committed, and off-armed
        drive = committed(replace(OFF, ups_off="always")).frames(seconds, low=True)
        phase, offs = drive.state.phase, list(drive.offs)
        drive.reboot()
        for _ in range(300):
            drive.frame(look(Source.UNKNOWN, low=True))
            assert not drive.state.tells_local()
        assert (drive.state.phase, drive.latched, drive.offs) == (phase, (), offs)


def test_after_a_reboot_what_is_left_out_is_said_again() -> None:
    drive = committed(PLAN).frames(130, low=True)
    drive.reboot()
    drive.frames(130, low=True)
    assert drive.kinds().count("ups-off-skipped") == 2


def test_no_order_is_taken_before_this_boot_has_seen_the_outage() -> None:
    drive = Drive().frames(10)
    drive.reboot()
    with pytest.raises(OrderError):
        byhand.shutdown(drive.state, "all", drive.now_s, PLAN, "x" * 16)


def test_a_restart_in_the_same_boot_needs_no_evidence() -> None:
    drive = Drive().frames(61)
    drive.state = protection.resume(drive.state, drive.now_s, same_boot=True)
    assert drive.latched == ("a",)
    drive.silence(3)
    assert drive.latched == ("a",)


# --- people -----------------------------------------------------------------------------------------------------


def test_an_outage_is_held_for_a_day_at_the_most() -> None:
    drive = Drive().frames(30)
    for _ in range(288):
        drive.state, _ = byhand.hold(drive.state, drive.now_s, PLAN)
    with pytest.raises(OrderError):
        byhand.hold(drive.state, drive.now_s, PLAN)


def test_an_outage_in_a_planned_shutdown_tells_nobody_new_and_counts_from_its_own_beginning() -> None:
    plan = replace(PLAN, needs_s={"a": 600.0})
    drive = Drive(plan).frames(3, MAINS)
    drive.state, _ = byhand.shutdown(drive.state, "a", drive.now_s, plan, "p" * 16)
    drive.plan = replace(plan, stages=(*PLAN.stages[:1], Stage(name="b", on_battery_s=60.0), PLAN.stages[2]))
    drive.frames(100, MAINS).frames(60)
    assert drive.latched == ("a",) and drive.state.phase is Phase.COUNTDOWN and drive.state.outage == "p" * 16
    drive.frames(1)
    assert drive.latched == ("a", "b")


# --- the board loses its power at each second of a plan ---------------------------------------------------------


@pytest.mark.parametrize("then", ["mains", "battery", "silence"])
@pytest.mark.parametrize("at_s", range(1, 100, 3))
def test_whenever_the_board_reboots_nobody_is_forgotten_and_nobody_told_without_evidence(
    at_s: int, then: str
) -> None:
    drive = Drive(RACE).frames(at_s)
    before = {latch.stage for latch in drive.state.latched}
    open_outage, cycled = drive.state.phase is not Phase.IDLE, bool(drive.offs)
    drive.reboot()
    drive.all.clear()
    told: set[str] = set()
    for second in range(125):
        drive.frame(look(MAINS) if then == "mains" else None if then == "silence" else look(BATTERY))
        told |= set(drive.latched)
        if second < 3 or then == "mains":
            assert told == set()
        if then == "silence" and second < 59:
            assert told == set()
    if then == "battery":
        assert told == {"a", "b"} and len(drive.offs) == 1 + cycled
    elif then == "silence":
        assert told == ({"a", "b"} if open_outage and not cycled else set())
    drive.frames(400, MAINS)
    assert drive.state.phase is Phase.IDLE
    assert ("waking" in drive.kinds()) == bool(before | told)


def test_what_the_last_frame_said_outlives_the_outage() -> None:
    state = committed().state
    left = afterwards.fresh(state)
    assert left.phase is Phase.IDLE and not left.latched
    assert (left.charge_pct, left.runtime_s, left.last_frame_s) == (
        state.charge_pct, state.runtime_s, state.last_frame_s,
    )  # fmt: skip
    assert left.charge_pct is not None and left.runtime_s is not None
