"""Makes the guest: kernel and modules out of Debian's package, and a small initramfs of this machine's programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent.parent.parent
MODULES = ("usb-common", "usbcore", "xhci-hcd", "xhci-pci", "hid", "usbhid", "hid-generic")
PROGRAMS = ("/bin/busybox", "/usr/bin/python3", "/lib/nut/usbhid-ups", "/sbin/ldconfig", "/bin/sh")
LIBRARIES = ("libusb-1.0.so.0", "libffi.so.8")
UNWANTED = shutil.ignore_patterns("test", "tests", "idlelib", "tkinter", "lib2to3", "__pycache__", "dist-packages")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run/nut /var/run/nut /tmp /etc
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for m in {modules}; do /bin/busybox insmod /modules/$m.ko; done
cd /
export PYTHONDONTWRITEBYTECODE=1
/usr/bin/python3 -m tests.usbguest.inside /dev/ttyS1
/bin/busybox reboot -f
"""


def kernel(folder: Path) -> tuple[Path, Path]:
    """(vmlinuz, folder of modules) of Debian's kernel, fetched by apt as a file and unpacked under `folder`."""
    if not list(folder.glob("k/boot/vmlinuz-*")):
        told = subprocess.run(
            ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True
        )
        found = re.search(r"linux-image-[0-9]\S+", told.stdout)
        if found is None:
            raise SystemExit("apt knows no kernel for amd64; mend with: sudo apt-get update, on Debian")
        subprocess.run(["apt-get", "download", found[0]], cwd=folder, check=True, capture_output=True)
        (package,) = folder.glob("linux-image-*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "half"], check=True)
        (folder / "half").rename(folder / "k")  # whole, or not there
    (image,) = folder.glob("k/boot/vmlinuz-*")
    return image, next((folder / "k" / "lib" / "modules").iterdir())


def initramfs(folder: Path, modules: Path, packages: Path) -> Path:
    """Without root: files of this machine, the agent, pyusb from `packages`."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for module in MODULES:
        (file,) = modules.rglob(f"{module}.ko")
        _copy(file, root / "modules" / f"{module}.ko")
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    libraries = [
        Path(m[1]) for name in LIBRARIES if (m := re.search(rf"{re.escape(name)} .*x86-64.*=> (\S+)", cache))
    ]
    dynload = list(Path("/usr/lib/python3.11/lib-dynload").glob("*.so"))
    for program in (*map(Path, PROGRAMS), *libraries, *dynload):
        told = subprocess.run(["ldd", program], capture_output=True, text=True)
        for needed in (program, *(Path(p) for p in re.findall(r"(/\S+) \(0x", told.stdout))):
            _copy(needed, root / str(needed).lstrip("/"))
    shutil.copytree("/usr/lib/python3.11", root / "usr/lib/python3.11", ignore=UNWANTED, dirs_exist_ok=True)
    shutil.copytree(packages / "usb", root / "usb", ignore=UNWANTED)
    for part in ("agent", "tests/usbguest"):
        shutil.copytree(HERE / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "static"))
    (root / "tests/__init__.py").write_text("")
    (root / "etc/nut").mkdir(parents=True)
    shutil.copy2("/etc/ld.so.cache", root / "etc/ld.so.cache")  # where pyusb looks for libusb
    (root / "etc/nut/ups.conf").write_text("")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    init = root / "init"
    init.write_text(INIT.format(modules=" ".join(MODULES)))
    init.chmod(0o755)
    packed = folder / "initramfs"
    with packed.open("wb") as out:
        names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=root, input=names, stdout=out, check=True
        )
    return packed


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(source, target)
