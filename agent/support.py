"""`ridethrough support`: one archive for whoever shall help. No secret is in it.

In it: version, configuration, status, the last events, the last raw frames of the UPS's link, what is plugged in, and
what detection would make of it (nothing is asked for that). Secrets do not stand in the configuration; what looks
like one is taken out all the same, and every secret that this machine knows is taken out of every file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import bus, detect, devices, hidraw, steer, vault, wire
from .config import Config
from .faces import secrets_path
from .model import VERSION, ConfigError
from .process import load, open_link

EVENTS = 500
HIDDEN = "***"
SHORT = 4  # a secret of fewer characters is taken out only where it stands alone
CONFIG_LIMIT_BYTES, MEMORY_LIMIT_BYTES = 256 * 1024, 64 * 1024

_WORDS = (
    r"secret|password|passwd|pass_?phrase|passphrase|pass|token|communit(?:y|ies)|credential|bearer|psk|auth|priv"
)
_NAMED = re.compile(
    rf"""(?imx) ^ (?P<name> [^\n#=]* (?: {_WORDS} | (?<![a-z]) (?:key|keys|code|codes|pin|pins) (?![a-z]) )
    [^\n=]* = [ \t]*) (?P<value> \[[^\]]* \] | \"\"\" (?s:.*?) \"\"\" | \'\'\' (?s:.*?) \'\'\' | [^\n]+)"""
)
_IN_LINE = re.compile(
    rf"(?i)(?P<name>[\"']?[\w.-]*(?:{_WORDS}|key|code)[\w.-]*[\"']?\s*[:=]\s*)(?P<value>\"[^\"\n]*\"|'[^'\n]*')"
)
_USER_IN_URL = re.compile(r"(?i)(?P<name>[a-z][a-z0-9+.-]*://)(?P<value>[^/\s\"'@]+)(?P<after>@)")
_QUERY_IN_URL = re.compile(r"(?i)(?P<name>[a-z][a-z0-9+.-]*://[^\s\"'?#]+\?)(?P<value>[^\s\"']+)")
_HEADER = re.compile(r"(?i)(?P<name>authorization\W{1,4}(?:basic|bearer)\s+)(?P<value>[^\s\"']+)")
_QUOTED = re.compile(r"\"([^\"]+)\"|'([^']+)'")


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
    print("secrets were taken out; names and addresses of your servers are in it: look before you hand it on")
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
    hidden: set[str] = set()
    files = {
        "version.txt": f"ridethrough {VERSION}\npython {platform.python_version()}\n{platform.platform()}\n",
        "ridethrough.toml": configuration(path, hidden),
        "problems.txt": redacted("\n".join(problems) + "\n", hidden),
        "status.json": _asked(settings, {"type": "query", "what": "status"}),
        "events.json": _asked(settings, {"type": "query", "what": "events", "limit": EVENTS}),
        "frames.json": _asked(settings, {"type": "query", "what": "frames"}),
        "detection.json": json.dumps(found, indent=1),
        "devices.json": json.dumps(plugged, indent=1),
    }
    secrets = sorted(known_secrets(settings) | (hidden - {""}), key=lambda value: (-len(value), value))
    return {name: without(text, secrets) for name, text in files.items()}


def _unopened() -> detect.Around:
    """What is plugged in, as far as the running core is not disturbed: power devices are looked at and sent nothing,
    bridges and serial ports are left alone."""
    return detect.Around(usb=list)


def configuration(path: Path, hidden: set[str]) -> str:
    """The configuration as it is written, what looks like a secret taken out; see `redacted`."""
    try:
        with path.open("rb") as file:
            return redacted(file.read(CONFIG_LIMIT_BYTES).decode("utf-8", "replace"), hidden)
    except OSError as e:
        return f"{path}: {e.strerror}\n"


def redacted(text: str, hidden: set[str]) -> str:
    """Text of a configuration without the values of options named like a secret, and without what URLs carry. What
    was taken out is added to `hidden`: an error text, or an event, may quote it.

    The label of a secret is no secret, but goes as well where its option is named so.
    """

    def hide(match: re.Match[str]) -> str:
        groups = match.groupdict()
        value = groups["value"]
        hidden.update(line.strip() for pair in _QUOTED.findall(value) for line in "".join(pair).splitlines())
        hidden.add(value.strip(" \t\"'"))
        quote = '"' if groups.get("name", "").rstrip().endswith(("=", ":")) else ""
        return f"{groups.get('name') or ''}{quote}{HIDDEN}{quote}{groups.get('after') or ''}"

    for pattern in (_NAMED, _IN_LINE, _USER_IN_URL, _HEADER, _QUERY_IN_URL):
        text = pattern.sub(hide, text)
    return text


def known_secrets(settings: Config) -> set[str]:
    """Every secret value that this machine keeps and we may read."""
    values: set[str] = set()
    for path in (steer.core_secrets(settings), secrets_path(settings)):
        try:
            values |= set(vault.read(path).values())
        except ConfigError:
            continue  # damaged, or not ours to read: then we cannot have copied from it either
    for path in (Path(settings.state_dir) / "faces").glob("**/*.json"):
        values |= set(_strings(path))
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


def without(text: str, secrets: Iterable[str]) -> str:
    """The text without these values, as they are and as JSON and our error texts write them."""
    for secret in secrets:
        for form in {
            secret,
            repr(secret)[1:-1],
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
        }:
            if len(form) >= SHORT:
                text = text.replace(form, HIDDEN)
            else:
                text = re.sub(rf"(?<![\w.]){re.escape(form)}(?![\w.])", lambda _: HIDDEN, text)
    return text


def _asked(settings: Config, question: dict[str, Any], ask: Callable[..., Any] = bus.ask) -> str:
    """What the core answers, as JSON; a line that says why not if it does not."""
    try:
        return json.dumps(ask(steer.socket_path(settings), question), indent=1)
    except bus.BusError as e:
        return f"no answer from the core: {e}\n"
