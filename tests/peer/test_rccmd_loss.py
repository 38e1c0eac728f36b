"""The core tells the real listener through a wire that passes single bytes and breaks behind seeded ones."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from agent.reach import ACCEPTED, UNCONFIRMED, Late, rccmd
from tests import steps
from tests.rccmd_hostile_kit import SHUTDOWN, Live
from tests.rccmd_keys import Adapter, Server
from tests.secure_peer import keys, pem
from tests.test_reach_secure import job

pytestmark = pytest.mark.peer

OUTAGES = 40
BREAKS = 0.5  # of the connections
NOOP = b"RT1 NOOP 00c0ffee00c0ffee\n"


class BadWire:
    """Passes every byte on alone; half of its connections it resets behind a byte of its choice, either way."""

    def __init__(self, port: int, longest_bytes: int, seed: int) -> None:
        self._to, self._longest_bytes, self._random = port, longest_bytes, random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.broken = self.all = 0
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> BadWire:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            self.all += 1
            with near, socket.create_connection(("127.0.0.1", self._to), 5) as far:
                breaks = self._random.random() < BREAKS
                left = self._random.randrange(self._longest_bytes) if breaks else 1 << 30
                if not self._pass(near, far, left):
                    for sock in (near, far):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pass(self, near: socket.socket, far: socket.socket, left: int) -> bool:
        """False: it breaks now, because its byte has come or because one end has reset it."""
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other, open_ends = {near: far, far: near}, [near, far]
        while open_ends:
            for sock in select.select(open_ends, [], [], 20)[0] or [None]:
                try:
                    if sock is None:
                        return False
                    if not (data := sock.recv(4096)):
                        open_ends.remove(sock)
                        other[sock].shutdown(socket.SHUT_WR)
                    for at in range(len(data)):
                        if left == 0:
                            self.broken += 1
                            return False
                        left -= 1
                        other[sock].sendall(data[at : at + 1])
                except OSError:
                    return False
        return True


def told(wire: BadWire, folder: Path, word: str, **options: object) -> None:
    """As the core does: again until it is told."""
    for _ in range(60):
        try:
            if steps.run(rccmd.send(job(wire.port, folder, **options))).word == word:  # type: ignore[arg-type]
                return
        except (OSError, ValueError, Late):
            continue
    raise AssertionError("never told")


def ran(live: Live, count: int) -> None:
    end_s = time.monotonic() + 10
    while len(live.ran()) < count and time.monotonic() < end_s:
        time.sleep(0.02)
    assert len(live.ran()) == count


def test_each_outage_runs_the_secure_shutdown_once_over_a_wire_that_breaks(tmp_path: Path) -> None:
    server, watcher = Server(tmp_path / "server"), Adapter("watcher", tmp_path)
    server.enrol(watcher)
    (server.senders / "core.pem").write_text(pem(keys("sender")))
    with Live(tmp_path, *(f"{k} = {v}" for k, v in server.settings().items()), allow=None) as live:
        with BadWire(live.port, 2600, seed=1) as wire:  # a conversation has about so many bytes
            for number in range(OUTAGES):
                told(wire, tmp_path, ACCEPTED, outage=os.urandom(8).hex(), pin=server.sha256)
                ran(live, number + 1)
                end_s = time.monotonic() + 10
                while not watcher.ask(live.port, NOOP, server).startswith(b"RT1 accepted"):
                    assert time.monotonic() < end_s
                    time.sleep(0.05)  # it still runs: another outage would be told "going down"
        print(f"{wire.broken} of {wire.all} connections broken")
        assert wire.broken > OUTAGES / 4
        assert [verb for verb, _, _ in live.ran()] == ["SHUTDOWN"] * OUTAGES


def test_each_outage_runs_the_classic_shutdown_once_over_a_wire_that_breaks(tmp_path: Path) -> None:
    with Live(tmp_path) as live, BadWire(live.port, len(SHUTDOWN) + 1, seed=2) as wire:
        for number in range(OUTAGES):
            told(wire, tmp_path, UNCONFIRMED, pin="")
            ran(live, number + 1)
            assert live.tell(SHUTDOWN.replace(b"SHUTDOWN", b"WAKEUP"))  # the next one is a new one
            time.sleep(0.25)  # the listener has seen that the command ended
    print(f"{wire.broken} of {wire.all} connections broken")
    assert wire.broken > OUTAGES / 4
    assert [verb for verb, _, _ in live.ran()] == ["SHUTDOWN"] * OUTAGES
