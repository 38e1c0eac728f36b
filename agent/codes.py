"""The one-time codes with which a server fetches its key: made by `ridethrough enroll`, taken by the web page.

`FOLDER/codes.json` (0600) holds no code, only what is needed to know it again, by server name:

    {"nas": {"sha256": of name NUL code, "boot": ID, "up_s": 812.5, "wall_s": 1790000000.0, "wrong": 0}, ...}

A code lives for ten minutes, for one use, and for five wrong tries. Ten minutes are counted by the clock that runs
since the machine was started (CLOCK_BOOTTIME), in that boot alone, so that setting the clock back lengthens no life;
and by the clock on the wall, so that restoring a snapshot of the machine does not either. Verb and page are two
processes: who reads and writes holds a lock on the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .config import NAME, SERVERS_LIMIT
from .model import ConfigError
from .vault import make_folder, set_aside, write_private

log = logging.getLogger(__name__)

FILE = "codes.json"
LIFE_S = 600.0
WRONG_LIMIT = 5  # tries with another code on the same name
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
LENGTH, GROUP = 20, 5  # 100 random bits
LIMIT_BYTES = 512 * 1024
NOBODY = hashlib.sha256(b"").hexdigest()  # compared with where there is no code, for the same time

_MISREAD = str.maketrans("ILO", "110", "- ")


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: the id of this boot, seconds since it (suspend included), seconds of the clock on the wall."""

    boot: str
    up_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One code, as it is kept."""

    sha256: str
    boot: str
    up_s: float
    wall_s: float
    wrong: int = 0

    def lives(self, now: Moment) -> bool:
        """Is it still good for a try?"""
        aged = self.boot != now.boot or not 0 <= now.up_s - self.up_s < LIFE_S or now.wall_s - self.wall_s >= LIFE_S
        return not aged and self.wrong < WRONG_LIMIT


def clock() -> Moment:
    """The real one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


def plain(code: str) -> str:
    """As it was made, of what somebody typed: any case, with or without dashes, I or L for 1, O for 0."""
    return code.upper().translate(_MISREAD)


class Codes:
    """The codes of `folder`. From any thread and process."""

    def __init__(self, folder: Path, now: Callable[[], Moment] = clock) -> None:
        self._folder, self._path, self._now = folder, folder / FILE, now

    def make(self, name: str) -> str:
        """A new code for the server `name`, in groups; an older one of that name ends. OSError as the disk says."""
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name[:80]!r} is not a server's name")
        code, now = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH)), self._now()
        with self._locked() as rows:
            rows.pop(name, None)
            while len(rows) >= SERVERS_LIMIT:
                del rows[next(iter(rows))]  # the oldest
            rows[name] = Row(_hash(name, code), now.boot, now.up_s, now.wall_s)
            self._write(rows)
        return "-".join(code[i : i + GROUP] for i in range(0, LENGTH, GROUP))

    def take(self, name: str, code: str) -> Row | None:
        """Use the code up, and say that it was good by its row (see `give_back`); None: wrong, used, expired, or of
        another name. OSError as the disk says: then it was not used."""
        with self._locked() as rows:
            row = rows.get(name)
            good = hmac.compare_digest(_hash(name, plain(code)), row.sha256 if row else NOBODY)
            if row is None:
                return None
            if good:
                del rows[name]
            else:
                rows[name] = replace(row, wrong=row.wrong + 1)
            self._write(rows)
            return row if good else None

    def give_back(self, name: str, row: Row) -> None:
        """What `take` took, where nothing came of it; not if there is a newer one. OSError as the disk says."""
        with self._locked() as rows:
            if rows.setdefault(name, row) is row:
                self._write(rows)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Row]]:
        """The living rows; nobody else reads or writes meanwhile. The lock ends with its process."""
        make_folder(self._folder)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            now = self._now()
            yield {name: row for name, row in self._read().items() if row.lives(now)}
        finally:
            os.close(folder)

    def _read(self) -> dict[str, Row]:
        try:
            with self._path.open("rb") as file:
                raw = file.read(LIMIT_BYTES + 1)
        except FileNotFoundError:
            return {}
        try:
            if len(raw) > LIMIT_BYTES:
                raise ValueError("too long")
            return {str(name): _row(row) for name, row in json.loads(raw).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            log.error("%s: damaged (%s), set aside: make the codes anew", self._path, e)
        set_aside(self._path)
        return {}

    def _write(self, rows: Mapping[str, Row]) -> None:
        data = {name: asdict(row) for name, row in rows.items()}
        write_private(self._path, json.dumps(data, indent=1).encode() + b"\n")


def _hash(name: str, code: str) -> str:
    return hashlib.sha256(f"{name}\0{code}".encode("utf-8", "replace")).hexdigest()


def _row(row: Any) -> Row:
    """One row of the file. ValueError, KeyError, TypeError if it is none."""
    made = Row(str(row["sha256"]), str(row["boot"]), float(row["up_s"]), float(row["wall_s"]), int(row["wrong"]))
    if not (len(made.sha256) == 64 and made.sha256.isascii() and math.isfinite(made.up_s + made.wall_s)):
        raise ValueError("not a code's row")
    return made
