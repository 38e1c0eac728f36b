"""Who must be told in this outage, who was, who is down and must be woken, and what is known of each server."""

from __future__ import annotations

from .config import Server
from .crowd import Row
from .errands import Orders, Report
from .kept import Bits, Remembered
from .model import ServerView
from .outage import Phase, Seen, State

TOLD = ("accepted", "delivered-unconfirmed")
WAKE_STAGE_S = 120.0  # after which the next stage is woken though somebody of this one does not answer
NOT_BACK_S = 600.0
WAKE_BY_HAND_S = 600.0
UNPROVEN_S = 24 * 3600.0


class Telling:
    """Owned by the engine's thread."""

    def __init__(self, remembered: Remembered, now_s: float, previous: tuple[Server, ...] = ()) -> None:
        """`remembered`: what the slots said of the outage that was open when the program last ended; `previous`: the
        servers of that time."""
        self._previous = previous
        self._resumed: str | None = remembered.state.outage
        self._remembered: Remembered | None = remembered
        self._started_s = now_s
        self._servers: tuple[Server, ...] = ()
        self._reports: dict[str, Report] = {}
        self._told_s: dict[str, float] = {}  # in this outage; of those told before a restart, when it restarted
        self._told_before: frozenset[str] = frozenset()  # by the process before this one
        self._comes_back: set[str] = (
            set()
        )  # of a stage, when it was latched, whose servers are woken after the outage
        self.down: set[str] = set()  # went down in an outage, and are not back
        self._to_tell: dict[str, Server] = {}  # everybody of a latched stage, also if deleted since
        self._outage: str | None = remembered.state.outage
        self._stages: tuple[str, ...] | None = None  # that _to_tell was made for; None: make it again
        self._groups: tuple[tuple[Server, ...], ...] = ()  # to wake, one after the other
        self._group, self._group_s, self._waking_s = 0, 0.0, None  # type: int, float, float | None
        self._missed = False  # "not-back" was said in this recovery
        self._by_hand: dict[str, float] = {}  # woken because somebody asked, until when

    def plan(self, servers: tuple[Server, ...]) -> None:
        """These are the servers now."""
        self._servers, self._stages = servers, None
        if (kept := self._remembered) is not None:
            self._remembered = None
            before = self._previous if kept.told.plan == Bits.of(self._previous, ()).plan else servers
            places = {s.name: (s.address, s.port) for s in servers}
            latched, woken = {latch.stage for latch in kept.state.latched}, _woken(kept.state)
            deleted = {s.name: s for s in before if s.stage in latched and s.name not in places}
            self._to_tell = {gone.server.name: gone.server for gone in kept.gone} | deleted
            self._comes_back = {s.name for s in self._to_tell.values() if s.stage in woken and _is_woken(s)}
            moved = {s.name for s in before if places.get(s.name, (s.address, s.port)) != (s.address, s.port)}
            names = (kept.told.names(before) - moved) | {g.server.name for g in kept.gone if g.told}
            self._told_before = frozenset(names)
            self._told_s = dict.fromkeys(names, self._started_s)
            self.down = set(kept.down.names(before)) | {g.server.name for g in kept.gone if g.down}
            if kept.down.plan != Bits.of(before, ()).plan:
                # another plan since: whoever may be down is asked, and answers if he is not
                self.down |= {s.name for s in servers if s.stage in woken and _is_woken(s)}
        names_now = {s.name for s in servers} | self._to_tell.keys()
        self._reports = {name: report for name, report in self._reports.items() if name in names_now}

    @property
    def told(self) -> frozenset[str]:
        """Names of those that were told in this outage."""
        return frozenset(self._told_s)

    @property
    def gone(self) -> tuple[Server, ...]:
        """Those that must be told, or woken, though the configuration has them no more."""
        names = {s.name for s in self._servers}
        return tuple(s for name, s in self._to_tell.items() if name not in names)

    def take(self, report: Report, state: State, now_s: float) -> tuple[Row, ...]:
        """A report of the delivery; what of it is worth a row."""
        before = self._reports.get(report.server, Report(server=report.server))
        self._reports[report.server] = report
        rows = [*self._proof_rows(before, report)]
        if report.wake == "back" and before.wake != "back":
            self.down.discard(report.server)
            self._by_hand.pop(report.server, None)
            rows.append(Row("back", report.server))
        if state.outage is None or report.outage != state.outage:
            return tuple(rows)
        if (report.heard or report.delivery in TOLD) and report.server in self._comes_back:
            self.down.add(report.server)
            self._comes_back.discard(report.server)  # once: it may be back already when more is said of it
        if report.delivery == before.delivery:
            return tuple(rows)
        if report.delivery in TOLD and report.server not in self._told_s:
            self._told_s[report.server] = now_s
            rows.append(Row("told", report.server, report.detail, report.delivery))
        elif report.delivery == "not-delivered" and state.outage != self._resumed:
            # a restart in the outage cannot know whether the log has this already
            rows.append(Row("not-told", report.server, report.detail))
        return tuple(rows)

    def _proof_rows(self, before: Report, report: Report) -> tuple[Row, ...]:
        if (report.proof, report.proof_s) == (before.proof, before.proof_s):
            return ()
        good, was_good = report.proof_s != before.proof_s, before.proof_s is not None and not before.failing
        if not good and report.failing and (was_good or not before.failing):
            return (Row("proof-failed", report.server, report.proof),)
        return (Row("proven-again", report.server, report.proof),) if good and before.failing else ()

    # -- what the delivery must do

    def orders(self, state: State, mode: str, now_s: float, prove: int) -> Orders:
        """What the delivery must do now."""
        if state.outage != self._outage:
            self._outage, self._to_tell = state.outage, {}
            self._told_s, self._told_before = {}, frozenset()
            self._comes_back.clear()
            self._waking_s = None
            if state.outage is None:
                self.down.clear()
        stages = state.to_tell()
        if stages:
            self._by_hand.clear()  # nobody is woken who is being told to go
        if stages != self._stages:
            self._stages = stages
            for stage in stages:
                news = [s for s in self._servers if s.stage == stage and s.name not in self._to_tell]
                self._comes_back |= {s.name for s in news if stage in _woken(state) and _is_woken(s)}
                self._to_tell |= {s.name: s for s in self._servers if s.stage == stage}
            self._to_tell |= {s.name: s for s in self._servers if s.name in self._to_tell}  # in their newest form
        armed = mode == "armed"
        return Orders(
            outage=state.outage,
            tell=tuple(self._tell(state)) if stages else (),
            told=self._told_before,
            armed=armed,
            prove=mode != "setup",
            prove_again=prove,
            wake=self._wake(state, now_s) if armed else (),
        )

    def _tell(self, state: State) -> list[Server]:
        local = state.tells_local()
        return [s for s in self._to_tell.values() if s.how != "wake" and (local or s.how != "local")]

    def _wake(self, state: State, now_s: float) -> tuple[Server, ...]:
        self._by_hand = {name: end_s for name, end_s in self._by_hand.items() if now_s < end_s}
        by_hand = tuple(s for s in self._servers if s.name in self._by_hand)
        if state.phase is not Phase.RECOVERY or not state.waking:
            self._waking_s = None
            return by_hand
        if self._waking_s is None:
            self._waking_s = self._group_s = now_s
            self._group, self._groups, self._missed = 0, self._group_up(state), False
        while self._group < len(self._groups) - 1 and (
            all(self._is_back(s) for s in self._groups[self._group]) or now_s - self._group_s >= WAKE_STAGE_S
        ):
            self._group, self._group_s = self._group + 1, now_s
        self._groups = self._with_late(state)
        woken = tuple(s for group in self._groups[: self._group + 1] for s in group)
        return woken + tuple(s for s in by_hand if s not in woken)

    def _group_up(self, state: State) -> tuple[tuple[Server, ...], ...]:
        """Whom to wake, stage by stage, the last that went down first; only-woken servers with their stage."""
        names = {s.name for s in self._servers}
        known = (*self._servers, *(s for name, s in self._to_tell.items() if name not in names))
        latched = [latch.stage for latch in state.latched if latch.stage in _woken(state)]
        rest = sorted({s.stage for s in known if s.name in self.down} - set(latched))  # of an outage before this one
        groups = [
            tuple(
                s
                for s in known
                if s.stage == stage and s.wake and (s.name in self.down or (s.how == "wake" and stage in latched))
            )
            for stage in (*reversed(latched), *rest)
        ]
        return tuple(group for group in groups if group)

    def _with_late(self, state: State) -> tuple[tuple[Server, ...], ...]:
        """Who went down only after the waking began, as was learned meanwhile, is woken now."""
        known = {s.name for group in self._groups for s in group}
        late = tuple(s for group in self._group_up(state) for s in group if s.name not in known)
        if not late:
            return self._groups
        now = self._group if self._groups else 0
        groups = self._groups or ((),)
        return (*groups[:now], (*groups[now], *late), *groups[now + 1 :])

    def _is_back(self, server: Server) -> bool:
        report = self._reports.get(server.name)
        return report is not None and report.wake == "back"

    def outlets(self) -> tuple[int, ...]:
        """The outlets that must be on for those that are being woken and do not answer."""
        if self._waking_s is None:
            return ()
        woken = [s for group in self._groups[: self._group + 1] for s in group]
        return tuple(sorted({s.outlet for s in woken if s.outlet and not self._is_back(s)}))

    def wake_by_hand(self, stage: str, now_s: float) -> tuple[str, ...]:
        """Somebody asked to wake the servers of `stage` ("all"); their names."""
        names = [s.name for s in self._servers if stage in ("all", s.stage) and s.how != "local"]
        self._by_hand |= dict.fromkeys(names, now_s + WAKE_BY_HAND_S)
        return tuple(names)

    # -- what others must know

    def seen(self, mode: str) -> Seen:
        """What protection must know of the delivery."""
        if mode != "armed":
            return Seen(all_told=True, all_back=True)
        needs_s = {s.name: s.needs_s for s in (*self._servers, *self._to_tell.values()) if s.how != "local"}
        ends_s = [told_s + needs_s[name] for name, told_s in self._told_s.items() if name in needs_s]
        tell = [s.name for s in self._to_tell.values() if s.how not in ("wake", "local")]
        return Seen(
            down_by_s=max(ends_s, default=0.0),
            all_told=all(name in self._told_s for name in tell),
            all_back=self._waking_s is not None and all(self._is_back(s) for group in self._groups for s in group),
        )

    def missing(self, now_s: float) -> tuple[str, ...]:
        """Once in a recovery: those that do not answer 10 minutes after the first was woken."""
        if self._waking_s is None or self._missed or now_s - self._waking_s < NOT_BACK_S:
            return ()
        self._missed = True
        return tuple(s.name for group in self._groups for s in group if not self._is_back(s))

    def unproven(self, now_s: float) -> bool:
        """Is there a server without any proof for a day?"""
        for server in self._servers:
            report = self._reports.get(server.name)
            good_s = self._started_s if report is None or report.proof_s is None else report.proof_s
            if server.how != "wake" and now_s - good_s > UNPROVEN_S:
                return True
        return False

    def views(self, state: State, now_s: float) -> tuple[ServerView, ...]:
        """Every server of the plan, and every one that is being told though it is no longer in it."""
        waiting = {s.name for s in self._servers if s.name in self.down} if state.phase is Phase.RECOVERY else set()
        return tuple(self._view(s, s.name in waiting, now_s) for s in (*self._servers, *self.gone))

    def _view(self, server: Server, waiting: bool, now_s: float) -> ServerView:
        report = self._reports.get(server.name, Report(server=server.name))
        return ServerView(
            name=server.name,
            address=server.address,
            port=server.port,
            how=server.how,
            stage=server.stage,
            needs_s=server.needs_s,
            state=report.state,
            proof=report.proof,
            proof_age_s=None if report.proof_s is None else max(0.0, now_s - report.proof_s),
            failing=report.failing,
            delivery=report.delivery,
            attempts=report.attempts,
            detail=report.detail,
            wake="waiting" if waiting and report.wake == "none" else report.wake,
            mac=server.mac or report.mac,
            trust=report.trust,
        )


def _is_woken(server: Server) -> bool:
    return server.wake and server.how != "local"


def _woken(state: State) -> set[str]:
    """The latched stages whose servers come back after the outage: not those of a planned shutdown."""
    return {latch.stage for latch in state.latched if latch.why != "planned"}
