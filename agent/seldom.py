"""Bounds the log lines of the way to the UPS: what comes and goes without end is a few lines an hour."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

WHOSE = (
    *("agent.ups", "agent.detect", "agent.drivers", "agent.q1", "agent.quirks"),
    *("agent.link", "agent.lines", "agent.bridge", "agent.hid", "agent.usb", "agent.shut", "agent.modbus"),
    *("agent.upsd", "agent.snmplink", "agent.snmp3link", "agent.snmpchild"),
)  # names begin so
LINES, EVERY_S = 10, 3600.0  # of a kind


class Seldom(logging.Filter):
    """Lets LINES of a kind through in EVERY_S; the next one after that says how many were left out. A kind is what a
    line says without its values."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: CLOCK_MONOTONIC in seconds."""
        super().__init__()
        self._now, self._lock = now, threading.Lock()
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}  # since when, and how many came

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        kind = record.name, str(record.msg)
        if record.levelno < logging.INFO or kind[1] == "%s" or not record.name.startswith(WHOSE):
            return True  # whoever builds a whole line bounds it himself (agent/plausible.py)
        with self._lock:
            now_s = self._now()
            since_s, came = self._kinds.get(kind, (now_s, 0))
            left_out = max(0, came - LINES)
            if over := now_s - since_s >= EVERY_S:
                since_s, came = now_s, 0
            self._kinds[kind] = since_s, came + 1
        if over and left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} lines like this were left out)", ()
        return came < LINES


def bound(handlers: list[logging.Handler], now: Callable[[], float]) -> None:
    """Have these handlers write such lines seldom."""
    it = Seldom(now)
    for handler in handlers:
        handler.addFilter(it)
