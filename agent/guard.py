"""Keeps watch: steps protection, has it on the disk before anything follows, and orders the deliveries and the UPS.

Owned by the engine's thread. What people ask (hold, abort, shut down now, drill, ...) comes in here as well.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from . import byhand, crowd, kept, protection
from .config import Config, Server
from .drill import Drill
from .errands import Orders, Report, Said
from .model import Command, OrderError, Status
from .outage import RETURN_DELAY_S, Effect, Phase, Plan, State
from .telling import Telling

log = logging.getLogger(__name__)

KEEP_WAIT_S = 0.2  # a latch waits so long for the disk, then it is sent anyway
KEEP_EVERY_S = 10.0  # in an outage: a restart must know when the UPS was heard, and how long nobody was there
KEEP_AT_ONCE = 50  # servers; for more of them a thousand told in a second are not a thousand writes:
KEEP_GAP_S = 0.2
OUTLET_AGAIN_S = 60.0


class Keeps(Protocol):
    """What is needed of the slots."""

    failed: str

    def keep(self, data: bytes, within_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Notice:
    """Something for the log: the name of a note, and its data."""

    name: str
    data: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ordered:
    """What became of an order to the UPS that the guard gave; `error` '' if it took it, perhaps with a `remark`."""

    command: Command
    args: Mapping[str, Any]
    error: str
    remark: str = ""


class Guard:
    """See the module. `order` gets the deliveries wanted; `power` an order to the UPS, whose outcome comes back as
    Ordered; `hurry` the monotonic second at which a poll would decide something."""

    def __init__(
        self,
        *,
        boot: str,
        now_s: float,
        keeper: Keeps,
        remembered: bytes | None,
        order: Callable[[Orders], None],
        power: Callable[[Command, Mapping[str, Any]], None],
        hurry: Callable[[float], None],
        previous: tuple[Server, ...] = (),
    ) -> None:
        self._boot, self._keeper = boot, keeper
        self._order, self._power, self._hurry = order, power, hurry
        found = kept.unpack(remembered, boot, now_s)
        self.state: State = found.state
        self.plan = Plan()
        self.drill: Drill | None = None
        self._telling = Telling(found, now_s, previous)
        self._crowd = crowd.Crowd()
        self._config, self._off = Config(), "no"
        self._orders = Orders(prove=False)
        self._prove = 0
        self._kept_s, self._unkept = now_s, False
        self._outlets_s: dict[int, float] = {}  # when they were last switched on
        self._fresh_id = _new_id()

    # -- what comes in

    def configure(self, config: Config) -> None:
        """This is the configuration now."""
        self._config = config
        self._telling.plan(config.servers)
        self._unkept = self.state.phase is not Phase.IDLE  # whom it has no more must not be forgotten
        self._make_plan()

    def can_switch_off(self, proven: str) -> None:
        """What the driver is proven to do: no | battery | always (model.Driver.off_return)."""
        if proven != self._off:
            self._off = proven
            self._make_plan()

    def _make_plan(self) -> None:
        config = self._config
        needs_s: dict[str, float] = {}
        for server in config.servers:
            if server.how not in ("wake", "local"):
                needs_s[server.stage] = max(server.needs_s, needs_s.get(server.stage, 0.0))
        why = "not-armed" if config.mode != "armed" else "unproven" if config.ups_off else "configured"
        self.plan = Plan(
            stages=config.stages,
            needs_s=needs_s,
            local_needs_s=max((s.needs_s for s in config.servers if s.how == "local"), default=0.0),
            ups_off=self._off if config.ups_off and config.mode == "armed" else "no",
            no_off_why=why,
            ignore_low=config.ignore_low_battery,
            wake_charge_pct=config.wake_charge_pct,
            wake_after_s=config.wake_after_s,
        )

    def report(self, report: Report, now_s: float) -> None:
        """What the delivery says of a server."""
        rows = self._telling.take(report, self.state, now_s)
        self._unkept = self._unkept or any(row.name in ("told", "back") for row in rows)
        self._crowd.add(rows)

    def said(self, said: Said) -> None:
        """What became of a command by hand: it is for the log alone."""
        name = "execute" if said.verb == "EXECUTE" else "message"
        self._crowd.add((crowd.Row(name, said.server, said.detail, said.word),))

    def ordered(self, ordered: Ordered) -> list[Notice]:
        """What became of an order of ours to the UPS."""
        if ordered.command is not Command.SHUTDOWN_RETURN:
            if ordered.error:
                log.warning("%s: %s", ordered.command.value, ordered.error)
            return []
        if not ordered.error and self.state.off_sent_s is not None:
            self.state = replace(self.state, off_taken=True)
            self._unkept = True
        delay_s = f"{ordered.args['delay_s']:.0f}"
        remark = {"remark": ordered.remark} if ordered.remark else {}
        return [Notice("ups-off", {"delay_s": delay_s, "outcome": ordered.error or "ordered", **remark})]

    # -- one step

    def step(self, look: Status | None, now_s: float, failed_polls: int) -> list[Notice]:
        """Protection first; then the disk, the deliveries, the UPS; returns what happened."""
        before, seen = self.state, self._telling.seen(self._config.mode)
        self.state, effects = protection.step(
            before, look, now_s, plan=self.plan, failed_polls=failed_polls, fresh_id=self._fresh_id, seen=seen
        )
        again_s = protection.look_again_at_s(self.state)
        if look is not None and again_s is not None:
            self._hurry(again_s)
        self._follow(before, now_s)
        notices = [notice for effect in effects for notice in self._happened(effect, before)]
        self._switch_outlets(now_s)
        notices += self._play_drill(look, now_s)
        if missing := self._telling.missing(now_s):
            notices.append(Notice("not-back", {"servers": ", ".join(missing), "count": str(len(missing))}))
        return notices + [Notice(rows[0].name, crowd.data(rows)) for rows in self._crowd.take(now_s)]

    def _follow(self, before: State, now_s: float) -> None:
        """Have the state on the disk, and then the deliveries as it wants them."""
        if self.state.outage == self._fresh_id:
            self._fresh_id = _new_id()
        self._unkept = self._unkept or (self.state.phase in kept.OPEN and now_s - self._kept_s >= KEEP_EVERY_S)
        if self.state.durable() != before.durable():
            urgent = self.state.latched != before.latched or self.state.off_sent_s != before.off_sent_s
            if not self._keep(now_s, KEEP_WAIT_S if urgent else 0.0) and urgent:
                log.warning("the latch is not yet on the disk, servers are told all the same")
        elif self._unkept and len(self._config.servers) <= KEEP_AT_ONCE:
            self._keep(now_s, KEEP_WAIT_S)  # before the log has it: a restart must not tell the log twice
        elif self._unkept and now_s - self._kept_s >= KEEP_GAP_S:
            self._keep(now_s, 0.0)
        orders = self._telling.orders(self.state, self._config.mode, now_s, self._prove)
        if orders != self._orders:
            self._orders = orders
            self._order(orders)

    def _keep(self, now_s: float, within_s: float) -> bool:
        self._kept_s, self._unkept = now_s, False
        telling = self._telling
        data = kept.pack(
            self._boot, now_s, self.state, self._config.servers, telling.told, frozenset(telling.down), telling.gone
        )
        return self._keeper.keep(data, within_s)

    def _happened(self, effect: Effect, before: State) -> list[Notice]:
        """Do what an effect asks for; the rows it is worth."""
        log.warning("protection: %s %s %s", effect.kind, effect.stage, effect.why)
        outage = {"outage": self.state.outage or before.outage or ""}
        if effect.kind == "ups-off":
            args = {"delay_s": effect.delay_s, "return_delay_s": RETURN_DELAY_S}
            self._power(Command.SHUTDOWN_RETURN, args)
            return []
        if effect.kind == "latched":
            data = {"stage": effect.stage, "why": effect.why, "mode": self._config.mode}
            return [Notice("stage-latched", data)]
        if effect.kind == "outage-began" and self.drill is not None:
            self.drill = None
            return [Notice("drill-ended", {"why": "outage"})]
        if effect.kind == "waking":
            return [Notice("waking", {"servers": ", ".join(sorted(self._telling.down)[: crowd.NAMES_LIMIT])})]
        if effect.kind in ("outage-began", "battery-again"):
            return []  # the conditions say it
        if effect.kind == "held":
            return [Notice("held", {"seconds": effect.why})]
        return [Notice(effect.kind, {**outage, **({"why": effect.why} if effect.why else {})})]

    def _switch_outlets(self, now_s: float) -> None:
        """Have the outlets of those that are woken on, again and again until they answer."""
        for number in self._telling.outlets() if self._config.mode == "armed" else ():
            if now_s - self._outlets_s.get(number, -OUTLET_AGAIN_S) >= OUTLET_AGAIN_S:
                self._outlets_s[number] = now_s
                self._power(Command.OUTLET_ON, {"number": number})

    # -- what people ask

    def wish(self, do: str, stage: str, now_s: float) -> list[Notice]:
        """Do what an administrator asked for. OrderError says why not."""
        before = self.state
        if do == "prove":
            self._prove += 1
            return []
        if do == "wake":
            return self._wake(stage or "all", now_s)
        if do in ("drill", "drill-end"):
            return self._start_drill(now_s) if do == "drill" else self._end_drill("asked")
        if do == "hold":
            self.state, effects = byhand.hold(before, now_s, self.plan)
        elif do == "abort":
            self.state, effects = byhand.abort(before, self.plan)
        elif do == "release":
            self.state, effects = byhand.release(before)
        elif do == "clear":
            self.state, effects = byhand.clear(before)
        elif do == "shutdown":
            self.state, effects = byhand.shutdown(before, stage, now_s, self.plan, self._fresh_id)
        else:
            raise OrderError(f"nobody knows how to {do}")
        self._follow(before, now_s)
        return [notice for effect in effects for notice in self._happened(effect, before)]

    def _wake(self, stage: str, now_s: float) -> list[Notice]:
        if self._config.mode != "armed":
            raise OrderError("only in mode armed something is sent")
        if self.state.to_tell():
            raise OrderError("servers are being shut down; wake them afterwards")
        names = self._telling.wake_by_hand(stage, now_s)
        if not names:
            raise OrderError(f"no server in stage {stage}")
        return [Notice("waking", {"servers": ", ".join(names[: crowd.NAMES_LIMIT])})]

    def _start_drill(self, now_s: float) -> list[Notice]:
        if self.drill is not None:
            raise OrderError("a drill runs already")
        if self.state.phase is not Phase.IDLE:
            raise OrderError("not now: an outage, a planned shutdown or a recovery is under way")
        if not self.plan.stages:
            raise OrderError("there is no stage to play")
        self.drill = Drill(now_s)
        self._prove += 1
        return [Notice("drill-began", {})]

    def _end_drill(self, why: str) -> list[Notice]:
        if self.drill is None:
            raise OrderError("no drill runs")
        self.drill = None
        return [Notice("drill-ended", {"why": why})]

    def _play_drill(self, look: Status | None, now_s: float) -> list[Notice]:
        if self.drill is None:
            return []
        notices = []
        for effect in self.drill.step(look, now_s, self.plan):
            names = [s.name for s in self._config.servers if s.stage == effect.stage]
            servers = ", ".join(names[: crowd.NAMES_LIMIT])
            notices.append(Notice("drill-stage", {"stage": effect.stage, "why": effect.why, "servers": servers}))
        if self.drill.over:
            notices += self._end_drill(self.drill.over)
        return notices

    # -- what others must know

    @property
    def telling(self) -> Telling:
        """For looking only."""
        return self._telling

    @property
    def failed(self) -> str:
        """Why the slots cannot be written; '' while all is well."""
        return self._keeper.failed

    def is_unproven(self, now_s: float) -> bool:
        """Armed, and of a server there was no proof for a day."""
        return self._config.mode == "armed" and self._telling.unproven(now_s)


def _new_id() -> str:
    """64 random bits. (The module secrets would cost 4 MB of memory.)"""
    return os.urandom(8).hex()
