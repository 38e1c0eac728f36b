"""How old a value is, is known; and none lives for ever because nobody asks for it any more, or in vain."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from snmp_kit import ON_LINE, view
from test_apcmodbus import connected as modbus
from test_apcsmart import polled as apc
from test_mib import ups
from test_q1 import polled as q1
from test_usbhid import connect as hid_driver
from test_usbhid import made

from agent import apc as apc_codec
from agent import hidlook, hidreader, hidtable, page, quirks, wire
from agent.ages import MEASURED_LIMIT_S, NOTED_S, older
from agent.drivers import apcmodbus, apcsmart
from agent.model import Condition, Driver, Ident, Reply, Status
from agent.ups import Ups
from agent.usbport import Rescue
from agent.verbs import describe
from agent.words import load
from tests.fakecore import on_line


def test_only_what_is_noticeably_older_than_its_frame_is_named_and_of_several_the_oldest_counts() -> None:
    said = [("a", 100.0), ("b", 95.1), ("c", 95.0), ("rating", 80.0), ("rating", 70.04), ("rating", 90.0)]
    assert older(said, 100.0) == {"c": NOTED_S, "rating": 30.0}


@pytest.mark.parametrize("age_s, there", [(MEASURED_LIMIT_S, True), (MEASURED_LIMIT_S + 0.1, False)])
def test_managers_are_told_no_measurement_that_is_too_old_and_what_is_set_stays(age_s: float, there: bool) -> None:
    """SNMP has no word for an age: what it is told is fresh."""
    places = [
        "inputs[0].voltage_v", "outputs[0].load_pct", "outputs[7].load_pct", "bypass[0].voltage_v",
        "battery.charge_pct", "battery.temperature_c", "battery.runtime_s", "temperature_c", "rating", "ident",
        "beeper_on", "test", "flags", "outlets",
    ]  # fmt: skip
    battery = replace(ON_LINE.battery, estimated=frozenset({"charge_pct", "runtime_s"}))
    status = replace(ON_LINE, battery=battery, beeper_on=True, temperature_c=30.0, older=dict.fromkeys(places, age_s))

    def nobody() -> Driver:
        raise AssertionError

    status = Ups(nobody, lambda polled: None, 1.0, Rescue(time.monotonic))._believed(status)
    told = ups(view(status))
    for name in ("upsInputVoltage.1", "upsOutputPercentLoad.1", "upsBypassVoltage.1", "upsEstimatedChargeRemaining",
                 "upsBatteryTemperature", "upsEstimatedMinutesRemaining"):  # fmt: skip
        assert (name in told) is there, name
    for name in ("upsConfigInputVoltage", "upsIdentModel", "upsConfigAudibleStatus", "upsOutputSource",
                 "upsInputFrequency.1", "upsBatteryVoltage"):  # fmt: skip
        assert name in told, name
    assert not status.battery.estimated or there


# --- APC smart ----------------------------------------------------------------------------------------------------


def slow(line: Any, ask_s: float) -> Callable[..., Reply]:
    """The same unit over a line on which each answer takes so long."""
    quick = line.ask

    def ask(command: bytes, **more: Any) -> Reply:
        reply: Reply = quick(command, **more)
        line.now_s += ask_s - 0.1
        return replace_time(reply, line.now_s)

    return ask


def replace_time(reply: Reply, at_s: float) -> Reply:
    return reply._replace(received_s=at_s)


def test_a_register_that_nobody_has_time_to_ask_for_is_not_believed_for_ever() -> None:
    driver, line = apc()
    line.apc.register[b"8"] = 0x20
    while Condition.CHARGER_FAILED not in driver.poll().flags:
        line.now_s += 1.0
    line.apc.register[b"8"] = 0x00
    line.ask = slow(line, 0.5)  # so that a poll has no time for more than some measurements
    line.sent.clear()
    began_s = line.now_s
    while (status := driver.poll()).taken_s < began_s + 120.0:
        pass
    assert Condition.CHARGER_FAILED in status.flags and status.older["flags"] >= 110.0  # late, and it says so
    while status.taken_s < began_s + apcsmart.LATE_S + 60.0:
        status = driver.poll()
    assert b"8" not in line.asked() and Condition.CHARGER_FAILED not in status.flags and "flags" not in status.older


def test_settings_and_names_of_a_smart_ups_have_their_age() -> None:
    driver, line = apc()
    line.now_s += 400.0
    status = driver.poll()
    assert status.older["ident"] >= 400.0 and status.older["rating"] >= 400.0 and "battery" not in status.older
    assert status.rating.low_transfer_v == 196.0 and status.beeper_on is True


def test_each_question_of_a_smart_ups_stands_for_the_place_that_it_fills() -> None:
    answers: dict[bytes, apc_codec.Value] = {
        b"b": "601.3.I", b"V": "FWI", b"\x01": "Smart-UPS", b"n": "AS1", b"X": "OK", b"8": 0x20, b"'": 0x01,
        b"~": 0x02, b"g": 24.0, b"o": 230.0, b"l": 196.0, b"u": 253.0, b"q": 120.0, b"k": "0",
    }  # fmt: skip
    assert answers.keys() == apc_codec.FACTS.keys() == apc_codec.PLACES.keys()
    without = apc_codec.look(0x08, {}, taken_s=1.0)
    for question, value in answers.items():
        said = apc_codec.look(0x08, {question: value}, taken_s=1.0)
        assert apc_codec.PLACES[question] in differing(without, said), question


def differing(one: Any, other: Any) -> set[str]:
    """The fields in which two of these are not the same; `source` is in every frame."""
    return {f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)}


# --- APC Modbus ---------------------------------------------------------------------------------------------------


def test_registers_that_are_refused_now_are_no_values_any_more() -> None:
    driver, line = modbus()
    assert driver.poll().rating.low_transfer_v == 207.0
    line.now_s += 100.0
    status = driver.poll()
    assert (
        status.rating.low_transfer_v == 207.0 and status.older["rating"] >= 100.0 and status.older["ident"] >= 100.0
    )
    for register in range(1026, 1031):
        del line.unit.there[register]
    line.now_s += apcmodbus.AGAIN_S
    status = driver.poll()
    assert status.rating.low_transfer_v is None and status.rating.power_w == 2700.0 and status.older == {}


# --- USB ----------------------------------------------------------------------------------------------------------

UNIT = [
    ("PowerSummary.PresentStatus.ACPresent", "Feature", 1, 0, 1, 1),
    ("PowerSummary.RemainingCapacity", "Feature", 2, 0, 8, 80),
    ("PowerSummary.PercentLoad", "Feature", 3, 0, 8, 30),
    ("PowerSummary.RemainingTimeLimit", "Feature", 4, 0, 16, 120),
    ("PowerSummary.ConfigVoltage", "Feature", 5, 0, 8, 24),
    ("PowerSummary.PresentStatus.Overload", "Feature", 6, 0, 1, 0),
]


def pass_by(driver: Any, unit: Any, seconds: float) -> Status:
    """Polls, one a second, for so long; the last frame."""
    until_s = unit.now_s + seconds
    while unit.now_s < until_s:
        unit.now_s += 1.0
        status: Status = driver.poll()
    return status


def test_a_setting_of_a_usb_ups_is_asked_again_and_gone_when_that_is_in_vain() -> None:
    unit = made(UNIT)
    driver = hid_driver(unit)
    assert pass_by(driver, unit, 3.0).rating.low_battery_s == 120.0
    unit.reports["feature", 4] = b"\x04" + (300).to_bytes(2, "little")
    assert pass_by(driver, unit, hidreader.SETTINGS_EVERY_S + 5.0).rating.low_battery_s == 300.0
    unit.lost.add(4)
    status = pass_by(driver, unit, hidreader.OLD_SETTING_S + 5.0)
    assert status.rating.low_battery_s is None and status.rating.battery_voltage_v == 24.0
    assert unit.sent.count(("feature", 5)) == 1  # what it is made for does not change


def test_the_age_of_what_a_usb_ups_was_not_asked_for_again_is_known() -> None:
    unit = made(UNIT)
    driver = hid_driver(unit)
    assert pass_by(driver, unit, 3.0).older == {}
    unit.lost.add(3)
    for _ in range(10):
        if (status := pass_by(driver, unit, 1.0)).older:
            break
    assert status.outputs[0].load_pct == 30.0 and NOTED_S <= status.older["outputs[0].load_pct"] <= hidreader.OLD_S
    status = pass_by(driver, unit, 10.0)
    assert status.outputs == () and "outputs[0].load_pct" not in status.older and status.older["rating"] > 10.0


def test_each_variable_of_a_usb_ups_stands_for_the_place_that_it_fills() -> None:
    basis = dict.fromkeys(("ac", "charging", "discharging"), 1.0) | {"discharging": 0.0}
    ident, quirk = Ident(), quirks.GENERIC
    without = hidlook.look(basis, quirk, ident, taken_s=1.0)
    unplaced = {"full_charge", "capacity_mode", "boost", "buck", "on_bypass", "ac", "charging", "discharging"}
    for name in hidtable.READ:
        if name in unplaced or name.startswith("string.") or name.endswith(".switchable"):
            assert name not in hidlook.PLACES, name
            continue
        value = 0.0 if name in ("good", "battery_present", "below_limit", "time_expired", "imminent") else 1.0
        numbers = {**basis, name: value}
        if name[-2:].isdigit() or ".3." in name or ".2." in name or ".1." in name:
            numbers.setdefault(name.split(".")[0] + ".2.voltage", 230.0)
        said = hidlook.look(numbers, quirk, ident, taken_s=1.0)
        place = hidlook.PLACES[name]
        assert resolve(said, place) != resolve(without, place), (name, place)


def resolve(status: Status, place: str) -> Any:
    """The value at a place; None where there is none."""
    value: Any = status
    for part in place.replace("]", "").replace("[", ".").split("."):
        if part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = getattr(value, part) if is_dataclass(value) else None
    return value


# --- Q1 -----------------------------------------------------------------------------------------------------------


def test_the_rating_of_a_q1_unit_stays_and_has_its_age() -> None:
    unit, link = q1("megatec")
    unit.poll()
    assert unit.poll().older == {}
    link.now_s += 3600.0
    status = unit.poll()
    assert status.rating.battery_voltage_v == 24.0 and status.older["rating"] >= 3600.0
    assert status.ident.model is None or status.older["ident"] >= 3600.0


# --- where it is seen ---------------------------------------------------------------------------------------------


def test_an_old_value_is_marked_on_the_page_and_named_on_the_command_line_and_on_the_bus() -> None:
    view = on_line()
    assert view.status is not None and view.status.older == {}
    status = replace(view.status, older={"outputs[0].load_pct": 8.4, "rating": 4000.0})
    assert wire.from_json(Status, wire.to_json(status)) == status
    for language, text in (("en", "old"), ("de", "alt")):
        words = load()[language]
        fresh = page.pieces(view, [], words, view.now_s)
        shown = page.pieces(replace(view, status=status), [], words, view.now_s)
        assert {name for name in shown if shown[name] != fresh[name]} == {"t-load"}
        assert f"8\N{NARROW NO-BREAK SPACE}s {text}" in shown["t-load"]
    before, after = describe(view), describe(replace(view, status=status))
    assert [line for line in after if line not in before] == [
        "  said before the rest: outputs[0].load_pct 8 s, rating 4000 s"
    ]


# --- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rating", "ident", "flags", "test", "beeper_on"])
def test_what_protection_acts_on_is_never_an_old_value(name: str) -> None:
    acted_on = {"source", "battery.charge_pct", "battery.runtime_s", "battery.low"}
    assert name not in acted_on and not acted_on & set(apc_codec.PLACES.values())
    assert hidreader.OLD_VITAL_S < NOTED_S  # older ones are no values: they are never named
