"""Attempts: whatever a way does with its descriptors, its time and its mistakes, it harms no other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from agent import attempt
from agent.attempt import Attempt, Attempts
from agent.model import ConfigError
from agent.reach import ACCEPTED, NOT_DELIVERED, Late, Outcome, Steps, Wait


class Owner:
    """Collects the outcomes, and goes round once as the delivery does."""

    def __init__(self) -> None:
        self.came: list[Outcome] = []
        self.attempts: Attempts[str] = Attempts(lambda attempt, outcome, now_s: self.came.append(outcome))

    def begin(self, steps: Steps, way: str = "way") -> Attempt[str]:
        found = self.attempts.begin("server", way, steps, 0.0)
        self.attempts.go_on(found, 0.0)
        return found

    def turn(self, now_s: float = 0.0) -> None:
        for key, _ in self.attempts.selector.select(0):
            self.attempts.go_on(key.data, now_s)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_way_may_close_what_it_waited_for_and_open_another_of_the_same_number() -> None:
    def steps() -> Steps:
        first = os.pipe()
        os.write(first[1], b"x")
        yield Wait(first[0], False, 1.0, "late")
        for fd in first:
            os.close(fd)
        second = os.pipe()
        assert second == first
        os.write(second[1], b"x")
        yield Wait(second[0], False, 1.0, "late")
        for fd in second:
            os.close(fd)
        return Outcome(ACCEPTED)

    owner = Owner()
    owner.begin(steps())
    owner.turn()
    owner.turn()
    assert owner.came == [Outcome(ACCEPTED)]


def test_a_way_that_is_late_at_the_end_of_its_time_may_still_say_what_that_means(pipe: tuple[int, int]) -> None:
    def steps() -> Steps:
        try:
            yield Wait(pipe[0], False, 30.0, "it still runs")
        except Late:
            return Outcome(ACCEPTED, "it still runs")
        return Outcome(NOT_DELIVERED)

    owner = Owner()
    found = owner.begin(steps())
    assert found.due_s == attempt.ATTEMPT_S
    owner.attempts.go_on(found, found.due_s, found.why)
    assert owner.came == [Outcome(ACCEPTED, "it still runs")]


def test_a_way_that_will_not_end_is_ended(pipe: tuple[int, int]) -> None:
    given_back: list[bool] = []

    def steps() -> Steps:
        try:
            while True:
                try:
                    yield Wait(pipe[0], False, 20.0, "no answer")
                except Late:
                    pass
        finally:
            given_back.append(True)

    owner = Owner()
    found = owner.begin(steps())
    owner.attempts.go_on(found, 20.0, found.why)
    assert owner.came == [] and found.due_s == attempt.ATTEMPT_S
    owner.attempts.go_on(found, 30.0, found.why)
    assert owner.came == [Outcome(NOT_DELIVERED, "no answer")] and given_back == [True]


@pytest.mark.parametrize("mistake", [OSError("no"), ConfigError("no"), ValueError("no"), IndexError("no")])
def test_a_mistake_of_one_way_is_its_outcome(mistake: Exception) -> None:
    def steps() -> Steps:
        yield from ()
        raise mistake

    owner = Owner()
    owner.begin(steps())
    assert owner.came == [Outcome(NOT_DELIVERED, "no")]


def test_what_cannot_be_waited_for_is_an_outcome_too() -> None:
    def steps() -> Steps:
        with open("/proc/self/stat") as file:  # epoll takes no files
            yield Wait(file.fileno(), False, 1.0, "late")
        return Outcome(ACCEPTED)

    owner = Owner()
    owner.begin(steps())
    owner.begin(iter_closed())
    assert [o.word for o in owner.came] == [NOT_DELIVERED, NOT_DELIVERED]


def iter_closed() -> Steps:
    ends = os.pipe()
    for fd in ends:
        os.close(fd)
    yield Wait(ends[0], False, 1.0, "late")
    return Outcome(ACCEPTED)


def test_a_free_slot_is_told_only_to_who_waits_for_it(pipe: tuple[int, int]) -> None:
    def steps() -> Steps:
        yield Wait(pipe[0], False, 1.0, "late")
        return Outcome(ACCEPTED)

    owner = Owner()
    first, second = owner.attempts, owner.begin(steps())
    assert first.has_slot("way", None) and first.has_slot("way", 2) and first.has_slot("other", 1)
    first.end(second)
    assert not first.freed
    third = owner.begin(steps())
    assert not first.has_slot("way", 1)
    first.end(third)
    assert first.freed and first.has_slot("way", 1)
