"""The boot partition of the image: mounted read-only, writable for a moment; and the slot that is started."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from . import vault

PATH = Path("/boot/firmware")
Mount = Callable[[Path, str], None]


def remount(path: Path, how: str) -> None:
    """Mount it anew, `how`: rw | ro. OSError."""
    done = subprocess.run(["mount", "-o", f"remount,{how}", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(30, f"cannot be made {how}: {done.stderr.strip()}", str(path))


@contextlib.contextmanager
def writable(path: Path, mount: Mount = remount) -> Iterator[None]:
    """The partition, writable meanwhile. OSError."""
    fixed = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    if fixed:
        mount(path, "rw")
    try:
        yield
    finally:
        if fixed:
            mount(path, "ro")


def replace(path: Path, data: bytes) -> None:
    """Give the file another content, and overwrite the one it had: freed clusters of a FAT keep their bytes, for
    whoever reads the card. OSError."""
    with path.open("r+b") as before:
        vault.write_whole(path, data, None)
        before.write(bytes(before.seek(0, os.SEEK_END) - before.seek(0)))
        before.flush()
        os.fsync(before.fileno())
