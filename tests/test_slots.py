"""The two-slot file survives what disks do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent import slots
from agent.slots import Keeper, Slots


def test_the_newest_whole_slot_wins(tmp_path: Path) -> None:
    file = Slots(tmp_path / "slots")
    assert file.read() == (None, False)
    for n in range(5):
        file.write(b"state %d" % n)
    file.close()
    assert Slots(tmp_path / "slots").read() == (b"state 4", False)


def test_a_torn_newest_slot_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    file = Slots(path)
    file.write(b"old")
    file.write(b"new")
    whole = path.read_bytes()
    newest = 0 if slots.decode(whole[: slots.SLOT_BYTES]) == (2, b"new") else slots.SLOT_BYTES
    size = slots.HEADER.size + len(b"new")
    for place in range(size):
        damaged = bytearray(whole)
        damaged[newest + place] ^= 0x41
        path.write_bytes(bytes(damaged))
        assert Slots(path).read() == (b"old", False), place


def test_both_slots_torn_is_damaged_and_writing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    Slots(path).write(b"x")
    path.write_bytes(b"\xff" * 2 * slots.SLOT_BYTES)
    file = Slots(path)
    assert file.read() == (None, True)
    file.write(b"again")
    assert Slots(path).read() == (b"again", False)


def test_too_much_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Slots(tmp_path / "slots").write(b"x" * slots.SLOT_BYTES)


def test_the_keeper_writes_the_newest_and_says_when_it_is_done(tmp_path: Path) -> None:
    keeper, stop = Keeper(tmp_path / "slots"), threading.Event()
    assert keeper.read() == (None, False)
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    assert keeper.keep(b"one", 5.0) and keeper.keep(b"two", 5.0)
    stop.set()
    thread.join()
    assert Slots(tmp_path / "slots").read() == (b"two", False)


def test_a_failed_write_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "RETRY_S", 0.02)  # made short for the test
    place = tmp_path / "folder"
    place.write_text("a file where a folder should be")
    keeper, stop = Keeper(place / "slots"), threading.Event()
    keeper.read()
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    assert not keeper.keep(b"one", 0.05)
    place.unlink()
    with keeper._change:
        assert keeper._change.wait_for(lambda: keeper._written == 1, 3.0)
    stop.set()
    thread.join()
    assert not keeper.failed and Slots(place / "slots").read() == (b"one", False)


def test_a_keeper_without_a_disk_says_so_and_does_not_wait_long(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where a folder should be")
    keeper, stop = Keeper(tmp_path / "folder" / "slots"), threading.Event()
    assert keeper.read() == (None, True) and keeper.failed
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    assert not keeper.keep(b"one", 0.05)
    stop.set()
    thread.join()
