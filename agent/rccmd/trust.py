"""Who may command in secure mode: this server's key, and a folder with one certificate for each adapter.

Trust is a pinned key and not a date: a sender's certificate must be the one in its file, byte for byte, whatever the
clock says. The folder is looked at again for each connection, and whenever senders are counted, so that a new adapter
is heard, and a removed one refused, at once.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable

from .secure import NotSecure
from .settings import Settings, SettingsError, is_address

SENDERS_LIMIT = 16
PEM_LIMIT_BYTES = 64 * 1024
TEXT_LIMIT_BYTES = 16 * 1024  # a TLS record; more than one is no command of ours
#: X509_V_FLAG_NO_CHECK_TIME and _PARTIAL_CHAIN of OpenSSL (x509_vfy.h); the ssl module names only the second
NO_CHECK_TIME, PARTIAL_CHAIN = 0x200000, 0x80000
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})\.pem")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)


class Trust:
    """The key and the senders, as they are on the disk now. Raises SettingsError if the key cannot be had."""

    def __init__(self, settings: Settings) -> None:
        self._key, self._folder = str(settings.tls), str(settings.senders)
        self._names: dict[bytes, str] = {}  # certificate (DER) -> name of its file
        self.problem = ""  # what of the files cannot be used, in one line
        self._context = _context()
        self._seen = self._look()
        try:
            self._read()
        except (OSError, ValueError) as e:
            raise SettingsError(f"tls = {_why(self._key, e)}") from e

    def names(self) -> Iterable[str]:
        """Who may command, as the folder is now."""
        self.context()
        return self._names.values()

    def context(self) -> ssl.SSLContext:
        """What the next handshake needs. Files that changed are read; while they make no sense, the old ones count
        as far as they are still there, and `problem` says what is wrong."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._read()
            except (OSError, ValueError) as e:
                self.problem = _why(self._key, e)
                here = set(self._files())
                self._names = {der: name for der, name in self._names.items() if f"{name}.pem" in here}
        return self._context

    def line(self) -> TlsLine:
        """The TLS of a new connection."""
        return TlsLine(self)

    def name_of(self, certificate: bytes | None) -> str | None:
        """The name of the sender that has this certificate (DER); None: nobody's."""
        return self._names.get(certificate) if certificate else None

    def _read(self) -> None:
        """Raises OSError (SSLError is one) or ValueError for the key; a sender's file that is wrong is left out."""
        context = _context()
        context.load_cert_chain(self._key)
        names: dict[bytes, str] = {}
        wrong: list[str] = []
        for file in self._files():
            try:
                with open(os.path.join(self._folder, file), "rb") as stream:
                    text = stream.read(PEM_LIMIT_BYTES).decode("ascii")
                found = _CERTIFICATE.findall(text)
                if len(found) != 1:
                    raise ValueError("must hold one certificate")
                der = ssl.PEM_cert_to_DER_cert(found[0])
                context.load_verify_locations(cadata=der)
                if der in names:
                    raise ValueError(f"is the certificate of {names[der]}")  # one adapter has one vote
                names[der] = file[: -len(".pem")]
            except (OSError, ValueError) as e:
                wrong.append(f"{file}: {e}")
        self._context, self._names, self.problem = context, names, "; ".join(wrong)

    def _files(self) -> list[str]:
        """The names of the senders' files. One that looks like an address could be taken for a classic sender."""
        try:
            files = sorted(file for file in os.listdir(self._folder) if _NAME.fullmatch(file))
        except OSError:
            return []
        return [file for file in files if not is_address(file[: -len(".pem")])][:SENDERS_LIMIT]

    def _look(self) -> tuple[tuple[str, int, int, int], ...]:
        """What changes when a file does."""
        found = []
        for path in [self._key, *(os.path.join(self._folder, file) for file in self._files())]:
            try:
                here = os.stat(path)
                found.append((path, here.st_ino, here.st_mtime_ns, here.st_size))
            except OSError:
                found.append((path, 0, 0, 0))
        return tuple(found)


class TlsLine:
    """The TLS of one connection, without its socket: bytes go in and come out."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trust.context().wrap_bio(self._in, self._out, server_side=True)
        self.name = ""  # whose certificate it is; known once the handshake is done

    def feed(self, data: bytes) -> bytes:
        """Ciphertext in, plaintext out; b"" while there is none. Raises NotSecure for anything that is not what a
        known sender says; `out` may hold an alert to send then."""
        self._in.write(data)
        text = b""
        try:
            if not self.name:
                self._tls.do_handshake()
                name = self._trust.name_of(self._tls.getpeercert(binary_form=True))
                if name is None:
                    raise NotSecure("the certificate is nobody's")
                self.name = name
            while len(text) <= TEXT_LIMIT_BYTES and (piece := self._tls.read(TEXT_LIMIT_BYTES)):
                text += piece
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass  # that was all so far; that was all
        except ssl.SSLError as e:
            raise NotSecure((e.reason or str(e)).lower().replace("_", " ")[:80]) from e
        return text

    def trusted(self) -> bool:
        """Is it still? Its file may have been removed, or replaced, since the handshake."""
        self._trust.context()
        return self._trust.name_of(self._tls.getpeercert(binary_form=True)) == self.name

    def say(self, text: bytes) -> None:
        """Encrypt an answer, and the end."""
        self._tls.write(text)
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # our close_notify is on its way; nobody waits for theirs

    def out(self) -> bytes:
        """Ciphertext to send."""
        return self._out.read()


def _why(path: str, error: Exception) -> str:
    """What is wrong with the key's file, and what to do."""
    if isinstance(error, ssl.SSLError):
        what = f"is no key with its certificate ({(error.reason or 'damaged').lower().replace('_', ' ')})"
    else:
        what = getattr(error, "strerror", None) or str(error)
    return f"{path}: {what}; enrol this server anew: ridethrough enroll NAME on the adapter prints the line"


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME | PARTIAL_CHAIN)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # a resumed session would skip the certificate
    return context
