"""The answer to a web request: security headers on every one, a deadline for who reads slowly, a quiet log."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any
from wsgiref.handlers import SimpleHandler

SEND_S = 20.0  # an answer; in a stream each piece

#: On every answer, also those that no application made.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Connection": "close",
}


class Pipe:
    """Collects what is written and sends it on `flush`, before a deadline."""

    def __init__(self, sock: socket.socket, within_s: float = SEND_S) -> None:
        self._sock, self._pieces, self._within_s = sock, bytearray(), within_s
        self.until_s = time.monotonic() + within_s
        self.renew = False  # a stream: each piece has its own deadline

    def write(self, data: bytes) -> int:
        self._pieces += data
        return len(data)

    def flush(self) -> None:
        if self.renew:
            self.until_s = time.monotonic() + self._within_s
        try:
            while self._pieces:
                self._sock.settimeout(max(0.001, self.until_s - time.monotonic()))
                del self._pieces[: self._sock.send(self._pieces)]
        except OSError as e:
            raise ConnectionAbortedError("the client went away") from e


class Handler(SimpleHandler):
    """The standard library's WSGI, without the process's environment and tracebacks of aborted connections."""

    os_environ: dict[str, str] = {}
    http_version = "1.1"
    server_software = None
    headers: Any  # wsgiref.headers.Headers, once the application has answered
    status: Any
    on_error: Callable[[], None]

    def cleanup_headers(self) -> None:
        for name, value in HEADERS.items():
            self.headers[name] = value
        self.headers.setdefault("Cache-Control", "no-store")
        super().cleanup_headers()
        if self.status[:3] in ("204", "304"):
            del self.headers["Content-Length"]

    def log_exception(self, exc_info: Any) -> None:
        self.on_error()

    def error_output(self, environ: Any, start_response: Any) -> list[bytes]:
        body = error_body("something went wrong here; the log says what")
        start_response("500 Internal Server Error", [("Content-Type", "application/json")])
        return [body]


def error_body(text: str) -> bytes:
    """An error as JSON: one clear text."""
    return json.dumps({"error": text}).encode() + b"\n"


def answer(sock: socket.socket, status: str, body: bytes, more: Mapping[str, str] | None = None) -> None:
    """Send an answer that no application makes. OSError (ConnectionAbortedError) if the client does not take it."""
    fields = {**HEADERS, "Cache-Control": "no-store", "Content-Type": "application/json", **(more or {})}
    lines = [f"HTTP/1.1 {status}", *(f"{n}: {v}" for n, v in fields.items()), f"Content-Length: {len(body)}", "", ""]
    pipe = Pipe(sock)
    pipe.write("\r\n".join(lines).encode("latin-1") + body)
    pipe.flush()
