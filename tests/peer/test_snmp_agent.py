"""The SNMP agent against net-snmp's programs, beside net-snmp's own agent, and read by NUT."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from snmp_kit import COMMUNITY, ON_LINE, UPS, Net, Stage, dotted, listening, since, three_phase, view, whole

from agent import ber
from agent.model import Battery, Condition, Ident, Source, Status

NEEDED = {"snmpget": "snmp", "snmpd": "snmpd", "upsc": "nut-client"}
SNMP_UPS, UPSD = Path("/lib/nut/snmp-ups"), Path("/lib/nut/upsd")  # Debian's upsd on PATH asks /etc/nut first
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
MISSING = sorted({package for program, package in NEEDED.items() if not shutil.which(program, path=PATH)})
if not SNMP_UPS.exists():
    MISSING.append("nut-snmp")
if not UPSD.exists():
    MISSING.append("nut-server")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"not run: {', '.join(MISSING)} missing"),
]

ON_BATTERY = replace(
    ON_LINE, source=Source.BATTERY, battery=replace(ON_LINE.battery, low=True, charge_pct=12.0, runtime_s=95.0)
)
OUTAGE = view(ON_BATTERY, since(Condition.ON_BATTERY, 90.0), since(Condition.LOW_BATTERY, 95.0), on_battery_s=10.0)
BARE = Status(taken_s=1.0, source=Source.MAINS, battery=Battery(low=False), ident=Ident())


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return Net(tmp_path / "net").folder


def run(*command: str, within_s: float = 20.0, **environment: str) -> tuple[int, str]:
    """Exit code and everything that was said."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=within_s, check=False,
        env={**os.environ, "PATH": PATH, "LC_ALL": "C", "MIBS": "", **environment},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def snmp(verb: str, version: str, port: int, *words: str, community: str = COMMUNITY) -> tuple[int, str]:
    return run(f"snmp{verb}", "-v", version, "-c", community, "-On", "-r0", "-t1", f"127.0.0.1:{port}", *words)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def process(*command: str, **environment: str) -> Iterator[None]:
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": PATH, **environment},
    ) as child:  # fmt: skip
        try:
            yield
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(5.0)
            except subprocess.TimeoutExpired:
                child.kill()


# --- net-snmp as manager ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "2c"])
def test_net_snmp_gets_and_walks(net: Path, version: str) -> None:
    with listening(OUTAGE, net) as stage:
        port = stage.agent.address[1]
        _, said = snmp("get", version, port, f".{UPS}.2.1.0", f".{UPS}.2.6.0", ".1.3.6.1.2.1.1.2.0")
        assert said.splitlines() == [
            f".{UPS}.2.1.0 = INTEGER: 3", f".{UPS}.2.6.0 = INTEGER: -12",
            ".1.3.6.1.2.1.1.2.0 = OID: .1.3.6.1.2.1.33",
        ]  # fmt: skip
        _, said = snmp("getnext", version, port, f".{UPS}.6.1.0")
        assert said.strip() == f".{UPS}.6.2.1.2.1 = OID: .{UPS}.6.3.2"
        _, said = snmp("walk", version, port, ".1.3")
        names = re.findall(r"^\.(\S+) = ", said, re.MULTILINE)
        walked = list(stage.walk("1.3", ber.V1 if version == "1" else ber.V2C))
        assert names[: len(walked)] == walked and len(walked) > 120


def test_net_snmp_bulk_reads(net: Path) -> None:
    with listening(OUTAGE, net) as stage:
        port = stage.agent.address[1]
        _, said = snmp("bulkwalk", "2c", port, f".{UPS}")
        walked = list(stage.walk(UPS))
        assert re.findall(r"^\.(\S+) = ", said, re.MULTILINE)[: len(walked)] == walked
        _, said = snmp("bulkget", "2c", port, "-Cn1", "-Cr2", ".1.3.6.1.2.1.1.1", f".{UPS}.9.9", f".{UPS}.1")
        assert re.findall(r"^\.(\S+) = ", said, re.MULTILINE) == [
            "1.3.6.1.2.1.1.1.0", f"{UPS}.9.9.0", f"{UPS}.1.1.0", f"{UPS}.9.10.0", f"{UPS}.1.2.0",
        ]  # fmt: skip


@pytest.mark.parametrize("version", ["1", "2c"])
def test_a_wrong_community_and_a_write_change_nothing(net: Path, version: str) -> None:
    with listening(view(), net) as stage:
        port = stage.agent.address[1]
        code, said = snmp("get", version, port, f".{UPS}.1.5.0", community="public")
        assert code != 0 and "Timeout" in said
        code, said = snmp("set", version, port, f".{UPS}.1.5.0", "s", "mine")
        assert code != 0 and ("noSuchName" if version == "1" else "noAccess") in said
        assert '"rack-3"' in snmp("get", version, port, f".{UPS}.1.5.0")[1]


# --- beside net-snmp's own agent, which serves the same values --------------------------------------------------


SNMPD_TYPES = {
    ber.INTEGER: "integer", ber.COUNTER32: "counter", ber.GAUGE32: "uinteger", ber.TIMETICKS: "timeticks",
    ber.OCTET_STRING: "octet_str", ber.OBJECT_ID: "object_id",
}  # fmt: skip


def overrides(stage: Stage) -> str:
    """Our UPS-MIB as rows of snmpd.conf."""
    lines = [f"rocommunity {COMMUNITY} 127.0.0.1"]
    for name, (tag, body) in stage.walk(UPS).items():
        if tag == ber.OCTET_STRING:
            text = f'"{body.decode()}"'
        else:
            text = "." + dotted(body) if tag == ber.OBJECT_ID else str(whole(body))
        lines.append(f"override .{name} {SNMPD_TYPES[tag]} {text}")
    return "\n".join(lines) + "\n"


@contextmanager
def snmpd(conf: str, folder: Path, port: int = 0) -> Iterator[int]:
    """net-snmp's agent with this configuration, on a port of loopback."""
    port = port or free_port(socket.SOCK_DGRAM)
    (folder / "snmpd.conf").write_text(conf)
    with process(
        "snmpd", "-f", "-Lf", str(folder / "snmpd.log"), "-C", "-c", str(folder / "snmpd.conf"), "-I", "-smux",
        f"udp:127.0.0.1:{port}", SNMP_PERSISTENT_DIR=str(folder / "persistent"), MIBS="",
    ):  # fmt: skip
        end_s = time.monotonic() + 10.0
        while snmp("get", "2c", port, ".1.3.6.1.2.1.1.3.0")[0] != 0:
            assert time.monotonic() < end_s, (folder / "snmpd.log").read_text()
            time.sleep(0.1)
        yield port


def outcome(said: str) -> str:
    """What a manager is told, without what depends on how an agent registers its objects."""
    said = re.sub(r"No Such (Object|Instance).*", "No Such", said)
    return re.sub(r"(?m)^Created directory.*\n", "", said)


def test_the_same_questions_get_the_same_answers_as_from_snmpd(net: Path, tmp_path: Path) -> None:
    shown = replace(OUTAGE, status=three_phase(ON_BATTERY), on_battery_s=None)  # nothing that goes on by itself
    with listening(shown, net) as stage, snmpd(overrides(stage), tmp_path) as theirs:
        ours = stage.agent.address[1]
        missing = (f".{UPS}.2.1", f".{UPS}.2.1.1", f".{UPS}.3.3.1.3.9", f".{UPS}.99.0", f".{UPS}.6.2.1.1.1")
        questions = [
            *[(verb, version, f".{UPS}") for verb, version in (("walk", "1"), ("walk", "2c"), ("bulkwalk", "2c"))],
            *[("get", version, name) for version in ("1", "2c") for name in missing],
            *[("getnext", version, name) for version in ("1", "2c") for name in missing if ".99." not in name],
            *[("getnext", version, ".2.9") for version in ("1", "2c")],
            *[("get", version, f".{UPS}.2.1.0", f".{UPS}.99.0", f".{UPS}.2.4.0") for version in ("1", "2c")],
            ("bulkget", "2c", "-Cn0", "-Cr0", f".{UPS}.2"),
            ("bulkget", "2c", "-Cn2", "-Cr5", f".{UPS}.2", f".{UPS}.3", f".{UPS}.4.4.1.2", f".{UPS}.1"),
            *[("set", version, f".{UPS}.1.5.0", "s", "mine") for version in ("1", "2c")],
            *[("set", version, f".{UPS}.8.2.0", "i", "0") for version in ("1", "2c")],
            *[("set", version, f".{UPS}.2.1.0", "s", "wrong type") for version in ("1", "2c")],
        ]
        for verb, version, *words in questions:
            answers = [outcome(snmp(verb, version, port, *words)[1]) for port in (ours, theirs)]
            if "walk" in verb:
                # what follows the UPS-MIB differs: snmpd has more of its own
                answers = [
                    "\n".join(
                        line for line in answer.splitlines() if line.startswith(f".{UPS}.") and "No more" not in line
                    )
                    for answer in answers
                ]
                assert len(answers[0].splitlines()) > 70
            assert answers[0] == answers[1], (verb, version, words)


# --- NUT --------------------------------------------------------------------------------------------------------


@contextmanager
def nut(folder: Path, port: int, *settings: str) -> Iterator[int]:
    """NUT's snmp-ups and upsd reading our agent; the port of upsd."""
    etc, state, upsd_port = folder / "etc", folder / "state", free_port()
    etc.mkdir()
    state.mkdir()
    options = ("driver = snmp-ups", f"port = 127.0.0.1:{port}", f"community = {COMMUNITY}", "pollfreq = 1", *settings)
    (etc / "ups.conf").write_text("[ours]\n" + "\n".join(options) + "\n")
    (etc / "upsd.conf").write_text(f"LISTEN 127.0.0.1 {upsd_port}\n")
    (etc / "upsd.users").write_text("")
    (etc / "nut.conf").write_text("MODE=standalone\n")
    for file in etc.iterdir():
        file.chmod(0o640)
    user = ("-u", "root") if os.geteuid() == 0 else ()
    where = {"NUT_CONFPATH": str(etc), "NUT_STATEPATH": str(state), "NUT_ALTPIDPATH": str(state), "MIBS": ""}
    where |= {"SNMP_PERSISTENT_DIR": str(folder / "persistent")}
    with process(str(SNMP_UPS), "-a", "ours", "-F", "-i", "1", *user, **where):
        end_s = time.monotonic() + 20.0
        while not (state / "snmp-ups-ours").exists():
            assert time.monotonic() < end_s, "snmp-ups did not find the UPS"
            time.sleep(0.1)
        with process(str(UPSD), "-F", *user, **where):
            yield upsd_port


def upsc(port: int, status: str, within_s: float = 15.0) -> dict[str, str]:
    """The variables that NUT shows, as soon as ups.status holds exactly these words."""
    end_s = time.monotonic() + within_s
    while True:
        _, said = run("upsc", f"ours@127.0.0.1:{port}")
        found = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
        if set(found.get("ups.status", "").split()) == set(status.split()):
            return found
        assert time.monotonic() < end_s, said
        time.sleep(0.2)


@pytest.mark.parametrize("settings", [("mibs = auto", "snmp_version = v1"), ("mibs = ietf", "snmp_version = v2c")])
def test_nut_reads_on_line_and_on_battery(net: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    with listening(view(), net) as stage, nut(tmp_path, stage.agent.address[1], *settings) as upsd:
        found = upsc(upsd, "OL")
        assert (found["ups.mfr"], found["ups.model"]) == ("Example Power", "EP 1000")
        assert (found["battery.charge"], float(found["battery.voltage"])) == ("98", 27.3)
        assert (float(found["battery.temperature"]), float(found["battery.current"])) == (-5.0, -1.2)
        assert float(found["battery.runtime"]) == 29 * 60
        assert (float(found["input.voltage"]), float(found["input.frequency"])) == (230.0, 49.9)
        assert (float(found["output.voltage"]), float(found["ups.load"])) == (230.0, 31.0)
        stage.view = OUTAGE
        found = upsc(upsd, "OB LB")
        assert (found["battery.charge"], float(found["battery.runtime"])) == ("12", 60)


def test_nut_reads_three_phases(net: Path, tmp_path: Path) -> None:
    shown = view(three_phase())
    with listening(shown, net) as stage, nut(tmp_path, stage.agent.address[1], "mibs = ietf") as upsd:
        found = upsc(upsd, "OL")
        assert float(found["input.phases"]) == 3
        assert [float(found[f"input.L{n}-N.voltage"]) for n in (1, 2, 3)] == [230.0] * 3
        assert float(found["output.L3.power.percent"]) == 31.0


def test_nut_accepts_a_ups_that_says_next_to_nothing(net: Path, tmp_path: Path) -> None:
    with listening(view(BARE), net) as stage, nut(tmp_path, stage.agent.address[1], "mibs = auto") as upsd:
        assert upsc(upsd, "OL")["ups.mfr"] == ""


def test_nut_calls_its_data_stale_when_ours_are_gone(net: Path, tmp_path: Path) -> None:
    with listening(view(), net) as stage, nut(tmp_path, stage.agent.address[1], "mibs = ietf") as upsd:
        upsc(upsd, "OL")
        stage.view = view(None, since(Condition.COMM_LOST))
        end_s = time.monotonic() + 20.0
        while "stale" not in (said := run("upsc", f"ours@127.0.0.1:{upsd}", "ups.status")[1]):
            assert time.monotonic() < end_s, said
            time.sleep(0.2)
        stage.view = view()
        upsc(upsd, "OL")
