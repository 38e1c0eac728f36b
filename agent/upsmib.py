"""The UPS as SNMP managers see it: the objects of RFC 1628 (UPS-MIB), each computed from one look at the UPS.

An object that this UPS does not report is absent, never 0; without a frame of the UPS only what the agent knows by
itself is there. Source: RFC 1628; the tables below are checked against it, object by object, by tests/test_mib.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from .ber import COUNTER32, GAUGE32, INTEGER, OBJECT_ID, OCTET_STRING, TIMETICKS, Oid
from .mib import INT_MAX, INT_MIN, UINT_MAX, Alarm, Look, Object, Row, Value, constant, row, text, ticks
from .model import ALARM_NUMBER, VERSION, Active, Command, Condition, Line, Source, Test, TestResult

UPS: Oid = (1, 3, 6, 1, 2, 1, 33)
WELL_KNOWN_ALARMS: Oid = (*UPS, 1, 6, 3)
TESTS: Oid = (*UPS, 1, 7, 7)
NO_TESTS_INITIATED: Oid = (*TESTS, 1)
ABORT_TEST, GENERAL_TEST, QUICK_TEST, DEEP_TEST = 2, 3, 4, 5
_TEST_NUMBERS = {
    Command.TEST_QUICK.value: QUICK_TEST, Command.TEST_MINUTES.value: QUICK_TEST, Command.TEST_DEEP.value: DEEP_TEST,
}  # fmt: skip
ORDER_WITHIN_S = 5.0  # that the core has an order after the manager gave it

Lines = Callable[[Look], Sequence[Line]]

LINES_LIMIT = 12  # rows of one line table; no UPS has more


class Alarms:
    """Gives each appearance of a condition its row: upsAlarmId counts up from 1 and wraps to a free value."""

    def __init__(self) -> None:
        self.rows: dict[int, Alarm] = {}
        self._ids: dict[tuple[int, float], int] = {}  # (number, since_s) -> upsAlarmId
        self.last = 0  # the upsAlarmId that was given last

    def update(self, conditions: Iterable[Active], now_s: float, started_s: float) -> None:
        """Replace the rows by those of these conditions. upsAlarmTime is 0 for what began before the agent."""
        wanted: dict[int, float] = {}
        for active in conditions:
            if active.condition is Condition.NO_CORE:
                number = ALARM_NUMBER[Condition.COMM_LOST]
            elif active.condition in ALARM_NUMBER:
                number = ALARM_NUMBER[active.condition]
            else:
                continue
            wanted[number] = min(active.since_s, wanted.get(number, active.since_s))
        comm = ALARM_NUMBER[Condition.COMM_LOST]
        if comm in wanted:  # the UPS is gone, then the core, or both: one appearance
            wanted[comm] = next((since_s for number, since_s in self._ids if number == comm), wanted[comm])
        if wanted.items() == self._ids.keys():
            return
        old_ids, old_rows = self._ids, self.rows
        self._ids = {key: old_ids[key] for key in wanted.items() if key in old_ids}
        rows = {key: old_rows[key] for key in self._ids.values()}
        for key in wanted.items():
            if key not in self._ids:
                self._ids[key] = self.last = self._free(rows)
                rows[self.last] = Alarm(key[0], ticks(min(key[1], now_s), started_s))
        self.rows = rows

    def _free(self, rows: Mapping[int, Alarm]) -> int:
        row = self.last + 1
        while row > INT_MAX or row in rows:
            row = 1 if row >= INT_MAX else row + 1
        return row


# --- the objects ------------------------------------------------------------------------------------------------


def _whole(value: float | None, rounding: Callable[[float], int]) -> int | None:
    return None if value is None or not math.isfinite(value) else rounding(value)


_SOURCES = {
    Source.UNKNOWN: 1, Source.NONE: 2, Source.MAINS: 3, Source.BYPASS: 4, Source.BATTERY: 5, Source.BOOST: 6,
    Source.BUCK: 7,
}  # fmt: skip
_RESULTS = {
    TestResult.PASSED: 1, TestResult.WARNING: 2, TestResult.FAILED: 3, TestResult.ABORTED: 4, TestResult.RUNNING: 5,
    TestResult.NONE: 6,
}  # fmt: skip
PENDING = (Condition.SHUTDOWN_PENDING, Condition.SHUTDOWN_IMMINENT)


def _holds(look: Look, *conditions: Condition) -> Active | None:
    for active in look.view.conditions:
        if active.condition in conditions:
            return active
    return None


def _battery_status(look: Look) -> int:
    """unknown(1), batteryNormal(2), batteryLow(3), batteryDepleted(4)."""
    low = look.status.battery.low
    if _holds(look, Condition.BATTERY_DEPLETED):
        return 4
    if low or _holds(look, Condition.LOW_BATTERY):
        return 3
    return 1 if low is None else 2


def _seconds_on_battery(look: Look) -> int | None:
    lasted_s = look.view.on_battery_s
    return 0 if lasted_s is None else _whole(lasted_s + max(0.0, look.now_s - look.view.now_s), math.floor)


def _minutes_remaining(look: Look) -> int | None:
    """As the UPS says; of one that says none, as forecast (learned in outages, or configured)."""
    runtime_s = look.status.battery.runtime_s
    if runtime_s is None and look.view.forecast is not None:
        runtime_s = look.view.forecast.runtime_s
    return None if runtime_s is None else _whole(runtime_s / 60, math.floor)


def _temperature(look: Look) -> float | None:
    near = look.status.battery.temperature_c
    return look.status.temperature_c if near is None else near


_NO_TEST = Test()


def _test(look: Look) -> Test:
    return look.status.test or _NO_TEST


def _test_id(look: Look) -> Oid | None:
    """RFC 1628: the name of the running test. It would allow that of the last one, too, but NUT's snmp-ups takes that
    for a test that goes on, and its upsmon shuts nobody down during a calibration."""
    kept, now_s = look.written, look.now_s
    ordered = kept is not None and kept.test_id is not None and now_s <= kept.test_s + ORDER_WITHIN_S
    if ordered or _holds(look, Condition.TEST_RUNNING) or _test(look).result is TestResult.RUNNING:
        return last_test_id(look)
    return NO_TESTS_INITIATED


def last_test_id(look: Look) -> Oid:
    """The name of the running test, or of the last. What the UPS began itself, or nobody remembers, is the
    maker's standard test."""
    kept, began_s = look.written, look.view.test_s
    if kept is not None and kept.test_id and (began_s is None or began_s <= kept.test_s + ORDER_WITHIN_S):
        return kept.test_id
    if began_s is not None:
        return (*TESTS, _TEST_NUMBERS.get(look.view.test_order, GENERAL_TEST))
    return (*TESTS, GENERAL_TEST)


def _test_start(look: Look) -> int | None:
    running, began_s = _holds(look, Condition.TEST_RUNNING), look.view.test_s
    if running:
        return ticks(min(running.since_s, look.now_s), look.started_s)
    if began_s is not None:
        return ticks(began_s, look.started_s)
    return 0 if _test(look).result is TestResult.NONE else None


def _test_elapsed_s(look: Look) -> float | None:
    if _test(look).result is TestResult.NONE:
        return 0
    running = _holds(look, Condition.TEST_RUNNING)
    return max(0.0, look.now_s - running.since_s) if running else None


def _countdown(name: str) -> Callable[[Look], int | None]:
    """-1: no countdown. One that was ordered elsewhere is of unknown length, so then the object is absent."""

    def read(look: Look) -> int | None:
        left_s = look.written.countdown_s(name, look.now_s) if look.written else None
        return left_s if left_s is not None else None if _holds(look, *PENDING) else -1

    return read


def _spin_lock(look: Look) -> int:
    return look.written.spin_lock if look.written else 1


def _auto_restart(look: Look) -> int:
    return 1 if look.written is None or look.written.returns else 2


def _beeper(look: Look) -> int | None:
    beeper_on = look.status.beeper_on
    return None if beeper_on is None else 2 if beeper_on else 1


def _low_battery_minutes(look: Look) -> int | None:
    """RFC 1628: rounded up."""
    low_battery_s = look.status.rating.low_battery_s
    return None if low_battery_s is None else _whole(low_battery_s / 60, math.ceil)


def _battery(name: str) -> Callable[[Look], float | None]:
    return attrgetter(f"status.battery.{name}")


def _rating(name: str) -> Callable[[Look], float | None]:
    return attrgetter(f"status.rating.{name}")


def _frequency(lines: Lines) -> Callable[[Look], float | None]:
    """Of the first line; the MIB has one for all."""
    return lambda look: lines(look)[0].frequency_hz if lines(look) else None


def _attached(look: Look) -> str:
    """As a manager set it, else the names of the protected servers, as many whole ones as fit."""
    if given := text("upsIdentAttachedDevices")(look):
        return given
    names = ""
    for server in look.view.servers:
        longer = f"{names}, {server.name}" if names else server.name
        if len(longer) > 63:
            break
        names = longer
    return names


# fmt: off
#: what the agent knows by itself, with or without a UPS: read(look)
ALWAYS = (
    Object((*UPS, 1, 1, 4), "upsIdentAgentSoftwareVersion", OCTET_STRING, 0, 63, lambda _: f"Ridethrough {VERSION}"),
    Object((*UPS, 1, 1, 5), "upsIdentName", OCTET_STRING, 0, 63, lambda k: text("upsIdentName")(k) or k.view.name),
    Object((*UPS, 1, 1, 6), "upsIdentAttachedDevices", OCTET_STRING, 0, 63, _attached),
    Object((*UPS, 1, 6, 1), "upsAlarmsPresent", GAUGE32, 0, UINT_MAX, lambda look: len(look.alarms)),
)

#: what a frame of the UPS says: read(look)
MEASURED = (
    # manufacturer and model are mandatory for every kind of UPS, and NUT finds none without them: unknown is ""
    Object((*UPS, 1, 1, 1), "upsIdentManufacturer", OCTET_STRING, 0, 31, lambda k: k.status.ident.manufacturer or ""),
    Object((*UPS, 1, 1, 2), "upsIdentModel", OCTET_STRING, 0, 63, lambda k: k.status.ident.model or ""),
    Object((*UPS, 1, 1, 3), "upsIdentUPSSoftwareVersion", OCTET_STRING, 0, 63, attrgetter("status.ident.firmware")),
    Object((*UPS, 1, 2, 1), "upsBatteryStatus", INTEGER, 1, 4, _battery_status),
    Object((*UPS, 1, 2, 2), "upsSecondsOnBattery", INTEGER, 0, INT_MAX, _seconds_on_battery),
    Object((*UPS, 1, 2, 3), "upsEstimatedMinutesRemaining", INTEGER, 1, INT_MAX, _minutes_remaining),
    Object((*UPS, 1, 2, 4), "upsEstimatedChargeRemaining", INTEGER, 0, 100, _battery("charge_pct"), 1),
    Object((*UPS, 1, 2, 5), "upsBatteryVoltage", INTEGER, 0, INT_MAX, _battery("voltage_v"), 10),
    Object((*UPS, 1, 2, 6), "upsBatteryCurrent", INTEGER, INT_MIN, INT_MAX, _battery("current_a"), 10),
    Object((*UPS, 1, 2, 7), "upsBatteryTemperature", INTEGER, INT_MIN, INT_MAX, _temperature, 1),
    Object((*UPS, 1, 3, 1), "upsInputLineBads", COUNTER32, 0, UINT_MAX, attrgetter("view.input_bads")),
    Object((*UPS, 1, 3, 2), "upsInputNumLines", INTEGER, 0, INT_MAX, lambda k: len(k.status.inputs[:LINES_LIMIT])),
    Object((*UPS, 1, 4, 1), "upsOutputSource", INTEGER, 1, 7, lambda k: _SOURCES[k.status.source]),
    Object((*UPS, 1, 4, 2), "upsOutputFrequency", INTEGER, 0, INT_MAX, _frequency(attrgetter("status.outputs")), 10),
    Object((*UPS, 1, 4, 3), "upsOutputNumLines", INTEGER, 0, INT_MAX, lambda k: len(k.status.outputs[:LINES_LIMIT])),
    Object((*UPS, 1, 5, 1), "upsBypassFrequency", INTEGER, 0, INT_MAX, _frequency(attrgetter("status.bypass")), 10),
    Object((*UPS, 1, 5, 2), "upsBypassNumLines", INTEGER, 0, INT_MAX, lambda k: len(k.status.bypass[:LINES_LIMIT])),
    Object((*UPS, 1, 7, 1), "upsTestId", OBJECT_ID, 0, 0, _test_id),
    Object((*UPS, 1, 7, 2), "upsTestSpinLock", INTEGER, 0, INT_MAX, _spin_lock),
    Object((*UPS, 1, 7, 3), "upsTestResultsSummary", INTEGER, 1, 6, lambda k: _RESULTS[_test(k).result]),
    Object((*UPS, 1, 7, 4), "upsTestResultsDetail", OCTET_STRING, 0, 255, lambda k: _test(k).detail),
    Object((*UPS, 1, 7, 5), "upsTestStartTime", TIMETICKS, 0, UINT_MAX, _test_start),
    Object((*UPS, 1, 7, 6), "upsTestElapsedTime", INTEGER, 0, INT_MAX, _test_elapsed_s, 100),
    Object((*UPS, 1, 8, 1), "upsShutdownType", INTEGER, 1, 2, lambda _: 1),
    Object((*UPS, 1, 8, 2), "upsShutdownAfterDelay", INTEGER, -1, INT_MAX, _countdown("upsShutdownAfterDelay")),
    Object((*UPS, 1, 8, 3), "upsStartupAfterDelay", INTEGER, -1, INT_MAX, _countdown("upsStartupAfterDelay")),
    Object((*UPS, 1, 8, 4), "upsRebootWithDuration", INTEGER, -1, 300, _countdown("upsRebootWithDuration")),
    Object((*UPS, 1, 8, 5), "upsAutoRestart", INTEGER, 1, 2, _auto_restart),
    Object((*UPS, 1, 9, 1), "upsConfigInputVoltage", INTEGER, 0, INT_MAX, _rating("input_voltage_v"), 1),
    Object((*UPS, 1, 9, 2), "upsConfigInputFreq", INTEGER, 0, INT_MAX, _rating("input_frequency_hz"), 10),
    Object((*UPS, 1, 9, 3), "upsConfigOutputVoltage", INTEGER, 0, INT_MAX, _rating("output_voltage_v"), 1),
    Object((*UPS, 1, 9, 4), "upsConfigOutputFreq", INTEGER, 0, INT_MAX, _rating("output_frequency_hz"), 10),
    Object((*UPS, 1, 9, 5), "upsConfigOutputVA", INTEGER, 0, INT_MAX, _rating("apparent_va"), 1),
    Object((*UPS, 1, 9, 6), "upsConfigOutputPower", INTEGER, 0, INT_MAX, _rating("power_w"), 1),
    Object((*UPS, 1, 9, 7), "upsConfigLowBattTime", INTEGER, 0, INT_MAX, _low_battery_minutes),
    Object((*UPS, 1, 9, 8), "upsConfigAudibleStatus", INTEGER, 1, 3, _beeper),
    Object((*UPS, 1, 9, 9), "upsConfigLowVoltageTransferPoint", INTEGER, 0, INT_MAX, _rating("low_transfer_v"), 1),
    Object((*UPS, 1, 9, 10), "upsConfigHighVoltageTransferPoint", INTEGER, 0, INT_MAX, _rating("high_transfer_v"), 1),
)

#: columns of the line tables: read(line)
INPUT_COLUMNS = (
    Object((*UPS, 1, 3, 3, 1, 2), "upsInputFrequency", INTEGER, 0, INT_MAX, attrgetter("frequency_hz"), 10),
    Object((*UPS, 1, 3, 3, 1, 3), "upsInputVoltage", INTEGER, 0, INT_MAX, attrgetter("voltage_v"), 1),
    Object((*UPS, 1, 3, 3, 1, 4), "upsInputCurrent", INTEGER, 0, INT_MAX, attrgetter("current_a"), 10),
    Object((*UPS, 1, 3, 3, 1, 5), "upsInputTruePower", INTEGER, 0, INT_MAX, attrgetter("power_w"), 1),
)
OUTPUT_COLUMNS = (
    Object((*UPS, 1, 4, 4, 1, 2), "upsOutputVoltage", INTEGER, 0, INT_MAX, attrgetter("voltage_v"), 1),
    Object((*UPS, 1, 4, 4, 1, 3), "upsOutputCurrent", INTEGER, 0, INT_MAX, attrgetter("current_a"), 10),
    Object((*UPS, 1, 4, 4, 1, 4), "upsOutputPower", INTEGER, 0, INT_MAX, attrgetter("power_w"), 1),
    Object((*UPS, 1, 4, 4, 1, 5), "upsOutputPercentLoad", INTEGER, 0, 200, attrgetter("load_pct"), 1),
)
BYPASS_COLUMNS = (
    Object((*UPS, 1, 5, 3, 1, 2), "upsBypassVoltage", INTEGER, 0, INT_MAX, attrgetter("voltage_v"), 1),
    Object((*UPS, 1, 5, 3, 1, 3), "upsBypassCurrent", INTEGER, 0, INT_MAX, attrgetter("current_a"), 10),
    Object((*UPS, 1, 5, 3, 1, 4), "upsBypassPower", INTEGER, 0, INT_MAX, attrgetter("power_w"), 1),
)
#: columns of the alarm table: read(alarm)
ALARM_COLUMNS = (
    Object((*UPS, 1, 6, 2, 1, 2), "upsAlarmDescr", OBJECT_ID, 0, 0, lambda alarm: (*WELL_KNOWN_ALARMS, alarm.number)),
    Object((*UPS, 1, 6, 2, 1, 3), "upsAlarmTime", TIMETICKS, 0, UINT_MAX, attrgetter("ticks")),
)
# fmt: on

#: what changes by itself, or when a manager sets something; all others are the view's word alone
_MOVING = frozenset((
    "upsIdentName", "upsIdentAttachedDevices", "upsSecondsOnBattery", "upsTestId", "upsTestSpinLock",
    "upsTestElapsedTime", "upsShutdownAfterDelay", "upsStartupAfterDelay", "upsRebootWithDuration", "upsAutoRestart",
))  # fmt: skip
_LINE_TABLES: tuple[tuple[tuple[Object, ...], Lines], ...] = (
    (INPUT_COLUMNS, attrgetter("status.inputs")),
    (OUTPUT_COLUMNS, attrgetter("status.outputs")),
    (BYPASS_COLUMNS, attrgetter("status.bypass")),
)
OBJECTS = (*ALWAYS, *MEASURED, *INPUT_COLUMNS, *OUTPUT_COLUMNS, *BYPASS_COLUMNS, *ALARM_COLUMNS)

_BY_NAME = {o.name: o for o in MEASURED}


def number(name: str, look: Look) -> int | None:
    """The present value of a scalar that is a number, as the MIB has it; None: there is none."""
    found = _BY_NAME[name]
    value = found.read(look) if look.view.status is not None else None
    if value is None or found.factor is None:
        return value
    return _whole(value * found.factor, round)


# --- the rows that there are for one look -----------------------------------------------------------------------


def shape(look: Look) -> tuple[object, ...]:
    """What the set of rows depends on."""
    s = look.status
    return (look.view.status is None, len(s.inputs), len(s.outputs), len(s.bypass), tuple(look.alarms.items()))


def rows(look: Look) -> list[Row]:
    """All rows of the UPS-MIB that may have a value as long as `shape` is the same."""
    found = [row(o, 0, o.read, steady=o.name not in _MOVING) for o in ALWAYS]
    if look.view.status is not None:
        found += [row(o, 0, o.read, steady=o.name not in _MOVING) for o in MEASURED]
        for columns, lines in _LINE_TABLES:
            numbers = range(1, len(lines(look)[:LINES_LIMIT]) + 1)
            found += [row(o, n, _of_line(o, lines, n - 1), steady=True) for o in columns for n in numbers]
    for alarm_id, alarm in look.alarms.items():
        found += [constant(o, alarm_id, o.read(alarm)) for o in ALARM_COLUMNS]
    return found


def _of_line(o: Object, lines: Lines, position: int) -> Callable[[Look], Value]:
    read = o.read
    return lambda look: read(lines(look)[position])
