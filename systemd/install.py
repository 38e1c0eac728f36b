"""`./run install` and `./run uninstall`: the agent on any Debian or Ubuntu board, and off it again.

The program goes to /opt/ridethrough (a venv of its own), the system side to where place.py says. Configuration and
state stay when it is removed, unless --purge. With --root everything but the program goes under that folder.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import place

SOURCE = Path(__file__).resolve().parent.parent
SYSTEM_PYTHON = Path("/usr/bin/python3")
HIDDEN = ("home", "root", "run", "tmp")  # from our units: ProtectHome, PrivateTmp
GPIO = "gpiod>=2.1,<3"  # as in setup.cfg
BOOTED = Path("/run/systemd/system")


class CannotInstall(Exception):
    """It cannot go on; the text says why and what to do."""


class Host:
    """The machine, or a folder that will be one; --dry-run only says what would be done."""

    def __init__(self, root: Path, dry: bool) -> None:
        self.root, self.dry = root, dry

    @property
    def live(self) -> bool:
        """Is it this machine, with systemd at work?"""
        return self.root == Path("/") and BOOTED.is_dir()

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def say(self, text: str) -> None:
        print(f"{'would ' if self.dry else ''}{text}", flush=True)

    def call(self, *argv: str | Path, needed: bool = True) -> None:
        """Run a program. CannotInstall if it fails and is needed."""
        self.say(f"run {' '.join(map(str, argv))}")
        if self.dry:
            return
        try:
            done = subprocess.run(argv)
        except OSError as e:
            raise CannotInstall(f"{argv[0]}: {e.strerror}") from e
        if needed and done.returncode:
            raise CannotInstall(f"{' '.join(map(str, argv))}: exit code {done.returncode}")

    def write(self, path: str, text: str) -> None:
        """A file, mode 0644, whole or not at all."""
        target = self.at(path)
        if target.is_file() and target.read_text() == text:
            return
        self.say(f"write {path}")
        if self.dry:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{target.name}.new")
        new.write_text(text)
        new.chmod(0o644)
        new.replace(target)

    def link(self, path: str, to: str) -> None:
        """A symbolic link; another file of that name is a reason to stop."""
        target = self.at(path)
        if target.is_symlink() and os.readlink(target) == to:
            return
        if target.exists() and not target.is_symlink():
            raise CannotInstall(f"{path} is there and not ours; move it away")
        self.say(f"link {path} to {to}")
        if not self.dry:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(to)

    def folder(self, path: str) -> None:
        target = self.at(path)
        if target.is_dir():
            return
        self.say(f"make {path}")
        if not self.dry:
            target.mkdir(parents=True, mode=0o755)

    def remove(self, path: str) -> None:
        target = self.at(path)
        if not target.is_symlink() and not target.exists():
            return
        self.say(f"remove {path}")
        if self.dry:
            return
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()


def system_side(host: Host) -> None:
    """Units, users, rules, a first configuration: all but the program itself."""
    for folder in place.FOLDERS:
        host.folder(folder)
    for path, text in place.files().items():
        host.write(path, text)
    if not host.at(place.CONFIG).exists():
        host.write(place.CONFIG, place.STARTER)
    for unit, target in place.ENABLED.items():
        host.link(f"{place.UNITS}/{target}.wants/{unit}", f"{place.UNITS}/{unit}")


def install(host: Host) -> None:
    """Everything, started if systemd is there. CannotInstall if not."""
    if host.root == Path("/"):
        own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        if problem := unfit(own, sys.version_info[:2], importlib.util.find_spec):
            raise CannotInstall(problem)
        program(host)
        for path, to in place.LINKS.items():
            host.link(path, to)
    else:
        host.say(f"leave out the program: {place.PROGRAM} is made on the machine itself")
    system_side(host)
    if host.root != Path("/"):
        return
    host.call("systemd-sysusers", "/etc/sysusers.d/ridethrough.conf")
    if host.live:
        host.call("systemctl", "daemon-reload")
        host.call("udevadm", "control", "--reload", needed=False)
        host.call("udevadm", "trigger", *(f"--subsystem-match={name}" for name in place.UDEV), needed=False)
        for unit in place.ENABLED:
            host.call("systemctl", "restart", unit)
        print(f"it runs. Now write {place.CONFIG} (`ridethrough check`), then: systemctl restart 'ridethrough-*'")
    else:
        print("systemd does not run here: it starts with the next boot")


def least() -> tuple[int, ...]:
    """The oldest Python that the agent runs with, as setup.cfg says it."""
    parser = configparser.ConfigParser()
    parser.read(SOURCE / "setup.cfg")
    return tuple(int(part) for part in parser["options"]["python_requires"].lstrip(">=").split("."))


def unfit(
    executable: Path, version: tuple[int, ...], has: Callable[[str], object], system: Path = SYSTEM_PYTHON
) -> str:
    """What keeps this Python from being the one of the services, and the remedy; '' if nothing. `executable`: the
    file itself, no link and no venv's; `has(NAME)`: is that module there? `system`: the distribution's own."""
    number = ".".join(map(str, version[:2]))
    if version < least():
        needed = ".".join(map(str, least()))
        return f"{executable} is Python {number}, and {needed} or newer is needed (Debian 12, Ubuntu 24.04 or later)"
    if executable.parts[:2] in (("/", name) for name in HIDDEN):
        return (
            f"{executable}: the services may not read it there; have {SYSTEM_PYTHON}: sudo apt-get install -y python3"
        )
    if not (has("venv") and has("ensurepip")):
        package = "python3-venv" if executable == system.resolve() else f"python{number}-venv"
        return f"{executable} cannot make a venv; mend with: sudo apt-get install -y {package}"
    return ""


def program(host: Host) -> None:
    """The venv; an old one is replaced, because Python may have another version by now."""
    python = Path(place.PROGRAM, "bin", "python")
    host.call(sys.executable, "-m", "venv", "--clear", place.PROGRAM)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    host.call(*pip, SOURCE)
    # only for contacts on GPIO lines; where there is no wheel of it, all else works
    host.call(*pip, "--only-binary=:all:", GPIO, needed=False)
    host.call(python, "-I", "-m", "compileall", "-q", place.PROGRAM, needed=False)
    for name in ("README.md", "docs"):
        source, target = SOURCE / name, host.at(f"{place.PROGRAM}/{name}")
        host.say(f"copy {name} to {place.PROGRAM}")
        if not host.dry:
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def uninstall(host: Host, purge: bool) -> None:
    """Take away what install put there; settings, state and users only with `purge`."""
    units = [Path(p).name for p in place.files() if p.startswith(place.UNITS)]
    if host.live:
        running = [u for u in units if "@." not in u]
        host.call("systemctl", "stop", *running, "ridethrough-core@*", "ridethrough-faces@*", needed=False)
    for unit, target in place.ENABLED.items():
        host.remove(f"{place.UNITS}/{target}.wants/{unit}")
    for wants in sorted(host.at(place.UNITS).glob("*.wants/ridethrough-*@*.service")):
        host.remove("/" + str(wants.relative_to(host.root)))
    links = ((path, host.at(path), to) for path, to in place.LINKS.items())
    ours = [path for path, link, to in links if link.is_symlink() and os.readlink(link) == to]
    for path in (*place.files(), *ours, place.PROGRAM):
        host.remove(path)
    if host.live:
        host.call("systemctl", "daemon-reload")
        host.call("udevadm", "control", "--reload", needed=False)
    if not purge:
        print(f"kept: /etc/ridethrough, {place.STATE[0]} (--purge removes them, with the users)")
        return
    more = ["/" + str(p.relative_to(host.root)) for p in sorted(host.at("/var/lib").glob("ridethrough-*"))]
    for path in (place.FOLDERS[0], *place.STATE, *more):
        host.remove(path)
    if host.root == Path("/"):
        for user in place.USERS:
            host.call("userdel", user, needed=False)


def main(arguments: Sequence[str]) -> int:
    """0; 1 if it could not be done, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="./run", description="The agent on this machine, with its services.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("install", "uninstall"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--dry-run", action="store_true", help="only say what would be done")
        sub.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="into this folder instead of /")
        if verb == "uninstall":
            sub.add_argument("--purge", action="store_true", help="also configuration, state and users")
    args = parser.parse_args(arguments)
    host = Host(args.root.resolve(), args.dry_run)
    if host.root == Path("/") and os.geteuid() != 0 and not args.dry_run:
        print(f"./run {args.verb} needs root: sudo ./run {args.verb}", file=sys.stderr)
        return 1
    try:
        if args.verb == "install":
            install(host)
        else:
            uninstall(host, args.purge)
    except (CannotInstall, OSError) as e:
        print(f"./run {args.verb}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
