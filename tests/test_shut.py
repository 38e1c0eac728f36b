"""SHUT: frames of any kind, a description that takes several polls, refusals, damage, and what is told unasked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import shut
from agent.drivers import shut as driver
from agent.drivers import usbhid
from agent.model import Command, LinkError, OrderError, Source
from tests.simulators.hidunit import HidUnit
from tests.simulators.shut import PACE_S, UNIT, ShutScript, checked


@pytest.fixture
def line() -> ShutScript:
    return ShutScript(HidUnit.of(UNIT), PACE_S)


def connected(line: ShutScript) -> driver.Shut:
    made = driver.connect({}, line, lambda: line.now_s)
    assert isinstance(made, driver.Shut)
    return made


def ready(line: ShutScript) -> driver.Shut:
    """After as many polls as its description takes at this speed."""
    made = connected(line)
    for _ in range(3):
        try:
            made.poll()
            return made
        except LinkError as e:
            assert "asked what it is" in str(e)
    raise AssertionError("not within three polls")


# --- frames ------------------------------------------------------------------------------------------------------


def test_a_request_is_frames_of_eight_bytes_and_their_xor() -> None:
    assert shut.frame(1, bytes.fromhex("8006000100001200"), True).hex(" ") == "81 88 80 06 00 01 00 00 12 00 95"
    assert [f[:2].hex() for f in shut.frames(1, bytes(19))] == ["0188", "0188", "8133"]
    assert shut.frames(4, b"abc") == [checked(0x84, b"abc")]


@given(st.binary(max_size=60), st.lists(st.integers(1, 20), max_size=12))
def test_any_bytes_in_any_pieces_are_frames_or_dropped(data: bytes, cuts: list[int]) -> None:
    whole, pieces = shut.Frames(), shut.Frames()
    whole.add(data)
    expected, found = [], []
    while (one := whole.take()) is not None:
        expected.append(one)
    for size in [*cuts, len(data)]:
        piece, data = data[:size], data[size:]
        pieces.add(piece)
        while (one := pieces.take()) is not None:
            found.append(one)
    assert all(kind in (0, shut.ACK, shut.NAK, shut.ANSWER, shut.TOLD) and len(part) <= 8 for kind, _, part in found)
    if (0, True, b"") not in expected:  # after damage the rest of what is there is dropped
        assert found == expected


@given(st.binary(min_size=1, max_size=60))
def test_what_was_framed_comes_out_again(data: bytes) -> None:
    frames = shut.Frames()
    frames.add(b"\xff\x00" + b"".join(shut.frames(shut.ANSWER, data)))
    got = []
    while (one := frames.take()) is not None:
        got.append(one)
    assert b"".join(piece for _, _, piece in got) == data and [last for _, last, _ in got].index(True) == len(got) - 1


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_whatever_the_line_says_is_a_status_or_a_link_error_in_bounded_time(said: list[bytes]) -> None:
    line = ShutScript(HidUnit.of(UNIT), PACE_S)
    line.there.silent = True
    made = connected(line)
    for data in said:
        line.out += data
        before_s = line.now_s
        with pytest.raises(LinkError):
            made.poll()
        assert line.now_s - before_s <= 5.0
    line.close()


# --- the unit ----------------------------------------------------------------------------------------------------


def test_it_reads_the_same_as_over_usb(line: ShutScript) -> None:
    made = ready(line)
    usb = HidUnit.of(UNIT)
    there = usbhid.connect({}, usb, lambda: usb.now_s)
    for _ in range(10):
        ours, theirs = made.poll(), there.poll()
        line.now_s += 2.0
        usb.now_s += 2.0
    assert (ours.battery, ours.inputs, ours.outputs, ours.flags, ours.ident, ours.source) == (
        theirs.battery, theirs.inputs, theirs.outputs, theirs.flags, theirs.ident, theirs.source
    )  # fmt: skip
    assert ours.source is Source.MAINS and made.commands == there.commands


def test_a_long_description_takes_several_polls_and_none_is_too_long(line: ShutScript) -> None:
    made, polls = connected(line), 0
    while not made.commands:
        before_s = line.now_s
        polls += 1
        try:
            made.poll()
        except LinkError as e:
            assert "bytes so far" in str(e)
        assert line.now_s - before_s <= 5.0
    assert 2 <= polls <= 3
    asked = [r for r in line.there.requests if r[:4] == bytes.fromhex("81060022")]
    assert len(asked) == 1, "it went on, it did not begin again"


def test_a_description_that_comes_slowly_is_no_reason_to_begin_again(line: ShutScript) -> None:
    read, made = line.read, connected(line)

    def slow(limit: int, within_s: float) -> bytes:
        data = read(limit, within_s)
        line.now_s += 0.06 if data else 0.0  # of a USB adapter, and of the unit before it answers
        return data

    line.read = slow  # type: ignore[method-assign]
    learning = []
    while not made.commands:
        with pytest.raises(LinkError, match="bytes so far"):
            made.poll()
        learning.append(made.learning)
        if len(learning) == 3:
            break
    assert learning == [True] * 3
    made.poll()
    assert not made.learning and made.commands
    line.there.silent = True
    fresh = connected(line)
    with pytest.raises(LinkError):
        fresh.poll()
    assert not fresh.learning


def test_a_mains_failure_is_told_unasked(line: ShutScript) -> None:
    made = ready(line)
    assert line.there.syncs == [0x16]
    line.there.mains(False)
    assert made.poll().source is Source.BATTERY
    line.there.mains(True)
    assert made.poll().source is Source.MAINS


def test_a_report_that_ends_while_something_is_asked_is_no_answer_to_the_next_poll(line: ShutScript) -> None:
    made, read = ready(line), line.read
    line.there.mains(False)
    line.read = lambda limit, within_s: read(min(limit, 3), within_s)  # type: ignore[method-assign]  # as it comes in
    assert made.poll().source is Source.BATTERY and not line.there.told
    line.now_s += 10.0
    began_s = line.now_s
    assert made.poll().taken_s >= began_s


def test_news_that_come_at_the_end_of_a_poll_are_in_its_status(line: ShutScript) -> None:
    made = ready(line)
    for _ in range(6):
        line.now_s += 10.0
        made.poll()
    before = len(line.there.requests)
    made.poll()  # so soon, nothing is measured
    last, hear = 2 * len(line.there.requests) - before, line.there.hear

    def late(data: bytes) -> bytes:
        said = hear(data)
        if len(line.there.requests) == last and not line.there.told:
            line.there.mains(False)
        return said

    line.there.hear = late  # type: ignore[method-assign]
    began_s = line.now_s
    status = made.poll()
    assert len(line.there.requests) == last
    assert status.source is Source.BATTERY and began_s <= status.taken_s <= line.now_s


def test_news_that_come_while_a_name_is_asked_for_are_in_the_status_of_that_poll(line: ShutScript) -> None:
    made, hear = ready(line), line.there.hear
    line.there.mains(False)
    told, ours = [checked(0x85, report) for report in line.there.told], []
    line.there.told.clear()

    def crossing(data: bytes) -> bytes:
        if data[2:6] == bytes.fromhex("80060603") and not ours:  # the string of iVersion
            ours.append(len(told))
            return b"".join(told) + hear(data)
        if data == bytes([shut.ACK]) and ours and ours[0]:  # of what was told
            ours[0] -= 1
            return b""
        return hear(data)

    line.there.unit.mains(True)
    line.there.hear = crossing  # type: ignore[method-assign]
    while not ours:
        line.now_s += 10.0
        status = made.poll()
    assert status.source is Source.BATTERY


def test_the_begin_of_a_report_that_was_broken_off_is_no_part_of_the_next(line: ShutScript) -> None:
    made = ready(line)
    (report,) = line.there.unit.mains(False)
    failed = line.there.unit.reports["input", report]
    line.there.unit.mains(True)
    line.out += checked(0x05, failed)  # and its end never comes
    made.poll()
    line.there.silent = True
    for _ in range(2):
        line.now_s += 10.0
        with pytest.raises(LinkError):
            made.poll()
    line.there.silent = False
    made.poll()
    line.there.mains(True)
    assert made.poll().source is Source.MAINS and not line.there.told


def test_a_damaged_frame_is_asked_for_again(line: ShutScript) -> None:
    made = ready(line)
    line.there.damage = 1
    assert made.poll().source is Source.MAINS


def test_a_unit_that_damages_everything_is_a_link_error_and_then_back(line: ShutScript) -> None:
    made = ready(line)
    line.there.damage = 100
    with pytest.raises(LinkError):
        made.poll()
    line.there.damage = 0
    assert made.poll().source is Source.MAINS and line.there.syncs[-1] == 0x16


def test_silence_is_a_link_error_and_a_unit_that_comes_back_is_synced_anew(line: ShutScript) -> None:
    made = ready(line)
    line.there.silent = True
    before_s = line.now_s
    with pytest.raises(LinkError):
        made.poll()
    assert line.now_s - before_s <= 5.0
    line.there.silent = False
    assert made.poll().source is Source.MAINS


def test_a_unit_that_knows_no_notifications_is_polled(line: ShutScript) -> None:
    hear = line.there.hear
    line.there.hear = lambda data: b"" if data == b"\x16" else hear(data)  # type: ignore[method-assign]
    assert ready(line).poll().source is Source.MAINS and line.there.syncs == [0x18]


def test_a_report_that_is_refused_costs_no_reconnect(line: ShutScript) -> None:
    gone = [key for key in line.there.unit.reports if key[0] == "feature"][-3:]
    for key in gone:
        del line.there.unit.reports[key]
    made = ready(line)
    assert made.poll().source is Source.MAINS and len(line.there.syncs) == 1


def test_an_answer_that_is_cut_is_no_report_unless_the_unit_always_says_so_little() -> None:
    line = ShutScript(HidUnit.of(UNIT), PACE_S)
    link = shut.ShutLink(line, lambda: line.now_s)
    link.learn(60.0)
    whole = link.get("feature", 1, 7)
    assert whole is not None and len(whole.data) == 7
    line.there.unit.reports["feature", 1] = whole.data[:3]
    with pytest.raises(LinkError, match="3 bytes, not 7"):
        link.get("feature", 1, 7)
    again = link.get("feature", 1, 7)
    assert again is not None and again.data == whole.data[:3]


def test_a_poll_on_a_line_that_loses_answers_ends_in_time(line: ShutScript) -> None:
    made = ready(line)
    line.now_s += 10.0
    asked = len(line.there.requests)
    real = line.there.hear
    line.there.hear = lambda data: b"" if len(line.there.requests) > asked + 1 else real(data)  # type: ignore[method-assign]
    before_s = line.now_s
    assert made.poll().source is Source.MAINS
    assert line.now_s - before_s <= 5.0


def test_orders_go_over_the_line_and_are_read_back(line: ShutScript) -> None:
    made = ready(line)
    made.order(Command.SHUTDOWN_STAY_OFF, delay_s=60.0)
    writes = [r for r in line.there.requests if r[:2] == b"\x21\x09"]
    assert writes and all(len(r) == 8 + r[6] for r in writes), "the set-up packet, and as many bytes as it says"
    made.order(Command.TEST_QUICK)
    with pytest.raises(OrderError):
        connected(line).order(Command.TEST_QUICK)


def test_an_echo_is_no_unit() -> None:
    class Echo(ShutScript):
        def send(self, command: bytes) -> None:
            self.sent.append(command)
            self.out += command

    echo = Echo(HidUnit.of(UNIT))
    assert driver.probe(echo) == 0.0
    echo.close()


def test_a_descriptor_of_senseless_length_is_refused(line: ShutScript) -> None:
    line.there.unit.descriptor = bytes(5000)
    with pytest.raises(LinkError, match="a report descriptor of 5000 bytes"):
        connected(line).poll()
