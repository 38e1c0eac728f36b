"""A large file from the network as a stream: when it breaks off it goes on where it was, within limits."""

from __future__ import annotations

import http.client
import io
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO, Any

from .model import ConfigError

CONNECT_S = 30.0  # for an answer, and for each piece
WITHIN_S = 2 * 3600.0  # for the whole file: one that drips never ends
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 30.0, 30.0)  # between attempts that bring nothing
BUFFER_BYTES = 64 * 1024
RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)")  # RFC 9110 section 14.4
HANDLERS = (
    urllib.request.ProxyHandler, urllib.request.UnknownHandler,
    urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
)  # fmt: skip
Open = Callable[[urllib.request.Request], Any]


def opener(request: urllib.request.Request) -> Any:
    """The answer to a request: http and https alone, proxies as the environment says. OSError."""
    made = urllib.request.OpenerDirector()  # build_opener would follow an answer to ftp, too
    for kind in HANDLERS:
        made.add_handler(kind())
    return made.open(request, timeout=CONNECT_S)


class Download(io.RawIOBase):
    """What is behind `url`. Reading raises ConfigError, with the address and the reason."""

    def __init__(
        self,
        url: str,
        limit_bytes: int,
        say: Callable[[str], None],
        open_: Open = opener,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url, self._limit_bytes, self._say = url, limit_bytes, say
        self._open, self._now, self._sleep = open_, now, sleep
        self._end_s = now() + WITHIN_S
        self._at = self._failed = 0
        self._total: int | None = None
        self._tag = ""
        self._answer: Any = None
        try:
            self._connect()
        except (OSError, ValueError, http.client.HTTPException) as e:
            raise ConfigError(f"{url}: {_reason(e)}") from e

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._now() > self._end_s:
                raise ConfigError(f"{self._url}: not there after {WITHIN_S / 3600:.0f} hours: given up")
            try:
                if self._answer is None:
                    self._connect()
                count = int(self._answer.readinto(buffer))
                if not count and self._total is not None and self._at < self._total:
                    raise OSError(f"ended {self._total - self._at} bytes early")
            except (OSError, ValueError, http.client.HTTPException) as e:
                self._broke_off(e)
                continue
            self._at += count
            if count:
                self._failed = 0
            if self._at > self._limit_bytes:
                raise ConfigError(f"{self._url}: more than {self._limit_bytes // 2**20} MiB: this is no update")
            return count

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        super().close()

    def _broke_off(self, why: Exception) -> None:
        """Wait before the next attempt. ConfigError if there is none."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        final = isinstance(why, urllib.error.HTTPError) and why.code < 500
        if final or self._failed >= len(PAUSES_S):
            raise ConfigError(f"{self._url}: {_reason(why)}, after {self._at} bytes") from why
        pause_s = PAUSES_S[self._failed]
        self._failed += 1
        self._say(f"broke off after {self._at / 2**20:.1f} MiB ({_reason(why)}); goes on in {pause_s:.0f} s")
        self._sleep(pause_s)

    def _connect(self) -> None:
        """Ask for what is still missing. OSError, HTTPException, ValueError; ConfigError: it is another file now."""
        request = urllib.request.Request(self._url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - see stream
        if self._at:
            request.add_header("Range", f"bytes={self._at}-")
            if self._tag and not self._tag.startswith("W/"):
                request.add_header("If-Range", self._tag)
        answer = self._answer = self._open(request)
        length, tag = answer.headers.get("Content-Length"), answer.headers.get("ETag") or ""
        total = int(length) if length is not None and re.fullmatch(r"\d{1,15}", length) else None
        skip = self._at
        if answer.status == 206:
            found = RANGE.fullmatch(answer.headers.get("Content-Range") or "")
            if not self._at or not found or int(found[1]) != self._at:
                raise OSError("the server answered with another piece than that asked for")
            total, skip = self._total if found[2] == "*" else int(found[2]), 0
        elif answer.status != 200:
            raise OSError(f"the server answered {answer.status}")
        if self._at and (total, tag) != (self._total, self._tag):
            raise ConfigError(f"{self._url}: it is another file now; begin anew")
        self._total, self._tag = total, tag
        if total is not None and total > self._limit_bytes:
            raise ConfigError(f"{self._url}: {total // 2**20} MiB: this is no update")
        while skip:  # a server without ranges begins at the beginning
            data = answer.read(min(BUFFER_BYTES, skip))
            if not data:
                raise OSError("ended before the place where it had broken off")
            skip -= len(data)


def _reason(e: Exception) -> str:
    """In few words."""
    if isinstance(e, urllib.error.HTTPError):
        return " ".join(f"{e.code} {e.reason}".split())[:200]
    said = getattr(e, "reason", None) or getattr(e, "strerror", None) or e
    return " ".join(str(said).split())[:200] or type(e).__name__


def stream(url: str, limit_bytes: int, say: Callable[[str], None]) -> IO[bytes]:
    """The file as `open` gives one. ConfigError at once if nothing is there, or `url` is of another kind."""
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"{url}: must begin with https:// or http://")
    return io.BufferedReader(Download(url, limit_bytes, say), BUFFER_BYTES)
