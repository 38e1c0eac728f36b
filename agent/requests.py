"""Answers what the others ask over the bus: the status, the log, orders to the UPS, and wishes to protection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import bus, wire
from .busserver import Peer
from .engine import Engine, Item, Note, Wish
from .model import Command, OrderError
from .store import Store
from .ups import Ups

WISH_WITHIN_S = 5.0


class Requests:
    """`put` gives the engine an item; `reload` reads the configuration again and says what came of it."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        ups: Ups,
        put: Callable[[Item], None],
        reload: Callable[[], bus.Message],
    ) -> None:
        self._engine, self._store, self._ups, self._put, self._reload = engine, store, ups, put, reload

    def answer(self, message: bus.Message, peer: Peer) -> bus.Message:
        """One request from the bus. BusError says why not."""
        kind = message.get("type")
        if kind == "query" and message.get("what") == "status":
            return {"view": wire.to_json(self._engine.view)}
        if kind == "query" and message.get("what") == "events":
            since, limit = message.get("since"), message.get("limit", 100)
            if not (since is None or type(since) is int) or type(limit) is not int or abs(since or 0) >= 2**62:
                raise bus.BusError("since and limit must be whole numbers")
            events, more = self._store.events(since, limit)
            return {"events": [wire.to_json(e) for e in events], "more": more}
        if kind == "command":
            return self._command(message, peer)
        if kind == "protect":
            return self._protect(message, peer)
        if kind == "audit":
            data = {"command": "set", "args": _plain(message.get("what", ""), 200), "outcome": "done"}
            self._put(Note("command", "", {**data, **_origin(message, peer)}))
            return {}
        if kind == "reload":
            self._put(Note("command", "", {"command": "reload", **_origin(message, peer), "outcome": "done"}))
            return self._reload()
        raise bus.BusError("no such request")

    def _protect(self, message: bus.Message, peer: Peer) -> bus.Message:
        """What an administrator asks of protection (Guard.wish)."""
        do, stage = message.get("do"), message.get("stage") or ""
        if not isinstance(do, str) or not isinstance(stage, str):
            raise bus.BusError("do and stage must be texts")
        do, stage = _plain(do, 32), _plain(stage, 64)
        wish = Wish(do, stage, {"command": do, "args": stage, **_origin(message, peer)})
        self._put(wish)
        if not wish.done.wait(WISH_WITHIN_S):
            raise bus.BusError("the core did not answer in time; look at the log before you ask again")
        if wish.error:
            raise bus.BusError(wish.error)
        return {}

    def _command(self, message: bus.Message, peer: Peer) -> bus.Message:
        try:
            command = Command(message.get("command"))
        except ValueError:
            names = ", ".join(c.value for c in Command)
            raise bus.BusError(f"no such command; there are: {names}") from None
        args: Any = message.get("args") or {}
        if not isinstance(args, dict):
            raise bus.BusError("args must be an object")
        said = _plain(" ".join(f"{k}={v}" for k, v in args.items()), 200)
        data = {"command": command.value, "args": said, **_origin(message, peer)}
        try:
            self._ups.order(command, {str(k): v for k, v in args.items()})
        except OrderError as e:
            self._put(Note("command", str(e), {**data, "outcome": "refused"}))
            raise bus.BusError(str(e)) from e
        self._put(Note("command", "", {**data, "outcome": "done"}))
        return {}


def _origin(message: bus.Message, peer: Peer) -> dict[str, str]:
    """Who asks, for the audit row. BusError if it is said in a wrong form."""
    origin: Any = message.get("origin") or {}
    if not isinstance(origin, dict):
        raise bus.BusError("origin must be an object")
    user, address = origin.get("user", f"uid {peer.uid}"), origin.get("address", "")
    return {"user": _plain(user, 64), "address": _plain(address, 64)}


def _plain(value: object, limit: int) -> str:
    """Text from outside, fit for log and database."""
    return str(value)[:limit].encode("utf-8", "replace").decode()
