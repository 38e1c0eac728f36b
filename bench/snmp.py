"""Measures what an SNMP request costs us, beside net-snmp's snmpd serving the same values, in one run.

`python -m bench.snmp` prints CPU microseconds per request of both and their ratio, for GET, GETNEXT, GETBULK of 25,
GET of ten names, and a GET of version 3 (SHA-256, AES-128); the time of whole walks by net-snmp's programs; the p99
of a GET while version 3 is walked; and the memory that version 3 adds. Exit code 1 if a limit is missed.
`--serve PORT` is our side: the agent with its defaults, rate limits included, in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from agent import ber, config, engineid, gate, mib, snmp, upsmib, usm, v3
from agent.model import Active, Battery, Condition, Ident, Line, Rating, Source, Status, View

COMMUNITY = "bench-community"
ROUNDS = 7
REQUESTS = 400  # of each kind in a round: all kinds of one round fit the burst that the rate limit lets through
PAUSE_S = 5 * REQUESTS / gate.SOURCE_RATE_PER_S  # between rounds, until the burst is there again
V3_LIMIT = TEN_LIMIT = 1.5
WALL_LIMIT = 1.2  # of a walk by net-snmp, until its end
SLOWEST_LIMIT = 5.0  # the p99 of a GET of version 2c while version 3 is walked, in that of an idle agent
V3_MEMORY_KB = 15 * 1024
GET_EVERY_S = 0.002
WALKS = 6  # one after the other, from an address of its own: within the burst of the rate limit
V3_GET = "v3 GET"
SIGN, CRYPT = "bench-signing", "bench-secret"
LIMITS = {"GET": 1.0, "GETNEXT": 1.0, "GETBULK 25": 1.0, "GET x10": TEN_LIMIT, V3_GET: V3_LIMIT}
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


def serve(port: int, *, secured: bool) -> None:
    """Our agent with its defaults on a port of loopback, until it is ended; `secured`: version 3 too."""
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

    engine = v3.Engine(engineid.ENGINE_ID_BEGINS + os.urandom(8), 1, time.monotonic())
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
    look = mib.Look(view=shown(), status=shown().status or mib.NOTHING, now_s=0.0, started_s=0.0, alarms=alarms.rows)
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


def request(tag: int, *oids: ber.Oid, repetitions: int = 0) -> bytes:
    prefix = ber.integer(ber.V2C) + ber.tlv(ber.OCTET_STRING, COMMUNITY.encode())
    bindings = b"".join(ber.tlv(ber.SEQUENCE, ber.oid(oid) + b"\x05\x00") for oid in oids)
    return ber.message(prefix, tag, b"\x02\x04\x01\x02\x03\x04", 0, repetitions, bindings)


def scoped(engine: bytes, oid: ber.Oid) -> bytes:
    prefix = ber.tlv(ber.OCTET_STRING, engine) + ber.tlv(ber.OCTET_STRING, b"")
    body = ber.tlv(ber.SEQUENCE, ber.oid(oid) + b"\x05\x00")
    return ber.message(prefix, ber.GET, b"\x02\x04\x01\x02\x03\x04", 0, 0, body)


def kinds() -> dict[str, list[bytes]]:
    """Each kind of request, spread over all rows."""
    names = list(rows())
    below_end = names[:-26]
    return {
        "GET": [request(ber.GET, n) for n in names],
        "GETNEXT": [request(ber.GETNEXT, n) for n in names[:-1]],
        "GETBULK 25": [request(ber.GETBULK, n, repetitions=25) for n in below_end],
        "GET x10": [request(ber.GET, *names[at : at + 10]) for at in range(len(names) - 10)],
    }


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

    def slowest_us(self, requests: list[bytes], go_on: Callable[[int], bool]) -> float:
        """The 99th percentile of the time until the answer, of paced requests as long as `go_on(count)`."""
        took: list[float] = []
        while go_on(len(took)):
            begun_s = time.perf_counter()
            self.ask(requests[len(took) % len(requests)])
            took.append((time.perf_counter() - begun_s) * 1e6)
            time.sleep(GET_EVERY_S)
        return sorted(took)[int(len(took) * 0.99)]

    def sealed(self) -> list[bytes]:
        """GETs of version 3 for this engine at this moment, one for each row."""
        nobody = v3.seal(1, v3.REPORTABLE, b"", 0, 0, None, b"", scoped(b"", SYS_UP_TIME), usm.Salts())
        engine = v3.read(self.ask(nobody))
        if self.user is None:
            self.user = user(engine.engine_id)
        flags, salts = usm.AUTH_PRIV | v3.REPORTABLE, usm.Salts()
        return [
            v3.seal(
                n, flags, engine.engine_id, engine.boots, engine.time_s, self.user, b"ops",
                scoped(engine.engine_id, oid), salts,
            )
            for n, oid in enumerate(rows(), start=1)
        ]  # fmt: skip

    def cost_us(self, requests: list[bytes]) -> float:
        """CPU microseconds per request over REQUESTS of them, one after the other."""
        before = self.cpu_us()
        for n in range(REQUESTS):
            self.ask(requests[n % len(requests)])
        return (self.cpu_us() - before) / REQUESTS

    def rss_kb(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def started(name: str, port: int, *command: str, **environment: str) -> Iterator[Server]:
    begun_s = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PATH": PATH, **environment}
    ) as child:
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


def same_answers(ours: Server, theirs: Server) -> None:
    """Both serve the same values: else the comparison says nothing."""
    for name, requests in kinds().items():
        for data in requests:
            a, b = (
                ber.read_pdu(reply, ber.read_header(reply).pdu_at) for reply in (ours.ask(data), theirs.ask(data))
            )
            if a.names != b.names:
                raise RuntimeError(f"{name}: the answers differ")
    for server in (ours, theirs):
        answer = v3.read(server.ask(server.sealed()[0]))
        if server.user is None or answer.level != usm.AUTH_PRIV:
            raise RuntimeError(f"{server.name}: no answer in version 3")
        data = usm.decrypt(server.user, answer.boots, answer.time_s, answer.privacy, answer.scoped)
        if v3.read_scoped(data)[3].tag != ber.RESPONSE:
            raise RuntimeError(f"{server.name}: no response in version 3")


def main(argv: list[str]) -> int:
    if argv[:1] == ["--serve"]:
        serve(int(argv[1]), secured=argv[2:] != ["--community-only"])
        return 0
    if not shutil.which("snmpd", path=PATH):
        print("bench snmp: not run, the Debian package snmpd is missing")
        return 3
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        conf = Path(folder) / "snmpd.conf"
        conf.write_text(snmpd_conf())
        port = free_port()
        ours = stack.enter_context(
            started("ridethrough", port, sys.executable, "-m", "bench.snmp", "--serve", str(port))
        )
        port = free_port()
        theirs = stack.enter_context(
            started(
                "snmpd", port, "snmpd", "-f", "-Lf", f"{folder}/log", "-C", "-c", str(conf), "-I", "-smux",
                f"udp:127.0.0.1:{port}", SNMP_PERSISTENT_DIR=f"{folder}/persistent", MIBS="",
            )
        )  # fmt: skip
        port = free_port()
        plain = stack.enter_context(
            started(
                "without version 3", port,
                sys.executable, "-m", "bench.snmp", "--serve", str(port), "--community-only",
            )
        )  # fmt: skip
        same_answers(ours, theirs)
        for data in kinds()["GET"]:
            plain.ask(data)
        failed = measure(ours, theirs)
        added_kb = ours.rss_kb() - plain.rss_kb()
        print(f"resident memory added by version 3: {added_kb} kB  <= {V3_MEMORY_KB}")
        failed += walks(ours, theirs) + slowest(ours)
        return 1 if failed or added_kb > V3_MEMORY_KB else 0


def measure(ours: Server, theirs: Server) -> int:
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in (*kinds(), V3_GET)}
    requests = kinds()
    for number in range(ROUNDS + 1):
        time.sleep(PAUSE_S)
        for name in costs:
            pair = (ours, theirs) if number % 2 else (theirs, ours)
            found = {server.name: server.cost_us(requests.get(name) or server.sealed()) for server in pair}
            if number:  # the first round warms up
                costs[name].append((found[ours.name], found[theirs.name]))
    print(
        f"SNMP, {len(rows())} rows of the UPS-MIB, {ROUNDS} rounds of {REQUESTS} requests of each kind, one at a"
        f" time over loopback; a new view each second; defaults in force (rate limit {gate.SOURCE_RATE_PER_S:.0f}/s,"
        f" burst {gate.SOURCE_BURST:.0f}); Python {sys.version.split()[0]}, {os.cpu_count()} CPUs"
    )
    print(f"{'CPU per request':16}{'ridethrough us':>16}{'snmpd us':>10}{'ratio':>8}")
    failed = []
    for name, pairs in costs.items():
        mine, other = (statistics.median(p[n] for p in pairs) for n in (0, 1))
        ratio = statistics.median(a / b for a, b in pairs)
        most = LIMITS[name]
        limit = f"  <= {most:.1f}"
        if ratio > most:
            failed.append(name)
            limit += "  MISSED"
        print(f"{name:16}{mine:16.1f}{other:10.1f}{ratio:8.2f}{limit}")
    print(f"resident memory: ridethrough's agent alone {ours.rss_kb()} kB, snmpd {theirs.rss_kb()} kB")
    return len(failed)


def walk(server: Server, verb: str, *words: str) -> subprocess.Popen[bytes]:
    where = f"127.0.0.1:{server.sock.getpeername()[1]}"
    argv = [verb, "-On", "-m", "", "--clientaddr=127.0.0.2", *words, where, ".1.3.6.1.2.1.33"]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "PATH": PATH})


def ended(child: subprocess.Popen[bytes]) -> None:
    said = child.communicate(timeout=30.0)[1]
    if child.returncode:
        raise RuntimeError(f"{child.args!r}: {said.decode(errors='replace')}")


def walks(ours: Server, theirs: Server) -> int:
    """Seconds until the end of a walk by net-snmp's programs; how many were too slow."""
    failed = 0
    for verb in ("snmpwalk", "snmpbulkwalk"):
        took_s: dict[str, list[float]] = {ours.name: [], theirs.name: []}
        for _ in range(ROUNDS):
            time.sleep(PAUSE_S / 4)
            for server in (ours, theirs):
                begun_s = time.monotonic()
                ended(walk(server, verb, "-v2c", "-c", COMMUNITY))
                took_s[server.name].append(time.monotonic() - begun_s)
        mine, other = (1000 * statistics.median(took_s[server.name]) for server in (ours, theirs))
        missed = mine / other > WALL_LIMIT
        failed += missed
        said = f"{mine / other:8.2f}  <= {WALL_LIMIT}{'  MISSED' if missed else ''}"
        print(f"{verb + ' ms':16}{mine:16.1f}{other:10.1f}{said}")
    return failed


def slowest(ours: Server) -> int:
    """How long a GET of version 2c takes at worst while another manager walks with version 3."""
    gets = kinds()["GET"]
    keys = ("-v3", "-u", "ops", "-l", "authPriv", "-a", "SHA-256", "-A", SIGN, "-x", "AES", "-X", CRYPT)
    pairs = []
    for _ in range(ROUNDS):
        time.sleep(PAUSE_S / 2)
        idle_us = ours.slowest_us(gets, lambda count: count < REQUESTS)
        left = WALKS
        child = walk(ours, "snmpwalk", *keys)

        def walking(_: int) -> bool:
            nonlocal left, child
            if child.poll() is not None:
                ended(child)
                left -= 1
                if not left:
                    return False
                child = walk(ours, "snmpwalk", *keys)
            return True

        pairs.append((idle_us, ours.slowest_us(gets, walking)))
    idle_us, busy_us = (statistics.median(p[n] for p in pairs) for n in (0, 1))
    ratio = statistics.median(b / a for a, b in pairs)
    missed = ratio > SLOWEST_LIMIT
    print(
        f"p99 of a v2c GET: idle {idle_us:.0f} us, during a v3 walk {busy_us:.0f} us, {ratio:.2f} times"
        f"  <= {SLOWEST_LIMIT}{'  MISSED' if missed else ''}"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
