"""Puts the SNMP agent together: its users, what may be set, and who is told by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import addresses, ber, bus, config, engineid, netif, notify, receiver, settexts, snmp, upsset, v3
from .config import Config
from .mib import Engine
from .model import Command, ConfigError

log = logging.getLogger(__name__)

ORDER_S = 2.0  # that a manager who sets something waits for the core; what it has not begun by then is not done
AUDIT_S = 0.5
BIND_AGAIN_S = 5.0  # until an address that could not be had is tried again
VERSIONS = {"1": ber.V1, "2c": ber.V2C, "3": ber.V3}


@dataclass(frozen=True, slots=True)
class Face:
    """What has to run, each in a thread of its own."""

    agent: snmp.Agent
    notifier: notify.Notifier | None
    listens: bool = True  # else nobody may ask, and there is a notifier
    bound: bool = True

    def answer(self, stop: threading.Event, again_s: float = BIND_AGAIN_S) -> None:
        """Until `stop` is set; an address that could not be had is tried again."""
        bound = self.bound
        while not bound:
            if stop.wait(again_s):
                return
            bound = not _bind(self.agent)
        self.agent.run(stop)


def _bind(agent: snmp.Agent) -> str:
    """Take the address. Why that cannot be, or ""."""
    try:
        agent.bind()
    except ConfigError as e:
        return str(e)
    log.info("snmp listens on %s port %d", *agent.address)
    return ""


def start(settings: Config, secrets: Mapping[str, str], client: bus.Client) -> Face:
    """Take the address, if anybody may ask, and only then count this start. ConfigError if it cannot listen and there
    are no receivers, or if nobody may ask and nobody can be told."""
    wanted, now_s = settings.snmp or config.Snmp(), time.monotonic()
    folder = Path(settings.state_dir) / "faces" / "snmp"
    rows, off = _keys(wanted, folder)
    writer, interfaces = _writer(wanted, folder, client), netif.Interfaces()
    agent = snmp.Agent(wanted, secrets, client.view, now_s, keys=rows, writer=writer, interfaces=interfaces)
    why = _bind(agent) if wanted.communities or wanted.users else ""
    if why and not wanted.receivers:
        raise ConfigError(why)
    listens = bool(agent.gate)
    responder = _responder(wanted, folder, rows, off, now_s)
    agent.responder = responder
    receivers, problems = _receivers(wanted, secrets, rows, off, responder, agent, interfaces)
    if not listens and not receivers:
        raise ConfigError("; ".join(filter(None, (why, *problems))) or "[snmp]: nobody may ask and nobody is told")
    for problem in problems:
        log.error("snmp: %s", problem)
    if why:
        log.error("snmp: %s%s", why, " (tried again)" if listens else "")
    if not receivers:
        return Face(agent, None, listens, not why)
    notifier = notify.Notifier(agent.look, agent.last_row, client.ask, receivers, folder)
    if wanted.auth_traps:
        agent.on_refused = notifier.refused
        if responder is not None:
            responder.on_refused = notifier.refused
    return Face(agent, notifier, listens, not why)


#: what a manager gets whose order did not reach the core, or of which nobody knows more (RFC 3416 section 4.2.5);
#: what the core itself refuses is about the value at this moment
_ERRORS = {bus.Unreachable: upsset.RESOURCE_UNAVAILABLE, bus.Unanswered: upsset.GEN_ERR}


def _writer(wanted: config.Snmp, folder: Path, client: bus.Client) -> upsset.Writer:
    """Does what managers set: orders go over the bus, texts to a file."""

    def origin(who: str, host: str) -> dict[str, str]:  # where IPv6 is served too, IPv4 comes as ::ffff:192.0.2.1
        return {"user": f"snmp {who}", "address": addresses.normal(host)}

    def order(command: Command, args: Mapping[str, object], who: str, host: str) -> None:
        try:
            client.ask(
                {
                    "type": "command", "command": command.value, "args": dict(args), "origin": origin(who, host),
                    "until_s": time.monotonic() + ORDER_S,
                },
                ORDER_S,
            )  # fmt: skip
        except bus.BusError as e:
            log.warning("snmp: %s for %s: %s", command.value, who, e)
            raise upsset.Refused(str(e), _ERRORS.get(type(e), upsset.INCONSISTENT_VALUE)) from e

    def audit(what: str, who: str, host: str, why: str) -> None:
        try:
            client.ask({"type": "audit", "what": what, "why": why, "origin": origin(who, host)}, AUDIT_S)
        except bus.BusError as e:
            done = f"was refused {what} ({why})" if why else f"has set {what}"
            log.warning("snmp: %s %s; the core does not keep that: %s", who, done, e)

    return upsset.Writer(
        settexts.read(folder), lambda texts: settexts.write(folder, texts), order, audit,
        allow_shutdown=wanted.allow_shutdown,
    )  # fmt: skip


# --- version 3: what cannot be had is said, and the rest works ---------------------------------------------------


def _keys(wanted: config.Snmp, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The keys of those who have some, and why the others are off, both by user."""
    try:
        rows = engineid.keys(folder) if wanted.users else {}
    except ConfigError as e:
        log.error("snmp: version 3 is off: %s", e)
        return {}, {user.name: f"version 3 is off: {e}" for user in wanted.users}
    names = [user.name for user in wanted.users]
    off = {
        name: f"user {name} has no keys yet; give him some with: ridethrough snmp-user {name}"
        for name in names
        if name not in rows
    }
    for why in off.values():
        log.warning("snmp: %s", why)
    return {name: row for name, row in rows.items() if name in names}, off


def _responder(
    wanted: config.Snmp, folder: Path, rows: Mapping[str, Mapping[str, Any]], off: dict[str, str], now_s: float
) -> v3.Responder | None:
    """Who answers those who have keys; why somebody is off goes into `off`."""
    if not rows:
        return None
    try:
        found, boots = engineid.started(folder)
    except ConfigError as e:
        log.error("snmp: version 3 is off: %s", e)
        off.update((name, f"version 3 is off: {e}") for name in rows)
        return None
    users = {}
    for user in wanted.users:
        if user.name not in rows:
            continue
        try:
            users[user.name] = engineid.user(
                user.name, user.level, user.access == "read-write", rows[user.name], found, wanted.allow_weak
            )
        except ConfigError as e:
            log.error("snmp: %s", e)
            off[user.name] = str(e)
    return v3.Responder(Engine(found, boots, now_s), users) if users else None


# --- who is told -------------------------------------------------------------------------------------------------


def _receivers(
    wanted: config.Snmp,
    secrets: Mapping[str, str],
    rows: Mapping[str, Mapping[str, Any]],
    off: Mapping[str, str],
    responder: v3.Responder | None,
    agent: snmp.Agent,
    interfaces: netif.Interfaces,
) -> tuple[list[receiver.Receiver], list[str]]:
    """Who is told, and why somebody is not."""
    found, problems = [], []
    for one in wanted.receivers:
        version = VERSIONS[one.version]
        user = responder.user(one.user) if responder else None
        try:
            if version != ber.V3 and not secrets.get(one.label):
                raise ConfigError(f"has no secret; give it one with: ridethrough secret set {one.label}")
            if version == ber.V3 and (user is None or responder is None):
                raise ConfigError(off.get(one.user, f"there is no user {one.user}"))
            other = (
                engineid.for_engine(user, rows[user.name])
                if one.inform and user is not None and version == ber.V3
                else None
            )
        except ConfigError as e:
            problems.append(f"receiver {one.name} is off: {e}")
            continue
        found.append(
            receiver.Receiver(
                (one.address, one.port), version, name=one.name,
                community=secrets.get(one.label, "").encode(), inform=one.inform,
                user=user, engine=responder.engine if responder else None, for_engine=other, sent=agent.sent_notice,
                leaves=partial(interfaces.leads_to, one.address),
            )
        )  # fmt: skip
    return found, problems
