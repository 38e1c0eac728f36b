"""Status cards: what a driver says of the units it reads, how that was shown, and what they can be told."""

from __future__ import annotations

from typing import NamedTuple

from .model import Command


class Card(NamedTuple):
    """One kind of unit. docs/devices.md is made of these (`./run devices`)."""

    group: str  # heading of the table that it stands in
    what: str
    how: str  # it is found, or what must be configured
    state: str  # of reading it: complete | partial | untested
    evidence: str
    commands: frozenset[Command] = frozenset()
    limits: str = ""  # of the commands
