"""Nobody is forgotten, and nobody is told or woken for nothing, in the turns that an outage seldom takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent import protection, wire
from agent.config import Server, Stage
from agent.engine import NewConfig
from agent.errands import Report
from agent.guard import Ordered
from agent.model import Condition
from tests.kit import BATTERY, TWO_SERVERS, Play, look
from tests.test_protection import Walk

WEB, FILES = TWO_SERVERS
LOCAL = Server(name="me", address="", port=0, stage="last", how="local", needs_s=30, options={"command": "off"})


def woken(play: Play) -> set[str]:
    return {server.name for orders in play.orders for server in orders.wake}


def told_web(**more: object) -> Play:
    """On battery for 70 s: web, of the first stage, was told."""
    play = Play(**more)  # type: ignore[arg-type]
    play.mains(5)
    play.battery(70)
    assert "web" in play.tell
    play.report("web", "delivered-unconfirmed")
    return play


def test_a_short_outage_in_the_recovery_forgets_nobody_who_is_down() -> None:
    play = told_web()
    play.mains(75, charge_pct=10.0)
    assert play.view.phase == "recovery"
    play.battery(6, charge_pct=10.0)
    assert play.view.phase == "countdown"
    play.mains(80, charge_pct=10.0)
    assert play.view.phase == "recovery" and woken(play) == set()
    play.mains(300, charge_pct=40.0)
    assert woken(play) == {"web"}
    play.report("web", "none", wake="back")
    play.mains(5)
    assert play.view.phase == "idle"


def test_an_interrupted_recovery_is_remembered_over_a_restart() -> None:
    play = told_web()
    play.mains(75, charge_pct=10.0)
    play.battery(6, charge_pct=10.0)
    again = Play(after=play)
    again.mains(400, charge_pct=40.0)
    assert woken(again) == {"web"}


def test_who_took_the_order_without_an_answer_is_woken() -> None:
    play = Play()
    play.mains(5)
    play.battery(70)
    play.engine.turn(
        Report(server="web", delivery="not-delivered", heard=True, outage=play.view.outage, detail="late")
    )
    play.mains(400, charge_pct=90.0)
    assert woken(play) == {"web"}


def test_who_is_found_to_be_down_after_the_waking_began_is_woken_too() -> None:
    db = replace(WEB, name="db", port=6005)
    play = told_web(servers=(WEB, db, FILES))
    play.mains(85)
    play.mains(60)
    assert woken(play) == {"web"}
    play.engine.turn(Report(server="db", delivery="not-delivered", heard=True, outage=play.view.outage))
    play.mains(2)
    assert woken(play) == {"web", "db"}
    play.report("web", "none", wake="back")
    play.mains(5)
    assert play.view.phase == "recovery"
    play.report("db", "none", wake="back")
    play.mains(5)
    assert play.view.phase == "idle"


def test_waking_by_hand_ends_when_an_outage_tells_somebody() -> None:
    play = Play()
    play.mains(5)
    assert play.wish("wake", "all") == ""
    play.mains(1)
    assert woken(play) == {"web", "files"}
    play.battery(8, low=True)
    assert play.tell == ("web", "files") and play.orders[-1].wake == ()
    play.report("web", "accepted")
    play.battery(100, low=True)
    assert play.orders[-1].wake == ()


@pytest.mark.parametrize("retried", [False, True])
def test_an_ups_thread_that_hangs_is_silence_also_while_servers_are_told(retried: bool) -> None:
    play = Play()
    play.battery(70)
    start_s = play.clock.now_s
    while play.view.phase == "countdown" and play.clock.now_s < start_s + 300:
        play.clock.now_s += 0.5
        play.engine.turn(None)
        if retried and int(play.clock.now_s * 2) % 20 == 0:
            play.engine.turn(Report(server="web", delivery="not-delivered", outage=play.view.outage, detail="x"))
    assert play.view.phase == "committed" and play.clock.now_s - start_s == pytest.approx(60.0, abs=2.0)


def test_a_deleted_server_with_lists_in_its_options_is_remembered() -> None:
    pve = Server(
        name="pve", address="127.0.0.1", port=8006, stage="first", how="http",
        options={"headers": ["A: b"], "ok": ["200"], "url": "/x"},
    )  # fmt: skip
    play = Play(servers=(pve, *TWO_SERVERS))
    play.battery(70)
    play.engine.turn(NewConfig(replace(play.config, servers=TWO_SERVERS)))
    play.battery(1)
    assert "pve" in play.tell
    again = Play(after=play)
    again.battery(8)
    assert "pve" in again.tell
    assert wire.from_json(Server, wire.to_json(pve)) == pve


@pytest.mark.parametrize(
    "servers",
    [
        (*TWO_SERVERS, Server(name="new", address="127.0.0.3", port=6003, stage="last", needs_s=60.0)),
        (replace(WEB, address="127.0.0.2"), FILES),
    ],
    ids=["one more", "another address"],
)
def test_a_restart_with_another_plan_forgets_nobody_who_is_down(servers: tuple[Server, ...]) -> None:
    play = told_web()
    play.battery(1)
    again = Play(after=play, servers=servers)
    again.battery(6)
    again.report("web", "not-delivered", detail="it is down already")
    again.mains(500, charge_pct=50.0)
    assert "web" in woken(again)


def test_a_server_that_moves_to_another_stage_after_its_latch_is_woken() -> None:
    play = Play()
    play.battery(70)
    play.engine.turn(NewConfig(replace(play.config, servers=(replace(WEB, stage="last"), FILES))))
    play.battery(1)
    play.report("web", "delivered-unconfirmed")
    play.mains(500, charge_pct=90.0)
    assert woken(play) == {"web"}


def test_after_an_hour_away_an_outage_must_be_seen_anew() -> None:
    play = Play()
    play.battery(10)
    play.clock.now_s += 3600
    again = Play(after=play)
    again.silence(30)
    assert again.tell == ()
    again.mains(100)
    assert again.view.phase == "idle" and all(orders.tell == () for orders in again.orders)
    other = Play()
    other.battery(10)
    other.clock.now_s += 3600
    blind = Play(after=other)
    blind.silence(70)
    assert blind.view.phase == "committed", "silence for a minute after it was on battery"


def test_a_long_outage_with_a_core_that_is_killed_goes_on_as_before() -> None:
    play = Play()
    play.battery(300)
    again = Play(after=play)
    again.silence(1)
    assert again.tell == ("web",)


@pytest.mark.parametrize(("volts", "excused"), [(230.0, True), (190.0, True), (150.0, False), (300.0, False)])
def test_a_self_test_is_excused_only_while_the_mains_is_one(volts: float, excused: bool) -> None:
    walk = Walk()
    for _ in range(90):
        walk.frame(look(BATTERY, volts=volts, low=True, flags=frozenset({Condition.TEST_RUNNING})))
    assert (walk.latched == ()) == excused


def test_this_host_goes_only_when_the_ups_has_taken_the_order() -> None:
    play = Play(servers=(*TWO_SERVERS, LOCAL), off_return="always")
    play.mains(5)
    play.battery(8, low=True)
    for name in ("web", "files"):
        play.report(name, "accepted")
    play.mains(150)
    command, args = play.powered[-1]
    assert "me" not in play.tell
    play.engine.turn(Ordered(command, args, "this UPS is busy"))
    play.mains(5)
    assert "me" not in play.tell
    play.engine.turn(Ordered(command, args, ""))
    play.mains(2)
    assert "me" in play.tell


def test_what_was_ordered_by_hand_when_the_mains_was_just_back_is_done_first() -> None:
    play = Play(stages=(Stage(name="first", on_battery_s=600.0), Stage(name="last")))
    play.battery(10)
    play.mains(15)
    assert play.wish("shutdown", "all") == ""
    play.report("web", "accepted")
    play.mains(300)
    assert set(play.tell) == {"web", "files"}, "files has not been told"
    play.report("files", "accepted")
    play.mains(2)
    assert play.tell == ()


def test_the_mains_of_a_ups_that_does_not_say_its_nominal_voltage() -> None:
    assert protection._is_mains(118.0, None) and protection._is_mains(240.0, None)
    assert not protection._is_mains(160.0, None) and not protection._is_mains(0.0, None)
    assert protection._is_mains(100.0, 100.0) and not protection._is_mains(70.0, 100.0)


def test_a_server_that_was_deleted_while_nobody_ran_is_told_and_woken_all_the_same() -> None:
    play = Play()
    play.battery(70)
    again = Play(after=play, servers=(FILES,))
    again.battery(8)
    assert "web" in again.tell
    again.report("web", "accepted")
    again.mains(400, charge_pct=90.0)
    assert woken(again) == {"web"}


def test_a_restart_with_one_more_server_tells_nobody_twice() -> None:
    play = told_web()
    more = (*TWO_SERVERS, Server(name="new", address="127.0.0.3", port=6003, stage="last", needs_s=60.0))
    again = Play(after=play, servers=more)
    again.battery(6)
    assert again.orders[-1].told == {"web"}
    moved = Play(after=told_web(), servers=(replace(WEB, address="127.0.0.2"), FILES))
    moved.battery(6)
    assert moved.orders[-1].told == frozenset() and "web" in moved.tell
