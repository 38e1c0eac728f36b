"""The boot partition of the image: mounted read-only, writable for a moment; and the slot that is started."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

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
