"""The texts that SNMP managers have set (sysContact and the like), kept over restarts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from . import vault

log = logging.getLogger(__name__)

LIMIT_BYTES = 64 * 1024
NAMES = ("sysContact", "sysName", "sysLocation", "upsIdentName", "upsIdentAttachedDevices", "upsAutoRestart")
TEXT_LIMIT = 255


def read(folder: Path) -> dict[str, str]:
    """What was set; nothing of a file that is damaged, which is set aside."""
    path = folder / "texts.json"
    try:
        with open(path, "rb") as stream:
            values = json.loads(stream.read(LIMIT_BYTES))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as e:
        log.error("%s: damaged (%s), set aside: what managers had set is forgotten", path, e)
        try:
            vault.set_aside(path)
        except OSError:
            pass  # said already; the next SET says what the disk thinks
        return {}
    return {name: str(values[name])[:TEXT_LIMIT] for name in NAMES if name in values}


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Replace the file. OSError."""
    vault.write_private(folder / "texts.json", json.dumps(dict(texts), indent=1, sort_keys=True).encode() + b"\n")
