"""A NUT server as the source: its lists, its words, its refusals, and servers that mean harm."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import upsd
from agent.drivers import nut
from agent.model import Command, Condition, Flow, Line, LinkError, OrderError, Reply, Sensor, Source, TestResult
from tests.simulators.script import ScriptLink


def listing(kind: str, rows: list[str]) -> bytes:
    lines = [f"BEGIN LIST {kind} ups", *(f"{kind} ups {row}" for row in rows), f"END LIST {kind} ups", ""]
    return "\n".join(lines).encode()


def unit(*, cmd: tuple[str, ...] = (), rw: tuple[str, ...] = (), **more: str) -> ScriptLink:
    variables = {"ups.status": "OL", **{k.replace("__", "."): v for k, v in more.items()}}
    return ScriptLink(
        {
            b"LIST VAR ups\n": listing("VAR", [f'{k} "{v}"' for k, v in variables.items()]),
            b"LIST CMD ups\n": listing("CMD", list(cmd)),
            b"LIST RW ups\n": listing("RW", [f'{k} "0"' for k in rw]),
            b"SET TRACKING ON\n": b"ERR UNKNOWN-COMMAND\n",  # as before NUT 2.8
        }
    )


def driver(link: ScriptLink) -> nut.Nut:
    made = nut.connect({"ups": "ups"}, link, lambda: link.now_s)
    assert isinstance(made, nut.Nut)
    made.poll()
    return made


@pytest.mark.parametrize(
    ("text", "source", "flags", "flow"),
    [
        ("OL CHRG", Source.MAINS, set(), Flow.CHARGING),
        ("OB DISCHRG", Source.BATTERY, set(), Flow.DISCHARGING),
        ("OB LB", Source.BATTERY, {Condition.LOW_BATTERY}, None),
        ("OL BYPASS", Source.BYPASS, set(), None),
        ("OL BOOST RB", Source.BOOST, {Condition.BATTERY_BAD}, None),
        ("OL TRIM OVER", Source.BUCK, {Condition.OVERLOAD}, None),
        ("OL CHRG OFF", Source.MAINS, {Condition.OUTPUT_OFF}, Flow.CHARGING),  # MGE Pulsar M 3000, with load
        ("OB DISCHRG OFF", Source.BATTERY, {Condition.OUTPUT_OFF}, Flow.DISCHARGING),
        ("OB LB OFF", Source.BATTERY, {Condition.OUTPUT_OFF, Condition.LOW_BATTERY}, None),
        ("OFF", Source.NONE, {Condition.OUTPUT_OFF}, None),
        ("ALARM OL FSD", Source.MAINS, {Condition.GENERAL_FAULT, Condition.SHUTDOWN_PENDING}, None),
        ("FSD OB", Source.BATTERY, {Condition.LOW_BATTERY, Condition.SHUTDOWN_PENDING}, None),
        ("OL CAL", Source.MAINS, {Condition.TEST_RUNNING}, None),
        ("OL OB", Source.UNKNOWN, set(), None),
        ("", Source.UNKNOWN, set(), None),
        ("WAIT", Source.UNKNOWN, set(), None),
    ],
)
def test_the_words_of_a_status_mean_what_nut_says(
    text: str, source: Source, flags: set[Condition], flow: Flow | None
) -> None:
    status = nut.look({"ups.status": text}, 5.0)
    assert (status.source, status.flags, status.battery.flow) == (source, flags, flow)
    assert status.battery.low is (Condition.LOW_BATTERY in flags)


def test_three_phases_a_dead_one_and_a_bypass_are_read() -> None:
    v = {"ups.status": "OL", "input.frequency": "50.0", "input.bypass.voltage": "229"}
    for n, volts in ((1, "230.5"), (2, "0"), (3, "231.5")):
        v |= {f"input.L{n}-N.voltage": volts, f"output.L{n}.power.percent": f"{n}0", f"output.L{n}.realpower": "900"}
    status = nut.look(v, 5.0)
    assert [line.voltage_v for line in status.inputs] == [230.5, 0.0, 231.5]
    assert {line.frequency_hz for line in status.inputs} == {50.0}
    assert [line.load_pct for line in status.outputs] == [10.0, 20.0, 30.0] and status.outputs[0].power_w == 900.0
    assert status.bypass == (Line(voltage_v=229.0),)


def test_a_load_of_the_whole_is_said_of_each_line_that_has_none() -> None:
    v = {"ups.status": "OL", "ups.load": "40", **{f"output.L{n}-N.voltage": "230" for n in (1, 2, 3)}}
    assert [line.load_pct for line in nut.look(v, 5.0).outputs] == [40.0, 40.0, 40.0]
    v["output.L2.power.percent"] = "55"
    assert [line.load_pct for line in nut.look(v, 5.0).outputs] == [40.0, 55.0, 40.0]
    assert nut.look({"ups.status": "OL", "ups.load": "40"}, 5.0).outputs == (Line(load_pct=40.0),)


def test_numbers_are_read_as_servers_write_them() -> None:
    v = {"ups.status": "OL", "battery.charge": "104", "battery.runtime": "+1200", "input.voltage": "230."}
    status = nut.look(v, 5.0)
    assert (status.battery.charge_pct, status.battery.runtime_s) == (100.0, 1200.0)
    assert status.inputs[0].voltage_v == 230.0


def test_a_server_without_the_optional_lists_is_read_all_the_same() -> None:
    for answer in (b"ERR UNKNOWN-COMMAND", b"BEGIN LIST CMD other\n", None):
        link = unit(ups__load="20")
        for name in (b"LIST CMD ups\n", b"LIST RW ups\n"):
            if answer is None:
                del link.answers[name]  # silence
            else:
                link.answers[name] = answer
        it = driver(link)
        assert it.poll().source is Source.MAINS and it.commands == frozenset()


def test_the_first_poll_of_a_slow_server_takes_under_five_seconds() -> None:
    class Slow(ScriptLink):
        def ask(self, command: bytes, *, within_s: float = 3.0, **more: Any) -> Reply:
            began_s, reply = self.now_s, super().ask(command, within_s=within_s, **more)
            self.now_s = began_s + 0.99 * within_s
            return reply

    listed = b'BEGIN LIST UPS\nUPS ups "the only one"\nEND LIST UPS\n'
    link = Slow({**unit().answers, b"LIST UPS\n": listed, b"LOGIN ups\n": b"OK\n"})
    began_s = link.now_s
    nut.connect({"login": True}, link, lambda: link.now_s).poll()
    assert len(link.sent) == 5 and link.now_s - began_s < 5.0


def test_a_login_that_is_not_answered_costs_no_poll() -> None:
    it = nut.connect({"ups": "ups", "login": True}, unit(), lambda: 0.0)
    assert it.poll().source is Source.MAINS


def test_what_is_no_number_or_cannot_be_is_unknown() -> None:
    v = {
        "ups.status": "OL",
        "battery.charge": "nan",
        "battery.runtime": "-1",
        "ups.load": "1e3",
        "input.voltage": "9999",
    }
    status = nut.look(v, 5.0)
    assert status.battery.charge_pct is status.battery.runtime_s is None and status.inputs == status.outputs == ()


def test_outlets_sensors_tests_and_the_beeper_are_read() -> None:
    v = {
        "ups.status": "OL", "outlet.2.status": "off", "outlet.2.desc": "Lamp", "ambient.temperature": "21.5",
        "ups.test.result": "Done and passed", "ups.beeper.status": "muted", "ups.mfr": "ACME",
    }  # fmt: skip
    status = nut.look(v, 5.0)
    assert [(o.number, o.name, o.on) for o in status.outlets] == [(2, "Lamp", False)]
    assert status.sensors == (Sensor(name="ambient", temperature_c=21.5),)
    assert status.test is not None and status.test.result is TestResult.PASSED
    assert status.beeper_on is False and status.ident.manufacturer == "ACME"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("Battery test not ok", TestResult.FAILED),
        ("Done and ok", TestResult.PASSED),
        ("In progress", TestResult.RUNNING),
        ("No test initiated", TestResult.NONE),
    ],
)
def test_results_of_tests_are_read_as_they_are_meant(text: str, result: TestResult) -> None:
    test = nut.look({"ups.status": "OL", "ups.test.result": text}, 5.0).test
    assert test is not None and test.result is result


def test_a_ups_that_the_server_does_not_have_is_said_with_those_that_it_has() -> None:
    link = unit()
    link.answers[b"LIST VAR ups\n"] = b"ERR UNKNOWN-UPS"
    link.answers[b"LIST UPS\n"] = b'BEGIN LIST UPS\nUPS left "the left one"\nUPS right "x"\nEND LIST UPS\n'
    with pytest.raises(LinkError, match="has no ups; it has left, right"):
        driver(link)


def test_values_are_unescaped() -> None:
    answer = b'BEGIN LIST VAR ups\nVAR ups ups.model "a \\"b\\" \\\\ c"\n'
    assert nut.parse_list(answer, "VAR", "ups") == {"ups.model": 'a "b" \\ c'}


@pytest.mark.parametrize("reason", [b"DATA-STALE", b"DRIVER-NOT-CONNECTED", b"UNKNOWN-UPS"])
def test_stale_data_are_a_failed_poll_and_never_the_last_ones(reason: bytes) -> None:
    link = unit()
    it = driver(link)
    link.answers[b"LIST VAR ups\n"] = b"ERR " + reason
    with pytest.raises(LinkError, match=reason.decode()):
        it.poll()


@pytest.mark.parametrize(
    "answer",
    [
        b'BEGIN LIST VAR other\nVAR other ups.status "OL"\n',
        b'BEGIN LIST VAR ups\nVAR other ups.status "OL"\n',
        b'BEGIN LIST VAR ups\nVAR ups ups.status "OL\n',
        b"BEGIN LIST VAR ups\nCMD ups load.off\n",
        b'BEGIN LIST VAR ups\nVAR ups battery.charge "100"\n' * 2,
        b"BEGIN LIST VAR ups\n" + b'VAR ups a "1"\n' * 2001,
        b"",
    ],
)
def test_a_list_of_something_else_is_refused_whole(answer: bytes) -> None:
    with pytest.raises(LinkError):
        nut.parse_list(answer, "VAR", "ups")


@given(st.binary(max_size=300))
def test_no_bytes_bring_anything_but_rows_or_a_link_error(data: bytes) -> None:
    for answer in (data, b"BEGIN LIST VAR ups\nVAR ups ups.status " + data + b"\n"):
        try:
            nut.look(nut.parse_list(answer, "VAR", "ups"), 1.0)
        except LinkError:
            pass


def test_delays_are_set_before_the_shutdown_and_one_that_cannot_be_set_must_be_long_enough() -> None:
    link = unit(cmd=("shutdown.return",), rw=("ups.delay.shutdown",), ups__delay__start="60")
    link.answers |= {b'SET VAR ups ups.delay.shutdown "31"\n': b"OK\n", b"INSTCMD ups shutdown.return\n": b"OK\n"}
    it = driver(link)
    assert it.commands == {Command.SHUTDOWN_RETURN}
    link.sent.clear()
    it.order(Command.SHUTDOWN_RETURN, delay_s=30.5, return_delay_s=60)
    assert link.sent == [
        b"SET TRACKING ON\n",
        b'SET VAR ups ups.delay.shutdown "31"\n',
        b"INSTCMD ups shutdown.return\n",
    ]
    with pytest.raises(OrderError, match="own is 60"):
        it.order(Command.SHUTDOWN_RETURN, delay_s=30.5, return_delay_s=61)
    assert link.sent[-1] == b'SET VAR ups ups.delay.shutdown "31"\n'  # and no shutdown behind it


def test_a_refusal_names_the_remedy() -> None:
    link = unit(cmd=("load.off",))
    link.answers[b"INSTCMD ups load.off\n"] = b"ERR ACCESS-DENIED\n"
    with pytest.raises(OrderError, match="ACCESS-DENIED.*upsd.users"):
        driver(link).order(Command.LOAD_OFF)


def test_orders_are_tracked_once_a_connection_and_what_the_driver_did_is_the_answer() -> None:
    link = unit(cmd=("load.off", "load.on"))
    link.answers |= {
        b"SET TRACKING ON\n": b"OK\n",
        b"INSTCMD ups load.off\n": b"ERR FAILED\n",  # as UpsdLink gives it: see below
        b"INSTCMD ups load.on\n": upsd.PENDING + b"\n",
    }
    it = driver(link)
    with pytest.raises(OrderError, match="refused it: ERR FAILED"):
        it.order(Command.LOAD_OFF)
    it.order(Command.LOAD_ON)  # the server has it, and its driver takes its time
    assert link.sent.count(b"SET TRACKING ON\n") == 1


SHUTDOWN = {"cmd": ("shutdown.return", "shutdown.stop"), "rw": ("ups.delay.shutdown", "ups.delay.start")}


def ordered(timer: str | None, command: Command, *, delay_s: float = 60.0) -> tuple[nut.Nut, ScriptLink]:
    """A UPS whose server says this of its timer, after a shutdown or its stop was ordered."""
    link = unit(**SHUTDOWN, **({} if timer is None else {"ups__timer__shutdown": timer}))  # type: ignore[arg-type]
    told = (f'SET VAR ups ups.delay.shutdown "{delay_s:g}"', 'SET VAR ups ups.delay.start "180"')
    link.answers |= {f"{line}\n".encode(): b"OK\n" for line in told}
    link.answers |= {f"INSTCMD ups {name}\n".encode(): b"OK\n" for name in SHUTDOWN["cmd"]}
    it = driver(link)
    stop = command is Command.SHUTDOWN_STOP
    it.order(command, **({} if stop else {"delay_s": delay_s, "return_delay_s": 180}))
    return it, link


def says(link: ScriptLink, timer: str, status: str = "OL") -> None:
    link.answers[b"LIST VAR ups\n"] = listing("VAR", [f'ups.status "{status}"', f'ups.timer.shutdown "{timer}"'])


@pytest.mark.parametrize(
    ("timer", "command", "late", "said"),
    [
        ("-1", Command.SHUTDOWN_RETURN, "-1", "shows no countdown"),
        ("0", Command.SHUTDOWN_RETURN, "65535", "shows no countdown"),  # of a unit that writes -1 without a sign
        ("-1", Command.SHUTDOWN_RETURN, "58", ""),  # its driver has read the UPS meanwhile
        ("30", Command.SHUTDOWN_STOP, "12", "still shows a countdown"),
        ("30", Command.SHUTDOWN_STOP, "-1", ""),
        (None, Command.SHUTDOWN_RETURN, "", ""),  # it does not tell
    ],
)
def test_a_countdown_that_the_server_does_not_show_within_its_drivers_round_is_said_once(
    timer: str | None, command: Command, late: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "agent.drivers.nut")
    it, link = ordered(timer, command)
    it.poll()
    link.now_s += 15.0
    if late:
        says(link, late)
    it.poll()
    assert not caplog.records, "too early: some drivers read their UPS every 30 s"
    link.now_s += 30.0
    for _ in range(3):
        it.poll()
    assert [said in r.message for r in caplog.records] == ([True] if said else [])


def test_an_order_to_go_off_at_once_has_no_countdown_to_be_missed(caplog: pytest.LogCaptureFixture) -> None:
    it, link = ordered("-1", Command.SHUTDOWN_RETURN, delay_s=0.0)
    for _ in range(3):
        link.now_s += 40.0
        it.poll()
    it, link = ordered("-1", Command.SHUTDOWN_RETURN)
    it.poll()
    link.now_s += 70.0
    says(link, "-1", "OFF")  # nobody read it while it counted
    it.poll()
    assert "countdown" not in caplog.text


def test_bypass_and_eco_are_offered_and_told_by_the_names_of_nut() -> None:
    names = {
        Command.BYPASS_ON: "bypass.start",
        Command.BYPASS_OFF: "bypass.stop",
        Command.ECO_ON: "experimental.ecomode.enable",
        Command.ECO_OFF: "experimental.ecomode.disable",
    }
    link = unit(cmd=tuple(names.values()))
    link.answers |= {f"INSTCMD ups {name}\n".encode(): b"OK\n" for name in names.values()}
    it = driver(link)
    for command, name in names.items():
        it.order(command)
        assert link.sent[-1] == f"INSTCMD ups {name}\n".encode()
    assert not names.keys() & driver(unit(cmd=("load.on",))).commands


@pytest.mark.parametrize(("answer", "said"), [(b"OK\n", 0), (b"ERR ACCESS-DENIED\n", 1)])
def test_the_server_counts_us_if_we_want_and_a_refusal_costs_no_poll(
    answer: bytes, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    link = unit()
    link.answers[b"LOGIN ups\n"] = answer
    it = nut.connect({"ups": "ups", "login": True}, link, lambda: link.now_s)
    for _ in range(2):
        assert it.poll().source is Source.MAINS
    assert link.sent.count(b"LOGIN ups\n") == 1
    assert sum("upsmon secondary" in r.message for r in caplog.records) == said
    plain = unit()
    driver(plain)
    assert b"LOGIN ups\n" not in plain.sent


def test_of_several_ups_one_must_be_named() -> None:
    link = ScriptLink({b"LIST UPS\n": b'BEGIN LIST UPS\nUPS a "x"\nUPS b "y"\nEND LIST UPS\n'})
    with pytest.raises(LinkError, match="a, b"):
        nut.connect({}, link, lambda: link.now_s).poll()


# --- the line


@pytest.fixture
def server() -> Iterator[Callable[[list[bytes]], int]]:
    """A server that answers each line with the next of some bytes; b'' is silence. Gives its port."""
    made: list[socket.socket] = []

    def start(answers: list[bytes]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        made.append(listener)

        def serve() -> None:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # the test has ended without a connection
            made.append(sock)
            for answer in answers:
                if not sock.recv(1024):
                    return
                sock.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for sock in made:
        sock.close()


def opened(port: int, **more: object) -> upsd.UpsdLink:
    return upsd.open({"host": "127.0.0.1", "tcp_port": port, **more}, time.monotonic)


END = b"END LIST VAR ups\n"


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (listing("VAR", ['ups.id "END LIST VAR ups"']), listing("VAR", ['ups.id "END LIST VAR ups"'])[: -len(END)]),
        (b"ERR DATA-STALE\n", b"ERR DATA-STALE"),
    ],
)
def test_a_list_ends_with_its_own_line_and_an_error_stands_for_it(
    server: Callable[[list[bytes]], int], answer: bytes, wanted: bytes
) -> None:
    link = opened(server([answer]))
    assert link.ask(b"LIST VAR ups\n", end=END, limit_bytes=4096).data == wanted
    link.close()


@pytest.mark.parametrize("answer", [b"", b"x" * 2000, b"OK\nOK\n"])
def test_silence_and_answers_without_end_are_bounded_and_the_line_is_not_used_again(
    server: Callable[[list[bytes]], int], answer: bytes
) -> None:
    link = opened(server([answer, b"OK\n"]))
    begun_s = time.monotonic()
    for _ in range(2):
        with pytest.raises(LinkError):
            link.ask(b"VER\n", within_s=0.1)
    assert time.monotonic() - begun_s < 1.0
    link.close()


def test_a_tracked_order_is_asked_after_until_it_is_done(server: Callable[[list[bytes]], int]) -> None:
    link = opened(server([b"OK TRACKING 1-a\n", b"PENDING\n", b"SUCCESS\n", b"OK TRACKING 2\n", b"ERR FAILED\n"]))
    assert link.ask(b"INSTCMD ups load.off\n", within_s=2.0).data == b"OK"
    assert link.ask(b"INSTCMD ups load.off\n", within_s=2.0).data == b"ERR FAILED"
    link.close()


def test_an_order_that_stays_pending_and_a_server_that_goes_meanwhile(server: Callable[[list[bytes]], int]) -> None:
    link = opened(server([b"OK TRACKING 1\n", b"PENDING\n", b"PENDING\n", b"PENDING\n", b"PENDING\n"]))
    assert link.ask(b"INSTCMD ups load.off\n", within_s=0.15).data == upsd.PENDING
    link.close()
    link = opened(server([b"OK TRACKING 1\n", b"PENDING\nPENDING\n"]))
    with pytest.raises(LinkError, match="more than one answer"):
        link.ask(b"INSTCMD ups load.off\n", within_s=0.5)
    link.close()


def test_an_order_is_tracked_also_while_an_outage_has_a_thousand_sockets_open(
    server: Callable[[list[bytes]], int], many_files: None
) -> None:
    link = opened(server([b"OK TRACKING 1\n", b"PENDING\n", b"SUCCESS\n"]))
    assert link._sock.fileno() > 1023
    assert link.ask(b"INSTCMD ups load.off\n", within_s=2.0).data == b"OK"
    link.close()


def test_a_name_is_resolved_in_bounded_time_and_kept_for_the_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsd, "RESOLVE_WITHIN_S", 0.05)
    go = threading.Event()

    def nobody(host: str) -> str:
        raise OSError(-3, "Temporary failure in name resolution")

    def slow(host: str) -> str:
        go.wait(2)
        return "192.0.2.9"

    with pytest.raises(LinkError, match=r"\[ups\] host: nut.test does not resolve \(Temporary failure"):
        upsd.address("nut.test", nobody)
    assert upsd.address("nut.test", lambda host: "192.0.2.7") == "192.0.2.7"
    for silent in (nobody, slow):
        begin_s = time.monotonic()
        assert upsd.address("nut.test", silent) == "192.0.2.7" and time.monotonic() - begin_s < 1.0
    go.set()
    assert upsd.address("2001:db8::1", nobody) == "2001:db8::1"


def test_a_name_that_cannot_be_one_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)  # that of the core ends the process
    with pytest.raises(LinkError, match="does not resolve .*label"):
        upsd.address("ups..lan")
    assert not ended


def test_a_server_is_found_by_its_name(server: Callable[[list[bytes]], int]) -> None:
    link = opened(server([b"OK\n"]), host="localhost")
    assert link.ask(b"VER\n").data == b"OK"
    link.close()


def test_a_server_without_tls_is_told_no_password_when_tls_is_asked_for(server: Callable[[list[bytes]], int]) -> None:
    port = server([b"ERR FEATURE-NOT-CONFIGURED\n", b"OK\n"])
    with pytest.raises(LinkError, match="does not offer TLS"):
        opened(port, tls_fingerprint="00" * 32, user="u", password="p")


def test_words_behind_the_answer_to_starttls_are_refused(server: Callable[[list[bytes]], int]) -> None:
    port = server([b"OK STARTTLS\nOK\n"])
    with pytest.raises(LinkError, match="more than one answer"):
        opened(port, tls_fingerprint="00" * 32)


def test_a_password_is_quoted_and_never_in_an_error(server: Callable[[list[bytes]], int]) -> None:
    port = server([b"OK\n", b"ERR INVALID-PASSWORD\n"])
    with pytest.raises(LinkError, match="PASSWORD was refused") as caught:
        opened(port, user="u", password='se"cret')
    assert "cret" not in str(caught.value) and upsd.quote('se"c\\') == b'"se\\"c\\\\"'


@pytest.mark.parametrize(
    "more",
    [
        *({"host": host} for host in ("no name", "-u", "ups..lan", f"{'a' * 64}.lan")),
        {"user": "u"}, {"tls_fingerprint": "12"}, {"tls_ca": "/nowhere"}, {"tls_ca": "\0"},
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(server: Callable[[list[bytes]], int], more: dict[str, str]) -> None:
    with pytest.raises(LinkError, match=r"\[ups\] " + next(iter(more))):
        opened(server([b""]), **more)


@pytest.mark.parametrize("name", [".ups", "a" * 64, "\u00fc" * 80])
def test_a_name_that_cannot_be_in_a_certificate_is_a_lost_link(
    server: Callable[[list[bytes]], int], name: str
) -> None:
    with pytest.raises(LinkError, match="TLS: "):
        opened(server([b"OK STARTTLS\n", b""]), tls_fingerprint="00" * 32, tls_name=name)
