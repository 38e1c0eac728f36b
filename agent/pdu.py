"""Answers one SNMP request out of the table: GET, GETNEXT and GETBULK; a SET if the sender may.

Sources: RFC 1157 section 4.1 (version 1), RFC 3416 section 4.2 (version 2c), RFC 3584 section 4.4 (error codes of one
in the other). Every answer is made from one `Look`, and never longer than its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import ber, mib2
from .ber import COUNTER64, END_OF_MIB_VIEW, NO_SUCH_INSTANCE, NO_SUCH_OBJECT, OBJECT_ID, RESPONSE, V1, Header, Pdu
from .mib import Look, Table

NO_ERROR, TOO_BIG, NO_SUCH_NAME, BAD_VALUE, GEN_ERR, NO_ACCESS = 0, 1, 2, 3, 5, 6
ROUND_BYTES = 32  # at most so much of a message is around its prefix and bindings
BINDINGS_LIMIT = 128  # names in a request; more are answered tooBig
REPETITIONS_LIMIT = 256  # of a GETBULK; the budget ends it earlier
LEAST_BINDING_BYTES = 7  # so that no more is computed than could fit

_COUNTED = {
    ber.GET: mib2.IN_GETS,
    ber.GETNEXT: mib2.IN_GETNEXTS,
    ber.SET: mib2.IN_SETS,
    ber.RESPONSE: mib2.IN_RESPONSES,
    ber.TRAP_V2: mib2.IN_TRAPS,
}
_COUNTED_ERRORS = {
    1: mib2.IN_TOO_BIGS,
    2: mib2.IN_NO_SUCH_NAMES,
    3: mib2.IN_BAD_VALUES,
    4: mib2.IN_READ_ONLYS,
    5: mib2.IN_GEN_ERRORS,
}
_OUT_ERRORS = {NO_SUCH_NAME: mib2.OUT_NO_SUCH_NAMES, BAD_VALUE: mib2.OUT_BAD_VALUES, GEN_ERR: mib2.OUT_GEN_ERRS}
#: RFC 3584 section 4.4: what version 1 says instead; genErr for the others
_V1_ERRORS = {
    NO_ACCESS: NO_SUCH_NAME, 7: BAD_VALUE, 8: BAD_VALUE, 9: BAD_VALUE, 10: BAD_VALUE, 11: NO_SUCH_NAME,
    12: BAD_VALUE, 16: NO_SUCH_NAME, 17: NO_SUCH_NAME, 18: NO_SUCH_NAME,
}  # fmt: skip


Reply = Callable[[int, int], bytes | None]


class _NoSuchName(Exception):
    """Version 1: the whole request fails at this binding (counted from 1)."""


class _TooBig(Exception):
    """The answer does not fit its budget."""


class Later(Exception):
    """A SET that its sender may make: nothing is wrong with its form, and its answer has room. `pdu`, `triples` are
    what shall be set; `reply(error, index)` makes the answer of error-status (of version 2) and error-index. `seal`:
    its signature, and until which monotonic second it is believed; None: it has none."""

    def __init__(self, who: str, pdu: Pdu, triples: Sequence[tuple[bytes, int, bytes]], reply: Reply) -> None:
        super().__init__()
        self.who, self.pdu, self.triples, self.reply = who, pdu, triples, reply
        self.seal: tuple[bytes, float] | None = None

    def put_into(self, outer: Callable[[bytes], bytes]) -> None:
        """The answer belongs into another message."""
        made = self.reply

        def reply(error: int, index: int) -> bytes | None:
            inner = made(error, index)
            return None if inner is None else outer(inner)

        self.reply = reply


def answer(
    header: Header,
    pdu: Pdu,
    table: Table,
    look: Look,
    counts: list[int],
    budget_bytes: int,
    writer: str = "",
) -> bytes | None:
    """The reply to a request, at most `budget_bytes` long; None: there is none. Malformed if a name is malformed.

    `counts` are the counters of the snmp group; a request that the sender may not make is counted there too. `writer`
    is who may write, "": he may not. Later: that is what he wants, and it is for the caller to do.
    """
    tag, v1 = pdu.tag, header.version == V1
    if (counter := _COUNTED.get(tag)) is not None:
        counts[counter] += 1
    if tag == RESPONSE:
        if pdu.first in _COUNTED_ERRORS:
            counts[_COUNTED_ERRORS[pdu.first]] += 1
        return None
    handler = _HANDLERS.get(tag)
    if (handler is None and tag != ber.SET) or (v1 and tag == ber.GETBULK):
        return None
    try:
        if len(pdu.names) > BINDINGS_LIMIT:
            raise _TooBig
        if handler is None:
            return _set(header, pdu, counts, budget_bytes, writer)
        # around the bindings: three heads of four octets, error-status and error-index
        room = budget_bytes - len(header.prefix) - len(pdu.request_id) - 18
        bindings = handler(pdu, table, look, v1, room)
    except _NoSuchName as e:
        counts[mib2.OUT_NO_SUCH_NAMES] += 1
        return _reply(header, pdu, NO_SUCH_NAME, e.args[0], pdu.bindings, counts, budget_bytes)
    except _TooBig:
        counts[mib2.OUT_TOO_BIGS] += 1
        return _reply(header, pdu, TOO_BIG, 0, pdu.bindings if v1 else b"", counts, budget_bytes)
    counts[mib2.IN_TOTAL_REQ_VARS] += len(bindings)
    return _reply(header, pdu, NO_ERROR, 0, b"".join(bindings), counts, budget_bytes)


def _reply(
    header: Header, pdu: Pdu, error: int, index: int, bindings: bytes, counts: list[int], budget_bytes: int
) -> bytes | None:
    reply = ber.message(header.prefix, RESPONSE, pdu.request_id, error, index, bindings)
    if len(reply) > budget_bytes:
        counts[mib2.SILENT_DROPS] += 1
        return None
    return reply


def _set(header: Header, pdu: Pdu, counts: list[int], budget_bytes: int, writer: str) -> bytes | None:
    """Who may not write gets noAccess at the first name (RFC 3416 4.2.5 (1)), in version 1 noSuchName."""
    for name in pdu.names:
        ber.arcs(name)
    if not pdu.names:
        return _reply(header, pdu, NO_ERROR, 0, b"", counts, budget_bytes)
    if not writer:
        counts[mib2.IN_BAD_COMMUNITY_USES] += 1
        if header.version == V1:
            raise _NoSuchName(1)
        return _reply(header, pdu, NO_ACCESS, 1, pdu.bindings, counts, budget_bytes)
    if len(header.prefix) + len(pdu.bindings) + ROUND_BYTES > budget_bytes:
        raise _TooBig  # before anything is done that could not be answered
    triples = ber.values(pdu.bindings)
    for _, tag, body in triples:
        if tag == OBJECT_ID:
            ber.arcs(body)

    def reply(error: int, index: int) -> bytes | None:
        if error == NO_ERROR:
            counts[mib2.IN_TOTAL_SET_VARS] += len(pdu.names)
        elif header.version == V1:
            error = _V1_ERRORS.get(error, GEN_ERR)
        if error in _OUT_ERRORS:
            counts[_OUT_ERRORS[error]] += 1
        return _reply(header, pdu, error, index, pdu.bindings, counts, budget_bytes)

    raise Later(writer, pdu, triples, reply)


def _get(pdu: Pdu, table: Table, look: Look, v1: bool, room: int) -> list[bytes]:
    bindings = []
    for number, name in enumerate(pdu.names, start=1):
        position = table.index.get(name)
        binding = None
        if position is not None:
            if not (v1 and table.tags[position] == COUNTER64):
                binding = table.binding(position, look)
        else:
            ber.arcs(name)
            if look.lenient and (position := table.index.get(name + b"\0")) is not None:
                value = table.gets[position](look)
                binding = value and ber.binding(ber.tlv(OBJECT_ID, name), value)
        if binding is None:
            if v1:
                raise _NoSuchName(number)
            known = position is not None or table.knows(name)
            binding = ber.binding(ber.tlv(OBJECT_ID, name), NO_SUCH_INSTANCE if known else NO_SUCH_OBJECT)
        room -= len(binding)
        if room < 0:
            raise _TooBig
        bindings.append(binding)
    return bindings


def _getnext(pdu: Pdu, table: Table, look: Look, v1: bool, room: int) -> list[bytes]:
    """Version 1 has no 64 bit counters (RFC 3584 section 4.2.2.1): they are passed by."""
    bindings = []
    for number, name in enumerate(pdu.names, start=1):
        for at in range(table.after(name), len(table)):
            binding = table.binding(at, look)
            if binding is not None and not (v1 and table.tags[at] == COUNTER64):
                break
        else:
            if v1:
                raise _NoSuchName(number)
            binding = ber.binding(ber.tlv(OBJECT_ID, name), END_OF_MIB_VIEW)
        room -= len(binding)
        if room < 0:
            raise _TooBig
        bindings.append(binding)
    return bindings


def _getbulk(pdu: Pdu, table: Table, look: Look, _v1: bool, room: int) -> list[bytes]:
    """RFC 3416 section 4.2.3: as many bindings as fit; never tooBig."""
    bindings: list[bytes] = []
    singles = max(0, pdu.first)
    for names, wanted in ((pdu.names[:singles], 1), (pdu.names[singles:], pdu.second)):
        if not names or wanted <= 0:
            continue
        times = min(wanted, REPETITIONS_LIMIT, max(0, room) // (len(names) * LEAST_BINDING_BYTES) + 1)
        columns = [_column(table, look, name, times) for name in names]
        if len(columns) == 1:  # as in a walk
            found, end = columns[0]
            found = [*found, end] if end else found
        else:
            count = min(
                times, max(len(rows) for rows, _ in columns) + 1
            )  # once behind the last: a manager sees the end
            found = [rows[n] if n < len(rows) else end for n in range(count) for rows, end in columns]
        for binding in found:
            room -= len(binding)
            if room < 0:
                return bindings
            bindings.append(binding)
    return bindings


def _column(table: Table, look: Look, name: bytes, times: int) -> tuple[list[bytes], bytes]:
    """The bindings of at most so many rows behind a name; and, if there are fewer, what stands behind the last."""
    rows: list[bytes] = []
    kept, names, reached = look.kept, table.names, b""
    for at in range(table.after(name), len(names)):
        binding = kept.get(names[at]) or table.binding(at, look)  # the first is the short way of nearly all
        if binding is not None:
            reached = names[at]
            rows.append(binding)
            if len(rows) == times:
                return rows, b""
    return rows, ber.binding(reached or ber.tlv(OBJECT_ID, name), END_OF_MIB_VIEW)


_HANDLERS: dict[int, Callable[[Pdu, Table, Look, bool, int], list[bytes]]] = {
    ber.GET: _get,
    ber.GETNEXT: _getnext,
    ber.GETBULK: _getbulk,
}
