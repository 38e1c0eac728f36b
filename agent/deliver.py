"""Tells servers to shut down: all at once, each again and again until it was told, none waiting for another.

One thread, one selector, one small machine per server; how a server is told is its way's business (agent/reach). What
must be told, and who must be woken, is a level that the engine sets; a restart simply sets it again. Outside mode
armed nothing is sent but proofs. Outcomes are in the words of the house.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import selectors
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from . import magic, reach
from .attempt import Attempt, Attempts
from .book import Book
from .config import Server
from .errands import Enrolled, Errand, Orders, Report, Said
from .model import ConfigError
from .places import Places
from .reach import Outcome
from .target import PROOF_HOLDS_S, Target, Try, place
from .waker import Waker

log = logging.getLogger(__name__)

FIRST_PASS_S = 2.0  # for the connection, in the first pass
CONNECT_S = 5.0  # and later
BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 15.0)
STAGGER_S, AGAIN_STAGGER_S = 0.05, 2.0  # between two first proofs; over all, when everybody is proven again
NAME_WAIT_S = 5.0  # the first proof of a server waits so long for its name to be looked up
CROWDED_S = 12.0  # an attempt may keep a slot so long while others wait for their first one
STARTS_AT_ONCE = 8  # of the ways with few slots: a new process takes its time
DETAIL_LIMIT = 120
IDLE_S = 0.5

TOLD = (reach.ACCEPTED, reach.UNCONFIRMED)

#: a tuple: the plan; a text: what the book knows more of
_News = Orders | tuple[Server, ...] | Enrolled | Errand | str


class Delivery:
    """Deliveries to the servers of the plan. `report` is called in this thread for every change and must not wait;
    `wake` sends a magic packet to a MAC and says why it could not."""

    def __init__(
        self,
        report: Callable[[Report | Said], None],
        book: Book,
        places: Places,
        wake: Callable[[str], str] = magic.send,
        load: Callable[[str], ModuleType] = reach.load,
    ) -> None:
        self._report, self._book, self._waker, self._load = report, book, Waker(book, wake), load
        self.places = places  # may be replaced from another thread
        self._attempts: Attempts[Try] = Attempts(self._came)
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._attempts.selector.register(self._wake_r, selectors.EVENT_READ, None)
        self._news: queue.Queue[_News] = queue.Queue(maxsize=5000)
        self._targets: dict[str, Target] = {}
        self._ways: dict[str, ModuleType] = {}
        self._plan: tuple[Server, ...] = ()
        self._orders = Orders()
        self._scan_s = 0.0  # when something is due
        self.turned_s = time.monotonic()
        book.changed = self._put

    # -- from other threads

    def plan(self, servers: tuple[Server, ...]) -> None:
        """These are the servers now."""
        self._put(servers)

    def order(self, orders: Orders | Enrolled | Errand) -> None:
        """This is what must be told now; this server has its key; this is a command by hand."""
        self._put(orders)

    def wake(self) -> None:
        """Go round now."""
        try:
            os.write(self._wake_w, b"x")
        except BlockingIOError:
            pass  # it is already awake

    def _put(self, item: _News) -> None:
        self._news.put(item, timeout=5.0)
        self.wake()

    # -- the delivery thread

    def run(self, stop: threading.Event) -> None:
        """The delivery thread: until `stop` (and a `wake`)."""
        while not stop.is_set():
            now_s = self.turned_s = time.monotonic()
            self._take_news(now_s)
            if now_s >= min(self._scan_s, self._attempts.due_s) or self._attempts.freed:
                self._scan(now_s)
            due_s = min(self._scan_s, self._attempts.due_s)
            for key, _ in self._attempts.selector.select(max(0.0, due_s - time.monotonic())):
                if key.data is None:
                    os.read(self._wake_r, 4096)
                elif key.data.fd == key.fd:  # else it ended meanwhile
                    self._attempts.go_on(key.data, time.monotonic())
        for target in self._targets.values():
            self._end(target)

    def _take_news(self, now_s: float) -> None:
        while True:
            try:
                item = self._news.get_nowait()
            except queue.Empty:
                return
            self._scan_s = 0.0
            if isinstance(item, Orders):
                self._take_orders(item, now_s)
            elif isinstance(item, tuple):
                self._plan = item
                self._aim(now_s)
                self._follow(now_s)
            elif isinstance(item, Errand):
                self._take_errand(item)
            elif isinstance(item, Enrolled):
                self._take_enrolled(item.server, now_s)
            else:
                self._take_known(item, now_s)

    def _take_errand(self, errand: Errand) -> None:
        target = self._targets.get(errand.server)
        if target is None or not hasattr(self._ways.get(target.server.how), "say"):
            why = "nobody there who would understand"
        elif not (why := target.take_errand(errand)):
            return
        self._report(Said(errand.server, errand.verb, reach.NOT_DELIVERED, why))

    def _take_enrolled(self, name: str, now_s: float) -> None:
        """It is another one now: what was known of it counts no more, but not that it was told."""
        target = self._targets.get(name)
        if target is None:
            return
        if target.attempt is not None and target.attempt.owner.purpose != "say":
            self._end(target)
        target.be_eager(now_s)
        self._say(target, trust=self._trust(target), state="unknown", proof="", proof_s=None, failing=False)

    def _take_known(self, name: str, now_s: float) -> None:
        """The book knows more of this server, or of this host."""
        for target in self._targets.values():
            if target.server.name == name:
                self._say(target, mac=self._book.mac(name))
            if target.server.address == name:
                target.tell_s = now_s
                if target.report.proof_s is None:
                    target.prove_s = min(target.prove_s, now_s)

    def _aim(self, now_s: float) -> None:
        """One target for each server of the plan, and for each that must be told or woken though it is not in it.

        Only another address, port or way makes another target; what was delivered to it stays known.
        """
        old, self._targets = self._targets, {}
        wanted = {s.name: s for s in (*self._orders.wake, *self._orders.tell, *self._plan)}
        for number, (name, server) in enumerate(wanted.items()):
            target = old.pop(name, None)
            if target is None or place(target.server) != place(server):
                if target is not None:
                    self._end(target)
                target = Target(server, Report(server=name))
                target.prove_s = now_s + STAGGER_S * number
                if server.address and not self._book.addresses(server.address):
                    target.prove_s += NAME_WAIT_S
                self._say(target, mac=self._book.mac(name))
            target.server = server
            self._targets[name] = target
        for target in old.values():
            self._end(target)
        for how in {server.how for server in wanted.values()}:
            try:
                self._way(how)  # not only in the outage
            except ConfigError as e:
                log.error("%s", e)
        for target in self._targets.values():
            self._say(target, trust=self._trust(target))
        self._book.plan({name: server.address for name, server in wanted.items()})

    def _take_orders(self, orders: Orders, now_s: float) -> None:
        before, self._orders = self._orders, orders
        if (orders.outage, orders.armed) != (before.outage, before.armed):
            for target in self._targets.values():
                purpose = target.attempt.owner.purpose if target.attempt is not None else ""
                if purpose == "tell" or (purpose == "prove" and orders.outage and not target.must_wake()):
                    self._end(target)
                target.tell_s = now_s
                self._say(target, delivery="none", attempts=0, detail="", outage=orders.outage, heard=False)
        if orders.tell != before.tell or orders.wake != before.wake:
            self._aim(now_s)
        if orders.prove_again != before.prove_again:
            step_s = AGAIN_STAGGER_S / max(1, len(self._targets))
            for number, target in enumerate(self._targets.values()):
                target.prove_s = now_s + number * step_s
        self._follow(now_s)

    def _follow(self, now_s: float) -> None:
        """Begin to tell whom we must, and to wake whom we must, if not yet begun; leave the others alone."""
        tell = {server.name for server in self._orders.tell}
        for name, target in self._targets.items():
            target.wanted = name in tell
            if not target.wanted and target.attempt is not None and target.attempt.owner.purpose == "tell":
                self._end(target)
            if not target.wanted and target.report.delivery == "sending":
                self._say(target, delivery=reach.NOT_DELIVERED, detail="the outage was over before")
        for server in self._orders.tell:
            target = self._targets[server.name]
            if target.report.delivery != "none" or server.how == "wake":
                continue
            if server.name in self._orders.told:
                self._say(target, delivery=reach.UNCONFIRMED, outage=self._orders.outage)
            elif not self._orders.armed:
                log.info("%s would be told to shut down (not armed)", server.name)
                self._say(target, delivery="dry-run", outage=self._orders.outage)
            else:
                self._end(target)  # a proof, or a look whether it is back
                target.tell_s = now_s
                self._say(target, delivery="sending", outage=self._orders.outage)
        waking = {server.name for server in self._orders.wake}
        for name, target in self._targets.items():
            if name not in waking or not self._orders.armed:
                self._say(target, wake="none")
            elif target.report.wake == "none":
                target.wake_s, target.packets = now_s, 0
                self._say(target, wake=self._waker.word(target.server))

    # -- what is due

    def _scan(self, now_s: float) -> None:
        """Begin what is due, end what took too long."""
        self._scan_s = self._attempts.due_s = now_s + IDLE_S
        self._attempts.freed = False
        for target in self._targets.values():
            attempt = target.attempt
            if attempt is not None and now_s >= attempt.due_s:
                self._attempts.go_on(attempt, now_s, attempt.why)
        due = [t for t in self._targets.values() if t.attempt is None and now_s >= t.due_s(self._may_prove())]
        starts, untried = 0, Counter[str]()
        for target in sorted(due, key=lambda t: t.rank(self._slots(t) is not None)):
            slots = self._slots(target)
            if slots is not None and starts >= STARTS_AT_ONCE:
                self._scan_s = now_s  # the others first have their turn
                break
            self._turn(target, now_s)
            if slots is not None and target.attempt is not None:
                starts += 1
            elif slots is not None and target.must_tell() and not target.report.attempts:
                untried[target.server.how] += 1
        for how, wanted in untried.items():
            self._attempts.make_room(how, wanted, now_s, CROWDED_S)
        for target in self._targets.values():
            due_s = target.due_s(self._may_prove()) if target.attempt is None else target.attempt.due_s
            if due_s > now_s:  # else it waits for a slot
                self._scan_s = min(self._scan_s, due_s)

    def _may_prove(self) -> bool:
        return self._orders.prove and self._orders.outage is None

    def _turn(self, target: Target, now_s: float) -> None:
        """Do what is due for a server for which nothing is under way."""
        if target.must_tell():
            self._begin(target, "tell", now_s)
            return
        if target.errands:
            self._begin(target, "say", now_s)
            return
        if target.report.state != "unknown" and now_s >= target.good_s + PROOF_HOLDS_S:
            self._say(target, state="unknown")
        if target.must_wake() and now_s >= target.wake_s:
            self._waker.wake(target, now_s)
            self._begin(target, "prove", now_s)
        elif now_s >= target.prove_s and (target.must_wake() or self._may_prove()):
            self._begin(target, "prove", now_s)

    # -- attempts

    def _way(self, how: str) -> ModuleType:
        if how not in self._ways:
            self._ways[how] = self._load(how)
        return self._ways[how]

    def _trust(self, target: Target) -> str:
        return self.places.trust(target.server, self._ways.get(target.server.how))

    def _slots(self, target: Target) -> int | None:
        """So many attempts like this one may run at once; None: any number."""
        few: int | None = getattr(self._ways.get(target.server.how), "SLOTS", None)
        return few if target.report.trust in ("", "secure") else None

    def _begin(self, target: Target, purpose: str, now_s: float) -> None:
        server = target.server
        try:
            way = self._way(server.how)
        except ConfigError as e:
            self._came_of(Try(target, purpose, ""), Outcome(reach.NOT_DELIVERED, str(e)), now_s)
            return
        slots = self._slots(target)
        lane = server.how if slots is not None else f"{server.how} without slots"
        if not self._attempts.has_slot(lane, slots):
            return  # as soon as one is free
        if purpose == "tell":
            self._say(target, attempts=target.report.attempts + 1)
        addresses = self._book.addresses(server.address)
        number = max(0, target.report.attempts - 1) if purpose == "tell" else target.failures
        address = addresses[number % len(addresses)] if addresses else None
        connect_s = FIRST_PASS_S if target.report.attempts <= 1 else CONNECT_S
        heard = functools.partial(self._say, target, heard=True) if purpose == "tell" else None
        job = self.places.job(server, address, self._orders.outage or "", connect_s, heard)
        tried = Try(target, purpose, str(address[1][0]) if address else "")
        if purpose == "say":
            tried.errand = errand = target.errands.popleft()
            if now_s >= errand.until_s:
                self._said(tried, reach.NOT_DELIVERED, "too late, not sent")
                return
            steps = way.say(job, errand.verb, errand.argument)
        else:
            steps = {"tell": way.send, "prove": way.prove, "release": getattr(way, "release", None)}[purpose](job)
        target.attempt = self._attempts.begin(tried, lane, steps, now_s)
        self._attempts.go_on(target.attempt, now_s)

    def _end(self, target: Target) -> None:
        """Stop the attempt that runs, if one does."""
        attempt, target.attempt = target.attempt, None
        if attempt is not None:
            self._attempts.end(attempt)
            self._said(attempt.owner, reach.NOT_DELIVERED, "stopped: something more urgent came")

    # -- outcomes

    def _came(self, attempt: Attempt[Try], outcome: Outcome, now_s: float) -> None:
        attempt.owner.target.attempt = None
        self._came_of(attempt.owner, outcome, now_s)

    def _came_of(self, tried: Try, outcome: Outcome, now_s: float) -> None:
        target, detail = tried.target, outcome.detail[:DETAIL_LIMIT]
        if tried.purpose == "tell":
            self._told(target, outcome.word, detail, now_s)
        elif tried.purpose == "prove":
            self._proven(target, outcome, detail, tried.host, now_s)
        elif tried.purpose == "say":
            self._said(tried, outcome.word, detail)
        else:
            log.info("%s: told that the outage is over: %s %s", target.server.name, outcome.word, detail)

    def _said(self, tried: Try, word: str, detail: str) -> None:
        if tried.errand is not None:
            self._report(Said(tried.errand.server, tried.errand.verb, word, detail))

    def _told(self, target: Target, word: str, detail: str, now_s: float) -> None:
        report = target.report
        if word in TOLD:
            said = f" ({detail})" if detail else ""
            log.info("%s: %s%s", target.server.name, word.replace("delivered-", "delivered, "), said)
            state = report.state if report.state == "proven" else "reachable"
            target.good_s = now_s
            self._say(target, delivery=word, state=state, detail=detail)
            return
        if report.detail != detail:
            log.warning("%s: %s", target.server.name, detail)
        target.tell_s = now_s + BACK_OFF_S[min(report.attempts, len(BACK_OFF_S)) - 1]
        self._say(target, delivery=reach.NOT_DELIVERED, detail=detail)

    def _proven(self, target: Target, outcome: Outcome, detail: str, host: str, now_s: float) -> None:
        name, report, good = target.server.name, target.report, outcome.word in (reach.PROVEN, reach.REACHABLE)
        back = target.must_wake() and (good or outcome.up)
        wake = "back" if back else report.wake
        if good:
            if report.failing or report.proof_s is None:
                log.info("%s: %s (%s)", name, outcome.word, detail)
            target.proof_was_good(now_s)
            if host:
                self._book.met(name, host)
            self._say(target, state=outcome.word, proof=detail, proof_s=now_s, failing=False, wake=wake)
        else:
            target.proof_was_bad(now_s)
            if report.proof != detail and not target.must_wake():
                log.warning("%s: %s", name, detail)
            self._say(target, proof=detail, failing=report.failing or not target.must_wake(), wake=wake)
        if back and hasattr(self._way(target.server.how), "release"):
            self._begin(target, "release", now_s)

    def _say(self, target: Target, **news: object) -> None:
        report = replace(target.report, **news)  # type: ignore[arg-type]  # names and types are Report's
        if report != target.report:
            target.report = report
            self._report(report)
