"""A small web server that slow or hostile clients cannot block: the standard library's, with limits and deadlines.

One connection is one thread and one request (`Connection: close`). A connection that is still sending its request may
be closed in favour of a new one, so that whoever holds connections open without using them hurts only himself:

    accept -> slot (64, 16 per address) -> [TLS handshake] -> head -> body -> application -> answer | stream
              `--------------- 10 s in all, may give way ---------------'     20 s           16, 4 per address

An IPv6 client is counted by its /64. Nothing is read here but HTTP/1.x with a Content-Length (RFC 9112).
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from .addresses import split_address
from .httpanswer import SEND_S, Handler, Pipe, answer, error_body
from .httphead import Head, Refused, group_of, is_own_name, parse_head
from .model import ConfigError

log = logging.getLogger(__name__)

SLOTS = 64
SLOTS_PER_ADDRESS = 16
THREADS = SLOTS + 32  # those that were told to give way end within milliseconds
STREAMS = 16
STREAMS_PER_ADDRESS = 4
HEAD_LIMIT_BYTES = 8 * 1024
RECEIVE_S = 10.0  # handshake, head and body together
GIVE_WAY_PAUSE_S = 0.0005  # a flood is slowed down so far that an honest request is through before it must give way
LOG_PAUSE_S = 60.0  # between two reports of the same kind

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def own_names(names: Iterable[str] = ()) -> set[str]:
    """Under which host names the page may be opened, lower-case: our own, and `names`."""
    host = socket.gethostname().lower()
    return {"localhost", host, f"{host.partition('.')[0]}.local", *(n.lower() for n in names if n)}


# --- the server -------------------------------------------------------------------------------------------------

_RECEIVING, _WORKING, _STREAMING, _GONE = range(4)


@dataclass(eq=False, slots=True)
class _Slot:
    sock: socket.socket
    address: str
    group: str
    until_s: float  # the request must have been received by then
    phase: int = _RECEIVING


class Server:
    """Serves `app` at `listen`; with `tls` over TLS, and plain HTTP on the same port is only redirected."""

    def __init__(
        self,
        listen: str,
        app: App,
        tls: ssl.SSLContext | None = None,
        names: Iterable[str] = (),
        *,
        receive_s: float = RECEIVE_S,
        send_s: float = SEND_S,
    ) -> None:
        """`names`: further host names under which people open the page (Host field), besides localhost, the
        host's own name, the same with .local, and every literal address."""
        self._listen, self._app, self._tls = listen, app, tls
        self._receive_s, self._send_s = receive_s, send_s
        self._names = own_names(names)
        self._listener: socket.socket | None = None
        self._change = threading.Condition()
        self._slots: set[_Slot] = set()
        self._threads = 0
        self._stopping = threading.Event()
        self._reported_s: dict[str, float] = {}

    def bind(self) -> None:
        """Begin to listen. ConfigError names `[web] listen` and the remedy."""
        where = f'[web] listen = "{self._listen}"'
        try:
            host, port = split_address(self._listen)
        except ConfigError as e:
            raise ConfigError(f"[web] listen: {e}") from e
        try:
            kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
                0
            ]
        except socket.gaierror as e:
            raise ConfigError(f"{where}: {e.strerror}; write an address of this machine") from e
        sock = socket.socket(kind, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(address)
            sock.listen(256)
        except OSError as e:
            sock.close()
            remedy = {
                errno.EADDRINUSE: "another program listens there; stop it (ss -ltnp shows it) or choose another port",
                errno.EACCES: "a port below 1024 needs CAP_NET_BIND_SERVICE (the systemd unit has it)",
                errno.EADDRNOTAVAIL: "this machine does not have that address",
            }.get(e.errno or 0, "choose another address")
            raise ConfigError(f"{where}: {e.strerror}: {remedy}") from e
        sock.setblocking(False)
        self._listener = sock

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as (host, port); the port is the real one if 0 was asked for."""
        if self._listener is None:
            raise RuntimeError("bind first")
        name = self._listener.getsockname()
        return str(name[0]), int(name[1])

    def stop(self) -> None:
        """End `run` soon; open connections are closed."""
        self._stopping.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the selector

    def run(self, stop: threading.Event) -> None:
        """Accept and serve until `stop`, or `stop()`."""
        if self._listener is None:
            self.bind()
        assert self._listener is not None
        with self._listener as listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not stop.is_set() and not self._stopping.is_set():
                if selector.select(0.5):
                    self._accept(listener)
        with self._change:
            for slot in self._slots:
                _cut(slot)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return
        except OSError as e:  # stopped; no more file descriptors, or gone again
            if not self._stopping.is_set():
                self._report("accept", "web: cannot accept a connection: %s", e)
            self._stopping.wait(0.05)
            return
        address = str(peer[0])
        slot = _Slot(sock, address, group_of(address), time.monotonic() + self._receive_s)
        with self._change:
            counts = Counter(s.group for s in self._slots)
            greedy = [slot.group] if counts[slot.group] >= SLOTS_PER_ADDRESS else []
            if not greedy and len(self._slots) >= SLOTS:
                greedy = [group for group, _ in counts.most_common()]
            placed = not greedy or self._make_room(greedy)
            placed = placed and self._change.wait_for(lambda: self._threads < THREADS, 1.0)
            if placed:
                self._slots.add(slot)
                self._threads += 1
        if placed:
            threading.Thread(target=self._serve, args=(slot,), name="web", daemon=True).start()
        else:
            sock.close()
        if greedy:
            self._stopping.wait(GIVE_WAY_PAUSE_S)

    def _make_room(self, groups: Iterable[str]) -> bool:
        """Close the oldest connection, of the first of `groups` that has one, that is still receiving its request."""
        for group in groups:
            waiting = [s for s in self._slots if s.group == group and s.phase == _RECEIVING]
            if waiting:
                victim = min(waiting, key=lambda s: s.until_s)
                self._slots.discard(victim)
                _cut(victim)
                return True
        return False

    def _enter(self, slot: _Slot, phase: int) -> bool:
        """Whether the connection may go on; from now on it does not give way."""
        with self._change:
            if slot.phase == _GONE:
                return False
            if phase == _STREAMING:
                streams = [s for s in self._slots if s.phase == _STREAMING]
                if len(streams) >= STREAMS or sum(s.group == slot.group for s in streams) >= STREAMS_PER_ADDRESS:
                    return False
            slot.phase = phase
            return True

    def _serve(self, slot: _Slot) -> None:
        try:
            self._converse(slot)
        except OSError as e:
            log.debug("web: %s: %s", slot.address, e)
        finally:
            with self._change:
                slot.phase = _GONE
                self._slots.discard(slot)
                self._threads -= 1
                self._change.notify_all()
                _close(slot.sock)

    def _converse(self, slot: _Slot) -> None:
        secure = False
        if self._tls:
            slot.sock.settimeout(self._receive_s)
            first = slot.sock.recv(1, socket.MSG_PEEK)
            secure = first == b"\x16"  # a TLS handshake record
            if secure:
                with self._change:  # `sock` changes hands: nobody may cut it meanwhile
                    if slot.phase == _GONE:
                        return
                    slot.sock = self._tls.wrap_socket(slot.sock, server_side=True, do_handshake_on_connect=False)
                slot.sock.settimeout(max(0.001, slot.until_s - time.monotonic()))
                slot.sock.do_handshake()  # it is an SSLSocket now
        try:
            head, body = self._receive(slot)
            if not is_own_name(head.host, self._names):
                text = f"{head.host} is not a name of this adapter; open it by its address"
                raise Refused("421 Misdirected Request", text)
            if self._tls and not secure:
                if head.method not in ("GET", "HEAD"):
                    raise Refused("403 Forbidden", "use https")
                place = f"https://{head.fields['host']}{head.target}"
                answer(slot.sock, "301 Moved Permanently", error_body("use https"), {"Location": place})
                return
        except Refused as e:
            answer(slot.sock, e.status, error_body(e.text))
            _drain(slot.sock)
            return
        if self._enter(slot, _WORKING):
            self._work(slot, head, body, secure)

    def _receive(self, slot: _Slot) -> tuple[Head, bytes]:
        """The request's head and body. Refused as parse_head; OSError if it does not come in time."""
        inbox = bytearray()
        while (end := inbox.find(b"\r\n\r\n", 0, HEAD_LIMIT_BYTES)) < 0:
            if len(inbox) >= HEAD_LIMIT_BYTES:
                raise Refused("431 Request Header Fields Too Large", f"a head has at most {HEAD_LIMIT_BYTES} bytes")
            _receive_into(inbox, slot)
        head = parse_head(bytes(inbox[:end]))
        del inbox[: end + 4]
        while len(inbox) < head.length_bytes:
            _receive_into(inbox, slot)
        return head, bytes(inbox[: head.length_bytes])

    def _work(self, slot: _Slot, head: Head, body: bytes, secure: bool) -> None:
        pipe = Pipe(slot.sock, self._send_s)

        def stream() -> bool:
            pipe.renew = self._enter(slot, _STREAMING)
            return pipe.renew

        path, _, query = head.target.partition("?")
        host, port = self.address
        environ: dict[str, Any] = {
            "REQUEST_METHOD": head.method, "SCRIPT_NAME": "", "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query, "SERVER_NAME": host, "SERVER_PORT": str(port), "SERVER_PROTOCOL": head.version,
            "REMOTE_ADDR": slot.address,
            "CONTENT_LENGTH": str(head.length_bytes), "CONTENT_TYPE": head.fields.get("content-type", ""),
            "HTTPS": "on" if secure else "off", "httpd.group": slot.group, "httpd.stream": stream,
        }  # fmt: skip
        for name, value in head.fields.items():
            if name not in ("content-length", "content-type", "proxy"):
                environ["HTTP_" + name.upper().replace("-", "_")] = value
        handler = Handler(io.BytesIO(body), cast(Any, pipe), io.StringIO(), environ)
        handler.on_error = lambda: self._report("app", "web: %s %s failed", head.method, path, exc_info=True)
        handler.run(self._app)
        pipe.flush()  # an answer without a body

    def _report(self, kind: str, text: str, *args: object, exc_info: bool = False) -> None:
        now_s = time.monotonic()
        if now_s - self._reported_s.get(kind, -LOG_PAUSE_S) >= LOG_PAUSE_S:
            self._reported_s[kind] = now_s
            log.error(text, *args, exc_info=exc_info)


def _receive_into(inbox: bytearray, slot: _Slot) -> None:
    left_s = slot.until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no whole request in time")
    slot.sock.settimeout(left_s)
    data = slot.sock.recv(8192)
    if not data:
        raise ConnectionResetError("closed before the request was whole")
    inbox += data


def _drain(sock: socket.socket) -> None:
    """Take for a moment what still comes: closing over unread bytes would reset the answer away."""
    sock.settimeout(0.5)
    for _ in range(16):
        if not sock.recv(8192):
            return


def _cut(slot: _Slot) -> None:
    """Wake and end a connection's thread, from another one. Not SSLSocket.shutdown: that drops its state."""
    slot.phase = _GONE
    try:
        socket.socket.shutdown(slot.sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it is gone already


def _close(sock: socket.socket) -> None:
    try:
        sock.settimeout(0)
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()  # says goodbye; does not wait for theirs
    except (OSError, ValueError):
        pass  # it is gone, or never shook hands
    sock.close()
