"""What is plugged in: USB devices and serial ports and who they are, as the kernel tells; nothing is opened.

Source: Linux, Documentation/ABI/testing/sysfs-bus-usb and sysfs-tty; udev, 60-serial.rules (lasting names).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from .hidraw import Identity, text

log = logging.getLogger(__name__)

USB, TTY, DEV = Path("/sys/bus/usb/devices"), Path("/sys/class/tty"), Path("/dev")
LIMIT = 64  # of each; more are not looked at
#: the names of serial ports that a UPS can hang on (not: terminals of the screen, pseudo terminals)
NAMES = ("ttyS", "ttyUSB", "ttyACM", "ttyAMA", "ttySC", "ttyO", "ttymxc", "ttyTHS")


class Port(NamedTuple):
    """A serial port. `usb` None: it is none of USB. `lasting`: the name for the configuration, "" if it has none.
    `part`: which of the ports of its USB device."""

    node: Path
    usb: Identity | None = None
    lasting: str = ""
    part: str = ""

    @property
    def name(self) -> str:
        return self.lasting or str(self.node)


def usb_devices(sys: Path = USB) -> list[Identity]:
    """The USB devices, hubs aside, in the order of their sockets; never raises."""
    found = []
    for folder in _entries(sys):
        if ":" not in folder.name and text(folder / "bDeviceClass") not in ("", "09"):
            identity = _usb(folder)
            if identity is not None:
                found.append(identity)
    return found[:LIMIT]


def ports(sys: Path = TTY, dev: Path = DEV) -> list[Port]:
    """The serial ports, those aside on which this machine has its console; never raises."""
    console = text(sys / "console" / "active").split()
    names = [f.name for f in _entries(sys) if f.name.startswith(NAMES) and f.name not in console]
    with_device = [name for name in names if (sys / name / "device").exists()]
    return [_port(name, sys, dev) for name in with_device[:LIMIT]]


def port(path: str, sys: Path = TTY, dev: Path = DEV) -> Port | None:
    """The serial port behind a path, a link or a node; None if there is none."""
    node = Path(path).resolve()
    return _port(node.name, sys, dev) if (sys / node.name / "device").exists() and node.exists() else None


def same(one: Port, other: Port) -> bool:
    """Whether it is the same port of the same USB device, perhaps under another number: by its serial number, else by
    its socket."""
    if one.usb is None or other.usb is None or one.part != other.part:
        return False
    if (one.usb.vendor, one.usb.product, one.usb.serial) != (other.usb.vendor, other.usb.product, other.usb.serial):
        return False
    return bool(one.usb.serial) or one.usb.place == other.usb.place


def _port(name: str, sys: Path, dev: Path) -> Port:
    place = (sys / name / "device").resolve()
    usb = next((who for folder in (place, *place.parents)[:8] if (who := _usb(folder)) is not None), None)
    interface = next((folder.name for folder in (place, *place.parents)[:8] if ":" in folder.name), "")
    part = f"{interface.partition(':')[2]}/{text(place / 'port_number')}" if usb is not None else ""
    kinds = ("by-id", "by-path") if usb is not None and usb.serial else ("by-path", "by-id")
    for kind in kinds:
        for path in _entries(dev / "serial" / kind):
            if path.resolve() == dev / name:
                return Port(dev / name, usb, str(path), part)
    return Port(dev / name, usb, part=part)


def _usb(folder: Path) -> Identity | None:
    try:
        vendor, product = (int(text(folder / name), 16) for name in ("idVendor", "idProduct"))
    except ValueError:
        return None
    maker, name, serial = (text(folder / part) for part in ("manufacturer", "product", "serial"))
    return Identity(vendor, product, maker, name, serial, folder.name)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, ttyUSB2 before ttyUSB10; nothing if there is none."""
    try:
        return sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))
    except OSError as e:
        log.debug("%s: %s", folder, e)
        return []
