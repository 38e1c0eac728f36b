"""The Megatec driver: real answers, every bit, refusals, per-cell volts, and orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.drivers import megatec
from agent.model import Command, Condition, Flow, Ident, LinkError, OrderError, Source, Status, Test, TestResult
from agent.q1 import meaning
from agent.q1.form import identity
from agent.q1.megatec import Q1, F
from tests.simulators.script import LateLink, ScriptLink

CASES = json.loads((Path(__file__).parent / "cases" / "megatec.json").read_text())
ON_LINE = b"(230.0 229.0 231.0 030 50.0 26.0 25.0 00001001\r"
RATING = b"#230.0 004 24.00 50.0\r"
IDENTITY = b"#MEGATEC         PTY1K      V1.00     \r"
WORKING = {b"Q1": ON_LINE, b"F": RATING, b"I": IDENTITY}


def bytes_of(case: dict[str, Any]) -> bytes:
    raw = bytes.fromhex(case["hex"]) if "hex" in case else case["text"].encode() + b"\r"
    return raw.partition(b"\r")[0]


def frame(flags: str = "00001001", output_v: str = "231.0", battery_v: str = "26.0", input_v: str = "230.0") -> bytes:
    return f"({input_v} 229.0 {output_v} 030 50.0 {battery_v} 25.0 {flags}\r".encode()


def connected(answers: dict[bytes, Any], **section: Any) -> tuple[Any, ScriptLink]:
    """On plain Q1: looking for the dialect is another file's matter."""
    link = ScriptLink(answers)
    return megatec.connect({"dialect": "megatec", **section}, link, lambda: link.now_s), link


def looked_at(answer: bytes) -> Status:
    return meaning.look(meaning.with_battery(Q1.parse(answer), None), taken_s=1.0)


# --- the codec --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES["q1"], ids=lambda c: c["id"])
def test_real_q1_answers_say_what_their_source_says(case: dict[str, Any]) -> None:
    if case.get("refused"):
        with pytest.raises(LinkError):
            Q1.parse(bytes_of(case))
        return
    facts, status = Q1.parse(bytes_of(case)), looked_at(bytes_of(case))
    found = {**facts, "source": status.source.value, "per_cell": meaning.per_cell(facts)}
    for name, value in case["expect"].items():
        assert found[name] == value, name


@pytest.mark.parametrize("case", CASES["f"], ids=lambda c: c["id"])
def test_real_ratings_say_what_their_source_says(case: dict[str, Any]) -> None:
    driver, _ = connected({**WORKING, b"F": bytes_of(case) + b"\r"})
    rating = driver.poll().rating
    found = (rating.input_voltage_v, rating.output_current_a, rating.battery_voltage_v, rating.input_frequency_hz)
    assert dict(zip(("voltage_v", "current_a", "battery_v", "frequency_hz"), found, strict=True)) == case["expect"]


@pytest.mark.parametrize("case", CASES["i"], ids=lambda c: c["id"])
def test_real_identities_say_what_their_source_says(case: dict[str, Any]) -> None:
    if case.get("refused"):
        with pytest.raises(LinkError):
            identity(bytes_of(case))
        return
    assert identity(bytes_of(case)) == case["expect"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"(",
        b"Q1",
        b"NAK",
        b"(NAK",
        b"N",
        ON_LINE[:-2],  # one flag short
        ON_LINE[:-1] + b"0",  # one flag long
        ON_LINE[1:-1],  # no bracket
        b"#" + ON_LINE[1:-1],
        b"((" + ON_LINE[2:-1],
        ON_LINE[:-1] + b" 00",
        ON_LINE[:30],
        ON_LINE[6:-1],
        ON_LINE[:20] + ON_LINE[:-1],  # a broken answer and a whole one
        ON_LINE[:-1].replace(b"030", b"03O"),
        ON_LINE[:-1].replace(b"030", b"\0\0\0"),
        ON_LINE[:-1].replace(b"230.0", b"-30.0"),
        ON_LINE[:-1].replace(b"230.0", b"2.3.0"),
        ON_LINE[:-1].replace(b"230.0", b"1e2.0"),
        ON_LINE[:-1].replace(b"00001001", b"00002001"),
        "(٢٣٠.0 229.0 231.0 030 50.0 26.0 25.0 00001001".encode(),
    ],
)
def test_what_is_not_a_whole_answer_is_refused_with_its_bytes(answer: bytes) -> None:
    with pytest.raises(LinkError) as caught:
        Q1.parse(answer)
    assert repr(answer[:80]) in str(caught.value)


@pytest.mark.parametrize("absent", ["--.-", "@@.@", "##.#", "----", "@", "    "])
def test_a_field_of_padding_is_a_value_that_the_unit_does_not_say(absent: str) -> None:
    answer = f"(230.0 229.0 231.0 030 50.0 26.0 {absent} 00001001".encode()
    assert Q1.parse(answer)["temperature_c"] is None


def test_every_number_but_one_may_be_absent_and_none_of_them_becomes_zero() -> None:
    answer = b"(---.- ---.- ---.- --- --.- 26.0 --.- 10000000"
    assert [name for name, value in Q1.parse(answer).items() if type(value) is float] == ["battery_v"]
    status = looked_at(answer)
    assert status.source is Source.BATTERY
    assert status.inputs[0].voltage_v is None and status.outputs[0].load_pct is None
    assert status.battery.voltage_v == 26.0 and status.battery.charge_pct is None


@pytest.mark.parametrize("flags", ["10000000", "00001001"])
@pytest.mark.parametrize(
    "numbers", ["---.- ---.- ---.- --- --.- --.- --.-", "@@@.@ @ @ @ @ @ @", "###.# # # # # # #", " " * 36]
)
def test_a_frame_without_any_readable_number_says_nothing_and_is_no_outage(numbers: str, flags: str) -> None:
    answer = f"({numbers} {flags}".encode()
    assert len(answer) == 46 or numbers.strip()
    with pytest.raises(LinkError, match="no number") as caught:
        Q1.parse(answer)
    assert repr(answer[:80]) in str(caught.value)


def test_a_temperature_may_be_below_zero() -> None:
    assert Q1.parse(b"(230.0 229.0 231.0 030 50.0 26.0 -5.0 00001001")["temperature_c"] == -5.0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"F",
        b"#",
        b"(230.0 004 24.00 50.0",
        b"#230.0 004 24.00",
        b"#230.0 004 24.00 50.0 1",
        b"#x 004 24.00 50.0",
    ],
)
def test_what_is_no_rating_is_refused(answer: bytes) -> None:
    with pytest.raises(LinkError, match="F: |not a number"):
        F.parse(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"I",
        b"#",
        b"#" + b" " * 50 + b"x",
        b"#MEGATEC12345678X          V1.00     ",
        b"#" + b"\xe4" * 37,
        b"#\x1b[31m" + b" " * 33,
    ],
)
def test_what_is_no_identity_is_refused(answer: bytes) -> None:
    with pytest.raises(LinkError, match="I: "):
        identity(answer)


def test_an_identity_of_blanks_says_nothing() -> None:
    assert identity(b"#" + b" " * 37) == {"manufacturer": None, "model": None, "firmware": None}


# --- the meaning ------------------------------------------------------------------------------------------------


def test_on_line_every_value_is_where_it_belongs() -> None:
    driver, link = connected(WORKING)
    status = driver.poll()
    assert status.taken_s == 1000.25  # of the receipt of Q1, not of what was asked after it
    assert status.source is Source.MAINS and status.flags == frozenset()
    (line,) = status.inputs
    assert (line.voltage_v, line.fault_voltage_v, line.frequency_hz) == (230.0, 229.0, 50.0)
    (line,) = status.outputs
    assert (line.voltage_v, line.load_pct, line.frequency_hz) == (231.0, 30.0, None)
    battery = status.battery
    assert (battery.voltage_v, battery.low, battery.flow, battery.runtime_s) == (26.0, False, None, None)
    assert (battery.charge_pct, battery.estimated) == (100.0, frozenset({"charge_pct"}))
    assert status.ident == Ident(manufacturer="MEGATEC", model="PTY1K", firmware="V1.00")
    rating = status.rating
    assert (rating.input_voltage_v, rating.output_voltage_v, rating.battery_voltage_v) == (230.0, 230.0, 24.0)
    assert (rating.input_frequency_hz, rating.output_current_a) == (50.0, 4.0)
    assert (status.temperature_c, status.beeper_on, status.test) == (25.0, True, Test())
    assert link.sent == [b"Q1\r", b"F\r", b"I\r"]


@pytest.mark.parametrize(
    ("flags", "source", "conditions"),
    [
        ("00000000", Source.MAINS, set()),
        ("10000000", Source.BATTERY, set()),
        ("01000000", Source.MAINS, {Condition.LOW_BATTERY}),
        ("11000000", Source.BATTERY, {Condition.LOW_BATTERY}),
        ("00100000", Source.BYPASS, {Condition.ON_BYPASS}),
        ("10100000", Source.BATTERY, set()),
        ("00010000", Source.MAINS, {Condition.GENERAL_FAULT}),
        ("00001000", Source.MAINS, set()),
        ("00000100", Source.MAINS, {Condition.TEST_RUNNING}),
        ("00000010", Source.MAINS, {Condition.SHUTDOWN_PENDING}),
        ("00000001", Source.MAINS, set()),
    ],
)
def test_each_bit_means_one_thing(flags: str, source: Source, conditions: set[Condition]) -> None:
    status = connected({b"Q1": frame(flags)})[0].poll()
    assert (status.source, status.flags) == (source, conditions)
    assert status.battery.low is (flags[1] == "1") and status.beeper_on is (flags[7] == "1")
    assert status.battery.flow is (Flow.DISCHARGING if flags[0] == "1" else None)


@pytest.mark.parametrize(
    ("output_v", "source"),
    [
        ("114.9", Source.MAINS),  # below half the input: nonsense, ignored
        ("115.0", Source.BUCK),
        ("218.4", Source.BUCK),
        ("218.5", Source.BYPASS),
        ("241.4", Source.BYPASS),
        ("241.6", Source.BOOST),
        ("344.9", Source.BOOST),
        ("345.1", Source.MAINS),
        ("---.-", Source.MAINS),
    ],
)
def test_the_output_voltage_tells_bypass_from_boost_and_buck(output_v: str, source: Source) -> None:
    assert connected({b"Q1": frame("00100000", output_v)})[0].poll().source is source


def test_a_regulating_unit_without_input_voltage_divides_by_nothing() -> None:
    for input_v in ("000.0", "---.-"):
        assert connected({b"Q1": frame("00100000", input_v=input_v)})[0].poll().source is Source.MAINS


# --- battery voltage and charge ---------------------------------------------------------------------------------


def test_volts_per_cell_become_volts_by_the_rating() -> None:
    driver, _ = connected({**WORKING, b"Q1": frame(battery_v="2.25")})
    battery = driver.poll().battery
    assert battery.voltage_v == 27.0 and battery.estimated == {"voltage_v", "charge_pct"}  # a rating may be wrong


def test_volts_per_cell_become_volts_by_the_option_which_goes_before_the_rating() -> None:
    driver, _ = connected({b"Q1": frame(battery_v="2.25")}, battery_cells=18)
    battery = driver.poll().battery
    assert battery.voltage_v == 40.5 and battery.estimated == {"charge_pct"}  # the administrator has counted
    driver, _ = connected({**WORKING, b"Q1": frame(battery_v="2.25")}, battery_cells=18)
    assert driver.poll().battery.voltage_v == 40.5


def test_volts_per_cell_without_cells_are_unknown_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    driver, _ = connected({b"Q1": frame(battery_v="2.25"), b"F": b"F\r", b"I": b"I\r"})
    for _ in range(5):
        battery = driver.poll().battery
        assert battery.voltage_v is None and battery.charge_pct is None and not battery.estimated
    assert len([r for r in caplog.records if "battery_cells" in r.message]) == 1


def test_a_total_voltage_is_not_multiplied() -> None:
    battery = connected({**WORKING, b"Q1": frame(battery_v="24.1")})[0].poll().battery
    assert battery.voltage_v == 24.1 and battery.estimated == {"charge_pct"}


@pytest.mark.parametrize(
    ("battery_v", "nominal_v", "charge_pct"),
    [
        (26.0, 24.0, 100.0),
        (27.4, 24.0, 100.0),
        (23.4, 24.0, 50.0),
        (20.8, 24.0, 0.0),
        (19.0, 24.0, 0.0),
        (13.7, 24.0, None),  # one battery of two, or another rating: an empty one would end all in an outage
        (17.9, 24.0, None),
        (31.3, 24.0, None),
        (54.0, 12.0, None),  # the rating of one battery of four
        (None, 24.0, None),
        (26.0, None, None),
    ],
)
def test_the_charge_is_estimated_as_nut_does_and_only_where_both_voltages_fit(
    battery_v: float | None, nominal_v: float | None, charge_pct: float | None
) -> None:
    assert meaning.estimate_charge_pct(battery_v, nominal_v) == charge_pct


# --- asking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [b"Q1\r", b"NAK\r", b"(NAK\r", b"N\r", b"Q1\0\0\r"])
def test_a_refused_q1_is_a_link_error_with_its_bytes(refusal: bytes) -> None:
    with pytest.raises(LinkError, match="refuses it: b'"):
        connected({b"Q1": refusal})[0].poll()


def test_a_lost_answer_is_a_link_error_and_costs_one_question() -> None:
    driver, link = connected({})
    with pytest.raises(LinkError):
        driver.poll()
    assert link.sent == [b"Q1\r"] and link.waited_s <= 3.0


@pytest.mark.parametrize("refusal", [b"NAK\r", b"(NAK\r", b"N\r", b""])
def test_a_refused_extra_is_not_asked_again(refusal: bytes) -> None:
    driver, link = connected({b"Q1": ON_LINE, b"F": refusal or b"F\r", b"I": refusal or b"I\r"})
    for _ in range(3):
        assert driver.poll().rating.input_voltage_v is None
    assert link.sent.count(b"F\r") == link.sent.count(b"I\r") == 1


def test_an_extra_without_a_good_answer_is_given_up_after_three_and_never_an_error() -> None:
    driver, link = connected({b"Q1": ON_LINE, b"I": b"\xff\xff\r"})
    for _ in range(6):
        assert driver.poll().ident == Ident()
    assert link.sent.count(b"F\r") == link.sent.count(b"I\r") == 3
    assert link.waited_s == 3 * 1.5


def test_an_extra_that_answers_late_is_taken() -> None:
    driver, link = connected({b"Q1": ON_LINE})
    driver.poll()
    link.answers.update(WORKING)
    assert driver.poll().rating.input_voltage_v == 230.0
    driver.poll()
    driver.poll()
    assert link.sent.count(b"F\r") == 3  # a rating is said twice


def test_one_poll_is_bounded_also_while_nothing_but_q1_answers() -> None:
    driver, link = connected({b"Q1": ON_LINE})
    driver.poll()
    assert link.waited_s + 3.0 <= 5.0


def test_probe_sends_queries_only_and_tells_how_sure_it_is() -> None:
    for answers, sure in ((WORKING, 1.0), ({b"Q1": ON_LINE}, 0.8), ({}, 0.0), ({b"Q1": b"Q1\r", b"F": RATING}, 0.0)):
        link = ScriptLink(answers)
        assert megatec.probe(link) == sure
        assert set(link.sent) <= set(megatec.QUERIES)


# --- the test's result ------------------------------------------------------------------------------------------


def test_a_test_that_ends_by_itself_has_no_result_and_says_that_it_ran() -> None:
    driver, link = connected(WORKING)
    assert driver.poll().test == Test()
    link.answers[b"Q1"] = frame("00001101")
    assert driver.poll().test == Test(result=TestResult.RUNNING)
    link.answers[b"Q1"] = ON_LINE
    for _ in range(2):
        test = driver.poll().test
        assert test.result is TestResult.NONE and "does not report a result" in test.detail


def test_a_test_that_we_stopped_is_aborted() -> None:
    driver, link = connected({**WORKING, b"Q1": frame("00001101")})
    driver.poll()
    driver.order(Command.TEST_STOP)
    link.answers[b"Q1"] = ON_LINE
    for _ in range(2):
        assert driver.poll().test == Test(result=TestResult.ABORTED)


def test_a_stop_while_no_test_runs_says_nothing_about_the_next_test() -> None:
    driver, link = connected(WORKING)
    driver.order(Command.TEST_STOP)
    driver.poll()
    link.answers[b"Q1"] = frame("00001101")
    driver.poll()
    link.answers[b"Q1"] = ON_LINE
    assert driver.poll().test.result is TestResult.NONE


# --- orders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "args", "sent"),
    [
        (Command.TEST_QUICK, {}, b"T\r"),
        (Command.TEST_DEEP, {}, b"TL\r"),
        (Command.TEST_MINUTES, {"minutes": 1}, b"T01\r"),
        (Command.TEST_MINUTES, {"minutes": 99}, b"T99\r"),
        (Command.TEST_STOP, {}, b"CT\r"),
        (Command.SHUTDOWN_STOP, {}, b"C\r"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 12}, b"S.2R0000\r"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 12.1}, b"S.3R0000\r"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 54}, b"S.9R0000\r"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 54.5}, b"S01R0000\r"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 61}, b"S02R0000\r"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 600}, b"S10R0000\r"),
        (Command.SHUTDOWN_RETURN, {"delay_s": 30, "return_delay_s": 180}, b"S.5R0003\r"),
        (Command.SHUTDOWN_RETURN, {"delay_s": 30, "return_delay_s": 0}, b"S.5R0003\r"),  # never 1 or 2, never 0000
        (Command.SHUTDOWN_RETURN, {"delay_s": 120, "return_delay_s": 181}, b"S02R0004\r"),
        (Command.SHUTDOWN_RETURN, {"delay_s": 120, "return_delay_s": 599940}, b"S02R9999\r"),
    ],
)
def test_an_order_is_sent_as_the_protocol_has_it(command: Command, args: dict[str, Any], sent: bytes) -> None:
    driver, link = connected(WORKING)
    driver.order(command, **args)
    looks = 3 if command in (Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF) else 1  # this one shows no countdown
    assert link.sent == [sent, *[b"Q1\r"] * looks]
    assert link.waited_s == 1.0  # for an echo; the polls must not wait long for an order


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        (Command.TEST_MINUTES, {}, "minutes must be from 1 to 99, not None"),
        (Command.TEST_MINUTES, {"minutes": 0}, "from 1 to 99"),
        (Command.TEST_MINUTES, {"minutes": 100}, "from 1 to 99"),
        (Command.TEST_MINUTES, {"minutes": 1.5}, "whole number"),
        (Command.TEST_MINUTES, {"minutes": True}, "from 1 to 99"),
        (Command.TEST_MINUTES, {"minutes": "5\rS.2"}, "from 1 to 99"),
        (Command.TEST_QUICK, {"minutes": 5}, "has no argument minutes"),
        (Command.BEEPER_ON, {"on": True}, "has no argument on"),
        (Command.SHUTDOWN_STAY_OFF, {}, "delay_s must be from 12 to 600"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 11.9}, "from 12 to 600"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 600.5}, "from 12 to 600"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": float("nan")}, "from 12 to 600"),
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 30, "return_delay_s": 180}, "has no argument return_delay_s"),
        (Command.SHUTDOWN_RETURN, {"delay_s": 30}, "return_delay_s must be from 0 to 599940"),
        (Command.SHUTDOWN_RETURN, {"delay_s": 30, "return_delay_s": 600000}, "from 0 to 599940"),
        (Command.SIMULATE, {"mains": "off"}, "cannot do simulate"),
    ],
)
def test_a_wrong_argument_is_refused_by_name_and_nothing_is_sent(
    command: Command, args: dict[str, Any], said: str
) -> None:
    driver, link = connected(WORKING)
    with pytest.raises(OrderError, match=said):
        driver.order(command, **args)
    assert link.sent == []


@pytest.mark.parametrize("refusal", [b"T\r", b"NAK\r", b"(NAK\r", b"N\r"])
def test_an_echoed_order_is_refused(refusal: bytes) -> None:
    driver, _ = connected({**WORKING, b"T": refusal})
    with pytest.raises(OrderError, match="this UPS refused T: b'"):
        driver.order(Command.TEST_QUICK)


def test_an_order_that_is_acknowledged_is_given() -> None:
    driver, _ = connected({**WORKING, b"T": b"(ACK\r"})
    driver.order(Command.TEST_QUICK)


@pytest.mark.parametrize("late_s", [0.05, 0.52, 0.6, 0.95, 1.02, 1.04])
@pytest.mark.parametrize("refusal", [b"S.5R0000\r", b"NAK\r"])
def test_an_order_that_is_refused_late_is_refused_and_costs_no_poll(refusal: bytes, late_s: float) -> None:
    """A status takes 50 ms here, so what comes after 1.05 s is nobody's."""
    answers = {b"Q1\r": (ON_LINE, 0.05), b"S.5R0000\r": (refusal, late_s)}
    link = LateLink(lambda command: answers.get(command, (command, 0.05)))
    driver: Any = megatec.connect({"dialect": "megatec"}, link, lambda: link.now_s)
    driver.poll()
    with pytest.raises(OrderError, match="this UPS refused S.5R0000: b'"):
        driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=30)
    assert driver.poll().source is Source.MAINS


def test_an_answer_that_is_neither_yes_nor_no_is_said() -> None:
    driver, link = connected({**WORKING, b"T": b"\xff\0zz\r"})
    assert driver.order(Command.TEST_QUICK) == "the answer to T says neither yes nor no: b'\\xff\\x00zz'"
    for yes in (b"ACK\r", b"(ACK\r", b"\r", b"(ACK\0\r"):
        link.answers[b"T"] = yes
        assert driver.order(Command.TEST_QUICK) == ""


def test_an_order_to_a_unit_that_is_gone_is_a_link_error_that_names_it() -> None:
    with pytest.raises(LinkError, match="^T was sent, then: "):
        connected({})[0].order(Command.TEST_QUICK)


def test_the_beeper_is_toggled_only_when_it_must_change_and_then_read_again() -> None:
    driver, link = connected(WORKING)
    driver.order(Command.BEEPER_ON)
    assert b"Q\r" not in link.sent

    def toggle() -> None:
        link.answers[b"Q1"] = frame("00001000")

    link.answers[b"Q"] = toggle
    driver.order(Command.BEEPER_OFF)
    assert link.sent.count(b"Q\r") == 1
    with pytest.raises(OrderError, match="did not switch its beeper on"):
        driver.order(Command.BEEPER_ON)


def test_without_a_line_there_is_no_driver_and_closing_gives_the_line_back() -> None:
    with pytest.raises(LinkError):
        megatec.connect({}, None, lambda: 0.0)
    driver, link = connected({})
    driver.close()
    assert link.closed
