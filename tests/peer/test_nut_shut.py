"""NUT's own driver for SHUT accepts our pretend unit, reads the same values from it, and so do we after it."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import hid, link
from agent.drivers import shut
from agent.model import LinkError, Source, Status
from tests.peer.test_nut_megatec import variables
from tests.simulators.hidunit import HidUnit
from tests.simulators.shut import ShutPty

pytestmark = pytest.mark.peer

DRIVER = Path("/lib/nut/mge-shut")
PAGE, EMPTY_PAGE = b"\x05\x84", b"\x04"  # Usage Page items (HID 1.11, 6.2.2.7)
UNITS = ("0463-ffff-eaton-9px-2200grt-l", "0463-ffff-eaton-protection-station")
#: NUT variable -> the same fact in our Status
SAME: dict[str, Callable[[Status], float | str | None]] = {
    "battery.charge": lambda s: s.battery.charge_pct,
    "battery.runtime": lambda s: s.battery.runtime_s,
    "battery.voltage": lambda s: s.battery.voltage_v,
    "input.voltage": lambda s: s.inputs[0].voltage_v if s.inputs else None,
    "input.frequency": lambda s: s.inputs[0].frequency_hz if s.inputs else None,
    "output.voltage": lambda s: s.outputs[0].voltage_v if s.outputs else None,
    "output.frequency": lambda s: s.outputs[0].frequency_hz if s.outputs else None,
    "output.current": lambda s: s.outputs[0].current_a if s.outputs else None,
    "ups.load": lambda s: s.outputs[0].load_pct if s.outputs else None,
    "ups.serial": lambda s: s.ident.serial,
}


def as_nut_reads_it(folder: Path, ups: ShutPty) -> dict[str, str]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    (folder / "ups.conf").write_text(f"[pretend]\ndriver = mge-shut\nport = {ups.path}\nuser = {user}\n")
    there = str(folder)
    environment = {**os.environ, "NUT_CONFPATH": there, "NUT_STATEPATH": there, "NUT_ALTPIDPATH": there}
    command = [DRIVER, "-a", "pretend", "-d", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return variables(done.stdout)


def as_we_read_it(ups: ShutPty) -> Status:
    line = link.open({"port": str(ups.path), "cable_power": "reverse"}, time.monotonic)
    assert shut.probe(line) == 1.0
    driver = shut.connect({}, line, time.monotonic)
    try:
        for _ in range(4):
            try:
                status = driver.poll()
            except LinkError as e:
                assert "asked what it is" in str(e)
        return status
    finally:
        driver.close()


def whole_unit(name: str) -> HidUnit:
    """A unit that NUT 2.8.0 can read. It takes the low byte of the description's length for the high one too
    (drivers/libshut.c overwrites it before it reads it), so the length is made such, by items that change nothing.
    And it asks again for ever for a report that is refused, so none is."""
    unit = HidUnit.of(name)
    length = -(-len(unit.descriptor) // 257) * 257
    missing = length - len(unit.descriptor)
    unit.descriptor += PAGE * (missing // 2) + EMPTY_PAGE * (missing % 2)
    for (kind, report), size in hid.parse(unit.descriptor).lengths.items():
        unit.reports.setdefault((kind, report), bytes([report]).ljust(size, b"\0"))
    return unit


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("mains", [True, False])
def test_nut_reads_the_same_values(tmp_path: Path, name: str, mains: bool) -> None:
    with ShutPty(tmp_path / "ups", whole_unit(name)) as ups:
        ups.mains(mains)
        nut = as_nut_reads_it(tmp_path, ups)
        ours = as_we_read_it(ups)
    assert ours.source is (Source.MAINS if mains else Source.BATTERY)
    assert ("OL" if mains else "OB") in nut["ups.status"].split()
    compared = []
    for variable, read in SAME.items():
        value = read(ours)
        if value is None or variable not in nut:
            assert variable not in nut, f"{variable}: NUT has {nut[variable]}"
            continue
        compared.append(variable)
        if isinstance(value, str):
            assert nut[variable] == value, variable
        else:
            assert float(nut[variable]) == pytest.approx(value, abs=0.06, rel=0.005), variable
    assert {"battery.charge", "battery.runtime", "ups.serial"} <= set(compared)
