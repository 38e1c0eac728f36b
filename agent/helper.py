"""`ridethrough helper`: does one of a few fixed things as root when the core asks, such as switching this host off.

    core (own user, sandboxed)                     helper (root, started by systemd for one connection)
      | connect /run/ridethrough-helper.sock --------->|  who asks? (SO_PEERCRED)
      | "power-off\\n" -------------------------------->|  runs the one command that stands below for it
      |<------------------------------------- "ok ..." |
      | "check power-off\\n" -------------------------->|  all but the last step: the proof of the way

No word carries an argument, and none comes from a configuration. Who may ask: root, and the user that the unit names.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence

from .model import ConfigError

SOCKET = "/run/ridethrough-helper.sock"
ORDERS: Mapping[str, Sequence[str]] = {
    "power-off": ("systemctl", "--no-block", "poweroff"),
    "reboot": ("systemctl", "--no-block", "reboot"),
}
CHECK = "check "
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ASK_S = 5.0  # for the word to come
DONE_S = 20.0  # for the program to end
WORD_LIMIT_BYTES = 64
SAID_LIMIT = 200


class Refused(Exception):
    """The word is not obeyed; the text says why."""


def may_ask(uid: int, user: str) -> bool:
    """May a process of user id `uid` ask? Root, and `user` by name."""
    try:
        return uid in (0, pwd.getpwnam(user).pw_uid)
    except KeyError:
        return uid == 0


def obey(word: str, orders: Mapping[str, Sequence[str]] = ORDERS, path: str = PATH) -> str:
    """Do the word; what became of it in a few words. Refused if it is none, or failed."""
    order = word.removeprefix(CHECK)
    if order not in orders:
        raise Refused(f"unknown word {word[:40]!r}; there are: {', '.join(orders)}")
    name, *arguments = orders[order]
    program = shutil.which(name, path=path)
    if program is None:
        raise Refused(f"{name} is not on this host")
    if word != order:
        if os.geteuid() != 0:
            raise Refused(f"the helper runs as user id {os.geteuid()}, not as root")
        return f"the helper would run {program}"
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


def serve(sock: socket.socket, user: str, orders: Mapping[str, Sequence[str]] = ORDERS, path: str = PATH) -> int:
    """Answer the one word of a connection; 0 if it was obeyed, else 1. OSError if nobody is there any more."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    sock.settimeout(ASK_S)
    word = ""
    try:
        if not may_ask(uid, user):
            raise Refused(f"user id {uid} may not ask")
        word = _word(sock)
        answer, code = f"ok {obey(word, orders, path)}", 0
    except Refused as e:
        answer, code = f"no {e}", 1
    print(f"process {pid} of user id {uid} asked {word!r}: {answer}", file=sys.stderr, flush=True)
    sock.sendall(answer.encode("utf-8", "replace") + b"\n")
    return code


def _word(sock: socket.socket) -> str:
    """One line. Refused if none comes."""
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) <= WORD_LIMIT_BYTES:
            more = sock.recv(WORD_LIMIT_BYTES)
            if not more:
                break
            data += more
    except TimeoutError:
        pass
    if not data.endswith(b"\n") or len(data) > WORD_LIMIT_BYTES:
        raise Refused("no whole word came")
    return data[:-1].decode("ascii", "replace")


def main(user: str) -> int:
    """Serve the connection on standard input, as systemd hands it over (Accept=yes). ConfigError if there is none."""
    try:
        with socket.socket(fileno=os.dup(0)) as sock:
            if sock.family != socket.AF_UNIX:
                raise OSError("not a local socket")
            return serve(sock, user)
    except OSError as e:
        raise ConfigError(f"helper: {e} (it is started by ridethrough-helper.socket)") from e
