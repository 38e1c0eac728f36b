"""Damaged SNMP messages to our agent and to net-snmp's: what they cost either, and what the worst costs ours.

4000 seeded mutations and the crafted datagrams, as versions 1 and 2c, and as version 3: damaged as a whole, and
inside good signatures and encryption. Exit code 1: a limit is missed, or the agent has ended or written a traceback.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile

from agent import ber
from agent.ber import Malformed
from tests.snmp_damage import CRAFTED, mutated

from . import agents
from .agents import Server, request
from .gate import gate

MUTATIONS = 4000
SEED = 1628
BATCH = 20  # so many datagrams fit a receive buffer; then one GET shows that all have been read
SHORT_BYTES = 2000  # a longer one goes alone
CPU_LIMIT = 2.0  # snmpd's
DATAGRAM_LIMIT_MS = 50.0
GROWTH_LIMIT_KB = 1024
TAGS = ((ber.GET, 0), (ber.GETNEXT, 0), (ber.GETBULK, 25), (ber.SET, 0))
NAMES: tuple[tuple[ber.Oid, ...], ...] = (
    (), ((1, 3, 6, 1, 2, 1, 1, 1, 0),), ((1, 3), (1, 3, 6, 1, 2, 1, 33, 1, 2, 1, 0), (2, 39, 4294967295)),
)  # fmt: skip


def communities(_: Server) -> list[bytes]:
    """Versions 1 and 2c."""
    chance = random.Random(SEED)
    good = [
        request(tag, *names, repetitions=second, version=version)
        for version in (ber.V1, ber.V2C) for tag, second in TAGS for names in NAMES
    ]  # fmt: skip
    return [mutated(chance, chance.choice(good)) for _ in range(MUTATIONS)] + list(CRAFTED.values())


def whole(server: Server) -> list[bytes]:
    """Version 3, damaged as a whole: what an attacker without a key can send."""
    chance = random.Random(SEED)
    good = server.sealed()
    return [mutated(chance, chance.choice(good)) for _ in range(MUTATIONS)]


def inside(server: Server) -> list[bytes]:
    """Version 3, signed and encrypted, with something damaged or crafted inside."""
    chance = random.Random(SEED)

    def insides(engine: bytes) -> list[bytes]:
        good = [agents.scoped(engine, oid) for oid in agents.rows()]
        damaged = [mutated(chance, chance.choice(good)) for _ in range(MUTATIONS)]
        return damaged + [_wrapped(engine, data) for data in CRAFTED.values()]

    return server.sealed(insides)


def _wrapped(engine: bytes, data: bytes) -> bytes:
    """A crafted request's PDU as a scoped one; what has none as it is."""
    data = data[:60000]
    try:
        pdu = data[ber.read_header(data).pdu_at :]
    except Malformed:
        return data
    return ber.tlv(ber.SEQUENCE, ber.tlv(ber.OCTET_STRING, engine) + ber.tlv(ber.OCTET_STRING, b"") + pdu)


class Flood:
    """Sends datagrams to one server and knows when they have been read."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._asked = 0

    def settled(self) -> None:
        """Wait until a GET is answered that came behind all else. TimeoutError: nobody answers."""
        self._asked += 1
        number = ber.integer(0x40000000 + self._asked)
        self.server.sock.send(request(ber.GET, agents.SYS_UP_TIME, number=number))
        while number not in self.server.sock.recv(65535):
            pass

    def cost_us(self, datagrams: list[bytes], batch: int = BATCH) -> float:
        """CPU microseconds for all of them."""
        begun_us = self.server.cpu_us()
        open_ = 0
        for data in datagrams:
            self.server.sock.send(data)
            open_ += 1
            if open_ >= batch or len(data) > SHORT_BYTES:
                self.settled()
                open_ = 0
        self.settled()
        return self.server.cpu_us() - begun_us


def main(_: list[str]) -> int:
    if not shutil.which("snmpd", path=agents.PATH):
        print("bench damaged: not run, the Debian package snmpd is missing")
        return 3
    good = True
    with (
        tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said,
        agents.ours("ridethrough", "--unlimited", said=said) as ours, agents.theirs(folder) as theirs,
    ):  # fmt: skip
        print(f"   {MUTATIONS} mutations of each kind, seed {SEED}, and {len(CRAFTED)} crafted datagrams")
        mine, other = Flood(ours), Flood(theirs)
        grown_kb = 0
        for name, made in (("1 and 2c", communities), ("3, damaged", whole), ("3, damaged inside", inside)):
            mine.cost_us(made(ours))  # the first time what grows once has grown: counters, remembered questions
            before_kb = ours.rss_kb()
            cost, their_cost = mine.cost_us(made(ours)), other.cost_us(made(theirs))
            print(f"   version {name}: CPU {cost / 1000:.0f} ms, snmpd {their_cost / 1000:.0f} ms")
            good &= gate("of snmpd's CPU", cost / their_cost, CPU_LIMIT, "times")
            worst_us = max(mine.cost_us([data], 1) for data in made(ours))
            good &= gate("the worst datagram", worst_us / 1000, DATAGRAM_LIMIT_MS, "ms of CPU")
            grown_kb += ours.rss_kb() - before_kb
        good &= gate("memory grown", grown_kb, GROWTH_LIMIT_KB, "kB")
        said.seek(0)
        log = said.read().decode(errors="replace")
        print(f"   the agent has written {len(log.splitlines())} lines")
        if "Traceback" in log:
            print(log)
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
