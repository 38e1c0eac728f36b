"""Protection as a state machine: whatever comes, in whatever order, the invariants hold.

What may happen is here, the judges are in tests/machine_kit.py and tests/oracle.py. RIDETHROUGH_FUZZ_RUNS sets the
number of runs (default 300, of 40 steps each, the same ones every time), RIDETHROUGH_FUZZ_SEED makes them others.
"""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, seed, settings
from hypothesis import Phase as Work
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from agent import protection
from agent.model import Condition, Source
from agent.outage import Phase, Plan, Seen
from tests.kit import BATTERY, MAINS, look
from tests.machine_kit import SHIFT_S, Judged
from tests.oracle import ALL_PLANS, DAY_S, LINES

RUNS = int(os.environ.get("RIDETHROUGH_FUZZ_RUNS", "300"))
SEED = os.environ.get("RIDETHROUGH_FUZZ_SEED")
SHRINK = "RIDETHROUGH_FUZZ_NO_SHRINK" not in os.environ  # seeded faults are known: no smallest example is wanted
TEST = frozenset({Condition.TEST_RUNNING})
LOW = frozenset({Condition.LOW_BATTERY})
NAMES = ("a", "b", "c")
RUNTIMES = st.sampled_from([None, 0.0, 60.0, 90.0, 110.0, 150.0, 170.0, 200.0, 299.0, 300.0, 5000.0])
CHARGES = st.sampled_from([None, 0.0, 15.0, 20.0, 50.0, 100.0])
SOON_S = st.sampled_from([1.0, 2.0, 1.0, 0.25, 2.75, 3.0, 14.0, 15.0, 15.5])


class Machine(Judged):
    """Frames, silence, restarts, reboots, and people."""

    @initialize(
        plan=st.sampled_from(ALL_PLANS),
        ups_off=st.sampled_from(["no", "battery", "always"]),
        ignore_low=st.booleans(),
        local_s=st.sampled_from([0.0, 20.0]),
        now_s=st.sampled_from([0.0, 1000.0]),
    )
    def begin(self, plan: Plan, ups_off: str, ignore_low: bool, local_s: float, now_s: float) -> None:
        self.begin_with(replace(plan, ups_off=ups_off, ignore_low=ignore_low, local_needs_s=local_s), now_s)

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
        count=st.integers(5, 60),
        runtime_s=st.sampled_from([420.0, 320.0, 210.0, 120.0]),
        loss_s=st.sampled_from([1.0, 3.0]),
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

    @rule(battery=st.integers(0, 6), gap_s=st.sampled_from([0.5, 10.0, 100.0, 4000.0]))
    def stopped_for(self, battery: int, gap_s: float) -> None:
        """The process was stopped: time went on and nobody asked the UPS."""
        for _ in range(battery):
            self.feed(look(BATTERY))
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

    @rule(charge_pct=st.sampled_from([10.0, 90.0]))
    def it_is_over(self, charge_pct: float) -> None:
        """Mains for good: whoever was told in an outage is woken, and nothing of it is left."""
        before, self.seen = self.state, Seen(all_back=True)
        kinds = [kind for _ in range(100) for kind in self.feed(look(MAINS, charge_pct=charge_pct), 5.0)]
        assert self.state.phase is Phase.IDLE
        given_up = before.recovery_from_s is not None and self.now_s - before.recovery_from_s >= DAY_S
        if before.latched and not before.waking and before.phase is not Phase.PLANNED and not given_up:
            assert "waking" in kinds

    @rule(
        do=st.lists(st.sampled_from(["hold", "hold", "abort", "release"]), min_size=1, max_size=3),
        count=st.sampled_from([30, 65, 95]),
        gap_s=st.sampled_from([1.0, 10.0]),
        runtime_s=st.sampled_from([5000.0, 250.0]),
        charge_pct=st.sampled_from([100.0, 15.0]),
    )
    def people_in_an_outage(
        self, do: list[str], count: int, gap_s: float, runtime_s: float, charge_pct: float
    ) -> None:
        for _ in range(5):
            self.feed(look(BATTERY))
        for one in do:
            self.ask(one)
        for _ in range(count):
            self.feed(look(BATTERY, runtime_s=runtime_s, charge_pct=charge_pct), gap_s)

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
        self.ask(do)

    @rule(stage=st.sampled_from(["a", "b", "c", "all", "all", "nobody"]))
    def shutdown(self, stage: str) -> None:
        self.shutdown_of(stage)

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
