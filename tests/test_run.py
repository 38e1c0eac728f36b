"""The supervisor with pretended children: who says that it works lives, who hangs is killed, also a stopped one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import process, run

WORKS = "import time; from agent.process import notify\nwhile True: notify('WATCHDOG=1'); time.sleep(0.02)"
ROOT = Path(__file__).resolve().parent.parent


class World:
    """A Part whose child runs a few lines of Python; its time is a number, the child's is real."""

    def __init__(self, script: str) -> None:
        self.part = run.Part("core", [sys.executable, "-c", script], 0)
        self.now_s = 100.0

    def turn(self, later_s: float = 0.1) -> None:
        self.now_s += later_s
        self.part.turn(self.now_s)

    @property
    def child(self) -> subprocess.Popen[bytes]:
        assert self.part._process is not None
        return self.part._process

    def until(self, true: Callable[[], bool], later_s: float = 0.0) -> None:
        end_s = time.monotonic() + 10
        while not true():
            assert time.monotonic() < end_s
            self.turn(later_s)
            time.sleep(0.01)

    def heard(self) -> bool:
        return self.part._patience_s == run.SILENT_S["core"]

    def end(self) -> None:
        if self.part._process is not None:
            self.part._process.kill()
        self.part.end(5.0)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_child_that_says_that_it_works_lives_and_one_that_is_stopped_is_killed_and_started_again() -> None:
    world = World(WORKS)
    try:
        world.turn()
        world.until(world.heard)
        for _ in range(30):  # a minute in which it speaks
            world.until(lambda: world.part._heard_s == world.now_s)
            world.turn(2.0)
        first = world.child
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(0.05)
        world.turn()  # takes what it said before
        heard_s = world.part._heard_s
        while world.now_s + 1.9 < heard_s + run.SILENT_S["core"]:
            world.turn(1.9)
            assert world.part._process is first and first.poll() is None
        world.turn(1.9)
        world.until(lambda: world.part._process is None)
        assert first.returncode == -signal.SIGKILL
        world.until(lambda: world.part._process is not None, 0.1)
        world.until(world.heard)
    finally:
        world.end()


def test_a_child_has_a_minute_for_its_first_word_and_a_supervisor_that_was_stopped_waits_anew() -> None:
    world = World("import time; time.sleep(60)")
    try:
        world.turn()
        first = world.child
        for _ in range(59):
            world.turn(1.0)
        world.turn(30.0)  # we were stopped
        for _ in range(59):
            world.turn(1.0)
        assert world.part._process is first and first.poll() is None
        world.turn(1.1)
        world.until(lambda: world.part._process is None)
    finally:
        world.end()


def test_nobody_but_the_child_can_say_that_it_works() -> None:
    pings = process.Pings()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            for data in (b"WATCHDOG=1", b"READY=1", b"x" * 1000, b"READY=1\nWATCHDOG=1"):
                sock.sendto(data, "\0" + pings.name[1:])
        assert not pings.heard(os.getppid())
        assert not pings.heard(os.getpid())  # all was taken
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1\nWATCHDOG=1", "\0" + pings.name[1:])
        assert pings.heard(os.getpid())
    finally:
        pings.close()


def test_a_supervisor_that_does_not_listen_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pings = process.Pings()
    monkeypatch.setenv("NOTIFY_SOCKET", pings.name)
    try:
        began_s = time.monotonic()
        for _ in range(2000):
            process.notify("WATCHDOG=1")
        assert time.monotonic() - began_s < 2.0
    finally:
        pings.close()
