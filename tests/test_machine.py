"""Protection as a state machine: whatever comes, in whatever order, the invariants hold.

Two judges, both written from the specification: tests/oracle.py works out everything a second time, and must say the
same at every step; `check` below states the invariants one by one, from the frames that were fed and from what came
out. RIDETHROUGH_FUZZ_RUNS sets the number of runs (default 300, the same at every time; of 40 steps each),
RIDETHROUGH_FUZZ_SEED makes them others.
"""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, seed, settings
from hypothesis import Phase as Work
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from agent import byhand, outage, protection
from agent.config import Stage
from agent.model import Condition, OrderError, Source, Status
from agent.outage import Effect, Phase, Plan, Seen, State
from tests.kit import BATTERY, MAINS, look
from tests.oracle import LINES, Oracle

RUNS = int(os.environ.get("RIDETHROUGH_FUZZ_RUNS", "300"))
SEED = os.environ.get("RIDETHROUGH_FUZZ_SEED")
SHRINK = "RIDETHROUGH_FUZZ_NO_SHRINK" not in os.environ  # seeded faults are known: no smallest example is wanted
TEST = frozenset({Condition.TEST_RUNNING})
LOW = frozenset({Condition.LOW_BATTERY})
SHIFT_S = 2.0**20  # another boot's clock: the same must come of it
ALL_PLANS = (
    Plan(
        stages=(
            Stage(name="a", on_battery_s=60.0),
            Stage(name="b", runtime_below_s=300.0),
            Stage(name="c", charge_below_pct=20.0),
        ),
        needs_s={"a": 60.0, "b": 90.0, "c": 120.0},
    ),
    Plan(  # the first is the slowest
        stages=(
            Stage(name="a", on_battery_s=20.0),
            Stage(name="b", on_battery_s=60.0),
            Stage(name="c", on_battery_s=120.0),
        ),
        needs_s={"a": 150.0, "b": 60.0, "c": 30.0},
    ),
    Plan(  # several triggers at once; a stage without servers; one that goes in an emergency alone
        stages=(
            Stage(name="a", on_battery_s=40.0, charge_below_pct=60.0),
            Stage(name="b", on_battery_s=90.0, runtime_below_s=400.0, charge_below_pct=30.0),
            Stage(name="c"),
        ),
        needs_s={"a": 45.0, "b": 5.0},
    ),
    Plan(stages=(Stage(name="a", on_battery_s=30.0),), needs_s={"a": 10.0}),
)
NAMES = ("a", "b", "c")
RUNTIMES = st.sampled_from([None, 0.0, 140.0, 150.0, 299.0, 300.0, 1200.0, 5000.0])
CHARGES = st.sampled_from([None, 0.0, 15.0, 20.0, 50.0, 100.0])
SOON_S = st.sampled_from([1.0, 2.0, 1.0, 0.25, 2.75, 3.0, 14.0, 15.0, 15.5])


class Machine(RuleBasedStateMachine):
    """Frames, silence, restarts, reboots, and people."""

    @initialize(
        plan=st.sampled_from(ALL_PLANS),
        ups_off=st.sampled_from(["no", "battery", "always"]),
        ignore_low=st.booleans(),
        local_s=st.sampled_from([0.0, 20.0]),
        now_s=st.sampled_from([0.0, 1000.0]),
    )
    def begin(self, plan: Plan, ups_off: str, ignore_low: bool, local_s: float, now_s: float) -> None:
        self.plan = self.whole = replace(plan, ups_off=ups_off, ignore_low=ignore_low, local_needs_s=local_s)
        self.state, self.twin, self.now_s, self.failed, self.number = State(), State(), now_s, 0, 0
        self.seen, self.oracle = Seen(), Oracle()
        self.battery_s: list[float] = []  # the battery frames in a row: the first and the last
        self.proven = False  # an outage, by the frames alone, since nobody was told
        self.ordered = False  # by people, in this outage
        self.changed = False  # the plan, in this outage
        self.off_s: float | None = None

    # -- one step, and what must be true of it

    def feed(self, status: Status | None, gap_s: float = 1.0, *, asked: bool = True) -> list[str]:
        """A frame, or none: a poll that failed, or (`asked` false) a tick."""
        self.now_s += gap_s
        self.failed = 0 if status is not None else self.failed + asked
        self.number += 1
        if status is not None:
            status = replace(status, taken_s=self.now_s)
            self.note(status, gap_s)
        before = self.state
        self.state, effects = self.step(before, status, 0.0)
        self.twin, twin_effects = self.step(self.twin, status, SHIFT_S)
        assert twin_effects == effects  # I6, I10: the same again, whatever the clock says
        kinds = self.oracle.step(status, self.now_s, self.plan, self.failed, self.seen)
        assert [e.kind for e in effects] == kinds
        self.check(before, status, effects)
        self.same()
        return kinds

    def step(self, state: State, status: Status | None, shift_s: float) -> tuple[State, tuple[Effect, ...]]:
        seen = replace(self.seen, down_by_s=self.seen.down_by_s + shift_s)
        if status is not None:
            status = replace(status, taken_s=status.taken_s + shift_s)
        return protection.step(
            state, status, self.now_s + shift_s, plan=self.plan, failed_polls=self.failed,
            fresh_id=f"{self.number:016x}", seen=seen
        )  # fmt: skip

    def note(self, status: Status, gap_s: float) -> None:
        """What the frames alone prove, as simply as it can be said."""
        if self.oracle.at_s is not None and self.now_s - self.oracle.at_s > 15.0:
            self.battery_s = []
        self.battery_s = [*self.battery_s[:1], self.now_s] if status.source is BATTERY else []
        if self.battery_s and self.battery_s[-1] - self.battery_s[0] >= 3.0:
            self.proven = True

    def same(self) -> None:
        """Protection and the oracle agree on all that others see."""
        state, oracle = self.state, self.oracle
        assert {x.stage: x.at_s for x in state.latched} == oracle.latched
        assert set(state.to_tell()) == oracle.told()  # I4
        assert state.on_battery == oracle.on_battery and state.tells_local() == oracle.host_is_told()
        assert (state.held_s, state.aborted) == (oracle.held_s, oracle.aborted)
        assert (state.outage is None) == (state.phase is Phase.IDLE) == (oracle.where == "idle")
        phases = {"idle": {Phase.IDLE}, "planned": {Phase.PLANNED}, "recovery": {Phase.RECOVERY}}
        if oracle.where != "outage":
            assert state.phase in phases[oracle.where]
        elif oracle.committed:
            assert state.phase is (Phase.OFF_ARMED if oracle.all_had_their_time else Phase.COMMITTED)
        else:
            assert state.phase is (Phase.COUNTDOWN if oracle.on_battery else Phase.HOLD)

    def check(self, before: State, status: Status | None, effects: tuple[Effect, ...]) -> None:
        state, kinds, names = self.state, [e.kind for e in effects], [s.name for s in self.plan.stages]
        old, new = {x.stage for x in before.latched}, {x.stage for x in state.latched}
        assert len(new) == len(state.latched)
        if "latched" in kinds:
            assert self.proven or before.unproven  # I1; after a reboot the outage was proven in the boot before
            assert status is None or status.source not in LINES  # I13
            self.check_whys(state, effects)
        if not self.changed and not self.ordered:  # I8
            assert {*names[: len(new)]} == new
        if old - new:  # I3
            assert {"recovered", "outage-began", "planned-ended"} & set(kinds)
            assert "recovered" not in kinds or before.phase is Phase.RECOVERY
        if before.phase is Phase.COMMITTED and not before.unproven:  # I3b
            through = state.phase is Phase.RECOVERY and {"ups-off-skipped", "ups-off"} & set(kinds)  # in one step
            assert state.phase in (Phase.COMMITTED, Phase.OFF_ARMED) or through
        if status is None:
            assert state.on_battery == before.on_battery  # time confirms nothing
        if "ups-off" in kinds:  # I7
            late_s = [x.at_s + self.plan.needs_s.get(x.stage, 0.0) for x in state.latched]
            assert self.now_s >= max(*late_s, self.seen.down_by_s) and kinds.count("ups-off") == 1
            assert self.changed or set(names) <= new
            assert self.plan.ups_off != "no" and next(e for e in effects if e.kind == "ups-off").delay_s >= 30.0
            assert self.plan.ups_off == "always" or self.battery_s
            assert self.off_s is None or self.now_s >= self.off_s + 90.0
            self.off_s = self.now_s
        if state.phase in (Phase.IDLE, Phase.RECOVERY):
            self.proven, self.off_s = False, None
        if state.phase is Phase.IDLE or "outage-began" in kinds:
            self.changed = self.ordered = False

    def check_whys(self, state: State, effects: tuple[Effect, ...]) -> None:
        """The reason that is given is one, and true."""
        stages = {s.name: s for s in self.plan.stages}
        for effect in effects:
            why, _, value = effect.why.partition(" ")
            if effect.kind != "latched":
                continue
            stage = stages[effect.stage]
            if why == "before":
                names = list(stages)
                assert names.index(effect.stage) < names.index(value)
            elif why == "on-battery":
                assert stage.on_battery_s is not None and float(value) >= stage.on_battery_s
            elif why == "low-battery":
                assert self.oracle.low and not self.plan.ignore_low
            elif why == "silence":
                assert self.failed >= 3 and float(value) >= 60
            elif why == "charge":
                assert stage.charge_below_pct is not None and (self.oracle.charge_pct or 0.0) < stage.charge_below_pct
            else:
                assert why in outage.WHYS and self.oracle.runtime_s is not None

    # -- what the UPS says

    @rule(count=st.integers(1, 12), low=st.booleans(), runtime_s=RUNTIMES, charge_pct=CHARGES, gap_s=SOON_S)
    def battery(self, count: int, low: bool, runtime_s: float | None, charge_pct: float | None, gap_s: float) -> None:
        for _ in range(count):
            self.feed(look(BATTERY, low=low, runtime_s=runtime_s, charge_pct=charge_pct), gap_s)

    @rule(count=st.sampled_from([4, 18, 21, 35, 62]), gap_s=st.sampled_from([1.0, 1.0, 4.0]))
    def outage(self, count: int, gap_s: float) -> None:
        """On battery, and it has plenty: time decides."""
        for _ in range(count):
            self.feed(look(BATTERY), gap_s)

    @rule(
        count=st.integers(5, 60), runtime_s=st.sampled_from([420.0, 320.0, 200.0]), loss_s=st.sampled_from([1.0, 3.0])
    )
    def runtime_runs_down(self, count: int, runtime_s: float, loss_s: float) -> None:
        for number in range(count):
            self.feed(look(BATTERY, runtime_s=max(0.0, runtime_s - loss_s * number), charge_pct=None))

    @rule(count=st.integers(5, 30), charge_pct=st.sampled_from([65.0, 35.0, 24.0]))
    def charge_runs_down(self, count: int, charge_pct: float) -> None:
        for number in range(count):
            self.feed(look(BATTERY, runtime_s=None, charge_pct=max(0.0, charge_pct - number)))

    @rule(
        count=st.sampled_from([1, 9, 11, 12, 70, 71, 72]),
        gap_s=st.sampled_from([1.0, 1.0, 5.0]),
        source=st.sampled_from(LINES),
        low=st.booleans(),
        charge_pct=st.sampled_from([None, 0.0, 29.0, 30.0, 90.0]),
    )
    def mains(self, count: int, gap_s: float, source: Source, low: bool, charge_pct: float | None) -> None:
        for _ in range(count):
            self.feed(look(source, low=low, runtime_s=0.0, charge_pct=charge_pct), gap_s)

    @rule(count=st.sampled_from([1, 2, 4, 20, 70]), gap_s=st.sampled_from([0.5, 1.0, 5.0]))
    def silence(self, count: int, gap_s: float) -> None:
        for _ in range(count):
            self.feed(None, gap_s)

    @rule(seconds=st.sampled_from([14, 15, 16, 59, 60, 61]), runtime_s=st.sampled_from([None, 240.0, 330.0, 480.0]))
    def outage_and_then_silence(self, seconds: int, runtime_s: float | None) -> None:
        """I2b: blind on battery for a minute, and everybody is told."""
        for _ in range(5):
            self.feed(look(BATTERY, runtime_s=runtime_s))
        for _ in range(seconds):
            self.feed(None)
        if seconds >= 60:
            assert {s.name for s in self.plan.stages} <= set(self.state.to_tell())

    @rule(gap_s=st.sampled_from([0.5, 10.0, 100.0, 4000.0]))
    def stopped_for(self, gap_s: float) -> None:
        """The process was stopped: time went on and nobody asked the UPS."""
        asked = self.failed
        kinds = self.feed(None, gap_s, asked=False)
        assert "latched" not in kinds or asked >= 3 or gap_s < 15

    @rule(hours=st.sampled_from([1, 23, 24, 25]))
    def hours_of_mains(self, hours: int) -> None:
        for _ in range(hours):
            self.feed(look(MAINS, charge_pct=10.0), 3600.0)

    @rule(count=st.integers(1, 10), on_s=st.sampled_from([4, 5]), off_s=st.sampled_from([2, 5, 12]))
    def flap(self, count: int, on_s: int, off_s: int) -> None:
        """It is one outage, and its clock goes on."""
        for _ in range(count):
            for source in (BATTERY,) * on_s + (MAINS,) * off_s:
                before = self.state
                self.feed(look(source))
                if (
                    before.phase in (Phase.COUNTDOWN, Phase.HOLD, Phase.COMMITTED)
                    and self.state.phase is not Phase.IDLE
                ):
                    assert self.state.outage == before.outage and self.state.began_s == before.began_s

    @rule(
        count=st.sampled_from([2, 30, 62, 70]),
        volts=st.sampled_from([None, 0.0, 60.0, 230.0]),
        low=st.booleans(),
        source=st.sampled_from([BATTERY, BATTERY, MAINS]),
    )
    def self_test(self, count: int, volts: float | None, low: bool, source: Source) -> None:
        idle = self.state.phase is Phase.IDLE
        for _ in range(count):
            self.feed(look(source, flags=TEST, volts=volts, low=low))
        assert not idle or volts != 230.0 or self.state.phase is Phase.IDLE

    @rule(count=st.integers(1, 40), source=st.sampled_from([Source.NONE, Source.UNKNOWN]), flags=st.sampled_from([frozenset[Condition](), LOW]))  # fmt: skip  # noqa: E501
    def neither(self, count: int, source: Source, flags: frozenset[Condition]) -> None:
        for _ in range(count):
            self.feed(look(source, charge_pct=90.0, runtime_s=None, volts=0.0, flags=flags))

    @rule(gap_s=st.sampled_from([1.0, 2.0]))
    def low_battery_in_an_outage(self, gap_s: float) -> None:
        """I2: confirmed, two seconds more, and everybody is told, whatever people asked."""
        for _ in range(6):
            self.feed(look(BATTERY, low=True, runtime_s=None), gap_s)
        if not self.plan.ignore_low:
            assert {s.name for s in self.plan.stages} <= set(self.state.to_tell())

    @rule(rest=st.sampled_from(["battery", "mains", "silence"]), count=st.sampled_from([40, 70]), gap_s=st.sampled_from([1.0, 3.0]))  # fmt: skip  # noqa: E501
    def everybody_is_latched_and_then(self, rest: str, count: int, gap_s: float) -> None:
        for _ in range(5):
            self.feed(look(BATTERY, runtime_s=0.0))
        assert {s.name for s in self.plan.stages} <= set(self.state.to_tell())
        for _ in range(count):
            self.feed(None if rest == "silence" else look(BATTERY if rest == "battery" else MAINS), gap_s)

    @rule(stage=st.sampled_from(["a", "all"]), count=st.sampled_from([10, 70]), gap_s=st.sampled_from([1.0, 14.0]))
    def planned_from_idle(self, stage: str, count: int, gap_s: float) -> None:
        """An administrator's order, where there is no outage, and then mains."""
        if self.state.phase is Phase.IDLE:
            self.shutdown_of(stage)
            for _ in range(count):
                self.feed(look(MAINS), gap_s)

    # -- what happens to the board, to the servers, to the configuration, and what people do

    @rule()
    def crash(self) -> None:
        before = self.state
        self.state = protection.resume(before, self.now_s, same_boot=True)
        self.twin = protection.resume(self.twin, self.now_s + SHIFT_S, same_boot=True)
        self.oracle.restart(self.now_s, same_boot=True)
        self.battery_s = []
        assert (self.state.latched, self.state.phase) == (before.latched, before.phase)  # I5
        self.same()

    @rule(up_s=st.sampled_from([0.0, 5.0, 40.0, 100_000.0]))
    def reboot(self, up_s: float) -> None:
        before = self.state
        self.now_s = up_s
        self.state = protection.resume(before, up_s, same_boot=False)
        self.twin = protection.resume(self.twin, up_s + SHIFT_S, same_boot=False)
        self.oracle.restart(up_s, same_boot=False)
        if before.phase is Phase.IDLE:  # nothing of it is worth keeping
            self.state, self.twin, self.oracle = State(), State(), Oracle()
        assert [x.stage for x in self.state.latched] == [x.stage for x in before.latched]  # I5
        assert self.state.outage == before.outage
        if before.phase is not Phase.PLANNED:
            assert self.state.to_tell() == ()  # nobody, before this boot has seen it
        self.battery_s, self.off_s, self.failed, self.proven = [], None, 0, False
        self.seen = replace(self.seen, down_by_s=0.0)
        self.same()

    @rule(all_told=st.booleans(), all_back=st.booleans(), more_s=st.sampled_from([0.0, 30.0, 300.0]))
    def delivery_says(self, all_told: bool, all_back: bool, more_s: float) -> None:
        self.seen = Seen(down_by_s=self.now_s + more_s if more_s else 0.0, all_told=all_told, all_back=all_back)

    @rule(do=st.sampled_from(["hold", "hold", "abort", "release", "clear"]))
    def people(self, do: str) -> None:
        before, oracle, now_s = self.state, self.oracle, self.now_s
        if do in ("hold", "abort"):
            allowed = oracle.open(self.plan) and (do == "abort" or oracle.held_s < 86400.0)
        elif do == "release":
            allowed = oracle.aborted or oracle.held_s > 0
        else:
            allowed = oracle.where in ("planned", "recovery")
        try:
            if do == "hold":
                self.state, self.twin = (byhand.hold(s, now_s + d, self.plan)[0] for s, d in self.both())
                oracle.hold(now_s)
            elif do == "abort":
                self.state, self.twin = (byhand.abort(s, self.plan)[0] for s, _ in self.both())
                oracle.aborted = True
            elif do == "release":
                self.state, self.twin = (byhand.release(s)[0] for s, _ in self.both())
                oracle.aborted, oracle.held_s, oracle.quiet_until_s = False, 0.0, 0.0
            else:
                self.state, self.twin = (byhand.clear(s)[0] for s, _ in self.both())
                oracle.forget()
                self.proven, self.off_s, self.changed, self.ordered = False, None, False, False
        except OrderError:
            assert not allowed and self.state is before
        else:
            assert allowed
        self.same()

    @rule(stage=st.sampled_from(["a", "b", "c", "all", "all", "nobody"]))
    def shutdown(self, stage: str) -> None:
        self.shutdown_of(stage)

    def shutdown_of(self, stage: str) -> None:
        names = [s.name for s in self.plan.stages]
        wanted = names if stage == "all" else names[: names.index(stage) + 1] if stage in names else []
        oracle = self.oracle
        allowed = bool(set(wanted) - set(oracle.latched)) and oracle.where != "recovery" and not oracle.doubt
        try:
            self.state, self.twin = (
                byhand.shutdown(s, stage, self.now_s + d, self.plan, "p" * 16)[0] for s, d in self.both()
            )
        except OrderError:
            assert not allowed
        else:
            assert allowed
            oracle.order(wanted, self.now_s, self.plan)
            self.ordered = True
        self.same()

    def both(self) -> tuple[tuple[State, float], ...]:
        return (self.state, 0.0), (self.twin, SHIFT_S)

    @rule(gone=st.sampled_from(NAMES))
    def plan_shrinks(self, gone: str) -> None:
        """I16: what is latched stays."""
        before = {x.stage for x in self.state.latched}
        self.plan = replace(self.plan, stages=tuple(s for s in self.plan.stages if s.name != gone))
        self.changed = True
        self.feed(None, 0.5, asked=False)
        assert before <= {x.stage for x in self.state.latched} or self.state.phase is Phase.IDLE

    @rule(ups_off=st.sampled_from(["no", "battery", "always"]))
    def plan_is_whole_again(self, ups_off: str) -> None:
        self.plan, self.changed = replace(self.whole, ups_off=ups_off), True


Machine.TestCase.settings = settings(
    max_examples=RUNS,
    stateful_step_count=40,
    deadline=None,
    derandomize=SEED is None,
    phases=[Work.generate, Work.shrink] if SHRINK else [Work.generate],
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestMachine = seed(int(SEED))(Machine.TestCase) if SEED is not None else Machine.TestCase
