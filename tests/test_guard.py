"""The guard: what follows from protection's word, over the disk, to deliveries, the UPS, the recovery, and people."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.config import Server, Stage
from agent.engine import NewConfig
from agent.guard import Ordered
from agent.model import Command, Source
from agent.words import event_text, load
from tests.kit import TWO_SERVERS, Play, look

HOST = Server(name="host", address="", port=0, how="local", stage="last", needs_s=30.0)
MACS = tuple(replace(s, mac="02:00:00:00:00:01") for s in TWO_SERVERS)


def committed(**more: object) -> Play:
    """Low battery: everybody is to be told, and took it."""
    play = Play(**more)  # type: ignore[arg-type]
    play.battery(5, low=True)
    for name in play.tell:
        play.report(name, "delivered-unconfirmed")
    return play


def last(play: Play, name: str) -> dict[str, str]:
    return dict(next(e for e in reversed(play.history.events) if e.name == name).data)


def test_the_ups_is_switched_off_late_and_only_after_the_last_servers_time() -> None:
    play = committed(off_return="battery")
    play.battery(110, low=True)
    assert play.powered == [] and play.view.phase == "committed" and play.view.off_in_s is not None
    assert 0 < play.view.off_in_s < 20
    play.battery(20, low=True)
    assert play.powered == [(Command.SHUTDOWN_RETURN, {"delay_s": 30.0, "return_delay_s": 60.0})]
    assert play.view.phase == "off-armed"
    kept = json.loads(play.keeper.kept or b"{}")
    assert kept["state"]["off_sent_s"] is not None  # on the disk before the order
    play.engine.turn(Ordered(*play.powered[0], error=""))
    assert last(play, "ups-off") == {"delay_s": "30", "outcome": "ordered"}


def test_what_the_ups_makes_of_the_order_is_in_the_log_and_is_no_failure() -> None:
    play = committed(off_return="battery")
    play.battery(130, low=True)
    play.engine.turn(Ordered(*play.powered[0], error="", remark="back after 180 s, not 60"))
    assert last(play, "ups-off")["outcome"] == "ordered"
    (event,) = (e for e in play.history.events if e.name == "ups-off")
    for language, ordered in (("en", "ordered"), ("de", "befohlen")):
        assert event_text(event, load()[language]).endswith(f"{ordered}; back after 180 s, not 60")


@pytest.mark.parametrize(
    ("off_return", "mode", "ups_off", "why"),
    [
        ("no", "armed", True, "unproven"),
        ("battery", "armed", False, "configured"),
        ("always", "dry-run", True, "not-armed"),
    ],
)
def test_without_proof_or_wish_the_ups_stays_on_and_the_log_says_why(
    off_return: str, mode: str, ups_off: bool, why: str
) -> None:
    play = committed(off_return=off_return, mode=mode, ups_off=ups_off)
    play.battery(200, low=True)
    assert play.powered == [] and last(play, "ups-off-skipped")["why"] == why
    assert play.names().count("ups-off-skipped") == 1


def test_mains_back_after_the_commit_tells_all_the_same_and_nothing_is_switched_off_on_mains() -> None:
    play = committed(off_return="battery")
    play.mains(200)
    assert play.powered == [] and last(play, "ups-off-skipped")["why"] == "mains"
    assert play.view.phase == "recovery"
    proven = committed(off_return="always")
    proven.mains(200)
    assert [command for command, _ in proven.powered] == [Command.SHUTDOWN_RETURN]


def test_a_ups_that_ignores_the_order_is_told_again_and_the_log_says_so() -> None:
    play = committed(off_return="battery")
    play.battery(130, low=True)
    assert len(play.powered) == 1
    play.battery(80, low=True)
    assert len(play.powered) == 1
    play.battery(15, low=True)  # 30 s of delay and 60 s more
    assert len(play.powered) == 2 and "ups-off-ignored" in play.names()


def test_an_output_that_is_off_has_obeyed_and_is_not_ordered_off_again() -> None:
    play = committed(off_return="battery")
    play.battery(130, low=True)
    for _ in range(300):
        play.second(look(Source.NONE))
    assert len(play.powered) == 1 and "ups-off-ignored" not in play.names()
    play.mains(75)
    assert play.view.phase == "recovery"


def test_those_that_were_told_are_woken_in_reverse_order_once_the_battery_can_carry_an_outage() -> None:
    play = committed(servers=MACS)
    play.mains(130, charge_pct=10.0)
    play.mains(75, charge_pct=10.0)
    assert play.view.phase == "recovery" and play.orders[-1].wake == ()
    assert play.view.wake_in_s is not None and {s.wake for s in play.view.servers} == {"waiting"}
    play.mains(2, charge_pct=31.0)
    assert [s.name for s in play.orders[-1].wake] == ["files"]  # of the last stage
    play.report("files", "none", wake="back")
    play.mains(1)
    assert [s.name for s in play.orders[-1].wake] == ["files", "web"]
    play.report("web", "none", wake="back")
    play.mains(2)
    assert play.view.phase == "idle" and play.orders[-1].wake == ()
    assert play.names().count("back") == 2 and "recovered" in play.names()


def test_a_server_that_does_not_come_back_holds_the_next_stage_for_two_minutes_and_is_named_after_ten() -> None:
    play = committed(servers=MACS)
    play.mains(210)
    assert [s.name for s in play.orders[-1].wake] == ["files"]
    play.mains(121)
    assert [s.name for s in play.orders[-1].wake] == ["files", "web"]
    play.report("web", "none", wake="back")
    play.mains(480)
    assert last(play, "not-back") == {"servers": "files", "count": "1"}
    play.mains(600)
    assert play.names().count("not-back") == 1 and play.view.phase == "recovery"
    assert play.wish("clear") == "" and play.view.phase == "idle"


def test_the_recovery_goes_on_after_a_restart_and_after_a_reboot() -> None:
    for boot in ("boot-a", "boot-b"):
        play = committed(servers=MACS)
        play.mains(210, charge_pct=10.0)
        assert play.view.phase == "recovery"
        again = Play(after=play, boot=boot, servers=MACS)
        again.mains(200)
        assert again.view.phase == "recovery"
        assert [s.name for s in again.orders[-1].wake][:1] == ["files"]


def test_another_outage_in_the_recovery_keeps_in_mind_who_is_still_down() -> None:
    play = committed(servers=MACS)
    play.mains(210)
    play.battery(5)
    assert play.view.phase == "countdown" and play.tell == () and play.orders[-1].wake == ()
    play.battery(60)
    play.report("web", "delivered-unconfirmed")
    play.mains(160)
    play.mains(130)
    assert {s.name for s in play.orders[-1].wake} == {"web", "files"}


def test_outlets_of_those_that_are_woken_are_switched_on_again_and_again() -> None:
    play = committed(servers=tuple(replace(s, outlet=n) for n, s in enumerate(TWO_SERVERS, start=1)))
    play.mains(150)
    assert play.powered == [(Command.OUTLET_ON, {"number": 2})]
    play.mains(61)
    assert len(play.powered) == 2


def test_a_board_that_was_cycled_by_the_ups_tells_nobody_and_brings_all_back() -> None:
    play = committed(off_return="battery", servers=MACS)
    play.battery(130, low=True)
    assert len(play.powered) == 1
    again = Play(after=play, boot="boot-b", servers=MACS)
    again.mains(75)
    assert all(o.tell == () for o in again.orders)
    assert again.view.phase == "recovery"
    again.mains(5)
    assert [s.name for s in again.orders[-1].wake] == ["files"]


def test_this_host_goes_last_and_only_when_its_power_goes() -> None:
    play = committed(servers=(*TWO_SERVERS, HOST), off_return="battery")
    assert "host" not in play.tell
    play.battery(130, low=True)
    assert "host" in play.tell and play.powered[0][1]["delay_s"] == 60.0  # its 30 s, and the margin
    spared = committed(servers=(*TWO_SERVERS, HOST), off_return="battery")
    spared.mains(300)
    assert all("host" not in [s.name for s in o.tell] for o in spared.orders)


def test_a_planned_shutdown_needs_no_outage_and_its_servers_stay_down() -> None:
    play = Play()
    play.mains(5)
    assert play.wish("shutdown", "first") == ""
    assert play.tell == ("web",) and play.view.phase == "planned" and play.view.outage is not None
    play.report("web", "delivered-unconfirmed")
    play.mains(70)
    assert play.view.phase == "idle" and "planned-ended" in play.names() and play.tell == ()
    assert play.orders[-1].wake == ()
    audit = [dict(e.data) for e in play.history.events if e.name == "command"]
    assert audit[0]["outcome"] == "done" and audit[0]["user"] == "admin"


def test_a_planned_shutdown_goes_on_over_a_reboot_and_nobody_is_told_twice() -> None:
    play = Play()
    play.mains(5)
    play.wish("shutdown", "all")
    play.report("web", "delivered-unconfirmed")
    play.mains(1)
    again = Play(after=play, boot="boot-b")
    again.mains(1)
    assert again.tell == ("web", "files") and again.orders[-1].told == {"web"}


def test_hold_puts_the_stages_off_but_not_an_emergency() -> None:
    play = Play()
    play.battery(50)
    assert play.wish("hold") == ""
    assert play.view.held_s == 300.0 and play.view.stages[0].due_in_s == pytest.approx(310, abs=2)
    play.battery(100)
    assert play.tell == ()
    play.battery(1, low=True)
    assert play.tell == ()  # one frame may be damaged
    play.battery(1, low=True)
    assert play.tell == ("web", "files")


def test_abort_stops_what_has_not_begun_and_release_lets_it_go_on() -> None:
    play = Play()
    play.battery(50)
    assert play.wish("abort") == "" and play.view.aborted
    play.battery(100)
    assert play.tell == () and play.view.stages[0].due_in_s == pytest.approx(1650, abs=1)  # by an emergency alone
    assert play.wish("release") == ""
    play.battery(1)
    assert play.tell == ("web",)
    assert "nothing" in play.wish("release")


@pytest.mark.parametrize("do", ["hold", "abort", "release", "clear", "drill-end", "dance"])
def test_what_cannot_be_done_now_is_refused_with_a_reason_and_an_audit_row(do: str) -> None:
    play = Play()
    play.mains(3)
    error = play.wish(do)
    assert error
    row = play.history.events[-1]
    assert (row.name, row.text, row.data["outcome"]) == ("command", error, "refused")


def test_a_drill_plays_the_plan_into_the_log_and_tells_nobody() -> None:
    play = Play()
    play.mains(5)
    assert play.wish("drill") == "" and play.view.drill_left_s is not None
    play.mains(61, runtime_s=1800.0)
    assert last(play, "drill-stage") == {"stage": "first", "why": "on-battery 60", "servers": "web"}
    play.mains(1500, runtime_s=1800.0)
    assert last(play, "drill-ended")["why"] == "played"
    assert play.tell == () and play.view.phase == "idle" and play.view.drill_left_s is None


def test_the_first_real_outage_ends_the_drill_and_is_real() -> None:
    play = Play()
    play.mains(5)
    play.wish("drill")
    play.mains(30)
    play.battery(5, low=True)
    assert last(play, "drill-ended")["why"] == "outage"
    assert play.tell == ("web", "files") and play.orders[-1].armed


def test_a_deleted_server_of_a_latched_stage_is_still_told_after_a_restart() -> None:
    play = Play()
    play.battery(61)
    play.engine.turn(NewConfig(replace(play.config, servers=TWO_SERVERS[1:])))
    play.battery(1)
    assert play.tell == ("web",)
    again = Play(after=play, servers=TWO_SERVERS[1:])
    again.battery(1)
    assert again.tell == ("web",) and [s.name for s in again.view.servers] == ["files", "web"]


def test_a_thousand_servers_told_in_a_second_are_some_twenty_rows_and_none_is_lost() -> None:
    servers = tuple(Server(name=f"s{n:04d}", address=f"127.1.{n // 250}.{n % 250 + 1}") for n in range(1000))
    play = Play(servers=servers, stages=(Stage(name="default"),))
    play.battery(5, low=True)
    before = len(play.history.events)
    for server in servers:
        play.report(server.name, "delivered-unconfirmed")
    play.battery(10, low=True)
    rows = [e for e in play.history.events[before:] if e.name == "told"]
    assert len(rows) <= 40
    names = [name for e in rows for name in e.data["server"].split(", ")]
    assert sorted(names) == [s.name for s in servers]


def test_of_a_proof_that_fails_and_works_again_the_log_has_a_row_each() -> None:
    play = Play()
    play.mains(1)
    play.report("web", "none", state="reachable", proof_s=play.clock.now_s)
    play.report("web", "none", state="reachable", proof_s=play.clock.now_s, proof="no connection", failing=True)
    play.report("web", "none", state="reachable", proof_s=play.clock.now_s, proof="no answer", failing=True)
    play.report("web", "none", state="reachable", proof_s=play.clock.now_s + 9)
    play.mains(1)
    assert [n for n in play.names() if n.startswith("pro")] == ["proof-failed", "proven-again"]


def test_a_server_without_a_proof_for_a_day_is_a_condition_when_armed() -> None:
    for mode, expected in (("armed", True), ("dry-run", False)):
        play = Play(mode=mode)
        play.mains(5)
        assert "server-unproven" not in play.so()
        play.clock.now_s += 86_400
        play.mains(5)
        assert ("server-unproven" in play.so()) is expected


def test_waking_by_hand_is_refused_while_servers_are_shut_down_and_unarmed() -> None:
    play = Play()
    play.mains(2)
    assert play.wish("wake", "first") == "" and [s.name for s in play.orders[-1].wake] == ["web"]
    play.battery(61)
    assert "afterwards" in play.wish("wake", "first")
    assert "armed" in Play(mode="dry-run").wish("wake", "all")


def test_output_off_in_the_recovery_wakes_nobody_before_the_mains_is_there() -> None:
    play = committed(servers=MACS)
    play.mains(160, charge_pct=5.0)
    for _ in range(400):
        play.second(look(Source.NONE, charge_pct=90.0))
    assert play.orders[-1].wake == ()
