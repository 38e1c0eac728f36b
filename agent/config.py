"""What `ridethrough.toml` says, typed and checked; every mistake names its place and the remedy."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .addresses import is_loopback, split_address, wrong_host
from .model import ConfigError, Option


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
class Snmp:
    """`[snmp]`; without it, or without a community, nothing listens."""

    listen: str = "127.0.0.1:1161"
    communities: tuple[Community, ...] = ()


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


# --- reading ----------------------------------------------------------------------------------------------------

PROTECTING = ("file", "agent", "ups", "stage", "server")  # one unit: an error in one keeps the last good set
FILE_LIMIT_BYTES = 256 * 1024
LINE_LIMIT = 4096  # characters; tomllib needs minutes for a long line of dots
PROBLEM_LIMIT, PROBLEMS_LIMIT = 200, 50  # characters of one, and how many are told
SERVERS_LIMIT, STAGES_LIMIT, COMMUNITIES_LIMIT = 1000, 50, 32
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
)
UPS = (
    Option(name="driver", kind=str, required=True, help="which driver reads the UPS"),
    Option(name="poll_s", kind=float, default=1.0, low=0.2, high=10.0, help="seconds between two polls"),
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
SNMP = (Option(name="listen", kind=str, default="127.0.0.1:1161", help="HOST:PORT or [IPv6]:PORT of the agent"),)
COMMUNITY = (
    Option(
        name="label", kind=str, required=True, help="name of the secret (set it with: ridethrough secret set LABEL)"
    ),
    Option(name="access", kind=str, default="read-only", choices=("read-only",), help="what it may do"),
    Option(name="from", kind=list, required=True, help="networks that may use it, such as 192.0.2.0/24"),
)
SERVER = (
    Option(name="name", kind=str, required=True, help="what the server is called here"),
    Option(name="address", kind=str, required=True, help="IP address (best) or name"),
    Option(name="port", kind=int, default=6003, low=1, high=65535, help="where its RCCMD listener listens"),
    Option(name="how", kind=str, default="rccmd", help="the way it is told"),
    Option(name="needs_s", kind=float, default=120.0, low=1, high=7200, help="seconds that it needs to go down"),
    Option(name="stage", kind=str, default=DEFAULT_STAGE, help="the stage that it belongs to"),
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


def parse(text: str, ups_options: Callable[[str], Sequence[Option]]) -> tuple[Config, tuple[Problem, ...]]:
    """The configuration in `text`, and everything that is wrong with it, at once.

    `ups_options(driver)` gives what `[ups]` may hold besides driver and poll_s; it raises ConfigError for an unknown
    driver. Where something is wrong the Config holds defaults; whoever uses it looks at the problems first.
    """
    reader = _Reader()
    try:
        if any(len(line) > LINE_LIMIT for line in text.splitlines()):
            raise ValueError(f"a line of more than {LINE_LIMIT} characters")
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # tomllib gives up in several ways
        return broken(text, f"not TOML: {e}"[:PROBLEM_LIMIT])
    known = ("agent", "ups", "web", "snmp", "server", "stage")
    for key in raw:
        if key not in known:
            reader.bad("agent", f"[{key}]: unknown section{_near(key, known)}")
    agent = reader.table(raw.get("agent", {}), "agent", "[agent]", AGENT)
    ups_raw = raw.get("ups", {})
    driver = ups_raw.get("driver", "") if isinstance(ups_raw, dict) else ""
    extra: Sequence[Option] = ()
    if isinstance(driver, str) and driver:
        try:
            extra = ups_options(driver)
        except ConfigError as e:
            reader.bad("ups", str(e))
            ups_raw = {k: v for k, v in ups_raw.items() if k in ("driver", "poll_s")}
    ups = reader.table(ups_raw, "ups", "[ups]", (*UPS, *extra))
    for key in ("state_dir", "run_dir"):
        if not agent[key].startswith("/"):
            reader.bad("agent", f'[agent] {key} = "{agent[key]}": must begin with /')
    stages = reader.stages(raw.get("stage", []))
    servers, stages = reader.servers(raw.get("server", []), stages)
    config = Config(
        name=agent["name"],
        state_dir=agent["state_dir"],
        run_dir=agent["run_dir"],
        mode=agent["mode"],
        driver=ups["driver"] or "",
        poll_s=ups["poll_s"],
        ups={k: v for k, v in ups.items() if k not in ("driver", "poll_s")},
        servers=servers,
        stages=stages,
        web=reader.web(raw.get("web")),
        snmp=reader.snmp(raw.get("snmp")),
    )
    if driver == "simulator" and (problem := _simulator_away(config)):
        reader.bad("server", problem)
    # those that keep the last good set in force must not fall off the end
    reader.problems.sort(key=lambda p: p.section not in PROTECTING)
    return config, tuple(reader.problems[:PROBLEMS_LIMIT])


def broken(text: str, why: str) -> tuple[Config, tuple[Problem, ...]]:
    """Of a file that is no TOML: only where the state is, so that the last good configuration is found."""
    found = dict(re.findall(r'^\s*(state_dir|run_dir)\s*=\s*"(/[^"\\\n]*)"', text, re.MULTILINE))
    return Config(**found), (Problem("file", why),)


def _simulator_away(config: Config) -> str:
    """The simulated UPS may be armed only against this machine itself; '' or what is wrong."""
    away = [s.name for s in config.servers if not is_loopback(s.address)]
    if config.mode == "armed" and away:
        return (
            f'[agent] mode = "armed": the simulated UPS may only tell servers on loopback, not {", ".join(away)}; '
            'use mode = "dry-run" or a real driver'
        )
    return ""


def _near(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), 1)
    return f' (did you mean "{near[0]}"?)' if near else ""


class _Reader:
    """Collects every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def bad(self, section: str, text: str) -> None:
        self.problems.append(Problem(section, text if len(text) <= PROBLEM_LIMIT else text[:PROBLEM_LIMIT] + "..."))

    def table(self, raw: Any, section: str, where: str, options: Sequence[Option]) -> dict[str, Any]:
        """The options of one table, typed; a wrong or missing value becomes the default and a problem."""
        values = {o.name: o.default for o in options}
        if not isinstance(raw, dict):
            self.bad(section, f"{where} must be a table")
            return values
        by_name = {o.name: o for o in options}
        for key, value in raw.items():
            if key not in by_name:
                self.bad(section, f"{where} {key}: unknown option{_near(key, by_name)}")
            elif problem := _wrong(by_name[key], value):
                self.bad(section, f"{where} {key} = {value!r}: {problem}")
            else:
                values[key] = float(value) if by_name[key].kind is float else value
        for option in options:
            if option.required and option.name not in raw:
                self.bad(section, f"{where}: {option.name} is missing ({option.help})")
        return values

    def tables(
        self, raw: Any, section: str, where: str, options: Sequence[Option], limit: int
    ) -> list[tuple[dict[str, Any], bool]]:
        """A list of tables with a label, such as `[[server]] nas`, and whether each of them is good."""
        if not isinstance(raw, list):
            self.bad(section, f"{where} must be written with two brackets")
            return []
        if len(raw) > limit:
            self.bad(section, f"{where}: {len(raw)} of them, at most {limit} are possible")
            raw = raw[:limit]
        found, seen = [], set()
        key = options[0].name  # name or label
        for number, item in enumerate(raw, start=1):
            label = item.get(key) if isinstance(item, dict) else None
            here = f"{where} {label}" if isinstance(label, str) else f"{where} number {number}"
            before = len(self.problems)
            values = self.table(item, section, here, options)
            if values[key] is None:
                pass  # told already
            elif not NAME.fullmatch(values[key]):
                self.bad(section, f"{here}: {key} may hold letters, digits, dot, dash and underscore, at most 63")
            elif values[key] in seen:
                self.bad(section, f"{here}: there are two of that {key}")
            seen.add(values[key])
            found.append((values, len(self.problems) == before))
        return found

    def stages(self, raw: Any) -> tuple[Stage, ...]:
        """All of them, also the bad ones: servers name them."""
        rows = self.tables(raw, "stage", "[[stage]]", STAGE, STAGES_LIMIT)
        return tuple(Stage(**values) for values, _ in rows if values["name"] is not None)

    def servers(self, raw: Any, stages: tuple[Stage, ...]) -> tuple[tuple[Server, ...], tuple[Stage, ...]]:
        """The servers, and the stages with the default one added where a server needs it."""
        found: list[Server] = []
        names = [s.name for s in stages]
        for values, good in self.tables(raw, "server", "[[server]]", SERVER, SERVERS_LIMIT):
            here = f"[[server]] {values['name']}"
            before = len(self.problems)
            if values["address"] is not None and (problem := wrong_host(values["address"])):
                self.bad("server", f'{here} address = "{values["address"]}": {problem}')
            if values["how"] != "rccmd":
                self.bad("server", f'{here} how = "{values["how"]}": not in this version, only "rccmd"')
            if values["stage"] == DEFAULT_STAGE and DEFAULT_STAGE not in names:
                names.append(DEFAULT_STAGE)
                stages = (*stages, Stage(name=DEFAULT_STAGE))
            if values["stage"] not in names:
                near = _near(values["stage"], names)
                self.bad("server", f'{here} stage = "{values["stage"]}": no such [[stage]]{near}')
            twin = next((s for s in found if (s.address, s.port) == (values["address"], values["port"])), None)
            if twin:
                self.bad("server", f"{here}: same address and port as {twin.name}")
            if good and len(self.problems) == before:
                found.append(Server(**values))
        return tuple(found), stages

    def web(self, raw: Any) -> Web | None:
        if raw is None:
            return None
        before = len(self.problems)
        values = self.table(raw, "web", "[web]", WEB)
        self.listen("web", values["listen"])
        return Web(**values) if len(self.problems) == before else None

    def snmp(self, raw: Any) -> Snmp | None:
        if raw is None:
            return None
        before = len(self.problems)
        rest = {k: v for k, v in raw.items() if k != "community"} if isinstance(raw, dict) else raw
        values = self.table(rest, "snmp", "[snmp]", SNMP)
        self.listen("snmp", values["listen"])
        rows = raw.get("community", []) if isinstance(raw, dict) else []
        communities = []
        for row, good in self.tables(rows, "snmp", "[[snmp.community]]", COMMUNITY, COMMUNITIES_LIMIT):
            sources = row.pop("from")
            here = f"[[snmp.community]] {row['label']}"
            if sources == []:
                self.bad("snmp", f"{here} from: name at least one network")
            for source in sources or ():
                try:
                    ipaddress.ip_network(source)
                except ValueError as e:
                    self.bad("snmp", f"{here} from: {e}")
            if good:
                communities.append(Community(**row, sources=tuple(sources)))
        if len(self.problems) > before:
            return None
        return Snmp(listen=values["listen"], communities=tuple(communities))

    def listen(self, section: str, value: str) -> None:
        try:
            split_address(value)
        except ConfigError as e:
            self.bad(section, f"[{section}] listen: {e}")


def _wrong(option: Option, value: Any) -> str:
    """What is wrong with a value, or ''."""
    kinds = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
    if option.kind is list:
        good = isinstance(value, list) and all(isinstance(v, str) for v in value)
        return "" if good else 'must be a list of texts, such as ["192.0.2.0/24"]'
    accepted = (int, float) if option.kind is float else option.kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and option.kind is not bool):
        return f"must be {kinds[option.kind]}"
    if option.choices and value not in option.choices:
        return f"must be one of {', '.join(option.choices)}{_near(str(value), option.choices)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = -math.inf if option.low is None else option.low
        high = math.inf if option.high is None else option.high
        if not low <= value <= high:
            return f"must be between {low:g} and {high:g}"
    if isinstance(value, str) and (len(value) > 4096 or not value.isprintable()):
        return "must be one line of printable text"
    return ""
