"""Tells servers to shut down: all at once, each again and again until it was told, none waiting for another.

One thread, one selector, one small machine per server. What must be told is a level that the engine sets; a restart
simply sets it again. Outside mode armed nothing is sent. Outcomes are in the words of the house:
classic RCCMD knows only "delivered, unconfirmed": the whole line written, and the peer closed without an error.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import selectors
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .config import Server
from .rccmd import codec

log = logging.getLogger(__name__)

FIRST_PASS_S = 2.0  # for the connection, in the first pass
CONNECT_S = 5.0  # and later
CLOSE_WAIT_S = 5.0  # for the peer to close after the line
BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 15.0)
RESOLVE_S = 3600.0  # a name is looked up so often; the last good addresses are kept
RESOLVE_AGAIN_S = 15.0  # a name that could not be looked up yet
ADDRESSES_LIMIT = 8  # of one name
DETAIL_LIMIT = 120
REACH_S = 3600.0  # how often it is tried whether a server can be reached
ANSWER_LIMIT_BYTES = 256

Address = tuple[int, tuple[str | int, ...]]  # family, and the kernel's form without the port


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the engine wants: whom to tell in which outage, and whether anything may really be sent."""

    outage: str | None = None
    tell: tuple[Server, ...] = ()  # also such as are no longer configured
    told: frozenset[str] = frozenset()  # names of those that were told before a restart
    armed: bool = False
    prove: bool = True  # look from time to time whether the servers can be told
    prove_again: int = 0  # another number: prove all of them now
    wake: tuple[Server, ...] = ()  # wake them until they answer


@dataclass(frozen=True, slots=True)
class _Plan:
    servers: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of one server: `state` and `delivery` as in ServerView."""

    server: str
    state: str = "unknown"
    delivery: str = "none"
    attempts: int = 0
    detail: str = ""
    outage: str | None = None
    proof: str = ""  # what the last proof said
    proof_s: float | None = None  # monotonic second of the last good one
    failing: bool = False  # the last one was not good
    wake: str = "none"  # none | waking | back | by-hand
    mac: str = ""  # learned


@dataclass(eq=False, slots=True)
class _Target:
    """The machine of one server: idle -> connecting -> closing -> idle."""

    server: Server
    report: Report
    addresses: tuple[Address, ...] = ()  # tried in turn
    sock: socket.socket | None = None
    probing: bool = False
    sent: bool = False
    answer: bytearray = field(default_factory=bytearray)
    deadline_s: float = 0.0
    next_s: float = 0.0  # of the next attempt to tell
    reach_s: float = 0.0  # of the next look whether it can be reached


class Delivery:
    """Deliveries to the servers of the plan. `report` is called in this thread for every change and must not wait."""

    def __init__(self, report: Callable[[Report], None], shutdown_line: bytes | None = None) -> None:
        self._report = report
        self._line = codec.encode("SHUTDOWN") if shutdown_line is None else shutdown_line
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)
        self._news: queue.Queue[Orders | _Plan | _Found] = queue.Queue(maxsize=5000)
        self._to_resolve: queue.Queue[str] = queue.Queue(maxsize=2000)
        self._targets: dict[str, _Target] = {}
        self._plan: tuple[Server, ...] = ()
        self._orders = Orders()
        self.turned_s = time.monotonic()

    # -- from other threads

    def plan(self, servers: tuple[Server, ...]) -> None:
        """These are the servers now."""
        self._put(_Plan(servers))

    def order(self, orders: Orders) -> None:
        """This is what must be told now."""
        self._put(orders)

    def wake(self) -> None:
        try:
            os.write(self._wake_w, b"x")
        except BlockingIOError:
            pass  # it is already awake

    def _put(self, item: Orders | _Plan | _Found) -> None:
        self._news.put(item, timeout=5.0)
        self.wake()

    def run_resolver(self, stop: threading.Event) -> None:
        """The resolver's thread: looking up a name may take long and must not hold a delivery."""
        while not stop.is_set():
            try:
                name = self._to_resolve.get(timeout=0.5)
            except queue.Empty:
                continue
            try:
                found = _look_up(name, 0)
            except (OSError, UnicodeError) as e:
                log.warning("cannot look up %s: %s", name, e)
                continue
            self._put(_Found(name, found))

    # -- the delivery thread

    def run(self, stop: threading.Event) -> None:
        """The delivery thread: until `stop` (and a `wake`)."""
        resolve_s = 0.0
        while not stop.is_set():
            now_s = self.turned_s = time.monotonic()
            self._take_news(now_s)
            if now_s >= resolve_s:
                known = all(target.addresses for target in self._targets.values())
                resolve_s = now_s + (RESOLVE_S if known else RESOLVE_AGAIN_S)
                self._ask_names()
            for target in self._targets.values():
                self._turn(target, now_s)
            for key, _ in self._selector.select(self._pause_s(time.monotonic())):
                if key.data is None:
                    os.read(self._wake_r, 4096)
                else:
                    self._ready(key.data, time.monotonic())
        for target in self._targets.values():
            self._close(target)

    def _take_news(self, now_s: float) -> None:
        while True:
            try:
                item = self._news.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, Orders):
                self._take_orders(item, now_s)
            elif isinstance(item, _Plan):
                self._plan = item.servers
                self._aim(now_s)
                self._follow(now_s)
            else:
                for target in self._targets.values():
                    if target.server.address == item.name and target.addresses != item.addresses:
                        target.addresses, target.next_s = item.addresses, now_s
                        log.info("%s is %s", item.name, item.addresses[0][1][0])

    def _aim(self, now_s: float) -> None:
        """One target for each server of the plan, and for each that must be told though it is no longer in it.

        Only another address or port makes another target; what was delivered to it stays known.
        """
        old, self._targets = self._targets, {}
        wanted = {server.name: server for server in (*self._orders.tell, *self._plan)}
        for number, (name, server) in enumerate(wanted.items()):
            target = old.pop(name, None)
            if target is None or (target.server.address, target.server.port) != (server.address, server.port):
                if target is not None:
                    self._close(target)
                target = _Target(server, Report(server=name))
                target.addresses = _literal(server.address)
                target.reach_s = now_s + 0.05 * number  # staggered
            target.server = server
            self._targets[name] = target
        for target in old.values():
            self._close(target)
        self._ask_names()

    def _ask_names(self) -> None:
        """Have the resolver look up every name."""
        for name in {t.server.address for t in self._targets.values() if not _literal(t.server.address)}:
            try:
                self._to_resolve.put_nowait(name)
            except queue.Full:
                return

    def _take_orders(self, orders: Orders, now_s: float) -> None:
        before, self._orders = self._orders, orders
        if (orders.outage, orders.armed) != (before.outage, before.armed):
            for target in self._targets.values():
                if not target.probing:
                    self._close(target)
                target.next_s = now_s
                self._say(target, delivery="none", attempts=0, detail="", outage=orders.outage)
        if orders.tell != before.tell:
            self._aim(now_s)
        self._follow(now_s)

    def _follow(self, now_s: float) -> None:
        """Begin to tell whom we must and have not yet begun with."""
        for server in self._orders.tell:
            target = self._targets[server.name]
            if target.report.delivery != "none":
                continue
            if server.name in self._orders.told:
                self._say(target, delivery="delivered-unconfirmed", outage=self._orders.outage)
            elif not self._orders.armed:
                log.info("%s would be told to shut down (not armed)", server.name)
                self._say(target, delivery="dry-run", outage=self._orders.outage)
            else:
                if target.probing:
                    self._close(target)
                target.next_s = now_s
                self._say(target, delivery="sending", outage=self._orders.outage)

    def _turn(self, target: _Target, now_s: float) -> None:
        """Begin what is due, end what took too long."""
        if target.sock is not None:
            if now_s >= target.deadline_s:
                self._failed(target, "no answer" if target.sent else "no connection in time", now_s)
            return
        if target.report.delivery in ("sending", "not-delivered"):
            if now_s >= target.next_s:
                self._begin(target, now_s, probing=False)
        elif self._orders.prove and self._orders.outage is None and now_s >= target.reach_s:
            target.reach_s = now_s + REACH_S
            self._begin(target, now_s, probing=True)

    def _begin(self, target: _Target, now_s: float, *, probing: bool) -> None:
        target.probing, target.sent = probing, False
        target.answer.clear()
        if not probing:
            self._say(target, attempts=target.report.attempts + 1)
        if not target.addresses:
            self._failed(target, f"{target.server.address} could not be looked up", now_s)
            return
        family, place = target.addresses[max(0, target.report.attempts - 1) % len(target.addresses)]
        first = target.report.attempts <= 1
        target.deadline_s = now_s + (FIRST_PASS_S if first else CONNECT_S)
        try:
            sock = target.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.connect((place[0], target.server.port, *place[2:]))
        except BlockingIOError:
            pass  # under way
        except OSError as e:
            self._failed(target, e.strerror or str(e), now_s)
            return
        self._selector.register(sock, selectors.EVENT_WRITE, target)

    def _ready(self, target: _Target, now_s: float) -> None:
        """The socket can be written or read."""
        sock = target.sock
        if sock is None:
            return
        if not target.sent:
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._failed(target, os.strerror(error), now_s)
            elif target.probing:
                self._reached(target)
            else:
                self._send(target, sock, now_s)
            return
        try:
            data = sock.recv(ANSWER_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError as e:
            self._failed(target, f"refused ({e.strerror or e})", now_s)
            return
        if data:
            target.answer += data[: ANSWER_LIMIT_BYTES - len(target.answer)]
            return
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _unread_bytes(sock):
            self._failed(target, "closed without reading", now_s)
            return
        detail = "closed without a word" if not target.answer else f"answered {bytes(target.answer)!r}"[:DETAIL_LIMIT]
        self._close(target)
        log.info("%s: delivered, unconfirmed (%s)", target.server.name, detail)
        self._say(target, delivery="delivered-unconfirmed", state="reachable", detail=detail)

    def _send(self, target: _Target, sock: socket.socket, now_s: float) -> None:
        """The whole line in one write, then half-close: the peer's own close is its answer."""
        try:
            if sock.send(self._line) != len(self._line):
                self._failed(target, "the line was not taken whole", now_s)
                return
        except OSError as e:
            self._failed(target, e.strerror or str(e), now_s)
            return
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # reset meanwhile: reading says why
        target.sent, target.deadline_s = True, now_s + CLOSE_WAIT_S
        self._selector.modify(sock, selectors.EVENT_READ, target)

    def _reached(self, target: _Target) -> None:
        self._close(target)
        if target.report.state != "reachable":
            log.info("%s can be reached", target.server.name)
        self._say(target, state="reachable", detail="")

    def _failed(self, target: _Target, why: str, now_s: float) -> None:
        probing = target.probing
        self._close(target)
        if target.report.detail != why:
            log.warning("%s: %s", target.server.name, why)
        if probing:
            self._say(target, state="unknown", detail=why)
            target.reach_s = now_s + min(REACH_S, 60.0)
            return
        target.next_s = now_s + BACK_OFF_S[min(target.report.attempts, len(BACK_OFF_S)) - 1]
        self._say(target, delivery="not-delivered", detail=why)

    def _close(self, target: _Target) -> None:
        if target.sock is not None:
            if target.sock in self._selector.get_map():
                self._selector.unregister(target.sock)
            target.sock.close()
            target.sock = None
        target.probing = False

    def _say(self, target: _Target, **news: object) -> None:
        report = replace(target.report, **news)  # type: ignore[arg-type]  # names and types are Report's
        if report != target.report:
            target.report = report
            self._report(report)

    def _pause_s(self, now_s: float) -> float:
        """Until the next thing is due, at most half a second."""
        due_s = now_s + 0.5
        for target in self._targets.values():
            if target.sock is not None:
                due_s = min(due_s, target.deadline_s)
            elif target.report.delivery in ("sending", "not-delivered"):
                due_s = min(due_s, target.next_s)
        return max(0.0, due_s - now_s)


def _look_up(name: str, flags: int) -> tuple[Address, ...]:
    """The addresses of a name. OSError, UnicodeError if it has none."""
    found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=flags)
    return tuple(
        (int(row[0]), tuple(p if isinstance(p, int) else str(p) for p in row[4])) for row in found[:ADDRESSES_LIMIT]
    )


def _literal(address: str) -> tuple[Address, ...]:
    """The address that is written as one; empty for a name, which must be looked up."""
    try:
        return _look_up(address, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ()


def _unread_bytes(sock: socket.socket) -> int:
    """How much of what was sent the peer's machine has not taken (Linux SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0])
