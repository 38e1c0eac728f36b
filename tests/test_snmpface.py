"""The SNMP agent as its configuration puts it together: who may write, what the core hears of it, who is told."""

from __future__ import annotations

import hmac
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from snmp_kit import COMMUNITY, ON_LINE, UPS, Reply, arcs, reply, request, view, whole
from test_notices import Peer

from agent import ber, config, engineid, faces, gate, netif, notices, pdu, refusals, snmpface, upsset, usm, v3, vault
from agent.bus import BusError, Unanswered, Unreachable
from agent.model import Command, ConfigError, View

NAME, DOWN, BEEPER, TEXT = f"{UPS}.1.5.0", f"{UPS}.8.2.0", f"{UPS}.9.8.0", ber.tlv(ber.OCTET_STRING, b"mine")
LOOPBACK = ("127.0.0.0/8",)
SECRETS = {"reads": COMMUNITY, "writes": "a-community-that-writes", "nms": "of-the-receiver"}
SIGN, CRYPT = "the-signing-phrase", "the-secret-phrase"
WRONG_USER = usm.User("ops", usm.AUTH_PRIV, "sha256", bytes(32), "aes128", bytes(16))
COLD_START, AUTHENTICATION_FAILURE = "1.3.6.1.6.3.1.1.5.1", "1.3.6.1.6.3.1.1.5.5"


class Bus:
    """The core as the faces see it."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.fails: BusError | None = None

    def view(self) -> View:
        return view(ON_LINE, commands=frozenset(Command), last_event_id=0)

    def ask(self, query: dict[str, Any], _: float) -> dict[str, Any]:
        if self.fails:
            raise self.fails
        self.heard.append(query)
        return {"events": []}


class Box:
    """A face with its folder, and managers of all versions."""

    def __init__(self, folder: Path, **wanted: Any) -> None:
        self.bus = Bus()
        state = folder / "faces" / "snmp"
        engine = engineid.engine_id(state)
        rows = {name: engineid.made(engine, "sha256", SIGN, "aes128", CRYPT) for name in ("ops", "boss")}
        engineid.write_keys(state, rows)
        self.keys = {name: engineid.user(name, "auth-priv", False, rows[name], engine, False) for name in rows}
        settings = config.Snmp(
            listen="127.0.0.1:0",
            communities=(
                config.Community(label="reads", sources=LOOPBACK),
                config.Community(label="writes", access="read-write", sources=("127.0.0.2/32",)),
            ),
            users=(
                config.User(name="ops", sources=LOOPBACK),
                config.User(name="boss", access="read-write", sources=LOOPBACK),
            ),
            **wanted,
        )
        self.face = snmpface.start(config.Config(state_dir=str(folder), snmp=settings), SECRETS, self.bus)  # type: ignore[arg-type]
        self.agent = self.face.agent

    def close(self) -> None:
        assert self.agent._sock is not None
        self.agent._sock.close()
        for one in self.face.notifier.receivers if self.face.notifier else ():
            one.close()

    def set(self, name: str, value: bytes, community: str, host: str = "127.0.0.1") -> Reply | None:
        data = self.agent.answer(request(ber.SET, name, value=value, community=community), host)
        return None if data is None else reply(data)

    def rows(self) -> None:
        """What is left to be done beside the answers is done."""
        while self.agent._setter._queue.qsize():
            self.agent._setter.turn()

    def set_as(
        self, name: str, value: bytes, who: str, with_keys_of: usm.User | None = None, level: int = usm.AUTH_PRIV
    ) -> tuple[int, int]:
        assert self.agent.responder is not None
        user, engine = with_keys_of or self.keys[who], self.agent.responder.engine
        prefix = ber.tlv(ber.OCTET_STRING, engine.id) + ber.tlv(ber.OCTET_STRING, b"")
        scoped = ber.message(prefix, ber.SET, ber.integer(7), 0, 0, ber.binding(ber.oid(arcs(name)), value))
        flags = level | v3.REPORTABLE
        data = self.agent.answer(
            v3.seal(7, flags, engine.id, engine.boots, 0, user, who.encode(), scoped, usm.Salts()), "127.0.0.1"
        )
        assert data is not None
        message = v3.read(data)
        if message.level != level:
            return -1, 0
        pdu = v3.read_scoped(v3.opened(data, message, user) if level else message.scoped)[3]
        return pdu.first, pdu.second


@contextmanager
def box(folder: Path, **wanted: Any) -> Iterator[Box]:
    made = Box(folder, **wanted)
    try:
        yield made
    finally:
        made.close()


def test_only_who_has_read_write_sets_and_only_from_his_networks(tmp_path: Path) -> None:
    with box(tmp_path) as it:
        for answered in (it.set(NAME, TEXT, COMMUNITY), it.set(NAME, TEXT, COMMUNITY, "127.0.0.2")):
            assert answered is not None and (answered.error, answered.index) == (upsset.NO_ACCESS, 1)
        assert it.set(NAME, TEXT, SECRETS["writes"]) is None, "from a foreign network it is a wrong community"
        assert it.set_as(NAME, TEXT, "ops") == (upsset.NO_ACCESS, 1)
        assert it.bus.heard == []
        answered = it.set(NAME, TEXT, SECRETS["writes"], "127.0.0.2")
        assert answered is not None and answered.error == 0
        assert it.set_as(NAME, TEXT, "boss") == (0, 0)


def test_what_is_set_leaves_a_row_with_who_and_from_where(tmp_path: Path) -> None:
    with box(tmp_path) as it:
        it.set_as(NAME, TEXT, "boss")
        it.set(BEEPER, ber.integer(1), SECRETS["writes"], "127.0.0.2")
    text, order = it.bus.heard
    assert (text["type"], text["what"]) == ("audit", "upsIdentName='mine'")
    assert text["origin"] == {"user": "snmp user boss", "address": "127.0.0.1"}
    assert (order["type"], order["command"]) == ("command", Command.BEEPER_OFF.value)
    assert order["origin"] == {"user": "snmp community writes", "address": "127.0.0.2"}


def test_rows_name_ipv4_as_people_do_where_ipv6_is_served_too(tmp_path: Path) -> None:
    with box(tmp_path) as it:
        it.set(NAME, TEXT, SECRETS["writes"], "::ffff:127.0.0.2")
        it.set(BEEPER, ber.integer(1), SECRETS["writes"], "::ffff:127.0.0.2")
        it.set(BEEPER, TEXT, SECRETS["writes"], "::ffff:127.0.0.2")
        it.rows()
        asked = [one["type"] for one in it.bus.heard]
    assert asked == ["audit", "command", "audit"]
    assert {one["origin"]["address"] for one in it.bus.heard} == {"127.0.0.2"}


def test_a_set_that_is_refused_leaves_a_row_with_who_what_and_why(tmp_path: Path) -> None:
    with box(tmp_path) as it:
        it.set(NAME, TEXT, COMMUNITY)
        it.set_as(NAME, TEXT, "ops")
        it.set_as(BEEPER, TEXT, "boss")
        it.set(DOWN, ber.integer(60), SECRETS["writes"], "127.0.0.2")
        it.set("1.3.6.1.4.1.1.1.0", TEXT, SECRETS["writes"], "127.0.0.2")
        it.rows()
        asked = [(one["type"], one["what"], one["why"], *one["origin"].values()) for one in it.bus.heard]
    assert asked == [
        ("audit", "upsIdentName", "noAccess", "snmp community reads", "127.0.0.1"),
        ("audit", "upsIdentName", "noAccess", "snmp user ops", "127.0.0.1"),
        ("audit", "upsConfigAudibleStatus", "wrongType", "snmp user boss", "127.0.0.1"),
        ("audit", "upsShutdownAfterDelay", "noAccess", "snmp community writes", "127.0.0.2"),
    ], "the last but one sender has left his row already"


@pytest.mark.parametrize(("level", "rows"), [(usm.AUTH, 1), (usm.NO_AUTH, 0)])
def test_a_set_below_the_users_level_leaves_a_row_if_it_is_signed(tmp_path: Path, level: int, rows: int) -> None:
    with box(tmp_path, allow_shutdown=True) as it:
        assert it.set_as(DOWN, ber.integer(60), "boss", level=level) == (v3.AUTHORIZATION_ERROR, 0)
        it.rows()
        asked = [(one["type"], one["what"], one["why"], *one["origin"].values()) for one in it.bus.heard]
    row = ("audit", "upsShutdownAfterDelay", "authorizationError", "snmp user boss", "127.0.0.1")
    assert asked == [row] * rows, "what is not signed anybody can have said"


def test_what_the_core_refuses_has_its_row_there_and_no_second_one(tmp_path: Path) -> None:
    with box(tmp_path) as it:
        it.bus.fails = BusError("this UPS is busy")
        it.set_as(BEEPER, ber.integer(1), "boss")
        it.bus.fails = None
        it.rows()
        assert it.bus.heard == []


def test_refused_sets_flood_neither_the_log_nor_the_history(tmp_path: Path) -> None:
    with box(tmp_path) as it:
        now_s = it.agent._started_s
        it.agent._clock = lambda: now_s
        for hour in range(2):
            for n in range(3000):
                now_s += 0.01
                it.set(NAME, TEXT, COMMUNITY, f"127.0.1.{n % 250}")
            it.rows()
            assert 0 < len(it.bus.heard) <= (hour + 1) * (refusals.SENDERS_LIMIT + 1)
            now_s += 3600.0
        assert it.agent._setter._queue.qsize() == 0 and len(it.agent.refusals.senders) <= refusals.SENDERS_LIMIT + 1
        later = [one["why"] for one in it.bus.heard[refusals.SENDERS_LIMIT + 1 :]]
        assert any(why.endswith(" others had left no row") for why in later)


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        (Unreachable("no core"), upsset.RESOURCE_UNAVAILABLE),
        (Unanswered("timed out"), upsset.GEN_ERR),
        (BusError("this UPS is busy"), upsset.INCONSISTENT_VALUE),
    ],
)
def test_an_order_that_the_core_did_not_get_is_another_error_than_one_it_refused(
    tmp_path: Path, fails: BusError, error: int
) -> None:
    with box(tmp_path) as it:
        it.bus.fails = fails
        assert it.set_as(BEEPER, ber.integer(1), "boss") == (error, 1)
        v1 = request(ber.SET, BEEPER, value=ber.integer(1), community=SECRETS["writes"], version=ber.V1)
        data = it.agent.answer(v1, "127.0.0.2")
        assert data is not None
        answered = reply(data)
        in_version_1 = pdu.BAD_VALUE if error == upsset.INCONSISTENT_VALUE else upsset.GEN_ERR
        assert (answered.error, answered.index) == (in_version_1, 1)


@pytest.mark.parametrize(("allow", "error"), [(False, upsset.NO_ACCESS), (True, 0)])
def test_the_output_needs_a_switch_of_its_own(tmp_path: Path, allow: bool, error: int) -> None:
    with box(tmp_path, allow_shutdown=allow) as it:
        assert it.set_as(DOWN, ber.integer(60), "boss")[0] == error
        assert [one.get("command") for one in it.bus.heard] == ([Command.SHUTDOWN_RETURN.value] if allow else [])


def test_each_community_of_a_source_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def spy(ours: bytes, theirs: bytes) -> bool:
        compared.append(theirs)
        return hmac.compare_digest(ours, theirs)

    monkeypatch.setattr(gate, "hmac", type("Spy", (), {"compare_digest": staticmethod(spy)}))
    rows = tuple(config.Community(label=label, sources=LOOPBACK) for label in ("a", "b", "c"))
    made = gate.Gate(config.Snmp(communities=rows), {"a": "first", "b": "second", "c": "third"})
    assert made.refusal("127.0.0.1", 0.0) is None
    found = made.community("127.0.0.1", b"first")
    assert found is not None and found.label == "a" and compared == [b"first"] * 3


# --- who is told ------------------------------------------------------------------------------------------------


def receivers(*peers: Peer) -> tuple[config.TrapReceiver, ...]:
    return tuple(
        config.TrapReceiver(name=f"nms-{n}", address="127.0.0.1", port=peer.address[1], label="nms")
        for n, peer in enumerate(peers)
    )


@pytest.mark.parametrize("told", [False, True])
def test_wrong_communities_and_keys_are_told_only_if_that_is_wanted(tmp_path: Path, told: bool) -> None:
    peer = Peer()
    with box(tmp_path, auth_traps=told, receivers=receivers(peer)) as it:
        notifier = it.face.notifier
        assert notifier is not None
        turns = []
        now_s = it.agent._started_s
        for wrong in (lambda: it.set(NAME, TEXT, "wrong"), lambda: it.set_as(NAME, TEXT, "ops", WRONG_USER)):
            for _ in range(50):
                wrong()
            for _ in range(2):
                now_s += 6.0
                notifier.turn(now_s)
                turns.append([trap for trap, _ in peer.heard() if trap == AUTHENTICATION_FAILURE])
        enabled = it.agent.answer(request(ber.GET, "1.3.6.1.2.1.11.30.0"), "127.0.0.1")
    assert turns == [[AUTHENTICATION_FAILURE] if told else [], []] * 2
    assert enabled is not None and whole(reply(enabled).bindings[0][2]) == (1 if told else 2)
    peer.sock.close()


def test_several_receivers_get_the_same(tmp_path: Path) -> None:
    peers = [Peer() for _ in range(3)]
    with box(tmp_path, receivers=receivers(*peers)) as it:
        assert it.face.notifier is not None
        it.face.notifier.turn(it.agent._started_s + 1.0)
        cold = ".".join(map(str, (*notices.GENERIC, notices.COLD_START)))
        assert [[trap for trap, _ in peer.heard()] for peer in peers] == [[cold]] * 3
    for peer in peers:
        peer.sock.close()


def test_each_receiver_is_told_only_while_the_way_to_it_has_a_carrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, asked = Peer(), []

    def leads_to(_: netif.Interfaces, host: str) -> bool:
        asked.append(host)
        return len(asked) > 1

    monkeypatch.setattr(netif.Interfaces, "leads_to", leads_to)
    with box(tmp_path, receivers=receivers(peer)) as it:
        assert it.face.notifier is not None
        it.face.notifier.turn(it.agent._started_s + 1.0)
        assert peer.heard() == [] and asked == ["127.0.0.1"]
        it.face.notifier.turn(it.agent._started_s + 2.0)
        assert len(peer.heard()) == 1
    peer.sock.close()


def test_each_start_is_on_the_disk_before_the_first_answer(tmp_path: Path) -> None:
    for boots in (1, 2):
        with box(tmp_path) as it:
            assert it.agent.responder is not None and it.agent.responder.engine.boots == boots
            kept = json.loads(engineid.path(tmp_path / "faces" / "snmp").read_bytes())
            assert kept["boots"] == boots


class WaitingBus(Bus):
    """One that has news now and then."""

    def wait(self, version: int, _: float) -> int:
        time.sleep(0.01)
        return version + 1


def only_receivers(folder: Path, *peers: Peer) -> config.Config:
    """Nobody may ask; the port that would be listened on is taken by the first peer."""
    wanted = config.Snmp(listen=f"127.0.0.1:{peers[0].address[1]}", receivers=receivers(*peers))
    return config.Config(state_dir=str(folder), snmp=wanted)


def test_with_receivers_alone_they_are_told_and_no_port_is_opened(tmp_path: Path) -> None:
    peer, stop = Peer(), threading.Event()
    settings = only_receivers(tmp_path, peer)
    assert faces._is_on(settings, faces.SNMP_FACE)
    vault.write(faces.secrets_path(settings), SECRETS)
    thread = faces._start_snmp(settings, WaitingBus(), stop)  # type: ignore[arg-type]
    end_s, heard = time.monotonic() + 5.0, []
    while not heard and time.monotonic() < end_s:
        heard = [trap for trap, _ in peer.heard()]
        time.sleep(0.01)
    stop.set()
    thread.join(2.0)
    assert heard == [".".join(map(str, (*notices.GENERIC, notices.COLD_START)))]
    assert thread.name == "notify" and not thread.is_alive()
    peer.sock.close()


def test_with_receivers_alone_that_have_no_secret_nothing_starts_and_says_why(tmp_path: Path) -> None:
    peer = Peer()
    with pytest.raises(ConfigError, match="receiver nms-0 .*ridethrough secret set nms"):
        snmpface.start(only_receivers(tmp_path, peer), {}, Bus())  # type: ignore[arg-type]
    peer.sock.close()


def test_with_nobody_to_ask_or_tell_the_face_is_off() -> None:
    assert not faces._is_on(config.Config(snmp=config.Snmp()), faces.SNMP_FACE)
    assert not faces._is_on(config.Config(), faces.SNMP_FACE)


@pytest.mark.parametrize(
    "who",
    [
        {"communities": (config.Community(label="reads", sources=LOOPBACK),)},
        {"users": (config.User(name="ops", sources=LOOPBACK),)},
    ],
)
def test_who_may_ask_but_has_no_secret_keeps_nobody_from_being_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, who: dict[str, Any]
) -> None:
    peer = Peer()
    settings = config.Config(state_dir=str(tmp_path), snmp=config.Snmp(receivers=receivers(peer), **who))
    face = snmpface.start(settings, {"nms": SECRETS["nms"]}, Bus())  # type: ignore[arg-type]
    assert not face.listens and face.agent._sock is None and "nothing listens" in caplog.text
    assert told(face) and [trap for trap, _ in peer.heard()] == [COLD_START]
    peer.sock.close()
    alone = config.Config(state_dir=str(tmp_path), snmp=config.Snmp(**who))
    with pytest.raises(ConfigError, match="nothing listens"):
        snmpface.start(alone, {}, Bus())  # type: ignore[arg-type]


def told(face: snmpface.Face) -> bool:
    """One turn of what tells the receivers, if there is such a thing."""
    if face.notifier is None:
        return False
    face.notifier.turn(face.agent._started_s + 1.0)
    for one in face.notifier.receivers:
        one.close()
    return True


def test_a_port_that_is_taken_keeps_nobody_from_being_told_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    peer, stop = Peer(), threading.Event()
    taken = only_receivers(tmp_path, peer)
    assert taken.snmp is not None
    where, reads = taken.snmp.listen, (config.Community(label="reads", sources=LOOPBACK),)
    settings = replace(taken, snmp=replace(taken.snmp, communities=reads))
    face = snmpface.start(settings, SECRETS, Bus())  # type: ignore[arg-type]
    assert told(face) and [trap for trap, _ in peer.heard()] == [COLD_START]
    tries: list[int] = []
    bind = face.agent.bind

    def counted() -> None:
        tries.append(1)
        if len(tries) == 2:
            peer.sock.close()
        bind()

    face.agent.bind = counted  # type: ignore[method-assign]
    thread = threading.Thread(target=face.answer, args=(stop, 0.0))
    thread.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as manager:
        manager.settimeout(0.1)
        heard = b""
        while not heard and thread.is_alive():
            manager.sendto(request(ber.GET, NAME), ("127.0.0.1", int(where.rpartition(":")[2])))
            with suppress(OSError):
                heard = manager.recv(4096)
    assert heard and reply(heard).error == 0 and len(tries) == 2
    stop.set()
    thread.join(2.0)
    assert not thread.is_alive()
    said = [r.message for r in caplog.records if "listens" in r.message]
    assert said == [
        f'snmp: [snmp] listen = "{where}": Address already in use; another program listens there (snmpd?), '
        "stop it or take another port (tried again)",
        f"snmp listens on {where.replace(':', ' port ')}",
    ]


@pytest.mark.parametrize("data", [b"[" * 30_000, b"[]", b"{"])
@pytest.mark.parametrize("name", ["engine.json", "users.json", "texts.json", "notify.json"])
def test_a_file_that_is_no_object_or_nested_without_an_end_is_damage_and_no_crash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, data: bytes
) -> None:
    peer, folder = Peer(), tmp_path / "faces" / "snmp"
    engineid.write_keys(folder, {"ops": engineid.made(engineid.engine_id(folder), "sha256", SIGN)})
    vault.write_private(folder / name, data)
    who = {
        "communities": (config.Community(label="reads", sources=LOOPBACK),),
        "users": (config.User(name="ops", sources=LOOPBACK),),
        "receivers": receivers(peer),
    }
    settings = config.Config(state_dir=str(tmp_path), snmp=config.Snmp(listen="127.0.0.1:0", **who))
    face = snmpface.start(settings, SECRETS, Bus())  # type: ignore[arg-type]
    assert f"{name}: damaged" in caplog.text and told(face)
    assert [trap for trap, _ in peer.heard()] == [COLD_START]
    assert face.agent.answer(request(ber.GET, NAME), "127.0.0.1") is not None
    for sock in (face.agent._sock, peer.sock):
        assert sock is not None
        sock.close()


@pytest.mark.parametrize("name", ["engine.json", "users.json"])
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_keys_that_others_may_read_are_not_used_and_the_remedy_is_said(tmp_path: Path, name: str, mode: int) -> None:
    engineid.write_keys(tmp_path, {"ops": engineid.made(engineid.engine_id(tmp_path), "sha256", SIGN)})
    (tmp_path / name).chmod(mode)
    with pytest.raises(ConfigError, match=f"others may read it; mend with: chmod 600 .*{name}"):
        engineid.keys(tmp_path)
        engineid.started(tmp_path)


def test_secrets_that_are_nested_without_an_end_are_damage_and_no_crash(tmp_path: Path) -> None:
    vault.write_private(tmp_path / "secrets.json", b"[" * 30_000)
    with pytest.raises(ConfigError, match="damaged"):
        vault.read(tmp_path / "secrets.json")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("engine.json", "version 3 is off: .*engine.json: damaged"),
        ("users.json", "version 3 is off: .*users.json: damaged"),
        ("", "user ops has no keys yet; give him some with: ridethrough snmp-user ops$"),
        ("weak", "user ops: md5 and des are off"),
        ("unwritable", "version 3 is off: .*engine.json: Is a directory; version 3 needs it and stays off"),
        ("informs", "user ops: informs need his keys in another form; .*ridethrough snmp-user ops --informs$"),
    ],
)
def test_why_a_receiver_of_version_3_is_off_is_said_with_the_remedy_that_helps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, said: str
) -> None:
    peer, folder = Peer(), tmp_path / "faces" / "snmp"
    if name:
        way = "md5" if name == "weak" else "sha256"
        engineid.write_keys(folder, {"ops": engineid.made(engineid.engine_id(folder), way, SIGN)})
    if name.endswith(".json"):
        vault.write_private(folder / name, b"{")
    if name == "unwritable":
        (folder / "engine.json.new").mkdir()  # in the place of the file that would be renamed
    by_user = config.TrapReceiver(
        name="n", address="127.0.0.1", port=peer.address[1], version="3", user="ops", inform=name == "informs"
    )
    settings = config.Config(
        state_dir=str(tmp_path),
        snmp=config.Snmp(
            listen="127.0.0.1:0",
            users=(config.User(name="ops", level="auth", sources=LOOPBACK),),
            receivers=(by_user, *receivers(peer)),
        ),
    )
    face = snmpface.start(settings, SECRETS, Bus())  # type: ignore[arg-type]
    (line,) = [r.message for r in caplog.records if "receiver n " in r.message]
    assert re.match(f"snmp: receiver n is off: {said}", line)
    assert told(face) and len(peer.heard()) == 1
    assert name or not engineid.path(folder).exists(), "without keys no start is counted"
    for sock in (face.agent._sock, peer.sock):
        if sock is not None:
            sock.close()
