"""The two-slot file: what protection must not lose, kept through crashes, torn writes and a full disk.

    one slot, 4096 bytes, all integers big-endian:
    | magic "RTS1" 4 | sequence 8 | length 4 | CRC-32 of sequence, length and data 4 | data (JSON) ... | zeros |

Two slots in one pre-allocated file, written in turn with pwrite and fdatasync; the newest that is whole wins.
Writing in place works on a full disk, where temporary file and rename do not.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

SLOT_BYTES = 4096
HEADER = struct.Struct(">4sQII")
MAGIC = b"RTS1"
DATA_LIMIT_BYTES = SLOT_BYTES - HEADER.size


def _crc(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack(">QI", sequence, len(data))))


def encode(sequence: int, data: bytes) -> bytes:
    """One slot. ValueError if the data does not fit."""
    if len(data) > DATA_LIMIT_BYTES:
        raise ValueError(f"{len(data)} bytes do not fit into a slot of {DATA_LIMIT_BYTES}")
    header = HEADER.pack(MAGIC, sequence, len(data), _crc(sequence, data))
    return (header + data).ljust(SLOT_BYTES, b"\0")


def decode(slot: bytes) -> tuple[int, bytes] | None:
    """(sequence, data) of a whole slot, else None."""
    if len(slot) < HEADER.size:
        return None
    magic, sequence, length, crc = HEADER.unpack_from(slot)
    data = slot[HEADER.size : HEADER.size + length]
    if magic != MAGIC or len(data) != length or crc != _crc(sequence, data):
        return None
    return sequence, data


class Slots:
    """The file at `path`. Owned by the engine's thread."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. OSError as the disk says."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if os.fstat(self._fd).st_size < 2 * SLOT_BYTES:
            os.posix_fallocate(self._fd, 0, 2 * SLOT_BYTES)
            os.fsync(self._fd)
        self._sequence = 0

    def read(self) -> tuple[bytes | None, bool]:
        """(newest whole data or None, damaged): damaged is true when both slots hold something and none is whole."""
        raw = [os.pread(self._fd, SLOT_BYTES, n * SLOT_BYTES) for n in (0, 1)]
        whole = [found for found in map(decode, raw) if found]
        if not whole:
            return None, any(slot.strip(b"\0") for slot in raw)
        self._sequence, data = max(whole)
        return data, False

    def write(self, data: bytes) -> None:
        """Write the older slot and wait until it is on the disk. OSError as the disk says, ValueError if too long."""
        slot = encode(self._sequence + 1, data)
        if os.pwrite(self._fd, slot, ((self._sequence + 1) % 2) * SLOT_BYTES) != SLOT_BYTES:
            raise OSError("short write")
        self._sequence += 1
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
