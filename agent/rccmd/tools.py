"""`rccmd status` and `rccmd selftest`: what the listener on this server knows, and whether its shutdown works."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Callable

from . import status
from .codec import printable
from .settings import SettingsError, load

WITHIN_S = 70.0  # for a self test: its own limit is 60 s
LOOK_EVERY_S = 0.1


def show(config: str | None, folder: str | None, *, as_json: bool) -> int:
    """Print the status. Exit code: 0 a listener runs and its self test has not failed, 1 not so, 2 wrong use."""
    place = _place(config, folder)
    if place is None:
        return 2
    facts = status.read(os.path.join(place, "status.json"))
    pid = status.running(place)
    if as_json:
        print(json.dumps({"pid": pid, **facts}, indent=1))
    elif facts:
        try:
            print("\n".join(map(printable, status.shown(facts, pid, time.time()))))
        except (KeyError, TypeError) as e:
            print(f"rccmd: {place}/status.json is not of this version: {e!r}", file=sys.stderr)
            return 1
    else:
        print(f"rccmd: no listener has run in {place}", file=sys.stderr)
    failed = facts.get("selftest", {}).get("selftest") == "failed"
    return 1 if pid is None or not facts or failed else 0


def selftest(config: str | None, folder: str | None, sleep: Callable[[float], None] = time.sleep) -> int:
    """Let the running listener do its self test now. Exit code: 0 ok, 1 failed or no listener, 2 wrong use."""
    place = _place(config, folder)
    if place is None:
        return 2
    path = os.path.join(place, "selftest.json")
    before = _result(path)
    try:
        pid = None if sys.platform == "win32" else status.send_signal(place, signal.SIGUSR1)
    except OSError as e:
        print(f"rccmd: the listener, pid {status.running(place)}, cannot be asked: {e.strerror}", file=sys.stderr)
        return 1
    if pid is None:
        print(f"rccmd: no listener runs in {place}; it does its self test when it starts", file=sys.stderr)
        return 1
    until_s = time.monotonic() + WITHIN_S
    while (now := _result(path)) == before:
        if time.monotonic() >= until_s:
            print("rccmd: no result; is `selftest` set in rccmd.ini?", file=sys.stderr)
            return 1
        sleep(LOOK_EVERY_S)
    print(printable(f"self test {now.get('result')}, {now.get('detail')}"))
    return 0 if now.get("result") == "ok" else 1


def _result(path: str) -> dict[str, object]:
    return status.read(path)


def _place(config: str | None, folder: str | None) -> str | None:
    """The state folder; None, and a line, if nobody says where."""
    try:
        place = folder or (load({}, config).state_dir if config else None)
    except SettingsError as e:
        print("\n".join(f"rccmd: {line}" for line in str(e).splitlines()), file=sys.stderr)
        return None
    if place is None:
        print("rccmd: where? --config FILE with state_dir in it, or --state-dir FOLDER", file=sys.stderr)
    return place
