"""`ridethrough run`: starts core and faces, and starts either again within a second; for people and the demo.

One that hangs is killed: each must say all the time that it works, as to systemd. The supervisor says so to systemd.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .model import ConfigError
from .process import Pings, notify, stop_on_signals

log = logging.getLogger(__name__)

AGAIN_S = 0.5  # after a process has ended
AGAIN_LATER_S = 5.0  # when it ended at once, several times
QUICK_S = 2.0
END_WITHIN_S = 8.0  # for a process that was asked to end
LOOK_S = 0.1
SILENT_S = {"core": 20.0, "faces": 60.0}  # it hangs; a face may take long to start on a slow board
START_S = 60.0  # until it says something for the first time
AWAY_S = 5.0  # we ourselves were stopped: they have all the time again
PING_S = 5.0


class Part:
    """One process of ours: started, watched, started again."""

    def __init__(self, name: str, argv: Sequence[str], parent_fd: int) -> None:
        self.name, self._argv = name, argv
        self._parent_fd = parent_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = self._again_s = 0.0
        self._quick_ends = 0
        self._ran = False  # it has once worked for a while
        self._pings: Pings | None = None
        self._heard_s = self._looked_s = 0.0
        self._patience_s = START_S

    def turn(self, now_s: float) -> None:
        """Start it if it is due, notice if it has ended. ConfigError if the core cannot even start once (exit 2)."""
        if self._process is None:
            if now_s >= self._again_s:
                self._start(now_s)
            return
        code = self._process.poll()
        if code is None:
            self._watch(self._process, now_s)
            return
        self._process = None
        if code == 2 and self.name == "core" and not self._ran:
            raise ConfigError(f"{self.name} cannot run with this configuration")
        quick = now_s - self._started_s < QUICK_S
        self._ran = self._ran or not quick
        self._quick_ends = self._quick_ends + 1 if quick else 0
        self._again_s = now_s + (AGAIN_S if self._quick_ends < 5 else AGAIN_LATER_S)
        log.warning("%s ended (%s), it is started again", self.name, code)

    def _watch(self, process: subprocess.Popen[bytes], now_s: float) -> None:
        """Kill it if it has not said for too long that it works. SIGKILL, which also ends a stopped one."""
        if self._pings is None:
            return
        if self._pings.heard(process.pid):
            self._heard_s, self._patience_s = now_s, SILENT_S[self.name]
        if now_s - self._looked_s > AWAY_S:
            self._heard_s = now_s
        self._looked_s = now_s
        if now_s - self._heard_s >= self._patience_s:
            log.error("%s hangs: nothing heard of it for %.0f s, it is killed", self.name, now_s - self._heard_s)
            process.kill()
            self._heard_s = now_s

    def _start(self, now_s: float) -> None:
        self._started_s = self._heard_s = self._looked_s = now_s
        self._patience_s = START_S
        env = {**os.environ, "RIDETHROUGH_PARENT_FD": str(self._parent_fd)}
        env.pop("NOTIFY_SOCKET", None)  # that is ours
        try:
            if self._pings is None:
                self._pings = Pings()
            env["NOTIFY_SOCKET"] = self._pings.name
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
        if self._pings is not None:
            self._pings.close()


def supervise(config: Path, stop: threading.Event) -> int:
    """Run core and faces until `stop`; 0, or 2 if the configuration cannot be used. SIGHUP goes on to the core."""
    hangup = threading.Event()
    signal.signal(signal.SIGHUP, lambda _number, _frame: hangup.set())
    theirs, ours = os.pipe()
    agent = [sys.executable, "-m", "agent"]
    parts = [Part(name, [*agent, name, "--config", str(config)], theirs) for name in ("core", "faces")]
    try:
        ready, ping_s = False, 0.0
        while not stop.is_set():
            for part in parts:
                part.turn(time.monotonic())
            if time.monotonic() >= ping_s:
                notify("WATCHDOG=1" if ready else "READY=1")
                ready, ping_s = True, time.monotonic() + PING_S
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
