"""What the slots remember over a restart: the state of protection, who was told, and who is still down. Pure."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from . import protection, wire
from .config import Server
from .outage import Phase, State
from .slots import DATA_LIMIT_BYTES

log = logging.getLogger(__name__)

AWAY_S = 60.0  # nobody was there for so long in an outage
OPEN = (Phase.COUNTDOWN, Phase.HOLD, Phase.COMMITTED, Phase.OFF_ARMED)  # an outage: written every 10 s
GONE_LIMIT_BYTES = 8192  # of servers that must be told though the configuration has them no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Bits:
    """Names of servers in the slots: a bit for each server of the plan, and the plan's checksum.

    With another plan nobody counts: telling one twice is harmless, missing one is not.
    """

    plan: int = 0
    bits: str = "0"

    @classmethod
    def of(cls, servers: Sequence[Server], names: Collection[str]) -> Bits:
        bits = sum(1 << number for number, server in enumerate(servers) if server.name in names)
        return cls(plan=_checksum(servers), bits=f"{bits:x}")

    def names(self, servers: Sequence[Server]) -> frozenset[str]:
        if self.plan != _checksum(servers):
            return frozenset()
        bits = int(self.bits, 16)
        return frozenset(server.name for number, server in enumerate(servers) if bits >> number & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A server of a latched stage that the configuration has no more: it stays to be told, and to be woken."""

    server: Server
    told: bool
    down: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What was in the slots, carried over the restart."""

    state: State = field(default_factory=State)
    told: Bits = Bits()  # in this outage
    down: Bits = Bits()  # went down, and are not back
    gone: tuple[Gone, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The JSON object in a slot."""

    boot: str
    state: State
    told: Bits
    kept_s: float | None = None  # monotonic second of the writing
    down: Bits = Bits()
    gone: tuple[Gone, ...] = ()


def _checksum(servers: Sequence[Server]) -> int:
    return zlib.crc32("\n".join(f"{s.name}|{s.address}|{s.port}" for s in servers).encode())


def unpack(data: bytes | None, boot: str, now_s: float) -> Remembered:
    """What the slots remember, carried over a restart. Nothing, or nonsense: a new beginning."""
    if data is None:
        return Remembered()
    try:
        rows = wire.from_json(_Rows, json.loads(data))
        int(rows.told.bits, 16), int(rows.down.bits, 16)
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as e:
        log.error("the slots hold something else (%s): a new beginning", e)
        return Remembered()
    same_boot = rows.boot == boot
    if rows.state.phase in OPEN and rows.kept_s is not None and now_s - rows.kept_s > AWAY_S:
        same_boot = False  # much may have happened since: it must be seen anew, as after a reboot
    state = protection.resume(rows.state, now_s, same_boot=same_boot)
    if same_boot or state.phase is Phase.PLANNED:
        return Remembered(state=state, told=rows.told, down=rows.down, gone=rows.gone)
    # after a reboot the servers may have come up again: nobody counts as told
    gone = tuple(Gone(server=g.server, told=False, down=g.down) for g in rows.gone)
    return Remembered(state=state, down=rows.down, gone=gone)


def pack(
    boot: str,
    now_s: float,
    state: State,
    servers: Sequence[Server],
    told: Collection[str],
    down: Collection[str],
    gone: Sequence[Server],
) -> bytes:
    """The bytes for the slots. Of `gone` as many as fit; the rest is forgotten with a restart, and said."""
    rows = _Rows(
        boot=boot, kept_s=now_s, state=state, told=Bits.of(servers, told), down=Bits.of(servers, down)
    )  # fmt: skip
    room = min(GONE_LIMIT_BYTES, DATA_LIMIT_BYTES - len(_bytes(rows)))  # with 50 stages of long names there is less
    fit: list[Gone] = []
    for server in gone:
        row = Gone(server=server, told=server.name in told, down=server.name in down)
        size = len(_bytes(row)) + 1  # and a comma
        if size <= room:
            room -= size
            fit.append(row)
    if len(fit) < len(gone):
        log.warning("%d deleted servers would be forgotten with a restart", len(gone) - len(fit))
    return _bytes(replace(rows, gone=tuple(fit)))


def _bytes(value: _Rows | Gone) -> bytes:
    return json.dumps(wire.to_json(value), separators=(",", ":")).encode()
