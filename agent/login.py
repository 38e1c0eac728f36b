"""Who may change something on the web page: one account, its password, and the sessions that it opened.

Files in `state_dir/faces`, readable by their owner only:

    first-password   one-time password in plain text, until the first login has set a new one
    account.json     {"user": "admin", "n": 32768, "r": 8, "p": 3, "salt": HEX, "hash": HEX}
    sessions.json    {"boot": ID, "sessions": {SHA-256 of the id: {"made_s": ..., "new_password": ...}}}

A password is checked by scrypt (32 MiB), one at a time. Whoever guesses waits: by address 30 s after five failures,
doubling to 15 min; all together 20 failures a minute. The account itself is never locked: that would be a way to
keep the administrator out. Times are seconds of the clock that is handed in (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import threading
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import passwords
from .vault import write_private

log = logging.getLogger(__name__)

WAITING = 4  # logins that may wait for the one being checked
SESSIONS = 8
IDLE_S = 15 * 60.0
ABSOLUTE_S = 12 * 3600.0
FAILURES = 5  # by address, before it must wait
WAIT_MIN_S, WAIT_MAX_S = 30.0, 15 * 60.0
#: the machine itself, as an address and as the /64 that IPv6 addresses are counted in
CONSOLE = ("127.0.0.1", "::1", "::/64")
FAILURES_PER_MIN = 20  # of all addresses
ADDRESSES = 256  # that are remembered
FILE_LIMIT_BYTES = 64 * 1024


class LoginError(Exception):
    """A login or a new password is refused. `code`: wrong, wait, busy, too-short, too-long, common, same."""

    def __init__(self, code: str, wait_s: float = 0.0) -> None:
        super().__init__(code)
        self.code, self.wait_s = code, wait_s


@dataclass(slots=True)
class Session:
    """Somebody who is logged in; `new_password`: must set one before anything else."""

    key: str  # SHA-256 of the id, hex
    made_s: float
    used_s: float
    new_password: bool = False


@dataclass(slots=True)
class _Guesses:
    failures: int = 0
    until_s: float = 0.0  # no further guess before
    last_s: float = 0.0


class Accounts:
    """The account and its sessions. From any thread."""

    def __init__(
        self, folder: Path, now: Callable[[], float], *, boot: str | None = None, kdf: passwords.Kdf | None = None
    ) -> None:
        """`now` is the monotonic clock; `boot` the id of this boot, by which sessions survive a restart of the
        program but not of the machine (None: as the kernel says; "": they never do); `kdf` instead of scrypt."""
        self._folder, self._now, self._kdf = folder, now, kdf or passwords.scrypt
        self._boot = _boot_id() if boot is None else boot
        self._lock = threading.RLock()
        self._checking = threading.Lock()
        self._waiting = 0
        self._guesses: dict[str, _Guesses] = {}
        self._good: deque[str] = deque(maxlen=ADDRESSES)
        self._failures_s: deque[float] = deque(maxlen=FAILURES_PER_MIN)
        self._sessions: dict[str, Session] = {}
        self._seen = self._stamp()
        self._load_sessions()

    # -- the one-time password

    def first_password(self) -> str | None:
        """The one-time password while it is not used, made if there is no account; None when a password is set.
        OSError as the disk says."""
        with self._lock:
            if (self._folder / "account.json").exists():
                return None
            text = self._one_time()
            if text is None:
                text = "-".join(
                    "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(4)) for _ in "1234"
                )
                self._write("first-password", text.encode() + b"\n")
                self._seen = self._stamp()
            return text

    def reset(self) -> str:
        """Forget the password and end all sessions, also those of a running server; return the new one-time
        password. OSError as the disk says."""
        with self._lock:
            for name in ("account.json", "first-password", "sessions.json"):
                (self._folder / name).unlink(missing_ok=True)
            self._sessions.clear()
            return self.first_password() or ""

    def _one_time(self) -> str | None:
        try:
            return (self._folder / "first-password").read_text()[:100].strip() or None
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    # -- login

    def login(self, password: str, address: str) -> str:
        """A new session's id. LoginError: wrong, wait (with wait_s), busy. OSError as the disk says."""
        self._may_guess(address)
        with _Gate(self):
            self._may_guess(address)
            self._look()
            once = self._once_is(password)
            if not once and not self._matches(password):
                self._failed(address)
                raise LoginError("wrong")
        with self._lock:
            self._guesses.pop(address, None)
            if address not in self._good:
                self._good.append(address)
            return self._open(new_password=once)

    def change(self, session: Session, old: str, new: str, address: str) -> str:
        """Set the password `new`, end all sessions and return a new one's id. `old` is the present password; it is
        not asked for after a login with the one-time password. LoginError as `login`, or too-short, too-long,
        common, same."""
        new = unicodedata.normalize("NFC", new)
        if problem := passwords.wrong(new):
            raise LoginError(problem)
        self._may_guess(address)
        with _Gate(self):
            self._look()
            if self.session_by_key(session.key) is None or self._once_is(new):
                raise LoginError("same" if self._once_is(new) else "wrong")
            if not session.new_password:
                if not self._matches(old):
                    self._failed(address)
                    raise LoginError("wrong")
                if hmac.compare_digest(unicodedata.normalize("NFC", old).encode(), new.encode()):
                    raise LoginError("same")
            account = passwords.account(new, self._kdf)
            with self._lock:
                self._write("account.json", account)
                (self._folder / "first-password").unlink(missing_ok=True)
                self._seen = self._stamp()
                self._sessions.clear()
                return self._open(new_password=False)

    def _once_is(self, password: str) -> bool:
        once = self._one_time() if not (self._folder / "account.json").exists() else None
        return once is not None and hmac.compare_digest(once.encode(), password.strip().encode("utf-8", "replace"))

    def _matches(self, password: str) -> bool:
        account = self._read("account.json")
        password = unicodedata.normalize("NFC", password)[: passwords.LENGTH_MAX + 1]
        try:
            cost = {name: int(account[name]) for name in passwords.SCRYPT}
            salt, right = bytes.fromhex(account["salt"]), bytes.fromhex(account["hash"])
            return hmac.compare_digest(self._kdf(password, salt, cost), right)
        except (KeyError, TypeError, ValueError):
            return False  # no account, or a damaged one: the reset verb makes it anew

    # -- guessing

    def _may_guess(self, address: str) -> None:
        now_s = self._now()
        with self._lock:
            guesses = self._guesses.get(address)
            if guesses and now_s < guesses.until_s:
                raise LoginError("wait", guesses.until_s - now_s)
            full = len(self._failures_s) == FAILURES_PER_MIN and now_s - self._failures_s[0] < 60.0
            # who has been in before, and the console, cannot be kept out by the guesses of others
            if full and address not in self._good and address not in CONSOLE:
                raise LoginError("wait", 60.0 - (now_s - self._failures_s[0]))

    def _failed(self, address: str) -> None:
        now_s = self._now()
        with self._lock:
            self._failures_s.append(now_s)
            guesses = self._guesses.pop(address, None)
            if guesses is None or now_s - guesses.last_s > 2 * WAIT_MAX_S:
                guesses = _Guesses()
            while len(self._guesses) >= ADDRESSES:
                del self._guesses[next(iter(self._guesses))]  # the one that failed longest ago
            guesses.failures, guesses.last_s = guesses.failures + 1, now_s
            if guesses.failures >= FAILURES:
                wait_s = WAIT_MIN_S * 2.0 ** min(10, guesses.failures - FAILURES)
                guesses.until_s = now_s + min(WAIT_MAX_S, wait_s)
            self._guesses[address] = guesses

    # -- sessions

    def session(self, sid: str | None, *, touch: bool = True) -> Session | None:
        """The session of this id, if it is still open; `touch`: the user did something."""
        if not sid or len(sid) > 64:
            return None
        session = self.session_by_key(_key(sid))
        if session and touch:
            session.used_s = self._now()
        return session

    def session_by_key(self, key: str) -> Session | None:
        """The session with this Session.key, if it is still open."""
        self._look()
        now_s = self._now()
        with self._lock:
            session = self._sessions.get(key)
            if session and (now_s - session.used_s > IDLE_S or now_s - session.made_s > ABSOLUTE_S):
                del self._sessions[key]
                return None
            return session

    def logout(self, sid: str) -> None:
        """End this session."""
        with self._lock:
            if self._sessions.pop(_key(sid), None):
                self._keep_sessions()

    def _open(self, *, new_password: bool) -> str:
        sid, now_s = secrets.token_hex(16), self._now()
        while len(self._sessions) >= SESSIONS:
            del self._sessions[min(self._sessions, key=lambda k: self._sessions[k].used_s)]
        self._sessions[_key(sid)] = Session(_key(sid), now_s, now_s, new_password)
        self._keep_sessions()
        return sid

    def _look(self) -> None:
        """End all sessions if somebody else (the reset verb) changed the account."""
        stamp = self._stamp()
        with self._lock:
            if stamp != self._seen:
                self._seen = stamp
                self._sessions.clear()

    def _stamp(self) -> tuple[object, ...]:
        stamps: list[object] = []
        for name in ("account.json", "first-password"):
            try:
                stat = (self._folder / name).stat()
                stamps.append((stat.st_ino, stat.st_mtime_ns))
            except OSError:
                stamps.append(None)
        return tuple(stamps)

    def _keep_sessions(self) -> None:
        if self._boot:
            rows = {s.key: {"made_s": s.made_s, "new_password": s.new_password} for s in self._sessions.values()}
            try:
                self._write("sessions.json", json.dumps({"boot": self._boot, "sessions": rows}).encode() + b"\n")
            except OSError as e:
                log.warning("sessions will not survive a restart: %s", e)

    def _load_sessions(self) -> None:
        kept = self._read("sessions.json")
        now_s = self._now()
        try:
            if self._boot and kept.get("boot") == self._boot:
                for key, row in list(kept["sessions"].items())[:SESSIONS]:
                    self._sessions[key] = Session(key, float(row["made_s"]), now_s, bool(row["new_password"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            self._sessions.clear()  # damaged: everybody logs in again

    # -- files

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self._folder / name).read_bytes()[:FILE_LIMIT_BYTES])
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, name: str, data: bytes) -> None:
        write_private(self._folder / name, data)


class _Gate:
    """One password is checked at a time, few may wait, the others are sent away: 32 MiB each."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def __enter__(self) -> None:
        a = self._accounts
        with a._lock:
            if a._waiting > WAITING:
                raise LoginError("busy", 5.0)
            a._waiting += 1
        a._checking.acquire()

    def __exit__(self, *_: object) -> None:
        a = self._accounts
        a._checking.release()
        with a._lock:
            a._waiting -= 1


def csrf_token(sid: str) -> str:
    """What a form of this session must carry. Masked anew each time, so that compression cannot leak it."""
    mask = secrets.token_bytes(16)
    return mask.hex() + bytes(a ^ b for a, b in zip(mask, _csrf(sid), strict=True)).hex()


def csrf_is(token: str, sid: str) -> bool:
    """Whether `token` belongs to this session."""
    try:
        raw = bytes.fromhex(token)
    except ValueError:
        return False
    return len(raw) == 32 and hmac.compare_digest(
        bytes(a ^ b for a, b in zip(raw[:16], raw[16:], strict=True)), _csrf(sid)
    )


def _csrf(sid: str) -> bytes:
    return hmac.digest(sid.encode(), b"form", "sha256")[:16]


def _key(sid: str) -> str:
    return hashlib.sha256(sid.encode("utf-8", "replace")).hexdigest()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
