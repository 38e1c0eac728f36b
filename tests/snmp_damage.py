"""Damaged and crafted SNMP datagrams, for the fuzzing tests and for the comparison with net-snmp's agent.

The crafted list follows the idea of the PROTOS c06-snmpv1 suite (University of Oulu): lengths, nesting, names and
numbers at and beyond their limits.
"""

from __future__ import annotations

import random

from agent import ber

COMMUNITY = "a-community-of-tests"


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
