"""What an accepted command does: once, after the grace delay, and again only when the rules say so."""

from __future__ import annotations

import re
import unittest
from collections.abc import Mapping, Sequence

from agent.rccmd.codec import Command
from agent.rccmd.journal import Journal
from agent.rccmd.orders import Orders
from agent.rccmd.repeats import REPEAT_S, SENDERS_LIMIT
from agent.rccmd.settings import Settings, load
from agent.rccmd.small import EXECUTES_LIMIT, MESSAGES_LIMIT
from tests.rccmd_lines import lines

A, B = "192.0.2.10", "192.0.2.11"
SHUTDOWN, WAKEUP = Command("SHUTDOWN"), Command("WAKEUP")


class FakeJob:
    """A program that runs until the test gives it an exit code."""

    pid = 4711

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


class Starts:
    """Records what is started; `missing` makes the start fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], dict[str, str], bytes | None]] = []
        self.jobs: list[FakeJob] = []
        self.missing = False

    def __call__(self, argv: Sequence[str], facts: Mapping[str, str], text: bytes | None) -> FakeJob:
        if self.missing:
            raise FileNotFoundError(2, "No such file or directory")
        self.calls.append((tuple(argv), dict(facts), text))
        self.jobs.append(FakeJob())
        return self.jobs[-1]


class Case(unittest.TestCase):
    def orders(self, **changes: object) -> Orders:
        values: dict = {
            "on_shutdown": ("/halt",),
            "on_message": ("/wall",),
            "execute": {"a": ("/a", "1"), "b": ("/b",)},
        }
        values.update(changes)
        self.starts = Starts()
        self.settings = Settings(allow=load({"allow": "192.0.2.0/24", "on_shutdown": "true"}).allow, **values)
        return Orders(self.settings, Journal(), self.starts)

    def setUp(self) -> None:
        self.logged = lines(self)
        self.started = lambda: len(self.starts.calls)

    def text(self) -> str:
        return "\n".join(self.logged)


class Repeats(Case):
    def test_a_repeat_while_it_runs_is_a_duplicate(self) -> None:
        orders = self.orders()
        for now_s in (0.0, 1.0, 2.0, 1000.0, 9000.0):
            self.assertTrue(orders.take(SHUTDOWN, A, now_s))
        self.assertEqual(self.started(), 1)
        self.assertIn(f"{A} SHUTDOWN: duplicate", self.text())

    def test_a_repeat_after_success_is_a_duplicate_until_300_s_of_quiet(self) -> None:
        orders = self.orders()
        orders.take(SHUTDOWN, A, 0.0)
        self.starts.jobs[0].code = 0
        now_s = 0.0
        for _ in range(5):
            now_s += REPEAT_S - 1
            self.assertTrue(orders.take(SHUTDOWN, A, now_s))
        self.assertEqual(self.started(), 1)
        self.assertTrue(orders.take(SHUTDOWN, A, now_s + REPEAT_S))
        self.assertEqual(self.started(), 2)

    def test_another_sender_is_not_a_repeat(self) -> None:
        orders = self.orders()
        orders.take(SHUTDOWN, A, 0.0)
        self.starts.jobs[0].code = 0
        orders.take(SHUTDOWN, B, 1.0)
        self.assertEqual(self.started(), 2)

    def test_another_sender_does_not_start_it_a_second_time_while_it_runs(self) -> None:
        orders = self.orders()
        orders.take(SHUTDOWN, A, 0.0)
        self.assertTrue(orders.take(SHUTDOWN, B, 1.0))
        self.assertEqual(self.started(), 1)

    def test_a_wakeup_makes_the_next_shutdown_a_new_one_for_that_sender_only(self) -> None:
        orders = self.orders()
        orders.take(SHUTDOWN, A, 0.0)
        self.starts.jobs[0].code = 0
        self.assertTrue(orders.take(WAKEUP, B, 1.0))
        orders.take(SHUTDOWN, A, 2.0)
        self.assertEqual(self.started(), 1)
        self.assertTrue(orders.take(WAKEUP, A, 3.0))
        orders.take(SHUTDOWN, A, 4.0)
        self.assertEqual(self.started(), 2)

    def test_a_failed_command_runs_again_at_the_next_repeat(self) -> None:
        orders = self.orders()
        orders.take(SHUTDOWN, A, 0.0)
        self.starts.jobs[0].code = 3
        self.assertTrue(orders.take(SHUTDOWN, A, 5.0))
        self.assertEqual(self.started(), 2)
        self.starts.jobs[1].code = -9
        orders.tick(6.0)
        self.assertIn("exit code 3; the next SHUTDOWN runs it again", self.text())
        self.assertIn("killed by signal 9", self.text())

    def test_a_command_that_does_not_start_is_refused_and_tried_again(self) -> None:
        orders = self.orders()
        self.starts.missing = True
        self.assertFalse(orders.take(SHUTDOWN, A, 0.0))
        self.assertIn("/halt did not start: No such file", self.text())
        self.starts.missing = False
        self.assertTrue(orders.take(SHUTDOWN, A, 5.0))
        self.assertEqual(self.started(), 1)

    def test_the_exit_code_is_noticed_and_logged_once(self) -> None:
        orders = self.orders()
        orders.take(SHUTDOWN, A, 0.0)
        self.assertIsNotNone(orders.due_s(0.0))
        self.starts.jobs[0].code = 0
        orders.tick(1.0)
        orders.tick(2.0)
        self.assertEqual(self.text().count("the command ended, exit code 0"), 1)
        self.assertIsNone(orders.due_s(2.0))

    def test_the_memory_of_senders_is_bounded(self) -> None:
        orders = self.orders()
        for n in range(SENDERS_LIMIT + 1):
            orders.take(SHUTDOWN, f"192.0.2.{n}", float(n) / 100)
            self.starts.jobs[-1].code = 0
        before = self.started()
        orders.take(SHUTDOWN, f"192.0.2.{SENDERS_LIMIT}", 3.0)
        self.assertEqual(self.started(), before)  # the newest is known
        orders.take(SHUTDOWN, "192.0.2.0", 3.0)
        self.assertEqual(self.started(), before + 1)  # the oldest is forgotten

    def test_without_a_command_a_shutdown_is_refused(self) -> None:
        orders = self.orders(on_shutdown=())
        self.assertFalse(orders.take(SHUTDOWN, A, 0.0))
        self.assertTrue(orders.take(WAKEUP, A, 1.0))


class Grace(Case):
    def test_the_command_starts_when_the_grace_delay_is_over(self) -> None:
        orders = self.orders(grace_s=30.0)
        self.assertTrue(orders.take(SHUTDOWN, A, 100.0))
        self.assertEqual(orders.due_s(100.0), 130.0)
        orders.tick(129.9)
        self.assertEqual(self.started(), 0)
        orders.tick(130.0)
        self.assertEqual(self.started(), 1)
        self.assertEqual(self.starts.calls[0][1], {"RCCMD_VERB": "SHUTDOWN", "RCCMD_SENDER": A})

    def test_a_repeat_does_not_prolong_the_grace_delay(self) -> None:
        orders = self.orders(grace_s=30.0)
        for now_s in range(100, 130, 3):
            orders.take(SHUTDOWN, A, float(now_s))
        orders.tick(130.0)
        self.assertEqual(self.started(), 1)

    def test_a_wakeup_cancels_the_grace_delay(self) -> None:
        orders = self.orders(grace_s=30.0)
        orders.take(SHUTDOWN, A, 100.0)
        self.assertTrue(orders.take(WAKEUP, A, 110.0))
        self.assertIsNone(orders.due_s(110.0))
        orders.tick(1000.0)
        self.assertEqual(self.started(), 0)
        orders.take(SHUTDOWN, A, 1001.0)
        orders.tick(1031.0)
        self.assertEqual(self.started(), 1)

    def test_a_wakeup_withdraws_only_its_own_senders_wish(self) -> None:
        orders = self.orders(grace_s=30.0)
        orders.take(SHUTDOWN, A, 100.0)
        orders.take(SHUTDOWN, B, 105.0)
        orders.take(WAKEUP, A, 110.0)
        orders.tick(130.0)
        self.assertEqual(self.started(), 1)
        self.assertEqual(self.starts.calls[0][1]["RCCMD_SENDER"], B)

    def test_a_sender_of_an_earlier_shutdown_does_not_keep_a_new_one_alive(self) -> None:
        orders = self.orders(grace_s=30.0)
        orders.take(SHUTDOWN, B, 0.0)
        orders.tick(30.0)
        self.starts.jobs[0].code = 0
        orders.take(SHUTDOWN, A, 100.0)
        orders.take(WAKEUP, A, 110.0)
        orders.tick(131.0)
        self.assertEqual(self.started(), 1)

    def test_a_command_that_does_not_start_after_the_delay_waits_anew_at_the_next_repeat(self) -> None:
        orders = self.orders(grace_s=30.0)
        orders.take(SHUTDOWN, A, 0.0)
        self.starts.missing = True
        orders.tick(30.0)
        self.starts.missing = False
        orders.take(SHUTDOWN, A, 40.0)
        orders.tick(70.0)
        self.assertEqual(self.started(), 1)

    def test_stopping_within_the_delay_says_what_is_dropped(self) -> None:
        orders = self.orders(grace_s=30.0)
        orders.take(SHUTDOWN, A, 0.0)
        orders.close()
        self.assertIn(f"{A} SHUTDOWN: dropped", self.text())


class Wakeup(Case):
    """What runs on a WAKEUP."""

    def orders(self, **changes: object) -> Orders:
        return super().orders(**{"on_wakeup": ("/resume",), **changes})

    def resumed(self) -> int:
        return [call[0] for call in self.starts.calls].count(("/resume",))

    def test_three_copies_run_its_command_once(self) -> None:
        orders = self.orders()
        for now_s in (0.0, 1.0, 2.0):
            self.assertTrue(orders.take(WAKEUP, A, now_s))
            for job in self.starts.jobs:
                job.code = 0
        self.assertEqual(self.starts.calls, [(("/resume",), {"RCCMD_VERB": "WAKEUP", "RCCMD_SENDER": A}, None)])

    def test_a_repeat_is_a_duplicate_until_300_s_of_quiet_or_the_next_shutdown_of_its_sender(self) -> None:
        orders = self.orders()
        orders.take(WAKEUP, A, 0.0)
        self.starts.jobs[0].code = 0
        orders.take(WAKEUP, A, REPEAT_S - 1)
        self.assertEqual(self.resumed(), 1)
        orders.take(WAKEUP, A, 2 * REPEAT_S - 1)
        self.assertEqual(self.resumed(), 2)
        self.starts.jobs[1].code = 0
        orders.take(SHUTDOWN, B, 2 * REPEAT_S)
        self.starts.jobs[2].code = 0
        orders.take(WAKEUP, A, 2 * REPEAT_S + 1)
        self.assertEqual(self.resumed(), 2)
        orders.take(SHUTDOWN, A, 2 * REPEAT_S + 2)
        self.starts.jobs[3].code = 0
        orders.take(WAKEUP, A, 2 * REPEAT_S + 3)
        self.assertEqual(self.resumed(), 3)

    def test_each_sender_has_its_own_but_never_two_at_a_time(self) -> None:
        orders = self.orders()
        orders.take(WAKEUP, A, 0.0)
        orders.take(WAKEUP, B, 1.0)
        self.assertEqual(self.resumed(), 1)
        self.assertIn(f"{B} WAKEUP: the command of an earlier one runs still", self.text())
        self.starts.jobs[0].code = 4
        orders.take(WAKEUP, B, 2.0)
        self.assertEqual([facts["RCCMD_SENDER"] for _, facts, _ in self.starts.calls], [A, B])
        self.assertIn("- WAKEUP: the command ended, exit code 4", self.text())
        self.assertIsNotNone(orders.due_s(2.0))

    def test_if_it_does_not_start_the_next_copy_tries_again_and_the_wakeup_counts_all_the_same(self) -> None:
        orders = self.orders(grace_s=30.0)
        orders.take(SHUTDOWN, A, 0.0)
        self.starts.missing = True
        self.assertTrue(orders.take(WAKEUP, A, 1.0))
        self.starts.missing = False
        orders.take(WAKEUP, A, 2.0)
        orders.tick(60.0)
        self.assertEqual([call[0] for call in self.starts.calls], [("/resume",)])

    def test_while_the_shutdown_command_runs_it_does_not(self) -> None:
        orders = self.orders()
        orders.take(SHUTDOWN, A, 0.0)
        orders.take(WAKEUP, A, 1.0)
        self.assertEqual(self.resumed(), 0)
        self.starts.jobs[0].code = 0
        orders.take(WAKEUP, A, 2.0)
        self.assertEqual(self.resumed(), 1)

    def test_without_one_nothing_runs(self) -> None:
        orders = self.orders(on_wakeup=())
        self.assertTrue(orders.take(WAKEUP, A, 0.0))
        self.assertEqual(self.started(), 0)


class OtherVerbs(Case):
    def test_a_message_reaches_its_program_on_stdin_without_control_characters(self) -> None:
        orders = self.orders()
        self.assertTrue(orders.take(Command("MSG_TEXT", "Netz\x1b[2J ausgefallen: \x9b45 °C"), A, 0.0))
        self.assertEqual(self.starts.calls[0][0], ("/wall",))
        self.assertEqual(self.starts.calls[0][2], "Netz[2J ausgefallen: 45 °C\n".encode())
        self.assertNotIn("\x1b", self.text())

    def test_a_message_that_mentions_a_shutdown_shuts_nothing_down(self) -> None:
        orders = self.orders(on_message=())
        self.assertTrue(orders.take(Command("MSG_TEXT", "please MSG_EXECUTE SHUTDOWN now"), A, 0.0))
        self.assertEqual(self.started(), 0)

    def test_message_programs_that_hang_do_not_pile_up(self) -> None:
        orders = self.orders()
        for _ in range(MESSAGES_LIMIT + 3):
            self.assertTrue(orders.take(Command("MSG_TEXT", "x"), A, 0.0))
        self.assertEqual(self.started(), MESSAGES_LIMIT)
        self.starts.jobs[0].code = 0
        orders.take(Command("MSG_TEXT", "x"), A, 1.0)
        self.assertEqual(self.started(), MESSAGES_LIMIT + 1)

    def test_execute_runs_only_what_the_table_names_and_takes_nothing_from_the_wire(self) -> None:
        orders = self.orders()
        self.assertTrue(orders.take(Command("EXECUTE", "a"), A, 0.0))
        for name in ("c", "a b", "/bin/sh", "a;b", "A", " a", "../a"):
            self.assertFalse(orders.take(Command("EXECUTE", name), A, 0.0), name)
        self.assertEqual([call[0] for call in self.starts.calls], [("/a", "1")])

    def test_execute_runs_again_once_the_first_has_ended(self) -> None:
        orders = self.orders()
        orders.take(Command("EXECUTE", "a"), A, 0.0)
        self.assertTrue(orders.take(Command("EXECUTE", "a"), A, 1.0))
        self.assertEqual(self.started(), 1)
        self.starts.jobs[0].code = 1
        orders.take(Command("EXECUTE", "a"), A, 2.0)
        self.assertEqual(self.started(), 2)
        self.assertIn("'a' ended, exit code 1", self.text())

    def test_execute_is_refused_when_too_many_run(self) -> None:
        names = {str(n): ("/x",) for n in range(EXECUTES_LIMIT + 1)}
        orders = self.orders(execute=names)
        accepted = [orders.take(Command("EXECUTE", name), A, 0.0) for name in names]
        self.assertEqual(accepted, [True] * EXECUTES_LIMIT + [False])

    def test_a_flood_of_messages_leaves_few_lines_and_says_how_many_are_missing(self) -> None:
        orders = self.orders(on_message=())
        for n in range(5000):
            orders.take(Command("MSG_TEXT", "flood"), A, 1000.0 + n / 1000)
        self.assertLess(len(self.logged), 150)
        orders.take(Command("MSG_TEXT", "later"), A, 2000.0)
        counts = [int(n) for n in re.findall(r"\((\d+) lines like this were left out before\)", self.text())]
        self.assertEqual(sum(counts) + self.text().count("'flood'"), 5000)
        self.assertIn("'later'", self.text())

    def test_a_flood_of_messages_does_not_hide_a_shutdown(self) -> None:
        orders = self.orders(on_message=())
        for _ in range(5000):
            orders.take(Command("MSG_TEXT", "flood"), A, 1000.0)
        orders.take(SHUTDOWN, A, 1000.0)
        self.assertIn(f"{A} SHUTDOWN: started /halt", self.text())


if __name__ == "__main__":
    unittest.main()
