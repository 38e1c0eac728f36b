"""The real core tells the real `rccmd listen` over TLS: proven, warned, told once, woken; nobody else is obeyed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent import senderkey
from tests.peer.test_secure_core import pin, run, server_toml, view_of
from tests.peer.world import ROOT, World, free_port, until
from tests.secure_peer import keys, pem, sha256

pytestmark = pytest.mark.peer


class Listener:
    """`rccmd listen` with a key; what it runs leaves a line in a file of its own."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "senders").mkdir(parents=True)
        (folder / "state").mkdir()
        (folder / "key.pem").write_bytes(keys("server"))
        for name in ("shutdown", "message", "backup"):
            script = folder / name
            script.write_text(f"#!/bin/sh\necho \"$RCCMD_VERB $(cat)\" >> '{folder}/{name}.ran'\n")
            script.chmod(0o755)
        rows = [
            "[listen]", f"bind = 127.0.0.1:{self.port}", f"tls = {folder}/key.pem", f"senders = {folder}/senders",
            f"state_dir = {folder}/state", f"on_shutdown = {folder}/shutdown", f"on_message = {folder}/message",
            *lines, "[execute]", f"backup = {folder}/backup",
        ]  # fmt: skip
        (folder / "rccmd.ini").write_text("\n".join(rows) + "\n")
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "agent.rccmd", "listen", "--config", str(self.folder / "rccmd.ini")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._listens, 10, "rccmd listens")

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def trusts(self, name: str, certificate: str) -> None:
        (self.folder / "senders" / f"{name}.pem").write_text(certificate)

    def ran(self, name: str) -> list[str]:
        path = self.folder / f"{name}.ran"
        return path.read_text().splitlines() if path.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def test_enrolled_proven_warned_shut_down_and_told_that_it_is_over(tmp_path: Path) -> None:
    server = Listener(tmp_path / "server")
    try:
        nas = server_toml("nas", server.port, "secure = true")
        agent = "wake_after_s = 0\nwake_charge_pct = 5\nups_off = false\n"
        with World(tmp_path, confirm_servers=0, servers=nas, agent=agent) as world:
            server.trusts("adapter", str(pin(world, "nas", sha256(keys("server")))["sender_pem"]))
            until(lambda: view_of(world).state == "proven", 10, f"it is proven: {server.log()}")
            assert view_of(world).proof.startswith("version 0.1.0, self test ")
            assert run(world, "message", "nas", "battery #BATTCAP % \N{EURO SIGN}") == (0, "nas: accepted\n")
            until(lambda: server.ran("message"), 5, "the text is shown")
            shown = server.ran("message")[0]
            assert shown.startswith("MSG_TEXT battery ") and shown.endswith("% \N{EURO SIGN}")
            assert run(world, "execute", "nas", "backup") == (0, "nas: accepted\n")
            until(lambda: server.ran("backup"), 5, "the named command runs")
            code, text = run(world, "execute", "nas", "reboot")
            assert code == 1 and text.startswith("nas: not delivered (refused: ")
            assert server.ran("shutdown") == []
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: server.ran("shutdown"), 10, "the shutdown runs")
            until(lambda: view_of(world).delivery == "accepted", 3, "the outcome is shown")
            outage = str(world.view().outage)
            world.kill("core")  # in the outage: the new one does not tell it again, and may ask what it likes
            until(lambda: world.status_or_none() is not None, 15, "the core is back")
            assert world.view().outage == outage
            world.ups.set("mains", "on")
            world.ups.set("battery_low", "0")
            until(lambda: view_of(world).wake == "back" or world.view().phase == "idle", 100, "it is back")
            until(lambda: "WAKEUP" in server.log(), 10, "it was told that the outage is over")
            assert len(server.ran("shutdown")) == 1
    finally:
        server.stop()


def test_a_server_that_trusts_another_adapter_runs_nothing_and_the_core_says_it(tmp_path: Path) -> None:
    server = Listener(tmp_path / "server")
    server.trusts("other", pem(senderkey.make("another adapter")))
    try:
        with World(tmp_path, confirm_servers=0, servers=server_toml("nas", server.port, "secure = true")) as world:
            pin(world, "nas", sha256(keys("server")))
            until(lambda: "this adapter's key" in view_of(world).proof, 10, "the proof names the reason")
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: view_of(world).delivery == "not-delivered", 10, "not delivered")
            assert "this adapter's key" in view_of(world).detail
            # trusted at last, in the outage: it is told with the next attempt
            server.trusts("adapter", senderkey.certificate(tmp_path / "state" / "core"))
            until(lambda: view_of(world).delivery == "accepted", 20, "it is told")
            assert len(server.ran("shutdown")) == 1
    finally:
        server.stop()


def test_an_impostor_with_the_servers_address_is_told_nothing(tmp_path: Path) -> None:
    server = Listener(tmp_path / "server")
    try:
        with World(tmp_path, confirm_servers=0, servers=server_toml("nas", server.port)) as world:
            server.trusts("adapter", str(pin(world, "nas", sha256(keys("the real one")))["sender_pem"]))
            until(lambda: "another certificate" in view_of(world).proof, 10, "the proof names the certificate")
            assert sha256(keys("server")) in view_of(world).proof
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: view_of(world).attempts >= 2, 15, "it was tried")
            assert view_of(world).delivery == "not-delivered" and server.ran("shutdown") == []
    finally:
        server.stop()


def test_a_listener_that_was_told_keeps_that_over_a_restart(tmp_path: Path) -> None:
    server = Listener(tmp_path / "server")
    try:
        with World(tmp_path, confirm_servers=0, servers=server_toml("nas", server.port, "secure = true")) as world:
            server.trusts("adapter", str(pin(world, "nas", sha256(keys("server")))["sender_pem"]))
            until(lambda: view_of(world).state == "proven", 10, "it is proven")
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: server.ran("shutdown"), 10, "the shutdown runs")
            server.stop()
            server.start()
            slots = tmp_path / "state" / "core" / "slots"
            os.kill(world.agent.pid, signal.SIGTERM)
            world.agent.wait(20)
            assert slots.exists()
            # a server that is elsewhere now is told again in the same outage
            text = world.config.read_text()
            assert text.count('address = "127.0.0.1"') == 1
            world.config.write_text(text.replace('address = "127.0.0.1"', 'address = "localhost"'))
            world.start_agent()
            until(lambda: view_of(world).delivery == "accepted", 15, "it was told again")
            assert view_of(world).detail == "was told before" and len(server.ran("shutdown")) == 1
    finally:
        server.stop()
