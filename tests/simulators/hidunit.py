"""A USB unit made from its own descriptor and report bytes: for driver tests without a device and without waiting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent import hid, usages
from agent.hidraw import Identity
from agent.model import LinkError, Reply

CASES = Path(__file__).parent.parent / "cases" / "hid"


def case(name: str) -> Any:
    """A unit of tests/cases/hid by the beginning of its file's name."""
    (path,) = (p for p in CASES.glob("*.json") if p.name.startswith(name))
    return json.loads(path.read_text())


class HidUnit:
    """`reports` maps (kind, id) to the report. What the descriptor has and `reports` has not is refused.

    `lost` are reports that never come; `sent` is all that was asked and written; `waited_s` what silence would have
    cost; each answer takes `pace_s`.
    """

    def __init__(
        self, descriptor: bytes, reports: Mapping[tuple[str, int], bytes], identity: Identity, pace_s: float = 0.02
    ) -> None:
        self.descriptor, self.identity, self.pace_s = descriptor, identity, pace_s
        self.reports = dict(reports)
        self.lost: set[int] = set()
        self.gone = self.closed = self.deaf = False
        self.waiting: list[bytes] = []
        self.strings: dict[int, str] = {}
        self.sent: list[Any] = []
        self.now_s, self.waited_s = 1000.0, 0.0
        self.wake_fd: int | None = None

    @classmethod
    def of(cls, name: str, **more: Any) -> HidUnit:
        """The real unit of a case."""
        told = case(name)
        reports = {
            (k, int(r, 16)): bytes.fromhex(b) for r, b in told["reports"].items() for k in ("feature", "input")
        }
        identity = Identity(int(told["vid"], 16), int(told["pid"], 16), "Maker", told["model"], "S1")
        return cls(bytes.fromhex(told["descriptor"]), reports, identity, **more)

    def get(self, kind: str, report: int, length: int) -> Reply | None:
        self.sent.append((kind, report))
        self._be_there()
        if report in self.lost:
            self.now_s += 5.0
            self.waited_s += 5.0
            raise LinkError(f"{kind} report {report:#04x}: no answer within 5 s")
        self.now_s += self.pace_s
        data = self.reports.get((kind, report))
        return Reply(data[:length], self.now_s) if data is not None else None

    def put(self, data: bytes) -> bool:
        self.sent.append(data)
        self._be_there()
        if ("feature", data[0]) not in self.reports:
            return False
        if not self.deaf:
            self.reports["feature", data[0]] = data
        return True

    def inputs(self, limit: int) -> list[Reply]:
        self._be_there()
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return [Reply(data, self.now_s) for data in taken]

    def string(self, index: int) -> str | None:
        return self.strings.get(index)

    def rest(self, seconds: float) -> None:
        self.now_s += seconds

    def close(self) -> None:
        self.closed = True

    def set(self, path: str, amount: float, kind: str = "feature") -> None:
        """Change a value in the unit's own report."""
        field = hid.parse(self.descriptor).find(usages.path(path), kind)
        assert field is not None, path
        length = hid.parse(self.descriptor).lengths[kind, field.report]
        report = self.reports.get((kind, field.report), bytes([field.report])).ljust(length, b"\0")
        self.reports[kind, field.report] = hid.put(field, amount, report)

    def mains(self, there: bool) -> list[int]:
        """The mains fails or comes back; returns the input reports that tell of it."""
        descriptor, told = hid.parse(self.descriptor), set()
        for name, amount in (("ACPresent", there), ("Discharging", not there)):
            path = f"UPS.PowerSummary.PresentStatus.{name}"
            for kind in ("feature", "input"):
                field = descriptor.find(usages.path(path), kind)
                if field is not None:
                    self.set(path, float(amount), kind)
                    told |= {field.report} if kind == "input" else set()
        return sorted(told)

    def push(self, report: int) -> None:
        """Send an interrupt report as it is now."""
        self.waiting.append(self.reports["input", report])

    def _be_there(self) -> None:
        if self.gone:
            raise LinkError("the device is gone")


def describe(fields: Iterable[tuple[str, str, int, int, int, float]]) -> tuple[bytes, dict[tuple[str, int], bytes]]:
    """A descriptor, and its reports, made of (path, kind, report, offset, bits, value): what an explore log lists.

    Values with a decimal part are volts in tenths; the gaps between fields are constant.
    """
    body = bytearray()
    reports: dict[tuple[str, int], bytes] = {}
    groups: dict[tuple[str, int], list[Any]] = {}
    for path, kind, report, offset, bits, value in fields:
        groups.setdefault((kind.lower(), report), []).append((offset, bits, usages.path(path), value))
    for (kind, report), parts in sorted(groups.items()):
        body += b"\x85" + bytes([report])
        at, number = 0, 0
        for offset, bits, path, value in sorted(parts):
            if offset > at:
                body += b"\x75" + bytes([offset - at]) + b"\x95\x01" + _main(kind, 1)
            tenths = value != int(value)
            raw = round(value * 10) if tenths else int(value)
            number |= (raw & (1 << bits) - 1) << offset
            at = offset + bits
            low = b"\x15\xff" if value < 0 else b"\x15\x00"
            unit = (
                b"\x67" + (0x00F0D121 if tenths else 0).to_bytes(4, "little") + (b"\x55\x06" if tenths else b"\x55\0")
            )
            opened = b""
            closed = b""
            for usage in path[:-1]:
                if usage >> 16 == 0xFF:
                    opened = opened[:-1] + bytes([0x80 | usage & 0x7F])
                else:
                    opened += b"\x0b" + usage.to_bytes(4, "little") + b"\xa1\x00"
                    closed += b"\xc0"
            high = b"\x27" + min((1 << bits) - 1, 0x7FFFFFFF).to_bytes(4, "little")
            field = b"\x0b" + path[-1].to_bytes(4, "little") + _main(kind, 2)
            body += opened + low + high + unit + b"\x75" + bytes([bits]) + b"\x95\x01" + field + closed
        reports[kind, report] = bytes([report]) + number.to_bytes((at + 7) // 8, "little")
    return bytes(body), reports


def _main(kind: str, flags: int) -> bytes:
    return bytes([{"input": 0x81, "feature": 0xB1}[kind], flags])
