"""Starts the programs that are configured: without a shell, in a session of their own, with nothing from the wire."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Callable, Optional, Protocol

from .journal import Journal


class Job(Protocol):
    """A started program; subprocess.Popen is one."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code; None: it runs."""

    def kill(self) -> None:
        """End it."""


Start = Callable[[Sequence[str], Mapping[str, str], Optional[bytes]], Job]


def start_program(argv: Sequence[str], facts: Mapping[str, str], text: bytes | None) -> Job:
    """Start a program detached in its own session: facts in its environment, text on its stdin. Raises OSError."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        env={**os.environ, **facts},
        start_new_session=True,
    )
    if process.stdin is not None:
        try:
            process.stdin.write(text or b"")  # a message fits any pipe's buffer: this cannot wait for the program
            process.stdin.close()
        except BrokenPipeError:
            pass  # it does not want to read the text
    return process


class DryJob:
    """A program that was not started because this is a dry run."""

    pid = 0

    def poll(self) -> int | None:
        """It has done nothing, and that well."""
        return 0

    def kill(self) -> None:
        """Nothing to end."""


class Programs:
    """Starts them and says so in the log."""

    def __init__(self, journal: Journal, start: Start, *, dry_run: bool = False) -> None:
        self._journal, self._start, self._dry_run = journal, start, dry_run

    def begin(
        self,
        argv: Sequence[str],
        verb: str,
        sender: str,
        text: bytes | None = None,
        limited_at_s: float | None = None,
        harmless: bool = False,
    ) -> Job | None:
        """Start one; None: it did not start. `limited_at_s`: the log line is one that others can cause at will.
        `harmless`: it is started in a dry run too."""
        job: Job | None
        shown = shlex.quote(argv[0])
        if self._dry_run and not harmless:
            job, outcome = DryJob(), f"dry run, would have started {shown}"
        else:
            try:
                job = self._start(argv, {"RCCMD_VERB": verb, "RCCMD_SENDER": sender}, text)
                outcome = f"started {shown}, pid {job.pid}"
            except OSError as e:
                job, outcome = None, f"failed, {shown} did not start: {e.strerror}"
        if limited_at_s is None:
            self._journal.line(sender, verb, outcome)
        else:
            self._journal.limited("messages", sender, verb, outcome, limited_at_s)
        return job


def ended(code: int) -> str:
    """How a program ended, in words."""
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
