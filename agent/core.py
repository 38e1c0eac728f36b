"""`ridethrough core`: reads the UPS, decides, and tells the servers. Knows nothing of web or SNMP.

Threads: ups (owns the link), engine, delivery, resolver, bus, requests, store, slots. An uncaught exception in any
of them ends the process; whoever started it starts it again, and it resumes where it was.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from . import bus, busserver, config, drivers, link, wire
from .config import Config
from .deliver import Delivery
from .engine import TICK_S, Engine, Item, NewConfig, Note
from .model import VERSION, Command, ConfigError, Driver, LinkError, OrderError
from .process import follow_parent, last_good, load, notify
from .slots import Keeper
from .store import Store
from .ups import Polled, Ups
from .vault import write_private

log = logging.getLogger(__name__)

INBOX_LIMIT = 10_000
WATCHDOG_ENGINE_S, WATCHDOG_LOOPS_S = 3.0, 10.0
TIMESYNC = Path("/run/systemd/timesync")
BUILT_WALL_S = 1_767_225_600.0  # 2026-01-01: a clock before this is certainly wrong


class SystemClock:
    """The real time."""

    def mono_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()

    def synced(self) -> bool:
        """Has the clock been set? systemd-timesyncd says so in a file; without it, a plausible year must do."""
        if TIMESYNC.is_dir():
            return (TIMESYNC / "synchronized").exists()
        return time.time() > BUILT_WALL_S


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


class Core:
    """Wires the threads together."""

    def __init__(self, path: Path) -> None:
        """Reads the configuration at `path`. ConfigError if nothing of it can be used."""
        self._path = path
        self._stop = threading.Event()
        self._reload = threading.Event()
        first, problems = load(path)
        self._folder = Path(first.state_dir) / "core"
        self._run_dir = Path(first.run_dir)
        self._lock = self._lock_state()
        new = self._choose(first, problems)
        self._config = new.config
        self._inbox: queue.Queue[Item] = queue.Queue(maxsize=INBOX_LIMIT)
        self._keeper = Keeper(self._folder / "slots")
        self._store = Store(self._folder / "history.sqlite")
        kept, damaged = self._keeper.read()
        memory = self._store.start()
        self._delivery = Delivery(self._inbox.put)
        self._ups = Ups(self._open, self._take, self._config.poll_s)
        self._server = busserver.Server(
            str(self._run_dir / "core.sock"),
            self._answer,
            self._greeting,
            lambda uid: uid in (0, os.getuid()),
        )
        self._engine = Engine(
            boot=boot_id(),
            clock=SystemClock(),
            history=self._store,
            keeper=self._keeper,
            memory=memory,
            remembered=kept,
            publish=lambda message: self._server.publish(bus.encode(dict(message))),
            order=self._delivery.order,
            hurry=self._ups.hurry,
        )
        self._delivery.plan(self._config.servers)
        self._inbox.put(NewConfig(new.config, new.problems, new.protecting_bad, note=False))
        self._inbox.put(Note("started", VERSION))
        if damaged:
            self._inbox.put(Note("state-lost", "both slots of the protection state were unreadable"))

    def _lock_state(self) -> int | None:
        """One core at a time on a state folder. Without a writable disk the core protects all the same."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            log.error("%s: %s: protection works, but nothing is remembered", self._folder, e.strerror)
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise ConfigError(f"another core already runs on {self._folder}") from None
        return fd

    def _choose(self, found: Config, problems: tuple[config.Problem, ...]) -> NewConfig:
        """The configuration to use: what was found, or its protecting parts from the last good one."""
        texts = tuple(p.text for p in problems)
        keep = last_good(found)
        if not any(p.section in config.PROTECTING for p in problems):
            try:
                data = self._path.read_bytes()
                if not keep.exists() or keep.read_bytes() != data:
                    write_private(keep, data)
            except OSError as e:
                log.error("%s: %s: this configuration would not survive a mistake in the next", keep, e.strerror)
            return NewConfig(found, texts)
        for text in texts:
            log.error("configuration: %s", text)
        try:
            kept, old_problems = load(keep)
        except ConfigError:
            log.error("no last good configuration: nothing is protected until the file is mended")
            return NewConfig(found, texts, protecting_bad=True)
        if any(p.section in config.PROTECTING for p in old_problems):
            return NewConfig(found, texts, protecting_bad=True)
        log.error("the last good configuration stays in force")
        return NewConfig(kept, texts, protecting_bad=True)

    # -- the threads

    def run(self) -> int:
        """Until SIGTERM or SIGINT; 0."""
        threading.excepthook = _die
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        follow_parent(self._stop)
        bodies: Mapping[str, Callable[[], None]] = {
            "slots": lambda: self._keeper.run(self._stop),
            "store": lambda: self._store.run(self._stop),
            "bus": self._server.run,
            "requests": self._server.run_requests,
            "resolver": lambda: self._delivery.run_resolver(self._stop),
            "delivery": lambda: self._delivery.run(self._stop),
            "ups": lambda: self._ups.run(self._stop),
            "engine": self._run_engine,
        }
        threads = [threading.Thread(target=body, name=name, daemon=True) for name, body in bodies.items()]
        for thread in threads:
            thread.start()
        log.info("core %s runs: driver %s, mode %s", VERSION, self._config.driver, self._config.mode)
        notify("READY=1")
        while not self._stop.wait(1.0):
            if self._reload.is_set():
                self._reload.clear()
                self._load_again()
            self._feed_watchdog()
        self._server.stop()
        self._ups.wake()
        self._delivery.wake()
        for thread in threads:
            thread.join(6.0)
        return 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        (self._reload if number == signal.SIGHUP else self._stop).set()

    def _run_engine(self) -> None:
        while not self._stop.is_set():
            try:
                item: Item = self._inbox.get(timeout=TICK_S)
            except queue.Empty:
                item = None
            self._engine.turn(item)
        self._engine.flush(time.monotonic())

    def _feed_watchdog(self) -> None:
        """Tell systemd that all is well, only when engine, ups and delivery really move."""
        now_s = time.monotonic()
        moving = (
            now_s - self._engine.turned_s < WATCHDOG_ENGINE_S
            and now_s - self._ups.turned_s < WATCHDOG_LOOPS_S
            and now_s - self._delivery.turned_s < WATCHDOG_LOOPS_S
        )
        if moving:
            notify("WATCHDOG=1")

    def _load_again(self) -> None:
        """SIGHUP: read the file again; the driver itself changes with the next start."""
        try:
            found, problems = load(self._path)
        except ConfigError as e:
            log.error("configuration: %s", e)
            self._inbox.put(NewConfig(self._config, (str(e),), protecting_bad=True))
            return
        new = self._choose(found, problems)
        if new.protecting_bad:
            new = NewConfig(self._config, new.problems, protecting_bad=True)
        elif (new.config.driver, new.config.ups, new.config.poll_s) != (
            self._config.driver,
            self._config.ups,
            self._config.poll_s,
        ):
            log.warning("[ups] changed: it takes effect when the core is started again")
        self._config = new.config
        self._delivery.plan(new.config.servers)
        self._inbox.put(new)

    # -- what the threads need of each other

    def _open(self) -> Driver:
        """Connect to the UPS. LinkError if that is not possible now."""
        if not self._config.driver:
            raise LinkError("no driver is configured")
        module: ModuleType = drivers.load(self._config.driver)
        names = {o.name for o in module.OPTIONS}
        section = {k: v for k, v in self._config.ups.items() if k in names}
        opened = link.open(self._config.ups, time.monotonic) if module.LINK == "serial" else None
        try:
            driver: Driver = module.connect(section, opened, time.monotonic)
        except LinkError:
            if opened is not None:
                opened.close()
            raise
        return driver

    def _take(self, polled: Polled) -> None:
        self._inbox.put(polled)

    def _greeting(self) -> list[bytes]:
        return [bus.encode(dict(message)) for message in self._engine.greeting()]

    def _answer(self, message: bus.Message, peer: busserver.Peer) -> bus.Message:
        """One request from the bus. BusError says why not."""
        kind = message.get("type")
        if kind == "query" and message.get("what") == "status":
            return {"view": wire.to_json(self._engine.view)}
        if kind == "query" and message.get("what") == "events":
            since, limit = message.get("since"), message.get("limit", 100)
            if not (since is None or type(since) is int) or type(limit) is not int:
                raise bus.BusError("since and limit must be whole numbers")
            events, more = self._store.events(since, limit)
            return {"events": [wire.to_json(e) for e in events], "more": more}
        if kind == "command":
            return self._command(message, peer)
        raise bus.BusError("no such request")

    def _command(self, message: bus.Message, peer: busserver.Peer) -> bus.Message:
        try:
            command = Command(message.get("command"))
        except ValueError:
            names = ", ".join(c.value for c in Command)
            raise bus.BusError(f"no such command; there are: {names}") from None
        args: Any = message.get("args") or {}
        origin: Any = message.get("origin") or {}
        if not isinstance(args, dict) or not isinstance(origin, dict):
            raise bus.BusError("args and origin must be objects")
        data = {
            "command": command.value,
            "args": " ".join(f"{k}={v}" for k, v in args.items())[:200],
            "user": str(origin.get("user", f"uid {peer.uid}"))[:64],
            "address": str(origin.get("address", ""))[:64],
        }
        try:
            self._ups.order(command, {str(k): v for k, v in args.items()})
        except OrderError as e:
            self._inbox.put(Note("command", str(e), {**data, "outcome": "refused"}))
            raise bus.BusError(str(e)) from e
        self._inbox.put(Note("command", "", {**data, "outcome": "done"}))
        return {}


def _die(args: threading.ExceptHookArgs) -> None:
    """A thread that dies takes the process with it: half a core protects nobody."""
    name = args.thread.name if args.thread else "?"
    log.critical("thread %s died", name, exc_info=args.exc_value)
    sys.stderr.flush()
    os._exit(70)


def main(path: Path) -> int:
    """Run the core with the configuration at `path`."""
    return Core(path).run()
