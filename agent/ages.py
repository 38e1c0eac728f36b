"""How old the values of a look at a UPS are: some are asked for seldom, and that shall be known. Pure.

A place is a field of a Status as the API names it: `outputs[0].load_pct`, `beeper_on`. Where values are asked for
together, one place stands for all: `ident`, `rating`, `outlets`, `flags`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .model import Status

NOTED_S = 5.0  # a value that is older than its frame by less is as good as new
MEASURED_LIMIT_S = 90.0  # a measurement that is older is none: neither SNMP nor a NUT client is told of ages

_MEASURED = re.compile(r"(?:(inputs|outputs|bypass|sensors)\[(\d+)\]\.|(battery)\.)?(\w+)")


def older(said: Iterable[tuple[str, float]], taken_s: float) -> dict[str, float]:
    """Status.older: the places that are noticeably older than the frame of `taken_s`, with by how many seconds.
    `said`: places, and the second at which each was said; of several for one place the oldest counts."""
    found: dict[str, float] = {}
    for place, said_s in said:
        age_s = round(taken_s - said_s, 1)
        if age_s >= max(NOTED_S, found.get(place, NOTED_S)):
            found[place] = age_s
    return dict(sorted(found.items()))


def without_old(status: Status) -> Status:
    """The status with None for what was measured longer ago than MEASURED_LIMIT_S, whatever the driver's own limits.
    What the unit is and what is set (`ident`, `rating`, `outlets`, `beeper_on`, `test`, `flags`) is not measured."""
    for place, age_s in status.older.items():
        match = _MEASURED.fullmatch(place)
        if age_s <= MEASURED_LIMIT_S or match is None:
            continue
        rows, number, battery, name = match.groups()
        gone: dict[str, Any] = {name: None}
        if rows:
            found = list(getattr(status, rows))
            found[int(number) : int(number) + 1] = [
                replace(it, **gone) for it in found[int(number) : int(number) + 1]
            ]
            gone = {rows: tuple(found)}
        elif battery:
            gone = {"battery": replace(status.battery, **gone, estimated=status.battery.estimated - {name})}
        elif name != "temperature_c":
            continue
        status = replace(status, **gone)
    return status
