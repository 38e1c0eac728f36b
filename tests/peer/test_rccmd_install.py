"""Enrolment and shutdown of a bare server: a Debian with nothing but python3, on a cable, and the whole adapter.

The server is a root file system of its own (debootstrap, about a minute; RIDETHROUGH_BARE names one that is there and
is copied) behind a network namespace. It runs the one command that `ridethrough enroll` prints.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.model import ServerView
from agent.rccmd import install, status
from tests.peer.network import ip
from tests.peer.world import World, free_port, until
from tests.pythons import other
from tests.rccmd_kit import CODE, Case

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and network namespaces"),
]
HERE, THERE = "10.197.7.1", "10.197.7.2"
OLDEST = other("3.9")
PYTHON39 = Path(OLDEST).resolve().parent.parent if OLDEST else None


class Adapter(World):
    """The installation of `World`, with its page where servers reach it."""

    def _configure(self) -> None:
        super()._configure()
        text = self.config.read_text()
        listen = f'listen = "127.0.0.1:{self.web_port}"'
        assert listen in text
        self.config.write_text(text.replace(listen, f'listen = "{HERE}:{self.web_port}"'))

    def _page(self) -> bool:
        """Whether the page, which is over TLS here, can be had."""
        with socket.socket() as sock:
            return sock.connect_ex((HERE, self.web_port)) == 0

    def server(self) -> ServerView:
        return next(s for s in self.view().servers if s.name == "nas")


@contextmanager
def cable() -> Iterator[str]:
    """Two namespaces with a cable between; this thread is in the first, the other's name is given."""
    here, there = f"rc-install-h{os.getpid()}", f"rc-install-t{os.getpid()}"
    end, other = f"rih{os.getpid()}", f"rit{os.getpid()}"
    setns = ctypes.CDLL(None, use_errno=True).setns
    with open("/proc/thread-self/ns/net") as home:
        try:
            for line in (
                f"netns add {here}", f"netns add {there}",
                f"link add {end} netns {here} type veth peer name {other} netns {there}",
                f"-n {here} addr add {HERE}/24 dev {end}", f"-n {there} addr add {THERE}/24 dev {other}",
                *(f"-n {name} link set {device} up" for name, device in (
                    (here, "lo"), (there, "lo"), (here, end), (there, other))),
            ):  # fmt: skip
                ip(line)
            with open(f"/run/netns/{here}") as file:
                assert setns(file.fileno(), 0x40000000) == 0  # CLONE_NEWNET
            yield there
        finally:
            assert setns(home.fileno(), 0x40000000) == 0
            for name in (here, there):
                subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ready = os.environ.get("RIDETHROUGH_BARE")
    if ready:
        return Path(ready)
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap")
    folder = tmp_path_factory.mktemp("debian")
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3", "bookworm", str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        pytest.skip(f"debootstrap: {done.stdout[-300:]}")
    folder.chmod(0o755)  # it becomes "/"
    return folder


class Bare:
    """A server: a copy of that root file system, entered by way of its network namespace."""

    def __init__(self, root: Path, namespace: str, python: Path | None) -> None:
        self.root, self._namespace = root, namespace
        self._path = "/usr/sbin:/usr/bin:/sbin:/bin"
        self._mounts = ""
        if python:
            (root / "opt/python").mkdir()
            self._path = f"/opt/python/bin:{self._path}"
            self._mounts = f"mount --bind {python} {root}/opt/python && "

    def sh(self, line: str) -> tuple[int, str]:
        inside = f"exec env -i PATH={self._path} LD_LIBRARY_PATH=/opt/python/lib "
        inside += f"chroot {self.root} /bin/sh -c {shlex.quote(line)}"
        argv = ["ip", "netns", "exec", self._namespace, "unshare", "--mount", "sh", "-c", self._mounts + inside]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150
        )
        return done.returncode, done.stdout


@pytest.mark.parametrize("python", ["of Debian", "3.9"])
def test_a_bare_server_enrols_is_proven_shut_down_and_left_clean(tmp_path: Path, debian: Path, python: str) -> None:
    if python == "3.9" and PYTHON39 is None:
        pytest.skip("needs a Python 3.9 in a folder of its own")
    root = tmp_path / "server"
    subprocess.run(["cp", "-a", "--reflink=auto", str(debian), str(root)], check=True)
    before = {str(p.relative_to(root)) for p in root.rglob("*")}
    (tmp_path / "adapter").mkdir()
    servers = (
        f'[[server]]\nname = "nas"\naddress = "{THERE}"\nport = 6003\nneeds_s = 10\nstage = "all"\nsecure = true\n'
    )
    with cable() as namespace, Adapter(tmp_path / "adapter", confirm_servers=0, servers=servers) as world:
        server = Bare(root, namespace, PYTHON39 if python == "3.9" else None)
        try:
            until(lambda: "not enrolled yet" in world.server().proof, 15, "it is not enrolled")

            def enroll() -> str:
                return world.ridethrough("enroll", "nas", "--address", f"{HERE}:{world.web_port}").strip()

            code, said = server.sh(enroll())
            assert code == 1 and "no program was found that powers this machine off" in said, said
            code, said = server.sh(f"{enroll()} --on-shutdown '/usr/bin/touch /down' --dry-run")
            assert code == 0 and "would write /etc/rccmd/key.pem" in said, said
            assert not (root / "etc/rccmd").exists()
            code, said = server.sh(f"{enroll()} --on-shutdown '/usr/bin/touch /down'")
            assert code == 0 and "proven by peer-ups\n" in said, said
            until(lambda: world.server().state == "proven", 10, "the adapter has seen it")
            assert world.server().trust == "secure" and "self test ok" in world.server().proof
            key = (root / "etc/rccmd/key.pem").read_bytes()
            # a code is good once
            used = enroll()
            code, said = server.sh(used)
            assert code == 0 and "proven by peer-ups\n" in said, said  # enrolled anew
            assert (root / "etc/rccmd/key.pem").read_bytes() != key
            key = (root / "etc/rccmd/key.pem").read_bytes()
            code, said = server.sh(used)
            assert code == 1 and "the adapter refused the code" in said, said
            assert (root / "etc/rccmd/key.pem").read_bytes() == key
            # a step that fails after the trade: everything is as before, and the old listener runs
            ini = root / "etc/rccmd/rccmd.ini"
            settings = ini.read_text()
            code, said = server.sh(f"{enroll()} --port 6004 --service openrc")  # there is no OpenRC here
            assert code == 1 and "everything was put back as it was" in said, said
            assert "rccmd" not in (root / "etc/passwd").read_text()
            assert ini.read_text() == settings and not (root / "etc/init.d/rccmd").exists()
            assert (root / "etc/rccmd/key.pem").read_bytes() == key
            code, said = server.sh(enroll())
            assert code == 0 and "proven by peer-ups\n" in said, said
            # the outage
            until(lambda: world.server().state == "proven", 10, "the adapter has seen it")
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until((root / "down").exists, 20, "it was shut down")
        finally:
            program = "/opt/rccmd/rccmd.pyz" if (root / "opt/rccmd/rccmd.pyz").exists() else "/nothing"
            code, said = server.sh(f"python3 {program} uninstall")
        assert code == 0 and "left: this server in the configuration of peer-ups" in said, said
    after = {str(p.relative_to(root)) for p in root.rglob("*")}
    of_others = {"down", "opt/python", "etc/shadow-", "etc/gshadow-"}  # ours; and what useradd keeps
    assert {p for p in after - before if "__pycache__" not in p} <= of_others, after - before


def test_a_listener_that_does_not_start_gives_way_to_the_old_one(tmp_path: Path) -> None:
    class Server(Case):
        def runTest(self) -> None:
            self.install("--port", str(free_port()))
            said: list[str] = []
            times_s = itertools.count(0.0, 40.0)  # nobody speaks to it here: the wait is over at once
            clock = install.Clock(lambda: next(times_s), time.sleep)

            def run(*more: str) -> int:
                self.adapter.codes = {CODE}
                words = [*self.words()[1:], "--service", "none", "--on-shutdown", "/bin/true", *more]
                return install.main(words, said.append, clock=clock)

            self.assertEqual(run(), install.NOT_PROVEN, said)
            self.assertIn("did not speak to it within 60 s", said[-1])
            state = str(self.root / "var/lib/rccmd")
            pid, files = status.running(state), self.files()
            self.assertIsNotNone(pid)
            with socket.socket() as taken:
                taken.bind(("0.0.0.0", 0))
                taken.listen()
                self.assertEqual(run("--port", str(taken.getsockname()[1])), install.NOT_INSTALLED)
            again = status.running(state)
            self.assertTrue(again and again != pid)
            for name in ("etc/rccmd/rccmd.ini", "etc/rccmd/key.pem", "etc/rccmd/senders/ups-a.pem"):
                self.assertEqual(self.files()[name], files[name])
            code, text = self.run_it("uninstall", "--service", "none", "--root", str(self.root))
            self.assertEqual((code, status.running(state), self.files()), (0, None, {}), text)

    result = Server().run()
    assert result is not None and result.wasSuccessful(), result.failures + result.errors


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-x"]))
