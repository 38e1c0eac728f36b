"""The listener's settings: what is wrong is named with its place and the remedy, before anything opens."""

from __future__ import annotations

import ipaddress
import sys
import tempfile
import unittest
from pathlib import Path

from agent.rccmd.settings import SettingsError, address_of, load

GOOD = {"allow": "192.0.2.10", "on_shutdown": "true"}


class Options(unittest.TestCase):
    def refused(self, **options: str) -> str:
        with self.assertRaises(SettingsError) as caught:
            load({**GOOD, **options})
        return str(caught.exception)

    def test_an_empty_list_is_refused_with_the_remedy(self) -> None:
        for text in ("", " , "):
            self.assertIn("--allow", self.refused(allow=text))
        with self.assertRaisesRegex(SettingsError, "Nobody is allowed yet"):
            load({"on_shutdown": "true"})

    def test_addresses_and_networks_of_both_families_are_taken(self) -> None:
        settings = load({**GOOD, "allow": "192.0.2.10, 198.51.100.0/28,2001:db8::7,fd00::/8,::ffff:203.0.113.5"})
        for host, allowed in (
            ("192.0.2.10", True),
            ("192.0.2.11", False),
            ("::ffff:192.0.2.10", True),
            ("198.51.100.15", True),
            ("198.51.100.16", False),
            ("2001:db8::7", True),
            ("2001:db8::8", False),
            ("fd12::1%eth0", True),
            ("203.0.113.5", True),
            ("::1", False),
        ):
            self.assertEqual(settings.allows(address_of(host)), allowed, host)

    def test_a_name_or_a_network_with_host_bits_is_refused(self) -> None:
        for text in ("ups.example", "192.0.2.10/24", "192.0.2", "192.0.2.256"):
            self.assertIn(repr(text), self.refused(allow=text))

    def test_a_v4_address_in_v6_is_a_v4_address(self) -> None:
        self.assertEqual(address_of("::ffff:192.0.2.1"), ipaddress.ip_address("192.0.2.1"))

    def test_the_zone_of_a_link_local_address_does_not_matter(self) -> None:
        self.assertEqual(address_of("fe80::1%eth0"), ipaddress.ip_address("fe80::1"))

    def test_where_to_listen_is_host_and_port(self) -> None:
        self.assertEqual((load(GOOD).host, load(GOOD).port), ("0.0.0.0", 6003))
        for text, expected in (("127.0.0.1:7000", ("127.0.0.1", 7000)), ("[::]:6003", ("::", 6003))):
            settings = load({**GOOD, "bind": text})
            self.assertEqual((settings.host, settings.port), expected)
        for text in (
            "6003",
            ":6003",
            "127.0.0.1",
            "127.0.0.1:x",
            "127.0.0.1:70000",
            "::1:6003",
            "[]:1",
            "h:-1",
            "h:²",
        ):
            self.assertIn("--bind", self.refused(bind=text), text)

    def test_the_grace_delay_is_a_bounded_number(self) -> None:
        self.assertEqual(load({**GOOD, "grace_s": "12.5"}).grace_s, 12.5)
        for text in ("x", "-1", "nan", "inf", "3601", ""):
            self.assertIn("--grace", self.refused(grace_s=text), text)

    def test_a_command_must_be_there_and_executable(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "halt it"
            self.assertIn("not there or not executable", self.refused(on_shutdown=f"'{script}' now"))
            script.write_text("#!/bin/sh\n")
            script.chmod(0o644)
            self.assertIn("--on-shutdown", self.refused(on_shutdown=f"'{script}' now"))
            script.chmod(0o755)
            self.assertEqual(load({**GOOD, "on_shutdown": f"'{script}' now"}).on_shutdown, (str(script), "now"))
        for text in ("", "'open", folder):
            self.assertIn("--on-shutdown", self.refused(on_shutdown=text))

    def test_a_listener_without_any_command_is_refused(self) -> None:
        with self.assertRaisesRegex(SettingsError, "nothing to do"):
            load({"allow": "192.0.2.1"})

    def test_all_mistakes_are_told_at_once(self) -> None:
        self.assertEqual(len(self.refused(allow="x", bind="y", grace_s="z").splitlines()), 3)


class File(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "rccmd.ini"

    def load(self, text: str, **options: str):
        self.path.write_text(text, encoding="utf-8")
        return load(options, str(self.path))

    def refused(self, text: str) -> str:
        with self.assertRaises(SettingsError) as caught:
            self.load(text)
        return str(caught.exception)

    def test_the_file_can_say_everything(self) -> None:
        settings = self.load(
            "[listen]\nbind = [::1]:7003\nallow = 192.0.2.10, fd00::/8\nudp = yes\ngrace_s = 20\nlog = /x/y.log\n"
            f"on_shutdown = {sys.executable} -c 'a b' 100%\non_message = true\non_wakeup = true 1\n"
            "[execute]\nHelloWorld.bat = true 1 2\n|AUX|1|1 = true\na:b = true\n"
        )
        self.assertEqual((settings.host, settings.port, settings.udp, settings.grace_s), ("::1", 7003, True, 20.0))
        self.assertEqual(settings.on_shutdown, (sys.executable, "-c", "a b", "100%"))
        self.assertEqual(settings.on_wakeup[1:], ("1",))
        self.assertEqual(settings.log, "/x/y.log")
        self.assertEqual(set(settings.execute), {"HelloWorld.bat", "|AUX|1|1", "a:b"})
        self.assertEqual(settings.execute["HelloWorld.bat"][1:], ("1", "2"))

    def test_an_option_wins_over_the_file(self) -> None:
        text = "[listen]\nallow = 192.0.2.10\non_shutdown = true\ngrace_s = 20\n"
        self.assertEqual(self.load(text, grace_s="5").grace_s, 5.0)

    def test_an_unknown_key_is_named_with_file_and_nearest_name(self) -> None:
        text = self.refused("[listen]\nallow = 192.0.2.10\non-shutdwn = true\n")
        self.assertIn(f"{self.path}: [listen]: unknown key 'on-shutdwn'; did you mean 'on_shutdown'?", text)

    def test_an_unknown_section_is_named(self) -> None:
        self.assertIn("unknown section [exec]; did you mean 'execute'?", self.refused("[exec]\na = true\n"))
        self.assertIn("unknown section [DEFAULT]", self.refused("[DEFAULT]\nallow = 192.0.2.10\n"))

    def test_a_wrong_value_is_named_with_its_place(self) -> None:
        text = self.refused(
            "[listen]\nallow = 192.0.2.10\non_shutdown = true\nudp = maybe\n[execute]\nx = /no/such\n"
        )
        self.assertIn(f"{self.path}: [listen] udp: 'maybe'", text)
        self.assertIn(f"{self.path}: [execute] x: '/no/such' is not there", text)

    def test_a_file_that_cannot_be_read_is_named(self) -> None:
        for text in ("allow = 1\n", "[listen]\nallow = 1\nallow = 2\n", "[listen\n", "[listen]\nwhat\n"):
            self.assertIn(str(self.path), self.refused(text), text)
        self.assertIn("more than 65536 bytes", self.refused("#" * 70_000))
        self.path.write_bytes(b"[listen]\nallow = \xff\n")
        for path in (self.path, self.path.with_name("absent.ini")):
            with self.assertRaisesRegex(SettingsError, str(path)):
                load({}, str(path))


if __name__ == "__main__":
    unittest.main()
