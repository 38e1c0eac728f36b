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
    """Write a 0600 file, whole or not at all: temporary file, fsync, rename, fsync of the folder. OSError if not."""
    make_folder(path.parent)
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)  # all of it, or OSError: os.write would take what fits on a full disk, and be content
            file.flush()
            if os.geteuid() == 0:  # set by root for the user that the folder belongs to
                owner = path.parent.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
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


def write_whole(path: Path, data: bytes, mode: int | None) -> None:
    """Whole or not at all; mode None: that of the file that is there, or the owner's alone. OSError."""
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    write_private(path, data)
    if before is not None and os.geteuid() == 0:
        os.chown(path, before.st_uid, before.st_gid)
    if mode is None and before is not None:
        mode = before.st_mode & 0o777
    if mode is not None:
        os.chmod(path, mode)
