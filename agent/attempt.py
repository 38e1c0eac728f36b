"""Runs the ways' generators: a thousand attempts in one thread, each waiting for a descriptor, none for another."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .reach import NOT_DELIVERED, Late, Outcome, Steps

ATTEMPT_S = 30.0  # for all of one attempt, whatever its waits

Owner = TypeVar("Owner")


@dataclass(eq=False, slots=True)
class Attempt(Generic[Owner]):
    """One run of a way's generator for its owner."""

    owner: Owner
    way: str
    steps: Steps
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
        self._running: dict[str, int] = {}
        self.due_s = 0.0  # of the attempt that is late first, or before
        self.freed = False  # one has ended since the owner set this to False: its slot is free

    def has_slot(self, way: str, slots: int | None) -> bool:
        """May another attempt of this way begin?"""
        return slots is None or self._running.get(way, 0) < slots

    def begin(self, owner: Owner, way: str, steps: Steps, now_s: float) -> Attempt[Owner]:
        """A new attempt, which runs when `go_on` is called."""
        attempt = Attempt(owner, way, steps, now_s + ATTEMPT_S, due_s=now_s)
        self._running[way] = self._running.get(way, 0) + 1
        return attempt

    def go_on(self, attempt: Attempt[Owner], now_s: float, late: str = "") -> None:
        """Run the generator to its next wait, or to its end. `late`: why it is thrown a Late."""
        try:
            if late and now_s >= attempt.end_s:
                raise Late(late)  # it had its time, whatever it makes of it
            wait = attempt.steps.throw(Late(late)) if late else next(attempt.steps)
        except StopIteration as end:
            outcome: Outcome = end.value
        except (OSError, Late, ValueError) as e:
            detail = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
            outcome = Outcome(NOT_DELIVERED, detail)
        else:
            attempt.due_s, attempt.why = min(now_s + wait.within_s, attempt.end_s), wait.why
            self.due_s = min(self.due_s, attempt.due_s)
            self._wait(attempt, wait.fd, selectors.EVENT_WRITE if wait.write else selectors.EVENT_READ)
            return
        self.end(attempt)
        self._came(attempt, outcome, now_s)

    def _wait(self, attempt: Attempt[Owner], fd: int, events: int) -> None:
        if attempt.fd == fd and fd in self.selector.get_map():
            self.selector.modify(fd, events, attempt)
            return
        self._unregister(attempt)
        attempt.fd = fd
        self.selector.register(fd, events, attempt)

    def _unregister(self, attempt: Attempt[Owner]) -> None:
        if attempt.fd >= 0 and attempt.fd in self.selector.get_map():
            self.selector.unregister(attempt.fd)
        attempt.fd = -1

    def end(self, attempt: Attempt[Owner]) -> None:
        """Stop it; what it holds is given back."""
        self._unregister(attempt)
        attempt.steps.close()
        self._running[attempt.way] -= 1
        self.freed = True
