"""One manager that gets SNMP notifications: what waits for it, what it has confirmed, and how it is spoken to."""

from __future__ import annotations

import ipaddress
import logging
import math
import secrets
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from . import ber, usm, v3
from .ber import OCTET_STRING, Malformed
from .mib import Engine
from .notices import Notice

log = logging.getLogger(__name__)

QUEUE_LIMIT = 256  # notices that wait for one receiver
SAME_KIND_S = 5.0  # RFC 1628: at most one of a kind
INFORM_AGAIN_S, INFORM_TRIES = 5.0, 4
CANDIDATE_EVERY_S = 60.0  # how often an engine may be tried that only an unsigned report speaks of
DATAGRAM_LIMIT_BYTES = 2048
ANY_V4 = bytes(4)
ENGINE_ID_BYTES = range(5, 33)  # RFC 3411 section 5
#: what a receiver says to a message for another engine; the second if it is a manager, too (RFC 3414 section 3.2, 3a)
_OTHER_ENGINE = [
    (ber.oid_body((*v3.REPORTS[name], 0)),) for name in ("usmStatsUnknownEngineIDs", "usmStatsUnknownUserNames")
]
_OTHER_TIME = ber.oid_body((*v3.REPORTS["usmStatsNotInTimeWindows"], 0))


class _Peer(NamedTuple):
    """The engine of a receiver of version 3."""

    engine_id: bytes
    boots: int
    zero_s: float  # the second of our time at which its own began
    user: usm.User  # with keys for it


@dataclass
class _Sent:
    """An inform that is not confirmed."""

    notice: Notice
    request_id: int
    tries: int
    next_s: float
    to: _Peer | None = None  # the candidate to which it goes next, in place of the peer
    asked_other: bool = False  # has it gone to a candidate since the last try?


class Receiver:
    """One receiver. `user`, `engine` and `clock_s`: of version 3, our own engine and its time."""

    def __init__(
        self,
        address: tuple[str, int],
        version: int,
        *,
        name: str = "",
        community: bytes = b"",
        inform: bool = False,
        user: usm.User | None = None,
        engine: Engine | None = None,
        for_engine: Callable[[bytes], usm.User] | None = None,
        sent: Callable[[], None] = lambda: None,
        leaves: Callable[[], bool] = lambda: True,
    ) -> None:
        """`name`: no two receivers have the same; `for_engine(id)`: the user with keys for its engine, which informs
        need; `sent` counts; `leaves`: is there a carrier on the way to it?"""
        self.name = name or f"{address[0]}:{address[1]}"
        self.dropped = 0
        self._address, self._version, self._community, self._inform = address, version, community, inform
        self._user, self._engine, self._for_engine, self._count = user, engine, for_engine, sent
        self._leaves = leaves
        self._waiting: deque[Notice] = deque()
        self._last_s: dict[ber.Oid, float] = {}  # by kind
        self._turn_s: dict[str, float] = {}  # by what it is about, of what still waits
        self._open: _Sent | None = None
        self._peer: _Peer | None = None  # has confirmed something, signed
        self._candidate: _Peer | None = None  # an unsigned report names it
        self._candidate_s = -CANDIDATE_EVERY_S  # when one was taken beside a peer
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
        """Let these be sent. A repetition takes the place of what still waits; of too many the oldest are dropped and
        counted, of the alarm of which most wait."""
        for notice in notices:
            same = max((i for i, n in enumerate(self._waiting) if n.about == notice.about), default=None)
            if same is not None and notice.about and self._waiting[same].trap == notice.trap:
                self._waiting[same] = notice
                continue
            if len(self._waiting) >= QUEUE_LIMIT:
                [(most, _)] = Counter(n.about for n in self._waiting).most_common(1)
                self._waiting.remove(next(n for n in self._waiting if n.about == most))
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
            if self.busy and not self._leaves():  # it would be lost without a word
                self._say("no carrier")
                return
            if self._open is not None:
                self._repeat(sock, now_s)
            while self._open is None and (notice := self._next(now_s)) is not None:
                if self._inform:
                    self._has_left(notice, now_s)
                    self._open = _Sent(notice, secrets.randbits(31), 0, now_s)
                    self._repeat(sock, now_s)
                else:
                    self._send(sock, self._trap(notice, now_s))
                    self._has_left(notice, now_s)  # not before it is sent
            self._spilt = self._spilt and bool(self._waiting)
        except OSError as e:  # no route, or the address that we had is gone: the next turn tries again
            self._say(e.strerror or str(e))
            self.close()

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
        """One whose kind may be sent now, and that passes no earlier one of the same alarm or interface: these take
        turns, so one that comes and goes without an end holds no other up. Else the oldest."""
        held, found = set(), []
        for notice in self._waiting:
            due = now_s - self._last_s.get(notice.trap, -SAME_KIND_S) >= SAME_KIND_S
            if due and notice.about not in held:
                found.append(notice)
            if notice.about:
                held.add(notice.about)
        return min(found, key=lambda notice: self._turn_s.get(notice.about, -math.inf), default=None)

    def _has_left(self, notice: Notice, now_s: float) -> None:
        """It waits no more, or is the inform that is repeated."""
        self._waiting.remove(notice)
        self._last_s[notice.trap] = now_s
        waiting = {n.about for n in self._waiting}
        self._turn_s = {about: turn_s for about, turn_s in self._turn_s.items() if about in waiting}
        self._turn_s[notice.about] = now_s

    def _socket(self) -> socket.socket:
        if self._sock is None:
            # `connect` alone would forget the interface of fe80::1%eth0
            found = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
            family, kind, proto, _, place = found[0]
            sock = socket.socket(family, kind, proto)
            try:
                sock.setblocking(False)
                sock.connect(place)
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
        time_s = engine.time_s(now_s)
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
        to = sent.to or self._peer
        self._send(sock, self._inform_of(sent, to, now_s))  # what has not left is no try
        sent.tries, sent.next_s = sent.tries + 1, now_s + INFORM_AGAIN_S
        sent.to, sent.asked_other = None, sent.to is not None

    def _inform_of(self, sent: _Sent, to: _Peer | None, now_s: float) -> bytes:
        if self._version == ber.V2C:
            return sent.notice.of_version_2(self._prefix(), sent.request_id, inform=True)
        if to is None:  # who is it? (RFC 3414 section 4)
            empty = ber.message(_context(b""), ber.GET, ber.integer(sent.request_id), 0, 0, b"")
            return v3.seal(sent.request_id, v3.REPORTABLE, b"", 0, 0, None, b"", empty, self._salts)
        scoped = sent.notice.of_version_2(_context(to.engine_id), sent.request_id, inform=True)
        name, time_s = to.user.name.encode(), int(now_s - to.zero_s)
        flags = to.user.level | v3.REPORTABLE
        return v3.seal(sent.request_id, flags, to.engine_id, to.boots, time_s, to.user, name, scoped, self._salts)

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
        if message.level == usm.NO_AUTH:
            self._suspect(message, self._for_engine, sent, now_s)
            return False
        peer = next((p for p in (self._peer, self._candidate) if p and p.engine_id == message.engine_id), None)
        if peer is None:
            return False
        pdu = v3.read_scoped(v3.opened(data, message, peer.user))[3]
        if pdu.tag == ber.REPORT and pdu.names == (_OTHER_TIME,):
            timed = peer._replace(boots=message.boots, zero_s=now_s - message.time_s)
            if peer is self._peer:
                self._peer = timed
            else:
                self._candidate = sent.to = timed
            sent.next_s = now_s  # at once
        if pdu.tag != ber.RESPONSE or pdu.request_id != ber.integer(sent.request_id):
            return False
        self._peer, self._candidate = peer, None
        return True

    def _suspect(
        self, message: v3.Message, for_engine: Callable[[bytes], usm.User], sent: _Sent, now_s: float
    ) -> None:
        """An unsigned report says that another engine is there: that may be so, or be forged. It is told once after
        each try of ours; the peer stays the peer until the other has confirmed something."""
        engine_id, pdu = message.engine_id, v3.read_scoped(message.scoped)[3]
        if pdu.tag != ber.REPORT or pdu.names not in _OTHER_ENGINE or sent.asked_other:
            return
        known = {self._engine.id if self._engine else b"", self._peer.engine_id if self._peer else b""}
        if len(engine_id) not in ENGINE_ID_BYTES or engine_id in known:
            return
        if self._candidate is None or self._candidate.engine_id != engine_id:
            if self._peer is not None:
                if now_s - self._candidate_s < CANDIDATE_EVERY_S:
                    return
                self._candidate_s = now_s
            self._candidate = _Peer(engine_id, message.boots, now_s - message.time_s, for_engine(engine_id))
        sent.to, sent.asked_other = self._candidate, True
        sent.tries, sent.next_s = sent.tries - 1, now_s  # at once, and none of its tries


def _context(engine: bytes) -> bytes:
    return ber.tlv(OCTET_STRING, engine) + ber.tlv(OCTET_STRING, b"")
