"""The real core with enrolled servers: pinned over the bus, proven, told over TLS, revoked, and with a lost key."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent import bus
from agent.model import ServerView
from tests.peer.world import ROOT, World, until
from tests.secure_peer import SecurePeer, context, keys, pem, sha256

pytestmark = pytest.mark.peer


def server_toml(name: str, port: int, *lines: str) -> str:
    rows = [f'name = "{name}"', 'address = "127.0.0.1"', f"port = {port}", "needs_s = 10", 'stage = "all"', *lines]
    return "[[server]]\n" + "\n".join(rows) + "\n"


def pin(world: World, name: str, sha: str) -> bus.Message:
    message: bus.Message = {"type": "pin", "name": name, "sha256": sha, "origin": {"user": "admin", "address": "web"}}
    return bus.ask(str(world.folder / "run" / "core.sock"), message, within_s=30.0)


def view_of(world: World, name: str = "nas") -> ServerView:
    return next(s for s in world.view().servers if s.name == name)


def run(world: World, *args: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "agent", *args, "--config", str(world.config)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def notes(world: World, name: str) -> list[dict[str, Any]]:
    return [{"text": e.text, **e.data} for e in world.events() if e.name == name]


def loaded(world: World, library: str) -> bool:
    """Has the core's process mapped this library?"""
    return library in Path(f"/proc/{world.pid_of('core')}/maps").read_text()


def test_a_server_is_enrolled_proven_warned_told_and_revoked(tmp_path: Path) -> None:
    port_of_web = 1  # nobody listens there
    web = server_toml("web", port_of_web, "secure = false")
    sender = tmp_path / "state" / "core" / "sender.pem"
    peer: SecurePeer | None = None
    with World(tmp_path, confirm_servers=0, servers=web + server_toml("nas", 2, "secure = true")) as world:
        # before: not enrolled, and the key is made by a child
        until(sender.exists, 20, "the core has a key")
        assert sender.stat().st_mode & 0o777 == 0o600 and not loaded(world, "_rust")
        until(lambda: "not enrolled yet" in view_of(world).proof, 10, "it is not enrolled")
        assert view_of(world).trust == "not-enrolled" and view_of(world, "web").trust == "classic"
        code, text = run(world, "status")
        assert "not enrolled)" in text and "ridethrough enroll nas" in text
        code, text = run(world, "rehearse")
        assert code == 1 and "nas: unknown (not enrolled; not enrolled yet: ridethrough enroll nas)" in text
        # who may not be enrolled
        for name, why in (("web", "secure = false"), ("nobody", "there is no")):
            with pytest.raises(bus.BusError, match=why):
                pin(world, name, "ab" * 32)
        until(
            lambda: [n["outcome"] for n in notes(world, "command") if n["command"] == "pin"] == ["refused"] * 2, 5,
            "both refusals are in the log",
        )  # fmt: skip
        # enrolled: the answer is our certificate; a server that trusts it
        answer = pin(world, "nas", sha256(keys("server")))
        ours = str(answer["sender_pem"])
        assert ours in sender.read_text() and "PRIVATE" not in ours
        row = {"command": "pin", "args": "nas", "user": "admin", "address": "web", "outcome": "done", "text": ""}
        until(lambda: row in notes(world, "command"), 5, "the log has it")
        # it begins to listen only now, and is proven within seconds all the same
        noop = b"RT1 accepted version=0.1.0 selftest=ok selftest_age_s=5 need=1 votes=0\n"
        peer = SecurePeer(context(tmp_path, keys("server"), sender.read_bytes()), noop)
        world.config.write_text(world.config.read_text().replace("port = 2\n", f"port = {peer.port}\n"))
        os.kill(world.agent.pid, signal.SIGHUP)
        until(lambda: view_of(world).state == "proven", 10, "it is proven")
        assert view_of(world).trust == "secure" and view_of(world).proof == "version 0.1.0, self test ok"
        assert (
            f"server nas (127.0.0.1:{peer.port}, secure): proven (version 0.1.0, self test ok)"
            in run(world, "status")[1]
        )
        assert not loaded(world, "_rust"), "cryptography is in the core"
        # a message by hand
        code, text = run(world, "message", "nas", "battery #BATTCAP %, #NOSUCH")
        assert (code, text) == (0, "nas: accepted\n")
        assert re.fullmatch(rb"RT1 MSG_TEXT [0-9a-f]{16} battery \d+ %, #NOSUCH\n", peer.asked[-1])
        code, text = run(world, "message", "all", "hello")
        assert code == 1 and "nas: accepted" in text and "web: not delivered (Connection refused)" in text
        code, text = run(world, "execute", "nas", "backup")
        assert (code, text) == (0, "nas: accepted\n") and peer.asked[-1].endswith(b" backup\n")
        assert run(world, "execute", "nobody", "backup")[0] == 1
        assert {n["outcome"] for n in notes(world, "message")} == {"accepted", "not-delivered"}
        # the outage: one id for all that is said of it
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(lambda: view_of(world).delivery == "accepted", 10, "it was told")
        outage = world.view().outage
        assert f"RT1 SHUTDOWN {outage}\n".encode() in peer.asked
        # deleted in the outage: it stays in the plan of this outage, then it is revoked
        world.config.write_text(world.config.read_text().replace(server_toml("nas", peer.port, "secure = true"), ""))
        os.kill(world.agent.pid, signal.SIGHUP)
        until(lambda: notes(world, "config-changed")[1:], 5, "the configuration is read")
        assert "nas" in (tmp_path / "state" / "core" / "pins.json").read_text()
    assert peer is not None
    peer.close()


def test_a_server_that_leaves_the_configuration_loses_its_pin(tmp_path: Path) -> None:
    web, nas = server_toml("web", 1), server_toml("nas", 2)
    pins = tmp_path / "state" / "core" / "pins.json"
    with World(tmp_path, mode="dry-run", confirm_servers=0, servers=web + nas) as world:
        pin(world, "nas", "ab" * 32)
        pin(world, "web", "cd" * 32)
        until(lambda: view_of(world).trust == "secure", 5, "it is enrolled")
        whole = world.config.read_text()
        world.config.write_text(whole.replace('address = "127.0.0.1"', 'address = "not an address"'))
        os.kill(world.agent.pid, signal.SIGHUP)  # a mistake revokes nobody
        until(lambda: world.view().config_errors, 5, "the mistake is seen")
        assert "nas" in pins.read_text()
        world.config.write_text(whole.replace(nas, ""))
        os.kill(world.agent.pid, signal.SIGHUP)
        until(lambda: "nas" not in pins.read_text(), 5, "it is revoked")
        assert "web" in pins.read_text()
        world.config.write_text(whole)
        os.kill(world.agent.pid, signal.SIGHUP)
        until(lambda: any(s.name == "nas" for s in world.view().servers), 5, "there is a nas again")
        until(lambda: view_of(world).trust == "classic", 5, "it is another one")


def test_a_core_with_a_damaged_key_runs_and_says_whom_to_enrol(tmp_path: Path) -> None:
    with World(tmp_path, mode="dry-run", confirm_servers=0, servers=server_toml("nas", 2)) as world:
        old = str(pin(world, "nas", "ab" * 32)["sender_pem"])
        (tmp_path / "state" / "core" / "sender.pem").write_bytes(b"\0" * 100)
        world.kill("core")
        lost = until(lambda: world.status_or_none() and notes(world, "sender-key-lost"), 15, "the log says it")
        assert "ridethrough enroll NAME" in lost[0]["text"]
        new = str(pin(world, "nas", "ab" * 32)["sender_pem"])
        assert new != old and (tmp_path / "state" / "core" / "sender.pem.damaged").exists()
        assert pem(new.encode()) == new
