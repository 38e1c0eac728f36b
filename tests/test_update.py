"""An update is written only if it is signed and the time is good; until it has proven itself the old slot stays."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import socket
import subprocess
import tarfile
import threading
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import bundle, trial, twoslots, update, vault, verbs
from agent.__main__ import parser
from agent.config import Config, Web
from agent.model import VERSION, Battery, Condition, ConfigError, Source, Status, View
from agent.twoslots import Card
from image import root
from tests.fakecore import FakeCore

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
CONFIG = "arm_64bit=1\nkernel=vmlinuz\ninclude select.txt\n"
FILES = {"vmlinuz": b"new kernel", "initrd.img": b"new initrd", "cmdline.txt": b"slot=b", "overlays/x.dtbo": b"x"}
ROOT = b"hsqs" + bytes(5_000_000)


def tar(files: Mapping[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        for name, data in files.items():
            row = tarfile.TarInfo(name)
            row.size, row.type, row.linkname = len(data) if kind == tarfile.REGTYPE else 0, kind, "/etc/passwd"
            out.addfile(row, io.BytesIO(data))
    return made.getvalue()


def make(
    tmp_path: Path, version: str = "9.0", slot: bytes = tar(FILES), root: bytes = ROOT, board: str = ""
) -> bytes:
    paths = [(bundle.SLOT, tmp_path / "slot"), (bundle.ROOT, tmp_path / "root")]
    for (_, path), data in zip(paths, (slot, root), strict=True):
        path.write_bytes(data)
    head = bundle.seal(paths, version, 1_780_000_000, update.board(), bytes(range(32)))
    return head + slot + root


@pytest.fixture
def card(tmp_path: Path) -> Card:
    boot = tmp_path / "boot"
    for slot in "ab":
        (boot / slot).mkdir(parents=True)
        (boot / slot / "vmlinuz").write_bytes(b"old kernel")
        (tmp_path / f"root-{slot}").write_bytes(b"old" + bytes(6_000_000))
    (boot / "config.txt").write_text(CONFIG)
    (boot / "select.txt").write_text("os_prefix=a/\n")
    roots = {slot: tmp_path / f"root-{slot}" for slot in "ab"}
    return Card(boot=boot, roots=roots, state=tmp_path / "state", running="a")


def install(card: Card, data: bytes, keys: tuple[bytes, ...] = (PUBLIC,)) -> list[str]:
    said: list[str] = []
    stream = io.BytesIO(data)
    update.install(stream, bundle.read_head(stream, keys), card, said.append)
    return said


def tree(card: Card) -> dict[str, str]:
    """Every byte that a start could see, by digest."""
    paths = [p for p in card.boot.rglob("*") if p.is_file()] + list(card.roots.values())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_a_good_update_fills_the_other_slot_and_waits_for_its_trial(card: Card, tmp_path: Path) -> None:
    before = tree(card)
    said = install(card, make(tmp_path))
    assert card.roots["b"].read_bytes()[: len(ROOT)] == ROOT
    assert {
        str(p.relative_to(card.boot / "b")): p.read_bytes() for p in (card.boot / "b").rglob("*") if p.is_file()
    } == FILES
    assert (card.boot / "tryboot.txt").read_text() == CONFIG.replace("include select.txt", "os_prefix=b/")
    assert card.selected() == "a" and [p.name for p in card.state.iterdir()] == ["update.lock"]
    after = tree(card)
    mine = [p for p in before if "/a/" in p or p.endswith(("root-a", "config.txt", "select.txt"))]
    assert len(mine) == 4 and all(before[p] == after[p] for p in mine)
    assert any("100 %" in line for line in said)


def test_the_kernel_is_told_the_slot_that_it_was_written_to(card: Card, tmp_path: Path) -> None:
    install(card, make(tmp_path, slot=tar({**FILES, "cmdline.txt": b"quiet ridethrough.slot=a ro\n"})))
    assert (card.boot / "b/cmdline.txt").read_text() == "quiet ridethrough.slot=b ro\n"


@pytest.mark.parametrize("at", range(0, 700, 13))
def test_one_changed_bit_is_noticed_wherever_it_is(card: Card, tmp_path: Path, at: int) -> None:
    data = bytearray(make(tmp_path))
    at = at if at < 500 else at * 7000 % len(data)
    data[at] ^= 1
    with pytest.raises(ConfigError):
        install(card, bytes(data))
    assert card.selected() == "a" and not (card.boot / "tryboot.txt").exists()


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.0002, 0.01, 0.5, 0.9999])
def test_an_update_that_is_cut_changes_no_start(card: Card, tmp_path: Path, share: float) -> None:
    data = make(tmp_path)
    with pytest.raises(ConfigError):
        install(card, data[: int(len(data) * share)])
    assert card.selected() == "a" and not (card.boot / "tryboot.txt").exists()


def test_another_key_is_not_trusted(card: Card, tmp_path: Path) -> None:
    before = tree(card)
    with pytest.raises(ConfigError, match="not signed by a key that this adapter trusts"):
        install(card, make(tmp_path), (bytes(32), b"x" * 32))
    assert tree(card) == before
    install(card, make(tmp_path), (bytes(32), PUBLIC))


@pytest.mark.parametrize("name", ["../select.txt", "/etc/x", "a//b", ".hidden", "x/../../y", "a b"])
def test_a_file_of_the_slot_stays_in_its_folder(card: Card, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="does not belong there"):
        install(card, make(tmp_path, slot=tar({**FILES, name: b"os_prefix=b/\n"})))
    assert card.selected() == "a" and not (card.boot / "tryboot.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_only_plain_files(card: Card, tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ConfigError, match="does not belong there"):
        install(card, make(tmp_path, slot=tar({"vmlinuz": b""}, kind)))


def test_a_slot_without_a_kernel_is_refused(card: Card, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vmlinuz, initrd\.img, cmdline\.txt is missing"):
        install(card, make(tmp_path, slot=tar({"x": b"y"})))
    assert not (card.boot / "tryboot.txt").exists()


def test_a_partition_that_is_too_small_or_gone_is_named(card: Card, tmp_path: Path) -> None:
    card.roots["b"].unlink()
    with pytest.raises(ConfigError, match="root-b: No such file or directory; slot a stays in use"):
        install(card, make(tmp_path))


def test_a_card_that_forgets_is_found_out(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_nothing(stream: io.BytesIO, part: bundle.Part, write: object, done: object = None) -> None:
        stream.read(part.bytes)

    monkeypatch.setattr(bundle, "copy_part", write_nothing)
    with pytest.raises(ConfigError, match="cannot be read back: the card is failing"):
        update._write_root(io.BytesIO(ROOT), bundle.Part(bundle.ROOT, len(ROOT), "0" * 64), card.roots["b"], print)


def test_a_kernel_that_the_card_forgets_is_found_out(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = update._write

    def forgets(path: Path, data: bytes) -> tuple[int, str]:
        said = write(path, data)
        if path.name == "vmlinuz":
            path.write_bytes(bytes(len(data)))
        return said

    monkeypatch.setattr(update, "_write", forgets)
    with pytest.raises(ConfigError, match="vmlinuz: what was written cannot be read back"):
        install(card, make(tmp_path))
    assert not (card.boot / "tryboot.txt").exists()


def test_what_was_checked_is_what_is_unpacked(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check of the signed bytes and their unpacking somebody, or a bad disk, puts others there."""
    write_root, other = update._write_root, tar({**FILES, "vmlinuz": b"evil kernel"})

    def meanwhile(*args: object) -> None:
        write_root(*args)  # type: ignore[arg-type]
        (card.state / "slot.tar").write_bytes(other)  # the very file
        (card.state / "slot.tar").unlink()  # and another one under its name
        (card.state / "slot.tar").write_bytes(other)

    monkeypatch.setattr(update, "_write_root", meanwhile)
    with pytest.raises(ConfigError, match=r"slot\.tar: what was written cannot be read back"):
        install(card, make(tmp_path))
    assert card.selected() == "a" and not (card.boot / "tryboot.txt").exists()


def test_a_link_in_the_place_of_the_kept_slot_is_not_followed(card: Card, tmp_path: Path) -> None:
    card.state.mkdir()
    (tmp_path / "victim").write_text("precious")
    (card.state / "slot.tar").symlink_to(tmp_path / "victim")
    install(card, make(tmp_path))
    assert (tmp_path / "victim").read_text() == "precious"


def test_bytes_behind_the_end_are_refused(card: Card, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="goes on after its end"):
        install(card, make(tmp_path) + b"x")
    assert card.selected() == "a" and not (card.boot / "tryboot.txt").exists()


def test_nothing_in_an_update_is_decompressed(card: Card, tmp_path: Path) -> None:
    for pack in (gzip.compress, lzma.compress, bz2.compress):
        with pytest.raises(ConfigError, match=r"slot\.tar"):
            install(card, make(tmp_path, slot=pack(tar(FILES))))
        assert not (card.boot / "tryboot.txt").exists()


def test_a_slot_of_many_files_or_of_one_name_twice_is_refused(card: Card, tmp_path: Path) -> None:
    many = {f"f{number}": b"" for number in range(update.SLOT_FILES_LIMIT + 1)}
    with pytest.raises(ConfigError, match="more than 200 MiB or 2000 files"):
        install(card, make(tmp_path, slot=tar(many)))
    twice = tar({"vmlinuz": b"good"})[:1024] + tar({**FILES, "vmlinuz": b"evil"})
    with pytest.raises(ConfigError, match="'vmlinuz' does not belong there"):
        install(card, make(tmp_path, slot=twice))


def test_a_root_that_does_not_fit_is_refused_before_a_byte_of_it_is_written(card: Card, tmp_path: Path) -> None:
    before = card.roots["b"].read_bytes()
    with pytest.raises(ConfigError, match="root-b: 7000000 bytes do not fit into its 6000003"):
        install(card, make(tmp_path, root=bytes(7_000_000)))
    assert card.roots["b"].read_bytes() == before


def test_a_copy_of_the_card_beside_it_is_not_written(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same marks, so the name of a partition may mean either."""
    sys_block, devices = tmp_path / "sys", tmp_path / "devices"
    sys_block.mkdir()
    for name, number in (("mmcblk0/mmcblk0p1", "179:1"), ("mmcblk0/mmcblk0p2", "179:2"), ("sda/sda3", "8:3")):
        (devices / name).mkdir(parents=True)
        (sys_block / number).symlink_to(devices / name)
    assert twoslots.disk(os.makedev(179, 1), sys_block) == twoslots.disk(os.makedev(179, 2), sys_block)
    assert twoslots.disk(os.makedev(8, 3), sys_block) != twoslots.disk(os.makedev(179, 2), sys_block)
    real = Path.stat

    class Found:
        def __init__(self, number: int, device: int, mode: int) -> None:
            self.st_rdev, self.st_dev, self.st_mode = number, device, mode

    numbers = {card.roots["a"]: (179, 2), card.roots["b"]: (8, 3), card.boot: (179, 1)}

    def looks(self: Path, **kwargs: bool) -> object:
        found = os.makedev(*numbers[self]) if self in numbers else 0
        return Found(found, found, 0o60000) if found else real(self, **kwargs)

    with monkeypatch.context() as disks:
        disks.setattr(Path, "stat", looks)
        with pytest.raises(ConfigError, match="root-b is on another disk than .*: is there a copy of the card"):
            twoslots.of_one_card(card, sys_block)
        numbers[card.roots["b"]] = (179, 2)
        twoslots.of_one_card(card, sys_block)


def test_two_updates_at_once_are_refused(card: Card, tmp_path: Path) -> None:
    before = tree(card)
    held = vault.lock(card.state / "update.lock")
    with pytest.raises(ConfigError, match="another update is being written"):
        install(card, make(tmp_path))
    assert tree(card) == before
    os.close(held)
    install(card, make(tmp_path))


def test_where_there_is_no_room_it_is_said_where(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_flag, f_bavail, f_frsize = 0, 1, 4096

    monkeypatch.setattr(os, "statvfs", lambda path: Full())
    with pytest.raises(ConfigError, match=r"slot\.tar: needs 1 MiB, 0 are free"):
        install(card, make(tmp_path))


def test_while_on_trial_nothing_is_written(card: Card, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="slot b is on trial itself"):
        install(replace(card, running="b"), make(tmp_path))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize("well_at_s", [0, 5, 299])
def test_a_trial_that_proves_itself_is_kept(card: Card, tmp_path: Path, well_at_s: int) -> None:
    install(card, make(tmp_path))
    clock, said = Clock(), list[str]()
    started = replace(card, running="b")
    size = (card.boot / "select.txt").stat()
    assert trial.confirm(
        started, lambda: "" if clock.now_s >= well_at_s else "UPS: no word", clock.now, clock.sleep, said.append
    )
    assert card.selected() == "b" and not (card.boot / "tryboot.txt").exists() and "proved itself" in said[-1]
    now = (card.boot / "select.txt").stat()
    assert (now.st_ino, now.st_size) == (size.st_ino, size.st_size)  # overwritten in place


def test_a_trial_that_does_not_is_over_in_five_minutes(card: Card, tmp_path: Path) -> None:
    install(card, make(tmp_path))
    clock, said = Clock(), list[str]()
    assert not trial.confirm(
        replace(card, running="b"), lambda: "page: no answer", clock.now, clock.sleep, said.append
    )
    assert 300 <= clock.now_s <= 310 and card.selected() == "a" and "page: no answer" in said[-1]


def test_a_trial_does_not_end_in_the_middle_of_an_outage(card: Card, tmp_path: Path) -> None:
    install(card, make(tmp_path))
    clock = Clock()
    assert not trial.confirm(
        replace(card, running="b"),
        lambda: "page: no answer",
        clock.now,
        clock.sleep,
        print,
        lambda: clock.now_s < 900,
    )
    assert 900 <= clock.now_s <= 910 and card.selected() == "a"
    assert trial.at_work(tmp_path / "none.toml") is False


def test_one_good_look_is_not_enough(card: Card, tmp_path: Path) -> None:
    """Faces that die and are started anew, over and over, answer now and then."""
    install(card, make(tmp_path))
    clock = Clock()
    assert not trial.confirm(
        replace(card, running="b"),
        lambda: "" if clock.now_s % 15 else "page: no answer",
        clock.now,
        clock.sleep,
        print,
    )
    assert card.selected() == "a"


class Reboots(list[str]):
    def __call__(self, word: str) -> None:
        self.append(word)


@pytest.mark.parametrize("health", ["raises", "config"])
def test_a_version_that_fails_at_its_own_trial_does_not_stay(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, health: str
) -> None:
    """It cannot even look, or refuses the configuration that the old one ran with."""
    install(card, make(tmp_path))
    clock, reboots, path = Clock(), Reboots(), tmp_path / "none.toml"
    monkeypatch.setattr(trial.time, "monotonic", clock.now)
    monkeypatch.setattr(trial.time, "sleep", clock.sleep)
    if health == "raises":
        monkeypatch.setattr(trial, "health", lambda config, without, second: 1 / 0)
    else:
        assert "none.toml: No such file" in trial.health(path, False)
    if health == "raises":
        with pytest.raises(ZeroDivisionError):
            trial.main(path, replace(card, running="b"), reboots)
    else:
        assert trial.main(path, replace(card, running="b"), reboots) == 1
    assert reboots == [""] and card.selected() == "a"
    assert trial.main(path, card, reboots) == 0 and reboots == [""]  # a start that is no trial is left alone


def test_a_slot_that_cannot_be_selected_gives_the_old_one_back(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(card, make(tmp_path))
    clock, reboots = Clock(), Reboots()
    monkeypatch.setattr(trial.time, "monotonic", clock.now)
    monkeypatch.setattr(trial.time, "sleep", clock.sleep)
    monkeypatch.setattr(trial, "health", lambda config, without, second: "")

    def full(here: Card, slot: str) -> None:
        raise OSError(30, "Read-only file system", str(here.boot))

    monkeypatch.setattr(twoslots, "select", full)
    assert trial.main(tmp_path / "x", replace(card, running="b"), reboots) == 1 and reboots == [""]


@pytest.mark.parametrize(
    ("result", "selected", "line", "over"),
    [
        ("exit-code", "os_prefix=a/\n", "quiet ridethrough.slot=b ro\n", True),
        ("timeout", "os_prefix=a/\n", "ridethrough.slot=b\n", True),
        ("success", "os_prefix=a/\n", "ridethrough.slot=b\n", False),
        ("exit-code", "os_prefix=b/\n", "ridethrough.slot=b\n", False),  # no trial: never start again and again
        ("exit-code", "rubbish\n", "ridethrough.slot=b\n", False),
        ("exit-code", None, "ridethrough.slot=b\n", False),
        ("exit-code", "os_prefix=a/\n", "xridethrough.slot=b\n", False),
    ],
)
def test_the_images_own_net_under_the_trial(
    tmp_path: Path, result: str, selected: str | None, line: str, over: bool
) -> None:
    if selected is not None:
        (tmp_path / "select.txt").write_text(selected)
    (tmp_path / "cmdline").write_text(line)
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/did\n')
    (tmp_path / "systemctl").chmod(0o755)
    script = Path(__file__).parent.parent / "image/files/usr/lib/ridethrough/trial-over"
    done = subprocess.run(
        [script, tmp_path, tmp_path / "cmdline"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SERVICE_RESULT": result}, capture_output=True, timeout=20,
    )  # fmt: skip
    did = tmp_path / "did"
    assert done.returncode == 0 and did.exists() is over, done.stderr
    assert not over or did.read_text() == "--no-block reboot\n"


@pytest.mark.parametrize(
    ("confirm", "core", "selected", "over"),
    [
        ("inactive", "inactive", "os_prefix=a/\n", True),  # it hangs before any look
        ("inactive", "active", "os_prefix=a/\n", True),
        ("failed", "active", "os_prefix=a/\n", True),
        ("activating", "active", "os_prefix=a/\n", False),  # it is being looked at, or waits for the mains
        ("inactive", "inactive", "os_prefix=b/\n", False),  # no trial, or proven
        ("inactive", "active", None, False),  # it protects: whatever it is
        ("inactive", "inactive", None, True),
    ],
)
def test_a_trial_that_hangs_is_ended_by_a_timer_and_by_force(
    tmp_path: Path, confirm: str, core: str, selected: str | None, over: bool
) -> None:
    if selected is not None:
        (tmp_path / "select.txt").write_text(selected)
    (tmp_path / "cmdline").write_text("ridethrough.slot=b\n")
    (tmp_path / "systemctl").write_text(
        f"""#!/bin/sh
        case "$*" in
        show*ridethrough-confirm.service) echo {confirm} ;;
        "--quiet is-active ridethrough-core.service") [ {core} = active ] ;;
        *) echo "$*" >>{tmp_path}/did ;;
        esac
        """
    )
    (tmp_path / "mount").write_text("#!/bin/sh\nexit 32\n")
    for name in ("systemctl", "mount"):
        (tmp_path / name).chmod(0o755)
    script = Path(__file__).parent.parent / "image/files/usr/lib/ridethrough/trial-over"
    done = subprocess.run(
        [script, tmp_path, tmp_path / "cmdline", tmp_path / "force"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "LATE": "0"}, capture_output=True, timeout=20,
    )  # fmt: skip
    did = tmp_path / "did"
    assert done.returncode == 0 and did.exists() is over and (tmp_path / "force").exists() is over, done.stderr
    assert not over or did.read_text() == "--no-block reboot\n--force reboot\n"
    assert not over or (tmp_path / "force").read_text() == "b\n"


def test_that_timer_waits_for_nothing_that_may_hang() -> None:
    units = Path(__file__).parent.parent / "image/files/etc/systemd/system"
    timer = (units / "ridethrough-late.timer").read_text().splitlines()
    service = (units / "ridethrough-late.service").read_text().splitlines()
    for unit in (timer, service):
        assert {"DefaultDependencies=no", "IgnoreOnIsolate=yes"} <= set(unit)
        assert not [row for row in unit if row.startswith(("After=", "Requires=", "BindsTo=", "Condition"))]
    assert "ridethrough-late.timer" in root.WANTED["sysinit.target"]
    longest_s = trial.TRIAL_S + 600 + 300  # a data partition that is checked, a file that is taken over
    assert f"OnBootSec={longest_s / 60:.0f}min" in timer


def test_what_an_update_may_do_without_counts_for_its_own_trial_alone(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(card, make(tmp_path))
    twoslots.begin_trial(card, {"without_ups": True, "version": VERSION, "made_s": 1_780_000_000})
    assert twoslots.trial_of(card) == {} and twoslots.trial_of(replace(card, running="b"))["without_ups"] is True
    clock, asked = Clock(), list[bool]()
    monkeypatch.setattr(trial.time, "monotonic", clock.now)
    monkeypatch.setattr(trial.time, "sleep", clock.sleep)
    monkeypatch.setattr(trial, "health", lambda config, without, second: asked.append(without) or "")
    assert trial.main(tmp_path / "x", replace(card, running="b"), Reboots()) == 0 and set(asked) == {True}
    assert card.selected() == "b"
    # what proved itself is remembered: the same version made before it is refused, the same one is not
    assert twoslots.proven_s(card, VERSION) == 1_780_000_000 and twoslots.proven_s(card, "9.9") == 0
    again = bundle.Manifest(VERSION, 1_779_999_999, update.board(), ())
    assert "was made before" in update.wrong_version(again, VERSION, True, twoslots.proven_s(card, VERSION))
    again = replace(again, made_s=1_780_000_000)
    assert update.wrong_version(again, VERSION, True, twoslots.proven_s(card, VERSION)) == ""
    for damaged in (b"{", b"[]", json.dumps({"version": VERSION, "made_s": "x"}).encode()):
        (card.state / twoslots.PROVEN).write_bytes(damaged)
        assert twoslots.proven_s(card, VERSION) == 0


def test_a_start_that_is_no_trial_is_none(card: Card) -> None:
    def never() -> str:
        raise AssertionError

    for start in (card, replace(card, running="")):
        assert trial.confirm(start, never, lambda: 0.0, lambda s: None, print)


VIEW = View(boot="", now_s=0, wall_s=0, clock_synced=True, version=VERSION, name="u", started_s=0, mode="armed",
            driver="usbhid", link="up", age_s=1.0,
            status=Status(taken_s=0.0, source=Source.MAINS, battery=Battery(charge_pct=100.0)))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"phase": "countdown"}, "protection is at work"),
        ({"phase": "recovery"}, "protection is at work"),
        ({"status": Status(taken_s=0.0, source=Source.BATTERY)}, "not on mains"),
        ({"status": Status(taken_s=0.0, source=Source.BYPASS)}, "not on mains"),
        ({"status": Status(taken_s=0.0, source=Source.MAINS, battery=Battery(charge_pct=79.0))}, "wait for 80 %"),
        ({"status": Status(taken_s=0.0, source=Source.BOOST, battery=Battery(charge_pct=80.0))}, ""),
        ({"status": Status(taken_s=0.0, source=Source.MAINS)}, ""),
        ({"status": Status(taken_s=0.0, source=Source.MAINS, battery=Battery(low=True))}, "the battery is low"),
        ({"status": Status(taken_s=0.0, source=Source.MAINS, flags=frozenset({Condition.LOW_BATTERY}))}, "is low"),
        ({"status": Status(taken_s=0.0, source=Source.MAINS, battery=Battery(charge_pct=79.9))}, "at 79 %"),
        ({"status": None}, "the UPS says nothing"),
        ({"age_s": 31.0}, "the UPS says nothing"),
    ],
)
def test_when_an_update_is_refused(change: dict[str, object], why: str) -> None:
    said = update.refusal(replace(VIEW, **change), without_ups=False)  # type: ignore[arg-type]
    assert (why in said) if why else said == ""


def test_without_a_ups_only_if_that_was_asked_for() -> None:
    assert update.refusal(replace(VIEW, status=None), without_ups=True) == ""
    assert update.refusal(replace(VIEW, status=Status(taken_s=0.0, source=Source.BATTERY)), without_ups=True)


@pytest.mark.parametrize(
    ("version", "board", "again", "why"),
    [
        ("9.0", "", False, ""),
        ("0.0.9", "", False, "is older than"),
        ("0.0.9", "", True, "is older than"),
        (VERSION, "", False, "runs already"),
        (VERSION, "", True, ""),
        ("9.0", "mips", False, "is for mips"),
    ],
)
def test_which_versions_are_refused(version: str, board: str, again: bool, why: str) -> None:
    said = update.wrong_version(bundle.Manifest(version, 0, board or update.board(), ()), VERSION, again)
    assert (why in said) if why else said == ""


def test_versions_are_numbers() -> None:
    assert bundle.number("0.10.0") > bundle.number("0.9.9")
    for text in ("1", "1.x", "", "1.2.3.4.5", "1.-2"):
        with pytest.raises(ConfigError):
            bundle.number(text)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: bundle.MAGIC + b)))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        bundle.read_head(io.BytesIO(data), [PUBLIC])


def test_the_slot_of_this_start_is_what_the_kernel_was_told() -> None:
    for line, slot in (("quiet ridethrough.slot=b ro\n", "b"), ("ro\n", ""), ("xridethrough.slot=a", "")):
        assert twoslots.find(Config(), line).running == slot


def test_a_host_without_slots_is_told_so() -> None:
    args = Namespace(source="x", back=False, again=False, without_ups=False)
    with pytest.raises(ConfigError, match="not started from an image"):
        update.main(args, Config(), lambda: {"": VIEW})


class Verb:
    """`ridethrough update` as root on a card, with what the core says before and after the writing."""

    def __init__(self, card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.reboots, self.back = tmp_path / "it.update", Reboots(), False
        keys = tmp_path / "keys"
        keys.mkdir()
        (keys / "ours.pub").write_text(PUBLIC.hex() + "\n")
        self.file.write_bytes(make(tmp_path))
        monkeypatch.setattr(update, "KEYS", keys)
        monkeypatch.setattr(twoslots, "find", lambda settings: card)
        monkeypatch.setattr(update, "reboot", self.reboots)
        monkeypatch.setattr(update.os, "geteuid", lambda: 0)

    def run(self, *sources: Source, second: Source | None = None) -> int:
        def view(source: Source) -> View:
            return replace(VIEW, status=Status(taken_s=0.0, source=source))

        views = iter({"": view(source)} | ({"rack-2": view(second)} if second else {}) for source in sources)
        args = Namespace(source="" if self.back else str(self.file), back=self.back, again=False, without_ups=False)
        return update.main(args, Config(), lambda: next(views))


def test_the_verb_writes_and_starts_the_trial(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = Verb(card, tmp_path, monkeypatch)
    assert verb.run(Source.MAINS, Source.MAINS) == 0 and verb.reboots == ["0 tryboot"]
    said = capsys.readouterr().out
    assert "version 9.0 into slot b" in said and "slot.tar: 100 %" in said and "root-b: 100 %" in said
    kept = twoslots.trial_of(replace(card, running="b"))
    assert kept == {
        "slot": "b", "without_ups": False, "seconds": [], "version": "9.0", "made_s": 1_780_000_000
    }  # fmt: skip


def test_a_second_ups_may_refuse_an_update_and_must_be_there_in_its_trial(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = Verb(card, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="not now: UPS rack-2: the UPS is not on mains"):
        verb.run(Source.MAINS, second=Source.BATTERY)
    assert verb.run(Source.MAINS, Source.MAINS, second=Source.MAINS) == 0
    asked = list[tuple[str, ...]]()
    clock = Clock()
    monkeypatch.setattr(trial.time, "monotonic", clock.now)
    monkeypatch.setattr(trial.time, "sleep", clock.sleep)
    monkeypatch.setattr(trial, "health", lambda config, without, second: asked.append(tuple(second)) or "")
    assert trial.main(tmp_path / "x", replace(card, running="b"), Reboots()) == 0 and set(asked) == {("rack-2",)}


def test_the_core_of_each_ups_is_asked(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, first, run_dirs = Verb(card, tmp_path, monkeypatch), tmp_path / "etc/ridethrough.toml", list[Path]()
    first.parent.mkdir()
    for path in (first, first.with_name("rack-2.toml"), first.with_name("broken.toml")):
        run_dirs.append(tmp_path / f"run-{path.stem}")
        run_dirs[-1].mkdir()
        path.write_text(f'[agent]\nrun_dir = "{run_dirs[-1]}"\nstate_dir = "{tmp_path}/state"\n')
    first.with_name("broken.toml").write_text(f'run_dir = "{run_dirs[0]}"\n[agent')  # no core can run by that
    args = parser().parse_args(["update", str(verb.file), "--config", str(first)])
    monkeypatch.setattr(trial, "_faces", lambda unit: "")
    with FakeCore(run_dirs[0] / "core.sock", VIEW):
        with pytest.raises(ConfigError, match="UPS rack-2: .*--without-ups"):
            verbs.main(args)
        with FakeCore(run_dirs[1] / "core.sock", VIEW) as second:
            assert verbs.main(args) == 0 and verb.reboots == ["0 tryboot"]
            assert twoslots.trial_of(replace(card, running="b"))["seconds"] == ["rack-2"]
            second.publish(replace(VIEW, phase="countdown"))
            assert trial.at_work(first)
        assert trial.health(first, False) == "" and trial.health(first, False, ["rack-2"]).startswith("UPS rack-2: ")
        assert not trial.at_work(first)


def test_what_is_not_well_of_a_second_ups_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[str, str]]()

    def look(config: Path, without_ups: bool, faces: str) -> str:
        asked.append((config.name, faces))
        return "core: gone" if config.stem == "b" else ""

    monkeypatch.setattr(trial, "_health", look)
    assert trial.health(tmp_path / "ridethrough.toml", False, ["a", "b", "c"]) == "UPS b: core: gone"
    assert asked == [
        ("ridethrough.toml", trial.FACES),
        ("a.toml", "ridethrough-faces@a.service"),
        ("b.toml", "ridethrough-faces@b.service"),
    ]


def test_the_verb_touches_nothing_on_battery(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, verb = tree(card), Verb(card, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="not now: the UPS is not on mains"):
        verb.run(Source.BATTERY)
    assert tree(card) == before and verb.reboots == [] and not card.state.exists()


def test_mains_that_fails_while_it_is_written_puts_the_trial_off(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = Verb(card, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="written, but not started: the UPS is not on mains .*then once more"):
        verb.run(Source.MAINS, Source.BATTERY)
    assert verb.reboots == [] and card.selected() == "a"
    assert verb.run(Source.MAINS, Source.MAINS) == 0 and verb.reboots == ["0 tryboot"]


def test_the_other_version_can_be_put_on_trial_again(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = Verb(card, tmp_path, monkeypatch)
    verb.back = True
    with pytest.raises(ConfigError, match="slot b is empty: there is no other version to go back to"):
        verb.run(Source.MAINS)
    install(card, make(tmp_path, slot=tar({**FILES, "cmdline.txt": b"ridethrough.slot=a ro\n"})))
    (card.boot / "tryboot.txt").unlink()
    with pytest.raises(ConfigError, match="not now: the UPS is not on mains"):
        verb.run(Source.BATTERY)
    assert verb.reboots == [] and not (card.boot / "tryboot.txt").exists()
    assert verb.run(Source.MAINS) == 0 and verb.reboots == ["0 tryboot"] and card.selected() == "a"
    assert (card.boot / "tryboot.txt").read_text() == CONFIG.replace("include select.txt", "os_prefix=b/")
    with pytest.raises(ConfigError, match="slot b is on trial itself"):
        twoslots.back(replace(card, running="b"))
    (card.boot / "b/cmdline.txt").write_text("ridethrough.slot=a ro\n")
    with pytest.raises(ConfigError, match=r"cmdline\.txt is not of this slot"):
        verb.run(Source.MAINS)


@pytest.mark.parametrize("what", ["older", "unsigned", "absent", "no update"])
def test_the_verb_refuses_in_one_line_and_writes_nothing(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    verb = Verb(card, tmp_path, monkeypatch)
    if what == "older":
        verb.file.write_bytes(make(tmp_path, "0.0.1"))
        why = f"version 0.0.1 is older than {VERSION}"
    elif what == "unsigned":
        (tmp_path / "keys/ours.pub").write_text("00" * 32)
        why = "not signed by a key"
    elif what == "absent":
        verb.file.unlink()
        why = "it.update: No such file"
    else:
        verb.file.write_bytes(b"<html>404")
        why = "this is no update"
    before = tree(card)
    with pytest.raises(ConfigError, match=why):
        verb.run(Source.MAINS, Source.MAINS)
    assert tree(card) == before and verb.reboots == []


def test_a_page_is_healthy_once_it_answers_at_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        web = Web(listen=f"127.0.0.1:{server.getsockname()[1]}")

        def answer() -> None:
            for _ in range(2):  # the first wanted TLS
                conversation, _ = server.accept()
                with conversation:
                    conversation.recv(100)
                    conversation.sendall(b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert trial.page(Config(web=web)) == ""
        thread.join()
    assert "page: no answer" in trial.page(Config(web=web)) and trial.page(Config()) == ""


@pytest.mark.parametrize(("code", "why"), [(0, ""), (3, "ridethrough-faces.service: failed")])
def test_without_a_page_the_faces_must_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, why: str
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\n[ "$*" = "is-active {trial.FACES}" ] || exit 9\necho failed\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert trial._faces(trial.FACES) == why


def test_confirming_needs_no_configuration_that_can_be_read(tmp_path: Path) -> None:
    args = parser().parse_args(["update", "--confirm", "--config", str(tmp_path / "none.toml")])
    assert verbs.main(args) == 0  # this host has no slots


def test_the_makers_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "update.key"
    assert bundle.main(["key", str(key)]) == 0
    public = bundle.public_key(capsys.readouterr().out)
    assert key.stat().st_mode & 0o777 == 0o600 and bundle.main(["key", str(key)]) == 2
    (tmp_path / "slot").write_bytes(tar(FILES))
    (tmp_path / "root").write_bytes(ROOT)
    out = tmp_path / "it.update"
    argv = ["make", "--key", str(key), "--slot", str(tmp_path / "slot"), "--root", str(tmp_path / "root")]
    assert bundle.main([*argv, "--version", "9.1", "--made", "1780000000", str(out)]) == 0
    with out.open("rb") as stream:
        found = bundle.read_head(stream, [public])
        assert (found.version, found.board, [p.bytes for p in found.parts]) == (
            "9.1",
            "arm64",
            [len(tar(FILES)), len(ROOT)],
        )
