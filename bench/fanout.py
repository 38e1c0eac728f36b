"""How fast a thousand servers are told: a real core, a UPS on a pty, servers in a network namespace of their own.

By classic RCCMD, and by secure RCCMD: TLS with keys on both sides, 64 handshakes at once. `--tls`: only the latter.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent import bus, pins, senderkey, vault, wire
from agent.model import Event, View
from agent.protection import CONFIRM_S
from bench.gate import gate, p95
from bench.memory import rss_mb
from tests.peer.network import HANGING, LIVE, SECURE, Network
from tests.peer.world import ROOT, until
from tests.simulators.megatec import MegatecPty

RUNS, SHORT_RUNS = 20, 3
POLL_S = 1.0


def main(options: list[str]) -> int:
    runs = SHORT_RUNS if "--short" in options else RUNS
    if os.geteuid() != 0:
        print("   not run: network namespaces need root")
        return 0
    print(f"   defaults: poll {POLL_S:g} s, confirm {CONFIRM_S:g} s; one process plays all servers,")
    print("   in a network namespace, on the same two cores as the core; a fresh core for each outage")
    with tempfile.TemporaryDirectory(prefix="ridethrough-bench-") as name:
        keys = Keys(Path(name))
        with Network((keys.server, keys.sender)) as net:
            good = _secure(net, keys)
            if "--tls" not in options:
                good &= _classic(net, runs)
    return 0 if good else 1


class Keys:
    """A core's key, and one that all servers share; made before the farm begins."""

    def __init__(self, folder: Path) -> None:
        self.sender, self.server = folder / "sender.pem", folder / "server.pem"
        self.sender.write_bytes(senderkey.make("bench"))
        self.server.write_bytes(senderkey.make("server"))
        text = self.server.read_text()
        der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])
        self.sha256 = hashlib.sha256(der).hexdigest()

    def enrol(self, state: Path, count: int) -> None:
        """Give a core this key, and pins of so many servers."""
        pin = {"sha256": self.sha256, "enrolled_s": time.time()}
        vault.write_private(state / senderkey.NAME, self.sender.read_bytes())
        vault.write_private(state / pins.FILE, json.dumps({f"s{n}": pin for n in range(count)}).encode())


def _classic(net: Network, runs: int) -> bool:
    good = _fanout(net, None, 1000, 0, 3.0)
    good &= _fanout(net, None, 700, 300, 5.0)
    for count, more_s in ((100, 1.5), (1000, 3.0)):
        found = [_outage(net, None, number, count, 0)[1] for number in range(runs)]
        what = f"classic: wire change to the last of {count} servers, p95 of {runs}"
        good &= gate(what, p95(found), POLL_S + CONFIRM_S + more_s, "s")
        print(f"   the same, median: {sorted(found)[len(found) // 2]:.2f} s")
    return good


def _secure(net: Network, keys: Keys) -> bool:
    good = _fanout(net, keys, 1, 0, 0.5)
    good &= _fanout(net, keys, 1000, 0, 15.0)
    return _fanout(net, keys, 700, 300, 20.0) and good


def _fanout(net: Network, keys: Keys | None, live: int, hanging: int, limit_s: float) -> bool:
    latch_s, _, peak_mb = _outage(net, keys, 0, live, hanging)
    among = f" among {hanging} that accept and hang" if hanging else ""
    how = "secure" if keys else "classic"
    good = gate(f"{how}: latch to the last accept, {live} live servers{among}", latch_s, limit_s, "s")
    return gate("core VmHWM", peak_mb, 60.0, "MB") and good


def _outage(net: Network, keys: Keys | None, number: int, live: int, hanging: int) -> tuple[float, float, float]:
    """One outage of a fresh core: (latch to last accept, wire change to last accept, core's peak in MB)."""
    with tempfile.TemporaryDirectory(prefix="ridethrough-bench-") as name, MegatecPty(Path(name) / "ups") as ups:
        folder = Path(name)
        _configure(folder, SECURE if keys else LIVE, live, hanging)
        if keys:
            keys.enrol(folder / "state" / "core", live + hanging)
        net.told.clear()
        argv = [
            "ip",
            "netns",
            "exec",
            net.here,
            sys.executable,
            "-m",
            "agent",
            "core",
            "--config",
            f"{folder}/c.toml",
        ]
        with (folder / "log").open("wb") as log:
            core = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)
        try:
            until(lambda: _view(folder) is not None, 30, "the core has a frame")
            time.sleep(1.0 + (number * 0.37) % 1.0)  # at any phase of the poll
            wire_s = time.time()
            ups.set("battery_low", "1")
            ups.set("mains", "off")
            until(lambda: len({address for address, _ in net.told}) >= live, 60, f"{live} servers are told")
            last_s = max(wall_s for _, wall_s in net.told)
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


def _configure(folder: Path, port: int, live: int, hanging: int) -> None:
    """Those that hang stand anywhere among the others, the same in each run."""
    ports = [port] * live + [HANGING] * hanging
    random.Random(1).shuffle(ports)
    servers = "".join(
        f'[[server]]\nname = "s{n}"\naddress = "10.199.{n // 250 + 1}.{n % 250 + 1}"\nport = {port}\nstage = "all"\n'
        for n, port in enumerate(ports)
    )
    (folder / "c.toml").write_text(
        f'[agent]\nstate_dir = "{folder}/state"\nrun_dir = "{folder}/run"\nmode = "armed"\n'
        f'[ups]\ndriver = "megatec"\nport = "{folder}/ups"\npoll_s = {POLL_S}\n'
        f'[[stage]]\nname = "all"\non_battery_s = 600\n{servers}'
    )
