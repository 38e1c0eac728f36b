"""Remembers which commands of which sender were run, over a restart too: what was run once is never run again.

One line for each verb and sender, VERB SENDER ID ID..., the words of secure.py, oldest first. The disk has a
command's number before it starts. Nobody's numbers push out those of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from . import disk

LIMIT = 100  # of each verb and sender
SENDERS_LIMIT = 32  # of each verb, twice as many as may command; the one that was heard the longest ago goes first
FILE_LIMIT_BYTES = 512 * 1024
_LINE = re.compile(r"([A-Z_]{1,32}) ([!-~]{1,64}) (.+)")
_ID = re.compile(r"[0-9a-f]{16}")


class Seen:
    """The last LIMIT commands of each verb and sender. A disk that fails must not stop a shutdown: `failed` says why.
    `path` None: kept in memory alone."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._rows: dict[str, dict[str, dict[str, None]]] = {}  # verb -> sender -> ids, all oldest first
        self.failed = ""
        if path is not None:
            self._read(path)

    def has(self, verb: str, sender: str, ident: str) -> bool:
        """Was it run?"""
        return ident in self._rows.get(verb, {}).get(sender, {})

    def add(self, verb: str, pairs: Iterable[tuple[str, str]]) -> None:
        """These are about to be run; (sender, id) each."""
        for sender, ident in pairs:
            self._note(verb, sender, ident)
        self._write()

    def remove(self, verb: str, pairs: Iterable[tuple[str, str]]) -> None:
        """These came to nothing: they may be run again."""
        for sender, ident in pairs:
            self._rows.get(verb, {}).get(sender, {}).pop(ident, None)
        self._write()

    def _note(self, verb: str, sender: str, ident: str) -> None:
        senders = self._rows.setdefault(verb, {})
        ids = senders.pop(sender, {})
        ids.pop(ident, None)
        ids[ident] = None
        senders[sender] = ids
        for rows, limit in ((ids, LIMIT), (senders, SENDERS_LIMIT)):
            while len(rows) > limit:
                del rows[next(iter(rows))]

    def _read(self, path: str) -> None:
        try:
            lines = disk.read(path, FILE_LIMIT_BYTES).splitlines()
        except OSError as e:
            self.failed = f"{path}: {e.strerror}"
            return
        for line in lines:
            if found := _LINE.fullmatch(line):  # else torn, or not ours
                for ident in filter(_ID.fullmatch, found[3].split()):
                    self._note(found[1], found[2], ident)

    def _write(self) -> None:
        if self._path is None:
            return
        rows = [
            f"{verb} {who} {' '.join(ids)}\n" for verb, senders in self._rows.items() for who, ids in senders.items()
        ]
        try:
            disk.write(self._path, "".join(rows))
            self.failed = ""
        except OSError as e:
            self.failed = f"{self._path}: {e.strerror}"
