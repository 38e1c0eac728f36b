"""A disk with a volatile write cache, as an NBD server: what was not flushed when the power goes is lost, or torn.

Wire: NBD protocol, "fixed newstyle" (the NBD project's doc/proto.md); options GO, INFO, EXPORT_NAME, LIST refused,
ABORT; commands READ, WRITE, DISC, FLUSH. One connection at a time, as QEMU makes it, and none once the power is gone:
QEMU would connect again by itself. `honest` false is the control: a disk that answers a flush and does not do it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from pathlib import Path

SECTOR_BYTES = 512
HANDSHAKE, OPTION_MAGIC, REPLY_MAGIC = b"NBDMAGIC", 0x49484156454F5054, 0x0003E889045565A9
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
EXPORT_NAME, ABORT, INFO, GO = 1, 2, 6, 7
ACK, INFO_REPLY, UNSUPPORTED = 1, 3, 0x80000001
HAS_FLAGS, SEND_FLUSH = 1, 4
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
EIO = 5
KEPT, TORN = 0.45, 0.20  # of the writes that were not flushed; the rest is lost


class Disk:
    """The file `path` behind the socket `address`. `cut` is the loss of power."""

    def __init__(self, path: Path, address: Path, honest: bool = True) -> None:
        self.honest = honest
        self.flushes = 0
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        self._lock = threading.Lock()
        self._cache: dict[int, bytes] = {}  # sector -> what it will hold
        self._writes: list[tuple[int, bytes]] = []  # not flushed, in their order
        self._dead = threading.Event()
        self._at = 0  # the power goes at so many writes that are not flushed
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(1)
        threading.Thread(target=self._run, daemon=True).start()

    def cut_at(self, writes: int, within_s: float) -> None:
        """The power goes in the middle of the next burst, at so many writes that are not flushed; else at the end of
        the time."""
        with self._lock:
            self._at = writes
        self._dead.wait(within_s)

    def cut(self, chance: random.Random) -> tuple[int, int]:
        """The power is gone: each write that was not flushed is kept, torn at a sector or lost. How many there were,
        and how many are kept."""
        with self._lock:
            self._dead.set()
            writes, kept = self._writes, 0
            for at, data in writes:
                luck = chance.random()
                if luck < KEPT:
                    kept += 1
                elif luck < KEPT + TORN:
                    data = data[: chance.randrange(len(data) // SECTOR_BYTES + 1) * SECTOR_BYTES]
                else:
                    continue
                os.pwrite(self._file, data, at)
            self._writes, self._cache, self._at = [], {}, 0
            self._no_more()
            return len(writes), kept

    def _no_more(self) -> None:
        """Nobody is served any more, nor taken on; `close` would leave somebody who waits waiting."""
        for sock in (self._listener, self._connection):
            if sock is not None:
                with contextlib.suppress(OSError):  # it is gone already
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        os.close(self._file)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with self._lock:
                self._connection = connection
                if self._dead.is_set():
                    self._no_more()
            try:
                with connection:
                    self._greet(connection)
                    while self._serve(connection):
                        pass
            except (ConnectionError, OSError):
                pass  # the machine ended

    def _greet(self, to: socket.socket) -> None:
        """The handshake. ConnectionError if the other end wants none of it."""
        to.sendall(HANDSHAKE + struct.pack(">QH", OPTION_MAGIC, 1 | 2))  # fixed newstyle, no zeroes
        no_zeroes = struct.unpack(">I", _exactly(to, 4))[0] & 2
        flags = HAS_FLAGS | SEND_FLUSH
        while True:
            _, option, length = struct.unpack(">QII", _exactly(to, 16))
            _exactly(to, length)
            if option == EXPORT_NAME:
                to.sendall(struct.pack(">QH", self._size, flags) + (b"" if no_zeroes else bytes(124)))
                return
            if option in (INFO, GO):
                self._reply(to, option, INFO_REPLY, struct.pack(">HQH", 0, self._size, flags))
                self._reply(to, option, ACK)
                if option == GO:
                    return
            else:
                self._reply(to, option, ACK if option == ABORT else UNSUPPORTED)
                if option == ABORT:
                    raise ConnectionError("aborted")

    @staticmethod
    def _reply(to: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
        to.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

    def _serve(self, to: socket.socket) -> bool:
        """One request; whether there may be another."""
        magic, _, kind, handle, at, length = struct.unpack(">IHHQQI", _exactly(to, 28))
        if magic != REQUEST_MAGIC or kind == DISCONNECT:
            return False
        given = _exactly(to, length) if kind == WRITE else b""
        error, data = 0, b""
        with self._lock:
            if self._dead.is_set():
                return False
            if kind == READ:
                data = self._read(at, length)
            elif kind == WRITE:
                self._write(at, given)
                if self._at and len(self._writes) >= self._at:
                    self._dead.set()
                    self._no_more()
                    return False
            elif kind == FLUSH:
                self._flush()
            else:
                error = EIO
        to.sendall(struct.pack(">IIQ", ANSWER_MAGIC, error, handle) + data)
        return True

    def _read(self, at: int, length: int) -> bytes:
        data = bytearray(os.pread(self._file, length, at))
        for sector in range(at // SECTOR_BYTES, (at + length) // SECTOR_BYTES):
            if sector in self._cache:
                start = sector * SECTOR_BYTES - at
                data[start : start + SECTOR_BYTES] = self._cache[sector]
        return bytes(data)

    def _write(self, at: int, data: bytes) -> None:
        self._writes.append((at, data))
        for start in range(0, len(data), SECTOR_BYTES):
            self._cache[(at + start) // SECTOR_BYTES] = data[start : start + SECTOR_BYTES]

    def _flush(self) -> None:
        self.flushes += 1
        if self.honest:
            for sector, data in self._cache.items():
                os.pwrite(self._file, data, sector * SECTOR_BYTES)
            self._writes, self._cache = [], {}


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data
