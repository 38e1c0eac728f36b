"""The dialects of the Q1 family that look like Megatec's own: Q1 and its brothers, for one phase.

Sources: https://networkupstools.org/protocols/megatec.html; NUT's nutdrv_qx (mecer, mustek, zinto, bestups). Columns
count from 0.
"""

from __future__ import annotations

import re

from ..model import LinkError
from . import orders
from .form import SHOWN_BYTES, Facts, form, identity, words_of
from .table import Dialect, Query

FLAGS = "utility_fail|battery_low|regulating|failed|line_interactive|testing|shutdown_active|beeper_on"
_COLUMNS = ((1, 6), (7, 12), (13, 18), (19, 22), (23, 27), (28, 32), (33, 37), (38, 46))

#     0      7     13    19  23   28   33   38
#     (MMM.M NNN.N PPP.P QQQ RR.R SS.S TT.T bbbbbbbb
#      |     |     |     |   |    |    °C   utility fail, battery low, bypass/boost/buck, UPS failed,
#      |     |     |     |   |    |         line-interactive, test, shutdown active, beeper on
#      |     |     |     |   |    battery V: of all cells (SS.S) or of one (S.SS)
#      |     |     |     |   input Hz
#      |     |     output V, load %
#      input V, input V of the last fault (equals the input V when there was none)
Q1 = form(
    "Q1",
    b"(",
    f"input_v fault_v output_v load_pct frequency_hz battery_v +temperature_c {FLAGS}",
    columns=_COLUMNS,
    nul_is_0=True,
    is_status=True,
)
#     #MMM.M QQQ SS.SS RR.R      V, A, battery V, Hz
F = form("F", b"#", "rated_v rated_a rated_battery_v rated_hz")
#     025      minutes
RT = form("RT", b"", "runtime_s#3*60")
#     1     7     13    19    25    31  35  39   44  48  52    58   63
#     (in V ?     ?     fault out V ?   %   Hz   ?   ?   batt  °C   letters
Q4 = form(
    "Q4",
    b"(",
    "input_v - - fault_v output_v - load_pct frequency_hz - - battery_v +temperature_c :letters",
    is_status=True,
)
_LETTERS = {
    "A": "utility_fail", "B": "battery_low", "C": "on_bypass", "D": "failed", "E": "testing", "F": "shutdown_active",
    "I": "test_passed", "J": "test_failed", "N": "overload",
}  # fmt: skip
_ALL_LETTERS = re.compile(rb".* ([A-N]{1,14}) *", re.DOTALL)


def gtec(answer: bytes) -> Facts:
    """The answer to Q4 of a Gtec unit without its CR: the letters are its flags. LinkError otherwise."""
    facts = Q4.parse(answer)
    del facts["letters"]  # without what it was filled up with, which is no letter
    match = _ALL_LETTERS.fullmatch(answer)
    if match is None:
        raise LinkError(f"Q4: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    return facts | {name: letter in match[1].decode() for letter, name in _LETTERS.items()}


_BEST = {
    b"AX1": "Axxium Rackmount",
    b"FOR": "Fortress",
    b"FTC": "Fortress Telecom",
    b"PR2": "Patriot Pro II",
    b"PRO": "Patriot Pro",
    b"325": "Sola 325",
    b"520": "Sola 520",
    b"620": "Sola 620",
}
_ID = re.compile(rb"([A-Z]{2}[A-Z\d]|\d{3}), *(\d{3,4}),(\d{3}),(\d{3}),(\d\d\.\d), *(\d{2,3}\.\d)")


def best_identity(answer: bytes) -> Facts:
    """The answer to ID of a Best Power or Sola unit without its CR. LinkError otherwise.

    FOR,750,120,120,20.0,27.6       family, VA, input V, output V, battery V empty and full
    """
    match = _ID.fullmatch(answer)
    if match is None or match[1] not in _BEST:
        raise LinkError(f"ID: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    names = ("rated_va", "rated_input_v", "rated_output_v", "battery_empty_v", "battery_full_v")
    maker = "Sola Australia" if match[1][:1].isdigit() else "Best Power"
    numbers = (float(number) for number in match.groups()[1:])
    return {"manufacturer": maker, "model": _BEST[match[1]], **dict(zip(names, numbers, strict=True))}


def _best(facts: Facts) -> Facts:
    """The bit for bypass, boost and buck means nothing in a test, a shutdown or on battery; the beeper's is always 0
    (NUT, nutdrv_qx_bestups.c)."""
    if facts.get("utility_fail") or facts.get("testing") or facts.get("shutdown_active"):
        facts = {**facts, "regulating": False}
    return {**facts, "beeper_on": None}


#     BL100      charge %
BL = form("BL", b"BL", "charge_pct")

_Q5_BYTES = 21


def ablerex(answer: bytes) -> Facts:
    """The answer to Q5 of an Ablerex unit without its CR. LinkError otherwise, also where a byte of it is a CR: then
    the rest is lost.

    0  1       7          9         11       13     15
    (  Hz*10 . battery V  empty V   watts?   error  output A*10 ....       two bytes each, the higher first
    """
    if len(answer) != _Q5_BYTES or answer[:1] != b"(":
        raise LinkError(f"Q5: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    return {
        "output_hz": int.from_bytes(answer[1:3]) / 10,
        "output_a": int.from_bytes(answer[15:17]) / 10,
    }


def _ablerex(facts: Facts) -> Facts:
    """The bit for a failure is that of the battery; the bit for bypass, boost and buck is bypass on an on-line unit
    (NUT, nutdrv_qx_ablerex.c)."""
    found = {**facts, "battery_bad": facts.get("failed")}
    if facts.get("regulating") and not facts.get("line_interactive"):
        found |= {"on_bypass": True, "regulating": False}
    return found


#     100     0699             +22.5     49.9          charge %, minutes, °C of the battery, output Hz
BL_ASKED, RTS = form("Bl ?", b"", "charge_pct#3"), form("RTS", b"", "runtime_s#4*60")
TPB, LF = form("TPb", b"", "+battery_temperature_c"), form("Lf ?", b"", "output_hz")
_UN = re.compile(rb"(\d{4})W/(\d{4})VA/(\d{3})V/\d{3}W/\d{3}W")
_FWV = re.compile(rb"M:(\d{1,3}\.\d{1,3})\(S:\d{1,3}\.\d{1,3}\) *")
_PSNR = re.compile(rb"(?!NAK)[!-~]{8,32} *")


def omron_rating(answer: bytes) -> Facts:
    """The answer to UN of an Omron unit without its CR: 1125W/1125VA/048V/160W/020W. LinkError otherwise."""
    return _matched("UN", _UN, answer, ("rated_w", "rated_va", "rated_battery_v"))


def _matched(name: str, shape: re.Pattern[bytes], answer: bytes, names: tuple[str, ...]) -> Facts:
    match = shape.fullmatch(answer)
    if match is None:
        raise LinkError(f"{name}: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    return dict(zip(names, (float(number) for number in match.groups()), strict=True))


def omron_firmware(answer: bytes) -> Facts:
    """The answer to FWV without its CR: M:0.17(S:2.00). LinkError otherwise."""
    _matched("FWV", _FWV, answer, ("main",))
    return {"firmware": answer.decode("ascii")[2:].partition("(")[0]}


def omron_serial(answer: bytes) -> Facts:
    """The answer to PSNR without its CR. LinkError otherwise."""
    _matched("PSNR", _PSNR, answer, ())
    return {"serial": words_of(answer)}


def _omron(facts: Facts) -> Facts:
    """The bit for bypass, boost and buck is set on a unit that idles on mains, and nobody knows what it means; the
    one of the beeper is not the beeper's (NUT, nutdrv_qx_omron.c)."""
    return {**facts, "regulating": False, "beeper_on": None}


_F, _I = Query(b"F\r", F.parse), Query(b"I\r", identity)
MEGATEC = Dialect("megatec", (Query(b"Q1\r", Q1.parse),), (_F, _I), orders.MEGATEC, "capture, NUT")
MEGATEC_OLD = MEGATEC._replace(name="megatec-old", poll=(Query(b"D\r", Q1.parse),), evidence="NUT")
MECER = MEGATEC._replace(name="mecer", orders=orders.MECER, evidence="NUT")
MUSTEK = MEGATEC._replace(name="mustek", poll=(Query(b"QS\r", Q1.parse),), evidence="NUT")
ZINTO = MEGATEC._replace(name="zinto", once=(_F, Query(b"FW?\r", identity)), evidence="NUT", auto=False)
BESTUPS = MEGATEC._replace(
    name="bestups",
    poll=(*MEGATEC.poll, Query(b"RT\r", RT.parse)),
    once=(Query(b"ID\r", best_identity),),
    orders=orders.RETURN_ONLY,
    derive=_best,
    evidence="NUT",
    auto=False,
)
GTEC = MEGATEC._replace(
    name="gtec",
    poll=(Query(b"Q4\r", gtec),),
    orders=orders.NO_BEEPER,
    evidence="capture",
    auto=False,
    state="untested",
)
HUNNOX = MEGATEC._replace(
    name="hunnox",
    poll=(*MEGATEC.poll, Query(b"BL\r", BL.parse)),
    once=(_F, Query(b"FW?\r", identity)),
    evidence="NUT, without BL",
    auto=False,
    state="untested",
)
ABLEREX = MEGATEC._replace(
    name="ablerex",
    poll=(*MEGATEC.poll, Query(b"Q5\r", ablerex)),
    derive=_ablerex,
    evidence="NUT",
    auto=False,
    state="partial",
)
OMRON = MEGATEC._replace(
    name="omron",
    poll=(
        *(*MEGATEC.poll, Query(b"Bl ?\r", BL_ASKED.parse), Query(b"RTS\r", RTS.parse)),
        *(Query(b"TPb\r", TPB.parse), Query(b"Lf ?\r", LF.parse)),
    ),
    once=(Query(b"UN\r", omron_rating), Query(b"FWV\r", omron_firmware), Query(b"PSNR\r", omron_serial)),
    orders=orders.NONE,
    derive=_omron,
    evidence="capture of answers",
    auto=False,
    state="untested",
)
