"""Who must be told in this outage, who was, and what the delivery says of each server."""

from __future__ import annotations

from .config import Server
from .deliver import Orders, Report
from .kept import Told
from .model import ServerView


class Telling:
    """Owned by the engine's thread."""

    def __init__(self, resumed: str | None, told: Told | None) -> None:
        """`resumed`: the outage that was open when the program last ended, `told`: who had been told in it."""
        self._resumed, self._kept = resumed, told
        self._servers: tuple[Server, ...] = ()
        self._reports: dict[str, Report] = {}
        self.told: frozenset[str] = frozenset()
        self._told_before: frozenset[str] = frozenset()  # by the process before this one
        self._to_tell: dict[str, Server] = {}  # everybody of a latched stage, also if deleted since
        self._outage: str | None = resumed
        self._stages: tuple[str, ...] | None = None  # that _to_tell was made for; None: make it again

    def plan(self, servers: tuple[Server, ...]) -> None:
        """These are the servers now."""
        self._servers, self._stages = servers, None
        if self._kept is not None:
            self.told = self._told_before = self._kept.names(servers)
            self._kept = None
        names = {s.name for s in servers} | self._to_tell.keys()
        self._reports = {name: report for name, report in self._reports.items() if name in names}

    def take(self, report: Report, outage: str | None) -> str:
        """A report of the delivery; returns the note that it is worth: told, not-told, or ''."""
        before = self._reports.get(report.server)
        self._reports[report.server] = report
        if outage is None or report.outage != outage or (before and report.delivery == before.delivery):
            return ""
        if report.delivery == "delivered-unconfirmed" and report.server not in self.told:
            self.told |= {report.server}
            return "told"
        # a restart in the outage cannot know whether the log has this already
        return "not-told" if report.delivery == "not-delivered" and outage != self._resumed else ""

    def orders(self, outage: str | None, stages: tuple[str, ...], mode: str) -> Orders:
        """What the delivery must do while these stages are latched in this outage."""
        if outage != self._outage:
            self._outage, self._to_tell = outage, {}
            self.told = self._told_before = frozenset()
        if stages != self._stages:
            self._stages = stages
            for stage in stages:
                self._to_tell |= {s.name: s for s in self._servers if s.stage == stage}
            self._to_tell |= {s.name: s for s in self._servers if s.name in self._to_tell}  # in their newest form
        return Orders(
            outage=outage,
            tell=tuple(self._to_tell.values()) if stages else (),
            told=self._told_before,
            armed=mode == "armed",
            reach=mode != "setup",
        )

    def views(self) -> tuple[ServerView, ...]:
        """Every server of the plan, and every one that is being told though it is no longer in it."""
        names = {s.name for s in self._servers}
        deleted = (s for name, s in self._to_tell.items() if name not in names)
        return tuple(self._view(s) for s in (*self._servers, *deleted))

    def _view(self, server: Server) -> ServerView:
        report = self._reports.get(server.name, Report(server=server.name))
        return ServerView(
            name=server.name,
            address=server.address,
            port=server.port,
            how=server.how,
            stage=server.stage,
            needs_s=server.needs_s,
            state=report.state,
            delivery=report.delivery,
            attempts=report.attempts,
            detail=report.detail,
        )
