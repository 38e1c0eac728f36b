"""Decides what an accepted command does: runs the configured program once, waits out the grace delay, knows repeats.

A repeat of SHUTDOWN by the same sender is a duplicate while the first is in grace or running, and until REPEAT_S
have passed without one. The sender's WAKEUP, a failed command or a restart of this machine clears it. Seconds are
monotonic and handed in.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Callable, Optional, Protocol

from . import VERSION, secure
from .codec import EXECUTE, MSG_TEXT, SHUTDOWN, WAKEUP, Command, printable
from .journal import Journal
from .settings import Settings
from .votes import Votes

REPEAT_S = 300.0
SENDERS_LIMIT = 256  # remembered for the duplicate rule; the one not heard for longest is forgotten first
MESSAGES_LIMIT = 4  # on-message commands at the same time
EXECUTES_LIMIT = 8  # [execute] commands at the same time
LOOK_EVERY_S = 0.2  # how soon the end of a command is noticed
SHOW_LIMIT = 200  # characters of a sender's text in one log line, names; messages are shown whole


class Job(Protocol):
    """A started program; subprocess.Popen is one."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code; None: it runs."""


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


class Orders:
    """What runs, what waits, and who asked."""

    def __init__(self, settings: Settings, journal: Journal, start: Start = start_program) -> None:
        self._settings, self._journal, self._start = settings, journal, start
        self._heard_s: dict[str, float] = {}  # sender -> its last SHUTDOWN; oldest first
        self._votes = Votes(settings)  # of those that ask, while they are too few
        self._asking: set[str] = set()  # whose SHUTDOWN the grace delay, or the command, runs for
        self._starts_s: float | None = None  # when the grace delay is over
        self._shutdown: Job | None = None
        self._messages: list[Job] = []
        self._executes: dict[str, Job] = {}  # name -> what runs

    def take(self, command: Command, sender: str, now_s: float) -> bool:
        """Act on a command of a permitted sender. True: accepted (also a duplicate); False: refused, try again."""
        self.tick(now_s)
        if command.verb == SHUTDOWN:
            return self._take_shutdown(sender, now_s)
        if command.verb == WAKEUP:
            return self._take_wakeup(sender, now_s)
        if command.verb == MSG_TEXT:
            return self._take_message(printable(command.argument), sender, now_s)
        return self._take_execute(command.argument, sender, now_s)

    def answer(self, line: bytes, sender: str, address: str, now_s: float) -> secure.Reply:
        """Act on the line of a sender with a certificate, and say what becomes of it."""
        try:
            request = secure.parse_request(line)
        except secure.Malformed as e:
            self._journal.limited("refused", f"{sender} ({address})", "-", f"refused, {e}", now_s)
            return secure.Reply(secure.REFUSED, {"why": e.why})
        if request.verb == secure.NOOP:
            facts = {"version": VERSION, "selftest": "off", "need": str(self._settings.need), "votes": "0"}
            return secure.Reply(secure.ACCEPTED, facts)
        if self.take(Command(request.verb, request.argument), sender, now_s):
            return secure.Reply(secure.ACCEPTED, {})
        return secure.Reply(secure.REFUSED, {"why": secure.NOTHING_CONFIGURED})

    def tick(self, now_s: float) -> None:
        """Start what has waited long enough; notice what has ended."""
        if self._starts_s is not None and now_s >= self._starts_s:
            self._starts_s = None
            self._run_shutdown(now_s)
        self._reap(now_s)

    def due_s(self, now_s: float) -> float | None:
        """When `tick` has something to do; None: not before the next command."""
        times = [] if self._starts_s is None else [self._starts_s]
        if self._shutdown is not None or self._messages or self._executes:
            times.append(now_s + LOOK_EVERY_S)
        return min(times, default=None)

    def close(self) -> None:
        """The listener ends: what runs goes on, what waits is dropped, and said to be."""
        if self._starts_s is not None:
            self._journal.line(",".join(sorted(self._asking)), SHUTDOWN, "dropped: stopped within the grace delay")

    # --- verbs -----------------------------------------------------------------------------------------------

    def _take_shutdown(self, sender: str, now_s: float) -> bool:
        if not self._settings.on_shutdown:
            self._journal.limited("refused", sender, SHUTDOWN, "refused, no on_shutdown is configured", now_s)
            return False
        last_s = self._heard_s.pop(sender, None)
        self._heard_s[sender] = now_s
        if len(self._heard_s) > SENDERS_LIMIT:
            del self._heard_s[next(iter(self._heard_s))]
        if self._starts_s is not None:
            self._asking.add(sender)
        if self._starts_s is not None or self._shutdown is not None:
            state = "runs already" if self._shutdown is not None else "waits in its grace delay"
            what = "accepted" if last_s is None else "duplicate"
            self._journal.limited("repeats", sender, SHUTDOWN, f"{what}, the command {state}", now_s)
            return True
        if last_s is not None and now_s - last_s < REPEAT_S:
            outcome = f"duplicate of {now_s - last_s:.0f} s ago, the command has run"
            self._journal.limited("repeats", sender, SHUTDOWN, outcome, now_s)
            return True
        if not self._suffices(sender, now_s):
            return True
        if self._settings.grace_s > 0:
            self._starts_s = now_s + self._settings.grace_s
            self._journal.line(sender, SHUTDOWN, f"accepted, the command starts in {self._settings.grace_s:g} s")
            return True
        return self._run_shutdown(now_s)

    def _suffices(self, sender: str, now_s: float) -> bool:
        """Have as many senders asked as are needed? Then they are `_asking`."""
        need = self._settings.need
        if need <= 1:
            self._asking = {sender}
            return True
        self._votes.add(sender, now_s)
        asking = self._votes.of(now_s)
        if len(asking) >= need:
            self._asking = set(asking)
            self._votes.clear(now_s)
            return True
        del self._heard_s[sender]  # when it asks again, that is no duplicate of a command that ran
        outcome = f"accepted, {len(asking)} of {need} senders that are needed"
        if self._votes.failed:
            outcome += f"; a restart would forget it: {self._votes.failed}"
        self._journal.limited("repeats", sender, SHUTDOWN, outcome, now_s)
        return False

    def _run_shutdown(self, now_s: float) -> bool:
        self._shutdown = self._begin(self._settings.on_shutdown, SHUTDOWN, ",".join(sorted(self._asking)))
        if self._shutdown is None:
            self._failed(now_s)
        return self._shutdown is not None

    def _failed(self, now_s: float) -> None:
        """The next SHUTDOWN of anybody runs it again."""
        self._heard_s.clear()
        if self._settings.need > 1:
            self._votes.restore(self._asking, now_s)

    def _take_wakeup(self, sender: str, now_s: float) -> bool:
        known = self._heard_s.pop(sender, None) is not None
        if self._votes.withdraw(sender, now_s):
            self._journal.line(sender, WAKEUP, "accepted, its SHUTDOWN counts no more")
            return True
        self._asking.discard(sender)
        if self._shutdown is not None:
            self._journal.limited("repeats", sender, WAKEUP, "accepted, but the shutdown command runs already", now_s)
        elif self._starts_s is not None and len(self._asking) < self._settings.need:
            self._starts_s = None
            for other in self._asking:  # its word counts on, until it is one of enough again
                self._heard_s.pop(other, None)
            self._votes.restore(self._asking, now_s)
            self._journal.line(sender, WAKEUP, "accepted, the waiting shutdown is cancelled")
        elif self._starts_s is not None:
            others = ",".join(sorted(self._asking))
            self._journal.limited("repeats", sender, WAKEUP, f"accepted, but {others} wants the shutdown", now_s)
        else:
            outcome = "accepted, its next SHUTDOWN is a new one" if known else "accepted, nothing to withdraw"
            self._journal.limited("repeats", sender, WAKEUP, outcome, now_s)
        return True

    def _take_message(self, text: str, sender: str, now_s: float) -> bool:
        self._journal.limited("messages", sender, MSG_TEXT, f"accepted, {text!r}", now_s)
        if not self._settings.on_message:
            return True
        if len(self._messages) >= MESSAGES_LIMIT:
            outcome = f"only logged, {MESSAGES_LIMIT} message commands run already"
            self._journal.limited("messages", sender, MSG_TEXT, outcome, now_s)
            return True
        job = self._begin(self._settings.on_message, MSG_TEXT, sender, text.encode() + b"\n", now_s)
        if job is not None:
            self._messages.append(job)
        return True

    def _take_execute(self, name: str, sender: str, now_s: float) -> bool:
        shown = repr(printable(name)[:SHOW_LIMIT])
        argv = self._settings.execute.get(name)
        if argv is None:
            self._journal.limited("refused", sender, EXECUTE, f"refused, {shown} is not in [execute]", now_s)
            return False
        if name in self._executes:
            self._journal.limited("repeats", sender, EXECUTE, f"duplicate, {shown} runs already", now_s)
            return True
        if len(self._executes) >= EXECUTES_LIMIT:
            outcome = f"refused, {EXECUTES_LIMIT} commands run already"
            self._journal.limited("refused", sender, EXECUTE, outcome, now_s)
            return False
        job = self._begin(argv, EXECUTE, sender, now_s=now_s)
        if job is None:
            return False
        self._executes[name] = job
        return True

    # --- programs --------------------------------------------------------------------------------------------

    def _begin(
        self, argv: Sequence[str], verb: str, sender: str, text: bytes | None = None, now_s: float | None = None
    ) -> Job | None:
        """Start a program and say so (at a limited rate if `now_s` is given); None: it did not start."""
        job: Job | None
        try:
            job = self._start(argv, {"RCCMD_VERB": verb, "RCCMD_SENDER": sender}, text)
            outcome = f"started {shlex.quote(argv[0])}, pid {job.pid}"
        except OSError as e:
            job, outcome = None, f"failed, {shlex.quote(argv[0])} did not start: {e.strerror}"
        if now_s is None:
            self._journal.line(sender, verb, outcome)
        else:
            self._journal.limited("messages", sender, verb, outcome, now_s)
        return job

    def _reap(self, now_s: float) -> None:
        if self._shutdown is not None and (code := self._shutdown.poll()) is not None:
            self._shutdown = None
            outcome = f"the command ended, {_exit(code)}"
            if code != 0:
                self._failed(now_s)
                outcome += "; the next SHUTDOWN runs it again"
            self._journal.line("-", SHUTDOWN, outcome)
        for job in self._messages:
            if code := job.poll():
                self._journal.limited("messages", "-", MSG_TEXT, f"the command ended, {_exit(code)}", now_s)
        self._messages = [job for job in self._messages if job.poll() is None]
        for name, job in list(self._executes.items()):
            if (code := job.poll()) is not None:
                del self._executes[name]
                self._journal.limited("messages", "-", EXECUTE, f"{name!r} ended, {_exit(code)}", now_s)


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
