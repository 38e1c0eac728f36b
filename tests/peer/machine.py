"""A Debian with an init of its own, booted in namespaces, so that its power off ends it and nothing else.

debootstrap makes it, once for all tests of a run (a minute each kind), if RIDETHROUGH_SYSTEMD is `debootstrap`; if it
names a folder, what is in FOLDER/KIND is used and otherwise made there, for the next time.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.peer.world import until

PACKAGES = {  # kind of machine -> its packages
    "systemd": "python3,python3-venv,systemd,systemd-sysv,dbus,udev",
    "openrc": "python3,openrc",
}
BOOT = """\
set -e
mount --make-rprivate /
mount --bind $R $R
mount -t proc proc $R/proc
mount -t sysfs -o ro sysfs $R/sys
mount -t tmpfs tmpfs $R/run
mount -t tmpfs tmpfs $R/sys/fs/cgroup
mkdir $R/sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup $R/sys/fs/cgroup/systemd
mount -t tmpfs tmpfs $R/dev
for d in null zero full random urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
mkdir $R/dev/pts $R/dev/shm
mount -t devpts devpts $R/dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx $R/dev/ptmx
cd $R
pivot_root . mnt
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec chroot . sh -c 'cd / && umount -l /mnt && exec env -i container=unshare PATH=$PATH '"$INIT"
"""
MASKED = ("systemd-sysctl", "systemd-modules-load", "systemd-update-utmp", "systemd-remount-fs")  # not of a container


class Booted:
    """The server, running, with `init` as its first process; `up` is a line for sh that says "running" when it is."""

    def __init__(
        self,
        root: Path,
        namespace: str,
        init: str = "/lib/systemd/systemd",
        up: str = "systemctl is-system-running",
    ) -> None:
        self.root = root
        for name in MASKED if "systemd" in init else ():
            (root / f"etc/systemd/system/{name}.service").symlink_to("/dev/null")
        argv = ["ip", "netns", "exec", namespace, "unshare", "-m", "-p", "-f", "-u", "-i", "-C", "sh", "-c", BOOT]
        self.process = subprocess.Popen(
            argv, env={**os.environ, "R": str(root), "INIT": init}, stdin=subprocess.DEVNULL
        )
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.init = int(until(lambda: children.read_text().split(), 10, "the server has a first process")[0])
        until(lambda: self.sh(up)[1].strip() in ("running", "degraded"), 40, "it is up")

    def sh(self, line: str) -> tuple[int, str]:
        argv = ["nsenter", "-t", str(self.init), "-m", "-p", "-u", "-i", "-n", "-C"]
        argv += ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", line]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150
        )
        return done.returncode, done.stdout

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.init, 9)
        self.process.wait(10)


@functools.cache
def debian(kind: str) -> Path:
    """A root file system of this kind, to be copied. Skips the test if nobody wants it or it cannot be made."""
    wanted = os.environ.get("RIDETHROUGH_SYSTEMD", "")
    if not wanted:
        pytest.skip("boots a machine of its own: ./run peer --machines")
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap")
    above = Path(tempfile.mkdtemp(prefix="ridethrough-")) if wanted == "debootstrap" else Path(wanted)
    folder, made = above / kind, above / f"{kind}.new"
    with open(above / f"{kind}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
        if folder.exists():
            return folder
        shutil.rmtree(made, ignore_errors=True)
        argv = ["debootstrap", "--variant=minbase", f"--include={PACKAGES[kind]}", "bookworm", str(made)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            pytest.skip(f"debootstrap: {done.stdout[-300:]}")
        made.chmod(0o755)  # it becomes "/"
        made.rename(folder)
    return folder
