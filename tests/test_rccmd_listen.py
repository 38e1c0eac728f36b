"""The listener on loopback sockets, its clock in the test's hand: who is heard, and how each connection ends."""

from __future__ import annotations

import errno
import socket
import unittest
from collections.abc import Mapping, Sequence

from agent.rccmd.journal import Journal
from agent.rccmd.listen import CONNECTIONS_LIMIT, DEADLINE_S, DRAIN_S, Listener
from agent.rccmd.orders import Orders
from agent.rccmd.settings import Settings, load
from tests.rccmd_lines import lines

LINE = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN"
WAKEUP = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE WAKEUP\n"
STRANGER = "127.0.0.2"


class FakeJob:
    pid = 4711

    def poll(self) -> int | None:
        return None


class Case(unittest.TestCase):
    host = "127.0.0.1"

    def setUp(self) -> None:
        self.logged = lines(self)
        self.now_s = 1000.0
        self.started: list[Mapping[str, str]] = []
        self.start_fails = False
        self.listener = self.open()

    def open(self, **changes: object) -> Listener:
        values: dict = {"allow": load({"allow": "127.0.0.1,::1", "on_shutdown": "true"}).allow}
        values.update({"host": self.host, "port": 0, "udp": True, "on_shutdown": ("/halt",)})
        values.update(changes)
        settings, journal = Settings(**values), Journal()
        listener = Listener(settings, Orders(settings, journal, self.start), journal, lambda: self.now_s)
        self.addCleanup(listener.close)
        return listener

    def start(self, argv: Sequence[str], facts: Mapping[str, str], text: bytes | None) -> FakeJob:
        if self.start_fails:
            raise PermissionError(errno.EACCES, "Permission denied")
        self.started.append(facts)
        return FakeJob()

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.listener.port), 2.0, (source, 0))
        self.addCleanup(sock.close)
        return sock

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.listener.turn(0.02)

    def ending(self, sock: socket.socket) -> str:
        """How the listener's side of a connection stands after some turns: fin, rst, open, or what it said."""
        self.turn()
        sock.settimeout(0.02)
        try:
            said = sock.recv(100)
        except ConnectionResetError:
            return "rst"
        except socket.timeout:
            return "open"
        return repr(said) if said else "fin"

    def text(self) -> str:
        return "\n".join(self.logged)


class Tcp(Case):
    def test_a_command_is_run_and_closed_normally(self) -> None:
        for end in (b"\n", b"\r\n", b"\0"):
            sock = self.connect()
            sock.sendall(LINE + end)
            self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(self.started, [{"RCCMD_VERB": "SHUTDOWN", "RCCMD_SENDER": "127.0.0.1"}])

    def test_the_command_runs_before_the_sender_is_told(self) -> None:
        sock = self.connect()
        self.assertEqual(self.ending(sock), "open")  # never a greeting
        self.start_fails = True
        sock.sendall(LINE + b"\n")
        self.assertEqual(self.ending(sock), "rst")
        self.start_fails = False
        again = self.connect()
        again.sendall(LINE + b"\n")
        self.assertEqual(self.ending(again), "fin")
        self.assertEqual(len(self.started), 1)

    def test_a_half_closed_sender_is_understood_at_its_end(self) -> None:
        sock = self.connect()
        sock.sendall(LINE)
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(len(self.started), 1)

    def test_a_command_in_two_lines_and_many_pieces_is_understood(self) -> None:
        sock = self.connect()
        for piece in (b"CONNECT TO RCC", b"MD (SEND)\r", b"\nMSG_EXEC", b"UTE SHUTDOWN", b"\r\n"):
            self.assertEqual(self.ending(sock), "open")
            sock.sendall(piece)
        self.assertEqual(self.ending(sock), "fin")

    def test_an_address_that_is_not_on_the_list_is_reset_before_a_byte_is_read(self) -> None:
        sock = self.connect(STRANGER)
        self.assertEqual(self.ending(sock), "rst")
        late = self.connect(STRANGER)
        late.sendall(LINE + b"\n")
        self.assertEqual(self.ending(late), "rst")
        self.assertEqual(self.started, [])
        self.assertIn(f"{STRANGER} -: refused, not on the list", self.text())

    def test_wrong_bytes_are_reset_and_shown(self) -> None:
        for junk in (b"l\0\x0b\0\0\0\0\0\0\0\0\0", b"GET / HTTP/1.0\r\n\r\n", LINE + b"X\n", b"\n", b"x" * 100_000):
            sock = self.connect()
            sock.sendall(junk)
            self.assertEqual(self.ending(sock), "rst", junk[:20])
        self.assertEqual(self.started, [])
        self.assertIn("b'GET / HTTP/1.0", self.text())

    def test_an_early_end_is_reset(self) -> None:
        sock = self.connect()
        sock.sendall(LINE[:-2])
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(self.ending(sock), "rst")
        self.assertEqual(self.started, [])

    def test_a_verb_without_a_configured_command_is_reset(self) -> None:
        sock = self.connect()
        sock.sendall(b"CONNECT TO RCCMD (SEND) MSG_EXECUTE EXECUTE halt\n")
        self.assertEqual(self.ending(sock), "rst")
        self.assertIn("EXECUTE: refused, 'halt' is not in [execute]", self.text())

    def test_looking_whether_the_port_is_open_leaves_no_line(self) -> None:
        before = self.text()
        self.connect().close()
        self.turn()
        self.assertEqual(self.text(), before)

    def test_bytes_after_the_command_do_not_turn_the_close_into_a_reset(self) -> None:
        sock = self.connect()
        sock.sendall(WAKEUP + b"and so on\n" * 3000)
        self.assertEqual(self.ending(sock), "fin")
        sock.sendall(b"more")
        self.turn()
        sock.shutdown(socket.SHUT_WR)
        self.turn()
        self.assertEqual(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
        self.assertEqual(self.ending(sock), "fin")

    def test_a_sender_that_never_ends_is_closed_soon_after_accepting(self) -> None:
        sock = self.connect()
        sock.sendall(WAKEUP)
        self.assertEqual(self.ending(sock), "fin")
        self.now_s += DRAIN_S
        self.turn()
        sock.sendall(b"x")
        self.turn()
        with self.assertRaises(OSError):
            for _ in range(50):
                sock.sendall(b"x")
                self.turn(1)

    def test_an_unended_command_is_accepted_after_two_idle_seconds(self) -> None:
        sock = self.connect()
        sock.sendall(LINE)
        self.assertEqual(self.ending(sock), "open")
        self.now_s += 1.9
        self.assertEqual(self.ending(sock), "open")
        self.now_s += 0.1
        self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(len(self.started), 1)

    def test_half_a_line_is_reset_after_ten_seconds_however_it_trickles(self) -> None:
        sock = self.connect()
        for n in range(int(DEADLINE_S)):
            sock.sendall(LINE[n : n + 1])
            self.assertEqual(self.ending(sock), "open")
            self.now_s += 1.0
        self.assertEqual(self.ending(sock), "rst")
        self.assertEqual(self.started, [])

    def test_idle_connections_cannot_keep_a_command_out(self) -> None:
        idle = [self.connect() for _ in range(CONNECTIONS_LIMIT + 8)]
        self.turn()
        sock = self.connect()
        sock.sendall(LINE + b"\n")
        self.assertEqual(self.ending(sock), "fin")
        endings = [self.ending(one) for one in idle]
        self.assertEqual(endings, ["rst"] * 9 + ["open"] * (CONNECTIONS_LIMIT - 1))

    def test_connections_that_have_been_heard_make_room_first(self) -> None:
        idle = self.connect()
        heard = [self.connect() for _ in range(CONNECTIONS_LIMIT - 1)]
        for sock in heard:
            sock.sendall(WAKEUP)
        self.turn()
        late = self.connect()
        self.assertEqual(self.ending(idle), "open")
        self.assertEqual(self.ending(late), "open")

    def test_one_command_a_connection(self) -> None:
        sock = self.connect()
        sock.sendall(b"CONNECT TO RCCMD (SEND) MSG_EXECUTE MSG_TEXT hello\n" + LINE + b"\n")
        self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(self.started, [])

    def test_a_flood_of_strangers_leaves_few_lines(self) -> None:
        for _ in range(300):
            self.connect(STRANGER).close()
            self.turn(1)
        self.assertLess(len(self.logged), 30)

    def test_closing_resets_what_was_not_accepted(self) -> None:
        sock = self.connect()
        sock.sendall(LINE)
        self.turn()
        listener, self.listener = self.listener, self.open()
        listener.close()
        self.assertEqual(self.ending(sock), "rst")


class Udp(Case):
    def send(self, data: bytes, source: str = "127.0.0.1") -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            sock.sendto(data, ("127.0.0.1", self.listener.port))
        self.turn()

    def test_a_datagram_is_a_command_and_its_copies_are_duplicates(self) -> None:
        for _ in range(3):
            self.send(LINE)
        self.assertEqual(len(self.started), 1)
        self.assertEqual(self.text().count("duplicate"), 2)

    def test_tcp_and_udp_of_one_address_are_one_sender(self) -> None:
        self.send(LINE)
        sock = self.connect()
        sock.sendall(LINE + b"\n")
        self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(len(self.started), 1)

    def test_strangers_and_junk_are_ignored(self) -> None:
        self.send(LINE, STRANGER)
        for junk in (b"", b"\0", LINE[:-1], LINE + b" NOW", LINE.ljust(3000)):
            self.send(junk)
        self.assertEqual(self.started, [])

    def test_without_udp_nobody_listens_there(self) -> None:
        self.listener = self.open(udp=False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self.listener.port))
            sock.settimeout(1.0)
            sock.send(LINE)
            with self.assertRaises(ConnectionRefusedError):
                sock.recv(10)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@unittest.skipUnless(has_ipv6(), "no IPv6 here")
class BothFamilies(Case):
    host = "::ffff:127.0.0.1"  # an IPv6 socket that hears IPv4, as [::] is

    def test_an_ipv4_sender_is_known_by_its_ipv4_address(self) -> None:
        sock = self.connect()
        sock.sendall(LINE + b"\n")
        self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(self.started[0]["RCCMD_SENDER"], "127.0.0.1")

    def test_an_ipv4_stranger_is_refused(self) -> None:
        self.assertEqual(self.ending(self.connect(STRANGER)), "rst")

    def test_an_ipv6_sender_is_heard(self) -> None:
        self.listener = self.open(host="::1")
        with socket.create_connection(("::1", self.listener.port), 2.0) as sock:
            sock.sendall(LINE + b"\n")
            self.assertEqual(self.ending(sock), "fin")
        self.assertEqual(self.started[0]["RCCMD_SENDER"], "::1")


if __name__ == "__main__":
    unittest.main()
