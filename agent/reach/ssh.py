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
from ..program import Program
from ..vault import write_private
from . import ACCEPTED, NOT_DELIVERED, PROVEN, UNCONFIRMED, UNKNOWN, Job, Late, Outcome, Steps

NAME, TITLE, PORT, SLOTS = "ssh", "SSH: a forced command", 22, 64
OPTIONS = (
    Option(name="user", kind=str, required=True, help="who logs in on the server"),
    Option(name="host_key", kind=str, required=True, help='the server\'s public host key: "ssh-ed25519 AAAA..."'),
    Option(name="command", kind=str, required=True, help="which NAME.ssh in commands_dir holds what is asked"),
)

LOGIN_S = 5.0  # from the connection to "authenticated"
COMMAND_S = 20.0  # from there to the command's end
KEYGEN_S = 60.0  # on a slow board
KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}[$]?")
_SHOWN = re.compile(r"The fingerprint for the (\S+) key sent by the remote host is (SHA256:[A-Za-z0-9+/]+)")
#: of a connection that ended by an error after the login: the command was not asked, or nobody knows
_HUNG = ("request failed on channel", "open failed", "Timeout, server", "timed out")
_NOISE = ("Transferred: ", "Bytes per second: ", "Warning: Permanently added", "Authenticated to ")
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
    try:
        asked = commands.line(job.commands_dir, job.server.options["command"])
        running = _start([client, *_arguments(job), "--", _host(job), asked])
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
    try:
        commands.line(job.commands_dir, job.server.options["command"])
        running = _start([client, "-N", *_arguments(job), "--", _host(job)])
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


def _arguments(job: Job) -> list[str]:
    """Everything that could be asked of a person or taken from a file of this host is switched off."""
    if problem := wrong(job.server):
        raise ConfigError(problem)
    key = job.folder / "ssh-key"
    if not key.exists():
        raise ConfigError("there is no key yet; make it with: ridethrough ssh-key")
    options = {
        "User": job.server.options["user"],
        "Port": job.server.port,
        "IdentityFile": _quoted(key),
        "UserKnownHostsFile": _quoted(_known_hosts(job)),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": job.server.name.lower(),
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
        "LogLevel": "VERBOSE",
    }
    return ["-F", "/dev/null", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]


def _quoted(path: Path) -> str:
    """As the client's options want a path: it may hold blanks, and % begins a token."""
    return '"' + str(path).replace("%", "%%") + '"'


def _known_hosts(job: Job) -> Path:
    """The file with this server's host key alone; written only when it differs, so a full disk does no harm."""
    path = job.folder / "known-hosts" / job.server.name
    kind, rest = job.server.options["host_key"].split()[:2]
    text = f"{job.server.name.lower()} {kind} {rest}\n".encode()
    try:
        if path.read_bytes() == text:
            return path
    except FileNotFoundError:
        pass  # the first time
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # without fsync, which may take long: a torn file differs and is written again
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(text)
    os.replace(new, path)
    return path


def _judge(ended: Program) -> Outcome:
    """What the exit code means; 255 is the client's own."""
    if ended.code == 0 and ended.marked:
        return Outcome(ACCEPTED, "the command ended with exit code 0")
    if not ended.marked:
        return Outcome(NOT_DELIVERED, _why(ended))
    said = _said(ended)[-1:]
    if ended.code == 255 and not any(phrase in row for row in said for phrase in _HUNG):
        return Outcome(UNCONFIRMED, "the connection ended while the command ran")
    whose = "ssh" if ended.code == 255 else "the command"
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
    return [row for row in ended.text() if not row.startswith(_NOISE)]
