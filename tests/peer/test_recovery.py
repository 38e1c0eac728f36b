"""Recovery with a real core: a cable that is pulled, a line that takes nothing, a UPS that nobody named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import bus
from agent.drivers import megatec
from tests.peer.world import ROOT, World, until
from tests.simulators.apcsmart import ApcPty
from tests.simulators.dialects import SPEAKERS
from tests.simulators.megatec import MegatecPty
from tests.test_detect import DIALECTS


def gaps_s(world: World, stop: threading.Event, found: list[float]) -> None:
    """How long the engine's own second stood still, into `found`."""
    last_version, last_s = -1, time.monotonic()
    while not stop.wait(0.05):
        try:
            view = world.view()
        except bus.BusError:
            continue
        now_s = time.monotonic()
        if view.now_s != last_version:
            last_version, last_s = view.now_s, now_s
        found.append(now_s - last_s)


def test_f22_a_cable_that_was_out_for_20_s_is_found_again_within_15_s(tmp_path: Path) -> None:
    """F22, the slowest poll and the longest pause: the terminal comes back as another one under the same name."""
    with World(tmp_path, mode="dry-run", poll_s=10.0) as w:
        w.ups.unplug()
        until(lambda: "comm-lost" in w.conditions(), 40, "comm-lost")
        time.sleep(5.0)
        assert not any(e.name == "on-battery" for e in w.events())
        w.ups.replug()
        began_s = time.monotonic()
        until(lambda: w.view().link == "up" and "comm-lost" not in w.conditions(), 15, "found again")
        print(f"F22: found again after {time.monotonic() - began_s:.1f} s")


def test_f23_a_line_that_takes_nothing_holds_nobody(tmp_path: Path) -> None:
    """F23: the buffer of the line is full and nobody reads; the engine goes on, no gap of 2 s."""
    master, slave = os.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    stop, found = threading.Event(), list[float]()
    with World(tmp_path, mode="dry-run", poll_s=0.2) as w:
        w._ups_toml = f'driver = "megatec"\nport = "{name}"\npoll_s = 0.2\n'
        w.agent.terminate()
        w.agent.wait(15)
        w._configure()
        os.set_blocking(slave, False)
        stuffed = 0
        try:
            while True:
                stuffed += os.write(slave, b"x" * 1024)
        except BlockingIOError:
            pass
        argv = [sys.executable, "-m", "agent", "run", "--config", str(w.config)]
        with w.log.open("ab") as log:
            agent = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)
        w._processes.append(agent)
        until(lambda: "comm-lost" in w.conditions(), 60, "comm-lost")
        thread = threading.Thread(target=gaps_s, args=(w, stop, found))
        thread.start()
        time.sleep(8.0)
        stop.set()
        thread.join()
    os.close(master)
    os.close(slave)
    assert stuffed and found and max(found) < 2.0, max(found)
    print(f"F23: longest gap {max(found):.2f} s")


def test_a_ups_that_nobody_named_is_found_remembered_and_waited_for(tmp_path: Path) -> None:
    port = tmp_path / "ups"
    with World(tmp_path, mode="dry-run", ups=f'driver = "auto"\nserial_ok = true\nport = "{port}"\n') as w:
        memory = json.loads((tmp_path / "state" / "core" / "detected.json").read_text())
        assert memory["driver"] == "megatec" and memory["section"] == {"port": str(port), "dialect": "megatec"}
        assert {c.lstrip(b"Y\x18") for c in w.ups.received} <= {q.rstrip(b"\r") for q in megatec.QUERIES} | {b"I"}
        assert w.ups.received.count(b"YYY\x18\x18\x18Q1") == 1, "what others asked is over before its first poll"
        w.ups.set("mains", "off")
        w.ups.unplug()
        old = w.kill("core")
        until(lambda: w.pid_of("core") != old and "comm-lost" in w.conditions(), 40, "a new core, without the UPS")
        w.ups.replug()
        began_s = time.monotonic()
        until(lambda: w.status_or_none(), 15, "it sees the outage without looking for the UPS")
        print(f"after a restart in an outage the UPS is read {time.monotonic() - began_s:.1f} s after it came back")
        assert b"YYYQ1" not in list(w.ups.received)[-4:]
        names = w.ridethrough("support", "--output", str(tmp_path / "bundle.tar.gz"))
        assert "frames.json" in names


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[dict[str, MegatecPty]]:
    """Every pretend unit on a terminal of its own."""
    units: dict[str, MegatecPty] = {name: MegatecPty(tmp_path / name, dialect=name) for name in sorted(SPEAKERS)}
    units["apcsmart"] = ApcPty(tmp_path / "apcsmart")
    for name, fault in (("silent", "silence"), ("garbled", "garbage"), ("endless", "endless"), ("cut", "truncated")):
        units[name] = MegatecPty(tmp_path / name)
        units[name].fault(fault)
    for unit in units.values():
        unit.__enter__()
    yield units
    for unit in units.values():
        unit.__exit__()


def test_every_simulator_on_a_terminal_is_found_or_not_known(bench: dict[str, MegatecPty]) -> None:
    def detect(name: str) -> tuple[str, str]:
        argv = [sys.executable, "-m", "agent", "detect", "--serial-ok", "--json", "--port", str(bench[name].path)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
        found = json.loads(done.stdout)["found"]
        assert done.returncode == (0 if found else 1)
        return name, found and found["section"].get("dialect", found["driver"])

    with ThreadPoolExecutor(len(bench)) as pool:
        found = dict(pool.map(detect, bench))
    assert found == {**DIALECTS, "apcsmart": "apcsmart", **dict.fromkeys(("silent", "garbled", "endless", "cut"))}
