"""USB power devices: reads the many UPSes that describe themselves over USB, and gives them orders.

Standard: USB-IF, HID Usage Tables for Power Devices 1.1. Where the facts are: agent/hidtable.py; who says it
otherwise: agent/quirks.py; real units: tests/cases/hid. Status card: docs/drivers.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .. import hid, hidtable, quirks
from ..ages import older
from ..cards import Card
from ..hidlook import PLACES, look
from ..hidraw import Identity
from ..hidreader import HidLink, Reader
from ..model import Command, Driver, Ident, LinkError, Option, OrderError, Status
from ..q1.megatec import Q1
from ..q1.orders import check_arguments, others

log = logging.getLogger(__name__)

NAME, TITLE, LINK = "usbhid", "USB power device (HID)", "usb"
OPTIONS: tuple[Option, ...] = ()
QUERIES: tuple[bytes, ...] = ()  # it is known by its descriptor: probe sends nothing

OFF_DELAY_S = (0.0, 7200.0)
RETURN_DELAY_S = (0.0, 86400.0)
LOOKS = 3  # at what was written
LOOK_AGAIN_S = 0.5  # after a look that does not show it yet
TOOK_WITHIN_S = 60.0  # a timer that is read back may be so much beside what was written (units that count minutes)

_TESTS = {Command.TEST_QUICK: 1, Command.TEST_DEEP: 2, Command.TEST_STOP: 3}
_SHUTDOWNS = (Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF, Command.SHUTDOWN_STOP)
_FIRMWARE = ("string.firmware", "string.ups_firmware")
_APC_NAME = re.compile(r"(?P<model>.*?)\s*FW:\s*(?P<firmware>.*?)(?:\s*USB FW:.*)?")


def probe(link: HidLink) -> float:
    """How sure it is that a power device is there: 1 its descriptor says where the mains is told, else 0."""
    try:
        found = hidtable.places(hid.parse(link.descriptor), frozenset(), {})
    except LinkError as e:
        log.debug("usbhid: probe: %s", e)
        return 0.0
    return 1.0 if "ac" in found else 0.6 if "discharging" in found else 0.0


def connect(section: Mapping[str, Any], link: HidLink | None, now: Callable[[], float]) -> Driver:
    """The driver for the unit at the end of `link`. Sends nothing yet. LinkError without a link, or if what the unit
    says of itself cannot be understood."""
    if link is None:
        raise LinkError("driver usbhid needs a USB device")
    return UsbHid(link, now)


class UsbHid:
    """A connected unit."""

    off_return = "no"  # no USB unit was on a bench of ours

    def __init__(self, link: HidLink, now: Callable[[], float]) -> None:
        self._link, self._now = link, now
        who = link.identity
        self._quirk = quirks.row(who.vendor, who.product, who.name)
        self._reader = Reader(link, self._quirk, now)
        self._scales = quirks.Scales(self._quirk)
        self._writable = hidtable.writable(self._reader.descriptor)
        self._ident = _ident(who)
        self._strings: dict[str, int] = {}  # variable -> number of a string
        self._asked: set[str] = set()  # of them, for their text
        self.commands = self._commands()
        log.info(
            "usbhid: %04x:%04x %s; quirks: %s, %d fields, %d facts",
            *who[:2],
            who.name or "without a name",
            self._quirk.title,
            len(self._reader.descriptor.fields),
            len(self._reader.places),
        )

    @property
    def wake_fd(self) -> int | None:
        """Readable when the unit has sent an interrupt report; None if those of this model cannot be believed."""
        return self._link.wake_fd if self._quirk.interrupts else None

    @property
    def again_s(self) -> float | None:
        """The next poll shall come at once, for the last one told of the mains alone (agent/ups.py)."""
        return 0.0 if self._reader.is_due else None

    def poll(self) -> Status:
        """Read and return. Takes at most 2 s and one report that is slow; one that hangs costs what the kernel allows
        it (5 s), and is then left alone for a while. LinkError if nothing says whether the mains is there."""
        self._ask_strings()
        taken_s = self._reader.read()
        numbers = self._believed(self._reader.numbers())
        if self._quirk.q1_reports:
            self._add_q1(numbers)
        said = (
            (PLACES[name], at_s) for name, at_s in self._reader.said_s.items() if name in PLACES and name in numbers
        )
        self._strings.update((name, int(numbers[name])) for name in _FIRMWARE if name in numbers)
        status = look(numbers, self._quirk, self._ident, taken_s=taken_s)
        return replace(status, older=older(said, taken_s))

    def order(self, command: Command, **args: Any) -> str | None:
        """Give an order (arguments: see model.Command). A word if a delay is another, or no countdown is seen.
        OrderError: an argument out of range, or the unit refuses it or does not do as told when it is read back.
        LinkError: it cannot be read any more."""
        values = self._check(command, args)
        if command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        if command in _TESTS:
            self._write(test=_TESTS[command])
        elif command in (Command.BEEPER_ON, Command.BEEPER_OFF):
            wanted = self._quirk.beeper_on if command is Command.BEEPER_ON else self._quirk.beeper_off
            self._write(beeper=wanted)
            if self._look("beeper", lambda state: state == wanted) not in (None, wanted):
                raise OrderError(f"this UPS did not take {command.value}")
        elif command in (Command.OUTLET_ON, Command.OUTLET_OFF):
            self._switch(int(values[0]), command is Command.OUTLET_ON)
        else:
            return self._shut_down(command, values)
        return None

    def close(self) -> None:
        """Give the device back."""
        self._link.close()

    # -- reading

    def _believed(self, said: Mapping[str, float]) -> dict[str, float]:
        """The numbers with credible scales; those without one left out. The ratings first, because the others are
        measured by them."""
        numbers: dict[str, float] = {}
        for name in sorted(said, key=lambda name: not name.startswith("rated.")):
            rated = "rated.battery_voltage" if name == "battery.voltage" else "rated.input_voltage"
            nominal = numbers.get(rated) or (None if "battery" in rated else numbers.get("rated.output_voltage"))
            believed = self._scales.believe(name, said[name], nominal, self._reader.said_s[name])
            if believed is not None:
                numbers[name] = believed
        return numbers

    def _add_q1(self, numbers: dict[str, float]) -> None:
        """PowerCOM: the battery voltage is in a Megatec line alone, 6 or 7 characters in each of some reports."""
        parts = [self._reader.report(number) for number in self._quirk.q1_reports]
        text = b"".join(part[1:] for part in parts if part is not None)
        line = text[max(text.find(b"("), 0) :].partition(b"\r")[0].rstrip(b"\0 ")
        try:
            facts = Q1.parse(line)
        except LinkError as e:
            log.debug("usbhid: %s", e)
            return
        battery_v = facts.get("battery_v")
        if battery_v is not None and quirks.credible("battery.voltage", battery_v, None):
            numbers["battery.voltage"] = battery_v

    def _ask_strings(self) -> None:
        """Those that the unit has numbered, each once. After the first status, which may be one of an outage, and
        before the reports: some links read what the unit tells of its mains while they ask."""
        for name, index in self._strings.items():
            if name not in self._asked:
                self._asked.add(name)
                if self._ident.firmware is None and (text := self._string(index)):
                    self._ident = replace(self._ident, firmware=text)

    def _string(self, index: int) -> str | None:
        """A name is never worth a poll."""
        try:
            return self._link.string(index) if 0 < index < 256 else None
        except LinkError as e:
            log.debug("usbhid: string %d: %s", index, e)
            return None

    # -- orders

    def _commands(self) -> frozenset[Command]:
        """What the features of this unit that can be written allow."""
        can: set[Command] = set()
        if "test" in self._writable:
            can |= _TESTS.keys()
        if "beeper" in self._writable:
            can |= {Command.BEEPER_ON, Command.BEEPER_OFF}
        if "off" in self._writable and self._quirk.shutdown:
            can |= {Command.SHUTDOWN_STAY_OFF, Command.SHUTDOWN_STOP}
            if "on" in self._writable:
                can.add(Command.SHUTDOWN_RETURN)
        if self._outlets("on"):
            can.add(Command.OUTLET_ON)
        if self._outlets("off"):
            can.add(Command.OUTLET_OFF)
        return frozenset(can)

    def _outlets(self, what: str) -> list[int]:
        return [n for n in hidtable.OUTLETS if f"outlet.{n}.{what}" in self._writable]

    def _check(self, command: Command, args: Mapping[str, Any]) -> list[float]:
        if command is Command.SHUTDOWN_RETURN:
            return check_arguments(command, args, delay_s=OFF_DELAY_S, return_delay_s=RETURN_DELAY_S)
        if command is Command.SHUTDOWN_STAY_OFF:
            return check_arguments(command, args, delay_s=OFF_DELAY_S)
        if command in (Command.OUTLET_ON, Command.OUTLET_OFF):
            return check_arguments(command, args, number=(1, hidtable.OUTLETS[-1]))
        return check_arguments(command, args) if command in self.commands else []

    def _switch(self, number: int, on: bool) -> None:
        numbers = self._outlets("on" if on else "off")
        if number not in numbers:
            raise OrderError(f"this UPS can switch the outlets {', '.join(map(str, numbers))}, not {number}")
        self._write(**{f"outlet.{number}.{'on' if on else 'off'}": 0})

    def _shut_down(self, command: Command, values: list[float]) -> str | None:
        """The return first, or in the same report: the countdown to "off" may begin with the write that sets it, and
        a unit may show what it was told only after a while. -1 stops a timer."""
        if command is Command.SHUTDOWN_STOP:
            self._write(off=-1)
            left_s = self._look("off", lambda left_s: left_s <= 0 or not self._counts(left_s))
            if left_s is not None and left_s > 0 and self._counts(left_s):
                raise OrderError(f"this UPS did not stop its shutdown: {left_s:g} s left")
            return None
        delay_s, asked_back_s = max(values[0], self._quirk.off_min_s), values[1] if values[1:] else -1.0
        own_s, back_s = self._quirk.on_delay_s, asked_back_s
        if back_s >= 0 and own_s is not None:
            back_s = own_s
        timers = {"on": back_s, "off": delay_s} if "on" in self._writable else {"off": delay_s}
        if len({self._writable[name].report for name in timers}) == 1:
            self._write(**timers)
        else:
            for name, amount_s in timers.items():
                self._write(**{name: amount_s})
        left_s = self._look("off", lambda left_s: 0 < left_s <= delay_s + TOOK_WITHIN_S)
        if left_s is not None and not 0 <= left_s <= delay_s + TOOK_WITHIN_S:
            raise OrderError(
                f"this UPS did not start its shutdown timer: asked for {delay_s:g} s, it says {left_s:g}; "
                "it may still do so"
            )
        unseen = left_s is None or (left_s == 0 and delay_s > 0)
        off_s = delay_s if unseen or left_s is None else max(left_s, values[0])
        said = others(("off", off_s, values[0]), ("back", back_s, asked_back_s))
        return "; ".join(word for word in (said, "the UPS shows no countdown" if unseen else "") if word)

    def _look(self, name: str, good: Callable[[float], bool]) -> float | None:
        """What was written, read up to LOOKS times until it is `good`; None: this UPS does not let it be read."""
        field, value = self._writable[name], None
        for again in range(LOOKS):
            if again:
                self._link.rest(LOOK_AGAIN_S)
            data = self._reader.feature(field.report)
            value = None if data is None else hid.value(field, data)
            if value is None or good(value):
                break
        return value

    def _counts(self, left_s: float) -> bool:
        """Whether a timer that was stopped still runs: all ones is how a unit without a sign writes -1."""
        field = self._writable["off"]
        return field.low < 0 or left_s < (1 << field.bits) - 1

    def _write(self, **amounts: float) -> None:
        """Write fields of one report, by their names, and leave their neighbours in it as they are."""
        fields = {self._writable[name]: amount for name, amount in amounts.items()}
        (report,) = {field.report for field in fields}
        described = self._reader.descriptor
        length = described.lengths["feature", report]
        data = (self._reader.feature(report) or bytes([report]))[:length]
        others = (f for f in described.fields if f.kind == "feature" and f.report == report and not f.constant)
        if any(field.offset + field.bits > 8 * (len(data) - 1) for field in others if field not in fields):
            raise OrderError(f"{next(iter(fields))}: its report cannot be read whole, others in it would be lost")
        data = data.ljust(length, b"\0")
        for field, amount in fields.items():
            try:
                data = hid.put(field, amount, data)
            except LinkError as e:
                raise OrderError(f"this UPS cannot be told {amount:g}: {e}") from e
        if not self._link.put(data):
            raise OrderError(f"this UPS refused {next(iter(fields))}: {data.hex(' ')}")


def _ident(who: Identity) -> Ident:
    """From the USB strings."""
    model, firmware = who.name.strip(), ""
    if (parts := _APC_NAME.fullmatch(model)) is not None:
        model, firmware = parts["model"], parts["firmware"]
    return Ident(
        manufacturer=who.maker.strip() or None,
        model=model or None,
        firmware=firmware or None,
        serial=who.serial.strip() or None,
    )


_ALL = frozenset((*_TESTS, *_SHUTDOWNS, Command.BEEPER_ON, Command.BEEPER_OFF, Command.OUTLET_ON, Command.OUTLET_OFF))


def _ids(quirk: quirks.Quirk) -> str:
    """Who has this row."""
    products = quirk.products
    if isinstance(products, range):
        told = f"{products[0]:04x} to {products[-1]:04x}"
    else:
        told = ", ".join(f"{product:04x}" for product in products) or "any"
    name = f", name like `{quirk.name}`" if quirk.name else ""
    return f"{quirk.vendor:04x}: {told}{name}" if quirk.vendor else "any other power device"


CARDS = tuple(
    Card(
        "Makers and models; a unit can do those of the commands that its own description allows",
        one.title,
        _ids(one),
        one.state,
        one.evidence,
        _ALL if one.shutdown else _ALL - set(_SHUTDOWNS),
        f"off after {one.off_min_s:g} s or more" if one.off_min_s else "",
    )
    for one in (*quirks.ROWS, quirks.GENERIC)
)
