"""Helps a USB UPS that is plugged in and does not answer: resets its port, seldom, then says what a person must do.

The last two steps of four: a link clears a halted endpoint, the ups thread opens the device anew. Also what hidraw
has no word for: a string by its number. Sources: Linux, include/uapi/linux/usbdevice_fs.h and
drivers/usb/core/devio.c (USBDEVFS_RESET, USBDEVFS_CONTROL); /sys/bus/usb/devices; USB 2.0, 9.6.7.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

from .hidraw import Identity, text
from .model import LinkError
from .usbdevice import SYS, remedy

log = logging.getLogger(__name__)

DEV = Path("/dev/bus/usb")
USBDEVFS_RESET = 0x5514  # _IO('U', 20)
RESET_AT = 2  # connections in a row that were given up: after the first it is opened anew and no more
RESET_WITHIN_S = 4.0  # waited for; the kernel may take longer with a device that is dead
AGAIN_S, AGAIN_LIMIT_S = 60.0, 3600.0  # between two resets, doubled each time
WELL_FOR_S = 600.0  # so long after a reset it must answer, before the next one comes as soon as the first


_TRANSFER = struct.Struct("@BBHHHIP")  # struct usbdevfs_ctrltransfer
USBDEVFS_CONTROL = 3 << 30 | _TRANSFER.size << 16 | ord("U") << 8
STRING_BYTES, STRING_WITHIN_MS = 255, 1000


def node_of(place: str, sys: Path = SYS, dev: Path = DEV) -> Path:
    """The node of the device in a USB socket. ValueError: there is none."""
    busnum, devnum = (int(text(sys / place / name)) for name in ("busnum", "devnum"))
    return dev / f"{busnum:03d}" / f"{devnum:03d}"


def string(place: str, index: int, sys: Path = SYS, dev: Path = DEV) -> str | None:
    """A string descriptor, in the unit's first language; None if it cannot be had."""
    try:
        fd = os.open(node_of(place, sys, dev), os.O_RDWR | os.O_CLOEXEC)
    except (OSError, ValueError) as e:
        log.debug("usb: string %d: %s", index, e)
        return None
    try:
        languages = _string(fd, 0, 0)
        found = _string(fd, index, int.from_bytes(languages[2:4], "little"))
    except OSError as e:
        log.debug("usb: string %d: %s", index, e)
        return None
    finally:
        os.close(fd)
    return found[2:].decode("utf-16-le", "replace").strip("\0 ") or None


def _string(fd: int, index: int, language: int) -> bytes:
    """GET_DESCRIPTOR (USB 2.0, 9.4.3): its length, 3, and the text. OSError."""
    buffer = array("B", bytes(STRING_BYTES))
    address, _ = buffer.buffer_info()
    asked = (0x80, 6, 0x0300 | index, language, STRING_BYTES, STRING_WITHIN_MS, address)
    got = fcntl.ioctl(fd, USBDEVFS_CONTROL, bytearray(_TRANSFER.pack(*asked)), True)
    data = buffer.tobytes()[:got]
    return data[: data[0]] if len(data) >= 2 and data[1] == 3 else b""


def reset(node: Path) -> None:
    """Reset the port of a USB device: as if it was plugged in again, without losing its name. OSError."""
    fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, USBDEVFS_RESET)
    finally:
        os.close(fd)


class Rescue:
    """Of the UPS of this process; the ups thread says how it goes. `now` is CLOCK_MONOTONIC in seconds; the others
    stand in for the kernel."""

    def __init__(
        self,
        now: Callable[[], float],
        sys: Path = SYS,
        dev: Path = DEV,
        reset: Callable[[Path], None] = reset,
    ) -> None:
        self._now, self._sys, self._dev, self._reset = now, sys, dev, reset
        self._place = ""  # see `meant`
        self._device: tuple[str, str] | None = None  # socket and number; another number: it was plugged in again
        self.strikes = 0  # connections to this device in a row that were given up without a frame
        self._reset_s: float | None = None  # when its port was reset last
        self._wait_s = AGAIN_S
        self._thread: threading.Thread | None = None
        self._why_not = ""  # it could not be reset
        self._told = False
        self.hint = ""  # what the last failure left for a person to do: see model.View

    def well(self) -> None:
        """A frame has come."""
        self.strikes, self._device, self._told, self._why_not, self.hint = 0, None, False, "", ""
        if self._reset_s is not None and self._now() - self._reset_s >= WELL_FOR_S:
            self._reset_s, self._wait_s = None, AGAIN_S

    def before_open(self) -> None:
        """The next opening means no USB device before `meant` says so. LinkError while the port is being reset."""
        if self._thread is not None and self._thread.is_alive():
            raise LinkError("the kernel is still resetting the USB port of the UPS")
        self._place = ""

    def meant(self, place: str) -> None:
        """The UPS is the device in this socket; it is being opened."""
        self._place = place

    def failed(self, error: LinkError | None = None) -> str:
        """A connection was given up, or could not be made: `error`. Takes at most RESET_WITHIN_S. What to add to it:
        "" or, when nothing else is left, what a person must do; `hint` is the same as a word."""
        self.hint = ""
        if error is not None and getattr(error.__cause__, "errno", None) in (errno.EACCES, errno.EPERM):
            return ""  # it was not asked, so it is not silent
        if self._thread is not None and self._thread.is_alive():
            return self._remedy()
        device = self._there()
        if device is None:  # not plugged in, or it did not come back from the reset
            return self._remedy() if self.strikes >= RESET_AT else ""
        if device != self._device:
            self._device, self.strikes = device, 0
        self.strikes += 1
        if self.strikes < RESET_AT:
            return ""
        due = self._reset_s is None or self._now() - self._reset_s >= self._wait_s
        told = self._remedy() if self.strikes > RESET_AT or not due else ""
        if due:
            self._begin(device)
        return told

    def _there(self) -> tuple[str, str] | None:
        """The device that was opened last, None if it is gone."""
        number = text(self._sys / self._place / "devnum") if self._place else ""
        return (self._place, number) if number else None

    def _begin(self, device: tuple[str, str]) -> None:
        """Reset the port in a thread of its own, because nothing can interrupt the kernel at it."""
        if self._reset_s is not None:
            self._wait_s = min(2 * self._wait_s, AGAIN_LIMIT_S)
        self._reset_s, self._why_not = self._now(), ""
        log.warning("usb: the UPS in socket %s does not answer, its port is reset", device[0])
        self._thread = threading.Thread(target=self._run, args=device[:1], name="usb reset", daemon=True)
        self._thread.start()
        self._thread.join(RESET_WITHIN_S)

    def _run(self, place: str) -> None:
        folder = self._sys / place
        try:
            self._reset(node_of(place, self._sys, self._dev))
        except (OSError, ValueError) as e:
            self._why_not = _why_not(folder, place, e)

    def _remedy(self) -> str:
        """Said once in the log, and with each error from then on."""
        self.hint = "usb-no-reset" if self._why_not else "usb-silent"
        done = f"its port could not be reset: {self._why_not}" if self._why_not else "its port was reset"
        where = self._device[0] if self._device is not None else "?"
        told = (
            f"the UPS in USB socket {where} does not answer, also after it was opened anew and {done}. Unplug its "
            "USB cable and plug it in again; if that does not help, restart the UPS itself"
        )
        if not self._told:
            self._told = True
            log.error("usb: %s", told)
        return told


def _why_not(folder: Path, place: str, error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return "it went away"
    ids = [text(folder / name) for name in ("idVendor", "idProduct")]
    vendor, product = (int(one, 16) if one else 0 for one in ids)
    return remedy(Identity(vendor, product, place=place), error)
