"""The root of the board: the Debian base with our files laid over it, as one squashfs; no root, no mount."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .step import BuildError

#: of the base: not there at all on the board
DROPPED = re.compile(
    r"(dev|proc|sys|run|tmp|boot|var/cache|var/lib/apt/lists|var/log|usr/share/doc|usr/share/man|usr/share/locale)/.+"
    r"|etc/ssh/ssh_host_.*|etc/machine-id|etc/hostname|etc/resolv\.conf|var/lib/dbus/machine-id|etc/apt/sources\.list.*"
    r"|var/lib/systemd/(random-seed|catalog/.*)|.*\.dpkg-(old|new|dist)|etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
    r"|usr/lib/python3/dist-packages/.*|usr/share/(bash-completion|zsh|doc-base|lintian|polkit-1|perl5|bug)/.+"
    # a root that is never written has no use for what installs packages
    r"|var/lib/(dpkg|apt|pam|ucf)(/.*)?|etc/(apt|dpkg|cron\.daily)(/.*)?|usr/lib/(apt|dpkg)(/.*)?|usr/bin/(apt|dpkg|perl|deb).*"
    r"|usr/bin/sqv|usr/lib/[^/]*/(perl-base|gconv|libapt-.*|libdb-.*)(/.*)?|usr/share/(perl.*|debconf|gcc|gdb|keyrings)(/.*)?"
    r"|usr/lib/udev/hwdb\.d/.*|usr/lib/python3\.[0-9]+/(ensurepip|idlelib|turtledemo|tkinter|pydoc_data|test)/.*"
    r"|etc/systemd/system/.*\.wants/(apt-daily.*|dpkg-db-backup.*|e2scrub.*|ssh\..*|sshd.*|wpa_supplicant.*|remote-fs.*)"
    r"|etc/systemd/system/(sshd|dbus-fi\.w1\.wpa_supplicant1)\.service"
)
#: (systemd 256 and later) opens sshd on a vsock and a local socket, whatever ours says
GENERATORS = ("systemd-ssh-generator",)
LINKS = {
    "etc/resolv.conf": "/run/systemd/resolve/stub-resolv.conf",
    "etc/localtime": "/run/localtime",
    "etc/mtab": "/proc/self/mounts",
    "opt/ridethrough/bin/python": "/usr/bin/python3",
    "usr/local/bin/ridethrough": "/opt/ridethrough/bin/ridethrough",
}
FOLDERS = (
    "boot/firmware", "data", "dev", "proc", "sys", "run", "tmp", "var/cache", "var/log", "root",
    "etc/ridethrough/commands.d", "usr/share/ridethrough/update-keys",
)  # fmt: skip
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "ssh.service", "ssh.socket", "sshd.socket", "wpa_supplicant.service",
    "systemd-journal-catalog-update.service", "systemd-update-done.service", "systemd-hwdb-update.service",
    "ldconfig.service", "systemd-sysusers.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount",
    "systemd-networkd-wait-online.service", "systemd-firstboot.service", "systemd-pstore.service",
)  # fmt: skip
WANTED = {
    "multi-user.target": (
        "systemd-networkd.service", "systemd-resolved.service", "ridethrough-ssh.service",
        "ridethrough-confirm.service",
    ),
    "sysinit.target": ("systemd-timesyncd.service", "ridethrough-provision.service", "ridethrough-late.timer"),
    "local-fs.target": ("ridethrough-data.service",),
    "timers.target": ("ridethrough-spare.timer",),
    "sys-subsystem-net-devices-wlan0.device": ("ridethrough-wifi@wlan0.service",),
}  # fmt: skip
#: name -> user and group id, main folder; fixed, because they own files on the data partition
ACCOUNTS = {
    "ridethrough": (811, "/var/lib/ridethrough/core"),
    "ridethrough-faces": (812, "/var/lib/ridethrough/faces"),
}
#: groups that may open what the core needs; those that Debian does not have get a number of their own
DEVICES = {"dialout": 20, "gpio": 813}
FSTAB = """\
tmpfs /var tmpfs mode=0755,size=64m,nosuid,nodev 0 0
"""


@dataclass
class File:
    """One entry of our own."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""
    folder: bool = False


def accounts(text: str, kind: str) -> str:
    """passwd, group, shadow or gshadow of the base with our users in it; nobody can log in with a password."""
    rows = text.splitlines()
    for name, (number, home) in ACCOUNTS.items():
        rows.append(
            {
                "passwd": f"{name}:x:{number}:{number}::{home}:/usr/sbin/nologin",
                "group": f"{name}:x:{number}:" + ("ridethrough" if name != "ridethrough" else ""),
                "shadow": f"{name}:!*:20000::::::",
                "gshadow": f"{name}:!*::" + ("ridethrough" if name != "ridethrough" else ""),
            }[kind]
        )
    if kind in ("group", "gshadow"):
        names = {row.partition(":")[0] for row in rows}
        rows += [f"{n}:x:{i}:" if kind == "group" else f"{n}:!*::" for n, i in DEVICES.items() if n not in names]
        rows = [
            f"{row}{',' if row[-1] != ':' else ''}ridethrough" if row.partition(":")[0] in DEVICES else row
            for row in rows
        ]
    if kind == "shadow":
        # "*": no password, but a key may open it; "!" would shut root out altogether. The day of change is fixed.
        rows = [
            re.sub(r"^([^:]+):([^:]*):\d*:", r"\1:*:20000:" if r.startswith("root:") else r"\1:\2:20000:", r)
            for r in rows
        ]
    return "\n".join(rows) + "\n"


def entries(files: Mapping[str, str], folders: Sequence[tuple[str, Path]], signature: str) -> dict[str, File]:
    """All that is ours: texts by path, whole folders by the path that they get, links, masks, mount points."""
    found = {name: File(folder=True, mode=0o755) for name in FOLDERS}
    for name, text in files.items():
        found[name.lstrip("/")] = File(text.encode())
    for place, source in folders:
        for path in sorted(source.rglob("*")):
            if "__pycache__" in path.parts and source.name == "files":
                continue
            name = f"{place}/{path.relative_to(source)}".lstrip("/")
            if path.is_symlink():
                found[name] = File(link=str(path.readlink()))
            elif path.is_file():
                data = path.read_bytes()
                if source.name == "files":
                    data = data.replace(b"@SIGNATURE@", signature.encode())
                found[name] = File(data, 0o755 if path.stat().st_mode & 0o100 else 0o644)
    for name, to in LINKS.items():
        found[name] = File(link=to)
    for unit in MASKED:
        found[f"etc/systemd/system/{unit}"] = File(link="/dev/null")
    for name in GENERATORS:
        found[f"etc/systemd/system-generators/{name}"] = File(link="/dev/null")
    for target, units in WANTED.items():
        for unit in units:
            template = re.sub(r"@.*\.", "@.", unit)
            ours = f"etc/systemd/system/{template}" in found
            folder = "/etc/systemd/system" if ours else "/usr/lib/systemd/system"
            found[f"etc/systemd/system/{target}.wants/{unit}"] = File(link=f"{folder}/{template}")
    found["etc/fstab"] = File(FSTAB.encode())
    found["etc/hostname"] = File(b"ridethrough\n")
    found["etc/hosts"] = File(b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 ridethrough\n")
    found["etc/machine-id"] = File()
    return found


def merged(base: Path, ours: dict[str, File], epoch_s: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The base without what is dropped, then ours. Times after `epoch_s` become that."""
    there: set[str] = set()
    with tarfile.open(base) as tar:
        for info in tar:
            name = info.name.removeprefix("./").rstrip("/")
            if not name or name == "." or DROPPED.fullmatch(name):
                continue
            if name in ours and not ours[name].folder:
                continue
            file = tar.extractfile(info) if info.isreg() else None
            data = file.read() if file else b""
            kind = name.removeprefix("etc/")
            if name.startswith("etc/") and kind in ("passwd", "group", "shadow", "gshadow"):
                data = accounts(data.decode(), kind).encode()
                info.size = len(data)
            # the time of a source is in its bytecode: it stays
            info.name, info.mtime = name, int(info.mtime) if name.endswith(".py") else min(int(info.mtime), epoch_s)
            info.uname = info.gname = ""
            info.pax_headers = {}
            if info.islnk():
                info.linkname = info.linkname.removeprefix("./")
            there.add(name)
            yield info, data
    for name in sorted(ours):
        for parent in reversed(Path(name).parents):
            if str(parent) != "." and str(parent) not in there and str(parent) not in ours:
                there.add(str(parent))
                yield _info(str(parent), File(folder=True, mode=0o755), epoch_s), b""
        if name not in there:
            yield _info(name, ours[name], epoch_s), ours[name].data


def _info(name: str, entry: File, epoch_s: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode, info.size = epoch_s, entry.mode, len(entry.data)
    if entry.folder:
        info.type = tarfile.DIRTYPE
    elif entry.link:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    return info


def squashfs(target: Path, base: Path, ours: dict[str, File], epoch_s: int) -> None:
    """Write the root. BuildError with the last words of mksquashfs if it fails."""
    command = [
        "mksquashfs", "-", str(target), "-tar", "-noappend", "-quiet", "-no-progress", "-comp", "zstd",
        "-Xcompression-level", "15", "-b", "256K", "-reproducible", "-root-mode", "755",
        "-root-uid", "0", "-root-gid", "0",
    ]  # fmt: skip
    try:
        writer = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch_s)},
        )
    except FileNotFoundError:
        raise BuildError("mksquashfs is missing; mend with: apt-get install squashfs-tools") from None
    assert writer.stdin is not None and writer.stderr is not None  # noqa: S101 - they were asked for
    try:
        with tarfile.open(fileobj=writer.stdin, mode="w|", format=tarfile.GNU_FORMAT) as tar:
            for info, data in merged(base, ours, epoch_s):
                tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
        writer.stdin.close()
    except BrokenPipeError:
        pass  # it says why
    said = writer.stderr.read().decode("utf-8", "replace")
    if writer.wait():
        raise BuildError(f"mksquashfs: exit code {writer.returncode}\n{said[-2000:]}")
