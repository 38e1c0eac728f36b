"""Damaged frames of SHUT and Modbus: what is refused is a LinkError, in no time, and no damage is an outage."""

from __future__ import annotations

import functools
import operator
import random
import socket
import time

import pytest

from agent import modbus, modbususb, shut
from agent.drivers import apcmodbus
from agent.drivers import shut as shut_driver
from agent.model import LinkError, Source
from tests.simulators.hidunit import HidUnit
from tests.simulators.modbusunit import ApcRegisters, checksum
from tests.simulators.shut import PACE_S, UNIT, ShutScript, checked
from tests.test_q1 import FRAMES, damaged

STATUS = modbus.read_request(*apcmodbus.STATUS)
MILLISECOND_S = 0.001
POLLS = max(FRAMES // 10, 60)  # each is several frames


def taken(frames: shut.Frames, data: bytes) -> list[tuple[int, bool, bytes]]:
    """Everything that is whole in these bytes."""
    frames.clear()
    frames.add(data)
    found = []
    while (one := frames.take()) is not None:
        found.append(one)
    return found


def test_no_damaged_frame_of_shut_has_a_wrong_check() -> None:
    """F21. One byte of check for eight: what has another length or check is not taken."""
    chance, frames, took_s, whole, dropped = random.Random(20261127), shut.Frames(), 0.0, 0, 0
    for _ in range(FRAMES):
        sent = checked(chance.choice((0x04, 0x84, 0x05, 0x85)), chance.randbytes(chance.randint(1, 8)))
        data = damaged(sent, chance)
        began_s = time.thread_time()
        found = taken(frames, data)
        took_s += time.thread_time() - began_s
        for kind, last, piece in found:
            if kind in (shut.ANSWER, shut.TOLD):
                whole += 1
                head = bytes((kind | (0x80 if last else 0), len(piece) * 17))
                assert head + piece + bytes((functools.reduce(operator.xor, piece),)) in data
        dropped += sent not in data and not any(kind in (shut.ANSWER, shut.TOLD) for kind, _, _ in found)
    assert whole and dropped > FRAMES / 3 and took_s / FRAMES < MILLISECOND_S


class BadLine(ShutScript):
    """The unit on a line that damages every third reading from `chance` on."""

    chance: random.Random | None = None

    def read(self, limit_bytes: int, within_s: float) -> bytes:
        data = super().read(limit_bytes, within_s)
        return damaged(data, self.chance) if data and self.chance and self.chance.random() < 0.3 else data


def test_no_damaged_line_of_shut_is_on_battery() -> None:
    line = BadLine(HidUnit.of(UNIT), PACE_S)
    made = shut_driver.connect({}, line, lambda: line.now_s)
    for _ in range(3):
        try:
            made.poll()
        except LinkError:
            continue
    line.chance = random.Random(20261127)
    read = failed = 0
    for _ in range(POLLS):
        before_s = line.now_s
        try:
            assert made.poll().source is not Source.BATTERY
            read += 1
        except LinkError:
            failed += 1
        assert line.now_s - before_s <= 5.0
        line.now_s += 1.0
    assert read and failed
    line.chance = None
    line.there.mains(False)
    assert Source.BATTERY in {made.poll().source for _ in range(3)}, "it is still read"


def pdu_of_rtu(data: bytes) -> bytes:
    """As the serial link takes it: so many bytes as the frame says."""
    while len(data) > (size := modbus.rtu_size(data)):
        data = data[:size]
    if len(data) < modbus.rtu_size(data):
        raise LinkError("silence")
    return modbus.from_rtu(1, data)


def pdu_of_report(data: bytes) -> bytes:
    return modbususb._pdu(data.ljust(62, b"\0")[:62])


@pytest.mark.parametrize("wire", ["rtu", "pdu", "usb"])
def test_no_damaged_answer_of_modbus_is_on_battery(wire: str) -> None:
    """F21. RTU has a CRC. TCP and USB have their own: of what comes through those, only a whole answer of the right
    length whose status has the bit of the battery and not that of the mains."""
    chance, unit = random.Random(f"20261127 {wire}"), ApcRegisters()
    measured = modbus.parse_read(unit.hear(modbus.read_request(*apcmodbus.DYNAMIC)), apcmodbus.DYNAMIC[1])
    read = {"rtu": pdu_of_rtu, "pdu": lambda data: data, "usb": pdu_of_report}[wire]
    took_s, refused, battery, through, slipped = 0.0, 0, 0, 0, 0
    for number in range(FRAMES):
        unit.mains(number % 8 != 0)
        said = unit.hear(STATUS)
        sent = bytes((1,)) + said + checksum(bytes((1,)) + said) if wire == "rtu" else said
        data = damaged(sent, chance) if number % 16 else sent
        began_s = time.thread_time()
        try:
            registers = modbus.parse_read(read(data), apcmodbus.STATUS[1])
            source = apcmodbus.look(registers, measured, (), (), 1.0).source
        except LinkError:
            refused += 1
            continue
        finally:
            took_s += time.thread_time() - began_s
        through += 1
        if source is Source.BATTERY:
            battery += 1
            bits = registers[0] << 16 | registers[1]
            assert bits & 0b110 == 0b100 and (wire == "usb" or len(data) >= len(said))
        if wire == "rtu":  # a whole frame before the damage, or one whose CRC is right all the same: 1 in 65536
            size = modbus.rtu_size(data)
            assert checksum(data[: size - 2]) == data[size - 2 : size]
            slipped += not data.startswith(sent)
    assert battery and refused > FRAMES / 10 and through and took_s / FRAMES < MILLISECOND_S
    assert slipped <= 1 + FRAMES / 20000


def test_no_damaged_header_of_modbus_over_tcp_is_an_answer() -> None:
    """The number of the request, the protocol, the length and the unit must all be right."""
    chance, said = random.Random(20261127), ApcRegisters().hear(STATUS)
    wrong, taken_whole = 0, 0
    for _ in range(max(FRAMES // 50, 100)):
        here, there = socket.socketpair()
        with here, there:
            head = modbus.HEADER.pack(1, 0, len(said) + 1, 1)
            other = damaged(head, chance)
            there.sendall(other + said)
            there.shutdown(socket.SHUT_WR)
            link = modbus.TcpLink(here, lambda: 1000.0, 1, "x")
            link._rest = lambda: None  # type: ignore[method-assign]  # what is here was not there before the question
            try:
                modbus.parse_read(link.ask(STATUS).data, apcmodbus.STATUS[1])
            except LinkError:
                wrong += 1
                continue
            taken_whole += 1
            assert (other + said).startswith(head)
    assert wrong and taken_whole
