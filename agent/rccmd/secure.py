"""The secure RCCMD line: one request and one reply, as they travel inside TLS; turns them into bytes and back; pure.

    sender                                   listener
      | RT1 SHUTDOWN 00c0ffee00c0ffee LF ------>|
      |<------- RT1 accepted need=1 votes=1 LF -|   then the sender closes

    request = "RT1 " VERB " " ID [" " ARGUMENT] LF       at most 2048 bytes, UTF-8, no byte below 0x20 and no 0x7f
    VERB    = SHUTDOWN | WAKEUP | NOOP                   without an argument
            | MSG_TEXT | EXECUTE                         with one: the text, the name
    ID      = 16 of 0-9 a-f: SHUTDOWN and WAKEUP carry the number of the outage, the others 64 fresh random bits
    reply   = "RT1 " WORD *(" " KEY "=" VALUE) LF        at most 512 bytes, ASCII
    WORD    = accepted | duplicate | refused | busy | going-down
    KEY     = 1 to 32 of a-z _, each once                VALUE = any number of A-Z a-z 0-9 . _ : + -

What follows the LF is not looked at. Our own format (docs/rccmd.md, "Secure mode"); there is no other source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from .codec import EXECUTE, MSG_TEXT, SHUTDOWN, WAKEUP

REQUEST_LIMIT_BYTES = 2048  # the LF included
REPLY_LIMIT_BYTES = 512
FIRST_BYTE = 0x16  # of a TLS handshake record (RFC 8446, 5.1); no classic message begins with it

NOOP = "NOOP"
TAKES_ARGUMENT = {SHUTDOWN: False, WAKEUP: False, NOOP: False, MSG_TEXT: True, EXECUTE: True}

ACCEPTED, DUPLICATE, REFUSED, BUSY, GOING_DOWN = "accepted", "duplicate", "refused", "busy", "going-down"
WORDS = (ACCEPTED, DUPLICATE, REFUSED, BUSY, GOING_DOWN)

UNKNOWN_VERB, BAD_LINE = "unknown-verb", "bad-line"  # why= of a refused line that is not understood
NOTHING_CONFIGURED, DID_NOT_START = "nothing-configured", "did-not-start"  # why= of a command that cannot be run

_REQUEST = re.compile(rb"RT1 ([A-Z_]{1,32}) ([0-9a-f]{16})(?: ([^\x00-\x1f\x7f]+))?\n")
_REPLY = re.compile(rb"RT1 ([a-z-]{1,32})((?: [a-z_]{1,32}=[A-Za-z0-9._:+-]*)*)\n")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class Malformed(Exception):
    """These bytes are not a line of ours; the text shows them, `why` is what a listener answers."""

    def __init__(self, data: bytes, why: str = BAD_LINE) -> None:
        more = f" and {len(data) - 80} more bytes" if len(data) > 80 else ""
        super().__init__(f"{why}: {data[:80]!r}{more}")
        self.why = why


class NotSecure(Exception):
    """This connection is not TLS with a sender that we know; the text says why."""


class Request(NamedTuple):
    """What a sender asks: one of TAKES_ARGUMENT, 16 hex digits, and "" where the verb takes no argument."""

    verb: str
    id: str
    argument: str = ""


class Reply(NamedTuple):
    """What a listener answers: one of WORDS, and facts such as {"why": "nothing-configured"}."""

    word: str
    facts: Mapping[str, str]


class Line:
    """Gathers the one line of a connection from pieces of any size; `limit_bytes` includes its LF."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._data = limit_bytes, b""

    def feed(self, data: bytes) -> bytes | None:
        """The whole line with its LF; None: need more. Raises Malformed once it is longer than the limit."""
        self._data = (self._data + data)[: self._limit_bytes + 1]
        line, end, _ = self._data.partition(b"\n")
        if end and len(line) < self._limit_bytes:
            return line + end
        if len(self._data) > self._limit_bytes:
            raise Malformed(self._data)
        return None


def parse_request(line: bytes) -> Request:
    """The request in one whole line, its LF included. Raises Malformed."""
    found = _REQUEST.fullmatch(line)
    if found is None or len(line) > REQUEST_LIMIT_BYTES:
        raise Malformed(line)
    verb, number, argument = found[1].decode("ascii"), found[2].decode("ascii"), found[3] or b""
    takes = TAKES_ARGUMENT.get(verb)
    if takes is None:
        raise Malformed(line, UNKNOWN_VERB)
    try:
        text = argument.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(line) from None
    if takes != bool(text.strip(" ")) or (argument and not takes):
        raise Malformed(line)
    return Request(verb, number, text)


def encode_request(request: Request) -> bytes:
    """The line of one request. Raises ValueError for what `parse_request` would not give back."""
    if _CONTROLS.search(request.argument):
        raise ValueError(f"control characters in {request.argument!r}")
    tail = f" {request.argument}" if request.argument else ""
    line = f"RT1 {request.verb} {request.id}{tail}\n".encode()
    try:
        if parse_request(line) == request:
            return line
    except Malformed as e:
        raise ValueError(str(e)) from e
    raise ValueError(f"not a request: {request!r}")


def parse_reply(line: bytes) -> Reply:
    """The reply in one whole line, its LF included. Raises Malformed, also for words that are not in WORDS."""
    found = _REPLY.fullmatch(line)
    if found is None or len(line) > REPLY_LIMIT_BYTES:
        raise Malformed(line)
    word, pairs = found[1].decode("ascii"), [p.partition("=") for p in found[2].decode("ascii").split()]
    facts = {key: value for key, _, value in pairs}
    if word not in WORDS or len(facts) != len(pairs):
        raise Malformed(line)
    return Reply(word, facts)


def encode_reply(reply: Reply) -> bytes:
    """The line of one reply. Raises ValueError for what `parse_reply` would not give back."""
    line = " ".join(["RT1", reply.word, *(f"{key}={value}" for key, value in reply.facts.items())]) + "\n"
    try:
        data = line.encode("ascii")
        if parse_reply(data) == (reply.word, dict(reply.facts)):
            return data
    except (Malformed, UnicodeEncodeError) as e:
        raise ValueError(str(e)) from e
    raise ValueError(f"not a reply: {reply!r}")
