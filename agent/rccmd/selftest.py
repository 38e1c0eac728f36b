"""Proves the way of the shutdown command, without a shutdown: a harmless command, started the same way, each day.

`state_dir/selftest.json` keeps the last result: {"result": "ok" or "failed", "wall_s": when, "detail": how it ended}.
"""

from __future__ import annotations

import json
import time
from typing import Callable

from . import disk
from .journal import Journal
from .programs import Job, Programs, ended
from .settings import Settings

EVERY_S = 86400.0
LIMIT_S = 60.0  # it has failed if it takes longer
SELFTEST = "SELFTEST"  # as RCCMD_VERB
LOOK_EVERY_S = 0.2


class Selftest:
    """Runs at the first tick, then daily, and when somebody wishes. Seconds are monotonic and handed in."""

    def __init__(
        self, settings: Settings, journal: Journal, programs: Programs, wall: Callable[[], float] = time.time
    ) -> None:
        self._argv, self._journal, self._programs, self._wall = settings.selftest, journal, programs, wall
        self._path = settings.state_file("selftest.json")
        self._job: Job | None = None
        self._began_s = 0.0
        self._next_s = 0.0
        self.wished = False
        self._wall_s: float | None = None
        self.result, self.detail = ("never" if self._argv else "off"), ""
        self._read()

    def facts(self) -> dict[str, str]:
        """For a reply: selftest=ok|failed|never|off, selftest_age_s unless never or off."""
        facts = {"selftest": self.result}
        if self._wall_s is not None:
            facts["selftest_age_s"] = f"{max(0.0, self._wall() - self._wall_s):.0f}"
        return facts

    def tick(self, now_s: float, *, may_start: bool) -> bool:
        """Start it if it is time, and see whether it has ended; True: there is a new result."""
        if self._argv and self._job is None and may_start and (self.wished or now_s >= self._next_s):
            self.wished, self._next_s, self._began_s = False, now_s + EVERY_S, now_s
            self._job = self._programs.begin(self._argv, SELFTEST, "-", harmless=True)
            if self._job is None:
                return self._over("failed", "it did not start")
        if self._job is None:
            return False
        if (code := self._job.poll()) is not None:
            self._job = None
            return self._over("ok" if code == 0 else "failed", ended(code))
        if now_s - self._began_s >= LIMIT_S:
            self._job.kill()
            self._job = None
            return self._over("failed", f"it took more than {LIMIT_S:.0f} s")
        return False

    def due_s(self, now_s: float, *, may_start: bool) -> float | None:
        """When `tick` has something to do."""
        if self._job is not None:
            return now_s + LOOK_EVERY_S
        if not self._argv or not may_start:
            return None
        return now_s if self.wished else self._next_s

    def _over(self, result: str, detail: str) -> bool:
        self.result, self.detail, self._wall_s = result, detail, self._wall()
        self._journal.line("-", SELFTEST, f"{result}, {detail}")
        if self._path is not None:
            try:
                row = {"result": result, "wall_s": round(self._wall_s, 3), "detail": detail}
                disk.write(self._path, json.dumps(row) + "\n")
            except OSError as e:
                self._journal.line("-", SELFTEST, f"the result cannot be kept: {self._path}: {e.strerror}")
        return True

    def _read(self) -> None:
        if self._path is None or not self._argv:
            return
        try:
            row = json.loads(disk.read(self._path) or "{}")
            if row.get("result") in ("ok", "failed"):
                self._wall_s = float(row["wall_s"])
                self.result, self.detail = row["result"], str(row.get("detail", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # torn: as good as never; it runs at once anyway
