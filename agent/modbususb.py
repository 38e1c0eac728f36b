"""Talks Modbus to an APC unit on USB: requests and answers are carried in two reports of a USB power device.

    output report, usage FF8600FC   id  unit  PDU  zeros up to 63 bytes     a request
    input report, usage FF8600FD    id  unit  PDU  zeros up to 63 bytes     its answer

There is no CRC. A frame is in one report alone, which makes 30 registers at once. Sources: apcupsd (ModbusUsbComm)
with APC's help; the reports themselves: the descriptor of a real Smart-UPS X 750.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from . import hidraw
from .modbus import AFTER_WRITE_S, PAUSE_S, READ, REFUSED, WRITE, ModbusLink
from .model import LinkError, Reply

TO_UNIT, FROM_UNIT = 0xFF8600FC, 0xFF8600FD
FRAME_BYTES = 63
REGISTERS_LIMIT = 30  # in one request: 63 bytes without unit, function and count
WITHIN_LIMIT_S = 5.0
INPUTS_LIMIT = 64  # taken at once; others than answers are among them
#: items of a report descriptor (HID 1.11, 6.2.2): usage page, usage, report id, and the main items
PAGE, USAGE, REPORT_ID, INPUT, OUTPUT, MAIN = 0x04, 0x08, 0x84, 0x80, 0x90, (0x80, 0x90, 0xB0, 0xA0, 0xC0)


class Hid(Protocol):
    """What is used of a USB power device (agent/hidraw.py)."""

    descriptor: bytes

    @property
    def wake_fd(self) -> int: ...

    def tell(self, data: bytes) -> None: ...

    def inputs(self, limit: int) -> list[Reply]: ...

    def close(self) -> None: ...


def open(  # noqa: A001
    section: Mapping[str, Any], now: Callable[[], float], unit: int, meant: hidraw.Meant = hidraw.nobody
) -> TunnelLink:
    """The device that `section` describes; `meant` as of hidraw.choose. LinkError if it cannot be had, or carries no
    Modbus."""
    device = cast(hidraw.HidrawLink, hidraw.open({**section, "usb_access": "hidraw"}, now, meant=meant))
    try:
        return TunnelLink(device, now, unit)
    except LinkError:
        meant("")  # it is not silent, so its port is left alone
        device.close()
        raise


def reports(descriptor: bytes) -> tuple[int, int]:
    """The ids of the reports to and from the unit. LinkError: it has none such."""
    page, usage, report = 0, 0, 0
    found: dict[tuple[int, int], int] = {}
    for tag, number in hidraw.items(descriptor):
        if tag == PAGE:
            page = number
        elif tag == USAGE:
            usage = number if number > 0xFFFF else page << 16 | number
        elif tag == REPORT_ID:
            report = number
        elif tag in MAIN:
            found.setdefault((tag, usage), report)
            usage = 0
    there, back = found.get((OUTPUT, TO_UNIT), 0), found.get((INPUT, FROM_UNIT), 0)
    if not there or not back:
        raise LinkError('this USB UPS carries no Modbus; read it with: driver = "usbhid"')
    return there, back


class TunnelLink(ModbusLink):
    """An open device."""

    registers_limit = REGISTERS_LIMIT
    pdu_limit_bytes = FRAME_BYTES - 1

    def __init__(self, device: Hid, now: Callable[[], float], unit: int) -> None:
        super().__init__(device, unit)
        self._device, self._now = device, now
        self._to, self._from = reports(device.descriptor)
        self._ready_s = now()

    def _exchange(self, command: bytes, within_s: float) -> Reply:
        frame = bytes((self._unit,)) + command
        if self._answer(self._ready_s) is not None:
            raise LinkError("it said something unasked")
        deadline_s = self._now() + min(within_s, WITHIN_LIMIT_S)
        self._device.tell(bytes((self._to,)) + frame.ljust(FRAME_BYTES, b"\0"))
        reply = self._answer(deadline_s)
        if reply is None:
            raise LinkError(f"no answer within {within_s:g} s; is Modbus switched on at the unit's panel?")
        if len(reply.data) != FRAME_BYTES + 1 or reply.data[1] != self._unit:
            raise LinkError(f"no answer of unit {self._unit}: {reply.data!r}")
        self._ready_s = self._now() + (AFTER_WRITE_S if frame[1] == WRITE else PAUSE_S)
        return reply._replace(data=_pdu(reply.data[2:]))

    def _answer(self, deadline_s: float) -> Reply | None:
        """The next report from the unit that carries Modbus; None: none came in time. LinkError."""
        while True:
            for reply in self._device.inputs(INPUTS_LIMIT):
                if reply.data[:1] == bytes((self._from,)):
                    return reply
            left_s = deadline_s - self._now()
            if left_s <= 0:
                return None
            poll = select.poll()
            poll.register(self._device.wake_fd, select.POLLIN)
            poll.poll(left_s * 1000)


def _pdu(padded: bytes) -> bytes:
    """The PDU at the beginning of what a report carries: fn 3, fn 16, an exception. LinkError for any other."""
    function = padded[0]
    if function & REFUSED:
        return padded[:2]
    size = {READ: 2 + padded[1], WRITE: 5}.get(function, 0)
    if not 0 < size <= len(padded):
        raise LinkError(f"no answer of a Modbus unit that fits into a report: {padded!r}")
    return padded[:size]
