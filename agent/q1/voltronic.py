"""The dialects of Voltronic's UPSes: Pxx with QGS (one, two and three phases), QS (V, H) and the binary QS (P, T).

Sources: https://networkupstools.org/protocols/voltronic.html and voltronic-qs.html; NUT's nutdrv_qx_voltronic*.c.
Columns count from 0.
"""

from __future__ import annotations

import re

from ..model import LinkError
from . import orders
from .form import SHOWN_BYTES, Facts, form, letter
from .megatec import FLAGS, F
from .table import Dialect, Query

#: numbers that QPI may give: 00, 08 line-interactive; 01, 02 one phase; 03 three in, one out; 09 two, 10 three phases
PROTOCOLS = frozenset({"00", "01", "02", "03", "08", "09", "10", "13", "14", "31", "99"})
_P = re.compile(rb"\(P(?:I)?(\d\d)")
_AVR = frozenset({"00", "08"})
_PHASES_IN, _PHASES_OUT = frozenset({"03", "09", "10"}), frozenset({"09", "10"})
OFF_BELOW_V = 40.0  # a unit in standby with its bypass switched through has an output voltage


def protocol(answer: bytes) -> Facts:
    """The answer to QPI without its CR: `(PInn`. LinkError otherwise."""
    match = _P.fullmatch(answer)
    if match is None:
        raise LinkError(f"QPI: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    return {"protocol": match[1].decode()}


#     1      7    12    18   23    29  33    39    45    51    57    63
#     (MMM.M NN.N PPP.P QQ.Q RRR.R SSS TTT.T UUU.U VVV.V XXX.X YYY.Y bbbbbbbbbbbb
#      |     |    |     |    |     |   |     |     |     ?     °C    type (2), utility fail, battery low, bypass or
#      |     |    |     |    |     |   |     |     battery V         AVR, fault, ?, test, shutdown, beeper muted, ?, ?
#      |     |    |     |    |     |   DC bus V (+, -), as it seems
#      |     |    |     |    output A, load %
#      |     |    output V, Hz
#      input V, Hz
QGS = form(
    "QGS",
    b"(",
    "input_v frequency_hz output_v output_hz output_a load_pct - - battery_v - +temperature_c"
    " .|.|utility_fail|battery_low|regulating|failed|.|testing|shutdown_active|!beeper_on|.|.",
    is_status=True,
)
#     (MM.M NN PP QQQ RRR      battery V, in series, in parallel, charge %, minutes; RRRRR of newer units (NUT, #2765)
QBV = form("QBV", b"(", "battery_v - - charge_pct#3 runtime_s#3#5*60")
#     (MMM.M NNN PPP.P QQ.Q    output V, A, battery V, Hz
QRI = form("QRI", b"(", "rated_output_v rated_a rated_battery_v rated_hz")
#     (model15 VA7 PF2 in/out inV outV batteries V     padded with # or blanks
QMD = form(
    "QMD",
    b"(",
    ":model rated_va - :phases rated_input_v rated_output_v - -",
    columns=((1, 16), (17, 24), (25, 27), (28, 31), (32, 35), (36, 39), (40, 42), (43, 47)),
)
QMF, QVFW, QID = (
    form("QMF", b"(", ":manufacturer"),
    form("QVFW", b"(VERFW:", ":firmware"),
    form("QID", b"(", ":serial"),
)
_F = form("F", b"#", "rated_input_v - - -")
#: the mode that QMOD tells -> what is so then, whatever the bits say
_MODES: dict[str, Facts] = {
    "P": {"off": True},  # switching on
    "S": {"off": True},
    "Y": {"on_bypass": True},
    "L": {},
    "B": {"utility_fail": True},
    "T": {"testing": True},
    "F": {"failed": True},
    "E": {"regulating": False},  # ECO: the bit for bypass is set, but the inverter stands by
    "C": {},
    "D": {"shutdown_active": True},
}
QMOD = letter("QMOD", {b"(" + mode.encode(): {"mode": mode} for mode in _MODES})
#: warnings of QWS that are conditions of ours, by their place among the 64 flags, from 1
_WARNINGS = {
    1: "no_battery", 3: "input_bad", 4: "input_bad", 6: "bypass_bad", 8: "low_warning", 9: "overload",
    10: "fan_failed", 13: "too_hot", 14: "charger_failed", 16: "fuse_failed", 17: "fuse_failed", 18: "fuse_failed",
    56: "battery_bad",
}  # fmt: skip
_QWS = re.compile(rb"\([01]{64}")


def warnings(answer: bytes) -> Facts:
    """The answer to QWS without its CR: 64 flags. Only those that are set: the status bits may say the same."""
    if not _QWS.fullmatch(answer):
        raise LinkError(f"QWS: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    return {name: True for place, name in _WARNINGS.items() if answer[place : place + 1] == b"1"}


_QFLAG = re.compile(rb"\(E([a-z]*)D([a-z]*)")


def settings(answer: bytes) -> Facts:
    """The answer to QFLAG without its CR: letters of what is switched on (E) and off (D). Only ECO, `e`, and only if
    this unit has it (NUT, nutdrv_qx_voltronic.c). LinkError otherwise."""
    match = _QFLAG.fullmatch(answer)
    if match is None:
        raise LinkError(f"QFLAG: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    return {"eco": b"e" in match[1]} if b"e" in match[1] + match[2] else {}


#     (L1-N L2-N L3-N L1-L2 L2-L3 L1-L3 of P03 and P10; P09 has two lines and may leave out the last three
def _volts(name: str, fact: str, only: frozenset[str]) -> Query:
    lines = f"{fact} {fact}2 {fact}3"
    six, three = form(name, b"(", f"{lines} - - -"), form(name, b"(", lines)

    def parse(answer: bytes) -> Facts:
        return (three if answer.count(b" ") == 2 else six).parse(answer)

    return Query(name.encode() + b"\r", parse, only)


def _three(name: str, fact: str, only: frozenset[str]) -> Query:
    return Query(name.encode() + b"\r", form(name, b"(", f"{fact} {fact}2 {fact}3").parse, only)


def _derive(facts: Facts) -> Facts:
    """What the mode, the warnings and the bits mean together (NUT, nutdrv_qx_voltronic.c, takes them so too)."""
    found = {**facts, **_MODES.get(facts.get("mode", ""), {})}
    input_v, output_v = facts.get("input_v"), facts.get("output_v")
    if facts.get("low_warning"):
        found["battery_low"] = True
    if facts.get("protocol") in _AVR and input_v and output_v and _alike(input_v, output_v):
        found["regulating"] = False
    if output_v is not None and output_v >= OFF_BELOW_V:
        found["off"] = False
    if facts.get("protocol") == "09":  # two phases
        found |= {f"{name}3": None for name in ("input_v", "output_v", "bypass_v", "load_pct", "input_a", "output_a")}
    return found


def _doubt(facts: Facts, more: Facts) -> bool:
    """One letter has no check: an outage that the bits do not show must be said twice."""
    return more.get("mode") == "B" and not facts.get("utility_fail")


def _alike(input_v: float, output_v: float) -> bool:
    return 0.95 <= output_v / input_v < 1.05


def _outlet(number: int) -> Query:
    name = f"QSK{number}"
    said = {b"(1": {f"outlet_{number}": True}, b"(0": {f"outlet_{number}": False}}
    return Query(name.encode() + b"\r", letter(name, said))


VOLTRONIC = Dialect(
    "voltronic",
    (
        Query(b"QGS\r", QGS.parse),
        Query(b"QMOD\r", QMOD),
        Query(b"QBV\r", QBV.parse),
        *(_volts("Q3PV", "input_v", _PHASES_IN), _volts("Q3YV", "bypass_v", _PHASES_IN)),
        *(_volts("Q3OV", "output_v", _PHASES_OUT), _three("Q3LD", "load_pct", _PHASES_OUT)),
        *(_three("Q3OC", "output_a", _PHASES_OUT), _three("Q3PC", "input_a", _PHASES_IN)),
        *(Query(b"QWS\r", warnings), *(_outlet(number) for number in range(1, 5))),
    ),
    (
        *(Query(b"QPI\r", protocol), Query(b"QRI\r", QRI.parse), Query(b"QMD\r", QMD.parse)),
        *(
            Query(b"QMF\r", QMF.parse),
            Query(b"QVFW\r", QVFW.parse),
            Query(b"QID\r", QID.parse),
            Query(b"F\r", _F.parse),
            Query(b"QFLAG\r", settings),
        ),
    ),
    orders.VOLTRONIC,
    "document, NUT",
    derive=_derive,
    doubt=_doubt,
)

# --- QS ---------------------------------------------------------------------------------------------------------

#     as Q1, but the frequency is that of the output
QS = form(
    "QS",
    b"(",
    f"input_v fault_v output_v load_pct output_hz battery_v +temperature_c {FLAGS}",
    nul_is_0=True,
    is_status=True,
)
VOLTRONIC_QS = Dialect(
    "voltronic-qs", (Query(b"QS\r", QS.parse),), (Query(b"F\r", F.parse),), orders.QS, "capture, NUT"
)

_ESCAPED = re.compile(rb"\x28([\x00-\x04])", re.DOTALL)
_PLAIN = (b"\x0d", b"\x11", b"\x13", b"\x0a", b"\x20")
_BLANKS = (3, 5, 8, 10, 12, 15, 19, 21, 23)
_BATTERY_V, _OUTPUT_V = (12, 24, 36, 48), (110, 120, 220, 230, 240)


def qs_hex(answer: bytes) -> Facts:
    """The binary answer to QS (P, T) without its CR. LinkError otherwise.

    0 1  4 6  9 11 13 16  20 22 24 26
    # AB C DE F  G HI JKL  M  N  O  P       blanks between; a byte 0D 11 13 0A 20 is sent as 28 00 .. 28 04
      |    |     | |       |     |  T alone: 1 bit 60 Hz, 2 bits 12 24 36 48 V, .., 3 bits 110 120 220 230 240 V
      |    |     | |       |     the flags of Q1
      |    |     | |       battery V = M * N / 510
      |    |     | output Hz = JKL / HI
      |    |     load %
      |    output V = DE * F / 51 / 256
      input V = AB * C / 51 / 256
    """
    data = _ESCAPED.sub(lambda match: _PLAIN[match[1][0]], answer)
    size = len(data)
    blanks = (*_BLANKS, 25) if size == 27 else _BLANKS
    if (
        size not in (25, 27)
        or data[:1] != b"#"
        or any(data[place] != 0x20 for place in blanks)
        or data[13:15] == b"\0\0"
    ):
        raise LinkError(f"QS: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    names = FLAGS.split("|")
    facts: Facts = {name: bool(data[24] << place & 0x80) for place, name in enumerate(names)}
    facts |= {
        "input_v": _scaled(data[1:3], data[4]),
        "output_v": _scaled(data[6:8], data[9]),
        "load_pct": float(data[11]),
        "output_hz": round(int.from_bytes(data[16:19]) / int.from_bytes(data[13:15]), 1),
        "battery_v": round(data[20] * data[22] / 510, 2),
    }
    if size == 27:
        ratings = data[26]
        output = ratings & 0x07
        facts |= {
            "rated_hz": 60.0 if ratings & 0x80 else 50.0,
            "rated_battery_v": float(_BATTERY_V[ratings >> 5 & 0x03]),
            "rated_output_v": float(_OUTPUT_V[output]) if output < len(_OUTPUT_V) else None,
        }
    return facts


def _scaled(two: bytes, factor: int) -> float:
    return round(int.from_bytes(two) * factor / 51 / 256, 1)


QS_HEX_T = Dialect("qs-hex-t", (Query(b"QS\r", qs_hex),), (), orders.QS, "document, NUT")
QS_HEX_P = QS_HEX_T._replace(name="qs-hex-p", orders=orders.QS_NO_TEST)
