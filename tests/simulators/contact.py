"""A UPS that only opens and closes contacts, behind a pretend serial port: the ioctl layer is what it stands in for.

A pseudo terminal has no modem lines, so the port is pretended one layer lower: agent.lines.ModemLines gets
`Uart.ioctl` instead of fcntl.ioctl, with the requests and structures of Linux. What the kernel and a real adapter do
is not shown by it.
"""

from __future__ import annotations

import errno
import os
import struct
import termios
from typing import Any

from agent.drivers.contact import BREAK, CABLES, Cable, outputs, signal
from agent.lines import BITS, BREAK_OFF, BREAK_ON, COUNTED, COUNTERS, OUTPUTS, ModemLines

SHUTDOWN_WITHIN_S = 2.0  # the pretend UPS wants its shutdown signal for so long


class Uart:
    """The port, the cable and the UPS. `set` what a tester changes; time is `now_s`."""

    def __init__(self, cable: Cable = CABLES["generic-rups"], *, loop: str = "", counts: bool = True) -> None:
        """`loop`: an input that the plug wires to its power lines; `counts`: the port counts edges (TIOCGICOUNT)."""
        self.cable, self._loop, self._countable = cable, loop, counts
        self.now_s = 1000.0
        self.mains, self.low, self.replace, self.bypass, self.plugged = True, False, False, False, True
        self.gone = False  # the adapter was pulled out
        self.off = False  # the UPS has switched off
        self.outputs = frozenset(OUTPUTS)  # as Linux leaves them after opening
        self.breaking = False
        self.requests: list[int] = []
        self._wanted_since_s: float | None = None
        self._changes = dict.fromkeys(COUNTED, 0)
        self._inputs = self.inputs()

    def set(self, **facts: bool) -> None:
        """mains, low, replace, bypass, plugged, gone; counted as the UART does."""
        for name, value in facts.items():
            setattr(self, name, value)
        self._count()

    def bounce(self, times: int, **facts: bool) -> None:
        """The contacts go there and back so often, and stay there (odd) or not (even)."""
        before = {name: getattr(self, name) for name in facts}
        for n in range(times):
            self.set(**(facts if n % 2 == 0 else before))

    def inputs(self) -> frozenset[str]:
        """Which inputs of the port are on."""
        if not self.plugged or self.off:
            return frozenset()
        cable = self.cable
        facts = (
            (cable.on_line, self.mains),
            (cable.low_battery, self.low),
            (cable.replace_battery, self.replace),
            (cable.bypass, self.bypass),
        )
        signals = [(signal(text), so) for text, so in facts]
        on = {s.line for s, so in signals if s is not None and s.on is so}
        fed = outputs(cable.power) <= self.outputs
        return frozenset(on | {self._loop} - {""}) if fed else frozenset()

    def _count(self) -> None:
        now = self.inputs()
        for name in now ^ self._inputs:
            self._changes[name] += 1
        self._inputs = now

    def pass_s(self, seconds: float) -> None:
        """Time goes by; a UPS on battery whose shutdown signal is held long enough switches off."""
        self.now_s += seconds
        asked = self.breaking if self.cable.shutdown == BREAK else self.outputs == outputs(self.cable.shutdown)
        if not asked or self.mains or not self.cable.shutdown or not self.plugged:
            self._wanted_since_s = None
        elif self._wanted_since_s is None:
            self._wanted_since_s = self.now_s
        elif self.now_s - self._wanted_since_s >= SHUTDOWN_WITHIN_S:
            self.off = True
        self._count()

    def ioctl(self, fd: int, request: int, argument: Any) -> Any:
        """In place of fcntl.ioctl."""
        if self.gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.requests.append(request)
        if request == termios.TIOCMGET:
            return struct.pack("i", sum(BITS[name] for name in self.inputs() | self.outputs))
        if request in (termios.TIOCMBIS, termios.TIOCMBIC):
            (bits,) = struct.unpack("i", argument)
            named = frozenset(name for name in OUTPUTS if bits & BITS[name])
            self.outputs = self.outputs | named if request == termios.TIOCMBIS else self.outputs - named
            self._count()
            return argument
        if request == COUNTERS and self._countable and len(argument) == 80:
            return struct.pack("20i", *(self._changes[name] for name in COUNTED), *([0] * 16))
        if request in (BREAK_ON, BREAK_OFF):
            self.breaking = request == BREAK_ON
            return 0
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))


class UartLines(ModemLines):
    """Real ModemLines on a pretend port, with what the contract test looks at."""

    def __init__(self, uart: Uart) -> None:
        super().__init__(-1, "/dev/pretend", lambda: uart.now_s, uart.ioctl)
        self.uart = uart
        self.sent: list[bytes] = []
        self.waited_s = 0.0
        self.closed = False

    @property
    def now_s(self) -> float:
        return self.uart.now_s

    def pause(self, for_s: float) -> None:
        self.waited_s += for_s
        self.uart.pass_s(for_s)

    def close(self) -> None:
        self.closed = True
