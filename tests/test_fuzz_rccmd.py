"""The RCCMD reader against any bytes in any pieces, and any command there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.rccmd.codec import (
    LIMIT_BYTES,
    TAKES_ARGUMENT,
    TERMINATORS,
    Command,
    Feed,
    Refused,
    encode,
    parse,
    printable,
)

WORDS = [b"CONNECT TO RCCMD (SEND)", b"MSG_EXECUTE", b" ", b"\n", b"\r", b"\0", *(v.encode() for v in TAKES_ARGUMENT)]
near_misses = st.lists(st.sampled_from(WORDS) | st.binary(max_size=4), max_size=12).map(b"".join)
likely = st.builds(
    lambda gap, verb, rest: b"CONNECT TO RCCMD (SEND)" + gap + b"MSG_EXECUTE " + verb + rest,
    st.sampled_from([b" ", b"\n", b"\r\n", b" \r\n", b"\n\n\n"]),
    st.sampled_from([v.encode() for v in TAKES_ARGUMENT]) | st.binary(max_size=9),
    near_misses,
)
bytes_of_all_kinds = st.binary(max_size=200) | near_misses | likely
texts = st.text(min_size=1, max_size=200).map(printable).filter(lambda t: t.strip(" ") != "")
commands = st.one_of(
    st.sampled_from([Command("SHUTDOWN"), Command("WAKEUP")]),
    st.builds(Command, st.sampled_from(["MSG_TEXT", "EXECUTE"]), texts),
)


def fed(pieces: list[bytes]) -> Command | None:
    feed = Feed()
    try:
        for piece in pieces:
            if (command := feed.feed(piece, 0.0)) is not None:
                return command
        return feed.end()
    except Refused:
        return None


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in zip(at, at[1:])]


@given(bytes_of_all_kinds, st.lists(st.integers(0, 10_000), max_size=8))
def test_any_bytes_mean_the_same_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    whole = parse(data)
    assert fed([data]) == whole
    assert fed(split(data, cuts)) == whole
    assert fed([data[i : i + 1] for i in range(len(data))]) == whole


@given(bytes_of_all_kinds)
def test_only_a_verb_at_its_place_is_a_command(data: bytes) -> None:
    command = parse(data)
    if command is not None:
        assert data.startswith(b"CONNECT TO RCCMD (SEND)")
        first = data.split(b"MSG_EXECUTE ", 1)[1]
        assert first.startswith(command.verb.encode())
        assert TAKES_ARGUMENT[command.verb] == bool(command.argument)


@given(commands, st.sampled_from(list(TERMINATORS)), st.binary(max_size=50))
def test_any_command_comes_back(command: Command, terminator: str, tail: bytes) -> None:
    data = encode(*command, terminator=terminator)
    assert parse(data) == command
    assert fed([data]) == command
    if terminator != "none":
        assert fed([data + tail]) == command


@given(st.binary(max_size=40), st.integers(0, 3 * LIMIT_BYTES))
def test_the_reader_holds_no_more_than_a_message(start: bytes, length: int) -> None:
    data = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE MSG_TEXT x" + start.translate(None, b"\r\n\0") + b"y" * length
    feed = Feed()
    try:
        for i in range(0, len(data), 700):
            assert feed.feed(data[i : i + 700], 0.0) is None
        assert len(data) <= LIMIT_BYTES
    except Refused:
        assert len(data) > LIMIT_BYTES
