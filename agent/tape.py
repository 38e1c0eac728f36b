"""The last raw frames of the link to the UPS, for a support bundle: what was asked and what came, and when."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .model import LinkError

LIMIT, LIMIT_BYTES = 200, 300  # frames kept, and bytes of each


class Tape:
    """A ring of frames. The ups thread writes it, anybody reads it."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: CLOCK_MONOTONIC in seconds."""
        self._now = now
        self._lock = threading.Lock()
        self._rows: deque[tuple[float, str, str]] = deque(maxlen=LIMIT)

    def keep(self, asked: str, said: str) -> None:
        """One exchange; a text that is too long is cut."""
        with self._lock:
            self._rows.append((self._now(), asked[:LIMIT_BYTES], said[:LIMIT_BYTES]))

    def rows(self) -> list[dict[str, Any]]:
        """The frames, the oldest first: `at_s` (monotonic), `asked`, `said`."""
        with self._lock:
            return [{"at_s": round(at_s, 3), "asked": asked, "said": said} for at_s, asked, said in self._rows]


class Taped:
    """A link of which everything that is said is kept; in all else it is the link itself."""

    def __init__(self, link: Any, tape: Tape) -> None:
        self._link, self._tape = link, tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def ask(self, command: bytes, **how: Any) -> Any:
        """Of a serial line, or a bridge."""
        return self._kept(repr(command), repr, lambda: self._link.ask(command, **how))

    def send(self, command: bytes) -> None:
        """Of a serial line."""
        self._link.send(command)
        self._tape.keep(repr(command), "")

    def read(self, limit_bytes: int, within_s: float) -> Any:
        """Of a serial line that is not asked line by line."""
        data = self._link.read(limit_bytes, within_s)
        if data:
            self._tape.keep("", bytes_shown(data))
        return data

    def get(self, kind: str, report: int, length: int) -> Any:
        """Of a USB power device: a report."""
        return self._kept(f"{kind} {report:#04x}", bytes_shown, lambda: self._link.get(kind, report, length))

    def inputs(self, limit: int) -> Any:
        """Of a USB power device: the interrupt reports."""
        taken = self._link.inputs(limit)
        for reply in taken:
            self._tape.keep("interrupt", bytes_shown(reply.data))
        return taken

    def _kept(self, asked: str, show: Callable[[bytes], str], call: Callable[[], Any]) -> Any:
        try:
            reply = call()
        except LinkError as e:
            self._tape.keep(asked, str(e))
            raise
        if reply is None:
            self._tape.keep(asked, "refused")
        else:
            self._tape.keep(asked, show(reply.data))
        return reply


def bytes_shown(data: bytes) -> str:
    """As hexadecimal numbers."""
    return data.hex(" ")
