"""The kernel's side of hidraw for a HidUnit: a folder like /sys, and the calls on an open device by number."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from agent.model import LinkError
from tests.simulators.hidunit import HidUnit

# include/uapi/linux/hidraw.h, as the compiler makes them
RDESC_SIZE, RDESC, RAW_NAME_TYPE = 0x80044801, 0x90044802, 0x04
SET_FEATURE, GET_FEATURE, GET_INPUT = 0x06, 0x07, 0x0A


def plug(root: Path, unit: HidUnit, number: int = 0, place: str = "1-1", name: str | None = None) -> Path:
    """Make /sys and /dev entries of a unit under `root`; the node."""
    who = unit.identity
    usb = root / "devices" / place
    device = usb / f"{place}:1.0" / f"0003:{who.vendor:04X}:{who.product:04X}.{number:04X}"
    device.mkdir(parents=True)
    for file, text in (("manufacturer", who.maker), ("product", who.name), ("serial", who.serial)):
        if text:
            (usb / file).write_text(text + "\n")
    (device / "report_descriptor").write_bytes(unit.descriptor)
    label = f"HID_NAME={who.maker} {who.name}\n" if name is None else f"HID_NAME={name}\n"
    (device / "uevent").write_text(f"DRIVER=hid-generic\nHID_ID=0003:{who.vendor:08X}:{who.product:08X}\n{label}")
    entry = root / "class" / f"hidraw{number}"
    entry.mkdir(parents=True)
    (entry / "device").symlink_to(device)
    (root / "dev").mkdir(exist_ok=True)
    node = root / "dev" / f"hidraw{number}"
    node.write_bytes(b"")
    return node


class UnitKernel:
    """Answers for the units plugged in: node -> unit. `fails` makes a call on a report an errno; `long` reports
    overflow a buffer of their described length."""

    def __init__(self, units: dict[Path, HidUnit]) -> None:
        self.units = units
        self.open_as: dict[int, tuple[HidUnit, socket.socket]] = {}
        self.fails: dict[int, int] = {}
        self.long: set[int] = set()
        self.refuse_open = 0
        self.sizes: list[int] = []
        self.on_output: Callable[[bytes], list[bytes]] = lambda data: []  # output report -> interrupt reports

    def open(self, node: Path) -> int:
        if self.refuse_open or node not in self.units or self.units[node].gone:
            number = self.refuse_open or (errno.ENODEV if node in self.units else errno.ENOENT)
            raise OSError(number, os.strerror(number))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        fd = ours.detach()
        os.set_blocking(fd, False)
        self.open_as[fd] = self.units[node], theirs
        return fd

    def push(self, report: int) -> None:
        """The unit sends an interrupt report as it is now."""
        for unit, theirs in self.open_as.values():
            theirs.send(unit.reports["input", report])

    def hang_up(self) -> None:
        """What poll() sees when the device is pulled out."""
        for _, theirs in self.open_as.values():
            theirs.shutdown(socket.SHUT_RDWR)

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        unit, _ = self.open_as[fd]
        size = request >> 16 & 0x3FFF
        assert size == len(buffer) and request >> 8 & 0xFF == ord("H"), hex(request)
        if request == RDESC_SIZE:
            buffer[:] = len(unit.descriptor).to_bytes(4, "little")
            return 0
        if request == RDESC:
            assert int.from_bytes(buffer[:4], "little") == len(unit.descriptor)
            buffer[4 : 4 + len(unit.descriptor)] = unit.descriptor
            return 0
        what, direction = request & 0xFF, request >> 30
        if what == RAW_NAME_TYPE:
            assert direction == 2
            text = b"Raw Name\0"
            buffer[: len(text)] = text
            return len(text)
        assert direction == 3
        self.sizes.append(size)
        return self._report(unit, what, buffer)

    def _report(self, unit: HidUnit, what: int, buffer: bytearray) -> int:
        report = buffer[0]
        if report in self.fails:
            raise OSError(self.fails[report], os.strerror(self.fails[report]))
        try:
            if what == SET_FEATURE:
                if not unit.put(bytes(buffer)):
                    raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
                return len(buffer)
            reply = unit.get({GET_FEATURE: "feature", GET_INPUT: "input"}[what], report, len(buffer))
        except LinkError:
            raise OSError(errno.ENODEV if unit.gone else errno.ETIMEDOUT, "as the kernel says it") from None
        if reply is None:
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        if report in self.long and len(buffer) < 64:
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        buffer[: len(reply.data)] = reply.data
        return len(reply.data)

    def read(self, fd: int, limit: int) -> bytes:
        if self.open_as[fd][0].gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return os.read(fd, limit)

    def write(self, fd: int, data: bytes) -> int:
        unit, theirs = self.open_as[fd]
        if unit.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        for report in self.on_output(data):
            theirs.send(report)
        return len(data)

    def close(self, fd: int) -> None:
        self.open_as.pop(fd)[1].close()
        os.close(fd)
