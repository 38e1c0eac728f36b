"""The address book: the last good addresses of every server's name, and the MAC addresses learned while it was up.

A name server may be down in an outage, so names are looked up when the plan is made and every hour, in a thread of
their own, and what was found last is kept on the disk. Without a writable disk it is kept in memory.
"""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from . import magic, neighbours
from .reach import Address
from .vault import set_aside, write_private

log = logging.getLogger(__name__)

RESOLVE_S = 3600.0  # a name is looked up so often
RESOLVE_AGAIN_S = 15.0  # a name that could not be looked up
ASKING_S = 1.0  # of names in one turn: a dead name server must not keep us from learning and saving
SAVE_S = 10.0  # at most so often
ADDRESSES_LIMIT = 8  # of one name
ENTRIES_LIMIT = 2000
FILE_LIMIT_BYTES = 1024 * 1024


class Book:
    """Reading is for every thread; `run` is the book's own. It calls `changed` with a host that has new addresses,
    and with a server whose MAC was learned."""

    def __init__(
        self,
        path: Path,
        changed: Callable[[str], None] = lambda name: None,
        *,
        look_up: Callable[[str], tuple[Address, ...]] | None = None,
        table: Callable[[], Mapping[str, str]] = neighbours.table,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self.changed = path, changed
        self._look_up, self._table, self._now = look_up or look_up_name, table, now
        #: servers, and the names to look up; nothing is forgotten before there is a plan
        self._plan: tuple[frozenset[str], frozenset[str]] = frozenset(), frozenset()
        self._addresses: dict[str, tuple[Address, ...]] = {}
        self._macs: dict[str, str] = {}  # by the server's name
        self._met: queue.Queue[tuple[str, str]] = queue.Queue(maxsize=ENTRIES_LIMIT)
        self._next_s: dict[str, float] = {}
        self._unknown: set[str] = set()  # names that could not be looked up the last time
        self._saved_s, self._unsaved, self._failed, self._blind = -SAVE_S, False, "", False
        self._read()

    def addresses(self, host: str) -> tuple[Address, ...]:
        """The addresses of a host, as written or as last found; () if it never had one."""
        return literal(host) or self._addresses.get(host, ())

    def mac(self, server: str) -> str:
        """The MAC that was learned for the server of this name, or ''."""
        return self._macs.get(server, "")

    def plan(self, hosts: Mapping[str, str]) -> None:
        """These servers there are now (name -> host); what others had is forgotten."""
        names = frozenset(host for host in hosts.values() if host and not literal(host))
        self._plan = frozenset(hosts), names

    def met(self, server: str, address: str) -> None:
        """The server has just answered at this address: the kernel knows its MAC now, if it is in the LAN."""
        try:
            self._met.put_nowait((server, address))
        except queue.Full:
            pass  # it is met again

    def run(self, stop: threading.Event) -> None:
        """The book's thread."""
        while not stop.wait(0.1):
            self.turn()
        self._save()

    def turn(self) -> None:
        """Look up what is due, learn from whom was met, and save what is new."""
        now_s, (servers, names) = self._now(), self._plan
        self._next_s = {name: self._next_s.get(name, 0.0) for name in names}
        self._unknown &= names
        due = sorted((name in self._addresses, due_s, name) for name, due_s in self._next_s.items() if now_s >= due_s)
        for _, _, name in due:
            self._next_s[name] = self._now() + (RESOLVE_S if self._ask(name) else RESOLVE_AGAIN_S)
            if self._now() - now_s >= ASKING_S:
                break
        self._learn()
        if servers and (self._addresses.keys() - names or self._macs.keys() - servers):
            self._addresses = {name: found for name, found in self._addresses.items() if name in names}
            self._macs = {name: mac for name, mac in self._macs.items() if name in servers}
            self._unsaved = True
        if self._unsaved and now_s - self._saved_s >= SAVE_S:
            self._saved_s = now_s
            self._save()

    def _ask(self, name: str) -> bool:
        try:
            found = self._look_up(name)
        except (OSError, UnicodeError) as e:
            kept = ", the last known address stays" if name in self._addresses else ""
            if name not in self._unknown:
                log.warning("cannot look up %s: %s%s", name, e, kept)
            self._unknown |= {name}
            return False
        self._unknown -= {name}
        if found and set(found) != set(self._addresses.get(name, ())):  # the order may change each time
            log.info("%s is %s", name, found[0][1][0])
            self._addresses = {**self._addresses, name: found}
            self._unsaved = True
            self.changed(name)
        return bool(found)

    def _learn(self) -> None:
        met: dict[str, str] = {}
        while len(met) < ENTRIES_LIMIT:
            try:
                server, address = self._met.get_nowait()
            except queue.Empty:
                break
            met[server] = address
        if not met:
            return
        try:
            table = self._table()
        except OSError as e:
            if not self._blind:
                log.warning("the kernel's neighbour table cannot be read (%s): no MAC is learned", e)
            self._blind = True
            return
        plain = {server: address.partition("%")[0] for server, address in met.items()}
        found = {server: table[address] for server, address in plain.items() if address in table}
        news = {server: mac for server, mac in found.items() if self._macs.get(server) != mac}
        if news:
            log.info("learned the MAC of %s", ", ".join(sorted(news)[:20]))
            self._macs = {**self._macs, **news}
            self._unsaved = True
            for server in news:
                self.changed(server)

    # -- the file

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                raw = file.read(FILE_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return
        except OSError as e:
            log.error("%s: %s: addresses are looked up anew", self._path, e.strerror)
            return
        try:
            if len(raw) > FILE_LIMIT_BYTES:
                raise ValueError("too long")
            found = json.loads(raw)
            addresses = {str(name): _addresses(rows) for name, rows in found["addresses"].items()}
            macs = {str(name): _mac(mac) for name, mac in found["macs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            log.error("%s: damaged (%s): set aside, a new one is begun", self._path, e)
            try:
                set_aside(self._path)
            except OSError as error:
                log.error("%s: %s", self._path, error.strerror)
            return
        self._addresses = dict(list(addresses.items())[:ENTRIES_LIMIT])
        self._macs = dict(list(macs.items())[:ENTRIES_LIMIT])

    def _save(self) -> None:
        if not self._unsaved:
            return
        rows = {"addresses": self._addresses, "macs": self._macs}
        try:
            write_private(self._path, json.dumps(rows).encode())
        except OSError as e:  # again in a while
            if not self._failed:
                log.error("%s: %s: addresses stay in memory only", self._path, e.strerror or e)
            self._failed = str(e)
            return
        self._unsaved, self._failed = False, ""


def _addresses(rows: object) -> tuple[Address, ...]:
    """Addresses from the file. ValueError, TypeError if they are something else."""
    if not isinstance(rows, list) or len(rows) > ADDRESSES_LIMIT:
        raise ValueError("not a list of addresses")
    found = []
    for family, place in rows:
        host, *rest = place
        numbers = {socket.AF_INET: 0, socket.AF_INET6: 2}.get(family)  # flow and scope
        if len(rest) != numbers or not all(type(n) is int and 0 <= n < 2**20 for n in rest):
            raise ValueError("not an address")
        socket.inet_pton(family, str(host).partition("%")[0])
        found.append((int(family), (str(host), *rest)))
    return tuple(found)


def _mac(text: object) -> str:
    """A MAC from the file. ValueError if it is something else."""
    if not isinstance(text, str) or not magic.MAC.fullmatch(text):
        raise ValueError("not a MAC address")
    return text


def look_up_name(name: str, flags: int = 0) -> tuple[Address, ...]:
    """The addresses of a name. OSError, UnicodeError if it has none."""
    found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=flags)
    return tuple((int(row[0]), (str(row[4][0]), *map(int, row[4][2:]))) for row in found[:ADDRESSES_LIMIT])


def literal(address: str) -> tuple[Address, ...]:
    """The address that is written as one; empty for a name, which must be looked up."""
    try:
        return look_up_name(address, socket.AI_NUMERICHOST) if address else ()
    except (OSError, UnicodeError):
        return ()
