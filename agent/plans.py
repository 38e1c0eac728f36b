"""What is wrong with a plan as a whole: who would be told, where, and whether the battery can last. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .addresses import is_loopback, normal
from .config import Community, Config, Problem, Server, Snmp, User

MARGIN_S = 30.0  # as protection keeps it (agent/outage.py)


class Place(NamedTuple):
    """Where the order of a server really goes. `what`: of a place that several servers share, the own part of it."""

    host: str
    port: int
    what: str = ""


def mistakes(config: Config, own_addresses: frozenset[str], place: Callable[[Server], Place]) -> list[Problem]:
    """Everything that makes the plan a bad one, each with place and remedy. `own_addresses`: of this machine,
    loopback aside; `place`: where the order of a server really goes."""
    places = {server.name: place(server) for server in config.servers}
    texts = (*_places(config, own_addresses, places), *_local(config), *_battery(config))
    found = [Problem("server", text) for text in texts]
    if config.driver == "simulator" and config.mode == "armed":
        found += _simulator_away(config, places)
    if config.mode == "armed" and not config.servers:
        found.append(
            Problem("agent", '[agent] mode = "armed": there is no [[server]] to protect; add one, or use "dry-run"')
        )
    return found


def _places(config: Config, own_addresses: frozenset[str], places: dict[str, Place]) -> list[str]:
    """Servers that are told at the same place, or at our own."""
    texts, seen = [], dict[tuple[str, int], list[tuple[str, str]]]()
    own = {normal(address) for address in own_addresses}
    for server in config.servers:
        host, port, what = places[server.name]
        if not host:
            continue
        here = f"[[server]] {server.name}"
        others = seen.setdefault((normal(host), port), [])
        twin = next((name for name, theirs in others if what == theirs or not (what and theirs)), None)
        others.append((server.name, what))
        if twin is not None:
            texts.append(f"{here}: same address and port as {twin}; remove one of them")
        if server.how != "local" and own & {normal(host), normal(server.address)}:
            option = f'address = "{server.address}"' if normal(server.address) in own else f"url: goes to {host}"
            texts.append(
                f'{here} {option}: an address of this machine itself; use how = "local", which goes down last'
            )
    return texts


def _local(config: Config) -> list[str]:
    """This host goes down last, once."""
    local = [s for s in config.servers if s.how == "local"]
    texts = [f'[[server]] {s.name} how = "local": there is one already, {local[0].name}' for s in local[1:]]
    for server in local[:1]:
        if config.stages and server.stage != config.stages[-1].name:
            texts.append(
                f'[[server]] {server.name} how = "local": this host goes down last: '
                f'use stage = "{config.stages[-1].name}"'
            )
    return texts


def _battery(config: Config) -> list[str]:
    """Servers that need longer than the battery lasts, where that is configured: by themselves, or this host after
    the slowest of the others."""
    if config.full_load_minutes is None:
        return []
    lasts_s = config.full_load_minutes * 60
    full = f"with a margin of {MARGIN_S:g} s longer than the full battery ({lasts_s:g} s by [ups] full_load_minutes)"
    told = [s for s in config.servers if s.how != "wake"]
    texts = [f"[[server]] {s.name} needs_s = {s.needs_s:g}: {full}" for s in told if s.needs_s + MARGIN_S > lasts_s]
    local = next((s for s in told if s.how == "local"), None)
    slowest = max((s for s in told if s.how != "local"), key=lambda s: s.needs_s, default=None)
    if not texts and local and slowest and slowest.needs_s + local.needs_s + MARGIN_S > lasts_s:
        texts.append(
            f"[[server]] {local.name} needs_s = {local.needs_s:g}: goes down after {slowest.name}, which needs "
            f"{slowest.needs_s:g} s: {full}"
        )
    return texts


def _simulator_away(config: Config, places: dict[str, Place]) -> list[Problem]:
    """The simulated UPS may be armed only against this machine itself."""
    hosts = {s.name: {s.address, places[s.name].host} - {""} for s in config.servers}
    away = [name for name, where in hosts.items() if not all(is_loopback(host) for host in where)]
    if not away:
        return []
    text = (
        f'[agent] mode = "armed": the simulated UPS may only tell servers on loopback, not {", ".join(away)}; '
        'use mode = "dry-run" or a real driver'
    )
    return [Problem("server", text)]


def hints(config: Config) -> tuple[str, ...]:
    """What is no mistake, but probably not meant."""
    texts = []
    if config.servers and all(s.how == "wake" for s in config.servers):
        texts.append('[[server]]: every one is only woken (how = "wake"); nobody would be told to go down')
    used = {s.stage for s in config.servers}
    texts += [f"[[stage]] {s.name}: no server belongs to it" for s in config.stages if s.name not in used]
    timed = [s for s in config.stages if s.on_battery_s is not None]
    for before, after in zip(timed, timed[1:], strict=False):
        if (after.on_battery_s or 0) < (before.on_battery_s or 0):
            texts.append(
                f"[[stage]] {after.name}: due before {before.name}, which stands before it and is taken along then"
            )
    if config.ignore_low_battery and not config.full_load_minutes:
        texts.append(
            "[ups] ignore_low_battery: if this UPS says no runtime either, only 60 s of silence are an emergency; "
            "set full_load_minutes"
        )
    if config.driver == "contact" and config.poll_s > 1 and config.ups.get("sense") in (None, "", "none"):
        texts.append(
            f"[ups] poll_s = {config.poll_s:g}: a battery that is low before the next look at the contacts is taken "
            "for a missing cable, and a cable that is being pulled more easily for an outage; set poll_s = 1, or "
            "sense to a line (docs/drivers-contact.md)"
        )
    return (*texts, *_far_switches(config.snmp or Snmp()))


def _far_switches(snmp: Snmp) -> list[str]:
    """Who may cut the power from every address there is."""
    rows: list[tuple[str, Community | User]] = [(f"[[snmp.community]] {c.label}", c) for c in snmp.communities]
    rows += [(f"[[snmp.user]] {u.name}", u) for u in snmp.users]
    return [
        f"{whose}: may switch the output off (allow_shutdown), and from = {source} is every address there is"
        for whose, row in rows
        for source in row.sources
        if snmp.allow_shutdown and row.access == "read-write" and source.endswith("/0")
    ]
