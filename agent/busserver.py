"""The core's end of the bus: hands everybody the news and answers requests, and waits for nobody.

A reader that is too slow is dropped; requests are answered one after the other in a thread of their own.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import bus

log = logging.getLogger(__name__)

BACKLOG_LIMIT_BYTES = 2 * bus.LINE_LIMIT_BYTES  # unsent bytes after which a reader is dropped
STUCK_S = 10.0  # without taking anything, after which a reader is dropped
CLIENTS_LIMIT = 32
REQUESTS_LIMIT = 16  # waiting for the query reader
REQUEST_RATE_PER_S = 50.0  # sustained, over all clients; a burst of twice that is let through


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection, by SO_PEERCRED."""

    pid: int
    uid: int


def _take_over(path: str) -> None:
    """Remove the socket of a core that was killed. OSError if another core lives behind it."""
    try:
        bus.connect(path, within_s=1.0).close()
    except bus.BusError:
        Path(path).unlink(missing_ok=True)
    else:
        raise OSError(errno.EADDRINUSE, "another core uses this run_dir", path)


@dataclass(eq=False)
class _Connection:
    sock: socket.socket
    peer: Peer
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    subscribed: bool = False
    moved_s: float = 0.0  # when it last took something, or had nothing to take
    busy: bool = False  # a request of it is with the query reader


class Server:
    """Hands every subscriber what `publish` is given, and gives requests to `answer` in a thread of its own."""

    def __init__(
        self,
        path: str,
        answer: Callable[[bus.Message, Peer], bus.Message],
        greeting: Callable[[], list[bytes]],
        may_talk: Callable[[int], bool],
        group: int | None = None,
    ) -> None:
        """`answer(message, peer)` returns the reply's fields or raises BusError; `greeting()` gives the lines with
        which a subscriber starts; `may_talk(uid)` decides who may connect; `group` is the id of the group that gets
        the socket, if not our own. OSError if the socket cannot be made."""
        self._answer, self._greeting, self._may_talk = answer, greeting, may_talk
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._outgoing: queue.Queue[tuple[_Connection | None, bytes]] = queue.Queue(maxsize=1000)
        self._requests: queue.Queue[tuple[_Connection, bus.Message]] = queue.Queue(maxsize=REQUESTS_LIMIT)
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        _take_over(path)
        with bus.address(path) as place:
            self._listener.bind(place)
        if group is not None:
            os.chown(path, -1, group)
        os.chmod(path, 0o660)
        self._listener.listen(CLIENTS_LIMIT)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)
        self._stop = False
        self._listen_again_s = 0.0  # 0: it listens
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
            if 0 < self._listen_again_s <= time.monotonic():
                self._listen_again_s = 0.0
                self._selector.register(self._listener, selectors.EVENT_READ, None)
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
            except bus.BusError as e:
                reply = {"ok": False, "error": str(e)}
            except (ValueError, TypeError, ArithmeticError, LookupError) as e:
                log.warning("bus: a request of process %d failed: %r", connection.peer.pid, e)
                reply = {"ok": False, "error": f"cannot be answered: {type(e).__name__}"}
            connection.busy = False
            self._put(connection, bus.encode({"type": "reply", "id": message.get("id"), **reply}))

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as e:
            log.warning("bus: accept: %s", e)
            self._selector.unregister(self._listener)  # out of descriptors: look again in a second
            self._listen_again_s = time.monotonic() + 1.0
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
            pass  # empty
        while True:
            try:
                target, line = self._outgoing.get_nowait()
            except queue.Empty:
                return
            for connection in [c for c in self._connections if c is target or (target is None and c.subscribed)]:
                self._send(connection, line)

    def _send(self, connection: _Connection, line: bytes) -> None:
        now_s = time.monotonic()
        if not connection.outbox:
            connection.moved_s = now_s
        stuck = now_s - connection.moved_s > STUCK_S
        if stuck or len(connection.outbox) + len(line) > BACKLOG_LIMIT_BYTES:
            self._drop(connection, "does not read")
            return
        connection.outbox += line
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            while connection.outbox:
                del connection.outbox[: connection.sock.send(connection.outbox)]
                connection.moved_s = time.monotonic()
        except BlockingIOError:
            pass  # the rest when it has read
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
        if len(connection.inbox) > bus.REQUEST_LIMIT_BYTES:
            self._drop(connection, "sent an endless line")

    def _take(self, connection: _Connection, line: bytes) -> None:
        try:
            message = bus.decode(line)
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
            self._send(
                connection, bus.encode({"type": "reply", "id": message.get("id"), "ok": False, "error": error})
            )

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
