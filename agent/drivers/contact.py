"""Contact closure: a UPS that only opens and closes contacts, on the modem lines of a serial port or on GPIO lines.

The cables are rows of CABLES (from NUT, drivers/genericups.h); every part of a row can be set otherwise. Status card
and what an unplugged cable looks like: docs/drivers-contact.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..cards import Card
from ..lines import Lines, Look
from ..model import (
    Battery,
    Command,
    Condition,
    Driver,
    Flow,
    Ident,
    Link,
    LinkError,
    Option,
    OrderError,
    Source,
    Status,
)
from ..q1.orders import check_arguments

log = logging.getLogger(__name__)

BREAK = "break"
BREAK_S = 4.9  # (NUT)
CHATTER_S, STALE_S = 10.0, 15.0  # contacts that are not still for so long say nothing; what they said is old
SLACK_S = 0.05  # polls are not punctual
PLUG_S, PLUG_LOOKS = 0.3, 3  # a plug that is being pulled has left with all its pins after so long
DELAY_S, RETURN_DELAY_S = (0.0, 3600.0), (0.0, 1e6)


class Cable(NamedTuple):
    """What the lines of a cable mean: `-line` means that it is so while the line is off; "" is not there.

    `power` and `shutdown` are outputs that are on (the others off) normally, and to switch the UPS off.
    """

    maker: str
    model: str
    upstype: int | None  # in NUT
    power: str
    on_line: str
    low_battery: str
    shutdown: str = ""
    replace_battery: str = ""
    bypass: str = ""


CABLES: Mapping[str, Cable] = {
    "upsonic-lan-saver-600": Cable("UPSonic", "LAN Saver 600", 0, "dtr+rts", "-cts", "dcd", "rts"),
    "apc-940-0095a": Cable("APC", "Back-UPS", 1, "dtr", "-ri", "dcd", "rts"),
    "apc-940-0020b": Cable("APC", "Back-UPS", 2, "rts", "-cts", "dcd", "dtr+rts"),
    "powertech-comp1000": Cable("PowerTech", "Comp1000", 3, "dtr", "-cts", "dcd", "dtr+rts"),
    "generic-rups": Cable("generic", "RUPS", 4, "rts", "cts", "-dcd"),
    "tripp-lite-lan22": Cable("Tripp Lite", "Internet Office (73-0844)", 5, "dtr", "cts", "-dcd", "dtr+rts"),
    "best-patriot": Cable("Best", "Patriot (INT51)", 6, "dtr", "cts", "-dcd", "rts"),
    "cyberpower-power99": Cable("CyberPower", "Power99", 7, "rts", "cts", "-dcd", "dtr"),
    "nitram-elite-500": Cable("Nitram", "Elite 500", 8, "dtr", "cts", "-dcd"),
    "apc-940-0023a": Cable("APC", "Back-UPS", 9, "", "-dcd", "cts", "rts"),
    "victron-lite": Cable("Victron", "Lite (crack cable)", 10, "rts", "cts", "-dcd", "dtr"),
    "powerware-3115": Cable("Powerware", "3115", 11, "dtr", "-cts", "-dcd", BREAK),
    "apc-940-0119a": Cable("APC", "Back-UPS Office", 12, "rts", "-cts", "dcd", "dtr"),
    "repoteck-rpt-800a": Cable("Repoteck", "RPT-800A, RPT-162A", 13, "dtr+rts", "dcd", "-cts", BREAK),
    "online-p": Cable("Online", "P-series", 14, "dtr", "dcd", "-cts", "rts"),
    "powerware-5119": Cable("Powerware", "5119", 15, "dtr", "cts", "-dcd", BREAK),
    "nitram-elite-2002": Cable("Nitram", "Elite 2002", 16, "dtr+rts", "cts", "-dcd"),
    "powerkinetics-9001": Cable("PowerKinetics", "9001", 17, "dtr", "cts", "-dcd"),
    "tripp-lite-omni-450lan": Cable("Tripp Lite", "Omni 450LAN", 18, "dtr", "cts", "dcd"),
    "fideltronik-ares": Cable("Fideltronik", "Ares", 19, "dtr", "cts", "-dcd", "rts"),
    "powerware-5119rm": Cable("Powerware", "5119 RM", 20, "dtr", "-cts", "dcd", BREAK),
    "generic-rups-2000": Cable("generic", "RUPS 2000 (Megatec M2501)", 21, "rts", "cts", "-dcd", "dtr+rts"),
    "gamatronic": Cable("Gamatronic", "alarm interface", 22, "rts", "cts", "-dcd", "dtr"),
    "fttx": Cable("generic", "FTTx, four wires", 23, "rts", "cts", "-dcd", "", "-ri", "-dsr"),
    "custom": Cable("", "", None, "", "", ""),
}

NAME, TITLE, LINK = "contact", "Contact closure: serial lines or GPIO", "lines"
_LINE = "a line, with - before it if it is so while the line is off: cts -cts dcd ri dsr, or a GPIO number"
OPTIONS = (
    Option(name="cable", kind=str, required=True, choices=tuple(CABLES), help="the cable; custom: by the options"),
    Option(name="on_line", kind=str, help=f"mains is there: {_LINE}"),
    Option(name="low_battery", kind=str, help=f"the battery is low: {_LINE}; none"),
    Option(name="replace_battery", kind=str, help=f"the battery must be replaced: {_LINE}; none"),
    Option(name="bypass", kind=str, help=f"the UPS is on bypass: {_LINE}; none"),
    Option(name="sense", kind=str, help=f"the cable is plugged in: {_LINE}; none: there is no such line, go without"),
    Option(name="power", kind=str, help="outputs that are on, and feed the cable: dtr, rts, dtr+rts, numbers; none"),
    Option(
        name="shutdown", kind=str, help="outputs that switch the UPS off: dtr, rts, dtr+rts, numbers; break; none"
    ),
    Option(name="shutdown_hold_s", kind=float, default=5.0, low=0.5, high=60, help="how long these outputs are held"),
    Option(name="debounce_s", kind=float, default=1.0, low=0.1, high=5, help="contacts count when still for so long"),
)
QUERIES: tuple[bytes, ...] = ()


class Signal(NamedTuple):
    """It is so while this line is `on`."""

    line: str
    on: bool

    def so(self, lines_on: frozenset[str]) -> bool:
        return (self.line in lines_on) is self.on


class Meaning(NamedTuple):
    """What the contacts say at one moment."""

    on_line: bool
    low: bool | None
    replace: bool | None
    bypass: bool | None


def signal(text: str) -> Signal | None:
    """`cts`, `-cts`, `17`, `-17`; None for "" and none."""
    name = text.strip().lower()
    return None if name in ("", "none") else Signal(name.lstrip("-"), not name.startswith("-"))


def outputs(text: str) -> frozenset[str]:
    """`dtr+rts` as names; none for "", none and break."""
    names = frozenset(name.strip() for name in text.lower().split("+"))
    return names - {"", "none", BREAK}


def cable_of(section: Mapping[str, Any]) -> Cable:
    """The row of the table, with what the section sets otherwise. LinkError: there is no line that says mains."""
    name = str(section.get("cable"))
    if name not in CABLES:
        raise LinkError(f"cable {name!r} is not known: set [ups] cable, see docs/drivers-contact.md")
    row = CABLES[name]
    cable = Cable(row.maker, row.model, row.upstype, *(_set(section, f, getattr(row, f)) for f in Cable._fields[3:]))
    if signal(cable.on_line) is None:
        raise LinkError("cable custom needs [ups] on_line: the line that says that mains is there")
    return cable


def _set(section: Mapping[str, Any], name: str, default: str) -> str:
    value = section.get(name)
    return default if value is None else str(value)


def probe(link: Link) -> float:
    """Never found: to look would move lines that may switch the load off."""
    return 0.0


_last: tuple[tuple[Any, ...], Contact] | None = None  # what was seen of these contacts outlives a lost connection


def connect(section: Mapping[str, Any], link: Lines | None, now: Callable[[], float]) -> Driver:
    """The driver for the contacts on these lines; sets the outputs as the cable wants them at once.

    LinkError without lines, for a cable that does not fit them, or one that cannot show that it is unplugged while
    nobody has said that this is known (sense = "none").
    """
    global _last
    if link is None:
        raise LinkError("driver contact needs lines")
    identity = (now, *sorted(section.items()))
    driver = Contact(section, link, now, _last[1] if _last is not None and _last[0] == identity else None)
    _last = identity, driver
    return driver


class Contact:
    """The contacts of a UPS. One poll is one look at the lines; what they say counts when they have been still."""

    off_return = "no"  # no unit of this kind was on a bench of ours

    def __init__(
        self, section: Mapping[str, Any], lines: Lines, now: Callable[[], float], before: Contact | None = None
    ) -> None:
        """`before`: these contacts as they were known, so that connecting again does not begin with not knowing."""
        self._lines, self._now = lines, now
        self._cable = cable = cable_of(section)
        self._signals = [signal(t) for t in (cable.on_line, cable.low_battery, cable.replace_battery, cable.bypass)]
        self._sense = signal(str(section.get("sense") or ""))
        self._debounce_s = float(section.get("debounce_s") or 1.0)
        self._hold_s = BREAK_S if cable.shutdown == BREAK else float(section.get("shutdown_hold_s") or 5.0)
        self._power, self._off = outputs(cable.power), outputs(cable.shutdown)
        self._inputs = frozenset(s.line for s in (*self._signals, self._sense) if s is not None)
        self._check_that_absence_shows(section)
        self._seen: tuple[frozenset[str], tuple[int, ...]] | None = None  # lines that are on, how often they changed
        self._still_since_s = self._moved_since_s = self._settled_s = now()
        self._moving = True
        self.again_s: float | None = None  # a look after so long may show that the contacts have come to rest
        self._settled: Meaning | None = None
        self._one_by_one = False  # one of mains and battery has changed without the other: no plug was pulled
        if before is not None:
            self._seen, self._settled, self._moving = before._seen, before._settled, before._moving
            self._still_since_s, self._moved_since_s = before._still_since_s, before._moved_since_s
            self._settled_s = before._settled_s
        self._off_at_s: float | None = None
        self._release_at_s: float | None = None
        lines.claim(self._inputs, self._power | self._off, self._power)

    @property
    def commands(self) -> frozenset[Command]:
        """To switch off with return, if the cable has a way; the UPS itself decides when it comes back."""
        able = bool(self._off) or self._cable.shutdown == BREAK
        return frozenset((Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STOP)) if able else frozenset()

    @property
    def wake_fd(self) -> int | None:
        """Readable at an edge (GPIO); not while the contacts bounce, or each bounce would be a poll."""
        return None if self._moving else self._lines.wake_fd

    def poll(self) -> Status:
        """Look, at once. LinkError: the port is gone, the cable is missing, or the contacts chatter.

        While the shutdown signal is held, contacts that say nothing are no error but an unknown source: the UPS goes
        off, and the signal must last its time.
        """
        self._release(self._now())
        look = self._look()
        for _ in range(PLUG_LOOKS):
            if not self._half_gone(look.on) or self._one_by_one:
                break
            self._lines.pause(PLUG_S)
            look = self._look()
        try:
            said = self._judge(look)
        except LinkError:
            if self._release_at_s is None:
                raise
            said = None
        self.again_s = self._debounce_s if self._moving else None
        self._switch_off_when_due(look.at_s)
        return self._status(look.at_s, said)

    def _look(self) -> Look:
        """One look at these contacts: since when they are still, and whether they have changed one by one."""
        look = self._lines.read()
        on = look.on & self._inputs
        seen = on, tuple(look.changes.get(line, 0) for line in sorted(self._inputs))
        if seen != self._seen:
            if not self._moving:
                self._moved_since_s = look.at_s
            self._seen, self._still_since_s, self._moving = seen, look.at_s, True
        if self._calm(self._meaning(on)):
            self._one_by_one = False
        elif self._half_gone(on) and look.at_s - self._still_since_s >= PLUG_S - SLACK_S:
            self._one_by_one = True
        return Look(on, look.changes, look.at_s)

    def _judge(self, look: Look) -> Meaning | None:
        """What counts now: this look if the contacts have been still for long enough, else the last that were."""
        if look.at_s - self._still_since_s >= self._debounce_s - SLACK_S:
            self._moving = False
            self._settled, self._settled_s = self._believe(look.on), look.at_s
        elif look.at_s - self._moved_since_s > CHATTER_S:
            raise LinkError(f"the contacts have not been still for {CHATTER_S:g} s: a loose cable?")
        return self._settled if look.at_s - self._settled_s <= STALE_S else None

    def order(self, command: Command, **args: Any) -> None:
        """Switch off after `delay_s` (by a later poll, if the UPS is on battery then), or call that off.

        `return_delay_s` is checked, but cannot be told to such a UPS. OrderError: an argument out of range.
        """
        if command not in self.commands:
            raise OrderError(f"this UPS cannot do {command.value}")
        if command is Command.SHUTDOWN_STOP:
            check_arguments(command, args)
            self._off_at_s = None
            self._release(float("inf"))
            return
        delay_s, _ = check_arguments(command, args, delay_s=DELAY_S, return_delay_s=RETURN_DELAY_S)
        self._off_at_s = self._now() + delay_s

    def close(self) -> None:
        """Give the port back; a shutdown signal that is held ends first, the outputs stay as they are normally."""
        try:
            self._release(float("inf"))
        except LinkError as e:
            log.warning("contact: the shutdown signal could not be ended: %s", e)
        self._lines.close()

    # -- what the lines mean

    def _meaning(self, on: frozenset[str]) -> Meaning:
        said = [None if s is None else s.so(on) for s in self._signals]
        return Meaning(bool(said[0]), *said[1:])

    def _absent(self) -> frozenset[str] | None:
        """The inputs that are on when nothing is plugged in; None: not known."""
        if self._lines.idle is None:
            return None
        return self._inputs if self._lines.idle else frozenset()

    @staticmethod
    def _calm(said: Meaning | None) -> bool:
        return said is None or (said.on_line and not said.low)

    def _half_gone(self, on: frozenset[str]) -> bool:
        """Of a cable that falls to a low battery when it is pulled: one of mains and battery has left its calm."""
        absent, said = self._absent(), self._meaning(on)
        if self._sense is not None or absent is None or not self._meaning(absent).low:
            return False
        return on != absent and said.on_line is said.low

    def _check_that_absence_shows(self, section: Mapping[str, Any]) -> None:
        absent = self._absent()
        if self._sense is not None:
            if absent is not None and self._sense.so(absent):
                raise LinkError(f"sense {section.get('sense')!r} is so without a cable as well: it shows nothing")
            return
        said = None if absent is None else self._meaning(absent)
        if said is not None and said.low:
            return  # mains gone and battery low in one moment: see _believe
        if section.get("sense") is None:
            looks = (
                "cannot be told" if said is None else "looks like mains" if said.on_line else "looks like an outage"
            )
            raise LinkError(
                f"without this cable plugged in it {looks}: set [ups] sense to a line that is on while it is plugged "
                f'in, or sense = "none" to go without'
            )
        log.info("contact: nothing shows whether the cable is plugged in (sense is none)")

    def _believe(self, on: frozenset[str]) -> Meaning:
        """What still contacts mean. LinkError if it is what an unplugged cable looks like."""
        if self._sense is not None:
            if not self._sense.so(on):
                self._settled = None
                raise LinkError(f"the cable is unplugged: {self._sense.line} says so")
            return self._meaning(on)
        said = self._meaning(on)
        if on == self._absent() and said.low and self._calm(self._settled) and not self._one_by_one:
            raise LinkError("the cable is unplugged: no line carries anything, and nothing announced a low battery")
        return said

    def _status(self, taken_s: float, said: Meaning | None) -> Status:
        on_battery = said is not None and not said.on_line
        source = Source.UNKNOWN if said is None else Source.BATTERY if on_battery else Source.MAINS
        if said is not None and said.on_line and said.bypass:
            source = Source.BYPASS
        facts = {
            Condition.LOW_BATTERY: said is not None and said.low,
            Condition.BATTERY_BAD: said is not None and said.replace,
            Condition.ON_BYPASS: source is Source.BYPASS,
            Condition.SHUTDOWN_PENDING: self._off_at_s is not None or self._release_at_s is not None,
        }
        return Status(
            taken_s=taken_s,
            source=source,
            battery=Battery(low=None if said is None else said.low, flow=Flow.DISCHARGING if on_battery else None),
            ident=Ident(manufacturer=self._cable.maker or None, model=self._cable.model or None),
            flags=frozenset(condition for condition, so in facts.items() if so),
        )

    # -- switching off

    def _switch_off_when_due(self, now_s: float) -> None:
        if self._off_at_s is None or now_s < self._off_at_s or self._moving:
            return
        self._off_at_s = None
        if self._settled is None or self._settled.on_line:
            log.warning("contact: the UPS is not switched off: it is not on battery any more")
            return
        log.warning("contact: switching the UPS off by %s for %g s", self._cable.shutdown, self._hold_s)
        if self._cable.shutdown == BREAK:
            self._lines.send_break(True)
        else:
            self._lines.set(self._off)
        self._release_at_s = now_s + self._hold_s

    def _release(self, now_s: float) -> None:
        """Back to normal when the shutdown has been held long enough."""
        if self._release_at_s is None or now_s < self._release_at_s:
            return
        if self._cable.shutdown == BREAK:
            self._lines.send_break(False)
        else:
            self._lines.set(self._power)
        self._release_at_s = None


CARDS = tuple(
    Card(
        "Cables",
        f"{one.maker} {one.model}".strip() or "any other",
        f'`cable = "{name}"`',
        "complete",
        "NUT (its table), pretend port" if one.maker else "pretend port",
        frozenset((Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STOP)) if one.shutdown or not one.maker else frozenset(),
        "counted down here; no answer that it obeys" if one.shutdown or not one.maker else "",
    )
    for name, one in CABLES.items()
)
