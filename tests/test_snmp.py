"""The SNMP agent as a manager meets it: over a real socket with pysnmp, and datagram by datagram."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pysnmp_client import Manager
from snmp_kit import COMMUNITY, ON_LINE, UPS, Net, Stage, dotted, listening, request, since, three_phase, view, whole

from agent import ber, config, mib2, snmp
from agent import gate as gates
from agent.model import Condition, ConfigError, Source
from agent.netif import Interfaces

NAME, STATUS, UPTIME = f"{UPS}.1.5.0", f"{UPS}.2.1.0", "1.3.6.1.2.1.1.3.0"
LAST = f"{UPS}.9.10.0"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return Net(tmp_path).folder


@pytest.fixture
def stage(net: Path) -> Stage:
    return Stage(view(), net)


# --- an independent manager over a socket -----------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1])
def test_pysnmp_gets_walks_and_cannot_set(net: Path, version: int) -> None:
    with listening(view(three_phase(), since(Condition.INPUT_BAD)), net) as stage:
        manager = Manager(stage.agent.address[1], COMMUNITY, version)
        try:
            assert manager.get(NAME, STATUS) == (
                "", 0, [(NAME, "OctetString", "rack-3"), (STATUS, manager.get(STATUS)[2][0][1], "2")],
            )  # fmt: skip
            walked = manager.walk("1.3")
            assert [name for name, _, _ in walked] == list(stage.walk("1.3", version))
            assert len(walked) > 120
            error, index, _ = manager.set(NAME, "mine")
            assert (error, index) == (("noSuchName", 1) if version == 0 else ("noAccess", 1))
            assert manager.get(NAME)[2] == [(NAME, "OctetString", "rack-3")]
        finally:
            manager.close()


def test_pysnmp_bulk_reads_in_rows(net: Path) -> None:
    with listening(view(), net) as stage:
        manager = Manager(stage.agent.address[1], COMMUNITY)
        try:
            error, _, bindings = manager.getbulk(1, 3, "1.3.6.1.2.1.1.2", f"{UPS}.9.9", f"{UPS}.1.4")
            assert not error
            single = "1.3.6.1.2.1.1.2.0"  # asked and answered once; pysnmp repeats it in each of its rows
            assert [name for name, _, _ in bindings] == [
                single, f"{UPS}.9.9.0", f"{UPS}.1.4.0", single, LAST, NAME, single, LAST, f"{UPS}.1.6.0",
            ]  # fmt: skip
            assert bindings[7][1] == "EndOfMibView"
        finally:
            manager.close()


def test_a_wrong_community_is_met_with_silence(net: Path) -> None:
    with listening(view(), net) as stage, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.sendto(request(ber.GET, NAME, community="public"), stage.agent.address)
        with pytest.raises(TimeoutError):
            sock.recv(2000)
        assert stage.agent.counts[mib2.IN_BAD_COMMUNITY_NAMES] == 1
        assert stage.agent.refused == {"wrong community": 1}


# --- the forms of answers ---------------------------------------------------------------------------------------


def test_a_request_id_comes_back(stage: Stage) -> None:
    for request_id in (0, 1, -1, 2**31 - 1, -(2**31)):
        answered = stage.ask(request(ber.GET, NAME, request_id=request_id))
        assert answered is not None and answered.request_id == request_id


def test_version_2c_tells_a_missing_instance_from_a_missing_object(stage: Stage) -> None:
    answered = stage.ask(
        request(ber.GET, f"{UPS}.2.1.1", f"{UPS}.2.1", f"{UPS}.3.3.1.3.9", f"{UPS}.3.3.1.1.1", "1.3.9")
    )
    assert answered is not None and answered.error == 0
    assert [tag for _, tag, _ in answered.bindings] == [0x81, 0x81, 0x81, 0x80, 0x80]


def test_version_1_fails_as_a_whole_and_returns_the_request(stage: Stage) -> None:
    answered = stage.ask(request(ber.GET, NAME, "1.3.9", STATUS, version=ber.V1))
    assert answered is not None
    assert (answered.error, answered.index) == (2, 2)
    assert answered.bindings == [(NAME, 5, b""), ("1.3.9", 5, b""), (STATUS, 5, b"")]


def test_the_end_of_the_mib_in_both_versions(stage: Stage) -> None:
    old = stage.ask(request(ber.GETNEXT, NAME, LAST, version=ber.V1))
    new = stage.ask(request(ber.GETNEXT, NAME, LAST))
    assert old is not None and (old.error, old.index) == (2, 2)
    assert new is not None and (new.error, new.bindings[1]) == (0, (LAST, 0x82, b""))


@pytest.mark.parametrize(("singles", "repetitions"), [(0, 0), (-1, -1), (-(2**31), -(2**31)), (2**31 - 1, 0)])
def test_odd_numbers_in_a_getbulk_are_no_error(stage: Stage, singles: int, repetitions: int) -> None:
    answered = stage.ask(request(ber.GETBULK, NAME, first=singles, second=repetitions))
    assert answered is not None and answered.error == 0
    assert len(answered.bindings) == (1 if singles > 0 else 0)


def test_a_getbulk_ends_when_all_columns_have_ended(stage: Stage) -> None:
    answered = stage.ask(request(ber.GETBULK, LAST, "2.9", first=0, second=50))
    assert answered is not None
    assert answered.bindings == [(LAST, 0x82, b""), ("2.9", 0x82, b"")]


def test_a_huge_getbulk_stays_within_one_frame(stage: Stage) -> None:
    data = stage.agent.answer(request(ber.GETBULK, *["1.3"] * 60, first=0, second=2**31 - 1), "127.0.0.1")
    assert data is not None and 1400 < len(data) <= 1472


def test_an_answer_that_does_not_fit_is_too_big_in_both_versions(stage: Stage) -> None:
    names = ["1.3.6.1.2.1.1.1.0"] * 60  # 60 descriptions
    new = stage.ask(request(ber.GET, *names))
    old = stage.ask(request(ber.GET, *names, version=ber.V1))
    assert new is not None and (new.error, new.index, new.bindings) == (1, 0, [])
    assert old is not None and (old.error, old.index, len(old.bindings)) == (1, 0, 60)
    assert stage.agent.counts[mib2.OUT_TOO_BIGS] == 2


def test_more_names_than_the_limit_are_too_big(stage: Stage) -> None:
    answered = stage.ask(request(ber.GET, *["1.3"] * 129))
    assert answered is not None and (answered.error, answered.bindings) == (1, [])


def test_a_reply_that_cannot_fit_at_all_is_dropped_and_counted(net: Path) -> None:
    long = "c" * 1440
    settings = config.Snmp(communities=(config.Community(label="l", sources=("127.0.0.1/32",)),))
    agent = snmp.Agent(settings, {"l": long}, view, 0.0, interfaces=Interfaces(str(net)), clock=lambda: 1.0)
    agent._budget_bytes = 1452
    data = request(ber.GET, "1.3", community=long)
    assert len(data) <= 1472
    assert agent.answer(data, "127.0.0.1") is None
    assert agent.counts[mib2.SILENT_DROPS] == 1


@pytest.mark.parametrize(("version", "error"), [(ber.V1, 2), (ber.V2C, 6)])
def test_nothing_can_be_set(stage: Stage, version: int, error: int) -> None:
    before = stage.walk(UPS)
    value = ber.tlv(ber.OCTET_STRING, b"mine")
    for name in (NAME, f"{UPS}.8.2.0", "1.3.9", "1.3.6.1.2.1.1.5.0"):
        answered = stage.ask(request(ber.SET, name, STATUS, version=version, value=value))
        assert answered is not None
        assert (answered.error, answered.index) == (error, 1)
        assert answered.bindings == [(name, 4, b"mine"), (STATUS, 4, b"mine")]
    assert stage.walk(UPS) == before
    assert stage.agent.counts[mib2.IN_BAD_COMMUNITY_USES] == 4


def test_a_request_without_names_is_answered_without_names(stage: Stage) -> None:
    for tag in (ber.GET, ber.GETNEXT, ber.GETBULK, ber.SET):
        answered = stage.ask(request(tag, second=10))
        assert answered is not None and (answered.error, answered.bindings) == (0, [])


@pytest.mark.parametrize("tag", [ber.RESPONSE, ber.INFORM, ber.TRAP_V2, ber.REPORT])
def test_what_is_no_request_is_not_answered(stage: Stage, tag: int) -> None:
    assert stage.ask(request(tag, NAME)) is None
    assert stage.agent.refused == {"no request": 1}


def test_version_1_has_no_getbulk(stage: Stage) -> None:
    assert stage.ask(request(ber.GETBULK, NAME, version=ber.V1, second=5)) is None


@pytest.mark.parametrize("version", [2, 3, -1, 255])
def test_other_versions_are_counted_and_not_answered(stage: Stage, version: int) -> None:
    assert stage.ask(request(ber.GET, NAME, version=version)) is None
    assert stage.agent.counts[mib2.IN_BAD_VERSIONS] == 1


# --- what is shown, as it changes -------------------------------------------------------------------------------


def test_an_outage_is_seen_from_view_to_view(stage: Stage) -> None:
    assert not stage.walk(f"{UPS}.6.2")
    stage.now_s = 130.0
    stage.view = view(ON_LINE, since(Condition.ON_BATTERY, 125.0), on_battery_s=4.0, now_s=129.0)
    alarms = stage.walk(f"{UPS}.6.2")
    assert dotted(alarms[f"{UPS}.6.2.1.2.1"][1]) == f"{UPS}.6.3.2"
    assert whole(alarms[f"{UPS}.6.2.1.3.1"][1]) == 2500
    assert whole(stage.walk(f"{UPS}.2")[f"{UPS}.2.2.0"][1]) == 5
    stage.view = view()
    assert not stage.walk(f"{UPS}.6.2")


@pytest.mark.parametrize("condition", [Condition.NO_CORE, Condition.COMM_LOST])
def test_lost_measurements_are_absent_and_the_alarm_says_why(stage: Stage, condition: Condition) -> None:
    stage.view = view(None, since(condition))
    new = stage.ask(request(ber.GET, STATUS, NAME, UPTIME))
    old = stage.ask(request(ber.GET, STATUS, version=ber.V1))
    assert new is not None and [tag for _, tag, _ in new.bindings] == [0x81, ber.OCTET_STRING, ber.TIMETICKS]
    assert old is not None and (old.error, old.index) == (2, 1)
    assert list(stage.walk(f"{UPS}.2")) == list(stage.walk(f"{UPS}.9")) == []
    assert dotted(stage.walk(f"{UPS}.6.2.1.2")[f"{UPS}.6.2.1.2.1"][1]) == f"{UPS}.6.3.20"


def test_the_table_is_made_anew_only_when_rows_come_or_go(stage: Stage) -> None:
    stage.walk()
    table = stage.agent._table
    stage.view = replace(view(), input_bads=99)
    stage.walk()
    assert stage.agent._table is table
    stage.view = view(three_phase())
    stage.walk()
    assert stage.agent._table is not table


def test_one_answer_is_made_of_one_view(stage: Stage) -> None:
    views = iter([view(ON_LINE, input_bads=n) for n in range(50)])
    stage.agent._view = lambda: next(views)
    answered = stage.ask(request(ber.GET, *[f"{UPS}.3.1.0"] * 20))
    assert answered is not None
    assert len({body for _, _, body in answered.bindings}) == 1


def test_a_look_and_its_table_stay_good_while_another_thread_sees_more(net: Path) -> None:
    stage = Stage(view(None), net)
    look, table = stage.agent.seen(100.0)
    stage.view = view(three_phase())
    assert len(stage.agent.seen(100.0)[1]) > len(table)
    assert {table.binding(n, look) for n in range(len(table))}, "no row of a line that the look does not have"


def test_what_is_kept_of_a_view_is_gone_with_it(stage: Stage) -> None:
    name = f"{UPS}.2.4.0"
    for charge_pct in (97.0, 12.0, None):
        stage.view = view(replace(ON_LINE, battery=replace(ON_LINE.battery, charge_pct=charge_pct)))
        for _ in range(2):
            answered = stage.ask(request(ber.GET, name))
            assert answered is not None
            _, tag, body = answered.bindings[0]
            assert (tag, body) == ((0x81, b"") if charge_pct is None else (ber.INTEGER, bytes((int(charge_pct),))))


def test_what_goes_on_by_itself_is_never_kept(stage: Stage) -> None:
    stage.view = view(replace(ON_LINE, source=Source.BATTERY), on_battery_s=10.0)
    names = ("1.3.6.1.2.1.1.3.0", f"{UPS}.2.2.0", "1.3.6.1.2.1.11.1.0")
    seen = set()
    for _ in range(3):
        answered = stage.ask(request(ber.GET, *names))
        assert answered is not None
        seen.add(tuple(body for _, _, body in answered.bindings))
        stage.now_s += 1.0
    assert len({one[0] for one in seen}) == len({one[1] for one in seen}) == len({one[2] for one in seen}) == 3


def test_interfaces_are_read_from_the_system(stage: Stage) -> None:
    table = "1.3.6.1.2.1.2.2.1"
    found = stage.walk("1.3.6.1.2.1.2")
    assert whole(found["1.3.6.1.2.1.2.1.0"][1]) == 2
    assert {name.split(".")[9] for name in found if name.startswith(table + ".")} == {str(n) for n in range(1, 23)}
    assert len(found) == 1 + 2 * 22
    assert found[f"{table}.2.2"] == (ber.OCTET_STRING, b"eth0")
    assert whole(found[f"{table}.3.1"][1]) == 24 and whole(found[f"{table}.3.2"][1]) == 6
    assert whole(found[f"{table}.5.2"][1]) == 1_000_000_000
    assert found[f"{table}.6.2"][1].hex() == "02000000002a" and found[f"{table}.6.1"][1] == b""
    assert [whole(found[f"{table}.{n}.2"][1]) for n in (7, 8, 10, 11, 12, 17)] == [1, 1, 9, 42, 8, 40]
    assert whole(found[f"{table}.8.1"][1]) == 1  # loopback does not say, and is up


def test_an_interface_that_goes_down_tells_when(net: Path) -> None:
    stage = Stage(view(), net)
    assert whole(stage.walk("1.3.6.1.2.1.2.2.1.9")["1.3.6.1.2.1.2.2.1.9.2"][1]) == 0
    Net(net).set("eth0", operstate="down")
    stage.now_s = 142.0
    found = stage.walk("1.3.6.1.2.1.2.2.1")
    assert whole(found["1.3.6.1.2.1.2.2.1.8.2"][1]) == 2
    assert whole(found["1.3.6.1.2.1.2.2.1.9.2"][1]) == 4200
    stage.now_s = 150.0
    assert whole(stage.walk("1.3.6.1.2.1.2.2.1")["1.3.6.1.2.1.2.2.1.9.2"][1]) == 4200, "it is down as before"


@pytest.mark.parametrize(
    ("operstate", "carrier", "flags", "state"),
    [
        ("unknown", "1", "0x9", 1), ("unknown", "0", "0x9", 4), ("unknown", "1", "0x8", 4),
        ("dormant", "1", "0x9", 5), ("lowerlayerdown", "0", "0x9", 7), ("odd", "1", "0x9", 1),
    ],
)  # fmt: skip
def test_an_interface_is_up_if_it_says_so_or_has_a_carrier_and_says_nothing(
    net: Path, operstate: str, carrier: str, flags: str, state: int
) -> None:
    Net(net).set("eth0", operstate=operstate, carrier=carrier, flags=flags)
    found = Stage(view(), net).walk("1.3.6.1.2.1.2.2.1")
    assert whole(found["1.3.6.1.2.1.2.2.1.8.2"][1]) == state
    assert whole(found["1.3.6.1.2.1.2.2.1.7.2"][1]) == (1 if int(flags, 16) & 1 else 2)


@pytest.mark.parametrize(
    ("operstate", "carrier", "leaves"),
    [
        ("up", "1", True), ("unknown", "1", True), ("unknown", "", True), ("unknown", "0", False),
        ("down", "1", False), ("lowerlayerdown", "0", False), ("dormant", "1", False),
    ],
)  # fmt: skip
def test_a_way_is_open_while_the_interface_that_leads_there_has_a_carrier(
    net: Path, operstate: str, carrier: str, leaves: bool
) -> None:
    sys, interfaces = Net(net), Interfaces(str(net))
    sys.set("lo", operstate=operstate, carrier=carrier)
    sys.set("eth0", operstate="down" if leaves else "up", carrier="0" if leaves else "1")
    assert interfaces.leads_to("127.0.0.1") is leaves  # the kernel's own word: over lo, its first interface
    sys.set("lo", ifindex="99")
    assert interfaces.leads_to("127.0.0.1"), "what cannot be found out counts as open"


def test_an_interface_that_vanishes_is_left_out(net: Path) -> None:
    stage = Stage(view(), net)
    stage.ask(request(ber.GET, NAME))
    shutil.rmtree(net / "eth0")
    assert {name.split(".")[-1] for name in stage.walk("1.3.6.1.2.1.2.2.1")} == {"1"}
    stage.now_s += 2.0
    assert whole(stage.walk("1.3.6.1.2.1.2")["1.3.6.1.2.1.2.1.0"][1]) == 1


def test_what_is_asked_of_the_ups_does_not_wait_for_the_interfaces(net: Path) -> None:
    stage = Stage(view(), net)
    stage.walk(UPS)
    assert stage.agent._ports._columns == {}
    stage.ask(request(ber.GET, "1.3.6.1.2.1.2.2.1.2.2"))
    assert stage.agent._ports._columns.keys() == {2}


def test_a_machine_without_a_list_of_interfaces_has_none(tmp_path: Path) -> None:
    stage = Stage(view(), tmp_path / "absent")
    assert whole(stage.walk("1.3.6.1.2.1.2")["1.3.6.1.2.1.2.1.0"][1]) == 0


def test_traffic_is_counted(stage: Stage) -> None:
    stage.ask(request(ber.GET, NAME, STATUS))
    stage.ask(request(ber.GETNEXT, NAME))
    stage.ask(request(ber.GETBULK, NAME, second=3))
    stage.ask(request(ber.GET, NAME, community="wrong"))
    stage.agent.answer(b"garbage", "127.0.0.1")
    stage.ask(request(ber.GET, "1.3.9", version=ber.V1))
    stage.ask(request(ber.RESPONSE, NAME, first=5))
    counts = stage.agent.counts
    assert [counts[n] for n in (mib2.IN_PKTS, mib2.OUT_PKTS, mib2.OUT_RESPONSES)] == [7, 4, 4]
    assert [counts[n] for n in (mib2.IN_GETS, mib2.IN_GETNEXTS, mib2.IN_TOTAL_REQ_VARS)] == [2, 1, 6]
    assert [counts[n] for n in (mib2.IN_BAD_COMMUNITY_NAMES, mib2.IN_PARSE_ERRORS, mib2.OUT_NO_SUCH_NAMES)] == [
        1,
        1,
        1,
    ]
    assert [counts[n] for n in (mib2.IN_RESPONSES, mib2.IN_GEN_ERRORS)] == [1, 1]
    for error in range(20):  # RFC 1157 knows five
        stage.ask(request(ber.RESPONSE, NAME, first=error))
    kinds = mib2.IN_TOO_BIGS, mib2.IN_NO_SUCH_NAMES, mib2.IN_BAD_VALUES, mib2.IN_READ_ONLYS, mib2.IN_GEN_ERRORS
    assert [counts[n] for n in kinds] == [1, 1, 1, 1, 2]
    assert whole(stage.walk("1.3.6.1.2.1.11")["1.3.6.1.2.1.11.4.0"][1]) == 1


# --- who may ask, and how often ---------------------------------------------------------------------------------


def gate_of(*communities: tuple[str, tuple[str, ...]], **secrets: str) -> gates.Gate:
    rows = tuple(config.Community(label=label, sources=sources) for label, sources in communities)
    return gates.Gate(config.Snmp(communities=rows), secrets)


def allowed(gate: gates.Gate, host: str, community: str) -> bool:
    return gate.refusal(host, 0.0) is None and gate.community(host, community.encode()) is not None


def test_a_community_counts_only_from_its_networks() -> None:
    gate = gate_of(("a", ("192.0.2.0/24", "2001:db8::/32")), ("b", ("198.51.100.7/32",)), a="first", b="second")
    assert allowed(gate, "192.0.2.9", "first")
    assert allowed(gate, "2001:db8::9", "first")
    assert allowed(gate, "::ffff:192.0.2.9", "first")  # IPv4 on a socket for both
    assert allowed(gate, "198.51.100.7", "second")
    assert not allowed(gate, "192.0.2.9", "second")
    assert not allowed(gate, "198.51.100.7", "first")
    assert gate.refusal("203.0.113.1", 0.0) == "foreign source"


def test_a_user_is_admitted_only_from_his_networks() -> None:
    users = (("ops", ("192.0.2.0/24", "2001:db8::/32")), ("boss", ("198.51.100.7/32",)), ("late", ("0.0.0.0/0",)))
    rows = tuple(config.User(name=name, sources=sources) for name, sources in users)
    gate = gates.Gate(config.Snmp(users=rows), {}, ("ops", "boss"))
    hosts = ("192.0.2.9", "2001:db8::9", "::ffff:192.0.2.9", "198.51.100.7", "203.0.113.1")
    assert [gate.refusal(host, 0.0) for host in hosts] == [None] * 4 + ["foreign source"]
    assert [gate.admits(host, "ops") for host in hosts] == [True, True, True, False, False]
    assert [gate.admits(host, "boss") for host in hosts] == [False, False, False, True, False]
    assert not any(gate.admits(host, "late") for host in hosts), "he has no keys"


@pytest.mark.parametrize("attempt", ["", "firs", "first ", "FIRST", "first\0", "b"])
def test_only_the_whole_community_counts(attempt: str) -> None:
    assert not allowed(gate_of(("a", ("192.0.2.0/24",)), a="first"), "192.0.2.9", attempt)


def test_a_community_without_a_secret_is_off_and_the_log_says_how_to_set_it(caplog: pytest.LogCaptureFixture) -> None:
    gate = gate_of(("monitoring", ("127.0.0.0/8",)), ("empty", ("127.0.0.0/8",)), empty="")
    assert not gate
    assert gate.refusal("127.0.0.1", 0.0) == "foreign source"
    assert "ridethrough secret set monitoring" in caplog.text


@pytest.mark.parametrize("source", ["192.0.2.1/24", "::ffff:192.0.2.0/120", "everybody"])
def test_a_source_of_a_user_that_is_no_network_is_a_config_error(source: str) -> None:
    rows = (config.User(name="ops", sources=(source,)),)
    with pytest.raises(ConfigError, match=r"\[\[snmp.user\]\] ops from: "):
        gates.Gate(config.Snmp(users=rows), {}, ("ops",))


def test_communities_with_one_secret_are_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    gate_of(("a", ("192.0.2.0/24",)), ("b", ("192.0.2.0/24",)), a="first", b="second")
    assert caplog.text == ""
    here = ("192.0.2.0/24",)
    gate = gate_of(("x", here), ("y", here), ("z", here), ("w", here), x="s3cret", y="other", z="s3cret", w="s3cret")
    assert gate.refusal("192.0.2.9", 0.0) is None
    found = gate.community("192.0.2.9", b"s3cret")
    assert found is not None and found.label == "w"
    assert "communities x, z, w have the same secret: where several could be meant, w counts" in caplog.text
    assert "s3cret" not in caplog.text and len(caplog.records) == 1


def test_a_source_that_is_no_network_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="192.0.2.1/24"):
        gate_of(("a", ("192.0.2.1/24",)), a="x")


def test_a_whole_walk_passes_at_full_speed_and_a_flood_does_not(stage: Stage) -> None:
    for _ in range(5):
        stage.walk()
    assert stage.agent.refused == {}
    for _ in range(int(gates.SOURCE_BURST)):
        stage.agent.answer(request(ber.GET, NAME), "127.0.0.1")
    assert stage.agent.refused["too many requests"] > 0
    assert stage.ask(request(ber.GET, NAME), "127.0.0.2") is not None  # another manager is not disturbed
    stage.now_s += 1.0
    assert sum(stage.ask(request(ber.GET, NAME)) is not None for _ in range(1000)) == int(gates.SOURCE_RATE_PER_S)


def test_all_sources_together_are_limited(stage: Stage) -> None:
    answered = 0
    for n in range(6000):
        answered += stage.agent.answer(request(ber.GET, NAME), f"127.0.{n % 4}.1") is not None
    assert answered == int(gates.TOTAL_BURST)


def test_the_memory_of_sources_is_bounded() -> None:
    gate = gate_of(("a", ("127.0.0.0/8",)), a="x")
    for n in range(5000):
        gate.refusal(f"10.0.{n >> 8}.{n & 255}", 0.0)
    assert len(gate._senders) <= gates.SOURCES_LIMIT
    assert allowed(gate, "127.0.0.1", "x")


def test_refusals_are_logged_at_most_once_a_minute(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(300):
        stage.ask(request(ber.GET, NAME, community="guess"))
    assert len(caplog.records) == 1
    stage.now_s += 61.0
    stage.agent.answer(b"x", "127.0.0.1")
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert "wrong community 299" in caplog.text and "malformed 1" in caplog.text
    assert "guess" not in caplog.text and COMMUNITY not in caplog.text


def test_too_long_a_datagram_is_refused_before_it_is_read(stage: Stage) -> None:
    data = request(ber.GET, NAME)
    assert stage.agent.answer(data + bytes(1473 - len(data)), "127.0.0.1") is None
    assert stage.agent.refused == {"too long": 1}
    assert stage.agent.counts[mib2.IN_PARSE_ERRORS] == 0


# --- the socket -------------------------------------------------------------------------------------------------


def test_without_a_usable_community_it_does_not_listen(net: Path) -> None:
    settings = config.Snmp(listen="127.0.0.1:0", communities=(config.Community(label="l", sources=("::1/128",)),))
    with pytest.raises(ConfigError, match="nothing listens"):
        snmp.Agent(settings, {}, view, 0.0).bind()
    with pytest.raises(ConfigError, match="nothing listens"):
        snmp.Agent(config.Snmp(listen="127.0.0.1:0"), {"l": "x"}, view, 0.0).bind()


@pytest.mark.parametrize("listen", ["192.0.2.77:1161", "[2001:db8::77]:1161"])
def test_an_address_that_cannot_be_is_named_with_the_remedy(net: Path, listen: str) -> None:
    with pytest.raises(ConfigError) as e:
        Stage(view(), net, listen).agent.bind()
    assert f'[snmp] listen = "{listen}"' in str(e.value) and "address of this machine" in str(e.value)


def test_a_taken_port_is_named_with_the_remedy(net: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="another program listens there"):
            Stage(view(), net, f"127.0.0.1:{other.getsockname()[1]}").agent.bind()


def exchange(family: int, to: tuple[str, int], data: bytes) -> tuple[bytes, tuple[str, int]]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2.0)
        sock.sendto(data, to)
        answered, sender = sock.recvfrom(2000)
        return answered, sender[:2]


@pytest.mark.parametrize(
    ("listen", "family", "asked"),
    [
        ("127.0.0.1:0", socket.AF_INET, "127.0.0.1"),
        ("[::1]:0", socket.AF_INET6, "::1"),
        ("0.0.0.0:0", socket.AF_INET, "127.0.0.99"),
        ("[::]:0", socket.AF_INET6, "::1"),
        ("[::]:0", socket.AF_INET, "127.0.0.99"),
    ],
)
def test_the_reply_comes_from_the_address_that_was_asked(net: Path, listen: str, family: int, asked: str) -> None:
    with listening(view(), net, listen) as stage:
        to = (asked, stage.agent.address[1])
        answered, sender = exchange(family, to, request(ber.GET, NAME))
        assert sender == to
        assert b"rack-3" in answered


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_who_asks_everybody_gets_a_reply_from_the_own_address(net: Path, listen: str) -> None:
    with listening(view(), net, listen) as stage, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.settimeout(2.0)
        port = stage.agent.address[1]
        sock.sendto(request(ber.GET, NAME), ("127.255.255.255", port))
        answered, sender = sock.recvfrom(2000)
        assert sender == ("127.0.0.1", port) and b"rack-3" in answered and stage.agent.refused == {}


def test_it_goes_on_after_garbage_and_empty_datagrams(net: Path) -> None:
    with listening(view(), net) as stage, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for data in (b"", b"\x30", bytes(1472), bytes(9000), b"\x30\x84\xff\xff\xff\xff"):
            sock.sendto(data, stage.agent.address)
        assert b"rack-3" in exchange(socket.AF_INET, stage.agent.address, request(ber.GET, NAME))[0]
        assert stage.agent.refused == {"malformed": 4, "too long": 1}


def test_stop_ends_the_thread_and_frees_the_port(net: Path) -> None:
    agent = Stage(view(), net).agent
    agent.bind()
    address = agent.address
    thread = threading.Thread(target=agent.run, args=(threading.Event(),))
    thread.start()
    agent.stop()
    thread.join(2.0)
    assert not thread.is_alive()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(address)


def test_64_bit_counters_are_there_but_for_version_1(stage: Stage) -> None:
    name = "1.3.6.1.2.1.31.1.1.1.6.2"
    assert stage.walk("1.3.6.1.2.1.31")[name] == (ber.COUNTER64, (2**32 + 9).to_bytes(5, "big"))
    assert name not in stage.walk("1.3.6.1.2.1.31", ber.V1)
    reply = stage.ask(request(ber.GET, name, version=ber.V1))
    assert reply is not None and (reply.error, reply.index) == (2, 1)


def test_each_column_of_the_extended_table_is_its_own(tmp_path: Path) -> None:
    files = {
        "rx_bytes": 2**32 + 1,
        "rx_packets": 2**33 + 9,
        "multicast": 7,
        "tx_bytes": 2**34 + 3,
        "tx_packets": 2**35,
    }
    made = Net(tmp_path / "other")
    made.set("eth0", **{name: str(value) for name, value in files.items()})
    found = Stage(view(), made.folder).walk("1.3.6.1.2.1.31.1.1.1")
    of_eth0 = {int(name.split(".")[-2]): body for name, (_, body) in found.items() if name.endswith(".2")}
    assert of_eth0.pop(1) == b"eth0" and whole(of_eth0.pop(15)) == 1000
    assert {column: whole(body) for column, body in of_eth0.items()} == {
        6: 2**32 + 1, 7: 2**33 + 2, 8: 7, 10: 2**34 + 3, 11: 2**35,
    }  # fmt: skip


@pytest.mark.parametrize("lenient", [False, True])
def test_a_scalar_without_its_instance_is_answered_only_if_that_is_wanted(net: Path, lenient: bool) -> None:
    stage = Stage(view(), net, lenient=lenient)
    bare = NAME.removesuffix(".0")
    reply = stage.ask(request(ber.GET, bare))
    assert reply is not None
    assert reply.bindings == [(bare, ber.OCTET_STRING, b"rack-3") if lenient else (bare, 0x81, b"")]
    table = stage.ask(request(ber.GET, f"{UPS}.3.3.1.2"))
    assert table is not None and table.bindings[0][1] == 0x81
