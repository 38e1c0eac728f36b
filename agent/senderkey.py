"""The adapter's own RCCMD key: made once, never leaves the core's folder; servers trust exactly its certificate.

`FOLDER/sender.pem` (0600) holds the key (P-256) and the self-signed certificate, valid 2000-01-01 to 9999-12-31
because nobody looks at a clock. It is made in a child process (`python -m agent.senderkey PATH`), because the library
that does it would stay in memory for ever after.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

from .model import ConfigError
from .vault import write_private

log = logging.getLogger(__name__)

NAME = "sender.pem"
LIMIT_BYTES = 16 * 1024
MAKE_WITHIN_S, LOOK_S = 60.0, 0.05  # seconds on a slow board; between two looks whether it is made
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n")

_making = threading.Lock()


def ensure(folder: Path) -> str:
    """The certificate as PEM; key and certificate are made if there are none. ConfigError if that is impossible, or
    if the file is damaged (then it is set aside)."""
    path = folder / NAME
    with _making:
        if not path.exists():
            _make_in_child(path)
            log.info("%s: a new key with which servers are told", path)
    return certificate(folder)


def certificate(folder: Path) -> str:
    """The certificate as PEM. ConfigError if there is none, or the file is damaged."""
    path = folder / NAME
    try:
        return _certificate(_read(path))
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    except ValueError as e:
        raise ConfigError(f"{path}: damaged ({e})") from e


def damaged(folder: Path) -> str:
    """What is wrong with the file, or ''. A file that is absent, or that cannot be read now, is not damaged. Loads
    `ssl`."""
    import ssl

    path = folder / NAME
    try:
        _certificate(_read(path))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path)
    except (ValueError, ssl.SSLError) as e:
        return f"{path}: damaged ({e})"
    except OSError as e:
        if path.exists():
            log.error("%s: %s", path, e.strerror)
    return ""


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LIMIT_BYTES + 1)


def _certificate(data: bytes) -> str:
    """The one certificate in a file that holds a key, too. ValueError if it is something else."""
    text = data.decode("ascii")
    found = _CERTIFICATE.findall(text)
    if len(found) != 1 or "PRIVATE KEY-----" not in text or len(data) > LIMIT_BYTES:
        raise ValueError("not a key and its certificate")
    return str(found[0])


def _make_in_child(path: Path) -> None:
    """Spawned without the module subprocess, which costs memory; what the child complains of goes to our log."""
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    argv = [sys.executable, "-m", "agent.senderkey", str(path.absolute())]
    try:
        child = os.posix_spawn(sys.executable, argv, env)
    except OSError as e:
        raise ConfigError(f"{path}: no key could be made: {e.strerror}") from e
    end_s, wait = time.monotonic() + MAKE_WITHIN_S, threading.Event()
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() >= end_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        wait.wait(LOOK_S)
    if not path.exists():
        raise ConfigError(f"{path}: no key could be made; the log says why")


def make(name: str) -> bytes:
    """A new key and its self-signed certificate as PEM, P-256, valid for ever; `name`: common name, for people."""
    from . import certificates

    key = certificates.new_key()
    return certificates.pem(key, certificates.make(name, key))


if __name__ == "__main__":
    os.nice(10)  # the core goes first
    write_private(Path(sys.argv[1]), make("ridethrough"))
