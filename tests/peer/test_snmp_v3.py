"""SNMP version 3 against net-snmp's programs and NUT's driver: every way to sign and encrypt, and who is kept out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import config, engineid, mib, v3
from agent.model import Command, View
from agent.upsset import Writer
from tests.peer.test_snmp_agent import MISSING, OUTAGE, nut, outcome, overrides, run, snmpd, upsc
from tests.snmp_kit import COMMUNITY, ON_LINE, UPS, Net, Stage, listening, three_phase, view

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"not run: {', '.join(MISSING)} missing"),
]
SIGN, CRYPT = "the-signing-phrase", "the-secret-phrase"
AUTHS = {
    "sha1": "SHA", "sha224": "SHA-224", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512", "md5": "MD5",
}  # fmt: skip
PRIVS = {"aes128": "AES", "aes256": "AES-256", "des": "DES"}
SYS_NAME = "1.3.6.1.2.1.1.5.0"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Net(tmp_path_factory.mktemp("net") / "net").folder


@contextmanager
def agent(net: Path, folder: Path, auth: str, priv: str, level: str = "auth-priv") -> Iterator[int]:
    """An agent with one user, ops; its port."""
    with staged(net, folder, auth, priv, level=level) as stage:
        yield stage.agent.address[1]


@contextmanager
def staged(
    net: Path, folder: Path, auth: str, priv: str, shown: View | None = None, level: str = "auth-priv", **more: Any
) -> Iterator[Stage]:
    """The same, with its view in the test's hands; with a `writer` the user and the community may set."""
    found, boots = engineid.started(folder)
    row = engineid.made(found, auth, SIGN, priv, CRYPT)
    ops = engineid.user("ops", level, "writer" in more, row, found, True)
    responder = v3.Responder(mib.Engine(found, boots, time.monotonic()), {"ops": ops})
    users = (config.User(name="ops", level=level, sources=("127.0.0.0/8",)),)
    with listening(shown or view(ON_LINE), net, users=users, responder=responder, **more) as stage:
        yield stage


def ask(
    verb: str, port: int, *words: str, auth: str = "sha256", priv: str = "aes128", level: str = "authPriv",
    sign: str = SIGN, crypt: str = CRYPT, name: str = "ops", more: tuple[str, ...] = (),
) -> tuple[int, str]:  # fmt: skip
    keys = ["-a", AUTHS[auth], "-A", sign] if level != "noAuthNoPriv" else []
    keys += ["-x", PRIVS[priv], "-X", crypt] if level == "authPriv" else []
    return run(
        f"snmp{verb}", "-v3", "-u", name, "-l", level, *keys, "-On", "-r0", "-t2", *more, f"127.0.0.1:{port}", *words
    )


def offered(priv: str) -> bool:
    """Whether this machine's net-snmp has the way."""
    return not (priv == "des" and "Invalid privacy protocol" in run("snmpget", "-v3", "-x", "DES", "x")[1])


@pytest.mark.parametrize("priv", PRIVS)
@pytest.mark.parametrize("auth", AUTHS)
def test_every_pair_of_ways_reads_the_name(net: Path, tmp_path: Path, auth: str, priv: str) -> None:
    if not offered(priv):
        pytest.skip(f"this net-snmp has no {priv}")
    with agent(net, tmp_path, auth, priv) as port:
        code, said = ask("get", port, SYS_NAME, auth=auth, priv=priv)
    assert (code, said.strip()) == (0, f'.{SYS_NAME} = STRING: "rack-3"')


def test_a_walk_a_bulkwalk_and_version_2c_see_the_same(net: Path, tmp_path: Path) -> None:
    with agent(net, tmp_path, "sha256", "aes128") as port:
        code, walk = ask("walk", port, UPS)
        bulk = ask("bulkwalk", port, UPS)[1]
        plain = run("snmpwalk", "-v2c", "-c", "a-community-of-tests", "-On", f"127.0.0.1:{port}", UPS)[1]
    rows = [row for row in walk.splitlines() if ".33.1.2.2.0" not in row]
    assert code == 0 and walk == bulk and len(rows) > 50
    assert rows == [row for row in plain.splitlines() if ".33.1.2.2.0" not in row]


@pytest.mark.parametrize("repetitions", [1, 25, 256])
def test_a_bulkwalk_sees_the_whole_agent_in_messages_as_long_as_are_allowed(
    net: Path, tmp_path: Path, repetitions: int
) -> None:
    with agent(net, tmp_path, "sha256", "aes128") as port:
        walk = ask("walk", port, ".1.3")[1]
        code, bulk = ask("bulkwalk", port, ".1.3", more=(f"-Cr{repetitions}",))
        size = ask("get", port, "1.3.6.1.6.3.10.2.1.4.0")[1]  # snmpEngineMaxMessageSize
    names, of_bulk = ([row.split(" = ")[0] for row in rows.splitlines()] for rows in (walk, bulk))
    assert code == 0 and names == of_bulk and len(names) > 150
    assert size.strip().endswith("INTEGER: 1472")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"sign": "another-signing-phrase"}, "Authentication failure"),
        ({"crypt": "another-secret-phrase"}, "Decryption error|Timeout"),
        ({"name": "nobody"}, "Unknown user name"),
        ({"level": "authNoPriv"}, "authorizationError|authorization error"),
        ({"level": "noAuthNoPriv"}, "authorizationError|authorization error"),
        ({"auth": "sha512"}, "Authentication failure"),
        ({"more": ("-n", "vlan-1")}, "Bad context"),
        ({"more": ("-Z", "1,99999")}, "Timeout|time window"),
    ],
)
def test_who_is_not_allowed_is_told_why_and_gets_no_value(
    net: Path, tmp_path: Path, how: dict[str, str], said: str
) -> None:
    with agent(net, tmp_path, "sha256", "aes128") as port:
        code, text = ask("get", port, SYS_NAME, **how)  # type: ignore[arg-type]
    assert code != 0 and "rack-3" not in text
    assert any(part in text for part in said.split("|")), text


def test_after_a_restart_the_boots_have_grown_and_the_manager_finds_out(net: Path, tmp_path: Path) -> None:
    oid = "1.3.6.1.6.3.10.2.1.2.0"  # snmpEngineBoots
    seen = []
    for _ in range(2):
        with agent(net, tmp_path, "sha256", "aes128") as port:
            seen.append(ask("get", port, oid)[1].strip())
    assert seen == [f".{oid} = INTEGER: 1", f".{oid} = INTEGER: 2"]


NUT = (
    "mibs = ietf", "snmp_version = v3", "secLevel = authPriv", "secName = ops", "authProtocol = SHA",
    f"authPassword = {SIGN}", "privProtocol = AES", f"privPassword = {CRYPT}",
)  # fmt: skip


def test_nut_reads_over_version_3_on_line_and_on_battery(net: Path, tmp_path: Path) -> None:
    with (
        staged(net, tmp_path / "engine", "sha1", "aes128") as stage,
        nut(tmp_path, stage.agent.address[1], *NUT) as upsd,
    ):
        values = upsc(upsd, "OL")
        assert values["battery.charge"] == "98" and values["ups.model"] == "EP 1000"
        stage.view = OUTAGE
        values = upsc(upsd, "OB LB")
        assert (values["battery.charge"], float(values["battery.runtime"])) == ("12", 60)


def test_nut_reads_three_phases_over_version_3(net: Path, tmp_path: Path) -> None:
    with (
        staged(net, tmp_path / "engine", "sha1", "aes128", view(three_phase())) as stage,
        nut(tmp_path, stage.agent.address[1], *NUT) as upsd,
    ):
        values = upsc(upsd, "OL")
        assert [float(values[f"input.L{n}-N.voltage"]) for n in (1, 2, 3)] == [230.0] * 3
        assert float(values["output.L3.power.percent"]) == 31.0


def test_the_same_questions_over_version_3_get_the_same_answers_as_from_snmpd(net: Path, tmp_path: Path) -> None:
    shown = replace(OUTAGE, status=three_phase(OUTAGE.status or ON_LINE), on_battery_s=None)
    with staged(net, tmp_path / "engine", "sha256", "aes128", shown) as stage:
        user = f"createUser ops SHA-256 {SIGN} AES {CRYPT}\nrouser ops priv\n"
        with snmpd(overrides(stage) + user, tmp_path) as theirs:
            ports = stage.agent.address[1], theirs
            for verb in ("walk", "bulkwalk"):
                ours, other = (
                    [line for line in ask(verb, port, UPS)[1].splitlines() if line.startswith(f".{UPS}.")]
                    for port in ports
                )
                assert ours == other and len(ours) > 70, verb
            for verb, *words in (
                ("get", f".{UPS}.2.1.0", f".{UPS}.99.0", f".{UPS}.2.4.0"),
                ("get", f".{UPS}.2.1"),
                ("getnext", f".{UPS}.3.3.1.3.9"),
                ("getnext", ".2.9"),
                ("bulkget", f".{UPS}.2", f".{UPS}.4.4.1.2"),
                ("set", f".{UPS}.1.5.0", "s", "mine"),
                ("set", f".{UPS}.8.2.0", "i", "0"),
            ):
                answers = [outcome(ask(verb, port, *words)[1]) for port in ports]
                assert answers[0] == answers[1], (verb, words)
            for wrong in (
                {"sign": "another-signing-phrase"}, {"name": "nobody"}, {"level": "noAuthNoPriv"},
                {"level": "authNoPriv"}, {"more": ("-n", "vlan-1")},
            ):  # fmt: skip
                for port in ports:
                    code, said = ask("get", port, f".{UPS}.1.5.0", **wrong)  # type: ignore[arg-type]
                    assert code != 0 and "rack-3" not in said, (wrong, said)


@pytest.mark.parametrize("version", ["2c", "3"])
def test_net_snmp_sets_texts_a_test_the_beeper_and_a_countdown(net: Path, tmp_path: Path, version: str) -> None:
    orders: list[tuple[Command, dict[str, Any], str, str]] = []
    writer = Writer(order=lambda *order: orders.append(order), allow_shutdown=True)  # type: ignore[arg-type]
    shown = view(ON_LINE, commands=frozenset(Command))
    with staged(net, tmp_path, "sha256", "aes128", shown, access="read-write", writer=writer) as stage:
        port = stage.agent.address[1]

        def sets(*words: str, verb: str = "set") -> tuple[int, str]:
            if version == "3":
                return ask(verb, port, *words)
            return run(f"snmp{verb}", "-v2c", "-c", COMMUNITY, "-On", "-r0", f"127.0.0.1:{port}", *words)

        name, test, lock, down, beeper = (f".{UPS}.{tail}" for tail in ("1.5.0", "7.1.0", "7.2.0", "8.2.0", "9.8.0"))
        assert sets(name, "s", "rack-9")[0] == 0
        assert '"rack-9"' in sets(name, verb="get")[1]
        assert "inconsistentValue" in sets(test, "o", f".{UPS}.7.7.4")[1], "not without the lock"
        assert sets(lock, "i", "1", test, "o", f".{UPS}.7.7.4")[0] == 0
        assert "INTEGER: 2" in sets(lock, verb="get")[1]
        assert sets(down, "i", "-1")[0] == 0, "nothing runs, so there is nothing to end"
        assert sets(down, "i", "600")[0] == 0 and sets(beeper, "i", "1")[0] == 0
        code, said = sets(name, "s", "rack-8", beeper, "i", "9")
        assert code != 0 and "wrongValue" in said and beeper in said, "the second object is named"
        assert '"rack-9"' in sets(name, verb="get")[1], "and the first is as it was"
        assert "wrongType" in sets(name, "i", "5")[1]
        assert "notWritable" in sets(f".{UPS}.2.1.0", "i", "2")[1]
    who = "user ops" if version == "3" else "community tests"
    assert [(order[0], *order[2:]) for order in orders] == [
        (command, who, "127.0.0.1") for command in (Command.TEST_QUICK, Command.SHUTDOWN_RETURN, Command.BEEPER_OFF)
    ]
