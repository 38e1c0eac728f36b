"""A line just opened settles for 1.1 s, longer than many answers may take: no driver loses a question to that."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from agent import drivers, link, modbus
from agent.model import Command, LinkError, Source
from agent.pretend import Unit
from tests.simulators.apcsmart import ApcUnit
from tests.simulators.hidunit import HidUnit
from tests.simulators.modbusunit import ApcRegisters, rtu_answer
from tests.simulators.shut import UNIT, ShutUnit

OPENED_S = 1000.0


class PortWithLines:
    """Stands for pyserial's Serial on a port that has DTR and RTS, with a unit behind it. `fileno` is always
    readable, so that nothing waits; what time passes, passes in `now_s`."""

    port = "/dev/pretend"
    is_open = True

    def __init__(self, hear: Callable[[bytes, float], bytes], fd: int) -> None:
        self.now_s, self._hear, self._fd, self._out = OPENED_S, hear, fd, b""
        self.written: list[tuple[float, bytes]] = []

    def fileno(self) -> int:
        return self._fd

    def reset_input_buffer(self) -> None:
        self.now_s += 0.01
        self._out = b""

    def write(self, data: bytes) -> int:
        self.written.append((self.now_s, data))
        self._out += self._hear(data, self.now_s)
        return len(data)

    def read(self, size: int) -> bytes:
        self.now_s += 0.01
        said, self._out = self._out[:size], self._out[size:]
        return said

    def close(self) -> None: ...


@pytest.fixture
def always_readable() -> Iterator[int]:
    r, w = os.pipe()
    os.write(w, b"x")
    yield r
    os.close(r)
    os.close(w)


def apcsmart() -> Callable[[bytes, float], bytes]:
    unit = ApcUnit(Unit(OPENED_S))
    return lambda data, now_s: b"".join(unit.hear(data[n : n + 1], now_s) for n in range(len(data)))


def megatec() -> Callable[[bytes, float], bytes]:
    said = {b"Q1\r": b"(230.0 229.0 231.0 030 50.0 26.0 25.0 00001001\r", b"F\r": b"#230.0 004 24.00 50.0\r"}
    return lambda data, now_s: said.get(data, data)


def shut() -> Callable[[bytes, float], bytes]:
    unit = ShutUnit(HidUnit.of(UNIT))
    return lambda data, now_s: unit.hear(data) or unit.tell()


def apcmodbus() -> Callable[[bytes, float], bytes]:
    registers = ApcRegisters()
    return lambda data, now_s: rtu_answer(registers, data)


UNITS = {f.__name__: f for f in (apcmodbus, apcsmart, megatec, shut)}


def test_every_driver_of_a_serial_line_is_here() -> None:
    assert set(UNITS) == {n for n in drivers.available() if drivers.load(n).LINK in ("serial", "modbus")}


@pytest.mark.parametrize("name", UNITS)
def test_the_first_poll_of_a_line_just_opened_succeeds(name: str, always_readable: int) -> None:
    port = PortWithLines(UNITS[name](), always_readable)
    line = link.SerialLink(port, lambda: port.now_s, OPENED_S + link.SETTLE_S)  # type: ignore[arg-type]
    module = drivers.load(name)
    driver = module.connect({}, modbus.RtuLink(line, 1) if module.LINK == "modbus" else line, lambda: port.now_s)
    assert driver.poll().source is Source.MAINS
    assert port.written[0][0] >= OPENED_S + link.SETTLE_S
    assert port.now_s - OPENED_S < 6.0


@pytest.mark.parametrize("name", UNITS)
def test_the_first_probe_of_a_line_just_opened_succeeds(name: str, always_readable: int) -> None:
    port = PortWithLines(UNITS[name](), always_readable)
    line = link.SerialLink(port, lambda: port.now_s, OPENED_S + link.SETTLE_S)  # type: ignore[arg-type]
    module = drivers.load(name)
    assert module.probe(modbus.RtuLink(line, 1) if module.LINK == "modbus" else line) == 1.0


def test_settling_takes_nothing_from_the_time_for_the_answer(always_readable: int) -> None:
    port = PortWithLines(lambda data, now_s: b"", always_readable)
    line = link.SerialLink(port, lambda: port.now_s, OPENED_S + link.SETTLE_S)  # type: ignore[arg-type]
    with pytest.raises(LinkError):
        line.ask(b"Q1\r", within_s=0.5)
    assert OPENED_S + link.SETTLE_S + 0.5 <= port.now_s < OPENED_S + link.SETTLE_S + 0.6


def test_between_two_requests_by_modbus_there_is_a_pause_and_a_longer_one_after_a_write(always_readable: int) -> None:
    port = PortWithLines(apcmodbus(), always_readable)
    line = modbus.RtuLink(link.SerialLink(port, lambda: port.now_s, OPENED_S), 1)  # type: ignore[arg-type]
    driver = drivers.load("apcmodbus").connect({}, line, lambda: port.now_s)
    driver.poll()
    driver.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=180)
    pauses = [later - before for (before, _), (later, _) in itertools.pairwise(port.written)]
    wrote = [data[1] == modbus.WRITE for _, data in port.written]
    assert sum(wrote) == 3 and len(pauses) > 7
    assert all(pause >= (0.1 if write else 0.035) for write, pause in zip(wrote, pauses, strict=False))
