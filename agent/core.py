"""`ridethrough core`: reads the UPS, decides, and tells the servers. Knows nothing of web or SNMP.

Threads: ups (owns the link), engine, delivery, book, bus, requests, store, slots. An uncaught exception in any
of them ends the process; whoever started it starts it again, and it resumes where it was.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from . import bus, busserver, config, curve, process, seldom, vault, wire
from .book import Book
from .config import Config, Server
from .curve import Curve
from .deliver import Delivery
from .detect import Auto
from .engine import TICK_S, Engine, Item, NewConfig, Note
from .enrolments import Enrolments
from .guard import Ordered
from .model import VERSION, Command, ConfigError, Driver
from .places import Places
from .requests import Requests
from .slots import Keeper
from .store import Store
from .tape import Tape
from .ups import Polled, Ups
from .usbport import Rescue

log = logging.getLogger(__name__)

INBOX_LIMIT = 10_000
ITEMS_AT_ONCE = 256  # a thousand servers that report together are not a thousand turns
RELOAD_WITHIN_S = 5.0
WATCHDOG_ENGINE_S, WATCHDOG_LOOPS_S = 3.0, 10.0
HUNG_S = 25.0  # a thread that has not moved for so long never will
BUS_AGAIN_S = 5.0
CURVE, CURVE_LIMIT_BYTES = "discharge-curve.json", 4096
EXIT_AGAIN = 75  # start me again


class Core:
    """Wires the threads together."""

    def __init__(self, path: Path, faces: str = "") -> None:
        """Reads the configuration at `path`; `faces`: the user that may talk on the bus besides ours and root.
        ConfigError if nothing of it can be used, or there is no such user."""
        self._path, self._faces = path, process.account(faces)
        self._stop = threading.Event()
        self._reload, self._reloaded = threading.Event(), threading.Event()
        self._disarm = False  # whatever else the file says, at the next reading
        self._looked_s = time.monotonic()
        self._host = process.host_problems()
        first, problems = process.load(path)
        self._folder = Path(first.state_dir) / "core"
        self._run_dir = Path(first.run_dir)
        self._lock = self._lock_state()
        previous = _servers_before(first)
        new = self._choose(first, problems)
        self._config, self._loaded = new.config, new
        self._inbox: queue.Queue[Item] = queue.Queue(maxsize=INBOX_LIMIT)
        self._keeper = Keeper(self._folder / "slots")
        self._store = Store(self._folder / "history.sqlite")
        kept, damaged = self._keeper.read()
        memory = self._store.start()
        self._curves: queue.SimpleQueue[Curve] = queue.SimpleQueue()
        self._book = Book(self._folder / "known.json")
        self._enrolments = Enrolments(self._folder, self._inbox.put, lambda enrolled: self._delivery.order(enrolled))
        self._delivery = Delivery(self._inbox.put, self._book, self._places())
        self._tape = Tape(time.monotonic)
        self._auto = Auto(self._folder, self._config.ups, process.open_link, time.monotonic)
        pauses_s = process.back_off_s(self._config.driver, self._config.ups)
        self._rescue = Rescue(time.monotonic)
        self._ups = Ups(self._open, self._take, self._config.poll_s, self._rescue, pauses_s)
        self._server: busserver.Server | None = None
        self._engine = Engine(
            boot=process.boot_id(),
            clock=process.SystemClock(),
            history=self._store,
            keeper=self._keeper,
            memory=memory,
            remembered=kept,
            previous=previous,
            publish=self._publish,
            order=self._delivery.order,
            power=self._power,
            hurry=self._ups.hurry,
            curve=self._read_curve(),
            learned=self._curves.put,
        )
        self._requests = Requests(
            self._engine,
            self._store,
            self._ups,
            self._inbox.put,
            self._reload_asked,
            lambda name, sha256: self._enrolments.enrol(name, sha256, self._config.servers),
            self._delivery.order,
            self._tape,
        )
        self._delivery.plan(self._config.servers)
        self._inbox.put(NewConfig(new.config, new.problems, new.protecting_bad, note=False))
        self._inbox.put(Note("started", VERSION))
        self._enrolments.prepare(self._config.servers)
        if damaged:
            self._inbox.put(Note("state-lost", "both slots of the protection state were unreadable"))

    def _places(self) -> Places:
        """Where the ways find keys, commands, secrets and pins."""
        commands, secret = Path(self._config.commands_dir), self._secrets().get
        e = self._enrolments
        return Places(
            folder=self._folder, commands_dir=commands, secret=secret, pin=e.pin, former=e.former, settle=e.settle
        )

    def _secrets(self) -> dict[str, str]:
        try:
            return vault.read(self._folder / "secrets.json")
        except ConfigError as e:
            log.error("%s", e)
            return {}

    def _read_curve(self) -> Curve | None:
        """What earlier outages have taught of the battery; None if nothing, or the file is damaged."""
        path = self._folder / CURVE
        try:
            found: Curve = wire.from_json(Curve, json.loads(path.read_bytes()[:CURVE_LIMIT_BYTES]))
            if not curve.sane(found):
                raise ValueError("no discharge curve")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as e:
            log.error("%s: %s: the battery is learned anew", path, e)
            return None
        return found

    def _save_curve(self) -> None:
        """Keep the newest curve; in the main thread, where a slow disk holds nobody."""
        newest = None
        while not self._curves.empty():
            newest = self._curves.get()
        if newest is None:
            return
        try:
            vault.write_private(self._folder / CURVE, json.dumps(wire.to_json(newest)).encode())
        except OSError as e:
            log.error("%s: %s: what this outage taught is lost with a restart", self._folder / CURVE, e)

    def _lock_state(self) -> int | None:
        """One core at a time on a state folder. Without a writable disk the core protects all the same."""
        try:
            return vault.lock(self._folder / "lock")
        except BlockingIOError:
            raise ConfigError(f"another core already runs on {self._folder}") from None
        except OSError as e:
            log.error("%s: %s: protection works, but nothing is remembered", self._folder, e.strerror)
            return None

    def _choose(self, found: Config, problems: tuple[config.Problem, ...]) -> NewConfig:
        """The configuration to use: what was found, or its protecting parts from the last good one."""
        texts = tuple(p.text for p in problems)
        keep = process.last_good(found)
        if not any(p.section in config.PROTECTING for p in problems):
            try:
                data = self._path.read_bytes()
                if not keep.exists() or keep.read_bytes() != data:
                    vault.write_private(keep, data)
            except OSError as e:
                log.error("%s: %s: this configuration would not survive a mistake in the next", keep, e.strerror)
            return NewConfig(found, texts)
        for text in texts:
            log.error("configuration: %s", text)
        try:
            kept, old_problems = process.load(keep)
        except ConfigError:
            return _nobody(found, texts)
        if any(p.section in config.PROTECTING for p in old_problems):
            return _nobody(found, texts)
        log.error("the last good configuration stays in force")
        return NewConfig(kept, texts, protecting_bad=True)

    # -- the threads

    def run(self) -> int:
        """Until SIGTERM or SIGINT; 0."""
        threading.excepthook = process.end_with_thread
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        process.follow_parent(self._stop)
        bodies: Mapping[str, Callable[[], None]] = {
            "slots": lambda: self._keeper.run(self._stop),
            "store": lambda: self._store.run(self._stop),
            "book": lambda: self._book.run(self._stop),
            "delivery": lambda: self._delivery.run(self._stop),
            "ups": lambda: self._ups.run(self._stop),
            "engine": self._run_engine,
        }
        threads = [threading.Thread(target=body, name=name, daemon=True) for name, body in bodies.items()]
        for thread in threads:
            thread.start()
        log.info("core %s runs: driver %s, mode %s", VERSION, self._config.driver, self._config.mode)
        process.notify("READY=1")
        again = False
        open_bus_s = 0.0
        while not self._stop.wait(0.0 if self._server is None and open_bus_s == 0.0 else 1.0):
            if self._server is None and time.monotonic() >= open_bus_s:
                open_bus_s = time.monotonic() + BUS_AGAIN_S
                threads += self._open_bus()
            if self._reload.is_set():
                self._reload.clear()
                again = self._load_again()
                self._reloaded.set()
                if again:
                    self._stop.set()
            self._watch()
            self._look_at_host()
            self._save_curve()
            if not self._loaded.protecting_bad:
                self._enrolments.forget(self._engine.view, self._config.servers)
        if self._server is not None:
            self._server.stop()
        self._ups.wake()
        self._delivery.wake()
        for thread in threads:
            thread.join(6.0)
        return EXIT_AGAIN if again else 0

    def _open_bus(self) -> list[threading.Thread]:
        """Open the bus and start its threads; without it protection works all the same, and it is tried again."""
        talkers = {0, os.getuid(), self._faces[0]}
        try:
            server = busserver.Server(
                str(self._run_dir / "core.sock"),
                self._requests.answer,
                self._greeting,
                lambda uid: uid in talkers,
                self._faces[1],
            )
        except (OSError, bus.BusError) as e:
            log.error("no bus in %s (%s): page and SNMP say no-core, protection works", self._run_dir, e)
            return []
        self._server = server
        bodies = {"bus": server.run, "requests": server.run_requests}
        threads = [threading.Thread(target=body, name=name, daemon=True) for name, body in bodies.items()]
        for thread in threads:
            thread.start()
        return threads

    def _publish(self, message: Mapping[str, object]) -> None:
        if self._server is not None:
            self._server.publish(bus.encode(dict(message)))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        (self._reload if number == signal.SIGHUP else self._stop).set()

    def _run_engine(self) -> None:
        while not self._stop.is_set():
            self._engine.turn(*self._next_items())
        self._engine.flush(time.monotonic())

    def _next_items(self) -> list[Item]:
        """What came in, at most one poll among it; [None] if nothing did within a tick."""
        items: list[Item] = [None]
        try:
            items = [self._inbox.get(timeout=TICK_S)]
            while len(items) < ITEMS_AT_ONCE and not isinstance(items[-1], Polled):
                items.append(self._inbox.get_nowait())
        except queue.Empty:
            pass  # that was all
        return items

    def _watch(self) -> None:
        """Tell systemd that all is well, only when engine, ups and delivery really move; end when one hangs."""
        now_s = time.monotonic()
        hung_s = now_s - min(self._engine.turned_s, self._ups.turned_s, self._delivery.turned_s)
        if hung_s > HUNG_S and now_s - self._looked_s < HUNG_S:  # else we ourselves were stopped
            log.critical("a thread hangs for %.0f s: the core ends and is started again", hung_s)
            sys.stderr.flush()
            os._exit(70)
        self._looked_s = now_s
        moving = (
            now_s - self._engine.turned_s < WATCHDOG_ENGINE_S
            and now_s - self._ups.turned_s < WATCHDOG_LOOPS_S
            and now_s - self._delivery.turned_s < WATCHDOG_LOOPS_S
        )
        if moving:
            process.notify("WATCHDOG=1")

    def _load_again(self) -> bool:
        """SIGHUP: read the file again. True: what changed needs a new start (another UPS must not get this plan)."""
        disarm, self._disarm = self._disarm, False
        try:
            new = self._choose(*process.load(self._path))
        except ConfigError as e:
            log.error("configuration: %s", e)
            new = NewConfig(self._config, (str(e),), protecting_bad=True)
        self._loaded = new
        if new.protecting_bad:
            new = NewConfig(self._config, new.problems, protecting_bad=True)
        elif _needs_start(new.config) != _needs_start(self._config):
            log.warning("[ups] or the folders changed: the core is started again")
            return True
        if disarm and new.config.mode == "armed":
            new = replace(new, config=replace(new.config, mode="dry-run"))
        self._config = new.config
        self._delivery.places = self._places()
        self._delivery.plan(new.config.servers)
        self._inbox.put(new)
        self._enrolments.prepare(new.config.servers)
        return False

    def _look_at_host(self) -> None:
        """What is wrong with this host counts at once, and is over at once; the file is not read again for that."""
        before, self._host = self._host, process.host_problems()
        if self._host != before:
            texts = (*(text for text in self._loaded.problems if text not in before), *self._host)
            self._loaded = replace(self._loaded, problems=tuple(dict.fromkeys(texts)))
            self._inbox.put(replace(self._loaded, config=self._config, note=False))

    # -- what the threads need of each other

    def _open(self) -> Driver:
        """Connect to the UPS. LinkError if that is not possible now."""
        return process.connect(
            self._config, self._auto, self._tape, time.monotonic, self._secrets, self._rescue.meant
        )

    def _take(self, polled: Polled) -> None:
        if polled.status is not None:
            self._auto.heard()
        self._inbox.put(polled)

    def _greeting(self) -> list[bytes]:
        return [bus.encode(dict(message)) for message in self._engine.greeting()]

    def _power(self, command: Command, args: Mapping[str, Any]) -> None:
        """An order of protection to the UPS; what became of it comes back through the inbox."""
        self._ups.post(command, args, lambda *said: self._inbox.put(Ordered(command, args, *said)))

    def _reload_asked(self, disarm: bool) -> bus.Message:
        """Read the configuration again, in the main thread, and say what came of it. `disarm`: what is
        in force then is so in mode dry-run, whatever the file says, until a good one is read."""
        self._reloaded.clear()
        self._disarm = self._disarm or disarm
        self._reload.set()
        if not self._reloaded.wait(RELOAD_WITHIN_S):
            raise bus.BusError("the core did not read its configuration in time")
        return {"problems": list(self._loaded.problems), "protecting_bad": self._loaded.protecting_bad}


def _nobody(found: Config, texts: tuple[str, ...]) -> NewConfig:
    """Mistakes and no last good configuration: the UPS is shown if it can be, and nobody is told anything."""
    log.error("no last good configuration: nothing is protected until the file is mended")
    return NewConfig(replace(found, mode="setup", servers=(), stages=()), texts, protecting_bad=True)


def _needs_start(settings: Config) -> tuple[object, ...]:
    """What takes effect only with a new start."""
    return settings.driver, settings.ups, settings.poll_s, settings.state_dir, settings.run_dir


def _servers_before(found: Config) -> tuple[Server, ...]:
    """The servers when this program ran last: the slots may be about them, though the file has changed since."""
    try:
        return process.load(process.last_good(found))[0].servers
    except ConfigError:
        return ()


def main(path: Path, faces: str = "") -> int:
    """Run the core with the configuration at `path`; `faces`: the user of the faces, if that is not our own."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be served
    os.umask(0o077)
    process.many_descriptors()
    seldom.bound(logging.getLogger().handlers, time.monotonic)
    return Core(path, faces).run()
