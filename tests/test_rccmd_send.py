"""The sender against listeners that take, refuse, answer, stay silent or are not there."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
import unittest
from unittest import mock

from agent.rccmd import __main__ as program
from agent.rccmd import send

LINE = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN\n"


class Peer:
    """A listener of one connection, which reads what comes until `until` and then ends it in its own way."""

    def __init__(self, *, answer: bytes = b"", reset: bool = False, until: bytes = b"\n", to_the_end: bool = False):
        self.answer, self.reset, self.until, self.to_the_end = answer, reset, until, to_the_end
        self.heard = b""
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(5.0)
        self.port = self.server.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        sock, _ = self.server.accept()
        with sock:
            sock.settimeout(5.0)
            while self.to_the_end or not self.heard.endswith(self.until):
                data = sock.recv(4096)
                self.heard += data
                if not data:
                    break
            if self.answer:
                sock.sendall(self.answer)
            if self.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self.thread.join(5.0)
        self.server.close()


class Case(unittest.TestCase):
    def peer(self, **how: object) -> Peer:
        peer = Peer(**how)  # type: ignore[arg-type]
        self.addCleanup(peer.close)
        return peer

    def rccmd(self, *words: str) -> tuple[int, str]:
        """Run the program: (exit code, what it said)."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = program.main(words)
            except SystemExit as e:
                code = int(e.code or 0)
        return code, said.getvalue()

    def unused_port(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", 0))
            return int(sock.getsockname()[1])


class Tcp(Case):
    def test_a_normal_close_is_delivered_unconfirmed(self) -> None:
        peer = self.peer(to_the_end=True)  # it sees our end: the half-close is the default
        code, said = self.rccmd("send", "--shutdown", "-a", "127.0.0.1", "-p", str(peer.port))
        self.assertEqual((code, said), (0, f"127.0.0.1 port {peer.port}: delivered, unconfirmed\n"))
        self.assertEqual(peer.heard, LINE)

    def test_the_originals_way_of_writing_it_works(self) -> None:
        peer = self.peer()
        code, _ = self.rccmd("-se", "EXECUTE |AUX|1|1", "-s", "-a", "127.0.0.1", "-p", str(peer.port))
        self.assertEqual(code, 0)
        self.assertEqual(peer.heard, b"CONNECT TO RCCMD (SEND) MSG_EXECUTE EXECUTE |AUX|1|1\n")

    def test_a_reset_is_not_delivered(self) -> None:
        peer = self.peer(reset=True)
        code, said = self.rccmd("send", "--shutdown", "-a", "127.0.0.1", "-p", str(peer.port))
        self.assertEqual(code, 1)
        self.assertIn("not delivered, the listener refused it (reset)", said)

    def test_nobody_there_is_not_delivered(self) -> None:
        code, said = self.rccmd("send", "--wakeup", "-a", "127.0.0.1", "-p", str(self.unused_port()))
        self.assertEqual(code, 1)
        self.assertIn("not delivered, Connection refused", said)

    def test_what_the_listener_says_is_shown(self) -> None:
        peer = self.peer(answer=b"RCCMD\x1b OK\r\n")
        code, said = self.rccmd("send", "--message", "Netz weg, 45 °C", "-a", "127.0.0.1", "-p", str(peer.port))
        self.assertEqual(code, 0)
        self.assertIn(r"delivered, unconfirmed; it said b'RCCMD\x1b OK\r\n'", said)
        self.assertEqual(peer.heard, "CONNECT TO RCCMD (SEND) MSG_EXECUTE MSG_TEXT Netz weg, 45 °C\n".encode())

    def test_a_listener_that_does_not_close_is_not_delivered(self) -> None:
        peer = self.peer(until=b"never", to_the_end=True)
        with mock.patch.object(send, "ANSWER_S", 0.1):
            good, outcome = send.send_tcp("127.0.0.1", peer.port, LINE, half_close=False)
        self.assertEqual((good, outcome), (False, "not delivered, the listener did not close within 0 s"))

    def test_the_end_and_the_whole_message_can_be_changed(self) -> None:
        peer = self.peer(until=b"\0")
        words = ("--terminator", "nul", "--no-half-close", "--template", "MSG_SHUTDOWN")
        code, _ = self.rccmd("send", "--shutdown", *words, "-a", "127.0.0.1", "-p", str(peer.port))
        self.assertEqual((code, peer.heard), (0, b"MSG_SHUTDOWN\0"))

    def test_all_addresses_are_told_and_one_failure_is_the_exit_code(self) -> None:
        peer = self.peer()
        code, said = self.rccmd("send", "--shutdown", "-a", "127.0.0.1,127.0.0.3", "-p", str(peer.port))
        self.assertEqual(code, 1)
        self.assertIn("127.0.0.1 port", said)
        self.assertIn(f"127.0.0.3 port {peer.port}: not delivered", said)
        self.assertEqual(peer.heard, LINE)


class Udp(Case):
    def receive(self, sock: socket.socket) -> list[bytes]:
        sock.settimeout(0.1)
        found = []
        while True:
            try:
                found.append(sock.recv(4096))
            except socket.timeout:
                return found

    def test_a_shutdown_goes_three_times_without_a_terminator(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            message = send.Message(text="SHUTDOWN", port=sock.getsockname()[1], udp=True)
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                self.assertTrue(send.send_all(["127.0.0.1"], message, apart_s=0.01))
            self.assertEqual(self.receive(sock), [LINE.rstrip()] * 3)
        self.assertRegex(said.getvalue(), r"^127.0.0.1 port \d+: sent 3 times\n$")

    def test_a_message_goes_once(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = str(sock.getsockname()[1])
            code, said = self.rccmd("send", "--udp", "--message", "hello", "-a", "127.0.0.1", "-p", port)
            self.assertEqual(self.receive(sock), [b"CONNECT TO RCCMD (SEND) MSG_EXECUTE MSG_TEXT hello"])
        self.assertEqual((code, said), (0, f"127.0.0.1 port {port}: sent\n"))

    def test_a_port_where_nobody_listens_is_noticed_at_the_second_copy(self) -> None:
        port = self.unused_port(socket.SOCK_DGRAM)
        good, outcome = send.send_udp("127.0.0.1", port, LINE, copies=3, apart_s=0.05)
        self.assertEqual((good, outcome), (False, "not delivered, nobody listens there"))


class Use(Case):
    def test_what_cannot_be_sent_is_refused_with_2(self) -> None:
        for words in (
            ("send", "--message", "two\nlines", "-a", "127.0.0.1"),
            ("send", "-se", "SHUTDOWN now", "-a", "127.0.0.1"),
            ("send", "-se", "", "-a", "127.0.0.1"),
            ("send", "--message", "", "-a", "127.0.0.1"),
            ("send", "--shutdown", "-a", ","),
            ("send", "--shutdown", "-a", "127.0.0.1", "-p", "0"),
            ("send", "--shutdown", "-a", ",".join(["127.0.0.1"] * 257)),
            ("send", "--shutdown"),
            ("send", "-a", "127.0.0.1"),
            ("send", "--shutdown", "--wakeup", "-a", "127.0.0.1"),
            (),
            ("sned",),
        ):
            code, said = self.rccmd(*words)
            self.assertEqual(code, 2, words)
            self.assertTrue(said, words)

    def test_help_tells_every_option(self) -> None:
        for verb, words in (
            (
                "listen",
                (
                    "--bind",
                    "--allow",
                    "--on-shutdown",
                    "--on-message",
                    "--on-wakeup",
                    "--grace",
                    "--udp",
                    "--config",
                    "--log",
                ),
            ),
            ("send", ("-s ", "-se ", "-a ", "-p ", "--shutdown", "--message", "--wakeup", "--udp", "--terminator")),
        ):
            code, said = self.rccmd(verb, "--help")
            self.assertEqual(code, 0)
            for word in words:
                self.assertIn(word, said)
        self.assertIn("rccmd -s -se", self.rccmd("--help")[1])


if __name__ == "__main__":
    unittest.main()
