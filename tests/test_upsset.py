"""What managers may set: the right error at the right object, all or nothing, and an order for the UPS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snmp_kit import COMMUNITY, ON_LINE, UPS, Net, Stage, since, view

from agent import ber, mib2, settexts, upsset
from agent.drivers.simulator import Simulator
from agent.mib import INT_MAX
from agent.model import Command, Condition
from agent.pdu import TOO_BIG
from agent.pretend import Scene, Unit
from agent.upsmib import ORDER_WITHIN_S
from agent.upsset import Refused, Writer

ALL = frozenset(Command) - {Command.SIMULATE}
TEST, LOCK, DOWN = f"{UPS}.7.1.0", f"{UPS}.7.2.0", f"{UPS}.8.2.0"
START, REBOOT, RESTART = f"{UPS}.8.3.0", f"{UPS}.8.4.0", f"{UPS}.8.5.0"
BEEPER, NAME, CONTACT = f"{UPS}.9.8.0", f"{UPS}.1.5.0", "1.3.6.1.2.1.1.4.0"
QUICK, DEEP, ABORT = (tuple(int(a) for a in f"{UPS}.7.7.{n}".split(".")) for n in (4, 5, 2))


class Desk:
    """An agent that lets its one community write, and what came of it."""

    def __init__(self, folder: Path, *, commands: frozenset[Command] = ALL, allow_shutdown: bool = True) -> None:
        self.orders: list[tuple[Command, dict[str, Any], str, str]] = []
        self.audits: list[tuple[str, ...]] = []
        self.saved: dict[str, str] = {}
        self.refuses: Refused | None = None
        self.disk_full = False
        self.writer = Writer({}, self.save, self.order, self.audit, allow_shutdown=allow_shutdown)
        shown, net = view(ON_LINE, commands=commands), Net(folder).folder
        self.stage = Stage(shown, net, access="read-write", writer=self.writer)

    def audit(self, what: str, who: str, host: str, why: str) -> None:
        self.audits.append((what, who, host, why))

    def save(self, texts: Mapping[str, str]) -> None:
        if self.disk_full:
            raise OSError("no space")
        self.saved = dict(texts)

    def order(self, command: Command, args: Mapping[str, Any], who: str, host: str) -> None:
        if self.refuses:
            raise self.refuses
        self.orders.append((command, dict(args), who, host))

    def set(self, *pairs: tuple[str, Any], version: int = ber.V2C) -> tuple[int, int]:
        bindings = b"".join(ber.binding(ber.oid(dotted(name)), encoded(value)) for name, value in pairs)
        prefix = ber.integer(version) + ber.tlv(ber.OCTET_STRING, COMMUNITY.encode())
        reply = self.stage.ask(ber.message(prefix, ber.SET, ber.integer(5), 0, 0, bindings))
        assert reply is not None
        return reply.error, reply.index

    def get(self, name: str) -> Any:
        found = self.stage.walk(name.rpartition(".")[0])[name]
        return int.from_bytes(found[1], "big", signed=True) if found[0] == ber.INTEGER else found[1]


def dotted(name: str) -> ber.Oid:
    return tuple(int(arc) for arc in name.split("."))


def encoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return ber.integer(value)
    return ber.oid(value) if isinstance(value, tuple) else ber.tlv(ber.OCTET_STRING, value.encode())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_texts_are_kept_and_leave_an_audit_row(desk: Desk) -> None:
    assert desk.set((CONTACT, "ops@example.net"), (NAME, "rack 7")) == (0, 0)
    assert desk.get(CONTACT) == b"ops@example.net" and desk.get(NAME) == b"rack 7"
    assert desk.saved == {"sysContact": "ops@example.net", "upsIdentName": "rack 7"}
    assert desk.audits == [("sysContact='ops@example.net' upsIdentName='rack 7'", "community tests", "127.0.0.1", "")]


def test_every_text_that_can_be_set_is_read_back_and_outlives_a_restart(desk: Desk, tmp_path: Path) -> None:
    texts = {s.name: name for name, s in upsset.SETTINGS.items() if s.tag == ber.OCTET_STRING}
    assert len(texts) == 5 and {*texts, "upsAutoRestart"} == set(upsset.KEPT_NAMES)
    for name, body in texts.items():
        where = ".".join(map(str, ber.arcs(body)))
        assert desk.set((where, name)) == (0, 0) and desk.get(where) == name.encode()
    assert desk.set((RESTART, 2)) == (0, 0)
    settexts.write(tmp_path, desk.saved)
    assert settexts.read(tmp_path) == {**{name: name for name in texts}, "upsAutoRestart": "off"}


def test_a_test_needs_the_spin_lock_in_the_same_request_and_moves_it(desk: Desk) -> None:
    assert desk.set((TEST, QUICK)) == (upsset.INCONSISTENT_VALUE, 1)
    assert desk.set((TEST, QUICK), (LOCK, 2)) == (upsset.INCONSISTENT_VALUE, 2)
    assert desk.set((LOCK, 1), (LOCK, 2), (TEST, QUICK)) == (upsset.INCONSISTENT_VALUE, 2)
    assert desk.orders == [] and desk.get(LOCK) == 1
    assert desk.set((LOCK, 1), (TEST, QUICK)) == (0, 0)
    assert desk.orders == [(Command.TEST_QUICK, {}, "community tests", "127.0.0.1")]
    assert desk.get(LOCK) == 2 and desk.get(TEST) == ber.oid_body(QUICK)
    desk.stage.now_s += 11.0
    assert desk.set((LOCK, 1), (TEST, QUICK)) == (upsset.INCONSISTENT_VALUE, 1)


def test_a_second_test_is_refused_and_the_running_one_can_be_aborted(desk: Desk) -> None:
    desk.stage.view = view(ON_LINE, since(Condition.TEST_RUNNING), commands=ALL)
    assert desk.set((TEST, DEEP), (LOCK, 1)) == (upsset.INCONSISTENT_VALUE, 1)
    assert desk.set((TEST, ABORT), (LOCK, 1)) == (0, 0)
    assert [order[0] for order in desk.orders] == [Command.TEST_STOP]


def test_a_test_runs_from_its_order_on_though_the_unit_does_not_show_it_yet(desk: Desk) -> None:
    assert desk.set((LOCK, 1), (TEST, QUICK)) == (0, 0)
    desk.stage.now_s += ORDER_WITHIN_S - 1.0
    assert desk.set((LOCK, 2), (TEST, DEEP)) == (upsset.INCONSISTENT_VALUE, 2)
    assert desk.set((LOCK, 2), (TEST, ABORT)) == (0, 0)
    assert desk.set((LOCK, 3), (TEST, DEEP)) == (0, 0), "it was aborted"
    desk.stage.now_s += ORDER_WITHIN_S + 0.1
    assert desk.set((LOCK, 4), (TEST, ABORT)) == (upsset.INCONSISTENT_VALUE, 2)
    assert desk.set((LOCK, 4), (TEST, QUICK)) == (0, 0), "the unit never showed one"
    desk.stage.now_s += 1.0
    desk.stage.view = view(ON_LINE, since(Condition.TEST_RUNNING), commands=ALL)
    assert desk.set((LOCK, 5), (TEST, DEEP)) == (upsset.INCONSISTENT_VALUE, 2)
    desk.stage.view = view(ON_LINE, commands=ALL)
    assert desk.set((LOCK, 5), (TEST, QUICK)) == (0, 0), "it was shown, and is over"


def test_the_test_that_began_last_has_its_name_whoever_began_it(desk: Desk) -> None:
    general = tuple(int(arc) for arc in f"{UPS}.7.7.3".split("."))
    assert desk.set((LOCK, 1), (TEST, general)) == (0, 0) and desk.get(TEST) == ber.oid_body(general)
    desk.stage.now_s += 1.0
    running = since(Condition.TEST_RUNNING, 101.0)
    desk.stage.view = view(ON_LINE, running, commands=ALL, test_order="test-quick", test_s=100.5)
    assert desk.get(TEST) == ber.oid_body(general), "the core's word for our own order"
    assert desk.set((LOCK, 2), (TEST, ABORT)) == (0, 0)
    assert desk.get(TEST) == ber.oid_body(general), "to abort is no test"
    desk.stage.view = view(ON_LINE, commands=ALL, test_order="test-deep", test_s=160.0)
    assert desk.get(TEST) == ber.oid_body(DEEP), "the page's"
    desk.stage.view = view(ON_LINE, running, commands=ALL, test_s=900.0)
    assert desk.get(TEST) == ber.oid_body(general), "the unit's own"
    desk.stage.view = view(ON_LINE, commands=ALL, test_s=900.0)
    assert desk.set((LOCK, 3), (TEST, QUICK)) == (0, 0)


def test_the_output_is_switched_only_where_that_is_allowed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, allow_shutdown=False)
    for name in (DOWN, START, REBOOT, RESTART):
        assert desk.set((name, 1)) == (upsset.NO_ACCESS, 1)
    assert desk.orders == []


def test_a_shutdown_counts_down_and_minus_one_ends_it(desk: Desk) -> None:
    assert desk.get(DOWN) == -1 and desk.set((DOWN, -1)) == (0, 0) and desk.orders == []
    assert desk.set((DOWN, 300)) == (0, 0)
    assert desk.orders[-1][:2] == (Command.SHUTDOWN_RETURN, {"delay_s": 300.0, "return_delay_s": 60.0})
    desk.stage.now_s += 100.0
    assert desk.get(DOWN) == 200 and desk.get(REBOOT) == -1
    assert desk.set((DOWN, -1)) == (0, 0)
    assert desk.orders[-1][0] is Command.SHUTDOWN_STOP and desk.get(DOWN) == -1


def test_without_auto_restart_it_stays_off(desk: Desk) -> None:
    assert desk.set((RESTART, 2), (DOWN, 60)) == (0, 0)
    assert desk.orders[-1][:2] == (Command.SHUTDOWN_STAY_OFF, {"delay_s": 60.0})
    assert desk.get(RESTART) == 2 and desk.saved == {"upsAutoRestart": "off"}


@pytest.mark.parametrize("delay_s", [0, 12, 120, 600])
@pytest.mark.parametrize("restart", [1, 2])
def test_a_real_driver_takes_what_is_ordered(desk: Desk, delay_s: int, restart: int) -> None:
    assert desk.set((RESTART, restart), (DOWN, delay_s)) == (0, 0)
    command, args, _, _ = desk.orders[-1]
    Simulator(Scene(Unit(0.0), (), 0.0), lambda: 0.0).order(command, **args)


@pytest.mark.parametrize("seconds", [0, 60, 300])
def test_a_real_driver_takes_a_reboot(desk: Desk, seconds: int) -> None:
    assert desk.set((REBOOT, seconds)) == (0, 0)
    command, args, _, _ = desk.orders[-1]
    Simulator(Scene(Unit(0.0), (), 0.0), lambda: 0.0).order(command, **args)


def test_the_order_of_the_objects_in_a_request_does_not_matter(desk: Desk) -> None:
    assert desk.set((DOWN, 60), (RESTART, 2)) == (0, 0)
    assert desk.orders[-1][0] is Command.SHUTDOWN_STAY_OFF


def test_minus_one_ends_a_countdown_that_was_ordered_elsewhere(desk: Desk) -> None:
    desk.stage.view = view(ON_LINE, since(Condition.SHUTDOWN_PENDING), commands=ALL)
    assert desk.set((DOWN, -1)) == (0, 0) and desk.orders[-1][0] is Command.SHUTDOWN_STOP
    desk.stage.view = view(ON_LINE, since(Condition.SHUTDOWN_PENDING), commands=ALL - {Command.SHUTDOWN_STOP})
    assert desk.set((REBOOT, -1)) == (upsset.INCONSISTENT_VALUE, 1)


def test_a_countdown_that_was_ended_here_is_over_though_the_unit_still_shows_it(desk: Desk) -> None:
    pending = view(ON_LINE, since(Condition.SHUTDOWN_PENDING), commands=ALL)
    assert desk.set((DOWN, 300)) == (0, 0)
    desk.stage.view = pending
    desk.stage.now_s += 11.0
    assert desk.get(DOWN) == 289 and desk.set((DOWN, -1)) == (0, 0)
    assert (desk.get(DOWN), desk.get(REBOOT)) == (-1, -1)
    assert desk.set((REBOOT, -1)) == (0, 0) and len(desk.orders) == 3, "who says it again means it"
    desk.stage.now_s += 11.0
    with pytest.raises(KeyError):
        desk.get(DOWN)  # it goes on, whoever ordered it
    assert desk.set((DOWN, -1)) == (0, 0) and desk.get(DOWN) == -1
    for desk.stage.view in (view(ON_LINE, commands=ALL), view(ON_LINE, *pending.conditions, commands=ALL)):
        desk.stage.agent.look(desk.stage.now_s)
    with pytest.raises(KeyError):
        desk.get(DOWN)  # another one


def test_minus_one_into_all_of_them_is_one_order(desk: Desk) -> None:
    everything = ((DOWN, -1), (START, -1), (REBOOT, -1))
    desk.stage.view = view(ON_LINE, since(Condition.SHUTDOWN_PENDING), commands=ALL)
    assert desk.set(*everything) == (0, 0)
    assert [order[0] for order in desk.orders] == [Command.SHUTDOWN_STOP]
    desk.stage.now_s += 11.0
    assert desk.set((DOWN, -1), (BEEPER, 1)) == (upsset.RESOURCE_UNAVAILABLE, 2)
    desk.stage.view = view(ON_LINE, commands=ALL)
    assert desk.set((DOWN, 300)) == (0, 0)
    desk.stage.now_s += 11.0
    assert desk.set(*everything) == (0, 0) and desk.get(DOWN) == -1
    assert [order[0] for order in desk.orders[1:]] == [Command.SHUTDOWN_RETURN, Command.SHUTDOWN_STOP]


def test_a_countdown_that_somebody_else_stopped_is_over(desk: Desk) -> None:
    assert desk.set((DOWN, 300)) == (0, 0) and desk.get(DOWN) == 300
    desk.stage.view = view(ON_LINE, since(Condition.SHUTDOWN_PENDING), commands=ALL)
    desk.stage.now_s += 50.0
    assert desk.get(DOWN) == 250
    desk.stage.view = view(ON_LINE, commands=ALL)
    assert desk.get(DOWN) == -1


def test_the_same_request_again_is_no_second_order(desk: Desk) -> None:
    assert desk.set((DOWN, 300)) == desk.set((DOWN, 300)) == (0, 0)
    assert len(desk.orders) == 1
    desk.refuses = Refused("asked, and no answer", upsset.GEN_ERR)
    assert desk.set((REBOOT, 60)) == (upsset.GEN_ERR, 1)
    desk.refuses = None
    assert desk.set((REBOOT, 60)) == (upsset.GEN_ERR, 1) and len(desk.orders) == 1
    desk.stage.now_s += 11.0
    assert desk.set((REBOOT, 60)) == (0, 0) and len(desk.orders) == 2


def test_an_output_that_is_off_can_be_switched_on_at_once(desk: Desk) -> None:
    assert desk.set((START, 0)) == (0, 0) and desk.orders[-1][:2] == (Command.LOAD_ON, {})


def test_a_full_disk_names_the_object_that_could_not_be_kept(desk: Desk) -> None:
    desk.disk_full = True
    assert desk.set((START, -1), (CONTACT, "ops")) == (upsset.COMMIT_FAILED, 2)


def test_a_reboot_is_off_for_so_long(desk: Desk) -> None:
    assert desk.set((REBOOT, 30)) == (0, 0)
    assert desk.orders[-1][:2] == (Command.SHUTDOWN_RETURN, {"delay_s": 0.0, "return_delay_s": 30.0})


@pytest.mark.parametrize(
    ("pairs", "error", "index"),
    [
        ([(BEEPER, "on")], upsset.WRONG_TYPE, 1),
        ([(NAME, "x" * 64)], upsset.WRONG_LENGTH, 1),
        ([(NAME, "tab\there")], upsset.WRONG_VALUE, 1),
        ([(BEEPER, 4)], upsset.WRONG_VALUE, 1),
        ([(BEEPER, 3)], upsset.INCONSISTENT_VALUE, 1),
        ([(REBOOT, 301)], upsset.WRONG_VALUE, 1),
        ([(START, 10)], upsset.INCONSISTENT_VALUE, 1),
        ([(TEST, b"\x02\x01\x00"), (LOCK, 1)], upsset.WRONG_TYPE, 1),  # NUT's
        ([(f"{UPS}.8.1.0", 2)], upsset.INCONSISTENT_VALUE, 1),
        ([(f"{UPS}.9.1.0", 231)], upsset.INCONSISTENT_VALUE, 1),
        ([(f"{UPS}.9.1.0", 230)], 0, 0),
        ([(CONTACT, "a"), (f"{UPS}.2.1.0", 2)], upsset.NOT_WRITABLE, 2),
        ([(CONTACT, "a"), (NAME, "b"), (f"{UPS}.1.5.1", "c")], upsset.NO_CREATION, 3),
        ([("1.3.6.1.4.1.1.1.0", 2)], upsset.NOT_WRITABLE, 1),
        ([(DOWN, 60), (REBOOT, 60)], upsset.RESOURCE_UNAVAILABLE, 2),
        ([(BEEPER, b"\x02\x05\x00\x00\x00\x00\x01")], upsset.WRONG_ENCODING, 1),
    ],
)
def test_a_wrong_value_gets_its_error_and_nothing_is_done(
    desk: Desk, pairs: list[tuple[str, Any]], error: int, index: int
) -> None:
    assert desk.set(*pairs) == (error, index)
    assert desk.orders == [] and desk.saved == {} and desk.audits == []


def test_what_the_unit_cannot_do_is_said(tmp_path: Path) -> None:
    desk = Desk(tmp_path, commands=frozenset())
    for name, value in ((BEEPER, 1), (DOWN, 1), (REBOOT, 1), (RESTART, 2)):
        assert desk.set((name, value)) == (upsset.INCONSISTENT_VALUE, 1)
    assert desk.set((TEST, QUICK), (LOCK, 1)) == (upsset.INCONSISTENT_VALUE, 1)


def test_when_the_ups_refuses_nothing_stays_set(desk: Desk) -> None:
    desk.refuses = Refused("this UPS is busy")
    assert desk.set((CONTACT, "a"), (BEEPER, 1)) == (upsset.INCONSISTENT_VALUE, 2)
    assert desk.saved == {} and desk.get(CONTACT) == b"" and desk.audits == []
    assert desk.set((TEST, QUICK), (LOCK, 1))[0] and desk.get(LOCK) == 1


def test_what_cannot_be_undone_is_said(desk: Desk) -> None:
    def order(*_: Any) -> None:
        desk.disk_full = True
        raise Refused("this UPS is busy")

    desk.writer._order = order
    assert desk.set((CONTACT, "a"), (BEEPER, 1)) == (upsset.UNDO_FAILED, 0), "RFC 3416 section 4.2.5: index 0"


def test_the_spin_lock_begins_anew_at_its_end(desk: Desk) -> None:
    for lock, after in ((INT_MAX - 1, INT_MAX), (INT_MAX, 0)):
        desk.writer.kept = replace(desk.writer.kept, spin_lock=lock, test_until_s=0.0)
        assert desk.set((LOCK, lock), (TEST, QUICK)) == (0, 0) and desk.get(LOCK) == after


def test_what_could_not_be_answered_is_not_done(desk: Desk) -> None:
    texts = [("1.3.6.1.2.1.1.4.0", "c" * 255), ("1.3.6.1.2.1.1.5.0", "n" * 255), ("1.3.6.1.2.1.1.6.0", "l" * 255)]
    lengths = []
    for rest in range(30, 53):  # a datagram of up to 1472 octets
        pairs = [*texts, *texts[:2], (CONTACT, "d" * rest)]
        desk.saved, desk.stage.now_s = {}, desk.stage.now_s + 11.0
        error = desk.set(*pairs)[0]
        assert (error == 0) is (desk.saved != {}), rest
        assert error in (0, TOO_BIG)
        lengths.append(error)
    assert lengths == sorted(lengths) and {*lengths} == {0, TOO_BIG}


def test_a_full_disk_is_a_failed_commit(desk: Desk) -> None:
    desk.disk_full = True
    assert desk.set((CONTACT, "a"), (BEEPER, 1)) == (upsset.COMMIT_FAILED, 1)
    assert desk.orders == [] and desk.get(CONTACT) == b""


def test_version_1_has_its_own_words_for_the_errors(desk: Desk) -> None:
    assert desk.set((BEEPER, "on"), version=ber.V1) == (3, 1)
    assert desk.set((f"{UPS}.2.1.0", 2), version=ber.V1) == (2, 1)
    assert desk.set((CONTACT, "a"), version=ber.V1) == (0, 0)
    desk.disk_full = True
    assert desk.set((CONTACT, "b"), version=ber.V1) == (5, 1)
    counts = desk.stage.agent.counts
    kinds = mib2.OUT_NO_SUCH_NAMES, mib2.OUT_BAD_VALUES, mib2.OUT_GEN_ERRS, mib2.IN_TOTAL_SET_VARS, mib2.IN_SETS
    assert [counts[n] for n in kinds] == [1, 1, 1, 1, 4]


def test_who_may_only_read_sets_nothing(tmp_path: Path) -> None:
    writer = Writer()
    stage = Stage(view(ON_LINE, commands=ALL), Net(tmp_path).folder, writer=writer)
    prefix = ber.integer(ber.V2C) + ber.tlv(ber.OCTET_STRING, COMMUNITY.encode())
    body = ber.binding(ber.oid(dotted(CONTACT)), encoded("x"))
    reply = stage.ask(ber.message(prefix, ber.SET, ber.integer(5), 0, 0, body))
    assert reply is not None and (reply.error, reply.index) == (upsset.NO_ACCESS, 1) and writer.kept.texts == {}


NAMES = st.sampled_from(sorted(upsset.SETTINGS)) | st.binary(max_size=20)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, st.integers(0, 255), st.binary(max_size=8)), max_size=4))
def test_no_value_raises_and_an_error_does_nothing(triples: list[tuple[bytes, int, bytes]]) -> None:
    orders: list[Command] = []
    writer = Writer(order=lambda command, *_: orders.append(command), allow_shutdown=True)
    look = LOOK
    try:
        error, index = writer.write(triples, look, "who", "host")
    except ber.Malformed:
        return  # an object identifier that is none: the whole message is refused
    assert 0 <= index <= len(triples) and (not error or (orders == [] and writer.kept.texts == {}))


def _look() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return Stage(view(ON_LINE, commands=ALL), Net(Path(folder)).folder).agent.look(100.0)


LOOK = _look()


def test_the_texts_outlive_a_restart_and_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    assert settexts.read(tmp_path) == {}
    settexts.write(tmp_path, {"sysContact": "ops", "foreign": "x"})
    assert settexts.read(tmp_path) == {"sysContact": "ops"}
    (tmp_path / "texts.json").write_bytes(b"\xff{")
    assert settexts.read(tmp_path) == {} and (tmp_path / "texts.json.damaged").exists()
