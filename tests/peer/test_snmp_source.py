"""Agents as a source: net-snmp's snmpd with the makers' rows, our own agent, and one adapter behind another."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import ber, snmp3link, snmplink, vault
from agent.drivers import snmp
from agent.model import Command, Condition, LinkError, OrderError, Source, Status
from agent.upsset import Writer
from tests.peer.test_snmp_agent import SNMPD_TYPES, dotted, process, snmpd
from tests.peer.test_snmp_v3 import CRYPT, SIGN
from tests.peer.test_snmp_v3 import agent as own_v3
from tests.peer.world import COMMUNITY as WORLD_COMMUNITY
from tests.peer.world import World, free_port, until
from tests.simulators.snmpunit import ID, RFC, Value, encoded
from tests.snmp_kit import COMMUNITY, ON_LINE, Net, Stage, listening, since, three_phase, view
from tests.test_snmp_source import CYBER, EATON, POWERNET

pytestmark = pytest.mark.peer

VERSIONS = ("1", "2c")


def override(name: str, value: Value | bytes) -> str:
    """A row of ours as a line of snmpd.conf."""
    data = encoded(value)
    tag, start, stop = ber.head(data, 0, len(data))
    if tag == ber.OBJECT_ID:
        return f"override .{name} object_id .{dotted(data[start:stop])}"
    number = int.from_bytes(data[start:stop], "big", signed=True)
    text = f'"{data[start:stop].decode()}"' if tag == ber.OCTET_STRING else str(number)
    return f"override {'-rw ' if tag == ber.INTEGER else ''}.{name} {SNMPD_TYPES[tag]} {text}"


def conf(rows: dict[str, Value | bytes]) -> str:
    said = ".".join(map(str, rows[ID]))  # type: ignore[arg-type]
    lines = [f"rwcommunity {COMMUNITY} 127.0.0.1", "rocommunity reader 127.0.0.1", f"sysobjectid .{said}"]
    return "\n".join([*lines, *(override(k, v) for k, v in rows.items() if k != ID)]) + "\n"


def opened(port: int, version: str = "2c", community: str = COMMUNITY, mib: str = "auto") -> snmp.Snmp:
    section = {"host": "127.0.0.1", "udp_port": port, "version": version, "secret": "x", "password": community}
    it = snmp.connect({"mib": mib}, snmplink.open(section, time.monotonic), time.monotonic)
    assert isinstance(it, snmp.Snmp)
    return it


THREE = [231.0, 232.0, 233.0], [221.0, 222.0, 223.0], [10.0, 20.0, 30.0]
#: what the agent says -> source, charge, runtime, input and output voltages, loads, flags
TABLE: dict[str, tuple[dict[str, Value | bytes], tuple[Any, ...]]] = {
    "rfc1628": (RFC, (Source.MAINS, 97.0, 1800.0, THREE[0], THREE[1], THREE[2], set())),
    "powernet": (POWERNET, (Source.MAINS, 90.5, 1800.0, [230.9], [None], [31.0], {Condition.BATTERY_BAD})),
    "xups": (EATON, (Source.BATTERY, 88.0, 1800.0, [0.0], [230.0], [40.0], {Condition.LOW_BATTERY})),
    "cyberpower": (CYBER, (Source.BATTERY, 12.0, 1800.0, [0.0], [None], [12.0], {Condition.LOW_BATTERY})),
}  # fmt: skip


def facts(status: Status) -> tuple[Any, ...]:
    return (
        status.source, status.battery.charge_pct, status.battery.runtime_s,
        [line.voltage_v for line in status.inputs], [line.voltage_v for line in status.outputs],
        [line.load_pct for line in status.outputs], set(status.flags),
    )  # fmt: skip


@pytest.mark.parametrize("mib", TABLE)
def test_snmpd_with_a_makers_rows_is_read_as_it_says_them(mib: str, tmp_path: Path) -> None:
    rows, expected = TABLE[mib]
    with snmpd(conf(rows), tmp_path) as port:
        for version in VERSIONS:
            it = opened(port, version)
            for _ in range(2):
                assert facts(it.poll()) == expected
            it.close()


def test_orders_to_snmpd_are_kept_there_and_a_reader_is_refused(tmp_path: Path) -> None:
    def said(oid: str) -> str:
        argv = ["snmpget", "-v2c", "-c", COMMUNITY, "-On", "-Oqv", f"127.0.0.1:{port}", oid]
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    with snmpd(conf(POWERNET), tmp_path) as port:
        it = opened(port, "1")
        it.poll()
        it.order(Command.BEEPER_OFF)
        assert said(".1.3.6.1.4.1.318.1.1.1.5.2.4.0") == "3" and it.poll().beeper_on is False
        it.order(Command.TEST_QUICK)
        assert said(".1.3.6.1.4.1.318.1.1.1.7.2.2.0") == "2"
        it.close()
        for version in VERSIONS:
            reader = opened(port, version, "reader")
            reader.poll()
            with pytest.raises(OrderError, match="may write"):
                reader.order(Command.BEEPER_ON)
            reader.close()
        wrong = opened(port, community="not-this-one")
        with pytest.raises(LinkError, match="no answer in time"):
            wrong.poll()
        wrong.close()


def test_a_killed_snmpd_is_no_status_and_is_found_again(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    (tmp_path / "it.conf").write_text(conf(EATON))
    argv = ("snmpd", "-f", "-Lf", str(tmp_path / "log"), "-C", "-c", str(tmp_path / "it.conf"), "-I", "-smux")
    environment = {"SNMP_PERSISTENT_DIR": str(tmp_path / "persistent"), "MIBS": ""}
    it = opened(port)

    def read() -> bool:
        try:
            return it.poll().source is Source.BATTERY
        except LinkError:
            return False

    with process(*argv, f"udp:127.0.0.1:{port}", **environment):
        until(read, 10, "snmpd is read")
    began_s = time.monotonic()
    with pytest.raises(LinkError):
        it.poll()
    assert time.monotonic() - began_s < 5.0
    with process(*argv, f"udp:127.0.0.1:{port}", **environment):
        until(read, 10, "it is back")
    it.close()


@contextmanager
def ours(folder: Path, orders: list[Any]) -> Iterator[Stage]:
    """Our own agent, which takes orders."""

    def order(command: Command, args: Any, *_: str) -> None:
        orders.append((command, dict(args)))

    commands = frozenset({Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STOP, Command.TEST_QUICK, Command.BEEPER_OFF})
    writer = Writer({}, lambda _: None, order, lambda *_: None, allow_shutdown=True)
    with listening(
        view(ON_LINE, commands=commands), Net(folder).folder, access="read-write", writer=writer
    ) as stage:  # fmt: skip
        yield stage


@pytest.mark.parametrize("version", VERSIONS)
def test_our_own_agent_is_read_ordered_and_its_lost_ups_is_no_status(version: str, tmp_path: Path) -> None:
    orders: list[Any] = []
    with ours(tmp_path / "net", orders) as stage:
        it = opened(stage.agent.address[1], version)
        status = it.poll()
        assert status.source is Source.MAINS and status.battery.charge_pct in (97.0, 98.0)
        assert (status.battery.voltage_v, status.battery.current_a, status.battery.temperature_c) == (
            27.3,
            -1.2,
            -5.0,
        )
        assert status.ident == replace(ON_LINE.ident, serial=None)
        assert (status.rating.apparent_va, status.rating.low_transfer_v, status.beeper_on) == (1000.0, 184.0, True)
        it.order(Command.SHUTDOWN_RETURN, delay_s=60, return_delay_s=180)
        it.order(Command.TEST_QUICK)
        it.order(Command.BEEPER_OFF)
        assert orders == [
            (Command.SHUTDOWN_RETURN, {"delay_s": 60.0, "return_delay_s": 60.0}), (Command.TEST_QUICK, {}),
            (Command.BEEPER_OFF, {}),
        ]  # fmt: skip
        battery = three_phase(replace(ON_LINE, source=Source.BATTERY))
        stage.view = view(battery, since(Condition.ON_BATTERY), since(Condition.OVERLOAD), now_s=200.0)
        status = it.poll()
        assert status.source is Source.BATTERY and status.flags == {Condition.OVERLOAD}
        assert len(status.inputs) == len(status.outputs) == 3
        stage.view = view(None, since(Condition.COMM_LOST), now_s=210.0)
        with pytest.raises(LinkError):
            it.poll()
        stage.view = view(ON_LINE, now_s=220.0)
        assert it.poll().source is Source.MAINS
        it.close()


def test_from_one_adapter_to_the_next_an_outage_tells_the_servers_and_silence_is_comm_lost(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with World(tmp_path / "a") as first:
        ups = f'driver = "snmp"\nhost = "127.0.0.1"\nudp_port = {first.snmp_port}\nsecret = "first"\npoll_s = 0.5\n'
        vault.write(tmp_path / "b" / "state" / "core" / "secrets.json", {"first": WORLD_COMMUNITY})
        with World(tmp_path / "b", ups=ups, stages='[[stage]]\nname = "all"\non_battery_s = 2\n') as second:
            for row in ("2.4.0", "2.5.0", "3.3.1.3.1", "4.4.1.2.1", "4.4.1.5.1"):
                values = {w.snmp(f"1.3.6.1.2.1.33.1.{row}").rpartition(":")[2] for w in (first, second)}
                assert len(values) == 1 and "No Such" not in values.pop(), row
            assert WORLD_COMMUNITY not in second.config.read_text() + second.log.read_text()
            first.ups.set("mains", "off")
            until(lambda: bool(second.told()), 30, "the server behind the second adapter was told")
            assert not first.told()
            first.agent.terminate()
            first.agent.wait(20)
            until(lambda: "comm-lost" in second.conditions(), 40, "comm-lost")
            assert "No Such" in second.snmp("1.3.6.1.2.1.33.1.2.4.0") and second.view().age_s is not None
            first.ups.set("mains", "on")
            first.start_agent()
            until(lambda: "comm-lost" not in second.conditions(), 40, "it is back")


def failed(it: snmp.Snmp) -> str:
    try:
        it.poll()
    except LinkError as e:
        return str(e)
    return ""


V3 = {"version": "3", "secret": "x", "password": "sign-it-well crypt-it-well", "user": "ops"}


@pytest.mark.parametrize(("auth", "priv", "words"), [("sha256", "aes128", "SHA-256"), ("sha1", "des", "SHA")])
def test_version_3_by_a_child_that_is_started_again_and_ends_with_us(
    auth: str, priv: str, words: str, tmp_path: Path
) -> None:
    crypt = {"aes128": "AES", "des": "DES"}[priv]
    users = f"createUser ops {words} sign-it-well {crypt} crypt-it-well\nrwuser ops priv\n"
    with snmpd(conf(POWERNET) + users, tmp_path) as port:
        section = {**V3, "host": "127.0.0.1", "udp_port": port, "auth": auth, "priv": priv}

        def read(wanted: tuple[Any, ...] | None) -> bool:
            it = snmp.connect({}, snmplink.open(section, time.monotonic), time.monotonic)
            try:
                return facts(it.poll()) == wanted
            except LinkError:
                return False
            finally:
                it.close()

        until(lambda: read(TABLE["powernet"][1]), 20, "version 3 is read")
        it = snmp.connect({}, snmplink.open(section, time.monotonic), time.monotonic)
        it.poll()
        it.order(Command.BEEPER_OFF)
        assert it.poll().beeper_on is False
        (child,) = snmp3link._children.values()
        assert child.process is not None
        first = child.process.pid
        child.process.kill()
        child.process.wait(5)
        with pytest.raises(LinkError, match="started again"):
            it.poll()
        until(lambda: read(TABLE["powernet"][1]), 20, "it was started again")
        assert child.process is not None and child.process.pid != first
        gone = child.process
        assert gone.stdin is not None
        gone.stdin.close()  # as when we are gone
        gone.wait(10)
        for one in snmp3link._children.values():
            one.end()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"password": "sign-it-well crypt-it-badly"}, "second passphrase"),
        ({"password": "sign-it-badly crypt-it-well"}, "first passphrase"),
        ({"user": "nobody"}, "does not know"),
    ],
)
def test_of_version_3_what_is_wrong_is_one_clear_error_and_the_child_stays(
    more: dict[str, str], told: str, tmp_path: Path
) -> None:
    users = "createUser ops SHA-256 sign-it-well AES crypt-it-well\nrwuser ops priv\n"
    with snmpd(conf(POWERNET) + users, tmp_path) as port:
        section = {**V3, "host": "127.0.0.1", "udp_port": port, "auth": "sha256", "priv": "aes128", **more}
        it = snmp.connect({}, snmplink.open(section, time.monotonic), time.monotonic)
        until(lambda: told in failed(it), 30, told)
        (child,) = snmp3link._children.values()
        assert child.process is not None
        number = child.process.pid
        for _ in range(2):
            said = failed(it)
            assert told in said and "badly" not in said, said
        assert child.process is not None and (child.process.pid, child.process.poll()) == (number, None)
        child.end()


@pytest.mark.parametrize(("auth", "priv"), [("sha256", "aes128"), ("sha1", "des")])
def test_our_own_agent_is_read_by_version_3_and_tells_a_wrong_secret(auth: str, priv: str, tmp_path: Path) -> None:
    with own_v3(Net(tmp_path / "net").folder, tmp_path, auth, priv) as port:
        section = {"host": "127.0.0.1", "udp_port": port, "version": "3", "user": "ops", "auth": auth, "priv": priv}

        def read(password: str) -> snmp.Snmp:
            link = snmplink.open({**section, "password": password}, time.monotonic)
            it = snmp.connect({}, link, time.monotonic)
            assert isinstance(it, snmp.Snmp)
            return it

        it = read(f"{SIGN} {CRYPT}")
        until(lambda: not failed(it), 30, "version 3 is read")
        status = it.poll()
        assert status.source is Source.MAINS and status.battery.voltage_v == 27.3
        bad = read(f"{SIGN} another-wrong-one")
        until(lambda: "second passphrase" in failed(bad), 30, "it is said")
        for child in snmp3link._children.values():
            child.end()


def test_of_version_3_too_a_killed_snmpd_is_no_status_and_is_found_again(tmp_path: Path) -> None:
    users = "createUser ops SHA-256 sign-it-well AES crypt-it-well\nrwuser ops priv\n"
    port, words = free_port(socket.SOCK_DGRAM), conf(POWERNET) + users
    section = {**V3, "host": "127.0.0.1", "udp_port": port, "auth": "sha256", "priv": "aes128"}
    it = snmp.connect({}, snmplink.open(section, time.monotonic), time.monotonic)
    with snmpd(words, tmp_path, port):
        until(lambda: not failed(it), 30, "version 3 is read")
        (child,) = snmp3link._children.values()
        assert child.process is not None
        number = child.process.pid
    began_s = time.monotonic()
    assert "no answer in time" in failed(it) and time.monotonic() - began_s < 5.0
    for _ in range(2):
        assert "passphrase" not in failed(it)  # nobody is there, which is no reason to doubt the secret
    with snmpd(words, tmp_path, port):  # it was started again: its engine has booted once more
        until(lambda: not failed(it), 20, "it is back")
        assert child.process is not None and child.process.pid == number
    child.end()
