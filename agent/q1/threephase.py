"""The three-phase dialects of the Q1 family that are not Voltronic's: Megatec G, Q6 (Phoenixtec), and Masterguard.

Sources: https://networkupstools.org/protocols/megatec.html; http://autobase.biz/English/AutoBaseHelp/Help10/
Plc_Scan/Megatec_Extend.htm (G); NUT's nutdrv_qx_masterguard.c. No unit with G was ever captured.
"""

from __future__ import annotations

import re

from ..model import LinkError, TestResult
from . import orders
from .form import SHOWN_BYTES, Facts, form, identity, words_of
from .megatec import FLAGS, Q1, F
from .table import Dialect, Query

# --- G ----------------------------------------------------------------------------------------------------------

#     !SSS PPP NNNN RRR.R +TT.T FF.F FF.F FF.F
#      |   |   |    A     °C    input Hz, bypass Hz, output Hz
#      battery V, charge %, minutes
G1 = form(
    "G1", b"!", "battery_v charge_pct#3 runtime_s#4*60 +battery_a +temperature_c frequency_hz bypass_hz output_hz"
)
#     !a7..a0 b7..b0 c7..c0
G2 = form(
    "G2",
    b"!",
    ".|.|battery_empty|battery_low|one_output|utility_fail|charging|."
    " .|.|.|bypass_bad|manual_bypass|!bypass_absent|on_inverter|."
    " .|emergency_off|battery_high|.|overload|output_bad|too_hot|output_short",
)
#     !R/S/T R/S/T R/S/T R/S/T     V of input, bypass, output; load %
G3 = form(
    "G3",
    b"!",
    "input_v/input_v2/input_v3 bypass_v/bypass_v2/bypass_v3"
    " output_v/output_v2/output_v3 load_pct/load_pct2/load_pct3",
)
#     !220V/380V^3P4W 050 220V/380V^3P4W 050 220V/3P3W^^^^^ 050 396 150KVA^^^^      V and Hz of input, bypass, output
_GF = re.compile(rb"!(\d{2,3})V[!-~]* (\d{3}) \d{2,3}V[!-~]* \d{3} (\d{2,3})V[!-~]* \d{3} (\d{2,4}) (\d{1,4})KVA\^*")
#     of Q1 the bits that G does not have
_Q1_REST = form("Q1", b"(", "- - - - - - - .|.|.|.|.|testing|shutdown_active|beeper_on", nul_is_0=True)


def g_rating(answer: bytes) -> Facts:
    """The answer to GF without its CR. LinkError otherwise."""
    match = _GF.fullmatch(answer)
    if match is None:
        raise LinkError(f"GF: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    volts, hertz, output_v, battery_v, kva = (float(number) for number in match.groups())
    return {
        "rated_input_v": volts,
        "rated_output_v": output_v,
        "rated_hz": hertz,
        "rated_battery_v": battery_v,
        "rated_va": kva * 1000,
    }


def _g(facts: Facts) -> Facts:
    """Which way the power goes: on inverter, on bypass if there is one, or not at all."""
    found = dict(facts)
    if not facts.get("on_inverter") and not facts.get("utility_fail"):
        found["off"] = bool(facts.get("bypass_absent")) and not facts.get("manual_bypass")
        found["on_bypass"] = not found["off"]
    elif facts.get("manual_bypass"):
        found["on_bypass"] = True
    return _one_output(found) if facts.get("one_output") else found


def _one_output(facts: Facts) -> Facts:
    names = ("output_v", "load_pct", "output_a", "output_w", "output_va", "bypass_v")
    return {**facts, **{name + line: None for name in names for line in "23"}}


MEGATEC_G = Dialect(
    "megatec-g",
    (
        Query(b"G2\r", G2.parse),
        Query(b"G1\r", G1.parse),
        Query(b"G3\r", G3.parse),
        Query(b"Q1\r", _Q1_REST.parse),
    ),
    (Query(b"GF\r", g_rating), Query(b"I\r", identity)),
    orders.MEGATEC,
    "document",
    derive=_g,
    state="partial",
)

# --- Q6 ---------------------------------------------------------------------------------------------------------

_Q1_BITS = frozenset(FLAGS.split("|")) | {"fault_v"}


def q1_bits(answer: bytes) -> Facts:
    """Of the answer to Q1 the bits: the values come from Q6, line by line. LinkError as Q1."""
    return {name: value for name, value in Q1.parse(answer).items() if name in _Q1_BITS}


#     1     7     13    19   24    30    36    42   47  51  55  59    65    71   76    82  86
#     (in1  in2   in3   Hz   out1  out2  out3  Hz   ld1 ld2 ld3 batt+ batt- °C   secs  %   mode flags flags type
Q6 = form(
    "Q6",
    b"(",
    "input_v input_v2 input_v3 frequency_hz output_v output_v2 output_v3 output_hz load_pct load_pct2 load_pct3"
    " battery_v - +temperature_c runtime_s#5 charge_pct#3 - - - -",
)
#     (kW1 kW2 kW3 kVA1 kVA2 kVA3 kW kVA A1 A2 A3 % flags
WA = form(
    "WA",
    b"(",
    "output_w*1000 output_w2*1000 output_w3*1000 output_va*1000 output_va2*1000 output_va3*1000 - -"
    " output_a output_a2 output_a3 - -",
)
#     (V1 V2 V3 Hz
BPS = form("BPS", b"(", "bypass_v bypass_v2 bypass_v3 bypass_hz")
#     (00 00.00 00.00 model.. 2 3/1 6 230 50.00 024 02.00 ...      the rating comes from F
WH = form("WH", b"(", "- :firmware - :model - :phases - - - - - - - - - - - - - -")


def _q6(facts: Facts) -> Facts:
    return _one_output(facts) if str(facts.get("phases")).endswith("/1") else facts


Q6_DIALECT = Dialect(
    "q6",
    (
        *(Query(b"Q1\r", q1_bits), Query(b"Q6\r", Q6.parse)),
        *(Query(b"WA\r", WA.parse), Query(b"BPS\r", BPS.parse)),
    ),
    (Query(b"F\r", F.parse), Query(b"WH\r", WH.parse)),
    orders.MEGATEC,
    "capture",
    derive=_q6,
    state="partial",
)

#     (in1  in2   in3   fault out1  out2  out3  ld1 ld2 ld3 Hz   batt  °C   flags min.s % mode ....  flags type
Q2 = form(
    "Q2",
    b"(",
    "input_v input_v2 input_v3 fault_v output_v output_v2 output_v3 load_pct load_pct2 load_pct3 frequency_hz"
    " battery_v +temperature_c - @runtime_s charge_pct#3 - - - - - - -",
)
Q2_DIALECT = Q6_DIALECT._replace(
    name="q2",
    poll=(
        *(Query(b"Q1\r", q1_bits), Query(b"Q2\r", Q2.parse)),
        *(Query(b"WA\r", WA.parse), Query(b"BPS\r", BPS.parse)),
    ),
    evidence="capture of answers",
    auto=False,
    state="untested",
)

# --- Masterguard ------------------------------------------------------------------------------------------------

#     (XX MMM.M NNN.N PPP.P QQQ RR.R SS.SS TT.T ttt.tt CCC bbbbbbbb tttttttt
#      slave     as Q1              V of one cell  minutes.seconds, charge %, as Q1; parallel fault, parallel, end of
#                                                            life, no battery, three bits of the last test
Q3 = form(
    "Q3",
    b"(",
    "- input_v fault_v output_v load_pct frequency_hz battery_v +temperature_c @runtime_s charge_pct#3"
    " utility_fail|battery_low|regulating|failed|line_interactive|testing|shutdown_active|."
    " .|failed_parallel|.|battery_bad|no_battery|test_4|test_2|test_1",
    is_status=True,
)
_TESTS = {2: TestResult.PASSED, 3: TestResult.FAILED, 4: TestResult.ABORTED, 5: TestResult.ABORTED}
_WH = re.compile(
    rb"\((\d\d) (\d\d\.\d\d) \d\d\.\d\d ([!-~][ -~]{0,40}?) +\d (\d{3}) (\d\d\.\d\d) (\d{3}) \d\d\.\d\d [\d. ]+"
)


def masterguard_identity(answer: bytes) -> Facts:
    """The answer to WH of a Masterguard without its CR. LinkError otherwise.

    (00 10.06 03.09 A  700  + 0 Bat Pack-19        0 230 50.00 012 02.30 006.00 012.00 018 10 40 160 276 47.00 53.00
     slave, firmware, model                           V   Hz    cells, V of one, runtimes, ..
    """
    match = _WH.fullmatch(answer)
    if match is None:
        raise LinkError(f"WH: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    names = ("rated_v", "rated_hz", "cells")
    numbers = dict(zip(names, (float(number) for number in match.groups()[3:]), strict=True))
    who = {"slave": match[1].decode(), "firmware": match[2].decode(), "model": words_of(match[3])}
    return {"manufacturer": "Masterguard", **who, **numbers}


def _masterguard(facts: Facts) -> Facts:
    code = 4 * facts["test_4"] + 2 * facts["test_2"] + facts["test_1"]
    return {**facts, "test_result": _TESTS.get(code), "testing": facts["testing"] or code in (1, 6)}


MASTERGUARD = Dialect(
    "masterguard",
    (Query(b"Q3\r", Q3.parse),),
    (Query(b"WH\r", masterguard_identity),),
    orders.MASTERGUARD,
    "capture, NUT",
    auto=False,
    derive=_masterguard,
)
