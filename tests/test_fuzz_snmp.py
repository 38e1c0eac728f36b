"""Whatever a datagram holds, the SNMP agent neither fails nor lingers over it, and the next good one is answered.

The crafted list follows the idea of the PROTOS c06-snmpv1 suite (University of Oulu): lengths, nesting, names and
numbers at and beyond their limits.
"""

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


def mutated(chance: random.Random, good: bytes) -> bytes:
    """A message with flipped bits, changed lengths, cuts, insertions and noise."""
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        kind = chance.randrange(7)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0x81, 0x82, 0x84, 0x85, 0xFF))
        elif kind == 2:
            del data[at + 1 :]
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.randint(1, 9))
        elif kind == 4:
            data[at : at + 1] = b"\x84" + chance.randbytes(4)
        elif kind == 5:
            data += chance.randbytes(chance.randint(1, 40))
        else:
            data[at:] = chance.randbytes(len(data) - at)
    return bytes(data)


def test_4000_mutants_are_survived() -> None:
    chance = random.Random(1628)
    for _ in range(4000):
        survives(mutated(chance, chance.choice(GOOD)))


def _message(pdu: bytes, community: bytes = COMMUNITY.encode(), version: bytes = b"\x02\x01\x01") -> bytes:
    return ber.tlv(0x30, version + ber.tlv(4, community) + pdu)


def _get(bindings: bytes, tag: int = ber.GET, numbers: bytes = b"\x02\x01\x01\x02\x01\x00\x02\x01\x00") -> bytes:
    return _message(ber.tlv(tag, numbers + ber.tlv(0x30, bindings)))


def _named(name: bytes) -> bytes:
    return ber.tlv(0x30, ber.tlv(6, name) + b"\x05\x00")


def _nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = b"\x30\x82" + len(data).to_bytes(2, "big") + data
    return data


CRAFTED = {
    "nested 2400 deep": _nested(2400),
    "nested 300 deep as a value": _get(ber.tlv(0x30, b"\x06\x03\x2b\x06\x01" + _nested(300))),
    "name of 60000 arcs": _get(_named(b"\x2b" + b"\x01" * 60000)),
    "name of 1300 arcs": _get(_named(b"\x2b" + b"\x01" * 1300)),
    "one arc of 60000 octets": _get(_named(b"\x2b" + b"\xff" * 60000 + b"\x01")),
    "one arc of 1300 octets": _get(_named(b"\x2b" + b"\xff" * 1300 + b"\x01")),
    "unterminated name": _get(_named(b"\x2b\x86")),
    "empty name": _get(_named(b"")),
    "bulk of 2**31-1 times 190 names": _get(
        _named(b"\x2b") * 190, ber.GETBULK, b"\x02\x01\x01\x02\x01\x00\x02\x04\x7f\xff\xff\xff"
    ),
    "bulk of 2**31-1 times 128 names": _get(
        _named(b"\x2b\x06") * 128, ber.GETBULK, b"\x02\x01\x01\x02\x01\x00\x02\x04\x7f\xff\xff\xff"
    ),
    "bulk of 2000 names": _get(
        _named(b"\x2b") * 2000, ber.GETBULK, b"\x02\x01\x01\x02\x01\x00\x02\x04\x7f\xff\xff\xff"
    ),
    "bulk of negative numbers": _get(_named(b"\x2b"), ber.GETBULK, b"\x02\x01\x01\x02\x01\xff\x02\x01\xff"),
    "get of 3000 names": _get(_named(b"\x2b\x06") * 3000),
    "request-id of 8 octets": _get(_named(b"\x2b"), numbers=b"\x02\x08\x01" + bytes(7) + b"\x02\x01\x00\x02\x01\x00"),
    "request-id of no octets": _get(_named(b"\x2b"), numbers=b"\x02\x00\x02\x01\x00\x02\x01\x00"),
    "indefinite length": b"\x30\x80\x02\x01\x01\x04\x06public\xa0\x80\x00\x00\x00\x00",
    "community of 60000 octets": _message(ber.tlv(ber.GET, b""), community=b"c" * 60000),
    "community of 1400 octets": _message(ber.tlv(ber.GET, b""), community=b"c" * 1400),
    "version 2": _message(ber.tlv(ber.GET, b""), version=b"\x02\x01\x02"),
    "length of four times 0xff": b"\x30\x84\xff\xff\xff\xff" + bytes(100),
    "length of 127 octets": b"\x30\xff" + b"\xff" * 1400,
    "nothing": b"",
    "65507 zeros": bytes(65507),
    "65507 sequences": b"\x30\x82\xff\xdf" + b"\x30" * 65503,
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_datagrams_are_survived(name: str) -> None:
    survives(CRAFTED[name])
