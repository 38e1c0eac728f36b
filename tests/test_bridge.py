"""UPSes of the Q1 family behind USB bridges: the same engine, the same values, whatever way the bytes take."""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import bridge, pretend, process, quirks
from agent.bridges import BRIDGES, Bridge, led, shutdown_number, string_of
from agent.drivers import megatec, usbhid
from agent.model import Command, Condition, LinkError, OrderError, Source
from agent.q1.dialects import DIALECTS
from agent.ups import Polled, Ups
from agent.usbport import Rescue
from tests.simulators import bridge as simulated
from tests.simulators.dialects import SPEAKERS
from tests.simulators.script import SpeakerLink
from tests.test_q1 import FOUND, SHAPES, damaged, polled

AUTO = [one.name for one in BRIDGES if one.auto]
NAMED = [one.name for one in BRIDGES if not one.auto]
BACK = "back {} s after the mains, whatever is asked"
BRIDGE_FRAMES = int(os.environ.get("RIDETHROUGH_FUZZ_FRAMES", "300"))  # each is up to 24 packets
STRINGS = ("krauler", "fabula", "hunnox", "snr")


class Clock:
    """Time goes on with every look, and by what a silence costs."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 0.0001
        return self.now_s

    def wait(self, waited_s: float) -> None:
        self.now_s += waited_s


def device(kind: str, speaker: str = "megatec") -> tuple[simulated.Bridge, pretend.Unit]:
    unit = pretend.Unit(0.0)
    speak = SPEAKERS[speaker]
    return simulated.Bridge(kind, lambda command: speak(unit, command)), unit


def opened(it: simulated.Bridge, **section: Any) -> tuple[Any, Clock]:
    clock = Clock()
    it.clock = clock.wait
    if it.kind in NAMED:
        section = {"bridge": it.kind, **section}
        if it.kind == "gtec":  # its ids are not known
            section = {"usb_vendor": "0665", "usb_product": "5161", **section}
    return bridge.open(section, clock, lambda: [it], simulated.util(it), wait=clock.wait), clock


def connected(it: simulated.Bridge, dialect: str = "auto", **section: Any) -> tuple[Any, Clock]:
    link, clock = opened(it, **section)
    return megatec.connect({"dialect": dialect}, link, clock), clock


# --- every bridge -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [one.name for one in BRIDGES])
def test_the_engine_finds_the_unit_behind_every_bridge_and_reads_mains_battery_and_low(kind: str) -> None:
    it, unit = device(kind)
    driver, clock = connected(it)
    began_s = clock.now_s
    status = driver.poll()
    if kind == "ablerex":  # each answer takes half a second: who it is comes with the next
        assert status.source is Source.MAINS and clock.now_s - began_s < 5.0
        began_s = clock.now_s
        status = driver.poll()
    assert (status.source, status.ident.model, status.rating.battery_voltage_v) == (Source.MAINS, "PTY1K", 24.0)
    assert clock.now_s - began_s < 5.0
    unit.set("mains", "off")
    assert driver.poll().source is Source.BATTERY
    unit.set("battery_low", "1")
    status = driver.poll()
    assert status.battery.low is True and Condition.LOW_BATTERY in status.flags
    unit.set("mains", "on")
    assert driver.poll().source is Source.MAINS
    driver.close()
    driver.close()
    assert it.kernel_driver and it.log == ["claim", "release", "dispose"]


@pytest.mark.parametrize("speaker", sorted(SPEAKERS))
def test_every_dialect_is_the_same_through_a_bridge(speaker: str) -> None:
    name = FOUND.get(speaker, speaker)
    direct, _ = polled(speaker)
    it, unit = device("cypress", speaker)
    driver, clock = connected(it, name)
    driver.poll()
    at_s = direct.poll().taken_s
    for settings in ((), (("mains", "off"), ("charge_pct", "40")), (("battery_low", "1"), ("load_pct", "77"))):
        for key, value in settings:
            unit.set(key, value)
            direct._link.unit.set(key, value)
        began_s = clock.now_s
        ours, theirs = (replace(one.poll(), older={}) for one in (driver, direct))  # a bridge takes its time
        assert clock.now_s - began_s < 5.0
        assert str(ours).replace(str(ours.taken_s), "") == str(theirs).replace(str(theirs.taken_s), ""), at_s
    assert driver.commands == direct.commands


@pytest.mark.parametrize("speaker", ["megatec", "mecer", "mustek", "voltronic", "voltronic-qs", "qs-hex-p", "q6"])
def test_the_dialect_is_found_through_a_bridge_within_five_seconds(speaker: str) -> None:
    it, _ = device("cypress", speaker)
    driver, clock = connected(it)
    began_s = clock.now_s
    driver.poll()
    assert driver._dialect is DIALECTS[speaker] and clock.now_s - began_s < 5.0


@pytest.mark.parametrize("kind", [one.name for one in BRIDGES])
def test_what_is_offered_is_what_the_bridge_can_carry_and_it_arrives(kind: str) -> None:
    it, unit = device(kind)
    driver, _ = connected(it, "megatec")
    driver.poll()
    all_of_them = DIALECTS["megatec"].orders.commands
    missing = {
        "krauler": {"test-minutes", "shutdown-return", "shutdown-stay-off", "load-off"},
        "snr": {one.value for one in all_of_them},
        "fuji": {"shutdown-stay-off", "load-off"},
        **dict.fromkeys(("fabula", "hunnox"), {"test-quick", "test-deep", "test-minutes", "test-stop"}),
    }.get(kind, set())
    assert {one.value for one in all_of_them - driver.commands} == missing
    if Command.SHUTDOWN_RETURN in driver.commands:
        said = driver.order(Command.SHUTDOWN_RETURN, delay_s=30, return_delay_s=180)
        assert said == {"fuji": BACK.format(0), **dict.fromkeys(("fabula", "hunnox"), BACK.format(10))}.get(kind, "")
        assert unit.off_at_s == 30.0 and Condition.SHUTDOWN_PENDING in driver.poll().flags
    if Command.SHUTDOWN_STOP in driver.commands:
        driver.order(Command.SHUTDOWN_STOP)
        assert unit.off_at_s is None
    if Command.BEEPER_OFF in driver.commands:
        driver.order(Command.BEEPER_OFF)
        assert driver.poll().beeper_on is False
    for command in missing:
        with pytest.raises(OrderError, match="cannot do"):
            driver.order(Command(command))


def test_a_bridge_that_cannot_say_a_short_delay_says_its_shortest_and_that_is_told() -> None:
    it, unit = device("fabula")
    driver, _ = connected(it, "megatec")
    driver.poll()
    assert driver.order(Command.SHUTDOWN_STAY_OFF, delay_s=12) == "off after 30 s, not 12" and unit.off_at_s == 30.0
    driver.order(Command.SHUTDOWN_STOP)
    assert driver.order(Command.LOAD_OFF) == "off after 30 s, not at once" and unit.off_at_s == 30.0


# --- which bridge it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", AUTO)
def test_a_bridge_is_known_by_its_ids_and_strings(kind: str) -> None:
    link, _ = opened(device(kind)[0])
    assert link.name == kind


@pytest.mark.parametrize("kind", sorted(set(NAMED) - {"gtec", "snr", "armac-64"}))
def test_one_that_nobody_tried_is_recognised_and_must_be_named(kind: str) -> None:
    it, _ = device(kind)
    with pytest.raises(LinkError, match=f'looks like bridge {kind}.*set bridge = "{kind}"'):
        bridge.open({}, Clock(), lambda: [it], simulated.util(it))
    assert it.log == [] and it.kernel_driver and it.sent == []


def test_every_untested_bridge_is_out_of_auto_and_every_other_has_evidence() -> None:
    for one in BRIDGES:
        assert one.auto is (one.evidence in ("NUT", "capture, NUT")), one.name
        assert len({row.name for row in BRIDGES}) == len(BRIDGES)


def test_other_devices_are_not_asked_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        idVendor, idProduct = 0x046D, 0x0825

    with pytest.raises(LinkError, match=r"no USB UPS; there are: none.*serial line needs \[ups\] port"):
        bridge.open({}, Clock(), lambda: [Camera()], None)


def test_two_that_fit_are_told_apart_by_the_socket() -> None:
    first, second = device("cypress")[0], device("cypress")[0]
    second.port_numbers = (3,)
    with pytest.raises(LinkError, match="2 USB UPSes fit.*1-2.*1-3"):
        bridge.open({}, Clock(), lambda: [first, second], None)
    bridge.open({"usb_place": "1-3"}, Clock(), lambda: [first, second], simulated.util(second))
    assert (first.log, second.log) == ([], ["claim"])


def test_a_device_that_may_not_be_opened_names_the_udev_rule_and_one_in_use_its_user() -> None:
    it, _ = device("cypress")
    it.refuse_claim = errno.EACCES
    with pytest.raises(LinkError, match='ATTR{idVendor}=="0665", ATTR{idProduct}=="5161", GROUP="dialout"'):
        opened(it)
    it.refuse_claim = errno.EBUSY
    with pytest.raises(LinkError, match="in use by another program"):
        opened(it)
    assert it.kernel_driver, "given back also when it could not be had"


def test_the_rules_for_udev_and_the_table_for_detection_have_every_id() -> None:
    rules = (Path(__file__).parent.parent / "systemd" / "70-ridethrough-ups.rules").read_text()
    pairs = set(re.findall(r'ATTRS{idVendor}=="(\w{4})", ATTRS{idProduct}=="(\w{4})", GROUP="dialout"', rules))
    vendors = set(re.findall(r'ATTRS{idVendor}=="(\w{4})", GROUP="dialout"', rules))
    ids = {(f"{vendor:04x}", f"{product:04x}") for vendor, product, _ in megatec.USB}
    assert not {pair for pair in ids - pairs if pair[0] not in vendors}
    assert {name for *_, name in megatec.USB} == {one.name for one in BRIDGES if one.ids}
    assert (0x0665, 0x5161, "cypress") in megatec.USB
    not_by_maker = {"047c", "03f0", "04b3"}  # Dell, HP and IBM make much else; the description of a UPS lets it in
    makers = {f"{one.vendor:04x}" for one in quirks.ROWS} - not_by_maker
    assert makers <= vendors | {vendor for vendor, _ in pairs}


# --- port, or USB -------------------------------------------------------------------------------------------------


def test_a_port_means_the_serial_line_and_none_means_usb() -> None:
    assert process.link_kind(megatec, {"port": "/dev/ttyS0"}) == "serial"
    assert process.link_kind(megatec, {"usb_vendor": "0665"}) == process.link_kind(megatec, {}) == "bridge"
    assert process.link_kind(usbhid, {}) == "usb"
    with pytest.raises(LinkError, match="port, a serial line, and usb_vendor, which is for USB"):
        process.link_kind(megatec, {"port": "/dev/ttyS0", "usb_vendor": "0665", "bridge": "auto"})
    options = {option.name: option for option in process.ups_options("megatec")}
    assert not options["port"].required and {"usb_serial", "bridge", "baud"} <= set(options)
    assert next(o for o in process.ups_options("apcsmart") if o.name == "port").required


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", AUTO)
def test_silence_a_stall_and_a_unit_that_is_gone_are_link_errors_in_bounded_time(kind: str) -> None:
    it, _ = device(kind)
    link, clock = opened(it)
    assert link.ask(b"Q1\r").data.startswith(b"(230.0")
    it.silent = True
    began_s = clock.now_s
    with pytest.raises(LinkError, match="no answer within 3 s|UPS No Ack"):
        link.ask(b"Q1\r")
    assert clock.now_s - began_s <= 3.1
    began_s = clock.now_s
    with pytest.raises(LinkError):
        link.ask(b"Q1\r", within_s=60)
    assert clock.now_s - began_s <= 5.1, "whatever the caller says"
    it.silent, it.stalls = False, 99
    with pytest.raises(LinkError, match="EPIPE"):
        link.ask(b"Q1\r")
    it.stalls = 0
    assert link.ask(b"F\r").data.startswith(b"#230.0"), "a stall passes"
    it.gone = True
    with pytest.raises(LinkError, match="ENODEV"):
        link.ask(b"Q1\r")
    link.close()
    assert it.log[-2:] == ["release", "dispose"]


def test_a_question_of_the_report_bridge_is_asked_again_and_an_order_never_is() -> None:
    it, unit = device("ablerex")
    link, clock = opened(it)
    whole, late = it._feature, [2]

    def feature() -> bytes:
        late[0] -= 1
        return b"(230.0 23".ljust(47, b"\0") if late[0] >= 0 else whole()

    it._feature = feature  # type: ignore[method-assign]
    assert link.ask(b"Q1\r").data.startswith(b"(230.0 ") and it.sent == [b"Q1"] * 3
    it.sent.clear()
    late[0] = 99
    before = unit.beeper
    with pytest.raises(LinkError, match="no answer"):
        link.ask(b"Q\r")
    assert it.sent == [b"Q"] and unit.beeper is not before
    began_s = clock.now_s
    with pytest.raises(LinkError):
        link.ask(b"Q1\r", within_s=60)
    assert clock.now_s - began_s <= 5.1
    it.gone = True
    with pytest.raises(LinkError, match="ENODEV"):
        link.ask(b"Q1\r")


def test_a_halted_endpoint_is_cleared() -> None:
    it, _ = device("cypress")
    link, _ = opened(it)
    it.stalls = 1
    with pytest.raises(LinkError):
        link.ask(b"Q1\r")
    assert "clear 0x81" in it.log and link.ask(b"Q1\r").data.startswith(b"(230.0")


def test_what_is_left_of_an_earlier_answer_is_thrown_away_and_endless_talk_is_an_error() -> None:
    it, _ = device("cypress")
    link, _ = opened(it)
    for _ in range(3):
        it.packets.put(b"(999.9 9")
    assert link.ask(b"Q1\r").data.startswith(b"(230.0")
    for _ in range(40):
        it.packets.put(b"UUUUUUUU")
    with pytest.raises(LinkError, match="does not stop talking"):
        link.ask(b"Q1\r")
    it.speak = lambda command: b"U" * 700
    while not it.packets.empty():
        it.packets.get()
    with pytest.raises(LinkError, match="packets without an end"):
        link.ask(b"Q1\r")


def test_an_answer_that_was_left_stands_for_no_later_poll_where_packets_are_40_ms_apart() -> None:
    it, unit = device("cypress")
    driver, clock = connected(it, "megatec")
    read = it.read

    def slow(endpoint: int, size: int, timeout: int) -> bytes:
        if timeout < 40:
            raise simulated.failed(errno.ETIMEDOUT)
        clock.wait(0.04)
        return read(endpoint, size, timeout)

    it.read = slow  # type: ignore[method-assign]
    driver.poll()
    it._answer(it.speak(b"Q1"))  # it came late, when nobody waited any more
    unit.mains = False
    for _ in range(3):
        assert driver.poll().source is Source.BATTERY
        clock.wait(10.0)


def test_padding_after_the_end_may_be_anything() -> None:
    it, _ = device("cypress")
    it.filling = b"7"
    driver, _ = connected(it)
    assert driver.poll().source is Source.MAINS


@pytest.mark.parametrize("kind", ["cypress", "krauler", "fabula"])
def test_an_order_that_did_not_get_out_is_not_taken_for_obeyed(kind: str) -> None:
    it, unit = device(kind)
    driver, _ = connected(it, "megatec")
    driver.poll()
    it.stalls = 2 if kind == "cypress" else 1  # the first finds nothing waiting
    with pytest.raises(OrderError if kind != "cypress" else (OrderError, LinkError)):
        driver.order(Command.SHUTDOWN_STOP)
    assert b"C" not in it.sent and driver.poll().source is Source.MAINS


def test_an_order_whose_bytes_are_refused_is_an_order_error() -> None:
    it, unit = device("cypress")
    driver, _ = connected(it, "megatec")
    driver.poll()
    refuse = it.ctrl_transfer
    it.ctrl_transfer = lambda *args: (_ for _ in ()).throw(simulated.failed(errno.EPIPE))  # type: ignore[method-assign]
    with pytest.raises(OrderError, match="not given.*not sent"):
        driver.order(Command.LOAD_OFF)
    it.ctrl_transfer = refuse  # type: ignore[method-assign]
    assert driver.poll().source is Source.MAINS and b"S00R0000" not in it.sent


def test_pulled_out_and_put_in_again_elsewhere_it_is_found_by_the_thread_of_the_ups() -> None:
    it, unit = device("cypress")
    there: list[simulated.Bridge] = [it]
    frames: list[Polled] = []
    stop = threading.Event()

    def opener() -> Any:
        link = bridge.open({}, time.monotonic, lambda: list(there), simulated.util(there[0]) if there else None)
        return megatec.connect({"dialect": "megatec"}, link, time.monotonic)

    ups = Ups(opener, frames.append, 0.02, Rescue(time.monotonic), (0.02,))
    thread = threading.Thread(target=ups.run, args=(stop,), daemon=True)
    thread.start()

    def until(wanted: Any) -> None:
        end_s = time.monotonic() + 5.0
        while not (frames and wanted(frames[-1])):
            assert time.monotonic() < end_s
            stop.wait(0.01)

    until(lambda polled: polled.status)
    it.gone = True
    there.clear()
    until(lambda polled: polled.link == "down" and "no USB UPS" in polled.error)
    again, _ = device("cypress")
    again.port_numbers = (7,)
    there.append(again)
    until(lambda polled: polled.status and polled.link == "up")
    stop.set()
    ups.wake()
    thread.join(5.0)
    assert again.log == ["claim", "release", "dispose"]


# --- string descriptors -------------------------------------------------------------------------------------------


def test_a_string_bridge_that_is_not_ready_is_asked_again_and_an_order_is_given_once() -> None:
    it, unit = device("krauler")
    it.unready = 9
    link, clock = opened(it)
    assert link.ask(b"Q1\r").data.startswith(b"(230.0")
    assert [number for number, _ in it.strings] == [3] * 10
    assert link.ask(b"Q\r").data == b"" and it.sent.count(b"Q") == 1, "twice would be not at all"
    assert link.ask(b"QPI\r").data == b"QPI", "what it has no number for is refused"
    link.send(b"T\r")
    assert it.sent[-1] == b"T" and unit.testing
    with pytest.raises(LinkError, match="cannot carry"):
        link.send(b"S.5\r")


def test_hunnox_is_asked_in_lockstep_and_never_for_more_than_it_can_give() -> None:
    it, _ = device("hunnox")
    driver, _ = connected(it, "megatec")
    for _ in range(4):
        assert driver.poll().source is Source.MAINS
    numbers = [number for number, _ in it.strings]
    assert {3, 12, 13} <= set(numbers) and max(size for _, size in it.strings) == 102
    assert len(numbers) > 2 * len(it.strings) / 3 and numbers[-2:].count(3) >= 1


def test_hunnox_tells_its_charge_when_its_dialect_is_named() -> None:
    it, unit = device("hunnox", "hunnox")
    unit.set("charge_pct", "61")
    driver, _ = connected(it, "hunnox")
    assert driver.poll().battery.charge_pct == 61.0


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (b"S.5", 0x18), (b"S.5R0003", 0x18), (b"S.5R0000", 0x10), (b"S.2R0003", 0x18), (b"S.9R0003", 0x58),
        (b"S01R0003", 0x68), (b"S01R0000", 0x60), (b"S10R0003", 0xF8), (b"S99R0000", 0xF0), (b"S00R0000", 0x10),
        (b"T", None), (b"S1", None), (b"SON", None),
    ],
)  # fmt: skip
def test_a_shutdown_has_a_number(command: bytes, number: int | None) -> None:
    assert shutdown_number(command) == number


# --- what real ones sent, and what nobody expects -----------------------------------------------------------------

CAPTURES = {  # NUT, docs/nutdrv_qx-subdrivers.txt: the packets of three Armac units
    "Q1 R/3000I/PF1": (
        "a628323431 2e|8635203030 30|a62e302032 33|86302e3320 30|a630302034 39|862e392032 2e|a632352034 38|"
        "862e302030 30|a630303030 30|83310d3030 30",
        b"(241.5 000.0 230.3 000 49.9 2.25 48.0 00000001",
    ),
    "ID": ("a54e414b0d 30", b"NAK"),
    "F": (
        "8123310030 30|c132310030 30|8232300030 30|c32e302030 30|8230302030 30|c335203230 30|83342e3030 30|"
        "c230203030 30|8335302e30 30|c2300d2e30 30",
        b"#220.0 005 24.00 50.0",
    ),
}


@pytest.mark.parametrize("name", CAPTURES)
def test_the_packets_of_a_real_armac_are_read(name: str) -> None:
    packets, answer = CAPTURES[name]
    it, _ = device("armac")
    it.speak = lambda command: b""
    link, _ = opened(it)

    def reply(answer: bytes) -> None:
        for packet in packets.split("|"):
            it.packets.put(bytes.fromhex(packet))

    it._answer = reply  # type: ignore[method-assign]
    assert link.ask(b"Q1\r").data == answer


def test_what_an_armac_never_answers_is_not_asked() -> None:
    it, _ = device("armac")
    link, _ = opened(it)
    assert link.ask(b"QPI\r").data == b"QPI" and it.sent == []


def test_a_voltronic_as_it_was_captured_behind_cypress_with_its_padding() -> None:
    """github saper-2/py-upshid-voltqs, README: EP 0x81, packets of 8 bytes, NUL after the CR."""
    it, _ = device("cypress")
    hexes = "28 32 33 30 2E 38 20 32 33 30 2E 38 20 32 33 30 2E 38 20 30 30 30 20 35 30 2E 30 20 31 33 2E 36 20 2D 2D"
    whole = bytes.fromhex(hexes + " 2E 2D 20 30 30 30 30 31 30 30 30 0D 00")
    it.speak = lambda command: whole if command == b"QS" else b"H\r" if command == b"M" else b""
    driver, _ = connected(it, "voltronic-qs")
    status = driver.poll()
    assert (status.inputs[0].voltage_v, status.battery.voltage_v, status.temperature_c) == (230.8, 13.6, None)


pieces = st.lists(st.binary(max_size=8), max_size=80)


@given(kind=st.sampled_from(["cypress", "sgs", "armac", "ippon"]), packets=pieces)
def test_any_packets_are_an_answer_or_a_link_error_in_bounded_time(kind: str, packets: list[bytes]) -> None:
    it, _ = device(kind)
    it.speak = lambda command: b""
    link, clock = opened(it)

    def reply(answer: bytes) -> None:
        for packet in packets:
            it.packets.put(packet)

    it._answer = reply  # type: ignore[method-assign]
    began_s = clock.now_s
    try:
        answer = link.ask(b"Q1\r", within_s=3.0).data
    except LinkError:
        pass
    else:
        assert b"\r" not in answer and len(answer) <= 512 + 64
        assert kind in ("sgs", "ippon") or b"\r" in b"".join(packets)
    assert clock.now_s - began_s <= 3.5


@given(st.lists(st.integers(1, 8), min_size=10, max_size=60), st.binary(max_size=7))
def test_an_answer_is_the_same_however_it_is_cut(cuts: list[int], after: bytes) -> None:
    whole = b"(230.0 229.0 231.0 030 50.0 26.0 25.0 00001001\r" + after
    it, _ = device("cypress")
    link, _ = opened(it)

    def reply(answer: bytes) -> None:
        rest = whole
        for cut in [*cuts, *[8] * 9]:
            it.packets.put(rest[:cut])  # also empty ones
            rest = rest[cut:]

    it._answer = reply  # type: ignore[method-assign]
    assert link.ask(b"Q1\r").data == whole.partition(b"\r")[0]


def test_packets_without_a_byte_do_not_go_on_for_ever() -> None:
    it, _ = device("cypress")
    link, _ = opened(it)
    it._answer = lambda answer: [it.packets.put(b"") for _ in range(5000)]  # type: ignore[assignment,method-assign]
    with pytest.raises(LinkError, match="packets without an end"):
        link.ask(b"Q1\r", within_s=5.0)


@given(st.binary(max_size=130) | st.binary(max_size=64).map(lambda text: bytes([2 * len(text) + 2, 3]) + 2 * text))
def test_any_string_descriptor_is_text_or_a_link_error(descriptor: bytes) -> None:
    try:
        text = string_of(descriptor)
    except LinkError:
        return
    assert len(text) <= 127 and descriptor[1] == 3


@given(st.binary(max_size=200))
def test_any_answer_of_a_string_bridge_is_read_or_a_link_error(data: bytes) -> None:
    it, _ = device("krauler")
    link, clock = opened(it)
    it._string = lambda number, language, size: data  # type: ignore[method-assign]
    driver = megatec.connect({"dialect": "megatec"}, link, clock)
    with pytest.raises(LinkError):
        driver.poll()


@given(st.binary(min_size=1, max_size=40), st.integers(2, 64))
def test_what_is_packed_is_a_count_and_so_many_bytes(command: bytes, size: int) -> None:
    packed = led(size, 0xA0)(command)
    assert b"".join(one[1 : 1 + one[0] - 0xA0] for one in packed) == command
    assert {len(one) for one in packed} == {size}


def test_a_bridge_needs_its_strings() -> None:
    who = bridge.identity(device("fabula")[0])
    one = Bridge("x", ((1, 0),), BRIDGES[1].how, "NUT", maker="mec", product="MEC0003")
    assert one.fits(who) and not one.fits(who._replace(maker="other")) and not one.fits(who._replace(product=7))


def test_probing_sends_questions_alone() -> None:
    it, unit = device("cypress")
    link, _ = opened(it)
    assert megatec.probe(link) == 1.0
    assert {command + b"\r" for command in it.sent} <= set(megatec.QUERIES)
    assert SpeakerLink(SPEAKERS["megatec"], unit).unit.beeper


@pytest.mark.parametrize("kind", [one.name for one in BRIDGES])
def test_damaged_packets_and_strings_are_an_answer_or_a_link_error_and_no_outage_of_another_shape(kind: str) -> None:
    """F21, through the bridge: bits turned, packets lost, doubled, cut or longer than they say."""
    chance, battery, refused, took_s = random.Random(f"20261126 {kind}"), 0, 0, 0.0
    it, unit = device(kind)
    unit.set("mains", "off")
    link, clock = opened(it)
    whole_read, whole_string = it.read, it._string

    def read(endpoint: int, size: int, timeout: int) -> bytes:
        packet = whole_read(endpoint, size, timeout)
        return damaged(packet, chance)[:size] if chance.random() < 0.3 else packet

    def string(number: int, language: int, size: int) -> bytes:
        descriptor = whole_string(number, language, size)
        return damaged(descriptor, chance)[:size] if number > 2 and chance.random() < 0.6 else descriptor

    it.read, it._string = read, string  # type: ignore[method-assign]
    whole_report = it._feature
    it._feature = lambda: damaged(whole_report(), chance) if chance.random() < 0.6 else whole_report()  # type: ignore[method-assign]
    for _ in range(BRIDGE_FRAMES):
        it.packets.queue.clear()
        it.packets.unfinished_tasks = 0
        it._inbox, it.sent, it.strings, it.gone, it.stalls = b"", [], [], False, 0
        began_s, asked_s = time.thread_time(), clock.now_s
        try:
            frame = link.ask(b"Q1\r").data
            facts = DIALECTS["megatec"].poll[0].parse(frame)
        except LinkError:
            refused += 1
            continue
        finally:
            took_s += time.thread_time() - began_s
            assert clock.now_s - asked_s < 5.0
        if facts["utility_fail"]:
            battery += 1
            assert re.fullmatch(SHAPES[b"Q1\r"], frame, re.DOTALL), frame
    assert battery and refused and took_s / BRIDGE_FRAMES < 0.002  # with the simulated device
