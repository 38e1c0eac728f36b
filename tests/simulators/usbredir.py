"""Puts a HidUnit on a USB bus: the host side of usbredir, to which QEMU's device `usb-redir` connects.

Source: usbredir, docs/usb-redirection-protocol.md (0.7) and usbredirproto.h; USB 2.0 chapter 9; HID 1.11 chapter 7.
A packet is a header (type, length, id: 32 bits each in the hello, afterwards the id has 64) and its body.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque

from agent.model import LinkError
from tests.simulators.hidunit import HidUnit

HELLO, CONNECT, DISCONNECT, RESET, INTERFACES, ENDPOINTS = range(6)
SET_CONFIGURATION, GET_CONFIGURATION, CONFIGURATION, SET_ALT, GET_ALT, ALT = 6, 7, 8, 9, 10, 11
START_INTERRUPT, STOP_INTERRUPT, INTERRUPT_STATUS, CONTROL, INTERRUPT = 15, 16, 17, 100, 103
CAPABILITIES = 0x72  # QEMU's xHCI asks for endpoint sizes, 64 bit ids and 32 bit bulk lengths
STALL, FULL_SPEED, PACKET, ENDPOINT = 4, 1, 64, 0x81
WAITING = 4
KINDS = {1: "input", 3: "feature"}


class UsbRedir:
    """Serves `unit` to one peer at a time at `port` of loopback. `stalls` refuses every report, `hangs` never
    answers, `until_reset`: a reset of its port ends both; `resets` counts them; `configured_s` is when it was last
    enumerated. Everything that touches the unit holds `lock`.
    """

    def __init__(self, unit: HidUnit, plugged: bool = True) -> None:
        self.unit, self.lock = unit, threading.RLock()
        self.stalls = self.hangs = self.until_reset = self.halted = False
        self.resets, self.configured_s = 0, float("inf")
        self.plugged = plugged
        self._listening = False
        self._pending: deque[bytes] = deque(maxlen=WAITING)  # input reports
        self._peer: socket.socket | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, name="usbredir", daemon=True)
        self._thread.start()

    def push(self, report: int) -> None:
        """Send an input report as it is now; as an endpoint does, it waits until the guest listens."""
        with self.lock:
            self._pending.append(self.unit.reports["input", report])
            self._flush()

    def mains(self, there: bool) -> float:
        """Fail or restore the mains; our second at which the interrupt reports went out."""
        with self.lock:
            reports = self.unit.mains(there)
            at_s = time.monotonic()
            for report in reports:
                self.push(report)
        return at_s

    def _flush(self) -> None:
        while self._pending and self._listening and not self.halted:
            data = self._pending.popleft()
            self._send(INTERRUPT, struct.pack("<BBH", ENDPOINT, 0, len(data)) + data)

    def halt(self) -> None:
        """Halt the interrupt endpoint, until it is cleared or the port is reset."""
        with self.lock:
            self.halted = True
            if self._listening:
                self._send(INTERRUPT, struct.pack("<BBH", ENDPOINT, STALL, 0))

    def unplug(self) -> None:
        with self.lock:
            self.plugged = self._listening = False
            self._pending.clear()
            self._send(DISCONNECT)

    def plug(self) -> None:
        with self.lock:
            self.plugged = True
            self._connect()

    def close(self) -> None:
        self._server.close()
        if self._peer is not None:
            self._peer.close()

    def _serve(self) -> None:
        while True:
            try:
                self._peer, _ = self._server.accept()
                self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._talk(self._peer)
            except (EOFError, OSError):
                if self._server.fileno() < 0:
                    return

    def _talk(self, peer: socket.socket) -> None:
        with self.lock:
            peer.sendall(struct.pack("<III64sI", HELLO, 68, 0, b"ridethrough", CAPABILITIES))
        header = struct.Struct("<III")
        while True:
            kind, length, number = header.unpack(_exactly(peer, header.size))
            body = _exactly(peer, length)
            header = struct.Struct("<IIQ")
            with self.lock:
                self._answer(kind, number, body)

    def _answer(self, kind: int, number: int, body: bytes) -> None:
        if kind == HELLO and self.plugged:
            self._connect()
        elif kind == SET_CONFIGURATION:
            self.configured_s = time.monotonic()
            self._send(CONFIGURATION, bytes([0, body[0]]), number)
        elif kind == GET_CONFIGURATION:
            self._send(CONFIGURATION, b"\0\1", number)
        elif kind in (SET_ALT, GET_ALT):
            self._send(ALT, bytes([0, body[0], body[1] if kind == SET_ALT else 0]), number)
        elif kind in (START_INTERRUPT, STOP_INTERRUPT):
            self._listening = kind == START_INTERRUPT
            self._send(INTERRUPT_STATUS, bytes([0, body[0]]), number)
            self._flush()
        elif kind == RESET:
            self.resets += 1
            self._listening = self.halted = False
            self._pending.clear()
            if self.until_reset:
                self.stalls = self.hangs = False
        elif kind == CONTROL:
            endpoint, request, to, _, value, index, length = struct.unpack_from("<BBBBHHH", body)
            answer = self.control(to, request, value, length, body[10:])
            if self.hangs and to & 0x60:
                return
            data = answer if answer is not None and to & 0x80 else b""
            size = len(data) if to & 0x80 else length
            status = STALL if answer is None else 0
            head = struct.pack("<BBBBHHH", endpoint, request, to, status, value, index, size)
            self._send(CONTROL, head + data, number)

    def control(self, to: int, request: int, value: int, length: int, data: bytes) -> bytes | None:
        """A control transfer; None: STALL."""
        high, low = value >> 8, value & 0xFF
        if to & 0x60 == 0x20:
            return self._hid(to, request, high, low, length, data)
        if to in (0x80, 0x81) and request == 6:
            found = self._descriptor(high, low)
            return found[:length] if found else None
        if to & 0x80:
            return b"\0\0"[:length] if request == 0 else None
        if (to, request, value) == (0x02, 1, 0):  # CLEAR_FEATURE(ENDPOINT_HALT)
            self.halted = False
            self._flush()
        return b""

    def _hid(self, to: int, request: int, kind: int, report: int, length: int, data: bytes) -> bytes | None:
        if request in (0x0A, 0x0B):  # SET_IDLE, SET_PROTOCOL
            return b""
        if self.stalls or kind not in KINDS:
            return None
        try:
            if to & 0x80 and request == 1:
                reply = self.unit.get(KINDS[kind], report, length)
                return reply.data if reply is not None else None
            return b"" if request == 9 and self.unit.put(data) else None
        except LinkError:
            return None

    def _descriptor(self, kind: int, number: int) -> bytes:
        who = self.unit.identity
        if kind == 1:
            head = struct.pack("<BBHBBBBHHH", 18, 1, 0x0200, 0, 0, 0, PACKET, who.vendor, who.product, 0x0100)
            return head + bytes((1, 2, 3 if who.serial else 0, 1))
        hid = struct.pack("<BBHBBBH", 9, 0x21, 0x0111, 0, 1, 0x22, len(self.unit.descriptor))
        if kind == 2:
            body = b"\x09\x04\0\0\1\3\0\0\0" + hid + struct.pack("<BBBBHB", 7, 5, ENDPOINT, 3, PACKET, 10)
            return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 1, 1, 0, 0xA0, 0) + body
        if kind == 3 and number == 0:
            return b"\4\3\x09\x04"
        if kind == 3 and number <= 3:
            text = (who.maker, who.name, who.serial)[number - 1].encode("utf-16-le")
            return bytes([len(text) + 2, 3]) + text
        return {0x21: hid, 0x22: self.unit.descriptor}.get(kind, b"")

    def _connect(self) -> None:
        slots = [0, 16, 17]  # control out, control in, interrupt in
        kinds = bytes({0: 0, 16: 0, 17: 3}.get(n, 255) for n in range(32))
        intervals = bytes(10 if n == 17 else 0 for n in range(32))
        sizes = struct.pack("<32H", *(PACKET if n in slots else 0 for n in range(32)))
        who = self.unit.identity
        self._send(INTERFACES, struct.pack("<I32s32s32s32s", 1, b"", b"\3", b"", b""))
        self._send(ENDPOINTS, kinds + intervals + bytes(32) + sizes)
        self._send(CONNECT, struct.pack("<BBBBHHH", FULL_SPEED, 0, 0, 0, who.vendor, who.product, 0x0100))

    def _send(self, kind: int, body: bytes = b"", number: int = 0) -> None:
        if self._peer is not None:
            self._peer.sendall(struct.pack("<IIQ", kind, len(body), number) + body)


def _exactly(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = peer.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data
