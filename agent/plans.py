"""What is wrong with a plan as a whole: who would be told, where, and whether the battery can last. Pure."""

from __future__ import annotations

from .addresses import is_loopback
from .config import Config, Problem

MARGIN_S = 30.0  # as protection keeps it (agent/outage.py)


def mistakes(config: Config, own_addresses: frozenset[str]) -> list[Problem]:
    """Everything that makes the plan a bad one, each with place and remedy."""
    found = [
        Problem("server", text) for text in (*_places(config, own_addresses), *_local(config), *_battery(config))
    ]
    if config.driver == "simulator" and config.mode == "armed":
        found += _simulator_away(config)
    if config.mode == "armed" and not config.servers:
        found.append(
            Problem("agent", '[agent] mode = "armed": there is no [[server]] to protect; add one, or use "dry-run"')
        )
    return found


def _places(config: Config, own_addresses: frozenset[str]) -> list[str]:
    """Servers that are told at the same place, or at our own."""
    texts, seen = [], dict[tuple[str, int], str]()
    for server in config.servers:
        if not server.address:
            continue
        here = f"[[server]] {server.name}"
        twin = seen.setdefault((server.address.lower(), server.port), server.name)
        if twin != server.name:
            texts.append(f"{here}: same address and port as {twin}; remove one of them")
        if server.how != "local" and server.address.lower() in own_addresses:
            texts.append(
                f'{here} address = "{server.address}": an address of this machine itself; use how = "local", '
                "which goes down last"
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
    """Servers that need longer than the battery lasts, where that is configured."""
    if config.full_load_minutes is None:
        return []
    lasts_s = config.full_load_minutes * 60
    return [
        f"[[server]] {s.name} needs_s = {s.needs_s:g}: with a margin of {MARGIN_S:g} s longer than the full battery "
        f"({lasts_s:g} s by [ups] full_load_minutes)"
        for s in config.servers
        if s.needs_s + MARGIN_S > lasts_s
    ]


def _simulator_away(config: Config) -> list[Problem]:
    """The simulated UPS may be armed only against this machine itself."""
    away = [s.name for s in config.servers if s.address and not is_loopback(s.address)]
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
    return tuple(texts)
