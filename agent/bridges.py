"""The USB bridges inside UPSes of the Q1 family, a row each: who they are, how a command goes in and an answer out.

A bridge is a small USB device with a serial line behind it. Most take a command in HID reports and give the answer in
interrupt packets (`Packets`); some answer when they are asked for a string descriptor of a number that stands for the
command (`Strings`); one has a feature report for both (`Reports`). Pure. Sources: NUT, drivers/nutdrv_qx.c and
docs/nutdrv_qx-subdrivers.txt; USB-IF, USB 2.0, 9.4.3 and HID 1.11, 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .hidraw import Identity
from .model import LinkError

SHOWN_BYTES = 80
NO_ACK = b"UPS NO ACK"  # what a string bridge says when it has no answer (yet), or needs none

Frame = Callable[[bytes], list[bytes]]  # command with its CR -> what is sent; []: this bridge cannot carry it


class Timers(NamedTuple):
    """What a bridge makes of the delays of a shutdown: off after `off_min_s` or more, back after the mains."""

    off_min_s: float
    back_s: float


class Packets(NamedTuple):
    """Commands in reports or packets, answers in interrupt packets, up to the CR."""

    frame: Frame
    setup: tuple[int, int, int] = (0x21, 0x09, 0x0200)  # bmRequestType, bRequest, wValue: SET_REPORT, output report 0
    out: int = 0  # send to this interrupt endpoint; 0: by `setup`
    into: int = 0x81  # the endpoint of the answers
    take_bytes: int = 8  # asked for at a time
    counted: int = 0  # the first byte of each packet tells, under this mask, how many follow; 0: there is none
    drain_ms: int = 50  # silence of so long means that nothing old is waiting: packets are 32 to 40 ms apart
    silence_ends: bool = False  # an answer may come without its CR
    unheard: frozenset[bytes] = frozenset()  # questions that it never answers: not asked
    timers: Timers | None = None  # None: those of the unit


class Strings(NamedTuple):
    """A string descriptor is asked for; the number is the command, the string the answer."""

    numbers: Mapping[bytes, int]  # commands without CR
    first: Mapping[bytes, bytes]  # questions -> how their answers begin; any other command has no answer
    replaced: bool = False  # the first byte that comes is not that, and is replaced
    timers: Timers | None = None  # S.. and S..R.. have numbers, see shutdown_number
    tries: int = 1  # while it says UPS No Ack
    limit_bytes: int = 255  # asked for; some hang when it is more than they have
    lockstep: bool = False  # wants to be asked for others in between, in an order of its own
    knock: bool = False  # an interrupt read wakes it


class Reports(NamedTuple):
    """Command and answer in one feature report: written, and read a while later; an answer that is not there yet is
    asked for anew, an order never."""

    frame: Frame  # a list of one
    value: int  # wValue of SET_REPORT and GET_REPORT: its kind and number
    questions: frozenset[bytes]  # commands without CR that have an answer
    size_bytes: int = 47
    wait_s: float = 0.5
    tries: int = 3
    timers: Timers | None = None


class Bridge(NamedTuple):
    """One row. `ids`: USB vendor and product; `maker`, `product`: what its strings must say, "" anything. `auto`:
    whether it is taken without being named."""

    name: str
    ids: tuple[tuple[int, int], ...]
    how: Packets | Strings | Reports
    evidence: str
    auto: bool = True
    maker: str = ""
    product: str = ""

    def fits(self, who: Identity) -> bool:
        """Whether it is this one, by its ids and strings."""
        same = (who.vendor, who.product) in self.ids
        texts = ((self.maker, who.maker), (self.product, who.name))
        return same and all(not wanted or wanted.lower() == said.lower() for wanted, said in texts)


# --- how a command is packed --------------------------------------------------------------------------------------


def padded(size: int) -> Frame:
    """Pieces of `size` bytes, the last filled up with NUL."""
    return lambda command: [command[at : at + size].ljust(size, b"\0") for at in range(0, len(command), size)]


def led(size: int, lead: int, *, fill: bool = True) -> Frame:
    """Pieces that begin with `lead` + the number of bytes that follow: n, n bytes, `size` bytes in all."""

    def frame(command: bytes) -> list[bytes]:
        pieces = [command[at : at + size - 1] for at in range(0, len(command), size - 1)]
        return [(bytes((lead + len(one),)) + one).ljust(size if fill else 0, b"\0") for one in pieces]

    return frame


def reported(number: int, size: int) -> Frame:
    """NUMBER 00 LENGTH COMMAND.. zeros; LENGTH with the CR."""

    def frame(command: bytes) -> list[bytes]:
        whole = bytes((number, 0, len(command))) + command
        return [whole.ljust(size, b"\0")] if len(whole) <= size else []

    return frame


_FUJI_ANSWERS = {b"Q1": 47, b"F": 22, b"I": 39}
_S_R = re.compile(rb"(S[.\d]\d)R(?!0000)\d{4}")


def fuji(command: bytes) -> list[bytes]:
    """80 06 LEN+1 03 COMMAND.. ANSWER: three bytes of command at most; a return after a delay is a return at once."""
    word = command.rstrip(b"\r")
    match = _S_R.fullmatch(word)
    word = match[1] if match else word
    if len(word) > 3:
        return []
    return [bytes((0x80, 0x06, len(word) + 1, 0x03)) + word.ljust(3, b"\0") + bytes((_FUJI_ANSWERS.get(word, 0),))]


# --- how an answer is unpacked ------------------------------------------------------------------------------------


def taken(how: Packets, packet: bytes) -> bytes:
    """The bytes of the serial line in a packet. A count that is more than came means all that came."""
    return packet[1 : 1 + (packet[0] & how.counted)] if how.counted and packet else packet


#     bLength bDescriptorType(3) two bytes a character, the lower first
def string_of(descriptor: bytes) -> bytes:
    """The text of a string descriptor (USB 2.0, 9.6.7), ? for a character that is not Latin-1. LinkError if it is
    none, or less came than it says."""
    length = descriptor[0] if descriptor else 0
    if length < 2 or length % 2 or length > len(descriptor) or descriptor[1] != 3:
        raise LinkError(f"not a string descriptor: {descriptor[:SHOWN_BYTES]!r}")
    return descriptor[2:length].decode("utf-16-le", "replace").encode("latin-1", "replace")


_SHUTDOWN = re.compile(rb"S(\.\d|\d\d)(?:R(\d{4}))?")


def shutdown_number(command: bytes) -> int | None:
    """The number for S.. or S..R..: 10, 20 .. 50 for off in 30, 36 .. 54 s, 60, 70 .. F0 for 1 .. 10 min, and 8 more
    for a return, which comes 10 s after the mains (the minutes cannot be said). Less than 30 s becomes 30 s."""
    match = _SHUTDOWN.fullmatch(command)
    if match is None:
        return None
    minutes = min(10.0, max(0.5, float(match[1])))
    number = 0x10 + round((minutes - 0.5) * 10) * 0x10 if minutes < 1 else 0x60 + (int(minutes) - 1) * 0x10
    return number + (8 if match[2] is None or int(match[2]) else 0)


def number_of(how: Strings, command: bytes) -> int | None:
    """The number of a command without CR; None: this bridge cannot carry it."""
    number = how.numbers.get(command)
    return shutdown_number(command) if number is None and how.timers else number


# --- the table ----------------------------------------------------------------------------------------------------

_QUESTIONS = {b"Q1": b"(", b"F": b"#", b"I": b"#"}
_NUMBERS = {b"Q1": 0x03, b"F": 0x0D, b"I": 0x0C}
_FABULA = Strings({**_NUMBERS, b"Q": 0x07, b"C": 0x0A}, _QUESTIONS, timers=Timers(30.0, 10.0))
_ARMAC_UNHEARD = frozenset((b"QGS", b"QS", b"QPI", b"M", b"D"))
_NONAME = (0x0001, 0x0000)  # many makers use it: the strings tell them apart

#: in this order: the first that fits is it
BRIDGES: tuple[Bridge, ...] = (
    Bridge(
        "phoenixtec",
        ((0x06DA, 0x0002),),
        Packets(lambda command: [command], setup=(0x42, 0x0D, 0), take_bytes=64),
        "NUT, one scene",
        auto=False,
        maker="Phoenixtec Power",
        product="USB Cable (V2.00)",
    ),
    Bridge(
        "cypress",
        (
            *((0x0665, 0x5161), (0x05B8, 0x0000), (0x0F03, 0x0001)),
            *((0x06DA, 0x0002), (0x06DA, 0x0004), (0x06DA, 0x0005), (0x06DA, 0x0201)),
        ),
        Packets(padded(8)),
        "capture, NUT",
    ),
    Bridge("fabula", (_NONAME,), _FABULA, "NUT", maker="MEC", product="MEC0003"),
    Bridge(
        "hunnox",
        (_NONAME,),
        _FABULA._replace(
            numbers={**_FABULA.numbers, b"BL": 0xF3},
            first={**_QUESTIONS, b"BL": b"B"},
            limit_bytes=102,
            lockstep=True,
            tries=3,
        ),
        "NUT",
        product="MEC0003",
    ),
    Bridge(
        "snr",
        (_NONAME,),
        Strings(_NUMBERS, _QUESTIONS, replaced=True, tries=10, limit_bytes=102, knock=True),
        "NUT, one scene",
        auto=False,
        product="MEC0003",
    ),
    Bridge(
        "fuji",
        (_NONAME,),
        Packets(fuji, out=0x02, timers=Timers(12.0, 0.0)),
        "NUT, one scene",
        auto=False,
        maker="ATCL FOR UPS",
        product="ATCL FOR UPS",
    ),
    Bridge(
        "krauler",
        (_NONAME, (0x1CB0, 0x0035)),
        Strings(
            {**_NUMBERS, b"T": 0x04, b"TL": 0x05, b"Q": 0x07, b"C": 0x0B, b"CT": 0x0B},
            _QUESTIONS,
            replaced=True,
            tries=10,
        ),
        "capture, NUT",
    ),
    Bridge(
        "phoenix",
        ((0x06DA, 0x0601), (0x14F0, 0x00C9)),
        Packets(padded(8), drain_ms=100),
        "NUT, one scene",
        auto=False,
    ),
    Bridge(
        "ippon",
        ((0x06DA, 0x0003),),
        Packets(padded(8), setup=(0x21, 0x09, 0x0002), take_bytes=64, silence_ends=True),
        "NUT, one scene",
        auto=False,
    ),
    Bridge(
        "omron",
        ((0x0590, 0x00B7),),
        Packets(padded(16), setup=(0x21, 0x09, 0x0002), take_bytes=64, silence_ends=True),
        "none",
        auto=False,
    ),
    Bridge(
        "ablerex",
        ((0xFFFF, 0x0000),),
        Reports(reported(5, 47), 0x0305, frozenset((*_QUESTIONS, b"Q5"))),
        "NUT, one scene",
        auto=False,
    ),
    Bridge("gtec", (), Packets(padded(8), setup=(0x21, 0x09, 0x0002), take_bytes=128), "none", auto=False),
    Bridge(
        "armac",
        ((0x0925, 0x1234),),
        Packets(led(4, 0xA0), take_bytes=8, counted=0x0F, drain_ms=100, unheard=_ARMAC_UNHEARD),
        "capture of answers; NUT, one scene",
        auto=False,
    ),
    Bridge(
        "armac-64",
        ((0x0925, 0x1234),),
        Packets(led(64, 0xA0, fill=False), out=0x02, into=0x82, take_bytes=64, counted=0x3F, unheard=_ARMAC_UNHEARD),
        "none",
        auto=False,
    ),
    Bridge(
        "sgs", ((0x0483, 0x0035),), Packets(led(8, 0), counted=0x07, silence_ends=True), "NUT, one scene", auto=False
    ),
)


def row(who: Identity, named: str = "auto") -> Bridge | None:
    """The bridge that a device is: the one `named`, else the first that fits; None: none of ours."""
    rows = (one for one in BRIDGES if (named == one.name if named != "auto" else one.fits(who)))
    return next(rows, None)


def untried(who: Identity) -> list[str]:
    """The rows that a device with these ids and strings may be as well, and that are never taken unnamed."""
    return [one.name for one in BRIDGES if not one.auto and one.fits(who)]
