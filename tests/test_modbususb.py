"""Modbus in the reports of a USB power device, through hidraw's calls, on a real unit's descriptor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import hidraw, modbus, modbususb
from agent.drivers import apcmodbus
from agent.model import Command, LinkError, Reply, Source
from tests.simulators.hidkernel import UnitKernel, plug
from tests.simulators.hidunit import HidUnit, case
from tests.simulators.modbusunit import ApcRegisters, RegistersLink

SMART_UPS_X = "051d-0003"
TO, FROM = 0x90, 0x89  # its reports


class Tunnel:
    """A Smart-UPS X on USB with these registers; `damage` changes each report that it answers with."""

    def __init__(self, root: Path) -> None:
        self.hid, self.unit = HidUnit.of(SMART_UPS_X), ApcRegisters()
        self.kernel = UnitKernel({plug(root, self.hid): self.hid})
        self.kernel.on_output = self._hear
        self.heard: list[tuple[float, bytes]] = []
        self.damage: Callable[[bytes], list[bytes]] = lambda report: [report]
        self._root = root

    def _hear(self, report: bytes) -> list[bytes]:
        self.heard.append((time.monotonic(), report))
        assert report[0] == TO and report[1] == 1 and len(report) == 64
        said = self.unit.hear(report[2:])
        return self.damage((bytes((FROM, 1)) + said).ljust(64, b"\0"))

    def open(self) -> modbususb.TunnelLink:
        root, kernel = self._root, self.kernel
        device = hidraw.open({}, time.monotonic, sys=root / "class", dev=root / "dev", kernel=kernel)
        assert isinstance(device, hidraw.HidrawLink)
        return modbususb.TunnelLink(device, time.monotonic, 1)


@pytest.fixture
def usb(tmp_path: Path) -> Iterator[Tunnel]:
    yield Tunnel(tmp_path)


def connect(link: modbususb.TunnelLink) -> apcmodbus.ApcModbus:
    it = apcmodbus.connect({}, link, time.monotonic)
    assert isinstance(it, apcmodbus.ApcModbus)
    return it


def test_the_reports_are_those_of_a_real_descriptor_and_other_units_have_none() -> None:
    assert modbususb.reports(bytes.fromhex(case(SMART_UPS_X)["descriptor"])) == (TO, FROM)
    with pytest.raises(LinkError, match='carries no Modbus.*driver = "usbhid"'):
        modbususb.reports(bytes.fromhex(case("051d-0002-back-ups-bx1600mi")["descriptor"]))


def test_a_unit_without_them_is_given_back_and_its_port_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, meant, there = HidUnit.of("051d-0002-back-ups-bx1600mi"), [], hidraw.open
    kernel, places = UnitKernel({plug(tmp_path, unit): unit}), {"sys": tmp_path / "class", "dev": tmp_path / "dev"}
    monkeypatch.setattr(hidraw, "open", lambda *what, meant: there(*what, **places, kernel=kernel, meant=meant))
    with pytest.raises(LinkError, match="carries no Modbus"):
        modbususb.open({}, time.monotonic, 1, meant.append)
    assert meant == ["1-1", ""] and not kernel.open_as


def test_a_request_is_these_bytes(usb: Tunnel) -> None:
    link = usb.open()
    link.ask(modbus.read_request(516, 30))
    assert usb.heard[0][1].hex() == "9001030204001e" + "00" * 57
    link.close()


def test_a_unit_is_read_as_over_any_other_wire_and_ordered(usb: Tunnel) -> None:
    usb.unit.switched_groups(True, False)
    driver = connect(usb.open())
    got = driver.poll()
    plain = RegistersLink()
    plain.unit = usb.unit
    there = apcmodbus.connect({}, plain, lambda: plain.now_s).poll()
    assert (got.source, got.battery, got.inputs, got.outputs) == (
        there.source,
        there.battery,
        there.inputs,
        there.outputs,
    )
    assert (got.ident, got.rating, got.outlets) == (there.ident, there.rating, there.outlets)
    assert got.ident.model == "Smart-UPS SRT 3000" and len(got.outlets) == 2
    usb.unit.mains(False)
    assert driver.poll().source is Source.BATTERY
    driver.order(Command.TEST_QUICK)
    assert usb.unit.written == [(1541, (0x0201,))]
    driver.close()


def test_no_request_is_for_more_than_a_report_carries_and_there_are_pauses(usb: Tunnel) -> None:
    driver = connect(usb.open())
    driver.poll()
    driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=60)
    counts = [int.from_bytes(report[5:7], "big") for _, report in usb.heard]
    assert max(counts) == 30 and sum(counts) >= 27 + 44 + 120 + 5
    waits = [b - a for (a, _), (b, _) in zip(usb.heard, usb.heard[1:], strict=False)]
    for wait, (_, before) in zip(waits, usb.heard, strict=False):
        assert wait >= (0.098 if before[2] == modbus.WRITE else 0.033)
    driver.close()


def test_reports_that_carry_no_modbus_are_passed_over(usb: Tunnel) -> None:
    usb.damage = lambda report: [b"\x07\x00", b"\x16\x0c\x00", report]
    driver = connect(usb.open())
    assert driver.poll().source is Source.MAINS
    assert driver.wake_fd is None
    driver.close()


def test_silence_is_a_link_error_that_names_the_panel_and_the_link_is_dead(usb: Tunnel) -> None:
    link = usb.open()
    usb.damage = lambda report: []
    began_s = time.monotonic()
    with pytest.raises(LinkError, match="switched on at the unit's panel"):
        link.ask(modbus.read_request(0, 27), within_s=0.1)
    assert time.monotonic() - began_s < 0.5
    usb.damage = lambda report: [report]
    with pytest.raises(LinkError):
        link.ask(modbus.read_request(0, 27))
    link.close()


def test_an_answer_that_nobody_awaits_is_not_taken_for_the_next(usb: Tunnel) -> None:
    link = usb.open()
    usb.damage = lambda report: [report]
    link.ask(modbus.read_request(588, 1))
    usb.kernel.open_as[next(iter(usb.kernel.open_as))][1].send(bytes((FROM, 1, 3, 2, 9, 9)).ljust(64, b"\0"))
    with pytest.raises(LinkError, match="unasked"):
        link.ask(modbus.read_request(589, 1))
    link.close()


@pytest.mark.parametrize(
    "answer",
    [
        bytes((FROM, 2, 3, 2, 0, 0)).ljust(64, b"\0"),  # another unit's
        bytes((FROM, 1, 3, 200)).ljust(64, b"\1"),  # longer than a report
        bytes((FROM, 1, 4, 2, 0, 0)).ljust(64, b"\0"),  # another function
        bytes((FROM, 1, 3, 2, 0, 0)),  # cut off
        bytes.fromhex("89204772").ljust(64, b"\0"),  # a fragment of another answer, as a real unit sent it
    ],
)
def test_a_wrong_answer_is_refused_and_the_link_is_dead(usb: Tunnel, answer: bytes) -> None:
    link = usb.open()
    usb.damage = lambda report: [answer]
    for _ in range(2):
        with pytest.raises(LinkError):
            modbus.parse_read(link.ask(modbus.read_request(0, 1), within_s=0.2).data, 1)
    assert len(usb.heard) == 1
    link.close()


def test_a_refusal_is_an_answer_and_the_link_goes_on(usb: Tunnel) -> None:
    link = usb.open()
    with pytest.raises(modbus.Refused, match="illegal address"):
        modbus.parse_read(link.ask(modbus.read_request(9000, 1)).data, 1)
    assert modbus.parse_read(link.ask(modbus.read_request(589, 1)).data, 1) == (2700,)
    link.close()


def test_a_unit_that_is_pulled_out_is_a_link_error(usb: Tunnel) -> None:
    driver = connect(usb.open())
    driver.poll()
    usb.hid.gone = True
    with pytest.raises(LinkError):
        driver.poll()
    driver.close()


@given(st.binary(max_size=70))
def test_any_report_is_an_answer_or_a_link_error(data: bytes) -> None:
    class Device:
        descriptor = bytes.fromhex(case(SMART_UPS_X)["descriptor"])
        wake_fd, told = 0, False

        def tell(self, data: bytes) -> None:
            self.told = True

        def inputs(self, limit: int) -> list[Reply]:
            return [Reply(bytes((FROM, 1)) + data, 1.0)] if self.told else []

        def close(self) -> None: ...

    link = modbususb.TunnelLink(Device(), lambda: 1000.0, 1)
    try:
        modbus.parse_read(link.ask(modbus.read_request(0, 27)).data, 27)
    except LinkError:
        pass


def test_a_serial_line_tcp_and_usb_exclude_each_other() -> None:
    for section in ({"port": "/dev/x", "usb_serial": "AS1"}, {"host": "127.0.0.1", "usb_vendor": "051d"}):
        with pytest.raises(LinkError, match="exclude each other"):
            modbus.open(section, time.monotonic)
