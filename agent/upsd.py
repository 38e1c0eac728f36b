"""Talks to a NUT server (upsd) over TCP: one question, one whole answer, never waiting longer than it was allowed to.

Protocol: NUT, docs/net-protocol.txt; text lines that end with LF. An answer is one line, or a list up to its `END`
line; `ERR REASON` may stand in the place of either. An order that the server tracks (`OK TRACKING ID`) is asked after
until its driver has done it, and that is its answer. TLS comes with `STARTTLS`, and when it is asked for there is no
talking without it. `ssl` and `hashlib` are imported only then: memory.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import select
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .link import ready
from .model import LinkError, Option, Reply

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

CONNECT_WITHIN_S = 1.0  # each step of opening: TCP, STARTTLS, the handshake, USERNAME, PASSWORD
WITHIN_LIMIT_S = 5.0  # no question may take longer, whatever the caller says
RECEIVE_BYTES = 4096
SHOWN_BYTES = 64  # of a wrong answer, in an error text
RESOLVE_WITHIN_S = 1.0  # a name; in an outage nobody may be there to tell
TRACK_EVERY_S = 0.1
PENDING = b"OK PENDING"  # the answer to an order of which its driver has said nothing in time
_TRACKED = re.compile(rb"OK TRACKING ([0-9A-Za-z-]{1,64})")
_addresses: dict[str, str] = {}  # of names, as they were last; names of the configuration, so it stays small

OPTIONS: tuple[Option, ...] = (
    Option(
        name="host",
        kind=str,
        required=True,
        help="NUT server: IP address, or a name, which may not resolve in an outage",
    ),
    Option(name="tcp_port", kind=int, default=3493, low=1, high=65535, help="TCP port of the NUT server"),
    Option(name="user", kind=str, default="", help="user of upsd.users, for orders; empty: the UPS is only read"),
    Option(
        name="secret", kind=str, default="", help="label of the user's password; set it with: ridethrough secret set"
    ),
    Option(
        name="tls_fingerprint", kind=str, default="", help="SHA-256 of the server's certificate, hex: TLS, pinned"
    ),
    Option(
        name="tls_ca", kind=str, default="", help="path of the authority that signed its certificate: TLS, verified"
    ),
    Option(name="tls_name", kind=str, default="", help="name in that certificate; empty: the IP address"),
)


def _resolve(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def open(section: Mapping[str, Any], now: Callable[[], float]) -> UpsdLink:  # noqa: A001
    """Connect, begin TLS if it is wanted, and say who we are. `section["password"]`: the secret itself, if there is
    one. LinkError that names what is wrong; the password is never in it."""
    host, port = str(section["host"]), int(section.get("tcp_port", 3493))
    if section.get("user") and not section.get("password"):
        raise LinkError(
            f"[ups] user: no password; set it with: ridethrough secret set {section.get('secret') or 'LABEL'}"
        )
    try:
        sock = socket.create_connection((address(host), port), CONNECT_WITHIN_S)
    except OSError as e:
        raise LinkError(f"{host} port {port}: {e.strerror or e}") from e
    it = UpsdLink(sock, now, f"{host} port {port}")
    try:
        if section.get("tls_fingerprint") or section.get("tls_ca"):
            it.begin_tls(section)
        if section.get("user"):
            it.tell(b"USERNAME", str(section["user"]))
            it.tell(b"PASSWORD", str(section["password"]))
    except LinkError:
        it.close()
        raise
    return it


def address(host: str, resolve: Callable[[str], str] = _resolve) -> str:
    """The IP address of `host`; of a name that does not resolve within RESOLVE_WITHIN_S the one that it had last.
    LinkError if there was none."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass  # a name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", host):
        raise LinkError(f"[ups] host: {host!r} is neither an IP address nor a name")
    found: list[str] = []
    why = ["no answer in time"]

    def look() -> None:
        try:
            found.append(resolve(host))
        except (OSError, UnicodeError) as e:  # the second for a name that cannot be one: two dots in a row
            why[0] = _said(e)

    thread = threading.Thread(target=look, name="resolve", daemon=True)  # nothing else can end a search in time
    thread.start()
    thread.join(RESOLVE_WITHIN_S)
    if found:
        _addresses[host] = found[0]
    elif host in _addresses:
        log.debug("%s: %s; with its last address", host, why[0])
    else:
        raise LinkError(f"[ups] host: {host} does not resolve ({why[0]}); an IP address needs nobody's help")
    return _addresses[host]


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def quote(text: str) -> bytes:
    """A word of the protocol. LinkError for text that would be a line of its own."""
    if not text.isprintable():
        raise LinkError("a word for the NUT server has characters that cannot be printed")
    return b'"' + text.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'


class UpsdLink:
    """A connection. After silence or nonsense it is dead: what comes later would be taken for another answer."""

    wake_fd: int | None = None

    def __init__(self, sock: socket.socket, now: Callable[[], float], name: str) -> None:
        self._sock, self._now, self._name = sock, now, name
        self._dead = ""

    def ask(self, command: bytes, *, end: bytes = b"\n", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        """Send `command` and return what comes up to `end`, without it; a line `ERR ...` is returned in its place."""
        if self._dead:
            raise LinkError(self._dead)
        within_s = min(within_s, WITHIN_LIMIT_S)
        end_s = self._now() + within_s
        try:
            reply = self._ask(command, end, limit_bytes, within_s)
            tracked = _TRACKED.fullmatch(reply.data)
            return reply if tracked is None else self._track(tracked[1], end_s)
        except OSError as e:  # also ssl.SSLError and TimeoutError
            word = "no answer in time" if isinstance(e, TimeoutError) else e.strerror or str(e)
            self._dead = f"{self._name}: {word}"
        except LinkError as e:
            self._dead = f"{self._name}: {e}"
        raise LinkError(self._dead)

    def _ask(self, command: bytes, end: bytes, limit_bytes: int, within_s: float) -> Reply:
        end_s = self._now() + within_s
        self._sock.settimeout(within_s)
        self._sock.sendall(command)
        data = bytearray()
        while True:
            left_s = end_s - self._now()
            if left_s <= 0:
                raise TimeoutError
            self._sock.settimeout(left_s)
            part = self._sock.recv(RECEIVE_BYTES)
            if not part:
                raise LinkError("the NUT server closed the connection")
            searched = max(0, len(data) - len(end))
            data += part
            until = b"\n" if data.startswith(b"ERR ") else end
            at = data.find(until, 0 if until != end else searched)
            # a list ends with a line of its own: its words inside of a value are no end
            while at > 0 and len(end) > 1 and until == end and data[at - 1 : at] != b"\n":
                at = data.find(until, at + 1)
            if at >= 0:
                if len(data) > at + len(until):
                    raise LinkError(f"more than one answer: {bytes(data[at:][:SHOWN_BYTES])!r}")
                return Reply(bytes(data[:at]), self._now())
            if len(data) > limit_bytes:
                raise LinkError(f"an answer without end: {bytes(data[:SHOWN_BYTES])!r}")

    def _track(self, number: bytes, end_s: float) -> Reply:
        """What became of an order (GET TRACKING): OK, ERR REASON, or PENDING when the time is over."""
        while (left_s := end_s - self._now()) > 0:
            reply = self._ask(b"GET TRACKING " + number + b"\n", b"\n", 512, left_s)
            if reply.data == b"SUCCESS":
                return Reply(b"OK", reply.received_s)
            if reply.data != b"PENDING":
                return reply
            if ready(self._sock.fileno(), select.POLLIN, TRACK_EVERY_S):
                raise LinkError("it speaks unasked, or closed the connection")
        return Reply(PENDING, self._now())

    def send(self, command: bytes) -> None:
        """See model.Link: there is an answer to everything here."""
        self.ask(command)

    def tell(self, verb: bytes, word: str) -> None:
        """`verb "word"`, to which OK is the answer. LinkError without the word if it is not."""
        answer = self.ask(verb + b" " + quote(word) + b"\n", within_s=CONNECT_WITHIN_S).data
        if not answer.startswith(b"OK"):
            raise LinkError(f"{self._name}: {verb.decode()} was refused: {answer[:SHOWN_BYTES]!r}")

    def begin_tls(self, section: Mapping[str, Any]) -> None:
        """STARTTLS, and the server's certificate is the right one; else LinkError, and nothing more is said."""
        import hashlib
        import ssl

        pin = re.sub(r"[:\s]", "", str(section.get("tls_fingerprint") or "")).lower()
        if pin and not re.fullmatch(r"[0-9a-f]{64}", pin):
            raise LinkError("[ups] tls_fingerprint: not the 64 hex digits of a SHA-256")
        context = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), str(section.get("tls_ca") or ""))
        answer = self.ask(b"STARTTLS\n", within_s=CONNECT_WITHIN_S).data
        if answer != b"OK STARTTLS":
            raise LinkError(
                f"{self._name}: it does not offer TLS ({answer[:SHOWN_BYTES]!r}), and is not asked without"
            )
        self._sock.settimeout(CONNECT_WITHIN_S)
        try:
            made = context.wrap_socket(self._sock, server_hostname=str(section.get("tls_name") or section["host"]))
        except (OSError, ValueError) as e:  # the second for a name that cannot be one
            raise LinkError(f"{self._name}: TLS: {_said(e)}") from e
        self._sock = made
        shown = hashlib.sha256(made.getpeercert(binary_form=True) or b"").hexdigest()
        if pin and shown != pin:
            raise LinkError(f"{self._name}: its certificate is another one: SHA-256 {shown}")

    def close(self) -> None:
        """Close it; the server takes that for LOGOUT."""
        self._sock.close()


def _context(made: ssl.SSLContext, ca: str) -> ssl.SSLContext:
    """Verified by the authority at path `ca`; without one the library verifies nothing, and the pin is compared."""
    import ssl

    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca:
        try:
            made.load_verify_locations(ca)
        except (OSError, ValueError) as e:  # the second for a path that cannot be one
            raise LinkError(f"[ups] tls_ca: {ca!r}: {_said(e)}") from e
        return made
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made
