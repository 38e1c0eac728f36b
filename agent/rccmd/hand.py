"""Puts files on the server so that nothing is ever half done: each file whole or not at all, and all can be undone.

A dry hand only tells what it would do. Files are written beside their place, synchronised, and renamed.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

RUN_LIMIT_S = 60.0  # for one program of the system (systemctl, useradd, ...)
SHOW_LIMIT = 300  # characters of what a failed program said

Say = Callable[[str], None]


class Failed(Exception):
    """A step did not work; the text says what failed and what to do."""


@dataclass(frozen=True)
class Owner:
    """Whose a file is: user and group by name."""

    user: str = "root"
    group: str = "root"


def run_program(argv: Sequence[str]) -> tuple[int, str]:
    """Run a program of the system to its end: (exit code, all that it said). Raises OSError, SubprocessError."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_LIMIT_S
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


class Hand:
    """Changes the machine, remembers how it was, and can put it back. `say` gets a line for each change."""

    def __init__(
        self,
        say: Say,
        dry: bool = False,
        run: Callable[[Sequence[str]], tuple[int, str]] = run_program,
        owners: bool = True,  # give files to their owners; no: they stay the caller's
    ) -> None:
        self.say, self.dry, self._run, self._owners = say, dry, run, owners
        self._before: list[tuple[str, tuple[bytes, os.stat_result] | None]] = []  # how each place was

    def folder(self, path: str, mode: int, owner: Owner) -> None:
        """Make a folder (and those above it) unless it is there; mode and owner are set in either case."""
        if self.dry:
            if not os.path.isdir(path):
                self.say(f"would make the folder {path} ({mode:04o} {owner.user}:{owner.group})")
            return
        try:
            missing: list[str] = []
            above = path
            while above and not os.path.isdir(above) and above not in missing:
                missing.append(above)
                above = os.path.dirname(above)
            for new in reversed(missing):
                os.mkdir(new, 0o755)
                self._before.append((new, None))
            if not missing:
                self._before.append((path, (b"", os.stat(path))))
            os.chmod(path, mode)
            self._give(path, owner)
        except OSError as e:
            raise Failed(f"cannot make the folder {path}: {e.strerror}") from None

    def write(self, path: str, data: bytes, mode: int, owner: Owner) -> bool:
        """Write a file whole, or leave the old one. True: it is new or was changed."""
        old = _read(path)
        if self.dry:
            what = "write" if old is None else "leave" if old[0] == data else "replace"
            self.say(f"would {what} {path} ({mode:04o} {owner.user}:{owner.group}, {len(data)} bytes)")
            return old is None or old[0] != data
        fresh = f"{path}.new"
        try:
            if os.path.lexists(fresh):
                os.remove(fresh)  # of an installer that was interrupted
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(handle, "wb", closefd=False) as stream:
                    stream.write(data)
                if hasattr(os, "fchmod"):
                    os.fchmod(handle, mode)
                self._give(fresh, owner)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(fresh, path)
            _sync_folder(os.path.dirname(path))
        except OSError as e:
            if os.path.lexists(fresh):
                os.remove(fresh)
            raise Failed(f"cannot write {path}: {e.strerror}") from None
        self._before.append((path, old))
        if old is None or old[0] != data:
            self.say(f"{'wrote' if old is None else 'replaced'} {path}")
            return True
        return False

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        if not os.path.lexists(path):
            return
        if self.dry:
            self.say(f"would remove {path}")
            return
        old = _read(path)
        try:
            os.remove(path)
        except OSError as e:
            raise Failed(f"cannot remove {path}: {e.strerror}") from None
        self._before.append((path, old))
        self.say(f"removed {path}")

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder; one with something in it stays, and a line says so."""
        if not os.path.isdir(path):
            return
        if self.dry:
            self.say(f"would remove the folder {path}, if nothing else is in it")
            return
        if rest := sorted(os.listdir(path)):
            self.say(f"left: {path}, because it holds {', '.join(rest[:5])}{' and more' if rest[5:] else ''}")
            return
        try:
            os.rmdir(path)
        except OSError as e:
            raise Failed(f"cannot remove the folder {path}: {e.strerror}") from None
        self.say(f"removed {path}")

    def run(self, argv: Sequence[str], needed: bool = True) -> bool:
        """Run a program of the system. True: it ended well. Raises Failed if it did not and is `needed`."""
        if self.dry:
            self.say(f"would run: {' '.join(argv)}")
            return True
        try:
            code, said = self._run(argv)
        except (OSError, subprocess.SubprocessError) as e:
            code, said = -1, str(e)
        if code != 0 and needed:
            raise Failed(f"{' '.join(argv)} failed: {' '.join(said.split())[:SHOW_LIMIT] or f'exit code {code}'}")
        return code == 0

    def made(self, path: str) -> bool:
        """Was this place empty before?"""
        return next((old is None for place, old in self._before if place == path), False)

    def undo(self) -> list[str]:
        """Put every place back as it was, the last change first. Returns what could not be put back."""
        problems = []
        while self._before:
            path, old = self._before.pop()
            try:
                if old is not None:
                    data, was = old
                    place = path if stat.S_ISDIR(was.st_mode) else f"{path}.new"
                    if place != path:
                        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                            stream.write(data)
                    os.chmod(place, was.st_mode & 0o7777)
                    if self._owners and hasattr(os, "chown"):
                        os.chown(place, was.st_uid, was.st_gid)
                    if place != path:
                        os.replace(place, path)
                elif os.path.isdir(path):
                    os.rmdir(path)
                elif os.path.lexists(path):
                    os.remove(path)
            except OSError as e:
                problems.append(f"{path}: {e.strerror}")
        return problems

    def _give(self, path: str, owner: Owner) -> None:
        if not self._owners or not hasattr(os, "chown"):
            return
        try:
            shutil.chown(path, owner.user, 0 if owner.group == "root" else owner.group)  # macOS: wheel
        except LookupError as e:
            raise Failed(f"cannot give {path} to {owner.user}:{owner.group}: {e}") from None


def probe_folder(path: str, size_bytes: int) -> None:
    """Can a file of this size be written in (or in what will become) this folder? Raises Failed."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    trial = os.path.join(path, ".rccmd-trial")
    try:
        if os.path.lexists(trial):
            os.remove(trial)  # never through a link: the listener may write in its own folder, and we are root
        with open(trial, "xb") as stream:
            stream.write(bytes(size_bytes))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as e:
        raise Failed(f"cannot write in {path}: {e.strerror}") from None
    finally:
        if os.path.lexists(trial):
            os.remove(trial)


def _read(path: str) -> tuple[bytes, os.stat_result] | None:
    try:
        with open(path, "rb") as stream:
            return stream.read(), os.fstat(stream.fileno())
    except FileNotFoundError:
        return None
    except OSError as e:
        raise Failed(f"cannot read {path}: {e.strerror}") from None


def _sync_folder(path: str) -> None:
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
