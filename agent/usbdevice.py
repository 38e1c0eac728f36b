"""A USB device through libusb: who it is, and an interface of it taken from the kernel and given back as it was."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .hidraw import DESCRIPTOR_LIMIT_BYTES, Found, Identity, shown, text
from .link import join
from .model import LinkError

log = logging.getLogger(__name__)

SYS = Path("/sys/bus/usb/devices")
Finder = Callable[[], Iterable[Any]]  # all USB devices, as pyusb's usb.core.Device


def find_all() -> list[Any]:
    """All USB devices. LinkError if there is no libusb."""
    import usb.core  # only here: nobody else needs its memory

    try:
        return list(usb.core.find(find_all=True) or ())
    except usb.core.NoBackendError as e:
        raise LinkError("libusb is missing; mend with: sudo apt install libusb-1.0-0") from e


def identity(device: Any, sys: Path = SYS) -> Identity:
    """Who a device (usb.core.Device) says it is. A string that cannot be had is none. The kernel has asked for the
    strings already: asking each device again costs time, and seconds with one that hangs."""
    place = f"{device.bus}-{'.'.join(str(port) for port in device.port_numbers or ())}"
    vendor, product = int(device.idVendor), int(device.idProduct)
    folder = sys / place
    if [text(folder / name) for name in ("idVendor", "idProduct")] == [f"{vendor:04x}", f"{product:04x}"]:
        maker, name, serial = (text(folder / file) for file in ("manufacturer", "product", "serial"))
    else:
        maker, name, serial = (_text(device, file) for file in ("manufacturer", "product", "serial_number"))
    return Identity(vendor, product, maker, name, serial, place)


def known_descriptor(place: str, interface: int, sys: Path = SYS) -> bytes:
    """The report descriptor of an interface as the kernel's HID driver has read it; b"": it has not."""
    try:
        for path in sys.glob(f"{place}:*.{interface}/*/report_descriptor"):
            with path.open("rb") as file:
                return file.read(DESCRIPTOR_LIMIT_BYTES)
    except OSError as e:
        log.debug("usb: %s, interface %d: %s", place, interface, e)  # it was unplugged at this moment
    return b""


def _text(device: Any, name: str) -> str:
    """pyusb reports a string that the unit cannot give as ValueError (no language) or USBError."""
    import usb.core

    try:
        return str(getattr(device, name) or "").strip("\0 ")
    except (ValueError, usb.core.USBError) as e:
        log.debug("usb: %s: %s", name, e)
        return ""


_sockets: dict[str, str] = {}  # serial number -> where it was last, of what is configured, so it stays small
_twins: set[str] = set()  # serial numbers beside which an equal unit was seen


def with_serial(serial: str, fits: list[Found], alike: list[Found]) -> list[Found]:
    """Those of `alike` that are meant by a serial number: `fits`, that say it; else the one that says none, if it is
    in the socket where that unit was, or the only one and no equal unit was ever beside it."""
    if len(fits) == 1:
        _sockets[serial] = fits[0].identity.place
        if len(alike) > 1:
            _twins.add(serial)
    if fits:
        return fits
    nameless = [one for one in alike if not one.identity.serial]
    there = [one for one in nameless if one.identity.place and one.identity.place == _sockets.get(serial)]
    if not there and len(alike) == 1 and serial not in _twins:
        there = nameless
    for one in there:
        log.warning("%s says no serial number; it is taken for %s", shown(one.identity), serial)
    return there


class Claim:
    """An interface of a device, from the making of this to `give_back`. `util` is usb.util. Raises usb.core.USBError
    if it cannot be had."""

    def __init__(self, device: Any, interface: int, util: Any) -> None:
        self._device, self._interface, self._util = device, interface, util
        self._detached = False
        try:
            if device.is_kernel_driver_active(interface):
                device.detach_kernel_driver(interface)
                self._detached = True
            util.claim_interface(device, interface)
        except OSError:
            self.give_back()
            raise

    def give_back(self) -> None:
        """To the kernel's driver, if it had it."""
        import usb.core

        steps: list[Callable[[], Any]] = [lambda: self._util.release_interface(self._device, self._interface)]
        if self._detached:
            steps.append(lambda: self._device.attach_kernel_driver(self._interface))
        for step in steps:
            try:
                step()
            except usb.core.USBError as e:
                log.debug("usb: closing: %s", e)  # it was unplugged
        self._util.dispose_resources(self._device)


def remedy(who: Identity, error: OSError, node: Path | None = None) -> str:
    """Why a device cannot be opened, by its hidraw `node` or without one through libusb, and what to do about it."""
    device = str(node) if node is not None else f"USB device {who.vendor:04x}:{who.product:04x} at {who.place}"
    if error.errno in (errno.EACCES, errno.EPERM):
        joined = join(str(node)) if node is not None else ""
        if joined:
            return f"may not open {device}; mend with: {joined}, then log in again or restart the service"
        kind, attribute = ("hidraw", "ATTRS") if node is not None else ("usb", "ATTR")
        ids = f'{attribute}{{idVendor}}=="{who.vendor:04x}", {attribute}{{idProduct}}=="{who.product:04x}"'
        return (
            f'may not open {device}; mend with a udev rule: SUBSYSTEM=="{kind}", {ids}, GROUP="dialout", MODE="0660" '
            "(docs/drivers.md), and by being in that group"
        )
    if error.errno == errno.EBUSY:
        return f"{device} is in use by another program (NUT, the maker's software?): stop that"
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{device} is gone; plug the UPS in again"
    return f"{device} cannot be opened: {error}"
