"""What people allowed to be run: the files of `commands.d`, which a configuration can only pick by name.

    NAME       a program of this host, for the way `local`
    NAME.ssh   a text file; its one line that is no comment is what the way `ssh` asks of a server

A file counts only if nobody but root and the agent's own user could have put it there.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from .model import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
LINE_LIMIT = 1000  # characters of what is asked of a server
FILE_LIMIT_BYTES = 16 * 1024


def wrong_name(name: str) -> str:
    """What is wrong with the name of a command, or ''."""
    if NAME.fullmatch(name):
        return ""
    return "is the name of a file in commands.d: letters, digits, dot, dash and underscore, at most 63"


def program(folder: Path, name: str) -> Path:
    """The program `name`. ConfigError with the remedy if it is not there or may not be run."""
    path, mode = _trusted(folder, name)
    if not mode & 0o111 or not os.access(path, os.X_OK):
        raise ConfigError(f"{path} cannot be executed; mend with: chmod 755 {path}")
    return path


def line(folder: Path, name: str) -> str:
    """The line in NAME.ssh. ConfigError with the remedy if it is not there or may not be used."""
    path, _ = _trusted(folder, f"{name}.ssh")
    try:
        with path.open("rb") as file:
            text = file.read(FILE_LIMIT_BYTES + 1).decode("utf-8", "replace")
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    lines = [row.strip() for row in text.splitlines()]
    lines = [row for row in lines if row and not row.startswith("#")]
    if len(lines) != 1 or len(text) > FILE_LIMIT_BYTES:
        raise ConfigError(f"{path}: must hold one line that is no comment, not {len(lines)}")
    if len(lines[0]) > LINE_LIMIT or not lines[0].isprintable():
        raise ConfigError(f"{path}: its line must be printable, at most {LINE_LIMIT} characters")
    return lines[0]


def _trusted(folder: Path, name: str) -> tuple[Path, int]:
    """The path and mode of a regular file that only root or this user can have written."""
    if problem := wrong_name(name):
        raise ConfigError(f'"{name}" {problem}')
    path = folder / name
    try:
        place, found = folder.stat(), path.lstat()
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is no regular file; put the program itself there")
    for what, state in ((folder, place), (path, found)):
        if state.st_uid not in (0, os.geteuid()):
            raise ConfigError(f"{what} belongs to another user; mend with: chown root {what}")
        if state.st_mode & 0o022:
            raise ConfigError(f"{what} may be changed by others; mend with: chmod go-w {what}")
    return path, found.st_mode
