"""APC Smart-UPS of the newer generations by Modbus, over a serial line, USB or the network: values, tests, shutdown.

Registers: the register table of NUT's driver apc_modbus (drivers/apc_modbus.c); 16 bits, big-endian, a number of two
registers has its high half first. Modbus must be switched on at the unit. Status card: docs/drivers-apcmodbus.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..ages import older
from ..cards import Card
from ..modbus import REGISTERS_LIMIT, Refused, check_written, parse_read, read_request, unanswered, write_request
from ..model import (
    Battery,
    Command,
    Condition,
    Driver,
    Ident,
    Line,
    Link,
    LinkError,
    Option,
    OrderError,
    Outlet,
    Rating,
    Source,
    Status,
    Test,
    TestResult,
)  # fmt: skip
from ..q1.orders import LOOKS, check_arguments, countdown_not_seen

log = logging.getLogger(__name__)

NAME, TITLE, LINK = "apcmodbus", "APC Modbus, serial, USB or TCP", "modbus"
OPTIONS: tuple[Option, ...] = ()
STATUS, DYNAMIC, INVENTORY, LIMITS = (0, 27), (128, 44), (516, 120), (1026, 5)  # first register, how many
QUERIES = (read_request(*STATUS), read_request(*INVENTORY))
POLL_WITHIN_S, ORDER_WITHIN_S = 4.5, 9.0
ANSWER_WITHIN_S = 2.0  # a network card takes more than half a second at times (NUT pull request 3417)
UNKNOWN = 0xFFFF  # in a register: the unit does not say
AGAIN_S = 300.0  # a block that the unit refuses is asked again after so long
DELAY_S = (0.0, 32767.0)
OFF_DELAY, ON_DELAY, OUTLETS, BATTERY_TEST, CALIBRATION = 1029, 1030, 1538, 1541, 1542
OFF_TIMER = 155  # seconds until the main group is off; below 0: it does not count
#: which outlet groups there are: bit 0 the main one, then switched ones. Each has a state (3, +3), a name (604, +8)
#: and delays (+5) of its own
GROUPS, GROUP_STATE, GROUP_NAME, DELAY_STEP, SWITCHED = 590, 3, 604, 5, (1, 2, 3)

#: bits of the order to the outlets (two registers)
CANCEL, ON, OFF, SHUTDOWN, USE_ON_DELAY, USE_OFF_DELAY, MAIN, LOCAL_USER = (1 << n for n in (0, 1, 2, 3, 6, 7, 8, 13))
TEST_START, TEST_ABORT, TEST_USER = 1, 2, 1 << 9
OUTLET_ORDERS: Mapping[Command, int] = {
    Command.LOAD_ON: ON,
    Command.LOAD_OFF: OFF,
    Command.SHUTDOWN_RETURN: SHUTDOWN | USE_ON_DELAY | USE_OFF_DELAY,
    Command.SHUTDOWN_STAY_OFF: OFF | USE_OFF_DELAY,
    Command.SHUTDOWN_STOP: CANCEL,
}
COUNTS_DOWN = {Command.SHUTDOWN_RETURN: True, Command.SHUTDOWN_STAY_OFF: True, Command.SHUTDOWN_STOP: False}
SWITCHES: Mapping[Command, int] = {Command.OUTLET_ON: ON, Command.OUTLET_OFF: OFF}
#: command -> register and bits, each
TEST_ORDERS: Mapping[Command, tuple[tuple[int, int], ...]] = {
    Command.TEST_QUICK: ((BATTERY_TEST, TEST_START),),
    Command.TEST_DEEP: ((CALIBRATION, TEST_START),),
    Command.TEST_STOP: ((BATTERY_TEST, TEST_ABORT), (CALIBRATION, TEST_ABORT)),
}
DELAYS: Mapping[Command, Mapping[str, tuple[float, float]]] = {
    Command.SHUTDOWN_RETURN: {"delay_s": DELAY_S, "return_delay_s": DELAY_S},
    Command.SHUTDOWN_STAY_OFF: {"delay_s": DELAY_S},
    **dict.fromkeys(SWITCHES, {"number": (SWITCHED[0], SWITCHED[-1])}),
}
#: bit of the status (registers 0 and 1) -> what it says; the first that is set gives the source
SOURCES = ((4, Source.NONE), (2, Source.BATTERY), (3, Source.BYPASS), (1, Source.MAINS))
#: register, bit -> condition
FLAGS: Mapping[tuple[int, int], Condition] = {
    (18, 1): Condition.LOW_BATTERY,
    (22, 0): Condition.BATTERY_BAD,
    (22, 2): Condition.BATTERY_BAD,
    (22, 3): Condition.TEMPERATURE_BAD,
    (22, 4): Condition.CHARGER_FAILED,
    (23, 1): Condition.TEST_RUNNING,
    (24, 1): Condition.TEST_RUNNING,
}
#: bit of the status -> condition
STATUS_FLAGS: Mapping[int, Condition] = {
    3: Condition.ON_BYPASS,
    4: Condition.OUTPUT_OFF,
    5: Condition.GENERAL_FAULT,
    6: Condition.INPUT_BAD,
    7: Condition.TEST_RUNNING,
    21: Condition.OVERLOAD,
}
RESULTS = (
    (1, TestResult.RUNNING),
    (0, TestResult.RUNNING),
    (3, TestResult.FAILED),
    (4, TestResult.WARNING),
    (5, TestResult.ABORTED),
    (2, TestResult.PASSED),
)

CARDS = (
    Card(
        "APC Modbus",
        "Smart-UPS SMT, SMX, SRT and others with Modbus switched on: RTU over serial, or TCP",
        '`driver = "apcmodbus"` with `port`, or `host` (`ridethrough detect --host`)',
        "untested",
        "document; pymodbus as a pretend unit is read and ordered, over both wires",
        frozenset((*OUTLET_ORDERS, *TEST_ORDERS, *SWITCHES)),
        "outlet groups that the unit says it has; delays are read back before the order, the countdown after it",
    ),
    Card(
        "APC Modbus",
        "The same on USB, of those that have reports for it (051d:0003)",
        '`driver = "apcmodbus"` without `port` and `host`; never looked for',
        "untested",
        "document (apcupsd); the descriptor of a real Smart-UPS X 750",
        frozenset((*OUTLET_ORDERS, *TEST_ORDERS, *SWITCHES)),
        "as above; through the kernel's driver (hidraw) alone",
    ),
)


def probe(link: Link) -> float:
    """How sure it is that such a unit is there: 0 no, 0.5 it has the status, 1 it says a model as well."""
    try:
        _source(_read(link, STATUS)[0])
    except LinkError as e:
        log.debug("apcmodbus: probe: %s", e)
        return 0.0
    try:
        return 1.0 if _text(_read(link, INVENTORY)[0], 532 - INVENTORY[0], 16) else 0.5
    except LinkError as e:
        log.debug("apcmodbus: probe: %s", e)
        return 0.5


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The driver for the unit at the end of `link`. Sends nothing yet. LinkError without a link."""
    if link is None:
        raise LinkError("driver apcmodbus needs a serial line or a connection")
    return ApcModbus(section, link, now)


class ApcModbus:
    """A connected unit. One poll: status and measurements, once also who it is and its limits."""

    off_return = "no"  # no unit of this family was on a bench of ours
    wake_fd: int | None = None

    def __init__(self, section: Mapping[str, Any], link: Link, now: Callable[[], float]) -> None:
        self._link, self._now, self._silences = link, now, unanswered(section, AGAIN_S)
        self._kept: dict[tuple[int, int], tuple[tuple[int, ...], float]] = {}  # and when they were said
        self._due_s: dict[tuple[int, int], float] = {}
        self._until_s = 0.0  # the poll or order that is under way ends by then

    @property
    def commands(self) -> frozenset[Command]:
        """What it can do; outlets once it has said that it has some."""
        switches = SWITCHES if any(n in SWITCHED for n in self._groups()) else ()
        return frozenset((*OUTLET_ORDERS, *TEST_ORDERS, *switches))

    def poll(self) -> Status:
        """Ask and return. Takes at most POLL_WITHIN_S; LinkError if the unit is silent, or says no source."""
        self._until_s = self._now() + POLL_WITHIN_S
        measured = self._measured()
        for block in (INVENTORY, LIMITS):
            now_s = self._now()
            due = now_s >= self._due_s.get(block, -math.inf) and self._silences.is_due(block, now_s)
            if due and self._until_s - now_s >= 2 * ANSWER_WITHIN_S:  # for it and the status
                self._ask_kept(block)
        status, taken_s = self._read(STATUS)  # last: the source is the newest
        kept = {block: self._kept.get(block, ((), taken_s)) for block in (INVENTORY, LIMITS)}
        found = look(status, measured, kept[INVENTORY][0], kept[LIMITS][0], taken_s)
        said = (("ident", INVENTORY), ("rating", INVENTORY), ("rating", LIMITS))
        return replace(found, older=older(((place, kept[block][1]) for place, block in said), taken_s))

    def order(self, command: Command, **args: Any) -> str | None:
        """Give an order (arguments: see model.Command). A word if no countdown is seen, or one that was stopped.

        OrderError: an argument is out of range, the unit refuses, or a delay does not read back as written; nothing
        is switched then. LinkError: it is silent.
        """
        values = check_arguments(command, args, **DELAYS.get(command, {})) if command in self.commands else []
        if command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        self._until_s = self._now() + ORDER_WITHIN_S
        try:
            if command in SWITCHES:
                self._switch(int(values[0]), SWITCHES[command])
            elif command in OUTLET_ORDERS:
                groups = self._groups()
                for group in groups:
                    for register, seconds in zip((OFF_DELAY, ON_DELAY), values, strict=False):
                        self._set(register + group * DELAY_STEP, math.ceil(seconds))
                targets = sum(MAIN << group for group in groups)
                self._write(OUTLETS, (0, OUTLET_ORDERS[command] | targets | LOCAL_USER))
            self._test(TEST_ORDERS.get(command, ()))
        except Refused as e:
            raise OrderError(f"{command.value}: {e}") from e
        wanted = COUNTS_DOWN.get(command)
        if wanted is None or (wanted and values[0] == 0):
            return None
        return countdown_not_seen(self._counts, wanted) or None

    def close(self) -> None:
        """Give the line back."""
        self._link.close()

    def _counts(self) -> bool | None:
        """Whether the main group counts down; None: this unit does not say."""
        try:
            (left,), _ = self._read((OFF_TIMER, 1))
        except Refused:
            return None
        return 0 < left < 0x8000

    def _test(self, orders: Sequence[tuple[int, int]]) -> None:
        """All of them; of several, such as the abort of either test, one must be taken. Refused."""
        refusals = []
        for register, bits in orders:
            try:
                self._write(register, (bits | TEST_USER,))
            except Refused as e:
                refusals.append(e)
        if refusals and len(refusals) == len(orders):
            raise refusals[0]

    def _groups(self) -> tuple[int, ...]:
        """The outlet groups that there are, 0 is the main one; that alone if the unit does not say."""
        inventory = self._kept.get(INVENTORY, ((), 0.0))[0]
        return groups(inventory) or (0,)

    def _switch(self, number: int, bits: int) -> None:
        if number not in (there := [n for n in self._groups() if n in SWITCHED]):
            raise OrderError(f"this UPS can switch the outlets {', '.join(map(str, there))}, not {number}")
        self._write(OUTLETS, (0, bits | MAIN << number | LOCAL_USER))

    def _measured(self) -> tuple[int, ...]:
        """The measurements; a unit that refuses them is read for its status alone."""
        if self._now() >= self._due_s.get(DYNAMIC, -math.inf):
            try:
                return self._read(DYNAMIC)[0]
            except Refused as e:
                self._due_s[DYNAMIC] = self._now() + (0.0 if e.later else AGAIN_S)
                log.warning("apcmodbus: registers from %d: %s; nothing is measured", DYNAMIC[0], e)
        return (UNKNOWN,) * DYNAMIC[1]

    def _ask_kept(self, block: tuple[int, int]) -> None:
        """A block that seldom changes. A unit that refuses it is read without, and so is one that says nothing to it
        again and again, though it has just answered."""
        try:
            self._kept[block] = self._read(block)
        except Refused as e:
            log.info("apcmodbus: registers from %d: %s", block[0], e)
            if e.later:
                return
            self._kept.pop(block, None)
        except LinkError:
            self._silences.silent(block, self._now())
            raise
        self._due_s[block] = self._now() + AGAIN_S
        self._silences.answered(block)

    def _set(self, register: int, value: int) -> None:
        self._write(register, (value,))
        for _ in range(LOOKS):
            (there,), _ = self._read((register, 1))
            if there == value:
                return
        raise OrderError(f"register {register} is {there} after {value} was written: nothing was switched")

    def _write(self, start: int, values: tuple[int, ...]) -> None:
        request = write_request(start, values)
        check_written(self._link.ask(request, within_s=self._left_s()).data, start, len(values))

    def _read(self, block: tuple[int, int]) -> tuple[tuple[int, ...], float]:
        """A block, in as many requests as the link needs, and when its end came."""
        start, left = block
        most = getattr(self._link, "registers_limit", REGISTERS_LIMIT)
        found: tuple[int, ...] = ()
        taken_s = 0.0
        while left:
            count = min(left, most)
            part, taken_s = _read(self._link, (start, count), self._left_s())
            found, start, left = found + part, start + count, left - count
        return found, taken_s

    def _left_s(self) -> float:
        left_s = self._until_s - self._now()
        if left_s <= 0:
            raise LinkError("no time left to ask")
        return min(ANSWER_WITHIN_S, left_s)


# --- registers to values


def _read(link: Link, block: tuple[int, int], within_s: float = ANSWER_WITHIN_S) -> tuple[tuple[int, ...], float]:
    reply = link.ask(read_request(*block), within_s=within_s)
    return parse_read(reply.data, block[1]), reply.received_s


def look(
    status: tuple[int, ...],
    measured: tuple[int, ...],
    inventory: tuple[int, ...],
    limits: tuple[int, ...],
    taken_s: float,
) -> Status:
    """The Status that the four blocks mean; the last two may be empty. LinkError: no source in it."""
    bits = status[0] << 16 | status[1]
    source = _source(status)
    shape = measured[150 - DYNAMIC[0]]
    if source is Source.MAINS and shape != UNKNOWN:
        source = Source.BOOST if shape & 1 << 5 else Source.BUCK if shape & 1 << 6 else source
    flags = {condition for bit, condition in STATUS_FLAGS.items() if bits >> bit & 1}
    flags |= {condition for (register, bit), condition in FLAGS.items() if status[register] >> bit & 1}

    def value(register: int, scale: int = 0, *, signed: bool = False) -> float | None:
        raw = measured[register - DYNAMIC[0]]
        if raw == UNKNOWN:
            return None
        return (raw - 0x10000 if signed and raw & 0x8000 else raw) / (1 << scale)

    va_max, w_max = (float(n) if n not in (0, UNKNOWN) else None for n in inventory[72:74] or (0, 0))
    load, apparent = value(136, 8), value(138, 8)
    runtime_s = measured[0] << 16 | measured[1]
    result = next((r for bit, r in RESULTS if status[23] >> bit & 1), TestResult.NONE)
    low, high = (float(n) if n not in (0, UNKNOWN) else None for n in (limits[1:2] or (0,)) + (limits[:1] or (0,)))
    return Status(
        taken_s=taken_s,
        source=source,
        inputs=(Line(voltage_v=value(151, 6)),),
        outputs=(
            Line(
                voltage_v=value(142, 6),
                frequency_hz=value(144, 7),
                current_a=value(140, 5),
                load_pct=load,
                power_w=load * w_max / 100 if load is not None and w_max else None,
                apparent_va=apparent * va_max / 100 if apparent is not None and va_max else None,
            ),
        ),
        battery=Battery(
            charge_pct=value(130, 9),
            runtime_s=None if runtime_s == 0xFFFFFFFF else float(runtime_s),
            voltage_v=value(131, 5, signed=True),
            temperature_c=value(135, 7, signed=True),
            low=Condition.LOW_BATTERY in flags,
        ),
        ident=Ident(
            manufacturer="American Power Conversion",
            model=_text(inventory, 532 - INVENTORY[0], 16),
            firmware=_text(inventory, 0, 8),
            serial=_text(inventory, 564 - INVENTORY[0], 8),
        ),
        rating=Rating(apparent_va=va_max, power_w=w_max, low_transfer_v=low, high_transfer_v=high),
        outlets=tuple(_outlet(n, status, inventory) for n in groups(inventory) if n in SWITCHED),
        test=Test(result=result),
        flags=frozenset(flags),
    )


def groups(inventory: tuple[int, ...]) -> tuple[int, ...]:
    """The outlet groups that the unit says it has, 0 is the main one."""
    bits = inventory[GROUPS - INVENTORY[0]] if inventory else 0
    if bits == UNKNOWN:
        return ()
    return tuple(n for n in (0, *SWITCHED) if bits >> n & 1)


def _outlet(number: int, status: tuple[int, ...], inventory: tuple[int, ...]) -> Outlet:
    state = status[GROUP_STATE * (number + 1) + 1] & 0b11  # on, off
    name = _text(inventory, GROUP_NAME + 8 * number - INVENTORY[0], 8)
    return Outlet(number=number, name=name, on={1: True, 2: False}.get(state))


def _source(status: tuple[int, ...]) -> Source:
    """LinkError for a status without any of the four bits; on line and on battery together is unknown."""
    bits = status[0] << 16 | status[1]
    if bits & 0b110 == 0b110:
        return Source.UNKNOWN
    for bit, source in SOURCES:
        if bits >> bit & 1:
            return source
    raise LinkError(f"no source in the status {bits:08x}")


def _text(registers: tuple[int, ...], first: int, count: int) -> str | None:
    """Two characters a register, printable alone. What is longer than its registers the unit has cut: a firmware
    of more than 16 characters, say."""
    data = b"".join(n.to_bytes(2, "big") for n in registers[first : first + count])
    return "".join(chr(c) for c in data if 32 <= c < 127).strip() or None
