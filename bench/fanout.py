"""How fast a thousand servers are told: a real core, a UPS on a pty, servers in a network namespace of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from agent import bus, wire
from agent.model import Event, View
from agent.protection import CONFIRM_S
from bench.gate import gate, p95
from bench.memory import rss_mb
from tests.peer.world import ROOT, until
from tests.simulators.megatec import MegatecPty

RUNS, SHORT_RUNS = 20, 3
POLL_S = 1.0
AGENT, FARM = f"rt-a{os.getpid()}", f"rt-f{os.getpid()}"
LIVE, HANGING = 6003, 6004


def main(options: list[str]) -> int:
    runs = SHORT_RUNS if "--short" in options else RUNS
    if os.geteuid() != 0:
        print("   not run: network namespaces need root")
        return 0
    print(f"   defaults: poll {POLL_S:g} s, confirm {CONFIRM_S:g} s; classic RCCMD; one process plays all servers,")
    print("   in a network namespace, on the same two cores as the core; a fresh core for each outage")
    with _network(), _Farm() as farm:
        good = _fanout(farm, 1000, 0, 3.0)
        good &= _fanout(farm, 700, 300, 5.0)
        for count, more_s in ((100, 1.5), (1000, 3.0)):
            found = [_outage(farm, number, count, 0)[1] for number in range(runs)]
            what = f"wire change to the last of {count} servers, p95 of {runs}"
            good &= gate(what, p95(found), POLL_S + CONFIRM_S + more_s, "s")
            print(f"   the same, median: {sorted(found)[len(found) // 2]:.2f} s")
    return 0 if good else 1


def _fanout(farm: _Farm, live: int, hanging: int, limit_s: float) -> bool:
    latch_s, _, peak_mb = _outage(farm, 0, live, hanging)
    among = f" among {hanging} that accept and hang" if hanging else ""
    good = gate(f"latch to the last accept, {live} live servers{among}", latch_s, limit_s, "s")
    return gate("core VmHWM", peak_mb, 60.0, "MB") and good


def _outage(farm: _Farm, number: int, live: int, hanging: int) -> tuple[float, float, float]:
    """One outage of a fresh core: (latch to last accept, wire change to last accept, core's peak in MB)."""
    with tempfile.TemporaryDirectory(prefix="ridethrough-bench-") as name, MegatecPty(Path(name) / "ups") as ups:
        folder = Path(name)
        _configure(folder, live, hanging)
        farm.clear()
        argv = ["ip", "netns", "exec", AGENT, sys.executable, "-m", "agent", "core", "--config", f"{folder}/c.toml"]
        with (folder / "log").open("wb") as log:
            core = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)
        try:
            until(lambda: _view(folder) is not None, 30, "the core has a frame")
            time.sleep(1.0 + (number * 0.37) % 1.0)  # at any phase of the poll
            wire_s = time.time()
            ups.set("battery_low", "1")
            ups.set("mains", "off")
            until(lambda: len(farm.told) >= live, 60, f"{live} servers are told")
            last_s = max(farm.told.values())
            peak_mb = rss_mb(core.pid, "VmHWM")
            rows = bus.ask(f"{folder}/run/core.sock", {"type": "query", "what": "events", "limit": 100})["events"]
            latch = next(e for e in (wire.from_json(Event, r) for r in rows) if e.name == "stage-latched")
            return last_s - latch.wall_s, last_s - wire_s, peak_mb
        finally:
            core.send_signal(signal.SIGTERM)
            core.wait(20)


def _view(folder: Path) -> View | None:
    try:
        reply = bus.ask(f"{folder}/run/core.sock", {"type": "query", "what": "status"})
    except bus.BusError:
        return None
    view = wire.from_json(View, reply["view"])
    return view if view.status is not None else None


def _configure(folder: Path, live: int, hanging: int) -> None:
    ports = [LIVE] * live + [HANGING] * hanging
    servers = "".join(
        f'[[server]]\nname = "s{n}"\naddress = "10.199.{n // 250 + 1}.{n % 250 + 1}"\nport = {port}\nstage = "all"\n'
        for n, port in enumerate(ports)
    )
    (folder / "c.toml").write_text(
        f'[agent]\nstate_dir = "{folder}/state"\nrun_dir = "{folder}/run"\nmode = "armed"\n'
        f'[ups]\ndriver = "megatec"\nport = "{folder}/ups"\npoll_s = {POLL_S}\n'
        f'[[stage]]\nname = "all"\non_battery_s = 600\n{servers}'
    )


class _network:
    """Two namespaces and a cable; every address of 10.199.0.0/16 is a machine of the farm."""

    def __enter__(self) -> None:
        for line in (
            f"netns add {AGENT}", f"netns add {FARM}",
            f"link add a{os.getpid()} netns {AGENT} type veth peer name f{os.getpid()} netns {FARM}",
            f"-n {AGENT} addr add 10.198.0.1/24 dev a{os.getpid()}",
            f"-n {FARM} addr add 10.198.0.2/24 dev f{os.getpid()}",
            f"-n {AGENT} link set a{os.getpid()} up", f"-n {FARM} link set f{os.getpid()} up",
            f"-n {AGENT} link set lo up", f"-n {FARM} link set lo up",
            f"-n {AGENT} route add 10.199.0.0/16 via 10.198.0.2", f"-n {FARM} route add local 10.199.0.0/16 dev lo",
        ):  # fmt: skip
            subprocess.run(["ip", *line.split()], check=True)

    def __exit__(self, *_: object) -> None:
        for name in (AGENT, FARM):
            subprocess.run(["ip", "netns", "del", name], check=True)


class _Farm:
    """The farm's process, and when each of its servers took the line last."""

    def __init__(self) -> None:
        self.told: dict[str, float] = {}
        argv = ["ip", "netns", "exec", FARM, sys.executable, "-m", "bench.farm", str(LIVE), str(HANGING)]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        out = self._process.stdout
        if out is None or out.readline().strip() != "ready":
            raise RuntimeError("the farm did not start")
        threading.Thread(target=self._read, args=(out,), daemon=True).start()

    def _read(self, out: IO[str]) -> None:
        for line in out:
            address, wall_s = line.split()
            self.told[address] = float(wall_s)

    def clear(self) -> None:
        self.told = {}

    def __enter__(self) -> _Farm:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
