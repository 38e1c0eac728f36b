"""The RCCMD message: turns a command into the bytes on the wire and bytes into a command; pure.

The one message form that is public (jmbenlloch/rccmd on GitHub records it from a CS141, UDP port 6003):

    CONNECT TO RCCMD (SEND) MSG_EXECUTE MSG_TEXT Powerfail on SLC-20-CUBE3 (5): restored.
    |---- hello ----------| |- key ---| |verb--| |-- argument ---------------------------|

    SHUTDOWN            run the configured shutdown command (string inferred, not seen)
    WAKEUP              the danger is over (inferred)
    MSG_TEXT <text>     show a text (seen)
    EXECUTE <name>      run a named command (documented: CS121 manual, `rccmd -se "EXECUTE ..."`)

Upper-case ASCII keywords, single blanks. The hello may stand in a line of its own. LF, CR, NUL or the end of the
stream end the message; what follows is not looked at. The text is UTF-8, else Latin-1. The verb is what stands
behind MSG_EXECUTE and nothing else: a MSG_TEXT that mentions SHUTDOWN is a text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LIMIT_BYTES = 2048  # the longest message, its end included
IDLE_S = 2.0  # a sender that ends its message by nothing at all is understood after so long
PORT = 6003

HELLO = b"CONNECT TO RCCMD (SEND)"
KEY = b"MSG_EXECUTE "
TEMPLATE = "CONNECT TO RCCMD (SEND) MSG_EXECUTE {command}"
TERMINATORS = {"none": b"", "lf": b"\n", "crlf": b"\r\n", "nul": b"\0"}

SHUTDOWN, WAKEUP, MSG_TEXT, EXECUTE = "SHUTDOWN", "WAKEUP", "MSG_TEXT", "EXECUTE"
TAKES_ARGUMENT = {SHUTDOWN: False, WAKEUP: False, MSG_TEXT: True, EXECUTE: True}

_GAP = re.compile(rb" ?[\r\n\0]{1,2}| ")  # between hello and key
_END = re.compile(rb"[\r\n\0]")


class Refused(Exception):
    """These bytes are not, and cannot become, an RCCMD command; the text shows them."""


class Command(NamedTuple):
    """One command. `verb` is one of TAKES_ARGUMENT; `argument` is "" where the verb takes none."""

    verb: str
    argument: str = ""


def parse(data: bytes) -> Command | None:
    """The command in one whole message (a datagram, or all that a connection said); None: it is none."""
    if len(data) > LIMIT_BYTES:
        return None
    try:
        return _scan(data, ended=True)
    except Refused:
        return None


class Feed:
    """Reads the one command of a TCP connection from pieces of any size. Seconds are monotonic."""

    def __init__(self) -> None:
        self._data = b""
        self._heard_s = 0.0

    @property
    def empty(self) -> bool:
        """Nothing was said so far."""
        return not self._data

    def feed(self, data: bytes, now_s: float) -> Command | None:
        """The command, once it is complete; None: need more. Raises Refused as soon as it cannot become one."""
        self._data = (self._data + data)[: LIMIT_BYTES + 1]
        self._heard_s = now_s
        command = _scan(self._data[:LIMIT_BYTES], ended=False)
        if command is None and len(self._data) > LIMIT_BYTES:
            raise Refused(f"more than {LIMIT_BYTES} bytes: {_show(self._data)}")
        return command

    def end(self) -> Command:
        """The command that the sender's end of stream completes. Raises Refused."""
        command = _scan(self._data, ended=True)
        if command is None:
            raise Refused(f"ended early: {_show(self._data)}")
        return command

    def idle(self, now_s: float) -> Command | None:
        """The command, if it is complete but for its end and nothing came for IDLE_S; None: need more."""
        if now_s - self._heard_s < IDLE_S:
            return None
        try:
            return _scan(self._data, ended=True)
        except Refused:
            return None

    @property
    def idle_at_s(self) -> float:
        """When `idle` is worth asking."""
        return self._heard_s + IDLE_S


def encode(verb: str, argument: str = "", *, template: str = TEMPLATE, terminator: str = "lf") -> bytes:
    """The message for one command: on TCP as it is; on UDP use terminator "none".

    `{command}` in the template stands for the verb and, behind a blank, its argument; `terminator` is one of
    TERMINATORS. Verbs that we do not know are sent as given. Raises ValueError for what no receiver would
    understand: control characters, a missing or surplus argument, more than LIMIT_BYTES.
    """
    if terminator not in TERMINATORS:
        raise ValueError(f"terminator {terminator!r}: one of {', '.join(TERMINATORS)}")
    if not verb or " " in verb:
        raise ValueError(f"not a verb: {verb!r}")
    takes = TAKES_ARGUMENT.get(verb)
    if takes is not None and takes != bool(argument.strip(" ")):
        raise ValueError(f"{verb} needs {'an' if takes else 'no'} argument: {argument!r}")
    text = template.replace("{command}", f"{verb} {argument}" if argument else verb)
    if printable(text) != text:
        raise ValueError(f"control characters in {text!r}")
    data = text.encode() + TERMINATORS[terminator]
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"{len(data)} bytes; at most {LIMIT_BYTES}")
    return data


def printable(text: str) -> str:
    """The text without control, format and line-separating characters: fit for a log line or a terminal."""
    if text.isascii():
        return "".join(c for c in text if " " <= c <= "~")
    import unicodedata  # its tables are large, and most texts do without

    return "".join(c for c in text if not unicodedata.category(c).startswith(("C", "Zl", "Zp")))


def _scan(data: bytes, *, ended: bool) -> Command | None:
    """The command at the start of `data`; None: it may still become one. Raises Refused."""
    rest = _after(data, HELLO, data)
    if rest:
        gap = _GAP.match(rest)
        if gap is None:
            raise Refused(_show(data))
        rest = _after(rest[gap.end() :], KEY, data)
    if rest is None or not rest:
        if ended:
            raise Refused(f"ended early: {_show(data)}")
        return None
    end = _END.search(rest)
    if end is None and not ended:
        _can_become(rest, data)
        return None
    verb, _, argument = (rest[: end.start()] if end else rest).partition(b" ")
    takes = TAKES_ARGUMENT.get(verb.decode("latin-1"))
    if takes is None or takes != bool(argument.strip(b" ")):
        raise Refused(_show(data))
    return Command(verb.decode("ascii"), _text(argument) if takes else "")


def _after(data: bytes, word: bytes, whole: bytes) -> bytes | None:
    """What follows `word` at the start of data; None: the word is not complete. Raises Refused."""
    if not data.startswith(word[: len(data)]):
        raise Refused(_show(whole))
    return data[len(word) :] if len(data) >= len(word) else None


def _can_become(line: bytes, whole: bytes) -> None:
    """Raises Refused if a line that is not complete cannot become a command any more."""
    verb, blank, argument = line.partition(b" ")
    if blank:
        takes = TAKES_ARGUMENT.get(verb.decode("latin-1"))
        possible = takes is True or (takes is False and not argument.strip(b" "))
    else:
        possible = any(v.encode().startswith(verb) for v in TAKES_ARGUMENT)
    if not possible:
        raise Refused(_show(whole))


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _show(data: bytes) -> str:
    return repr(data[:80]) + (f" and {len(data) - 80} more bytes" if len(data) > 80 else "")
