"""Another agent's UPS: reads it from any NUT server (upsd) on the network, and gives it orders.

Protocol: NUT, docs/net-protocol.txt. Names of variables and commands: NUT, docs/nut-names.txt. Status card:
docs/drivers-nut.md.

    LIST VAR ups      BEGIN LIST VAR ups, VAR ups ups.status "OL CHRG", ..., END LIST VAR ups
    LIST CMD, LIST RW the same with CMD ups NAME, RW ups NAME "VALUE"
    SET VAR ups ups.delay.shutdown "60", INSTCMD ups shutdown.return      OK, or ERR REASON
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..model import (
    Battery,
    Command,
    Condition,
    Driver,
    Flow,
    Ident,
    Line,
    Link,
    LinkError,
    Option,
    OrderError,
    Outlet,
    Rating,
    Sensor,
    Source,
    Status,
    Test,
    TestResult,
)
from ..q1.orders import check_arguments

log = logging.getLogger(__name__)

NAME, TITLE, LINK = "nut", "NUT server (upsd)", "upsd"
OPTIONS: tuple[Option, ...] = (
    Option(name="ups", kind=str, default="", help="name of the UPS on the NUT server; empty: the only one there"),
)
QUERIES = (b"LIST UPS\n",)

LIST_LIMIT_BYTES = 128 * 1024
ROWS_LIMIT = 2000
TEXT_LIMIT = 128
LIST_WITHIN_S, ONCE_WITHIN_S, ORDER_WITHIN_S = 2.0, 0.9, 1.0  # in all under 5 s: a poll asks four lists at most
OUTLETS = range(1, 65)
OFF_DELAY_S, RETURN_DELAY_S = (0.0, 7200.0), (0.0, 86400.0)

_ROW = re.compile(r'(UPS|VAR|RW|CMD) (\S+)(?: ([A-Za-z0-9._-]+))?(?: "((?:[^"\\]|\\.)*)")?')
_NUMBER = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: token of ups.status -> what it says of the source; OFF, OB and BYPASS go before what else is there
SOURCES: Mapping[str, Source] = {
    "OFF": Source.NONE,
    "OB": Source.BATTERY,
    "BYPASS": Source.BYPASS,
    "BOOST": Source.BOOST,
    "TRIM": Source.BUCK,
    "OL": Source.MAINS,
}
FLAGS: Mapping[str, Condition] = {
    "LB": Condition.LOW_BATTERY,
    "RB": Condition.BATTERY_BAD,
    "OVER": Condition.OVERLOAD,
    "OFF": Condition.OUTPUT_OFF,
    "FSD": Condition.SHUTDOWN_PENDING,
    "CAL": Condition.TEST_RUNNING,
    "TEST": Condition.TEST_RUNNING,
    "ALARM": Condition.GENERAL_FAULT,
}
FLOWS: Mapping[str, Flow] = {"DISCHRG": Flow.DISCHARGING, "CHRG": Flow.CHARGING}
#: how ups.test.result begins, or a word in it (NUT, drivers usbhid-ups, snmp-ups, apcsmart) -> what it means
RESULTS: tuple[tuple[str, TestResult], ...] = (
    ("progress", TestResult.RUNNING),
    ("running", TestResult.RUNNING),
    ("warning", TestResult.WARNING),
    ("abort", TestResult.ABORTED),
    ("error", TestResult.FAILED),
    ("fail", TestResult.FAILED),
    ("no test", TestResult.NONE),
    ("pass", TestResult.PASSED),
    ("ok", TestResult.PASSED),
)
#: command -> names at NUT, the first that the UPS has is taken
COMMANDS: Mapping[Command, tuple[str, ...]] = {
    Command.TEST_QUICK: ("test.battery.start.quick", "test.battery.start"),
    Command.TEST_DEEP: ("test.battery.start.deep",),
    Command.TEST_STOP: ("test.battery.stop",),
    Command.BEEPER_ON: ("beeper.enable", "beeper.on"),
    Command.BEEPER_OFF: ("beeper.disable", "beeper.off"),
    Command.SHUTDOWN_RETURN: ("shutdown.return",),
    Command.SHUTDOWN_STAY_OFF: ("shutdown.stayoff",),
    Command.SHUTDOWN_STOP: ("shutdown.stop",),
    Command.LOAD_OFF: ("load.off",),
    Command.LOAD_ON: ("load.on",),
}
_OUTLET = {Command.OUTLET_ON: "on", Command.OUTLET_OFF: "off"}
_SHUTDOWNS = (Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF)


def probe(link: Link) -> float:
    """How sure it is that a NUT server with a UPS is there."""
    try:
        return 1.0 if _listing(link, "UPS", "", ONCE_WITHIN_S)[0] else 0.0
    except LinkError as e:
        log.debug("nut: probe: %s", e)
        return 0.0


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The driver for a UPS of the server at the end of `link`. Sends nothing yet. LinkError: no link, or no name."""
    if link is None:
        raise LinkError("driver nut needs a connection")
    name = str(section.get("ups") or "")
    if name and not _NAME.fullmatch(name):
        raise LinkError(f"[ups] ups: {name!r} is no name of a UPS: letters, digits, dots and dashes")
    return Nut(link, name)


class Nut:
    """A UPS of a NUT server."""

    off_return = "no"  # what is behind the server nobody here knows
    wake_fd: int | None = None

    def __init__(self, link: Link, name: str) -> None:
        self._link, self._name = link, name
        self._variables: dict[str, str] = {}
        self._can: frozenset[str] | None = None
        self._writable: frozenset[str] = frozenset()
        self.commands: frozenset[Command] = frozenset()

    def poll(self) -> Status:
        """All variables of one moment. LinkError also if the server's own data are stale or its driver is gone."""
        if not self._name:
            names = list(_listing(self._link, "UPS", "", ONCE_WITHIN_S)[0])
            if len(names) != 1:
                raise LinkError(f"[ups] ups: say which UPS of the NUT server: {', '.join(names) or 'it has none'}")
            self._name = names[0]
        variables, taken_s = _listing(self._link, "VAR", self._name, LIST_WITHIN_S)
        status = look(variables, taken_s)
        self._variables = variables
        if self._can is None:
            self._writable = frozenset(_listing(self._link, "RW", self._name, ONCE_WITHIN_S)[0])
            self._can = frozenset(_listing(self._link, "CMD", self._name, ONCE_WITHIN_S)[0])
            self.commands = self._commands(self._can)
        return status

    def order(self, command: Command, **args: Any) -> None:
        """Give an order (arguments: see model.Command). OrderError: an argument is wrong, or the server refuses it.
        OK means that the server has it, and has handed it to its own driver."""
        values = self._check(command, args)
        if command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        if command in _OUTLET:
            name = f"outlet.{int(values[0])}.load.{_OUTLET[command]}"
            if name not in (self._can or ()):
                raise OrderError(f"this UPS has no {name}")
        else:
            name = self._nut_name(command, self._can or frozenset())
        if command in _SHUTDOWNS:
            self._delay("ups.delay.shutdown", values[0])
        if command is Command.SHUTDOWN_RETURN:
            self._delay("ups.delay.start", values[1])
        self._tell(f"INSTCMD {self._name} {name}")

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _commands(self, can: frozenset[str]) -> frozenset[Command]:
        found = {command for command in COMMANDS if self._nut_name(command, can)}
        for command, word in _OUTLET.items():
            if any(f"outlet.{n}.load.{word}" in can for n in OUTLETS):
                found.add(command)
        return frozenset(found)

    def _nut_name(self, command: Command, can: frozenset[str]) -> str:
        return next((name for name in COMMANDS.get(command, ()) if name in can), "")

    def _check(self, command: Command, args: Mapping[str, Any]) -> list[float]:
        if command is Command.SHUTDOWN_RETURN:
            return check_arguments(command, args, delay_s=OFF_DELAY_S, return_delay_s=RETURN_DELAY_S)
        if command is Command.SHUTDOWN_STAY_OFF:
            return check_arguments(command, args, delay_s=OFF_DELAY_S)
        if command in _OUTLET:
            return check_arguments(command, args, number=(OUTLETS[0], OUTLETS[-1]))
        return check_arguments(command, args) if command in self.commands else []

    def _delay(self, variable: str, seconds: float) -> None:
        """Set a delay; where it cannot be set, the unit's own must not be shorter: it would be off too early."""
        if variable in self._writable:
            self._tell(f'SET VAR {self._name} {variable} "{int(-(-seconds // 1))}"')
            return
        own_s = _number(self._variables, variable)
        if own_s is None or own_s < seconds:
            raise OrderError(f"this UPS does not let {variable} be set; its own is {own_s} s, not {seconds:g} s")

    def _tell(self, line: str) -> None:
        answer = self._link.ask(line.encode() + b"\n", end=b"\n", within_s=ORDER_WITHIN_S).data
        if answer.startswith(b"OK"):
            return
        why = _text(answer.decode("utf-8", "replace"))
        remedy = "; [ups] user and secret need an account with actions SET and instcmds ALL in upsd.users"
        raise OrderError(f"the NUT server refused it: {why}{remedy if 'ACCESS' in why or 'REQUIRED' in why else ''}")


# --- the codec


def _listing(link: Link, kind: str, ups: str, within_s: float) -> tuple[dict[str, str], float]:
    about = f"{kind} {ups}" if ups else kind
    end = f"END LIST {about}\n".encode()
    reply = link.ask(f"LIST {about}\n".encode(), end=end, limit_bytes=LIST_LIMIT_BYTES, within_s=within_s)
    return parse_list(reply.data, kind, ups), reply.received_s


def parse_list(answer: bytes, kind: str, ups: str = "") -> dict[str, str]:
    """The rows of one list without its END: name -> value ('' where there is none). `kind`: UPS, VAR, RW or CMD.
    LinkError: the server says ERR, or a line that is not of this list, or too many."""
    lines = answer.decode("utf-8", "replace").split("\n")
    if lines[0].startswith("ERR "):
        raise LinkError(f"the NUT server says {_text(lines[0][4:])}")
    if (
        lines[0] != (f"BEGIN LIST {kind} {ups}" if ups else f"BEGIN LIST {kind}")
        or lines[-1]
        or len(lines) > ROWS_LIMIT
    ):
        raise LinkError(f"no list of {kind}: {answer[:64]!r}, {len(lines)} lines")
    rows: dict[str, str] = {}
    for line in lines[1:-1]:
        match = _ROW.fullmatch(line)
        if match is None or match[1] != kind or (ups and (match[2] != ups or not match[3])):
            raise LinkError(f"no row of {kind}: {line[:64]!r}")
        rows[match[3] if ups else match[2]] = _text(re.sub(r"\\(.)", r"\1", match[4] or ""))
    return rows


def look(variables: Mapping[str, str], taken_s: float) -> Status:
    """The Status that NUT's variables mean. LinkError without ups.status."""
    if "ups.status" not in variables:
        raise LinkError("the NUT server does not say ups.status")
    tokens = frozenset(variables["ups.status"].upper().split())
    v = variables
    # FSD on battery: the other agent has decided that the load goes, which is a low battery to all behind it
    low = "LB" in tokens or {"FSD", "OB"} <= tokens
    flags = {condition for token, condition in FLAGS.items() if token in tokens}
    return Status(
        taken_s=taken_s,
        source=_source(tokens),
        inputs=_lines(v, ("input",)),
        outputs=_lines(v, ("output",), load=True),
        bypass=_lines(v, ("input.bypass", "output.bypass")),
        battery=Battery(
            charge_pct=_number(v, "battery.charge", 0, 100),
            runtime_s=_number(v, "battery.runtime", 0),
            voltage_v=_number(v, "battery.voltage", 0, 2000),
            current_a=_number(v, "battery.current"),
            temperature_c=_number(v, "battery.temperature", -60, 200),
            flow=next((flow for token, flow in FLOWS.items() if token in tokens), None),
            low=low,
        ),
        ident=Ident(
            manufacturer=_first(v, "device.mfr", "ups.mfr"),
            model=_first(v, "device.model", "ups.model"),
            firmware=_first(v, "ups.firmware"),
            serial=_first(v, "device.serial", "ups.serial"),
        ),
        rating=_rating(v),
        outlets=tuple(
            Outlet(number=n, name=_first(v, f"outlet.{n}.desc"), on=_switch(v.get(f"outlet.{n}.status"), "on", "off"))
            for n in OUTLETS
            if f"outlet.{n}.status" in v or f"outlet.{n}.desc" in v
        ),
        sensors=_sensors(v),
        test=_test(v),
        temperature_c=_number(v, "ups.temperature", -60, 200),
        beeper_on=_switch(v.get("ups.beeper.status"), "enabled", "disabled", "muted"),
        flags=frozenset(flags | ({Condition.LOW_BATTERY} if low else set())),
    )


def _source(tokens: frozenset[str]) -> Source:
    """By SOURCES; a status that says both OL and OB, or nothing of it, is unknown."""
    if {"OL", "OB"} <= tokens:
        return Source.UNKNOWN
    return next((source for token, source in SOURCES.items() if token in tokens), Source.UNKNOWN)


def _lines(v: Mapping[str, str], places: tuple[str, ...], *, load: bool = False) -> tuple[Line, ...]:
    """One or three lines of the first place that NUT tells of; `load`: with what `ups.` says of the whole."""
    for place in places:
        hertz = _number(v, f"{place}.frequency", 0, 500)
        three = tuple(
            Line(
                voltage_v=_number(v, f"{place}.L{n}-N.voltage", 0, 2000, f"{place}.L{n}.voltage"),
                frequency_hz=hertz,
                current_a=_number(v, f"{place}.L{n}.current"),
                power_w=_number(v, f"{place}.L{n}.realpower"),
                load_pct=_number(v, f"{place}.L{n}.power.percent", 0, 1000),
                apparent_va=_number(v, f"{place}.L{n}.power"),
            )
            for n in (1, 2, 3)
        )
        if any(line != Line(frequency_hz=hertz) for line in three):
            return three
        one = Line(
            voltage_v=_number(v, f"{place}.voltage", 0, 2000),
            frequency_hz=hertz,
            current_a=_number(v, f"{place}.current"),
            power_w=_number(v, f"{place}.realpower", also="ups.realpower" if load else ""),
            load_pct=_number(v, "ups.load", 0, 1000) if load else None,
            apparent_va=_number(v, f"{place}.power", also="ups.power" if load else ""),
            fault_voltage_v=_number(v, f"{place}.voltage.fault", 0, 2000),
        )
        if one != Line():
            return (one,)
    return ()


def _rating(v: Mapping[str, str]) -> Rating:
    return Rating(
        input_voltage_v=_number(v, "input.voltage.nominal", 0, 2000),
        input_frequency_hz=_number(v, "input.frequency.nominal", 0, 500),
        output_voltage_v=_number(v, "output.voltage.nominal", 0, 2000),
        output_frequency_hz=_number(v, "output.frequency.nominal", 0, 500),
        output_current_a=_number(v, "output.current.nominal", 0),
        apparent_va=_number(v, "ups.power.nominal", 0),
        power_w=_number(v, "ups.realpower.nominal", 0),
        battery_voltage_v=_number(v, "battery.voltage.nominal", 0, 2000),
        low_battery_s=_number(v, "battery.runtime.low", 0),
        low_transfer_v=_number(v, "input.transfer.low", 0, 2000),
        high_transfer_v=_number(v, "input.transfer.high", 0, 2000),
    )


def _sensors(v: Mapping[str, str]) -> tuple[Sensor, ...]:
    found = []
    for place in ("ambient", *(f"ambient.{n}" for n in range(1, 17))):
        warm, wet = _number(v, f"{place}.temperature", -60, 200), _number(v, f"{place}.humidity", 0, 100)
        if warm is not None or wet is not None:
            found.append(Sensor(name=v.get(f"{place}.name") or place, temperature_c=warm, humidity_pct=wet))
    return tuple(found)


def _test(v: Mapping[str, str]) -> Test | None:
    text = v.get("ups.test.result")
    if text is None:
        return None
    return Test(result=next((r for word, r in RESULTS if word in text.lower()), TestResult.NONE), detail=text)


def _number(v: Mapping[str, str], name: str, low: float = -1e9, high: float = 1e9, also: str = "") -> float | None:
    """A variable as a number; None if it is not there, is no number, or cannot be."""
    text = v.get(name, v.get(also, ""))
    value = float(text) if _NUMBER.fullmatch(text) else None
    return value if value is not None and low <= value <= high else None


def _switch(text: str | None, on: str, *off: str) -> bool | None:
    return True if text == on else False if text in off else None


def _first(v: Mapping[str, str], *names: str) -> str | None:
    return next((v[name].strip() for name in names if v.get(name, "").strip()), None)


def _text(text: str) -> str:
    """Printable and short, whatever the server sent."""
    return "".join(c for c in text[:TEXT_LIMIT] if c.isprintable())
