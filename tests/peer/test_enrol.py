"""A server is enrolled with the one command: real core, page, shell and Python 3.9; proven, shut down, and refused."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import tls
from tests.peer.test_secure_core import notes, server_toml, view_of
from tests.peer.world import ROOT, World, free_port, until

pytestmark = pytest.mark.peer

OLDEST = Path("/root/.pyenv/versions/3.9.18/bin/python")
PYTHON = str(OLDEST) if OLDEST.exists() else sys.executable


class Server:
    """A machine with a shell and a Python, beneath a folder: nothing of the adapter is there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
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
        argv = ["/bin/sh", "-c", f"{line.strip()} {shlex.join(options)}"]
        return subprocess.run(argv, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=100)

    def uninstall(self) -> None:
        program = self.root / "opt" / "rccmd" / "rccmd.pyz"
        if program.exists():
            argv = [PYTHON, str(program), "uninstall", "--root", str(self.root), "--service", "none"]
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
