"""The two records beside the data partition: whatever happens to the one that is written, the other one is there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import sealed
from agent.sealed import Area
from image import layout

SMALL = layout.Sizes(start=1, boot=1, root=1, data=1)


@contextmanager
def card(sizes: layout.Sizes = SMALL, signature: bytes = b"") -> Iterator[Path]:
    """The image of a card, sparse, with nothing in its partitions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "card"
        layout.assemble(path, sizes, {})
        if signature:
            overwrite(path, 440, signature)
        yield path


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def area_of(path: Path) -> Area:
    found = sealed.on(path)
    assert found is not None
    return found


def test_the_gap_is_where_the_image_leaves_it_and_nothing_else_is_there() -> None:
    sizes = layout.Sizes()
    with card(sizes) as path:
        area = area_of(path)
        assert area.at == (sizes.start + sizes.boot + 2 * sizes.root) * layout.MIB
        assert sizes.spare * layout.MIB == sealed.PLACES * sealed.PLACE_BYTES
        assert area.at % sealed.PLACE_BYTES == 0, "a card erases 4 MiB at once: nobody else's may be among them"
        assert sealed.read(area) is None and path.stat().st_blocks < 64  # an empty gap is a hole of the image


def test_another_disk_or_an_older_card_has_none() -> None:
    for sizes, signature in ((SMALL, b"abcd"), (layout.Sizes(start=1, boot=1, root=1, data=1, spare=7), b"")):
        with card(sizes, signature) as path:
            assert sealed.on(path) is None
    with card() as path:
        overwrite(path, 446 + 48, bytes(16))  # no data partition in the table
        assert sealed.on(path) is None
        os.truncate(path, 100)
        assert sealed.on(path) is None


def test_the_disk_is_the_one_that_holds_the_root(tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    with card() as path:
        assert sealed.find(tmp_path, tmp_path / "devices", path.parent) is None  # no partition has that number
        part = tmp_path / f"bus/{path.name}/part2"
        part.mkdir(parents=True)
        (tmp_path / "devices").mkdir()
        (tmp_path / f"devices/{os.major(number)}:{os.minor(number)}").symlink_to(part)
        assert sealed.find(tmp_path, tmp_path / "devices", path.parent) == area_of(path)
        assert sealed.find(tmp_path, tmp_path / "devices", tmp_path / "nowhere") is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=3000), st.sampled_from(["whole", "torn", "rotten"]), st.data()),
        min_size=1,
        max_size=8,
    )
)
def test_the_newest_whole_record_wins(steps: list[tuple[bytes, str, st.DataObject]]) -> None:
    """Each step writes a record: it gets whole onto the card, only some of its sectors do, or the card spoils some
    of it afterwards. What is read is always the last whole one, never a mixture; neighbours stay as they are."""
    with card() as path:
        area = area_of(path)
        end = area.at + sealed.PLACES * sealed.PLACE_BYTES
        overwrite(path, area.at - 512, b"\xaa" * 512)
        overwrite(path, end, b"\xbb" * 512)
        good: bytes | None = None
        for data, what, draw in steps:
            before = path.read_bytes()
            sealed.write(area, data)
            after = path.read_bytes()
            changed = [at for at in range(0, len(after), 512) if after[at : at + 512] != before[at : at + 512]]
            assert changed and area.at <= changed[0] and changed[-1] < end
            if what == "whole":
                good = data
            elif what == "torn":
                lost = draw.draw(st.sets(st.sampled_from(changed), min_size=1))
                for at in lost:
                    overwrite(path, at, before[at : at + 512])
            else:
                place = changed[0] - (changed[0] - area.at) % sealed.PLACE_BYTES
                at = place + draw.draw(st.integers(0, sealed.HEADER.size + len(data) - 1))
                overwrite(path, at, bytes([after[at] ^ draw.draw(st.integers(1, 255))]))
            assert sealed.read(area) == good
        everything = path.read_bytes()
        assert everything[area.at - 512 : area.at] == b"\xaa" * 512 and everything[end : end + 512] == b"\xbb" * 512


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: sealed.MAGIC + tail))
@example(sealed.HEADER.pack(sealed.MAGIC, 1, 2**64 - 1, bytes(32)))
def test_any_bytes_are_a_whole_record_or_none(raw: bytes) -> None:
    found = sealed.decode(raw)
    assert found is None or raw.startswith(sealed.encode(*found))


def test_erased_is_zeros_and_only_there() -> None:
    with card() as path:
        area = area_of(path)
        empty = path.read_bytes()
        for data in (b"one", b"a-secret-community" * 9, b"three"):
            sealed.write(area, data)
        assert b"a-secret" in path.read_bytes() and sealed.read(area) == b"three"
        sealed.erase(area)
        assert path.read_bytes() == empty and sealed.read(area) is None
        sealed.write(area, b"again")
        assert sealed.read(area) == b"again"


def test_a_record_that_is_too_long_changes_nothing() -> None:
    with card() as path:
        area = area_of(path)
        sealed.write(area, b"x" * sealed.DATA_LIMIT_BYTES)
        sealed.write(area, b"short")
        before = path.read_bytes()
        with pytest.raises(ValueError, match="do not fit"):
            sealed.write(area, b"x" * (sealed.DATA_LIMIT_BYTES + 1))
        assert path.read_bytes() == before and sealed.read(area) == b"short"


def test_a_card_that_forgets_is_found_out_and_the_record_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with card() as path:
        area = area_of(path)
        sealed.write(area, b"one")
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: len(data))
        with pytest.raises(OSError, match="the card is failing"):
            sealed.write(area, b"two")
        assert sealed.read(area) == b"one"


def test_a_place_that_does_not_read_is_no_loss_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    with card() as path:
        area = area_of(path)
        sealed.write(area, b"one")
        sealed.write(area, b"two")
        bad = {area.at + sealed.PLACE_BYTES}

        def failing(fd: int, count: int, at: int) -> bytes:
            if at in bad:
                raise OSError(5, "Input/output error")
            return pread(fd, count, at)

        monkeypatch.setattr(os, "pread", failing)
        assert sealed.read(area) == b"one"
        bad.add(area.at)
        with pytest.raises(OSError, match="Input/output"):  # not "there is none": nobody may take that for a new card
            sealed.read(area)
