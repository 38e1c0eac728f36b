"""The Debian userland of the board, as one tar archive.

Needs some ten minutes where arm64 is emulated, so it is kept, and made anew only when its inputs change.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .step import BuildError, run

SUITE = "trixie"
KERNEL_SUITE = "trixie-backports"  # the kernel of the suite itself knows no Pi 5
ARCH = "arm64"
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "systemd-timesyncd", "systemd-resolved", "libnss-resolve", "iproute2",
    "netbase", "ca-certificates", "tzdata", "e2fsprogs", "dosfstools", "fdisk", "util-linux", "python3",
    "libusb-1.0-0", "openssh-client", "openssh-server", "wpasupplicant", "wireless-regdb",
)  # fmt: skip
NOT_WANTED = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def source_lines() -> str:
    """apt lines for the suite, from where this machine itself gets Debian; '' if it does not."""
    found: dict[str, str] = {}
    try:
        said = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    for row in said.splitlines():
        label, _, uri = row.partition("|")
        found.setdefault(label, uri)
    if "Debian" not in found:
        return ""
    signed = f"[signed-by={KEYRING}] "
    lines = [f"deb {signed}{found['Debian']} {s} main non-free-firmware" for s in (SUITE, f"{SUITE}-updates")]
    if "Debian-Security" in found:
        lines.append(f"deb {signed}{found['Debian-Security']} {SUITE}-security main non-free-firmware")
    return "".join(f"{line}\n" for line in lines)


def build(folder: Path) -> None:
    """Make `base.tar` in `folder`. BuildError with the remedy."""
    if not KEYRING.exists():
        raise BuildError(f"{KEYRING} is missing; mend with: apt-get install debian-archive-keyring")
    lines = source_lines()
    command = [
        "mmdebstrap", f"--arch={ARCH}", "--variant=minbase", "--mode=auto", "--components=main,non-free-firmware",
        f"--keyring={KEYRING}",
        '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={path}" for path in NOT_WANTED),
        f"--include={','.join(PACKAGES)}", SUITE, str(folder / "part.tar"),
    ]  # fmt: skip
    if lines:
        command.append("-")
    run(command, given=lines, environment={"DEBIAN_FRONTEND": "noninteractive"}, seen=sys.stderr)
    (folder / "part.tar").rename(folder / "base.tar")
