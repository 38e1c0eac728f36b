"""A link that lets questions through and nothing else: what detection looks through."""

from __future__ import annotations

import re
from typing import Any

from .link import Silence
from .model import LinkError, Reply

FRAMES_LIMIT, FRAME_LIMIT_BYTES = 64, 200  # of a candidate, kept for people
#: how a Smart-UPS answers a question that has a Q in it, with alerts perhaps; nobody else answers so
SMART_UPS = re.compile(rb"[!$%+?=*#&|]*[0-9A-F]{2}")


class Asking:
    """A link that lets only `queries` through, and keeps what was said. `heard`: at least a byte came. When a
    Smart-UPS has answered what was not meant for it, nothing more is let through: in others are orders to it."""

    wake_fd: int | None = None

    def __init__(self, link: Any, queries: tuple[bytes, ...]) -> None:
        self._link, self._queries = link, queries
        self.heard = self._is_smart = False
        self.frames: list[str] = []

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        """As Link.ask; LinkError for what is no query."""
        if command not in self._queries:
            raise LinkError(f"{command!r} is no query of this driver: not sent")
        if self._is_smart:
            raise LinkError(f"{command!r} may be an order to what answers here: not sent")
        try:
            reply: Reply = self._link.ask(command, end=end, limit_bytes=limit_bytes, within_s=within_s)
        except LinkError as e:
            self.heard = self.heard or not isinstance(e, Silence)
            self._keep(f"{command!r} -> {e}")
            raise
        self.heard = True
        self._is_smart = command not in (b"Y", b"Q") and SMART_UPS.fullmatch(reply.data) is not None
        self._keep(f"{command!r} -> {reply.data[:FRAME_LIMIT_BYTES]!r}")
        return reply

    def send(self, command: bytes) -> None:
        """Nothing that has no answer is a question."""
        raise LinkError(f"{command!r} is no query: not sent")

    def close(self) -> None:
        """Whoever opened the link closes it."""

    def _keep(self, text: str) -> None:
        if len(self.frames) < FRAMES_LIMIT:
            self.frames.append(text[: 2 * FRAME_LIMIT_BYTES])
