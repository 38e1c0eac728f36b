"""Refused SETs: each sender's first leaves a row, and however many there are, few follow."""

from __future__ import annotations

from agent.refusals import AGAIN_S, SENDERS_LIMIT, Refusals


def test_the_first_of_a_sender_counts_and_the_next_row_tells_how_many_there_were() -> None:
    kept = Refusals()
    assert kept.due("boss", "192.0.2.1", 0.0) == 0
    assert [kept.due("boss", "192.0.2.1", at_s) for at_s in (1.0, 2.0, AGAIN_S - 1)] == [None] * 3
    assert kept.due("ops", "192.0.2.1", 2.0) == 3, "another sender is another, and tells of all"
    assert kept.due("boss", "192.0.2.1", AGAIN_S) == 0
    assert kept.due("boss", "192.0.2.1", AGAIN_S + 1) is None


def test_many_senders_share_a_row() -> None:
    kept = Refusals()
    found = [kept.due("c", f"192.0.2.{n}", 1.0) for n in range(SENDERS_LIMIT + 20)]
    assert found == [0] * (SENDERS_LIMIT + 1) + [None] * 19
    assert kept.due("c", "198.51.100.1", AGAIN_S + 0.5) is None
    assert [kept.due("c", "198.51.100.1", at_s) for at_s in (AGAIN_S + 1.0, AGAIN_S + 2.0)] == [20, None]
