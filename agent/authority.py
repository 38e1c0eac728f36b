"""Makes the keys of enrolled servers: each with a certificate of an authority of our own, valid for ever.

`FOLDER/ca.pem` (0600) is the authority's key and certificate, made at the first enrolment; it signs certificates of
servers and nothing else. A server has only Python's standard library, which makes no keys, so the adapter makes them
and hands them over once. A child process does it (`python -m agent.authority FOLDER NAME`, PEM on standard output),
because the library for it would stay in memory for ever after, and the authority's key with it.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import certificates
from .config import NAME
from .model import ConfigError
from .vault import set_aside, write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = logging.getLogger(__name__)

FILE = "ca.pem"
LIMIT_BYTES = 16 * 1024
MAKE_WITHIN_S = 60.0  # seconds on a slow board
_BEGIN = "-----BEGIN CERTIFICATE-----"


def issue(folder: Path, name: str) -> tuple[str, str]:
    """A new key and its certificate for the server `name`, both PEM. ConfigError if that is impossible."""
    import subprocess

    if not NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} is not a server's name")
    root = str(Path(__file__).resolve().parent.parent)
    argv = [sys.executable, "-m", "agent.authority", str(folder.absolute()), name]
    try:
        done = subprocess.run(argv, cwd=root, capture_output=True, timeout=MAKE_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ConfigError(f"no key could be made for {name}: {e}") from e
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        raise ConfigError(f"no key could be made for {name}: {said.rpartition(chr(10))[2]}")
    if said:
        log.error("%s", said)
    key, begin, certificate = done.stdout.decode("ascii").partition(_BEGIN)
    return key, begin + certificate


def make(folder: Path, name: str) -> tuple[bytes, str]:
    """Key and certificate as one PEM; and what was wrong with the authority's file, which is set aside then, or ''.
    OSError as the disk says."""
    path, damaged = folder / FILE, ""
    try:
        key, certificate = _read(path)
    except FileNotFoundError:
        key, certificate = _found(path)
    except ValueError as e:
        damaged = f"{path}: damaged ({e}), set aside; a new one is made; enrolled servers keep their keys"
        set_aside(path)
        key, certificate = _found(path)
    return _server(name, key, certificate), damaged


def _found(path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make the authority and keep it."""
    key = certificates.new_key()
    made = _certificate("ridethrough enrolment", key, None)
    write_private(path, certificates.pem(key, made))
    return key, made


def _read(path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The authority as it is kept. ValueError if it is damaged, OSError as the disk says."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    with path.open("rb") as file:
        data = file.read(LIMIT_BYTES)
    try:
        key = serialization.load_pem_private_key(data, None)
        certificate = x509.load_pem_x509_certificate(data[data.index(_BEGIN.encode()) :])
    except (TypeError, UnsupportedAlgorithm) as e:  # TypeError: a key that needs a password
        raise ValueError(str(e)) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise ValueError("not a key and its certificate")
    return key, certificate


def _server(name: str, ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate) -> bytes:
    key = certificates.new_key()
    return certificates.pem(key, _certificate(name, key, (ca_key, ca)))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None,
) -> x509.Certificate:
    """A server's certificate; without `authority` it is the authority's own."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    signer = key if authority is None else authority[0]
    what = x509.BasicConstraints(ca=authority is None, path_length=0 if authority is None else None)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (what, True),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]
    if authority is not None:
        extensions.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False))
    return certificates.make(name, key, signer=authority, extensions=extensions)


if __name__ == "__main__":
    os.umask(0o077)
    pem, damage = make(Path(sys.argv[1]), sys.argv[2])
    if damage:
        print(damage, file=sys.stderr)
    sys.stdout.buffer.write(pem)
