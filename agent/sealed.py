"""Two sealed records in the gap before the card's data partition: no file system, so nothing that could break but a
record itself, and then the other one is there.

    one place, 4 MiB, all integers big-endian:
    | magic "RTSPARE1" 8 | sequence 8 | length 8 | SHA-256 of sequence, length and data 32 | data ... |

The two places are written in turn, each with fdatasync and a look whether the card has it; the newest that is whole
wins. They are 4 MiB long because that is the unit in which cards erase: a card that loses more than was being written
loses one of the two, and nothing of its neighbours.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

PLACE_BYTES, PLACES = 4 * 1024 * 1024, 2
HEADER = struct.Struct(">8sQQ32s")
MAGIC = b"RTSPARE1"
DATA_LIMIT_BYTES = PLACE_BYTES - HEADER.size
DISK = bytes.fromhex("72696465")[::-1]  # the card's MBR signature (image/layout.py), at 440
SECTOR_BYTES, CHUNK_BYTES = 512, 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Area:
    """Where on the disk (or its image) the two places are; `at`: byte of the first."""

    device: Path
    at: int


def find(root: Path = Path("/"), devices: Path = Path("/sys/dev/block"), nodes: Path = Path("/dev")) -> Area | None:
    """That of the very card from which this host was started, whatever copy of it hangs on it. None: it has none.
    OSError as the disk says."""
    number = root.stat().st_dev
    try:
        disk = (devices / f"{os.major(number)}:{os.minor(number)}").resolve(strict=True).parent
    except FileNotFoundError:
        return None  # the root is on no partition: this is not the image
    node = nodes / disk.name
    return on(node) if node.exists() else None


def on(device: Path) -> Area | None:
    """The gap between partitions 3 and 4, as the first sector draws them. None: not our card, or no such gap."""
    with device.open("rb") as file:
        sector = file.read(SECTOR_BYTES)
    if len(sector) < SECTOR_BYTES or sector[440:444] != DISK or sector[510:] != b"\x55\xaa":
        return None
    (start_b, count_b), (start_data, _) = (struct.unpack_from("<II", sector, 446 + 16 * n + 8) for n in (2, 3))
    at, end = (start_b + count_b) * SECTOR_BYTES, start_data * SECTOR_BYTES
    return Area(device=device, at=at) if count_b and end - at >= PLACES * PLACE_BYTES else None


def read(area: Area) -> bytes | None:
    """The newest whole record; None if there is none. OSError if neither is whole and the disk does not read."""
    found, error = _places(area)
    if not found and error is not None:
        raise error
    return max(found.values())[1] if found else None


def write(area: Area, data: bytes) -> None:
    """Write the older place, and see that the card has it. ValueError if it is too long, OSError as the disk says;
    the other record stays as it is in any case."""
    if len(data) > DATA_LIMIT_BYTES:
        raise ValueError(f"{len(data)} bytes do not fit into the {DATA_LIMIT_BYTES} that are there")
    found, _ = _places(area)
    newest = max(found, key=lambda place: found[place]) if found else 1
    place = 1 - newest
    record = encode(found[newest][0] + 1 if found else 1, data)
    with area.device.open("r+b", buffering=0) as file:
        _put(file.fileno(), record, area.at + place * PLACE_BYTES)
        if _get(file.fileno(), len(record), area.at + place * PLACE_BYTES) != record:
            raise OSError(5, "what was written cannot be read back: the card is failing", str(area.device))


def erase(area: Area) -> None:
    """Zeros in both places. OSError as the disk says."""
    with area.device.open("r+b", buffering=0) as file:
        for offset in range(0, PLACES * PLACE_BYTES, CHUNK_BYTES):
            _put(file.fileno(), bytes(CHUNK_BYTES), area.at + offset)


def encode(sequence: int, data: bytes) -> bytes:
    """One record."""
    return HEADER.pack(MAGIC, sequence, len(data), _sum(sequence, data)) + data


def decode(record: bytes) -> tuple[int, bytes] | None:
    """(sequence, data) of a record that is whole, whatever follows it; else None."""
    if len(record) < HEADER.size:
        return None
    magic, sequence, length, digest = HEADER.unpack_from(record)
    data = record[HEADER.size : HEADER.size + length]
    if magic != MAGIC or len(data) != length or digest != _sum(sequence, data):
        return None
    return sequence, data


def _sum(sequence: int, data: bytes) -> bytes:
    return hashlib.sha256(struct.pack(">QQ", sequence, len(data)) + data).digest()


def _places(area: Area) -> tuple[dict[int, tuple[int, bytes]], OSError | None]:
    """place -> (sequence, data) of those that are whole; and what the disk said if it does not read one."""
    found, error = dict[int, tuple[int, bytes]](), None
    with area.device.open("rb", buffering=0) as file:
        for place in range(PLACES):
            at = area.at + place * PLACE_BYTES
            try:
                head = _get(file.fileno(), HEADER.size, at)
                length = HEADER.unpack(head)[2] if len(head) == HEADER.size and head.startswith(MAGIC) else 0
                if not 0 < length <= DATA_LIMIT_BYTES:
                    continue
                if whole := decode(_get(file.fileno(), HEADER.size + length, at)):
                    found[place] = whole
            except OSError as e:
                error = e
    return found, error


def _get(fd: int, count: int, at: int) -> bytes:
    """As the card has it, not the memory; short at the end of the disk."""
    os.posix_fadvise(fd, at, count, os.POSIX_FADV_DONTNEED)
    pieces = []
    while count and (piece := os.pread(fd, min(count, CHUNK_BYTES), at)):
        pieces.append(piece)
        at, count = at + len(piece), count - len(piece)
    return b"".join(pieces)


def _put(fd: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(fd, left, at)
        at, left = at + done, left[done:]
    os.fdatasync(fd)
