"""Shows a message to everybody who is logged in: writes it to their terminals, as `wall` does, but needs no rights
beyond the group `tty`."""

from __future__ import annotations

import os
import re
import stat

TERMINALS_LIMIT = 256
_NAME = re.compile(r"[0-9]{1,6}|tty[0-9]{1,2}|ttys[0-9]{3}")  # Linux /dev/pts/N, consoles; macOS


def tell(text: str, folders: tuple[str, ...] = ("/dev/pts", "/dev")) -> tuple[int, int]:
    """Write one line, which must hold no control characters, to the terminals that take messages (`mesg y`: their
    group may write). (how many were told, how many could not be); never waits for one that has stopped."""
    told = refused = 0
    for path in _terminals(folders):
        try:
            with _Terminal(path) as number:
                os.write(number, f"\r\n\a{text}\r\n".encode())
            told += 1
        except OSError:
            refused += 1
    return told, refused


class _Terminal:
    """An opened terminal that neither becomes ours nor makes us wait."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._number = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        return self._number

    def __exit__(self, *reason: object) -> None:
        os.close(self._number)


def _terminals(folders: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for folder in folders:
        try:
            names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))
        except OSError:
            continue  # this system has none there
        for name in names:
            path = os.path.join(folder, name)
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue  # closed meanwhile
            if stat.S_ISCHR(mode) and mode & stat.S_IWGRP:
                found.append(path)
    return found[:TERMINALS_LIMIT]
