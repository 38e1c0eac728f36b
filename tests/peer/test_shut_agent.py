"""A UPS that speaks SHUT, on a terminal, through the whole agent: an outage, an order, a cable that is pulled."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent import bus
from tests.peer.world import World, until
from tests.simulators.shut import ShutPty

pytestmark = pytest.mark.peer

STAGES = '[[stage]]\nname = "all"\non_battery_s = 2\n'


def order(world: World, command: str) -> None:
    message = {"type": "command", "command": command, "args": {}}
    reply = bus.ask(str(world.folder / "run" / "core.sock"), message, within_s=10.0)
    assert reply.get("ok"), reply


@pytest.mark.parametrize("paced", [False, True])
def test_a_mains_failure_goes_through_the_whole_agent(tmp_path: Path, paced: bool) -> None:
    with ShutPty(tmp_path / "line", paced=paced) as ups:
        section = f'driver = "shut"\nport = "{ups.path}"\npoll_s = 10\n'
        with World(tmp_path, ups=section, stages=STAGES) as world:
            status = world.view().status
            assert status is not None and status.source.value == "mains"
            assert status.ident.model and "9PX" in status.ident.model
            assert str(int(status.battery.charge_pct or 0)) in world.snmp("1.3.6.1.2.1.33.1.2.4.0")
            order(world, "test-quick")
            with ups.lock:
                assert [r for r in ups.there.requests if r[:2] == b"\x21\x09"], "it was told over the line"
            polled_s = world.view().status.taken_s
            until(lambda: world.view().status.taken_s > polled_s, 15, "a regular poll: the next is 10 s away")
            began_s = time.monotonic()
            ups.mains(False)  # told unasked
            until(lambda: world.view().status.source.value == "battery", 5, "the view says battery")
            seen_s = time.monotonic() - began_s
            assert seen_s < 2.5, seen_s
            until(lambda: "on-battery" in world.conditions(), 15, "it is confirmed")
            until(lambda: bool(world.told()), 20, "the server was told")
            ups.mains(True)
            until(lambda: "on-battery" not in world.conditions(), 40, "the mains is back")


def test_a_cable_that_is_pulled_in_an_outage_is_found_again(tmp_path: Path) -> None:
    with ShutPty(tmp_path / "line") as ups:
        section = f'driver = "shut"\nport = "{ups.path}"\npoll_s = 0.5\n'
        with World(tmp_path, ups=section) as world:
            ups.mains(False)
            until(lambda: "on-battery" in world.conditions(), 15, "an outage")
            ups.unplug()
            until(lambda: "comm-lost" in world.conditions(), 40, "comm-lost")
            assert "on-battery" in world.conditions() and world.told() == []
            ups.mains(True)  # nobody hears it
            ups.replug()
            began_s = time.monotonic()
            until(lambda: "comm-lost" not in world.conditions(), 30, "it is read again")
            assert time.monotonic() - began_s < 15.0
            until(lambda: "on-battery" not in world.conditions(), 30, "and the mains is back")
            assert world.told() == []
