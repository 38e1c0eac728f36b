"""Runs in the guest: does what the host asks on a serial line, one JSON object a line, and answers likewise."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

from agent import hidraw
from agent.drivers import usbhid
from agent.model import Driver, LinkError
from agent.ups import Polled, Ups

NUT = "/lib/nut/usbhid-ups"


class Inside:
    """`say` sends one object to the host."""

    def __init__(self, line: Any) -> None:
        self._line, self._lock = line, threading.Lock()
        self._watch: tuple[Ups, threading.Event, threading.Thread] | None = None

    def say(self, **what: Any) -> None:
        with self._lock:
            self._line.write(json.dumps(what, default=str).encode() + b"\n")
            self._line.flush()

    def serve(self) -> None:
        self.say(ready=True)
        while True:
            asked = json.loads(self._line.readline())
            try:
                self.say(answer=getattr(self, f"do_{asked.pop('do')}")(**asked))
            except (LinkError, OSError, subprocess.SubprocessError) as e:
                self.say(answer={"error": str(e)})

    def do_find(self) -> Any:
        return [one.identity for one in hidraw.find()]

    def do_drivers(self) -> Any:
        """Which kernel driver has which USB interface."""
        from pathlib import Path

        there = Path("/sys/bus/usb/devices").glob("*-*:*")
        return {one.name: (one / "driver").resolve().name for one in there if (one / "driver").exists()}

    def do_read(self, section: dict[str, str], polls: int = 4) -> Any:
        driver = connect(section)
        try:
            for _ in range(polls):
                status = driver.poll()
                time.sleep(0.7)
            return asdict(status)
        finally:
            driver.close()

    def do_nut(self, vendor: str, product: str, serial: str) -> Any:
        argv = [NUT, "-u", "root", "-s", "unit", "-x", "port=auto", "-d", "2"]
        for name, text in (("vendorid", vendor), ("productid", product), ("serial", serial)):
            argv += ["-x", f"{name}={text}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
        pairs = [line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line]
        return {name: text for name, text in pairs if "." in name} or {"error": done.stdout + done.stderr}

    def do_watch(self, section: dict[str, str]) -> Any:
        """Run the thread of the UPS as the core does; every change of what it knows is said at once."""
        stop, last = threading.Event(), [""]

        def take(polled: Polled) -> None:
            now = polled.status.source.value if polled.status is not None else "none"
            if now != last[0]:
                last[0] = now
                self.say(source=now, error=polled.error)

        ups = Ups(lambda: connect(section), take, 2.0, hidraw.BACK_OFF_S)
        thread = threading.Thread(target=ups.run, args=(stop,), daemon=True)
        thread.start()
        self._watch = ups, stop, thread

    def do_rest(self) -> Any:
        assert self._watch is not None
        ups, stop, thread = self._watch
        stop.set()
        ups.wake()
        thread.join(12)


def connect(section: dict[str, str]) -> Driver:
    return usbhid.connect(section, hidraw.open(section, time.monotonic), time.monotonic)


if __name__ == "__main__":
    import tty

    port = open(sys.argv[1], "r+b", buffering=0)  # noqa: SIM115 (for as long as the guest lives)
    tty.setraw(port)
    Inside(port).serve()
