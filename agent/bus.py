"""The bus: how the web page, SNMP and the command line hear what the core knows, and ask it for something.

A Unix socket, one JSON object a line (docs/upsmon-protocol.md). The core runs a `Server`; everybody else has a
`Client`. A reader that is too slow is dropped; no client can make the core wait.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import wire
from .model import VERSION, Active, Condition, Event, View

log = logging.getLogger(__name__)

PROTOCOL = 1
LINE_LIMIT_BYTES = 256 * 1024  # the longest message, in both directions
BACKLOG_LIMIT_BYTES = 512 * 1024  # unsent bytes after which a reader is dropped
CLIENTS_LIMIT = 32
REQUESTS_LIMIT = 16  # waiting for the query reader
REQUEST_RATE_PER_S = 50.0  # sustained, over all clients; a burst of twice that is let through
SILENCE_S = 2.5  # no message from the core for so long: it is gone

Message = dict[str, Any]


class BusError(Exception):
    """The core cannot be reached, or it refused; the text says why."""


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection, by SO_PEERCRED."""

    pid: int
    uid: int


# --- a socket path longer than 107 bytes works through /proc/self/fd --------------------------------------------


@contextmanager
def _address(path: str) -> Iterator[str]:
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
    """One message as one line."""
    return json.dumps({"v": PROTOCOL, **message}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """One line as a message. ValueError if it is not a JSON object of our protocol version."""
    message = json.loads(line)
    if not isinstance(message, dict) or message.get("v") != PROTOCOL:
        raise ValueError(f"not a message of protocol {PROTOCOL}: {line[:80]!r}")
    return message


# --- the core's end ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Connection:
    sock: socket.socket
    peer: Peer
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    subscribed: bool = False
    busy: bool = False  # a request of it is with the query reader


class Server:
    """Hands every subscriber what `publish` is given, and gives requests to `answer` in a thread of its own."""

    def __init__(
        self,
        path: str,
        answer: Callable[[Message, Peer], Message],
        greeting: Callable[[], list[bytes]],
        may_talk: Callable[[int], bool],
    ) -> None:
        """`answer(message, peer)` returns the reply's fields or raises BusError; `greeting()` gives the lines with
        which a subscriber starts; `may_talk(uid)` decides who may connect. OSError if the socket cannot be made."""
        self._answer, self._greeting, self._may_talk = answer, greeting, may_talk
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._outgoing: queue.Queue[tuple[_Connection | None, bytes]] = queue.Queue(maxsize=1000)
        self._requests: queue.Queue[tuple[_Connection, Message]] = queue.Queue(maxsize=REQUESTS_LIMIT)
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.unlink(path)  # of a core that was killed; the lock in state_dir keeps two cores apart
        except FileNotFoundError:
            pass
        with _address(path) as address:
            self._listener.bind(address)
        os.chmod(path, 0o660)
        self._listener.listen(CLIENTS_LIMIT)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)
        self._stop = False
        self._tokens, self._tokens_s = 2 * REQUEST_RATE_PER_S, time.monotonic()

    def publish(self, line: bytes) -> None:
        """Send a line to all subscribers; never waits. From any thread."""
        self._put(None, line)

    def stop(self) -> None:
        """End `run` and `run_requests` soon."""
        self._stop = True
        self._wake()

    def _put(self, connection: _Connection | None, line: bytes) -> None:
        try:
            self._outgoing.put_nowait((connection, line))
        except queue.Full:
            log.error("bus: 1000 messages waiting, one is lost")
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_w.send(b"x")
        except BlockingIOError:
            pass  # it is already awake

    def run(self) -> None:
        """The socket thread."""
        while not self._stop:
            for key, mask in self._selector.select(1.0):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_r:
                    self._drain_wake()
                else:
                    self._serve(key.data, mask)
        for connection in list(self._connections):
            self._drop(connection, "")
        self._listener.close()

    def run_requests(self) -> None:
        """The query reader's thread: one request after the other."""
        while not self._stop:
            try:
                connection, message = self._requests.get(timeout=0.5)
            except queue.Empty:
                continue
            try:
                reply = {"ok": True, **self._answer(message, connection.peer)}
            except BusError as e:
                reply = {"ok": False, "error": str(e)}
            connection.busy = False
            self._put(connection, encode({"type": "reply", "id": message.get("id"), **reply}))

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as e:
            log.warning("bus: accept: %s", e)
            return
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if len(self._connections) >= CLIENTS_LIMIT or not self._may_talk(uid):
            log.warning("bus: refused process %d of user %d", pid, uid)
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock, Peer(pid, uid))
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _drain_wake(self) -> None:
        try:
            while self._wake_r.recv(4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                target, line = self._outgoing.get_nowait()
            except queue.Empty:
                return
            for connection in [c for c in self._connections if c is target or (target is None and c.subscribed)]:
                self._send(connection, line)

    def _send(self, connection: _Connection, line: bytes) -> None:
        if len(connection.outbox) + len(line) > BACKLOG_LIMIT_BYTES:
            self._drop(connection, "does not read")
            return
        connection.outbox += line
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            while connection.outbox:
                del connection.outbox[: connection.sock.send(connection.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection, "")
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outbox else 0)
        self._selector.modify(connection.sock, wanted, connection)

    def _serve(self, connection: _Connection, mask: int) -> None:
        if connection not in self._connections:
            return
        if mask & selectors.EVENT_WRITE:
            self._flush(connection)
        if not mask & selectors.EVENT_READ or connection not in self._connections:
            return
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection, "")
            return
        connection.inbox += data
        while (end := connection.inbox.find(b"\n")) >= 0 and connection in self._connections:
            line = bytes(connection.inbox[:end])
            del connection.inbox[: end + 1]
            self._take(connection, line)
        if len(connection.inbox) > LINE_LIMIT_BYTES:
            self._drop(connection, "sent an endless line")

    def _take(self, connection: _Connection, line: bytes) -> None:
        try:
            message = decode(line)
        except ValueError as e:
            self._drop(connection, f"sent nonsense: {e}")
            return
        if message.get("type") == "subscribe":
            connection.subscribed = True
            for greeting in self._greeting():
                self._send(connection, greeting)
            return
        error = None
        if connection.busy:
            error = "one request at a time"
        elif not self._token():
            error = "too many requests, try again in a second"
        else:
            connection.busy = True
            try:
                self._requests.put_nowait((connection, message))
            except queue.Full:
                connection.busy, error = False, "busy, try again in a second"
        if error:
            self._send(connection, encode({"type": "reply", "id": message.get("id"), "ok": False, "error": error}))

    def _token(self) -> bool:
        now_s = time.monotonic()
        self._tokens = min(2 * REQUEST_RATE_PER_S, self._tokens + (now_s - self._tokens_s) * REQUEST_RATE_PER_S)
        self._tokens_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _drop(self, connection: _Connection, why: str) -> None:
        if connection not in self._connections:
            return
        if why:
            log.warning("bus: dropped process %d: it %s", connection.peer.pid, why)
        self._connections.discard(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()


# --- everybody else's end ---------------------------------------------------------------------------------------


def connect(path: str, within_s: float = 5.0) -> socket.socket:
    """A connection to the core at `path`. BusError if nobody answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(within_s)
    try:
        with _address(path) as address:
            sock.connect(address)
    except OSError as e:
        sock.close()
        raise BusError(f"no core at {path}: {e.strerror or e} (is `ridethrough core` running?)") from e
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
            raise BusError(f"no answer from the core: {e}") from e
    raise BusError("the core closed the connection")


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
