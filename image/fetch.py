"""Packages that the host unpacks and never installs: kernel, firmware, busybox. Fetched by an apt of its own.

The kernel's scripts would run for a quarter of an hour under emulation; image/kernel.py makes the same in seconds.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from .base import ARCH, KERNEL_SUITE, KEYRING, SUITE
from .step import BuildError, run

#: besides the kernel, which comes from the newer suite
PACKAGES = ("raspi-firmware", "firmware-brcm80211", "busybox-static")
KERNEL = f"linux-image-{ARCH}"
#: what the kernel's meta package is made of; others of its dependencies are programs that we do not need
KERNEL_PARTS = ("linux-image-", "linux-binary-", "linux-modules-", "linux-base-", "linux-dtbs-")
DEPTH = 4


def source_lines(base: Path) -> str:
    """The sources that the base was made from, and the suite with the newer kernel."""
    with tarfile.open(base) as tar:
        file = tar.extractfile("./etc/apt/sources.list")
        if file is None:
            raise BuildError(f"{base}: no etc/apt/sources.list in it")
        text = file.read().decode()
    rows = [row for row in text.splitlines() if row.startswith("deb ") and f" {KERNEL_SUITE} " not in row]
    first = next((row for row in rows if f" {SUITE} " in row), "")
    if not first:
        raise BuildError(f"{base}: its sources name no {SUITE}")
    rows.append(first.replace(f" {SUITE} ", f" {KERNEL_SUITE} "))
    signed = [row if "signed-by" in row else row.replace("deb ", f"deb [signed-by={KEYRING}] ", 1) for row in rows]
    return "".join(f"{row}\n" for row in signed)


def fetch(base: Path, folder: Path) -> None:
    """Put the packages into `folder`. BuildError if they cannot be had."""
    apt = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d"):
        (apt / name).mkdir(parents=True)
    (apt / "state/status").touch()
    (apt / "etc/sources.list").write_text(source_lines(base))
    (apt / "apt.conf").write_text(
        f'Dir::State "{apt}/state";\nDir::State::status "{apt}/state/status";\nDir::Cache "{apt}/cache";\n'
        f'Dir::Etc "{apt}/etc";\nDir::Etc::sourceparts "-";\nDir::Etc::trusted "/nonexistent";\n'
        f'APT::Architecture "{ARCH}";\nAPT::Architectures "{ARCH}";\n'
        'Acquire::Languages "none";\nAPT::Sandbox::User "root";\n'
    )
    alone = {"APT_CONFIG": str(apt / "apt.conf")}
    run(["apt-get", "-q", "update"], environment=alone)
    names = _kernel_parts(alone)
    run(["apt-get", "-q", "-t", KERNEL_SUITE, "download", *names], environment=alone, cwd=folder)
    run(["apt-get", "-q", "download", *PACKAGES], environment=alone, cwd=folder)
    shutil.rmtree(apt)


def _kernel_parts(alone: dict[str, str]) -> list[str]:
    """The packages that the kernel's meta package leads to."""
    found: list[str] = []
    todo = [KERNEL]
    for _ in range(DEPTH):
        said = run(
            ["apt-cache", "-t", KERNEL_SUITE, "depends", "--no-recommends", "--no-suggests", *todo], environment=alone
        )
        rows = [row.partition("Depends:")[2].strip() for row in said.decode().splitlines() if "Depends:" in row]
        todo = [n for n in dict.fromkeys(rows) if n.startswith(KERNEL_PARTS) and n not in found]
        if not todo:
            break
        found += todo
    if not found:
        raise BuildError(f"{KERNEL_SUITE} has no {KERNEL}")
    return found


def unpack(package: Path, folder: Path) -> None:
    """The files of one package into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "-x", package, folder])
