"""`ridethrough detect`: says which UPS is connected, how sure that is and why, and what to write into [ups]."""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import detect, steer, vault, wire
from .config import Config
from .model import ConfigError
from .process import load, open_link

HOSTS_LIMIT = 16
PUBLIC = "public"  # the community that most agents are sold with

QUESTION = """Opening a serial port raises its lines DTR and RTS. On a contact-closure or APC simple-signalling cable
that may switch off what the UPS feeds. Ports here:
{ports}
Does such a cable, or anything but a UPS that shall be asked, hang on one of them? [yes/no] """


def main(args: argparse.Namespace) -> int:
    """Look around, and print it; 0: it is known which UPS it is, 1: not."""
    if args.forget:
        return forget(args.config)
    if args.host:
        return hosts(args)
    around = detect.Around()
    ports = around.wanted_ports(args.port)
    serial_ok = args.serial_ok
    if ports and not serial_ok and not args.json and sys.stdin.isatty():
        listed = "\n".join(f"  {port.name}" for port in ports)
        serial_ok = input(QUESTION.format(ports=listed)).strip().lower() in ("n", "no")
    return show(detect.Look(open_link, time.monotonic, serial_ok=serial_ok, only=args.port, around=around), args)


def hosts(args: argparse.Namespace) -> int:
    """Ask the hosts that were named, and no others; reads alone. ConfigError for what is no address, or no secret."""
    if args.port or args.serial_ok:
        raise ConfigError("--host asks hosts alone: without --port and --serial-ok")
    if len(args.host) > HOSTS_LIMIT:
        raise ConfigError(f"--host: at most {HOSTS_LIMIT}")
    for host in args.host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ConfigError(f'--host "{host}": write an IP address') from None
    community = PUBLIC
    if args.secret:
        kept = vault.read(steer.core_secrets(load(args.config)[0]))
        if args.secret not in kept:
            raise ConfigError(f"no secret {args.secret}; set it with: ridethrough secret set {args.secret}")
        community = kept[args.secret]

    def opened(kind: str, section: Mapping[str, Any], now: Callable[[], float]) -> Any:
        return open_link(kind, {**section, "password": community} if kind == "snmp" else section, now)

    return show(detect.Look(opened, time.monotonic, hosts=args.host), args)


def show(look: detect.Look, args: argparse.Namespace) -> int:
    """Look, and print it; see `main`."""
    for step in look.steps():
        if not args.json:
            print(f"looking at {step}", file=sys.stderr)
    report = look.report()
    if args.json:
        print(json.dumps(wire.to_json(report), indent=1))
    else:
        print("\n".join(describe(report, args.secret)))
    return 0 if report.found is not None else 1


def describe(report: detect.Report, label: str = "") -> list[str]:
    """The report for people, a fact a line, and what to configure. `label`: of the community that was asked with."""
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
        if report.found.driver == "snmp":
            lines.append(f'secret = "{label or PUBLIC}"')
            if not label:
                lines.append(f'with the community "{PUBLIC}" as that secret: ridethrough secret set {PUBLIC}')
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
