"""A SET that waits for the core keeps nobody waiting who reads, and is carried out once, however often it comes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_usm as secured
from snmp_kit import ON_LINE, UPS, Net, Reply, Stage, arcs, listening, reply, request, view

from agent import ber, config, mib, upsset, usm, v3
from agent.model import Command
from agent.setter import KEPT_LIMIT, SAME_SET_S, SIGNED_LIMIT, WAIT_S, WAITING_LIMIT, Setter
from agent.upsset import Writer

BEEPER, NAME, DOWN = f"{UPS}.9.8.0", f"{UPS}.1.5.0", f"{UPS}.8.2.0"
OFF, ON = ber.integer(1), ber.integer(2)
IN_TIME_S = 5.0


class Core:
    """Takes an order, and answers it when the test lets it."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Semaphore(0), threading.Semaphore(0)
        self.orders: list[Command] = []

    def order(self, command: Command, args: Mapping[str, Any], who: str, host: str) -> None:
        self.orders.append(command)
        self.asked.release()
        assert self.answers.acquire(timeout=IN_TIME_S)


class Manager:
    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(IN_TIME_S)
        self.to = (address, port)

    def set(self, name: str = BEEPER, value: bytes = OFF, **how: Any) -> None:
        self.sock.sendto(request(ber.SET, name, value=value, **how), self.to)

    def get(self, number: int) -> Reply:
        self.sock.sendto(request(ber.GET, NAME, request_id=number), self.to)
        return self.heard()

    def heard(self) -> Reply:
        data, (address, _) = self.sock.recvfrom(2048)
        assert address == self.to[0]
        return reply(data)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return Net(tmp_path / "net").folder


@pytest.mark.parametrize(("listen", "asked"), [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.9")])
def test_who_reads_does_not_wait_for_the_core_of_who_sets(net: Path, listen: str, asked: str) -> None:
    core = Core()
    writer = Writer(order=core.order)
    shown = view(ON_LINE, commands=frozenset(Command))
    with listening(shown, net, listen, access="read-write", writer=writer) as stage:
        port = stage.agent.address[1]
        sets, reads = Manager(port, asked), Manager(port, asked)
        sets.set(request_id=7)
        assert core.asked.acquire(timeout=IN_TIME_S)
        assert [reads.get(number).request_id for number in range(200)] == list(range(200))
        for _ in range(3):
            sets.set(request_id=7)  # it has heard nothing
        assert reads.get(1).error == 0
        core.answers.release()
        assert sets.heard()[:3] == (7, 0, 0)
        sets.set(request_id=7)
        assert sets.heard()[:3] == (7, 0, 0) and core.orders == [Command.BEEPER_OFF]
        for manager in (sets, reads):
            manager.sock.close()


def test_managers_that_all_begin_with_the_same_number_are_not_taken_for_each_other(net: Path) -> None:
    orders: list[Command] = []
    writer = Writer(order=lambda command, *_: orders.append(command))
    with listening(view(ON_LINE, commands=frozenset(Command)), net, access="read-write", writer=writer) as stage:
        managers = [Manager(stage.agent.address[1]) for _ in range(3)]  # each with a port of its own
        for manager, beeper, value in zip(managers, (True, False, True), (OFF, ON, OFF), strict=True):
            stage.view = view(replace(ON_LINE, beeper_on=beeper), commands=frozenset(Command))
            for _ in range(2):
                manager.set(value=value, request_id=1)
                assert manager.heard()[:3] == (1, 0, 0)
        for manager in managers:
            manager.sock.close()
    assert orders == [Command.BEEPER_OFF, Command.BEEPER_ON, Command.BEEPER_OFF]


@pytest.mark.parametrize(("version", "error"), [(ber.V2C, upsset.RESOURCE_UNAVAILABLE), (ber.V1, upsset.GEN_ERR)])
def test_more_than_can_wait_are_told_so_at_once(net: Path, version: int, error: int) -> None:
    core = Core()
    shown = view(ON_LINE, commands=frozenset(Command))
    with listening(shown, net, access="read-write", writer=Writer(order=core.order)) as stage:
        manager = Manager(stage.agent.address[1])
        for number in range(WAITING_LIMIT + 1):
            manager.set(request_id=number, version=version)
        assert manager.heard()[:3] == (WAITING_LIMIT, error, 1)
        for _ in range(WAITING_LIMIT):
            core.answers.release()
        assert [manager.heard().request_id for _ in range(WAITING_LIMIT)] == list(range(WAITING_LIMIT))
        manager.sock.close()
    assert len(core.orders) == WAITING_LIMIT


# --- version 3: what is signed counts once ------------------------------------------------------------------------


class Signed:
    """An agent whose one user may write, what it ordered, and a forger who has recorded everything."""

    def __init__(self, net: Path) -> None:
        self.orders: list[Command] = []
        ops = replace(secured.OPS, writes=True)
        responder = v3.Responder(mib.Engine(secured.ENGINE_ID, 7, 0.0), {"ops": ops})
        writer = Writer(order=lambda command, *_: self.orders.append(command), allow_shutdown=True)
        users = (config.User(name="ops", access="read-write", sources=("127.0.0.0/8",)),)
        shown = view(ON_LINE, commands=frozenset(Command))
        self.stage = Stage(shown, net, users=users, responder=responder, writer=writer)
        self.stage.now_s = 500.0

    def made(self, seconds: int, number: int, time_s: int = 500) -> bytes:
        context = ber.tlv(ber.OCTET_STRING, secured.ENGINE_ID) + ber.tlv(ber.OCTET_STRING, b"")
        body = ber.binding(ber.oid(arcs(DOWN)), ber.integer(seconds))
        scoped = ber.message(context, ber.SET, ber.integer(number), 0, 0, body)
        return secured.sent(time_s=time_s, scoped=scoped)

    def hears(self, data: bytes, host: str = "127.0.0.1") -> tuple[int, int]:
        """The PDU's tag, and its error."""
        self.stage.agent.gate._paid_s = 0.0  # not what is shown here
        answer = self.stage.agent.answer(data, host)
        assert answer is not None
        message = v3.read(answer)
        scoped = message.scoped if message.level == usm.NO_AUTH else v3.opened(answer, message, secured.OPS)
        pdu = v3.read_scoped(scoped)[3]
        return pdu.tag, pdu.first


@pytest.mark.parametrize("ahead_s", [-140, 0, 150])
def test_a_recorded_set_is_not_carried_out_again_as_long_as_it_is_in_the_time_window(net: Path, ahead_s: int) -> None:
    line = Signed(net)
    recorded = line.made(600, 1, 500 + ahead_s)
    assert line.hears(recorded) == (ber.RESPONSE, 0) and line.hears(line.made(-1, 2)) == (ber.RESPONSE, 0)
    done = [Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STOP]
    end_s = line.stage.now_s + ahead_s + v3.TIME_WINDOW_S
    while line.stage.now_s <= end_s:
        assert line.hears(recorded, "127.0.0.9") == (ber.RESPONSE, 0) and line.orders == done
        line.stage.now_s += 10.0
    line.stage.now_s = end_s + 0.9
    assert line.hears(recorded, "127.0.0.9") == (ber.RESPONSE, 0) and line.orders == done
    line.stage.now_s = end_s + 1.0
    assert line.hears(recorded, "127.0.0.9") == (ber.REPORT, 0) and line.orders == done


def test_the_same_set_signed_anew_is_another_one_after_a_while(net: Path) -> None:
    line = Signed(net)
    again = line.made(600, 1)
    for data in (line.made(600, 1), again):  # who heard nothing signs it again
        assert line.hears(data) == (ber.RESPONSE, 0) and line.orders == [Command.SHUTDOWN_RETURN]
    line.stage.now_s += SAME_SET_S + 0.1
    assert line.hears(again) == (ber.RESPONSE, 0) and len(line.orders) == 1, "a record of what was said again"
    assert line.hears(line.made(600, 1)) == (ber.RESPONSE, 0) and len(line.orders) == 2


def test_what_could_not_be_remembered_is_refused(net: Path) -> None:
    line = Signed(net)
    for number in range(SIGNED_LIMIT):
        assert line.hears(line.made(600, number)) == (ber.RESPONSE, 0)
        line.stage.now_s += 0.1
    assert line.hears(line.made(600, 9999)) == (ber.RESPONSE, upsset.RESOURCE_UNAVAILABLE)
    assert len(line.orders) == SIGNED_LIMIT
    line.stage.now_s += v3.TIME_WINDOW_S
    assert line.hears(line.made(600, 9999, int(line.stage.now_s))) == (ber.RESPONSE, 0)
    assert len(line.stage.agent._setter._signed) < 10


# --- without sockets --------------------------------------------------------------------------------------------


class Line:
    """A Setter whose clock and turns a test holds in its hands."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.setter = Setter(lambda: self.now_s)
        self.done: list[str] = []
        self.told: list[tuple[str, tuple[int, int]]] = []

    def take(self, key: str, teller: str = "", result: tuple[int, int] = (0, 0)) -> None:
        def do() -> tuple[int, int]:
            self.done.append(key)
            return result

        def tell(said: tuple[int, int]) -> None:
            self.told.append((teller or key, said))

        self.setter.take(("who", "host", 161, key.encode(), b""), do, tell)


@pytest.fixture
def line() -> Line:
    return Line()


def test_the_newest_who_asked_is_told_and_the_kept_answer_serves_later_ones(line: Line) -> None:
    line.take("a", "first", (12, 1))
    line.take("a", "second")
    line.setter.turn()
    line.take("a", "third")
    assert line.done == ["a"] and line.told == [("second", (12, 1)), ("third", (12, 1))]
    line.now_s += SAME_SET_S + 0.1
    line.take("a", "fourth")
    line.setter.turn()
    assert line.done == ["a", "a"] and line.told[2:] == [("fourth", (0, 0))]


def test_signed_ones_leave_room_for_those_that_are_not(line: Line) -> None:
    for number in range(SIGNED_LIMIT + 1):
        key = ("who", "host", 161, b"%d" % number, b"")
        line.setter.take(key, lambda: (0, 0), lambda said: line.told.append(("", said)), (b"%d" % number, 900.0))
        if line.setter._queue.qsize():
            line.setter.turn()
    assert [said for _, said in line.told] == [(0, 0)] * SIGNED_LIMIT + [(upsset.RESOURCE_UNAVAILABLE, 1)]
    line.take("plain")
    assert line.setter._queue.qsize() == 1 and len(line.setter._signed) == SIGNED_LIMIT
    line.setter.turn()
    assert line.done == ["plain"]


def test_who_repeats_anothers_signed_set_hears_nothing_while_it_is_under_way(line: Line) -> None:
    seal = b"signature", 900.0

    def take(port: int) -> None:
        line.setter.take(
            ("who", "host", port, b"1", b"2"), lambda: (line.done.append("set"), (12, 1))[1],
            lambda said: line.told.append((f"port {port}", said)), seal,
        )  # fmt: skip

    take(161)
    take(4000)
    assert line.told == [] and line.setter._queue.qsize() == 1
    line.setter.turn()
    assert line.done == ["set"] and line.told == [("port 161", (12, 1))]
    take(4000)
    assert line.done == ["set"] and line.told[1:] == [("port 4000", (12, 1))]


def test_others_have_sets_of_their_own(line: Line) -> None:
    both: list[str] = []

    def of(who: str) -> Callable[[], tuple[int, int]]:
        return lambda: (both.append(who), (0, 0))[1]

    for who, host, port in (("a", "h", 1), ("b", "h", 1), ("a", "g", 1), ("a", "h", 2)):
        line.setter.take((who, host, port, b"1", b"2"), of(f"{who}{host}{port}"), lambda _: None)
        line.setter.turn()
    assert both == ["ah1", "bh1", "ag1", "ah2"]


def test_what_waited_too_long_for_those_before_it_is_not_done(line: Line) -> None:
    line.take("a")
    line.now_s += WAIT_S + 0.1
    line.setter.turn()
    assert line.done == [] and line.told == [("a", (upsset.RESOURCE_UNAVAILABLE, 1))]
    line.take("a")
    assert line.done == [] and len(line.told) == 2, "the same request again is the same answer"


def test_what_is_kept_is_bounded_and_what_waits_is_never_forgotten(line: Line) -> None:
    for number in range(3 * KEPT_LIMIT):
        line.take(f"{number}")
        line.setter.turn()
    for number in range(WAITING_LIMIT + 1):
        line.take(f"waiting {number}")
    assert len(line.setter._jobs) <= KEPT_LIMIT + WAITING_LIMIT
    assert line.told[3 * KEPT_LIMIT :] == [(f"waiting {WAITING_LIMIT}", (upsset.RESOURCE_UNAVAILABLE, 1))]
    line.now_s += 1.0
    for _ in range(WAITING_LIMIT):
        line.setter.turn()
    assert len(line.done) == 3 * KEPT_LIMIT + WAITING_LIMIT


def test_the_thread_ends_and_what_still_waits_is_not_done(line: Line) -> None:
    line.take("a")
    line.setter.close()
    line.setter.run()
    assert line.done == []
