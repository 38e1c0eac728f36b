"""What the two processes cost: memory after a minute with one page open, CPU when idle, time to the first answer."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

from bench.gate import gate
from tests.peer.world import COMMUNITY, ROOT, World

SETTLE_S, SHORT_SETTLE_S = 60.0, 15.0
TICKS = os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int, field: str = "VmRSS") -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+)", text)[0]) / 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main(options: list[str]) -> int:
    settle_s = SHORT_SETTLE_S if "--short" in options else SETTLE_S
    good = True
    with tempfile.TemporaryDirectory(prefix="ridethrough-bench-") as folder, World(Path(folder)) as world:
        print(
            f"   megatec on a pty, 1 server, 1 SNMP community, page on loopback; {settle_s:.0f} s with 1 SSE client"
        )
        stop = threading.Event()
        reader = threading.Thread(target=_stream, args=(world.web_port, stop), daemon=True)
        reader.start()
        pids = {part: world.pid_of(part) for part in ("core", "faces")}
        time.sleep(5.0)
        before_s = {part: cpu_s(pid) for part, pid in pids.items()}
        time.sleep(settle_s)
        used_s = sum(cpu_s(pid) - before_s[part] for part, pid in pids.items())
        good &= gate("core VmRSS", rss_mb(pids["core"]), 25.0, "MB")
        faces_mb = rss_mb(pids["faces"])
        good &= gate("faces VmRSS", faces_mb, 35.0, "MB")
        good &= gate("idle CPU of core and faces", 100 * used_s / settle_s, 1.0, "% of a core")
        good &= gate("login: peak above that", _login_peak_mb(world, pids["faces"]) - faces_mb, 35.0, "MB")
        stop.set()
        good &= gate("exec of faces to first sysUpTime, median of 5", _first_answer_s(world), 1.5, "s")
    return 0 if good else 1


def _stream(port: int, stop: threading.Event) -> None:
    """One open page: an event stream that is read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/api/stream")
    answer = connection.getresponse()
    while not stop.is_set() and answer.readline():
        pass


def _login_peak_mb(world: World, pid: int) -> float:
    """The peak of the faces' memory while a first password is set and then wrong ones are tried."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    once = (world.folder / "state" / "faces" / "first-password").read_text().strip()
    status, cookie, _ = _post(world.web_port, "/login", {"password": once})
    assert status == 303 and cookie, status
    connection = http.client.HTTPConnection("127.0.0.1", world.web_port, timeout=20)
    connection.request("GET", "/password", headers={"Cookie": cookie})
    token = re.findall(r'name="token" value="([^"]+)"', connection.getresponse().read().decode())[0]
    fields = {"token": token, "new": "seven green bicycles", "again": "seven green bicycles"}
    assert _post(world.web_port, "/password", fields, cookie)[0] == 303
    tries = [_post(world.web_port, "/login", {"password": "a wrong password"})[0] for _ in range(3)]
    assert all(status in (401, 403) for status in tries), tries
    return rss_mb(pid, "VmHWM")


def _post(port: int, path: str, fields: dict[str, str], cookie: str = "") -> tuple[int, str, str]:
    """(status, cookie, body) of a form sent as a browser would."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    headers |= {"Origin": f"http://127.0.0.1:{port}"} | ({"Cookie": cookie} if cookie else {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", path, urllib.parse.urlencode(fields), headers)
    answer = connection.getresponse()
    found = answer.status, (answer.headers["Set-Cookie"] or "").partition(";")[0], answer.read().decode()
    connection.close()
    return found


def _first_answer_s(world: World) -> float:
    """From exec of the faces to the first answer to a GET of sysUpTime; the median of five."""
    pid = world.pid_of("faces")
    os.kill(world.agent.pid, 19)  # the supervisor must not start it meanwhile
    os.kill(pid, 9)
    request = _get_uptime()
    found = []
    try:
        for _ in range(5):
            argv = [sys.executable, "-m", "agent", "faces", "--config", str(world.config)]
            begin_s = time.monotonic()
            process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.02)
                while time.monotonic() - begin_s < 10:
                    try:
                        sock.sendto(request, ("127.0.0.1", world.snmp_port))
                        sock.recv(1500)
                        break
                    except (TimeoutError, ConnectionRefusedError):
                        continue
            found.append(time.monotonic() - begin_s)
            process.terminate()
            process.wait(10)
    finally:
        os.kill(world.agent.pid, 18)
    return sorted(found)[2]


def _get_uptime() -> bytes:
    """An SNMPv2c GET of sysUpTime.0: SEQUENCE { 1, community, GetRequest { 7, 0, 0, { { oid, NULL } } } }."""
    oid = bytes.fromhex("06082b06010201010300")
    binding = b"\x30" + bytes([len(oid) + 2]) + oid + b"\x05\x00"
    bindings = b"\x30" + bytes([len(binding)]) + binding
    body = bytes.fromhex("020107020100020100") + bindings
    pdu = b"\xa0" + bytes([len(body)]) + body
    name = COMMUNITY.encode()
    message = bytes.fromhex("020101") + b"\x04" + bytes([len(name)]) + name + pdu
    return b"\x30" + bytes([len(message)]) + message
