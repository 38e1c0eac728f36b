"""Rows of the log for many servers at once: a thousand that are told in a second are not a thousand rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROWS_PER_S = 5
NAMES_LIMIT = 50  # in one row
WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """Something about a server that is worth a row in the log."""

    name: str  # told, not-told, back, proof-failed, proven-again, message, execute
    server: str
    detail: str = ""
    word: str = ""  # the outcome


class Crowd:
    """Rows come in one by one; they go out alone while they are few, gathered by name when they are many."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[Row]] = {}
        self._window_s, self._out = 0.0, 0

    def add(self, rows: Sequence[Row]) -> None:
        """These are to be written."""
        for row in rows:
            self._waiting.setdefault((row.name, row.word), []).append(row)

    def take(self, now_s: float) -> list[list[Row]]:
        """What may go into the log now, each list as one row; the rest waits for the next second."""
        if now_s - self._window_s >= WINDOW_S:
            self._window_s, self._out = now_s, 0
        out: list[list[Row]] = []
        for kind in list(self._waiting):
            while self._out < ROWS_PER_S and (rows := self._waiting.get(kind)):
                size = NAMES_LIMIT if len(rows) > ROWS_PER_S else 1
                out.append(rows[:size])
                self._out += 1
                self._waiting[kind] = rows[size:]
            if not self._waiting[kind]:
                del self._waiting[kind]
        return out


def data(rows: Sequence[Row]) -> Mapping[str, str]:
    """The data of one log row for these rows of the same name."""
    if len(rows) == 1:
        found = {"server": rows[0].server, "detail": rows[0].detail}
    else:
        found = {"server": ", ".join(row.server for row in rows), "count": str(len(rows))}
    return {**found, "outcome": rows[0].word} if rows[0].word else found
