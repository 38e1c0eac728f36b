"""A short run of `./run fuzz rccmd` with our own mutator; and its judges are not content with everything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.fuzz_rccmd import PARTS, ROOT, Classic, Secure, may, may_secure, seeds

SHUTDOWN = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN"


def test_some_thousand_inputs_crash_nothing_and_run_nothing_without_authority() -> None:
    argv = [sys.executable, "-m", "tests.fuzz_rccmd", "4000", "--seed", "7", "--plain"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 crashes, 0 actions without authority") == len(PARTS) + 1


def test_the_judges_know_commands_from_what_is_none() -> None:
    assert may(SHUTDOWN) == ("SHUTDOWN", "") and may(SHUTDOWN[:-1]) is None and may(SHUTDOWN + b" NOW\n") is None
    assert may(b"x" + SHUTDOWN) is None and may(SHUTDOWN.lower()) is None
    assert may_secure(b"RT1 NOOP 00c0ffee00c0ffee\n") == ("NOOP", "00c0ffee00c0ffee", "")
    assert may_secure(b"RT1 NOOP 00c0ffee00c0ffee") is None and may_secure(b"RT1 NOOP 00C0FFEE00C0FFEE\n") is None


@pytest.mark.parametrize("part", ["classic", "secure"])
def test_a_reader_that_takes_everything_is_noticed(part: str) -> None:
    makers: dict[str, Callable[[], Classic | Secure]] = {"classic": Classic, "secure": Secure}
    reader = makers[part]()
    answer = ("SHUTDOWN", "") if part == "classic" else ("SHUTDOWN", "0" * 16, "")
    reader.read = lambda parts: answer  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(AssertionError, match="SHUTDOWN"):
        for data in seeds(part):
            reader(data)
