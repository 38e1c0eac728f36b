"""The way `local`: what may be run is checked before it is run, and nothing is ever waited for."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import commands, program
from agent.config import Server
from agent.model import ConfigError
from agent.program import Program
from agent.reach import ACCEPTED, NOT_DELIVERED, PROVEN, UNKNOWN, Job, local
from tests import steps

OUTAGE = "0123456789abcdef"

OTHERS: dict[int, str] = {}  # children of this process before the test


@pytest.fixture(autouse=True)
def children_before() -> None:
    OTHERS.clear()
    OTHERS.update(steps.children())


def gone(within_s: float = 5.0) -> bool:
    return steps.gone(OTHERS, within_s)


def job(folder: Path, command: str = "down") -> Job:
    return Job(
        server=Server(name="board", address="127.0.0.1", port=0, how="local", options={"command": command}),
        address=None,
        outage=OUTAGE,
        connect_s=2.0,
        folder=folder / "core",
        commands_dir=folder / "commands.d",
        secret=lambda label: None,
    )


def script(folder: Path, text: str, name: str = "down", mode: int = 0o755) -> Path:
    place = folder / "commands.d"
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    path = place / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def test_a_program_that_ends_with_0_is_accepted_and_knows_what_it_is_about(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script(tmp_path, f'env >{seen}; cat >>{seen}; echo "$# arguments"; echo going down >&2')
    outcome = steps.run(local.send(job(tmp_path)))
    assert (outcome.word, outcome.detail) == (ACCEPTED, "exit code 0: going down")
    found = dict(line.split("=", 1) for line in seen.read_text().splitlines())
    assert set(found) <= {"PATH", "LANG", "PWD", "_", "SHLVL", "OLDPWD", "RIDETHROUGH_OUTAGE", "RIDETHROUGH_SERVER"}
    assert found["RIDETHROUGH_OUTAGE"] == OUTAGE and found["RIDETHROUGH_SERVER"] == "board"
    assert gone()


def test_another_exit_code_or_a_signal_is_not_delivered_with_the_last_line(tmp_path: Path) -> None:
    script(tmp_path, "echo first; echo 'no permission\t!'; exit 3")
    outcome = steps.run(local.send(job(tmp_path)))
    assert (outcome.word, outcome.detail) == (NOT_DELIVERED, "exit code 3: no permission !")
    script(tmp_path, "kill -9 $$")
    assert steps.run(local.send(job(tmp_path))) == local.Outcome(NOT_DELIVERED, "signal 9")
    assert gone()


def test_a_program_that_still_runs_is_accepted_left_alone_and_reaped_when_it_ends(tmp_path: Path) -> None:
    done, go = tmp_path / "done", tmp_path / "go"
    # it says more than a pipe holds after nobody listens any more, and must not hang or die on it
    script(
        tmp_path, f"while [ ! -e {go} ]; do sleep 0.01; done; head -c 300000 /dev/zero | tr '\\0' x; echo ok >{done}"
    )
    outcome = steps.run(local.send(job(tmp_path), run_s=0.05))
    assert (outcome.word, outcome.detail) == (ACCEPTED, "down still runs after 0.05 s")
    assert program.left() == 1 and not gone(0) and not done.exists()
    go.write_text("")
    assert gone() and done.read_text() == "ok\n"
    none_left()


def none_left(within_s: float = 1.0) -> None:
    """The threads of those that were left to themselves have ended: a little after the child is gone."""
    end_s = time.monotonic() + within_s
    while any(t.name == "reaper" for t in threading.enumerate()) and time.monotonic() < end_s:
        time.sleep(0.005)
    assert program.left() == 0


def test_when_the_outage_ends_a_program_that_was_begun_is_not_torn_off(tmp_path: Path) -> None:
    done, go = tmp_path / "done", tmp_path / "go"
    script(tmp_path, f"while [ ! -e {go} ]; do sleep 0.01; done; echo ok >{done}")
    way = local.send(job(tmp_path))
    next(way)
    way.close()
    go.write_text("")
    assert gone() and done.exists()


def test_one_that_starts_something_in_the_background_is_at_its_end_when_it_says_so(tmp_path: Path) -> None:
    script(tmp_path, "sleep 5 & echo $!")
    began_s = time.monotonic()
    outcome = steps.run(local.send(job(tmp_path)))
    os.kill(int(outcome.detail.split()[-1]), 9)
    assert outcome.word == ACCEPTED and time.monotonic() - began_s < 2


def test_endless_output_is_capped_and_does_not_hold_the_loop(tmp_path: Path) -> None:
    script(tmp_path, "exec yes")
    running = Program([str(tmp_path / "commands.d" / "down")], {})
    way = running.run(0.15, "late")
    with pytest.raises(local.Late):
        steps.run(way)  # type: ignore[arg-type]
    assert len(running.output) == program.OUTPUT_LIMIT_BYTES
    running.kill()
    assert gone()


def test_a_program_that_closes_its_output_and_runs_on_costs_no_turns(tmp_path: Path) -> None:
    script(tmp_path, "exec >/dev/null 2>&1; sleep 0.15")
    running = Program([str(tmp_path / "commands.d" / "down")], {})
    turns = 0
    for wait in running.run(5.0, "late"):
        turns += 1
        steps.select.select([wait.fd], [], [], 1.0)
    assert running.code == 0 and turns <= 4


def test_no_more_are_started_when_many_still_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    script(tmp_path, f"echo >{ran}")
    pretended = set(range(-program.LEFT_LIMIT, 0))
    program._left.update(pretended)
    try:
        outcome = steps.run(local.send(job(tmp_path)))
    finally:
        program._left.difference_update(pretended)
    assert outcome.word == NOT_DELIVERED and "still run" in outcome.detail and not ran.exists()


def test_what_may_be_run_is_proven_without_running_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = script(tmp_path, f"echo >{ran}")
    assert steps.run(local.prove(job(tmp_path))) == local.Outcome(PROVEN, f"{path} may be run")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.chmod(0o644), "chmod 755"),
        (lambda path: path.chmod(0o775), "chmod go-w"),
        (lambda path: path.chmod(0o757), "chmod go-w"),
        (lambda path: path.parent.chmod(0o777), "chmod go-w"),
        (lambda path: (path.rename(path.with_name("other")), path.symlink_to("other")), "no regular file"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
    ],
)
def test_what_others_could_have_put_there_is_not_run(tmp_path: Path, spoil, says: str) -> None:
    ran = tmp_path / "ran"
    spoil(script(tmp_path, f"echo >{ran}"))
    proof, sent = steps.run(local.prove(job(tmp_path))), steps.run(local.send(job(tmp_path)))
    assert proof.word == UNKNOWN and says in proof.detail
    assert (sent.word, sent.detail) == (NOT_DELIVERED, proof.detail) and not ran.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_belongs_to_another_user_is_not_run(tmp_path: Path) -> None:
    path = script(tmp_path, "true")
    os.chown(path, 12345, 12345)
    assert "chown root" in steps.run(local.send(job(tmp_path))).detail


@pytest.mark.parametrize("name", ["", "..", "../down", "/bin/sh", "a b", "-x", "a\n", "a" * 64, ".hidden"])
def test_a_command_is_a_name_and_never_a_path(tmp_path: Path, name: str) -> None:
    assert "is the name of a file" in local.wrong(job(tmp_path, name).server)
    with pytest.raises(ConfigError):
        commands.program(tmp_path, name)


def test_a_program_without_an_interpreter_is_an_error_of_the_kernel(tmp_path: Path) -> None:
    path = script(tmp_path, "")
    path.write_text("no program\n")
    with pytest.raises(OSError, match="Exec format"):
        steps.run(local.send(job(tmp_path)))
    assert gone()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one line"),
        ("# only\n\n", "one line"),
        ("a\nb\n", "one line"),
        ("a\x07", "printable"),
        ("a" * 1001, "at most"),
        ("a\n" + "#" * 20000, "one line"),
    ],
)
def test_what_is_asked_of_a_server_is_one_printable_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.ssh").write_text(text)
    with pytest.raises(ConfigError, match=says):
        commands.line(tmp_path, "x")


def test_comments_around_the_line_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.ssh").write_text("# why\n\n  sudo systemctl poweroff  \n# more\n")
    assert commands.line(tmp_path, "x") == "sudo systemctl poweroff"


@given(st.text())
def test_wrong_never_raises(command: str) -> None:
    said = local.wrong(Server(name="a", address="127.0.0.1", options={"command": command}))
    assert bool(said) != bool(commands.NAME.fullmatch(command))


def test_nothing_is_kept_open_however_it_ends(tmp_path: Path) -> None:
    def play() -> None:
        for text, run_s in (("exit 0", 5.0), ("exec >&-; exit 1", 5.0), ("sleep 0.05", 0.01)):
            script(tmp_path, text)
            steps.run(local.send(job(tmp_path), run_s=run_s))
        way = local.send(job(tmp_path))
        next(way)
        way.close()
        assert gone()

    play()
    before = steps.descriptors()
    for _ in range(5):
        play()
    none_left()
    assert steps.descriptors() == before
