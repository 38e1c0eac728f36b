"""A second UPS on the image: its own file on the boot partition, its own services, apart from the first."""

from __future__ import annotations

import configparser
import json
import os
import shutil
from pathlib import Path

import pytest

from agent import bootfile, process, provision, seconds, vault
from agent.hostsetup import System
from image import machine
from image import test as look
from tests.test_place import place
from tests.test_provision import KEY, SETTINGS, Box, box  # noqa: F401 - a fixture

IMAGE = Path(__file__).parent.parent / "image/files/etc/systemd/system"
FIRST = SETTINGS + '[web]\nlisten = "[::]:443"\n'
SECOND = """
[agent]
name = "rack-2"
state_dir = "{root}/state/rack-2"
run_dir = "/run/ridethrough-rack-2"
commands_dir = "{root}/commands.d"
[ups]
driver = "simulator"
[web]
listen = "[::]:8443"
[[server]]
name = "files"
address = "192.0.2.19"
"""
UNITS = ("ridethrough-core@rack-2.service", "ridethrough-faces@rack-2.service")


def offer(box: Box, text: str, name: str = "rack-2") -> None:  # noqa: F811
    (box.boot / seconds.file_of(name)).write_text(text.replace("{root}", str(box.root)))


def test_its_file_is_taken_over_and_its_services_are_started(box: Box) -> None:  # noqa: F811
    offer(
        box, SECOND + '[system]\nsetup_code = "second code 7"\n[system.secrets]\nmonitoring = "another-community"\n'
    )
    report = box.start(FIRST)
    assert "ridethrough-rack-2.toml: taken over." in report and "its secrets were removed" in report
    assert (
        "UPS rack-2: https://ridethrough.local:8443/" in report and "Set-up code of rack-2: second code 7" in report
    )
    assert box.started == [UNITS]
    settings, problems = process.load(box.places.config.with_name("rack-2.toml"))
    assert problems == () and [s.name for s in settings.servers] == ["files"]
    assert [s.name for s in process.load(box.places.config)[0].servers] == ["nas"]
    own = box.root / "state/rack-2"
    assert own.stat().st_mode & 0o777 == 0o755, "core and faces are other users and must get through"
    assert vault.read(own / "faces/secrets.json") == {"monitoring": "another-community"}
    assert (own / "faces/first-password").read_text() == "second code 7\n" != box.first_password()
    left = (box.boot / "ridethrough-rack-2.toml").read_text()
    assert "second code" not in left and "another-community" not in left
    # at the next start it runs again; its file may be gone
    box.start()
    assert box.started == [UNITS, UNITS]
    (box.boot / "ridethrough-rack-2.toml").unlink()
    assert "https://ridethrough.local:8443/" in box.start() and box.started == [UNITS] * 3


def test_without_one_nothing_is_started_nor_said(box: Box) -> None:  # noqa: F811
    report = box.start(FIRST)
    assert box.started == [] and "rack-2" not in report and not list(box.places.config.parent.glob("rack*"))


HAS = "ridethrough.toml has this port already"
#: what is in the file -> what is said of it
WRONG = {
    "the first one's state": (
        SECOND.replace("/state/rack-2", "/state"),
        '[agent] state_dir: must be "{root}/state/rack-2" for this UPS',
    ),
    "the first one's bus": (
        SECOND.replace("run_dir = ", "# "),
        '[agent] run_dir: must be "/run/ridethrough-rack-2" for this UPS',
    ),
    "the first one's port": (SECOND.replace("8443", "443"), f'[web] listen = "[::]:443": {HAS}'),
    "its SNMP port": (SECOND + '[snmp]\nlisten = "0.0.0.0:1161"\n', f'[snmp] listen = "0.0.0.0:1161": {HAS}'),
    "whatever is there": (SECOND.replace('"simulator"', '"auto"'), "each must say which one is its own"),
    "the host": (SECOND + '[system]\nhostname = "other"\n', "[system]: the host itself is set up in"),
    "no UPS": ('[system]\nsetup_code = "second code 7"\n', "write its whole configuration into it"),
    "a mistake": (SECOND.replace("listen", "lissen"), "lissen: unknown option"),
    "the wrong key": (SECOND + f'[system]\nssh_keys = ["{KEY}"]\n', "[system]: the host itself"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_a_second_one_is_said_and_the_first_goes_on(box: Box, name: str) -> None:  # noqa: F811
    text, why = WRONG[name]
    offer(box, text)
    report = box.start(FIRST)
    assert "ridethrough.toml: taken over." in report
    assert "ridethrough-rack-2.toml: NOT taken over" in report and why.replace("{root}", str(box.root)) in report
    assert "The UPS rack-2 runs with nothing: it is not looked at" in report
    assert box.started == [] and not (box.places.config.parent / "rack-2.toml").exists()
    assert "ridethrough-rack-2.toml of the boot partition: " in box.run_file("ridethrough-system/problems")
    # mended
    offer(box, SECOND)
    assert "ridethrough-rack-2.toml: taken over." in box.start() and box.started == [UNITS]
    assert box.run_file("ridethrough-system/problems") == ""
    # and spoilt again: as it was
    offer(box, text)
    assert "The UPS rack-2 runs with what it had before" in box.start() and box.started == [UNITS, UNITS]


def test_a_first_one_that_takes_any_ups_is_said(box: Box) -> None:  # noqa: F811
    offer(box, SECOND)
    report = box.start(FIRST.replace('"simulator"', '"auto"'))
    assert '[ups] driver = "auto", here or in ridethrough.toml: with a second UPS each must say' in report
    assert box.started == []


def test_a_first_one_that_takes_the_port_of_the_second_later_is_said(box: Box) -> None:  # noqa: F811
    offer(box, SECOND)
    assert "UPS rack-2: [web]" not in box.start(FIRST)
    report = box.start(FIRST.replace("[::]:443", "0.0.0.0:8443"))
    line = 'UPS rack-2: [web] listen = "[::]:8443": ridethrough.toml has this port already'
    assert line in report and line in box.run_file("ridethrough-system/problems")
    assert box.started == [UNITS, UNITS], "it protects all the same"


def test_three_of_them_have_ports_of_their_own(box: Box) -> None:  # noqa: F811
    offer(box, SECOND)
    offer(box, SECOND.replace("rack-2", "rack-3"), "rack-3")
    report = box.start(FIRST)
    assert '[web] listen = "[::]:8443": ridethrough-rack-2.toml has this port already' in report
    offer(box, SECOND.replace("rack-2", "rack-3").replace("8443", "8444"), "rack-3")
    box.start()
    assert box.started[-2:] == [UNITS, tuple(u.replace("rack-2", "rack-3") for u in UNITS)]


@pytest.mark.parametrize(
    "name", ["core", "faces", "system", "ridethrough", "Rack", "rack 2", "-x", "x" * 32, "a.b", "ä"]
)
def test_a_name_that_no_unit_or_folder_can_have_is_said(box: Box, name: str) -> None:  # noqa: F811
    offer(box, SECOND, name)
    report = box.start(FIRST)
    assert f"ridethrough-{name}.toml: NOT taken over: a second UPS is called by 1 to 31 small letters" in report
    assert box.started == [] and f"ridethrough-{name}.toml" in box.run_file("ridethrough-system/problems")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("Ridethrough-rack-2.toml", "call it ridethrough-rack-2.toml"),
        ("RIDETHROUGH-RACK-2.TOML", "call it ridethrough-rack-2.toml"),
        ("ridethrough-rack-2.toml.txt", "call it ridethrough-rack-2.toml (Windows may hide how a name ends)"),
    ],
)
def test_a_file_that_is_called_nearly_so_is_said(box: Box, name: str, remedy: str) -> None:  # noqa: F811
    """On FAT it is the same name; what Windows adds nobody sees there. It must not be passed over in silence."""
    (box.boot / name).write_text(SECOND)
    assert f"{name}: NOT taken over: {remedy}." in box.start(FIRST) and box.started == []
    assert f"{name} of the boot partition: {remedy}" in box.run_file("ridethrough-system/problems")
    (box.boot / name).unlink()
    assert name not in box.start()


def test_a_damaged_name_on_the_partition_is_no_reason_for_no_report(box: Box) -> None:  # noqa: F811
    (box.boot / os.fsdecode(b"ridethrough-\xff\x1b[2J.toml")).write_text(SECOND)
    assert "ridethrough-\\udcff\\x1b[2J.toml: NOT taken over: a second UPS is called by" in box.start(FIRST)


LINE = 'driver = "megatec"\nport = "/dev/serial/by-id/usb-one"\n'
SAME = "ridethrough.toml means the same UPS: each must say which one is its own"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (LINE, LINE, True),
        (LINE, LINE.replace("megatec", "apcsmart") + "baud = 9600\n", True),
        (LINE, LINE.replace("usb-one", "usb-two"), False),
        ('driver = "usbhid"\n', 'driver = "usbhid"\n', True),
        ('driver = "usbhid"\nusb_serial = "A1"\n', 'driver = "usbhid"\nusb_serial = "A2"\n', False),
        ('driver = "nut"\nhost = "192.0.2.5"\n', 'driver = "nut"\nhost = "192.0.2.6"\n', False),
    ],
)
def test_two_that_mean_the_same_ups_are_said(box: Box, first: str, second: str, same: bool) -> None:  # noqa: F811
    """With one of the two plugged in, both would protect by it, and nobody would look at the other."""
    offer(box, SECOND.replace('driver = "simulator"\n', second))
    report = box.start(FIRST.replace('driver = "simulator"\n', first))
    assert (SAME in report) is same and bool(box.started) is not same, report


def test_services_that_do_not_start_are_said_on_the_page(box: Box) -> None:  # noqa: F811
    def refuse(units: object) -> None:
        raise OSError(5, "cannot be started: no bus", "ridethrough-core@rack-2.service")

    offer(box, SECOND)
    (box.boot / provision.FILE).write_text(FIRST.replace("{root}", str(box.root)))
    said = provision.run(provision.replace(box.places, start=refuse))
    line = "UPS rack-2: ridethrough-core@rack-2.service: cannot be started: no bus"
    assert line in said and line in box.run_file("ridethrough-system/problems")


def test_a_factory_reset_forgets_it_too(box: Box) -> None:  # noqa: F811
    offer(box, SECOND)
    box.start(FIRST)
    for name in (provision.FILE, "ridethrough-rack-2.toml"):
        (box.boot / name).unlink()
    (box.boot / provision.RESET).touch()
    assert "everything was forgotten" in box.start() and box.started == [UNITS]
    assert not (box.root / "state/rack-2").exists() and not (box.places.config.parent / "rack-2.toml").exists()


def test_a_factory_reset_forgets_one_that_was_ended_and_is_not_done_before_it_has(
    box: Box,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(box, SECOND + '[system]\nsetup_code = "second code 7"\n')
    box.start(FIRST)
    left = box.root / "state/rack-2/faces/first-password"
    assert left.exists()
    for path in (box.boot / "ridethrough-rack-2.toml", box.boot / provision.FILE):
        path.unlink()
    box.places.config.with_name("rack-2.toml").unlink()  # ended, as docs/first-boot.md has it
    (box.root / "state/theirs").mkdir()
    (box.boot / provision.RESET).touch()
    remove = shutil.rmtree

    def refuse(path: Path, **more: bool) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        assert "not everything is forgotten; tried again at the next start" in box.start() and left.exists()
    assert shutil.rmtree is remove and "everything was forgotten." in box.start()
    assert not (box.root / "state/rack-2").exists() and (box.root / "state/theirs").exists()


def test_its_units_on_the_image_keep_their_state_on_the_data_partition() -> None:
    for name, folder in (("core", "core"), ("faces", "faces")):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        text = (IMAGE / f"ridethrough-{name}@.service.d/data.conf").read_text()
        parser.read_string(text)
        assert text.index("StateDirectory=\n") < text.index(f"StateDirectory=ridethrough/%i/{folder}\n")
        unit = place.files()[f"{place.UNITS}/ridethrough-{name}@.service"]
        assert "--config /etc/ridethrough/%i.toml" in unit
    from agent.config import Config

    assert seconds.folders("rack-2", Config()) == {
        "state_dir": "/var/lib/ridethrough/rack-2", "run_dir": "/run/ridethrough-rack-2",
    }  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [(machine.SERIAL, look.USB), (look.USB, machine.SERIAL)])
def test_what_the_image_test_puts_on_its_card_is_taken_over(first: str, second: str) -> None:
    ours = bootfile.read(machine.settings(6003, first).encode(), System(), lambda zone: True)
    its = bootfile.read(machine.second_settings(6004, second).encode(), System(), lambda zone: True)
    assert ours.settings is not None and its.settings is not None and its.setup_code == machine.SECOND_CODE
    assert seconds.wrong(machine.SECOND, its, ours.settings, {}) == []
    for settings in (ours.settings, its.settings):
        assert settings.mode == "armed" and len(settings.servers) == 1 and settings.servers[0].address == machine.HOST


def test_what_is_kept_of_the_first_is_untouched_by_the_second(box: Box) -> None:  # noqa: F811
    box.start(FIRST + '[system]\nhostname = "ups-cellar"\n')
    before = json.loads((box.root / "system/system.json").read_text())
    offer(box, SECOND)
    assert "ridethrough.toml: was taken over before" in box.start() and box.names[-1] == "ups-cellar"
    assert json.loads((box.root / "system/system.json").read_text()) == before
