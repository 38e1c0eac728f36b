"""What the slots remember over a restart: the state of protection, and who was told. Pure."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from . import outage, protection, wire
from .config import Server

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Who was told, in the slots: a bit for each server of the plan, and the plan's checksum.

    With another plan nobody counts as told: telling one twice is harmless, missing one is not.
    """

    plan: int
    bits: str

    @classmethod
    def of(cls, servers: Sequence[Server], told: frozenset[str]) -> Told:
        bits = sum(1 << number for number, server in enumerate(servers) if server.name in told)
        return cls(plan=_checksum(servers), bits=f"{bits:x}")

    def names(self, servers: Sequence[Server]) -> frozenset[str]:
        if self.plan != _checksum(servers):
            return frozenset()
        bits = int(self.bits, 16)
        return frozenset(server.name for number, server in enumerate(servers) if bits >> number & 1)


def _checksum(servers: Sequence[Server]) -> int:
    return zlib.crc32("\n".join(f"{s.name}|{s.address}|{s.port}" for s in servers).encode())


def unpack(data: bytes | None, boot: str, now_s: float) -> tuple[outage.State, Told | None]:
    """What the slots remember, carried over a restart. Nothing, or nonsense: a new beginning."""
    if data is None:
        return outage.State(), None
    try:
        found = json.loads(data)
        state = wire.from_json(outage.State, found["state"])
        told = wire.from_json(Told, found["told"])
        int(told.bits, 16)
        same_boot = found["boot"] == boot
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as e:
        log.error("the slots hold something else (%s): a new beginning", e)
        return outage.State(), None
    # after a reboot the servers may have come up again: nobody counts as told
    return protection.resume(state, now_s, same_boot=same_boot), told if same_boot else None


def pack(boot: str, state: outage.State, servers: Sequence[Server], told: frozenset[str]) -> bytes:
    """The bytes for the slots."""
    rows = {"boot": boot, "state": wire.to_json(state), "told": wire.to_json(Told.of(servers, told))}
    return json.dumps(rows).encode()
