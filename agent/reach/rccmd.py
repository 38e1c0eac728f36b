"""Tells a server over classic RCCMD: one line over TCP, and the way the server closes is its answer.

    CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN\\n      then we half-close

    the peer closes normally, having read the line     delivered, unconfirmed: nobody says that it will obey
    it resets, or closes without reading                not delivered

There is no authentication, so a proof is only that somebody accepts connections there: reachable, never proven.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

from ..config import Server
from ..model import Option
from ..rccmd import codec
from . import NOT_DELIVERED, REACHABLE, UNCONFIRMED, Job, Outcome, Steps, Wait, connect

NAME, TITLE, PORT = "rccmd", "RCCMD (classic)", codec.PORT
OPTIONS: tuple[Option, ...] = ()

CLOSE_WAIT_S = 5.0  # for the peer to close after the line
ANSWER_LIMIT_BYTES = 256
DETAIL_LIMIT = 120


def wrong(server: Server) -> str:
    """Nothing can be wrong."""
    return ""


def send(job: Job) -> Steps:
    """The SHUTDOWN line."""
    return (yield from _say(job, codec.encode(codec.SHUTDOWN)))


def release(job: Job) -> Steps:
    """The WAKEUP line: the next SHUTDOWN is a new one, and a vote that did not suffice is withdrawn."""
    return (yield from _say(job, codec.encode(codec.WAKEUP)))


def prove(job: Job) -> Steps:
    """A connection, and nothing is said."""
    sock = yield from connect(job)
    sock.close()
    return Outcome(REACHABLE, "accepts connections")


def _say(job: Job, line: bytes) -> Steps:
    """The whole line in one write, then half-close: the peer's own close is its answer."""
    sock = yield from connect(job)
    try:
        if sock.send(line) != len(line):
            return Outcome(NOT_DELIVERED, "the line was not taken whole")
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # reset meanwhile: reading says why
        answer = b""
        while True:
            yield Wait(sock.fileno(), False, CLOSE_WAIT_S, "no answer")
            try:
                data = sock.recv(ANSWER_LIMIT_BYTES)
            except BlockingIOError:
                continue
            except OSError as e:
                return Outcome(NOT_DELIVERED, f"refused ({e.strerror or e})")
            if not data:
                break
            answer += data[: ANSWER_LIMIT_BYTES - len(answer)]
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _unread_bytes(sock):
            return Outcome(NOT_DELIVERED, "closed without reading")
    finally:
        sock.close()
    return Outcome(UNCONFIRMED, f"answered {answer!r}"[:DETAIL_LIMIT] if answer else "closed without a word")


def _unread_bytes(sock: socket.socket) -> int:
    """How much of what was sent the peer's machine has not taken (Linux SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0])
