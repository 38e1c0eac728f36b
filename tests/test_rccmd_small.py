"""The listener's small parts: terminals of users, relays, the memory of senders, and settings of secure mode."""

from __future__ import annotations

import io
import os
import pty
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from agent.rccmd import journal, relays, status, tools, users
from agent.rccmd.journal import Journal
from agent.rccmd.settings import SettingsError, load
from tests.rccmd_lines import lines

SECURE = {"tls": "/k.pem", "senders": "/s", "state_dir": "/v", "on_shutdown": "true"}


class Users(unittest.TestCase):
    def test_a_terminal_that_takes_messages_is_told_and_others_are_left_alone(self) -> None:
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(os.ttyname(slave), f"{folder}/7")
            os.symlink("/dev/null", f"{folder}/null")
            Path(folder, "8").write_text("")
            os.chmod(os.ttyname(slave), 0o620)
            self.assertEqual(users.tell("mains is off, café", (folder, "/no/such/folder")), (1, 0))
            self.assertIn("mains is off, café".encode(), os.read(master, 1000))
            self.assertEqual(Path(folder, "8").read_text(), "")
            os.chmod(os.ttyname(slave), 0o600)
            self.assertEqual(users.tell("mesg n", (folder,)), (0, 0))

    def test_a_terminal_that_was_stopped_holds_nobody(self) -> None:
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)
        os.chmod(os.ttyname(slave), 0o620)
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(os.ttyname(slave), f"{folder}/7")
            outcomes = {users.tell("x" * 2000, (folder,)) for _ in range(200)}
        self.assertEqual(outcomes, {(1, 0), (0, 1)}, "full at last, and never waited for")


class Log(unittest.TestCase):
    def test_a_file_is_bounded_and_one_older_one_is_kept(self) -> None:
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(journal, "FILE_LIMIT_BYTES", 1000):
            path = os.path.join(folder, "log")
            out = journal.Output(wall=lambda: 0.0)
            out.begin(path)
            with mock.patch("sys.stderr", io.StringIO()):
                for number in range(60):
                    out.write(f"line {number}")
            self.assertLessEqual(max(os.path.getsize(p) for p in (path, f"{path}.1")), 1000)
            with open(path) as stream:
                self.assertTrue(stream.read().endswith("1970-01-01T00:00:00Z line 59\n"))
            self.assertEqual(sorted(os.listdir(folder)), ["log", "log.1"])

    def test_a_stderr_that_is_a_file_is_bounded_too(self) -> None:
        limit = mock.patch.object(journal, "FILE_LIMIT_BYTES", 1000)
        with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "x"), "a+") as stderr, limit:
            with mock.patch("sys.stderr", stderr):
                out = journal.Output()
                for number in range(100):
                    out.write(f"line {number}")
            self.assertLess(os.fstat(stderr.fileno()).st_size, 1100)
            stderr.seek(0)
            self.assertIn("line 99", stderr.read())

    def test_a_log_that_cannot_be_written_stops_nothing(self) -> None:
        out = journal.Output()
        with self.assertRaises(OSError):
            out.begin("/nonexistent/log")
        full = open("/dev/full", "w")  # noqa: SIM115  # closing it fails, too
        with mock.patch("sys.stderr", full):
            out.write("lost")
        with mock.patch("sys.stderr", None):
            out.write("lost")
        with self.assertRaises(OSError):
            full.close()


class Relays(unittest.TestCase):
    def test_each_relay_hears_a_classic_shutdown_and_the_log_says_how_it_went(self) -> None:
        heard: list[bytes] = []
        logged, before = lines(self), set(threading.enumerate())
        with socket.create_server(("127.0.0.1", 0)) as server:
            relays.tell([("127.0.0.1", server.getsockname()[1]), ("127.0.0.1", 1)], Journal())
            sock, _ = server.accept()
            with sock:
                heard.append(sock.recv(1000))
            for thread in set(threading.enumerate()) - before:
                thread.join(10.0)
        self.assertEqual(heard, [b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN\n"])
        text = "\n".join(logged)
        self.assertIn("relayed: delivered, unconfirmed", text)
        self.assertIn("127.0.0.1:1 SHUTDOWN: relayed: not delivered", text)


class Signalling(unittest.TestCase):
    """The number in a lock file is the word of whoever may write it, and root must not act on it as root."""

    NOBODY = 65534

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.lock = status.Lock(self.folder)
        self.addCleanup(self.lock.close)

    def sleeper(self, user: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([str(shutil.which("sleep")), "60"], user=user, stdin=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def names(self, text: object) -> None:
        Path(self.folder, "lock").write_text(f"{text}\n")

    @unittest.skipUnless(os.name == "posix" and os.geteuid() == 0, "for root")
    def test_root_signals_with_the_rights_of_the_folders_owner_alone(self) -> None:
        ours, theirs = self.sleeper(0), self.sleeper(self.NOBODY)
        os.chown(self.folder, self.NOBODY, self.NOBODY)
        self.names(ours.pid)
        with mock.patch("sys.stderr", io.StringIO()) as said:
            self.assertEqual(tools.selftest(None, self.folder), 1)
        self.assertIn(f"pid {ours.pid}, cannot be asked: Operation not permitted", said.getvalue())
        self.assertIsNone(ours.poll())
        self.names(theirs.pid)
        self.assertEqual(status.send_signal(self.folder, signal.SIGUSR1), theirs.pid)
        self.assertEqual(theirs.wait(10), -signal.SIGUSR1)

    @unittest.skipUnless(os.name == "posix" and os.geteuid() == 0, "for root")
    def test_a_folder_of_root_with_a_lock_of_somebody_else_is_that_ones(self) -> None:
        ours = self.sleeper(0)
        os.chown(os.path.join(self.folder, "lock"), self.NOBODY, self.NOBODY)
        self.names(ours.pid)
        with self.assertRaises(PermissionError):
            status.send_signal(self.folder, signal.SIGUSR1)
        self.assertIsNone(ours.poll())

    def test_a_number_that_means_others_than_one_listener_is_none(self) -> None:
        for text in ("0", "1", "-1", "", "x", "9" * 30):
            self.names(text)
            self.assertIsNone(status.running(self.folder), text)
            self.assertIsNone(status.send_signal(self.folder, signal.SIGTERM), text)

    def test_a_link_or_a_pipe_in_its_place_is_no_lock_and_holds_nobody(self) -> None:
        path = os.path.join(self.folder, "lock")
        os.rename(path, f"{path}.real")
        os.symlink(f"{path}.real", path)
        self.assertIsNone(status.running(self.folder))
        os.remove(path)
        os.mkfifo(path)
        self.assertIsNone(status.running(self.folder))

    def test_what_the_status_says_draws_nothing_on_the_terminal(self) -> None:
        Path(self.folder, "status.json").write_text(
            '{"doing": "listening\\u001b[2J", "require_tls": true, "tls": true, "bind": "x", "dry_run": false, '
            '"on_shutdown": [], "need": 1, "selftest": {"selftest": "ok", "detail": ""}, "senders": {}, "votes": [], '
            '"latest": [], "disk_failed": ""}'
        )
        with mock.patch("sys.stdout", io.StringIO()) as said:
            tools.show(None, self.folder, as_json=False)
        self.assertIn("listening[2J", said.getvalue())


class SecureSettings(unittest.TestCase):
    def refused(self, **options: str) -> str:
        with self.assertRaises(SettingsError) as caught:
            load({key: text for key, text in {**SECURE, **options}.items() if text})
        return str(caught.exception)

    def test_with_a_key_only_tls_is_heard_and_no_list_is_needed(self) -> None:
        settings = load(SECURE)
        self.assertTrue(settings.require_tls)
        self.assertEqual((settings.allow, settings.state, settings.on_message), ((), "/v/votes", ("users",)))
        self.assertEqual(load({**SECURE, "on_message": "none"}).on_message, ())

    def test_what_does_not_fit_together_is_named(self) -> None:
        for options, words in (
            ({"senders": ""}, "need each other"),
            ({"tls": ""}, "who may shut this machine down"),
            ({"tls": "", "allow": "192.0.2.1"}, "need each other"),
            ({"state_dir": ""}, "state_dir is missing"),
            ({"require_tls": "no"}, "who may shut this machine down"),
            ({"udp": "yes"}, "datagrams cannot be secured"),
            ({"unreachable_counts": "yes"}, "alive_s must say"),
            ({"relay": "a:b:c, :6003, x:0"}, "is not HOST or HOST:PORT"),
            ({"relay": ",".join(f"192.0.2.{n}" for n in range(65))}, "at most 64"),
            ({"alive_s": "-1"}, "alive_s"),
            ({"require_tls": "maybe"}, "neither yes nor no"),
        ):
            self.assertIn(words, self.refused(**options), str(options))
        with self.assertRaisesRegex(SettingsError, "require_tls = yes: tls and senders are missing"):
            load({"allow": "192.0.2.1", "on_shutdown": "true", "require_tls": "yes"})

    def test_relays_are_hosts_with_and_without_a_port(self) -> None:
        text = "192.0.2.1, nas:7000 [2001:db8::7]:6004,2001:db8::8,[2001:db8::9]"
        found = (
            ("192.0.2.1", 6003),
            ("nas", 7000),
            ("2001:db8::7", 6004),
            ("2001:db8::8", 6003),
            ("2001:db8::9", 6003),
        )
        self.assertEqual(load({**SECURE, "relay": text}).relay, found)


if __name__ == "__main__":
    unittest.main()
