"""Steps of a build: each says how long it took, and is made anew only when its inputs changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

SAID_LIMIT_BYTES = 4000  # of what a failed program said


class BuildError(Exception):
    """The build cannot go on; the text says why and what to do."""


def run(
    command: Sequence[str | Path],
    *,
    given: str | bytes = b"",
    environment: Mapping[str, str] | None = None,
    seen: IO[Any] | None = None,
    cwd: Path | None = None,
) -> bytes:
    """Run a program to its end and return what it said. BuildError with its last words if it fails.

    `given` is its standard input; what it says goes to `seen` instead, if that is given.
    """
    data = given.encode() if isinstance(given, str) else given
    try:
        done = subprocess.run(
            command,
            input=data,
            stdout=seen or subprocess.PIPE,
            stderr=seen or subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(environment or {})},
            cwd=cwd,
        )
    except FileNotFoundError:
        raise BuildError(
            f"{command[0]} is missing; `./run image` installs what it needs when it runs as root"
        ) from None
    if done.returncode:
        said = (done.stdout or b"")[-SAID_LIMIT_BYTES:].decode("utf-8", "replace")
        raise BuildError(f"{' '.join(map(str, command))[:200]}: exit code {done.returncode}\n{said}")
    return done.stdout or b""


def digest(*parts: str | bytes | Path) -> str:
    """SHA-256 over texts and the contents of files and folders, in hex."""
    total = hashlib.sha256()
    for part in parts:
        for piece in _pieces(part):
            total.update(len(piece).to_bytes(8, "big") + piece)
    return total.hexdigest()


def _pieces(part: str | bytes | Path) -> Iterable[bytes]:
    if isinstance(part, Path):
        files = sorted(p for p in part.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        for path in files if part.is_dir() else [part]:
            yield str(path.relative_to(part)).encode()
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").digest()
    else:
        yield part.encode() if isinstance(part, str) else part


class Steps:
    """The steps of one build, in a folder that is kept."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self._total, self._number = folder, total, 0
        self._began_s = time.monotonic()

    def step(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """The folder that `make(folder)` fills; as it is, if the last one with the same `key` was finished."""
        self._number += 1
        place = self.folder / name
        stamp = place / ".key"
        head = f"[{self._number}/{self._total}] {name}"
        if stamp.is_file() and stamp.read_text() == key:
            print(f"{head}: as it was", file=sys.stderr)
            return place
        print(f"{head} ...", file=sys.stderr, flush=True)
        began_s = time.monotonic()
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make(place)
        stamp.write_text(key)
        print(
            f"{head}: {time.monotonic() - began_s:.1f} s (since the start {time.monotonic() - self._began_s:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        return place
