"""The listener on a server: hears RCCMD on TCP and UDP, secure and classic, and gets every true command through.

    sender                               listener
      | connect ------------------------->|   not on the list: reset before a byte is read
      | first byte 0x16: TLS ------------>|   no certificate that it knows: an alert, and the end
      | RT1 SHUTDOWN 00c0ffee00c0ffee LF->|
      |<------- RT1 accepted LF, and FIN -|   secure.py draws the lines
      |                                   |
      | else CONNECT TO ... SHUTDOWN LF ->|   not a command, nothing configured for it, or only TLS allowed: reset
      |<-------------------------- FIN ---|   accepted (or a duplicate); never a byte of answer

One loop, no threads. A connection that does not come to the point is reset, and so is the oldest one when too many
are open, so that neither idle nor hostile connections can keep a command out.
"""

from __future__ import annotations

import selectors
import signal
import socket
import struct
from types import FrameType
from typing import TYPE_CHECKING, Callable

from . import secure
from .codec import LIMIT_BYTES, Command, Refused, parse
from .journal import Journal
from .orders import Orders
from .queueing import Connection, next_ones, victim
from .settings import Settings, address_of
from .status import Status

if TYPE_CHECKING:
    from .trust import Trust

CONNECTIONS_LIMIT = 32  # more would only wait longer before they are dropped
BACKLOG = 1024  # connections that the kernel holds for us; one too many costs its sender a second (its SYN is lost)
HANDSHAKES_LIMIT = 8  # TLS that is worked on in one turn
TURN_LIMIT = 16  # connections or datagrams taken in one turn before the others have theirs
DEADLINE_S = 10.0  # a connection's whole life until its command is complete
DRAIN_S = 1.0  # after accepting: how long to wait for the sender's own end
DRAIN_LIMIT_BYTES = 64 * 1024
PAUSE_S = 1.0  # accepting rests so long when the system has no descriptor to give
SUMMARY_EVERY_S = 5.0  # how soon lines that were left out are looked at again

Clock = Callable[[], float]


class Listener:
    """The open sockets and what comes in by them. `clock` gives monotonic seconds; OSError if it cannot listen."""

    def __init__(
        self,
        settings: Settings,
        orders: Orders,
        journal: Journal,
        clock: Clock,
        trust: Trust | None = None,
        status: Status | None = None,
    ) -> None:
        self._trust, self._status = trust, status
        self._problem = ""  # what of the keys cannot be used, as the log has it
        self._settings, self._orders, self._journal, self._clock = settings, orders, journal, clock
        self._selector = selectors.DefaultSelector()
        self._connections: dict[Connection, None] = {}  # oldest first
        self._tcp, self._udp = _open(settings)
        self._resting_until_s: float | None = None
        self.port: int = self._tcp.getsockname()[1]
        if status is not None:
            status.restore(clock())
        if trust is not None:
            self._say_problem(trust)
            voices = len(list(trust.names()))
            if settings.require_tls and voices < settings.need:
                outcome = f"warning: {voices} adapters in {settings.senders}, but {settings.need} must ask"
                journal.line("-", "-", outcome)
        self._selector.register(self._tcp, selectors.EVENT_READ, self._incoming)
        if self._udp is not None:
            self._selector.register(self._udp, selectors.EVENT_READ, self._datagrams)

    def test_now(self) -> None:
        """Somebody wants the self test."""
        self._orders.selftest.wished = True

    def wake_by(self, sock: socket.socket) -> None:
        """Let a byte on this socket end a turn that waits."""
        self._selector.register(sock, selectors.EVENT_READ, lambda now_s: sock.recv(LIMIT_BYTES))

    def turn(self, longest_s: float | None = None) -> None:
        """Wait for something to happen (at most `longest_s`; None: as long as it takes) and deal with it."""
        due_s = self._due_s()
        if any(c.waiting is not None for c in self._connections):
            due_s = self._clock()
        wait_s = longest_s
        if due_s is not None:
            wait_s = max(0.0, due_s - self._clock())
            wait_s = wait_s if longest_s is None else min(wait_s, longest_s)
        for key, _ in self._selector.select(wait_s):
            key.data(self._clock())
        now_s = self._clock()
        for connection in next_ones(self._connections, HANDSHAKES_LIMIT):
            self._secure(connection, now_s)
        for connection in list(self._connections):
            self._timed(connection, now_s)
        if self._resting_until_s is not None and now_s >= self._resting_until_s:
            self._resting_until_s = None
            self._selector.register(self._tcp, selectors.EVENT_READ, self._incoming)
        self._orders.tick(now_s)
        self._journal.tick(now_s)
        if self._status is not None:
            self._status.tick(now_s)

    def close(self) -> None:
        """Close all sockets; what is not accepted is reset."""
        for connection in list(self._connections):
            self._close(connection, reset=not connection.heard)
        self._tcp.close()
        if self._udp is not None:
            self._udp.close()
        self._selector.close()
        self._orders.close()

    def _due_s(self) -> float | None:
        now_s = self._clock()
        times = [c.until_s for c in self._connections]
        times += [c.feed.idle_at_s for c in self._connections if c.feed.idle_at_s > now_s]
        status_s = None if self._status is None else self._status.due_s(now_s)
        times += [due_s for due_s in (self._orders.due_s(now_s), status_s) if due_s is not None]
        if self._resting_until_s is not None:
            times.append(self._resting_until_s)
        if self._journal.dropped:
            times.append(now_s + SUMMARY_EVERY_S)
        return min(times, default=None)

    # --- TCP ---------------------------------------------------------------------------------------------------

    def _incoming(self, now_s: float) -> None:
        for _ in range(TURN_LIMIT):
            try:
                sock, peer = self._tcp.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as e:  # no descriptor or memory left: the socket stays readable, so rest
                self._journal.limited("refused", "-", "-", f"cannot take connections: {e.strerror}", now_s)
                self._selector.unregister(self._tcp)
                self._resting_until_s = now_s + PAUSE_S
                return
            sock.setblocking(False)
            address = address_of(peer[0])
            connection = Connection(sock, str(address), now_s + DEADLINE_S)
            if not self._settings.allows(address):
                self._journal.limited("strangers", str(address), "-", "refused, not on the list", now_s)
                _shut(sock, reset=True)
                continue
            if len(self._connections) >= CONNECTIONS_LIMIT:
                self._evict(now_s)
            self._connections[connection] = None
            self._selector.register(sock, selectors.EVENT_READ, lambda now_s, c=connection: self._readable(c, now_s))
            self._readable(connection, now_s)  # the command mostly comes along with the connection

    def _evict(self, now_s: float) -> None:
        gone = victim(self._connections)
        if not gone.heard:
            self._journal.limited("refused", gone.sender, "-", "reset, too many connections", now_s)
        self._close(gone, reset=not gone.heard)

    def _readable(self, connection: Connection, now_s: float) -> None:
        if connection not in self._connections:
            return  # closed earlier in this turn
        if connection.heard:
            self._drain(connection)
            return
        if connection.waiting is not None:
            return  # what it says next waits in the kernel
        try:
            data = connection.sock.recv(LIMIT_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:  # the sender reset it
            self._refuse(connection, "reset by the sender before its command was complete", now_s)
            return
        if not data and connection.feed.empty and not connection.secure:
            self._close(connection, reset=True)  # somebody looked whether the port is open; not worth a line
            return
        if not connection.secure and self._trust is not None and connection.feed.empty:
            connection.secure = data[0] == secure.FIRST_BYTE
            if not connection.secure and self._settings.require_tls:
                self._refuse(connection, f"refused, not secure: {data[:80]!r}", now_s)
                return
        if connection.secure:
            connection.waiting = data
            return
        try:
            command = connection.feed.feed(data, now_s) if data else connection.feed.end()
        except Refused as e:
            self._refuse(connection, f"refused, not a command: {e}", now_s)
            return
        if command is not None:
            self._command(connection, command, now_s)

    def _command(self, connection: Connection, command: Command, now_s: float) -> None:
        if not self._orders.take(command, connection.sender, now_s):
            self._close(connection, reset=True)
            return
        self._finish(connection, b"", now_s)

    def _secure(self, connection: Connection, now_s: float) -> None:
        """Work on the ciphertext that waits."""
        data, connection.waiting = connection.waiting or b"", None
        if connection.tls is None and self._trust is not None:
            connection.tls = self._trust.line()
            self._say_problem(self._trust)
        if (tls := connection.tls) is None:
            return
        connection.steps += 1
        try:
            line = connection.line.feed(tls.feed(data))
            if line is None and not data:
                raise secure.NotSecure("ended before its command was complete")
        except secure.NotSecure as e:
            self._journal.limited("refused", connection.sender, "-", f"refused, TLS: {e}", now_s)
            self._finish(connection, tls.out(), now_s)  # with the alert that says why
            return
        except secure.Malformed as e:
            self._journal.limited("refused", f"{tls.name} ({connection.sender})", "-", f"refused, {e}", now_s)
            tls.say(secure.encode_reply(secure.Reply(secure.REFUSED, {"why": e.why})))
            self._finish(connection, tls.out(), now_s)
            return
        if line is not None and not tls.trusted():
            self._journal.limited(
                "refused", connection.sender, "-", f"refused, {tls.name} is not trusted any more", now_s
            )
            self._finish(connection, tls.out(), now_s)
        elif line is not None:
            tls.say(secure.encode_reply(self._orders.answer(line, tls.name, connection.sender, now_s)))
            self._finish(connection, tls.out(), now_s)
        elif (out := tls.out()) and not _write(connection.sock, out):
            self._refuse(connection, "reset, it does not read", now_s)

    def _say_problem(self, trust: Trust) -> None:
        """Say once what is wrong with the files of keys."""
        if trust.problem != self._problem:
            self._problem = trust.problem
            self._journal.line("-", "-", f"warning: {self._problem or 'the keys are in order again'}")

    def _finish(self, connection: Connection, data: bytes, now_s: float) -> None:
        """Write the last bytes and our end, then wait a little for the sender's own."""
        if data:
            _write(connection.sock, data)
        connection.heard = True
        connection.until_s = now_s + DRAIN_S
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the sender is gone already; its command counts all the same
        self._drain(connection)

    def _drain(self, connection: Connection) -> None:
        """Read what follows the command until the sender's end: unread bytes would turn our close into a reset."""
        try:
            while connection.drained_bytes <= DRAIN_LIMIT_BYTES:
                data = connection.sock.recv(LIMIT_BYTES)
                if not data:
                    break
                connection.drained_bytes += len(data)
        except BlockingIOError:
            return
        except OSError:
            pass  # reset: that is an end as well
        self._close(connection, reset=False)

    def _timed(self, connection: Connection, now_s: float) -> None:
        if connection.heard:
            if now_s >= connection.until_s:
                self._close(connection, reset=False)
        elif not connection.secure and (command := connection.feed.idle(now_s)) is not None:
            self._command(connection, command, now_s)
        elif now_s >= connection.until_s:
            self._refuse(connection, f"refused, no command within {DEADLINE_S:.0f} s", now_s)

    def _refuse(self, connection: Connection, outcome: str, now_s: float) -> None:
        self._journal.limited("refused", connection.sender, "-", outcome, now_s)
        self._close(connection, reset=True)

    def _close(self, connection: Connection, *, reset: bool) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.sock)
        _shut(connection.sock, reset=reset)

    # --- UDP ---------------------------------------------------------------------------------------------------

    def _datagrams(self, now_s: float) -> None:
        if self._udp is None:
            return
        for _ in range(TURN_LIMIT):
            try:
                data, peer = self._udp.recvfrom(LIMIT_BYTES + 1)
            except OSError:  # nothing left, or the echo of something we did not send
                return
            address = address_of(peer[0])
            sender = str(address)
            if not self._settings.allows(address):
                self._journal.limited("strangers", sender, "-", "ignored, not on the list (udp)", now_s)
            elif self._settings.require_tls:
                self._journal.limited("refused", sender, "-", "ignored, not secure (udp)", now_s)
            elif (command := parse(data)) is None:
                self._journal.limited("refused", sender, "-", f"ignored, not a command: {data[:80]!r} (udp)", now_s)
            else:
                self._orders.take(command, sender, now_s)


def _shut(sock: socket.socket, *, reset: bool) -> None:
    """Close: normally (FIN), or so that the other side sees a reset (RST)."""
    if reset:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the other side was faster
    sock.close()


def _write(sock: socket.socket, data: bytes) -> bool:
    """All of these few bytes at once: they fit the buffer of any connection whose peer takes part."""
    try:
        return sock.send(data) == len(data)
    except OSError:
        return False


def _open(settings: Settings) -> tuple[socket.socket, socket.socket | None]:
    """The listening sockets, both on the same port; an IPv6 wildcard takes IPv4 as well. Raises OSError."""
    family, _, _, _, where = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    opened: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)[: 2 if settings.udp else 1]:
            sock = socket.socket(family, kind)
            opened.append(sock)
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(where)
                sock.listen(BACKLOG)
                where = (where[0], sock.getsockname()[1], *where[2:])
            else:
                sock.bind(where)
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened[0], opened[1] if settings.udp else None


def run(listener: Listener, settings: Settings, journal: Journal) -> None:
    """Listen until SIGTERM or SIGINT, then close."""
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    listener.wake_by(woken)
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    if hasattr(signal, "SIGUSR1"):
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda number, frame: listener.test_now())
    fd_before = signal.set_wakeup_fd(wake.fileno())
    transports = "tcp and udp" if settings.udp else "tcp"
    if settings.tls is not None:
        transports += ", secure only" if settings.require_tls else ", secure and classic"
    allowed = ",".join(map(str, settings.allow)) or "any address with a certificate of senders"
    journal.line("-", "-", f"listening on {settings.host}:{listener.port} {transports}, allowed: {allowed}")
    if not settings.on_shutdown:
        journal.line("-", "-", "warning: no on_shutdown is configured, a SHUTDOWN will be refused")
    if any(network.prefixlen == 0 for network in settings.allow):
        journal.line("-", "-", "warning: the list allows every address in the world")
    try:
        while not stopping:
            listener.turn()
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()
        woken.close()
        wake.close()
    journal.line("-", "-", f"stopped by {signal.Signals(stopping[0]).name}")
