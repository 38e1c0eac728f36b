"""Finds out which UPS is connected, and with which driver it is read: what it says of itself, and questions alone.

What USB tells is looked at first; nothing is opened for it. A serial port is opened only after somebody has said that
no contact-closure or simple-signalling cable hangs on any (`serial_ok`): opening raises DTR and RTS, which on such a
cable may mean "switch the load off". Then each driver's own QUERIES are asked, several times: one good answer may be
chance, or half of another unit's. What orders is never sent. Contacts cannot be told from nothing: never found.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from . import bridges, devices, drivers, hidraw, vault, wire
from .asking import Asking
from .devices import Port
from .hidraw import Identity
from .model import LinkError, Option

log = logging.getLogger(__name__)

AUTO = "auto"
READS, TRIES = 3, 2  # of each driver at each place that answers; of one that does not
GOOD, LEAD = 0.75, 0.2  # the least score, and how far ahead of another driver at the same place it must be
AGAIN_S = 30.0  # after it did not know
DEAF_S, DEAF_GAP_S = 300.0, 60.0  # so long chosen again and again, at most so far apart: it does not answer
NETWORK = ("modbus", "upsd", "snmp")  # links to a host; each is asked at its usual port
MEMORY, MEMORY_LIMIT_BYTES = "detected.json", 4096

OPTIONS = (
    Option(
        name="serial_ok",
        kind=bool,
        default=False,
        help="no contact-closure or simple-signalling cable hangs on a serial port: they may be opened and asked",
    ),
    Option(name="port", kind=str, default="", help="the only serial port to look at; a path"),
)

OpenLink = Callable[[str, Mapping[str, Any], Callable[[], float]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What to configure, and who it is: `section` goes into [ups] beside the driver."""

    driver: str
    section: dict[str, str] = field(default_factory=dict)
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A driver at a place. `score` 0..1, `why` it is so, `frames` what was asked and said."""

    place: str
    found: Found
    score: float
    why: str
    frames: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a look around brought. `found` None: nobody knows, and `words` say why and what to do."""

    candidates: tuple[Candidate, ...]
    skipped: tuple[str, ...]  # places that were not asked, and why
    found: Found | None
    words: str


@dataclass(frozen=True, slots=True)
class Around:
    """What is plugged in; tests hand in their own."""

    power_devices: Callable[[], list[hidraw.Found]] = hidraw.find
    usb: Callable[[], list[Identity]] = devices.usb_devices
    ports: Callable[[], list[Port]] = devices.ports

    def wanted_ports(self, only: str = "") -> list[Port]:
        """The serial ports, or the one behind the path `only`: a node, a link of udev's or of one's own making. A
        path behind which there is none of them is a port by that name."""
        found = self.ports()
        if not only:
            return found
        node = os.path.realpath(only)
        return [one for one in found if only == one.lasting or node == str(one.node)] or [Port(Path(only))]


class Look:
    """One look around. `steps` does it, a few seconds at a time; then `report` says what it brought."""

    def __init__(
        self,
        open_link: OpenLink,
        now: Callable[[], float],
        *,
        serial_ok: bool = False,
        only: str = "",
        hosts: Sequence[str] = (),
        around: Around | None = None,
    ) -> None:
        """`hosts`: IP addresses; then they alone are asked, and what is plugged in here is not looked at."""
        self._hosts, self._open_link, self._now, self._around = hosts, open_link, now, around or Around()
        self._serial_ok, self._only = serial_ok, only
        self._modules = [drivers.load(name) for name in drivers.available()]
        self._candidates: list[Candidate] = []
        self._skipped: list[str] = []

    def steps(self) -> Iterator[str]:
        """Look; yields what is looked at, before it takes time (at most some 5 s until the next)."""
        for host in self._hosts:
            for module in self._modules:
                if module.LINK in NETWORK:
                    yield from self._place(host, module.LINK, [module], {"host": host}, "", asks=True)
        if self._hosts:
            return
        power_devices = self._around.power_devices()
        yield from self._usb(power_devices)
        yield from self._bridges({one.identity.place for one in power_devices})
        ports = self._around.wanted_ports(self._only)
        sure = not self._only and self.report().found is not None
        for port in ports:
            if sure:
                self._skipped.append(f"{port.name}: not opened, USB has told")
            elif self._serial_ok:
                yield from self._serial(port)
            else:
                self._skipped.append(f"{port.name}: not opened, nobody said that no contact cable hangs on it")

    def report(self) -> Report:
        """What was found so far, the best first."""
        ranked = tuple(sorted(self._candidates, key=lambda c: -c.score))
        found, words = judge(ranked)
        return Report(candidates=ranked, skipped=tuple(self._skipped), found=found, words=words)

    def _usb(self, power_devices: list[hidraw.Found]) -> Iterator[str]:
        for one in power_devices:
            for module in self._modules:
                if module.LINK == "usb":
                    section = usb_section(one.identity, [f.identity for f in power_devices])
                    yield from self._place(str(one.node), "usb", [module], section, _who(one.identity), asks=False)

    def _bridges(self, taken: set[str]) -> Iterator[str]:
        known = self._around.usb()
        for who in known:
            for module in self._modules:
                ids = {tuple(row[:2]) for row in getattr(module, "USB", ())}
                if who.place not in taken and (who.vendor, who.product) in ids:
                    kind = getattr(module, "USB_LINK", "bridge")
                    yield from self._place(who.place, kind, [module], usb_section(who, known), _who(who), asks=True)
                    if any(c.place == who.place and not c.score for c in self._candidates):
                        self._skipped += [
                            f'{who.place}: silent; it may also be bridge = "{name}", which nobody has tried'
                            for name in bridges.untried(who)
                        ]

    def _serial(self, port: Port) -> Iterator[str]:
        modules = [m for m in self._modules if m.LINK == "serial"]
        modules.sort(key=lambda m: (not getattr(m, "PROBE_FIRST", False), not getattr(m, "LEAVES_BYTES", False)))
        who = _who(port.usb) if port.usb is not None else ""
        yield from self._place(port.name, "serial", modules, {"port": port.name}, who, asks=True)

    def _place(
        self, place: str, kind: str, modules: list[ModuleType], section: dict[str, str], who: str, *, asks: bool
    ) -> Iterator[str]:
        """Ask all that may be there, in the order given, over one opening of the link."""
        yield place
        try:
            link = self._open_link(kind, section, self._now)
        except LinkError as e:
            self._skipped.append(f"{place}: {e}")
            return
        try:
            for module in modules:
                asking = Asking(link, module.QUERIES) if asks else None
                if asking is not None and module is not modules[0]:
                    yield f"{place}: {module.NAME}"
                    _wake(asking, module)
                reads: list[tuple[float, dict[str, str]]] = []
                first = getattr(module, "PROBE_FIRST", False)
                while len(reads) < (READS if first or any(score for score, _ in reads) else TRIES):
                    yield f"{place}: {module.NAME}"
                    reads.append(_examine(module, asking or link))
                score, why, more = weigh(reads)
                frames = tuple(asking.frames) if asking is not None else ()
                found = Found(driver=module.NAME, section={**section, **more}, who=who)
                self._candidates.append(Candidate(place=place, found=found, score=score, why=why, frames=frames))
                if asking is not None and asking.heard and first:
                    if not score:
                        self._skipped.append(f"{place}: others not asked: what answered {module.NAME} may obey them")
                    return
        except LinkError as e:
            self._skipped.append(f"{place}: {e}")
        finally:
            link.close()


def _wake(asking: Asking, module: ModuleType) -> None:
    """Ask once for nothing: what was sent before may still be in the unit's buffer, before this question."""
    try:
        asking.ask(module.QUERIES[0], within_s=0.9)
    except LinkError as e:
        log.debug("detect: %s", e)


def _examine(module: ModuleType, link: Any) -> tuple[float, dict[str, str]]:
    """One read: how sure the driver is, and the options that say what it has found."""
    examine = getattr(module, "examine", None)
    if examine is None:
        return float(module.probe(link)), {}
    score, more = examine(link)
    return float(score), dict(more)


def weigh(reads: list[tuple[float, dict[str, str]]]) -> tuple[float, str, dict[str, str]]:
    """Several reads as one score, the reason, and the options. Reads that do not agree are worth half."""
    good = [(score, more) for score, more in reads if score]
    if not good:
        return 0.0, "no answer that it understands", {}
    mean = sum(score for score, _ in reads) / len(reads)
    kinds = [more for _, more in good]
    said = " ".join(f"{name} {value}" for name, value in kinds[-1].items())
    why = f"{len(good)} of {len(reads)} reads understood" + (f", {said}" if said else "")
    if any(kind != kinds[0] for kind in kinds):
        return round(mean / 2, 2), why + ", but not the same each time", {}
    return round(mean, 2), why, kinds[0]


def judge(ranked: tuple[Candidate, ...]) -> tuple[Found | None, str]:
    """The one that it is, or None; and the words for people."""
    good = [c for c in ranked if c.score >= GOOD]
    if not good:
        weak = [c for c in ranked if c.score]
        if not weak:
            return None, "no UPS was found; a contact cable cannot be found, it must be configured (driver contact)"
        return None, f"not sure: {_named(weak[0])} scores {weak[0].score:g}, too little to be relied on; " + REMEDY
    best = good[0]
    if places := {c.place for c in good} - {best.place}:
        return None, f"more than one UPS: {_named(best)}, and at {', '.join(sorted(places))}; " + REMEDY
    near = [c for c in ranked if c.place == best.place and c is not best and best.score - c.score < LEAD]
    if near:
        return None, f"not sure: {_named(best)} and {_named(near[0])} fit about as well; " + REMEDY
    return best.found, f"it is {_named(best)}: {best.why}"


REMEDY = "name the driver in [ups]"


def _named(candidate: Candidate) -> str:
    who = f" ({candidate.found.who})" if candidate.found.who else ""
    return f"{candidate.found.driver} at {candidate.place}{who}"


def _who(identity: Identity) -> str:
    names = " ".join(part for part in (identity.maker, identity.name) if part)
    return f"{identity.vendor:04x}:{identity.product:04x} {names}".strip()


def usb_section(who: Identity, all_there: list[Identity]) -> dict[str, str]:
    """The options that mean this device: its ids and serial number; its socket if that is needed to tell it apart."""
    section = {"usb_vendor": f"{who.vendor:04x}", "usb_product": f"{who.product:04x}"}
    twins = [one for one in all_there if one[:2] == who[:2] and one.serial == who.serial]
    if who.serial:
        section["usb_serial"] = who.serial
    if len(twins) > 1 and who.place:
        section["usb_place"] = who.place
    return section


class Auto:
    """`driver = "auto"`: what was detected once is remembered, so that a restart in an outage need not look again,
    and a UPS that is absent at the start is waited for."""

    def __init__(
        self,
        folder: Path,
        section: Mapping[str, Any],
        open_link: OpenLink,
        now: Callable[[], float],
        around: Around | None = None,
    ) -> None:
        """`folder`: the core's own; `section`: [ups]."""
        self._path, self._open_link, self._now, self._around = folder / MEMORY, open_link, now, around
        self._serial_ok, self._only = bool(section.get("serial_ok")), str(section.get("port") or "")
        self._steps: Iterator[str] | None = None
        self._look: Look | None = None
        self._instead_of: Found | None = None  # what is remembered, and the look is for what hangs there now
        self._unkept: Found | None = None  # what a disk that takes nothing could not keep
        self._not_before_s, self._words, self._told = 0.0, "", False  # told that it has not answered
        self._chosen_s = self._deaf_from_s = -math.inf

    def choose(self) -> Found:
        """What to open now. LinkError while it looks, one step a call, and while it does not know."""
        found = self._remembered()
        if found is not None and not self._is_deaf(found):
            return found
        if found is None and self._now() < self._not_before_s:
            raise LinkError(self._words)
        if self._steps is None or self._look is None:
            around, only = (self._around or Around(), self._only) if found is None else self._place_of(found)
            self._look = Look(self._open_link, self._now, serial_ok=self._serial_ok, only=only, around=around)
            self._steps, self._instead_of = self._look.steps(), found
        for step in self._steps:
            raise LinkError(f"looking for the UPS: {step}")
        report, self._steps = self._look.report(), None
        self._chosen_s = self._deaf_from_s = self._now()
        if report.found is None and found is not None:
            return found
        if report.found is None:
            self._words = "; ".join((f"no UPS known: {report.words}", *report.skipped))
            self._not_before_s = self._now() + AGAIN_S
            raise LinkError(self._words)
        log.info("detected: %s", report.words)
        try:
            remember(self._path, report.found)
        except OSError as e:
            self._unkept = report.found
            log.error("%s: %s: the UPS must be detected again after a restart", self._path, e)
        return report.found

    def heard(self) -> None:
        """What was chosen has answered: it is not deaf, however often its line must be opened."""
        self._chosen_s = -math.inf

    def _remembered(self) -> Found | None:
        """None also if the configuration no longer allows it, or another UPS is plugged in than the one it was."""
        found = recall(self._path) or self._unkept
        if found is not None and (there := self._another(found)):
            log.info("%s is remembered, but %s is there: the UPS is detected again", found.who, there)
            return None
        port = found.section.get("port", "") if found is not None else ""
        elsewhere = self._only and os.path.realpath(self._only) != os.path.realpath(port)
        return None if port and (elsewhere or not self._serial_ok) else found

    def _is_deaf(self, found: Found) -> bool:
        """Has the line of `found`, behind a bridge or not, been opened again and again without an answer? Another UPS
        may hang on it. One that obeys single characters is waited for: others' questions could be orders to it."""
        if self._steps is not None and self._instead_of == found:
            return True
        self._steps, now_s = None, self._now()
        if now_s - self._chosen_s > DEAF_GAP_S:
            self._deaf_from_s, self._told = now_s, False
        self._chosen_s = now_s
        module = drivers.load(found.driver)
        is_line = "port" in found.section or getattr(module, "USB_LINK", "") == "bridge"
        waited = getattr(module, "PROBE_FIRST", False) and self._place_of(found)[1] == found.section.get("port")
        if not is_line or waited or now_s - self._deaf_from_s < DEAF_S:
            return False
        if not self._told:
            self._told = True
            log.info("detect: %s has not answered for %.0f s: the UPS is looked for anew", found.driver, DEAF_S)
        return True

    def _place_of(self, found: Found) -> tuple[Around, str]:
        """Where `found` is, and nothing else: at other places there may be somebody else's UPS. If its port is gone,
        the serial ports: it may have another adapter, and those that others use are locked."""
        around = replace(self._around or Around(), power_devices=list, usb=lambda: self._equals(found))
        port = found.section.get("port", "")
        is_gone = bool(port) and around.wanted_ports(port)[0] not in around.ports()
        return (around if port else replace(around, ports=list)), self._only if is_gone else port

    def _equals(self, found: Found) -> list[Identity]:
        """What is there with the USB ids of `found`."""
        ids = (found.section.get("usb_vendor"), found.section.get("usb_product"))
        there = (self._around or Around()).usb() if None not in ids else ()
        return [one for one in there if (f"{one.vendor:04x}", f"{one.product:04x}") == ids]

    def _another(self, found: Found) -> str:
        """What is there with the USB ids of `found` but other strings; "" if it is there, or absent."""
        there = self._equals(found) if found.who else []
        said = set(found.who.split())
        if any(said.issuperset(_who(one).split()) for one in there):
            return ""  # also one that says less than before: in an outage some lose their strings
        return ", ".join(map(_who, there))


def remember(path: Path, found: Found) -> None:
    """Keep it. OSError as the disk says."""
    vault.write_private(path, json.dumps(wire.to_json(found)).encode())


def recall(path: Path) -> Found | None:
    """What was kept; None if nothing, or it is damaged or of a driver that is not there."""
    try:
        found: Found = wire.from_json(Found, json.loads(path.read_bytes()[:MEMORY_LIMIT_BYTES]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as e:
        log.error("%s: %s: the UPS is detected again", path, e)
        return None
    return found if found.driver in drivers.available() and drivers.load(found.driver).LINK != "none" else None
