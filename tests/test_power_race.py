"""The race for the power, with a unit that really switches off and servers that really lose their power.

The mains comes back at one second of the plan after the other; whoever went down must be up again in the end, because
the UPS cycled his power or because he was woken; and the UPS is not switched off on mains unless that is proven.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.config import Stage
from agent.drivers import simulator
from agent.guard import Ordered
from agent.model import Command, Source
from agent.pretend import Scene, Unit
from tests.kit import TWO_SERVERS, Play

STAGES = (Stage(name="first", on_battery_s=10.0), Stage(name="last", on_battery_s=20.0))
SERVERS = tuple(
    replace(server, needs_s=needs_s, mac="02:00:00:00:00:01")
    for server, needs_s in zip(TWO_SERVERS, (15.0, 20.0), strict=True)
)
BOOT_S = 30.0  # of a server, and of the board
LIMIT_S = 1200


class Machine:
    """A server: it obeys, loses its power with the UPS, boots when that returns, or when it is woken."""

    def __init__(self, needs_s: float) -> None:
        self.needs_s, self.state, self.until_s = needs_s, "up", 0.0

    def told(self, now_s: float) -> None:
        if self.state == "up":
            self.state, self.until_s = "going down", now_s + self.needs_s

    def woken(self, now_s: float) -> None:
        if self.state == "down":
            self.state, self.until_s = "booting", now_s + BOOT_S

    def second(self, now_s: float, powered: bool) -> None:
        if not powered:
            self.state = "without power"
        elif self.state == "without power":
            self.state, self.until_s = "booting", now_s + BOOT_S
        elif self.state == "going down" and now_s >= self.until_s:
            self.state = "down"
        elif self.state == "booting" and now_s >= self.until_s:
            self.state = "up"


class Site:
    """A UPS, the board that watches it and lives on it, and two servers."""

    def __init__(self, off_return: str, board_on_ups: bool) -> None:
        self._off_return, self._board_on_ups = off_return, board_on_ups
        self.play = Play(stages=STAGES, servers=SERVERS, off_return=off_return)
        self.unit = Unit(self.play.clock.now_s, runtime_s=3600.0)
        self.driver = simulator.Simulator(Scene(self.unit, (), self.unit.now_s), self.play.clock.mono_s)
        self.machines = {s.name: Machine(s.needs_s) for s in SERVERS}
        self.ordered: list[tuple[bool, float]] = []  # to switch off: on mains?
        self.ever_told: set[str] = set()
        self._boots, self._dark_s = 1, 0.0

    def second(self) -> None:
        clock = self.play.clock
        powered = self.unit.output_on
        for machine in self.machines.values():
            machine.second(clock.now_s, powered)
        if self._board_on_ups and not powered:
            self._dark_s = clock.now_s
        if self._dark_s:
            clock.now_s += 1.0
            self.unit.step(clock.now_s)
            if clock.now_s - self._dark_s < BOOT_S:
                return
            self._boots, self._dark_s = self._boots + 1, 0.0
            self.play = Play(
                stages=STAGES,
                servers=SERVERS,
                off_return=self._off_return,
                after=self.play,
                boot=f"boot-{self._boots}",
            )
        self.play.second(self.driver.poll())
        self._obey(clock.now_s)

    def _obey(self, now_s: float) -> None:
        for command, args in self.play.powered:
            if command is Command.SHUTDOWN_RETURN:
                self.ordered.append((self.unit.mains, now_s))
                self.driver.order(command, **args)
                self.play.engine.turn(Ordered(command, args, ""))
        self.play.powered.clear()
        for name in self.play.tell:
            if self.machines[name].state == "up" and (name, self.play.view.outage) not in self.ever_told:
                self.ever_told.add((name, self.play.view.outage))
                self.machines[name].told(now_s)
                self.play.report(name, "accepted")
        for server in self.play.orders[-1].wake if self.play.orders else ():
            self.machines[server.name].woken(now_s)
            if self.machines[server.name].state == "up":
                self.play.report(server.name, "none", wake="back")

    def over(self) -> bool:
        return self.play.view.phase == "idle" and all(m.state == "up" for m in self.machines.values())


#: the plan: stages at 10 and 20 s, all down at 40, the UPS is off at 70 and may return at 130
EACH_SECOND, SOME = (*range(1, 76), *range(80, 160, 5)), (*range(1, 76, 3), *range(80, 160, 10))
CASES = [
    (back_s, off_return, board_on_ups)
    for off_return, board_on_ups, seconds in (
        ("no", False, SOME),
        ("battery", False, SOME),
        ("battery", True, EACH_SECOND),
        ("always", False, SOME),
        ("always", True, SOME),
    )
    for back_s in seconds
]


@pytest.mark.parametrize(("back_s", "off_return", "board_on_ups"), CASES)
def test_whenever_the_power_comes_back_everybody_is_up_in_the_end(
    back_s: int, off_return: str, board_on_ups: bool
) -> None:
    site = Site(off_return, board_on_ups)
    for _ in range(3):
        site.second()
    site.unit.assign("mains", False)
    for _ in range(back_s):
        site.second()
    site.unit.assign("mains", True)
    for _ in range(90):
        site.second()
    for _ in range(LIMIT_S):
        if site.over():
            break
        site.second()
    states = {name: machine.state for name, machine in site.machines.items()}
    assert site.over(), f"{states}, {site.play.view.phase}, {site.play.names()[-8:]}"
    assert bool(site.ever_told) == (back_s > 10), "told when the first stage was due, and not before"
    assert len(site.ordered) <= 1
    if off_return != "always":
        assert not any(on_mains for on_mains, _ in site.ordered), "never switched off on mains"
    assert site.unit.output_on and site.unit.source is Source.MAINS
