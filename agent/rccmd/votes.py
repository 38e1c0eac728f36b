"""Counts who has asked for the shutdown where several adapters must agree, and remembers it over a restart.

One word a sender: it counts until its WAKEUP, or for `vote_s`. A sender is an address (classic) or the name of a
certificate (secure), whose word carries the number of its outage. The file, if there is one, has a line for each:
the sender, the wall-clock second and, if there is one, that number. Seconds in memory are monotonic and handed in;
the wall clock counts for the file alone, because nothing else goes on while the listener, or the machine, is away.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Callable

from . import disk
from .settings import Settings, address_of

VOTES_LIMIT = 256  # the oldest is forgotten first
_ID = re.compile(r"[0-9a-f]{16}")


class Votes:
    """Whose word counts. Nothing here raises: a disk that fails must not stop a shutdown; `failed` says why."""

    def __init__(self, settings: Settings, wall: Callable[[], float] = time.time) -> None:
        self._settings, self._wall = settings, wall
        self._at_s: dict[str, float] = {}  # sender -> when it asked; oldest first
        self._ids: dict[str, str] = {}  # sender -> the outage it asked for; "" for a classic one
        self._unread = settings.state is not None
        self.failed = ""

    def add(self, sender: str, now_s: float, ident: str = "") -> None:
        """This sender has asked."""
        self._forget_old(now_s)
        self._at_s.pop(sender, None)
        self._at_s[sender], self._ids[sender] = now_s, ident
        if len(self._at_s) > VOTES_LIMIT:
            del self._at_s[next(iter(self._at_s))]
        self._write(now_s)

    def withdraw(self, sender: str, now_s: float, ident: str = "") -> bool:
        """Its word for this outage counts no more; False: it had none."""
        self._forget_old(now_s)
        if sender not in self._at_s or self._ids[sender] != ident:
            return False
        del self._at_s[sender]
        self._write(now_s)
        return True

    def of(self, now_s: float) -> dict[str, str]:
        """Whose word counts now, oldest first, and the number of its outage ("": classic)."""
        self._forget_old(now_s)
        return {who: self._ids[who] for who in self._at_s}

    def age_s(self, sender: str, now_s: float) -> float:
        """How long ago one of these asked."""
        return now_s - self._at_s[sender]

    def clear(self, now_s: float) -> None:
        """They have had what they asked for."""
        if self.of(now_s):
            self._at_s.clear()
            self._write(now_s)

    def restore(self, asking: Mapping[str, str], now_s: float) -> None:
        """What they asked for came to nothing: their word counts again."""
        self._forget_old(now_s)
        self._at_s.update(dict.fromkeys(asking, now_s))
        self._ids.update(asking)
        self._write(now_s)

    def _forget_old(self, now_s: float) -> None:
        if self._unread:
            self._unread = False
            self._at_s = self._read(now_s)
        self._at_s = {
            who: at_s
            for who, at_s in self._at_s.items()
            if now_s - at_s < self._settings.vote_s and (not self._ids[who] or self._enrolled(who))
        }
        self._ids = {who: self._ids[who] for who in self._at_s}

    def _read(self, now_s: float) -> dict[str, float]:
        """The file's words as far as they make sense, of senders that are still on the list."""
        found: dict[str, float] = {}
        try:
            lines = disk.read(str(self._settings.state)).splitlines()
        except OSError as e:
            self.failed = f"{self._settings.state}: {e.strerror}"
            return found
        for line in lines[:VOTES_LIMIT]:
            try:
                sender, wall_s, *ident = line.split()
                age_s = max(0.0, self._wall() - int(wall_s))  # a clock that was set back makes nobody's word older
                if ident and (len(ident) > 1 or not _ID.fullmatch(ident[0])):
                    continue
                if ident or self._settings.allows(address_of(sender)):
                    found[sender] = now_s - age_s
                    self._ids[sender] = ident[0] if ident else ""
            except ValueError:
                continue  # torn, or not ours
        return found

    def _enrolled(self, name: str) -> bool:
        """Is this sender's certificate still there?"""
        return os.path.exists(os.path.join(str(self._settings.senders), f"{name}.pem"))

    def _write(self, now_s: float) -> None:
        if self._settings.state is None:
            return
        rows = [
            f"{who} {self._wall() - (now_s - at_s):.0f} {self._ids[who]}".rstrip() + "\n"
            for who, at_s in self._at_s.items()
        ]
        try:
            disk.write(self._settings.state, "".join(rows))
            self.failed = ""
        except OSError as e:
            self.failed = f"{self._settings.state}: {e.strerror}"
