"""Private files: whole or not at all, whatever the disk takes."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import vault
from agent.vault import Change


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


def test_a_damaged_file_is_kept_beside_and_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("first", "second"):  # the newest rubbish is the one that is kept
        path.write_text(text)
        assert vault.set_aside(path) == tmp_path / "x.json.damaged"
        assert not path.exists() and (tmp_path / "x.json.damaged").read_text() == text
    with pytest.raises(FileNotFoundError):
        vault.set_aside(path)


def test_a_lock_is_held_by_one_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "core/lock"
    held = vault.lock(path)
    with pytest.raises(BlockingIOError):
        vault.lock(path)
    os.close(held)
    os.close(vault.lock(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_a_lock_that_root_made_can_be_locked_by_whose_folder_it_is(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    os.close(vault.lock(tmp_path / "lock"))
    assert (tmp_path / "lock").stat().st_uid == 65534


def several(folder: Path) -> list[Change]:
    """One file is new, one replaced, one goes, one is shared and keeps its mode."""
    for name in ("replaced", "goes", "shared"):
        (folder / name).write_text(f"old {name}")
        (folder / name).chmod(0o644)
    changes = [
        Change(folder / "new/deep", b"new"),
        Change(folder / "replaced", b"other"),
        Change(folder / "goes", None),
    ]
    return [*changes, Change(folder / "never-there", None), Change(folder / "shared", b"last", None, True)]


def content(folder: Path) -> dict[str, tuple[str, int]]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.read_text(), p.stat().st_mode & 0o777) for p in found}


def test_several_files_are_replaced_together(tmp_path: Path) -> None:
    vault.replace_all(several(tmp_path))
    expected = {"new/deep": ("new", 0o600), "replaced": ("other", 0o600), "shared": ("last", 0o644)}
    assert content(tmp_path) == expected


def test_a_file_that_cannot_be_staged_leaves_them_all(tmp_path: Path) -> None:
    changes = several(tmp_path)
    before = content(tmp_path)
    with a_disk_that_takes_only(100), pytest.raises(OSError):
        vault.replace_all([*changes, Change(tmp_path / "long", bytes(10_000))])
    assert content(tmp_path) == before
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        vault.replace_all([*changes, Change(tmp_path / "folder", b"x")])
    assert content(tmp_path) == before


@pytest.mark.parametrize("at", range(3))
def test_a_file_that_cannot_be_renamed_brings_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    changes = several(tmp_path)
    before, calls, replace = content(tmp_path), [0], os.replace

    def fails_once(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == at + 1:
            raise OSError(5, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        vault.replace_all(changes)
    assert content(tmp_path) == before
