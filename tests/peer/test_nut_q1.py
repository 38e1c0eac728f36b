"""NUT's own drivers read the same as ours from a pretend UPS in every dialect of the Q1 family that they know."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import link
from agent.drivers import megatec
from agent.model import Command, Condition, Status
from agent.q1.dialects import DIALECTS
from agent.q1.orders import encode
from tests.peer.test_nut_megatec import SAME, SCENES, TOLERANCE, Upsd, prepare, tokens, variables, wait_for
from tests.simulators.megatec import MegatecPty

pytestmark = pytest.mark.peer

#: (what our simulator speaks, NUT's driver, its protocol)
PEERS = [
    ("megatec", "nutdrv_qx", "q1"),
    ("megatec", "blazer_ser", "megatec"),
    ("megatec-old", "nutdrv_qx", "megatec/old"),
    ("megatec-old", "blazer_ser", "megatec/old"),
    ("mecer", "nutdrv_qx", "mecer"),
    ("mustek", "nutdrv_qx", "mustek"),
    ("mustek", "blazer_ser", "mustek"),
    ("zinto", "nutdrv_qx", "zinto"),
    ("zinto", "blazer_ser", "zinto"),
    ("bestups", "nutdrv_qx", "bestups"),
    ("bestups", "bestups", ""),
    ("voltronic", "nutdrv_qx", "voltronic"),
    ("voltronic-00", "nutdrv_qx", "voltronic"),
    ("voltronic-03", "nutdrv_qx", "voltronic"),
    ("voltronic-10", "nutdrv_qx", "voltronic"),
    ("voltronic-qs", "nutdrv_qx", "voltronic-qs"),
    ("qs-hex-p", "nutdrv_qx", "voltronic-qs-hex"),
    ("qs-hex-t", "nutdrv_qx", "voltronic-qs-hex"),
    ("masterguard", "masterguard", ""),
    ("hunnox", "nutdrv_qx", "hunnox"),
    ("ablerex", "nutdrv_qx", "ablerex"),  # its masterguard asks nothing in 2.8.0: it gives up before
]
Read = Callable[[Status], float | str | None]
#: NUT variable -> the same fact in our Status, besides those of Q1
MORE: dict[str, Read] = {
    "output.frequency": lambda s: s.outputs[0].frequency_hz,
    "output.current": lambda s: s.outputs[0].current_a,
    "output.voltage.nominal": lambda s: s.rating.output_voltage_v,
    "output.current.nominal": lambda s: s.rating.output_current_a,
    "output.frequency.nominal": lambda s: s.rating.output_frequency_hz,
    "battery.runtime": lambda s: s.battery.runtime_s,
    "device.serial": lambda s: s.ident.serial,
    "ups.power.nominal": lambda s: s.rating.apparent_va,
    **{f"outlet.{n + 1}.status": lambda s, n=n: "on" if s.outlets[n].on else "off" for n in range(2)},
    **{f"input.L{n + 1}-N.voltage": lambda s, n=n: s.inputs[n].voltage_v for n in range(3)},
    **{f"input.L{n + 1}.current": lambda s, n=n: s.inputs[n].current_a for n in range(3)},
    **{f"output.L{n + 1}-N.voltage": lambda s, n=n: s.outputs[n].voltage_v for n in range(3)},
    **{f"output.L{n + 1}.current": lambda s, n=n: s.outputs[n].current_a for n in range(3)},
    **{f"output.L{n + 1}.power.percent": lambda s, n=n: s.outputs[n].load_pct for n in range(3)},
    **{f"output.bypass.L{n + 1}-N.voltage": lambda s, n=n: s.bypass[n].voltage_v for n in range(3)},
}  # fmt: skip
#: what NUT says and a Status does not hold
NOT_OURS = (
    "driver.", "device.type", "ups.delay.", "ups.type", "ups.firmware.aux", "ups.alarm", "ups.mfr",
    "ups.model", "battery.voltage.high", "battery.voltage.low", "battery.packs", "battery.protection",
    "battery.energysave", "ups.start.", "input.phases", "output.phases", "output.powerfactor", "output.power.",
    "input.transfer.", "input.L1-L", "input.L2-L", "output.L1-L", "output.L2-L", "output.bypass.L1-L",
    "output.bypass.L2-L", "outlet.0.switchable", "outlet.1.switchable", "outlet.2.switchable",
)  # fmt: skip
#: (NUT's driver, what is spoken, variable) -> why it differs, and what must hold instead
EXPLAINED: dict[tuple[str, str, str], tuple[str, Callable[[str, Status], bool]]] = {
    ("blazer_ser", "*", "ups.status"): (
        "it makes an alarm of a shutdown that counts down",
        lambda said, s: set(said.split()) - {"ALARM"} == tokens(s) and Condition.SHUTDOWN_PENDING in s.flags,
    ),
    ("nutdrv_qx", "voltronic", "ups.beeper.status"): (
        "NUT takes the lasting setting from QFLAG, we the bit that says that the beeper is muted now",
        lambda said, s: said == "enabled" and s.beeper_on is False,
    ),
    ("nutdrv_qx", "ablerex", "battery.charge"): (
        "each guesses from the voltage: it between 1.6 and 2.275 V a cell of its own (-DD says so), we as for all",
        lambda said, s: "charge_pct" in s.battery.estimated,
    ),
    ("nutdrv_qx", "hunnox", "battery.charge"): (
        "over a serial line it does not ask BL, and guesses from the voltage; we take the unit's word",
        lambda said, s: s.battery.charge_pct is not None and "charge_pct" not in s.battery.estimated,
    ),
    ("bestups", "bestups", "device.model"): (
        "it adds the power",
        lambda said, s: said == f"{s.ident.model} {s.rating.apparent_va:.0f}",
    ),
    ("bestups", "bestups", "battery.voltage.nominal"): (
        "it has a table by model; the unit says none, and no more do we",
        lambda said, s: s.rating.battery_voltage_v is None,
    ),
    ("masterguard", "masterguard", "output.current"): (
        "it takes the load in per cent for a current; nutdrv_qx_masterguard.c says load, as we do",
        lambda said, s: float(said) == s.outputs[0].load_pct,
    ),
    ("masterguard", "masterguard", "battery.voltage"): (
        "it gives the volts of one cell",
        lambda said, s: abs(float(said) * 12 - (s.battery.voltage_v or 0)) < 0.01,
    ),
    ("masterguard", "masterguard", "battery.runtime"): (
        "it gives minutes and seconds with a dot between, as they come",
        lambda said, s: int(said[:3]) * 60 + int(said[4:]) == s.battery.runtime_s,
    ),
    ("masterguard", "masterguard", "device.model"): (
        "it keeps the blanks",
        lambda said, s: " ".join(said.split()) == s.ident.model,
    ),
    ("masterguard", "masterguard", "device.mfr"): (
        "in capitals",
        lambda said, s: said == (s.ident.manufacturer or "").upper(),
    ),
}
OLD_SCENES = ("on line", "on battery", "low")  # of drivers that are slow, and know no other word of ups.status


def as_we_read_it(speaker: str, path: Path) -> Status:
    """By the dialect that the engine finds, or that must be named."""
    dialect = speaker if speaker in DIALECTS and not DIALECTS[speaker].auto else "auto"
    driver = megatec.connect({"dialect": dialect}, link.open({"port": str(path)}, time.monotonic), time.monotonic)
    try:
        driver.poll()
        return driver.poll()  # a unit of three phases is known as such after the first
    finally:
        driver.close()


def as_nut_reads_it(folder: Path, driver: str, protocol: str) -> dict[str, str]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    lines = ["[pretend]", f"driver = {driver}", f"port = {folder}/ups", f"user = {user}"]
    lines += [f"protocol = {protocol}"] if protocol else []
    (folder / "ups.conf").write_text("\n".join((*lines, "")))
    environment = {
        **os.environ, "NUT_CONFPATH": str(folder), "NUT_STATEPATH": str(folder), "NUT_ALTPIDPATH": str(folder),
    }  # fmt: skip
    program = Path("/lib/nut") / driver
    if not program.exists():
        pytest.fail("NUT is missing; install it with: ./run peer")
    command = [str(program), "-a", "pretend", "-d", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return variables(done.stdout)


#: an escaped status byte (00001101 is sent as 28 00) is a broken frame to nutdrv_qx_voltronic-qs-hex.c
NUT_CANNOT = {("voltronic-qs-hex", "in test")}
CASES = [
    (*peer, scene)
    for peer in PEERS
    for scene in (SCENES if peer[2] else OLD_SCENES)
    if (peer[2], scene) not in NUT_CANNOT
]


@pytest.mark.parametrize("speaker", ["qs-hex-p", "qs-hex-t"])
def test_we_read_an_escaped_status_byte_which_nut_cannot(tmp_path: Path, speaker: str) -> None:
    with MegatecPty(tmp_path / "ups", dialect=speaker) as ups:
        prepare(ups, SCENES["in test"][0])
        assert tokens(as_we_read_it(speaker, tmp_path / "ups")) == SCENES["in test"][1]


@pytest.mark.parametrize(("speaker", "driver", "protocol", "scene"), CASES)
def test_nut_reads_the_same(tmp_path: Path, speaker: str, driver: str, protocol: str, scene: str) -> None:
    with MegatecPty(tmp_path / "ups", runtime_s=1e9, dialect=speaker) as ups:
        prepare(ups, SCENES[scene][0])
        nut, ours = as_nut_reads_it(tmp_path, driver, protocol), as_we_read_it(speaker, tmp_path / "ups")
    wrong = [
        f"{name}: NUT says {said}"
        for name, said in nut.items()
        if not name.startswith(NOT_OURS) and not agrees(driver, speaker, name, said, ours)
    ]
    assert not wrong, (wrong, ours)


def agrees(driver: str, speaker: str, name: str, said: str, ours: Status) -> bool:
    """Whether it is the same fact, or differs for the reason that is written down."""
    if name == "ups.status":
        same = set(said.split()) == tokens(ours)
    else:
        value = (SAME | MORE)[name](ours)  # KeyError: NUT says something that is compared with nothing
        same = said == value if isinstance(value, str) else _near(name, said, value)
    family = speaker.partition("-")[0]
    for key in ((driver, family, name), (driver, "*", name)):
        if not same and key in EXPLAINED:
            return EXPLAINED[key][1](said, ours)
    return same


def _near(name: str, said: str, value: float | None) -> bool:
    return value is not None and abs(float(said) - value) <= TOLERANCE.get(name, 0.001)


#: what NUT is told -> the same order of ours
ORDERS: dict[tuple[str, ...], tuple[Command, dict[str, float]]] = {
    ("test.battery.start.quick",): (Command.TEST_QUICK, {}),
    ("test.battery.stop",): (Command.TEST_STOP, {}),
    ("test.battery.start.deep",): (Command.TEST_DEEP, {}),
    ("test.battery.start", "300"): (Command.TEST_MINUTES, {"minutes": 5}),
    ("shutdown.return",): (Command.SHUTDOWN_RETURN, {"delay_s": 30, "return_delay_s": 180}),
    ("shutdown.stop",): (Command.SHUTDOWN_STOP, {}),
    ("shutdown.stayoff",): (Command.SHUTDOWN_STAY_OFF, {"delay_s": 30}),
    ("load.off",): (Command.LOAD_OFF, {}),
    ("load.on",): (Command.LOAD_ON, {}),
    ("outlet.1.load.off",): (Command.OUTLET_OFF, {"number": 1}),
    ("outlet.1.load.on",): (Command.OUTLET_ON, {"number": 1}),
    ("bypass.start",): (Command.ECO_ON, {}),  # NUT's name for what its own table calls ECO mode
    ("bypass.stop",): (Command.ECO_OFF, {}),
}


@pytest.mark.parametrize(
    ("speaker", "protocol"),
    [
        ("mecer", "mecer"),
        ("mustek", "mustek"),
        ("zinto", "zinto"),
        ("megatec-old", "megatec/old"),
        ("bestups", "bestups"),
        ("voltronic", "voltronic"),
        ("voltronic-qs", "voltronic-qs"),
        ("qs-hex-p", "voltronic-qs-hex"),
        ("qs-hex-t", "voltronic-qs-hex"),
    ],
)
def test_nut_sends_the_same_bytes_for_the_same_orders(tmp_path: Path, speaker: str, protocol: str) -> None:
    dialect = DIALECTS[speaker]
    with MegatecPty(tmp_path / "ups", runtime_s=1e9, dialect=speaker) as ups:
        upsd = Upsd(tmp_path, protocol)
        try:
            wait_for(upsd.status, {"OL"}, 15)
            for words, (command, args) in ORDERS.items():
                if command in dialect.orders.commands:
                    wanted = encode(command, args, dialect.orders).rstrip(b"\r")
                    upsd.command(*words)
                    wait_for(lambda wanted=wanted: "sent" if wanted in ups.received else str(words), {"sent"}, 5)
        finally:
            upsd.stop()
