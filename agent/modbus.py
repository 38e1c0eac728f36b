"""Talks Modbus to one unit, over a serial line (RTU), TCP or USB: one request, one whole answer, in bounded time.

A request and its answer are a PDU: a function byte and data. RTU puts the unit before it and a CRC behind; TCP puts a
header before it; USB has reports for it (modbususb.py):

    RTU  unit  PDU  CRC low  CRC high
    TCP  id id  0 0  length length  unit  PDU          length: of the unit and the PDU

Own code and not pymodbus: that takes 13 MiB for what is a hundred lines here, keeps its own retries and, depending on
its version, its own threads and loop; a link must end each question in time and by LinkError. Modbus has no
passwords: over TCP whoever reaches the port may read and order.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from . import hidraw, link
from .model import LinkError, Option, Reply

if TYPE_CHECKING:
    from .modbususb import TunnelLink

BACK_OFF_S = link.BACK_OFF_S
CONNECT_WITHIN_S = 1.0
WITHIN_LIMIT_S = 5.0
READ, WRITE, REFUSED = 3, 16, 0x80
REGISTERS_LIMIT = 120  # in one request
# between two frames of a serial line, and after a write on either wire: without the second some APC units fail to
# answer (both: NUT, drivers/apc_modbus.c; the first it has from APC's document, 4.2.2)
PAUSE_S, AFTER_WRITE_S = 0.035, 0.1
PDU_LIMIT_BYTES = 253
HEADER = struct.Struct(">HHHB")
#: exception codes
REASONS: Mapping[int, str] = {1: "illegal function", 2: "illegal address", 3: "illegal value", 4: "device failure",
                              5: "not done yet", 6: "busy", 10: "the gateway has no way to it",
                              11: "the gateway had no answer from it"}  # fmt: skip
FOR_GOOD, ACCEPTED = (1, 2, 3), 5  # another one may be gone the next time

OPTIONS: tuple[Option, ...] = (
    Option(
        name="port", kind=str, default="", help="serial device of the UPS, for Modbus RTU; or host, or neither: USB"
    ),
    Option(name="baud", kind=int, default=9600, low=2400, high=115200, help="speed of the serial line, 8N1"),
    Option(
        name="cable_power",
        kind=str,
        default="normal",
        choices=tuple(link.CABLE_POWER),
        help="lines that feed the cable: normal = DTR, reverse = RTS, both, none",
    ),
    Option(name="host", kind=str, default="", help="IP address of the UPS, for Modbus TCP (no passwords); or port"),
    Option(name="tcp_port", kind=int, default=502, low=1, high=65535, help="TCP port of the UPS"),
    *hidraw.WHICH,
    Option(name="unit", kind=int, default=1, low=1, high=247, help="Modbus address of the UPS"),
)


class Refused(LinkError):
    """The unit answered with an exception: it is there, and does not do this; `later`: not at this moment."""

    later = False


class Unanswered:
    """Questions that a unit leaves without an answer though it answers others. Each costs the connection, so what was
    silent twice in a row is asked again after `again_s`, and then less and less often. Outlives the connection."""

    def __init__(self, again_s: float) -> None:
        self._again_s = again_s
        self._times: dict[object, tuple[int, float]] = {}  # how often in a row, and when last

    def is_due(self, question: object, now_s: float) -> bool:
        times, at_s = self._times.get(question, (0, 0.0))
        return times < 2 or now_s - at_s >= self._again_s * 2 ** min(times - 2, 4)

    def silent(self, question: object, now_s: float) -> None:
        self._times[question] = self._times.get(question, (0, 0.0))[0] + 1, now_s

    def answered(self, question: object) -> None:
        self._times.pop(question, None)


_unanswered: dict[str, Unanswered] = {}  # of what is configured, so it stays small


def unanswered(section: Mapping[str, Any], again_s: float) -> Unanswered:
    """Of the unit that `section` describes."""
    return _unanswered.setdefault(str(sorted(section.items())), Unanswered(again_s))


def open(  # noqa: A001
    section: Mapping[str, Any], now: Callable[[], float], *, meant: hidraw.Meant = hidraw.nobody
) -> RtuLink | TcpLink | TunnelLink:
    """The serial line, the connection, or without either the USB device that `section` describes, whose socket
    `meant` is told. LinkError if it cannot be had, with the remedy."""
    port, host, unit = str(section.get("port") or ""), str(section.get("host") or ""), int(section.get("unit", 1))
    ways = {"port": port, "host": host, **{o.name: section.get(o.name) for o in hidraw.WHICH}}
    given = [name for name, value in ways.items() if value]
    if len(given) > 1 and (port or host):
        raise LinkError(f"[ups] has {' and '.join(given)}: a serial line, Modbus TCP and USB exclude each other")
    if not port and not host:
        from . import modbususb  # only here: it stands on this module

        return modbususb.open(section, now, unit, meant)
    if port:
        return RtuLink(link.open({"baud": 9600, **section}, now), unit)
    tcp_port = int(section.get("tcp_port", 502))
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise LinkError(f'[ups] host: "{host}" is no IP address') from None
    try:
        sock = socket.create_connection((host, tcp_port), CONNECT_WITHIN_S)
    except OSError as e:
        raise LinkError(f"{host} port {tcp_port}: {e.strerror or e}") from e
    return TcpLink(sock, now, unit, f"{host} port {tcp_port}")


# --- the codec


def crc(data: bytes) -> int:
    """CRC-16 of Modbus: polynomial 0xA001 (reflected), beginning with 0xFFFF."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


def rtu(unit: int, pdu: bytes) -> bytes:
    """A PDU as a frame of the serial line."""
    data = bytes((unit,)) + pdu
    return data + struct.pack("<H", crc(data))


def rtu_size(frame: bytes) -> int:
    """How many bytes a frame of an answer has that begins so, as far as can be told: fn 3, fn 16, an exception.
    LinkError for another function: the length of its answer is unknown."""
    if len(frame) < 3:
        return 5
    function = frame[1]
    if function & REFUSED:
        return 5
    if function == READ:
        return 5 + frame[2]
    if function == WRITE:
        return 8
    raise LinkError(f"no answer of a Modbus unit: {frame[:64]!r}")


def from_rtu(unit: int, frame: bytes) -> bytes:
    """The PDU of a whole frame. LinkError: another unit's, or its CRC is wrong."""
    if len(frame) < 5 or struct.unpack("<H", frame[-2:])[0] != crc(frame[:-2]):
        raise LinkError(f"wrong CRC: {frame[:64]!r}")
    if frame[0] != unit:
        raise LinkError(f"unit {frame[0]} answers for unit {unit}: {frame[:64]!r}")
    return frame[1:-2]


def read_request(start: int, count: int) -> bytes:
    """The PDU that asks for `count` registers from `start`."""
    return struct.pack(">BHH", READ, start, count)


def write_request(start: int, values: tuple[int, ...]) -> bytes:
    """The PDU that writes registers from `start`."""
    return struct.pack(f">BHHB{len(values)}H", WRITE, start, len(values), 2 * len(values), *values)


def parse_read(answer: bytes, count: int) -> tuple[int, ...]:
    """The registers of an answer. Refused: an exception; LinkError: anything else that is no answer to this."""
    _check(answer, READ)
    if len(answer) != 2 + 2 * count or answer[1] != 2 * count:
        raise LinkError(f"not {count} registers: {answer[:64]!r}")
    return struct.unpack(f">{count}H", answer[2:])


def check_written(answer: bytes, start: int, count: int) -> None:
    """LinkError if this is no confirmation of that write. ACCEPTED is one: what is read afterwards tells what came of
    it. Refused: another exception."""
    if answer == bytes((WRITE | REFUSED, ACCEPTED)):
        return
    _check(answer, WRITE)
    if answer != struct.pack(">BHH", WRITE, start, count):
        raise LinkError(f"not a confirmation: {answer[:64]!r}")


def _check(answer: bytes, function: int) -> None:
    if len(answer) == 2 and answer[0] == function | REFUSED:
        refused = Refused(f"the unit refuses: {REASONS.get(answer[1], f'exception {answer[1]}')}")
        refused.later = answer[1] not in FOR_GOOD
        raise refused
    if not answer or answer[0] != function:
        raise LinkError(f"not an answer to function {function}: {answer[:64]!r}")


# --- the links


class Below(Protocol):
    """What carries the frames."""

    def close(self) -> None: ...


class ModbusLink(ABC):
    """What all three share. After silence or nonsense the link is dead: what comes late would be taken for the next
    answer (RTU and USB number no request). A refusal is an answer."""

    wake_fd: int | None = None  # what else it says is no reason to ask
    pdu_limit_bytes = PDU_LIMIT_BYTES  # of a request

    def __init__(self, below: Below, unit: int) -> None:
        self._below, self._unit, self._dead = below, unit, ""

    def ask(self, command: bytes, *, end: bytes = b"", limit_bytes: int = 0, within_s: float = 1.0) -> Reply:
        """Send a PDU and return that of the answer; its length is in it, so `end` and `limit_bytes` say nothing.
        LinkError also for a request that is too long; that one harms nothing."""
        if self._dead:
            raise LinkError(self._dead)
        if len(command) > self.pdu_limit_bytes:
            raise LinkError(f"a request of {len(command)} bytes does not fit: {command[:16]!r}")
        try:
            return self._exchange(command, within_s)
        except LinkError as e:
            self._dead = str(e)
            raise

    @abstractmethod
    def _exchange(self, command: bytes, within_s: float) -> Reply:
        """The answer's PDU. LinkError: none in time, or none that can be read."""

    def send(self, command: bytes) -> None:
        """Every request to one unit has an answer, and one that nobody awaits would be taken for the next."""
        raise LinkError("Modbus: every request has an answer")

    def close(self) -> None:
        """Give back what carries the frames."""
        self._below.close()


class RtuLink(ModbusLink):
    """A serial line."""

    def __init__(self, line: link.SerialLink, unit: int) -> None:
        super().__init__(line, unit)
        self._line = line

    def _exchange(self, command: bytes, within_s: float) -> Reply:
        reply = self._line.ask_whole(rtu(self._unit, command), rtu_size, within_s=within_s)
        self._line.rest(AFTER_WRITE_S if command[0] == WRITE else PAUSE_S)
        return Reply(from_rtu(self._unit, reply.data), reply.received_s)


class TcpLink(ModbusLink):
    """A connection."""

    def __init__(self, sock: socket.socket, now: Callable[[], float], unit: int, name: str) -> None:
        super().__init__(sock, unit)
        self._sock, self._now, self._name = sock, now, name
        self._id, self._ready_s = 0, now()

    def _exchange(self, command: bytes, within_s: float) -> Reply:
        try:
            self._rest()
            deadline_s = self._now() + min(within_s, WITHIN_LIMIT_S)
            self._id = self._id + 1 & 0xFFFF
            self._left(deadline_s)
            self._sock.sendall(HEADER.pack(self._id, 0, len(command) + 1, self._unit) + command)
            head = self._receive(HEADER.size, deadline_s)
            number, protocol, length, unit = HEADER.unpack(head)
            if (number, protocol, unit) != (self._id, 0, self._unit) or not 2 <= length <= PDU_LIMIT_BYTES + 1:
                raise LinkError(f"not the answer of unit {self._unit} to request {self._id}: {head!r}")
            reply = Reply(self._receive(length - 1, deadline_s), self._now())
            self._ready_s = reply.received_s + (AFTER_WRITE_S if command[0] == WRITE else 0.0)
            return reply
        except OSError as e:
            word = "no answer in time" if isinstance(e, TimeoutError) else e.strerror or str(e)
            raise LinkError(f"{self._name}: {word}") from e
        except LinkError as e:
            raise LinkError(f"{self._name}: {e}") from e

    def _rest(self) -> None:
        """The pause after a write. LinkError: it says something unasked, or hangs up."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        if poll.poll(max(0.0, self._ready_s - self._now()) * 1000):
            raise LinkError("it said something unasked, or has closed the connection")

    def _receive(self, count: int, deadline_s: float) -> bytes:
        data = b""
        while len(data) < count:
            self._left(deadline_s)
            more = self._sock.recv(count - len(data))
            if not more:
                raise LinkError("the unit has closed the connection")
            data += more
        return data

    def _left(self, deadline_s: float) -> None:
        left_s = deadline_s - self._now()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
