"""libusb in the place of hidraw: the same reports by control transfers, and the kernel's driver given back."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import usb.core

from agent import hid, hidusb, usbdevice
from agent.drivers import usbhid
from agent.model import Command, LinkError, Source
from tests.simulators.hidunit import HidUnit

ENDPOINT = SimpleNamespace(bEndpointAddress=0x81, bmAttributes=3, wMaxPacketSize=8)


class Device:
    """What pyusb makes of a unit: control and interrupt transfers, as the wire has them."""

    bDeviceClass = 0

    def __init__(self, unit: HidUnit, numbered: bool = True) -> None:
        self.unit, self.numbered = unit, numbered
        self.idVendor, self.idProduct, self.bus, self.port_numbers = *unit.identity[:2], 1, (2, 3)
        self.manufacturer, self.product, self.serial_number = unit.identity[2:5]
        keyboard = SimpleNamespace(bInterfaceClass=1, bInterfaceNumber=0)
        hid = Interface(bInterfaceClass=3, bInterfaceNumber=1, endpoints=[ENDPOINT])
        self.configuration = [keyboard, hid]
        self.other_descriptor: bytes | None = b""  # of a second HID interface, number 0; None: it stalls
        self.kernel_driver = True
        self.log: list[str] = []
        self.interrupts: queue.Queue[bytes | None] = queue.Queue()  # None: nothing comes in time
        self.overflow = self.halted = False
        self.clears = True  # what is halted runs again when it is cleared

    def __iter__(self) -> Iterator[Any]:
        return iter([self.configuration])

    def get_active_configuration(self) -> Any:
        return self.configuration

    def is_kernel_driver_active(self, interface: int) -> bool:
        return self.kernel_driver

    def detach_kernel_driver(self, interface: int) -> None:
        self.kernel_driver = False

    def attach_kernel_driver(self, interface: int) -> None:
        self.kernel_driver = True

    def ctrl_transfer(self, kind: int, request: int, value: int, index: int, data: Any, timeout: int) -> Any:
        assert timeout <= 5000
        if index == 0:
            if self.other_descriptor is None:
                raise usb.core.USBError("Pipe error", -9, 32)
            return self.other_descriptor
        assert index == 1
        if self.unit.gone:
            raise usb.core.USBError("No such device", -4, 19)
        if (kind, request) == (0x81, 6):
            assert value == 0x2200
            return self.unit.descriptor[:data]
        if (kind, request) == (0x21, 9):
            body = bytes(data)
            if not self.unit.put(body if self.numbered else b"\0" + body):
                raise usb.core.USBError("Pipe error", -9, 32)
            return len(body)
        assert (kind, request) == (0xA1, 1)
        try:
            reply = self.unit.get({1: "input", 3: "feature"}[value >> 8], value & 0xFF, 64)
        except LinkError:
            raise usb.core.USBTimeoutError("Operation timed out", -7, 110) from None
        if reply is None:
            raise usb.core.USBError("Pipe error", -9, 32)
        whole = reply.data if self.numbered else reply.data[1:]
        if self.overflow and data < 64:
            raise usb.core.USBError("Overflow", -8, 75)
        return whole[:data]

    def read(self, endpoint: int, size: int, timeout: int) -> bytes:
        assert (endpoint, size) == (0x81, 8)
        if self.unit.gone:
            raise usb.core.USBError("No such device", -4, 19)
        if self.halted:
            raise usb.core.USBError("Pipe error", -9, 32)
        with contextlib.suppress(queue.Empty):
            if (data := self.interrupts.get(timeout=timeout / 1000)) is not None:
                return data
        raise usb.core.USBTimeoutError("Operation timed out", -7, 110)

    def clear_halt(self, endpoint: int) -> None:
        assert endpoint == 0x81
        self.log.append("clear_halt")
        self.halted = not self.clears


class Interface(SimpleNamespace):
    def __iter__(self) -> Iterator[Any]:
        return iter(self.endpoints)


@pytest.fixture
def device() -> Device:
    return Device(HidUnit.of("0764"))


KEYBOARD = bytes.fromhex("05010906a101c0")


def opened(device: Device, *others: Device, sys: Path = usbdevice.SYS, **section: str) -> hidusb.HidUsbLink:
    return hidusb.open(section, time.monotonic, lambda: [device, *others], SimpleNamespace(**util(device)), sys=sys)


def know(sys: Path, place: str, interface: int, descriptor: bytes) -> None:
    """The kernel's HID driver has this interface."""
    folder = sys / f"{place}:1.{interface}" / "0003:1234:0001.0007"
    folder.mkdir(parents=True)
    (folder / "report_descriptor").write_bytes(descriptor)


def util(device: Device) -> dict[str, Any]:
    names = ("claim_interface", "release_interface", "dispose_resources")
    return {name: lambda *args, name=name: device.log.append(name) for name in names}


def test_the_driver_reads_a_real_unit_through_it(device: Device) -> None:
    link = opened(device)
    assert link.descriptor == device.unit.descriptor and link.identity.place == "1-2.3"
    driver = usbhid.connect({}, link, time.monotonic)
    status = driver.poll()
    assert (status.source, status.battery.charge_pct, status.inputs[0].voltage_v) == (Source.MAINS, 100, 121)
    driver.order(Command.BEEPER_OFF)
    assert device.unit.reports["feature", 0x0C] == b"\x0c\x01"
    driver.close()


def test_the_strings_are_those_that_the_kernel_has_read_and_no_device_is_asked_for_them(
    device: Device, tmp_path: Path
) -> None:
    folder = tmp_path / "1-2.3"
    folder.mkdir()
    for name, text in (("idVendor", "0764"), ("idProduct", "0501"), ("product", "Of the kernel"), ("serial", "K1")):
        (folder / name).write_text(text + "\n")
    assert usbdevice.identity(device, tmp_path) == (0x0764, 0x0501, "", "Of the kernel", "K1", "1-2.3")
    (folder / "idProduct").write_text("0601\n")  # another device by now
    assert usbdevice.identity(device, tmp_path).serial == device.serial_number


def test_the_kernels_driver_is_taken_off_and_given_back(device: Device) -> None:
    link = opened(device)
    assert not device.kernel_driver and device.log == ["claim_interface"]
    link.close()
    link.close()
    assert device.kernel_driver and device.log == ["claim_interface", "release_interface", "dispose_resources"]


def test_the_kernels_driver_is_given_back_also_by_a_device_that_does_not_let_go(device: Device) -> None:
    def fails(*_: Any) -> None:
        raise usb.core.USBError("Input/Output Error", -1, 5)

    names = {**util(device), "release_interface": fails}
    hidusb.open({}, time.monotonic, lambda: [device], SimpleNamespace(**names)).close()
    assert device.kernel_driver and device.log[-1] == "dispose_resources"


def test_of_two_hid_interfaces_the_power_device_is_taken_and_the_other_left_as_it_was(device: Device) -> None:
    device.configuration[0] = Interface(bInterfaceClass=3, bInterfaceNumber=0, endpoints=[])
    device.other_descriptor = KEYBOARD
    link = opened(device)
    assert link.descriptor == device.unit.descriptor
    assert device.log == ["claim_interface", "release_interface", "dispose_resources", "claim_interface"]
    link.close()


def keyboard(device: Device, sys: Path) -> Device:
    """One beside the UPS, with the kernel's driver."""
    other = Device(HidUnit(KEYBOARD, {}, device.unit.identity._replace(vendor=0x1234, name="Keyboard", serial="")))
    other.port_numbers = (2, 4)
    know(sys, "1-2.4", 1, KEYBOARD)
    return other


def test_a_keyboard_keeps_its_driver_and_is_never_taken_for_a_second_ups(device: Device, tmp_path: Path) -> None:
    other = keyboard(device, tmp_path)
    know(tmp_path, "1-2.3", 1, device.unit.descriptor)
    link = opened(device, other, sys=tmp_path)
    assert link.descriptor == device.unit.descriptor
    link.close()
    with pytest.raises(LinkError, match="no USB UPS; there are: none"):
        opened(other, sys=tmp_path)
    assert other.log == [] and other.kernel_driver


def test_a_first_interface_that_stalls_does_not_hide_the_second(device: Device) -> None:
    device.configuration[0] = Interface(bInterfaceClass=3, bInterfaceNumber=0, endpoints=[])
    device.other_descriptor = None
    link = opened(device)
    assert link.descriptor == device.unit.descriptor and device.log.count("release_interface") == 1
    link.close()


def test_a_device_without_a_configuration_is_given_back_and_nothing_stays_open(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Any:
        raise usb.core.USBError("Configuration not set")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(device, "get_active_configuration", fails)
    with pytest.raises(LinkError, match="Configuration not set"):
        opened(device)
    assert device.kernel_driver and len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(("errno", "remedy"), [(13, "may not open .* 1-2.3; .*udev rule"), (16, "another program")])
def test_why_a_device_cannot_be_opened_is_told_with_what_helps(device: Device, errno: int, remedy: str) -> None:
    def fails(*_: Any) -> None:
        raise usb.core.USBError("not now", -3, errno)

    with pytest.raises(LinkError, match=remedy):
        names = {**util(device), "claim_interface": fails}
        hidusb.open({}, time.monotonic, lambda: [device], SimpleNamespace(**names))


@pytest.mark.parametrize("ours", [False, True])
def test_a_device_that_another_program_has_is_not_reset_but_one_that_a_read_of_ours_holds_is(
    device: Device, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, meant = threading.Event(), []

    def fails(*_: Any) -> None:
        raise usb.core.USBError("Resource busy", -6, 16)

    if ours:
        monkeypatch.setattr(device, "read", lambda *_: hung.wait(10) and b"")
        monkeypatch.setattr(hidusb, "CLOSE_WITHIN_S", 0.01)
        first = opened(device)
        first.close()
    with pytest.raises(LinkError, match="another program"):
        names = {**util(device), "claim_interface": fails}
        hidusb.open({}, time.monotonic, lambda: [device], SimpleNamespace(**names), meant.append)
    hung.set()
    if ours:
        first._thread.join(10)
    assert meant == (["1-2.3"] if ours else ["1-2.3", ""])


def test_a_read_that_outlives_the_link_writes_into_nobodys_file(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reading, hung = threading.Event(), threading.Event()

    def hangs(*_: Any) -> bytes:
        reading.set()
        hung.wait(10)
        return b"\x0b\x00"

    monkeypatch.setattr(device, "read", hangs)
    monkeypatch.setattr(hidusb, "CLOSE_WITHIN_S", 0.01)
    monkeypatch.setattr(threading, "excepthook", lambda failed: died.append(failed.exc_value))
    died: list[Any] = []
    link = opened(device)
    assert reading.wait(10)
    link.close()
    assert not device.kernel_driver, "libusb still has it"
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((tmp_path / f"{n}").open("wb", 0)) for n in range(4)]
        hung.set()
        link._thread.join(10)
        assert [Path(file.name).read_bytes() for file in files] == [b""] * 4
    assert died == [] and device.kernel_driver and device.log[-2:] == ["release_interface", "dispose_resources"]


def test_a_hid_device_that_is_no_power_device_is_left_alone(device: Device) -> None:
    device.unit.descriptor, meant = KEYBOARD, []
    with pytest.raises(LinkError, match="is no power device"):
        hidusb.open({}, time.monotonic, lambda: [device], SimpleNamespace(**util(device)), meant.append)
    assert device.kernel_driver and meant == ["1-2.3", ""], "nor is its port reset"


def test_a_kernel_driver_that_was_not_there_is_not_put_there(device: Device) -> None:
    device.kernel_driver = False
    opened(device).close()
    assert not device.kernel_driver


def test_a_unit_without_a_descriptor_is_given_back_at_once(device: Device) -> None:
    device.unit.gone = True
    with pytest.raises(LinkError, match="is gone; plug the UPS in again"):
        opened(device)
    assert device.kernel_driver and "release_interface" in device.log


def test_interrupt_reports_wake_the_thread_of_the_ups(device: Device) -> None:
    link = opened(device)
    assert link.inputs(4) == []
    device.interrupts.put(b"\x0b\x00")
    begin_s = time.monotonic()
    assert link.wake_fd is not None and select.select([link.wake_fd], [], [], 1.0)[0]
    assert time.monotonic() - begin_s < 0.2
    assert [reply.data for reply in link.inputs(4)] == [b"\x0b\x00"]
    assert not select.select([link.wake_fd], [], [], 0)[0]
    link.close()


@pytest.mark.parametrize(("lost", "comes"), [(None, True), (4, False)])
def test_a_report_of_several_packets_is_one_report_and_its_end_is_no_other(lost: int | None, comes: bool) -> None:
    device = Device(HidUnit.of("075d"))
    lengths = hid.parse(device.unit.descriptor).lengths
    ((_, number), length) = max(((key, n) for key, n in lengths.items() if key[0] == "input"), key=lambda one: one[1])
    report, other = bytes([number]) * length, bytes([next(n for k, n in lengths if k == "input" and n != number), 0])
    link = opened(device)
    packets = [report[at : at + 8] for at in range(0, length, 8)]
    assert len(packets) == 5
    for place, packet in enumerate(packets):
        device.interrupts.put(packet if place != lost else None)
    device.interrupts.put(other)
    got: list[bytes] = []
    while other not in got:
        assert link.wake_fd is not None and select.select([link.wake_fd], [], [], 1.0)[0], got
        got += [reply.data for reply in link.inputs(9)]
    assert got == ([report] if comes else []) + [other]
    link.close()


def test_a_unit_that_is_gone_is_given_up_without_a_pause_between_the_polls(device: Device) -> None:
    """As with hidraw, whose node stays readable: it shall be looked for at once."""
    link = opened(device)
    device.unit.gone = True
    for _ in range(3):
        assert link.wake_fd is not None and select.select([link.wake_fd], [], [], 1.0)[0]
        with pytest.raises(LinkError, match="No such device"):
            link.inputs(4)
    link.close()


def test_the_configurations_of_hubs_are_not_read(device: Device) -> None:
    class Hub(Device):
        bDeviceClass = 9

        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("its configurations are read")

    hub = Hub(device.unit)
    assert hidusb.open({}, time.monotonic, lambda: [hub, device], SimpleNamespace(**util(device))).descriptor


@pytest.mark.parametrize("clears", [True, False])
def test_a_halted_endpoint_is_cleared_once_and_then_the_unit_is_opened_anew(device: Device, clears: bool) -> None:
    device.halted, device.clears = True, clears
    link = opened(device)
    device.interrupts.put(b"\x0b\x00")
    assert link.wake_fd is not None and select.select([link.wake_fd], [], [], 1.0)[0]
    if clears:
        assert [reply.data for reply in link.inputs(4)] == [b"\x0b\x00"]
    else:
        with pytest.raises(LinkError, match="interrupt reports: .*Pipe error"):
            link.inputs(4)
    assert device.log.count("clear_halt") == 1
    link.close()


def test_a_refused_report_is_none_and_a_lost_one_a_link_error(device: Device) -> None:
    link = opened(device)
    assert link.get("feature", 0xEE, 3) is None and link.put(b"\xee\x01") is False
    device.unit.lost.add(0x0F)
    with pytest.raises(LinkError, match="timed out"):
        link.get("feature", 0x0F, 3)
    device.unit.gone = True
    with pytest.raises(LinkError, match="not written"):
        link.put(b"\x0c\x01")
    assert link.wake_fd is not None and select.select([link.wake_fd], [], [], 1.0)[0]
    with pytest.raises(LinkError, match="No such device"):
        link.inputs(4)
    link.close()


def test_a_report_longer_than_described_is_asked_for_with_room(device: Device) -> None:
    link = opened(device)
    device.overflow = True
    reply = link.get("feature", 0x0F, 3)
    assert reply is not None and reply.data == b"\x0f\x79\x00"
    link.close()


def test_a_unit_that_is_not_there_is_a_link_error_with_what_there_is(device: Device) -> None:
    with pytest.raises(LinkError, match="no USB UPS usb_serial=ZZ; there are: 0764:0501 CyberPower"):
        opened(device, usb_serial="ZZ")
