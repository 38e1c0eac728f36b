"""The web page: what it answers at which address, and who may. Bottle is imported here alone.

Nothing is changed by a GET. A POST must come from a page of ours (Sec-Fetch-Site, or Origin) and, inside a session,
carry the session's form token. The addresses are listed in docs/api.md; those under /enrol are in enroll.py.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import bottle

from . import controls, layout, page, passwords, wire, words
from .assets import YEAR_S, Files
from .bus import ORDER_WITHIN_S, BusError, Client
from .config import Web
from .history import History
from .httpd import App
from .login import Accounts, LoginError, Session, csrf_is, csrf_token
from .model import Command

EVENTS_MAX = 500
HEARTBEAT_S = 10.0  # of a stream; the script takes 25 s of silence for a lost connection
STREAM_GAP_S = 1.0  # between two messages
RETRY_MS = 2000
GZIP_MIN_BYTES = 800
_STATIC = Path(__file__).parent / "static"


def make_app(
    settings: Web,
    client: Client,
    accounts: Accounts,
    *,
    fingerprint: str = "",
    now: Callable[[], float] = time.monotonic,
) -> App:
    """The WSGI application for `httpd.Server`. `fingerprint` of the certificate, shown at login; `now`:
    CLOCK_MONOTONIC, as the core's views carry it."""
    site = _Site(settings, client, accounts, fingerprint, now)
    app = bottle.Bottle()
    app.config["catchall"] = False  # httpd logs what goes wrong, and answers
    app.default_error_handler = lambda e: _json(e.status_code, {"error": e.body or e.status_line})
    routes: Mapping[str, Any] = {
        "GET /": site.status, "GET /login": site.login_form, "POST /login": site.login, "POST /logout": site.logout,
        "GET /password": site.password_form, "POST /password": site.password, "POST /simulate": site.simulate,
        "POST /preferences": site.preferences, "GET /api/status": site.api_status, "GET /api/events": site.api_events,
        "GET /api/page": site.api_page, "GET /api/stream": site.api_stream, "GET /shutdown": site.shutdown_form,
        "POST /protect": site.protect,
    }  # fmt: skip
    for route, answer in routes.items():
        method, path = route.split(" ")
        app.route(path, method, answer)
    app.route("/static/<name>", "GET", site.static)
    made: App = app
    return made


class _Site:
    """The answers. Each method is one address; the present request is bottle's."""

    def __init__(
        self, settings: Web, client: Client, accounts: Accounts, fingerprint: str, now: Callable[[], float]
    ) -> None:
        self._public, self._client, self._accounts = settings.public_status, client, accounts
        self._fingerprint, self._now = fingerprint, now
        self._history = History(client)
        self._words = words.load()
        self._files = Files(_STATIC)

    # -- the reader

    def _session(self, *, touch: bool) -> tuple[str, Session | None]:
        sid = bottle.request.get_cookie(_sid_name()) or ""
        return sid, self._accounts.session(sid, touch=touch)

    def _may_read(self, session: Session | None) -> bool:
        return self._public or (session is not None and not session.new_password)

    def _reader(self, sid: str, session: Session | None) -> layout.Reader:
        language = words.choose(
            bottle.request.get_header("Accept-Language", ""), bottle.request.get_cookie("language")
        )
        theme = bottle.request.get_cookie("theme")
        return layout.Reader(
            words=self._words[language],
            names={name: w("language.name") for name, w in self._words.items()},
            theme=theme if theme in layout.THEMES else layout.THEMES[0],
            token=csrf_token(sid) if session else None,
            assets=self._files.version,
            fingerprint=self._fingerprint,
        )

    def _pieces(self, reader: layout.Reader, did: str = "") -> dict[str, str]:
        view = self._client.view()
        made = page.pieces(view, self._history.last(view), reader.words, self._now())
        made["demo"] = layout.simulated_mains(reader) if page.can_simulate(view) else words.Html("")
        return made | controls.pieces(view, reader, did)

    # -- pages

    def status(self) -> bottle.HTTPResponse:
        sid, session = self._session(touch="auto" not in bottle.request.query)
        if session and session.new_password:
            return _to("/password")
        if not self._may_read(session):
            return _to("/login")
        reader = self._reader(sid, session)
        return _html(layout.status(self._pieces(reader, bottle.request.query.get("did", "")), reader))

    def static(self, name: str) -> bottle.HTTPResponse:
        header = bottle.request.get_header
        version, has = bottle.request.query.get("v", ""), header("If-None-Match", "")
        answer = self._files.answer(name, version=version, has=has, encodings=header("Accept-Encoding", ""))
        if answer is None:
            return _json(404, {"error": "there is no such file"})
        status, headers, data = answer
        return bottle.HTTPResponse(data, status=status, headers=headers)

    def login_form(self) -> bottle.HTTPResponse:
        sid, session = self._session(touch=True)
        if session:
            return _to("/password" if session.new_password else "/")
        return self._login_page()

    def _login_page(self, status: int = 200, error: LoginError | None = None) -> bottle.HTTPResponse:
        reader = self._reader("", None)
        first = self._accounts.first_password() is not None
        text = _explain(reader, error) if error else ""
        answer = _html(layout.login(reader, self._client.view().name, first=first, error=text), status)
        return _wait(answer, error)

    def login(self) -> bottle.HTTPResponse:
        if not _same_origin():
            return self._problem(403, "error.form")
        password = _field("password")
        try:
            sid = self._accounts.login(password[:200], bottle.request.environ["httpd.group"])
        except LoginError as e:
            return self._login_page(_STATUS[e.code], e)
        session = self._accounts.session(sid)
        return _enter("/password" if session and session.new_password else "/", sid)

    def logout(self) -> bottle.HTTPResponse:
        sid, session = self._guard()
        if not session:
            return self._problem(403, "error.form")
        self._accounts.logout(sid)
        return _enter("/", "")

    def password_form(self) -> bottle.HTTPResponse:
        sid, session = self._session(touch=True)
        if not session:
            return _to("/login")
        return _html(
            layout.password(self._reader(sid, session), self._client.view().name, ask_old=not session.new_password)
        )

    def password(self) -> bottle.HTTPResponse:
        sid, session = self._guard()
        if not session:
            return self._problem(403, "error.form")
        reader, error = self._reader(sid, session), "differ"
        if _field("new") == _field("again"):
            try:
                group = bottle.request.environ["httpd.group"]
                return _enter("/", self._accounts.change(session, _field("old")[:200], _field("new"), group))
            except LoginError as e:
                error = e.code
                text = _explain(reader, e)
        else:
            text = reader.words("error.differ")
        shown = layout.password(reader, self._client.view().name, ask_old=not session.new_password, error=text)
        return _html(shown, _STATUS.get(error, 400))

    def preferences(self) -> bottle.HTTPResponse:
        """Language and colours live in the reader's browser, so no session is needed."""
        if not _same_origin():
            return self._problem(403, "error.form")
        back = _field("back")
        answer = _to(back if back in ("/", "/login", "/password") else "/")
        for name, values in (("language", words.LANGUAGES), ("theme", layout.THEMES)):
            if (value := _field(name)) in values:
                answer.set_cookie(
                    name, value, path="/", max_age=YEAR_S, samesite="strict", httponly=True, secure=_secure()
                )
        return answer

    def simulate(self) -> bottle.HTTPResponse:
        sid, session = self._guard()
        mains = _field("mains")
        if not session or session.new_password:
            return self._problem(403, "error.form")
        if mains not in ("on", "off"):
            return self._problem(400, "error.core", why="mains must be on or off")
        refused = self._order("command", command=Command.SIMULATE.value, args={"mains": mains})
        return refused or (_json(200, {"mains": mains}) if _wants_json() else _to("/"))

    def shutdown_form(self) -> bottle.HTTPResponse:
        """Choose what a planned shutdown takes along, then see whom."""
        sid, session = self._session(touch=True)
        if not session or session.new_password:
            return _to("/password" if session else "/login")
        view, reader, stage = self._client.view(), self._reader(sid, session), bottle.request.query.get("stage")
        if stage is not None and controls.whom(view, stage):
            return _html(controls.confirm(reader, view, stage))
        return _html(controls.choose(reader, view))

    def protect(self) -> bottle.HTTPResponse:
        """What an administrator asks of protection or the UPS (docs/api.md); the core decides whether it can be."""
        sid, session = self._guard()
        if not session or session.new_password:
            return self._problem(403, "error.form")
        do, stage, view = _field("do"), _field("stage"), self._client.view()
        known = (*controls.DEEDS, *controls.ORDERS)
        if do not in known:
            return self._problem(400, "error.core", why="do must be one of " + ", ".join(known))
        if do == "shutdown" and _field("sure") != "yes":
            return self._problem(400, "error.sure")
        if do == "shutdown" and _field("list") != controls.checksum(controls.whom(view, stage)):
            return self._problem(409, "error.changed")
        if do == "wake":
            stage = stage or controls.ALL
        if do in controls.ORDERS:
            refused = self._order("command", command=do)
        else:
            refused = self._order("protect", do=do, **({"stage": stage} if stage else {}))
        if refused:
            return refused
        if _wants_json():
            return _json(200, {"do": do, "said": controls.said(self._reader(sid, session), do)})
        return _to(f"/?did={do}" if do in controls.SAID else "/")

    def _order(self, kind: str, **what: Any) -> bottle.HTTPResponse | None:
        """Ask the core, in the name of the account; the answer to give if it did not do so."""
        origin = {"user": passwords.USER, "address": bottle.request.remote_addr or ""}
        try:
            self._client.ask({"type": kind, **what, "origin": origin}, ORDER_WITHIN_S)
        except BusError as e:
            return self._problem(503, "error.core", why=str(e))
        return None

    def _problem(self, status: int, key: str, **values: str) -> bottle.HTTPResponse:
        sid, session = self._session(touch=False)
        reader = self._reader(sid, session)
        text = reader.words(key, **values)
        if _wants_json():
            return _json(status, {"error": text})
        return _html(layout.problem(reader, self._client.view().name, text), status)

    def _guard(self) -> tuple[str, Session | None]:
        """The session, if this POST may change something in its name."""
        sid, session = self._session(touch=True)
        return sid, session if session and _same_origin() and csrf_is(_field("token"), sid) else None

    # -- the API

    def _refuse(self) -> bottle.HTTPResponse:
        return _json(401, {"error": "log in first, or set public_status = true in [web]"})

    def api_status(self) -> bottle.HTTPResponse:
        if not self._may_read(self._session(touch=False)[1]):
            return self._refuse()
        view, now_s = self._client.view(), self._now()
        told = {"now_s": now_s, "view_age_s": max(0.0, now_s - view.now_s), "view": wire.to_json(view)}
        return _json(200, told)

    def api_events(self) -> bottle.HTTPResponse:
        if not self._may_read(self._session(touch=False)[1]):
            return self._refuse()
        try:
            since = _whole("since", None, 0, 2**63 - 1)
            limit = _whole("limit", 100, 1, EVENTS_MAX)
        except ValueError as e:
            return _json(400, {"error": str(e)})
        try:
            reply = self._client.ask({"type": "query", "what": "events", "since": since, "limit": limit})
        except BusError as e:
            return _json(503, {"error": str(e)})
        return _json(200, {"events": reply.get("events", []), "more": reply.get("more", False)})

    def api_page(self) -> bottle.HTTPResponse:
        sid, session = self._session(touch=False)
        if not self._may_read(session):
            return self._refuse()
        return _json(200, self._pieces(self._reader(sid, session)))

    def api_stream(self) -> Any:
        sid, session = self._session(touch=False)
        if not self._may_read(session):
            return self._refuse()
        if not bottle.request.environ["httpd.stream"]():
            return _json(503, {"error": "too many streams; ask for /api/page every 5 s instead"})
        bottle.response.content_type = "text/event-stream"
        return self._stream(self._reader(sid, session), session.key if session else None)

    def _stream(self, reader: layout.Reader, key: str | None) -> Iterator[bytes]:
        """The page's pieces whenever they change, until the session ends. Owns no request: bottle's is gone."""
        pause = threading.Event()  # is never set
        yield f"retry: {RETRY_MS}\n\n".encode()
        sent: dict[str, str] = {}
        sent_s, version = self._now(), self._client.wait(0, 0.0)
        while key is None or self._accounts.session_by_key(key):
            fresh = self._pieces(reader)
            changed = {name: text for name, text in fresh.items() if sent.get(name) != text}
            now_s = self._now()
            if changed:
                sent, sent_s = fresh, now_s
                yield b"data: " + json.dumps(changed, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
            elif now_s - sent_s >= HEARTBEAT_S:
                sent_s = now_s
                yield b"event: alive\ndata:\n\n"
            pause.wait(STREAM_GAP_S - (self._now() - now_s) if changed else 0.0)
            version = self._client.wait(version, STREAM_GAP_S)
        yield b"event: end\ndata: session\n\n"


# --- the present request and its answer -------------------------------------------------------------------------

_STATUS = {"wrong": 403, "wait": 429, "busy": 503}


def _secure() -> bool:
    return bool(bottle.request.environ["wsgi.url_scheme"] == "https")


def _sid_name() -> str:
    return "__Host-sid" if _secure() else "sid"


def _same_origin() -> bool:
    """Whether a page of ours sent this: browsers say so, and no other page can make them lie."""
    site = bottle.request.get_header("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    own = f"{bottle.request.environ['wsgi.url_scheme']}://{bottle.request.get_header('Host')}"
    return bool(bottle.request.get_header("Origin") == own)


def _field(name: str) -> str:
    return str(bottle.request.forms.getunicode(name) or "")


def _whole(name: str, default: int | None, low: int, high: int) -> int | None:
    text = bottle.request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise ValueError(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def _wants_json() -> bool:
    return "application/json" in bottle.request.get_header("Accept", "")


def _json(status: int, value: Any) -> bottle.HTTPResponse:
    return _sized(json.dumps(value, ensure_ascii=False).encode() + b"\n", status, "application/json; charset=utf-8")


def _html(text: str, status: int = 200) -> bottle.HTTPResponse:
    return _sized(text.encode(), status, "text/html; charset=utf-8")


def _sized(data: bytes, status: int, kind: str) -> bottle.HTTPResponse:
    headers = {"Content-Type": kind}
    if len(data) >= GZIP_MIN_BYTES and "gzip" in bottle.request.get_header("Accept-Encoding", ""):
        headers["Content-Encoding"], headers["Vary"] = "gzip", "Accept-Encoding"
        data = gzip.compress(data, 5)
    return bottle.HTTPResponse(data, status=status, headers=headers)


def _to(place: str) -> bottle.HTTPResponse:
    return bottle.HTTPResponse(b"", status=303, headers={"Location": place})


def _enter(place: str, sid: str) -> bottle.HTTPResponse:
    """Go on to `place` with a new session, or with none."""
    answer = _to(place)
    age = {} if sid else {"max_age": 0}
    answer.set_cookie(_sid_name(), sid, path="/", httponly=True, samesite="strict", secure=_secure(), **age)
    return answer


def _explain(reader: layout.Reader, error: LoginError) -> str:
    return reader.words(f"error.{error.code}", wait=f"{error.wait_s + 0.5:.0f}")


def _wait(answer: bottle.HTTPResponse, error: LoginError | None) -> bottle.HTTPResponse:
    if error and error.wait_s:
        answer.set_header("Retry-After", f"{error.wait_s + 0.5:.0f}")
    return answer
