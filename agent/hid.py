"""Reads what a USB power device says about its own reports, and takes values out of them by their path.

A report descriptor is a little program: items set values (globals persist, locals last until the next main item), and
main items make fields out of them. Source: USB-IF, Device Class Definition for HID 1.11, 6.2.2; where real units
differ from it, the rule below says so, and tests/cases/hid has the unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from . import usages
from .model import LinkError

DESCRIPTOR_LIMIT_BYTES = 4096  # Linux takes no longer one either (HID_MAX_DESCRIPTOR_SIZE)
REPORT_LIMIT_BITS = 8 * 1024  # of one report; the longest of a real UPS has 63 bytes
FIELDS_LIMIT = 4096
DEPTH_LIMIT = 16  # collections in each other
STACK_LIMIT = 8  # Push
USAGES_LIMIT = 256  # of one main item
FIELD_LIMIT_BITS = 32  # a longer one is no number and only moves the offset

KINDS = {0x80: "input", 0x90: "output", 0xB0: "feature"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One number in a report. `offset` counts bits behind the report id byte."""

    kind: str  # input | output | feature
    report: int
    offset: int
    bits: int
    path: tuple[int, ...]
    low: int
    high: int
    physical: tuple[int, int] | None
    unit: int
    exponent: int
    constant: bool  # it cannot be written

    @property
    def usage(self) -> int:
        return self.path[-1]

    def __str__(self) -> str:
        return f"{usages.text(self.path)} ({self.kind} {self.report:#04x}, bit {self.offset}, {self.bits} bits)"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """All fields in their order, and how many bytes each (kind, report id) has, the id byte included."""

    fields: tuple[Field, ...]
    lengths: Mapping[tuple[str, int], int]
    numbered: bool  # reports begin with an id byte on the wire

    def find(self, path: tuple[int, ...], kind: str) -> Field | None:
        """The first field of this path and kind."""
        return next((f for f in self.fields if f.path == path and f.kind == kind), None)


@dataclass(slots=True)
class _Globals:
    page: int = 0
    low: int | None = None
    high: int | None = None
    high_unsigned: int | None = None
    physical_low: int | None = None
    physical_high: int | None = None
    exponent: int = 0
    unit: int = 0
    size: int = 0
    count: int = 0
    report: int = 0

    def copy(self) -> _Globals:
        return _Globals(*(getattr(self, name) for name in _Globals.__slots__))


@dataclass(slots=True)
class _Locals:
    usages: list[int] = field(default_factory=list)
    first: int | None = None  # Usage Minimum


def parse(data: bytes) -> Descriptor:
    """The descriptor of a unit. LinkError if it is cut off, unbalanced, or larger than any real one; time and memory
    are bounded by the limits above.

    Short item: 1 byte tag (6 bits) and size (2 bits: 0, 1, 2, 4 bytes), then the data, least byte first.
    Long item: FE, size, tag, data; none is defined, so they are passed over.
    """
    if len(data) > DESCRIPTOR_LIMIT_BYTES:
        raise LinkError(f"report descriptor of {len(data)} bytes; the limit is {DESCRIPTOR_LIMIT_BYTES}")
    return _Parser(data).run()


class _Parser:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._globals = _Globals()
        self._locals = _Locals()
        self._stack: list[_Globals] = []
        self._path: list[tuple[int, ...]] = []  # what each open collection adds to the path
        self._fields: list[Field] = []
        self._bits: dict[tuple[str, int], int] = {}
        self._numbered = False

    def run(self) -> Descriptor:
        for place, tag, body in self._items():
            if tag & 0x0C == 0x00:
                self._main(place, tag, body)
                self._locals = _Locals()
            elif tag & 0x0C == 0x04:
                self._global(place, tag, body)
            elif tag & 0x0C == 0x08:
                self._local(place, tag, body)
        if self._path:
            raise LinkError(f"report descriptor: {len(self._path)} collections are not closed: {self._shown(0)}")
        if not self._fields:
            raise LinkError(f"report descriptor: describes no field: {self._shown(0)}")
        lengths = {key: 1 + (bits + 7) // 8 for key, bits in self._bits.items()}
        return Descriptor(tuple(self._fields), lengths, self._numbered)

    def _items(self) -> Iterator[tuple[int, int, bytes]]:
        data, place = self._data, 0
        while place < len(data):
            head = data[place]
            if head == 0xFE:
                size, begin = (data[place + 1] if place + 1 < len(data) else 0), place + 3
            else:
                size, begin = (0, 1, 2, 4)[head & 3], place + 1
            if begin + size > len(data):
                raise LinkError(f"report descriptor: cut off in the item at byte {place}: {self._shown(place)}")
            if head != 0xFE:
                yield place, head & 0xFC, data[begin : begin + size]
            place = begin + size

    def _shown(self, place: int) -> str:
        return self._data[place : place + 16].hex(" ")

    def _global(self, place: int, tag: int, body: bytes) -> None:
        """Minima and maxima are signed by their own size in bytes; sizes, counts and ids never are."""
        now = self._globals
        plain, signed = int.from_bytes(body, "little"), int.from_bytes(body, "little", signed=True)
        if tag == 0x04:
            now.page = plain
        elif tag == 0x14:
            now.low = signed
        elif tag == 0x24:
            now.high, now.high_unsigned = signed, plain
        elif tag == 0x34:
            now.physical_low = signed
        elif tag == 0x44:
            now.physical_high = signed
        elif tag == 0x54:  # four bits, signed; some units send the whole byte
            now.exponent = (plain & 0x0F) - 16 if plain & 0x08 else plain & 0x0F
        elif tag == 0x64:
            now.unit = plain
        elif tag == 0x74:
            now.size = plain
        elif tag == 0x84:
            if not 1 <= plain <= 255:
                raise LinkError(f"report descriptor: report id {plain} at byte {place}: {self._shown(place)}")
            now.report, self._numbered = plain, True
        elif tag == 0x94:
            now.count = plain
        elif tag == 0xA4:
            if len(self._stack) >= STACK_LIMIT:
                raise LinkError(f"report descriptor: more than {STACK_LIMIT} Push at byte {place}")
            self._stack.append(now.copy())
        elif tag == 0xB4:
            if not self._stack:
                raise LinkError(f"report descriptor: Pop without Push at byte {place}: {self._shown(place)}")
            self._globals = self._stack.pop()

    def _local(self, place: int, tag: int, body: bytes) -> None:
        plain = int.from_bytes(body, "little")
        usage = plain if len(body) == 4 else self._globals.page << 16 | plain
        if tag == 0x08:
            self._use(place, [usage])
        elif tag == 0x18:
            self._locals.first = usage
        elif tag == 0x28 and self._locals.first is not None:
            if usage - self._locals.first >= USAGES_LIMIT:
                raise LinkError(f"report descriptor: too many usages at byte {place}: {self._shown(place)}")
            self._use(place, list(range(self._locals.first, usage + 1)))
            self._locals.first = None

    def _use(self, place: int, more: list[int]) -> None:
        if len(self._locals.usages) + len(more) > USAGES_LIMIT:
            raise LinkError(f"report descriptor: too many usages at byte {place}: {self._shown(place)}")
        self._locals.usages += more

    def _main(self, place: int, tag: int, body: bytes) -> None:
        if tag == 0xA0:
            if len(self._path) >= DEPTH_LIMIT:
                raise LinkError(f"report descriptor: more than {DEPTH_LIMIT} collections in each other")
            kind = body[0] if body else 0
            index = (usages.INDEX | kind & 0x7F,) if kind > 0x80 else ()  # Eaton: Outlet.[1], Flow.[4]
            self._path.append((*self._locals.usages[:1], *index))
        elif tag == 0xC0:
            if not self._path:
                raise LinkError(f"report descriptor: a collection ends that did not begin, at byte {place}")
            self._path.pop()
        elif tag in KINDS:
            self._make(place, KINDS[tag], int.from_bytes(body, "little"))

    def _make(self, place: int, kind: str, flags: int) -> None:
        """Fields of one main item: the i-th takes the i-th usage, and those beyond the list the last one."""
        now, names = self._globals, self._locals.usages
        key = kind, now.report
        offset = self._bits.get(key, 0)
        if offset + now.size * now.count > REPORT_LIMIT_BITS:
            raise LinkError(
                f"report descriptor: {kind} report {now.report:#04x} is longer than {REPORT_LIMIT_BITS // 8} bytes: "
                f"{now.count} times {now.size} bits at byte {place}"
            )
        self._bits[key] = offset + now.size * now.count
        if not names or not 1 <= now.size <= FIELD_LIMIT_BITS:
            return
        if len(self._fields) + now.count > FIELDS_LIMIT:
            raise LinkError(f"report descriptor: more than {FIELDS_LIMIT} fields")
        low, high = self._range()
        path = tuple(usage for added in self._path for usage in added)
        for number in range(now.count):
            made = Field(
                kind=kind,
                report=now.report,
                offset=offset + number * now.size,
                bits=now.size,
                path=(*path, names[min(number, len(names) - 1)]),
                low=low,
                high=high,
                physical=self._physical(),
                unit=now.unit,
                exponent=now.exponent,
                constant=bool(flags & 1),
            )
            self._fields.append(made)

    def _range(self) -> tuple[int, int]:
        """A maximum below a minimum that is not negative was meant without a sign (`25 ff`, APC BX and BK series, NUT
        issue 1208). Without a range (Liebert GXT4): all that the bits can hold."""
        now = self._globals
        if now.low is None or now.high is None or now.high_unsigned is None:
            return 0, (1 << now.size) - 1
        if now.low >= 0 and now.high < now.low:
            return now.low, now.high_unsigned
        return now.low, now.high

    def _physical(self) -> tuple[int, int] | None:
        """Both ends, if they say anything (0 and 0 mean: the logical range)."""
        low, high = self._globals.physical_low, self._globals.physical_high
        return (low, high) if low is not None and high is not None and high > low else None


# --- values ------------------------------------------------------------------------------------------------------


def raw(field: Field, report: bytes) -> int | None:
    """The number of `field` in `report` (id byte first), as it is there; None if the report is too short for it.

    Least bit first. Negative only if the unit's range is. Never forced into that range: a range may be inherited
    from another field by mistake (CyberPower, NUT issue 439).
    """
    if field.offset + field.bits > 8 * (len(report) - 1):
        return None
    value = int.from_bytes(report[1:], "little") >> field.offset & (1 << field.bits) - 1
    if field.low < 0 and value >> (field.bits - 1):
        value -= 1 << field.bits
    return value


def value(field: Field, report: bytes) -> float | None:
    """The number of `field` in SI units (V, A, Hz, W, VA, s, K or °C, A s) or plain; None as with `raw`."""
    number = raw(field, report)
    if number is None:
        return None
    if (scale := _scale(field)) is not None:
        per_step, base = scale
        number_si = (number - field.low) * per_step + base
    else:
        number_si = float(number)
    power = _power(field)
    return round(number_si * _ten(power) if power >= 0 else number_si / _ten(-power), 9)


def put(field: Field, amount: float, report: bytes) -> bytes:
    """`report` with `amount` (SI units) in the place of `field`. Rounded up to a step of the unit, so that a delay is
    never shorter than asked; -1 is written as -1. LinkError if it does not fit into the field's bits."""
    power = _power(field)
    steps = amount / _ten(power) if power >= 0 else amount * _ten(-power)
    if (scale := _scale(field)) is not None and amount >= 0:
        steps = (steps - scale[1]) / scale[0] + field.low
    number = -(-round(steps, 6) // 1)
    low, high = (-(1 << field.bits - 1), (1 << field.bits - 1) - 1) if field.low < 0 else (0, (1 << field.bits) - 1)
    if number == -1 and not field.low < 0:
        number = high
    if not low <= number <= high or field.offset + field.bits > 8 * (len(report) - 1):
        raise LinkError(f"{field}: {amount:g} does not fit")
    mask = (1 << field.bits) - 1
    body = int.from_bytes(report[1:], "little") & ~(mask << field.offset) | (int(number) & mask) << field.offset
    return report[:1] + body.to_bytes(len(report) - 1, "little")


def _scale(field: Field) -> tuple[float, int] | None:
    """(SI per step, SI at the lowest step), if the unit gives a physical range: timers of CyberPower and Tripp Lite
    count minutes that way."""
    if field.physical is None or field.high <= field.low or field.usage not in usages.KIND:
        return None
    low, high = field.physical
    return (high - low) / (field.high - field.low), low


def _power(field: Field) -> int:
    """The power of ten that makes SI of it. A unit that does not belong to the usage was left standing by an earlier
    field (APC CS 500 has volts at its string numbers) and counts for nothing, nor does its exponent."""
    kind = usages.KIND.get(field.usage)
    if kind is None:
        return 0
    code, one = usages.UNITS[kind]
    if field.unit == code:
        return field.exponent - one
    return 0


def _ten(power: int) -> float:
    return float(10**power)
