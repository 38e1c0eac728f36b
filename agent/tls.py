"""Makes and loads the certificate of the web page: self-signed, so nobody has to prepare anything.

`FOLDER/tls.pem` (0600) holds the key and the certificate; whoever has a better one puts it there. A board without a
clock starts in 1970: validity begins 2020-01-01. The certificate is made in a child process (`python -m agent.tls
FOLDER NAME...`), because the library that does it would stay in memory for ever after.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import logging
import re
import socket
import ssl
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from . import certificates
from .model import ConfigError
from .vault import set_aside, write_private

log = logging.getLogger(__name__)

YEARS = 10
NAMES_LIMIT = 32
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
MAKE_WITHIN_S = 60.0  # seconds on a slow board


def own_names() -> list[str]:
    """Under which names and addresses this machine is likely to be opened: for the certificate."""
    host = socket.gethostname()
    names = [host, f"{host.partition('.')[0]}.local", "localhost", "127.0.0.1", "::1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, interface in socket.if_nameindex():
            try:  # SIOCGIFADDR, see netdevice(7)
                answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", interface.encode()[:15]))
                names.append(socket.inet_ntoa(answer[20:24]))
            except OSError:
                pass  # it has no IPv4 address
    try:
        rows = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        rows = []
    addresses = [ipaddress.IPv6Address(bytes.fromhex(row.split()[0])) for row in rows]
    names += [str(a) for a in addresses if not a.is_link_local]
    return list(dict.fromkeys(names))[:NAMES_LIMIT]


def context(folder: Path, names: Sequence[str]) -> tuple[ssl.SSLContext, str]:
    """What the server needs, and the certificate's SHA-256 fingerprint. Made at the first call for `own_names()` and
    `names`, kept for ever: people have accepted it. ConfigError if it cannot be made or read."""
    path = folder / "tls.pem"
    if not path.exists():
        _make_in_child(folder, names)
    try:
        return _load(path)
    except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
        if isinstance(e, PermissionError):
            raise ConfigError(f"{path}: {e.strerror}; it must belong to the user of the web page") from e
        log.error("web: %s is damaged (%s), set aside; the certificate is made anew", path, e)
    set_aside(path)
    _make_in_child(folder, names)
    try:
        return _load(path)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: {e}; remove it, it is made anew") from e


def _load(path: Path) -> tuple[ssl.SSLContext, str]:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    made.load_cert_chain(path)
    return made, _sha256(path).hex(":").upper()


def fingerprint(folder: Path) -> str:
    """SHA-256 of the certificate that the page shows, 64 lower-case hex digits. ConfigError if there is none."""
    path = folder / "tls.pem"
    try:
        return _sha256(path).hex()
    except FileNotFoundError as e:
        raise ConfigError(
            f"{path}: there is no certificate yet: `ridethrough faces` makes it when it starts, in a minute at most"
        ) from e
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: {e}") from e


def _sha256(path: Path) -> bytes:
    """Of the first certificate in the file. OSError, ValueError if it cannot be read."""
    text = path.read_text("ascii")
    der = ssl.PEM_cert_to_DER_cert(
        text[text.index("-----BEGIN CERTIFICATE") :].partition("END CERTIFICATE-----")[0] + "END CERTIFICATE-----"
    )
    return hashlib.sha256(der).digest()


def _make_in_child(folder: Path, names: Sequence[str]) -> None:
    import subprocess

    command = [sys.executable, "-m", "agent.tls", str(folder.absolute()), *dict.fromkeys([*own_names(), *names])]
    root = str(Path(__file__).resolve().parent.parent)
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, timeout=MAKE_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ConfigError(f"{folder}: no certificate could be made: {e}") from e
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ConfigError(f"{folder}: no certificate could be made: {last}")


def make(names: Sequence[str]) -> bytes:
    """A new key and its certificate as PEM: ECDSA P-256, ten years from 2020-01-01 on or from now, whatever ends
    later, for `names` (host names and addresses)."""
    import datetime

    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    entries: list[x509.GeneralName] = []
    for name in names:
        try:
            entries.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if _HOST_NAME.fullmatch(name):  # "server room" is a good name for a UPS, but none for a host
                entries.append(x509.DNSName(name))
    begins = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    now = max(begins, datetime.datetime.now(datetime.UTC))
    key = certificates.new_key()
    made = certificates.make(
        names[0] if names else "ridethrough",
        key,
        valid=(begins, now.replace(year=now.year + YEARS, day=min(now.day, 28))),
        extensions=(
            (x509.SubjectAlternativeName(entries), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ),
    )
    return certificates.pem(key, made)


if __name__ == "__main__":
    write_private(Path(sys.argv[1]) / "tls.pem", make(sys.argv[2:]))
