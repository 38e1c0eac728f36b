"""The engine: one frame's way through protection and rules to log, bus and delivery; played on a fake clock."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent import slots
from agent.config import Server, Stage
from agent.engine import NewConfig, Note
from agent.errands import Report
from agent.model import Condition, Source
from tests.kit import BATTERY, MAINS, TWO_SERVERS, Play, look


def test_an_outage_begins_in_the_log_and_ends_there() -> None:
    play = Play()
    play.mains(10)
    play.battery(20)
    play.mains(75)
    assert play.names("began") == ["on-battery", "input-bad"]
    assert play.names("ended") == ["input-bad", "on-battery"]
    assert play.names("note") == ["mains-back", "outage-closed"]
    assert play.view.power_failures == 1 and play.view.status is not None
    assert 20 <= play.view.battery_total_s <= 31  # confirmed after 3 s, ended by 10 s of mains
    assert play.view.on_battery_s is None and play.view.phase == "idle"


def test_a_stage_that_is_due_is_ordered_and_kept_before() -> None:
    play = Play()
    play.battery(60)
    assert play.tell == ()
    play.battery(1)
    assert play.tell == ("web",) and play.orders[-1].armed and play.orders[-1].outage == play.view.outage
    kept = json.loads(play.keeper.kept or b"{}")
    assert [latch["stage"] for latch in kept["state"]["latched"]] == ["first"]
    note = next(e for e in play.history.events if e.name == "stage-latched")
    assert note.data["stage"] == "first" and note.data["mode"] == "armed"
    stages = {s.name: s for s in play.view.stages}
    assert stages["first"].latched and not stages["last"].latched


def test_the_countdown_is_in_the_view() -> None:
    play = Play()
    play.battery(20)
    assert play.view.on_battery_s == pytest.approx(19.5, abs=0.6)
    assert play.view.stages[0].due_in_s == pytest.approx(40.5, abs=0.6)
    assert play.view.stages[1].due_in_s == pytest.approx(1500.0, abs=1)  # by runtime, of which 1800 s are left


def test_a_disk_that_does_not_take_the_latch_stops_no_order() -> None:
    play = Play()
    play.keeper.works, play.keeper.failed = False, "no space left"
    play.battery(61)
    assert play.tell == ("web",)
    assert "storage-failed" in play.so()


def test_dry_run_orders_are_not_armed() -> None:
    play = Play(mode="dry-run")
    play.battery(10, low=True)
    assert play.tell == ("web", "files") and not play.orders[-1].armed


def test_who_was_told_is_kept_over_a_restart_and_not_told_twice() -> None:
    play = Play()
    play.battery(10, low=True)
    play.report("web", "sending")
    play.report("web", "delivered-unconfirmed")
    play.battery(1, low=True)
    again = Play(after=play)
    again.battery(1, low=True)
    assert again.orders[-1].told == frozenset({"web"}) and again.tell == ("web", "files")
    again.report("web", "delivered-unconfirmed")
    assert again.names("note").count("told") == 1


def test_a_restart_knows_when_the_ups_was_last_heard() -> None:
    """Else its first lost polls would count from the beginning of the outage and latch everything."""
    play = Play(stages=(Stage(name="first"), Stage(name="last")))
    play.battery(65)
    again = Play(after=play, stages=play.config.stages)
    again.silence(40)
    assert again.tell == ()
    again.silence(25)
    assert again.tell == ("web", "files")


def test_a_restart_after_some_mains_frames_does_not_take_the_silence_for_a_battery() -> None:
    play = Play()
    play.battery(30)
    play.mains(5)
    again = Play(after=play)
    again.silence(200)
    assert again.tell == ()


def test_after_a_reboot_that_the_servers_shared_they_are_told_again() -> None:
    play = Play()
    play.battery(10, low=True)
    play.report("web", "delivered-unconfirmed")
    play.battery(1, low=True)
    again = Play(after=play, boot="boot-b")
    again.mains(30)
    again.battery(10, low=True)
    assert again.tell == ("web", "files") and again.orders[-1].told == frozenset()


def test_an_ups_thread_that_hangs_on_battery_counts_as_silence() -> None:
    play = Play()
    play.battery(10)
    for _ in range(2 * 70):
        play.clock.now_s += 0.5
        play.engine.turn(None)
    assert "comm-lost" in play.so() and play.tell == ("web", "files")


def test_a_process_that_was_stopped_for_an_hour_on_battery_tells_nobody_before_it_has_looked() -> None:
    play = Play(stages=(Stage(name="first"), Stage(name="last")))
    play.battery(10)
    play.clock.now_s += 3600.0
    play.engine.turn(None)
    play.mains(20)
    assert play.tell == () and "on-battery" not in play.so()


def test_a_reload_in_the_outage_drops_nobody_of_a_latched_stage() -> None:
    play = Play()
    play.battery(65)
    assert play.tell == ("web",)
    moved = replace(TWO_SERVERS[0], stage="last", port=7000)
    play.engine.turn(NewConfig(replace(play.config, servers=(moved, TWO_SERVERS[1]))))
    assert [(s.name, s.port) for s in play.orders[-1].tell] == [("web", 7000)]
    play.engine.turn(NewConfig(replace(play.config, servers=(TWO_SERVERS[1],))))
    assert [(s.name, s.port) for s in play.orders[-1].tell] == [("web", 7000)]
    play.mains(75)
    assert play.tell == ()
    renamed = (Stage(name="other", on_battery_s=60.0), Stage(name="last"))
    play = Play()
    play.battery(65)
    play.engine.turn(NewConfig(replace(play.config, stages=renamed, servers=TWO_SERVERS[1:])))
    assert play.tell == ("web",)


def test_a_server_that_is_new_in_a_latched_stage_is_told_too() -> None:
    play = Play()
    play.battery(65)
    new = Server(name="new", address="127.0.0.7", stage="first")
    play.engine.turn(NewConfig(replace(play.config, servers=(*TWO_SERVERS, new))))
    assert play.tell == ("web", "new")


def test_a_server_with_a_new_address_has_not_been_told() -> None:
    play = Play()
    play.battery(10, low=True)
    play.report("web", "delivered-unconfirmed")
    moved = (Server(name="web", address="127.0.0.9", stage="first"), TWO_SERVERS[1])
    again = Play(after=play, servers=moved)
    again.battery(1, low=True)
    assert again.orders[-1].told == frozenset()


def test_a_restart_in_an_outage_repeats_its_conditions_and_adds_no_row() -> None:
    play = Play()
    play.mains(5)
    play.battery(20)
    rows = len(play.history.events)
    again = Play(after=play)
    again.battery(5)
    assert len(again.history.events) == rows
    repeated = [m["event"] for m in again.engine.greeting() if m["type"] == "event"]
    assert {(e.name, e.again) for e in repeated} == {("on-battery", True), ("input-bad", True)}
    assert again.view.power_failures == 1
    assert again.view.on_battery_s == pytest.approx(24.5, abs=0.6)


def test_a_restart_after_the_mains_came_back_ends_the_outage_once() -> None:
    play = Play()
    play.battery(20)
    again = Play(after=play)
    again.mains(80)
    assert again.names("ended").count("on-battery") == 1 and again.view.phase == "idle"


def test_two_lost_answers_are_nothing_and_fifteen_seconds_of_them_are_comm_lost() -> None:
    play = Play()
    play.mains(10)
    play.silence(2)
    play.mains(5)
    assert play.names() == []
    play.silence(14)
    assert play.view.status is not None
    play.silence(3)
    assert play.so() == {"comm-lost"}
    assert play.view.status is None and play.view.age_s is not None and play.view.age_s > 15
    play.mains(1)
    assert play.so() == set() and play.view.status is not None


def test_comm_lost_is_kept_over_a_restart_until_a_frame_comes() -> None:
    play = Play()
    play.mains(5)
    play.silence(20)
    again = Play(after=play)
    assert again.so() == {"comm-lost"}
    again.silence(5)
    again.mains(1)
    assert again.names() == ["comm-lost", "comm-lost"]


def test_after_comm_lost_on_battery_the_outage_stays_known() -> None:
    play = Play()
    play.battery(10)
    play.silence(20)
    assert {"on-battery", "comm-lost"} <= play.so() and play.view.status is None


@pytest.mark.parametrize("seconds", [1, 2])
def test_a_low_battery_flicker_on_mains_is_filtered(seconds: int) -> None:
    play = Play()
    play.mains(10)
    play.mains(seconds, low=True)
    play.mains(100)
    assert play.names() == [] and play.tell == ()


def test_a_lasting_low_battery_on_mains_is_shown_and_tells_nobody() -> None:
    play = Play()
    play.mains(600, low=True)
    assert play.so() == {"low-battery"} and play.tell == () and play.view.outage is None


def test_a_reboot_gives_the_conditions_times_of_this_boot() -> None:
    play = Play()
    play.battery(20)
    play.clock.offset_s += play.clock.now_s - 7.0
    play.clock.now_s = 7.0
    again = Play(after=play, boot="boot-b")
    assert "on-battery" in again.so()
    assert all(a.since_s <= 8.0 for a in again.view.conditions)
    assert again.tell == ()


def test_input_bads_counts_the_beginnings() -> None:
    play = Play()
    for _ in range(3):
        play.mains(5)
        play.mains(5, volts=150.0)
    assert play.view.input_bads == 3
    assert Play(after=play).view.input_bads == 3


def test_overload_has_hysteresis() -> None:
    play = Play()
    base = look(MAINS)

    def load(pct: float, seconds: int) -> None:
        for _ in range(seconds):
            play.second(replace(base, outputs=(replace(base.outputs[0], load_pct=pct),)))

    load(105.0, 5)
    assert play.so() == {"overload"}
    load(98.0, 10)
    assert play.so() == {"overload"}
    load(90.0, 5)
    assert play.so() == set()


def test_output_off_counts_after_thirty_seconds() -> None:
    play = Play()
    for _ in range(29):
        play.second(look(Source.NONE))
    assert "output-off" not in play.so()
    for _ in range(3):
        play.second(look(Source.NONE))
    assert "output-off" in play.so() and play.tell == ()


def test_a_bad_configuration_is_a_condition_and_the_old_plan_stays() -> None:
    play = Play()
    play.engine.turn(NewConfig(play.config, ("[agent] mode: unknown",), protecting_bad=True))
    play.mains(1)
    assert {"config-error", "not-protected"} <= play.so()
    play.battery(10, low=True)
    assert play.tell == ("web", "files")
    assert play.view.config_errors == ("[agent] mode: unknown",)


def test_armed_without_a_server_is_not_protected() -> None:
    for mode, expected in (("armed", {"not-protected"}), ("dry-run", set())):
        play = Play(servers=(), stages=(Stage(name="a"),), mode=mode)
        play.mains(1)
        assert play.so() == expected


def test_a_note_is_a_row_and_a_message() -> None:
    play = Play()
    play.engine.turn(Note("command", "", {"command": "test-quick", "user": "admin"}))
    assert play.history.events[-1].data["user"] == "admin"
    assert [m["event"].name for m in play.published if m["type"] == "event"] == ["command"]


def test_the_view_says_which_test_began_last() -> None:
    play = Play()
    play.mains(2)
    assert play.engine.view.test_s is None
    play.engine.turn(Note("command", "", {"command": "test-deep", "outcome": "done"}))
    ordered_s = play.clock.now_s
    play.mains(3, flags=frozenset({Condition.TEST_RUNNING}))
    play.mains(3)
    assert (play.engine.view.test_order, play.engine.view.test_s) == ("test-deep", ordered_s)
    play.mains(1, flags=frozenset({Condition.TEST_RUNNING}))
    assert play.engine.view.test_order == "" and play.engine.view.test_s == play.clock.now_s - 1.0


def test_event_ids_go_on_after_a_restart() -> None:
    play = Play()
    play.battery(10)
    again = Play(after=play)
    again.mains(80)
    ids = [e.id for e in again.history.events]
    assert ids == sorted(set(ids)) and ids[0] == 1


def test_a_clock_that_is_set_is_noted_and_earlier_rows_are_mended() -> None:
    play = Play()
    play.clock.is_synced = False
    play.mains(2)
    play.clock.offset_s += 40 * 365 * 86400.0
    play.clock.is_synced = True
    play.mains(2)
    assert play.names() == ["clock-set"]
    assert play.history.clock_sets[-1] == pytest.approx(play.clock.offset_s)


def test_wall_clock_jumps_change_no_order() -> None:
    steady, jumping = Play(), Play()
    for second in range(200):
        source, more = (BATTERY, {"runtime_s": 400.0}) if 20 < second < 120 else (MAINS, {})
        steady.second(look(source, **more))
        jumping.clock.offset_s += (-1) ** second * 3.0e8
        jumping.second(look(source, **more))
    assert [o.tell for o in steady.orders] == [o.tell for o in jumping.orders]
    assert steady.names("began") == jumping.names("began")


def test_samples_are_flushed_every_quarter_hour_and_every_ten_seconds_on_battery() -> None:
    play = Play()
    play.mains(890)
    assert play.history.samples == []
    play.mains(20)
    assert {row[1] for row in play.history.samples} >= {"input-voltage-v", "charge-pct", "load-pct"}
    count = len(play.history.samples)
    play.battery(25)
    assert len(play.history.samples) > count


def test_the_bus_hears_a_view_every_second_and_it_survives_the_wire() -> None:
    play = Play()
    play.mains(10)
    views = [m for m in play.published if m["type"] == "status"]
    assert 10 <= len(views) <= 21
    assert play.last_view() == play.view


def test_flags_of_the_unit_become_conditions_and_our_own_are_never_taken_from_it() -> None:
    play = Play()
    flags = frozenset({Condition.FAN_FAILURE, Condition.ON_BATTERY, Condition.NOT_PROTECTED})
    play.mains(10, flags=flags)
    assert play.so() == {"fan-failure"} and play.view.phase == "idle"


def test_a_thousand_servers_fit_into_the_slots() -> None:
    servers = tuple(Server(name=f"server-{n:04d}", address=f"127.1.{n // 250}.{n % 250 + 1}") for n in range(1000))
    play = Play(servers=servers, stages=(Stage(name="default"),))
    play.battery(5, low=True)
    for server in servers:
        play.report(server.name, "delivered-unconfirmed")
    play.battery(1, low=True)  # written a little later, all together
    assert play.keeper.kept is not None and len(play.keeper.kept) <= slots.DATA_LIMIT_BYTES
    again = Play(after=play, servers=servers, stages=(Stage(name="default"),))
    again.battery(1)
    assert len(again.orders[-1].told) == 1000


def test_a_poll_is_asked_for_at_the_second_that_confirms_the_outage() -> None:
    play = Play()
    play.mains(5)
    assert play.hurries == []
    first_s = play.clock.now_s
    play.battery(10)
    assert set(play.hurries) == {first_s + 3.0}
    play.battery(10)
    assert len(play.hurries) == 3  # none once it is confirmed


def test_a_poll_is_asked_for_soon_after_a_first_frame_with_low_battery_in_an_outage() -> None:
    play = Play()
    play.mains(2, low=True)  # no word of it on mains
    play.mains(2)
    play.battery(10)
    play.hurries.clear()
    said_s = play.clock.now_s
    play.battery(1, low=True)
    assert play.hurries == [said_s + 1.0]
    play.battery(5, low=True)
    assert len(play.hurries) == 1  # it is believed


def test_the_view_says_of_a_server_that_its_last_proof_failed() -> None:
    play = Play()
    play.mains(2)
    good = Report(server="web", state="reachable", proof="accepts connections", proof_s=play.clock.now_s)
    play.engine.turn(good)
    play.engine.turn(replace(good, proof="Connection refused", failing=True))
    play.mains(2)
    web, files = play.last_view().servers
    assert (web.state, web.proof, web.failing, files.failing) == ("reachable", "Connection refused", True, False)
