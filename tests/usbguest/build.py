"""Makes the guest: kernel and modules out of Debian's package, and a small initramfs of this machine's programs."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent.parent.parent
MODULES = ("usb-common", "usbcore", "xhci-hcd", "xhci-pci", "hid", "usbhid", "hid-generic")
PYTHON = "/usr/bin/python3"
PROGRAMS = (
    "/bin/busybox",
    "/bin/sh",
    PYTHON,
    "/lib/nut/usbhid-ups",
    "/sbin/ldconfig",
    "/usr/bin/od",
    "/usr/bin/udevadm",
)
LIBRARIES = ("libusb-1.0.so.0",)
RULES = (Path("/usr/lib/udev/rules.d/50-udev-default.rules"), HERE / "systemd/70-ridethrough-ups.rules")
UNWANTED = shutil.ignore_patterns("test", "tests", "idlelib", "tkinter", "lib2to3", "__pycache__", "dist-packages")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run/nut /var/run/nut /run/udev /tmp /etc
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/lib/systemd/systemd-udevd --daemon
for m in {modules}; do /bin/busybox insmod /modules/$m.ko; done
/usr/bin/udevadm trigger --action=add
/usr/bin/udevadm settle --timeout=60
cd /
export PYTHONDONTWRITEBYTECODE=1
/usr/bin/python3 -m tests.usbguest.inside serve /dev/ttyS1
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
        (file,) = modules.rglob(f"{module}.ko*")
        made = root / "modules" / f"{module}.ko"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes())
    library, dynamic = _python()
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    libraries = [
        Path(m[1]) for name in LIBRARIES if (m := re.search(rf"{re.escape(name)} .*x86-64.*=> (\S+)", cache))
    ]
    for program in (*map(Path, PROGRAMS), *libraries, *dynamic.glob("*.so")):
        told = subprocess.run(["ldd", program], capture_output=True, text=True)
        for needed in (program, *(Path(p) for p in re.findall(r"(/\S+) \(0x", told.stdout))):
            _copy(needed, root / str(needed).lstrip("/"))
    shutil.copytree(library, root / str(library).lstrip("/"), ignore=UNWANTED, dirs_exist_ok=True)
    (root / "lib/systemd").mkdir(parents=True, exist_ok=True)
    (root / "lib/systemd/systemd-udevd").symlink_to("/usr/bin/udevadm")
    for rules in RULES:
        _copy(rules, root / "usr/lib/udev/rules.d" / rules.name)
    shutil.copytree(packages / "usb", root / "usb", ignore=UNWANTED)
    for part in ("agent", "tests/usbguest"):
        shutil.copytree(HERE / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "static"))
    (root / "tests/__init__.py").write_text("")
    # without this the guest compiles everything at each start, for a quarter of a minute
    compiled = [root / name for name in ("agent", "tests", "usb", str(library).lstrip("/"))]
    subprocess.run([PYTHON, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", *compiled], check=True)
    (root / "etc/nut").mkdir(parents=True)
    shutil.copy2("/etc/ld.so.cache", root / "etc/ld.so.cache")  # where pyusb looks for libusb
    (root / "etc/nut/ups.conf").write_text("")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nups:x:1000:1000:ups:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\ndialout:x:20:\nups:x:1000:\n")
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


def _python() -> tuple[Path, Path]:
    """The standard library of this machine's Python, and the folder of its compiled modules."""
    asks = "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))"
    paths = json.loads(subprocess.run([PYTHON, "-I", "-c", asks], capture_output=True, text=True, check=True).stdout)
    return Path(paths["stdlib"]), Path(paths["platstdlib"]) / "lib-dynload"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(source, target)
