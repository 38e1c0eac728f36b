"""Decides what an accepted command does: runs the configured program once, waits out the grace delay, knows repeats.

Secure commands carry a number, and what was run once is never run again (seen.py). A classic one has none: a repeat
of SHUTDOWN by the same sender is a duplicate while the first is in grace or running, and until it has been quiet for
a while (repeats.py). The sender's WAKEUP, a failed command or a restart of this machine clears it. Seconds are
monotonic and handed in.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Callable

from . import VERSION, relays, users
from .alive import Alive
from .codec import MSG_TEXT, SHUTDOWN, WAKEUP, Command
from .journal import Journal, Taken
from .programs import Job, Programs, Start, ended, start_program
from .repeats import Repeats
from .secure import (
    ACCEPTED,
    BUSY,
    DID_NOT_START,
    DUPLICATE,
    GOING_DOWN,
    NOOP,
    NOTHING_CONFIGURED,
    REFUSED,
    Malformed,
    Reply,
    Request,
    parse_request,
)  # fmt: skip
from .seen import Seen
from .selftest import Selftest
from .settings import Settings
from .small import Small
from .votes import Votes
from .waiting import Waiting

RETRY_S, RETRIES_LIMIT = 10.0, 3  # of a command that failed: a secure sender was told "accepted"
LATEST_LIMIT = 20  # commands that the status shows
LOOK_EVERY_S = 0.2  # how soon the end of a command is noticed


class Orders:
    """What runs, what waits, and who asked. `names` says whose certificates may command; the rest is for tests."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        start: Start = start_program,
        names: Callable[[], Iterable[str]] = tuple,
        tell_users: Callable[[str], tuple[int, int]] = users.tell,
        relay: Callable[[Sequence[tuple[str, int]], Journal], None] = relays.tell,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._journal, self._wall = settings, journal, wall
        self._relay = relay
        self._programs = Programs(journal, start, dry_run=settings.dry_run)
        self._shutdowns, self._wakeups = Repeats(), Repeats()  # of classic senders
        # a dry run leaves nothing behind that would count in earnest
        self.votes = Votes(settings._replace(state=None) if settings.dry_run else settings, wall)
        self.seen = Seen(None if settings.dry_run else settings.state_file("seen"))
        self._waiting = Waiting(None if settings.dry_run else settings.state_file("waiting"))
        self._resumed = False
        self.alive = Alive(settings, names, journal)
        self.selftest = Selftest(settings, journal, self._programs, wall)
        self.latest: deque[Taken] = deque(maxlen=LATEST_LIMIT)
        self.changes = 0  # how often something happened that the status shows
        self._asking: dict[str, str] = {}  # whose SHUTDOWN the grace delay, or the command, runs for; of which outage
        self._withdrawn: set[str] = set()  # of those, who has withdrawn it while the command runs
        self._starts_s: float | None = None  # when the grace delay is over
        self._again_s: float | None = None  # when a command that failed is tried again
        self._tries = 0
        self._shutdown: Job | None = None
        self._small = Small(settings, journal, self._programs, tell_users)

    def take(self, command: Command, sender: str, now_s: float) -> bool:
        """Act on a classic command of a permitted sender. True: accepted (also a duplicate); False: try again."""
        self.tick(now_s)
        if command.verb == SHUTDOWN:
            reply = self._classic_shutdown(sender, now_s)
        elif command.verb == WAKEUP:
            reply = self._classic_wakeup(sender, now_s)
        elif command.verb == MSG_TEXT:
            reply = self._small.message(command.argument, sender, now_s)
        else:
            reply = self._small.execute(command.argument, sender, now_s)
            if reply.word == BUSY and self._small.runs(command.argument):
                reply = Reply(DUPLICATE, {})
        self._note(sender, command.verb, "", reply)
        return reply.word in (ACCEPTED, DUPLICATE)

    def answer(self, line: bytes, sender: str, address: str, now_s: float) -> Reply:
        """Act on the line of a sender whose certificate was checked, and say what becomes of it."""
        self.tick(now_s)
        try:
            request = parse_request(line)
        except Malformed as e:
            self._journal.limited("refused", f"{sender} ({address})", "-", f"refused, {e}", now_s)
            return _refused(e.why)
        self.alive.heard(sender, address, request.verb, now_s)
        reply = self._secure(request, sender, now_s)
        self._note(sender, request.verb, request.id, reply)
        return reply

    def tick(self, now_s: float) -> None:
        """Start what has waited long enough; notice what has ended."""
        if not self._resumed:
            self._resumed = True
            self._resume(now_s)
        if self._starts_s is not None and now_s >= self._starts_s:
            self._starts_s = None
            self._run_shutdown(now_s)
        self._reap(now_s)
        if self._again_s is not None and now_s >= self._again_s:
            self._run_shutdown(now_s)
        self.alive.tick(now_s)
        self._weigh(now_s)
        if self.selftest.tick(now_s, may_start=self._shutdown is None):
            self.changes += 1

    def due_s(self, now_s: float) -> float | None:
        """When `tick` has something to do; None: not before the next command."""
        times = [self._starts_s, self._again_s, self.alive.due_s(now_s)]
        times.append(self.selftest.due_s(now_s, may_start=self._shutdown is None))
        if self._shutdown is not None or self._small.busy:
            times.append(now_s + LOOK_EVERY_S)
        return min((at_s for at_s in times if at_s is not None), default=None)

    def close(self) -> None:
        """The listener ends: what runs goes on, what waits is dropped, and said to be."""
        if self._starts_s is not None:
            self._waiting.clear()
            self._journal.line(",".join(sorted(self._asking)), SHUTDOWN, "dropped: stopped within the grace delay")

    def state(self, now_s: float) -> dict[str, object]:
        """What it is doing: {"doing": listening | grace | going-down | retrying, "starts_in_s": only in grace}."""
        if self._shutdown is not None:
            return {"doing": GOING_DOWN}
        if self._again_s is not None:
            return {"doing": "retrying"}
        if self._starts_s is not None:
            return {"doing": "grace", "starts_in_s": round(max(0.0, self._starts_s - now_s), 1)}
        return {"doing": "listening"}

    # --- secure ----------------------------------------------------------------------------------------------

    def _secure(self, request: Request, sender: str, now_s: float) -> Reply:
        if request.verb == NOOP:
            return Reply(ACCEPTED if self._shutdown is None else GOING_DOWN, self._facts(now_s))
        if self._shutdown is not None:
            return self._while_it_runs(request, sender, now_s)
        if request.verb == WAKEUP:
            return self._secure_wakeup(sender, request.id, now_s)
        if self.seen.has(request.verb, sender, request.id):
            self._journal.limited("repeats", sender, request.verb, f"duplicate, {request.id} was run before", now_s)
            return Reply(DUPLICATE, {})
        if request.verb == SHUTDOWN:
            return self._secure_shutdown(sender, request.id, now_s)
        self.seen.add(request.verb, [(sender, request.id)])  # on the disk before anything starts
        if request.verb == MSG_TEXT:
            return self._small.message(request.argument, sender, now_s)
        reply = self._small.execute(request.argument, sender, now_s)
        if reply.word != ACCEPTED:
            self.seen.remove(request.verb, [(sender, request.id)])
        return reply

    def _while_it_runs(self, request: Request, sender: str, now_s: float) -> Reply:
        """Nothing more is done, but who asks, and who does not any more, counts should the command fail."""
        if request.verb == SHUTDOWN and not self.seen.has(SHUTDOWN, sender, request.id):
            self._asking[sender] = request.id
            self._withdrawn.discard(sender)
            self.seen.add(SHUTDOWN, [(sender, request.id)])
        elif request.verb == WAKEUP and self._asking.get(sender) == request.id:
            self._withdrawn.add(sender)
        self._journal.limited("repeats", sender, request.verb, "going down, the shutdown command runs", now_s)
        return Reply(GOING_DOWN, {})

    def _facts(self, now_s: float) -> dict[str, str]:
        facts = {"version": VERSION, **self.selftest.facts(), "need": str(self._settings.need)}
        facts["votes"] = str(len(self.votes.of(now_s)))
        if self._settings.need > 1 and self._settings.require_tls:
            facts["voices"] = str(self.alive.voices())
        if self._settings.dry_run:
            facts["dry_run"] = "yes"
        return facts

    def _secure_shutdown(self, sender: str, ident: str, now_s: float) -> Reply:
        if not self._settings.on_shutdown:
            return self._unconfigured(sender, now_s)
        if self._starts_s is not None:
            self._asking[sender] = ident
            self._waiting.keep(self._starts_s, self._asking)
            outcome = "accepted, the command waits in its grace delay"
            self._journal.limited("repeats", sender, SHUTDOWN, outcome, now_s)
            return _ACCEPTED
        return self._ask(sender, ident, now_s)

    def _secure_wakeup(self, sender: str, ident: str, now_s: float) -> Reply:
        mine = self._asking.get(sender) if self._starts_s is not None else self.votes.of(now_s).get(sender)
        if mine != ident and self.seen.has(WAKEUP, sender, ident):
            self._journal.limited("repeats", sender, WAKEUP, f"duplicate of {ident}", now_s)
            return Reply(DUPLICATE, {})
        fresh = not self.seen.has(WAKEUP, sender, ident)
        self.seen.add(WAKEUP, [(sender, ident)])
        self._journal.limited("repeats", sender, WAKEUP, self._withdraw(sender, ident, now_s), now_s)
        if fresh and not self._small.wakeup(sender, now_s):
            self.seen.remove(WAKEUP, [(sender, ident)])
            return Reply(BUSY, {})
        return _ACCEPTED

    # --- verbs -----------------------------------------------------------------------------------------------

    def _classic_shutdown(self, sender: str, now_s: float) -> Reply:
        if not self._settings.on_shutdown:
            return self._unconfigured(sender, now_s)
        since_s, joined = self._shutdowns.since_s(sender, now_s), sender in self._asking
        self._wakeups.forget(sender)
        if self._starts_s is not None:
            self._asking[sender] = ""
            self._waiting.keep(self._starts_s, self._asking)
        elif self._shutdown is not None:
            self._asking[sender] = ""
            self._withdrawn.discard(sender)
        if self._starts_s is not None or self._shutdown is not None:
            state = "runs already" if self._shutdown is not None else "waits in its grace delay"
            what = DUPLICATE if joined else ACCEPTED
            self._journal.limited("repeats", sender, SHUTDOWN, f"{what}, the command {state}", now_s)
            return Reply(what, {})
        if since_s is not None:
            outcome = f"duplicate of {since_s:.0f} s ago, the command has run"
            self._journal.limited("repeats", sender, SHUTDOWN, outcome, now_s)
            return Reply(DUPLICATE, {})
        return self._ask(sender, "", now_s)

    def _classic_wakeup(self, sender: str, now_s: float) -> Reply:
        self._shutdowns.forget(sender)
        self._journal.limited("repeats", sender, WAKEUP, self._withdraw(sender, "", now_s), now_s)
        new = self._shutdown is None and self._wakeups.since_s(sender, now_s) is None
        if new and not self._small.wakeup(sender, now_s):
            self._wakeups.forget(sender)  # the next copy tries again
        return _ACCEPTED

    def _ask(self, sender: str, ident: str, now_s: float) -> Reply:
        """A word that counts: begin, if it is enough."""
        need = self._settings.need
        if need <= 1:
            self._asking = {**(self._asking if self._again_s is not None else {}), sender: ident}
            return self._begin_shutdown(sender, now_s)
        self.votes.add(sender, now_s, ident)
        if self._enough(now_s):
            return self._begin_shutdown(sender, now_s)
        self._shutdowns.forget(sender)  # when it asks again, that is no duplicate of a command that ran
        outcome = f"accepted, {len(self.votes.of(now_s))} of {need} senders that are needed"
        if self.votes.failed:
            outcome += f"; a restart would forget it: {self.votes.failed}"
        self._journal.limited("repeats", sender, SHUTDOWN, outcome, now_s)
        return _ACCEPTED

    def _enough(self, now_s: float) -> bool:
        """Have as many senders asked as are needed? Then they are `_asking`."""
        asking = self.votes.of(now_s)
        if not self.alive.enough(asking, now_s):
            return False
        self._asking = asking
        self.votes.clear(now_s)
        return True

    def _weigh(self, now_s: float) -> None:
        """Once an adapter has fallen silent: is it, with those that have asked, enough?"""
        asking = self.votes.of(now_s)
        idle = self._starts_s is None and self._shutdown is None and self._again_s is None
        look = idle and bool(self._settings.on_shutdown)
        if self.alive.more_count(asking, now_s, look=look) and asking and self._enough(now_s):
            self._begin_shutdown(",".join(self._asking), now_s)

    def _begin_shutdown(self, sender: str, now_s: float) -> Reply:
        if gone := self.alive.counting(self._asking, now_s) if self._settings.need > len(self._asking) else set():
            self._journal.line(",".join(sorted(gone)), SHUTDOWN, "counts as asking, because it is not alive")
        self._again_s, self._tries = None, 0
        if self._settings.grace_s > 0:
            self._starts_s = now_s + self._settings.grace_s
            self._waiting.keep(self._starts_s, self._asking)
            self._journal.line(sender, SHUTDOWN, f"accepted, the command starts in {self._settings.grace_s:g} s")
            return _ACCEPTED
        return _ACCEPTED if self._run_shutdown(now_s) else _refused(DID_NOT_START)

    def _resume(self, now_s: float) -> None:
        """Go on with a shutdown whose grace delay ran when the listener crashed."""
        waits = self._waiting.read(now_s) if self._settings.on_shutdown else None
        if waits is not None:  # else the command was started
            self._starts_s, self._asking = waits.starts_s, waits.asking
            left_s = max(0.0, waits.starts_s - now_s)
            who = ",".join(sorted(waits.asking))
            self._journal.line(who, SHUTDOWN, f"was waiting before a crash, the command starts in {left_s:.0f} s")

    def _run_shutdown(self, now_s: float) -> bool:
        who = ",".join(sorted(self._asking))
        self._again_s = None
        self._withdrawn.clear()
        self._waiting.keep(now_s, self._asking)  # a crash before it has started begins it again
        self.votes.clear(now_s)
        if numbered := _numbered(self._asking):
            self.seen.add(SHUTDOWN, numbered)  # on the disk before it starts
            if self.seen.failed:
                self._journal.line(who, SHUTDOWN, f"warning: a restart would run it again: {self.seen.failed}")
        self._shutdown = self._programs.begin(self._settings.on_shutdown, SHUTDOWN, who)
        self._waiting.clear()
        self.changes += 1
        if self._shutdown is None:
            self._failed(now_s)
        elif self._settings.relay:
            if self._settings.dry_run:
                self._journal.line(who, SHUTDOWN, f"dry run, would have told {len(self._settings.relay)} relays")
            else:
                self._relay(self._settings.relay, self._journal)
        return self._shutdown is not None

    def _failed(self, now_s: float) -> None:
        """The next SHUTDOWN of anybody runs it again; for a secure sender, who repeats none, so does the time."""
        self._shutdowns.clear()
        self.seen.remove(SHUTDOWN, _numbered(self._asking))
        self._asking = {who: ident for who, ident in self._asking.items() if who not in self._withdrawn}
        if _numbered(self._asking) and self.alive.enough(self._asking, now_s) and self._tries < RETRIES_LIMIT:
            self._tries, self._again_s = self._tries + 1, now_s + RETRY_S
        if self._settings.need > 1:
            self.votes.restore(self._asking, now_s)

    def _withdraw(self, sender: str, ident: str, now_s: float) -> str:
        """A sender's WAKEUP for its outage: what becomes of it, for the log."""
        if self._again_s is not None and self._asking.get(sender) == ident:
            del self._asking[sender]
            self.votes.withdraw(sender, now_s, ident)
            if self._asking and self.alive.enough(self._asking, now_s):
                return f"accepted, but {','.join(sorted(self._asking))} wants the shutdown, which is tried again"
            self._again_s = None
            return "accepted, the command that failed is not tried again"
        if self.votes.withdraw(sender, now_s, ident):
            return "accepted, its SHUTDOWN counts no more"
        if self._shutdown is not None:
            if self._asking.get(sender) == ident:
                self._withdrawn.add(sender)
            return "accepted, but the shutdown command runs already"
        if self._starts_s is None:
            return "accepted, nothing to withdraw; its next SHUTDOWN is a new one"
        if self._asking.get(sender) != ident:
            return f"accepted, but {','.join(sorted(self._asking))} wants the shutdown"
        del self._asking[sender]
        if self._asking and self.alive.enough(self._asking, now_s):
            self._waiting.keep(self._starts_s, self._asking)
            return f"accepted, but {','.join(sorted(self._asking))} wants the shutdown"
        self._starts_s = None
        self._waiting.clear()
        for other in self._asking:  # its word counts on, until it is one of enough again
            self._shutdowns.forget(other)
        self.votes.restore(self._asking, now_s)
        return "accepted, the waiting shutdown is cancelled"

    def _unconfigured(self, sender: str, now_s: float) -> Reply:
        self._journal.limited("refused", sender, SHUTDOWN, "refused, no on_shutdown is configured", now_s)
        return _refused(NOTHING_CONFIGURED)

    # --- what was started ------------------------------------------------------------------------------------

    def _note(self, sender: str, verb: str, ident: str, reply: Reply) -> None:
        self.changes += 1
        if verb != NOOP:
            self.latest.append(Taken(self._wall(), sender, verb, ident, reply.word))

    def _reap(self, now_s: float) -> None:
        if self._shutdown is not None and (code := self._shutdown.poll()) is not None:
            self._shutdown = None
            self.changes += 1
            outcome = f"the command ended, {ended(code)}"
            if code != 0:
                self._failed(now_s)
                outcome += "; the next SHUTDOWN runs it again"
                outcome += f", or the {self._tries}. retry in {RETRY_S:.0f} s" if self._again_s is not None else ""
            self._journal.line("-", SHUTDOWN, outcome)
        self._small.tick(now_s)


_ACCEPTED = Reply(ACCEPTED, {})


def _refused(why: str) -> Reply:
    return Reply(REFUSED, {"why": why})


def _numbered(asking: dict[str, str]) -> list[tuple[str, str]]:
    """The secure ones of those that ask."""
    return [(sender, ident) for sender, ident in asking.items() if ident]
