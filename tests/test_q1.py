"""The dialects of the Q1 family: every real answer decodes to what its source says, and only whole answers count."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import link as serial_line
from agent import pretend
from agent.bridges import BRIDGES
from agent.drivers import megatec as driver
from agent.model import Command, Condition, Flow, LinkError, OrderError, Source, Status, TestResult
from agent.q1 import meaning, megatec, threephase, voltronic
from agent.q1 import unit as unit_module
from agent.q1.dialects import DIALECTS
from agent.q1.find import _BY_LETTER, QUERIES, find
from agent.q1.form import Facts, identity
from agent.q1.orders import encode
from tests.peer import test_nut_bridge as peer_bridge
from tests.peer import test_nut_q1 as peer_q1
from tests.simulators.dialects import SPEAKERS
from tests.simulators.megatec import MegatecPty
from tests.simulators.script import LateLink, ScriptLink, SpeakerLink
from tests.test_drivers import ARGUMENTS

CASES = json.loads((Path(__file__).parent / "cases" / "q1.json").read_text())["cases"]
#: form of a case -> its parser
FORMS: dict[str, Callable[[bytes], Facts]] = {
    "Q1": megatec.Q1.parse, "F": megatec.F.parse, "I": identity, "QS": voltronic.QS.parse, "QS-hex": voltronic.qs_hex,
    "QGS": voltronic.QGS.parse, "QBV": voltronic.QBV.parse, "QMD": voltronic.QMD.parse,
    "Q6": threephase.Q6.parse, "WA": threephase.WA.parse, "BPS": threephase.BPS.parse, "WH": threephase.WH.parse,
    "Q2": threephase.Q2.parse, "BL": megatec.BL.parse, "Bl ?": megatec.BL_ASKED.parse, "RTS": megatec.RTS.parse,
    "TPb": megatec.TPB.parse, "Lf ?": megatec.LF.parse, "UN": megatec.omron_rating, "FWV": megatec.omron_firmware,
    "PSNR": megatec.omron_serial, "Q3": threephase.Q3.parse, "Q4": megatec.gtec,
    "WH-masterguard": threephase.masterguard_identity,
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


# --- every dialect on a pretend unit ----------------------------------------------------------------------------

#: what a speaker is found as
FOUND = {"voltronic-00": "voltronic", "voltronic-03": "voltronic", "voltronic-10": "voltronic"}
NOT_AT_ALL = "gtec"  # it does not answer Q1
NOT_FOUND = dict.fromkeys(
    ("zinto", "bestups", "masterguard", "q2", "hunnox", "ablerex", "omron"), "megatec"
)  # they answer Q1, and that is enough


def connected(speaker: str, *, dialect: str = "auto", **section: Any) -> tuple[Any, SpeakerLink]:
    link = SpeakerLink(SPEAKERS[speaker], pretend.Unit(0.0))
    return driver.connect({"dialect": dialect, **section}, link, lambda: link.now_s), link


def polled(speaker: str, **section: Any) -> tuple[Any, SpeakerLink]:
    """After two polls: a three-phase unit of Voltronic's is known as such after the first."""
    unit, link = connected(speaker, dialect=FOUND.get(speaker, speaker), **section)
    unit.poll()
    return unit, link


@pytest.mark.parametrize("speaker", sorted(SPEAKERS.keys() - {NOT_AT_ALL}))
def test_the_dialect_is_found_by_questions_alone_in_less_than_five_seconds(speaker: str) -> None:
    link = SpeakerLink(SPEAKERS[speaker], pretend.Unit(0.0))
    assert find(link).name == NOT_FOUND.get(speaker, FOUND.get(speaker, speaker))
    assert set(link.sent) <= set(QUERIES) and link.waited_s < 5.0
    assert link.unit.beeper and link.unit.off_at_s is None and not link.unit.testing


@pytest.mark.parametrize("instead", [b"", b"\x80\xff\r"])
@pytest.mark.parametrize("speaker", sorted(SPEAKERS.keys() - {NOT_AT_ALL}))
def test_one_answer_that_is_lost_while_connecting_makes_no_other_dialect(speaker: str, instead: bytes) -> None:
    """At most it is found at the next look."""
    for lost in (query.rstrip(b"\r") for query in QUERIES):
        link = SpeakerLink(SPEAKERS[speaker], pretend.Unit(0.0))
        answers, speak = [instead], SPEAKERS[speaker]
        link._speak = lambda it, command, lost=lost, answers=answers, speak=speak: (
            answers.pop() if answers and command == lost else speak(it, command)
        )
        try:
            found = find(link)
        except LinkError:
            assert link.waited_s < 5.0
            link.waited_s, found = 0.0, find(link)
        assert found.name == NOT_FOUND.get(speaker, FOUND.get(speaker, speaker)), lost
        assert link.waited_s < 5.0


def test_a_number_of_qpi_that_nobody_knows_is_no_voltronic_unit() -> None:
    unit = pretend.Unit(0.0)
    answers = {b"Q1": SPEAKERS["megatec"](unit, b"Q1"), b"QGS": SPEAKERS["voltronic"](unit, b"QGS")}
    assert find(ScriptLink({**answers, b"QPI": b"(PI01\r"})).name == "voltronic"
    link = ScriptLink({**answers, b"QPI": b"(PI77\r"})
    assert find(link).name == "megatec" and b"QGS\r" not in link.sent


def test_a_unit_that_answers_g_and_q6_speaks_g() -> None:
    unit = pretend.Unit(0.0)
    answers = {b"Q1": SPEAKERS["megatec"](unit, b"Q1"), b"Q6": SPEAKERS["q6"](unit, b"Q6")}
    assert find(ScriptLink(answers)).name == "q6"
    assert find(ScriptLink({**answers, b"G2": SPEAKERS["megatec-g"](unit, b"G2")})).name == "megatec-g"


def test_what_is_found_by_itself_is_what_the_table_says() -> None:
    for name, dialect in DIALECTS.items():
        assert dialect.auto is (name != NOT_AT_ALL and NOT_FOUND.get(name, name) == name), name


def test_a_dead_line_takes_less_than_five_seconds_and_is_a_link_error() -> None:
    link = ScriptLink({})
    with pytest.raises(LinkError, match="known dialect"):
        driver.connect({}, link, lambda: link.now_s).poll()
    assert link.waited_s <= 5.0


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_mains_battery_and_low_battery_are_read_in_every_dialect(speaker: str) -> None:
    unit, link = polled(speaker)
    status = unit.poll()
    assert status.source is Source.MAINS and status.battery.low is False
    assert abs(status.outputs[0].voltage_v - 230) < 1 and status.outputs[0].load_pct == 30.0
    assert abs(status.battery.voltage_v - 26) < 0.6 and (status.battery.charge_pct or 100) > 75
    link.unit.set("mains", "off")
    status = unit.poll()
    assert status.source is Source.BATTERY and status.battery.flow is Flow.DISCHARGING
    link.unit.set("battery_low", "1")
    assert unit.poll().battery.low is True
    link.unit.set("battery_low", "0")
    link.unit.set("mains", "on")
    assert unit.poll().source is Source.MAINS


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_each_order_of_each_dialect_is_obeyed(speaker: str) -> None:
    unit, link = polled(speaker)
    for command in sorted(unit.commands, key=lambda c: c.value):
        unit.order(command, **ARGUMENTS.get(command, {}))
        assert unit.poll()
    with pytest.raises(OrderError):
        unit.order(Command.SIMULATE, mains="off")
    if not unit.commands:
        assert speaker == "omron"
        return
    unit.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=0)
    assert link.unit.off_at_s == 30.0 and link.sent[-2:][0] == b"S.5R0003\r"  # never less than three minutes
    assert Condition.SHUTDOWN_PENDING in unit.poll().flags
    unit.order(Command.SHUTDOWN_STOP)
    assert link.unit.off_at_s is None
    if Command.BEEPER_OFF in unit.commands:
        unit.order(Command.BEEPER_OFF)
        assert not link.unit.beeper and unit.poll().beeper_on is (None if speaker == "masterguard" else False)


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_a_poll_is_bounded_also_when_only_the_status_answers(speaker: str) -> None:
    unit, link = connected(speaker, dialect=FOUND.get(speaker, speaker))
    dialect = DIALECTS[FOUND.get(speaker, speaker)]
    status = dialect.poll[0].ask.rstrip(b"\r")
    speak = SPEAKERS[speaker]
    link._speak = lambda it, command: speak(it, command) if command == status else b""
    for _ in range(50):  # one silence in each
        began_s = link.now_s
        unit.poll()
        assert link.now_s - began_s <= 5.0
    link.sent.clear()
    until_s = link.now_s + 60.0
    while link.now_s < until_s:
        unit.poll()
        link.now_s += 1.0
    asked = {query.ask: link.sent.count(query.ask) for query in (*dialect.poll[1:], *dialect.once)}
    assert max(asked.values(), default=0) <= 1, "what never answers is left alone"


@pytest.mark.parametrize("wrong", [b"", b"(late 1\r"])
def test_after_silence_or_a_misfit_nothing_more_is_asked_in_that_poll(wrong: bytes) -> None:
    unit, link = connected("voltronic", dialect="voltronic")
    speak, silent = SPEAKERS["voltronic"], {b"QWS"}
    link._speak = lambda it, command: wrong if command in silent else speak(it, command)
    unit.poll()
    assert link.sent == [b"QGS\r", b"QMOD\r", b"QBV\r", b"QWS\r"]
    silent = {b"QRI"}
    link.sent.clear()
    unit.poll()
    assert link.sent[-1] == b"QRI\r" and link.sent.count(b"QPI\r") == 1
    silent = set()
    link.sent.clear()
    assert unit.poll().rating.output_voltage_v == 230.0 and link.sent[-1] == b"QFLAG\r"


def test_each_question_that_was_given_up_is_asked_again_by_and_by() -> None:
    unit, link = connected("voltronic-10", dialect="voltronic")
    speak, silent = SPEAKERS["voltronic-10"], {b"QMOD", b"QBV", b"QWS"}
    link._speak = lambda it, command: b"" if command in silent else speak(it, command)

    def in_a_minute() -> list[bytes]:
        link.sent.clear()
        until_s = link.now_s + 60.0
        while link.now_s < until_s:
            unit.poll()
        return link.sent

    for _ in range(12):
        unit.poll()
    sent = in_a_minute()
    assert {sent.count(ask + b"\r") for ask in silent} == {1}, "the first is not the only one"
    silent.clear()
    assert {ask + b"\r" for ask in (b"QMOD", b"QBV", b"QWS")} <= set(in_a_minute())
    assert unit.poll().battery.runtime_s == 1200
    silent |= {b"QMOD", b"QBV", b"QWS"}
    for _ in range(12):
        unit.poll()
    sent = in_a_minute()
    assert all(3 <= sent.count(ask + b"\r") <= 5 for ask in silent), "it has answered them: they are worth more"
    assert sent.count(b"Q3PV\r") == sent.count(b"QGS\r"), "and cost the others nothing"


@pytest.mark.parametrize("poll_s", [0.2, 1.0, 10.0])
@pytest.mark.parametrize(("bad", "times", "within_s"), [(b"(NAK\r", 1, 2.0), (b"", 3, 20.0)], ids=["NAK", "silence"])
def test_charge_and_runtime_are_soon_asked_again_after_what_a_noisy_line_has_cost(
    poll_s: float, bad: bytes, times: int, within_s: float
) -> None:
    unit, link = polled("voltronic")
    assert unit.poll().battery.runtime_s == 1200
    speak, bads = SPEAKERS["voltronic"], [bad] * times
    link._speak = lambda it, command: bads.pop() if command == b"QBV" and bads else speak(it, command)
    link.unit.mains = False
    absent_s, began_s = 0.0, link.now_s
    while bads or unit.poll().battery.runtime_s is None:
        if bads:
            assert unit.poll().battery.runtime_s is None
            began_s = link.now_s
        absent_s = link.now_s - began_s
        assert absent_s <= within_s + poll_s
        link.now_s += poll_s


def test_who_it_is_and_what_it_is_made_for_is_asked_again_by_and_by(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    unit, link = connected("megatec", dialect="megatec")
    speak, deaf = SPEAKERS["megatec"], {b"F": b"", b"I": b"NAK\r"}
    link._speak = lambda it, command: deaf.get(command) if command in deaf else speak(it, command)
    while link.now_s < 4000.0:
        assert unit.poll().battery.charge_pct is None
        link.now_s += 1.0
    assert link.sent.count(b"F\r") == 3 + 3 and link.sent.count(b"I\r") == 1 + 3  # after 5, 10, 20 minutes
    assert len([r for r in caplog.records if "gave up" in r.message]) == 1
    deaf.clear()
    link.now_s += 2400.0
    status = unit.poll()
    assert status.battery.charge_pct is not None and status.rating.input_voltage_v and status.ident.model
    assert not status.older


@pytest.mark.parametrize("late_s", [1.6, 2.4])
@pytest.mark.parametrize("speaker", SPEAKERS)
def test_an_answer_that_is_late_is_not_taken_for_that_to_another_question(speaker: str, late_s: float) -> None:
    """Each question in turn; all that is read is as before or absent, and the next poll works."""
    dialect, pretended = DIALECTS[FOUND.get(speaker, speaker)], pretend.Unit(0.0)
    for query in (*dialect.poll[1:], *dialect.once):
        late, asked = {query.ask: late_s}, set[bytes]()

        def say(command: bytes) -> tuple[bytes, float]:
            asked.add(command)  # noqa: B023
            return SPEAKERS[speaker](pretended, command[:-1]), late.pop(command, 0.05)  # noqa: B023

        link = LateLink(say)
        unit: Any = driver.connect({"dialect": dialect.name}, link, lambda: link.now_s)  # noqa: B023
        statuses = []
        for _ in range(6):
            began_s = link.now_s
            statuses.append(unit.poll())
            assert link.now_s - began_s <= 5.0
            link.now_s = max(link.now_s, began_s + 1.0)
        whole = measured(statuses[-1])
        for status in statuses:
            for name, value in measured(status).items():
                assert value in (None, whole.get(name, value)), (query.ask, name)  # 3/1 before it is known as such
        assert not late or query.ask not in asked


def test_a_unit_that_is_slow_with_each_answer_is_read_as_far_as_a_poll_goes() -> None:
    pretended = pretend.Unit(0.0)
    link = LateLink(lambda command: (SPEAKERS["voltronic"](pretended, command[:-1]), 1.3))
    unit: Any = driver.connect({"dialect": "voltronic"}, link, lambda: link.now_s)
    for _ in range(10):
        began_s = link.now_s
        status = unit.poll()
        assert link.now_s - began_s <= 5.0 and status.battery.runtime_s == 1200
        assert link.sent[-3:] == [b"QGS\r", b"QMOD\r", b"QBV\r"]


@pytest.mark.parametrize("speaker", ["megatec", "voltronic-qs", "bestups", "masterguard", "q6"])
def test_what_the_charge_is_guessed_by_is_said_twice(speaker: str) -> None:
    unit, link = connected(speaker, dialect=speaker)
    speak, said = SPEAKERS[speaker], list[bytes]()
    asked = next(query.ask for query in DIALECTS[speaker].once if query.ask in (b"F\r", b"ID\r", b"WH\r"))

    def say(it: pretend.Unit, command: bytes) -> bytes:
        answer = speak(it, command)
        if command + b"\r" == asked:
            said.append(answer)
            if len(said) == 1:
                answer = answer.replace(b"24.0", b"26.0").replace(b"27.6", b"23.6").replace(b" 012 ", b" 016 ")
                assert answer not in said
        return answer

    link._speak = say
    for _ in range(4):
        unit.poll()
    clean, _ = connected(speaker, dialect=speaker)
    link.sent.clear()
    status, wanted = unit.poll(), clean.poll()
    assert (status.battery, status.rating, asked in link.sent) == (wanted.battery, wanted.rating, False)


@pytest.mark.parametrize("dialect", ["voltronic", "megatec-g", "omron"])
def test_a_charge_that_a_noisy_line_has_cost_is_not_guessed_of_a_voltage_that_sags(dialect: str) -> None:
    unit, link = polled(dialect)
    asked = {"voltronic": b"QBV", "megatec-g": b"G1", "omron": b"Bl ?"}[dialect]
    speak, lost = SPEAKERS[dialect], True
    link._speak = lambda it, command: b"" if lost and command == asked else speak(it, command)
    until_s, charges = link.now_s + unit_module.GUESS_AFTER_S, list[float | None]()
    while link.now_s < until_s - 10.0:
        charges.append(unit.poll().battery.charge_pct)
    assert len(charges) > 3 and set(charges) == {None}
    lost = False
    while (battery := unit.poll().battery).charge_pct is None:
        pass
    assert battery.charge_pct == 100.0 and not battery.estimated, "asked again, and told"


@pytest.mark.parametrize(("answer", "polls"), [(b"(NAK\r", 1), (b"", 3)])
def test_a_charge_is_guessed_where_the_unit_has_none_and_when_it_tells_its_own_no_more(
    answer: bytes, polls: int
) -> None:
    unit, link = connected("voltronic", dialect="voltronic")
    speak, lost = SPEAKERS["voltronic"], True
    link._speak = lambda it, command: answer if lost and command == b"QBV" else speak(it, command)
    guesses = []
    for _ in range(polls + 3):
        link.unit.set("charge_pct", "80")
        volts = unit.poll().battery
        guesses.append(volts.charge_pct is not None)
    assert guesses.index(True) <= polls + 1 and all(guesses[polls + 2 :])
    lost = False
    for _ in range(60):
        battery = unit.poll().battery
    assert not battery.estimated
    lost, until_s = True, link.now_s + unit_module.GUESS_AFTER_S + 10.0
    while link.now_s < until_s:
        battery = unit.poll().battery
    assert battery.estimated == {"charge_pct"}


def measured(status: Status) -> dict[str, Any]:
    """The values of a status by name; that of the first line as long as the unit is not known to have three."""
    battery = status.battery
    values = {"temperature": status.temperature_c, "volts": battery.voltage_v, "charge": battery.charge_pct}
    values |= {"runtime": battery.runtime_s, "celsius": battery.temperature_c}
    for side, lines in (("in", status.inputs), ("out", status.outputs), ("bypass", status.bypass)):
        if len(lines) in (1, 3):
            for n, line in enumerate(lines):
                values |= {f"{side} {n} V": line.voltage_v, f"{side} {n} A": line.current_a}
                values |= {f"{side} {n} %": line.load_pct, f"{side} {n} Hz": line.frequency_hz}
    return values


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_each_dialect_is_read_over_a_line(speaker: str, tmp_path: Path) -> None:
    with MegatecPty(tmp_path / "ups", dialect=speaker) as ups:
        line = serial_line.open({"port": str(ups.path)}, time.monotonic)
        unit: Any = driver.connect({"dialect": FOUND.get(speaker, speaker)}, line, time.monotonic)
        try:
            assert unit.poll().source is Source.MAINS
            ups.set("mains", "off")
            assert unit.poll().source is Source.BATTERY
            ups.fault("garbage")
            with pytest.raises(LinkError):
                unit.poll()
        finally:
            unit.close()


# --- three phases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speaker", "inputs", "outputs", "bypass"),
    [
        ("voltronic-10", 3, 3, 3),
        ("voltronic-03", 3, 1, 3),
        ("megatec-g", 3, 3, 3),
        ("q6", 3, 1, 1),
        ("q2", 3, 1, 1),
        ("voltronic", 1, 1, 0),
    ],
)
def test_each_line_of_three_phases_has_its_own_values(speaker: str, inputs: int, outputs: int, bypass: int) -> None:
    unit, _ = polled(speaker)
    status = unit.poll()
    assert (len(status.inputs), len(status.outputs), len(status.bypass)) == (inputs, outputs, bypass)
    assert [line.voltage_v for line in status.inputs] == [230.0, 225.4, 234.6][:inputs]
    assert {line.frequency_hz for line in status.inputs} == {50.0}
    if outputs == 3:
        assert [line.voltage_v for line in status.outputs] == [230.0, 225.4, 234.6]
        assert [round(line.load_pct) for line in status.outputs] in ([30, 29, 31], [30, 29, 30])


def test_a_unit_with_three_lines_in_and_one_out_is_asked_for_just_these() -> None:
    unit, link = polled("voltronic-03")
    assert [line.current_a for line in unit.poll().inputs] == [9.0, 8.0, 9.0]
    assert {ask for ask in link.sent if ask[:2] == b"Q3"} == {b"Q3PV\r", b"Q3YV\r", b"Q3PC\r"}
    unit, link = polled("voltronic")
    unit.poll()
    assert not [ask for ask in link.sent if ask[:2] == b"Q3"]


def test_a_lost_line_of_three_is_seen_and_each_line_goes_before_what_the_unit_says_of_all() -> None:
    unit, link = polled("voltronic-10")
    speak = SPEAKERS["voltronic-10"]
    lost = b"(229.0 000.0 234.6 230.0 234.6 398.0\r"
    link._speak = lambda it, command: lost if command == b"Q3PV" else speak(it, command)
    assert [line.voltage_v for line in unit.poll().inputs] == [229.0, 0.0, 234.6]


def test_two_phases_are_two_lines_also_when_the_bypass_says_three_numbers() -> None:
    queries = {query.ask: query for query in voltronic.VOLTRONIC.poll}
    facts = queries[b"Q3PV\r"].parse(b"(120.1 119.9 000.0 240.0 000.0 000.0") | {"protocol": "09"}
    facts |= queries[b"Q3YV\r"].parse(b"(120.2 119.8 000.0")
    status = meaning.look(voltronic.VOLTRONIC.derive(facts), taken_s=0.0)
    assert [line.voltage_v for line in status.inputs] == [120.1, 119.9]
    assert [line.voltage_v for line in status.bypass] == [120.2, 119.8]


def test_each_bit_of_g2_means_one_thing() -> None:
    """a7..a0, b7..b0, c7..c0 of the document; a bit that is not here means nothing to us."""
    bits = {
        "a5": "battery_empty", "a4": "battery_low", "a3": "one_output", "a2": "utility_fail", "a1": "charging",
        "b4": "bypass_bad", "b3": "manual_bypass", "b1": "on_inverter",
        "c6": "emergency_off", "c5": "battery_high", "c3": "overload", "c2": "output_bad", "c1": "too_hot",
        "c0": "output_short",
    }  # fmt: skip
    for word in "abc":
        for n in range(8):
            said = [f"{1 << n if one == word else 0:08b}" for one in "abc"]
            facts = threephase.G2.parse(f"!{' '.join(said)}".encode())
            so = {name for name, value in facts.items() if value and name != "bypass_absent"}
            assert so == ({bits[f"{word}{n}"]} if f"{word}{n}" in bits else set()), (word, n)
            assert facts["bypass_absent"] is ((word, n) != ("b", 2))


def test_g_tells_bypass_from_inverter_and_from_off() -> None:
    bypass, absent = b"!00000010 00000100 00000000", b"!00000010 00000000 00000000"
    manual = b"!00000001 00001111 00000000"
    for answer, source in ((bypass, Source.BYPASS), (absent, Source.NONE), (manual, Source.BYPASS)):
        status = meaning.look(threephase.MEGATEC_G.derive(threephase.G2.parse(answer)), taken_s=0.0)
        assert status.source is source


def test_omron_is_not_on_bypass_and_ablerex_is() -> None:
    unit, link = polled("omron")
    assert unit.poll().source is Source.MAINS and unit.poll().beeper_on is None
    idle = b"(102.5 000.0 102.4 000 49.9 54.5 22.7 00101000"  # a BN150T on mains with nothing at its output
    facts = megatec.OMRON.derive(megatec.Q1.parse(idle))
    assert meaning.look(facts, taken_s=0.0).source is Source.MAINS
    online = b"(230.0 230.0 226.0 030 50.0 2.25 25.0 00110000"
    status = meaning.look(megatec.ABLEREX.derive(megatec.Q1.parse(online)), taken_s=0.0)
    assert status.source is Source.BYPASS and Condition.BATTERY_BAD in status.flags
    with pytest.raises(LinkError):
        megatec.ablerex(b"(\x01\xf4")  # cut by a byte that is a CR


# --- Voltronic --------------------------------------------------------------------------------------------------


def voltronic_status(bits: str, mode: bytes, protocol: str = "01", output_v: str = "230.0") -> Status:
    qgs = f"(230.0 50.0 {output_v} 50.0 001.3 030 369.1 ---.- 026.5 ---.- 018.8 10{bits}".encode()
    facts = {**voltronic.QMOD(mode), **voltronic.QGS.parse(qgs), "protocol": protocol}
    return meaning.look(voltronic.VOLTRONIC.derive(facts), taken_s=0.0)


@pytest.mark.parametrize(
    ("bits", "mode", "protocol", "output_v", "source"),
    [
        ("0000000000", b"(L", "01", "230.0", Source.MAINS),
        ("1000000000", b"(B", "01", "230.0", Source.BATTERY),
        ("1000000000", b"(L", "01", "230.0", Source.BATTERY),  # the bit is immediate, the mode may lag
        ("0000000000", b"(B", "01", "230.0", Source.BATTERY),  # the unit asks for it once more, see below
        ("0010000000", b"(Y", "01", "230.0", Source.BYPASS),
        ("0010000000", b"(E", "01", "230.0", Source.MAINS),  # ECO is no bypass
        ("0010000000", b"(L", "00", "230.0", Source.MAINS),  # AVR that changes nothing
        ("0010000000", b"(L", "00", "200.0", Source.BUCK),
        ("0010000000", b"(L", "08", "250.0", Source.BOOST),
        ("0000000000", b"(S", "01", "000.0", Source.NONE),
        ("0000000000", b"(S", "01", "230.0", Source.MAINS),  # standby with the bypass switched through
        ("1000000000", b"(S", "01", "000.0", Source.NONE),
        ("0000000000", b"(P", "01", "000.0", Source.NONE),  # switching on
    ],
)
def test_the_mode_and_the_bits_of_voltronic_mean_together(
    bits: str, mode: bytes, protocol: str, output_v: str, source: Source
) -> None:
    assert voltronic_status(bits, mode, protocol, output_v).source is source


def test_each_bit_of_qgs_means_one_thing() -> None:
    """The protocol: type (2), utility fail, battery low, bypass or AVR, fault, EPO, test, shutdown, beeper muted."""
    names = {2: "utility_fail", 3: "battery_low", 4: "regulating", 5: "failed", 7: "testing", 8: "shutdown_active"}
    for place in range(12):
        bits = "".join("1" if n == place else "0" for n in range(12))
        facts = voltronic.QGS.parse(f"(230.0 50.0 230.0 50.0 001.3 030 369.1 ---.- 026.5 ---.- 018.8 {bits}".encode())
        said = {name for name, value in facts.items() if value is True and name != "beeper_on"}
        assert said == ({names[place]} if place in names else set()), place
        assert facts["beeper_on"] is (place != 9)


def test_a_mode_alone_that_says_battery_must_say_it_twice() -> None:
    unit, link = polled("voltronic")
    speak, modes = SPEAKERS["voltronic"], [b"(B\r"]
    link._speak = lambda it, command: modes.pop(0) if command == b"QMOD" and modes else speak(it, command)
    assert unit.poll().source is Source.MAINS and link.sent.count(b"QMOD\r") == 3  # one in the poll before
    modes[:] = [b"(B\r", b"(B\r"]  # and the unit knows other reasons than the mains
    assert unit.poll().source is Source.BATTERY
    modes[:] = [b"(B\r", b""]
    assert unit.poll().source is Source.MAINS
    link.unit.set("mains", "off")
    link.sent.clear()
    assert unit.poll().source is Source.BATTERY and link.sent.count(b"QMOD\r") == 1  # its bit says the same


#: place among the warnings of QWS -> what it is to us, if anything
WARNINGS = {
    1: Condition.BATTERY_BAD,  # disconnected
    3: Condition.INPUT_BAD,  # site fault
    4: Condition.INPUT_BAD,  # phase sequence
    6: Condition.BYPASS_BAD,  # its frequency
    8: Condition.LOW_BATTERY,
    9: Condition.OVERLOAD,
    10: Condition.FAN_FAILURE,
    13: Condition.TEMPERATURE_BAD,
    14: Condition.CHARGER_FAILED,
    16: Condition.FUSE_FAILURE,
    17: Condition.FUSE_FAILURE,
    18: Condition.FUSE_FAILURE,
    56: Condition.BATTERY_BAD,  # to be replaced
}


def test_each_warning_is_a_condition_and_none_takes_one_back() -> None:
    answer = bytearray(b"(" + b"0" * 64)
    assert voltronic.warnings(bytes(answer)) == {}
    for place in range(1, 65):
        answer[1:] = b"".join(b"1" if n == place else b"0" for n in range(1, 65))
        facts = voltronic.VOLTRONIC.derive({"battery_low": False, **voltronic.warnings(bytes(answer))})
        assert meaning.look(facts, taken_s=0.0).flags == ({WARNINGS[place]} if place in WARNINGS else set()), place


def test_outlets_are_read_and_switched_where_there_are_some() -> None:
    unit, link = polled("voltronic")
    unit.poll()
    assert [outlet.on for outlet in unit.poll().outlets] == [True, True]
    unit.order(Command.OUTLET_OFF, number=2)
    assert link.unit.outlets == [True, False]
    assert [outlet.on for outlet in unit.poll().outlets] == [True, False]
    with pytest.raises(OrderError, match="from 1 to 4"):
        unit.order(Command.OUTLET_ON, number=5)
    assert Command.OUTLET_ON not in polled("mecer")[0].commands


def test_eco_is_switched_where_the_unit_has_it_and_it_is_no_bypass() -> None:
    unit, link = polled("voltronic")
    unit.order(Command.ECO_ON)
    assert link.unit.eco and unit.poll().source is Source.MAINS
    unit.order(Command.ECO_OFF)
    assert not link.unit.eco and [one for one in link.sent if one[:2] in (b"PE", b"PD")] == [b"PEE\r", b"PDE\r"]
    with pytest.raises(OrderError, match="no argument"):
        unit.order(Command.ECO_ON, number=1)


@pytest.mark.parametrize("answer", [b"(EpashcjDbrogfl\r", b"(NAK\r", b""])
def test_a_unit_that_does_not_tell_of_eco_is_not_told_to_use_it(answer: bytes) -> None:
    unit, link = connected("voltronic", dialect="voltronic")
    speak = SPEAKERS["voltronic"]
    link._speak = lambda it, command: answer if command == b"QFLAG" else speak(it, command)
    for _ in range(4):
        unit.poll()
    assert not {Command.ECO_ON, Command.ECO_OFF} & unit.commands
    with pytest.raises(OrderError, match="cannot do eco-on"):
        unit.order(Command.ECO_ON)


def test_only_a_whole_answer_tells_of_eco() -> None:
    assert voltronic.settings(b"(EpeaD") == {"eco": True} and voltronic.settings(b"(EDe") == {"eco": False}
    for answer in (b"(E", b"(epDe", b"EpDe", b"(EpDe1", b"(EpDe ", b"(OK"):
        with pytest.raises(LinkError):
            voltronic.settings(answer)


def test_an_order_that_is_not_acknowledged_is_told_so() -> None:
    unit, link = polled("mecer")
    speak = SPEAKERS["mecer"]
    link._speak = lambda it, command: b"" if command == b"T" else speak(it, command)
    with pytest.raises(OrderError, match="did not acknowledge T"):
        unit.order(Command.TEST_QUICK)


# --- estimates and what cannot be -------------------------------------------------------------------------------


def test_a_masterguard_says_the_result_of_its_test_and_its_runtime() -> None:
    unit, link = polled("masterguard")
    status = unit.poll()
    assert status.battery.runtime_s == 1200 and not status.battery.estimated  # it says how many cells there are
    speak = SPEAKERS["masterguard"]
    for code, result in (
        *((b"010", TestResult.PASSED), (b"011", TestResult.FAILED), (b"100", TestResult.ABORTED)),
        *((b"101", TestResult.ABORTED), (b"001", TestResult.RUNNING), (b"110", TestResult.RUNNING)),
    ):
        link._speak = lambda it, command, code=code: speak(it, command)[:-4] + code + b"\r"
        assert unit.poll().test.result is result


def test_a_masterguard_is_told_by_the_number_of_its_slave_and_put_on_bypass_and_back() -> None:
    unit, link = connected("masterguard", dialect="masterguard")
    assert not {Command.BEEPER_ON, Command.BEEPER_OFF} & unit.commands  # it has not said its number
    unit.poll()
    for command, sent in ((Command.BEEPER_OFF, b"SS---0,00\r"), (Command.BEEPER_ON, b"SS---1,00\r")):
        unit.order(command)
        assert sent in link.sent and link.unit.beeper is (command is Command.BEEPER_ON)
    for command, source in ((Command.BYPASS_ON, Source.BYPASS), (Command.BYPASS_OFF, Source.MAINS)):
        unit.order(command)
        assert unit.poll().source is source
    assert [one for one in link.sent if one[:1] == b"F"] == [b"FOFF\r", b"FON\r"]
    speak = SPEAKERS["masterguard"]
    link._speak = lambda it, command: speak(it, command).replace(b"(00 ", b"(07 ")
    again = driver.connect({"dialect": "masterguard"}, link, lambda: link.now_s)
    again.poll()
    with pytest.raises(OrderError, match="refused SS---1,07"):  # by the pretend unit, which is 00
        again.order(Command.BEEPER_ON)


def test_without_a_rating_nothing_is_invented_and_the_option_is_enough_for_an_estimate() -> None:
    battery = polled("qs-hex-p")[0].poll().battery
    assert battery.voltage_v == 26.0 and battery.charge_pct is None and not battery.estimated
    battery = polled("qs-hex-p", battery_cells=12)[0].poll().battery
    assert battery.charge_pct == 100.0 and battery.estimated == {"charge_pct"}


def test_a_best_power_unit_is_charged_between_its_own_two_voltages() -> None:
    unit, link = polled("bestups")
    link.unit.set("charge_pct", "0")
    battery = unit.poll().battery
    assert battery.voltage_v == 20.8 and battery.charge_pct == 10.5 and "charge_pct" in battery.estimated


@pytest.mark.parametrize(("bits", "battery_v"), [(0, 12.0), (1, 24.0), (2, 36.0), (3, 48.0)])
@pytest.mark.parametrize(
    ("code", "output_v"), [(0, 110.0), (1, 120.0), (2, 220.0), (3, 230.0), (4, 240.0), (5, None)]
)
@pytest.mark.parametrize("hertz", [50.0, 60.0])
def test_the_rating_byte_of_the_binary_answer_is_three_numbers(
    bits: int, battery_v: float, code: int, output_v: float | None, hertz: float
) -> None:
    rating = bytes(((0x80 if hertz == 60.0 else 0) | bits << 5 | code,)).replace(b" ", b"\x28\x04")
    facts = voltronic.qs_hex(SPEAKERS["qs-hex-t"](pretend.Unit(0.0), b"QS")[:-2] + rating)
    assert (facts["rated_battery_v"], facts["rated_output_v"], facts["rated_hz"]) == (battery_v, output_v, hertz)


def test_each_fact_that_is_a_condition_is_this_one() -> None:
    conditions = {
        "battery_low": Condition.LOW_BATTERY, "failed": Condition.GENERAL_FAULT, "testing": Condition.TEST_RUNNING,
        "shutdown_active": Condition.SHUTDOWN_PENDING, "battery_bad": Condition.BATTERY_BAD,
        "overload": Condition.OVERLOAD, "fan_failed": Condition.FAN_FAILURE, "fuse_failed": Condition.FUSE_FAILURE,
        "too_hot": Condition.TEMPERATURE_BAD, "charger_failed": Condition.CHARGER_FAILED,
        "bypass_bad": Condition.BYPASS_BAD, "bypass_absent": Condition.BYPASS_BAD, "input_bad": Condition.INPUT_BAD,
        "output_bad": Condition.OUTPUT_BAD, "output_short": Condition.OUTPUT_BAD,
        "battery_empty": Condition.BATTERY_DEPLETED, "battery_high": Condition.BATTERY_BAD,
        "no_battery": Condition.BATTERY_BAD, "emergency_off": Condition.GENERAL_FAULT,
        "failed_parallel": Condition.GENERAL_FAULT,
    }  # fmt: skip
    assert conditions.keys() == meaning.CONDITIONS.keys()
    for name, condition in conditions.items():
        assert meaning.look({name: True}, taken_s=0.0).flags == {condition}
        assert meaning.look({name: False}, taken_s=0.0).flags == set()


def test_a_unit_that_says_that_it_charges_does_and_its_rating_is_its_own() -> None:
    charging = {**threephase.G2.parse(b"!00000010 00000110 00000000"), "rated_va": 1000.0, "rated_w": 700.0}
    status = meaning.look(threephase.MEGATEC_G.derive(charging), taken_s=0.0)
    assert status.battery.flow is Flow.CHARGING
    assert (status.rating.apparent_va, status.rating.power_w) == (1000.0, 700.0)


@pytest.mark.parametrize("name", ["temperature_c", "battery_temperature_c"])
def test_a_temperature_that_cannot_be_is_unknown(name: str) -> None:
    assert meaning.plausible({name: 35.0}) == ({name: 35.0}, {})
    assert meaning.plausible({name: 400.0}) == ({name: None}, {name: 400.0})


@pytest.mark.parametrize(
    ("parse", "whole"),
    [
        (megatec.Q1.parse, b"(230.0 229.0 231.0 030 50.0 26.0      00001001"),  # no sensor: blanks
        (voltronic.QMD.parse, b"(" + b" " * 15 + b" ###1000 80 1/1 230 230 02 12.0"),
    ],
)
def test_blanks_for_a_value_are_read_by_the_columns_of_a_whole_answer_alone(
    parse: Callable[[bytes], Facts], whole: bytes
) -> None:
    assert any(value is None for value in parse(whole).values())
    for wrong in (whole + b"1", whole + b" ", whole[:-1], whole[:1] + whole[2:]):
        with pytest.raises(LinkError):
            parse(wrong)


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [
        (b"(999.9 229.0 231.0 030 50.0 26.0 25.0 00001001\r", lambda s: s.inputs[0].voltage_v, None),
        (b"(230.0 229.0 231.0 030 99.9 26.0 25.0 00001001\r", lambda s: s.inputs[0].frequency_hz, None),
        (b"(230.0 229.0 231.0 999 50.0 26.0 25.0 00001001\r", lambda s: s.outputs[0].load_pct, None),
        (b"(230.0 229.0 231.0 030 50.0 04.0 25.0 00001001\r", lambda s: s.battery.voltage_v, None),
        (
            b"(002.9 229.0 231.0 030 00.0 26.0 25.0 10001001\r",
            lambda s: s.inputs[0].voltage_v,
            2.9,
        ),  # dead, not wrong
        (b"(002.9 229.0 231.0 030 00.0 26.0 25.0 10001001\r", lambda s: s.inputs[0].frequency_hz, 0.0),
        (b"(230.0 229.0 231.0 030 50.0 26.0 25.0 00001001\r", lambda s: s.rating.input_voltage_v or 0.0, 0.0),
    ],
)
def test_a_value_that_cannot_be_is_unknown_and_named(
    frame: bytes, field: Callable[[Status], Any], value: float | None
) -> None:
    link = ScriptLink({b"Q1": frame, b"F": b"#000.0 000 00.00 00.0\r", b"I": b"I\r"})
    unit = driver.connect({"dialect": "megatec"}, link, lambda: link.now_s)
    for _ in range(3):
        assert field(unit.poll()) == value
        assert len(unit.odd) == (1 if value is None else 0)
    link.answers[b"Q1"] = b"(230.0 229.0 231.0 030 50.0 26.0 25.0 00001001\r"
    unit.poll()
    assert unit.odd == {}


# --- whatever the line may bring --------------------------------------------------------------------------------

WHOLE = {case["form"]: bytes_of(case) for case in CASES if not case.get("refused") and case["form"] != "M"}
#: parser -> the first that uses it, and for what: several dialects read the same question, each in its way
_USED = {
    q.parse: f"{d.name} {q.ask.decode().strip()}" for d in [*DIALECTS.values()][::-1] for q in (*d.poll, *d.once)
}
PARSERS = {name: parse for parse, name in _USED.items()}
ALPHABET = b"0123456789. -/@#(!NAKPIOB\0\x28\x20\xff"


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A whole answer of any form with a few bytes replaced, removed or doubled; or any bytes at all."""
    answer = bytearray(draw(st.one_of(st.sampled_from(sorted(WHOLE.values())), st.binary(max_size=120))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(answer) - 1)))
        match draw(st.sampled_from(("replace", "remove", "insert"))):
            case "replace" if answer:
                answer[at] = draw(st.sampled_from(ALPHABET))
            case "remove":
                del answer[at : at + draw(st.integers(1, 4))]
            case _:
                answer[at:at] = draw(st.binary(max_size=3))
    return bytes(answer)


@given(bent())
def test_any_bytes_are_facts_or_a_link_error_with_the_bytes(answer: bytes) -> None:
    for parser, parse in PARSERS.items():
        try:
            facts = parse(answer)
        except LinkError as e:
            assert repr(answer[:80]) in str(e)
            continue
        for name, value in facts.items():
            assert value is None or isinstance(value, (bool, str)) or abs(value) < 1e8, (parser, name)


#: (parser, a whole answer of an outage with 60 minutes and 80 % left), wherever these are of a fixed width
WIDE: dict[str, tuple[Callable[[bytes], Facts], bytes]] = {
    "QBV": (voltronic.QBV.parse, b"(026.0 02 01 080 060"),
    "QBV, newer": (voltronic.QBV.parse, b"(041.0 03 01 080 00060"),
    "RT": (megatec.RT.parse, b"060"),
    "RTS": (megatec.RTS.parse, b"0060"),
    "Bl ?": (megatec.BL_ASKED.parse, b"080"),
    "Q3": (
        threephase.Q3.parse,
        b"(00 000.0 000.0 230.0 030 50.0 02.20 35.0 060.00 080 10001000 00000000",
    ),
    "G1": (threephase.G1.parse, b"!240 080 0060 025.0 +35.0 50.1 50.0 50.0"),
    "Q6": (
        threephase.Q6.parse,
        b"(000.0 000.0 000.0 00.0 230.0 230.0 230.0 50.0 030 030 030 240.0 240.0 25.0 03600 080 32 00000000 00000000"
        b" 11",
    ),
    "Q2": (
        threephase.Q2.parse,
        b"(226.6 224.3 228.0 226.6 229.9 000.0 000.0 000 000 000 49.9 327.6 18.0 00000000 060.00 080 02 00 00 00 00"
        b" 00000000 11",
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_one_lost_byte_makes_no_empty_battery(name: str) -> None:
    parse, whole = WIDE[name]
    said = {key: value for key, value in parse(whole).items() if key in ("runtime_s", "charge_pct")}
    assert said and all(said[key] == {"runtime_s": 3600.0, "charge_pct": 80.0}[key] for key in said)
    for at in range(len(whole)):
        try:
            facts = parse(whole[:at] + whole[at + 1 :])
        except LinkError:
            continue
        assert {key: facts[key] for key in said} == said, at


#: what a status frame is in full: only such a one may say that the mains is gone
_NUMBER = rb"([0-9]{1,5}(\.[0-9]{0,3})?|[-@#.]+|#+[0-9.]+)"
_SIGNED = rb"([-+]?[0-9]{1,4}(\.[0-9]{0,3})?|[-@#.]+|#+[0-9.]+)"
_Q1_SHAPE = rb"\( *(" + _NUMBER + rb" +){6}" + _SIGNED + rb" +[01\0]{8} *|\([-0-9.@# ]{37}[01\0]{8}"
_SKIPPED = rb"([-+]?[0-9]{1,5}(\.[0-9]{0,3})?|[01]{8}|[-@#.]+)"
_QGS_SHAPE = (
    rb"\( *(" + _NUMBER + rb" +){6}(" + _SKIPPED + rb" +){2}" + _NUMBER + rb" +" + _SKIPPED + rb" +" + _SIGNED
    + rb" +[01]{12} *"
)  # fmt: skip
_Q3_SHAPE = (
    rb"\( *" + _SKIPPED + rb" +(" + _NUMBER + rb" +){6}" + _SIGNED + rb" +[0-9]{1,4}\.[0-5][0-9] +" + _NUMBER
    + rb" +[01]{8} +[01]{8} *"
)  # fmt: skip
SHAPES = {
    b"Q1\r": _Q1_SHAPE,
    b"D\r": _Q1_SHAPE,
    b"QS\r": _Q1_SHAPE + rb"|#.{24,36}",
    b"QGS\r": _QGS_SHAPE,
    b"Q3\r": _Q3_SHAPE,
    b"Q4\r": rb"\( *((" + _SIGNED + rb"|" + _NUMBER + rb") +){12}[A-N]{1,14} *",
    b"G2\r": rb"! *[01]{8} +[01]{8} +[01]{8} *",
}
FRAMES = int(os.environ.get("RIDETHROUGH_FUZZ_FRAMES", "3000"))


def damaged(frame: bytes, chance: random.Random) -> bytes:
    """As a bad line brings it: bits turned, bytes lost or doubled, cut, or two frames in one."""
    data = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) or 1)
        match chance.randrange(6):
            case 0 if data:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + chance.randint(1, 8)]
            case 2:
                data[at:at] = bytes((chance.randrange(256),)) * chance.randint(1, 3)
            case 3:
                del data[at:]
            case 4:
                data[at:] = frame
            case _ if data:
                data[at] = chance.choice(ALPHABET)
    return bytes(data)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_no_damaged_frame_of_another_shape_is_on_battery(name: str) -> None:
    """F21."""
    chance, query, battery, refused = random.Random(f"20261126 {name}"), DIALECTS[name].poll[0], 0, 0
    unit = pretend.Unit(0.0)
    on_mains = SPEAKERS[name](unit, query.ask[:-1])[:-1]
    unit.set("mains", "off")
    whole = (on_mains, SPEAKERS[name](unit, query.ask[:-1])[:-1])
    for _ in range(FRAMES):
        frame = damaged(chance.choice(whole), chance)
        try:
            facts = query.parse(frame)
        except LinkError:
            refused += 1
            continue
        if facts.get("utility_fail"):
            battery += 1
            assert re.fullmatch(SHAPES[query.ask], frame, re.DOTALL), (name, frame)
            assert query.ask == b"G2\r" or any(type(value) is float for value in facts.values()), (name, frame)
    assert battery and refused > FRAMES / 3


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_status_frame_without_any_readable_number_is_refused(name: str) -> None:
    query, unit = DIALECTS[name].poll[0], pretend.Unit(0.0)
    unit.set("mains", "off")
    frame = SPEAKERS[name](unit, query.ask[:-1])[:-1]
    if query.ask == b"G2\r" or frame[:1] == b"#":
        return  # flags alone; binary numbers, which always are some
    words = frame[1:].split(b" ")
    blank = [re.sub(rb"\d", b"-", word) if b"." in word or len(word) == 3 else word for word in words]
    with pytest.raises(LinkError, match="no number|not minutes and seconds"):
        query.parse(b"(" + b" ".join(blank))
    assert query.parse(frame)["utility_fail"]


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_one_damaged_answer_to_any_question_of_a_poll_on_mains_is_no_outage(speaker: str) -> None:
    """F21, behind the status frame: each place of the poll in turn; the damaged one may be that of an outage."""
    chance, speak, outage = random.Random(f"20261126 {speaker}"), SPEAKERS[speaker], pretend.Unit(0.0)
    outage.set("mains", "off")
    for query in DIALECTS[FOUND.get(speaker, speaker)].poll[1:]:
        asked, heard = query.ask[:-1], 0
        for _ in range(max(50, FRAMES // 200)):
            unit, link = polled(speaker)
            answers = [damaged(speak(chance.choice((link.unit, outage)), asked)[:-1], chance) + b"\r"]

            def one_is_damaged(it: pretend.Unit, command: bytes) -> bytes:
                return answers.pop() if answers and command == asked else speak(it, command)  # noqa: B023

            link._speak = one_is_damaged
            assert unit.poll().source is not Source.BATTERY, (query.ask, link.answers[asked])
            heard += not answers
        refuses = speak(outage, asked) == b"(NAK\r"  # asked once, or only of units of another protocol number
        assert heard or refuses, query.ask


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_damaged_answer_is_facts_or_a_link_error_to_every_parser(name: str) -> None:
    chance, answers, parse = random.Random(f"20261126 {name}"), sorted(WHOLE.values()), PARSERS[name]
    own = own_answers(name)
    slow, read = list[bytes](), 0
    for _ in range(FRAMES):
        answer = damaged(chance.choice(own if chance.randrange(2) else answers), chance)
        began_s = time.thread_time()
        try:
            parse(answer)
            read += 1
        except LinkError as e:
            assert repr(answer[:80]) in str(e)
        if time.thread_time() - began_s > 0.001:
            slow.append(answer)
    assert read and not [answer for answer in slow if cpu_s(parse, answer) > 0.001]


def own_answers(name: str) -> list[bytes]:
    """What the pretend units of its dialect answer to its question."""
    dialect, _, ask = name.partition(" ")
    units = [SPEAKERS[speaker] for speaker in SPEAKERS if speaker.partition("-1")[0] == dialect]
    said = [speak(pretend.Unit(0.0), ask.encode()).rstrip(b"\r") for speak in units]
    return [one for one in said if one not in (b"", b"(NAK", ask.encode())] or [
        b"(1"
    ]  # outlets that it does not have


def cpu_s(parse: Callable[[bytes], object], answer: bytes) -> float:
    """The time of the processor for an answer, of three tries the best: a collection of garbage is no slow parser."""
    took_s = []
    for _ in range(3):
        began_s = time.thread_time()
        try:
            parse(answer)
        except LinkError:
            pass
        took_s.append(time.thread_time() - began_s)
    return min(took_s)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_no_parser_takes_a_millisecond(name: str) -> None:
    answers = [*WHOLE.values(), b"(" + b"1 " * 255, b"!" + b"/" * 500, b"#" + b"9" * 511, b"(00 " + b" " * 508]
    assert max(cpu_s(PARSERS[name], answer) for answer in answers) < 0.001


def test_the_status_card_has_the_questions_and_the_evidence_of_each_dialect() -> None:
    card = (Path(__file__).parent.parent / "docs" / "drivers.md").read_text()
    for name, dialect in DIALECTS.items():
        (row,) = (line for line in card.splitlines() if line.startswith(f"| `{name}` | `"))
        _, _, polled, once, evidence, state, auto, _ = (cell.strip() for cell in row.split("|"))
        assert polled.strip("`").split("` `") == [query.ask.decode().strip() for query in dialect.poll]
        assert once.replace("`", "").split() == [q.ask.decode().strip() for q in dialect.once] or once == "none"
        assert evidence == dialect.evidence and auto == ("yes" if dialect.auto else "no")
        assert state == dialect.state
        assert state != "complete" or "capture" in evidence or "NUT" in evidence


@pytest.mark.parametrize("letters", [b"@@@A", b"#A", b"A#", b"A\0", b"O", b"--"])
def test_letters_with_anything_beside_them_are_no_flags_of_a_gtec_unit(letters: bytes) -> None:
    frame = b"(000.0 243.2 212.1 230.0 230.0 002 030 00.0 371 372 026.0 25.0 "
    assert megatec.gtec(frame + b"A")["utility_fail"] is True
    assert megatec.gtec(frame + b"IM ")["utility_fail"] is False
    with pytest.raises(LinkError):
        megatec.gtec(frame + letters)


def test_who_says_that_nut_agrees_is_compared_with_nut() -> None:
    compared = {FOUND.get(speaker, speaker) for speaker, *_ in peer_q1.PEERS}
    assert {name for name, dialect in DIALECTS.items() if "NUT" in dialect.evidence} == compared
    scenes = {
        kind: one for kinds, one in ((peer_bridge.PEERS, False), (peer_bridge.UNTESTED, True)) for kind, *_ in kinds
    }
    assert {one.name: "one scene" in one.evidence for one in BRIDGES if "NUT" in one.evidence} == scenes


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_after_a_shutdown_it_looks_three_times_whether_the_countdown_runs(after: int) -> None:
    unit, link = polled("megatec")
    speak, looks = SPEAKERS["megatec"], 0

    def late(it: pretend.Unit, command: bytes) -> bytes:
        """The bit of a unit that needs so many looks."""
        nonlocal looks
        said = speak(it, command)
        if command != b"Q1":
            return said
        looks += 1
        return said if looks > after else said[:44] + b"0" + said[45:]

    link._speak = late
    said = unit.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=180)
    assert said == ("" if after < 3 else "the UPS shows no countdown") and looks == min(after + 1, 3)


def test_a_unit_that_is_silent_at_the_second_look_has_taken_the_order() -> None:
    unit, link = polled("megatec")
    speak, looks = SPEAKERS["megatec"], 0

    def once(it: pretend.Unit, command: bytes) -> bytes:
        nonlocal looks
        looks += command == b"Q1"
        said = speak(it, command)
        return said if command != b"Q1" else said[:44] + b"0" + said[45:] if looks == 1 else b""

    link._speak = once
    said = unit.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=180)
    assert said is not None and said.startswith("it was not seen whether it counts down: ") and looks == 2


def test_after_a_stop_it_looks_whether_the_countdown_is_over() -> None:
    unit, link = polled("megatec")
    assert unit.order(Command.SHUTDOWN_STAY_OFF, delay_s=60) == ""
    assert unit.order(Command.SHUTDOWN_STOP) == ""
    speak = SPEAKERS["megatec"]
    link._speak = lambda it, command: b"" if command == b"C" else speak(it, command)
    unit.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    assert unit.order(Command.SHUTDOWN_STOP) == "the UPS still shows a countdown"
    assert unit.order(Command.TEST_QUICK) == ""  # nobody asked for a countdown


@pytest.mark.parametrize(
    ("delays", "sent", "said"),
    [
        ({"delay_s": 12, "return_delay_s": 180}, b"S.2R0003\r", ""),
        ({"delay_s": 30, "return_delay_s": 60}, b"S.5R0003\r", "back after 180 s, not 60"),
        ({"delay_s": 61, "return_delay_s": 190}, b"S02R0004\r", "off after 120 s, not 61, back after 240 s, not 190"),
        ({"delay_s": 50}, b"S.9R0000\r", "off after 54 s, not 50"),
    ],
)
def test_a_delay_that_is_rounded_up_is_said(delays: dict[str, float], sent: bytes, said: str) -> None:
    unit, link = polled("megatec")
    command = Command.SHUTDOWN_RETURN if "return_delay_s" in delays else Command.SHUTDOWN_STAY_OFF
    assert unit.order(command, **delays) == said and sent in link.sent


@pytest.mark.parametrize("name", [name for name, dialect in DIALECTS.items() if dialect.orders.words])
def test_an_order_outside_of_the_limits_of_its_dialect_is_one_error_that_names_them(name: str) -> None:
    orders = DIALECTS[name].orders
    low_s, high_s = orders.off_delay_s
    for wrong_s in (low_s - 1, high_s + 1, -1, float("nan"), None, True):
        with pytest.raises(OrderError, match=f"^shutdown-return: delay_s must be from {low_s:g} to {high_s:g}, not "):
            encode(Command.SHUTDOWN_RETURN, {"delay_s": wrong_s, "return_delay_s": 180}, orders)
    with pytest.raises(OrderError, match="return_delay_s must be from 0 to 599940, not 599941"):
        encode(Command.SHUTDOWN_RETURN, {"delay_s": 60, "return_delay_s": 599941}, orders)
    for return_delay_s in (0, 1, 60, 180):  # less than 3 minutes, and early units never come back
        word = encode(Command.SHUTDOWN_RETURN, {"delay_s": 60, "return_delay_s": return_delay_s}, orders)
        assert word == b"S01R0003\r"
