"""HTTP: one request with which a server, a hypervisor or a home automation is asked to shut down.

The server's certificate is pinned by its fingerprint, compared before a byte of the request is sent; names and dates
are not looked at, for a board may believe that it is 1970. The request runs in a thread of its own, because TLS in
the standard library waits; the thread ends by its own deadline, and these steps wait for its signal.
"""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import tlssteps
from ..config import Server
from ..model import ConfigError, Option
from ..webrequest import DEFAULT_PORT, METHODS, PRESETS, Request, build, mistake
from ..webrequest import place as goes_to
from ..webrequest import port as default_port
from . import ACCEPTED, NOT_DELIVERED, PROVEN, REACHABLE, UNKNOWN, Job, Outcome, Steps, Wait

if TYPE_CHECKING:
    import ssl

PORT, SLOTS = DEFAULT_PORT, 64
OPTIONS = (
    Option(name="method", kind=str, choices=METHODS, help="of the request; POST unless written"),
    Option(name="url", kind=str, help="a path on the server, or a whole https:// address"),
    Option(name="headers", kind=list, help='more header lines, "Name: value"'),
    Option(name="body", kind=str, help="what is sent; needs a Content-Type in headers"),
    Option(name="fingerprint", kind=str, help="SHA-256 of the server's certificate, with or without colons"),
    Option(name="insecure", kind=bool, default=False, help="allows http://, where anybody can read along"),
    Option(name="secret", kind=str, help="label of the secret that {secret} stands for"),
    Option(name="ok", kind=list, help='status codes that count as accepted, such as ["200"]; else all of 2xx'),
    Option(name="prove_url", kind=str, help="what is fetched with GET and the same headers as a proof"),
    Option(name="preset", kind=str, choices=tuple(PRESETS), help="fills in the other options"),
    Option(name="node", kind=str, help="of the preset proxmox-ve: the node's name"),
)

TOTAL_S = 10.0  # for everything after the connection
SLACK_S = 1.0  # the thread ends by itself before this
BODY_S = 1.0  # for the first piece of the body: its status is known already
ANSWER_LIMIT_BYTES = 32 * 1024  # head and body as they come
BODY_LIMIT_BYTES = 4096
DETAIL_LIMIT = 120
THREADS_LIMIT = 2 * SLOTS  # with those whose outage has ended

_threads = threading.BoundedSemaphore(THREADS_LIMIT)


@dataclass(frozen=True, slots=True)
class _Answer:
    """`status` 0: none; `text` says why, or what the server said. `failed`: not even the connection was good."""

    status: int
    text: str
    failed: bool = False


def port(options: Mapping[str, Any]) -> int:
    """Where it listens unless `port` says otherwise: the preset's, else that of HTTPS."""
    return default_port(options)


def wrong(server: Server) -> str:
    """What is wrong with the options taken together."""
    return mistake(server)


def place(server: Server) -> tuple[str, int, str]:
    """Where the request goes."""
    return goes_to(server)


def send(job: Job, total_s: float = TOTAL_S) -> Steps:
    """One request. ACCEPTED: the status is one of those that count as accepted."""
    try:
        request = build(job.server, outage=job.outage, secret=job.secret)
        answer = yield from _ask(job, request, total_s)
    except ConfigError as e:
        return Outcome(NOT_DELIVERED, str(e))
    return Outcome(ACCEPTED if answer.status in request.ok else NOT_DELIVERED, answer.text)


def prove(job: Job, total_s: float = TOTAL_S) -> Steps:
    """PROVEN: the `prove_url` answered well. REACHABLE: there is none, but the certificate is the right one."""
    try:
        request = build(job.server, outage="", secret=job.secret, proof=True)
        answer = yield from _ask(job, request, total_s)
    except ConfigError as e:
        return Outcome(UNKNOWN, str(e))
    except OSError as e:
        return Outcome(UNKNOWN, e.strerror or str(e))
    if not request.target:
        return Outcome(REACHABLE if not answer.failed else UNKNOWN, answer.text)
    return Outcome(PROVEN if answer.status in request.ok else UNKNOWN, answer.text)


def _ask(job: Job, request: Request, total_s: float) -> Generator[Wait, None, _Answer]:
    """The answer of one request; its thread is given up when nobody wants it any more."""
    if request.host == job.server.address:
        if job.address is None:
            return _Answer(0, f"{job.server.address} could not be looked up", failed=True)
        family, (host, *rest) = job.address
    else:
        row = socket.getaddrinfo(request.host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
        family, host, rest = row[0], row[4][0], list(row[4][2:])
    if not _threads.acquire(blocking=False):
        return _Answer(0, f"{THREADS_LIMIT} requests are under way already", failed=True)
    try:
        asking = _Asking(request, family, (host, request.port, *rest), job.connect_s, total_s)
    except OSError:
        _threads.release()
        raise
    try:
        yield Wait(asking.fd, False, job.connect_s + total_s + SLACK_S, "no answer in time")
        return asking.answer
    finally:
        if asking.sent:
            job.heard()
        asking.close()


class _Asking:
    """The request under way in its thread. Whoever waits for `fd` must `close` it."""

    def __init__(
        self, request: Request, family: int, place: tuple[Any, ...], connect_s: float, total_s: float
    ) -> None:
        self.answer = _Answer(0, "no answer", failed=True)
        self.sent = False  # the whole request
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._request, self._family, self._place = request, family, place
        self._connect_s, self._total_s = connect_s, total_s
        self._lock, self._closed = threading.Lock(), False  # the number of a closed descriptor may be another's
        self._sock: socket.socket | None = None
        try:
            threading.Thread(target=self._run, name="http", daemon=True).start()
        except RuntimeError as e:
            os.close(self.fd)
            raise OSError("no thread for the request") from e

    def close(self) -> None:
        """Nobody waits any more: the thread is woken and ends."""
        with self._lock:
            self._closed = True
            os.close(self.fd)
            if self._sock is not None:
                try:
                    # not SSLSocket's own, which would make it go on without TLS
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
                except OSError:
                    pass  # it was never connected, or is gone

    def _run(self) -> None:
        try:
            self.answer = self._talk()
        except TimeoutError:
            self.answer = _Answer(0, "no answer in time", failed=True)
        except (OSError, ValueError) as e:  # ssl.SSLError is one; ValueError: a name that TLS cannot send
            self.answer = _Answer(0, getattr(e, "strerror", None) or str(e), failed=True)
        finally:
            _threads.release()
            with self._lock:
                if not self._closed:
                    os.eventfd_write(self.fd, 1)

    def _hold(self, sock: socket.socket | None) -> None:
        """This is the socket that `close` must end."""
        with self._lock:
            if self._closed and sock is not None:
                raise TimeoutError
            self._sock = sock

    def _talk(self) -> _Answer:
        request = self._request
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            self._hold(sock)
            sock.settimeout(self._connect_s)
            try:
                sock.connect(self._place)
            except TimeoutError:
                return _Answer(0, "no connection in time", failed=True)
            end_s = time.monotonic() + self._total_s
            sock.settimeout(self._total_s)
            if request.tls:
                sock = secured = _wrapped(sock, request)
                self._hold(secured)
                secured.do_handshake()
                tlssteps.check(secured, request.fingerprint)
            if not request.target:
                return _Answer(0, "the certificate is the right one" if request.tls else "it can be reached")
            sock.settimeout(max(0.001, end_s - time.monotonic()))
            sock.sendall(request.data)
            self.sent = True
            return read_answer(_Timed(sock, end_s), request.secret)
        finally:
            self._hold(None)
            sock.close()


class _Timed(io.RawIOBase):
    """What the server sends, up to a second and a number of bytes, however slowly it drips."""

    def __init__(self, sock: Any, end_s: float) -> None:
        self._sock, self._left = sock, ANSWER_LIMIT_BYTES
        self.end_s = end_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        if not self._left:
            raise OSError("the answer is too long")
        got = self._sock.recv_into(memoryview(buffer)[: self._left])
        self._left -= got
        return int(got)


class _Pretended:
    """What http.client.HTTPResponse wants of a socket."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._raw, 4096)


def read_answer(raw: _Timed, secret: str) -> _Answer:
    """The status, and the first line of what follows. OSError if there is none."""
    import http.client

    response = http.client.HTTPResponse(_Pretended(raw))  # type: ignore[arg-type]
    try:
        response.begin()
    except (http.client.HTTPException, ValueError) as e:
        return _Answer(0, f"no HTTP answer: {_line(str(e) or type(e).__name__, secret)}")
    raw.end_s = min(raw.end_s, time.monotonic() + BODY_S)
    try:
        body = response.read1(BODY_LIMIT_BYTES)
    except (http.client.HTTPException, ValueError, OSError):
        body = b""  # the status is what counts
    status = _line(f"{response.status} {response.reason}", secret)
    first = _line(body.decode("utf-8", "replace").strip().partition("\n")[0], secret)
    return _Answer(response.status, f"{status}: {first}" if first else status)


def _line(text: str, secret: str) -> str:
    """Printable, short, and without the secret if the server sent it back."""
    if secret:
        text = text.replace(secret, "***")
    return "".join(c if c.isprintable() else " " for c in text).strip()[:DETAIL_LIMIT]


def _wrapped(sock: socket.socket, request: Request) -> ssl.SSLSocket:
    name = None if request.host.replace(".", "").isdigit() or ":" in request.host else request.host
    return tlssteps.anonymous().wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
