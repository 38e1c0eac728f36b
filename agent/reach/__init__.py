"""The ways to tell a server to shut down: one file each, known by its name (`how` in a [[server]]).

A way is a module with

    PORT          the default of the server's `port`; 0: it has none
    port(options) optional: the default with these options
    place(server) optional: (host, port, what) that it really goes to, if that may be another than the server's own;
                  `what` is not "" if several servers may go there, each with something else
    OPTIONS       what a [[server]] with this way may hold besides the common options (agent/config.py)
    wrong(server) what is wrong with the server's options taken together, or ""
    send(job)     tell it to go down now; ends with ACCEPTED, UNCONFIRMED or NOT_DELIVERED
    prove(job)    the same as far as possible without telling it anything; ends with PROVEN, REACHABLE or UNKNOWN
    release(job)  optional: tell it that the outage is over; ends with any word
    say(job, verb, argument)  optional: an RCCMD command by hand; ends as send does
    SLOTS         optional: so many of this way at once (processes, TLS handshakes); without it any number
    trust(server, pin)  optional: secure | classic | not-enrolled; SLOTS are for the secure ones then

`send` and `prove` are generators: they never block, but yield a Wait whenever they must wait for a descriptor, and
return an Outcome. The delivery runs a thousand of them in one thread. When a Wait takes too long, Late is thrown in
at its `yield`; when the outage ends, the generator is closed: whatever it holds is given back in a `finally`.
OSError and Late that are not caught count as NOT_DELIVERED or UNKNOWN with the error's text.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..config import Server
from ..model import ConfigError
from ..reading import nearest

ACCEPTED, UNCONFIRMED, NOT_DELIVERED = "accepted", "delivered-unconfirmed", "not-delivered"
PROVEN, REACHABLE, UNKNOWN = "proven", "reachable", "unknown"

Address = tuple[int, tuple[str | int, ...]]  # family, and the kernel's form without the port: (host, *flow and scope)


class Late(Exception):
    """What a way waited for did not come in time; the text says what."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on when `fd` can be read (or written); throw Late(why) after `within_s`."""

    fd: int
    write: bool
    within_s: float
    why: str  # "no connection in time", "no answer"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: one of the words above, and one line about it."""

    word: str
    detail: str = ""
    up: bool = False  # a proof that is not good, but it answered: after an outage it is back


Steps = Generator[Wait, None, Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a way needs to know of one attempt."""

    server: Server
    address: Address | None  # of the server, looked up; None: this way or server has none
    outage: str  # 16 hex digits; "" for a proof
    connect_s: float  # how long a connection may take: 2 s in the first pass
    folder: Path  # the core's own: keys, known hosts
    commands_dir: Path  # what people allowed to be run
    secret: Callable[[str], str | None]  # label -> secret
    heard: Callable[[], None] = lambda: None  # to be called when the whole order has left, before the answer
    pin: str = ""  # SHA-256 of the certificate of an enrolled server, 64 hex digits
    former: tuple[str, ...] = ()  # of those that it had before and that are as good
    settle: Callable[[str], None] = lambda sha256: None  # to be called when this one was seen at work


def connect(job: Job) -> Generator[Wait, None, socket.socket]:
    """A TCP connection to the server of `job`, which the caller closes. OSError, Late if there is none."""
    if job.address is None:
        raise OSError(f"{job.server.address} could not be looked up")
    family, (host, *rest) = job.address
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    connected = False
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the last word waits 40 ms for the peer's
        try:
            sock.connect((host, job.server.port, *rest))
        except BlockingIOError:
            yield Wait(sock.fileno(), True, job.connect_s, "no connection in time")
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error)) from None
        connected = True
    finally:
        if not connected:  # also when the generator is closed at its yield
            sock.close()
    return sock


def available() -> list[str]:
    """Names of all ways, sorted; a way is registered by existing."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The module of the way `name`. ConfigError naming the right ones if there is none."""
    names = available()
    if name not in names:
        raise ConfigError(f'no way "{name}"{nearest(name, names)}; there are: {", ".join(names)}')
    return importlib.import_module(f"{__name__}.{name}")
