"""The two lines of a secure RCCMD conversation: what the adapter asks, and what the server answers. Pure.

RT1 SHUTDOWN 0123456789abcdef LF                     verb, the outage's id (or 64 fresh bits), argument
RT1 accepted version=0.1.0 selftest=ok LF            word, facts
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

VERBS = {"SHUTDOWN": False, "MSG_TEXT": True, "EXECUTE": True, "WAKEUP": False, "NOOP": False}
REQUEST_LIMIT_BYTES, REPLY_LIMIT_BYTES = 2048, 512
WORDS = ("accepted", "duplicate", "refused", "busy", "going-down")
_ID = re.compile(r"[0-9a-f]{16}")
_REPLY = re.compile(r"RT1 ([a-z-]+)((?: [a-z_]+=[A-Za-z0-9._:+-]*)*)")


class Reply(NamedTuple):
    """`word` is one of WORDS."""

    word: str
    facts: Mapping[str, str]


def encode_request(verb: str, ident: str, argument: str = "") -> bytes:
    """The request line. ValueError for what no server would understand."""
    if VERBS.get(verb) != bool(argument) or not _ID.fullmatch(ident) or not argument.isprintable():
        raise ValueError(f"not a request: {verb!r} {ident!r} {argument[:40]!r}")
    line = f"RT1 {verb} {ident}{' ' + argument if argument else ''}\n".encode()
    if len(line) > REQUEST_LIMIT_BYTES:
        raise ValueError(f"{len(line)} bytes; at most {REQUEST_LIMIT_BYTES}")
    return line


def decode_reply(line: bytes) -> Reply:
    """The reply in a line without its end. ValueError with the bytes if it is none."""
    found = _REPLY.fullmatch(line.decode("ascii", "replace"))
    if found is None or found[1] not in WORDS:
        raise ValueError(f"not an answer: {line[:60]!r}")
    pairs = found[2].split()
    facts = dict(pair.split("=", 1) for pair in pairs)
    if len(facts) != len(pairs):
        raise ValueError(f"a fact twice: {line[:60]!r}")
    return Reply(found[1], facts)
