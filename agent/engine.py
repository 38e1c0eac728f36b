"""The engine: takes each look at the UPS through protection and rules, and tells everybody what came of it.

frame -> guard: protection.step -> orders to the delivery     (first, and on raw frames)
      -> rules.settle -> conditions -> events -> log, bus

One thread owns an Engine and calls `turn` for every item and every half second; the clock is handed in, so tests
play hours in a moment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from . import forecast, portrait, rules
from .config import Config, Server
from .curve import NOBODY, Curve, Learner, is_another, known_as, shown
from .errands import Orders, Report, Said
from .guard import Guard, Keeps, Ordered
from .lasttest import LastTest
from .model import Active, Command, Condition, Event, Ident, OrderError, Status, View
from .outage import Phase
from .store import Memory, Samples, measurements
from .ups import Polled

log = logging.getLogger(__name__)

TICK_S = 0.5
VIEW_S = 1.0  # the bus hears something at least so often
VIEW_GAP_S = 0.2  # a thousand reports in a second are not a thousand views
LEARN_EVERY_S = 60.0
SILENT_TICKS = 10
FLUSH_LINE_S, FLUSH_BATTERY_S = 900.0, 10.0
CLOCK_STEP_S = 2.0  # a jump of the wall clock against the monotonic one that is worth a note


class Clock(Protocol):
    """Time, handed in."""

    def mono_s(self) -> float: ...
    def wall_s(self) -> float: ...
    def synced(self) -> bool: ...


class History(Protocol):
    """What the engine needs of the store."""

    failed: str

    def record(
        self, events: Sequence[Event], settled: Sequence[Active] | None, boot: str, counters: Mapping[str, int]
    ) -> None: ...
    def record_samples(self, rows: Sequence[tuple[int, str, int, float, float, float, int]]) -> None: ...
    def clock_set(self, boot: str, wall_minus_mono_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class NewConfig:
    """The configuration is this now; `problems` of the file, and whether the protecting parts of it are in force."""

    config: Config
    problems: tuple[str, ...] = ()
    protecting_bad: bool = False
    note: bool = True


@dataclass(frozen=True, slots=True)
class Note:
    """A moment worth a row in the log: started, command, clock-set, ..."""

    name: str
    text: str = ""
    data: Mapping[str, str] | None = None


class Wish:
    """Something an administrator asks of protection (see Guard.wish); `done` is set when it is answered."""

    def __init__(self, do: str, stage: str, data: Mapping[str, str]) -> None:
        """`data`: who asked, for the audit row."""
        self.do, self.stage, self.data = do, stage, data
        self.done = threading.Event()
        self.error = ""


Item = Polled | Report | Said | NewConfig | Note | Wish | Ordered | None


class Engine:
    """See the module. `publish` gets bus messages of values of the model; `order`, `power`, `hurry` are the guard's
    (agent/guard.py). `curve` was learned before; `learned` gets a newer one to keep."""

    def __init__(
        self,
        *,
        boot: str,
        clock: Clock,
        history: History,
        keeper: Keeps,
        memory: Memory,
        remembered: bytes | None,
        publish: Callable[[Mapping[str, object]], None],
        order: Callable[[Orders], None],
        power: Callable[[Command, Mapping[str, Any]], None],
        hurry: Callable[[float], None],
        previous: tuple[Server, ...] = (),
        curve: Curve | None = None,
        learned: Callable[[Curve], None] = lambda curve: None,
    ) -> None:
        self._boot, self._clock, self._history, self._publish = boot, clock, history, publish
        self._started_s = now_s = clock.mono_s()
        self._guard = Guard(
            boot=boot,
            now_s=now_s,
            keeper=keeper,
            remembered=remembered,
            order=order,
            power=power,
            hurry=hurry,
            previous=previous,
        )
        self._curve, self._keep_curve = curve, learned
        self._learner: Learner | None = None
        self._who = curve.of if curve else NOBODY
        self._curve_kept_s = now_s
        self._silent_ticks, self._tick_s = 0, now_s
        self._config, self._protecting_bad = Config(), True
        self._problems: tuple[str, ...] = ()
        self._settled = rules.Settled(
            conditions=frozenset(a.condition for a in memory.settled),
            input_bads=(memory.counters or {}).get("input-bads", 0),
        )
        same = memory.settled_boot == boot
        self._active = {a.condition: a if same else replace(a, since_s=now_s) for a in memory.settled}
        self._counters = {"power-failures": 0, "seconds-on-battery": 0, **(memory.counters or {})}
        self._battery_counted_s = now_s
        self._last_id, self._last_test = memory.last_event_id, LastTest()
        self._status: Status | None = None
        self._polled = Polled(None, "", 0, "starting", frozenset())
        self._polls = self._poll_errors = 0
        self._samples = Samples()
        self._flushed_s = self._viewed_s = now_s
        self._synced = clock.synced()
        self._wall_offset_s = clock.wall_s() - now_s
        self._fresh = True  # something changed since the last view
        self.turned_s = now_s
        self.view = self._look_around(now_s)

    def turn(self, *items: Item) -> None:
        """What came in since the last turn, at most one poll among it; None for a tick."""
        now_s = self.turned_s = self._clock.mono_s()
        events: list[Event] = []
        look: Status | None = None
        self._count_silence(items, now_s)
        for item in items:
            if isinstance(item, Polled):
                look = self._take_polled(item, now_s, events)
            elif item is not None:
                self._take(item, now_s, events)
        notices = self._guard.step(look, now_s, self._failed_polls())
        events += [self._note(notice.name, "", notice.data, now_s) for notice in notices]
        self._learn(look, now_s)
        self._settle(look, now_s, events)
        self._last_test.hear(events, now_s)
        self._watch_clock(now_s, events)
        self._record(events)
        if look is not None:
            self._sample(look, now_s)
        self._fresh = self._fresh or bool(events)
        quiet_s = now_s - self._viewed_s
        wishes = [item for item in items if isinstance(item, Wish)]
        if (
            look is not None
            or wishes
            or isinstance(items[-1], Polled)
            or quiet_s >= (VIEW_GAP_S if self._fresh else VIEW_S)
        ):
            self._fresh, self._viewed_s = False, now_s
            self.view = self._look_around(now_s)
            self._publish({"type": "status", "view": self.view})
        for wish in wishes:
            wish.done.set()  # whoever asked sees what came of it

    def greeting(self) -> list[Mapping[str, object]]:
        """What a new subscriber hears first: the view, and once more what is so."""
        again = rules.still_so(self._settled.conditions)
        return [{"type": "status", "view": self.view}, *({"type": "event", "event": event} for event in again)]

    # -- what comes in

    def _take_polled(self, polled: Polled, now_s: float, events: list[Event]) -> Status | None:
        self._polls += 1
        self._poll_errors += polled.status is None
        self._polled = polled
        self._guard.can_switch_off(polled.off_return)
        if polled.status is None:
            return None
        self._know(polled.status.ident, now_s, events)
        self._status = forecast.filled(polled.status, self._curve, self._config.full_load_minutes)
        return self._status

    def _know(self, ident: Ident, now_s: float, events: list[Event]) -> None:
        """Another UPS in the place of the one that was: it is said, and what the old battery taught is set aside."""
        if is_another(self._who, ident):
            events.append(self._note("ups-changed", "", {"old": shown(self._who), "new": shown(ident)}, now_s))
            self._curve, self._learner, self._who = None, None, NOBODY
            self._keep_curve(Curve(of=known_as(NOBODY, ident)))
        self._who = known_as(self._who, ident)

    def _take(
        self, item: Report | Said | NewConfig | Note | Wish | Ordered, now_s: float, events: list[Event]
    ) -> None:
        self._fresh = True
        if isinstance(item, Report):
            self._guard.report(item, now_s)
        elif isinstance(item, Said):
            self._guard.said(item)
        elif isinstance(item, NewConfig):
            self._take_config(item, now_s, events)
        elif isinstance(item, Note):
            events.append(self._note(item.name, item.text, item.data, now_s))
        elif isinstance(item, Ordered):
            events += [self._note(n.name, "", n.data, now_s) for n in self._guard.ordered(item)]
        else:
            self._take_wish(item, now_s, events)

    def _take_wish(self, wish: Wish, now_s: float, events: list[Event]) -> None:
        """Do it, and leave an audit row."""
        try:
            notices = self._guard.wish(wish.do, wish.stage, now_s)
        except OrderError as e:
            wish.error, notices = str(e), []
        outcome = "refused" if wish.error else "done"
        events.append(self._note("command", wish.error, {**wish.data, "outcome": outcome}, now_s))
        events += [self._note(notice.name, "", notice.data, now_s) for notice in notices]

    def _take_config(self, new: NewConfig, now_s: float, events: list[Event]) -> None:
        self._config, self._problems, self._protecting_bad = new.config, new.problems, new.protecting_bad
        self._guard.configure(new.config)
        if new.note:
            events.append(self._note("config-changed", "; ".join(new.problems)[:500], None, now_s))

    # -- what follows from it

    def _settle(self, look: Status | None, now_s: float, events: list[Event]) -> None:
        before = self._settled
        known = rules.Known(
            on_battery=self._guard.state.on_battery,
            shutting_down=self._guard.state.phase in (Phase.COMMITTED, Phase.OFF_ARMED),
            age_s=self._age_s(now_s),
            failed_polls=self._failed_polls(),
            not_protected=self._protecting_bad or (self._config.mode == "armed" and not self._config.servers),
            config_error=bool(self._problems),
            storage_failed=bool(self._history.failed or self._guard.failed),
            server_unproven=self._guard.is_unproven(now_s),
        )
        self._settled = rules.settle(before, look, known, now_s)
        for kind, condition in rules.changes(before.conditions, self._settled.conditions):
            events.append(self._event(kind, condition.value, "", None, now_s))
            if kind == "began":
                self._active[condition] = Active(
                    condition=condition, since_s=now_s, since_wall_s=self._clock.wall_s()
                )
                self._counters["power-failures"] += condition is Condition.ON_BATTERY
            else:
                self._active.pop(condition, None)
        if self._guard.state.on_battery:
            whole_s = int(now_s - self._battery_counted_s)
            self._counters["seconds-on-battery"] += whole_s
            self._battery_counted_s += whole_s
        else:
            self._battery_counted_s = now_s
        self._counters["input-bads"] = self._settled.input_bads

    def _learn(self, look: Status | None, now_s: float) -> None:
        """Watch the battery run down. What is learned is kept every minute, because the board may go with the UPS."""
        state = self._guard.state
        if not state.battery_now():
            if self._learner is not None:
                self._learner.pause()
                if state.outage is None or state.phase is Phase.RECOVERY:
                    self._curve, self._learner = self._taught(self._learner), None
            return
        if look is None:
            return
        if self._learner is None:
            self._learner, self._curve_kept_s = Learner(), now_s
        self._learner.see(look.taken_s, look.battery.charge_pct, forecast.load_pct(look), forecast.is_guessed(look))
        if now_s - self._curve_kept_s >= LEARN_EVERY_S:
            self._curve_kept_s = now_s
            self._taught(self._learner)

    def _taught(self, learner: Learner) -> Curve | None:
        """The curve with what this outage has taught, kept; the old one if that was too little."""
        newer = learner.finish(self._who)
        if newer is None:
            return self._curve
        curve = (self._curve or Curve()).merge(newer)
        self._keep_curve(curve)
        return curve

    def _watch_clock(self, now_s: float, events: list[Event]) -> None:
        """The wall clock is for people: when it is set, earlier rows of this boot get their real time."""
        offset_s = self._clock.wall_s() - now_s
        synced = self._clock.synced()
        if abs(offset_s - self._wall_offset_s) > CLOCK_STEP_S or (synced and not self._synced):
            step_s = offset_s - self._wall_offset_s
            self._wall_offset_s, self._synced = offset_s, synced
            self._active = {c: replace(a, since_wall_s=a.since_s + offset_s) for c, a in self._active.items()}
            events.append(self._note("clock-set", "", {"step_s": f"{step_s:.0f}"}, now_s))
            if synced:
                self._history.clock_set(self._boot, offset_s)
        else:
            self._wall_offset_s, self._synced = offset_s, synced  # slewed, a little at a time

    def _record(self, events: list[Event]) -> None:
        if not events:
            return
        changed = any(e.kind != "note" or e.name == "clock-set" for e in events)
        settled = sorted(self._active.values(), key=lambda a: a.condition.value) if changed else None
        self._history.record(events, settled, self._boot, self._counters)
        for event in events:
            log.info("event %d: %s %s %s", event.id, event.kind, event.name, " ".join(event.data.values()))
            self._publish({"type": "event", "event": event})

    def _sample(self, look: Status, now_s: float) -> None:
        if self._synced:
            self._samples.add(measurements(look), self._clock.wall_s())
        every_s = FLUSH_BATTERY_S if self._guard.state.on_battery else FLUSH_LINE_S
        if now_s - self._flushed_s >= every_s:
            self.flush(now_s)

    def flush(self, now_s: float) -> None:
        """Hand the collected measurements to the history."""
        self._flushed_s = now_s
        self._history.record_samples(self._samples.take())

    # -- small things

    def _age_s(self, now_s: float) -> float:
        return now_s - (self._started_s if self._status is None else self._status.taken_s)

    def _count_silence(self, items: tuple[Item, ...], now_s: float) -> None:
        """Ticks, and not seconds: while we were stopped nobody could have heard the UPS. Only a poll shows that the
        ups thread lives."""
        if any(isinstance(item, Polled) for item in items):
            self._silent_ticks, self._tick_s = 0, now_s
        elif now_s - self._tick_s >= 0.9 * TICK_S:
            self._silent_ticks, self._tick_s = self._silent_ticks + 1, now_s

    def _failed_polls(self) -> int:
        """Polls in a row that brought nothing; an ups thread that hangs counts as one for every 5 s of our ticks."""
        return self._polled.failed_polls + self._silent_ticks // SILENT_TICKS

    def _look_around(self, now_s: float) -> View:
        return portrait.view(
            portrait.Facts(
                boot=self._boot,
                now_s=now_s,
                wall_s=self._clock.wall_s(),
                clock_synced=self._synced,
                started_s=self._started_s,
                config=self._config,
                problems=self._problems,
                polled=self._polled,
                status=self._status,
                state=self._guard.state,
                plan=self._guard.plan,
                seen=self._guard.telling.seen(self._config.mode),
                curve=self._curve,
                drill_left_s=self._guard.drill.left_s(now_s) if self._guard.drill else None,
                active=self._active,
                servers=self._guard.telling.views(self._guard.state, now_s),
                counters=self._counters,
                polls=self._polls,
                poll_errors=self._poll_errors,
                last_event_id=self._last_id,
                last_test=self._last_test,
            )
        )

    def _note(self, name: str, text: str, data: Mapping[str, str] | None, now_s: float) -> Event:
        return self._event("note", name, text, data, now_s)

    def _event(self, kind: str, name: str, text: str, data: Mapping[str, str] | None, now_s: float) -> Event:
        self._last_id += 1
        return Event(
            id=self._last_id,
            kind=kind,
            name=name,
            text=text,
            boot=self._boot,
            mono_s=now_s,
            wall_s=self._clock.wall_s(),
            clock_synced=self._synced,
            data=data or {},
        )
