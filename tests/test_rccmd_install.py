"""`rccmd install` and `uninstall` against an adapter on loopback, beneath a folder of their own."""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.rccmd.trade import file_name  # noqa: E402
from tests.rccmd_kit import CODE, Case, fingerprint, made  # noqa: E402


class InstallTest(Case):
    def test_a_new_server_gets_program_key_sender_and_settings(self) -> None:
        code, said = self.install()
        self.assertEqual((code, self.adapter.heard), (0, [{"name": "db1", "code": CODE}]), said)
        self.assertEqual(
            sorted(self.files()),
            [
                "etc/rccmd/key.pem",
                "etc/rccmd/rccmd.ini",
                "etc/rccmd/root.ini",
                "etc/rccmd/senders/ups-a.pem",
                "opt/rccmd/rccmd.pyz",
            ],
        )
        self.assertTrue(self.text("etc/rccmd/senders/ups-a.pem").endswith(self.adapter.sender_pem))
        self.assertEqual((self.root / "opt/rccmd/rccmd.pyz").read_bytes(), self.program.read_bytes())
        self.assertEqual(os.stat(self.root / "etc/rccmd/key.pem").st_mode & 0o777, 0o640)
        ini = self.text("etc/rccmd/rccmd.ini")
        self.assertIn(f"tls = {self.root}/etc/rccmd/key.pem\n", ini)
        self.assertIn("require_tls = yes\n", ini)
        self.assertNotIn("allow", ini)

    def test_a_wrong_fingerprint_ends_it_before_a_byte_is_sent(self) -> None:
        code, said = self.install("--fingerprint", "ab" * 32)
        self.assertEqual((code, self.adapter.heard, self.files()), (1, [], {}), said)
        self.assertEqual(self.adapter.connections, 1)
        self.assertIn("shows another certificate", said)
        self.assertIn(fingerprint(self.adapter.web_pem), said)

    def test_a_refused_code_changes_nothing_and_names_the_remedy(self) -> None:
        code, said = self.install(code="WRONG-WRONG-WRONG-WRONG")
        self.assertEqual((code, self.files()), (1, {}))
        self.assertIn("ridethrough enroll db1", said)
        self.assertIn('The adapter says: "not accepted"', said)

    def test_answers_that_make_no_sense_change_nothing(self) -> None:
        key, _ = made(self.folder, "other")
        for changes, words in (
            ({"name": "db2"}, "for another name"),
            ({"key_pem": key}, "cannot be used"),  # not the certificate's key
            ({"sender_pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "cannot be used"),
            ({"sender_pem": key}, "sender_pem is not one PEM block"),
            ({"port": 0}, "port 0"),
            ({"adapter": None}, "no adapter name"),
            ({"key_pem": ""}, "no key_pem"),
        ):
            with self.subTest(words=words):
                self.adapter.codes, self.adapter.changes = {CODE}, changes
                code, said = self.install()
                self.assertEqual((code, self.files()), (1, {}), said)
                self.assertIn(words, said)
                self.assertIn("ridethrough enroll", said)
                self.assertNotIn("Traceback", said)
        self.adapter.changes = {}
        for status, words in (
            (429, "Wait a minute"),
            (503, "at this moment"),
            (500, "HTTP status 500"),
            (302, "HTTP status 302"),
        ):
            with self.subTest(status=status):
                self.adapter.codes, self.adapter.instead = {CODE}, (status, {"error": "\x1b[31mno\x07"})
                code, said = self.install()
                self.assertEqual((code, self.files()), (1, {}), said)
                self.assertIn(words, said)
                self.assertNotIn("\x1b", said)

    def test_nobody_there_is_said_with_the_address(self) -> None:
        self.adapter.close()
        code, said = self.install()
        self.assertEqual((code, self.files()), (1, {}))
        self.assertIn(f"cannot reach the adapter at 127.0.0.1:{self.adapter.port}: Connection refused", said)

    def test_a_name_of_an_adapter_never_leaves_the_folder_of_senders(self) -> None:
        self.adapter.changes = {"adapter": "../../ev il\n"}
        code, said = self.install()
        self.assertEqual(code, 0, said)
        self.assertTrue((self.root / "etc/rccmd/senders/ev-il.pem").is_file())
        self.assertEqual(file_name("192.0.2.10"), "adapter-192.0.2.10")
        self.assertEqual(file_name("\u00dc_..".strip()), "adapter")

    def test_enrolling_again_changes_the_key_and_keeps_the_settings(self) -> None:
        self.install()
        ini = self.root / "etc/rccmd/rccmd.ini"
        ini.write_text(ini.read_text() + "# ten seconds for the night shift\ngrace_s = 10\n")
        before = self.files()
        self.adapter.codes = {CODE}
        code, said = self.install()
        after = self.files()
        self.assertEqual(code, 0, said)
        self.assertEqual([f for f in after if after[f] != before.get(f)], ["etc/rccmd/key.pem"])
        self.assertEqual(set(before), set(after))

    def test_a_classic_installation_becomes_a_secure_one_and_keeps_its_words(self) -> None:
        old = (
            "# who may: the adapter in the cellar\n[listen]\nallow = 192.0.2.10\nudp = yes\ngrace_s = 5   \n"
            'on_shutdown = /bin/echo "good night"\nstate = /var/lib/rccmd/asked\n\n'
            "; the lamp\n[execute]\nlamp = /bin/true on\n"
        )
        units = self.root / "etc/systemd/system"
        units.mkdir(parents=True)
        (self.root / "etc/rccmd.ini").write_text(old)
        by_hand = units / "rccmd-shutdown.path"
        by_hand.write_text("[Unit]\nDescription=Waits for the RCCMD listener's word\n")
        (units / "rccmd-shutdown.service").write_text("[Unit]\nDescription=My own\n")
        code, said = self.run_it(*self.words(), "--service", "systemd")
        self.assertEqual(code, 0, said)
        ini = self.text("etc/rccmd/rccmd.ini")
        for line in ("# who may: the adapter in the cellar", "; the lamp", "lamp = /bin/true on", "grace_s = 5   "):
            self.assertIn(line + "\n", ini)
        self.assertIn("allow = 192.0.2.10, 127.0.0.1\n", ini)  # both must fit: the adapter's address is added
        self.assertIn('# on_shutdown = /bin/echo "good night"\n', ini)
        self.assertIn("# state = /var/lib/rccmd/asked\n", ini)
        self.assertIn("udp = no\n", ini)
        self.assertIn("require_tls = yes\n", ini)
        self.assertIn("shutdown = /bin/echo 'good night'\n", self.text("etc/rccmd/root.ini"))
        self.assertEqual(self.text("etc/rccmd.ini"), old)
        self.assertFalse(by_hand.exists())  # the documentation had it; what else there is stays
        self.assertTrue((units / "rccmd-shutdown.service").exists())
        self.assertIn("run without privileges now, try them: [execute] lamp", said)

    def test_settings_that_are_wrong_already_stop_it_before_the_code_is_used(self) -> None:
        (self.root / "etc").mkdir()
        for text, words in (("[listen]\ngrace = 5\n", "unknown key 'grace'"), ("allow = 1\n", "no section headers")):
            (self.root / "etc/rccmd.ini").write_text(text)
            code, said = self.install()
            self.assertEqual((code, self.adapter.heard, list(self.files())), (1, [], ["etc/rccmd.ini"]), said)
            self.assertIn(words, said)

    def test_a_second_adapter_shares_the_key_and_leaves_need_as_it_is(self) -> None:
        self.install()
        key = self.text("etc/rccmd/key.pem")
        other = self.new_adapter("ups-b")
        code, said = self.install(adapter=other)
        self.assertEqual(code, 0, said)
        self.assertEqual(other.heard[0]["cert_pem"], key[key.index("-----BEGIN CERT") :])
        self.assertEqual(self.text("etc/rccmd/key.pem"), key)
        self.assertEqual(sorted(os.listdir(self.root / "etc/rccmd/senders")), ["ups-a.pem", "ups-b.pem"])
        self.assertIn("ups-a, ups-b; need = 1 of them must ask", said)

    def test_an_adapter_that_cannot_share_the_key_is_not_added(self) -> None:
        self.install()
        before = self.files()
        other = self.new_adapter("ups-b")
        other.changes = dict(zip(("key_pem", "cert_pem"), made(self.folder, "db1b")))
        code, said = self.install(adapter=other)
        self.assertEqual((code, self.files()), (1, before), said)
        self.assertIn("--replace", said)

    def test_two_adapters_of_one_name_are_told_apart(self) -> None:
        self.install()
        other = self.new_adapter("twin")
        other.name = "ups-a"
        code, said = self.install(adapter=other)
        self.assertEqual(code, 0, said)
        self.assertEqual(
            sorted(os.listdir(self.root / "etc/rccmd/senders")),
            [f"ups-a-{fingerprint(other.sender_pem)[:8]}.pem", "ups-a.pem"],
        )
        self.assertTrue(self.text("etc/rccmd/senders/ups-a.pem").endswith(self.adapter.sender_pem))

    def test_a_renamed_adapter_with_the_same_key_stays_one_sender(self) -> None:
        self.install()
        self.adapter.codes, self.adapter.name = {CODE}, "ups-cellar"
        code, said = self.install()
        self.assertEqual((code, os.listdir(self.root / "etc/rccmd/senders")), (0, ["ups-a.pem"]), said)

    def test_the_same_adapter_installed_anew_takes_its_old_place(self) -> None:
        self.install()
        self.adapter.codes = {CODE}
        _, self.adapter.sender_pem = made(self.folder, "anew")
        code, said = self.install()
        self.assertEqual((code, os.listdir(self.root / "etc/rccmd/senders")), (0, ["ups-a.pem"]), said)
        self.assertTrue(self.text("etc/rccmd/senders/ups-a.pem").endswith(self.adapter.sender_pem))

    def test_moving_to_another_adapter_removes_the_others_and_takes_a_new_key(self) -> None:
        self.install()
        key = self.text("etc/rccmd/key.pem")
        other = self.new_adapter("ups-b")
        code, said = self.install("--replace", adapter=other)
        self.assertEqual(code, 0, said)
        self.assertEqual(os.listdir(self.root / "etc/rccmd/senders"), ["ups-b.pem"])
        self.assertNotEqual(self.text("etc/rccmd/key.pem"), key)
        self.assertNotIn("cert_pem", other.heard[0])

    def test_replace_is_refused_where_one_adapter_could_not_shut_down_alone(self) -> None:
        self.install()
        ini = self.root / "etc/rccmd/rccmd.ini"
        ini.write_text(ini.read_text() + "need = 2\n")
        before, other = self.files(), self.new_adapter("ups-b")
        code, said = self.install("--replace", adapter=other)
        self.assertEqual((code, self.files(), other.heard), (1, before, []), said)
        self.assertIn("set need = 1 first", said)

    def test_a_classic_server_that_several_must_ask_is_not_left_with_one_voice(self) -> None:
        ini = self.root / "etc/rccmd.ini"
        ini.parent.mkdir(parents=True, exist_ok=True)
        for need, require, code in (("2", "", 1), ("2", "require_tls = no\n", 0)):
            ini.write_text(
                f"[listen]\nallow = 192.0.2.10, 192.0.2.11\nneed = {need}\n{require}on_shutdown = /bin/true\n"
            )
            before = self.files()
            done, said = self.run_it(*self.words(), "--service", "systemd")
            self.assertEqual(done, code, said)
            if code:
                self.assertEqual((self.files(), self.adapter.heard), (before, []), "the code is still good")
                self.assertIn("set need = 1 first, enrol every adapter, then set need = 2 again", said)

    def test_who_is_heard_no_more_is_said(self) -> None:
        (self.root / "etc").mkdir(parents=True, exist_ok=True)
        text = "[listen]\nallow = 192.0.2.10, 192.0.2.11\non_message = none\non_shutdown = /bin/true\n"
        (self.root / "etc/rccmd.ini").write_text(text)
        code, said = self.run_it(*self.words(), "--service", "systemd")
        self.assertEqual(code, 0, said)
        self.assertIn("enrol every other adapter of allow = 192.0.2.10, 192.0.2.11 too", said)
        self.assertNotIn("run without privileges now", said)

    def test_a_dry_run_says_everything_and_does_nothing(self) -> None:
        code, said = self.install("--dry-run")
        self.assertEqual((code, self.files(), self.adapter.connections), (0, {}, 0), said)
        for words in ("trade the code", "etc/rccmd/key.pem (0640", "opt/rccmd/rccmd.pyz", "etc/rccmd/rccmd.ini"):
            self.assertIn(words, said)

    def test_uninstall_leaves_nothing_and_says_what_it_left(self) -> None:
        self.install("--service", "systemd")
        self.assertTrue((self.root / "etc/systemd/system/rccmd-root@.service").is_file())
        (self.root / "var/lib/rccmd/status.json").write_text("{}")
        dry = self.run_it("uninstall", "--service", "systemd", "--root", str(self.root), "--dry-run")
        self.assertIn("would remove", dry[1])
        self.assertEqual(len(self.files()), 9, self.files())
        code, said = self.run_it("uninstall", "--service", "systemd", "--root", str(self.root))
        self.assertEqual((code, self.files()), (0, {}), said)
        self.assertIn("left: this server in the configuration of ups-a", said)
        self.assertIn("left: the programs that it ran: /bin/true", said)
        self.assertEqual(list(self.root.rglob("*rccmd*")), [])

    def test_an_installer_that_was_killed_leaves_nothing_in_the_way(self) -> None:
        folder = self.root / "etc/rccmd"
        (folder / "senders").mkdir(parents=True)
        for name in ("key.pem.new", "rccmd.ini.new"):
            (folder / name).write_text("half")
        code, said = self.install()
        self.assertEqual(
            (code, sorted(os.listdir(folder))), (0, ["key.pem", "rccmd.ini", "root.ini", "senders"]), said
        )
        (folder / "key.pem.new").write_text("half")
        code, said = self.run_it("uninstall", "--service", "none", "--root", str(self.root))
        self.assertEqual((code, self.files()), (0, {}), said)

    def test_uninstall_leaves_files_of_others_and_names_them(self) -> None:
        self.install()
        (self.root / "etc/rccmd/notes.txt").write_text("mine")
        code, said = self.run_it("uninstall", "--service", "none", "--root", str(self.root))
        self.assertEqual((code, list(self.files())), (0, ["etc/rccmd/notes.txt"]), said)
        self.assertIn("holds notes.txt", said)

    def test_wrong_words_are_named(self) -> None:
        for more, words in (
            (("--port", "80"), "1024 to 65535"),
            (("--fingerprint", "abc"), "not a SHA-256"),
            (("--adapter", "a b"), "not HOST:PORT"),
            (("--code", "a b"), "not a one-time code"),
            (("--name", " x"), "not a server's name"),
        ):
            code, said = self.install(*more)
            self.assertEqual((code, self.adapter.connections), (2, 0), said)
            self.assertIn(words, said)
        code, said = self.install("--on-shutdown", "/no/such/program")
        self.assertEqual((code, self.adapter.heard), (1, []), said)
        self.assertIn("not there or not executable", said)


if __name__ == "__main__":
    unittest.main()
