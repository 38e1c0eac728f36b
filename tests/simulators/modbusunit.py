"""An APC unit that speaks Modbus: its registers, and the same unit on a pseudo terminal (RTU) or a socket (TCP).

CRC and header are written down once more here, not taken from agent/modbus.py: a mistake there must not be made on
both sides. tests/peer/test_modbus.py shows that a foreign master (mbpoll) understands this unit.
"""

from __future__ import annotations

import os
import pty
import socket
import struct
import threading
import tty

from agent.link import Silence
from agent.model import Reply

NOTHING = 0xFFFF  # a timer that does not run
BLOCKS = ((0, 27), (128, 44), (516, 120), (1026, 22), (1536, 8))


def checksum(frame: bytes) -> bytes:
    """The two bytes that RTU puts behind a frame."""
    left = 0xFFFF
    for bit in (byte >> n & 1 for byte in frame for n in range(8)):
        left = left >> 1 ^ 0xA001 * (left & 1 ^ bit)
    return left.to_bytes(2, "little")


def _words(text: str, count: int) -> list[int]:
    return list(struct.unpack(f">{count}H", text.encode().ljust(2 * count)))


class ApcRegisters:
    """Registers of a Smart-UPS on mains. `hear(pdu)` is its answer; `written` what it was told."""

    def __init__(self) -> None:
        self.there = {n: 0 for first, count in BLOCKS for n in range(first, first + count)}
        self.written: list[tuple[int, tuple[int, ...]]] = []
        self.frozen: set[int] = set()  # registers that take a write and keep their value
        self.mains(True)
        self.put(23, 1 << 2)
        self.put(128, 0, 3600, 100 * 512, 27 * 32 + 16)
        self.put(135, 25 * 128, 30 * 256, 0, 32 * 256, 0, 2 * 32, 0, 230 * 64, 0, 50 * 128)
        self.put(150, 0, 231 * 64)
        self.put(155, NOTHING, NOTHING)
        self.put(516, *_words("UPS 15.0 / ID=18", 16), *_words("Smart-UPS SRT 3000", 16))
        self.put(564, *_words("AS1404224998", 8))
        self.put(588, 3000, 2700, 1)  # the main outlet group alone
        self.put(1026, 253, 207)

    def put(self, first: int, *values: int) -> None:
        for place, value in enumerate(values):
            self.there[first + place] = value

    def switched_groups(self, *on: bool) -> None:
        """It has switched outlet groups, on or off."""
        self.there[590] = (2 << len(on)) - 1
        for number, is_on in enumerate(on, 1):
            self.put(3 + 3 * number, 0, 1 if is_on else 2)
            self.put(604 + 8 * number, *_words(f"Group {number}", 8))

    def mains(self, on: bool) -> None:
        self.put(0, 0, 1 << (1 if on else 2))

    def hear(self, pdu: bytes) -> bytes:
        function, start, count = struct.unpack_from(">BHH", pdu)
        if function not in (3, 16):
            return bytes((function | 0x80, 1))
        if any(n not in self.there for n in range(start, start + count)):
            return bytes((function | 0x80, 2))
        if function == 3:
            return struct.pack(f">BB{count}H", 3, 2 * count, *(self.there[n] for n in range(start, start + count)))
        values = struct.unpack_from(f">{count}H", pdu, 6)
        self.written.append((start, values))
        for place, value in enumerate(values, start):
            if place not in self.frozen:
                self.there[place] = value
        if start == 1538 and 155 in self.there and 155 not in self.frozen:
            self._count(values[1])
        return pdu[:5]

    def _count(self, bits: int) -> None:
        """Of the main group: register 155 is what is left until it goes off; only the order moves it here."""
        if bits & 1 << 8 and bits & 1:
            self.there[155] = NOTHING
        elif bits & 1 << 8 and bits & 1 << 7:
            self.there[155] = self.there[1029]


def rtu_answer(unit: ApcRegisters, frame: bytes) -> bytes:
    """What the unit says to a whole frame of the serial line: nothing, if it is damaged."""
    if checksum(frame[:-2]) != frame[-2:]:
        return b""
    said = frame[:1] + unit.hear(frame[1:-2])
    return said + checksum(said)


class RegistersLink:
    """A model.Link to the registers, without a line; time is a number."""

    wake_fd: int | None = None

    def __init__(self) -> None:
        self.unit, self.sent, self.now_s, self.waited_s, self.closed = (
            ApcRegisters(),
            list[bytes](),
            1000.0,
            0.0,
            False,
        )
        self.silent = False

    def ask(self, command: bytes, *, end: bytes = b"", limit_bytes: int = 0, within_s: float = 1.0) -> Reply:
        self.sent.append(command)
        self.now_s += within_s if self.silent else 0.05
        if self.silent:
            self.waited_s += within_s
            raise Silence("no answer")
        return Reply(self.unit.hear(command), self.now_s)

    def send(self, command: bytes) -> None:
        raise AssertionError("everything is asked")

    def close(self) -> None:
        self.closed = True


class Wire:
    """`with Wire("rtu") as it`: the unit at `it.section`, in a thread of its own. `damage` changes each frame."""

    def __init__(self, kind: str, damage=lambda frame: frame) -> None:  # type: ignore[no-untyped-def]
        self.unit, self._kind, self.damage = ApcRegisters(), kind, damage
        if kind == "rtu":
            self._fd, self._slave = pty.openpty()
            tty.setraw(self._slave)
            self.section = {"port": os.ttyname(self._slave), "cable_power": "none"}
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.section = {"host": "127.0.0.1", "tcp_port": self._listener.getsockname()[1]}

    def __enter__(self) -> Wire:
        threading.Thread(target=self._rtu if self._kind == "rtu" else self._tcp, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._kind == "rtu":
            os.close(self._slave)
        else:
            self._listener.close()

    def _rtu(self) -> None:
        inbox = b""
        try:
            while True:
                inbox += os.read(self._fd, 512)
                size = 8 if inbox[1:2] == b"\x03" else 9 + inbox[6] if len(inbox) > 6 else 8
                if len(inbox) >= size:
                    frame, inbox = inbox[:size], b""
                    if said := rtu_answer(self.unit, frame):
                        os.write(self._fd, self.damage(said))
        except OSError:
            os.close(self._fd)

    def _tcp(self) -> None:
        try:
            while True:
                peer, _ = self._listener.accept()
                with peer:
                    while len(head := peer.recv(7, socket.MSG_WAITALL)) == 7:
                        said = self.unit.hear(peer.recv(int.from_bytes(head[4:6], "big") - 1, socket.MSG_WAITALL))
                        peer.sendall(self.damage(head[:4] + (len(said) + 1).to_bytes(2, "big") + head[6:] + said))
        except OSError:
            return
