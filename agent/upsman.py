"""The UPS as managers of GENEREX cards expect it: the private tree 1.3.6.1.4.1.1356 with its notifications. Pure.

Source: the public UPSMAN-MIB of GENEREX (edited 2003-01-23): names, numbers, enumerations. It is off by default,
read-only here, and a second view of what RFC 1628 has. An object that this UPS does not report is absent. One row is
one object, or one event that has a notification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from .ber import INTEGER, OCTET_STRING, Oid
from .mib import INT_MAX, INT_MIN, Look, Object, Row, Value, row, text
from .model import Condition, Source, Test, TestResult

GENEREX: Oid = (1, 3, 6, 1, 4, 1, 1356)
TRAPS: Oid = (*GENEREX, 0)
SENSORS = 4

_SOURCES = {
    Source.UNKNOWN: 1, Source.MAINS: 2, Source.BOOST: 2, Source.BUCK: 2, Source.BATTERY: 3, Source.BYPASS: 4,
    Source.NONE: 5,
}  # fmt: skip
_RESULTS = {TestResult.NONE: 0, TestResult.PASSED: 1, TestResult.WARNING: 1, TestResult.FAILED: 2}
_WARNINGS = (
    Condition.BATTERY_BAD, Condition.TEMPERATURE_BAD, Condition.INPUT_BAD, Condition.OUTPUT_BAD, Condition.OVERLOAD,
    Condition.LOW_BATTERY, Condition.CHARGER_FAILED, Condition.FAN_FAILURE, Condition.TEST_FAILED,
)  # fmt: skip


def _holds(*conditions: Condition) -> Callable[[Look], int]:
    """none(0), occurred(1)."""
    return lambda look: int(any(a.condition in conditions for a in look.view.conditions))


def _first(lines: str, field: str) -> Callable[[Look], float | None]:
    """A measurement of the first line; the tree knows no others."""

    def read(look: Look) -> float | None:
        found: Sequence[Any] = getattr(look.status, lines)
        return getattr(found[0], field) if found else None

    return read


def _battery_status(look: Look) -> int:
    """unknown(1), batteryNormal(2), batteryLow(3)."""
    low = look.status.battery.low
    if low or _holds(Condition.LOW_BATTERY, Condition.BATTERY_DEPLETED)(look):
        return 3
    return 1 if low is None else 2


def _test_result(look: Look) -> int | None:
    """undefined(0), success(1), failed(2); while one runs or was aborted there is no result."""
    return _RESULTS.get((look.status.test or Test()).result, 0)


def _no_test(look: Look) -> int | None:
    """noTest(0); which of the tests was run the UPS does not say."""
    return 0 if (look.status.test or Test()).result is TestResult.NONE else None


def _idle(look: Look) -> int | None:
    """noTest(0), as long as none runs."""
    return None if (look.status.test or Test()).result is TestResult.RUNNING else 0


def _left(name: str) -> Callable[[Look], int | None]:
    """What is left of a countdown that was ordered over SNMP; 0 would be "at once", so without one it is absent."""

    def read(look: Look) -> int | None:
        left_s = look.written.countdown_s(name, look.now_s) if look.written else None
        return left_s if left_s is not None and left_s >= 0 else None

    return read


def _sensor(number: int) -> Callable[[Look], float | None]:
    def read(look: Look) -> float | None:
        sensors = look.status.sensors
        return sensors[number].temperature_c if number < len(sensors) else None

    return read


def _sensor_status(number: int) -> Callable[[Look], int]:
    """unused(-1), failure(0), normal(2): no limits are kept here, so never low or high."""

    def read(look: Look) -> int:
        if number >= len(look.status.sensors):
            return -1
        return 0 if look.status.sensors[number].temperature_c is None else 2

    return read


def _absent(_: Look) -> None:
    """No driver has it."""


def _object(group: int, number: int, name: str, read: Callable[[Look], Value], factor: float | None = None) -> Object:
    return Object((*GENEREX, 1, group, number), name, INTEGER, INT_MIN, INT_MAX, read, factor)


OBJECTS = (
    Object((*GENEREX, 1, 1, 1), "upsIdentModelName", OCTET_STRING, 0, 255, attrgetter("status.ident.model")),
    Object(
        (*GENEREX, 1, 1, 2), "upsIdentUpsIDName", OCTET_STRING, 0, 255,
        lambda look: text("upsIdentName")(look) or look.view.name,
    ),
    _object(2, 1, "upsBatteryStatus", _battery_status),
    _object(2, 2, "upsBatteryCapacity", attrgetter("status.battery.charge_pct"), 1),
    _object(2, 3, "upsBatteryVoltage", attrgetter("status.battery.voltage_v"), 1),
    _object(2, 4, "upsBatteryTemperature", attrgetter("status.temperature_c"), 1),
    _object(2, 5, "upsBatteryRunTimeRemaining", attrgetter("status.battery.runtime_s"), 1),
    _object(2, 6, "upsBatteryLifeTimeRemaining", _absent),
    _object(3, 1, "upsInputLineVoltage", _first("inputs", "voltage_v"), 1),
    _object(3, 2, "upsInputLineFrequence", _first("inputs", "frequency_hz"), 1),
    _object(4, 1, "upsOutputStatus", lambda look: _SOURCES[look.status.source]),
    _object(4, 2, "upsOutputLoad", _first("outputs", "load_pct"), 1),
    _object(4, 3, "upsOutputFrequency", _first("outputs", "frequency_hz"), 1),
    _object(4, 4, "upsOutputVoltage", _first("outputs", "voltage_v"), 1),
    _object(5, 1, "upsRunTest", _idle),
    _object(5, 2, "upsLastTestPerformed", _no_test),
    _object(5, 3, "upsLastTestResult", _test_result),
    _object(5, 4, "upsLastTestedBackupTime", _absent),
    _object(6, 1, "upsRunShutdownRestore", lambda _: 0),
    _object(6, 2, "upsShutdownSecs", _left("upsShutdownAfterDelay")),
    _object(6, 3, "upsRestoreSecs", _left("upsRebootWithDuration")),
    _object(7, 1, "upsAlarmFatalFaultStatus", _holds(Condition.GENERAL_FAULT)),
    _object(7, 2, "upsAlarmWarningStatus", _holds(*_WARNINGS)),
    _object(7, 3, "upsAlarmInputBadStatus", _holds(Condition.INPUT_BAD)),
    _object(7, 4, "upsAlarmOutputOverloadStatus", _holds(Condition.OVERLOAD)),
    _object(7, 5, "upsAlarmBatteryBadStatus", _holds(Condition.BATTERY_BAD)),
    _object(7, 6, "upsAlarmTempBadStatus", _holds(Condition.TEMPERATURE_BAD)),
    *(_object(8, n + 1, f"upsAlarmTempmanSensorValue{n + 1}", _sensor(n), 10) for n in range(SENSORS)),
    *(_object(8, n + 5, f"upsAlarmTempmanSensorStatus{n + 1}", _sensor_status(n)) for n in range(SENSORS)),
)  # fmt: skip

#: of a sensor: what would have to be known for its notifications is not, so they are never sent
_OF_SENSORS = ("upsmanTrapTempmanTempHigh", "upsmanTrapTempmanTempLow", "upsmanTrapTempmanSensorFailure")
UNSENT = tuple(f"{name}{n}" for name in _OF_SENSORS for n in range(1, SENSORS + 1))
#: all notifications of the MIB, by their last arc
NOTIFICATIONS = (
    "communicationLost", "upsOverload", "upsTurnedOff", "communicationEstablished", "powerRestored", "upsOnBattery",
    "testStarted", "testCompleted", "upsBatteryLow", "upsShutdownImminent", "upsmanStarted", "upsmanTrapInputBad",
    "upsmanTrapOutputOverloadRemoved", "upsmanTrapBatteryBad", "upsmanTrapTempBad", "upsmanTrapTempBadRemoved",
    "upsmanTrapFatalFault", *UNSENT,
)  # fmt: skip
#: (condition, does it begin?) -> notification
EVENTS: Mapping[tuple[Condition, bool], str] = {
    (Condition.COMM_LOST, True): "communicationLost",
    (Condition.COMM_LOST, False): "communicationEstablished",
    (Condition.OVERLOAD, True): "upsOverload",
    (Condition.OVERLOAD, False): "upsmanTrapOutputOverloadRemoved",
    (Condition.UPS_SYSTEM_OFF, True): "upsTurnedOff",
    (Condition.ON_BATTERY, True): "upsOnBattery",
    (Condition.ON_BATTERY, False): "powerRestored",
    (Condition.TEST_RUNNING, True): "testStarted",
    (Condition.TEST_RUNNING, False): "testCompleted",
    (Condition.LOW_BATTERY, True): "upsBatteryLow",
    (Condition.SHUTDOWN_IMMINENT, True): "upsShutdownImminent",
    (Condition.INPUT_BAD, True): "upsmanTrapInputBad",
    (Condition.BATTERY_BAD, True): "upsmanTrapBatteryBad",
    (Condition.TEMPERATURE_BAD, True): "upsmanTrapTempBad",
    (Condition.TEMPERATURE_BAD, False): "upsmanTrapTempBadRemoved",
    (Condition.GENERAL_FAULT, True): "upsmanTrapFatalFault",
}
STARTED: Oid = (*TRAPS, NOTIFICATIONS.index("upsmanStarted") + 1)


def trap(condition: Condition, began: bool) -> Oid | None:
    """The notification of an event, if it has one."""
    name = EVENTS.get((condition, began))
    return None if name is None else (*TRAPS, NOTIFICATIONS.index(name) + 1)


def rows(look: Look) -> list[Row]:
    """All rows of the tree; without a frame of the UPS only its name."""
    return [row(o, 0, o.read) for o in (OBJECTS if look.view.status is not None else OBJECTS[1:2])]
