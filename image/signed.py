"""Makes a signed update of what an image is made of: the kernel side of a slot, and the root."""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from . import layout
from .step import run

ROOT = Path(__file__).parent.parent


def make(kernel: Path, root: Path, version: str, made_s: int, key: Path, target: Path, words: str = "") -> None:
    """The update `target` of the folder `kernel` and the file `root`, signed with `key` (`agent.bundle key` made it).
    `words`: the kernel's, else those of the image. BuildError."""
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        slot = Path(name) / "slot"
        shutil.copytree(kernel, slot)
        (slot / "cmdline.txt").write_text(words or layout.cmdline("a"))
        packed = Path(name) / "slot.tar"
        with tarfile.open(packed, "w") as tar:
            for path in sorted(slot.rglob("*")):
                if path.is_file():
                    tar.add(path, str(path.relative_to(slot)), filter=lambda info: _plain(info, made_s))
        run(
            [
                sys.executable, "-m", "agent.bundle", "make", "--key", key.resolve(), "--slot", packed,
                "--root", root, "--version", version, "--made", str(made_s), target,
            ],
            cwd=ROOT,
        )  # fmt: skip


def _plain(info: tarfile.TarInfo, made_s: int) -> tarfile.TarInfo:
    """The same on every machine."""
    info.mtime, info.uid, info.gid, info.uname, info.gname = made_s, 0, 0, "", ""
    return info
