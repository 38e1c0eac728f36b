"""Any bytes from an APC unit are a value of the right form or a LinkError, and never an outage that nobody said."""

from __future__ import annotations

import math
import random
import re
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent import apc, wire
from agent.drivers import apcsmart
from agent.model import LinkError, OrderError, Reply, Source, Status
from tests.simulators.script import ScriptLink
from tests.test_apcsmart import CASES, polled
from tests.test_q1 import FRAMES, damaged

REAL = [c["text"].encode("latin-1") for c in CASES["answers"]]
junk = st.one_of(
    st.binary(max_size=40), st.sampled_from(REAL), st.text("0123456789ABCDEF.:!$%+ NAOK", max_size=8).map(str.encode)
)
questions = st.sampled_from(sorted(apc.FORMS))


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A real answer with a byte changed, lost or doubled."""
    answer = bytearray(draw(st.sampled_from(REAL)))
    at = draw(st.integers(0, len(answer) - 1))
    how = draw(st.sampled_from(("change", "lose", "double")))
    if how == "change":
        answer[at] = draw(st.integers(0, 255))
    elif how == "lose":
        del answer[at]
    else:
        answer.insert(at, answer[at])
    return bytes(answer)


@given(questions, st.one_of(junk, bent()))
def test_any_bytes_are_a_value_or_a_link_error_with_the_bytes(question: bytes, answer: bytes) -> None:
    try:
        value = apc.parse(question, answer)
    except LinkError as e:
        assert repr(answer[:80]) in str(e)
        return
    if isinstance(value, (int, float)):
        assert math.isfinite(value) and abs(value) < 1e6
    status = apc.look(0x08, {} if value is None else {question: value}, taken_s=1.0)
    assert wire.from_json(Status, wire.to_json(status)) == status and status.source in (Source.MAINS, Source.BYPASS)


@given(st.one_of(junk, bent(), st.integers(0, 255).map(lambda bits: b"%02X" % bits)))
def test_on_battery_is_two_digits_that_say_so_and_nothing_else(answer: bytes) -> None:
    try:
        bits = apc.parse(b"Q", answer)
    except LinkError:
        return
    if isinstance(bits, int) and apc.source(bits) is Source.BATTERY:
        assert re.fullmatch(rb"[!$%+?=*#&|]*[13579BDF][!$%+?=*#&|]*[0-7][!$%+?=*#&|]*", answer)


@given(st.one_of(junk, bent(), st.binary(max_size=200).map(lambda b: b"#" + b)))
def test_any_bytes_are_commands_and_capabilities_or_a_link_error(answer: bytes) -> None:
    for parse in (apc.parse_commands, apc.parse_capabilities):
        try:
            found = parse(answer)
        except LinkError:
            continue
        assert found is None or len(found) <= 256


@given(st.lists(st.one_of(st.none(), junk, bent()), min_size=3, max_size=12))
def test_a_driver_on_a_mad_line_polls_on(answers: list[bytes | None]) -> None:
    replies = iter(answers * 400)

    def next_reply() -> bytes | None:
        said = next(replies, None)
        return None if said is None else said + b"\r\n"

    link = ScriptLink(dict.fromkeys((bytes((c,)) for c in range(128)), next_reply))
    driver = apcsmart.connect({}, link, lambda: link.now_s)
    link.answers[b"Y"] = b"SM\r\n"
    for _ in range(4):
        began_s = link.now_s
        try:
            assert isinstance(driver.poll(), Status)
        except LinkError:
            pass
        assert link.now_s - began_s <= 6.0
    for command in sorted(driver.commands, key=lambda c: c.value):
        began_s = link.now_s
        try:
            driver.order(command, **{k: low for k, (low, _) in apc.DELAYS.get(command, {}).items()})
        except (LinkError, OrderError):
            pass
        assert link.now_s - began_s <= 10.0


def test_one_damaged_answer_to_any_question_of_a_poll_on_mains_is_no_outage() -> None:
    """F21: each place of the poll in turn; what is damaged may be the answer of an outage."""
    chance, (driver, line) = random.Random(20261126), polled()
    ask, turn = line.ask, 0
    driver.poll()
    places = len(line.sent)

    def one_is_damaged(command: bytes, **how: Any) -> Reply:
        nonlocal turn
        said, turn = ask(command, **how), turn - 1
        bad = chance.choice((damaged(said.data, chance), damaged(b"10", chance), b"10"))
        return Reply(bad, said.received_s) if turn == -1 else said

    line.ask = one_is_damaged  # type: ignore[method-assign]
    for number in range(max(30, FRAMES // (10 * places)) * places):
        turn = number % places
        try:
            assert driver.poll().source is not Source.BATTERY
        except LinkError:
            pass


def test_no_damaged_answer_but_two_digits_that_say_so_is_on_battery() -> None:
    """F21: any damage to any real answer is a value or a LinkError, in less than a millisecond on the mean."""
    chance, battery, refused, took_s = random.Random(20261126), 0, 0, 0.0
    forms, whole = sorted(apc.FORMS), [b"08", b"10", b"50", b"08!", *REAL]
    for number in range(FRAMES):
        question = b"Q" if number % 2 else chance.choice(forms)
        answer = damaged(chance.choice(whole), chance)
        began_s = time.thread_time()
        try:
            value = apc.parse(question, answer)
        except LinkError:
            refused += 1
            continue
        finally:
            took_s += time.thread_time() - began_s
        if question == b"Q" and isinstance(value, int) and apc.source(value) is Source.BATTERY:
            battery += 1
            assert re.fullmatch(rb"[13579BDF][0-7]", apc.plain(answer)), answer
    assert battery and refused > FRAMES / 4 and took_s / FRAMES < 0.001
