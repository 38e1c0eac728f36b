"""Answers what the others ask over the bus: the status, the log, orders to the UPS, and wishes to protection."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from . import bus, byword, helper, wire
from .busserver import Peer
from .engine import Engine, Item, Note, Wish
from .errands import Errand
from .model import Command, ConfigError, OrderError
from .store import Store
from .tape import Tape
from .ups import Ups

WISH_WITHIN_S = 5.0


class Requests:
    """`put` gives the engine an item; `reload` reads the configuration again (True: and disarms); `enrol` keeps
    the SHA-256 of a server's certificate and gives ours; `post` has
    something said to a server; `tape` has the frames of the UPS's link; `ask_helper` asks root's part one line."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        ups: Ups,
        put: Callable[[Item], None],
        reload: Callable[[bool], bus.Message],
        enrol: Callable[[str, str], str],
        post: Callable[[Errand], None],
        tape: Tape,
        ask_helper: Callable[[str], str] = helper.ask,
    ) -> None:
        self._engine, self._store, self._ups, self._put, self._reload = engine, store, ups, put, reload
        self._enrol, self._post, self._tape, self._ask_helper = enrol, post, tape, ask_helper

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
        if kind == "query" and message.get("what") == "frames":
            return {"frames": self._tape.rows()}
        if kind == "command":
            return self._command(message, peer)
        if kind == "protect":
            return self._protect(message, peer)
        if kind == "audit":
            why = _plain(message.get("why", ""), 200)
            data = {"command": "set", "args": _plain(message.get("what", ""), 200)}
            self._put(
                Note("command", why, {**data, "outcome": "refused" if why else "done", **_origin(message, peer)})
            )
            return {}
        if kind == "say":
            return self._say(message, peer)
        if kind == "host":
            return self._host(message, peer)
        if kind == "pin":
            return self._pin(message, peer)
        if kind == "reload":
            disarm = message.get("disarm") is True
            data = {"command": "disarm" if disarm else "reload", "outcome": "done"}
            self._put(Note("command", "", {**data, **_origin(message, peer)}))
            return self._reload(disarm)
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

    def _say(self, message: bus.Message, peer: Peer) -> bus.Message:
        """A text, or a command's name, to servers; what becomes of it is in the log (notes message and execute)."""
        do, to, text = (message.get(key) for key in ("do", "to", "text"))
        if not isinstance(do, str) or not isinstance(to, str) or not isinstance(text, str):
            raise bus.BusError("do, to and text must be texts")
        do, to, text = _plain(do, 32), _plain(to, 64), _plain(text, 2 * byword.TEXT_LIMIT_BYTES)
        data = {"command": do, "args": f"{to} {text}"[:200], **_origin(message, peer)}
        try:
            errands = byword.errands(do, to, text, self._engine.view)
        except OrderError as e:
            self._put(Note("command", str(e), {**data, "outcome": "refused"}))
            raise bus.BusError(str(e)) from e
        self._put(Note("command", "", {**data, "outcome": "done"}))
        for errand in errands:
            self._post(errand)
        return {"servers": [errand.server for errand in errands]}

    def _host(self, message: bus.Message, peer: Peer) -> bus.Message:
        """This host itself, by the root helper; `said` is not in the log: it may hold a pass phrase."""
        do, said = message.get("do"), message.get("said")
        if do not in helper.WORDS or not (said is None or isinstance(said, dict)):
            raise bus.BusError(f"do must be one of {', '.join(helper.WORDS)}, said an object")
        keys = " ".join(sorted(map(str, said or {})))
        data = {"command": f"host-{do}", "args": _plain(keys, 200), **_origin(message, peer)}
        try:
            if self._engine.view.phase != "idle":
                raise OrderError(f"protection is at work ({self._engine.view.phase}): wait until it is over")
            answer = self._ask_helper(str(do) if said is None else f"{do} {json.dumps(said)}")
            if not answer.startswith("ok "):
                raise OrderError(answer.removeprefix("no "))
        except (OSError, OrderError) as e:
            self._put(Note("command", str(e), {**data, "outcome": "refused"}))
            raise bus.BusError(str(e)) from e
        self._put(Note("command", "", {**data, "outcome": "done"}))
        return {"said": answer.removeprefix("ok ")}

    def _pin(self, message: bus.Message, peer: Peer) -> bus.Message:
        """A server was given its key: this is its certificate, and our own is the answer."""
        name, sha256 = message.get("name"), message.get("sha256")
        if not isinstance(name, str) or not isinstance(sha256, str):
            raise bus.BusError("name and sha256 must be texts")
        data = {"command": "pin", "args": _plain(name, 64), **_origin(message, peer)}
        try:
            certificate = self._enrol(name, sha256)
        except ConfigError as e:
            self._put(Note("command", str(e), {**data, "outcome": "refused"}))
            raise bus.BusError(str(e)) from e
        self._put(Note("command", "", {**data, "outcome": "done"}))
        return {"sender_pem": certificate}

    def _command(self, message: bus.Message, peer: Peer) -> bus.Message:
        try:
            command = Command(message.get("command"))
        except ValueError:
            names = ", ".join(c.value for c in Command)
            raise bus.BusError(f"no such command; there are: {names}") from None
        args: Any = message.get("args") or {}
        if not isinstance(args, dict):
            raise bus.BusError("args must be an object")
        until_s = message.get("until_s")
        if not (until_s is None or type(until_s) is float):
            raise bus.BusError("until_s must be a number")
        said = _plain(" ".join(f"{k}={v}" for k, v in args.items()), 200)
        data = {"command": command.value, "args": said, **_origin(message, peer)}
        try:
            remark = self._ups.order(command, {str(k): v for k, v in args.items()}, until_s)
        except OrderError as e:
            self._put(Note("command", str(e), {**data, "outcome": "refused"}))
            raise bus.BusError(str(e)) from e
        self._put(Note("command", remark, {**data, "outcome": "done"}))
        return {"remark": remark} if remark else {}


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
