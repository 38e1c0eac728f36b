"""Sends SNMP notifications to managers: traps once, informs until they are confirmed; nothing is lost by a restart.

One thread. The events are read from the core's log by a cursor, one for each receiver. It is kept, with the open
alarms, when that receiver has what came before: after a crash some is sent twice rather than not at all, and who
cannot be reached costs the others nothing.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import notices, vault, wire
from .bus import BusError, Client
from .mib import Look
from .model import ALARM_NUMBER, Condition, Event
from .notices import Notice, Watch
from .receiver import Receiver

log = logging.getLogger(__name__)

TURN_S = 0.5
PAGE, PAGES_LIMIT = 100, 50  # events read at once, and how many times in one turn
ASK_S = 2.0
LIMIT_BYTES = 64 * 1024

_NUMBERS = frozenset(ALARM_NUMBER.values())

Clock = Callable[[], float]
State = dict[str, Any]  # of one receiver, as the file has it


@dataclass
class _Told:
    """A receiver, and what it has been told of."""

    receiver: Receiver
    watch: Watch

    def state(self) -> State:
        return {"cursor": self.watch.cursor, "open": {str(number): row for number, row in self.watch.open.items()}}


class Notifier:
    """Reads, decides and sends; `run` in a thread of its own."""

    def __init__(
        self,
        look: Callable[[float], Look],
        last_row: Callable[[], int],
        ask: Callable[[dict[str, object], float], Mapping[str, object]],
        receivers: Iterable[Receiver],
        folder: Path,
    ) -> None:
        """`look(now_s)` as the agent's; `last_row` the greatest upsAlarmId given; `ask` a request to the core
        (BusError); `folder` keeps the cursors, by the receivers' names."""
        self._look, self._last_row, self._ask = look, last_row, ask
        self._path = folder / "notify.json"
        self._kept = self._remembered()
        self._told = [_Told(one, _watch(self._kept.get(one.name))) for one in receivers]
        self._failed = ""
        self._refused = threading.Event()
        self._started = False

    @property
    def receivers(self) -> list[Receiver]:
        """Who is told."""
        return [told.receiver for told in self._told]

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
        pages: dict[int, list[Event] | None] = {}
        for told in self._told:
            watch = told.watch
            news = self._news(watch, look, pages) + watch.core(look, self._last_row()) + watch.tick(look)
            told.receiver.put(found + news)
            told.receiver.turn(now_s)
        kept = {t.receiver.name: t.state() for t in self._told if not t.receiver.busy}
        if any(self._kept.get(name) != state for name, state in kept.items()):
            names = [one.name for one in self.receivers]
            self._keep({name: state for name, state in self._kept.items() if name in names} | kept)

    def _news(self, watch: Watch, look: Look, pages: dict[int, list[Event] | None]) -> list[Notice]:
        """What the events after the cursor mean, as far as the view has come: what goes with them is taken from it. A
        later event is read again with its own view, which is at most a moment behind it. `pages` are those that were
        read in this turn, by what they begin after."""
        view = look.view
        if any(a.condition is Condition.NO_CORE for a in view.conditions):
            return []
        if watch.cursor is None or watch.cursor > view.last_event_id:
            return self._begin(watch, look)
        found: list[Notice] = []
        for _ in range(PAGES_LIMIT):
            if watch.cursor >= view.last_event_id:
                break
            if watch.cursor not in pages:
                pages[watch.cursor] = self._page(watch.cursor)
            page = pages[watch.cursor]
            if page is None:
                break
            events = [event for event in page if event.id <= view.last_event_id]
            whole = bool(events) and events[0].id == watch.cursor + 1
            watch.level = watch.level and whole  # or rows are gone, and nobody knows what they were
            if not events:
                watch.cursor = view.last_event_id
                break
            found += watch.events(events, look, self._last_row())
        if not watch.level and watch.cursor >= view.last_event_id:
            found += self._begin(watch, look)
        return found

    def _page(self, since: int) -> list[Event] | None:
        """The first events after one; None: they cannot be had now."""
        query: dict[str, object] = {"type": "query", "what": "events", "since": since, "limit": PAGE}
        try:
            rows = self._ask(query, ASK_S).get("events")
            return [wire.from_json(Event, row) for row in rows] if isinstance(rows, list) else []
        except (BusError, ValueError) as e:
            log.debug("notify: %s", e)
            return None

    def _begin(self, watch: Watch, look: Look) -> list[Notice]:
        """From what holds now: at each start, as the log may be another than the one that was read, and when rows of
        it are gone. What has been told of already is not told again."""
        view = look.view
        holds = {ALARM_NUMBER[a.condition]: a.condition for a in view.conditions if a.condition in ALARM_NUMBER}
        events = [
            Event(id=0, kind="ended", name=condition.value)
            for condition, number in ALARM_NUMBER.items()
            if number in watch.open and number not in holds
        ]
        events += [Event(id=0, kind="began", name=condition.value) for condition in holds.values()]
        watch.cursor, watch.level = view.last_event_id, True
        return watch.events(events, look, self._last_row())

    # -- what outlives a restart

    def _remembered(self) -> dict[str, State]:
        try:
            with open(self._path, "rb") as stream:
                values = json.loads(stream.read(LIMIT_BYTES))
            return {str(name): _checked(state) for name, state in values["receivers"].items()}
        except FileNotFoundError:
            pass  # the first start
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            log.error("%s: damaged (%s); notifications begin with what holds now", self._path, e)
        return {}

    def _keep(self, states: dict[str, State]) -> None:
        self._kept = states
        try:
            vault.write_private(self._path, json.dumps({"receivers": states}).encode() + os.linesep.encode())
            self._failed = ""
        except OSError as e:
            if self._failed != str(e):
                log.error("%s: %s; after a restart some notifications may come twice", self._path, e.strerror)
            self._failed = str(e)


def _checked(state: Any) -> State:
    """ValueError, KeyError, TypeError, AttributeError: it is damaged."""
    cursor, rows = state["cursor"], state["open"]
    good = all(type(row) is int and 0 < row < 2**31 and int(number) in _NUMBERS for number, row in rows.items())
    if not good or type(cursor) is not int or not 0 <= cursor < 2**63:
        raise ValueError("impossible values")
    return {"cursor": cursor, "open": rows}


def _watch(state: State | None) -> Watch:
    return Watch() if state is None else Watch(state["cursor"], {int(n): row for n, row in state["open"].items()})
