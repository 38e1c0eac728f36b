"""One-time codes: ten minutes, one use, one name, five wrong tries; never in plain text on the disk."""

import json
import multiprocessing
import os
import stat
from dataclasses import replace

import pytest

from agent.codes import ALPHABET, Codes, Moment
from agent.config import SERVERS_LIMIT
from agent.model import ConfigError


class Clock:
    def __init__(self):
        self.now = Moment("boot-1", 100.0, 1_790_000_000.0)

    def __call__(self):
        return self.now

    def pass_s(self, seconds):
        self.now = replace(self.now, up_s=self.now.up_s + seconds, wall_s=self.now.wall_s + seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def kept(tmp_path, clock):
    return Codes(tmp_path / "faces" / "enrol", clock)


def test_a_code_is_good_once_and_for_its_name_alone(kept):
    code = kept.make("nas")
    assert [len(group) for group in code.split("-")] == [5, 5, 5, 5]
    assert set(code) <= {*ALPHABET, "-"}
    assert kept.take("vm-host", code) is None
    assert kept.take("nas", code) is not None
    assert kept.take("nas", code) is None


def test_a_row_that_somebody_moves_to_another_name_is_good_for_nobody(kept, tmp_path):
    code = kept.make("nas")
    path = tmp_path / "faces" / "enrol" / "codes.json"
    path.write_text(path.read_text().replace('"nas"', '"vm-host"'))
    assert kept.take("vm-host", code) is None and kept.take("nas", code) is None


def test_it_may_be_typed_without_dashes_and_in_any_case(kept):
    for wrong in (str.lower, lambda c: c.replace("-", ""), lambda c: c.replace("0", "o").replace("1", "l")):
        assert kept.take("nas", wrong(kept.make("nas"))) is not None


def test_a_new_code_ends_the_older_one(kept):
    old, new = kept.make("nas"), kept.make("nas")
    assert old != new and kept.take("nas", old) is None and kept.take("nas", new) is not None


def test_it_lives_for_ten_minutes(kept, clock):
    code = kept.make("nas")
    clock.pass_s(599.9)
    row = kept.take("nas", code)
    assert row is not None
    kept.give_back("nas", row)
    clock.pass_s(0.2)
    assert kept.take("nas", code) is None


@pytest.mark.parametrize(
    "jump",
    [
        lambda now: replace(now, boot="boot-2"),
        lambda now: replace(now, boot="boot-2", up_s=5.0),
        lambda now: replace(now, up_s=5.0),
        lambda now: replace(now, up_s=now.up_s + 601, wall_s=0.0),
        lambda now: replace(now, wall_s=now.wall_s + 601),
    ],
    ids=["another boot", "another boot, just begun", "before it was made", "clock set back", "clock set forward"],
)
def test_no_clock_and_no_boot_lengthens_its_life(kept, clock, jump):
    code = kept.make("nas")
    clock.now = jump(clock.now)
    assert kept.take("nas", code) is None


def test_a_clock_that_was_set_back_does_not_end_it(kept, clock):
    code = kept.make("nas")
    clock.now = replace(clock.now, wall_s=0.0)
    assert kept.take("nas", code) is not None


def test_five_wrong_tries_end_it(kept):
    code = kept.make("nas")
    for _ in range(4):
        assert kept.take("nas", "00000-00000-00000-00000") is None
    row = kept.take("nas", code)
    assert row is not None and row.wrong == 4
    kept.give_back("nas", row)
    assert kept.take("nas", "") is None
    assert kept.take("nas", code) is None


def test_tries_on_another_name_cost_it_nothing(kept):
    code = kept.make("nas")
    for _ in range(10):
        assert kept.take("vm-host", "00000-00000-00000-00000") is None
    assert kept.take("nas", code) is not None


def test_what_was_given_back_does_not_replace_a_newer_code(kept):
    row = kept.take("nas", kept.make("nas"))
    newer = kept.make("nas")
    kept.give_back("nas", row)
    assert kept.take("nas", newer) is not None


def test_the_file_is_private_and_holds_no_code(kept, tmp_path):
    code = kept.make("nas")
    path = tmp_path / "faces" / "enrol" / "codes.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text().upper()
    assert code not in text and code.replace("-", "") not in text and code[:5] not in text


def test_another_process_sees_it_at_once(kept, tmp_path, clock):
    code = Codes(tmp_path / "faces" / "enrol", clock).make("nas")
    assert kept.take("nas", code) is not None


def _take(folder, code, gate, won):
    gate.wait()
    if Codes(folder).take("nas", code):
        won.put(os.getpid())


def test_of_many_processes_one_gets_it(tmp_path):
    folder, fork = tmp_path / "enrol", multiprocessing.get_context("fork")
    code = Codes(folder).make("nas")
    gate, won = fork.Barrier(6), fork.Queue()
    tried = [fork.Process(target=_take, args=(folder, code, gate, won)) for _ in range(6)]
    for process in tried:
        process.start()
    for process in tried:
        process.join(20)
    assert [p.exitcode for p in tried] == [0] * 6
    assert won.get(timeout=5) and won.empty()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"nas": 1}', '{"nas": {"sha256": "é"}}', "[" * 4000, '{"nas": {}}', "\xff"]
)
def test_a_damaged_file_is_set_aside(kept, tmp_path, text, caplog):
    code = kept.make("nas")
    path = tmp_path / "faces" / "enrol" / "codes.json"
    path.write_bytes(text.encode("latin-1"))
    assert kept.take("nas", code) is None
    assert path.with_name("codes.json.damaged").exists() and "set aside" in caplog.text
    assert kept.take("nas", kept.make("nas")) is not None


def test_a_row_that_is_no_number_is_damage(kept, tmp_path):
    kept.make("nas")
    path = tmp_path / "faces" / "enrol" / "codes.json"
    rows = json.loads(path.read_text())
    rows["nas"]["up_s"] = float("nan")
    path.write_text(json.dumps(rows))
    assert kept.take("nas", "x") is None and path.with_name("codes.json.damaged").exists()


def test_no_more_are_kept_than_there_can_be_servers(kept, tmp_path):
    kept.make("first")
    path = tmp_path / "faces" / "enrol" / "codes.json"
    row = json.loads(path.read_text())["first"]
    path.write_text(json.dumps({f"server-{n}": row for n in range(SERVERS_LIMIT)}))
    code = kept.make("last")
    names = list(json.loads(path.read_text()))
    assert len(names) == SERVERS_LIMIT and names[0] == "server-1" and kept.take("last", code) is not None


def test_a_code_is_not_taken_when_the_disk_does_not_keep_it(kept, tmp_path):
    code = kept.make("nas")
    in_the_way = tmp_path / "faces" / "enrol" / "codes.json.new"
    in_the_way.mkdir()
    with pytest.raises(OSError):
        kept.take("nas", code)
    in_the_way.rmdir()
    assert kept.take("nas", code) is not None


def test_a_name_that_no_server_can_have_gets_none(kept):
    for name in ("", "../x", "-x", "a b", "x" * 64, "nas\n"):
        with pytest.raises(ConfigError):
            kept.make(name)
