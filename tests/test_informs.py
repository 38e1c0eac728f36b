"""Informs of version 3: whose engine they are signed for, and whom they believe about it.

The receiver here is a whole engine on a socket, with keys of its own; a forger says unsigned what he likes.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from test_notices import dotted
from test_usm import CRYPT, SIGN

from agent import ber, engineid, mib, notices, usm, v3
from agent.ber import Header, Pdu
from agent.notices import Notice
from agent.receiver import CANDIDATE_EVERY_S, INFORM_AGAIN_S, INFORM_TRIES, Receiver

OURS = bytes.fromhex("8000000005aaaaaaaaaaaaaaaaaaaaaaaa")
FIRST, SECOND, THIRD = (bytes.fromhex("8000000005") + bytes((n,)) * 8 for n in (1, 2, 3))
ROW = engineid.made(OURS, "sha256", SIGN, "aes128", CRYPT, informs=True)
OPS = engineid.user("ops", "auth-priv", False, ROW, OURS, False)
TRAP = ber.oid_body(notices.TRAP_OID)


def counted(name: str) -> bytes:
    """What a report holds."""
    return ber.binding(ber.oid((*v3.REPORTS[name], 0)), ber.integer(1, ber.COUNTER32))


UNKNOWN_ENGINE = counted("usmStatsUnknownEngineIDs")


def report(message: v3.Message, engine: bytes, bindings: bytes = UNKNOWN_ENGINE, tag: int = ber.REPORT) -> bytes:
    """What a forger who has seen a message can say to it."""
    prefix = ber.tlv(ber.OCTET_STRING, engine) + ber.tlv(ber.OCTET_STRING, b"")
    scoped = ber.message(prefix, tag, ber.integer(0), 0, 0, bindings)
    return v3.seal(message.msg_id, usm.NO_AUTH, engine, 1, 0, None, b"", scoped, usm.Salts())


class Station:
    """A receiver of informs, its forger, and who sends to them; time is a number."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.now_s = 1000.0
        self.install(FIRST)
        self.deaf = False
        self.forged: list[bytes] = []  # engineIDs that the forger names, one after the other; the last one for ever
        self.lost: list[bytes] = []  # engineIDs a message for which is lost on its way, once
        self.asked: list[bytes] = []  # engineIDs of all messages that came
        self.got: list[str] = []  # traps that were confirmed
        self.receiver = Receiver(
            ("127.0.0.1", int(self.sock.getsockname()[1])), ber.V3, inform=True, user=OPS,
            engine=mib.Engine(OURS, 1, 0.0), for_engine=engineid.for_engine(OPS, ROW),
        )  # fmt: skip

    def install(self, engine: bytes, boots: int = 1) -> None:
        """A new program in the old place."""
        user = engineid.for_engine(OPS, ROW)(engine)
        self.responder = v3.Responder(mib.Engine(engine, boots, self.now_s), {"ops": user})

    def close(self) -> None:
        self.sock.close()
        self.receiver.close()

    def make(self, header: Header, pdu: Pdu, _room: int, _user: usm.User) -> bytes:
        assert pdu.tag == ber.INFORM
        self.got += [dotted(body) for name, _, body in ber.values(pdu.bindings) if name == TRAP]
        return ber.message(header.prefix, ber.RESPONSE, pdu.request_id, 0, 0, pdu.bindings)

    def hear(self) -> None:
        while True:
            try:
                data, peer = self.sock.recvfrom(4096)
            except BlockingIOError:
                return
            message = v3.read(data)
            self.asked.append(message.engine_id)
            if self.forged:
                forged = self.forged[0] if len(self.forged) == 1 else self.forged.pop(0)
                self.sock.sendto(report(message, forged), peer)
            if message.engine_id in self.lost:
                self.lost.remove(message.engine_id)
            elif not self.deaf:
                self.sock.sendto(self.responder.answer(data, self.now_s, lambda _: True, 1472, self.make), peer)

    def tell(self, number: int) -> None:
        """A notification of a kind of its own is to be sent."""
        self.receiver.put([Notice((*notices.TRAPS, number), 0, b"")])

    def turn(self, seconds: float = 1.0) -> list[str]:
        """Time passes; the last arcs of the traps that were confirmed in it."""
        self.got, self.asked = [], []
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            for _ in range(6):
                self.receiver.turn(self.now_s)
                self.hear()
            self.now_s += 0.5
        return [trap.rpartition(".")[2] for trap in self.got]


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station()
    yield made
    made.close()


def test_who_is_met_first_is_asked_who_he_is_and_told_at_once(station: Station) -> None:
    station.now_s += 3 * v3.TIME_WINDOW_S
    station.tell(1)
    assert station.turn() == ["1"] and station.asked == [b"", FIRST] and not station.receiver.busy
    station.tell(2)
    assert station.turn() == ["2"] and station.asked == [FIRST]


def test_a_receiver_that_was_installed_anew_is_found_again(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.install(SECOND)
    station.tell(2)
    assert station.turn() == ["2"] and station.asked == [FIRST, SECOND]
    station.tell(3)
    assert station.turn() == ["3"] and station.asked == [SECOND]


def test_a_new_engine_whose_message_was_lost_is_asked_again_with_the_next_try(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.install(SECOND)
    station.lost = [SECOND]
    station.tell(2)
    assert station.turn(INFORM_AGAIN_S) == []
    assert station.turn(1.0) == ["2"] and station.asked == [FIRST, SECOND]


def test_a_forger_makes_nobody_forget_whom_he_knows(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.forged = [SECOND]
    for number in (2, 3):
        station.tell(number)
        assert station.turn() == [str(number)]
    station.deaf = True
    station.tell(4)
    assert station.turn(2 * INFORM_AGAIN_S) == [] and station.asked.count(FIRST) == 2
    station.deaf = False
    assert station.turn(INFORM_AGAIN_S) == ["4"]
    station.forged = []
    station.tell(5)
    assert station.turn() == ["5"] and station.asked == [FIRST]


def test_a_forger_takes_none_of_the_four_tries(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.forged, station.deaf = [SECOND], True
    station.tell(2)
    station.turn(3 * INFORM_TRIES * INFORM_AGAIN_S)
    assert station.asked == [FIRST, SECOND] * INFORM_TRIES and not station.receiver.busy


@pytest.mark.parametrize("level", [usm.AUTH, usm.AUTH_PRIV])
@pytest.mark.parametrize("key", [bytes(32), b"", None], ids=["another key", "no key", "cut"])
def test_a_confirmation_that_is_not_signed_with_the_key_is_none(
    station: Station, level: int, key: bytes | None
) -> None:
    station.tell(1)
    station.turn()
    station.deaf = True
    station.tell(2)
    station.receiver.turn(station.now_s)
    data, peer = station.sock.recvfrom(4096)
    msg_id, theirs = v3.read(data).msg_id, engineid.for_engine(OPS, ROW)(FIRST)
    prefix = ber.tlv(ber.OCTET_STRING, FIRST) + ber.tlv(ber.OCTET_STRING, b"")
    scoped = ber.message(prefix, ber.RESPONSE, ber.integer(msg_id), 0, 0, b"")

    def confirmation(user: usm.User) -> bytes:
        return v3.seal(msg_id, level, FIRST, 1, 0, user, b"ops", scoped, usm.Salts())

    forged = confirmation(theirs if key is None else replace(theirs, auth_key=key))
    if key is None:
        at = v3.read(forged).signature_at
        forged = forged[:at] + bytes(24) + forged[at + 24 :]
    station.sock.sendto(forged, peer)
    station.receiver.turn(station.now_s)
    assert station.receiver.busy
    station.sock.sendto(confirmation(theirs), peer)
    station.receiver.turn(station.now_s)
    assert not station.receiver.busy


def test_of_new_engines_only_one_a_minute_is_tried(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.forged, station.deaf = [bytes.fromhex("8000000005") + bytes((n,)) * 8 for n in range(20, 200)], True
    station.receiver.put([Notice((*notices.TRAPS, n), 0, b"") for n in range(2, 30)])
    station.turn(3 * CANDIDATE_EVERY_S - 1.0)
    assert len(set(station.asked) - {FIRST}) == 3 and len(station.asked) < 3 * CANDIDATE_EVERY_S / INFORM_AGAIN_S + 4


def test_a_forger_at_the_first_meeting_is_not_believed_for_long(station: Station) -> None:
    station.forged = [SECOND, THIRD, FIRST]
    station.tell(1)
    assert station.turn(3 * INFORM_AGAIN_S) == ["1"]
    station.forged = []
    station.tell(2)
    assert station.turn() == ["2"] and station.asked == [FIRST]


def test_a_receiver_that_is_a_manager_too_says_that_it_does_not_know_the_user_of_another_engine(
    station: Station,
) -> None:
    station.tell(1)
    station.turn()
    station.install(SECOND)
    station.deaf = True
    station.tell(2)
    station.receiver.turn(station.now_s)
    data, peer = station.sock.recvfrom(4096)
    station.sock.sendto(report(v3.read(data), SECOND, counted("usmStatsUnknownUserNames")), peer)
    station.deaf = False
    assert station.turn() == ["2"] and station.asked == [SECOND]


@pytest.mark.parametrize(
    ("engine", "bindings", "tag"),
    [
        (OURS, UNKNOWN_ENGINE, ber.REPORT),  # our own key must sign nothing that others have chosen
        (b"four", UNKNOWN_ENGINE, ber.REPORT),
        (bytes(33), UNKNOWN_ENGINE, ber.REPORT),
        (b"", UNKNOWN_ENGINE, ber.REPORT),
        (SECOND, UNKNOWN_ENGINE, ber.RESPONSE),
        (SECOND, b"", ber.REPORT),
        (SECOND, counted("usmStatsWrongDigests"), ber.REPORT),
        (SECOND, counted("usmStatsUnknownEngineIDs") * 2, ber.REPORT),
        (FIRST, counted("usmStatsUnknownUserNames"), ber.REPORT),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_what_names_no_new_engine_rightly_is_not_tried(
    station: Station, engine: bytes, bindings: bytes, tag: int, known: bool
) -> None:
    if known:
        station.tell(1)
        station.turn()
    station.deaf = True
    station.tell(2)
    station.asked = []
    station.receiver.turn(station.now_s)
    data, peer = station.sock.recvfrom(4096)
    station.sock.sendto(report(v3.read(data), engine, bindings, tag), peer)
    station.turn(2.0)
    assert station.asked == ([FIRST] if engine == FIRST and not known else [])


def test_a_report_to_another_message_is_not_believed(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.deaf = True
    station.tell(2)
    station.receiver.turn(station.now_s)
    data, peer = station.sock.recvfrom(4096)
    message = v3.read(data)
    station.sock.sendto(report(message._replace(msg_id=message.msg_id ^ 1), SECOND), peer)
    station.turn(2.0)
    assert station.asked == []


@pytest.mark.parametrize("level", [usm.AUTH, usm.AUTH_PRIV])
def test_a_confirmation_that_is_not_signed_with_the_right_key_is_not_believed(station: Station, level: int) -> None:
    station.tell(1)
    station.turn()
    station.deaf = True
    station.tell(2)
    station.receiver.turn(station.now_s)
    data, peer = station.sock.recvfrom(4096)
    message, right = v3.read(data), engineid.for_engine(OPS, ROW)(FIRST)
    prefix = ber.tlv(ber.OCTET_STRING, FIRST) + ber.tlv(ber.OCTET_STRING, b"")
    scoped = ber.message(prefix, ber.RESPONSE, ber.integer(message.msg_id), 0, 0, b"")  # our msgID is the request-id
    wrong = replace(right, auth_key=bytes(len(right.auth_key)))
    for who in (wrong, right):
        said = v3.seal(message.msg_id, level, FIRST, 1, 0, who, b"ops", scoped, usm.Salts())
        station.sock.sendto(said, peer)
        station.receiver.turn(station.now_s)
        assert station.receiver.busy is (who is wrong)


# --- the time of the other engine -------------------------------------------------------------------------------


def test_the_time_of_a_known_receiver_runs_on(station: Station) -> None:
    for number in (1, 2, 3):
        station.tell(number)
        assert station.turn() == [str(number)]
        assert station.asked == ([b"", FIRST] if number == 1 else [FIRST])
        station.now_s += 3 * v3.TIME_WINDOW_S


@pytest.mark.parametrize(("boots", "later_s"), [(2, 0.0), (1, 3 * v3.TIME_WINDOW_S), (2, 3 * v3.TIME_WINDOW_S)])
def test_a_receiver_that_was_started_again_says_its_time_signed(station: Station, boots: int, later_s: float) -> None:
    station.tell(1)
    station.turn()
    station.now_s += later_s
    station.install(FIRST, boots)
    station.tell(2)
    assert station.turn() == ["2"] and station.asked == [FIRST, FIRST]
    station.tell(3)
    assert station.turn() == ["3"] and station.asked == [FIRST]


def test_a_new_engine_with_another_time_than_its_report_says_is_told_all_the_same(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.install(SECOND, boots=7)
    station.forged = [SECOND]  # with boots 1
    station.tell(2)
    assert station.turn() == ["2"] and station.asked == [FIRST, SECOND, SECOND]


def test_another_time_that_is_not_signed_is_not_believed(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.deaf = True
    station.tell(2)
    station.receiver.turn(station.now_s)
    data, peer = station.sock.recvfrom(4096)
    late = counted("usmStatsNotInTimeWindows")
    station.sock.sendto(report(v3.read(data), FIRST, late), peer)
    assert station.turn(2.0) == [] and station.asked == []
    station.deaf = False
    assert station.turn(INFORM_AGAIN_S) == ["2"] and station.asked == [FIRST]


def test_a_signed_report_of_another_kind_waits_for_the_next_try(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.deaf = True
    station.tell(2)
    station.receiver.turn(station.now_s)
    data, peer = station.sock.recvfrom(4096)
    theirs, salts = engineid.for_engine(OPS, ROW)(FIRST), usm.Salts()
    prefix = ber.tlv(ber.OCTET_STRING, FIRST) + ber.tlv(ber.OCTET_STRING, b"")
    bindings = counted("snmpUnknownContexts")
    scoped = ber.message(prefix, ber.REPORT, ber.integer(0), 0, 0, bindings)
    said = v3.seal(v3.read(data).msg_id, usm.AUTH_PRIV, FIRST, 1, 0, theirs, b"ops", scoped, salts)
    station.sock.sendto(said, peer)
    assert station.turn(INFORM_AGAIN_S) == [] and station.asked == []
    assert station.turn(1.0) == [] and station.asked == [FIRST]


def test_a_receiver_that_never_finds_the_time_right_has_four_tries(station: Station) -> None:
    station.tell(1)
    station.turn()
    station.responder = v3.Responder(
        mib.Engine(FIRST, v3.BOOTS_LIMIT, 0.0), {"ops": engineid.for_engine(OPS, ROW)(FIRST)}
    )
    station.tell(2)
    assert station.turn(4 * INFORM_AGAIN_S) == [] and len(station.asked) == INFORM_TRIES
