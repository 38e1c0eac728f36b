"""`ridethrough spare`: the settings once more, outside the data partition, for starts in which that one is lost.

A timer of the image runs it every few minutes: when something of a backup's content (backup.py) has changed, and the
board is not on battery, it goes into the gap before the data partition (sealed.py), not encrypted: it is as secret as
the data partition beside it, and only root reads either. At a start that finds no configuration, because memory took
the place of the data partition, or that was made anew or has lost it, `provision` brings it back from there.

Nobody asks for it and nothing is handed to it, so neither core nor faces need a right for it. Why they could not be
kept stands in /run, and the core says so (process.py).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import backup, config, engineid, process, sealed, seconds, vault
from .backup import ABOUT, SETTINGS, Content
from .config import Config
from .model import ConfigError, Source, View
from .sealed import Area

SECONDS = "system/seconds.json"  # in the record alone: name of a second UPS -> [its backup, what was taken over]
#: besides a backup's content: which files of the boot partition were taken over, and which update has proved itself
MORE = ("system/taken.json", "system/update.json", SECONDS)
UNREAD = "ridethrough-spare-unread"  # beneath /run: what is there could not be brought back: it is not written over
RUN = Path("/run")
LATER = "the settings have changed; they are kept once the mains is there"
ENGINE = "faces/snmp/engine.json"


def keep(area: Area, path: Path, settings: Config, view: Callable[[], View], now_s: float) -> str:
    """Bring the spare settings up to date; what was done. `view()`: what the core says now. ConfigError, OSError."""
    content = _all(path, settings, now_s)
    data = sealed.read(area)
    if data is not None and _same(data, content):
        return "the spare settings are as they were"
    seen = view()
    if seen.phase != "idle" or (seen.status is not None and seen.status.source is Source.BATTERY):
        return LATER
    try:
        sealed.write(area, backup.pack(content))
    except ValueError as e:
        raise ConfigError(f"settings and commands are too large for the spare place: {e}") from e
    return f"{len(content.files) - 1} files are in the spare place now"


def restore(area: Area, path: Path) -> str:
    """Make the spare settings the configuration at `path`, with all that belongs to it and a second UPS; when they
    were kept, "" if there are none. ConfigError, OSError: what they name, and nothing else, was not brought back."""
    data = sealed.read(area)
    if data is None:
        return ""
    content = backup.unpack(data, MORE)
    files, made = dict(content.files), content.about()["made"]
    others = json.loads(files.pop(SECONDS, b"{}"))
    settings = _put(Content(files, content.programs), path, MORE)
    wrong = []
    for name, (packed, taken) in others.items():
        try:
            _put(backup.unpack(base64.b64decode(packed)), seconds.config_of(path, name))
            if taken:
                vault.write_private(_taken(settings, name), taken.encode())
        except (ConfigError, OSError) as e:
            wrong.append(f"UPS {name}: {e}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return made


def _put(content: Content, path: Path, more: Sequence[str] = ()) -> Config:
    """One adapter back in its place; its configuration. ConfigError, OSError."""
    files = dict(content.files)
    try:
        if ENGINE in files:
            engineid.ahead(files[ENGINE], 0)
    except ConfigError:
        del files[ENGINE]  # it was damaged when it was kept: managers meet a new engine, servers are protected
    settings, _ = process.parse(files[SETTINGS])
    Path(settings.state_dir).mkdir(mode=0o755, parents=True, exist_ok=True)  # core and faces must get through it
    backup.put(Content(files, content.programs), path, settings, more)
    return settings


def _all(path: Path, settings: Config, now_s: float) -> Content:
    """A backup's content and MORE of this adapter, and the same of each second UPS. ConfigError, OSError."""
    content, others = backup.collect(path, settings, now_s, MORE), {}
    for name in seconds.known(path):
        own = seconds.config_of(path, name)
        its = backup.collect(own, process.load(own)[0], now_s)
        files = {k: v for k, v in its.files.items() if k != ABOUT}  # its time would be news each time
        taken = _taken(settings, name)
        packed = base64.b64encode(backup.pack(Content(files, its.programs))).decode()
        others[name] = [packed, taken.read_text() if taken.exists() else ""]
    found = {SECONDS: json.dumps(others).encode()} if others else {}
    return Content({**content.files, **found}, content.programs)


def _taken(settings: Config, name: str) -> Path:
    """Which content of a second UPS's file was taken over last (provision.py)."""
    return Path(settings.state_dir) / f"system/taken-{name}.json"


def _same(data: bytes, content: Content) -> bool:
    try:
        before = backup.unpack(data, MORE)
    except ConfigError:
        return False
    then, now = ({k: v for k, v in c.files.items() if k != ABOUT} for c in (before, content))
    return then == now and before.programs == content.programs


def main(args: argparse.Namespace, settings: Config, view: Callable[[], View]) -> int:
    """`ridethrough spare`. ConfigError."""
    if os.geteuid() != 0:
        raise ConfigError("the spare place is on the card: only root writes there")
    if (RUN / UNREAD).exists():
        raise ConfigError("what is in the spare place could not be brought back at this start: it stays as it is")
    try:
        area = sealed.find()
        if area is None:
            raise ConfigError("this host was not started from a card with a spare place")
    except OSError as e:
        raise ConfigError(f"spare place: {_reason(e)}") from e
    try:
        done = keep(area, args.config, settings, view, time.time())
        if done != LATER:
            process.SPARE_PROBLEM.unlink(missing_ok=True)
    except (ConfigError, OSError) as e:
        _tell(f"The spare settings could not be kept: {_reason(e)}")
        raise ConfigError(f"spare place: {_reason(e)}") from e
    print(done, flush=True)
    return 0


def _reason(e: Exception) -> str:
    return f"{e.filename or ''} {e.strerror or e}".strip() if isinstance(e, OSError) else str(e)


def _tell(line: str) -> None:
    """Core and page say it from now on, until it is mended. ConfigError."""
    path = process.SPARE_PROBLEM
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_text(f"{' '.join(line.split())[: config.PROBLEM_LIMIT]}\n")
        path.chmod(0o644)
    except OSError as e:
        raise ConfigError(f"{line}; and {path}: {e.strerror}") from e
