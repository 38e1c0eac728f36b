"""Modbus with foreign parts: pymodbus as the UPS, pymodbus and mbpoll as masters of our own pretend one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import threading
import time
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymodbus import FramerType
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.constants import ExcCodes
from pymodbus.datastore import ModbusServerContext
from pymodbus.datastore.context import ModbusBaseDeviceContext
from pymodbus.server import ModbusSerialServer, ModbusTcpServer

from agent import bus, modbus
from agent.drivers import apcmodbus
from agent.model import Command, LinkError, Source, Status
from tests.peer.world import World, free_port, until
from tests.simulators.modbusunit import BLOCKS, ApcRegisters, RegistersLink, Wire

pytestmark = pytest.mark.peer

WIRES = ("rtu", "tcp")


class Cable:
    """Two terminals: what is written at one end comes out at the other. `link` is a name for the agent's end."""

    def __init__(self, link: Path) -> None:
        self._masters, self._slaves, ends = [], [], []
        for _ in range(2):
            master, slave = os.openpty()
            tty.setraw(slave)
            self._masters.append(master)
            self._slaves.append(slave)
            ends.append(os.ttyname(slave))
        self.here, self.there = ends
        link.symlink_to(self.here)
        pairs = (self._masters, self._masters[::-1])
        self._threads = [threading.Thread(target=self._carry, args=pair, daemon=True) for pair in pairs]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _carry(source: int, sink: int) -> None:
        try:
            while data := os.read(source, 4096):
                os.write(sink, data)
        except OSError:
            return  # closed: the end of the test

    def close(self) -> None:
        for slave in self._slaves:
            os.close(slave)
        for thread in self._threads:
            thread.join(5)
        for master in self._masters:
            os.close(master)


class Store(ModbusBaseDeviceContext):
    """Registers of the pretend unit, for pymodbus."""

    def __init__(self, unit: ApcRegisters) -> None:
        self.unit = unit

    def getValues(self, func_code: int, address: int, count: int = 1) -> Any:
        if any(n not in self.unit.there for n in range(address, address + count)):
            return ExcCodes.ILLEGAL_ADDRESS
        return [self.unit.there[n] for n in range(address, address + count)]

    def setValues(self, func_code: int, address: int, values: Any) -> Any:
        if any(n not in self.unit.there for n in range(address, address + len(values))):
            return ExcCodes.ILLEGAL_ADDRESS
        self.unit.written.append((address, tuple(values)))
        self.unit.put(address, *values)
        return None


class Server:
    """pymodbus as a UPS, over `wire`, in a thread with a loop of its own."""

    def __init__(self, wire: str, folder: Path) -> None:
        self.unit, self._wire = ApcRegisters(), wire
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: Any = None
        self.section: dict[str, Any]
        if wire == "rtu":
            self.cable = Cable(folder / "line")
            self.section = {"port": str(folder / "line")}
        else:
            self.section = {"host": "127.0.0.1", "tcp_port": free_port()}
        self.start()

    def start(self) -> None:
        self._await(self._begin())

    async def _begin(self) -> None:
        context = ModbusServerContext(devices={1: Store(self.unit)}, single=False)
        if self._wire == "rtu":
            self._server = ModbusSerialServer(
                context, framer=FramerType.RTU, port=self.cable.there, baudrate=9600, bytesize=8, parity="N"
            )
        else:
            self._server = ModbusTcpServer(context, address=("127.0.0.1", self.section["tcp_port"]))
        await self._server.serve_forever(background=True)

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            self._await(server.shutdown())

    def _await(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        if self._wire == "rtu":
            self.cable.close()

    @property
    def toml(self) -> str:
        section = {"driver": "apcmodbus", "poll_s": 0.5, **self.section}
        return "".join(f'{k} = "{v}"\n' if isinstance(v, str) else f"{k} = {v}\n" for k, v in section.items())


@pytest.fixture(params=WIRES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    it = Server(request.param, tmp_path)
    try:
        yield it
    finally:
        it.close()


def connect(section: dict[str, Any]) -> apcmodbus.ApcModbus:
    it = apcmodbus.connect({}, modbus.open(section, time.monotonic), time.monotonic)
    assert isinstance(it, apcmodbus.ApcModbus)
    return it


def without_a_wire(unit: ApcRegisters) -> Status:
    line = RegistersLink()
    line.unit = unit
    return apcmodbus.connect({}, line, lambda: line.now_s).poll()


# --- we ask, pymodbus answers


def test_a_foreign_unit_is_read_on_mains_and_on_battery(server: Server) -> None:
    driver = connect(server.section)
    status = driver.poll()
    assert replace(status, taken_s=0.0) == replace(without_a_wire(server.unit), taken_s=0.0)
    assert (status.source, status.battery.charge_pct, status.battery.runtime_s) == (Source.MAINS, 100.0, 3600.0)
    assert (status.ident.model, status.inputs[0].voltage_v) == ("Smart-UPS SRT 3000", 231.0)
    server.unit.mains(False)
    server.unit.put(128, 0, 600, 42 * 512)
    status = driver.poll()
    assert (status.source, status.battery.charge_pct, status.battery.runtime_s) == (Source.BATTERY, 42.0, 600.0)
    driver.close()


def test_a_foreign_unit_takes_orders_with_their_delays(server: Server) -> None:
    driver = connect(server.section)
    driver.poll()
    driver.order(Command.TEST_QUICK)
    driver.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=180)
    driver.order(Command.SHUTDOWN_STOP)
    driver.order(Command.LOAD_OFF)
    assert server.unit.written == [
        (1541, (0x0201,)), (1029, (60,)), (1030, (180,)), (1538, (0, 0x21C8)), (1538, (0, 0x2101)),
        (1538, (0, 0x2104)),
    ]  # fmt: skip
    driver.close()


def test_the_outlet_groups_of_a_foreign_unit_are_read_and_switched(server: Server) -> None:
    server.unit.switched_groups(True, False)
    driver = connect(server.section)
    assert [(o.number, o.on) for o in driver.poll().outlets] == [(1, True), (2, False)]
    driver.order(Command.OUTLET_ON, number=2)
    driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    assert server.unit.written == [
        (1538, (0, 0x2402)), (1029, (60,)), (1034, (60,)), (1039, (60,)), (1538, (0, 0x2784))
    ]  # fmt: skip
    driver.close()


def test_what_a_foreign_unit_does_not_have_is_refused_and_costs_no_link(server: Server) -> None:
    for n in range(516, 636):
        del server.unit.there[n]
    driver = connect(server.section)
    assert driver.poll().ident.model is None
    assert driver.poll().source is Source.MAINS
    driver.close()


def test_a_foreign_unit_that_goes_away_is_a_link_error_and_is_found_again(server: Server) -> None:
    driver = connect(server.section)
    driver.poll()
    server.stop()
    with pytest.raises(LinkError):
        driver.poll()
    driver.close()
    server.start()
    driver = connect(server.section)
    assert driver.poll().source is Source.MAINS
    driver.close()


# --- foreign masters ask our pretend unit


def ask_by_mbpoll(it: Wire, first: int, count: int, *write: int) -> tuple[int, list[int], str]:
    """Return code, values, what it printed. Registers count from 0 (-0)."""
    if shutil.which("mbpoll") is None:
        pytest.fail("mbpoll is missing; install it with: ./run peer")
    where = (
        ["-m", "rtu", "-b", "9600", "-P", "none", it.section["port"]]
        if "port" in it.section
        else ["-m", "tcp", "-p", str(it.section["tcp_port"]), it.section["host"]]
    )
    options = ["-0", "-1", "-a", "1", "-t", "4", "-r", str(first), *([] if write else ["-c", str(count)])]
    command = ["mbpoll", *options, *where, *map(str, write)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    values = [int(found) & 0xFFFF for found in re.findall(r"^\[\d+\]:\s+(-?\d+)", done.stdout, re.M)]
    return done.returncode, values, done.stdout + done.stderr


@pytest.mark.parametrize("wire", WIRES)
def test_mbpoll_reads_and_writes_our_unit(wire: str) -> None:
    with Wire(wire) as it:
        for first, count in BLOCKS:
            code, values, said = ask_by_mbpoll(it, first, count)
            assert (code, values) == (0, [it.unit.there[n] for n in range(first, first + count)]), said
        code, _, said = ask_by_mbpoll(it, 1029, 0, 60, 180)
        assert (code, it.unit.written) == (0, [(1029, (60, 180))]), said
        code, values, said = ask_by_mbpoll(it, 9000, 1)
        assert values == [] and "Illegal data address" in said


@pytest.mark.parametrize("wire", WIRES)
def test_pymodbus_reads_and_writes_our_unit(wire: str) -> None:
    with Wire(wire) as it:
        client: Any = (
            ModbusSerialClient(it.section["port"], framer=FramerType.RTU, baudrate=9600, timeout=2)
            if wire == "rtu"
            else ModbusTcpClient(it.section["host"], port=it.section["tcp_port"], timeout=2)
        )
        assert client.connect()
        for first, count in BLOCKS:
            answer = client.read_holding_registers(first, count=count, device_id=1)
            assert answer.registers == [it.unit.there[n] for n in range(first, first + count)]
        assert not client.write_registers(1029, [60, 180], device_id=1).isError()
        assert it.unit.written == [(1029, (60, 180))]
        refused = client.read_holding_registers(9000, count=1, device_id=1)
        assert refused.isError() and refused.exception_code == 2
        client.close()


# --- the whole agent


def test_a_mains_failure_at_a_foreign_unit_goes_through_the_whole_agent(server: Server, tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    stages = '[[stage]]\nname = "all"\non_battery_s = 2\n'
    with World(tmp_path / "world", ups=server.toml, stages=stages) as world:
        assert world.view().status.ident.model == "Smart-UPS SRT 3000"
        #: row of RFC 1628 -> what our registers mean in its unit
        rows = {"2.3.0": 60, "2.4.0": 100, "2.5.0": 275, "3.3.1.3.1": 231, "4.4.1.2.1": 230, "4.4.1.5.1": 30}
        for row, value in rows.items():
            assert int(world.snmp(f"1.3.6.1.2.1.33.1.{row}").rpartition(":")[2]) == value, row
        message = {"type": "command", "command": "test-quick", "args": {}}
        reply = bus.ask(str(world.folder / "run" / "core.sock"), message, within_s=10.0)
        assert reply.get("ok"), reply
        assert server.unit.written == [(1541, (0x0201,))]
        server.unit.mains(False)
        until(lambda: "on-battery" in world.conditions(), 10, "the view is on battery")
        assert world.api_status()["view"]["status"]["source"] == "battery"
        until(lambda: bool(world.told()), 20, "the server was told")
        server.stop()
        until(lambda: "comm-lost" in world.conditions(), 40, "comm-lost")
        server.unit.mains(True)
        server.start()
        until(lambda: not {"comm-lost", "on-battery"} & world.conditions(), 40, "it is back, and so is the mains")
