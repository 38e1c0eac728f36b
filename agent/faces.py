"""`ridethrough faces`: the web page and the SNMP agent. Parses what the LAN sends, so it lives apart from the core.

SNMP listens first: it starts in a fraction of the time that the web server's library needs to load.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from . import addresses, bus, config, snmp, vault
from .config import Config
from .model import ConfigError
from .process import follow_parent, last_good, load, notify

log = logging.getLogger(__name__)

SNMP_FACE, WEB_FACE = "snmp", "web"


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
    """Run the faces with the configuration at `path` until SIGTERM or SIGINT; 0, or 2 if none of them can run."""
    os.umask(0o077)
    settings, problems = _settings(path)
    for problem in problems:
        if problem.section in (WEB_FACE, SNMP_FACE):
            log.error("configuration: %s: this face stays off", problem.text)
    stop = threading.Event()
    threading.excepthook = _die

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    follow_parent(stop)
    client = bus.Client(str(Path(settings.run_dir) / "core.sock"))
    client.start()
    running = [face for face in (_start_snmp(settings, client, stop), _start_web(settings, client, stop)) if face]
    if not running:
        log.warning("no face is switched on: add [web] or [snmp] to the configuration")
    notify("READY=1")
    while not stop.wait(1.0):
        notify("WATCHDOG=1")
    for thread in running:
        thread.join(3.0)
    return 0


def _start_snmp(settings: Config, client: bus.Client, stop: threading.Event) -> threading.Thread | None:
    """The SNMP agent in its thread; None if it is off or cannot listen."""
    if settings.snmp is None or not settings.snmp.communities:
        return None
    try:
        secrets = vault.read(secrets_path(settings))
        agent = snmp.Agent(settings.snmp, secrets, client.view, time.monotonic())
        agent.bind()
    except ConfigError as e:
        log.error("snmp: %s", e)
        return None
    log.info("snmp listens on %s port %d", *agent.address)
    thread = threading.Thread(target=agent.run, args=(stop,), name=SNMP_FACE, daemon=True)
    thread.start()
    return thread


def _start_web(settings: Config, client: bus.Client, stop: threading.Event) -> threading.Thread | None:
    """The web page in its thread; None if it is off or cannot listen."""
    if settings.web is None:
        return None
    from . import httpd, login, tls, web  # late: SNMP has answered by now

    folder = Path(settings.state_dir) / "faces"
    try:
        accounts = login.Accounts(folder, time.monotonic)
        accounts.first_password()
        host, _ = addresses.split_address(settings.web.listen)
        secure = settings.web.tls == "on" or not addresses.is_loopback(host)
        names = [settings.name, socket.gethostname()]
        context, fingerprint = None, ""
        if secure:
            context, fingerprint = tls.context(folder, names)
            log.info("certificate fingerprint (SHA-256): %s", fingerprint)
        app = web.make_app(settings.web, client, accounts, fingerprint=fingerprint)
        server = httpd.Server(settings.web.listen, app, context, names)
        server.bind()
    except (ConfigError, OSError) as e:
        log.error("web: %s", e)
        return None
    log.info("web listens on %s port %d (%s)", *server.address, "https" if secure else "http, loopback only")
    thread = threading.Thread(target=server.run, args=(stop,), name=WEB_FACE, daemon=True)
    thread.start()
    return thread


def _die(args: threading.ExceptHookArgs) -> None:
    """A face that dies takes the process with it; it is started again within a second."""
    log.critical("thread %s died", args.thread.name if args.thread else "?", exc_info=args.exc_value)
    sys.stderr.flush()
    os._exit(70)
