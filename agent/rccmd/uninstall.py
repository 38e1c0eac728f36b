"""`rccmd uninstall`: removes what `rccmd install` made, and says what it left and why."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import inifile, install, plan, units
from .hand import Failed, Hand, Say
from .services import Service


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rccmd uninstall",
        description="Remove the listener, its service, keys, settings and user from this server.",
        epilog="Exit codes: 0 removed, 1 a step failed (run it again after the remedy), 2 wrong use.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--service", choices=install.SERVICES, help="the service manager (default: the one that runs here)")
    add("--root", default="", metavar="DIR", help="of a trial installation beneath DIR")
    add("--dry-run", action="store_true", help="only print what would be done")
    return parser


def main(arguments: Sequence[str], say: Say = print) -> int:
    """Run `rccmd uninstall` with these arguments; returns the exit code."""
    options = _parser().parse_args(arguments)
    kind = options.service or units.detect()
    try:
        hand = install.hand_of(say, options.dry_run, options.root)
        places = units.Places(
            sys.executable,
            install.root_of(options.root),
            kind == "windows",
            "/var/run" if kind == "launchd" else "/run",
        )
        _uninstall(Service(kind, places, hand), plan.look(places), hand, bool(options.root))
    except Failed as e:
        print(f"rccmd uninstall: {e}; the rest was not done, run it again", file=sys.stderr)
        return 1
    return 0


def _uninstall(service: Service, before: plan.Before, hand: Hand, trial: bool) -> None:
    places = service.places
    if not (before.ini or before.certificate or os.path.exists(places.program)):
        hand.say("nothing is installed here")
    if not trial or service.kind == "none":
        service.stop()
    for path, text in units.texts(service.kind, places, service.user, 0).items():
        if os.path.exists(path) and units.MARK not in plan.text_of(path):
            hand.say(f"left: {path}, because it was not written by rccmd install")
        elif text:
            hand.remove(path)
    if not trial:
        service.gone()
    for path in (places.program, places.key, places.ini, places.root_ini):
        hand.remove(path)
        hand.remove(f"{path}.new")  # of an installer that was interrupted
    for name in before.senders:
        hand.remove(places.join(places.senders, f"{name}.pem"))
    if service.kind in ("openrc", "launchd"):
        hand.remove(places.root_log)
    if os.path.isdir(places.state):
        for name in sorted(os.listdir(places.state)):
            if os.path.isfile(path := places.join(places.state, name)):
                hand.remove(path)
    logs = places.at("/var/log/rccmd")
    if log := before.listen.get("log", ""):
        for path in (log, f"{log}.1"):
            if path.startswith(f"{logs}/"):
                hand.remove(path)
            elif os.path.exists(path):
                hand.say(f"left: the log {path}")
    for folder in (places.senders, places.folder, places.program_folder, places.state, logs):
        hand.remove_folder(folder)
    service.remove_user()
    if before.ini and os.path.exists(places.old_ini) and before.running_ini:
        hand.say(f"left: {places.old_ini}, which an earlier version used")
    programs = [before.listen.get(key, "") for key in ("on_message", "on_wakeup")]
    programs += inifile.values(before.ini, "execute").values()
    programs += [inifile.values(before.root_ini, "root").get(word, "") for word in ("shutdown", "wakeup")]
    if kept := sorted({p for p in programs if p and places.program not in p}):
        hand.say(f"left: the programs that it ran: {'; '.join(kept)}")
    if before.senders:
        hand.say(
            f"left: this server in the configuration of {', '.join(before.senders)}; delete it there, else the "
            "adapter waits for a server that cannot answer"
        )
