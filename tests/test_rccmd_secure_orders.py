"""What a secure command does: run once and never again, counted by certificate, kept over a restart."""

from __future__ import annotations

import json
import tempfile
import unittest
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.rccmd.alive import Heard
from agent.rccmd.codec import Command
from agent.rccmd.journal import Journal
from agent.rccmd.orders import RETRIES_LIMIT, RETRY_S, Orders
from agent.rccmd.seen import FILE_LIMIT_BYTES, LIMIT, SENDERS_LIMIT, Seen
from agent.rccmd.selftest import EVERY_S, LIMIT_S
from agent.rccmd.settings import USERS, Settings
from agent.rccmd.small import EXECUTES_LIMIT
from agent.rccmd.status import Status, read
from agent.rccmd.waiting import LATE_S
from tests.rccmd_lines import lines

A, B, C = "east", "west", "north"
ID, OTHER = "00c0ffee00c0ffee", "0123456789abcdef"


class FakeJob:
    pid = 4711

    def __init__(self) -> None:
        self.code: int | None = None
        self.killed = False

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed = True


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.logged = lines(self)
        Journal().line("-", "-", "test begins")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "senders").mkdir()
        for name in (A, B, C):
            (self.folder / "senders" / f"{name}.pem").write_text("a certificate")
        self.calls: list[tuple[str, ...]] = []
        self.jobs: list[FakeJob] = []
        self.facts: list[Mapping[str, str]] = []
        self.seen_at_start: list[str] = []
        self.names = (A, B, C)
        self.missing = False
        self.shown: list[str] = []
        self.relayed: list[tuple[str, int]] = []
        self.wall_s = 1_800_000_000.0

    def start(self, argv: Sequence[str], facts: Mapping[str, str], text: bytes | None) -> FakeJob:
        if self.missing:
            raise FileNotFoundError(2, "No such file or directory")
        seen = self.folder / "seen"
        self.seen_at_start.append(seen.read_text() if seen.exists() else "")
        self.calls.append(tuple(argv))
        self.facts.append(dict(facts))
        self.jobs.append(FakeJob())
        return self.jobs[-1]

    def orders(self, **changes: object) -> Orders:
        values: dict = {
            "allow": (),
            "tls": str(self.folder / "key.pem"),
            "senders": str(self.folder / "senders"),
            "require_tls": True,
            "state_dir": str(self.folder),
            "state": str(self.folder / "votes"),
            "on_shutdown": ("/halt",),
            "on_message": USERS,
            "execute": {"a": ("/a", "1"), "b": ("/b",)},
        }
        values.update(changes)
        self.settings = Settings(**values)
        return Orders(
            self.settings,
            Journal(),
            self.start,
            lambda: self.names,
            lambda text: (self.shown.append(text), (1, 0))[1],
            lambda addresses, journal: self.relayed.extend(addresses),
            lambda: self.wall_s,
        )

    def say(self, orders: Orders, verb: str, sender: str, now_s: float, ident: str = ID, argument: str = "") -> str:
        """The word of the reply, with `why` if there is one."""
        tail = f" {argument}" if argument else ""
        word, facts = orders.answer(f"RT1 {verb} {ident}{tail}\n".encode(), sender, "192.0.2.7", now_s)
        return f"{word} {facts['why']}" if "why" in facts else word

    def fails(self, orders: Orders, first_s: int, last_s: int) -> None:
        """Time goes by, and whatever was started ends with exit code 1."""
        for now_s in range(first_s, last_s):
            for job in self.jobs:
                job.code = 1
            orders.tick(float(now_s))

    def text(self) -> str:
        return "\n".join(self.logged)


class Once(Case):
    def test_the_number_is_on_the_disk_before_the_command_starts(self) -> None:
        self.assertEqual(self.say(self.orders(), "SHUTDOWN", A, 1.0), "accepted")
        self.assertEqual(self.calls, [("/halt",)])
        self.assertEqual(self.seen_at_start, [f"SHUTDOWN {A} {ID}\n"])
        self.assertEqual(self.facts[0], {"RCCMD_VERB": "SHUTDOWN", "RCCMD_SENDER": A})

    def test_a_replay_is_a_duplicate_also_after_a_restart(self) -> None:
        orders = self.orders()
        self.say(orders, "SHUTDOWN", A, 1.0)
        self.jobs[0].code = 0
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 9000.0), "duplicate")
        again = self.orders()
        self.assertEqual(self.say(again, "SHUTDOWN", A, 2.0), "duplicate")
        self.assertEqual(len(self.calls), 1)
        self.assertEqual(self.say(again, "SHUTDOWN", A, 3.0, OTHER), "accepted", "the next outage")
        self.assertEqual(len(self.calls), 2)

    def test_while_it_runs_everything_but_a_noop_is_answered_going_down(self) -> None:
        orders = self.orders()
        self.say(orders, "SHUTDOWN", A, 1.0)
        for verb, argument in (("SHUTDOWN", ""), ("WAKEUP", ""), ("MSG_TEXT", "hello"), ("EXECUTE", "a")):
            self.assertEqual(self.say(orders, verb, A, 2.0, OTHER, argument), "going-down", verb)
        word, facts = orders.answer(f"RT1 NOOP {ID}\n".encode(), A, "192.0.2.7", 2.0)
        self.assertEqual((word, facts["version"]), ("going-down", "0.1.0"))
        self.assertEqual((len(self.calls), self.shown), (1, []))

    def test_a_command_that_failed_or_did_not_start_may_be_run_again_with_its_number(self) -> None:
        orders = self.orders()
        self.missing = True
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 1.0), "refused did-not-start")
        self.missing = False
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 2.0), "accepted")
        self.jobs[0].code = 7
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 3.0), "accepted")
        self.assertEqual(len(self.calls), 2)

    def test_a_command_that_failed_is_tried_again_because_its_sender_was_told_accepted(self) -> None:
        orders = self.orders()
        self.say(orders, "SHUTDOWN", A, 1.0)
        self.jobs[0].code = 1
        orders.tick(2.0)
        self.assertEqual((orders.state(2.0), orders.due_s(2.0)), ({"doing": "retrying"}, 2.0 + RETRY_S))
        orders.tick(2.0 + RETRY_S)
        self.assertEqual(self.calls, [("/halt",)] * 2)
        self.jobs[1].code = 0
        orders.tick(20.0)
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 21.0), "duplicate")
        self.assertEqual(orders.state(21.0), {"doing": "listening"})

    def test_the_retries_are_few_and_end_with_the_outage(self) -> None:
        orders = self.orders()
        self.say(orders, "SHUTDOWN", A, 1.0)
        self.fails(orders, 2, 200)
        self.assertEqual(len(self.calls), 1 + RETRIES_LIMIT)
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 300.0), "accepted")
        self.fails(orders, 301, 303)
        self.assertEqual(self.say(orders, "WAKEUP", A, 304.0), "accepted")
        self.fails(orders, 305, 400)
        self.assertEqual(len(self.calls), 2 + RETRIES_LIMIT)

    def test_with_two_adapters_a_failed_command_is_tried_again_while_both_want_it(self) -> None:
        orders = self.orders(need=2)
        for name in (A, B):
            self.say(orders, "SHUTDOWN", name, 1.0)
        self.fails(orders, 2, 4)
        self.say(orders, "WAKEUP", B, 4.0)
        self.fails(orders, 5, 100)
        self.assertEqual((len(self.calls), list(orders.votes.of(100.0))), (1, [A]))
        self.say(orders, "SHUTDOWN", B, 101.0, OTHER)
        self.assertEqual((len(self.calls), orders.votes.of(101.0)), (2, {}))

    def test_messages_and_executes_are_run_once_for_each_number(self) -> None:
        orders = self.orders()
        self.assertEqual(self.say(orders, "MSG_TEXT", A, 1.0, argument="mains is off"), "accepted")
        self.assertEqual(self.say(orders, "MSG_TEXT", A, 2.0, argument="mains is off"), "duplicate")
        self.assertEqual(self.shown, [f"{A}: mains is off"])
        self.assertEqual(self.say(orders, "EXECUTE", A, 1.0, argument="a"), "accepted")
        self.jobs[0].code = 0
        self.assertEqual(self.say(self.orders(), "EXECUTE", A, 2.0, argument="a"), "duplicate")
        self.assertEqual(self.say(orders, "EXECUTE", B, 2.0, argument="a"), "accepted", "another sender")
        self.assertEqual(self.calls, [("/a", "1"), ("/a", "1")])

    def test_what_cannot_be_run_now_is_said_and_may_be_tried_again(self) -> None:
        orders = self.orders(execute={str(n): ("/x",) for n in range(EXECUTES_LIMIT + 1)}, on_shutdown=())
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 1.0), "refused nothing-configured")
        self.assertEqual(self.say(orders, "EXECUTE", A, 1.0, argument="nothing"), "refused nothing-configured")
        for n in range(EXECUTES_LIMIT):
            self.assertEqual(self.say(orders, "EXECUTE", A, 1.0, f"{n:016x}", str(n)), "accepted")
        self.assertEqual(self.say(orders, "EXECUTE", A, 1.0, OTHER, "0"), "busy", "it runs")
        self.assertEqual(self.say(orders, "EXECUTE", A, 1.0, ID, str(EXECUTES_LIMIT)), "busy", "too many run")
        self.jobs[0].code = 0
        self.assertEqual(self.say(orders, "EXECUTE", A, 2.0, ID, str(EXECUTES_LIMIT)), "accepted")

    def test_lines_that_make_no_sense_are_refused_with_the_reason(self) -> None:
        orders = self.orders()
        self.assertEqual(orders.answer(b"GET / HTTP/1.0\n", A, "::1", 1.0).facts, {"why": "bad-line"})
        self.assertEqual(self.say(orders, "REBOOT", A, 1.0), "refused unknown-verb")
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 1.0, argument="now"), "refused bad-line")
        self.assertEqual(self.calls, [])

    def test_a_disk_that_takes_nothing_is_said_and_the_shutdown_runs(self) -> None:
        orders = self.orders(state_dir="/no/such/folder", state="/no/such/folder/votes")
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 1.0), "accepted")
        self.assertEqual(self.calls, [("/halt",)])
        self.assertIn("warning: a restart would run it again: /no/such/folder/seen", self.text())

    def test_a_torn_file_of_numbers_counts_as_far_as_it_makes_sense(self) -> None:
        path = self.folder / "seen"
        rows = [f"SHUTDOWN {A} {n:016x}\n" for n in range(LIMIT + 5)]
        path.write_bytes(b"\xff\0\n" + "".join(rows).encode() + f"SHUTDOWN {A} 00c0ff".encode())
        seen = Seen(str(path))
        self.assertEqual([seen.has("SHUTDOWN", A, f"{n:016x}") for n in (4, 5, LIMIT + 4)], [False, True, True])
        seen.add("SHUTDOWN", [(B, ID)])
        self.assertEqual([len(row.split()) for row in path.read_text().splitlines()], [2 + LIMIT, 3])

    def test_one_adapter_pushes_out_nothing_of_another(self) -> None:
        orders = self.orders()
        self.say(orders, "EXECUTE", A, 1.0, argument="a")
        self.say(orders, "SHUTDOWN", A, 1.0)
        for verb in ("EXECUTE", "SHUTDOWN"):
            orders.seen.add(verb, [(B, f"{n:016x}") for n in range(3 * LIMIT)])
        again = self.orders()
        for verb, argument in (("SHUTDOWN", ""), ("EXECUTE", "a")):
            self.assertEqual(self.say(again, verb, A, 3.0, ID, argument), "duplicate", verb)

    def test_the_memory_of_numbers_is_bounded_and_its_largest_file_is_read_whole(self) -> None:
        path, names = self.folder / "seen", [f"{n:064}" for n in range(SENDERS_LIMIT + 2)]
        rows = [
            f"{verb} {name} {' '.join(f'{n:016x}' for n in range(LIMIT + 1))}\n"
            for verb in ("SHUTDOWN", "EXECUTE", "MSG_TEXT", "WAKEUP")
            for name in names
        ]
        path.write_text("".join(rows))
        seen = Seen(str(path))
        seen.add("SHUTDOWN", [(names[2], ID)])
        self.assertLess(path.stat().st_size, FILE_LIMIT_BYTES)
        self.assertEqual(len(path.read_text().splitlines()), 4 * SENDERS_LIMIT)
        again = Seen(str(path))
        for verb, name, n, there in (
            ("SHUTDOWN", names[2], 1, False), ("SHUTDOWN", names[2], 2, True), ("WAKEUP", names[-1], LIMIT, True),
            ("WAKEUP", names[1], LIMIT, False), ("WAKEUP", names[2], 0, False), ("WAKEUP", names[2], 1, True),
        ):  # fmt: skip
            self.assertEqual(again.has(verb, name, f"{n:016x}"), there, (verb, n))


class Voting(Case):
    def test_two_adapters_are_told_apart_by_their_certificates_not_by_their_address(self) -> None:
        orders = self.orders(need=2)
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 1.0), "accepted")
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 2.0), "accepted", "its word counts already")
        self.assertEqual(self.calls, [])
        self.assertEqual(orders.answer(f"RT1 NOOP {ID}\n".encode(), B, "192.0.2.7", 3.0).facts["votes"], "1")
        self.assertEqual(self.say(orders, "SHUTDOWN", B, 3.0, OTHER), "accepted")
        self.assertEqual(self.calls, [("/halt",)])
        self.jobs[0].code = 0
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 4.0), "duplicate")
        self.assertEqual(self.say(orders, "SHUTDOWN", B, 4.0, OTHER), "duplicate")

    def test_a_wakeup_withdraws_the_word_for_its_own_outage_only(self) -> None:
        orders = self.orders(need=2)
        self.say(orders, "SHUTDOWN", A, 1.0)
        self.assertEqual(self.say(orders, "WAKEUP", A, 2.0, OTHER), "accepted")
        self.assertEqual(list(orders.votes.of(2.0)), [A], "a late word about an earlier outage")
        self.assertEqual(self.say(orders, "WAKEUP", A, 3.0), "accepted")
        self.assertEqual(self.say(orders, "WAKEUP", A, 4.0), "duplicate")
        self.say(orders, "SHUTDOWN", B, 5.0, OTHER)
        self.assertEqual(self.calls, [])

    def test_a_wakeup_runs_its_command_once_for_each_number_and_over_a_restart(self) -> None:
        orders = self.orders(on_wakeup=("/resume",))
        for ident, runs in ((ID, 1), (ID, 1), (OTHER, 2)):
            self.say(orders, "WAKEUP", A, 1.0, ident)
            self.assertEqual(len(self.calls), runs)
            self.jobs[-1].code = 0
        self.assertEqual(self.say(self.orders(on_wakeup=("/resume",)), "WAKEUP", A, 2.0), "duplicate")
        self.say(orders, "SHUTDOWN", A, 3.0)
        self.say(orders, "WAKEUP", A, 4.0)
        self.assertEqual(self.calls, [("/resume",), ("/resume",), ("/halt",)])

    def test_a_wakeup_whose_command_cannot_run_now_may_come_again(self) -> None:
        orders = self.orders(on_wakeup=("/resume",))
        self.assertEqual(self.say(orders, "WAKEUP", A, 1.0), "accepted")
        self.assertEqual(self.say(orders, "WAKEUP", B, 1.5, OTHER), "busy", "that of A runs still")
        self.jobs[-1].code = 0
        self.assertEqual(self.say(orders, "WAKEUP", B, 3.0, OTHER), "accepted")
        self.assertEqual((len(self.calls), self.say(orders, "WAKEUP", B, 4.0, OTHER)), (2, "duplicate"))

    def test_a_noop_tells_how_many_may_ask_where_more_than_one_must(self) -> None:
        facts = [self.orders(need=n).answer(f"RT1 NOOP {ID}\n".encode(), A, "192.0.2.7", 2.0).facts for n in (1, 2)]
        self.assertEqual([f.get("voices") for f in facts], [None, "3"])

    def test_a_word_survives_a_restart_and_dies_with_its_certificate(self) -> None:
        self.say(self.orders(need=2), "SHUTDOWN", A, 1.0)
        again = self.orders(need=2)
        self.assertEqual(again.votes.of(1.0), {A: ID})
        self.say(again, "SHUTDOWN", B, 2.0, OTHER)
        self.assertEqual(len(self.calls), 1)
        third = self.orders(need=2)
        self.say(third, "SHUTDOWN", A, 3.0, OTHER)
        (self.folder / "senders" / f"{A}.pem").unlink()
        self.say(third, "SHUTDOWN", C, 4.0, OTHER)
        self.assertEqual(len(self.calls), 1, "A is no adapter of this server any more")

    def test_a_classic_and_a_secure_sender_are_two(self) -> None:
        orders = self.orders(need=2, require_tls=False)
        orders.take(Command("SHUTDOWN"), "192.0.2.7", 1.0)
        self.say(orders, "SHUTDOWN", A, 2.0)
        self.assertEqual(self.calls, [("/halt",)])

    def test_the_grace_delay_is_cancelled_by_the_wakeup_of_its_outage(self) -> None:
        orders = self.orders(grace_s=30.0)
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 100.0), "accepted")
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 110.0), "accepted")
        self.assertEqual(self.say(orders, "WAKEUP", A, 111.0, OTHER), "accepted")
        self.assertEqual(orders.state(112.0), {"doing": "grace", "starts_in_s": 18.0})
        self.assertEqual(self.say(orders, "WAKEUP", A, 112.0), "accepted")
        orders.tick(1000.0)
        self.assertEqual(self.calls, [])
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 1001.0), "accepted")
        orders.tick(1031.0)
        self.assertEqual(self.calls, [("/halt",)])


class Crashes(Case):
    def test_a_grace_delay_goes_on_after_a_crash_and_is_over_when_it_would_have_been(self) -> None:
        self.say(self.orders(grace_s=30.0), "SHUTDOWN", A, 100.0)
        again = self.orders(grace_s=30.0)
        again.tick(110.0)
        self.assertEqual(again.state(110.0), {"doing": "grace", "starts_in_s": 20.0})
        again.tick(130.0)
        self.assertEqual(self.calls, [("/halt",)])
        self.assertEqual(self.seen_at_start, [f"SHUTDOWN {A} {ID}\n"])
        third = self.orders(grace_s=30.0)
        third.tick(131.0)
        self.assertEqual((len(self.calls), third.state(131.0)), (1, {"doing": "listening"}))

    def test_its_wakeup_cancels_it_after_a_crash_too_and_before_one_for_good(self) -> None:
        self.say(self.orders(grace_s=30.0), "SHUTDOWN", A, 100.0)
        again = self.orders(grace_s=30.0)
        self.assertEqual(self.say(again, "WAKEUP", A, 110.0), "accepted")
        self.orders(grace_s=30.0).tick(131.0)
        self.assertEqual(self.calls, [])

    def test_nothing_is_started_long_after_its_time_or_after_a_stop_or_another_boot(self) -> None:
        self.say(self.orders(grace_s=30.0), "SHUTDOWN", A, 100.0)
        self.orders(grace_s=30.0).tick(130.0 + LATE_S)
        path = self.folder / "waiting"
        boot, _, rest = path.read_text().partition(" ")
        path.write_text(f"another-boot {rest}")
        self.orders(grace_s=30.0).tick(110.0)
        for text in ("", "x", f"{boot} x\n{A} {ID}\n", f"{boot} 130.0\n", f"{boot} 130.0\n{A}\n"):
            path.write_text(text)
            self.orders(grace_s=30.0).tick(131.0)
        path.write_text("")
        stopped = self.orders(grace_s=30.0)
        stopped.tick(110.0)
        stopped.close()
        self.orders(grace_s=30.0).tick(131.0)
        self.assertEqual(self.calls, [])

    def test_a_crash_between_the_disk_and_the_start_loses_no_shutdown(self) -> None:
        class Crash(BaseException):
            pass

        def crash(*_: object) -> FakeJob:
            raise Crash

        for grace_s in (0.0, 5.0):
            orders = self.orders(grace_s=grace_s)
            orders._programs._start = crash
            with self.assertRaises(Crash):
                self.say(orders, "SHUTDOWN", A, 100.0)
                orders.tick(105.0)
            again = self.orders(grace_s=grace_s)
            again.tick(106.0)
            self.assertEqual(self.calls, [("/halt",)])
            self.orders(grace_s=grace_s).tick(107.0)
            self.assertEqual(self.calls, [("/halt",)], "once it has started it is not started again")
            for name in ("seen", "waiting"):
                (self.folder / name).unlink()
            self.calls.clear()


class Meanwhile(Case):
    """What is said while the command runs counts when it fails."""

    def failed(self, orders: Orders, now_s: float) -> None:
        self.jobs[-1].code = 1
        orders.tick(now_s)
        orders.tick(now_s + RETRY_S)

    def test_a_wakeup_while_it_runs_ends_the_retries(self) -> None:
        orders = self.orders()
        self.say(orders, "SHUTDOWN", A, 100.0)
        self.assertEqual(self.say(orders, "WAKEUP", A, 101.0), "going-down")
        self.failed(orders, 102.0)
        self.assertEqual(len(self.calls), 1)

    def test_a_withdrawn_vote_is_not_restored(self) -> None:
        orders = self.orders(need=2)
        self.say(orders, "SHUTDOWN", A, 100.0)
        self.say(orders, "SHUTDOWN", B, 101.0)
        self.say(orders, "WAKEUP", A, 102.0)
        self.failed(orders, 103.0)
        self.assertEqual((len(self.calls), orders.votes.of(120.0)), (1, {B: ID}))

    def test_who_asks_while_it_runs_is_not_forgotten_when_it_fails(self) -> None:
        orders = self.orders()
        self.say(orders, "SHUTDOWN", A, 100.0)
        self.assertEqual(self.say(orders, "SHUTDOWN", B, 101.0, OTHER), "going-down")
        self.say(orders, "WAKEUP", A, 102.0)
        self.failed(orders, 103.0)
        self.assertEqual(len(self.calls), 2, "B still wants it")

    def test_the_wakeup_of_one_leaves_the_retry_to_the_others(self) -> None:
        orders = self.orders(grace_s=5.0)
        self.say(orders, "SHUTDOWN", A, 100.0)
        self.say(orders, "SHUTDOWN", B, 101.0, OTHER)
        orders.tick(105.0)
        self.jobs[-1].code = 1
        orders.tick(106.0)
        self.assertEqual(self.say(orders, "WAKEUP", A, 107.0), "accepted")
        orders.tick(106.0 + RETRY_S)
        self.assertEqual(len(self.calls), 2)
        self.jobs[-1].code = 1
        orders.tick(117.0)
        self.say(orders, "WAKEUP", B, 118.0, OTHER)
        orders.tick(200.0)
        self.assertEqual(len(self.calls), 2)


class Living(Case):
    def unreachable(self) -> Orders:
        return self.orders(need=2, alive_s=600.0, unreachable_counts=True)

    def test_one_that_is_not_alive_counts_as_asking_only_once_another_has_asked(self) -> None:
        orders = self.unreachable()
        for now_s in (0.0, 500.0):
            self.say(orders, "NOOP", B, now_s)
            self.say(orders, "NOOP", C, now_s)
        orders.tick(5000.0)
        self.assertEqual(self.calls, [], "all are silent, but nobody asks")
        self.say(orders, "SHUTDOWN", A, 5001.0)
        self.assertEqual(self.calls, [("/halt",)])
        self.assertIn(f"{C},{B} SHUTDOWN: counts as asking", self.text())

    def test_one_that_falls_silent_after_another_has_asked_counts_then(self) -> None:
        orders = self.unreachable()
        for name in (B, C):
            self.say(orders, "NOOP", name, 1000.0)
        self.say(orders, "SHUTDOWN", A, 1100.0)
        self.assertEqual((self.calls, orders.due_s(1100.0)), ([], 1600.0))
        orders.tick(1599.0)
        self.assertEqual(self.calls, [])
        orders.tick(1600.0)
        self.assertEqual(self.calls, [("/halt",)])
        self.fails(orders, 1601, 2000)
        self.assertEqual(len(self.calls), 1 + RETRIES_LIMIT, "a command that fails is not run in a loop")

    def test_an_adapter_that_is_new_has_its_time_to_be_heard_before_it_counts(self) -> None:
        self.names = (A, B)
        orders = self.unreachable()
        orders.tick(0.0)
        self.say(orders, "NOOP", B, 4900.0)
        self.names = (A, B, C)
        orders.tick(5000.0)
        self.say(orders, "SHUTDOWN", A, 5001.0)
        self.assertEqual(self.calls, [])
        self.say(orders, "NOOP", B, 5400.0)
        self.assertEqual(orders.due_s(5400.0), 5600.0)
        orders.tick(5600.0)
        self.assertIn(f"{C} -: warning: this adapter was not heard for 600 s", self.text())
        self.assertEqual(self.calls, [("/halt",)])

    def test_by_default_a_silent_adapter_asks_for_nothing(self) -> None:
        orders = self.orders(need=2, alive_s=600.0)
        self.say(orders, "SHUTDOWN", A, 5000.0)
        orders.tick(9000.0)
        self.assertEqual(self.calls, [])
        self.assertIn(f"{B} -: warning: this adapter was not heard for 600 s", self.text())
        self.say(orders, "NOOP", B, 9001.0)
        self.assertIn(f"{B} -: is heard again", self.text())

    def test_when_an_adapter_was_heard_is_known_after_a_restart(self) -> None:
        orders = self.unreachable()
        self.say(orders, "NOOP", B, 1000.0)
        status = Status(self.settings, orders, lambda: (A, B, C), Journal(), lambda: self.wall_s)
        status.tick(1000.0)
        self.wall_s += 50.0
        again = self.unreachable()
        Status(self.settings, again, lambda: (A, B, C), Journal(), lambda: self.wall_s).restore(7.0)
        self.assertEqual(again.alive.last, {B: Heard(-43.0, "192.0.2.7", "NOOP")})
        self.assertEqual(again.alive.silent(7.0), {A, C})


class OtherThings(Case):
    def test_a_dry_run_starts_nothing_and_leaves_nothing_that_counts_in_earnest(self) -> None:
        orders = self.orders(dry_run=True, relay=(("192.0.2.30", 6003),))
        self.assertEqual(orders.answer(f"RT1 NOOP {ID}\n".encode(), A, "::1", 1.0).facts["dry_run"], "yes")
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 1.0), "accepted")
        self.assertEqual(self.say(orders, "EXECUTE", A, 3.0, argument="a"), "accepted")
        self.assertEqual(self.say(orders, "SHUTDOWN", A, 4.0), "duplicate")
        self.assertEqual((self.calls, self.relayed), ([], []))
        self.assertIn(f"{A} SHUTDOWN: dry run, would have started /halt", self.text())
        self.assertEqual(self.say(self.orders(), "SHUTDOWN", A, 5.0), "accepted")
        self.assertEqual(self.calls, [("/halt",)])

    def test_relays_are_told_when_the_command_starts(self) -> None:
        orders = self.orders(grace_s=30.0, relay=(("192.0.2.30", 6003),))
        self.say(orders, "SHUTDOWN", A, 1.0)
        self.assertEqual(self.relayed, [])
        orders.tick(31.0)
        self.assertEqual(self.relayed, [("192.0.2.30", 6003)])

    def test_a_message_goes_to_the_users_without_control_characters(self) -> None:
        orders = self.orders()
        orders.take(Command("MSG_TEXT", "Netz\x1b[2J weg\x9b"), "192.0.2.7", 1.0)
        self.say(orders, "MSG_TEXT", A, 1.0, argument="caf\u00e9 \u202edren")
        self.assertEqual(self.shown, ["192.0.2.7: Netz[2J weg", f"{A}: café dren"])

    def test_the_self_test_runs_at_the_start_then_daily_and_when_wished(self) -> None:
        orders = self.orders(selftest=("/true",))
        self.assertEqual(orders.selftest.facts(), {"selftest": "never"})
        orders.tick(1.0)
        self.jobs[0].code = 0
        orders.tick(2.0)
        self.wall_s += 30.0
        facts = orders.answer(f"RT1 NOOP {ID}\n".encode(), A, "::1", 3.0).facts
        self.assertEqual((facts["selftest"], facts["selftest_age_s"]), ("ok", "30"))
        self.assertEqual(json.loads((self.folder / "selftest.json").read_text())["result"], "ok")
        self.assertEqual(orders.due_s(3.0), 1.0 + EVERY_S)
        orders.selftest.wished = True
        orders.tick(4.0)
        self.jobs[1].code = 3
        orders.tick(5.0)
        self.assertEqual(orders.selftest.facts()["selftest"], "failed")
        orders.tick(4.0 + EVERY_S)
        self.assertEqual(self.calls, [("/true",)] * 3)
        again = self.orders(selftest=("/true",))
        self.assertEqual(again.selftest.facts()["selftest"], "failed", "remembered")

    def test_a_self_test_that_hangs_or_does_not_start_has_failed(self) -> None:
        orders = self.orders(selftest=("/true",))
        orders.tick(1.0)
        orders.tick(1.0 + LIMIT_S)
        self.assertEqual(orders.selftest.facts()["selftest"], "failed")
        self.assertTrue(self.jobs[0].killed)
        self.missing = True
        orders.selftest.wished = True
        orders.tick(100.0)
        self.assertEqual(orders.selftest.detail, "it did not start")

    def test_no_self_test_disturbs_a_shutdown(self) -> None:
        orders = self.orders(selftest=("/true",))
        orders.tick(1.0)
        self.jobs[0].code = 0
        self.say(orders, "SHUTDOWN", A, 2.0)
        orders.tick(2.0 + EVERY_S)
        self.assertEqual(self.calls, [("/true",), ("/halt",)])

    def test_the_status_says_what_is_known_and_is_written_at_most_once_a_second(self) -> None:
        orders = self.orders(need=2, alive_s=600.0)
        status = Status(self.settings, orders, lambda: (A, B), Journal(), lambda: self.wall_s)
        self.say(orders, "SHUTDOWN", A, 1.0)
        status.tick(1.0)
        path = self.folder / "status.json"
        facts = read(str(path))
        self.assertEqual((facts["doing"], facts["need"]), ("listening", 2))
        self.assertEqual(facts["votes"], [{"sender": A, "id": ID, "wall_s": self.wall_s}])
        self.assertEqual(facts["latest"][0]["reply"], "accepted")
        self.assertEqual([facts["senders"][n]["alive"] for n in (A, B)], [True, False])
        self.say(orders, "WAKEUP", A, 1.5)
        status.tick(1.5)
        self.assertEqual((read(str(path)), status.due_s(1.5)), (facts, 2.0))
        status.tick(2.0)
        self.assertEqual((read(str(path))["votes"], status.due_s(2.0)), ([], None))
        self.assertFalse((self.folder / "status.json.new").exists())


if __name__ == "__main__":
    unittest.main()
