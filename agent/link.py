"""Talks to a UPS over a serial line: one question, one answer, never waiting longer than it was allowed to.

Opening a port raises DTR and RTS for a moment (Linux does that before any program can prevent it), then both are set
as `cable_power` says and stay so, also after closing (HUPCL is cleared): many UPS cables draw their power from these
two lines. A pseudo terminal has no such lines; that is said once and is no error.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import select
import termios
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import devices
from .model import Link, LinkError, Option, Reply

if TYPE_CHECKING:
    import serial

log = logging.getLogger(__name__)

SETTLE_S = 1.1  # a cable that lives on DTR/RTS needs this long before its UPS answers (NUT, drivers/nutdrv_qx.c)
WRITE_WITHIN_S = 0.5
WITHIN_LIMIT_S = 5.0  # no question may take longer, whatever the caller says
NO_ANSWER = b"\n\0"  # no text begins so: the rest of an answer that ended with CR LF, the noise of a cable
SHOWN_BYTES = 64  # of a wrong answer, in an error text
BACK_OFF_S = (1.0, 2.0, 4.0)  # so that a cable that is plugged in again is found within 15 s, with all that follows


class Silence(LinkError):
    """Not one byte came within the time."""


class NotSent(LinkError):
    """The command did not get out, or not all of it: for an order that is another thing than no answer."""


#: cable_power -> (DTR, RTS)
CABLE_POWER: Mapping[str, tuple[bool, bool]] = {
    "normal": (True, False),
    "reverse": (False, True),
    "both": (True, True),
    "none": (False, False),
}

OPTIONS: tuple[Option, ...] = (
    Option(
        name="port",
        kind=str,
        required=True,
        help="serial device of the UPS; a name under /dev/serial/by-id/ survives a change of the USB socket",
    ),
    Option(name="baud", kind=int, default=2400, low=300, high=115200, help="speed of the serial line, 8N1"),
    Option(
        name="cable_power",
        kind=str,
        default="normal",
        choices=tuple(CABLE_POWER),
        help="lines that feed the cable: normal = DTR, reverse = RTS, both, none",
    ),
)

_NO_SUCH_IOCTL = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP)
_told_no_lines: set[str] = set()  # ports of the configuration, so it stays small
_was: dict[str, devices.Port] = {}  # port -> what it was when it was last open, of USB; as small
_moved: dict[str, str] = {}  # port -> where it was followed to, and that was said; as small


def open(section: Mapping[str, Any], now: Callable[[], float]) -> SerialLink:  # noqa: A001 (link.open reads well)
    """The serial line that `section` describes (see OPTIONS); `now` is CLOCK_MONOTONIC in seconds.

    Does not wait. LinkError if the port cannot be had, with the remedy.
    """
    port = str(section.get("port") or "")
    if not port.startswith("/"):
        raise LinkError(f"port {port!r} is not a device: set [ups] port to a path, see ls /dev/serial/by-id")
    try:
        line = _made(int(section.get("baud", 2400)), now)
        line.dtr, line.rts = CABLE_POWER[section.get("cable_power", "normal")]
        line.port = node = follow(port)
        line.open()
    except (OSError, ValueError, termios.error) as e:
        raise LinkError(remedy(port, e)) from e
    try:
        _keep_lines_at_close(line.fileno())
        has_lines = _set_lines(line, port)
    except (OSError, termios.error) as e:
        line.close()
        raise LinkError(remedy(port, e)) from e
    know(port, node)
    return SerialLink(line, now, ready_s=now() + (SETTLE_S if has_lines else 0.0))


def _made(baud: int, now: Callable[[], float]) -> serial.Serial:
    """A port that is not open yet. pyserial waits with select(), which cannot take a descriptor above 1023, and an
    outage has many sockets open when an adapter comes back; so reading and writing are done here."""
    import serial  # only here: nobody else needs its memory

    class Port(serial.Serial):
        def read(self, size: int = 1) -> bytes:
            if not ready(self.fileno(), select.POLLIN, 0.0):
                return b""
            if not (data := os.read(self.fileno(), size)):
                raise OSError(errno.EIO, "the device is gone, or another program reads from it as well")
            return data

        def write(self, data: Any, /) -> int:
            left, until_s = bytes(data), now() + WRITE_WITHIN_S
            while left:
                if not ready(self.fileno(), select.POLLOUT, until_s - now()):
                    raise serial.SerialTimeoutException("Write timeout")
                left = left[os.write(self.fileno(), left) :]
            return len(data)

    return Port(None, baud, timeout=0, exclusive=True)


def ready(fd: int, what: int, within_s: float) -> bool:
    """Whether it can be read (POLLIN) or written (POLLOUT) within the time. Not by select(), which cannot take a
    descriptor above 1023: an outage has many."""
    poll = select.poll()
    poll.register(fd, what)
    return bool(poll.poll(max(0.0, within_s) * 1000))


def follow(
    port: str,
    was: Mapping[str, devices.Port] = _was,
    sys: Path = devices.TTY,
    dev: Path = devices.DEV,
) -> str:
    """Where the device of `port` is now: a USB adapter that was unplugged may come back under another number.

    `was`: the device that each port had. LinkError if the port is another device now, and its own is nowhere: a name
    is no reason to talk to somebody else's.
    """
    mine = was.get(port)
    there = devices.port(port, sys, dev) if mine is not None else None
    if mine is None or (there is not None and devices.same(mine, there)):
        return port
    for other in devices.ports(sys, dev):
        if devices.same(mine, other):
            node = str(other.node)
            if _moved.get(port) != node:  # it is opened again and again while its UPS is silent
                log.warning("%s is %s now; a name under /dev/serial/by-id would not move", port, node)
            _moved[port] = node
            return node
    if there is not None:
        raise LinkError(
            f"{port} is another device now, and that of the UPS is not there; plug its cable in, or restart the "
            "agent if this is its new adapter"
        )
    return port


def know(port: str, node: str) -> None:
    """Remember whose device `port` was, which is open as `node`, for `follow`."""
    if (found := devices.port(node)) is not None and found.usb is not None:
        _was[port] = found


class SerialLink:
    """An open serial line; `ready_s` is the second before which nothing is sent. See model.Link."""

    def __init__(self, line: serial.Serial, now: Callable[[], float], ready_s: float) -> None:
        self._line, self._now, self._ready_s = line, now, ready_s

    @property
    def wake_fd(self) -> int | None:
        """Readable when the UPS says something unasked. Only a driver whose UPS means it hands this on."""
        return self._line.fileno() if self._line.is_open else None

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        """Discard what is waiting, send `command`, return what comes up to the first `end` (not with it).

        What follows `end` is discarded by the next question, and so is NO_ANSWER before an answer. Takes at most
        `within_s` (never more than 5 s), plus 0.5 s to write and once, on a line just opened, SETTLE_S: many answers
        may take less. LinkError: silence, more than `limit_bytes` without `end`, or a line that is gone.
        """

        def missing(inbox: bytes) -> int:
            if end in inbox:
                return 0
            if len(inbox) > limit_bytes:
                raise LinkError(f"{_shown(command)}: more than {limit_bytes} bytes without end: {_shown(inbox)}")
            return limit_bytes + len(end) - len(inbox)

        reply = self._exchange(command, missing, within_s, NO_ANSWER)
        return reply._replace(data=reply.data.partition(end)[0])

    def ask_whole(self, command: bytes, size: Callable[[bytes], int], *, within_s: float = 3.0) -> Reply:
        """As `ask`, for protocols without an end mark: `size(what came so far)` is how many bytes the answer has in
        all, as far as can be told yet. No more than that is read."""
        return self._exchange(command, lambda inbox: size(inbox) - len(inbox), within_s)

    def _exchange(
        self, command: bytes, missing: Callable[[bytes], int], within_s: float, before: bytes = b""
    ) -> Reply:
        """Ask; `missing(what came so far)` is how much more may be read at once, 0 or less: it is whole. Bytes of
        `before` at its begin are no part of it."""
        inbox = b""
        try:
            self._settle()
            deadline_s = self._now() + min(within_s, WITHIN_LIMIT_S)
            self._line.reset_input_buffer()
            self._write(command)
            while (wanted := missing(inbox)) > 0:
                if not self._readable(deadline_s):
                    if not inbox:
                        raise Silence(f"{_shown(command)}: no answer within {within_s:g} s")
                    raise LinkError(f"{_shown(command)}: only {_shown(inbox)} within {within_s:g} s")
                inbox = (inbox + self._line.read(wanted)).lstrip(before)
        except (OSError, termios.error) as e:
            raise LinkError(f"{self._line.port}: {e}") from e
        return Reply(inbox, self._now())

    def send(self, command: bytes) -> None:
        """Send `command` to which there is no reply. LinkError if it cannot be written."""
        try:
            self._settle()
            self._write(command)
        except (OSError, termios.error) as e:
            raise LinkError(f"{self._line.port}: {e}") from e

    def rest(self, for_s: float) -> None:
        """Have the next question wait so long from now, and discard what comes until then: some units need a
        pause, and after silence an answer may still come, and would be taken for that to the next question."""
        self._ready_s = max(self._ready_s, self._now() + for_s)

    def read(self, limit_bytes: int, within_s: float) -> bytes:
        """What has come in, at most `limit_bytes`; b"" if nothing does within the time (never more than 5 s).
        LinkError if the line is gone."""
        try:
            there = self._readable(self._now() + min(within_s, WITHIN_LIMIT_S)) if within_s > 0 else True
            return bytes(self._line.read(limit_bytes)) if there else b""
        except (OSError, termios.error) as e:
            raise LinkError(f"{self._line.port}: {e}") from e

    def close(self) -> None:
        """Give the port back; DTR and RTS stay as they are."""
        try:
            self._line.close()
        except (OSError, termios.error) as e:
            log.debug("%s: closing: %s", self._line.port, e)  # it was unplugged

    def _settle(self) -> None:
        """Wait until the line is ready, discarding what comes until then (a cable that gets its power)."""
        while self._readable(self._ready_s):
            self._line.reset_input_buffer()

    def _readable(self, deadline_s: float) -> bool:
        """Wait for bytes until `deadline_s`; whether there are any."""
        left_s = deadline_s - self._now()
        return left_s > 0 and ready(self._line.fileno(), select.POLLIN, left_s)

    def _write(self, command: bytes) -> None:
        try:
            self._line.write(command)
        except OSError as e:
            self._line.reset_output_buffer()  # or half a command would be sent whenever the line is free again
            raise NotSent(f"{self._line.port}: {e}") from e


def rest(link: Link, for_s: float) -> None:
    """As SerialLink.rest, over any link that can; the others discard what is left of an answer."""
    if (it := getattr(link, "rest", None)) is not None:
        it(for_s)


def _keep_lines_at_close(fd: int) -> None:
    """Clear HUPCL: without DTR some cables lose their power, and some UPSes switch their load off."""
    attributes = termios.tcgetattr(fd)
    attributes[2] &= ~termios.HUPCL
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _set_lines(line: serial.Serial, port: str) -> bool:
    """Set DTR and RTS once more (pyserial hides a failure); whether this port has these lines."""
    try:
        line.dtr, line.rts = line.dtr, line.rts
    except OSError as e:
        if e.errno not in _NO_SUCH_IOCTL:
            raise
        if port not in _told_no_lines:
            _told_no_lines.add(port)
            log.info("%s has no DTR and RTS lines, going on without", port)
        return False
    return True


def _shown(data: bytes | bytearray) -> str:
    """Bytes for an error text, capped."""
    more = f" and {len(data) - SHOWN_BYTES} more" if len(data) > SHOWN_BYTES else ""
    return f"{bytes(data[:SHOWN_BYTES])!r}{more}"


def remedy(port: str, error: Exception) -> str:
    """Why `port` cannot be opened, and what to do about it."""
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return f"no such port: {port}; plug the cable in, or see what there is with: ls -l /dev/serial/by-id"
    if number in (errno.EACCES, errno.EPERM):
        return f"may not open {port}; mend with: {_permit(port)}, then log in again or restart the service"
    if number in (errno.EAGAIN, errno.EBUSY):
        return f"{port} is in use by another program; see which with: sudo fuser -v {port}"
    return f"{port} cannot be used as a serial line: {error}"


def _permit(port: str) -> str:
    """What lets us open a port: to be in its group, if that may; else a udev rule that gives it to the usual one."""
    if joined := join(port):
        return joined
    usb = device.usb if (device := devices.port(port)) is not None else None
    which = f'KERNEL=="{os.path.basename(os.path.realpath(port))}"'
    if usb is not None:
        which = f'ATTRS{{idVendor}}=="{usb.vendor:04x}", ATTRS{{idProduct}}=="{usb.product:04x}"'
    kind, group = "tty", "dialout"
    make = ""
    if os.path.basename(port).startswith("gpiochip"):
        kind, group, make = "gpio", "gpio", "sudo groupadd -fr gpio; "
    rule = f'SUBSYSTEM=="{kind}", {which}, GROUP="{group}", MODE="0660"'
    return (
        f"a udev rule in /etc/udev/rules.d/60-ups.rules: {rule}; {make}sudo udevadm control --reload; "
        f"sudo udevadm trigger; sudo usermod -aG {group} {_user()}"
    )


def join(path: str) -> str:
    """How to get into the group that may read and write `path`; "": there is none. Nobody shall join root's."""
    try:
        found = os.stat(path)
        group = grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return ""
    return f"sudo usermod -aG {group} {_user()}" if group != "root" and found.st_mode & 0o060 == 0o060 else ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
