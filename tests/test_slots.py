"""The two-slot file survives what disks do."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agent import kept, slots
from agent.config import Server, Stage
from agent.engine import NewConfig
from agent.outage import State
from agent.slots import Keeper, Slots
from tests.kit import Play


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


def test_the_longest_names_and_a_hundred_deleted_servers_fit_into_a_slot(caplog: pytest.LogCaptureFixture) -> None:
    """50 stages, 1000 servers, of the last stage's trigger all latched: whom the slot cannot hold is said."""
    names = [f"{n:02d}".ljust(63, "x") for n in range(50)]
    stages = tuple(Stage(name=name, on_battery_s=5.0 if name == names[-1] else None) for name in names)
    servers = tuple(
        Server(name=f"s{n:04d}".ljust(63, "y"), address=f"10.0.{n // 250}.{n % 250 + 1}", stage=names[n % 50])
        for n in range(1000)
    )
    play = Play(stages=stages, servers=servers)
    play.mains(5)
    play.battery(12)
    assert play.view.phase == "committed"
    play.engine.turn(NewConfig(replace(play.config, servers=servers[:900])))
    play.battery(1)
    assert play.keeper.kept is not None and slots.encode(1, play.keeper.kept)
    assert "deleted servers would be forgotten with a restart" in caplog.text
    kept_names = {row["server"]["name"] for row in json.loads(play.keeper.kept)["gone"]}
    assert len(kept_names) > 15 and kept_names < {s.name for s in servers[900:]}
    again = Play(after=play, stages=stages, servers=servers[:900])
    again.battery(6)
    assert kept_names < set(again.tell)


def test_one_deleted_server_that_is_too_large_does_not_take_the_others_place() -> None:
    big = Server(name="big", address="192.0.2.1", how="http", options={"body": "x" * 9000})
    small = Server(name="small", address="192.0.2.2")
    data = kept.pack("boot", 1.0, State(), (), (), (), (big, small))
    assert [row.server.name for row in kept.unpack(data, "boot", 1.0).gone] == ["small"]
