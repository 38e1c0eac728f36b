"""Talks to a USB UPS through libusb, for units that the kernel's HID driver does not take: the same as hidraw.

The kernel's driver is taken off for as long as the link is open, and given back; a device that the kernel knows as no
power device is left alone. Interrupt reports are read by a thread of their own, because libusb has nothing that a
poll() could wait for; it is the last to let go of the device. Source: USB-IF, HID 1.11, chapter 7.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import hidraw
from .hidraw import DESCRIPTOR_LIMIT_BYTES, LARGER_BYTES, REPORT_LIMIT_BYTES, Found, Identity
from .model import LinkError, Reply
from .usbdevice import SYS, Claim, Finder, find_all, identity, known_descriptor, remedy

log = logging.getLogger(__name__)

CONTROL_WITHIN_MS = 2000
INTERRUPT_WITHIN_MS = 250  # so long it takes to end the thread
CLOSE_WITHIN_S = 2.0  # waited for that; libusb may take longer with a device that is dead
WAITING_LIMIT = 64  # interrupt reports; the oldest goes
EBUSY, EPIPE, EOVERFLOW, ETIMEDOUT = 16, 32, 75, 110
HID_CLASS, HUB_CLASS, REPORT_DESCRIPTOR = 3, 9, 0x22
KINDS = {"input": 1, "feature": 3}
#: items of a report descriptor (HID 1.11, 6.2.2)
SIZE, REPORT_ID, COUNT, PUSH, POP, INPUT = 0x74, 0x84, 0x94, 0xA4, 0xB4, 0x80
_hung: list[threading.Thread] = []  # of links that were closed while libusb hung: they still have the device


def open(  # noqa: A001 (hidusb.open reads well)
    section: Mapping[str, Any],
    now: Callable[[], float],
    finder: Finder | None = None,
    util: Any = None,
    meant: hidraw.Meant = hidraw.nobody,
    sys: Path = SYS,
) -> HidUsbLink:
    """The device that `section` (hidraw.OPTIONS) describes; `meant` as of hidraw.choose. LinkError with the remedy.
    `finder` and `util` stand in for usb.core.find and usb.util."""
    import usb.core  # only here: nobody else needs its memory
    import usb.util

    try:
        found = []
        for device in (finder or find_all)():
            who = identity(device, sys)
            if numbers := [n for n in _hid_interfaces(device) if _may_be_one(known_descriptor(who.place, n, sys))]:
                found.append((Found(hidraw.DEV, who), device, numbers))
    except usb.core.USBError as e:
        raise LinkError(f"the USB devices cannot be listed: {e}") from e
    chosen = hidraw.choose([one for one, _, _ in found], section, meant=meant)
    device, numbers = next((device, numbers) for one, device, numbers in found if one is chosen)
    error = None
    for number in numbers:
        try:
            link = HidUsbLink(device, number, chosen.identity, now, util or usb.util)
        except usb.core.USBError as e:
            error = e
            continue
        if hidraw.is_power_device(link.descriptor):
            return link
        link.close()
    _hung[:] = [thread for thread in _hung if thread.is_alive()]
    if error is not None and error.errno == EBUSY and not _hung:
        meant("")  # another program has it: its port is left alone
    if error is not None:
        raise LinkError(remedy(chosen.identity, error)) from error
    meant("")  # it is not silent, so its port is left alone
    raise LinkError(f"{chosen.identity.name or 'this USB device'} is no power device")


def _may_be_one(known: bytes) -> bool:
    """Whether an interface may be a power device: what the kernel's driver does not know must be asked."""
    return not known or hidraw.is_power_device(known)


def _hid_interfaces(device: Any) -> list[int]:
    """The numbers of its HID interfaces; some units have two, and the second is the one."""
    if device.bDeviceClass == HUB_CLASS:
        return []
    there = [interface for configuration in device for interface in configuration]
    return [int(one.bInterfaceNumber) for one in there if one.bInterfaceClass == HID_CLASS]


class HidUsbLink:
    """An open device. Each call takes at most 2 s."""

    def __init__(self, device: Any, interface: int, identity: Identity, now: Callable[[], float], util: Any) -> None:
        import usb.core

        self._error: type[OSError] = usb.core.USBError
        self._util = util
        self._device, self._interface, self.identity, self._now = device, interface, identity, now
        self._claim = Claim(device, interface, util)
        try:
            self.descriptor = self._read_descriptor()
            endpoint = self._endpoint()
        except self._error:
            self._claim.give_back()
            raise
        self._numbered = hidraw.has_ids(self.descriptor)
        self._waiting: deque[Reply] = deque(maxlen=WAITING_LIMIT)
        self._gone = ""
        self._stop = threading.Event()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, args=(endpoint,), name="usb", daemon=True)
        self._thread.start()

    @property
    def wake_fd(self) -> int | None:
        """Readable when an interrupt report has come in."""
        return self._wake_r

    def get(self, kind: str, report: int, length: int) -> Reply | None:
        """As hidraw.HidrawLink.get: GET_REPORT (HID 1.11, 7.2.1)."""
        value = KINDS[kind] << 8 | report
        for size in (min(length, REPORT_LIMIT_BYTES), LARGER_BYTES):
            try:
                data = bytes(
                    self._device.ctrl_transfer(
                        0xA1, 0x01, value, self._interface, size - (not self._numbered), CONTROL_WITHIN_MS
                    )
                )
            except self._error as e:
                if e.errno == EPIPE:
                    return None
                if e.errno != EOVERFLOW or size == LARGER_BYTES:
                    raise LinkError(f"{kind} report {report:#04x}: {e}") from e
            else:
                return Reply(data if self._numbered else b"\0" + data, self._now())
        return None

    def put(self, data: bytes) -> bool:
        """As hidraw.HidrawLink.put: SET_REPORT (7.2.2)."""
        body = data if self._numbered else data[1:]
        try:
            self._device.ctrl_transfer(
                0x21, 0x09, KINDS["feature"] << 8 | data[0], self._interface, body, CONTROL_WITHIN_MS
            )
        except self._error as e:
            if e.errno == EPIPE:
                return False
            raise LinkError(f"report {data[0]:#04x} not written: {e}") from e
        return True

    def inputs(self, limit: int) -> list[Reply]:
        """As hidraw.HidrawLink.inputs; once it is gone, `wake_fd` stays readable as that of hidraw does."""
        if self._gone:
            raise LinkError(self._gone)
        try:
            os.read(self._wake_r, 4096)
        except BlockingIOError:
            pass  # nothing has come
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def string(self, index: int) -> str | None:
        """A string descriptor, in the unit's first language; None if it has none."""
        try:
            return str(self._util.get_string(self._device, index) or "") or None
        except (ValueError, self._error) as e:
            log.debug("usb: string %d: %s", index, e)
            return None

    rest = staticmethod(hidraw.pause)

    def close(self) -> None:
        """End the thread, and give the interface back to the kernel."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(CLOSE_WITHIN_S)
        os.close(self._wake_r)
        if self._thread.is_alive():
            _hung.append(self._thread)
            log.warning("usb: libusb hangs at reading; the device is given back when it comes back")

    def _read_descriptor(self) -> bytes:
        """GET_DESCRIPTOR (7.1.1), asked for directly: the length in the HID descriptor is not always true."""
        data = self._device.ctrl_transfer(
            0x81, 0x06, REPORT_DESCRIPTOR << 8, self._interface, DESCRIPTOR_LIMIT_BYTES, CONTROL_WITHIN_MS
        )
        return bytes(data)

    def _endpoint(self) -> tuple[int, int] | None:
        """(address, size) of the interrupt IN endpoint."""
        for interface in self._device.get_active_configuration():
            if interface.bInterfaceNumber == self._interface:
                for endpoint in interface:
                    if endpoint.bEndpointAddress & 0x80 and endpoint.bmAttributes & 3 == 3:
                        return endpoint.bEndpointAddress, max(endpoint.wMaxPacketSize, 8)
        return None

    def _run(self, endpoint: tuple[int, int] | None) -> None:
        """The thread. What it writes to is its own, and the device is given back when nobody reads it any more."""
        try:
            self._listen(endpoint)
            self._stop.wait()
        finally:
            os.close(self._wake_w)
            self._claim.give_back()

    def _listen(self, endpoint: tuple[int, int] | None) -> None:
        cleared = False  # since it last sent something: a pipe that stalls again at once is not mended that way
        lengths, began = _input_bytes(self.descriptor), b""  # a long report comes in several packets
        while endpoint is not None and not self._stop.is_set():
            try:
                packet = bytes(self._device.read(*endpoint, INTERRUPT_WITHIN_MS))
            except self._error as e:
                began = b""
                if e.errno == ETIMEDOUT:
                    continue
                if e.errno == EPIPE and not cleared and self._clear_halt(endpoint[0]):
                    cleared = True
                    continue
                self._gone = f"interrupt reports: {e}"
            else:
                cleared = False
                data, began = began + packet, b""
                if len(packet) == endpoint[1] and len(data) < lengths.get(data[0] if self._numbered else 0, 0):
                    began = data
                    continue
                self._waiting.append(Reply(data if self._numbered else b"\0" + data, self._now()))
            try:
                os.write(self._wake_w, b"x")
            except BlockingIOError:
                pass  # it is already awake
            except BrokenPipeError:
                return  # it was closed while libusb hung
            if self._gone:
                return

    def _clear_halt(self, address: int) -> bool:
        """CLEAR_FEATURE(ENDPOINT_HALT), USB 2.0, 9.4.5; whether the unit took it."""
        try:
            self._device.clear_halt(address)
        except self._error as e:
            log.debug("usb: endpoint %#04x stays halted: %s", address, e)
            return False
        log.info("usb: endpoint %#04x was halted and is cleared", address)
        return True


def _input_bytes(descriptor: bytes) -> dict[int, int]:
    """How long each input report is on the wire, by its id; 0 in a unit without ids."""
    bits: dict[int, int] = {}
    now, kept = dict.fromkeys((SIZE, REPORT_ID, COUNT), 0), []
    for tag, number in hidraw.items(descriptor):
        if tag in now:
            now[tag] = number
        elif tag == PUSH:
            kept.append(dict(now))
        elif tag == POP and kept:
            now = kept.pop()
        elif tag == INPUT:
            bits[now[REPORT_ID]] = bits.get(now[REPORT_ID], 0) + now[SIZE] * now[COUNT]
    return {report: min(bool(report) + (said + 7) // 8, REPORT_LIMIT_BYTES) for report, said in bits.items()}
