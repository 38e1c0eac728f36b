"""The history: kept, bounded, and never in the way."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from agent import store
from agent.model import Active, Condition, Event
from agent.store import Samples, Store


def event(number: int, **more: object) -> Event:
    return Event(id=number, kind="note", name="n", boot="b", mono_s=float(number), wall_s=100.0, **more)  # type: ignore[arg-type]


def write(at: Store) -> None:
    """Everything that waits, in this thread."""
    stop = threading.Event()
    stop.set()
    at.run(stop)


def test_events_settled_conditions_and_counters_come_back(tmp_path: Path) -> None:
    at = Store(tmp_path / "h.sqlite")
    assert at.start().last_event_id == 0
    active = Active(condition=Condition.ON_BATTERY, since_s=5.0, since_wall_s=6.0)
    at.record([event(1), event(2, data={"server": "ä"})], [active], "boot", {"power-failures": 3})
    write(at)
    memory = Store(tmp_path / "h.sqlite").start()
    assert memory.settled == (active,) and memory.settled_boot == "boot"
    assert memory.counters == {"power-failures": 3} and memory.last_event_id == 2


def test_events_are_paged_from_disk_and_from_what_is_not_yet_written(tmp_path: Path) -> None:
    at = Store(tmp_path / "h.sqlite")
    at.start()
    at.record([event(n) for n in range(1, 21)], None, "b", {})
    write(at)
    at.start()
    at.record([event(n) for n in range(21, 26)], None, "b", {})
    found, more = at.events(since=0, limit=10)
    assert [e.id for e in found] == list(range(1, 11)) and more
    found, more = at.events(since=18, limit=100)
    assert [e.id for e in found] == list(range(19, 26)) and not more
    found, _ = at.events(since=None, limit=5)
    assert found[-1].id in (20, 25)


def test_the_newest_events_are_the_newest_though_not_yet_written(tmp_path: Path) -> None:
    at = Store(tmp_path / "odd # name?" / "h.sqlite")
    at.start()
    at.record([event(n) for n in range(1, 101)], None, "b", {})
    write(at)
    at.record([event(n) for n in range(101, 111)], None, "b", {})
    assert [e.id for e in at.events(since=None, limit=20)[0]] == list(range(91, 111))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE event SET data = 'not json'",
        "UPDATE event SET data = '[1]'",
        "INSERT INTO counter VALUES ('power-failures', 'many')",
        "DROP TABLE sample",
    ],
)
def test_odd_content_is_set_aside_or_passed_over_and_never_ends_the_core(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "h.sqlite"
    at = Store(path)
    at.start()
    at.record([event(1)], None, "b", {})
    write(at)
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    at = Store(path)
    at.start()
    at.record([event(2)], None, "b", {})
    at.record_samples([(60, "x", 60, 1.0, 1.0, 1.0, 1)])
    at.events(since=0, limit=10)
    write(at)
    assert [e.id for e in at.events(since=None, limit=10)[0]][-1] == 2


def test_an_id_that_is_taken_loses_no_event(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    for _ in range(2):  # the second time as if the start could not have read the file
        at = Store(path)
        at.start()
        at.record([event(1), event(2)], None, "b", {})
        write(at)
        assert not at.failed
    with sqlite3.connect(path) as db:
        assert [row[0] for row in db.execute("SELECT id FROM event ORDER BY id")] == [1, 2, 3, 4]


def test_without_a_disk_events_are_readable_from_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    at = Store(tmp_path / "file" / "h.sqlite")
    at.start()
    assert at.failed
    at.record([event(1), event(2)], None, "b", {})
    write(at)
    assert at.failed
    assert [e.id for e in at.events(since=None, limit=10)[0]] == [1, 2]


def test_a_file_that_cannot_be_read_is_said_once_and_memory_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "h.sqlite"
    at = Store(path)
    at.start()
    at.record([event(1), event(2)], None, "b", {})
    write(at)
    whole = path.read_bytes()
    path.write_bytes(b"this is no database " * 1000)
    for _ in range(3):
        assert [e.id for e in at.events(since=None, limit=10)[0]] == [1, 2]
    assert [r.message for r in caplog.records] == [
        f"{path} cannot be read: file is not a database: the events in memory are shown"
    ]
    path.write_bytes(whole)
    assert [e.id for e in at.events(since=None, limit=10)[0]] == [1, 2] and at._unread == ""


def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    path.write_bytes(b"this is no database " * 1000)
    at = Store(path)
    assert at.start().last_event_id == 0 and not at.failed
    at.record([event(1)], None, "b", {})
    write(at)
    assert (tmp_path / "h.sqlite.damaged").exists()
    assert Store(path).start().last_event_id == 1


def test_the_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    at = Store(path)
    at.start()
    first, last = 1, store.EVENTS_LIMIT + 300
    for start in range(first, last + 1, 100):
        at.record([event(n) for n in range(start, start + 100)], None, "b", {})
    write(at)
    with sqlite3.connect(path) as db:
        low, high, count = db.execute("SELECT min(id), max(id), count(*) FROM event").fetchone()
    assert high >= last and count <= store.EVENTS_LIMIT and low > 1


def test_rings_keep_minimum_mean_and_maximum_and_are_cut(tmp_path: Path) -> None:
    at, samples = Store(tmp_path / "h.sqlite"), Samples()
    at.start()
    for second in range(120):
        samples.add({"charge-pct": float(second % 10)}, 6000.0 + second)
    at.record_samples(samples.take())
    for second in range(60):
        samples.add({"charge-pct": 50.0}, 6060.0 + second)  # the same minute, flushed later
    at.record_samples(samples.take())
    samples.add({"charge-pct": 1.0}, 6000.0 + 60 * (store.RINGS[60] + 2))
    at.record_samples(samples.take())
    write(at)
    with sqlite3.connect(tmp_path / "h.sqlite") as db:
        rows = db.execute("SELECT start_s, low, mean, high, count FROM sample WHERE width_s=60 ORDER BY 1").fetchall()
        wide = db.execute("SELECT low, high, count FROM sample WHERE width_s=900 ORDER BY start_s").fetchall()
    assert [r[0] for r in rows] == [6000 + 60 * (store.RINGS[60] + 2)]
    assert wide[0] == (0.0, 50.0, 180)


def test_the_mean_of_a_bucket_that_is_flushed_twice_is_right(tmp_path: Path) -> None:
    at, samples = Store(tmp_path / "h.sqlite"), Samples()
    at.start()
    for value in (1.0, 3.0):
        samples.add({"load-pct": value}, 60.0)
    at.record_samples(samples.take())
    samples.add({"load-pct": 8.0}, 61.0)
    at.record_samples(samples.take())
    write(at)
    with sqlite3.connect(tmp_path / "h.sqlite") as db:
        assert db.execute("SELECT low, mean, high, count FROM sample WHERE width_s=60").fetchall() == [(1, 4, 8, 3)]


def test_a_quarter_of_an_hour_changes_few_pages_of_full_rings(tmp_path: Path) -> None:
    """Each page is written twice, to the log and to the file: a card wears out by it."""
    at, names = Store(tmp_path / "h.sqlite"), [f"quantity-{number}" for number in range(12)]
    now_s = 2_000_000_000 // 86400 * 86400
    at.start()
    rows = [
        (width, name, now_s - width * n, 1.0, 2.0, 3.0, 9)
        for width, count in store.RINGS.items() for name in names for n in range(1, count, 1 + (width > 60))
    ]  # fmt: skip
    at.record_samples(rows)
    write(at)
    at.start()
    with sqlite3.connect(tmp_path / "h.sqlite") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        samples = Samples()
        for minute in range(15):
            samples.add(dict.fromkeys(names, 1.0), now_s + 60.0 * minute)
        at.record_samples(samples.take())
        at._write(at._queue.get_nowait(), threading.Event())
        pages = (tmp_path / "h.sqlite-wal").stat().st_size // 4096
    assert 0 < pages <= 25, pages


def test_earlier_events_of_this_boot_get_their_real_time_when_the_clock_is_set(tmp_path: Path) -> None:
    at = Store(tmp_path / "h.sqlite")
    at.start()
    at.record([event(1)], None, "b", {})
    at.clock_set("b", 1_800_000_000.0)
    write(at)
    found, _ = Store(tmp_path / "h.sqlite").events(since=0, limit=1)
    assert found[0].wall_s == 1_800_000_001.0 and found[0].clock_synced


def test_a_disk_that_hangs_holds_nobody(tmp_path: Path) -> None:
    at = Store(tmp_path / "h.sqlite")
    at.start()
    for number in range(1, store.QUEUE_LIMIT + 100):  # nobody writes
        at.record([event(number)], None, "b", {})
    assert "too slow" in at.failed
