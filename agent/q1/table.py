"""The rows of the tables in which the dialects of the Q1 family are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .form import Facts
from .orders import Orders


class Query(NamedTuple):
    """A question and the reader of its answer. `only`: for units that gave one of these protocol numbers; then it
    knows better than the questions for all."""

    ask: bytes
    parse: Callable[[bytes], Facts]
    only: frozenset[str] = frozenset()


class Dialect(NamedTuple):
    """`poll`: asked each time; the first must be answered, and where two say the same, the first counts (see `only`).
    `once`: asked after connecting. `derive`: what follows from the facts together. `doubt`: whether an answer counts
    only if it is given again, by the facts so far and those of the answer. The columns of the status card in
    docs/drivers.md: `evidence`, `auto` (whether the engine finds it by itself), `state` of reading it."""

    name: str
    poll: tuple[Query, ...]
    once: tuple[Query, ...]
    orders: Orders
    evidence: str
    auto: bool = True
    derive: Callable[[Facts], Facts] = lambda facts: facts
    doubt: Callable[[Facts, Facts], bool] = lambda facts, more: False
    state: str = "complete"  # complete | partial | untested
