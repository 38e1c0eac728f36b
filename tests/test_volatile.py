"""The disk of the power cuts: what is flushed stays, what is not may go; and one that lies loses what it promised."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image import volatile
from image.volatile import Disk

SIZE = 64 * 1024


class Client:
    """NBD as QEMU speaks it: GO, then requests."""

    def __init__(self, address: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(address))
        assert self.read(18)[:8] == volatile.HANDSHAKE
        self.sock.sendall(struct.pack(">I", 3))
        self.sock.sendall(struct.pack(">QIIIH", volatile.OPTION_MAGIC, volatile.GO, 6, 0, 0))
        _, _, kind, length = struct.unpack(">QIII", self.read(20))
        assert (kind, struct.unpack(">HQH", self.read(length))[1]) == (volatile.INFO_REPLY, SIZE)
        assert struct.unpack(">QIII", self.read(20))[2] == volatile.ACK

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += (piece := self.sock.recv(count - len(data)))
            if not piece:
                raise ConnectionError
        return data

    def ask(self, kind: int, at: int = 0, data: bytes = b"", length: int = 0) -> bytes:
        head = struct.pack(">IHHQQI", volatile.REQUEST_MAGIC, 0, kind, 7, at, len(data) or length)
        self.sock.sendall(head + data)
        assert struct.unpack(">IIQ", self.read(16)) == (volatile.ANSWER_MAGIC, 0, 7)
        return self.read(length) if kind == volatile.READ else b""


@contextmanager
def disk(folder: Path, honest: bool = True) -> Iterator[tuple[Disk, Client, Path]]:
    path = folder / "disk.img"
    path.write_bytes(bytes(SIZE))
    made = Disk(path, folder / "socket", honest)
    try:
        yield made, Client(folder / "socket"), path
    finally:
        made.close()


class Never(random.Random):
    """Nothing that was not flushed is kept."""

    def random(self) -> float:
        return 0.99


def test_what_was_flushed_stays_and_what_was_not_goes(tmp_path: Path) -> None:
    with disk(tmp_path) as (made, client, path):
        client.ask(volatile.WRITE, 512, b"a" * 512)
        client.ask(volatile.FLUSH)
        client.ask(volatile.WRITE, 512, b"b" * 1024)
        assert client.ask(volatile.READ, 512, length=1024) == b"b" * 1024, "it is in the cache"
        assert made.cut(Never()) == (1, 0)
        assert path.read_bytes()[512:1536] == b"a" * 512 + bytes(512)


def test_a_disk_that_lies_loses_what_was_flushed(tmp_path: Path) -> None:
    with disk(tmp_path, honest=False) as (made, client, path):
        client.ask(volatile.WRITE, 0, b"a" * 512)
        client.ask(volatile.FLUSH)
        assert made.cut(Never()) == (1, 0) and path.read_bytes() == bytes(SIZE)


def test_some_writes_are_kept_and_some_are_torn_at_a_sector(tmp_path: Path) -> None:
    with disk(tmp_path) as (made, client, path):
        for number in range(16):
            client.ask(volatile.WRITE, number * 4096, b"x" * 4096)
        writes, kept = made.cut(random.Random(3))
        lengths = [path.read_bytes()[n * 4096 : (n + 1) * 4096].count(b"x") for n in range(16)]
        assert writes == 16 and lengths.count(4096) >= kept > 0
        assert {n % 512 for n in lengths} == {0} and any(0 < n < 4096 for n in lengths) and 0 in lengths


def test_the_power_goes_in_the_middle_of_a_burst(tmp_path: Path) -> None:
    with disk(tmp_path) as (made, client, _):
        made.cut_at(2, within_s=0.0)
        client.ask(volatile.WRITE, 0, b"a" * 512)
        with pytest.raises((ConnectionError, TimeoutError)):
            client.ask(volatile.WRITE, 512, b"a" * 512)
        assert made.cut(Never()) == (2, 0)


@pytest.mark.parametrize("burst", [False, True])
def test_a_disk_without_power_takes_nobody_on_again(tmp_path: Path, burst: bool) -> None:
    """QEMU connects again by itself: the machine would write on, onto what had lost its cache."""
    with disk(tmp_path) as (made, client, path):
        if burst:
            made.cut_at(1, within_s=0.0)
            with pytest.raises((ConnectionError, TimeoutError)):
                client.ask(volatile.WRITE, 0, b"a" * 512)
            with pytest.raises((ConnectionError, TimeoutError)):
                Client(tmp_path / "socket")
        made.cut(Never())
        with pytest.raises((ConnectionError, TimeoutError)):
            client.ask(volatile.WRITE, 512, b"b" * 512)
        with pytest.raises((ConnectionError, TimeoutError)):
            Client(tmp_path / "socket")
        assert path.read_bytes() == bytes(SIZE)
