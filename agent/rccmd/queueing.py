"""The open connections of the listener: who must go when there are too many, and whose TLS is worked on next; pure.

A handshake costs a hundred times what a connection costs, so it is rationed: whoever comes from an address with few
connections goes first, then who is further along, then the newest, because the oldest of a flood has waited in vain
already. So a true command is neither queued behind a flood nor thrown out by it.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from . import secure
from .codec import Feed

if TYPE_CHECKING:
    from .trust import TlsLine


class Connection:
    """One sender on TCP: first it is read; once its command is taken, or answered, only drained."""

    def __init__(self, sock: socket.socket, sender: str, until_s: float) -> None:
        self.sock, self.sender = sock, sender
        self.feed = Feed()
        self.tls: TlsLine | None = None
        self.secure = False  # it began with TLS
        self.waiting: bytes | None = None  # ciphertext that nobody has worked on yet; b"": its end
        self.steps = 0  # of TLS that were worked on
        self.line = secure.Line(secure.REQUEST_LIMIT_BYTES)
        self.until_s = until_s
        self.heard = False
        self.drained_bytes = 0


def victim(connections: Collection[Connection]) -> Connection:
    """Who must go for another one (`connections`: oldest first): one that has all it wants, else the oldest of
    whoever holds most, but not who is further along than others."""
    crowd = Counter(c.sender for c in connections)
    return max(connections, key=lambda c: (c.heard, crowd[c.sender], -c.steps))


def next_ones(connections: Collection[Connection], limit: int) -> list[Connection]:
    """Whose TLS is worked on now, at most `limit`. `connections`: oldest first."""
    crowd = Counter(c.sender for c in connections)
    waiting = [(crowd[c.sender], -c.steps, -age, c) for age, c in enumerate(connections) if c.waiting is not None]
    return [row[3] for row in sorted(waiting, key=lambda row: row[:3])[:limit]]
