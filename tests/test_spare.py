"""The settings outlive the data partition: what is kept outside it brings the adapter back, secrets included."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import authority, backup, bus, config, enroll, process, provision, sealed, senderkey, spare, vault
from agent.config import Config
from agent.model import Condition, ConfigError, Source, Status, View
from agent.sealed import Area
from tests.test_provision import SETTINGS, SYSTEM, Box, box
from tests.test_sealed import area_of, card
from tests.test_seconds import SECOND, UNITS, offer

__all__ = ["box"]  # the fixture
KEY = senderkey.make("ridethrough")
MAINS = View(boot="b", now_s=0.0, wall_s=0.0, clock_synced=True, version="1", name="ups", started_s=0.0, mode="armed",
             driver="simulator", link="up")  # fmt: skip


def on(source: Source, phase: str = "idle") -> View:
    return replace(MAINS, phase=phase, status=Status(taken_s=0.0, source=source))


class Adapter:
    """A box with a card beside it: first start, then settings that only the page knows, then the timer."""

    def __init__(self, box: Box, area: Area) -> None:
        self.box, self.area, self.state = box, area, box.root / "state"
        box.places = replace(box.places, area=area, system=self.state / "system")
        self.view, self.now_s = MAINS, 1_790_000_000.0
        box.start(SETTINGS + SYSTEM)
        vault.write_private(self.state / "core" / senderkey.NAME, KEY)
        vault.write_private(self.state / f"faces/{enroll.FOLDER}/{authority.FILE}", b"the authority")
        (box.root / "commands.d").mkdir(exist_ok=True)
        (box.root / "commands.d/stop-vms").write_text("#!/bin/sh\n")
        (box.root / "commands.d/stop-vms").chmod(0o755)
        added = '\n[[server]]\nname = "added-on-the-page"\naddress = "192.0.2.10"\n'
        box.places.config.write_text(box.places.config.read_text() + added)

    def settings(self) -> Config:
        return process.load(self.box.places.config)[0]

    def tick(self) -> str:
        self.now_s += 600.0
        return spare.keep(self.area, self.box.places.config, self.settings(), lambda: self.view, self.now_s)

    def loses_its_data(self, bad: bool = True) -> None:
        """All that was on the data partition is gone; `bad`: memory is in its place, else it was made anew."""
        for folder in ("state", "etc", "commands.d"):
            shutil.rmtree(self.box.root / folder, ignore_errors=True)  # a reset may have been there
        if bad:
            (self.box.root / "run" / provision.DATA_BAD).write_text("Superblock invalid\n")


@pytest.fixture
def adapter(box: Box) -> Iterator[Adapter]:  # noqa: F811
    with card() as path:
        yield Adapter(box, area_of(path))


def everything(root: Path) -> dict[str, bytes]:
    """What must come back, by its place."""
    found = [p for folder in ("state", "etc", "commands.d") for p in (root / folder).rglob("*") if p.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


@pytest.mark.parametrize("bad", [True, False])
def test_a_start_without_the_data_partition_is_the_same_adapter(adapter: Adapter, bad: bool) -> None:
    before = everything(adapter.box.root)
    network = adapter.box.run_file("systemd/network/20-wired.network")
    wifi = adapter.box.run_file("wpa_supplicant/wpa_supplicant-wlan0.conf")
    assert "are in the spare place now" in adapter.tick()
    adapter.loses_its_data(bad)
    report = adapter.box.start()
    assert everything(adapter.box.root) == before
    assert [s.name for s in adapter.settings().servers] == ["nas", "added-on-the-page"]
    assert adapter.box.places.config.stat().st_mode & 0o777 == 0o644  # core and faces, two users, read it
    assert (adapter.state / "core" / senderkey.NAME).stat().st_mode & 0o777 == 0o600
    assert (adapter.box.root / "commands.d/stop-vms").stat().st_mode & 0o777 == 0o755
    assert adapter.box.run_file("systemd/network/20-wired.network") == network
    assert adapter.box.run_file("wpa_supplicant/wpa_supplicant-wlan0.conf") == wifi
    assert "were brought back" in report and "was taken over before" in report and "NOT" not in report
    problems = [p.text for p in process.load(adapter.box.places.config)[1]]
    if bad:
        assert "protects with the settings that were kept on 2026-09-2" in problems[0] and len(problems) == 1
        assert "A new one with these settings: put a file called recreate-data" in problems[0]
    else:
        assert problems == []


SECOND_FILES = ("core/secrets.json", f"core/{senderkey.NAME}", "faces/account.json")


def second(adapter: Adapter) -> Path:
    """A second UPS at work: its file on the boot partition is gone, what it is stands on the data partition alone."""
    offer(adapter.box, SECOND + '[system]\nsetup_code = "second code 7"\n')
    adapter.box.start()
    (adapter.box.boot / "ridethrough-rack-2.toml").unlink()
    folder = adapter.state / "rack-2"
    for name in SECOND_FILES:
        vault.write_private(folder / name, f"of the second: {name}".encode())
    own = adapter.box.places.config.with_name("rack-2.toml")
    own.write_text(own.read_text().replace("192.0.2.19", "192.0.2.119"))
    return own


@pytest.mark.parametrize("bad", [True, False])
def test_a_second_ups_is_protected_again_too(adapter: Adapter, bad: bool) -> None:
    own = second(adapter)
    before = everything(adapter.box.root)
    assert "are in the spare place now" in adapter.tick()
    assert "as they were" in spare.keep(
        adapter.area, adapter.box.places.config, adapter.settings(), lambda: adapter.view, 1_790_009_000.0
    ), "another minute is no change"
    adapter.loses_its_data(bad)
    report = adapter.box.start()
    assert everything(adapter.box.root) == before and b"192.0.2.119" in own.read_bytes()
    assert (adapter.state / "rack-2").stat().st_mode & 0o777 == 0o755
    assert adapter.box.started[-1] == UNITS and "https://ups-cellar.local:8443/" in report
    # its file put there again, as it was: what was changed since stays
    offer(adapter.box, SECOND + '[system]\nsetup_code = "second code 7"\n')
    assert "ridethrough-rack-2.toml: was taken over before" in adapter.box.start()


def test_a_second_ups_that_was_ended_does_not_come_back(adapter: Adapter) -> None:
    own = second(adapter)
    adapter.tick()
    own.unlink()
    assert "are in the spare place now" in adapter.tick()
    adapter.loses_its_data()
    adapter.box.start()
    assert not own.exists()


def test_a_second_ups_that_cannot_be_brought_back_is_said_and_the_first_protects(adapter: Adapter) -> None:
    second(adapter)
    adapter.tick()
    content = backup.unpack(sealed.read(adapter.area) or b"", spare.MORE)
    files = {**content.files, spare.SECONDS: b'{"rack-2": ["bm9uZQ==", ""]}'}
    sealed.write(adapter.area, backup.pack(backup.Content(files, content.programs)))
    adapter.loses_its_data()
    report = adapter.box.start()
    assert [s.name for s in adapter.settings().servers] == ["nas", "added-on-the-page"]
    assert "UPS rack-2: the backup cannot be unpacked" in report
    assert "UPS rack-2" in adapter.box.run_file("ridethrough-system/problems")


def test_without_it_the_page_s_servers_and_all_secrets_are_gone(adapter: Adapter) -> None:
    """What the spare place is for: only the boot partition's file is left, without its secrets."""
    adapter.box.places = replace(adapter.box.places, area=None)
    adapter.loses_its_data()
    report = adapter.box.start()
    assert "passphrase is missing" in report and not (adapter.state / "core" / senderkey.NAME).exists()


def test_what_is_changed_without_the_data_partition_is_kept_too(adapter: Adapter) -> None:
    adapter.tick()
    adapter.loses_its_data()
    adapter.box.start()
    text = adapter.box.places.config.read_text().replace("192.0.2.10", "192.0.2.110")
    adapter.box.places.config.write_text(text)
    assert "are in the spare place now" in adapter.tick()
    adapter.loses_its_data()
    adapter.box.start()
    assert "192.0.2.110" in adapter.box.places.config.read_text()


def test_a_good_data_partition_is_never_replaced(adapter: Adapter) -> None:
    adapter.tick()
    adapter.box.places.config.write_text(SETTINGS.replace("{root}", str(adapter.box.root)))
    assert "brought back" not in adapter.box.start()
    assert [s.name for s in adapter.settings().servers] == ["nas"]


def test_it_is_written_only_when_something_has_changed(adapter: Adapter) -> None:
    adapter.tick()
    before = adapter.area.device.read_bytes()
    adapter.view = on(Source.BATTERY)  # nobody even asks
    assert "as they were" in adapter.tick() and adapter.area.device.read_bytes() == before


@pytest.mark.parametrize(
    ("view", "written"),
    [
        (on(Source.MAINS), True),
        (on(Source.BOOST), True),
        (MAINS, True),  # no UPS yet: the settings are worth the same
        (on(Source.BATTERY), False),
        (on(Source.MAINS, "hold"), False),
        (on(Source.MAINS, "recovery"), False),
    ],
)
def test_it_is_written_on_mains_alone(adapter: Adapter, view: View, written: bool) -> None:
    adapter.tick()
    before = adapter.area.device.read_bytes()
    adapter.box.places.config.write_text("# another\n" + adapter.box.places.config.read_text())
    adapter.view = view
    adapter.tick()
    assert (adapter.area.device.read_bytes() != before) is written
    adapter.view = on(Source.MAINS)
    adapter.tick()
    adapter.loses_its_data()
    adapter.box.start()
    assert adapter.box.places.config.read_text().startswith("# another")


def test_a_factory_reset_erases_it(adapter: Adapter) -> None:
    adapter.tick()
    (adapter.box.boot / provision.FILE).unlink()
    (adapter.box.boot / provision.RESET).touch()
    assert "everything was forgotten." in adapter.box.start()
    for secret in (b"a-long-community", b"PRIVATE KEY", sealed.MAGIC):
        assert secret not in adapter.area.device.read_bytes()
    adapter.loses_its_data()
    assert "brought back" not in adapter.box.start() and adapter.settings().servers == ()


def test_a_reset_that_cannot_erase_it_forgets_nothing_and_tries_again(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter.tick()
    (adapter.box.boot / provision.FILE).unlink()
    (adapter.box.boot / provision.RESET).touch()

    def refuse(area: Area) -> None:
        raise OSError(5, "Input/output error", str(area.device))

    with monkeypatch.context() as patch:
        patch.setattr(sealed, "erase", refuse)
        assert "not everything is forgotten" in adapter.box.start() and len(adapter.settings().servers) == 2
        adapter.loses_its_data()
        assert "brought back" not in adapter.box.start() and adapter.settings().servers == ()  # a reset is under way
    adapter.loses_its_data()
    assert "brought back" not in adapter.box.start() and sealed.read(adapter.area) is None


def test_a_reset_without_the_data_partition_says_what_it_could_not_reach(adapter: Adapter) -> None:
    adapter.tick()
    adapter.loses_its_data()
    (adapter.box.boot / provision.RESET).touch()
    assert "recreate-data empties it" in adapter.box.start()


def test_a_damaged_one_is_said_and_stays_as_it_is(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sealed.write(adapter.area, b"of a version that packs otherwise")
    adapter.loses_its_data()
    report = adapter.box.start()
    assert "spare settings could not be brought back" in report
    assert "could not be brought back" in process.load(adapter.box.places.config)[1][0].text
    monkeypatch.setattr(spare, "RUN", tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="stays as it is"):
        spare.main(Namespace(config=adapter.box.places.config), Config(), lambda: MAINS)


def test_a_damaged_engine_of_snmp_costs_no_protection(adapter: Adapter) -> None:
    vault.write_private(adapter.state / "faces/snmp/engine.json", b"{")
    adapter.tick()
    adapter.loses_its_data()
    adapter.box.start()
    assert len(adapter.settings().servers) == 2 and not (adapter.state / "faces/snmp/engine.json").exists()


@pytest.mark.parametrize("place", [0, 1])
def test_of_two_records_the_one_that_is_whole_comes_back(adapter: Adapter, place: int) -> None:
    path = adapter.box.places.config
    first = path.read_text()
    adapter.tick()
    path.write_text(second := first.replace("192.0.2.10", "192.0.2.110"))
    adapter.tick()
    at = adapter.area.at + place * sealed.PLACE_BYTES
    torn = bytearray(adapter.area.device.read_bytes())
    torn[at + 512 : at + 1024] = bytes(512)
    adapter.area.device.write_bytes(torn)
    adapter.loses_its_data(bad=False)
    adapter.box.start()
    assert path.read_text() == (second if place == 0 else first)


def test_root_follows_no_link_of_the_faces(adapter: Adapter) -> None:
    """What faces put into their folder comes back to them: it must not be another's."""
    for name, target in (("faces/account.json", "core/sender.pem"), ("faces/snmp", "core")):
        path = adapter.state / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(adapter.state / target)
        with pytest.raises(ConfigError, match=name):
            adapter.tick()
        path.unlink()
    os.mkfifo(adapter.state / "faces/account.json")
    with pytest.raises(ConfigError, match="no plain file"):
        adapter.tick()


def test_what_is_in_it_is_all_of_a_backup_and_what_was_taken_over(adapter: Adapter) -> None:
    adapter.tick()
    found = backup.unpack(sealed.read(adapter.area) or b"", spare.MORE)
    assert "system/taken.json" in found.files and "system/system.json" in found.files
    assert not {name for name in found.files if name in backup.DROPPED}
    assert json.loads(found.files["system/system.json"])["wifi"]["psk"]


def test_a_record_of_a_newer_version_serves_the_one_that_came_back(adapter: Adapter) -> None:
    adapter.tick()
    found = backup.unpack(sealed.read(adapter.area) or b"", spare.MORE)
    newer = backup.pack(replace(found, files={**found.files, "core/of-tomorrow": b"x", "../etc/passwd": b"x"}))
    with pytest.raises(ConfigError, match="does not belong there"):
        backup.unpack(newer)  # of a backup nobody knows where it was
    sealed.write(adapter.area, newer)
    adapter.loses_its_data()
    adapter.box.start()
    assert len(adapter.settings().servers) == 2 and not (adapter.state / "core/of-tomorrow").exists()


def run_by_the_timer(adapter: Adapter, monkeypatch: pytest.MonkeyPatch, area: Area) -> Path:
    """`ridethrough spare` as its unit runs it; where core and page find what is wrong."""
    told = adapter.box.root / "run/ridethrough-spare/problem"
    monkeypatch.setattr(process, "SPARE_PROBLEM", told)
    monkeypatch.setattr(sealed, "find", lambda: area)
    monkeypatch.setattr(spare, "RUN", adapter.box.root / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    spare.main(Namespace(config=adapter.box.places.config), adapter.settings(), lambda: adapter.view)
    return told


def test_a_spare_place_that_is_not_written_is_a_mistake_on_the_page_until_it_is(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(adapter.area, device=adapter.box.root / "gone")
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="No such file"):
        run_by_the_timer(adapter, patch, wrong)
    told = adapter.box.root / "run/ridethrough-spare/problem"
    assert told.stat().st_mode & 0o777 == 0o644  # the core is another user
    monkeypatch.setattr(process, "SPARE_PROBLEM", told)
    (problem,) = process.load(adapter.box.places.config)[1]
    assert "The spare settings could not be kept: " in problem.text and "No such file" in problem.text
    assert problem.section not in config.PROTECTING
    # on battery nothing is tried: it stays said
    with monkeypatch.context() as patch:
        adapter.view = on(Source.BATTERY)
        assert run_by_the_timer(adapter, patch, adapter.area).exists()
    adapter.view = on(Source.MAINS)
    with monkeypatch.context() as patch:
        assert not run_by_the_timer(adapter, patch, adapter.area).exists()
    assert process.load(adapter.box.places.config)[1] == () and sealed.read(adapter.area) is not None


CORE = """
import sys
from pathlib import Path
from agent import core, process
process.BOOT_PROBLEMS, process.SPARE_PROBLEM = Path(sys.argv[2]), Path(sys.argv[3])
sys.exit(core.main(Path(sys.argv[1])))
"""


def test_the_core_sees_it_at_once_and_reads_no_configuration_for_it(tmp_path: Path) -> None:
    path, told = tmp_path / "ridethrough.toml", tmp_path / "spare problem"
    text = f'[agent]\nstate_dir = "{tmp_path}"\nrun_dir = "{tmp_path}"\n[ups]\ndriver = "simulator"\n'
    path.write_text(text)
    child = subprocess.Popen([sys.executable, "-c", CORE, path, tmp_path / "boot problems", told])
    try:
        assert errors_within(tmp_path, 20.0, lambda found: found == [])
        path.write_text(text + "[nonsense]\n")  # somebody is writing it
        told.write_text("The spare settings could not be kept: the card is failing\n")
        said = ["The spare settings could not be kept: the card is failing"]
        assert errors_within(tmp_path, 10.0, lambda found: found == said)
        names = [row["name"] for row in bus.ask(str(tmp_path / "core.sock"), EVENTS)["events"]]
        assert Condition.CONFIG_ERROR.value in names and "config-changed" not in names
        told.unlink()
        assert errors_within(tmp_path, 10.0, lambda found: found == [])
    finally:
        child.terminate()
        assert child.wait(10) == 0


EVENTS = {"type": "query", "what": "events"}


def errors_within(run_dir: Path, within_s: float, right: Callable[[list[str]], bool]) -> bool:
    """Does what the core says of its configuration become right?"""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            view = bus.ask(str(run_dir / "core.sock"), {"type": "query", "what": "status"})["view"]
            if right(view["config_errors"]):
                return True
        except bus.BusError:
            pass  # not there yet
        time.sleep(0.05)
    return False


def test_a_host_that_is_not_the_image_has_no_spare_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "find", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="not started from a card"):
        spare.main(Namespace(config=Path("x")), Config(), lambda: MAINS)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="only root"):
        spare.main(Namespace(config=Path("x")), Config(), lambda: MAINS)
