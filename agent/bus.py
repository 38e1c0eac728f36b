"""The bus: how the web page, SNMP and the command line hear what the core knows, and ask it for something.

A Unix socket, one JSON object a line (docs/upsmon-protocol.md). Here is the clients' end; the core's is busserver.py.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from . import wire
from .model import VERSION, Active, Condition, Event, View

log = logging.getLogger(__name__)

PROTOCOL = 1
LINE_LIMIT_BYTES = 4 * 1024 * 1024  # the longest message: a view of 1000 servers, each with a word of its own
REQUEST_LIMIT_BYTES = 64 * 1024
SILENCE_S = 2.5  # no message from the core for so long: it is gone

Message = dict[str, Any]


class BusError(Exception):
    """The core cannot be reached, or it refused; the text says why."""


class Unreachable(BusError):
    """Nobody listens there: nothing was asked of the core."""


class Unanswered(BusError):
    """The core was asked, and what became of it is not known."""


# --- a socket path longer than 107 bytes works through /proc/self/fd --------------------------------------------


@contextmanager
def address(path: str) -> Iterator[str]:
    """An address for bind and connect that fits the kernel's 108 bytes, whatever the folder's length."""
    if len(os.fsencode(path)) <= 107:
        yield path
        return
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{fd}/{name}"
        if len(os.fsencode(short)) > 107:
            raise BusError(f"socket name too long: {name!r} (at most 80 bytes)")
        yield short
    finally:
        os.close(fd)


def encode(message: Message) -> bytes:
    """One message, of JSON values and values of the model, as one line."""
    return json.dumps({"v": PROTOCOL, **wire.to_json(message)}, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """One line as a message. ValueError if it is not a JSON object of our protocol version."""
    try:
        message = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict) or message.get("v") != PROTOCOL:
        raise ValueError(f"not a message of protocol {PROTOCOL}: {line[:80]!r}")
    return message


# --- everybody else's end ---------------------------------------------------------------------------------------


def connect(path: str, within_s: float = 5.0) -> socket.socket:
    """A connection to the core at `path`. BusError if nobody answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(within_s)
    try:
        with address(path) as place:
            sock.connect(place)
    except PermissionError as e:
        sock.close()
        raise Unreachable(f"{path}: permission denied; the core listens to root and its own users: use sudo") from e
    except OSError as e:
        sock.close()
        raise Unreachable(f"no core at {path}: {e.strerror or e} (is `ridethrough core` running?)") from e
    return sock


def lines(sock: socket.socket) -> Iterator[bytes]:
    """The lines that arrive on `sock`, until it ends. BusError if one is longer than the limit; OSError as recv."""
    inbox = bytearray()
    while data := sock.recv(65536):
        inbox += data
        while (end := inbox.find(b"\n")) >= 0:
            yield bytes(inbox[:end])
            del inbox[: end + 1]
        if len(inbox) > LINE_LIMIT_BYTES:
            raise BusError("the core sent an endless line")


ORDER_WITHIN_S = 25.0  # for the answer to an order: some units are slow, and some orders are looked after


def ask(path: str, message: Message, within_s: float = 5.0) -> Message:
    """Send one request on a connection of its own and return the reply. BusError says why not."""
    with connect(path, within_s) as sock:
        try:
            sock.sendall(encode(message))
            for line in lines(sock):
                reply = decode(line)
                if reply.get("type") == "reply":
                    if not reply.get("ok"):
                        raise BusError(str(reply.get("error", "refused")))
                    return reply
        except (OSError, ValueError) as e:
            raise Unanswered(f"no answer from the core: {e}") from e
    raise Unanswered("the core closed the connection")


def without_core(view: View, now_s: float) -> View:
    """What can still be said when the core is silent: no measurement, but 'was on battery' stays known."""
    kept = tuple(a for a in view.conditions if a.condition is Condition.ON_BATTERY)
    gone = Active(condition=Condition.NO_CORE, since_s=now_s, since_wall_s=time.time())
    return replace(view, now_s=now_s, status=None, age_s=None, link="down", conditions=(*kept, gone))


class Client:
    """A face's ear: holds the newest View, connects again for ever, and wakes who waits for something new.

    `view()` is what a face shows: the core's word, or its absence as condition no-core. One reference, replaced.
    """

    def __init__(self, path: str, on_event: Callable[[Event], None] | None = None) -> None:
        self.path = path
        self._on_event = on_event
        self._news = threading.Condition()
        self._version = 0
        now_s = time.monotonic()
        never = View(
            boot="", now_s=now_s, wall_s=time.time(), clock_synced=False, version=VERSION, name="", started_s=now_s,
            mode="setup", driver="", link="starting",
        )  # fmt: skip
        self._view = without_core(never, now_s)
        self._heard_s = now_s - SILENCE_S  # receipt of the last message
        self._alive = False
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to listen, in a thread."""
        threading.Thread(target=self._run, name="bus", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def view(self) -> View:
        """The newest view; its `now_s` and ages are those of its sending. Never waits."""
        view = self._view
        if self._alive and time.monotonic() - self._heard_s > SILENCE_S:
            self._lost()
            view = self._view
        return view

    def wait(self, version: int, within_s: float) -> int:
        """Wait until there is news since `version` (0: now), or for `within_s`; return the newest version."""
        with self._news:
            self._news.wait_for(lambda: self._version != version, within_s)
            return self._version

    def ask(self, message: Message, within_s: float = 5.0) -> Message:
        """One request, one reply. BusError says why not."""
        return ask(self.path, message, within_s)

    def _run(self) -> None:
        pause_s = 0.1
        while not self._stop.is_set():
            try:
                with connect(self.path) as sock:
                    sock.settimeout(SILENCE_S)
                    sock.sendall(encode({"type": "subscribe"}))
                    for line in lines(sock):
                        self._take(decode(line))
                        pause_s = 0.1
                        if self._stop.is_set():
                            return
            except (BusError, OSError, ValueError) as e:
                log.debug("bus: %s", e)
            self._lost()
            self._stop.wait(pause_s)
            pause_s = min(1.0, pause_s * 2)

    def _take(self, message: Message) -> None:
        if message.get("type") == "status":
            view = wire.from_json(View, message.get("view"))
            with self._news:
                if not self._alive:
                    log.info("the core is there")
                self._view, self._alive, self._heard_s = view, True, time.monotonic()
                self._version += 1
                self._news.notify_all()
        elif message.get("type") == "event" and self._on_event:
            self._on_event(wire.from_json(Event, message.get("event")))

    def _lost(self) -> None:
        with self._news:
            if self._alive:
                log.warning("the core is silent")
                self._alive = False
                self._view = without_core(self._view, time.monotonic())
                self._version += 1
                self._news.notify_all()
