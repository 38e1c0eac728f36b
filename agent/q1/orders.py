"""The orders of the Q1 family as bytes, and what a unit may be asked to do. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..model import Command, LinkError, OrderError

RETURN_DELAY_S = (0.0, 9999 * 60.0)
RETURN_MINUTES_MIN = 3  # early GE units that got R0001 or R0002 never came back (NUT, blazer)
TEST_MINUTES = (1, 99)
LOOKS = 3  # whether a countdown began, or ended
_TIMES = re.compile(rb"S(\.\d|\d\d)(?:R(\d{4}))?\r")


class Orders(NamedTuple):
    """What a dialect can be told. In `words`, %n is the off delay, %m the minutes until it may return, %t the minutes
    of a test, %o the number of an outlet, %x the slave's (two digits)."""

    words: Mapping[Command, bytes]
    toggle: bytes = b""  # the beeper can only be toggled, with this
    off_delay_s: tuple[float, float] = (12.0, 600.0)
    accepted: bytes = b""  # what an obedient unit answers; b"": nothing
    outlets: int = 0
    needs: Mapping[Command, str] = {}  # how a fact begins that a unit has told if it can do this

    @property
    def commands(self) -> frozenset[Command]:
        """All that this dialect has a word for."""
        beeper = {Command.BEEPER_ON, Command.BEEPER_OFF} if self.toggle else set()
        return frozenset(self.words) | beeper


_SHUTDOWN = {
    Command.SHUTDOWN_RETURN: b"S%nR%m",
    Command.SHUTDOWN_STAY_OFF: b"S%nR0000",
    Command.SHUTDOWN_STOP: b"C",
}
_LOAD = {Command.LOAD_OFF: b"S00R0000", Command.LOAD_ON: b"C"}
_TESTS = {
    Command.TEST_QUICK: b"T",
    Command.TEST_DEEP: b"TL",
    Command.TEST_MINUTES: b"T%t",
    Command.TEST_STOP: b"CT",
}
MEGATEC = Orders({**_SHUTDOWN, **_LOAD, **_TESTS}, toggle=b"Q")
NO_BEEPER = MEGATEC._replace(toggle=b"")  # it could be toggled, but nobody would know to what
MECER = MEGATEC._replace(accepted=b"(ACK")
QS = Orders({**_SHUTDOWN, **_LOAD, Command.TEST_QUICK: b"T"}, toggle=b"Q", off_delay_s=(12.0, 540.0))  # S.2 to S09
QS_NO_TEST = QS._replace(words={**_SHUTDOWN, **_LOAD})
NONE = Orders({})
RETURN_ONLY = Orders(  # what R0000 does to them is not known for sure
    {command: word for command, word in MEGATEC.words.items() if b"R0000" not in word}
)
MASTERGUARD = RETURN_ONLY._replace(
    words={
        **RETURN_ONLY.words,
        Command.BEEPER_ON: b"SS---1,%x",
        Command.BEEPER_OFF: b"SS---0,%x",
        Command.BYPASS_ON: b"FOFF",
        Command.BYPASS_OFF: b"FON",
    },
    needs=dict.fromkeys((Command.BEEPER_ON, Command.BEEPER_OFF), "slave"),
)
VOLTRONIC = Orders(
    {
        **_TESTS,
        **_SHUTDOWN,
        Command.SHUTDOWN_STOP: b"CS",
        Command.LOAD_OFF: b"SOFF",
        Command.LOAD_ON: b"SON",
        Command.BEEPER_ON: b"BZON",
        Command.BEEPER_OFF: b"BZOFF",
        Command.OUTLET_ON: b"SKON%o",
        Command.OUTLET_OFF: b"SKOFF%o",
        Command.ECO_ON: b"PEE",
        Command.ECO_OFF: b"PDE",
    },
    off_delay_s=(12.0, 99 * 60.0),  # S.2 to S99
    accepted=b"(ACK",
    outlets=4,
    needs={
        **dict.fromkeys((Command.OUTLET_ON, Command.OUTLET_OFF), "outlet_"),
        **dict.fromkeys((Command.ECO_ON, Command.ECO_OFF), "eco"),
    },
)


def encode(command: Command, args: Mapping[str, Any], orders: Orders = MEGATEC, slave: str = "00") -> bytes:
    """The bytes of an order (where several units share a line: to this slave).

    Delays are rounded up to what the protocol can say: 12, 18 .. 54 s as .2 .. .9, then whole minutes; an off delay
    of 0 is the shortest there is; a return is never set below 3 minutes. OrderError: an argument is wrong, or there
    is no such order.
    """
    word = orders.words.get(command)
    if word is None:
        raise OrderError(f"a UPS of this kind cannot do {command.value}")
    ranges: dict[str, tuple[float, float]] = {}
    if b"%n" in word:
        ranges["delay_s"] = orders.off_delay_s
        if args.get("delay_s") is not False and args.get("delay_s") == 0:
            args = {**args, "delay_s": orders.off_delay_s[0]}
    if b"%m" in word:
        ranges["return_delay_s"] = RETURN_DELAY_S
    if b"%t" in word:
        ranges["minutes"] = TEST_MINUTES
    if b"%o" in word:
        ranges["number"] = (1, orders.outlets)
    values = dict(zip(ranges, check_arguments(command, args, **ranges), strict=True))
    for name in ("minutes", "number"):
        if values.get(name, 0) % 1:
            raise OrderError(f"{command.value}: {name} must be a whole number, not {args[name]!r}")
    minutes = max(RETURN_MINUTES_MIN, math.ceil(values.get("return_delay_s", 0) / 60))
    word = word.replace(b"%n", _off_delay(values.get("delay_s", 0))).replace(b"%m", b"%04d" % minutes)
    word = word.replace(b"%t", b"%02d" % values.get("minutes", 0)).replace(b"%o", b"%d" % values.get("number", 0))
    return word.replace(b"%x", slave.encode()) + b"\r"


def remark(order: bytes, args: Mapping[str, Any]) -> str:
    """In which delays an encoded order is not what was asked for; "": in none."""
    match = _TIMES.fullmatch(order)
    if match is None:
        return ""
    off_s = int(match[1][1:]) * 6 if match[1][:1] == b"." else int(match[1]) * 60
    back_s = int(match[2] or 0) * 60.0
    return others(("off", off_s, args.get("delay_s", off_s)), ("back", back_s, args.get("return_delay_s", back_s)))


def others(*delays: tuple[str, float | None, float]) -> str:
    """A word for each delay that is another than asked. What happens, after so many seconds, instead of these."""
    wrong = (one for one in delays if one[1] is not None and one[1] != one[2])
    return ", ".join(f"{what} after {given_s:g} s, not {asked_s:g}" for what, given_s, asked_s in wrong)


def example(command: Command, orders: Orders) -> bytes:
    """The bytes of an order with arguments that every unit takes: b"" if there is no such order."""
    word = orders.words.get(command, orders.toggle)
    for place, value in ((b"%n", b".5"), (b"%m", b"0003"), (b"%t", b"01"), (b"%o", b"1"), (b"%x", b"00")):
        word = word.replace(place, value)
    return word + b"\r" if word else b""


def _off_delay(delay_s: float) -> bytes:
    sixths = math.ceil(delay_s / 6)
    return b".%d" % sixths if sixths <= 9 else b"%02d" % math.ceil(delay_s / 60)


def countdown_not_seen(counts: Callable[[], bool | None], wanted: bool) -> str:
    """Look up to LOOKS times whether the countdown is as `wanted`; what to say if it is not. `counts()` asks the unit
    whether it counts down; None: it does not show that."""
    for _ in range(LOOKS):
        try:
            seen = counts()
        except LinkError as e:  # the order was taken all the same
            return f"it was not seen whether it counts down: {e}"
        if seen in (None, wanted):
            return ""
    return "the UPS shows no countdown" if wanted else "the UPS still shows a countdown"


def check_arguments(command: Command, args: Mapping[str, Any], **ranges: tuple[float, float]) -> list[float]:
    """The values of `ranges` from `args`, checked. OrderError names what is allowed."""
    if unknown := sorted(args.keys() - ranges.keys()):
        raise OrderError(f"{command.value} has no argument {', '.join(unknown)}")
    values = []
    for name, (low, high) in ranges.items():
        value = args.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise OrderError(f"{command.value}: {name} must be from {low:g} to {high:g}, not {value!r}")
        values.append(float(value))
    return values
