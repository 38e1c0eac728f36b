"""The delivery on a real network: MACs are learned, magic packets arrive, and dead servers, dead name servers and
partitions delay nobody. In network namespaces; needs root and iproute2."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import magic
from agent.book import Book
from agent.config import Server
from tests.peer.network import (
    ABSENT_V4,
    BLACK_HOLE,
    HANGING,
    LIVE,
    NOBODY,
    THERE_V4,
    THERE_V6,
    Driven,
    Network,
)
from tests.peer.world import until

pytestmark = [
    pytest.mark.peer,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

OUTAGE = "0123456789abcdef"
ETH_P_ALL = 3


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(net: Network) -> None:
    net.told.clear()


def server(name: str, address: str, port: int = LIVE, how: str = "rccmd") -> Server:
    return Server(name=name, address=address, port=port, how=how)


def live(count: int) -> tuple[Server, ...]:
    return tuple(server(f"live{n}", f"10.199.1.{n + 1}") for n in range(count))


def last_told_s(net: Network, count: int, order_s: float) -> float:
    """Seconds from the order until the last of so many was told."""
    until(lambda: len({address for address, _ in net.told}) >= count, 20, f"{count} are told")
    return max(wall_s for _, wall_s in net.told) - order_s


@pytest.mark.parametrize("address", [THERE_V4, THERE_V6])
def test_the_mac_of_a_server_in_the_lan_is_learned_while_it_is_up(net: Network, tmp_path: Path, address: str) -> None:
    with Driven(net, tmp_path) as driven:
        said_s = driven.plan(server("nas", address, how="wake"), server("far", "10.199.1.1"))
        at_s, row = driven.until(lambda r: bool(r["mac"]), 10, "the MAC is learned")
        assert row["server"] == "nas" and row["mac"] == net.mac_there()
        assert at_s - said_s <= 2.0, f"learned after {at_s - said_s:.2f} s, not within 2 s"
        driven.until(lambda r: r["server"] == "far" and r["state"] == "reachable", 10, "the far one is reachable")
        time.sleep(0.5)
    kept = Book(tmp_path / "known.json")
    assert kept.mac("nas") == net.mac_there(), "kept on the disk"
    assert kept.mac("far") == "", "behind a router: its MAC is not the router's"


def test_the_magic_packet_arrives_as_a_broadcast_without_privilege_or_default_route(
    net: Network, tmp_path: Path
) -> None:
    """One at once, the next after 10 s; the server that answers is back."""
    mac = "52:54:00:12:34:56"
    gone = Server(name="gone", address=ABSENT_V4, mac=mac)

    def listen() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))

    with net.in_there(listen) as wire, Driven(net, tmp_path) as driven:
        wire.settimeout(0.1)
        driven.order(wake=(gone, Server(name="nas", address=THERE_V4, port=LIVE, mac=net.mac_there())))
        began_s, seen = time.monotonic(), list[float]()
        while len(seen) < 2 and time.monotonic() - began_s < 15:
            try:
                frame = wire.recv(2000)
            except TimeoutError:
                continue
            if frame[12:14] == b"\x08\x00" and frame.endswith(magic.packet(mac)):
                assert frame[:6] == b"\xff" * 6, "to everybody on the cable"
                assert frame[30:34] == b"\xff" * 4 and frame[36:38] == (9).to_bytes(2, "big")
                seen.append(time.monotonic() - began_s)
        assert len(seen) == 2 and seen[0] <= 1.0 and 9.0 <= seen[1] <= 12.0, f"packets after {seen} s"
        driven.until(lambda r: (r["server"], r["wake"]) == ("nas", "back"), 5, "who answers is back")
        assert not any(r["wake"] == "back" for _, r in driven.reports if r["server"] == "gone")


def test_a_dead_name_server_delays_nobody_whose_address_is_known(net: Network, tmp_path: Path) -> None:
    """F18: the address of the last run is used; told within 1 s."""
    known = Book(tmp_path / "known.json", look_up=lambda name: ((socket.AF_INET, ("10.199.1.1",)),))
    known.plan({"nas": "nas.example"})
    known.turn()
    folder = Path(f"/etc/netns/{net.here}")  # `ip netns exec` puts it over /etc
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text(f"nameserver {ABSENT_V4}\noptions timeout:1 attempts:1\n")
        with Driven(net, tmp_path) as driven:
            nas, other = server("nas", "nas.example"), server("other", "10.199.1.2")
            driven.plan(nas, other, server("new", "new.example"))
            order_s = driven.order(outage=OUTAGE, tell=(nas, other, server("new", "new.example")))
            took_s = last_told_s(net, 2, order_s)
            assert took_s <= 1.0, f"told after {took_s:.2f} s, not within 1 s"
            driven.until(lambda r: "looked up" in r["detail"], 10, "a name that was never known is said")
            until(lambda: "cannot look up nas.example" in (tmp_path / "log").read_text(), 20, "it is really dead")
    finally:
        (folder / "resolv.conf").unlink()
        folder.rmdir()


def test_a_partition_that_heals_in_the_outage_is_noticed_within_15_s(net: Network, tmp_path: Path) -> None:
    """F20: the cable is out for 16 s, when the back-off has grown to its longest."""
    servers = (*live(5), server("near", THERE_V4))
    with Driven(net, tmp_path) as driven:
        driven.plan(*servers)
        net.cable("down")
        try:
            driven.order(outage=OUTAGE, tell=servers)
            time.sleep(16.0)
            assert net.told == []
        finally:
            net.cable("up")
        healed_s = time.time()
        took_s = last_told_s(net, 6, healed_s)
        assert took_s <= 15.0, f"told {took_s:.2f} s after the cable was back, not within 15 s"
    addresses = [address for address, _ in net.told]
    assert len(addresses) == len(set(addresses)), "each of them once"


def test_dead_servers_of_every_kind_delay_the_others_by_less_than_a_second(net: Network, tmp_path: Path) -> None:
    """F16: refused, black hole, absent, accepted and left hanging: 100 of each among 100 live ones."""
    count = 100
    (tmp_path / "a").mkdir()
    with Driven(net, tmp_path / "a") as driven:
        driven.plan(*live(count))
        alone_s = last_told_s(net, count, driven.order(outage=OUTAGE, tell=live(count)))
    net.told.clear()
    dead = [
        *(server(f"refuses{n}", f"10.199.2.{n + 1}", NOBODY) for n in range(count)),
        *(server(f"hole{n}", BLACK_HOLE, 10_000 + n) for n in range(count)),
        *(server(f"absent{n}", ABSENT_V4, 10_000 + n) for n in range(count)),
        *(server(f"hangs{n}", f"10.199.3.{n + 1}", HANGING) for n in range(count)),
    ]
    everybody = (*dead, *live(count))
    (tmp_path / "b").mkdir()
    with Driven(net, tmp_path / "b") as driven:
        driven.plan(*everybody)
        among_s = last_told_s(net, count, driven.order(outage=OUTAGE, tell=everybody))
        for kind, why in (("refuses", "Connection refused"), ("hole", "no connection"), ("hangs", "no answer")):
            row = driven.until(lambda r, k=kind: r["server"] == f"{k}0" and r["detail"], 20, f"{kind} is said")
            assert why in row[1]["detail"], row
        driven.until(lambda r: r["server"] == "absent0" and r["attempts"] >= 2, 20, "the absent are tried again")
    delay_s = among_s - alone_s
    assert delay_s <= 1.0, (
        f"last told after {among_s:.2f} s, {alone_s:.2f} s without dead ones: {delay_s:.2f} s later"
    )
