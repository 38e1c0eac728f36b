"""Losses of power behind a volatile write cache, while events, settings and an outage are written.

After each: the machine comes up, nothing that it acknowledged is lost, an outage that was open goes on under its id,
and nobody was told to shut down but in an outage. Then the control: with a disk that lies about its flushes the same
looks must find something, else they cannot see anything.
"""

from __future__ import annotations

import json
import random
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .machine import START_S, Failed, Machine, SerialUps, free_port, one_at_a_time, prepare, settings
from .step import BuildError
from .volatile import Disk

CONTACT = "1.3.6.1.2.1.1.4.0"  # sysContact: a setting that is kept by the faces
CONTROL_CUTS = 4  # by then a lying disk must have been caught
TOLD_S = 180.0
NOTED_S = 60.0
WRITTEN_S = 5.0  # until an event is on the disk, emulated and with nothing else to write


class Server:
    """Listens for the classic shutdown, and notes whether it was told while that was right."""

    def __init__(self) -> None:
        self.told, self.wrongly, self.right = 0, 0, False
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            with sock:
                sock.settimeout(5.0)
                try:
                    line = sock.recv(1000)
                except OSError:
                    continue  # a look whether we are there
            if b"SHUTDOWN" in line:
                self.told += 1
                self.wrongly += not self.right

    def close(self) -> None:
        self._listener.close()


class Settings:
    """Sets one text after the other; knows which was acknowledged last."""

    def __init__(self, machine: Machine, first: int) -> None:
        self.tried = self.acknowledged = first
        self._machine, self._stop = machine, threading.Event()
        self.go()

    def go(self) -> None:
        """Begin, or go on after `stop`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.tried += 1
            try:
                self._machine.snmp_set(CONTACT, f"contact {self.tried}")
            except BuildError:
                return  # the power is gone; whether this one is kept is open
            self.acknowledged = self.tried

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Life:
    """One card through many losses of power."""

    def __init__(self, image: Path, slot: Path, folder: Path, seed: int, honest: bool) -> None:
        self._slot, self._folder, self._honest = slot, folder, honest
        self._chance = random.Random(seed)
        self._ups, self.server = SerialUps(), Server()
        self._card = prepare(image, folder, settings(self.server.port))
        self._contacts = (0, 0)  # acknowledged, tried
        self._events: dict[int, str] = {}  # seen on the page
        self._outage: str | None = None
        self.lost = self.kept = self.flushes = 0

    def cut(self, number: int) -> None:
        """Start, look, work, lose the power. Failed."""
        address = self._folder / "disk"
        address.unlink(missing_ok=True)
        disk = Disk(self._card, address, self._honest)
        log = self._folder / f"console-{number}.log"
        try:
            with one_at_a_time() as start:
                machine = start(f"nbd:unix:{address}", self._slot, log, self._ups)
                self._look(machine)
                writer = Settings(machine, self._contacts[1])
                self._work(machine, disk, number)
                writer.stop()
                time.sleep(WRITTEN_S)
                self._note(machine)
                writer.go()
                disk.cut_at(number % 4, self._chance.uniform(2, 10))
                writes, kept = disk.cut(self._chance)
                machine.kill()
                writer.stop()
        finally:
            disk.close()
        self._contacts = writer.acknowledged, writer.tried
        self.lost, self.kept, self.flushes = self.lost + writes - kept, self.kept + kept, self.flushes + disk.flushes
        print(f"        cut {number}: {writes} writes were not flushed, {kept} of them kept", flush=True)

    def _look(self, machine: Machine) -> None:
        """It is up, and nothing is lost."""
        word = "mains" if self._ups.mains else "battery"
        machine.until(f"the UPS is read ({word})", lambda: machine.source() == word, START_S)
        if self._contacts[1]:
            found = self._setting(machine)
            if not self._contacts[0] <= found <= self._contacts[1]:
                raise Failed(f"settings: {found} is there, {self._contacts[0]} was acknowledged")
        try:
            machine.until("the events are there", lambda: not self._gone(machine), NOTED_S)
        except Failed:
            raise Failed(f"events that were shown are gone: {', '.join(self._gone(machine))}") from None
        if errors := machine.view().get("config_errors"):
            raise Failed(f"the configuration: {errors}")
        for word in ("EXT4-fs error", "cannot be used", "damaged"):
            if word in machine.console():
                raise Failed(f"the console says {word!r}")
        if self._outage is not None:
            machine.until("the outage goes on", lambda: machine.view().get("outage") == self._outage, 120)
            machine.until("the server was told, before or now", lambda: self.server.told > 0, TOLD_S)
            self._ups.mains = True
            machine.until("the outage is over", lambda: machine.view().get("outage") is None, 900)
            self._outage, self.server.right, self.server.told = None, False, 0
        if self.server.wrongly:
            raise Failed("a server was told to shut down without an outage")

    @staticmethod
    def _setting(machine: Machine) -> int:
        """The number of the setting that is there."""
        there = [""]

        def read() -> bool:
            there[0] = machine.snmp_get(CONTACT)
            return True

        machine.until("the setting is read", read, START_S)
        return int(there[0].rpartition(" ")[2] or 0)

    def _work(self, machine: Machine, disk: Disk, number: int) -> None:
        """Every other time: an outage begins, and the power goes somewhere in it."""
        if number % 2:
            return
        self._ups.mains, self.server.right = False, True
        machine.until("an outage", lambda: machine.view().get("outage") is not None, 120)
        self._outage = str(machine.view()["outage"])
        time.sleep(self._chance.uniform(0, 20))  # before and after its stage is latched, which comes at 15 s

    def _note(self, machine: Machine) -> None:
        def noted() -> bool:
            self._events = self._seen(machine, machine.view())
            return True

        machine.until("the events are read", noted, NOTED_S)  # emulated, the core may keep the page waiting

    def _gone(self, machine: Machine) -> list[str]:
        there = self._seen(machine)
        return [f"{number} {name}" for number, name in self._events.items() if there.get(number) != name]

    @staticmethod
    def _seen(machine: Machine, view: Mapping[str, Any] | None = None) -> dict[int, str]:
        """The events on the page; with `view` those alone that are on the disk by then: it shows them before."""
        rows, more = list[dict[str, Any]](), True
        while more:
            page = json.loads(machine.get(f"/api/events?limit=500&since={rows[-1]['id'] if rows else 0}"))
            rows, more = rows + page["events"], page["more"]
        if view is not None:
            rows = [r for r in rows if r["boot"] != view["boot"] or r["mono_s"] < view["now_s"] - WRITTEN_S]
        return {int(row["id"]): str(row["name"]) for row in rows}

    def close(self) -> None:
        self.server.close()


def main(image: Path, slot: Path, cuts: int, seed: int) -> None:
    """All of it. Failed with what was lost, or when the control found nothing."""
    with tempfile.TemporaryDirectory(prefix="ridethrough-cuts-") as name:
        life = Life(image, slot, Path(name), seed, honest=True)
        try:
            for number in range(1, cuts + 1):
                life.cut(number)
            life.cut(0)
        finally:
            life.close()
    print(
        f"{cuts} losses of power: {life.lost} writes lost or torn, {life.kept} kept, {life.flushes} flushes; all well"
    )
    with tempfile.TemporaryDirectory(prefix="ridethrough-lies-") as name:
        life = Life(image, slot, Path(name), seed, honest=False)
        try:
            for number in range(1, CONTROL_CUTS + 1):
                life.cut(number)
        except Failed as e:
            print(f"the control, a disk that lies about its flushes, is found out: {e}")
            return
        finally:
            life.close()
    raise Failed(f"the control: {CONTROL_CUTS} losses of power behind a lying disk, and nothing was found")
