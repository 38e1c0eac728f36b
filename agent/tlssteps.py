"""TLS as the ways speak it: the other side's certificate is known by its fingerprint, and nobody is waited for.

Names and dates in certificates are not looked at, for a board may believe that it is 1970: with nothing verified by
the library, `check` compares the SHA-256 of the certificate before anything is said. The steps are for a socket that
does not block; each yields a Wait when it would. `ssl` and `hashlib` are imported with the first use: memory.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .reach import Late, Wait

if TYPE_CHECKING:
    import socket
    import ssl

Found = TypeVar("Found")


@functools.cache
def anonymous() -> ssl.SSLContext:
    """For connections on which we show no certificate."""
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE  # the fingerprint is compared instead
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


class Identity:
    """Our own key and certificate in one PEM file, loaded once and again only when the file is another."""

    def __init__(self) -> None:
        self._loaded: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def context(self, path: Path, *, again: bool = True) -> ssl.SSLContext:
        """For connections on which we show the certificate at `path`; `again`: look whether the file is another one
        now. OSError (also ssl.SSLError) as the file is; one that was good once and cannot be found any more stays in
        force, for the disk may die, and in an outage nobody waits for it."""
        import ssl

        known = self._loaded[1] if self._loaded is not None and self._loaded[0][0] == path else None
        if known is not None and not again:
            return known
        try:
            found = path.stat()
        except OSError:
            if known is not None:
                return known
            raise
        mark = (path, found.st_ino, found.st_mtime_ns, found.st_size)
        if self._loaded is None or self._loaded[0] != mark:
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            made.load_cert_chain(path)
            self._loaded = mark, made
        return self._loaded[1]


def check(sock: ssl.SSLSocket, *fingerprints: bytes) -> bytes:
    """The SHA-256 of the other side's certificate. OSError if it is none of these."""
    import hashlib
    import hmac

    found = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").digest()
    if not any(hmac.compare_digest(found, fingerprint) for fingerprint in fingerprints):
        raise OSError(f"another certificate; its SHA-256 is {found.hex()}")
    return found


def secure(sock: socket.socket, context: ssl.SSLContext, within_s: float) -> Generator[Wait, None, ssl.SSLSocket]:
    """The connected, non-blocking `sock` after a handshake; from then on this is its owner, also when it fails."""
    secured = context.wrap_socket(sock, do_handshake_on_connect=False)
    done = False
    try:
        yield from _step(secured, secured.do_handshake, time.monotonic() + within_s, "no TLS handshake in time")
        done = True
    finally:
        if not done:  # also when the generator is closed at its yield
            secured.close()
    return secured


def ask(sock: ssl.SSLSocket, line: bytes, limit_bytes: int, within_s: float) -> Generator[Wait, None, bytes]:
    """Say `line` (at most 2 KiB), and take what comes up to the first LF, and with it. OSError if that is too long,
    or the end comes before."""
    end_s = time.monotonic() + within_s
    if (yield from _step(sock, lambda: sock.send(line), end_s, "no answer")) != len(line):
        raise OSError("the line was not taken whole")
    answer = b""
    while b"\n" not in answer:
        data = yield from _step(sock, lambda: sock.recv(limit_bytes + 1), end_s, "no answer")
        if not data:
            raise OSError(f"closed in the middle of its answer {answer!r}" if answer else "closed without an answer")
        answer += data
        if len(answer) > limit_bytes:
            raise OSError(f"its answer is too long: {answer[:40]!r}...")
    return answer.partition(b"\n")[0] + b"\n"


def _step(sock: ssl.SSLSocket, do: Callable[[], Found], end_s: float, why: str) -> Generator[Wait, None, Found]:
    """What `do` gives, once it can be done without waiting. Late(why) at `end_s`, however slowly the other drips."""
    import ssl

    while True:
        try:
            return do()
        except ssl.SSLWantReadError:
            write = False
        except ssl.SSLWantWriteError:
            write = True
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise Late(why)
        yield Wait(sock.fileno(), write, left_s, why)
