"""`ridethrough message` and `execute`: has servers told something by hand, and says what became of it."""

from __future__ import annotations

import argparse
import time

from . import bus, steer, wire
from .config import Config
from .model import Event

OUTCOMES = {"delivered-unconfirmed": "delivered, unconfirmed", "not-delivered": "not delivered"}
WAIT_S, AGAIN_S = 20.0, 0.3  # for the outcomes, which stand in the log


def say(args: argparse.Namespace, settings: Config, wait_s: float = WAIT_S) -> int:
    """0: every server took it; 1: not all did, or it is not known yet."""
    path, since = steer.socket_path(settings), _last_event(settings)
    order: bus.Message = {"type": "say", "do": args.verb, "to": args.to, "text": args.text, "origin": steer.origin()}
    reply = bus.ask(path, order)
    waiting = {str(name) for name in reply.get("servers", [])}
    bad, end_s = 0, time.monotonic() + wait_s
    while waiting and time.monotonic() < end_s:
        time.sleep(AGAIN_S)
        reply = bus.ask(path, {"type": "query", "what": "events", "since": since, "limit": 500})
        for event in (wire.from_json(Event, row) for row in reply.get("events", [])):
            since = max(since, event.id)
            if event.name != args.verb:
                continue
            outcome, detail = event.data.get("outcome", ""), event.data.get("detail", "")
            for name in event.data.get("server", "").split(", "):
                if name in waiting:
                    waiting.discard(name)
                    bad += outcome == "not-delivered"
                    print(f"{name}: {OUTCOMES.get(outcome, outcome)}{f' ({detail})' if detail else ''}")
    for name in sorted(waiting):
        print(f"{name}: no outcome yet; see `ridethrough log`")
    return 1 if bad or waiting else 0


def _last_event(settings: Config) -> int:
    reply = bus.ask(steer.socket_path(settings), {"type": "query", "what": "events", "limit": 1})
    return max((int(row["id"]) for row in reply.get("events", [])), default=0)
