"""Secrets by label in one file that only its owner can read: SNMP communities, later keys and pass phrases."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
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
    except ValueError as e:
        raise ConfigError(f"{path}: damaged ({e}); remove it and set the secrets again") from e
    return values


def write(path: Path, values: Mapping[str, str]) -> None:
    """Replace the file by `values`: owner-only, whole or not at all. OSError as the disk says."""
    write_private(path, json.dumps(dict(values), indent=1).encode() + b"\n")


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
    make_folder(path.parent)
    _write(path, data, 0o600, path.parent.stat() if os.geteuid() == 0 else None)


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """The same for a file that others may read: owner and, without `mode`, permissions of the one that is there stay
    (a new one without `mode` is its owner's alone). OSError if not."""
    make_folder(path.parent)
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    owner = path.parent.stat() if before is None and os.geteuid() == 0 else before
    kept = 0o600 if before is None else before.st_mode & 0o7777
    _write(path, data, kept if mode is None else mode, owner)


def _write(path: Path, data: bytes, mode: int, owner: os.stat_result | None) -> None:
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)  # all of it, or OSError: os.write would take what fits on a full disk, and be content
            file.flush()
            if owner is not None:
                os.fchown(fd, owner.st_uid, owner.st_gid)
            if mode != 0o600:
                os.fchmod(fd, mode)
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
