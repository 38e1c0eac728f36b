"""What many tests use: a clock that stands still until it is told, and an engine played second by second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent import bus, wire
from agent.config import Config, Server, Stage
from agent.curve import Curve
from agent.engine import Engine, NewConfig, Wish
from agent.errands import Orders, Report
from agent.model import Active, Battery, Command, Condition, Event, Line, Rating, Source, Status, View
from agent.store import Memory
from agent.ups import Polled

MAINS, BATTERY = Source.MAINS, Source.BATTERY


class FakeClock:
    def __init__(self, mono_s: float = 1000.0, wall_s: float = 1_800_000_000.0) -> None:
        self.now_s, self.offset_s, self.is_synced = mono_s, wall_s - mono_s, True

    def mono_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s + self.offset_s

    def synced(self) -> bool:
        return self.is_synced


class FakeHistory:
    def __init__(self) -> None:
        self.failed = ""
        self.events: list[Event] = []
        self.settled: tuple[Active, ...] = ()
        self.counters: dict[str, int] = {}
        self.samples: list[tuple[Any, ...]] = []
        self.clock_sets: list[float] = []

    def record(
        self, events: Sequence[Event], settled: Sequence[Active] | None, boot: str, counters: Mapping[str, int]
    ) -> None:
        self.events.extend(events)
        if settled is not None:
            self.settled = tuple(settled)
        self.counters = dict(counters)

    def record_samples(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self.samples.extend(rows)

    def clock_set(self, boot: str, wall_minus_mono_s: float) -> None:
        self.clock_sets.append(wall_minus_mono_s)


class FakeKeeper:
    def __init__(self) -> None:
        self.failed = ""
        self.kept: bytes | None = None
        self.works = True

    def keep(self, data: bytes, within_s: float) -> bool:
        if self.works:
            self.kept = data
        return self.works


def look(
    source: Source = MAINS,
    *,
    low: bool = False,
    runtime_s: float | None = 1800.0,
    charge_pct: float | None = 100.0,
    volts: float | None = None,
    flags: frozenset[Condition] = frozenset(),
    guessed: frozenset[str] = frozenset(),
    at_s: float = 0.0,
) -> Status:
    """A plausible frame."""
    if volts is None:
        volts = 0.0 if source is BATTERY else 230.0
    return Status(
        taken_s=at_s,
        source=source,
        inputs=(Line(voltage_v=volts, frequency_hz=50.0),),
        outputs=(Line(voltage_v=230.0, load_pct=30.0),),
        battery=Battery(charge_pct=charge_pct, runtime_s=runtime_s, low=low, estimated=guessed),
        rating=Rating(input_voltage_v=230.0),
        flags=flags,
    )


TWO_STAGES = (Stage(name="first", on_battery_s=60.0), Stage(name="last", runtime_below_s=300.0))
TWO_SERVERS = (
    Server(name="web", address="127.0.0.1", port=6003, stage="first", needs_s=60.0),
    Server(name="files", address="127.0.0.1", port=6004, stage="last", needs_s=120.0),
)


class Play:
    """An engine on a fake clock. Each call of a verb takes one second: a poll, then a tick half a second later."""

    def __init__(
        self,
        *,
        stages: tuple[Stage, ...] = TWO_STAGES,
        servers: tuple[Server, ...] = TWO_SERVERS,
        mode: str = "armed",
        boot: str = "boot-a",
        after: Play | None = None,
        off_return: str = "no",
        previous: tuple[Server, ...] = (),
        **more: Any,
    ) -> None:
        """`after`: an earlier play whose process ended; this one resumes from its slots and history.
        `more`: of the configuration."""
        self.off_return = off_return
        self.clock = after.clock if after else FakeClock()
        self.history = after.history if after else FakeHistory()
        self.keeper = after.keeper if after else FakeKeeper()
        self.boot = boot
        self.published: list[Mapping[str, Any]] = []
        self.orders: list[Orders] = []
        self.hurries: list[float] = []
        self.learned: list[Curve] = []
        self.powered: list[tuple[Command, dict[str, Any]]] = []
        self.failed_polls = 0
        last_id = self.history.events[-1].id if self.history.events else 0
        self.engine = Engine(
            boot=boot,
            clock=self.clock,
            history=self.history,
            keeper=self.keeper,
            memory=Memory(
                settled=self.history.settled,
                settled_boot=after.boot if after else "",
                counters=self.history.counters,
                last_event_id=last_id,
            ),
            remembered=self.keeper.kept,
            previous=previous or (after.config.servers if after else ()),
            publish=self.published.append,
            order=self.orders.append,
            power=lambda command, args: self.powered.append((command, dict(args))),
            hurry=self.hurries.append,
            curve=after.learned[-1] if after and after.learned else None,
            learned=self.learned.append,
        )
        self.config = Config(stages=stages, servers=servers, mode=mode, driver="megatec", **more)
        self.engine.turn(NewConfig(self.config, note=False))

    def second(self, status: Status | None) -> None:
        """One poll that brought this, or nothing."""
        if status is None:
            self.failed_polls += 1
            polled = Polled(None, "silence", self.failed_polls, "up", frozenset(), self.off_return)
        else:
            self.failed_polls = 0
            polled = Polled(replace(status, taken_s=self.clock.now_s), "", 0, "up", frozenset(), self.off_return)
        self.engine.turn(polled)
        self.clock.now_s += 0.5
        self.engine.turn(None)
        self.clock.now_s += 0.5

    def mains(self, seconds: int, **more: Any) -> None:
        for _ in range(seconds):
            self.second(look(MAINS, **more))

    def battery(self, seconds: int, **more: Any) -> None:
        for _ in range(seconds):
            self.second(look(BATTERY, **more))

    def silence(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second(None)

    def report(self, server: str, delivery: str, **more: Any) -> None:
        """The delivery says this of a server."""
        outage = self.engine.view.outage
        self.engine.turn(Report(server=server, delivery=delivery, outage=outage, attempts=1, **more))

    def wish(self, do: str, stage: str = "") -> str:
        """An administrator asks for this; why not, or ''."""
        wish = Wish(do, stage, {"command": do, "user": "admin"})
        self.engine.turn(wish)
        return wish.error

    @property
    def tell(self) -> tuple[str, ...]:
        """Whom the delivery is to tell now."""
        return tuple(s.name for s in self.orders[-1].tell) if self.orders else ()

    @property
    def view(self) -> View:
        return self.engine.view

    def so(self) -> set[str]:
        """The conditions that are so."""
        return {a.condition.value for a in self.engine.view.conditions}

    def names(self, kind: str | None = None) -> list[str]:
        """The names of the log's rows, all or of one kind."""
        return [e.name for e in self.history.events if kind is None or e.kind == kind]

    def last_view(self) -> View:
        """The newest view as the bus has it."""
        found = [m for m in self.published if m["type"] == "status"]
        return wire.from_json(View, bus.decode(bus.encode(dict(found[-1])))["view"])
