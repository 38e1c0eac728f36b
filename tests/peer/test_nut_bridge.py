"""NUT's driver reads the same as ours through the USB bridges that it knows, from one pretend device.

Its libusb is ours (usbshim.c): every transfer that it makes arrives at the simulator that our driver asks too.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from pathlib import Path

import pytest

from agent import bridge
from agent.drivers import megatec
from agent.model import Command, Driver, Status
from tests.peer.test_nut_megatec import DRIVER, SCENES, prepare, tokens, variables
from tests.peer.test_nut_q1 import NOT_OURS, agrees
from tests.peer.world import World, until
from tests.simulators import bridge as simulated
from tests.simulators.megatec import MegatecPty

pytestmark = pytest.mark.peer

#: (bridge, what speaks behind it, NUT's protocol). A string bridge carries Q1, F and I alone: Megatec.
PEERS = [
    ("cypress", "megatec", "megatec"),
    ("cypress", "mecer", "mecer"),
    ("cypress", "mustek", "mustek"),
    ("cypress", "voltronic", "voltronic"),
    ("cypress", "voltronic-qs", "voltronic-qs"),
    ("krauler", "megatec", "megatec"),
    ("fabula", "megatec", "megatec"),
    ("hunnox", "megatec", "megatec"),
]
#: bridges that we do not take by ourselves but NUT 2.8.0 knows: they are read by name, and the table stays as it is
UNTESTED = [
    (kind, "megatec", "megatec")
    for kind in ("phoenix", "phoenixtec", "ippon", "sgs", "fuji", "armac", "snr", "ablerex")
]
OF_USB = ("ups.productid", "ups.vendorid")
FEW = ("on line", "on battery", "low", "boost")
ORDER = ("-k",)
WITHIN_S = 90


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "libusb-1.0.so.0"
    source = Path(__file__).parent / "usbshim.c"
    subprocess.run(["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library


def run_nut(folder: Path, shim: Path, it: simulated.Bridge, protocol: str, *options: str) -> str:
    """What NUT's driver prints; it must end well, but for an order: 2.8.0 takes the silence of some bridges after one
    for a failure."""
    if not DRIVER.exists():
        pytest.fail("NUT is missing; install it with: ./run peer")
    user = pwd.getpwuid(os.geteuid()).pw_name
    ids = f"{it.idVendor:04x}", f"{it.idProduct:04x}"
    lines = ["[pretend]", "driver = nutdrv_qx", "port = auto", f"user = {user}", f"protocol = {protocol}"]
    lines += [f"subdriver = {it.kind}", f"vendorid = {ids[0]}", f"productid = {ids[1]}", "noscanlangid"]
    lines += ["langid_fix = 0x0409"] if it.kind in simulated.OVERSIZE_HANGS else []
    (folder / "ups.conf").write_text("\n".join((*lines, "")))
    environment = {
        **os.environ, "NUT_CONFPATH": str(folder), "NUT_STATEPATH": str(folder), "NUT_ALTPIDPATH": str(folder),
        "LD_PRELOAD": str(shim), "BRIDGE_SOCKET": str(folder / "usb"), "BRIDGE_IDS": ":".join(ids),
    }  # fmt: skip
    with simulated.Served(it, folder / "usb") as served:
        command = [str(DRIVER), "-a", "pretend", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WITHIN_S)
    assert not served.errors, served.errors
    assert done.returncode == 0 or options == ORDER, done.stderr
    return done.stdout


def connected(it: simulated.Bridge) -> Driver:
    section = {} if it.kind in [one.name for one in bridge.BRIDGES if one.auto] else {"bridge": it.kind}
    link = bridge.open(section, time.monotonic, lambda: [it], simulated.util(it))
    return megatec.connect({}, link, time.monotonic)


def as_we_read_it(it: simulated.Bridge) -> Status:
    driver = connected(it)
    try:
        driver.poll()
        return driver.poll()
    finally:
        driver.close()


@pytest.mark.parametrize(
    ("kind", "speaker", "protocol", "scene"),
    [(*peer, scene) for peer in PEERS for scene in (SCENES if peer[0] == "cypress" else FEW)]
    + [(*peer, "on battery") for peer in UNTESTED],
)
def test_nut_reads_the_same_through_a_bridge(
    tmp_path: Path, shim: Path, kind: str, speaker: str, protocol: str, scene: str
) -> None:
    ups = MegatecPty(tmp_path / "ups", runtime_s=1e9, dialect=speaker)  # without its terminal: the unit alone
    it = simulated.Bridge(kind, ups.answer)
    prepare(ups, SCENES[scene][0])
    nut, ours = variables(run_nut(tmp_path, shim, it, protocol, "-d", "1")), as_we_read_it(it)
    assert set(nut["ups.status"].split()) == SCENES[scene][1] == tokens(ours)
    compared = {name: said for name, said in nut.items() if not name.startswith((*NOT_OURS, *OF_USB))}
    assert len(compared) >= 9, compared
    wrong = [
        f"{name}: NUT says {said}"
        for name, said in compared.items()
        if not agrees("nutdrv_qx", speaker, name, said, ours)
    ]
    assert not wrong, (wrong, ours)


@pytest.mark.parametrize("kind", ["cypress", "fabula", "hunnox", "phoenix", "sgs", "fuji"])
def test_nut_sends_the_same_shutdown_through_a_bridge(tmp_path: Path, shim: Path, kind: str) -> None:
    """Its delays are 30 s and 3 minutes as well, where nothing else is configured."""
    sent, numbers = [], []
    for who in ("NUT", "ours"):
        it = simulated.Bridge(kind, MegatecPty(tmp_path / "ups", runtime_s=1e9).answer)
        if who == "NUT":
            run_nut(tmp_path, shim, it, "megatec", *ORDER)
        else:
            driver = connected(it)
            driver.poll()
            driver.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=180)
            driver.close()
        sent.append({command for command in it.sent if command.startswith(b"S")})
        numbers.append({number for number, _ in it.strings if number & 0xF == 8})
    assert sent[0] == sent[1] and len(sent[0]) == 1
    assert numbers[0] == numbers[1] == ({0x18} if kind in ("fabula", "hunnox") else set())


def test_the_whole_agent_reads_a_bridge_through_pyusb_and_finds_it_again(
    tmp_path: Path, shim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stands in for anything but libusb itself: the device is pulled out, put in again, and given back."""
    unit = MegatecPty(tmp_path / "unit", runtime_s=1e9, dialect="voltronic-qs")
    it = simulated.Bridge("cypress", unit.answer)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(shim.parent))
    monkeypatch.setenv("BRIDGE_SOCKET", str(tmp_path / "usb"))
    monkeypatch.setenv("BRIDGE_IDS", "0665:5161")
    with (
        simulated.Served(it, tmp_path / "usb") as served,
        World(tmp_path, ups='driver = "megatec"\npoll_s = 0.5\n') as world,
    ):
        assert not it.kernel_driver and world.view().status.inputs[0].voltage_v == 230.0
        assert "the UPS speaks voltronic-qs" in world.log.read_text()
        unit.set("mains", "off")
        until(lambda: "on-battery" in world.conditions(), 8, "on battery")
        unit.set("mains", "on")
        until(lambda: "on-battery" not in world.conditions(), 20, "on line")
        it.gone = True
        until(lambda: "no USB UPS" in world.view().link_detail, 10, "it is looked for")
        it.gone, it.kernel_driver = False, True
        began_s = time.monotonic()
        until(lambda: world.view().link == "up", 15, "it is found again")
        assert time.monotonic() - began_s < 7.0
        assert world.told() == []
    assert it.kernel_driver and it.log[-1] == "release"
    assert not served.errors, served.errors
