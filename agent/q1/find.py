"""Finds out which dialect of the Q1 family a unit speaks, by questions alone."""

from __future__ import annotations

import logging

from ..model import Link, LinkError
from .dialects import MEGATEC, Dialect, Query

log = logging.getLogger(__name__)

WITHIN_S = 0.9  # for each question; there are five at most
QUERIES = (b"Q1\r",)  # all that may be sent


def is_refusal(command: bytes, answer: bytes) -> bool:
    """Whether `answer` means that the unit does not know `command`: an echo, NAK, (NAK or N (Voltronic QS)."""
    return answer.strip(b"\0 ") in (command.strip(b"\r"), b"NAK", b"(NAK", b"N")


def find(link: Link) -> Dialect:
    """The dialect of the unit at the end of `link`. LinkError if none is understood."""
    if answers(link, MEGATEC.poll[0]):
        return MEGATEC
    raise LinkError("nothing there speaks a known dialect of the Q1 family")


def answers(link: Link, query: Query) -> bool:
    """Whether `query` gets an answer of the right form."""
    try:
        query.parse(link.ask(query.ask, within_s=WITHIN_S).data)
    except LinkError as e:
        log.debug("looking: %s", e)
        return False
    return True
