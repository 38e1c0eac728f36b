"""A UPS of the Q1 family on a pseudo terminal, in any dialect, with everything that can go wrong on its line.

    python -m tests.simulators.megatec --link PATH [--dialect NAME] [--timeline FILE] [--speed N] [--paced]
                                       [--runtime-s N]

PATH becomes a symbolic link to the terminal. One line a command on standard input:

    set KEY VALUE            see agent/pretend.py SETTINGS (mains off, battery_low 1, charge_pct 50, test on, ...)
    fault NAME [SECONDS]     one of FAULTS, for good or for so long; `fault none` ends it
    unplug | replug | quit   the terminal vanishes; comes back as another one under the same PATH
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agent.pretend import Scene, Step, Unit, parse_timeline, setting
from tests.simulators import dialects

#: what a fault does to an answer: bytes with their CR -> what goes over the line
FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda answer: answer,
    "silence": lambda answer: b"",
    "garbage": lambda answer: (
        b"\x00\xff(\x80" + answer[1:20].translate(bytes.maketrans(b"0123456789", b"?!@#$%&*~^")) + b"\r"
    ),
    "endless": lambda answer: b"U" * 700,
    "truncated": lambda answer: answer[:20],  # and no CR
    "short": lambda answer: answer[:20] + b"\r",
    "long": lambda answer: answer[:-1] + b" 00 11\r",
    "stale-tail": lambda answer: answer + b"0001001\r(000.0",
    "nul-flags": lambda answer: answer[:38] + answer[38:].replace(b"0", b"\0"),
    "dashes": lambda answer: answer[:33] + b"--.-" + answer[37:] if answer[:1] == b"(" else answer,
    "slow": lambda answer: answer,  # 10 ms a byte: an answer in many pieces
    "crawl": lambda answer: answer,  # 0.2 s a byte: never whole within 3 s
    "echo": lambda answer: answer,  # of the command instead of an answer
    "per-cell": lambda answer: answer,  # battery voltage of one cell, as on-line units give it
}
GAP_S = {"slow": 0.01, "crawl": 0.2}
PACED_GAP_S = 10 / 2400
COMMAND_LIMIT_BYTES = 256


class MegatecPty:
    """The unit, its terminal and a thread that answers: `with MegatecPty(path) as ups: ups.set("mains", "off")`."""

    def __init__(
        self,
        path: Path | str,
        *,
        steps: tuple[Step, ...] = (),
        speed: float = 1.0,
        runtime_s: float = 1200.0,
        paced: bool = False,
        dialect: str = "megatec",
    ) -> None:
        """`speed`: how fast the unit's own time runs (battery, tests, delays, timeline); `paced`: 2400 baud."""
        self.path = Path(path)
        self._dialect = dialect
        self._began_s, self._speed, self._paced = time.monotonic(), speed, paced
        self.unit = Unit(0.0, runtime_s=runtime_s)
        self._scene = Scene(self.unit, steps, 0.0)
        self._lock = threading.Lock()
        self._fault, self._fault_ends_s = "none", float("inf")
        self._master = self._slave = -1
        self._retired: tuple[int, ...] = ()
        self._gone = threading.Event()
        self._inbox = bytearray()
        self._outbox: deque[tuple[float, bytes]] = deque()  # due, bytes
        self._stop = threading.Event()
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.received: deque[bytes] = deque(maxlen=1000)  # commands

    def __enter__(self) -> MegatecPty:
        self.replug()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        os.write(self._wake_w, b"x")
        self._thread.join()
        self.unplug()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def set(self, key: str, value: str) -> None:
        """A setting of the unit. ValueError says what is allowed."""
        with self._lock:
            self._scene.play(self._now())
            self.unit.set(key, value)

    def fault(self, name: str, for_s: float = float("inf")) -> None:
        """From now on (for so long) the line has this fault. ValueError if there is none of that name."""
        if name not in FAULTS:
            raise ValueError(f"no such fault: {name!r}; there are: {', '.join(FAULTS)}")
        with self._lock:
            self._fault, self._fault_ends_s = name, time.monotonic() + for_s
            self._outbox.clear()
            self._inbox.clear()

    def unplug(self) -> None:
        """The terminal vanishes, as a USB adapter does."""
        with self._lock:
            if self._master < 0:
                return
            self.path.unlink(missing_ok=True)
            self._retired = (self._slave, self._master)
            self._master = self._slave = -1
            self._inbox.clear()
            self._outbox.clear()
            self._gone.clear()
        if self._thread.is_alive():
            os.write(self._wake_w, b"x")
            self._gone.wait(5.0)
        else:
            self._close_retired()

    def _close_retired(self) -> None:
        """In the thread, which may just be waiting for these."""
        for fd in self._retired:
            os.close(fd)
        self._retired = ()
        self._gone.set()

    def replug(self) -> None:
        """A new terminal appears under the same path."""
        with self._lock:
            if self._master >= 0:
                return
            self._master, self._slave = os.openpty()  # ours stays open, or the last closer would end the terminal
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(os.ttyname(self._slave))
            temporary.replace(self.path)
        os.write(self._wake_w, b"x")

    def answer(self, command: bytes) -> bytes:
        """What the unit says to a command (without CR), with the line's fault; b"": nothing."""
        self._scene.play(self._now())
        if time.monotonic() >= self._fault_ends_s:
            self._fault, self._fault_ends_s = "none", float("inf")
        if self._scene.line == "silence":
            return b""
        if self._scene.line == "garbage":
            return self._scene.data
        if self._fault == "echo":
            return command + b"\r"
        if self._scene.line == "reply" and command in (b"Q1", b"D"):
            said = self._scene.data + b"\r"
        elif self._fault == "per-cell":
            said = dialects.megatec(self.unit, command, per_cell=True)
        else:
            said = dialects.SPEAKERS[self._dialect](self.unit, command)
        return FAULTS[self._fault](said) if said else b""

    def _now(self) -> float:
        return (time.monotonic() - self._began_s) * self._speed

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._close_retired()
                master = self._master
                due_s = self._outbox[0][0] if self._outbox else None
            left_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            ready, _, _ = select.select([self._wake_r] if master < 0 else [self._wake_r, master], [], [], left_s)
            if self._wake_r in ready:
                os.read(self._wake_r, 100)
                continue
            with self._lock:
                if self._master < 0 or self._master != master:
                    continue
                if master in ready:
                    self._read()
                self._write()

    def _read(self) -> None:
        try:
            self._inbox += os.read(self._master, 4096)
        except OSError:
            return
        while (end := self._inbox.find(b"\r")) >= 0:
            command = bytes(self._inbox[:end])
            del self._inbox[: end + 1]
            if command:  # a lone CR asks nothing
                self.received.append(command)
                self._queue(self.answer(command))
        if len(self._inbox) > COMMAND_LIMIT_BYTES:
            self._inbox.clear()

    def _queue(self, answer: bytes) -> None:
        gap_s = GAP_S.get(self._fault, PACED_GAP_S if self._paced else 0.0)
        if not gap_s:
            self._outbox.append((0.0, answer))
            return
        now_s = time.monotonic()
        self._outbox.extend((now_s + n * gap_s, answer[n : n + 1]) for n in range(len(answer)))

    def _write(self) -> None:
        while self._outbox and self._outbox[0][0] <= time.monotonic():
            _, data = self._outbox.popleft()
            try:
                os.write(self._master, data)
            except OSError:
                return  # nobody reads: the bytes are lost, as on a wire


def control(ups: MegatecPty, line: str) -> bool:
    """Do what one line of standard input says; False: quit. ValueError says what is wrong."""
    match line.split():
        case []:
            pass
        case ["set", key, value]:
            setting(key, value)
            ups.set(key, value)
        case ["fault", name]:
            ups.fault(name)
        case ["fault", name, seconds]:
            ups.fault(name, float(seconds))
        case ["unplug"]:
            ups.unplug()
        case ["replug"]:
            ups.replug()
        case ["quit"]:
            return False
        case _:
            raise ValueError("must be: set KEY VALUE, fault NAME [SECONDS], unplug, replug, quit")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="a Megatec UPS on a pseudo terminal")
    parser.add_argument("--link", required=True, help="symbolic link to make")
    parser.add_argument("--dialect", default="megatec", choices=dialects.SPEAKERS, help="what it speaks")
    parser.add_argument("--timeline", type=Path, help="timeline (.seq) to play")
    parser.add_argument("--speed", type=float, default=1.0, help="how fast the unit's time runs")
    parser.add_argument("--runtime-s", type=float, default=1200.0, help="runtime of the full battery")
    parser.add_argument("--paced", action="store_true", help="answer no faster than 2400 baud")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    steps = parse_timeline(options.timeline.read_text(), str(options.timeline)) if options.timeline else ()
    with MegatecPty(
        options.link,
        steps=steps,
        speed=options.speed,
        runtime_s=options.runtime_s,
        paced=options.paced,
        dialect=options.dialect,
    ) as ups:
        print(f"ready {options.link}", flush=True)
        for line in sys.stdin:
            try:
                if not control(ups, line):
                    return
                print("ok", flush=True)
            except ValueError as e:
                print(f"error: {e}", flush=True)
        threading.Event().wait()  # standard input is closed: go on until killed


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
