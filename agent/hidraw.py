"""Talks to a USB UPS through the kernel's hidraw: finds it, reads and writes its reports, hears its interrupts.

Standard library alone; the kernel driver keeps the device. Sources: Linux, Documentation/hid/hidraw.rst and
include/uapi/linux/hidraw.h.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .model import LinkError, Option, Reply

if TYPE_CHECKING:
    from .hidusb import HidUsbLink

log = logging.getLogger(__name__)

SYS, DEV = Path("/sys/class/hidraw"), Path("/dev")
REPORT_LIMIT_BYTES = 1025  # id byte and what the parser allows
LARGER_BYTES = 256  # asked for when a report turns out longer than it was described (APC ES 525, CS)
DESCRIPTOR_LIMIT_BYTES = 4096
FULL = 63  # interrupt reports that the kernel keeps; what comes then it drops (drivers/hid/hidraw.c)
BACK_OFF_S = (0.25,)  # a look into a folder costs nothing, and a unit that re-enumerated shall not be missed long
DEVICES_LIMIT = 64  # looked at; more are not listed
TEXT_LIMIT = 256
POWER_PAGE = 0x84

WHICH: tuple[Option, ...] = (
    Option(name="usb_vendor", kind=str, help='USB vendor id of the UPS, 4 hex digits as lsusb shows them ("051d")'),
    Option(name="usb_product", kind=str, help='USB product id of the UPS, 4 hex digits ("0002")'),
    Option(name="usb_serial", kind=str, help="serial number of the UPS, as in /sys; tells two equal ones apart"),
    Option(name="usb_place", kind=str, help='USB socket of the UPS ("1-1.2"), for equal ones without serial numbers'),
)
OPTIONS: tuple[Option, ...] = (
    *WHICH,
    Option(
        name="usb_access",
        kind=str,
        default="hidraw",
        choices=("hidraw", "libusb"),
        help="way to the device: hidraw through the kernel's driver; libusb in its place, for units it refuses",
    ),
)


class Identity(NamedTuple):
    """What the USB descriptors say of a unit, and the socket it is in. Empty: nothing."""

    vendor: int
    product: int
    maker: str = ""
    name: str = ""
    serial: str = ""
    place: str = ""


class Found(NamedTuple):
    """A device node and who it is."""

    node: Path
    identity: Identity


class Kernel(Protocol):
    """The calls that are made on an open device; tests hand in a device of their own."""

    def open(self, node: Path) -> int: ...
    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int: ...
    def read(self, fd: int, limit: int) -> bytes: ...
    def write(self, fd: int, data: bytes) -> int: ...
    def close(self, fd: int) -> None: ...


class Linux:
    """The real one."""

    def open(self, node: Path) -> int:
        return os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        return int(fcntl.ioctl(fd, request, buffer, True))

    def read(self, fd: int, limit: int) -> bytes:
        return os.read(fd, limit)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def close(self, fd: int) -> None:
        os.close(fd)


# --- request numbers (_IOC of asm-generic/ioctl.h; type 'H') -------------------------------------------------------


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("H") << 8 | number


RDESC_SIZE = _request(2, 0x01, 4)
RDESC = _request(2, 0x02, 4 + DESCRIPTOR_LIMIT_BYTES)
RAW_NAME = _request(2, 0x04, TEXT_LIMIT)


def set_feature(size: int) -> int:
    """HIDIOCSFEATURE."""
    return _request(3, 0x06, size)


def get_feature(size: int) -> int:
    """HIDIOCGFEATURE."""
    return _request(3, 0x07, size)


def get_input(size: int) -> int:
    """HIDIOCGINPUT, since Linux 5.11."""
    return _request(3, 0x0A, size)


# --- finding ---------------------------------------------------------------------------------------------------


def find(sys: Path = SYS, dev: Path = DEV) -> list[Found]:
    """The power devices among the hidraw devices, in the order of their numbers; never raises."""
    found = []
    try:
        names = sorted((p.name for p in sys.iterdir()), key=lambda name: (len(name), name))[:DEVICES_LIMIT]
    except OSError:
        return []
    for name in names:
        device = sys / name / "device"
        try:
            with (device / "report_descriptor").open("rb") as file:
                descriptor = file.read(DESCRIPTOR_LIMIT_BYTES)
            if is_power_device(descriptor):
                found.append(Found(dev / name, _identity(device)))
        except (OSError, ValueError) as e:
            log.debug("%s: %s", device, e)  # it was unplugged at this moment
    return found


def _identity(device: Path) -> Identity:
    """From the HID device's uevent, and the USB device two levels above it."""
    told = dict(line.split("=", 1) for line in text(device / "uevent").splitlines() if "=" in line)
    ids = told.get("HID_ID", "").split(":")
    if len(ids) != 3:
        raise ValueError(f"HID_ID {told.get('HID_ID')!r}")
    usb = device.resolve().parent.parent
    return Identity(
        vendor=int(ids[1], 16) & 0xFFFF,
        product=int(ids[2], 16) & 0xFFFF,
        maker=text(usb / "manufacturer"),
        name=text(usb / "product") or told.get("HID_NAME", ""),
        serial=text(usb / "serial") or told.get("HID_UNIQ", ""),
        place=usb.name,
    )


def text(path: Path) -> str:
    """A small text file of the kernel, without its line end; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(16 * TEXT_LIMIT).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


Meant = Callable[[str], None]  # is told the USB socket of the device that is opened next


def nobody(place: str) -> None:
    """Nobody wants to know the socket."""


REFUSED = 'one that lsusb shows may need usb_access = "libusb"'


def choose(found: list[Found], section: Mapping[str, Any], hint: str = REFUSED, meant: Meant = nobody) -> Found:
    """The one that `section` means (see WHICH); `meant` is told its socket. A unit whose serial number the kernel
    could not read, as happens when it comes back in an outage, is taken if nothing else could be meant
    (usbdevice.with_serial). LinkError if it is none, or more than one, with the remedy, which ends with `hint`."""
    wanted: dict[str, Callable[[Identity], str]] = {
        "usb_vendor": lambda who: f"{who.vendor:04x}",
        "usb_product": lambda who: f"{who.product:04x}",
        "usb_serial": lambda who: who.serial,
        "usb_place": lambda who: who.place,
    }
    given = {name: str(section[name]).strip() for name in wanted if section.get(name)}
    hex_names = ("usb_vendor", "usb_product")
    asked = {n: text.lower().removeprefix("0x").zfill(4) if n in hex_names else text for n, text in given.items()}

    def fitting(names: Iterable[str]) -> list[Found]:
        return [one for one in found if all(wanted[name](one.identity) == asked[name] for name in names)]

    fits = fitting(asked)
    if serial := asked.get("usb_serial"):
        from .usbdevice import with_serial  # only here: it stands on this module

        fits = with_serial(serial, fits, fitting(asked.keys() - {"usb_serial"}))
    if len(fits) == 1:
        meant(fits[0].identity.place)
        return fits[0]
    there = "; ".join(shown(one.identity) for one in found[:8]) or "none"
    if not fits:
        what = " ".join(f"{name}={text}" for name, text in given.items())
        raise LinkError(f"no USB UPS {what}".rstrip() + f"; there are: {there}; see them with: lsusb; {hint}")
    raise LinkError(f"{len(fits)} USB UPSes fit: {there}; set usb_serial or usb_place in [ups]")


def shown(who: Identity) -> str:
    """A unit as an error names it."""
    serial = f" serial {who.serial}" if who.serial else ""
    return f"{who.vendor:04x}:{who.product:04x} {who.name or '?'}{serial} at {who.place or '?'}"


# --- the link --------------------------------------------------------------------------------------------------


def open(  # noqa: A001 (hidraw.open reads well)
    section: Mapping[str, Any],
    now: Callable[[], float],
    *,
    sys: Path = SYS,
    dev: Path = DEV,
    kernel: Kernel | None = None,
    meant: Meant = nobody,
) -> HidrawLink | HidUsbLink:
    """The device that `section` describes; `now` is CLOCK_MONOTONIC in seconds, `meant` as of `choose`. LinkError
    with the remedy."""
    if section.get("usb_access") == "libusb":
        from . import hidusb  # only here: it brings a library

        return hidusb.open(section, now, meant=meant)
    found = choose(find(sys, dev), section, meant=meant)
    calls = kernel if kernel is not None else Linux()
    try:
        fd = calls.open(found.node)
    except OSError as e:
        from .usbdevice import remedy  # only here: it stands on this module

        raise LinkError(remedy(found.identity, e, found.node)) from e
    try:
        return HidrawLink(calls, fd, found, now)
    except (OSError, LinkError) as e:
        calls.close(fd)
        raise LinkError(f"{found.node}: {e}") from e


def pause(seconds: float, /) -> None:
    """Do nothing for so long."""
    select.poll().poll(1000 * seconds)


class HidrawLink:
    """An open device. Each call takes at most what the kernel allows a control transfer: 5 s."""

    def __init__(self, kernel: Kernel, fd: int, found: Found, now: Callable[[], float]) -> None:
        self._kernel, self._fd, self._node, self._now = kernel, fd, found.node, now
        self._larger: set[tuple[str, int]] = set()  # reports that are longer than described
        self.identity = found.identity
        self.descriptor = self._read_descriptor()
        self._numbered = has_ids(self.descriptor)
        if not self.identity.name:
            self.identity = self.identity._replace(name=self._raw_name())

    @property
    def wake_fd(self) -> int:
        """Readable when an interrupt report has come in."""
        return self._fd

    def get(self, kind: str, report: int, length: int) -> Reply | None:
        """A feature or input report, its id first; None: the unit refuses it (STALL). LinkError: lost, or gone."""
        size = LARGER_BYTES if (kind, report) in self._larger else min(length, REPORT_LIMIT_BYTES)
        try:
            return self._get(kind, report, size)
        except OSError as e:
            if e.errno == errno.EPIPE:
                return None
            if e.errno != errno.EOVERFLOW or size >= LARGER_BYTES:
                raise LinkError(f"{self._node}: {kind} report {report:#04x}: {e.strerror}") from e
        self._larger.add((kind, report))
        return self.get(kind, report, length)

    def _get(self, kind: str, report: int, size: int) -> Reply:
        buffer = bytearray(size)
        buffer[0] = report
        request = get_feature(size) if kind == "feature" else get_input(size)
        got = self._kernel.ioctl(self._fd, request, buffer)
        return Reply(bytes(buffer[: max(0, min(got, size))]), self._now())

    def put(self, data: bytes) -> bool:
        """Write a feature report, its id first; False: the unit refuses it. LinkError: lost, or gone."""
        try:
            self._kernel.ioctl(self._fd, set_feature(len(data)), bytearray(data))
        except OSError as e:
            if e.errno == errno.EPIPE:
                return False
            raise LinkError(f"{self._node}: report {data[0]:#04x} not written: {e.strerror}") from e
        return True

    def tell(self, data: bytes) -> None:
        """Send an output report, its id first. LinkError."""
        try:
            self._kernel.write(self._fd, data)
        except OSError as e:
            raise LinkError(f"{self._node}: report {data[0]:#04x} not sent: {e.strerror}") from e

    def inputs(self, limit: int) -> list[Reply]:
        """The interrupt reports that have come in, at most `limit`, without waiting; none if so many waited that the
        newest were lost. LinkError: the unit is gone."""
        taken: list[Reply] = []
        while len(taken) < limit:
            try:
                data = self._kernel.read(self._fd, REPORT_LIMIT_BYTES)
            except BlockingIOError:
                break
            except OSError as e:
                raise LinkError(f"{self._node}: {e.strerror}") from e
            if not data:
                raise LinkError(f"{self._node}: the device is gone")
            taken.append(Reply(data if self._numbered else b"\0" + data, self._now()))
        return taken if len(taken) < FULL else []

    def string(self, index: int) -> str | None:
        """A string descriptor, by way of the USB device; None if it cannot be had."""
        from . import usbport  # only here: it stands on this module

        return usbport.string(self.identity.place, index) if self.identity.place else None

    rest = staticmethod(pause)

    def close(self) -> None:
        """Give the device back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                self._kernel.close(fd)
            except OSError as e:
                log.debug("%s: closing: %s", self._node, e)

    def _read_descriptor(self) -> bytes:
        size = bytearray(4)
        self._kernel.ioctl(self._fd, RDESC_SIZE, size)
        length = int.from_bytes(size, "little")
        if not 0 < length <= DESCRIPTOR_LIMIT_BYTES:
            raise LinkError(f"a report descriptor of {length} bytes")
        buffer = bytearray(4 + DESCRIPTOR_LIMIT_BYTES)
        buffer[:4] = size
        self._kernel.ioctl(self._fd, RDESC, buffer)
        return bytes(buffer[4 : 4 + length])

    def _raw_name(self) -> str:
        buffer = bytearray(TEXT_LIMIT)
        try:
            self._kernel.ioctl(self._fd, RAW_NAME, buffer)
        except OSError as e:
            log.debug("%s: name: %s", self._node, e)
        return bytes(buffer).partition(b"\0")[0].decode("utf-8", "replace")


def has_ids(descriptor: bytes) -> bool:
    """Whether reports begin with an id on the wire: there is a Report ID item."""
    return any(tag == 0x84 for tag, _ in items(descriptor))


def is_power_device(descriptor: bytes) -> bool:
    """Whether it is one as a whole (an application collection of the power device page): a wireless mouse that tells
    of its battery is none."""
    page, usage = 0, 0
    for tag, number in items(descriptor):
        if tag == 0x04:
            page = number
        elif tag == 0x08:
            usage = number if number > 0xFFFF else page << 16 | number
        elif tag == 0xA0 and number == 1 and usage >> 16 == POWER_PAGE:
            return True
    return False


def items(descriptor: bytes) -> Iterator[tuple[int, int]]:
    """(tag, number) of the short items, as far as they go; agent/hid.py reads them in earnest."""
    place = 0
    while place < len(descriptor):
        head = descriptor[place]
        size = (0, 1, 2, 4)[head & 3]
        if head != 0xFE:
            yield head & 0xFC, int.from_bytes(descriptor[place + 1 : place + 1 + size], "little")
            place += 1 + size
        else:
            place += 3 + (descriptor[place + 1] if place + 1 < len(descriptor) else 0)
