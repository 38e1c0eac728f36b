"""Asks an SNMP agent over UDP: one request, its own answer, never waiting longer than it was allowed to.

Sources: RFC 1157 and RFC 3416 (messages), RFC 3417 (UDP). The socket is connected, so the system drops what comes
from elsewhere; what has another request-id, version or community is dropped here. A question is sent again while
there is time; an order never is.

A request is the PDU's tag around its variable bindings, without what belongs to the message; an answer is the
error-status, the error-index and the SEQUENCE of the bindings. So a driver knows no version and no community.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from . import ber
from .model import Link, LinkError, Option, Reply

log = logging.getLogger(__name__)

DATAGRAM_LIMIT_BYTES = 1472  # one Ethernet frame: nothing is ever in fragments
AGAIN_S = 0.6  # without an answer a question is sent again; later, if the last answer took longer than half of it
WITHIN_LIMIT_S = 5.0  # no request may take longer, whatever the caller says
VERSIONS = {"1": ber.V1, "2c": ber.V2C}  # the third has a link of its own

OPTIONS: tuple[Option, ...] = (
    Option(name="host", kind=str, required=True, help="IP address of the agent (names may not resolve in an outage)"),
    Option(name="udp_port", kind=int, default=161, low=1, high=65535, help="UDP port of the agent"),
    Option(name="version", kind=str, default="2c", choices=(*VERSIONS, "3"), help="version of SNMP"),
    Option(
        name="secret",
        kind=str,
        required=True,
        help="label of the community, or of the passphrases of version 3; set it with: ridethrough secret set",
    ),
    Option(name="user", kind=str, default="", help="version 3: name of the user"),
    Option(name="auth", kind=str, default="sha256", choices=("md5", "sha1", "sha256", "sha512"), help="how it signs"),
    Option(name="priv", kind=str, default="aes128", choices=("des", "aes128"), help="how it encrypts"),
)


def open(section: Mapping[str, Any], now: Callable[[], float]) -> Link:  # noqa: A001
    """A socket to the agent; sends nothing. `section["password"]`: the community. LinkError names what is wrong."""
    host, port = str(section["host"]), int(section.get("udp_port", 161))
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise LinkError(f'[ups] host: "{host}" is no IP address') from None
    community = section.get("password")
    if not community:
        label = section.get("secret") or "LABEL"
        raise LinkError(f"[ups] secret: there is none; set it with: ridethrough secret set {label}")
    if str(section.get("version")) == "3":
        from . import snmp3link  # only here: the others need no child

        return snmp3link.open(section, now, f"{host} port {port}")
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.connect((host, port))
    except OSError as e:
        sock.close()
        raise LinkError(f"{host} port {port}: {e.strerror or e}") from e
    prefix = ber.integer(VERSIONS[str(section.get("version", "2c"))])
    return SnmpLink(sock, now, prefix + ber.tlv(ber.OCTET_STRING, str(community).encode()), f"{host} port {port}")


class SnmpLink:
    """A connected socket; `prefix` is version and community as they begin every message."""

    wake_fd: int | None = None

    def __init__(self, sock: socket.socket, now: Callable[[], float], prefix: bytes, name: str) -> None:
        self._sock, self._now, self._prefix, self._name = sock, now, prefix, name
        self._again_s = AGAIN_S
        self._id = int.from_bytes(os.urandom(4), "big") >> 2  # `secrets` would bring hashlib into the core

    def ask(self, command: bytes, *, end: bytes = b"", limit_bytes: int = 0, within_s: float = 3.0) -> Reply:
        """The answer to the request `command` (see above). LinkError: none in time, or none that can be read."""
        try:
            tag, start, stop = ber.head(command, 0, len(command))
            self._id = self._id + 1 & 0x3FFFFFFF
            asked = ber.message(self._prefix, tag, ber.integer(self._id), 0, 0, command[start:stop])
            if len(asked) > DATAGRAM_LIMIT_BYTES:
                raise LinkError(f"{self._name}: a request of {len(asked)} octets is too long")
            data = self._exchange(asked, min(within_s, WITHIN_LIMIT_S), again=tag != ber.SET)
        except OSError as e:
            word = "no answer in time" if isinstance(e, TimeoutError) else e.strerror or str(e)
            raise LinkError(f"{self._name}: {word}") from e
        return Reply(data, self._now())

    def _exchange(self, asked: bytes, within_s: float, *, again: bool) -> bytes:
        """What comes from others ends nothing but the time. An agent that answers one question after the other, and
        takes its time, would never be through with our repetitions: it sets their pace."""
        began_s = self._now()
        end_s = began_s + within_s
        self._sock.send(asked)
        waiting_s = self._again_s
        again_s = self._now() + waiting_s
        while True:
            now_s = self._now()
            if now_s >= end_s:
                self._again_s = min(2 * self._again_s, WITHIN_LIMIT_S)
                raise TimeoutError
            if again and now_s >= again_s:
                self._sock.send(asked)
                waiting_s *= 2
                again_s = now_s + waiting_s
            self._sock.settimeout(min(end_s, again_s if again else end_s) - now_s or 0.001)
            try:
                data = self._sock.recv(DATAGRAM_LIMIT_BYTES + 1)
            except TimeoutError:
                continue
            found = self._mine(data)
            if found is not None:
                self._again_s = min(max(AGAIN_S, 2 * (self._now() - began_s)), WITHIN_LIMIT_S)
                return found

    def _mine(self, data: bytes) -> bytes | None:
        """What the driver gets of this datagram; None if it is no answer to the last request."""
        if len(data) > DATAGRAM_LIMIT_BYTES:
            log.debug("%s: a datagram of more than %d octets", self._name, DATAGRAM_LIMIT_BYTES)
            return None
        try:
            header = ber.read_header(data)
            pdu = ber.read_pdu(data, header.pdu_at)
            theirs = ber.read_header(ber.tlv(ber.SEQUENCE, self._prefix + ber.tlv(ber.GET, b"")))
            if (header.version, header.community, pdu.tag) != (theirs.version, theirs.community, ber.RESPONSE):
                return None
            if ber.number(pdu.request_id, 0, len(pdu.request_id))[0] != self._id:
                return None
        except ber.Malformed as e:
            log.debug("%s: %s", self._name, e)
            return None
        return ber.integer(pdu.first) + ber.integer(pdu.second) + ber.tlv(ber.SEQUENCE, pdu.bindings)

    def send(self, command: bytes) -> None:
        """See model.Link: there is an answer to everything here."""
        self.ask(command)

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()
