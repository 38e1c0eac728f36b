"""`ridethrough helper`: does one of a few fixed things as root when the core asks, such as switching this host off.

    core (own user, sandboxed)                     helper (root, started by systemd for one connection)
      | connect /run/ridethrough-helper.sock --------->|  who asks? (SO_PEERCRED)
      | "power-off\\n" -------------------------------->|  runs the one command that stands below for it
      | 'network {"hostname": "ups-cellar"}\\n' ------->|  checks it whole, keeps it, has it applied
      |<------------------------------------- "ok ..." |
      | "check power-off\\n" -------------------------->|  all but the last step: the proof of the way

Only `network` and `time` carry anything: some of what `[system]` may hold, as JSON. It is typed and checked as on the
boot partition (hostsetup.py), and goes into a file, never onto a command line. They and `slot` exist on the image
alone: its units do the rest. Who may ask: root, and the user that the unit names.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .model import ConfigError

SOCKET = "/run/ridethrough-helper.sock"
ORDERS: Mapping[str, Sequence[str]] = {
    "power-off": ("systemctl", "--no-block", "poweroff"),
    "reboot": ("systemctl", "--no-block", "reboot"),
}
#: what is set up -> the keys of [system] that it may name, and who applies it then
SETTINGS: Mapping[str, Sequence[str]] = {
    "network": ("hostname", "address", "gateway", "dns", "wifi"),
    "time": ("timezone", "ntp"),
}
APPLY = ("systemctl", "--no-block", "restart", "ridethrough-provision.service")
APPLIED: Mapping[str, Sequence[str]] = {
    "network": ("systemd-networkd.service", "systemd-resolved.service"),
    "time": ("systemd-timesyncd.service",),
}
WIFI_UNIT = "ridethrough-wifi@wlan0.service"
SLOT: Mapping[str, Sequence[str]] = {"slot": ("systemctl", "--no-block", "start", "ridethrough-slot.service")}
WORDS = (*ORDERS, *SLOT, *SETTINGS)
SYSTEM = Path("/var/lib/ridethrough/system/system.json")
IMAGE = Path("/etc/ridethrough-version")  # only the image has it
ZONES = Path("/usr/share/zoneinfo")
CHECK = "check "
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ASK_S = 5.0  # for the word to come
DONE_S = 20.0  # for the program to end
WORD_LIMIT_BYTES = 8 * 1024
SAID_LIMIT = 200
ANSWER_LIMIT_BYTES = 4096
FILE_LIMIT_BYTES = 256 * 1024


class Refused(Exception):
    """The word is not obeyed; the text says why."""


def may_ask(uid: int, user: str) -> bool:
    """May a process of user id `uid` ask? Root, and `user` by name."""
    try:
        return uid in (0, pwd.getpwnam(user).pw_uid)
    except KeyError:
        return uid == 0


def obey(
    line: str,
    orders: Mapping[str, Sequence[str]] = ORDERS,
    path: str = PATH,
    image: Path = IMAGE,
    kept: Path = SYSTEM,
) -> str:
    """Do what the line says; what became of it in a few words. Refused if it says nothing of ours, or it failed."""
    order = line.removeprefix(CHECK)
    verb, blank, said = order.partition(" ")
    if verb not in (*orders, *SLOT, *SETTINGS) or (blank != "" and verb not in SETTINGS):
        raise Refused(f"unknown word {line[:40]!r}; there are: {', '.join((*orders, *SLOT, *SETTINGS))}")
    if verb not in orders and not image.exists():
        raise Refused(f"{verb}: only on the image; set this host up as any other")
    if verb in SETTINGS:
        return _set(verb, said, line != order, path, kept)
    return _run(orders[verb] if verb in orders else SLOT[verb], line != order, path)


def _run(command: Sequence[str], only_check: bool, path: str) -> str:
    """Run one of the commands that stand above. Refused."""
    name, *arguments = command
    program = shutil.which(name, path=path)
    if program is None:
        raise Refused(f"{name} is not on this host")
    if only_check:
        if os.geteuid() != 0:
            raise Refused(f"the helper runs as user id {os.geteuid()}, not as root")
        return f"the helper would run {program}"
    import subprocess  # only here: the core takes this module's words, and not this memory

    try:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=DONE_S, env={"PATH": path}
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Refused(f"{program}: {e}") from e
    said = (done.stdout + done.stderr).decode("utf-8", "replace").split()
    if done.returncode:
        raise Refused(f"{program}: exit code {done.returncode} {' '.join(said)}"[:SAID_LIMIT])
    return f"{program} ended with 0"


def _set(verb: str, said: str, only_check: bool, path: str, kept: Path) -> str:
    """Check what is said, keep it, and have the image's own units apply it. Refused: everything is as it was."""
    from . import hostsetup, vault, wire  # not for the core, which imports this file: memory

    try:
        data = kept.read_bytes()[:FILE_LIMIT_BYTES]
        before = hostsetup.read(data)
    except FileNotFoundError:
        data, before = b"", hostsetup.System()
    except (OSError, ValueError) as e:
        raise Refused(f"{kept}: {e}; mend it with ridethrough.toml on the boot partition") from e
    try:
        after = hostsetup.changed(before, SETTINGS[verb], json.loads(said), _zone_exists)
    except (ValueError, RecursionError):
        raise Refused(f"{verb}: what it carries is no JSON") from None
    except ConfigError as e:
        raise Refused(f"{verb}: {e}"[: ANSWER_LIMIT_BYTES // 2]) from None
    commands = [(*APPLY, *APPLIED[verb])]
    if verb == "network" and after.wifi != before.wifi:
        commands.append(("systemctl", "--no-block", "restart" if after.wifi else "stop", WIFI_UNIT))
    if only_check or after == before:
        return f"{verb}: that can be done" if only_check else f"{verb}: it is so already"
    try:
        vault.write_private(kept, json.dumps(wire.to_json(after)).encode())
        try:
            for command in commands:
                _run(command, False, path)
        except Refused:
            if data:
                vault.write_private(kept, data)
            else:
                kept.unlink()
            raise
    except OSError as e:
        raise Refused(f"{e.filename or kept}: {e.strerror}") from e
    return f"{verb}: kept, and applied now"


def _zone_exists(name: str) -> bool:
    return (ZONES / name).is_file()


def ask(line: str, place: str = SOCKET, within_s: float = ASK_S + DONE_S) -> str:
    """The helper's answer to one line: "ok ..." or "no ...". OSError."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(within_s)
        connect(sock, place)
        sock.sendall(line.encode() + b"\n")
        data = b""
        while not data.endswith(b"\n") and len(data) < ANSWER_LIMIT_BYTES:
            more = sock.recv(ANSWER_LIMIT_BYTES)
            if not more:
                break
            data += more
    return answered(data)


def connect(sock: socket.socket, place: str) -> None:
    """To the helper. OSError says what may be wrong."""
    try:
        sock.connect(place)
    except OSError as e:
        raise OSError(e.errno, f"{e.strerror} (is ridethrough-helper.socket started?)", place) from e


def answered(data: bytes) -> str:
    """What the helper's octets say, fit for a log. OSError if it said nothing."""
    text = data.decode("utf-8", "replace").strip()
    if not text:
        raise OSError("the helper hung up")
    return text if text.isprintable() else ascii(text)


def serve(
    sock: socket.socket,
    user: str,
    orders: Mapping[str, Sequence[str]] = ORDERS,
    path: str = PATH,
    image: Path = IMAGE,
    kept: Path = SYSTEM,
) -> int:
    """Answer the one line of a connection; 0 if it was obeyed, else 1. OSError if nobody is there any more."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    sock.settimeout(ASK_S)
    line = ""
    try:
        if not may_ask(uid, user):
            raise Refused(f"user id {uid} may not ask")
        line = _word(sock)
        answer, code = f"ok {obey(line, orders, path, image, kept)}", 0
    except Refused as e:
        answer, code = f"no {e}", 1
    shown = line.partition("{")[0][:40].strip()  # what follows may be a pass phrase
    print(f"process {pid} of user id {uid} asked {shown!r}: {answer}", file=sys.stderr, flush=True)
    sock.sendall(answer.encode("utf-8", "replace") + b"\n")
    return code


def _word(sock: socket.socket) -> str:
    """One line. Refused if none comes."""
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) <= WORD_LIMIT_BYTES:
            more = sock.recv(WORD_LIMIT_BYTES + 1)
            if not more:
                break
            data += more
    except TimeoutError:
        pass  # what came is looked at
    if not data.endswith(b"\n") or len(data) > WORD_LIMIT_BYTES:
        raise Refused("no whole word came")
    return data[:-1].decode("utf-8", "replace")


def main(user: str) -> int:
    """Serve the connection on standard input, as systemd hands it over (Accept=yes). ConfigError if there is none."""
    try:
        with socket.socket(fileno=os.dup(0)) as sock:
            if sock.family != socket.AF_UNIX:
                raise OSError("not a local socket")
            return serve(sock, user)
    except OSError as e:
        raise ConfigError(f"helper: {e} (it is started by ridethrough-helper.socket)") from e
