"""`ridethrough update --confirm`: if this start is one on trial, the new version must prove itself within 5 minutes.

Proven: core, faces and a fresh word of the UPS, and those of each second UPS that was there before, are all there,
three looks in a row (a process that dies and is started again, over and over, is there now and then). Else, and
whatever else goes wrong, the host starts again, and the firmware takes the old slot: select.txt still names it.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import addresses, bus, process, seconds, steer, twoslots, update, vault, wire
from .config import Config
from .model import VERSION, ConfigError, View
from .twoslots import Card
from .update import FRESH_S

log = logging.getLogger(__name__)

TRIAL_S, LOOK_EVERY_S, LOOKS = 300.0, 5.0, 3
ANSWER_S = 5.0
FACES = "ridethrough-faces.service"  # of the first UPS


def confirm(
    here: Card,
    healthy: Callable[[], str],
    now: Callable[[], float],
    sleep: Callable[[float], None],
    say: Callable[[str], None],
    at_work: Callable[[], bool] = lambda: False,
) -> bool:
    """Is this start one on trial, then wait until it is healthy (`healthy()` is '' then, else what is missing) and
    select its slot. False: it did not prove itself in time; not before protection has done what it is at
    (`at_work()`): no page that is missing may delay a shutdown. ConfigError, OSError."""
    if not here.running or here.selected() == here.running:
        return True
    end_s, well = now() + TRIAL_S, 0
    while True:
        missing = healthy()
        well = 0 if missing else well + 1
        if well >= LOOKS:
            twoslots.select(here, here.running)
            say(f"slot {here.running} with version {VERSION} proved itself and is the one to start from now on")
            return True
        if missing and now() >= end_s and not at_work():
            say(f"slot {here.running} did not prove itself in {TRIAL_S:.0f} s: {missing}; the old one comes back")
            return False
        sleep(LOOK_EVERY_S)


def at_work(config: Path) -> bool:
    """Is a core in the middle of an outage? Not if it does not answer."""
    for path in (config, *(seconds.config_of(config, name) for name in seconds.known(config))):
        try:
            settings, _ = process.load(path)
            if _view(settings).phase != "idle":
                return True
        except (ConfigError, bus.BusError, ValueError):
            continue
    return False


def _view(settings: Config) -> View:
    reply = bus.ask(steer.socket_path(settings), {"type": "query", "what": "status"})
    view: View = wire.from_json(View, reply.get("view"))
    return view


def health(config: Path, without_ups: bool, second: Sequence[str] = ()) -> str:
    """What is not well, or ''; `second`: the names of the other UPSes that must be there, too."""
    why = _health(config, without_ups, FACES)
    for name in second if not why else ():
        if why := _health(seconds.config_of(config, name), without_ups, seconds.units(name)[1]):
            return f"UPS {name}: {why}"
    return why


def _health(config: Path, without_ups: bool, faces: str) -> str:
    try:
        settings, _ = process.load(config)
        view = _view(settings)
    except ConfigError as e:
        return f"configuration: {e}"
    except (bus.BusError, ValueError) as e:
        return f"core: {e}"
    if not without_ups and (view.status is None or view.age_s is None or view.age_s > FRESH_S):
        return f"UPS: no fresh word of it ({view.link} {view.link_detail})".rstrip()
    return page(settings) if settings.web is not None else _faces(faces)


def page(settings: Config) -> str:
    """Does the page answer? '' also if none is wanted."""
    if settings.web is None:
        return ""
    host, port = addresses.split_address(settings.web.listen)
    host = addresses.nearby(host)
    blind = ssl.create_default_context()  # it is this host itself, whatever its certificate says
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    why = ""
    for connection in (
        http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=blind),
        http.client.HTTPConnection(host, port, timeout=ANSWER_S),
    ):
        try:
            connection.request("GET", "/", headers={"Host": socket.gethostname()})
            connection.getresponse()
            return ""
        except (OSError, http.client.HTTPException) as e:
            why = f"page: no answer ({e})"
        finally:
            connection.close()
    return why


def _faces(unit: str) -> str:
    """Without a page: do the faces run, as systemd says?"""
    try:
        done = subprocess.run(
            ["systemctl", "is-active", unit], capture_output=True, text=True, check=False, timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"{unit}: {e}"
    return "" if done.returncode == 0 else f"{unit}: {done.stdout.strip() or 'not there'}"


def here(config: Path) -> Card:
    """This host's card, also with a configuration that the new version cannot read."""
    try:
        settings, _ = process.load(config)
    except ConfigError:
        settings = Config()
    return twoslots.find(settings)


def main(config: Path, here: Card, reboot: Callable[[str], None] = update.reboot) -> int:
    """Confirm this start; another one follows if that fails. 0: kept, or no trial. ConfigError."""
    if not here.running or here.selected() == here.running:
        return 0
    about, kept = twoslots.trial_of(here), False
    try:
        without_ups = about.get("without_ups") is True
        told = about.get("seconds")
        second = [str(n) for n in told if not seconds.wrong_name(str(n))] if isinstance(told, list) else []
        look, busy = (lambda: health(config, without_ups, second)), (lambda: at_work(config))
        kept = confirm(here, look, time.monotonic, time.sleep, _say, busy)
    except (OSError, ConfigError) as e:
        log.error("slot %s: its trial failed: %s; the old one comes back", here.running, e)
    finally:  # a version that fails at its own trial must not stay, whatever it fails at
        if not kept:
            reboot("")
    if kept:
        _remember(here, about)
    return 0 if kept else 1


def _say(line: str) -> None:
    print(line, flush=True)


def _remember(here: Card, about: dict[str, object]) -> None:
    """Which update proved itself: one of the same version that was made before it is refused from now on."""
    if {"version", "made_s"} <= about.keys():
        try:
            kept = {key: about[key] for key in ("version", "made_s")}
            vault.write_private(here.state / twoslots.PROVEN, json.dumps(kept).encode())
        except OSError as e:
            log.error("%s: %s", here.state / twoslots.PROVEN, e.strerror)
