"""The verbs that steer: shutdown, hold, abort, release, clear, wake, drill, arm, disarm; and ups."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from pathlib import Path
from typing import Any

from . import bus, vault
from .config import PROTECTING, Config
from .model import Command, ConfigError, View
from .process import last_good, load

_ARMED = re.compile(rb"""^([^#\n]*\bmode["']?[ \t]*=[ \t]*)(["'])armed\2""", re.MULTILINE)
SAID = {
    "hold": "every stage that is not yet latched is put off by 5 minutes (an emergency still latches it)",
    "abort": "no further stage is latched in this outage (an emergency still does)",
    "release": "hold and abort are undone: the plan goes on",
    "clear": "ended",
    "drill": "the drill runs, nobody is told; watch it with `ridethrough log`; it ends after 30 min at the latest",
    "drill-end": "the drill is over",
}
#: orders that can take the power from somebody, or the battery's charge, and what they do
RISKY = {
    Command.TEST_DEEP: "runs on the battery until it is nearly empty: an outage soon after it finds little left",
    Command.TEST_MINUTES: "runs on the battery for so long: an outage soon after it finds less left",
    Command.SHUTDOWN_RETURN: "takes the power from all it feeds until the mains is there; no server is told before",
    Command.SHUTDOWN_STAY_OFF: "takes the power from all it feeds, and stays off; no server is told before",
    Command.LOAD_OFF: "takes the power from all it feeds, at once; no server is told before",
    Command.OUTLET_OFF: "takes the power from what hangs on this outlet; no server is told before",
    Command.BYPASS_ON: "feeds the load from the mains alone: nothing protects it in an outage",
    Command.ECO_ON: "feeds the load from the mains while that is good: unfiltered, with a short gap in an outage",
}


def ask(settings: Config, do: str, stage: str = "") -> None:
    """Ask protection for something. BusError says why not."""
    message: bus.Message = {"type": "protect", "do": do, "stage": stage, "origin": origin()}
    bus.ask(socket_path(settings), message)


def socket_path(settings: Config) -> str:
    """Where the core listens."""
    return str(Path(settings.run_dir) / "core.sock")


def origin() -> dict[str, str]:
    """Who sits at this command line, for the audit row."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {"user": user, "address": "command line"}


def simple(args: argparse.Namespace, settings: Config) -> int:
    """hold, abort, release, clear, drill."""
    do = "drill-end" if args.verb == "drill" and args.end else args.verb
    ask(settings, do)
    print(SAID[do])
    return 0


def wake(args: argparse.Namespace, settings: Config) -> int:
    """Wake the servers of a stage."""
    ask(settings, "wake", args.stage)
    print(f"the servers of {args.stage} are woken for 10 minutes, until they answer; see `ridethrough status`")
    return 0


def shutdown(args: argparse.Namespace, settings: Config, view: View) -> int:
    """Latch a stage now; without --yes only say what that would do."""
    names = [s.name for s in view.stages]
    if args.stage != "all" and args.stage not in names:
        raise ConfigError(f"no such stage: {args.stage}; there are: {', '.join(names)}")
    last = len(names) - 1 if args.stage == "all" else names.index(args.stage)
    for stage in view.stages[: last + 1]:
        servers = [s.name for s in view.servers if s.stage == stage.name and s.how != "wake"]
        print(
            f"stage {stage.name}: {', '.join(servers) or 'no server'}{' (latched already)' if stage.latched else ''}"
        )
    if view.mode != "armed":
        print(f"mode {view.mode}: this is a dry run, nobody is told")
    if not args.yes:
        print("nothing was done; add --yes to shut these servers down now. They stay down until you wake them.")
        return 2
    ask(settings, "shutdown", args.stage)
    print("ordered; see `ridethrough status --watch`")
    return 0


def ups(args: argparse.Namespace, settings: Config, view: View) -> int:
    """Give the UPS an order; without one: what it can do. BusError says why not."""
    can = sorted((c for c in view.commands if c is not Command.SIMULATE), key=list(Command).index)
    if not args.order:
        for one in can:
            print(f"{one.value}{f' --yes   ({risk})' if (risk := RISKY.get(one)) else ''}")
        if not can:
            print("this UPS takes no orders" if view.status else "the UPS says nothing: nobody knows what it can do")
        return 0
    command = Command(args.order)
    if command not in can:
        raise ConfigError(f"this UPS cannot do {args.order}; it can: {', '.join(c.value for c in can) or 'nothing'}")
    if command in RISKY and not args.yes:
        print(f"nothing was done; {args.order} {RISKY[command]}. Add --yes if it shall")
        return 2
    asked = {"delay_s": args.delay, "return_delay_s": args.return_delay}
    asked |= {"minutes": args.minutes, "number": args.number}
    told = {name: value for name, value in asked.items() if value is not None}
    order: bus.Message = {"type": "command", "command": command.value, "args": told, "origin": origin()}
    reply = bus.ask(socket_path(settings), order, within_s=bus.ORDER_WITHIN_S)
    print(f"the UPS took it{f': {remark}' if (remark := reply.get('remark')) else ''}; see `ridethrough status`")
    return 0


# --- arm and disarm ---------------------------------------------------------------------------------------------


def warnings(settings: Config, view: View, secrets: frozenset[str]) -> list[str]:
    """What should be mended before the agent is armed. `secrets`: the labels that the core has."""
    found = []
    if not view.servers:
        found.append("there is no server to protect")
    for server in view.servers:
        if server.state == "unknown" and server.how != "wake":
            found.append(f"{server.name} is not proven: {server.proof or 'not yet tried'}")
        elif server.failing and server.how != "wake":
            found.append(f"{server.name} was {server.state} before, but not now: {server.proof}")
    if view.forecast is None:
        found.append("nobody knows how long the battery lasts: the UPS says no runtime and none was learned")
    elif view.forecast.down_s is None and view.servers:
        found.append("the battery ends before every stage is due: see `ridethrough rehearse`")
    elif view.forecast.margin_s is not None and view.forecast.margin_s < 0:
        found.append(
            f"the plan is longer than the battery: all down after {view.forecast.down_s:.0f} s, "
            f"the battery lasts {view.forecast.runtime_s:.0f} s"
        )
    labels = {str(s.options["secret"]) for s in settings.servers if s.options.get("secret")}
    found += [f"no secret {label} yet: ridethrough secret set {label}" for label in sorted(labels - secrets)]
    return found + list(settings.hints)


def arm(args: argparse.Namespace, settings: Config, view: View) -> int:
    """Set mode = "armed", after saying what is not as it should be. What counts is the mode that the core is in."""
    wrong = [p.text for p in load(args.config)[1] if p.section in PROTECTING]
    if wrong:
        print("\n".join(wrong))
        print(f"nothing was changed: the core refuses a file with such mistakes (it is in mode {view.mode})")
        return 1
    if (settings.mode, view.mode) == ("armed", "armed") and not view.config_errors:
        print("armed already")
        return 0
    secrets = frozenset(vault.read(core_secrets(settings)))
    found = warnings(settings, view, secrets)
    for text in found:
        print(f"warning: {text}")
    if found and not args.yes:
        print("nothing was changed; mend this, or add --yes")
        return 1
    return _arm(args.config, settings)


def _arm(path: Path, settings: Config) -> int:
    """Change the file and have the core read it; the old file comes back if it is refused."""
    try:
        old = path.read_bytes()
        vault.write_whole(path, _with_mode(old, "armed"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: {e}") from e
    try:
        reply = bus.ask(socket_path(settings), {"type": "reload", "origin": origin()}, within_s=10.0)
    except bus.BusError as e:
        print(f"{path}: mode = armed, in force when the core runs ({e})", file=sys.stderr)
        return 1
    if reply.get("protecting_bad"):
        vault.write_whole(path, old)
        bus.ask(socket_path(settings), {"type": "reload", "origin": origin()}, within_s=10.0)
        for problem in reply.get("problems", []):
            print(problem)
        print("refused; the old configuration stays")
        return 1
    print("mode armed is in force")
    return 0


def disarm(args: argparse.Namespace, settings: Config) -> int:
    """Set mode = "dry-run": nobody is told anything any more. Whatever else is wrong with the file: the last good
    configuration is disarmed as well, on the disk for a restart, and in the core by the request."""
    failed = 0
    for path in (args.config, last_good(settings)):
        try:
            if path == args.config or path.exists():
                vault.write_whole(path, _with_mode(path.read_bytes(), "dry-run"))
        except (OSError, ValueError) as e:
            print(f'{path}: {e}; write mode = "dry-run" there by hand', file=sys.stderr)
            failed = 1
    message: bus.Message = {"type": "reload", "disarm": True, "origin": origin()}
    try:
        reply = bus.ask(socket_path(settings), message, within_s=10.0)
    except bus.BusError as e:
        print(f"mode = dry-run, in force when the core runs ({e})", file=sys.stderr)
        return 1
    if reply.get("protecting_bad"):
        print("\n".join(str(problem) for problem in reply.get("problems", [])))
        print("mode dry-run is in force, with the last good configuration; the file still has these mistakes")
        return failed
    print("mode dry-run is in force")
    return failed


def _with_mode(data: bytes, mode: str) -> bytes:
    """The configuration with this mode, all else as it was, comments too. ValueError if that cannot be written."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document: Any = tomlkit.parse(data.decode())
        document.setdefault("agent", tomlkit.table())["mode"] = mode
        return tomlkit.dumps(document).encode()
    except (UnicodeDecodeError, TOMLKitError, TypeError) as e:
        # no TOML: the line itself; only the agent's mode can be "armed"
        found, count = _ARMED.subn(rb"\1\2" + mode.encode() + rb"\2", data)
        if not count:
            raise ValueError(str(e)) from e
        return found


def core_secrets(settings: Config) -> Path:
    """The core's own secrets, for the ways that need one."""
    return Path(settings.state_dir) / "core" / "secrets.json"


def core_labels(settings: Config) -> set[str]:
    """The secrets that the core needs: of servers, and of the UPS where another server has it."""
    sections = (settings.ups, *(s.options for s in settings.servers))
    return {str(section["secret"]) for section in sections if section.get("secret")}
