"""Makes the one HTTP request of a server out of its options, and says what is wrong with them.

`{secret}`, `{outage}` and `{server}` may stand in url, headers and body. In a url they are percent-encoded, in a body
they are written as its Content-Type wants it, in a header they must be printable ASCII: no value can add a line,
a parameter or a field.
"""

from __future__ import annotations

import ipaddress
import json
import posixpath
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from .addresses import normal
from .config import Server
from .model import ConfigError

METHODS = ("GET", "PUT", "POST", "PATCH")
HEADERS_LIMIT = 20
SECRET_LIMIT = 4096  # characters
ACCEPTED_CODES = range(200, 300)
#: what a preset stands for; {node} is its own, and `port` the default of the server's
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "proxmox-ve": {
        "url": "/api2/json/nodes/{node}/status",
        "headers": ("Authorization: PVEAPIToken={secret}", "Content-Type: application/x-www-form-urlencoded"),
        "body": "command=shutdown",
        "prove_url": "/api2/json/version",
        "port": 8006,
        "secret_form": r"[^\s@!=]+@[^\s@!=]+![^\s@!=]+=[^\s=]+",
        "secret_help": "USER@REALM!TOKENID=UUID",
    },
}

_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(/.*)?")
_TARGET = re.compile(r"/[!-~]*")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ ]*([ -~]*)")
_OURS = ("host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "expect")
_PLACE = re.compile(r"\{([a-z]+)\}")
DEFAULT_PORT = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent where."""

    tls: bool
    host: str  # an address, or the server's `address`
    port: int
    fingerprint: bytes  # of the certificate; b"" without TLS
    target: str  # "": nothing is asked, the certificate is proof enough
    data: bytes = field(repr=False)  # the whole request as it goes over the wire
    ok: Container[int] = ACCEPTED_CODES
    secret: str = field(default="", repr=False)  # not to be shown if it comes back


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The options, checked, with their places still empty."""

    tls: bool
    host: str
    port: int
    fingerprint: bytes
    method: str
    target: str
    prove_target: str
    headers: tuple[tuple[str, str], ...]
    body: str
    label: str
    node: str
    ok: Container[int]
    preset: Mapping[str, Any]


def mistake(server: Server) -> str:
    """What is wrong with the options taken together, or ''."""
    try:
        _shape(server)
    except ConfigError as e:
        return str(e)
    return ""


def build(server: Server, *, outage: str, secret: Callable[[str], str | None], proof: bool = False) -> Request:
    """The request, or with `proof` the one that proves. ConfigError if an option or the secret is wrong."""
    shape = _shape(server)
    value = _secret(shape, secret) if shape.label else ""
    values = {"secret": value, "outage": outage, "server": server.name, "node": shape.node}
    target = _fill(shape.prove_target if proof else shape.target, values, _percent)
    method, body = ("GET", "") if proof else (shape.method, shape.body)
    headers = [(name, _fill(text, values, str)) for name, text in shape.headers]
    if proof:
        headers = [(name, text) for name, text in headers if not name.lower().startswith("content-")]
    if bad := next((name for name, text in headers if not re.fullmatch(r"[ -~]*", text)), ""):
        raise ConfigError(f'secret "{shape.label}" cannot stand in the header {bad}: it is not printable ASCII')
    kind = next((text.lower() for name, text in headers if name.lower() == "content-type"), "")
    content = _fill(body, values, _json if "json" in kind else _percent if "urlencoded" in kind else _plain).encode()
    default = 443 if shape.tls else 80
    host = shape.host.partition("%")[0]
    host = f"[{host}]" if ":" in host else host
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {host}" + ("" if shape.port == default else f":{shape.port}"),
        "User-Agent: ridethrough",
        "Connection: close",
        *(f"{name}: {text}" for name, text in headers),
        *([f"Content-Length: {len(content)}"] if content or method != "GET" else []),
    ]
    return Request(
        tls=shape.tls,
        host=shape.host,
        port=shape.port,
        fingerprint=shape.fingerprint,
        target=target,
        data="\r\n".join([*lines, "", ""]).encode("ascii") + content,
        ok=shape.ok,
        secret=value,
    )


def port(options: Mapping[str, Any]) -> int:
    """Where such a server listens unless its `port` says otherwise."""
    return int(PRESETS.get(str(options.get("preset", "")), {}).get("port", DEFAULT_PORT))


def place(server: Server) -> tuple[str, int, str]:
    """Host and port that the request really goes to, and if that is not the server's own address, what is asked
    there: a hub may be asked for several servers. ConfigError if an option is wrong."""
    shape = _shape(server)
    hub = normal(shape.host) != normal(server.address)
    return shape.host, shape.port, f"{shape.method} {shape.target} {shape.body}" if hub else ""


def _same(one: str, other: str, server: str, node: str) -> bool:
    """Would most servers take both targets for the same?"""
    values = {"outage": "", "server": server, "node": node}
    texts = [unquote(_fill(target, values, _percent).partition("#")[0]).casefold() for target in (one, other)]
    parts = [text.partition("?") for text in texts]
    steps = [[re.sub(";.*", "", step) for step in path.split("/")] for path, _, _ in parts]
    paths = [posixpath.normpath("/" + "/".join(filter(None, path))) for path in steps]
    queries = [sorted(filter(None, query.split("&"))) for _, _, query in parts]
    return paths[0] == paths[1] and queries[0] == queries[1]


def _shape(server: Server) -> _Shape:
    given = {name: value for name, value in server.options.items() if value}
    preset = PRESETS.get(str(given.get("preset", "")), {})
    if "preset" in given and not preset:
        raise ConfigError(f'preset = "{given["preset"]}": there are {", ".join(PRESETS)}')
    options = {**preset, **given}
    node = str(options.get("node", ""))
    if bool(node) != bool(preset) or (node and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", node)):
        raise ConfigError("node: the preset proxmox-ve needs the name of the node, nothing else has one")
    method = str(options.get("method", "POST"))
    if method not in METHODS:
        raise ConfigError(f'method = "{method}": there are {", ".join(METHODS)}')
    tls, host, port, target = _place(str(options.get("url", "")), server.address, server.port)
    prove_target = str(options.get("prove_url", ""))
    if prove_target and not _TARGET.fullmatch(prove_target):
        raise ConfigError("prove_url: must be a path on the same server, such as /api/version")
    if prove_target and _same(target, prove_target, server.name, node):
        raise ConfigError(
            "prove_url: is the url itself, so the proof might shut the server down; fetch something else"
        )
    headers = _headers(options.get("headers", ()))
    body = str(options.get("body", ""))
    if body and method == "GET":
        raise ConfigError('body: a GET has none; write method = "POST"')
    if body and not any(name.lower() == "content-type" for name, _ in headers):
        raise ConfigError('body: write its kind into headers, such as "Content-Type: application/json"')
    label, texts = str(options.get("secret", "")), [target, prove_target, *(text for _, text in headers)]
    for word in (word for text in texts for word in _PLACE.findall(text)):
        if word not in ("secret", "outage", "server") and not (word == "node" and preset):
            raise ConfigError(f"{{{word}}}: only {{secret}}, {{outage}} and {{server}} are replaced")
    if bool(label) != any("{secret}" in text for text in (*texts, body)):
        raise ConfigError("secret: its label here and {secret} in url, headers or body belong together")
    return _Shape(
        tls=tls,
        host=host,
        port=port,
        fingerprint=_fingerprint(str(options.get("fingerprint", "")), tls, bool(options.get("insecure"))),
        method=method,
        target=target,
        prove_target=prove_target,
        headers=headers,
        body=body,
        label=label,
        node=node,
        ok=_codes(options.get("ok", ())),
        preset=preset,
    )


def _place(url: str, address: str, port: int) -> tuple[bool, str, int, str]:
    """(TLS, host, port, target) of a path or a whole URL."""
    if url.startswith("/"):
        if not _TARGET.fullmatch(url):
            raise ConfigError("url: may hold printable ASCII without blanks; write others as %XX")
        return True, address, port, url
    found = _URL.fullmatch(url)
    if not found or not _TARGET.fullmatch(found[4] or "/") or not 0 < int(found[3] or 1) < 65536:
        raise ConfigError(f'url = "{url[:60]}": must be /PATH, or https://HOST:PORT/PATH')
    tls, host = found[1] == "https", found[2].strip("[]")
    if host != address:
        try:
            ipaddress.ip_address(host)  # nothing is looked up when there is no time for it
        except ValueError as e:
            raise ConfigError(f'url: its host must be an IP address, or written as address = "{host}" too') from e
    return tls, host, int(found[3] or (443 if tls else 80)), found[4] or "/"


def _headers(rows: Any) -> tuple[tuple[str, str], ...]:
    found = []
    for row in rows:
        parts = _HEADER.fullmatch(str(row))
        if not parts:
            raise ConfigError(f'headers: "{str(row)[:60]!a}" is not "Name: value" in printable ASCII')
        if parts[1].lower() in _OURS:
            raise ConfigError(f"headers: {parts[1]} is written by the agent itself")
        found.append((parts[1], parts[2]))
    if len(found) > HEADERS_LIMIT:
        raise ConfigError(f"headers: at most {HEADERS_LIMIT}")
    return tuple(found)


def _fingerprint(text: str, tls: bool, insecure: bool) -> bytes:
    if not tls:
        if not insecure:
            raise ConfigError("url: over http:// anybody can read along; use https://, or write insecure = true")
        return b""
    if insecure:
        raise ConfigError("insecure: is for http:// alone; https:// needs a fingerprint")
    digits = text.replace(":", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        what = "is missing" if not text else "must be 64 hex digits (SHA-256)"
        raise ConfigError(f"fingerprint: {what}; docs/servers.md says how to see it")
    return bytes.fromhex(digits)


def _codes(rows: Any) -> Container[int]:
    codes = frozenset(int(row) for row in map(str, rows) if re.fullmatch(r"[1-5][0-9]{2}", row, re.ASCII))
    if len(codes) != len(set(map(str, rows))):
        raise ConfigError('ok: a list of status codes, such as ["200", "202"]')
    return codes or ACCEPTED_CODES


def _secret(shape: _Shape, secret: Callable[[str], str | None]) -> str:
    value = secret(shape.label)
    if value is None:
        raise ConfigError(f'there is no secret "{shape.label}" yet; set it with: ridethrough secret set')
    if not value.isprintable() or not 0 < len(value) <= SECRET_LIMIT:
        raise ConfigError(f'secret "{shape.label}" is not one line of printable text')
    form = shape.preset.get("secret_form")
    if form and not re.fullmatch(form, value):
        raise ConfigError(f'secret "{shape.label}" must look like {shape.preset["secret_help"]}')
    return value


def _fill(text: str, values: Mapping[str, str], written: Callable[[str], str]) -> str:
    """The text with its places filled; what was filled in is not looked at again."""
    return _PLACE.sub(lambda found: written(values[found[1]]) if found[1] in values else found[0], text)


def _percent(value: str) -> str:
    return quote(value, safe="")


def _json(value: str) -> str:
    """As it stands inside the quotes of a JSON text."""
    return json.dumps(value)[1:-1]


def _plain(value: str) -> str:
    """In a text of which we do not know how it quotes."""
    if not re.fullmatch(r"[A-Za-z0-9._~+/=@!:-]*", value):
        raise ConfigError("a secret with special characters can only stand in a JSON or urlencoded body")
    return value
