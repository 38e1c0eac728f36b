"""Megatec Q1: reads the many UPSes that answer one question with one line of numbers, and gives them orders.

The engine and the dialects as tables: agent/q1. How real units differ from the documents: tests/cases/megatec.json
and q1.json (each case with its source). Status card: docs/drivers.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..model import Driver, Link, LinkError, Option
from ..q1.dialects import DIALECTS
from ..q1.find import QUERIES as FIND_QUERIES
from ..q1.find import answers, find
from ..q1.unit import Unit

NAME, TITLE, LINK = "megatec", "Megatec / Q1 family, serial", "serial"
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
        raise LinkError("driver megatec needs a serial line")
    return Unit(link, now, DIALECTS.get(section.get("dialect", "auto")), section.get("battery_cells"))
