"""The listener's log: one line for each thing that happened (time, sender, verb, outcome); floods cannot fill it."""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import Callable, NamedTuple

FILE_LIMIT_BYTES = 1024 * 1024  # of --log FILE (one older file is kept as FILE.1), and of stderr if that is a file


class Output:
    """Where the lines go: stderr and, if wanted, a file of bounded size (`logging` would cost 0.6 MB). A full disk or
    a closed stderr never stops a shutdown: such a line is lost."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall, self._file = wall, ""

    def begin(self, file: str) -> None:
        """Write to `file` too. OSError if it cannot be opened."""
        with open(file, "a", encoding="utf-8"):
            self._file = file

    def write(self, text: str) -> None:
        """One line, with the time before it."""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(self._wall()))} {text}\n"
        try:
            bound(sys.stderr.fileno())
            sys.stderr.write(line)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or no disk left: there is nobody to tell
        if self._file:
            try:
                self._append(line)
            except OSError:
                pass  # the same

    def _append(self, line: str) -> None:
        try:
            if os.stat(self._file).st_size + len(line) > FILE_LIMIT_BYTES:
                os.replace(self._file, f"{self._file}.1")
        except FileNotFoundError:
            pass  # somebody moved it: a new one begins
        with open(self._file, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(line)


def bound(fd: int) -> None:
    """Begin stderr anew if it is a large file, as of a listener that was started without a service manager."""
    state = os.fstat(fd)
    if stat.S_ISREG(state.st_mode) and state.st_size > FILE_LIMIT_BYTES:
        os.ftruncate(fd, 0)


output = Output()


class Rate:
    """How many lines of one kind may be written: a burst, then so many per second."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._at_s = burst, 0.0
        self.dropped = 0

    def permits(self, now_s: float) -> bool:
        """May one more line be written now?"""
        if self.has_room(now_s):
            self._left -= 1
            return True
        self.dropped += 1
        return False

    def has_room(self, now_s: float, lines: int = 1) -> bool:
        """Would `permits` say yes so many times?"""
        self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return self._left >= lines


class Taken(NamedTuple):
    """A command as the status shows it: wall-clock seconds, and the word that was answered."""

    wall_s: float
    sender: str
    verb: str
    ident: str
    word: str


class Journal:
    """Writes the lines. Kinds of lines that others can cause at will have a rate each."""

    def __init__(self) -> None:
        self._rates = {
            "strangers": Rate(burst=20, per_s=0.1),  # addresses that are not on the list
            "refused": Rate(burst=20, per_s=0.2),  # senders on the list that are not understood
            "repeats": Rate(burst=20, per_s=0.2),
            "messages": Rate(burst=100, per_s=1.0),
        }

    def line(self, sender: str, verb: str, outcome: str) -> None:
        """A line that is always written; `sender` and `verb` "-" where there is none."""
        output.write(f"{sender} {verb}: {outcome}")

    def limited(self, kind: str, sender: str, verb: str, outcome: str, now_s: float) -> None:
        """A line of a kind that is written only as often as its rate permits."""
        rate = self._rates[kind]
        if rate.permits(now_s):
            if rate.dropped:
                outcome += f" ({rate.dropped} lines like this were left out before)"
                rate.dropped = 0
            self.line(sender, verb, outcome)

    def tick(self, now_s: float) -> None:
        """After a flood, says how many lines were left out."""
        for kind, rate in self._rates.items():
            if rate.dropped and rate.has_room(now_s, 2):
                self.limited(kind, "-", "-", "quiet again", now_s)

    @property
    def dropped(self) -> bool:
        """Lines were left out and not yet counted in the log."""
        return any(rate.dropped for rate in self._rates.values())
