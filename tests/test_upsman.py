"""The private tree of GENEREX: all of its objects and notifications, off by default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from snmp_kit import COMMUNITY, ON_LINE, UPS, Stage, since, view, whole
from test_notices import COLD_START, Core, Peer
from test_upsset import Desk

from agent import ber, config, notices, upsman
from agent.model import ALARM_NUMBER, Condition, Event, Sensor, Source
from agent.netif import Interfaces
from agent.receiver import Receiver
from agent.snmp import Agent

ROOT = "1.3.6.1.4.1.1356"
#: the MIB's own count of objects in each group
GROUPS = {1: 2, 2: 6, 3: 2, 4: 4, 5: 4, 6: 3, 7: 6, 8: 8}


def test_the_mib_has_35_objects_and_29_notifications() -> None:
    names = [o.oid for o in upsman.OBJECTS]
    assert names == [(*upsman.GENEREX, 1, group, n) for group, count in GROUPS.items() for n in range(1, count + 1)]
    assert len(names) == 35 and len(upsman.NOTIFICATIONS) == len(set(upsman.NOTIFICATIONS)) == 29
    assert upsman.NOTIFICATIONS[16] == "upsmanTrapFatalFault"
    assert upsman.NOTIFICATIONS[28] == "upsmanTrapTempmanSensorFailure4"


def test_each_notification_is_sent_by_an_event_or_listed_as_not_and_so_in_the_documentation() -> None:
    sent = {name: f"`{c.value}` {'begins' if began else 'ends'}" for (c, began), name in upsman.EVENTS.items()}
    assert len(sent) == len(upsman.EVENTS)
    sent["upsmanStarted"] = "the faces start"
    assert sorted((*sent, *upsman.UNSENT)) == sorted(upsman.NOTIFICATIONS)
    assert len(upsman.UNSENT) == 12 and all("Tempman" in name for name in upsman.UNSENT)
    text = (Path(__file__).resolve().parent.parent / "docs" / "snmp.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    assert [(int(number), name) for number, name, _ in rows] == list(enumerate(upsman.NOTIFICATIONS, start=1))
    for _, name, when in rows:
        assert when == sent[name] if name in sent else when.startswith("not sent: "), (name, when)


@pytest.fixture
def core(tmp_path: Path):
    made = Core(tmp_path)
    switch(made)
    yield made
    made.peer.sock.close()
    made.receiver.close()


def switch(core: Core) -> None:
    """An agent with the tree in the place of the other."""
    stage = core.stage
    settings = config.Snmp(communities=stage.agent.settings.communities, upsman_mib=True)
    stage.agent = Agent(
        settings, {"tests": COMMUNITY}, lambda: stage.view, 100.0, clock=lambda: stage.now_s, host="h",
        interfaces=Interfaces(str(core.folder / "net")),
    )  # fmt: skip
    core.start()


def values(core: Core) -> dict[str, object]:
    return values_of(core.stage)


def values_of(stage: Stage) -> dict[str, object]:
    names = {".".join(map(str, (*o.oid, 0))): o.name for o in upsman.OBJECTS}
    found = stage.walk(ROOT)
    return {names[name]: whole(body) if tag == ber.INTEGER else body for name, (tag, body) in found.items()}


def test_it_is_off_by_default(tmp_path: Path) -> None:
    core = Core(tmp_path)
    assert core.stage.walk(ROOT) == {} and core.turn() == [COLD_START]
    core.peer.sock.close()
    core.receiver.close()


def test_a_ups_on_line_is_told_in_the_units_of_the_tree(core: Core) -> None:
    found = values(core)
    assert found["upsIdentModelName"] == b"EP 1000" and found["upsIdentUpsIDName"] == b"rack-3"
    assert (found["upsBatteryStatus"], found["upsBatteryCapacity"], found["upsBatteryVoltage"]) == (2, 98, 27)
    assert (found["upsBatteryRunTimeRemaining"], found["upsInputLineVoltage"]) == (1799, 230)
    assert (found["upsOutputStatus"], found["upsOutputLoad"], found["upsOutputVoltage"]) == (2, 31, 230)
    assert (found["upsLastTestResult"], found["upsAlarmTempmanSensorStatus1"]) == (0, -1)
    missing = {"upsBatteryLifeTimeRemaining", "upsLastTestedBackupTime", "upsShutdownSecs", "upsRestoreSecs"}
    assert missing.isdisjoint(found) and "upsBatteryTemperature" not in found


def test_an_outage_with_alarms_and_a_sensor(core: Core) -> None:
    status = core_status(Source.BATTERY)
    core.stage.view = view(status, since(Condition.LOW_BATTERY), since(Condition.OVERLOAD))
    found = values(core)
    assert (found["upsOutputStatus"], found["upsBatteryStatus"]) == (3, 3)
    assert (found["upsAlarmOutputOverloadStatus"], found["upsAlarmWarningStatus"]) == (1, 1)
    assert (found["upsAlarmFatalFaultStatus"], found["upsAlarmInputBadStatus"]) == (0, 0)
    assert (found["upsAlarmTempmanSensorValue1"], found["upsAlarmTempmanSensorStatus1"]) == (215, 2)


def core_status(source: Source):
    from dataclasses import replace

    return replace(ON_LINE, source=source, sensors=(Sensor(name="rack", temperature_c=21.5),))


@pytest.mark.parametrize(
    ("source", "status"),
    [
        (Source.UNKNOWN, 1), (Source.MAINS, 2), (Source.BOOST, 2), (Source.BUCK, 2), (Source.BATTERY, 3),
        (Source.BYPASS, 4), (Source.NONE, 5),
    ],
)  # fmt: skip
def test_the_output_is_on_line_on_battery_on_bypass_or_off(core: Core, source: Source, status: int) -> None:
    core.stage.view = view(core_status(source))
    assert values(core)["upsOutputStatus"] == status


@pytest.mark.parametrize(
    ("ordered", "shown", "other"),
    [(f"{UPS}.8.2.0", "upsShutdownSecs", "upsRestoreSecs"), (f"{UPS}.8.4.0", "upsRestoreSecs", "upsShutdownSecs")],
)
def test_what_is_left_of_a_countdown_is_shown_as_that_of_its_object(
    tmp_path: Path, ordered: str, shown: str, other: str
) -> None:
    desk = Desk(tmp_path)
    desk.stage.agent._switches = (False, False, True)
    assert shown not in values_of(desk.stage) and desk.set((ordered, 90)) == (0, 0)
    desk.stage.now_s += 30.0
    found = values_of(desk.stage)
    assert found[shown] == 60 and other not in found
    desk.stage.now_s += 60.0
    assert shown not in values_of(desk.stage)


def test_without_a_frame_only_the_name_is_there(core: Core) -> None:
    core.stage.view = view(None)
    assert values(core) == {"upsIdentUpsIDName": b"rack-3"}


def test_its_notifications_go_beside_those_of_the_standard(core: Core) -> None:
    assert core.turn() == [COLD_START, f"{ROOT}.0.11"]
    core.happens("began", Condition.ON_BATTERY)
    assert f"{ROOT}.0.6" in core.turn()
    core.happens("ended", Condition.ON_BATTERY)
    assert f"{ROOT}.0.5" in core.turn(10)


def test_its_notifications_carry_no_objects_as_the_mib_has_none(core: Core) -> None:
    look = core.stage.agent.look(core.stage.now_s)
    events = [Event(id=n, kind="began", name=c.value) for n, c in enumerate(ALARM_NUMBER, start=1)]
    events += [Event(id=100 + n, kind="ended", name=c.value) for n, c in enumerate(ALARM_NUMBER, start=1)]
    sent = [*notices.Watch(0).events(events, look, 0), notices.private_start(look)]
    private = {one.trap[-1]: one.bindings for one in sent if one.trap[:-1] == upsman.TRAPS}
    assert private == dict.fromkeys(range(1, 18), b"")


def test_version_1_names_the_enterprise_without_the_zero(tmp_path: Path) -> None:
    core, peer = Core(tmp_path), Peer()
    switch(core)
    core.receiver.close()
    core.tell(Receiver(peer.address, ber.V1, community=b"public-not"))
    core.notifier.turn(101.0)
    sent = [peer.sock.recv(4096), peer.sock.recv(4096)]
    assert ber.tlv(0xA4, b"")[:1] in sent[1] and ber.oid(upsman.GENEREX) + b"\x40\x04" in sent[1]
    for sock in (core.peer.sock, peer.sock, core.receiver, core.notifier.receivers[0]):
        sock.close()


def test_nothing_in_it_can_be_set() -> None:
    from agent.upsset import SETTINGS

    assert not any(name.startswith(ber.oid_body(upsman.GENEREX)) for name in SETTINGS)
