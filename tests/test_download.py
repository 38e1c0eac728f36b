"""An update from the network goes on where it broke off, and no server makes it endless, huge or another file."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent import download, tls
from agent.download import Download
from agent.model import ConfigError

FILE = bytes(range(256)) * 4000


#: where answers may send somebody else
ELSEWHERE = {
    "loop": "/it.update",
    "nowhere": "http://[::1",
    "a file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1:1/x",
}


class Server(ThreadingHTTPServer):
    """Serves FILE; `cuts`: after how many bytes each answer breaks off; what was asked is kept."""

    def __init__(self, cuts: tuple[int, ...] = (), how: str = "", file: bytes = FILE) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts, self.how, self.file, self.asked = list(cuts), how, file, list[str]()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        wanted, how, file = self.headers.get("Range", ""), server.how, server.file
        server.asked.append(wanted)
        again = len(server.asked) > 1
        if how in ELSEWHERE and (again or how == "loop"):
            self.send_response(302)
            self.send_header("Location", ELSEWHERE[how])
            self.end_headers()
            return
        if how == "gone" and again:
            self.send_error(404)
            return
        if how == "busy" and len(server.asked) == 2:
            self.send_error(503)
            return
        begin = 0
        found = re.fullmatch(r"bytes=(\d+)-", wanted)
        if found and how != "no ranges":
            begin = int(found[1])
            self.send_response(206)
            said = begin + (7 if how == "another piece" else 0)
            total = len(file) + (1 if how == "another length" else 0)
            self.send_header("Content-Range", f"bytes {said}-{len(file) - 1}/{total}")
        else:
            self.send_response(200)
        if how != "no length":
            self.send_header("Content-Length", str(10**12 if how == "huge" else len(file) - begin))
        self.send_header("ETag", '"other"' if how == "another tag" and again else '"one"')
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(file)
        self.wfile.write(file[begin : begin + cut])

    def log_message(self, _format: str, *args: object) -> None:
        pass


@contextmanager
def serving(*cuts: int, how: str = "", file: bytes = FILE) -> Iterator[tuple[Server, str]]:
    with Server(cuts, how, file) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_address[1]}/it.update"
        finally:
            server.shutdown()
            thread.join(10)


def fetch(url: str, limit_bytes: int = 2 * len(FILE)) -> tuple[bytes, list[str], list[float]]:
    said, slept = list[str](), list[float]()
    with io.BufferedReader(Download(url, limit_bytes, said.append, sleep=slept.append)) as stream:
        return stream.read(), said, slept


def test_a_file_arrives() -> None:
    with serving() as (server, url):
        assert fetch(url) == (FILE, [], []) and server.asked == [""]


@pytest.mark.parametrize("how", ["", "no ranges", "busy"])
def test_what_breaks_off_goes_on_where_it_was(how: str) -> None:
    with serving(100_000, 1, 300_000, how=how) as (server, url):
        data, said, slept = fetch(url)
    assert hashlib.sha256(data).digest() == hashlib.sha256(FILE).digest() and server.asked[0] == ""
    assert server.asked[1] == "bytes=100000-" and len(slept) == len(said) == len(server.asked) - 1
    assert "broke off after 0.1 MiB" in said[0] and "goes on in 1 s" in said[0]


@pytest.mark.parametrize("how", ["another length", "another tag"])
def test_a_file_that_was_replaced_meanwhile_is_not_mixed(how: str) -> None:
    with serving(100_000, how=how) as (_, url), pytest.raises(ConfigError, match="another file now"):
        fetch(url)


def test_a_server_that_answers_with_another_piece_is_given_up() -> None:
    with serving(100_000, how="another piece") as (server, url):
        with pytest.raises(ConfigError, match="another piece than that asked for, after 100000 bytes"):
            fetch(url)
        assert len(server.asked) == 1 + len(download.PAUSES_S)


def test_a_file_that_is_gone_is_said_at_once() -> None:
    with serving(100_000, how="gone") as (server, url):
        with pytest.raises(ConfigError, match="404 Not Found, after 100000 bytes"):
            fetch(url)
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("nowhere", "Invalid IPv6 URL"),
        ("a file", "is not allowed"),
        ("loop", "infinite loop"),
        ("ftp", "unknown url type"),
    ],
)
def test_a_server_that_sends_elsewhere_is_followed_within_the_web_alone(how: str, why: str) -> None:
    with serving(100_000, how=how) as (_, url), pytest.raises(ConfigError, match=why) as found:
        fetch(url)
    assert "\n" not in str(found.value)


def test_a_line_that_brings_nothing_any_more_is_given_up() -> None:
    with serving(100_000, *[0] * 50) as (server, url):
        slept = list[float]()
        stream = io.BufferedReader(Download(url, len(FILE), lambda line: None, sleep=slept.append))
        with pytest.raises(ConfigError, match=r"ended \d+ bytes early, after 100000 bytes"):
            stream.read()
    assert slept == list(download.PAUSES_S)


@pytest.mark.parametrize("how", ["huge", "no length"])
def test_what_is_too_large_for_an_update_is_not_read(how: str) -> None:
    with serving(how=how) as (_, url), pytest.raises(ConfigError, match="this is no update"):
        fetch(url, 10_000)


def test_a_line_that_drips_ends_in_time() -> None:
    times = iter([0.0, 1.0, 2.0, download.WITHIN_S + 1])
    with serving() as (_, url):
        stream = Download(url, len(FILE), lambda line: None, now=lambda: next(times))
        with pytest.raises(ConfigError, match="not there after 2 hours"):
            for _ in range(10):
                stream.read(10)
        stream.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/x", "Connection refused"),
        ("http://", "no host given"),
        ("http://[::/x", "Invalid IPv6 URL"),
        ("http://127.0.0.1:port/x", "nonnumeric port"),
        ("http://127.0.0.1:1/a b", "control characters"),
    ],
)
def test_an_address_with_nothing_behind_it_is_said_in_few_words(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as found:
        download.stream(url, 1000, print)
    assert str(found.value).startswith(f"{url}: ") and "\n" not in str(found.value)


def test_https_checks_the_servers_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = tls.context(tmp_path, ["localhost"])
    with Server() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"https://localhost:{server.server_address[1]}/it.update"
            with pytest.raises(ConfigError, match="certificate verify failed"):
                fetch(url)
            assert server.asked == []
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
            assert fetch(url)[0] == FILE
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "it.update"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(ConfigError, match="must begin with https"):
        download.stream(url, 1000, print)
