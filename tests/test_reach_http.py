"""The way `http` against a real TLS server on loopback: what is sent, to whom alone, and what the answers mean."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import tls, webrequest
from agent.config import Server
from agent.model import ConfigError
from agent.reach import ACCEPTED, NOT_DELIVERED, PROVEN, REACHABLE, UNKNOWN, Job, Outcome, http
from tests import steps

OUTAGE = "0123456789abcdef"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\ngoing down\r\nx"
TOKEN = "ups@pve!ridethrough=12345678-1234-1234-1234-123456789abc"
Manner = Callable[[socket.socket, bytes], None]


def answer(data: bytes) -> Manner:
    return lambda sock, request: sock.sendall(data)


class Peer:
    """A TLS server on an ephemeral port that keeps every request it saw and answers in a manner."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", plain: bool = False) -> None:
        self.manner: Manner = answer(OK)
        self.requests: list[bytes] = []
        self.connections = 0
        pem = folder / "peer.pem"
        pem.write_bytes(PEM)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._plain = plain
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(raw,), daemon=True)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(5.0)
        try:
            with raw if self._plain else self._context.wrap_socket(raw, server_side=True) as sock:
                data = b""
                while b"\r\n\r\n" not in data:
                    if not (chunk := sock.recv(65536)):
                        return
                    data += chunk
                head, _, body = data.partition(b"\r\n\r\n")
                length = [
                    int(r.split(b":")[1]) for r in head.split(b"\r\n") if r.lower().startswith(b"content-length:")
                ]
                while length and len(body) < length[0]:
                    body += sock.recv(65536)
                self.requests.append(head + b"\r\n\r\n" + body)
                self.manner(sock, data)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


PEM = tls.make(["peer"])
FINGERPRINT = hashlib.sha256(ssl.PEM_cert_to_DER_cert(PEM.decode()[PEM.index(b"-----BEGIN CERT") :])).hexdigest()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path)
    yield made
    made.close()


def server(port: int = 8443, address: str = "127.0.0.1", **options: object) -> Server:
    basic = {"url": "/shutdown", "fingerprint": FINGERPRINT}
    return Server(name="nas", address=address, port=port, how="http", options=basic | options)


def job(made: Server, secret: str | None = None, connect_s: float = 2.0, address: object = "") -> Job:
    family = socket.AF_INET6 if ":" in made.address else socket.AF_INET
    return Job(
        server=made,
        address=(family, (made.address, 0, 0) if ":" in made.address else ("127.0.0.1",)) if address == "" else None,
        outage=OUTAGE,
        connect_s=connect_s,
        folder=Path("/nonexistent"),
        commands_dir=Path("/nonexistent"),
        secret=lambda label: secret,
    )


# --- over the wire ----------------------------------------------------------------------------------------------


def test_a_good_status_is_accepted_with_the_first_line(peer: Peer) -> None:
    assert steps.run(http.send(job(server(peer.port)))) == Outcome(ACCEPTED, "200 OK: going down")
    assert peer.requests == [
        f"POST /shutdown HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\nUser-Agent: ridethrough\r\n"
        "Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
    ]


def test_over_ipv6(tmp_path: Path) -> None:
    there = Peer(tmp_path, "::1")
    assert steps.run(http.send(job(server(there.port, "::1")))).word == ACCEPTED
    assert f"Host: [::1]:{there.port}\r\n".encode() in there.requests[0]
    there.close()


def test_the_preset_for_proxmox_sends_exactly_this(peer: Peer) -> None:
    options = {"preset": "proxmox-ve", "node": "pve1", "secret": "pve", "fingerprint": FINGERPRINT}
    made = Server(name="pve1", address="127.0.0.1", port=peer.port, how="http", options=options)
    peer.manner = answer(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"data":null}')
    assert not http.wrong(made)
    assert steps.run(http.send(job(made, TOKEN))) == Outcome(ACCEPTED, '200 OK: {"data":null}')
    assert steps.run(http.prove(job(made, TOKEN))).word == PROVEN
    lines = [f"Host: 127.0.0.1:{peer.port}", "User-Agent: ridethrough", "Connection: close"]
    token = f"Authorization: PVEAPIToken={TOKEN}"
    form = "Content-Type: application/x-www-form-urlencoded"
    post = [
        "POST /api2/json/nodes/pve1/status HTTP/1.1",
        *lines,
        token,
        form,
        "Content-Length: 16",
        "",
        "command=shutdown",
    ]
    get = ["GET /api2/json/version HTTP/1.1", *lines, token, "", ""]
    assert peer.requests == ["\r\n".join(rows).encode() for rows in (post, get)]


def test_the_preset_has_its_port_and_wants_a_whole_token() -> None:
    options = {"preset": "proxmox-ve", "node": "pve1", "secret": "pve", "fingerprint": FINGERPRINT}
    made = Server(name="a", address="192.0.2.7", port=http.port(options), how="http", options=options)
    request = webrequest.build(made, outage=OUTAGE, secret=lambda label: TOKEN)
    assert request.port == 8006 and b"Host: 192.0.2.7:8006\r\n" in request.data
    with pytest.raises(ConfigError, match="USER@REALM!TOKENID=UUID"):
        webrequest.build(made, outage=OUTAGE, secret=lambda label: TOKEN.partition("=")[2])


def test_another_certificate_is_refused_and_nothing_is_sent(peer: Peer) -> None:
    made = server(peer.port, fingerprint="00" * 32, secret="s", headers=["X-Key: {secret}"], prove_url="/v")
    says = f"another certificate; its SHA-256 is {FINGERPRINT}"
    assert steps.run(http.send(job(made, "hush"))) == Outcome(NOT_DELIVERED, says)
    assert steps.run(http.prove(job(made, "hush"))) == Outcome(UNKNOWN, says)
    time.sleep(0.05)
    assert peer.connections == 2 and peer.requests == []


def test_the_proof_without_a_url_is_the_certificate_alone(peer: Peer) -> None:
    assert steps.run(http.prove(job(server(peer.port)))) == Outcome(REACHABLE, "the certificate is the right one")
    time.sleep(0.05)
    assert peer.requests == []


def test_the_proof_with_a_url_is_a_get_with_the_same_headers(peer: Peer) -> None:
    made = server(
        peer.port,
        prove_url="/who?{server}",
        secret="s",
        headers=["X-Key: {secret}", "Content-Type: text/plain"],
        body="now",
    )
    assert steps.run(http.prove(job(made, "hush"))) == Outcome(PROVEN, "200 OK: going down")
    head = peer.requests[0].decode()
    assert head.startswith("GET /who?nas HTTP/1.1\r\n") and "X-Key: hush\r\n" in head
    assert "Content-" not in head and "now" not in head
    peer.manner = answer(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    assert steps.run(http.prove(job(made, "hush"))) == Outcome(UNKNOWN, "401 Unauthorized")


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "401 Unauthorized"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\n\r\n", "302 Found"),
        (b"HTTP/1.0 500 no\x07pe\r\n\r\nsorry", "500 no pe: sorry"),
        (b"", "no HTTP answer: Remote end closed connection without response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP answer: SSH-2.0-OpenSSH_9.2"),
        (b"HTTP/1.1 2OO OK\r\n\r\n", "no HTTP answer: HTTP/1.1 2OO OK"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "the answer is too long"),
        (b"HTTP/1.1 500 N\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "500 N"),
    ],
)
def test_everything_else_is_not_delivered_and_says_why(peer: Peer, data: bytes, detail: str) -> None:
    peer.manner = answer(data)
    outcome = steps.run(http.send(job(server(peer.port))))
    assert outcome.word == NOT_DELIVERED and outcome.detail.startswith(detail), outcome
    assert peer.connections == 1


def test_the_status_codes_that_count_can_be_named(peer: Peer) -> None:
    peer.manner = answer(b"HTTP/1.1 302 Found\r\n\r\n")
    assert steps.run(http.send(job(server(peer.port, ok=["302", "200"])))).word == ACCEPTED
    peer.manner = answer(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert steps.run(http.send(job(server(peer.port, ok=["302", "200"])))).word == NOT_DELIVERED
    assert steps.run(http.send(job(server(peer.port)))) == Outcome(ACCEPTED, "204 No Content")


def test_a_server_that_drips_ends_at_the_deadline(peer: Peer) -> None:
    def drip(sock: socket.socket, request: bytes) -> None:
        for byte in b"HTTP/1.1 200 OK and so on for ever, one byte at a time":
            sock.sendall(bytes([byte]))
            time.sleep(0.02)

    peer.manner = drip
    began_s = time.monotonic()
    outcome = steps.run(http.send(job(server(peer.port)), total_s=0.15))
    assert outcome == Outcome(NOT_DELIVERED, "no answer in time") and time.monotonic() - began_s < 0.5
    threads_end()


def test_a_server_that_drips_its_body_was_told_by_its_status(peer: Peer) -> None:
    def drip(sock: socket.socket, request: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        time.sleep(0.5)

    peer.manner = drip
    assert steps.run(http.send(job(server(peer.port)), total_s=0.15)) == Outcome(ACCEPTED, "200 OK")


def test_a_server_that_says_nothing_to_tls_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = server(silent.getsockname()[1])
        for way, word in ((http.send, NOT_DELIVERED), (http.prove, UNKNOWN)):
            assert steps.run(way(job(made), total_s=0.1)) == Outcome(word, "no answer in time")
    threads_end()


def test_a_huge_answer_is_read_only_as_far_as_it_matters(peer: Peer) -> None:
    sent = []

    def flood(sock: socket.socket, request: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(2000):
            sent.append(sock.send(b"x" * 65536))

    peer.manner = flood
    outcome = steps.run(http.send(job(server(peer.port))))
    assert outcome.word == ACCEPTED and len(outcome.detail) <= http.DETAIL_LIMIT + 10
    assert sum(sent) < 30_000_000
    peer.manner = answer(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 60_000 + b"\r\n")
    assert steps.run(http.send(job(server(peer.port)))).word == NOT_DELIVERED


def test_when_the_outage_ends_the_thread_ends_too_and_leaves_its_descriptor_alone(peer: Peer) -> None:
    let_go = threading.Event()
    peer.manner = lambda sock, request: let_go.wait(5) and None
    way = http.send(job(server(peer.port)))
    wait = next(way)
    while not peer.requests:
        time.sleep(0.005)
    way.close()
    others = os.eventfd(0, os.EFD_NONBLOCK)
    assert others == wait.fd  # the number has been given to somebody else
    threads_end()  # long before its deadline
    let_go.set()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(others)
    os.close(others)


def test_nothing_is_kept_open_however_it_ends(peer: Peer) -> None:
    steps.run(http.send(job(server(peer.port))))
    before = steps.descriptors()
    for _ in range(5):
        steps.run(http.send(job(server(peer.port))))
        steps.run(http.prove(job(server(peer.port))))
        steps.run(http.send(job(server(peer.port, fingerprint="00" * 32))))
        way = http.send(job(server(peer.port)))
        next(way)
        way.close()
        http.send(job(server(peer.port))).close()
    threads_end()
    end_s = time.monotonic() + 1  # the peer is this process, too
    while steps.descriptors() > before and time.monotonic() < end_s:
        time.sleep(0.005)
    assert steps.descriptors() <= before


def threads_end(within_s: float = 1.0) -> None:
    end_s = time.monotonic() + within_s
    while any(t.name == "http" for t in threading.enumerate()) and time.monotonic() < end_s:
        time.sleep(0.005)
    assert not any(t.name == "http" for t in threading.enumerate())


def test_64_silent_servers_at_once_do_not_hold_the_delivery() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        made = server(silent.getsockname()[1])
        ways = [http.send(job(made), total_s=1.0) for _ in range(http.SLOTS)]
        outcomes, longest_s = steps.run_all(ways)
    assert {o.word for o in outcomes} == {NOT_DELIVERED}
    assert longest_s < 0.7, f"longest step {longest_s * 1000:.1f} ms"  # one that waits takes a second
    threads_end()


def test_the_number_of_threads_has_a_limit() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        made = server(silent.getsockname()[1])
        ways = [http.send(job(made)) for _ in range(http.THREADS_LIMIT)]
        for way in ways:
            next(way)
        assert steps.run(http.send(job(made))).detail == "128 requests are under way already"
        for way in ways:
            way.close()
        threads_end()
        assert steps.run(http.prove(job(made), total_s=0.1)).detail == "no answer in time"


def test_requests_that_cannot_begin_take_no_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        made = server(gone.getsockname()[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        failed = [steps.run_all([http.send(job(made))])[0][0] for _ in range(http.THREADS_LIMIT + 1)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(isinstance(e, OSError) for e in failed)
    assert steps.run(http.send(job(made))).detail == "Connection refused"


def test_plain_http_needs_to_be_called_insecure(tmp_path: Path) -> None:
    there = Peer(tmp_path, plain=True)
    url = f"http://127.0.0.1:{there.port}/x"
    assert "insecure = true" in http.wrong(server(url=url, fingerprint=""))
    made = server(url=url, fingerprint="", insecure=True)
    assert steps.run(http.send(job(made))) == Outcome(ACCEPTED, "200 OK: going down")
    assert steps.run(http.prove(job(made))) == Outcome(REACHABLE, "it can be reached")
    there.close()


def test_nobody_listens(peer: Peer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert steps.run(http.send(job(server(port)))) == Outcome(NOT_DELIVERED, "Connection refused")
    assert steps.run(http.prove(job(server(port)))) == Outcome(UNKNOWN, "Connection refused")
    assert "looked up" in steps.run(http.send(job(server(port), address=None))).detail


def test_a_secret_that_comes_back_is_not_shown(peer: Peer) -> None:
    peer.manner = answer(b"HTTP/1.1 403 no hush\r\n\r\nwrong key: hush!")
    made = server(peer.port, secret="s", headers=["X-Key: {secret}"])
    assert steps.run(http.send(job(made, "hush"))) == Outcome(NOT_DELIVERED, "403 no ***: wrong key: ***!")
    assert "hush" not in repr(webrequest.build(made, outage=OUTAGE, secret=lambda label: "hush"))


def test_tls_is_loaded_only_by_the_first_request() -> None:
    script = (
        "import sys, agent.reach.http; sys.exit(any(m in sys.modules for m in ('ssl', 'http.client', 'hashlib')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- the request ------------------------------------------------------------------------------------------------


@given(st.text() | st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
@example('../a/b?c=d&e#f%2F+"}\\')
def test_no_value_can_add_a_header_a_parameter_or_a_field(secret: str) -> None:
    def build(**options: object) -> webrequest.Request:
        return webrequest.build(server(**options), outage=OUTAGE, secret=lambda label: secret)

    kinds = {
        "form": {"body": "a={secret}&b=2", "headers": ["Content-Type: application/x-www-form-urlencoded"]},
        "json": {"body": '{"a": "{secret}", "b": "2"}', "headers": ["Content-Type: application/json"]},
        "text": {"body": "a {secret} b", "headers": ["Content-Type: text/plain"]},
        "url": {"url": "/x?a={secret}&b=2#c"},
        "path": {"url": "/hook/{secret}/off"},
        "header": {"headers": ["X-A: {secret}", "X-B: 2"]},
    }
    for kind, options in kinds.items():
        try:
            data = build(secret="s", **options).data
        except ConfigError:
            assert kind in ("text", "header") or not secret.isprintable() or not secret or len(secret) > 4096
            continue
        head, _, body = data.partition(b"\r\n\r\n")
        rows = head.decode("ascii").split("\r\n")
        assert all(row.isprintable() for row in rows) and len(rows) == 5 + len(options.get("headers", ()))
        if kind == "form":
            assert parse_qs(body.decode(), keep_blank_values=True, strict_parsing=True) == {"a": [secret], "b": ["2"]}
        elif kind == "json":
            assert json.loads(body) == {"a": secret, "b": "2"}
        elif kind == "url":
            assert parse_qs(urlsplit(rows[0].split(" ")[1]).query, keep_blank_values=True) == {
                "a": [secret],
                "b": ["2"],
            }
        elif kind == "path":
            assert [unquote(part) for part in rows[0].split(" ")[1].split("/")] == ["", "hook", secret, "off"]
        elif kind == "header":
            assert rows.count(f"X-A: {secret}") == 1


def test_what_was_filled_in_is_not_filled_in_again() -> None:
    made = server(secret="s", headers=["X: {secret} {outage} {server}"])
    request = webrequest.build(made, outage=OUTAGE, secret=lambda label: "{outage}{server}")
    assert b"X: {outage}{server} 0123456789abcdef nas\r\n" in request.data


@pytest.mark.parametrize("value", [None, "", "a\r\nX-Evil: 1", "a\n", "a\0", "x" * 5000, "größe"])
def test_a_secret_that_cannot_be_sent_is_refused(peer: Peer, value: str | None) -> None:
    made = server(peer.port, secret="s", headers=["X: {secret}"])
    outcome = steps.run(http.send(job(made, value)))
    assert outcome.word == NOT_DELIVERED and "secret" in outcome.detail and not peer.connections
    made = server(peer.port, secret="s", headers=["Content-Type: application/json"], body='"{secret}"')
    assert value == "größe" or steps.run(http.send(job(made, value))) == outcome


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": ""}, "url"),
        ({"url": "shutdown"}, "url"),
        ({"url": "/a b"}, "url"),
        ({"url": "/a\r\nX: 1"}, "url"),
        ({"url": "ftp://127.0.0.1/"}, "url"),
        ({"url": "https://user:pass@127.0.0.1/"}, "url"),
        ({"url": "https://127.0.0.1:99999/"}, "url"),
        ({"url": "https://other.example/x"}, "other.example"),
        ({"url": "https://[::::]/"}, "url"),
        ({"fingerprint": ""}, "fingerprint: is missing"),
        ({"fingerprint": "ab:cd"}, "64 hex digits"),
        ({"insecure": True}, "insecure"),
        ({"headers": ["no colon"]}, "headers"),
        ({"headers": ["A: b\r\nC: d"]}, "headers"),
        ({"headers": ["Host: x"]}, "written by the agent"),
        ({"headers": ["A: b"] * 21}, "at most"),
        ({"headers": ["A: {token}"]}, "{token}"),
        ({"url": "/{node}"}, "{node}"),
        ({"headers": ["A: {secret}"]}, "secret"),
        ({"secret": "s"}, "secret"),
        ({"body": "x"}, "Content-Type"),
        ({"body": "x", "method": "GET"}, "GET"),
        ({"method": "DELETE"}, "method"),
        ({"ok": ["2xx"]}, "ok"),
        ({"ok": ["200", "99"]}, "ok"),
        ({"prove_url": "https://127.0.0.1/"}, "prove_url"),
        ({"prove_url": "/shutdown"}, "might shut the server down"),
        ({"method": "GET", "prove_url": "/shutdown?"}, "might shut the server down"),
        ({"prove_url": "//./Shut%64own/#x"}, "might shut the server down"),
        ({"prove_url": "/a/../shutdown/;v"}, "might shut the server down"),
        ({"url": "/do?a=1&b=2", "prove_url": "/do?b=2&&a=1"}, "might shut the server down"),
        ({"url": "/off/{server}{outage}", "prove_url": "/off/nas"}, "might shut the server down"),
        ({"preset": "esxi"}, "proxmox-ve"),
        ({"preset": "proxmox-ve"}, "node"),
        ({"node": "pve"}, "node"),
        ({"preset": "proxmox-ve", "node": "pve/../x", "secret": "s"}, "node"),
    ],
)
def test_what_only_shows_together_is_said_with_its_remedy(options: dict[str, object], says: str) -> None:
    problem = http.wrong(server(**options))
    assert says in problem and len(problem) < 160


def test_a_whole_url_on_the_servers_own_name_goes_to_its_address() -> None:
    made = server(address="nas.example", url="https://nas.example:5001/x", fingerprint=FINGERPRINT.upper())
    assert not http.wrong(made)
    request = webrequest.build(made, outage=OUTAGE, secret=lambda label: None)
    assert (request.host, request.port) == ("nas.example", 5001) and b"Host: nas.example:5001\r\n" in request.data


KINDS = {
    str: st.text() | st.sampled_from(["/x", "https://[::1]", "{secret}", "proxmox-ve", FINGERPRINT, "GET", "pve"])
}
KINDS[bool], KINDS[list] = st.booleans(), st.lists(st.text() | st.sampled_from(["A: b", "200", "A: {secret}"]))
OPTIONS = st.fixed_dictionaries({}, optional={o.name: st.none() | KINDS[o.kind] for o in http.OPTIONS})
GOOD = st.sampled_from(
    [
        {"url": "/x", "fingerprint": FINGERPRINT},
        {"preset": "proxmox-ve", "node": "pve", "secret": "s", "fingerprint": FINGERPRINT},
    ]
)
ALMOST = st.tuples(GOOD, OPTIONS, st.sets(st.sampled_from([o.name for o in http.OPTIONS]), max_size=2)).map(
    lambda drawn: drawn[0] | {name: value for name, value in drawn[1].items() if name in drawn[2]}
)


@settings(max_examples=400)
@given(OPTIONS | ALMOST)
def test_wrong_never_raises_and_what_it_passes_can_be_built(options: dict[str, object]) -> None:
    made = Server(name="a", address="192.0.2.7", port=443, options=options)
    if not http.wrong(made):
        try:
            data = webrequest.build(made, outage=OUTAGE, secret=lambda label: "plain").data
        except ConfigError:
            assert options.get("preset")  # the secret of a preset has a form
        else:
            assert data.partition(b"\r\n\r\n")[0].decode("ascii").replace("\r\n", "").isprintable()


class Script:
    """A socket that gives these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = list(pieces)

    def settimeout(self, within_s: float) -> None:
        assert within_s > 0

    def recv_into(self, buffer: memoryview) -> int:
        if not self.pieces:
            return 0
        piece = self.pieces.pop(0)
        buffer[: len(piece)] = piece[: len(buffer)] if len(piece) > len(buffer) else piece
        return min(len(piece), len(buffer))


HEADS = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: -3\r\n"]
    + [
        b"\r\n",
        b"5\r\nabc",
        b"Content-Length: 9999999999999999999999\r\n",
        b"HTTP/9.9 999 \xff\r\n",
        b"ffffffffff\r\n",
    ]
)


@given(st.lists(HEADS | st.binary(max_size=40).filter(bool)))
def test_no_answer_makes_it_raise(pieces: list[bytes]) -> None:
    found = http.read_answer(http._Timed(Script(pieces), time.monotonic() + 5), "s")
    assert found.text.isprintable() and 0 <= found.status <= 999
