"""The main job with real processes: the mains fails, and the server's shutdown command runs, while others watch."""

from __future__ import annotations

import os
import re
import time
import urllib.error
from pathlib import Path

import pytest

from tests.peer.test_browser import ON_BATTERY, ON_LINE, mark, not_reloaded, sees
from tests.peer.test_snmp_agent import nut, upsc
from tests.peer.world import World, until
from tests.webdriver import Browser

pytestmark = pytest.mark.peer

OUTPUT_SOURCE, SECONDS_ON_BATTERY = "1.3.6.1.2.1.33.1.4.1.0", "1.3.6.1.2.1.33.1.2.2.0"
BATTERY_STATUS, ALARMS = "1.3.6.1.2.1.33.1.2.1.0", "1.3.6.1.2.1.33.1.6"
ON_BATTERY_ALARM, COMM_LOST_ALARM = ".1.3.6.1.2.1.33.1.6.3.2", ".1.3.6.1.2.1.33.1.6.3.20"


def integer(text: str) -> int:
    return int(re.findall(r"INTEGER: (-?\d+)", text)[0])


def began(world: World, name: str) -> int:
    return sum(e.kind == "began" and e.name == name for e in world.events())


def api_names(world: World) -> set[str]:
    """The conditions that the page's API shows; empty while the faces are away."""
    try:
        return {c["condition"] for c in world.api_status()["view"]["conditions"]}
    except (OSError, urllib.error.URLError):
        return set()


@pytest.mark.parametrize("language", ["en", "de"])
def test_mains_fails_battery_low_and_the_server_goes_down_while_all_watch(tmp_path: Path, language: str) -> None:
    """net-snmp, NUT over SNMP, and a browser see the outage begin, get low, and end; the server is told once."""
    (tmp_path / "nut").mkdir()
    with (
        World(tmp_path) as world,
        nut(tmp_path / "nut", world.snmp_port, "mibs = ietf", "snmp_version = v2c") as upsd,
        Browser(language=language) as browser,
    ):
        browser.open(f"http://127.0.0.1:{world.web_port}/")
        sees(browser, ON_LINE[language])
        mark(browser)
        assert integer(world.snmp(OUTPUT_SOURCE)) == 3
        upsc(upsd, "OL")
        world.ups.set("mains", "off")
        until(lambda: "on-battery" in world.conditions(), 8, "on battery")
        until(lambda: integer(world.snmp(OUTPUT_SOURCE)) == 5, 3, "SNMP says battery")
        assert ON_BATTERY_ALARM in world.snmp(ALARMS, tool="snmpwalk")
        sees(browser, ON_BATTERY[language])
        assert "output.voltage" in upsc(upsd, "OB")
        assert integer(world.snmp(SECONDS_ON_BATTERY)) >= 1
        assert world.told() == []
        world.ups.set("battery_low", "1")
        until(world.told, 5, "the server's shutdown command ran")
        until(lambda: integer(world.snmp(BATTERY_STATUS)) == 3, 5, "SNMP says battery low")
        upsc(upsd, "OB LB")
        until(lambda: world.view().servers[0].delivery == "delivered-unconfirmed", 3, "the outcome is shown")
        world.ups.set("mains", "on")
        world.ups.set("battery_low", "0")
        until(lambda: "on-battery" not in world.conditions(), 20, "on line again")
        until(lambda: "mains-in" in browser.attribute("#app", "class"), 5, "the page sees the mains")
        assert not_reloaded(browser) and browser.console() == []
        upsc(upsd, "OL")
        assert len(world.told()) == 1
        names = [(e.kind, e.name) for e in world.events()]
        assert names.count(("note", "told")) == 1 and names.count(("began", "on-battery")) == 1
        assert "stage-latched" in world.ridethrough("log", "--lines", "50")


def test_the_faces_killed_at_the_start_of_the_outage_change_nothing(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        polls = world.view().polls
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        begin_s = time.monotonic()
        old = world.kill("faces")
        until(world.told, 8, "the server's shutdown command ran")
        until(lambda: world.pid_of("faces") != old and api_names(world), 4, "the faces are back")
        assert "on-battery" in api_names(world)
        elapsed_s = time.monotonic() - begin_s
        assert world.view().polls - polls >= int(elapsed_s) - 1 and world.view().poll_errors == 0
        assert integer(world.snmp(OUTPUT_SOURCE)) == 5
        assert began(world, "on-battery") == 1 and len(world.told()) == 1


@pytest.mark.alone
def test_the_faces_are_back_and_current_within_three_seconds(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        until(lambda: api_names(world) is not None and world.api_status, 5, "the page")
        begin_s = time.monotonic()
        world.kill("faces")
        time.sleep(0.1)

        def current() -> bool:
            try:
                return world.api_status()["view"]["status"] is not None and "INTEGER" in world.snmp(OUTPUT_SOURCE)
            except OSError:
                return False

        until(current, 5, "faces")
        assert time.monotonic() - begin_s <= 3.0


def test_the_core_killed_in_the_outage_resumes_and_nothing_is_twice_in_the_log(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.ups.set("mains", "off")
        until(lambda: "on-battery" in world.conditions(), 8, "on battery")
        outage = world.view().outage
        old = world.kill("core")
        until(lambda: world.pid_of("core") != old and "on-battery" in world.conditions(), 5, "the core is back")
        assert world.view().outage == outage
        world.ups.set("battery_low", "1")
        until(world.told, 6, "the server's shutdown command ran")
        world.kill("core")
        time.sleep(0.5)
        until(lambda: "on-battery" in world.conditions(), 5, "the core is back again")
        time.sleep(3)
        assert len(world.told()) == 1
        names = [(e.kind, e.name) for e in world.events()]
        for row in (("began", "on-battery"), ("note", "told"), ("note", "stage-latched"), ("began", "low-battery")):
            assert names.count(row) == 1, (row, names)
        world.ups.set("mains", "on")
        world.ups.set("battery_low", "0")
        until(lambda: "on-battery" not in world.conditions(), 20, "on line")
        assert [(e.kind, e.name) for e in world.events()].count(("ended", "on-battery")) == 1


@pytest.mark.alone
def test_without_the_core_the_faces_say_so_within_three_seconds_and_recover(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        until(lambda: "INTEGER: 3" in world.snmp(OUTPUT_SOURCE), 5, "SNMP knows")
        pid = world.pid_of("core")
        os.kill(pid, 19)  # SIGSTOP: it hangs, and nobody starts it again
        begin_s = time.monotonic()
        until(lambda: "no-core" in api_names(world), 5, "the page says no-core")
        until(lambda: "No Such Instance" in world.snmp(OUTPUT_SOURCE), 2, "no measurement over SNMP")
        assert time.monotonic() - begin_s <= 3.3
        assert COMM_LOST_ALARM in world.snmp(ALARMS, tool="snmpwalk")
        os.kill(pid, 18)  # SIGCONT
        until(lambda: "INTEGER: 3" in world.snmp(OUTPUT_SOURCE), 3, "SNMP knows again")
        assert COMM_LOST_ALARM not in world.snmp(ALARMS, tool="snmpwalk")
        world.kill("core")
        until(lambda: "no-core" in api_names(world), 3, "the page says no-core")
        until(lambda: api_names(world) == set() and world.api_status()["view"]["status"], 5, "all is well again")


def test_in_dry_run_nothing_runs(tmp_path: Path) -> None:
    with World(tmp_path, mode="dry-run") as world:
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(lambda: any(s.delivery == "dry-run" for s in world.view().servers), 8, "the dry run says whom")
        time.sleep(3)
        assert world.told() == []
        latched = next(e for e in world.events() if e.name == "stage-latched")
        assert latched.data["mode"] == "dry-run"


@pytest.mark.parametrize("what", ["battery_low on mains", "test", "silence", "output off"])
def test_what_is_no_outage_tells_nobody(tmp_path: Path, what: str) -> None:
    with World(tmp_path) as world:
        if what == "battery_low on mains":
            world.ups.set("battery_low", "1")
        elif what == "test":
            world.ups.set("test", "on")
        elif what == "silence":
            world.ups.fault("silence")
            until(lambda: "comm-lost" in world.conditions(), 30, "comm-lost")
            assert world.view().status is None
            world.ups.fault("none")
            until(lambda: world.view().status is not None, 20, "the UPS is back")
        else:
            world.ups.unplug()
            time.sleep(2)
            world.ups.replug()
            until(lambda: world.view().poll_errors > 0 and world.view().link == "up", 20, "the line is back")
        time.sleep(6)
        assert world.told() == [] and world.view().outage is None
