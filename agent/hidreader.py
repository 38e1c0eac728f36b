"""Reads the reports of a USB power device: the vital ones at every poll, the others as time allows, each remembered.

A report that the unit refuses (STALL) or that is lost is asked again later, and less and less often; a place that is
refused makes way for the next one. Only the vital ones may fail a poll. Nothing here waits: the link has its own
bounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from . import hid, hidtable
from .hidraw import Identity
from .hidtable import Place
from .model import LinkError, Reply
from .quirks import Quirk

log = logging.getLogger(__name__)

POLL_S = 1.5  # for all that comes after the report that tells of the mains, in one poll
BUDGET_S = 1.0  # of it, for reports that are not vital
FIRST_BUDGET_S = 0.3  # in the first: a unit that comes back in an outage shall not be waited for
MEASURE_EVERY_S = 2.0  # gentle: some firmware freezes or drops off when it is asked all the time
OLD_S = 10.0  # a lost measured value that could not be read again for so long is no value any more
OLD_VITAL_S = 3.0
OLD_TURN_S = 90.0  # of a slow unit: a value that is not lost but waits for its turn
SETTINGS_EVERY_S, OLD_SETTING_S = 600.0, 1800.0
LOST_WAIT_S = 10.0  # before a lost report is asked again; doubled each time
LOST_WAIT_LIMIT_S = 640.0
REFUSED_WAIT_S = 1.0  # some refuse at first, when they have just come back; then ten times as long each time
REFUSED_WAIT_LIMIT_S = 3600.0
NEW_S = 0.5  # an interrupt report that came in so shortly before is as good as asking
INPUTS_LIMIT = 64  # interrupt reports taken in one poll

Key = tuple[str, int]  # (feature | input, report id)


class HidLink(Protocol):
    """A way to a USB power device (agent/hidraw.py, agent/hidusb.py). Reports begin with their id byte, which is 0 if
    the unit has no ids."""

    @property
    def identity(self) -> Identity: ...

    @property
    def descriptor(self) -> bytes: ...

    @property
    def wake_fd(self) -> int | None: ...

    def get(self, kind: str, report: int, length: int) -> Reply | None:
        """A feature or input report of up to `length` bytes; None: the unit refuses it (STALL). LinkError."""
        ...

    def put(self, data: bytes) -> bool:
        """Write a feature report; False: the unit refuses it. LinkError."""
        ...

    def inputs(self, limit: int) -> list[Reply]:
        """The interrupt reports that have come in, without waiting. LinkError if the unit is gone."""
        ...

    def string(self, index: int) -> str | None:
        """A string descriptor; None if this way cannot have it."""
        ...

    def rest(self, seconds: float, /) -> None:
        """Ask nothing for so long."""
        ...

    def close(self) -> None: ...


class Reader:
    """The newest reports of one unit, and the numbers in them."""

    def __init__(self, link: HidLink, quirk: Quirk, now: Callable[[], float]) -> None:
        self._link, self._quirk, self._now = link, quirk, now
        self.descriptor = hid.parse(link.descriptor)
        self.places = hidtable.places(self.descriptor, quirk.drop, quirk.more)
        self.numbered = self.descriptor.numbered
        self._seen: dict[Key, Reply] = {}
        self._refused: dict[Key, tuple[float, float]] = {}  # as _lost
        self._lost: dict[Key, tuple[float, float]] = {}  # key -> (not before this second, wait next time)
        self._began_s = self._measured_s = float("-inf")
        self.said_s: dict[str, float] = {}  # variable -> when the value that `numbers` gave was said
        self._queue: list[Key] = []  # of a round of measuring that is not through
        self._put_off = False  # measuring, for the news of the last poll
        self._until_s = 0.0  # this poll may ask for more
        self._turn: list[Key] = []  # vital reports for which the last poll had no time
        self._starved = False  # the last poll had no time to measure

    def read(self) -> float:
        """One poll: take the interrupt reports, ask the vital reports, then others within their time. The second at
        which the newest report that tells of the mains was complete. LinkError if there is none.

        News of the mains waits for nothing else, for any report may hang when the mains fails: the others come at the
        next poll, which is due at once. Nor does it wait for a slow unit: what does not fit into POLL_S has its turn
        at a later poll."""
        before = self._mains()
        self._began_s = self._now()
        fresh = self._take_inputs()
        taken_s, asked = self._ask_mains(fresh)
        self._until_s = self._now() + POLL_S
        news = self._mains() != before and self._measured_s > float("-inf")
        self._put_off = news and not self._put_off
        if not self._starved and not self._put_off:
            self._ask_vital(fresh, asked)
        self._starved = False
        if not self._put_off and (self._now() - self._measured_s >= MEASURE_EVERY_S or self._queue):
            self._starved = not self._turn and self._now() >= self._until_s
            found = self._measure()
            if found is not None:
                taken_s, _ = self._ask_mains(found)
                self._put_off = True
        self._take_inputs()  # nobody is woken for what is read already
        newest = self._newest("ac") or self._newest("discharging")
        return taken_s if newest is None else max(taken_s, newest[0])

    @property
    def is_due(self) -> bool:
        """The last poll told of the mains alone."""
        return self._put_off

    def numbers(self) -> dict[str, float]:
        """Variable -> its newest value, as the unit says it, in SI units. Ages count from the last `read`."""
        found, self.said_s = {}, {}
        for name in self.places:
            newest = self._newest(name)
            if newest is not None and (value := hid.value(newest[1], newest[2])) is not None:
                found[name], self.said_s[name] = value, newest[0]
        return found

    def feature(self, report: int) -> bytes | None:
        """A feature report as it is now; None: the unit refuses it. LinkError: it is lost, or another one came."""
        key = ("feature", report)
        reply = self._link.get(*key, self.descriptor.lengths[key])
        if reply is not None:
            self._check(key, reply)
        return None if reply is None else reply.data

    def report(self, report: int) -> bytes | None:
        """A feature report of the quirk's own, as it was read last; None: not there, or too old."""
        seen = self._seen.get(("feature", report))
        return seen.data if seen is not None and self._began_s - seen.received_s <= OLD_S else None

    # -- reading

    def _mains(self) -> tuple[int | float | None, ...]:
        """What the newest reports say of the mains."""
        newest = (self._newest(name) for name in ("ac", "discharging"))
        return tuple(hid.value(one[1], one[2]) if one is not None else None for one in newest)

    def _take_inputs(self) -> set[int]:
        """The ids of the interrupt reports that have just come in. Some links read them while they ask: one can have
        waited since the last poll."""
        fresh: set[int] = set()
        for reply in self._link.inputs(INPUTS_LIMIT) if self._quirk.interrupts else ():
            described = self.descriptor.lengths.get(("input", reply.data[0])) if reply.data else None
            if described is not None and len(reply.data) >= described:
                self._seen["input", reply.data[0]] = reply
                if self._now() - reply.received_s <= NEW_S:
                    fresh.add(reply.data[0])
        return fresh

    def _ask_mains(self, fresh: set[int]) -> tuple[float, set[Key]]:
        """Ask what tells of the mains; the second at which it was complete, and what was asked. An interrupt report
        that has just come in is as good as asking, and newer."""
        asked: set[Key] = set()
        while True:  # until the place that tells of the mains has answered: a refusal makes way for the next place
            place = self._place("ac") or self._place("discharging")
            if place is None and self._forgive():
                continue
            if place is None:
                raise LinkError("none of its reports says whether the mains is there")
            if place.input is not None and place.input.report in fresh:
                return self._seen["input", place.input.report].received_s, asked
            key = self._key(place)
            asked.add(key)
            try:
                reply = self._ask(key)
            except LinkError:
                if place.input is None or place.input.report not in self._take_inputs():
                    raise
                return self._seen["input", place.input.report].received_s, asked  # it came while the question hung
            if reply is not None:
                return reply.received_s, asked

    def _forgive(self) -> bool:
        """Where all places of the mains are refused no round of measuring comes to ask again: whether one may be."""
        places = [place for name in ("ac", "discharging") for place in self.places.get(name, ())]
        keys = {(kind, f.report) for p in places for kind, f in (("feature", p.feature), ("input", p.input)) if f}
        due = [key for key in keys if self._refused.get(key, (float("inf"), 0.0))[0] <= self._now()]
        for key in due:
            del self._refused[key]
        return bool(due)

    def _ask_vital(self, fresh: set[int], asked: set[Key]) -> None:
        """Ask what else is vital, as long as there is time; what has not had its turn goes first at the next poll."""
        keys: dict[Key, None] = {}
        for name in hidtable.ESSENTIAL:
            place = self._place(name)
            if place is not None and not (place.input is not None and place.input.report in fresh):
                keys[self._key(place)] = None
        self._turn = [key for key in self._turn or keys if key in keys and key not in asked]
        while self._turn and self._now() < self._until_s:
            key = self._turn.pop(0)
            if self._may_ask(key) and not self._try(key):
                break

    def _measure(self) -> set[int] | None:
        """A round through the other reports; what does not fit into the time goes on at the next poll. It ends when
        the mains changes: the ids of the interrupt reports that have just come in; else None."""
        begin_s, before = self._now(), self._mains()
        budget_s = BUDGET_S if self._measured_s > float("-inf") else FIRST_BUDGET_S
        if not self._queue:
            self._queue = self._wanted()
            self._measured_s = begin_s
        until_s = min(begin_s + budget_s, self._until_s)
        while self._queue and self._now() < until_s:
            key = self._queue.pop(0)
            if self._may_ask(key) and not self._try(key):
                break
            fresh = self._take_inputs()
            if self._mains() != before:
                return fresh
        return None

    def _wanted(self) -> list[Key]:
        """What a round asks for: what was refused and may be asked again, measured values, and fixed ones that are
        not known yet, or may have been set."""
        keys: dict[Key, None] = {key: None for key, (at_s, _) in self._refused.items() if self._now() >= at_s}
        vital = {self._key(place) for name in hidtable.ESSENTIAL if (place := self._place(name)) is not None}
        for name in (*hidtable.MEASURED, *hidtable.FIXED):
            place = self._place(name)
            if place is not None and (key := self._key(place)) not in vital and self._is_due(name, key):
                keys[key] = None
        own = (("feature", report) for report in self._quirk.q1_reports)
        return [*keys, *(key for key in own if key in self.descriptor.lengths and key not in keys)]

    def _is_due(self, name: str, key: Key) -> bool:
        seen = self._seen.get(key)
        if seen is None or name in hidtable.MEASURED:
            return True
        return name in hidtable.SETTINGS and self._now() - seen.received_s >= SETTINGS_EVERY_S

    def _try(self, key: Key) -> bool:
        """Ask for a report that may be lost; False if it was."""
        try:
            self._ask(key)
        except LinkError as e:
            self._lose(key, e)
            return False
        self._lost.pop(key, None)
        return True

    def _ask(self, key: Key) -> Reply | None:
        """None: it is refused. A report that has worked before is not refused but lost."""
        kind, report = key
        reply = self._link.get(kind, report, self.descriptor.lengths[key])
        if reply is None:
            if key in self._seen:
                raise LinkError(f"{kind} report {report:#04x} is refused, and was not before")
            wait_s = self._refused.get(key, (0.0, REFUSED_WAIT_S))[1]
            self._refused[key] = self._now() + wait_s, min(10 * wait_s, REFUSED_WAIT_LIMIT_S)
            log.debug("usbhid: %s report %#04x is refused, asked again in %g s", kind, report, wait_s)
            return None
        self._check(key, reply)
        self._seen[key] = reply
        self._refused.pop(key, None)
        return reply

    def _check(self, key: Key, reply: Reply) -> None:
        if reply.data[:1] != bytes([key[1] if self.numbered else 0]):
            raise LinkError(f"{key[0]} report {key[1]:#04x}: another came: {reply.data[:16].hex(' ')}")

    def _may_ask(self, key: Key) -> bool:
        never = float("-inf"), 0.0
        return self._now() >= max(self._lost.get(key, never)[0], self._refused.get(key, never)[0])

    def _lose(self, key: Key, error: LinkError) -> None:
        wait_s = self._lost.get(key, (0.0, LOST_WAIT_S))[1]
        self._lost[key] = self._now() + wait_s, min(2 * wait_s, LOST_WAIT_LIMIT_S)
        log.info("usbhid: %s report %#04x is lost, asked again in %g s: %s", *key, wait_s, error)

    # -- finding

    def _place(self, name: str) -> Place | None:
        """The first place of a variable that the unit does not refuse."""
        return next((p for p in self.places.get(name, ()) if self._key(p) not in self._refused), None)

    def _key(self, place: Place) -> Key:
        """Asking for the feature is the rule; a field that is an input alone is asked for as one."""
        if place.feature is not None and ("feature", place.feature.report) not in self._refused:
            return "feature", place.feature.report
        if place.input is not None:
            return "input", place.input.report
        return "feature", place.feature.report if place.feature is not None else 0

    def _newest(self, name: str) -> tuple[float, hid.Field, bytes] | None:
        """The newest report of its place; what was lost for long is no value, but for what never changes."""
        place = self._place(name)
        if place is None:
            return None
        seen = [
            (reply.received_s, field, reply.data)
            for kind, field in (("feature", place.feature), ("input", place.input))
            if field is not None and (reply := self._seen.get((kind, field.report))) is not None
        ]
        if not seen:
            return None
        newest = max(seen, key=lambda one: one[0])
        if self._key(place) not in self._lost:
            old_s = OLD_TURN_S
        else:
            old_s = OLD_VITAL_S if name in hidtable.ESSENTIAL else OLD_S
        if name in hidtable.FIXED:
            old_s = OLD_SETTING_S if name in hidtable.SETTINGS else float("inf")
        return newest if self._began_s - newest[0] <= old_s else None
