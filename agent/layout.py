"""What stands around the status page, and the pages with a form: log in, choose a password, what went wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .page import icon
from .words import LANGUAGES, Html, Words, html, join

THEMES = ("auto", "light", "dark")
REFRESH_S = 5  # without the script


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """For whom a page is made."""

    words: Words
    names: Mapping[str, str]  # each language's own name for itself
    theme: str = "auto"
    token: str | None = None  # for the forms of a session; None: nobody is logged in
    assets: str = ""  # the version of the static files
    fingerprint: str = ""  # of the certificate


# --- every page -------------------------------------------------------------------------------------------------


def document(reader: Reader, title: str, name: Html, body: Html, *, live: bool = False, back: str = "/") -> Html:
    """A whole page. `live`: the script keeps it current, and without the script it loads itself again."""
    words = reader.words
    return html(
        """<!doctype html>
<html lang="{lang}" data-theme="{theme}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="/static/icon.svg?v={v}" type="image/svg+xml">
<link rel="stylesheet" href="/static/style.css?v={v}">
{live}</head>
<body>
<a class="skip" href="#app">{skip}</a>
<header>
{name}
<nav>{languages}{theme_switch}{user}</nav>
</header>
{body}</body>
</html>
""",
        lang=words.language, theme=reader.theme, title=title, v=reader.assets, skip=words("skip"), name=name,
        languages=_languages(reader, back), theme_switch=_theme(reader, back), body=body,
        user=None if back == "/login" else _user(reader),
        live=_live(reader) if live else None,
    )  # fmt: skip


def _live(reader: Reader) -> Html:
    return html(
        '<script src="/static/app.js?v={v}" defer></script>\n'
        '<noscript><meta http-equiv="refresh" content="{s}; url=/?auto=1"></noscript>\n',
        v=reader.assets, s=REFRESH_S,
    )  # fmt: skip


def _languages(reader: Reader, back: str) -> Html:
    others = [name for name in LANGUAGES if name != reader.words.language]
    return join([
        html(
            '<form method="post" action="/preferences"><input type="hidden" name="back" value="{back}">'
            '<button class="small" name="language" value="{code}" lang="{code}" title="{name}">{short}'
            '<span class="unseen"> {name}</span></button></form>',
            back=back, code=code, name=reader.names[code], short=code.upper(),
        )
        for code in others
    ])  # fmt: skip


def _theme(reader: Reader, back: str) -> Html:
    following = THEMES[(THEMES.index(reader.theme) + 1) % len(THEMES)]
    label = f"{reader.words('theme.switch')}: {reader.words('theme.' + reader.theme)}"
    return html(
        '<form method="post" action="/preferences"><input type="hidden" name="back" value="{back}">'
        '<button class="small" name="theme" value="{value}" title="{label}">{icon}<span class="unseen">{label}</span>'
        "</button></form>",
        back=back, value=following, label=label, icon=icon("theme"),
    )  # fmt: skip


def _user(reader: Reader) -> Html:
    if reader.token is None:
        return html('<a class="button small" href="/login">{t}</a>', t=reader.words("login.button"))
    return html(
        '<form method="post" action="/logout"><input type="hidden" name="token" value="{token}">'
        '<button class="small" title="{t}">{icon}<span class="wide">{t}</span></button></form>',
        token=reader.token, t=reader.words("logout.button"), icon=icon("out"),
    )  # fmt: skip


# --- the status page --------------------------------------------------------------------------------------------


def status(pieces: Mapping[str, str], reader: Reader) -> Html:
    """The status page, complete: pieces as of `page.pieces` and `controls.pieces`, `demo` as of `simulated_mains`."""
    words = reader.words
    tiles = [
        html(
            '<div class="tile"><h3>{title}</h3><p id="t-{name}">{value}</p></div>',
            title=words(f"tile.{name}"), name=name, value=pieces[f"t-{name}"],
        )
        for name in ("charge", "runtime", "load", "input")
    ]  # fmt: skip
    body = html(
        """<main id="app" class="{app}" tabindex="-1" data-shape="{shape}">
<p id="lost" role="alert" data-text="{lost}"></p>
<section class="hero">
<h2 id="state" role="status">{state}</h2>
<p id="line">{line}</p>
<p id="alert" class="unseen" role="alert">{alert}</p>
</section>
<div id="drill" role="status">{drill}</div>
<div id="urgent">{urgent}</div>
<div id="conditions">{conditions}</div>
<div class="now">
<section class="card flow" aria-label="{flow_title}">{flow}</section>
<section class="tiles" aria-label="{tiles_title}">{tiles}</section>
</div>
<div id="demo">{demo}</div>
<section class="card plan"><h2>{plan_title}</h2>
<div id="forecast">{forecast}</div>
{plan}
<div id="routine">{routine}</div></section>
<section class="card"><h2>{events_title}</h2>
<table class="events"><thead><tr><th scope="col">{time}</th><th scope="col">{event}</th></tr></thead>
<tbody id="events">{events}</tbody></table></section>
<div id="orders">{orders}</div>
<div id="danger">{danger}</div>
</main>
<footer><p id="unit">{unit}</p>{more}</footer>
""",
        app=pieces["@app"], shape=pieces["#shape"], lost=words("live.lost"), state=pieces["state"],
        line=pieces["line"], alert=pieces["alert"], conditions=pieces["conditions"],
        flow_title=words("flow.title"), flow=_flow(pieces, words), tiles_title=words("tiles.title"),
        tiles=join(tiles), demo=pieces["demo"], drill=pieces["drill"], urgent=pieces["urgent"],
        forecast=pieces["forecast"], routine=pieces["routine"], orders=pieces["orders"],
        danger=pieces["danger"],
        plan_title=words("plan.title"), plan=_plan(pieces, words),
        events_title=words("events.title"), time=words("events.time"), event=words("events.event"),
        events=pieces["events"], unit=pieces["unit"], more=_more(reader),
    )  # fmt: skip
    name = html('<h1 id="name">{n}</h1><span id="mode">{m}</span>', n=pieces["name"], m=pieces["mode"])
    return document(reader, pieces["#title"], name, body, live=True)


#: The flow strip's boxes: name, left and upper edge, drawing.
_BOXES = (
    ("mains", 6, 14, "plug"),
    ("ups", 128, 14, "ups"),
    ("load", 250, 14, "load"),
    ("battery", 128, 104, "battery"),
)


def _flow(pieces: Mapping[str, str], words: Words) -> Html:
    boxes = [
        html(
            '<g class="box {name}"><rect x="{x}" y="{y}" width="84" height="56" rx="9"/>'
            '<svg x="{ix}" y="{iy}" width="15" height="15" viewBox="0 0 24 24" class="icon">{drawing}</svg>'
            '<text x="{tx}" y="{ty}">{title}</text><text class="value" id="f-{name}" x="{cx}" y="{vy}">{value}</text>'
            '<text class="second" id="f-{name}2" x="{cx}" y="{wy}">{second}</text></g>',
            name=name, x=x, y=y, ix=x + 7, iy=y + 5, tx=x + 26, ty=y + 17, cx=x + 42, vy=y + 35, wy=y + 49,
            drawing=icon(drawing), title=words(f"flow.{name}"), value=pieces[f"f-{name}"],
            second=pieces.get(f"f-{name}2"),
        )
        for name, x, y, drawing in _BOXES
    ]  # fmt: skip
    return html(
        '<svg viewBox="0 0 340 164" class="strip"><g class="wires">'
        '<path class="w-bypass" d="M48 14V5H292V14"/><path class="w-mains" d="M90 42H128"/>'
        '<path class="w-load" d="M212 42H250"/><path class="w-battery" d="M170 70V104"/></g>{boxes}</svg>',
        boxes=join(boxes),
    )


def _plan(pieces: Mapping[str, str], words: Words) -> Html:
    """The ladder: a rung for each stage, each with a table of its servers."""
    stages = [
        html(
            '<li><h3 id="stage-{n}">{head}</h3><table><colgroup><col><col><col></colgroup>'
            '<thead{unseen}><tr><th scope="col">{a}</th><th scope="col">{b}</th>'
            '<th scope="col">{c}</th></tr></thead><tbody id="servers-{n}">{servers}</tbody></table></li>',
            n=n, head=pieces[f"stage-{n}"], servers=pieces[f"servers-{n}"], a=words("plan.server"),
            b=words("plan.state"), c=words("plan.delivery"), unseen=Html(' class="unseen"') if n else None,
        )
        for n in range(int(pieces["#shape"]))
    ]  # fmt: skip
    if not stages:
        return html("<p>{t}</p>", t=words("plan.empty"))
    return html(
        '<ol class="ladder">{stages}<li><h3 id="foot">{foot}</h3></li></ol>', stages=join(stages), foot=pieces["foot"]
    )


def simulated_mains(reader: Reader) -> Html:
    """The buttons that cut and restore the mains of a simulated UPS."""
    words = reader.words
    if reader.token is None:
        return html('<p class="card hint"><a href="/login">{t}</a></p>', t=words("demo.login"))
    return html(
        '<form class="card demo" method="post" action="/simulate" data-live><div><h2>{title}</h2><p>{help}</p></div>'
        '<input type="hidden" name="token" value="{token}">'
        '<button name="mains" value="off" class="danger">{cut}</button>'
        '<button name="mains" value="on">{restore}</button><p class="said" role="status"></p></form>',
        title=words("demo.title"), help=words("demo.help"), token=reader.token, cut=words("demo.cut"),
        restore=words("demo.restore"),
    )  # fmt: skip


def _more(reader: Reader) -> Html:
    parts = []
    if reader.token is not None:
        parts.append(html('<p><a href="/password">{t}</a></p>', t=reader.words("password.link")))
    if reader.fingerprint:
        parts.append(_fingerprint(reader))
    return join(parts)


def _fingerprint(reader: Reader) -> Html:
    title = reader.words("login.fingerprint")
    return html('<p class="fingerprint">{t} <code>{f}</code></p>', t=title, f=reader.fingerprint)


# --- the pages with a form --------------------------------------------------------------------------------------


def login(reader: Reader, name: str, *, first: bool, error: str = "") -> Html:
    """Log in. `first`: the one-time password is still in force; `error`: a text, or nothing."""
    words = reader.words
    body = html(
        """<main class="form" id="app" tabindex="-1"><form class="card" method="post" action="/login">
<h2>{title}</h2>{error}{first}
<label>{user}<input name="user" value="admin" autocomplete="username" readonly></label>
<label>{password}<input name="password" type="password" autocomplete="current-password" maxlength="200" required
 autofocus></label>
<button class="primary">{button}</button>
<p class="hint">{lost}</p>{fingerprint}</form></main>
""",
        title=words("login.title"), error=_error(error), user=words("login.user"), password=words("login.password"),
        first=html('<p class="hint">{t}</p>', t=words("login.first")) if first else None,
        button=words("login.button"), lost=words("login.lost"),
        fingerprint=_fingerprint(reader) if reader.fingerprint else None,
    )  # fmt: skip
    return document(reader, words("login.title"), home(name), body, back="/login")


def password(reader: Reader, name: str, *, ask_old: bool, error: str = "") -> Html:
    """Choose a password. `ask_old`: not after a login with the one-time password."""
    words = reader.words
    old = html(
        '<label>{t}<input name="old" type="password" autocomplete="current-password" maxlength="200" required>'
        "</label>",
        t=words("password.old"),
    )
    body = html(
        """<main class="form" id="app" tabindex="-1"><form class="card" method="post" action="/password">
<h2>{title}</h2>{error}<p class="hint">{why}</p>
<input type="hidden" name="token" value="{token}">
<input class="unseen" name="user" value="admin" autocomplete="username" tabindex="-1" aria-hidden="true" readonly>
{old}<label>{new}<input name="new" type="password" autocomplete="new-password" minlength="12" maxlength="128" required
 ></label>
<label>{again}<input name="again" type="password" autocomplete="new-password" maxlength="128" required></label>
<button class="primary">{button}</button></form></main>
""",
        title=words("password.title"), error=_error(error), token=reader.token,
        why=words("password.rule" if ask_old else "password.why"), old=old if ask_old else None,
        new=words("password.new"), again=words("password.again"), button=words("password.button"),
    )  # fmt: skip
    return document(reader, words("password.title"), home(name), body, back="/password")


def problem(reader: Reader, name: str, text: str) -> Html:
    """What went wrong, and the way back."""
    words = reader.words
    body = html(
        '<main class="form" id="app" tabindex="-1"><div class="card"><h2>{title}</h2>{error}'
        '<p><a href="/">{back}</a></p></div></main>\n',
        title=words("error.title"), error=_error(text), back=words("error.back"),
    )  # fmt: skip
    return document(reader, words("error.title"), home(name), body)


def home(name: str) -> Html:
    """What a page with a form has for a head: the way back."""
    return html('<h1><a href="/">{n}</a></h1>', n=name or "Ridethrough")


def _error(text: str) -> Html | None:
    return html('<p class="error" role="alert">{t}</p>', t=text) if text else None
