"""The verbs that steer protection, with a real agent: rehearse, arm, drill, hold, shut down now, wake, disarm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peer.world import ROOT, World, until

pytestmark = pytest.mark.peer

STAGES = '[[stage]]\nname = "all"\non_battery_s = 60\n# a word of the administrator\n'


def run(world: World, *args: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "agent", *args, "--config", str(world.config)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def notes(world: World) -> list[str]:
    return [e.name for e in world.events() if e.kind == "note"]


def test_rehearse_arm_and_disarm(tmp_path: Path) -> None:
    with World(tmp_path, mode="dry-run", stages=STAGES) as world:
        code, text = run(world, "rehearse")
        assert code == 1 and "server-0: reachable" in text and "nobody knows how long the battery lasts" in text
        code, text = run(world, "arm")
        assert code == 1 and "nothing was changed" in text
        code, text = run(world, "arm", "--yes")
        assert code == 0 and "mode armed is in force" in text
        until(lambda: world.view().mode == "armed", 3, "armed")
        assert "a word of the administrator" in world.config.read_text()
        code, text = run(world, "disarm")
        assert code == 0
        until(lambda: world.view().mode == "dry-run", 3, "dry-run")
        assert world.told() == []


def test_a_server_that_died_since_its_proof_is_said_by_rehearse_and_arm(tmp_path: Path) -> None:
    with World(tmp_path, mode="dry-run", stages=STAGES, confirm_servers=2) as world:
        until(lambda: all(s.state == "reachable" for s in world.view().servers), 15, "both are reachable")
        server = world._processes[1]
        server.terminate()
        server.wait(10)
        for verb in ("arm", "rehearse"):
            code, text = run(world, verb)
            assert code == 1 and "server-1" in text and "reachable before, but not now" in text, text
        assert world.view().mode == "dry-run" and [s.failing for s in world.view().servers] == [False, True]


def test_a_broken_file_is_not_armed_and_comes_back(tmp_path: Path) -> None:
    with World(tmp_path, mode="dry-run", stages=STAGES) as world:
        broken = world.config.read_text().replace('stage = "all"', 'stage = "nobody"')
        world.config.write_text(broken)
        code, text = run(world, "arm", "--yes")
        assert code != 0 and "no such [[stage]]" in text
        assert world.config.read_text() == broken and world.view().mode == "dry-run"


def test_an_armed_core_is_disarmed_though_the_file_has_another_mistake(tmp_path: Path) -> None:
    with World(tmp_path, stages=STAGES) as world:
        for broken in (('stage = "all"', 'stage = "nobody"'), ('stage = "nobody"', "stage = nobody")):
            world.config.write_text(world.config.read_text().replace(*broken).replace("dry-run", "armed"))
            code, text = run(world, "disarm")
            assert code == 0 and "mode dry-run is in force, with the last good configuration" in text, text
            until(lambda: world.view().mode == "dry-run" and world.view().config_errors, 3, "dry-run")
            world.kill("core")
            until(lambda: world.status_or_none() is not None, 15, "it is back")
            assert world.view().mode == "dry-run" and len(world.view().servers) == 1
        code, text = run(world, "arm", "--yes")
        assert code == 1 and "the core refuses" in text and world.view().mode == "dry-run"
        world.config.write_text(world.config.read_text().replace("stage = nobody", 'stage = "all"'))
        assert 'mode = "dry-run"' in world.config.read_text()
        code, text = run(world, "arm", "--yes")
        assert code == 0
        until(lambda: world.view().mode == "armed", 3, "armed")


def test_armed_in_the_file_by_hand_is_not_yet_armed(tmp_path: Path) -> None:
    with World(tmp_path, mode="dry-run", stages=STAGES) as world:
        world.config.write_text(world.config.read_text().replace("dry-run", "armed"))
        code, text = run(world, "arm", "--yes")
        assert code == 0 and "armed already" not in text
        until(lambda: world.view().mode == "armed", 3, "armed")
        code, text = run(world, "arm")
        assert code == 0 and "armed already" in text


def test_a_drill_a_planned_shutdown_and_an_outage_that_people_hold(tmp_path: Path) -> None:
    with World(tmp_path, stages=STAGES) as world:
        assert run(world, "hold")[0] == 1
        assert run(world, "drill")[0] == 0 and world.view().drill_left_s is not None
        world.ups.set("mains", "off")
        until(lambda: world.view().phase == "countdown", 8, "an outage")
        assert world.view().drill_left_s is None and "drill-ended" in notes(world)
        assert run(world, "hold")[0] == 0
        due_s = world.view().stages[0].due_in_s
        assert due_s is not None and due_s > 300 and world.view().held_s == 300
        assert run(world, "abort")[0] == 0 and world.view().aborted
        assert run(world, "release")[0] == 0 and not world.view().aborted
        world.ups.set("mains", "on")
        until(lambda: world.view().phase == "hold", 20, "mains is back")
        code, text = run(world, "shutdown", "all")
        assert code == 2 and "stage all: server-0" in text and world.told() == []
        assert run(world, "shutdown", "al", "--yes")[0] == 2
        assert run(world, "shutdown", "all", "--yes")[0] == 0
        until(world.told, 5, "the server's shutdown command ran")
        rows = [e.data for e in world.events() if e.name == "command"]
        assert [r["command"] for r in rows if r["outcome"] == "done"] == [
            "drill",
            "hold",
            "abort",
            "release",
            "shutdown",
        ]
        assert all(r["user"] for r in rows)
