"""`ridethrough faces`: the web page and the SNMP agent. Parses what the LAN sends, so it lives apart from the core.

SNMP listens first: it starts in a fraction of the time that the web server's library needs to load.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import addresses, bus, config, snmpface, vault
from .config import Config
from .model import ConfigError
from .process import end_with_thread, follow_parent, last_good, load, notify, stop_on_signals

log = logging.getLogger(__name__)

SNMP_FACE, WEB_FACE = "snmp", "web"
AGAIN_S = 5.0  # until a face that could not listen is tried again


def secrets_path(settings: Config) -> Path:
    """Where the faces' secrets are, by label."""
    return Path(settings.state_dir) / "faces" / "secrets.json"


def speaks_tls(web: config.Web) -> bool:
    """Is the page behind TLS? ConfigError if `listen` is no address."""
    return web.tls == "on" or not addresses.is_loopback(addresses.split_address(web.listen)[0])


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
    snmp = settings.snmp
    return snmp is not None and bool(snmp.communities or snmp.users or snmp.receivers)


def _start_snmp(settings: Config, client: bus.Client, stop: threading.Event) -> threading.Thread:
    """The SNMP agent in its thread, and what tells its receivers in another; the latter alone, if nobody may ask.
    ConfigError if it can do neither."""
    face = snmpface.start(settings, vault.read(secrets_path(settings)), client)
    threads = []
    if face.notifier is not None:
        told = face.notifier
        threads.append(_started(lambda: told.run(client, stop, time.monotonic), "notify"))
    if face.listens:
        threads.append(_started(lambda: face.answer(stop), SNMP_FACE))
    return threads[-1]


def _start_web(settings: Config, client: bus.Client, stop: threading.Event) -> threading.Thread:
    """The web page in its thread. ConfigError, OSError if it cannot listen."""
    from . import enroll, httpd, login, tls, web  # late: SNMP has answered by now

    wanted = settings.web or config.Web()
    folder = Path(settings.state_dir) / "faces"
    accounts = login.Accounts(folder, time.monotonic)
    accounts.first_password()
    secure = speaks_tls(wanted)
    names = [settings.name, socket.gethostname()]
    context, fingerprint = None, ""
    if secure:
        context, fingerprint = tls.context(folder, names)
        log.info("certificate fingerprint (SHA-256): %s", fingerprint)
    app = web.make_app(wanted, client, accounts, fingerprint=fingerprint)
    app = enroll.Desk(app, client, folder / enroll.FOLDER, settings.name)
    server = httpd.Server(wanted.listen, app, context, names)
    server.bind()
    log.info("web listens on %s port %d (%s)", *server.address, "https" if secure else "http, loopback only")
    return _started(lambda: server.run(stop), WEB_FACE)


def _started(body: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    return thread
