"""`ridethrough detect`: says which UPS is connected, how sure that is and why, and what to write into [ups]."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import detect, wire
from .config import Config
from .model import ConfigError
from .process import load, open_link

QUESTION = """Opening a serial port raises its lines DTR and RTS. On a contact-closure or APC simple-signalling cable
that may switch off what the UPS feeds. Ports here:
{ports}
Does such a cable, or anything but a UPS that shall be asked, hang on one of them? [yes/no] """


def main(args: argparse.Namespace) -> int:
    """Look around, and print it; 0: it is known which UPS it is, 1: not."""
    if args.forget:
        return forget(args.config)
    around = detect.Around()
    ports = around.wanted_ports(args.port)
    serial_ok = args.serial_ok
    if ports and not serial_ok and not args.json and sys.stdin.isatty():
        listed = "\n".join(f"  {port.name}" for port in ports)
        serial_ok = input(QUESTION.format(ports=listed)).strip().lower() in ("n", "no")
    look = detect.Look(open_link, time.monotonic, serial_ok=serial_ok, only=args.port, around=around)
    for step in look.steps():
        if not args.json:
            print(f"looking at {step}", file=sys.stderr)
    report = look.report()
    if args.json:
        print(json.dumps(wire.to_json(report), indent=1))
    else:
        print("\n".join(describe(report)))
    return 0 if report.found is not None else 1


def describe(report: detect.Report) -> list[str]:
    """The report for people, a fact a line, and what to configure."""
    lines = []
    for one in report.candidates:
        who = f" ({one.found.who})" if one.found.who else ""
        lines.append(f"{'yes' if one.score >= detect.GOOD else 'no':3} {one.score:4.2f}  {one.found.driver} at "
                     f"{one.place}{who}: {one.why}")  # fmt: skip
    lines += [f"--  {text}" for text in report.skipped]
    lines.append(report.words)
    if any("nobody said" in text for text in report.skipped):
        lines.append("if no such cable hangs there: ridethrough detect --serial-ok")
    if report.found is not None:
        lines += ["", "[ups]", f'driver = "{report.found.driver}"']
        lines += [f"{name} = {json.dumps(value)}" for name, value in sorted(report.found.section.items())]
    return lines


def forget(path: Path) -> int:
    """Forget what `driver = "auto"` has found, so that it looks again when the core starts."""
    settings: Config = load(path)[0]
    memory = Path(settings.state_dir) / "core" / detect.MEMORY
    try:
        memory.unlink()
    except FileNotFoundError:
        print("nothing was remembered")
        return 0
    except OSError as e:
        raise ConfigError(f"{memory}: {e.strerror}") from e
    print("forgotten; the UPS is looked for at the next opening of its link")
    return 0
