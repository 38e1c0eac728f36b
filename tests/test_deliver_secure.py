"""The delivery with enrolled servers: eager proofs, handshakes in slots of their own, commands by hand."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import reach, senderkey, target
from agent.book import Book
from agent.config import Server
from agent.deliver import Delivery
from agent.errands import Enrolled, Errand, Orders, Report, Said
from agent.places import Places
from agent.reach import ACCEPTED, NOT_DELIVERED, Job, Outcome, Steps, Wait
from tests.secure_peer import keys, secure_peer, sha256

OUTAGE = "0123456789abcdef"


class Running:
    """A delivery that runs, its reports, and the pins that it is given."""

    def __init__(self, folder: Path, load: Callable[[str], Any]) -> None:
        self.pins: dict[str, str] = {}
        self.said: queue.Queue[Said] = queue.Queue()
        self.reports: queue.Queue[Report] = queue.Queue()
        places = Places(folder=folder, pin=lambda name: self.pins.get(name, ""))
        self.book = Book(Path("/proc/nowhere/known.json"))
        self.delivery = Delivery(self._report, self.book, places, lambda mac: "", load)

    def _report(self, found: Report | Said) -> None:
        if isinstance(found, Said):
            self.said.put(found)
        else:
            self.reports.put(found)

    def until(self, true: Callable[[Report], bool], within_s: float = 5.0) -> Report:
        end_s = time.monotonic() + within_s
        while True:
            report = self.reports.get(timeout=max(0.01, end_s - time.monotonic()))
            if true(report):
                return report


@contextmanager
def running(
    folder: Path, *servers: Server, load: Callable[[str], Any] = reach.load, prove: bool = True
) -> Iterator[Running]:
    (folder / senderkey.NAME).write_bytes(keys("sender"))
    found, stop = Running(folder, load), threading.Event()
    threads = [threading.Thread(target=t, args=(stop,)) for t in (found.delivery.run, found.book.run)]
    found.delivery.plan(servers)
    found.delivery.order(Orders(prove=prove))  # before the thread runs: else it may prove at once
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        found.delivery.wake()
        for thread in threads:
            thread.join()


def server(name: str, port: int, **options: Any) -> Server:
    return Server(name=name, address="127.0.0.1", port=port, options=options)


def armed(*servers: Server) -> Orders:
    return Orders(outage=OUTAGE, tell=servers, armed=True)


def errand(name: str, text: str, within_s: float = 60.0) -> Errand:
    return Errand(name, "MSG_TEXT", text, time.monotonic() + within_s)


def test_an_enrolled_server_is_proven_at_once_and_again_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "EAGER_AGAIN_S", 0.05)
    with secure_peer(tmp_path, b"RT1 busy\n", b"RT1 busy\n", b"RT1 accepted version=0.1.0 selftest=ok\n") as peer:
        nas = server("nas", peer.port, secure=True)
        with running(tmp_path, nas) as world:
            world.delivery.order(Orders())
            first = world.until(lambda r: bool(r.proof))
            assert first.trust == "not-enrolled" and first.proof == "not enrolled yet: ridethrough enroll nas"
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            assert world.until(lambda r: r.proof == "busy").trust == "secure"
            good = world.until(lambda r: r.state == "proven")
            assert good.proof == "version 0.1.0, self test ok" and not good.failing
    assert [line.split()[1] for line in peer.asked] == [b"NOOP"] * 3
    assert (target.EAGER_S, target.EAGER_AGAIN_S) == (60.0, 0.05)


def test_after_a_minute_proofs_are_as_rare_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "EAGER_AGAIN_S", 0.02)
    monkeypatch.setattr(target, "EAGER_S", 0.0)  # it is over
    with secure_peer(tmp_path, b"RT1 busy\n") as peer:
        with running(tmp_path, server("nas", peer.port)) as world:
            world.delivery.order(Orders())
            world.until(lambda r: r.state == "reachable")
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            world.until(lambda r: r.proof == "busy")
            time.sleep(0.15)
            assert len(peer.asked) == 1


def test_what_was_known_of_a_classic_server_counts_no_more_when_it_is_enrolled(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 refused why=x\n") as peer:
        with running(tmp_path, server("nas", peer.port)) as world:
            world.delivery.order(Orders())
            assert world.until(lambda r: r.state == "reachable").trust == "classic"
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            assert world.until(lambda r: r.trust == "secure").state == "unknown"


def test_a_server_that_is_enrolled_in_the_outage_is_told_at_once(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 accepted\n") as peer:
        nas = server("nas", peer.port, secure=True)
        with running(tmp_path, nas) as world:
            world.delivery.order(armed(nas))
            world.until(lambda r: r.delivery == "not-delivered" and r.attempts == 1)
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            assert world.until(lambda r: r.delivery == "accepted", 0.9).attempts == 2
    assert peer.asked == [f"RT1 SHUTDOWN {OUTAGE}\n".encode()]


@pytest.mark.parametrize(
    "reply, back", [(b"RT1 accepted selftest=failed\n", True), (b"RT1 busy\n", True), (b"RT1 going-down\n", False)]
)
def test_a_server_is_back_when_it_answers_whatever_its_self_test_says_but_not_while_it_goes_down(
    tmp_path: Path, reply: bytes, back: bool
) -> None:
    with secure_peer(tmp_path, reply) as peer:
        nas = server("nas", peer.port)
        with running(tmp_path, nas) as world:
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            world.delivery.order(Orders(outage=OUTAGE, armed=True, wake=(nas,)))
            report = world.until(lambda r: bool(r.proof) and r.wake == ("back" if back else "by-hand"))
            assert report.state == "unknown" and not report.failing
            time.sleep(0.15)
    assert (f"RT1 WAKEUP {OUTAGE}\n".encode() in peer.asked) is back


class Lanes:
    """A way of which some servers are secure: how many run at once."""

    def __init__(self, slots: int) -> None:
        self.running, self.most = {"secure": 0, "classic": 0}, {"secure": 0, "classic": 0}
        self.module = SimpleNamespace(SLOTS=slots, send=self.send, prove=self.send, trust=self.trust, say=self.say)

    def load(self, how: str) -> Any:
        return self.module

    def trust(self, server: Server, pin: str) -> str:
        return "secure" if server.name.startswith("s") else "classic"

    def say(self, job: Job, verb: str, argument: str) -> Steps:
        return self.send(job)

    def send(self, job: Job) -> Steps:
        kind = self.trust(job.server, "")
        self.running[kind] += 1
        self.most[kind] = max(self.most[kind], self.running[kind])
        ends = os.pipe()
        try:
            yield Wait(ends[0], False, 0.05, "no answer")
        except reach.Late:
            pass
        finally:
            self.running[kind] -= 1
            for fd in ends:
                os.close(fd)
        return Outcome(ACCEPTED)


def test_only_handshakes_need_a_slot(tmp_path: Path) -> None:
    way = Lanes(3)
    servers = tuple(server(f"{kind}{n}", 1) for kind in "cs" for n in range(12))
    with running(tmp_path, *servers, load=way.load) as world:
        world.delivery.order(armed(*servers))
        for _ in servers:
            world.until(lambda r: r.delivery == "accepted")
    assert way.most == {"secure": 3, "classic": 12}


# --- commands by hand -------------------------------------------------------------------------------------------


def test_a_message_is_said_once_and_reported(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 accepted\n") as peer:
        with running(tmp_path, server("nas", peer.port)) as world:
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            world.delivery.order(errand("nas", "in five minutes"))
            assert world.said.get(timeout=5) == Said("nas", "MSG_TEXT", ACCEPTED, "")
    assert [line.split(b" ", 3)[3:] for line in peer.asked if b"MSG_TEXT" in line] == [[b"in five minutes\n"]]


def test_a_refusal_is_reported_and_not_tried_again(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 refused why=not-allowed\n") as peer:
        with running(tmp_path, server("nas", peer.port), prove=False) as world:
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            world.delivery.order(Errand("nas", "EXECUTE", "backup", time.monotonic() + 60))
            assert world.said.get(timeout=5) == Said("nas", "EXECUTE", NOT_DELIVERED, "refused: not-allowed")
            time.sleep(0.1)
    assert len(peer.asked) == 1


def test_what_comes_too_late_or_for_nobody_or_too_often_is_not_sent(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 accepted\n") as peer:
        other = Server(name="other", address="127.0.0.1", port=1, how="wake")
        with running(tmp_path, server("nas", peer.port), other, prove=False) as world:
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            world.delivery.order(errand("nas", "late", -1.0))
            assert world.said.get(timeout=5).detail == "too late, not sent"
            for name in ("nobody", "other"):
                world.delivery.order(errand(name, "x"))
                assert world.said.get(timeout=5).detail == "nobody there who would understand"
    assert peer.asked == []


def test_a_server_has_room_for_a_few_commands(tmp_path: Path) -> None:
    way = Lanes(1)
    with running(tmp_path, server("s", 1), load=way.load, prove=False) as world:
        for _ in range(30):
            world.delivery.order(errand("s", "x"))
        found = [world.said.get(timeout=5) for _ in range(30)]
    words = [said.word for said in found]
    assert words.count(ACCEPTED) >= 8 and {s.detail for s in found if s.word != ACCEPTED} <= {"too many wait already"}


def test_a_shutdown_does_not_wait_for_a_message(tmp_path: Path) -> None:
    held = threading.Event()
    asked: list[bytes] = []

    def manner(sock: Any) -> None:
        line = sock.recv(4096)
        asked.append(line)
        if b"MSG_TEXT" in line:
            held.wait(0.3)
        else:
            sock.sendall(b"RT1 accepted\n")
            sock.recv(1)

    with secure_peer(tmp_path, manner=manner) as peer:
        nas = server("nas", peer.port)
        with running(tmp_path, nas, prove=False) as world:
            world.pins["nas"] = sha256(keys("server"))
            world.delivery.order(Enrolled("nas"))
            world.delivery.order(errand("nas", "hello"))
            end_s = time.monotonic() + 5
            while not asked and time.monotonic() < end_s:
                time.sleep(0.01)
            world.delivery.order(armed(nas))
            assert world.said.get(timeout=5).detail == "stopped: something more urgent came"
            world.until(lambda r: r.delivery == "accepted", 2.0)
            held.set()
    assert [line.split()[1] for line in asked] == [b"MSG_TEXT", b"SHUTDOWN"]
