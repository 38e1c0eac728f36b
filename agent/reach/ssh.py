"""SSH: asks the server to shut down with the OpenSSH client of this host, the server's host key pinned.

What is asked is the line of a file in `commands.d`; the server's authorized_keys should force its own command
whatever is asked. The proof authenticates without a session (ssh -N), so no command can run, not even a forced one.
A server that goes down takes the connection with it: then nobody says how the command ended.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import re
import subprocess
import tempfile
from pathlib import Path

from .. import commands
from ..config import Server
from ..model import ConfigError, Option
from ..program import OUTPUT_LIMIT_BYTES, Program
from ..vault import write_private
from . import ACCEPTED, NOT_DELIVERED, PROVEN, UNCONFIRMED, UNKNOWN, Job, Late, Outcome, Steps

PORT, SLOTS = 22, 64
OPTIONS = (
    Option(name="user", kind=str, required=True, help="who logs in on the server"),
    Option(name="host_key", kind=str, required=True, help='the server\'s public host key: "ssh-ed25519 AAAA..."'),
    Option(name="command", kind=str, required=True, help="which NAME.ssh in commands_dir holds what is asked"),
)

LOGIN_S = 5.0  # from the connection to "authenticated"
COMMAND_S = 20.0  # from there to the command's end
KEYGEN_S = 60.0  # on a slow board
KEY_LIMIT_BYTES = 16 * 1024
KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_keys: dict[Path, bytes] = {}  # our private key as it was read last; a core has one folder

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}[$]?")
_SHOWN = re.compile(r"The fingerprint for the (\S+) key sent by the remote host is (SHA256:[A-Za-z0-9+/]+)")
#: what the client (OpenSSH 9.2, LogLevel DEBUG2) says: the server runs the command; it ended by itself; the
#: connection was taken away. A command, too, may end with 255: only these rows tell that from the client's own 255
_BEGAN = re.compile(r"debug2: exec request accepted on channel \d+")
_ENDED = re.compile(r"debug1: Exit status \d+")
_CUT = re.compile(
    r"Connection to \S+ closed by remote host\.|Connection (closed|reset) by .+|Disconnected from .+"
    r"|Read from remote host .+: Connection reset by peer|client_loop: .*Broken pipe"
)
_NOISE = ("debug1: ", "debug2: ", "Transferred: ", "Bytes per ", "Warning: Permanently added", "Authenticated to ")
#: what the client says -> what people should know
_WHY = (
    ("Host key verification failed", "the server has another host key than host_key says"),
    ("Permission denied", "permission denied: the server does not know our key for this user"),
    ("Connection timed out", "no connection in time"),
    ("Connection refused", "connection refused"),
    ("No route to host", "no route to the server"),
    ("Network is unreachable", "network is unreachable"),
)


def wrong(server: Server) -> str:
    """What is wrong with the options."""
    get = server.options.get
    user, key, command = (str(get(name) or "") for name in ("user", "host_key", "command"))
    if not _USER.fullmatch(user):
        return f'user = "{user}": letters, digits, dot, dash and underscore, at most 32, not a dash first'
    if problem := _wrong_key(key):
        return f"host_key: {problem}"
    if problem := commands.wrong_name(command):
        return f'command = "{command}" {problem}'
    return ""


def _wrong_key(key: str) -> str:
    """string length, string type, ...: the type stands before and in the base64 text."""
    kind, _, rest = key.strip().partition(" ")
    if kind not in KEY_TYPES:
        return f'must begin with the type of the key ("ssh-ed25519 AAAA..."), one of {", ".join(KEY_TYPES[:5])}'
    try:
        blob = base64.b64decode(rest.split(" ")[0].encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return "what follows the type is not base64; copy the whole line of the server's ssh_host_..._key.pub"
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind.encode()) or len(blob) < 40:
        return "is cut off or not of its type; copy the whole line of the server's ssh_host_..._key.pub"
    return ""


def send(job: Job, client: str = "ssh", command_s: float = COMMAND_S) -> Steps:
    """Ask it. ACCEPTED: the command ended with 0. UNCONFIRMED: the connection ended while it ran."""
    with _Files() as files:
        try:
            asked = commands.line(job.commands_dir, job.server.options["command"])
            running = _start([client, *_arguments(job, files), "--", _host(job), asked])
        except ConfigError as e:
            return Outcome(NOT_DELIVERED, str(e))
        try:
            yield from running.run(job.connect_s + LOGIN_S, "no login in time", to_mark=True)
            if running.marked:
                job.heard()
            yield from running.run(command_s, f"the command did not end within {command_s:g} s")
        except Late as e:
            return Outcome(NOT_DELIVERED, str(e))
        finally:
            running.kill()
        return _judge(running)


def prove(job: Job, client: str = "ssh") -> Steps:
    """Log in without a session."""
    with _Files() as files:
        try:
            commands.line(job.commands_dir, job.server.options["command"])
            running = _start([client, "-N", *_arguments(job, files), "--", _host(job)])
        except ConfigError as e:
            return Outcome(UNKNOWN, str(e))
        try:
            yield from running.run(job.connect_s + LOGIN_S, "no login in time", to_mark=True)
        except Late as e:
            return Outcome(UNKNOWN, str(e))
        finally:
            running.kill()
        if running.marked:
            return Outcome(PROVEN, f"host key and login as {job.server.options['user']} are right")
        return Outcome(UNKNOWN, _why(running))


class _Files:
    """What the client reads besides its options, in memory: no disk that is full, read-only or gone can be in the
    way. `with _Files() as files`: they live until then."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open:
            os.close(fd)

    def hold(self, data: bytes) -> str:
        """A path at which the client finds `data`; only our user may read it."""
        fd = os.memfd_create("ssh")
        self._open.append(fd)
        os.fchmod(fd, 0o600)
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        return f"/proc/{os.getpid()}/fd/{fd}"


def _start(argv: list[str]) -> Program:
    try:
        return Program(argv, {}, mark=b"Authenticated to ")
    except FileNotFoundError as e:
        raise ConfigError(f"{argv[0]} is not installed; install it with: apt install openssh-client") from e


def ensure_key(folder: Path) -> str:
    """The line of our public key, made at the first call as FOLDER/ssh-key. ConfigError if that does not work."""
    path = folder / "ssh-key"
    try:
        if not path.exists():
            with tempfile.TemporaryDirectory() as place:
                _keygen("-t", "ed25519", "-N", "", "-C", "ridethrough", "-f", f"{place}/key")
                write_private(path, Path(place, "key").read_bytes())
        return _keygen("-y", "-f", str(path)).strip()
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e


def _keygen(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", "-q", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=KEYGEN_S,
            check=False,
        )
    except FileNotFoundError as e:
        raise ConfigError("ssh-keygen is not installed; install it with: apt install openssh-client") from e
    except subprocess.TimeoutExpired as e:
        raise ConfigError(f"ssh-keygen did not end within {KEYGEN_S:g} s") from e
    if done.returncode != 0:
        raise ConfigError(f"ssh-keygen: {done.stderr.strip().rpartition(chr(10))[2]}")
    return done.stdout


def _host(job: Job) -> str:
    """The address as the client takes it, with the interface of a link-local one."""
    if job.address is None:
        raise ConfigError(f"{job.server.address} could not be looked up")
    host = str(job.address[1][0])
    scope = job.address[1][2] if len(job.address[1]) > 2 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host


def _key(folder: Path) -> bytes:
    """Our private key; as it was read last, when the disk is gone since. ConfigError if there is none."""
    path = folder / "ssh-key"
    try:
        _keys[path] = path.read_bytes()[:KEY_LIMIT_BYTES]
    except OSError as e:
        removed = isinstance(e, FileNotFoundError) and folder.is_dir()
        if removed:
            raise ConfigError("there is no key yet; make it with: ridethrough ssh-key") from e
        if path not in _keys:
            raise ConfigError(f"{path}: {e.strerror}") from e
    return _keys[path]


def _arguments(job: Job, files: _Files) -> list[str]:
    """Everything that could be asked of a person or taken from a file of this host is switched off."""
    if problem := wrong(job.server):
        raise ConfigError(problem)
    alias = job.server.name.lower()
    kind, rest = job.server.options["host_key"].split()[:2]
    options = {
        "User": job.server.options["user"],
        "Port": job.server.port,
        "IdentityFile": files.hold(_key(job.folder)),
        "UserKnownHostsFile": files.hold(f"{alias} {kind} {rest}\n".encode()),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": alias,
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ConnectTimeout": max(1, math.ceil(job.connect_s)),
        "ConnectionAttempts": 1,
        "ServerAliveInterval": 5,
        "ServerAliveCountMax": 2,
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "RequestTTY": "no",
        "ControlMaster": "no",
        "ControlPath": "none",
        "LogLevel": "DEBUG2",
    }
    return ["-F", "/dev/null", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]


def _judge(ended: Program) -> Outcome:
    """What the exit code means. 255 is the client's own, or the command's."""
    if ended.code == 0 and ended.marked:
        return Outcome(ACCEPTED, "the command ended with exit code 0")
    if not ended.marked:
        return Outcome(NOT_DELIVERED, _why(ended))
    said, rows = _said(ended)[-1:], ended.text()
    by_itself = ended.code != 255 or any(_ENDED.fullmatch(row) for row in rows)
    if not by_itself and any(_BEGAN.fullmatch(row) for row in rows) and any(_CUT.fullmatch(row) for row in said):
        return Outcome(UNCONFIRMED, "the connection ended while the command ran")
    whose = "the command" if by_itself else "ssh"
    return Outcome(NOT_DELIVERED, ": ".join([f"exit code {ended.code} of {whose}", *said]))


def _why(ended: Program) -> str:
    """Why there was no login, in one line."""
    said = _said(ended)
    for phrase, why in _WHY:
        if any(phrase in row for row in said):
            shown = _SHOWN.search(" ".join(said)) if "host key" in why else None
            return f"{why}: it has the {shown[1]} key {shown[2]}" if shown else why
    return said[-1] if said else f"ssh ended with exit code {ended.code}"


def _said(ended: Program) -> list[str]:
    """What it said but noise; of a long output the first row may be cut in two."""
    rows = ended.text()[1 if len(ended.output) >= OUTPUT_LIMIT_BYTES else 0 :]
    return [row for row in rows if not row.startswith(_NOISE)]
