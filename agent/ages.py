"""How old the values of a look at a UPS are: some are asked for seldom, and that shall be known. Pure.

A place is a field of a Status as the API names it: `outputs[0].load_pct`, `beeper_on`. Where values are asked for
together, one place stands for all: `ident`, `rating`, `outlets`, `flags`.
"""

from __future__ import annotations

from collections.abc import Iterable

NOTED_S = 5.0  # a value that is older than its frame by less is as good as new


def older(said: Iterable[tuple[str, float]], taken_s: float) -> dict[str, float]:
    """Status.older: the places that are noticeably older than the frame of `taken_s`, with by how many seconds.
    `said`: places, and the second at which each was said; of several for one place the oldest counts."""
    found: dict[str, float] = {}
    for place, said_s in said:
        age_s = round(taken_s - said_s, 1)
        if age_s >= max(NOTED_S, found.get(place, NOTED_S)):
            found[place] = age_s
    return dict(sorted(found.items()))
