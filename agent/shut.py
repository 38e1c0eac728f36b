"""SHUT, "serial HID UPS transfer": the reports of a USB power device over a serial line (MGE, Eaton).

2400 baud 8N1, RTS on, DTR off. A sync byte is answered by itself and says what the unit shall tell unasked (SYNCS).
Then both sides send frames, each answered by ACK, or by NAK to have it again:

    | type, 80 in the last one | length << 4 | length | 1..8 bytes | XOR of them |   type: 1 request, 4 answer, 5 told

What a request carries are the 8 bytes of a USB set-up packet (USB 2.0, 9.3; HID 1.11, 7), and what is written behind
them; what is told is an input report. Source: the SHUT constants and frames of NUT, drivers/libshut.c.
"""

from __future__ import annotations

import functools
import logging
import math
import operator
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .hidraw import DESCRIPTOR_LIMIT_BYTES, Identity, pause
from .model import LinkError, Reply

log = logging.getLogger(__name__)

SYNCS = (0x16, 0x18)  # tell all reports that change; tell none, for units that do not know the first
REQUEST, ANSWER, TOLD, LAST = 1, 4, 5, 0x80
ACK, NAK = 0x06, 0x15
PIECE_BYTES = 8
TRIES = 3
SYNC_WITHIN_S, WITHIN_S = 1.0, 3.0
TOLD_LIMIT = 64
GET_DESCRIPTOR, GET_INTERFACE_DESCRIPTOR = (0x80, 6), (0x81, 6)
GET_REPORT, SET_REPORT = (0xA1, 1), (0x21, 9)
DEVICE, STRING, HID, REPORT = 1, 3, 0x21, 0x22
ENGLISH = 0x0409
KINDS = {"input": 1, "feature": 3}
STRING_LIMIT_BYTES = 128
MGE = 0x0463  # the maker's USB vendor id
SHORT_RELEASE = 0x0202  # its release whose description 0 is a short one, and 1 the whole (NUT, drivers/libshut.c)


class Line(Protocol):
    """What is used of a serial line (agent/link.py)."""

    @property
    def wake_fd(self) -> int | None: ...

    def send(self, command: bytes) -> None: ...

    def read(self, limit_bytes: int, within_s: float) -> bytes: ...

    def close(self) -> None: ...


class _LateError(LinkError):
    """The time is over, and what was begun can go on."""


def frame(kind: int, piece: bytes, last: bool) -> bytes:
    """One frame around 1 to 8 bytes."""
    head = bytes([kind | (LAST if last else 0), len(piece) << 4 | len(piece)])
    return head + piece + bytes([functools.reduce(operator.xor, piece, 0)])


def frames(kind: int, data: bytes) -> list[bytes]:
    """`data` in as many frames as it needs."""
    starts = range(0, max(1, len(data)), PIECE_BYTES)
    return [frame(kind, data[at : at + PIECE_BYTES], at + PIECE_BYTES >= len(data)) for at in starts]


class Frames:
    """Bytes of the line as they come in; `take` gives what is whole. Never raises."""

    def __init__(self) -> None:
        self._held = bytearray()

    def add(self, data: bytes) -> None:
        self._held += data

    def clear(self) -> None:
        self._held.clear()

    def take(self) -> tuple[int, bool, bytes] | None:
        """(kind, last, piece) of a frame; (ACK or NAK, True, b""); (0, True, b"") for a frame that is damaged; None:
        nothing is whole yet. Bytes that can begin nothing are dropped."""
        held = self._held
        while held:
            if held[0] in (ACK, NAK):
                return held.pop(0), True, b""
            kind, last = held[0] & ~LAST, bool(held[0] & LAST)
            if kind not in (ANSWER, TOLD):
                del held[0]
                continue
            if len(held) < 2:
                return None
            length = held[1] & 0x0F
            if held[1] >> 4 != length or not 1 <= length <= PIECE_BYTES:
                del held[0]
                continue
            if len(held) < length + 3:
                return None
            piece, check = bytes(held[2 : 2 + length]), held[2 + length]
            if functools.reduce(operator.xor, piece, 0) != check:
                held.clear()
                return 0, True, b""
            del held[: length + 3]
            return kind, last, piece
        return None


class ShutLink:
    """A unit at the end of a serial line, as if it were on USB (hidreader.HidLink), once `learn` has said so."""

    def __init__(self, line: Line, now: Callable[[], float]) -> None:
        """`now`: CLOCK_MONOTONIC in seconds. Sends nothing yet."""
        self._line, self._now = line, now
        self._frames = Frames()
        self._synced = False
        self._begun: tuple[bytes, bytearray] | None = None  # the request that is being answered, and what came
        self._telling = bytearray()
        self._got = 0  # bytes of answers
        self._told: deque[Reply] = deque(maxlen=TOLD_LIMIT)
        self._length: int | None = None
        self._device: bytes | None = None  # its device descriptor (USB 2.0, 9.6.1)
        self._names: dict[str, str] = {}
        self._sizes: dict[int, int] = {}  # report -> bytes of its last answer
        self.descriptor = b""
        self.identity = Identity(0, 0)
        self.learning = False  # the last `learn` brought something, and not yet all
        self.until_s = math.inf  # whatever is asked ends by then: a poll is many questions, and a bad line costs each

    @property
    def wake_fd(self) -> int | None:
        """Readable when the unit says something."""
        return self._line.wake_fd

    def learn(self, within_s: float) -> None:
        """Ask what it is, which takes some seconds at this speed. LinkError: it does not answer; or the time is over,
        then it goes on with the next call."""
        deadline_s, before, self.learning = self._now() + within_s, self._got, False
        try:
            self._sync(deadline_s)
            if self._device is None:
                self._device = self._control(*GET_DESCRIPTOR, DEVICE << 8, 0, 18, deadline_s) or b""
            number = self._whole()
            if self._length is None:
                hid = self._control(*GET_INTERFACE_DESCRIPTOR, HID << 8 | number, 0, 9, deadline_s) or b""
                if len(hid) < 9:
                    raise LinkError(f"its HID descriptor is {hid.hex(' ') or 'missing'}")
                self._length = int.from_bytes(hid[7:9], "little")
                if not 0 < self._length <= DESCRIPTOR_LIMIT_BYTES:
                    length, self._length = self._length, None
                    raise LinkError(f"a report descriptor of {length} bytes")
            if not self.descriptor:
                value = REPORT << 8 | number
                self.descriptor = self._control(*GET_INTERFACE_DESCRIPTOR, value, 0, self._length, deadline_s) or b""
            self._name(deadline_s)
        except LinkError as e:
            if not isinstance(e, _LateError) or self._got == before:
                self._synced = False
                raise
            self.learning = True
            raise LinkError(f"it is being asked what it is: {self._got} bytes so far") from None

    def get(self, kind: str, report: int, length: int) -> Reply | None:
        """As hidreader.HidLink."""
        value = KINDS[kind] << 8 | report
        data = self._all(lambda until_s: self._control(*GET_REPORT, value, 0, length, until_s))
        before, self._sizes[value] = self._sizes.get(value, length), len(data)
        # one byte is all that guards a frame: of what is shorter than described the damage is the likelier reason,
        # unless it comes like that again
        if 0 < len(data) < length and len(data) != before:
            raise LinkError(f"{kind} report {report:#04x}: {len(data)} bytes, not {length}: {data.hex(' ')}")
        return Reply(data, self._now()) if data else None

    def put(self, data: bytes) -> bool:
        """As hidreader.HidLink."""
        value = KINDS["feature"] << 8 | data[0]
        setup = struct.pack("<BBHHH", *SET_REPORT, value, 0, len(data))
        return bool(self._all(lambda until_s: self._send(setup + data, until_s)))

    def inputs(self, limit: int) -> list[Reply]:
        """As hidreader.HidLink."""
        self._frames.add(self._line.read(TOLD_LIMIT * 2 * PIECE_BYTES, 0.0))
        while (found := self._frames.take()) is not None:
            self._take(*found)
        return [self._told.popleft() for _ in range(min(limit, len(self._told)))]

    def string(self, index: int) -> str | None:
        """As hidreader.HidLink."""
        setup = (*GET_DESCRIPTOR, STRING << 8 | index, ENGLISH, STRING_LIMIT_BYTES)
        return _text(self._all(lambda until_s: self._control(*setup, until_s)))

    rest = staticmethod(pause)

    def close(self) -> None:
        """Give the line back."""
        self._line.close()

    # -- what it is

    def _whole(self) -> int:
        """The number of its whole description."""
        device = self._device or b""
        return int(len(device) >= 14 and struct.unpack_from("<H4xH", device, 8) == (MGE, SHORT_RELEASE))

    def _name(self, deadline_s: float) -> None:
        """Its strings, one after the other; a unit without USB may leave the ids out."""
        device, told = (self._device or b"").ljust(18, b"\0"), self._names
        for name, index in zip(("maker", "name", "serial"), device[14:17], strict=True):
            if index and name not in told:
                value = STRING << 8 | index
                data = self._control(*GET_DESCRIPTOR, value, ENGLISH, STRING_LIMIT_BYTES, deadline_s)
                told[name] = _text(data) or ""
        vendor, product = struct.unpack_from("<HH", device, 8)
        names = told.get("maker", ""), told.get("name", ""), told.get("serial", "")
        self.identity = Identity(vendor or MGE, product or 0xFFFF, *names)

    # -- the line

    def _sync(self, deadline_s: float) -> None:
        """Have the unit listen. LinkError if it does not."""
        if self._synced:
            return
        for word in (*SYNCS, *SYNCS):
            self._frames.clear()
            self._line.send(bytes([word]))
            until_s = min(deadline_s, self._now() + SYNC_WITHIN_S)
            while (left_s := until_s - self._now()) > 0:
                if bytes([word]) in self._line.read(PIECE_BYTES, left_s):
                    self._synced, self._begun = True, None
                    self._telling.clear()
                    return
        raise LinkError("no answer to SHUT's sync byte: another protocol, another cable, or nothing there")

    def _all(self, do: Callable[[float], bytes | bool | None]) -> bytes:
        """A transfer that must end now. LinkError; after it the unit must be synced anew."""
        deadline_s = min(self._now() + WITHIN_S, self.until_s)
        if deadline_s <= self._now():
            raise LinkError("no time left to ask")
        try:
            self._sync(deadline_s)
            done = do(deadline_s)
        except LinkError:
            self._synced, self._begun = False, None
            raise
        return done if isinstance(done, bytes) else b"\1" if done else b""

    def _control(self, to: int, request: int, value: int, index: int, length: int, deadline_s: float) -> bytes | None:
        """A transfer from the unit, or the rest of it; None: it refuses. LinkError."""
        setup = struct.pack("<BBHHH", to, request, value, index, length)
        if self._begun is None or self._begun[0] != setup:
            self._begun = None
            if not self._send(setup, deadline_s):
                return None
            self._begun = setup, bytearray()
        got = self._begun[1]
        damaged = 0
        while True:
            kind, last, piece = self._next(deadline_s)
            if kind == NAK and not got:
                self._begun = None
                return None
            if not kind:
                damaged += 1
                if damaged > TRIES:
                    raise LinkError(f"{setup.hex(' ')}: {damaged} damaged frames")
            self._take(kind, last, piece)
            if kind == ANSWER:
                got += piece
                self._got += len(piece)
                if len(got) > length + PIECE_BYTES:
                    raise LinkError(f"{setup.hex(' ')}: more than the {length} bytes that were asked for")
                if last:
                    self._begun = None
                    return bytes(got[:length])

    def _send(self, data: bytes, deadline_s: float) -> bool:
        """A request and what belongs to it; False: the unit refuses it, however often. LinkError."""
        for one in frames(REQUEST, data):
            for _ in range(TRIES):
                self._line.send(one)
                while True:
                    kind, last, piece = self._next(deadline_s)
                    if kind in (ACK, NAK):
                        break
                    self._take(kind, last, piece)
                if kind == ACK:
                    break
            else:
                return False
        return True

    def _next(self, deadline_s: float) -> tuple[int, bool, bytes]:
        """The next thing that it says. _LateError."""
        while (found := self._frames.take()) is None:
            left_s = deadline_s - self._now()
            data = self._line.read(4 * PIECE_BYTES, left_s) if left_s > 0 else b""
            if not data:
                raise _LateError("no answer from the UPS")
            self._frames.add(data)
        return found

    def _take(self, kind: int, last: bool, piece: bytes) -> None:
        """Answer a frame, and keep what was told unasked."""
        if kind == 0:
            self._line.send(bytes([NAK]))
        elif kind in (ANSWER, TOLD):
            self._line.send(bytes([ACK]))
        if kind == TOLD:
            self._telling += piece
            if last or len(self._telling) > TOLD_LIMIT:
                self._told.append(Reply(bytes(self._telling), self._now()))
                self._telling.clear()


def _text(data: bytes | None) -> str | None:
    """A string descriptor (USB 2.0, 9.6.7)."""
    if not data or len(data) < 2 or data[1] != STRING:
        return None
    return data[2 : data[0]].decode("utf-16-le", "replace").strip("\0 ")
