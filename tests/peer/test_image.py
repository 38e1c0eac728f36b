"""The card, built on a tiny root with the tools that build the real one: as drawn, and twice the same."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from agent import sealed
from image import kernel, layout, root, sbom, wheels
from image.step import BuildError, Steps, digest

pytestmark = pytest.mark.peer
EPOCH_S, OLD_S = 1_750_000_000, 1_700_000_000
SIZES = layout.Sizes(start=4, boot=40, root=4, data=8)
PASSWD = "root:x:0:0:root:/root:/bin/bash\n"


@pytest.fixture(autouse=True, scope="module")
def tools() -> None:
    for tool in ("mksquashfs", "mcopy", "mkfs.vfat", "mke2fs", "sfdisk", "unsquashfs"):
        if shutil.which(tool, path="/usr/bin:/usr/sbin:/bin:/sbin") is None:
            pytest.fail(f"{tool} is missing; ./run peer installs it")


def said(*argv: str | Path) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    return done.stdout


def base(folder: Path) -> Path:
    """A base as mmdebstrap makes it, with what must not come onto the board."""
    target = folder / "base.tar"
    with tarfile.open(target, "w") as tar:

        def put(
            name: str, data: str = "", kind: bytes = tarfile.REGTYPE, mtime: int = 1_700_000_000, link: str = ""
        ) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.size, info.linkname = kind, mtime, len(data), link
            info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            tar.addfile(info, io.BytesIO(data.encode()))

        for name in ("./", "./etc/", "./etc/ssh/", "./usr/", "./usr/bin/", "./dev/", "./var/", "./var/lib/"):
            put(name, kind=tarfile.DIRTYPE, mtime=EPOCH_S + 5000)
        put("./etc/passwd", PASSWD)
        put("./etc/group", "root:x:0:\ndialout:x:20:\n")
        put("./etc/shadow", "root:*:20780:0:99999:7:::\n", mtime=EPOCH_S + 99)
        put("./etc/gshadow", "root:*::\ndialout:*::\n")
        put("./etc/ssh/ssh_host_ed25519_key", "SECRET OF THE BUILDER")
        put("./etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        put("./etc/resolv.conf", "nameserver 192.0.2.1\n")
        put("./usr/bin/tool", "tool")
        put("./usr/bin/other", kind=tarfile.LNKTYPE, link="./usr/bin/tool")
        put("./dev/console")
        put(
            "./var/lib/dpkg/status",
            "Package: tool\nStatus: install ok installed\nArchitecture: arm64\nVersion: 1:2.0+b1\n",
        )
    return target


def build(folder: Path) -> Path:
    """A whole card."""
    folder.mkdir()
    slot, firmware, boot = folder / "slot", folder / "firmware", folder / "boot"
    for path, text in ((slot / "vmlinuz", "kernel"), (slot / "overlays/x.dtbo", "o"), (firmware / "start.elf", "f")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    boot.mkdir()
    layout.boot_files(boot, slot, firmware, {"README.txt": "hello\n"})
    layout.fat(folder / "boot.fat", boot, SIZES.boot, EPOCH_S)
    layout.data(folder / "data.ext4", SIZES.data, EPOCH_S)
    ours = root.entries({"/etc/x": "x"}, (("", Path(root.__file__).parent / "files"),), layout.SIGNATURE)
    root.squashfs(folder / "root.squashfs", base(folder), ours, EPOCH_S)
    parts = {1: folder / "boot.fat", 2: folder / "root.squashfs", 4: folder / "data.ext4"}
    layout.assemble(folder / "card.img", SIZES, parts)
    return folder / "card.img"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("card") / "a")


def test_the_partitions_are_as_drawn(card: Path) -> None:
    table = said("sfdisk", "--dump", card)
    assert "label: dos" in table and f"label-id: 0x{layout.SIGNATURE}" in table
    found = re.findall(r"start= *(\d+), size= *(\d+), type=([0-9a-f]+)(, bootable)?", table)
    mib = 2048
    assert found == [
        (str(4 * mib), str(40 * mib), "c", ", bootable"), (str(44 * mib), str(4 * mib), "83", ""),
        (str(48 * mib), str(4 * mib), "83", ""), (str(60 * mib), str(8 * mib), "83", ""),
    ]  # fmt: skip


def test_the_spare_place_of_a_new_card_is_empty(card: Path) -> None:
    area = sealed.on(card)
    assert area is not None and area.at == 52 * layout.MIB and sealed.read(area) is None
    with card.open("rb") as file:
        file.seek(area.at)
        assert not any(file.read(8 * layout.MIB))


def test_the_boot_partition_names_one_slot_and_holds_both(card: Path) -> None:
    at = f"{card}@@4M"
    assert said("mtype", "-i", at, "::/select.txt") == "os_prefix=a/\n" == layout.selector("a")
    assert "include select.txt" in said("mtype", "-i", at, "::/config.txt")
    names = said("mdir", "-b", "-/", "-i", at, "::/").split()
    for name in (
        "::/a/vmlinuz",
        "::/a/cmdline.txt",
        "::/a/overlays/x.dtbo",
        "::/b/",
        "::/start.elf",
        "::/README.txt",
    ):
        assert name in names
    words = said("mtype", "-i", at, "::/a/cmdline.txt")
    assert "ridethrough.slot=a " in words
    # the screen, the Pi 5's debug port, the serial line of the other boards
    assert re.findall(r"console=(\w+)", words) == ["tty0", "ttyAMA10", "ttyS1"]


def test_the_data_partition_is_sound(card: Path, tmp_path: Path) -> None:
    part = tmp_path / "data"
    with card.open("rb") as file:
        file.seek(60 * layout.MIB)
        part.write_bytes(file.read(8 * layout.MIB))
    said("e2fsck", "-f", "-n", part)
    assert f"Filesystem volume name:   {layout.DATA_LABEL[:16]}" in said("dumpe2fs", "-h", part)


def test_the_root_has_our_files_and_nothing_of_the_builder(card: Path, tmp_path: Path) -> None:
    squash = card.parent / "root.squashfs"
    rows = said("unsquashfs", "-lln", squash)
    assert "ssh_host" not in rows and "dev/console" not in rows and "dpkg/status" not in rows
    assert re.search(r"etc/resolv.conf -> /run/systemd/resolve/stub-resolv.conf", rows)
    assert "etc/systemd/system/apt-daily.timer -> /dev/null" in rows
    for unit in ("ssh.service", "ssh.socket", "sshd.socket"):
        assert f"etc/systemd/system/{unit} -> /dev/null" in rows
    assert "etc/systemd/system-generators/systemd-ssh-generator -> /dev/null" in rows, "no ssh but ours"
    data = said("unsquashfs", "-cat", squash, "usr/lib/ridethrough/data")
    assert f"CARD=/dev/disk/by-partuuid/{layout.SIGNATURE}\n" in data and "@SIGNATURE@" not in data
    assert said("unsquashfs", "-cat", squash, "etc/machine-id") == ""
    assert "ridethrough-faces:x:812:812:" in said("unsquashfs", "-cat", squash, "etc/passwd")
    groups = said("unsquashfs", "-cat", squash, "etc/group")
    assert "dialout:x:20:ridethrough\n" in groups and re.search(r"^gpio:x:\d+:ridethrough$", groups, re.M)
    assert len(re.findall(r"^gpio:", said("unsquashfs", "-cat", squash, "etc/gshadow"), re.M)) == 1
    shadow = said("unsquashfs", "-cat", squash, "etc/shadow")
    assert "root:*:20000:" in shadow and "ridethrough:!*:20000:" in shadow, "nobody has a password"
    assert re.search(r"^-rwxr-xr-x 0/0 .*usr/lib/ridethrough/data$", rows, re.M)


def test_two_builds_are_the_same_to_the_last_byte(card: Path, tmp_path: Path) -> None:
    time.sleep(1.1)  # another second of the clock
    assert hashlib.sha256(build(tmp_path / "b").read_bytes()).digest() == hashlib.sha256(card.read_bytes()).digest()


def test_a_part_that_is_too_large_is_an_error_and_not_cut(tmp_path: Path) -> None:
    large = tmp_path / "root"
    large.write_bytes(b"x" * (4 * layout.MIB + 1))
    with pytest.raises(BuildError, match=r"4\.0 MiB do not fit into 4 MiB"):
        layout.assemble(tmp_path / "card", SIZES, {2: large})


def test_a_step_is_made_once_and_again_when_its_inputs_change_or_it_did_not_finish(tmp_path: Path) -> None:
    made: list[str] = []

    def make(folder: Path) -> None:
        made.append(folder.name)
        (folder / "x").touch()
        if len(made) == 1:
            raise BuildError("no network")

    steps = Steps(tmp_path, 1)
    with pytest.raises(BuildError):
        steps.step("one", "k", make)
    for key in ("k", "k", "other"):
        assert (steps.step("one", key, make) / "x").exists()
    assert len(made) == 3
    (tmp_path / "one" / "y").write_text("1")
    before = digest(tmp_path / "one")
    (tmp_path / "one" / "y").write_text("2")
    assert digest(tmp_path / "one") != before


def test_the_bill_of_materials_names_every_package(card: Path) -> None:
    parts = sbom.debian(card.parent / "base.tar", [Path("raspi-firmware_1.2+ds-6_all.deb")])
    parts += sbom.python([Path("pyusb-1.3.1-py3-none-any.whl")], "0.1.0")
    assert [p.purl.split("?")[0] for p in parts] == [
        "pkg:deb/debian/raspi-firmware@1.2%2Bds-6", "pkg:deb/debian/tool@1%3A2.0%2Bb1",
        "pkg:pypi/pyusb@1.3.1", "pkg:pypi/ridethrough@0.1.0",
    ]  # fmt: skip
    assert sbom.cyclonedx(parts, "0.1.0", "t") == sbom.cyclonedx(parts, "0.1.0", "t")


def test_every_python_package_has_a_hash_and_is_what_the_agent_asks_for() -> None:
    rows = [r for r in wheels.LOCK.read_text().splitlines() if r and not r.startswith("#")]
    names = {r.partition("==")[0] for r in rows}
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+ --hash=sha256:[0-9a-f]{64}", r) for r in rows)
    asked = (
        (wheels.ROOT / "setup.cfg").read_text().partition("install_requires =")[2].partition("[options.packages")[0]
    )
    assert {re.split("[>=<]", r.strip())[0] for r in asked.split("\n") if r.strip()} <= names


def test_the_initrd_and_the_units_know_the_signature_of_the_card() -> None:
    assert "@SIGNATURE@" in (kernel.HERE / "init").read_text()
    assert bytes.fromhex(layout.SIGNATURE) == b"ride"


def test_the_wheels_are_for_the_board(tmp_path: Path) -> None:
    wheels.download(tmp_path)
    found = [p.name for p in tmp_path.glob("*.whl")]
    assert len(found) == 13 and any("cp313" in n and "aarch64" in n for n in found)
