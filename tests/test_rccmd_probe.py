"""The probe: what is recorded of peers on TCP and UDP, what it says to them, and where it stops."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from agent.rccmd import probe, probing
from agent.rccmd.__main__ import main
from agent.rccmd.probe import Answer, Probe, Record, dump

ROOT = Path(__file__).resolve().parent.parent
LINE = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE MSG_TEXT hello"
WITHIN_S = 10.0


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.now_s = 1000.0
        self.out = io.StringIO()
        self.record = Record([self.out], lambda: 1_700_000_000.25)

    def open(self, answer: Answer = Answer(), bind: str = "127.0.0.1") -> int:  # noqa: B008 - immutable
        self.probe = Probe(bind, [0], answer, self.record, lambda: self.now_s)
        self.addCleanup(self.probe.close)
        return self.probe.ports[0]

    def connect(self, port: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), WITHIN_S)
        self.addCleanup(sock.close)
        return sock

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.probe.turn(0.02)

    def text(self) -> str:
        return self.out.getvalue()


class Listening(Case):
    def test_a_tcp_peer_is_recorded_from_connect_to_fin_with_time_and_bytes(self) -> None:
        sock = self.connect(self.open())
        me = f"tcp/{self.probe.ports[0]} 127.0.0.1:{sock.getsockname()[1]}"
        sock.sendall(LINE[:20] + b"\0\xff")
        self.turn()
        self.now_s += 1.5
        sock.shutdown(socket.SHUT_WR)
        self.turn()
        stamp = "2023-11-14T22:13:20.250000Z"
        self.assertEqual(
            self.text(),
            f"{stamp} {me} connected\n{stamp} {me} in, 22 bytes\n"
            "    0000  43 4f 4e 4e 45 43 54 20  54 4f 20 52 43 43 4d 44  |CONNECT TO RCCMD|\n"
            "    0010  20 28 53 45 00 ff                                 | (SE..|\n"
            f"{stamp} {me} FIN from the peer, 1.500 s after it connected\n",
        )

    def test_a_reset_is_told_from_a_fin(self) -> None:
        sock = self.connect(self.open())
        self.turn()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        self.turn()
        self.assertIn("RST from the peer, 0.000 s after it connected", self.text())

    def test_a_datagram_is_recorded_with_the_address_that_it_was_sent_to(self) -> None:
        port = self.open(bind="0.0.0.0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(LINE, ("127.255.255.255", port))
            self.turn()
        self.assertIn(f"udp/{port} 127.0.0.1:", self.text())
        self.assertIn("in, 50 bytes" + (" to 127.255.255.255\n" if sys.platform == "linux" else ""), self.text())

    def test_an_empty_datagram_is_recorded_too(self) -> None:
        port = self.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", port))
            self.turn()
        self.assertIn("in, 0 bytes", self.text())

    def test_it_says_nothing_and_ends_nothing_unless_told_to(self) -> None:
        sock = self.connect(self.open())
        sock.sendall(LINE)
        self.turn()
        self.now_s += 3600
        self.turn()
        sock.settimeout(0.02)
        with self.assertRaises(socket.timeout):
            sock.recv(10)

    def test_the_answer_follows_the_first_bytes_once(self) -> None:
        sock = self.connect(self.open(Answer(b"OK\r\n")))
        self.turn()
        for _ in range(2):
            sock.sendall(b"x")
            self.turn()
        sock.settimeout(0.02)
        self.assertEqual(sock.recv(100), b"OK\r\n")
        with self.assertRaises(socket.timeout):
            sock.recv(10)
        self.assertIn("out, 4 bytes\n    0000  4f 4b 0d 0a", self.text())

    def test_a_greeting_comes_before_the_peer_speaks(self) -> None:
        sock = self.connect(self.open(Answer(b"HELLO", greet=True)))
        self.turn()
        self.assertEqual(sock.recv(100), b"HELLO")

    def test_close_ends_a_peer_that_has_spoken_and_no_other(self) -> None:
        port = self.open(Answer(close_s=2.0))
        spoken, silent = self.connect(port), self.connect(port)
        spoken.sendall(b"x")
        self.turn()
        self.now_s += 2.0
        self.turn()
        self.assertEqual(spoken.recv(10), b"")
        silent.settimeout(0.02)
        with self.assertRaises(socket.timeout):
            silent.recv(10)
        self.assertIn("closed by the probe, 2 s after the peer's last byte", self.text())

    def test_datagrams_are_answered_only_so_often(self) -> None:
        port = self.open(Answer(b"no"))
        self.probe._udp_answers = probe.UDP_ANSWERS_LIMIT - 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.05)
            for _ in range(2):
                sock.sendto(b"x", ("127.0.0.1", port))
            self.turn()
            self.assertEqual(sock.recv(10), b"no")
            with self.assertRaises(socket.timeout):
                sock.recv(10)

    def test_one_connection_more_than_the_limit_closes_the_oldest(self) -> None:
        port = self.open()
        first = self.connect(port)
        self.turn()
        for _ in range(probe.CONNECTIONS_LIMIT):
            self.connect(port)
            self.turn(1)
        self.assertEqual(first.recv(10), b"")
        self.assertIn("closed by the probe: more than 64 connections", self.text())

    def test_one_peer_cannot_fill_the_record(self) -> None:
        sock = self.connect(self.open())
        sock.settimeout(0.05)
        with self.assertRaises(OSError):
            for _ in range(2000):
                sock.send(b"y" * 4096)
                self.turn(1)
        self.assertIn("closed by the probe: more than 65536 bytes", self.text())
        self.assertLess(len(self.text()), 1_500_000)

    def test_a_full_record_says_so_and_takes_no_more(self) -> None:
        self.record._left_bytes = 100
        self.record.note("a", "b", b"x" * 100)
        self.assertTrue(self.record.full)
        size = len(self.text())
        self.record.note("a", "b", b"x" * 100)
        self.assertIn("the record is full (16777216 bytes): the probe ends", self.text())
        self.assertEqual(len(self.text()), size)

    def test_a_port_in_use_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with self.assertRaisesRegex(OSError, f"tcp/{port} on 127.0.0.1: Address already in use"):
                Probe("127.0.0.1", [port], Answer(), self.record, lambda: 0.0)

    def test_a_dump_line_has_sixteen_bytes(self) -> None:
        self.assertEqual(dump(b""), [])
        self.assertEqual([line[:4] for line in dump(b"z" * 33)], ["0000", "0010", "0020"])
        self.assertEqual(len({line.index("|") for line in dump(b"z" * 33)}), 1)


class Connecting(Case):
    def serve(self, *, greeting: bytes = b"", answer: bytes = b"", reset: bool = False) -> int:
        """A part that greets, reads until the line is there, answers, and ends."""
        server = socket.create_server(("127.0.0.1", 0))
        self.heard = b""

        def play() -> None:
            with server, server.accept()[0] as sock:
                sock.settimeout(WITHIN_S)
                sock.sendall(greeting)
                while not self.heard.endswith(LINE):
                    self.heard += sock.recv(100)
                if reset:
                    sock.recv(100)  # the peer's FIN
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    sock.sendall(answer)

        thread = threading.Thread(target=play)
        thread.start()
        self.addCleanup(thread.join, WITHIN_S)
        return int(server.getsockname()[1])

    def test_a_greeting_is_shown_before_anything_is_said(self) -> None:
        port = self.serve(greeting=b"220 hello", answer=b"bye")
        self.assertEqual(probe.connect("127.0.0.1", port, LINE, self.record, lambda: False, seconds=0.15), 0)
        text = self.text()
        order = [text.index(w) for w in ("connected", "|220 hello|", "out, 50 bytes", "|bye|", "FIN from the peer")]
        self.assertEqual(order, sorted(order))

    def test_silence_and_a_reset_are_said(self) -> None:
        port = self.serve(reset=True)
        self.assertEqual(
            probe.connect("127.0.0.1", port, LINE, self.record, lambda: False, seconds=0.15, half_close=True), 0
        )
        for word in ("no greeting within 0.", "FIN from the probe", "RST from the peer"):
            self.assertIn(word, self.text())

    def test_no_connection_is_an_error(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.assertEqual(probe.connect("127.0.0.1", port, b"", self.record, lambda: False, seconds=0.1), 1)
        self.assertIn("no connection: Connection refused", self.text())

    def test_a_datagram_and_its_answer_are_shown(self) -> None:
        port = self.open(Answer(b"heard"))
        thread = threading.Thread(target=lambda: self.probe.turn(WITHIN_S))
        thread.start()
        probe.connect("127.0.0.1", port, LINE, self.record, lambda: False, seconds=0.15, udp=True)
        thread.join(WITHIN_S)
        self.assertIn("|heard|", self.text())


class Words(unittest.TestCase):
    def test_escapes_become_bytes(self) -> None:
        self.assertEqual(probing._text(r"a\r\n\0\\\x7f\xff" + "ü"), b"a\r\n\0\\\x7f\xff\xc3\xbc")

    def test_what_is_no_escape_no_hex_no_port_is_refused(self) -> None:
        for read, text in (
            (probing._text, "a\\q"),
            (probing._text, "a\\"),
            (probing._text, ""),
            (probing._hex, "0"),
            (probing._hex, "zz"),
            (probing._hex, "00" * 2049),
            (probing._ports, "6003,0"),
            (probing._ports, "6003,,6002"),
            (probing._ports, ",".join(map(str, range(1, 18)))),
            (probing._seconds, "nan"),
            (probing._seconds, "-1"),
        ):
            with self.subTest(text[:20]), self.assertRaises(probing.argparse.ArgumentTypeError):
                read(text)
        self.assertEqual(probing._ports("6003,6002,6003"), (6003, 6002))

    def test_wrong_use_is_exit_code_2(self) -> None:
        for words in (["probe", "listen", "--greet"], ["probe", "connect", "127.0.0.1", "--udp"]):
            self.assertEqual(main(words), 2)


class Program(unittest.TestCase):
    def test_the_record_is_in_the_file_and_on_the_screen_and_sigterm_ends_it(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "record.txt"
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            words = ["probe", "listen", "--ports", str(port), "--bind", "127.0.0.1", "--out", str(out)]
            argv = [sys.executable, "-m", "agent.rccmd", *words]
            with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                first = process.stdout.readline()
                self.assertIn(b"the probe listens on 127.0.0.1", first)
                with socket.create_connection(("127.0.0.1", port), WITHIN_S) as sock:
                    sock.sendall(LINE)
                    seen = b"".join(process.stdout.readline() for _ in range(6))
                    process.send_signal(signal.SIGTERM)
                    seen += process.stdout.read()
                self.assertEqual(process.wait(WITHIN_S), 0)
            self.assertIn(b"closed by the probe, which ends", seen)
            self.assertEqual(out.read_bytes(), first + seen)
            done = subprocess.run(argv, cwd=ROOT, stderr=subprocess.PIPE, timeout=30, check=False)
            self.assertEqual((done.returncode, done.stderr), (2, f"rccmd probe: {out}: File exists\n".encode()))

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full")
    def test_a_full_disk_ends_it_with_a_line(self) -> None:
        argv = [sys.executable, "-m", "agent.rccmd", "probe", "listen", "--ports", "1", "--bind", "127.0.0.9"]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(argv, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)
        self.assertIn(done.returncode, (1, 2))
        self.assertNotIn(b"Traceback", done.stderr)

    def test_the_time_is_kept(self) -> None:
        began_s = time.monotonic()
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.assertEqual(
            main(["probe", "listen", "--ports", str(port), "--bind", "127.0.0.1", "--seconds", "0.1"]), 0
        )
        self.assertLess(time.monotonic() - began_s, WITHIN_S)


if __name__ == "__main__":
    unittest.main()
