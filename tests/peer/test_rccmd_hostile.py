"""A real listener against real strangers: nmap, OpenSSL, curl, ssh, an X client; and floods, replays, bad keys."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rccmd_hostile_kit import SHUTDOWN, STRANGERS, Flood, Live, client_hello
from tests.rccmd_keys import Adapter, Server

pytestmark = [pytest.mark.peer, pytest.mark.alone]

WAKEUP = SHUTDOWN.replace(b"SHUTDOWN", b"WAKEUP")
NUMBER = "00c0ffee00c0ffee"
LINES_LIMIT = 150  # of a log after any of these tests


@pytest.fixture
def classic(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path, "udp = yes") as live:
        yield live
        assert live.process.poll() is None and "Traceback" not in live.log(), live.log()
        assert len(live.log().splitlines()) < LINES_LIMIT


class Secure:
    """A listener with one enrolled adapter, and two keys that it does not know."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder / "server")
        self.adapter, self.stranger = Adapter("adapter", folder), Adapter("stranger", folder)
        self.server.enrol(self.adapter)
        self.live = Live(folder, *(f"{k} = {v}" for k, v in self.server.settings().items()), allow=None)

    def ask(self, verb: str = "SHUTDOWN", number: str = NUMBER) -> bytes:
        return self.adapter.ask(self.live.port, f"RT1 {verb} {number}\n".encode(), self.server)

    def works(self) -> None:
        """A true command runs within two seconds."""
        took_s = self.live.runs_within_s(lambda: self.ask(number=os.urandom(8).hex()))
        assert took_s < 2.0, took_s

    def shutdowns(self) -> int:
        return sum(verb == "SHUTDOWN" for verb, _, _ in self.live.ran())


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Secure]:
    one = Secure(tmp_path)
    with one.live:
        yield one
        assert one.live.process.poll() is None and "Traceback" not in one.live.log(), one.live.log()
        assert len(one.live.log().splitlines()) < LINES_LIMIT


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*argv: str, say: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, input=say, capture_output=True, timeout=60, check=False)


def tell_classic(live: Live) -> None:
    if not (live.tell(WAKEUP) and live.tell(SHUTDOWN)):
        raise ConnectionResetError


def strangers(port: int) -> None:
    """Each with its own program, as it would knock at the port of a server."""
    run(program("curl"), "-sm", "5", f"http://127.0.0.1:{port}/", "-d", SHUTDOWN.decode())
    run(program("curl"), "-skm", "5", f"https://127.0.0.1:{port}/")
    run(program("curl"), "-sm", "5", "-x", f"http://127.0.0.1:{port}", "http://x/")
    run(program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2", say=SHUTDOWN + b"\n")
    run(program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", say=SHUTDOWN + b"\n")
    ssh = ("-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oConnectTimeout=5")
    run(program("ssh"), *ssh, "-p", str(port), "x@127.0.0.1", "true")


def test_real_strangers_run_nothing_and_a_command_is_heard_after_them(classic: Live) -> None:
    strangers(classic.port)
    assert classic.ran() == []
    assert classic.runs_within_s(lambda: tell_classic(classic)) < 2.0


def test_every_probe_of_nmap_runs_nothing_and_a_command_is_heard_meanwhile(classic: Live) -> None:
    argv = [program("nmap"), "-sV", "--version-all", "-Pn", "-n", "-p", str(classic.port), "127.0.0.1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as scan:
        time.sleep(2.0)
        assert classic.ran() == []
        assert classic.runs_within_s(lambda: tell_classic(classic)) < 2.0
        said = scan.communicate(timeout=300)[0].decode()
    assert f"{classic.port}/tcp open" in said, said
    assert [verb for verb, _, _ in classic.ran()] == ["SHUTDOWN"]


def test_an_x_client_is_dropped(classic: Live) -> None:
    display = classic.port - 6000
    begin_s = time.monotonic()
    done = run(program("xdpyinfo"), "-display", f"127.0.0.1:{display}")
    assert done.returncode != 0 and time.monotonic() - begin_s < 5, done
    assert "not a command: b'l" in classic.log()


def test_ten_thousand_connections_one_after_the_other(classic: Live) -> None:
    for data in list(STRANGERS.values()) * (10_000 // len(STRANGERS) + 1):
        with socket.create_connection(("127.0.0.1", classic.port), 10) as sock:
            sock.sendall(data[:1000])
            try:
                assert sock.recv(10) == b""
            except ConnectionResetError:
                pass
    assert classic.ran() == []
    assert classic.runs_within_s(lambda: tell_classic(classic)) < 2.0


#: from one address, and from 200 by turns
FLOODS = [(kind, "127.0.0.9") for kind in Flood.KINDS] + [(kind, "127.9.0.*") for kind in ("open", "half", "hello")]


@pytest.mark.parametrize(("kind", "source"), FLOODS)
def test_a_command_runs_within_two_seconds_under_a_flood(classic: Live, kind: str, source: str) -> None:
    with Flood(kind, classic.port, source) as flood:
        worst_s = max(classic.runs_within_s(lambda: tell_classic(classic)) for _ in range(3))
        time.sleep(0.5)
    print(f"{kind}: {flood.done} times, worst {worst_s:.3f} s")
    assert flood.done > 50 and worst_s < 2.0


@pytest.mark.parametrize(("kind", "source"), [row for row in FLOODS if row[0] != "udp"])
def test_a_secure_command_runs_within_two_seconds_under_a_flood(secure: Secure, kind: str, source: str) -> None:
    with Flood(kind, secure.live.port, source) as flood:
        for _ in range(3):
            secure.works()
        time.sleep(0.5)
    assert flood.done > 50


def test_strangers_at_a_secure_listener(secure: Secure) -> None:
    strangers(secure.live.port)
    for data in STRANGERS.values():
        with socket.create_connection(("127.0.0.1", secure.live.port), 5) as sock:
            sock.sendall(data[:1000])
            try:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass
            except OSError:
                pass  # dropped
    assert secure.live.ran() == []
    secure.works()


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_no_certificate_a_wrong_one_and_old_tls_run_nothing(secure: Secure) -> None:
    line = f"RT1 SHUTDOWN {NUMBER}\n".encode()
    adapter, stranger = secure.adapter, secure.stranger
    lookalike = Adapter("adapter", secure.server.folder)  # the same name, another key
    contexts = [adapter.context(with_key=False), stranger.context(), lookalike.context()]
    contexts += [one.context(newest=ssl.TLSVersion.TLSv1_2) for one in (stranger, lookalike)]
    old = adapter.context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    for context in [*contexts, old]:
        with socket.create_connection(("127.0.0.1", secure.live.port), 5) as plain:
            try:
                with context.wrap_socket(plain) as tls:
                    tls.sendall(line)
                    assert tls.recv(100) == b""
            except OSError:
                pass  # an alert, or a reset
    assert secure.live.ran() == []
    assert secure.live.log().count("refused, TLS") == len(contexts) + 1, secure.live.log()
    secure.works()


def test_classic_commands_are_refused_by_a_secure_listener(secure: Secure) -> None:
    assert not secure.live.tell(SHUTDOWN)
    assert secure.live.ran() == [] and "not secure" in secure.live.log()


def test_a_replayed_command_is_a_duplicate_also_after_a_restart(secure: Secure) -> None:
    assert secure.ask().startswith(b"RT1 accepted")
    until_s = time.monotonic() + 10
    while not secure.ask().startswith(b"RT1 duplicate"):
        assert time.monotonic() < until_s
        time.sleep(0.1)
    for verb, argument in (("EXECUTE", " hello"), ("MSG_TEXT", " hi")):
        line = f"RT1 {verb} {NUMBER}{argument}\n".encode()
        for expected in (b"RT1 accepted", b"RT1 duplicate", b"RT1 duplicate"):
            assert secure.adapter.ask(secure.live.port, line, secure.server).startswith(expected)
            time.sleep(0.3)
    ran = sorted(verb for verb, _, _ in secure.live.ran())
    assert ran == ["EXECUTE", "MSG_TEXT", "SHUTDOWN"]
    secure.live.process.kill()
    secure.live.process.wait(10)
    secure.live.__enter__()  # which the fixture ends
    assert secure.ask().startswith(b"RT1 duplicate")
    time.sleep(0.3)
    assert secure.shutdowns() == 1


def test_recorded_ciphertext_means_nothing_a_second_time(secure: Secure) -> None:
    """What a true adapter said, byte for byte, on a connection of its own."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = secure.adapter.context().wrap_bio(incoming, outgoing)
    recorded = []
    with socket.create_connection(("127.0.0.1", secure.live.port), 5) as sock:
        for step in (tls.do_handshake, lambda: tls.write(f"RT1 NOOP {NUMBER}\n".encode()), lambda: tls.read(100)):
            while True:
                try:
                    step()
                    done = True
                except ssl.SSLWantReadError:
                    done = False
                if piece := outgoing.read():
                    recorded.append(piece)
                    sock.sendall(piece)
                if done:
                    break
                incoming.write(sock.recv(20_000))
    assert len(recorded) >= 3
    for together in (False, True):
        with socket.create_connection(("127.0.0.1", secure.live.port), 5) as sock:
            try:
                for piece in [b"".join(recorded)] if together else recorded:
                    sock.sendall(piece)
                    time.sleep(0.05)
                answer = b""
                while piece := sock.recv(20_000):
                    answer += piece
                assert b"accepted" not in answer
            except OSError:
                pass  # reset
    assert secure.live.log().count("refused, TLS") == 2, secure.live.log()
    secure.works()


def test_garbage_behind_the_first_byte_of_tls_is_dropped(secure: Secure) -> None:
    hello = client_hello()
    garbage = [b"\x16" + SHUTDOWN, b"\x16\x03\x01\xff\xff" + bytes(3000), b"\x16\x03\x01\0\0" * 500, b"\x16" * 4000]
    garbage += [hello[:n] + os.urandom(300) for n in range(1, len(hello), 40)]
    garbage += [hello[:n] + bytes([hello[n] ^ 0xFF]) + hello[n + 1 :] for n in range(0, len(hello), 25)]
    garbage += [hello + hello, hello + b"\x14\x03\x03\0\1\1" * 200, hello + SHUTDOWN]
    for data in garbage:
        with socket.create_connection(("127.0.0.1", secure.live.port), 5) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(20_000):
                    pass
            except OSError:
                pass  # reset
    assert secure.live.ran() == []
    secure.works()


def test_slow_handshakes_hold_nobody_and_are_over_after_ten_seconds(secure: Secure) -> None:
    hello = client_hello()
    slow = [socket.create_connection(("127.0.0.1", secure.live.port), 5, ("127.0.0.9", 0)) for _ in range(31)]
    begin_s = time.monotonic()
    for n in range(8):
        for sock in slow:
            try:
                sock.send(hello[n : n + 1])
            except OSError:
                pass  # made room for somebody
        secure.works()
        time.sleep(0.5)
    time.sleep(max(0.0, 11.0 - (time.monotonic() - begin_s)))
    for sock in slow:
        sock.settimeout(1.0)
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass
        sock.close()
    assert "no command within 10 s" in secure.live.log()
    secure.works()
