"""A server on two power feeds: it goes down only when enough adapters have asked."""

from __future__ import annotations

import tempfile
import time
import unittest
from pathlib import Path

from agent.rccmd.settings import SettingsError, load
from tests.test_rccmd_orders import SHUTDOWN, WAKEUP, A, B, Case


class TwoAdapters(Case):
    """One on each power feed; the server goes down only when both say so."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "asked"

    def test_f35_one_of_two_is_not_enough_and_both_are(self) -> None:
        orders = self.orders(need=2)
        for _ in range(5):
            self.assertTrue(orders.take(SHUTDOWN, A, 10.0))
        self.assertEqual(self.started(), 0)
        self.assertTrue(orders.take(SHUTDOWN, B, 20.0))
        self.assertEqual(self.started(), 1)
        self.assertEqual(self.starts.calls[0][1]["RCCMD_SENDER"], f"{A},{B}")

    def test_f35_the_word_of_one_is_withdrawn_by_its_wakeup_and_by_time(self) -> None:
        orders = self.orders(need=2, vote_s=600.0)
        orders.take(SHUTDOWN, A, 10.0)
        orders.take(WAKEUP, A, 20.0)
        orders.take(SHUTDOWN, B, 30.0)
        self.assertEqual(self.started(), 0)
        orders.take(SHUTDOWN, A, 30.0 + 600.0)
        self.assertEqual(self.started(), 0)
        orders.take(SHUTDOWN, B, 30.0 + 601.0)
        self.assertEqual(self.started(), 1)

    def test_a_command_that_runs_is_not_withdrawn_and_a_repeat_is_a_duplicate(self) -> None:
        orders = self.orders(need=2)
        for sender in (A, B):
            orders.take(SHUTDOWN, sender, 10.0)
        orders.take(WAKEUP, A, 11.0)
        orders.take(SHUTDOWN, B, 12.0)
        self.assertEqual(self.started(), 1)

    def test_in_the_grace_delay_one_of_two_withdraws_and_the_word_of_the_other_counts_on(self) -> None:
        orders = self.orders(need=2, grace_s=30.0)
        for sender in (A, B):
            orders.take(SHUTDOWN, sender, 10.0)
        orders.take(WAKEUP, A, 20.0)
        orders.tick(100.0)
        self.assertEqual(self.started(), 0, "one of two is not enough")
        orders.take(SHUTDOWN, A, 110.0)
        orders.tick(140.0)
        self.assertEqual(self.started(), 1, "B has never taken it back")

    def test_of_three_that_ask_one_may_withdraw_in_the_grace_delay(self) -> None:
        orders = self.orders(need=2, grace_s=30.0)
        for sender in (A, B, "192.0.2.12"):
            orders.take(SHUTDOWN, sender, 10.0)
        orders.take(WAKEUP, A, 20.0)
        orders.tick(41.0)
        self.assertEqual(self.started(), 1)

    def test_a_command_that_did_not_start_is_run_by_the_next_repeat_of_one_of_them(self) -> None:
        orders = self.orders(need=2)
        self.starts.missing = True
        orders.take(SHUTDOWN, A, 10.0)
        self.assertFalse(orders.take(SHUTDOWN, B, 11.0), "refused: the sender tries again")
        self.starts.missing = False
        self.assertTrue(orders.take(SHUTDOWN, B, 12.0))
        self.assertEqual(self.started(), 1)

    def test_a_command_that_failed_is_run_by_the_next_repeat_of_one_of_them(self) -> None:
        orders = self.orders(need=2)
        for sender in (A, B):
            orders.take(SHUTDOWN, sender, 10.0)
        self.starts.jobs[0].code = 1
        orders.tick(11.0)
        orders.take(SHUTDOWN, A, 12.0)
        self.assertEqual(self.started(), 2)

    def test_after_a_restart_the_word_of_one_counts_on_and_is_as_old_as_it_is(self) -> None:
        self.orders(need=2, state=str(self.path)).take(SHUTDOWN, A, 5000.0)
        again = self.orders(need=2, state=str(self.path))
        again.take(SHUTDOWN, B, 3.0)
        self.assertEqual(self.started(), 1)
        self.assertEqual(self.path.read_text(), "", "they have had what they asked for")
        self.path.write_text(f"{A} {time.time() - 3601:.0f}\n")
        self.orders(need=2, state=str(self.path)).take(SHUTDOWN, B, 3.0)
        self.assertEqual(self.started(), 0, "an hour ago")

    def test_what_was_withdrawn_stays_so_after_a_restart(self) -> None:
        before = self.orders(need=2, state=str(self.path))
        before.take(SHUTDOWN, A, 5000.0)
        before.take(WAKEUP, A, 5001.0)
        self.orders(need=2, state=str(self.path)).take(SHUTDOWN, B, 3.0)
        self.assertEqual(self.started(), 0)

    def test_a_torn_or_foreign_file_counts_for_nothing_and_stops_nothing(self) -> None:
        now = f"{time.time():.0f}"
        for text in ("", "x", f"{A}", f"{A} x\n", f"198.51.100.1 {now}\n", "\xff\x00" * 100, f"{A} {now} 1\n" * 1000):
            self.path.write_text(text)
            orders = self.orders(need=2, state=str(self.path))
            orders.take(SHUTDOWN, B, 3.0)
            self.assertEqual(self.started(), 0, text[:40])
            orders.take(SHUTDOWN, A, 4.0)
            self.assertEqual(self.started(), 1, text[:40])

    def test_a_disk_that_takes_nothing_is_said_and_the_shutdown_runs(self) -> None:
        orders = self.orders(need=2, state="/no/such/folder/asked")
        orders.take(SHUTDOWN, A, 3.0)
        self.assertIn("a restart would forget it: /no/such/folder/asked", self.text())
        orders.take(SHUTDOWN, B, 3.0)
        self.assertEqual(self.started(), 1)

    def test_a_thousand_senders_do_not_fill_the_memory_or_the_file(self) -> None:
        orders = self.orders(need=400, state=str(self.path))
        for number in range(300):
            orders.take(SHUTDOWN, f"192.0.2.{number % 256}" if number < 256 else f"198.51.100.{number % 256}", 3.0)
        self.assertEqual(len(self.path.read_text().splitlines()), 256)


class Needs(unittest.TestCase):
    def test_more_senders_than_the_list_allows_are_refused(self) -> None:
        for allow, need, good in ((A, "2", False), (f"{A},{B}", "2", True), ("192.0.2.0/30", "4", True)):
            if good:
                self.assertEqual(load({"allow": allow, "on_shutdown": "true", "need": need}).need, int(need))
            else:
                with self.assertRaisesRegex(SettingsError, "--need = 2: the list allows fewer"):
                    load({"allow": allow, "on_shutdown": "true", "need": need})

    def test_the_time_that_a_word_counts_is_bounded(self) -> None:
        good = {"allow": f"{A},{B}", "on_shutdown": "true", "need": "2"}
        self.assertEqual(load({**good, "vote_s": "600"}).vote_s, 600.0)
        for text in ("0", "59", "86401", "nan", "x"):
            with self.assertRaisesRegex(SettingsError, "--vote"):
                load({**good, "vote_s": text})

    def test_a_wrong_number_of_senders_is_named(self) -> None:
        for text in ("0", "-1", "two", "17"):
            with self.assertRaisesRegex(SettingsError, "--need"):
                load({"allow": A, "on_shutdown": "true", "need": text})


if __name__ == "__main__":
    unittest.main()
