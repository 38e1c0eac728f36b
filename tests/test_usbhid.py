"""USB power devices: from the bytes of real units to a Status and rows of the UPS-MIB, and orders back to bytes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snmp_kit import view
from test_mib import ups as mib_rows

from agent import hid, hidtable, quirks, usages, wire
from agent.config import Stage
from agent.drivers import usbhid
from agent.hidlook import look
from agent.hidraw import Identity
from agent.model import Command, Condition, Flow, Ident, LinkError, OrderError, Reply, Source, Status, TestResult
from agent.outage import Plan, State
from agent.protection import step
from tests.simulators.hidunit import CASES, HidUnit, case, describe

READABLE = (
    "0463-ffff-eaton-9px",
    "0463-ffff-eaton-prot",
    "051d-0002-back-ups-bk",
    "051d-0002-back-ups-bx",
    "051d-0002-back-ups-cs",
    "0764",
    "0d9f",
    "10af",
)


def connect(unit: HidUnit) -> usbhid.UsbHid:
    driver = usbhid.connect({}, unit, lambda: unit.now_s)
    assert isinstance(driver, usbhid.UsbHid)
    return driver


def polled(unit: HidUnit, polls: int = 3) -> Status:
    driver = connect(unit)
    for _ in range(polls):
        status = driver.poll()
        unit.now_s += 1.0
    return status


def made(fields: list[tuple[str, str, int, int, int, float]], vendor: int = 0x1234) -> HidUnit:
    """A unit of no known maker, from its fields."""
    descriptor, reports = describe([(f"UPS.{path}", *rest) for path, *rest in fields])  # type: ignore[misc]
    return HidUnit(descriptor, reports, Identity(vendor, 1, "Acme", "Box 9"))


GENERIC = [
    ("PowerSummary.PresentStatus.ACPresent", "Feature", 1, 0, 1, 1),
    ("PowerSummary.PresentStatus.ACPresent", "Input", 1, 0, 1, 1),
    ("PowerSummary.PresentStatus.Discharging", "Feature", 1, 1, 1, 0),
    ("PowerSummary.PresentStatus.Discharging", "Input", 1, 1, 1, 0),
    ("PowerSummary.RemainingCapacity", "Feature", 2, 0, 8, 80),
    ("PowerSummary.DelayBeforeShutdown", "Feature", 3, 0, 16, -1),
    ("PowerSummary.DelayBeforeStartup", "Feature", 4, 0, 16, -1),
]


# --- what it says of real units ------------------------------------------------------------------------------------

#: path (without UPS.) that a log of the unit printed -> the same fact in a Status
SAME: dict[str, Callable[[Status], Any]] = {
    "PowerSummary.RemainingCapacity": lambda s: s.battery.charge_pct,
    "PowerSummary.RunTimeToEmpty": lambda s: s.battery.runtime_s,
    "Battery.Voltage": lambda s: s.battery.voltage_v,
    "Input.Voltage": lambda s: s.inputs[0].voltage_v,
    "Input.Frequency": lambda s: s.inputs[0].frequency_hz,
    "Input.ConfigVoltage": lambda s: s.rating.input_voltage_v,
    "Input.LowVoltageTransfer": lambda s: s.rating.low_transfer_v,
    "Input.HighVoltageTransfer": lambda s: s.rating.high_transfer_v,
    "Output.Voltage": lambda s: s.outputs[0].voltage_v,
    "PowerConverter.Output.Voltage": lambda s: s.outputs[0].voltage_v,
    "Output.Frequency": lambda s: s.outputs[0].frequency_hz,
    "Output.PercentLoad": lambda s: s.outputs[0].load_pct,
    "PowerConverter.PercentLoad": lambda s: s.outputs[0].load_pct,
    "PowerSummary.PercentLoad": lambda s: s.outputs[0].load_pct,
    "Output.ConfigActivePower": lambda s: s.rating.power_w,
    "PowerConverter.ConfigActivePower": lambda s: s.rating.power_w,
    "Flow.[4].ConfigApparentPower": lambda s: s.rating.apparent_va,
    "Flow.[4].ConfigVoltage": lambda s: s.rating.output_voltage_v,
    "Output.ConfigCurrent": lambda s: s.rating.output_current_a,
    "Battery.ConfigVoltage": lambda s: s.rating.battery_voltage_v,
    "PowerSummary.PresentStatus.ACPresent": lambda s: s.source is Source.MAINS,
    "PowerSummary.ACPresent": lambda s: s.source is Source.MAINS,
    "Battery.Temperature": lambda s: s.battery.temperature_c,
    "PowerSummary.PresentStatus.BelowRemainingCapacityLimit": lambda s: s.battery.low,
    "PowerSummary.PresentStatus.Overload": lambda s: Condition.OVERLOAD in s.flags,
    "PowerSummary.PresentStatus.NeedReplacement": lambda s: Condition.BATTERY_BAD in s.flags,
}


@pytest.mark.parametrize("name", READABLE)
def test_the_status_of_a_real_unit_is_what_its_own_log_says(name: str) -> None:
    status, told = polled(HidUnit.of(name)), case(name)
    compared = 0
    for path, kind, report, _, _, logged in told["expect"]:
        same = SAME.get(path.removeprefix("UPS."))
        if kind == "Feature" and same is not None and f"{report:02x}" in told["reports"]:
            assert same(status) == pytest.approx(logged), path
            compared += 1
    assert compared >= 2
    assert wire.from_json(Status, wire.to_json(status)) == status


def test_an_explore_log_makes_the_status_that_nut_made_of_it() -> None:
    told = case("fields_06da")
    descriptor, reports = describe(told["fields"])
    who = Identity(0x06DA, 0xFFFF, told["upsc"]["device.mfr"], told["upsc"]["device.model"], "000000000")
    status, nut = polled(HidUnit(descriptor, reports, who)), told["upsc"]
    assert (status.ident.manufacturer, status.ident.model) == (nut["ups.mfr"], nut["ups.model"])
    assert status.ident.serial == nut["ups.serial"]
    assert status.battery.charge_pct == float(nut["battery.charge"])
    assert status.battery.runtime_s == float(nut["battery.runtime"])
    assert status.battery.voltage_v is not None and round(status.battery.voltage_v) == float(nut["battery.voltage"])
    assert status.outputs[0].load_pct == float(nut["ups.load"])
    words = {Source.MAINS: "OL", Source.BATTERY: "OB"}[status.source], "CHRG" * (status.battery.flow is Flow.CHARGING)
    assert set(nut["ups.status"].split()) == set(words)


def test_every_field_of_an_explore_log_decodes_to_what_it_says() -> None:
    told = case("fields_06da")
    descriptor, reports = describe(told["fields"])
    parsed = hid.parse(descriptor)
    for path, kind, report, offset, bits, logged in told["fields"]:
        place = usages.path(path), kind.lower(), report, offset, bits
        (field,) = [f for f in parsed.fields if (f.path, f.kind, f.report, f.offset, f.bits) == place]
        assert hid.value(field, reports[field.kind, report]) == pytest.approx(logged), path
    assert len(told["fields"]) == 45


def test_from_descriptor_bytes_to_rows_of_the_ups_mib() -> None:
    told = case("051d-0002-back-ups-bx")
    logged = {path: value for path, kind, *_, value in told["expect"] if kind == "Feature"}
    rows = mib_rows(view(polled(HidUnit.of("051d-0002-back-ups-bx"))))
    assert rows["upsEstimatedChargeRemaining"] == logged["UPS.PowerSummary.RemainingCapacity"]
    assert rows["upsEstimatedMinutesRemaining"] == logged["UPS.PowerSummary.RunTimeToEmpty"] // 60
    assert rows["upsBatteryVoltage"] == round(10 * logged["UPS.Battery.Voltage"])
    assert rows["upsInputVoltage.1"] == logged["UPS.Input.Voltage"]
    assert rows["upsOutputPercentLoad.1"] == logged["UPS.PowerConverter.PercentLoad"]
    assert rows["upsConfigInputVoltage"] == logged["UPS.Input.ConfigVoltage"]
    assert rows["upsConfigLowVoltageTransferPoint"] == logged["UPS.Input.LowVoltageTransfer"]
    assert rows["upsConfigHighVoltageTransferPoint"] == logged["UPS.Input.HighVoltageTransfer"]
    assert rows["upsConfigOutputPower"] == logged["UPS.PowerConverter.ConfigActivePower"]
    assert rows["upsOutputSource"] == 3 and rows["upsBatteryStatus"] == 2


def test_powercom_has_its_battery_voltage_in_a_megatec_line_alone() -> None:
    status = polled(HidUnit.of("0d9f"))
    assert status.battery.voltage_v == 26.6  # PowerSummary.Voltage says 228: the mains
    assert status.temperature_c == 39.0 and status.beeper_on is False


def test_the_name_of_an_apc_unit_is_parted_from_its_firmware() -> None:
    status = polled(HidUnit.of("051d-0002-back-ups-cs"))
    assert (status.ident.model, status.ident.firmware) == ("APC Back-UPS 500", "6.5.I")


def test_outlets_of_an_eaton_unit_have_its_own_numbers() -> None:
    assert [(o.number, o.on) for o in polled(HidUnit.of("0463-ffff-eaton-prot")).outlets] == [
        (1, None),
        (2, None),
        (3, True),
    ]


def test_three_phases_give_three_lines() -> None:
    more = [
        (f"PowerConverter.{side}.Phase.[{phase}].Voltage", "Feature", report, 16 * phase - 16, 16, 229 + phase)
        for side, report in (("Input.[1]", 10), ("Output", 11), ("Input.[2]", 12))
        for phase in (1, 2, 3)
    ]
    more.append(("PowerConverter.Input.[1].Frequency", "Feature", 13, 0, 8, 50))
    status = polled(made([*GENERIC, *more]))
    assert [line.voltage_v for line in status.inputs] == [230, 231, 232] == [x.voltage_v for x in status.outputs]
    assert [line.frequency_hz for line in status.inputs] == [50, 50, 50]
    assert len(status.bypass) == 3


@pytest.mark.parametrize(("own", "loads"), [({}, [40.0, 40.0, 40.0]), ({1: 10, 2: 70, 3: 38}, [10.0, 70.0, 38.0])])
def test_the_load_of_a_unit_with_three_phases_is_told(own: dict[int, int], loads: list[float]) -> None:
    more = [(f"PowerConverter.Output.Phase.[{n}].Voltage", "Feature", 10, 16 * n - 16, 16, 230.0) for n in (1, 2, 3)]
    more += [
        (f"PowerConverter.Output.Phase.[{n}].PercentLoad", "Feature", 11, 8 * n - 8, 8, x) for n, x in own.items()
    ]
    status = polled(made([*GENERIC, *more, ("PowerSummary.PercentLoad", "Feature", 12, 0, 8, 40.0)]))
    assert [line.load_pct for line in status.outputs] == loads


def test_a_unit_of_no_known_maker_works_without_a_row() -> None:
    unit = made(GENERIC)
    status = polled(unit)
    assert quirks.row(unit.identity.vendor, 1, "Box 9") is quirks.GENERIC
    assert (status.source, status.battery.charge_pct, status.ident.model) == (Source.MAINS, 80.0, "Box 9")
    assert connect(unit).commands == {Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF, Command.SHUTDOWN_STOP}


@pytest.mark.parametrize("mains", [1.0, 0.0])
def test_a_unit_that_says_it_has_lost_its_communication_is_faulty_and_believed(mains: float) -> None:
    bits = [
        ("PowerSummary.PresentStatus.ACPresent", "Feature", 1, 0, 1, mains),
        ("PowerSummary.PresentStatus.CommunicationLost", "Feature", 1, 1, 1, 1.0),
    ]
    status = polled(made(bits))
    assert status.source is (Source.MAINS if mains else Source.BATTERY) and status.flags == {Condition.GENERAL_FAULT}


def test_a_unit_that_never_says_whether_the_mains_is_there_is_refused() -> None:
    unit = made([GENERIC[4]])
    assert usbhid.probe(unit) == 0.0
    with pytest.raises(LinkError, match="whether the mains is there"):
        connect(unit).poll()


# --- what the numbers mean together ---------------------------------------------------------------------------------


def looked(**numbers: float) -> Status:
    """`ac` and what is given, a dot for two underscores."""
    said = {name.replace("__", "."): value for name, value in {"ac": 1.0, **numbers}.items()}
    return look(said, quirks.GENERIC, Ident(), taken_s=1.0)


@pytest.mark.parametrize(("ac", "low"), [(1.0, False), (0.0, True)])
def test_a_shutdown_that_is_imminent_is_a_low_battery_on_battery_alone(ac: float, low: bool) -> None:
    assert looked(ac=ac, imminent=1.0).battery.low is low
    assert looked(ac=ac, below_limit=1.0).battery.low is True


@pytest.mark.parametrize(
    ("says", "runtime_s"),
    [(65535.0, None), (4294967295.0, None), (2147483647.0, None), (-1.0, None), (65534.0, 65534.0), (0.0, 0.0)],
)
def test_a_runtime_of_all_ones_is_not_known(says: float, runtime_s: float | None) -> None:
    assert looked(runtime=says).battery.runtime_s == runtime_s


@pytest.mark.parametrize(
    ("says", "celsius"),
    [(-41.0, None), (-40.0, -40.0), (120.0, 120.0), (121.0, None), (200.0, None), (300.15, 27.0), (500.0, None)],
)
def test_a_temperature_in_kelvin_is_one_in_celsius_and_none_that_no_ups_has(
    says: float, celsius: float | None
) -> None:
    status = looked(battery__temperature=says, temperature=says)
    assert (status.battery.temperature_c, status.temperature_c) == (celsius, celsius)


@pytest.mark.parametrize(
    ("mode", "charge", "full", "percent"),
    [
        (0.0, 5000.0, 20000.0, 25.0), (1.0, 90.0, 120.0, 75.0), (2.0, 90.0, 120.0, 90.0), (0.0, 80.0, 100.0, 80.0),
        (2.0, 5000.0, 20000.0, None), (2.0, 104.0, 100.0, 100.0),
    ],
)  # fmt: skip
def test_a_charge_in_ampere_seconds_is_a_part_of_the_full_one(
    mode: float, charge: float, full: float, percent: float | None
) -> None:
    assert looked(capacity_mode=mode, charge=charge, full_charge=full).battery.charge_pct == percent


def test_an_input_out_of_its_range_is_bad_while_it_is_used() -> None:
    assert Condition.INPUT_BAD in looked(input_bad=1.0).flags
    assert Condition.INPUT_BAD not in looked(ac=0.0, input_bad=1.0).flags


def test_a_unit_with_two_phases_has_a_line_for_each() -> None:
    status = looked(output__1__voltage=120.0, output__2__voltage=121.0)
    assert [line.voltage_v for line in status.outputs] == [120.0, 121.0, None]


# --- scales --------------------------------------------------------------------------------------------------------


def tripp() -> HidUnit:
    unit = HidUnit.of("09ae")
    unit.reports["feature", 0x32] = bytes.fromhex("32000001")  # AC present; the log of this unit has not this report
    return unit


def test_tripp_lite_volts_are_what_they_mean() -> None:
    assert polled(tripp()).inputs[0].voltage_v == 121.4


def test_minuteman_volts_and_amperes_are_what_they_mean_and_its_idle_timers_are_no_shutdown() -> None:
    status = polled(HidUnit.of("05dd"))
    assert (status.inputs[0].voltage_v, status.battery.voltage_v) == (123.3, 41.2)
    line = status.outputs[0]
    assert (line.voltage_v, line.current_a, line.power_w, line.load_pct) == (121.7, 2.2, 236.0, 22.0)
    assert (status.rating.apparent_va, status.rating.battery_voltage_v) == (1500.0, 36.0)
    assert Condition.SHUTDOWN_PENDING not in status.flags and status.flags == frozenset()


def test_a_unit_without_signs_stops_its_timer_with_all_ones() -> None:
    unit = HidUnit.of("05dd")
    driver = connect(unit)
    driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=90)
    assert written(unit) == [b"\x61\xff\xff", b"\x15\x5a\x00"]
    assert Condition.SHUTDOWN_PENDING in driver.poll().flags
    driver.order(Command.SHUTDOWN_STOP)
    assert written(unit)[-1] == b"\x15\xff\xff"


def test_a_unit_that_has_its_numbers_in_input_reports_alone_is_asked_for_them() -> None:
    unit = made(
        [
            ("PowerSummary.PresentStatus.ACPresent", "Input", 1, 0, 1, 1),
            ("PowerSummary.RemainingCapacity", "Input", 2, 0, 8, 55),
        ]
    )
    status = polled(unit)
    assert (status.source, status.battery.charge_pct) == (Source.MAINS, 55) and ("input", 1) in unit.sent


def test_a_unit_that_refuses_its_state_as_a_feature_tells_it_as_an_input() -> None:
    unit = HidUnit.of("1cb0")
    del unit.reports["feature", 0x0B]
    status = polled(unit)
    assert (status.source, status.battery.flow, status.battery.low) == (Source.MAINS, Flow.CHARGING, False)
    assert unit.sent.count(("feature", 0x0B)) == 2  # once more a while later: it might have refused in a hurry


def test_a_scale_that_nobody_wrote_down_is_picked_by_the_nominal_voltage_and_told_once(caplog: Any) -> None:
    unit = tripp()
    unit.identity = Identity(0x1234, 1)  # no row knows it
    unit.set("UPS.PowerSummary.Input.ConfigVoltage", 120)
    unit.reports["feature", 0x30] = bytes((0x30, 120))
    with caplog.at_level("INFO"):
        assert polled(unit, 5).inputs[0].voltage_v == 121.4
    assert sum("input.voltage says 0.001214; taken for 121.4" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize(
    ("name", "value", "nominal", "want"),
    [
        ("input.voltage", 230.0, 230.0, 230.0),
        ("input.voltage", 3.0, 230.0, 3.0),  # a dead input
        ("input.voltage", 0.0, 230.0, 0.0),
        ("input.voltage", 0.00003, 230.0, None),  # of a dead input the scale cannot be told
        ("output.voltage", 2160.0, 230.0, 216.0),  # Legrand, NUT issue 2073
        ("output.voltage", 0.00000023, None, None),  # no power of ten within reach makes a mains of it
        ("input.frequency", 600.0, None, 60.0),
        ("input.frequency", 5000.0, None, 50.0),
        ("battery.voltage", 240.0, 24.0, 24.0),
        ("battery.voltage", 2.7e-06, 24.0, 27.0),
        ("battery.voltage", 228.0, 24.0, 22.8),
        ("battery.voltage", 3.0, None, None),
        ("load", 999.0, None, None),
    ],
)
def test_what_is_not_credible_gets_a_scale_or_is_left_out(
    name: str, value: float, nominal: float | None, want: float | None
) -> None:
    assert quirks.Scales(quirks.GENERIC).believe(name, value, nominal, 1.0) == want


def test_a_driver_scales_what_is_measured_by_the_rating() -> None:
    unit = volts(2, {(0x1A, 0x30): 80, (0x1A, 0x40): 100})  # 80 V: known only beside 100
    status = polled(unit)
    assert status.inputs[0].voltage_v == pytest.approx(80.0) and status.rating.input_voltage_v == pytest.approx(100.0)


def test_what_is_left_out_is_told_once(caplog: Any) -> None:
    scales = quirks.Scales(quirks.GENERIC)
    with caplog.at_level("INFO"):
        assert [scales.believe("load", 999.0, None, 1.0) for _ in range(3)] == [None] * 3
    assert [r.message for r in caplog.records] == ["usbhid: load says 999; left out: no scale makes it credible"]


def test_a_scale_once_picked_serves_the_dead_input_too() -> None:
    scales = quirks.Scales(quirks.GENERIC)
    for at_s in (1.0, 2.0):
        assert scales.believe("input.voltage", 0.0023, 230.0, at_s) == 230.0
    assert scales.believe("input.voltage", 0.00003, 230.0, 3.0) == 3.0


@pytest.mark.parametrize("nominal", [None, 230.0])
def test_a_glitch_spoils_no_scale_however_often_the_same_reading_is_seen(nominal: float | None) -> None:
    scales = quirks.Scales(quirks.GENERIC)
    assert scales.believe("input.voltage", 230.1, nominal, 1.0) == 230.1
    assert [scales.believe("input.voltage", 2301.0, nominal, 2.0) for _ in range(3)] == [230.1] * 3
    assert scales.believe("input.voltage", 230.1, nominal, 3.0) == 230.1
    assert scales.believe("input.frequency", 500.0, None, 2.0) == 50.0
    assert scales.believe("input.frequency", 50.0, None, 3.0) == 50.0


def test_a_scale_that_two_glitches_picked_is_dropped_when_the_units_own_is_right() -> None:
    scales = quirks.Scales(quirks.GENERIC)
    for at_s in (1.0, 2.0):
        scales.believe("input.voltage", 2301.0, 230.0, at_s)
    said = [scales.believe("input.voltage", 230.1, 230.0, at_s) for at_s in (3.0, 3.0, 4.0, 5.0, 6.0)]
    assert said[-2:] == [230.1, 230.1]
    assert scales.believe("input.voltage", 23.0, 230.0, 7.0) == 23.0  # a brownout is one


def test_the_scale_of_a_unit_that_needs_it_stays_through_a_dead_input() -> None:
    scales = quirks.Scales(quirks.GENERIC)
    tenths = [2301.0, 2299.0, 0.0, 0.0, 400.0, 400.0, 30.0, 2300.0]
    said = [scales.believe("input.voltage", value, 230.0, float(at)) for at, value in enumerate(tenths)]
    assert said == [230.1, 229.9, 0.0, 0.0, 40.0, 40.0, 3.0, 230.0]


@pytest.mark.parametrize("power", [1e-8, 1e-7, 1e-5, 1e-4, 1.0, 10.0])
def test_a_rating_with_the_same_wrong_scale_as_what_is_measured_hides_neither(power: float) -> None:
    scales = quirks.Scales(quirks.GENERIC)
    nominal = scales.believe("rated.input_voltage", 120 * power, None, 1.0)
    assert nominal == pytest.approx(120.0)
    assert scales.believe("input.voltage", 121 * power, nominal, 1.0) == pytest.approx(121.0)
    rated = scales.believe("rated.battery_voltage", 1.2e-6, None, 1.0)
    assert rated is None and scales.believe("battery.voltage", 1.39e-6, rated, 1.0) is None


def volts(power: int, values: dict[tuple[int, int], int]) -> HidUnit:
    """A unit whose volts, (collection, usage) -> raw, all have this exponent with the unit V."""
    body = bytearray.fromhex(
        "05840904a101 8501 0924a100 0902a100 0585 09d0 15002501 75019502 b102 75069501 b101 c0c0"
    )
    reports = {("feature", 1): b"\x01\x01"}
    for report, ((collection, usage), raw) in enumerate(values.items(), 0x20):
        body += bytes((0x05, 0x84, 0x85, report, 0x09, collection, 0xA1, 0, 0x09, usage))
        body += (
            bytes.fromhex("1500 27ffff0000 6721d1f000")
            + bytes((0x55, power & 0xF))
            + bytes.fromhex("7510 9501 b102 c0")
        )
        reports["feature", report] = bytes([report]) + raw.to_bytes(2, "little")
    return HidUnit(bytes(body) + b"\xc0", reports, Identity(0x10AF, 0, "Liebert", "PSI"))


@pytest.mark.parametrize("power", [7, 3, 2, 0, -1])
def test_a_liebert_unit_with_a_wrong_scale_everywhere_tells_its_mains(power: int) -> None:
    unit = volts(power, {(0x1A, 0x30): 121, (0x1A, 0x40): 120, (0x1C, 0x30): 119, (0x12, 0x30): 27, (0x12, 0x40): 24})
    status = polled(unit)
    assert status.inputs[0].voltage_v == pytest.approx(121) and status.outputs[0].voltage_v == pytest.approx(119)
    assert status.rating.input_voltage_v == pytest.approx(120)
    assert status.battery.voltage_v is None or 5 <= status.battery.voltage_v <= 600


def test_cyberpower_battery_volts_of_three_halves_stay_mended_while_the_battery_empties() -> None:
    scales = quirks.Scales(quirks.row(0x0764, 0x0501, ""))
    said = [41.1, 41.1, 36.0, 33.0, 31.5, 30.0, 30.0, 30.0]
    got = [scales.believe("battery.voltage", volts, 24.0, float(n)) for n, volts in enumerate(said)]
    assert got == [pytest.approx(volts * 2 / 3, abs=1e-6) for volts in said]
    own = [scales.believe("battery.voltage", 27.3, 24.0, 100.0 + n) for n in range(3)]
    assert own[2] == 27.3, "two glitches had asked for it"


def test_cyberpower_battery_volts_of_three_halves_are_mended() -> None:
    row = quirks.row(0x0764, 0x0501, "CP1500")
    assert quirks.Scales(row).believe("battery.voltage", 40.5, 24.0, 1.0) == 27.0
    assert quirks.Scales(row).believe("battery.voltage", 27.0, 24.0, 1.0) == 27.0


def test_a_tenth_of_salicrus_output_voltage_is_mended_and_the_whole_left_as_it_is() -> None:
    row = quirks.row(0x2E66, 0x0302, "SPS 850 ADV T")
    for said in (22.8, 228.0):
        assert quirks.Scales(row).believe("output.voltage", said, 230.0, 1.0) == 228.0
    assert quirks.Scales(quirks.row(0x2E66, 0x0300, "")).believe("output.voltage", 224.5, 230.0, 1.0) == 224.5


def test_every_row_has_evidence_and_the_makers_are_all_there() -> None:
    assert all(row.evidence and row.title for row in quirks.ROWS)
    assert {row.vendor for row in quirks.ROWS} >= {0x051D, 0x0764, 0x0463, 0x06DA, 0x09AE, 0x10AF, 0x0D9F, 0x05DD}
    known = {path for paths in hidtable.READ.values() for path in paths}
    assert all(row.drop <= known and {*row.factors, *row.more} <= hidtable.READ.keys() for row in quirks.ROWS)
    assert {row.vendor for row in quirks.ROWS} >= {0x2E66, 0x1CB0, 0x2E51, 0x075D}
    cases = {p.name for p in CASES.glob("*.json")}
    named = {
        word for row in quirks.ROWS for word in re.findall(r"[0-9a-f]{4}-[0-9a-f]{4}-[a-z][a-z0-9-]*", row.evidence)
    }
    assert named and all(any(name.removeprefix("fields_").startswith(word) for name in cases) for word in named)
    assert quirks.row(0x0764, 0x0501, "UT650EG").discharging_is_battery
    assert quirks.row(0x051D, 2, "Back-UPS BX1600MI").flag_lies and not quirks.row(0x051D, 2, "Back-UPS ES").flag_lies


def test_a_row_is_complete_only_if_bytes_of_its_own_make_a_whole_status_and_untested_if_there_are_none() -> None:
    whole: set[str] = set()
    part: set[str] = set()
    for path in CASES.glob("[0-9]*.json"):
        unit = HidUnit.of(path.stem)
        title = quirks.row(*unit.identity[:2], unit.identity.name).title
        part.add(title)
        try:
            status = polled(unit)
        except LinkError:
            continue  # too few of its reports are known
        known = status.battery.charge_pct is not None and status.battery.runtime_s is not None
        whole |= {title} if known and status.source is Source.MAINS else set()
    part.add(quirks.row(0x06DA, 0xFFFF, "").title)  # the log of values
    assert {row.title for row in quirks.ROWS if row.state == "complete"} == whole
    assert {row.title for row in quirks.ROWS if row.state == "partial"} == part - whole
    for row in (*quirks.ROWS, quirks.GENERIC):
        named = re.search(r"[0-9a-f]{4}-[0-9a-f]{4}-[a-z]", row.evidence)
        assert (row.state == "untested") == (named is None), row.title
    states = {card.how: card.state for card in usbhid.CARDS}
    assert len(states) == len(quirks.ROWS) + 1 and states["any other power device"] == "untested"


# --- the mains fails -----------------------------------------------------------------------------------------------


def test_an_ever_unit_tells_of_a_low_battery_in_its_own_collection() -> None:
    own = "00000000.ff000016.ff0000"
    fields = [
        ("PowerSummary.PresentStatus.ACPresent", "Feature", 1, 0, 1, 0),
        ("PowerSummary.PresentStatus.BelowRemainingCapacityLimit", "Feature", 1, 1, 1, 0),
        ("PowerSummary.RemainingCapacity", "Feature", 2, 0, 8, 9),
        (f"{own}17", "Feature", 3, 0, 1, 1),
        (f"{own}18", "Feature", 3, 1, 1, 1),
        (f"{own}20", "Feature", 3, 2, 1, 1),
    ]
    status = polled(made(fields, 0x2E51))
    assert status.source is Source.BATTERY and status.battery.low is True
    assert {Condition.LOW_BATTERY, Condition.OVERLOAD, Condition.BATTERY_BAD} <= status.flags
    assert polled(made(fields)).battery.low is False  # another maker's own collection means nothing to us


def test_an_interrupt_report_alone_tells_of_the_mains_failure_at_the_next_poll() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    assert driver.poll().source is Source.MAINS
    unit.reports["input", 1] = b"\x01\x02"
    unit.push(1)
    begin_s, unit.sent[:] = unit.now_s, []
    status = driver.poll()
    assert status.source is Source.BATTERY and status.battery.flow is Flow.DISCHARGING
    assert ("feature", 1) not in unit.sent and unit.now_s - begin_s < 0.3 and status.taken_s == begin_s


def slow() -> tuple[HidUnit, Any, int]:
    """A real unit that takes 0.1 s for each report, all read; and the report that tells of the mains."""
    unit = HidUnit.of("0463-ffff-eaton-prot", pace_s=0.1)
    driver = connect(unit)
    for _ in range(8):
        driver.poll()
        unit.now_s += 2.0
    begin_s = unit.now_s
    assert driver.poll().source is Source.MAINS and unit.now_s - begin_s > 0.5, "measuring takes long"
    return unit, driver, unit.mains(False)[0]


def test_what_is_measured_does_not_keep_a_mains_failure_waiting() -> None:
    unit, driver, report = slow()
    unit.now_s += 2.0  # the next round of measuring is due
    unit.push(report)
    begin_s = unit.now_s
    assert driver.poll().source is Source.BATTERY and unit.now_s - begin_s <= 0.2
    unit.sent.clear()
    assert driver.poll().source is Source.BATTERY and len(unit.sent) > 4, "it measures at the next poll"


def test_news_of_the_mains_wait_for_no_report_that_hangs_when_it_fails() -> None:
    unit, driver, report = slow()
    parsed = hid.parse(unit.descriptor)
    charge = parsed.find(usages.path("UPS.PowerSummary.RemainingCapacity"), "feature")
    assert charge is not None and charge.report != report and driver.again_s is None
    unit.lost.add(charge.report)
    unit.now_s += 2.0
    unit.push(report)
    begin_s = unit.now_s
    assert driver.poll().source is Source.BATTERY and unit.now_s - begin_s <= 0.2
    assert driver.again_s == 0.0, "the others are asked at once"
    assert driver.poll().source is Source.BATTERY and unit.waited_s == 5.0 and driver.again_s is None


def test_a_mains_failure_that_comes_while_it_measures_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, driver, report = slow()
    unit.now_s += 2.0
    unit.mains(True)
    unit.push(report)
    driver.poll()
    get, came_s = unit.get, []

    def failing(kind: str, number: int, length: int) -> Any:
        reply = get(kind, number, length)
        if not came_s and unit.now_s - begin_s > 0.35:
            came_s.append(unit.now_s)
            unit.mains(False)
            unit.push(report)
        return reply

    unit.now_s, begin_s = unit.now_s + 2.0, unit.now_s + 2.0
    monkeypatch.setattr(unit, "get", failing)
    status = driver.poll()
    assert status.source is Source.BATTERY and came_s == [status.taken_s] and unit.now_s - came_s[0] <= 0.2
    unit.sent.clear()
    driver.poll()
    assert len(unit.sent) > 2, "the round goes on at the next poll"


class Heard(HidUnit):
    """As over a link that reads interrupt reports when they come, and not when it is asked for them."""

    def __init__(self, *what: Any, **more: Any) -> None:
        super().__init__(*what, **more)
        self.heard: list[Reply] = []

    def push(self, report: int) -> None:
        self.now_s += 0.001
        self.heard.append(Reply(self.reports["input", report], self.now_s))

    def inputs(self, limit: int) -> list[Reply]:
        taken, self.heard = self.heard, []
        return taken


@pytest.mark.parametrize("pace_s", [0.1, 0.7, 2.0])
@pytest.mark.parametrize("at", range(1, 8))
def test_news_that_come_with_a_slow_report_are_told_at_once_with_their_own_time(
    at: int, pace_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = Heard.of("0463-ffff-eaton-prot", pace_s=0.1)
    driver = connect(unit)
    for _ in range(8):
        driver.poll()
        unit.now_s += 2.0
    unit.pace_s, get, came_s, asked = pace_s, unit.get, [math.inf], 0

    def failing(kind: str, number: int, length: int) -> Any:
        nonlocal asked
        asked += 1
        if asked == at:
            unit.push(unit.mains(False)[0])
            came_s[0] = unit.now_s
        return get(kind, number, length)

    monkeypatch.setattr(unit, "get", failing)
    status = driver.poll()
    if asked < at:
        return  # the poll is over before that
    assert status.source is Source.BATTERY and came_s[0] <= status.taken_s <= unit.now_s
    assert unit.now_s - came_s[0] <= 1.5 + 2 * pace_s, "what is vital comes first"


def test_a_mains_that_flickers_all_the_time_does_not_keep_it_from_measuring() -> None:
    unit, driver, report = slow()
    for number in range(60):
        unit.mains(number % 2 == 0)
        unit.push(report)
        assert driver.poll().outputs[0].load_pct is not None, number
        unit.now_s += 2.0


def test_a_unit_that_is_polled_seldom_is_measured_at_every_poll() -> None:
    unit, driver, _ = slow()
    for _ in range(6):
        unit.now_s += 8.0
        unit.mains(True)
        unit.sent.clear()
        driver.poll()
        assert len(unit.sent) > 4


def test_a_question_for_the_mains_that_hangs_is_answered_by_the_interrupt_report_that_came_meanwhile() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    assert driver.poll().source is Source.MAINS
    unit.lost.add(1)
    with pytest.raises(LinkError, match="no answer within 5 s"):
        driver.poll()
    get = unit.get

    def failing(kind: str, number: int, length: int) -> Any:
        if number == 1:
            unit.reports["input", 1] = b"\x01\x02"
            unit.push(1)
        return get(kind, number, length)

    unit.get = failing  # type: ignore[method-assign]
    status = driver.poll()
    assert status.source is Source.BATTERY and status.taken_s >= unit.now_s - 0.1


def test_an_interrupt_report_that_is_cut_short_or_unknown_counts_for_nothing() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    for data in (b"\x01", b"", b"\x77\x00\x00"):
        unit.waiting.append(data)
    assert driver.poll().source is Source.MAINS and ("feature", 1) in unit.sent


def test_without_interrupt_reports_asking_finds_it_too() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    driver.poll()
    unit.reports["feature", 1] = b"\x01\x02"
    assert driver.poll().source is Source.BATTERY


def test_interrupt_reports_that_cannot_be_believed_neither_wake_nor_count() -> None:
    unit = HidUnit.of("051d-0003")
    unit.reports = {
        ("feature", 7): b"\x07\x05\x00",
        ("input", 7): b"\x07\x00\x00",
        ("feature", 12): b"\x0c\x42\x00\x10",
    }
    unit.wake_fd = 0
    driver = connect(unit)
    unit.push(7)
    assert driver.wake_fd is None and driver.poll().source is Source.MAINS


def test_a_unit_that_discharges_on_mains_is_on_mains() -> None:
    status = polled(HidUnit.of("051d-0002-back-ups-bk"))
    assert status.source is Source.MAINS and status.battery.flow is None  # this one says so while it is full
    unit = made(GENERIC)
    unit.reports["feature", 1] = b"\x01\x03"
    assert (polled(unit).source, polled(unit).battery.flow) == (Source.MAINS, Flow.DISCHARGING)


def test_cyberpower_ut_discharges_only_on_battery() -> None:
    unit = made(GENERIC, 0x0764)
    unit.identity = Identity(0x0764, 0x0501, "CPS", "UT650EG")
    unit.reports["feature", 1] = b"\x01\x03"
    assert polled(unit).source is Source.BATTERY


def test_an_early_cry_of_an_eaton_unit_with_a_full_battery_is_no_low_battery() -> None:
    unit = HidUnit.of("0463-ffff-eaton-prot")
    unit.reports["feature", 1] = bytes.fromhex("01300001")  # on battery, shutdown imminent; charge 100
    assert polled(unit).battery.low is False
    unit.reports["feature", 6] = bytes.fromhex("06 50 53070000".replace(" ", ""))
    assert polled(unit).battery.low is True


# --- reports that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["051d-0002-back-ups-cs", "0463-ffff-eaton-prot", "0764", "0d9f"])
def test_a_unit_that_refuses_nearly_all_at_first_is_whole_soon(name: str) -> None:
    unit = HidUnit.of(name)
    whole = polled(HidUnit.of(name))
    kept = unit.reports
    driver = connect(unit)
    place = driver._reader.places["ac"][0]
    unit.reports = {key: data for key, data in kept.items() if place.feature and key[1] == place.feature.report}
    assert driver.poll().battery.charge_pct is None or name == "0d9f"  # that one has all of them in one report
    unit.reports = kept
    for _ in range(4):
        unit.now_s += 2.0
        status = driver.poll()
    assert status.battery == whole.battery and status.outputs == whole.outputs


def test_a_mains_report_that_is_refused_once_makes_way_for_the_next_place_and_comes_back() -> None:
    fields = [
        ("PowerSummary.PresentStatus.ACPresent", "Feature", 1, 0, 1, 1.0),
        ("Battery.PresentStatus.Discharging", "Feature", 2, 0, 1, 0.0),
    ]
    unit = made(fields)
    driver = connect(unit)
    kept = unit.reports.pop(("feature", 1))
    assert driver.poll().source is Source.MAINS
    unit.reports["feature", 1] = kept
    unit.set("UPS.PowerSummary.PresentStatus.ACPresent", 0)
    unit.now_s += 2.0
    driver.poll()
    assert driver.poll().source is Source.BATTERY


def test_a_unit_that_refuses_all_for_a_second_after_it_came_back_is_read_at_the_next_poll() -> None:
    unit = made(GENERIC)
    driver, kept, unit.reports = connect(unit), unit.reports, {}
    with pytest.raises(LinkError, match="whether the mains is there"):
        driver.poll()
    asked = len(unit.sent)
    with pytest.raises(LinkError, match="whether the mains is there"):
        driver.poll()  # woken, and it was asked just now
    assert len(unit.sent) == asked
    unit.reports = kept
    unit.now_s += 1.0
    assert driver.poll().source is Source.MAINS and unit.sent[asked:][:1] == [("feature", 1)]


def test_a_report_that_is_refused_for_good_is_asked_a_few_times_in_an_hour() -> None:
    unit = made(GENERIC)
    del unit.reports["feature", 2]
    driver = connect(unit)
    begin_s = unit.now_s
    while unit.now_s < begin_s + 7200:
        assert driver.poll().battery.charge_pct is None
        unit.now_s += 1.0
    assert unit.sent.count(("feature", 2)) == 6


def test_a_refused_report_makes_way_for_the_next_place() -> None:
    unit = HidUnit.of("051d-0002-back-ups-bx")
    del unit.reports["feature", 0x0F]  # PowerSummary.RunTimeToEmpty; Battery.RunTimeToEmpty has it too
    del unit.reports["input", 0x0F]
    driver = connect(unit)
    for _ in range(4):
        status = driver.poll()
        unit.now_s += 1.0
    assert status.battery.runtime_s == 3320 and unit.sent.count(("feature", 0x0F)) == 2


def test_a_lost_optional_report_fails_no_poll_and_is_asked_less_and_less() -> None:
    unit = HidUnit.of("0764")
    driver = connect(unit)
    for _ in range(3):
        driver.poll()
        unit.now_s += 1.0
    unit.lost.add(0x0F)  # Input.Voltage
    unit.sent.clear()
    begin_s = unit.now_s
    while unit.now_s < begin_s + 200:
        status = driver.poll()
        unit.now_s += 1.0
    assert status.inputs == () and status.source is Source.MAINS and status.outputs[0].voltage_v == 121
    assert 3 <= unit.sent.count(("feature", 0x0F)) <= 5
    unit.lost.clear()
    unit.now_s += 700
    driver.poll()
    unit.now_s += 1
    assert driver.poll().inputs[0].voltage_v == 121


def test_a_vital_report_that_is_lost_fails_the_poll_in_bounded_time() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    driver.poll()
    unit.lost.add(1)
    begin_s = unit.now_s
    with pytest.raises(LinkError):
        driver.poll()
    assert unit.now_s - begin_s <= 5.1
    unit.lost.clear()
    assert driver.poll().source is Source.MAINS


def test_a_report_that_worked_and_is_refused_now_is_lost_and_not_unknown() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    driver.poll()
    kept = unit.reports.pop(("feature", 1))
    with pytest.raises(LinkError, match="was not before"):
        driver.poll()
    unit.reports["feature", 1] = kept
    assert driver.poll().source is Source.MAINS


def test_another_report_than_the_one_that_was_asked_for_is_none() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    unit.reports["feature", 2] = b"\x07\x63"
    assert driver.poll().battery.charge_pct is None
    unit.reports["feature", 1] = b"\x07\x00"
    with pytest.raises(LinkError, match="another came: 07 00"):
        driver.poll()


def test_a_charge_that_cannot_be_read_is_gone_after_some_seconds_not_remembered() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    assert driver.poll().battery.charge_pct == 80
    unit.lost.add(2)
    for _ in range(4):
        status = driver.poll()
        unit.now_s += 1.0
    assert status.battery.charge_pct is None and status.source is Source.MAINS


def test_a_unit_that_is_gone_is_a_link_error() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    driver.poll()
    unit.gone = True
    with pytest.raises(LinkError, match="gone"):
        driver.poll()


def test_a_slow_unit_is_read_in_several_polls_none_of_them_long() -> None:
    unit = HidUnit.of("0d9f", pace_s=0.15)
    driver = connect(unit)
    for _ in range(8):
        begin_s = unit.now_s
        status = driver.poll()
        assert unit.now_s - begin_s < 3.5
        unit.now_s = max(unit.now_s, begin_s + 1.0)
    assert status.inputs[0].voltage_v == 228 and status.rating.output_voltage_v == 220


@pytest.mark.parametrize("name", ["051d-0002-back-ups-bx", "051d-0002-back-ups-cs", "0463-ffff-eaton-prot", "0764"])
@pytest.mark.parametrize("pace_s", [0.3, 1.0, 3.0, 4.5])
def test_an_outage_of_a_slow_unit_is_confirmed_and_nothing_it_says_is_lost(name: str, pace_s: float) -> None:
    unit = HidUnit.of(name, pace_s=pace_s)
    driver = connect(unit)
    driver.poll()
    unit.mains(False)
    for path in ("UPS.PowerSummary.ACPresent", "UPS.PowerSummary.Discharging"):  # where APC has it as well
        if hid.parse(unit.descriptor).find(usages.path(path), "feature") is not None:
            unit.set(path, float(path.endswith("ing")))
    begin_s, state, confirmed_s = unit.now_s, State(), None
    plan = Plan(stages=(Stage(name="all", on_battery_s=3600.0),))
    while unit.now_s < begin_s + 300:
        poll_s = unit.now_s
        status = driver.poll()
        assert unit.now_s - poll_s <= 2.0 + 2 * pace_s
        state, effects = step(state, status, unit.now_s, plan=plan, failed_polls=0, fresh_id="0" * 16)
        if confirmed_s is None and any(one.kind == "outage-began" for one in effects):
            confirmed_s = unit.now_s - begin_s
        if unit.now_s > begin_s + 100:
            assert status.battery.charge_pct is not None and status.battery.runtime_s is not None
            assert unit.now_s - status.taken_s <= 2.0 + pace_s
            assert max(status.older.get(f"battery.{name}", 0.0) for name in ("charge_pct", "runtime_s")) <= 8 * pace_s
        unit.now_s += 0.5
    assert confirmed_s is not None and confirmed_s <= 6.0 + 4 * pace_s
    measured = [status.battery.voltage_v, *(line.load_pct for line in status.outputs)]
    assert measured != [None] * len(measured) or pace_s > 1.0, "there is time to measure too"


def test_the_first_poll_of_a_slow_unit_is_a_short_one() -> None:
    unit = HidUnit.of("0764", pace_s=0.1)
    driver = connect(unit)
    costs = []
    for _ in range(3):
        begin_s, unit.sent[:] = unit.now_s, []
        assert driver.poll().source is Source.MAINS
        costs.append(unit.now_s - begin_s)
        unit.now_s += 1.0
    assert costs[0] <= 1.1 < costs[1]


# --- orders --------------------------------------------------------------------------------------------------------


def written(unit: HidUnit) -> list[bytes]:
    return [what for what in unit.sent if isinstance(what, bytes)]


def test_shutdown_and_return_writes_the_return_first_and_minutes_rounded_up() -> None:
    unit = HidUnit.of("0764")
    driver = connect(unit)
    said = driver.order(Command.SHUTDOWN_RETURN, delay_s=20, return_delay_s=180)
    assert said == "off after 60 s, not 20, back after 0 s, not 180"
    assert written(unit) == [
        b"\x16\x00\x00",
        b"\x15\x01\x00",
    ]  # 20 s would be "now": one minute; return 0, see its row
    assert Condition.SHUTDOWN_PENDING in driver.poll().flags
    driver.order(Command.SHUTDOWN_STOP)
    assert written(unit)[-1] == b"\x15\xff\xff"
    unit.sent.clear()
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=61) == "off after 120 s, not 61"
    assert written(unit) == [b"\x16\xff\xff", b"\x15\x02\x00"]


def test_a_cyberpower_unit_is_never_told_to_go_at_once() -> None:
    unit = HidUnit.of("0764")
    connect(unit).order(Command.SHUTDOWN_STAY_OFF, delay_s=0)
    assert written(unit)[-1] == b"\x15\x01\x00"


def test_an_eaton_unit_takes_seconds() -> None:
    unit = HidUnit.of("0463-ffff-eaton-prot")
    assert connect(unit).order(Command.SHUTDOWN_RETURN, delay_s=20, return_delay_s=45) == ""
    assert written(unit) == [b"\x0a" + bytes((45, 0, 0, 0)), b"\x09" + bytes((20, 0, 0, 0))]


class Late(HidUnit):
    """A unit whose shutdown timer (report 3) says the old value so many times after it was written."""

    late = 0

    def get(self, kind: str, report: int, length: int) -> Any:
        if report == 3 and self.sent and any(isinstance(one, bytes) and one[0] == 3 for one in self.sent):
            self.late -= 1
            if self.late >= 0:
                self.sent.append((kind, report))
                return Reply(b"\x03" + self.idle, self.now_s)
        return super().get(kind, report, length)

    idle = b"\xff\xff"


@pytest.mark.parametrize(
    ("late", "idle", "said"),
    [
        (0, b"\xff\xff", ""),
        (2, b"\xff\xff", ""),
        (3, b"\xff\xff", "did not start"),
        (2, b"\0\0", ""),
        (3, b"\0\0", "no countdown"),
    ],
)
def test_a_shutdown_timer_is_looked_at_three_times_and_the_word_is_true(late: int, idle: bytes, said: str) -> None:
    descriptor, reports = describe([(f"UPS.{path}", *rest) for path, *rest in GENERIC])  # type: ignore[misc]
    unit = Late(descriptor, reports, Identity(0x1234, 1, "Acme", "Box 9"))
    driver = connect(unit)
    unit.late, unit.idle = late, idle
    if said == "did not start":
        with pytest.raises(OrderError, match=f"{said} .* it says -1; it may still do so"):
            driver.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=60)
    else:
        told = driver.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=60)
        assert told == ("the UPS shows no countdown" if said else "")
    assert unit.sent[-min(late + 1, usbhid.LOOKS) :] == [("feature", 3)] * min(late + 1, usbhid.LOOKS)


TIMERS = [  # both in one report, with a neighbour
    *GENERIC[:5],
    ("PowerSummary.DelayBeforeShutdown", "Feature", 3, 0, 16, -1.0),
    ("PowerSummary.DelayBeforeStartup", "Feature", 3, 16, 16, -1.0),
    ("PowerSummary.AudibleAlarmControl", "Feature", 3, 32, 8, 2.0),
]


def slow_to_show(shown_after_s: float) -> tuple[HidUnit, usbhid.UsbHid]:
    """A unit that takes what is written to report 3, and shows it a while later."""
    unit = made(TIMERS)
    get, put, wrote_s = unit.get, unit.put, []
    old = unit.reports["feature", 3]

    def late_get(kind: str, report: int, length: int) -> Any:
        reply = get(kind, report, length)
        if (kind, report) == ("feature", 3) and wrote_s and unit.now_s < wrote_s[0] + shown_after_s:
            return Reply(old, unit.now_s)
        return reply

    def late_put(data: bytes) -> bool:
        wrote_s.append(unit.now_s)
        return put(data)

    unit.get, unit.put = late_get, late_put  # type: ignore[method-assign]
    return unit, connect(unit)


@pytest.mark.parametrize("shown_after_s", [0.0, 0.05, 0.9])
def test_two_timers_in_one_report_are_written_together_and_may_be_shown_later(shown_after_s: float) -> None:
    unit, driver = slow_to_show(shown_after_s)
    assert driver.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=30) == ""
    assert written(unit) == [b"\x03\x3c\x00\x1e\x00\x02"]


def test_a_beeper_that_shows_its_new_state_later_was_switched() -> None:
    unit, driver = slow_to_show(0.3)
    driver.order(Command.BEEPER_OFF)
    assert written(unit) == [b"\x03\xff\xff\xff\xff\x01"]


@pytest.mark.parametrize("said", [b"", b"\x05\x14\0\0\0\0", b"\x03\xff\xff"])
def test_nothing_is_written_on_the_ground_of_another_report_or_a_part_of_it(said: bytes) -> None:
    unit = made(TIMERS)
    driver = connect(unit)
    unit.reports["feature", 3] = said
    with pytest.raises(OrderError if said[:1] == b"\x03" else LinkError, match="would be lost|another came"):
        driver.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=30)
    assert written(unit) == []


def test_another_report_is_no_proof_that_an_order_was_taken() -> None:
    unit = made(GENERIC)
    driver = connect(unit)
    get = unit.get

    def strange(kind: str, report: int, length: int) -> Any:
        reply = get(kind, report, length)
        return Reply(b"\x02\x1e\x00", unit.now_s) if written(unit)[1:] and reply is not None else reply

    unit.get = strange  # type: ignore[method-assign]
    with pytest.raises(LinkError, match="another came"):
        driver.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=60)


def test_a_report_that_cannot_be_read_is_written_only_if_nothing_else_is_in_it() -> None:
    for timers, ok in ((TIMERS, False), ([*GENERIC[:5], GENERIC[5]], True)):
        unit = made(timers)
        unit.get = lambda kind, report, length: None  # type: ignore[method-assign]
        driver = connect(unit)
        if ok:
            assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60) == "the UPS shows no countdown"
        else:
            with pytest.raises(OrderError, match="others in it would be lost"):
                driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
        assert written(unit) == [b"\x03\x3c\x00"] * ok


def test_a_timer_that_does_not_run_after_it_was_written_is_an_order_refused() -> None:
    unit = HidUnit.of("0463-ffff-eaton-prot")
    unit.deaf = True
    driver = connect(unit)
    with pytest.raises(OrderError, match="did not start its shutdown timer"):
        driver.order(Command.SHUTDOWN_RETURN, delay_s=20, return_delay_s=45)
    with pytest.raises(OrderError, match="did not take beeper-off"):
        driver.order(Command.BEEPER_OFF)


def test_a_write_that_the_unit_refuses_is_an_order_refused_with_its_bytes() -> None:
    unit = HidUnit.of("0764")
    driver = connect(unit)
    del unit.reports["feature", 0x14]
    with pytest.raises(OrderError, match="14 01"):
        driver.order(Command.TEST_QUICK)


def test_a_test_and_its_result() -> None:
    unit = HidUnit.of("0764")
    driver = connect(unit)
    driver.order(Command.TEST_DEEP)
    assert written(unit) == [b"\x14\x02"]
    unit.reports["feature", 0x14] = b"\x14\x05"
    status = polled(unit)
    assert status.test is not None and status.test.result is TestResult.RUNNING
    assert Condition.TEST_RUNNING in status.flags


def test_powercom_has_its_own_words_for_the_beeper_and_no_shutdown_that_we_understand() -> None:
    unit = HidUnit.of("0d9f")
    driver = connect(unit)
    driver.order(Command.BEEPER_ON)
    assert written(unit) == [b"\x13\x01"]
    assert not driver.commands & {Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF, Command.SHUTDOWN_STOP}


def test_an_outlet_is_switched_by_its_own_timer_and_its_neighbours_stay() -> None:
    unit = made(
        [
            *GENERIC,
            ("OutletSystem.Outlet.[2].DelayBeforeShutdown", "Feature", 9, 0, 16, -1),
            ("OutletSystem.Outlet.[2].DelayBeforeStartup", "Feature", 9, 16, 16, 77),
            ("OutletSystem.Outlet.[2].PresentStatus.SwitchOn/Off", "Feature", 10, 0, 1, 1),
        ]
    )
    driver = connect(unit)
    driver.order(Command.OUTLET_OFF, number=2)
    assert written(unit) == [b"\x09\x00\x00\x4d\x00"]
    with pytest.raises(OrderError, match="outlets 2, not 1"):
        driver.order(Command.OUTLET_OFF, number=1)


# --- whatever comes ------------------------------------------------------------------------------------------------


def numbers_of(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from numbers_of(one)
    elif is_dataclass(value):
        for one in fields(value):
            yield from numbers_of(getattr(value, one.name))


@given(st.sampled_from((*READABLE, "05dd", "1cb0", "075d", "09ae", "2e66")), st.data())
@settings(max_examples=150, deadline=None)
def test_any_report_bytes_give_a_status_or_a_link_error(name: str, data: st.DataObject) -> None:
    unit = HidUnit.of(name)
    for key in sorted(unit.reports):
        if data.draw(st.booleans()):
            tail = data.draw(st.binary(max_size=8))
            unit.reports[key] = bytes([key[1]]) + tail if data.draw(st.booleans()) else tail
    unit.waiting = data.draw(st.lists(st.binary(max_size=9), max_size=4))
    driver = connect(unit)
    for _ in range(3):
        try:
            status = driver.poll()
        except LinkError:
            continue
        assert all(math.isfinite(n) for n in numbers_of(status))
        assert wire.from_json(Status, wire.to_json(status)) == status
        charge = status.battery.charge_pct
        assert charge is None or 0 <= charge <= 100
        unit.now_s += 1.0


@given(st.sampled_from(READABLE), st.sampled_from(list(Command)), st.floats(), st.floats())
@settings(max_examples=100, deadline=None)
def test_any_order_is_given_or_refused(name: str, command: Command, first: float, second: float) -> None:
    unit = HidUnit.of(name)
    driver = connect(unit)
    names = {Command.SHUTDOWN_RETURN: ("delay_s", "return_delay_s"), Command.SHUTDOWN_STAY_OFF: ("delay_s",)}
    names |= dict.fromkeys((Command.OUTLET_ON, Command.OUTLET_OFF), ("number",))
    try:
        driver.order(command, **dict(zip(names.get(command, ()), (first, second), strict=False)))
    except OrderError:
        pass


def test_the_link_wakes_the_thread_of_the_ups() -> None:
    unit = made(GENERIC)
    unit.wake_fd, other = os.pipe()
    assert connect(unit).wake_fd == unit.wake_fd
    os.close(unit.wake_fd)
    os.close(other)
