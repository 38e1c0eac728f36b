"""Carries out what managers set, one SET after the other in a thread of its own: who reads never waits for the core.

A manager that heard nothing asks again under the same number (RFC 3416 section 4.1 leaves that to him). That finds
the SET under way, or what became of it, and is no second order. What is signed (version 3) is carried out once for as
long as it could come again: RFC 3414 section 2.2.3 leaves whoever has recorded it 150 s, and it may cut the power.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from .upsset import RESOURCE_UNAVAILABLE

SAME_SET_S = 10.0  # so long it is remembered what became of a SET
KEPT_LIMIT = 64  # of so many
SIGNED_LIMIT = 512  # signed ones in the five minutes in which they could come again; one more is refused
WAITING_LIMIT = 8  # SETs that are not carried out yet; one more is refused
WAIT_S = 2.0  # what had to wait longer for those before it is refused: nobody expects it any more

#: who, from which address and port, request-id, bindings. Without the port a manager that begins with the same number
#: at each start, or two behind one address, would be taken for one that asks again.
Key = tuple[str, str, int, bytes, bytes]
Seal = tuple[bytes, float]  # the signature, and the monotonic second from which on such a message is refused
Result = tuple[int, int]  # error-status of version 2, error-index
NO_ROOM: Result = (RESOURCE_UNAVAILABLE, 1)


@dataclass
class _Outcome:
    result: Result | None = None  # None: it is under way
    done_s: float = 0.0


@dataclass
class _Job:
    do: Callable[[], Result]
    tell: Callable[[Result], None]
    asked_s: float
    outcome: _Outcome


class Setter:
    """`take` from the thread that answers; `run` is the body of the one that carries out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[Key, _Job] = {}  # in the order of their taking, so also of their end
        self._signed: dict[bytes, tuple[float, _Outcome]] = {}  # by signature, and until when
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting = 0
        self._stopping = False

    def take(
        self, key: Key, do: Callable[[], Result], tell: Callable[[Result], None], seal: Seal | None = None
    ) -> None:
        """Have this SET carried out, if it is not known yet: `do` is called once, then `tell` with what came of it.
        Of one that is under way only the newest `tell` is called, and none of who repeats another's signed message;
        of one that is done, or has no room, at once."""
        now_s = self._clock()
        with self._lock:
            self._forget(now_s)
            job = self._jobs.get(key)
            outcome = job.outcome if job is not None else self._signed_before(seal)
            if outcome is None and self._waiting < WAITING_LIMIT and len(self._signed) < SIGNED_LIMIT:
                outcome = _Outcome()
                job = self._jobs[key] = _Job(do, tell, now_s, outcome)
                self._waiting += 1
                self._queue.put(partial(self._carry_out, job))
            outcome = outcome or _Outcome(NO_ROOM)
            if seal is not None and len(self._signed) < SIGNED_LIMIT:
                self._signed.setdefault(seal[0], (seal[1], outcome))
            result = outcome.result
            if job is not None and result is None:
                job.tell = tell
        if result is not None:
            tell(result)

    def _signed_before(self, seal: Seal | None) -> _Outcome | None:
        return self._signed.get(seal[0], (0.0, None))[1] if seal is not None else None

    def _forget(self, now_s: float) -> None:
        self._signed = {signature: one for signature, one in self._signed.items() if now_s < one[0]}
        for key, job in list(self._jobs.items()):
            done = job.outcome
            if done.result is None or (now_s - done.done_s <= SAME_SET_S and len(self._jobs) <= KEPT_LIMIT):
                return
            del self._jobs[key]

    def then(self, do: Callable[[], None]) -> None:
        """Something else that may wait for the core; the caller sees to it that it is seldom."""
        self._queue.put(do)

    def run(self) -> None:
        """Carry out what is taken, until `close`."""
        while not self._stopping:
            self.turn()

    def turn(self) -> None:
        """Do what is next; waits for it."""
        do = self._queue.get()
        if do is not None and not self._stopping:
            do()

    def _carry_out(self, job: _Job) -> None:
        result = job.do() if self._clock() - job.asked_s <= WAIT_S else NO_ROOM
        with self._lock:
            job.outcome.result, job.outcome.done_s = result, self._clock()
            self._waiting -= 1
            tell = job.tell
        tell(result)

    def close(self) -> None:
        """Let `run` end behind the SET that is carried out now; those that wait are not."""
        self._stopping = True
        self._queue.put(None)
