"""A core for tests of the faces: a real bus server that publishes the views a test gives it and notes its orders."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from agent import bus, busserver, wire
from agent.model import (
    Active,
    Battery,
    Command,
    Condition,
    Event,
    Flow,
    Forecast,
    Ident,
    Line,
    ServerView,
    Source,
    StageView,
    Status,
    View,
)


def on_line(**changes) -> View:
    """A view of a healthy day: simulated UPS on mains, armed, one stage, two servers."""
    now_s = time.monotonic()
    status = Status(
        taken_s=now_s,
        source=Source.MAINS,
        inputs=(Line(voltage_v=230.4, frequency_hz=50.0),),
        outputs=(Line(voltage_v=229.8, load_pct=23.0, power_w=210.0),),
        battery=Battery(
            charge_pct=97.0, runtime_s=2460.0, voltage_v=27.3, flow=Flow.CHARGING, estimated=frozenset({"runtime_s"})
        ),
        ident=Ident(manufacturer="Ridethrough", model="Simulator 1000", firmware="1.0"),
    )
    view = View(
        boot="b", now_s=now_s, wall_s=time.time(), clock_synced=True, version="0.1.0", name="server room",
        started_s=now_s - 100, mode="armed", driver="simulator", link="up", status=status, age_s=0.2,
        commands=frozenset({Command.SIMULATE}), power_failures=3,
        stages=(StageView(name="early", on_battery_s=600.0), StageView(name="default", runtime_below_s=300.0)),
        servers=(
            ServerView(name="nas", address="192.0.2.10", port=6003, how="rccmd", stage="early", needs_s=180.0,
                       state="reachable"),
            ServerView(name="vm-host", address="192.0.2.11", port=6003, how="rccmd", stage="default", needs_s=240.0,
                       state="proven"),
        ),
    )  # fmt: skip
    return replace(view, **changes)


def on_battery(spent_s: float = 134.0, **changes) -> View:
    """The same in an outage, `spent_s` after it began."""
    view = on_line()
    status = replace(
        view.status,
        source=Source.BATTERY,
        inputs=(Line(voltage_v=0.0),),
        battery=replace(
            view.status.battery, charge_pct=81.0, runtime_s=1980.0, voltage_v=25.1, flow=Flow.DISCHARGING
        ),
    )
    active = Active(condition=Condition.ON_BATTERY, since_s=view.now_s - spent_s, since_wall_s=view.wall_s - spent_s)
    early, default = view.stages
    return replace(
        view,
        status=status,
        conditions=(active,),
        phase="countdown",
        outage="00112233445566ff",
        on_battery_s=spent_s,
        stages=(replace(early, due_in_s=600.0 - spent_s), default),
        **changes,
    )


def forecast(**changes) -> View:
    """On mains, with what an outage would bring, who was proven when, and one of the servers not."""
    view = on_line()
    early, default = view.stages
    nas, host = view.servers
    view = replace(
        view,
        stages=(replace(early, forecast_s=600.0), replace(default, forecast_s=1560.0)),
        servers=(
            replace(nas, proof_age_s=300.0),
            replace(host, how="ssh", port=22, proof="the command is allowed", proof_age_s=7300.0,
                    mac="02:00:00:00:00:0b"),
            ServerView(name="backup", address="192.0.2.12", port=6003, how="rccmd", stage="default", needs_s=60.0,
                       proof="Connection refused", proof_age_s=180000.0),
        ),
        forecast=Forecast(runtime_s=2460.0, basis="ups", down_s=1800.0, margin_s=660.0),
    )  # fmt: skip
    return replace(view, **changes)


def committed(**changes) -> View:
    """On battery, every stage triggered, the servers told."""
    view, after = on_battery(700.0), forecast()
    early, default = view.stages
    nas, host, backup = after.servers
    view = replace(
        view,
        phase="committed",
        conditions=(*view.conditions, replace(view.conditions[0], condition=Condition.SHUTDOWN_IMMINENT)),
        stages=(
            replace(early, latched=True, why="on-battery 600", due_in_s=None),
            replace(default, latched=True, why="low-battery"),
        ),
        servers=(
            replace(nas, delivery="delivered-unconfirmed", attempts=1),
            replace(host, delivery="accepted", attempts=1),
            replace(backup, delivery="not-delivered", attempts=7, detail="Connection refused"),
        ),
        off_in_s=200.0,
        commands=frozenset({Command.SIMULATE, Command.SHUTDOWN_RETURN}),
    )
    return replace(view, **changes)


def recovery(wake_in_s: float = 270.0, **changes) -> View:
    """Mains for good: the servers are woken in `wake_in_s`, or are being woken."""
    view, told = forecast(), committed()
    wakes = ("back", "waking", "by-hand") if wake_in_s == 0 else ("waiting", "waiting", "by-hand")
    servers = tuple(replace(s, wake=w) for s, w in zip(told.servers, wakes, strict=True))
    view = replace(
        view, phase="recovery", outage=told.outage, stages=told.stages, servers=servers, wake_in_s=wake_in_s,
        wake_charge_pct=30.0, forecast=None,
    )  # fmt: skip
    return replace(view, **changes)


def planned(**changes) -> View:
    """On mains, somebody has ordered the first stage down."""
    view = forecast()
    first, second = view.stages
    nas, host, backup = view.servers
    view = replace(
        view, phase="planned", outage="00112233445566ff", forecast=None, off_in_s=None,
        stages=(replace(first, latched=True, why="planned"), second),
        servers=(replace(nas, delivery="delivered-unconfirmed"), host, backup),
    )  # fmt: skip
    return replace(view, **changes)


def no_data(**changes) -> View:
    """The UPS has been silent for 35 s."""
    view = on_line()
    active = Active(condition=Condition.COMM_LOST, since_s=view.now_s - 20, since_wall_s=view.wall_s - 20)
    return replace(
        view, status=None, link="down", link_detail="no answer to Q1", age_s=35.0, conditions=(active,),
        commands=frozenset(), **changes,
    )  # fmt: skip


def event(number: int, kind: str, name: str, **more) -> Event:
    """A row of the log."""
    return Event(id=number, kind=kind, name=name, wall_s=time.time() - 60, clock_synced=True, **more)


class FakeCore:
    """Publishes views on a real bus; `orders` are the requests it was given. A context manager."""

    def __init__(self, path: Path | str, view: View | None = None) -> None:
        self.path = str(path)
        self.orders: list[dict] = []
        self.queries = 0
        self.events: list[Event] = [event(1, "note", "started", text="0.1.0")]
        self.refuse: str | None = None
        self.sender_pem = "-----BEGIN CERTIFICATE-----\nc2VuZGVy\n-----END CERTIFICATE-----\n"
        self.react = lambda order: None
        self.view = view or on_line()
        self._server = busserver.Server(
            self.path, self._answer, lambda: [self._line()], lambda uid: uid == os.getuid()
        )
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._server.run, daemon=True),
            threading.Thread(target=self._server.run_requests, daemon=True),
            threading.Thread(target=self._tick, daemon=True),
        ]

    def __enter__(self) -> FakeCore:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._server.stop()
        self._threads[0].join(5)  # the socket is closed; the others end by themselves

    def publish(self, view: View) -> None:
        """From now on this is how things are."""
        self.view = view
        self._server.publish(self._line())

    def log(self, kind: str, name: str, **more) -> None:
        """One more row; published with the next view."""
        self.events.append(event(self.events[-1].id + 1, kind, name, **more))

    def _line(self) -> bytes:
        view = replace(self.view, last_event_id=self.events[-1].id)
        return bus.encode({"type": "status", "view": wire.to_json(view)})

    def _tick(self) -> None:
        """As the core: each second a view, in which time goes on."""
        while not self._stop.wait(1.0):
            view, now_s = self.view, time.monotonic()
            gone_s = now_s - view.now_s
            if view.on_battery_s is not None:
                stages = tuple(
                    s if s.due_in_s is None else replace(s, due_in_s=max(0.0, s.due_in_s - gone_s))
                    for s in view.stages
                )
                view = replace(view, on_battery_s=view.on_battery_s + gone_s, stages=stages)
            names = ("off_in_s", "wake_in_s", "drill_left_s")
            left = {n: max(0.0, left_s - gone_s) for n in names if (left_s := getattr(view, n)) is not None}
            self.publish(replace(view, now_s=now_s, wall_s=time.time(), **left))

    def _answer(self, message: bus.Message, peer: busserver.Peer) -> bus.Message:
        if self.refuse:
            raise bus.BusError(self.refuse)
        if message.get("type") in ("command", "protect"):
            self.orders.append(message)
            self.react(message)
            return {}
        if message.get("type") == "pin":
            self.orders.append(message)
            self.react(message)
            return {"sender_pem": self.sender_pem}
        if message.get("what") == "status":
            return {"view": wire.to_json(self.view)}
        self.queries += 1
        since, limit = message.get("since"), message["limit"]
        rows = self.events[-limit:] if since is None else [e for e in self.events if e.id > since]
        return {"events": [wire.to_json(e) for e in rows[:limit]], "more": len(rows) > limit}
