"""Records what genuine RCCMD parts say: waits for them on their ports, or connects and shows each byte that comes.

A record is text, one block for each thing that happened; what is sent is shown as `hexdump -C` would:

    2026-11-26T02:17:31.123456Z tcp/6003 192.0.2.10:51234 connected
    2026-11-26T02:17:31.123999Z tcp/6003 192.0.2.10:51234 in, 45 bytes
        0000  43 4f 4e 4e 45 43 54 20  54 4f 20 52 43 43 4d 44  |CONNECT TO RCCMD|
    2026-11-26T02:17:31.124500Z tcp/6003 192.0.2.10:51234 FIN from the peer, 0.001 s after it connected

Nothing that is heard has any effect. docs/rccmd-compatibility.md says which records are missing and how to make them.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Callable, NamedTuple, TextIO

from .settings import address_of

PORTS = (6003, 6002, 5769)  # clients; the CS121 as a listener; UPSMON and the alive check
PORTS_LIMIT = 16
CONNECTIONS_LIMIT = 64  # one more closes the oldest
CONNECTION_LIMIT_BYTES = 64 * 1024  # one peer cannot fill the record
RECORD_LIMIT_BYTES = 16 * 1024 * 1024  # then the probe ends
SEND_LIMIT_BYTES = 2048
UDP_ANSWERS_LIMIT = 1000  # two probes that answer each other come to an end
DATAGRAM_LIMIT_BYTES = 65535
TURN_LIMIT = 64  # datagrams or connections taken in one turn
CONNECT_S = 5.0
LOOK_EVERY_S = 0.5  # how soon an interruption ends the probe: between two blocks, never inside one
GREETING_S = 3.0  # so long a peer may take to greet before we speak
IP_PKTINFO = 8  # Linux: says to which address a datagram was sent; Python 3.9 has no name for it

Clock = Callable[[], float]
Stopped = Callable[[], bool]


class Answer(NamedTuple):
    """What is said to each peer: `data` once, after its first bytes or (greet) before; `close_s` after its last."""

    data: bytes = b""
    greet: bool = False
    close_s: float | None = None  # None: the peer ends the connection


class Record:
    """Writes the blocks to every stream, until RECORD_LIMIT_BYTES are written. Wall clock in seconds since 1970."""

    def __init__(self, streams: Sequence[TextIO], wall: Clock = time.time) -> None:
        self._streams, self._wall = streams, wall
        self._left_bytes = RECORD_LIMIT_BYTES

    @property
    def full(self) -> bool:
        """No more is written."""
        return self._left_bytes <= 0

    def note(self, where: str, what: str, data: bytes = b"") -> None:
        """One block. Raises OSError if it cannot be written."""
        if self.full:
            return
        stamp = datetime.fromtimestamp(self._wall(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        block = f"{stamp} {where} {what}\n" + "".join(f"    {line}\n" for line in dump(data))
        self._left_bytes -= len(block)
        if self.full:
            block += f"{stamp} - the record is full ({RECORD_LIMIT_BYTES} bytes): the probe ends\n"
        for stream in self._streams:
            stream.write(block)
            stream.flush()


def dump(data: bytes) -> list[str]:
    """The bytes as lines of 16: offset, hex, printable ASCII."""
    lines = []
    for at in range(0, len(data), 16):
        piece = data[at : at + 16]
        digits = "  ".join(" ".join(f"{b:02x}" for b in half) for half in (piece[:8], piece[8:]) if half)
        shown = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in piece)
        lines.append(f"{at:04x}  {digits:<48}  |{shown}|")
    return lines


class _Connection:
    """One peer on TCP."""

    def __init__(self, sock: socket.socket, where: str, now_s: float) -> None:
        self.sock, self.where = sock, where
        self.began_s = self.heard_s = now_s
        self.got_bytes = 0
        self.answered = False


class Probe:
    """Listens on TCP and UDP and records. Clock: monotonic seconds. OSError names a port that cannot be had."""

    def __init__(self, bind: str, ports: Sequence[int], answer: Answer, record: Record, clock: Clock) -> None:
        self._answer, self._record, self._clock = answer, record, clock
        self._selector = selectors.DefaultSelector()
        self._connections: list[_Connection] = []  # oldest first
        self._sockets: list[socket.socket] = []
        self._udp_answers = 0
        self.ports: list[int] = []
        try:
            for port in ports:
                self._open(bind, port)
        except OSError:
            self.close()
            raise

    def _open(self, bind: str, port: int) -> None:
        family, _, _, _, where = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = socket.socket(family, kind)
            self._sockets.append(sock)
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            elif kind == socket.SOCK_DGRAM and sys.platform == "linux":
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(where)
                if kind == socket.SOCK_STREAM:
                    sock.listen(CONNECTIONS_LIMIT)
            except OSError as e:
                name = "tcp" if kind == socket.SOCK_STREAM else "udp"
                raise OSError(e.errno, f"{name}/{port} on {bind}: {e.strerror}") from e
            where = (where[0], sock.getsockname()[1], *where[2:])
            incoming = self._accept if kind == socket.SOCK_STREAM else self._datagrams
            self._selector.register(sock, selectors.EVENT_READ, lambda s=sock, f=incoming, p=where[1]: f(s, p))
        self.ports.append(int(where[1]))

    def turn(self, longest_s: float) -> None:
        """Wait at most so long for something to happen, and record it."""
        close_s = self._answer.close_s
        spoken = [] if close_s is None else [c for c in self._connections if c.got_bytes]
        if close_s is not None and spoken:
            longest_s = min(longest_s, max(0.0, min(c.heard_s for c in spoken) + close_s - self._clock()))
        for key, _ in self._selector.select(longest_s):
            key.data()
        now_s = self._clock()
        for c in list(self._connections):
            if close_s is not None and c.got_bytes and now_s - c.heard_s >= close_s:
                self._end(c, f"closed by the probe, {close_s:g} s after the peer's last byte")

    def close(self) -> None:
        """Close all; what is open is recorded as closed by the probe."""
        for connection in list(self._connections):
            self._end(connection, "closed by the probe, which ends")
        for sock in self._sockets:
            sock.close()
        self._selector.close()

    def _accept(self, listening: socket.socket, port: int) -> None:
        for _ in range(TURN_LIMIT):
            try:
                sock, peer = listening.accept()
            except OSError:  # nothing left, or the peer is gone
                return
            sock.setblocking(False)
            connection = _Connection(sock, f"tcp/{port} {_peer(peer)}", self._clock())
            self._connections.append(connection)
            self._selector.register(sock, selectors.EVENT_READ, lambda c=connection: self._readable(c))
            self._record.note(connection.where, "connected")
            if self._answer.greet:
                self._reply(connection)
            if len(self._connections) > CONNECTIONS_LIMIT:
                self._end(self._connections[0], f"closed by the probe: more than {CONNECTIONS_LIMIT} connections")

    def _readable(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return  # closed earlier in this turn
        try:
            data = connection.sock.recv(DATAGRAM_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError as e:
            word = "RST from the peer" if isinstance(e, ConnectionResetError) else f"failed ({e.strerror})"
            self._end(connection, f"{word}, {self._since(connection)}")
            return
        if not data:
            self._end(connection, f"FIN from the peer, {self._since(connection)}")
            return
        connection.heard_s = self._clock()
        connection.got_bytes += len(data)
        self._record.note(connection.where, f"in, {len(data)} bytes", data)
        if not connection.answered:
            self._reply(connection)
        if connection.got_bytes > CONNECTION_LIMIT_BYTES:
            self._end(connection, f"closed by the probe: more than {CONNECTION_LIMIT_BYTES} bytes")

    def _since(self, connection: _Connection) -> str:
        return f"{self._clock() - connection.began_s:.3f} s after it connected"

    def _reply(self, connection: _Connection) -> None:
        connection.answered = True
        if self._answer.data:
            try:
                sent = connection.sock.send(self._answer.data)
            except OSError as e:
                self._record.note(connection.where, f"the answer cannot be sent: {e.strerror}")
                return
            self._record.note(connection.where, f"out, {sent} bytes", self._answer.data[:sent])

    def _end(self, connection: _Connection, how: str) -> None:
        self._record.note(connection.where, how)
        self._connections.remove(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _datagrams(self, sock: socket.socket, port: int) -> None:
        for _ in range(TURN_LIMIT):
            try:
                data, to, peer = _receive(sock)
            except OSError:  # nothing left, or the echo of an answer that nobody took
                return
            where = f"udp/{port} {_peer(peer)}"
            self._record.note(where, f"in, {len(data)} bytes{to}", data)
            if self._answer.data and self._udp_answers < UDP_ANSWERS_LIMIT:
                self._udp_answers += 1
                try:
                    sock.sendto(self._answer.data, peer)
                except OSError as e:
                    self._record.note(where, f"the answer cannot be sent: {e.strerror}")
                    continue
                self._record.note(where, f"out, {len(self._answer.data)} bytes", self._answer.data)


def _receive(sock: socket.socket) -> tuple[bytes, str, tuple[str, int]]:
    """A datagram, " to ADDRESS" if the system says to which it was sent, and its sender."""
    if sys.platform != "linux" or sock.family != socket.AF_INET:
        data, peer = sock.recvfrom(DATAGRAM_LIMIT_BYTES)
        return data, "", peer
    data, extras, _, peer = sock.recvmsg(DATAGRAM_LIMIT_BYTES, socket.CMSG_SPACE(12))
    for level, kind, info in extras:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(info) >= 12:
            # struct in_pktinfo: interface index, local address, address in the datagram's header
            return data, f" to {socket.inet_ntoa(struct.unpack('i4s4s', info[:12])[2])}", peer
    return data, "", peer


def _peer(address: Sequence[object]) -> str:
    """192.0.2.10:51234 or [2001:db8::1]:51234."""
    host = str(address_of(str(address[0])))
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def listen(probe: Probe, record: Record, seconds: float | None, stopped: Stopped) -> None:
    """Record for so many seconds (None: until `stopped` says so) or until the record is full; then close."""
    began_s = time.monotonic()
    try:
        while not record.full and not stopped():
            left_s = LOOK_EVERY_S if seconds is None else began_s + seconds - time.monotonic()
            if left_s <= 0:
                break
            probe.turn(min(LOOK_EVERY_S, left_s))
    finally:
        probe.close()


def connect(
    host: str,
    port: int,
    data: bytes,
    record: Record,
    stopped: Stopped,
    *,
    seconds: float,
    half_close: bool = False,
    udp: bool = False,
) -> int:
    """Connect, wait for a greeting, send, record for `seconds` what comes. Returns 0; 1: no connection."""
    where = f"{'udp' if udp else 'tcp'}/{port} {host}"
    try:
        if udp:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, kind, protocol)
            sock.connect(address)
        else:
            sock = socket.create_connection((host, port), timeout=CONNECT_S)
    except OSError as e:
        record.note(where, f"no connection: {e.strerror or e}")
        return 1
    with sock:
        record.note(where, f"{'sending' if udp else 'connected'} from {_peer(sock.getsockname())}")
        listening = _Listening(sock, where, record, stopped)
        if data and not udp and not listening.hear(min(GREETING_S, seconds), "greeting"):
            return 0
        if data:
            sock.settimeout(CONNECT_S)
            try:
                sock.sendall(data)
            except OSError as e:
                record.note(where, f"cannot be sent: {e.strerror or e}")
                return 0
            record.note(where, f"out, {len(data)} bytes", data)
            if half_close and not udp:
                try:
                    sock.shutdown(socket.SHUT_WR)
                    record.note(where, "FIN from the probe")
                except OSError:
                    pass  # reset meanwhile: what is read next says so
        if listening.hear(seconds, "answer" if data else "greeting"):
            record.note(where, "closed by the probe, which ends")
    return 0


class _Listening(NamedTuple):
    """An open connection whose other side is recorded."""

    sock: socket.socket
    where: str
    record: Record
    stopped: Stopped

    def hear(self, seconds: float, what: str) -> bool:
        """Record what comes for so long. False: the peer has ended it, or the record is full."""
        began_s = time.monotonic()
        heard = False
        while (left_s := began_s + seconds - time.monotonic()) > 0 and not self.stopped():
            self.sock.settimeout(min(LOOK_EVERY_S, left_s))
            try:
                data = self.sock.recv(DATAGRAM_LIMIT_BYTES)
            except socket.timeout:
                continue
            except OSError as e:
                word = "RST from the peer" if isinstance(e, ConnectionResetError) else f"failed ({e.strerror})"
                self.record.note(self.where, f"{word}, {time.monotonic() - began_s:.3f} s later")
                return False
            if not data and self.sock.type == socket.SOCK_STREAM:
                self.record.note(self.where, f"FIN from the peer, {time.monotonic() - began_s:.3f} s later")
                return False
            heard = True
            self.record.note(self.where, f"in, {len(data)} bytes", data)
            if self.record.full:
                return False
        if not heard:
            self.record.note(self.where, f"no {what} within {time.monotonic() - began_s:.1f} s")
        return True
