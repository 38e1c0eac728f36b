"""Files that must not be lost: secrets by label that only their owner can read; written whole or not at all; set
aside when they are damaged; and the lock of a folder that only one process may use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .model import ConfigError

LIMIT_BYTES = 64 * 1024


def read(path: Path) -> dict[str, str]:
    """All secrets by label; an absent file is an empty one. ConfigError if it is damaged or others may read it."""
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()[: LIMIT_BYTES + 1]
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    if mode & 0o077:
        raise ConfigError(f"{path}: others may read it; mend with: chmod 600 {path}")
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise ValueError("not an object of strings")
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: damaged ({e}); remove it and set the secrets again") from e
    return values


def write(path: Path, values: Mapping[str, str]) -> None:
    """Replace the file by `values`: owner-only, whole or not at all. OSError as the disk says."""
    write_private(path, written(values))


def written(values: Mapping[str, str]) -> bytes:
    """The file's content for these values."""
    return json.dumps(dict(values), indent=1).encode() + b"\n"


def make_folder(folder: Path) -> None:
    """Make the folder and what is missing above it, owner-only; made by root, it gets the owner of the one above."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        owner = folder.parent.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)


def write_private(path: Path, data: bytes) -> None:
    """Write a 0600 file, whole or not at all: temporary file, fsync, rename, fsync of the folder. Made by root, it
    gets the owner of its folder. OSError if not."""
    _finish(path, _stage(path, data, 0o600))


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """The same for a file that others may read: owner and, without `mode`, permissions of the one that is there stay
    (a new one without `mode` is its owner's alone). OSError if not."""
    _finish(path, _stage(path, data, mode, True))


@dataclass(frozen=True, slots=True)
class Change:
    """One of several files: its new content (None: it goes), as `write_private` or, if `shared`, `write_whole`."""

    path: Path
    data: bytes | None
    mode: int | None = 0o600
    shared: bool = False


def replace_all(changes: Sequence[Change]) -> None:
    """All of the changes, the last one last, or none. What can fail (room, rights, a folder in the place) fails
    before the first file is replaced; fails a later one all the same, those before it come back. OSError as the disk
    says. A loss of power amid the renaming can leave some of it done; no file is ever missing or half written."""
    staged: list[Path] = []
    done: list[tuple[Path, Path | None]] = []
    try:
        for change in changes:
            if change.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(change.path))
            if change.data is not None:
                staged.append(_stage(change.path, change.data, change.mode, change.shared))
        for change in changes:
            before = _beside(change.path, "before")
            before.unlink(missing_ok=True)
            known = os.path.lexists(change.path)
            if known:
                os.link(change.path, before, follow_symlinks=False)
            done.append((change.path, before if known else None))
            if change.data is not None:
                os.replace(_beside(change.path, "new"), change.path)
            elif known:
                change.path.unlink()
    except OSError:
        for path, kept in reversed(done):
            if kept is not None:
                os.replace(kept, path)
                kept.unlink(missing_ok=True)  # renaming a file to itself does nothing
            else:
                path.unlink(missing_ok=True)
        for temporary in staged:
            temporary.unlink(missing_ok=True)
        raise
    for folder in dict.fromkeys(change.path.parent for change in changes if change.path.parent.is_dir()):
        _sync(folder)
    for _, kept in done:
        if kept is not None:
            kept.unlink()


def set_aside(path: Path) -> Path:
    """Keep a damaged file as NAME.damaged, so that a new one can be begun; where it is now. OSError if not."""
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    return aside


def lock(path: Path) -> int:
    """Hold the lock file at `path` until its descriptor is closed, which also the end of the process does. Made by
    root, it gets the owner of its folder: he locks it the next time. BlockingIOError: another process holds it; other
    OSErrors as the disk says."""
    make_folder(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _stage(path: Path, data: bytes, mode: int | None, shared: bool = False) -> Path:
    """The temporary file beside `path` that only has to be renamed."""
    make_folder(path.parent)
    before = None
    if shared:
        with contextlib.suppress(FileNotFoundError):
            before = path.stat()
    owner = path.parent.stat() if before is None and os.geteuid() == 0 else before
    if mode is None:
        mode = 0o600 if before is None else before.st_mode & 0o7777
    temporary = _beside(path, "new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)  # all of it, or OSError: os.write would take what fits on a full disk, and be content
            file.flush()
            if owner is not None:
                os.fchown(fd, owner.st_uid, owner.st_gid)
            if mode != 0o600:  # a FAT partition refuses even that one
                os.fchmod(fd, mode)
            os.fsync(fd)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _finish(path: Path, temporary: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
