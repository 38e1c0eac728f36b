"""Whatever stands in a message of version 3, signed or not, the agent neither fails nor lingers over it.

Three kinds of damage: to the whole message (nobody's signature fits), to what is inside a message that is signed and
encrypted with the right key, and the crafted requests of versions 1 and 2c in the same wrapping.
"""

from __future__ import annotations

import gc
import os
import random
import time
import tracemalloc

import pytest
import test_fuzz_snmp as plain
import test_usm as secured
from snmp_kit import UPS, Net, Reply, arcs, reply, since, three_phase, view

from agent import ber, config, snmp, usm, v3
from agent.ber import Malformed
from agent.model import Condition
from agent.netif import Interfaces
from tests.snmp_damage import CRAFTED, mutated

COUNT = int(os.environ.get("RIDETHROUGH_FUZZ_SNMP", "1000"))  # of each kind; 4000 in `./run fuzz --snmp`
SALTS = usm.Salts()
GOOD_NAMES = ((), ("1.3.6.1.2.1.1.1.0",), ("1.3", f"{UPS}.2.1.0", f"{UPS}.9.10.0", "2.39.4294967295"))


def scoped(tag: int, names: tuple[str, ...], second: int) -> bytes:
    prefix = ber.tlv(ber.OCTET_STRING, secured.ENGINE_ID) + ber.tlv(ber.OCTET_STRING, b"")
    bindings = b"".join(ber.binding(ber.oid(arcs(name)), b"\x05\x00") for name in names)
    return ber.message(prefix, tag, ber.integer(77), 0, second, bindings)


GOOD = [
    scoped(tag, names, second)
    for tag, second in ((ber.GET, 0), (ber.GETNEXT, 0), (ber.GETBULK, 25), (ber.SET, 0))
    for names in GOOD_NAMES
]
LEVELS = (usm.AUTH_PRIV, usm.AUTH, usm.NO_AUTH)


def wrapped(inside: bytes, level: int = usm.AUTH_PRIV) -> bytes:
    who = secured.OPS
    return v3.seal(4711, level | v3.REPORTABLE, secured.ENGINE_ID, 7, 500, who, b"ops", inside, SALTS)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> snmp.Agent:
    shown = view(three_phase(), *(since(c) for c in list(Condition)[:24]))
    ops = secured.replace(secured.OPS, level=usm.AUTH)
    settings = config.Snmp(users=(config.User(name="ops", sources=("127.0.0.0/8",)),))
    made = snmp.Agent(
        settings, {}, lambda: shown, 1000.0, host="h", responder=v3.Responder(secured.ENGINE, {"ops": ops}),
        interfaces=Interfaces(str(Net(tmp_path_factory.mktemp("net")).folder)), clock=lambda: secured.NOW_S,
    )  # fmt: skip
    made.answer(wrapped(GOOD[1]), "127.0.0.1")  # reads the folder, imports what encrypts
    return made


def survives(agent: snmp.Agent, data: bytes) -> bytes | None:
    agent.gate._paid_s = 0.0  # the rate limit shall not hide anything
    for sender in agent.gate._senders.values():
        sender.paid_s = 0.0
    begun_s = time.process_time()
    answered = agent.answer(data, "127.0.0.1")
    took_s = time.process_time() - begun_s
    assert answered is None or len(answered) <= 1472
    assert took_s < plain.LIMIT_S, f"{took_s * 1000:.0f} ms for {data[:60].hex()} ({len(data)} octets)"
    return answered


@pytest.fixture(autouse=True)
def the_next_good_request_is_answered(agent: snmp.Agent):
    gc.disable()
    yield
    gc.enable()
    assert opened(survives(agent, wrapped(scoped(ber.GET, (f"{UPS}.1.5.0",), 0)))).bindings[0][2] == b"rack-3"


def opened(data: bytes | None) -> Reply:
    assert data is not None
    pdu = v3.read_scoped(v3.opened(data, v3.read(data), secured.OPS))[3]
    bare = ber.integer(ber.V2C) + ber.tlv(ber.OCTET_STRING, b"")
    return reply(ber.message(bare, pdu.tag, pdu.request_id, pdu.first, pdu.second, pdu.bindings))


def test_mutated_messages_are_survived_and_none_is_believed(agent: snmp.Agent) -> None:
    chance = random.Random(3414)
    good = [wrapped(inside, level) for inside in GOOD for level in LEVELS[:2]]
    for _ in range(COUNT):
        origin = chance.choice(good)
        data = mutated(chance, origin)
        answered = survives(agent, data)
        if answered is not None and data[: len(origin)] != origin:
            tag = v3.read(answered)
            assert tag.level == usm.NO_AUTH, "signed answers are for signed requests"
            assert v3.read_scoped(tag.scoped)[3].tag in (ber.REPORT, ber.RESPONSE)


def test_mutated_requests_in_good_messages_are_survived(agent: snmp.Agent) -> None:
    chance = random.Random(3415)
    for _ in range(COUNT):
        survives(agent, wrapped(mutated(chance, chance.choice(GOOD)), chance.choice(LEVELS)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_requests_are_survived_in_version_3(agent: snmp.Agent, name: str, level: int) -> None:
    data = CRAFTED[name]
    try:
        pdu = data[ber.read_header(data).pdu_at :]
    except Malformed:
        survives(agent, wrapped(data[:60000], level))
        return
    context = ber.tlv(ber.OCTET_STRING, secured.ENGINE_ID) + ber.tlv(ber.OCTET_STRING, b"")
    survives(agent, wrapped(ber.tlv(ber.SEQUENCE, context + pdu), level))


def test_memory_stays_flat(agent: snmp.Agent) -> None:
    chance = random.Random(3416)
    good = [wrapped(inside) for inside in GOOD]
    mutants = [mutated(chance, chance.choice(good)) for _ in range(300)]
    tracemalloc.start()
    try:
        for _ in range(2):
            before = tracemalloc.get_traced_memory()[0]
            for data in mutants:
                survives(agent, data)
            gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 50_000
    finally:
        tracemalloc.stop()
