"""Whatever strangers say to the listener, nothing is run, each is dropped, and the next true command is heard."""

from __future__ import annotations

import json
import socket
import struct
import time
import unittest
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.rccmd.listen import CONNECTIONS_LIMIT, DEADLINE_S, TURN_LIMIT, Listener
from tests.rccmd_hostile_kit import SHUTDOWN, STRANGERS, client_hello, halves
from tests.test_rccmd_listen import Case as ListenCase
from tests.test_rccmd_listen import FakeJob

CASES = json.loads((Path(__file__).parent / "cases" / "rccmd_messages.json").read_text(encoding="utf-8"))["messages"]
NAMES = ["|AUX|1|1", "|UPSCMD|20000|1,1", "|UPSCMD|20001|2", "|UPSCMD|20002|4", "helloworld.bat", "hello"]


class Case(ListenCase):
    """A listener that would run something for every verb; what it ran is in `ran`."""

    def open(self, **changes: object) -> Listener:
        self.ran: list[tuple[str, str]] = []  # verb, and the name or the text
        everything: dict = {
            "on_message": ("/wall",),
            "on_wakeup": ("/resume",),
            "execute": {name: (name,) for name in NAMES},
        }
        return super().open(**{**everything, **changes})

    def start(self, argv: Sequence[str], facts: Mapping[str, str], text: bytes | None) -> FakeJob:
        what = (text or b"").decode().rstrip("\n") if facts["RCCMD_VERB"] != "EXECUTE" else argv[0]
        self.ran.append((facts["RCCMD_VERB"], what))
        return FakeJob()

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.listener.turn(0.001)  # on loopback what was sent is there

    def say(self, data: bytes, *, piece: int = 1 << 20) -> socket.socket:
        """A connection that says this, in pieces of so many bytes, until it is dropped."""
        sock = self.connect()
        for at in range(0, len(data), piece):
            try:
                sock.sendall(data[at : at + piece])
            except OSError:  # dropped
                break
            self.turn(1)
        return sock

    def gone(self, sock: socket.socket) -> None:
        """The listener is done with it, at the latest when its time is over."""
        if self.ending(sock) == "open":
            self.now_s += DEADLINE_S
        self.assertIn(self.ending(sock), ("rst", "fin"))
        sock.close()

    def lines(self) -> int:
        return len(self.logged)

    def works(self) -> None:
        """A true command is heard at once."""
        sock = self.say(SHUTDOWN + b"\n")
        self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(self.ran[-1], ("SHUTDOWN", ""))


class Strangers(Case):
    def test_no_stranger_gets_an_answer_an_action_or_a_place(self) -> None:
        for name, data in {**STRANGERS, "tls hello": client_hello()}.items():
            for piece in (1 << 20, 1, 7):
                with self.subTest(name, piece=piece):
                    sock = self.say(data if piece > 1 else data[:300], piece=piece)
                    self.gone(sock)
                    self.assertEqual(self.ran, [])
        self.works()

    def test_the_same_over_udp(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self.listener.port))
            for data in [*STRANGERS.values(), client_hello(), *halves()]:
                sock.send(data[:60_000])
                self.turn(1)
            sock.settimeout(0.02)
            with self.assertRaises(socket.timeout):
                sock.recv(100)
        self.assertEqual(self.ran, [])
        self.works()

    def test_fifty_of_each_leave_a_few_lines(self) -> None:
        for name in ("http 1.1", "x11", "irc", "ssh", "zeros", "an unknown name"):
            for _ in range(50):
                self.gone(self.say(STRANGERS[name]))
        self.assertLess(self.lines(), 60)
        self.now_s += 3600
        self.turn()
        self.assertIn("lines like this were left out before", self.text())
        self.assertEqual(self.ran, [])

    def test_what_is_logged_of_them_cannot_write_a_line_of_its_own(self) -> None:
        for data in (
            b"\x1b[2J\n192.0.2.1 SHUTDOWN: started",
            SHUTDOWN.replace(b"SHUTDOWN", "EXECUTE a\u2028b\u202ec\x1b[31m".encode()) + b"\n",
        ):
            self.gone(self.say(data))
        for line in self.logged:
            self.assertTrue(line.isprintable(), line)


class Halves(Case):
    def test_half_a_command_is_none_however_it_ends(self) -> None:
        for half in halves():
            for ending in ("fin", "rst", "silence"):
                with self.subTest(half, ending=ending):
                    sock = self.say(half)
                    if ending == "fin":
                        sock.shutdown(socket.SHUT_WR)
                    elif ending == "rst":
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        sock.close()
                    self.turn()
                    self.now_s += DEADLINE_S
                    self.turn()
                    self.assertEqual(self.ran, [])
        self.works()

    def test_a_command_that_its_sender_resets_before_its_end_is_none(self) -> None:
        sock = self.say(SHUTDOWN)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        self.turn()
        self.now_s += DEADLINE_S
        self.turn()
        self.assertEqual(self.ran, [])

    def test_slow_peers_in_all_places_do_not_keep_a_command_out(self) -> None:
        slow = [self.connect() for _ in range(CONNECTIONS_LIMIT)]
        for n in range(5):
            for sock in slow:
                sock.sendall(SHUTDOWN[n : n + 1])
            self.turn()
            self.now_s += 1.0
        self.works()
        self.assertEqual(self.ran, [("SHUTDOWN", "")])

    def test_a_thousand_connections_at_a_time_do_not_keep_a_command_out(self) -> None:
        for _ in range(20):
            for _ in range(50):
                self.connect().sendall(b"GET /")
            self.turn(50 // TURN_LIMIT + 1)
        self.works()
        self.assertLess(self.lines(), 60)


class Vectors(Case):
    def test_each_vector_does_over_tcp_and_udp_what_it_says(self) -> None:
        for case in CASES:
            pieces = [bytes.fromhex(case["hex"])] if "hex" in case else []
            pieces = pieces or [text.encode() for text in case.get("chunks", [case.get("text")])]
            expected = [] if case["expect"] is None else [(case["expect"]["verb"], case["expect"]["arg"])]
            for way in ("tcp", "udp"):
                with self.subTest(case["id"], way=way):
                    self.listener = self.open()
                    if way == "tcp":
                        sock = self.connect()
                        for piece in pieces:
                            sock.sendall(piece)
                            self.turn()
                        if case["expect"] is not None or case["id"] == "neg-prefix-only":
                            sock.shutdown(socket.SHUT_WR)
                        self.assertEqual(self.ending(sock), "rst" if case["expect"] is None else "fin")
                    else:
                        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                            sock.sendto(b"".join(pieces), ("127.0.0.1", self.listener.port))
                        self.turn()
                        for _ in range(100):  # a busy kernel brings it a moment later
                            if len(self.ran) >= len(expected):
                                break
                            time.sleep(0.01)
                            self.turn()
                    self.assertEqual(self.ran, expected)


if __name__ == "__main__":
    unittest.main()
