"""Sends SNMP notifications to managers: traps once, informs until they are confirmed; nothing is lost by a restart.

One thread. The events are read from the core's log by a cursor. It is kept, with the open alarms, when all receivers
have what came before: after a crash some is sent twice rather than not at all.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import notices, vault, wire
from .bus import BusError, Client
from .mib import Look
from .model import ALARM_NUMBER, Condition, Event, View
from .notices import Notice, Watch
from .receiver import Receiver

log = logging.getLogger(__name__)

TURN_S = 0.5
PAGE, PAGES_LIMIT = 100, 50  # events read at once, and how many times in one turn
ASK_S = 2.0
LIMIT_BYTES = 64 * 1024

Clock = Callable[[], float]


class Notifier:
    """Reads, decides and sends; `run` in a thread of its own."""

    def __init__(
        self,
        look: Callable[[float], Look],
        last_row: Callable[[], int],
        ask: Callable[[dict[str, object], float], Mapping[str, object]],
        receivers: Sequence[Receiver],
        folder: Path,
    ) -> None:
        """`look(now_s)` as the agent's; `last_row` the greatest upsAlarmId given; `ask` a request to the core
        (BusError); `folder` keeps the cursor."""
        self.receivers = receivers
        self._look, self._last_row, self._ask = look, last_row, ask
        self._path = folder / "notify.json"
        self._watch = self._remembered()
        self._kept: tuple[object, ...] = self._state()
        self._failed = ""
        self._refused = threading.Event()
        self._started = False

    def refused(self) -> None:
        """Somebody asked with a wrong community or key: any thread."""
        self._refused.set()

    def run(self, client: Client, stop: threading.Event, clock: Clock) -> None:
        """Until `stop` is set. The receivers' sockets are closed then."""
        version = 0
        while not stop.is_set():
            version = client.wait(version, TURN_S)
            self.turn(clock())
        for receiver in self.receivers:
            receiver.close()

    def turn(self, now_s: float) -> None:
        """Read what is new, and send what is due."""
        look = self._look(now_s)
        found: list[Notice] = []
        if not self._started:
            self._started = True
            found.append(notices.cold_start(look))
            if look.upsman:
                found.append(notices.private_start(look))
        if self._refused.is_set():
            self._refused.clear()
            found.append(notices.authentication_failure(look))
        found += self._news(look) + self._watch.core(look, self._last_row()) + self._watch.tick(look)
        for receiver in self.receivers:
            receiver.put(found)
            receiver.turn(now_s)
        if not any(receiver.busy for receiver in self.receivers) and self._state() != self._kept:
            self._keep()

    def _news(self, look: Look) -> list[Notice]:
        """What the events after the cursor mean, as far as the view has come: what goes with them is taken from it. A
        later event is read again with its own view, which is at most a moment behind it."""
        view = look.view
        if any(a.condition is Condition.NO_CORE for a in view.conditions):
            return []
        if self._watch.cursor is None or self._watch.cursor > view.last_event_id:
            return self._begin(view, look)
        found: list[Notice] = []
        for _ in range(PAGES_LIMIT):
            if self._watch.cursor >= view.last_event_id:
                break
            query: dict[str, object] = {
                "type": "query", "what": "events", "since": self._watch.cursor, "limit": PAGE,
            }  # fmt: skip
            try:
                rows = self._ask(query, ASK_S).get("events")
                events = [wire.from_json(Event, row) for row in rows] if isinstance(rows, list) else []
            except (BusError, ValueError) as e:
                log.debug("notify: %s", e)
                break
            events = [event for event in events if event.id <= view.last_event_id]
            if not events:
                self._watch.cursor = view.last_event_id  # those rows are gone
                break
            found += self._watch.events(events, look, self._last_row())
        return found

    def _begin(self, view: View, look: Look) -> list[Notice]:
        """At the first start, and when the core has begun a new log: from what holds now."""
        holds = {ALARM_NUMBER[a.condition]: a.condition for a in view.conditions if a.condition in ALARM_NUMBER}
        events = [
            Event(id=0, kind="ended", name=condition.value)
            for condition, number in ALARM_NUMBER.items()
            if number in self._watch.open and number not in holds
        ]
        events += [Event(id=0, kind="began", name=condition.value) for condition in holds.values()]
        self._watch.cursor = view.last_event_id
        return self._watch.events(events, look, self._last_row())

    # -- what outlives a restart

    def _state(self) -> tuple[object, ...]:
        return self._watch.cursor, tuple(sorted(self._watch.open.items()))

    def _remembered(self) -> Watch:
        try:
            with open(self._path, "rb") as stream:
                values = json.loads(stream.read(LIMIT_BYTES))
            cursor, rows = values["cursor"], values["open"]
            if type(cursor) is not int or not all(type(row) is int for row in rows.values()):
                raise ValueError("impossible values")
            return Watch(cursor, {int(number): row for number, row in rows.items()})
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            log.error("%s: damaged (%s); notifications begin with what holds now", self._path, e)
        return Watch()

    def _keep(self) -> None:
        self._kept = self._state()
        text = json.dumps({"cursor": self._watch.cursor, "open": self._watch.open})
        try:
            vault.write_private(self._path, text.encode() + os.linesep.encode())
            self._failed = ""
        except OSError as e:
            if self._failed != str(e):
                log.error("%s: %s; after a restart some notifications may come twice", self._path, e.strerror)
            self._failed = str(e)
