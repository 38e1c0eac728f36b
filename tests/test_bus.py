"""The bus between core and faces: nobody can make the core wait, and a face knows when the core is gone."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent import bus, busserver, wire
from agent.bus import BusError, Client, Message
from agent.busserver import Peer, Server
from agent.model import Condition, Event
from tests.kit import Play


def view_message(name: str = "ups") -> Message:
    play = Play()
    play.mains(1)
    return {"type": "status", "view": wire.to_json(replace(play.view, name=name))}


def answer(message: Message, peer: Peer) -> Message:
    if message.get("what") == "fail":
        raise BusError("cannot do that")
    return {"echo": message.get("what"), "uid": peer.uid}


@contextmanager
def serving(
    path: str,
    may_talk: Callable[[int], bool] = lambda uid: True,
    replies: Callable[[Message, Peer], Message] = answer,
) -> Iterator[Server]:
    greeting = bus.encode(view_message())
    server = Server(path, replies, lambda: [greeting], may_talk)
    threads = [threading.Thread(target=t) for t in (server.run, server.run_requests)]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        server.stop()
        for thread in threads:
            thread.join()


def until(true: Callable[[], bool], within_s: float = 3.0) -> bool:
    end_s = time.monotonic() + within_s
    while not true() and time.monotonic() < end_s:
        time.sleep(0.01)
    return true()


def test_a_request_gets_its_reply_and_a_refusal_its_reason(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    with serving(path):
        assert bus.ask(path, {"type": "query", "what": "x"})["echo"] == "x"
        assert bus.ask(path, {"type": "query", "what": "x"})["uid"] == os.getuid()
        with pytest.raises(BusError, match="cannot do that"):
            bus.ask(path, {"type": "query", "what": "fail"})
    with pytest.raises(bus.Unreachable, match="no core at"):
        bus.ask(path, {"type": "query"})


def test_a_core_that_goes_before_its_reply_leaves_the_request_unanswered(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as core:
        core.bind(path)
        core.listen()
        heard = threading.Thread(target=lambda: core.accept()[0].close())
        heard.start()
        with pytest.raises(bus.Unanswered):
            bus.ask(path, {"type": "query"})
        heard.join()


def test_a_socket_path_longer_than_the_kernel_takes_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 25) / ("folder-" * 20)
    path = str(folder / "core.sock")
    assert len(path) > 250
    with serving(path):
        assert bus.ask(path, {"type": "query", "what": "x"})["echo"] == "x"


def test_a_client_holds_the_newest_view_and_hears_events(tmp_path: Path) -> None:
    path, heard = str(tmp_path / "bus"), []
    client = Client(path, heard.append)
    assert [a.condition for a in client.view().conditions] == [Condition.NO_CORE]
    client.start()
    try:
        with serving(path) as server:
            assert until(lambda: client.view().name == "ups")
            version = client.wait(0, 0.0)
            server.publish(bus.encode(view_message("other")))
            server.publish(bus.encode({"type": "event", "event": wire.to_json(Event(id=7, kind="note", name="n"))}))
            assert client.wait(version, 3.0) != version
            assert until(lambda: [e.id for e in heard] == [7])
            assert client.view().name == "other" and client.view().status is not None
        assert until(lambda: client.view().status is None)
        view = client.view()
        assert [a.condition for a in view.conditions] == [Condition.NO_CORE]
        assert view.name == "other" and view.age_s is None
        with serving(path):
            assert until(lambda: client.view().status is not None)
    finally:
        client.stop()


def test_a_core_that_hangs_is_gone_after_the_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "SILENCE_S", 0.15)  # a constant of the module, made short for the test
    path = str(tmp_path / "bus")
    client = Client(path)
    client.start()
    try:
        with serving(path):
            assert until(lambda: client.view().status is not None)
            assert until(lambda: client.view().status is None)  # it says nothing more
            assert Condition.NO_CORE in {a.condition for a in client.view().conditions}
    finally:
        client.stop()


def test_a_reader_that_does_not_read_is_dropped_and_the_others_hear_on(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    good = Client(path)
    with serving(path) as server:
        good.start()
        with bus.connect(path) as deaf:
            deaf.sendall(bus.encode({"type": "subscribe"}))
            line = bus.encode(
                {"type": "event", "event": {"id": 1, "kind": "note", "name": "n", "text": "x" * 50_000}}
            )
            for _ in range(250):
                server.publish(line)
                time.sleep(0.002)
            server.publish(bus.encode(view_message("after the flood")))
            assert until(lambda: good.view().name == "after the flood")
            deaf.settimeout(2.0)
            received = 0
            while data := deaf.recv(1 << 16):
                received += len(data)
            assert received < 250 * len(line)  # the end of the stream came before all of it
        good.stop()


def test_a_reader_that_takes_nothing_for_some_seconds_is_dropped_however_little_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busserver, "STUCK_S", 0.1)  # made short for the test
    path = str(tmp_path / "bus")
    line = bus.encode({"type": "event", "event": {"id": 1, "kind": "note", "name": "n", "text": "x" * 50_000}})
    with serving(path) as server, bus.connect(path) as deaf:
        deaf.sendall(bus.encode({"type": "subscribe"}))
        time.sleep(0.05)
        for _ in range(10):
            server.publish(line)
        assert until(lambda: len(server._connections) == 1)
        time.sleep(0.15)
        server.publish(line)
        assert until(lambda: len(server._connections) == 0)


def test_who_may_not_talk_is_closed_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    with serving(path, may_talk=lambda uid: False), bus.connect(path) as sock:
        assert sock.recv(1) == b""


def test_who_has_no_right_to_the_socket_is_told_to_use_sudo(tmp_path: Path) -> None:
    path, (read, write) = tmp_path / "core.sock", os.pipe()
    with serving(str(path)):
        tmp_path.chmod(0)
        child = os.fork()
        if child == 0:  # as somebody who is not root: root may everything
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                bus.connect(str(path))
            except BusError as e:
                os.write(write, str(e).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        tmp_path.chmod(0o700)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == f"{path}: permission denied; the core listens to root and its own users: use sudo"


def test_the_socket_is_handed_to_the_group_of_the_faces(tmp_path: Path) -> None:
    path = tmp_path / "bus"
    ours = max(os.getgroups(), default=os.getegid())
    Server(str(path), answer, list, lambda uid: True, group=ours)
    assert path.stat().st_gid == ours and stat.S_IMODE(path.stat().st_mode) == 0o660


JUNK = [b"hello\n", b"[]\n", b'{"v":2,"type":"query"}\n', b"\xff\n", b"x" * (300 * 1024), b"[" * 50_000 + b"\n"]


@pytest.mark.parametrize("junk", JUNK)
def test_nonsense_costs_the_connection_and_nothing_else(tmp_path: Path, junk: bytes) -> None:
    path = str(tmp_path / "bus")
    with serving(path):
        with bus.connect(path) as sock:
            try:
                sock.sendall(junk)
                assert sock.recv(1) == b""
            except (BrokenPipeError, ConnectionResetError):
                pass
        assert bus.ask(path, {"type": "query", "what": "x"})["echo"] == "x"


def test_one_request_at_a_time_on_a_connection_and_a_flood_is_answered_with_no(tmp_path: Path) -> None:
    path, go = str(tmp_path / "bus"), threading.Event()

    def slow(message: Message, peer: Peer) -> Message:
        go.wait(5.0)
        return {}

    with serving(path, replies=slow), bus.connect(path) as sock:
        for number in range(5):
            sock.sendall(bus.encode({"type": "query", "id": number}))
        lines = bus.lines(sock)
        refused = [json.loads(next(lines)) for _ in range(4)]
        assert all(not r["ok"] and "one request at a time" in r["error"] for r in refused)
        go.set()
        assert json.loads(next(lines))["ok"]


@pytest.mark.parametrize(
    "error", [OverflowError("10**30"), KeyError("x"), UnicodeEncodeError("utf-8", "x", 0, 1, "y")]
)
def test_a_request_that_trips_the_core_is_refused_and_the_next_one_served(tmp_path: Path, error: Exception) -> None:
    path = str(tmp_path / "bus")

    def trip(message: Message, peer: Peer) -> Message:
        if message.get("what") == "trip":
            raise error
        return {}

    with serving(path, replies=trip):
        with pytest.raises(BusError, match="cannot be answered"):
            bus.ask(path, {"type": "query", "what": "trip"})
        assert bus.ask(path, {"type": "query", "id": "\ud800"})["ok"]


def test_a_view_of_a_thousand_long_winded_servers_reaches_the_faces(tmp_path: Path) -> None:
    from agent.model import ServerView

    row = ServerView(
        name="n" * 63, address="a" * 253, port=1, how="rccmd", stage="s" * 63, needs_s=1.0, detail="d" * 150
    )
    message = view_message()
    message["view"]["servers"] = [wire.to_json(row)] * 1000
    path = str(tmp_path / "bus")
    with serving(path) as server:
        client = Client(path)
        client.start()
        assert until(lambda: client.view().status is not None)
        server.publish(bus.encode(message))
        assert until(lambda: len(client.view().servers) == 1000)
        client.stop()


def test_a_second_core_on_the_same_socket_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    with serving(path):
        with pytest.raises(OSError, match="another core"):
            Server(path, answer, list, lambda uid: True)
        assert _works(path)


def test_too_many_connections_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    with serving(path):
        socks = [bus.connect(path) for _ in range(busserver.CLIENTS_LIMIT)]
        time.sleep(0.05)
        with bus.connect(path) as one_more:
            assert one_more.recv(1) == b""
        for sock in socks:
            sock.close()
        assert until(lambda: _works(path))


def _works(path: str) -> bool:
    try:
        return bool(bus.ask(path, {"type": "query", "what": "x"})["ok"])
    except BusError:
        return False


def test_the_socket_of_a_killed_core_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()
    with serving(path):
        assert _works(path)
