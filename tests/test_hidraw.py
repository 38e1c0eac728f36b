"""hidraw: units are found and told apart, reports read and written, and each way in which that fails."""

from __future__ import annotations

import errno
import os
import select
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent import hidraw, link, process, usbdevice
from agent.drivers import usbhid
from agent.hidraw import Identity
from agent.model import Command, LinkError, Source
from agent.ups import Polled, Ups
from agent.usbport import Rescue
from tests.simulators.hidkernel import UnitKernel, plug
from tests.simulators.hidunit import HidUnit


@dataclass
class Machine:
    """A folder like /sys with units in it."""

    root: Path
    kernel: UnitKernel = field(default_factory=lambda: UnitKernel({}))

    def plug(self, unit: HidUnit, number: int = 0, place: str = "1-1", name: str | None = None) -> HidUnit:
        self.kernel.units[plug(self.root, unit, number, place, name)] = unit
        return unit

    def unplug(self, number: int) -> None:
        entry = self.root / "class" / f"hidraw{number}"
        shutil.rmtree((entry / "device").resolve().parent.parent)
        shutil.rmtree(entry)

    def find(self) -> list[hidraw.Found]:
        return hidraw.find(self.root / "class", self.root / "dev")

    def open(self, **section: str) -> hidraw.HidrawLink:
        it = hidraw.open(section, time.monotonic, sys=self.root / "class", dev=self.root / "dev", kernel=self.kernel)
        assert isinstance(it, hidraw.HidrawLink)
        return it


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(usbdevice, "_sockets", {})
    monkeypatch.setattr(usbdevice, "_twins", set())
    return Machine(tmp_path)


def test_the_request_numbers_are_those_of_the_kernels_header() -> None:
    assert (hidraw.RDESC_SIZE, hidraw.RDESC) == (0x80044801, 0x90044802)
    assert (hidraw.set_feature(9), hidraw.get_feature(9)) == (0xC0094806, 0xC0094807)
    assert hidraw.get_input(9) == 0xC009480A


# --- finding -------------------------------------------------------------------------------------------------------


def test_a_power_device_is_found_among_other_hid_devices(machine: Machine) -> None:
    machine.plug(HidUnit(bytes.fromhex("05010906a101c0"), {}, Identity(0x046D, 0xC31C, "", "Keyboard")), 0, "1-2")
    machine.plug(HidUnit.of("0764"), 1)
    (found,) = machine.find()
    assert found.node.name == "hidraw1"
    assert found.identity == Identity(0x0764, 0x0501, "Maker", "CyberPower CP1500PFCLCD", "S1", "1-1")
    assert machine.open().identity == found.identity


def test_a_mouse_that_tells_of_its_battery_is_no_ups(machine: Machine) -> None:
    mouse = "05010902a1010901a10005091901290315002501950375018102c005850944150025019501750181020584c0"
    assert not hidraw.is_power_device(bytes.fromhex(mouse))
    machine.plug(HidUnit(bytes.fromhex(mouse), {}, Identity(0x046D, 0xC539, "", "Mouse")), 0, "1-2")
    machine.plug(HidUnit.of("0764"), 1)
    assert machine.open().identity.vendor == 0x0764


@pytest.mark.parametrize("name", ["0463-ffff-eaton-9px", "05dd", "051d-0003", "075d", "09ae", "0d9f", "10af", "1cb0"])
def test_every_real_unit_is_taken_for_a_power_device_with_report_ids(name: str) -> None:
    descriptor = HidUnit.of(name).descriptor
    assert hidraw.is_power_device(descriptor) and hidraw.has_ids(descriptor)


def test_two_equal_units_are_told_apart_by_serial_number_or_socket(machine: Machine) -> None:
    for number, serial in enumerate(("A1", "B2")):
        unit = HidUnit.of("0764")
        unit.identity = unit.identity._replace(serial=serial)
        machine.plug(unit, number, f"1-1.{number}")
    with pytest.raises(LinkError, match="2 USB UPSes fit.*serial A1 at 1-1.0.*set usb_serial or usb_place"):
        machine.open()
    assert machine.open(usb_serial="B2").identity.place == "1-1.1"
    assert machine.open(usb_place="1-1.0").identity.serial == "A1"
    with pytest.raises(LinkError, match="no USB UPS usb_serial=C3; there are: 0764:0501"):
        machine.open(usb_serial="C3")


@pytest.mark.parametrize("section", [{}, {"usb_vendor": "0764", "usb_product": "0501"}, {"usb_place": "1-1.0"}])
def test_a_unit_that_has_lost_its_serial_number_is_taken_if_nothing_else_could_be_meant(
    machine: Machine, section: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    unit = HidUnit.of("0764")
    unit.identity = unit.identity._replace(serial="")
    machine.plug(unit, 0, "1-1.0")
    assert machine.open(usb_serial="S1", **section).identity.place == "1-1.0"
    assert "0764:0501 CyberPower CP1500PFCLCD at 1-1.0 says no serial number; it is taken for S1" in caplog.text
    machine.plug(HidUnit.of("0764"), 1, "1-1.1")  # S1 itself
    assert machine.open(usb_serial="S1").identity.place == "1-1.1"
    with pytest.raises(LinkError, match="no USB UPS usb_serial=S2"):
        machine.open(usb_serial="S2")


def test_of_two_equal_units_one_that_has_lost_its_serial_number_is_known_by_its_socket(machine: Machine) -> None:
    """Both drop off when the mains fails, and come back one after the other, without their serial numbers."""

    def plug(number: int, serial: str, place: str) -> None:
        unit = HidUnit.of("0764")
        unit.identity = unit.identity._replace(serial=serial)
        machine.plug(unit, number, place)

    plug(0, "A1", "1-1.0")
    plug(1, "B2", "1-1.1")
    assert [machine.open(usb_serial=one).identity.place for one in ("A1", "B2")] == ["1-1.0", "1-1.1"]
    machine.unplug(0)
    machine.unplug(1)
    plug(2, "", "1-1.1")
    with pytest.raises(LinkError, match="no USB UPS usb_serial=A1"):
        machine.open(usb_serial="A1")  # the other's place
    assert machine.open(usb_serial="B2").identity.place == "1-1.1"
    plug(3, "", "1-1.0")
    assert [machine.open(usb_serial=one).identity.place for one in ("A1", "B2")] == ["1-1.0", "1-1.1"]


def test_a_unit_with_another_serial_number_is_never_taken_nor_one_of_another_kind(machine: Machine) -> None:
    unit = HidUnit.of("0764")
    unit.identity = unit.identity._replace(serial="")
    machine.plug(unit)
    with pytest.raises(LinkError, match="no USB UPS"):
        machine.open(usb_serial="S1", usb_vendor="051d")
    machine.plug(HidUnit.of("0463-ffff-eaton-prot"), 1, "1-2")
    with pytest.raises(LinkError, match="no USB UPS"):
        machine.open(usb_serial="S2")


@pytest.mark.parametrize("section", [{"usb_vendor": "0x0764"}, {"usb_vendor": "764", "usb_product": "0501"}])
def test_ids_may_be_written_in_any_usual_way(machine: Machine, section: dict[str, str]) -> None:
    machine.plug(HidUnit.of("0764"))
    machine.plug(HidUnit.of("0463-ffff-eaton-prot"), 1, "1-2")
    assert machine.open(**section).identity.vendor == 0x0764


def test_without_a_unit_the_error_says_what_to_do(machine: Machine) -> None:
    with pytest.raises(LinkError, match="no USB UPS; there are: none; see them with: lsusb"):
        machine.open()


def test_a_unit_that_may_not_be_opened_names_the_udev_rule(machine: Machine) -> None:
    machine.plug(HidUnit.of("0764"))
    machine.kernel.refuse_open = errno.EACCES
    with pytest.raises(LinkError, match='ATTRS{idVendor}=="0764".*MODE="0660"'):
        machine.open()
    machine.kernel.refuse_open = errno.ENODEV
    with pytest.raises(LinkError, match="plug the UPS in again"):
        machine.open()


def test_a_unit_whose_group_may_open_it_names_the_group(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The udev rule is there, and whoever runs this is not in dialout."""
    machine.plug(HidUnit.of("0764"))
    machine.kernel.refuse_open = errno.EACCES
    machine.find()[0].node.touch()
    machine.find()[0].node.chmod(0o660)
    monkeypatch.setattr(link.grp, "getgrgid", lambda _: SimpleNamespace(gr_name="dialout"))
    with pytest.raises(LinkError, match="mend with: sudo usermod -aG dialout "):
        machine.open()
    monkeypatch.setattr(link.grp, "getgrgid", lambda _: SimpleNamespace(gr_name="root"))
    with pytest.raises(LinkError, match="udev rule"):
        machine.open()


def test_a_link_rests_between_two_looks(machine: Machine) -> None:
    machine.plug(HidUnit.of("0764"))
    opened, begin_s = machine.open(), time.monotonic()
    opened.rest(0.02)
    assert time.monotonic() - begin_s >= 0.02


def test_a_half_removed_device_does_not_hide_the_others(machine: Machine) -> None:
    machine.plug(HidUnit.of("0463-ffff-eaton-prot"))
    machine.plug(HidUnit.of("0764"), 1, "1-2")
    (machine.root / "class" / "hidraw0" / "device" / "uevent").write_text("")
    assert [f.identity.vendor for f in machine.find()] == [0x0764]


def test_a_unit_without_strings_is_named_by_the_kernel(machine: Machine) -> None:
    unit = HidUnit.of("0764")
    unit.identity = Identity(0x0764, 0x0501)
    machine.plug(unit, name="")
    assert machine.open().identity.name == "Raw Name"


# --- reports -------------------------------------------------------------------------------------------------------


def test_the_driver_reads_a_real_unit_through_it(machine: Machine) -> None:
    unit = machine.plug(HidUnit.of("0764"))
    link = machine.open()
    assert link.descriptor == unit.descriptor
    status = usbhid.connect({}, link, time.monotonic).poll()
    assert (status.source, status.battery.charge_pct, status.inputs[0].voltage_v) == (Source.MAINS, 100, 121)


def test_a_refused_report_is_none_and_a_lost_one_a_link_error(machine: Machine) -> None:
    machine.plug(HidUnit.of("0764"))
    link = machine.open()
    machine.kernel.fails = {0x0F: errno.EPIPE, 0x12: errno.ETIMEDOUT, 0x13: errno.EIO, 0x14: errno.ENODEV}
    assert link.get("feature", 0x0F, 3) is None
    for report in (0x12, 0x13, 0x14):
        with pytest.raises(LinkError, match=f"report {report:#04x}"):
            link.get("feature", report, 3)
    assert link.put(b"\x0f\x00") is False
    with pytest.raises(LinkError, match="not written"):
        link.put(b"\x12\x00\x00")


def test_a_report_longer_than_described_is_asked_for_once_more_with_room_and_then_always(machine: Machine) -> None:
    machine.plug(HidUnit.of("0764"))
    link = machine.open()
    machine.kernel.long = {0x0F}
    for _ in range(2):
        reply = link.get("feature", 0x0F, 3)
        assert reply is not None and reply.data == b"\x0f\x79\x00"
    assert machine.kernel.sizes == [3, 256, 256]


def test_interrupt_reports_are_taken_without_waiting_and_wake_the_poll(machine: Machine) -> None:
    machine.plug(HidUnit.of("0764"))
    link = machine.open()
    assert link.inputs(4) == [] and link.wake_fd is not None
    for _ in range(3):
        machine.kernel.push(0x0B)
    assert select.select([link.wake_fd], [], [], 0)[0]
    assert [reply.data for reply in link.inputs(2)] == [b"\x0b\x11"] * 2
    assert len(link.inputs(9)) == 1


def test_reports_that_filled_the_kernels_buffer_are_too_old_to_be_believed(machine: Machine) -> None:
    """As after a stop of the machine: the kernel drops what comes to a full buffer, so the newest are not there."""
    unit = HidUnit.of("0764")
    machine.plug(unit)
    driver = usbhid.connect({}, machine.open(), time.monotonic)
    assert driver.poll().source is Source.MAINS
    for _ in range(63):
        machine.kernel.push(0x0B)
    unit.mains(False)
    assert driver.poll().source is Source.BATTERY
    driver.close()


def test_a_unit_without_report_ids_has_id_0_in_front(machine: Machine) -> None:
    descriptor = bytes.fromhex("05840904a1010924a1000585150025017501950109d0810209d0b102c0c0")
    unit = machine.plug(
        HidUnit(descriptor, {("feature", 0): b"\0\1", ("input", 0): b"\1"}, Identity(0x1234, 1, "", "Bare"))
    )
    link = machine.open()
    driver = usbhid.connect({}, link, time.monotonic)
    assert driver.poll().source is Source.MAINS
    unit.reports["input", 0] = b"\0"
    machine.kernel.push(0)
    assert driver.poll().source is Source.BATTERY


def test_an_unplugged_unit_is_a_link_error_and_closing_twice_is_none(machine: Machine) -> None:
    unit = machine.plug(HidUnit.of("0764"))
    link = machine.open()
    unit.gone = True
    with pytest.raises(LinkError, match="No such device"):
        link.inputs(4)
    with pytest.raises(LinkError):
        link.get("feature", 0x0F, 3)
    link.close()
    link.close()
    assert machine.kernel.open_as == {}


def test_a_descriptor_that_cannot_be_had_closes_the_device_again(machine: Machine) -> None:
    machine.plug(HidUnit(bytes.fromhex("05840904a101") + bytes(5000), {}, Identity(1, 2)))
    with pytest.raises(LinkError, match="descriptor of 5006 bytes"):
        machine.open()
    assert machine.kernel.open_as == {}


def test_the_real_calls_are_made_on_a_real_descriptor(tmp_path: Path) -> None:
    """What Linux says to a file that is no hidraw device: ENOTTY, from each call."""
    node = tmp_path / "hidraw0"
    node.write_bytes(b"")
    calls = hidraw.Linux()
    fd = calls.open(node)
    for request, size in ((hidraw.RDESC_SIZE, 4), (hidraw.RDESC, 4100), (hidraw.get_feature(9), 9)):
        with pytest.raises(OSError) as e:
            calls.ioctl(fd, request, bytearray(size))
        assert e.value.errno == errno.ENOTTY
    assert calls.read(fd, 10) == b""
    calls.close(fd)
    with pytest.raises(OSError):
        os.fstat(fd)


# --- in the thread of the UPS --------------------------------------------------------------------------------------


class Running:
    """The ups thread with the driver on a machine."""

    def __init__(self, machine: Machine, poll_s: float, back_off_s: tuple[float, ...] = ()) -> None:
        self.polled: list[tuple[float, Polled]] = []
        self.seen = 0
        self.arrived = threading.Condition()
        self.stop = threading.Event()
        self.ups = Ups(
            lambda: usbhid.connect({}, machine.open(usb_serial="S1"), time.monotonic),
            self.take,
            poll_s,
            Rescue(time.monotonic),
            back_off_s,
        )
        self.thread = threading.Thread(target=self.ups.run, args=(self.stop,))
        self.thread.start()

    def take(self, polled: Polled) -> None:
        with self.arrived:
            self.polled.append((time.monotonic(), polled))
            self.arrived.notify_all()

    def until(self, source: Source | None, within_s: float) -> float:
        """When the next frame of this source (None: failed poll) came, counted from the one that was found before."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.next(source) is not None, within_s)
            found = self.next(source)
            assert found is not None
            self.seen = found + 1
            return self.polled[found][0]

    def next(self, source: Source | None) -> int | None:
        return next((n for n in range(self.seen, len(self.polled)) if self.is_it(self.polled[n][1], source)), None)

    @staticmethod
    def is_it(polled: Polled, source: Source | None) -> bool:
        return (
            polled.status is None if source is None else polled.status is not None and polled.status.source is source
        )

    def end(self) -> None:
        self.stop.set()
        self.ups.wake()
        self.thread.join(5)


def test_a_mains_failure_is_in_the_core_at_once_however_seldom_it_polls(machine: Machine) -> None:
    unit = machine.plug(HidUnit.of("051d-0002-back-ups-bx"))
    running = Running(machine, poll_s=30.0)
    try:
        running.until(Source.MAINS, 2.0)
        for report in (0x16, 0x13):
            unit.reports["input", report] = unit.reports["feature", report] = bytes([report]) + (
                b"\x0a\0\0\0" if report == 0x16 else b"\0"
            )
        cut_s = time.monotonic()
        machine.kernel.push(0x16)
        assert running.until(Source.BATTERY, 2.0) - cut_s < 0.3
    finally:
        running.end()


def test_the_pause_is_a_quarter_of_a_second_for_a_usb_unit_and_a_few_for_a_line() -> None:
    assert process.back_off_s("usbhid", {}) == (0.25,)
    assert process.back_off_s("megatec", {"port": "/dev/ttyS0"}) == link.BACK_OFF_S and max(link.BACK_OFF_S) <= 4.0
    assert process.back_off_s("simulator", {}) == process.back_off_s("", {}) == ()
    assert process.back_off_s("megatec", {})[-1] <= 5.0


@pytest.mark.parametrize("away_s", [0.0, 0.15])
def test_a_unit_that_comes_back_under_another_number_is_found_again_at_the_end_of_a_pause(
    machine: Machine, away_s: float
) -> None:
    unit = machine.plug(HidUnit.of("0764"))
    running = Running(machine, poll_s=30.0, back_off_s=(0.05,))
    try:
        running.until(Source.MAINS, 2.0)
        unit.gone = True
        machine.kernel.hang_up()
        for _ in range(3):
            running.until(None, 2.0)
        time.sleep(away_s)
        (machine.root / "class" / "hidraw0" / "device").unlink()
        (machine.root / "class" / "hidraw0").rmdir()
        machine.plug(HidUnit.of("0764"), 5, "1-3")
        back_s = time.monotonic()
        assert running.until(Source.MAINS, 3.0) - back_s < 0.3
        running.ups.order(Command.BEEPER_OFF, {})
    finally:
        running.end()
