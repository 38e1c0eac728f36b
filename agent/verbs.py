"""The verbs that look or set and then end: check, status, log, secret, password."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from . import bus, host, invite, rehearse, sayto, steer, vault, wire
from .config import NAME, PROTECTING, Config
from .faces import secrets_path
from .model import ConfigError, Event, View
from .process import hidden_line, load

SECRET_LIMIT = 256


def main(args: argparse.Namespace) -> int:
    """Do the verb; the exit code."""
    verbs: dict[str, Callable[[argparse.Namespace, Config], int]] = {
        "status": _status,
        "log": _log,
        "secret": _secret,
        "password": _password,
        "snmp-user": _snmp_user,
        **dict.fromkeys(("hold", "abort", "release", "clear", "drill"), steer.simple),
        "wake": steer.wake,
        **dict.fromkeys(("message", "execute"), sayto.say),
        "shutdown": lambda args, settings: steer.shutdown(args, settings, _ask_view(settings)),
        "ups": lambda args, settings: steer.ups(args, settings, _ask_view(settings)),
        "arm": _arm,
        "disarm": steer.disarm,
        "rehearse": _rehearse,
        "enroll": lambda args, settings: invite.main(args, settings, _ask_view(settings)),
        "ssh-key": _ssh_key,
        "backup": _backup,
        "update": _update,
        "spare": _spare,
        "host": lambda args, settings: host.main(args, settings),
    }
    if args.verb == "check":
        return _check(args.config)
    if args.verb == "provision":
        from . import provision

        return provision.main(args)
    if args.verb == "detect":
        from . import finding

        return finding.main(args)
    if args.verb == "support":
        from . import support

        return support.main(args)
    if args.verb == "update" and args.confirm:
        from . import trial

        return trial.main(args.config, trial.here(args.config))
    if args.verb == "restore":
        from . import backup

        return backup.restore(args)
    if args.verb == "password" and args.action == "hash":
        return _hash()
    settings, _ = load(args.config)
    try:
        return verbs[args.verb](args, settings)
    except bus.BusError as e:
        print(f"ridethrough: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 0


def _snmp_labels(settings: Config) -> set[str]:
    """The secrets that the SNMP face asks for."""
    snmp = settings.snmp
    return {c.label for c in snmp.communities} | {r.label for r in snmp.receivers if r.label} if snmp else set()


def _without_keys(settings: Config) -> list[str]:
    """The users of SNMP version 3 who have no keys yet. ConfigError."""
    if settings.snmp is None or not settings.snmp.users:
        return []
    from . import engineid

    rows = engineid.keys(Path(settings.state_dir) / "faces" / "snmp")
    return [user.name for user in settings.snmp.users if user.name not in rows]


def _check(path: Path) -> int:
    settings, problems = load(path)
    labels = _snmp_labels(settings)
    for problem in problems:
        print(f"{path}: {problem.text}")
    asked = steer.core_labels(settings)
    try:
        missing = sorted(labels - vault.read(secrets_path(settings)).keys())
        missing += sorted(asked - vault.read(steer.core_secrets(settings)).keys())
    except ConfigError as e:
        missing = []
        print(f"{e}")
    for label in missing:
        print(f"{path}: {label}: no secret yet; set it with: ridethrough secret set {label}")
    try:
        for name in _without_keys(settings):
            print(f"{path}: user {name}: no keys yet; give him some with: ridethrough snmp-user {name}")
    except ConfigError as e:
        print(f"{e}")
    for hint in settings.hints:
        print(f"{path}: note: {hint}")
    if problems:
        protecting = sum(p.section in PROTECTING for p in problems)
        print(f"{len(problems)} mistakes, {protecting} of them in what protects (agent, ups, stage, server)")
        return 2
    servers, stages = len(settings.servers), len(settings.stages)
    print(f"{path}: good ({settings.mode}, driver {settings.driver}, servers: {servers}, stages: {stages})")
    return 0


def _ask_view(settings: Config) -> View:
    reply = bus.ask(steer.socket_path(settings), {"type": "query", "what": "status"})
    try:
        return wire.from_json(View, reply.get("view"))
    except ValueError as e:
        raise bus.BusError(f"the core answered something else: {e}") from e


def _status(args: argparse.Namespace, settings: Config) -> int:
    while True:
        try:
            view = _ask_view(settings)
        except bus.BusError as e:
            if not args.watch:
                raise
            print(f"ridethrough: {e}", file=sys.stderr)
            time.sleep(1.0)
            continue
        if args.json:
            print(json.dumps(wire.to_json(view)), flush=True)
        else:
            if args.watch and sys.stdout.isatty():
                print("\033[2J\033[H", end="")
            print("\n".join(describe(view)), flush=True)
        if not args.watch:
            return 0
        time.sleep(max(0.0, 1.0 - (time.monotonic() - view.now_s)))


def describe(view: View) -> list[str]:
    """The view for people, a fact a line."""
    lines = [f"{view.name}: {_state_word(view)}   mode {view.mode}   phase {view.phase}", *_plan_lines(view)]
    lines.append(f"driver {view.driver}, link {view.link} {view.link_detail}".rstrip())
    status = view.status
    if status is not None:
        age = "" if view.age_s is None else f"   ({view.age_s:.1f} s old)"
        ident = status.ident
        names = " ".join(part for part in (ident.manufacturer, ident.model, ident.firmware) if part)
        lines.append(f"UPS {names or '(says no name)'}, source {status.source.value}{age}")
        for label, rows in (("input", status.inputs), ("output", status.outputs), ("bypass", status.bypass)):
            for number, row in enumerate(rows, start=1):
                parts = [
                    _number(row.voltage_v, "V"),
                    _number(row.frequency_hz, "Hz"),
                    _number(row.current_a, "A"),
                    _number(row.load_pct, "% load"),
                ]
                lines.append(f"  {label} {number}: " + "  ".join(p for p in parts if p))
        battery = status.battery
        parts = [
            _number(value, unit + (" (estimated)" if name in battery.estimated else ""))
            for name, value, unit in (
                ("charge_pct", battery.charge_pct, "%"),
                ("runtime_s", None if battery.runtime_s is None else battery.runtime_s / 60, "min"),
                ("voltage_v", battery.voltage_v, "V"),
            )
        ]
        lines.append("  battery: " + "  ".join(p for p in parts if p))
        if status.older:
            ages = ", ".join(f"{place} {age_s:.0f} s" for place, age_s in status.older.items())
            lines.append(f"  said before the rest: {ages}")
    for active in view.conditions:
        lines.append(f"  so since {view.now_s - active.since_s:.0f} s: {active.condition.value}")
    for stage in view.stages:
        due = "" if stage.due_in_s is None else f", due in {stage.due_in_s:.0f} s"
        if stage.forecast_s is not None and not due and not stage.latched:
            due = f", in an outage now after {stage.forecast_s:.0f} s"
        lines.append(f"stage {stage.name}: {f'latched ({stage.why})' if stage.latched else 'waiting'}{due}")
        for server in view.servers:
            if server.stage == stage.name:
                state = f"{server.state} before, but not now" if server.failing else server.state
                words = f"{state} ({server.proof}), " if server.proof else f"{state}, "
                words += f"{server.delivery.replace('-', ' ')} {server.detail}".rstrip()
                words += f", {WAKING[server.wake]}" if server.wake in WAKING else ""
                place = f"{server.address}:{server.port}" + (f", {TRUST[server.trust]}" if server.trust else "")
                lines.append(f"  server {server.name} ({place}): {words}")
    lines.extend(f"configuration: {error}" for error in view.config_errors)
    return lines


TRUST = {"secure": "secure", "classic": "classic", "not-enrolled": "not enrolled"}
WAKING = {
    "waiting": "will be woken",
    "waking": "being woken",
    "back": "is back",
    "by-hand": "to be switched on by hand",
}


def _plan_lines(view: View) -> list[str]:
    """How far it has come, what people asked for, and what is to be expected."""
    facts = [
        ("put off by {:.0f} s in all", view.held_s or None),
        ("all servers had their time in {:.0f} s", view.off_in_s),
        ("servers are woken in {:.0f} s at the latest", view.wake_in_s),
        ("a drill runs for {:.0f} s more", view.drill_left_s),
    ]
    lines = [f"  {text.format(value)}" for text, value in facts if value is not None]
    if view.aborted:
        lines.append("  stages that had not begun were stopped by hand: only an emergency latches them")
    forecast = view.forecast
    if forecast is not None:
        down = "nothing is latched before its end"
        if forecast.down_s is not None and forecast.margin_s is not None:
            down = f"everything down after {forecast.down_s:.0f} s, margin {forecast.margin_s:.0f} s"
        when = "from now" if view.on_battery_s is not None else "in an outage now"
        lines.append(f"  {when}: the battery lasts {forecast.runtime_s:.0f} s ({forecast.basis}), {down}")
    return lines


def _state_word(view: View) -> str:
    if view.status is None:
        return "NO DATA FROM THE UPS"
    if view.on_battery_s is not None:
        return f"ON BATTERY for {view.on_battery_s:.0f} s"
    return "on line"


def _arm(args: argparse.Namespace, settings: Config) -> int:
    view = _ask_view(settings)
    if view.mode == "dry-run":  # what was good in the morning may be dead now
        view = rehearse.proven(lambda: _ask_view(settings), lambda: steer.ask(settings, "prove"))
    return steer.arm(args, settings, view)


def _rehearse(args: argparse.Namespace, settings: Config) -> int:
    return rehearse.rehearse(lambda: _ask_view(settings), lambda: steer.ask(settings, "prove"), as_json=args.json)


def _ssh_key(_args: argparse.Namespace, settings: Config) -> int:
    from .reach import ssh

    key = ssh.ensure_key(Path(settings.state_dir) / "core")
    print("# for the server's authorized_keys; the command is all that this key may do there", file=sys.stderr)
    print(f'command="sudo /usr/bin/systemctl poweroff --no-block",restrict {key}')
    return 0


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}"


def _log(args: argparse.Namespace, settings: Config) -> int:
    if not 1 <= args.lines <= 500:
        raise ConfigError("--lines must be between 1 and 500")
    reply = bus.ask(steer.socket_path(settings), {"type": "query", "what": "events", "limit": args.lines})
    for row in reply.get("events", []):
        print(json.dumps(row) if args.json else event_line(wire.from_json(Event, row)))
    return 0


def event_line(event: Event) -> str:
    """One event for people."""
    when = datetime.fromtimestamp(event.wall_s).astimezone().isoformat(sep=" ", timespec="seconds")
    unsure = "" if event.clock_synced else " (clock not set)"
    data = " ".join(f"{k}={v}" for k, v in event.data.items() if v)
    return f"{event.id:6d}  {when}{unsure}  {event.kind:5}  {event.name}  {event.text} {data}".rstrip()


def _secret(args: argparse.Namespace, settings: Config) -> int:
    core, faces = steer.core_secrets(settings), secrets_path(settings)
    if args.action == "list":
        print("\n".join(sorted({*vault.read(core), *vault.read(faces)})) or "no secrets yet")
        return 0
    if not args.label:
        raise ConfigError(f"say which: ridethrough secret {args.action} LABEL")
    if args.action == "remove":
        path = core if args.label in vault.read(core) else faces
        secrets = vault.read(path)
        if secrets.pop(args.label, None) is None:
            raise ConfigError(f'there is no secret "{args.label}"')
    else:
        path = core if args.label in steer.core_labels(settings) else faces
        secrets = {**vault.read(path), args.label: _given_secret(args.label)}
        labels = _snmp_labels(settings)
        if path == faces and args.label not in labels:
            asks = "[[snmp.community]], [[snmp.receiver]], server or [ups]"
            print(f"note: the configuration has no {asks} {args.label}", file=sys.stderr)
    try:
        vault.write(path, secrets)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    done = "removed" if args.action == "remove" else "kept"
    when = "core reads its configuration (kill -HUP)" if path == core else "faces start"
    print(f"{args.label}: {done} (takes effect when the {when} again)")
    return 0


def _given_secret(label: str) -> str:
    """A secret from the terminal or standard input."""
    if not NAME.fullmatch(label):
        raise ConfigError("a label may hold letters, digits, dot, dash and underscore, at most 63")
    value = hidden_line(f"{label}: ")
    if not 1 <= len(value) <= SECRET_LIMIT or not value.isprintable():
        raise ConfigError(f"a secret is one line of 1 to {SECRET_LIMIT} printable characters on standard input")
    return value


def _snmp_user(args: argparse.Namespace, settings: Config) -> int:
    from . import snmpuser

    return snmpuser.main(args, settings)


def _backup(args: argparse.Namespace, settings: Config) -> int:
    from . import backup

    return backup.backup(args, settings)


def _update(args: argparse.Namespace, settings: Config) -> int:
    from . import seconds, update

    def views() -> dict[str, View]:
        found = {"": _ask_view(settings)}
        for name in seconds.known(args.config):
            its = seconds.read(args.config, name)
            if its is None or its.run_dir == settings.run_dir:
                continue  # no core can run by that
            try:
                found[name] = _ask_view(its)
            except bus.BusError as e:
                if not args.without_ups:
                    raise ConfigError(f"UPS {name}: {e}; --without-ups, if that is what the update is to mend") from e
        return found

    return update.main(args, settings, views)


def _spare(args: argparse.Namespace, settings: Config) -> int:
    from . import spare

    return spare.main(args, settings, lambda: _ask_view(settings))


def _hash() -> int:
    from . import passwords

    try:
        print(passwords.encode(hidden_line("Password: ")))
    except ValueError as e:
        raise ConfigError(str(e)) from e
    return 0


def _password(_args: argparse.Namespace, settings: Config) -> int:
    from . import login

    folder = Path(settings.state_dir) / "faces"
    try:
        once = login.Accounts(folder, time.monotonic).reset()
    except OSError as e:
        raise ConfigError(f"{folder}: {e.strerror}") from e
    print(f"one-time password: {once}")
    print("the first login with it must set a new one; all sessions are ended")
    return 0
