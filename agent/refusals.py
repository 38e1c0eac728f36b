"""Which refused SETs leave a row in the history: a hostile sender fills neither it nor the log. Pure."""

from __future__ import annotations

AGAIN_S = 600.0  # a sender leaves one row in so long
SENDERS_LIMIT = 8  # with rows of their own; all others of that time share one


class Refusals:
    """Remembers who has left a row when. For one thread at a time."""

    def __init__(self) -> None:
        self.senders: dict[tuple[str, str], float] = {}  # (who, host) -> when
        self._untold = 0

    def due(self, who: str, host: str, now_s: float) -> int | None:
        """How many refusals, of anybody, have left no row since the last that did, if this one shall; else None."""
        key = who, host
        if key not in self.senders and len(self.senders) >= SENDERS_LIMIT:
            self.senders = {one: at_s for one, at_s in self.senders.items() if now_s - at_s < AGAIN_S}
            if len(self.senders) >= SENDERS_LIMIT:
                key = "", ""
        at_s = self.senders.get(key)
        if at_s is not None and now_s - at_s < AGAIN_S:
            self._untold += 1
            return None
        self.senders[key] = now_s
        untold, self._untold = self._untold, 0
        return untold
