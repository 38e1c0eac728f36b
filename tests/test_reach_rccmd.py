"""The ways `rccmd` and `wake` against peers of all manners on loopback: what each end of a connection means."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.config import Server
from agent.reach import NOT_DELIVERED, REACHABLE, UNCONFIRMED, Job, Late, Outcome, rccmd, wake
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


def job(port: int, host: str = "127.0.0.1", how: str = "rccmd", connect_s: float = 2.0) -> Job:
    return Job(
        server=Server(name="a", address=host, port=port, how=how),
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
