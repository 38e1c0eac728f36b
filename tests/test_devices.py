"""What is plugged in, from a folder like /sys; and a serial adapter that comes back under another number (F22)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from agent import devices, link
from agent.devices import Port
from agent.hidraw import Identity
from agent.model import LinkError

UPS = Identity(0x067B, 0x2303, "Prolific", "USB-Serial", "A1", "1-1.2")


class Machine:
    """A /sys and a /dev in a folder."""

    def __init__(self, root: Path) -> None:
        self.sys, self.dev, self.usb = root / "tty", root / "dev", root / "usb"
        for folder in (
            self.sys / "console",
            self.dev / "serial" / "by-id",
            self.dev / "serial" / "by-path",
            self.usb,
        ):
            folder.mkdir(parents=True)
        (self.sys / "console" / "active").write_text("tty0 ttyS0\n")

    def plug(self, name: str, who: Identity | None = UPS, by: str = "by-id", part: str = "1.0", at: int = 0) -> str:
        """`part`: the interface of the adapter; `at`: the number of the port behind it."""
        device = self.usb / "platform" / name
        if who is not None:
            usb = self.usb / who.place
            usb.mkdir(exist_ok=True)
            device = usb / f"{who.place}:{part}" / name
            numbers = {"idVendor": f"{who.vendor:04x}", "idProduct": f"{who.product:04x}", "bDeviceClass": "00"}
            texts = {"manufacturer": who.maker, "product": who.name, "serial": who.serial}
            for file, text in {**numbers, **texts}.items():
                (usb / file).write_text(text + "\n")
            lasting = self.dev / "serial" / by / f"usb-{who.name}-{name}"
            lasting.unlink(missing_ok=True)
            lasting.symlink_to(self.dev / name)
        device.mkdir(parents=True, exist_ok=True)
        (device / "port_number").write_text(f"{at}\n")
        (self.sys / name).mkdir()
        (self.sys / name / "device").symlink_to(device)
        (self.dev / name).write_text("")
        return str(self.dev / name)

    def unplug(self, name: str) -> None:
        (self.sys / name / "device").unlink()
        (self.sys / name).rmdir()
        (self.dev / name).unlink()

    def ports(self) -> list[Port]:
        return devices.ports(self.sys, self.dev)

    def follow(self, port: str, was: dict[str, Identity]) -> str:
        """`was`: who the adapter of each was; of one with several ports its first."""
        return self.follow_port(port, {name: Port(Path(name), who, part="1.0/0") for name, who in was.items()})

    def follow_port(self, port: str, was: dict[str, Port]) -> str:
        return link.follow(port, was, self.sys, self.dev)

    def port(self, name: str) -> Port:
        found = devices.port(name, self.sys, self.dev)
        assert found is not None
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_serial_ports_are_listed_with_their_lasting_names_and_without_the_console(machine: Machine) -> None:
    machine.plug("ttyS0", None)
    machine.plug("ttyS1", None)
    machine.plug("ttyUSB10")
    machine.plug("ttyUSB2", UPS._replace(serial="", place="1-3"), "by-path")
    machine.plug("tty1", None)
    (machine.sys / "ttyS3").mkdir()  # the kernel has a number for it, and no hardware
    found = machine.ports()
    assert [p.node.name for p in found] == ["ttyS1", "ttyUSB2", "ttyUSB10"]
    assert [p.usb and p.usb.place for p in found] == [None, "1-3", "1-1.2"]
    assert "by-path" in found[1].name and "by-id" in found[2].name and found[0].name.endswith("/ttyS1")


def test_usb_devices_are_listed_without_hubs(machine: Machine) -> None:
    machine.plug("ttyUSB0")
    hub = machine.usb / "usb1"
    hub.mkdir()
    for file, text in (("idVendor", "1d6b"), ("idProduct", "0002"), ("bDeviceClass", "09")):
        (hub / file).write_text(text + "\n")
    assert devices.usb_devices(machine.usb) == [UPS]
    assert devices.usb_devices(machine.usb / "nowhere") == []


def test_an_adapter_that_comes_back_under_another_number_is_followed(machine: Machine) -> None:
    port = machine.plug("ttyUSB0")
    was = {port: UPS}
    assert machine.follow(port, was) == port and machine.follow(port, {}) == port
    machine.unplug("ttyUSB0")
    assert machine.follow(port, was) == port, "it is nowhere: the error names the port that was configured"
    other = machine.plug("ttyUSB1")
    assert machine.follow(port, was) == other


def test_no_other_device_is_grabbed_that_has_got_the_number(machine: Machine) -> None:
    port = machine.plug("ttyUSB0", UPS._replace(serial="GPS", place="1-4"))
    with pytest.raises(LinkError, match="is another device now.*or restart the agent if this is its new adapter"):
        machine.follow(port, {port: UPS})
    other = machine.plug("ttyUSB1")
    assert machine.follow(port, {port: UPS}) == other
    nameless = UPS._replace(serial="", place="1-5")  # a twin in another socket is not it
    machine.plug("ttyUSB2", UPS._replace(serial="", place="1-6"))
    with pytest.raises(LinkError, match="is another device now"):
        machine.follow(port, {port: nameless})


@pytest.mark.parametrize("parts", [("1.0", 0, "1.1", 0), ("1.0", 0, "1.0", 1)], ids=["interfaces", "ports of one"])
def test_of_an_adapter_with_several_ports_the_same_port_is_followed(
    machine: Machine, parts: tuple[str, int, str, int]
) -> None:
    part, number, other_part, other_number = parts
    machine.plug("ttyUSB0", part=part, at=number)
    mine = machine.plug("ttyUSB1", part=other_part, at=other_number)
    was = {mine: machine.port(mine)}
    assert machine.follow_port(mine, was) == mine
    machine.unplug("ttyUSB0")
    machine.unplug("ttyUSB1")
    machine.plug("ttyUSB0", part=part, at=number)
    assert machine.follow_port(mine, was) == mine, "the first is there before the second"
    machine.plug("ttyUSB2", part=other_part, at=other_number)
    assert machine.follow_port(mine, was) == str(machine.dev / "ttyUSB2")
    machine.unplug("ttyUSB0")
    machine.plug("ttyUSB1", part=part, at=number)
    assert machine.follow_port(mine, was) == str(machine.dev / "ttyUSB2"), "the name is the other port's now"
    machine.unplug("ttyUSB2")
    with pytest.raises(LinkError, match="is another device now"):
        machine.follow_port(mine, was)


def test_the_udev_rule_of_a_usb_adapter_is_in_the_text_where_no_group_may(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = machine.plug("ttyUSB0")
    monkeypatch.setattr(link.grp, "getgrgid", lambda _: SimpleNamespace(gr_name="root"))
    monkeypatch.setattr(devices, "port", lambda path: Port(Path(path), UPS))
    text = link.remedy(port, PermissionError(13, "no"))
    assert 'SUBSYSTEM=="tty", ATTRS{idVendor}=="067b", ATTRS{idProduct}=="2303", GROUP="dialout", MODE="0660"' in text
