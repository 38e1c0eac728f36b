"""Remembers a shutdown that waits out its grace delay, so that a listener that crashed and is back goes on with it.

The file: the boot's id and the monotonic second at which the command starts, then a line for each sender that asked
and the number of its outage ("-": classic). It counts in the same boot only, and not much later than its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from . import disk

LATE_S = 60.0  # a listener that was away for longer than that after the time starts nothing
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Waits(NamedTuple):
    """A waiting shutdown: monotonic seconds, and sender -> number of its outage."""

    starts_s: float
    asking: dict[str, str]


class Waiting:
    """The file; `path` None: nothing is kept. A disk that fails stops nothing: then a crash would forget."""

    def __init__(self, path: str | None, boot_id_file: str = BOOT_ID) -> None:
        try:
            self._boot = disk.read(boot_id_file).strip()
        except OSError:
            self._boot = ""
        self._path = path if self._boot else None  # without it nobody knows what a monotonic second means

    def keep(self, starts_s: float, asking: Mapping[str, str]) -> None:
        """It waits."""
        self._write(f"{self._boot} {starts_s:.3f}\n" + "".join(f"{who} {n or '-'}\n" for who, n in asking.items()))

    def clear(self) -> None:
        """It has started, or was cancelled."""
        self._write("")

    def read(self, now_s: float) -> Waits | None:
        """What waited when the listener ended, if it still counts."""
        if self._path is None:
            return None
        try:
            first, *rows = disk.read(self._path).splitlines()
            boot, starts = first.split()
            asking = {who: "" if number == "-" else number for who, number in (row.split() for row in rows)}
            starts_s = float(starts)
        except (OSError, ValueError):
            return None  # none, or torn
        good = boot == self._boot and asking and starts_s > now_s - LATE_S
        return Waits(starts_s, asking) if good else None

    def _write(self, text: str) -> None:
        if self._path is None:
            return
        try:
            disk.write(self._path, text)
        except OSError:
            return  # the disk's failure is said where the numbers are kept
