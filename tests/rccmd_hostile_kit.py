"""What strangers say to an open port, and near misses of ours; a real listener to say it to, and floods."""

from __future__ import annotations

import collections
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.rccmd import archive

ROOT = Path(__file__).resolve().parent.parent
SHUTDOWN = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN"


def client_hello() -> bytes:
    """A real TLS ClientHello of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="server.example")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


#: name -> what it sends; the nmap ones are of nmap-service-probes (nmap 7.93), the others of their protocols
STRANGERS: dict[str, bytes] = {
    "http 1.0": b"GET / HTTP/1.0\r\n\r\n",
    "http 1.1": b"GET /nice%20ports%2C/Tri%6Eity.txt%2ebak HTTP/1.1\r\nHost: 192.0.2.20:6003\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "http post with a command": b"POST / HTTP/1.1\r\nContent-Length: 45\r\n\r\n" + SHUTDOWN + b"\n",
    "http connect": b"CONNECT TO RCCMD:6003 HTTP/1.1\r\nHost: RCCMD\r\n\r\n" + SHUTDOWN + b"\n",
    "proxy protocol": b"PROXY TCP4 192.0.2.10 192.0.2.20 51234 6003\r\n" + SHUTDOWN + b"\n",
    "proxy protocol 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + SHUTDOWN + b"\n",
    "sslv2 hello": bytes.fromhex("802e0103000015000000100000040100800700c0030080060040020080"),
    "tls alert": bytes.fromhex("15030100020228"),
    "x11": bytes.fromhex("6c000b000000000000000000"),
    "x11 big endian": b"B\0\0\x0b\0\0\0\x12\0\x10\0\0MIT-MAGIC-COOKIE-1\0\0" + bytes(16),
    "irc": b"NICK guest\r\nUSER guest 0 * :guest\r\nPRIVMSG #x :" + SHUTDOWN + b"\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "telnet": bytes.fromhex("fffd03fffb18fffb1ffffb20fffb21fffb22fffb27fffd05"),
    "smtp": b"EHLO scanner.example\r\n",
    "ftp": b"USER anonymous\r\nPASS x\r\n",
    "rtsp": b"OPTIONS / RTSP/1.0\r\n\r\n",
    "sip": b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm;branch=foo\r\n\r\n",
    "rdp cookie": b"\3\0\0\x2a\x25\xe0\0\0\0\0\0Cookie: mstshash=nmap\r\n\1\0\x08\0\3\0\0\0",
    "smb": b"\0\0\0\xa4\xffSMB\x72\0\0\0\0\x08\1\x40" + bytes(20) + b"PC NETWORK PROGRAM 1.0\0",
    "ldap bind": bytes.fromhex("300c020101600702010304008000"),
    "kerberos": bytes.fromhex("0000006e6a816e30816ba103020105a20302010aa4815e305ca00703050050800010"),
    "dns version": b"\0\x1e\0\6\1\0\0\1\0\0\0\0\0\0\7version\4bind\0\0\x10\0\3",
    "rpc": bytes.fromhex("8000002872fe1d130000000000000002000186a00001977c"),
    "java rmi": b"JRMI\0\2K",
    "redis": b"*1\r\n$4\r\nINFO\r\n",
    "mqtt": bytes.fromhex("101000044d5154540402003c0004") + b"nmap",
    "generic lines": b"\r\n\r\n",
    "help": b"HELP\r\n",
    "nut": b"LIST UPS\n",
    "zeros": bytes(4096),
    "every byte": bytes(range(256)) * 8,
    "without end": b"A" * 100_000,
    # near misses
    "lower case": SHUTDOWN.lower() + b"\n",
    "a blank before": b" " + SHUTDOWN + b"\n",
    "a mark of order before": b"\xef\xbb\xbf" + SHUTDOWN + b"\n",
    "utf-16": SHUTDOWN.decode().encode("utf-16-le"),
    "a tab": SHUTDOWN.replace(b" ", b"\t") + b"\n",
    "two blanks": SHUTDOWN.replace(b"EXECUTE ", b"EXECUTE  ") + b"\n",
    "a word more": SHUTDOWN + b" NOW\n",
    "a letter more": SHUTDOWN + b"X\n",
    "another mode": SHUTDOWN.replace(b"(SEND)", b"(RECV)") + b"\n",
    "the verb in a text": SHUTDOWN.replace(b"SHUTDOWN", b"TEXT please SHUTDOWN") + b"\n",
    "a secure line in the clear": b"RT1 SHUTDOWN 00c0ffee00c0ffee\n",
    "an unknown name": SHUTDOWN.replace(b"SHUTDOWN", b"EXECUTE /bin/sh -c halt") + b"\n",
    "a shell": SHUTDOWN.replace(b"SHUTDOWN", b"EXECUTE hello;halt") + b"\n",
    "a path": SHUTDOWN.replace(b"SHUTDOWN", b"EXECUTE ../hello") + b"\n",
}


def halves() -> Iterator[bytes]:
    """Every beginning of a SHUTDOWN that is not the whole word."""
    return (SHUTDOWN[:n] for n in range(len(SHUTDOWN)))


class Live:
    """`with Live(folder, ...) as live`: a real `rccmd listen` on 127.0.0.1 whose every command leaves a line.

    It is one file, as on a server, under `python` (default: the one that this venv was made with).
    """

    def __init__(
        self, folder: Path, *options: str, allow: str | None = "127.0.0.0/8", python: str | None = None
    ) -> None:
        self.folder, self._ran, self._log = folder, folder / "ran", folder / "log"
        script = folder / "act"
        script.write_text(f'#!/bin/sh\necho "$RCCMD_VERB $RCCMD_SENDER $(date +%s.%N)" >> {self._ran}\n')
        script.chmod(0o755)
        ini = folder / "rccmd.ini"
        allowed = "" if allow is None else f"allow = {allow}\n"
        more = "".join(f"{option}\n" for option in options)
        commands = f"on_shutdown = {script}\non_message = {script}\n[execute]\nhello = {script}\n"
        ini.write_text(f"[listen]\nbind = 127.0.0.1:0\n{allowed}{more}{commands}")
        (folder / "rccmd.pyz").write_bytes(archive.pack(str(ROOT / "agent" / "rccmd")))
        base = python or getattr(sys, "_base_executable", sys.executable)
        self._argv = [base, "-I", "-S", str(folder / "rccmd.pyz"), "listen", "--config", str(ini)]
        self.dropped = 0  # times that a true command had to be told again

    def __enter__(self) -> Live:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._argv, cwd=self.folder, stdin=subprocess.DEVNULL, stderr=log)
        until_s = time.monotonic() + 20
        while not (found := re.search(r"listening on 127\.0\.0\.1:(\d+)", self.log())):
            assert time.monotonic() < until_s and self.process.poll() is None, self.log()
            time.sleep(0.02)
        self.port = int(found[1])
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait(10)

    def log(self) -> str:
        """All that it said."""
        return self._log.read_text() if self._log.exists() else ""

    def ran(self) -> list[tuple[str, str, float]]:
        """What it ran: (verb, sender, wall second)."""
        lines = self._ran.read_text().splitlines() if self._ran.exists() else []
        return [(verb, sender, float(wall_s)) for verb, sender, wall_s in map(str.split, lines)]

    def tell(self, line: bytes, *, source: str = "127.0.0.1") -> bool:
        """A true classic command: True if it was taken (closed normally)."""
        with socket.create_connection(("127.0.0.1", self.port), 10, (source, 0)) as sock:
            sock.sendall(line + b"\n")
            try:
                return sock.recv(10) == b""
            except ConnectionResetError:
                return False

    def runs_within_s(self, tell: Callable[[], object], verb: str = "SHUTDOWN") -> float:
        """Tell a command and wait for its program: seconds from before the connection to the program's own first
        words; inf after 20 s. A sender that was dropped tells it again, as the adapter does."""
        before, began_s = len(self.ran()), time.time()
        again_s = 0.0
        while time.time() - began_s < 20:
            if time.time() >= again_s:
                again_s = time.time() + 1.0
                try:
                    tell()
                except OSError:
                    self.dropped += 1
                    again_s = time.time() + 0.1
            if mine := [wall_s for v, _, wall_s in self.ran()[before:] if v == verb]:
                return mine[0] - began_s
            time.sleep(0.01)
        return float("inf")


class Flood:
    """`with Flood(kind, port)`: another process that does this as fast as it can, for 60 s at most.

    junk: what a stranger says, and gone; open: a connection that says nothing, 512 kept; half: half a line, 512 kept;
    hello: a ClientHello, 512 kept; nobody: a whole TLS handshake without a certificate; udp: datagrams.
    `source`: from where; "127.9.0.*": from 200 addresses by turns.
    """

    KINDS = ("junk", "open", "half", "hello", "nobody", "udp")

    def __init__(self, kind: str, port: int, source: str = "127.0.0.1") -> None:
        self._argv = [sys.executable, "-m", "tests.rccmd_hostile_kit", kind, str(port), source]

    def __enter__(self) -> Flood:
        self._process = subprocess.Popen(self._argv, cwd=ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stdout.readline()  # it has begun
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        assert self._process.stdout is not None
        self.done = int(self._process.stdout.read().split()[-1])
        self._process.wait(10)
        self._process.stdout.close()


def _flood(kind: str, port: int, source: str) -> None:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    kept: collections.deque[socket.socket] = collections.deque(maxlen=512)
    junk, hello = list(STRANGERS.values()), client_hello()
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    done, until_s = 0, time.monotonic() + 60
    print("begun", flush=True)
    while not stop and time.monotonic() < until_s:
        done += 1
        try:
            if kind == "udp":
                udp.sendto(junk[done % len(junk)][:1400], ("127.0.0.1", port))
                continue
            sock = socket.create_connection(("127.0.0.1", port), 2, (source.replace("*", str(1 + done % 200)), 0))
            if kind == "nobody":
                with sock, nobody.wrap_socket(sock) as tls:
                    tls.recv(10)
                continue
            say = {"junk": junk[done % len(junk)], "half": SHUTDOWN[:30], "hello": hello}.get(kind, b"")
            if kind == "junk":
                with sock:
                    sock.sendall(say[:2000])
                continue
            if len(kept) == kept.maxlen:
                kept.popleft().close()
            kept.append(sock)
            sock.sendall(say)
        except OSError:
            continue  # dropped, as it should be
    print(done, flush=True)


if __name__ == "__main__":
    _flood(sys.argv[1], int(sys.argv[2]), sys.argv[3])
