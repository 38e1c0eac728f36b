"""What the listener knows, in `state_dir/status.json`, and how `rccmd status` shows it.

The listener writes the file when something has changed, at most once in EVERY_S, and reads at its start when each
adapter was heard last. Whether a listener runs is told by its lock on `state_dir/lock`, which holds its process id.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from . import VERSION, disk
from .alive import Heard
from .journal import Journal
from .orders import Orders
from .settings import Settings

EVERY_S = 1.0
SHOWN_LIMIT = 10  # commands in the human form

if sys.platform != "win32":
    import fcntl


class Busy(Exception):
    """Another listener uses this state folder."""


class Lock:
    """Held by the one listener of a state folder. Raises Busy, or OSError if it cannot be had."""

    def __init__(self, folder: str) -> None:
        self._number = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
        if sys.platform != "win32":
            try:
                fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._number)
                raise Busy(f"another listener uses {folder}") from None
        os.ftruncate(self._number, 0)
        os.write(self._number, f"{os.getpid()}\n".encode())

    def close(self) -> None:
        """Let another one have it."""
        os.close(self._number)


def running(folder: str) -> int | None:
    """The process id of the listener of this folder; None: none runs (or, on Windows, nobody can tell)."""
    if sys.platform == "win32":
        return None
    found = _holder(folder)
    return found[0] if found is not None else None


def send_signal(folder: str, number: int) -> int | None:
    """Send a signal to the listener of this folder; its process id, or None: none runs. Raises OSError.

    Its process id is its own word, on which root must not act as root: the signal is sent with the rights of the
    folder's owner, who could send it himself."""
    if sys.platform == "win32" or (found := _holder(folder)) is None:
        return None
    pid, owner = found
    if os.geteuid() == owner:
        os.kill(pid, number)
        return pid
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(os.stat(folder).st_gid)
            os.setuid(owner)
            os.kill(pid, number)
            os._exit(0)
        except OSError as e:
            os._exit(e.errno or 255)
        finally:
            os._exit(255)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(abs(code), os.strerror(abs(code)))
    return pid


def _holder(folder: str) -> tuple[int, int] | None:
    """Who holds the lock of this folder: the process id as it says, and the user who could have said it."""
    if sys.platform == "win32":
        return None
    try:
        number = os.open(os.path.join(folder, "lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(number, 20).strip()
        pid = int(text) if text.isdigit() and len(text) < 10 else 0
        return (pid, os.stat(folder).st_uid or os.fstat(number).st_uid) if pid > 1 else None
    else:
        return None
    finally:
        os.close(number)


class Status:
    """Keeps the file true. Monotonic seconds are handed in; the wall clock is for the file."""

    def __init__(
        self,
        settings: Settings,
        orders: Orders,
        names: Callable[[], Iterable[str]],
        journal: Journal,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._orders, self._names = settings, orders, names
        self._journal, self._wall = journal, wall
        self._path = settings.state_file("status.json")
        self._written = -1  # orders.changes as the file has it
        self._next_s = 0.0
        self._failed = False

    def restore(self, now_s: float) -> None:
        """Take over from the last run when each adapter was heard."""
        if self._path is None:
            return
        last: dict[str, Heard] = {}
        for name, row in read(self._path).get("senders", {}).items():
            try:
                age_s = max(0.0, self._wall() - float(row["heard_wall_s"]))
                last[name] = Heard(now_s - age_s, str(row["address"]), str(row["verb"]))
            except (KeyError, TypeError, ValueError):
                continue  # never heard, or torn
        self._orders.alive.restore(last)

    def tick(self, now_s: float) -> None:
        """Write the file if it is time."""
        if self._path is None or self._orders.changes == self._written or now_s < self._next_s:
            return
        self._written, self._next_s = self._orders.changes, now_s + EVERY_S
        try:
            disk.write(self._path, json.dumps(self.facts(now_s), indent=1) + "\n", lasting=False)
            self._failed = False
        except OSError as e:
            if not self._failed:
                self._journal.line("-", "-", f"warning: the status cannot be kept: {self._path}: {e.strerror}")
            self._failed = True

    def due_s(self, now_s: float) -> float | None:
        """When `tick` has something to do."""
        return None if self._path is None or self._orders.changes == self._written else max(now_s, self._next_s)

    def facts(self, now_s: float) -> dict[str, Any]:
        """The file. Times are wall-clock seconds since 1970; what is not known is null."""
        orders, settings, wall_s = self._orders, self._settings, self._wall()
        silent = orders.alive.silent(now_s)
        senders: dict[str, dict[str, Any]] = {}
        for name in self._names():
            heard = orders.alive.last.get(name)
            senders[name] = {
                "heard_wall_s": None if heard is None else round(wall_s - (now_s - heard.at_s), 1),
                "address": heard and heard.address,
                "verb": heard and heard.verb,
                "alive": name not in silent if settings.alive_s else None,
            }
        votes = orders.votes.of(now_s)
        return {
            "version": VERSION,
            "written_wall_s": round(wall_s, 1),
            "bind": f"{settings.host}:{settings.port}",
            "tls": settings.tls is not None,
            "require_tls": settings.require_tls,
            "dry_run": settings.dry_run,
            "on_shutdown": list(settings.on_shutdown),
            "need": settings.need,
            **orders.state(now_s),
            "senders": senders,
            "votes": [
                {"sender": who, "id": ident, "wall_s": round(wall_s - orders.votes.age_s(who, now_s), 1)}
                for who, ident in votes.items()
            ],
            "latest": [
                {"wall_s": round(t.wall_s, 1), "sender": t.sender, "verb": t.verb, "id": t.ident, "reply": t.word}
                for t in orders.latest
            ],
            "selftest": {**orders.selftest.facts(), "detail": orders.selftest.detail},
            "disk_failed": orders.seen.failed or orders.votes.failed,
        }


def read(path: str) -> dict[str, Any]:
    """The file as `Status.facts` made it; {} if there is none, or it makes no sense."""
    try:
        found = json.loads(disk.read(path) or "{}")
    except (OSError, ValueError):
        return {}
    good = isinstance(found, dict) and isinstance(found.get("senders", {}), dict)
    return found if good else {}


def shown(facts: Mapping[str, Any], pid: int | None, wall_s: float) -> list[str]:
    """The status in lines for people."""

    def ago(then_s: float | None) -> str:
        if then_s is None:
            return "never"
        age_s = max(0.0, wall_s - then_s)
        return f"{age_s:.0f} s ago" if age_s < 120 else f"{age_s / 60:.0f} min ago"

    doing = facts["doing"] + (f", the command starts in {facts['starts_in_s']} s" if "starts_in_s" in facts else "")
    mode = "secure only" if facts["require_tls"] else "secure and classic" if facts["tls"] else "classic"
    lines = [f"listener  {f'runs, pid {pid}, {doing}' if pid else 'does not run'}; {mode}, {facts['bind']}"]
    if facts["dry_run"]:
        lines.append("dry run   no program is started")
    command = " ".join(facts["on_shutdown"]) or "none: a SHUTDOWN is refused"
    lines.append(f"shutdown  {command}" + (f"; needs {facts['need']} adapters" if facts["need"] > 1 else ""))
    selftest = facts["selftest"]
    lines.append(f"selftest  {selftest['selftest']}" + (f", {selftest['detail']}" if selftest["detail"] else ""))
    for name, row in facts["senders"].items():
        state = "" if row["alive"] is None else ", alive" if row["alive"] else ", NOT ALIVE"
        where = f" from {row['address']}" if row["address"] else ""
        lines.append(f"adapter   {name}: heard {ago(row['heard_wall_s'])}{where}{state}")
    lines += [f"asked     {v['sender']}: {ago(v['wall_s'])}" for v in facts["votes"]]
    lines += [
        f"command   {ago(t['wall_s'])}: {t['sender']} {t['verb']}: {t['reply']}"
        for t in reversed(facts["latest"][-SHOWN_LIMIT:])
    ]
    return lines + ([f"disk      {facts['disk_failed']}"] if facts["disk_failed"] else [])
