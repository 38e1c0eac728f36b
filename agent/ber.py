"""Reads and writes SNMP version 1 and 2c messages: the few BER forms that they use, and no others.

Source: X.690 (BER), RFC 1157 (SNMPv1 message), RFC 3416 (SNMPv2 PDUs), RFC 2578 section 7.1 (value ranges).

    Message ::= SEQUENCE { version INTEGER, community OCTET STRING, PDU }
    PDU     ::= [n] { request-id INTEGER, error-status INTEGER, error-index INTEGER,
                      SEQUENCE OF SEQUENCE { name OBJECT IDENTIFIER, value ANY } }

A TLV is tag, length, body. Names stay encoded bodies (bytes) as long as possible: the agent's table knows its rows
by them. Whatever is not exactly of this form raises `Malformed`; nothing here reads beyond the datagram, recurses,
or takes longer than its length allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

INTEGER, OCTET_STRING, NULL, OBJECT_ID, SEQUENCE = 0x02, 0x04, 0x05, 0x06, 0x30
IP_ADDRESS, COUNTER32, GAUGE32, TIMETICKS, COUNTER64 = 0x40, 0x41, 0x42, 0x43, 0x46

NO_SUCH_OBJECT, NO_SUCH_INSTANCE, END_OF_MIB_VIEW = b"\x80\x00", b"\x81\x00", b"\x82\x00"

GET, GETNEXT, RESPONSE, SET, TRAP_V1, GETBULK, INFORM, TRAP_V2, REPORT = range(0xA0, 0xA9)

_NULL = b"\x05\x00"  # the value in a question

V1, V2C, V3 = 0, 1, 3

ARCS_LIMIT = 128  # RFC 2578 section 3.5
OID_LIMIT_BYTES = 5 * ARCS_LIMIT
INTEGER_LIMIT_BYTES = 5  # an unsigned 32 bit number with its leading zero
LENGTH_LIMIT_BYTES = 4
REMEMBERED, REMEMBERED_BYTES = 512, 256  # so many questions, if they are no longer; a whole walk is some 250

Oid = tuple[int, ...]
T = TypeVar("T")


class Malformed(Exception):
    """The bytes are not the message that they should be; the text says what is wrong, at which offset."""


class Header(NamedTuple):
    """What is read before the sender is known to be allowed in."""

    version: int  # as sent; V1, V2C, or something else
    community: bytes
    prefix: bytes  # the version and community TLVs as sent, for the reply
    pdu_at: int


class Pdu(NamedTuple):
    """A request. `first` and `second` are error-status and error-index, or non-repeaters and max-repetitions."""

    tag: int
    request_id: bytes  # the TLV as sent, for the reply
    first: int
    second: int
    names: tuple[bytes, ...]  # OBJECT IDENTIFIER bodies, not yet checked: see `arcs`
    bindings: bytes  # the variable bindings as sent, without the SEQUENCE around them


# --- writing ----------------------------------------------------------------------------------------------------


def tlv(tag: int, body: bytes) -> bytes:
    """Tag, the shortest length, body."""
    size = len(body)
    if size < 128:
        return bytes((tag, size)) + body
    if size < 256:
        return bytes((tag, 0x81, size)) + body
    return bytes((tag, 0x82, size >> 8, size & 0xFF)) + body  # no datagram is longer than 65535


_SHORT_HEADS = [bytes((SEQUENCE, size)) for size in range(128)]


def binding(name: bytes, value: bytes) -> bytes:
    """One variable binding of two TLVs."""
    both = name + value
    return _SHORT_HEADS[len(both)] + both if len(both) < 128 else tlv(SEQUENCE, both)


def integer(value: int, tag: int = INTEGER) -> bytes:
    """A whole number as TLV, in the fewest octets; unsigned types have the same form with a value >= 0."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return bytes((tag, size)) + value.to_bytes(size, "big", signed=True)


#: what a UPS says most: volts, percent, enumerations; and error-status and error-index
SMALL_INTEGERS = tuple(integer(value) for value in range(1024))


def oid_body(arcs_: Oid) -> bytes:
    """The body of an OBJECT IDENTIFIER of at least two arcs."""
    out = bytearray()
    for arc in (arcs_[0] * 40 + arcs_[1], *arcs_[2:]):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        out += bytes(reversed(septets))
    return bytes(out)


@lru_cache(maxsize=REMEMBERED)
def oid(arcs_: Oid) -> bytes:
    """An OBJECT IDENTIFIER as TLV."""
    return tlv(OBJECT_ID, oid_body(arcs_))


_NO_ERROR = integer(0) + integer(0)


def message(prefix: bytes, tag: int, request_id: bytes, first: int, second: int, bindings: bytes) -> bytes:
    """A whole message from the TLVs of `Header.prefix` and `Pdu.request_id` and the bindings' TLVs."""
    numbers = _NO_ERROR if first == second == 0 else integer(first) + integer(second)
    listed = len(bindings)
    inner = len(request_id) + len(numbers) + 2 + listed
    outer = len(prefix) + 2 + inner
    if outer < 128:  # as most replies
        parts = (outer, prefix, tag, inner, request_id, numbers, listed, bindings)
        return b"\x30%c%b%c%c%b%b\x30%c%b" % parts
    pdu = tlv(tag, request_id + numbers + tlv(SEQUENCE, bindings))
    return tlv(SEQUENCE, prefix + pdu)


# --- reading ----------------------------------------------------------------------------------------------------


def head(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Tag, start and stop of the body of the TLV at `at`. Lengths may be longer than needed (net-snmp's are)."""
    start = at + 2
    if start > end:
        raise Malformed(f"ends in a tag at {at}: {data[at:end].hex()}")
    size = data[at + 1]
    if size > 127:
        octets = size & 127
        if not 1 <= octets <= LENGTH_LIMIT_BYTES or start + octets > end:
            raise Malformed(f"impossible length at {at}: {data[at : at + 6].hex()}")
        size = int.from_bytes(data[start : start + octets], "big")
        start += octets
    stop = start + size
    if stop > end:
        raise Malformed(f"length at {at} exceeds what surrounds it: {data[at : at + 6].hex()}")
    return data[at], start, stop


def body(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Start and stop of the body of the TLV at `at`, which must have this tag."""
    start = at + 2
    if start <= end and data[at] == tag and (stop := start + data[at + 1]) <= end and stop - start < 128:
        return start, stop  # as nearly always; the rest is for long lengths and for saying what is wrong
    found, start, stop = head(data, at, end)
    if found != tag:
        raise Malformed(f"tag {found:02x} at {at} instead of {tag:02x}")
    return start, stop


def bodies(data: bytes, at: int, end: int, tags: Sequence[int]) -> tuple[list[bytes], list[int]]:
    """The bodies of TLVs with these tags, one behind the other, the last up to `end`; and where each starts."""
    found, starts = [], []
    for tag in tags:
        start = at + 2
        if start <= end and data[at] == tag and (size := data[at + 1]) < 128 and start + size <= end:
            at = start + size
        else:
            start, at = body(data, at, end, tag)
        found.append(data[start:at])
        starts.append(start)
    if at != end:
        raise Malformed(f"{end - at} octets too many at {at}")
    return found, starts


def whole(octets: bytes) -> int:
    """The number in the body of an INTEGER."""
    if len(octets) == 1 and octets[0] < 128:
        return octets[0]
    if not 1 <= len(octets) <= INTEGER_LIMIT_BYTES:
        raise Malformed(f"integer of {len(octets)} octets: {octets[:16].hex()}")
    return int.from_bytes(octets, "big", signed=True)


def number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The INTEGER at `at`, and where it stops."""
    start, stop = body(data, at, end, INTEGER)
    return whole(data[start:stop]), stop


def read_header(data: bytes) -> Header:
    """Version and community of a datagram; of version 3 nothing more. Malformed if it is not one whole message."""
    start, stop = body(data, 0, len(data), SEQUENCE)
    if stop != len(data):
        raise Malformed(f"{len(data) - stop} octets after the message")
    version, at = number(data, start, stop)
    if version == V3:
        return Header(version, b"", b"", at)
    community_at, pdu_at = body(data, at, stop, OCTET_STRING)
    return Header(version, data[community_at:pdu_at], data[start:pdu_at], pdu_at)


def read_pdu(data: bytes, at: int) -> Pdu:
    """The PDU at `at`, which ends the datagram. Malformed if it has any other form than the one drawn above."""
    end = len(data)
    tag, at, stop = head(data, at, end)
    if not GET <= tag <= REPORT or tag == TRAP_V1:
        raise Malformed(f"no PDU that we know: tag {tag:02x}")
    if stop != end:
        raise Malformed(f"{end - stop} octets after the PDU")
    asked_at = number(data, at, end)[1]
    request_id = data[at:asked_at]
    first, at = number(data, asked_at, end)
    second, at = number(data, at, end)
    at, stop = body(data, at, end, SEQUENCE)
    if stop != end:
        raise Malformed(f"{end - stop} octets after the variable bindings")
    names, bindings = [], data[at:]
    while at < end:
        start, stop = body(data, at, end, SEQUENCE)
        name_start, name_stop = body(data, start, stop, OBJECT_ID)
        if data[name_stop:stop] != _NULL and head(data, name_stop, stop)[2] != stop:
            raise Malformed(f"octets after the value in the binding at {at}")
        names.append(data[name_start:name_stop])
        at = stop
    return Pdu(tag, request_id, first, second, tuple(names), bindings)


class Questions(Generic[T]):
    """Requests as they were read. Managers ask the same again and again: only the octets of the request-id differ.

    What is found agrees with the readers above, because it is theirs: it was read from octets that were the same but
    for those, and whatever they are, they are a number: no more than four, as many as before.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[T, Pdu]] = {}

    def find(self, data: bytes) -> tuple[T, Pdu] | None:
        """A question that was asked before, with the request-id of this one."""
        at, stop = _request_id(data)
        found = self._kept.get(data[:at] + data[stop:])
        if found is None:
            return None
        before, (tag, _, first, second, names, bindings) = found
        # as Pdu(...) does it, without its detour: the way of nearly every request
        return before, tuple.__new__(Pdu, (tag, data[at - 2 : stop], first, second, names, bindings))

    def keep(self, data: bytes, pdu_at: int, before: T, pdu: Pdu) -> None:
        """Keep what was read of these octets: the PDU at `pdu_at`, and what is `before` it."""
        at = head(data, pdu_at, len(data))[1] + 2
        stop = at + len(pdu.request_id) - 2
        if len(data) > REMEMBERED_BYTES or stop > at + 4 or (at, stop) != _request_id(data):
            return  # or it is written in an unusual way
        if len(self._kept) >= REMEMBERED:
            del self._kept[next(iter(self._kept))]  # the oldest
        self._kept[data[:at] + data[stop:]] = before, pdu


def _request_id(data: bytes) -> tuple[int, int]:
    """Where the request-id's octets begin and end, if this is SEQUENCE { two short TLVs, PDU } as it should be. It is
    only a guess, from octets before that place."""
    try:
        size = data[1]
        at = 2 if size < 128 else size - 126
        at += 2 + data[at + 1]
        at += 2 + data[at + 1]
        size = data[at + 1]
        at += 4 if size < 128 else size - 124
        return at, at + data[at - 1]
    except IndexError:
        return 0, 0


def values(bindings: bytes) -> list[tuple[bytes, int, bytes]]:
    """Name, tag and body of the value of each of `Pdu.bindings`."""
    found, at, end = [], 0, len(bindings)
    while at < end:
        start, at = body(bindings, at, end, SEQUENCE)
        name_start, name_stop = body(bindings, start, at, OBJECT_ID)
        tag, value_start, value_stop = head(bindings, name_stop, at)
        found.append((bindings[name_start:name_stop], tag, bindings[value_start:value_stop]))
    return found


def arcs(name: bytes) -> Oid:
    """The arcs of an OBJECT IDENTIFIER body. Malformed: empty, cut off, padded, too many or too large arcs."""
    if not 0 < len(name) <= OID_LIMIT_BYTES or name[-1] > 127:
        raise Malformed(f"impossible object identifier: {name[:16].hex()} ({len(name)} octets)")
    found = []
    arc = 0
    for octet in name:
        if arc == 0 and octet == 0x80:
            raise Malformed(f"padded arc in object identifier: {name[:16].hex()}")
        arc = arc << 7 | octet & 0x7F
        if arc > 0xFFFFFFFF:
            raise Malformed(f"arc over 32 bits in object identifier: {name[:16].hex()}")
        if octet < 128:
            found.append(arc)
            arc = 0
    if len(found) >= ARCS_LIMIT:
        raise Malformed(f"object identifier of {len(found) + 1} arcs")
    root = min(2, found[0] // 40)
    return (root, found[0] - 40 * root, *found[1:])
