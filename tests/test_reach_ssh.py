"""The way `ssh` with a pretended client: what it is started with, and what its words mean."""

from __future__ import annotations

import base64
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Server
from agent.model import ConfigError
from agent.reach import ACCEPTED, NOT_DELIVERED, PROVEN, UNCONFIRMED, UNKNOWN, Job, Outcome, ssh
from tests import steps

BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))
KEY = "ssh-ed25519 " + base64.b64encode(BLOB).decode()
SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
LOGGED_IN = "echo 'Authenticated to 192.0.2.7 ([192.0.2.7]:22) using \"publickey\".' >&2"
BEGAN = f"{LOGGED_IN}; echo 'debug2: exec request accepted on channel 0' >&2"
CUT = "echo 'Connection to 192.0.2.7 closed by remote host.' >&2; echo 'debug1: Exit status -1' >&2"

OTHERS: dict[int, str] = {}  # children of this process before the test


@pytest.fixture(autouse=True)
def children_before() -> None:
    OTHERS.clear()
    OTHERS.update(steps.children())


def gone(within_s: float = 5.0) -> bool:
    return steps.gone(OTHERS, within_s)


def server(**options: object) -> Server:
    return Server(
        name="Nas.1",
        address="nas.example",
        port=2222,
        how="ssh",
        options={"user": "ups", "host_key": KEY, "command": "off"} | options,
    )


def job(folder: Path, **changes: object) -> Job:
    core = folder / "core state"
    core.mkdir(exist_ok=True)
    (core / "ssh-key").write_text(SECRET)
    place = folder / "commands.d"
    place.mkdir(mode=0o755, exist_ok=True)
    (place / "off.ssh").write_text("# asked\nsudo systemctl poweroff\n")
    values = {
        "server": server(),
        "address": (socket.AF_INET, ("192.0.2.7",)),
        "outage": "0123456789abcdef",
        "connect_s": 1.2,
        "folder": core,
        "commands_dir": place,
        "secret": lambda label: None,
    }
    return Job(**(values | changes))


def client(folder: Path, text: str) -> str:
    """A program that stands for ssh and writes down what it was started with."""
    path = folder / "client"
    path.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/argv\n'
        f"for a; do case $a in IdentityFile=*|UserKnownHostsFile=*) f=${{a#*=}}; stat -Lc %a $f; cat $f;; esac; done"
        f" >{folder}/files\n{text}\n"
    )
    path.chmod(0o755)
    return str(path)


def test_the_client_asks_nobody_and_reads_no_file_of_this_host(tmp_path: Path) -> None:
    assert steps.run(ssh.send(job(tmp_path), client(tmp_path, LOGGED_IN))).word == ACCEPTED
    argv = (tmp_path / "argv").read_text().splitlines()
    assert argv[:2] == ["-F", "/dev/null"]
    assert argv[-3:] == ["--", "192.0.2.7", "sudo systemctl poweroff"]
    options = dict(pair.split("=", 1) for flag, pair in zip(argv[2:-3:2], argv[3:-3:2], strict=True) if flag == "-o")
    assert {
        "User": "ups",
        "Port": "2222",
        "HostKeyAlias": "nas.1",
        "StrictHostKeyChecking": "yes",
        "GlobalKnownHostsFile": "/dev/null",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "PasswordAuthentication": "no",
        "ClearAllForwardings": "yes",
        "ControlMaster": "no",
        "ControlPath": "none",
        "RequestTTY": "no",
        "UpdateHostKeys": "no",
        "ConnectTimeout": "2",
    }.items() <= options.items()
    assert (tmp_path / "files").read_text() == f"600\n{SECRET}600\nnas.1 {KEY}\n"
    left = [Path(options[name]) for name in ("IdentityFile", "UserKnownHostsFile")]
    assert not any(path.exists() for path in left)  # they lived as long as the attempt


def test_a_link_local_address_keeps_its_interface(tmp_path: Path) -> None:
    there = job(tmp_path, address=(socket.AF_INET6, ("fe80::1", 0, 3)))
    steps.run(ssh.send(there, client(tmp_path, LOGGED_IN)))
    assert "fe80::1%3" in (tmp_path / "argv").read_text().splitlines()


def test_the_proof_asks_for_no_session_and_ends_the_client(tmp_path: Path) -> None:
    outcome = steps.run(ssh.prove(job(tmp_path), client(tmp_path, f"{LOGGED_IN}; exec sleep 20")))
    assert outcome == Outcome(PROVEN, "host key and login as ups are right")
    argv = (tmp_path / "argv").read_text().splitlines()
    assert argv[0] == "-N" and argv[-2:] == ["--", "192.0.2.7"] and "poweroff" not in " ".join(argv)
    assert gone()


@pytest.mark.parametrize(
    ("does", "word", "detail"),
    [
        (f"{LOGGED_IN}; exit 0", ACCEPTED, "the command ended with exit code 0"),
        ("exit 0", NOT_DELIVERED, "ssh ended with exit code 0"),
        (f"{BEGAN}; {CUT}; exit 255", UNCONFIRMED, "the connection ended while the command ran"),
        (f"{BEGAN}; echo 'Connection reset by 192.0.2.7 port 22'; exit 255", UNCONFIRMED, "the connection ended"),
        (
            f"{BEGAN}; echo 'client_loop: send disconnect: Broken pipe'; exit 255",
            UNCONFIRMED,
            "the connection ended while the command ran",
        ),
        (f"{LOGGED_IN}; exit 255", NOT_DELIVERED, "exit code 255 of ssh"),
        (f"{LOGGED_IN}; {CUT}; exit 255", NOT_DELIVERED, "exit code 255 of ssh: Connection to 192.0.2.7 closed"),
        (f"{BEGAN}; exit 255", NOT_DELIVERED, "exit code 255 of ssh"),
        (
            f"{BEGAN}; echo 'it did not work'; echo 'debug1: Exit status 255'; exit 255",
            NOT_DELIVERED,
            "exit code 255 of the command: it did not work",
        ),
        (
            f"{BEGAN}; echo 'Connection to inner closed by remote host.'; echo 'debug1: Exit status 255'; exit 255",
            NOT_DELIVERED,
            "exit code 255 of the command: Connection to inner closed by remote host.",
        ),
        (
            f"{LOGGED_IN}; echo 'Timeout, server 192.0.2.7 not responding.'; exit 255",
            NOT_DELIVERED,
            "exit code 255 of ssh: Timeout, server 192.0.2.7 not responding.",
        ),
        (
            f"{LOGGED_IN}; echo 'exec request failed on channel 0'; exit 255",
            NOT_DELIVERED,
            "exit code 255 of ssh: exec request failed on channel 0",
        ),
        (
            f"{LOGGED_IN}; echo no; echo 'Bytes per second: 1'; exit 7",
            NOT_DELIVERED,
            "exit code 7 of the command: no",
        ),
        ("echo 'u@h: Permission denied (publickey).'; exit 255", NOT_DELIVERED, "permission denied: the server"),
        ("echo 'Host key verification failed.'; exit 255", NOT_DELIVERED, "the server has another host key"),
        (
            "echo 'ssh: connect to host h port 22: No route to host'; exit 255",
            NOT_DELIVERED,
            "no route to the server",
        ),
        ("echo \"It said: 'Authenticated to us'\"; exit 255", NOT_DELIVERED, "It said: 'Authenticated to us'"),
        ("echo 'something else'; exit 255", NOT_DELIVERED, "something else"),
        ("kill -9 $$", NOT_DELIVERED, "ssh ended with exit code -9"),
    ],
)
def test_what_the_client_says_is_one_word_and_one_line(tmp_path: Path, does: str, word: str, detail: str) -> None:
    outcome = steps.run(ssh.send(job(tmp_path), client(tmp_path, does)))
    assert outcome.word == word and outcome.detail.startswith(detail) and gone()


def test_the_login_is_seen_behind_a_long_banner_and_in_pieces(tmp_path: Path) -> None:
    does = (
        "head -c 20000 /dev/zero | tr '\\0' x; printf '\\nAuthen' >&2; sleep 0.05; printf 'ticated to h\\n'; exit 0"
    )
    assert steps.run(ssh.send(job(tmp_path), client(tmp_path, does))).word == ACCEPTED


def test_the_passing_of_time_confirms_nothing_and_leaves_nothing_running(tmp_path: Path) -> None:
    outcome = steps.run(ssh.send(job(tmp_path), client(tmp_path, f"{LOGGED_IN}; sleep 20 & wait"), command_s=0.1))
    assert outcome == Outcome(NOT_DELIVERED, "the command did not end within 0.1 s")
    assert gone()


def test_when_the_outage_ends_the_client_and_its_children_are_killed(tmp_path: Path) -> None:
    way = ssh.send(job(tmp_path), client(tmp_path, f"sleep 20 & echo $! >{tmp_path}/pid; wait"))
    next(way)
    end_s = time.monotonic() + 5
    while not ((pid := tmp_path / "pid").exists() and pid.read_text()) and time.monotonic() < end_s:
        time.sleep(0.005)
    way.close()
    assert gone()
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < end_s:
        time.sleep(0.005)
    assert time.monotonic() < end_s


@pytest.mark.parametrize(
    ("does", "detail"),
    [
        ("echo 'Host key verification failed.'; exit 255", "the server has another host key than host_key says"),
        ("exit 0", "ssh ended with exit code 0"),
        ("echo 'u@h: Permission denied (publickey).'; exit 255", "permission denied: the server"),
    ],
)
def test_a_client_that_ends_before_the_login_has_proven_nothing(tmp_path: Path, does: str, detail: str) -> None:
    outcome = steps.run(ssh.prove(job(tmp_path), client(tmp_path, does)))
    assert outcome.word == UNKNOWN and outcome.detail.startswith(detail)


def test_what_is_missing_is_said_with_its_remedy(tmp_path: Path) -> None:
    for way, word in ((ssh.send, NOT_DELIVERED), (ssh.prove, UNKNOWN)):
        there = job(tmp_path)
        (there.commands_dir / "off.ssh").unlink()
        outcome = steps.run(way(there))
        assert outcome.word == word and "off.ssh: No such file" in outcome.detail
        there = job(tmp_path)
        (there.folder / "ssh-key").unlink()
        assert steps.run(way(there)) == Outcome(word, "there is no key yet; make it with: ridethrough ssh-key")
        there = job(tmp_path, address=None)
        assert steps.run(way(there)) == Outcome(word, "nas.example could not be looked up")
        outcome = steps.run(way(job(tmp_path), "no-such-ssh"))
        assert outcome.word == word and "apt install openssh-client" in outcome.detail


def test_the_client_needs_no_disk_of_ours_once_the_key_was_read(tmp_path: Path) -> None:
    there = job(tmp_path)
    assert steps.run(ssh.prove(there, client(tmp_path, LOGGED_IN))).word == PROVEN
    assert [path.name for path in there.folder.iterdir()] == ["ssh-key"]  # nothing is written, so it may be read-only
    shutil.rmtree(there.folder)  # the disk is gone
    assert steps.run(ssh.send(there, client(tmp_path, LOGGED_IN))).word == ACCEPTED
    assert (tmp_path / "files").read_text() == f"600\n{SECRET}600\nnas.1 {KEY}\n"


def test_a_disk_that_was_never_there_is_said(tmp_path: Path) -> None:
    there = replace(job(tmp_path), folder=tmp_path / "gone")
    outcome = steps.run(ssh.send(there, client(tmp_path, LOGGED_IN)))
    assert outcome == Outcome(NOT_DELIVERED, f"{tmp_path}/gone/ssh-key: No such file or directory")


@pytest.mark.parametrize(
    "user", ["", "-oProxyCommand=x", "a b", "a@b", "a\nb", "a" * 33, "a;b", "$(id)", "a%h", "größe"]
)
def test_a_user_can_never_be_an_option(tmp_path: Path, user: str) -> None:
    assert "user" in ssh.wrong(server(user=user))
    outcome = steps.run(ssh.send(job(tmp_path, server=server(user=user)), client(tmp_path, LOGGED_IN)))
    assert outcome.word == NOT_DELIVERED and not (tmp_path / "argv").exists()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-dss AAAA",
        KEY[:30],
        KEY.replace("ssh-ed25519", "ssh-rsa"),
        "ssh-ed25519 ä",
        "ssh-ed25519",
        "nas " + KEY,
        KEY.replace("A", "!"),
        "ssh-ed25519\t" + KEY.split()[1],
    ],
)
def test_a_host_key_that_cannot_be_one_is_refused(key: str) -> None:
    assert ssh.wrong(server(host_key=key)).startswith("host_key: ")


def test_a_host_key_may_have_a_comment_and_blanks_around(tmp_path: Path) -> None:
    there = job(tmp_path, server=server(host_key=f" {KEY} root@nas"))
    assert not ssh.wrong(there.server)
    steps.run(ssh.prove(there, client(tmp_path, LOGGED_IN)))
    assert (tmp_path / "files").read_text().endswith(f"nas.1 {KEY}\n")


@given(st.fixed_dictionaries({}, optional={n: st.none() | st.text() for n in ("user", "host_key", "command")}))
def test_wrong_never_raises(options: dict[str, str | None]) -> None:
    assert isinstance(ssh.wrong(Server(name="a", address="b", options=options)), str)


@given(st.text(), st.binary(max_size=60))
def test_no_host_key_makes_wrong_raise_or_can_add_a_line(kind: str, blob: bytes) -> None:
    for key in (f"{kind} x", f"ssh-ed25519 {kind}", f"ssh-ed25519 {base64.b64encode(blob).decode()}"):
        assert ssh.wrong(server(host_key=key)) or "\n" not in key.strip()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = ssh.ensure_key(tmp_path / "core")
    assert first.startswith("ssh-ed25519 AAAA") and first.endswith(" ridethrough") and "\n" not in first
    assert ssh.ensure_key(tmp_path / "core") == first
    assert (tmp_path / "core" / "ssh-key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "core" / "ssh-key").write_text("damaged")
    with pytest.raises(ConfigError, match="ssh-keygen"):
        ssh.ensure_key(tmp_path / "core")
