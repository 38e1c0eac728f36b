"""Detection through the real USB bridges, every bridge and every dialect behind it: right, or an honest "don't know";
the unit has heard questions alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import bridge, process
from agent.bridges import BRIDGES, row
from agent.detect import Around, Look, Report
from agent.devices import Port
from agent.drivers import megatec
from agent.hidraw import Identity
from agent.model import LinkError, Reply
from agent.pretend import Unit
from tests.simulators import bridge as simulated
from tests.simulators.dialects import SPEAKERS
from tests.simulators.megatec import MegatecPty
from tests.simulators.modbusunit import ApcRegisters, rtu_answer
from tests.simulators.script import ScriptLink
from tests.test_bridge import STRINGS, Clock
from tests.test_detect import DIALECTS, found_on

AUTO = [one.name for one in BRIDGES if one.auto]
NAMED = [one.name for one in BRIDGES if not one.auto and one.name != "gtec"]  # whose ids nobody knows
#: what a string bridge has no number for it cannot ask: all that speaks Q1 is megatec there
Q1_ALONE = {
    name: "megatec" if speak(Unit(0.0), b"Q1").startswith(b"(2") else None for name, speak in SPEAKERS.items()
}
LOOKS_LIKE = {"armac-64": "armac", "snr": "hunnox"}  # the same ids and strings: only its owner can tell


def who(it: simulated.Bridge) -> Identity:
    return Identity(it.idVendor, it.idProduct, it.manufacturer, it.product, "", "1-2")


def looked(it: simulated.Bridge) -> Report:
    """A look around where this device is all there is."""
    clock = Clock()
    it.clock = clock.wait  # type: ignore[method-assign]

    def open_link(kind: str, section: Mapping[str, Any], now: Callable[[], float]) -> Any:
        if kind != "bridge":
            raise LinkError(f"no {kind} here")
        return bridge.open(section, now, lambda: [it], simulated.util(it))

    around = Around(power_devices=list, usb=lambda: [who(it)], ports=list)
    look = Look(open_link, clock, around=around)
    for _ in look.steps():
        pass
    return look.report()


@pytest.mark.parametrize("speaker", sorted(SPEAKERS))
@pytest.mark.parametrize("kind", AUTO)
def test_a_unit_behind_a_bridge_is_found_or_not_known_and_has_heard_no_order(kind: str, speaker: str) -> None:
    for mains in ("on", "off"):
        unit, orders = Unit(0.0), list[bytes]()
        unit.set("mains", mains)
        obey = unit.obey

        def watched(command: bytes, obey: Callable[[bytes], bool] = obey, orders: list[bytes] = orders) -> bool:
            done = obey(command)
            orders.extend([command] * done)
            return done

        unit.obey = watched  # type: ignore[method-assign]
        it = simulated.Bridge(kind, lambda command, unit=unit: SPEAKERS[speaker](unit, command))
        report = looked(it)
        lockstep = {b"I\r"} if kind == "hunnox" else set()  # it must be asked in turns
        assert orders == [] and {word + b"\r" for word in it.sent} <= {*megatec.QUERIES, *lockstep}
        wanted = Q1_ALONE[speaker] if kind in STRINGS else DIALECTS[speaker]
        if wanted is None:
            assert report.found is None and "no UPS was found" in report.words
        else:
            assert report.found is not None and report.found.driver == "megatec"
            assert report.found.section["dialect"] == wanted and "3 of 3 reads understood" in report.words
        assert it.kernel_driver and it.log[-2:] == ["release", "dispose"], "the kernel has it back"


@pytest.mark.parametrize("kind", NAMED)
def test_a_bridge_that_nobody_has_tried_is_named_and_asked_nothing(kind: str) -> None:
    it = simulated.Bridge(kind, lambda command: SPEAKERS["megatec"](Unit(0.0), command))
    if kind == "snr":
        assert row(who(it)).name == "hunnox"  # type: ignore[union-attr]
        return
    report = looked(it)
    assert report.found is None and it.sent == []
    assert any(f'set bridge = "{LOOKS_LIKE.get(kind, kind)}"' in text for text in report.skipped), report.skipped


@pytest.mark.parametrize(
    ("maker", "product", "name"),
    [("MEC", "MEC0003", "fabula"), ("HUNNOX", "MEC0003", "hunnox"), ("", "MEC0003", "hunnox"), ("", "", "krauler")],
)
def test_the_makers_of_0001_0000_are_told_apart_by_their_strings(maker: str, product: str, name: str) -> None:
    it = row(Identity(1, 0, maker, product, "", "1-2"))
    assert it is not None and it.name == name


@pytest.mark.parametrize("kind", ["fabula", "hunnox"])
def test_a_silent_unit_with_mec0003_is_told_which_other_bridges_it_may_be(kind: str) -> None:
    it = simulated.Bridge(kind, lambda command: b"")
    report = looked(it)
    assert report.found is None and "no UPS was found" in report.words
    (hint,) = (text for text in report.skipped if 'bridge = "snr"' in text)
    assert hint.startswith("1-2: ") and "nobody has tried" in hint
    assert not any('bridge = "snr"' in text for text in looked(_answering(kind)).skipped)


def _answering(kind: str) -> simulated.Bridge:
    return simulated.Bridge(kind, lambda command: SPEAKERS["megatec"](Unit(0.0), command))


class RtuLink(ScriptLink):
    """An APC unit with Modbus on a serial line: it takes eight bytes for a frame, and is silent to a damaged one."""

    def __init__(self) -> None:
        super().__init__({})
        self.unit, self._inbox = ApcRegisters(), b""

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        self._hear(command)
        return super().ask(command, end=end, limit_bytes=limit_bytes, within_s=within_s)

    def send(self, command: bytes) -> None:
        self._hear(command)
        super().send(command)

    def _hear(self, command: bytes) -> None:
        self._inbox += command
        while len(self._inbox) >= 8:
            frame, self._inbox = self._inbox[:8], self._inbox[8:]
            assert rtu_answer(self.unit, frame) == b""


def test_a_unit_with_modbus_on_a_serial_line_is_not_known_and_nothing_is_written_to_it() -> None:
    link = RtuLink()
    report = found_on(link)
    assert report.found is None and "no UPS was found" in report.words and link.sent
    assert link.unit.written == [] and {c.found.driver for c in report.candidates} == {"apcsmart", "megatec", "shut"}


def test_over_a_real_serial_link_it_is_the_same(tmp_path: Path) -> None:
    name = "voltronic-10"  # one alone: a Smart-UPS is waited for three times
    port = Port(tmp_path / "ups", None, str(tmp_path / "ups"))
    with MegatecPty(tmp_path / "ups", dialect=name) as ups:
        around = Around(power_devices=list, usb=list, ports=lambda: [port])
        look = Look(process.open_link, time.monotonic, serial_ok=True, around=around)
        for _ in look.steps():
            pass
        assert ups.unit.off_at_s is None and not ups.unit.testing and ups.unit.beeper and ups.unit.output_on
    found = look.report().found
    assert found is not None and found.section == {"port": port.name, "dialect": DIALECTS[name]}
