"""Reads and sets single lines: the modem lines of a serial port, or GPIO lines of the board.

Names of modem lines: cts, dsr, ri, dcd (read) and dtr, rts (set); GPIO lines are their numbers. Opening a serial port
raises DTR and RTS for a moment (Linux does that before any program can prevent it); both are taken back at once,
`claim` sets them as asked, and closing leaves them so (HUPCL is cleared): on a contact cable they may be the cable's
power, or mean "load off".
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import struct
import termios
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from .hidraw import pause
from .link import BACK_OFF_S as BACK_OFF_S  # a kept port is opened again for nothing
from .link import follow, know, remedy
from .model import LinkError, Option

OPTIONS: tuple[Option, ...] = (
    Option(
        name="port",
        kind=str,
        required=True,
        help="serial device whose modem lines are used, or /dev/gpiochipN for lines of the board",
    ),
    Option(
        name="gpio_bias",
        kind=str,
        default="pull-up",
        choices=("pull-up", "pull-down", "as-is"),
        help="resistor at the GPIO inputs; with pull-up an open contact reads as on",
    ),
)

BITS: Mapping[str, int] = {
    "dtr": termios.TIOCM_DTR,
    "rts": termios.TIOCM_RTS,
    "cts": termios.TIOCM_CTS,
    "dcd": termios.TIOCM_CAR,
    "ri": termios.TIOCM_RNG,
    "dsr": termios.TIOCM_DSR,
}
INPUTS, OUTPUTS = frozenset(("cts", "dsr", "ri", "dcd")), frozenset(("dtr", "rts"))
COUNTED = (
    "cts",
    "dsr",
    "ri",
    "dcd",
)  # the first four of struct serial_icounter_struct (linux/serial.h), then 16 more
BREAK_ON, BREAK_OFF, COUNTERS = 0x5427, 0x5428, 0x545D  # TIOCSBRK, TIOCCBRK, TIOCGICOUNT (asm-generic/ioctls.h)
EVENTS_AT_ONCE = 64

Ioctl = Callable[..., Any]  # fcntl.ioctl, or a pretend port


class Look(NamedTuple):
    """The inputs at one second: which are on, and how often each has changed since the line was opened."""

    on: frozenset[str]
    changes: Mapping[str, int]  # empty: this port does not count
    at_s: float


class Lines(Protocol):
    """Some lines of one port. The ups thread alone uses it."""

    @property
    def wake_fd(self) -> int | None:
        """Readable when an input changes; None: this kind of port can only be looked at."""
        ...

    @property
    def idle(self) -> bool | None:
        """What an input reads as when nothing is connected to it; None: not known."""
        ...

    def claim(self, inputs: frozenset[str], outputs: frozenset[str], on: frozenset[str]) -> None:
        """Use these inputs and outputs, and set the outputs: those in `on`, and the others off. No break is sent
        any more. LinkError."""
        ...

    def read(self) -> Look: ...

    def set(self, on: frozenset[str]) -> None:
        """Set the outputs: these on, the others off. LinkError."""
        ...

    def send_break(self, on: bool) -> None:
        """Begin or end a break on TxD; does not wait. LinkError where there is none."""
        ...

    def pause(self, for_s: float) -> None:
        """Do nothing for so long, where one look more must follow at once."""
        ...

    def close(self) -> None: ...


_kept: dict[str, int] = {}  # port -> descriptor; ports of the configuration, so it stays small


def open(section: Mapping[str, Any], now: Callable[[], float], ioctl: Ioctl = fcntl.ioctl) -> Lines:  # noqa: A001
    """The lines of the port that `section` describes (see OPTIONS); `now` is CLOCK_MONOTONIC in seconds.

    A serial port that this process has had before, and that is still there, is not opened again: opening moves DTR
    and RTS, and a driver that waits for its cable connects every few seconds. A USB adapter is followed, see
    link.follow. LinkError if it cannot be had, or has no such lines, with the remedy.
    """
    port = str(section.get("port") or "")
    if port.startswith("/dev/gpiochip"):
        return GpioLines(port, str(section.get("gpio_bias") or "pull-up"), _gpiod(), now)
    if not port.startswith("/"):
        raise LinkError(f"port {port!r} is not a device: set [ups] port to a path, see ls /dev/serial/by-id")
    if port in _kept:
        return ModemLines(_kept.pop(port), port, now, ioctl)
    node = follow(port)
    try:
        fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise LinkError(remedy(port, e)) from e
    found = ModemLines(fd, port, now, ioctl)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        attributes = termios.tcgetattr(fd)
        attributes[2] = attributes[2] & ~(termios.HUPCL | termios.CRTSCTS) | termios.CLOCAL
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
        found.set(frozenset())  # until somebody claims them; a port without such lines fails here
    except (OSError, termios.error) as e:
        found.close()
        raise LinkError(remedy(port, e)) from e
    except LinkError:
        found.close()
        raise
    know(port, node)
    return found


class ModemLines:
    """The modem lines of an open serial port. Nothing wakes: waiting for them (TIOCMIWAIT) would block the thread.

    What bounced between two looks is seen all the same where the driver counts edges (TIOCGICOUNT).
    """

    wake_fd: int | None = None
    idle: bool | None = False  # the receivers read an open input as off

    def __init__(self, fd: int, port: str, now: Callable[[], float], ioctl: Ioctl = fcntl.ioctl) -> None:
        self._fd, self._port, self._now, self._ioctl = fd, port, now, ioctl
        self._counts = True

    def claim(self, inputs: frozenset[str], outputs: frozenset[str], on: frozenset[str]) -> None:
        """See Lines. LinkError names a line that a serial port does not have."""
        if wrong := sorted((inputs - INPUTS) | (outputs - OUTPUTS)):
            raise LinkError(f"{self._port} has no line {', '.join(wrong)} of that direction: read {_names(INPUTS)}; "
                            f"set {_names(OUTPUTS)}")  # fmt: skip
        try:
            self._ioctl(self._fd, BREAK_OFF, 0)  # whoever had the port before may have ended in the midst of one
        except OSError as e:
            if e.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):  # a port that cannot send one
                raise LinkError(f"{self._port}: {e}") from e
        self.set(on)

    def read(self) -> Look:
        """The inputs now. LinkError: the port is gone, or has no such lines."""
        (bits,) = struct.unpack("i", self._do(termios.TIOCMGET, bytes(4)))
        return Look(frozenset(name for name in INPUTS if bits & BITS[name]), self._changes(), self._now())

    def set(self, on: frozenset[str]) -> None:
        """DTR and RTS: these on, the other one off (off first)."""
        for request, names in ((termios.TIOCMBIC, OUTPUTS - on), (termios.TIOCMBIS, on & OUTPUTS)):
            if names:
                self._do(request, struct.pack("i", sum(BITS[name] for name in names)))

    def send_break(self, on: bool) -> None:
        """See Lines."""
        self._do(BREAK_ON if on else BREAK_OFF, 0)

    def pause(self, for_s: float) -> None:
        """See Lines."""
        pause(for_s)

    def close(self) -> None:
        """Give the port back, or keep it for the next `open` if it still has its lines; they stay as they are."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            self._ioctl(fd, termios.TIOCMGET, bytes(4))
        except OSError:
            os.close(fd)  # it was unplugged, or never had lines
        else:
            _kept[self._port] = fd

    def _changes(self) -> Mapping[str, int]:
        if not self._counts:
            return {}
        try:
            return dict(
                zip(COUNTED, struct.unpack("20i", self._ioctl(self._fd, COUNTERS, bytes(80)))[:4], strict=True)
            )
        except OSError as e:
            if e.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
                raise LinkError(f"{self._port}: {e}") from e
            self._counts = False
            return {}

    def _do(self, request: int, argument: bytes | int) -> Any:
        try:
            return self._ioctl(self._fd, request, argument)
        except OSError as e:
            if e.errno in (errno.ENOTTY, errno.EINVAL):
                raise LinkError(f"{self._port} has no modem lines; it cannot carry contacts") from e
            raise LinkError(f"{self._port}: {e}") from e


class GpioLines:
    """Lines of a GPIO chip, by libgpiod 2; an edge wakes."""

    def __init__(self, port: str, bias: str, gpiod: Any, now: Callable[[], float]) -> None:
        self._port, self._bias, self._gpiod, self._now = port, bias, gpiod, now
        self._request: Any = None
        self._inputs: frozenset[str] = frozenset()
        self._outputs: frozenset[str] = frozenset()
        self._changes: dict[str, int] = {}
        self.idle: bool | None = {"pull-up": True, "pull-down": False}.get(bias)

    @property
    def wake_fd(self) -> int | None:
        return None if self._request is None else int(self._request.fd)

    def claim(self, inputs: frozenset[str], outputs: frozenset[str], on: frozenset[str]) -> None:
        """See Lines. LinkError: no number, or the chip does not give the line."""
        if wrong := sorted(name for name in inputs | outputs if not name.isdecimal() or len(name) > 4):
            raise LinkError(f"{self._port}: lines are numbers, not {', '.join(wrong)}")
        line, of = self._gpiod.line, self._gpiod.LineSettings
        bias = {"pull-up": line.Bias.PULL_UP, "pull-down": line.Bias.PULL_DOWN}.get(self._bias, line.Bias.AS_IS)
        reads = of(direction=line.Direction.INPUT, edge_detection=line.Edge.BOTH, bias=bias)
        config = {int(name): reads for name in inputs}
        for name in outputs:
            value = line.Value.ACTIVE if name in on else line.Value.INACTIVE
            config[int(name)] = of(direction=line.Direction.OUTPUT, output_value=value)
        try:
            self._request = self._gpiod.request_lines(self._port, consumer="ridethrough", config=config)
        except (OSError, ValueError) as e:
            raise LinkError(remedy(self._port, e)) from e
        self._inputs, self._outputs, self._changes = inputs, outputs, dict.fromkeys(inputs, 0)

    def read(self) -> Look:
        """The inputs now, the edges since the last look counted."""
        try:
            if self._request.wait_edge_events(0):
                for event in self._request.read_edge_events(EVENTS_AT_ONCE):  # the rest with the next look
                    self._changes[str(event.line_offset)] += 1
            active = self._gpiod.line.Value.ACTIVE
            on = frozenset(name for name in self._inputs if self._request.get_value(int(name)) == active)
        except OSError as e:
            raise LinkError(f"{self._port}: {e}") from e
        return Look(on, dict(self._changes), self._now())

    def set(self, on: frozenset[str]) -> None:
        """See Lines."""
        value = self._gpiod.line.Value
        try:
            for name in self._outputs:
                self._request.set_value(int(name), value.ACTIVE if name in on else value.INACTIVE)
        except OSError as e:
            raise LinkError(f"{self._port}: {e}") from e

    def send_break(self, on: bool) -> None:
        """See Lines."""
        raise LinkError(f"{self._port}: a GPIO line has no break")

    def pause(self, for_s: float) -> None:
        """See Lines."""
        pause(for_s)

    def close(self) -> None:
        """Give the lines back; the chip decides what they become."""
        if self._request is not None:
            self._request.release()
        self._request = None


def _gpiod() -> Any:
    """libgpiod's module: imported only when a GPIO chip is used."""
    try:
        return importlib.import_module("gpiod")
    except ImportError as e:
        raise LinkError(
            "GPIO lines need the Python package gpiod (2 or newer): pip install 'ridethrough[gpio]'"
        ) from e


def _names(lines: frozenset[str]) -> str:
    return ", ".join(sorted(lines))
