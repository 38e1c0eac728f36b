"""`ridethrough demo`: the whole agent on this machine, with a simulated UPS and one protected loopback server."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import addresses, bus, config, login, run, vault
from .faces import secrets_path
from .model import ConfigError
from .process import load, stop_on_signals

log = logging.getLogger(__name__)

LABEL = "demo"
READY_WITHIN_S = 20.0

TOML = """\
# Made by `ridethrough demo`, anew at every start.
[agent]
name = "demo-ups"
state_dir = {state}
run_dir = {run}
mode = "armed"            # the simulated UPS may be armed only against this machine itself

[ups]
driver = "simulator"
speed = 60                # the battery runs sixty times as fast as a real one ...
runtime_s = 3600          # ... so its hour is over in a minute

[[stage]]
name = "servers"
on_battery_s = 30

[[server]]
name = "loopback"
address = "127.0.0.1"
port = {port}
needs_s = 10
stage = "servers"

[web]
listen = {web}

[snmp]
listen = {snmp}

[[snmp.community]]
label = "demo"
from = ["127.0.0.0/8", "::1/128"]
"""


def main(web: str, snmp: str, state: Path) -> int:
    """Set up what is missing below `state`, run until Ctrl-C or SIGTERM."""
    for name, listen in (("--web", web), ("--snmp", snmp)):
        try:
            addresses.split_address(listen)
        except ConfigError as e:
            raise ConfigError(f"{name} {e}") from e
    _must_be_free(web, socket.SOCK_STREAM, "--web")
    _must_be_free(snmp, socket.SOCK_DGRAM, "--snmp")
    state = state.absolute()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    guard = os.open(state / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"another demo runs on {state}; choose another folder with --state DIR") from None
    path = state / "ridethrough.toml"
    port = _server_port(path)
    path.write_text(
        TOML.format(
            state=_quoted(str(state)),
            run=_quoted(str(state / "run")),
            port=port,
            web=_quoted(web),
            snmp=_quoted(snmp),
        )
    )
    settings, problems = load(path)
    if problems:
        raise ConfigError("; ".join(p.text for p in problems))
    labels = vault.read(secrets_path(settings))
    if LABEL not in labels:
        vault.write(secrets_path(settings), {**labels, LABEL: secrets.token_urlsafe(12)})
    password = login.Accounts(Path(settings.state_dir) / "faces", time.monotonic).first_password()
    stop = threading.Event()

    stop_on_signals(stop)
    told = state / "server-was-told.log"
    server = _start_server(port, told)
    try:
        threading.Thread(
            target=_announce,
            args=(settings, vault.read(secrets_path(settings))[LABEL], password, told, path, stop),
            name="announce",
            daemon=True,
        ).start()
        return run.supervise(path, stop)
    finally:
        server.terminate()
        server.wait(5.0)
        print("demo ended", flush=True)


def _must_be_free(listen: str, kind: int, switch: str) -> None:
    """ConfigError if somebody else listens there, such as another demo."""
    host, port = addresses.split_address(listen)
    try:
        family = socket.getaddrinfo(host, port, type=kind)[0][0]
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            sock.bind((host, port))
    except OSError as e:
        raise ConfigError(f"{switch} {listen}: {e.strerror}; choose another one with {switch} HOST:PORT") from e


def _quoted(text: str) -> str:
    """A TOML basic string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _server_port(path: Path) -> int:
    """The port that the earlier demo used for its server if it is still free, else one that is."""
    try:
        wanted = load(path)[0].servers[0].port
    except (ConfigError, IndexError):
        wanted = 6003
    for port in (wanted, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise ConfigError("no free port on loopback")


def _start_server(port: int, told: Path) -> subprocess.Popen[bytes]:
    """The protected server: an `rccmd listen` that, told to shut down, only writes a line."""
    script = told.with_name("shutdown-command")
    script.write_text(f'#!/bin/sh\necho "$(date) the shutdown command ran" >> {shlex.quote(str(told))}\n')
    script.chmod(0o700)
    argv = [sys.executable, "-m", "agent.rccmd", "listen", "--bind", f"127.0.0.1:{port}", "--allow", "127.0.0.1"]
    return subprocess.Popen([*argv, "--on-shutdown", shlex.quote(str(script))], stdin=subprocess.DEVNULL)


def _announce(
    settings: config.Config, community: str, password: str | None, told: Path, path: Path, stop: threading.Event
) -> None:
    """Say how to look at it, once the core answers and the page listens."""
    if settings.web is None or settings.snmp is None:
        return
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not stop.is_set() and time.monotonic() < deadline_s and not _ready(settings):
        stop.wait(0.1)
    if stop.is_set():
        return
    if not _ready(settings):
        print("the agent does not come up; what it said stands above", flush=True)
        return
    host, port = addresses.split_address(settings.web.listen)
    secure = settings.web.tls == "on" or not addresses.is_loopback(host)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104
    snmp_host, snmp_port = addresses.split_address(settings.snmp.listen)
    snmp_host = addresses.nearby(snmp_host)
    manager = f"udp6:[{snmp_host}]:{snmp_port}" if ":" in snmp_host else f"{snmp_host}:{snmp_port}"
    bracketed = f"[{shown}]" if ":" in shown else shown
    reset = f"{shlex.quote(sys.executable)} -m agent password reset --config {shlex.quote(os.fspath(path))}"
    lines = [
        "",
        f"  Web page   {'https' if secure else 'http'}://{bracketed}:{port}/",
        f"  Password   {password} (user admin, once: the first login sets a new one)"
        if password
        else f"  Password   as set (forgotten? {reset})",
        f"  SNMP       snmpwalk -v2c -c {community} {manager} 1.3.6.1.2.1.33",
        f"  Server     {told} gets a line when the server was told to shut down",
        "             (a repeat within 5 minutes counts as a duplicate and does not run again)",
        "  Log in and cut the simulated mains; Ctrl-C ends the demo.",
        "",
    ]
    print("\n".join(lines), flush=True)


def _ready(settings: config.Config) -> bool:
    """Does the core answer, and does somebody listen on the page's address?"""
    if settings.web is None:
        return False
    host, port = addresses.split_address(settings.web.listen)
    host = addresses.nearby(host)
    try:
        bus.ask(str(Path(settings.run_dir) / "core.sock"), {"type": "query", "what": "status"}, within_s=1.0)
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except (bus.BusError, OSError):
        return False
