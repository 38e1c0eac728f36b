"""Waits until an adapter has spoken to the new listener over the secure way, as the listener's status.json tells."""

from __future__ import annotations

from typing import Any, Callable

from . import status
from .secure import NOOP

WAIT_S = 60.0  # the adapter asks at once and every 2 s for a minute
LOOK_EVERY_S = 0.3
SILENT = "silent"
TOLERANCE_S = 0.5  # of times in the file, which are rounded


def heard(file: str, sender: str) -> float | None:
    """When this sender was heard last, in the wall-clock seconds of the file; None: never, or nobody knows."""
    found = _row(status.read(file), sender).get("heard_wall_s")
    return float(found) if isinstance(found, (int, float)) else None


def wait(
    file: str, sender: str, before: float | None, now_s: Callable[[], float], sleep: Callable[[float], None]
) -> str:
    """Wait for a NOOP of this sender and a self test, both after now. Returns "" when both are well, else what is
    missing. `before`: when it had been heard last. Whether the wall clock is right plays no part: only ages count."""
    began_s = now_s()
    while True:
        missing = _missing(status.read(file), sender, before, now_s() - began_s + TOLERANCE_S)
        if not missing or now_s() - began_s >= WAIT_S:
            return missing
        sleep(LOOK_EVERY_S)


def _missing(facts: dict[str, Any], sender: str, before: float | None, elapsed_s: float) -> str:
    row = _row(facts, sender)
    try:
        at_s, written_s = float(row["heard_wall_s"]), float(facts["written_wall_s"])
        new = written_s - at_s <= elapsed_s and (before is None or abs(at_s - before) > TOLERANCE_S)
        if row["verb"] != NOOP or not new:
            return SILENT
        test = facts["selftest"]
        if test["selftest"] == "off":
            return ""
        if float(test.get("selftest_age_s", elapsed_s + 1)) > elapsed_s + 1:
            return "the self test has not run"
        return "" if test["selftest"] == "ok" else f"the self test failed: {test.get('detail', '')}"
    except (KeyError, TypeError, ValueError):
        return SILENT


def _row(facts: dict[str, Any], sender: str) -> dict[str, Any]:
    senders = facts.get("senders")
    row = senders.get(sender) if isinstance(senders, dict) else None
    return row if isinstance(row, dict) else {}
