"""Megatec Q1: reads the many UPSes that answer one question with one line of numbers, and gives them orders.

Protocol: https://networkupstools.org/protocols/megatec.html; how real units differ from it: tests/cases/megatec.json
(each case with its source). Status card: docs/drivers.md.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..model import (
    Battery,
    Command,
    Condition,
    Driver,
    Flow,
    Ident,
    Line,
    Link,
    LinkError,
    Option,
    OrderError,
    Rating,
    Source,
    Status,
    Test,
    TestResult,
)

log = logging.getLogger(__name__)

NAME, TITLE, LINK = "megatec", "Megatec / Q1 family, serial", "serial"
OPTIONS = (
    Option(
        name="battery_cells",
        kind=int,
        low=3,
        high=240,
        help="2 V cells in series (6 in a 12 V battery), for units that give volts per cell and no correct rating",
    ),
)
QUERIES = (b"Q1\r", b"F\r", b"I\r")  # all that probe may send

EXTRA_WITHIN_S = 1.0  # for F and I, which not every unit has
EXTRA_TRIES = 3
ECHO_WITHIN_S = 0.5  # an order has no answer; a refused one is echoed within this
PER_CELL_BELOW_V = 3.5  # a battery voltage below this is that of one 2 V cell: no UPS runs on less than 6 V
OFF_DELAY_S = (12.0, 600.0)  # S.2 to S10
RETURN_DELAY_S = (0.0, 9999 * 60.0)
RETURN_MINUTES_MIN = 3  # early GE units that got R0001 or R0002 never came back (NUT, blazer)


class Q1(NamedTuple):
    """The answer to Q1. None: the unit does not say. `battery_v` may be that of one cell, see `per_cell`."""

    input_v: float | None
    fault_v: float | None
    output_v: float | None
    load_pct: float | None
    frequency_hz: float | None
    battery_v: float | None
    temperature_c: float | None
    utility_fail: bool
    battery_low: bool
    regulating: bool  # bypass, boost or buck: the two voltages tell which
    failed: bool
    line_interactive: bool
    testing: bool
    shutdown_active: bool
    beeper_on: bool

    @property
    def per_cell(self) -> bool:
        """Whether battery_v is the voltage of one 2 V cell."""
        return self.battery_v is not None and 0 < self.battery_v < PER_CELL_BELOW_V


class F(NamedTuple):
    """The answer to F: what the unit is made for. None: it does not say (or says 0)."""

    voltage_v: float | None
    current_a: float | None
    battery_v: float | None
    frequency_hz: float | None


_NUMBER = re.compile(rb"\d{1,4}(\.\d{0,3})?")
_SIGNED = re.compile(rb"[+-]?\d{1,4}(\.\d{0,3})?")
_ABSENT = re.compile(rb"[-@#.]*")  # --.-  @@.@  ##.#
_FLAGS = re.compile(rb"[01]{8}")
_TEXT = re.compile(rb"#[\x20-\x7e]*")
_Q1_COLUMNS = ((1, 6), (7, 12), (13, 18), (19, 22), (23, 27), (28, 32), (33, 37))


def parse_q1(answer: bytes) -> Q1:
    """The answer to Q1 without its CR. LinkError, with the bytes, if it is anything else.

        0      7     13    19  23   28   33   38
        (MMM.M NNN.N PPP.P QQQ RR.R SS.S TT.T bbbbbbbb
         |     |     |     |   |    |    °C   utility fail, battery low, bypass/boost/buck, UPS failed,
         |     |     |     |   |    |         line-interactive, test, shutdown active, beeper on
         |     |     |     |   |    battery V: of all cells (SS.S) or of one (S.SS)
         |     |     |     |   input Hz
         |     |     output V, load %
         input V, input V of the last fault (equals the input V when there was none)

    Widths vary, so fields are split at blanks; only where one is blank do the columns count. Some units send NUL
    for a 0 among the flags (Armac, NUT issue 1978).
    """
    body, flags = answer[:-8], answer[-8:].replace(b"\0", b"0")
    if body[:1] != b"(" or body[-1:] != b" " or not _FLAGS.fullmatch(flags):
        raise LinkError(f"Q1: not an answer to it: {answer[:80]!r}")
    fields = [word for word in body[1:].split(b" ") if word]
    if len(fields) < 7 and len(body) == 38 and all(body[end : end + 1] == b" " for _, end in _Q1_COLUMNS):
        fields = [body[start:end].strip(b" ") for start, end in _Q1_COLUMNS]
    if len(fields) != 7:
        raise LinkError(f"Q1: {len(fields)} numbers instead of 7: {answer[:80]!r}")
    numbers = [_number(field, answer, _NUMBER) for field in fields[:6]]
    return Q1._make((*numbers, _number(fields[6], answer, _SIGNED), *(bit == ord("1") for bit in flags)))


def parse_f(answer: bytes) -> F:
    """The answer to F without its CR: `#MMM.M QQQ SS.SS RR.R` = V, A, battery V, Hz. LinkError otherwise."""
    fields = answer[1:].split()
    if answer[:1] != b"#" or len(fields) != 4:
        raise LinkError(f"F: not an answer to it: {answer[:80]!r}")
    return F._make(_number(field, answer, _NUMBER) or None for field in fields)  # made for 0 V: it does not say


def parse_i(answer: bytes) -> Ident:
    """The answer to I without its CR. LinkError otherwise.

    0 1               17         28
    # company........ model..... version...     15, 10 and 10 characters, padded with blanks or #
    """
    padded = answer.ljust(38)
    gaps = padded[16:17] + padded[27:28] + padded[38:].strip(b" ")
    if gaps != b"  " or len(answer) < 29 or not _TEXT.fullmatch(answer):  # shorter: a late answer to F
        raise LinkError(f"I: not an answer to it: {answer[:80]!r}")
    return Ident(manufacturer=_words(padded[1:16]), model=_words(padded[17:27]), firmware=_words(padded[28:38]))


def is_refusal(command: bytes, answer: bytes) -> bool:
    """Whether `answer` means that the unit does not know `command`: an echo, NAK, (NAK or N (Voltronic QS)."""
    return answer.strip(b"\0 ") in (command.strip(b"\r"), b"NAK", b"(NAK", b"N")


def _number(field: bytes, answer: bytes, form: re.Pattern[bytes]) -> float | None:
    if form.fullmatch(field):
        return float(field)
    if _ABSENT.fullmatch(field):
        return None
    raise LinkError(f"not a number: {field!r} in {answer[:80]!r}")


def _words(field: bytes) -> str | None:
    text = " ".join(field.decode("ascii").strip(" #@").split())
    return text if text.strip("-. ") else None


def look(
    q1: Q1, f: F | None, ident: Ident, *, cells: int | None = None, test: Test | None = None, taken_s: float
) -> Status:
    """What one Q1 answer, the rating and the identity mean together. Pure.

    `cells` (the option) goes before round(nominal battery voltage / 2) of the rating. `test`: see Status.
    """
    nominal_v = cells * 2.0 if cells is not None else f.battery_v if f is not None else None
    battery_v = q1.battery_v
    if battery_v is not None and q1.per_cell:
        battery_v = round(battery_v * round(nominal_v / 2), 2) if nominal_v is not None else None
    charge_pct = estimate_charge_pct(battery_v, nominal_v)
    source = _source(q1)
    facts = {
        Condition.LOW_BATTERY: q1.battery_low,
        Condition.ON_BYPASS: source is Source.BYPASS,
        Condition.GENERAL_FAULT: q1.failed,
        Condition.TEST_RUNNING: q1.testing,
        Condition.SHUTDOWN_PENDING: q1.shutdown_active,
    }
    return Status(
        taken_s=taken_s,
        source=source,
        inputs=(Line(voltage_v=q1.input_v, frequency_hz=q1.frequency_hz, fault_voltage_v=q1.fault_v),),
        outputs=(Line(voltage_v=q1.output_v, load_pct=q1.load_pct),),
        battery=Battery(
            charge_pct=charge_pct,
            voltage_v=battery_v,
            flow=Flow.DISCHARGING if q1.utility_fail else None,
            low=q1.battery_low,
            estimated=frozenset() if charge_pct is None else frozenset({"charge_pct"}),
        ),
        ident=ident,
        rating=_rating(f),
        test=test,
        temperature_c=q1.temperature_c,
        beeper_on=q1.beeper_on,
        flags=frozenset(condition for condition, so in facts.items() if so),
    )


def estimate_charge_pct(battery_v: float | None, nominal_v: float | None) -> float | None:
    """A guess: empty at nominal * 104/120, full at nominal * 130/120, linear between (NUT, docs/man/nutdrv_qx.txt).

    None if a voltage is unknown, or the two cannot belong to one battery (some units rate one battery of several).
    """
    if battery_v is None or nominal_v is None or not 0.5 * nominal_v <= battery_v <= 1.3 * nominal_v:
        return None
    empty_v, full_v = nominal_v * 104 / 120, nominal_v * 130 / 120
    return round(min(100.0, max(0.0, 100 * (battery_v - empty_v) / (full_v - empty_v))), 1)


def _rating(f: F | None) -> Rating:
    """F gives one voltage and one frequency: a unit of this family makes what it takes."""
    f = f or F(None, None, None, None)
    return Rating(
        input_voltage_v=f.voltage_v,
        input_frequency_hz=f.frequency_hz,
        output_voltage_v=f.voltage_v,
        output_frequency_hz=f.frequency_hz,
        output_current_a=f.current_a,
        battery_voltage_v=f.battery_v,
    )


def _source(q1: Q1) -> Source:
    """One bit means bypass, boost or buck: the ratio output/input tells which, as in NUT (drivers/blazer.c)."""
    if q1.utility_fail:
        return Source.BATTERY
    if not q1.regulating or not q1.input_v or q1.output_v is None:
        return Source.MAINS
    ratio = q1.output_v / q1.input_v
    for limit, source in ((0.5, Source.MAINS), (0.95, Source.BUCK), (1.05, Source.BYPASS), (1.5, Source.BOOST)):
        if ratio < limit:
            return source
    return Source.MAINS


def probe(link: Link) -> float:
    """How sure it is that a unit of this family is there: 0 no, 0.8 it answers Q1, 1 also F. Sends only QUERIES."""
    sure = 0.0
    try:
        parse_q1(link.ask(b"Q1\r", within_s=EXTRA_WITHIN_S).data)
        sure = 0.8
        parse_f(link.ask(b"F\r", within_s=EXTRA_WITHIN_S).data)
        sure = 1.0
    except LinkError as e:
        log.debug("megatec: probe: %s", e)
    return sure


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The driver for the unit at the end of `link`. Sends nothing yet. LinkError without a link."""
    if link is None:
        raise LinkError("driver megatec needs a serial line")
    return Megatec(link, section.get("battery_cells"))


class Megatec:
    """A connected unit. One poll is one Q1; the first polls also ask F and I, until answered or given up."""

    commands = frozenset(Command) - {Command.SIMULATE, Command.OUTLET_ON, Command.OUTLET_OFF}
    off_return = "no"  # no unit of this family was on a bench of ours
    wake_fd: int | None = None

    def __init__(self, link: Link, cells: int | None) -> None:
        self._link, self._cells = link, cells
        self._f: F | None = None
        self._ident = Ident()
        self._test = Test()
        self._stop_ordered = False
        self._tries = {b"F\r": EXTRA_TRIES, b"I\r": EXTRA_TRIES}  # what is still to be asked, and how often

    def poll(self) -> Status:
        """Ask and return. Takes at most 3 s, and 2 s more while F and I are open. LinkError if Q1 has no answer."""
        q1, taken_s = self._ask_q1()
        asking = tuple(self._tries)
        for query in asking:
            self._ask_extra(query)
        self._test = self._test_after(q1)
        status = look(q1, self._f, self._ident, cells=self._cells, test=self._test, taken_s=taken_s)
        if q1.per_cell and status.battery.voltage_v is None and asking and not self._tries:
            log.info("megatec: volts per cell and no rating; set battery_cells to know the battery voltage")
        return status

    def order(self, command: Command, **args: Any) -> None:
        """Give an order (arguments: see model.Command). OrderError: an argument out of range, or the unit echoed
        or NAKed it. LinkError: the unit cannot be read any more. An accepted order has no answer of its own."""
        if command in (Command.BEEPER_ON, Command.BEEPER_OFF):
            check_arguments(command, args)
            self._set_beeper(command is Command.BEEPER_ON)
            return
        self._tell(encode(command, args))
        self._stop_ordered = command is Command.TEST_STOP

    def close(self) -> None:
        """Give the line back."""
        self._link.close()

    def _ask_q1(self) -> tuple[Q1, float]:
        answer = self._link.ask(b"Q1\r")
        if is_refusal(b"Q1\r", answer.data):
            raise LinkError(f"Q1: the unit refuses it: {answer.data[:80]!r}")
        return parse_q1(answer.data), answer.received_s

    def _ask_extra(self, query: bytes) -> None:
        """Ask F or I. Never an error: the unit may not know it, and Q1 has just worked."""
        try:
            answer = self._link.ask(query, within_s=EXTRA_WITHIN_S).data
            if query == b"F\r" and not is_refusal(query, answer):
                self._f = parse_f(answer)
            elif not is_refusal(query, answer):
                self._ident = parse_i(answer)
        except LinkError as e:
            self._tries[query] -= 1
            if self._tries[query] > 0:
                return
            log.info("megatec: gave up asking %s: %s", query.decode().strip(), e)
        del self._tries[query]

    def _test_after(self, q1: Q1) -> Test:
        """The unit says when a test runs, not how it ended: ABORTED if we stopped it, else NONE and that it ran."""
        if q1.testing:
            return Test(result=TestResult.RUNNING)
        stopped, self._stop_ordered = self._stop_ordered, False
        if self._test.result is not TestResult.RUNNING:
            return self._test
        if stopped:
            return Test(result=TestResult.ABORTED)
        return Test(detail="ended; this UPS does not report a result")

    def _tell(self, command: bytes) -> None:
        """Send an order: silence is consent, an echo or NAK is a refusal. Then see that the unit is still there."""
        try:
            answer = self._link.ask(command, within_s=ECHO_WITHIN_S).data
        except LinkError:
            answer = b""
        if answer and is_refusal(command, answer):
            raise OrderError(f"this UPS refused {command.decode().strip()}: {answer[:80]!r}")
        self._ask_q1()

    def _set_beeper(self, on: bool) -> None:
        """There is only a toggle: read, toggle, read again."""
        if self._ask_q1()[0].beeper_on is on:
            return
        self._tell(b"Q\r")
        if self._ask_q1()[0].beeper_on is not on:
            raise OrderError(f"this UPS did not switch its beeper {'on' if on else 'off'}")


_FIXED = {
    Command.TEST_QUICK: b"T\r",
    Command.TEST_DEEP: b"TL\r",
    Command.TEST_STOP: b"CT\r",
    Command.SHUTDOWN_STOP: b"C\r",
}


def encode(command: Command, args: Mapping[str, Any]) -> bytes:
    """The bytes of an order: T TL Tnn CT C, S<n>R<mmmm>. Delays are rounded up to what the protocol can say:
    12, 18 .. 54 s as .2 .. .9, then whole minutes; a return is never set below 3 minutes. OrderError otherwise."""
    if command in _FIXED:
        check_arguments(command, args)
        return _FIXED[command]
    if command is Command.TEST_MINUTES:
        (minutes,) = check_arguments(command, args, minutes=(1, 99))
        if minutes != int(minutes):
            raise OrderError(f"{command.value}: minutes must be a whole number, not {minutes!r}")
        return b"T%02d\r" % int(minutes)
    if command is Command.SHUTDOWN_STAY_OFF:
        (delay_s,) = check_arguments(command, args, delay_s=OFF_DELAY_S)
        return b"S%sR0000\r" % _off_delay(delay_s)
    if command is Command.SHUTDOWN_RETURN:
        delay_s, return_s = check_arguments(command, args, delay_s=OFF_DELAY_S, return_delay_s=RETURN_DELAY_S)
        return b"S%sR%04d\r" % (_off_delay(delay_s), max(RETURN_MINUTES_MIN, math.ceil(return_s / 60)))
    raise OrderError(f"a Megatec UPS cannot do {command.value}")


def _off_delay(delay_s: float) -> bytes:
    sixths = math.ceil(delay_s / 6)
    return b".%d" % sixths if sixths <= 9 else b"%02d" % math.ceil(delay_s / 60)


def check_arguments(command: Command, args: Mapping[str, Any], **ranges: tuple[float, float]) -> list[float]:
    """The values of `ranges` from `args`, checked. OrderError names what is allowed."""
    if unknown := sorted(args.keys() - ranges.keys()):
        raise OrderError(f"{command.value} has no argument {', '.join(unknown)}")
    values = []
    for name, (low, high) in ranges.items():
        value = args.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise OrderError(f"{command.value}: {name} must be from {low:g} to {high:g}, not {value!r}")
        values.append(float(value))
    return values
