"""Damaged SETs of who may write: the UPS is ordered nothing but what a whole SET says, and the agent survives all.

What a datagram says is judged by pyasn1, which shares no code with the agent; the orders go to the pretend UPS
through its driver, as they would over the bus.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import test_fuzz_snmp as plain
import test_fuzz_usm as secured
import test_usm
from pyasn1.codec.ber import decoder
from pyasn1.error import PyAsn1Error
from pyasn1.type import tag, univ
from pyasn1.type.namedtype import NamedType, NamedTypes
from snmp_kit import COMMUNITY, UPS, Net, arcs, reply, request, since, view

from agent import ber, config, mib, snmp, usm, v3
from agent.drivers.simulator import Simulator, status
from agent.model import Command, OrderError
from agent.netif import Interfaces
from agent.pretend import Scene, Unit
from agent.upsset import Refused, Writer
from tests.snmp_damage import CRAFTED, mutated

COUNT = int(os.environ.get("RIDETHROUGH_FUZZ_SNMP", "1000"))  # of each kind; 4000 in `./run fuzz --snmp`
TEST, LOCK, DOWN = f"{UPS}.7.1.0", f"{UPS}.7.2.0", f"{UPS}.8.2.0"
START, REBOOT, RESTART = f"{UPS}.8.3.0", f"{UPS}.8.4.0", f"{UPS}.8.5.0"
BEEPER, NAME, CONTACT = f"{UPS}.9.8.0", f"{UPS}.1.5.0", "1.3.6.1.2.1.1.4.0"
TEXTS = {NAME, CONTACT, "1.3.6.1.2.1.1.5.0", "1.3.6.1.2.1.1.6.0", f"{UPS}.1.6.0"}
AS_IT_IS = {f"{UPS}.8.1.0", *(f"{UPS}.9.{n}.0" for n in (1, 2, 3, 4, 7, 9, 10))}
TESTS = {
    f"{UPS}.7.7.2": Command.TEST_STOP, f"{UPS}.7.7.3": Command.TEST_QUICK, f"{UPS}.7.7.4": Command.TEST_QUICK,
    f"{UPS}.7.7.5": Command.TEST_DEEP,
}  # fmt: skip
Pairs = list[tuple[str, str]]  # name and value as text
Given = tuple[Command, dict[str, Any]]


class Ups:
    """An agent whose writer orders a pretend UPS about."""

    def __init__(self, net: Path) -> None:
        self.now_s = test_usm.NOW_S
        self.unit = Unit(self.now_s)
        self.driver = Simulator(Scene(self.unit, (), self.now_s), lambda: self.now_s)
        self.given: list[Given] = []
        self.writer = Writer(order=self.order, allow_shutdown=True)
        anywhere = ("127.0.0.0/8",)
        settings = config.Snmp(
            communities=(config.Community(label="tests", access="read-write", sources=anywhere),),
            users=(config.User(name="ops", access="read-write", sources=anywhere),),
        )
        ops = test_usm.replace(test_usm.OPS, writes=True)
        self.responder = v3.Responder(test_usm.ENGINE, {"ops": ops})
        self.agent = snmp.Agent(
            settings, {"tests": COMMUNITY}, self.view, self.now_s, host="h", responder=self.responder,
            writer=self.writer, interfaces=Interfaces(str(net)), clock=lambda: self.now_s,
        )  # fmt: skip

    def view(self) -> Any:
        looked = status(self.unit)
        return view(looked, *(since(c) for c in looked.flags), commands=frozenset(Command) - {Command.SIMULATE})

    def order(self, command: Command, args: Mapping[str, Any], who: str, host: str) -> None:
        self.given.append((command, dict(args)))
        try:
            self.driver.order(command, **args)
        except OrderError as e:
            raise Refused(str(e)) from e

    def facts(self) -> tuple[object, ...]:
        unit = self.unit
        return unit.off_at_s, unit._return_s, unit.test_result, unit.beeper, unit.output_on, unit.outlets

    def sets(self) -> list[Pairs]:
        """What may be set now."""
        lock = (LOCK, str(self.writer.kept.spin_lock))
        return [
            [(NAME, "rack 7")], [(CONTACT, "ops"), (NAME, "a"), (BEEPER, "1")], [(BEEPER, "2")], [(DOWN, "300")],
            [(DOWN, "-1")], [(RESTART, "2"), (DOWN, "60")], [(RESTART, "1")], [(REBOOT, "30")], [(START, "0")],
            [lock, (TEST, f"{UPS}.7.7.4")], [(TEST, f"{UPS}.7.7.5"), lock], [lock, (TEST, f"{UPS}.7.7.2")],
            [lock, (CONTACT, "x"), (TEST, f"{UPS}.7.7.3")], [(BEEPER, "9")], [(f"{UPS}.2.1.0", "2")],
        ]  # fmt: skip

    def meets(self, data: bytes, says: Callable[[], Pairs | None]) -> bytes | None:
        """Hand it a datagram a minute later; `says` judges it. AssertionError: it obeyed what nobody said."""
        self.now_s += 60.0
        self.driver.poll()
        before, kept, count, beeper = self.facts(), self.writer.kept, len(self.given), self.unit.beeper
        self.agent.gate._paid_s = 0.0  # the rate limit shall not hide anything
        begun_s = time.process_time()
        answered = self.agent.answer(data, "127.0.0.1")
        took_s = time.process_time() - begun_s
        assert took_s < plain.LIMIT_S, f"{took_s * 1000:.0f} ms for {data[:60].hex()} ({len(data)} octets)"
        new = self.given[count:]
        if new or self.facts() != before or self.writer.kept.texts != kept.texts:
            pairs = says()
            assert pairs is not None, f"{new} by {data.hex()}"
            assert new == wanted(pairs, str(kept.spin_lock), kept.returns, beeper), (pairs, data.hex())
        return answered


def wanted(pairs: Pairs, lock: str, returns: bool, beeper: bool) -> list[Given]:
    """The orders of a SET of these values. AssertionError: it must not be obeyed at all."""
    values = dict(pairs)
    assert len(values) == len(pairs) or not set(values) - TEXTS - AS_IT_IS - {RESTART, LOCK, BEEPER}, pairs
    returns = values.get(RESTART, "1" if returns else "2") == "1"
    assert values.get(LOCK, lock) == lock
    found: list[Given] = []
    for name, value in pairs:
        if name == TEST:
            assert LOCK in values
            found.append((TESTS[value], {}))
        elif name == BEEPER:
            assert value in ("1", "2")
            if beeper != (value == "2"):
                found.append((Command.BEEPER_OFF if value == "1" else Command.BEEPER_ON, {}))
        elif name in (DOWN, REBOOT) and value == "-1":
            found.append((Command.SHUTDOWN_STOP, {}))
        elif name == DOWN:
            assert int(value) >= 0
            args = {"delay_s": float(value)}
            found.append(
                (Command.SHUTDOWN_RETURN, {**args, "return_delay_s": 60.0})
                if returns
                else (Command.SHUTDOWN_STAY_OFF, args)
            )
        elif name == REBOOT:
            assert 0 <= int(value) <= 300
            found.append((Command.SHUTDOWN_RETURN, {"delay_s": 0.0, "return_delay_s": float(value)}))
        elif name == START:
            assert value in ("0", "-1")
            found += [(Command.LOAD_ON, {})] if value == "0" else []
        else:
            assert name in TEXTS | AS_IT_IS | {LOCK, RESTART}, name
    return found


class Binding(univ.Sequence):
    componentType = NamedTypes(NamedType("name", univ.ObjectIdentifier()), NamedType("value", univ.Any()))


class Bindings(univ.SequenceOf):
    componentType = Binding()


class SetRequest(univ.Sequence):
    """RFC 3416 section 3; nobody looks at error-status and error-index of a request."""

    tagSet = univ.Sequence.tagSet.tagImplicitly(tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, 3))
    componentType = NamedTypes(
        *(NamedType(name, univ.Integer()) for name in ("id", "status", "index")), NamedType("bindings", Bindings())
    )


class Message(univ.Sequence):
    componentType = NamedTypes(
        NamedType("version", univ.Integer()),
        NamedType("community", univ.OctetString()),
        NamedType("pdu", SetRequest()),
    )


class Scoped(univ.Sequence):
    componentType = NamedTypes(
        NamedType("engine", univ.OctetString()),
        NamedType("context", univ.OctetString()),
        NamedType("pdu", SetRequest()),
    )


def said(data: bytes, spec: Any) -> tuple[Any, Pairs, bytes] | None:
    """What stands before the PDU, what the PDU sets, and what follows; None: it is no whole SET."""
    try:
        found, rest = decoder.decode(data, asn1Spec=spec)
        pairs = [(str(b["name"]), decoder.decode(bytes(b["value"]))) for b in found["pdu"]["bindings"]]
    except PyAsn1Error:
        return None
    return found, [(name, str(value)) for name, (value, after) in pairs if not after], rest


def of_message(data: bytes) -> Pairs | None:
    """What a message of version 1 or 2c sets; None: it is no SET of our community."""
    found = said(data, Message())
    if found is None or found[2] or int(found[0]["version"]) not in (0, 1):
        return None
    return found[1] if bytes(found[0]["community"]) == COMMUNITY.encode() else None


def of_scoped(data: bytes) -> Pairs | None:
    """The same of a scoped PDU, which may be padded."""
    found = said(data, Scoped())
    if found is None or bytes(found[0]["engine"]) != test_usm.ENGINE_ID or len(found[0]["context"]):
        return None
    return found[1]


def damaged(chance: random.Random, good: bytes) -> bytes:
    """A mutant; half of them have just one other octet, so that many are SETs still."""
    if chance.random() < 0.5:
        return mutated(chance, good)
    at = chance.randrange(len(good))
    return (
        good[:at]
        + bytes((chance.choice((good[at] ^ 1 << chance.randrange(8), chance.randrange(256))),))
        + good[at + 1 :]
    )


def binding(name: str, value: str) -> bytes:
    if name in TEXTS:
        data = ber.tlv(ber.OCTET_STRING, value.encode())
    else:
        data = ber.oid(arcs(value)) if name == TEST else ber.integer(int(value))
    return ber.binding(ber.oid(arcs(name)), data)


def asking(prefix: bytes, pairs: Pairs) -> bytes:
    return ber.message(prefix, ber.SET, ber.integer(77), 0, 0, b"".join(binding(*pair) for pair in pairs))


def community(pairs: Pairs, version: int = ber.V2C) -> bytes:
    return asking(ber.integer(version) + ber.tlv(ber.OCTET_STRING, COMMUNITY.encode()), pairs)


CONTEXT = ber.tlv(ber.OCTET_STRING, test_usm.ENGINE_ID) + ber.tlv(ber.OCTET_STRING, b"")


def sealed(inside: bytes, level: int = usm.AUTH_PRIV) -> bytes:
    return secured.wrapped(inside, level)


class Still(mib.Engine):
    def time_s(self, now_s: float) -> int:
        return 500


@pytest.fixture
def ups(tmp_path: Path):
    """With the clock of the engine's time window standing still, or every message of version 3 would be too old."""
    made = Ups(Net(tmp_path / "net").folder)
    made.responder.engine = Still(*made.responder.engine)
    made.agent.look(made.now_s)
    made.agent._ports_due_s = float("inf")
    gc.disable()
    logging.disable(logging.WARNING)  # a line a minute is a line for each here
    yield made
    logging.disable(logging.NOTSET)
    gc.enable()
    made.now_s += 60.0
    answered = made.agent.answer(request(ber.GET, NAME), "127.0.0.1")
    assert answered is not None and reply(answered).error == 0


def test_a_whole_set_is_obeyed(ups: Ups) -> None:
    for number in range(2 * len(ups.sets())):
        pairs = ups.sets()[number // 2]
        inside = asking(CONTEXT, pairs)
        for data, says in ((community(pairs), of_message), (sealed(inside), lambda _, i=inside: of_scoped(i))):
            assert says(data) == pairs
            ups.meets(data, lambda s=says, d=data: s(d))  # type: ignore[misc]
    assert {command for command, _ in ups.given} >= {
        Command.BEEPER_OFF, Command.BEEPER_ON, Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF, Command.LOAD_ON,
        Command.SHUTDOWN_STOP, Command.TEST_QUICK, Command.TEST_DEEP,
    }  # fmt: skip


def test_mutants_of_a_community_that_writes_order_only_what_they_say(ups: Ups) -> None:
    chance = random.Random(1628)
    for _ in range(COUNT):
        origin = community(chance.choice(ups.sets()), chance.choice((ber.V1, ber.V2C)))
        data = damaged(chance, origin)
        ups.meets(data, lambda data=data: of_message(data))  # type: ignore[misc]
    assert len(ups.given) > COUNT / 100, "or this shows nothing"


def test_mutants_inside_good_messages_of_a_user_who_writes_order_only_what_they_say(ups: Ups) -> None:
    chance = random.Random(1629)
    for _ in range(COUNT):
        inside = damaged(chance, asking(CONTEXT, chance.choice(ups.sets())))
        ups.meets(sealed(inside), lambda inside=inside: of_scoped(inside))  # type: ignore[misc]
    assert len(ups.given) > COUNT / 100, "or this shows nothing"


def test_nothing_is_obeyed_that_is_damaged_outside_or_signed_too_little(ups: Ups) -> None:
    chance = random.Random(1630)
    for _ in range(COUNT):
        whole = sealed(asking(CONTEXT, chance.choice(ups.sets())), chance.choice((usm.AUTH, usm.AUTH_PRIV)))
        data = damaged(chance, whole)
        if data != whole:
            ups.meets(data, lambda: None)
    for pairs in ups.sets():
        for level in (usm.AUTH, usm.NO_AUTH):
            ups.meets(sealed(asking(CONTEXT, pairs), level), lambda: None)
    assert ups.given == [] and ups.writer.kept.texts == {}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_datagrams_order_nothing(ups: Ups, name: str) -> None:
    data = CRAFTED[name]
    ups.meets(data, lambda: None)
    try:
        pdu = data[ber.read_header(data).pdu_at :]
    except ber.Malformed:
        pdu = data[:60000]
    for kind in (pdu[:1], bytes((ber.SET,))):
        ups.meets(sealed(ber.tlv(ber.SEQUENCE, CONTEXT + kind + pdu[1:])), lambda: None)
    assert ups.given == []


def test_memory_stays_flat_under_sets(ups: Ups) -> None:
    chance = random.Random(1631)
    datagrams = [damaged(chance, community(chance.choice(ups.sets()))) for _ in range(300)]
    datagrams += [sealed(damaged(chance, asking(CONTEXT, chance.choice(ups.sets())))) for _ in range(300)]
    tracemalloc.start()
    try:
        for _ in range(3):
            before = tracemalloc.get_traced_memory()[0]
            for data in datagrams:
                ups.now_s += 60.0
                ups.agent.answer(data, "127.0.0.1")
            ups.given.clear()
            while ups.agent._setter._queue.qsize():
                ups.agent._setter.turn()
            gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 50_000
    finally:
        tracemalloc.stop()
