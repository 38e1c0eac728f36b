"""A life of protection that is judged at every step: what tests/test_machine.py plays its random lives with.

Two judges, both written from the specification: tests/oracle.py works out everything a second time, and must say the
same at every step; `check` states the invariants one by one, from the frames that were fed and from what came out.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis.stateful import RuleBasedStateMachine

from agent import byhand, outage, protection
from agent.model import OrderError, Status
from agent.outage import Effect, Phase, Plan, Seen, State
from tests.kit import BATTERY
from tests.oracle import LINES, Oracle

SHIFT_S = 2.0**20  # another boot's clock: the same must come of it


class Judged(RuleBasedStateMachine):
    """Protection, the oracle, and a twin of protection whose clock shows something else."""

    def begin_with(self, plan: Plan, now_s: float) -> None:
        self.plan = self.whole = plan
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
        if status is not None and shift_s:
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
        assert state.to_tell() in ((), tuple(x.stage for x in state.latched))
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
        if before.unproven and not state.unproven:
            self.proven = True  # blind since the reboot: what the boot before proved counts
        if "latched" in kinds:
            assert self.proven  # I1
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
                assert self.oracle.words[-1] and not self.plan.ignore_low
            elif why == "silence":
                assert self.failed >= 3 and float(value) >= 60
            elif why == "charge":
                assert stage.charge_below_pct is not None and (self.oracle.charge_pct or 0.0) < stage.charge_below_pct
            else:
                assert why in outage.WHYS and self.oracle.left_s(self.now_s - (self.oracle.at_s or 0.0)) is not None

    # -- what people do

    def ask(self, do: str) -> None:
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
