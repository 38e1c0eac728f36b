"""Whatever a datagram holds, the SNMP agent neither fails nor lingers over it, and the next good one is answered."""

from __future__ import annotations

import gc
import random
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snmp_kit import COMMUNITY, UPS, Net, Stage, request, since, three_phase, view

from agent import ber
from agent.model import Condition
from tests.snmp_damage import CRAFTED, mutated

GOOD = [
    request(tag, *names, version=version, second=second)
    for version in (ber.V1, ber.V2C)
    for tag, second in ((ber.GET, 0), (ber.GETNEXT, 0), (ber.GETBULK, 25), (ber.SET, 0))
    for names in ((), ("1.3.6.1.2.1.1.1.0",), ("1.3", f"{UPS}.2.1.0", f"{UPS}.9.10.0", "2.39.4294967295"))
]
LIMIT_S = 0.05  # for one datagram; CPU time, so that a busy machine does not count


def _stage() -> Stage:
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(view(three_phase(), *(since(c) for c in list(Condition)[:24])), Net(Path(folder)).folder)
        stage.walk()  # reads the folder
    stage.agent._ports_due_s = float("inf")
    return stage


STAGE = _stage()


def survives(data: bytes) -> None:
    STAGE.now_s += 60.0  # the rate limit shall not hide anything
    begun_s = time.process_time()
    answered = STAGE.agent.answer(data, "127.0.0.1")
    took_s = time.process_time() - begun_s
    assert answered is None or len(answered) <= 1472
    assert took_s < LIMIT_S, f"{took_s * 1000:.0f} ms for {data[:40].hex()} ({len(data)} octets)"


@pytest.fixture(autouse=True)
def the_next_good_request_is_answered():
    gc.disable()  # collecting what other tests left in this process takes longer than the limit
    yield
    gc.enable()
    answered = STAGE.ask(request(ber.GET, f"{UPS}.1.5.0"))
    assert answered is not None and answered.bindings[0][2] == b"rack-3"


@given(st.binary(max_size=1600))
def test_any_bytes_are_survived(data: bytes) -> None:
    survives(data)


@given(st.sampled_from([ber.GET, ber.GETNEXT, ber.GETBULK, ber.SET, 0xA2, 0xA6]), st.binary(max_size=1300))
def test_any_pdu_of_a_known_community_is_survived(tag: int, pdu: bytes) -> None:
    prefix = ber.integer(ber.V2C) + ber.tlv(ber.OCTET_STRING, COMMUNITY.encode())
    survives(ber.tlv(ber.SEQUENCE, prefix + ber.tlv(tag, pdu)))


@given(
    st.sampled_from([ber.GET, ber.GETNEXT, ber.GETBULK, ber.SET]),
    st.sampled_from([ber.V1, ber.V2C]),
    st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=30),
    st.integers(-(2**39), 2**39 - 1),
    st.integers(-(2**39), 2**39 - 1),
)
def test_any_names_and_values_are_survived(
    tag: int, version: int, bindings: list[tuple[bytes, bytes]], first: int, second: int
) -> None:
    prefix = ber.integer(version) + ber.tlv(ber.OCTET_STRING, COMMUNITY.encode())
    listed = b"".join(ber.tlv(0x30, ber.tlv(ber.OBJECT_ID, name) + ber.tlv(4, value)) for name, value in bindings)
    survives(ber.message(prefix, tag, ber.integer(1), first, second, listed))


def test_4000_mutants_are_survived() -> None:
    chance = random.Random(1628)
    for _ in range(4000):
        survives(mutated(chance, chance.choice(GOOD)))


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_datagrams_are_survived(name: str) -> None:
    survives(CRAFTED[name])
