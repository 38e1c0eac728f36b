"""The ups thread: owns the driver and its link, polls it, opens it again for ever, and hands it orders."""

from __future__ import annotations

import logging
import math
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .ages import without_old
from .model import Command, Driver, LinkError, OrderError, Status
from .plausible import Oddities, Runtimes, believable
from .usbport import Rescue

log = logging.getLogger(__name__)

REOPEN_AFTER = 3  # failed polls in a row
FAILED_AGAIN_S = 1.0  # after a failed poll the next comes no later, however seldom it is polled
BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 15.0)
WOKEN_EVERY_S = 0.05  # a UPS that sends interrupt reports without end does not get the whole machine
ORDERS_LIMIT = 8
ORDER_WITHIN_S = 10.0
ERROR_LIMIT = 800  # characters; a USB UPS has put its name in it


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought: a frame, or why there was none."""

    status: Status | None
    error: str
    failed_polls: int  # in a row, this one included
    link: str  # up | down
    commands: frozenset[Command]
    off_return: str = "no"  # see model.Driver
    hint: str = ""  # see model.View


@dataclass(slots=True)
class _Order:
    command: Command
    args: Mapping[str, Any]
    done: threading.Event = field(default_factory=threading.Event)
    then: Callable[[str, str], None] | None = None  # called with the error and the remark, or ''
    error: str = ""
    remark: str = ""
    taken: bool = False  # guarded by the Ups' lock: it will be given, or nobody waits for it any more


class Ups:
    """`opener()` connects to the UPS or raises LinkError; `deliver(polled)` takes what a poll brought at once.

    `rescue` helps where opening again does not; the opener tells it the USB socket. `back_off_s`: pauses before it is
    opened again, the last one for ever; empty: BACK_OFF_S.
    """

    def __init__(
        self,
        opener: Callable[[], Driver],
        deliver: Callable[[Polled], None],
        poll_s: float,
        rescue: Rescue,
        back_off_s: tuple[float, ...] = (),
    ) -> None:
        self._opener, self._deliver, self._poll_s, self._rescue = opener, deliver, poll_s, rescue
        self._back_off_s = back_off_s or BACK_OFF_S
        self._driver: Driver | None = None
        self._off_return = "no"  # of the unit that was last connected
        self._failed_polls = 0
        self._openings = 0  # failed ones in a row
        self._open_at_s = 0.0
        self._hurry_s = math.inf  # not later than this
        self._began_s = self._polled_s = 0.0  # begin and end of the last poll
        self._oddities = Oddities()
        self._runtimes = Runtimes()
        self._orders: queue.Queue[_Order] = queue.Queue(maxsize=ORDERS_LIMIT)
        self._lock = threading.Lock()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.turned_s = time.monotonic()  # when the loop last went round; the watchdog looks at it

    def order(self, command: Command, args: Mapping[str, Any], until_s: float | None = None) -> str:
        """Give the UPS an order and wait until it is given, from any thread; what the driver remarks, or ''.
        `until_s`: monotonic second after which it is not begun any more. OrderError says why not."""
        within_s = ORDER_WITHIN_S if until_s is None else min(until_s - time.monotonic(), ORDER_WITHIN_S)
        if within_s <= 0:
            raise OrderError("it came too late and was not given")
        order = _Order(command, args)
        try:
            self._orders.put_nowait(order)
        except queue.Full:
            raise OrderError("too many orders are waiting") from None
        self.wake()
        if not order.done.wait(within_s):
            with self._lock:
                late, order.taken = order.taken, True
            if late:  # it is being given at this moment
                order.done.wait(ORDER_WITHIN_S)
            if not order.done.is_set():
                raise OrderError("the UPS did not take it in time" + (", it may still do so" if late else ""))
        if order.error:
            raise OrderError(order.error)
        return order.remark

    def post(self, command: Command, args: Mapping[str, Any], then: Callable[[str, str], None]) -> None:
        """Give the UPS an order without waiting; `then` is called in the ups thread with the error and the driver's
        remark, or ''."""
        try:
            self._orders.put_nowait(_Order(command, args, then=then))
        except queue.Full:
            then("too many orders are waiting", "")
        self.wake()

    def wake(self) -> None:
        """Go round now."""
        try:
            os.write(self._wake_w, b"x")
        except BlockingIOError:
            pass  # it is already awake

    def hurry(self, at_s: float) -> None:
        """Poll at this monotonic second, if that is before the next regular poll; at once, if it went by in one."""
        if at_s > self._began_s:
            self._hurry_s = min(self._hurry_s, at_s)
        self.wake()

    def run(self, stop: threading.Event) -> None:
        """The thread: until `stop` (and a `wake`)."""
        next_s = time.monotonic()
        while not stop.is_set():
            now_s = self.turned_s = time.monotonic()
            due_s = self._due_s(next_s)
            if now_s >= due_s:
                self._began_s = now_s
                if now_s >= self._hurry_s:
                    self._hurry_s = math.inf  # before the poll: what it brings may ask for the next one
                self._poll()
                next_s = max(due_s + self._poll_s, time.monotonic() - self._poll_s)
            woken = self._wait(max(0.0, self._due_s(next_s) - time.monotonic()))
            if self._serve_orders() or woken:
                next_s = time.monotonic()
        if self._driver is not None:
            self._driver.close()

    def _due_s(self, next_s: float) -> float:
        """When to poll: the next regular time, or sooner; one hurried poll does not follow the other at once."""
        return min(next_s, max(self._hurry_s, self._polled_s + WOKEN_EVERY_S))

    def _wait(self, within_s: float) -> bool:
        """Wait for the next poll, an order, or the driver's wake_fd; True if the UPS asks to be polled."""
        poll = select.poll()  # not select(): it cannot take a descriptor above 1023
        poll.register(self._wake_r, select.POLLIN)
        wake_fd = self._driver.wake_fd if self._driver is not None else None
        quiet_s = self._polled_s + WOKEN_EVERY_S - time.monotonic()
        if wake_fd is not None and quiet_s > 0:
            within_s, wake_fd = min(within_s, quiet_s), None
        if wake_fd is not None:
            poll.register(wake_fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(within_s * 1000)}
        if self._wake_r in ready:
            os.read(self._wake_r, 4096)
        return wake_fd is not None and wake_fd in ready

    def _poll(self) -> None:
        """One poll, or one attempt to open."""
        try:
            if self._driver is None:
                if time.monotonic() < self._open_at_s:
                    self._hurry_s = self._open_at_s
                    return
                self._rescue.before_open()
                self._driver = self._opener()
            status = self._believed(self._driver.poll())
        except LinkError as e:
            self._failed(e)
            return
        finally:
            self._polled_s = time.monotonic()
        self._openings = 0
        self._rescue.well()
        self._off_return = self._driver.off_return
        if self._failed_polls >= REOPEN_AFTER:
            log.info("the UPS answers again after %d failed polls", self._failed_polls)
        self._failed_polls = 0
        if (again_s := getattr(self._driver, "again_s", None)) is not None:
            self._hurry_s = min(self._hurry_s, time.monotonic() + again_s)
        self._deliver(Polled(status, "", 0, "up", self._driver.commands, self._driver.off_return))

    def _believed(self, status: Status) -> Status:
        """The status without what cannot be, or is too old; the first is said, with what the driver has left out."""
        status, odd = believable(without_old(status), tells_runtime=self._runtimes.tells)
        self._runtimes.step(status, odd)
        for is_warning, line in self._oddities.step({**getattr(self._driver, "odd", {}), **odd}, status.taken_s):
            log.log(logging.WARNING if is_warning else logging.INFO, "%s", line)
        return status

    def _failed(self, error: LinkError) -> None:
        why = _shown(str(error))
        self._failed_polls += 1
        if self._failed_polls == 1:
            log.warning("poll failed: %s", why)
        else:
            log.debug("poll failed %d times: %s", self._failed_polls, why)
        # what was opened anew and fails at once has had its chance; what is still learning would begin again
        due = self._failed_polls % REOPEN_AFTER == 0 and not getattr(self._driver, "learning", False)
        if self._driver is None or self._rescue.strikes or due:
            if self._driver is not None:
                self._driver.close()
                self._driver = None
            if told := self._rescue.failed(error):
                why = _shown(f"{why}; {told}")
            self._open_at_s = time.monotonic() + self._back_off_s[min(self._openings, len(self._back_off_s) - 1)]
            self._hurry_s = self._open_at_s
            self._openings += 1
        else:
            self._hurry_s = time.monotonic() + FAILED_AGAIN_S
        commands: frozenset[Command] = self._driver.commands if self._driver is not None else frozenset()
        link = "down" if self._driver is None else "up"
        self._deliver(Polled(None, why, self._failed_polls, link, commands, self._off_return, self._rescue.hint))

    def _serve_orders(self) -> bool:
        """Give the waiting orders; True if there was one, so that its effect is seen at once."""
        served = False
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return served
            with self._lock:
                if order.taken:
                    continue
                order.taken = True
            served = True
            try:
                if self._driver is None:
                    raise OrderError("there is no connection to the UPS")
                if order.command not in self._driver.commands:
                    raise OrderError(f"this UPS cannot do {order.command.value}")
                order.remark = self._driver.order(order.command, **order.args) or ""
            except (OrderError, LinkError) as e:
                order.error = str(e)
            except TypeError as e:
                order.error = f"wrong arguments for {order.command.value}: {e}"
            order.done.set()
            if order.then is not None:
                order.then(order.error, order.remark)


def _shown(text: str) -> str:
    """An error as it may stand in a log, a terminal and a page: of the unit's own words no control character."""
    return "".join(c if c.isprintable() else "?" for c in text)[:ERROR_LIMIT]
