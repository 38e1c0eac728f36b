"""Knows a repeat of a classic command, which has no number: by its sender, until it has been quiet for a while.

A sender says everything that matters several times: genuine ones until they believe it, datagrams in three copies.
Seconds are monotonic and handed in.
"""

from __future__ import annotations

REPEAT_S = 300.0
SENDERS_LIMIT = 256  # the one not heard for longest is forgotten first


class Repeats:
    """Who said one certain verb, and when last."""

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}  # oldest first

    def since_s(self, sender: str, now_s: float) -> float | None:
        """How long ago this sender said it last, if this makes it a repeat; it has said it now."""
        last_s = self._heard_s.pop(sender, None)
        self._heard_s[sender] = now_s
        if len(self._heard_s) > SENDERS_LIMIT:
            del self._heard_s[next(iter(self._heard_s))]
        return now_s - last_s if last_s is not None and now_s - last_s < REPEAT_S else None

    def forget(self, sender: str) -> None:
        """What it says next is no repeat."""
        self._heard_s.pop(sender, None)

    def clear(self) -> None:
        """What anybody says next is no repeat."""
        self._heard_s.clear()
