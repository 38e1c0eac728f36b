"""`./run usb-test`: real units, simulated byte for byte, on the real USB stack of a guest; figures and a table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.simulators.hidunit import HidUnit
from tests.simulators.usbredir import UsbRedir

from .guest import Guest
from .hardship import briefly, hardships

UNITS = ("0463-ffff-eaton-protection", "051d-0002-back-ups-bx1600", "0764-0501", "051d-0002-back-ups-bk650")
WAYS = ("hidraw", "libusb")

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


def simulated(name: str, serial: str) -> UsbRedir:
    unit = HidUnit.of(name)
    unit.identity = unit.identity._replace(serial=serial)
    return UsbRedir(unit)


def twins() -> list[UsbRedir]:
    """Two equal units without serial numbers, of a maker that nobody knows: one charged 41 %, one 42 %."""
    pair = [simulated("0764-0501", "") for _ in range(2)]
    for sim, charge_pct in zip(pair, (41, 42), strict=True):
        sim.unit.identity = sim.unit.identity._replace(vendor=0x1209, product=0x0084, maker="Nobody", name="Twin")
        sim.unit.set("UPS.PowerSummary.RemainingCapacity", charge_pct)
    return pair


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
        raw, own = (guest.ask("read", section={**section, "usb_access": way}) for way in WAYS)
        told.append((raw, own))
    return told


def by_socket(guest: Guest) -> int:
    """The twins are told apart by their sockets, and without one the error lists both; broken promises."""
    there = [one for one in guest.ask("find") if one["vendor"] == 0x1209]
    broken = 0
    for way in WAYS:
        section = {"usb_vendor": "1209", "usb_access": way}
        read = [guest.ask("read", section={**section, "usb_place": one["place"]}) for one in there]
        charges = sorted(one.get("battery", {}).get("charge_pct", 0) for one in read)
        both = guest.ask("read", section=section).get("error", "")
        listed = "2 USB UPSes fit" in both and all(one["place"] in both for one in there) and "usb_place" in both
        fine = len(there) == 2 and charges == [41, 42] and listed
        broken += not fine
        places = ", ".join(one["place"] for one in there)
        print(
            f"two equal units, no serial numbers, {way}: {places}: {'told apart' if fine else f'NO: {read} {both}'}"
        )
    return broken


def rights(guest: Guest) -> int:
    """Every node of a power device belongs to group dialout, also of an unknown maker; broken promises."""
    nodes = guest.ask("nodes")
    hidraws = [node for node in nodes if "hidraw" in node]
    wrong = [node for node in hidraws if nodes[node] != [20, 0o660]]
    usb = [node for node in nodes if "/bus/usb/" in node and nodes[node] == [20, 0o660]]
    fine = not wrong and len(usb) == len(hidraws) > 0
    print(f"udev: {len(hidraws)} hidraw nodes and {len(usb)} USB devices for group dialout{'' if fine else '  NO'}")
    if not fine:
        print(nodes)
    return 0 if fine else 1


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
        strings = [who.maker, who.name, None]
        if not raw["strings"] == own["strings"] == strings:
            print(f"{who.name}: strings by number {raw['strings']}, {own['strings']}")
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


def main() -> int:
    words = argparse.ArgumentParser(prog="./run usb-test", description=__doc__)
    words.add_argument("--short", action="store_true", help="two units, what is quick, by hidraw")
    asked = words.parse_args()
    names = UNITS[:2] if asked.short else UNITS
    sims = [simulated(name, f"SER{n}") for n, name in enumerate(names)]
    others = [UsbRedir(sim.unit, plugged=False) for sim in sims]  # the same units in other sockets
    begin_s = time.monotonic()
    folder = Path(tempfile.gettempdir()) / "ridethrough-usb-test"
    folder.mkdir(exist_ok=True)
    guest = Guest(folder, [*sims, *others, *twins()])
    try:
        print(f"guest up after {time.monotonic() - begin_s:.0f} s; units: {len(guest.ask('find'))}")
        bad = rights(guest)
        before = guest.ask("drivers")
        read = ours(guest, sims)
        bad += by_socket(guest)
        if asked.short:
            bad += briefly(guest, sims[0], others[0])
        else:
            bad += hardships(guest, sims, others, WAYS)
        after = guest.ask("drivers")
        print(f"kernel drivers as found: {'yes' if before == after else f'NO: {before} {after}'}")
        bad += before != after
        for sim in sims:
            sim.mains(True)
        bad += table(guest, sims, read)  # last: NUT 2.8.0 does not give the devices back to the kernel
    finally:
        guest.close()
    print(f"{bad} not as promised; {time.monotonic() - begin_s:.0f} s in all")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
