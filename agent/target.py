"""What the delivery knows of one server, and when there is something to do for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .attempt import Attempt
from .config import Server
from .errands import Report

PROOF_HOLDS_S = 24 * 3600.0  # for so long a server stays what it was proven to be


@dataclass(slots=True)
class Try:
    """What an attempt is for."""

    target: Target
    purpose: str  # tell | prove | release
    host: str  # where


@dataclass(eq=False, slots=True)
class Target:
    """The machine of one server. Seconds are monotonic."""

    server: Server
    report: Report
    attempt: Attempt[Try] | None = None
    tell_s: float = 0.0  # of the next attempt to tell
    prove_s: float = 0.0  # of the next proof
    good_s: float = 0.0  # when it last showed that it is there
    failures: int = 0  # of proofs, in a row
    wake_s: float = 0.0  # of the next magic packet
    packets: int = 0

    def must_tell(self) -> bool:
        return self.report.delivery in ("sending", "not-delivered")

    def must_wake(self) -> bool:
        return self.report.wake in ("waking", "by-hand")

    def due_s(self, may_prove: bool) -> float:
        """When there is something to do, if nothing is under way."""
        if self.must_tell():
            return self.tell_s
        due_s = math.inf if self.report.state == "unknown" else self.good_s + PROOF_HOLDS_S
        if self.must_wake():
            return min(due_s, self.wake_s, self.prove_s)
        return min(due_s, self.prove_s) if may_prove else due_s

    def rank(self, few_slots: bool) -> tuple[object, ...]:
        """Who comes first: whom nobody has tried to tell yet, the known dead last; then who is due the longest."""
        tell = self.must_tell()
        first = tell and not self.report.attempts
        return not tell, few_slots, not first, first and self.report.failing, self.due_s(may_prove=True)
