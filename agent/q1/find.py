"""Finds out which dialect of the Q1 family a unit speaks, by questions alone."""

from __future__ import annotations

import logging

from ..model import Link, LinkError
from . import megatec, threephase, voltronic
from .table import Dialect, Query

log = logging.getLogger(__name__)

WITHIN_S = 0.9  # for each question; there are five at most that get no answer
AGAIN_WITHIN_S = 0.6  # for three of them that are asked once more
QUERIES = (b"Q1\r", b"QPI\r", b"QGS\r", b"G2\r", b"Q6\r", b"M\r", b"QS\r", b"D\r")  # all that may be sent

_BY_LETTER = {
    b"P": voltronic.QS_HEX_P,
    b"T": voltronic.QS_HEX_T,
    b"V": voltronic.VOLTRONIC_QS,
    b"H": voltronic.VOLTRONIC_QS,
}


def is_refusal(command: bytes, answer: bytes) -> bool:
    """Whether `answer` means that the unit does not know `command`: an echo, NAK, (NAK or N (Voltronic QS)."""
    return answer.strip(b"\0 ") in (command.strip(b"\r"), b"NAK", b"(NAK", b"N")


def find(link: Link) -> Dialect:
    """The dialect of the unit at the end of `link`, in less than 5 s. LinkError if none is understood.

    A unit that answers Q1 may say more in another dialect: QPI and then G2 and Q6 tell. Else M tells the QS dialects
    of Voltronic from Mustek's, which knows QS alone. What was not answered, and tells two of them apart, is asked
    again: one lost answer must not make another dialect.
    """
    status = megatec.MEGATEC.poll[0]
    to_q1 = _said(link, status.ask)
    speaks_q1 = _parses(status, to_q1)
    said = _said(link, b"QPI\r")
    found = _by_protocol(link, said, speaks_q1)
    if found is None and speaks_q1:
        found = _first(link, threephase.MEGATEC_G, threephase.Q6_DIALECT) or _more(link) or megatec.MEGATEC
    if found is None:
        found = _by_letter(link)
    if found is None and _first(link, megatec.MEGATEC_OLD):
        if not is_refusal(status.ask, to_q1) and answers(link, status, AGAIN_WITHIN_S):
            raise LinkError("Q1 was not answered at first, and is now: it will be looked again")
        found = megatec.MEGATEC_OLD
    if found is None:
        raise LinkError("nothing there speaks a known dialect of the Q1 family")
    log.info("the UPS speaks %s", found.name)
    return found


def _by_protocol(link: Link, said: bytes, speaks_q1: bool) -> Dialect | None:
    """By the answer to QPI. One that refuses it with (NAK acknowledges orders with (ACK (NUT, nutdrv_qx_mecer.c)."""
    if speaks_q1 and said in (b"(NAK", b"(PI98"):
        return megatec.MECER
    try:
        number = voltronic.protocol(said)["protocol"]
    except LinkError:
        return None
    known = number in voltronic.PROTOCOLS and answers(link, voltronic.VOLTRONIC.poll[0])
    return voltronic.VOLTRONIC if known else None


def _by_letter(link: Link) -> Dialect | None:
    """By the answer to M; of a unit that knows QS and did not say that it does not know M, by a second one."""
    said = _said(link, b"M\r")
    found = _BY_LETTER.get(said.strip(b"\0 ")) or _first(link, megatec.MUSTEK)
    if found is megatec.MUSTEK and not is_refusal(b"M\r", said):
        found = _BY_LETTER.get(_said(link, b"M\r", AGAIN_WITHIN_S).strip(b"\0 "), megatec.MUSTEK)
    return found


def _more(link: Link) -> Dialect | None:
    """A second look at a unit that answers Q1 and seems to know no more: one lost answer must not hide two phases."""
    found = _by_protocol(link, _said(link, b"QPI\r", AGAIN_WITHIN_S), True)
    return found or _first(link, threephase.MEGATEC_G, threephase.Q6_DIALECT, within_s=AGAIN_WITHIN_S)


def _first(link: Link, *dialects: Dialect, within_s: float = WITHIN_S) -> Dialect | None:
    """The first of them whose own question is answered: the second that it polls, if the first is Q1."""
    for dialect in dialects:
        own = next((query for query in dialect.poll if query.ask != b"Q1\r"), dialect.poll[0])
        if answers(link, own, within_s):
            return dialect
    return None


def _said(link: Link, command: bytes, within_s: float = WITHIN_S) -> bytes:
    """What the unit answers to a question of which any answer is good; b"": nothing."""
    try:
        return link.ask(command, within_s=within_s).data
    except LinkError as e:
        log.debug("looking: %s", e)
        return b""


def answers(link: Link, query: Query, within_s: float = WITHIN_S) -> bool:
    """Whether `query` gets an answer of the right form."""
    return _parses(query, _said(link, query.ask, within_s))


def _parses(query: Query, answer: bytes) -> bool:
    try:
        query.parse(answer)
    except LinkError as e:
        log.debug("looking: %s", e)
        return False
    return True
