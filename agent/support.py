"""`ridethrough support`: one archive for whoever shall help. No secret is in it.

In it: version, configuration, status, the last events, the last raw frames of the UPS's link, what is plugged in, and
what detection would make of it (nothing is asked for that). Of the configuration only what is known to be harmless
stands in it (see redact.py), and what was left out is taken out of every other file, with every secret that this
machine knows and whatever looks like one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from . import bus, config, detect, devices, drivers, hidraw, model, reach, steer, vault, wire
from .config import Config
from .faces import secrets_path
from .model import VERSION, ConfigError, Option
from .process import last_good, load, open_link, ups_options
from .redact import Redactor

EVENTS = 500
MEMORY_LIMIT_BYTES = 64 * 1024
SECTIONS = {"agent": config.AGENT, "web": config.WEB, "snmp": config.SNMP, "stage": config.STAGE}
SNMP_TABLES = {"community": config.COMMUNITY, "user": config.USER, "receiver": config.RECEIVER}


def main(args: argparse.Namespace) -> int:
    """Write the archive; 0."""
    settings, problems = load(args.config)
    name = args.output or Path(f"ridethrough-support-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    files = collect(args.config, settings, [p.text for p in problems])
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise ConfigError(f"{name}: {e.strerror}") from e
    with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member, text in files.items():
            data = text.encode("utf-8", "replace")
            info = tarfile.TarInfo(f"ridethrough-support/{member}")
            info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
            archive.addfile(info, io.BytesIO(data))
    print(f"{name}: {', '.join(files)}")
    print("texts of your own were taken out of it, IP addresses are in it: look before you hand it on")
    return 0


def collect(path: Path, settings: Config, problems: list[str]) -> dict[str, str]:
    """The files of the archive by name, without secrets."""
    look = detect.Look(open_link, time.monotonic, around=_unopened())
    for _ in look.steps():
        pass
    remembered = detect.recall(Path(settings.state_dir) / "core" / detect.MEMORY)
    found = {"remembered": wire.to_json(remembered), "now": wire.to_json(look.report())}
    plugged = {
        "usb": [one._asdict() for one in devices.usb_devices()],
        "power devices": [[str(one.node), one.identity._asdict()] for one in hidraw.find()],
        "serial ports": [[str(one.node), one.name, one.usb and one.usb._asdict()] for one in devices.ports()],
    }
    redactor = Redactor(known_secrets(settings), house_words())
    written = configuration(path, redactor)  # first: the others may quote it, or what was in force before it
    configuration(last_good(settings), redactor)
    asked = {what: _asked(settings, {"type": "query", "what": what}) for what in ("status", "frames")}
    asked["events"] = _asked(settings, {"type": "query", "what": "events", "limit": EVENTS})
    documents = {**asked, "detection": found, "devices": json.loads(json.dumps(plugged))}
    return {
        "version.txt": f"ridethrough {VERSION}\npython {platform.python_version()}\n{platform.platform()}\n",
        "ridethrough.toml": written,
        "problems.txt": "".join(f"{redactor.text(problem)}\n" for problem in problems),
        **{f"{name}.json": json.dumps(redactor.value(it), indent=1) + "\n" for name, it in documents.items()},
    }


def _unopened() -> detect.Around:
    """What is plugged in, as far as the running core is not disturbed: power devices are looked at and sent nothing,
    bridges and serial ports are left alone."""
    return detect.Around(usb=list)


def configuration(path: Path, redactor: Redactor) -> str:
    """The configuration, written anew with what is known to be harmless; one line if it cannot be read."""
    import tomlkit

    try:
        with path.open("rb") as file:
            raw = tomllib.loads(file.read(config.FILE_LIMIT_BYTES).decode())
    except OSError as e:
        return f"# it cannot be read: {e.strerror}\n"
    except (ValueError, RecursionError):
        return "# not TOML: nothing of it is shown; see problems.txt\n"
    return "# without comments, and without what might be a secret\n\n" + tomlkit.dumps(_shown(raw, redactor))


def _shown(raw: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    """The sections of the file as `Redactor.table` leaves them, each by its own options."""
    shown: dict[str, Any] = {}
    for name, it in raw.items():
        if name in SECTIONS:
            shown[name] = _tables(it, SECTIONS[name], redactor)
            if name == "snmp" and isinstance(it, dict):
                shown[name] |= {k: _tables(it[k], SNMP_TABLES[k], redactor) for k in SNMP_TABLES if k in it}
        elif name == "ups":
            shown[name] = redactor.table(it, _of_ups(it))
        elif name == "server":
            shown[name] = [redactor.table(row, _of_server(row)) for row in (it if isinstance(it, list) else [it])]
        else:
            shown |= redactor.unknown({name: it})
    return shown


def _tables(it: Any, options: Sequence[Option], redactor: Redactor) -> Any:
    """One table, or a list of them."""
    return [redactor.table(row, options) for row in it] if isinstance(it, list) else redactor.table(it, options)


def _of_ups(row: Any) -> Sequence[Option]:
    """The options of [ups] with its driver; those common to all if there is no such driver."""
    name = row.get("driver") if isinstance(row, dict) else None
    try:
        return (*_choosing(config.UPS, "driver", drivers.available()), *ups_options(str(name)))
    except ConfigError:
        return config.UPS


def _of_server(row: Any) -> Sequence[Option]:
    """The same of a [[server]] and its way."""
    name = row.get("how", "rccmd") if isinstance(row, dict) else None
    try:
        return (*_choosing(config.SERVER, "how", reach.available()), *reach.load(str(name)).OPTIONS)
    except ConfigError:
        return config.SERVER


def _choosing(options: Sequence[Option], name: str, choices: Sequence[str]) -> list[Option]:
    """The options, one of them with the words that it offers."""
    return [replace(one, choices=(*choices, detect.AUTO)) if one.name == name else one for one in options]


def house_words() -> frozenset[str]:
    """The words of the house, which name nobody: of the model, the bus and the configuration."""
    enums = [it for it in vars(model).values() if isinstance(it, type) and issubclass(it, Enum)]
    options = [one for rows in (*SECTIONS.values(), *SNMP_TABLES.values(), config.UPS, config.SERVER) for one in rows]
    options += [one for name in drivers.available() for one in ups_options(name)]
    options += [one for name in reach.available() for one in reach.load(name).OPTIONS]
    words = {value.value for enum in enums for value in enum}
    words |= {word for one in options for word in (one.name, *one.choices)}
    return frozenset((*words, *SECTIONS, *drivers.available(), *reach.available(), "began", "ended", "note"))


def known_secrets(settings: Config) -> set[str]:
    """Every secret value that this machine keeps and we may read."""
    values: set[str] = set()
    for path in (steer.core_secrets(settings), secrets_path(settings)):
        try:
            values |= set(vault.read(path).values())
        except ConfigError:
            continue  # damaged, or not ours to read: then we cannot have copied from it either
    for folder in ("faces", "system"):
        try:
            for path in (Path(settings.state_dir) / folder).glob("**/*.json"):
                values |= set(_strings(path))
        except OSError:
            continue  # a folder that cannot be, or not ours to look into
    return values - {""}


def _strings(path: Path) -> Iterable[str]:
    """The long texts of a file of keys, hashes or codes: what is worth hiding in it is long."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MEMORY_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError):
        return []
    return [text for text in _leaves(value) if len(text) >= 16]


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)


def _asked(settings: Config, question: dict[str, Any], ask: Callable[..., Any] = bus.ask) -> Any:
    """What the core answers; a line that says why not if it does not."""
    try:
        return ask(steer.socket_path(settings), question)
    except bus.BusError as e:
        return f"no answer from the core: {e}"
