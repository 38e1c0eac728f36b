"""The table behind the SNMP agent: which rows there are, in which order, and how each makes its value.

A row knows its name and how to make its value out of one `Look`. A row whose value is None does not exist at that
moment: GET says so, GETNEXT passes by. The rows themselves come from `upsmib` and `mib2`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from . import ber
from .ber import COUNTER32, COUNTER64, OBJECT_ID, OCTET_STRING, TIMETICKS, Oid
from .model import Source, Status, View

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
UINT_MAX = 2**32 - 1

# --- what values are made from ----------------------------------------------------------------------------------


class Alarm(NamedTuple):
    """A row of the UPS alarm table: the condition's number in RFC 1628, and sysUpTime at its beginning."""

    number: int
    ticks: int


class Engine(NamedTuple):
    """Who we are in version 3."""

    id: bytes
    boots: int
    started_s: float  # monotonic second from which its time counts

    def time_s(self, now_s: float) -> int:
        """snmpEngineTime."""
        return int(now_s - self.started_s)


class Written(Protocol):
    """What managers have set, and is kept here."""

    @property
    def texts(self) -> Mapping[str, str]: ...  # by object, such as sysContact
    @property
    def spin_lock(self) -> int: ...
    @property
    def test_id(self) -> Oid | None: ...  # of the test that was started last
    @property
    def test_s(self) -> float: ...  # monotonic second of that
    @property
    def returns(self) -> bool: ...  # upsAutoRestart

    def countdown_s(self, name: str, now_s: float) -> int | None:
        """What is left of a countdown that was ordered here; None: there is none."""
        ...


NOTHING = Status(taken_s=0.0, source=Source.UNKNOWN)


class Look(NamedTuple):
    """Everything that one answer is made from, so that its values belong together."""

    view: View
    status: Status  # the view's, or NOTHING
    now_s: float  # monotonic
    started_s: float  # monotonic second at which the agent started
    kept: dict[bytes, bytes]  # the bindings that depend on the view alone, by name: `Table.binding` fills it
    host: str = ""
    alarms: Mapping[int, Alarm] = MappingProxyType({})  # by upsAlarmId
    interfaces: Mapping[int, Sequence[Any]] = MappingProxyType({})  # by ifIndex: the columns of ifTable
    counts: Sequence[int] = (0,) * 33  # of the snmp group, by the last arc of their name
    engine: Engine | None = None  # of version 3
    refused: Mapping[str, int] = MappingProxyType({})  # of version 3: messages, by the name of their counter
    written: Written | None = None
    auth_traps: bool = False
    lenient: bool = False  # a scalar may be asked for without its .0
    upsman: bool = False  # the private tree of GENEREX, too

    @property
    def ticks(self) -> int:
        """sysUpTime in 1/100 s."""
        return ticks(self.now_s, self.started_s)


def ticks(at_s: float, started_s: float) -> int:
    """The value of sysUpTime at a monotonic second, for an agent that started at another."""
    return int((at_s - started_s) * 100) & UINT_MAX if at_s > started_s else 0


# --- objects and rows -------------------------------------------------------------------------------------------

Value = Any  # int, float, str, bytes, Oid or None, as the object's type wants it


class Object(NamedTuple):
    """One scalar or column: its name, type, smallest and largest value (strings: length), and how it is read.

    `read` takes what its table is about (a Look, a Line, ...) and returns the value. With a `factor` it returns a
    measurement in the model's unit, a float or None, of which the MIB wants the multiple, rounded.
    """

    oid: Oid
    name: str
    tag: int
    low: int
    high: int
    read: Callable[..., Value]
    factor: float | None = None


class Row(NamedTuple):
    """One instance, and its value as TLV. `steady`: it depends on the view alone, not on the time or a counter."""

    oid: Oid
    get: Callable[[Look], bytes | None]
    tag: int
    steady: bool = False


def row(o: Object, index: int, value: Callable[[Look], Value], *, steady: bool = False) -> Row:
    """The instance `index` (0: a scalar) of an object. What is out of the object's range is clamped into it."""
    steady = steady or _is_of_view(value)
    if o.factor is not None:
        return Row((*o.oid, index), _measurement(o, value, o.factor), o.tag, steady)
    encode = _encoder(o)
    return Row((*o.oid, index), lambda look: encode(value(look)), o.tag, steady)


def _is_of_view(value: Callable[[Look], Value]) -> bool:
    """Is it an attribute of the view, or of its status, and nothing else?"""
    return isinstance(value, attrgetter) and value.__reduce__()[1][0].startswith(("view.", "status."))


def constant(o: Object, index: int, value: Value) -> Row:
    """An instance whose value stays the same as long as the row is there: encoded once."""
    data = _encoder(o)(value)
    return Row((*o.oid, index), lambda _: data, o.tag, steady=True)


def _measurement(o: Object, value: Callable[[Look], Value], factor: float) -> Callable[[Look], bytes | None]:
    """What most rows are: in as few calls as possible. No number (NaN, infinite) is as good as none."""
    low, high, small, isfinite = o.low, o.high, ber.SMALL_INTEGERS, math.isfinite

    def get(look: Look) -> bytes | None:
        v = value(look)
        if v is None or not isfinite(v := v * factor):
            return None
        n = round(v)
        n = low if n < low else high if n > high else n
        return small[n] if 0 <= n < 1024 else ber.integer(n)

    return get


def _encoder(o: Object) -> Callable[[Value], bytes | None]:
    tag, low, high = o.tag, o.low, o.high

    def number(v: Value) -> bytes | None:
        return None if v is None else ber.integer(low if v < low else high if v > high else v, tag)

    def wrapping(v: Value) -> bytes | None:
        return None if v is None else ber.integer(v & UINT_MAX, tag)

    def wide(v: Value) -> bytes | None:
        return None if v is None else ber.integer(v & 0xFFFFFFFFFFFFFFFF, tag)

    def text(v: Value) -> bytes | None:
        return None if v is None else ber.tlv(OCTET_STRING, v if isinstance(v, bytes) else display(v, high))

    def name(v: Value) -> bytes | None:
        return None if v is None else ber.oid(v)

    kinds = {COUNTER64: wide, COUNTER32: wrapping, TIMETICKS: wrapping, OCTET_STRING: text, OBJECT_ID: name}
    return kinds.get(tag, number)


def text(name: str) -> Callable[[Look], str]:
    """What a manager has set for this object; "" if nobody has."""
    return lambda look: look.written.texts.get(name, "") if look.written else ""


def display(text: str, limit: int) -> bytes:
    """A DisplayString (RFC 2579): printable ASCII; what is not becomes a question mark."""
    text = text[:limit]
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return "".join(c if " " <= c <= "~" else "?" for c in text).encode("ascii")


class Table:
    """The rows in the order of their names, found by the encoded name. Immutable; made anew when rows come or go."""

    def __init__(self, rows: Iterable[Row], objects: Iterable[Object]) -> None:
        ordered = sorted(rows, key=lambda r: r.oid)
        self.oids = [r.oid for r in ordered]
        self.gets = [r.get for r in ordered]
        self.tags = [r.tag for r in ordered]
        self._steady = [r.steady for r in ordered]
        bodies = [ber.oid_body(oid) for oid in self.oids]
        self.names = [ber.tlv(OBJECT_ID, body) for body in bodies]
        self.index = {body: position for position, body in enumerate(bodies)}
        self._objects = frozenset(ber.oid_body(o.oid) for o in objects)
        self._lengths = sorted({len(body) for body in self._objects})

    def __len__(self) -> int:
        return len(self.oids)

    def binding(self, position: int, look: Look) -> bytes | None:
        """The row at a position as a variable binding; None if it has no value now."""
        name = self.names[position]
        found = look.kept.get(name)
        if found is None and (value := self.gets[position](look)) is not None:
            found = ber.binding(name, value)
            if self._steady[position]:
                look.kept[name] = found
        return found

    def after(self, name: bytes) -> int:
        """The position of the first row behind an encoded name. Malformed if the name is not one."""
        position = self.index.get(name)
        # encoded names do not sort as names do once an arc needs three octets
        return bisect_right(self.oids, ber.arcs(name)) if position is None else position + 1

    def knows(self, name: bytes) -> bool:
        """Whether an encoded name lies within one of our objects (RFC 3416: noSuchInstance, not noSuchObject)."""
        return any(name[:length] in self._objects for length in self._lengths)
