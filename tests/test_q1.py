"""The dialects of the Q1 family: every real answer decodes to what its source says, and only whole answers count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.model import LinkError
from agent.q1 import megatec, threephase, voltronic
from agent.q1.find import _BY_LETTER
from agent.q1.form import Facts, identity

CASES = json.loads((Path(__file__).parent / "cases" / "q1.json").read_text())["cases"]
#: form of a case -> its parser
FORMS: dict[str, Callable[[bytes], Facts]] = {
    "Q1": megatec.Q1.parse, "F": megatec.F.parse, "I": identity, "QS": voltronic.QS.parse, "QS-hex": voltronic.qs_hex,
    "QGS": voltronic.QGS.parse, "QBV": voltronic.QBV.parse, "QMD": voltronic.QMD.parse,
    "Q6": threephase.Q6.parse, "WA": threephase.WA.parse, "BPS": threephase.BPS.parse, "WH": threephase.WH.parse,
    "Q3": threephase.Q3.parse, "WH-masterguard": threephase.masterguard_identity,
    "G1": threephase.G1.parse, "G2": threephase.G2.parse, "G3": threephase.G3.parse, "GF": threephase.g_rating,
    "M": lambda answer: {"dialect": _BY_LETTER[answer.strip(b"\0")].name},
}  # fmt: skip


def bytes_of(case: dict[str, Any]) -> bytes:
    raw = bytes.fromhex(case["hex"]) if "hex" in case else case["text"].encode() + b"\r"
    return raw.partition(b"\r")[0]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_every_real_answer_says_what_its_source_says(case: dict[str, Any]) -> None:
    parse = FORMS[case["form"]]
    if case.get("refused"):
        with pytest.raises(LinkError):
            parse(bytes_of(case))
        return
    facts = parse(bytes_of(case))
    assert case["expect"], "a case that expects nothing shows nothing"
    assert {name: facts[name] for name in case["expect"]} == case["expect"]
