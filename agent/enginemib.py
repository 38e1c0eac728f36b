"""SNMP version 3 as managers see it: who this engine is, and how many messages it refused, and why.

Sources: RFC 3411 (snmpEngine), RFC 3412 (snmpMPDStats), RFC 3413 (snmpUnknownContexts), RFC 3414 (usmStats). Without
version 3 there are none of these rows.
"""

from __future__ import annotations

from collections.abc import Callable

from .ber import COUNTER32, INTEGER, OCTET_STRING, Oid
from .mib import INT_MAX, UINT_MAX, Look, Object, Row, Value, row
from .v3 import REPORTS, SIZE_LEAST, SIZE_LIMIT

ENGINE: Oid = (1, 3, 6, 1, 6, 3, 10, 2, 1)


def _count(name: str) -> Callable[[Look], Value]:
    return lambda look: look.refused.get(name)


OBJECTS = (
    Object((*ENGINE, 1), "snmpEngineID", OCTET_STRING, 5, 32, lambda look: look.engine and look.engine.id),
    Object((*ENGINE, 2), "snmpEngineBoots", INTEGER, 1, INT_MAX, lambda look: look.engine and look.engine.boots),
    Object(
        (*ENGINE, 3), "snmpEngineTime", INTEGER, 0, INT_MAX,
        lambda look: look.engine and look.engine.time_s(look.now_s),
    ),
    Object(
        (*ENGINE, 4), "snmpEngineMaxMessageSize", INTEGER, SIZE_LEAST, INT_MAX,
        lambda look: look.engine and SIZE_LIMIT,
    ),
    *(Object(oid, name, COUNTER32, 0, UINT_MAX, _count(name)) for name, oid in REPORTS.items()),
)  # fmt: skip


def rows(look: Look) -> list[Row]:
    """All rows of these groups; none without an engine."""
    return [row(o, 0, o.read) for o in OBJECTS] if look.engine else []
