"""APC Smart-UPS over its serial line: reads everything it says, hears its alerts at once, and gives it orders.

What the answers mean is in agent/apc.py, with the protocol's source. Status card: docs/drivers.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .. import apc
from ..ages import older
from ..link import rest
from ..model import Command, Driver, Link, LinkError, Option, OrderError, Status
from ..q1.orders import check_arguments, others

log = logging.getLogger(__name__)

NAME, TITLE, LINK, CARDS = "apcsmart", "APC Smart-UPS, serial", "serial", apc.CARDS
OPTIONS: tuple[Option, ...] = ()
PROBE_FIRST = True  # its unit obeys single characters, which other drivers' questions are made of: QGS has S, off
QUERIES = (b"Y", b"Q")  # Y, enter smart mode, is what everything else needs; Q is asked only after its answer

END = b"\r\n"
POLL_WITHIN_S = 4.5
ORDER_WITHIN_S = 9.0
ANSWER_WITHIN_S = 1.0  # real units answer within 0.14 s
LONG_ANSWER_WITHIN_S = 2.5  # to a: a real unit took 0.94 s
CAPABILITIES_WITHIN_S = 4.0
LAST_Q_S = 1.0  # of a poll are kept for the Q at its end
QUIET_S, LATE_WITHIN_S = 0.4, 1.0  # after silence the line is left alone for so long: before that Q, and after it
FACTS_WITHIN_S = 1.0  # one fact is asked in each poll, more only while the poll is so young
GAP_S = 1.6  # between the two K: more than 1.5
DIGIT_GAP_S = 0.1  # a unit that is hurried stops talking
CALIBRATION_WITHIN_S = 3.0
AGAIN_S = 300.0  # what a unit does not know, or did not answer, is asked again after so long
SILENT_LIMIT = 3  # times in a row, for a question that it has answered before, or of BATTERY
BATTERY, SOON_S = b"fj", 15.0  # charge and runtime, that servers may go by: if it has told them, asked again so soon
LATE_S = 180.0  # a turn through all of them, polled as seldom as may be configured, takes less


def probe(link: Link) -> float:
    """How sure it is that a Smart-UPS is there: 0 no, 0.8 it enters smart mode, 1 it tells its status as well."""
    sure = 0.0
    try:
        if apc.plain(link.ask(b"Y", end=END, within_s=ANSWER_WITHIN_S).data) == b"SM":
            sure = 0.8
            apc.parse(b"Q", link.ask(b"Q", end=END, within_s=ANSWER_WITHIN_S).data)
            sure = 1.0
    except LinkError as e:
        log.debug("apcsmart: probe: %s", e)
    return sure


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The driver for the unit at the end of `link`. Sends nothing yet. LinkError without a link."""
    if link is None:
        raise LinkError("driver apcsmart needs a serial line")
    return ApcSmart(link, now)


class ApcSmart:
    """A connected unit. One poll: Q, the measurements, some facts, and Q again, so that the source is the newest."""

    off_return = "no"  # no unit of this family was on a bench of ours

    def __init__(self, link: Link, now: Callable[[], float]) -> None:
        self._link, self._now = link, now
        self._late = False  # an answer of this poll may still come
        self._smart = False  # it was told to be, and nothing has contradicted since
        self._until_s = 0.0  # the poll or order that is under way ends by then
        self._known: frozenset[bytes] | None = None  # the commands that the unit lists; None: not told (yet)
        self._asked_a_s = -math.inf
        self._legal: dict[tuple[str, str], tuple[str, ...]] | None = None
        self._facts: dict[bytes, tuple[apc.Value, float]] = {}  # question -> its answer, and when it was given
        self._due_s: dict[bytes, float] = {}  # question -> not before this second
        self._silent: dict[bytes, int] = {}  # question -> unanswered so many times in a row
        self._answered: set[bytes] = set()

    @property
    def wake_fd(self) -> int | None:
        """Readable when the unit says an alert: mains gone, battery low, and their ends."""
        return self._link.wake_fd

    @property
    def commands(self) -> frozenset[Command]:
        """What this unit can do; until it has told its commands, what the family can do."""
        known = self._known
        return frozenset(c for c, needs in apc.NEEDS.items() if known is None or needs <= known)

    def poll(self) -> Status:
        """Ask and return. Takes at most 4.5 s; LinkError if the unit is silent or does not say its status."""
        self._until_s = (began_s := self._now()) + POLL_WITHIN_S
        self._late = False
        if not self._smart:
            self._enter_smart_mode()
        first, _ = self._ask_bits()
        values, whole = self._measure(first)
        while whole and self._ask_next_fact() and self._now() - began_s < FACTS_WITHIN_S:
            pass
        bits, taken_s = self._ask_last(first)
        if self._late:
            rest(self._link, LATE_WITHIN_S)
        facts = {q: one for q, one in self._facts.items() if taken_s - one[1] <= apc.FACTS[q] + LATE_S}
        status = apc.look(bits, {**{q: value for q, (value, _) in facts.items()}, **values}, taken_s=taken_s)
        return replace(status, older=older(((apc.PLACES[q], at_s) for q, (_, at_s) in facts.items()), taken_s))

    def order(self, command: Command, **args: Any) -> str | None:
        """Give an order (arguments: see model.Command). Takes at most 9 s: some are pressed twice, 1.6 s apart.

        A word if its delay is another. OrderError: an argument out of range, or the unit refuses or does not confirm.
        LinkError: it is silent.
        """
        if command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        delays = check_arguments(command, args, **apc.DELAYS.get(command, {}))
        self._until_s, self._legal = self._now() + ORDER_WITHIN_S, self._legal or None  # what was lost is asked anew
        if not self._smart:
            self._enter_smart_mode()
        if command is Command.SHUTDOWN_RETURN:
            return self._off_and_return(*delays)
        if command is Command.SHUTDOWN_STAY_OFF:
            off_s = self._set_at_least(b"p", *delays)
            self._press_twice(b"K")
            return others(("off", off_s, delays[0]))
        self._simple(command)
        return None

    def close(self) -> None:
        """Give the line back. The unit stays in smart mode, which harms nobody."""
        self._link.close()

    # -- asking

    def _ask(self, question: bytes, within_s: float = ANSWER_WITHIN_S, *, spare_s: float = 0.0) -> bytes:
        left_s = self._until_s - spare_s - self._now()
        if left_s <= 0:
            raise LinkError(f"{question!r}: no time left to ask")
        return self._link.ask(question, end=END, within_s=min(within_s, left_s)).data

    def _enter_smart_mode(self) -> None:
        """Y. If something else than SM comes, a newer unit may be in its menus: ESC leaves them for the next poll."""
        try:
            answer = self._ask(b"Y")
        except LinkError:
            self._listen(b"\x1b", 0.5)
            raise
        if apc.plain(answer) != b"SM":
            self._listen(b"\x1b", 0.5)
            raise LinkError(f"b'Y': not an APC unit in smart mode: {answer[:80]!r}")
        self._smart = True

    def _ask_bits(self) -> tuple[int, float]:
        self._smart, smart = False, self._smart  # until it has answered
        left_s = self._until_s - self._now()
        try:
            reply = self._link.ask(b"Q", end=END, within_s=max(0.1, min(ANSWER_WITHIN_S, left_s)))
            bits = apc.parse(b"Q", reply.data)
            if not isinstance(bits, int):
                raise LinkError(f"b'Q': the unit does not know it: {reply.data[:80]!r}")
        except LinkError:
            rest(self._link, LATE_WITHIN_S)
            raise
        self._smart = smart
        return bits, reply.received_s

    def _ask_last(self, first: int) -> tuple[int, float]:
        """Q again. Two digits have no check: a source counts when two answers say it, so another one is asked for;
        a low battery counts when the last two say it."""
        bits, taken_s = self._ask_bits()
        if apc.source(bits) is apc.source(first):
            return apc.low_twice(bits, first), taken_s
        again, taken_s = self._ask_bits()
        if apc.source(again) not in (apc.source(bits), apc.source(first)):
            raise LinkError(f"b'Q': three answers, three sources: {first:02X} {bits:02X} {again:02X}")
        return apc.low_twice(again, bits), taken_s

    def _measure(self, bits: int) -> tuple[dict[bytes, apc.Value], bool]:
        """What changes, and whether all was asked. After silence nothing more is: an answer may be late."""
        found: dict[bytes, apc.Value] = {}
        causes = (b"G",) if bits & apc.Bits.ON_BATTERY else ()
        for question in (*causes, *apc.MEASURES):
            if not self._worth_asking(question):
                continue
            if self._now() > self._until_s - LAST_Q_S - ANSWER_WITHIN_S:
                return found, False
            try:
                value = self._put(question)
            except LinkError as e:
                self._went_silent(question, e)
                return found, False
            if value is not None:
                found[question] = value
        return found, True

    def _ask_next_fact(self) -> bool:
        """The fact that is due longest; False if none is, there is no time, or the unit was silent."""
        now_s = self._now()
        if now_s > self._until_s - LAST_Q_S - ANSWER_WITHIN_S:
            return False
        if self._known is None and now_s >= self._asked_a_s + AGAIN_S:
            return self._ask_commands(now_s)
        due = [q for q in apc.FACTS if self._worth_asking(q)]
        if not due:
            return False
        question = min(due, key=lambda q: self._due_s.get(q, -math.inf))
        self._facts.pop(question, None)
        try:
            value = self._put(question)
        except LinkError as e:
            self._went_silent(question, e)
            self._due_s[question] = max(self._due_s.get(question, 0.0), now_s + apc.FACTS[b"8"])
            return False
        if value is not None:
            self._facts[question] = value, now_s
            self._due_s[question] = now_s + apc.FACTS[question]
            firmware = str(value) if question in (b"b", b"V") else ""
            if self._known is None and firmware in apc.COMMANDS_OF:
                self._known = frozenset(bytes((c,)) for c in apc.COMMANDS_OF[firmware])
        return True

    def _ask_commands(self, now_s: float) -> bool:
        self._asked_a_s = now_s
        try:
            self._known = apc.parse_commands(self._ask(b"a", LONG_ANSWER_WITHIN_S, spare_s=LAST_Q_S))
        except LinkError as e:
            log.info("apcsmart: the unit does not list its commands: %s", e)
            self._leave_alone()
            return False
        return True

    def _worth_asking(self, question: bytes) -> bool:
        listed = self._known is None or question in self._known or question in apc.UNLISTED
        return listed and self._now() >= self._due_s.get(question, -math.inf)

    def _put(self, question: bytes) -> apc.Value | None:
        """Ask, and remember when it is worth asking again. LinkError: silence, or no answer to it."""
        value = apc.parse(question, self._ask(question, spare_s=LAST_Q_S))
        if value is None:
            self._missed(question)
        else:
            self._silent[question] = 0
            self._answered.add(question)
        return value

    def _missed(self, question: bytes) -> None:
        """What it has answered before it may have heard as another question."""
        self._silent[question] = times = self._silent.get(question, 0) + 1
        known, vital = question in self._answered, question in BATTERY
        if times >= (SILENT_LIMIT if known or vital else 1):
            self._due_s[question] = self._now() + (SOON_S if known and vital else AGAIN_S)

    def _leave_alone(self) -> None:
        """An answer that is late would be taken for that to the next question, and so on."""
        self._late = True
        rest(self._link, QUIET_S)

    def _went_silent(self, question: bytes, error: LinkError) -> None:
        self._leave_alone()
        self._missed(question)
        log.debug("apcsmart: %s", error)

    # -- orders

    def _simple(self, command: Command) -> None:
        if command in (Command.TEST_QUICK, Command.SHUTDOWN_STOP):
            self._tell(b"W" if command is Command.TEST_QUICK else b"\x7f")
        elif command in (Command.LOAD_OFF, Command.LOAD_ON):
            self._press_twice(b"Z" if command is Command.LOAD_OFF else b"\x0e")
        elif command in (Command.TEST_DEEP, Command.TEST_STOP):
            self._calibrate(command is Command.TEST_DEEP)
        else:
            wanted = self._values(b"k") or ("0", "N")
            loud = next((v for v in wanted if v != "N"), "0")
            self._cycle(b"k", loud if command is Command.BEEPER_ON else "N", unless="N")

    def _tell(self, order: bytes) -> None:
        """Send an order that is confirmed by OK (by * of older units). OrderError otherwise."""
        self._ask_bits()
        self._confirmed(order, self._listen(order, ANSWER_WITHIN_S + 0.5))

    def _confirmed(self, order: bytes, answer: bytes) -> None:
        if apc.plain(answer) == b"OK" or answer.strip() == b"*":
            return
        if not answer:
            self._ask_bits()
            raise OrderError(f"this UPS does not confirm {order!r}; it may obey all the same")
        raise OrderError(f"this UPS refused {order!r}: {answer[:80]!r}")

    def _listen(self, said: bytes, for_s: float) -> bytes:
        """Send this and hear what comes within `for_s`; b"": nothing, which may be right."""
        try:
            return self._ask(said, for_s)
        except LinkError as e:
            log.debug("apcsmart: %s", e)
            return b""

    def _press_twice(self, order: bytes) -> None:
        """The same character again, more than 1.5 s later. The time passes by listening: NA ends it."""
        self._ask_bits()
        first_s = self._now()
        said = b""
        answer = self._listen(order, GAP_S)
        while True:
            said = said or apc.plain(answer)
            if said in (b"NA", b"NO"):
                raise OrderError(f"this UPS refused {order!r}: {said!r}")
            left_s = first_s + GAP_S - self._now()
            if left_s <= 0:
                break
            answer = self._listen(b"", left_s)
        self._confirmed(order, self._listen(order, ANSWER_WITHIN_S + 0.5))

    def _off_and_return(self, delay_s: float, return_delay_s: float) -> str:
        """S on battery (the unit comes back by its own r and e), @nnn on mains (after nnn tenths of an hour)."""
        bits, _ = self._ask_bits()
        off_s = self._set_at_least(b"p", delay_s)
        if bits & apc.Bits.ON_BATTERY:
            back_s = self._set_at_least(b"r", return_delay_s, most=True)
            self._tell(b"S")
            return others(("off", off_s, delay_s), ("back", back_s, return_delay_s))
        if self._known is not None and b"@" not in self._known:
            raise OrderError("this UPS can be switched off with return only while it is on battery")
        tenths = math.ceil(return_delay_s / apc.TENTHS_OF_HOUR_S)
        digits = b"%03d" % tenths
        for said in (b"@", digits[:1], digits[1:2]):
            if answer := self._listen(said, DIGIT_GAP_S):
                raise OrderError(f"this UPS refused b'@': {answer[:80]!r}")
        self._confirmed(b"@" + digits, self._listen(digits[2:], ANSWER_WITHIN_S + 0.5))
        return others(("off", off_s, delay_s), ("back", tenths * apc.TENTHS_OF_HOUR_S, return_delay_s))

    def _calibrate(self, start: bool) -> None:
        """D starts and stops; what happened is read back, because some units answer with an alert alone."""
        running = bool(self._ask_bits()[0] & apc.Bits.CALIBRATING)
        if running is start:
            why = "runs already" if start else "does not run; a self test ends by itself within seconds"
            raise OrderError(f"a calibration {why}")
        answer = apc.plain(self._listen(b"D", ANSWER_WITHIN_S))
        if answer in (b"NA", b"NO"):
            raise OrderError(f"this UPS refused b'D' (its battery must be full): {answer!r}")
        tried_s = self._now()
        while bool(self._ask_bits()[0] & apc.Bits.CALIBRATING) is not start:
            if self._now() - tried_s > CALIBRATION_WITHIN_S:
                raise OrderError(f"this UPS did not {'begin' if start else 'end'} its calibration")

    def _values(self, setting: bytes) -> tuple[str, ...]:
        """The legal values of a setting by the capability string; () if the unit does not tell."""
        if self._legal is None:
            answer = self._listen(b"\x1a", CAPABILITIES_WITHIN_S) if self._knows(b"\x1a") else b""
            try:
                self._legal = apc.parse_capabilities(answer) if apc.plain(answer) not in (b"", b"NA") else {}
            except LinkError as e:
                log.info("apcsmart: %s", e)
                self._legal = {}
        locale = str(self._facts.get(b"b", (" ", 0.0))[0])[-1]
        return self._legal.get((setting.decode(), locale)) or self._legal.get((setting.decode(), "4")) or ()

    def _knows(self, command: bytes) -> bool:
        return self._known is None or command in self._known

    def _set_at_least(self, setting: bytes, seconds: float, *, most: bool = False) -> float | None:
        """See that a timer (p, r) is the smallest legal one that is not below `seconds` (`most`: else the longest).
        What it is then. Nothing is written when it is so already: memory wears out. OrderError if it cannot be."""
        legal = sorted(int(v) for v in self._values(setting) if v.isdigit())
        fitting = [v for v in legal if v >= seconds] or (legal[-1:] if most else [])
        now_is, again = (apc.parse(setting, self._ask(setting)) for _ in range(2))
        if now_is != again:  # three digits have no check, and the load would go off at another time than asked
            raise OrderError(f"this UPS tells two delays {setting!r}: {now_is!r} and {again!r}; try again")
        if now_is is None and most:
            return None
        if now_is is None:
            raise OrderError(f"this UPS does not tell its delay {setting!r}")
        if not fitting:
            if int(now_is) >= seconds or most:
                return float(now_is)
            raise OrderError(f"this UPS waits {now_is} s and cannot be told to wait {seconds:g} s")
        if int(now_is) != fitting[0]:
            self._cycle(setting, next(v for v in self._values(setting) if v.isdigit() and int(v) == fitting[0]))
        return float(fitting[0])

    def _cycle(self, setting: bytes, wanted: str, *, unless: str = "") -> None:
        """Change a setting: `-` goes on to its next legal value, which is read back. `unless`: any other will do."""
        if not self._knows(b"-"):
            raise OrderError(f"the settings of this UPS cannot be changed; {setting!r} must be {wanted!r}")
        first = value = apc.parse(setting, self._ask(setting))
        for _ in range(max(4, len(self._values(setting)))):
            if value == wanted or (unless and wanted != unless and value != unless):
                return
            answer = apc.plain(self._ask(b"-", ANSWER_WITHIN_S + 0.5))
            if answer != b"OK":
                raise OrderError(f"this UPS does not let its setting {setting!r} be changed: {answer!r}")
            value = apc.parse(setting, self._ask(setting))
            if value == first:
                break
        if value != wanted:
            raise OrderError(f"the setting {setting!r} of this UPS does not become {wanted!r}")
