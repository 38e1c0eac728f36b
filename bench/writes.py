"""What a day writes onto the data partition: history and protection slots of a real engine, its clock set forward."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from agent.config import Config
from agent.engine import Engine, NewConfig
from agent.model import Battery, Line, Rating, Source, Status
from agent.slots import Slots
from agent.store import RINGS, Store, measurements
from agent.ups import Polled
from bench.gate import gate
from tests.kit import TWO_SERVERS, TWO_STAGES, FakeClock

FRAME_S = 5.0
OUTAGE_S = 600  # once a day
LIMIT_MB = 50.0
#: what ext4 writes for each flush besides its data: descriptor, inode, bitmap and commit, later the inode again
JOURNAL_BYTES = 5 * 4096


class Counted(Store):
    """A store whose transactions are written at once, and counted."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes, self._never = 0, threading.Event()

    def _put(self, write: Callable[..., None]) -> None:
        self.writes += 1
        self._write(write, self._never)
        if self.failed:
            raise OSError(self.failed)


class CountedKeeper:
    """The slots, each writing counted and waited for."""

    failed = ""

    def __init__(self, path: Path) -> None:
        self._slots, self.writes = Slots(path), 0
        self._slots.read()

    def keep(self, data: bytes, within_s: float) -> bool:
        self.writes += 1
        self._slots.write(data)
        return True


def _nothing(*_: object) -> None:
    """Whoever would be told."""


def written_bytes() -> int:
    """What this process has given to disks. /proc/self/io counts whole pages, and nothing of a tmpfs."""
    return int(re.findall(r"^write_bytes: (\d+)", Path("/proc/self/io").read_text(), re.M)[0])


def frame(source: Source) -> Status:
    """A three-phase unit that says much: each number is a row of the history."""
    lines = tuple(Line(voltage_v=230.0 + n, frequency_hz=50.0, current_a=2.0 + n, power_w=400.0) for n in range(3))
    outputs = tuple(
        Line(voltage_v=230.0, frequency_hz=50.0, current_a=2.0, power_w=400.0, load_pct=30.0) for _ in range(3)
    )
    battery = Battery(
        charge_pct=100.0, runtime_s=3600.0, low=False, voltage_v=27.0, current_a=0.1, temperature_c=25.0
    )
    return Status(
        taken_s=0.0,
        source=source,
        inputs=lines,
        outputs=outputs,
        battery=battery,
        rating=Rating(input_voltage_v=230.0),
    )


def full(wall_s: float) -> Iterator[tuple[int, str, int, float, float, float, int]]:
    """Rings as they are after five years: then each new row goes to another page."""
    for width_s, count in RINGS.items():
        newest = int(wall_s) // width_s
        for quantity in measurements(frame(Source.MAINS)):
            for number in range(newest - count, newest):
                yield width_s, quantity, number * width_s, 1.0, 2.0, 3.0, width_s


def main(options: list[str]) -> int:
    """Mains, and in its middle one outage of 10 minutes in which one of two servers is told."""
    logging.disable(logging.WARNING)
    hours = 6 if "--short" in options else 24
    with tempfile.TemporaryDirectory(prefix="ridethrough-writes-", dir=os.environ.get("RIDETHROUGH_DISK")) as name:
        folder = Path(name)
        store, keeper = Counted(folder / "history.sqlite"), CountedKeeper(folder / "slots")
        clock = FakeClock()
        engine = Engine(
            boot="bench", clock=clock, history=store, keeper=keeper, memory=store.start(), remembered=None,
            previous=(), publish=_nothing, order=_nothing, power=_nothing, hurry=_nothing, curve=None,
            learned=_nothing,
        )  # fmt: skip
        config = Config(stages=TWO_STAGES, servers=TWO_SERVERS, mode="armed", driver="megatec")
        engine.turn(NewConfig(config, note=False))
        store.record_samples(list(full(clock.wall_s())))
        begin, writes = written_bytes(), store.writes + keeper.writes
        outage = (hours * 3600 - OUTAGE_S) // 2
        at_s, quiet = 0.0, [0, 0]
        while at_s < hours * 3600:
            if at_s == outage:
                quiet = [written_bytes() - begin, store.writes + keeper.writes - writes]
            source = Source.BATTERY if outage <= at_s < outage + OUTAGE_S else Source.MAINS
            look = replace(frame(source), taken_s=clock.now_s)
            engine.turn(Polled(look, "", 0, "up", frozenset(), "no"))
            clock.now_s += 0.5
            engine.turn(None)
            clock.now_s += FRAME_S - 0.5
            at_s += FRAME_S
        done, count = written_bytes() - begin, store.writes + keeper.writes - writes
    logging.disable(logging.NOTSET)
    if not done:
        print(f"   {folder} is no disk: set RIDETHROUGH_DISK to a folder on one", file=sys.stderr)
        return 1
    an_hour_kb = (quiet[0] + quiet[1] * JOURNAL_BYTES) / (outage / 3600) / 1e3
    journal_kib = JOURNAL_BYTES // 1024
    print(f"   {hours} h: {done / 1e6:.2f} MB in {count} flushes, and at most {journal_kib} KiB of journal each")
    print(f"   on mains alone: {an_hour_kb:.0f} kB an hour")
    day_mb = an_hour_kb * 24 / 1e3 + ((done - quiet[0] * 2) + (count - quiet[1] * 2) * JOURNAL_BYTES) / 1e6
    return 0 if gate("a day with one outage of 10 minutes", day_mb, LIMIT_MB, "MB") else 1
