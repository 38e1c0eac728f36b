"""Answers SNMP managers (versions 1, 2c and 3) with what the UPS says: the socket, and the way of a datagram.

One UDP socket, and one thread that answers; what managers set is done in another (`setter`). A datagram is looked at
in this order, and dropped without a word at the first that fails: size, source network, rate, form of the header,
version, community, form of the request.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Container, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from . import addresses, ber, config, enginemib, mib2, pdu, upsman, upsmib, upsset, usm, v3
from .gate import Gate
from .mib import NOTHING, Look, Table, ticks
from .model import ConfigError, View
from .netif import Interfaces
from .refusals import Refusals
from .setter import Result, Setter
from .upsset import Writer

log = logging.getLogger(__name__)

REQUEST_LIMIT_BYTES = v3.SIZE_LIMIT  # of all versions
REPLY_LIMIT_BYTES = {socket.AF_INET: 1472, socket.AF_INET6: 1452}  # an unfragmented reply
RECEIVE_BUFFER_BYTES = 256 * 1024
INTERFACES_FOR_S = 2.0  # how long the numbers of /sys are good
REFUSALS_LOGGED_EVERY_S = 60.0
WAKE_US = 250_000  # how soon `run` sees that it shall stop
IP_PKTINFO = 8  # Linux, ip(7); not in Python's socket module

Clock = Callable[[], float]
#: the sender, and what goes along so that he is answered from the address that he asked
Way = tuple[Any, list[tuple[int, int, bytes]]]


def _wake_now_and_then(sock: socket.socket) -> None:
    """Let a blocking receive end with BlockingIOError after WAKE_US. Python's own time-out costs a poll each time."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, WAKE_US))
    except OSError:  # a 32-bit system with 64-bit time
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, WAKE_US))


class _RefusedError(Exception):
    """A datagram is not answered; the text says why, for the counters and the log."""


# --- the agent --------------------------------------------------------------------------------------------------


class Agent:
    """One SNMP agent: `bind`, then `run` in a thread of its own, until `stop`."""

    def __init__(
        self,
        settings: config.Snmp,
        secrets: Mapping[str, str],
        view: Callable[[], View],
        started_s: float,
        *,
        host: str = "",
        responder: v3.Responder | None = None,
        keys: Container[str] = (),
        writer: Writer | None = None,
        interfaces: Interfaces | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """`secrets` gives the community strings by label; `view` the newest View, never waiting; `started_s` is the
        monotonic second from which sysUpTime counts; `host` is sysName as long as the view has no name (default: the
        machine's); `keys`: the users of version 3, whose `responder` may be set later; `writer` does what is set."""
        self.settings = settings
        self.responder, self.writer = responder, writer or Writer()
        self.gate = Gate(settings, secrets, responder.users if responder else keys)
        self.counts = mib2.new_counts()
        self.on_refused: Callable[[], None] = lambda: None  # a wrong community or key
        self.refused: dict[str, int] = {}  # why -> how many, since the start
        self._view, self._clock, self._started_s = view, clock, started_s
        self._host = host or socket.gethostname()
        self._switches = settings.auth_traps, settings.lenient_scalars, settings.upsman_mib
        self._interfaces = interfaces or Interfaces()
        self._alarms = upsmib.Alarms()
        self._questions: ber.Questions[ber.Header] = ber.Questions()
        self._looking = threading.Lock()
        self._seen: View | None = None
        self._kept: dict[bytes, bytes] = {}
        self._ports: Mapping[int, tuple[object, ...]] = {}
        self._ports_due_s = clock()
        self._shape: object = None
        self._table = Table((), ())
        self._sock: socket.socket | None = None
        self._budget_bytes = REPLY_LIMIT_BYTES[socket.AF_INET]
        self._anywhere = False
        self._setter = Setter(clock)
        self.refusals, self._refusing = Refusals(), threading.Lock()  # of SETs
        self._stopping = False
        self._logged: dict[str, int] = {}
        self._log_due_s = clock()

    # the socket

    def bind(self) -> None:
        """Take the address. ConfigError if that cannot be, or if no community could ask anyway."""
        if not self.gate:
            raise ConfigError("[snmp]: no [[snmp.community]] or [[snmp.user]] has a secret, so nothing listens")
        where = f'[snmp] listen = "{self.settings.listen}"'
        host, port = addresses.split_address(self.settings.listen)
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, kind, proto)
        except OSError as e:
            raise ConfigError(f"{where}: {e.strerror or e}; write an address of this machine") from e
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "[::]" serves IPv4, too
            self._anywhere = address[0] in ("0.0.0.0", "::")
            if self._anywhere and family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            elif self._anywhere:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.bind(address)
        except OSError as e:
            sock.close()
            remedy = "write an address of this machine"
            if isinstance(e, PermissionError):
                remedy = "ports below 1024 need the capability CAP_NET_BIND_SERVICE, or take another port"
            elif e.errno == 98:
                remedy = "another program listens there (snmpd?), stop it or take another port"
            raise ConfigError(f"{where}: {e.strerror}; {remedy}") from e
        _wake_now_and_then(sock)
        self._sock, self._budget_bytes = sock, REPLY_LIMIT_BYTES[family]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        if self._sock is None:
            return addresses.split_address(self.settings.listen)
        host, port = self._sock.getsockname()[:2]
        return str(host), int(port)

    def run(self, stop: threading.Event) -> None:
        """Answer until `stop` is set or `stop()` called; the thread's body. Closes the socket."""
        if self._sock is None:
            self.bind()
        sock = self._sock
        if sock is None:
            return
        serve = self._serve_anywhere if self._anywhere else self._serve
        threading.Thread(target=self._setter.run, name="snmp-set", daemon=True).start()
        with sock, closing(self._setter):
            while not self._stopping and not stop.is_set():
                try:
                    serve(sock)
                except BlockingIOError:  # nothing came for a while; or no room to send: as if it were lost on the way
                    if self.writer.counts(now_s := self._clock()):
                        self.look(now_s)
                except OSError as e:  # the way back is closed: no route, a firewall of our own
                    self._refuse("reply not sent", e.strerror or str(e), self._clock())

    def stop(self) -> None:
        """Let `run` end soon."""
        self._stopping = True

    def _serve(self, sock: socket.socket) -> None:
        data, sender = sock.recvfrom(REQUEST_LIMIT_BYTES + 1)
        reply = self.answer(data, sender[0], (sender, []))
        if reply is not None:
            sock.sendto(reply, socket.MSG_DONTWAIT, sender)

    def _serve_anywhere(self, sock: socket.socket) -> None:
        """On 0.0.0.0 and [::]: reply from the address that was asked; managers ignore other ones."""
        data, extras, _, sender = sock.recvmsg(REQUEST_LIMIT_BYTES + 1, 256)
        back = []
        for level, kind, value in extras:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                back.append((level, kind, struct.pack("@i4s4s", 0, value[4:8], bytes(4))))
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                back.append((level, kind, value))
        reply = self.answer(data, sender[0], (sender, back))
        if reply is not None:
            try:
                sock.sendmsg([reply], back, socket.MSG_DONTWAIT, sender)
            except BlockingIOError:
                raise
            except OSError:  # asked by broadcast or multicast over IPv6's socket: nobody can reply from that address
                sock.sendmsg([reply], [], socket.MSG_DONTWAIT, sender)

    # the answer

    def answer(self, data: bytes, host: str, way: Way | None = None) -> bytes | None:
        """The reply to a datagram from an address; None: there is none, or it is sent the `way` back when what it
        sets is set. Without a way that is waited for. Never raises for anything in `data`."""
        now_s = self._clock()
        self.counts[mib2.IN_PKTS] += 1
        try:
            return self._answer(data, host, now_s)
        except pdu.Later as later:
            return self._set(later, host, way)
        except ber.Malformed as e:
            self.counts[mib2.IN_PARSE_ERRORS] += 1
            log.debug("snmp: from %s: %s", host, e)
            self._refuse("malformed", host, now_s)
        except _RefusedError as e:
            self._refuse(e.args[0], host, now_s)
        return None

    def _answer(self, data: bytes, host: str, now_s: float) -> bytes:
        counts = self.counts
        if len(data) > REQUEST_LIMIT_BYTES:
            raise _RefusedError("too long")
        if why := self.gate.refusal(host, now_s):
            raise _RefusedError(why)
        responder = self.responder
        if responder is not None and (message := responder.read_again(data)) is not None:
            return self._sent(self._answer_v3(responder, data, host, now_s, message))
        header, request = self._questions.find(data) or (ber.read_header(data), None)
        if header.version == ber.V3 and responder is not None:
            return self._sent(self._answer_v3(responder, data, host, now_s))
        if header.version not in (ber.V1, ber.V2C):
            counts[mib2.IN_BAD_VERSIONS] += 1
            raise _RefusedError("other version")
        community = self.gate.community(host, header.community)
        if community is None:
            counts[mib2.IN_BAD_COMMUNITY_NAMES] += 1
            self.on_refused()
            raise _RefusedError("wrong community")
        if request is None:
            request = ber.read_pdu(data, header.pdu_at)
            self._questions.keep(data, header.pdu_at, header, request)
        look, table = self.seen(now_s)
        writer = f"community {community.label}" if community.writes else ""
        reply = pdu.answer(header, request, table, look, counts, self._budget_bytes, writer)
        if request.tag == ber.SET and not writer:
            self._no_access(f"community {community.label}", host, request)
        if reply is None:
            raise _RefusedError("no request")
        return self._sent(reply)

    def _sent(self, reply: bytes) -> bytes:
        self.counts[mib2.OUT_PKTS] += 1
        self.counts[mib2.OUT_RESPONSES] += 1
        return reply

    def _answer_v3(
        self, responder: v3.Responder, data: bytes, host: str, now_s: float, message: v3.Message | None = None
    ) -> bytes:
        def make(header: ber.Header, request: ber.Pdu, room: int, user: usm.User) -> bytes | None:
            look, table = self.seen(now_s)
            writer = f"user {user.name}" if user.writes else ""
            reply = pdu.answer(header, request, table, look, self.counts, room, writer)
            if request.tag == ber.SET and not writer:
                self._no_access(f"user {user.name}", host, request)
            return reply

        def below(request: ber.Pdu, user: usm.User) -> None:
            self._no_access(f"user {user.name}", host, request, v3.AUTHORIZATION_ERROR)

        try:
            return responder.answer(
                data, now_s, lambda user: self.gate.admits(host, user), self._budget_bytes, make, message, below
            )
        except v3.Dropped as e:
            raise _RefusedError(e.args[0]) from None

    def _set(self, later: pdu.Later, host: str, way: Way | None) -> bytes | None:
        """Have it done by the setter's thread, which then answers; without a way, now and here."""

        def do() -> Result:
            look = self.look(self._clock())
            return self.writer.write(
                later.triples, look, later.who, host, partial(self._refused_set, later.who, host)
            )

        key = (later.who, host, way[0][1] if way else 0, later.pdu.request_id, later.pdu.bindings)
        if way is not None:
            self._setter.take(key, do, lambda result: self._tell(later.reply(*result), way), later.seal)
            return None
        results: list[Result] = []
        self._setter.take(key, do, results.append, later.seal)
        while not results:
            self._setter.turn()
        reply = later.reply(*results[0])
        return None if reply is None else self._sent(reply)

    def _no_access(self, who: str, host: str, request: ber.Pdu, error: int = upsset.NO_ACCESS) -> None:
        """If it is a SET it leaves a row that it was refused."""
        if request.tag == ber.SET and request.names:
            self._refused_set(who, host, request.names[0], error)

    def _refused_set(self, who: str, host: str, name: bytes, error: int) -> None:
        """Now and then that leaves a row. From any thread."""
        with self._refusing:
            others = self.refusals.due(who, host, self._clock())
        if others is not None:
            what, why = upsset.object_name(name), upsset.ERRORS[error]
            why += f"; {others} others had left no row" if others else ""
            self._setter.then(lambda: self.writer.audit(what, who, host, why))

    def _tell(self, reply: bytes | None, way: Way) -> None:
        """Send what became of a SET."""
        sock, (sender, back) = self._sock, way
        if reply is None or sock is None:
            return
        try:
            if back:
                sock.sendmsg([self._sent(reply)], back, socket.MSG_DONTWAIT, sender)
            else:
                sock.sendto(self._sent(reply), socket.MSG_DONTWAIT, sender)
        except OSError as e:
            log.warning("snmp: %s does not hear what became of a SET: %s", sender[0], e.strerror or e)

    def sent_notice(self) -> None:
        """A notification has left: counted in the snmp group."""
        self.counts[mib2.OUT_PKTS] += 1
        self.counts[mib2.OUT_TRAPS] += 1

    def last_row(self) -> int:
        """The greatest upsAlarmId so far."""
        return self._alarms.last

    def look(self, now_s: float) -> Look:
        """What an answer of this moment is made from. From any thread."""
        return self.seen(now_s)[0]

    def seen(self, now_s: float) -> tuple[Look, Table]:
        """The same, and the table that goes with it: another thread may make a new one at any time."""
        with self._looking:
            return self._seen_now(self._view(), now_s)

    def _seen_now(self, view: View, now_s: float) -> tuple[Look, Table]:
        news = view is not self._seen
        if news:
            self._seen, self._kept = view, {}
            self.writer.saw(view)
            self._alarms.update(view.conditions, now_s, self._started_s)
        if now_s >= self._ports_due_s:
            self._ports_due_s = now_s + INTERFACES_FOR_S
            self._ports = self._interfaces.read(ticks(now_s, self._started_s))
            news = True
        engine, refused = (self.responder.engine, self.responder.counts) if self.responder else (None, {})
        look = Look(
            view, view.status or NOTHING, now_s, self._started_s, self._kept, self._host, self._alarms.rows,
            self._ports, self.counts, engine, refused, self.writer.kept, *self._switches,
        )  # fmt: skip
        if news and (shape := (upsmib.shape(look), mib2.shape(look))) != self._shape:
            rows = upsmib.rows(look) + mib2.rows(look) + enginemib.rows(look)
            objects = upsmib.OBJECTS + mib2.OBJECTS + enginemib.OBJECTS
            if look.upsman:
                rows, objects = rows + upsman.rows(look), objects + upsman.OBJECTS
            self._table = Table(rows, objects)
            self._shape = shape
        return look, self._table

    def _refuse(self, why: str, who: str, now_s: float) -> None:
        """Count a refusal; at most one log line a minute tells of all since the last."""
        self.refused[why] = self.refused.get(why, 0) + 1
        self._logged[why] = self._logged.get(why, 0) + 1
        if now_s >= self._log_due_s:
            text = ", ".join(f"{why} {count}" for why, count in sorted(self._logged.items()))
            log.warning("snmp: not answered: %s; the last from %s", text, who)
            self._logged.clear()
            self._log_due_s = now_s + REFUSALS_LOGGED_EVERY_S
