"""`ridethrough host`: sets up this adapter itself: its name, address and time, another start, the other slot.

The words go to the core, which has root's helper (helper.py) do it and leaves an audit row.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import bus, helper, process, steer
from .config import Config
from .model import ConfigError

DONE_S = helper.ASK_S + helper.DONE_S + 5.0  # the core waits for the helper, which starts when it is asked
MEANS = {
    "reboot": "this adapter starts again; nobody is protected for that minute",
    "power-off": "this adapter goes off and protects nobody until its power was away and is back",
    "slot": "this adapter starts again, with the version in the other slot on trial",
}


def main(args: argparse.Namespace, settings: Config) -> int:
    """Ask for it and print what became of it. BusError, ConfigError."""
    said = wanted(args)
    if said is None and not args.yes:
        print(f"with --yes: {MEANS[args.what]}")
        return 1
    request = {"type": "host", "do": args.what, "said": said, "origin": steer.origin()}
    print(bus.ask(steer.socket_path(settings), request, DONE_S).get("said", ""))
    if args.what == "network":
        print("if you do not reach it any more: ridethrough.toml on the boot partition, changed, is taken over again")
    return 0


def wanted(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the switches say of `network` and `time`; None for the other words. ConfigError."""
    given = {key: getattr(args, key) for keys in helper.SETTINGS.values() for key in keys if key != "wifi"}
    given = {key: value for key, value in given.items() if value is not None}
    keys = helper.SETTINGS.get(args.what, ())
    if wrong := sorted(given.keys() - set(keys)):
        raise ConfigError(f"{args.what} knows no {', '.join('--' + key for key in wrong)}")
    if args.wifi is not None:
        if "wifi" not in keys:
            raise ConfigError(f"{args.what} knows no --wifi")
        given["wifi"] = _wifi(args) if args.wifi else None
    if keys and not given:
        raise ConfigError(f"say what: {', '.join('--' + key for key in keys)}")
    return given if keys else None


def _wifi(args: argparse.Namespace) -> dict[str, str]:
    found = {"ssid": args.wifi, "country": args.country or ""}
    if phrase := process.hidden_line("Pass phrase of the Wi-Fi (none: the one that is kept): "):
        found["passphrase"] = phrase
    return found
