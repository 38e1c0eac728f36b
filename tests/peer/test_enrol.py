"""A server is enrolled with the one command: real core, page, shell and Python 3.9; proven, shut down, refused."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import tls
from tests.peer.network import HERE_V4, THERE_V4, Network
from tests.peer.test_secure_core import notes, run, server_toml, view_of
from tests.peer.world import ROOT, World, free_port, until
from tests.pythons import other

pytestmark = pytest.mark.peer

PYTHON = str(other("3.9") or sys.executable)


class Server:
    """A machine with a shell and a Python, beneath a folder: nothing of the adapter is there."""

    def __init__(self, folder: Path, *where: str) -> None:
        """`where`: what brings a program onto that machine and into its time."""
        self.folder, self.root, self.where = folder, folder / "root", where
        programs = folder / "bin"
        for made in (programs, self.root, folder / "tmp"):
            made.mkdir(parents=True)
        (programs / "python3").symlink_to(PYTHON)
        self.env = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder / "tmp")}
        self.script = folder / "shutdown"
        self.script.write_text(f"#!/bin/sh\necho \"$RCCMD_VERB\" >> '{folder}/told'\n")
        self.script.chmod(0o755)

    def type(self, line: str, *more: str) -> subprocess.CompletedProcess[str]:
        """As an administrator types it, with the options of a trial installation."""
        options = ["--root", str(self.root), "--service", "none", "--on-shutdown", str(self.script), *more]
        argv = [*self.where, "/bin/sh", "-c", f"{line.strip()} {shlex.join(options)}"]
        return subprocess.run(argv, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=100)

    def uninstall(self) -> None:
        program = self.root / "opt" / "rccmd" / "rccmd.pyz"
        if program.exists():
            argv = [*self.where, PYTHON, str(program), "uninstall", "--root", str(self.root), "--service", "none"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr

    def told(self) -> list[str]:
        path = self.folder / "told"
        return path.read_text().splitlines() if path.exists() else []

    def key(self) -> str:
        return (self.root / "etc" / "rccmd" / "key.pem").read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    yield made
    made.uninstall()


#: moves the date by SHIFT_S seconds, and no other clock (libfaketime breaks the sleep of Python 3.11)
SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, at);
    if (result == 0 && which == CLOCK_REALTIME) at->tv_sec += atol(getenv("SHIFT_S"));
    return result;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
YEAR_S = 365.2425 * 86400


def shift_s(year: int) -> int:
    """From now to about the middle of this year."""
    return round((year + 0.5 - 1970) * YEAR_S - time.time())


class Adapter(World):
    """An adapter whose page is for everybody, in a namespace of its own and in this `year`."""

    def __init__(self, folder: Path, net: Network, year: int, **more: Any) -> None:
        super().__init__(folder, confirm_servers=0, **more)
        self._net, self._year = net, year
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)

    def __enter__(self) -> Adapter:
        """From here on this thread, and all that it starts, is in the adapter's namespace and year."""
        with open(f"/run/netns/{self._net.here}") as file:
            _enter(file.fileno())
        source, library = self.folder / "shift.c", self.folder / "shift.so"
        source.write_text(SHIFT)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
        os.environ.update(LD_PRELOAD=str(library), SHIFT_S=str(shift_s(self._year)))
        try:
            super().__enter__()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        del os.environ["LD_PRELOAD"], os.environ["SHIFT_S"]
        _enter(self._home)
        os.close(self._home)

    def _configure(self) -> None:
        super()._configure()
        text = self.config.read_text()
        place = f'listen = "127.0.0.1:{self.web_port}"'
        assert place in text
        self.config.write_text(text.replace(place, f'listen = "0.0.0.0:{self.web_port}"'))

    def _page(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.web_port)) == 0


def _enter(fd: int) -> None:
    """This thread goes into the network namespace of the open file."""
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


def over_tls(world: World) -> None:
    """The page as it is off loopback."""
    world.config.write_text(
        world.config.read_text().replace("public_status = true", 'public_status = true\ntls = "on"')
    )
    world.kill("faces")
    until((world.folder / "state" / "faces" / "tls.pem").exists, 20, "the page has a certificate")
    until(lambda: not enrol(world)["warnings"], 20, "the page is back, over TLS")


def enrol(world: World, name: str = "nas") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(world.ridethrough("enroll", name, "--json"))
    return told


def test_a_server_with_nothing_but_python_is_enrolled_proven_and_shut_down(tmp_path: Path, server: Server) -> None:
    port = free_port()
    with World(tmp_path, confirm_servers=0, servers=server_toml("nas", port, "secure = true")) as world:
        refused = subprocess.run(
            [sys.executable, "-m", "agent", "enroll", "nas", "--config", str(world.config)],
            cwd=ROOT, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert refused.returncode == 2 and "without TLS" in refused.stderr
        over_tls(world)
        assert "nas  127.0.0.1:" in world.ridethrough("enroll") and "cannot be told" in world.ridethrough("enroll")

        # a wrong code, and an impostor's fingerprint: nothing happens on the server
        told = enrol(world)
        wrong = server.type(told["command"].replace(told["code"], "00000-00000-00000-00000"))
        assert wrong.returncode == 1 and "refused the code" in wrong.stderr, wrong.stdout + wrong.stderr
        other = server.type(told["command"].replace(told["fingerprint"], "00" * 32))
        assert other.returncode == 1 and "STOP" in other.stderr
        assert not list(server.root.iterdir()) and not list((server.folder / "tmp").iterdir())

        # the good one
        line = world.ridethrough("enroll", "nas")
        done = server.type(line)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "proven by peer-ups" in done.stdout
        assert not list((server.folder / "tmp").iterdir())
        until(lambda: view_of(world).state == "proven", 10, "the adapter says so, too")
        assert view_of(world).trust == "secure"
        assert "nas  127.0.0.1:" in world.ridethrough("enroll") and "enrolled, proven" in world.ridethrough("enroll")
        pins = [n for n in notes(world, "command") if n["command"] == "pin"]
        assert [(n["user"], n["address"], n["outcome"]) for n in pins] == [("enrolment", "127.0.0.1", "done")]

        # the same line once more: the code is used, and what runs goes on
        first = server.key()
        again = server.type(line)
        assert again.returncode == 1 and "refused the code" in again.stderr
        assert server.key() == first and view_of(world).state == "proven"

        # a new code: a new key, which is the only one that counts from then on
        done = server.type(world.ridethrough("enroll", "nas"), "--replace")
        assert done.returncode == 0 and "proven by peer-ups" in done.stdout, done.stdout + done.stderr
        assert server.key() != first

        # the outage
        assert not server.told()
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(lambda: view_of(world).delivery == "accepted", 10, "it was told")
        until(lambda: server.told() == ["SHUTDOWN"], 5, "its command has run")
    assert tls.fingerprint(tmp_path / "state" / "faces") == told["fingerprint"]
    log = world.log.read_text()
    for secret in (told["code"], line.split()[-1], "PRIVATE KEY", "Traceback"):
        assert secret not in log


def test_of_two_adapters_the_word_of_one_is_a_vote_only(tmp_path: Path, server: Server) -> None:
    """Two power feeds, an adapter at each: the server goes down when both ask, and either could be wrong alone."""
    nas = server_toml("nas", free_port(), "secure = true")
    for name in "ab":
        (tmp_path / name).mkdir()
    with World(tmp_path / "a", confirm_servers=0, servers=nas) as one:
        with World(tmp_path / "b", confirm_servers=0, servers=nas) as two:
            for world in (one, two):
                over_tls(world)
            done = server.type(one.ridethrough("enroll", "nas"))
            assert done.returncode == 0 and "proven by peer-ups" in done.stdout, done.stdout + done.stderr
            ini = server.root / "etc" / "rccmd" / "rccmd.ini"
            ini.write_text(ini.read_text().replace("[listen]\n", "[listen]\nneed = 2\n"))
            done = server.type(two.ridethrough("enroll", "nas"))
            assert done.returncode == 0 and "proven by peer-ups-" in done.stdout, done.stdout + done.stderr
            for world in (one, two):
                until(lambda world=world: view_of(world).state == "proven", 10, "each adapter says so")
            assert "needs 2 adapters" in view_of(two).proof

            one.ups.set("mains", "off")
            one.ups.set("battery_low", "1")
            until(lambda: view_of(one).delivery == "accepted", 10, "it was told by one")
            time.sleep(2.0)
            assert server.told() == []
            two.ups.set("mains", "off")
            two.ups.set("battery_low", "1")
            until(lambda: server.told() == ["SHUTDOWN"], 10, "told by both, its command has run")


@pytest.mark.parametrize(("here", "there"), [(1970, 2099), (2099, 1970), (2001, 2026), (2026, 2001)])
def test_over_a_real_network_and_in_any_year_on_either_side(tmp_path: Path, here: int, there: int) -> None:
    nas = server_toml("nas", 7003, "secure = true").replace("127.0.0.1", THERE_V4)
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    with Network() as net, Adapter(tmp_path, net, here, servers=nas) as world:
        clock = [f"LD_PRELOAD={library}", f"FAKETIME={shift_s(there):+d}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        server = Server(tmp_path / "server", "ip", "netns", "exec", net.there, "env", *clock)
        try:
            until(lambda: world.view().servers, 10, "the core has its plan")
            told = enrol(world)
            assert told["adapter"] == f"{HERE_V4}:{world.web_port}" and told["warnings"] == []
            done = server.type(told["command"])
            assert done.returncode == 0 and "proven by peer-ups" in done.stdout, done.stdout + done.stderr
            until(lambda: view_of(world).state == "proven", 10, "the adapter says so, too")
            pinned = json.loads((tmp_path / "state" / "core" / "pins.json").read_text())["nas"]
            assert time.gmtime(pinned["enrolled_s"]).tm_year == here
            assert f"{there}-" in (server.root / "var/lib/rccmd/listener.log").read_text()
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: view_of(world).delivery == "accepted", 10, "it was told")
            until(lambda: server.told() == ["SHUTDOWN"], 5, "its command has run")
        finally:
            server.uninstall()


def reload(world: World, text: str) -> None:
    """This is the configuration from now on, as whoever edits the file tells the core."""
    before = len(notes(world, "config-changed"))
    world.config.write_text(text)
    os.kill(world.agent.pid, signal.SIGHUP)
    until(lambda: len(notes(world, "config-changed")) > before, 10, "the configuration is read")


def test_a_server_that_was_deleted_is_refused_and_comes_back_by_a_new_code_alone(tmp_path: Path) -> None:
    """Two servers on the other machine. `nas` leaves the configuration: no shutdown, no old code, no old key."""
    tables = {
        name: server_toml(name, port, "secure = true").replace("127.0.0.1", THERE_V4)
        for name, port in (("nas", 7003), ("web", 7004))
    }
    with Network() as net, Adapter(tmp_path, net, 2026, servers="".join(tables.values())) as world:
        nas, web = (Server(tmp_path / name, "ip", "netns", "exec", net.there) for name in tables)
        pins = tmp_path / "state" / "core" / "pins.json"
        log = nas.root / "var/lib/rccmd/listener.log"

        def commands() -> list[str]:
            """Since its listener was started."""
            return re.findall(r"peer-ups (?:SHUTDOWN|MSG_TEXT|WAKEUP|EXECUTE): accepted", log.read_text())

        def enrolled(server: Server, name: str, *more: str) -> None:
            done = server.type(world.ridethrough("enroll", name), *more)
            assert done.returncode == 0 and "proven by peer-ups" in done.stdout, done.stdout + done.stderr
            until(lambda: view_of(world, name).state == "proven", 10, "the adapter says so, too")

        try:
            until(lambda: len(world.view().servers) == 2, 10, "the core has its plan")
            enrolled(nas, "nas")
            enrolled(web, "web")
            whole, first = world.config.read_text(), nas.key()
            assert run(world, "message", "nas", "hello") == (0, "nas: accepted\n") and len(commands()) == 1
            unused = world.ridethrough("enroll", "nas")

            # deleted: its pin is gone, and so is what a code was good for
            reload(world, whole.replace(tables["nas"], ""))
            until(lambda: list(json.loads(pins.read_text())) == ["web"], 10, "it is revoked")
            refused = nas.type(unused)
            assert refused.returncode == 1 and "Nothing was changed" in refused.stderr, (
                refused.stdout + refused.stderr
            )
            assert (nas.key(), list(json.loads(pins.read_text()))) == (first, ["web"])

            # the same lines once more: it is a stranger, whose key counts for nothing
            reload(world, whole)
            until(lambda: len(world.view().servers) == 2, 10, "it is there again")
            until(lambda: "not enrolled yet" in view_of(world).proof, 10, "it is a stranger")
            code, said = run(world, "message", "nas", "hello")
            assert code == 1 and "not enrolled yet: ridethrough enroll nas" in said and len(commands()) == 1
            again = nas.type(unused)  # it was used up
            assert again.returncode == 1 and nas.key() == first, again.stdout + again.stderr
            enrolled(nas, "nas")
            second = nas.key()
            assert second != first
            key = nas.root / "etc/rccmd/key.pem"
            key.write_text(first)
            code, said = run(world, "message", "nas", "hello")
            assert code == 1 and "another certificate" in said, said
            key.write_text(second)
            assert run(world, "message", "nas", "hello") == (0, "nas: accepted\n") and len(commands()) == 1

            # deleted again, and then the outage: the other one goes down, and nothing is said to it
            reload(world, whole.replace(tables["nas"], ""))
            until(lambda: list(json.loads(pins.read_text())) == ["web"], 10, "it is revoked")
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: view_of(world, "web").delivery == "accepted", 10, "the other one was told")
            until(lambda: web.told() == ["SHUTDOWN"], 5, "its command has run")
            time.sleep(2.0)
            assert nas.told() == [] and len(commands()) == 1
        finally:
            nas.uninstall()
            web.uninstall()
