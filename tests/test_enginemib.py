"""What version 3 says of itself: each counter by its own name, and the start on the disk before the first message."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import test_usm as secured
from test_library_defects import scoped, secured_agent
from test_snmpface import NAME, TEXT, box

from agent import ber, engineid, snmp, usm, v3
from tests.snmp_kit import arcs, dotted

#: RFC 3412, RFC 3413, RFC 3414
COUNTERS = {
    "usmStatsUnsupportedSecLevels": "1.3.6.1.6.3.15.1.1.1.0",
    "usmStatsNotInTimeWindows": "1.3.6.1.6.3.15.1.1.2.0",
    "usmStatsUnknownUserNames": "1.3.6.1.6.3.15.1.1.3.0",
    "usmStatsUnknownEngineIDs": "1.3.6.1.6.3.15.1.1.4.0",
    "usmStatsWrongDigests": "1.3.6.1.6.3.15.1.1.5.0",
    "usmStatsDecryptionErrors": "1.3.6.1.6.3.15.1.1.6.0",
    "snmpUnknownSecurityModels": "1.3.6.1.6.3.11.2.1.1.0",
    "snmpInvalidMsgs": "1.3.6.1.6.3.11.2.1.2.0",
    "snmpUnknownPDUHandlers": "1.3.6.1.6.3.11.2.1.3.0",
    "snmpUnknownContexts": "1.3.6.1.6.3.12.1.5.0",
}
WRONG_KEY = usm.User("ops", usm.AUTH_PRIV, "sha256", bytes(32), "aes128", secured.OPS.priv_key)
PLAIN, SIZE = secured.sent(level=usm.NO_AUTH), ber.integer(v3.SIZE_LIMIT)
USER_OF_LESS = {"usmStatsUnsupportedSecLevels": secured.ONLY_SIGNS}
CAUSES = {
    "usmStatsUnsupportedSecLevels": secured.sent(),
    "usmStatsNotInTimeWindows": secured.sent(boots=6),
    "usmStatsUnknownUserNames": secured.sent(name=b"nobody"),
    "usmStatsUnknownEngineIDs": secured.sent(engine=b"another"),
    "usmStatsWrongDigests": secured.sent(WRONG_KEY),
    "usmStatsDecryptionErrors": secured.sent(secured.other_secret()),
    "snmpUnknownSecurityModels": PLAIN.replace(b"\x04\x01\x04\x02\x01\x03", b"\x04\x01\x04\x02\x01\x09"),
    "snmpInvalidMsgs": PLAIN.replace(SIZE, ber.tlv(ber.INTEGER, (483).to_bytes(len(SIZE) - 2, "big"))),
    "snmpUnknownPDUHandlers": secured.sent(scoped=secured.request(context=b"another")),
    "snmpUnknownContexts": secured.sent(scoped=secured.request(name=b"vlan-1")),
}


def counters(agent: snmp.Agent) -> dict[str, int]:
    """All of them, as a user reads them."""
    assert agent.responder is not None
    who = agent.responder.user("ops")
    assert who is not None
    found = {}
    for name, oid in COUNTERS.items():
        level = usm.AUTH_PRIV if who.priv else usm.AUTH
        data = agent.answer(secured.sent(who, level, scoped=scoped(ber.GET, oid)), "127.0.0.1")
        assert data is not None
        pdu = v3.read_scoped(v3.opened(data, v3.read(data), who))[3]
        ((body, tag, value),) = ber.values(pdu.bindings)
        assert (dotted(body), tag) == (oid, ber.COUNTER32)
        found[name] = int.from_bytes(value, "big")
    return found


@pytest.mark.parametrize("name", COUNTERS)
def test_each_reason_is_counted_under_its_own_name_and_the_report_names_it(tmp_path: Path, name: str) -> None:
    who = USER_OF_LESS.get(name, secured.OPS)
    agent = secured_agent(tmp_path, who.level)
    agent.responder = v3.Responder(secured.ENGINE, {"ops": who})
    for count in (1, 2, 3):
        data = agent.answer(CAUSES[name], "127.0.0.1")
        if name in ("snmpUnknownSecurityModels", "snmpInvalidMsgs"):
            assert data is None
            continue
        assert data is not None
        message = v3.read(data)
        inside = v3.opened(data, message, who) if message.level else message.scoped
        ((body, tag, value),) = ber.values(v3.read_scoped(inside)[3].bindings)
        assert (dotted(body), tag, int.from_bytes(value, "big")) == (COUNTERS[name], ber.COUNTER32, count)
    assert counters(agent) == {**dict.fromkeys(COUNTERS, 0), name: 3}


@pytest.mark.parametrize(
    "data",
    [
        secured.sent(level=usm.NO_AUTH, engine=b"", boots=0, time_s=0, name=b""),
        secured.sent(boots=6),
        secured.sent(scoped=scoped(ber.GET, COUNTERS["snmpInvalidMsgs"])),
    ],
    ids=["discovery", "signed report", "response"],
)
def test_every_message_says_how_long_an_answer_may_be_that_we_read(tmp_path: Path, data: bytes) -> None:
    answer = secured_agent(tmp_path).answer(data, "127.0.0.1")
    assert answer is not None and v3.read(answer).max_size == 1472


def test_the_longest_message_that_is_said_to_be_read_is_read_and_none_that_is_longer(tmp_path: Path) -> None:
    agent, oid = secured_agent(tmp_path), ber.oid(arcs("1.3.6.1.6.3.10.2.1.4.0"))  # snmpEngineMaxMessageSize
    limit = -1
    for padding in range(1200, 1500):  # octets of a value that a GET does not look at
        prefix = ber.tlv(ber.OCTET_STRING, secured.ENGINE_ID) + ber.tlv(ber.OCTET_STRING, b"")
        value = ber.tlv(ber.OCTET_STRING, bytes(padding))
        data = secured.sent(scoped=ber.message(prefix, ber.GET, ber.integer(7), 0, 0, ber.binding(oid, value)))
        answer = agent.answer(data, "127.0.0.1")
        assert (answer is not None) == (len(data) <= 1472), len(data)
        if answer is not None:
            ((_, _, said),) = ber.values(v3.read_scoped(v3.opened(answer, v3.read(answer), secured.OPS))[3].bindings)
            limit = int.from_bytes(said, "big")
            assert v3.read(answer).max_size == limit
    assert limit == 1472


def test_the_start_is_synced_to_the_disk_with_its_folder_before_the_first_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "faces" / "snmp"
    done: list[tuple[str, str, int]] = []  # what, where, and the boots that a loss of power would leave there
    real_sync, real_replace, real_seal = os.fsync, os.replace, v3.seal

    def boots(path: Path) -> int:
        return int(json.loads(path.read_bytes())["boots"]) if path.exists() else -1

    def sync(fd: int) -> None:
        real_sync(fd)
        where = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if where == folder:
            done.append(("folder", where.name, boots(engineid.path(folder))))
        elif where.parent == folder and "engine" in where.name:
            done.append(("file", where.name, boots(where)))

    def replace(old: Path, new: Path) -> None:
        real_replace(old, new)
        if Path(new) == engineid.path(folder):
            done.append(("renamed", Path(old).name, boots(Path(new))))

    def seal(*args: object) -> bytes:
        done.append(("message", "", 0))
        return real_seal(*args)  # type: ignore[arg-type]

    with box(tmp_path) as it:
        it.set_as(NAME, TEXT, "ops")
    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("os.replace", replace)
    monkeypatch.setattr("agent.v3.seal", seal)
    with box(tmp_path) as it:
        it.set_as(NAME, TEXT, "ops")
    mine = [one for one in done if one[2] == 2 or one[0] == "message"]
    temporary = mine[0][1]
    assert mine[:4] == [("file", temporary, 2), ("renamed", temporary, 2), ("folder", "snmp", 2), ("message", "", 0)]
