"""The page and its API against a real bus and a real server: who may, what it says, and that it stays alive."""

import gzip
import html
import http.client
import json
import re
import threading
import time
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import bus, config, controls, httpd, layout, login, model, page, web, wire, words
from agent.model import Active, Battery, Command, Condition, Event, Ident, Line, Source, Status, TestResult, View
from tests import test_lang
from tests.fakecore import (
    FakeCore,
    committed,
    event,
    forecast,
    no_data,
    on_battery,
    on_line,
    planned,
    recovery,
)

GOOD = "blue door, 7 steps"
WORDS = words.load()


def cheap(password, salt, cost):
    return (salt + password.encode()).hex().encode()


class World:
    """A fake core, the page, and a client that keeps cookies as a browser does."""

    def __init__(self, folder, public=False):
        self.core = FakeCore(folder / "core.sock")
        self.core.__enter__()
        self.client = bus.Client(self.core.path)
        self.client.start()
        self.accounts = login.Accounts(folder / "faces", time.monotonic, boot="b", kdf=cheap)
        app = web.make_app(config.Web(public_status=public), self.client, self.accounts, fingerprint="AB:CD")
        self.server = httpd.Server("127.0.0.1:0", app)
        self.server.bind()
        self.thread = threading.Thread(target=self.server.run, args=(threading.Event(),))
        self.thread.start()
        self.host = f"127.0.0.1:{self.server.address[1]}"
        self.cookies = {}
        self.until(lambda: self.client.view().name)

    def close(self):
        self.server.stop()
        self.thread.join(5)
        self.client.stop()
        self.core.stop()

    def until(self, so):
        end_s = time.monotonic() + 5
        while not so() and time.monotonic() < end_s:
            time.sleep(0.01)
        assert so()

    def open(self, method, path, fields=None, **headers):
        connection = http.client.HTTPConnection(self.host, timeout=10)
        cookies = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        headers = {k.replace("_", "-"): v for k, v in headers.items() if v is not None}
        if cookies:
            headers["Cookie"] = cookies
        body = None
        if fields is not None:
            body = urlencode(fields)
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection.request(method, path, body, headers)
        return connection.getresponse()

    def get(self, path, **headers):
        return self._take(self.open("GET", path, **headers))

    def post(self, path, fields, Sec_Fetch_Site="same-origin", **headers):
        return self._take(self.open("POST", path, fields, Sec_Fetch_Site=Sec_Fetch_Site, **headers))

    def _take(self, answer):
        for line in answer.headers.get_all("Set-Cookie") or ():
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
            if "max-age=0" in line.lower():
                del self.cookies[name]
        answer.body = answer.read()
        answer.text = answer.body.decode() if answer.headers.get("Content-Encoding") != "gzip" else ""
        return answer

    def token(self, path="/"):
        return re.search(r'name="token" value="([0-9a-f]+)"', self.get(path).text)[1]

    def log_in(self):
        if once := self.accounts.first_password():
            self.post("/login", {"password": once})
            fields = {"token": self.token("/password"), "new": GOOD, "again": GOOD}
            return self.post("/password", fields)
        return self.post("/login", {"password": GOOD})

    def publish(self, view):
        version = self.client.wait(0, 0)
        self.core.publish(view)
        assert self.client.wait(version, 5) != version


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def public(tmp_path):
    made = World(tmp_path, public=True)
    yield made
    made.close()


# --- who may ----------------------------------------------------------------------------------------------------


def test_without_login_nothing_is_shown_unless_the_status_is_public(world):
    assert world.get("/").headers["Location"] == "/login"
    for path in ("/api/status", "/api/events", "/api/page", "/api/stream"):
        answer = world.get(path)
        assert answer.status == 401 and "log in" in json.loads(answer.text)["error"]


def test_the_public_status_is_readable_and_has_no_buttons(public):
    answer = public.get("/")
    assert answer.status == 200 and "server room" in answer.text
    assert 'action="/simulate"' not in answer.text and "Log in to cut" in answer.text
    assert public.get("/api/status").status == 200


def test_the_first_login_must_set_a_password_before_anything_else(world):
    once = world.accounts.first_password()
    assert "one-time password" in world.get("/login").text
    answer = world.post("/login", {"password": once})
    assert (answer.status, answer.headers["Location"]) == (303, "/password")
    assert world.get("/").headers["Location"] == "/password" and world.get("/api/status").status == 401
    old_sid, token = world.cookies["sid"], world.token("/password")
    assert world.post("/simulate", {"token": token, "mains": "off"}).status == 403
    bad = world.post("/password", {"token": token, "new": "short", "again": "short"})
    assert bad.status == 400 and "at least 12" in bad.text
    differ = world.post("/password", {"token": token, "new": GOOD, "again": GOOD + "x"})
    assert differ.status == 400 and "not the same" in differ.text
    assert world.post("/password", {"token": token, "new": GOOD, "again": GOOD}).headers["Location"] == "/"
    assert world.cookies["sid"] != old_sid and "server room" in world.get("/").text


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(world):
    answer = world.post("/login", {"password": world.accounts.first_password()})
    cookie = answer.headers["Set-Cookie"].lower()
    assert cookie.startswith("sid=") and "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie


def test_a_wrong_password_is_said_and_after_five_one_waits(world):
    world.log_in()
    world.cookies.clear()
    for _ in range(5):
        answer = world.post("/login", {"password": "no"})
        assert answer.status == 403 and "not right" in answer.text
    answer = world.post("/login", {"password": GOOD})
    assert answer.status == 429 and answer.headers["Retry-After"] == "30"


def test_logout_ends_the_session_on_the_server(world):
    world.log_in()
    sid = world.cookies["sid"]
    assert world.post("/logout", {"token": world.token()}).status == 303
    assert "sid" not in world.cookies
    world.cookies["sid"] = sid
    assert world.get("/").headers["Location"] == "/login"


def test_the_password_can_be_changed_with_the_old_one(world):
    world.log_in()
    assert 'name="old"' in world.get("/password").text
    fields = {"old": "wrong", "new": "another good one", "again": "another good one"}
    assert world.post("/password", {"token": world.token("/password"), **fields}).status == 403
    fields["old"] = GOOD
    assert world.post("/password", {"token": world.token("/password"), **fields}).status == 303
    assert world.get("/").status == 200


# --- a POST must be ours ----------------------------------------------------------------------------------------

FORGED = [
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": None},
    {"Sec_Fetch_Site": None, "Origin": "http://evil.example"},
    {"Sec_Fetch_Site": None, "Origin": "null"},
]


@pytest.mark.parametrize("headers", FORGED)
def test_a_post_from_another_page_is_refused(world, headers):
    world.log_in()
    token = world.token()
    for path in ("/login", "/logout", "/password", "/simulate", "/preferences"):
        fields = {"token": token, "mains": "off", "password": GOOD, "new": GOOD, "again": GOOD, "theme": "dark"}
        answer = world.post(path, fields, **headers)
        assert answer.status == 403 and "theme" not in world.cookies, path
    assert world.core.orders == [] and world.get("/").status == 200


def test_a_browser_without_fetch_metadata_is_known_by_its_origin(world):
    answer = world.post(
        "/login", {"password": world.accounts.first_password()}, Sec_Fetch_Site=None, Origin=f"http://{world.host}"
    )
    assert answer.status == 303


@pytest.mark.parametrize("token", [None, "", "00", "zz" * 32, "00" * 32])
def test_a_post_without_the_sessions_token_is_refused(world, token):
    world.log_in()
    fields = {"mains": "off"} if token is None else {"mains": "off", "token": token}
    assert world.post("/simulate", fields).status == 403
    assert world.post("/logout", fields).status == 403
    assert world.core.orders == [] and world.get("/").status == 200


@pytest.mark.parametrize("path", ["/simulate", "/logout", "/preferences", "/protect"])
def test_a_get_changes_nothing(world, path):
    world.log_in()
    answer = world.get(path + "?mains=off&theme=dark&do=abort&token=" + world.token())
    assert answer.status == 405 and json.loads(answer.text)["error"]
    assert world.core.orders == [] and world.get("/").status == 200


# --- the buttons ------------------------------------------------------------------------------------------------


def test_the_buttons_cut_and_restore_the_simulated_mains(world):
    world.log_in()
    answer = world.post("/simulate", {"token": world.token(), "mains": "off"})
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    answer = world.post("/simulate", {"token": world.token(), "mains": "on"}, Accept="application/json")
    assert json.loads(answer.text) == {"mains": "on"}
    orders = [(o["command"], o["args"]["mains"], o["origin"]) for o in world.core.orders]
    origin = {"user": "admin", "address": "127.0.0.1"}
    assert orders == [("simulate", "off", origin), ("simulate", "on", origin)]


def test_a_refusal_of_the_core_is_shown(world):
    world.log_in()
    token, world.core.refuse = world.token(), "this UPS cannot do that"
    answer = world.post("/simulate", {"token": token, "mains": "off"}, Accept="application/json")
    assert answer.status == 503 and "cannot do that" in json.loads(answer.text)["error"]
    assert "cannot do that" in world.post("/simulate", {"token": token, "mains": "off"}).text
    assert world.post("/simulate", {"token": token, "mains": "maybe"}).status == 400


def test_a_real_ups_has_no_buttons(world):
    world.log_in()
    world.publish(on_line(commands=frozenset()))
    assert 'action="/simulate"' not in world.get("/").text


# --- steering the protection ------------------------------------------------------------------------------------


def shown(world):
    """What the buttons of the status page ask for."""
    return re.findall(r'name="do" value="([a-z-]+)"', world.get("/").text)


def test_the_buttons_are_those_that_make_sense_now(world):
    world.log_in()
    held = on_battery(held_s=300.0)
    aborted = on_battery(aborted=True)
    for view, deeds in (
        (forecast(), ["prove", "drill", "wake"]),
        (forecast(drill_left_s=60.0), ["prove", "drill-end", "wake"]),
        (forecast(mode="dry-run"), ["prove", "drill"]),
        (forecast(mode="setup"), ["prove"]),
        (on_battery(), ["hold", "abort"]),
        (held, ["hold", "abort", "release"]),
        (aborted, ["hold", "release"]),
        (committed(), []),
        (recovery(), ["wake", "clear"]),
        (recovery(0.0), ["wake", "clear"]),
        (recovery(mode="dry-run"), ["clear"]),
        (planned(), ["clear"]),
        (on_line(servers=()), []),
    ):
        world.publish(view)
        assert shown(world) == deeds, view.phase


def can_be_tested(result=TestResult.NONE, beeper_on=None, **changes):
    """A view of a UPS that can be tested and silenced."""
    view = on_line(commands=frozenset(Command(name) for name in controls.ORDERS), **changes)
    status = replace(view.status, test=model.Test(result=result), beeper_on=beeper_on)
    return replace(view, status=status)


def test_the_ups_is_tested_and_silenced_as_far_as_it_can(world):
    world.log_in()
    running = Active(condition=Condition.TEST_RUNNING, since_s=0.0, since_wall_s=0.0)
    battery = replace(
        can_be_tested(), phase="countdown", status=replace(can_be_tested().status, source=Source.BATTERY)
    )
    for view, deeds in (
        (can_be_tested(), ["test-quick", "beeper-off", "beeper-on"]),
        (can_be_tested(beeper_on=True), ["test-quick", "beeper-off"]),
        (can_be_tested(beeper_on=False), ["test-quick", "beeper-on"]),
        (can_be_tested(conditions=(running,)), ["test-stop", "beeper-off", "beeper-on"]),
        (battery, ["beeper-off", "beeper-on"]),
        (replace(can_be_tested(), commands=frozenset({Command.LOAD_OFF, Command.TEST_DEEP})), []),
        (replace(can_be_tested(), status=None), []),
    ):
        world.publish(replace(view, servers=()))  # a UPS without anybody to protect has them, too
        assert shown(world) == deeds
    world.publish(can_be_tested(TestResult.FAILED))
    assert "Last battery test: failed." in world.get("/").text
    assert "Nobody is told" in world.get("/").text and "told to be silent" in world.get("/?did=beeper-off").text


@pytest.mark.parametrize("do", controls.ORDERS)
def test_an_order_to_the_ups_goes_to_the_core_with_who_gave_it(world, do):
    world.log_in()
    answer = world.post("/protect", {"token": world.token(), "do": do})
    assert (answer.status, answer.headers["Location"]) == (303, f"/?did={do}")
    origin = {"user": "admin", "address": "127.0.0.1"}
    (order,) = world.core.orders
    assert (order["type"], order["command"], order["origin"]) == ("command", do, origin)
    answer = world.post("/protect", {"token": world.token(), "do": do}, Accept="application/json")
    assert json.loads(answer.text)["said"].startswith("The UPS was told to")


def test_whoever_is_not_logged_in_sees_no_button_and_may_ask_for_nothing(public):
    for view in (forecast(), on_battery(), recovery(), planned()):
        public.publish(view)
        text = public.get("/").text
        assert "/protect" not in text and 'href="/shutdown"' not in text
    assert public.get("/shutdown").headers["Location"] == "/login"
    assert public.post("/protect", {"do": "hold"}).status == 403
    assert public.post("/protect", {"do": "hold", "token": "00" * 32}).status == 403
    assert public.core.orders == []


@pytest.mark.parametrize("do", [d for d in controls.DEEDS if d != "shutdown"])
def test_each_button_asks_the_core_and_says_who_asked(world, do):
    world.log_in()
    answer = world.post("/protect", {"token": world.token(), "do": do})
    assert answer.status == 303 and answer.headers["Location"] in ("/", f"/?did={do}")
    stage = {"stage": "all"} if do == "wake" else {}
    origin = {"user": "admin", "address": "127.0.0.1"}
    orders = [{k: v for k, v in o.items() if k in ("type", "do", "stage", "origin")} for o in world.core.orders]
    assert orders == [{"type": "protect", "do": do, "origin": origin, **stage}]


def test_the_page_says_so_when_nothing_else_shows_that_a_button_worked(world):
    world.log_in()
    world.publish(forecast())
    assert "servers are being asked" in world.get("/?did=prove").text
    for did in ("hold", "<script>", "nothing"):
        assert "being asked" not in world.get("/?did=" + did).text
    answer = world.post("/protect", {"token": world.token(), "do": "prove"}, Accept="application/json")
    assert json.loads(answer.text)["said"].startswith("The servers are being asked")


@pytest.mark.parametrize("headers", FORGED)
def test_an_order_from_another_page_is_refused(world, headers):
    world.log_in()
    fields = {"token": world.token(), "do": "abort"}
    assert world.post("/protect", fields, **headers).status == 403 and world.core.orders == []


@pytest.mark.parametrize("token", ["", "00", "00" * 32])
def test_an_order_without_the_sessions_token_is_refused(world, token):
    world.log_in()
    assert world.post("/protect", {"token": token, "do": "abort"}).status == 403 and world.core.orders == []


def test_an_unknown_order_is_refused_and_a_refusal_of_the_core_is_one_line(world):
    world.log_in()
    token = world.token()
    assert world.post("/protect", {"token": token, "do": "explode"}).status == 400
    assert world.post("/protect", {"token": token}).status == 400
    world.core.refuse = "there is no countdown: nothing to put off or to stop"
    answer = world.post("/protect", {"token": token, "do": "hold"}, Accept="application/json")
    assert answer.status == 503 and "there is no countdown" in json.loads(answer.text)["error"]
    assert "there is no countdown" in world.post("/protect", {"token": token, "do": "hold"}).text
    assert world.core.orders == []


def test_a_first_login_without_a_password_yet_steers_nothing(world):
    world.post("/login", {"password": world.accounts.first_password()})
    assert world.get("/shutdown").headers["Location"] == "/password"
    assert world.post("/protect", {"token": world.token("/password"), "do": "abort"}).status == 403


def fields_of(text):
    return dict(re.findall(r'<input type="hidden" name="([a-z]+)" value="([^"]*)">', text.split("</nav>")[1]))


def test_a_planned_shutdown_shows_whom_it_takes_along_and_asks_once_more(world):
    world.log_in()
    world.publish(forecast())
    assert 'href="/shutdown"' in world.get("/").text
    choose = world.get("/shutdown").text
    assert re.findall(r'name="stage" value="([^"]+)"', choose) == ["early", "all"]
    first, everything = world.get("/shutdown?stage=early").text, world.get("/shutdown?stage=all").text
    assert "nas" in first and "vm-host" not in first
    assert "vm-host" in everything and everything.index("<b>nas") < everything.index("<b>vm-host")
    assert everything.count("no MAC address") == 2 and "until somebody wakes them" in everything
    assert world.core.orders == []
    fields = fields_of(first)
    assert (fields["do"], fields["stage"]) == ("shutdown", "early")
    answer = world.post("/protect", fields)
    assert answer.status == 400 and "Nothing was shut down" in answer.text and world.core.orders == []
    assert world.post("/protect", {**fields, "sure": "yes"}).headers["Location"] == "/"
    assert [(o["do"], o["stage"]) for o in world.core.orders] == [("shutdown", "early")]


def test_a_planned_shutdown_takes_nobody_along_who_was_not_shown(world):
    world.log_in()
    world.publish(forecast())
    fields = {**fields_of(world.get("/shutdown?stage=early").text), "sure": "yes"}
    view = forecast()
    world.publish(replace(view, servers=(replace(view.servers[1], stage="early"), *view.servers[:1])))
    answer = world.post("/protect", fields)
    assert answer.status == 409 and "the plan has changed" in answer.text
    assert world.post("/protect", {**fields, "list": ""}).status == 409 and world.core.orders == []


def test_an_unknown_stage_leads_back_to_the_choice(world):
    world.log_in()
    for stage in ("nothing", "", "<b>"):
        text = world.get("/shutdown?stage=" + stage).text
        assert 'type="radio"' in text and 'name="sure"' not in text


def test_a_planned_shutdown_says_what_the_mode_and_an_outage_change(world):
    world.log_in()
    world.publish(forecast(mode="dry-run"))
    assert "nothing is sent" in world.get("/shutdown?stage=all").text
    world.publish(on_battery())
    text = world.get("/shutdown?stage=all").text
    assert "<h2>Shut down now</h2>" in text and "This is an outage" in text and "nothing is sent" not in text


# --- the API ----------------------------------------------------------------------------------------------------


def test_the_status_is_the_view_of_the_core_and_how_old_it_is(public):
    told = json.loads(public.get("/api/status").text)
    view = wire.from_json(View, told["view"])
    assert view.name == "server room" and view.status.inputs[0].voltage_v == 230.4
    assert 0 <= told["view_age_s"] < 5 and told["now_s"] == pytest.approx(view.now_s + told["view_age_s"])


NO_PART_OF_THE_VIEW = {model.Option, model.Event}


def test_every_field_of_the_view_is_in_the_documentation_of_the_api():
    text = (Path(__file__).resolve().parent.parent / "docs/api.md").read_text()
    told = [
        c for c in vars(model).values() if isinstance(c, type) and is_dataclass(c) and c not in NO_PART_OF_THE_VIEW
    ]
    names = {f"{c.__name__}.{f.name}" for c in told for f in fields(c)}
    assert len(names) > 100 and {n for n in names if f"`{n.split('.')[1]}`" not in text} == set()


def test_every_word_of_the_view_is_in_the_documentation_of_the_api():
    text = (Path(__file__).resolve().parent.parent / "docs/api.md").read_text()
    said = [*test_lang.PHASES, *test_lang.STATES, *test_lang.DELIVERIES, *test_lang.WAKES, *test_lang.BASES]
    said += [*test_lang.MODES, *controls.DEEDS, *sorted(test_lang.notes())]
    assert [w for w in said if f"`{w}`" not in text] == []


def test_events_are_paged(public):
    for _ in range(5):
        public.core.log("began", "on-battery")
    told = json.loads(public.get("/api/events?since=2&limit=3").text)
    assert [e["id"] for e in told["events"]] == [3, 4, 5] and told["more"] is True
    assert [e["id"] for e in json.loads(public.get("/api/events").text)["events"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "query", ["since=x", "since=-1", "limit=0", "limit=501", "limit=1e2", "since=" + "9" * 30, "limit="]
)
def test_a_wrong_parameter_is_named(public, query):
    answer = public.get("/api/events?" + query)
    assert answer.status == 400 and query.split("=")[0] in json.loads(answer.text)["error"]


def test_errors_are_json(public):
    for path in ("/nothing", "/static/nothing", "/static/../web.py", "/api/"):
        answer = public.get(path)
        assert answer.status == 404 and json.loads(answer.text)["error"]


def test_without_the_core_events_are_an_error_and_the_page_says_so(public):
    public.core.stop()
    public.until(lambda: any(a.condition is Condition.NO_CORE for a in public.client.view().conditions))
    assert public.get("/api/events").status == 503
    answer = public.get("/")
    assert answer.status == 200 and "No core" in answer.text and "230.4" not in answer.text


# --- live -------------------------------------------------------------------------------------------------------


def messages(answer, count):
    found = []
    while len(found) < count:
        line = answer.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: {"):
            found.append((time.monotonic(), json.loads(line[6:])))
    return found


def test_the_stream_sends_the_page_and_then_only_what_changes(public):
    answer = public.open("GET", "/api/stream", Accept_Language="de")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.readline().startswith(b"retry: ")
    [(first_s, first)] = messages(answer, 1)
    assert "Netzbetrieb" in first["state"] and "tone-ok" in first["@app"]
    public.core.publish(on_battery())
    [(then_s, then)] = messages(answer, 1)
    assert "Batteriebetrieb" in then["state"] and "seit 02:1" in then["line"] and "name" not in then
    [(tick_s, tick)] = messages(answer, 1)
    assert set(tick) <= {"line", "stage-0"} and then_s - first_s > 0.9 and tick_s - then_s > 0.9
    answer.close()


def test_the_stream_ends_with_the_session(world):
    world.log_in()
    answer = world.open("GET", "/api/stream")
    messages(answer, 1)
    world.post("/logout", {"token": world.token()})
    assert b"event: end" in answer.read()


def test_the_fifth_stream_of_an_address_is_sent_to_polling(public):
    streams = [public.open("GET", "/api/stream") for _ in range(4)]
    for stream in streams:
        stream.readline()
    answer = public.get("/api/stream")
    assert answer.status == 503 and "/api/page" in json.loads(answer.text)["error"]
    assert "On line" in json.loads(public.get("/api/page").text)["state"]
    for stream in streams:
        stream.close()


def test_watching_does_not_keep_a_session_alive(world):
    world.log_in()
    session = world.accounts.session(world.cookies["sid"])
    used_s = session.used_s
    for path in ("/?auto=1", "/api/status", "/api/page"):
        assert world.get(path).status == 200
    assert session.used_s == used_s
    world.get("/")
    assert session.used_s > used_s


def test_events_are_asked_for_only_when_there_are_new_ones(public):
    public.get("/")
    asked = public.core.queries
    for _ in range(3):
        public.get("/")
    assert public.core.queries == asked
    public.core.log("began", "overload")
    public.publish(on_line())
    assert "Overload" in public.get("/").text and public.core.queries == asked + 1


# --- static files, headers, preferences -------------------------------------------------------------------------


def test_the_first_load_stays_within_its_budget_on_the_wire(world):
    world.log_in()
    index = world.get("/")
    sizes = [len(world.get("/", Accept_Encoding="gzip").body)]
    for link in re.findall(r'(?:src|href)="(/static/[^"]+)"', index.text):
        answer = world.get(html.unescape(link), Accept_Encoding="gzip")
        assert answer.status == 200 and answer.headers["Content-Encoding"] == "gzip"
        sizes.append(len(answer.body))
    assert len(sizes) == 4 and sum(sizes) <= 25_000


def test_static_files_have_an_etag_and_may_be_kept_under_their_version(public):
    link = re.search(r'src="(/static/app.js\?v=[^"]+)"', public.get("/").text)[1]
    answer = public.get(link)
    assert "immutable" in answer.headers["Cache-Control"]
    assert public.get("/static/app.js").headers["Cache-Control"] == "no-cache"
    again = public.get("/static/app.js", If_None_Match=answer.headers["ETag"])
    assert again.status == 304 and again.body == b""
    packed = public.get(link, Accept_Encoding="gzip")
    assert gzip.decompress(packed.body) == answer.body


def test_every_answer_carries_the_security_headers_and_is_not_kept(world):
    for path in ("/", "/login", "/nothing", "/api/status", "/static/app.js"):
        headers = world.get(path).headers
        assert headers["Content-Security-Policy"].startswith(
            "default-src 'none'; script-src 'self'; style-src 'self';"
        )
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert path.startswith("/static") or headers["Cache-Control"] == "no-store"


def test_language_and_colours_follow_the_browser_until_they_are_chosen(public):
    assert 'lang="de"' in public.get("/", Accept_Language="de-AT").text
    assert public.post("/preferences", {"language": "de", "back": "/"}).status == 303
    assert public.post("/preferences", {"theme": "dark", "back": "//evil.example"}).headers["Location"] == "/"
    text = public.get("/", Accept_Language="en").text
    assert '<html lang="de" data-theme="dark">' in text and "Netzbetrieb" in text
    public.post("/preferences", {"theme": "<script>"})
    assert public.cookies["theme"] == "dark"


# --- what the page says (pure) ----------------------------------------------------------------------------------


def active(condition):
    return Active(condition=condition, since_s=0.0, since_wall_s=0.0)


def said(view, language="en", events=()):
    return page.pieces(view, events, WORDS[language], view.now_s)


def with_conditions(view, *conditions):
    return replace(view, conditions=(*view.conditions, *(active(c) for c in conditions)))


@pytest.mark.parametrize(
    "view, name, tone, line",
    [
        (on_line(), "on-line", "ok", "all servers protected"),
        (on_line(mode="dry-run"), "on-line", "ok", "dry run: no server would be shut down"),
        (on_line(servers=()), "on-line", "ok", "no server is configured"),
        (with_conditions(on_line(), Condition.NOT_PROTECTED), "on-line", "alarm", "servers are not protected"),
        (with_conditions(on_line(), Condition.FAN_FAILURE), "on-line", "warn", "all servers protected"),
        (with_conditions(on_line(), Condition.TEST_RUNNING), "on-line", "ok", "all servers protected"),
        (with_conditions(on_line(), Condition.ON_BYPASS), "on-bypass", "warn", "all servers protected"),
        (with_conditions(on_line(), Condition.OUTPUT_OFF), "output-off", "alarm", "all servers protected"),
        (on_battery(134.0), "on-battery", "warn", "for 02:14 \N{EN DASH} first shutdown in 07:46"),
        (on_battery(134.0, mode="dry-run"), "on-battery", "warn",
         "for 02:14 \N{EN DASH} first shutdown would be in 07:46 (dry run)"),
        (on_battery(134.0, servers=()), "on-battery", "warn", "for 02:14 \N{EN DASH} no server is configured"),
        (with_conditions(on_battery(), Condition.LOW_BATTERY), "low-battery", "alarm", None),
        (with_conditions(on_battery(), Condition.SHUTDOWN_IMMINENT), "shutting-down", "alarm", None),
        (no_data(), "no-data", "warn", "no data from the UPS since 00:35"),
        (with_conditions(no_data(), Condition.ON_BATTERY), "no-data", "alarm",
         "no data from the UPS since 00:35 (it was on battery)"),
        (on_line(status=None, link="starting", age_s=None), "starting", "quiet",
         "waiting for the first data from the UPS"),
        (on_line(status=None, age_s=None), "no-data", "warn", "no data from the UPS yet"),
    ],
)  # fmt: skip
def test_the_state_in_one_word_and_one_line(view, name, tone, line):
    state = page.state_of(view)
    assert (state.name, state.tone) == (name, tone)
    assert line is None or said(view)["line"] == line


def test_without_the_core_the_page_counts_how_long():
    view = bus.without_core(on_battery(), 1000.0)
    pieces = page.pieces(view, (), WORDS["en"], 1065.0)
    assert "No core" in pieces["state"] and "since 01:05 (it was on battery)" in pieces["line"]
    assert "tone-alarm" in pieces["@app"] and pieces["mode"] == "" and not page.can_simulate(view)


def test_servers_that_were_never_reached_are_counted_when_armed():
    view = on_line()
    view = replace(view, servers=(replace(view.servers[0], state="unknown"), view.servers[1]))
    assert said(view)["line"] == "1 of 2 servers are not known to be reachable" and page.state_of(view).tone == "warn"


def test_what_the_big_word_says_is_not_said_twice():
    view = with_conditions(on_battery(), Condition.INPUT_BAD, Condition.LOW_BATTERY, Condition.FAN_FAILURE)
    assert re.findall("<span>([^<]*)</span>", said(view)["conditions"]) == ["Fan failed"]


def test_a_latched_plan_says_how_many_were_told():
    view = on_battery()
    view = replace(
        view,
        stages=tuple(replace(s, latched=True, due_in_s=None) for s in view.stages),
        servers=(
            replace(view.servers[0], delivery="delivered-unconfirmed"),
            replace(view.servers[1], delivery="not-delivered", detail="connection refused", attempts=3),
        ),
    )
    pieces = said(view)
    assert pieces["line"].endswith("1 of 2 servers told to shut down")
    assert "delivered, unconfirmed" in pieces["servers-0"] and "triggered" in pieces["stage-0"]
    assert "connection refused" in pieces["servers-1"] and "(3 attempts)" in pieces["servers-1"]


def test_what_the_ups_does_not_say_is_a_dash_and_a_guess_is_marked():
    status = Status(taken_s=0.0, source=Source.MAINS)
    pieces = said(on_line(status=status))
    assert all("\N{EN DASH}" in pieces[f"t-{t}"] for t in ("charge", "runtime", "load", "input"))
    assert "0" not in re.sub("<[^>]*>", "", pieces["t-charge"])
    assert "estimated" in said(on_line())["t-runtime"] and "estimated" not in said(on_line())["t-charge"]
    battery = Battery(charge_pct=85.0, voltage_v=27.0, estimated=frozenset(("charge_pct", "voltage_v")))
    for guessed, pieces in (
        (True, said(on_line(status=replace(status, battery=battery)))),
        (False, said(on_line(status=replace(status, battery=replace(battery, estimated=frozenset()))))),
    ):
        assert all(("\N{ALMOST EQUAL TO}" in pieces[name]) is guessed for name in ("f-battery", "f-battery2"))
        assert "85" in pieces["f-battery"] and "27.0" in pieces["f-battery2"]


def test_three_phases_are_all_shown():
    lines = tuple(Line(voltage_v=v, load_pct=v / 10, power_w=100.0) for v in (229.0, 230.0, 231.0))
    pieces = said(on_line(status=Status(taken_s=0.0, source=Source.MAINS, inputs=lines, outputs=lines)))
    assert (
        "229 / 230 / 231" in pieces["t-input"] and "23 / 23 / 23" in pieces["t-load"] and "300" in pieces["f-load2"]
    )


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_condition_and_note_is_a_sentence(language):
    for kind in ("began", "ended"):
        for condition in Condition:
            text = words.event_text(event(1, kind, condition.value), WORDS[language])
            assert text and condition.value not in text.split() or condition.value == "overload"
    told = words.event_text(event(1, "note", "told", data={"server": "nas"}), WORDS[language])
    assert "nas" in told and "{" not in told


def test_an_event_of_a_newer_core_is_shown_as_it_was_said():
    why = event(1, "note", "stage-latched", data={"stage": "s", "why": "silence 61"})
    assert "seit 61\N{NARROW NO-BREAK SPACE}s nichts" in words.event_text(why, WORDS["de"])
    refused = event(1, "note", "not-told", data={"server": "nas", "detail": "Connection refused"})
    assert "Verbindung abgelehnt" in words.event_text(refused, WORDS["de"])
    assert (
        words.event_text(event(1, "note", "something-new", text="said so"), WORDS["en"]) == "something-new: said so"
    )
    assert "new-condition" in words.event_text(event(1, "began", "new-condition"), WORDS["en"])


class Counter(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "link", "input", "path", "rect", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "rect"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;{state}"


def whole(view, events, language="en", token="t"):
    reader = layout.Reader(
        words=WORDS[language], names={"en": "English", "de": "Deutsch"}, token=token, fingerprint="AB"
    )
    pieces = page.pieces(view, events, reader.words, view.now_s) | controls.pieces(view, reader)
    return layout.status(pieces | {"demo": layout.simulated_mains(reader)}, reader)


def hostile(text):
    view = on_battery()
    ident = Ident(manufacturer=text, model=text, firmware=text, serial=text)
    view = with_conditions(view, Condition.CONFIG_ERROR)
    return replace(
        view,
        name=text, mode=text, driver=text, link_detail=text, config_errors=(text,), version=text,
        status=replace(view.status, ident=ident),
        stages=(replace(view.stages[0], name=text),),
        servers=(replace(view.servers[0], name=text, address=text, how=text, stage=text, state=text, delivery=text,
                         detail=text, proof=text, wake=text, mac=text),),
    ), [Event(id=1, kind="note", name=text, text=text, data={"server": text}), Event(id=2, kind="began", name=text),
        Event(id=3, kind="note", name="told", data={"server": text, "detail": text})]  # fmt: skip


def shape(text):
    counter = Counter()
    counter.feed(whole(*hostile(text)))
    assert not counter.open
    return counter.tags, counter.attributes


def test_what_a_ups_says_cannot_become_markup():
    assert shape(HOSTILE) == shape("harmless")
    assert not {a for a in shape(HOSTILE)[1] if a.startswith("on") or a == "style"}


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_no_text_at_all_changes_the_page_s_structure(text):
    assert shape(text) == shape("harmless")


def test_the_pages_have_no_inline_script_or_style_and_nothing_from_elsewhere():
    for language in words.LANGUAGES:
        text = whole(on_battery(), [event(1, "note", "started")], language)
        assert not re.search(r"<script(?! src=\"/static/)|<style|style=|javascript:|https?://", text)
        assert re.search(r'<noscript><meta http-equiv="refresh" content="5; url=/\?auto=1">', text)


def test_a_tick_on_battery_changes_little():
    one, two = (page.pieces(on_battery(s), (), WORDS["en"], on_battery(s).now_s) for s in (134.0, 135.0))
    changed = {k: v for k, v in two.items() if one[k] != v}
    assert "line" in changed and len(json.dumps(changed)) < 1000
