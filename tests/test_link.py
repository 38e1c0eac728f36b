"""The serial line: one question, one answer, in bounded time, whatever comes back."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import pty
import re
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial  # (here, before a test gives up the rights to read it)

from agent import link
from agent.model import LinkError
from tests.simulators.megatec import MegatecPty


@pytest.fixture
def ups(tmp_path: Path) -> Iterator[MegatecPty]:
    with MegatecPty(tmp_path / "ups") as it:
        yield it


@pytest.fixture
def line(ups: MegatecPty) -> Iterator[link.SerialLink]:
    it = link.open({"port": str(ups.path)}, time.monotonic)
    yield it
    it.close()


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The master end of a bare terminal, and the name of the other end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


def test_an_answer_comes_without_its_terminator_and_with_its_second(line: link.SerialLink) -> None:
    before_s = time.monotonic()
    reply = line.ask(b"Q1\r")
    assert reply.data.startswith(b"(230.0 ") and len(reply.data) == 46
    assert before_s <= reply.received_s <= time.monotonic()


def test_an_answer_in_many_pieces_is_one_answer(ups: MegatecPty, line: link.SerialLink) -> None:
    ups.fault("slow")
    assert len(line.ask(b"Q1\r").data) == 46


def test_an_answer_that_is_too_slow_is_a_link_error_in_time(ups: MegatecPty, line: link.SerialLink) -> None:
    ups.fault("crawl")
    began_s = time.monotonic()
    with pytest.raises(LinkError, match=r"only b'\(' within 0.15 s"):
        line.ask(b"Q1\r", within_s=0.15)
    assert time.monotonic() - began_s < 0.4


def test_silence_is_a_link_error_in_time(ups: MegatecPty, line: link.SerialLink) -> None:
    ups.fault("silence")
    began_s = time.monotonic()
    with pytest.raises(LinkError, match="no answer within 0.1 s"):
        line.ask(b"Q1\r", within_s=0.1)
    assert time.monotonic() - began_s < 0.3


def test_an_endless_answer_is_cut_at_its_limit_and_shown(ups: MegatecPty, line: link.SerialLink) -> None:
    ups.fault("endless")
    with pytest.raises(LinkError, match="more than 512 bytes without end: b'UUUU.*and 449 more"):
        line.ask(b"Q1\r")
    ups.fault("none")
    assert len(line.ask(b"Q1\r").data) == 46


def test_what_follows_the_first_terminator_is_not_part_of_this_or_the_next_answer(
    ups: MegatecPty, line: link.SerialLink
) -> None:
    ups.fault("stale-tail")
    assert len(line.ask(b"Q1\r").data) == 46
    time.sleep(0.02)  # the tail is on the line now
    assert len(line.ask(b"Q1\r").data) == 46


def test_what_was_waiting_before_the_question_is_discarded(raw: tuple[int, str]) -> None:
    master, name = raw
    it = link.open({"port": name}, time.monotonic)
    os.write(master, b"(stale\r(stale\r")
    time.sleep(0.02)
    with pytest.raises(LinkError, match="no answer"):
        it.ask(b"Q1\r", within_s=0.05)
    assert os.read(master, 10) == b"Q1\r"
    it.close()


def answering(master: int, *answers: bytes) -> threading.Thread:
    """Each to one question, as it is."""

    def run() -> None:
        for answer in answers:
            asked = b""
            while not asked.endswith(b"\r"):
                asked += os.read(master, 100)
            os.write(master, answer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("before", [b"\n", b"\0", b"\n\0\n"])
def test_what_is_left_of_a_line_end_is_no_part_of_the_next_answer(raw: tuple[int, str], before: bytes) -> None:
    """A unit that ends with CR LF: the LF comes after the next question's flush."""
    master, name = raw
    it = link.open({"port": name}, time.monotonic)
    unit = answering(master, b"(first\r", before + b"(sec\nond\r")
    assert [it.ask(b"Q1\r").data for _ in range(2)] == [b"(first", b"(sec\nond"]
    unit.join()
    unit = answering(master, before)
    with pytest.raises(link.Silence):
        it.ask(b"Q1\r", within_s=0.1)
    unit.join()
    it.close()


def test_a_binary_answer_keeps_its_first_bytes(raw: tuple[int, str]) -> None:
    master, name = raw
    it = link.open({"port": name}, time.monotonic)
    unit = answering(master, b"\0\n\0!")
    assert it.ask_whole(b"?\r", lambda inbox: 4).data == b"\0\n\0!"
    unit.join()
    it.close()


def test_an_unplugged_cable_is_a_link_error_and_close_still_works(ups: MegatecPty, line: link.SerialLink) -> None:
    line.ask(b"Q1\r")
    ups.unplug()
    for _ in range(2):
        with pytest.raises(LinkError):
            line.ask(b"Q1\r", within_s=0.2)
        with pytest.raises(LinkError):
            line.send(b"Q\r")
    line.close()
    line.close()


def test_a_cable_pulled_while_waiting_is_a_link_error_at_once(ups: MegatecPty, line: link.SerialLink) -> None:
    ups.fault("crawl")
    timer = threading.Timer(0.05, ups.unplug)
    timer.start()
    began_s = time.monotonic()
    with pytest.raises(LinkError):
        line.ask(b"Q1\r", within_s=3.0)
    assert time.monotonic() - began_s < 1.0
    timer.join()


def test_after_replugging_the_same_name_opens_the_new_device(ups: MegatecPty, line: link.SerialLink) -> None:
    ups.unplug()
    line.close()
    with pytest.raises(LinkError, match="no such port"):
        link.open({"port": str(ups.path)}, time.monotonic)
    ups.replug()
    again = link.open({"port": str(ups.path)}, time.monotonic)
    assert len(again.ask(b"Q1\r").data) == 46
    again.close()


def test_a_peer_that_does_not_read_is_a_link_error_in_time(raw: tuple[int, str]) -> None:
    master, name = raw
    it = link.open({"port": name}, time.monotonic)
    began_s = time.monotonic()
    with pytest.raises(LinkError):
        for _ in range(100):
            it.send(b"x" * 1024)
    assert time.monotonic() - began_s < 2.0
    it.close()


def test_a_port_belongs_to_one_program_at_a_time(ups: MegatecPty, line: link.SerialLink) -> None:
    with pytest.raises(LinkError, match="in use by another program; see which with: sudo fuser"):
        link.open({"port": str(ups.path)}, time.monotonic)
    line.close()
    link.open({"port": str(ups.path)}, time.monotonic).close()


@pytest.mark.parametrize("port", ["", None, "COM3", "socket://192.0.2.1:23", "loop://"])
def test_what_is_no_device_path_is_refused(port: str | None) -> None:
    with pytest.raises(LinkError, match="set \\[ups\\] port"):
        link.open({"port": port}, time.monotonic)


def test_what_is_no_serial_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for port in (str(tmp_path / "file"), "/dev/null", str(tmp_path)):
        with pytest.raises(LinkError, match="cannot be used as a serial line"):
            link.open({"port": port}, time.monotonic)


@pytest.mark.parametrize(
    ("mode", "group", "said"),
    [
        (0o660, "dialout", "mend with: sudo usermod -aG dialout "),
        (0o660, "tty", "mend with: sudo usermod -aG tty "),
        (
            0o600,
            "dialout",
            'SUBSYSTEM=="tty", KERNEL=="{name}", GROUP="dialout", MODE="0660"; .*usermod -aG dialout ',
        ),
        (0o600, "root", 'SUBSYSTEM=="tty", KERNEL=="{name}", GROUP="dialout", MODE="0660"; .*usermod -aG dialout '),
        (0o660, "root", "a udev rule in /etc/udev/rules.d"),
    ],
)
def test_a_forbidden_port_names_a_remedy_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, group: str, said: str
) -> None:
    port = tmp_path / "port"
    port.touch()
    port.chmod(mode)
    monkeypatch.setattr(link.grp, "getgrgid", lambda _: SimpleNamespace(gr_name=group))
    text = link.remedy(str(port), PermissionError(errno.EACCES, "Permission denied"))
    assert re.search(said.format(name=port.name), text) and "-aG root" not in text


def test_a_forbidden_gpio_chip_names_the_rule_of_its_class(tmp_path: Path) -> None:
    chip = tmp_path / "gpiochip0"
    chip.touch()
    chip.chmod(0o600)
    text = link.remedy(str(chip), PermissionError(errno.EACCES, "Permission denied"))
    assert 'SUBSYSTEM=="gpio", KERNEL=="gpiochip0", GROUP="gpio", MODE="0660"; sudo groupadd -fr gpio; ' in text
    assert "usermod -aG gpio " in text and "dialout" not in text and "tty" not in text


def test_a_forbidden_port_is_one_error_that_names_it(raw: tuple[int, str]) -> None:
    _, name = raw
    os.chmod(name, 0o000)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)  # root may open everything
    try:
        with pytest.raises(LinkError, match=f"^may not open {name}; mend with: "):
            link.open({"port": name}, time.monotonic)
    finally:
        os.seteuid(was)


def test_a_terminal_without_modem_lines_is_said_once_and_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent.link")
    with MegatecPty(tmp_path / "ups") as ups:
        for power in link.CABLE_POWER:
            it = link.open({"port": str(ups.path), "cable_power": power}, time.monotonic)
            began_s = time.monotonic()
            it.ask(b"Q1\r")
            assert time.monotonic() - began_s < link.SETTLE_S / 2
            it.close()
    assert len([r for r in caplog.records if "no DTR and RTS lines" in r.message]) == 1


def test_closing_the_port_does_not_hang_up_the_line(raw: tuple[int, str]) -> None:
    _, name = raw
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    attributes = termios.tcgetattr(fd)
    attributes[2] |= termios.HUPCL
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    link.open({"port": name}, time.monotonic).close()
    cflag, ispeed = termios.tcgetattr(fd)[2], termios.tcgetattr(fd)[4]
    os.close(fd)
    assert not cflag & termios.HUPCL
    assert ispeed == termios.B2400 and cflag & termios.CSIZE == termios.CS8
    assert not cflag & (termios.PARENB | termios.CSTOPB)


class SerialWithLines:
    """Stands for pyserial's Serial on a port that has DTR and RTS."""

    port = "/dev/pretend"

    def __init__(self, fd: int) -> None:
        self.fd, self.writes, self.resets = fd, [], 0

    def fileno(self) -> int:
        return self.fd

    def reset_input_buffer(self) -> None:
        self.resets += 1
        os.set_blocking(self.fd, False)
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass

    def write(self, data: bytes) -> int:
        self.writes.append((time.monotonic(), data))
        return len(data)

    def read(self, size: int) -> bytes:
        return os.read(self.fd, size)

    def close(self) -> None: ...


def test_the_first_question_waits_until_the_cable_has_its_power_and_no_longer() -> None:
    r, w = os.pipe()
    port = SerialWithLines(r)
    ready_s = time.monotonic() + 0.1
    it = link.SerialLink(port, time.monotonic, ready_s)  # type: ignore[arg-type]
    os.write(w, b"noise of power-up\r")
    with pytest.raises(LinkError, match="no answer"):
        it.ask(b"Q1\r", within_s=0.05)
    assert ready_s <= port.writes[0][0] < ready_s + 0.05
    os.close(r)
    os.close(w)


def test_half_a_command_is_not_sent_later_when_the_line_is_free_again() -> None:
    r, w = os.pipe()
    port = SerialWithLines(r)
    thrown_away = []

    def jammed(data: bytes) -> int:
        raise serial.SerialTimeoutException("Write timeout")

    port.write = jammed  # type: ignore[method-assign]
    port.reset_output_buffer = lambda: thrown_away.append(True)  # type: ignore[attr-defined]
    with pytest.raises(LinkError, match="Write timeout"):
        link.SerialLink(port, time.monotonic, 0.0).send(b"S.2R0000\r")  # type: ignore[arg-type]
    assert thrown_away == [True]
    os.close(r)
    os.close(w)


def test_no_caller_can_wait_longer_than_five_seconds() -> None:
    r, w = os.pipe()
    os.write(w, b"x" * 100)
    port = SerialWithLines(r)
    port.reset_input_buffer = lambda: None  # type: ignore[method-assign]
    port.read = lambda size: os.read(r, 1)  # type: ignore[method-assign]
    seconds = itertools.count()  # one for each look at the clock, so that the line trickles for ever
    with pytest.raises(LinkError, match="only b'xxx"):
        link.SerialLink(port, lambda: float(next(seconds)), 0.0).ask(b"Q1\r", limit_bytes=50, within_s=3600)  # type: ignore[arg-type]
    assert next(seconds) <= 7
    os.close(r)
    os.close(w)


def test_the_options_have_the_serial_line_of_the_protocol_as_default(ups: MegatecPty) -> None:
    assert {o.name: o.default for o in link.OPTIONS} == {"port": None, "baud": 2400, "cable_power": "normal"}
    link.open({"port": str(ups.path), "baud": 9600, "cable_power": "both"}, time.monotonic).close()


def test_a_port_that_comes_back_while_an_outage_has_a_thousand_sockets_open_is_read(many_files: None) -> None:
    there, port = pty.openpty()
    tty.setraw(port)
    it = link.open({"port": os.ttyname(port), "cable_power": "none"}, time.monotonic)
    assert it.wake_fd is not None and it.wake_fd > 1023
    threading.Thread(target=lambda: os.write(there, b"(" + os.read(there, 9)), daemon=True).start()
    assert it.ask(b"Q1\r", within_s=2.0).data == b"(Q1"
    assert it.read(64, 0.0) == b""
    os.write(there, b"L")
    assert it.read(64, 1.0) == b"L"
    os.close(there)
    with pytest.raises(LinkError):
        it.ask(b"Q1\r", within_s=0.2)
    it.close()
    os.close(port)


def test_a_line_that_takes_no_more_is_given_up_in_time() -> None:
    there, port = pty.openpty()
    tty.setraw(port)
    it = link.open({"port": os.ttyname(port), "cable_power": "none"}, time.monotonic)
    began_s = time.monotonic()
    with pytest.raises(link.NotSent, match="Write timeout"):
        it.send(b"x" * (1 << 20))
    assert time.monotonic() - began_s < 2.0
    it.close()
    for fd in (there, port):
        os.close(fd)
