"""Slow and idle clients by the hundred: a good client is still answered within a second."""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from tests.faceserver import FaceServer
from tests.fakecore import FakeCore

pytestmark = [pytest.mark.peer, pytest.mark.alone]

SLOW, IDLE, ASKED = 200, 64, 20
WITHIN_S = 1.0


class Attackers:
    """200 clients that send a header byte by byte and 64 that send nothing; whoever is thrown out comes back."""

    def __init__(self, port: int, address: str, *, tls: bool) -> None:
        self._target, self._address, self._tls = ("127.0.0.1", port), address, tls
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self.returned = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Attackers:
        for number in range(SLOW + IDLE):
            self._connect(slow=number < SLOW)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def _connect(self, *, slow: bool) -> None:
        sock = socket.socket()
        sock.settimeout(5)
        sock.bind((self._address, 0))
        with contextlib.suppress(OSError):
            sock.connect(self._target)
            if slow:
                sock.sendall(b"\x16\x03\x01" if self._tls else b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, slow)

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                with contextlib.suppress(OSError):
                    if sock.recv(4096):
                        continue
                self._selector.unregister(sock)
                sock.close()
                self.returned += 1
                self._connect(slow=key.data)
            for key in list(self._selector.get_map().values()):
                if key.data:
                    with contextlib.suppress(OSError):
                        key.fileobj.send(b"X")  # type: ignore[union-attr]


def ask(face: FaceServer, address: str, *, tls: bool) -> float:
    """Seconds until the page's state was there, whole."""
    begun_s = time.monotonic()
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            "127.0.0.1", face.port, timeout=5, source_address=(address, 0), context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", face.port, timeout=5, source_address=(address, 0))
    connection.request("GET", "/api/status")
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200 and b'"view"' in body
    connection.close()
    return time.monotonic() - begun_s


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("good", ["127.0.0.2", "127.0.0.1"], ids=["another address", "the same address"])
def test_a_good_client_is_answered_twenty_times_while_hundreds_are_slow(tmp_path: Path, tls: bool, good: str) -> None:
    with FakeCore(tmp_path / "core.sock") as core, FaceServer(core.path, tmp_path / "faces", tls=tls) as face:
        ask(face, good, tls=tls)
        before_kb = face.rss_kb()
        with Attackers(face.port, "127.0.0.1", tls=tls) as attackers:
            time.sleep(0.5)
            took_s = []
            for _ in range(ASKED):
                took_s.append(ask(face, good, tls=tls))
                time.sleep(0.1)
            grown_kb = face.rss_kb() - before_kb
        print(
            f"\n{'tls' if tls else 'plain'}, good client on {good}: {len(took_s)}/{ASKED} answered, slowest "
            f"{max(took_s) * 1000:.0f} ms; {attackers.returned} attackers thrown out; memory +{grown_kb} kB"
        )
        assert max(took_s) < WITHIN_S, took_s
        assert grown_kb < 15_000
        ask(face, good, tls=tls)
        assert "Traceback" not in face.log.read_text()


def test_a_hundred_abandoned_connections_leave_nothing_behind(tmp_path: Path) -> None:
    with FakeCore(tmp_path / "core.sock") as core, FaceServer(core.path, tmp_path / "faces", tls=True) as face:
        for number in range(100):
            sock = socket.create_connection(("127.0.0.1", face.port), timeout=5)
            sock.sendall((b"", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n", b"\x80\xff\r\n\r\n")[number % 4])
            sock.close()
        assert ask(face, "127.0.0.1", tls=True) < WITHIN_S
        assert face.log.read_text() == ""
