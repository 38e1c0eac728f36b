"""Who is enrolled for secure RCCMD, and the key with which we are known to them: kept, checked, and made once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import pins, senderkey, vault
from .config import Server
from .engine import Note
from .errands import Enrolled
from .model import ConfigError, View

log = logging.getLogger(__name__)

KEY_WAIT_S = 8.0  # less than the page waits for the core (enroll.CORE_WITHIN_S)
ANEW = "every server that was enrolled must be enrolled anew: ridethrough enroll NAME"


class Enrolments:
    """`note` writes a row of the log; `prove` has a server proven at once. Reading a pin is for every thread."""

    def __init__(self, folder: Path, note: Callable[[Note], None], prove: Callable[[Enrolled], None]) -> None:
        self._folder, self._note, self._prove = folder, note, prove
        self._checking, self._missing = threading.Lock(), False
        self._beginning, self._maker = threading.Lock(), None  # type: threading.Lock, threading.Thread | None
        self._pins = pins.Pins(folder / pins.FILE)
        if self._pins.damaged:
            note(Note("pins-lost", f"{self._pins.damaged}; {ANEW}"))

    def pin(self, name: str) -> str:
        """SHA-256 of the certificate of the server of this name, or ''."""
        return self._pins.get(name)

    def former(self, name: str) -> tuple[str, ...]:
        """SHA-256 of the certificates that it had before it was enrolled anew and that are still good."""
        return self._pins.former(name)

    def settle(self, name: str, sha256: str) -> None:
        """This certificate of the server was seen at work."""
        self._pins.settle(name, sha256)

    def prepare(self, servers: Sequence[Server]) -> None:
        """Have a key for these servers: a damaged one is set aside; a new one is made in a thread of its own."""
        may = [s for s in servers if s.how == "rccmd" and s.options.get("secure") is not False]
        if not may:
            return
        if len(self._pins) or any(s.options.get("secure") for s in may):
            self._check()
        if not (self._folder / senderkey.NAME).exists():
            self._make_beside()

    def _make_beside(self) -> threading.Thread:
        """The thread that makes the key; there is one at most."""
        with self._beginning:
            if self._maker is None or not self._maker.is_alive():
                self._maker = threading.Thread(target=self._make, name="sender-key", daemon=True)
                self._maker.start()
            return self._maker

    def _check(self) -> None:
        """Set a damaged key aside. A key that is lost is said, if servers trusted it."""
        with self._checking:
            path, wrong = self._folder / senderkey.NAME, senderkey.damaged(self._folder)
            if not wrong and (path.exists() or self._missing or not len(self._pins)):
                return
            if wrong:
                try:
                    vault.set_aside(path)
                except OSError as e:
                    log.error("%s: %s", path, e)
                    return
            self._missing = True  # until the next start: said once
            why = f"{wrong}, set aside" if wrong else f"{path} is gone"
            log.error("the key with which servers are told is lost: %s; %s", why, ANEW)
            self._note(Note("sender-key-lost", f"{why}; {ANEW}"))

    def _make(self) -> None:
        try:
            senderkey.ensure(self._folder)
        except ConfigError as e:
            log.error("%s; no server can be enrolled", e)

    def enrol(self, name: str, sha256: str, servers: Sequence[Server]) -> str:
        """This is the certificate of the server `name` from now on: kept before this returns, and proven then.
        Our own certificate as PEM, for the server to trust. ConfigError says why not."""
        server = next((s for s in servers if s.name == name), None)
        if server is None or server.how != "rccmd":
            raise ConfigError(f'there is no [[server]] {name[:64]} with how = "rccmd" in force')
        if server.options.get("secure") is False or server.options.get("udp"):
            raise ConfigError(
                f"[[server]] {name}: secure = false or udp = true: it is told by classic RCCMD; remove that"
            )
        self._check()
        if not (self._folder / senderkey.NAME).exists():
            self._make_beside().join(KEY_WAIT_S)
            if not (self._folder / senderkey.NAME).exists():
                raise ConfigError("this adapter's own key is not made yet (see its log)")
        certificate = senderkey.certificate(self._folder)
        try:
            self._pins.add(name, sha256, time.time())
        except ValueError as e:
            raise ConfigError(str(e)) from e
        except OSError as e:
            raise ConfigError(f"{self._folder / pins.FILE}: {e.strerror}: nothing was enrolled") from e
        self._prove(Enrolled(name))
        return certificate

    def forget(self, view: View, servers: Sequence[Server]) -> None:
        """Those that left the configuration lose their pin, once nobody must tell them any more."""
        self._pins.save()
        names = {s.name for s in view.servers if s.how == "rccmd"}
        if not len(self._pins) or not {s.name for s in servers if s.how == "rccmd"} <= names:
            return  # or the view is not yet that of this configuration
        for name in self._pins.keep(names):
            log.info("%s: left the configuration, its enrolment is revoked", name)
