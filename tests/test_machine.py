"""Protection as a state machine: whatever comes, in whatever order, the invariants hold.

The oracles are written from the specification: they look at the frames that were fed and at what came out, never at
how protection counts. RIDETHROUGH_FUZZ_RUNS sets the number of runs (default 300, of 40 steps each).
"""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agent import byhand, outage, protection
from agent.config import Stage
from agent.model import Condition, OrderError, Source, Status
from agent.outage import Effect, Phase, Plan, Seen, State
from tests.kit import BATTERY, MAINS, look

RUNS = int(os.environ.get("RIDETHROUGH_FUZZ_RUNS", "300"))
STAGES = (
    Stage(name="a", on_battery_s=60.0),
    Stage(name="b", runtime_below_s=300.0),
    Stage(name="c", charge_below_pct=20.0),
)
NEEDS = {"a": 60.0, "b": 90.0, "c": 120.0}
LINES = (Source.MAINS, Source.BYPASS, Source.BOOST, Source.BUCK)
TEST = frozenset({Condition.TEST_RUNNING})


class Evidence:
    """What the frames alone prove: two battery frames over 3 s without a gap; written apart from protection."""

    def __init__(self) -> None:
        self.run: list[float] = []  # battery frames, one after the other
        self.line: list[float] = []  # mains frames
        self.last_s: float | None = None
        self.confirmed = False  # since the last recovery
        self.began_s: float | None = None

    def forget_runs(self) -> None:
        self.run, self.line = [], []

    def see(self, status: Status, excused: bool) -> None:
        now_s = status.taken_s
        if self.last_s is not None and now_s - self.last_s > 15.0:
            self.forget_runs()
        self.last_s = now_s
        self.run = [*self.run[:1], now_s] if status.source is BATTERY and not excused else []
        self.line = [*self.line[:1], now_s] if status.source in LINES else []
        if len(self.run) >= 2 and self.run[-1] - self.run[0] >= 3.0:
            if not self.confirmed:
                self.began_s = self.run[0]
            self.confirmed = True

    def line_s(self) -> float:
        return self.line[-1] - self.line[0] if self.line else 0.0


class Machine(RuleBasedStateMachine):
    """Frames, silence, restarts, reboots, and people."""

    @initialize(
        ups_off=st.sampled_from(["no", "battery", "always"]),
        ignore_low=st.booleans(),
        local_s=st.sampled_from([0.0, 20.0]),
    )
    def begin(self, ups_off: str, ignore_low: bool, local_s: float) -> None:
        self.plan = Plan(stages=STAGES, needs_s=NEEDS, ups_off=ups_off, ignore_low=ignore_low, local_needs_s=local_s)
        self.state, self.now_s, self.failed, self.number = State(), 1000.0, 0, 0
        self.seen, self.evidence = Seen(), Evidence()
        self.last: Status | None = None
        self.test_from_s: float | None = None
        self.rebooted = False  # and nothing was confirmed since
        self.off_sent: list[float] = []
        self.plan_changed = False  # in this outage

    # -- one step, and what must be true of it

    def feed(self, status: Status | None, gap_s: float = 1.0, *, asked: bool = True) -> tuple[Effect, ...]:
        self.now_s += gap_s
        if status is not None:
            status = replace(status, taken_s=self.now_s)
            self.evidence.see(status, self.excused(status))
            self.last, self.failed = status, 0
        elif asked:
            self.failed += 1
        self.number += 1
        before, fresh = self.state, f"{self.number:016x}"
        arguments = {"plan": self.plan, "failed_polls": self.failed, "fresh_id": fresh, "seen": self.seen}
        self.state, effects = protection.step(before, status, self.now_s, **arguments)  # type: ignore[arg-type]
        again = protection.step(before, status, self.now_s, **arguments)  # type: ignore[arg-type]
        assert again == (self.state, effects)  # I10: the same again
        self.check(before, status, effects)
        return effects

    def excused(self, status: Status) -> bool:
        testing = Condition.TEST_RUNNING in status.flags
        if self.last is not None and status.taken_s - self.last.taken_s > 15.0:
            self.test_from_s = None
        self.test_from_s = (self.test_from_s or status.taken_s) if testing else None
        if self.test_from_s is None:
            return False
        if (status.inputs[0].voltage_v or 0.0) > 60.0:
            return True
        return not status.battery.low and status.taken_s - self.test_from_s < 60.0

    def check(self, before: State, status: Status | None, effects: tuple[Effect, ...]) -> None:
        state, kinds = self.state, [e.kind for e in effects]
        old, new = {x.stage for x in before.latched}, {x.stage for x in state.latched}
        for latch in state.latched:
            if latch.stage not in old or "outage-began" in kinds:
                self.check_latch(latch)
        lost = old - new
        assert not lost or {"recovered", "outage-began", "planned-ended"} & set(kinds)  # I3
        assert not lost or "recovered" not in kinds or before.phase is Phase.RECOVERY
        if before.phase is Phase.COMMITTED and not before.unproven:
            through = state.phase is Phase.RECOVERY and "ups-off-skipped" in kinds  # in one step
            assert state.phase in (Phase.COMMITTED, Phase.OFF_ARMED) or through  # I3b
        silent = state.unproven or state.phase in (Phase.IDLE, Phase.RECOVERY)
        assert state.to_tell() == (() if silent else tuple(x.stage for x in state.latched))  # I4
        assert (state.outage is None) == (state.phase is Phase.IDLE)
        if status is None and not self.rebooted:
            assert state.on_battery == before.on_battery  # time confirms nothing
        if "ups-off" in kinds:
            self.check_off(kinds.count("ups-off"))
        if state.tells_local():
            assert state.phase is Phase.OFF_ARMED
            assert self.plan_changed or {s.name for s in self.plan.stages} <= new
        if "waking" in kinds:
            assert self.evidence.line, "woken without mains"
            charged = (state.charge_pct or 0.0) >= self.plan.wake_charge_pct
            assert charged or self.evidence.line_s() >= self.plan.wake_after_s
            if not state.cycled:
                assert self.now_s >= max((x.at_s + NEEDS[x.stage] for x in state.latched), default=0.0)
        if "recovery-began" in kinds:
            assert self.evidence.line_s() >= 70.0
        if state.phase in (Phase.IDLE, Phase.RECOVERY):
            self.evidence.confirmed, self.off_sent, self.plan_changed = False, [], False
        if "battery-again" in kinds or "outage-began" in kinds:
            self.rebooted = False

    def check_latch(self, latch: outage.Latch) -> None:
        """I1 and I17: evidence, and not before it is due."""
        why, _, value = latch.why.partition(" ")
        assert why in outage.WHYS
        if why in ("planned", "ordered") or (why == "before" and value in self.by_people()):
            return
        assert self.evidence.confirmed or self.rebooted, latch
        stage = next(s for s in STAGES if s.name == latch.stage)
        status, age_s = self.last, self.now_s - (self.state.last_frame_s or 0.0)
        assert status is not None
        if why == "on-battery":
            assert stage.on_battery_s is not None and not self.state.aborted
            assert self.evidence.began_s is None or (
                self.now_s >= self.evidence.began_s + stage.on_battery_s + self.state.held_s
                or self.state.began_s != self.evidence.began_s
            )
        elif why == "low-battery":
            assert status.battery.low and not self.plan.ignore_low
        elif why == "silence":
            assert age_s >= 60.0 and self.failed >= 3
        elif why == "charge":
            assert (status.battery.charge_pct or 0.0) < (stage.charge_below_pct or 0.0)
            assert not self.state.aborted and self.now_s >= self.state.quiet_until_s
        elif why == "runtime":
            assert not self.state.aborted and self.now_s >= self.state.quiet_until_s
            assert (self.state.runtime_s or 0.0) * (0.8 if age_s > 15 else 1) < (stage.runtime_below_s or 0.0) + age_s
        elif why == "budget":
            assert (self.state.runtime_s or 0.0) * 0.8 <= max(NEEDS.values()) + self.plan.local_needs_s + 30.0 + age_s
        else:  # before: one behind it is latched
            assert value in {x.stage for x in self.state.latched}

    def by_people(self) -> set[str]:
        return {x.stage for x in self.state.latched if x.why in ("planned", "ordered")}

    def check_off(self, count: int) -> None:
        """I7: once, late, proven, and never on mains unless that is proven."""
        state, last = self.state, self.last
        assert count == 1 and state.phase is Phase.OFF_ARMED and self.plan.ups_off != "no" and not state.unproven
        assert self.plan_changed or {s.name for s in self.plan.stages} <= {x.stage for x in state.latched}
        assert self.now_s >= max(x.at_s + self.plan.needs_s.get(x.stage, 0.0) for x in state.latched)
        assert self.now_s >= self.seen.down_by_s
        if self.plan.ups_off == "battery":
            assert last is not None and last.source is BATTERY
        if self.off_sent:
            assert self.now_s >= self.off_sent[-1] + self.plan.off_delay_s() + 60.0
            assert last is not None and last.source is BATTERY and last.taken_s > self.off_sent[-1]
        self.off_sent.append(self.now_s)

    # -- what may happen

    @rule(
        count=st.integers(1, 12),
        low=st.booleans(),
        runtime_s=st.sampled_from([None, 0.0, 140.0, 200.0, 290.0, 5000.0]),
        charge_pct=st.sampled_from([None, 5.0, 50.0, 100.0]),
        gap_s=st.sampled_from([0.5, 1.0, 3.0, 14.0, 16.0]),
    )
    def battery(self, count: int, low: bool, runtime_s: float | None, charge_pct: float | None, gap_s: float) -> None:
        for _ in range(count):
            self.feed(look(BATTERY, low=low, runtime_s=runtime_s, charge_pct=charge_pct), gap_s)

    @rule(
        count=st.sampled_from([1, 9, 12, 75, 160]),
        source=st.sampled_from(LINES),
        low=st.booleans(),
        charge_pct=st.sampled_from([0.0, 40.0]),
    )
    def mains(self, count: int, source: Source, low: bool, charge_pct: float) -> None:
        for _ in range(count):
            effects = self.feed(look(source, low=low, runtime_s=0.0, charge_pct=charge_pct))
            assert not any(e.kind == "latched" for e in effects)  # I13

    @rule(count=st.sampled_from([1, 4, 20, 70]), gap_s=st.sampled_from([0.5, 1.0, 5.0]))
    def silence(self, count: int, gap_s: float) -> None:
        for _ in range(count):
            self.feed(None, gap_s)

    @rule(gap_s=st.sampled_from([0.5, 10.0, 100.0, 4000.0]))
    def stopped_for(self, gap_s: float) -> None:
        """The process was stopped: time went on and nobody asked the UPS."""
        before = self.state
        self.feed(None, gap_s, asked=False)
        if gap_s > 60 and self.failed < 3:
            assert set(self.state.latched) <= set(before.latched)

    @rule(count=st.integers(1, 10))
    def flap(self, count: int) -> None:
        first = self.state.outage
        for _ in range(count):
            for source in (BATTERY, BATTERY, BATTERY, BATTERY, MAINS, MAINS):
                self.feed(look(source))
        if first is not None and self.state.phase is Phase.COUNTDOWN and not self.rebooted:
            assert self.state.outage is not None

    @rule(
        count=st.sampled_from([2, 30, 70]),
        volts=st.sampled_from([0.0, 230.0]),
        low=st.booleans(),
        source=st.sampled_from([BATTERY, MAINS]),
    )
    def self_test(self, count: int, volts: float, low: bool, source: Source) -> None:
        for _ in range(count):
            self.feed(look(source, flags=TEST, volts=volts, low=low))

    @rule(count=st.integers(1, 40), source=st.sampled_from([Source.NONE, Source.UNKNOWN]))
    def neither(self, count: int, source: Source) -> None:
        for _ in range(count):
            self.feed(look(source, low=False, charge_pct=90.0, runtime_s=None, volts=0.0))

    @rule()
    def low_battery_in_an_outage(self) -> None:
        """I2: six seconds of it and everybody is told, whatever people asked."""
        for _ in range(6):
            self.feed(look(BATTERY, low=True, runtime_s=None))
        if not self.plan.ignore_low and self.state.phase is not Phase.RECOVERY:
            assert {s.name for s in self.plan.stages} <= set(self.state.to_tell())

    @rule()
    def an_outage_and_then_silence(self) -> None:
        """I2b: blind on battery."""
        for _ in range(5):
            self.feed(look(BATTERY))
        for _ in range(62):
            self.feed(None)
        assert {s.name for s in self.plan.stages} <= set(self.state.to_tell())

    @rule()
    def crash(self) -> None:
        before = self.state
        self.state = protection.resume(before, self.now_s, same_boot=True)
        assert (self.state.latched, self.state.phase) == (before.latched, before.phase)  # I5
        assert self.state.to_tell() == before.to_tell()
        self.evidence.forget_runs()
        self.test_from_s = None

    @rule(up_s=st.sampled_from([5.0, 40.0, 100_000.0]))
    def reboot(self, up_s: float) -> None:
        before = self.state
        self.now_s = up_s
        self.state = protection.resume(before, up_s, same_boot=False)
        assert [x.stage for x in self.state.latched] == [x.stage for x in before.latched]  # I5
        assert self.state.outage == before.outage
        if before.phase not in (Phase.IDLE, Phase.PLANNED):
            assert self.state.to_tell() == ()  # nobody before this boot has seen it
            self.rebooted = True
        if before.phase is Phase.IDLE:
            self.state = State()
        self.evidence = Evidence()
        self.evidence.confirmed = before.phase not in (Phase.IDLE, Phase.RECOVERY, Phase.PLANNED)
        self.off_sent, self.failed, self.test_from_s, self.last = [], 0, None, self.last
        self.seen = replace(self.seen, down_by_s=0.0)
        if self.last is not None:
            self.last = replace(self.last, taken_s=up_s)

    @rule(all_told=st.booleans(), all_back=st.booleans(), more_s=st.sampled_from([0.0, 30.0, 300.0]))
    def delivery_says(self, all_told: bool, all_back: bool, more_s: float) -> None:
        self.seen = Seen(down_by_s=self.now_s + more_s if more_s else 0.0, all_told=all_told, all_back=all_back)

    @rule(do=st.sampled_from(["hold", "abort", "release", "clear"]))
    def people(self, do: str) -> None:
        before = self.state
        try:
            if do == "hold":
                self.state, _ = byhand.hold(before, self.now_s, self.plan)
                assert self.state.held_s == before.held_s + 300.0
            elif do == "abort":
                self.state, _ = byhand.abort(before, self.plan)
            elif do == "release":
                self.state, _ = byhand.release(before)
            else:
                self.state, _ = byhand.clear(before)
                assert before.phase in (Phase.PLANNED, Phase.RECOVERY) and self.state.phase is Phase.IDLE
                return
        except OrderError:
            assert self.state == before
            return
        assert self.state.latched == before.latched and self.state.phase is before.phase

    @rule(stage=st.sampled_from(["a", "b", "c", "all", "nobody"]))
    def shutdown(self, stage: str) -> None:
        before = self.state
        try:
            self.state, effects = byhand.shutdown(before, stage, self.now_s, self.plan, f"{self.number:016x}p")
        except OrderError:
            assert self.state == before
            return
        latched = {x.stage for x in self.state.latched}
        names = [s.name for s in self.plan.stages]
        wanted = names if stage == "all" else names[: names.index(stage) + 1]
        assert latched == {x.stage for x in before.latched} | set(wanted)
        if not before.on_battery:
            assert self.state.phase in (Phase.PLANNED, Phase.HOLD, Phase.OFF_ARMED, Phase.COMMITTED)
            assert {e.why for e in effects if e.kind == "latched"} <= {"planned", *(f"before {n}" for n in names)}

    @precondition(lambda self: len(self.plan.stages) == 3)
    @rule(gone=st.sampled_from(["a", "b", "c"]))
    def plan_shrinks(self, gone: str) -> None:
        """I16: what is latched stays."""
        before, self.plan_changed = self.state, True
        self.plan = replace(self.plan, stages=tuple(s for s in STAGES if s.name != gone))
        self.feed(None, 0.5, asked=False)
        assert {x.stage for x in before.latched} <= {x.stage for x in self.state.latched} or (
            self.state.phase is Phase.IDLE
        )

    @rule()
    def plan_is_whole_again(self) -> None:
        self.plan, self.plan_changed = replace(self.plan, stages=STAGES), True


Machine.TestCase.settings = settings(
    max_examples=RUNS,
    stateful_step_count=40,
    deadline=None,
    derandomize="RIDETHROUGH_FUZZ_RUNS" not in os.environ or RUNS < 1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestMachine = Machine.TestCase
