"""Which certificate each enrolled server has: kept by name, forgotten when the server leaves the configuration.

    FOLDER/pins.json, 0600: {"nas": {"sha256": "64 hex digits", "enrolled_s": 1790000000.0 [, "former": [...]]}, ...}

`sha256` is that of the certificate's DER; `enrolled_s` is wall-clock time, for people. `former`: the certificates
that the server had before it was enrolled anew, newest first; good until a newer one was seen at work, so that
enrolments which fail half-way, however many in a row, leave no server without anybody who can shut it down. A damaged
file is set aside.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .config import NAME, SERVERS_LIMIT
from .vault import set_aside, write_private

log = logging.getLogger(__name__)

FILE = "pins.json"
LIMIT_BYTES = 1024 * 1024
FORMER_LIMIT = 4  # the newest ones, and the oldest, which is the one that was seen at work
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pin:
    """One server's certificate, and when it was enrolled."""

    sha256: str
    enrolled_s: float
    former: tuple[str, ...] = ()  # newest first


class Pins:
    """Reading is for every thread; whoever changes something waits for the disk."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.damaged = ""  # why the file was set aside
        self._unreadable = False  # it is there, and may be good
        self._unsaved = False  # something was settled and is not yet on the disk
        self._pins: Mapping[str, Pin] = self._read()

    def __len__(self) -> int:
        return len(self._pins)

    def get(self, name: str) -> str:
        """SHA-256 of the certificate of the server of this name, 64 hex digits, or ''."""
        pin = self._pins.get(name)
        return pin.sha256 if pin is not None else ""

    def former(self, name: str) -> tuple[str, ...]:
        """SHA-256 of the certificates that it had before and that are still good, newest first."""
        pin = self._pins.get(name)
        return pin.former if pin is not None else ()

    def settle(self, name: str, sha256: str) -> None:
        """This certificate of the server was seen at work: older ones are good no more. Waits for no disk: `save`
        writes it."""
        if not self.former(name):
            return
        with self._lock:
            pin = self._pins.get(name)
            known = (pin.sha256, *pin.former) if pin is not None else ()
            if pin is not None and sha256 in known[:-1]:  # else there is none that is older
                self._pins = {**self._pins, name: replace(pin, former=known[1 : known.index(sha256) + 1])}
                self._unsaved = True

    def save(self) -> None:
        """Write what was settled; tried again by the next call if the disk refuses."""
        if not self._unsaved:
            return
        with self._lock:
            try:
                self._write(self._pins)
                self._unsaved = False
            except OSError as e:
                log.error("%s: %s: a former certificate would count again after a restart", self._path, e)

    def add(self, name: str, sha256: str, wall_s: float) -> None:
        """This is the server's certificate from now on, and once this returns it is on the disk. ValueError for what
        is no pin, OSError as the disk says; then nothing has changed."""
        if not NAME.fullmatch(name) or not SHA256.fullmatch(sha256):
            raise ValueError("not a name and the SHA-256 of a certificate, 64 lower-case hex digits")
        with self._lock:
            if self._unreadable:
                self._pins = self._read()
            if self._unreadable:
                raise OSError(self.damaged)  # else the pins of all others were lost
            old = self._pins.get(name)
            former = [one for one in (old.sha256, *old.former) if one != sha256] if old is not None else []
            del former[FORMER_LIMIT - 1 : -1]
            new = {**self._pins, name: Pin(sha256, wall_s, tuple(former))}
            if len(new) > SERVERS_LIMIT:
                raise ValueError(f"{SERVERS_LIMIT} servers are enrolled already")
            self._write(new)
            self._pins = new

    def keep(self, names: Collection[str]) -> tuple[str, ...]:
        """Forget all but these; the names of those that lost their pin. A disk that cannot be written is no excuse:
        they are revoked all the same, and again after a restart."""
        with self._lock:
            gone = tuple(name for name in self._pins if name not in names)
            if gone:
                self._pins = {name: pin for name, pin in self._pins.items() if name in names}
                try:
                    self._write(self._pins)
                except OSError as e:
                    log.error("%s: %s: enrolments of deleted servers are forgotten again later", self._path, e)
        return gone

    def _write(self, pins: Mapping[str, Pin]) -> None:
        rows = {name: {k: v for k, v in asdict(pin).items() if v != ()} for name, pin in pins.items()}
        write_private(self._path, json.dumps(rows, indent=1).encode() + b"\n")

    def _read(self) -> dict[str, Pin]:
        self._unreadable = False
        try:
            with self._path.open("rb") as file:
                raw = file.read(LIMIT_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as e:
            self.damaged, self._unreadable = f"{self._path}: {e.strerror}", True
            log.error("%s: no server counts as enrolled", self.damaged)
            return {}
        try:
            if len(raw) > LIMIT_BYTES:
                raise ValueError("too long")
            return {name: _pin(name, row) for name, row in json.loads(raw).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            self.damaged = f"{self._path}: damaged ({e}), set aside"
        log.error("%s: no server counts as enrolled", self.damaged)
        try:
            set_aside(self._path)
        except OSError as e:
            log.error("%s: %s", self._path, e.strerror)
        return {}


def _pin(name: str, row: Any) -> Pin:
    """One row of the file. ValueError, KeyError, TypeError if it is none."""
    sha256, enrolled_s, former = row["sha256"], float(row["enrolled_s"]), row.get("former", [])
    former = [former] if isinstance(former, str) else former  # as an earlier version wrote it
    good = isinstance(former, list) and len(former) <= FORMER_LIMIT and all(map(SHA256.fullmatch, [sha256, *former]))
    if not good or not NAME.fullmatch(name) or not math.isfinite(enrolled_s):
        raise ValueError(f"no pin: {name[:40]!r}")
    return Pin(sha256, enrolled_s, tuple(former))
