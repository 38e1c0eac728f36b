"""A UPS's SNMP agent as a link: the same requests and answers that agent/snmplink.py takes, without a socket."""

from __future__ import annotations

from collections.abc import Mapping

from agent import ber
from agent.model import LinkError, Reply
from agent.snmptables import UPS

ID = "1.3.6.1.2.1.1.2.0"  # sysObjectID
Value = int | str | tuple[int, ...]


def encoded(value: Value | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return ber.integer(value)
    return ber.tlv(ber.OCTET_STRING, value.encode()) if isinstance(value, str) else ber.oid(value)


#: a three-phase UPS in the UPS-MIB
RFC: dict[str, Value | bytes] = {
    ID: (1, 3, 6, 1, 2, 1, 33),
    **{f"{UPS}.{k}": v for k, v in {
        "1.1.0": "ACME", "1.2.0": "Three 9", "2.1.0": 2, "2.3.0": 30, "2.4.0": 97, "2.5.0": 541, "2.7.0": 25,
        "3.2.0": 3, **{f"3.3.1.3.{n}": 230 + n for n in (1, 2, 3)}, **{f"3.3.1.2.{n}": 499 for n in (1, 2, 3)},
        "4.1.0": 3, "4.2.0": 500, "4.3.0": 3, **{f"4.4.1.2.{n}": 220 + n for n in (1, 2, 3)},
        **{f"4.4.1.5.{n}": 10 * n for n in (1, 2, 3)}, "5.2.0": 0, "6.1.0": 0, "7.1.0": (0, 0),
        "7.2.0": 5, "7.3.0": 1, "8.1.0": 1, "8.2.0": -1, "8.5.0": 1, "9.5.0": 9000, "9.7.0": 2, "9.8.0": 2,
    }.items()},
}  # fmt: skip


class SnmpUnit:
    """`rows`: dotted name -> value; `version` 1 fails as a whole for one missing name. What is set is kept."""

    wake_fd: int | None = None

    def __init__(self, rows: Mapping[str, Value | bytes], version: int = 2) -> None:
        self.rows = {tuple(map(int, name.split("."))): encoded(value) for name, value in rows.items()}
        self.version, self.refuses, self.silent = version, 0, False
        self.limit_bytes = 1472
        self.sent: list[bytes] = []
        self.orders: list[dict[str, bytes]] = []
        self.now_s, self.waited_s, self.closed = 1000.0, 0.0, False

    def ask(self, command: bytes, *, end: bytes = b"", limit_bytes: int = 0, within_s: float = 3.0) -> Reply:
        self.sent.append(command)
        if self.silent:
            self.now_s += within_s
            self.waited_s += within_s
            raise LinkError("no answer in time")
        self.now_s += 0.01
        tag, start, stop = ber.head(command, 0, len(command))
        asked = [(ber.arcs(n), ber.tlv(t, b)) for n, t, b in ber.values(command[start:stop])]
        return Reply(self._answer(tag, asked, command[start:stop]), self.now_s)

    def _answer(self, tag: int, asked: list[tuple[ber.Oid, bytes]], raw: bytes) -> bytes:
        def said(error: int, index: int, bindings: bytes) -> bytes:
            return ber.integer(error) + ber.integer(index) + ber.tlv(ber.SEQUENCE, bindings)

        if tag == ber.SET:
            if self.refuses:
                return said(self.refuses, 1, raw)
            self.orders.append({".".join(map(str, name)): value for name, value in asked})
            self.rows.update(asked)
            return said(0, 0, raw)
        found = []
        for index, (name, _) in enumerate(asked, start=1):
            at = name
            if tag == ber.GETNEXT:
                at = min((row for row in self.rows if row > name), default=())
            value = self.rows.get(at)
            if value is None and self.version == 1:
                return said(2, index, raw)
            found.append(ber.binding(ber.oid(at or name), value or ber.NO_SUCH_INSTANCE))
        answer = said(0, 0, b"".join(found))
        return said(1, 0, b"") if len(answer) > self.limit_bytes else answer

    def send(self, command: bytes) -> None:
        self.ask(command)

    def close(self) -> None:
        self.closed = True
