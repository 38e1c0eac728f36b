"""Asks an SNMP agent with version 3: hands the requests of agent/snmplink.py to a child process, agent/snmpchild.py.

The child outlives the link: it needs seconds to start on a small board, and a link is opened anew after a silence. It
ends with this process (its input ends), by itself after a minute without a request, and is killed when it has not
said a word for HUNG_S; then it is started again with a back-off. An answer that comes too late is thrown away.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from . import ber
from .link import ready
from .model import LinkError, Reply

log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("snmpchild.py")
START_WITHIN_S = 30.0
HUNG_S = 20.0  # it makes keys of passphrases for some seconds on a small board, and answers nobody meanwhile
OVER_S = 0.4  # what the child may take longer than the agent was given
BACK_OFF_S = (1.0, 60.0)  # first and longest; doubled at each failure
LINE_LIMIT_BYTES = 64 * 1024
PASSPHRASES = 'label of the two passphrases, "SIGN CRYPT", of 8 characters or more each and without blanks in them'

#: what the library says (pysnmp, proto/errind.py), or the child -> what it means here
MEANINGS: Mapping[str, str] = {
    **dict.fromkeys(
        ("Wrong SNMP PDU digest", "Authentication failure"),
        "the agent refuses the signature: is the first passphrase of [ups] secret right, and auth?",
    ),
    **dict.fromkeys(
        ("Ciphering services", "Decryption error"),
        "the agent cannot decrypt: is the second passphrase of [ups] secret right, and priv?",
    ),
    "there, but": "the agent is there and does not answer what is encrypted: is the second passphrase of [ups] secret"
    " right, and priv?",
    "Unknown USM user": "the agent does not know [ups] user",
    "Unsupported SNMP security level": "the agent wants another level than signed and encrypted for [ups] user",
}

_children: dict[str, Child] = {}  # one, the last that was asked for


def open(section: Mapping[str, Any], now: Callable[[], float], name: str) -> Snmp3Link:  # noqa: A001
    """The link to the agent; starts the child if there is none. LinkError names what is wrong in the section."""
    keys = str(section["password"]).split(" ")
    if not section.get("user"):
        raise LinkError("[ups] user: version 3 needs the name of the agent's user")
    if len(keys) != 2 or any(len(key) < 8 for key in keys):
        raise LinkError(f"[ups] secret: of version 3 it is the {PASSPHRASES}")
    first = json.dumps(
        {
            "host": section["host"], "port": int(section.get("udp_port", 161)), "user": section["user"],
            "auth": section.get("auth", "sha256"), "auth_key": keys[0],
            "priv": section.get("priv", "aes128"), "priv_key": keys[1],
        }
    )  # fmt: skip
    if first not in _children:
        for other in _children.values():
            other.end()
        _children.clear()
        _children[first] = Child(first, now)
    return Snmp3Link(_children[first], now, name)


class Child:
    """The child process, started when it is needed and as often as the back-off allows."""

    def __init__(self, first: str, now: Callable[[], float]) -> None:
        self._first, self._now = first, now
        self.process: subprocess.Popen[bytes] | None = None
        self._inbox = b""
        self._ready = False
        self._started_s = self._due_s = self._heard_s = 0.0
        self._back_off_s = BACK_OFF_S[0]
        self._id = 0

    def ask(self, request: dict[str, Any], within_s: float) -> dict[str, Any]:
        """Its answer to this request. LinkError: none in time, or it is (still) not there."""
        end_s = self._now() + within_s + OVER_S
        try:
            self._have(end_s)
            assert self.process is not None and self.process.stdin is not None
            self._id += 1
            line = json.dumps({**request, "id": self._id, "within_s": within_s})
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
            while True:
                said = self._line(end_s)
                self._heard_s = self._now()
                if said.get("id") == self._id:
                    self._back_off_s = BACK_OFF_S[0]
                    return said
        except TimeoutError as e:
            if self._now() - self._heard_s < HUNG_S:
                raise LinkError("no answer in time by the program for version 3") from e
            self._failed(e)
        except (OSError, ValueError) as e:
            self._failed(e)

    def _failed(self, error: Exception) -> NoReturn:
        """End it; it may start again when the back-off is over."""
        self.end()
        self._due_s = self._now() + self._back_off_s
        self._back_off_s = min(self._back_off_s * 2, BACK_OFF_S[1])
        raise LinkError(f"the program for version 3 failed ({error}); it is started again") from error

    def _have(self, end_s: float) -> None:
        """A child that is ready. LinkError while it starts; OSError: it does not."""
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            self.end()
            if code:
                raise OSError(f"it ended with {code}")
        if self.process is None:
            if self._now() < self._due_s:
                raise LinkError("the program for version 3 failed; it is started again soon")
            self.process = subprocess.Popen(  # noqa: S603 (our own file)
                [sys.executable, "-I", "-W", "ignore", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            self._started_s, self._inbox, self._ready = self._now(), b"", False
            assert self.process.stdin is not None
            self.process.stdin.write(self._first.encode() + b"\n")
        if self._ready:
            return
        try:
            said = self._line(end_s)
            if "missing" in said:
                raise OSError(f"it needs the package pysnmp-lextudio: {said['missing']}")
            self._ready, self._heard_s = bool(said.get("ready")), self._now()
        except TimeoutError as e:
            if self._now() - self._started_s > START_WITHIN_S:
                raise OSError("it does not start") from e
            raise LinkError("the program for version 3 is still starting") from None

    def _line(self, end_s: float) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        while b"\n" not in self._inbox:
            left_s = end_s - self._now()
            if left_s <= 0 or not ready(self.process.stdout.fileno(), select.POLLIN, left_s):
                raise TimeoutError("no word in time")
            part = os.read(self.process.stdout.fileno(), LINE_LIMIT_BYTES)
            if not part or len(self._inbox) > LINE_LIMIT_BYTES:
                raise OSError("it ended" if not part else "a line without end")
            self._inbox += part
        line, _, self._inbox = self._inbox.partition(b"\n")
        said = json.loads(line)
        if not isinstance(said, dict):
            raise ValueError("no object")
        return said

    def end(self) -> None:
        """Kill it, if it is there."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class Snmp3Link:
    """See agent/snmplink.py: the same requests and answers."""

    wake_fd: int | None = None

    def __init__(self, child: Child, now: Callable[[], float], name: str) -> None:
        self._child, self._now, self._name = child, now, name

    def ask(self, command: bytes, *, end: bytes = b"", limit_bytes: int = 0, within_s: float = 3.0) -> Reply:
        """The answer to the request `command`. LinkError: none in time, or none that can be read."""
        tag, start, stop = ber.head(command, 0, len(command))
        bindings = [
            [".".join(map(str, ber.arcs(name))), ber.tlv(kind, body).hex()]
            for name, kind, body in ber.values(command[start:stop])
        ]
        said = self._child.ask({"tag": tag, "bindings": bindings}, max(0.1, min(within_s, 4.0)))
        if "failed" in said:
            failed = str(said["failed"])[:200]
            raise LinkError(f"{self._name}: {next((m for word, m in MEANINGS.items() if word in failed), failed)}")
        try:
            found = b"".join(
                ber.binding(ber.oid(tuple(map(int, name.split(".")))), bytes.fromhex(value))
                for name, value in said["bindings"]
            )
            data = ber.integer(int(said["error"])) + ber.integer(int(said["index"])) + ber.tlv(ber.SEQUENCE, found)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as e:
            raise LinkError(f"{self._name}: the program for version 3 said {str(said)[:64]}") from e
        return Reply(data, self._now())

    def send(self, command: bytes) -> None:
        """See model.Link: there is an answer to everything here."""
        self.ask(command)

    def close(self) -> None:
        """The child stays for the next link."""
