"""Reads `ridethrough.toml`: typed and checked; every mistake is said at once and names its place and the remedy."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from . import plans
from .addresses import network, split_address, wrong_host
from .config import (
    AGENT,
    COMMUNITIES_LIMIT,
    COMMUNITY,
    DEFAULT_STAGE,
    LINE_LIMIT,
    NAME,
    PROBLEM_LIMIT,
    PROBLEMS_LIMIT,
    PROTECTING,
    RECEIVER,
    RECEIVERS_LIMIT,
    SERVER,
    SERVERS_LIMIT,
    SNMP,
    STAGE,
    STAGES_LIMIT,
    UPS,
    USER,
    USERS_LIMIT,
    WEB,
    Community,
    Config,
    Problem,
    Server,
    Snmp,
    Stage,
    TrapReceiver,
    User,
    Web,
)  # fmt: skip
from .model import ConfigError, Option

NO_MAC = "00:00:00:00:00:00"
SNMP_TABLES = ("community", "user", "receiver")
SECTIONS = ("agent", "ups", "web", "snmp", "server", "stage")
FOLDERS = ("state_dir", "run_dir")
_FOLDER = rf"\b({'|'.join(FOLDERS)})[\"']?\s*=\s*([\"'])(/[^\"'\\]*)\2"


class Way(Protocol):
    """What is needed of a way to tell a server (agent/reach)."""

    PORT: int
    OPTIONS: tuple[Option, ...]

    def wrong(self, server: Server) -> str: ...


def parse(
    text: str,
    ups_options: Callable[[str], Sequence[Option]],
    ways: Callable[[str], Way],
    own_addresses: Callable[[], frozenset[str]] = frozenset,
) -> tuple[Config, tuple[Problem, ...]]:
    """The configuration in `text`, and everything that is wrong with it, at once.

    `ups_options(driver)` gives what `[ups]` may hold besides the common options, `ways(how)` the way to tell a
    server; both raise ConfigError for a name that is not there. `own_addresses()` are this machine's, loopback aside.
    Where something is wrong the Config holds defaults; whoever uses it looks at the problems first.
    """
    reader = _Reader(ways)
    try:
        if any(len(line) > LINE_LIMIT for line in text.splitlines()):
            raise ValueError(f"a line of more than {LINE_LIMIT} characters")
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # tomllib gives up in several ways
        return broken(text, f"not TOML: {e}"[:PROBLEM_LIMIT])
    for key in raw:
        if key not in SECTIONS:
            reader.bad("agent", f"[{key}]: unknown section{nearest(key, SECTIONS)}")
    agent = reader.table(raw.get("agent", {}), "agent", "[agent]", AGENT)
    ups_raw = raw.get("ups", {})
    driver = ups_raw.get("driver", "") if isinstance(ups_raw, dict) else ""
    extra: Sequence[Option] = ()
    if isinstance(driver, str) and driver:
        try:
            extra = ups_options(driver)
        except ConfigError as e:
            reader.bad("ups", str(e))
            ups_raw = {k: v for k, v in ups_raw.items() if k in {o.name for o in UPS}}
    ups = reader.table(ups_raw, "ups", "[ups]", (*UPS, *extra))
    for key in ("state_dir", "run_dir", "commands_dir"):
        if not agent[key].startswith("/"):
            reader.bad("agent", f'[agent] {key} = "{agent[key]}": must begin with /')
    stages = reader.stages(raw.get("stage", []))
    servers, stages = reader.servers(raw.get("server", []), stages)
    config = Config(
        name=agent["name"],
        state_dir=agent["state_dir"],
        run_dir=agent["run_dir"],
        mode=agent["mode"],
        ups_off=agent["ups_off"],
        wake_charge_pct=agent["wake_charge_pct"],
        wake_after_s=agent["wake_after_s"],
        commands_dir=agent["commands_dir"],
        full_load_minutes=ups["full_load_minutes"],
        ignore_low_battery=ups["ignore_low_battery"],
        driver=ups["driver"] or "",
        poll_s=ups["poll_s"],
        ups={k: v for k, v in ups.items() if k not in {o.name for o in UPS}},
        servers=servers,
        stages=stages,
        web=reader.web(raw.get("web")),
        snmp=reader.snmp(raw.get("snmp")),
    )
    for problem in plans.mistakes(config, own_addresses(), lambda server: _goes_to(ways(server.how), server)):
        reader.bad(problem.section, problem.text)
    # those that keep the last good set in force must not fall off the end
    reader.problems.sort(key=lambda p: p.section not in PROTECTING)
    return replace(config, hints=plans.hints(config)), tuple(reader.problems[:PROBLEMS_LIMIT])


def table(
    raw: Any, section: str, where: str, options: Sequence[Option]
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The options of one table, typed, and what is wrong with it; a wrong or missing value is its default."""
    reader = _Reader(lambda how: (_ for _ in ()).throw(ConfigError(how)))
    values = reader.table(raw, section, where, options)
    return values, tuple(reader.problems)


def broken(text: str, why: str) -> tuple[Config, tuple[Problem, ...]]:
    """Of a file that is no TOML: only where the state is, so that the last good configuration is found."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if len(line) <= LINE_LIMIT and re.match(r"[^#]*(state|run)_dir", line):
            found |= _folders(line)
    return Config(**found), (Problem("file", why),)


def _folders(line: str) -> dict[str, Any]:
    """What one line says of the folders: as TOML by itself, with dots and braces and all, else by its look."""
    try:
        said = tomllib.loads(line)
        said = said["agent"] if isinstance(said.get("agent"), dict) else said
    except (ValueError, RecursionError):
        said = {name: value for name, _, value in re.findall(_FOLDER, line)}
    return {k: v for k, v in said.items() if k in FOLDERS and isinstance(v, str) and v.startswith("/")}


def nearest(word: str, words: Iterable[str]) -> str:
    """Which of these words may have been meant, in brackets after a blank; '' if none is near."""
    near = difflib.get_close_matches(word, list(words), 1)
    return f' (did you mean "{near[0]}"?)' if near else ""


class _Reader:
    """Collects every problem instead of stopping at the first."""

    def __init__(self, ways: Callable[[str], Way]) -> None:
        self._ways = ways
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
                self.bad(section, f"{where} {key}: unknown option{nearest(key, by_name)}")
            elif problem := _wrong(by_name[key], value):
                self.bad(section, f"{where} {key} = {value!r}: {problem}")
            else:
                values[key] = float(value) if by_name[key].kind is float else value
        for option in options:
            if option.required and option.name not in raw:
                self.bad(section, f"{where}: {option.name} is missing ({option.help})")
        return values

    def tables(
        self,
        raw: Any,
        section: str,
        where: str,
        options: Sequence[Option],
        limit: int,
        more: Callable[[dict[str, Any]], Sequence[Option]] | None = None,
    ) -> list[tuple[dict[str, Any], bool]]:
        """A list of tables with a label, such as `[[server]] nas`, and whether each of them is good. `more(item)`
        gives the options of one table, if they are not the same for all."""
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
            allowed = more(item) if more is not None and isinstance(item, dict) else options
            values = self.table(item, section, here, allowed)
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
        for values, good in self._server_tables(raw):
            here = f"[[server]] {values['name']}"
            before = len(self.problems)
            if values["stage"] == DEFAULT_STAGE and DEFAULT_STAGE not in names:
                names.append(DEFAULT_STAGE)
                stages = (*stages, Stage(name=DEFAULT_STAGE))
            if values["stage"] not in names:
                near = nearest(values["stage"], names)
                self.bad("server", f'{here} stage = "{values["stage"]}": no such [[stage]]{near}')
            address, mac = values["address"], _plain_mac(values["mac"])
            if address and (problem := wrong_host(address)):
                self.bad("server", f'{here} address = "{address}": {problem}')
            if mac and not _one_mac(mac):
                self.bad("server", f'{here} mac = "{mac}": not the MAC of one machine, such as 52:54:00:12:34:56')
            server = self._server(values, here) if good else None
            if server is not None and len(self.problems) == before:
                found.append(server)
        return tuple(found), stages

    def _server_tables(self, raw: Any) -> list[tuple[dict[str, Any], bool]]:
        """The rows; each may hold the common options and those of its way."""

        def options(item: dict[str, Any]) -> tuple[Option, ...]:
            how = item.get("how", "rccmd")
            try:
                return (*SERVER, *self._ways(how).OPTIONS) if isinstance(how, str) else SERVER
            except ConfigError as e:
                self.bad("server", f'[[server]] {item.get("name")} how = "{how}": {e}')
                return SERVER

        return self.tables(raw, "server", "[[server]]", SERVER, SERVERS_LIMIT, options)

    def _server(self, values: dict[str, Any], here: str) -> Server | None:
        """One server, with what its way says of it."""
        way = self._ways(values["how"])
        common = {o.name for o in SERVER}
        options = {k: v for k, v in values.items() if k not in common}
        if not values["address"] and way.PORT:
            self.bad("server", f"{here}: address is missing (IP address or name)")
        server = Server(
            **{k: v for k, v in values.items() if k in common - {"address", "port", "mac"}},
            address=values["address"] or "",
            port=_default_port(way, options) if values["port"] is None else values["port"],
            mac=_plain_mac(values["mac"]),
            options=options,
        )
        if problem := way.wrong(server):
            self.bad("server", f"{here}: {problem}")
        return server

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
        rest = {k: v for k, v in raw.items() if k not in SNMP_TABLES} if isinstance(raw, dict) else raw
        values = self.table(rest, "snmp", "[snmp]", SNMP)
        self.listen("snmp", values["listen"])
        tables = raw if isinstance(raw, dict) else {}
        rows = self.tables(tables.get("community", []), "snmp", "[[snmp.community]]", COMMUNITY, COMMUNITIES_LIMIT)
        communities = [Community(**row) for row in self._with_sources(rows, "[[snmp.community]]")]
        rows = self.tables(tables.get("user", []), "snmp", "[[snmp.user]]", USER, USERS_LIMIT)
        users = [User(**row) for row in self._with_sources(rows, "[[snmp.user]]")]
        names = {user.name for user in users}
        receivers = []
        rows = self.tables(tables.get("receiver", []), "snmp", "[[snmp.receiver]]", RECEIVER, RECEIVERS_LIMIT)
        for row, good in rows:
            if good and not (problem := _wrong_receiver(row, names)):
                receivers.append(TrapReceiver(**row))
            elif good:
                self.bad("snmp", f"[[snmp.receiver]] {row['name']}: {problem}")
        if len(self.problems) > before:
            return None
        return Snmp(**values, communities=tuple(communities), users=tuple(users), receivers=tuple(receivers))

    def _with_sources(self, rows: Iterable[tuple[dict[str, Any], bool]], table: str) -> list[dict[str, Any]]:
        """The good ones, whose `from` must be networks."""
        found = []
        for row, good in rows:
            sources = row.pop("from")
            here = f"{table} {row.get('label') or row.get('name')}"
            if sources == []:
                self.bad("snmp", f"{here} from: name at least one network")
            for source in sources or ():
                try:
                    network(source)
                except ConfigError as e:
                    self.bad("snmp", f"{here} from: {e}")
            if good:
                found.append({**row, "sources": tuple(sources)})
        return found

    def listen(self, section: str, value: str) -> None:
        try:
            split_address(value)
        except ConfigError as e:
            self.bad(section, f"[{section}] listen: {e}")


def _wrong_receiver(row: Mapping[str, Any], users: Container[str]) -> str:
    """What is wrong with a receiver of notifications, or ""."""
    try:
        ipaddress.ip_address(row["address"])
    except ValueError:
        return f'address = "{row["address"]}" is not an IP address'
    if problem := wrong_host(row["address"]):
        return f'address = "{row["address"]}": {problem}'
    if row["version"] == "3":
        return "" if row["user"] in users else f'user = "{row["user"]}": there is no such [[snmp.user]]'
    if row["inform"] and row["version"] == "1":
        return 'inform: version 1 has none; write version = "2c"'
    return "" if row["label"] else "label is missing: the name of the community's secret"


def _default_port(way: Way, options: Mapping[str, Any]) -> int:
    by_options = getattr(way, "port", None)
    return way.PORT if by_options is None else int(by_options(options))


def _goes_to(way: Way, server: Server) -> plans.Place:
    """Where the order really goes."""
    elsewhere = getattr(way, "place", None)
    return plans.Place(*elsewhere(server)) if elsewhere else plans.Place(server.address, server.port)


def _plain_mac(text: str) -> str:
    return text.lower().replace("-", ":")


def _one_mac(mac: str) -> bool:
    """Is it the MAC of one machine: no multicast, not zero?"""
    well_formed = re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) is not None
    return well_formed and not int(mac[1], 16) & 1 and mac != NO_MAC


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
        return f"must be one of {', '.join(option.choices)}{nearest(str(value), option.choices)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = -math.inf if option.low is None else option.low
        high = math.inf if option.high is None else option.high
        if not low <= value <= high:
            return f"must be between {low:g} and {high:g}"
    if isinstance(value, str) and (len(value) > 4096 or not value.isprintable()):
        return "must be one line of printable text"
    return ""
