"""Hostile report descriptors: random items, bombs, damaged real ones. Only LinkError, in bounded time and memory.

RIDETHROUGH_FUZZ_HID is how many are tried (`./run fuzz --hid`: 30000).
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc

import pytest

from agent import hid
from agent.drivers import usbhid
from agent.hidraw import Identity, has_ids, is_power_device
from agent.model import LinkError
from tests.simulators.hidunit import CASES, HidUnit, case

RUNS = int(os.environ.get("RIDETHROUGH_FUZZ_HID", "250"))
WITHIN_S, MEMORY_BYTES = 0.5, 4 * 1024 * 1024
REAL = [bytes.fromhex(case(p.name)["descriptor"]) for p in sorted(CASES.glob("*-*-*.json")) if "fields" not in p.name]
TAGS = (
    0x04, 0x08, 0x14, 0x18, 0x24, 0x28, 0x34, 0x44, 0x54, 0x64, 0x74, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4, 0xB0, 0xB4,
    0xC0, 0xFC,
)  # fmt: skip
NUMBERS = (0, 1, 2, 7, 8, 16, 32, 33, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
BEGIN = bytes.fromhex("05840904a101")
BOMBS = {
    "Report Count 2^32": BEGIN + bytes.fromhex("09307520 97ffffffff b102c0"),
    "Report Size 2^32": BEGIN + bytes.fromhex("0930 77ffffffff 9501 b102c0"),
    "both 2^32": BEGIN + bytes.fromhex("0930 77ffffffff 97ffffffff b102c0"),
    "size 0, count 2^32": BEGIN + bytes.fromhex("0930 7500 97ffffffff b102c0"),
    "no usage, count 2^32, size 0": BEGIN + bytes.fromhex("7500 97ffffffff b102c0"),
    "depth": BEGIN * 680,
    "depth of collections without a usage": b"\xa1\x00" * 2048,
    "ends without a beginning": b"\xc0" * 4096,
    "Push": b"\xa4" * 4096,
    "Push and Pop": b"\xa4\xb4" * 2048,
    "all usages": BEGIN + bytes.fromhex("1b00008400 2bffff8400 7508 95ff b102c0"),
    "usages backwards": BEGIN + bytes.fromhex("19ff 2900 7508 9501 b102c0"),
    "usages one by one": BEGIN + b"\x09\x30" * 2000 + bytes.fromhex("7501 9501 b102c0"),
    "many fields": BEGIN + bytes.fromhex("0930 7501 960020")
    + b"".join(b"\x85" + bytes([n]) + b"\x09\x30\xb1\x02" for n in range(1, 256)) + b"\xc0",
    "long items": b"\xfe\xff\x00" + bytes(255) + b"\xfe\xff\x00",
    "a long item to the end": b"\xfe\x00\x00" * 1300,
    "zeros": bytes(4096),
    "one too many": bytes(4097),
}  # fmt: skip


def items(rng: random.Random) -> bytes:
    """Items of every kind with numbers from the edges; often well-formed enough to make fields."""
    body = bytearray(BEGIN if rng.random() < 0.7 else b"")
    for _ in range(rng.randrange(1, 120)):
        tag, size = rng.choice(TAGS), rng.choice((0, 1, 1, 2, 4))
        number = rng.choice(NUMBERS) if rng.random() < 0.5 else rng.choice((0x30, 0x32, 0xD0, 0x84, 0x85, 1, 8, 2))
        body.append(tag | {0: 0, 1: 1, 2: 2, 4: 3}[size])
        body += (number & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(body + b"\xc0" * rng.randrange(3))


def damaged(rng: random.Random) -> bytes:
    """A real one, cut, spliced with another, or with bytes changed."""
    data = bytearray(rng.choice(REAL))
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data))
        how = rng.randrange(4)
        if how == 0:
            data[place] = rng.choice((0, 0xFF, rng.randrange(256)))
        elif how == 1:
            data[place : place + rng.randrange(8)] = rng.randbytes(rng.randrange(8))
        elif how == 2:
            other = rng.choice(REAL)
            begin = rng.randrange(len(other))
            data[place:place] = other[begin : begin + rng.randrange(200)]
        else:
            del data[place + 1 :]
    return bytes(data)


def survive(data: bytes, rng: random.Random) -> bool:
    """Parse it and drive a unit of it; whether it was taken for a descriptor."""
    begin_s = time.process_time()
    is_power_device(data), has_ids(data)
    try:
        parsed = hid.parse(data)
        assert sum(parsed.lengths.values()) <= 1025 * 3 * 256
        reports = {key: bytes([key[1]]) + rng.randbytes(n - 1) for key, n in parsed.lengths.items()}
        unit = HidUnit(data, reports, Identity(rng.choice((0x051D, 0x0764, 0x0463, 0x09AE, 1)), 2, "", "X"))
        driver = usbhid.connect({}, unit, lambda: unit.now_s)
        for _ in range(2):
            driver.poll()
            unit.now_s += 1.0
    except LinkError:
        return False
    finally:
        assert time.process_time() - begin_s < WITHIN_S, data.hex()
    return True


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_or_harmless_in_bounded_time_and_memory(name: str) -> None:
    tracemalloc.start()
    try:
        survive(BOMBS[name], random.Random(1))
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [items, damaged])
def test_hostile_descriptors_bring_nothing_but_a_link_error(make: object) -> None:
    assert callable(make)
    rng = random.Random(RUNS)
    taken = 0
    for _ in range(RUNS):
        data = make(rng)
        try:
            taken += survive(data, rng)
        except Exception as e:
            raise AssertionError(data.hex()) from e
    assert make is items or taken > RUNS // 20  # or it would try nothing behind the parser
