"""Measures what an SNMP request costs us, beside net-snmp's snmpd serving the same values, in one run.

`python -m bench.snmp` prints CPU microseconds per request of both and their ratio, for GET, GETNEXT, GETBULK of 25,
GET of ten names, and a GET of version 3 (SHA-256, AES-128); the time of whole walks by net-snmp's programs; the p99
of a GET while version 3 is walked; and the memory that version 3 adds. Exit code 1 if a limit is missed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from agent import ber, gate, usm, v3

from . import agents
from .agents import COMMUNITY, CRYPT, SIGN, Server, request, rows

ROUNDS = 7
REQUESTS = 400  # of each kind in a round: all kinds of one round fit the burst that the rate limit lets through
PAUSE_S = 5 * REQUESTS / gate.SOURCE_RATE_PER_S  # between rounds, until the burst is there again
V3_LIMIT = TEN_LIMIT = 1.5
WALL_LIMIT = 1.2  # of a walk by net-snmp, until its end
SLOWEST_LIMIT = 5.0  # the p99 of a GET of version 2c while version 3 is walked, in that of an idle agent
V3_MEMORY_KB = 15 * 1024
GET_EVERY_S = 0.002
WALK_ROUNDS = 21  # short, so many: what else the machine does shall not decide
WALKS = 6  # one after the other, from an address of its own: within the burst of the rate limit
V3_GET = "v3 GET"
LIMITS = {"GET": 1.0, "GETNEXT": 1.0, "GETBULK 25": 1.0, "GET x10": TEN_LIMIT, V3_GET: V3_LIMIT}


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


def main(_: list[str]) -> int:
    if not shutil.which("snmpd", path=agents.PATH):
        print("bench snmp: not run, the Debian package snmpd is missing")
        return 3
    with (
        tempfile.TemporaryDirectory() as folder, agents.ours() as ours, agents.theirs(folder) as theirs,
        agents.ours("without version 3", "--community-only") as plain,
    ):  # fmt: skip
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
            found = {server.name: server.cost_us(requests.get(name) or server.sealed(), REQUESTS) for server in pair}
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
    return subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "PATH": agents.PATH}
    )


def ended(child: subprocess.Popen[bytes]) -> None:
    said = child.communicate(timeout=30.0)[1]
    if child.returncode:
        raise RuntimeError(f"{child.args!r}: {said.decode(errors='replace')}")


def walks(ours: Server, theirs: Server) -> int:
    """Seconds until the end of a walk by net-snmp's programs; how many were too slow."""
    failed = 0
    for verb in ("snmpwalk", "snmpbulkwalk"):
        took_s: dict[str, list[float]] = {ours.name: [], theirs.name: []}
        for _ in range(WALK_ROUNDS):
            time.sleep(0.1)
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


def p99_us(server: Server, requests: list[bytes], go_on: Callable[[int], bool]) -> float:
    """The 99th percentile of the time until the answer, of paced requests as long as `go_on(count)`."""
    took: list[float] = []
    while go_on(len(took)):
        begun_s = time.perf_counter()
        server.ask(requests[len(took) % len(requests)])
        took.append((time.perf_counter() - begun_s) * 1e6)
        time.sleep(GET_EVERY_S)
    return sorted(took)[int(len(took) * 0.99)]


def slowest(ours: Server) -> int:
    """How long a GET of version 2c takes at worst while another manager walks with version 3."""
    gets = kinds()["GET"]
    keys = ("-v3", "-u", "ops", "-l", "authPriv", "-a", "SHA-256", "-A", SIGN, "-x", "AES", "-X", CRYPT)
    pairs = []
    for _ in range(ROUNDS):
        time.sleep(PAUSE_S / 2)
        idle_us = p99_us(ours, gets, lambda count: count < REQUESTS)
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

        pairs.append((idle_us, p99_us(ours, gets, walking)))
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
