"""The words of the house: one look at a UPS, the facts about it, and what may be asked of it.

Plain, immutable data; no clock, no I/O. SI units with the unit in the name. ``None`` always means "this UPS does not
say"; 0 means it says zero. Names of Enum values are API (bus, JSON, configuration, log): lowercase, for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

VERSION = "0.1.0"


class LinkError(Exception):
    """The UPS could not be read this time: silence, garbage, unplugged. The engine tries again."""


class ConfigError(Exception):
    """Something in a configuration is wrong; the text names the place and the remedy."""


class OrderError(Exception):
    """An order to the UPS was refused: this unit cannot do it, or an argument is wrong."""


class Source(Enum):
    """Where the output's power comes from, as one frame says, unsettled (RFC 1628 upsOutputSource)."""

    MAINS = "mains"
    BATTERY = "battery"
    BYPASS = "bypass"
    BOOST = "boost"
    BUCK = "buck"
    NONE = "none"
    UNKNOWN = "unknown"


class Flow(Enum):
    """What the battery does; a separate fact from the power source."""

    CHARGING = "charging"
    DISCHARGING = "discharging"
    RESTING = "resting"


class Condition(Enum):
    """A fact that is so or not so, in the order of events in one step; the first 24 as RFC 1628 numbers them."""

    BATTERY_BAD = "battery-bad"
    ON_BATTERY = "on-battery"
    LOW_BATTERY = "low-battery"
    BATTERY_DEPLETED = "battery-depleted"
    TEMPERATURE_BAD = "temperature-bad"
    INPUT_BAD = "input-bad"
    OUTPUT_BAD = "output-bad"
    OVERLOAD = "overload"
    ON_BYPASS = "on-bypass"
    BYPASS_BAD = "bypass-bad"
    OUTPUT_OFF_AS_REQUESTED = "output-off-as-requested"
    UPS_OFF_AS_REQUESTED = "ups-off-as-requested"
    CHARGER_FAILED = "charger-failed"
    OUTPUT_OFF = "output-off"
    UPS_SYSTEM_OFF = "ups-system-off"
    FAN_FAILURE = "fan-failure"
    FUSE_FAILURE = "fuse-failure"
    GENERAL_FAULT = "general-fault"
    TEST_FAILED = "test-failed"
    COMM_LOST = "comm-lost"
    AWAITING_POWER = "awaiting-power"
    SHUTDOWN_PENDING = "shutdown-pending"
    SHUTDOWN_IMMINENT = "shutdown-imminent"
    TEST_RUNNING = "test-running"
    # known to the agent alone, without a well-known alarm number
    NOT_PROTECTED = "not-protected"
    CONFIG_ERROR = "config-error"
    STORAGE_FAILED = "storage-failed"
    SERVER_UNPROVEN = "server-unproven"  # armed, and of a server there was no proof within a day
    NO_CORE = "no-core"


FED_BY_MAINS = frozenset((Source.MAINS, Source.BOOST, Source.BUCK))  # through the UPS; a bypass goes round it
#: RFC 1628 upsWellKnownAlarms: Condition -> last sub-identifier of 1.3.6.1.2.1.33.1.6.3
ALARM_NUMBER: Mapping[Condition, int] = {c: n for n, c in enumerate(list(Condition)[:24], start=1)}


class Command(Enum):
    """What may be asked of a UPS. A unit's driver says which of these it can do."""

    TEST_QUICK = "test-quick"
    TEST_DEEP = "test-deep"
    TEST_MINUTES = "test-minutes"  # minutes: int
    TEST_STOP = "test-stop"
    BEEPER_ON = "beeper-on"
    BEEPER_OFF = "beeper-off"
    SHUTDOWN_RETURN = "shutdown-return"  # delay_s: float, return_delay_s: float
    SHUTDOWN_STAY_OFF = "shutdown-stay-off"  # delay_s: float
    SHUTDOWN_STOP = "shutdown-stop"
    LOAD_OFF = "load-off"  # at once, until LOAD_ON
    LOAD_ON = "load-on"
    OUTLET_ON = "outlet-on"  # number: int
    OUTLET_OFF = "outlet-off"  # number: int
    BYPASS_ON = "bypass-on"  # NUT: bypass.start
    BYPASS_OFF = "bypass-off"
    ECO_ON = "eco-on"  # high efficiency: the bypass feeds the load while the mains is good (NUT: ecomode)
    ECO_OFF = "eco-off"
    SIMULATE = "simulate"  # driver simulator alone; mains: "on" | "off"


class TestResult(Enum):
    """RFC 1628 upsTestResultsSummary."""

    __test__ = False  # not a test class
    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    ABORTED = "aborted"
    RUNNING = "running"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One phase of an input, output or bypass."""

    voltage_v: float | None = None
    frequency_hz: float | None = None
    current_a: float | None = None
    power_w: float | None = None
    load_pct: float | None = None
    apparent_va: float | None = None
    fault_voltage_v: float | None = None  # the voltage that made the UPS transfer last


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """The battery. `estimated`: the fields (charge_pct, runtime_s, voltage_v) that we guess, not the unit."""

    charge_pct: float | None = None
    runtime_s: float | None = None
    voltage_v: float | None = None
    current_a: float | None = None
    temperature_c: float | None = None
    flow: Flow | None = None
    low: bool | None = None
    estimated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ident:
    """Who the UPS says it is."""

    manufacturer: str | None = None
    model: str | None = None
    firmware: str | None = None
    serial: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What the unit is made for (RFC 1628 upsConfig group)."""

    input_voltage_v: float | None = None
    input_frequency_hz: float | None = None
    output_voltage_v: float | None = None
    output_frequency_hz: float | None = None
    output_current_a: float | None = None
    apparent_va: float | None = None
    power_w: float | None = None
    battery_voltage_v: float | None = None
    low_battery_s: float | None = None
    low_transfer_v: float | None = None
    high_transfer_v: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """A switched outlet or outlet group."""

    number: int
    name: str | None = None
    on: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """An environment sensor attached to the UPS."""

    name: str
    temperature_c: float | None = None
    humidity_pct: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """The last battery or self test."""

    __test__ = False  # not a test class
    result: TestResult = TestResult.NONE
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One complete look at the UPS. None always means: this UPS does not say."""

    taken_s: float  # CLOCK_MONOTONIC second of receipt
    source: Source
    inputs: tuple[Line, ...] = ()  # 1 or 3
    outputs: tuple[Line, ...] = ()
    bypass: tuple[Line, ...] = ()
    battery: Battery = Battery()
    ident: Ident = Ident()
    rating: Rating = Rating()
    outlets: tuple[Outlet, ...] = ()
    sensors: tuple[Sensor, ...] = ()
    test: Test | None = None
    temperature_c: float | None = None  # inside the UPS
    beeper_on: bool | None = None
    flags: frozenset[Condition] = frozenset()  # what the unit itself reports
    older: Mapping[str, float] = field(default_factory=dict)  # places (agent/ages.py) older than taken_s: by seconds


# --- what a driver is -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One configurable value: name, type, range, default and the help line that the documentation shows."""

    name: str
    kind: type  # str, int, float, bool
    help: str
    default: Any = None  # None: not set
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False


class Reply(NamedTuple):
    """Bytes from a UPS without their terminator, and the monotonic second at which they were complete."""

    data: bytes
    received_s: float


class Link(Protocol):
    """A way to talk to a UPS. The ups thread alone uses it; tests hand in a script of answers."""

    @property
    def wake_fd(self) -> int | None: ...

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        """Discard what is waiting, send `command`, return what comes up to the first `end`. LinkError otherwise."""

    def send(self, command: bytes) -> None:
        """Send `command` to which there is no reply. LinkError if it cannot be written."""

    def close(self) -> None: ...


class Driver(Protocol):
    """One connected UPS. docs/drivers.md: the module around it; what it may have besides: odd, again_s, learning."""

    @property
    def commands(self) -> frozenset[Command]: ...

    @property
    def off_return(self) -> str:
        """What SHUTDOWN_RETURN is proven to do: nothing ("no"), off and on again on "battery", or "always"."""

    @property
    def wake_fd(self) -> int | None: ...

    def poll(self) -> Status: ...

    def order(self, command: Command, **args: Any) -> str | None:
        """Give it. A word if it was done otherwise than asked, or is not seen to be done. OrderError: it was not."""

    def close(self) -> None: ...


# --- what the core tells the others -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """A condition that is so, and since when (monotonic of this boot, and wall clock as it was then)."""

    condition: Condition
    since_s: float
    since_wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One shutdown stage: its triggers, and what has become of it in this outage."""

    name: str
    on_battery_s: float | None = None
    runtime_below_s: float | None = None
    charge_below_pct: float | None = None
    latched: bool = False  # its servers are being told, or have been
    why: str = ""  # it was latched: one of outage.WHYS, and a value behind a blank
    due_in_s: float | None = None  # on battery: latched by whatever comes first; None: not counting, nobody knows
    forecast_s: float | None = None  # latched by any trigger: from now; on mains: from an outage now


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """One server: what it is (proven, reachable, unknown) and what became of its delivery."""

    name: str
    address: str
    port: int
    how: str
    stage: str
    needs_s: float
    state: str = "unknown"  # unknown | reachable | proven
    proof: str = ""  # what the last proof said, one line
    proof_age_s: float | None = None  # since the last good proof
    failing: bool = False  # the last proof was not good, whatever `state` an earlier one gave it
    delivery: str = "none"  # none | sending | accepted | delivered-unconfirmed | not-delivered | dry-run
    attempts: int = 0
    detail: str = ""  # last error or answer of the delivery, one line
    wake: str = "none"  # in the recovery: none | waiting | waking | back | by-hand (no MAC, no outlet)
    mac: str = ""  # configured, or learned while the server was up
    trust: str = ""  # RCCMD: secure | classic | not-enrolled; "": its way makes no such difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What an outage would bring if it began now, or still brings: seconds from now."""

    runtime_s: float  # the battery lasts so long
    basis: str  # ups | learned | configured: who says so
    down_s: float | None = None  # all servers had their time; None: no stage is due before the end, or nobody is told
    margin_s: float | None = None  # runtime_s - down_s


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything the core says about now, once a second and at every change: the bus message `status`."""

    boot: str  # boot id of the machine
    now_s: float  # monotonic
    wall_s: float
    clock_synced: bool
    version: str
    name: str
    started_s: float  # monotonic second at which this core started
    mode: str  # setup | dry-run | armed
    driver: str
    link: str  # up | down | starting
    link_detail: str = ""  # the last error
    link_hint: str = ""  # what a person must do: usb-silent (its port was reset) | usb-no-reset (it could not be)
    status: Status | None = None  # None: never had one, or comm-lost
    age_s: float | None = None  # age of the last valid frame, also after comm-lost
    conditions: tuple[Active, ...] = ()
    phase: str = "idle"  # of protection: idle | countdown | hold | committed | off-armed | recovery | planned
    outage: str | None = None  # 16 hex digits
    on_battery_s: float | None = None  # seconds since the confirmed outage began; None on mains
    stages: tuple[StageView, ...] = ()
    servers: tuple[ServerView, ...] = ()
    held_s: float = 0.0  # by so much people have put off the stages of this outage
    aborted: bool = False  # people stopped the stages that are not latched: only an emergency latches them
    off_in_s: float | None = None  # committed: until the last server has had its time and the UPS may go
    wake_in_s: float | None = None  # recovery: servers are woken after so many seconds at the latest; 0: now
    drill_left_s: float | None = None  # a drill runs: a dry run beside the armed one
    forecast: Forecast | None = None
    wake_charge_pct: float | None = None  # recovery: servers are woken earlier when the battery has so much
    commands: frozenset[Command] = frozenset()
    config_errors: tuple[str, ...] = ()
    power_failures: int = 0  # since the history began
    battery_total_s: int = 0  # spent on battery since the history began
    input_bads: int = 0  # RFC 1628 upsInputLineBads
    polls: int = 0  # since this core started
    poll_errors: int = 0
    last_event_id: int = 0
    test_order: str = ""  # what began the test that began last: a Command, or "", the UPS itself
    test_s: float | None = None  # monotonic second of its beginning; None: none since this core started


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A condition began or ended, or a note: a row of the event log and the bus message `event`."""

    id: int  # row number; 0 while no row could be written
    kind: str  # began | ended | note
    name: str  # the condition, or the note (started, config-changed, told, command, ...)
    text: str = ""
    boot: str = ""
    mono_s: float = 0.0
    wall_s: float = 0.0
    clock_synced: bool = False
    data: Mapping[str, str] = field(default_factory=dict)
    again: bool = False  # told once more after a restart; the log has no second row
