"""The APC driver: real answers, alerts, what a unit cannot do, late and missing answers, and orders."""

from __future__ import annotations

import json
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import apc, link
from agent import ups as ups_module
from agent.drivers import apcsmart
from agent.model import Command, Condition, Ident, LinkError, OrderError, Reply, Source, Status, TestResult
from agent.pretend import Unit
from agent.ups import Polled, Ups
from agent.usbport import Rescue
from tests.simulators.apcsmart import COMMANDS, ApcPty, ApcUnit
from tests.simulators.script import LateLink, ScriptLink

CASES = json.loads((Path(__file__).parent / "cases" / "apcsmart.json").read_text())


class UnitLink:
    """A pretend unit without a line: each question takes 0.1 s, silence what was allowed; time is a number."""

    wake_fd: int | None = None

    def __init__(self, apc_unit: ApcUnit) -> None:
        self.apc, self.unit = apc_unit, apc_unit.unit
        self.now_s = 1000.0
        self.sent: list[tuple[float, bytes]] = []
        self.silent: set[bytes] = set()  # questions that get no answer
        self.noise: dict[bytes, bytes] = {}  # question -> what comes instead
        self.closed = False

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        said = b""
        if command:
            self.sent.append((self.now_s, command))
        if command not in self.silent:
            for n in range(len(command)):
                self.unit.step(self.now_s)
                said += self.apc.alerts() + self.apc.hear(command[n : n + 1], self.now_s)
        said = self.noise.get(command, said)
        if end not in said:
            self.now_s += within_s
            raise LinkError(f"{command!r}: no answer within {within_s:g} s")
        self.now_s += 0.1
        return Reply(said.partition(end)[0], self.now_s)

    def send(self, command: bytes) -> None:
        raise AssertionError("everything is asked")

    def close(self) -> None:
        self.closed = True

    def asked(self) -> list[bytes]:
        return [c for _, c in self.sent]


def connected(commands: bytes | None = COMMANDS, **more: Any) -> tuple[apcsmart.ApcSmart, UnitLink]:
    line = UnitLink(ApcUnit(Unit(1000.0), commands=commands, **more))
    driver = apcsmart.connect({}, line, lambda: line.now_s)
    assert isinstance(driver, apcsmart.ApcSmart)
    return driver, line


def polled(commands: bytes | None = COMMANDS, times: int = 16, **more: Any) -> tuple[apcsmart.ApcSmart, UnitLink]:
    """A driver that has asked everything once."""
    driver, line = connected(commands, **more)
    for _ in range(times):
        driver.poll()
    line.sent.clear()
    return driver, line


# --- the codec --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES["answers"], ids=lambda c: c["id"])
def test_real_answers_say_what_their_source_says(case: dict[str, Any]) -> None:
    question, answer = case["question"].encode("latin-1"), case["text"].encode("latin-1")
    if case.get("refused"):
        with pytest.raises(LinkError) as caught:
            apc.parse(question, answer)
        assert repr(answer) in str(caught.value)
        return
    assert apc.parse(question, answer) == case["expect"]


@pytest.mark.parametrize("case", CASES["status"], ids=lambda c: c["id"])
def test_status_bits_say_what_the_document_says(case: dict[str, Any]) -> None:
    bits = apc.parse(b"Q", case["text"].encode())
    assert isinstance(bits, int)
    status = apc.look(bits, {}, taken_s=1.0)
    assert (status.source.value, status.battery.low) == (case["source"], case["low"])


@pytest.mark.parametrize("case", CASES["capabilities"], ids=lambda c: c["id"])
def test_capability_strings_give_their_legal_values(case: dict[str, Any]) -> None:
    found = apc.parse_capabilities(case["text"].encode("latin-1"))
    for name, values in case["expect"].items():
        question, _, locale = name.partition(",")
        assert found[question, locale] == tuple(values), name
    if case["id"] == "count-of-minus-one":
        assert ("l", "I") not in found


@pytest.mark.parametrize("case", CASES["commands"], ids=lambda c: c["id"])
def test_a_list_of_commands_is_read_with_the_alerts_in_it(case: dict[str, Any]) -> None:
    for before in (b"", b"!", b"$+"):
        known = apc.parse_commands(before + case["text"].encode("latin-1"))
        assert known is not None
        assert {c.encode() for c in case["has"]} <= known and not {c.encode() for c in case["has_not"]} & known


@pytest.mark.parametrize("answer", [b"", b"8", b"008", b"0G", b"SM", b"OK", b"BT", b"08 ", b"-8", b"0x", b"\xb2\xb2"])
def test_what_is_not_two_hexadecimal_digits_is_no_status(answer: bytes) -> None:
    with pytest.raises(LinkError, match="not an answer"):
        apc.parse(b"Q", answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (b"L", b"SM"),
        (b"L", b"23.1.4"),
        (b"L", b"1e3"),
        (b"f", b""),
        (b"j", b"42m"),
        (b"j", b"000:"),  # 0060: without a byte
        (b"j", b"00&0:"),  # and with a bit that makes an alert of it
        (b"j", b"0060"),
        (b"f", b"00.0"),
        (b"f", b"100."),
        (b"\x01", b"\x80abc"),
        (b"k", b"X"),
    ],
)
def test_what_is_not_a_whole_answer_is_refused_with_its_bytes(question: bytes, answer: bytes) -> None:
    with pytest.raises(LinkError) as caught:
        apc.parse(question, answer)
    assert repr(answer) in str(caught.value)


def test_na_is_a_value_that_the_unit_does_not_say() -> None:
    assert all(apc.parse(question, b"NA") is None for question in apc.FORMS)
    status = apc.look(0x08, {}, taken_s=1.0)
    assert status.battery.charge_pct is None and status.inputs[0].voltage_v is None and status.sensors == ()
    assert status.beeper_on is None and status.test is None and status.ident == Ident(manufacturer="APC")


def test_registers_become_conditions() -> None:
    status = apc.look(0xE8, {b"8": 0xA0, b"'": 0x81, b"~": 0x02, b"X": "BT"}, taken_s=1.0)
    assert status.source is Source.BYPASS
    assert status.flags == {
        Condition.OVERLOAD, Condition.LOW_BATTERY, Condition.BATTERY_BAD, Condition.CHARGER_FAILED,
        Condition.TEMPERATURE_BAD, Condition.FAN_FAILURE, Condition.OUTPUT_BAD, Condition.ON_BYPASS,
        Condition.TEST_FAILED,
    }  # fmt: skip
    assert status.test is not None and status.test.result is TestResult.FAILED


def test_the_frequency_is_that_of_the_inverter_on_battery() -> None:
    assert apc.look(0x08, {b"F": 50.0}, taken_s=1.0).inputs[0].frequency_hz == 50.0
    status = apc.look(0x10, {b"F": 50.0}, taken_s=1.0)
    assert (status.inputs[0].frequency_hz, status.outputs[0].frequency_hz) == (None, 50.0)


# --- polling ----------------------------------------------------------------------------------------------------


def test_a_poll_asks_the_status_first_and_last_and_in_sixteen_everything() -> None:
    driver, line = connected()
    first = driver.poll()
    assert line.asked()[:2] == [b"Y", b"Q"] and line.asked()[-1] == b"Q" and first.taken_s == line.now_s
    for _ in range(15):
        status = driver.poll()
    assert line.asked().count(b"Y") == 1
    assert status.ident == Ident(
        manufacturer="APC", model="Smart-UPS 1500", firmware="601.3.I", serial="AS0525110123"
    )
    rating = status.rating
    assert (rating.low_battery_s, rating.low_transfer_v, rating.high_transfer_v) == (120, 196, 253)
    assert (status.battery.charge_pct, status.battery.runtime_s, status.beeper_on) == (100.0, 1200.0, True)
    line.sent.clear()
    assert driver.poll().sensors == () and b"t" not in line.asked()  # it does not list the question


def test_the_source_of_a_frame_is_that_of_its_last_question() -> None:
    driver, line = polled()
    asked = line.ask

    def fails_meanwhile(command: bytes, **more: Any) -> Reply:
        if command == b"P":
            line.unit.mains = False
        return asked(command, **more)

    line.ask = fails_meanwhile  # type: ignore[method-assign]
    assert driver.poll().source is Source.BATTERY


def test_a_source_counts_when_two_answers_say_it_so_one_damaged_answer_is_no_outage() -> None:
    driver, line = polled()
    asked = line.ask
    for damaged in (1, 2):
        count = 0

        def bent(command: bytes, *, damaged: int = damaged, **more: Any) -> Reply:
            nonlocal count
            count += command == b"Q"
            reply = asked(command, **more)
            return Reply(b"10", reply.received_s) if command == b"Q" and count == damaged else reply

        line.ask = bent  # type: ignore[method-assign]
        assert driver.poll().source is Source.MAINS and count == 3


def test_three_answers_with_three_sources_fail_the_poll() -> None:
    driver, line = polled()
    asked, answers = line.ask, [b"08", b"10", b"00"]

    def bent(command: bytes, **more: Any) -> Reply:
        reply = asked(command, **more)
        return Reply(answers.pop(0), reply.received_s) if command == b"Q" and answers else reply

    line.ask = bent  # type: ignore[method-assign]
    with pytest.raises(LinkError, match="three answers, three sources: 08 10 00"):
        driver.poll()
    assert driver.poll().source is Source.MAINS


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_low_battery_counts_when_two_answers_say_it(damaged: int) -> None:
    """One bit turned in one of them, in an outage or as one begins."""
    driver, line = polled()
    asked = line.ask
    line.unit.mains = damaged == 3
    count = 0

    def bent(command: bytes, **more: Any) -> Reply:
        nonlocal count
        count += command == b"Q"
        if command == b"Q" and count == 2:
            line.unit.mains = False
        reply = asked(command, **more)
        return Reply(b"50", reply.received_s) if command == b"Q" and count == damaged else reply

    line.ask = bent  # type: ignore[method-assign]
    status = driver.poll()
    assert status.source is Source.BATTERY and status.battery.low is False and count == max(2, damaged)
    assert Condition.LOW_BATTERY not in status.flags
    line.unit.set("battery_low", "1")
    assert driver.poll().battery.low is True


def test_a_self_test_is_told_by_the_cause_of_the_transfer() -> None:
    driver, line = polled()
    driver.order(Command.TEST_QUICK)
    status = driver.poll()
    assert status.source is Source.BATTERY and Condition.TEST_RUNNING in status.flags
    line.now_s += 20
    assert driver.poll().source is Source.MAINS
    line.unit.mains = False
    assert Condition.TEST_RUNNING not in driver.poll().flags


def test_a_unit_in_dumb_mode_is_told_to_be_smart_and_one_in_its_menus_leaves_them() -> None:
    driver, line = connected()
    line.apc.in_menu = True
    with pytest.raises(LinkError, match="not an APC unit in smart mode"):
        driver.poll()
    assert driver.poll().source is Source.MAINS
    line.apc.smart = False  # it was switched off and on
    with pytest.raises(LinkError):
        driver.poll()
    assert driver.poll().source is Source.MAINS


def test_silence_of_one_question_is_one_missing_value_and_the_rest_of_that_poll() -> None:
    driver, line = polled()
    line.silent = {b"L"}
    status = driver.poll()
    assert status.battery.charge_pct == 100.0 and status.inputs[0].voltage_v is None
    assert line.asked()[-2:] == [b"L", b"Q"]
    line.silent = set()
    assert driver.poll().inputs[0].voltage_v == 230.0


@pytest.mark.parametrize("late_s", [1.01, 1.2, 1.39, 1.7])
def test_an_answer_that_is_late_is_not_taken_for_that_to_another_question(late_s: float) -> None:
    """Each question in turn; what is read is as before or absent. After more than 1.4 s its own poll may fail."""
    for question in (b"Q", *apc.MEASURES, *apc.FACTS):
        late, apc_unit = dict[bytes, float](), ApcUnit(Unit(1000.0))

        def say(command: bytes) -> tuple[bytes, float]:
            said = apc_unit.alerts() + apc_unit.hear(command, link.now_s)  # noqa: B023
            return said, late.pop(command, 0.1)  # noqa: B023

        link = LateLink(say)
        driver = apcsmart.connect({}, link, lambda: link.now_s)  # noqa: B023
        for _ in range(16):
            driver.poll()
        link.now_s += 3600.0
        for _ in range(16):
            whole = driver.poll()
        link.now_s += 3600.0  # all facts are due again
        late[question] = late_s
        failed = 0
        for _ in range(20):
            began_s = link.now_s
            try:
                status = driver.poll()
            except LinkError:
                failed += 1
            else:
                for name, value in vars_of(status).items():
                    assert value in (None, vars_of(whole)[name]), (question, name)
            assert link.now_s - began_s <= 5.0
            link.now_s = max(link.now_s, began_s + 1.0)
        asked = apc_unit.commands is not None and question in apc_unit.commands
        assert bool(late) is not asked and failed <= (question == b"Q" or late_s > 1.4), question


def vars_of(status: Status) -> dict[str, Any]:
    battery, output = status.battery, status.outputs[0]
    return {
        "input": status.inputs[0].voltage_v, "hertz": status.inputs[0].frequency_hz, "output": output.voltage_v,
        "load": output.load_pct, "amperes": output.current_a, "charge": battery.charge_pct, "low": battery.low,
        "runtime": battery.runtime_s, "battery": battery.voltage_v, "celsius": status.temperature_c,
        "model": status.ident.model, "serial": status.ident.serial,
        "source": status.source, "flags": frozenset(status.flags), "beeper": status.beeper_on,
        **{name: getattr(status.rating, name) for name in (
            "output_voltage_v", "battery_voltage_v", "low_battery_s", "low_transfer_v", "high_transfer_v",
        )},
    }  # fmt: skip


def test_a_question_that_stays_silent_is_left_alone_for_five_minutes() -> None:
    driver, line = polled()
    line.silent = {b"C"}
    for _ in range(6):
        driver.poll()
    assert line.asked().count(b"C") == apcsmart.SILENT_LIMIT
    line.silent = set()
    line.now_s += apcsmart.AGAIN_S
    assert driver.poll().temperature_c == 25.0


@pytest.mark.parametrize("question", [b"f", b"j"])
def test_charge_and_runtime_are_soon_asked_again_after_what_a_noisy_line_has_cost(question: bytes) -> None:
    driver, line = polled()
    line.unit.mains = False

    def absent() -> bool:
        battery = driver.poll().battery
        return (battery.charge_pct if question == b"f" else battery.runtime_s) is None

    line.noise = {question: b"NA\r\n"}  # it came as another one, once
    assert absent()
    line.noise = {}
    assert not absent()
    line.silent = {question}
    for _ in range(apcsmart.SILENT_LIMIT):
        assert absent()
    line.silent, began_s = set(), line.now_s
    while absent():
        assert line.now_s - began_s < 20.0
        line.now_s += 1.0
    line.noise = {question: b"NA\r\n"}
    for _ in range(apcsmart.SILENT_LIMIT):
        assert absent()


@pytest.mark.parametrize("question", [b"f", b"j"])
def test_one_damaged_character_of_the_list_of_commands_costs_no_charge_and_no_runtime(question: bytes) -> None:
    driver, line = connected()
    line.noise = {b"a": b"3.!$%+?=." + COMMANDS.replace(question, b"_") + b"\r\n"}
    for _ in range(3):
        battery = driver.poll().battery
    assert battery.charge_pct == 100.0 and battery.runtime_s is not None
    assert Command.TEST_QUICK in driver.commands and line.asked().count(b"a") == 1


def test_what_a_unit_does_not_know_is_asked_every_five_minutes() -> None:
    driver, line = connected()
    line.noise = {b"f": b"NA\r\n"}
    while line.now_s < 1610.0:
        driver.poll()
    assert line.asked().count(b"f") == apcsmart.SILENT_LIMIT + 2


def test_an_old_unit_that_does_not_list_its_commands_is_known_by_its_firmware() -> None:
    driver, line = connected(commands=None)
    line.noise = {b"b": b"NA\r\n", b"V": b"9II\r\n"}
    for _ in range(4):
        driver.poll()
    assert Command.TEST_DEEP not in driver.commands and Command.BEEPER_OFF not in driver.commands
    assert {Command.TEST_QUICK, Command.SHUTDOWN_STAY_OFF, Command.SHUTDOWN_RETURN} <= driver.commands
    line.sent.clear()
    driver.poll()
    assert not {b"l", b"n", b"\x01"} & set(line.asked())


def test_a_poll_takes_no_longer_than_it_may_whatever_is_silent() -> None:
    for silent in (
        {b"Y"},
        {b"Q"},
        {b"a"},
        set(apc.MEASURES),
        set(apc.FACTS),
        {bytes((c,)) for c in range(128)},
    ):
        driver, line = connected()
        line.silent = silent
        for _ in range(20):
            began_s = line.now_s
            try:
                driver.poll()
            except LinkError:
                pass
            assert line.now_s - began_s <= 5.0, silent


def test_each_wrong_answer_to_the_status_fails_the_poll() -> None:
    for noise in (b"NA\r\n", b"SM\r\n", b"230.1\r\n", b"\xff\x00\r\n", b"\r\n"):
        driver, line = polled()
        line.noise = {b"Q": noise}
        with pytest.raises(LinkError):
            driver.poll()


# --- orders -----------------------------------------------------------------------------------------------------


def order_times(line: UnitLink, byte: bytes) -> list[float]:
    return [at_s for at_s, c in line.sent if c == byte]


def test_stay_off_presses_k_twice_with_the_gap_that_it_wants_and_the_unit_obeys() -> None:
    driver, line = polled()
    began_s = line.now_s
    driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=20)
    first_s, second_s = order_times(line, b"K")
    assert 1.5 < second_s - first_s < 2.0
    assert line.unit.off_at_s is not None and line.now_s - began_s <= 10.0
    driver.order(Command.SHUTDOWN_STOP)
    assert line.unit.off_at_s is None


def test_load_off_and_on_are_pressed_twice_with_the_gap_that_they_want_and_the_unit_obeys() -> None:
    driver, line = polled()
    for command, key, source in ((Command.LOAD_OFF, b"Z", Source.NONE), (Command.LOAD_ON, b"\x0e", Source.MAINS)):
        began_s = line.now_s
        driver.order(command)
        first_s, second_s = order_times(line, key)
        assert 1.5 < second_s - first_s < 2.0 and line.now_s - began_s <= 10.0
        assert line.unit.output_on is (command is Command.LOAD_ON)
        assert driver.poll().source is source


def test_a_refused_load_off_is_not_pressed_again_and_the_load_stays_on() -> None:
    driver, line = polled()
    line.noise = {b"Z": b"NA\r\n"}
    with pytest.raises(OrderError, match="refused b'Z'"):
        driver.order(Command.LOAD_OFF)
    assert line.asked().count(b"Z") == 1 and line.unit.output_on


def test_a_unit_that_cannot_be_switched_on_again_is_not_offered_to_be_switched_off() -> None:
    driver, line = polled(commands=COMMANDS.replace(b"\x0e", b""))
    assert Command.LOAD_OFF not in driver.commands and Command.LOAD_ON not in driver.commands
    with pytest.raises(OrderError, match="cannot do load-off"):
        driver.order(Command.LOAD_OFF)
    assert b"Z" not in line.asked()


def test_a_delay_that_the_unit_cannot_keep_becomes_its_next_longer_one_and_is_written_once() -> None:
    driver, line = polled()
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=30) == "off after 180 s, not 30"
    assert line.apc.settings[b"p"] == "180" and line.apc.writes == 1
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=180) == ""
    assert line.apc.writes == 1
    with pytest.raises(OrderError, match="delay_s must be from 0 to 600"):
        driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=601)


WITHOUT_CAPABILITIES = COMMANDS.replace(b"\x1a", b"")


def test_a_delay_that_the_unit_cannot_be_told_to_keep_is_refused_and_a_longer_one_is_said() -> None:
    driver, line = polled(commands=WITHOUT_CAPABILITIES)
    for command, args in (
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 180}),
        (Command.SHUTDOWN_RETURN, {"delay_s": 180, "return_delay_s": 360}),
    ):
        with pytest.raises(OrderError, match="waits 020 s and cannot be told to wait 180 s"):
            driver.order(command, **args)
    assert not {b"K", b"S", b"@", b"-"} & set(line.asked()) and line.unit.off_at_s is None
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=5) == "off after 20 s, not 5"


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_delay_counts_when_the_unit_says_it_twice(damaged: int) -> None:
    """One bit turned makes 420 of 020, and the load would be off long before it is asked to be."""
    driver, line = polled(commands=WITHOUT_CAPABILITIES)
    asked, count = line.ask, 0

    def bent(command: bytes, **more: Any) -> Reply:
        nonlocal count
        count += command == b"p"
        reply = asked(command, **more)
        return Reply(b"420", reply.received_s) if command == b"p" and count == damaged else reply

    line.ask = bent  # type: ignore[method-assign]
    with pytest.raises(OrderError, match="two delays"):
        driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=180)
    assert not {b"K", b"-"} & set(line.asked())


def test_a_capability_string_that_was_lost_is_asked_for_anew_with_the_next_order() -> None:
    driver, line = polled()
    line.silent = {b"\x1a"}
    with pytest.raises(OrderError, match="waits 020 s and cannot be told"):
        driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    assert line.asked().count(b"\x1a") == 1
    line.silent = set()
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60) == "off after 180 s, not 60"


def test_a_return_that_is_longer_than_the_longest_of_the_unit_is_its_longest() -> None:
    driver, line = polled()
    line.unit.mains = False
    assert driver.order(Command.SHUTDOWN_RETURN, delay_s=20, return_delay_s=9000) == "back after 300 s, not 9000"
    assert line.apc.settings[b"r"] == "300"


def test_on_battery_it_is_s_and_on_mains_it_is_at_with_tenths_of_an_hour() -> None:
    driver, line = polled()
    assert driver.order(Command.SHUTDOWN_RETURN, delay_s=20, return_delay_s=361) == "back after 720 s, not 361"
    spoken = [(at_s, c) for at_s, c in line.sent if c in (b"@", b"0", b"2")]
    assert [c for _, c in spoken] == [b"@", b"0", b"0", b"2"]
    assert all(after - before >= 0.1 for (before, _), (after, _) in zip(spoken, spoken[1:], strict=False))
    assert line.unit.off_at_s is not None
    driver, line = polled()
    line.unit.mains = False
    assert driver.order(Command.SHUTDOWN_RETURN, delay_s=20, return_delay_s=60) == ""
    assert b"S" in line.asked() and b"@" not in line.asked() and line.apc.settings[b"r"] == "060"
    assert line.unit.off_at_s is not None


def test_older_units_confirm_with_a_star() -> None:
    driver, line = polled(okay=b"*\r\n")
    driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=20)
    assert line.unit.off_at_s is not None


def test_an_order_without_a_confirmation_is_an_error_that_says_so() -> None:
    driver, line = polled()
    line.apc.mute_abort = True
    with pytest.raises(OrderError, match="does not confirm b'.x7f'"):
        driver.order(Command.SHUTDOWN_STOP)


@pytest.mark.parametrize("answer", [b"NA\r\n", b"NO\r\n"])
def test_a_refused_order_is_refused_and_not_pressed_again(answer: bytes) -> None:
    driver, line = polled()
    line.noise = {b"K": answer, b"W": answer, b"D": answer}
    for command, args in (
        (Command.SHUTDOWN_STAY_OFF, {"delay_s": 20}),
        (Command.TEST_QUICK, {}),
        (Command.TEST_DEEP, {}),
    ):
        with pytest.raises(OrderError, match="refused"):
            driver.order(command, **args)
    assert line.asked().count(b"K") == 1


def test_a_calibration_is_started_and_stopped_and_read_back() -> None:
    driver, line = polled()
    with pytest.raises(OrderError, match="does not run"):
        driver.order(Command.TEST_STOP)
    driver.order(Command.TEST_DEEP)
    assert line.apc.calibrating and Condition.TEST_RUNNING in driver.poll().flags
    with pytest.raises(OrderError, match="runs already"):
        driver.order(Command.TEST_DEEP)
    driver.order(Command.TEST_STOP)
    assert not line.apc.calibrating
    line.unit.charge_pct = 60.0
    with pytest.raises(OrderError, match="must be full"):
        driver.order(Command.TEST_DEEP)


def test_the_beeper_is_a_setting_that_is_cycled_read_back_and_not_written_twice() -> None:
    driver, line = polled()
    driver.order(Command.BEEPER_ON)
    assert line.apc.writes == 0
    driver.order(Command.BEEPER_OFF)
    assert line.apc.settings[b"k"] == "N" and line.apc.writes == 3
    driver.order(Command.BEEPER_OFF)
    driver.order(Command.BEEPER_ON)
    assert line.apc.settings[b"k"] == "0" and line.apc.writes == 4


def test_no_order_takes_longer_than_it_may_whatever_is_silent() -> None:
    everything: Mapping[Command, Mapping[str, float]] = {
        Command.SHUTDOWN_RETURN: {"delay_s": 600, "return_delay_s": 300},
        Command.SHUTDOWN_STAY_OFF: {"delay_s": 600},
    }
    for silent in ({b"\x1a"}, {b"-"}, {b"p"}, {b"Q"}, {b"K"}, {b"S", b"@"}, {bytes((c,)) for c in range(128)}):
        driver, line = polled()
        line.silent = silent
        for command in sorted(driver.commands, key=lambda c: c.value):
            began_s = line.now_s
            try:
                driver.order(command, **everything.get(command, {}))
            except (LinkError, OrderError):
                pass
            assert line.now_s - began_s <= 10.0, (silent, command)


# --- over a terminal ----------------------------------------------------------------------------------------------


@pytest.fixture
def ups(tmp_path: Path) -> Iterator[ApcPty]:
    with ApcPty(tmp_path / "ups") as it:
        yield it


@pytest.fixture
def driver(ups: ApcPty) -> Iterator[Any]:
    section: dict[str, Any] = {"port": str(ups.path)}
    it = apcsmart.connect({}, link.open(section, time.monotonic), time.monotonic)
    yield it
    it.close()


def readable(fd: int | None) -> Callable[[float], bool]:
    assert fd is not None
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return lambda within_s: bool(poll.poll(within_s * 1000))


def test_over_a_terminal_it_reads_the_unit(driver: Any) -> None:
    status: Status = driver.poll()
    assert (status.source, status.battery.charge_pct, status.outputs[0].voltage_v) == (Source.MAINS, 100.0, 230.0)


def test_an_alert_wakes_the_ups_thread_and_the_next_poll_is_on_battery(ups: ApcPty, driver: Any) -> None:
    driver.poll()
    woken = readable(driver.wake_fd)
    assert not woken(0.0)
    ups.set("mains", "off")
    assert woken(1.0)
    assert driver.poll().source is Source.BATTERY
    assert not woken(0.0)


def test_the_ups_thread_hears_of_an_outage_long_before_its_next_poll_and_finds_the_unit_again(
    ups: ApcPty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ups_module, "BACK_OFF_S", (0.05,))
    frames: queue.Queue[Polled] = queue.Queue()
    section = {"port": str(ups.path)}
    it = Ups(
        lambda: apcsmart.connect({}, link.open(section, time.monotonic), time.monotonic),
        frames.put,
        60.0,
        Rescue(time.monotonic),
    )
    stop = threading.Event()
    thread = threading.Thread(target=it.run, args=(stop,))
    thread.start()
    try:
        assert source_of(frames.get(timeout=5)) is Source.MAINS
        cut_s = time.monotonic()
        ups.set("mains", "off")
        while source_of(frames.get(timeout=5)) is not Source.BATTERY:
            pass
        assert time.monotonic() - cut_s < 2.0
        ups.unplug()
        while frames.get(timeout=5).link != "down":  # at once: the terminal hangs up
            pass
        ups.replug()
        it.hurry(time.monotonic() + 0.1)
        while source_of(polled := frames.get(timeout=10)) is None:
            assert polled.status is None
            it.hurry(time.monotonic() + 0.1)
        assert source_of(polled) is Source.BATTERY
    finally:
        stop.set()
        it.wake()
        thread.join()


def source_of(polled: Polled) -> Source | None:
    return None if polled.status is None else polled.status.source


def test_alerts_amid_the_answers_change_no_value(ups: ApcPty, driver: Any) -> None:
    before = driver.poll()
    ups.alert(b"!%$+")
    after = driver.poll()
    assert (after.source, after.battery) == (before.source, before.battery)


def test_probe_finds_it_and_nothing_else(ups: ApcPty) -> None:
    line = link.open({"port": str(ups.path)}, time.monotonic)
    assert apcsmart.probe(line) == 1.0
    line.close()
    silent = ScriptLink({})
    assert apcsmart.probe(silent) == 0.0 and silent.sent == [b"Y"]
