"""Protection worked out a second time, from its specification: what must be told, ordered and woken, and when.

It shares nothing with agent/protection.py but the words: one streak of like frames instead of two runs, flags instead
of phases. tests/test_machine.py feeds both the same, and wants the same from both at every step.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.config import Stage
from agent.model import Condition, Source, Status
from agent.outage import Plan, Seen
from tests.kit import BATTERY

LINES = (Source.MAINS, Source.BYPASS, Source.BOOST, Source.BUCK)
DAY_S = 86400.0
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


class Streak:
    """Frames of one kind in a row, without a gap of more than 15 s."""

    def __init__(self, kind: str, now_s: float) -> None:
        self.kind, self.from_s, self.to_s, self.count = kind, now_s, now_s, 1

    def length_s(self, kind: str) -> float:
        return self.to_s - self.from_s if self.kind == kind else 0.0


NO_STREAK = Streak("nothing", 0.0)


def is_low(look: Status) -> bool:
    return look.battery.low is True or Condition.LOW_BATTERY in look.flags


class Oracle:
    """What the specification says of everything that came so far."""

    def __init__(self) -> None:
        self.streak, self.test_from_s, self.word = NO_STREAK, None, "nothing"
        self.at_s: float | None = None  # of the last frame
        self.runtime_s: float | None = None
        self.charge_pct: float | None = None
        self.words: list[bool] = []  # low, of the last two frames
        self.numbers: list[
            tuple[float | None, float | None]
        ] = []  # runtime, charge of the last two, whatever is between
        self.low = self.deaf = self.says_low = False  # deaf: since the start nothing came
        self.forget()

    def forget(self) -> None:
        """No outage, no order, no recovery."""
        self.where = "idle"  # idle | outage | planned | recovery
        self.on_battery = False
        self.committed = self.all_had_their_time = False
        self.began_s = 0.0
        self.latched: dict[str, float] = {}
        self.held_s = self.quiet_until_s = 0.0
        self.aborted = self.doubt = self.cycled = False
        self.off_s: float | None = None
        self.off_taken = self.last_minutes = self.owed = False
        self.ordered_s = -1e9  # when an administrator ordered a stage of this outage down
        self.off_left_out = self.woken = False
        self.recovery_from_s = 0.0

    # -- what happens

    def step(self, look: Status | None, now_s: float, plan: Plan, failed: int, seen: Seen) -> list[str]:
        """One step; the kinds of effects that must come of it."""
        kinds: list[str] = []
        if look is not None:
            self.take(look, seen, kinds)
        kinds += ["latched"] * self.latch(self.due(now_s, plan, failed), now_s, plan)
        if self.on_battery and self.may_latch(now_s, failed):
            self.commit(plan, kinds)
        ends = self.last_minutes or self.is_at_its_end(now_s, plan, failed)
        self.last_minutes = ends and self.on_battery and self.word == "battery"
        self.afterwards(now_s, plan, seen, kinds)
        return kinds

    def is_at_its_end(self, now_s: float, plan: Plan, failed: int) -> bool:
        """The battery, when everybody had his time."""
        if not (self.where == "outage" and self.committed and self.all_had_their_time and self.word == "battery"):
            return False
        age_s = 0.0 if self.at_s is None else now_s - self.at_s
        if not self.on_battery or (age_s > 15.0 and failed < 3):
            return False
        if age_s >= 60.0 or (self.is_believed_low(age_s) and not plan.ignore_low):
            return True
        left_s = self.left_s(age_s)
        return not self.says_low if left_s is None else left_s <= plan.local_needs_s + 30.0

    def left_s(self, age_s: float) -> float | None:
        """Of the runtime: said twice, or last before silence."""
        last_s = self.numbers[-1][0] if self.numbers else None
        if age_s <= 15.0:
            return self.runtime_s
        last_s = self.runtime_s if self.runtime_s is not None else last_s
        return None if last_s is None else last_s * 0.8 - age_s

    def restart(self, now_s: float, *, same_boot: bool) -> None:
        self.streak, self.test_from_s, self.deaf = NO_STREAK, None, True
        self.off_taken = self.off_s is not None and (same_boot or self.where == "idle")
        if same_boot or self.where == "idle":
            return
        self.began_s = self.at_s = now_s  # another clock
        self.runtime_s, self.quiet_until_s = None, 0.0
        self.numbers = [(None, charge_pct) for _, charge_pct in self.numbers]
        self.latched = dict.fromkeys(self.latched, now_s)
        self.ordered_s = now_s if self.ordered_s > 0 else self.ordered_s
        if self.where == "recovery":
            self.recovery_from_s, self.woken = now_s, False
        elif self.where == "outage":
            self.doubt, self.cycled, self.off_s = True, self.cycled or self.off_s is not None, None
            self.last_minutes = False

    def hold(self, now_s: float) -> None:
        self.held_s += 300.0
        self.quiet_until_s = max(self.quiet_until_s, now_s) + 300.0

    def order(self, wanted: Iterable[str], now_s: float, plan: Plan) -> None:
        if self.where == "idle":
            self.where, self.began_s = "planned", now_s
        new = {name: now_s for name in wanted if name not in self.latched}
        self.ordered_s = now_s if new else self.ordered_s
        self.latched.update(new)
        if self.on_battery:
            self.commit(plan, [])

    # -- what must be true now

    def open(self, plan: Plan) -> bool:
        """May people hold, abort?"""
        return self.where == "outage" and not self.committed and not self.everybody(plan)

    def told(self) -> set[str]:
        return set() if self.doubt or self.where in ("idle", "recovery") else set(self.latched)

    def host_is_told(self) -> bool:
        powerless = self.off_taken or (self.last_minutes and self.on_battery and self.word == "battery")
        return self.where == "outage" and self.all_had_their_time and not self.doubt and powerless

    def everybody(self, plan: Plan) -> bool:
        return all(stage.name in self.latched for stage in plan.stages)

    def down_s(self, plan: Plan, seen: Seen) -> float:
        ends = [at_s + plan.needs_s.get(name, 0.0) for name, at_s in self.latched.items()]
        return max(ends + [seen.down_by_s]) + (5.0 if not seen.all_told else 0.0)

    # -- how

    def take(self, look: Status, seen: Seen, kinds: list[str]) -> None:
        now_s = look.taken_s
        since_s = 0.0 if self.at_s is None else now_s - self.at_s
        if since_s > 15.0:
            self.streak, self.test_from_s, self.words = NO_STREAK, None, []
        if Condition.TEST_RUNNING not in look.flags:
            self.test_from_s = None
        elif self.test_from_s is None:
            self.test_from_s = now_s
        kind = "line" if look.source in LINES else "neither"
        if look.source is BATTERY and not self.is_test(look):
            kind = "battery"
        if kind == self.streak.kind:
            self.streak.to_s, self.streak.count = now_s, self.streak.count + 1
        else:
            self.streak = Streak(kind, now_s)
        self.word = self.word if kind == "neither" else kind
        self.words = [*self.words[-1:], is_low(look)]
        self.numbers = [*self.numbers[-1:], (look.battery.runtime_s, look.battery.charge_pct)]
        runtimes, charges = ([n for n in one if n is not None] for one in zip(*self.numbers, strict=True))
        runtime_s = max(runtimes) if len(runtimes) == 2 else None
        charge_pct = (max if kind == "battery" else min)(charges) if len(charges) == 2 else None
        if runtime_s is not None and self.runtime_s is not None and self.on_battery:
            runtime_s = min(runtime_s, self.runtime_s * (1 + since_s * 0.10 / 60))
        self.runtime_s, self.charge_pct, self.low = runtime_s, charge_pct, len(self.words) == 2 and all(self.words)
        self.says_low = self.says_low or look.battery.low is not None
        self.at_s, self.deaf = now_s, False
        if self.streak.count >= 2 and self.streak.length_s("battery") >= 3.0 and (self.doubt or not self.on_battery):
            self.confirmed(kinds)
        if self.streak.length_s("line") >= 10.0 and self.on_battery:
            self.on_battery = False
            kinds.append("mains-back")
        undecided = not self.committed or (self.doubt and not self.all_had_their_time)
        undecided = undecided and (seen.all_told or now_s >= self.ordered_s + 900.0)
        if self.streak.length_s("line") >= 70.0 and self.where == "outage" and undecided:
            self.close(now_s, kinds)

    def is_believed_low(self, age_s: float) -> bool:
        """Said twice in a row, or last before silence."""
        return self.low or (age_s > 15.0 and bool(self.words) and self.words[-1])

    def is_test(self, look: Status) -> bool:
        if self.test_from_s is None:
            return False
        volts = [line.voltage_v for line in look.inputs if line.voltage_v is not None]
        nominal_v = look.rating.input_voltage_v or 230.0
        if volts and all(0.8 * nominal_v <= v <= 1.2 * nominal_v for v in volts):
            return True
        return not is_low(look) and look.taken_s - self.test_from_s < 60.0

    def confirmed(self, kinds: list[str]) -> None:
        if self.where in ("idle", "recovery"):
            owed = self.where == "recovery"
            self.forget()
            self.began_s, self.owed = self.streak.from_s, owed
            kinds.append("outage-began")
        else:
            if self.where == "planned":
                self.began_s = self.streak.from_s
            if self.doubt:  # the servers are told once more, and have their time once more
                self.off_left_out = self.off_left_out and not self.all_had_their_time
                self.all_had_their_time = False
            kinds.append("battery-again")
        self.where, self.on_battery, self.doubt, self.cycled = "outage", True, False, False

    def close(self, now_s: float, kinds: list[str]) -> None:
        kinds.append("outage-closed")
        latched, cycled, off_s, began_s, owed = self.latched, self.cycled, self.off_s, self.began_s, self.owed
        self.forget()
        if latched or owed:
            kinds.append("recovery-began")
            self.where, self.latched, self.recovery_from_s = "recovery", latched, now_s
            self.cycled, self.off_s, self.began_s, self.owed = cycled, off_s, began_s, owed

    def may_latch(self, now_s: float, failed: int) -> bool:
        """On battery, and it was asked lately; a board that has just booted must have seen that, or been blind."""
        if not self.on_battery or self.word != "battery" or self.cycled or self.at_s is None:
            return False
        age_s = now_s - self.at_s
        lately = age_s <= 15.0 and not self.deaf
        return (lately or failed >= 3) and (not self.doubt or age_s >= 60.0)

    def due(self, now_s: float, plan: Plan, failed: int) -> set[str]:
        """The stages that have a reason of their own."""
        if not self.may_latch(now_s, failed) or self.at_s is None:
            return set()
        age_s = now_s - self.at_s
        left_s = self.left_s(age_s)
        needs = [plan.needs_s.get(s.name, 0.0) for s in plan.stages if s.name not in self.latched]
        tight = bool(needs) and left_s is not None and left_s <= max(needs) + plan.local_needs_s + 30.0
        if age_s >= 60.0 or (self.is_believed_low(age_s) and not plan.ignore_low) or tight:
            self.doubt = False
            return {s.name for s in plan.stages}
        due = set()
        for stage in plan.stages:
            if self.aborted:
                continue
            if stage.on_battery_s is not None and now_s - self.began_s >= stage.on_battery_s + self.held_s:
                due.add(stage.name)
            if now_s < self.quiet_until_s:
                continue
            if stage.runtime_below_s is not None and left_s is not None and left_s < stage.runtime_below_s:
                due.add(stage.name)
            if stage.charge_below_pct is not None and (self.charge_pct or 0.0) < stage.charge_below_pct:
                if self.charge_pct is not None:
                    due.add(stage.name)
        return due

    def latch(self, due: set[str], now_s: float, plan: Plan) -> int:
        """With each stage all before it; how many are new."""
        names = [stage.name for stage in plan.stages]
        while names and names[-1] not in due:
            names.pop()
        new = [name for name in names if name not in self.latched]
        self.latched.update(dict.fromkeys(new, now_s))
        return len(new)

    def commit(self, plan: Plan, kinds: list[str]) -> None:
        if self.where == "outage" and plan.stages and self.everybody(plan) and not self.committed:
            self.committed = True
            kinds.append("committed")

    def afterwards(self, now_s: float, plan: Plan, seen: Seen, kinds: list[str]) -> None:
        down = now_s >= self.down_s(plan, seen)
        if self.where == "outage" and self.committed:
            if not self.doubt:
                self.all_had_their_time = self.all_had_their_time or down
                if self.all_had_their_time:
                    self.switch_off(now_s, plan, down, kinds)
            gone = self.off_s is None or now_s >= self.off_s + self.delay_s(plan) + 60.0
            if self.all_had_their_time and self.streak.length_s("line") >= 70.0 and gone:
                self.close(now_s, kinds)
        elif self.where == "recovery":
            over = now_s - self.recovery_from_s >= DAY_S
            charged = self.charge_pct is not None and self.charge_pct >= plan.wake_charge_pct
            ready = self.streak.kind == "line" and (charged or self.streak.length_s("line") >= plan.wake_after_s)
            if over or (self.woken and seen.all_back):
                kinds.append("recovered")
                self.forget()
            elif ready and (down or self.cycled) and not self.woken:
                kinds.append("waking")
                self.woken = True
        elif self.where == "planned" and now_s >= self.down_s(plan, seen) + (0.0 if seen.all_told else 900.0):
            kinds.append("planned-ended")
            self.forget()

    def delay_s(self, plan: Plan) -> float:
        return max(30.0, plan.local_needs_s + 30.0)

    def switch_off(self, now_s: float, plan: Plan, down: bool, kinds: list[str]) -> None:
        on_battery = self.on_battery and self.streak.kind == "battery"
        if plan.ups_off == "no" or (down and self.off_s is None and not self.on_battery and plan.ups_off != "always"):
            if not self.off_left_out:
                kinds.append("ups-off-skipped")
            self.off_left_out = True
        elif not down:
            return
        elif self.off_s is None:
            stale = self.at_s is None or now_s - self.at_s > 15.0
            if (on_battery and not stale) or not self.on_battery:
                kinds.append("ups-off")
                self.off_s, self.off_taken = now_s, False
        elif on_battery and self.at_s is not None and self.at_s >= self.off_s + self.delay_s(plan) + 60.0:
            kinds += ["ups-off-ignored", "ups-off"]
            self.off_s, self.off_taken = now_s, False
