"""Writes the small files that a listener keeps: whole or not at all, and there after a power cut."""

from __future__ import annotations

import os

READ_LIMIT_BYTES = 64 * 1024


def write(path: str, text: str, *, lasting: bool = True) -> None:
    """Replace the file. `lasting`: do not return before the disk has it. Raises OSError."""
    fresh = f"{path}.new"
    with open(fresh, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        if lasting:
            os.fsync(stream.fileno())
    os.replace(fresh, path)
    if lasting and hasattr(os, "O_DIRECTORY"):
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(path: str, limit_bytes: int = READ_LIMIT_BYTES) -> str:
    """The file's text, as much as such a file may hold; "" if there is none. Raises OSError if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(limit_bytes).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
