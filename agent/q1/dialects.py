"""The dialects of the Q1 family as tables: who asks what, what the answers mean, what the unit can be told.

The wire formats are drawn above their forms; columns count from 0. Sources: the protocol documents under
https://networkupstools.org/protocols/ (megatec, voltronic, voltronic-qs) and NUT's nutdrv_qx.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import orders
from .form import Facts, form, identity
from .orders import Orders


class Query(NamedTuple):
    """A question and the reader of its answer. `only`: for units that gave one of these protocol numbers."""

    ask: bytes
    parse: Callable[[bytes], Facts]
    only: frozenset[str] = frozenset()


class Dialect(NamedTuple):
    """`poll`: asked each time, the first must be answered; `once`: asked after connecting."""

    name: str
    title: str
    poll: tuple[Query, ...]
    once: tuple[Query, ...]
    orders: Orders


_Q1_FLAGS = "utility_fail|battery_low|regulating|failed|line_interactive|testing|shutdown_active|beeper_on"
_Q1_COLUMNS = ((1, 6), (7, 12), (13, 18), (19, 22), (23, 27), (28, 32), (33, 37), (38, 46))

#     0      7     13    19  23   28   33   38
#     (MMM.M NNN.N PPP.P QQQ RR.R SS.S TT.T bbbbbbbb
#      |     |     |     |   |    |    °C   utility fail, battery low, bypass/boost/buck, UPS failed,
#      |     |     |     |   |    |         line-interactive, test, shutdown active, beeper on
#      |     |     |     |   |    battery V: of all cells (SS.S) or of one (S.SS)
#      |     |     |     |   input Hz
#      |     |     output V, load %
#      input V, input V of the last fault (equals the input V when there was none)
Q1 = form(
    "Q1",
    b"(",
    f"input_v fault_v output_v load_pct frequency_hz battery_v +temperature_c {_Q1_FLAGS}",
    columns=_Q1_COLUMNS,
    nul_is_0=True,
)
#     #MMM.M QQQ SS.SS RR.R      V, A, battery V, Hz
F = form("F", b"#", "rated_v rated_a rated_battery_v rated_hz")

MEGATEC = Dialect(
    "megatec",
    "Megatec Q1",
    (Query(b"Q1\r", Q1.parse),),
    (Query(b"F\r", F.parse), Query(b"I\r", identity)),
    orders.MEGATEC,
)
DIALECTS = {dialect.name: dialect for dialect in (MEGATEC,)}
