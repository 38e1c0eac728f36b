"""How the agent is operated: the demo, mistakes in the configuration, reload, a bad disk, two cores."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.peer.world import ROOT, World, free_port, until

pytestmark = pytest.mark.peer


class Demo:
    """`ridethrough demo` as a process, as `./run demo` starts it."""

    def __init__(self, state: Path) -> None:
        self.web, self.snmp = free_port(), free_port()
        self.log = state.with_suffix(".log")
        argv = [sys.executable, "-m", "agent", "demo", "--state", str(state)]
        argv += ["--web", f"127.0.0.1:{self.web}", "--snmp", f"127.0.0.1:{self.snmp}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)

    def said(self, pattern: str, within_s: float = 20.0) -> re.Match[str]:
        found: re.Match[str] = until(
            lambda: re.search(pattern, self.log.read_text()), within_s, f"{pattern!r} in {self.log.read_text()}"
        )
        return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(15)


def children_of(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.add(int(stat.parent.name))
        except (OSError, ValueError):
            continue
    return found


def test_the_demo_prints_how_to_look_at_it_and_ends_cleanly(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "demo")
    try:
        password = demo.said(r"Password   (\S+-\S+) \(user admin").group(1)
        assert len(password) >= 12
        community = demo.said(r"snmpwalk -v2c -c (\S+) ").group(1)
        walk = ["snmpwalk", "-v2c", "-c", community, f"127.0.0.1:{demo.snmp}", "1.3.6.1.2.1.33.1.1.5"]
        until(
            lambda: "demo-ups" in subprocess.run(walk, capture_output=True, text=True, timeout=30).stdout, 5, "SNMP"
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{demo.web}/", timeout=5) as page:
            assert b"<html" in page.read()
        children = children_of(demo.process.pid)
        assert len(children) == 3
    finally:
        assert demo.end() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert "Traceback" not in demo.log.read_text()
    again = Demo(tmp_path / "demo")
    try:
        assert again.said(r"-c (\S+) ").group(1) == community
        assert again.said(r"Password   (\S+)").group(1) == password  # not yet used
    finally:
        assert again.end() == 0


def test_killing_the_supervisor_ends_its_processes(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        pids = [world.pid_of("core"), world.pid_of("faces")]
        world.agent.kill()
        world.agent.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 8, "they end")


def test_a_mistake_keeps_the_last_good_set_in_force_and_is_shown(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        good = world.config.read_text()
        world.config.write_text(good.replace('mode = "armed"', 'mode = "aremd"'))
        os.kill(world.pid_of("core"), signal.SIGHUP)
        until(lambda: {"config-error", "not-protected"} <= world.conditions(), 5, "the conditions")
        view = world.view()
        assert view.mode == "armed" and len(view.servers) == 1 and "[agent] mode" in view.config_errors[0]
        old = world.kill("core")  # and a restart with the mistake still in the file
        until(lambda: world.pid_of("core") != old and world.status_or_none(), 8, "the core is back")
        assert world.view().mode == "armed" and "not-protected" in world.conditions()
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(world.told, 8, "the server is told all the same")
        world.config.write_text(good)
        os.kill(world.pid_of("core"), signal.SIGHUP)
        until(lambda: "config-error" not in world.conditions(), 5, "all is well again")


def test_a_file_that_is_no_toml_leaves_page_and_protection_alone(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.config.write_text(world.config.read_text() + "\n[[[[\n")
        os.kill(world.agent.pid, signal.SIGHUP)  # the supervisor hands it on
        until(lambda: "config-error" in world.conditions(), 5, "the condition")
        assert any("not TOML" in e for e in world.view().config_errors)
        old = {part: world.kill(part) for part in ("core", "faces")}  # and a new start of both with it
        until(lambda: world.pid_of("core") != old["core"] and world.status_or_none(), 8, "the core is back")
        until(world._page, 8, "the page is back")
        assert world.view().mode == "armed" and "not-protected" in world.conditions()
        assert "not TOML" in world.api_status()["view"]["config_errors"][0]
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(world.told, 8, "the server is told all the same")


def test_a_configuration_that_vanishes_ends_nothing(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.config.rename(tmp_path / "away.toml")
        old = world.kill("faces")
        until(lambda: world.pid_of("faces") != old, 5, "another try with the faces")
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(world.told, 8, "the server is told")
        assert world.agent.poll() is None
        (tmp_path / "away.toml").rename(world.config)
        until(world._page, 15, "the page is back")


def test_another_ups_starts_the_core_anew_so_that_it_never_gets_the_old_ones_plan(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        good = world.config.read_text()
        simulated = good.replace('driver = "megatec"', 'driver = "simulator"').replace(
            f'port = "{tmp_path}/ups"\n', ""
        )
        world.config.write_text(simulated.replace('mode = "armed"', 'mode = "dry-run"'))
        old = world.pid_of("core")
        os.kill(world.agent.pid, signal.SIGHUP)
        until(lambda: world.pid_of("core") != old and world.status_or_none(), 8, "the simulator")
        assert world.view().driver == "simulator" and world.view().mode == "dry-run"
        world.config.write_text(good)
        os.kill(world.agent.pid, signal.SIGHUP)
        until(lambda: (v := world.status_or_none()) and v.driver == "megatec", 8, "the real one")
        view = world.view()
        assert view.mode == "armed" and view.status is not None and view.status.ident.manufacturer == "MEGATEC"


def test_without_a_folder_for_the_bus_the_servers_are_told_and_the_bus_comes_later(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.agent.terminate()
        world.agent.wait(15)
        subprocess.run(["rm", "-rf", str(tmp_path / "run")], check=True)
        (tmp_path / "run").write_text("not a folder")
        argv = [sys.executable, "-m", "agent", "core", "--config", str(world.config)]
        with world.log.open("ab") as log:
            core = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)
        try:
            until(lambda: "no bus in" in world.log.read_text(), 8, "the core says so")
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(world.told, 10, "the server is told")
            (tmp_path / "run").unlink()
            until(lambda: world.status_or_none(), 10, "the bus is there")
        finally:
            core.terminate()
            assert core.wait(15) == 0


def test_a_new_server_is_protected_after_a_reload(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        more = f'[[server]]\nname = "new"\naddress = "127.0.0.1"\nport = {free_port()}\n'
        world.config.write_text(world.config.read_text() + more)
        os.kill(world.pid_of("core"), signal.SIGHUP)
        until(lambda: [s.name for s in world.view().servers] == ["server-0", "new"], 5, "the new server")
        assert [s.name for s in world.view().stages] == ["all", "default"]
        assert any(e.name == "config-changed" for e in world.events())


def test_a_second_core_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        argv = [sys.executable, "-m", "agent", "core", "--config", str(world.config)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20)
        assert done.returncode == 2 and "another core already runs" in done.stderr
        assert world.view().status is not None


def test_without_a_writable_state_the_servers_are_told_all_the_same(tmp_path: Path) -> None:
    """The state folder is a file: nothing can be kept, and protection works."""
    with World(tmp_path) as world:
        world.agent.terminate()
        world.agent.wait(15)
        state = tmp_path / "state"
        secrets = (state / "faces" / "secrets.json").read_text()
        subprocess.run(["rm", "-rf", str(state / "core")], check=True)
        (state / "core").write_text("not a folder")
        assert secrets
        world.start_agent()
        assert "storage-failed" in world.conditions()
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(world.told, 8, "the server is told")
        assert any(e.name == "on-battery" for e in world.events())  # from memory


def test_a_server_that_refuses_us_is_not_told_and_named(tmp_path: Path) -> None:
    with World(tmp_path, confirm_servers=2) as world:
        listener = world._processes[0]  # server-0 goes away
        listener.terminate()
        listener.wait(10)
        world.ups.set("mains", "off")
        world.ups.set("battery_low", "1")
        until(lambda: world.told(1), 8, "the other server is told")
        until(lambda: world.view().servers[0].delivery == "not-delivered", 5, "the first is not")
        assert "refused" in world.view().servers[0].detail.lower()
        world.start_server(0, world.server_ports[0])
        until(lambda: world.told(0), 20, "it is told when it is back")
