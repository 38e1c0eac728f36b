"""Enrolment: a server trades its one-time code for a key, and fetches the program that does so.

    GET  /enrol/rccmd.pyz   the program, one file
    POST /enrol             application/json {"name": NAME, "code": CODE [, "cert_pem": PEM]}   at most 4 KiB
         200 {"name", "cert_pem", "key_pem", "sender_pem", "adapter", "port"}
         403 no such code for this name     429 too many wrong codes     400 405 413 415 503     each {"error": TEXT}

No login and no form: the code is the authority. Over TLS alone. The code is used up and the core knows the server's
certificate before 200 is said; with any other answer nothing has changed, and after 503 the code is still good.
`cert_pem`: the server has a key already, which another adapter trusts; it stays, and `key_pem` is "".
"""

from __future__ import annotations

import hashlib
import json
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import authority, pyz
from .bus import BusError, Client
from .codes import Codes, Row
from .httpd import App
from .model import Condition, ConfigError, ServerView

log = logging.getLogger(__name__)

FOLDER = "enrol"  # beneath the faces' own
BODY_LIMIT_BYTES = 4096
TRIES, TRIES_ALL, TRIES_S = 5, 20, 60.0  # wrong ones of an address, and of all, in so many seconds
LOG_PAUSE_S = 60.0
MAKE_WAIT_S = 10.0  # for others' keys to be made; one at a time
CORE_WITHIN_S = 12.0  # less than the 15 s that the server waits for us
TEXT_LIMIT = 200
WRONG = (
    "this code is not good for this name: it is wrong, used, too old, or for another server; "
    "make a new one: ridethrough enroll NAME"
)
AGAIN = "the code is still good: run the same line again in a minute"
_STATUS = {
    200: "200 OK",
    400: "400 Bad Request",
    403: "403 Forbidden",
    405: "405 Method Not Allowed",
    413: "413 Content Too Large",
    415: "415 Unsupported Media Type",
    429: "429 Too Many Requests",
    503: "503 Service Unavailable",
}


class Refused(Exception):
    """The request is answered with `status` and this text. `retry_s`: when it may be sent again; `name`: for whom."""

    def __init__(self, status: int, text: str, retry_s: float = 0.0, name: str = "") -> None:
        super().__init__(text)
        self.status, self.retry_s, self.name = status, retry_s, name


@dataclass(frozen=True, slots=True)
class Request:
    """What the server sent."""

    name: str
    code: str
    cert_pem: str = ""


def parse(kind: str, body: bytes) -> Request:
    """The body of a POST of content type `kind`. Refused (400, 413, 415) says what is wrong."""
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "send application/json")
    if len(body) > BODY_LIMIT_BYTES:
        raise Refused(413, f"more than {BODY_LIMIT_BYTES} bytes")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    texts = [told.get(key, "") for key in ("name", "code", "cert_pem")] if isinstance(told, dict) else []
    if not texts or not all(isinstance(text, str) for text in texts) or not (texts[0] and texts[1]):
        raise Refused(400, 'send {"name": NAME, "code": CODE}, two texts')
    return Request(*texts)


def certificate_sha256(pem: str) -> str:
    """SHA-256 of the DER of exactly one certificate, hex. ValueError if it is none that TLS can use."""
    try:
        der = ssl.PEM_cert_to_DER_cert(pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=der)
        if context.cert_store_stats()["x509"] != 1 or ssl.DER_cert_to_PEM_cert(der).split() != pem.split():
            raise ValueError("not exactly one certificate")
    except ssl.SSLError as e:
        raise ValueError(f"no certificate: {e.reason}") from e
    return hashlib.sha256(der).hexdigest()


@dataclass
class Tries:
    """Wrong codes of the last minute. At most TRIES_ALL are remembered, because no more are let in."""

    _last: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=TRIES_ALL))

    def wait_s(self, group: str, now_s: float) -> float:
        """How long `group` must wait for its next try; 0: not at all."""
        all_s = [at_s for at_s, _ in self._last if now_s - at_s < TRIES_S]
        own_s = [at_s for at_s, who in self._last if who == group and now_s - at_s < TRIES_S]
        waits_s = [TRIES_S - (now_s - times_s[0]) for times_s, limit in ((all_s, TRIES_ALL), (own_s, TRIES))
                   if len(times_s) >= limit]  # fmt: skip
        return max(waits_s, default=0.0)

    def wrong(self, group: str, now_s: float) -> None:
        """One more."""
        self._last.append((now_s, group))


class Desk:
    """Stands in front of the page `app`: answers /enrol itself and hands on everything else. From any thread."""

    def __init__(
        self,
        app: App,
        client: Client,
        folder: Path,
        adapter: str,
        *,
        program: bytes | None = None,
        issue: Callable[[Path, str], tuple[str, str]] = authority.issue,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder`: the authority and the codes; `adapter`: our name, for the server; `program`: rccmd.pyz (None:
        made from our own files); `issue` makes a key and its certificate. OSError if the program cannot be read."""
        self._app, self._client, self._folder, self._adapter = app, client, folder, adapter
        self._codes, self._issue, self._now = Codes(folder), issue, now
        self._program = pyz.build() if program is None else program
        self._trying, self._making, self._saying = threading.Lock(), threading.Lock(), threading.Lock()
        self._tries = Tries()
        self._said_s, self._unsaid = -LOG_PAUSE_S, 0
        log.info("%s for servers to enrol: SHA-256 %s", pyz.FILE, pyz.sha256(self._program))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI, with the environment of `httpd`."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        allowed = {"/enrol": "POST", f"/enrol/{pyz.FILE}": "GET"}.get(path)
        if allowed is None:
            return self._app(environ, start_response)
        headers = {"Content-Type": "application/json"}
        try:
            if method != allowed:
                headers["Allow"] = allowed
                raise Refused(405, f"only {allowed}")
            if environ["wsgi.url_scheme"] != "https":
                raise Refused(403, "only over https")
            if method == "GET":
                status, body = 200, self._program
                headers = {
                    "Content-Type": "application/zip",
                    "Content-Disposition": f"attachment; filename={pyz.FILE}",
                }
            else:
                status, body = 200, _json(self._trade(environ))
        except Refused as e:
            status, body = e.status, _json({"error": str(e)})
            if e.retry_s:
                headers["Retry-After"] = f"{e.retry_s + 0.5:.0f}"
            whom = f" for {e.name[:64]!r}" if e.name else ""
            self._say(environ["REMOTE_ADDR"], f"{method} {path}{whom}: {e.status} {e}")
        start_response(_STATUS[status], list(headers.items()))
        return [] if method == "HEAD" else [body]

    def _trade(self, environ: Mapping[str, Any]) -> dict[str, Any]:
        """A code for a key. Refused says why not."""
        address = str(environ["REMOTE_ADDR"])
        length_bytes = int(environ.get("CONTENT_LENGTH") or 0)
        if length_bytes > BODY_LIMIT_BYTES:
            raise Refused(413, f"more than {BODY_LIMIT_BYTES} bytes")
        asked = parse(str(environ.get("CONTENT_TYPE", "")), environ["wsgi.input"].read(length_bytes))
        view = self._client.view()
        if any(a.condition is Condition.NO_CORE for a in view.conditions):
            raise Refused(503, f"the core is not running; {AGAIN}", 5.0)
        server = next((s for s in view.servers if s.name == asked.name and s.how == "rccmd"), None)
        try:
            sha256 = certificate_sha256(asked.cert_pem) if asked.cert_pem else ""
        except ValueError as e:
            raise Refused(400, f"cert_pem: {e}") from e
        row, server = self._take(asked, str(environ["httpd.group"]), server)
        try:
            return self._hand_over(asked, server, sha256, address)
        except (BusError, ConfigError) as e:
            why = str(e)[:TEXT_LIMIT]
            try:
                self._codes.give_back(asked.name, row)
            except OSError as lost:
                raise Refused(503, f"{why}; the code is used up ({lost.strerror})") from e
            raise Refused(503, f"{why}; {AGAIN}", 5.0) from e

    def _take(self, asked: Request, group: str, server: ServerView | None) -> tuple[Row, ServerView]:
        """Use the code up. Refused (403, 429, 503) if it is none for a server that there is."""
        with self._trying:
            now_s = self._now()
            if wait_s := self._tries.wait_s(group, now_s):
                raise Refused(429, f"too many wrong codes; try again in {wait_s + 0.5:.0f} s", wait_s, asked.name)
            try:
                row = self._codes.take(asked.name, asked.code)
            except OSError as e:
                log.error("enrol: the codes cannot be read or written: %s", e)
                raise Refused(503, "the adapter cannot read or write its codes; its log says why") from e
            if row is None or server is None:
                self._tries.wrong(group, now_s)
                raise Refused(403, WRONG, name=asked.name)
            return row, server

    def _hand_over(self, asked: Request, server: ServerView, sha256: str, address: str) -> dict[str, Any]:
        """The key, once the core knows its certificate. BusError, ConfigError: nobody knows it."""
        key_pem, cert_pem = "", asked.cert_pem
        if not cert_pem:
            if not self._making.acquire(timeout=MAKE_WAIT_S):
                raise ConfigError("too many servers enrol at this moment")
            try:
                key_pem, cert_pem = self._issue(self._folder, asked.name)
            finally:
                self._making.release()
            sha256 = certificate_sha256(cert_pem)
        origin = {"user": "enrolment", "address": address}
        pin = {"type": "pin", "name": asked.name, "sha256": sha256, "origin": origin}
        sender_pem = self._client.ask(pin, CORE_WITHIN_S).get("sender_pem")
        if not isinstance(sender_pem, str) or not sender_pem:
            raise BusError("the core gave no certificate of its own")
        log.info("enrol: %s is enrolled, from %s%s", asked.name, address, "" if key_pem else ", with the key it had")
        return {
            "name": asked.name, "cert_pem": cert_pem, "key_pem": key_pem, "sender_pem": sender_pem,
            "adapter": self._adapter, "port": server.port,
        }  # fmt: skip

    def _say(self, address: str, refused: str) -> None:
        """One line a minute is enough of what others can cause at will."""
        with self._saying:
            now_s = self._now()
            if now_s - self._said_s < LOG_PAUSE_S:
                self._unsaid += 1
                return
            more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
            self._said_s, self._unsaid = now_s, 0
        log.warning("enrol: %s refused: %s%s", address, refused, more)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
