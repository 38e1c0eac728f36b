"""A whole installation on loopback, of real processes: UPS on a pty, agent, a server with `rccmd listen`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import bus, wire
from agent.model import Event, View
from tests.simulators.megatec import MegatecPty
from tests.snmp_kit import COMMUNITY

ROOT = Path(__file__).resolve().parent.parent.parent


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(true: Callable[[], Any], within_s: float, what: str) -> Any:
    """Wait until `true()` is, and return it; fail naming `what` after `within_s`."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s:g} s: {what}")


class World:
    """`with World(tmp_path) as w:`; everything ends with it."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: str = "armed",
        stages: str = '[[stage]]\nname = "all"\non_battery_s = 600\n',
        confirm_servers: int = 1,
        poll_s: float = 1.0,
        servers: str | None = None,
        agent: str = "",
        ups: str = "",
    ) -> None:
        """`servers`: the [[server]] tables instead of one for each listener; `agent`: more lines of [agent]; `ups`:
        the lines of [ups] instead of the UPS on the pty."""
        self._servers_toml, self._agent_toml, self._ups_toml = servers, agent, ups
        self.folder, self.mode, self.stages, self.poll_s = folder, mode, stages, poll_s
        self.web_port, self.snmp_port = free_port(), free_port(socket.SOCK_DGRAM)
        self.server_ports = [free_port() for _ in range(confirm_servers)]
        self.config = folder / "ridethrough.toml"
        self.log = folder / "agent.log"
        self.ups = MegatecPty(folder / "ups", runtime_s=1200.0)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> World:
        self.ups.__enter__()
        self._configure()
        for number, port in enumerate(self.server_ports):
            self.start_server(number, port)
        self.start_agent()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.ups.__exit__()

    # -- setting up

    def _configure(self) -> None:
        servers = "".join(
            f'[[server]]\nname = "server-{n}"\naddress = "127.0.0.1"\nport = {p}\nneeds_s = 10\nstage = "all"\n'
            for n, p in enumerate(self.server_ports)
        )
        ups = self._ups_toml or f'driver = "megatec"\nport = "{self.folder}/ups"\npoll_s = {self.poll_s}\n'
        self.config.write_text(
            f'[agent]\nname = "peer-ups"\nstate_dir = "{self.folder}/state"\nrun_dir = "{self.folder}/run"\n'
            f'mode = "{self.mode}"\n{self._agent_toml}[ups]\n{ups}'
            f"{self.stages}{servers if self._servers_toml is None else self._servers_toml}"
            f'[web]\nlisten = "127.0.0.1:{self.web_port}"\npublic_status = true\n'
            f'[snmp]\nlisten = "127.0.0.1:{self.snmp_port}"\n'
            '[[snmp.community]]\nlabel = "peer"\nfrom = ["127.0.0.0/8"]\n'
        )
        self.ridethrough("secret", "set", "peer", given=COMMUNITY + "\n")

    def start_server(self, number: int, port: int) -> None:
        """A server whose shutdown command writes the time into `told-N`."""
        script = self.folder / f"shutdown-{number}"
        script.write_text(f"#!/bin/sh\ndate +%s.%N >> '{self.folder}/told-{number}'\n")
        script.chmod(0o755)
        argv = [sys.executable, "-m", "agent.rccmd", "listen", "--bind", f"127.0.0.1:{port}"]
        argv += ["--allow", "127.0.0.1", "--on-shutdown", str(script)]
        with (self.folder / f"rccmd-{number}.log").open("ab") as log:
            self._processes.append(subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log))

        def listens() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        until(listens, 10, "rccmd listens")

    def start_agent(self) -> None:
        """Start the supervised agent and wait until it has seen the UPS."""
        argv = [sys.executable, "-m", "agent", "run", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)
        self._processes.append(self.agent)
        until(lambda: self.status_or_none() is not None, 15, "the core has a frame")
        until(self._page, 15, "the faces have it too")

    def _page(self) -> bool:
        """Whether the page shows a frame."""
        try:
            return self.api_status()["view"]["status"] is not None
        except OSError:
            return False

    # -- looking

    def ridethrough(self, *args: str, given: str = "") -> str:
        argv = [sys.executable, "-m", "agent", *args, "--config", str(self.config)]
        done = subprocess.run(argv, cwd=ROOT, input=given, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def view(self) -> View:
        reply = bus.ask(str(self.folder / "run" / "core.sock"), {"type": "query", "what": "status"})
        return wire.from_json(View, reply["view"])

    def status_or_none(self) -> View | None:
        try:
            view = self.view()
        except bus.BusError:
            return None
        return view if view.status is not None else None

    def conditions(self) -> set[str]:
        try:
            return {a.condition.value for a in self.view().conditions}
        except bus.BusError:
            return set()

    def events(self) -> list[Event]:
        reply = bus.ask(str(self.folder / "run" / "core.sock"), {"type": "query", "what": "events", "limit": 500})
        return [wire.from_json(Event, e) for e in reply["events"]]

    def told(self, number: int = 0) -> list[float]:
        """When the server's shutdown command ran."""
        path = self.folder / f"told-{number}"
        return [float(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pid_of(self, part: str) -> int:
        """The newest process of core or faces, as the supervisor said it."""
        found = re.findall(rf"{part} started as process (\d+)", self.log.read_text())
        return int(found[-1])

    def kill(self, part: str) -> int:
        """kill -9 of core or faces; its old process id."""
        pid = self.pid_of(part)
        os.kill(pid, signal.SIGKILL)
        return pid

    def snmp(self, *oids: str, tool: str = "snmpget") -> str:
        """What net-snmp's tool prints, numeric."""
        argv = [tool, "-v2c", "-c", COMMUNITY, "-On", "-Oe", "-t", "1", "-r", "3"]
        done = subprocess.run(
            [*argv, f"127.0.0.1:{self.snmp_port}", *oids], capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr

    def api_status(self) -> dict[str, Any]:
        """/api/status, as a page sees it."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/api/status", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found
