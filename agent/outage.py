"""What protection remembers of an outage, what it needs of the plan, and what it says: plain data. Pure.

IDLE ------on battery, confirmed------> COUNTDOWN <--battery again-- HOLD --closed--> RECOVERY, or IDLE
COUNTDOWN --mains for 10 s------------> HOLD
COUNTDOWN --every stage is latched----> COMMITTED     (the point of no return)
COMMITTED --the last server's time----> OFF_ARMED     (the UPS is switched off, or that is left out, and said)
OFF_ARMED --mains for good------------> RECOVERY --every told server is back--> IDLE
RECOVERY ---on battery, confirmed-----> COUNTDOWN     (another outage)
IDLE ------an administrator's order---> PLANNED --everybody told, and his time--> IDLE
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .config import Stage

#: why a stage is latched; the value is seconds, percent, or the stage that takes it along
WHYS = ("on-battery", "runtime", "charge", "low-battery", "budget", "silence", "before", "ordered", "planned")
MARGIN_S = 30.0  # added to the longest shutdown time
RETURN_DELAY_S = 60.0  # it stays off at least so long: the servers must lose their power; a unit may need more
OFF_DELAY_S = 30.0  # the UPS switches off so long after the order, at least
UNACKED_S = 5.0  # more patience while somebody could not be told


class Phase(Enum):
    """Where an outage is."""

    IDLE = "idle"
    COUNTDOWN = "countdown"  # on battery, confirmed
    HOLD = "hold"  # mains is back, the outage not yet closed
    COMMITTED = "committed"  # every stage is latched
    OFF_ARMED = "off-armed"  # every server had its time: the UPS may go
    RECOVERY = "recovery"  # mains for good: those that were told are brought back
    PLANNED = "planned"  # a shutdown that an administrator ordered, without an outage


@dataclass(frozen=True, slots=True, kw_only=True)
class Latch:
    """A stage whose servers must be told, since when, and why: one of WHYS, and a value behind a blank."""

    stage: str
    at_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that protection remembers; written to the slots whenever `durable()` changes. Times are monotonic."""

    phase: Phase = Phase.IDLE
    on_battery: bool = False  # confirmed
    outage: str | None = None  # 16 hex digits
    began_s: float | None = None  # the first battery frame of this outage, or the order
    latched: tuple[Latch, ...] = ()
    unproven: bool = False  # after a reboot: tell nobody until this boot has seen the outage itself
    # what people asked for, in this outage
    held_s: float = 0.0  # time triggers are put off by so much
    quiet_until_s: float = 0.0  # runtime and charge do not trigger before
    aborted: bool = False  # no trigger counts
    # afterwards
    owed: bool = False  # somebody who went down in an outage before this one is not back
    power_ends: bool = False  # the last minutes of the battery: this host's turn, whatever the UPS can do
    off_taken: bool = False  # the UPS has taken the order to switch off
    off_sent_s: float | None = None  # when the UPS was last told to switch off
    off_skipped: bool = False  # it was left out
    cycled: bool = False  # it was told, and then the board rebooted: the servers lost their power
    recovery_from_s: float | None = None
    waking: bool = False
    # the runs of frames, and the last numbers
    battery_from_s: float | None = None  # the run of battery frames
    battery_frames: int = 0
    line_from_s: float | None = None  # the run of mains frames
    test_from_s: float | None = None  # the run of frames with a self test
    seen_battery: bool = False  # the last frame that said either said battery
    last_frame_s: float | None = None
    runtime_s: float | None = None  # as last believed, as are charge and low
    charge_pct: float | None = None
    low: bool = False
    charge_guessed: bool = False
    said_runtime_s: float | None = None  # by the last frame alone
    said_charge_pct: float | None = None
    said_low: bool = False
    says_low: bool = False  # this UPS has a word on its battery being low
    unheard: bool = False  # of the UPS, since the program started: it must look before it latches

    def durable(self) -> tuple[object, ...]:
        """What must not be lost: the slots are written when this changes."""
        return (
            self.phase, self.on_battery, self.outage, self.began_s, self.latched, self.unproven, self.seen_battery,
            self.held_s, self.quiet_until_s, self.aborted, self.off_sent_s, self.off_skipped, self.cycled,
            self.recovery_from_s, self.waking, self.owed, self.power_ends, self.off_taken,
        )  # fmt: skip

    def to_tell(self) -> tuple[str, ...]:
        """The stages whose servers must be told now, in the order of their latching."""
        if self.unproven or self.phase in (Phase.IDLE, Phase.RECOVERY):
            return ()
        return tuple(latch.stage for latch in self.latched)

    def tells_local(self) -> bool:
        """Is it this host's turn: all others had their time, and its power will go?"""
        last = self.phase is Phase.OFF_ARMED and not self.unproven
        return last and (self.off_taken or (self.power_ends and self.battery_now()))

    def runs_on_battery(self) -> bool:
        """The last frame itself says battery, in a confirmed outage: an output that is off is not that."""
        return self.on_battery and self.battery_from_s is not None

    def battery_now(self) -> bool:
        """On battery by confirmation and by the last frame that said either."""
        return self.on_battery and self.seen_battery


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What protection needs of the configuration, and of what the driver is proven to do."""

    stages: tuple[Stage, ...] = ()
    needs_s: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds of its slowest server
    local_needs_s: float = 0.0  # of this host, which goes down after all others; 0: it stays up
    ups_off: str = "no"  # no | battery | always: off-with-return is proven on battery only, or on mains too
    no_off_why: str = "unproven"  # unproven | configured: why it is "no"
    ignore_low: bool = False  # the unit says "low" far too early: runtime and charge decide
    wake_charge_pct: float = 30.0
    wake_after_s: float = 300.0

    def off_delay_s(self) -> float:
        """Seconds between the order to switch off and the UPS's obeying."""
        return max(OFF_DELAY_S, self.local_needs_s + MARGIN_S if self.local_needs_s else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the delivery knows, as far as protection needs it."""

    down_by_s: float = 0.0  # the last of those that were told has had its time
    all_told: bool = True  # everybody that must be told took it
    all_back: bool = False  # everybody that was told answers again, or there is nobody to wait for


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Something that happened. `kind`: outage-began, mains-back, battery-again, latched, committed, outage-closed,
    ups-off (to be done: the UPS switches off after `delay_s`), ups-off-skipped, ups-off-ignored, recovery-began,
    waking, recovered, planned-ended."""

    kind: str
    stage: str = ""
    why: str = ""
    delay_s: float = 0.0


def budget_s(state: State, plan: Plan) -> float:
    """Seconds that the stages not yet latched still need, with the margin; 0 if all are latched.

    One without a server needs none, but is waited for: this host, or nobody, goes down with it.
    """
    latched = {latch.stage for latch in state.latched}
    needs = [plan.needs_s.get(s.name, 0.0) for s in plan.stages if s.name not in latched]
    return max(needs) + plan.local_needs_s + MARGIN_S if needs else 0.0


def down_s(state: State, plan: Plan, seen: Seen) -> float:
    """The second at which everybody of a latched stage has had his time."""
    ends = [latch.at_s + plan.needs_s.get(latch.stage, 0.0) for latch in state.latched]
    return max([*ends, seen.down_by_s]) + (0.0 if seen.all_told else UNACKED_S)
