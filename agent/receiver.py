"""One manager that gets SNMP notifications: what waits for it, what it has confirmed, and how it is spoken to."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import ber, usm, v3
from .ber import OCTET_STRING, Malformed
from .notices import Notice

log = logging.getLogger(__name__)

QUEUE_LIMIT = 256  # notices that wait for one receiver
SAME_KIND_S = 5.0  # RFC 1628: at most one of a kind
INFORM_AGAIN_S, INFORM_TRIES = 5.0, 4
DATAGRAM_LIMIT_BYTES = 2048
ANY_V4 = bytes(4)


@dataclass
class _Sent:
    """An inform that is not confirmed."""

    notice: Notice
    request_id: int
    tries: int
    next_s: float


class Receiver:
    """One receiver. `user`, `engine` and `clock_s`: of version 3, our own engine and its time."""

    def __init__(
        self,
        address: tuple[str, int],
        version: int,
        *,
        community: bytes = b"",
        inform: bool = False,
        user: usm.User | None = None,
        engine: v3.Engine | None = None,
        for_engine: Callable[[bytes], usm.User] | None = None,
        sent: Callable[[], None] = lambda: None,
    ) -> None:
        """`for_engine(id)`: the user with keys for the receiver's engine, which informs need; `sent` counts."""
        self.name = f"{address[0]}:{address[1]}"
        self.dropped = 0
        self._address, self._version, self._community, self._inform = address, version, community, inform
        self._user, self._engine, self._for_engine, self._count = user, engine, for_engine, sent
        self._waiting: deque[Notice] = deque()
        self._last_s: dict[ber.Oid, float] = {}  # by kind
        self._open: _Sent | None = None
        self._peer: tuple[bytes, int, float, usm.User] | None = None  # engineID, boots, its zero in our time, user
        self._salts = usm.Salts()
        self._sock: socket.socket | None = None
        self._said = ""
        self._spilt = self._refused = self._deaf = False  # what the log has; has an ICMP message come back?

    @property
    def busy(self) -> bool:
        """Is there something that it has not got?"""
        return bool(self._waiting or self._open)

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def put(self, notices: Iterable[Notice]) -> None:
        """Let these be sent. A repetition takes the place of what still waits; of too many the oldest are dropped,
        and counted."""
        for notice in notices:
            same = max((i for i, n in enumerate(self._waiting) if n.about == notice.about), default=None)
            if same is not None and notice.about and self._waiting[same].trap == notice.trap:
                self._waiting[same] = notice
                continue
            if len(self._waiting) >= QUEUE_LIMIT:
                self._waiting.popleft()
                self.dropped += 1
                if not self._spilt:
                    log.warning("notify: %s gets too many, the oldest are dropped: %d", self.name, self.dropped)
                self._spilt = True
            self._waiting.append(notice)

    def turn(self, now_s: float) -> None:
        """Send what is due, and take what has come back."""
        try:
            sock = self._socket()
            self._hear(sock, now_s)
            if self._open is not None:
                self._repeat(sock, now_s)
            while self._open is None and (notice := self._next(now_s)) is not None:
                if self._inform:
                    self._waiting.remove(notice)
                    self._open = _Sent(notice, secrets.randbits(31), 0, now_s)
                    self._last_s[notice.trap] = now_s
                    self._repeat(sock, now_s)
                else:
                    self._send(sock, self._trap(notice, now_s))
                    self._waiting.remove(notice)  # not before it is sent
                    self._last_s[notice.trap] = now_s
            self._spilt = self._spilt and bool(self._waiting)
        except OSError as e:  # no route: the next turn tries again
            self._say(e.strerror or str(e))

    def _say(self, what: str) -> None:
        if self._said != what:
            log.warning("notify: %s: %s", self.name, what)
        self._said = what

    def _send(self, sock: socket.socket, data: bytes) -> None:
        """OSError: it has not left. That nobody listens there is told of the datagram before, in place of a send."""
        refused, self._refused = self._refused, False
        try:
            sock.send(data)
        except ConnectionRefusedError as e:
            refused = True
            self._say(e.strerror or str(e))
            sock.send(data)
        if not refused:
            self._said = ""
        self._count()

    def _next(self, now_s: float) -> Notice | None:
        """The oldest whose kind may be sent now, and that passes no earlier one of the same alarm or interface."""
        held = set()
        for notice in self._waiting:
            due = now_s - self._last_s.get(notice.trap, -SAME_KIND_S) >= SAME_KIND_S
            if due and notice.about not in held:
                return notice
            if notice.about:
                held.add(notice.about)
        return None

    def _socket(self) -> socket.socket:
        if self._sock is None:
            v6 = isinstance(ipaddress.ip_address(self._address[0]), ipaddress.IPv6Address)
            sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
            try:
                sock.setblocking(False)
                sock.connect(self._address)
            except OSError:
                sock.close()
                raise
            self._sock = sock
        return self._sock

    # -- traps

    def _trap(self, notice: Notice, now_s: float) -> bytes:
        if self._version == ber.V1:
            return notice.of_version_1(self._own_address(), self._community)
        if self._version == ber.V2C:
            return notice.of_version_2(self._prefix(), secrets.randbits(31), inform=False)
        if self._engine is None or self._user is None:
            raise OSError("version 3 is off")
        engine, user = self._engine, self._user
        scoped = notice.of_version_2(_context(engine.id), secrets.randbits(31), inform=False)
        time_s = int(now_s - engine.started_s)
        name = user.name.encode()
        return v3.seal(
            secrets.randbits(31), user.level, engine.id, engine.boots, time_s, user, name, scoped, self._salts
        )

    def _prefix(self) -> bytes:
        return ber.integer(ber.V2C) + ber.tlv(OCTET_STRING, self._community)

    def _own_address(self) -> bytes:
        """From which a trap of version 1 says that it comes."""
        own = self._sock.getsockname()[0] if self._sock is not None else ""
        try:
            return ipaddress.IPv4Address(own).packed
        except ValueError:
            return ANY_V4

    # -- informs

    def _repeat(self, sock: socket.socket, now_s: float) -> None:
        sent = self._open
        if sent is None or now_s < sent.next_s:
            return
        if sent.tries >= INFORM_TRIES:
            if not self._deaf:
                log.warning("notify: %s does not confirm: given up after %d tries", self.name, sent.tries)
            self._deaf, self._open = True, None
            return
        self._send(sock, self._inform_of(sent, now_s))  # what has not left is no try
        sent.tries, sent.next_s = sent.tries + 1, now_s + INFORM_AGAIN_S

    def _inform_of(self, sent: _Sent, now_s: float) -> bytes:
        if self._version == ber.V2C:
            return sent.notice.of_version_2(self._prefix(), sent.request_id, inform=True)
        if self._peer is None:  # who is it? (RFC 3414 section 4)
            empty = ber.message(_context(b""), ber.GET, ber.integer(sent.request_id), 0, 0, b"")
            return v3.seal(sent.request_id, v3.REPORTABLE, b"", 0, 0, None, b"", empty, self._salts)
        engine, boots, zero_s, user = self._peer
        scoped = sent.notice.of_version_2(_context(engine), sent.request_id, inform=True)
        return v3.seal(
            sent.request_id, user.level | v3.REPORTABLE, engine, boots, int(now_s - zero_s), user, user.name.encode(),
            scoped, self._salts,
        )  # fmt: skip

    def _hear(self, sock: socket.socket, now_s: float) -> None:
        for _ in range(QUEUE_LIMIT):
            try:
                data = sock.recv(DATAGRAM_LIMIT_BYTES)
            except BlockingIOError:
                return
            except ConnectionRefusedError as e:
                self._refused = True
                self._say(e.strerror or str(e))
                continue
            sent = self._open
            if sent is None:
                continue
            try:
                done = self._confirms(data, sent, now_s)
            except (Malformed, usm.Unreadable) as e:
                log.debug("notify: from %s: %s", self.name, e)
                continue
            if done:
                self._deaf, self._open, self._said = False, None, ""

    def _confirms(self, data: bytes, sent: _Sent, now_s: float) -> bool:
        """Is this the answer to the inform? Malformed, Unreadable."""
        if self._version == ber.V2C:
            header = ber.read_header(data)
            pdu = ber.read_pdu(data, header.pdu_at)
            return pdu.tag == ber.RESPONSE and pdu.request_id == ber.integer(sent.request_id)
        message = v3.read(data)
        if message.msg_id != sent.request_id or self._for_engine is None:
            return False
        if self._peer is None or message.engine_id != self._peer[0]:
            if self._peer is None and message.level == usm.NO_AUTH and message.engine_id:
                self._meet(message, self._for_engine(message.engine_id), now_s, sent)
            return False
        user = self._peer[3]
        scoped = v3.opened(data, message, user)
        pdu = v3.read_scoped(scoped)[3]
        if pdu.tag == ber.REPORT and message.level:  # signed: our idea of its time was wrong
            self._meet(message, user, now_s, sent)
        return pdu.tag == ber.RESPONSE and pdu.request_id == ber.integer(sent.request_id)

    def _meet(self, message: v3.Message, user: usm.User, now_s: float, sent: _Sent) -> None:
        self._peer = message.engine_id, message.boots, now_s - message.time_s, user
        sent.next_s = now_s  # at once


def _context(engine: bytes) -> bytes:
    return ber.tlv(OCTET_STRING, engine) + ber.tlv(OCTET_STRING, b"")
