"""Secure RCCMD over TLS: who is heard on any date, what hostile peers get, and that a true command comes through."""

from __future__ import annotations

import datetime
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import warnings
from collections.abc import Callable
from pathlib import Path

from agent.rccmd import secure
from agent.rccmd.journal import Journal
from agent.rccmd.listen import DEADLINE_S, Listener
from agent.rccmd.orders import Orders
from agent.rccmd.settings import SettingsError, load
from agent.rccmd.trust import TlsLine, Trust
from tests.rccmd_keys import Adapter, Server, certificate, public_part
from tests.rccmd_lines import lines

ROOT = Path(__file__).resolve().parent.parent
NOOP, HALT = b"RT1 NOOP 0123456789abcdef\n", b"RT1 SHUTDOWN 00c0ffee00c0ffee\n"
CLASSIC = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN\n"
WITHIN_S = 10.0


class Case(unittest.TestCase):
    """The certificates are made once: `east` is enrolled, `evil` is not."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.keys = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.keys.cleanup)
        folder = Path(cls.keys.name)
        cls.east, cls.west, cls.evil = (Adapter(name, folder) for name in ("east", "west", "evil"))

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.server = Server(self.folder)
        self.server.enrol(self.east)


class Client:
    """A sender's TLS without a socket."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.inside, self.outside = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.inside, self.outside, server_hostname="x")

    def converse(self, line: TlsLine, text: bytes, piece: int = 100_000) -> bytes:
        """What the listener hears when this sender says `text`, its ciphertext in pieces of so many bytes."""
        heard, written = b"", False
        for _ in range(12):
            try:
                if not written:
                    self.tls.do_handshake()
                    self.tls.write(text)
                    written = True
            except ssl.SSLWantReadError:
                pass
            data = self.outside.read()
            for at in range(0, len(data), piece):
                heard += line.feed(data[at : at + piece])
            self.inside.write(line.out())
            if heard:
                return heard
        return heard


class Trusting(Case):
    def trust(self) -> Trust:
        return Trust(load({**self.server.settings(), "on_shutdown": "true"}))

    def test_the_sender_is_known_by_its_certificate_in_pieces_of_any_size(self) -> None:
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for piece in (1, 7, 1000, 100_000):
                line = self.trust().line()
                self.assertEqual(Client(self.east.context(newest=newest)).converse(line, HALT, piece), HALT)
                self.assertEqual(line.name, "east")

    def test_no_certificate_and_a_foreign_one_are_refused(self) -> None:
        for context in (self.evil.context(), self.east.context(with_key=False)):
            line = self.trust().line()
            with self.assertRaises(secure.NotSecure):
                Client(context).converse(line, HALT)
            self.assertEqual(line.name, "")
            self.assertNotEqual(line.out(), b"", "an alert says why")

    def test_a_certificate_of_the_same_name_and_another_key_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            double = Adapter("east", Path(folder))
            with self.assertRaises(secure.NotSecure):
                Client(double.context()).converse(self.trust().line(), HALT)

    def test_dates_do_not_count(self) -> None:
        for first, last in ((1971, 1972), (2098, 2099)):
            dates = {"first": datetime.datetime(first, 1, 1), "last": datetime.datetime(last, 1, 1)}
            odd = Adapter(f"of-{first}", self.folder, **dates)
            self.server.enrol(odd)
            line = self.trust().line()
            self.assertEqual(Client(odd.context()).converse(line, HALT), HALT)
            self.assertEqual(line.name, f"of-{first}")

    def test_an_old_tls_is_refused(self) -> None:
        context = self.east.context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with self.assertRaises((secure.NotSecure, ssl.SSLError)):
            Client(context).converse(self.trust().line(), HALT)

    def test_a_new_adapter_is_heard_and_a_removed_one_refused_at_once(self) -> None:
        trust = self.trust()
        self.server.enrol(self.west)
        self.assertEqual(Client(self.west.context()).converse(trust.line(), HALT), HALT)
        (self.server.senders / "east.pem").unlink()
        with self.assertRaises(secure.NotSecure):
            Client(self.east.context()).converse(trust.line(), HALT)
        self.assertEqual(list(trust.names()), ["west"])

    def test_who_may_command_is_who_has_a_file_now_also_when_nobody_connects(self) -> None:
        trust = self.trust()
        self.assertEqual(list(trust.names()), ["east"])
        self.server.enrol(self.west)
        self.assertEqual(sorted(trust.names()), ["east", "west"])
        (self.server.senders / "west.pem").unlink()
        self.assertEqual(list(trust.names()), ["east"])

    def test_an_adapter_that_was_removed_never_counts_as_asking_because_it_is_silent(self) -> None:
        self.server.enrol(self.west)
        mode = {"need": "2", "alive_s": "600", "unreachable_counts": "yes"}
        settings = load({**self.server.settings(), "on_shutdown": "true", **mode})
        started: list[object] = []
        orders = Orders(settings, Journal(), lambda *what: started.append(what), Trust(settings).names)
        for name in ("east", "west"):
            orders.answer(NOOP, name, "192.0.2.7", 0.0)
        orders.answer(HALT, "east", "192.0.2.7", 100.0)
        (self.server.senders / "west.pem").unlink()
        orders.tick(650.0)
        self.assertEqual(started, [])

    def test_an_adapter_that_is_removed_after_its_handshake_commands_nothing(self) -> None:
        self.after_the_handshake(lambda file: file.unlink())

    def test_nor_does_one_whose_file_has_another_certificate_by_then(self) -> None:
        self.after_the_handshake(lambda file: file.write_bytes(public_part(certificate("east")[0])))

    def after_the_handshake(self, change: Callable[[Path], object]) -> None:
        """A command of `east`, whose file is changed between its handshake and its line."""
        now_s, started, logged = [1000.0], [], lines(self)
        settings = load({**self.server.settings(), "on_shutdown": "true", "bind": "127.0.0.1:0"})
        trust, journal = Trust(settings), Journal()
        orders = Orders(settings, journal, lambda *what: started.append(what))
        listener = Listener(settings, orders, journal, lambda: now_s[0], trust)
        self.addCleanup(listener.close)
        client = Client(self.east.context())
        with socket.create_connection(("127.0.0.1", listener.port), WITHIN_S) as sock:
            sock.setblocking(False)
            for _ in range(20):
                try:
                    client.tls.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                sock.send(client.outside.read() or b"")
                listener.turn(0.02)
                try:
                    client.inside.write(sock.recv(10_000))
                except BlockingIOError:
                    continue
            change(self.server.senders / "east.pem")
            client.tls.write(HALT)
            sock.send(client.outside.read())
            for _ in range(5):
                listener.turn(0.02)
        self.assertEqual(started, [])
        self.assertTrue(any("east is not trusted any more" in line for line in logged), logged)

    def test_a_key_that_breaks_while_it_runs_leaves_the_old_one_and_revokes_all_the_same(self) -> None:
        trust = self.trust()
        self.server.enrol(self.west)
        self.server.key.write_text("torn")
        self.assertEqual(Client(self.east.context()).converse(trust.line(), HALT), HALT)
        self.assertIn("key.pem", trust.problem)
        (self.server.senders / "east.pem").unlink()
        with self.assertRaises(secure.NotSecure):
            Client(self.east.context()).converse(trust.line(), HALT)

    def test_files_that_are_no_certificates_or_have_an_address_for_a_name_are_left_out(self) -> None:
        (self.server.senders / "torn.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nxx\n")
        (self.server.senders / "two.pem").write_bytes(public_part(certificate("x")[0]) * 2)
        (self.server.senders / "192.0.2.1.pem").write_bytes(public_part(certificate("y")[0]))
        (self.server.senders / "notes.txt").write_text("hello")
        trust = self.trust()
        self.assertEqual(list(trust.names()), ["east"])
        self.assertIn("torn.pem", trust.problem)
        self.assertIn("two.pem", trust.problem)

    def test_a_missing_or_torn_key_is_named_at_the_start(self) -> None:
        self.server.key.write_text("nothing")
        with self.assertRaisesRegex(
            SettingsError, "key.pem: is no key with its certificate.*ridethrough enroll NAME"
        ):
            self.trust()
        self.server.key.unlink()
        with self.assertRaisesRegex(SettingsError, "key.pem.*No such file"):
            self.trust()


class Slow(Case):
    """The listener with its clock in the test's hand."""

    def test_a_handshake_that_trickles_and_a_line_that_never_ends_are_reset_after_ten_seconds(self) -> None:
        now_s, started = [1000.0], []
        settings = load({**self.server.settings(), "on_shutdown": "true", "bind": "127.0.0.1:0"})
        trust, journal = Trust(settings), Journal()
        orders = Orders(settings, journal, lambda *what: started.append(what))
        logged = lines(self)
        listener = Listener(settings, orders, journal, lambda: now_s[0], trust)
        self.addCleanup(listener.close)
        slow = socket.create_connection(("127.0.0.1", listener.port), WITHIN_S)
        half = socket.create_connection(("127.0.0.1", listener.port), WITHIN_S)
        self.addCleanup(slow.close)
        client = Client(self.east.context())
        half.setblocking(False)
        said = False
        for _ in range(20):
            try:
                client.tls.do_handshake()
                if not said:
                    client.tls.write(HALT[:-1])
                    said = True
            except ssl.SSLWantReadError:
                pass
            half.send(client.outside.read() or b"")
            listener.turn(0.02)
            try:
                client.inside.write(half.recv(10_000))
            except BlockingIOError:
                continue
        self.assertTrue(said)
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01":
            slow.send(bytes([byte]))
            listener.turn(0.02)
            now_s[0] += 1.0
        now_s[0] = 1000.0 + DEADLINE_S
        listener.turn(0.02)
        listener.turn(0.02)
        for sock in (slow, half):
            sock.settimeout(1.0)
            with self.assertRaises(ConnectionResetError):
                sock.recv(10)
        half.close()
        self.assertEqual(started, [])
        self.assertEqual(sum("no command within 10 s" in line for line in logged), 2)


class Program(Case):
    """The real program on loopback."""

    def listen(self, *lines: str, settings: dict[str, str] | None = None) -> None:
        told = self.folder / "told"
        script = self.folder / "halt"
        script.write_text(f'#!/bin/sh\necho "$# $RCCMD_VERB $RCCMD_SENDER" >> {told}\n')
        script.chmod(0o755)
        self.ini = self.folder / "rccmd.ini"
        values = {"bind": "127.0.0.1:0", "on_message": "none", "on_shutdown": str(script)}
        values.update(self.server.settings() if settings is None else settings)
        self.ini.write_text("[listen]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) + "\n".join(lines))
        argv = [sys.executable, "-m", "agent.rccmd", "listen", "--config", str(self.ini)]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(self.end)
        self.said = b""
        self.port = int(self.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1])

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(WITHIN_S)
        if self.process.stderr is not None and not self.process.stderr.closed:
            self.said += self.process.stderr.read()
            self.process.stderr.close()

    def wait_for(self, pattern: str) -> re.Match[str]:
        until_s = time.monotonic() + WITHIN_S
        stderr = self.process.stderr
        assert stderr is not None
        while (found := re.search(pattern, self.said.decode())) is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([stderr], [], [], left_s)[0]:
                self.fail(f"not in the log within {WITHIN_S} s: {pattern}\n{self.said.decode()}")
            self.said += stderr.read1(65536)
        return found

    def told(self) -> str:
        path = self.folder / "told"
        return path.read_text() if path.exists() else ""

    def tool(self, *words: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "agent.rccmd", *words, "--config", str(self.ini)]
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
        return done.returncode, done.stdout.decode()

    def test_a_shutdown_is_answered_run_once_and_a_duplicate_after_a_crash(self) -> None:
        self.listen()
        self.assertIn(b"RT1 accepted version=0.1.0 selftest=off ", self.east.ask(self.port, NOOP, self.server))
        self.assertEqual(self.east.ask(self.port, HALT, self.server), b"RT1 accepted\n")
        self.wait_for("exit code 0")
        self.assertEqual(self.east.ask(self.port, HALT, self.server), b"RT1 duplicate\n")
        self.end(signal.SIGKILL)
        self.listen()
        self.assertEqual(self.east.ask(self.port, HALT, self.server), b"RT1 duplicate\n")
        self.assertEqual(self.told(), "0 SHUTDOWN east\n")

    def test_strangers_with_and_without_certificates_and_classic_senders_get_nothing(self) -> None:
        self.listen()
        for who in (self.evil, self.west):
            with self.assertRaises(OSError):
                self.fail(repr(who.ask(self.port, HALT)))
        with self.assertRaises(OSError):
            with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as plain:
                with self.east.context(with_key=False).wrap_socket(plain) as tls:
                    tls.sendall(HALT)
                    self.fail(repr(tls.recv(100)))
        with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as sock:
            sock.sendall(CLASSIC)
            with self.assertRaises(ConnectionResetError):
                sock.recv(10)
        self.wait_for("refused, not secure: b'CONNECT TO RCCMD")
        self.wait_for("refused, TLS: ")
        self.assertEqual(self.told(), "")

    def test_both_ways_on_one_port_if_the_settings_say_so(self) -> None:
        self.listen("require_tls = no", "allow = 127.0.0.1", "need = 2")
        with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as sock:
            sock.sendall(CLASSIC)
            self.assertEqual(sock.recv(10), b"")
        self.assertEqual(self.told(), "")
        self.assertEqual(self.east.ask(self.port, HALT, self.server), b"RT1 accepted\n")
        self.wait_for("exit code 0")
        self.assertEqual(self.told(), "0 SHUTDOWN 127.0.0.1,east\n")

    def test_status_and_selftest_say_what_is_so(self) -> None:
        self.listen("selftest = /bin/true", "need = 2")
        self.wait_for("SELFTEST: ok")
        self.assertEqual(self.east.ask(self.port, HALT, self.server), b"RT1 accepted\n")
        self.assertEqual(self.tool("selftest"), (0, "self test ok, exit code 0\n"))
        until_s = time.monotonic() + WITHIN_S
        while (found := self.tool("status"))[1].find("asked     east") < 0 and time.monotonic() < until_s:
            time.sleep(0.1)
        self.assertEqual(found[0], 0, found[1])
        self.assertRegex(found[1], r"runs, pid \d+, listening; secure only")
        code, text = self.tool("status", "--json")
        self.assertRegex(text, r'"id": "00c0ffee00c0ffee"')
        self.end()
        code, text = self.tool("status")
        self.assertEqual((code, "does not run" in text), (1, True))
        code, text = self.tool("selftest")
        self.assertEqual((code, "no listener runs" in text), (1, True))

    def test_what_is_wrong_with_the_keys_is_in_the_log_once(self) -> None:
        torn = self.server.senders / "torn.pem"
        torn.write_text("x")
        self.listen("need = 2")
        self.wait_for("warning: torn.pem: must hold one certificate")
        self.wait_for("warning: 1 adapters in .*senders, but 2 must ask")
        for _ in range(3):
            self.east.ask(self.port, NOOP, self.server)
        torn.unlink()
        self.east.ask(self.port, NOOP, self.server)
        self.wait_for("the keys are in order again")
        self.assertEqual(self.said.count(b"torn.pem"), 1)

    def test_two_listeners_do_not_share_a_state_folder(self) -> None:
        self.listen()
        code, text = self.tool("listen")
        self.assertEqual((code, "another listener uses" in text), (2, True))

    def test_a_real_command_comes_through_a_flood_of_every_kind_and_the_log_stays_short(self) -> None:
        self.listen()
        hello = ssl.MemoryBIO()
        half = self.evil.context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x")
        with self.assertRaises(ssl.SSLWantReadError):
            half.do_handshake()
        greeting = hello.read()
        junk = [
            b"",
            b"\x16",
            b"\x16\x03\x01\x00\x05hello",
            greeting,
            greeting[:50],
            b"GET / HTTP/1.0\r\n\r\n",
            os.urandom(99),
        ]
        held = []
        for n in range(500):
            sock = socket.create_connection(("127.0.0.1", self.port), WITHIN_S)
            sock.sendall(junk[n % len(junk)])
            held.append(sock)
            if len(held) > 100:
                old = held.pop(0)
                old.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", n % 2, 0))
                old.close()
        began_s = time.monotonic()
        self.assertEqual(self.east.ask(self.port, HALT, self.server), b"RT1 accepted\n")
        self.assertLess(time.monotonic() - began_s, 2.0)
        for sock in held:
            sock.close()
        self.wait_for("exit code 0")
        self.assertEqual(self.told(), "0 SHUTDOWN east\n")
        self.assertLess(len(self.said.splitlines()), 80)

    def test_a_flood_that_never_stops_does_not_keep_a_true_command_out(self) -> None:
        self.listen()
        flood = (
            "import socket, sys, itertools, time\n"
            "held, until = [], time.monotonic() + 4\n"
            "while time.monotonic() < until:\n"
            "    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5, ('127.0.0.2', 0))\n"
            "    s.send(bytes.fromhex(sys.argv[2])); held.append(s)\n"
            "    if len(held) > 60: held.pop(0).close()\n"
        )
        hello = ssl.MemoryBIO()
        half = self.evil.context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x")
        with self.assertRaises(ssl.SSLWantReadError):
            half.do_handshake()
        flooding = subprocess.Popen([sys.executable, "-c", flood, str(self.port), hello.read().hex()])
        self.addCleanup(flooding.wait)
        try:
            self.wait_for("127.0.0.2 .*too many connections")
            for n in range(5):
                began_s = time.monotonic()
                answer = self.east.ask(self.port, NOOP.replace(b"0", b"%d" % n), self.server)
                self.assertIn(b"RT1 accepted", answer)
                self.assertLess(time.monotonic() - began_s, 2.0)
        finally:
            flooding.kill()

    def test_who_floods_loses_his_own_connections_and_nobody_elses(self) -> None:
        self.listen()
        with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as patient:
            crowd = [socket.create_connection(("127.0.0.1", self.port), 5, ("127.0.0.2", 0)) for _ in range(200)]
            self.wait_for("127.0.0.2 .*too many connections")
            with self.east.context().wrap_socket(patient) as tls:
                tls.sendall(NOOP)
                self.assertIn(b"accepted", tls.recv(1000))
            for sock in crowd:
                sock.close()

    def test_a_slow_handshake_is_ended_and_holds_nobody(self) -> None:
        self.listen()
        with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as slow:
            slow.sendall(b"\x16\x03\x01")
            self.assertIn(b"accepted", self.east.ask(self.port, NOOP, self.server))
            slow.shutdown(socket.SHUT_WR)
            self.wait_for("refused, TLS: ")

    @unittest.skipUnless(Path("/proc/self/stat").exists(), "Linux only")
    def test_it_costs_nothing_while_nothing_happens(self) -> None:
        self.listen("alive_s = 600", "selftest = /bin/true")
        self.wait_for("SELFTEST: ok")
        self.east.ask(self.port, NOOP, self.server)
        time.sleep(1.3)  # the status is written
        stat = Path(f"/proc/{self.process.pid}/stat")
        switches = Path(f"/proc/{self.process.pid}/status")

        def spent() -> tuple[list[str], str]:
            woken = re.search(r"voluntary_ctxt_switches:\s*(\d+)", switches.read_text())
            return stat.read_text().rsplit(")", 1)[1].split()[11:13], woken[1] if woken else ""

        before = spent()
        time.sleep(1.0)
        self.assertEqual(spent(), before)


if __name__ == "__main__":
    unittest.main()
