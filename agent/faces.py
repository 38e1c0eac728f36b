"""`ridethrough faces`: the web page and the SNMP agent. Parses what the LAN sends, so it lives apart from the core.

SNMP listens first: it starts in a fraction of the time that the web server's library needs to load.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import addresses, bus, config, settexts, snmp, upsset, vault
from .config import Config
from .model import Command, ConfigError
from .process import end_with_thread, follow_parent, last_good, load, notify, stop_on_signals

if TYPE_CHECKING:
    from . import v3

log = logging.getLogger(__name__)

SNMP_FACE, WEB_FACE = "snmp", "web"
ORDER_S = 2.0  # that a manager who sets something waits for the core
AGAIN_S = 5.0  # until a face that could not listen is tried again


def secrets_path(settings: Config) -> Path:
    """Where the faces' secrets are, by label."""
    return Path(settings.state_dir) / "faces" / "secrets.json"


def _settings(path: Path) -> tuple[Config, tuple[config.Problem, ...]]:
    """The configuration; of a file that is no TOML at all, the last good one, so that the page can tell."""
    settings, problems = load(path)
    if not any(p.section == "file" for p in problems):
        return settings, problems
    log.error("configuration: %s", problems[0].text)
    try:
        return load(last_good(settings))
    except ConfigError:
        return settings, problems


def main(path: Path) -> int:
    """Run the faces with the configuration at `path` until SIGTERM or SIGINT; 0. ConfigError if it cannot be read."""
    os.umask(0o077)
    settings, problems = _settings(path)
    for problem in problems:
        if problem.section in (WEB_FACE, SNMP_FACE):
            log.error("configuration: %s: this face stays off", problem.text)
    stop = threading.Event()
    threading.excepthook = end_with_thread

    stop_on_signals(stop)
    follow_parent(stop)
    client = bus.Client(str(Path(settings.run_dir) / "core.sock"))
    client.start()
    faces = {SNMP_FACE: _start_snmp, WEB_FACE: _start_web}
    wanted = {name for name in faces if _is_on(settings, name)}
    if not wanted:
        log.warning("no face is switched on: add [web] or [snmp] to the configuration")
    running: dict[str, threading.Thread] = {}
    said: dict[str, str] = {}
    next_s = 0.0
    notify("READY=1")
    while not stop.wait(1.0 if next_s else 0.0):
        notify("WATCHDOG=1")
        if time.monotonic() < next_s or wanted == running.keys():
            continue
        next_s = time.monotonic() + AGAIN_S  # an address may come later than we do
        for name in [n for n in faces if n in wanted - running.keys()]:
            try:
                running[name] = faces[name](settings, client, stop)
            except (ConfigError, OSError) as e:
                if said.get(name) != str(e):
                    log.error("%s: %s (tried again)", name, e)
                said[name] = str(e)
    for thread in running.values():
        thread.join(3.0)
    return 0


def _is_on(settings: Config, name: str) -> bool:
    if name == WEB_FACE:
        return settings.web is not None
    return settings.snmp is not None and bool(settings.snmp.communities or settings.snmp.users)


def _start_snmp(settings: Config, client: bus.Client, stop: threading.Event) -> threading.Thread:
    """The SNMP agent in its thread. ConfigError if it cannot listen."""
    secrets = vault.read(secrets_path(settings))
    wanted, now_s = settings.snmp or config.Snmp(), time.monotonic()
    responder = _responder(wanted, Path(settings.state_dir) / "faces" / "snmp", now_s) if wanted.users else None
    writer = _writer(wanted, Path(settings.state_dir) / "faces" / "snmp", client)
    agent = snmp.Agent(wanted, secrets, client.view, now_s, responder=responder, writer=writer)
    agent.bind()
    log.info("snmp listens on %s port %d", *agent.address)
    return _started(lambda: agent.run(stop), SNMP_FACE)


def _writer(wanted: config.Snmp, folder: Path, client: bus.Client) -> upsset.Writer:
    """Does what managers set: orders go over the bus, texts to a file."""

    def order(command: Command, args: Mapping[str, object], who: str, host: str) -> None:
        origin = {"user": f"snmp {who}", "address": host}
        try:
            client.ask({"type": "command", "command": command.value, "args": dict(args), "origin": origin}, ORDER_S)
        except bus.BusError as e:
            log.warning("snmp: %s for %s: %s", command.value, who, e)
            raise upsset.Refused(str(e)) from e

    def audit(what: str, who: str, host: str) -> None:
        try:
            client.ask({"type": "audit", "what": what, "origin": {"user": f"snmp {who}", "address": host}}, ORDER_S)
        except bus.BusError as e:
            log.warning("snmp: %s has set %s; the core does not keep that: %s", who, what, e)

    return upsset.Writer(
        settexts.read(folder), lambda texts: settexts.write(folder, texts), order, audit,
        allow_shutdown=wanted.allow_shutdown,
    )  # fmt: skip


def _responder(wanted: config.Snmp, folder: Path, now_s: float) -> v3.Responder | None:
    """Version 3 for the users that have keys; None, and a line in the log, if it cannot be had: the rest works."""
    from . import engineid, v3  # late: most have no user

    try:
        rows = engineid.keys(folder)
        found, boots = engineid.started(folder)
    except ConfigError as e:
        log.error("snmp: version 3 is off: %s", e)
        return None
    users = {}
    for user in wanted.users:
        if user.name not in rows:
            log.warning("snmp: user %s has no keys yet: ridethrough snmp-user %s", user.name, user.name)
            continue
        try:
            users[user.name] = engineid.user(
                user.name, user.level, user.access == "read-write", rows[user.name], found, wanted.allow_weak
            )
        except ConfigError as e:
            log.error("snmp: %s", e)
    return v3.Responder(v3.Engine(found, boots, now_s), users) if users else None


def _start_web(settings: Config, client: bus.Client, stop: threading.Event) -> threading.Thread:
    """The web page in its thread. ConfigError, OSError if it cannot listen."""
    from . import httpd, login, tls, web  # late: SNMP has answered by now

    wanted = settings.web or config.Web()
    folder = Path(settings.state_dir) / "faces"
    accounts = login.Accounts(folder, time.monotonic)
    accounts.first_password()
    host, _ = addresses.split_address(wanted.listen)
    secure = wanted.tls == "on" or not addresses.is_loopback(host)
    names = [settings.name, socket.gethostname()]
    context, fingerprint = None, ""
    if secure:
        context, fingerprint = tls.context(folder, names)
        log.info("certificate fingerprint (SHA-256): %s", fingerprint)
    app = web.make_app(wanted, client, accounts, fingerprint=fingerprint)
    server = httpd.Server(wanted.listen, app, context, names)
    server.bind()
    log.info("web listens on %s port %d (%s)", *server.address, "https" if secure else "http, loopback only")
    return _started(lambda: server.run(stop), WEB_FACE)


def _started(body: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    return thread
