"""The service files that `rccmd install` writes, read by the programs that will read them, as far as possible."""

from __future__ import annotations

import argparse
import os
import plistlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.rccmd import install, plan, services, trade, units  # noqa: E402
from agent.rccmd.hand import Failed, Hand, Owner, probe_folder  # noqa: E402

PLACES = units.Places("/usr/bin/python3")


class UnitsTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def written(self, texts: dict[str, str]) -> dict[str, Path]:
        found = {}
        for path, text in texts.items():
            found[os.path.basename(path)] = file = self.folder / os.path.basename(path)
            file.write_text(text)
        return found

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze here")
    def test_systemd_accepts_its_units_and_the_listener_is_sandboxed(self) -> None:
        program = self.folder / "opt/rccmd/rccmd.pyz"
        program.parent.mkdir(parents=True)
        program.write_text("")
        places = units.Places("/usr/bin/env", str(self.folder))  # verify wants programs that are there
        files = self.written(units.systemd(places, "daemon"))
        self.assertEqual(sorted(files), ["rccmd-root.socket", "rccmd-root@.service", "rccmd.service"])
        # beside the adapter's services on the same host it is found by their name, too
        self.assertIn(
            "Alias=ridethrough-rccmd.service\n", files["rccmd.service"].read_text().partition("[Install]")[2]
        )
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, files.values())], capture_output=True, text=True
        )
        ours = [line for line in done.stderr.splitlines() if "rccmd" in line]
        self.assertEqual((done.returncode, ours), (0, []), done.stderr)
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(files["rccmd.service"])],
            capture_output=True,
            text=True,
        )
        found = re.search(r"exposure level for rccmd\.service: ([0-9.]+)", done.stdout)
        self.assertIsNotNone(found, done.stdout + done.stderr)
        self.assertLessEqual(float(found[1]) if found else 99.0, 3.0)

    def test_words_with_signs_reach_a_program_of_systemd_as_they_are(self) -> None:
        self.assertEqual(
            units.systemd_line(["/a b", "50%", "$x", 'say "hi"', ""]), '"/a b" 50%% $$x "say \\"hi\\"" ""'
        )

    def test_a_shell_accepts_the_scripts_of_openrc(self) -> None:
        for name, file in self.written(units.openrc(PLACES, "rccmd")).items():
            done = subprocess.run(["sh", "-n", str(file)], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""), name)
            self.assertTrue(file.read_text().startswith("#!/sbin/openrc-run\n"))

    def test_the_scripts_of_openrc_name_the_command_line_that_is_meant(self) -> None:
        files = self.written(units.openrc(units.Places("/usr/bin/python3", str(self.folder / "it's here")), "rccmd"))
        show = '. "$1"; eval "set -- $command_args"; for word; do echo "$word"; done'
        done = subprocess.run(["sh", "-c", show, "sh", str(files["rccmd"])], capture_output=True, text=True)
        self.assertEqual(done.stdout.splitlines()[-1], f"{self.folder}/it's here/etc/rccmd/rccmd.ini", done.stderr)

    def test_the_lists_of_launchd_are_whole(self) -> None:
        files = self.written(units.launchd(PLACES, "daemon"))
        for name, file in files.items():
            what = plistlib.loads(file.read_bytes())
            self.assertEqual(f"{what['Label']}.plist", name)
            self.assertEqual((what["RunAtLoad"], what["KeepAlive"]), (True, True))
            self.assertEqual(what["ProgramArguments"][:4], PLACES.line())
        self.assertEqual(plistlib.loads(files[f"{units.LABEL}.plist"].read_bytes())["UserName"], "daemon")
        self.assertNotIn("UserName", plistlib.loads(files[f"{units.LABEL}-root.plist"].read_bytes()))

    def test_the_task_of_windows_runs_on_batteries_and_without_an_end(self) -> None:
        places = units.Places("C:\\Program Files\\Python\\it's\\python.exe", windows=True)
        start = next(t for p, t in units.windows(places, 6004).items() if p.endswith("start.ps1"))
        for words in (
            "-AllowStartIfOnBatteries -DontStopIfGoingOnBatteries",
            "-ExecutionTimeLimit ([TimeSpan]::Zero)",
            "-Execute 'C:\\Program Files\\Python\\it''s\\python.exe'",
            "'-I -S \"C:\\Program Files\\rccmd\\rccmd.pyz\" listen --config C:\\ProgramData\\rccmd\\rccmd.ini'",
            "-LocalPort 6004",
        ):
            self.assertIn(words, start)


class Seen(Hand):
    """Does nothing, and remembers what it should have done."""

    def __init__(self) -> None:
        super().__init__(lambda line: None)
        self.done: list[str] = []

    def folder(self, path: str, mode: int, owner: Owner) -> None:
        self.done.append(f"folder {path}")

    def write(self, path: str, data: bytes, mode: int, owner: Owner) -> bool:
        self.done.append(f"write {path}")
        return True

    def remove(self, path: str) -> None:
        self.done.append(f"remove {path}")

    def run(self, argv: Sequence[str], needed: bool = True) -> bool:
        self.done.append(" ".join(argv))
        return True


class HandTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.said: list[str] = []

    def test_whatever_fails_everything_can_be_put_back(self) -> None:
        (self.folder / "a").write_text("old")
        (self.folder / "a").chmod(0o640)
        (self.folder / "b").write_text("stays")
        (self.folder / "state").mkdir(mode=0o700)
        hand = Hand(self.said.append, owners=False)
        hand.folder(f"{self.folder}/new/deep", 0o750, Owner())
        hand.folder(f"{self.folder}/state", 0o755, Owner())
        hand.write(f"{self.folder}/new/deep/c", b"1", 0o600, Owner())
        hand.write(f"{self.folder}/a", b"2", 0o600, Owner())
        hand.write(f"{self.folder}/a", b"3", 0o600, Owner())
        hand.remove(f"{self.folder}/b")
        with self.assertRaisesRegex(Failed, "cannot write .*/nowhere/d"):
            hand.write(f"{self.folder}/nowhere/d", b"4", 0o600, Owner())
        self.assertEqual(hand.undo(), [])
        self.assertEqual((self.folder / "a").read_text(), "old")
        self.assertEqual((self.folder / "a").stat().st_mode & 0o777, 0o640)
        self.assertEqual((self.folder / "b").read_text(), "stays")
        self.assertEqual((self.folder / "state").stat().st_mode & 0o777, 0o700)  # or the old listener may not write
        self.assertFalse((self.folder / "new").exists())

    def test_a_link_in_the_folder_of_the_listener_leads_root_nowhere(self) -> None:
        (self.folder / "state").mkdir()
        (self.folder / "shadow").write_text("secret")
        (self.folder / "state/.rccmd-trial").symlink_to(self.folder / "shadow")
        probe_folder(f"{self.folder}/state", 10)
        self.assertEqual((self.folder / "shadow").read_text(), "secret")
        self.assertEqual(os.listdir(self.folder / "state"), [])

    def test_a_program_that_fails_is_named_with_what_it_said(self) -> None:
        hand = Hand(self.said.append, run=lambda argv: (5, "Unit rccmd.service\nnot found"))
        with self.assertRaisesRegex(Failed, "systemctl restart x failed: Unit rccmd.service not found"):
            hand.run(["systemctl", "restart", "x"])
        self.assertFalse(hand.run(["systemctl", "restart", "x"], needed=False))

    def test_services_are_started_and_forgotten_with_the_words_of_their_managers(self) -> None:
        for kind, started, stopped in (
            ("systemd", "systemctl restart rccmd.service", "systemctl disable rccmd-root.socket"),
            ("openrc", "rc-service rccmd restart", "rc-update del rccmd default"),
            (
                "launchd",
                f"launchctl bootstrap system /Library/LaunchDaemons/{units.LABEL}.plist",
                "launchctl bootout",
            ),
            ("windows", "powershell.exe", "stop.ps1"),
        ):
            ran: list[str] = []
            hand = Hand(self.said.append, run=lambda argv, ran=ran: (ran.append(" ".join(argv)) or 0, ""))  # type: ignore[misc]
            service = services.Service(kind, PLACES, hand, lambda s: None)
            service.start()
            self.assertTrue(any(line.startswith(started) for line in ran), ran)
            ran.clear()
            service.stop()
            self.assertTrue(any(stopped in line for line in ran), ran)

    def test_the_folder_of_the_key_is_private_on_windows_before_the_key_is_in_it(self) -> None:
        hand = Seen()
        service = services.Service("windows", units.Places("C:\\py.exe", windows=True), hand)
        given = trade.Enrolled("ups", "CERT", "KEY", "SENDER", 6003, "192.0.2.1")
        before, wish = plan.Before("", "", {}, "", False, {}), plan.Wish("windows")
        install._write(hand, service, before, wish, "x", b"", given, "ups", "192.0.2.1:443")
        folder = "C:\\ProgramData\\rccmd"
        private = next(n for n, line in enumerate(hand.done) if line.startswith(f"icacls {folder} /inheritance:r"))
        self.assertLess(hand.done.index(f"folder {folder}"), private)
        self.assertLess(private, hand.done.index(f"write {folder}\\key.pem"))
        self.assertLess(private, hand.done.index(f"write {folder}\\root.ini"))

    def test_the_way_of_a_listener_that_still_runs_is_not_cut_by_writing_files(self) -> None:
        hand = Seen()
        service = services.Service("systemd", PLACES, hand)
        given = trade.Enrolled("ups", "CERT", "KEY", "SENDER", 6003, "192.0.2.1")
        before, wish = plan.Before("", "", {}, "", False, {}), plan.Wish("systemd")
        with unittest.mock.patch.object(plan, "old_units", return_value=["/etc/systemd/system/rccmd-shutdown.path"]):
            install._write(hand, service, before, wish, "x", b"", given, "ups", "192.0.2.1:443")
            self.assertFalse([line for line in hand.done if "rccmd-shutdown.path" in line])
            install._drop_old_units(hand, PLACES)
        self.assertEqual(
            hand.done[-2:],
            [
                "systemctl disable --now rccmd-shutdown.path",
                "remove /etc/systemd/system/rccmd-shutdown.path",
            ],
        )

    def test_what_a_failed_installation_had_started_is_stopped_and_the_old_service_stays_enabled(self) -> None:
        places = units.Places("/usr/bin/python3", str(self.folder))
        folder = self.folder / "etc/systemd/system"
        folder.mkdir(parents=True)
        (folder / "rccmd.service").write_text("the old one")
        ran: list[str] = []
        hand = Hand(self.said.append, run=lambda argv: (ran.append(" ".join(argv)) or 0, ""), owners=False)  # type: ignore[func-returns-value]
        for unit in ("rccmd.service", "rccmd-root.socket"):
            hand.write(f"{folder}/{unit}", b"new", 0o644, Owner())
        before = plan.Before("[listen]\n", "", {}, "", False, {})
        options = argparse.Namespace(replace=False, adapter="192.0.2.1:443", name="db1")
        said = install._put_back(hand, services.Service("systemd", places, hand), before, options, "why", True)
        self.assertIn("everything was put back as it was.", said)
        self.assertEqual(os.listdir(folder), ["rccmd.service"])
        stopped = ["stop rccmd.service", "stop rccmd-root.socket", "disable rccmd-root.socket"]
        self.assertEqual(ran[:3], [f"systemctl {line}" for line in stopped])
        self.assertEqual(ran[-1], "systemctl restart rccmd.service")
        self.assertEqual(len([line for line in ran if "disable" in line]), 1)

    def test_a_listener_that_does_not_stop_keeps_no_file_from_being_put_back(self) -> None:
        places = units.Places("/usr/bin/python3", str(self.folder))
        hand = Hand(self.said.append, run=lambda argv: (0, ""), owners=False)
        (self.folder / "rccmd.ini").write_text("the old one")
        hand.write(f"{self.folder}/rccmd.ini", b"new", 0o644, Owner())
        service = services.Service("none", places, hand, lambda s: None)
        before = plan.Before("", "", {}, "", False, {})
        options = argparse.Namespace(replace=False, adapter="192.0.2.1:443", name="db1")
        with unittest.mock.patch.object(
            service, "_stop_alone", side_effect=Failed("the listener, pid 7, does not stop")
        ):
            said = install._put_back(hand, service, before, options, "why", True)
        self.assertIn("put back as it was, except: the listener, pid 7, does not stop", said)
        self.assertEqual((self.folder / "rccmd.ini").read_text(), "the old one")

    def put_back(self, kind: str, old: Sequence[str], new: Sequence[str]) -> list[str]:
        """What was run after an installation, which had put `new` beside or in the place of `old`, had failed."""
        places = units.Places("/usr/bin/python3", str(self.folder))
        ran: list[str] = []
        hand = Hand(self.said.append, run=lambda argv: (ran.append(" ".join(argv)) or 0, ""), owners=False)  # type: ignore[func-returns-value]
        for path in old:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text("the old one")
        for path in new:
            hand.folder(os.path.dirname(f"{self.folder}/{path}"), 0o755, Owner())
            hand.write(f"{self.folder}/{path}", b"new", 0o644, Owner())
        before = plan.Before("[listen]\n", "", {}, "", False, {})
        options = argparse.Namespace(replace=False, adapter="192.0.2.1:443", name="db1")
        said = install._put_back(
            hand, services.Service(kind, places, hand, lambda s: None), before, options, "why", True
        )
        self.assertIn("everything was put back as it was.", said)
        self.assertEqual(
            sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()), sorted(old)
        )
        return ran

    def test_openrc_stops_and_forgets_what_was_new_and_restarts_what_was_there(self) -> None:
        both = ("etc/init.d/rccmd", "etc/init.d/rccmd-root")
        self.assertEqual(
            self.put_back("openrc", both[:1], both),
            [
                *("rc-service rccmd stop", "rc-service rccmd-root stop", "rc-update del rccmd-root default"),
                "rc-service rccmd restart",
            ],
        )

    def test_launchd_unloads_what_was_new_and_loads_what_was_there(self) -> None:
        folder = "Library/LaunchDaemons"
        both = (f"{folder}/{units.LABEL}.plist", f"{folder}/{units.LABEL}-root.plist")
        ran = self.put_back("launchd", both[:1], both)
        self.assertEqual(ran[:2], [f"launchctl bootout system/{units.LABEL}{end}" for end in ("", "-root")])
        loaded = [line for line in ran if "bootstrap" in line]
        self.assertEqual(loaded, [f"launchctl bootstrap system {self.folder}/{both[0]}"])

    def test_windows_runs_no_script_that_was_not_there(self) -> None:
        hand = Seen()
        places = units.Places("C:\\py.exe", windows=True)
        services.Service("windows", places, hand).restart_old()
        self.assertEqual(hand.done, [])

    def test_launchd_is_given_time_to_unload(self) -> None:
        answers, ran, slept = [5, 5, 0], [], []  # 5: input/output error, while the old one is on its way out

        def run(argv: Sequence[str]) -> tuple[int, str]:
            if argv[1] != "bootstrap" or argv[-1].endswith("-root.plist"):
                return 0, ""
            ran.append(argv)
            return answers.pop(0), "Bootstrap failed: 5: Input/output error"

        hand = Hand(self.said.append, run=run)
        services.Service("launchd", PLACES, hand, slept.append).start()
        self.assertEqual((len(ran), slept), (3, [services.LOOK_EVERY_S] * 2))
        answers[:] = [5] * services.LOAD_TRIES
        with self.assertRaisesRegex(Failed, "Input/output error"):
            services.Service("launchd", PLACES, hand, slept.append).start()

    def test_a_first_installation_that_failed_leaves_nothing_of_its_listener(self) -> None:
        places = units.Places("/usr/bin/python3", str(self.folder))
        hand = Hand(self.said.append, owners=False)
        os.makedirs(f"{self.folder}/var/log")
        hand.folder(places.state, 0o750, Owner())
        hand.folder(places.folder, 0o755, Owner())
        hand.write(places.root_ini, b"", 0o644, Owner())
        for path in (places.log, f"{places.state}/lock", places.root_log):
            Path(path).write_text("x")
        self.assertEqual(services.Service("openrc", places, hand).clear_made() + hand.undo(), [])
        self.assertEqual([p for p in self.folder.rglob("*") if p.is_file()], [])
        # in a folder that was there before, everything stays
        Path(places.state).mkdir(parents=True)
        Path(places.log).write_text("x")
        hand.folder(places.state, 0o750, Owner())
        self.assertEqual(services.Service("openrc", places, hand).clear_made() + hand.undo(), [])
        self.assertTrue(os.path.exists(places.log))

    def test_a_service_that_does_not_stay_up_is_a_failure(self) -> None:
        places = units.Places("/usr/bin/python3", str(self.folder))
        slept: list[float] = []
        with self.assertRaisesRegex(Failed, "does not stay up; journalctl -u rccmd says why"):
            services.Service("systemd", places, Hand(self.said.append), slept.append).check()
        self.assertEqual(sum(slept), services.UP_S)
        os.makedirs(places.state)
        Path(places.log).write_text("old " * 1000 + "cannot listen on 0.0.0.0:6003\n")
        with self.assertRaisesRegex(Failed, "does not stay up: .*cannot listen on 0.0.0.0:6003$") as caught:
            services.Service("openrc", places, Hand(self.said.append), slept.append).check()
        self.assertLess(len(str(caught.exception)), 1000)
        os.rename(places.log, f"{self.folder}/shadow")
        os.symlink(f"{self.folder}/shadow", places.log)
        with self.assertRaisesRegex(Failed, "does not stay up: .*listener.log: Too many levels"):
            services.Service("openrc", places, Hand(self.said.append), slept.append).check()


if __name__ == "__main__":
    unittest.main()
