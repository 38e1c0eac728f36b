"""The USB bridge of a UPS of the Q1 family: the transfers of a device in front, a serial unit behind.

Written from the documents (NUT, docs/nutdrv_qx-subdrivers.txt; USB-IF, HID 1.11 and USB 2.0), not from our table. In
front it looks like pyusb's usb.core.Device; `Served` gives the same transfers to a process that has
tests/peer/usbshim.c in the place of libusb.
"""

from __future__ import annotations

import errno
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import usb.core

Speak = Callable[[bytes], bytes]  # command without CR -> the answer with CR; b"": none

#: kind -> (USB vendor, product), maker, product string
DEVICES: dict[str, tuple[tuple[int, int], str, str]] = {
    "cypress": ((0x0665, 0x5161), "INNO TECH", "20100826"),
    "krauler": ((0x0001, 0x0000), "", ""),
    "fabula": ((0x0001, 0x0000), "MEC", "MEC0003"),
    "hunnox": ((0x0001, 0x0000), "HUNNOX", "MEC0003"),
    "snr": ((0x0001, 0x0000), "SNR", "MEC0003"),
    "fuji": ((0x0001, 0x0000), "ATCL FOR UPS", "ATCL FOR UPS"),
    "phoenix": ((0x06DA, 0x0601), "", ""),
    "phoenixtec": ((0x06DA, 0x0002), "Phoenixtec Power", "USB Cable (V2.00)"),
    "ippon": ((0x06DA, 0x0003), "", ""),
    "omron": ((0x0590, 0x00B7), "OMRON", "BN150T"),
    "ablerex": ((0xFFFF, 0x0000), "", ""),
    "gtec": ((0x0665, 0x5161), "", ""),
    "armac": ((0x0925, 0x1234), "", ""),
    "armac-64": ((0x0925, 0x1234), "", ""),
    "sgs": ((0x0483, 0x0035), "", ""),
}
REPORT = (0x21, 0x09)  # SET_REPORT
OVERSIZE_HANGS = ("hunnox", "snr")
#: number of a string -> the command it stands for
KRAULER = {3: b"Q1", 13: b"F", 12: b"I", 4: b"T", 5: b"TL", 7: b"Q", 11: b"C"}
FABULA = {3: b"Q1", 13: b"F", 12: b"I", 7: b"Q", 10: b"C"}
HUNNOX = {**FABULA, 0xF3: b"BL"}
QUESTIONS = (b"Q1", b"F", b"I", b"BL")
WAITING_LIMIT = 256


def failed(number: int) -> usb.core.USBError:
    """As pyusb says it."""
    kind = usb.core.USBTimeoutError if number == errno.ETIMEDOUT else usb.core.USBError
    return kind(errno.errorcode[number], None, number)


class Bridge:
    """A device of a kind with `speak` behind it. What can go wrong: `gone` (unplugged), `silent` (the unit is off),
    `stalls` (so many of the next transfers of data are refused), `filling` (what pads an answer), `packets` (what is
    already waiting), `unready` (string bridges say so often that they have no answer yet)."""

    bus, port_numbers = 1, (2,)
    clock = staticmethod(lambda waited_s: None)  # told how long a silence was

    def __init__(self, kind: str, speak: Speak) -> None:
        self.kind, self.speak = kind, speak
        (self.idVendor, self.idProduct), self.manufacturer, self.product = DEVICES[kind]
        self.serial_number = ""
        self.gone = self.silent = False
        self.stalls = self.unready = 0
        self.filling = b"\0"
        self.packets: queue.Queue[bytes] = queue.Queue()
        self.kernel_driver = True
        self.refuse_claim = 0
        self.log: list[str] = []
        self.sent: list[bytes] = []  # commands that arrived whole
        self.strings: list[tuple[int, int]] = []  # (number, bytes asked for)
        self._inbox = b""
        self.report = b""  # what the feature report holds

    # -- what libusb does

    def __iter__(self) -> Iterator[Any]:
        return iter([[SimpleNamespace(bInterfaceClass=3, bInterfaceNumber=0)]])

    def is_kernel_driver_active(self, interface: int) -> bool:
        self._transfer()
        if self.refuse_claim == errno.EACCES:
            raise failed(errno.EACCES)
        return self.kernel_driver

    def detach_kernel_driver(self, interface: int) -> None:
        self.kernel_driver = False

    def attach_kernel_driver(self, interface: int) -> None:
        self._transfer()
        self.kernel_driver = True

    def claim(self) -> None:
        if self.refuse_claim:
            raise failed(self.refuse_claim)
        self.log.append("claim")

    def release(self) -> None:
        self.log.append("release")

    def clear_halt(self, endpoint: int) -> None:
        self.log.append(f"clear {endpoint:#x}")

    def ctrl_transfer(self, kind: int, request: int, value: int, index: int, data: Any, timeout: int) -> Any:
        assert 0 < timeout <= 5000
        self._transfer()
        if (kind, request) == (0x80, 0x06) and value >> 8 == 3:
            return self._string(value & 0xFF, index, data)
        if (kind, request) == (0xA1, 0x01):
            assert self.kind == "ablerex" and (value, index, data) == (0x0305, 0, 47)
            self._stall()
            return self._feature()
        body = bytes(data)
        self._stall()
        wanted = {"ippon": 0x0002, "omron": 0x0002, "gtec": 0x0002, "ablerex": 0x0305}.get(self.kind, 0x0200)
        if self.kind == "phoenixtec":
            assert (kind, request, value, index) == (0x42, 0x0D, 0, 0)
        else:
            assert (kind, request, value, index) == (*REPORT, wanted, 0), (hex(kind), request, hex(value), index)
        assert self.kind not in ("fuji", "armac-64", *_STRINGS)
        self._take(body)
        return len(body)

    def write(self, endpoint: int, data: bytes, timeout: int) -> int:
        assert 0 < timeout <= 5000 and endpoint == 0x02 and self.kind in ("fuji", "armac-64")
        self._transfer()
        self._stall()
        self._take(bytes(data))
        return len(data)

    def read(self, endpoint: int, size: int, timeout: int) -> bytes:
        assert 0 < timeout <= 5000
        if endpoint != (0x82 if self.kind == "armac-64" else 0x81):
            raise ValueError(f"Invalid endpoint address {endpoint:#x}")
        self._transfer()
        self._stall()
        try:
            packet = self.packets.get_nowait()
        except queue.Empty:
            self.clock(timeout / 1000)
            raise failed(errno.ETIMEDOUT) from None
        if len(packet) > size:
            raise failed(errno.EOVERFLOW)
        return packet

    def _transfer(self) -> None:
        if self.gone:
            raise failed(errno.ENODEV)

    def _stall(self) -> None:
        if self.stalls:
            self.stalls -= 1
            raise failed(errno.EPIPE)

    # -- reports and packets

    def _take(self, body: bytes) -> None:
        """A piece of a command; with its CR it goes to the unit."""
        if self.kind == "fuji":
            assert body[:2] == b"\x80\x06" and body[3] == 3 and len(body) == 8
            self._inbox = body[4 : 4 + body[2] - 1] + b"\r"
        elif self.kind == "sgs":
            assert len(body) == 8 and body[0] <= 7
            self._inbox += body[1 : 1 + body[0]]
        elif self.kind == "ablerex":
            assert len(body) == 47 and body[:2] == b"\x05\x00"
            self._inbox = body[3 : 3 + body[2]]
        elif self.kind.startswith("armac"):
            assert body[0] & 0xF0 in (0xA0, 0xB0) and (len(body) == 4 or self.kind == "armac-64")
            self._inbox += body[1 : 1 + (body[0] - 0xA0)]
        else:
            assert self.kind == "phoenixtec" or len(body) == (16 if self.kind == "omron" else 8)
            self._inbox += body
        while b"\r" in self._inbox:
            command, _, rest = self._inbox.partition(b"\r")
            self._inbox = rest.lstrip(b"\0")
            self.sent.append(command)
            self._answer(b"" if self.silent else self.speak(command))

    def _feature(self) -> bytes:
        return self.report.ljust(47, self.filling)

    def _answer(self, answer: bytes) -> None:
        if self.kind == "ablerex":
            self.report = answer
            return
        size = {"phoenixtec": 20, "sgs": 7, "armac": 2, "armac-64": 40}.get(self.kind, 8)
        if self.kind in ("ippon", "omron", "gtec"):
            size = 64
        if self.kind == "sgs":
            answer = answer.rstrip(b"\r")  # this one ends with silence
        cut = [answer[at : at + size] for at in range(0, len(answer), size)]
        counts = {"sgs": 0x00, "armac": 0xC0, "armac-64": 0x80}  # above the number of bytes; what follows them is old
        if self.kind == "phoenixtec":
            pieces = cut
        elif self.kind in counts:
            room = {"sgs": 7, "armac": 5, "armac-64": 63}[self.kind]
            pieces = [bytes((counts[self.kind] + len(one),)) + one.ljust(room, b"0") for one in cut]
            pieces += [b"\x8000000"] if self.kind == "armac" and cut else []  # older ones: nothing more
        else:
            pieces = [one.ljust(size, self.filling) for one in cut]
        for piece in pieces:
            if self.packets.qsize() < WAITING_LIMIT:
                self.packets.put(piece)

    # -- string descriptors

    def _string(self, number: int, language: int, size: int) -> bytes:
        if number == 0:
            return b"\x04\x03\x09\x04"[:size]
        if self.kind not in _STRINGS:
            texts = {1: self.manufacturer, 2: self.product}
            if not texts.get(number):
                raise failed(errno.EPIPE)
            return _descriptor(texts[number].encode())[:size]
        if number in (1, 2) and language == 0x0409:
            return _descriptor((self.manufacturer, self.product)[number - 1].encode() or b" ")[:size]
        self._stall()
        assert language == 0x0409, hex(language)
        self.strings.append((number, size))
        if self.kind in OVERSIZE_HANGS and size > 102:
            self.gone = True
            raise failed(errno.ETIMEDOUT)
        return _descriptor(self._said(number))[:size]

    def _said(self, number: int) -> bytes:
        command = {"fabula": FABULA, "hunnox": HUNNOX}.get(self.kind, KRAULER).get(number)
        if command is None and self.kind in ("fabula", "hunnox"):
            command = _shutdown(number)
        if command is None or self.silent:
            return b"UPS No Ack"
        if self.unready and command in QUESTIONS:
            self.unready -= 1
            return b"UPS No Ack"
        self.sent.append(command)
        answer = self.speak(command)
        if command not in QUESTIONS:
            return b"UPS No Ack"  # whether it has done it or not
        return b"." + answer[1:] if self.kind in ("krauler", "snr") else answer


_STRINGS = ("krauler", "fabula", "hunnox", "snr")


def _shutdown(number: int) -> bytes | None:
    """10 to F0 in steps of 10: off in .5 to .9, then 1 to 10 minutes; 8 more: with return."""
    place, rest = divmod(number, 0x10)
    if not place or rest not in (0, 8):
        return None
    delay = b".%d" % (place + 4) if place <= 5 else b"%02d" % (place - 5)
    return b"S" + delay + (b"R0003" if rest else b"R0000")


def _descriptor(text: bytes) -> bytes:
    return bytes((2 + 2 * len(text), 3)) + b"".join(bytes((one, 0)) for one in text)


def util(device: Bridge) -> Any:
    """Stands in for usb.util."""
    return SimpleNamespace(
        claim_interface=lambda *args: device.claim(),
        release_interface=lambda *args: device.release(),
        dispose_resources=lambda *args: device.log.append("dispose"),
    )


# --- for a process with the shim in the place of libusb -----------------------------------------------------------

HEAD = struct.Struct(
    "<cBBHHHI"
)  # C|I|O|K, bmRequestType or endpoint, bRequest, wValue, wIndex, wLength, milliseconds
REPLY = struct.Struct("<iI")  # libusb's number (0 or more: bytes), bytes that follow
_LIBUSB = {
    errno.EACCES: -3,
    errno.EBUSY: -6,
    errno.ENODEV: -4,
    errno.EPIPE: -9,
    errno.ETIMEDOUT: -7,
    errno.EOVERFLOW: -8,
}


class Served:
    """`with Served(device, path):` the device answers everybody who connects to the socket at `path`."""

    def __init__(self, device: Bridge, path: Path) -> None:
        self._device = device
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(4)
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def __enter__(self) -> Served:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, line.makefile("rwb") as file:
            while len(head := file.read(HEAD.size)) == HEAD.size:
                what, *numbers = HEAD.unpack(head)
                number, data = self._one(what, numbers, file.read)
                file.write(REPLY.pack(number, len(data)) + data)
                file.flush()

    def _one(self, what: bytes, numbers: list[int], read: Callable[[int], bytes]) -> tuple[int, bytes]:
        first, request, value, index, length, within_ms = numbers
        within_ms = min(max(within_ms, 1), 5000)
        try:
            if what == b"K":
                return self._other(first), b""
            if what == b"C" and first & 0x80:
                data = bytes(self._device.ctrl_transfer(first, request, value, index, length, within_ms))
                return len(data), data
            if what == b"C":
                return self._device.ctrl_transfer(first, request, value, index, read(length), within_ms), b""
            if what == b"O":
                return self._device.write(first, read(length), within_ms), b""
            data = self._device.read(first, length, within_ms)
            return len(data), data
        except usb.core.USBError as e:
            return _LIBUSB[e.errno], b""
        except AssertionError as e:
            self.errors.append(e)
            return -1, b""

    def _other(self, what: int) -> int:
        """What is no transfer, by its number in the shim."""
        it = self._device
        if what == 6:
            return int(not it.gone)
        if what == 5:
            return int(it.is_kernel_driver_active(0))
        acts = {
            1: it.claim,
            2: it.release,
            3: lambda: it.detach_kernel_driver(0),
            4: lambda: it.attach_kernel_driver(0),
        }
        acts[what]()
        return 0
