"""The sender: tells one command to one or many listeners at the same time and says what became of each."""

from __future__ import annotations

import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .codec import SHUTDOWN, WAKEUP, encode

CONNECT_S = 5.0
ANSWER_S = 5.0  # how long to wait for the listener's end
ANSWER_LIMIT_BYTES = 2048
COPIES = {SHUTDOWN: 3, WAKEUP: 3}  # over UDP, where datagrams get lost; other verbs once
APART_S = 1.0
ADDRESSES_LIMIT = 256


@dataclass(frozen=True)
class Message:
    """What to send and how. `text` is the verb and its argument, as after `-se`."""

    text: str
    port: int
    udp: bool = False
    template: str | None = None  # None: the public form
    terminator: str | None = None  # None: lf on TCP, none on UDP
    half_close: bool = True

    def encoded(self) -> bytes:
        """The bytes. Raises ValueError for what cannot be sent."""
        verb, _, argument = self.text.partition(" ")
        terminator = self.terminator or ("none" if self.udp else "lf")
        if self.template is None:
            return encode(verb, argument, terminator=terminator)
        return encode(verb, argument, template=self.template, terminator=terminator)


def send_all(addresses: list[str], message: Message, *, apart_s: float = APART_S) -> bool:
    """Send to all addresses in parallel, one line on stdout for each as it is known. True: all went well."""
    data = message.encoded()
    printing = threading.Lock()

    def one(address: str) -> bool:
        if message.udp:
            copies = COPIES.get(message.text.partition(" ")[0], 1)
            good, outcome = send_udp(address, message.port, data, copies=copies, apart_s=apart_s)
        else:
            good, outcome = send_tcp(address, message.port, data, half_close=message.half_close)
        with printing:
            print(f"{address} port {message.port}: {outcome}", flush=True)
        return good

    with ThreadPoolExecutor(max_workers=len(addresses)) as pool:
        return all(list(pool.map(one, addresses)))


def send_tcp(address: str, port: int, data: bytes, *, half_close: bool = True) -> tuple[bool, str]:
    """One delivery over TCP: (good, outcome). Good: the message was written whole, the listener closed normally."""
    written = False
    answer = b""
    try:
        with socket.create_connection((address, port), timeout=CONNECT_S) as sock:
            if sock.send(data) != len(data):
                return False, "not delivered, the message did not fit in one write"
            written = True
            if half_close:
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # a reset came first; recv says so
            until_s = time.monotonic() + ANSWER_S
            while True:
                sock.settimeout(max(0.001, until_s - time.monotonic()))
                got = sock.recv(ANSWER_LIMIT_BYTES)
                if not got:
                    return True, "delivered, unconfirmed" + _answered(answer)
                answer = (answer + got)[:ANSWER_LIMIT_BYTES]
    except socket.timeout:
        what = f"the listener did not close within {ANSWER_S:.0f} s" if written else "no connection in time"
        return False, f"not delivered, {what}{_answered(answer)}"
    except ConnectionResetError:
        return False, "not delivered, the listener refused it (reset)" + _answered(answer)
    except OSError as e:
        return False, f"not delivered, {e.strerror or e}"


def send_udp(address: str, port: int, data: bytes, *, copies: int, apart_s: float = APART_S) -> tuple[bool, str]:
    """Some datagrams, also to a broadcast address: (good, outcome). Good means sent; nobody says that it arrived."""
    pause = threading.Event()
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.connect(where)  # so that "nobody listens here" reaches us
            for copy in range(copies):
                if copy:
                    pause.wait(apart_s)
                sock.send(data)
    except ConnectionRefusedError:
        return False, "not delivered, nobody listens there"
    except OSError as e:
        return False, f"not sent, {e.strerror or e}"
    return True, "sent" if copies == 1 else f"sent {copies} times"


def _answered(answer: bytes) -> str:
    return f"; it said {answer!r}" if answer else ""


def run(addresses: list[str], message: Message) -> int:
    """Send and return the exit code: 0 all delivered (UDP: sent), 1 not all, 2 the message cannot be sent."""
    if len(addresses) > ADDRESSES_LIMIT:
        print(f"rccmd: {len(addresses)} addresses; at most {ADDRESSES_LIMIT} at a time", file=sys.stderr)
        return 2
    try:
        return 0 if send_all(addresses, message) else 1
    except ValueError as e:
        print(f"rccmd: {e}", file=sys.stderr)
        return 2
