"""Notifications: which, how often, and what a restart, a silent receiver or a flood does to them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from snmp_kit import ON_LINE, UPS, Net, Stage, since, view

from agent import ber, notices, upsman, wire
from agent.bus import BusError
from agent.mib import NOTHING, Look
from agent.model import ALARM_NUMBER, Active, Battery, Condition, Event, Rating, Status, TestResult, View
from agent.notify import Notifier
from agent.receiver import INFORM_AGAIN_S, QUEUE_LIMIT, Receiver

NOWHERE = "255.255.255.255", 162  # the kernel sends nothing there from a socket like ours
TRAP = "1.3.6.1.6.3.1.1.4.1.0"
ON_BATTERY, TEST_COMPLETED, ADDED, REMOVED = (f"1.3.6.1.2.1.33.2.{n}" for n in range(1, 5))
LOW_BATTERY = f"{UPS}.6.3.{ALARM_NUMBER[Condition.LOW_BATTERY]}"
RESTLESS = Condition.OVERLOAD, Condition.TEMPERATURE_BAD, Condition.FAN_FAILURE
LINK_DOWN, LINK_UP = (f"1.3.6.1.6.3.1.1.5.{n}" for n in (3, 4))
INTERFACES = "1.3.6.1.2.1.2"
COLD_START, AUTHENTICATION_FAILURE = "1.3.6.1.6.3.1.1.5.1", "1.3.6.1.6.3.1.1.5.5"


def dotted(body: bytes) -> str:
    return ".".join(map(str, ber.arcs(body)))


class Peer:
    """A manager that listens, and confirms if it is told to."""

    def __init__(self, *, confirms: bool = False) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.confirms = confirms

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.sock.getsockname()[1])

    def heard(self) -> list[tuple[str, dict[str, bytes]]]:
        """(snmpTrapOID, bindings) of each message of version 2c since the last call."""
        found = []
        while True:
            try:
                data, peer = self.sock.recvfrom(4096)
            except BlockingIOError:
                return found
            header = ber.read_header(data)
            pdu = ber.read_pdu(data, header.pdu_at)
            values = {dotted(name): body for name, _, body in ber.values(pdu.bindings)}
            found.append((dotted(values.pop(TRAP)), values))
            if self.confirms and pdu.tag == ber.INFORM:
                self.sock.sendto(ber.message(header.prefix, ber.RESPONSE, pdu.request_id, 0, 0, pdu.bindings), peer)


class Core:
    """A core's log and view, an agent, and a notifier, on a clock that stands still."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder = folder
        self.stage = Stage(view(ON_LINE, last_event_id=0), Net(folder / "net").folder)
        self.events: list[Event] = []
        self.silent, self.asked = False, 0
        self.peer = Peer(confirms=more.get("inform", False))
        self.more = more
        self.start()

    def start(self, *others: Receiver) -> None:
        """The faces start, and tell these, too."""
        self.receiver = Receiver(self.peer.address, ber.V2C, community=b"public-not", **self.more)
        self.tell(*others, self.receiver)

    def tell(self, *receivers: Receiver) -> None:
        agent = self.stage.agent
        self.notifier = Notifier(agent.look, agent.last_row, self.ask, receivers, self.folder)

    def ask(self, query: dict[str, object], _: float) -> dict[str, object]:
        self.asked += 1
        if self.silent:
            raise BusError("no core")
        since_id, limit = query["since"], query["limit"]
        assert isinstance(since_id, int) and isinstance(limit, int)
        return {"events": [wire.to_json(e) for e in self.events if e.id > since_id][:limit]}

    def happens(self, kind: str, condition: Condition) -> None:
        """A condition begins or ends, in the log and in the view."""
        self.events.append(Event(id=len(self.events) + 1, kind=kind, name=condition.value))
        held: list[Active] = [a for a in self.stage.view.conditions if a.condition is not condition]
        if kind == "began":
            held.append(since(condition, self.stage.now_s))
        self.stage.view = view(ON_LINE, *held, last_event_id=len(self.events))

    def turn(self, seconds: float = 1.0) -> list[str]:
        """Time passes; the traps that were heard."""
        found = []
        for _ in range(max(1, int(seconds))):
            self.stage.now_s += min(1.0, seconds)
            self.notifier.turn(self.stage.now_s)
            found += self.peer.heard()
        self.last = found
        return [trap for trap, _ in found]


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    made = Core(tmp_path)
    yield made
    made.peer.sock.close()
    made.receiver.close()


def test_the_start_is_told_and_an_alarm_comes_and_goes(core: Core) -> None:
    assert core.turn() == [COLD_START]
    core.happens("began", Condition.OVERLOAD)
    assert core.turn() == [ADDED]
    row = next(iter(core.stage.agent.look(core.stage.now_s).alarms))
    _, bindings = core.last[0]
    assert bindings[f"{UPS}.6.2.1.1.{row}"] == bytes((row,))
    assert dotted(bindings[f"{UPS}.6.2.1.2.{row}"]) == f"{UPS}.6.3.8"
    core.happens("ended", Condition.OVERLOAD)
    assert core.turn() == [REMOVED] and f"{UPS}.6.2.1.1.{row}" in core.last[0][1]


def test_on_battery_is_told_at_once_and_each_minute_and_its_end_as_an_alarm_that_is_removed(core: Core) -> None:
    core.turn()
    core.happens("began", Condition.ON_BATTERY)
    assert core.turn() == [ON_BATTERY]
    assert list(core.last[0][1])[1:] == [f"{UPS}.2.3.0", f"{UPS}.2.2.0", f"{UPS}.9.7.0"]
    assert core.turn(125) == [ON_BATTERY] * 2
    core.happens("ended", Condition.ON_BATTERY)
    assert core.turn(70) == [REMOVED]


def test_the_end_of_a_test_has_a_notification_of_its_own_and_no_other(core: Core) -> None:
    core.turn()
    core.happens("began", Condition.TEST_RUNNING)
    assert core.turn(10) == []
    core.happens("ended", Condition.TEST_RUNNING)
    assert core.turn(10) == [TEST_COMPLETED] and len(core.last[0][1]) == 7
    assert ber.arcs(core.last[0][1][f"{UPS}.7.1.0"])[-1] == 3, "it names the test, though none runs now"


def test_each_test_is_told_with_its_own_result(tmp_path: Path) -> None:
    way = [True]
    core = Core(tmp_path, leaves=lambda: way[0])
    core.turn(6)
    way[0] = False
    results = (TestResult.FAILED, TestResult.PASSED, TestResult.PASSED)
    for result in results:
        core.happens("began", Condition.TEST_RUNNING)
        core.turn(2)
        core.happens("ended", Condition.TEST_RUNNING)
        core.stage.view = replace(core.stage.view, status=replace(ON_LINE, test=replace(ON_LINE.test, result=result)))
        core.turn(2)
    way[0] = True
    assert core.turn(20) == [TEST_COMPLETED] * 3
    assert [values[RESULT][-1] for _, values in core.last] == [3, 1, 1], "doneError, then donePass"
    core.receiver.close()


def test_of_one_kind_there_is_at_most_one_in_five_seconds_and_none_is_lost(core: Core) -> None:
    core.turn()
    for condition in (Condition.OVERLOAD, Condition.FAN_FAILURE, Condition.BATTERY_BAD):
        core.happens("began", condition)
    assert core.turn() == [ADDED]
    assert core.turn(4) == []
    assert core.turn() == [ADDED] and core.turn(10) == [ADDED]


def test_what_happens_while_the_faces_are_away_is_told_after_their_start(core: Core) -> None:
    core.turn(6)
    core.happens("began", Condition.FAN_FAILURE)
    core.turn(10)
    core.happens("ended", Condition.FAN_FAILURE)
    core.happens("began", Condition.OVERLOAD)
    core.happens("ended", Condition.OVERLOAD)
    core.start()
    assert sorted(core.turn(30)) == sorted([COLD_START, REMOVED, ADDED, REMOVED])
    core.start()
    assert core.turn(30) == [COLD_START]


def test_alarms_that_were_over_before_they_were_read_have_rows_of_their_own() -> None:
    watch, shown = notices.Watch(0), look(ON_LINE)
    began = [Event(id=n, kind="began", name=c.value) for n, c in enumerate(RESTLESS, start=1)]
    ended = [replace(one, id=one.id + 10, kind="ended") for one in began]
    rows = [
        ber.whole(body)
        for notice in watch.events(began + ended, shown, 7)
        for name, _, body in ber.values(notice.bindings)
        if dotted(name).startswith(f"{UPS}.6.2.1.1.")
    ]
    assert rows == [8, 9, 10] * 2


def test_a_silent_core_is_a_lost_ups(core: Core) -> None:
    core.turn()
    here: View = core.stage.view
    core.stage.view = view(None, since(Condition.NO_CORE, core.stage.now_s))
    assert core.turn() == [ADDED] and f"{UPS}.6.3.20" in [dotted(v) for v in core.last[0][1].values() if len(v) > 8]
    core.stage.view = here
    assert core.turn() == [REMOVED]


def test_on_battery_behind_a_silent_core_goes_with_what_was_known_last(core: Core) -> None:
    minutes, seconds = f"{UPS}.2.3.0", f"{UPS}.2.2.0"
    core.turn()
    core.happens("began", Condition.ON_BATTERY)
    core.turn()
    known = core.last[0][1][minutes]
    assert int.from_bytes(known, "big") > 1
    core.stage.view = view(None, *core.stage.view.conditions, since(Condition.NO_CORE, core.stage.now_s))
    core.silent = True
    assert ON_BATTERY in core.turn(65)
    told = next(values for trap, values in core.last if trap == ON_BATTERY)
    assert told[minutes] == known and seconds in told


@pytest.mark.parametrize("condition", [Condition.COMM_LOST, Condition.OVERLOAD])
def test_an_event_waits_for_the_view_that_knows_of_it(core: Core, condition: Condition) -> None:
    core.turn(6)
    for kind, told in (("began", ADDED), ("ended", REMOVED)):
        core.happens(kind, Condition.FAN_FAILURE)
        before = core.stage.view
        core.happens(kind, condition)
        newer, core.stage.view = core.stage.view, before
        assert core.turn(12) == [told], "the log is ahead of the view"
        core.stage.view = newer
        assert core.turn(12) == [told]


def test_on_battery_goes_with_the_values_of_the_view_that_knows_of_it(core: Core) -> None:
    core.turn()
    core.happens("began", Condition.FAN_FAILURE)
    before = core.stage.view
    core.happens("began", Condition.ON_BATTERY)
    newer, core.stage.view = replace(core.stage.view, on_battery_s=7.0), before
    assert ON_BATTERY not in core.turn(6)
    core.stage.view = newer
    assert core.turn() == [ON_BATTERY]
    assert int.from_bytes(core.last[0][1][SECONDS], "big") >= 7


def test_rows_that_the_core_has_thrown_away_hold_nothing_up(core: Core) -> None:
    for condition in (Condition.OVERLOAD, Condition.FAN_FAILURE):
        core.happens("began", condition)
    core.turn(12)
    del core.events[:2]
    core.events.append(Event(id=9, kind="began", name=Condition.BATTERY_BAD.value))
    core.stage.view = replace(core.stage.view, last_event_id=8)
    assert core.turn() == [] and kept(core)["cursor"] == 8
    core.stage.view = replace(core.stage.view, last_event_id=9)
    assert core.turn() == [ADDED]


def test_rows_that_the_core_has_thrown_away_leave_no_alarm_that_is_over(core: Core) -> None:
    core.happens("began", Condition.OVERLOAD)
    core.turn(6)
    core.stage.view = view(ON_LINE, since(Condition.FAN_FAILURE, core.stage.now_s), last_event_id=9)
    assert sorted(core.turn(6)) == [ADDED, REMOVED]
    core.events = [Event(id=40, kind="began", name=Condition.BATTERY_BAD.value)]
    core.stage.view = view(ON_LINE, since(Condition.BATTERY_BAD, core.stage.now_s), last_event_id=40)
    assert sorted(core.turn(6)) == [ADDED, REMOVED], "some of the rows before"


def test_a_new_log_that_has_outgrown_the_place_in_the_old_one_is_found_at_the_start(core: Core) -> None:
    core.happens("began", Condition.OVERLOAD)
    core.happens("began", Condition.ON_BATTERY)
    core.turn(12)
    core.events = []
    core.stage.view = view(ON_LINE, last_event_id=0)
    for condition in (Condition.FAN_FAILURE, Condition.BATTERY_BAD, Condition.LOW_BATTERY):
        core.happens("began", condition)
    core.start()
    heard = core.turn(30)
    assert (heard.count(ADDED), heard.count(REMOVED)) == (3, 2)
    core.start()
    assert core.turn(30) == [COLD_START]


def test_what_the_log_has_told_of_is_not_found_again_at_the_start(core: Core) -> None:
    core.turn(6)
    core.start()
    core.silent = True
    core.happens("began", Condition.OVERLOAD)
    assert core.turn(6) == [COLD_START], "what is in the log is told by it"
    core.silent = False
    assert core.turn(12) == [ADDED]


MINUTES, SECONDS, LOW_TIME, TEST_ID, RESULT = (f"{UPS}.{name}.0" for name in ("2.3", "2.2", "9.7", "7.1", "7.3"))
UNKNOWN = replace(ON_LINE, battery=Battery(), rating=Rating())


def tags(bindings: bytes) -> dict[str, int]:
    return {dotted(name): tag for name, tag, _ in ber.values(bindings)}


def only(found: list[notices.Notice], trap: int) -> bytes:
    (one,) = [notice for notice in found if notice.trap == (*notices.TRAPS, trap)]
    return one.bindings


def event(kind: str, condition: Condition) -> list[Event]:
    return [Event(id=1, kind=kind, name=condition.value)]


def look(status: Status | None, **more: Any) -> Look:
    return Look(view(status, on_battery_s=42.0, **more), status or NOTHING, 105.0, 0.0, {})


def test_a_value_that_was_never_known_has_its_place_and_is_what_a_get_says() -> None:
    watch = notices.Watch(0)
    told = only(watch.events(event("began", Condition.ON_BATTERY), look(UNKNOWN), 0), 1)
    assert tags(told) == {MINUTES: 0x81, SECONDS: ber.INTEGER, LOW_TIME: 0x81}
    assert tags(only(watch.tick(look(None)._replace(now_s=200.0)), 1)) == tags(told), "as it was known last"


def test_version_1_has_a_null_in_the_place_of_what_is_not_known() -> None:
    told = notices.Watch(0).events(event("began", Condition.ON_BATTERY), look(UNKNOWN), 0)[0]
    assert ber.NO_SUCH_INSTANCE in told.of_version_2(b"", 1, inform=False)
    message = told.of_version_1(bytes(4), b"c")
    assert ber.NO_SUCH_INSTANCE not in message
    assert message.endswith(
        notices.bound(notices.upsmib.UPS + (1, 2, 3, 0), b"\x05\x00")
        + notices.bound(notices.upsmib.UPS + (1, 2, 2, 0), ber.integer(47))
        + notices.bound(notices.upsmib.UPS + (1, 9, 7, 0), b"\x05\x00")
    )


def test_what_was_known_of_an_outage_or_a_test_is_not_told_of_the_next() -> None:
    watch = notices.Watch(0)
    assert tags(only(watch.events(event("began", Condition.ON_BATTERY), look(ON_LINE), 0), 1))[MINUTES] == ber.INTEGER
    watch.events(event("ended", Condition.ON_BATTERY), look(ON_LINE), 0)
    assert tags(only(watch.events(event("began", Condition.ON_BATTERY), look(UNKNOWN), 0), 1))[MINUTES] == 0x81
    watch.events(event("began", Condition.TEST_RUNNING), look(ON_LINE), 0)
    told = tags(only(watch.events(event("ended", Condition.TEST_RUNNING), look(ON_LINE), 0), 2))
    assert (told[TEST_ID], told[RESULT]) == (ber.OBJECT_ID, ber.INTEGER)
    watch.events(event("began", Condition.TEST_RUNNING), look(None), 0)
    told = tags(only(watch.events(event("ended", Condition.TEST_RUNNING), look(None), 0), 2))
    assert len(told) == 6 and set(told.values()) == {0x81}


def test_a_silent_core_is_told_in_the_private_tree_too() -> None:
    watch, silent = notices.Watch(0), view(None, since(Condition.NO_CORE, 1.0))
    shown = Look(silent, NOTHING, 50.0, 0.0, {}, upsman=True)
    assert notices.Watch(0).core(shown._replace(upsman=False), 0)[0].trap[-1] == 3
    assert watch.core(shown, 0)[0].trap == (*upsman.TRAPS, 1)
    assert watch.core(shown._replace(view=view(ON_LINE)), 0)[0].trap == (*upsman.TRAPS, 4)


def test_a_core_that_starts_after_the_faces_is_no_lost_ups_for_half_a_minute(core: Core) -> None:
    here: View = core.stage.view
    core.stage.view = view(None, since(Condition.NO_CORE, core.stage.now_s))
    core.silent = True
    first = core.turn(0)
    assert ADDED not in first + core.turn(10)
    core.stage.view, core.silent = here, False
    assert not {ADDED, REMOVED} & set(core.turn(10) + core.turn(10))
    core.stage.view = view(None, since(Condition.NO_CORE, core.stage.now_s))
    assert core.turn() == [ADDED], "it was heard before: then it counts at once"


def test_a_core_that_never_comes_is_a_lost_ups_after_half_a_minute(core: Core) -> None:
    core.stage.view = view(None, since(Condition.NO_CORE, core.stage.now_s))
    core.silent = True
    core.turn(0)
    assert ADDED in core.turn(notices.FIRST_WORD_S + 1)


def test_a_new_log_begins_with_what_holds_now(core: Core) -> None:
    core.happens("began", Condition.FAN_FAILURE)
    core.happens("began", Condition.ON_BATTERY)
    core.turn(10)
    core.events = []
    core.stage.view = view(ON_LINE, since(Condition.FAN_FAILURE, 1.0), last_event_id=0)
    assert core.turn(10) == [REMOVED]


def test_an_inform_is_repeated_until_it_is_confirmed(tmp_path: Path) -> None:
    core = Core(tmp_path, inform=True)
    core.peer.confirms = False
    assert core.turn() == [COLD_START] and core.turn(2) == []
    core.peer.confirms = True
    assert core.turn(INFORM_AGAIN_S) == [COLD_START] and core.turn(2 * INFORM_AGAIN_S) == []
    assert not core.receiver.busy


def test_a_confirmation_of_another_inform_is_none(tmp_path: Path) -> None:
    core = Core(tmp_path, inform=True)
    core.peer.confirms = False
    core.notifier.turn(core.stage.now_s)
    data, sender = core.peer.sock.recvfrom(4096)
    header = ber.read_header(data)
    pdu = ber.read_pdu(data, header.pdu_at)
    right = ber.number(pdu.request_id, 0, len(pdu.request_id))[0]
    for tag, request_id, settles in (
        (ber.RESPONSE, right ^ 1, False), (ber.INFORM, right, False), (ber.RESPONSE, right, True),
    ):  # fmt: skip
        said = ber.message(header.prefix, tag, ber.integer(request_id), 0, 0, b"")
        core.peer.sock.sendto(said, sender)
        core.notifier.turn(core.stage.now_s)
        assert core.receiver.busy != settles
    core.receiver.close()


def test_who_never_confirms_is_given_up_and_the_next_is_tried(tmp_path: Path) -> None:
    core = Core(tmp_path, inform=True)
    core.peer.confirms = False
    core.turn()
    core.happens("began", Condition.OVERLOAD)
    heard = core.turn(60)
    assert heard.count(COLD_START) == 3 and ADDED in heard


def test_a_flood_leaves_the_newest(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    core.receiver.put(notices.Notice((*notices.TRAPS, n), 0, b"") for n in range(QUEUE_LIMIT + 50))
    core.receiver.turn(core.stage.now_s)
    heard = [int(trap.rpartition(".")[2]) for trap, _ in core.peer.heard()]
    assert core.receiver.dropped == 50 and heard == list(range(50, QUEUE_LIMIT + 50))
    assert len([r for r in caplog.records if "too many" in r.message]) == 1


def test_an_alarm_that_comes_and_goes_while_the_way_is_closed_pushes_no_other_out(tmp_path: Path) -> None:
    way = [False]
    core = Core(tmp_path, leaves=lambda: way[0])
    core.happens("began", Condition.LOW_BATTERY)
    core.turn()
    for _ in range(QUEUE_LIMIT):
        for kind in ("began", "ended"):
            core.happens(kind, Condition.OVERLOAD)
            core.turn()
    assert core.receiver.dropped > QUEUE_LIMIT - 10
    way[0] = True
    assert set(core.turn(6)) == {COLD_START, ADDED, REMOVED}
    assert (ADDED, LOW_BATTERY) in alarms(core.last)
    core.receiver.close()


def test_who_guesses_communities_while_the_way_is_closed_pushes_no_alarm_out(tmp_path: Path) -> None:
    way = [False]
    core = Core(tmp_path, leaves=lambda: way[0])
    core.happens("began", Condition.OVERLOAD)
    for _ in range(QUEUE_LIMIT + 10):
        core.notifier.refused()
        core.turn()
    assert core.receiver.dropped == 0
    way[0] = True
    assert core.turn(20) == [COLD_START, AUTHENTICATION_FAILURE, ADDED]
    core.receiver.close()


def test_a_receiver_that_cannot_be_reached_disturbs_nobody(core: Core) -> None:
    other = Receiver(("127.0.0.1", 9), ber.V2C, community=b"x")
    core.start(other)
    core.turn()
    core.happens("began", Condition.OVERLOAD)
    assert core.turn() == [ADDED]
    other.close()


def test_an_interface_that_goes_down_and_up_is_told(core: Core) -> None:
    core.turn(4)
    net = Net(core.folder / "net")
    net.set("eth0", operstate="down")
    assert core.turn(4) == ["1.3.6.1.6.3.1.1.5.3"]
    net.set("eth0", operstate="up")
    assert core.turn(8) == ["1.3.6.1.6.3.1.1.5.4"]


def test_an_interface_that_vanishes_and_comes_back_is_told(core: Core) -> None:
    net = Net(core.folder / "net")
    core.turn(4)
    (core.folder / "net" / "eth0").rename(core.folder / "away")
    assert core.turn(4) == [LINK_DOWN]
    columns = f"{INTERFACES}.2.1"
    told = core.last[0][1]
    assert (told[f"{columns}.1.2"], told[f"{columns}.7.2"], told[f"{columns}.8.2"]) == (b"\2", b"\1", b"\6")
    assert core.turn(10) == []
    (core.folder / "away").rename(core.folder / "net" / "eth0")
    net.set("eth0", ifindex="7")
    assert core.turn(4) == [LINK_UP] and core.last[0][1][f"{columns}.1.7"] == b"\7"


def test_an_interface_that_is_down_in_another_way_is_not_told_again(core: Core) -> None:
    net = Net(core.folder / "net")
    core.turn(4)
    net.set("eth0", operstate="down")
    assert core.turn(10) == [LINK_DOWN]
    for state in ("lowerlayerdown", "dormant", "down"):
        net.set("eth0", operstate=state)
        assert core.turn(10) == []


def test_a_damaged_cursor_is_said_and_begins_with_what_holds(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    (core.folder / "notify.json").write_text("{")
    core.happens("began", Condition.OVERLOAD)
    core.start()
    assert "damaged" in caplog.text and core.turn(10) == [COLD_START, ADDED]


@pytest.mark.parametrize(
    "state",
    [
        {"cursor": 0, "open": {"8": -5}},
        {"cursor": 0, "open": {"8": 0}},
        {"cursor": 0, "open": {"8": 2**31}},
        {"cursor": 0, "open": {"8": True}},
        {"cursor": 0, "open": {"999": 4}},
        {"cursor": 0, "open": {"x": 1}},
        {"cursor": 0, "open": []},
        {"cursor": -1, "open": {}},
        {"cursor": -(10**30), "open": {}},
        {"cursor": 2**63, "open": {}},
        {"cursor": True, "open": {}},
        {"cursor": "1", "open": {}},
        [],
        None,
    ],
)
def test_impossible_values_of_a_place_in_the_log_are_damage(
    core: Core, caplog: pytest.LogCaptureFixture, state: object
) -> None:
    (core.folder / "notify.json").write_text(json.dumps({"receivers": {core.receiver.name: state}}))
    core.happens("began", Condition.FAN_FAILURE)
    core.start()
    assert "damaged" in caplog.text and core.turn(10) == [COLD_START, ADDED]


@pytest.mark.parametrize(
    "text", ["", "\xff", "[]", "null", "[" * 30_000, '{"receivers": 1}', '{"cursor": 1, "open": {}}']
)
def test_a_damaged_file_of_places_in_the_log_is_no_crash(
    core: Core, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (core.folder / "notify.json").write_text(text, "latin-1")
    core.start()
    assert "damaged" in caplog.text and core.turn(10) == [COLD_START]
    assert kept(core) == {"cursor": 0, "open": {}}


def test_the_greatest_possible_values_are_none(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    state = {"cursor": 2**63 - 1, "open": {"8": 2**31 - 1}}
    (core.folder / "notify.json").write_text(json.dumps({"receivers": {core.receiver.name: state}}))
    core.start()
    assert not caplog.records and core.turn(10) == [COLD_START, REMOVED]


def test_version_1_has_generic_and_enterprise_traps(core: Core) -> None:
    look = core.stage.agent.look(core.stage.now_s)
    cold = notices.cold_start(look).of_version_1(bytes((192, 0, 2, 1)), b"c")
    assert ber.oid((1, 3, 6, 1, 2, 1, 33)) + b"\x40\x04\xc0\x00\x02\x01\x02\x01\x00\x02\x01\x00" in cold
    added = notices.Notice((*notices.TRAPS, 3), 7, b"").of_version_1(bytes(4), b"c")
    assert ber.oid((1, 3, 6, 1, 2, 1, 33, 2)) + b"\x40\x04\0\0\0\0\x02\x01\x06\x02\x01\x03" in added


class Unreachable:
    """A socket without a route, until there is one."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.down = sock, True

    def send(self, data: bytes) -> int:
        if self.down:
            raise OSError(101, "Network is unreachable")
        return self.sock.send(data)

    def recv(self, size: int) -> bytes:
        return self.sock.recv(size)

    def close(self) -> None:
        self.sock.close()


@pytest.mark.parametrize("inform", [False, True])
def test_without_a_route_nothing_is_lost_and_the_cursor_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, inform: bool
) -> None:
    core = Core(tmp_path, inform=inform)
    core.turn(6)
    before = (tmp_path / "notify.json").read_text()
    link: Any = Unreachable(core.receiver._socket())
    core.receiver._sock, core.receiver._socket = None, lambda: link  # type: ignore[method-assign]
    core.happens("began", Condition.ON_BATTERY)
    core.happens("began", Condition.OVERLOAD)
    assert core.turn(150) == []
    core.happens("ended", Condition.OVERLOAD)
    assert core.turn() == [] and (tmp_path / "notify.json").read_text() == before
    assert [r.message for r in caplog.records if "unreachable" in r.message] == [
        f"notify: {core.receiver.name}: Network is unreachable"
    ]
    link.down = False
    heard = core.turn(15)
    assert heard == ([ON_BATTERY, ADDED, ON_BATTERY, REMOVED] if inform else [ON_BATTERY, ADDED, REMOVED])
    assert (tmp_path / "notify.json").read_text() != before and core.receiver.dropped == 0
    core.receiver.close()


@pytest.mark.parametrize("inform", [False, True])
def test_without_a_carrier_nothing_is_sent_and_nothing_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, inform: bool
) -> None:
    carrier = [True]
    core = Core(tmp_path, inform=inform, leaves=lambda: carrier[0])
    core.turn(6)
    before = (tmp_path / "notify.json").read_text()
    carrier[0] = False
    core.happens("began", Condition.ON_BATTERY)
    core.happens("began", Condition.OVERLOAD)
    assert core.turn(150) == [] and (tmp_path / "notify.json").read_text() == before
    assert [r.message for r in caplog.records if "carrier" in r.message] == [
        f"notify: {core.receiver.name}: no carrier"
    ]
    carrier[0] = True
    assert core.turn(5) == [ON_BATTERY, ADDED] and (tmp_path / "notify.json").read_text() != before
    core.receiver.close()


def test_an_inform_that_waits_for_a_carrier_keeps_its_tries(tmp_path: Path) -> None:
    carrier = [True]
    core = Core(tmp_path, inform=True, leaves=lambda: carrier[0])
    core.peer.confirms = False
    assert core.turn() == [COLD_START]
    carrier[0] = False
    assert core.turn(100) == []
    carrier[0] = core.peer.confirms = True
    assert core.turn(2) == [COLD_START] and not core.receiver.busy
    core.receiver.close()


def test_of_what_waits_for_a_carrier_the_oldest_give_way(tmp_path: Path) -> None:
    core = Core(tmp_path, leaves=lambda: False)
    core.receiver.put([notices.cold_start(core.stage.agent.look(core.stage.now_s))] * (QUEUE_LIMIT + 50))
    core.turn(3)
    assert core.receiver.dropped == 51 and len(core.receiver._waiting) == QUEUE_LIMIT
    core.receiver.close()


def test_a_link_local_address_is_reached_over_the_interface_that_it_names(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    words = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    own = [(w[0], int(w[1], 16), w[5]) for w in words if w[3] == "20" and not int(w[4], 16) & 0x40]  # not tentative
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        host, port = "fe80::1%lo", 162  # where there is none: only the interface is found
        if own:
            address, index, name = own[0]
            host = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))
            manager.bind((host, 0, 0, index))
            host, port = f"{host}%{name}", int(manager.getsockname()[1])
        there = Receiver((host, port), ber.V2C, community=b"public-not")
        core.tell(there, core.receiver)
        core.turn()
        there.close()
        assert "Invalid argument" not in caplog.text
        assert not own or b"public-not" in manager.recv(4096)


def test_a_socket_that_cannot_send_is_opened_anew(core: Core) -> None:
    core.turn(6)
    link: Any = Unreachable(core.receiver._socket())  # its own address has gone from this machine
    core.receiver._sock = link
    core.happens("began", Condition.OVERLOAD)
    assert core.turn() == [] and core.turn() == [ADDED]
    core.receiver.close()


def test_the_five_seconds_never_turn_the_order_of_one_alarm_round(core: Core) -> None:
    core.turn()
    core.happens("began", Condition.OVERLOAD)
    assert core.turn() == [ADDED]
    core.happens("began", Condition.TEMPERATURE_BAD)
    core.turn(2)
    core.happens("ended", Condition.TEMPERATURE_BAD)
    assert core.turn(15) == [ADDED, REMOVED]


@pytest.mark.parametrize("inform", [False, True])
def test_an_alarm_that_comes_and_goes_holds_no_other_up(tmp_path: Path, inform: bool) -> None:
    core = Core(tmp_path, inform=inform)
    core.turn(6)
    told: list[tuple[str, dict[str, bytes]]] = []
    for _ in range(30):
        for kind in ("began", "ended"):
            for condition in RESTLESS:
                core.happens(kind, condition)
            core.turn(2)
            told += core.last
    core.happens("began", Condition.LOW_BATTERY)
    core.turn(6)
    assert (ADDED, LOW_BATTERY) in alarms(core.last), "it is the next of its kind"
    told += core.last
    core.turn(800)
    by_alarm: dict[str, list[str]] = {}
    for kind, name in alarms(told + core.last):
        by_alarm.setdefault(name, []).append(kind)
    for condition in RESTLESS:
        found = by_alarm[f"{UPS}.6.3.{ALARM_NUMBER[condition]}"]
        assert all(a != b for a, b in zip(found, found[1:], strict=False)) and found[-1] == REMOVED, (
            "each in its order"
        )
    core.receiver.close()


def alarms(heard: list[tuple[str, dict[str, bytes]]]) -> list[tuple[str, str]]:
    """Added or removed, and the alarm."""
    return [
        (trap, dotted(next(body for name, body in values.items() if name.startswith(f"{UPS}.6.2.1.2."))))
        for trap, values in heard
        if trap in (ADDED, REMOVED)
    ]


def test_the_five_seconds_never_turn_the_order_of_one_interface_round(core: Core) -> None:
    net = Net(core.folder / "net")
    net.set("eth1", ifindex="3", type="1", flags="0x1003", operstate="up", mtu="1500")
    core.turn(4)
    net.set("eth1", operstate="down")
    assert core.turn(2) == ["1.3.6.1.6.3.1.1.5.3"]
    net.set("eth0", operstate="down")
    heard = core.turn(2)
    net.set("eth0", operstate="up")
    assert heard + core.turn(10) == ["1.3.6.1.6.3.1.1.5.3", "1.3.6.1.6.3.1.1.5.4"]


def test_of_a_dead_receiver_of_informs_the_log_has_two_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core = Core(tmp_path, inform=True)
    core.peer.sock.close()
    core.peer.heard = list  # type: ignore[method-assign]
    core.turn(30)
    core.happens("began", Condition.OVERLOAD)
    core.turn(30)
    said = [r.message for r in caplog.records if "notify" in r.message]
    assert len(said) == 2 and "refused" in said[0] and "given up" in said[1]
    core.receiver.close()


def nowhere() -> Receiver:
    return Receiver(NOWHERE, ber.V2C)


def test_who_cannot_be_reached_costs_the_others_nothing_after_a_restart(core: Core) -> None:
    core.start(nowhere())
    core.turn(6)
    for _ in range(3):
        for kind in ("began", "ended"):
            core.happens(kind, Condition.OVERLOAD)
            core.turn(6)
    core.happens("began", Condition.FAN_FAILURE)
    assert core.turn(6) == [ADDED] and core.notifier.receivers[0].busy
    core.start(nowhere())
    core.happens("ended", Condition.FAN_FAILURE)
    assert core.turn(30) == [COLD_START, REMOVED]


def test_who_could_not_be_reached_is_told_after_a_restart_what_he_missed(core: Core) -> None:
    other = Peer()
    way = [True]

    def start() -> None:
        core.start(Receiver(other.address, ber.V2C, leaves=lambda: way[0]))

    start()
    core.turn(6)
    assert [trap for trap, _ in other.heard()] == [COLD_START]
    way[0] = False
    core.happens("began", Condition.OVERLOAD)
    assert core.turn(6) == [ADDED]
    start()
    core.happens("ended", Condition.OVERLOAD)
    assert core.turn(6) == [COLD_START, REMOVED]
    way[0] = True
    core.turn(12)
    assert [trap for trap, _ in other.heard()] == [COLD_START, ADDED, REMOVED]
    other.sock.close()


def test_the_log_is_read_once_for_all_receivers_that_have_come_as_far(core: Core) -> None:
    core.start(nowhere(), Receiver(("127.0.0.1", 9), ber.V2C))
    core.turn(6)
    asked = core.asked
    core.happens("began", Condition.OVERLOAD)
    assert core.turn(6) == [ADDED] and core.asked == asked + 1
    core.silent = True
    core.happens("ended", Condition.OVERLOAD)
    assert core.turn() == [] and core.asked == asked + 2, "a core that says nothing is waited for once"


def test_of_receivers_that_are_told_no_more_nothing_is_kept(core: Core) -> None:
    core.start(Receiver(("127.0.0.1", 9), ber.V2C, name="old"))
    core.turn(6)
    assert sorted(kept_of_all(core)) == sorted([core.receiver.name, "old"])
    core.start()
    core.happens("began", Condition.OVERLOAD)
    core.turn(6)
    assert list(kept_of_all(core)) == [core.receiver.name]


def kept_of_all(core: Core) -> dict[str, Any]:
    found = json.loads((core.folder / "notify.json").read_text())["receivers"]
    assert isinstance(found, dict)
    return found


def kept(core: Core) -> dict[str, Any]:
    """What is on the disk of the receiver."""
    found = kept_of_all(core)[core.receiver.name]
    assert isinstance(found, dict)
    return found
