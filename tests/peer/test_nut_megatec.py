"""NUT's own driver accepts our pretend Megatec UPS, and reads the same values from it as our driver does."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import link
from agent.drivers import megatec
from agent.model import Command, Condition, Source, Status
from agent.q1 import meaning, orders
from agent.q1.megatec import Q1
from tests.simulators.megatec import MegatecPty

pytestmark = pytest.mark.peer

DRIVER, UPSD = Path("/lib/nut/nutdrv_qx"), Path("/lib/nut/upsd")  # /sbin/upsd looks at /etc/nut first
FOREVER_S = 1e9  # of runtime: the battery stands still while two programs look at it

#: NUT variable -> the same fact in our Status
SAME: dict[str, Callable[[Status], float | str | None]] = {
    "input.voltage": lambda s: s.inputs[0].voltage_v,
    "input.voltage.fault": lambda s: s.inputs[0].fault_voltage_v,
    "input.frequency": lambda s: s.inputs[0].frequency_hz,
    "output.voltage": lambda s: s.outputs[0].voltage_v,
    "ups.load": lambda s: s.outputs[0].load_pct,
    "battery.voltage": lambda s: s.battery.voltage_v,
    "battery.charge": lambda s: s.battery.charge_pct,
    "ups.temperature": lambda s: s.temperature_c,
    "ups.beeper.status": lambda s: "enabled" if s.beeper_on else "disabled",
    "input.voltage.nominal": lambda s: s.rating.input_voltage_v,
    "input.frequency.nominal": lambda s: s.rating.input_frequency_hz,
    "input.current.nominal": lambda s: s.rating.output_current_a,
    "battery.voltage.nominal": lambda s: s.rating.battery_voltage_v,
    "device.mfr": lambda s: s.ident.manufacturer,
    "device.model": lambda s: s.ident.model,
    "ups.firmware": lambda s: s.ident.firmware,
}
TOLERANCE = {"battery.charge": 0.51}  # NUT gives whole per cents


def tokens(status: Status) -> set[str]:
    """Our Status as the words of NUT's ups.status."""
    facts = {
        "OL": status.source is not Source.BATTERY,
        "OB": status.source is Source.BATTERY,
        "LB": Condition.LOW_BATTERY in status.flags,
        "BYPASS": Condition.ON_BYPASS in status.flags,
        "BOOST": status.source is Source.BOOST,
        "TRIM": status.source is Source.BUCK,
        "CAL": Condition.TEST_RUNNING in status.flags,
        "FSD": Condition.SHUTDOWN_PENDING in status.flags,
        "ALARM": Condition.GENERAL_FAULT in status.flags,
    }
    return {word for word, so in facts.items() if so}


#: name -> what a tester does to the unit, and what ups.status must then be
SCENES: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "on line": ((), {"OL"}),
    "on battery": (("mains off", "charge_pct 70"), {"OB"}),
    "low": (("mains off", "charge_pct 12"), {"OB", "LB"}),
    "low on mains": (("battery_low 1",), {"OL", "LB"}),
    "in test": (("test on",), {"OL", "CAL"}),
    "boost": (("mains_v 200",), {"OL", "BOOST"}),
    "buck": (("mains_v 258",), {"OL", "TRIM"}),
    "bypass": (("bypass on",), {"OL", "BYPASS"}),
    "beeper off": (("beeper off", "load_pct 97", "temperature_c 41.5"), {"OL"}),
    "shutting down": (("order S10R0003",), {"OL", "FSD"}),
}


@pytest.fixture
def ups(tmp_path: Path) -> Iterator[MegatecPty]:
    if not DRIVER.exists():
        pytest.fail("NUT is missing; install it with: ./run peer")
    with MegatecPty(tmp_path / "ups", runtime_s=FOREVER_S) as it:
        yield it


def nut_environment(folder: Path, *settings: str, protocol: str = "megatec") -> dict[str, str]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    lines = ("driver = nutdrv_qx", f"port = {folder}/ups", f"protocol = {protocol}", f"user = {user}", *settings)
    (folder / "ups.conf").write_text("\n".join(("[pretend]", *lines, "")))
    return {**os.environ, "NUT_CONFPATH": str(folder), "NUT_STATEPATH": str(folder), "NUT_ALTPIDPATH": str(folder)}


def variables(text: str) -> dict[str, str]:
    """`name: value` lines as a dictionary."""
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and " " not in line.split(": ")[0])


def as_nut_reads_it(folder: Path, *settings: str) -> dict[str, str]:
    """One dump of NUT's driver."""
    environment = nut_environment(folder, *settings)
    command = [DRIVER, "-a", "pretend", "-d", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return variables(done.stdout)


def as_we_read_it(ups: MegatecPty) -> Status:
    driver = megatec.connect({}, link.open({"port": str(ups.path)}, time.monotonic), time.monotonic)
    try:
        return driver.poll()
    finally:
        driver.close()


def as_a_second_reader(ups: MegatecPty) -> Status:
    """What our driver makes of the unit's answer while NUT holds the line."""
    return meaning.look(Q1.parse(ups.answer(b"Q1").rstrip(b"\r")), taken_s=0.0)


def prepare(ups: MegatecPty, settings: tuple[str, ...]) -> None:
    for line in settings:
        key, value = line.split()
        if key == "order":
            assert ups.answer(value.encode()) in (b"", b"(ACK\r")
        else:
            ups.set(key, value)


@pytest.mark.parametrize("scene", SCENES)
def test_nut_reads_the_same_values(ups: MegatecPty, tmp_path: Path, scene: str) -> None:
    settings, words = SCENES[scene]
    prepare(ups, settings)
    nut, ours = as_nut_reads_it(tmp_path), as_we_read_it(ups)
    assert set(nut["ups.status"].split()) == words == tokens(ours)
    for name, read in SAME.items():
        value = read(ours)
        if isinstance(value, str):
            assert nut[name] == value, name
        else:
            assert value is not None and abs(float(nut[name]) - value) <= TOLERANCE.get(name, 0.001), name


def test_nut_told_of_the_cells_estimates_the_same_charge_from_volts_per_cell(ups: MegatecPty, tmp_path: Path) -> None:
    ups.fault("per-cell")
    for charge_pct in ("96", "50", "21"):
        ups.set("charge_pct", charge_pct)
        nut, ours = as_nut_reads_it(tmp_path, "override.battery.packs = 12"), as_we_read_it(ups)
        assert ours.battery.charge_pct is not None
        assert abs(float(nut["battery.charge"]) - ours.battery.charge_pct) <= 0.51


def test_nut_reads_a_stale_tail_and_a_missing_temperature_as_we_do(ups: MegatecPty, tmp_path: Path) -> None:
    ups.fault("stale-tail")
    assert as_nut_reads_it(tmp_path)["ups.status"] == "OL"
    ups.fault("dashes")
    assert "ups.temperature" not in as_nut_reads_it(tmp_path) and as_we_read_it(ups).temperature_c is None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(read: Callable[[], str], wanted: set[str], within_s: float) -> None:
    end_s = time.monotonic() + within_s
    while set((seen := read()).split()) != wanted:
        assert time.monotonic() < end_s, f"ups.status is {seen!r}, not {wanted}"
        time.sleep(0.1)


class Upsd:
    """NUT's driver and server on the pretend unit, and its two clients."""

    def __init__(self, folder: Path, protocol: str = "megatec") -> None:
        self.environment = nut_environment(folder, "pollinterval = 1", "pollfreq = 1", protocol=protocol)
        self.address = f"pretend@127.0.0.1:{free_port()}"
        (folder / "upsd.conf").write_text(f"LISTEN 127.0.0.1 {self.address.rpartition(':')[2]}\n")
        (folder / "upsd.users").write_text("[admin]\npassword = tried-out\ninstcmds = ALL\n")
        for name in ("upsd.conf", "upsd.users"):
            (folder / name).chmod(0o640)
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.processes = [
            subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in ([DRIVER, "-a", "pretend", "-D"], [UPSD, "-D", "-u", user])
        ]

    def status(self) -> str:
        return self._run("upsc", self.address, "ups.status")

    def command(self, *words: str) -> None:
        self._run("upscmd", "-u", "admin", "-p", "tried-out", self.address, *words)

    def _run(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=10).stdout

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(10)


@pytest.fixture
def upsd(ups: MegatecPty, tmp_path: Path) -> Iterator[Upsd]:
    it = Upsd(tmp_path)
    try:
        wait_for(it.status, {"OL"}, 15)
        yield it
    finally:
        it.stop()


def test_upsd_and_upsc_follow_the_pretend_unit_through_an_outage(ups: MegatecPty, upsd: Upsd) -> None:
    ups.set("mains", "off")
    wait_for(upsd.status, {"OB"}, 10)
    ups.set("battery_low", "1")
    wait_for(upsd.status, {"OB", "LB"}, 10)
    ups.set("battery_low", "0")
    ups.set("mains", "on")
    wait_for(upsd.status, {"OL"}, 10)
    ups.set("fault", "on")
    assert tokens(as_a_second_reader(ups)) == {"OL", "ALARM"}
    wait_for(upsd.status, {"OL", "ALARM"}, 10)


def test_nut_sends_the_same_bytes_for_the_same_orders_and_the_unit_obeys(ups: MegatecPty, upsd: Upsd) -> None:
    table: tuple[tuple[tuple[str, ...], Command, dict[str, float], set[str]], ...] = (
        (("test.battery.start", "300"), Command.TEST_MINUTES, {"minutes": 5}, {"OL", "CAL"}),
        (("test.battery.stop",), Command.TEST_STOP, {}, {"OL"}),
        (("test.battery.start.quick",), Command.TEST_QUICK, {}, {"OL", "CAL"}),
        (("test.battery.stop",), Command.TEST_STOP, {}, {"OL"}),
        (("test.battery.start.deep",), Command.TEST_DEEP, {}, {"OL", "CAL"}),
        (("test.battery.stop",), Command.TEST_STOP, {}, {"OL"}),
        (("shutdown.return",), Command.SHUTDOWN_RETURN, {"delay_s": 30, "return_delay_s": 180}, {"OL", "FSD"}),
        (("shutdown.stop",), Command.SHUTDOWN_STOP, {}, {"OL"}),
        (("shutdown.stayoff",), Command.SHUTDOWN_STAY_OFF, {"delay_s": 30}, {"OL", "FSD"}),
        (("shutdown.stop",), Command.SHUTDOWN_STOP, {}, {"OL"}),
    )
    for words, command, args, status in table:
        ups.received.clear()
        upsd.command(*words)
        wait_for(lambda: upsd.status().replace("ALARM", ""), status, 10)  # NUT makes an alarm of a shutdown
        sent = [c for c in ups.received if c not in (b"Q1", b"F", b"I")]
        assert sent == [orders.encode(command, args).rstrip(b"\r")], words
    upsd.command("beeper.toggle")
    wait_for(lambda: "on" if ups.unit.beeper else "off", {"off"}, 5)  # upsd says OK before its driver has written it
