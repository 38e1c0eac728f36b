"""The ways `rccmd` and `wake` against peers of all manners on loopback: what each end of a connection means."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.config import Server
from agent.reach import NOT_DELIVERED, REACHABLE, UNCONFIRMED, UNKNOWN, Job, Late, Outcome, rccmd, wake
from tests import steps

LINE = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN\n"
Manner = Callable[[socket.socket], None]


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(1000):
        data += chunk
    return data


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def peer(manner: Manner) -> Iterator[int]:
    """A listener that does this with each connection, and then closes it; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                manner(sock)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def job(port: int, host: str = "127.0.0.1", how: str = "rccmd", connect_s: float = 2.0, **options: Any) -> Job:
    return Job(
        server=Server(name="a", address=host, port=port, how=how, options=options),
        address=(socket.AF_INET, (host,)) if host else None,
        outage="",
        connect_s=connect_s,
        folder=Path("/nonexistent"),
        commands_dir=Path("/nonexistent"),
        secret=lambda label: None,
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_the_whole_line_is_sent_and_half_closed_and_a_normal_close_is_unconfirmed() -> None:
    got: list[bytes] = []
    with peer(lambda sock: got.append(read_all(sock))) as port:
        assert steps.run(rccmd.send(job(port))) == Outcome(UNCONFIRMED, "closed without a word")
    assert got == [LINE]


def test_what_the_peer_says_is_told_within_limits() -> None:
    def talk(sock: socket.socket) -> None:
        read_all(sock)
        sock.sendall(b"OK\x00\n" + b"x" * 100_000)

    with peer(talk) as port:
        outcome = steps.run(rccmd.send(job(port)))
    assert (
        outcome.word == UNCONFIRMED
        and outcome.detail.startswith("answered b'OK\\x00\\n")
        and len(outcome.detail) <= 120
    )


def test_a_reset_is_not_delivered() -> None:
    def refuse(sock: socket.socket) -> None:
        read_all(sock)
        reset(sock)

    with peer(refuse) as port:
        outcome = steps.run(rccmd.send(job(port)))
    assert outcome == Outcome(NOT_DELIVERED, "refused (Connection reset by peer)")


def test_a_close_without_reading_is_not_delivered() -> None:
    with peer(lambda sock: None) as port:
        for _ in range(10):
            try:
                outcome = steps.run(rccmd.send(job(port)))
            except OSError:
                continue  # reset so early that it could not even be sent
            assert outcome.word == NOT_DELIVERED


def test_a_peer_that_says_nothing_is_late() -> None:
    release = threading.Event()
    with peer(lambda sock: bool(release.wait(5))) as port:
        generator = rccmd.send(job(port))
        wait = next(generator)
        while not wait.write:
            wait = next(generator)
        wait = next(generator)
        assert (wait.write, wait.within_s, wait.why) == (False, rccmd.CLOSE_WAIT_S, "no answer")
        with pytest.raises(Late):
            generator.throw(Late("no answer"))
        release.set()


def test_nobody_there_is_the_systems_word() -> None:
    with pytest.raises(ConnectionRefusedError):
        steps.run(rccmd.send(job(free_port())))
    with pytest.raises(OSError, match="could not be looked up"):
        steps.run(rccmd.send(job(1, host="")))


def test_a_black_hole_is_late_after_the_time_for_a_connection() -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.socket() for _ in range(3)]
    for sock in fillers:  # its queue is full: more connections are left without an answer
        sock.setblocking(False)
        sock.connect_ex(full.getsockname())
    with pytest.raises(Late, match="no connection in time"):
        steps.run(rccmd.prove(job(full.getsockname()[1], connect_s=0.1)))
    for sock in (*fillers, full):
        sock.close()


def test_a_proof_says_nothing_to_the_server() -> None:
    got: queue.Queue[bytes] = queue.Queue()
    with peer(lambda sock: got.put(read_all(sock))) as port:
        assert steps.run(rccmd.prove(job(port))).word == REACHABLE
        assert got.get(timeout=5) == b""


@pytest.mark.parametrize(
    "options, line",
    [
        ({"terminator": "none"}, LINE[:-1]),
        ({"terminator": "crlf"}, LINE[:-1] + b"\r\n"),
        ({"terminator": "nul"}, LINE[:-1] + b"\0"),
        ({"template": "RCCMD {command}!"}, b"RCCMD SHUTDOWN!\n"),
        ({"template": None, "terminator": None, "half_close": True, "udp": False, "secure": None}, LINE),
    ],
)
def test_the_message_has_the_form_that_the_server_wants(options: dict[str, Any], line: bytes) -> None:
    got: list[bytes] = []
    with peer(lambda sock: got.append(read_all(sock))) as port:
        assert steps.run(rccmd.send(job(port, **options))).word == UNCONFIRMED
    assert got == [line]


def test_without_half_close_the_servers_end_comes_first() -> None:
    open_still: list[bool] = []

    def read_a_line(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"\n"):
            data += sock.recv(1000)
        sock.settimeout(0.1)
        try:
            open_still.append(bool(sock.recv(1)))
        except TimeoutError:
            open_still.append(True)

    with peer(read_a_line) as port:
        assert steps.run(rccmd.send(job(port, half_close=False))).word == UNCONFIRMED
        assert steps.run(rccmd.send(job(port))).word == UNCONFIRMED
    assert open_still == [True, False]


@contextmanager
def udp_peer() -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))  # noqa: S104  (hears the broadcast of loopback)
        sock.settimeout(2)
        yield sock, sock.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.255.255"])
def test_datagrams_are_sent_three_times_and_never_count_as_delivered(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rccmd, "APART_S", 0.05)
    with udp_peer() as (sock, port):
        outcome = steps.run(rccmd.send(job(port, host, udp=True)))
        assert outcome == Outcome(NOT_DELIVERED, "sent 3 times by UDP: nobody can say whether it arrived")
        assert [sock.recv(2000) for _ in range(3)] == [LINE[:-1]] * 3
        steps.run(rccmd.say(job(port, host, udp=True), "MSG_TEXT", "hello"))
        assert sock.recv(2000).endswith(b"MSG_TEXT hello")
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_copies_are_a_second_apart_and_answers_do_not_hurry_them() -> None:
    with udp_peer() as (sock, port):
        way = rccmd.send(job(port, udp=True))
        wait = next(way)
        assert not wait.write and 0.9 < wait.within_s <= rccmd.APART_S == 1.0
        _, address = sock.recvfrom(2000)
        for _ in range(3):
            sock.sendto(b"?", address)
            wait = next(way)
        assert 0.8 < wait.within_s <= 1.0
        way.close()


def test_a_datagram_to_a_machine_where_nobody_listens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rccmd, "APART_S", 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        steps.run(rccmd.send(job(port, udp=True)))
    assert steps.run(rccmd.prove(job(port, udp=True))).word == UNKNOWN


@pytest.mark.parametrize(
    "options, part",
    [
        ({"template": "SHUTDOWN"}, "must hold {command} once"),
        ({"template": "{command} {command}"}, "must hold {command} once"),
        ({"template": "x" * 2048 + "{command}"}, "at most 2048"),
        ({"secure": True, "udp": True}, "are for classic RCCMD"),
        ({"secure": True, "template": "{command}"}, "are for classic RCCMD"),
        ({"udp": True, "half_close": False}, "half_close is for TCP"),
        ({"secure": True, "half_close": True, "udp": False, "template": None, "terminator": None}, ""),
        ({}, ""),
    ],
)
def test_options_that_do_not_go_together_are_named(options: dict[str, Any], part: str) -> None:
    found = rccmd.wrong(Server(name="a", address="192.0.2.1", options=options))
    assert part in found and bool(part) == bool(found)


def test_the_end_of_the_outage_gives_the_connection_back() -> None:
    ended = threading.Event()

    def wait_for_the_end(sock: socket.socket) -> None:
        read_all(sock)
        ended.set()

    with peer(wait_for_the_end) as port:
        generator = rccmd.send(job(port))
        next(generator)
        generator.close()
        assert ended.wait(2)


def test_a_woken_machine_is_up_when_it_accepts_or_refuses_and_is_never_told() -> None:
    with peer(lambda sock: None) as port:
        assert steps.run(wake.prove(job(port, how="wake"))).word == REACHABLE
    assert steps.run(wake.prove(job(free_port(), how="wake"))).word == REACHABLE
    assert steps.run(wake.send(job(free_port(), how="wake"))).word == NOT_DELIVERED
