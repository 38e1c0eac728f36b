"""Single lines: the modem lines of a serial port through its ioctl layer, and GPIO lines through gpiod's."""

from __future__ import annotations

import errno
import os
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import devices, lines, link, process
from agent.devices import Port
from agent.drivers.contact import CABLES
from agent.hidraw import Identity
from agent.lines import BREAK_OFF, BREAK_ON, GpioLines, ModemLines
from agent.model import LinkError
from tests.simulators.contact import Uart


@pytest.fixture
def port() -> Iterator[str]:
    """A pseudo terminal: a serial port in all but its modem lines."""
    master, slave = os.openpty()
    yield os.ttyname(slave)
    os.close(slave)
    os.close(master)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    for fd in lines._kept.values():
        os.close(fd)
    lines._kept.clear()


def modem(uart: Uart) -> ModemLines:
    return ModemLines(-1, "/dev/pretend", lambda: uart.now_s, uart.ioctl)


# --- a serial port ------------------------------------------------------------------------------------------------


def test_outputs_are_set_and_inputs_are_read_by_their_names() -> None:
    uart = Uart(CABLES["generic-rups"])
    it = modem(uart)
    it.claim(frozenset(("cts", "dcd")), frozenset(("rts",)), frozenset(("rts",)))
    assert uart.outputs == {"rts"}
    look = it.read()
    assert look.on == {"cts", "dcd"} and look.at_s == uart.now_s
    it.set(frozenset(("dtr",)))
    assert uart.outputs == {"dtr"}
    it.set(frozenset())
    assert uart.outputs == frozenset() and it.read().on == frozenset()  # this cable lives on RTS


def test_off_goes_before_on_so_that_never_both_are_on_for_a_moment() -> None:
    uart = Uart()
    it = modem(uart)
    it.set(frozenset(("dtr",)))
    uart.requests.clear()
    it.set(frozenset(("rts",)))
    assert uart.requests == [termios.TIOCMBIC, termios.TIOCMBIS]


def test_edges_between_two_looks_are_counted_where_the_port_counts() -> None:
    uart = Uart(CABLES["generic-rups"])
    it = modem(uart)
    it.set(frozenset(("rts",)))
    before = it.read().changes["cts"]
    uart.bounce(4, mains=False)
    assert it.read().changes["cts"] == before + 4 and it.read().on == {"cts", "dcd"}
    assert modem(Uart(counts=False)).read().changes == {}


def test_a_break_begins_and_ends_without_waiting() -> None:
    uart = Uart()
    it = modem(uart)
    it.send_break(True)
    assert uart.breaking
    it.send_break(False)
    assert not uart.breaking and uart.requests == [BREAK_ON, BREAK_OFF]


def test_whoever_claims_a_port_ends_a_break_that_was_left_on_it() -> None:
    uart = Uart()
    modem(uart).send_break(True)  # and its process is gone, or the adapter was silent for a moment
    modem(uart).claim(frozenset(("cts",)), frozenset(("rts",)), frozenset(("rts",)))
    assert not uart.breaking and uart.outputs == {"rts"}


@pytest.mark.parametrize("code", [errno.ENOTTY, errno.EINVAL, errno.EIO])
def test_a_port_that_knows_no_break_can_be_claimed_and_one_that_fails_cannot(code: int) -> None:
    uart = Uart()

    def ioctl(fd: int, request: int, argument: Any) -> Any:
        if request == BREAK_OFF:
            raise OSError(code, os.strerror(code))
        return uart.ioctl(fd, request, argument)

    it = ModemLines(-1, "/dev/pretend", lambda: 0.0, ioctl)
    if code == errno.EIO:
        with pytest.raises(LinkError, match="Input/output error"):
            it.claim(frozenset(), frozenset(("rts",)), frozenset(("rts",)))
    else:
        it.claim(frozenset(), frozenset(("rts",)), frozenset(("rts",)))
        assert uart.outputs == {"rts"}


def test_a_line_of_the_wrong_direction_is_refused_by_name() -> None:
    for inputs, outputs, name in ((("rts",), (), "rts"), ((), ("cts",), "cts"), (("17",), (), "17")):
        with pytest.raises(LinkError, match=f"no line {name} of that direction"):
            modem(Uart()).claim(frozenset(inputs), frozenset(outputs), frozenset())


def test_an_adapter_that_was_pulled_out_is_a_link_error() -> None:
    uart = Uart()
    it = modem(uart)
    uart.set(gone=True)
    for ask in (it.read, lambda: it.set(frozenset()), lambda: it.send_break(True)):
        with pytest.raises(LinkError, match="Input/output error"):
            ask()


def test_a_port_without_modem_lines_cannot_carry_contacts_and_is_given_back(port: str) -> None:
    with pytest.raises(LinkError, match="has no modem lines; it cannot carry contacts"):
        lines.open({"port": port}, time.monotonic)
    assert lines._kept == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/dev/ttyNOSUCH", "no such port"),
        ("COM1", "is not a device"),
        ("", "is not a device"),
        ("/dev/null", "cannot"),
    ],
)
def test_a_port_that_cannot_be_had_says_why(name: str, said: str) -> None:
    with pytest.raises(LinkError, match=said):
        lines.open({"port": name}, time.monotonic)


def test_opening_clears_hupcl_so_that_closing_drops_no_line(port: str) -> None:
    uart = Uart()
    fd = os.open(port, os.O_RDWR | os.O_NOCTTY)
    attributes = termios.tcgetattr(fd)
    attributes[2] |= termios.HUPCL
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    lines.open({"port": port}, time.monotonic, uart.ioctl).close()
    assert uart.outputs == frozenset()  # both were raised by opening, and nobody has claimed them
    assert not termios.tcgetattr(fd)[2] & termios.HUPCL
    os.close(fd)


def test_a_port_that_is_still_there_is_not_opened_again_because_opening_moves_dtr_and_rts(port: str) -> None:
    uart = Uart()
    first: Any = lines.open({"port": port}, time.monotonic, uart.ioctl)
    fd = first._fd
    first.close()
    assert os.fstat(fd)
    second: Any = lines.open({"port": port}, time.monotonic, uart.ioctl)
    assert second._fd == fd
    uart.set(gone=True)
    second.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_adapter_that_comes_back_under_another_number_is_followed_and_no_other_is_opened(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uart, named = Uart(), "/dev/ttyUSB0"
    opened: list[tuple[str, str]] = []
    monkeypatch.setattr(lines, "follow", lambda name: port)
    monkeypatch.setattr(lines, "know", lambda name, node: opened.append((name, node)))
    it: Any = lines.open({"port": named}, time.monotonic, uart.ioctl)
    assert opened == [(named, port)] and os.ttyname(it._fd) == port
    uart.set(gone=True)
    it.close()
    monkeypatch.undo()
    who = Identity(0x067B, 0x2303, "Prolific", "USB-Serial", "A1", "1-1.2")
    monkeypatch.setitem(link._was, port, Port(Path(port), who))
    monkeypatch.setattr(devices, "port", lambda *_: Port(Path(port), who._replace(serial="GPS")))
    uart.set(gone=False)
    uart.requests.clear()
    with pytest.raises(LinkError, match="is another device now"):
        lines.open({"port": port}, time.monotonic, uart.ioctl)
    assert uart.requests == []


def test_a_cable_is_looked_for_again_often_enough_to_be_found_within_15_s() -> None:
    assert max(process.back_off_s("contact", {"port": "/dev/ttyS0", "cable": "generic-rups"})) <= 4.0


def test_a_port_in_use_is_said(port: str) -> None:
    uart = Uart()
    it = lines.open({"port": port}, time.monotonic, uart.ioctl)
    with pytest.raises(LinkError, match="in use by another program"):
        lines.open({"port": port}, time.monotonic, uart.ioctl)
    it.close()


# --- GPIO -----------------------------------------------------------------------------------------------------------


class Gpiod:
    """gpiod 2 as far as it is used: names and arguments were compared with gpiod 2.5.0; the chip is pretended."""

    LineSettings = SimpleNamespace
    line = SimpleNamespace(
        Bias=SimpleNamespace(PULL_UP="up", PULL_DOWN="down", AS_IS="as-is"),
        Direction=SimpleNamespace(INPUT="in", OUTPUT="out"),
        Edge=SimpleNamespace(BOTH="both"),
        Value=SimpleNamespace(ACTIVE=1, INACTIVE=0),
    )

    def __init__(self) -> None:
        self.fd, self.wake = os.pipe2(os.O_NONBLOCK)
        self.values: dict[int, int] = {}
        self.config: dict[int, Any] = {}
        self.events: list[Any] = []
        self.released = False
        self.error: OSError | None = None

    def request_lines(self, path: str, *, consumer: str, config: dict[int, Any]) -> Gpiod:
        if self.error:
            raise self.error
        self.config = config
        self.values = {n: getattr(c, "output_value", int(c.__dict__.get("bias") == "up")) for n, c in config.items()}
        return self

    def move(self, number: int, value: int) -> None:
        if self.values[number] != value:
            self.values[number] = value
            self.events.append(SimpleNamespace(line_offset=number))
            os.write(self.wake, b"x")

    def wait_edge_events(self, timeout: float) -> bool:
        assert timeout == 0, "it must not block"
        return bool(self.events)

    def read_edge_events(self, max_events: int) -> list[Any]:
        events, self.events = self.events[:max_events], self.events[max_events:]
        os.read(self.fd, len(events))
        return events

    def get_value(self, number: int) -> int:
        if self.error:
            raise self.error
        return self.values[number]

    def set_value(self, number: int, value: int) -> None:
        self.values[number] = value

    def release(self) -> None:
        self.released = True
        os.close(self.fd)
        os.close(self.wake)


def test_gpio_lines_are_claimed_read_counted_and_set() -> None:
    chip = Gpiod()
    it = GpioLines("/dev/gpiochip0", "pull-up", chip, lambda: 7.0)
    it.claim(frozenset(("17", "27")), frozenset(("22",)), frozenset())
    assert chip.config[17].direction == "in" and chip.config[17].edge_detection == "both"
    assert chip.config[22].direction == "out" and chip.values[22] == 0 and it.wake_fd == chip.fd
    assert it.read() == (frozenset(("17", "27")), {"17": 0, "27": 0}, 7.0)
    chip.move(17, 0)
    chip.move(17, 1)
    chip.move(27, 0)
    assert it.read() == (frozenset(("17",)), {"17": 2, "27": 1}, 7.0)
    it.set(frozenset(("22",)))
    assert chip.values[22] == 1
    it.close()
    assert chip.released and it.wake_fd is None


def test_what_an_open_gpio_input_reads_as_follows_from_its_resistor() -> None:
    for bias, idle in (("pull-up", True), ("pull-down", False), ("as-is", None)):
        assert GpioLines("/dev/gpiochip0", bias, Gpiod(), lambda: 0.0).idle is idle


def test_a_gpio_line_that_cannot_be_had_or_has_gone_is_a_link_error() -> None:
    chip = Gpiod()
    it = GpioLines("/dev/gpiochip0", "pull-up", chip, lambda: 0.0)
    with pytest.raises(LinkError, match="lines are numbers, not cts"):
        it.claim(frozenset(("cts",)), frozenset(), frozenset())
    chip.error = OSError(errno.EBUSY, "busy")
    with pytest.raises(LinkError, match="in use by another program"):
        it.claim(frozenset(("17",)), frozenset(), frozenset())
    chip.error = None
    it.claim(frozenset(("17",)), frozenset(), frozenset())
    chip.error = OSError(errno.ENODEV, "gone")
    with pytest.raises(LinkError, match="gone"):
        it.read()
    with pytest.raises(LinkError, match="has no break"):
        it.send_break(True)
    it.close()


def test_gpio_without_its_package_names_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"pip install 'ridethrough\[gpio\]'"):
        lines.open({"port": "/dev/gpiochip0"}, time.monotonic)
