"""Runs a program of this host without ever waiting for it: each step says what it waits for.

A program has its own session, no input, a small environment, and one pipe for all that it says. Both its pipe and
its end (pidfd) hang on one epoll descriptor, so a way can wait for either with one Wait. Every child is reaped: at
its end here, or by a thread of its own when it is left to itself or killed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence

from .reach import Late, Wait

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_LIMIT_BYTES = 4096  # the newest are kept
READ_BYTES = 64 * 1024
LEFT_LIMIT = 32  # programs that were left to themselves and still run

_left: set[int] = set()  # their process ids


def left() -> int:
    """How many programs were left to themselves and still run."""
    return len(_left)


class Program:
    """One running program. OSError if it cannot be started. Whoever made it must `kill` or `leave` it in the end."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], mark: bytes = b"") -> None:
        """`env`: besides PATH and LANG. `mark`: a line of output that begins so sets `marked`."""
        self.code: int | None = None  # None: it runs; negative: ended by that signal
        self.output, self.marked = b"", False
        self._mark = b"\n" + mark if mark else b""
        self._child = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH, "LANG": "C.UTF-8", **env},
            cwd="/",
            start_new_session=True,
        )
        try:
            self._ready = select.epoll()
            self._end = os.pidfd_open(self._child.pid)
        except OSError:  # no descriptor left
            self._child.kill()
            self._child.wait()
            raise
        self._ready.register(self._end, select.EPOLLIN)
        self._pipe = self._child.stdout
        if self._pipe is not None:
            os.set_blocking(self._pipe.fileno(), False)
            self._ready.register(self._pipe.fileno(), select.EPOLLIN)

    def run(self, within_s: float, why: str, *, to_mark: bool = False) -> Generator[Wait, None, None]:
        """Go on until it ended, or the mark was seen. Late(why) after `within_s` all in all."""
        end_s = time.monotonic() + within_s
        while not self._look() and not (to_mark and self.marked):
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise Late(why)
            yield Wait(self._ready.fileno(), False, left_s, why)

    def text(self) -> list[str]:
        """The lines of its output that say something, printable."""
        rows = self.output.decode("utf-8", "replace").splitlines()
        rows = ["".join(c if c.isprintable() else " " for c in row).strip() for row in rows]
        return [row for row in rows if row]

    def kill(self) -> None:
        """End it and all that it started; nothing happens if it has ended."""
        if self._look():
            return
        os.killpg(self._child.pid, signal.SIGKILL)
        self._reap_later()

    def leave(self) -> None:
        """Let it run on by itself; what it says is taken and thrown away, so that it never hangs on its output."""
        if self._look():
            return
        _left.add(self._child.pid)
        self._reap_later()

    def _reap_later(self) -> None:
        try:
            threading.Thread(target=self._follow, name="reaper", daemon=True).start()
        except RuntimeError:  # no thread to be had: subprocess reaps it before it starts the next program
            _left.discard(self._child.pid)

    def _follow(self) -> None:
        while not self._look():
            self._ready.poll()
        _left.discard(self._child.pid)

    def _look(self) -> bool:
        """Take what it said; True if it has ended, and then all is given back."""
        if self.code is not None:
            return True
        code = self._child.poll()
        self._read()
        if code is None:
            return False
        self.code = code
        if self._pipe is not None:
            self._pipe.close()
        self._ready.close()
        os.close(self._end)
        return True

    def _read(self) -> None:
        if self._pipe is None:
            return
        try:
            data = os.read(self._pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if not data:  # it closed its output, but may run on
            self._ready.unregister(self._pipe.fileno())
            self._pipe.close()
            self._pipe = None
            return
        before = b"\n" + self.output if len(self.output) < OUTPUT_LIMIT_BYTES else self.output
        self.marked = self.marked or bool(self._mark and self._mark in before + data)
        self.output = (self.output + data)[-OUTPUT_LIMIT_BYTES:]
