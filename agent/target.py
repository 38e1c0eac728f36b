"""What the delivery knows of one server, and when there is something to do for it."""

from __future__ import annotations

import math
import zlib
from collections import deque
from dataclasses import dataclass, field

from .attempt import Attempt
from .config import Server
from .errands import Errand, Report

PROOF_S, PROOF_SPREAD_S = 6 * 3600.0, 3600.0  # between two good ones; and so much less, different for each server
PROOF_AGAIN_S = (60.0, 900.0)  # after the first one that was not good, and after the others
EAGER_S, EAGER_AGAIN_S = 60.0, 2.0  # how long a server that was just enrolled is proven, and how often
PROOF_HOLDS_S = 24 * 3600.0  # for so long a server stays what it was proven to be
ERRANDS_LIMIT = 8  # that wait for one server


@dataclass(slots=True)
class Try:
    """What an attempt is for."""

    target: Target
    purpose: str  # tell | prove | release | say
    host: str  # where
    errand: Errand | None = None  # what is said


@dataclass(eq=False, slots=True)
class Target:
    """The machine of one server. Seconds are monotonic."""

    server: Server
    report: Report
    attempt: Attempt[Try] | None = None
    wanted: bool = False  # it must be told
    tell_s: float = 0.0  # of the next attempt to tell
    prove_s: float = 0.0  # of the next proof
    good_s: float = 0.0  # when it last showed that it is there
    failures: int = 0  # of proofs, in a row
    wake_s: float = 0.0  # of the next magic packet
    packets: int = 0
    eager_s: float = 0.0  # until then it is proven again and again, because it was just enrolled
    errands: deque[Errand] = field(default_factory=deque)  # at most ERRANDS_LIMIT

    def must_tell(self) -> bool:
        return self.wanted and self.report.delivery in ("sending", "not-delivered")

    def take_errand(self, errand: Errand) -> str:
        """Put it in line; why not, or ''."""
        if len(self.errands) >= ERRANDS_LIMIT:
            return "too many wait already"
        self.errands.append(errand)
        return ""

    def must_wake(self) -> bool:
        return self.report.wake in ("waking", "by-hand")

    def proof_was_good(self, now_s: float) -> None:
        """The next one is due in hours."""
        self.failures, self.good_s, self.eager_s = 0, now_s, 0.0
        self.prove_s = now_s + PROOF_S - zlib.crc32(self.server.name.encode()) % int(PROOF_SPREAD_S)

    def proof_was_bad(self, now_s: float) -> None:
        """The next one is due soon."""
        self.failures += 1
        self.prove_s = now_s + PROOF_AGAIN_S[0 if self.failures == 1 else 1]
        if now_s < self.eager_s:
            self.prove_s = now_s + EAGER_AGAIN_S

    def be_eager(self, now_s: float) -> None:
        """It was just enrolled."""
        self.failures, self.tell_s, self.prove_s, self.eager_s = 0, now_s, now_s, now_s + EAGER_S

    def due_s(self, may_prove: bool) -> float:
        """When there is something to do, if nothing is under way."""
        if self.must_tell():
            return self.tell_s
        if self.errands:
            return 0.0
        due_s = math.inf if self.report.state == "unknown" else self.good_s + PROOF_HOLDS_S
        if self.must_wake():
            return min(due_s, self.wake_s, self.prove_s)
        return min(due_s, self.prove_s) if may_prove else due_s

    def rank(self, few_slots: bool) -> tuple[object, ...]:
        """Who comes first: whom nobody has tried to tell yet, the known dead last; then who is due the longest."""
        tell = self.must_tell()
        first = tell and not self.report.attempts
        return not tell, few_slots, not first, first and self.report.failing, self.due_s(may_prove=True)


def place(server: Server) -> tuple[object, ...]:
    """Another one of these makes another target."""
    return server.address, server.port, server.how, server.options
