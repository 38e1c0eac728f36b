"""The two-slot file: what protection must not lose, kept through crashes, torn writes and a full disk.

    one slot, 16384 bytes, all integers big-endian:
    | magic "RTS1" 4 | sequence 8 | length 4 | CRC-32 of sequence, length and data 4 | data (JSON) ... | zeros |

Two slots in one pre-allocated file, written in turn with pwrite and fdatasync; the newest that is whole wins.
Writing in place works on a full disk, where temporary file and rename do not.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from pathlib import Path

log = logging.getLogger(__name__)

RETRY_S = 1.0  # after a failed write

SLOT_BYTES = 16384  # 50 latched stages and 1000 servers fit
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


class Keeper:
    """Writes the newest data in a thread of its own, so that a disk that stalls cannot hold a shutdown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slots: Slots | None = None
        self._change = threading.Condition()
        self._wanted: bytes | None = None
        self._number = self._written = 0
        self.failed = ""  # why the last write failed; '' while all is well

    def read(self) -> tuple[bytes | None, bool]:
        """As Slots.read; a file that cannot be opened counts as damaged."""
        try:
            self._slots = Slots(self._path)
            return self._slots.read()
        except OSError as e:
            self._fail(e)
            return None, True

    def keep(self, data: bytes, within_s: float) -> bool:
        """Have `data` written; wait for it at most `within_s`. False: not yet on the disk."""
        with self._change:
            self._wanted = data
            self._number += 1
            number = self._number
            self._change.notify_all()
            return self._change.wait_for(lambda: self._written >= number, within_s)

    def run(self, stop: threading.Event) -> None:
        """The keeper's thread."""
        while not stop.is_set() or self._wanted is not None:
            with self._change:
                self._change.wait_for(lambda: self._wanted is not None, 0.5)
                data, number, self._wanted = self._wanted, self._number, None
            if data is None:
                continue
            try:
                if self._slots is None:
                    self._slots = Slots(self._path)
                self._slots.write(data)
            except (OSError, ValueError) as e:
                self._fail(e)
                with self._change:
                    if self._wanted is None and not stop.is_set():
                        self._wanted = data  # again, unless there is something newer
                stop.wait(RETRY_S)
                continue
            self.failed = ""
            with self._change:
                self._written = number
                self._change.notify_all()
        if self._slots is not None:
            self._slots.close()

    def _fail(self, error: Exception) -> None:
        if not self.failed:
            log.error("%s: %s: protection works, but a restart would not remember this outage", self._path, error)
        self.failed = str(error) or type(error).__name__
