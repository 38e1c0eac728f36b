"""`./run image-test`: the image starts in a virtual machine, and what it promises is looked at from outside.

A serial UPS and a USB HID UPS as the second one, both simulated, the other way round after a loss of power; a server
of each that listens with our own `rccmd`. Then updates into the other slot (image/trial.py), and losses of power
(image/powercut.py).
"""

from __future__ import annotations

import argparse
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from agent import backup, provision, sealed, seconds, spare
from tests.simulators.hidunit import HidUnit
from tests.simulators.usbredir import UsbRedir

from . import layout, powercut, trial
from .machine import (
    CODE,
    SECOND,
    SECOND_CODE,
    SERIAL,
    START_S,
    WRITER,
    Failed,
    Machine,
    Pi3,
    SerialUps,
    built,
    fat,
    free_port,
    on_card,
    one_at_a_time,
    prepare,
    put,
    second_settings,
)
from .machine import settings as machine_settings
from .powercut import CONTACT
from .step import BuildError, run

ROOT = Path(__file__).parent.parent
HID = "0463-ffff-eaton-9px-2200grt-l"  # the unit whose bytes are on the USB line
USB = 'driver = "usbhid"'
TEXTS, SET_THERE = "faces/snmp/texts.json", "set on the adapter"
LATE_S = 20 * 60.0  # OnBootSec of ridethrough-late.timer
OUTPUT_SOURCE = "1.3.6.1.2.1.33.1.4.1.0"  # upsOutputSource of RFC 1628: 3 normal, 5 battery


class Listener:
    """`rccmd listen` as a server runs it: a shutdown writes a line into `told`."""

    def __init__(self, folder: Path, name: str = "first") -> None:
        self.port, self.told = free_port(), folder / f"told-{name}"
        ini = folder / f"rccmd-{name}.ini"
        ini.write_text(
            f"[listen]\nbind = 127.0.0.1:{self.port}\nallow = 127.0.0.1\n"
            f"on_shutdown = /bin/sh -c 'echo shutdown >> {self.told}'\n"
        )
        words = [sys.executable, "-m", "agent.rccmd", "listen", "--config", str(ini)]
        self.process = subprocess.Popen(words, cwd=ROOT)

    def heard(self) -> bool:
        return self.told.exists()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def first_start(machine: Machine, ups: SerialUps, server: Listener) -> None:
    """It comes up, takes its settings over, finds the UPS, says so to everybody, and shuts the server down."""
    machine.until("the set-up code is on the serial line", lambda: CODE in machine.console(), START_S)
    machine.until("the page answers", lambda: bool(machine.get("/login")), START_S)
    machine.until("the UPS is read through the kernel's USB serial driver", lambda: ups.asked > 3, START_S)
    machine.until("the page shows the UPS on mains", lambda: machine.source() == "mains", START_S)
    machine.until("SNMP answers (upsOutputSource: normal)", lambda: machine.snmp_get(OUTPUT_SOURCE) == "3", START_S)
    if server.heard():
        raise Failed("the server was told to shut down on mains")
    ups.mains = False
    machine.until("the page shows the UPS on battery", lambda: machine.source() == "battery", 60)
    machine.until("SNMP: on battery", lambda: machine.snmp_get(OUTPUT_SOURCE) == "5", 60)
    machine.until("the server's own command runs (rccmd listen)", server.heard, 120)
    ups.mains = True
    machine.until("the page shows the UPS on mains again", lambda: machine.source() == "mains", 60)


def second_ups(machine: Machine, unit: UsbRedir, server: Listener) -> None:
    """It has a page, a core and a server of its own: what happens to one UPS is nothing to the other."""
    page = machine.second
    machine.until("the second UPS is read, on its own page", lambda: machine.source(page) == "mains", START_S)
    if machine.view(page).get("name") != SECOND or machine.view().get("name") != "image-test":
        raise Failed(f"the second UPS's page is of {machine.view(page).get('name')!r}")
    if server.heard():
        raise Failed("the second UPS's server was told to shut down in the outage of the first")
    unit.mains(False)
    machine.until("the page of the second UPS shows it on battery", lambda: machine.source(page) == "battery", 60)
    machine.until("its own server's command runs (rccmd listen)", server.heard, 120)
    if machine.source() != "mains":
        raise Failed(f"in the outage of the second UPS the first is said to be on {machine.source()}")
    unit.mains(True)
    machine.until("the second UPS is on mains again", lambda: machine.source(page) == "mains", 60)


def second_start(machine: Machine, unit: UsbRedir) -> None:
    """After a loss of power everything is there again; the new settings name the other UPS, of each."""
    machine.until("after a loss of power the page answers again", lambda: bool(machine.get("/login")), START_S)
    found = machine.view()
    if found.get("name") != "image-test":
        raise Failed(f"after a loss of power it is called {found.get('name')!r}")
    machine.until("the kernel binds the USB HID UPS and it is read", lambda: machine.source() == "mains", START_S)
    page = machine.second
    machine.until("the second UPS is the one on the serial line", lambda: machine.source(page) == "mains", START_S)
    unit.mains(False)
    machine.until("the page shows it on battery", lambda: machine.source() == "battery", 60)
    if machine.source(page) != "mains":
        raise Failed(f"in the outage of the first UPS the second is said to be on {machine.source(page)}")


def look(image: Path, slot: Path, folder: Path) -> None:
    """Both starts. Failed, BuildError, OSError."""
    unit, server, ups = UsbRedir(HidUnit.of(HID)), Listener(folder), SerialUps()
    its_own, second = Listener(folder, "second"), seconds.file_of(SECOND)
    redir = ["-chardev", f"socket,id=hid,host=127.0.0.1,port={unit.port}", "-device", "usb-redir,chardev=hid"]
    log = folder / "console.log"
    try:
        with one_at_a_time() as start:
            card = prepare(image, folder, machine_settings(server.port))
            put(card, second_settings(its_own.port, USB), second)
            machine = start(str(card), slot, log, ups, redir)
            first_start(machine, ups, server)
            second_ups(machine, unit, its_own)
            machine.kill()
            report = on_card(card, "ridethrough-report.txt")
            if report.count("taken over.") != 2 or CODE not in report or SECOND_CODE not in report:
                raise Failed(f"the report on the card says: {report}")
            left = on_card(card, "ridethrough.toml") + on_card(card, second)
            if any(secret in left for secret in (CODE, WRITER, SECOND_CODE)) or "image-test" not in left:
                raise Failed("the secrets are still on the card, or the rest is gone")
            print("        the report is on the card, the secrets are not")
            grown(card)
            put(card, machine_settings(server.port, USB))
            put(card, second_settings(its_own.port, SERIAL), second)
            machine = start(str(card), slot, log, ups, redir)
            second_start(machine, unit)
    finally:
        server.close()
        its_own.close()
        unit.close()


def grown(card: Path) -> None:
    """The data partition reaches the card's end, and so does its file system. Failed."""
    with card.open("rb") as file:
        entry = file.read(512)[446 + 3 * 16 :][:16]
        start, sectors = struct.unpack_from("<II", entry, 8)
        file.seek(start * 512 + 1024)
        block = file.read(64)  # ext4: blocks at 4, logarithm of their size in KiB at 24, 0xEF53 at 56
    blocks, scale, magic = struct.unpack_from("<I", block, 4)[0], block[24], block[56:58]
    free = card.stat().st_size // 512 - start - sectors
    if free > 65536 or magic != b"\x53\xef" or sectors * 512 - blocks * (1024 << scale) > 65536:
        raise Failed(f"the data partition: {sectors} sectors, {blocks} blocks, {free} sectors behind it")
    print(f"        the data partition is grown to {sectors // 2048} MiB, its file system too")


def without_data(image: Path, slot: Path, folder: Path) -> None:
    """A data partition full of rubbish after days of work: what was set on the adapter and every secret are still
    there, it protects, says what is wrong, and makes a new one when asked to, with the same settings."""
    server, ups = Listener(folder), SerialUps()
    try:
        with one_at_a_time() as start:
            card = prepare(image, folder, machine_settings(server.port))
            machine = start(str(card), slot, folder / "console.log", ups)
            machine.until("the UPS is read", lambda: machine.source() == "mains", START_S)
            machine.until("something is set there", lambda: machine.snmp_set(CONTACT, SET_THERE) is None, 60)
            kept = "what was set is in the spare place of the card"
            machine.until(kept, lambda: spare_has(card, SET_THERE), 2 * START_S)
            machine.kill()
            if any(secret in on_card(card, "ridethrough.toml") for secret in (CODE, WRITER)):
                raise Failed("the secrets are still on the boot partition: this shows nothing")
            spoil(card)
            machine = start(str(card), slot, folder / "console.log", ups)
            machine.until("without a data partition the UPS is read", lambda: machine.source() == "mains", START_S)
            machine.until("the page says how to get a new one", lambda: provision.RECREATE in errors(machine), 60)
            machine.until("a secret and what was set are there", lambda: machine.snmp_get(CONTACT) == SET_THERE, 60)
            ups.mains = False
            machine.until("and the server's own command runs (rccmd listen)", server.heard, 180)
            ups.mains = True
            machine.kill()
            if provision.RECREATE not in on_card(card, provision.REPORT):
                raise Failed("the report does not speak of the data partition")
            (folder / provision.RECREATE).touch()
            run(["mcopy", "-o", "-i", fat(card), folder / provision.RECREATE, f"::/{provision.RECREATE}"])
            machine = start(str(card), slot, folder / "console.log", ups)
            machine.until("with a new data partition the UPS is read", lambda: machine.source() == "mains", START_S)
            machine.until("with the old settings", lambda: machine.snmp_get(CONTACT) == SET_THERE, 60)
            if said := errors(machine):
                raise Failed(f"with a new data partition it still says: {said}")
            machine.kill()
            if provision.RECREATE in run(["mdir", "-b", "-i", fat(card), "::/"]).decode():
                raise Failed("the wish for a new data partition is still on the card")
            grown(card)
    finally:
        server.close()


def spoil(card: Path) -> None:
    """Rubbish over the whole data partition: ext4 has copies of its superblock all over it."""
    rubbish = random.Random(1).randbytes(layout.MIB)
    with card.open("r+b") as file:
        start, sectors = struct.unpack_from("<II", file.read(512)[446 + 3 * 16 :], 8)
        file.seek(start * 512)
        for _ in range(sectors * 512 // layout.MIB):
            file.write(rubbish)


def spare_has(card: Path, text: str) -> bool:
    """Do the spare settings on the card hold it as a setting of SNMP? OSError."""
    area = sealed.on(card)
    data = sealed.read(area) if area else None
    return data is not None and text in backup.unpack(data, spare.MORE).files.get(TEXTS, b"").decode()


def hung(image: Path, slot: Path, folder: Path) -> None:
    """A trial that nothing ever looks at, for the card selects the other slot: it ends in its 20th minute."""
    ups, words = SerialUps(), layout.cmdline("a").strip()
    for name in ("core", "confirm"):
        words += f" systemd.mask=ridethrough-{name}.service"
    with one_at_a_time() as start:
        card = prepare(image, folder, machine_settings(free_port()))
        (folder / "select.txt").write_text(layout.selector("b"))
        run(["mcopy", "-o", "-i", fat(card), folder / "select.txt", "::/select.txt"])
        machine = start(str(card), slot, folder / "console.log", ups, words=words)
        machine.process.wait(LATE_S + START_S)
        if machine.process.returncode or machine.age_s < LATE_S:
            raise Failed(f"it ended after {machine.age_s:.0f} s ({machine.process.returncode})")
        print(f"{machine.age_s:6.1f} s  a trial that hangs has ended itself")


def pi3(image: Path, slot: Path, folder: Path) -> None:
    """A first start on the board that QEMU knows. Failed, BuildError, OSError."""
    ups, server = SerialUps(), Listener(folder)
    try:
        with one_at_a_time(Pi3) as start:
            card = prepare(image, folder, machine_settings(server.port))
            first_start(start(str(card), slot, folder / "console.log", ups), ups, server)
    finally:
        server.close()


def errors(machine: Machine) -> str:
    """What the page says of the configuration. OSError, ValueError."""
    found = machine.view().get("config_errors")
    return "\n".join(map(str, found)) if isinstance(found, list) else ""


def main() -> int:
    """0; 1 if a promise was not kept, with the end of the console."""
    parser = argparse.ArgumentParser(prog="./run image-test", description="Start the image and look at it.")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/image", metavar="DIR", help="of ./run image")
    parser.add_argument("--cuts", type=int, default=10, metavar="N", help="losses of power afterwards (10)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what the disk loses in them (1)")
    parser.add_argument(
        "--only",
        choices=("look", "data", "slots", "hung", "cuts", "pi3"),
        help="this part alone; hung and pi3 are in no other",
    )
    args = parser.parse_args()
    try:
        image, slot = built(args.cache)
        if args.only in (None, "look"):
            with tempfile.TemporaryDirectory(prefix="ridethrough-image-") as name:
                look(image, slot, Path(name))
        if args.only in (None, "data"):
            with tempfile.TemporaryDirectory(prefix="ridethrough-data-") as name:
                without_data(image, slot, Path(name))
        if args.only in (None, "slots"):
            with tempfile.TemporaryDirectory(prefix="ridethrough-slots-") as name:
                trial.main(image, args.cache, Path(name))
        if args.only == "hung":
            with tempfile.TemporaryDirectory(prefix="ridethrough-hung-") as name:
                hung(image, slot, Path(name))
        if args.only == "pi3":
            with tempfile.TemporaryDirectory(prefix="ridethrough-pi3-") as name:
                pi3(image, slot, Path(name))
        if args.only in (None, "cuts"):
            powercut.main(image, slot, args.cuts, args.seed)
    except (Failed, BuildError, OSError, subprocess.TimeoutExpired) as e:
        print(f"./run image-test: {e}", file=sys.stderr)
        return 1
    print("the image does what it promises")
    return 0


if __name__ == "__main__":
    sys.exit(main())
