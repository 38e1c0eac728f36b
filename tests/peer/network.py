"""Two machines on a cable for tests of the delivery: network namespaces, and a real Delivery driven in one of them.

`python -m tests.peer.network FOLDER` is that Delivery: it takes orders from standard input, one JSON object a
line (`{"plan": [SERVER, ...]}`, `{"order": {...}}`), and prints `[WALL_SECOND, REPORT]` for each of its reports.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from agent.book import Book
from agent.config import Server
from agent.deliver import Delivery
from agent.errands import Orders, Report, Said
from agent.places import Places
from tests.peer.world import ROOT

LIVE, HANGING, NOBODY, SECURE = 6003, 6004, 6005, 6006  # ports of the other machine
HERE_V4, THERE_V4, ABSENT_V4 = "10.198.0.1", "10.198.0.2", "10.198.0.77"
THERE_V6 = "fd00:198::2"
BLACK_HOLE = "10.199.9.1"  # dropped without a word; all other addresses of 10.199/16 are the other machine's, too
Made = TypeVar("Made")


def ip(line: str) -> str:
    """`ip LINE`, which must succeed; what it says."""
    return subprocess.run(["ip", *line.split()], check=True, capture_output=True, text=True, timeout=20).stdout


class Network:
    """`with Network() as net:`; `net.here` and `net.there` are the names of the namespaces, no route leads out.
    `tls`: files with a server's key and a sender's certificate; then the farm also speaks secure RCCMD."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self._tls = (str(SECURE), *map(str, tls)) if tls else ()
        number = os.getpid()
        self.here, self.there = f"rt-h{number}", f"rt-t{number}"
        self.cable_here, self.cable_there = f"rth{number}", f"rtt{number}"
        self._farm: subprocess.Popen[str] | None = None
        self.told: list[tuple[str, float]] = []  # address that was told, wall second

    def __enter__(self) -> Network:
        for line in (
            f"netns add {self.here}", f"netns add {self.there}",
            f"link add {self.cable_here} netns {self.here} type veth peer name {self.cable_there} netns {self.there}",
            f"-n {self.here} addr add {HERE_V4}/24 dev {self.cable_here}",
            f"-n {self.here} addr add fd00:198::1/64 dev {self.cable_here} nodad",
            f"-n {self.there} addr add {THERE_V4}/24 dev {self.cable_there}",
            f"-n {self.there} addr add {THERE_V6}/64 dev {self.cable_there} nodad",
            *(f"-n {name} link set lo up" for name in (self.here, self.there)),
            f"-n {self.here} link set {self.cable_here} up", f"-n {self.there} link set {self.cable_there} up",
            f"-n {self.here} route add 10.199.0.0/16 via {THERE_V4}",
            f"-n {self.there} route add local 10.199.0.0/16 dev lo",
            f"-n {self.there} route add blackhole {BLACK_HOLE}/32",
        ):  # fmt: skip
            ip(line)
        argv = ["ip", "netns", "exec", self.there, sys.executable, "-m", "bench.farm", str(LIVE), str(HANGING)]
        argv += self._tls
        self._farm = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._farm.stdout is not None and self._farm.stdout.readline() == "ready\n"
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        assert self._farm is not None and self._farm.stdout is not None
        for line in self._farm.stdout:
            address, wall_s = line.split()
            self.told.append((address, float(wall_s)))

    def __exit__(self, *_: object) -> None:
        if self._farm is not None:
            self._farm.terminate()
            self._farm.wait(10)
        for name in (self.here, self.there):
            subprocess.run(["ip", "netns", "del", name], check=False)

    def mac_there(self) -> str:
        """The MAC of the other machine's end of the cable."""
        return str(json.loads(ip(f"-n {self.there} -j link show {self.cable_there}"))[0]["address"])

    def cable(self, state: str) -> None:
        """`up` or `down`."""
        ip(f"-n {self.there} link set {self.cable_there} {state}")

    def in_there(self, make: Callable[[], Made]) -> Made:
        """What `make` makes (a socket), made on the other machine. In a thread: a namespace is the thread's."""
        made: queue.Queue[Made] = queue.Queue()

        def enter() -> None:
            with open(f"/run/netns/{self.there}") as file:
                assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) == 0  # CLONE_NEWNET
            made.put(make())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(10)
        return made.get(timeout=1)


class Driven:
    """`with Driven(net, folder) as d:` the Delivery on this machine, without any privilege, and its reports."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.folder, self.reports, self._arrived = folder, list[tuple[float, dict[str, Any]]](), threading.Condition()
        bare = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
        argv = ["ip", "netns", "exec", net.here, *bare, sys.executable, "-m", "tests.peer.network", str(folder)]
        self._log = (folder / "log").open("wb")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=self._log, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._arrived:
                self.reports.append(tuple(json.loads(line)))
                self._arrived.notify_all()

    def _say(self, what: dict[str, Any]) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return time.time()

    def plan(self, *servers: Server) -> float:
        return self._say({"plan": [asdict(s) for s in servers]})

    def order(self, **orders: Any) -> float:
        """Orders; `tell` and `wake` hold servers. The wall second at which it was said."""
        lists = {key: [asdict(s) for s in orders.pop(key, ())] for key in ("tell", "wake")}
        return self._say({"order": {"armed": True, **orders, **lists}})

    def until(
        self, true: Callable[[dict[str, Any]], bool], within_s: float, what: str
    ) -> tuple[float, dict[str, Any]]:
        """The first report for which `true` is."""

        def found() -> tuple[float, dict[str, Any]] | None:
            return next((row for row in self.reports if true(row[1])), None)

        with self._arrived:
            row = self._arrived.wait_for(found, within_s)
        assert row, f"not within {within_s:g} s: {what}; the log says: {(self.folder / 'log').read_text()[-1500:]}"
        return row

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(20)
        self._log.close()


def main(folder: Path) -> None:
    """The driven Delivery, until standard input ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    assert re.search(r"CapEff:\s+0+\n", Path("/proc/self/status").read_text()), "without any privilege"

    def report(found: Report | Said) -> None:
        print(json.dumps([time.time(), asdict(found)]), flush=True)

    book, stop = Book(folder / "known.json"), threading.Event()
    delivery = Delivery(report, book, Places(folder=folder))
    threads = [threading.Thread(target=body, args=(stop,), daemon=True) for body in (delivery.run, book.run)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for line in sys.stdin:
        what = json.loads(line)
        if "plan" in what:
            delivery.plan(tuple(Server(**row) for row in what["plan"]))
        else:
            orders = what["order"]
            lists = {key: tuple(Server(**row) for row in orders.pop(key)) for key in ("tell", "wake")}
            delivery.order(Orders(**lists, **orders))
    stop.set()
    delivery.wake()
    for thread in threads:
        thread.join(5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
