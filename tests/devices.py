"""Makes docs/devices.md of the status cards of all drivers: `./run devices` writes it, a test says when it is old."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent import drivers
from agent.cards import Card
from agent.model import Command

PAGE = Path(__file__).parent.parent / "docs" / "devices.md"

HEAD = """# Devices: what is read, what can be ordered, and how we know

Made of the status cards of the drivers by `./run devices`. What the drivers are and how they are set up:
[drivers.md](drivers.md).

*State* is that of reading a unit: **complete**, **partial** (something is left out, or rests on a document alone) or
**untested** (written from documents; it must be named in the configuration where that is possible). *Evidence* is
explained with each driver. *Commands* are what the driver has words for; a unit offers those that it knows. **No unit
stood on our own bench yet, and no command was ever given to a real one**: that is why no UPS is switched off after an
outage ([drivers.md](drivers.md), `off_return`).
"""

#: driver -> under which names such units are sold: the makers of the dumps of this family in NUT's device dump
#: library (https://github.com/networkupstools/nut-ddl, commit 1644b56)
SOLD_AS = {
    "megatec": (
        "206 dumps",
        "2E, Ablerex, Advice, AEG Power Solutions, ALLSAI, Apollo, Asium, Atlantis Land, Aviem Systems, Belkin,"
        " Best Power, CABAC, Cyber Power Systems, DEXP, Digitus, Dynamix, Eaton, Energy Technologies, Fenton"
        " Technologies, Fideltronik INIGO, Forza Power Technologies, FSP, Gama Sonic, Gamatronic, GE Digital Energy,"
        " Greencell, Guardian, INELT, Inform, Infosec, INVERTER, IPAR, Ippon, JAWAN, Kanji, Kebo, Konig, Legrand,"
        " Lexis, Liebert, Lyonn, Mecer, Micropower, Mustek, N-Power, Nexxtech, nJoy, Novex, NUMERIC, Online, OptiUPS,"
        " Orvaldi Power Protection, Phoenix Technologies, Plexus, Power Shield, Powercom, Powercool, POWEREX,"
        " PowerMan, Powermatic, PowerTech, PowerWalker, Proline, REDi, Rucelf, Salicru, Santak, SOLA, Soyntec, SVEN,"
        " Sweex, Syndome, Sysgration, Talegent, Tecnoware, Trust, TS Shara, Tuncmatik, UltraMax, UNITEK, UPSonic, V7,"
        " Zigor",
    ),
    "usbhid": (
        "270 dumps",
        "APC, Belkin, Cyber Power Systems, Dell, Delta, Dynex, Eaton, Ever, Geek Squad, HP, iDowell, Ippon, Legrand,"
        " Liebert, MGE UPS SYSTEMS, Mini-Box.com, Powercom, PowerWalker, Rocketfish, Salicru, Tripp Lite",
    ),
    "apcsmart": ("26 dumps", "APC"),
}
#: first word of a command -> the others, in this order
_ORDER = {command: place for place, command in enumerate(Command)}


def words(commands: frozenset[Command]) -> str:
    """Commands in few words: test quick, deep; beeper on, off."""
    found: dict[str, list[str]] = {}
    for command in sorted(commands, key=_ORDER.__getitem__):
        subject, _, rest = command.value.partition("-")
        found.setdefault(subject, []).append(rest.replace("-", " "))
    return "; ".join(f"{subject} {', '.join(rest)}" for subject, rest in found.items()) or "none"


def page() -> str:
    """The whole text."""
    return "\n".join((HEAD, *(line for name in drivers.available() for line in _driver(name))))


def _driver(name: str) -> Iterator[str]:
    module = drivers.load(name)
    cards: tuple[Card, ...] = getattr(module, "CARDS", ())
    if not cards:
        return
    yield f"## `{name}`: {module.TITLE}\n"
    if name in SOLD_AS:
        dumps, makers = SOLD_AS[name]
        yield f"Sold as (the makers of the {dumps} of this family in NUT's device dump library): {makers}.\n"
    group = ""
    for card in cards:
        if card.group != group:
            yield from (*([""] if group else []), f"### {card.group}\n")
            yield "| units | how | state | evidence | commands | limits |"
            yield "|---|---|---|---|---|---|"
            group = card.group
        cells = (card.what, card.how, card.state, card.evidence, words(card.commands), card.limits)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(PAGE.parent.parent)}")
