"""`./run usb-test`: real units, simulated byte for byte, on the real USB stack of a guest; figures and a table."""

from __future__ import annotations

import argparse
import json
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import usb

from tests.simulators.hidunit import HidUnit
from tests.simulators.usbredir import UsbRedir

from . import build

UNITS = ("0463-ffff-eaton-protection", "051d-0002-back-ups-bx1600", "0764-0501", "051d-0002-back-ups-bk650")
BOOT_WITHIN_S = 300.0
DETECT_WITHIN_S, BACK_WITHIN_S = 0.3, 2.0

#: NUT's name -> where it is in our Status
COMMON = {
    "battery.charge": ("battery", "charge_pct"),
    "battery.runtime": ("battery", "runtime_s"),
    "battery.voltage": ("battery", "voltage_v"),
    "input.voltage": ("inputs", 0, "voltage_v"),
    "input.frequency": ("inputs", 0, "frequency_hz"),
    "output.voltage": ("outputs", 0, "voltage_v"),
    "output.frequency": ("outputs", 0, "frequency_hz"),
    "ups.load": ("outputs", 0, "load_pct"),
}


class Guest:
    """A running guest and its line; `heard` holds what its UPS thread said, with our time of receipt."""

    def __init__(self, folder: Path, sims: list[UsbRedir]) -> None:
        image, modules = build.kernel(folder)
        packed = build.initramfs(folder, modules, Path(usb.__file__).parent.parent)
        self.heard: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        server = socket.create_server(("127.0.0.1", 0))
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-smp", "2", "-display", "none", "-no-reboot"]
        argv += ["-kernel", str(image), "-initrd", str(packed), "-append", "console=ttyS0 quiet panic=-1"]
        argv += ["-serial", f"file:{folder}/console", "-serial", f"tcp:127.0.0.1:{server.getsockname()[1]}"]
        argv += ["-nic", "none", "-device", "qemu-xhci,p2=15,p3=1"]
        for n, sim in enumerate(sims):
            argv += ["-chardev", f"socket,id=u{n},host=127.0.0.1,port={sim.port}"]
            argv += ["-device", f"usb-redir,chardev=u{n},port={n + 1}"]
        self._qemu = subprocess.Popen(argv)
        self._peer, _ = server.accept()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._answers.get(timeout=BOOT_WITHIN_S)

    def ask(self, do: str, **args: Any) -> Any:
        self._peer.sendall(json.dumps({"do": do, **args}).encode() + b"\n")
        return self._answers.get(timeout=180.0)

    def until(self, source: str, within_s: float = 30.0) -> float:
        """Our second at which the guest's UPS thread said `source`; infinite: it did not."""
        end_s = time.monotonic() + within_s
        while True:
            try:
                at_s, said = self.heard.get(timeout=max(0.01, end_s - time.monotonic()))
            except queue.Empty:
                return float("inf")
            if said["source"] == source:
                return at_s

    def close(self) -> None:
        self._qemu.kill()
        self._qemu.wait()

    def _listen(self) -> None:
        for line in self._peer.makefile("rb"):
            said = json.loads(line)
            if "source" in said:
                self.heard.put((time.monotonic(), said))
            else:
                self._answers.put(said.get("answer"))


def simulated(name: str, serial: str) -> UsbRedir:
    unit = HidUnit.of(name)
    unit.identity = unit.identity._replace(serial=serial)
    return UsbRedir(unit)


def pick(status: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        if isinstance(status, list) and len(status) <= step:
            return None
        status = status[step]
    return status


def ours(guest: Guest, sims: list[UsbRedir]) -> list[tuple[Any, Any]]:
    """What our driver reads of each unit, by hidraw and by libusb."""
    told = []
    for sim in sims:
        section = {"usb_serial": sim.unit.identity.serial}
        raw = guest.ask("read", section=section)
        told.append((raw, guest.ask("read", section={**section, "usb_access": "libusb"})))
    return told


def table(guest: Guest, sims: list[UsbRedir], read: list[tuple[Any, Any]]) -> int:
    """Print what the three readers say of each common variable; the number of differences."""
    differ = 0
    print(f"{'unit':34} {'variable':18} {'hidraw':>10} {'libusb':>10} {'NUT':>10}")
    for sim, (raw, own) in zip(sims, read, strict=True):
        who = sim.unit.identity
        nut = guest.ask("nut", vendor=f"{who.vendor:04x}", product=f"{who.product:04x}", serial=who.serial)
        errors = [told["error"] for told in (raw, own, nut) if "error" in told]
        differ += len(errors)
        for error in errors:
            print(f"{who.name}: {error}")
        if "error" in raw or "error" in own:
            continue
        serials = {told["ident"]["serial"] for told in (raw, own)} | {nut.get("ups.serial", who.serial)}
        if serials != {who.serial}:
            print(f"{who.name}: asked for {who.serial}, got {serials}")
            differ += 1
        for name, way in COMMON.items():
            one, two, three = pick(raw, way), pick(own, way), nut.get(name)
            common = [float(value) for value in (one, two, three) if value is not None]
            if not common:
                continue
            same = (
                one == two
                and (three is None or one is not None)
                and max(common) - min(common) <= max(0.06, 0.005 * abs(common[0]))
            )
            differ += not same
            mark = "" if same else "  DIFFERS"
            print(f"{who.name[:34]:34} {name:18} {one!s:>10.10} {two!s:>10.10} {three!s:>10.10}{mark}")
    return differ


def mains(sim: UsbRedir, there: bool) -> float:
    """Fail or restore the mains; our second at which the interrupt report went out."""
    from agent import hid, usages

    with sim.lock:
        reports = set()
        descriptor = hid.parse(sim.unit.descriptor)
        for path, amount in (("ACPresent", there), ("Discharging", not there)):
            full = f"UPS.PowerSummary.PresentStatus.{path}"
            for kind in ("feature", "input"):
                field = descriptor.find(usages.path(full), kind)
                if field is not None:
                    sim.unit.set(full, float(amount), kind)
                    if kind == "input":
                        reports.add(field.report)
        at_s = time.monotonic()
        for report in reports:
            sim.push(report)
    return at_s


def hardships(guest: Guest, sim: UsbRedir) -> int:
    """Mains failure, stall, hang, unplug in an outage; the number of promises not kept."""
    broken = 0

    def told(what: str, took_s: float, limit_s: float) -> None:
        nonlocal broken
        broken += took_s > limit_s
        print(f"{what:44} {took_s:6.3f} s (at most {limit_s:g} s){'' if took_s <= limit_s else '  TOO LATE'}")

    guest.ask("watch", section={"usb_serial": sim.unit.identity.serial})
    guest.until("mains")
    for there, source in ((False, "battery"), (True, "mains")):
        at_s = mains(sim, there)
        told(f"mains {'back' if there else 'failure'}: report to Status", guest.until(source) - at_s, DETECT_WITHIN_S)
    for name in ("stalls", "hangs"):
        setattr(sim, name, True)
        guest.until("none", 40.0)
        setattr(sim, name, False)
        at_s = time.monotonic()
        told(f"unit {name}: answers again to Status", guest.until("mains", 40.0) - at_s, 12.0)
    mains(sim, False)
    guest.until("battery")
    sim.unplug()
    guest.until("none")
    time.sleep(3)
    at_s = time.monotonic()
    sim.plug()
    told("unplugged in an outage: plugged in to Status", guest.until("battery") - at_s, BACK_WITHIN_S)
    guest.ask("rest")
    return broken


def main() -> int:
    words = argparse.ArgumentParser(prog="./run usb-test", description=__doc__)
    words.add_argument("--short", action="store_true", help="two units alone")
    asked = words.parse_args()
    names = UNITS[:2] if asked.short else UNITS
    sims = [simulated(name, f"SER{n}") for n, name in enumerate(names)]
    twin = simulated(names[0], "TWIN")
    twin.unit.set("UPS.PowerSummary.RemainingCapacity", 41)
    begin_s = time.monotonic()
    folder = Path(tempfile.gettempdir()) / "ridethrough-usb-test"
    folder.mkdir(exist_ok=True)
    guest = Guest(folder, [*sims, twin])
    try:
        print(f"guest up after {time.monotonic() - begin_s:.0f} s; units: {len(guest.ask('find'))}")
        before = guest.ask("drivers")
        read = ours(guest, [*sims, twin])
        after = guest.ask("drivers")
        print(f"kernel drivers as found: {'yes' if before == after else f'NO: {before} {after}'}")
        bad = int(before != after)
        bad += hardships(guest, sims[0])
        mains(sims[0], True)
        bad += table(guest, [*sims, twin], read)  # last: NUT 2.8.0 does not give the devices back to the kernel
    finally:
        guest.close()
    print(f"{bad} not as promised; {time.monotonic() - begin_s:.0f} s in all")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
