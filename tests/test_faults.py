"""The matrix of faults: what is done to the agent, and the figure that must come of it.

Those that need real processes or a network of their own are in tests/peer and bench/fanout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from agent import protection, slots
from agent.config import Server, Stage
from agent.engine import Wish
from agent.guard import Ordered
from agent.kept import unpack
from agent.model import Command, Condition, Source, Status
from agent.outage import Phase, Plan, State
from agent.rccmd.codec import Command as Command_
from agent.rccmd.journal import Journal
from agent.rccmd.orders import Orders
from agent.rccmd.settings import load
from tests.kit import BATTERY, MAINS, TWO_SERVERS, Play, look
from tests.test_protection import Walk


def test_f01_a_battery_that_runs_down_tells_all_stage_by_stage_within_a_second_of_what_is_due() -> None:
    """100 % told, in order, each at most a second after its trigger."""
    stages = (
        Stage(name="desks", on_battery_s=30.0),
        Stage(name="servers", charge_below_pct=50.0),
        Stage(name="last"),
    )
    servers = tuple(
        Server(name=f"{stage.name}-{number}", address="127.0.0.1", port=6003, stage=stage.name, needs_s=60.0)
        for stage in stages
        for number in range(4)
    )
    play = Play(stages=stages, servers=servers)
    play.mains(5)
    begin_s, told_s, last_s = play.clock.now_s, dict[str, float](), None
    for second in range(600):
        charge_pct = 100.0 - second / 3
        low = charge_pct < 20.0
        last_s = play.clock.now_s if low and last_s is None else last_s
        play.battery(1, charge_pct=charge_pct, low=low, runtime_s=max(0.0, 1800.0 - 3 * second))
        for name in play.tell:
            told_s.setdefault(name, play.clock.now_s - 1.0)
    assert set(told_s) == {server.name for server in servers}
    due_s = {"desks": begin_s + 30.0, "servers": begin_s + 151.0, "last": last_s}
    for name, at_s in told_s.items():
        assert 0.0 <= at_s - due_s[name.split("-")[0]] <= 1.0, name


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
    assert len(outages) == 1, "1 outage id"
    assert commit_s and commit_s - due_s <= 0.5, "at most a tick late"


def test_f04_low_battery_in_the_first_frame_after_the_start_is_told_within_five_seconds_of_the_second() -> None:
    play = Play()
    start_s = play.clock.now_s
    while not play.tell:
        play.battery(1, low=True)
    assert play.clock.now_s - start_s - 1.0 <= 5.0 and play.tell == ("web", "files")


#: whatever the unit said last, as long as that was no battery
LAST_WORDS = {
    "mains": look(MAINS),
    "mains, low": look(MAINS, low=True, charge_pct=0.0, runtime_s=0.0),
    "bypass": look(Source.BYPASS),
    "boost": look(Source.BOOST),
    "output off": look(Source.NONE, volts=230.0),
    "unknown": look(Source.UNKNOWN),
    "self test": look(MAINS, flags=frozenset({Condition.TEST_RUNNING})),
    "calibration": look(BATTERY, volts=230.0, flags=frozenset({Condition.TEST_RUNNING})),
}


@pytest.mark.parametrize("last", LAST_WORDS)
def test_f05_an_hour_of_silence_after_any_word_but_battery_is_events_only(last: str) -> None:
    """0 sends."""
    play = Play()
    for _ in range(20):
        play.second(LAST_WORDS[last])
    play.silence(3600)
    assert play.tell == () and play.view.outage is None, "0 sends"
    assert "comm-lost" in play.so()


def test_f05_a_day_without_the_ups_on_mains_is_events_only() -> None:
    """0 sends."""
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


ALL_AT_60 = (Stage(name="first", on_battery_s=30.0), Stage(name="last", on_battery_s=60.0))


@pytest.mark.parametrize("off_return", ["battery", "always"])
def test_f08_the_mains_a_second_before_the_commit_tells_nobody_more_and_a_second_after_all(off_return: str) -> None:
    """Exact: before, the last stage is not told; after, it is; the UPS is cycled if it can be, else all are woken."""
    before = Play(stages=ALL_AT_60, off_return=off_return)
    before.battery(59)
    before.mains(100)
    assert "committed" not in before.names() and before.powered == []
    assert "files" not in {s.name for order in before.orders for s in order.tell}

    after = Play(stages=ALL_AT_60, off_return=off_return)
    after.battery(62)
    assert after.names().count("committed") == 1
    for server in TWO_SERVERS:
        after.mains(1)
        assert server.name in after.tell
        after.report(server.name, "accepted")
    after.mains(600)
    offs = [args for command, args in after.powered if command is Command.SHUTDOWN_RETURN]
    assert len(offs) == (off_return == "always")
    assert {s.name for order in after.orders for s in order.wake} == {"web", "files"}


LIFE_S = 600


def life_at(second: int) -> Status:
    """Countdown, commit, UPS off, mains, recovery; the figures are those of `lived`."""
    if second < 5 or second >= 350:
        return look(MAINS, charge_pct=40.0)
    return look(BATTERY, low=second >= 80)


@cache
def lived(*killed_at_s: int, down_s: int = 2) -> tuple[set[tuple[str, str]], int, list[str]]:
    """Who was told in which outage (by its number), how often the UPS was ordered off, and the phases seen."""
    play = Play(stages=ALL_AT_60, off_return="battery")
    told, offs, phases, second = set[tuple[str, str | None]](), 0, list[str](), 0
    off_s = LIFE_S  # the UPS obeys
    while second < LIFE_S:
        if second in killed_at_s:
            offs += sum(command is Command.SHUTDOWN_RETURN for command, _ in play.powered)
            play.clock.now_s += down_s
            second += down_s
            play = Play(after=play, stages=ALL_AT_60, off_return="battery")
        play.second(None if off_s + 30 <= second < 350 else life_at(second))
        second += 1
        off_s = second if play.powered and off_s == LIFE_S else off_s
        for name in play.tell:
            if (name, play.view.outage) not in told:
                told.add((name, play.view.outage))
                play.report(name, "accepted")
        for server in play.orders[-1].wake if play.orders else ():
            play.report(server.name, "none", wake="back")
        phases += [] if phases[-1:] == [play.view.phase] else [play.view.phase]
    offs += sum(command is Command.SHUTDOWN_RETURN for command, _ in play.powered)
    numbers = {outage: str(number) for number, outage in enumerate(sorted({str(o) for _, o in told}))}
    return {(name, numbers[str(outage)]) for name, outage in told}, offs, phases


LIFE = ["idle", "countdown", "committed", "off-armed", "recovery", "idle"]


def test_f09_a_life_without_a_kill_goes_through_all_its_phases() -> None:
    assert lived() == ({("web", "0"), ("files", "0")}, 1, LIFE)


@pytest.mark.parametrize("kill_s", [*range(2, 100, 3), *range(100, LIFE_S - 120, 13)])
def test_f09_killed_at_any_second_of_an_outage_the_same_are_told(kill_s: int) -> None:
    """0 missed, nobody in another outage, the UPS is ordered off once."""
    assert lived(kill_s) == lived()


@pytest.mark.parametrize("kill_s", [4, 33, 62, 84, 130, 205, 299, 372])
def test_f09_killed_twice_within_five_seconds_the_same_are_told(kill_s: int) -> None:
    assert lived(kill_s, kill_s + 5, down_s=1) == lived()


def in_phase(phase: str) -> Play:
    """A life up to where it is in this phase, everybody told that must be."""
    play = Play(stages=ALL_AT_60, off_return="no")
    if phase == "planned":
        play.mains(3)
        assert play.wish("shutdown", "all") == ""
    else:
        seconds = {"countdown": 40, "hold": 40, "committed": 65, "off-armed": 200, "recovery": 200}[phase]
        for _ in range(seconds):
            play.battery(1)
            for name in play.tell:
                if name not in play.engine._guard.telling.told:
                    play.report(name, "accepted")
        play.mains({"hold": 15, "recovery": 75}.get(phase, 0))
    assert play.view.phase == phase
    return play


@pytest.mark.parametrize(
    ("phase", "on_battery"),
    [
        ("countdown", ("web",)), ("hold", ("web",)), ("committed", ("web", "files")), ("off-armed", ("web", "files")),
        ("recovery", ()), ("planned", ("web", "files")),
    ],
)  # fmt: skip
def test_f10_the_board_loses_its_power_in_each_phase(phase: str, on_battery: tuple[str, ...]) -> None:
    """0 missed: on battery the same are told again, who may have come up with the board; 0 false: on mains nobody."""
    before = in_phase(phase)
    before.clock.now_s = 20.0  # another boot's clock
    on = Play(stages=ALL_AT_60, after=before, boot="boot-b")
    on.battery(20)
    assert on.tell == on_battery
    before = in_phase(phase)
    before.clock.now_s = 20.0
    mains = Play(stages=ALL_AT_60, after=before, boot="boot-c")
    mains.mains(100)
    told = {s.name for order in mains.orders for s in order.tell}
    assert told == (set(on_battery) if phase == "planned" else set())
    assert mains.view.phase in ("idle", "recovery") or phase == "planned"


TEN_YEARS_S = 10 * 365.25 * 86400
NOW_S = 1_800_000_000.0


def effects(wall_s: float, jump_s: Callable[[int], float] = lambda second: 0.0) -> list[object]:
    """Everything that an outage and its recovery bring about, with this wall clock."""
    play = Play(stages=ALL_AT_60, off_return="battery")
    trace: list[object] = []
    for second in range(LIFE_S):
        play.clock.offset_s = wall_s - 1000.0 + jump_s(second)
        play.second(life_at(second))
        for name in play.tell:
            if name not in play.engine._guard.telling.told:
                play.report(name, "accepted")
        trace += [play.tell, play.view.phase, sorted(play.so()), tuple(s.name for s in play.orders[-1].wake)]
    trace += play.powered + play.hurries
    return [*trace, *(name for name in play.names() if name != "clock-set"), play.history.counters]


@pytest.mark.parametrize("year", [1970, 2001, 2099])
def test_f11_a_wall_clock_of_another_year_changes_nothing(year: int) -> None:
    """Identical effect trace."""
    assert effects((year - 1970) * 365.25 * 86400) == effects(NOW_S)


@pytest.mark.parametrize(
    "jump_s",
    [
        lambda second: TEN_YEARS_S if second >= 50 else 0.0,
        lambda second: -TEN_YEARS_S if second >= 50 else 0.0,
        lambda second: TEN_YEARS_S * (-1) ** second,
        lambda second: -float(second),
        lambda second: -2.0 * second,
    ],
    ids=["ten years on", "ten years back", "to and fro", "stuck", "backwards"],
)
def test_f11_a_wall_clock_that_jumps_changes_nothing(jump_s: Callable[[int], float]) -> None:
    """Identical effect trace."""
    assert effects(NOW_S, jump_s) == effects(NOW_S)


def test_f12_and_f13_a_disk_that_takes_nothing_delays_nothing_and_says_so() -> None:
    play = Play()
    play.keeper.works, play.keeper.failed, play.history.failed = False, "No space left on device", "disk full"
    play.battery(61)
    assert play.tell == ("web",) and "storage-failed" in play.so()


def two_states(path: Path) -> tuple[bytes, bytes, bytes]:
    """The file of an outage with the states of two moments, and the states."""
    play = Play()
    play.battery(30)
    old = play.keeper.kept or b""
    play.battery(35)
    new = play.keeper.kept or b""
    file = slots.Slots(path)
    file.write(old)
    file.write(new)
    file.close()
    assert old != new and len(new) < slots.DATA_LIMIT_BYTES
    return path.read_bytes(), old, new


def test_f14_a_flipped_byte_or_a_torn_slot_leaves_the_other(tmp_path: Path) -> None:
    """Every byte of both headers, every 7th of the data, flipped or torn: 0 exceptions, the other slot is used."""
    path = tmp_path / "slots"
    good, old, new = two_states(path)
    size, cases = slots.SLOT_BYTES, 0
    places = [*range(slots.HEADER.size), *range(slots.HEADER.size, slots.HEADER.size + len(old), 7)]
    for slot, other in ((0, old), (1, new)):  # the first write goes to slot 1, the second to slot 0
        for place in places:
            at = slot * size + place
            for torn in (
                good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :],
                good[:at] + bytes([good[at] ^ 0x01]) + good[at + 1 :],
                good[:at] + bytes((slot + 1) * size - at) + good[(slot + 1) * size :],
            ):
                if torn == good:
                    continue
                path.write_bytes(torn)
                file = slots.Slots(path)
                found, damaged = file.read()
                file.close()
                assert found == other and not damaged, f"slot {slot}, byte {place}"
                assert unpack(found, "boot-a", 2000.0).state.outage
                cases += 1
    assert cases > 500


def test_f14_with_both_slots_torn_or_a_short_file_it_begins_anew_and_says_so(tmp_path: Path) -> None:
    """0 exceptions; damaged, so that the core leaves a row `state-lost`."""
    path = tmp_path / "slots"
    good, old, new = two_states(path)
    size = slots.SLOT_BYTES
    for place in (0, 5, 12, 17, slots.HEADER.size, slots.HEADER.size + 99):
        torn = bytearray(good)
        torn[place] ^= 0xFF
        torn[size + place] ^= 0xFF
        path.write_bytes(torn)
        keeper = slots.Keeper(path)
        assert keeper.read() == (None, True)
    for cut in range(0, 2 * size + 1, 509):
        path.write_bytes(good[:cut])
        found, damaged = slots.Keeper(path).read()
        assert found in (old, new) or (found is None and damaged == bool(good[:cut].strip(b"\0")))
    for junk in (
        b"",
        b"\xff{}",
        b"null",
        b"[]",
        b"{}",
        b'{"boot": 1}',
        b"[" * 5000,
        old[:-1],
        old.replace(b"countdown", b"x"),
    ):
        assert unpack(junk, "boot-a", 1.0).state == State()


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
    """1 run. (The classic form has no number, so one that comes after a restart of the server cannot be known.)"""

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
    assert [command for command, _ in play.powered] == [Command.SHUTDOWN_RETURN] * 2, "ordered once more"
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
        assert play.clock.now_s - 1.0 - mains_s == pytest.approx(expected_s, abs=1.0)


@pytest.mark.parametrize(("volts", "seconds"), [(0.0, 55), (230.0, 55), (230.0, 1800)])
def test_f33_a_self_test_or_calibration_on_battery_is_no_outage(volts: float, seconds: int) -> None:
    """0 sends."""
    play = Play()
    play.battery(seconds, flags=frozenset({Condition.TEST_RUNNING}), volts=volts, charge_pct=50.0)
    play.mains(60)
    assert play.tell == () and play.names("began").count("on-battery") == 0, "0 sends"


def test_f33_an_outage_in_a_self_test_is_one() -> None:
    play = Play()
    play.battery(20, flags=frozenset({Condition.TEST_RUNNING}), volts=0.0)
    play.battery(5, flags=frozenset({Condition.TEST_RUNNING}), volts=0.0, low=True)
    assert play.tell == ("web", "files")


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
