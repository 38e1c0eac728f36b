"""Knows when each adapter was last heard: one that is silent for too long is not alive, and the log says so.

Where it is wished (`unreachable_counts`), one that is not alive counts as having asked, once another one has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Callable, NamedTuple

from .journal import Journal
from .settings import Settings

Names = Callable[[], Iterable[str]]


class Heard(NamedTuple):
    """The last word of a sender: monotonic seconds, from which address, and the verb."""

    at_s: float
    address: str
    verb: str


class Alive:
    """The senders of secure mode. A command of any kind is a sign of life; `alive_s` 0: nobody looks."""

    def __init__(self, settings: Settings, names: Names, journal: Journal) -> None:
        self._settings, self._names, self._journal = settings, names, journal
        self._alive_s = settings.alive_s
        self.last: dict[str, Heard] = {}
        self._since_s: dict[str, float] = {}  # when each was first seen to be a sender
        self._lost: set[str] = set()  # of whom the log has said that they are silent
        self._counting: set[str] = set()  # who counted as having asked when that was looked at last

    def restore(self, last: Mapping[str, Heard]) -> None:
        """What was known before a restart."""
        self.last.update(last)

    def heard(self, name: str, address: str, verb: str, now_s: float) -> None:
        """This sender, whose certificate was checked, has said something."""
        before = self.last.get(name)
        self.last[name] = Heard(now_s, address, verb)
        if before is None or before.address != address:
            self._journal.limited("strangers", name, "-", f"speaks from {address}", now_s)
        if name in self._lost:
            self._lost.discard(name)
            self._journal.line(name, "-", "is heard again")

    def silent(self, now_s: float) -> set[str]:
        """Who is not alive; one that was never heard is not."""
        if not self._alive_s:
            return set()
        return {name for name in self._names() if name not in self.last or self._over(name, now_s)}

    def voices(self) -> int:
        """How many may ask."""
        return len(set(self._names()))

    def counting(self, asking: Iterable[str], now_s: float) -> set[str]:
        """Who counts as having asked, besides those that have, because it is not alive though it had its time."""
        return self._lost_now(now_s) - set(asking) if self._settings.unreachable_counts else set()

    def enough(self, asking: Collection[str], now_s: float) -> bool:
        """Are those that ask, with those that count as asking, as many as are needed?"""
        return len(asking) + len(self.counting(asking, now_s)) >= self._settings.need

    def more_count(self, asking: Iterable[str], now_s: float, *, look: bool) -> bool:
        """Does somebody count who did not at the last look? `look`: this is one; else nobody new is noticed."""
        counting = self.counting(asking, now_s)
        more = bool(counting - self._counting)
        self._counting = counting if look else self._counting & counting
        return more and look

    def tick(self, now_s: float) -> None:
        """Say who has fallen silent."""
        if not self._alive_s:
            return
        names = set(self._names())
        self._since_s = {name: self._since_s.get(name, now_s) for name in names}
        self.last = {name: last for name, last in self.last.items() if name in names}
        self._lost &= names
        for name in sorted(self._lost_now(now_s) - self._lost):
            self._lost.add(name)
            self._journal.line(name, "-", f"warning: this adapter was not heard for {self._alive_s:g} s")

    def due_s(self, now_s: float) -> float | None:
        """When somebody falls silent next, if nothing more is heard."""
        if not self._alive_s:
            return None
        times = [*self._since_s.values(), *(last.at_s for last in self.last.values())]
        return min((at_s + self._alive_s for at_s in times if at_s + self._alive_s > now_s), default=None)

    def _lost_now(self, now_s: float) -> set[str]:
        """Who is not alive though it had `alive_s` to be heard, from our start or from when it became a sender."""
        return {name for name in self.silent(now_s) if now_s - self._since_s.get(name, now_s) >= self._alive_s}

    def _over(self, name: str, now_s: float) -> bool:
        return now_s - self.last[name].at_s >= self._alive_s
