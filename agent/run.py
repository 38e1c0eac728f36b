"""`ridethrough run`: starts core and faces, and starts either again within a second; for people and the demo.

On an installed system systemd does this with two units and two users.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from .model import ConfigError
from .process import stop_on_signals

log = logging.getLogger(__name__)

AGAIN_S = 0.5  # after a process has ended
AGAIN_LATER_S = 5.0  # when it ended at once, several times
QUICK_S = 2.0
END_WITHIN_S = 8.0  # for a process that was asked to end
LOOK_S = 0.1


class Part:
    """One process of ours: started, watched, started again."""

    def __init__(self, name: str, config: Path, parent_fd: int) -> None:
        self.name = name
        self._argv = [sys.executable, "-m", "agent", name, "--config", str(config)]
        self._parent_fd = parent_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = self._again_s = 0.0
        self._quick_ends = 0
        self._ran = False  # it has once worked for a while

    def turn(self, now_s: float) -> None:
        """Start it if it is due, notice if it has ended. ConfigError if the core cannot even start once (exit 2)."""
        if self._process is None:
            if now_s >= self._again_s:
                self._start(now_s)
            return
        code = self._process.poll()
        if code is None:
            return
        self._process = None
        if code == 2 and self.name == "core" and not self._ran:
            raise ConfigError(f"{self.name} cannot run with this configuration")
        quick = now_s - self._started_s < QUICK_S
        self._ran = self._ran or not quick
        self._quick_ends = self._quick_ends + 1 if quick else 0
        self._again_s = now_s + (AGAIN_S if self._quick_ends < 5 else AGAIN_LATER_S)
        log.warning("%s ended (%s), it is started again", self.name, code)

    def _start(self, now_s: float) -> None:
        self._started_s = now_s
        env = {**os.environ, "RIDETHROUGH_PARENT_FD": str(self._parent_fd)}
        try:
            self._process = subprocess.Popen(
                self._argv, env=env, pass_fds=(self._parent_fd,), stdin=subprocess.DEVNULL
            )
        except OSError as e:  # no memory, no process: later
            log.error("%s cannot be started: %s", self.name, e)
            self._again_s = now_s + AGAIN_LATER_S
            return
        log.info("%s started as process %d", self.name, self._process.pid)

    def reload(self) -> None:
        """Have it read its configuration again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def ask_to_end(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def end(self, within_s: float) -> None:
        """Wait until it has ended; by force if it does not."""
        if self._process is None:
            return
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            log.error("%s does not end, it is killed", self.name)
            self._process.kill()
            self._process.wait()


def supervise(config: Path, stop: threading.Event) -> int:
    """Run core and faces until `stop`; 0, or 2 if the configuration cannot be used. SIGHUP goes on to the core."""
    hangup = threading.Event()
    signal.signal(signal.SIGHUP, lambda _number, _frame: hangup.set())
    theirs, ours = os.pipe()
    parts = [Part(name, config, theirs) for name in ("core", "faces")]
    try:
        while not stop.is_set():
            for part in parts:
                part.turn(time.monotonic())
            if hangup.is_set():
                hangup.clear()
                parts[0].reload()
            stop.wait(LOOK_S)
        return 0
    except ConfigError as e:
        log.error("%s", e)
        return 2
    finally:
        for part in reversed(parts):
            part.ask_to_end()
            part.end(END_WITHIN_S)
        os.close(ours)
        os.close(theirs)


def main(config: Path) -> int:
    """Supervise until SIGTERM or SIGINT."""
    stop = threading.Event()

    stop_on_signals(stop)
    return supervise(config, stop)
