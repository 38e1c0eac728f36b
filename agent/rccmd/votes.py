"""Counts who has asked for the shutdown where several adapters must agree, and remembers it over a restart.

One word a sender: it counts until its WAKEUP, or for `vote_s`. The file, if there is one, has a line for each:
the address and the wall-clock second. Seconds in memory are monotonic and handed in; the wall clock counts for the
file alone, because nothing else goes on while the listener, or the machine, is away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Callable

from .settings import Settings, address_of

VOTES_LIMIT = 256  # the oldest is forgotten first
FILE_LIMIT_BYTES = 64 * 1024


class Votes:
    """Whose word counts. Nothing here raises: a disk that fails must not stop a shutdown; `failed` says why."""

    def __init__(self, settings: Settings, wall: Callable[[], float] = time.time) -> None:
        self._settings, self._wall = settings, wall
        self._at_s: dict[str, float] = {}  # sender -> when it asked; oldest first
        self._unread = settings.state is not None
        self.failed = ""

    def add(self, sender: str, now_s: float) -> None:
        """This sender has asked."""
        self._forget_old(now_s)
        self._at_s.pop(sender, None)
        self._at_s[sender] = now_s
        if len(self._at_s) > VOTES_LIMIT:
            del self._at_s[next(iter(self._at_s))]
        self._write(now_s)

    def withdraw(self, sender: str, now_s: float) -> bool:
        """Its word counts no more; False: it had none."""
        self._forget_old(now_s)
        if self._at_s.pop(sender, None) is None:
            return False
        self._write(now_s)
        return True

    def of(self, now_s: float) -> tuple[str, ...]:
        """Whose word counts now."""
        self._forget_old(now_s)
        return tuple(self._at_s)

    def clear(self, now_s: float) -> None:
        """They have had what they asked for."""
        if self.of(now_s):
            self._at_s.clear()
            self._write(now_s)

    def restore(self, senders: Iterable[str], now_s: float) -> None:
        """What they asked for came to nothing: their word counts again."""
        self._forget_old(now_s)
        self._at_s.update(dict.fromkeys(senders, now_s))
        self._write(now_s)

    def _forget_old(self, now_s: float) -> None:
        if self._unread:
            self._unread = False
            self._at_s = self._read(now_s)
        self._at_s = {who: at_s for who, at_s in self._at_s.items() if now_s - at_s < self._settings.vote_s}

    def _read(self, now_s: float) -> dict[str, float]:
        """The file's words as far as they make sense, of senders that are still on the list."""
        found: dict[str, float] = {}
        try:
            with open(str(self._settings.state), "rb") as stream:
                lines = stream.read(FILE_LIMIT_BYTES).decode("ascii", "replace").splitlines()
        except FileNotFoundError:
            return found
        except OSError as e:
            self.failed = f"{self._settings.state}: {e.strerror}"
            return found
        for line in lines[:VOTES_LIMIT]:
            try:
                sender, wall_s = line.split()
                age_s = max(0.0, self._wall() - int(wall_s))  # a clock that was set back makes nobody's word older
                if self._settings.allows(address_of(sender)):
                    found[sender] = now_s - age_s
            except ValueError:
                continue  # torn, or not ours
        return found

    def _write(self, now_s: float) -> None:
        if self._settings.state is None:
            return
        rows = [f"{who} {self._wall() - (now_s - at_s):.0f}\n" for who, at_s in self._at_s.items()]
        fresh = f"{self._settings.state}.new"
        try:
            with open(fresh, "w", encoding="ascii") as stream:
                stream.write("".join(rows))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, self._settings.state)
            self.failed = ""
        except OSError as e:
            self.failed = f"{self._settings.state}: {e.strerror}"
