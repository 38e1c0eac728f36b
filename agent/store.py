"""The history: event log, settled conditions, counters and measurement rings in one SQLite file.

One writer thread with a bounded queue: nobody waits for the disk. A damaged file is set aside and a new one begun;
without a writable disk the last events stay readable from memory. History may die, protection may not.
"""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import vault
from .model import Active, Condition, Event, Status

log = logging.getLogger(__name__)

EVENTS_LIMIT = 20_000  # rows kept
RECENT_LIMIT = 500  # events readable without a disk
QUEUE_LIMIT = 2000
#: width of a ring's bucket in seconds -> buckets kept
RINGS: Mapping[int, int] = {60: 2880, 900: 2976, 86400: 1830}  # 2 days, 31 days, 5 years

SCHEMA = """
CREATE TABLE event (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL,
    boot TEXT NOT NULL, mono_s REAL NOT NULL, wall_s REAL NOT NULL, synced INTEGER NOT NULL);
CREATE TABLE settled (name TEXT PRIMARY KEY, boot TEXT NOT NULL, since_s REAL NOT NULL, since_wall_s REAL NOT NULL);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
-- the key in this order: what is written together lies together, on few pages
CREATE TABLE sample (
    width_s INTEGER NOT NULL, quantity TEXT NOT NULL, start_s INTEGER NOT NULL,
    low REAL NOT NULL, mean REAL NOT NULL, high REAL NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (width_s, start_s, quantity)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""

Write = Callable[[sqlite3.Connection], None]


@dataclass(frozen=True, slots=True)
class Memory:
    """What the history says at the start."""

    settled: tuple[Active, ...] = ()
    settled_boot: str = ""
    counters: Mapping[str, int] | None = None
    last_event_id: int = 0


@dataclass(slots=True)
class Bucket:
    """Minimum, mean and maximum of one quantity over one span of time."""

    low: float
    total: float
    high: float
    count: int = 1

    def add(self, value: float) -> None:
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.total += value
        self.count += 1


class Samples:
    """Measurements collected in memory until they are handed to the store. Times are wall clock seconds."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str, int], Bucket] = {}

    def add(self, values: Mapping[str, float], wall_s: float) -> None:
        """Count one frame's values into a bucket of every ring."""
        for width_s in RINGS:
            start_s = int(wall_s) // width_s * width_s
            for quantity, value in values.items():
                key = (width_s, quantity, start_s)
                if bucket := self._open.get(key):
                    bucket.add(value)
                elif len(self._open) < 4096:  # only a jumping clock comes near
                    self._open[key] = Bucket(value, value, value)

    def take(self) -> list[tuple[int, str, int, float, float, float, int]]:
        """The rows collected since the last call; the store adds them to what it has of the same bucket."""
        rows = [(*key, b.low, b.total / b.count, b.high, b.count) for key, b in self._open.items()]
        self._open.clear()
        return rows


class Store:
    """The file at `path`. Anybody may call the writing methods; `run` is the writer's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.Queue[Write] = queue.Queue(maxsize=QUEUE_LIMIT)
        self._db: sqlite3.Connection | None = None
        self._recent: deque[Event] = deque(maxlen=RECENT_LIMIT)
        self._recent_lock = threading.Lock()
        self.failed = ""  # why the last write failed; '' while all is well
        self._unread = ""  # why the last reading failed

    def start(self) -> Memory:
        """Open the file and read what a restart needs. Never raises: without a disk the history starts empty."""
        try:
            return self._open_or_set_aside()
        except (OSError, sqlite3.Error) as e:
            self._fail(e)
            return Memory()

    def _open_or_set_aside(self) -> Memory:
        """Open the file; a damaged one is set aside and a new one begun. OSError, sqlite3.Error as the disk says."""
        try:
            return self._open()
        except sqlite3.OperationalError:
            raise  # locked, full, not writable: not damaged
        except (sqlite3.DatabaseError, ValueError, TypeError) as e:
            return self._begin_anew(e)

    def _begin_anew(self, why: Exception) -> Memory:
        """Set the damaged file aside and begin a new one. OSError, sqlite3.Error as the disk says."""
        self._close()
        aside = vault.set_aside(self._path)
        log.error("%s is damaged (%s): set aside as %s, a new history begins", self._path, why, aside.name)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return self._open()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")  # an event that was acknowledged survives a power cut
        db.execute("PRAGMA cache_size=-256")
        db.execute("PRAGMA wal_autocheckpoint=200")
        return db

    def _open(self) -> Memory:
        db = self._db = self._connect()
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN;{SCHEMA}COMMIT;")
        elif version != 1:
            raise sqlite3.DatabaseError(f"schema version {version}")
        settled, settled_boot = [], ""
        known = {c.value: c for c in Condition}
        for name, boot, since_s, wall_s in db.execute("SELECT name, boot, since_s, since_wall_s FROM settled"):
            settled_boot = boot
            if name in known:
                settled.append(Active(condition=known[name], since_s=since_s, since_wall_s=wall_s))
        counters = {str(name): int(value) for name, value in db.execute("SELECT name, value FROM counter")}
        last = db.execute("SELECT max(id) FROM event").fetchone()[0] or 0
        with self._recent_lock:
            self._recent.extend(_read(db, max(0, last - 100), 100))
        return Memory(settled=tuple(settled), settled_boot=settled_boot, counters=counters, last_event_id=last)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    # -- writing

    def record(
        self, events: Sequence[Event], settled: Sequence[Active] | None, boot: str, counters: Mapping[str, int]
    ) -> None:
        """Write events, and with them (one transaction) the settled conditions if given, and the counters."""
        with self._recent_lock:
            self._recent.extend(events)
        rows = [
            (e.id, e.kind, e.name, e.text, json.dumps(dict(e.data)), e.boot, e.mono_s, e.wall_s, e.clock_synced)
            for e in events
        ]
        actives = None if settled is None else [(a.condition.value, boot, a.since_s, a.since_wall_s) for a in settled]
        numbers = dict(counters)

        def write(db: sqlite3.Connection) -> None:
            # an id that is taken (the start could not read the file) gets the next free one
            free = "(SELECT CASE WHEN EXISTS (SELECT 1 FROM event WHERE id = ?1) THEN NULL ELSE ?1 END)"
            db.executemany(f"INSERT INTO event VALUES ({free},?2,?3,?4,?5,?6,?7,?8,?9)", rows)  # noqa: S608
            if rows and rows[-1][0] % 100 == 0:
                db.execute("DELETE FROM event WHERE id <= ?", (rows[-1][0] - EVENTS_LIMIT,))
            if actives is not None:
                db.execute("DELETE FROM settled")
                db.executemany("INSERT INTO settled VALUES (?,?,?,?)", actives)
            db.executemany("INSERT OR REPLACE INTO counter VALUES (?,?)", numbers.items())

        self._put(write)

    def record_samples(self, rows: Sequence[tuple[int, str, int, float, float, float, int]]) -> None:
        """Add rows of `Samples.take` to the rings, and cut the rings to their length."""

        def write(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO sample VALUES (?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET low=min(low,excluded.low),"
                " high=max(high,excluded.high), count=count+excluded.count,"
                " mean=(mean*count+excluded.mean*excluded.count)/(count+excluded.count)",
                rows,
            )
            newest = {width_s: max(r[2] for r in rows if r[0] == width_s) for width_s in {r[0] for r in rows}}
            for width_s, start_s in newest.items():
                oldest_s = start_s - width_s * RINGS[width_s]
                db.execute("DELETE FROM sample WHERE width_s=? AND start_s<=?", (width_s, oldest_s))

        if rows:
            self._put(write)

    def clock_set(self, boot: str, wall_minus_mono_s: float) -> None:
        """The clock is right now: give this boot's earlier events the time they really had."""

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE event SET wall_s = mono_s + ?, synced = 1 WHERE boot = ? AND synced = 0",
                (wall_minus_mono_s, boot),
            )

        self._put(write)

    def _put(self, write: Write) -> None:
        try:
            self._queue.put_nowait(write)
        except queue.Full:
            self._fail(OSError(f"the disk is too slow: {QUEUE_LIMIT} writes are waiting"))

    def run(self, stop: threading.Event) -> None:
        """The writer's thread: until `stop`, then what is still waiting."""
        while not (stop.is_set() and self._queue.empty()):
            try:
                write = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            self._write(write, stop)
        self._close()

    def _write(self, write: Write, stop: threading.Event) -> None:
        """One transaction. A disk that fails is tried again later; what it could not take is lost, and said so."""
        try:
            if self._db is None:
                self._open_or_set_aside()
            db = self._db
            if db is None:
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                write(db)
                db.execute("COMMIT")
            except sqlite3.Error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError, UnicodeError) as e:
            self._fail(e)
            self._close()
            if "malformed" in str(e):
                self._set_aside_later(e)
            stop.wait(0 if self._queue.qsize() > QUEUE_LIMIT // 2 else 1.0)
            return
        if self.failed:
            log.info("%s can be written again", self._path)
            self.failed = ""

    def _set_aside_later(self, why: Exception) -> None:
        """A file that is found to be damaged while it is written."""
        try:
            self._begin_anew(why)
        except (OSError, sqlite3.Error) as e:
            self._fail(e)

    def _fail(self, error: Exception) -> None:
        if not self.failed:
            log.error("%s: %s: events stay in memory only", self._path, error)
        self.failed = str(error) or type(error).__name__

    # -- reading, in the query reader's thread

    def events(self, since: int | None, limit: int) -> tuple[list[Event], bool]:
        """(events after id `since`, or the newest; ascending; whether there are more). From memory without a disk."""
        limit = max(1, min(500, limit))
        try:
            with closing(sqlite3.connect(self._path.absolute().as_uri() + "?mode=ro", uri=True, timeout=2.0)) as db:
                start = since
                if start is None:
                    last = db.execute("SELECT max(id) FROM event").fetchone()[0] or 0
                    start = max(0, last - limit)
                found = _read(db, start, limit + 1)
            self._unread = ""
        except (sqlite3.Error, ValueError, TypeError) as e:
            found = []
            if self._unread != str(e):
                log.warning("%s cannot be read: %s: the events in memory are shown", self._path, e)
            self._unread = str(e)
        with self._recent_lock:
            recent = [e for e in self._recent if e.id > (since or 0)]
        # what the writer has not yet written, or cannot write
        newest = found[-1].id if found else 0
        if len(found) <= limit:
            found += [e for e in recent if e.id > newest]
        if since is None:
            return found[-limit:], False
        return found[:limit], len(found) > limit


def _read(db: sqlite3.Connection, since: int, limit: int) -> list[Event]:
    rows: Any = db.execute(
        "SELECT id, kind, name, text, data, boot, mono_s, wall_s, synced FROM event WHERE id > ? ORDER BY id LIMIT ?",
        (since, limit),
    )
    return [
        Event(
            id=row[0], kind=row[1], name=row[2], text=row[3], data=_texts(row[4]),
            boot=row[5], mono_s=row[6], wall_s=row[7], clock_synced=bool(row[8]),
        )
        for row in rows
    ]  # fmt: skip


def _texts(data: str) -> dict[str, str]:
    """An event's data. ValueError, TypeError if it is something else."""
    return {str(k): str(v) for k, v in dict(json.loads(data)).items()}


LINES_LIMIT = 3


def measurements(look: Status) -> dict[str, float]:
    """The numbers that are kept in the rings. Lines 2 and 3 of three phases have their number in the name."""
    values: dict[str, float | None] = {}
    for number, row in enumerate(look.inputs[:LINES_LIMIT], start=1):
        values[f"input-voltage{_line(number)}-v"] = row.voltage_v
    for number, row in enumerate(look.outputs[:LINES_LIMIT], start=1):
        values |= {f"output-voltage{_line(number)}-v": row.voltage_v, f"load{_line(number)}-pct": row.load_pct}
    values |= {
        "input-frequency-hz": look.inputs[0].frequency_hz if look.inputs else None,
        "charge-pct": look.battery.charge_pct,
        "runtime-s": look.battery.runtime_s,
        "battery-voltage-v": look.battery.voltage_v,
        "temperature-c": look.temperature_c if look.battery.temperature_c is None else look.battery.temperature_c,
    }
    return {name: value for name, value in values.items() if value is not None}


def _line(number: int) -> str:
    return "" if number == 1 else f"-{number}"
