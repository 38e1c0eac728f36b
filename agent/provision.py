"""`ridethrough provision`: what the boot partition of the image says becomes this adapter's configuration. Runs as
root at each start, before the network.

    BOOT/ridethrough.toml        the whole configuration, and [system] (hostsetup.py); taken over unless its content
                                 is that of the last time, all of it or nothing; its secrets leave the file then
    BOOT/ridethrough-NAME.toml   likewise for a second UPS (seconds.py)
    BOOT/ridethrough-report.txt  what became of it, how the page is reached, the set-up code
    BOOT/factory-reset           a file of this name: everything is forgotten first
    RUN/ridethrough-data-bad     why the data partition cannot be used (the image's `data` wrote it): said everywhere
    the spare place              the settings once more, outside that partition (spare.py): brought back by a start
                                 that finds no configuration, before anything else is read
    SYSTEM/system.json           [system] as it was taken over; applied at each start
    SYSTEM/taken.json            which content was taken over last; taken-NAME.json of a second UPS

The boot partition is mounted read-only; it is made writable for these changes alone. Whatever is wrong, the host
comes up: with what it had before, else by DHCP and without servers.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import bootfile, bootpart, config, hostsetup, login, process, sealed, seconds, spare, steer, vault, wire
from .config import Config
from .faces import secrets_path
from .hostsetup import System
from .model import VERSION, ConfigError
from .vault import Change

FILE, REPORT, RESET, DOING = "ridethrough.toml", "ridethrough-report.txt", "factory-reset", "factory-reset.doing"
DATA_BAD, RECREATE = "ridethrough-data-bad", "recreate-data"
#: what the image comes with
DEFAULT = '# No ridethrough.toml was taken over yet.\n[ups]\ndriver = "auto"\n\n[web]\nlisten = "[::]:443"\n'
TAKEN_LAST = 2  # digests of the content that was taken over last: as it came, and without its secrets
DATA_BAD_LIMIT = 500
ZONES = Path("/usr/share/zoneinfo")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where everything is; `run` is /run but in tests. `file`, `taken`: of the first UPS or, with its name, of a
    `second` one."""

    boot: Path
    system: Path
    config: Path
    run: Path = Path("/run")
    area: sealed.Area | None = None  # the spare place
    set_hostname: Callable[[str], None] = socket.sethostname
    mount: bootpart.Mount = bootpart.remount
    start: Callable[[Sequence[str]], None] = seconds.start_units
    file: str = FILE
    taken: str = "taken.json"
    second: str = ""

    def of(self, name: str) -> Places:
        """Those of the second UPS `name`."""
        config = seconds.config_of(self.config, name)
        return replace(self, config=config, file=seconds.file_of(name), taken=f"taken-{name}.json", second=name)


def run(places: Places) -> list[str]:
    """All of it; the lines of the report. Never raises for what people or disks did: it is said in the lines."""
    said, mistakes = _reset(places), list[str]()
    made = _bring_back(places, said, mistakes)
    with contextlib.suppress(OSError):  # said when something is to be kept there
        vault.make_folder(places.system)  # so that the helper may write into it
    mistakes += _without_data(places, made)
    said += mistakes
    before = _read_system(places, said)
    said += _take(places, before, mistakes)
    system = _read_system(places, [])
    said += _apply(places, system)
    said += ["", *hostsetup.ways_in(system, seconds.page_port(_settings(places)), _code(places, said))]
    said += _seconds(places, system, mistakes)
    _tell(places, said, mistakes)
    return said


def _reset(places: Places) -> list[str]:
    """Forget everything if the file for it is there. Renamed first: a partition that cannot be written must not make
    every start forget everything anew."""
    wish, doing = places.boot / RESET, places.boot / DOING
    if not os.path.exists(wish) and not os.path.exists(doing):
        return [bootfile.called(f"{RESET}.txt", RESET)] if os.path.exists(f"{wish}.txt") else []
    try:
        with bootpart.writable(places.boot, places.mount):
            if os.path.exists(wish):
                os.replace(wish, doing)
            if places.area is not None:  # first: what is left of it would come back
                sealed.erase(places.area)
            settings = _settings(places)
            state = Path(settings.state_dir)
            for folder in seconds.states(state):
                shutil.rmtree(folder)
            others = [seconds.config_of(places.config, name) for name in seconds.known(places.config)]
            kept = (*state.glob("before-restore-*"), Path(settings.commands_dir), *others, places.config)
            for entry in (state / "core", state / "faces", places.system, *kept):
                _forget(entry)
            doing.unlink()
    except OSError as e:
        return [
            f"factory-reset: {e.strerror} ({e.filename}): not everything is forgotten; tried again at the next start"
        ]
    if os.path.exists(places.run / DATA_BAD):
        return [f"factory-reset: everything was forgotten but what the data partition holds: {RECREATE} empties it."]
    return ["factory-reset: everything was forgotten."]


def _bring_back(places: Places, said: list[str], mistakes: list[str]) -> str:
    """The spare settings, if there is no configuration (nor a reset under way); when they were kept, else ""."""
    if places.area is None or places.config.exists() or os.path.exists(places.boot / DOING):
        return ""
    try:
        made = spare.restore(places.area, places.config)
    except (OSError, ConfigError) as e:
        mistakes.append(f"The spare settings could not be brought back: {e}")
        (places.run / spare.UNREAD).touch()
        return ""
    if made:
        said.append(f"The settings that were kept on {made} were brought back.")
    return made


def _without_data(places: Places, made: str) -> list[str]:
    """What to say when memory has taken the place of the data partition; `made`: the date of the spare settings."""
    try:
        why = " ".join((places.run / DATA_BAD).read_text(errors="replace")[:DATA_BAD_LIMIT].split())
    except FileNotFoundError:
        return []
    except OSError as e:
        why = str(e)
    if made:
        what = f"the settings that were kept on {made}; those it goes on to keep, the history it forgets"
    else:
        rest = "those it keeps, the history it forgets" if places.area else "all else it forgets with the next start"
        what = f"what {FILE} says; {rest}"
    new = "A new one with these settings" if made else "A new, empty one"
    return [
        f"The data partition cannot be used ({why}). The adapter protects with {what}. {new}: put a file called "
        f"{RECREATE} onto the boot partition and start it again."
    ]


def _forget(entry: Path) -> None:
    """A file, or what is in a folder: the folder itself may be a mount, or have an owner to keep."""
    if not entry.is_dir():
        entry.unlink(missing_ok=True)
        return
    for inner in entry.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()


def _take(places: Places, before: System, mistakes: list[str]) -> list[str]:
    """Take the file over if it is new. The report's lines; what is wrong goes to `mistakes`, too."""
    path, name = places.boot / places.file, places.file
    try:
        with path.open("rb") as file:
            data = file.read(config.FILE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return _absent(places)
    except OSError as e:
        mistakes.append(f"{name} of the boot partition: {e.strerror}; write it anew")
        return [f"{name}: {e.strerror}; not taken over: write it anew."]
    taken = _read_taken(places)
    if (digest := hashlib.sha256(data).hexdigest()) in taken[-TAKEN_LAST:]:
        said = f"{name}: was taken over before; change it and it will be taken over again."
        return [said, *_scrub(places, path, data, mistakes)]
    try:
        given = bootfile.read(data, before, lambda zone: (ZONES / zone).is_file())
        if places.second:
            _may_be_second(places, given)
    except bootfile.Wrong as e:
        if data.removeprefix(b"\xef\xbb\xbf").strip():
            mistakes += [f"{name} of the boot partition: {line}" for line in e.lines]
            had = "what it had before" if places.config.exists() else "DHCP and no servers"
            who = f"The UPS {places.second}" if places.second else "The adapter"
            if places.second and not places.config.exists():
                had = "nothing: it is not looked at"
            lines = [f"{name}: NOT taken over, mistakes: {len(e.lines)}. {who} runs with {had}."]
            lines += [f"  {line}" for line in e.lines]
            if bootfile.without_secrets(data) != data:
                lines.append("  (its secrets stay on this partition until it is taken over)")
            return lines
        return [f"{name}: nothing was taken over: it {e}."]
    cleaned = bootfile.without_secrets(data)
    digests = [digest, hashlib.sha256(cleaned).hexdigest()]
    try:
        _keep(places, given, json.dumps(digests).encode())
    except (OSError, ConfigError) as e:
        mistakes.append(f"{name} of the boot partition: could not be kept: {e}")
        return [f"{name}: could not be kept: {e}; it is tried again at the next start."]
    lines = [f"{name}: taken over."]
    if given.settings is not None:
        s = given.settings
        what = f"servers: {len(s.servers)}, stages: {len(s.stages)}, mode {s.mode}, driver {s.driver or 'none'}"
        lines += [f"  {what}", *(f"  note: {hint}" for hint in s.hints)]
    else:
        lines.append("  [system] alone; the rest of the configuration stays as it is")
    return [*lines, *_scrub(places, path, data, mistakes)]


def _absent(places: Places) -> list[str]:
    near = [name for name in (f"{FILE}.txt", "ridethrough.txt") if os.path.exists(places.boot / name)]
    if near:
        return [bootfile.called(near[0], FILE)]
    return [f"There is no {FILE} on this partition: nothing was taken over."]


def _keep(places: Places, given: bootfile.Given, taken: bytes) -> None:
    """All of it or nothing, the configuration last. OSError, ConfigError."""
    settings = given.settings or _settings(places)
    changes = []
    if places.second:
        Path(settings.state_dir).mkdir(mode=0o755, parents=True, exist_ok=True)  # both users must get through it
    else:
        changes.append(Change(places.system / "system.json", json.dumps(wire.to_json(given.system)).encode()))
    asked = steer.core_labels(settings)
    for path, mine in ((steer.core_secrets(settings), True), (secrets_path(settings), False)):
        new = {k: v for k, v in given.secrets.items() if (k in asked) is mine}
        if new:
            changes.append(Change(path, vault.written({**vault.read(path), **new})))
    faces = Path(settings.state_dir) / "faces"
    if given.account or given.setup_code:
        code = f"{given.setup_code}\n".encode() if given.setup_code else None
        changes.append(Change(faces / "account.json", given.account or None))
        changes.append(Change(faces / "first-password", code))
        changes.append(Change(faces / "sessions.json", None))
    changes.append(Change(places.system / places.taken, taken))
    if given.settings_text:
        places.config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        changes.append(Change(places.config, given.settings_text.encode(), 0o644, True))
    vault.replace_all(changes)


def _scrub(places: Places, path: Path, data: bytes, mistakes: list[str]) -> list[str]:
    """Take the secrets off the partition, if there are any; the report's line."""
    cleaned = bootfile.without_secrets(data)
    if cleaned == data:
        return []
    try:
        with bootpart.writable(places.boot, places.mount):
            bootpart.replace(path, cleaned)
    except OSError as e:
        why = f"its secrets could NOT be removed from this partition ({e.strerror}): remove them yourself"
        mistakes.append(f"{places.file} of the boot partition: {why}")
        return [f"  {why}"]
    return ["  its secrets were removed from this partition"]


def _apply(places: Places, system: System) -> list[str]:
    """Make the host what [system] says, beneath /run; and see that there is a configuration."""
    said = []
    try:
        if not places.config.exists():
            places.config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            vault.write_whole(places.config, DEFAULT.encode(), 0o644)
    except OSError as e:
        said.append(f"{places.config}: {e.strerror}")
    made = hostsetup.files(system)
    for name in set(hostsetup.SOMETIMES) - made.keys():  # of an earlier run since the start
        with contextlib.suppress(FileNotFoundError):
            (places.run / name).unlink()
    for name, (text, mode) in made.items():
        path = places.run / name
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(mode)
        except OSError as e:
            said.append(f"{path}: {e.strerror}")
    try:
        fresh = places.run / "localtime.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(ZONES / system.timezone)
        os.replace(fresh, places.run / "localtime")
        places.set_hostname(system.hostname)
    except OSError as e:
        said.append(f"host name and time zone: {e.strerror}")
    return said


def _may_be_second(places: Places, given: bootfile.Given) -> None:
    """bootfile.Wrong if it cannot be the second UPS that its name says."""
    main = places.config.with_name(FILE)
    names = [name for name in seconds.known(main) if name != places.second]
    others = {name: found for name in names if (found := seconds.read(main, name)) is not None}
    first = _settings(replace(places, config=main))
    if problems := seconds.wrong(places.second, given, first, others):
        raise bootfile.Wrong(problems)


def _seconds(places: Places, system: System, mistakes: list[str]) -> list[str]:
    """Take over the files of further UPSes, and start what there is. The report's lines."""
    try:
        offered = seconds.offered(places.boot)
    except OSError:
        offered = {}  # said of the first one's file
    said = []
    for file, name in offered.items():
        if problem := seconds.wrong_name(name, file):
            said.append(f"{file}: NOT taken over: {problem}.")
            mistakes.append(f"{file} of the boot partition: {problem}")
        else:
            said += _take(places.of(name), System(), mistakes)
    for name in seconds.known(places.config):
        wrong = list[str]()
        if (settings := seconds.read(places.config, name)) is not None:
            said += seconds.page(name, settings, system.hostname, _code(places.of(name), said))
            wrong = [f"UPS {name}: {line}" for line in seconds.clash(settings, FILE, _settings(places))]
        try:
            places.start(seconds.units(name))
        except OSError as e:
            wrong.append(f"UPS {name}: {e.filename}: {e.strerror}")
        said += wrong
        mistakes += wrong
    return ["", *said] if said else []


def _code(places: Places, said: list[str]) -> list[str]:
    """The set-up code, while no password is set; made here if there is none."""
    faces = Path(_settings(places).state_dir) / "faces"
    try:
        code = login.Accounts(faces, time.monotonic, boot="").first_password()
    except OSError as e:
        said.append(f"{faces}: {e.strerror}: there is no set-up code")
        return []
    return [code] if code else []


def _tell(places: Places, said: list[str], mistakes: list[str]) -> None:
    """Report, console, and what the page shows."""
    text = "\n".join([f"Ridethrough {VERSION}", "", *said]) + "\n"
    try:
        folder = places.run / "ridethrough-system"
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        (folder / "problems").write_text("".join(f"{line}\n" for line in mistakes))
        issue = places.run / "issue.d"
        issue.mkdir(mode=0o755, exist_ok=True)
        shown = "\n".join(said).replace("\\", "\\\\")
        (issue / "ridethrough.issue").write_text(f"{shown}\nAddress now: \\4 \\6\n\n")
        path = places.boot / REPORT
        if not path.exists() or path.read_bytes() != text.replace("\n", "\r\n").encode():
            with bootpart.writable(places.boot, places.mount):
                vault.write_whole(path, text.replace("\n", "\r\n").encode(), None)
    except OSError as e:
        said.append(f"{e.filename}: {e.strerror}: the report could not be written")


def _settings(places: Places) -> Config:
    try:
        return process.load(places.config)[0]
    except ConfigError:
        return Config()


def _read_system(places: Places, said: list[str]) -> System:
    path = places.system / "system.json"
    try:
        return hostsetup.read(path.read_bytes()[: config.FILE_LIMIT_BYTES])
    except FileNotFoundError:
        pass  # nothing was taken over yet
    except (OSError, ValueError) as e:
        said.append(f"{path}: {e}: the network comes up by DHCP; change {FILE} to have it taken over again")
    return System()


def _read_taken(places: Places) -> list[str]:
    try:
        found = json.loads((places.system / places.taken).read_bytes()[: config.FILE_LIMIT_BYTES])
    except (OSError, ValueError):
        return []
    return [row for row in found if isinstance(row, str)] if isinstance(found, list) else []


def main(args: argparse.Namespace) -> int:
    """`ridethrough provision`; 0 even where the file is wrong: the host must come up."""
    os.umask(0o022)
    area = None
    try:
        area = sealed.find()
    except OSError as e:
        print(f"spare place: {e}", file=sys.stderr)
    for line in run(Places(boot=args.boot, system=args.system, config=args.config, area=area)):
        print(line, file=sys.stderr)
    return 0
