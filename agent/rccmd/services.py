"""Starts and stops the listener through the service manager of the server, and makes its user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from typing import Callable

from . import status
from .hand import Failed, Hand
from .units import LABEL, Places

UP_S = 12.0  # for a new listener to run
LOOK_EVERY_S = 1.0
STOP_S = 5.0  # for a listener without a service manager to end

#: how the service manager is told: before new files are used, start, stop, and forget
_COMMANDS: dict[str, dict[str, list[list[str]]]] = {
    "systemd": {
        "start": [
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "rccmd.service", "rccmd-root.socket"],
            ["systemctl", "restart", "rccmd-root.socket"],
            ["systemctl", "restart", "rccmd.service"],
        ],
        "stop": [["systemctl", "disable", "--now", "rccmd.service", "rccmd-root.socket"]],
        "gone": [["systemctl", "daemon-reload"], ["systemctl", "reset-failed", "rccmd.service"]],
    },
    "openrc": {
        "start": [
            ["rc-update", "add", "rccmd-root", "default"],
            ["rc-update", "add", "rccmd", "default"],
            ["rc-service", "rccmd-root", "restart"],
            ["rc-service", "rccmd", "restart"],
        ],
        "stop": [
            ["rc-service", "rccmd", "stop"],
            ["rc-service", "rccmd-root", "stop"],
            ["rc-update", "del", "rccmd", "default"],
            ["rc-update", "del", "rccmd-root", "default"],
        ],
        "gone": [],
    },
    "launchd": {
        "start": [
            ["launchctl", "bootstrap", "system", f"/Library/LaunchDaemons/{LABEL}-root.plist"],
            ["launchctl", "bootstrap", "system", f"/Library/LaunchDaemons/{LABEL}.plist"],
        ],
        "stop": [
            ["launchctl", "bootout", f"system/{LABEL}"],
            ["launchctl", "bootout", f"system/{LABEL}-root"],
        ],
        "gone": [],
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
            self.hand.run([*_POWERSHELL, self.places.join(self.places.program_folder, "start.ps1")])
        elif self.kind == "none":
            self._start_alone()
        else:
            if self.kind == "launchd":
                self.stop()
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
        elif self.kind != "none" or os.path.exists(self.places.ini):
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
        where = {"systemd": "journalctl -u rccmd", "launchd": f"/var/log/{LABEL}.log"}.get(
            self.kind, "the system's log"
        )
        raise Failed(f"the listener does not stay up; {where} says why")

    def stop(self) -> None:
        """Stop it, and do not start it with the machine any more; not running is well too."""
        if self.kind == "windows":
            self.hand.run([*_POWERSHELL, self.places.join(self.places.program_folder, "stop.ps1")], needed=False)
        elif self.kind == "none":
            self._stop_alone()
        else:
            for argv in _COMMANDS[self.kind]["stop"]:
                self.hand.run(argv, needed=False)

    def stop_made(self) -> None:
        """Stop the units that were not there before; those that were, stay enabled."""
        for unit in ("rccmd.service", "rccmd-root.socket") if self.kind == "systemd" else ():
            if self.hand.made(self.places.at(f"/etc/systemd/system/{unit}")):
                self.hand.run(["systemctl", "disable", "--now", unit], needed=False)

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

    # --- without a service manager -------------------------------------------------------------------------------

    def _start_alone(self) -> None:
        self._stop_alone()
        argv = self.places.line("listen", "--config", self.places.ini)
        if self.hand.dry:
            self.hand.say(f"would start, until the next boot: {' '.join(argv)}")
            return
        log = self.places.join(self.places.state, "listener.log")
        try:
            with open(log, "wb"), open(log, "ab") as out:  # appending: the listener bounds it
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
                )
        except OSError as e:
            raise Failed(f"cannot start {argv[0]}: {e.strerror}") from None
        self._sleep(1.0)
        if process.poll() is not None:
            with open(log, errors="replace") as stream:
                said = " ".join(stream.read(2000).split())
            raise Failed(f"the listener does not start: {said[-500:]}")
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


def _has_user(name: str) -> bool:
    if os.name != "posix":
        return True
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
