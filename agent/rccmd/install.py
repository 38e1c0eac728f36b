"""`rccmd install`: makes this server one that the UPS adapter can shut down, with one command and one code.

    check everything here -> trade the code -> write the files -> start the service -> wait for the adapter's NOOP
    nothing changed        nothing changed     put back if one fails               "proven by ADAPTER"

What is there already is kept: rccmd.ini with its comments, other adapters, root.ini. The same command with a new
code renews the key; an installation of the classic kind becomes a secure one.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from . import archive, plan, proof, units
from .codec import PORT
from .hand import Failed, Hand, Owner, Say, probe_folder
from .services import Service
from .trade import Enrolled, NotEnrolled, adapter_of, fingerprint_of, trade

SERVICES = ("systemd", "openrc", "launchd", "windows", "none")
ROOM_BYTES = 512 * 1024  # that must be free in each folder before the code is used
PROVEN, NOT_INSTALLED, WRONG_USE, NOT_PROVEN = 0, 1, 2, 3  # exit codes

HELP = """\
Exit codes: 0 installed and proven by the adapter (with --no-start: installed), 1 not installed, everything is as it
was before, 2 wrong use, 3 installed and running, but the adapter did not speak to it within a minute.
"""

Trade = Callable[[str, str, str, str, str], Enrolled]


@dataclass(frozen=True)
class Clock:
    """Time, handed in: monotonic seconds, and a way to wait."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rccmd install",
        description="Install the listener on this server and enrol it at a UPS adapter. The adapter prints the "
        "whole command: ridethrough enroll NAME.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--adapter", required=True, metavar="HOST:PORT", help="the adapter's web address")
    add("--fingerprint", required=True, metavar="SHA256", help="of the adapter's web certificate")
    add("--name", required=True, metavar="NAME", help="this server's name at the adapter")
    add("--code", required=True, metavar="CODE", help="the one-time code")
    add("--on-shutdown", metavar="CMD", help="what shuts this server down (default: powers it off)")
    add("--port", type=int, metavar="N", help="listen here (default: where the adapter will connect to, 6003)")
    add("--replace", action="store_true", help="trust this adapter alone: remove all others")
    add("--service", choices=SERVICES, help="the service manager (default: the one that runs here)")
    add("--no-start", action="store_true", help="only write the files; do not start, do not wait for the adapter")
    add("--root", default="", metavar="DIR", help="for a trial: everything beneath DIR; no user is made")
    add("--dry-run", action="store_true", help="only print what would be done; nothing is sent or changed")
    return parser


def main(
    arguments: Sequence[str],
    say: Say = print,
    trade: Trade = trade,
    clock: Clock = Clock(),  # noqa: B008
) -> int:
    """Run `rccmd install` with these arguments; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        adapter_of(options.adapter)
        fingerprint_of(options.fingerprint)
        plan.check_words(options.name, options.code, options.port)
    except ValueError as e:
        print(f"rccmd install: {e}", file=sys.stderr)
        return WRONG_USE
    try:
        return _install(options, say, trade, clock)
    except (Failed, NotEnrolled) as e:
        print(f"rccmd install: {e}", file=sys.stderr)
        return NOT_INSTALLED


def places_of(root: str, service: str) -> units.Places:
    """The layout of this machine. Raises Failed if there is no Python that a service can use."""
    run = "/var/run" if service == "launchd" else "/run"
    return units.Places(archive.python_for_services(bool(root)), root_of(root), service == "windows", run)


def root_of(folder: str) -> str:
    """What stands before every path; "" for this machine itself."""
    return os.path.abspath(folder).rstrip("/") if folder else ""


def hand_of(say: Say, dry: bool, root: str) -> Hand:
    """Who changes this machine. Raises Failed without the rights for it."""
    if not dry and not root and os.name == "posix" and os.geteuid() != 0:
        raise Failed("only root may install a service: run the command with sudo (nothing was changed)")
    return Hand(say, dry, owners=not root and os.name == "posix")


def _install(options: argparse.Namespace, say: Say, trade: Trade, clock: Clock) -> int:
    kind = options.service or units.detect()
    hand = hand_of(say, options.dry_run, options.root)
    places = places_of(options.root, kind)
    service = Service(kind, places, hand, clock.sleep)
    before = plan.look(places)
    for problem in plan.problems(before, options.replace):
        raise Failed(f"{problem} (nothing was changed, the code was not used)")
    wish = plan.Wish(kind, options.on_shutdown or "", options.port, options.replace)
    shutdown = plan.shutdown_command(before, wish)
    program = archive.own_archive()
    given = Enrolled("ADAPTER", "", "", "", PORT, "192.0.2.10")  # what it will look like
    try:
        plan.check_ini(plan.listener_ini(before, wish, given, places, messages=False)[0], places)
    except Failed as e:
        raise Failed(f"{e} (nothing was changed, the code was not used)") from None
    if options.dry_run:
        say(f"would connect to {options.adapter}, check its fingerprint, and trade the code for {options.name}'s key")
    else:
        for folder in (places.program_folder, places.folder, places.state):
            probe_folder(folder, ROOM_BYTES)
        kept = before.certificate if before.others_stay(options.replace, options.adapter) else ""
        given = trade(options.adapter, options.fingerprint, options.name, options.code, kept)
        _check_keys(given)
    sender = plan.sender_name(before, given, options.replace, options.adapter)
    heard_s = proof.heard(places.status, sender)
    started = False
    try:
        _write(hand, service, before, wish, shutdown, program, given, sender, options.adapter)
        if not (options.no_start or (options.root and kind != "none")):
            started = True
            service.start()
            service.check()
        if not options.no_start:
            _drop_old_units(hand, places)
    except Failed as e:
        raise Failed(_put_back(hand, service, before, options, str(e), started)) from None
    for line in plan.explain(before, given, sender, options.replace, places):
        say(line)
    if options.dry_run:
        return PROVEN
    if options.no_start or (options.root and kind != "none"):
        say("installed, not started")
        return PROVEN
    missing = proof.wait(places.status, sender, heard_s, clock.now_s, clock.sleep)
    if not missing:
        say(f"proven by {sender}")
        return PROVEN
    if missing != proof.SILENT:
        say(
            f"installed and running, and {sender} speaks to it, but {missing}. It is not proven before that is right."
        )
        return NOT_PROVEN
    say(
        f"installed and running, but {sender} did not speak to it within {proof.WAIT_S:.0f} s. Does this "
        f"server's firewall let {given.address} connect to TCP port {before.port(wish, given)}? Is its address in "
        f"the adapter's configuration right? The adapter shows the server as proven as soon as it gets through."
    )
    return NOT_PROVEN


def _write(
    hand: Hand,
    service: Service,
    before: plan.Before,
    wish: plan.Wish,
    shutdown: str,
    program: bytes,
    given: Enrolled,
    sender: str,
    adapter: str,
) -> None:
    places = service.places
    service.make_user()
    group = service.user or "root"
    ours, reader, theirs = Owner(), Owner(group=group), Owner(group, group)
    hand.folder(places.program_folder, 0o755, ours)
    hand.folder(places.folder, 0o755, ours)
    if service.kind == "windows":
        hand.run(units.windows_private(places.folder))  # before the key is in it
    hand.folder(places.senders, 0o755, ours)
    hand.folder(places.state, 0o750, theirs)
    hand.write(places.program, program, 0o755, ours)
    if given.key_pem or hand.dry:
        hand.write(places.key, (given.key_pem + given.cert_pem).encode(), 0o640, reader)
    text = plan.sender_text(adapter, given.sender_pem)
    hand.write(places.join(places.senders, f"{sender}.pem"), text.encode(), 0o644, ours)
    for other in before.senders if wish.replace else ():
        if other != sender:
            hand.remove(places.join(places.senders, f"{other}.pem"))
    root_ini = plan.root_ini(before, wish, shutdown)
    hand.write(places.root_ini, root_ini.encode(), 0o644, ours)
    text, log = plan.listener_ini(before, wish, given, places, messages="message =" in root_ini)
    if log:
        hand.folder(os.path.dirname(log), 0o750, theirs)
    hand.write(places.ini, text.encode(), 0o644, ours)
    port = before.port(wish, given)
    for path, content in units.texts(service.kind, places, service.user, port).items():
        if service.kind != "windows" and not os.path.isdir(os.path.dirname(path)):
            hand.folder(os.path.dirname(path), 0o755, ours)  # the system's own stay as they are
        hand.write(path, content.encode(), units.file_mode(service.kind), ours)


def _drop_old_units(hand: Hand, places: units.Places) -> None:
    """What has no work once the new listener runs; until then it may be the way of the old one."""
    for path in plan.old_units(places):
        if not places.root:
            hand.run(["systemctl", "disable", "--now", os.path.basename(path)], needed=False)
        hand.remove(path)


def _check_keys(given: Enrolled) -> None:
    """Do the key and the certificates work here? Raises NotEnrolled, before anything is changed."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=given.sender_pem)
        if given.key_pem:
            with tempfile.TemporaryDirectory() as folder:  # 0700
                path = os.path.join(folder, "key.pem")
                with open(path, "w") as stream:
                    stream.write(given.key_pem + given.cert_pem)
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
    except (ssl.SSLError, ValueError, OSError) as e:
        raise NotEnrolled(
            f"the key or the certificate from the adapter cannot be used ({e}). Nothing was changed here, but the "
            "code is used up: make a new one with ridethrough enroll"
        ) from None


def _put_back(
    hand: Hand, service: Service, before: plan.Before, options: argparse.Namespace, why: str, started: bool
) -> str:
    """A step failed after the code was traded: restore the old state; returns what to tell."""
    stuck: list[str] = []

    def alone(step: Callable[[], None]) -> None:
        """One that fails keeps none of the others from being done."""
        try:
            step()
        except Failed as e:
            stuck.append(str(e))

    if started:
        alone(lambda: service.stop(stays=bool(before.ini)))
        stuck += service.clear_made()
    stuck += hand.undo()
    alone(service.gone)
    if service.made_user:
        alone(service.remove_user)
    if started and before.ini:
        alone(service.restart_old)
    lines = [why, "everything was put back as it was" + (f", except: {'; '.join(stuck)}" if stuck else "")]
    if before.certificate and not before.others_stay(options.replace, options.adapter):
        lines.append("the adapter may expect the new key already, so this server counts as not proven until then")
    lines.append(f"correct it, then make a new code: ridethrough enroll {options.name}")
    return ".\n  ".join(lines)
