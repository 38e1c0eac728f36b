"""A USB UPS that is plugged in and silent: opened anew, its port reset, and at last an honest word."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import usb.core

from agent import hidraw, page, usbport, verbs, words
from agent.drivers import usbhid
from agent.model import LinkError
from agent.ups import ERROR_LIMIT, Polled, Ups
from agent.usbport import Rescue
from tests.fakecore import no_data
from tests.kit import Play
from tests.simulators.hidkernel import UnitKernel, plug
from tests.simulators.hidunit import HidUnit

WORDS = words.load()


class Port:
    """A USB socket with a device in it, as /sys and the kernel have it."""

    def __init__(self, root: Path) -> None:
        self.sys, self.dev, self.now_s = root / "usb", root / "dev", 0.0
        self.reset_s: list[float] = []
        self.nodes: list[Path] = []
        self.error: OSError | None = None
        self.plug(7)
        self.rescue = Rescue(lambda: self.now_s, self.sys, self.dev, self.reset)
        self.rescue.meant("1-1.2")

    def plug(self, number: int) -> None:
        folder = self.sys / "1-1.2"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("busnum", "1"), ("devnum", str(number)), ("idVendor", "0764"), ("idProduct", "0501")):
            (folder / name).write_text(text + "\n")

    def unplug(self) -> None:
        (self.sys / "1-1.2" / "devnum").unlink()

    def reset(self, node: Path) -> None:
        self.reset_s.append(self.now_s)
        self.nodes.append(node)
        if self.error is not None:
            raise self.error

    def fail(self, times: int = 1, each_s: float = 5.0) -> list[str]:
        told = []
        for _ in range(times):
            self.now_s += each_s
            told.append(self.rescue.failed())
        return told


@pytest.fixture
def port(tmp_path: Path) -> Port:
    return Port(tmp_path)


def test_it_is_opened_anew_then_its_port_is_reset_then_an_honest_word_is_said_once(port: Port, caplog: Any) -> None:
    with caplog.at_level(logging.ERROR):
        first, second, third, fourth = port.fail(4)
    assert (first, second) == ("", "")
    assert port.nodes == [port.dev / "001" / "007"] and port.reset_s == [10.0]
    assert (
        third
        == fourth
        == (
            "the UPS in USB socket 1-1.2 does not answer, also after it was opened anew and its port was reset. "
            "Unplug its USB cable and plug it in again; if that does not help, restart the UPS itself"
        )
    )
    assert [r.message for r in caplog.records] == [f"usb: {third}"]


def test_resets_are_seldom_and_less_and_less_often(port: Port) -> None:
    port.fail(3000)
    gaps = [b - a for a, b in zip(port.reset_s, port.reset_s[1:], strict=False)]
    assert gaps[0] == usbport.AGAIN_S and gaps[:3] == [60, 120, 240] and max(gaps) <= usbport.AGAIN_LIMIT_S
    assert len(port.reset_s) <= 12  # in over four hours


def test_a_frame_ends_it_and_a_unit_that_hangs_after_each_reset_is_not_reset_all_the_time(port: Port) -> None:
    port.fail(3)
    port.rescue.well()
    assert port.rescue.strikes == 0
    assert port.fail(2)[0] == "" and len(port.reset_s) == 1  # it was ten seconds ago
    port.now_s += usbport.WELL_FOR_S
    port.rescue.well()
    port.fail(2)
    assert len(port.reset_s) == 2 and port.reset_s[1] > usbport.WELL_FOR_S


def test_what_was_plugged_in_again_is_a_new_chance_and_is_not_reset_at_once(port: Port) -> None:
    port.fail(1)
    port.unplug()
    assert port.fail(5) == [""] * 5
    port.plug(8)
    assert port.fail(1) == [""] and not port.reset_s
    port.fail(1)
    assert port.nodes == [port.dev / "001" / "008"]


def test_a_unit_that_does_not_come_back_from_the_reset_is_said_to_be_so(port: Port) -> None:
    port.fail(2)
    port.unplug()
    assert "its port was reset. Unplug" in port.fail(1)[0]


def test_without_the_right_to_reset_the_rule_is_named(port: Port) -> None:
    port.error = PermissionError(errno.EACCES, "Permission denied")
    told = port.fail(3)[-1]
    assert "its port could not be reset: may not open USB device 0764:0501 at 1-1.2; mend with a udev rule" in told


def test_a_reset_that_the_kernel_does_not_end_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usbport, "RESET_WITHIN_S", 0.02)
    port, go = Port(tmp_path), threading.Event()
    rescue = Rescue(lambda: port.now_s, port.sys, port.dev, lambda node: bool(go.wait(5)) and None)
    rescue.meant("1-1.2")
    rescue.failed()
    begin_s = time.monotonic()
    rescue.failed()
    assert time.monotonic() - begin_s < 1.0
    with pytest.raises(LinkError, match="still resetting"):
        rescue.before_open()
    assert "does not answer" in rescue.failed()
    go.set()
    end_s = time.monotonic() + 2.0
    while time.monotonic() < end_s:
        try:
            rescue.before_open()
            return
        except LinkError:
            time.sleep(0.005)
    raise AssertionError("it is still said to be reset")


def test_what_is_no_usb_device_is_left_alone(port: Port) -> None:
    rescue = Rescue(lambda: 0.0, port.sys, port.dev, port.reset)
    assert [rescue.failed() for _ in range(9)] == [""] * 9 and rescue.strikes == 0 and not port.reset_s


def test_the_real_call_is_made_on_a_real_descriptor(tmp_path: Path) -> None:
    """What Linux says to a file that is no USB device: ENOTTY."""
    node = tmp_path / "007"
    node.write_bytes(b"")
    with pytest.raises(OSError) as e:
        usbport.reset(node)
    assert e.value.errno == errno.ENOTTY
    with pytest.raises(OSError):
        usbport.reset(tmp_path / "008")
    assert usbport.USBDEVFS_RESET == ord("U") << 8 | 20


def test_a_string_that_cannot_be_had_is_none(port: Port) -> None:
    assert usbport.string("1-1.2", 1, port.sys, port.dev) is None  # no node
    (port.dev / "001").mkdir(parents=True)
    (port.dev / "001" / "007").write_bytes(b"")
    assert usbport.string("1-1.2", 1, port.sys, port.dev) is None  # no USB device: ENOTTY
    assert usbport.string("9-9", 1, port.sys, port.dev) is None
    assert usbport.USBDEVFS_CONTROL in (0xC0185500, 0xC0105500)  # as the compiler makes it with 64 bits, and with 32


# --- in the thread of the UPS ------------------------------------------------------------------------------------


class Hanging:
    """A unit behind hidraw that loses every report until its port is reset, and the ups thread on it."""

    def __init__(self, root: Path, mends: bool) -> None:
        self.port, self.mends = Port(root), mends
        self.kernel = UnitKernel({})
        self.unit = HidUnit.of("0764")
        self.kernel.units[plug(root, self.unit, 0, "1-1.2")] = self.unit
        self.polled: list[Polled] = []
        self.openings = 0
        self.root = root
        self.rescue = Rescue(time.monotonic, self.port.sys, self.port.dev, self.reset)
        self.ups = Ups(self.open, self.polled.append, 0.01, self.rescue, (0.01,))
        self.stop = threading.Event()

    def open(self) -> usbhid.UsbHid:
        self.openings += 1
        there: dict[str, Any] = {"sys": self.root / "class", "dev": self.root / "dev", "kernel": self.kernel}
        link = hidraw.open({}, time.monotonic, **there, meant=self.rescue.meant)
        driver = usbhid.connect({}, link, time.monotonic)
        assert isinstance(driver, usbhid.UsbHid)
        return driver

    def hang(self) -> None:
        self.kernel.fails = dict.fromkeys(range(256), errno.ETIMEDOUT)

    def reset(self, node: Path) -> None:
        self.port.reset(node)
        if self.mends:
            self.kernel.fails = {}

    def run(self, true: Any) -> None:
        thread = threading.Thread(target=self.ups.run, args=(self.stop,))
        thread.start()
        end_s = time.monotonic() + 5.0
        try:
            while not true():
                assert time.monotonic() < end_s, [p.error for p in self.polled]
                time.sleep(0.002)
        finally:
            self.stop.set()
            self.ups.wake()
            thread.join()


def test_a_unit_that_only_a_reset_brings_back_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.ups.FAILED_AGAIN_S", 0.01)
    it = Hanging(tmp_path, mends=True)
    it.hang()
    it.run(lambda: it.polled and it.polled[-1].status is not None)
    assert len(it.port.nodes) == 1 and it.openings == 3
    assert [p.link for p in it.polled[:5]] == ["up", "up", "down", "down", "up"]  # three polls, one poll, the reset
    assert not any("Unplug" in p.error for p in it.polled)


def test_a_unit_that_nothing_brings_back_ends_in_the_honest_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ups.FAILED_AGAIN_S", 0.01)
    it = Hanging(tmp_path, mends=False)
    it.hang()
    it.run(lambda: len(it.polled) >= 12)
    assert len(it.port.nodes) == 1, "in the first minute"
    assert [("Unplug its USB cable" in p.error) for p in it.polled[:6]] == [False, False, False, False, True, True]


def test_a_unit_that_may_not_be_opened_is_not_said_to_be_silent_and_its_port_is_left_alone(tmp_path: Path) -> None:
    it = Hanging(tmp_path, mends=False)
    it.kernel.refuse_open = errno.EACCES
    it.run(lambda: len(it.polled) >= 6)
    assert not it.port.nodes
    assert {(p.error.partition("; ")[0], p.hint) for p in it.polled} == {(f"may not open {tmp_path}/dev/hidraw0", "")}
    assert not any("Unplug" in p.error for p in it.polled)


def test_what_libusb_may_not_open_is_left_alone_too(port: Port) -> None:
    for number in (errno.EACCES, errno.EPERM):
        refused = LinkError("may not open it")
        refused.__cause__ = usb.core.USBError("Access denied", -3, number)
        for _ in range(5):
            assert port.rescue.failed(refused) == ""
    assert not port.nodes and port.rescue.strikes == 0


def test_the_socket_is_known_from_the_choice_even_if_opening_fails(tmp_path: Path) -> None:
    meant: list[str] = []
    kernel, unit = UnitKernel({}), HidUnit.of("0764")
    kernel.units[plug(tmp_path, unit, 0, "1-1.2")] = unit
    kernel.refuse_open = errno.EIO
    there: dict[str, Any] = {"sys": tmp_path / "class", "dev": tmp_path / "dev"}
    with pytest.raises(LinkError, match=os.strerror(errno.EIO)):
        hidraw.open({}, time.monotonic, **there, kernel=kernel, meant=meant.append)
    assert meant == ["1-1.2"]
    with pytest.raises(LinkError, match="no USB UPS"):
        hidraw.open({"usb_serial": "X"}, time.monotonic, **there, meant=meant.append)
    assert meant == ["1-1.2"]


def test_an_opening_that_means_no_usb_device_leaves_the_last_one_alone(port: Port) -> None:
    port.fail(1)
    port.rescue.before_open()
    assert port.fail(5) == [""] * 5 and not port.reset_s
    port.rescue.meant("1-1.2")
    port.fail(2)
    assert port.reset_s


# --- as far as a person ------------------------------------------------------------------------------------------

HOSTILE = "<b onclick=x>\x1b]0;owned\x07\u202e" + "A" * 5000


@pytest.mark.parametrize(
    ("error", "english", "german"),
    [
        (None, "even after its port was reset: unplug", "auch nicht nach dem Zurücksetzen ihres Anschlusses"),
        (PermissionError(errno.EACCES, "denied"), "its port could not be reset (why", "ließ sich nicht zurücksetzen"),
    ],
)
def test_the_honest_word_comes_through_the_bus_to_the_page_in_both_languages_and_to_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None, english: str, german: str
) -> None:
    monkeypatch.setattr("agent.ups.FAILED_AGAIN_S", 0.01)
    it, play = Hanging(tmp_path, mends=False), Play()
    it.port.error = error
    it.hang()
    it.run(lambda: len(it.polled) >= 5)
    play.mains(1)
    for polled in it.polled[:5] + it.polled[4:5] * 20:
        play.clock.now_s += 1.0
        play.engine.turn(polled)
        play.engine.turn(None)
    view = play.last_view()
    assert view.link_hint == ("usb-no-reset" if error else "usb-silent")
    assert "Unplug its USB cable" in view.link_detail
    for language, said in (("en", english), ("de", german)):
        pieces = page.pieces(view, (), WORDS[language], view.now_s)
        assert said in pieces["line"] and ("no data" if language == "en" else "keine Daten") in pieces["line"]
        assert "does not answer, also after it was opened anew" in pieces["unit"]
        assert ("mend with a udev rule" in pieces["unit"]) == (error is not None)
    assert any("Unplug its USB cable" in line for line in verbs.describe(view))
    play.mains(20)
    view = play.last_view()
    assert (view.link_hint, view.link_detail) == ("", "")


def test_a_units_own_words_in_an_error_are_capped_and_have_no_control_characters() -> None:
    def opener() -> Any:
        raise LinkError(f"no USB UPS; there are: {HOSTILE}")

    polled: list[Polled] = []
    ups = Ups(opener, polled.append, 0.01, Rescue(time.monotonic), (0.01,))
    stop = threading.Event()
    thread = threading.Thread(target=ups.run, args=(stop,))
    thread.start()
    end_s = time.monotonic() + 5.0
    while not polled and time.monotonic() < end_s:
        time.sleep(0.002)
    stop.set()
    ups.wake()
    thread.join()
    assert polled[0].error.startswith("no USB UPS; there are: <b onclick=x>?]0;owned??AAA")
    assert len(polled[0].error) == ERROR_LIMIT and polled[0].error.isprintable()
    view = replace(no_data(), link_detail=polled[0].error, link_hint="<script>")
    pieces = page.pieces(view, (), WORDS["de"], view.now_s)
    assert "<b onclick" not in "".join(pieces.values()) and "&lt;b onclick=x&gt;" in pieces["unit"]
    assert "script" not in pieces["line"], "what is no word of ours has no text"
