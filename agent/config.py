"""What `ridethrough.toml` may say: its sections, their options, and the typed configuration that comes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .model import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A `[[server]]`: whom to tell, how, and how long it takes to go down."""

    name: str
    address: str
    port: int = 6003
    how: str = "rccmd"
    needs_s: float = 120.0
    stage: str = "default"
    mac: str = ""  # aa:bb:cc:dd:ee:ff for wake-on-LAN; "": learned while the server is up
    wake: bool = True  # have it come up again after an outage
    outlet: int = 0  # of the UPS, switched on in the recovery; 0: none
    options: Mapping[str, Any] = field(default_factory=dict)  # those of its way (agent/reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A `[[stage]]`: when its servers are told; the first of these that is true wins. None: not a trigger."""

    name: str
    on_battery_s: float | None = None
    runtime_below_s: float | None = None
    charge_below_pct: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """`[web]`."""

    listen: str = "127.0.0.1:8080"  # HOST:PORT, [V6]:PORT
    tls: str = "auto"  # auto: whenever not on loopback | on
    public_status: bool = False  # status page and /api without login


@dataclass(frozen=True, slots=True, kw_only=True)
class Community:
    """A `[[snmp.community]]`: the label of its secret, and who may use it."""

    label: str
    access: str = "read-only"
    sources: tuple[str, ...] = ()  # networks, "192.0.2.0/24"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A `[[snmp.user]]` of version 3; the keys are kept elsewhere."""

    name: str
    level: str = "auth-priv"  # what he must use
    access: str = "read-only"
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapReceiver:
    """A `[[snmp.receiver]]` of notifications."""

    name: str
    address: str  # IP
    port: int = 162
    version: str = "2c"
    label: str = ""  # of the community
    user: str = ""  # of version 3
    inform: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snmp:
    """`[snmp]`; without it, or without a community or user, nothing listens."""

    listen: str = "127.0.0.1:1161"
    communities: tuple[Community, ...] = ()
    users: tuple[User, ...] = ()
    receivers: tuple[TrapReceiver, ...] = ()
    allow_weak: bool = False
    allow_shutdown: bool = False
    auth_traps: bool = False
    lenient_scalars: bool = False
    upsman_mib: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file. `web` or `snmp` None: that face is off."""

    name: str = "ups"
    state_dir: str = "/var/lib/ridethrough"
    run_dir: str = "/run/ridethrough"
    mode: str = "dry-run"
    ups_off: bool = True  # after the last server's time, where the driver is proven
    wake_charge_pct: float = 30.0  # servers are woken from this charge on ...
    wake_after_s: float = 300.0  # ... or after so long on line
    commands_dir: str = "/etc/ridethrough/commands.d"
    driver: str = ""
    full_load_minutes: float | None = None  # runtime of the full battery, for a UPS that says none
    ignore_low_battery: bool = False  # of a unit that says "low" far too early
    poll_s: float = 1.0
    ups: Mapping[str, Any] = field(default_factory=dict)  # the driver's and its link's options, typed
    servers: tuple[Server, ...] = ()
    stages: tuple[Stage, ...] = ()
    web: Web | None = None
    snmp: Snmp | None = None
    hints: tuple[str, ...] = ()  # what is no mistake, but probably not meant


# --- what may stand in the file ---------------------------------------------------------------------------------

PROTECTING = ("file", "agent", "ups", "stage", "server")  # one unit: an error in one keeps the last good set
FILE_LIMIT_BYTES = 256 * 1024
LINE_LIMIT = 4096  # characters; tomllib needs minutes for a long line of dots
PROBLEM_LIMIT, PROBLEMS_LIMIT = 200, 50  # characters of one, and how many are told
SERVERS_LIMIT, STAGES_LIMIT, COMMUNITIES_LIMIT, USERS_LIMIT = 1000, 50, 32, 32
RECEIVERS_LIMIT = 16
ACCESSES = ("read-only", "read-write")
MODES = ("setup", "dry-run", "armed")
DEFAULT_STAGE = "default"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

AGENT = (
    Option(name="name", kind=str, default="ups", help="what this UPS is called on the page and in SNMP"),
    Option(name="state_dir", kind=str, default="/var/lib/ridethrough", help="where state is kept"),
    Option(name="run_dir", kind=str, default="/run/ridethrough", help="where the bus socket lives"),
    Option(
        name="mode",
        kind=str,
        default="dry-run",
        choices=MODES,
        help="setup and dry-run tell nobody anything; armed shuts servers down",
    ),
    Option(
        name="ups_off",
        kind=bool,
        default=True,
        help="switch the UPS off (with return) after the last server's time, if its driver is proven to do so",
    ),
    Option(
        name="wake_charge_pct", kind=float, default=30.0, low=5, high=100, help="wake servers from this charge on"
    ),
    Option(
        name="wake_after_s", kind=float, default=300.0, low=0, high=86400, help="or after so many seconds on line"
    ),
    Option(
        name="commands_dir",
        kind=str,
        default="/etc/ridethrough/commands.d",
        help="folder of the commands that may be run or asked for; the configuration only picks names",
    ),
)
UPS = (
    Option(name="driver", kind=str, required=True, help="which driver reads the UPS"),
    Option(name="poll_s", kind=float, default=1.0, low=0.2, high=10.0, help="seconds between two polls"),
    Option(
        name="full_load_minutes",
        kind=float,
        low=0.5,
        high=1440,
        help="runtime of the full battery at full load, for a UPS that says no runtime",
    ),
    Option(
        name="ignore_low_battery",
        kind=bool,
        default=False,
        help="of a unit that says low battery far too early: runtime and charge decide alone",
    ),
)
WEB = (
    Option(name="listen", kind=str, default="127.0.0.1:8080", help="HOST:PORT or [IPv6]:PORT of the page"),
    Option(
        name="tls",
        kind=str,
        default="auto",
        choices=("auto", "on"),
        help="auto: TLS unless on loopback",
    ),
    Option(name="public_status", kind=bool, default=False, help="status page and API without login"),
)
SNMP = (
    Option(name="listen", kind=str, default="127.0.0.1:1161", help="HOST:PORT or [IPv6]:PORT of the agent"),
    Option(
        name="allow_shutdown",
        kind=bool,
        default=False,
        help="who may write may also switch the UPS's output off",
    ),
    Option(
        name="auth_traps",
        kind=bool,
        default=False,
        help="tell the receivers when somebody asks with a wrong community or key",
    ),
    Option(
        name="lenient_scalars",
        kind=bool,
        default=False,
        help="answer a GET of a scalar without its .0, as some old cards do",
    ),
    Option(
        name="upsman_mib",
        kind=bool,
        default=False,
        help="GENEREX's private objects and notifications (1.3.6.1.4.1.1356) too",
    ),
    Option(name="allow_weak", kind=bool, default=False, help="MD5 and DES of version 3, for old managers"),
)
COMMUNITY = (
    Option(
        name="label", kind=str, required=True, help="name of the secret (set it with: ridethrough secret set LABEL)"
    ),
    Option(name="access", kind=str, default="read-only", choices=ACCESSES, help="what it may do"),
    Option(name="from", kind=list, required=True, help="networks that may use it, such as 192.0.2.0/24"),
)
USER = (
    Option(name="name", kind=str, required=True, help="name (give him keys with: ridethrough snmp-user NAME)"),
    Option(
        name="level", kind=str, default="auth-priv", choices=("auth-priv", "auth"), help="the least that he must use"
    ),
    Option(name="access", kind=str, default="read-only", choices=ACCESSES, help="what he may do"),
    Option(name="from", kind=list, required=True, help="networks that he may ask from, such as 192.0.2.0/24"),
)
RECEIVER = (
    Option(name="name", kind=str, required=True, help="what the manager is called here"),
    Option(name="address", kind=str, required=True, help="IP address that gets the notifications"),
    Option(name="port", kind=int, default=162, low=1, high=65535, help="UDP port"),
    Option(name="version", kind=str, default="2c", choices=("1", "2c", "3"), help="of SNMP"),
    Option(name="label", kind=str, default="", help="of the community's secret, for versions 1 and 2c"),
    Option(name="user", kind=str, default="", help="for version 3: the name of a [[snmp.user]]"),
    Option(name="inform", kind=bool, default=False, help="wants them confirmed, and repeats what is not"),
)
SERVER = (
    Option(name="name", kind=str, required=True, help="what the server is called here"),
    Option(name="address", kind=str, help="IP address (best) or name; needed, but for this host itself (local)"),
    Option(name="port", kind=int, low=1, high=65535, help="where it listens; the default is its way's"),
    Option(name="how", kind=str, default="rccmd", help="the way it is told"),
    Option(name="needs_s", kind=float, default=120.0, low=1, high=7200, help="seconds that it needs to go down"),
    Option(name="stage", kind=str, default=DEFAULT_STAGE, help="the stage that it belongs to"),
    Option(name="mac", kind=str, default="", help="for wake-on-LAN; without it learned while the server is up"),
    Option(name="wake", kind=bool, default=True, help="have it come up again after an outage"),
    Option(name="outlet", kind=int, default=0, low=0, high=64, help="outlet of the UPS to switch on again; 0: none"),
)
STAGE = (
    Option(name="name", kind=str, required=True, help="what the stage is called"),
    Option(name="on_battery_s", kind=float, low=0, high=86400, help="told after so many seconds on battery"),
    Option(name="runtime_below_s", kind=float, low=1, high=86400, help="told when the runtime is below"),
    Option(name="charge_below_pct", kind=float, low=1, high=100, help="told when the charge is below"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the top-level section it is in ("file": in none), and a line that names place and remedy."""

    section: str
    text: str
