"""NUT's own driver accepts our pretend Smart-UPS, reads the same values from it, and sends it the same orders."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agent import link
from agent.drivers import apcsmart
from agent.model import Command, Condition, Source, Status, TestResult
from agent.pretend import Unit
from tests.peer.test_nut_megatec import variables
from tests.simulators.apcsmart import ApcPty

pytestmark = pytest.mark.peer

DRIVER = Path("/lib/nut/apcsmart")
FOREVER_S = 1e7  # of runtime: the battery stands still while two programs look at it
POLLS = 16  # until our driver has asked everything once

#: NUT variable -> the same fact in our Status
SAME: dict[str, Callable[[Status], float | str | None]] = {
    "input.voltage": lambda s: s.inputs[0].voltage_v,
    "input.frequency": lambda s: s.inputs[0].frequency_hz or s.outputs[0].frequency_hz,  # of the inverter on battery
    "input.transfer.low": lambda s: s.rating.low_transfer_v,
    "input.transfer.high": lambda s: s.rating.high_transfer_v,
    "output.voltage": lambda s: s.outputs[0].voltage_v,
    "output.voltage.nominal": lambda s: s.rating.output_voltage_v,
    "output.current": lambda s: s.outputs[0].current_a,
    "ups.load": lambda s: s.outputs[0].load_pct,
    "ups.temperature": lambda s: s.temperature_c,
    "ups.test.result": lambda s: word_of_test(s),
    "battery.voltage": lambda s: s.battery.voltage_v,
    "battery.voltage.nominal": lambda s: s.rating.battery_voltage_v,
    "battery.charge": lambda s: s.battery.charge_pct,
    "battery.runtime": lambda s: s.battery.runtime_s,
    "battery.runtime.low": lambda s: s.rating.low_battery_s,
    "battery.alarm.threshold": lambda s: "0" if s.beeper_on else "N",
    "ups.model": lambda s: s.ident.model,
    "ups.serial": lambda s: s.ident.serial,
    "ups.firmware": lambda s: s.ident.firmware,
    "ups.mfr": lambda s: s.ident.manufacturer,
}
#: what NUT has and we have not: it is in no Status (settings), or reading it resets it for other programs (M, N)
OURS_HAS_NOT = {
    "input.voltage.maximum", "input.voltage.minimum", "input.transfer.reason", "ups.delay.shutdown",
    "ups.delay.start", "ups.test.interval", "ups.status",
}  # fmt: skip


def word_of_test(status: Status) -> str:
    assert status.test is not None
    return {TestResult.PASSED: "OK", TestResult.FAILED: "BT"}.get(status.test.result, "NO")


def tokens(status: Status) -> set[str]:
    """Our Status as the words of NUT's ups.status."""
    facts = {
        "OL": status.source in (Source.MAINS, Source.BOOST, Source.BUCK),
        "OB": status.source is Source.BATTERY,
        "OFF": status.source is Source.NONE,
        "LB": Condition.LOW_BATTERY in status.flags,
        "RB": Condition.BATTERY_BAD in status.flags,
        "OVER": Condition.OVERLOAD in status.flags,
        "BOOST": status.source is Source.BOOST,
        "TRIM": status.source is Source.BUCK,
        "CAL": Condition.TEST_RUNNING in status.flags and status.source is Source.BATTERY,
    }
    return {word for word, so in facts.items() if so}


def cut(ups: ApcPty) -> None:
    ups.set("mains", "off")


def empty(ups: ApcPty) -> None:
    ups.set("mains", "off")
    ups.set("charge_pct", "12")


def busy(ups: ApcPty) -> None:
    ups.set("load_pct", "107")
    ups.set("temperature_c", "41.5")
    ups.apc.overload = True


def worn(ups: ApcPty) -> None:
    ups.apc.replace_battery = True
    ups.apc.settings |= {b"l": "208", b"u": "271", b"q": "05", b"o": "240", b"k": "N"}
    ups.unit.test_result = TestResult.FAILED


def calibrating(ups: ApcPty) -> None:
    ups.apc.calibrating = True


def switched_off(ups: ApcPty) -> None:
    ups.unit.output_on = False


#: name -> what a tester does to the unit, and what ups.status must then be
SCENES: dict[str, tuple[Callable[[ApcPty], None], set[str]]] = {
    "on line": (lambda ups: None, {"OL"}),
    "on battery": (cut, {"OB"}),
    "low": (empty, {"OB", "LB"}),
    "overload": (busy, {"OL", "OVER"}),
    "worn battery, other settings": (worn, {"OL", "RB"}),
    "boost": (lambda ups: ups.set("mains_v", "200"), {"OL", "BOOST"}),
    "trim": (lambda ups: ups.set("mains_v", "258"), {"OL", "TRIM"}),
    "calibration": (calibrating, {"OB", "CAL"}),
    "off": (switched_off, {"OFF"}),
}


@pytest.fixture
def ups(tmp_path: Path) -> Iterator[ApcPty]:
    if not DRIVER.exists():
        pytest.fail("NUT is missing; install it with: ./run peer")
    with ApcPty(tmp_path / "ups", runtime_s=FOREVER_S) as it:
        yield it


def nut_environment(folder: Path) -> dict[str, str]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    (folder / "ups.conf").write_text(f"[pretend]\ndriver = apcsmart\nport = {folder}/ups\nuser = {user}\n")
    return {**os.environ, "NUT_CONFPATH": str(folder), "NUT_STATEPATH": str(folder), "NUT_ALTPIDPATH": str(folder)}


def as_nut_reads_it(folder: Path) -> dict[str, str]:
    command = [DRIVER, "-a", "pretend", "-d", "1"]
    done = subprocess.run(command, env=nut_environment(folder), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return variables(done.stdout)


def connect(ups: ApcPty) -> apcsmart.ApcSmart:
    driver = apcsmart.connect({}, link.open({"port": str(ups.path)}, time.monotonic), time.monotonic)
    assert isinstance(driver, apcsmart.ApcSmart)
    return driver


def as_we_read_it(ups: ApcPty) -> Status:
    driver = connect(ups)
    try:
        for _ in range(POLLS):
            status = driver.poll()
        return status
    finally:
        driver.close()


@pytest.mark.parametrize("scene", SCENES)
def test_nut_reads_the_same_values(ups: ApcPty, tmp_path: Path, scene: str) -> None:
    prepare, words = SCENES[scene]
    prepare(ups)
    nut, ours = as_nut_reads_it(tmp_path), as_we_read_it(ups)
    assert set(nut["ups.status"].split()) == words == tokens(ours)
    measured = {n for n in nut if n.startswith(("ups.", "battery.", "input.", "output."))}
    assert measured - set(SAME) - OURS_HAS_NOT == set(), "NUT reads something that nobody has compared"
    for name, read in SAME.items():
        value = read(ours)
        if isinstance(value, str):
            assert nut[name].strip() == value, name
        else:
            assert value is not None and abs(float(nut[name]) - value) <= 0.001, name


class Told:
    """NUT's driver, told over its own socket as upsd does; one connection, because 2.8.0 dies when one ends."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [DRIVER, "-a", "pretend", "-D"],
            env=nut_environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            wait_for((folder / "apcsmart-pretend").exists, 10)
            self._socket.connect(str(folder / "apcsmart-pretend"))
        except BaseException:
            self.stop()
            raise

    def order(self, *words: str) -> None:
        self._socket.sendall(f"INSTCMD {' '.join(words)}\n".encode())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self._socket.close()


def wait_for(so: Callable[[], object], within_s: float) -> None:
    end_s = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.05)


def goes(unit: Unit) -> bool:
    """It counts down to switch off, or it has."""
    return unit.off_at_s is not None or not unit.output_on


def test_nut_sends_the_same_bytes_for_the_same_orders_and_the_unit_obeys(ups: ApcPty, tmp_path: Path) -> None:
    orders: tuple[tuple[tuple[str, ...], Command, dict[str, float], bytes, bool], ...] = (
        (("test.battery.start",), Command.TEST_QUICK, {}, b"W", False),
        (("calibrate.start",), Command.TEST_DEEP, {}, b"D", False),
        (("calibrate.stop",), Command.TEST_STOP, {}, b"D", False),
        (("shutdown.stayoff",), Command.SHUTDOWN_STAY_OFF, {"delay_s": 20}, b"KK", True),
        (("shutdown.return", "at:2"), Command.SHUTDOWN_RETURN, {"delay_s": 20, "return_delay_s": 700}, b"@002", True),
        (("load.off",), Command.LOAD_OFF, {}, b"ZZ", True),
        (("load.on",), Command.LOAD_ON, {}, b"\x0e\x0e", False),
    )
    sent_by_nut = []
    nut = Told(tmp_path)
    try:
        for words, _, _, sent, off in orders:
            ups.received.clear()
            nut.order(*words)
            if off:  # NUT wants to be told such an order twice, 3 to 15 s apart
                time.sleep(4.0)
                nut.order(*words)
                wait_for(partial(goes, ups.unit), 10)
                ups.unit.off_at_s = None
            wait_for(partial(is_done, ups, sent), 10)
            sent_by_nut.append(said(ups, sent))
            ups.unit.stop_test()
    finally:
        nut.stop()
    driver = connect(ups)
    driver.poll()
    for (_, command, args, sent, off), by_nut in zip(orders, sent_by_nut, strict=True):
        ups.received.clear()
        driver.order(command, **args)
        assert said(ups, sent) == by_nut, command
        assert goes(ups.unit) is off
        ups.unit.off_at_s = None
        ups.unit.stop_test()
    driver.close()


def said(ups: ApcPty, letters: bytes) -> bytes:
    """What of these letters the unit was told."""
    return b"".join(c for c in ups.received if c in letters)


def is_done(ups: ApcPty, letters: bytes) -> bool:
    """It said these letters, has had its answer or waited for one, and goes on polling."""
    heard = b"".join(ups.received)
    return said(ups, letters) == letters and b"L" in heard[heard.rindex(letters[-1:]) :]
