"""SHUT: reads MGE's and Eaton's UPSes over a serial line. What they say are the reports of a USB power device.

The line is agent/shut.py; what the reports mean, and the orders, are those of driver `usbhid`. Status card:
docs/drivers.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..cards import Card
from ..model import Command, Driver, Link, LinkError, Option, OrderError, Status
from ..shut import ACK, DEVICE, GET_DESCRIPTOR, REQUEST, ShutLink, frame
from .usbhid import UsbHid

log = logging.getLogger(__name__)

NAME, TITLE, LINK = "shut", "MGE and Eaton, serial (SHUT)", "serial"
OPTIONS: tuple[Option, ...] = ()
LINK_DEFAULTS = {"cable_power": "reverse"}  # RTS on, DTR off (NUT, drivers/libshut.c)
POLL_WITHIN_S, ORDER_WITHIN_S = 4.5, 9.0  # a long description takes several polls

_SYNC = b"\x18"
_WHO = frame(REQUEST, bytes([*GET_DESCRIPTOR, 0, DEVICE, 0, 0, 18, 0]), last=True)
QUERIES: tuple[bytes, ...] = (_SYNC, _WHO)
LEAVES_BYTES = True  # its questions have no end: asked before those whose units read lines, who are woken then


def probe(link: Link) -> float:
    """How sure it is that such a unit is there: 1 it syncs and acknowledges a request, else 0. An echo does not."""
    try:
        if link.ask(_SYNC, end=_SYNC, limit_bytes=64, within_s=1.0).data:
            return 0.0
        told = link.ask(_WHO, end=bytes([ACK]), limit_bytes=64, within_s=1.5).data
        link.ask(_SYNC, end=_SYNC, limit_bytes=128, within_s=1.0)  # it waits for our ACK no more
    except LinkError as e:
        log.debug("shut: probe: %s", e)
        return 0.0
    return 0.0 if told else 1.0


def connect(section: Mapping[str, Any], link: Any, now: Callable[[], float]) -> Driver:
    """The driver for the unit at the end of `link`. Sends nothing yet. LinkError without a link."""
    if link is None:
        raise LinkError("driver shut needs a serial port")
    return Shut(ShutLink(link, now), now)


class Shut:
    """A connected unit: a USB power device, once it has said what it is."""

    off_return = "no"  # no such unit was on a bench of ours

    def __init__(self, link: ShutLink, now: Callable[[], float]) -> None:
        self._link, self._now = link, now
        self._unit: UsbHid | None = None

    @property
    def commands(self) -> frozenset[Command]:
        """None before it has said what it can do."""
        return self._unit.commands if self._unit is not None else frozenset()

    @property
    def wake_fd(self) -> int | None:
        """Readable when the unit has told of a change."""
        return self._unit.wake_fd if self._unit is not None else None

    @property
    def learning(self) -> bool:
        """A connection that is opened anew would begin with the description again (agent/ups.py)."""
        return self._link.learning

    @property
    def again_s(self) -> float | None:
        """As usbhid."""
        return self._unit.again_s if self._unit is not None else None

    def poll(self) -> Status:
        """Read and return within 5 s: at first what it is, then as usbhid. LinkError."""
        self._link.until_s = self._now() + POLL_WITHIN_S
        if self._unit is None:
            self._link.learn(POLL_WITHIN_S)
            self._unit = UsbHid(self._link, self._now)
        return self._unit.poll()

    def order(self, command: Command, **args: Any) -> str | None:
        """As usbhid. OrderError, LinkError."""
        if self._unit is None:
            raise OrderError("this UPS has not yet said what it can do")
        self._link.until_s = self._now() + ORDER_WITHIN_S
        return self._unit.order(command, **args)

    def close(self) -> None:
        """Give the line back."""
        self._link.close()


CARDS = (
    Card(
        "MGE and Eaton units with a serial port that speak SHUT (Pulsar, Comet, Evolution, 5P, 9PX ...)",
        "shut",
        "2400 baud, cable_power reverse",
        "untested",
        "NUT's mge-shut 2.8.0 reads the same from our pretend unit, which is made of a real unit's USB bytes",
        frozenset(
            {
                Command.TEST_QUICK, Command.TEST_DEEP, Command.TEST_STOP, Command.BEEPER_ON, Command.BEEPER_OFF,
                Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF, Command.SHUTDOWN_STOP,
            }
        ),
        "those that the unit's own description allows",
    ),
)  # fmt: skip
