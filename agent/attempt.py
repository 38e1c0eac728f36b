"""Runs the ways' generators: a thousand attempts in one thread, each waiting for a descriptor, none for another."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .model import ConfigError
from .reach import NOT_DELIVERED, Late, Outcome, Steps

ATTEMPT_S = 30.0  # for all of one attempt, whatever its waits
#: one server's way may fail in these, and nobody else's must: also by what a server says
MISTAKES = (OSError, Late, ConfigError, ValueError, LookupError)

Owner = TypeVar("Owner")


@dataclass(eq=False, slots=True)
class Attempt(Generic[Owner]):
    """One run of a way's generator for its owner."""

    owner: Owner
    way: str
    steps: Steps
    began_s: float
    end_s: float
    fd: int = -1  # that it waits for
    due_s: float = 0.0
    why: str = ""  # it is late then


class Attempts(Generic[Owner]):
    """`came(attempt, outcome, now_s)` is called when one ends by itself. `selector` may hold other descriptors, too:
    what is registered here has an Attempt as its data."""

    def __init__(self, came: Callable[[Attempt[Owner], Outcome, float], None]) -> None:
        self._came = came
        self.selector = selectors.DefaultSelector()
        self._running: dict[str, dict[Attempt[Owner], None]] = {}  # by way, the oldest first
        self._wanted: set[str] = set()  # ways for which somebody waits
        self.due_s = 0.0  # of the attempt that is late first, or before
        self.freed = False  # a slot that somebody waits for is free since the owner set this to False

    def has_slot(self, way: str, slots: int | None) -> bool:
        """May another attempt of this way begin? If not, `freed` tells when to ask again."""
        if slots is None or len(self._running.get(way, ())) < slots:
            return True
        self._wanted.add(way)
        return False

    def begin(self, owner: Owner, way: str, steps: Steps, now_s: float) -> Attempt[Owner]:
        """A new attempt, which runs when `go_on` is called."""
        attempt = Attempt(owner, way, steps, now_s, now_s + ATTEMPT_S, due_s=now_s)
        self._running.setdefault(way, {})[attempt] = None
        return attempt

    def make_room(self, way: str, wanted: int, now_s: float, crowded_s: float) -> None:
        """So many wait for their first attempt: those that have kept a slot for long give it up, oldest first."""
        slow = [a for a in self._running.get(way, ()) if now_s - a.began_s >= crowded_s]
        for attempt in slow[:wanted]:
            attempt.end_s = now_s
            self.go_on(attempt, now_s, attempt.why)

    def go_on(self, attempt: Attempt[Owner], now_s: float, late: str = "") -> None:
        """Run the generator to its next wait, or to its end. `late`: a Late with this text is thrown into it."""
        self._unregister(attempt)  # the generator may close what it waited for, and open another of the same number
        try:
            wait = attempt.steps.throw(Late(late)) if late else next(attempt.steps)
            if late and now_s >= attempt.end_s:
                raise Late(late)  # it had its time, whatever it waits for now
            self.selector.register(wait.fd, selectors.EVENT_WRITE if wait.write else selectors.EVENT_READ, attempt)
        except StopIteration as end:
            outcome: Outcome = end.value
        except MISTAKES as e:
            detail = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
            outcome = Outcome(NOT_DELIVERED, detail or type(e).__name__)
        else:
            attempt.fd, attempt.why = wait.fd, wait.why
            attempt.due_s = min(now_s + wait.within_s, attempt.end_s)
            self.due_s = min(self.due_s, attempt.due_s)
            return
        self.end(attempt)
        self._came(attempt, outcome, now_s)

    def _unregister(self, attempt: Attempt[Owner]) -> None:
        if attempt.fd >= 0:
            self.selector.unregister(attempt.fd)
            attempt.fd = -1

    def end(self, attempt: Attempt[Owner]) -> None:
        """Stop it; what it holds is given back."""
        self._unregister(attempt)
        attempt.steps.close()
        self._running[attempt.way].pop(attempt, None)
        if attempt.way in self._wanted:
            self._wanted.discard(attempt.way)
            self.freed = True
