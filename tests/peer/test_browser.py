"""The page in Debian's Chromium: first login, an outage seen live, both languages, a phone, and without script.

The functions before the tests drive any installation: they are given a browser and an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import page, words
from agent.model import Active, Condition, Forecast
from tests.faceserver import FaceServer
from tests.fakecore import FakeCore, committed, forecast, on_battery, on_line, planned, recovery
from tests.webdriver import Browser, wait_for

pytestmark = pytest.mark.peer

PASSWORD = "blue door, 7 steps"
ON_LINE = {"en": "On line", "de": "Netzbetrieb"}
ON_BATTERY = {"en": "On battery", "de": "Batteriebetrieb"}
NO_CORE = {"en": "No core", "de": "Kein Kern"}


# --- driving ----------------------------------------------------------------------------------------------------


def log_in(browser: Browser, url: str, password: str, new: str | None = None) -> None:
    """Log in; `new`: `password` is the one-time password and must be replaced by this one."""
    browser.open(url + "/login")
    browser.type("input[name=password]", password)
    browser.click("form button.primary")
    if new:
        wait_for(lambda: browser.address().endswith("/password"), 10, "the page to choose a password")
        browser.type("input[name=new]", new)
        browser.type("input[name=again]", new)
        browser.click("form button.primary")
    wait_for(lambda: browser.address() == url + "/", 10, "the status page")


def mark(browser: Browser) -> None:
    """Leave something in the page that does not survive a reload."""
    browser.run("window.mark = 'the same page'")


def not_reloaded(browser: Browser) -> bool:
    return bool(browser.run("return window.mark === 'the same page'"))


def sees(browser: Browser, word: str, within_s: float = 5.0) -> None:
    """Wait until the state is this word."""
    wait_for(
        lambda: browser.text("#state") == word, within_s, f"the page says {word!r}, not {browser.text('#state')!r}"
    )


def press(browser: Browser, mains: str) -> None:
    """Cut (`off`) or restore (`on`) the simulated mains by its button."""
    browser.click(f'form[action="/simulate"] button[value={mains}]')


def fits(browser: Browser) -> bool:
    """No horizontal scroll, and the state is on the first screen."""
    wide = browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    low = browser.run("return document.getElementById('line').getBoundingClientRect().bottom < window.innerHeight")
    return bool(wide and low)


#: Text whose contrast with what is behind it is below WCAG AA (4.5, or 3 if large), by the browser's own colours.
CONTRAST = r"""
const parse = (c) => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = (e) => { for (; e; e = e.parentElement) {
  const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .99) return c; }
  return [255, 255, 255]; };
const poor = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!own || e.closest('.unseen, .skip, noscript') || box.width < 2 || style.visibility === 'hidden') continue;
  let front = style.color, back = behind(e);
  if (e instanceof SVGElement) {
    front = style.fill; back = parse(getComputedStyle(e.closest('.box').querySelector('rect')).fill);
  }
  const [a, b] = [light(parse(front)), light(back)].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  const ratio = (a + .05) / (b + .05);
  if (ratio < (large ? 3 : 4.5)) poor.push(e.tagName + '.' + e.getAttribute('class') + ' ' + ratio.toFixed(2));
}
return poor;
"""


#: how things are after an order
AFTER = {
    "hold": on_battery(held_s=300.0), "abort": on_battery(aborted=True), "release": on_battery(),
    "drill": forecast(drill_left_s=1800.0), "drill-end": forecast(), "prove": forecast(), "shutdown": planned(),
    "wake": recovery(0.0), "clear": forecast(),
}  # fmt: skip
TOO_LONG = forecast(forecast=Forecast(runtime_s=900.0, basis="learned", down_s=1500.0, margin_s=-600.0))
HOLD = forecast(phase="hold", outage="00112233445566ff")


# --- the tests --------------------------------------------------------------------------------------------------


@pytest.fixture
def core(tmp_path: Path) -> Iterator[FakeCore]:
    with FakeCore(tmp_path / "core.sock") as running:

        def obey(order: dict) -> None:
            if order["type"] == "protect":
                running.publish(AFTER[order["do"]])
            else:
                running.publish(on_line() if order["args"]["mains"] == "on" else on_battery(3.0))

        running.react = obey
        yield running


@pytest.fixture
def face(core: FakeCore, tmp_path: Path) -> Iterator[FaceServer]:
    with FaceServer(core.path, tmp_path / "faces") as running:
        yield running


@pytest.mark.parametrize("language", ["en", "de"])
def test_first_login_then_an_outage_and_its_end_are_seen_live(
    core: FakeCore, face: FaceServer, language: str
) -> None:
    with Browser(language=language) as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        sees(browser, ON_LINE[language])
        mark(browser)
        core.log("began", "on-battery")
        press(browser, "off")
        sees(browser, ON_BATTERY[language])
        wait_for(lambda: "00:0" in browser.text("#line"), 5, "the time on battery")
        first = browser.text("#line")
        wait_for(lambda: browser.text("#line") != first, 3, "the time goes on")
        assert browser.run("return document.title").startswith(ON_BATTERY[language])
        assert ON_BATTERY[language] in browser.text("#events")
        assert browser.text("#alert") == ON_BATTERY[language]  # for screen readers
        press(browser, "on")
        sees(browser, ON_LINE[language])
        assert not_reloaded(browser) and browser.console() == []
        assert [o["args"]["mains"] for o in core.orders] == ["off", "on"]


def ask(browser: Browser, do: str) -> None:
    """Press a button that steers the protection."""
    browser.click(f'form[action="/protect"] button[value={do}]')


def offers(browser: Browser, *deeds: str) -> None:
    """Wait until there are these buttons that steer the protection, and no others."""
    script = "return [...document.querySelectorAll('button[name=do]')].map((b) => b.value)"
    wait_for(lambda: browser.run(script) == list(deeds), 5, f"{deeds}, not {browser.run(script)}")


def test_an_outage_is_put_off_stopped_and_let_go_on_without_a_reload(core: FakeCore, face: FaceServer) -> None:
    with Browser() as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        core.publish(on_battery())
        offers(browser, "hold", "abort")
        mark(browser)
        ask(browser, "hold")
        offers(browser, "hold", "abort", "release")
        assert "put off by 5" in browser.text("#stage-0")
        assert browser.run("return document.activeElement.value") == "hold"  # who steers by keyboard stays there
        ask(browser, "abort")
        offers(browser, "hold", "release")
        wait_for(lambda: "stopped" in browser.text("#stage-0"), 3, "the rung says so")
        ask(browser, "release")
        offers(browser, "hold", "abort")
        first = browser.text("#stage-0 .badge")
        wait_for(lambda: browser.text("#stage-0 .badge") != first, 3, "the countdown goes on")
        core.refuse = "every stage is latched already: there is no way back"
        ask(browser, "abort")
        wait_for(lambda: "no way back" in browser.text("#urgent .said"), 3, "why the core refused")
        assert not_reloaded(browser) and [o["do"] for o in core.orders] == ["hold", "abort", "release"]
        assert all("503" in line for line in browser.console())  # the refusal, and nothing else


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_drill_and_a_proof_can_be_asked_for(core: FakeCore, face: FaceServer, script: bool) -> None:
    with Browser(script=script) as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        core.publish(forecast())
        wait_for(lambda: "41:0" in browser.text("#forecast"), 8, "the forecast")
        ask(browser, "prove")
        wait_for(lambda: "being asked" in browser.text("#routine .said"), 5, "that they are being asked")
        ask(browser, "drill")
        wait_for(lambda: "nobody is told" in browser.text("#drill"), 5, "the banner")
        ask(browser, "drill-end")
        wait_for(lambda: browser.text("#drill") == "", 5, "no banner")
        assert [o["do"] for o in core.orders] == ["prove", "drill", "drill-end"]


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_planned_shutdown_is_chosen_confirmed_and_ended(core: FakeCore, face: FaceServer, script: bool) -> None:
    with Browser(script=script) as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        core.publish(forecast())
        wait_for(lambda: "41:0" in browser.text("#forecast"), 8, "the forecast")
        browser.click("#danger a")
        wait_for(lambda: browser.address().endswith("/shutdown"), 5, "the choice")
        browser.click("input[value=early]")
        browser.click("form button.primary")
        wait_for(lambda: "nas" in browser.text(".whom"), 5, "whom it takes along")
        assert "vm-host" not in browser.text("main")
        browser.click("form button.danger")  # the browser wants the box ticked first
        assert core.orders == [] and browser.address().endswith("/shutdown?stage=early")
        browser.click("input[name=sure]")
        browser.click("form button.danger")
        sees(browser, "Planned shutdown")
        assert [(o["do"], o["stage"]) for o in core.orders] == [("shutdown", "early")]
        ask(browser, "clear")
        sees(browser, "On line", 8.0)


def test_over_tls_the_session_works_as_well(core: FakeCore, tmp_path: Path) -> None:
    with FaceServer(core.path, tmp_path / "secure", tls=True) as face, Browser() as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        sees(browser, "On line")
        core.publish(on_battery())
        sees(browser, "On battery")
        assert face.fingerprint in browser.text("footer") and browser.run("return document.cookie") == ""
        cookies = browser.devtools("Network.getCookies")["cookies"]
        sid = next(c for c in cookies if c["name"] == "__Host-sid")
        assert sid["secure"] and sid["httpOnly"] and sid["sameSite"] == "Strict"


def test_the_language_can_be_switched_and_stays(face: FaceServer) -> None:
    with Browser(language="en") as browser:
        browser.open(face.url + "/")
        sees(browser, "On line")
        browser.click("button[name=language][value=de]")
        sees(browser, "Netzbetrieb")
        browser.open(face.url + "/")
        sees(browser, "Netzbetrieb")


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_phone_of_360_by_640_shows_the_state_and_never_scrolls_sideways(
    core: FakeCore, face: FaceServer, language: str
) -> None:
    with Browser(language=language, width=360, height=640) as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        for view, word in ((on_line(name="a very long name of a server room"), ON_LINE), (on_battery(), ON_BATTERY)):
            core.publish(view)
            sees(browser, word[language])
            assert fits(browser), word
        for view in (TOO_LONG, on_battery(held_s=300.0), committed(), HOLD, recovery(), recovery(0.0), planned()):
            core.publish(view)
            sees(browser, words.load()[language](f"state.{page.state_of(view).name}"))
            assert fits(browser), view.phase
        for path in ("/login", "/password", "/shutdown", "/shutdown?stage=all"):
            browser.open(face.url + path)
            assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), path


@pytest.mark.parametrize("language", ["en", "de"])
def test_without_script_the_page_is_whole_and_loads_itself_again(
    core: FakeCore, face: FaceServer, language: str
) -> None:
    with Browser(language=language, script=False) as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        sees(browser, ON_LINE[language])
        assert "230" in browser.text("#t-input") and "vm-host" in browser.text(".plan")
        # the refresh in the moment of a press takes it away, as it would a person's
        wait_for(lambda: browser.text("#state") == ON_BATTERY[language] or press(browser, "off"), 15, "on battery")
        core.publish(on_line())
        sees(browser, ON_LINE[language], 8.0)  # by the refresh


def test_the_colours_follow_the_device_and_can_be_chosen(face: FaceServer) -> None:
    def dark(browser: Browser) -> bool:
        colour = browser.run("return getComputedStyle(document.body).backgroundColor")
        return sum(int(v) for v in colour.removeprefix("rgb(").removesuffix(")").split(",")) < 200

    with Browser(dark=True) as browser:
        browser.open(face.url + "/")
        assert dark(browser)
        browser.click("button[name=theme]")
        wait_for(lambda: not dark(browser), 5, "light, by choice")
        browser.click("button[name=theme]")
        wait_for(lambda: dark(browser), 5, "dark, by choice")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(core: FakeCore, face: FaceServer, dark: bool) -> None:
    with Browser(dark=dark) as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        low = Active(condition=Condition.LOW_BATTERY, since_s=0.0, since_wall_s=0.0)
        fan = replace(low, condition=Condition.FAN_FAILURE)
        alarm = replace(on_battery(), conditions=(*on_battery().conditions, low, fan), config_errors=("bad",))
        views = (on_line(), on_line(mode="dry-run"), on_battery(), alarm, TOO_LONG, forecast(drill_left_s=900.0))
        for view in (*views, on_battery(aborted=True), committed(), HOLD, recovery(), recovery(0.0), planned()):
            core.publish(view)
            made = page.pieces(view, (), words.load()["en"], view.now_s)
            shown = made["@app"]
            wait_for(lambda shown=shown: browser.attribute("#app", "class") == shown, 5, shown)
            latched = made["stage-0"].count("latched")
            count = "return document.getElementById('stage-0').innerHTML.split('latched').length - 1"
            wait_for(lambda n=latched, count=count: browser.run(count) == n, 5, "the ladder")
            assert browser.run(CONTRAST) == [], view.phase
        core.publish(forecast())
        for path in ("/password", "/shutdown", "/shutdown?stage=all"):
            browser.open(face.url + path)
            assert browser.run(CONTRAST) == []
        browser.run("document.querySelector('h2').style.color = getComputedStyle(document.body).backgroundColor")
        assert len(browser.run(CONTRAST)) == 1  # the measurement measures


def test_the_core_gone_and_back_is_seen_within_three_seconds(
    core: FakeCore, face: FaceServer, tmp_path: Path
) -> None:
    with Browser() as browser:
        browser.open(face.url + "/")
        sees(browser, "On line")
        mark(browser)
        core.stop()
        sees(browser, "No core", 3.5)
        assert "230" not in browser.text("main")
        with FakeCore(tmp_path / "core.sock"):
            sees(browser, "On line", 5.0)
            assert not_reloaded(browser)


def test_the_adapter_gone_is_said_and_the_page_recovers_by_itself(core: FakeCore, tmp_path: Path) -> None:
    with FaceServer(core.path, tmp_path / "faces") as face, Browser() as browser:
        browser.open(face.url + "/")
        sees(browser, "On line")
        mark(browser)
        port = face.port
        face.process.kill()
        face.process.wait()
        wait_for(lambda: "No connection" in browser.text("#lost"), 8, "the page says that it may be old")
        core.publish(on_battery())
        with FaceServer(core.path, tmp_path / "faces", listen=f"127.0.0.1:{port}"):
            sees(browser, "On battery", 15.0)
            wait_for(lambda: browser.text("#lost") == "", 3, "the warning is gone")
            assert not_reloaded(browser)


def test_an_outage_of_a_public_page_offers_no_buttons_to_strangers(face: FaceServer) -> None:
    with Browser() as browser:
        browser.open(face.url + "/")
        sees(browser, "On line")
        assert browser.run("return document.querySelectorAll('main button').length") == 0


def test_memory_with_one_reader_stays_within_its_budget(core: FakeCore, face: FaceServer) -> None:
    with Browser() as browser:
        log_in(browser, face.url, face.password, PASSWORD)
        peak_kb = face.peak_kb()
        sees(browser, "On line")
        rss_kb = face.rss_kb()
        print(f"\npage, bus and web server with one stream: {rss_kb} kB; peak at login {peak_kb} kB")
        assert rss_kb <= 35_000 and peak_kb - rss_kb <= 35_000
