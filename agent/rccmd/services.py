"""Starts and stops the listener through the service manager of the server, and makes its user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Callable

from . import status
from .codec import printable
from .hand import Failed, Hand
from .units import LABEL, Places

UP_S = 12.0  # for a new listener to run
LOOK_EVERY_S = 1.0
LOG_SHOWN_BYTES = 600  # of the end of a listener's log
LOAD_TRIES = 10  # of launchd, LOOK_EVERY_S apart
STOP_S = 5.0  # for a listener without a service manager to end

#: empty, and not through a link: a listener of an earlier installation may have owned the folder
_NEW_LOG = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
_OPENRC, _LAUNCHD = ("rccmd-root", "rccmd"), (f"{LABEL}-root", LABEL)  # in the order of their start
#: the services, in the order in which they are stopped: file, what stops it, and what has it not started any more
_SERVICES: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "systemd": [
        (f"/etc/systemd/system/{unit}", ["systemctl", "stop", unit], ["systemctl", "disable", unit])
        for unit in ("rccmd.service", "rccmd-root.socket")
    ],
    "openrc": [
        (f"/etc/init.d/{name}", ["rc-service", name, "stop"], ["rc-update", "del", name, "default"])
        for name in reversed(_OPENRC)
    ],
    "launchd": [
        (f"/Library/LaunchDaemons/{label}.plist", ["launchctl", "bootout", f"system/{label}"], [])
        for label in reversed(_LAUNCHD)
    ],
}
#: how the service manager is told to start, and that files are gone
_COMMANDS: dict[str, dict[str, list[list[str]]]] = {
    "systemd": {
        "start": [
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "rccmd.service", "rccmd-root.socket"],
            ["systemctl", "restart", "rccmd-root.socket"],
            ["systemctl", "restart", "rccmd.service"],
        ],
        "gone": [["systemctl", "daemon-reload"], ["systemctl", "reset-failed", "rccmd.service"]],
    },
    "openrc": {
        "start": [
            ["rc-update", "add", "rccmd-root", "default"],
            ["rc-update", "add", "rccmd", "default"],
            ["rc-service", "rccmd-root", "restart"],
            ["rc-service", "rccmd", "restart"],
        ],
    },
}


class Service:
    """The listener as a service of one kind: "systemd", "openrc", "launchd", "windows" or "none"."""

    def __init__(self, kind: str, places: Places, hand: Hand, sleep: Callable[[float], None] = time.sleep) -> None:
        self.kind, self.places, self.hand, self._sleep = kind, places, hand, sleep
        self.made_user = False

    @property
    def user(self) -> str:
        """As whom the listener runs; "" where it has no user of its own."""
        return {"systemd": "rccmd", "openrc": "rccmd", "launchd": "daemon"}.get(self.kind, "")

    def make_user(self) -> None:
        """Make the user and group, if they are not there. Raises Failed."""
        if not self.user or self.places.root:
            return
        if _has_user(self.user):
            return
        home, name = self.places.state, self.user
        shell = next((s for s in ("/usr/sbin/nologin", "/sbin/nologin") if os.path.exists(s)), "/bin/false")
        if shutil.which("useradd"):
            self.hand.run(
                [
                    "useradd",
                    "--system",
                    "--user-group",
                    "--no-create-home",
                    "--home-dir",
                    home,
                    "--shell",
                    shell,
                    name,
                ]
            )
        elif shutil.which("adduser"):  # busybox
            self.hand.run(["addgroup", "-S", name])
            self.hand.run(["adduser", "-S", "-D", "-H", "-h", home, "-s", shell, "-G", name, name])
        else:
            raise Failed(f"there is neither useradd nor adduser: make the system user and group {name} by hand")
        self.made_user = not self.hand.dry
        self.hand.say(f"made the user {name}" if not self.hand.dry else f"would make the user {name}")

    def start(self) -> None:
        """Start it, or restart it with the new files, now and with the machine. Raises Failed."""
        if self.kind == "windows":
            self.hand.run([*_POWERSHELL, self._windows_script("start")])
        elif self.kind == "none":
            self._start_alone()
        elif self.kind == "launchd":
            self._load(_LAUNCHD)
        else:
            for argv in _COMMANDS[self.kind]["start"]:
                self.hand.run(argv)

    def restart_old(self) -> None:
        """The old files are in place again: run with them, as far as there is something to run."""
        if self.kind == "systemd":
            old = self.places.at("/etc/systemd/system/rccmd-shutdown.path")  # of a hand-written installation
            self.hand.run(["systemctl", "daemon-reload"])
            if os.path.exists(old):
                self.hand.run(["systemctl", "enable", "--now", os.path.basename(old)])
            for unit in ("rccmd-root.socket", "rccmd.service"):
                if os.path.exists(self.places.at(f"/etc/systemd/system/{unit}")):
                    self.hand.run(["systemctl", "restart", unit])
        elif self.kind == "openrc":
            for name in _OPENRC:
                if os.path.exists(self.places.at(f"/etc/init.d/{name}")):
                    self.hand.run(["rc-service", name, "restart"])
        elif self.kind == "launchd":
            self._load([label for label in _LAUNCHD if os.path.exists(self._plist(label))])
        elif os.path.exists(self._windows_script("start") if self.kind == "windows" else self.places.ini):
            self.start()

    def check(self) -> None:
        """Does the listener run, and go on running, after it was started? Raises Failed."""
        if self.kind == "windows" or self.hand.dry:
            return
        pid = None
        for _ in range(int(UP_S / LOOK_EVERY_S)):
            before, pid = pid, status.running(self.places.state)
            if pid is not None and pid == before:
                return
            self._sleep(LOOK_EVERY_S)
        if self.kind == "systemd":
            raise Failed("the listener does not stay up; journalctl -u rccmd says why")
        raise Failed(f"the listener does not stay up: {_said(self.places.log)}")

    def stop(self, *, stays: bool = False) -> None:
        """Stop it, and do not start it with the machine any more; not running is well too. `stays`: what was there
        before this installation is started with the machine all the same."""
        if self.kind == "none":
            self._stop_alone()
        elif self.kind == "windows":
            if not stays or self.hand.made(self._windows_script("start")):
                self.hand.run([*_POWERSHELL, self._windows_script("stop")], needed=False)
        else:
            for path, stop, forget in _SERVICES[self.kind]:
                self.hand.run(stop, needed=False)
                if forget and (not stays or self.hand.made(self.places.at(path))):
                    self.hand.run(forget, needed=False)

    def clear_made(self) -> list[str]:
        """Remove what the listener and the root side, which were not there before and were stopped, have left.
        Returns what could not be removed."""
        places, left, problems = self.places, [], []
        if self.hand.made(places.state):
            try:
                left += [places.join(places.state, name) for name in os.listdir(places.state)]
            except OSError as e:
                problems.append(f"{places.state}: {e.strerror}")
        if self.hand.made(places.root_ini) and os.path.lexists(places.root_log):
            left.append(places.root_log)
        for path in left:
            try:
                os.remove(path)
            except OSError as e:
                problems.append(f"{path}: {e.strerror}")
        return problems

    def gone(self) -> None:
        """The service files were removed: let the service manager know."""
        for argv in _COMMANDS.get(self.kind, {}).get("gone", []):
            self.hand.run(argv, needed=False)

    def remove_user(self) -> None:
        """Remove the user that make_user made."""
        if self.user != "rccmd" or self.places.root or not _has_user(self.user):
            return
        for program in ("userdel", "deluser"):
            if shutil.which(program):
                if self.hand.run([program, self.user], needed=False):
                    self.hand.say(f"removed the user {self.user}" if not self.hand.dry else "would remove its user")
                else:
                    self.hand.say(f"left: the user {self.user}, because {program} failed")
                return
        self.hand.say(f"left: the user {self.user}; there is neither userdel nor deluser")

    def _windows_script(self, what: str) -> str:
        return self.places.join(self.places.program_folder, f"{what}.ps1")

    # --- launchd -------------------------------------------------------------------------------------------------

    def _plist(self, label: str) -> str:
        return self.places.at(f"/Library/LaunchDaemons/{label}.plist")

    def _load(self, labels: Sequence[str]) -> None:
        """Unload what is loaded, then load. The unloading goes on after launchctl has returned, and until then it
        loads nothing: try again for a while."""
        self.stop()
        for label in labels:
            self.hand.run(["launchctl", "enable", f"system/{label}"], needed=False)
            argv = ["launchctl", "bootstrap", "system", self._plist(label)]
            for _ in range(LOAD_TRIES - 1):
                if self.hand.run(argv, needed=False):
                    break
                self._sleep(LOOK_EVERY_S)
            else:
                self.hand.run(argv)

    # --- without a service manager -------------------------------------------------------------------------------

    def _start_alone(self) -> None:
        self._stop_alone()
        argv = self.places.line("listen", "--config", self.places.ini)
        if self.hand.dry:
            self.hand.say(f"would start, until the next boot: {' '.join(argv)}")
            return
        log = self.places.log
        try:
            number = os.open(log, _NEW_LOG, 0o640)
            with open(number, "ab") as out:  # appending: the listener bounds it
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
                )
        except OSError as e:
            raise Failed(f"cannot start {argv[0]}: {e.strerror}") from None
        self._sleep(1.0)
        if process.poll() is not None:
            raise Failed(f"the listener does not start: {_said(log)}")
        self.hand.say(f"started pid {process.pid}, until the next boot; to start it at boot: {' '.join(argv)}")

    def _stop_alone(self) -> None:
        pid = status.running(self.places.state)
        if pid is None:
            return
        if self.hand.dry:
            self.hand.say(f"would stop pid {pid}")
            return
        try:
            status.send_signal(self.places.state, signal.SIGTERM)
        except OSError as e:
            raise Failed(f"the listener, pid {pid}, cannot be stopped: {e.strerror}") from None
        for _ in range(int(STOP_S / 0.1)):
            if status.running(self.places.state) is None:
                return
            self._sleep(0.1)
        raise Failed(f"the listener, pid {pid}, does not stop")


_POWERSHELL = ["powershell.exe", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-File"]


def _said(log: str) -> str:
    """The end of the listener's log; not through a link, for the listener may write in that folder."""
    try:
        number = os.open(log, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(number, "rb") as stream:
            stream.seek(max(0, os.fstat(number).st_size - LOG_SHOWN_BYTES))
            said = stream.read(LOG_SHOWN_BYTES)
    except OSError as e:
        return f"{log}: {e.strerror}"
    return printable(" ".join(said.decode("utf-8", "replace").split()))


def _has_user(name: str) -> bool:
    if os.name != "posix":
        return True
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
