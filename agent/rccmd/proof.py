"""Waits until an adapter has spoken to the listener over the secure way, as the listener's status.json tells."""

from __future__ import annotations

import json
from typing import Callable

WAIT_S = 60.0  # the adapter asks at once and every 2 s for a minute
LOOK_EVERY_S = 0.5
STATUS_LIMIT_BYTES = 64 * 1024


def spoken(status: str, sender: str) -> object:
    """When this sender's last NOOP came, in the listener's words; None: never, or nobody knows."""
    try:
        with open(status, "rb") as stream:
            told = json.loads(stream.read(STATUS_LIMIT_BYTES))
        return told["senders"][sender]["noop_s"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait(
    status: str, sender: str, before: object, now_s: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    """Wait for a NOOP other than `before`. True: it came. The clock on the wall plays no part."""
    until_s = now_s() + WAIT_S
    while True:
        now = spoken(status, sender)
        if now is not None and now != before:
            return True
        if now_s() >= until_s:
            return False
        sleep(LOOK_EVERY_S)
