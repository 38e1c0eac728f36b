"""Delivery over real sockets on loopback: all are told, nobody waits for another, nothing is sent unarmed."""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import deliver, reach
from agent.book import Book
from agent.config import Server
from agent.deliver import Delivery
from agent.errands import Orders, Report
from agent.places import Places
from agent.reach import ACCEPTED, PROVEN, Job, Outcome, Steps, Wait

OUTAGE = "0123456789abcdef"


class Peer:
    """A server on an ephemeral port with a manner: accept, reset, hang, or talk."""

    def __init__(self, manner: str, port: int = 0) -> None:
        self.manner, self.received = manner, []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.held: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            if self.manner == "hang":
                self.held.append(sock)
                continue
            data = b""
            while chunk := sock.recv(1000):
                data += chunk
            if data:
                self.received.append(data)
            if self.manner == "talk":
                sock.sendall(b"OK\n")
            if self.manner == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    def close(self) -> None:
        self.listener.close()
        for sock in self.held:
            sock.close()

    def server(self, name: str) -> Server:
        return Server(name=name, address="127.0.0.1", port=self.port)


@contextmanager
def delivering(
    servers: tuple[Server, ...],
    wake: Callable[[str], str] = lambda mac: "",
    *,
    load: Callable[[str], Any] = reach.load,
    **book_of: Any,
) -> Iterator[tuple[Delivery, queue.Queue[Report]]]:
    reports: queue.Queue[Report] = queue.Queue()
    book, stop = Book(Path("/proc/nowhere/known.json"), **book_of), threading.Event()
    delivery = Delivery(reports.put, book, Places(), wake, load)
    threads = [threading.Thread(target=t, args=(stop,)) for t in (delivery.run, book.run)]
    delivery.plan(servers)
    for thread in threads:
        thread.start()
    try:
        yield delivery, reports
    finally:
        stop.set()
        delivery.wake()
        for thread in threads:
            thread.join()


def armed(*servers: Server, told: frozenset[str] = frozenset()) -> Orders:
    return Orders(outage=OUTAGE, tell=servers, told=told, armed=True)


def until(reports: queue.Queue[Report], true: Callable[[Report], bool], within_s: float = 5.0) -> Report:
    end_s = time.monotonic() + within_s
    while True:
        report = reports.get(timeout=max(0.01, end_s - time.monotonic()))
        if true(report):
            return report


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_whole_line_and_a_normal_close_is_delivered_unconfirmed() -> None:
    peer = Peer("accept")
    with delivering((peer.server("a"),)) as (delivery, reports):
        delivery.order(armed(peer.server("a")))
        report = until(reports, lambda r: r.delivery == "delivered-unconfirmed")
        assert report.outage == OUTAGE and report.attempts == 1 and report.state == "reachable"
    assert peer.received == [b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN\n"]
    peer.close()


def test_what_the_peer_says_is_reported() -> None:
    peer = Peer("talk")
    with delivering((peer.server("a"),)) as (delivery, reports):
        delivery.order(armed(peer.server("a")))
        assert "OK" in until(reports, lambda r: r.delivery == "delivered-unconfirmed").detail
    peer.close()


def test_a_reset_is_not_delivered_and_it_is_tried_again() -> None:
    peer = Peer("reset")
    with delivering((peer.server("a"),)) as (delivery, reports):
        delivery.order(armed(peer.server("a")))
        assert "refused" in until(reports, lambda r: r.delivery == "not-delivered").detail
        peer.manner = "accept"
        assert until(reports, lambda r: r.delivery == "delivered-unconfirmed").attempts == 2
    peer.close()


def test_a_server_that_comes_back_is_told() -> None:
    port = free_port()
    with delivering((Server(name="a", address="127.0.0.1", port=port),)) as (delivery, reports):
        delivery.order(armed(Server(name="a", address="127.0.0.1", port=port)))
        until(reports, lambda r: r.delivery == "not-delivered")
        peer = Peer("accept", port)
        until(reports, lambda r: r.delivery == "delivered-unconfirmed")
        peer.close()


def test_a_hanging_server_delays_no_other() -> None:
    hanging, good = [Peer("hang") for _ in range(20)], Peer("accept")
    servers = (*(p.server(f"h{n}") for n, p in enumerate(hanging)), good.server("good"))
    with delivering(servers) as (delivery, reports):
        begin_s = time.monotonic()
        delivery.order(armed(*servers))
        until(reports, lambda r: r.server == "good" and r.delivery == "delivered-unconfirmed")
        assert time.monotonic() - begin_s < 1.0
    for peer in (*hanging, good):
        peer.close()


def test_unarmed_nothing_is_sent() -> None:
    peer = Peer("accept")
    with delivering((peer.server("a"),)) as (delivery, reports):
        delivery.order(Orders(outage=OUTAGE, tell=(peer.server("a"),), armed=False))
        until(reports, lambda r: r.delivery == "dry-run")
        time.sleep(0.1)
    assert peer.received == []
    peer.close()


def test_who_was_told_before_the_restart_is_not_told_again() -> None:
    peer, other = Peer("accept"), Peer("accept")
    with delivering((peer.server("a"), other.server("b"))) as (delivery, reports):
        delivery.order(armed(peer.server("a"), other.server("b"), told=frozenset({"a"})))
        until(reports, lambda r: r.server == "b" and r.delivery == "delivered-unconfirmed")
    assert peer.received == [] and len(other.received) == 1
    peer.close()
    other.close()


def test_a_server_is_told_once_in_an_outage_and_again_in_the_next() -> None:
    peer = Peer("accept")
    with delivering((peer.server("a"),)) as (delivery, reports):
        for outage in ("1" * 16, "2" * 16):
            orders = Orders(outage=outage, tell=(peer.server("a"),), armed=True)
            delivery.order(orders)
            until(reports, lambda r, o=outage: r.delivery == "delivered-unconfirmed" and r.outage == o)  # type: ignore[misc]
            delivery.order(Orders(outage=outage, tell=(peer.server("a"),), armed=True, told=frozenset({"a"})))
            delivery.order(Orders())
    assert len(peer.received) == 2
    peer.close()


def test_the_end_of_the_outage_ends_the_attempts() -> None:
    dead = Server(name="a", address="127.0.0.1", port=free_port())
    with delivering((dead,)) as (delivery, reports):
        delivery.order(armed(dead))
        until(reports, lambda r: r.delivery == "not-delivered")
        delivery.order(Orders(prove=False))
        until(reports, lambda r: r.delivery == "none")
        time.sleep(0.1)
        assert reports.empty()


def test_a_server_is_reachable_when_it_accepts_a_connection_and_nothing_is_said() -> None:
    peer = Peer("accept")
    with delivering((peer.server("a"), Server(name="b", address="127.0.0.1", port=free_port()))) as (
        delivery,
        reports,
    ):
        delivery.order(Orders())
        assert until(reports, lambda r: r.state == "reachable").server == "a"
        assert delivery is not None
    assert peer.received == []
    peer.close()


def test_a_name_is_looked_up_and_a_wrong_one_does_not_hold_the_others() -> None:
    peer = Peer("accept")
    by_name = Server(name="named", address="localhost", port=peer.port)
    wrong = Server(name="wrong", address="no-such-host.invalid", port=peer.port)
    with delivering((wrong, by_name)) as (delivery, reports):
        delivery.order(armed(wrong, by_name))
        end_s = time.monotonic() + 10
        seen: dict[str, str] = {}
        while time.monotonic() < end_s and seen.get("named") != "delivered-unconfirmed":
            report = reports.get(timeout=10)
            seen[report.server] = report.delivery
        assert seen["named"] == "delivered-unconfirmed"
    peer.close()


def test_the_back_off_grows_to_fifteen_seconds() -> None:
    assert deliver.BACK_OFF_S == (1.0, 2.0, 4.0, 8.0, 15.0)


def test_a_port_that_is_corrected_in_the_outage_is_told() -> None:
    peer, dead = Peer("accept"), Server(name="a", address="127.0.0.1", port=free_port())
    with delivering((dead,)) as (delivery, reports):
        delivery.order(armed(dead))
        until(reports, lambda r: r.delivery == "not-delivered")
        delivery.plan((peer.server("a"),))
        delivery.order(armed(peer.server("a")))
        until(reports, lambda r: r.delivery == "delivered-unconfirmed")
    assert len(peer.received) == 1
    peer.close()


def test_a_server_that_is_told_though_it_was_deleted_and_one_whose_time_changed_are_told_once() -> None:
    gone, kept = Peer("accept"), Peer("accept")
    with delivering((gone.server("gone"), kept.server("kept"))) as (delivery, reports):
        delivery.plan((kept.server("kept"),))
        delivery.order(armed(gone.server("gone"), kept.server("kept")))
        seen = {until(reports, lambda r: r.delivery == "delivered-unconfirmed").server for _ in range(2)}
        assert seen == {"gone", "kept"}
        slower = Server(name="kept", address="127.0.0.1", port=kept.port, needs_s=600.0)
        delivery.plan((slower,))
        delivery.order(armed(gone.server("gone"), slower))
        time.sleep(0.15)
    assert len(gone.received) == 1 and len(kept.received) == 1
    gone.close()
    kept.close()


def test_a_peer_that_closes_without_reading_was_not_told() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def close_at_once() -> None:
        while not stop.is_set():
            try:
                listener.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=close_at_once, daemon=True).start()
    server = Server(name="a", address="127.0.0.1", port=listener.getsockname()[1])
    for _ in range(10):
        with delivering((server,)) as (delivery, reports):
            delivery.order(armed(server))
            found = until(reports, lambda r: r.delivery in ("delivered-unconfirmed", "not-delivered"))
            assert found.delivery == "not-delivered", found
    stop.set()
    listener.close()


def test_a_name_that_cannot_be_encoded_ends_no_thread() -> None:
    peer = Peer("accept")
    odd = Server(name="odd", address="x" * 70 + ".example", port=peer.port)
    with delivering((odd, peer.server("a"))) as (delivery, reports):
        delivery.order(armed(odd, peer.server("a")))
        until(reports, lambda r: r.server == "a" and r.delivery == "delivered-unconfirmed")
        assert "looked up" in until(reports, lambda r: r.server == "odd" and r.attempts == 2).detail
    peer.close()


def waking(*servers: Server) -> Orders:
    return Orders(armed=True, wake=servers)


def test_a_server_is_woken_until_it_answers_and_then_told_that_it_is_over() -> None:
    port, packets = free_port(), list[str]()
    server = Server(name="a", address="127.0.0.1", port=port, mac="02:00:00:00:00:01")
    peer: list[Peer] = []

    def wake(mac: str) -> str:
        packets.append(mac)
        peer.append(Peer("accept", port))  # it boots very fast
        return ""

    with delivering((server,), wake) as (delivery, reports):
        delivery.order(waking(server))
        assert until(reports, lambda r: r.wake == "waking").state == "unknown"
        until(reports, lambda r: r.wake == "back")
        end_s = time.monotonic() + 3
        while not peer[0].received and time.monotonic() < end_s:
            time.sleep(0.02)
        delivery.order(Orders(armed=True))
        until(reports, lambda r: r.wake == "none")
    assert packets == ["02:00:00:00:00:01"]
    assert peer[0].received == [b"CONNECT TO RCCMD (SEND) MSG_EXECUTE WAKEUP\n"]
    peer[0].close()


def test_without_a_mac_it_must_be_switched_on_by_hand_and_its_return_is_seen() -> None:
    peer, packets = Peer("accept"), list[str]()
    with delivering((peer.server("a"),), lambda mac: packets.append(mac) or "") as (delivery, reports):
        delivery.order(waking(peer.server("a")))
        until(reports, lambda r: r.wake == "by-hand")
        until(reports, lambda r: r.wake == "back")
    assert packets == []
    peer.close()


def test_unarmed_nobody_is_woken() -> None:
    server, packets = Server(name="a", address="127.0.0.1", port=free_port(), mac="02:00:00:00:00:01"), list[str]()
    with delivering((server,), lambda mac: packets.append(mac) or "") as (delivery, reports):
        delivery.order(Orders(armed=False, wake=(server,)))
        until(reports, lambda r: r.failing)
        time.sleep(0.1)
    assert packets == []


def test_a_machine_that_is_only_woken_is_up_when_it_refuses_a_connection() -> None:
    server = Server(name="desk", address="127.0.0.1", port=free_port(), how="wake", mac="02:00:00:00:00:02")
    with delivering((server,)) as (delivery, reports):
        delivery.order(waking(server))
        assert until(reports, lambda r: r.wake == "back").state == "reachable"


def test_a_proof_is_a_connection_and_a_failed_one_says_why() -> None:
    peer, dead = Peer("accept"), Server(name="dead", address="127.0.0.1", port=free_port())
    with delivering((peer.server("a"), dead)) as (delivery, reports):
        delivery.order(Orders())
        good = until(reports, lambda r: r.server == "a" and r.proof_s is not None)
        assert (good.state, good.failing) == ("reachable", False)
        bad = until(reports, lambda r: r.server == "dead" and r.failing)
        assert bad.proof == "Connection refused" and bad.proof_s is None
        peer.listener.shutdown(socket.SHUT_RDWR)
        delivery.order(Orders(prove_again=1))
        lost = until(reports, lambda r: r.server == "a" and r.failing)
        assert lost.state == "reachable" and lost.proof_s == good.proof_s  # it holds for a day
    peer.close()


class FewSlots:
    """A way with few slots: the server's name says how it does. `running` and `most` at once are counted."""

    def __init__(self, slots: int) -> None:
        self.running, self.most, self.order = 0, 0, list[str]()
        self.module = SimpleNamespace(SLOTS=slots, send=self.send, prove=self.prove)

    def load(self, how: str) -> Any:
        return self.module if how == "slow" else reach.load(how)

    def prove(self, job: Job) -> Steps:
        yield from self._hold(job, 20.0 if job.server.name.startswith("hang") else 0.02)
        return Outcome(PROVEN, "well")

    def send(self, job: Job) -> Steps:
        self.order.append(job.server.name)
        yield from self._hold(job, 20.0 if job.server.name.startswith("hang") else 0.02)
        return Outcome(ACCEPTED, "goes down")

    def _hold(self, job: Job, hold_s: float) -> Generator[Wait, None, None]:
        self.running += 1
        self.most = max(self.most, self.running)
        ends = os.pipe()
        try:
            yield Wait(ends[0], False, hold_s, "no answer")
        except reach.Late:
            if hold_s > 1:
                raise
        finally:
            self.running -= 1
            for fd in ends:
                os.close(fd)


def slow(name: str) -> Server:
    return Server(name=name, address="127.0.0.1", how="slow")


def told(reports: queue.Queue[Report], count: int, within_s: float = 5.0) -> set[str]:
    words = ("accepted", "delivered-unconfirmed")
    return {until(reports, lambda r: r.delivery in words, within_s).server for _ in range(count)}


def test_a_way_with_few_slots_makes_the_others_wait_and_tells_all() -> None:
    way = FewSlots(3)
    servers = tuple(slow(f"s{n}") for n in range(12))
    with delivering(servers, load=way.load) as (delivery, reports):
        delivery.order(armed(*servers))
        assert len(told(reports, 12)) == 12
    assert way.most == 3


def test_those_that_hang_give_their_slots_up_while_others_were_not_tried_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "CROWDED_S", 0.2)
    way = FewSlots(4)
    servers = tuple(slow(f"hang{n}") for n in range(8)) + tuple(slow(f"s{n}") for n in range(8))
    with delivering(servers, load=way.load) as (delivery, reports):
        delivery.order(armed(*servers))
        assert told(reports, 8) == {f"s{n}" for n in range(8)}
    assert len(set(way.order[:16])) == 16, "somebody was tried again before all were tried"


def test_ways_with_few_slots_do_not_hold_those_that_need_none() -> None:
    way, peers = FewSlots(2), [Peer("accept") for _ in range(3)]
    servers = tuple(slow(f"hang{n}") for n in range(9)) + tuple(p.server(f"s{n}") for n, p in enumerate(peers))
    with delivering(servers, load=way.load) as (delivery, reports):
        begin_s = time.monotonic()
        delivery.order(armed(*servers))
        assert told(reports, 3) == {"s0", "s1", "s2"} and time.monotonic() - begin_s < 1.0
    for peer in peers:
        peer.close()


def test_the_known_dead_are_tried_last() -> None:
    way, dead = FewSlots(1), set[str]()

    def prove(job: Job) -> Steps:
        yield from ()
        dead.add(job.server.name)
        return Outcome(reach.UNKNOWN if job.server.name == "s0" else PROVEN, "a proof")

    way.module.prove = prove
    servers = tuple(slow(f"s{n}") for n in range(4))
    with delivering(servers, load=way.load) as (delivery, reports):
        for _ in servers:
            until(reports, lambda r: bool(r.proof))
        delivery.order(armed(*servers))
        told(reports, 4)
    assert way.order == ["s1", "s2", "s3", "s0"]


def test_an_outage_ends_the_proofs_that_run_so_that_their_slots_are_free() -> None:
    way = FewSlots(2)
    servers = (slow("hang1"), slow("hang2"), slow("s"))
    with delivering(servers, load=way.load) as (delivery, reports):
        end_s = time.monotonic() + 3
        while way.running < 2 and time.monotonic() < end_s:
            time.sleep(0.02)
        assert way.running == 2
        delivery.order(armed(slow("s")))
        assert told(reports, 1, 1.0) == {"s"}
        time.sleep(0.1)
        assert way.running == 0


def test_servers_that_wait_for_a_slot_cost_no_time() -> None:
    way = FewSlots(1)
    servers = tuple(slow(f"hang{n}") for n in range(20))
    with delivering(servers, load=way.load) as (delivery, _):
        delivery.order(Orders(prove_again=1))
        time.sleep(0.1)
        begin_s = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - begin_s < 0.1
        assert way.running == 1


def test_a_server_that_is_only_woken_is_never_told() -> None:
    desk = Server(name="desk", address="127.0.0.1", port=free_port(), how="wake")
    peer = Peer("accept")
    with delivering((desk, peer.server("a"))) as (delivery, reports):
        delivery.order(armed(desk, peer.server("a")))
        seen: list[Report] = []
        until(reports, lambda r: seen.append(r) or (r.server == "a" and r.delivery == "delivered-unconfirmed"))
        seen += [reports.get_nowait() for _ in range(reports.qsize())]
        assert {r.delivery for r in seen if r.server == "desk"} <= {"none"}
    peer.close()


def test_a_look_whether_a_woken_server_is_back_is_no_failed_proof() -> None:
    server = Server(name="a", address="127.0.0.1", port=free_port(), mac="02:00:00:00:00:01")
    with delivering(()) as (delivery, reports):
        delivery.order(Orders(prove=False, armed=True, wake=(server,)))
        assert not until(reports, lambda r: r.proof == "Connection refused").failing


def test_an_error_on_the_way_of_a_magic_packet_ends_nothing() -> None:
    peer = Peer("accept")
    server = Server(name="a", address="127.0.0.1", port=peer.port, mac="02:00:00:00:00:01")
    with delivering((server,), lambda mac: "network is down") as (delivery, reports):
        delivery.order(waking(server))
        until(reports, lambda r: r.wake == "back")
    peer.close()


def test_a_name_is_proven_when_it_is_found_and_not_failed_before_that() -> None:
    peer, found = Peer("accept"), threading.Event()

    def look_up(name: str) -> tuple[reach.Address, ...]:
        found.wait(0.3)
        return ((socket.AF_INET, ("127.0.0.1",)),)

    server = Server(name="a", address="a.example", port=peer.port)
    with delivering((server,), look_up=look_up) as (_, reports):
        first = until(reports, lambda r: bool(r.proof))
        assert first.state == "reachable" and not first.failing
    peer.close()


def test_a_mac_is_said_as_soon_as_it_is_learned() -> None:
    peer = Peer("accept")
    table = {"127.0.0.1": "52:54:00:12:34:56"}
    with delivering((peer.server("a"),), table=lambda: table) as (_, reports):
        assert until(reports, lambda r: bool(r.mac), 2.0).mac == "52:54:00:12:34:56"
    peer.close()


def test_an_unknown_way_is_said_and_stops_nobody_else() -> None:
    peer = Peer("accept")
    odd = Server(name="odd", address="127.0.0.1", port=1, how="pigeon")
    with delivering((odd, peer.server("a"))) as (delivery, reports):
        delivery.order(armed(odd, peer.server("a")))
        until(reports, lambda r: r.server == "a" and r.delivery == "delivered-unconfirmed")
    peer.close()


def test_who_need_not_be_told_any_more_is_left_alone() -> None:
    """The mains is back: a server that was not reached must not be shut down when it appears."""
    port = free_port()
    server = Server(name="a", address="127.0.0.1", port=port)
    with delivering((server,)) as (delivery, reports):
        delivery.order(armed(server))
        until(reports, lambda r: r.delivery == "not-delivered")
        delivery.order(Orders(outage="0" * 16, tell=(), armed=True))
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            listener.settimeout(0.1)
            delivery.wake()
            with pytest.raises(TimeoutError):
                listener.accept()
            delivery.order(armed(server))
            listener.settimeout(5.0)
            listener.accept()[0].close()


def test_who_reads_the_order_and_does_not_answer_may_go_down_all_the_same() -> None:
    peer = Peer("hang")
    with delivering((peer.server("a"),)) as (delivery, reports):
        delivery.order(armed(peer.server("a")))
        assert until(reports, lambda r: r.heard).delivery == "sending"
    peer.close()
