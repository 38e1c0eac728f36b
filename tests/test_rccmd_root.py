"""The root side of a server: `rccmd ask` and `rccmd root` as real processes over a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agent.rccmd import archive, root  # noqa: E402

WITHIN_S = 10.0


class RootTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.program = self.folder / "rccmd.pyz"
        self.program.write_bytes(archive.pack(str(ROOT / "agent" / "rccmd")))
        self.ini, self.socket, self.told = (self.folder / name for name in ("root.ini", "root.sock", "told"))
        script = self.folder / "halt"
        script.write_text(f'#!/bin/sh\necho "halt $*" >> {self.told}\n')
        script.chmod(0o755)
        self.configure(f"shutdown = {script} 'two words'\nmessage = /usr/bin/tee -a {self.told}\n")

    def configure(self, text: str) -> None:
        self.ini.write_text("[root]\n" + text)

    def hold(self) -> None:
        argv = [sys.executable, "-I", str(self.program), "root", "--ini", str(self.ini), "--listen", str(self.socket)]
        self.process = process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        until_s = time.monotonic() + WITHIN_S
        while not self.listens():
            self.assertLess(time.monotonic(), until_s)
            time.sleep(0.01)

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):  # not bound, or bound and not listening yet
                return False
        return True

    def ask(self, word: str, text: str = "") -> tuple[int, str]:
        argv = [sys.executable, "-I", str(self.program), "ask", word, "--socket", str(self.socket)]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stderr

    def test_the_shutdown_is_run_and_its_end_is_the_answer(self) -> None:
        self.hold()
        code, said = self.ask("shutdown")
        self.assertEqual((code, self.told.read_text()), (0, "halt two words\n"), said)
        self.configure("shutdown = /bin/false\n")
        code, said = self.ask("shutdown")
        self.assertEqual(code, 1)
        self.assertIn("ended with exit code 1", said)

    def test_the_selftest_goes_the_same_way_and_shuts_nothing_down(self) -> None:
        self.hold()
        code, said = self.ask("selftest")
        self.assertEqual((code, self.told.exists()), (0 if os.geteuid() == 0 else 1, False), said)
        self.configure("shutdown = /no/such/program\n")
        code, said = self.ask("selftest")
        self.assertEqual(code, 1)
        self.assertIn("not there or not executable", said)

    def test_without_its_root_side_the_listener_learns_that_nothing_happened(self) -> None:
        code, said = self.ask("shutdown")
        self.assertEqual((code, self.told.exists()), (1, False))
        self.assertIn("No such file", said)

    def test_a_message_is_shown_without_control_characters(self) -> None:
        self.hold()
        code, said = self.ask("message", "on battery\x1b[2J\nnow \N{SNOWMAN}\x07")
        self.assertEqual((code, self.told.read_text()), (0, "on battery[2J\nnow \N{SNOWMAN}\n"), said)

    def test_a_wakeup_runs_its_own_program_and_no_other(self) -> None:
        self.hold()
        code, said = self.ask("wakeup")
        self.assertEqual((code, self.told.exists()), (1, False))
        self.assertIn("the program for wakeup is not there", said)
        self.configure(f"shutdown = /bin/false\nwakeup = {self.folder}/halt again\n")
        self.assertEqual((self.ask("wakeup")[0], self.told.read_text()), (0, "halt again\n"))

    def test_settings_that_anybody_can_write_are_not_obeyed(self) -> None:
        self.hold()
        self.ini.chmod(0o666)
        code, said = self.ask("shutdown")
        self.assertEqual((code, self.told.exists()), (1, False))
        self.assertIn("not root's alone to write", said)

    def test_other_words_do_nothing(self) -> None:
        self.hold()
        for bytes_sent in (b"reboot\n", b"", b"shutdown now\n", b"SHUTDOWN\n", b"\xff" * 5000, b"message\0\n"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(WITHIN_S)
                sock.connect(str(self.socket))
                try:
                    sock.sendall(bytes_sent)
                    sock.shutdown(socket.SHUT_WR)
                    answer = sock.recv(1000)
                except OSError:
                    answer = b"failed"  # more than it wants to hear
                self.assertTrue(answer.startswith(b"failed"), answer)
        self.assertFalse(self.told.exists())
        self.assertEqual(self.ask("shutdown")[0], 0)  # and it goes on

    def test_systemd_hands_the_connection_over_as_standard_input(self) -> None:
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-I", str(self.program), "root", "--ini", str(self.ini)]
        process = subprocess.Popen(argv, stdin=theirs.fileno(), stderr=subprocess.DEVNULL)
        theirs.close()
        with ours:
            ours.settimeout(WITHIN_S)
            ours.sendall(b"shutdown\n")
            ours.shutdown(socket.SHUT_WR)
            self.assertTrue(ours.recv(1000).startswith(b"ok "))
        self.assertEqual((process.wait(), self.told.read_text()), (0, "halt two words\n"))

    def test_a_group_may_speak_and_nobody_else(self) -> None:
        self.hold()
        self.assertEqual(self.socket.stat().st_mode & 0o777, 0o600)  # no group was named

    def test_at_its_end_it_takes_its_socket_away(self) -> None:
        self.hold()
        self.process.terminate()
        self.assertEqual(self.process.wait(WITHIN_S), 0)
        self.assertFalse(self.socket.exists())

    def test_a_file_that_is_no_ini_is_said(self) -> None:
        self.ini.write_text("shutdown")
        with self.assertRaisesRegex(root.CannotDo, "root.ini"):
            root.do("selftest", b"", str(self.ini))


if __name__ == "__main__":
    unittest.main()
