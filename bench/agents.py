"""The two SNMP agents that are measured beside each other: ours, and net-snmp's snmpd with the same rows.

`python -m bench.agents PORT` is our side: the agent with its defaults, rate limits included, in a process of its own;
`--community-only`: without version 3; `--unlimited`: without the rate limit.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from agent import ber, config, engineid, gate, mib, snmp, upsmib, usm, v3
from agent.model import Active, Battery, Condition, Ident, Line, Rating, Source, Status, View
from tests.snmp_damage import COMMUNITY

SIGN, CRYPT = "bench-signing", "bench-secret"
SYS_UP_TIME = (1, 3, 6, 1, 2, 1, 1, 3, 0)
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
SNMPD_TYPES = {
    ber.INTEGER: "integer", ber.COUNTER32: "counter", ber.GAUGE32: "uinteger", ber.TIMETICKS: "timeticks",
    ber.OCTET_STRING: "octet_str", ber.OBJECT_ID: "object_id",
}  # fmt: skip


def shown() -> View:
    """A three-phase UPS that says everything, with two alarms."""
    line = Line(voltage_v=229.6, frequency_hz=49.9, current_a=12.5, power_w=2870.0, load_pct=31.4)
    status = Status(
        taken_s=0.0, source=Source.MAINS, inputs=(line,) * 3, outputs=(line,) * 3, bypass=(line,) * 3,
        battery=Battery(
            charge_pct=97.6, runtime_s=1799.0, voltage_v=27.3, current_a=-1.2, temperature_c=25.0, low=False
        ),
        ident=Ident(manufacturer="Example Power", model="EP 10000", firmware="V1.02"),
        rating=Rating(
            input_voltage_v=230.0, input_frequency_hz=50.0, output_voltage_v=230.0, output_frequency_hz=50.0,
            apparent_va=1e4, power_w=9e3, low_battery_s=180.0, low_transfer_v=184.0, high_transfer_v=264.0,
        ),
        beeper_on=True,
    )  # fmt: skip
    alarms = (Condition.OVERLOAD, Condition.INPUT_BAD)
    return View(
        boot="", now_s=0.0, wall_s=0.0, clock_synced=False, version="0", name="bench", started_s=0.0, mode="dry-run",
        driver="simulator", link="up", status=status,
        conditions=tuple(Active(condition=c, since_s=0.0, since_wall_s=0.0) for c in alarms),
    )  # fmt: skip


def serve(port: int, *, secured: bool, limited: bool) -> None:
    """Our agent with its defaults on a port of loopback, until it is ended; `secured`: version 3 too; `limited`: as
    many requests a second as by default."""
    if not limited:
        gate.SOURCE_BURST = gate.TOTAL_BURST = 1e9
    settings = config.Snmp(
        listen=f"127.0.0.1:{port}", communities=(config.Community(label="bench", sources=("127.0.0.0/8",)),),
        users=(config.User(name="ops", sources=("127.0.0.0/8",)),) if secured else (),
    )  # fmt: skip
    view = shown()

    def newest() -> View:
        nonlocal view
        if time.monotonic() - view.now_s > 1.0:  # as from the bus: a new one each second
            view = replace(view, now_s=time.monotonic())
        return view

    engine = mib.Engine(engineid.ENGINE_ID_BEGINS + os.urandom(8), 1, time.monotonic())
    responder = v3.Responder(engine, {"ops": user(engine.id)}) if secured else None
    agent = snmp.Agent(settings, {"bench": COMMUNITY}, newest, time.monotonic(), responder=responder)
    agent.bind()
    agent.run(threading.Event())


def user(engine: bytes) -> usm.User:
    """The one user of both agents, with his keys for an engine."""
    return usm.User(
        "ops",
        usm.AUTH_PRIV,
        "sha256",
        usm.key(SIGN, "sha256", engine),
        "aes128",
        usm.key(CRYPT, "sha256", engine, 16),
    )


def rows() -> dict[ber.Oid, bytes]:
    """The UPS-MIB that we serve: name -> value as TLV."""
    alarms = upsmib.Alarms()
    alarms.update(shown().conditions, 0.0, 0.0)
    view = shown()
    look = mib.Look(view, view.status or mib.NOTHING, now_s=0.0, started_s=0.0, kept={}, alarms=alarms.rows)
    found = {r.oid: r.get(look) for r in sorted(upsmib.rows(look), key=lambda r: r.oid)}
    return {oid: data for oid, data in found.items() if data is not None}


def snmpd_conf() -> str:
    """The same as `override` rows of snmpd.conf."""
    lines = [f"rocommunity {COMMUNITY} 127.0.0.0/8", f"createUser ops SHA-256 {SIGN} AES {CRYPT}", "rouser ops"]
    for oid, data in rows().items():
        tag, start, stop = ber.head(data, 0, len(data))
        body = data[start:stop]
        if tag == ber.OCTET_STRING:
            text = f'"{body.decode()}"'
        elif tag == ber.OBJECT_ID:
            text = "." + ".".join(map(str, ber.arcs(body)))
        else:
            text = str(int.from_bytes(body, "big", signed=True))
        lines.append(f"override .{'.'.join(map(str, oid))} {SNMPD_TYPES[tag]} {text}")
    return "\n".join(lines) + "\n"


def request(
    tag: int,
    *oids: ber.Oid,
    repetitions: int = 0,
    version: int = ber.V2C,
    number: bytes = b"\x02\x04\x01\x02\x03\x04",
) -> bytes:
    prefix = ber.integer(version) + ber.tlv(ber.OCTET_STRING, COMMUNITY.encode())
    bindings = b"".join(ber.tlv(ber.SEQUENCE, ber.oid(oid) + b"\x05\x00") for oid in oids)
    return ber.message(prefix, tag, number, 0, repetitions, bindings)


def scoped(engine: bytes, oid: ber.Oid) -> bytes:
    prefix = ber.tlv(ber.OCTET_STRING, engine) + ber.tlv(ber.OCTET_STRING, b"")
    body = ber.tlv(ber.SEQUENCE, ber.oid(oid) + b"\x05\x00")
    return ber.message(prefix, ber.GET, b"\x02\x04\x01\x02\x03\x04", 0, 0, body)


class Server:
    """A process that answers on a port, and what it has cost so far."""

    def __init__(self, name: str, port: int, pid: int) -> None:
        self.name, self.pid = name, pid
        self.user: usm.User | None = None
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", port))
        self.sock.settimeout(2.0)

    def cpu_us(self) -> float:
        """User and system time: in nanoseconds from the scheduler, which /proc/PID/stat rounds to 10 ms."""
        tasks = Path(f"/proc/{self.pid}/task")
        if (tasks / str(self.pid) / "schedstat").exists():
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1000
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")

    def ask(self, data: bytes) -> bytes:
        self.sock.send(data)
        return self.sock.recv(4096)

    def forget(self) -> None:
        """A fresh socket: late answers to the first questions are not mistaken for those to the next ones."""
        peer = self.sock.getpeername()
        self.sock.close()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(peer)
        self.sock.settimeout(2.0)

    def sealed(self, insides: Callable[[bytes], list[bytes]] | None = None) -> list[bytes]:
        """Messages of version 3 for this engine at this moment: around what `insides(engine)` says, or GETs of each
        row."""
        nobody = v3.seal(1, v3.REPORTABLE, b"", 0, 0, None, b"", scoped(b"", SYS_UP_TIME), usm.Salts())
        engine = v3.read(self.ask(nobody))
        if self.user is None:
            self.user = user(engine.engine_id)
        flags, salts, found = usm.AUTH_PRIV | v3.REPORTABLE, usm.Salts(), engine.engine_id
        inside = insides(found) if insides else [scoped(found, oid) for oid in rows()]
        return [
            v3.seal(n, flags, found, engine.boots, engine.time_s, self.user, b"ops", one, salts)
            for n, one in enumerate(inside, start=1)
        ]

    def cost_us(self, requests: list[bytes], count: int) -> float:
        """CPU microseconds per request over so many of them, one after the other."""
        before = self.cpu_us()
        for n in range(count):
            self.ask(requests[n % len(requests)])
        return (self.cpu_us() - before) / count

    def rss_kb(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def started(
    name: str, port: int, *command: str, said: int | IO[bytes] = subprocess.DEVNULL, **environment: str
) -> Iterator[Server]:
    begun_s = time.monotonic()
    env = {**os.environ, "PATH": PATH, **environment}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=env) as child:
        server = Server(name, port, child.pid)
        server.sock.settimeout(0.02)
        try:
            uptime = request(ber.GET, SYS_UP_TIME)
            while True:
                try:
                    server.ask(uptime)
                    break
                except OSError:  # nobody listens yet
                    if child.poll() is not None or time.monotonic() - begun_s > 10.0:
                        raise RuntimeError(f"{name} does not answer") from None
                    time.sleep(0.005)
            print(f"{name}: first answer {1000 * (time.monotonic() - begun_s):.0f} ms after exec")
            server.forget()
            yield server
        finally:
            server.sock.close()
            child.terminate()


@contextmanager
def ours(name: str = "ridethrough", *options: str, said: int | IO[bytes] = subprocess.DEVNULL) -> Iterator[Server]:
    """Our agent; `said`: where its log goes."""
    port = free_port()
    with started(name, port, sys.executable, "-m", "bench.agents", str(port), *options, said=said) as server:
        yield server


@contextmanager
def theirs(folder: str) -> Iterator[Server]:
    """net-snmp's agent; its files in `folder`."""
    conf, port = Path(folder) / "snmpd.conf", free_port()
    conf.write_text(snmpd_conf())
    with started(
        "snmpd", port, "snmpd", "-f", "-Lf", f"{folder}/log", "-C", "-c", str(conf), "-I", "-smux",
        f"udp:127.0.0.1:{port}", SNMP_PERSISTENT_DIR=f"{folder}/persistent", MIBS="",
    ) as server:  # fmt: skip
        yield server


if __name__ == "__main__":
    serve(int(sys.argv[1]), secured="--community-only" not in sys.argv, limited="--unlimited" not in sys.argv)
