"""Reads the network interfaces of this machine out of /sys/class/net, for SNMP's ifTable and its notifications.

Source: RFC 2863 (the columns), https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-class-net (the files).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from . import routes

INTERFACES_LIMIT = 64

_TYPES = {1: 6, 772: 24, 512: 23, 768: 131, 769: 131, 776: 131, 778: 131}  # if_arp.h -> IANAifType: Ethernet, lo, ...
_STATES = {
    "up": 1, "down": 2, "testing": 3, "unknown": 4, "dormant": 5, "notpresent": 6, "lowerlayerdown": 7,
}  # fmt: skip
_LOOPBACK = 24


Columns = tuple[object, ...]


class Found(Mapping[int, Columns]):
    """ifIndex -> the columns of an interface, read when they are first asked for; () if it has vanished meanwhile.

    Most questions are about the UPS, and a dozen files for each interface take longer than all else in an answer.
    """

    def __init__(self, names: Mapping[int, str], read: Callable[[str, int], Columns]) -> None:
        self._names, self._read = names, read
        self._columns: dict[int, Columns] = {}

    def __getitem__(self, index: int) -> Columns:
        columns = self._columns.get(index)
        if columns is None:
            columns = self._columns[index] = self._read(self._names[index], index)
        return columns

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Interfaces:
    """Reads the 22 columns of ifTable (RFC 2863) from /sys/class/net; remembers when a state changed."""

    def __init__(self, folder: str = "/sys/class/net") -> None:
        self._folder = folder
        self._listed: list[str] = []
        self._names: dict[int, str] = {}  # by ifIndex, of what is listed
        self._states: dict[int, tuple[int, int]] = {}  # ifIndex -> ifOperStatus, ifLastChange

    def read(self, uptime_ticks: int) -> Found:
        """What there is now."""
        try:
            names = sorted(os.listdir(self._folder))[:INTERFACES_LIMIT]
        except OSError:
            names = []  # no /sys in this container: no interfaces
        if names != self._listed:
            found = {self._number(name, "ifindex"): name for name in names}
            self._listed, self._names = names, {index: name for index, name in found.items() if index > 0}
            self._states = {index: state for index, state in list(self._states.items()) if index in self._names}
        return Found(self._names, lambda name, index: self._columns(name, index, uptime_ticks))

    def leads_to(self, host: str) -> bool:
        """Would a datagram to this address leave? Without a carrier the kernel throws it away and says nothing. What
        cannot be found out counts as yes: where there is no route, the sending says so."""
        try:
            index = routes.interface(host)
            name = next(n for n in os.listdir(self._folder) if self._number(n, "ifindex") == index)
        except (OSError, StopIteration):
            return True
        return _STATES.get(self._text(name, "operstate"), 4) in (1, 4) and self._text(name, "carrier") != "0"

    def _text(self, name: str, file: str) -> str:
        try:
            with open(f"{self._folder}/{name}/{file}", "rb", buffering=0) as f:
                return f.read(256).decode("ascii", "replace").strip()
        except OSError:
            return ""  # vanished, or this kind of interface does not say

    def _number(self, name: str, file: str) -> int:
        try:
            return max(0, int(self._text(name, file), 0))
        except ValueError:
            return 0

    def _columns(self, name: str, index: int, uptime_ticks: int) -> Columns:
        if self._number(name, "ifindex") != index:  # gone, or another of the same name
            self._listed = []
            return ()
        kind = _TYPES.get(self._number(name, "type"), 1)
        up = self._number(name, "flags") & 1
        state = _STATES.get(self._text(name, "operstate"), 4)
        if state == 4 and up and self._text(name, "carrier") == "1":
            state = 1  # drivers without link detection, and loopback
        if index not in self._states:
            self._states[index] = state, 0
        elif self._states[index][0] != state:
            self._states[index] = state, uptime_ticks
        try:
            hardware = bytes.fromhex(self._text(name, "address").replace(":", ""))
        except ValueError:
            hardware = b""
        speed = 10_000_000 if kind == _LOOPBACK else self._number(name, "speed") * 1_000_000
        count = partial(self._number, name)
        received, multicast = count("statistics/rx_packets"), count("statistics/multicast")
        return (
            index, name, kind, count("mtu"), speed, b"" if kind == _LOOPBACK else hardware, 1 if up else 2, state,
            self._states[index][1], count("statistics/rx_bytes"), max(0, received - multicast), multicast,
            count("statistics/rx_dropped"), count("statistics/rx_errors"), count("statistics/rx_nohandler"),
            count("statistics/tx_bytes"), count("statistics/tx_packets"), 0, count("statistics/tx_dropped"),
            count("statistics/tx_errors"), 0, (0, 0),
        )  # fmt: skip
