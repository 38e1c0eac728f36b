"""The kernel of the board: its modules without those that no board has, the initrd, and the device trees."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .fetch import unpack
from .layout import SIGNATURE
from .step import BuildError, run

#: folders of modules that a UPS adapter has no use for
NOT_WANTED = (
    "drivers/accel", "drivers/ata", "drivers/gpu", "drivers/iio", "drivers/infiniband", "drivers/isdn", "drivers/md",
    "drivers/media", "drivers/nvme", "drivers/scsi/qla2xxx", "drivers/scsi/lpfc", "drivers/staging", "drivers/target",
    "drivers/vfio", "drivers/net/ethernet/mellanox", "drivers/net/ethernet/intel", "drivers/net/ethernet/chelsio",
    "drivers/net/ethernet/qlogic", "drivers/net/ethernet/netronome", "drivers/net/ethernet/cavium",
    "drivers/net/ethernet/hisilicon", "drivers/net/ethernet/sfc", "drivers/net/ethernet/qualcomm",
    "drivers/net/ethernet/marvell", "drivers/net/ethernet/freescale", "drivers/net/ethernet/amazon",
    "drivers/net/ethernet/microsoft", "drivers/net/wireless/ath", "drivers/net/wireless/intel",
    "drivers/net/wireless/marvell", "drivers/net/wireless/mediatek", "drivers/net/wireless/realtek",
    "drivers/net/wireless/ti", "drivers/net/wireless/silabs", "drivers/net/wwan", "drivers/bluetooth",
    "drivers/crypto",
    "drivers/edac", "drivers/mtd", "drivers/dma/idxd", "drivers/soundwire", "drivers/ntb", "drivers/virt", "sound",
    "fs/btrfs", "fs/xfs", "fs/ocfs2", "fs/gfs2", "fs/ceph", "fs/smb", "fs/nfs", "fs/nfsd", "fs/bcachefs", "fs/jfs",
    "fs/f2fs", "fs/ubifs", "fs/nilfs2", "fs/orangefs", "fs/9p", "fs/afs", "fs/reiserfs", "fs/erofs",
    "net/openvswitch",
    "net/sctp", "net/tipc", "net/ceph", "net/bluetooth", "net/batman-adv", "net/smc", "net/rxrpc", "net/sunrpc",
)  # fmt: skip
#: what the initrd needs to find the root: in the card slots of all boards, and of the virtual machine of the tests;
#: with it comes what `supplies` finds
FIRST = ("virtio_mmio", "virtio_blk", "bcm2835", "sdhci-iproc", "sdhci-brcmstb", "usb-storage", "squashfs")
#: folders of drivers without which a card slot stays off: its power, pins, clocks, reset lines
SUPPLIES = (
    "clk", "dma", "firmware", "gpio", "iommu", "mailbox", "mmc", "pinctrl", "pmdomain", "regulator", "reset", "soc",
)  # fmt: skip
#: of a board's device tree: a card slot is not looked at before its supply is there (deferred probing)
EXPECTED = {"regulator-fixed": "fixed", "brcm,bcm2712-sdhci": "sdhci_brcmstb"}
_ALIAS = re.compile(r"alias of:N\*T\*C([^*\s]+?)(?:C\*)? (\S+)")
TREES = ("bcm2711-rpi-*.dtb", "bcm2712*-rpi-*.dtb", "bcm2837-rpi-3-*.dtb", "bcm2837-rpi-zero-2-w.dtb")
#: of the Wi-Fi firmware: the chips of the boards
RADIOS = ("43430", "43436", "43455", "43456")
HERE = Path(__file__).parent


def build(packages: Path, folder: Path) -> None:
    """From the packages in `packages`: `root/` (what goes into the root), `slot/` (kernel, initrd, device trees) and
    `firmware/` (what the boards read first). BuildError if something is not where it is expected."""
    work = folder / "work"
    for package in sorted(packages.glob("*.deb")):
        unpack(package, work / package.name.split("_")[0].split("-")[0])
    linux = work / "linux"
    [version] = [p.name for p in (linux / "usr/lib/modules").iterdir()]
    modules = linux / "usr/lib/modules" / version
    for name in NOT_WANTED:
        shutil.rmtree(modules / "kernel" / name, ignore_errors=True)
    slot = folder / "slot"
    slot.mkdir()
    shutil.copyfile(modules / "vmlinuz", slot / "vmlinuz")
    trees = [p for pattern in TREES for p in (modules / "dtb/broadcom").glob(pattern)]
    if len(trees) < 8:
        raise BuildError(f"only {len(trees)} device trees in the kernel's packages")
    for tree in trees:
        shutil.copyfile(tree, slot / tree.name)
    run(["depmod", "-b", linux / "usr", version])
    aliases, depends = (modules / "modules.alias").read_text(), (modules / "modules.dep").read_text()
    found = supplies(aliases, depends, [tree.read_bytes() for tree in trees])
    _initrd(linux, version, found, work / "busybox/usr/bin/busybox", folder / "initrd", slot / "initrd.img")
    for name in ("vmlinuz", "System.map", "config", "dtb"):
        path = modules / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    target = folder / "root/usr/lib"
    target.mkdir(parents=True)
    (linux / "usr/lib/modules").rename(target / "modules")
    (work / "firmware/usr/lib/firmware").rename(target / "firmware")
    for path in sorted((target / "firmware").rglob("*")):
        if not path.is_dir() and not any(chip in path.name for chip in RADIOS):
            path.unlink()
    firmware = folder / "firmware"
    firmware.mkdir()
    for path in sorted((work / "raspi/usr/lib/raspi-firmware").iterdir()):
        if path.is_dir():
            shutil.copytree(path, slot / path.name)
        elif not path.stem.endswith(("_x", "_db", "4x", "4db")):  # cameras, and for finding faults
            shutil.copyfile(path, firmware / path.name)
    shutil.rmtree(work)
    (folder / "version").write_text(version)


def supplies(aliases: str, depends: str, trees: Iterable[bytes]) -> list[str]:
    """The modules of SUPPLIES that a device in one of the device trees asks for: `aliases` is modules.alias,
    `depends` modules.dep. BuildError if a card slot would be without what it is known to need."""
    all_trees = b"\0".join(trees)
    paths = [row.partition(":")[0] for row in depends.splitlines()]
    folders = {_module(Path(p).name): p.split("/")[2] for p in paths if p.startswith("kernel/drivers/")}
    asked = [(c, _module(name)) for c, name in _ALIAS.findall(aliases) if c.encode() + b"\0" in all_trees]
    found = {module for _, module in asked if folders.get(module) in SUPPLIES}
    for compatible, module in EXPECTED.items():
        if compatible.encode() + b"\0" in all_trees and module in folders and module not in found:
            raise BuildError(f"the kernel's modules.alias does not lead from {compatible} to {module}")
    return sorted(found)


def _module(name: str) -> str:
    """A module as the kernel calls it, whether a file or an alias names it."""
    return name.split(".")[0].replace("-", "_")


def _initrd(linux: Path, version: str, more: list[str], busybox: Path, work: Path, target: Path) -> None:
    """The archive that finds the root: busybox, the modules in the order of their need, and image/init. `more`: the
    modules of `supplies`, first. BuildError if the kernel has one neither as a module nor built in."""
    for name in ("bin", "dev", "proc", "sys", "root", "modules"):
        (work / name).mkdir(parents=True)
    shutil.copyfile(busybox, work / "bin/busybox")
    (work / "bin/busybox").chmod(0o755)
    (work / "bin/sh").symlink_to("busybox")
    (work / "init").write_text((HERE / "init").read_text().replace("@SIGNATURE@", SIGNATURE))
    (work / "init").chmod(0o755)
    seen: list[Path] = []
    for name in (*more, *FIRST):
        said = run(["modprobe", "-d", linux / "usr", "-S", version, "--show-depends", name]).decode()
        for row in said.splitlines():
            path = Path(row.split(" ")[1]) if row.startswith("insmod ") else None
            if path is None or path in seen:
                continue
            seen.append(path)
            data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            (work / "modules" / f"{len(seen):03d}-{path.name.removesuffix('.xz')}").write_bytes(data)
    names = sorted(str(p.relative_to(work)) for p in work.rglob("*"))
    archive = run(
        ["cpio", "--quiet", "-o", "-H", "newc", "--reproducible", "-R", "0:0"],
        given="\n".join(names) + "\n",
        cwd=work,
    )
    target.write_bytes(gzip.compress(archive, 9, mtime=0))
    shutil.rmtree(work)
