"""Which SNMP notifications follow from what happens to the UPS, and their bytes. Pure.

Sources: RFC 1628 (the four of a UPS, with their exceptions), RFC 3418 (coldStart, authenticationFailure), RFC 2863
(linkUp, linkDown), RFC 1157 section 4.1.6 (Trap-PDU of version 1), RFC 3416 section 4.2.6, RFC 3584 section 3.

    version 1:  Trap-PDU { enterprise, agent-addr, generic-trap, specific-trap, time-stamp, bindings }
    else:       SNMPv2-Trap-PDU or InformRequest-PDU { request-id, 0, 0,
                  { sysUpTime.0, snmpTrapOID.0, bindings } }
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import ber, upsman, upsmib
from .ber import INTEGER, IP_ADDRESS, SEQUENCE, TIMETICKS, Oid
from .mib import Look, Object, row
from .mib2 import INTERFACES
from .model import ALARM_NUMBER, Condition, Event
from .upsmib import UPS, WELL_KNOWN_ALARMS

TRAPS: Oid = (*UPS, 2)
ON_BATTERY, TEST_COMPLETED, ALARM_ADDED, ALARM_REMOVED = 1, 2, 3, 4
GENERIC: Oid = (1, 3, 6, 1, 6, 3, 1, 1, 5)
COLD_START, LINK_DOWN, LINK_UP, AUTHENTICATION_FAILURE = 1, 3, 4, 5
ENTERPRISE_SPECIFIC = 6
ON_BATTERY_EVERY_S = 60.0
SYS_UP_TIME: Oid = (1, 3, 6, 1, 2, 1, 1, 3, 0)
TRAP_OID: Oid = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)
IF_TABLE: Oid = (*INTERFACES, 2, 1)
IF_ADMIN_STATUS, IF_OPER_STATUS = 7, 8
IF_UP, IF_NOT_PRESENT = 1, 6

_NUMBERS = {condition.value: number for condition, number in ALARM_NUMBER.items()}
#: RFC 1628: "on battery" has a notification of its own, and so has the end of a test
_NOT_ADDED = {ALARM_NUMBER[Condition.ON_BATTERY], ALARM_NUMBER[Condition.TEST_RUNNING]}
_NOT_REMOVED = {ALARM_NUMBER[Condition.TEST_RUNNING]}

_OF_ON_BATTERY = ("upsEstimatedMinutesRemaining", "upsSecondsOnBattery", "upsConfigLowBattTime")
_OF_TEST = (
    "upsTestId", "upsTestSpinLock", "upsTestResultsSummary", "upsTestResultsDetail", "upsTestStartTime",
    "upsTestElapsedTime",
)  # fmt: skip
FIRST_WORD_S = 30.0  # so long after the start of the faces a core that was never heard is no lost one
_UNKNOWN = ber.NO_SUCH_INSTANCE  # what a GET says of it in versions 2c and 3
_OBJECTS: dict[str, Object] = {o.name: o for o in upsmib.MEASURED}
#: a notification of a test that is over still names it
_OBJECTS["upsTestId"] = _OBJECTS["upsTestId"]._replace(read=upsmib.last_test_id)


@dataclass(frozen=True, slots=True)
class Notice:
    """One notification, the same for all receivers."""

    trap: Oid  # snmpTrapOID: the kind, of which a receiver gets at most one in 5 s
    ticks: int  # sysUpTime
    bindings: bytes
    about: str = ""  # the alarm, interface or the like: all in their order, and of the same twice running the newest

    def of_version_1(self, request_from: bytes, community: bytes) -> bytes:
        """A whole message; `request_from`: our IPv4 address, four octets."""
        generic, specific, enterprise = ENTERPRISE_SPECIFIC, self.trap[-1], self.trap[:-1]
        bindings = b"".join(  # it has no word for "noSuchInstance"
            ber.binding(ber.tlv(ber.OBJECT_ID, name), ber.tlv(ber.NULL if tag == _UNKNOWN[0] else tag, body))
            for name, tag, body in ber.values(self.bindings)
        )
        if enterprise[-1] == 0:  # RFC 3584 section 3.2, (3)
            enterprise = enterprise[:-1]
        if enterprise == GENERIC:
            generic, specific, enterprise = self.trap[-1] - 1, 0, UPS
        pdu = ber.tlv(
            ber.TRAP_V1,
            ber.oid(enterprise) + ber.tlv(IP_ADDRESS, request_from) + ber.integer(generic) + ber.integer(specific)
            + ber.integer(self.ticks, TIMETICKS) + ber.tlv(SEQUENCE, bindings),
        )  # fmt: skip
        return ber.tlv(SEQUENCE, ber.integer(ber.V1) + ber.tlv(ber.OCTET_STRING, community) + pdu)

    def of_version_2(self, prefix: bytes, request_id: int, *, inform: bool) -> bytes:
        """`prefix` (version and community, or context of version 3) and the PDU, in a SEQUENCE."""
        bindings = bound(SYS_UP_TIME, ber.integer(self.ticks, TIMETICKS)) + bound(TRAP_OID, ber.oid(self.trap))
        tag = ber.INFORM if inform else ber.TRAP_V2
        return ber.message(prefix, tag, ber.integer(request_id), 0, 0, bindings + self.bindings)


def bound(name: Oid, value: bytes) -> bytes:
    """One variable binding."""
    return ber.binding(ber.oid(name), value)


class Watch:
    """Turns events into notices. It remembers which alarms it has told of as begun, and their rows: `open`, which
    with `cursor` (the last event seen) is all that must outlive a restart."""

    def __init__(self, cursor: int | None = None, open_: Mapping[int, int] | None = None) -> None:
        self.cursor = cursor
        self.level = False  # is `open` sure to be what the core has?
        self.open: dict[int, int] = dict(open_ or {})  # alarm's number -> upsAlarmId
        self._battery_s: float | None = None  # when "on battery" was told last
        self._links: dict[int, tuple[int, int]] | None = None  # ifIndex -> ifAdminStatus, ifOperStatus
        self._heard = False  # the core, since this start
        self._last: dict[str, bytes] = {}  # scalar that goes with a notice -> its last known value

    def events(self, events: Iterable[Event], look: Look, last_id: int) -> list[Notice]:
        """What these events mean. `last_id`: the greatest upsAlarmId given so far, for alarms that are over."""
        found: list[Notice] = []
        for event in events:
            if event.id:
                self.cursor = event.id
            number = _NUMBERS.get(event.name)
            if number is None or event.kind not in ("began", "ended") or event.again:
                continue
            private = upsman.trap(Condition(event.name), event.kind == "began") if look.upsman else None
            if private is not None and (event.kind == "began") == (number not in self.open):
                found.append(Notice(private, look.ticks, b"", _about(number)))
            if event.kind == "began" and number not in self.open:
                self.open[number] = self._row(number, look, last_id)
                found += self._began(number, look)
            elif event.kind == "ended" and number in self.open:
                found += self._ended(number, self.open.pop(number), look)
        return found

    def _row(self, number: int, look: Look, last_id: int) -> int:
        found = next((row for row, alarm in look.alarms.items() if alarm.number == number), None)
        return found if found is not None else max([last_id, *self.open.values()]) + 1

    def _began(self, number: int, look: Look) -> list[Notice]:
        if number == ALARM_NUMBER[Condition.ON_BATTERY]:
            self._battery_s = look.now_s
            return [self._on_battery(look)]
        return [] if number in _NOT_ADDED else [_alarm(ALARM_ADDED, self.open[number], number, look)]

    def _ended(self, number: int, row_id: int, look: Look) -> list[Notice]:
        if number == ALARM_NUMBER[Condition.ON_BATTERY]:
            self._forget(_OF_ON_BATTERY)
        found = [] if number in _NOT_REMOVED else [_alarm(ALARM_REMOVED, row_id, number, look)]
        if number == ALARM_NUMBER[Condition.TEST_RUNNING]:
            found.append(Notice((*TRAPS, TEST_COMPLETED), look.ticks, self._values(look, _OF_TEST)))
            self._forget(_OF_TEST)
        return found

    def core(self, look: Look, last_id: int) -> list[Notice]:
        """A core that is silent is a lost UPS to managers; of that there is no event."""
        number = ALARM_NUMBER[Condition.COMM_LOST]
        gone = any(a.condition is Condition.NO_CORE for a in look.view.conditions)
        self._heard = self._heard or not gone
        if not self._heard and look.now_s - look.started_s < FIRST_WORD_S:
            return []  # at the machine's start the faces may be there first
        lost = gone or any(a.condition is Condition.COMM_LOST for a in look.view.conditions)
        began = gone and number not in self.open
        if not began and (lost or number not in self.open):
            return []
        private = upsman.trap(Condition.COMM_LOST, began) if look.upsman else None
        found = [Notice(private, look.ticks, b"", _about(number))] if private is not None else []
        if began:
            self.open[number] = self._row(number, look, last_id)
            return found + self._began(number, look)
        return found + self._ended(number, self.open.pop(number), look)

    def _on_battery(self, look: Look) -> Notice:
        about = _about(ALARM_NUMBER[Condition.ON_BATTERY])
        return Notice((*TRAPS, ON_BATTERY), look.ticks, self._values(look, _OF_ON_BATTERY), about)

    def _learn(self, look: Look, names: Sequence[str]) -> None:
        """Remember the scalars that have a value now."""
        for name in names if look.view.status is not None else ():
            o = _OBJECTS[name]
            if (value := row(o, 0, o.read).get(look)) is not None:
                self._last[name] = value

    def _values(self, look: Look, names: Sequence[str]) -> bytes:
        """The bindings of scalars. All must be there, in their order (RFC 2578 section 8.1): of one without a value
        what was known last of this outage or test, else what a GET says."""
        self._learn(look, names)
        return b"".join(bound((*_OBJECTS[name].oid, 0), self._last.get(name, _UNKNOWN)) for name in names)

    def _forget(self, names: Sequence[str]) -> None:
        """What was so in this outage or test is nothing for the next."""
        for name in names:
            self._last.pop(name, None)

    def tick(self, look: Look) -> list[Notice]:
        """What time brings: still on battery, each minute; interfaces that go up or down."""
        found = []
        for condition, names in ((Condition.ON_BATTERY, _OF_ON_BATTERY), (Condition.TEST_RUNNING, _OF_TEST)):
            if ALARM_NUMBER[condition] in self.open:
                self._learn(look, names)  # for a notice that comes when nobody says them any more
        told_s = self._battery_s if self._battery_s is not None else -ON_BATTERY_EVERY_S
        if ALARM_NUMBER[Condition.ON_BATTERY] in self.open and look.now_s - told_s >= ON_BATTERY_EVERY_S:
            self._battery_s = look.now_s
            found.append(self._on_battery(look))
        return found + self._changed_links(look)

    def _changed_links(self, look: Look) -> list[Notice]:
        """Of interfaces that have gone up or down; one that vanishes is "not present", and was so before it came."""
        now = {
            index: (int(columns[IF_ADMIN_STATUS - 1]), int(columns[IF_OPER_STATUS - 1]))
            for index, columns in look.interfaces.items()
            if columns
        }
        before, self._links = self._links, now
        if before is None:
            return []
        found = []
        for index in sorted(now | before):
            admin, was = before.get(index, (0, IF_NOT_PRESENT))
            admin, state = now.get(index, (admin, IF_NOT_PRESENT))
            if (was == IF_UP) != (state == IF_UP):
                found.append(_link(index, admin, state, look))
        return found


def cold_start(look: Look) -> Notice:
    """The agent has started."""
    return Notice((*GENERIC, COLD_START), look.ticks, b"")


def private_start(look: Look) -> Notice:
    """The same in the tree of GENEREX."""
    return Notice(upsman.STARTED, look.ticks, b"")


def authentication_failure(look: Look) -> Notice:
    """Somebody has asked with a wrong community."""
    return Notice((*GENERIC, AUTHENTICATION_FAILURE), look.ticks, b"", "authentication")


def _about(number: int) -> str:
    return f"alarm {number}"


def _alarm(kind: int, row_id: int, number: int, look: Look) -> Notice:
    columns = (*UPS, 1, 6, 2, 1)
    bindings = bound((*columns, 1, row_id), ber.integer(row_id))
    bindings += bound((*columns, 2, row_id), ber.oid((*WELL_KNOWN_ALARMS, number)))
    return Notice((*TRAPS, kind), look.ticks, bindings, _about(number))


def _link(index: int, admin: int, state: int, look: Look) -> Notice:
    values = ((1, index), (IF_ADMIN_STATUS, admin), (IF_OPER_STATUS, state))
    bindings = b"".join(bound((*IF_TABLE, column, index), ber.integer(value, INTEGER)) for column, value in values)
    return Notice((*GENERIC, LINK_UP if state == IF_UP else LINK_DOWN), look.ticks, bindings, f"interface {index}")
