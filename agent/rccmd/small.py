"""The small commands, beside the shutdown: shows messages, runs what [execute] names, and what a WAKEUP runs."""

from __future__ import annotations

from typing import Callable

from .codec import EXECUTE, MSG_TEXT, WAKEUP, printable
from .journal import Journal
from .programs import Job, Programs, ended
from .secure import ACCEPTED, BUSY, DID_NOT_START, NOTHING_CONFIGURED, REFUSED, Reply
from .settings import USERS, Settings

MESSAGES_LIMIT = 4  # on-message commands at the same time
EXECUTES_LIMIT = 8  # [execute] commands at the same time
SHOW_LIMIT = 200  # characters of a sender's text in one log line, names; messages are shown whole


class Small:
    """What of them runs."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        programs: Programs,
        tell_users: Callable[[str], tuple[int, int]],
    ) -> None:
        self._settings, self._journal, self._programs = settings, journal, programs
        self._tell_users = tell_users
        self._messages: list[Job] = []
        self._executes: dict[str, Job] = {}  # name -> what runs
        self._wakeup: Job | None = None

    @property
    def busy(self) -> bool:
        """Something runs, whose end `tick` will notice."""
        return bool(self._messages or self._executes or self._wakeup)

    def runs(self, name: str) -> bool:
        """Does the command of this name run?"""
        return name in self._executes

    def tick(self, now_s: float) -> None:
        """Notice what has ended."""
        for job in self._messages:
            if code := job.poll():
                self._journal.limited("messages", "-", MSG_TEXT, f"the command ended, {ended(code)}", now_s)
        self._messages = [job for job in self._messages if job.poll() is None]
        for name, job in list(self._executes.items()):
            if (code := job.poll()) is not None:
                del self._executes[name]
                self._journal.limited("messages", "-", EXECUTE, f"{name!r} ended, {ended(code)}", now_s)
        if self._wakeup is not None and (code := self._wakeup.poll()) is not None:
            self._wakeup = None
            self._journal.limited("messages", "-", WAKEUP, f"the command ended, {ended(code)}", now_s)

    def message(self, argument: str, sender: str, now_s: float) -> Reply:
        """Show a text: in the log, and to the users or by the program for it."""
        text = printable(argument)
        self._journal.limited("messages", sender, MSG_TEXT, f"accepted, {text!r}", now_s)
        argv: tuple[str, ...] = self._settings.on_message
        if not argv:
            return Reply(ACCEPTED, {})
        if argv == USERS:
            if not self._settings.dry_run:
                told, refused = self._tell_users(f"{sender}: {text}")
                if refused:
                    outcome = f"shown on {told} terminals, {refused} refused: is the listener in the group tty?"
                    self._journal.limited("messages", sender, MSG_TEXT, outcome, now_s)
        elif len(self._messages) >= MESSAGES_LIMIT:
            outcome = f"only logged, {MESSAGES_LIMIT} message commands run already"
            self._journal.limited("messages", sender, MSG_TEXT, outcome, now_s)
        else:
            job = self._programs.begin(argv, MSG_TEXT, sender, text.encode() + b"\n", limited_at_s=now_s)
            if job is not None:
                self._messages.append(job)
        return Reply(ACCEPTED, {})

    def execute(self, name: str, sender: str, now_s: float) -> Reply:
        """Run what the table has for this name; busy: this one, or too many others, run."""
        shown = repr(printable(name)[:SHOW_LIMIT])
        argv = self._settings.execute.get(name)
        if argv is None:
            self._journal.limited("refused", sender, EXECUTE, f"refused, {shown} is not in [execute]", now_s)
            return Reply(REFUSED, {"why": NOTHING_CONFIGURED})
        if name in self._executes:
            self._journal.limited("repeats", sender, EXECUTE, f"duplicate, {shown} runs already", now_s)
            return Reply(BUSY, {})
        if len(self._executes) >= EXECUTES_LIMIT:
            outcome = f"refused, {EXECUTES_LIMIT} commands run already"
            self._journal.limited("refused", sender, EXECUTE, outcome, now_s)
            return Reply(BUSY, {})
        job = self._programs.begin(argv, EXECUTE, sender, limited_at_s=now_s)
        if job is None:
            return Reply(REFUSED, {"why": DID_NOT_START})
        self._executes[name] = job
        return Reply(ACCEPTED, {})

    def wakeup(self, sender: str, now_s: float) -> bool:
        """Run what is configured for a WAKEUP; False: it did not start, or another one runs."""
        if not self._settings.on_wakeup:
            return True
        if self._wakeup is not None:
            self._journal.limited("repeats", sender, WAKEUP, "the command of an earlier one runs still", now_s)
            return False
        self._wakeup = self._programs.begin(self._settings.on_wakeup, WAKEUP, sender, limited_at_s=now_s)
        return self._wakeup is not None
