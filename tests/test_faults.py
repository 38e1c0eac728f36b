"""The matrix of faults: what is done to the agent, and the figure that must come of it.

Those that need real processes or a network of their own are in tests/peer and bench/fanout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent import protection, slots
from agent.config import Stage
from agent.engine import Wish
from agent.guard import Ordered
from agent.kept import unpack
from agent.model import Command, Condition, Source
from agent.outage import Phase, Plan, State
from agent.rccmd.codec import Command as Command_
from agent.rccmd.journal import Journal
from agent.rccmd.orders import Orders
from agent.rccmd.settings import load
from tests.kit import BATTERY, MAINS, TWO_SERVERS, Play, look
from tests.test_protection import Walk


@pytest.mark.parametrize("blip_s", [1.0, 2.9])
def test_f02_a_blip_sends_nothing(blip_s: float) -> None:
    play = Play()
    play.mains(5)
    play.second(look(BATTERY, low=True))
    play.clock.now_s += blip_s - 1.0
    play.mains(60)
    assert play.tell == () and play.view.outage is None, "0 sends"


def test_f03_thirty_minutes_of_flapping_are_one_outage_and_the_commit_is_at_most_a_tick_late() -> None:
    walk = Walk(Plan(stages=(Stage(name="all", on_battery_s=7200.0),), needs_s={"all": 120.0}))
    outages, runtime_s, commit_s, due_s = set[str](), 1000.0, 0.0, 0.0
    for second in range(1800):
        battery = second % 10 < 5
        runtime_s -= 0.6
        walk.frame(look(BATTERY if battery else MAINS, runtime_s=runtime_s))
        outages |= {walk.state.outage} if walk.state.outage else set()
        if not due_s and runtime_s <= 150.0 and battery:
            due_s = walk.now_s
        if not commit_s and walk.state.phase is Phase.COMMITTED:
            commit_s = walk.now_s
    assert len(outages) == 1
    assert commit_s and commit_s - due_s <= 5.0, "one tick, or the next frame on battery"


def test_f04_low_battery_in_the_first_frame_after_the_start_is_told_within_five_seconds_of_the_second() -> None:
    play = Play()
    start_s = play.clock.now_s
    while not play.tell:
        play.battery(1, low=True)
    assert play.clock.now_s - start_s - 1.0 <= 5.0 and play.tell == ("web", "files")


def test_f05_a_day_without_the_ups_on_mains_is_events_only() -> None:
    play = Play()
    play.mains(10)
    for _ in range(24 * 60):
        play.second(None)
        play.clock.now_s += 59.0
    assert play.tell == () and play.names("began") == ["comm-lost"]


@pytest.mark.parametrize(("runtime_s", "expected_s"), [(None, 60.0), (1800.0, 60.0), (240.0, 42.0)])
def test_f06_silence_on_battery_commits_at_the_virtual_budget_or_a_minute(
    runtime_s: float | None, expected_s: float
) -> None:
    stages = (Stage(name="first"), Stage(name="last"))
    play = Play(stages=stages)
    play.battery(6, runtime_s=runtime_s)
    last_s = play.clock.now_s - 1.0
    while not play.tell:
        play.silence(1)
    assert play.clock.now_s - 1.0 - last_s == pytest.approx(expected_s, abs=1.0)


def test_f07_the_line_that_comes_back_after_fifty_seconds_goes_on_counting_and_sends_nothing() -> None:
    play = Play(stages=(Stage(name="first", on_battery_s=600.0), Stage(name="last")))
    play.battery(10)
    play.silence(50)
    play.battery(60)
    assert play.tell == () and play.view.phase == "countdown"


@pytest.mark.parametrize(("battery_s", "told"), [(60, ()), (61, ("web",))])
def test_f08_the_mains_a_second_before_and_after(battery_s: int, told: tuple[str, ...]) -> None:
    play = Play()
    play.battery(battery_s)
    play.mains(30)
    assert play.tell == told


@pytest.mark.parametrize("kill_after_s", [*range(1, 12), 59, 60, 61, 62, 75])
def test_f09_killed_at_every_step_the_same_are_told(kill_after_s: int) -> None:
    steady, killed = Play(), Play()
    steady.battery(80)
    killed.battery(kill_after_s)
    again = Play(after=killed)
    again.battery(80 - kill_after_s)
    assert again.tell == steady.tell == ("web",)
    assert again.view.outage == killed.view.outage or kill_after_s < 4


def test_f10_a_power_cut_of_the_board_in_each_phase() -> None:
    for second in (10, 61, 70):
        play = Play()
        play.battery(second)
        again = Play(after=play, boot="boot-b")
        again.mains(100)
        assert all(o.tell == () for o in again.orders), "0 false"
        other = Play(after=play, boot="boot-c")
        other.battery(70)
        assert other.tell == ("web",), "0 missed"


@pytest.mark.parametrize("year", [1970, 2001, 2099])
def test_f11_the_wall_clock_changes_nothing(year: int) -> None:
    def effects(offset_s: float, jump_s: float) -> list[object]:
        play = Play()
        play.clock.offset_s = offset_s - play.clock.now_s
        for second in range(300):
            play.clock.offset_s += jump_s * (-1) ** second
            play.second(look(BATTERY if 20 < second < 120 else MAINS, runtime_s=400.0))
        return [(o.tell, o.armed) for o in play.orders]

    ten_years_s = 10 * 365.25 * 86400
    expected = effects(1_800_000_000.0, 0.0)
    assert effects((year - 1970) * 365.25 * 86400, 0.0) == expected
    assert effects(1_800_000_000.0, ten_years_s) == expected


def test_f12_and_f13_a_disk_that_takes_nothing_delays_nothing_and_says_so() -> None:
    play = Play()
    play.keeper.works, play.keeper.failed, play.history.failed = False, "No space left on device", "disk full"
    play.battery(61)
    assert play.tell == ("web",) and "storage-failed" in play.so()


def test_f14_every_torn_slot_leaves_the_other_and_both_torn_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    first = slots.Slots(path)
    first.write(b"old")
    first.write(b"new")
    first.close()
    good = path.read_bytes()
    size = slots.SLOT_BYTES
    places = [*range(slots.HEADER.size + 3), *range(slots.HEADER.size + 3, size, 997)]
    for place in places:
        for slot in (0, 1):
            torn = bytearray(good)
            torn[slot * size + place] ^= 0xFF
            path.write_bytes(torn)
            found, damaged = slots.Slots(path).read()
            assert found in (b"old", b"new") and not damaged
    path.write_bytes(b"\xff" * (2 * size))
    assert slots.Slots(path).read() == (None, True)
    for cut in (0, 1, size - 1, size + 7):
        path.write_bytes(good[:cut])
        slots.Slots(path).read()
    assert unpack(b"\xff{}", "boot", 1.0).state == State()


def test_f15_an_hour_on_mains_is_at_most_six_writes() -> None:
    play = Play()
    play.mains(5)
    writes: list[str] = []
    play.history.record = lambda *_: writes.append("events")  # type: ignore[method-assign]
    play.history.record_samples = lambda rows: writes.append("samples") if rows else None  # type: ignore[method-assign]
    play.keeper.keep = lambda *_, **__: writes.append("slots") or True  # type: ignore[method-assign,func-returns-value]
    play.mains(3600)
    assert len(writes) <= 6, f"{writes} in an hour"


def test_f19_a_repeated_and_a_reordered_shutdown_runs_once() -> None:
    class Job:
        pid = 1

        def poll(self) -> int | None:
            return 0

    runs: list[object] = []
    settings = load({"allow": "192.0.2.10", "on_shutdown": "true"})
    orders = Orders(settings, Journal(), lambda *call: runs.append(call) or Job())  # type: ignore[func-returns-value]
    for now_s in (10.0, 10.1, 40.0, 200.0, 480.0):
        assert orders.take(Command_("SHUTDOWN"), "192.0.2.10", now_s)
    assert len(runs) == 1, "1 run"


def test_f25_a_bouncing_contact_and_a_broken_wire_send_nothing() -> None:
    walk = Walk()
    for number in range(200):
        walk.frame(look(BATTERY if number % 2 else MAINS, low=True), gap_s=0.05)
    walk.silence(300)
    assert walk.effects == [], "0 sends"


def test_f31_a_ups_that_ignores_the_order_is_said_and_told_again_and_on_mains_the_servers_are_woken() -> None:
    macs = tuple(replace(s, mac="02:00:00:00:00:01") for s in TWO_SERVERS)
    play = Play(servers=macs, off_return="battery")
    play.battery(5, low=True)
    for server in TWO_SERVERS:
        play.report(server.name, "accepted")
    play.battery(125, low=True)
    sent_s = next(e.mono_s for e in play.history.events if e.name == "committed") + 120
    play.engine.turn(Ordered(Command.SHUTDOWN_RETURN, {"delay_s": 30.0}, "this UPS refused it"))
    play.battery(100, low=True)
    ignored = [e.mono_s for e in play.history.events if e.name == "ups-off-ignored"]
    assert len(ignored) == 1 and ignored[0] - sent_s == pytest.approx(90.0, abs=2.0)
    play.mains(200)
    assert play.orders[-1].wake


def test_f32_a_low_charge_at_the_restart_holds_the_waking_until_thirty_percent_or_five_minutes() -> None:
    macs = tuple(replace(s, mac="02:00:00:00:00:01") for s in TWO_SERVERS)
    for charge_pct, expected_s in ((10.0, 300.0), (30.0, 120.0)):
        play = Play(servers=macs)
        play.battery(5, low=True)
        for server in TWO_SERVERS:
            play.report(server.name, "accepted")
        mains_s = play.clock.now_s
        while not play.orders[-1].wake:
            play.mains(1, charge_pct=charge_pct)
        assert play.clock.now_s - 1.0 - mains_s == pytest.approx(expected_s, abs=5.0)


@pytest.mark.parametrize("volts", [0.0, 230.0])
def test_f33_a_self_test_on_battery_is_no_outage(volts: float) -> None:
    play = Play()
    play.battery(55, flags=frozenset({Condition.TEST_RUNNING}), volts=volts)
    play.mains(60)
    assert play.tell == () and play.names("began").count("on-battery") == 0


def test_f34_a_real_outage_in_a_drill_is_real() -> None:
    play = Play()
    play.mains(3)
    play.engine.turn(Wish("drill", "", {"command": "drill"}))
    play.mains(20)
    play.battery(61)
    assert play.tell == ("web",) and play.orders[-1].armed and play.view.drill_left_s is None


def test_confirmation_needs_frames_also_at_the_slowest_poll() -> None:
    state, now_s = State(), 100.0
    for _ in range(2):
        state, _ = protection.step(state, look(BATTERY, at_s=now_s), now_s, plan=Plan(), failed_polls=0, fresh_id="x")
        now_s += 10.0
    assert state.on_battery and state.phase is Phase.COUNTDOWN
    assert Source.BATTERY is BATTERY
