"""What the delivery is to do, and what it says of each server: the messages between the core's loops."""

from __future__ import annotations

from dataclasses import dataclass

from .config import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the engine wants: whom to tell in which outage, and whether anything may really be sent."""

    outage: str | None = None
    tell: tuple[Server, ...] = ()  # also such as are no longer configured
    told: frozenset[str] = frozenset()  # names of those that were told before a restart
    armed: bool = False
    prove: bool = True  # look from time to time whether the servers can be told
    prove_again: int = 0  # another number: prove all of them now
    wake: tuple[Server, ...] = ()  # wake them until they answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of one server: `state`, `delivery`, `wake` as in ServerView."""

    server: str
    state: str = "unknown"
    delivery: str = "none"
    attempts: int = 0
    heard: bool = False  # the whole order has left for it in this outage, whatever came of it
    detail: str = ""
    outage: str | None = None
    proof: str = ""  # what the last proof said
    proof_s: float | None = None  # monotonic second of the last good one
    failing: bool = False  # the last one was not good
    wake: str = "none"  # none | waking | back | by-hand
    mac: str = ""  # learned
    trust: str = ""  # secure | classic | not-enrolled; "": its way makes no such difference


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A server has been given key and certificate: prove it now, and every 2 s for a minute."""

    server: str


@dataclass(frozen=True, slots=True)
class Errand:
    """A command by hand: tell `server` once, unless it cannot be begun by `until_s`."""

    server: str
    verb: str  # of RCCMD
    argument: str
    until_s: float  # monotonic


@dataclass(frozen=True, slots=True)
class Said:
    """What became of an errand; `word` and `detail` as of a delivery."""

    server: str
    verb: str
    word: str
    detail: str
