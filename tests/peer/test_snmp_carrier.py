"""Notifications over a cable that is pulled, and after the machine's address has changed: in network namespaces, with
the kernel's own word on routes and carriers. Needs root and iproute2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent import ber, notices
from tests.peer.network import HERE_V4, THERE_V4, THERE_V6, Network, ip
from tests.peer.world import ROOT

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
WITHIN_S = 10.0
#: sends a trap of the number that each line of its input names, and says when all are gone or why one waits
SENDER = """
import logging, sys, threading, time
from functools import partial
from agent import ber, notices
from agent.netif import Interfaces
from agent.notices import Notice
from agent.receiver import Receiver

logging.basicConfig(stream=sys.stdout, format="%(message)s")
host, port = sys.argv[1], int(sys.argv[2])
one = Receiver((host, port), ber.V2C, community=b"c", leaves=partial(Interfaces().leads_to, host))
lines = []
threading.Thread(target=lambda: [lines.append(line) for line in sys.stdin], daemon=True).start()
while True:
    while lines:
        one.put([Notice((*notices.TRAPS, int(lines.pop(0))), 0, b"")])
    one.turn(time.monotonic())
    print("busy" if one.busy else "idle", flush=True)
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as found:
        yield found


class Sender:
    """The program above in its namespace, and who hears it in the other."""

    def __init__(self, net: Network, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def listening() -> socket.socket:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind((host, 0))
            sock.setblocking(False)
            return sock

        self.sock = net.in_there(listening)
        argv = ["ip", "netns", "exec", net.here, sys.executable, "-c", SENDER, host, str(self.sock.getsockname()[1])]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self.said("idle")

    def said(self, word: str) -> bool:
        """Wait until it says this; False if it does not in time."""
        assert self.process.stdout is not None
        end_s = time.monotonic() + WITHIN_S
        for line in self.process.stdout:
            if word in line or time.monotonic() > end_s:
                return word in line
        return False

    def tell(self, number: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def heard(self, count: int, within_s: float = WITHIN_S) -> list[int]:
        """The numbers of the traps that come, until there are so many."""
        found: list[int] = []
        end_s = time.monotonic() + within_s
        while len(found) < count and time.monotonic() < end_s:
            try:
                data = self.sock.recv(4096)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            pdu = ber.read_pdu(data, ber.read_header(data).pdu_at)
            trap = next(body for name, _, body in ber.values(pdu.bindings) if name == ber.oid_body(notices.TRAP_OID))
            found.append(ber.arcs(trap)[-1])
        return found


@contextmanager
def sender(net: Network, host: str) -> Iterator[Sender]:
    made = Sender(net, host)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        made.sock.close()


@pytest.mark.parametrize("host", [THERE_V4, THERE_V6, "10.199.1.1"])
def test_what_happens_while_the_cable_is_pulled_is_told_when_it_is_back(net: Network, host: str) -> None:
    with sender(net, host) as one:
        one.tell(1)
        assert one.heard(1) == [1]
        net.cable("down")
        try:
            time.sleep(1.5)  # until the kernel has seen it
            one.tell(2)
            one.tell(3)
            assert one.said("no carrier")
        finally:
            net.cable("up")
            ip(f"-n {net.there} addr replace {THERE_V6}/64 dev {net.cable_there} nodad")
        assert one.heard(2) == [2, 3]


def test_after_the_address_of_this_machine_has_changed_they_go_on(net: Network) -> None:
    with sender(net, THERE_V4) as one:
        one.tell(1)
        assert one.heard(1) == [1]
        try:
            ip(f"-n {net.here} addr flush dev {net.cable_here} scope global")
            ip(f"-n {net.here} addr add 10.198.0.9/24 dev {net.cable_here}")
            one.tell(2)
            assert one.heard(1) == [2]
        finally:
            ip(f"-n {net.here} addr flush dev {net.cable_here} scope global")
            ip(f"-n {net.here} addr add {HERE_V4}/24 dev {net.cable_here}")
