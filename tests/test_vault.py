"""Private files: whole or not at all, whatever the disk takes."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import vault


@contextmanager
def a_disk_that_takes_only(size: int) -> Iterator[None]:
    """A file may grow so far: the write that reaches the limit is short, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_half_of_a_file_leaves_the_old_one_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "last-good.toml"
    vault.write_private(path, b"old")
    with a_disk_that_takes_only(4096), pytest.raises(OSError):
        vault.write_private(path, b"x" * 10_000)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["last-good.toml"]  # the piece does not keep the disk full
    vault.write_private(path, b"y" * 10_000)
    assert path.read_bytes() == b"y" * 10_000 and path.stat().st_mode & 0o777 == 0o600
