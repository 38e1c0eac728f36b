"""The last events of the log for the status page, asked of the core only when there are new ones."""

from __future__ import annotations

import threading

from . import wire
from .bus import BusError, Client
from .model import Condition, Event, View

EVENTS = 8
WITHIN_S = 1.0  # the page does not wait longer for them


class History:
    """Asks by one request at a time, from any thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._id: int | None = None
        self._events: tuple[Event, ...] = ()

    def last(self, view: View) -> tuple[Event, ...]:
        """Ascending; those known last if the core does not answer now."""
        no_core = any(a.condition is Condition.NO_CORE for a in view.conditions)
        if view.last_event_id != self._id and not no_core and self._lock.acquire(blocking=False):
            try:
                query = {"type": "query", "what": "events", "since": None, "limit": EVENTS}
                rows = self._client.ask(query, WITHIN_S).get("events", [])
                self._events = tuple(wire.from_json(Event, row) for row in rows)
                self._id = view.last_event_id
            except (BusError, ValueError):
                pass  # the next view asks again
            finally:
                self._lock.release()
        return self._events
