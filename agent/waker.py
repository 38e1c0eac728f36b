"""Wakes servers: a magic packet again and again until the server answers; without a MAC, only a look."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .book import Book
from .config import Server
from .target import Target

log = logging.getLogger(__name__)

WAKE_S, WAKE_SOON, WAKE_LATER_S = 10.0, 12, 60.0  # the first 12 packets, and the others
BY_HAND_S = 15.0  # between two looks at a server that we cannot wake


class Waker:
    """`send` sends a magic packet to a MAC and says why it could not."""

    def __init__(self, book: Book, send: Callable[[str], str]) -> None:
        self._book, self._send = book, send

    def word(self, server: Server) -> str:
        """How this server comes back: waking | by-hand."""
        return "waking" if self._mac(server) or server.outlet else "by-hand"

    def wake(self, target: Target, now_s: float) -> None:
        """The next packet, and when the one after it is due."""
        target.packets += 1
        target.wake_s = now_s + (WAKE_S if target.packets < WAKE_SOON else WAKE_LATER_S)
        mac = self._mac(target.server)
        if not mac:
            target.wake_s = now_s + BY_HAND_S
            return
        error = self._send(mac)
        if target.packets in (1, WAKE_SOON):
            log.info("%s: wake-on-LAN to %s%s", target.server.name, mac, f" failed: {error}" if error else "")

    def _mac(self, server: Server) -> str:
        return server.mac or self._book.mac(server.name)
