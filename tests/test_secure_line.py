"""The secure RCCMD line: every vector, any bytes in any pieces, and any request and reply there and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import rccmd
from agent.rccmd.codec import Feed, Refused, parse
from agent.rccmd.secure import (
    REPLY_LIMIT_BYTES,
    REQUEST_LIMIT_BYTES,
    TAKES_ARGUMENT,
    WORDS,
    Line,
    Malformed,
    Reply,
    Request,
    encode_reply,
    encode_request,
    parse_reply,
    parse_request,
)

CASES = json.loads((Path(__file__).parent / "cases" / "rccmd" / "secure.json").read_text(encoding="utf-8"))
CONTROLS = "".join(map(chr, [*range(32), 127]))

near_misses = st.lists(
    st.sampled_from([b"RT1 ", b" ", b"\n", b"00c0ffee00c0ffee", b"why=x", *(v.encode() for v in TAKES_ARGUMENT)])
    | st.sampled_from([w.encode() for w in WORDS])
    | st.binary(max_size=4),
    max_size=9,
).map(b"".join)
ids = st.text("0123456789abcdef", min_size=16, max_size=16)
texts = st.text(st.characters(exclude_characters=CONTROLS, exclude_categories=["Cs"]), min_size=1, max_size=300)
requests = st.one_of(
    st.builds(Request, st.sampled_from([v for v, takes in TAKES_ARGUMENT.items() if not takes]), ids, st.just("")),
    st.builds(Request, st.sampled_from(["MSG_TEXT", "EXECUTE"]), ids, texts.filter(lambda t: t.strip(" ") != "")),
)
values = st.text("ABCXYZabcxyz0189._:+-", max_size=20)
replies = st.builds(
    Reply, st.sampled_from(WORDS), st.dictionaries(st.text("abcxyz_", min_size=1, max_size=9), values, max_size=6)
)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A good line, or one with a byte changed, lost or doubled."""
    line = bytearray(draw(requests.map(encode_request) | replies.map(encode_reply)))
    at = draw(st.integers(0, len(line) - 1))
    line[at : at + 1] = draw(st.sampled_from([line[at : at + 1], b"", 2 * line[at : at + 1]]) | st.binary(max_size=1))
    return bytes(line)


anything = st.binary(max_size=100) | near_misses | near_misses.map(lambda b: b"RT1 " + b) | bent()


@pytest.mark.parametrize("case", CASES["requests"], ids=lambda c: c["line"].strip())
def test_a_request_is_understood_and_written_the_same(case: dict) -> None:
    request = Request(case["verb"], case["id"], case["argument"])
    assert parse_request(case["line"].encode()) == request
    assert encode_request(request) == case["line"].encode()


@pytest.mark.parametrize("case", CASES["refused"], ids=str)
def test_what_is_no_request_is_refused_whole_with_its_bytes(case: dict) -> None:
    data = bytes.fromhex(case["hex"]) if "hex" in case else case["line"].encode()
    with pytest.raises(Malformed) as caught:
        parse_request(data)
    assert caught.value.why == case["why"]
    assert repr(data[:80]) in str(caught.value)


@pytest.mark.parametrize("case", CASES["replies"], ids=lambda c: c["line"].strip())
def test_a_reply_is_understood_and_written_the_same(case: dict) -> None:
    assert parse_reply(case["line"].encode()) == (case["word"], case["facts"])
    assert encode_reply(Reply(case["word"], case["facts"])) == case["line"].encode()


@pytest.mark.parametrize("line", CASES["not_replies"])
def test_what_is_no_reply_is_refused(line: str) -> None:
    with pytest.raises(Malformed):
        parse_reply(line.encode())


def test_the_longest_lines_are_understood_and_longer_ones_are_not() -> None:
    longest = b"RT1 MSG_TEXT 00c0ffee00c0ffee ".ljust(REQUEST_LIMIT_BYTES - 1, b"x") + b"\n"
    assert parse_request(longest).argument.strip("x") == ""
    assert Line(REQUEST_LIMIT_BYTES).feed(longest) == longest
    with pytest.raises(Malformed):
        parse_request(longest[:-1] + b"x\n")
    with pytest.raises(Malformed):
        Line(REQUEST_LIMIT_BYTES).feed(longest[:-1] + b"x\n")
    with pytest.raises(ValueError, match="bad-line"):
        encode_request(Request("MSG_TEXT", "00c0ffee00c0ffee", "x" * REQUEST_LIMIT_BYTES))
    with pytest.raises(ValueError, match="bad-line"):
        encode_reply(Reply("accepted", {"a": "x" * REPLY_LIMIT_BYTES}))


@pytest.mark.parametrize(
    "request_", [("SHUTDOWN", "x", ""), ("HALT", "0" * 16, ""), ("MSG_TEXT", "0" * 16, ""), ("NOOP", "0" * 16, "x")]
)
def test_nothing_is_sent_that_no_listener_would_understand(request_: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError):
        encode_request(Request(*request_))
    with pytest.raises(ValueError):
        encode_request(Request("MSG_TEXT", "0" * 16, "two\nlines"))
    with pytest.raises(ValueError):
        encode_reply(Reply("accepted", {"why": "with blanks in it"}))


@given(anything)
def test_any_bytes_are_a_request_or_refused_and_a_request_is_written_the_same(data: bytes) -> None:
    try:
        request = parse_request(data)
    except Malformed:
        return
    assert encode_request(request) == data


@given(anything)
def test_any_bytes_are_a_reply_or_refused_and_a_reply_is_written_the_same(data: bytes) -> None:
    try:
        reply = parse_reply(data)
    except Malformed:
        return
    assert encode_reply(reply) == data


@given(requests, st.binary(max_size=30), st.lists(st.integers(0, 10_000), max_size=6))
def test_any_request_comes_back_in_any_pieces(request: Request, tail: bytes, cuts: list[int]) -> None:
    data = encode_request(request)
    whole = data + tail
    at = sorted({c % (len(whole) + 1) for c in cuts} | {0, len(whole)})
    line, found = Line(REQUEST_LIMIT_BYTES), None
    for a, b in zip(at, at[1:]):
        if (found := line.feed(whole[a:b])) is not None:
            break
    assert found == data and parse_request(found) == request
    slow = Line(REQUEST_LIMIT_BYTES)
    assert [x for x in (slow.feed(data[i : i + 1]) for i in range(len(data))) if x is not None] == [data]


@given(replies)
def test_any_reply_comes_back(reply: Reply) -> None:
    assert parse_reply(encode_reply(reply)) == reply


@given(requests)
def test_a_secure_line_is_no_classic_command(request: Request) -> None:
    data = encode_request(request)
    assert parse(data) is None
    with pytest.raises(Refused):
        Feed().feed(data, 0.0)


@given(st.integers(0, 5000), st.integers(1, 700))
def test_a_line_that_never_ends_is_refused_and_not_kept(length: int, piece: int) -> None:
    line, data = Line(REPLY_LIMIT_BYTES), b"x" * length
    try:
        for i in range(0, length, piece):
            assert line.feed(data[i : i + piece]) is None
        assert length <= REPLY_LIMIT_BYTES
    except Malformed:
        assert length > REPLY_LIMIT_BYTES


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the adapter itself needs Python 3.11")
def test_the_version_is_that_of_the_adapter() -> None:
    from agent import model

    assert rccmd.VERSION == model.VERSION
