"""The root helper: fixed words, only for who may ask; and the way `local` that asks it."""

from __future__ import annotations

import os
import pwd
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import helper
from agent.config import Server
from agent.process import load
from agent.reach import ACCEPTED, NOT_DELIVERED, PROVEN, UNKNOWN, Job, local
from tests import steps

ME = pwd.getpwuid(os.geteuid()).pw_name
HERE = Job(
    server=Server(name="board", address="", port=0, how="local", options={"order": "power-off"}),
    address=None, outage="0123456789abcdef", connect_s=2.0, folder=Path("/none"), commands_dir=Path("/none"),
    secret=lambda label: None,
)  # fmt: skip


def programs(folder: Path, text: str) -> str:
    """A folder with a `systemctl` of ours."""
    path = folder / "systemctl"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(folder)


@contextmanager
def helping(folder: Path, path: str, user: str = ME, times: int = 1) -> Iterator[str]:
    """The helper behind a socket, one connection after the other, as systemd starts it."""
    place = str(folder / "helper.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()

        def turn() -> None:
            for _ in range(times):
                sock, _ = listener.accept()
                with sock:
                    helper.serve(sock, user, path=path)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            yield place
        finally:
            thread.join(10)
            assert not thread.is_alive()


def test_the_order_runs_the_one_command_that_stands_for_it(tmp_path: Path) -> None:
    path = programs(tmp_path, f'echo "$*" >{tmp_path}/ran')
    with helping(tmp_path, path) as place:
        outcome = steps.run(local.send(HERE, socket_path=place))
    assert outcome.word == ACCEPTED and "ended with 0" in outcome.detail
    assert (tmp_path / "ran").read_text() == "--no-block poweroff\n"


def test_the_proof_goes_the_whole_way_but_for_the_last_step(tmp_path: Path) -> None:
    path = programs(tmp_path, f"touch {tmp_path}/ran")
    with helping(tmp_path, path) as place:
        outcome = steps.run(local.prove(HERE, socket_path=place))
    assert not (tmp_path / "ran").exists()
    if os.geteuid() == 0:
        assert outcome.word == PROVEN and "would run" in outcome.detail
    else:
        assert outcome.word == UNKNOWN and "not as root" in outcome.detail


def test_a_command_that_fails_or_is_not_there_is_said(tmp_path: Path) -> None:
    path = programs(tmp_path, "echo 'Failed to connect to bus' >&2; exit 3")
    with helping(tmp_path, path) as place:
        outcome = steps.run(local.send(HERE, socket_path=place))
    assert outcome.word == NOT_DELIVERED and "exit code 3 Failed to connect to bus" in outcome.detail
    with pytest.raises(helper.Refused, match="systemctl is not on this host"):
        helper.obey("power-off", path=str(tmp_path / "empty"))


@pytest.mark.parametrize("word", ["", "halt", "power-off now", "check", "check halt", "power-off\0", "/bin/sh", "é"])
def test_no_other_word_is_obeyed(tmp_path: Path, word: str) -> None:
    with pytest.raises(helper.Refused, match="unknown word"):
        helper.obey(word, path=programs(tmp_path, f"touch {tmp_path}/ran"))
    assert not (tmp_path / "ran").exists()


def test_only_root_and_the_named_user_may_ask() -> None:
    assert helper.may_ask(0, "root") and helper.may_ask(0, "no-such-user")
    nobody = pwd.getpwnam("nobody").pw_uid
    assert helper.may_ask(nobody, "nobody") and not helper.may_ask(nobody, "root")
    assert not helper.may_ask(nobody, "no-such-user")


class Stranger:
    """A connection of another user: only its credentials differ."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def getsockopt(self, level: int, name: int, length: int) -> bytes:
        assert (level, name, length) == (socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return (1).to_bytes(4, "little") + (65534).to_bytes(4, "little") * 2

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


def test_a_stranger_is_refused_before_he_is_heard(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"power-off\n")
        assert helper.serve(Stranger(ours), "root", path=programs(tmp_path, f"touch {tmp_path}/ran")) == 1  # type: ignore[arg-type]
        assert theirs.recv(200) == b"no user id 65534 may not ask\n" and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sent", [b"", b"power-off", b"x" * 200 + b"\n"])
def test_half_a_word_or_a_long_one_is_none(tmp_path: Path, sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        assert helper.serve(ours, ME, path=str(tmp_path)) == 1
        assert theirs.recv(200) == b"no no whole word came\n"


def test_without_a_helper_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"is ridethrough-helper.socket started\?"):
        steps.run(local.prove(HERE, socket_path=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ('order = "power-off"', ""),
        ('command = "off"', ""),
        ("", "needs either command or order"),
        ('command = "off"\norder = "reboot"', "only one of them"),
        ('order = "halt"', "must be one of power-off, reboot"),
    ],
)
def test_this_host_needs_one_of_command_and_order(tmp_path: Path, options: str, wrong: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'[ups]\ndriver = "simulator"\n[[server]]\nname = "me"\nhow = "local"\n{options}\n')
    _, problems = load(path)
    assert [p.text for p in problems if wrong not in p.text or not wrong] == []
    assert bool(problems) == bool(wrong)
