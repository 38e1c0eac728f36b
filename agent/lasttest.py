"""Which test of the UPS began last, by an order or by itself. No UPS says so: it is told from the events. Pure.

Its use is RFC 1628's upsTestId.
"""

from __future__ import annotations

from collections.abc import Iterable

from .model import Command, Condition, Event

TESTS = frozenset(command.value for command in (Command.TEST_QUICK, Command.TEST_DEEP, Command.TEST_MINUTES))
BEGINS_WITHIN_S = 60.0  # that a test is seen to run after its order


class LastTest:
    """`order` began it ("": the UPS), at the monotonic second `began_s`; None: none is known."""

    def __init__(self) -> None:
        self.order = ""
        self.began_s: float | None = None
        self._expected_until_s = float("-inf")

    def hear(self, events: Iterable[Event], now_s: float) -> None:
        """What happened now."""
        for event in events:
            if event.kind == "began" and event.name == Condition.TEST_RUNNING.value:
                if now_s > self._expected_until_s:
                    self.order, self.began_s = "", now_s
                self._expected_until_s = float("-inf")
            elif event.name == "command" and event.data.get("outcome") == "done":
                self._ordered(event.data.get("command", ""), now_s)

    def _ordered(self, command: str, now_s: float) -> None:
        if command in TESTS:
            self.order, self.began_s = command, now_s
            self._expected_until_s = now_s + BEGINS_WITHIN_S
