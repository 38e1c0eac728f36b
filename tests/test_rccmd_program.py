"""`rccmd listen` and `rccmd send` as real processes on loopback: accepted, refused, repeated, flooded."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RCCMD = [sys.executable, "-m", "agent.rccmd"]
LINE = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN"
WITHIN_S = 10.0  # any wait of these tests on a busy machine


def rccmd(*words: str) -> tuple[int, str]:
    """Run the program to its end: (exit code, all that it said)."""
    done = subprocess.run(
        [*RCCMD, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False
    )
    return done.returncode, done.stdout.decode()


class Case(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.said = b""

    def script(self, name: str, body: str) -> str:
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + body + "\n")
        path.chmod(0o755)
        return str(path)

    def halt(self) -> str:
        """A shutdown command that writes a line with what it was given."""
        told = self.folder / "told"
        return self.script("halt", f'echo "$# $RCCMD_VERB $RCCMD_SENDER" >> {told}')

    def told(self) -> str:
        path = self.folder / "told"
        return path.read_text() if path.exists() else ""

    def listen(self, *words: str, allow: str = "127.0.0.1") -> None:
        argv = [*RCCMD, "listen", "--bind", "127.0.0.1:0", "--allow", allow, *words]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(self.end)
        found = self.wait_for(r"listening on 127\.0\.0\.1:(\d+)")
        self.port = int(found[1])

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(WITHIN_S)
        if self.process.stderr is not None and not self.process.stderr.closed:
            self.said += self.process.stderr.read()
            self.process.stderr.close()
        return code

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first place in the listener's log where this stands; waits for it to appear."""
        until_s = time.monotonic() + WITHIN_S
        stderr = self.process.stderr
        assert stderr is not None
        while (found := re.search(pattern, self.said.decode())) is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([stderr], [], [], left_s)[0]:
                self.fail(f"not in the log within {WITHIN_S} s: {pattern}\n{self.said.decode()}")
            data = stderr.read1(65536)
            if not data:
                self.fail(f"the listener ended: {self.said.decode()}")
            self.said += data
        return found

    def send(self, *words: str) -> tuple[int, str]:
        return rccmd("send", "-a", "127.0.0.1", "-p", str(self.port), *words)


class Listening(Case):
    def test_a_shutdown_runs_the_command_once_and_repeats_are_duplicates(self) -> None:
        self.listen("--on-shutdown", self.halt())
        for _ in range(3):
            self.assertEqual(self.send("--shutdown"), (0, f"127.0.0.1 port {self.port}: delivered, unconfirmed\n"))
        self.wait_for("exit code 0")
        self.assertEqual(self.told(), "0 SHUTDOWN 127.0.0.1\n")
        self.wait_for("duplicate.*\n.*duplicate")
        self.assertRegex(self.said.decode(), r"(?m)^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ 127\.0\.0\.1 SHUTDOWN: started")

    def test_an_address_that_is_not_on_the_list_is_refused(self) -> None:
        self.listen("--on-shutdown", self.halt(), allow="127.0.0.9,192.0.2.0/24")
        code, said = self.send("--shutdown")
        self.assertEqual(code, 1)
        self.assertIn("not delivered", said)
        self.wait_for("127.0.0.1 -: refused, not on the list")
        self.assertEqual(self.told(), "")

    def test_udp_copies_run_it_once(self) -> None:
        self.listen("--udp", "--on-shutdown", self.halt())
        code, said = self.send("--udp", "--shutdown")
        self.assertEqual((code, said), (0, f"127.0.0.1 port {self.port}: sent 3 times\n"))
        self.wait_for("exit code 0")
        self.wait_for("duplicate.*\n(.*\n)*.*duplicate")
        self.assertEqual(self.told(), "0 SHUTDOWN 127.0.0.1\n")

    def test_udp_copies_of_a_wakeup_run_its_command_once(self) -> None:
        self.listen("--udp", "--on-wakeup", self.halt())
        code, said = self.send("--udp", "--wakeup")
        self.assertEqual((code, said), (0, f"127.0.0.1 port {self.port}: sent 3 times\n"))
        self.wait_for("WAKEUP: the command ended, exit code 0")
        self.wait_for("(127.0.0.1 WAKEUP: accepted(.*\n)*.*){3}")
        self.assertEqual(self.told(), "0 WAKEUP 127.0.0.1\n")

    def test_a_slow_half_line_does_not_hold_others_and_is_understood_when_it_idles(self) -> None:
        self.listen("--on-shutdown", self.halt())
        with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as slow:
            slow.sendall(LINE[:30])
            self.assertEqual(self.send("--message", "others are heard")[0], 0)
            slow.sendall(LINE[30:])
            began_s = time.monotonic()
            self.assertEqual(slow.recv(10), b"")
            self.assertGreater(time.monotonic() - began_s, 1.5)
        self.wait_for("exit code 0")
        self.assertEqual(self.told(), "0 SHUTDOWN 127.0.0.1\n")

    def test_after_200_junk_connections_a_command_is_heard_at_once_and_the_log_stays_short(self) -> None:
        self.listen("--on-shutdown", self.halt())
        for n in range(200):
            with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as junk:
                junk.sendall(b"l\0\x0b\0\0\0\0\0\0\0\0\0" if n % 2 else b"GET / HTTP/1.0\r\n\r\n")
                with self.assertRaises(ConnectionResetError):
                    junk.recv(10)
        began_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), WITHIN_S) as sock:
            sock.sendall(LINE + b"\n")
            self.assertEqual(sock.recv(10), b"")
        self.assertLess(time.monotonic() - began_s, 2.0)
        self.wait_for("exit code 0")
        self.assertLess(len(self.said.splitlines()), 40)

    def test_200_open_junk_connections_do_not_keep_a_command_out(self) -> None:
        self.listen("--on-shutdown", self.halt())
        junk = [socket.create_connection(("127.0.0.1", self.port), WITHIN_S) for _ in range(200)]
        for sock in junk:
            self.addCleanup(sock.close)
        began_s = time.monotonic()
        self.assertEqual(self.send("--shutdown")[0], 0)
        self.assertLess(time.monotonic() - began_s, 2.0)

    def test_a_failed_command_is_reported_and_the_next_repeat_runs_it_again(self) -> None:
        told = self.folder / "told"
        self.listen("--on-shutdown", self.script("halt", f"echo x >> {told}; exit 7"))
        self.send("--shutdown")
        self.wait_for("exit code 7; the next SHUTDOWN runs it again")
        self.send("--shutdown")
        self.wait_for("exit code 7(.*\n)+.*exit code 7")
        self.assertEqual(self.told(), "x\nx\n")

    def test_a_command_that_vanished_after_the_start_is_refused(self) -> None:
        self.listen("--on-shutdown", self.halt())
        (self.folder / "halt").unlink()
        code, said = self.send("--shutdown")
        self.assertEqual(code, 1)
        self.assertIn("refused it (reset)", said)
        self.wait_for("failed, .*halt did not start: No such file")

    def test_a_wakeup_cancels_the_grace_delay(self) -> None:
        self.listen("--grace", "60", "--on-shutdown", self.halt())
        self.send("--shutdown")
        self.wait_for("the command starts in 60 s")
        self.assertEqual(self.send("--wakeup")[0], 0)
        self.wait_for("the waiting shutdown is cancelled")
        self.assertEqual(self.end(), 0)
        self.assertNotIn(b"dropped", self.said)
        self.assertEqual(self.told(), "")

    def test_the_command_starts_after_the_grace_delay(self) -> None:
        self.listen("--grace", "0.5", "--on-shutdown", self.halt())
        self.send("--shutdown")
        self.wait_for("exit code 0")

    def test_the_command_outlives_the_listener_in_a_session_of_its_own(self) -> None:
        done = self.folder / "done"
        fifo = self.folder / "go"
        subprocess.run(["mkfifo", str(fifo)], check=True)
        self.listen("--on-shutdown", self.script("halt", f"exec >/dev/null 2>&1; read go < {fifo}; echo > {done}"))
        self.send("--shutdown")
        pid = int(self.wait_for(r"started .*, pid (\d+)")[1])
        session = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[3])
        self.assertEqual(session, pid)
        self.assertEqual(self.end(signal.SIGINT), 0)
        fifo.write_text("go\n")
        until_s = time.monotonic() + WITHIN_S
        while not done.exists() and time.monotonic() < until_s:
            time.sleep(0.02)
        self.assertTrue(done.exists())

    def test_rccmd_ini_says_it_all_and_execute_and_messages_run_their_programs(self) -> None:
        text = self.folder / "text"
        ini = self.folder / "rccmd.ini"
        ini.write_text(
            f"[listen]\nbind = 127.0.0.1:0\nallow = 127.0.0.1\nlog = {self.folder}/rccmd.log\n"
            f"on_message = {self.script('wall', f'cat >> {text}')}\n"
            f"[execute]\nhello.bat = {self.halt()} a 'b c'\n"
        )
        self.process = subprocess.Popen([*RCCMD, "listen", "--config", str(ini)], cwd=ROOT, stderr=subprocess.PIPE)
        self.addCleanup(self.end)
        self.port = int(self.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1])
        self.assertEqual(self.send("--message", "Überlast an L1")[0], 0)
        self.assertEqual(self.send("-se", "EXECUTE hello.bat")[0], 0)
        self.assertEqual(self.send("-se", "EXECUTE hello")[0], 1)
        self.assertEqual(self.send("--shutdown")[0], 1)
        self.wait_for("no on_shutdown is configured\n")
        self.wait_for("'hello.bat' ended, exit code 0")
        self.assertEqual(self.told(), "2 EXECUTE 127.0.0.1\n")
        until_s = time.monotonic() + WITHIN_S
        while not (text.exists() and text.read_text(encoding="utf-8")) and time.monotonic() < until_s:
            time.sleep(0.02)
        self.assertEqual(text.read_text(encoding="utf-8"), "Überlast an L1\n")
        self.assertEqual(self.end(), 0)
        self.assertEqual((self.folder / "rccmd.log").read_bytes(), self.said)

    def test_sigterm_ends_it_cleanly_and_the_port_is_free_again(self) -> None:
        self.listen("--on-shutdown", self.halt())
        self.assertEqual(self.end(), 0)
        self.assertIn(b"stopped by SIGTERM", self.said)
        port = self.port
        self.listen("--on-shutdown", self.halt(), "--bind", f"127.0.0.1:{port}")
        self.assertEqual(self.port, port)


class Starting(Case):
    def test_an_empty_list_is_refused_with_exit_code_2(self) -> None:
        code, said = rccmd("listen", "--bind", "127.0.0.1:0", "--on-shutdown", self.halt())
        self.assertEqual(code, 2)
        self.assertIn("Nobody is allowed yet: name the adapter with --allow", said)

    def test_a_missing_command_is_refused_with_exit_code_2(self) -> None:
        code, said = rccmd("listen", "--bind", "127.0.0.1:0", "--allow", "127.0.0.1", "--on-shutdown", "/no/such now")
        self.assertEqual((code, said), (2, "rccmd: --on-shutdown: '/no/such' is not there or not executable\n"))

    def test_a_port_in_use_is_named_with_exit_code_1(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            where = f"127.0.0.1:{server.getsockname()[1]}"
            code, said = rccmd("listen", "--bind", where, "--allow", "127.0.0.1", "--on-shutdown", self.halt())
        self.assertEqual((code, said), (1, f"rccmd: cannot listen on {where}: Address already in use\n"))

    def test_a_log_file_that_cannot_be_opened_is_refused_with_exit_code_2(self) -> None:
        words = (
            "--bind",
            "127.0.0.1:0",
            "--allow",
            "127.0.0.1",
            "--on-shutdown",
            self.halt(),
            "--log",
            "/no/such/log",
        )
        code, said = rccmd("listen", *words)
        self.assertEqual((code, said), (2, "rccmd: log file /no/such/log: No such file or directory\n"))

    def test_the_folder_alone_is_enough_on_a_server(self) -> None:
        package = self.folder / "rccmd"
        package.mkdir()
        for source in (ROOT / "agent" / "rccmd").glob("*.py"):
            (package / source.name).write_bytes(source.read_bytes())
        for words, code in ((["--help"], 0), (["send", "--shutdown", "-a", ","], 2)):
            argv = [sys.executable, "-m", "rccmd", *words]
            done = subprocess.run(argv, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.assertEqual(done.returncode, code)


if __name__ == "__main__":
    unittest.main()
