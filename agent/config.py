"""What `ridethrough.toml` says, typed and checked; every mistake names its place and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A `[[server]]`: whom to tell, how, and how long it takes to go down."""

    name: str
    address: str
    port: int = 6003
    how: str = "rccmd"
    needs_s: float = 120.0
    stage: str = "default"


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
    state_dir: str = ""
    run_dir: str = ""
    mode: str = "dry-run"
    driver: str = "simulator"
    poll_s: float = 1.0
    ups: Mapping[str, Any] = field(default_factory=dict)  # the driver's and its link's options, typed
    servers: tuple[Server, ...] = ()
    stages: tuple[Stage, ...] = ()
    web: Web | None = None
    snmp: Snmp | None = None
