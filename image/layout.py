"""The card: where what lies, and how the parts become one file, without root, loop device or mount.

MBR, disk signature SIGNATURE            (the boot ROM of the older boards knows no GPT)
1  FAT    config.txt, the firmware, select.txt (the one line that names the slot), a/ and b/ (kernel, initrd,
          device trees, cmdline.txt), and ridethrough.toml for the first start
2  A      root, squashfs, never written
3  B      the same for the next version
-  spare  8 MiB that belong to no partition: two sealed records of the settings (agent/sealed.py), for starts
          without a good data partition; zeros on a new card
4  data   ext4, grown to the card's end at the first start; the only one that is written all the time
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .step import BuildError, run

SIGNATURE = "72696465"  # "ride": a partition is found by it, whatever else hangs on the board
FAT_ID = "52495445"
FAT_LABEL, DATA_LABEL = "RIDETHROUGH", "ridethrough-data"
DATA_UUID = "72696465-7468-726f-7567-686461746100"
MIB = 1024 * 1024
SLOTS = ("a", "b")
#: MBR types
FAT32_LBA, LINUX = 0x0C, 0x83


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """In MiB."""

    start: int = 4
    boot: int = 256
    root: int = 320
    spare: int = 8
    data: int = 64

    def parts(self) -> list[tuple[int, int]]:
        """(start, size) of partitions 1 to 4."""
        root_a = self.start + self.boot
        data = root_a + 2 * self.root + self.spare
        return [
            (self.start, self.boot), (root_a, self.root), (root_a + self.root, self.root), (data, self.data),
        ]  # fmt: skip


#: the driver of ttyAMA tries only the first console of its name: another ttyAMA beside this one would be silent
SERIAL = "console=ttyAMA10,115200 console=ttyS1,115200"


def cmdline(slot: str) -> str:
    """What the kernel of a slot is told. tty0: the screen; ttyAMA10: the debug port of the Pi 5; ttyS1: the serial
    line of the others. What a board does not have is left out; each that is there gets a login with the set-up
    code above it (systemd-getty-generator, /run/issue.d). /dev/console is the last one, where it is not there the
    screen."""
    return f"console=tty0 {SERIAL} ridethrough.slot={slot} ro quiet panic=10 systemd.show_status=auto\n"


CONFIG = """\
# read by the board's firmware; which slot is started stands in select.txt
arm_64bit=1
upstream_kernel=1
kernel=vmlinuz
initramfs initrd.img followkernel
enable_uart=1
gpu_mem=16
disable_splash=1
include select.txt
"""


def selector(slot: str) -> str:
    """The one line that says which slot is started."""
    return f"os_prefix={slot}/\n"


def fat(target: Path, content: Path, size_mib: int, epoch_s: int) -> None:
    """A FAT file system with what is in the folder `content`."""
    with target.open("wb") as file:
        file.truncate(size_mib * MIB)
    date = {"SOURCE_DATE_EPOCH": str(epoch_s), "MTOOLS_SKIP_CHECK": "1"}
    run(["mkfs.vfat", "--invariant", "-F", "32", "-n", FAT_LABEL, "-i", FAT_ID, target], environment=date)
    for path in sorted(content.rglob("*")):
        os.utime(path, (epoch_s, epoch_s))
    names = sorted(content.iterdir())
    run(["mcopy", "-s", "-m", "-i", target, *names, "::/"], environment=date)


def data(target: Path, size_mib: int, epoch_s: int) -> None:
    """The empty data file system."""
    with target.open("wb") as file:
        file.truncate(size_mib * MIB)
    options = f"hash_seed={DATA_UUID},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "1", "-L", DATA_LABEL, "-U", DATA_UUID, "-E", options, target],
        environment={"E2FSPROGS_FAKE_TIME": str(epoch_s), "SOURCE_DATE_EPOCH": str(epoch_s)},
    )


def table(sizes: Sizes) -> bytes:
    """The first sector: four partitions and the signature.

    An entry of 16 bytes: flag, CHS of the start (unused), type, CHS of the end (unused), first sector, sectors.
    """
    entries = b""
    for kind, (at, size) in zip((FAT32_LBA, LINUX, LINUX, LINUX), sizes.parts(), strict=True):
        flag = 0x80 if kind == FAT32_LBA else 0
        entries += struct.pack("<B3sB3sII", flag, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", at * 2048, size * 2048)
    return bytes(440) + bytes.fromhex(SIGNATURE)[::-1] + b"\0\0" + entries + b"\x55\xaa"


def assemble(target: Path, sizes: Sizes, parts: Mapping[int, Path]) -> None:
    """The whole card, sparse; `parts`: number of the partition -> its content. BuildError if one is too large."""
    with target.open("wb") as card:
        card.truncate(sum(sizes.parts()[3]) * MIB)
        card.write(table(sizes))
        for number, path in sorted(parts.items()):
            length, (start, room) = path.stat().st_size, sizes.parts()[number - 1]
            if length > room * MIB:
                raise BuildError(f"{path.name}: {length / MIB:.1f} MiB do not fit into {room} MiB")
            with path.open("rb") as file:
                at = start * MIB
                while piece := file.read(MIB):
                    if piece.count(0) != len(piece):  # holes stay holes
                        card.seek(at)
                        card.write(piece)
                    at += len(piece)


def boot_files(folder: Path, slot: Path, firmware: Path, extra: Mapping[str, str]) -> None:
    """What stands on the FAT partition of a new card: slot a filled, b empty."""
    shutil.copytree(firmware, folder, dirs_exist_ok=True)
    shutil.copytree(slot, folder / "a")
    (folder / "a" / "cmdline.txt").write_text(cmdline("a"))
    (folder / "b").mkdir()
    texts = {"config.txt": CONFIG, "select.txt": selector("a"), **extra}
    for name, text in texts.items():
        (folder / name).write_text(text)
