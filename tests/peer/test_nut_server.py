"""Debian's upsd with dummy-ups is a source: what it says becomes a Status, in an outage and when it goes away too."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import upsd, vault
from agent.drivers import nut
from agent.model import Command, Condition, Flow, LinkError, OrderError, Source, Status
from tests.peer.test_nut_megatec import free_port
from tests.peer.world import World, until

pytestmark = pytest.mark.peer

DUMMY, UPSD = Path("/lib/nut/dummy-ups"), Path("/lib/nut/upsd")
PASSWORD = "tried-out"  # noqa: S105 (of a server on loopback that lives for a test)
ON_LINE = {
    "ups.status": "OL CHRG", "ups.mfr": "ACME", "ups.model": "Three 9", "ups.load": "31", "battery.charge": "97",
    "battery.runtime": "1800", "battery.voltage": "54.1", "input.voltage": "230.4", "input.frequency": "50.0",
    "output.voltage": "229.8", "ups.delay.shutdown": "20", "ups.delay.start": "30",
}  # fmt: skip
THREE = {
    "ups.status": "OL BYPASS", "input.phases": "3", "output.phases": "3", "input.frequency": "49.9",
    **{f"input.L{n}-N.voltage": f"23{n}.5" for n in (1, 2, 3)},
    **{f"output.L{n}-N.voltage": f"22{n}.5" for n in (1, 2, 3)},
    **{f"output.L{n}.power.percent": f"{n}1" for n in (1, 2, 3)},
    **{f"output.L{n}.current": f"{n}.5" for n in (1, 2, 3)},
}  # fmt: skip


class Server:
    """NUT's dummy driver and server in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.me = pwd.getpwuid(os.geteuid()).pw_name
        self.environment = {
            **os.environ, "NUT_CONFPATH": str(folder), "NUT_STATEPATH": str(folder), "NUT_ALTPIDPATH": str(folder),
        }  # fmt: skip
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.say(ON_LINE)
        options = [f"port = {folder}/it.dev", "mode = dummy-once", f"user = {self.me}", "pollinterval = 1", ""]
        self._write("ups.conf", "\n".join(["[dummy]", "driver = dummy-ups", *options]))
        self._write(
            "upsd.users",
            f"[we]\npassword = {PASSWORD}\nactions = SET\ninstcmds = ALL\nupsmon secondary\n"
            f"[other]\npassword = {PASSWORD}\n",
        )
        self.configure()

    def configure(self, more: str = "") -> None:
        self._write("upsd.conf", f"LISTEN 127.0.0.1 {self.port}\nMAXAGE 3\n{more}")

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o640)

    def say(self, variables: dict[str, str]) -> None:
        """What the dummy says from its next look on."""
        self._write("it.new", "".join(f"{k}: {v}\n" for k, v in variables.items()))
        (self.folder / "it.new").replace(self.folder / "it.dev")

    def start(self, name: str) -> None:
        command = {"driver": [DUMMY, "-a", "dummy", "-D"], "server": [UPSD, "-D", "-u", self.me]}[name]
        self.processes[name] = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=(self.folder / f"{name}.log").open("ab")
        )

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.wait(10)

    def open(self, **more: Any) -> nut.Nut:
        section = {"host": "127.0.0.1", "tcp_port": self.port, "user": "we", "password": PASSWORD, **more}
        it = nut.connect({}, upsd.open(section, time.monotonic), time.monotonic)
        assert isinstance(it, nut.Nut)
        return it

    def until(self, good: Callable[[Status], bool], within_s: float = 10.0, **more: Any) -> Status:
        """The first status that is good, from a new connection each time, as the ups thread opens it again."""
        end_s, seen = time.monotonic() + within_s, ""
        while time.monotonic() < end_s:
            try:
                it = self.open(**more)
                try:
                    status = it.poll()
                finally:
                    it.close()
                if good(status):
                    return status
                seen = str(status)
            except LinkError as e:
                seen = str(e)
            time.sleep(0.1)
        raise AssertionError(f"not within {within_s} s: {seen}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if not UPSD.exists() or not DUMMY.exists():
        pytest.fail("NUT is missing; install it with: ./run peer")
    it = Server(tmp_path)
    it.start("driver")
    it.start("server")
    try:
        yield it
    finally:
        for name in list(it.processes):
            it.stop(name)


def test_an_outage_and_three_phases_are_read_as_the_server_says_them(server: Server) -> None:
    status = server.until(lambda s: s.source is Source.MAINS)
    assert (status.ident.manufacturer, status.ident.model) == ("ACME", "Three 9")
    assert (status.battery.charge_pct, status.battery.runtime_s, status.battery.voltage_v) == (97.0, 1800.0, 54.1)
    assert (status.inputs[0].voltage_v, status.outputs[0].voltage_v, status.outputs[0].load_pct) == (
        230.4,
        229.8,
        31.0,
    )
    assert status.battery.flow is Flow.CHARGING and status.battery.low is False
    server.say({**ON_LINE, "ups.status": "OB DISCHRG", "input.voltage": "0"})
    assert server.until(lambda s: s.source is Source.BATTERY).inputs[0].voltage_v == 0.0
    server.say({**ON_LINE, "ups.status": "OB LB DISCHRG"})
    assert Condition.LOW_BATTERY in server.until(lambda s: s.battery.low is True).flags
    server.say(THREE)
    status = server.until(lambda s: s.source is Source.BYPASS)
    assert [line.voltage_v for line in status.inputs] == [231.5, 232.5, 233.5]
    assert [line.load_pct for line in status.outputs] == [11.0, 21.0, 31.0]
    assert [line.current_a for line in status.outputs] == [1.5, 2.5, 3.5]


def test_orders_reach_its_driver_and_a_wrong_password_is_said(server: Server) -> None:
    server.until(lambda s: s.source is Source.MAINS)
    it = server.open()
    it.poll()
    assert Command.LOAD_OFF in it.commands
    with pytest.raises(OrderError, match="ERR UNKNOWN"):  # upsd says OK; its driver, dummy-ups, only lists it
        it.order(Command.LOAD_OFF)
    it.close()
    wrong = server.open(password="another")  # noqa: S106
    wrong.poll()
    with pytest.raises(OrderError, match="ACCESS-DENIED.*upsd.users"):
        wrong.order(Command.LOAD_OFF)
    wrong.close()


def test_a_delay_is_set_and_what_the_driver_made_of_an_order_is_known(server: Server) -> None:
    server.until(lambda s: s.source is Source.MAINS)
    link = upsd.open(
        {"host": "127.0.0.1", "tcp_port": server.port, "user": "we", "password": PASSWORD}, time.monotonic
    )
    assert link.ask(b"SET TRACKING ON\n").data == b"OK"
    assert link.ask(b'SET VAR dummy ups.delay.shutdown "33"\n', within_s=3.0).data == b"OK"
    assert b'"33"' in link.ask(b"GET VAR dummy ups.delay.shutdown\n").data
    assert link.ask(b"INSTCMD dummy load.off\n", within_s=3.0).data == b"ERR UNKNOWN"  # dummy-ups only lists it
    link.close()


def test_the_server_counts_us_and_its_name_is_as_good_as_its_address(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def counted() -> bytes:
        link = upsd.open({"host": "127.0.0.1", "tcp_port": server.port}, time.monotonic)
        try:
            return bytes(link.ask(b"GET NUMLOGINS dummy\n").data)
        finally:
            link.close()

    def logged_in(user: str) -> nut.Nut:
        section = {"host": "localhost", "tcp_port": server.port, "user": user, "password": PASSWORD}
        it = nut.connect({"login": True}, upsd.open(section, time.monotonic), time.monotonic)
        assert isinstance(it, nut.Nut) and it.poll().source is Source.MAINS
        return it

    server.until(lambda s: s.source is Source.MAINS)
    it = logged_in("we")
    assert counted() == b"NUMLOGINS dummy 1"
    it.close()
    until(lambda: counted() == b"NUMLOGINS dummy 0", 5, "it forgets us")
    other = logged_in("other")
    assert "ACCESS-DENIED" in caplog.text and counted() == b"NUMLOGINS dummy 0"
    assert other.poll().source is Source.MAINS
    other.close()


def test_stale_data_a_lost_driver_and_a_lost_server_are_no_status_and_come_back(server: Server) -> None:
    server.until(lambda s: s.source is Source.MAINS)
    it = server.open()
    it.poll()
    server.stop("driver")
    end_s = time.monotonic() + 10
    while True:
        try:
            it.poll()
        except LinkError as e:
            assert "DRIVER-NOT-CONNECTED" in str(e) or "DATA-STALE" in str(e)
            break
        assert time.monotonic() < end_s, "the last values went on"
        time.sleep(0.1)
    server.start("driver")
    server.until(lambda s: s.source is Source.MAINS)
    server.stop("server")
    with pytest.raises(LinkError):
        it.poll()
    it.close()
    with pytest.raises(LinkError, match="refused"):
        server.open()
    server.start("server")
    server.until(lambda s: s.source is Source.MAINS)


def test_with_tls_its_certificate_alone_is_taken(server: Server) -> None:
    if shutil.which("certutil") is None:
        pytest.fail("certutil is missing; install it with: ./run peer")
    folder = server.folder / "nss"
    folder.mkdir()
    (server.folder / "noise").write_bytes(os.urandom(64))
    (server.folder / "empty").write_text("\n")

    def certutil(*words: str) -> str:
        command = ["certutil", "-d", f"sql:{folder}", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    certutil("-N", "-f", str(server.folder / "empty"))
    certutil(
        "-S", "-n", "we", "-s", "CN=localhost", "-t", "CTu,,", "-x", "-m", "1", "-v", "120", "-f",
        str(server.folder / "empty"), "-z", str(server.folder / "noise"), "--extSAN", "ip:127.0.0.1",
    )  # fmt: skip
    (server.folder / "ca.pem").write_text(certutil("-L", "-n", "we", "-a"))
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", server.folder / "ca.pem"],
        check=True, capture_output=True, text=True, timeout=10,
    ).stdout.partition("=")[2].strip()  # fmt: skip
    server.until(lambda s: s.source is Source.MAINS)
    with pytest.raises(LinkError, match="does not offer TLS"):
        server.open(tls_fingerprint=shown)
    server.stop("server")
    server.configure(f'CERTPATH "{folder}"\nCERTIDENT "we" ""\n')
    server.start("server")
    server.until(lambda s: s.source is Source.MAINS, tls_fingerprint=shown)
    server.until(lambda s: s.source is Source.MAINS, tls_ca=str(server.folder / "ca.pem"))
    with pytest.raises(LinkError, match="another one"):
        server.open(tls_fingerprint="00" * 32)


def test_from_one_end_to_the_other_the_servers_values_are_rows_of_the_ups_mib(server: Server) -> None:
    server.until(lambda s: s.source is Source.MAINS)
    ups = (
        f'driver = "nut"\nhost = "127.0.0.1"\ntcp_port = {server.port}\nuser = "we"\nsecret = "upsd"\npoll_s = 0.5\n'
    )
    stages = '[[stage]]\nname = "all"\non_battery_s = 2\n'
    (server.folder / "world").mkdir()
    vault.write(server.folder / "world" / "state" / "core" / "secrets.json", {"upsd": PASSWORD})
    with World(server.folder / "world", ups=ups, stages=stages) as world:
        #: row of RFC 1628 -> (NUT variable, what one of its units is there)
        rows = {
            "2.3.0": ("battery.runtime", 60.0), "2.4.0": ("battery.charge", 1.0), "2.5.0": ("battery.voltage", 0.1),
            "3.3.1.2.1": ("input.frequency", 0.1), "3.3.1.3.1": ("input.voltage", 1.0),
            "4.4.1.2.1": ("output.voltage", 1.0), "4.4.1.5.1": ("ups.load", 1.0),
        }  # fmt: skip
        for row, (variable, unit) in rows.items():
            told = int(world.snmp(f"1.3.6.1.2.1.33.1.{row}").rpartition(":")[2])
            assert abs(told - float(ON_LINE[variable]) / unit) <= 0.5, (row, variable, told)
        assert PASSWORD not in world.config.read_text() and PASSWORD not in world.log.read_text()
        server.say({**ON_LINE, "ups.status": "OB DISCHRG"})
        until(lambda: bool(world.told()), 30, "the server behind the NUT server's UPS was told")
        server.stop("server")
        until(lambda: "comm-lost" in world.conditions(), 40, "comm-lost")
        assert "No Such" in world.snmp("1.3.6.1.2.1.33.1.2.4.0") and world.view().age_s is not None
        assert "on-battery" in world.conditions()
        server.start("server")
        server.say(ON_LINE)
        until(lambda: "comm-lost" not in world.conditions(), 40, "it is back")
