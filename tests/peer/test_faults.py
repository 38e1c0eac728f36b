"""Faults that need real processes: disks that fail, a core that hangs, faces that are flooded."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.peer.world import ROOT, World, until

pytestmark = [pytest.mark.peer, pytest.mark.alone]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 1 MiB at `folder`."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fails_over(world: World) -> None:
    """The mains fails, the battery gets low: the server is told within confirmation and a second."""
    world.ups.set("battery_low", "1")
    world.ups.set("mains", "off")
    begin_s = time.time()
    told_s = until(world.told, 10, "the server is told")[0]
    assert told_s - begin_s <= 6.0
    until(lambda: "storage-failed" in world.conditions(), 10, "storage-failed")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_f12_with_a_full_disk_servers_are_told_and_it_is_said(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state"), World(tmp_path) as world:
        try:
            with (tmp_path / "state" / "filler").open("wb") as file:
                while True:
                    file.write(b"x" * 4096)
        except OSError:
            pass  # full
        fails_over(world)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_f13_with_a_read_only_disk_servers_are_told_also_after_a_restart(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state"), World(tmp_path) as world:
        world.agent.terminate()
        world.agent.wait(20)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "state")], check=True)
        argv = [sys.executable, "-m", "agent", "core", "--config", str(world.config)]
        with world.log.open("ab") as log:
            core = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)
        try:
            until(lambda: world.status_or_none() is not None, 15, "the core has a frame")
            fails_over(world)
        finally:
            core.terminate()
            core.wait(20)


def test_f27_a_core_that_hangs_is_killed_by_the_supervisor_and_the_outage_goes_on(tmp_path: Path) -> None:
    """20 s without a word, then SIGKILL and a new start; the next tick is within 25 s."""
    with World(tmp_path) as world:
        world.ups.set("mains", "off")
        until(lambda: world.view().outage, 10, "an outage")
        outage, before = world.view().outage, world.pid_of("core")
        os.kill(before, signal.SIGSTOP)
        hung_s = time.monotonic()
        until(lambda: world.pid_of("core") != before, 30, "the supervisor starts another core")
        assert "core hangs: nothing heard of it for 20 s, it is killed" in world.log.read_text()
        until(lambda: world.status_or_none() is not None, 10, "it is back")
        took_s = time.monotonic() - hung_s
        print(f"stopped, killed, back: {took_s:.1f} s")
        assert 18.0 <= took_s <= 25.0
        assert world.view().outage == outage
        world.ups.set("battery_low", "1")
        until(world.told, 8, "the server is told")


def _told_after_s(folder: Path, *, flooded: bool) -> float:
    """Seconds from the wire to the server's command; `flooded`: while HTTP and SNMP are flooded, for 10 s at most."""
    folder.mkdir()
    with World(folder) as world:
        stop = threading.Event()
        threads = [threading.Thread(target=f, args=(world, stop)) for f in (_http, _http, _snmp)] if flooded else []
        for thread in threads:
            thread.start()
        try:
            time.sleep(1.0)
            world.ups.set("battery_low", "1")
            world.ups.set("mains", "off")
            begin_s = time.time()
            return float(until(world.told, 15, "the server is told")[0] - begin_s)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _http(world: World, stop: threading.Event) -> None:
    for _ in range(3000):
        if stop.is_set():
            return
        try:
            with socket.create_connection(("127.0.0.1", world.web_port), timeout=1.0) as sock:
                sock.sendall(b"GET /api/status HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                sock.recv(1000)
        except OSError:
            stop.wait(0.01)


def _snmp(world: World, stop: threading.Event) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(20_000):
            if stop.is_set():
                return
            sock.sendto(
                os.urandom(60) if number % 2 else b"\x30\x82\xff\xff" + b"\x30" * 1400, ("127.0.0.1", world.snmp_port)
            )
            if number % 20 == 0:
                stop.wait(0.01)


def test_f28_flooded_faces_delay_no_shutdown(tmp_path: Path) -> None:
    quiet = statistics.median(_told_after_s(tmp_path / f"quiet-{n}", flooded=False) for n in range(3))
    flooded = statistics.median(_told_after_s(tmp_path / f"flooded-{n}", flooded=True) for n in range(3))
    assert flooded <= 1.2 * quiet + 0.5, f"quiet {quiet:.2f} s, flooded {flooded:.2f} s"
    print(f"quiet {quiet:.2f} s, flooded {flooded:.2f} s")
