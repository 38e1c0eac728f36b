"""Runs in the guest: does what the host asks on a serial line, one JSON object a line, and answers likewise.

`serve LINE` is root and only asks others: the driver runs in children of an unprivileged user of group dialout, as
the core does: `read SECTION` prints a Status, `watch SECTION` what the thread of the UPS says until its input ends.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import hidraw
from agent.drivers import usbhid
from agent.model import Driver, LinkError
from agent.ups import Polled, Ups
from agent.usbport import Rescue

NUT = "/lib/nut/usbhid-ups"
UPS_USER, DIALOUT = 1000, 20
REMEDY = "Unplug its USB cable"


class Inside:
    """`say` sends one object to the host."""

    def __init__(self, line: Any) -> None:
        self._line, self._lock = line, threading.Lock()
        self._watches: dict[int, subprocess.Popen[bytes]] = {}

    def say(self, **what: Any) -> None:
        with self._lock:
            self._line.write(json.dumps(what, default=str).encode() + b"\n")
            self._line.flush()

    def serve(self) -> None:
        self.say(ready=True)
        while True:
            asked = json.loads(self._line.readline())
            number = asked.pop("number")
            threading.Thread(target=self._do, args=(number, asked.pop("do"), asked), daemon=True).start()

    def _do(self, number: int, what: str, args: dict[str, Any]) -> None:
        try:
            self.say(number=number, answer=getattr(self, f"do_{what}")(**args))
        except (LinkError, OSError, subprocess.SubprocessError) as e:
            self.say(number=number, answer={"error": str(e)})

    def do_find(self) -> Any:
        return [one.identity._asdict() for one in hidraw.find()]

    def do_drivers(self) -> Any:
        """Which kernel driver has which USB interface."""
        there = Path("/sys/bus/usb/devices").glob("*-*:*")
        return {one.name: (one / "driver").resolve().name for one in there if (one / "driver").exists()}

    def do_nodes(self) -> Any:
        """Group and rights of each node of a USB device and of a hidraw device."""
        paths = (*Path("/dev").glob("hidraw*"), *Path("/dev/bus/usb").glob("*/*"))
        return {str(path): [path.stat().st_gid, path.stat().st_mode & 0o777] for path in paths}

    def do_read(self, section: dict[str, str]) -> Any:
        done = subprocess.run(child("read", section), capture_output=True, text=True, timeout=90, **UNPRIVILEGED)
        return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-2000:]}

    def do_nut(self, vendor: str, product: str, serial: str) -> Any:
        argv = [NUT, "-u", "root", "-s", "unit", "-x", "port=auto", "-d", "2"]
        for name, text in (("vendorid", vendor), ("productid", product), ("serial", serial)):
            argv += ["-x", f"{name}={text}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
        pairs = [line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line]
        return {name: text for name, text in pairs if "." in name} or {"error": done.stdout + done.stderr}

    def do_watch(self, watch: int, section: dict[str, str]) -> Any:
        """Run the thread of the UPS as the core does; what it says goes to the host with the number `watch`."""
        process = subprocess.Popen(
            child("watch", section), stdin=subprocess.PIPE, stdout=subprocess.PIPE, **UNPRIVILEGED
        )
        self._watches[watch] = process
        threading.Thread(target=self._relay, args=(watch, process), daemon=True).start()

    def _relay(self, watch: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.say(watch=watch, said=json.loads(line))

    def do_rest(self, watch: int) -> Any:
        process = self._watches.pop(watch)
        assert process.stdin is not None
        process.stdin.close()
        return process.wait(30)


UNPRIVILEGED: dict[str, Any] = {"user": UPS_USER, "group": UPS_USER, "extra_groups": [DIALOUT]}


def child(what: str, section: dict[str, str]) -> list[str]:
    return [sys.executable, "-m", "tests.usbguest.inside", what, json.dumps(section)]


def connect(section: dict[str, str], meant: hidraw.Meant) -> Driver:
    link = hidraw.open(section, time.monotonic, meant=meant)
    try:
        return usbhid.connect(section, link, time.monotonic)
    except LinkError:
        link.close()
        raise


def read(section: dict[str, str], polls: int = 4) -> None:
    try:
        link = hidraw.open(section, time.monotonic)
        driver = usbhid.connect(section, link, time.monotonic)
    except LinkError as e:
        sys.exit(str(e))
    try:
        strings = [link.string(index) for index in (1, 2, 9)]
        for _ in range(polls):
            status = driver.poll()
            time.sleep(0.7)
    finally:
        driver.close()
    told = {**asdict(status), "strings": strings}
    print(json.dumps(told, default=lambda it: sorted(it) if isinstance(it, frozenset) else str(it)))


class Said(logging.Handler):
    """What the log has for people, as a line for the host."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(log=record.levelname, text=record.getMessage())


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def watch(section: dict[str, str]) -> None:
    logging.getLogger().addHandler(Said(logging.WARNING))
    stop, last = threading.Event(), [("", False)]

    def take(polled: Polled) -> None:
        source = polled.status.source.value if polled.status is not None else "none"
        now = source, REMEDY in polled.error
        if now != last[0]:
            last[0] = now
            tell(source=source, remedy=now[1], error=polled.error)

    rescue = Rescue(time.monotonic)
    ups = Ups(lambda: connect(section, rescue.meant), take, 2.0, rescue, hidraw.BACK_OFF_S)
    thread = threading.Thread(target=ups.run, args=(stop,), daemon=True)
    thread.start()
    sys.stdin.read()
    stop.set()
    ups.wake()
    thread.join(12)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        import tty

        port = open(sys.argv[2], "r+b", buffering=0)  # noqa: SIM115 (for as long as the guest lives)
        tty.setraw(port)
        Inside(port).serve()
    else:
        {"read": read, "watch": watch}[sys.argv[1]](json.loads(sys.argv[2]))
