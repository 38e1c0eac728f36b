"""The ways to tell a server against the real programs: OpenSSH's server, OpenSSL's server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import Server
from agent.reach import ACCEPTED, NOT_DELIVERED, PROVEN, REACHABLE, UNCONFIRMED, UNKNOWN, Job, http, ssh
from tests import steps
from tests.peer.world import free_port, until

pytestmark = [pytest.mark.peer, pytest.mark.alone]

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
LOOP_LIMIT_S = 0.05  # one step may hold the delivery so long


class Sshd:
    """OpenSSH's server on loopback with a key of its own and one forced command; what it runs leaves a line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.ran = folder / "ran"
        for name in ("host", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        self.host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        self.other_key = " ".join((folder / "other.pub").read_text().split()[:2])
        core = folder / "core"
        core.mkdir(mode=0o700)
        self.our_key = ssh.ensure_key(core)
        self.forced = folder / "forced"
        self.force("exit 0")
        (folder / "keys").write_text(f'command="{self.forced}",restrict {self.our_key}\n')
        commands = folder / "commands.d"
        commands.mkdir(mode=0o755)
        (commands / "poweroff.ssh").write_text("# what a server is asked\nsystemctl poweroff\n")
        config = folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nListenAddress ::1\nHostKey {folder / 'host'}\n"
            f"PidFile none\nAuthorizedKeysFile {folder / 'keys'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 200\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.log = folder / "sshd.log"
        self._process = subprocess.Popen([SSHD, "-D", "-f", config, "-E", self.log])
        until(self._listens, 10, "sshd listens")

    @property
    def pid(self) -> int:
        return self._process.pid

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def force(self, text: str) -> None:
        self.forced.write_text(f'#!/bin/sh\necho "$SSH_ORIGINAL_COMMAND" >>{self.ran}\n{text}\n')
        self.forced.chmod(0o755)

    def job(
        self, *, connect_s: float = 2.0, name: str = "Nas.1", address: str = "127.0.0.1", **changes: object
    ) -> Job:
        options = {"user": os.environ.get("USER") or "root", "host_key": self.host_key, "command": "poweroff"}
        port = int(str(changes.pop("port", self.port)))
        place = (socket.AF_INET6, (address, 0, 0)) if ":" in address else (socket.AF_INET, (address,))
        return Job(
            server=Server(name=name, address=address, port=port, how="ssh", options=options | changes),
            address=place,
            outage="0123456789abcdef",
            connect_s=connect_s,
            folder=self.folder / "core",
            commands_dir=self.folder / "commands.d",
            secret=lambda label: None,
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path)
    try:
        yield server
    finally:
        server.close()


def no_child(of: Sshd) -> None:
    assert steps.gone({of.pid: ""}), f"left: {steps.children()}"


def test_a_forced_command_runs_whatever_is_asked(sshd: Sshd) -> None:
    for address in ("127.0.0.1", "::1"):
        outcome = steps.run(ssh.send(sshd.job(address=address)))
        assert (outcome.word, outcome.detail) == (ACCEPTED, "the command ended with exit code 0")
    assert sshd.ran.read_text() == "systemctl poweroff\n" * 2
    no_child(sshd)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_read_only_and_then_gone_holds_up_nobody_who_was_proven(sshd: Sshd) -> None:
    core = sshd.folder / "core"
    subprocess.run(["mount", "--bind", core, core], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", core], check=True)
        assert steps.run(ssh.prove(sshd.job())).word == PROVEN
        assert steps.run(ssh.send(sshd.job())).word == ACCEPTED
    finally:
        subprocess.run(["umount", core], check=True)
    core.rename(sshd.folder / "elsewhere")
    assert steps.run(ssh.send(sshd.job())).word == ACCEPTED


def test_the_proof_logs_in_and_never_runs_the_forced_command(sshd: Sshd) -> None:
    for _ in range(5):
        outcome = steps.run(ssh.prove(sshd.job()))
        assert outcome.word == PROVEN, outcome
    no_child(sshd)
    time.sleep(0.5)  # a session would have begun by now
    assert not sshd.ran.exists()
    assert sshd.log.read_text().count("Accepted publickey") == 5
    steps.run(ssh.send(sshd.job()))
    assert sshd.ran.exists(), "this server would have left a line"


def test_another_host_key_is_refused_before_the_login(sshd: Sshd) -> None:
    bad = sshd.job(host_key=sshd.other_key)
    listed = subprocess.run(["ssh-keygen", "-l", "-f", sshd.folder / "host.pub"], capture_output=True, text=True)
    says = f"the server has another host key than host_key says: it has the ED25519 key {listed.stdout.split()[1]}"
    assert steps.run(ssh.prove(bad)) == ssh.Outcome(UNKNOWN, says)
    assert steps.run(ssh.send(bad)) == ssh.Outcome(NOT_DELIVERED, says)
    assert not sshd.ran.exists() and "Accepted" not in sshd.log.read_text()
    # the right one is written over the wrong one
    assert steps.run(ssh.send(sshd.job())).word == ACCEPTED


def test_a_host_key_of_another_kind_says_so(sshd: Sshd) -> None:
    path = sshd.folder / "ecdsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", path], check=True)
    key = " ".join(path.with_suffix(".pub").read_text().split()[:2])
    outcome = steps.run(ssh.prove(sshd.job(host_key=key)))
    assert outcome.word == UNKNOWN and "it has the ED25519 key SHA256:" in outcome.detail


def test_a_key_that_the_server_does_not_know_says_so(sshd: Sshd) -> None:
    (sshd.folder / "keys").write_text("")
    for way, word in ((ssh.prove, UNKNOWN), (ssh.send, NOT_DELIVERED)):
        outcome = steps.run(way(sshd.job()))
        assert (outcome.word, outcome.detail.partition(":")[0]) == (word, "permission denied")


def test_a_failing_command_is_not_delivered_with_its_code_and_last_line(sshd: Sshd) -> None:
    sshd.force("echo 'sudo: a password is required' >&2; exit 1")
    outcome = steps.run(ssh.send(sshd.job()))
    assert outcome == ssh.Outcome(NOT_DELIVERED, "exit code 1 of the command: sudo: a password is required")


def test_a_command_that_takes_its_own_connection_down_is_unconfirmed(sshd: Sshd) -> None:
    # sh <- sshd of the connection: as when the server's network goes down first
    sshd.force("kill -9 $PPID; sleep 1")
    outcome = steps.run(ssh.send(sshd.job()))
    assert outcome == ssh.Outcome(UNCONFIRMED, "the connection ended while the command ran")
    assert sshd.ran.exists()


def test_a_command_that_ends_with_the_client_s_own_code_was_not_accepted(sshd: Sshd) -> None:
    sshd.force("echo 'no permission (Sys.PowerMgmt)' >&2; exit 255")  # perl's die ends so, pvesh too
    outcome = steps.run(ssh.send(sshd.job()))
    assert outcome == ssh.Outcome(NOT_DELIVERED, "exit code 255 of the command: no permission (Sys.PowerMgmt)")


def test_a_command_that_does_not_end_is_not_taken_for_delivered(sshd: Sshd) -> None:
    sshd.force("sleep 4")
    outcome = steps.run(ssh.send(sshd.job(), command_s=1.0))
    assert outcome == ssh.Outcome(NOT_DELIVERED, "the command did not end within 1 s")
    no_child(sshd)


def test_a_server_without_sessions_did_not_get_it(sshd: Sshd) -> None:
    (sshd.folder / "sshd_config").write_text((sshd.folder / "sshd_config").read_text() + "MaxSessions 0\n")
    os.kill(sshd.pid, signal.SIGHUP)
    until(lambda: "Received SIGHUP" in sshd.log.read_text() and sshd._listens(), 5, "sshd took its configuration")
    outcome = steps.run(ssh.send(sshd.job()))
    assert outcome.word == NOT_DELIVERED and "open failed" in outcome.detail, outcome
    assert not sshd.ran.exists()


def test_a_server_that_accepts_and_says_nothing_ends_in_time(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        for way, word in ((ssh.prove, UNKNOWN), (ssh.send, NOT_DELIVERED)):
            began_s = time.monotonic()
            outcome = steps.run(way(sshd.job(port=hanging.getsockname()[1])))
            took_s = time.monotonic() - began_s
            assert outcome.word == word and took_s < 4, (outcome, took_s)
            assert outcome.detail == "no connection in time", outcome
    no_child(sshd)


def test_nobody_listens_and_the_outage_that_ends_leave_no_child(sshd: Sshd) -> None:
    outcome = steps.run(ssh.send(sshd.job(port=free_port())))
    assert outcome == ssh.Outcome(NOT_DELIVERED, "connection refused")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        way = ssh.send(sshd.job(port=hanging.getsockname()[1]))
        next(way)
        way.close()
    no_child(sshd)


def test_64_hanging_servers_at_once_do_not_hold_the_delivery(sshd: Sshd) -> None:
    ballast = bytearray(60_000_000)  # as big as the core may be, all of it touched
    ballast[::4096] = b"x" * len(ballast[::4096])
    with socket.create_server(("127.0.0.1", 0), backlog=128) as hanging:
        jobs = [sshd.job(port=hanging.getsockname()[1], name=f"s{n}", connect_s=4) for n in range(ssh.SLOTS)]
        began_s = time.monotonic()
        outcomes, longest_s = steps.run_all([ssh.send(job) for job in jobs])
        took_s = time.monotonic() - began_s
    figure = f"longest step {longest_s * 1000:.1f} ms, all 64 ended after {took_s:.1f} s"
    print(figure)
    assert {o.word for o in outcomes} == {NOT_DELIVERED}, outcomes
    assert longest_s < LOOP_LIMIT_S, figure
    assert took_s < 15, figure
    no_child(sshd)


def test_64_servers_at_once_are_all_told(sshd: Sshd) -> None:
    jobs = [sshd.job(name=f"s{n}", connect_s=20) for n in range(ssh.SLOTS)]
    began_s = time.monotonic()
    outcomes, longest_s = steps.run_all([ssh.send(job) for job in jobs])
    figure = f"longest step {longest_s * 1000:.1f} ms, 64 told after {time.monotonic() - began_s:.1f} s"
    print(figure)
    assert {o.word for o in outcomes} == {ACCEPTED}, outcomes
    # this machine is the 64 servers, too
    assert longest_s < 10 * LOOP_LIMIT_S, figure
    no_child(sshd)


# --- http -------------------------------------------------------------------------------------------------------


def test_a_request_to_the_server_of_openssl_pinned_as_the_documentation_says(tmp_path: Path) -> None:
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=nas", "-days", "1"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = subprocess.Popen(
        ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        command = f"openssl s_client -connect 127.0.0.1:{port} </dev/null 2>/dev/null"
        command += " | openssl x509 -noout -fingerprint -sha256"

        def shown() -> str:
            return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout.strip()

        pinned = until(shown, 10, "the server's fingerprint").partition("=")[2]
        options = {"url": "/api/off", "fingerprint": pinned}
        job = Job(
            server=Server(name="nas", address="127.0.0.1", port=port, how="http", options=options),
            address=(socket.AF_INET, ("127.0.0.1",)),
            outage="0123456789abcdef",
            connect_s=2.0,
            folder=tmp_path,
            commands_dir=tmp_path,
            secret=lambda label: None,
        )
        assert http.wrong(job.server) == ""
        assert steps.run(http.prove(job)) == http.Outcome(REACHABLE, "the certificate is the right one")
        server.stdin.write(b"HTTP/1.1 202 Accepted\r\n\r\nbye\n")
        server.stdin.flush()
        assert steps.run(http.send(job)) == http.Outcome(ACCEPTED, "202 Accepted: bye")
        assert server.stdout.readline() == b"POST /api/off HTTP/1.1\r\n"
    finally:
        server.kill()
        server.wait()
