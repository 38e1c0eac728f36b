"""What `rccmd listen` costs a server, and how soon it obeys while it is flooded: classic, and secure.

A command that was dropped is told again after 0.1 s, which counts. Memory is of `python3` of the system, if there is
one (servers run that), else of the one that the tests run with.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.gate import gate
from bench.memory import cpu_s, rss_mb
from tests.rccmd_hostile_kit import SHUTDOWN, STRANGERS, Flood, Live
from tests.rccmd_keys import Adapter, Server

IDLE_S, SHORT_IDLE_S = 30.0, 5.0
CONNECTIONS, SHORT_CONNECTIONS = 10_000, 1_000
COMMANDS, SHORT_COMMANDS = 5, 2
SYSTEM = "/usr/bin/python3"
MANY = "127.9.0.*"
WAKEUP = SHUTDOWN.replace(b"SHUTDOWN", b"WAKEUP")


def main(options: list[str]) -> int:
    short = "--short" in options
    python = SYSTEM if os.path.exists(SYSTEM) else sys.executable
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"   the listener under {python}, {version}; all on loopback of the same cores")
    good = True
    for mode in ("classic", "secure"):
        with tempfile.TemporaryDirectory(prefix="ridethrough-bench-") as name:
            folder = Path(name)
            if mode == "classic":
                live, tell = Live(folder, "udp = yes", python=python), _classic
            else:
                server, adapter = Server(folder / "server"), Adapter("adapter", folder)
                server.enrol(adapter)
                live = Live(folder, *(f"{k} = {v}" for k, v in server.settings().items()), allow=None, python=python)
                tell = _secure(adapter, server)
            with live:
                good &= _one(mode, live, lambda live=live, tell=tell: tell(live), short)
    return 0 if good else 1


def _classic(live: Live) -> None:
    """A new SHUTDOWN: the WAKEUP before it makes it one."""
    if not (live.tell(WAKEUP) and live.tell(SHUTDOWN)):
        raise ConnectionResetError


def _secure(adapter: Adapter, server: Server) -> Callable[[Live], None]:
    def tell(live: Live) -> None:
        """A SHUTDOWN of another outage."""
        answer = adapter.ask(live.port, f"RT1 SHUTDOWN {secrets.token_hex(8)}\n".encode(), server)
        if not answer.startswith((b"RT1 accepted", b"RT1 duplicate", b"RT1 going-down")):
            raise OSError(repr(answer))

    return tell


def _one(mode: str, live: Live, tell: Callable[[], None], short: bool) -> bool:
    pid = live.process.pid
    tell()  # so that all that is imported late is there
    time.sleep(1.0)
    good = gate(f"{mode}: VmRSS after a command", rss_mb(pid), 20.0, "MB")
    idle_s = SHORT_IDLE_S if short else IDLE_S
    before_s = cpu_s(pid)
    time.sleep(idle_s)
    good &= gate(f"{mode}: CPU in {idle_s:.0f} s without a connection", cpu_s(pid) - before_s, 0.0, "s")
    count, began_s = SHORT_CONNECTIONS if short else CONNECTIONS, time.monotonic()
    _one_after_the_other(live, count)
    print(f"   {mode}: {count} connections one after the other in {time.monotonic() - began_s:.1f} s")
    good &= gate(f"{mode}: a command after them runs within", live.runs_within_s(tell), 2.0, "s")
    floods = [(kind, "127.0.0.9") for kind in Flood.KINDS] + [(kind, MANY) for kind in ("open", "half", "hello")]
    for kind, source in floods:
        if kind == "udp" and mode == "secure":
            continue
        worst_s, dropped = 0.0, live.dropped
        with Flood(kind, live.port, source) as flood:
            began_s = time.monotonic()
            for _ in range(SHORT_COMMANDS if short else COMMANDS):
                time.sleep(0.5)
                worst_s = max(worst_s, live.runs_within_s(tell))
            lasted_s = time.monotonic() - began_s
        whence = " of 200 addresses" if source == MANY else ""
        rate = f"{flood.done / lasted_s:.0f} /s"
        what = f"{mode}: flood '{kind}'{whence}, {rate}, told again {live.dropped - dropped} times"
        good &= gate(f"{what}: worst time to run", worst_s, 2.0, "s")
    good &= gate(f"{mode}: VmRSS after all that", rss_mb(pid), 25.0, "MB")
    return gate(f"{mode}: lines in the log", len(live.log().splitlines()), 1000, "") and good


def _one_after_the_other(live: Live, count: int) -> None:
    junk = list(STRANGERS.values())
    for n in range(count):
        with socket.create_connection(("127.0.0.1", live.port), 10) as sock:
            sock.sendall(junk[n % len(junk)][:1000])
            try:
                sock.recv(100)
            except ConnectionResetError:
                pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
