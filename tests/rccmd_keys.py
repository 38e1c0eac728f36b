"""Keys and certificates for tests of secure RCCMD, and an adapter's side of the conversation."""

from __future__ import annotations

import datetime
import hashlib
import socket
import ssl
import unittest
from pathlib import Path

FIRST, LAST = datetime.datetime(2000, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59)
NO_CHECK_TIME, PARTIAL_CHAIN = 0x200000, 0x80000


def certificate(name: str, *, first: datetime.datetime = FIRST, last: datetime.datetime = LAST) -> tuple[bytes, str]:
    """A new P-256 key with its self-signed certificate as PEM (key first), and the SHA-256 of the DER in hex."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:  # a Python of its own, as servers have it
        raise unittest.SkipTest("needs cryptography") from None

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    return private + public, hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


def public_part(pem: bytes) -> bytes:
    """The certificate alone."""
    return pem[pem.index(b"-----BEGIN CERTIFICATE-----") :]


class Server:
    """The files of one server below a folder: key.pem, senders/, state/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.senders, self.state = folder / "key.pem", folder / "senders", folder / "state"
        self.senders.mkdir(parents=True)
        self.state.mkdir()
        pem, self.sha256 = certificate("server")
        self.key.write_bytes(pem)

    def settings(self) -> dict[str, str]:
        """These files as rccmd.ini or `load` take them."""
        return {"tls": str(self.key), "senders": str(self.senders), "state_dir": str(self.state)}

    def enrol(self, adapter: Adapter, name: str | None = None) -> None:
        """From now on this adapter may command."""
        (self.senders / f"{name or adapter.name}.pem").write_bytes(public_part(adapter.pem.read_bytes()))


class Adapter:
    """A sender with a key of its own; `folder` holds the file that `ssl` wants."""

    def __init__(self, name: str, folder: Path, **dates: datetime.datetime) -> None:
        self.name, self.pem = name, folder / f"{name}-key.pem"
        pem, self.sha256 = certificate(name, **dates)
        self.pem.write_bytes(pem)

    def context(self, *, with_key: bool = True, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """What the sender's `ssl` needs; the server's certificate is compared by `ask`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if newest is not None:
            context.maximum_version = newest
        if with_key:
            context.load_cert_chain(self.pem)
        return context

    def ask(self, port: int, line: bytes, server: Server | None = None, *, within_s: float = 5.0) -> bytes:
        """One conversation with a listener on 127.0.0.1: the bytes of its reply. OSError if there is none."""
        with socket.create_connection(("127.0.0.1", port), within_s) as plain:
            with self.context().wrap_socket(plain) as tls:
                if server is not None:
                    seen = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
                    if seen != server.sha256:
                        raise OSError(f"another server: {seen}")
                tls.sendall(line)
                answer = b""
                while piece := tls.recv(1024):
                    answer += piece
                return answer
