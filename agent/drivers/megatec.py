"""Megatec Q1: reads the many UPSes that answer one question with one line of numbers, and gives them orders.

The engine and the dialects as tables: agent/q1; the USB bridges: agent/bridges.py. How real units differ from the
documents: tests/cases/megatec.json and q1.json (each case with its source). Status card: docs/drivers.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..bridges import BRIDGES, Bridge, Strings, number_of
from ..cards import Card
from ..model import Command, Driver, Link, LinkError, Option
from ..q1.dialects import DIALECTS
from ..q1.find import QUERIES as FIND_QUERIES
from ..q1.find import answers, find
from ..q1.orders import MEGATEC, Orders, example
from ..q1.unit import Unit

NAME, TITLE, LINK, USB_LINK = "megatec", "Megatec / Q1 family", "serial", "bridge"
OPTIONS = (
    Option(
        name="dialect",
        kind=str,
        default="auto",
        choices=("auto", *DIALECTS),
        help="what the unit speaks; auto finds out by asking",
    ),
    Option(
        name="battery_cells",
        kind=int,
        low=3,
        high=240,
        help="2 V cells in series (6 in a 12 V battery), for units that give volts per cell and no correct rating",
    ),
)
QUERIES = (*FIND_QUERIES, b"F\r")  # all that probe may send
#: (USB vendor, product, name of the bridge): its ids; the strings of a device decide between bridges that share them
USB = tuple((vendor, product, bridge.name) for bridge in BRIDGES for vendor, product in bridge.ids)


def probe(link: Link) -> float:
    """How sure it is that a unit of this family is there: 0 no, 0.8 one answers, 1 it also tells its rating."""
    return examine(link)[0]


def examine(link: Link) -> tuple[float, dict[str, str]]:
    """The same, and the options that say what was found."""
    try:
        dialect = find(link)
    except LinkError:
        return 0.0, {}
    rating = [query for query in dialect.once if query.ask == b"F\r"]
    return 1.0 if not rating or answers(link, rating[0]) else 0.8, {"dialect": dialect.name}


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The driver for the unit at the end of `link`. Sends nothing yet. LinkError without a link."""
    if link is None:
        raise LinkError("driver megatec needs a serial line or a USB bridge")
    return Unit(link, now, DIALECTS.get(section.get("dialect", "auto")), section.get("battery_cells"))


def _limits(orders: Orders) -> str:
    low_s, high_s = orders.off_delay_s
    returns = ", back after 3 minutes or more" if any(b"%m" in word for word in orders.words.values()) else ""
    return f"off after {low_s:g} to {high_s:g} s{returns}" if orders.words else ""


def _carried(bridge: Bridge) -> frozenset[Command]:
    """The orders of dialect megatec that fit through a bridge."""

    def fits(command: bytes) -> bool:
        how = bridge.how
        return number_of(how, command[:-1]) is not None if isinstance(how, Strings) else bool(how.frame(command))

    return frozenset(command for command in MEGATEC.commands if fits(example(command, MEGATEC)))


def _bridge_limits(bridge: Bridge) -> str:
    timers = bridge.how.timers
    return f"off after {timers.off_min_s:g} s or more, back {timers.back_s:g} s after the mains" if timers else ""


def _strings(bridge: Bridge) -> str:
    return " ".join(f'"{text}"' for text in (bridge.maker, bridge.product) if text)


CARDS = (
    *(
        Card(
            "Dialects, over a serial line or a bridge",
            f"`{one.name}`",
            "found by asking" if one.auto else f'`dialect = "{one.name}"`',
            one.state,
            one.evidence,
            one.orders.commands,
            _limits(one.orders),
        )
        for one in DIALECTS.values()
    ),
    *(
        Card(
            "USB bridges; the commands are those of dialect megatec that fit through",
            f"`{one.name}` " + ", ".join(f"{vendor:04x}:{product:04x}" for vendor, product in one.ids),
            " ".join(("found by its ids" if one.auto else f'`bridge = "{one.name}"`', _strings(one))).strip(),
            "complete" if one.auto else "untested",
            one.evidence,
            _carried(one),
            _bridge_limits(one),
        )
        for one in BRIDGES
    ),
)
