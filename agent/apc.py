"""What an APC Smart-UPS says on its serial line, and what it means.

Protocol: https://networkupstools.org/protocols/apcsmart.html. A question is one character, an answer ends with CR LF;
between them the unit may say an alert, one character without an end. Real answers with their sources:
tests/cases/apcsmart.json. Used by drivers/apcsmart.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntFlag

from .cards import Card
from .model import (
    Battery,
    Command,
    Condition,
    Flow,
    Ident,
    Line,
    LinkError,
    Rating,
    Sensor,
    Source,
    Status,
    Test,
    TestResult,
)

#: what a command needs the unit to know
NEEDS: Mapping[Command, frozenset[bytes]] = {
    Command.TEST_QUICK: frozenset((b"W",)),
    Command.TEST_DEEP: frozenset((b"D",)),
    Command.TEST_STOP: frozenset((b"D",)),
    Command.BEEPER_ON: frozenset((b"k", b"-")),
    Command.BEEPER_OFF: frozenset((b"k", b"-")),
    Command.SHUTDOWN_RETURN: frozenset((b"S",)),
    Command.SHUTDOWN_STAY_OFF: frozenset((b"K",)),
    Command.SHUTDOWN_STOP: frozenset(),  # units obey DEL without listing it
    Command.LOAD_OFF: frozenset((b"Z", b"\x0e")),  # what could not be switched on again is not switched off
    Command.LOAD_ON: frozenset((b"\x0e",)),
}
TENTHS_OF_HOUR_S, GRACE_S = 360.0, (0.0, 600.0)
#: the delays of a command, from and to
DELAYS: Mapping[Command, Mapping[str, tuple[float, float]]] = {
    Command.SHUTDOWN_RETURN: {"delay_s": GRACE_S, "return_delay_s": (0.0, 999 * TENTHS_OF_HOUR_S)},
    Command.SHUTDOWN_STAY_OFF: {"delay_s": GRACE_S},
}
#: the status cards; what each unit can do of these commands it says itself
CARDS = (
    Card(
        "Serial port with smart signalling",
        "Smart-UPS, Matrix-UPS and other units that answer `Y`",
        "a smart cable (940-0024C, 940-1524C, 940-0095B)",
        "complete",
        "real, NUT",
        frozenset(NEEDS),
        "off after its grace time, up to 600 s, read back; its countdown it shows nowhere; load off and on at once",
    ),
    Card("Serial port with smart signalling", "Symmetra (three phases), SPM", "", "untested", "none"),
)

ALERTS = b"!$%+?=*#&|"  # mains failed, back; battery low, ok; abnormal, ok; off now; replace; sensor; EEPROM changed
CAPABILITIES_LIMIT = 64

Value = float | int | str
Values = Mapping[bytes, Value]


class Bits(IntFlag):
    """The answer to Q."""

    CALIBRATING = 0x01
    TRIM = 0x02
    BOOST = 0x04
    ON_LINE = 0x08
    ON_BATTERY = 0x10
    OVERLOAD = 0x20
    BATTERY_LOW = 0x40
    REPLACE_BATTERY = 0x80


#: Register bits (questions ~ ' 8) -> what they mean to us
REGISTERS: Mapping[bytes, Mapping[int, Condition]] = {
    b"~": {0x02: Condition.ON_BYPASS, 0x08: Condition.ON_BYPASS, 0x20: Condition.ON_BYPASS},
    b"'": {
        0x01: Condition.FAN_FAILURE,
        0x02: Condition.FAN_FAILURE,
        0x04: Condition.BYPASS_BAD,
        0x08: Condition.GENERAL_FAULT,  # output voltage selection
        0x10: Condition.GENERAL_FAULT,  # DC imbalance
        0x40: Condition.GENERAL_FAULT,  # relay of trim or boost
        0x80: Condition.OUTPUT_BAD,
    },
    b"8": {
        0x01: Condition.BATTERY_DEPLETED,
        0x04: Condition.GENERAL_FAULT,  # main relay
        0x08: Condition.OUTPUT_OFF_AS_REQUESTED,  # asleep after @
        0x10: Condition.OUTPUT_OFF_AS_REQUESTED,  # after S
        0x20: Condition.CHARGER_FAILED,
        0x40: Condition.GENERAL_FAULT,  # bypass relay
        0x80: Condition.TEMPERATURE_BAD,
    },
}
TESTS: Mapping[str, Test] = {
    "OK": Test(result=TestResult.PASSED),
    "BT": Test(result=TestResult.FAILED, detail="the battery has too little capacity"),
    "NG": Test(result=TestResult.FAILED, detail="overload"),
    "NO": Test(detail="none within the last five minutes"),
}

_OLD = b"@79ABCDEFGKLMNOPQRSUVWXYZcefgjklmnopqrsuxz"
_OLDEST = b"@79ABCEFGKLMNOPQRSUVWXYZcfg"
_MATRIX = b"@789ABCDEFGKLMNOPQRSTUVWXYZcefgjklmnopqrsuwxz/<>\\^\x0c\x16"
#: asked in every poll, between two Q
MEASURES = (b"f", b"j", b"B", b"L", b"O", b"P", b"F", b"C", b"/", b"t", b"h")
#: asked in turn, as time allows -> how many seconds its answer is good for (LATE_S of the driver more)
FACTS: Mapping[bytes, float] = {
    b"b": 3600.0, b"V": 3600.0, b"\x01": 3600.0, b"n": 3600.0, b"X": 30.0, b"8": 15.0, b"'": 30.0, b"~": 15.0,
    b"g": 3600.0, b"o": 600.0, b"l": 600.0, b"u": 600.0, b"q": 600.0, b"k": 600.0,
}  # fmt: skip
#: asked whatever the list of commands says: some leave / out (NUT issue 757), and one damaged character of it shall
#: not cost charge and runtime
UNLISTED = frozenset((b"/", b"f", b"j"))
#: question that is asked seldom -> the place in a Status that it fills
PLACES: Mapping[bytes, str] = {
    **dict.fromkeys((b"b", b"V", b"\x01", b"n"), "ident"),
    **dict.fromkeys((b"g", b"o", b"l", b"u", b"q"), "rating"),
    **dict.fromkeys((b"8", b"'", b"~"), "flags"),
    b"X": "test",
    b"k": "beeper_on",
}
#: firmware (V, or b) of units that do not tell their commands (a) -> these (NUT, drivers/apcsmart_tabs.c)
COMMANDS_OF: Mapping[str, bytes] = {
    **dict.fromkeys(("0XI", "0XM"), _MATRIX),
    **dict.fromkeys(("0ZI", "5UI", "5ZM"), b"@79ABCDEFGKLMNOPQRSUVWXYZcefgjklmnopqrsuxz/<>"),
    **dict.fromkeys(("6QD", "6QI", "6TD", "6TI", "7QD", "7QI", "7TD", "7TI", "8QD", "8QI", "8TD", "8TI"), _OLD),
    **dict.fromkeys(("7II", "9II", "9GI", "8II"), _OLDEST),
    "8GI": b"@79ABCEFGKLMNOPQRSUVWXYZfg",
    "5.4.D": b"@\x01ABPQRSUYbdfgjmnx9",  # CS 350: cannot stay off (no K)
}

_NUMBER = re.compile(rb"-?\d{1,4}(\.\d{0,2})?")
_CHARGE = re.compile(rb"\d{3}\.\d")  # of fixed width, as the runtime: a lost byte must not make 0 of 100 or of 60
_RUNTIME = re.compile(rb"\d{4}:")
_MINUTES = re.compile(rb"\d{1,4}")
_HEX = re.compile(rb"[0-9A-F]{2}")
_TEXT = re.compile(rb"[\x20-\x7e]{1,64}")
_FIRMWARE = re.compile(rb"[0-9A-Za-z]{1,6}\.[0-9A-Za-z]{1,4}\.[0-9A-Za-z]")
_OLD_FIRMWARE = re.compile(rb"[0-9A-Z]{3}")
_CAUSE = re.compile(rb"[RHLTOS]")
_PROTOCOL = re.compile(rb"[!$%+?=*#&|]*([0-9A-Za-z])\.([^.]*)\.([^.]{3,200})(\..*)?", re.DOTALL)

#: question -> the form of its answer
FORMS: Mapping[bytes, re.Pattern[bytes]] = {
    **dict.fromkeys((b"B", b"C", b"F", b"L", b"O", b"P", b"g", b"h", b"l", b"o", b"t", b"u", b"/"), _NUMBER),
    **dict.fromkeys((b"p", b"r"), re.compile(rb"\d{2,3}")),
    b"f": _CHARGE,
    b"j": _RUNTIME,
    b"q": _MINUTES,
    **dict.fromkeys((b"Q", b"~", b"'", b"8"), _HEX),
    b"b": _FIRMWARE,
    b"V": _OLD_FIRMWARE,
    **dict.fromkeys((b"\x01", b"n"), _TEXT),
    b"G": _CAUSE,
    b"X": re.compile(b"OK|BT|NG|NO"),
    b"k": re.compile(b"[0TLN]"),
}


def plain(answer: bytes) -> bytes:
    """An answer without the alerts that came with it (not for `a` and ^Z, which hold such characters)."""
    return answer.translate(None, ALERTS)


def parse(question: bytes, answer: bytes) -> Value | None:
    """The answer to a question of FORMS, without its CR LF. None: this unit does not know the question (NA).

    Numbers are volts, amperes, hertz, per cent, degrees Celsius; j and q are minutes here and become seconds; Q and
    the registers are two hexadecimal digits and become an integer. LinkError, with the bytes, if it is anything else.
    """
    said, form = plain(answer), FORMS[question]
    if said == b"NA":
        return None
    if not form.fullmatch(said):
        raise LinkError(f"{question!r}: not an answer to it: {answer[:80]!r}")
    if form is _HEX:
        return int(said, 16)
    if form in (_RUNTIME, _MINUTES):
        return 60.0 * float(said.rstrip(b":"))
    if form in (_NUMBER, _CHARGE):
        return float(said)
    return " ".join(said.decode("ascii").split())


def parse_commands(answer: bytes) -> frozenset[bytes] | None:
    """The answer to a: `VERSION.ALERTS.COMMANDS[.TWO-BYTE-COMMANDS]`, as single characters. None: NA.

    LinkError, with the bytes, if it is anything else.
    """
    if plain(answer) == b"NA":
        return None
    found = _PROTOCOL.fullmatch(answer)
    if not found or b"Q" not in found[3]:
        raise LinkError(f"b'a': not an answer to it: {answer[:80]!r}")
    return frozenset(bytes((c,)) for c in found[3])


def parse_capabilities(answer: bytes) -> dict[tuple[str, str], tuple[str, ...]]:
    """The answer to ^Z: (question, locale) -> its legal values. LinkError if it does not begin as one.

    #uI43253264271280...
     ||||three characters each
     |||length of a value
     ||how many
     |locale: the last letter of the firmware (b), or 4 for all
     question

    A Matrix-UPS has ## before each group. Some units count wrong (NUT issue 1941): what follows is left out.
    """
    if answer[:1] != b"#":
        raise LinkError(f"^Z: not an answer to it: {answer[:80]!r}")
    matrix, at = answer[1:2] == b"#", 1
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    while len(found) < CAPABILITIES_LIMIT:
        at += (2 if at > 1 else 1) if matrix else 0
        head = answer[at : at + 4]
        count, length = (head[2] - 48, head[3] - 48) if len(head) == 4 else (0, 0)
        values = answer[at + 4 : at + 4 + count * length] if count in range(1, 10) and length in range(1, 10) else b""
        if not values or len(values) != count * length or not _TEXT.fullmatch(head + values[:60]):
            break
        texts = tuple(values[n : n + length].decode("latin-1") for n in range(0, len(values), length))
        found[chr(head[0]), chr(head[1])] = texts
        at += 4 + count * length
    return found


def source(bits: int, register: int = 0) -> Source:
    """What Q (and register 1, ~) says of the source. Both or neither of on line and on battery: it does not know."""
    on_line, on_battery = bool(bits & Bits.ON_LINE), bool(bits & Bits.ON_BATTERY)
    if bits == 0:
        return Source.NONE
    if on_line is on_battery:
        return Source.UNKNOWN
    if on_battery:
        return Source.BATTERY
    if any(register & bit for bit in REGISTERS[b"~"]):
        return Source.BYPASS
    return Source.BUCK if bits & Bits.TRIM else Source.BOOST if bits & Bits.BOOST else Source.MAINS


def low_twice(bits: int, before: int) -> int:
    """An answer to Q with low battery only if the one before says it, too: two digits have no check."""
    return bits & (before | ~Bits.BATTERY_LOW)


def look(bits: int, values: Values, *, taken_s: float) -> Status:
    """What Q and the other answers (question -> value; what the unit does not say is not there) mean together."""
    from_where = source(bits, _integer(values, b"~"))
    on_battery = from_where is Source.BATTERY
    flags = {
        condition
        for question, bits_of in REGISTERS.items()
        for bit, condition in bits_of.items()
        if _integer(values, question) & bit
    }
    facts = {
        Condition.LOW_BATTERY: bits & Bits.BATTERY_LOW,
        Condition.BATTERY_BAD: bits & Bits.REPLACE_BATTERY,
        Condition.OVERLOAD: bits & Bits.OVERLOAD,
        Condition.TEST_RUNNING: bits & Bits.CALIBRATING or (on_battery and values.get(b"G") == "S"),
        Condition.TEST_FAILED: values.get(b"X") in ("BT", "NG"),
    }
    frequency_hz = _number(values, b"F")
    return Status(
        taken_s=taken_s,
        source=from_where,
        inputs=(Line(voltage_v=_number(values, b"L"), frequency_hz=None if on_battery else frequency_hz),),
        outputs=(
            Line(
                voltage_v=_number(values, b"O"),
                frequency_hz=frequency_hz if on_battery else None,  # F is that of the inverter then
                current_a=_number(values, b"/"),
                load_pct=_number(values, b"P"),
            ),
        ),
        battery=Battery(
            charge_pct=_number(values, b"f"),
            runtime_s=_number(values, b"j"),
            voltage_v=_number(values, b"B"),
            flow=Flow.DISCHARGING if on_battery else None,
            low=bool(bits & Bits.BATTERY_LOW),
        ),
        ident=Ident(
            manufacturer="APC",
            model=_text(values, b"\x01"),
            firmware=_text(values, b"b") or _text(values, b"V"),
            serial=_text(values, b"n"),
        ),
        rating=Rating(
            output_voltage_v=_number(values, b"o"),
            battery_voltage_v=_number(values, b"g"),
            low_battery_s=_number(values, b"q"),
            low_transfer_v=_number(values, b"l"),
            high_transfer_v=_number(values, b"u"),
        ),
        sensors=_sensors(values),
        test=TESTS.get(_text(values, b"X") or ""),
        temperature_c=_number(values, b"C"),
        beeper_on=None if b"k" not in values else values[b"k"] != "N",
        flags=frozenset(flags | {condition for condition, so in facts.items() if so}),
    )


def _sensors(values: Values) -> tuple[Sensor, ...]:
    """The Measure-UPS card, if there is one."""
    temperature_c, humidity_pct = _number(values, b"t"), _number(values, b"h")
    if temperature_c is None and humidity_pct is None:
        return ()
    return (Sensor(name="Measure-UPS", temperature_c=temperature_c, humidity_pct=humidity_pct),)


def _number(values: Values, question: bytes) -> float | None:
    value = values.get(question)
    return float(value) if isinstance(value, (int, float)) else None


def _integer(values: Values, question: bytes) -> int:
    value = values.get(question)
    return value if isinstance(value, int) else 0


def _text(values: Values, question: bytes) -> str | None:
    value = values.get(question)
    return value if isinstance(value, str) and value.strip("-. ") else None
