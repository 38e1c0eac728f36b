"""Another agent's UPS: reads it from any NUT server (upsd) on the network, and gives it orders.

Protocol: NUT, docs/net-protocol.txt. Names of variables and commands: NUT, docs/nut-names.txt. Status card:
docs/drivers-nut.md.

    LIST VAR ups      BEGIN LIST VAR ups, VAR ups ups.status "OL CHRG", ..., END LIST VAR ups
    LIST CMD, LIST RW the same with CMD ups NAME, RW ups NAME "VALUE"
    SET VAR ups ups.delay.shutdown "60", INSTCMD ups shutdown.return      OK, or ERR REASON
    after SET TRACKING ON (since NUT 2.8)  OK TRACKING ID, and GET TRACKING ID says what became of it (agent/upsd.py)
    LOGIN ups                              OK: the server counts us among those that hang on this UPS
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..cards import Card
from ..model import Command, Driver, Link, LinkError, Option, OrderError, Status
from ..nutlook import OUTLETS, look, number
from ..q1.orders import check_arguments

log = logging.getLogger(__name__)

NAME, TITLE, LINK = "nut", "NUT server (upsd)", "upsd"
OPTIONS: tuple[Option, ...] = (
    Option(name="ups", kind=str, default="", help="name of the UPS on the NUT server; empty: the only one there"),
    Option(
        name="login",
        kind=bool,
        default=False,
        help="be counted by the NUT server among those that hang on this UPS: its upsmon waits for this agent",
    ),
)
QUERIES = (b"LIST UPS\n",)

LIST_LIMIT_BYTES = 128 * 1024
ROWS_LIMIT = 2000
TEXT_LIMIT = 128
LIST_WITHIN_S, ONCE_WITHIN_S = 2.0, 0.7  # in all under 5 s: the first poll asks four lists, and logs in
ORDER_WITHIN_S, SET_WITHIN_S = 3.0, 2.5  # with what its driver makes of it; two delays and the shutdown under 10 s
TIMER, COUNTS_S = "ups.timer.shutdown", (1.0, 65534.0)  # what is left; all ones: a unit without a sign says -1
SEEN_WITHIN_S = 40.0  # the server's driver reads some things every 30 s only
OFF_DELAY_S, RETURN_DELAY_S = (0.0, 7200.0), (0.0, 86400.0)

_ROW = re.compile(r'(UPS|VAR|RW|CMD) (\S+)(?: ([A-Za-z0-9._-]+))?(?: "((?:[^"\\]|\\.)*)")?')
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: command -> names at NUT, the first that the UPS has is taken
COMMANDS: Mapping[Command, tuple[str, ...]] = {
    Command.TEST_QUICK: ("test.battery.start.quick", "test.battery.start"),
    Command.TEST_DEEP: ("test.battery.start.deep",),
    Command.TEST_STOP: ("test.battery.stop",),
    Command.BEEPER_ON: ("beeper.enable", "beeper.on"),
    Command.BEEPER_OFF: ("beeper.disable", "beeper.off"),
    Command.SHUTDOWN_RETURN: ("shutdown.return",),
    Command.SHUTDOWN_STAY_OFF: ("shutdown.stayoff",),
    Command.SHUTDOWN_STOP: ("shutdown.stop",),
    Command.LOAD_OFF: ("load.off",),
    Command.LOAD_ON: ("load.on",),
    Command.BYPASS_ON: ("bypass.start",),
    Command.BYPASS_OFF: ("bypass.stop",),
    Command.ECO_ON: ("experimental.ecomode.enable",),
    Command.ECO_OFF: ("experimental.ecomode.disable",),
}
_OUTLET = {Command.OUTLET_ON: "on", Command.OUTLET_OFF: "off"}
_SHUTDOWNS = (Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STAY_OFF)


def probe(link: Link) -> float:
    """How sure it is that a NUT server with a UPS is there."""
    try:
        return 1.0 if _listing(link, "UPS", "", ONCE_WITHIN_S)[0] else 0.0
    except LinkError as e:
        log.debug("nut: probe: %s", e)
        return 0.0


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The driver for a UPS of the server at the end of `link`. Sends nothing yet. LinkError: no link, or no name."""
    if link is None:
        raise LinkError("driver nut needs a connection")
    name = str(section.get("ups") or "")
    if name and not _NAME.fullmatch(name):
        raise LinkError(f"[ups] ups: {name!r} is no name of a UPS: letters, digits, dots and dashes")
    return Nut(link, name, login=bool(section.get("login")))


class Nut:
    """A UPS of a NUT server."""

    off_return = "no"  # what is behind the server nobody here knows
    wake_fd: int | None = None

    def __init__(self, link: Link, name: str, *, login: bool) -> None:
        self._link, self._name = link, name
        self._login, self._tracks = login, False  # LOGIN is to be said; SET TRACKING was
        self._variables: dict[str, str] = {}
        self._awaited: tuple[bool, float] | None = None  # a countdown, or its end; until when (0: not yet known)
        self._can: frozenset[str] | None = None
        self._writable: frozenset[str] = frozenset()
        self.commands: frozenset[Command] = frozenset()

    def poll(self) -> Status:
        """All variables of one moment. LinkError also if the server's own data are stale or its driver is gone."""
        if not self._name:
            names = list(_listing(self._link, "UPS", "", ONCE_WITHIN_S)[0])
            if len(names) != 1:
                raise LinkError(f"[ups] ups: say which UPS of the NUT server: {', '.join(names) or 'it has none'}")
            self._name = names[0]
        variables, taken_s = self._all_variables()
        status = look(variables, taken_s)
        self._variables = variables
        self._look_for_countdown(taken_s)
        if self._can is None:
            self._can = frozenset()
            self._writable, self._can = self._optional("RW"), self._optional("CMD")
            self.commands = self._commands(self._can)
        if self._login:
            self._login = False
            self._log_in()
        return status

    def _all_variables(self) -> tuple[dict[str, str], float]:
        try:
            return _listing(self._link, "VAR", self._name, LIST_WITHIN_S)
        except LinkError as e:
            if "UNKNOWN-UPS" not in str(e):
                raise
            try:
                there = ", ".join(_listing(self._link, "UPS", "", ONCE_WITHIN_S)[0]) or "none"
            except LinkError:
                raise e from None
            raise LinkError(f"[ups] ups: {e}: it has no {self._name}; it has {there}") from e

    def _optional(self, kind: str) -> frozenset[str]:
        """A list that a server may lack, such as a small one that has variables alone: it is read without."""
        try:
            return frozenset(_listing(self._link, kind, self._name, ONCE_WITHIN_S)[0])
        except LinkError as e:
            log.warning("nut: LIST %s: %s; the UPS is read, but takes fewer orders or none", kind, e)
            return frozenset()

    def order(self, command: Command, **args: Any) -> None:
        """Give an order (arguments: see model.Command). OrderError: an argument is wrong, or the server refuses it.
        OK means that the server has it, and has handed it to its own driver; later polls look for the countdown."""
        values = self._check(command, args)
        if command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        if command in _OUTLET:
            name = f"outlet.{int(values[0])}.load.{_OUTLET[command]}"
            if name not in (self._can or ()):
                raise OrderError(f"this UPS has no {name}")
        else:
            name = self._nut_name(command, self._can or frozenset())
        if command in _SHUTDOWNS:
            self._delay("ups.delay.shutdown", values[0])
        if command is Command.SHUTDOWN_RETURN:
            self._delay("ups.delay.start", values[1])
        self._tell(f"INSTCMD {self._name} {name}", ORDER_WITHIN_S)
        if command is Command.SHUTDOWN_STOP or (command in _SHUTDOWNS and values[0] > 0):
            self._awaited = (command in _SHUTDOWNS, 0.0)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _look_for_countdown(self, taken_s: float) -> None:
        """Whether the countdown that was ordered, or its end, is seen in time; of a server that tells its timer."""
        if self._awaited is None:
            return
        wanted, until_s = self._awaited
        left_s = number(self._variables, TIMER)
        counts = left_s is not None and COUNTS_S[0] <= left_s <= COUNTS_S[1]
        is_off = "OFF" in self._variables["ups.status"].split()  # the countdown is over
        if TIMER not in self._variables or counts is wanted or is_off:
            self._awaited = None
        elif until_s == 0.0:
            self._awaited = (wanted, taken_s + SEEN_WITHIN_S)
        elif taken_s >= until_s:
            self._awaited = None
            log.warning("nut: the UPS %s countdown (%s)", "shows no" if wanted else "still shows a", TIMER)

    def _commands(self, can: frozenset[str]) -> frozenset[Command]:
        found = {command for command in COMMANDS if self._nut_name(command, can)}
        for command, word in _OUTLET.items():
            if any(f"outlet.{n}.load.{word}" in can for n in OUTLETS):
                found.add(command)
        return frozenset(found)

    def _nut_name(self, command: Command, can: frozenset[str]) -> str:
        return next((name for name in COMMANDS.get(command, ()) if name in can), "")

    def _check(self, command: Command, args: Mapping[str, Any]) -> list[float]:
        if command is Command.SHUTDOWN_RETURN:
            return check_arguments(command, args, delay_s=OFF_DELAY_S, return_delay_s=RETURN_DELAY_S)
        if command is Command.SHUTDOWN_STAY_OFF:
            return check_arguments(command, args, delay_s=OFF_DELAY_S)
        if command in _OUTLET:
            return check_arguments(command, args, number=(OUTLETS[0], OUTLETS[-1]))
        return check_arguments(command, args) if command in self.commands else []

    def _delay(self, variable: str, seconds: float) -> None:
        """Set a delay; where it cannot be set, the unit's own must not be shorter: it would be off too early."""
        if variable in self._writable:
            self._tell(f'SET VAR {self._name} {variable} "{int(-(-seconds // 1))}"', SET_WITHIN_S)
            return
        own_s = number(self._variables, variable)
        if own_s is None or own_s < seconds:
            raise OrderError(f"this UPS does not let {variable} be set; its own is {own_s} s, not {seconds:g} s")

    def _log_in(self) -> None:
        """Once a connection. A refusal is said and costs nothing else: the UPS is read all the same."""
        try:
            answer = self._ask(f"LOGIN {self._name}", ONCE_WITHIN_S)
        except LinkError as e:
            answer = str(e)
        if not answer.startswith("OK"):
            log.warning(
                "nut: LOGIN was refused: %s; [ups] user needs `upsmon secondary` (before 2.8: slave) in upsd.users",
                _text(answer),
            )

    def _tell(self, line: str, within_s: float) -> None:
        if not self._tracks:
            self._tracks = True
            answer = self._ask("SET TRACKING ON", ONCE_WITHIN_S)  # an older server says ERR, and OK to orders
            log.debug("nut: SET TRACKING ON: %s", _text(answer))
        answer = self._ask(line, within_s)
        if answer.startswith("OK"):
            if answer != "OK":
                log.info("nut: the driver of the server has not said yet what became of: %s", line)
            return
        why = _text(answer)
        remedy = "; [ups] user and secret need an account with actions SET and instcmds ALL in upsd.users"
        raise OrderError(f"the NUT server refused it: {why}{remedy if 'ACCESS' in why or 'REQUIRED' in why else ''}")

    def _ask(self, line: str, within_s: float) -> str:
        answer = self._link.ask(line.encode() + b"\n", end=b"\n", within_s=within_s).data
        return answer.decode("utf-8", "replace")


# --- the codec


def _listing(link: Link, kind: str, ups: str, within_s: float) -> tuple[dict[str, str], float]:
    about = f"{kind} {ups}" if ups else kind
    end = f"END LIST {about}\n".encode()
    reply = link.ask(f"LIST {about}\n".encode(), end=end, limit_bytes=LIST_LIMIT_BYTES, within_s=within_s)
    return parse_list(reply.data, kind, ups), reply.received_s


def parse_list(answer: bytes, kind: str, ups: str = "") -> dict[str, str]:
    """The rows of one list without its END: name -> value ('' where there is none). `kind`: UPS, VAR, RW or CMD.
    LinkError: the server says ERR, or a line that is not of this list, or too many."""
    lines = answer.decode("utf-8", "replace").split("\n")
    if lines[0].startswith("ERR "):
        raise LinkError(f"the NUT server says {_text(lines[0][4:])}")
    if (
        lines[0] != (f"BEGIN LIST {kind} {ups}" if ups else f"BEGIN LIST {kind}")
        or lines[-1]
        or len(lines) > ROWS_LIMIT
    ):
        raise LinkError(f"no list of {kind}: {answer[:64]!r}, {len(lines)} lines")
    rows: dict[str, str] = {}
    for line in lines[1:-1]:
        match = _ROW.fullmatch(line)
        if match is None or match[1] != kind or (ups and (match[2] != ups or not match[3])):
            raise LinkError(f"no row of {kind}: {line[:64]!r}")
        rows[match[3] if ups else match[2]] = _text(re.sub(r"\\(.)", r"\1", match[4] or ""))
    return rows


def _text(text: str) -> str:
    """Printable and short, whatever the server sent."""
    return "".join(c for c in text[:TEXT_LIMIT] if c.isprintable())


CARDS = (
    Card(
        "Any UPS of a NUT server; it can do those of the commands that the server lists for it",
        "NUT 2.8 and later",
        "`host`, and `ups` where the server has several",
        "complete",
        "NUT: Debian's upsd 2.8.0 with dummy-ups (tests/peer/test_nut_server.py)",
        frozenset((*COMMANDS, *_OUTLET)),
        "an order is asked after until the server's driver has done it (TRACKING), for 3 s; a countdown is looked for"
        f" in {TIMER}, where the server tells it",
    ),
    Card(
        "Any UPS of a NUT server; it can do those of the commands that the server lists for it",
        "NUT before 2.8",
        "the same",
        "partial",
        "NUT, docs/net-protocol.txt: the same lists; no such server was tried",
        frozenset((*COMMANDS, *_OUTLET)),
        f"OK says that the server has the order, not that its driver did it; a countdown is looked for in {TIMER}",
    ),
)
