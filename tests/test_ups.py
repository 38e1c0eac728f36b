"""The ups thread: polls in time, opens again for ever, and gives orders one after the other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent import ups as ups_module
from agent.model import Command, LinkError, OrderError, Status
from agent.ups import Polled, Ups
from agent.usbport import Rescue
from tests.kit import look


class Fake:
    """A driver that does what its script says: True answers, False fails."""

    commands = frozenset({Command.TEST_QUICK})
    off_return = "no"

    def __init__(self, script: list[bool], wake_fd: int | None = None) -> None:
        self.script, self.wake_fd = script, wake_fd
        self.orders: list[tuple[Command, dict[str, Any]]] = []
        self.closed = False

    def poll(self) -> Status:
        if self.script and not self.script.pop(0):
            raise LinkError("silence")
        return look(at_s=time.monotonic())

    def order(self, command: Command, **args: Any) -> str | None:
        if args.get("minutes") == 99:
            raise OrderError("too long")
        self.orders.append((command, args))
        return "a word" if args else None

    def close(self) -> None:
        self.closed = True


@contextmanager
def running(opener: Any, poll_s: float = 0.02) -> Iterator[tuple[Ups, list[Polled]]]:
    polled: list[Polled] = []
    ups, stop = Ups(opener, polled.append, poll_s, Rescue(time.monotonic)), threading.Event()
    thread = threading.Thread(target=ups.run, args=(stop,))
    thread.start()
    try:
        yield ups, polled
    finally:
        stop.set()
        ups.wake()
        thread.join()


def until(true: Any, within_s: float = 3.0) -> None:
    end_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_frames_come_at_the_pace_of_the_polls_and_the_driver_is_closed_at_the_end() -> None:
    driver = Fake([])
    with running(lambda: driver) as (_, polled):
        until(lambda: len(polled) >= 5)
    assert all(p.status is not None and p.failed_polls == 0 and p.link == "up" for p in polled)
    assert driver.closed


def test_failed_polls_are_counted_and_the_third_one_opens_the_line_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ups_module, "BACK_OFF_S", (0.01,))  # a table, made quick for the test
    drivers = [Fake([True, False, False, False]), Fake([])]
    left = list(drivers)
    with running(lambda: left.pop(0)) as (_, polled):
        until(lambda: len(polled) >= 6)
    assert [p.failed_polls for p in polled[:6]] == [0, 1, 2, 3, 0, 0]
    assert [p.link for p in polled[1:4]] == ["up", "up", "down"]
    assert drivers[0].closed


def test_a_driver_that_is_still_learning_what_its_unit_is_keeps_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ups_module, "FAILED_AGAIN_S", 0.01)

    class Learning(Fake):
        @property
        def learning(self) -> bool:
            return len(self.script) > 3

    drivers = [Learning([False] * 8), Fake([])]
    left = list(drivers)
    with running(lambda: left.pop(0)) as (_, polled):
        until(lambda: len(polled) >= 6)
        assert [p.link for p in polled[:6]] == ["up"] * 5 + ["down"] and drivers[0].closed


def test_a_line_that_cannot_be_opened_is_tried_for_ever_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ups_module, "BACK_OFF_S", (0.01, 0.05))
    tries: list[float] = []

    def opener() -> Fake:
        tries.append(time.monotonic())
        if len(tries) < 5:
            raise LinkError("no such port")
        return Fake([])

    with running(opener, 0.005) as (_, polled):
        until(lambda: polled and polled[-1].status is not None)
    assert [p.error for p in polled[:4]] == ["no such port"] * 4
    assert tries[4] - tries[3] >= 0.05
    assert ups_module.BACK_OFF_S[-1] == 0.05


def test_the_back_off_is_a_second_at_first_and_at_most_fifteen() -> None:
    assert ups_module.BACK_OFF_S == (1.0, 2.0, 4.0, 8.0, 15.0)


def test_an_order_is_given_and_a_wrong_one_is_refused_with_a_reason() -> None:
    driver = Fake([])
    with running(lambda: driver) as (ups, polled):
        until(lambda: polled)
        assert ups.order(Command.TEST_QUICK, {}) == ""
        assert driver.orders == [(Command.TEST_QUICK, {})]
        assert ups.order(Command.TEST_QUICK, {"minutes": 1}) == "a word"
        said: list[tuple[str, str]] = []
        for minutes in (1, 99):
            ups.post(Command.TEST_QUICK, {"minutes": minutes}, lambda *words: said.append(words))
        until(lambda: len(said) == 2)
        assert said == [("", "a word"), ("too long", "")]
        with pytest.raises(OrderError, match="cannot do beeper-on"):
            ups.order(Command.BEEPER_ON, {})
        with pytest.raises(OrderError, match="too long"):
            ups.order(Command.TEST_QUICK, {"minutes": 99})
        with pytest.raises(OrderError, match="came too late and was not given"):
            ups.order(Command.TEST_QUICK, {}, time.monotonic() - 0.1)
        assert driver.orders.count((Command.TEST_QUICK, {})) == 1


def test_an_order_without_a_connection_is_refused() -> None:
    def opener() -> Fake:
        raise LinkError("unplugged")

    with running(opener) as (ups, polled):
        until(lambda: polled)
        with pytest.raises(OrderError, match="no connection"):
            ups.order(Command.TEST_QUICK, {})


def test_an_order_that_nobody_waits_for_any_more_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ups_module, "ORDER_WITHIN_S", 0.05)  # made short for the test
    go = threading.Event()

    class Slow(Fake):
        def poll(self) -> Status:
            go.wait(3.0)
            return super().poll()

    driver = Slow([])
    with running(lambda: driver) as (ups, polled):
        with pytest.raises(OrderError, match="in time"):
            ups.order(Command.TEST_QUICK, {})
        go.set()
        until(lambda: len(polled) >= 3)
        assert driver.orders == []


def test_the_drivers_wake_fd_asks_for_a_poll_at_once() -> None:
    read, write = os.pipe()
    driver = Fake([], wake_fd=read)
    with running(lambda: driver, poll_s=10.0) as (_, polled):
        until(lambda: len(polled) == 1)
        os.write(write, b"x")
        until(lambda: len(polled) >= 2)
        os.read(read, 1)
    os.close(read)
    os.close(write)


def test_a_poll_can_be_hurried_and_then_the_pace_goes_on() -> None:
    driver = Fake([])
    with running(lambda: driver, poll_s=10.0) as (ups, polled):
        until(lambda: len(polled) == 1)
        at_s = time.monotonic() + 0.05
        ups.hurry(at_s)
        until(lambda: len(polled) == 2, 1.0)
        assert polled[1].status is not None and 0 <= polled[1].status.taken_s - at_s < 0.05


def test_a_poll_that_began_before_the_hurried_second_is_not_that_poll() -> None:
    go = threading.Event()

    class Slow(Fake):
        def poll(self) -> Status:
            status = super().poll()  # what was said is older than the end of the poll
            go.wait(3.0)
            return status

    driver = Slow([])
    with running(lambda: driver, poll_s=10.0) as (ups, polled):
        time.sleep(0.05)  # it is in its poll
        at_s = time.monotonic()
        go.set()
        until(lambda: len(polled) == 1)
        ups.hurry(at_s)  # known only now that its status has been looked at
        until(lambda: len(polled) == 2, 1.0)
        time.sleep(0.1)
        assert len(polled) == 2 and polled[0].status is not None and polled[1].status is not None
        assert polled[0].status.taken_s < at_s <= polled[1].status.taken_s


def test_a_ups_that_wakes_without_end_is_polled_some_twenty_times_a_second() -> None:
    wake_r, wake_w = os.pipe()
    os.write(wake_w, b"x")  # nobody reads it: always readable
    try:
        with running(lambda: Fake([], wake_r), poll_s=30.0) as (_, polled):
            time.sleep(0.2)
        assert 2 <= len(polled) <= 6
    finally:
        os.close(wake_r)
        os.close(wake_w)


def test_a_line_is_opened_again_at_the_end_of_its_pause_however_seldom_it_is_polled() -> None:
    left: list[Any] = [LinkError("not there"), LinkError("not there"), Fake([])]

    def opener() -> Fake:
        made = left.pop(0)
        if isinstance(made, LinkError):
            raise made
        return made

    polled: list[Polled] = []
    ups, stop = Ups(opener, polled.append, 30.0, Rescue(time.monotonic), (0.02,)), threading.Event()
    thread = threading.Thread(target=ups.run, args=(stop,))
    thread.start()
    try:
        until(lambda: polled and polled[-1].status is not None, 1.0)
    finally:
        stop.set()
        ups.wake()
        thread.join()
