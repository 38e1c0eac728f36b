"""The objects of RFC 1628 against the standard's own table, and what they say of real and of impossible UPSes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snmp_kit import ON_LINE, UPS, dotted, since, three_phase, view, whole

from agent import ber, mib2, upsmib, upsset
from agent.mib import NOTHING, Look, Table
from agent.model import (
    VERSION,
    Battery,
    Command,
    Condition,
    Forecast,
    Ident,
    Line,
    Rating,
    ServerView,
    Source,
    Status,
    Test,
    TestResult,
    View,
)


class Standard(NamedTuple):
    """A line of the standard's table."""

    oid: str  # without instance
    name: str
    column: bool
    tag: int
    accessible: bool
    low: int
    high: int


def _standard() -> list[Standard]:
    found = []
    for line in (Path(__file__).parent / "cases" / "ups_mib_objects.tsv").read_text().splitlines():
        fields = line.split("\t")
        if line.startswith("#") or len(fields) != 11:
            continue
        oid, name, kind, _, _, tag, access, _, legal, _, _ = fields
        if numbers := re.findall(r"\((\d+)\)", legal) if "..(" not in legal and "1/100" not in legal else []:
            low, high = int(numbers[0]), int(numbers[-1])
        elif match := re.search(r"(-?\d+)\.\.(\d+)", legal):
            low, high = int(match[1]), int(match[2])
        else:
            low, high = 0, 0
        if high == 2**31:  # the text of RFC 1628 exceeds Integer32 by one
            high -= 1
        bare = oid.removesuffix(".0").removesuffix(".<index>")
        found.append(Standard(bare, name, kind == "column", int(tag, 16), access != "not-accessible", low, high))
    return found


STANDARD = _standard()
BY_OID = {o.oid: o for o in STANDARD}


def look(shown: View, alarms: upsmib.Alarms | None = None, now_s: float = 100.0, **more: Any) -> Look:
    alarms = alarms or upsmib.Alarms()
    alarms.update(shown.conditions, now_s, 100.0)
    status = shown.status or NOTHING
    return Look(view=shown, status=status, now_s=now_s, started_s=100.0, kept={}, alarms=alarms.rows, **more)


def values(at: Look) -> dict[str, tuple[int, bytes]]:
    """Every instance that has a value, in the table's order."""
    table = Table(upsmib.rows(at) + mib2.rows(at), upsmib.OBJECTS + mib2.OBJECTS)
    found = {}
    for oid, get in zip(table.oids, table.gets, strict=True):
        data = get(at)
        if data is not None:
            tag, start, stop = ber.head(data, 0, len(data))
            assert stop == len(data)
            found[".".join(map(str, oid))] = tag, data[start:stop]
    return found


def ups(shown: View, **more: Any) -> dict[str, Any]:
    """The UPS-MIB by object name and index, decoded."""
    found: dict[str, Any] = {}
    for name, (tag, body) in values(look(shown, **more)).items():
        if name.startswith(UPS + "."):
            bare, _, index = name.rpartition(".")
            value = body.decode() if tag == 4 else dotted(body) if tag == 6 else whole(body)
            found[BY_OID[bare].name + ("" if index == "0" else "." + index)] = value
    return found


# --- the standard's table ---------------------------------------------------------------------------------------


def test_the_standard_has_59_objects_of_which_four_are_not_accessible() -> None:
    assert len(STANDARD) == 59
    assert [o.name for o in STANDARD if not o.accessible] == [
        "upsInputLineIndex", "upsOutputLineIndex", "upsBypassLineIndex", "upsAlarmId",
    ]  # fmt: skip


def test_our_objects_are_those_of_the_standard_with_its_types_and_ranges() -> None:
    ours = {
        ".".join(map(str, o.oid)): (o.name, o.tag, o.low, o.high) for o in sorted(upsmib.OBJECTS, key=lambda o: o.oid)
    }
    theirs = {o.oid: (o.name, o.tag, o.low, o.high) for o in STANDARD if o.accessible}
    assert ours == theirs
    assert list(ours) == list(theirs)  # in the same order


def test_a_ups_that_says_all_has_every_object() -> None:
    shown = view(ON_LINE, since(Condition.OVERLOAD))
    found = values(look(shown))
    bare = {name.rpartition(".")[0] for name in found}
    assert [o.name for o in STANDARD if o.accessible and o.oid not in bare] == []


def test_instances_are_in_the_order_of_their_names() -> None:
    shown = view(three_phase(), since(Condition.OVERLOAD), since(Condition.INPUT_BAD))
    names = [tuple(map(int, name.split("."))) for name in values(look(shown))]
    assert names == sorted(names)


numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(-300, 3000)
lines = st.lists(
    st.builds(Line, voltage_v=numbers, frequency_hz=numbers, current_a=numbers, power_w=numbers, load_pct=numbers),
    max_size=14,
).map(tuple)
statuses = st.builds(
    Status,
    taken_s=st.just(1.0),
    source=st.sampled_from(Source),
    inputs=lines,
    outputs=lines,
    bypass=lines,
    battery=st.builds(
        Battery, charge_pct=numbers, runtime_s=numbers, voltage_v=numbers, current_a=numbers, temperature_c=numbers,
        low=st.sampled_from([None, True, False]),
    ),
    ident=st.builds(Ident, manufacturer=st.none() | st.text(), model=st.none() | st.text(), firmware=st.text()),
    rating=st.builds(
        Rating, input_voltage_v=numbers, input_frequency_hz=numbers, output_voltage_v=numbers,
        output_frequency_hz=numbers, apparent_va=numbers, power_w=numbers, low_battery_s=numbers,
        low_transfer_v=numbers, high_transfer_v=numbers,
    ),
    test=st.none() | st.builds(Test, result=st.sampled_from(TestResult), detail=st.text(max_size=400)),
    temperature_c=numbers,
    beeper_on=st.sampled_from([None, True, False]),
)  # fmt: skip
active = st.builds(since, st.sampled_from(Condition), st.floats(allow_nan=True, allow_infinity=True))


@given(
    st.none() | statuses, st.lists(active, max_size=6), numbers, st.integers(-5, 2**40), st.text(max_size=90),
    st.integers(0, 2**33),
)  # fmt: skip
def test_every_value_is_legal_whatever_the_driver_says(
    status: Status | None, conditions: list[Any], on_battery_s: float | None, bads: int, name: str, now_s: int
) -> None:
    shown = view(status, *conditions, on_battery_s=on_battery_s, input_bads=bads, name=name)
    for instance, (tag, body) in values(look(shown, now_s=100.0 + now_s)).items():
        bare, _, _ = instance.rpartition(".")
        if not bare.startswith(UPS):
            continue
        standard = BY_OID[bare]
        assert standard.accessible and tag == standard.tag, instance
        if tag == ber.OCTET_STRING:
            assert standard.low <= len(body) <= standard.high and all(32 <= c < 127 for c in body), instance
        elif tag == ber.OBJECT_ID:
            assert dotted(body).startswith(UPS + ".")
        else:
            assert standard.low <= whole(body) <= standard.high, f"{instance} {whole(body)}"


# --- what the values say ----------------------------------------------------------------------------------------


def test_a_ups_on_line_is_told_in_the_units_of_the_standard() -> None:
    assert ups(view()) == {
        "upsIdentManufacturer": "Example Power", "upsIdentModel": "EP 1000", "upsIdentUPSSoftwareVersion": "V1.02",
        "upsIdentAgentSoftwareVersion": f"Ridethrough {VERSION}", "upsIdentName": "rack-3",
        "upsIdentAttachedDevices": "nas", "upsBatteryStatus": 2, "upsSecondsOnBattery": 0,
        "upsEstimatedMinutesRemaining": 29, "upsEstimatedChargeRemaining": 98, "upsBatteryVoltage": 273,
        "upsBatteryCurrent": -12, "upsBatteryTemperature": -5, "upsInputLineBads": 7, "upsInputNumLines": 1,
        "upsInputFrequency.1": 499, "upsInputVoltage.1": 230, "upsInputCurrent.1": 12, "upsInputTruePower.1": 287,
        "upsOutputSource": 3, "upsOutputFrequency": 500, "upsOutputNumLines": 1, "upsOutputVoltage.1": 230,
        "upsOutputCurrent.1": 10, "upsOutputPower.1": 228, "upsOutputPercentLoad.1": 31, "upsBypassFrequency": 499,
        "upsBypassNumLines": 1, "upsBypassVoltage.1": 230, "upsBypassCurrent.1": 0, "upsBypassPower.1": 0,
        "upsAlarmsPresent": 0, "upsTestId": f"{UPS}.7.7.1", "upsTestSpinLock": 1, "upsTestResultsSummary": 6,
        "upsTestResultsDetail": "", "upsTestStartTime": 0, "upsTestElapsedTime": 0, "upsShutdownType": 1,
        "upsShutdownAfterDelay": -1, "upsStartupAfterDelay": -1, "upsRebootWithDuration": -1, "upsAutoRestart": 1,
        "upsConfigInputVoltage": 230, "upsConfigInputFreq": 500, "upsConfigOutputVoltage": 230,
        "upsConfigOutputFreq": 500, "upsConfigOutputVA": 1000, "upsConfigOutputPower": 700, "upsConfigLowBattTime": 3,
        "upsConfigAudibleStatus": 2, "upsConfigLowVoltageTransferPoint": 184,
        "upsConfigHighVoltageTransferPoint": 264,
    }  # fmt: skip


def test_without_a_frame_only_what_the_agent_knows_itself_is_there() -> None:
    assert ups(view(None, since(Condition.COMM_LOST), since(Condition.ON_BATTERY), on_battery_s=5.0)) == {
        "upsIdentAgentSoftwareVersion": f"Ridethrough {VERSION}", "upsIdentName": "rack-3",
        "upsIdentAttachedDevices": "nas", "upsAlarmsPresent": 2,
        "upsAlarmDescr.1": f"{UPS}.6.3.20", "upsAlarmTime.1": 0,
        "upsAlarmDescr.2": f"{UPS}.6.3.2", "upsAlarmTime.2": 0,
    }  # fmt: skip


def test_what_a_ups_does_not_say_is_absent_and_not_zero() -> None:
    bare = ups(view(Status(taken_s=1.0, source=Source.UNKNOWN)))
    assert bare["upsOutputSource"] == 1 and bare["upsBatteryStatus"] == 1
    assert (bare["upsInputNumLines"], bare["upsOutputNumLines"], bare["upsBypassNumLines"]) == (0, 0, 0)
    assert not [name for name in bare if name.startswith(("upsConfig", "upsEstimated", "upsBypassF", "upsOutputF"))]
    assert not [name for name in bare if "Voltage" in name or "Current" in name or "Temperature" in name]
    assert "upsIdentUPSSoftwareVersion" not in bare


def test_a_ups_without_a_name_has_an_empty_one_as_every_conformance_group_wants_it() -> None:
    bare = ups(view(Status(taken_s=1.0, source=Source.MAINS)))
    assert bare["upsIdentManufacturer"] == bare["upsIdentModel"] == ""


def test_zero_is_told_as_zero() -> None:
    flat = replace(ON_LINE, inputs=(Line(voltage_v=0.0, frequency_hz=0.0),), battery=Battery(charge_pct=0.0))
    found = ups(view(flat))
    assert (found["upsInputVoltage.1"], found["upsInputFrequency.1"], found["upsEstimatedChargeRemaining"]) == (
        0,
        0,
        0,
    )


def test_three_phases_have_three_rows() -> None:
    found = ups(view(three_phase()))
    assert found["upsInputNumLines"] == found["upsOutputNumLines"] == found["upsBypassNumLines"] == 3
    assert [n for n in found if n.startswith("upsOutputPercentLoad")] == [
        f"upsOutputPercentLoad.{n}" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("source", "number"),
    [("unknown", 1), ("none", 2), ("mains", 3), ("bypass", 4), ("battery", 5), ("boost", 6), ("buck", 7)],
)
def test_the_output_source_has_the_numbers_of_the_standard(source: str, number: int) -> None:
    assert ups(view(replace(ON_LINE, source=Source(source))))["upsOutputSource"] == number


@pytest.mark.parametrize(
    ("low", "conditions", "number"),
    [
        (False, (), 2),
        (None, (), 1),
        (True, (), 3),
        (None, (Condition.LOW_BATTERY,), 3),
        (False, (Condition.LOW_BATTERY,), 3),
        (True, (Condition.BATTERY_DEPLETED,), 4),
    ],
)
def test_the_battery_status_follows_conditions_and_frame(
    low: bool | None, conditions: tuple[Condition, ...], number: int
) -> None:
    shown = view(replace(ON_LINE, battery=Battery(low=low)), *(since(c) for c in conditions))
    assert ups(shown)["upsBatteryStatus"] == number


def test_seconds_on_battery_go_on_between_two_views() -> None:
    shown = view(ON_LINE, on_battery_s=12.5)
    assert ups(shown, now_s=100.4)["upsSecondsOnBattery"] == 12
    assert ups(shown, now_s=102.0)["upsSecondsOnBattery"] == 14


@pytest.mark.parametrize(("runtime_s", "minutes"), [(0.0, 1), (59.0, 1), (60.0, 1), (119.9, 1), (120.0, 2)])
def test_minutes_remaining_are_whole_and_never_zero(runtime_s: float, minutes: int) -> None:
    shown = view(replace(ON_LINE, battery=Battery(runtime_s=runtime_s)))
    assert ups(shown)["upsEstimatedMinutesRemaining"] == minutes


def test_minutes_remaining_of_a_ups_that_says_none_are_the_forecast_s() -> None:
    mute = replace(ON_LINE, battery=Battery(charge_pct=90.0))
    cast = Forecast(runtime_s=1500.0, basis="learned")
    assert "upsEstimatedMinutesRemaining" not in ups(view(mute))
    assert ups(view(mute, forecast=cast))["upsEstimatedMinutesRemaining"] == 25
    says = replace(ON_LINE, battery=Battery(runtime_s=600.0))
    assert ups(view(says, forecast=cast))["upsEstimatedMinutesRemaining"] == 10
    assert "upsEstimatedMinutesRemaining" not in ups(view(None, forecast=cast))


def test_the_battery_temperature_may_come_from_inside_the_ups() -> None:
    assert ups(view(replace(ON_LINE, battery=Battery(), temperature_c=31.6)))["upsBatteryTemperature"] == 32


@pytest.mark.parametrize(("beeper", "number"), [(True, 2), (False, 1)])
def test_the_beeper_is_enabled_or_disabled(beeper: bool, number: int) -> None:
    assert ups(view(replace(ON_LINE, beeper_on=beeper)))["upsConfigAudibleStatus"] == number


def test_load_is_clamped_to_200_percent() -> None:
    loaded = replace(ON_LINE, outputs=(Line(load_pct=240.0, voltage_v=-3.0),))
    assert ups(view(loaded))["upsOutputPercentLoad.1"] == 200
    assert ups(view(loaded))["upsOutputVoltage.1"] == 0


NO_TEST, GENERAL = f"{UPS}.7.7.1", f"{UPS}.7.7.3"


def test_a_running_test_tells_its_start_and_the_time_since() -> None:
    running = replace(ON_LINE, test=Test(result=TestResult.RUNNING, detail="ten seconds"))
    found = ups(view(running, since(Condition.TEST_RUNNING, 101.0)), now_s=104.5)
    assert (found["upsTestResultsSummary"], found["upsTestResultsDetail"]) == (5, "ten seconds")
    assert (found["upsTestStartTime"], found["upsTestElapsedTime"]) == (100, 350)
    assert found["upsTestId"] == GENERAL, "which one it is, nobody said: the maker's standard test"


def test_a_finished_test_tells_its_result_and_nothing_unknown() -> None:
    found = ups(view(replace(ON_LINE, test=Test(result=TestResult.PASSED))))
    assert found["upsTestResultsSummary"] == 1 and found["upsTestId"] == NO_TEST
    assert not {"upsTestStartTime", "upsTestElapsedTime"} & found.keys()


@pytest.mark.parametrize(
    ("order", "number"),
    [(Command.TEST_QUICK, 4), (Command.TEST_MINUTES, 4), (Command.TEST_DEEP, 5), (None, 3)],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_test_that_others_began_has_its_name_while_it_runs_and_its_start_afterwards(
    order: Command | None, number: int, running: bool
) -> None:
    result = TestResult.RUNNING if running else TestResult.PASSED
    shown = view(
        replace(ON_LINE, test=Test(result=result)), *([since(Condition.TEST_RUNNING, 101.0)] if running else []),
        test_order=order.value if order else "", test_s=101.0,
    )  # fmt: skip
    found = ups(shown, now_s=104.0)
    # NUT takes the name of a calibration that is over for one that goes on, in which no outage counts
    assert found["upsTestId"] == (f"{UPS}.7.7.{number}" if running else NO_TEST)
    assert found["upsTestStartTime"] == 100


def test_no_countdown_is_claimed_absent_while_one_runs() -> None:
    found = ups(view(ON_LINE, since(Condition.SHUTDOWN_PENDING)))
    assert not {"upsShutdownAfterDelay", "upsStartupAfterDelay", "upsRebootWithDuration"} & found.keys()
    assert found["upsShutdownType"] == 1


def test_attached_devices_are_the_servers_names_as_many_as_fit() -> None:
    servers = tuple(
        ServerView(name=f"server-{n:02}", address="", port=1, how="rccmd", stage="", needs_s=1) for n in range(9)
    )
    text = ups(view(ON_LINE, servers=servers))["upsIdentAttachedDevices"]
    assert text == "server-00, server-01, server-02, server-03, server-04"


def test_text_that_is_not_ascii_becomes_question_marks() -> None:
    assert ups(view(ON_LINE, name="B\u00fcro ~\n1"))["upsIdentName"] == "B?ro ~?1"


# --- the alarm table --------------------------------------------------------------------------------------------


def alarm_rows(alarms: upsmib.Alarms) -> dict[int, tuple[int, int]]:
    return {number: tuple(row) for number, row in alarms.rows.items()}


def test_every_well_known_alarm_has_its_number() -> None:
    alarms = upsmib.Alarms()
    alarms.update([since(c) for c in list(Condition)[:24]], 100.0, 0.0)
    assert [row.number for row in alarms.rows.values()] == list(range(1, 25))


def test_conditions_without_a_well_known_alarm_have_no_row() -> None:
    alarms = upsmib.Alarms()
    alarms.update(
        [since(c) for c in (Condition.NOT_PROTECTED, Condition.CONFIG_ERROR, Condition.STORAGE_FAILED)], 1, 0
    )
    assert alarms.rows == {}


def test_an_alarm_keeps_its_id_as_long_as_it_lasts_and_a_new_one_gets_a_new_id() -> None:
    alarms = upsmib.Alarms()
    on_battery, low = since(Condition.ON_BATTERY, 110.0), since(Condition.LOW_BATTERY, 130.0)
    alarms.update([on_battery], 110.0, 100.0)
    alarms.update([on_battery, low], 130.0, 100.0)
    assert alarm_rows(alarms) == {1: (2, 1000), 2: (3, 3000)}
    alarms.update([low], 140.0, 100.0)
    assert alarm_rows(alarms) == {2: (3, 3000)}
    alarms.update([since(Condition.ON_BATTERY, 150.0), low], 150.0, 100.0)
    assert alarm_rows(alarms) == {2: (3, 3000), 3: (2, 5000)}


def test_a_condition_that_ended_and_began_between_two_looks_is_a_new_row() -> None:
    alarms = upsmib.Alarms()
    alarms.update([since(Condition.ON_BATTERY, 110.0)], 110.0, 100.0)
    alarms.update([since(Condition.ON_BATTERY, 120.0)], 121.0, 100.0)
    assert alarm_rows(alarms) == {2: (2, 2000)}


def test_what_was_there_before_the_agent_has_time_0() -> None:
    alarms = upsmib.Alarms()
    alarms.update([since(Condition.ON_BATTERY, 50.0)], 130.0, 100.0)
    assert alarm_rows(alarms) == {1: (2, 0)}


def test_a_lost_ups_and_then_a_lost_core_are_one_and_the_same_row() -> None:
    alarms = upsmib.Alarms()
    alarms.update([since(Condition.COMM_LOST, 110.0)], 110.0, 100.0)
    alarms.update([since(Condition.COMM_LOST, 110.0), since(Condition.NO_CORE, 120.0)], 120.0, 100.0)
    alarms.update([since(Condition.NO_CORE, 120.0)], 120.0, 100.0)
    assert alarm_rows(alarms) == {1: (20, 1000)}


def test_ids_wrap_to_a_free_value() -> None:
    alarms = upsmib.Alarms()
    alarms.update([since(Condition.ON_BATTERY, 110.0)], 110.0, 100.0)
    alarms.last = 2**31 - 2
    both = [since(Condition.ON_BATTERY, 110.0), since(Condition.OVERLOAD, 111.0)]
    alarms.update(both, 111.0, 100.0)
    alarms.update([*both, since(Condition.INPUT_BAD, 112.0)], 112.0, 100.0)
    assert sorted(alarms.rows) == [1, 2, 2**31 - 1]


@given(st.lists(st.lists(active, max_size=8), max_size=8))
def test_no_two_rows_have_the_same_alarm(history: list[list[Any]]) -> None:
    alarms = upsmib.Alarms()
    for conditions in history:
        alarms.update(conditions, 100.0, 0.0)
        numbers_ = [row.number for row in alarms.rows.values()]
        assert len(numbers_) == len(set(numbers_))
        assert all(1 <= n <= 24 for n in numbers_)


# --- the table, and the adapter itself --------------------------------------------------------------------------


def test_the_row_behind_a_name_is_found_by_arcs_and_not_by_octets() -> None:
    at = look(view())
    table = Table(upsmib.rows(at), upsmib.OBJECTS)
    # 2097152 takes four octets that begin with 0x81, 16384 three that begin with 0x81, too
    for sub in (127, 128, 16383, 16384, 2097151, 2097152, 2**32 - 1):
        position = table.after(ber.oid_body((*upsmib.UPS, 1, 1, sub)))
        assert table.oids[position] == (*upsmib.UPS, 1, 2, 1, 0)
    assert table.after(ber.oid_body((1, 3))) == 0
    assert table.after(ber.oid_body((2, 9))) == len(table)


def test_the_system_group_says_who_we_are() -> None:
    found = values(look(view(), host="adapter.example", now_s=112.34))
    system = "1.3.6.1.2.1.1."
    assert found[system + "1.0"][1].endswith(b" SNMP Agent") and VERSION.encode() in found[system + "1.0"][1]
    assert dotted(found[system + "2.0"][1]) == "1.3.6.1.2.1.33"
    assert found[system + "3.0"] == (ber.TIMETICKS, (1234).to_bytes(2, "big"))
    assert found[system + "4.0"] == found[system + "6.0"] == (ber.OCTET_STRING, b"")
    assert found[system + "5.0"] == (ber.OCTET_STRING, b"rack-3")
    assert whole(found[system + "7.0"][1]) == 72
    assert [dotted(found[f"{system}9.1.2.{n}"][1]) for n in (1, 2, 3)] == [
        "1.3.6.1.2.1.33", "1.3.6.1.6.3.1", "1.3.6.1.2.1.31",
    ]  # fmt: skip


def test_the_machines_name_stands_in_until_the_core_has_told_ours() -> None:
    found = values(look(view(None, since(Condition.NO_CORE), name=""), host="adapter.example"))
    assert found["1.3.6.1.2.1.1.5.0"] == (ber.OCTET_STRING, b"adapter.example")


def test_sysuptime_wraps_after_497_days() -> None:
    assert whole(values(look(view(), now_s=100.0 + 2**32 / 100 + 1))["1.3.6.1.2.1.1.3.0"][1]) in (99, 100)


def test_the_snmp_group_has_its_30_objects_and_no_traps_enabled() -> None:
    counts = mib2.new_counts()
    counts[mib2.IN_GETS] = 2**32 + 5
    found = {n: v for n, v in values(look(view(), counts=counts)).items() if n.startswith("1.3.6.1.2.1.11.")}
    assert [int(name.split(".")[7]) for name in found] == [n for n in range(1, 33) if n not in (7, 23)]
    assert found["1.3.6.1.2.1.11.30.0"] == (ber.INTEGER, b"\x02")
    assert found["1.3.6.1.2.1.11.15.0"] == (ber.COUNTER32, b"\x05")


def test_not_a_number_does_not_stop_the_agent() -> None:
    assert "upsBatteryVoltage" not in ups(view(replace(ON_LINE, battery=Battery(voltage_v=math.nan))))


#: what changes by itself, or when a manager sets something, while the view stays the same
MOVING = {
    "upsIdentName", "upsIdentAttachedDevices", "upsSecondsOnBattery", "upsTestId", "upsTestSpinLock",
    "upsTestElapsedTime", "upsShutdownAfterDelay", "upsStartupAfterDelay",
    "upsRebootWithDuration", "upsAutoRestart",
}  # fmt: skip


def test_whatever_the_view_alone_says_is_kept_as_long_as_it_is_the_newest_and_nothing_else() -> None:
    names = {o.oid: o.name for o in upsmib.OBJECTS}
    running = replace(three_phase(), test=Test(result=TestResult.RUNNING), source=Source.BATTERY)
    shown = view(
        running,
        since(Condition.ON_BATTERY),
        since(Condition.TEST_RUNNING),
        since(Condition.SHUTDOWN_PENDING),
        on_battery_s=5.0,
        test_s=90.0,
    )
    kept = upsset.Kept({}, 1)
    first = look(shown)._replace(written=kept)
    texts = {"upsIdentName": "x", "upsIdentAttachedDevices": "y", "upsAutoRestart": "off"}
    quick = ber.arcs(ber.oid_body((*upsmib.TESTS, 4)))
    moved = first._replace(
        now_s=first.now_s + 70.0, host="other", counts=[9] * 33, auth_traps=True, lenient=True,
        written=upsset.Kept(texts, 7, quick, 99.0, ("upsShutdownAfterDelay", first.now_s + 300.0)),
    )  # fmt: skip
    rows = upsmib.rows(first)
    steady = {names[r.oid[:-1]] for r in rows if r.steady}
    assert {names[r.oid[:-1]] for r in rows} - steady == MOVING
    changed = {names[r.oid[:-1]] for r in rows if r.get(first) != r.get(moved)}
    assert changed == MOVING, "or this list says nothing"
