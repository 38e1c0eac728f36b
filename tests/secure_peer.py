"""A server that speaks secure RCCMD as a test tells it to, on loopback; and keys for both ends."""

from __future__ import annotations

import functools
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import senderkey

NO_CHECK_TIME, PARTIAL_CHAIN = 0x200000, 0x80000  # X509_V_FLAG_...
Manner = Callable[[ssl.SSLSocket], None]


@functools.cache
def keys(name: str) -> bytes:
    """A key and its certificate, PEM."""
    return senderkey.make(name)


def pem(made: bytes) -> str:
    """The certificate of `keys`."""
    text = made.decode()
    return text[text.index("-----BEGIN CERTIFICATE") :]


def sha256(made: bytes) -> str:
    """What a pin holds of `keys`."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem(made))).hexdigest()


def context(folder: Path, own: bytes, *trusted: bytes) -> ssl.SSLContext:
    """A server's context as the listener has it: its own key, and exactly these senders."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    path = folder / f"{sha256(own)[:8]}.pem"
    path.write_bytes(own)
    made.load_cert_chain(path)
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME | PARTIAL_CHAIN)
    made.load_verify_locations(cadata="".join(pem(t) for t in trusted))
    return made


class SecurePeer:
    """Answers each request line with what `answer` holds, in turn; the last one stays. `asked`: all that came."""

    def __init__(self, tls: ssl.SSLContext, *answer: bytes, manner: Manner | None = None) -> None:
        self.asked: list[bytes] = []
        self._tls, self._answers, self._manner = tls, list(answer), manner
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(5)
            try:
                with self._tls.wrap_socket(sock, server_side=True) as secured:
                    (self._manner or self._talk)(secured)
            except OSError:
                continue  # ssl.SSLError too: not one of ours

    def _talk(self, sock: ssl.SSLSocket) -> None:
        line = b""
        while not line.endswith(b"\n") and (data := sock.recv(4096)):
            line += data
        if line:
            self.asked.append(line)
            sock.sendall(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])
            sock.recv(1)  # until the adapter closes

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(6)


@contextmanager
def secure_peer(folder: Path, *answer: bytes, manner: Manner | None = None) -> Iterator[SecurePeer]:
    """One with the keys `server`, that trusts the keys `sender`."""
    peer = SecurePeer(context(folder, keys("server"), keys("sender")), *answer, manner=manner)
    try:
        yield peer
    finally:
        peer.close()
