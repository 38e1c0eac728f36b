"""Reads a UPS through the SNMP agent of its network card, or of another adapter, and gives it orders.

Sources: RFC 1157, RFC 3416 (operations), RFC 1628 and the makers' MIBs (agent/snmptables.py). Status card:
docs/drivers-snmp.md. A request to the link is the PDU's tag around its bindings (agent/snmplink.py).

    which objects there are      GETNEXT of what is just before each: no version fails as a whole for a missing one
    their values                 GET of those that are there
    alarms                       GETNEXT through the column, when their count is not 0
    orders                       SET
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .. import ber
from ..cards import Card
from ..model import Command, Condition, Driver, Link, LinkError, Option, OrderError, Status
from ..q1.orders import check_arguments, countdown_not_seen
from ..snmplook import Value, look, places, whole_oid
from ..snmptables import TABLES, Alarms, Table

log = logging.getLogger(__name__)

NAME, TITLE, LINK = "snmp", "SNMP agent of a UPS", "snmp"
OPTIONS: tuple[Option, ...] = (
    Option(
        name="mib",
        kind=str,
        default="auto",
        choices=("auto", *(table.name for table in TABLES)),
        help="which of the agent's tables is read",
    ),
)

_HOW = {  # of docs/drivers-snmp.md: state of reading it, evidence, limits of the orders
    "rfc1628": ("complete", "own, net-snmp", "back with the mains, at no set time"),
    "powernet": ("partial", "net-snmp", ""),
    "xups": ("partial", "net-snmp", "back with the mains; such a shutdown cannot be stopped"),
    "cyberpower": ("partial", "net-snmp", ""),
}
CARDS = tuple(
    Card(
        "Tables; an agent can do those of the commands whose objects it has, with a community that may write",
        table.title,
        f'by sysObjectID {", ".join(table.identities)}, or `mib = "{table.name}"`',
        *_HOW[table.name][:2],
        frozenset(table.orders),
        _HOW[table.name][2],
    )
    for table in TABLES
)

POLL_WITHIN_S, ASK_WITHIN_S, ORDER_WITHIN_S, PROBE_WITHIN_S = 4.5, 2.5, 1.2, 0.9
NAMES_AT_ONCE = 24  # with long texts their values still fit in one datagram
ALARMS_LIMIT = 72  # rows of a table of alarms; what is behind them is not looked at
LOOK_AGAIN_S = 60.0  # which objects there are
TEXT_LIMIT = 128
TOO_BIG, NO_SUCH_NAME = 1, 2
OFF_DELAY_S, RETURN_DELAY_S = (0.0, 7200.0), (0.0, 86400.0)
SYS_OBJECT_ID = "1.3.6.1.2.1.1.2.0"
ERRORS: Mapping[int, str] = {
    1: "too big", 2: "no such name", 3: "bad value", 4: "read only", 5: "general error", 6: "no access",
    7: "wrong type", 8: "wrong length", 9: "wrong encoding", 10: "wrong value", 11: "no creation",
    12: "inconsistent value", 13: "resource unavailable", 14: "commit failed", 15: "undo failed",
    16: "authorization error", 17: "not writable", 18: "inconsistent name",
}  # fmt: skip
_MAY_NOT = (2, 4, 6, 16, 17)
_SHUTDOWNS = (Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF)


def _before(arcs: ber.Oid) -> ber.Oid:
    """The name of which `arcs` is the next, if it is there at all."""
    return arcs[:-1] if arcs[-1] == 0 else (*arcs[:-1], arcs[-1] - 1)


def request(tag: int, names: Iterable[ber.Oid]) -> bytes:
    """A question for these names, as the link takes it."""
    return ber.tlv(tag, b"".join(ber.binding(ber.oid(name), b"\x05\x00") for name in names))


_PROBES = sorted((whole_oid(SYS_OBJECT_ID), *(whole_oid(table.probe) for table in TABLES)))
#: version 1: where a name has no next one the whole request fails, and what is behind it is left out
QUERIES = tuple(request(ber.GETNEXT, map(_before, _PROBES[:n])) for n in range(len(_PROBES), 0, -1))


def probe(link: Link) -> float:
    """How sure it is that the agent of a UPS is there."""
    try:
        return 1.0 if choose(_there(link, _PROBES, lambda: PROBE_WITHIN_S)[0], "auto") else 0.0
    except LinkError as e:
        log.debug("snmp: probe: %s", e)
        return 0.0


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The driver for the UPS of the agent at the end of `link`. Sends nothing yet. LinkError: no link."""
    if link is None:
        raise LinkError("driver snmp needs a connection")
    return Snmp(link, now, str(section.get("mib") or "auto"))


class _AlarmsLeft(LinkError):
    """All was said but some alarms."""


class Snmp:
    """The UPS of an SNMP agent."""

    off_return = "no"  # what is behind the agent nobody here knows
    wake_fd: int | None = None

    def __init__(self, link: Link, now: Callable[[], float], mib: str) -> None:
        self._link, self._now, self._mib = link, now, mib
        self._table: Table | None = None
        self._known: list[ber.Oid] = []
        self._alarm_rows: dict[str, list[ber.Oid]] = {}  # of each column, found so far
        self._looked_s = 0.0
        self._lock: float | None = None
        self.commands: frozenset[Command] = frozenset()

    def poll(self) -> Status:
        """All values within 4.5 s. LinkError also if the agent says that it has lost its UPS."""
        try:
            return self._poll()
        except _AlarmsLeft:
            raise
        except LinkError:
            self._known = []  # what is missing now may be there next time
            raise

    def _poll(self) -> Status:
        end_s = self._now() + POLL_WITHIN_S
        if self._table is None:
            found, _ = _there(self._link, _PROBES, lambda: self._left_s(end_s))
            self._table = choose(found, self._mib)
            if self._table is None:
                raise LinkError(f"the agent has no object of a UPS that is known here ({self._mib})")
            log.info("snmp: %s", self._table.title)
        table = self._table
        if not self._known or self._now() - self._looked_s >= LOOK_AGAIN_S:
            values, taken_s = self._look(table, end_s)
        else:
            values, taken_s = self._get(end_s)
            if any(name not in values for name in self._known):
                values, taken_s = self._look(table, end_s)
        alarms = {c for one in table.alarms for c in self._alarms(one, values, end_s)}
        if Condition.COMM_LOST in alarms:
            raise LinkError("the agent says that it has lost its UPS")
        status = look(table, places(table, values), frozenset(alarms), taken_s)
        self._lock = _whole(values.get(whole_oid("1.3.6.1.2.1.33.1.7.2.0")))
        self.commands = _commands(table, values)
        return status

    def order(self, command: Command, **args: Any) -> str | None:
        """Give an order (arguments: see model.Command). A word if no countdown is seen after it. OrderError: an
        argument is wrong, or the agent refuses it."""
        values = self._check(command, args)
        if self._table is None or command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        end_s = self._now() + POLL_WITHIN_S
        if any("lock" in step for step in self._table.orders[command]):
            name = whole_oid("1.3.6.1.2.1.33.1.7.2.0")
            read, _ = _values(self._link.ask(request(ber.GET, [name]), within_s=ORDER_WITHIN_S).data)
            self._lock = _whole(read.get(name))
        for step in self._table.orders[command]:
            bindings = b"".join(self._binding(part, values) for part in step.split())
            answer = self._link.ask(
                ber.tlv(ber.SET, bindings), limit_bytes=0, within_s=min(ORDER_WITHIN_S, self._left_s(end_s))
            )
            error, index = _values(answer.data)[1]
            if error:
                word = f"{ERRORS.get(error, error)}, object {index} of {step}"
                remedy = "; [ups] secret needs a community that may write" if error in _MAY_NOT else ""
                raise OrderError(f"the agent refused it: {word}{remedy}")
        parts = (part.partition("=") for step in self._table.orders[command] for part in step.split())
        timers = [whole_oid(name) for name, _, word in parts if word == "delay"]
        return (countdown_not_seen(lambda: self._count(timers, end_s), True) or None) if timers else None

    def _count(self, timers: list[ber.Oid], end_s: float) -> bool:
        """Whether what was written counts: -1 says that it does not."""
        answer = self._link.ask(request(ber.GET, timers), within_s=min(ORDER_WITHIN_S, self._left_s(end_s)))
        return all(value != -1 for value in _values(answer.data)[0].values())

    def close(self) -> None:
        """Give the socket back."""
        self._link.close()

    def _left_s(self, end_s: float) -> float:
        left_s = end_s - self._now()
        if left_s <= 0:
            raise LinkError(f"the agent did not say everything within {POLL_WITHIN_S:g} s")
        return min(left_s, ASK_WITHIN_S)

    def _look(self, table: Table, end_s: float) -> tuple[dict[ber.Oid, Value], float]:
        """Which of the table's objects there are, and their values."""
        names = sorted({whole_oid(row.oid) for row in table.rows})
        values: dict[ber.Oid, Value] = {}
        taken_s = self._now()
        for at in range(0, len(names), NAMES_AT_ONCE):
            found, said_s = _there(self._link, names[at : at + NAMES_AT_ONCE], lambda: self._left_s(end_s))
            values |= found
            taken_s = min(taken_s, said_s) if at else said_s
        self._known, self._looked_s = list(values), self._now()
        return values, taken_s

    def _get(self, end_s: float) -> tuple[dict[ber.Oid, Value], float]:
        """The values of the objects that were there; one that is no longer there is left out."""
        values: dict[ber.Oid, Value] = {}
        taken_s, waiting = self._now(), [
            self._known[at : at + NAMES_AT_ONCE] for at in range(0, len(self._known), NAMES_AT_ONCE)
        ]  # fmt: skip
        while waiting:
            names = waiting.pop()
            reply = self._link.ask(request(ber.GET, names), within_s=self._left_s(end_s))
            found, (error, _) = _values(reply.data)
            if error == TOO_BIG and len(names) > 1:
                waiting += [names[: len(names) // 2], names[len(names) // 2 :]]
                continue
            if error and error != NO_SUCH_NAME:
                raise LinkError(f"the agent answers with an error: {ERRORS.get(error, error)}")
            values |= {name: found[name] for name in names if not error and name in found}
        return values, taken_s

    def _alarms(self, one: Alarms, values: Mapping[ber.Oid, Value], end_s: float) -> list[Condition]:
        """What the rows of a table of alarms say, as far as it is known here. _AlarmsLeft where there is no time for
        all of them: one may say that the agent has lost its UPS. What is behind each row that was found is asked for
        in one request, so the next poll is through with those at once."""
        if not _whole(values.get(whole_oid(one.total))):
            self._alarm_rows.pop(one.column, None)
            return []
        column, root = whole_oid(one.column), whole_oid(one.root)
        there: dict[ber.Oid, Value] = {}
        ask = [column, *self._alarm_rows.get(one.column, ())]
        asked = set(ask)
        while ask:
            part, ask = ask[:NAMES_AT_ONCE], ask[NAMES_AT_ONCE:]
            try:
                found = self._next(part, end_s)
            except LinkError as e:
                self._alarm_rows[one.column] = sorted({*there, *self._alarm_rows.get(one.column, ())})[:ALARMS_LIMIT]
                raise _AlarmsLeft(f"{e}; {len(there)} alarms are read so far") from e
            there |= {name: value for name, value in found.items() if name[: len(column)] == column}
            new = sorted(there.keys() - asked)[: max(0, ALARMS_LIMIT - len(asked))]
            ask, asked = ask + new, asked.union(new)
        self._alarm_rows[one.column] = sorted(there)
        said = [value for value in there.values() if isinstance(value, tuple) and value[:-1] == root]
        return [one.meaning[value[-1]] for value in said if value[-1] in one.meaning]

    def _next(self, names: list[ber.Oid], end_s: float) -> dict[ber.Oid, Value]:
        """What is behind each of the names, where there is something."""
        while names:
            reply = self._link.ask(request(ber.GETNEXT, names), within_s=self._left_s(end_s))
            found, (error, index) = _values(reply.data)
            if error == TOO_BIG and len(names) > 1:
                half = len(names) // 2
                return self._next(names[:half], end_s) | self._next(names[half:], end_s)
            if error == NO_SUCH_NAME and 1 <= index <= len(names):  # version 1: nothing is behind that one
                names = names[: index - 1] + names[index:]
                continue
            return {} if error else {name: value for name, value in found.items() if name > names[0]}
        return {}

    def _check(self, command: Command, args: Mapping[str, Any]) -> list[float]:
        if command is Command.SHUTDOWN_RETURN:
            return check_arguments(command, args, delay_s=OFF_DELAY_S, return_delay_s=RETURN_DELAY_S)
        if command is Command.SHUTDOWN_STAY_OFF:
            return check_arguments(command, args, delay_s=OFF_DELAY_S)
        return check_arguments(command, args) if command in self.commands else []

    def _binding(self, part: str, values: Sequence[float]) -> bytes:
        oid, _, word = part.partition("=")
        if word.startswith("."):
            value = ber.oid((*whole_oid("1.3.6.1.2.1.33.1"), *whole_oid(word[1:])))
        elif word == "delay":
            value = ber.integer(max(1, int(-(-values[0] // 1))))  # 0: for some at once, for others never
        elif word == "lock":
            if self._lock is None:
                raise OrderError("the agent does not say its upsTestSpinLock")
            value = ber.integer(int(self._lock))
        else:
            value = ber.integer(int(word))
        return ber.binding(ber.oid(whole_oid(oid)), value)


# --- the codec


def _there(link: Link, names: Sequence[ber.Oid], left_s: Callable[[], float]) -> tuple[dict[ber.Oid, Value], float]:
    """Those of the sorted `names` that are there, with their values, and when that was said."""
    end, said_s = len(names), 0.0
    while end:
        reply = link.ask(request(ber.GETNEXT, map(_before, names[:end])), within_s=left_s())
        said_s = reply.received_s
        found, (error, index) = _values(reply.data)
        if error == TOO_BIG and end > len(_PROBES):
            first, said_s = _there(link, names[: end // 2], left_s)
            second, _ = _there(link, names[end // 2 : end], left_s)
            return first | second, said_s
        if error == NO_SUCH_NAME and 1 <= index <= end:
            end = index - 1  # nothing is behind it, so neither behind those that come after it
            continue
        if error:
            raise LinkError(f"the agent answers with an error: {ERRORS.get(error, error)}")
        return {name: found[name] for name in names if name in found}, said_s
    return {}, said_s


def _values(answer: bytes) -> tuple[dict[ber.Oid, Value], tuple[int, int]]:
    """The values of an answer by name, without those that are not there; error-status and error-index."""
    try:
        error, at = ber.number(answer, 0, len(answer))
        index, at = ber.number(answer, at, len(answer))
        start, stop = ber.body(answer, at, len(answer), ber.SEQUENCE)
        found: dict[ber.Oid, Value] = {}
        for name, tag, body in ber.values(answer[start:stop]):
            value = _value(tag, body)
            if value is not None:
                found[ber.arcs(name)] = value
    except ber.Malformed as e:
        raise LinkError(f"no answer of SNMP: {e}") from e
    return found, (error, index)


def _value(tag: int, body: bytes) -> Value | None:
    if tag in (ber.INTEGER, ber.COUNTER32, ber.GAUGE32) and 1 <= len(body) <= 5:
        return float(int.from_bytes(body, "big", signed=tag == ber.INTEGER))
    if tag == ber.TIMETICKS and 1 <= len(body) <= 5:
        return int.from_bytes(body, "big") / 100
    if tag == ber.OCTET_STRING:
        text = body[:TEXT_LIMIT].decode("utf-8", "replace").rstrip("\0")
        return "".join(c for c in text if c.isprintable())
    return ber.arcs(body) if tag == ber.OBJECT_ID else None


def _whole(value: Value | None) -> float | None:
    return value if isinstance(value, float) else None


# --- meaning


def choose(found: Mapping[ber.Oid, Value], mib: str) -> Table | None:
    """The table that `mib` names, or that the agent calls itself after, or the first of which it has anything."""
    there = [table for table in TABLES if whole_oid(table.probe) in found and mib in ("auto", table.name)]
    said = found.get(whole_oid(SYS_OBJECT_ID))
    for table in there:
        for identity in map(whole_oid, table.identities):
            if isinstance(said, tuple) and said[: len(identity)] == identity:
                return table
    return there[0] if there else None


def _commands(table: Table, values: Mapping[ber.Oid, Value]) -> frozenset[Command]:
    """The orders whose objects the agent has; an object of which nothing is read is asked for by its value only."""
    return frozenset(
        command
        for command, steps in table.orders.items()
        if all(
            whole_oid(part.partition("=")[0]) in values
            for step in steps
            for part in step.split()
            if not part.partition("=")[2].startswith(".")
        )
    )
