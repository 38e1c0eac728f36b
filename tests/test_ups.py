"""The ups thread: polls in time, opens again for ever, and gives orders one after the other."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent import seldom
from agent import ups as ups_module
from agent.model import Battery, Command, LinkError, OrderError, Source, Status
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


def test_one_that_is_hurried_without_end_is_polled_some_twenty_times_a_second() -> None:
    polled: list[Polled] = []

    def take(one: Polled) -> None:
        polled.append(one)
        ups.hurry(time.monotonic())

    ups, stop = Ups(lambda: Fake([]), take, 30.0, Rescue(time.monotonic)), threading.Event()
    thread = threading.Thread(target=ups.run, args=(stop,))
    thread.start()
    time.sleep(0.2)
    stop.set()
    ups.wake()
    thread.join()
    assert 2 <= len(polled) <= 6


def test_a_unit_that_said_no_runtime_with_a_full_battery_has_none_to_tell_when_it_is_empty() -> None:
    said = [(100.0, 0.0, False), (89.0, 0.0, False), (20.0, 0.0, True), (19.0, 60.0, True), (18.0, 0.0, True)]
    said += [(17.0, 600.0, True), (17.0, 600.0, True), (16.0, 0.0, True)]
    left = list(said)

    class Mute(Fake):
        def poll(self) -> Status:
            charge_pct, runtime_s, low = left.pop(0)
            battery = Battery(charge_pct=charge_pct, runtime_s=runtime_s, low=low)
            return Status(taken_s=time.monotonic(), source=Source.BATTERY, battery=battery)

    polled: list[Polled] = []
    ups = Ups(lambda: Mute([]), polled.append, 1.0, Rescue(time.monotonic))
    for _ in said:
        ups._poll()
    runtimes = [one.status.battery.runtime_s for one in polled if one.status is not None]
    assert runtimes[:5] == [None, None, None, 60.0, None], "60 once may be a damaged 0"
    assert runtimes[5:] == [600.0, 600.0, 0.0], "one that tells some is believed"


def test_a_driver_that_wants_to_look_again_soon_is_polled_then_and_after_that_at_its_pace() -> None:
    class Moving(Fake):
        again_s: float | None = None
        looks = 0

        def poll(self) -> Status:
            self.looks += 1
            self.again_s = 0.05 if self.looks < 3 else None
            return super().poll()

    driver = Moving([])
    with running(lambda: driver, poll_s=10.0) as (ups, polled):
        until(lambda: polled)
        ups.hurry(time.monotonic() + 5.0)  # what others want later does not put it off
        until(lambda: len(polled) == 3, 1.0)
        time.sleep(0.15)
        assert len(polled) == 3
    times = [p.status.taken_s for p in polled if p.status is not None]
    assert times[1] - times[0] >= 0.05 and times[2] - times[1] >= 0.05


class Paper(logging.Handler):
    """A log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def paper() -> Iterator[Paper]:
    """What is logged, as the core writes it at second `paper.now_s`."""
    it, root = Paper(), logging.getLogger()
    before = root.level
    root.addHandler(it)
    root.setLevel(logging.INFO)
    yield it
    root.removeHandler(it)
    root.setLevel(before)


def test_a_link_that_flaps_is_a_few_lines_an_hour_and_how_many_were_left_out(paper: Paper) -> None:
    now = [0.0]
    seldom.bound([paper], lambda: now[0])
    driver = Fake([])
    ups = Ups(lambda: driver, lambda polled: None, 1.0, Rescue(time.monotonic))
    for second in range(3601):
        now[0], driver.script = float(second), [second % 2 == 0]
        ups._poll()
    assert paper.lines == ["poll failed: silence"] * seldom.LINES
    now[0], driver.script = 3602.0, [False]
    ups._poll()
    assert paper.lines[seldom.LINES :] == ["poll failed: silence (1790 lines like this were left out)"]
    driver.script = [True]
    ups._poll()
    now[0], driver.script = 9000.0, [False]
    ups._poll()
    assert paper.lines[-1] == "poll failed: silence"


def test_each_kind_of_line_counts_for_itself_and_those_of_others_are_all_written(paper: Paper) -> None:
    seldom.bound([paper], lambda: 0.0)
    for number in range(20):
        logging.getLogger("agent.q1.find").info("the UPS speaks %s", f"d{number}")
        logging.getLogger("agent.bridge").info("usb: bridge %s at %s", "cypress", number)
        logging.getLogger("agent.engine").info("event %d", number)
        logging.getLogger("agent.ups").warning("%s", f"a value {number}")
    kinds = [sum(line.startswith(text) for line in paper.lines) for text in ("the", "usb", "event", "a value")]
    assert kinds == [10, 10, 20, 20]
