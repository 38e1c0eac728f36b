"""The texts of the service files that the installer writes, for systemd, OpenRC, launchd and Windows."""

from __future__ import annotations

import os
import plistlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

LABEL = "net.ridethrough.rccmd"  # of launchd; the root side adds "-root"
MARK = "written by rccmd install"


@dataclass(frozen=True)
class Places:
    """Where everything is on this server. All paths are absolute."""

    python: str
    root: str = ""  # before every path: a trial installation
    windows: bool = False
    run: str = "/run"  # where sockets are; macOS has only /var/run

    def at(self, path: str) -> str:
        """A path of the layout, beneath the root."""
        return self.root + path

    @property
    def program_folder(self) -> str:
        """Where the program lies."""
        return "C:\\Program Files\\rccmd" if self.windows else self.at("/opt/rccmd")

    @property
    def program(self) -> str:
        """The program: one file."""
        return self.join(self.program_folder, "rccmd.pyz")

    @property
    def folder(self) -> str:
        """Where the settings and keys lie."""
        return "C:\\ProgramData\\rccmd" if self.windows else self.at("/etc/rccmd")

    @property
    def ini(self) -> str:
        """The listener's settings."""
        return self.join(self.folder, "rccmd.ini")

    @property
    def old_ini(self) -> str:
        """Where the settings lay before the installer was there."""
        return self.at("/etc/rccmd.ini")

    @property
    def root_ini(self) -> str:
        """The programs of the root side."""
        return self.join(self.folder, "root.ini")

    @property
    def key(self) -> str:
        """This server's key and certificate."""
        return self.join(self.folder, "key.pem")

    @property
    def senders(self) -> str:
        """The folder with the certificate of each adapter."""
        return self.join(self.folder, "senders")

    @property
    def state(self) -> str:
        """What the listener remembers."""
        return self.join(self.folder, "state") if self.windows else self.at("/var/lib/rccmd")

    @property
    def log(self) -> str:
        """What the listener says, where nobody else keeps it; it bounds the file itself."""
        return self.join(self.state, "listener.log")

    @property
    def root_log(self) -> str:
        """What the root side says, likewise."""
        return self.at("/var/log/rccmd-root.log")

    @property
    def status(self) -> str:
        """What the listener says about itself."""
        return self.join(self.state, "status.json")

    @property
    def socket(self) -> str:
        """Where the root side hears the listener."""
        return self.at(f"{self.run}/rccmd-root.sock")

    def join(self, folder: str, name: str) -> str:
        """A file in a folder, in the spelling of this system."""
        return f"{folder}\\{name}" if self.windows else f"{folder}/{name}"

    def line(self, *words: str) -> list[str]:
        """The command line that runs the program with these words."""
        return [self.python, "-I", "-S", self.program, *words]


def systemd_line(argv: Sequence[str]) -> str:
    """A command line for ExecStart: quoted, % and $ without their meaning."""
    words = []
    for word in argv:
        word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        words.append(f'"{word}"' if not word or any(c in word for c in " \t;'\"") else word)
    return " ".join(words)


def systemd(places: Places, user: str) -> dict[str, str]:
    """File -> text. The listener may do nothing but listen; the root side starts for one connection at a time."""
    folder = places.at("/etc/systemd/system")
    return {
        f"{folder}/rccmd.service": f"""\
# {MARK}
[Unit]
Description=RCCMD listener: shuts this server down when the UPS adapter says so
After=network.target rccmd-root.socket
Wants=rccmd-root.socket
StartLimitIntervalSec=0

[Service]
User={user}
Group={user}
ExecStart={systemd_line(places.line("listen", "--config", places.ini))}
Restart=always
RestartSec=1
KillMode=process
OOMScoreAdjust=-500
LimitNOFILE=256
UMask=0027
StateDirectory=rccmd
StateDirectoryMode=0750
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
Alias=ridethrough-rccmd.service
""",
        f"{folder}/rccmd-root.socket": f"""\
# {MARK}
[Unit]
Description=Where the RCCMD listener, and nobody else, may ask for this server's shutdown

[Socket]
ListenStream={places.socket}
SocketUser=root
SocketGroup={user}
SocketMode=0660
Accept=yes
MaxConnections=8
TriggerLimitIntervalSec=0
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
""",
        f"{folder}/rccmd-root@.service": f"""\
# {MARK}
[Unit]
Description=Does what the RCCMD listener asked for: shutdown, selftest, message or wakeup
CollectMode=inactive-or-failed

[Service]
ExecStart={systemd_line(places.line("root", "--ini", places.root_ini))}
StandardInput=socket
StandardOutput=journal
StandardError=journal
SyslogIdentifier=rccmd-root
""",
    }


def openrc(places: Places, user: str) -> dict[str, str]:
    """File -> text. supervise-daemon restarts both sides; the root side holds the socket itself."""
    folder = places.at("/etc/init.d")
    python, *listen = places.line("listen", "--config", places.ini)
    _, *root = places.line("root", "--ini", places.root_ini, "--listen", places.socket, "--group", user)

    def script(what: str, words: Sequence[str], as_user: str, needs: str, log: str, prepare: str) -> str:
        line = shlex.quote(" ".join(shlex.quote(w) for w in words))
        return f"""\
#!/sbin/openrc-run
# {MARK}
description={shlex.quote(what)}
supervisor=supervise-daemon
command={shlex.quote(python)}
command_args={line}
command_user={shlex.quote(as_user)}
error_log={shlex.quote(log)}
respawn_delay=1
respawn_max=0

depend() {{
	{needs}
}}

start_pre() {{
	{prepare}
}}
"""

    state = f"checkpath --directory --mode 0750 --owner {user}:{user} {shlex.quote(places.state)}\n\t"
    state += f"checkpath --file --mode 0640 --owner {user}:{user} {shlex.quote(places.log)}"
    return {
        f"{folder}/rccmd": script(
            "RCCMD listener: shuts this server down when the UPS adapter says so",
            listen,
            f"{user}:{user}",
            "use net rccmd-root\n\tafter firewall rccmd-root",
            places.log,
            state,
        ),
        f"{folder}/rccmd-root": script(
            "Root side of the RCCMD listener",
            root,
            "root:root",
            "use localmount\n\tafter bootmisc localmount",
            places.root_log,
            f"rm -f {shlex.quote(places.socket)}",
        ),
    }


def launchd(places: Places, user: str) -> dict[str, str]:
    """File -> text. Both sides are kept alive; the root side holds the socket itself."""
    folder = places.at("/Library/LaunchDaemons")

    def daemon(label: str, argv: Sequence[str], log: str, extra: dict[str, object]) -> str:
        what = {
            "Label": label,
            "ProgramArguments": list(argv),
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 1,
            "ProcessType": "Interactive",  # never slowed down to save energy
            "StandardErrorPath": log,
            **extra,
        }
        return plistlib.dumps(what).decode()

    root = places.line("root", "--ini", places.root_ini, "--listen", places.socket, "--group", user)
    return {
        f"{folder}/{LABEL}.plist": daemon(
            LABEL, places.line("listen", "--config", places.ini), places.log, {"UserName": user, "GroupName": user}
        ),
        f"{folder}/{LABEL}-root.plist": daemon(f"{LABEL}-root", root, places.root_log, {}),
    }


def windows_private(folder: str) -> list[str]:
    """The program that leaves a folder, and what will be in it, to SYSTEM and administrators alone."""
    return ["icacls", folder, "/inheritance:r", "/grant:r", "*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F"]


def windows(places: Places, port: int) -> dict[str, str]:
    """File -> text: two PowerShell scripts, which register and remove a task that starts with the machine."""

    def quoted(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    _, *words = places.line("listen", "--config", places.ini)
    arguments = " ".join(f'"{w}"' if " " in w else w for w in words)
    return {
        places.join(places.program_folder, "start.ps1"): f"""\
# {MARK}
$ErrorActionPreference = 'Stop'
Stop-ScheduledTask -TaskName rccmd -ErrorAction SilentlyContinue
$action = New-ScheduledTaskAction -Execute {quoted(places.python)} -Argument {quoted(arguments)}
$trigger = New-ScheduledTaskTrigger -AtStartup
$principal = New-ScheduledTaskPrincipal -UserId 'S-1-5-18' -LogonType ServiceAccount -RunLevel Highest
# a UPS on USB counts as a battery: the task must start and go on with it
$settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -StartWhenAvailable `
    -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) -ExecutionTimeLimit ([TimeSpan]::Zero)
Register-ScheduledTask -TaskName rccmd -Action $action -Trigger $trigger -Principal $principal `
    -Settings $settings -Force | Out-Null
Remove-NetFirewallRule -Name rccmd -ErrorAction SilentlyContinue
New-NetFirewallRule -Name rccmd -DisplayName 'RCCMD listener' -Direction Inbound -Action Allow -Protocol TCP `
    -LocalPort {port} | Out-Null
Start-ScheduledTask -TaskName rccmd
""",
        places.join(places.program_folder, "stop.ps1"): f"""\
# {MARK}
Stop-ScheduledTask -TaskName rccmd -ErrorAction SilentlyContinue
Unregister-ScheduledTask -TaskName rccmd -Confirm:$false -ErrorAction SilentlyContinue
Remove-NetFirewallRule -Name rccmd -ErrorAction SilentlyContinue
""",
    }


def texts(service: str, places: Places, user: str, port: int) -> dict[str, str]:
    """The service files of one service manager; {} for "none"."""
    if service == "systemd":
        return systemd(places, user)
    if service == "openrc":
        return openrc(places, user)
    if service == "launchd":
        return launchd(places, user)
    return windows(places, port) if service == "windows" else {}


def file_mode(service: str) -> int:
    """Service files are for everybody to read; OpenRC's are programs."""
    return 0o755 if service == "openrc" else 0o644


def detect() -> str:
    """The service manager of this machine."""
    if os.name == "nt":
        return "windows"
    if os.path.isdir("/run/systemd/system"):
        return "systemd"
    if os.path.isdir("/run/openrc"):
        return "openrc"
    if os.path.isdir("/System/Library/LaunchDaemons"):
        return "launchd"
    return "none"
