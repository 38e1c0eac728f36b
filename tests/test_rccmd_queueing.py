"""Which connection of a flood must go, and whose handshake is worked on."""

from __future__ import annotations

import socket
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.rccmd.queueing import Connection, next_ones, victim  # noqa: E402


class Queueing(unittest.TestCase):
    def setUp(self) -> None:
        self.sock = socket.socket()
        self.addCleanup(self.sock.close)

    def made(self, sender: str, steps: int = 0, heard: bool = False, waits: bool = True) -> Connection:
        found = Connection(self.sock, sender, 10.0)
        found.steps, found.heard, found.waiting = steps, heard, b"x" if waits else None
        return found

    def test_whoever_floods_loses_his_oldest_that_got_nowhere(self) -> None:
        one, true = self.made("a", steps=1), self.made("b")
        two, three = self.made("a"), self.made("a")
        self.assertIs(victim([one, true, two, three]), two)

    def test_a_heard_one_goes_first_and_a_command_under_way_last(self) -> None:
        heard, old, under_way = self.made("a", heard=True), self.made("b"), self.made("c", steps=1)
        self.assertIs(victim([under_way, old, heard]), heard)
        self.assertIs(victim([under_way, old]), old)

    def test_the_next_handshake_is_of_whom_has_few_then_further_along_then_newest(self) -> None:
        flood = [self.made("a") for _ in range(5)]
        old, under_way, new = self.made("b"), self.made("c", steps=1), self.made("d")
        silent = self.made("e", waits=False)
        self.assertEqual(next_ones([*flood, old, under_way, new, silent], 4), [under_way, new, old, flood[-1]])


if __name__ == "__main__":
    unittest.main()
