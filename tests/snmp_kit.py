"""What the SNMP tests share: UPSes to look at, an agent without a core, and requests as bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from agent import ber, config
from agent.model import (
    Active,
    Battery,
    Condition,
    Ident,
    Line,
    Rating,
    ServerView,
    Source,
    Status,
    Test,
    TestResult,
    View,
)
from agent.netif import Interfaces
from agent.snmp import Agent
from tests.snmp_damage import COMMUNITY

UPS = "1.3.6.1.2.1.33.1"
ON_LINE = Status(
    taken_s=100.0,
    source=Source.MAINS,
    inputs=(Line(voltage_v=229.6, frequency_hz=49.94, current_a=1.25, power_w=287.0),),
    outputs=(Line(voltage_v=230.2, frequency_hz=50.0, current_a=1.04, power_w=228.0, load_pct=31.4),),
    bypass=(Line(voltage_v=229.6, frequency_hz=49.9, current_a=0.0, power_w=0.0),),
    battery=Battery(
        charge_pct=97.6, runtime_s=1799.0, voltage_v=27.34, current_a=-1.2, temperature_c=-5.0, low=False
    ),
    ident=Ident(manufacturer="Example Power", model="EP 1000", firmware="V1.02", serial="123"),
    rating=Rating(
        input_voltage_v=230.0, input_frequency_hz=50.0, output_voltage_v=230.0, output_frequency_hz=50.0,
        apparent_va=1000.0, power_w=700.0, low_battery_s=130.0, low_transfer_v=184.0, high_transfer_v=264.0,
    ),
    test=Test(result=TestResult.NONE),
    beeper_on=True,
)  # fmt: skip


def since(condition: Condition, since_s: float = 100.0) -> Active:
    return Active(condition=condition, since_s=since_s, since_wall_s=since_s + 1.8e9)


def view(status: Status | None = ON_LINE, *conditions: Active, **more: Any) -> View:
    """A core's word at second 100."""
    fields: dict[str, Any] = {
        "boot": "b", "now_s": 100.0, "wall_s": 1.8e9, "clock_synced": True, "version": "0", "name": "rack-3",
        "started_s": 10.0, "mode": "armed", "driver": "megatec", "link": "up", "input_bads": 7,
        "servers": (ServerView(name="nas", address="192.0.2.7", port=6003, how="rccmd", stage="s", needs_s=60),),
    }  # fmt: skip
    return View(status=status, conditions=conditions, **{**fields, **more})


def three_phase(status: Status = ON_LINE) -> Status:
    return replace(status, inputs=status.inputs * 3, outputs=status.outputs * 3, bypass=status.bypass * 3)


class Net:
    """A folder like /sys/class/net."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set("lo", ifindex="1", type="772", flags="0x9", operstate="unknown", carrier="1", mtu="65536")
        self.set(
            "eth0", ifindex="2", type="1", flags="0x1003", operstate="up", mtu="1500", speed="1000",
            address="02:00:00:00:00:2a", rx_packets="50", multicast="8", rx_bytes=str(2**32 + 9), tx_packets="40",
        )  # fmt: skip

    def set(self, name: str, **files: str) -> None:
        statistics = {"rx_packets", "rx_bytes", "multicast", "tx_packets", "tx_bytes"}
        (self.folder / name / "statistics").mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            place = self.folder / name / ("statistics" if file in statistics else "") / file
            place.write_text(text + "\n")


class Stage:
    """An agent whose view and clock a test holds in its hands."""

    def __init__(
        self, shown: View, net: Path, listen: str = "127.0.0.1:0", users: tuple[config.User, ...] = (),
        access: str = "read-only", lenient: bool = False, **more: Any,
    ) -> None:  # fmt: skip
        self.view = shown
        self.now_s = 100.0
        settings = config.Snmp(
            listen=listen,
            communities=(config.Community(label="tests", access=access, sources=("127.0.0.0/8", "::1/128")),),
            users=users,
            lenient_scalars=lenient,
        )
        more = {"host": "adapter.example", "interfaces": Interfaces(str(net)), **more}
        self.agent = Agent(settings, {"tests": COMMUNITY}, lambda: self.view, 100.0, clock=lambda: self.now_s, **more)

    def ask(self, request: bytes, host: str = "127.0.0.1") -> Reply | None:
        data = self.agent.answer(request, host)
        return None if data is None else reply(data)

    def walk(self, root: str = "1", version: int = ber.V2C) -> dict[str, tuple[int, bytes]]:
        """Everything below `root` by GETNEXT: name -> tag, body; fails if it goes backwards or does not end."""
        found: dict[str, tuple[int, bytes]] = {}
        at = root
        for _ in range(2000):
            answered = self.ask(request(ber.GETNEXT, at, version=version))
            assert answered is not None
            (name, tag, body) = answered.bindings[0]
            if answered.error or tag == 0x82 or not name.startswith(root + "."):
                return found
            assert arcs(name) > arcs(at), f"{name} after {at}"
            found[name] = tag, body
            at = name
        raise AssertionError("a walk without an end")


@contextmanager
def listening(shown: View, net: Path, listen: str = "127.0.0.1:0", **more: Any) -> Iterator[Stage]:
    """A Stage whose agent answers on a port of its own, with the real clock."""
    stage = Stage(shown, net, listen, **more)
    stage.agent._clock = time.monotonic
    stage.agent.bind()
    stop = threading.Event()
    thread = threading.Thread(target=stage.agent.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield stage
    finally:
        stop.set()
        thread.join(2.0)
        assert not thread.is_alive()


class Reply(NamedTuple):
    request_id: int
    error: int
    index: int
    bindings: list[tuple[str, int, bytes]]  # name, tag, body


def arcs(name: str) -> ber.Oid:
    found = tuple(int(arc) for arc in name.split("."))
    return found if len(found) > 1 else (*found, 0)


def dotted(body: bytes) -> str:
    return ".".join(str(arc) for arc in ber.arcs(body))


def request(
    tag: int,
    *names: str,
    version: int = ber.V2C,
    community: str = COMMUNITY,
    first: int = 0,
    second: int = 0,
    request_id: int = 77,
    value: bytes = b"\x05\x00",
) -> bytes:
    prefix = ber.integer(version) + ber.tlv(ber.OCTET_STRING, community.encode())
    bindings = b"".join(ber.tlv(ber.SEQUENCE, ber.oid(arcs(name)) + value) for name in names)
    return ber.message(prefix, tag, ber.integer(request_id), first, second, bindings)


def reply(data: bytes) -> Reply:
    header = ber.read_header(data)
    pdu = ber.read_pdu(data, header.pdu_at)
    assert pdu.tag == ber.RESPONSE
    bindings = []
    at = 0
    while at < len(pdu.bindings):
        _, start, stop = ber.head(pdu.bindings, at, len(pdu.bindings))
        _, name_start, name_stop = ber.head(pdu.bindings, start, stop)
        tag, value_start, value_stop = ber.head(pdu.bindings, name_stop, stop)
        bindings.append((dotted(pdu.bindings[name_start:name_stop]), tag, pdu.bindings[value_start:value_stop]))
        at = stop
    return Reply(ber.number(pdu.request_id, 0, len(pdu.request_id))[0], pdu.first, pdu.second, bindings)


def whole(body: bytes) -> int:
    return int.from_bytes(body, "big", signed=True)
