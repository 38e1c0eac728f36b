"""A machine that is never told to go down, only woken after an outage: one that sees to itself.

It is up when its machine answers a connection to its port, be it by accepting or by refusing.
"""

from __future__ import annotations

from ..config import Server
from ..model import Option
from . import NOT_DELIVERED, REACHABLE, Job, Outcome, Steps, connect

PORT = 9
OPTIONS: tuple[Option, ...] = ()


def wrong(server: Server) -> str:
    """What is wrong with the server's options taken together, or ""."""
    return "" if server.wake else 'how = "wake" and wake = false: nothing would ever be done; remove one of them'


def send(job: Job) -> Steps:
    """Never asked for: such a server is not told."""
    yield from ()
    return Outcome(NOT_DELIVERED, "only woken")


def prove(job: Job) -> Steps:
    """Does its machine answer?"""
    try:
        (yield from connect(job)).close()
    except ConnectionRefusedError:
        return Outcome(REACHABLE, "answers")
    return Outcome(REACHABLE, "accepts connections")
