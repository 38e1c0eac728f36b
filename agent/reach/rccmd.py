"""Tells a server over RCCMD: secure to a server that was enrolled, else classic, one line over TCP or UDP.

Secure (TLS with pinned keys, agent/rccmd and docs/rccmd.md): one request line, one reply line in the server's words.
Its proof is a NOOP, which only a server with the right key can answer: proven.

Classic: the public form; the way the server closes is its answer.

    CONNECT TO RCCMD (SEND) MSG_EXECUTE SHUTDOWN\\n      then we half-close

    the peer closes normally, having read the line     delivered, unconfirmed: nobody says that it will obey
    it resets, or closes without reading                not delivered

There is no authentication, so a classic proof is only that somebody accepts connections there: reachable, never
proven. Of datagrams (`udp`) nobody knows anything: not delivered, and said again until the outage ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from .. import senderkey, tlssteps
from ..config import Server
from ..model import Option
from ..rccmd import codec, secure
from . import (
    ACCEPTED,
    NOT_DELIVERED,
    PROVEN,
    REACHABLE,
    UNCONFIRMED,
    UNKNOWN,
    Job,
    Late,
    Outcome,
    Steps,
    Wait,
    connect,
)

if TYPE_CHECKING:
    import ssl

PORT, SLOTS = codec.PORT, 64  # SLOTS: of handshakes; classic ones need none
OPTIONS = (
    Option(name="secure", kind=bool, help="true: only secure; false: only classic; else secure when it is enrolled"),
    Option(name="template", kind=str, help="classic: the message, with {command} for the verb and its argument"),
    Option(
        name="terminator",
        kind=str,
        choices=tuple(codec.TERMINATORS),
        help="classic: what ends the message; lf, over UDP none",
    ),
    Option(name="half_close", kind=bool, default=True, help="classic: say that nothing more comes (shutdown of TCP)"),
    Option(name="udp", kind=bool, default=False, help="classic: datagrams, also to a broadcast address"),
)

CLOSE_WAIT_S = 5.0  # for the peer to close after the line
ANSWER_S = 5.0  # secure: for the reply
ANSWER_LIMIT_BYTES = 256
DETAIL_LIMIT = 120
COPIES, APART_S = 3, 1.0  # of a datagram, because they get lost
OLD_SELFTEST_S = 2 * 24 * 3600.0
FORMER = "a former key"  # no KEY of a reply can have blanks
NOT_ENROLLED = "not enrolled yet: ridethrough enroll {name}"

_identity = tlssteps.Identity()


def wrong(server: Server) -> str:
    """What is wrong with the options taken together."""
    get = server.options.get
    template = get("template")
    if get("secure") and (template or get("terminator") or get("udp") or get("half_close") is False):
        return "secure = true: template, terminator, half_close and udp are for classic RCCMD; remove them"
    if template is not None and str(template).count("{command}") != 1:
        return f'template = "{template}": must hold {{command}} once, where the verb stands'
    try:
        _line(server, codec.SHUTDOWN)
    except ValueError as e:
        return f"template: {e}"
    if get("udp") and get("half_close") is False:
        return "udp: half_close is for TCP; remove it"
    return ""


def trust(server: Server, pin: str) -> str:
    """How far the server is known: secure | classic | not-enrolled. `pin`: SHA-256 of its certificate, or ''."""
    wanted = server.options.get("secure")
    if wanted is False or server.options.get("udp"):
        return "classic"
    return "secure" if pin else "not-enrolled" if wanted else "classic"


def send(job: Job) -> Steps:
    """SHUTDOWN."""
    return (yield from say(job, codec.SHUTDOWN))


def release(job: Job) -> Steps:
    """WAKEUP: the next SHUTDOWN is a new one, and a vote that did not suffice is withdrawn."""
    return (yield from say(job, codec.WAKEUP))


def say(job: Job, verb: str, argument: str = "") -> Steps:
    """One command. ACCEPTED (secure), UNCONFIRMED (classic over TCP) or NOT_DELIVERED."""
    how = trust(job.server, job.pin)
    if how == "not-enrolled":
        return Outcome(NOT_DELIVERED, NOT_ENROLLED.format(name=job.server.name))
    if how == "secure":
        outage = job.outage if verb in (codec.SHUTDOWN, codec.WAKEUP) else ""
        return _outcome((yield from _ask(job, verb, outage, argument)))
    line = _line(job.server, verb, argument)
    if job.server.options.get("udp"):
        return (yield from _scatter(job, line, COPIES if verb in (codec.SHUTDOWN, codec.WAKEUP) else 1))
    return (yield from _tell(job, line))


def prove(job: Job) -> Steps:
    """Secure: a NOOP. Classic: a connection, and nothing is said."""
    how = trust(job.server, job.pin)
    if how == "not-enrolled":
        return Outcome(UNKNOWN, NOT_ENROLLED.format(name=job.server.name))
    if how == "secure":
        return _proof((yield from _ask(job, secure.NOOP, "", "")))
    if job.server.options.get("udp"):
        return Outcome(UNKNOWN, "UDP: nobody can say whether it listens")
    sock = yield from connect(job)
    sock.close()
    return Outcome(REACHABLE, "accepts connections")


# --- secure -----------------------------------------------------------------------------------------------------


def _ask(job: Job, verb: str, outage: str, argument: str) -> Generator[Wait, None, secure.Reply]:
    """The server's reply. OSError, Late, ValueError if there is none, with what to do about it."""
    import ssl

    line = secure.encode_request(secure.Request(verb, outage or os.urandom(8).hex(), argument))
    context = _identity.context(job.folder / senderkey.NAME, again=not job.outage)
    sock = yield from connect(job)
    ended = "closed in the handshake"
    try:
        secured = yield from tlssteps.secure(sock, context, job.connect_s)
        try:
            shown = tlssteps.check(secured, *map(bytes.fromhex, (job.pin, *job.former))).hex()
            ended = "closed after the handshake: does it still know this adapter's key?"
            job.heard()
            answer = yield from tlssteps.ask(secured, line, secure.REPLY_LIMIT_BYTES, ANSWER_S)
        finally:
            secured.close()
    except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError) as e:
        raise OSError(ended) from e
    except ssl.SSLError as e:
        raise OSError(_why(e)) from e
    try:
        reply = secure.parse_reply(answer)
    except secure.Malformed as e:
        raise OSError(f"not an answer: {e}") from e
    job.settle(shown)
    if shown == job.pin:
        return reply
    return secure.Reply(reply.word, {**reply.facts, FORMER: "yes"})


def _why(error: ssl.SSLError) -> str:
    """What an error of the TLS library means here."""
    reason = (error.reason or "").replace("_", " ").lower()
    if "alert" in reason:
        return f"refuses this adapter's key ({reason}): enrol it anew"
    if reason in ("wrong version number", "unexpected message", "record layer failure"):
        return f"does not speak TLS ({reason}): is it a classic one?"
    return reason or str(error.strerror or error)


def _outcome(reply: secure.Reply) -> Outcome:
    """A reply in the words of the house."""
    detail = {secure.DUPLICATE: "was told before", secure.GOING_DOWN: "is going down"}.get(reply.word, "")
    if reply.word in (secure.ACCEPTED, secure.DUPLICATE, secure.GOING_DOWN):
        return Outcome(ACCEPTED, detail)
    why = reply.facts.get("why", "")
    return Outcome(NOT_DELIVERED, f"{reply.word}: {why}" if why else reply.word)


def _proof(reply: secure.Reply) -> Outcome:
    """What a NOOP proves. A server that is going down does not count as back."""
    if reply.word == secure.GOING_DOWN:
        return Outcome(UNKNOWN, "is going down")
    if reply.word != secure.ACCEPTED:
        return Outcome(UNKNOWN, _outcome(reply).detail, up=True)
    if FORMER in reply.facts:
        return Outcome(
            UNKNOWN, "not enrolled anew to the end: it answers, and a shutdown arrives, by a former key", up=True
        )
    selftest, age = reply.facts.get("selftest", "off"), reply.facts.get("selftest_age_s", "")
    if selftest in ("failed", "never"):  # "off" where there is none
        return Outcome(UNKNOWN, "self test failed" if selftest == "failed" else "self test not done yet", up=True)
    old = selftest == "ok" and age.isdecimal() and int(age[:9]) > OLD_SELFTEST_S
    said = f"self test {selftest}" + (f", {int(age[:9]) // 86400} days ago" if old else "")
    need, voices = reply.facts.get("need", "1"), reply.facts.get("voices", "")
    if need.isdecimal() and voices.isdecimal() and int(need[:4]) > int(voices[:4]):
        return Outcome(UNKNOWN, "too few adapters may ask", up=True)
    said += f", needs {need} adapters" if need.isdecimal() and int(need[:4]) > 1 else ""
    return Outcome(PROVEN, f"version {reply.facts.get('version', '?')[:20]}, {said}"[:DETAIL_LIMIT])


# --- classic ----------------------------------------------------------------------------------------------------


def _line(server: Server, verb: str, argument: str = "") -> bytes:
    """The message in the form that this server wants. ValueError if there is none."""
    get = server.options.get
    terminator = get("terminator") or ("none" if get("udp") else "lf")
    return codec.encode(verb, argument, template=get("template") or codec.TEMPLATE, terminator=terminator)


def _tell(job: Job, line: bytes) -> Steps:
    """The whole line in one write, then half-close: the peer's own close is its answer."""
    sock = yield from connect(job)
    try:
        if sock.send(line) != len(line):
            return Outcome(NOT_DELIVERED, "the line was not taken whole")
        job.heard()
        if job.server.options.get("half_close") is not False:
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


def _scatter(job: Job, datagram: bytes, copies: int) -> Steps:
    """Some copies of a datagram. Nobody says that one arrived; only that nobody listens there may come back."""
    if job.address is None:
        raise OSError(f"{job.server.address} could not be looked up")
    family, (host, *rest) = job.address
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.connect((host, job.server.port, *rest))
        for copy in range(copies):
            if copy:
                yield from _pause(sock)
            sock.send(datagram)
            job.heard()
    times = "once" if copies == 1 else f"{copies} times"
    return Outcome(NOT_DELIVERED, f"sent {times} by UDP: nobody can say whether it arrived")


def _pause(sock: socket.socket) -> Generator[Wait, None, None]:
    """Until the next copy; what comes back is not looked at, but an error is raised."""
    end_s = time.monotonic() + APART_S
    while (left_s := end_s - time.monotonic()) > 0:
        try:
            yield Wait(sock.fileno(), False, left_s, "the next copy")
        except Late:
            return
        try:
            sock.recv(ANSWER_LIMIT_BYTES)
        except BlockingIOError:
            continue
