"""A connected UPS of the Q1 family: finds its dialect, asks, adds up what the answers say, and gives orders."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..ages import older
from ..bridges import Timers
from ..link import NotSent, rest
from ..model import Command, Link, LinkError, OrderError, Status, Test, TestResult
from . import meaning
from .find import find, is_refusal
from .form import Facts
from .orders import check_arguments, countdown_not_seen, encode, example, remark
from .table import Dialect, Query

log = logging.getLogger(__name__)

POLL_WITHIN_S = 4.9
STATUS_WITHIN_S = 3.0
EXTRA_WITHIN_S = 1.5  # for what not every unit has
EXTRA_TRIES = 3
REST_S, KNOWN_REST_S = 60.0, 15.0  # then what is asked in each poll is left out; what it has answered before, shorter
AGAIN_S, AGAIN_LIMIT_S = 300.0, 6 * 3600.0  # and what is asked once, doubled each time
#: what a charge is guessed by counts for weeks, and its answer has no check: it is asked until it is said twice
TWICE = frozenset(("rated_battery_v", "battery_empty_v", "cells"))
#: so long a charge is not guessed of a unit that tells its own, or has not yet been heard on that: of the sagging
#: voltage in an outage it is another
GUESS_AFTER_S = 60.0
LATE_WITHIN_S = 1.0  # after silence the line is left alone for so long
COUNTS_DOWN = {
    Command.SHUTDOWN_RETURN: True,
    Command.SHUTDOWN_STAY_OFF: True,
    Command.SHUTDOWN_STOP: False,
}
ASK_WITHIN_S = 0.5  # what has less time left is not asked
ECHO_WITHIN_S = 1.0  # an order has no answer, or a short one; a refused one is echoed, mostly within this
ACKNOWLEDGED = (b"(ACK", b"ACK")  # what units say to an order that they obey, if anything (NUT, blazer.c)


class Unit:
    """One poll asks what the dialect says; the first polls also ask who the unit is, until answered or given up."""

    off_return = "no"  # no unit of this family was on a bench of ours
    wake_fd: int | None = None

    def __init__(self, link: Link, now: Callable[[], float], dialect: Dialect | None, cells: int | None) -> None:
        """`dialect` None: find out. `cells`: 2 V cells of the battery in series, as configured."""
        self._link, self._now, self._cells = link, now, cells
        self._dialect: Dialect | None = None
        self._commands: frozenset[Command] = frozenset()  # of the dialect, as far as the link can carry them
        self._known: Facts = {}  # what is asked once: it holds as long as the connection
        self._known_s: dict[str, float] = {}  # place (agent/ages.py) -> when it was said
        self._asking: dict[bytes, int] = {}  # what is still to be asked once, and how often
        self._again_s: dict[bytes, float] = {}  # what was given up -> not before this second
        self._failures: dict[bytes, int] = {}  # in a row, of what is asked in each poll; of the others: given up
        self._answered: set[bytes] = set()
        self._first: dict[bytes, Facts] = {}  # what is asked once has said, and must say again
        self._said: set[bytes] = set()  # that it was given up
        self._wants_cells = False  # that was said
        self._late = False  # an answer of this poll may still come
        self._took_s = 0.0  # its status: a unit that is slow needs so long for the others, too
        self._told: set[str] = set()  # facts that it ever told
        self._spoken_s = self._charge_s = -math.inf  # since it is understood; when it told its charge
        self._test = Test()
        self._stop_ordered = False
        self.odd: Facts = {}  # facts that were not plausible in the last poll: `ups.py` says so
        if dialect is not None:
            self._speak(dialect)

    @property
    def commands(self) -> frozenset[Command]:
        """What this unit can do; nothing before it has been understood."""
        needs = self._dialect.orders.needs if self._dialect is not None else {}
        lacks = {one for one, fact in needs.items() if not any(name.startswith(fact) for name in self._told)}
        return self._commands - lacks

    def poll(self) -> Status:
        """Ask and return, within 5 s. LinkError if the status has no answer, or nothing known speaks here.

        After silence, or what is no answer to the question, nothing more is asked: the answer may still come, and all
        that follow would be taken for that to the question after."""
        deadline_s = self._now() + POLL_WITHIN_S
        self._late = False
        dialect = self._dialect or self._speak(find(self._link))
        facts, taken_s = self._ask_status(dialect, deadline_s)
        for query in self._due(dialect):
            more = self._ask_again(query, deadline_s) or {}
            if dialect.doubt(facts, more) and self._ask_again(query, deadline_s) != more:
                more = {}
            facts = facts | more if query.only else more | facts
        self._asking |= {query.ask: 1 for query in dialect.once if self._is_over(query)}
        was_asking = bool(self._asking)
        for query in dialect.once:
            if query.ask in self._asking:
                said = self._ask_once(query, deadline_s) or {}
                self._known |= said
                self._known_s = dict.fromkeys({meaning.place(name) for name in said}, self._now()) | self._known_s
        self._told |= {name for name, value in {**self._known, **facts}.items() if value is not None}
        one_cell = meaning.per_cell(facts)
        facts["may_guess"] = self._may_guess(dialect, facts)
        facts = dialect.derive(meaning.with_battery({**self._known, **facts}, self._cells))
        self._test = self._test_after(facts)
        facts, self.odd = meaning.plausible(facts)
        if one_cell and facts["battery_v"] is None and was_asking and not self._asking and not self._wants_cells:
            self._wants_cells = True
            log.info("%s: volts per cell and no rating; set battery_cells to know the battery voltage", dialect.name)
        status = meaning.look(facts, test=self._test, taken_s=taken_s)
        places = (one for one in self._known_s.items() if one[0])
        return replace(status, older=older(places, taken_s))

    def _may_guess(self, dialect: Dialect, facts: Facts) -> bool:
        """Whether a charge that it does not say may be guessed: not for an answer that was only lost."""
        now_s = self._now()
        if facts.get("charge_pct") is not None:
            self._charge_s = now_s
        heard = self._answered | self._again_s.keys()
        unheard = any(query.ask not in heard for query in dialect.poll[1:] if not query.only)
        return now_s - max(self._charge_s, self._spoken_s if unheard else -math.inf) >= GUESS_AFTER_S

    def order(self, command: Command, **args: Any) -> str | None:
        """Give an order (arguments: see model.Command). A word if a delay was rounded up, a countdown is not seen, or
        the answer is neither yes nor no. OrderError: an argument out of range, or the unit echoed or NAKed it.
        LinkError: it cannot be read."""
        if self._dialect is None:
            raise OrderError("the UPS has not been understood yet")
        if command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        orders = self._dialect.orders
        if orders.toggle and command in (Command.BEEPER_ON, Command.BEEPER_OFF):
            check_arguments(command, args)
            self._set_beeper(self._dialect, orders.toggle, command is Command.BEEPER_ON)
            return None
        slave = str(self._known.get("slave", "00"))
        told, words, asked = encode(command, args, orders, slave), [], dict(args)
        bridge: Timers | None = getattr(self._link, "timers", None)
        if bridge is not None and COUNTS_DOWN.get(command):
            told = encode(command, {**args, "delay_s": max(args["delay_s"], bridge.off_min_s)}, orders)
            if asked.pop("return_delay_s", None) is not None:
                words = [f"back {bridge.back_s:g} s after the mains, whatever is asked"]
        elif bridge is not None and command is Command.LOAD_OFF:
            words = [f"off after {bridge.off_min_s:g} s, not at once"]
        facts, doubt = self._tell(self._dialect, told)
        self._stop_ordered = command is Command.TEST_STOP
        words += [remark(told, asked), doubt, self._not_seen(self._dialect, COUNTS_DOWN.get(command), facts)]
        return "; ".join(word for word in words if word)

    def close(self) -> None:
        """Give the line back."""
        self._link.close()

    def _speak(self, dialect: Dialect) -> Dialect:
        self._dialect, self._spoken_s = dialect, self._now()
        carries: Callable[[bytes], bool] = getattr(self._link, "carries", lambda command: True)
        orders = dialect.orders
        self._commands = frozenset(one for one in orders.commands if carries(example(one, orders)))
        self._asking = {query.ask: EXTRA_TRIES for query in dialect.once}
        return dialect

    def _ask_status(self, dialect: Dialect, deadline_s: float, order: bytes = b"") -> tuple[Facts, float]:
        """The facts, and when they were said. OrderError: what comes is the refusal of `order`, late."""
        query = dialect.poll[0]
        began_s = self._now()
        try:
            answer = self._link.ask(query.ask, within_s=min(STATUS_WITHIN_S, deadline_s - self._now()))
            if order and is_refusal(order, answer.data):
                self._leave_alone()
                raise OrderError(f"this UPS refused {order.decode().strip()}: {answer.data[:80]!r}")
            if is_refusal(query.ask, answer.data):
                raise LinkError(f"{_name(query)}: the unit refuses it: {answer.data[:80]!r}")
            self._took_s = answer.received_s - began_s
            return query.parse(answer.data), answer.received_s
        except LinkError:
            self._leave_alone()
            raise

    def _may_ask(self, left_s: float) -> bool:
        return not self._late and left_s >= min(EXTRA_WITHIN_S, max(ASK_WITHIN_S, self._took_s))

    def _leave_alone(self) -> None:
        self._late = True
        rest(self._link, LATE_WITHIN_S)

    def _due(self, dialect: Dialect) -> list[Query]:
        """What is asked in this poll after the status. Of what was given up the one that waits longest, at the end:
        after silence nothing more is asked."""
        wanted = [one for one in dialect.poll[1:] if not one.only or self._known.get("protocol") in one.only]
        over = [one for one in wanted if self._is_over(one)]
        due = [one for one in wanted if one.ask not in self._again_s]
        return due + sorted(over, key=lambda one: self._again_s[one.ask])[:1]

    def _is_over(self, query: Query) -> bool:
        return self._again_s.get(query.ask, math.inf) <= self._now()

    def _give_up(self, query: Query, for_s: float, why: LinkError | None) -> None:
        self._again_s[query.ask] = self._now() + for_s
        if why is not None and query.ask not in self._said:
            self._said.add(query.ask)
            log.info("gave up asking %s: %s", _name(query), why)

    def _put_off(self, query: Query, why: LinkError | None) -> None:
        """What is asked once has had no good answer, and is asked again by and by."""
        times = self._failures.get(query.ask, 0)
        self._failures[query.ask] = min(times + 1, 16)
        self._give_up(query, min(AGAIN_S * 2**times, AGAIN_LIMIT_S), why)

    def _failed(self, query: Query, why: LinkError | None) -> None:
        """What is asked in each poll has had no good answer; `why` None: it was refused, which may be a question that
        was damaged if the unit has answered it before."""
        known = query.ask in self._answered
        self._failures[query.ask] = times = self._failures.get(query.ask, 0) + 1
        if times >= EXTRA_TRIES or (why is None and not known):
            self._give_up(query, KNOWN_REST_S if known else REST_S, why)

    def _ask_again(self, query: Query, deadline_s: float) -> Facts | None:
        """Ask what is asked in each poll. None: no good answer. Never an error: the status has just worked."""
        left_s = min(EXTRA_WITHIN_S, deadline_s - self._now())
        if not self._may_ask(left_s):
            return None
        try:
            answer = self._link.ask(query.ask, within_s=left_s).data
            if not is_refusal(query.ask, answer):
                facts = query.parse(answer)
                self._answered.add(query.ask)
                self._failures.pop(query.ask, None)
                self._again_s.pop(query.ask, None)
                return facts
            log.debug("%s: refused: %r", _name(query), answer[:80])
            self._failed(query, None)
        except LinkError as e:
            self._leave_alone()
            self._failed(query, e)
        return None

    def _ask_once(self, query: Query, deadline_s: float) -> Facts | None:
        """The same for what is asked until it is answered, refused, or given up: then by and by."""
        left_s = min(EXTRA_WITHIN_S, deadline_s - self._now())
        if not self._may_ask(left_s):
            return None
        facts: Facts | None = None
        try:
            answer = self._link.ask(query.ask, within_s=left_s).data
            if is_refusal(query.ask, answer):
                self._put_off(query, None)
            else:
                facts = query.parse(answer)
                self._again_s.pop(query.ask, None)
                if TWICE & facts.keys() and self._first.get(query.ask) != facts and self._asking[query.ask] > 1:
                    self._first[query.ask] = facts
                    self._asking[query.ask] -= 1
                    return facts
        except LinkError as e:
            self._leave_alone()
            self._asking[query.ask] -= 1
            if self._asking[query.ask] > 0:
                return None
            self._put_off(query, e)
        del self._asking[query.ask]
        return facts

    def _test_after(self, facts: Facts) -> Test:
        """The unit says when a test runs, not how it ended: ABORTED if we stopped it, else NONE and that it ran."""
        if facts.get("testing"):
            return Test(result=TestResult.RUNNING)
        if facts.get("test_result"):
            return Test(result=facts["test_result"])
        stopped, self._stop_ordered = self._stop_ordered, False
        if self._test.result is not TestResult.RUNNING:
            return self._test
        if stopped:
            return Test(result=TestResult.ABORTED)
        return Test(detail="ended; this UPS does not report a result")

    def _tell(self, dialect: Dialect, command: bytes) -> tuple[Facts, str]:
        """Send an order: silence is consent, unless the dialect acknowledges; an echo or NAK is a refusal. Then see
        that the unit is still there: what it says, and a word if it answered what is neither yes nor no."""
        try:
            answer = self._link.ask(command, within_s=ECHO_WITHIN_S).data
        except NotSent as e:
            raise OrderError(f"not given: {e}") from e
        except LinkError:
            answer = b""
        word = command.decode().strip()
        if answer and is_refusal(command, answer):
            raise OrderError(f"this UPS refused {word}: {answer[:80]!r}")
        try:
            facts, _ = self._ask_status(dialect, self._now() + STATUS_WITHIN_S, command)
        except LinkError as e:
            raise LinkError(f"{word} was sent, then: {e}") from e
        if dialect.orders.accepted and answer != dialect.orders.accepted:
            raise OrderError(f"this UPS did not acknowledge {word}, it may have done it")
        clear = not answer or answer.strip(b"\0 ") in ACKNOWLEDGED
        return facts, "" if clear else f"the answer to {word} says neither yes nor no: {answer[:80]!r}"

    def _not_seen(self, dialect: Dialect, wanted: bool | None, facts: Facts) -> str:
        """See countdown_not_seen; the first look is at `facts`, which came after the order."""
        given = iter((facts,))

        def counts() -> bool | None:
            found = next(given, None)
            if found is None:
                found = self._ask_status(dialect, self._now() + STATUS_WITHIN_S)[0]
            active = found.get("shutdown_active")
            return None if active is None else bool(active)

        return "" if wanted is None else countdown_not_seen(counts, wanted)

    def _set_beeper(self, dialect: Dialect, toggle: bytes, on: bool) -> None:
        """There is only a toggle: read, toggle, read again."""
        if self._beeper_on(dialect) is on:
            return
        self._tell(dialect, toggle + b"\r")
        if self._beeper_on(dialect) is not on:
            raise OrderError(f"this UPS did not switch its beeper {'on' if on else 'off'}")

    def _beeper_on(self, dialect: Dialect) -> bool | None:
        """By the first of the dialect's questions that tells it."""
        for query in dialect.poll:
            facts = query.parse(self._link.ask(query.ask, within_s=EXTRA_WITHIN_S).data)
            if "beeper_on" in facts:
                return bool(facts["beeper_on"])
        return None


def _name(query: Query) -> str:
    return query.ask.decode().strip()
