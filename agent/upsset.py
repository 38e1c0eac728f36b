"""What SNMP managers may set: texts, tests, the beeper, and, if that is allowed, the output of the UPS. Pure.

Sources: RFC 1628 (what may be written, and what it does), RFC 3416 section 4.2.5 (the errors, and their order). A SET
is checked whole before anything is done. It holds at most one order to the UPS: two could not be undone together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import ber, upsmib
from .ber import INTEGER, OBJECT_ID, OCTET_STRING, Oid
from .mib import INT_MAX, Look
from .mib2 import SYSTEM
from .model import Command, Condition, View
from .outage import RETURN_DELAY_S
from .upsmib import ABORT_TEST, DEEP_TEST, GENERAL_TEST, QUICK_TEST, TESTS, UPS

GEN_ERR, NO_ACCESS, WRONG_TYPE, WRONG_LENGTH, WRONG_ENCODING, WRONG_VALUE, NO_CREATION = 5, 6, 7, 8, 9, 10, 11
INCONSISTENT_VALUE, RESOURCE_UNAVAILABLE, COMMIT_FAILED, UNDO_FAILED, NOT_WRITABLE = 12, 13, 14, 15, 17

#: RFC 3416 section 3
ERRORS = {
    GEN_ERR: "genErr", NO_ACCESS: "noAccess", WRONG_TYPE: "wrongType", WRONG_LENGTH: "wrongLength",
    WRONG_ENCODING: "wrongEncoding", WRONG_VALUE: "wrongValue", NO_CREATION: "noCreation",
    INCONSISTENT_VALUE: "inconsistentValue", RESOURCE_UNAVAILABLE: "resourceUnavailable",
    COMMIT_FAILED: "commitFailed", UNDO_FAILED: "undoFailed", NOT_WRITABLE: "notWritable",
}  # fmt: skip

Triple = tuple[bytes, int, bytes]  # encoded name, tag and body of the value
_TEST_COMMANDS = {
    ABORT_TEST: Command.TEST_STOP, GENERAL_TEST: Command.TEST_QUICK, QUICK_TEST: Command.TEST_QUICK,
    DEEP_TEST: Command.TEST_DEEP,
}  # fmt: skip
ON, OFF = 1, 2


class Refused(Exception):
    """The UPS, or the core, does not do what was ordered. `error` is what the manager gets."""

    def __init__(self, text: str, error: int = INCONSISTENT_VALUE) -> None:
        super().__init__(text)
        self.error = error


class _Wrong(Exception):
    """A value cannot be set; the argument is the error's number."""


@dataclass
class _Plan:
    """What a SET would do."""

    texts: dict[str, str]
    returns: bool
    locked: bool = False  # it holds the spin lock's value
    test_id: Oid | None = None
    order: tuple[Command, dict[str, Any], int] | None = None  # and the index of its object
    countdown: tuple[str, int | None] | None = None  # the object, and its seconds; None: stopped
    changed: list[str] = field(default_factory=list)  # for the audit row
    kept_at: int = 1  # the index of the first object that is kept in the file


Order = Callable[[Command, Mapping[str, Any], str, str], None]
Audit = Callable[[str, str, str, str], None]
Refuse = Callable[[bytes, int], None]


def object_name(name: bytes) -> str:
    """What an encoded name is called: that of an object that can be set, else its arcs."""
    setting = SETTINGS.get(name)
    return setting.name if setting else ".".join(map(str, ber.arcs(name)))


def _nobody(command: Command, args: Mapping[str, Any], who: str, host: str) -> None:
    raise Refused("there is no core", RESOURCE_UNAVAILABLE)


@dataclass(frozen=True)
class Kept:
    """What managers have set, as it is at one moment."""

    texts: Mapping[str, str]
    spin_lock: int = 1
    test_id: Oid | None = None
    test_s: float = 0.0  # monotonic second at which it was ordered
    until: tuple[str, float] | None = None  # the countdown that was ordered last: object, monotonic second
    shown: bool = False  # the unit has said that it counts
    test_until_s: float = 0.0  # so long a test that was ordered here runs though no view shows it
    over_until_s: float = 0.0  # so long a countdown that was ended here is over though the view still shows it

    @property
    def returns(self) -> bool:
        """upsAutoRestart: does the output come back with the mains?"""
        return self.texts.get("upsAutoRestart") != "off"

    def countdown_s(self, name: str, now_s: float) -> int | None:
        """What is left of the countdown of an object; -1 if it is another's, or was ended; None: none is known."""
        if self.until is None or self.until[1] <= now_s:
            return -1 if now_s < self.over_until_s else None
        return int(self.until[1] - now_s) if self.until[0] == name else -1


class Writer:
    """Does what managers set, and remembers what they have set. `write` is for one thread, the others for any."""

    def __init__(
        self,
        texts: Mapping[str, str] | None = None,
        save: Callable[[Mapping[str, str]], None] = lambda texts: None,
        order: Order = _nobody,
        audit: Audit = lambda what, who, host, why: None,
        *,
        allow_shutdown: bool = False,
    ) -> None:
        """`texts` were set before; `save` keeps them (OSError); `order(command, args, who, host)` has the UPS do it
        (Refused); `audit(what, who, host, why)` leaves a row of what else was set, or, with a `why`, was not."""
        self.kept = Kept(dict(texts or {}))
        self._changing = threading.Lock()
        self.audit, self._save, self._order, self._may_switch = audit, save, order, allow_shutdown

    def counts(self, now_s: float) -> bool:
        """Whether a countdown that was ordered here goes on: then `saw` wants to know."""
        until = self.kept.until
        return until is not None and until[1] > now_s

    def saw(self, view: View) -> None:
        """What the unit says now. One that has shown its countdown, and shows it no more, was stopped by somebody."""
        pending = _pending(view)
        with self._changing:
            until = None if self.kept.shown and not pending else self.kept.until
            self.kept = replace(
                self.kept, until=until, shown=pending and until is not None,
                test_until_s=0.0 if _testing(view) else self.kept.test_until_s,
                over_until_s=self.kept.over_until_s if pending else 0.0,
            )  # fmt: skip

    def write(
        self, triples: Sequence[Triple], look: Look, who: str, host: str, refuse: Refuse = lambda name, error: None
    ) -> tuple[int, int]:
        """Set all or nothing; error-status and error-index. `refuse(name, error)` hears what is refused here, not
        what the core refuses: that has its row already."""
        plan = _Plan(dict(self.kept.texts), self.kept.returns)
        # as if all were set at once (RFC 3416 section 4.2.5): first what the others depend on
        for index, (name, tag, body) in sorted(enumerate(triples, start=1), key=lambda one: one[1][0] not in FIRST):
            try:
                self._check(name, tag, body, look, plan, index)
            except _Wrong as e:
                refuse(name, e.args[0])
                return e.args[0], index
        error, index = self._commit(plan, look, who, host)
        if error in (COMMIT_FAILED, UNDO_FAILED):
            refuse(triples[max(index, 1) - 1][0], error)
        return error, index

    def _check(self, name: bytes, tag: int, body: bytes, look: Look, plan: _Plan, index: int) -> None:
        setting = SETTINGS.get(name)
        if setting is None:
            raise _Wrong(NO_CREATION if any(name.startswith(s[:-1]) for s in SETTINGS) else NOT_WRITABLE)
        if setting.switches and not self._may_switch:
            raise _Wrong(NO_ACCESS)
        value = _value(setting, tag, body)
        before, kept = plan.order, len(plan.changed)
        setting.plan(self, setting.name, value, look, plan)
        if kept == 0 and plan.changed:
            plan.kept_at = index
        if plan.order is not before:
            if before is not None or plan.order is None:
                raise _Wrong(RESOURCE_UNAVAILABLE)
            plan.order = (*plan.order[:2], index)

    def _commit(self, plan: _Plan, look: Look, who: str, host: str) -> tuple[int, int]:
        before = self.kept.texts
        if plan.texts != before:
            try:
                self._save(plan.texts)
            except OSError:
                return COMMIT_FAILED, plan.kept_at
        if plan.order is not None:
            command, args, index = plan.order
            try:
                self._order(command, args, who, host)
            except Refused as e:
                try:
                    if plan.texts != before:
                        self._save(before)
                except OSError:
                    return UNDO_FAILED, 0
                return e.error, index
        with self._changing:
            self.kept = self._after(plan, look.now_s)
        if plan.changed:
            self.audit(" ".join(plan.changed), who, host, "")
        return 0, 0

    def _after(self, plan: _Plan, now_s: float) -> Kept:
        kept = replace(self.kept, texts=plan.texts)
        if plan.test_id is not None:
            kept = replace(kept, test_id=plan.test_id, test_s=now_s, test_until_s=now_s + upsmib.ORDER_WITHIN_S)
        elif plan.order is not None and plan.order[0] is Command.TEST_STOP:
            kept = replace(kept, test_until_s=0.0)
        if plan.locked:
            kept = replace(kept, spin_lock=0 if kept.spin_lock >= INT_MAX else kept.spin_lock + 1)
        if plan.countdown is not None:
            name, seconds = plan.countdown
            until = None if seconds is None else (name, now_s + seconds)
            over_until_s = now_s + upsmib.ORDER_WITHIN_S if until is None else 0.0
            kept = replace(kept, until=until, shown=False, over_until_s=over_until_s)
        return kept


# --- one object each --------------------------------------------------------------------------------------------

Value = Any  # int, str or Oid, as the object's type wants it
Planner = Callable[[Writer, str, Value, Look, _Plan], None]


@dataclass(frozen=True)
class Setting:
    """One object that may be written. `low`, `high`: of a number; of a text its length."""

    name: str
    tag: int
    low: int
    high: int
    plan: Planner
    switches: bool = False  # the UPS's output


def _value(setting: Setting, tag: int, body: bytes) -> Value:
    """The value in the object's type. _Wrong."""
    if tag != setting.tag:
        raise _Wrong(WRONG_TYPE)
    if tag == OBJECT_ID:
        return ber.arcs(body)
    if tag == OCTET_STRING:
        if not setting.low <= len(body) <= setting.high:
            raise _Wrong(WRONG_LENGTH)
        if any(not 32 <= octet < 127 for octet in body):
            raise _Wrong(WRONG_VALUE)
        return body.decode("ascii")
    if not 1 <= len(body) <= 4:
        raise _Wrong(WRONG_ENCODING)
    number = int.from_bytes(body, "big", signed=True)
    if not setting.low <= number <= setting.high:
        raise _Wrong(WRONG_VALUE)
    return number


def _keep(_: Writer, name: str, value: str, look: Look, plan: _Plan) -> None:
    plan.texts[name] = value
    plan.changed.append(f"{name}={value!r}")


def _need(look: Look, command: Command) -> Command:
    """The command, if this UPS can do it."""
    if command not in look.view.commands:
        raise _Wrong(INCONSISTENT_VALUE)
    return command


def _spin_lock(writer: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    if value != writer.kept.spin_lock:
        raise _Wrong(INCONSISTENT_VALUE)
    plan.locked = True


def _testing(view: View) -> bool:
    return any(active.condition is Condition.TEST_RUNNING for active in view.conditions)


def _test(writer: Writer, name: str, value: Oid, look: Look, plan: _Plan) -> None:
    command = _TEST_COMMANDS.get(value[-1]) if value[:-1] == TESTS else None
    if command is None:
        raise _Wrong(WRONG_VALUE)
    running = _testing(look.view) or look.now_s < writer.kept.test_until_s
    if not plan.locked or running != (command is Command.TEST_STOP):
        raise _Wrong(INCONSISTENT_VALUE)
    plan.order = (_need(look, command), {}, 0)
    if command is not Command.TEST_STOP:  # that is no test: the name of the one that is aborted stays
        plan.test_id = value


def _shutdown_type(_: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    if value != 1:  # output; we do not switch the UPS itself off
        raise _Wrong(INCONSISTENT_VALUE)


def _auto_restart(_: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    _need(look, Command.SHUTDOWN_RETURN if value == ON else Command.SHUTDOWN_STAY_OFF)
    plan.returns = value == ON
    _keep(_, name, "on" if value == ON else "off", look, plan)


def _pending(view: View) -> bool:
    return any(active.condition in upsmib.PENDING for active in view.conditions)


def _stop(writer: Writer, name: str, look: Look, plan: _Plan) -> None:
    """-1: end the countdown of this object, or one that was ordered elsewhere, if there is one."""
    if plan.order is not None and plan.order[0] is Command.SHUTDOWN_STOP:
        return  # managers write it into all countdowns at once: there is one to end
    left_s = writer.kept.countdown_s(name, look.now_s)
    if (left_s is not None and left_s >= 0) or (not writer.counts(look.now_s) and _pending(look.view)):
        plan.order, plan.countdown = (_need(look, Command.SHUTDOWN_STOP), {}, 0), (name, None)


def _shut_down(writer: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    if value < 0:
        _stop(writer, name, look, plan)
        return
    command, args = Command.SHUTDOWN_STAY_OFF, {"delay_s": float(value)}
    if plan.returns:
        command, args = Command.SHUTDOWN_RETURN, {**args, "return_delay_s": RETURN_DELAY_S}
    plan.order, plan.countdown = (_need(look, command), args, 0), (name, value)


def _reboot(writer: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    if value < 0:
        _stop(writer, name, look, plan)
        return
    args = {"delay_s": 0.0, "return_delay_s": float(value)}
    plan.order, plan.countdown = (_need(look, Command.SHUTDOWN_RETURN), args, 0), (name, value)


def _start_up(_: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    if value > 0:  # no driver switches an output on after a delay of its own
        raise _Wrong(INCONSISTENT_VALUE)
    if value == 0:
        plan.order = (_need(look, Command.LOAD_ON), {}, 0)


def _beeper(_: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    if value == 3:  # muted until the next alarm: no driver can
        raise _Wrong(INCONSISTENT_VALUE)
    if upsmib.number(name, look) != value:
        plan.order = (_need(look, Command.BEEPER_ON if value == 2 else Command.BEEPER_OFF), {}, 0)


def _as_it_is(_: Writer, name: str, value: int, look: Look, plan: _Plan) -> None:
    """What the unit's maker has set: only its present value is accepted."""
    found = upsmib.number(name, look)
    if found is None:
        raise _Wrong(NOT_WRITABLE)
    if found != value:
        raise _Wrong(INCONSISTENT_VALUE)


def _settings() -> dict[bytes, Setting]:
    rows: list[tuple[Oid, Setting]] = [
        ((*SYSTEM, 4), Setting("sysContact", OCTET_STRING, 0, 255, _keep)),
        ((*SYSTEM, 5), Setting("sysName", OCTET_STRING, 0, 255, _keep)),
        ((*SYSTEM, 6), Setting("sysLocation", OCTET_STRING, 0, 255, _keep)),
        ((*UPS, 1, 1, 5), Setting("upsIdentName", OCTET_STRING, 0, 63, _keep)),
        ((*UPS, 1, 1, 6), Setting("upsIdentAttachedDevices", OCTET_STRING, 0, 63, _keep)),
        ((*UPS, 1, 7, 1), Setting("upsTestId", OBJECT_ID, 0, 0, _test)),
        ((*UPS, 1, 7, 2), Setting("upsTestSpinLock", INTEGER, 0, INT_MAX, _spin_lock)),
        ((*UPS, 1, 8, 1), Setting("upsShutdownType", INTEGER, 1, 2, _shutdown_type)),
        ((*UPS, 1, 8, 2), Setting("upsShutdownAfterDelay", INTEGER, -1, INT_MAX, _shut_down, switches=True)),
        ((*UPS, 1, 8, 3), Setting("upsStartupAfterDelay", INTEGER, -1, INT_MAX, _start_up, switches=True)),
        ((*UPS, 1, 8, 4), Setting("upsRebootWithDuration", INTEGER, -1, 300, _reboot, switches=True)),
        ((*UPS, 1, 8, 5), Setting("upsAutoRestart", INTEGER, 1, 2, _auto_restart, switches=True)),
        ((*UPS, 1, 9, 8), Setting("upsConfigAudibleStatus", INTEGER, 1, 3, _beeper)),
    ]
    rows += [
        ((*UPS, 1, 9, number), Setting(name, INTEGER, 0, INT_MAX, _as_it_is))
        for number, name in (
            (1, "upsConfigInputVoltage"), (2, "upsConfigInputFreq"), (3, "upsConfigOutputVoltage"),
            (4, "upsConfigOutputFreq"), (7, "upsConfigLowBattTime"), (9, "upsConfigLowVoltageTransferPoint"),
            (10, "upsConfigHighVoltageTransferPoint"),
        )
    ]  # fmt: skip
    return {ber.oid_body((*oid, 0)): setting for oid, setting in rows}


SETTINGS = _settings()
SPIN_LOCK, AUTO_RESTART = ber.oid_body((*UPS, 1, 7, 2, 0)), ber.oid_body((*UPS, 1, 8, 5, 0))
FIRST = frozenset((SPIN_LOCK, AUTO_RESTART))
