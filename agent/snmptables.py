"""What the agents of UPSes say where: RFC 1628, APC PowerNet, Eaton XUPS and CyberPower as tables.

Sources: RFC 1628; PowerNet-MIB (APC); XUPS-MIB (Eaton, Powerware); CPS-MIB (CyberPower); names and meanings also in
NUT, drivers apc-mib.c, powerware-mib.c, cyberpower-mib.c. Status card: docs/drivers-snmp.md.

A line of a table: PLACE in Status, OID below the table's root (with a dot in front: a whole one), and what its unit
is worth. `#` stands for each of the phases 1 to 3. The first line of a place that has a value counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .model import ALARM_NUMBER, Command, Condition, Source, TestResult

C = Condition
PHASES = (1, 2, 3)
#: facts that the agent finds itself, out of the source
_NOT_FLAGS = (C.ON_BATTERY, C.ON_BYPASS)
RFC_ALARMS = {number: c for c, number in ALARM_NUMBER.items() if c not in _NOT_FLAGS}


class Row(NamedTuple):
    """One value: where it goes to, its object, what a unit of it is worth."""

    place: str
    oid: str
    scale: float


class Alarms(NamedTuple):
    """A table of alarms that are so: their count, the column of what they are, and the identities below `root`."""

    total: str
    column: str
    root: str
    meaning: Mapping[int, Condition]


class Table(NamedTuple):
    """One kind of agent. An order is steps, each one SET of `OID=VALUE`; a value is a number, `delay` in seconds,
    `lock` (the spin lock that was read before), or an OID below the UPS-MIB's objects (`.7.7.4`)."""

    name: str
    title: str
    identities: tuple[str, ...]  # sysObjectID is one of these or below it
    probe: str  # an object that every such agent has
    rows: tuple[Row, ...]
    sources: Mapping[int, Source]
    orders: Mapping[Command, tuple[str, ...]]
    alarms: tuple[Alarms, ...]
    tests: Mapping[int, TestResult]
    flags: tuple[tuple[str, int, Condition], ...] = ()
    maker: str | None = None  # where the agent has no object for it
    lost: int = -1  # of place `comm`: the agent has lost its UPS
    low_alarm: bool = False  # low battery is an alarm and nothing else
    low: tuple[int, ...] = (3,)  # of place `battery.state`: low


def rows(root: str, text: str) -> tuple[Row, ...]:
    """The lines of a table, one for each phase where there is a `#`."""
    found = []
    for line in text.strip().splitlines():
        place, oid, *scale = line.split()
        whole = oid[1:] if oid.startswith(".") else f"{root}.{oid}"
        for n in PHASES if "#" in oid else (1,):
            found.append(Row(place.replace("#", str(n)), whole.replace("#", str(n)), float(scale[0]) if scale else 1))
    return tuple(found)


def _orders(root: str, orders: Mapping[Command, tuple[str, ...]]) -> Mapping[Command, tuple[str, ...]]:
    return {
        command: tuple(" ".join(f"{root}.{part}" for part in step.split()) for step in steps)
        for command, steps in orders.items()
    }


UPS, APC, XUPS, CPS = "1.3.6.1.2.1.33.1", "1.3.6.1.4.1.318.1.1.1", "1.3.6.1.4.1.534.1", "1.3.6.1.4.1.3808.1.1.1"

_RFC_TABLE = Alarms(f"{UPS}.6.1.0", f"{UPS}.6.2.1.2", f"{UPS}.6.3", RFC_ALARMS)

RFC1628 = Table(
    name="rfc1628",
    title="UPS-MIB (RFC 1628)",
    identities=("1.3.6.1.2.1.33",),
    probe=f"{UPS}.4.1.0",
    rows=rows(
        UPS,
        """
        source 4.1.0
        battery.state 2.1.0
        ident.manufacturer 1.1.0
        ident.model 1.2.0
        ident.firmware 1.3.0
        battery.runtime_s 2.3.0 60
        battery.charge_pct 2.4.0
        battery.voltage_v 2.5.0 0.1
        battery.current_a 2.6.0 0.1
        battery.temperature_c 2.7.0
        input.count 3.2.0
        input.#.frequency_hz 3.3.1.2.# 0.1
        input.#.voltage_v 3.3.1.3.#
        input.#.current_a 3.3.1.4.# 0.1
        input.#.power_w 3.3.1.5.#
        output.frequency_hz 4.2.0 0.1
        output.count 4.3.0
        output.#.voltage_v 4.4.1.2.#
        output.#.current_a 4.4.1.3.# 0.1
        output.#.power_w 4.4.1.4.#
        output.#.load_pct 4.4.1.5.#
        bypass.frequency_hz 5.1.0 0.1
        bypass.count 5.2.0
        bypass.#.voltage_v 5.3.1.2.#
        bypass.#.current_a 5.3.1.3.# 0.1
        bypass.#.power_w 5.3.1.4.#
        alarms 6.1.0
        test.lock 7.2.0
        test.result 7.3.0
        test.detail 7.4.0
        shutdown.type 8.1.0
        shutdown.after 8.2.0
        shutdown.restart 8.5.0
        rating.input_voltage_v 9.1.0
        rating.input_frequency_hz 9.2.0 0.1
        rating.output_voltage_v 9.3.0
        rating.output_frequency_hz 9.4.0 0.1
        rating.apparent_va 9.5.0
        rating.power_w 9.6.0
        rating.low_battery_s 9.7.0 60
        beeper 9.8.0
        rating.low_transfer_v 9.9.0
        rating.high_transfer_v 9.10.0
        """,
    ),
    sources={
        2: Source.NONE, 3: Source.MAINS, 4: Source.BYPASS, 5: Source.BATTERY, 6: Source.BOOST, 7: Source.BUCK,
    },
    orders=_orders(
        UPS,
        {
            Command.SHUTDOWN_RETURN: ("8.1.0=1 8.5.0=1 8.2.0=delay",),
            Command.SHUTDOWN_STAY_OFF: ("8.1.0=1 8.5.0=2 8.2.0=delay",),
            Command.SHUTDOWN_STOP: ("8.2.0=-1",),
            Command.TEST_QUICK: ("7.2.0=lock 7.1.0=.7.7.4",),
            Command.TEST_DEEP: ("7.2.0=lock 7.1.0=.7.7.5",),
            Command.TEST_STOP: ("7.2.0=lock 7.1.0=.7.7.2",),
            Command.BEEPER_ON: ("9.8.0=2",),
            Command.BEEPER_OFF: ("9.8.0=1",),
        },
    ),
    alarms=(_RFC_TABLE,),
    tests={
        1: TestResult.PASSED, 2: TestResult.WARNING, 3: TestResult.FAILED, 4: TestResult.ABORTED,
        5: TestResult.RUNNING, 6: TestResult.NONE,
    },
    flags=(("battery.state", 4, C.BATTERY_DEPLETED),),
    low=(3, 4),
)  # fmt: skip

POWERNET = Table(
    name="powernet",
    title="PowerNet-MIB (APC)",
    identities=("1.3.6.1.4.1.318",),
    probe=f"{APC}.4.1.1.0",
    rows=rows(
        APC,
        """
        source 4.1.1.0
        battery.state 2.1.1.0
        comm 8.1.0
        alarms .1.3.6.1.2.1.33.1.6.1.0
        ident.model 1.1.1.0
        ident.firmware 1.2.1.0
        ident.serial 1.2.3.0
        battery.charge_pct 2.3.1.0 0.1
        battery.charge_pct 2.2.1.0
        battery.runtime_s 2.2.3.0
        battery.voltage_v 2.3.4.0 0.1
        battery.voltage_v 2.2.8.0
        battery.current_a 2.3.5.0 0.1
        battery.current_a 2.2.9.0
        battery.temperature_c 2.3.2.0 0.1
        battery.temperature_c 2.2.2.0
        battery.replace 2.2.4.0
        input.count 9.2.2.1.2.1
        input.frequency_hz 9.2.2.1.4.1 0.1
        input.#.voltage_v 9.2.3.1.3.1.1.#
        input.#.current_a 9.2.3.1.6.1.1.# 0.1
        input.1.voltage_v 3.3.1.0 0.1
        input.1.voltage_v 3.2.1.0
        input.frequency_hz 3.3.4.0 0.1
        input.frequency_hz 3.2.4.0
        output.count 9.3.2.1.2.1
        output.frequency_hz 9.3.2.1.4.1 0.1
        output.#.voltage_v 9.3.3.1.3.1.1.#
        output.#.current_a 9.3.3.1.4.1.1.# 0.1
        output.#.apparent_va 9.3.3.1.7.1.1.#
        output.#.load_pct 9.3.3.1.10.1.1.#
        output.1.voltage_v 4.3.1.0 0.1
        output.1.voltage_v 4.2.1.0
        output.1.current_a 4.3.4.0 0.1
        output.1.current_a 4.2.4.0
        output.1.load_pct 4.3.3.0 0.1
        output.1.load_pct 4.2.3.0
        output.frequency_hz 4.3.2.0 0.1
        output.frequency_hz 4.2.2.0
        rating.battery_voltage_v 2.2.7.0
        rating.high_transfer_v 5.2.2.0
        rating.low_transfer_v 5.2.3.0
        rating.low_battery_s 5.2.8.0
        beeper 5.2.4.0
        test.result 7.2.3.0
        test.calibration 7.2.6.0
        test.start 7.2.2.0
        control.off 6.2.1.0
        control.on 6.2.6.0
        """,
    ),
    sources={
        2: Source.MAINS, 3: Source.BATTERY, 4: Source.BOOST, 5: Source.NONE, 6: Source.BYPASS, 7: Source.NONE,
        9: Source.BYPASS, 10: Source.BYPASS, 11: Source.NONE, 12: Source.BUCK, 13: Source.MAINS, 14: Source.MAINS,
        15: Source.BATTERY, 16: Source.BYPASS, 17: Source.BYPASS, 18: Source.MAINS, 19: Source.MAINS,
        20: Source.MAINS, 21: Source.MAINS, 22: Source.MAINS, 24: Source.MAINS, 25: Source.MAINS, 28: Source.MAINS,
    },
    orders=_orders(
        APC,
        {
            Command.TEST_QUICK: ("7.2.2.0=2",),
            Command.BEEPER_ON: ("5.2.4.0=1",),
            Command.BEEPER_OFF: ("5.2.4.0=3",),
            Command.LOAD_OFF: ("6.2.1.0=2",),
            Command.LOAD_ON: ("6.2.6.0=2",),
        },
    ),
    alarms=(_RFC_TABLE,),
    tests={1: TestResult.PASSED, 2: TestResult.FAILED, 3: TestResult.NONE, 4: TestResult.RUNNING},
    flags=(
        ("battery.replace", 2, C.BATTERY_BAD),
        ("test.calibration", 3, C.TEST_RUNNING),
        ("source", 15, C.TEST_RUNNING),
        ("source", 24, C.TEST_RUNNING),
        ("source", 28, C.TEST_RUNNING),
        ("battery.state", 4, C.BATTERY_BAD),
        ("battery.state", 5, C.BATTERY_BAD),
        ("source", 10, C.GENERAL_FAULT),
        ("source", 7, C.OUTPUT_OFF),
        ("source", 11, C.AWAITING_POWER),
    ),
    maker="APC",
    lost=2,
)  # fmt: skip

XUPS_ALARMS = {
    4: C.LOW_BATTERY, 7: C.OVERLOAD, 8: C.GENERAL_FAULT, 9: C.BATTERY_DEPLETED, 10: C.GENERAL_FAULT,
    12: C.BYPASS_BAD, 13: C.OUTPUT_OFF, 14: C.INPUT_BAD, 16: C.SHUTDOWN_IMMINENT, 23: C.BATTERY_BAD,
    24: C.OUTPUT_OFF_AS_REQUESTED, 25: C.TEST_FAILED, 26: C.COMM_LOST, 27: C.SHUTDOWN_PENDING,
    29: C.TEMPERATURE_BAD, 31: C.TEMPERATURE_BAD, 32: C.CHARGER_FAILED, 33: C.FAN_FAILURE, 34: C.FUSE_FAILURE,
    42: C.OUTPUT_BAD, 43: C.AWAITING_POWER,
}  # fmt: skip

EATON = Table(
    name="xups",
    title="XUPS-MIB (Eaton, Powerware)",
    identities=("1.3.6.1.4.1.534",),
    probe=f"{XUPS}.4.5.0",
    rows=rows(
        XUPS,
        """
        source 4.5.0
        alarms 7.1.0
        ident.manufacturer 1.1.0
        ident.model 1.2.0
        ident.firmware 1.3.0
        battery.runtime_s 2.1.0
        battery.voltage_v 2.2.0
        battery.current_a 2.3.0 0.1
        battery.charge_pct 2.4.0
        battery.flow 2.5.0
        temperature_c 6.1.0
        ambient.temperature_c 6.5.0
        ambient.humidity_pct 6.6.0
        input.frequency_hz 3.1.0 0.1
        input.count 3.3.0
        input.#.voltage_v 3.4.1.2.#
        input.#.current_a 3.4.1.3.#
        input.#.power_w 3.4.1.4.#
        load_pct 4.1.0
        output.frequency_hz 4.2.0 0.1
        output.count 4.3.0
        output.#.voltage_v 4.4.1.2.#
        output.#.current_a 4.4.1.3.#
        output.#.power_w 4.4.1.4.#
        output.#.load_pct .1.3.6.1.2.1.33.1.4.4.1.5.#
        bypass.frequency_hz 5.1.0 0.1
        bypass.count 5.2.0
        bypass.#.voltage_v 5.3.1.2.#
        test.start 8.1.0
        test.result 8.2.0
        control.off 9.1.0
        control.on 9.2.0
        control.return 9.6.0
        rating.output_voltage_v 10.1.0
        rating.input_voltage_v 10.2.0
        rating.power_w 10.3.0
        rating.output_frequency_hz 10.4.0 0.1
        """,
    ),
    sources={
        2: Source.NONE, 3: Source.MAINS, 4: Source.BYPASS, 5: Source.BATTERY, 6: Source.BOOST, 7: Source.BUCK,
        8: Source.MAINS, 9: Source.MAINS, 10: Source.MAINS, 11: Source.BYPASS, 12: Source.MAINS,
    },
    orders=_orders(
        XUPS,
        {
            Command.TEST_QUICK: ("8.1.0=1",),
            Command.SHUTDOWN_RETURN: ("9.6.0=delay",),
            Command.SHUTDOWN_STAY_OFF: ("9.1.0=delay",),
            Command.SHUTDOWN_STOP: ("9.1.0=0",),
            Command.LOAD_OFF: ("9.1.0=1",),
            Command.LOAD_ON: ("9.2.0=1",),
        },
    ),
    alarms=(Alarms(f"{XUPS}.7.1.0", f"{XUPS}.7.2.1.2", f"{XUPS}.7", XUPS_ALARMS),),
    tests={2: TestResult.PASSED, 3: TestResult.FAILED, 4: TestResult.RUNNING},
    low_alarm=True,
)  # fmt: skip

CYBERPOWER = Table(
    name="cyberpower",
    title="CPS-MIB (CyberPower)",
    identities=("1.3.6.1.4.1.3808",),
    probe=f"{CPS}.4.1.1.0",
    rows=rows(
        CPS,
        """
        source 4.1.1.0
        battery.state 2.1.1.0
        alarms .1.3.6.1.2.1.33.1.6.1.0
        ident.model 1.1.1.0
        ident.firmware 1.2.1.0
        ident.serial 1.2.3.0
        battery.charge_pct 2.2.1.0
        battery.voltage_v 2.2.2.0 0.1
        battery.temperature_c 2.2.3.0
        battery.runtime_s 2.2.4.0
        battery.replace 2.2.5.0
        battery.current_a 2.2.7.0 0.1
        rating.battery_voltage_v 2.2.8.0
        input.1.voltage_v 3.2.1.0 0.1
        input.frequency_hz 3.2.4.0 0.1
        output.1.voltage_v 4.2.1.0 0.1
        output.frequency_hz 4.2.2.0 0.1
        output.1.load_pct 4.2.3.0
        output.1.current_a 4.2.4.0 0.1
        output.1.power_w 4.2.5.0
        test.start 7.2.2.0
        test.calibration 7.2.7.0
        control.off 6.2.1.0
        control.on 6.2.6.0
        """,
    ),
    sources={
        2: Source.MAINS,
        3: Source.BATTERY,
        4: Source.BOOST,
        5: Source.NONE,
        6: Source.NONE,
        8: Source.MAINS,
        9: Source.BYPASS,
        10: Source.BUCK,
        11: Source.MAINS,
    },
    orders=_orders(
        CPS,
        {
            Command.TEST_QUICK: ("7.2.2.0=2",),
            Command.LOAD_OFF: ("6.2.1.0=2",),
            Command.LOAD_ON: ("6.2.6.0=2",),
        },
    ),
    alarms=(_RFC_TABLE,),
    tests={},
    flags=(
        ("battery.replace", 2, C.BATTERY_BAD),
        ("test.calibration", 3, C.TEST_RUNNING),
        ("source", 11, C.OVERLOAD),
    ),
    maker="CyberPower",
)

#: the makers' own first: where an agent has both, they say more
TABLES = (POWERNET, EATON, CYBERPOWER, RFC1628)
