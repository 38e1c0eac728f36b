"""Detection: the right driver and dialect, or an honest "don't know"; only questions, and no port without leave."""

from __future__ import annotations

import json
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import core, detect, drivers, finding, process
from agent.detect import Around, Auto, Candidate, Found, Look, judge, usb_section, weigh
from agent.devices import Port
from agent.drivers import apcsmart, megatec, shut, snmp
from agent.hidraw import Found as Node
from agent.hidraw import Identity
from agent.link import Silence
from agent.model import ConfigError, LinkError, Reply
from agent.pretend import Unit
from agent.ups import Polled
from tests.kit import look
from tests.simulators.apcsmart import ApcUnit
from tests.simulators.dialects import SPEAKERS
from tests.simulators.hidunit import HidUnit
from tests.simulators.modbusunit import Wire
from tests.simulators.script import ScriptLink, SpeakerLink
from tests.simulators.shut import UNIT, ShutScript
from tests.simulators.snmpunit import RFC, SnmpUnit

PORT = "/dev/serial/by-id/usb-maker_adapter_A1-if00"
#: pretend unit -> dialect that detection shall find; None: it is not known, and says so
DIALECTS: dict[str, str | None] = {
    "megatec": "megatec", "megatec-old": "megatec-old", "mecer": "mecer", "mustek": "mustek",
    "zinto": "megatec", "bestups": "megatec", "masterguard": "megatec",  # read right, but say more when named
    "gtec": None,
    "voltronic": "voltronic", "voltronic-00": "voltronic", "voltronic-03": "voltronic", "voltronic-10": "voltronic",
    "voltronic-qs": "voltronic-qs", "qs-hex-p": "qs-hex-p", "qs-hex-t": "qs-hex-t",
    "megatec-g": "megatec-g", "q6": "q6",
    "q2": "megatec", "hunnox": "megatec", "ablerex": "megatec", "omron": "megatec",  # they speak Q1 as well
}  # fmt: skip


class ApcLink(ScriptLink):
    """A Smart-UPS that hears single characters."""

    def __init__(self) -> None:
        super().__init__({})
        self.apc = ApcUnit(Unit(0.0))

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        said = b"".join(self.apc.hear(command[n : n + 1], self.now_s) for n in range(len(command)))
        self.answers[command.rstrip(b"\r")] = said or None
        return super().ask(command, end=end, limit_bytes=limit_bytes, within_s=within_s)


class Bench:
    """Links by the name of their place, and what was opened."""

    def __init__(self, **links: Any) -> None:
        self.links, self.opened = links, list[str]()
        self.now_s = 0.0

    def open(self, kind: str, section: Mapping[str, Any], now: Callable[[], float]) -> Any:
        name = section.get("port") or section.get("usb_product") or ""
        self.opened.append(f"{kind} {name}")
        link = self.links.get("serial" if section.get("port") else "usb")
        if link is None:
            raise LinkError(f"{name} is in use by another program")
        return link

    def around(self, *, ports: int = 1, usb: tuple[Identity, ...] = (), power: tuple[Identity, ...] = ()) -> Around:
        names = [Port(Path(f"/dev/ttyUSB{n}"), None, PORT if n == 0 else f"{PORT}-{n}") for n in range(ports)]
        nodes = [Node(Path(f"/dev/hidraw{n}"), who) for n, who in enumerate(power)]
        return Around(power_devices=lambda: nodes, usb=lambda: list(usb), ports=lambda: names)

    def look(self, around: Around, *, serial_ok: bool = True, only: str = "") -> detect.Report:
        look = Look(self.open, lambda: self.now_s, serial_ok=serial_ok, only=only, around=around)
        for _ in look.steps():
            pass
        return look.report()


def found_on(link: Any) -> detect.Report:
    bench = Bench(serial=link)
    return bench.look(bench.around())


@pytest.mark.parametrize("name", sorted(SPEAKERS))
@pytest.mark.parametrize("mains", ["on", "off"])
def test_every_pretend_unit_of_the_q1_family_is_found_or_not_known(name: str, mains: str) -> None:
    unit = Unit(0.0)
    unit.set("mains", mains)
    link = SpeakerLink(SPEAKERS[name], unit)
    report = found_on(link)
    assert set(link.sent) <= {*megatec.QUERIES, *apcsmart.QUERIES, b"\x18"} and link.closed
    if DIALECTS[name] is None:
        assert report.found is None and "no UPS was found" in report.words
    else:
        assert report.found == Found(driver="megatec", section={"port": PORT, "dialect": str(DIALECTS[name])})
        assert "3 of 3 reads understood" in report.words


def test_a_smart_ups_is_found_and_hears_no_question_of_another_driver() -> None:
    link = ApcLink()
    link.apc.unit.set("mains", "off")
    report = found_on(link)
    assert report.found == Found(driver="apcsmart", section={"port": PORT})
    assert set(link.sent) <= {b"Y", b"Q"}, "QGS has an S in it, which switches a Smart-UPS on battery off"
    assert link.apc.unit.output_on


def test_a_unit_that_speaks_shut_is_found() -> None:
    link = ShutScript(HidUnit.of(UNIT))
    report = found_on(link)
    assert report.found == Found(driver="shut", section={"port": PORT})
    assert process.typed(report.found)["cable_power"] == "reverse"
    assert link.closed and [r[:2] for r in link.there.requests] == [b"\x80\x06"] * 3


def test_what_answers_like_a_smart_ups_but_senselessly_is_asked_nothing_else() -> None:
    link = ScriptLink({b"Y": b"?\r\n"})
    report = found_on(link)
    assert report.found is None and set(link.sent) == {b"Y"}
    assert any("may obey them" in text for text in report.skipped)


@pytest.mark.parametrize("answers", [{}, dict.fromkeys((b"Q1", b"QS", b"D", b"QPI"), b"\xff\x00(garbage\r")])
def test_silence_and_garbage_are_nothing(answers: dict[bytes, Any]) -> None:
    report = found_on(ScriptLink(answers))
    assert report.found is None and all(c.score == 0 for c in report.candidates)
    assert "driver contact" in report.words


def test_no_serial_port_is_opened_before_somebody_said_that_it_may() -> None:
    bench = Bench(serial=SpeakerLink(SPEAKERS["megatec"], Unit(0.0)))
    report = bench.look(bench.around(ports=2), serial_ok=False)
    assert bench.opened == [] and report.found is None
    assert sum("nobody said" in text for text in report.skipped) == 2
    assert any("--serial-ok" in line for line in finding.describe(report))


def test_a_port_is_the_same_by_whatever_link_it_is_named(tmp_path: Path) -> None:
    node, other, link = tmp_path / "ttyS0", tmp_path / "ttyS1", tmp_path / "ups"
    node.touch()
    link.symlink_to(node)
    port = Port(node, None, PORT)
    around = Around(power_devices=list, usb=list, ports=lambda: [port, Port(other)])
    for path in (str(link), str(node), PORT):
        assert around.wanted_ports(path) == [port], path
    assert around.wanted_ports() == [port, Port(other)]
    assert around.wanted_ports(str(tmp_path / "pts")) == [Port(tmp_path / "pts")]
    (tmp_path / "core").mkdir()
    detect.remember(tmp_path / "core" / detect.MEMORY, Found(driver="megatec", section={"port": str(node)}))
    bench = Bench(serial=ScriptLink({}))
    auto = Auto(tmp_path / "core", {"serial_ok": True, "port": str(link)}, bench.open, lambda: 0.0, around)
    assert auto.choose().section["port"] == str(node), "what is remembered is the same port"
    auto = Auto(tmp_path / "core", {"serial_ok": True, "port": str(other)}, bench.open, lambda: 0.0, around)
    with pytest.raises(LinkError, match="looking"):
        auto.choose()


@pytest.mark.parametrize("answer, opened", [("yes", False), ("", False), ("no", True)])
def test_the_question_is_asked_for_a_link_of_ones_own_making(
    answer: str, opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "ups"
    link.symlink_to(tmp_path / "no-such-node")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    args = Namespace(forget=False, host=[], secret="", port=str(link), serial_ok=False, json=False)
    assert finding.main(args) == 1
    assert len(asked) == 1 and str(link) in asked[0]
    assert ("nobody said" not in capsys.readouterr().out) is opened


def test_a_usb_power_device_is_known_by_what_it_says_and_serial_ports_are_left_alone() -> None:
    unit = HidUnit.of("0764-0501")
    bench = Bench(usb=unit, serial=ScriptLink({}))
    report = bench.look(bench.around(power=(unit.identity,)))
    assert report.found is not None and report.found.driver == "usbhid"
    assert report.found.section["usb_vendor"] == "0764" and all(o.startswith("usb ") for o in bench.opened)
    assert any("USB has told" in text for text in report.skipped)


def test_a_usb_device_of_a_drivers_table_is_asked_through_its_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megatec, "USB", ((0x0665, 0x5161, "cypress"),), raising=False)
    who = Identity(0x0665, 0x5161, "INNO TECH", "USB to Serial", "", "1-2")
    bench = Bench(usb=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)))
    report = bench.look(bench.around(ports=0, usb=(who, Identity(0x046D, 0xC31C, "", "Keyboard", "", "1-3"))))
    assert report.found is not None and report.found.section["dialect"] == "voltronic"
    assert report.found.who == "0665:5161 INNO TECH USB to Serial" and bench.opened == ["bridge 5161"]
    other = Bench(usb=SpeakerLink(SPEAKERS["gtec"], Unit(0.0)))
    assert other.look(other.around(ports=0, usb=(who,))).found is None, "its ids prove nothing"


def test_two_upses_and_two_equal_drivers_are_not_decided() -> None:
    bench = Bench(serial=SpeakerLink(SPEAKERS["megatec"], Unit(0.0)))
    report = bench.look(bench.around(ports=2))
    assert report.found is None and "more than one UPS" in report.words
    one = Candidate(place="a", found=Found(driver="megatec"), score=0.9, why="")
    two = Candidate(place="a", found=Found(driver="apcsmart"), score=0.8, why="")
    assert judge((one, two))[0] is None and "about as well" in judge((one, two))[1]


def test_a_port_in_use_is_said() -> None:
    bench = Bench()
    report = bench.look(bench.around())
    assert report.skipped == (f"{PORT}: {PORT} is in use by another program",)


def test_reads_that_do_not_agree_are_too_little() -> None:
    assert weigh([(1.0, {"dialect": "q6"}), (1.0, {"dialect": "megatec"}), (1.0, {"dialect": "q6"})])[0] == 0.5
    assert weigh([(1.0, {}), (0.0, {}), (0.0, {})])[0] == 0.33
    weak = Candidate(place="a", found=Found(driver="megatec"), score=0.5, why="")
    assert judge((weak,))[0] is None and "scores 0.5" in judge((weak,))[1]


def test_nothing_but_a_query_gets_out_whatever_a_driver_tries() -> None:
    link = ScriptLink({})
    asking = detect.Asking(link, megatec.QUERIES)
    for order in (b"S01R0003\r", b"T\r", b"C\r", b"Q1", b""):
        with pytest.raises(LinkError):
            asking.ask(order)
        with pytest.raises(LinkError):
            asking.send(order)
    assert link.sent == []
    with pytest.raises(Silence):
        asking.ask(b"Q1\r")
    assert link.sent == [b"Q1\r"] and asking.frames[-1].startswith("b'Q1\\r' -> ") and not asking.heard


def test_the_queries_of_the_drivers_that_are_asked_are_no_orders() -> None:
    asked = [m for m in map(drivers.load, drivers.available()) if m.LINK == "serial"]
    assert {m.NAME for m in asked} == {"megatec", "apcsmart", "shut"}  # a look around asks nobody else
    for module in asked:
        for query in module.QUERIES:
            assert query in {
                b"Q1\r",
                b"QPI\r",
                b"QGS\r",
                b"G2\r",
                b"Q6\r",
                b"M\r",
                b"QS\r",
                b"D\r",
                b"F\r",
                b"Y",
                b"Q",
                *shut.QUERIES,  # sync, and a set-up packet that asks for a descriptor
            }


def test_equal_usb_units_are_told_apart_by_their_socket_and_others_by_their_serial_number() -> None:
    one = Identity(0x051D, 2, "APC", "UPS", "S1", "1-1")
    twin = one._replace(place="1-2")
    assert usb_section(one, [one]) == {"usb_vendor": "051d", "usb_product": "0002", "usb_serial": "S1"}
    assert usb_section(one, [one, twin])["usb_place"] == "1-1"


# --- driver = "auto" -------------------------------------------------------------------------------------------


def settle(auto: Auto, calls: int = 60) -> Found:
    for _ in range(calls):
        try:
            return auto.choose()
        except LinkError as e:
            last = str(e)
    raise AssertionError(last)


def test_auto_finds_step_by_step_and_a_restart_in_an_outage_does_not_look_again(tmp_path: Path) -> None:
    bench = Bench(serial=SpeakerLink(SPEAKERS["q6"], Unit(0.0)))
    section = {"serial_ok": True, "port": ""}
    auto = Auto(tmp_path, section, bench.open, lambda: bench.now_s, bench.around())
    with pytest.raises(LinkError, match="looking for the UPS: /dev/serial"):
        auto.choose()
    assert settle(auto).section == {"port": PORT, "dialect": "q6"}
    nothing = Bench()  # the UPS is absent now
    again = Auto(tmp_path, section, nothing.open, lambda: 0.0, nothing.around(ports=0))
    assert again.choose().section == {"port": PORT, "dialect": "q6"} and nothing.opened == []
    assert (tmp_path / "detected.json").stat().st_mode & 0o077 == 0
    withdrawn = Auto(tmp_path, {"serial_ok": False}, bench.open, lambda: 0.0, bench.around(ports=0))
    with pytest.raises(LinkError, match="no UPS was found"):
        withdrawn.choose()


def test_auto_says_what_it_does_not_know_and_looks_again_after_a_while(tmp_path: Path) -> None:
    bench = Bench(serial=SpeakerLink(SPEAKERS["megatec"], Unit(0.0)))
    auto = Auto(tmp_path, {"serial_ok": False}, bench.open, lambda: bench.now_s, bench.around())
    with pytest.raises(LinkError, match=r"no UPS known.*nobody said that no contact cable"):
        auto.choose()
    assert bench.opened == [] and not (tmp_path / "detected.json").exists()
    absent = Bench(serial=ScriptLink({}))
    auto = Auto(tmp_path, {"serial_ok": True}, absent.open, lambda: absent.now_s, absent.around())
    with pytest.raises(AssertionError, match="no UPS known"):
        settle(auto)
    absent.links["serial"] = SpeakerLink(SPEAKERS["megatec"], Unit(0.0))
    with pytest.raises(LinkError, match="no UPS known"):
        auto.choose()
    absent.now_s += detect.AGAIN_S
    assert settle(auto).section["dialect"] == "megatec"


def test_another_ups_on_the_same_serial_line_is_found_after_five_minutes_of_silence(tmp_path: Path) -> None:
    bench = Bench(serial=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)))
    auto = Auto(tmp_path, {"serial_ok": True}, bench.open, lambda: bench.now_s, bench.around())
    before = settle(auto)
    assert before.section["dialect"] == "voltronic"
    bench.now_s += 86400.0  # it worked for a day
    bench.links["serial"], bench.opened = SpeakerLink(SPEAKERS["megatec"], Unit(0.0)), []
    for _ in range(19):  # tried again, each 15 s
        assert auto.choose() == before and bench.opened == []
        bench.now_s += 15.0
    bench.now_s += 15.0
    assert settle(auto).section["dialect"] == "megatec" and bench.opened


def test_a_ups_that_is_silent_for_long_is_looked_for_and_stays_remembered(tmp_path: Path) -> None:
    bench = Bench(serial=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)))
    auto = Auto(tmp_path, {"serial_ok": True}, bench.open, lambda: bench.now_s, bench.around())
    before = settle(auto)
    bench.links["serial"] = ScriptLink({})
    for _ in range(60):
        bench.now_s += 15.0
        assert settle(auto) == before
    assert 2 <= sum(kind.startswith("serial") for kind in bench.opened[1:]) <= 40


def test_a_ups_that_answers_is_not_looked_for_however_often_its_line_is_opened(tmp_path: Path) -> None:
    bench = Bench(serial=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)))
    auto = Auto(tmp_path, {"serial_ok": True}, bench.open, lambda: bench.now_s, bench.around())
    before = settle(auto)
    for _ in range(60):  # a noisy line; a look would be silence, and that counts in an outage
        bench.now_s += 15.0
        assert auto.choose() == before
        auto.heard()


def test_each_frame_that_the_core_takes_says_that_the_ups_answers(tmp_path: Path) -> None:
    path = tmp_path / "ridethrough.toml"
    path.write_text(f'[agent]\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n[ups]\ndriver = "auto"\n')
    made = core.Core(path)
    made._auto._chosen_s = 5.0
    made._take(Polled(None, "silence", 1, "up", frozenset()))
    assert made._auto._chosen_s == 5.0
    made._take(Polled(look(), "", 0, "up", frozenset()))
    assert made._auto._chosen_s < 0.0


def test_what_could_not_be_kept_is_known_as_long_as_the_process_lives(tmp_path: Path) -> None:
    bench, full = Bench(serial=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0))), tmp_path / "a-file" / "core"
    full.parent.write_text("")
    auto = Auto(full, {"serial_ok": True}, bench.open, lambda: bench.now_s, bench.around())
    before = settle(auto)
    assert auto.choose() == before and auto.choose() == before


def test_what_is_looked_for_after_silence_is_looked_for_at_its_own_place_alone(tmp_path: Path) -> None:
    unit = HidUnit.of("0764-0501")
    bench = Bench(serial=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)), usb=unit)
    auto = Auto(tmp_path, {"serial_ok": True}, bench.open, lambda: bench.now_s, bench.around())
    before = settle(auto)
    bench.links["serial"] = ScriptLink({})
    auto._around = bench.around(ports=2, power=(unit.identity,), usb=(unit.identity,))  # somebody else's
    for _ in range(60):
        bench.now_s += 15.0
        assert settle(auto) == before
    assert set(bench.opened) == {f"serial {PORT}"}


@pytest.mark.parametrize("smart", [False, True])
def test_a_ups_whose_adapter_was_replaced_is_found_at_the_new_one_after_five_minutes(
    tmp_path: Path, smart: bool
) -> None:
    unit = HidUnit.of("0764-0501")
    bench = Bench(serial=ApcLink() if smart else SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)), usb=unit)
    auto = Auto(tmp_path, {"serial_ok": True}, bench.open, lambda: bench.now_s, bench.around())
    before = settle(auto)
    ports = [Port(Path("/dev/ttyUSB0"), None, f"{PORT}-new")]
    auto._around = replace(bench.around(power=(unit.identity,)), ports=lambda: ports)
    for _ in range(30):
        bench.now_s += 15.0
        found = settle(auto)
    assert found == replace(before, section={**before.section, "port": f"{PORT}-new"})
    assert not any(opened.startswith("usb") for opened in bench.opened)


def test_a_smart_ups_that_is_silent_for_long_never_hears_a_question_of_another_driver(tmp_path: Path) -> None:
    link = ApcLink()
    bench = Bench(serial=link)
    auto = Auto(tmp_path, {"serial_ok": True}, bench.open, lambda: bench.now_s, bench.around())
    assert settle(auto).driver == "apcsmart"
    plugged, link.sent = link.ask, []

    def pulled(command: bytes, **_: Any) -> Reply:
        raise Silence(f"{command!r}: no answer")

    link.ask = pulled  # type: ignore[assignment, method-assign]
    for _ in range(200):
        bench.now_s += 2.0
        try:
            auto.choose()
        except LinkError as e:
            if "megatec" in str(e):  # the cable is in again, at a bad moment
                link.ask = plugged  # type: ignore[method-assign]
    assert set(link.sent) <= {b"Y", b"Q"}


def test_a_smart_ups_that_is_plugged_in_amid_a_look_hears_one_question_of_another_driver() -> None:
    link = ApcLink()
    link.apc.smart = True  # whoever had it before told it so
    plugged = link.ask

    def pulled(command: bytes, **_: Any) -> Reply:
        raise Silence(f"{command!r}: no answer")

    link.ask = pulled  # type: ignore[assignment, method-assign]
    bench = Bench(serial=link)
    look = Look(bench.open, lambda: bench.now_s, serial_ok=True, around=bench.around())
    for step in look.steps():
        if "megatec" in step:
            link.ask = plugged  # type: ignore[method-assign]
    assert link.sent == [b"Q1\r"] and look.report().found is None


def test_another_ups_behind_an_equal_bridge_is_found_after_five_minutes_of_silence(tmp_path: Path) -> None:
    one = Identity(0x0665, 0x5161, "INNO TECH", "USB to Serial", "", "1-2")
    other = Identity(0x0001, 0, "", "MEC0003", "", "1-3")
    bench = Bench(usb=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)))
    auto = Auto(tmp_path, {}, bench.open, lambda: bench.now_s, bench.around(ports=0, usb=(one,)))
    before = settle(auto)
    assert before.section["dialect"] == "voltronic"
    auto._around, bench.opened = bench.around(ports=0, usb=(other,)), []
    for _ in range(60):  # it is absent: another one is not taken for it
        bench.now_s += 15.0
        assert settle(auto) == before and bench.opened == []
    bench.links["usb"] = SpeakerLink(SPEAKERS["megatec"], Unit(0.0))
    auto._around = bench.around(ports=0, usb=(one, other))
    for _ in range(60):
        bench.now_s += 15.0
        found = settle(auto)
    assert found.section["dialect"] == "megatec" and set(bench.opened) == {"bridge 5161"}


def test_a_usb_unit_without_a_serial_number_is_remembered_by_its_ids_and_strings(tmp_path: Path) -> None:
    one = Identity(0x0665, 0x5161, "INNO TECH", "USB to Serial", "", "1-2")
    bench = Bench(usb=SpeakerLink(SPEAKERS["voltronic"], Unit(0.0)))
    first = settle(Auto(tmp_path, {}, bench.open, lambda: 0.0, bench.around(ports=0, usb=(one,))))
    assert first.section["dialect"] == "voltronic" and "usb_serial" not in first.section

    def after(*there: Identity) -> tuple[Found, list[str]]:
        """What is chosen after a restart, with a megatec behind what is there, and what was opened for it."""
        other = Bench(usb=SpeakerLink(SPEAKERS["megatec"], Unit(0.0)))
        return settle(Auto(tmp_path, {}, other.open, lambda: 0.0, other.around(ports=0, usb=there))), other.opened

    assert after(one) == after(one._replace(place="1-4")) == after() == (first, []), "at any socket, and while absent"
    another = one._replace(maker="Other", name="Other bridge")
    assert (
        after(one, another) == after(one._replace(maker="")) == after(one._replace(maker="", name="")) == (first, [])
    )
    found, opened = after(another)
    assert found.section["dialect"] == "megatec" and opened, "the same ids, but not the same UPS"
    assert after(another) == (found, []), "and that is remembered now"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"driver": "simulator"}', '{"driver": "rm"}', '{"driver": 1}'])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "detected.json").write_text(text)
    assert detect.recall(tmp_path / "detected.json") is None


def test_the_report_is_json_and_text() -> None:
    from agent import wire

    report = found_on(SpeakerLink(SPEAKERS["megatec"], Unit(0.0)))
    told = json.loads(json.dumps(wire.to_json(report)))
    assert told["found"]["driver"] == "megatec" and any("Q1" in f for f in told["candidates"][0]["frames"])
    text = "\n".join(finding.describe(report))
    for part in ("[ups]", 'driver = "megatec"', f'port = "{PORT}"', "apcsmart", "no answer that it understands"):
        assert part in text, text


def test_a_look_at_a_silent_port_moves_every_few_seconds() -> None:
    link = ScriptLink({})
    bench = Bench(serial=link)
    look = Look(bench.open, lambda: 0.0, serial_ok=True, around=bench.around())
    gaps, before_s = [], link.now_s
    for _ in look.steps():
        gaps.append(link.now_s - before_s)
        before_s = link.now_s
    assert max(gaps) <= 6.0, "the core would be taken for hanging"


# --- hosts that are named ------------------------------------------------------------------------------------------


class NutServer:
    """`with NutServer() as it`: a server that has these UPSes; `heard` is what it was asked."""

    def __init__(self, rows: bytes) -> None:
        self.listener, self.rows, self.heard = socket.create_server(("127.0.0.1", 0)), rows, b""

    def __enter__(self) -> NutServer:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _serve(self) -> None:
        sock, _ = self.listener.accept()
        with sock:
            while data := sock.recv(1024):
                self.heard += data
                sock.sendall(b"BEGIN LIST UPS\n" + self.rows + b"END LIST UPS\n")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


def ask_hosts(opened: dict[str, Any], hosts: tuple[str, ...] = ("127.0.0.1",)) -> detect.Report:
    """As `--host` does; `opened`: kind of link -> a port of this machine, or a link."""

    def open_link(kind: str, section: Mapping[str, Any], now: Callable[[], float]) -> Any:
        there = opened.get(kind, closed_port())
        return process.open_link(kind, {**section, "tcp_port": there}, now) if isinstance(there, int) else there

    def here() -> list[Any]:
        raise AssertionError("what is plugged in here is not looked at")

    look = Look(open_link, time.monotonic, hosts=hosts, around=Around(power_devices=here, usb=here, ports=here))
    for _ in look.steps():
        pass
    return look.report()


def test_a_host_that_is_named_is_asked_by_modbus_and_only_read() -> None:
    with Wire("tcp") as wire:
        report = ask_hosts({"modbus": wire.section["tcp_port"], "snmp": SnmpUnit({})})
    assert report.found == Found(driver="apcmodbus", section={"host": "127.0.0.1"}) and wire.unit.written == []
    assert any("refused" in text for text in report.skipped), "no NUT server there"


def test_a_host_that_is_named_is_asked_as_a_nut_server_without_a_login() -> None:
    with NutServer(b'UPS eaton "the big one"\n') as server:
        report = ask_hosts({"upsd": server.listener.getsockname()[1], "snmp": SnmpUnit({})})
    assert report.found == Found(driver="nut", section={"host": "127.0.0.1"})
    assert set(server.heard.splitlines()) == {b"LIST UPS"}


def test_a_host_that_is_named_is_asked_by_snmp_and_nothing_is_set() -> None:
    unit = SnmpUnit(RFC)
    report = ask_hosts({"snmp": unit})
    assert report.found == Found(driver="snmp", section={"host": "127.0.0.1"})
    assert set(unit.sent) <= set(snmp.QUERIES) and unit.closed and not unit.orders
    assert 'secret = "ro"' in finding.describe(report, "ro")
    assert any("ridethrough secret set public" in line for line in finding.describe(report))


def test_two_ways_to_one_host_and_two_hosts_are_not_decided_and_silence_is_no_ups() -> None:
    with NutServer(b'UPS eaton "the big one"\n') as server:
        report = ask_hosts({"upsd": server.listener.getsockname()[1], "snmp": SnmpUnit(RFC)})
    assert report.found is None and "fit about as well" in report.words
    report = ask_hosts({"snmp": SnmpUnit(RFC)}, ("127.0.0.1", "127.0.0.2"))
    assert report.found is None and "more than one UPS" in report.words
    silent = SnmpUnit(RFC)
    silent.silent = True
    assert ask_hosts({"snmp": silent}).found is None and silent.waited_s <= 2.0


@pytest.mark.parametrize(
    "more, words",
    [
        ({"host": ["nas.lan"]}, "write an IP address"),
        ({"host": ["192.0.2.0/24"]}, "write an IP address"),
        ({"host": ["192.0.2.1"] * 17}, "at most 16"),
        ({"port": "/dev/ttyS0"}, "without --port"),
        ({"secret": "ro"}, "no secret ro"),
    ],
)
def test_what_is_no_host_is_not_asked(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[agent]\nstate_dir = "{tmp_path}"\n[ups]\ndriver = "simulator"\n')
    args = {"forget": False, "host": ["192.0.2.1"], "secret": "", "port": "", "serial_ok": False, "json": False}
    with pytest.raises(ConfigError, match=words):
        finding.main(Namespace(**{**args, **more}, config=config))
