"""Plays the steps of ways as the delivery does, in one thread with real time-outs; measures how long it is held."""

from __future__ import annotations

import select
import time
from pathlib import Path
from typing import Any

from agent.reach import Late, Outcome, Steps, Wait


def run(steps: Steps, within_s: float = 20.0) -> Outcome:
    """One way to its end; an error that it does not catch comes out here."""
    outcome = run_all([steps], within_s)[0][0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_all(ways: list[Steps], within_s: float = 60.0) -> tuple[list[Any], float]:
    """All of them at once: the outcomes (or errors) in their order, and the longest time that one step took."""
    outcomes: list[Any] = [None] * len(ways)
    waits: dict[int, tuple[Wait, float]] = {}
    longest_s = 0.0

    def turn(number: int, late: str = "") -> None:
        nonlocal longest_s
        began_s = time.monotonic()
        waits.pop(number, None)
        try:
            wait = ways[number].throw(Late(late)) if late else next(ways[number])
            waits[number] = wait, time.monotonic() + wait.within_s
        except StopIteration as end:
            outcomes[number] = end.value
        except (OSError, Late) as e:
            outcomes[number] = e
        longest_s = max(longest_s, time.monotonic() - began_s)

    end_s = time.monotonic() + within_s
    try:
        for number in range(len(ways)):
            turn(number)
        while waits:
            assert time.monotonic() < end_s, f"not within {within_s:g} s: {[w.why for w, _ in waits.values()]}"
            poll, waiting = select.poll(), {}
            for number, (wait, _) in waits.items():
                poll.register(wait.fd, select.POLLOUT if wait.write else select.POLLIN)
                waiting[wait.fd] = number
            first_s = min(until_s for _, until_s in waits.values())
            ready = [fd for fd, _ in poll.poll(max(0.0, first_s - time.monotonic()) * 1000 + 1)]
            for fd in ready:
                turn(waiting[fd])
            for number, (wait, until_s) in list(waits.items()):
                if time.monotonic() >= until_s and wait.fd not in ready:
                    turn(number, wait.why)
    finally:
        for way in ways:
            way.close()
    return outcomes, longest_s


def children() -> dict[int, str]:
    """This process's children and their states as the kernel tells them: "Z" is a zombie."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
        for pid in pids:
            try:
                found[int(pid)] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def gone(others: dict[int, str], within_s: float = 5.0) -> bool:
    """No child of ours but the `others` is left, not even as a zombie."""
    end_s = time.monotonic() + within_s
    while (left := children().keys() - others.keys()) and time.monotonic() < end_s:
        time.sleep(0.005)
    return not left


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
