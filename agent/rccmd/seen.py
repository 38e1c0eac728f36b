"""Remembers which commands of which sender were run, over a restart too: what was run once is never run again.

One line each, oldest first: VERB SENDER ID, the words of secure.py. The disk has a command's line before it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from . import disk

LIMIT = 100  # of each verb
_LINE = re.compile(r"([A-Z_]{1,32}) ([!-~]{1,64}) ([0-9a-f]{16})")


class Seen:
    """The last LIMIT commands of each verb. A disk that fails must not stop a shutdown: `failed` says why.
    `path` None: kept in memory alone."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._rows: dict[str, dict[tuple[str, str], None]] = {}  # verb -> (sender, id), oldest first
        self.failed = ""
        if path is not None:
            self._read(path)

    def has(self, verb: str, sender: str, ident: str) -> bool:
        """Was it run?"""
        return (sender, ident) in self._rows.get(verb, {})

    def add(self, verb: str, pairs: Iterable[tuple[str, str]]) -> None:
        """These are about to be run; (sender, id) each."""
        rows = self._rows.setdefault(verb, {})
        for pair in pairs:
            rows.pop(pair, None)
            rows[pair] = None
        while len(rows) > LIMIT:
            del rows[next(iter(rows))]
        self._write()

    def remove(self, verb: str, pairs: Iterable[tuple[str, str]]) -> None:
        """These came to nothing: they may be run again."""
        rows = self._rows.get(verb, {})
        for pair in pairs:
            rows.pop(pair, None)
        self._write()

    def _read(self, path: str) -> None:
        try:
            lines = disk.read(path).splitlines()
        except OSError as e:
            self.failed = f"{path}: {e.strerror}"
            return
        for line in lines:
            if found := _LINE.fullmatch(line):  # else torn, or not ours
                rows = self._rows.setdefault(found[1], {})
                rows[(found[2], found[3])] = None
                if len(rows) > LIMIT:
                    del rows[next(iter(rows))]

    def _write(self) -> None:
        if self._path is None:
            return
        rows = [f"{verb} {who} {ident}\n" for verb, pairs in self._rows.items() for who, ident in pairs]
        try:
            disk.write(self._path, "".join(rows))
            self.failed = ""
        except OSError as e:
            self.failed = f"{self._path}: {e.strerror}"
