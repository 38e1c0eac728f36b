"""The head of a web request, read strictly: what is not exactly HTTP/1 is refused and named.

GET /path?query HTTP/1.1 CRLF
name: value CRLF ...
CRLF
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

BODY_LIMIT_BYTES = 64 * 1024


class Refused(Exception):
    """A request that is answered with an error before any application sees it."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")


@dataclass(frozen=True)
class Head:
    """A request's first line and fields; `fields` by lower-case name, repeated ones joined as RFC 9110 5.3 says."""

    method: str
    target: str  # as sent: path and query
    version: str
    fields: Mapping[str, str]
    host: str  # of the Host field, without port
    length_bytes: int


def parse_head(data: bytes) -> Head:
    """The head without its last two CRLFs. Refused (400, 411, 413) names what is wrong."""
    first, *rest = data.split(b"\r\n")
    if not (request := _REQUEST.fullmatch(first)):
        raise Refused("400 Bad Request", f"not an HTTP/1 request line: {first[:80]!r}")
    fields: dict[str, str] = {}
    for line in rest:
        if not (match := _FIELD.fullmatch(line)):
            raise Refused("400 Bad Request", f"not a header field: {line[:80]!r}")
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1")
        if name in fields:
            if name in ("host", "content-length"):
                raise Refused("400 Bad Request", f"more than one {name} field")
            value = fields[name] + ("; " if name == "cookie" else ", ") + value
        fields[name] = value
    if not (host := _HOST.fullmatch(fields.get("host", ""))):
        raise Refused("400 Bad Request", "no usable Host field")
    if "transfer-encoding" in fields:
        raise Refused("411 Length Required", "send a Content-Length instead of chunks")
    length = fields.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,9}", length):
        raise Refused("400 Bad Request", f"not a length: {length[:80]!r}")
    if int(length) > BODY_LIMIT_BYTES:
        raise Refused("413 Content Too Large", f"more than {BODY_LIMIT_BYTES} bytes")
    return Head(
        request[1].decode(), request[2].decode(), f"HTTP/1.{request[3].decode()}", fields, host[1], int(length)
    )


def is_own_name(host: str, names: Collection[str]) -> bool:
    """Whether a Host is an address or one of our names: what a foreign page made a browser resolve (DNS rebinding)
    carries the foreign page's name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().rstrip(".") in names
    return True


def group_of(address: str) -> str:
    """Who is counted together: an IPv4 address, an IPv6 /64."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
