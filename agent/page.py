"""The status page: what a View looks like, as pieces of HTML. Pure; the script only puts changed pieces in place.

`pieces(view, ...)` gives {id: HTML}. The whole page is these pieces in a layout (agent/layout.py); the stream sends
what changed. No elements are: "#title", the window's title; "#shape", the number of stages (if it changes the page
must be loaded anew); "@app", the classes of <main>, by which the style sheet colours everything. All text comes from
agent/static/lang; whatever a UPS says is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import ladder, saying
from .model import FED_BY_MAINS, Command, Condition, Event, Flow, Source, View
from .words import Html, Words, clock, event_text, html, join

EVENTS = 8  # that are shown

#: Conditions that make the page red; the others that are shown make it yellow.
ALARMS = frozenset(
    {
        Condition.LOW_BATTERY, Condition.BATTERY_DEPLETED, Condition.BATTERY_BAD, Condition.OVERLOAD,
        Condition.OUTPUT_OFF, Condition.UPS_SYSTEM_OFF, Condition.GENERAL_FAULT, Condition.SHUTDOWN_IMMINENT,
        Condition.NOT_PROTECTED, Condition.CONFIG_ERROR, Condition.TEMPERATURE_BAD, Condition.FUSE_FAILURE,
    }
)  # fmt: skip
QUIET = frozenset({Condition.TEST_RUNNING})

_ICONS = {
    "ok": '<path d="M5 12.5l4.5 4.5L19 7.5"/>',
    "battery": '<path d="M3 8h15v8H3zM21 11v2M6 11v2M9 11v2"/>',
    "alarm": '<path d="M12 4l9 16H3zM12 10v4M12 17v.5"/>',
    "unknown": '<path d="M9 9.5a3 3 0 1 1 4 2.8c-.7.3-1 .8-1 1.7M12 17v.5"/>',
    "wait": '<path d="M12 6v6l4 2M12 3a9 9 0 1 0 .1 0"/>',
    "plug": '<path d="M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4"/>',
    "ups": '<path d="M6 3h12v18H6zM13 6l-3 5h4l-3 5"/>',
    "out": '<path d="M14 4h5v16h-5M4 12h11M11 8l4 4-4 4"/>',
    "theme": '<path d="M12 4a8 8 0 1 0 .1 0zM12 4v16M12 8l6-1M12 12h8M12 16l6 1"/>',
    "load": '<path d="M4 4h16v6H4zM4 14h16v6H4zM7 7v.1M7 17v.1"/>',
}


@dataclass(frozen=True)
class State:
    """What is the matter, in one word. name: a key of the texts; tone: ok, warn, alarm or quiet; icon."""

    name: str
    tone: str
    icon: str


def state_of(view: View) -> State:
    """The one word for a view."""
    so = {a.condition for a in view.conditions}
    battery = Condition.ON_BATTERY in so
    if Condition.NO_CORE in so:
        return State("no-core", "alarm" if battery else "quiet", "unknown")
    if view.link == "starting" and view.status is None:
        return State("starting", "quiet", "wait")
    if Condition.COMM_LOST in so or view.status is None:
        return State("no-data", "alarm" if battery else "warn", "unknown")
    if battery and (Condition.SHUTDOWN_IMMINENT in so or view.phase == "committed"):
        return State("shutting-down", "alarm", "battery")
    if battery:
        return State("low-battery" if Condition.LOW_BATTERY in so else "on-battery", _worst(view, "warn"), "battery")
    if view.phase in ("committed", "off-armed"):  # there is no way back, also when the mains is
        return State("shutting-down", "alarm", "alarm")
    if so & {Condition.OUTPUT_OFF, Condition.UPS_SYSTEM_OFF} or view.status.source is Source.NONE:
        return State("output-off", "alarm", "alarm")
    if Condition.ON_BYPASS in so or view.status.source is Source.BYPASS:
        return State("on-bypass", _worst(view, "warn"), "alarm")
    if view.phase == "planned":
        return State("planned", _worst(view, "warn"), "wait")
    if view.phase == "recovery":
        return State("recovery", _worst(view, "warn"), "wait")
    if view.phase == "hold":
        return State("mains-back", _worst(view, "warn"), "plug")
    tone = _worst(
        view, "warn" if view.config_errors or saying.unsure_servers(view) or saying.too_long(view) else "ok"
    )
    return State("on-line", tone, "ok" if tone == "ok" else "alarm")


def _worst(view: View, tone: str) -> str:
    shown = {a.condition for a in view.conditions} - QUIET
    if shown & ALARMS:
        return "alarm"
    return "warn" if shown else tone


def _tone(condition: Condition) -> str:
    return "alarm" if condition in ALARMS else "note" if condition in QUIET else "warn"


def pieces(view: View, events: Sequence[Event], words: Words, now_s: float) -> dict[str, str]:
    """All pieces of the page. `now_s`: CLOCK_MONOTONIC; `events` ascending, the last ones are shown."""
    state = state_of(view)
    word = words(f"state.{state.name}")
    line = saying.line(view, state.name, words, now_s)
    name = view.name or "Ridethrough"
    return {
        "#title": f"{word} \N{EN DASH} {name}",
        "@app": Html(" ".join([f"tone-{state.tone}", f"state-{state.name}", *_flows(view)])),
        "name": html("{n}", n=name),
        "mode": _mode(view, words),
        "state": html("{icon}<strong>{word}</strong>", icon=icon(state.icon), word=word),
        "line": html("{line}", line=line),
        "alert": html("{w}", w=word) if state.tone == "alarm" or state.name == "on-battery" else Html(""),
        **_values(view, words),
        "conditions": _conditions(view, state, words),
        **ladder.pieces(view, words, now_s),
        "events": _events(events, words),
        "unit": _unit(view, words, now_s),
    }


def icon(name: str) -> Html:
    """A drawing for the eye alone: what it means stands beside it."""
    return Html(f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">{_ICONS[name]}</svg>')


# --- head, flow strip and tiles -----------------------------------------------------------------------------------


def _mode(view: View, words: Words) -> Html:
    if any(a.condition is Condition.NO_CORE for a in view.conditions):
        return Html("")
    return html(
        '<span class="badge mode-{m}" title="{t}">{w}</span>', m=view.mode, t=words(f"mode.{view.mode}.help"),
        w=words(f"mode.{view.mode}"),
    )  # fmt: skip


def _flows(view: View) -> list[str]:
    """Which lines of the flow strip carry power."""
    if view.status is None:
        return ["no-data"]
    source, battery = view.status.source, view.status.battery
    flows = []
    if source in FED_BY_MAINS or source is Source.BYPASS:
        flows.append("mains-in")
    if source is Source.BYPASS:
        flows.append("bypass")
    if source not in (Source.NONE, Source.UNKNOWN):
        flows.append("load-on")
    if source is Source.BATTERY or battery.flow is Flow.DISCHARGING:
        flows.append("discharging")
    elif battery.flow is Flow.CHARGING:
        flows.append("charging")
    return flows


def _values(view: View, words: Words) -> dict[str, Html]:
    status = view.status
    battery = status.battery if status else None
    inputs = status.inputs if status else ()
    outputs = status.outputs if status else ()
    volts = [i.voltage_v for i in inputs if i.voltage_v is not None]
    hertz = next((i.frequency_hz for i in inputs if i.frequency_hz is not None), None)
    loads = [o.load_pct for o in outputs if o.load_pct is not None]
    watts = [o.power_w for o in outputs if o.power_w is not None]
    output_v = [o.voltage_v for o in outputs if o.voltage_v is not None]
    battery_v = battery.voltage_v if battery else None
    charge_pct = battery.charge_pct if battery else None
    runtime_s = battery.runtime_s if battery else None
    guessed = battery.estimated if battery else frozenset()
    older = status.older if status else {}
    load_s, input_s = (
        max((older[p] for n in range(3) if (p := f"{rows}[{n}].{name}") in older), default=None)
        for rows, name in (("outputs", "load_pct"), ("inputs", "voltage_v"))
    )
    load_pct = max(loads) if loads else None
    power_w = sum(watts) if watts else None
    input_v = _each(volts, words) if len(volts) > 1 else words.number(volts[0] if volts else None, 1)
    all_loads = _each(loads, words) if len(loads) > 1 else words.number(load_pct)
    return {
        "f-mains": html("{v}", v=_volts(volts, words) or "\N{EN DASH}"),
        "f-mains2": html("{v}", v=words.quantity(hertz, "Hz", 1) if hertz is not None else ""),
        "f-ups": html("{v}", v=_volts(output_v, words)),
        "f-load": html("{v}", v=words.quantity(load_pct, "%")),
        "f-load2": html("{v}", v=words.quantity(power_w, "W") if power_w is not None else ""),
        "f-battery": html("{m}{v}", m=_about("charge_pct", guessed), v=words.quantity(charge_pct, "%")),
        "f-battery2": html(
            "{m}{v}",
            m=_about("voltage_v", guessed),
            v=words.quantity(battery_v, "V", 1) if battery_v is not None else "",
        ),
        "t-charge": _tile(words.number(charge_pct), "%", charge_pct, "charge_pct" in guessed, None, words),
        "t-runtime": _tile(*_split(words.duration(runtime_s)), None, "runtime_s" in guessed, None, words),
        "t-load": _tile(all_loads, "%", load_pct, False, load_s, words),
        "t-input": _tile(input_v, "V", None, False, input_s, words),
    }  # fmt: skip


def _about(name: str, guessed: frozenset[str]) -> str:
    """What stands before an estimate where there is no room for the word."""
    return "\N{ALMOST EQUAL TO}\N{NARROW NO-BREAK SPACE}" if name in guessed else ""


def _each(values: Sequence[float], words: Words) -> str:
    """One number a line of three phases."""
    return " / ".join(words.number(v) for v in values)


def _volts(values: Sequence[float], words: Words) -> str:
    if len(values) == 1:
        return words.quantity(values[0], "V", 1)
    return f"{_each(values, words)} V" if values else ""


def _split(duration: str) -> tuple[str, str]:
    """A duration's number and unit, if it has one of each."""
    number, _, unit = duration.rpartition("\N{NARROW NO-BREAK SPACE}")
    return (number, unit) if number.isdigit() else (duration, "")


def _tile(value: str, unit: str, part_pct: float | None, guessed: bool, older_s: float | None, words: Words) -> Html:
    if not any(c.isdigit() for c in value):
        return html('<span class="none" title="{t}">\N{EN DASH}</span>', t=words("tile.none"))
    bar = Html("")
    if part_pct is not None:
        width = min(100.0, max(0.0, part_pct))
        bar = html(
            '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
            '<rect class="track" width="100" height="4"/><rect width="{w}" height="4"/></svg>',
            w=f"{width:.0f}",
        )
    notes = [words("tile.estimated")] if guessed else []
    notes += [words("tile.older", age=words.duration(older_s))] if older_s is not None else []
    mark = html("<em>{t}</em>", t=", ".join(notes)) if notes else None
    return html(
        "<b>{v}</b><i>{u}</i>{m}{bar}", v=value, u=f"\N{NARROW NO-BREAK SPACE}{unit}" if unit else "", m=mark, bar=bar
    )


# --- what is the matter, the plan, the log ----------------------------------------------------------------------


#: What the big word says already.
_SAID = {
    "no-data": {Condition.COMM_LOST}, "low-battery": {Condition.LOW_BATTERY}, "on-bypass": {Condition.ON_BYPASS},
    "shutting-down": {Condition.SHUTDOWN_IMMINENT}, "output-off": {Condition.OUTPUT_OFF},
}  # fmt: skip


def _conditions(view: View, state: State, words: Words) -> Html:
    said = {Condition.ON_BATTERY, Condition.NO_CORE} | _SAID.get(state.name, set())
    if saying.on_battery(view):
        said.add(Condition.INPUT_BAD)
    shown = [a for a in view.conditions if a.condition not in said]
    rows = [
        html(
            '<li class="{tone}">{icon}<div><span>{text}</span> <small>{since} {at}</small></div></li>',
            tone=_tone(a.condition), icon=icon("alarm"),
            text=words(f"condition.{a.condition.value}"), since=words("since"), at=words.moment(a.since_wall_s),
        )
        for a in shown
    ]  # fmt: skip
    rows += [html('<li class="problem"><code>{text}</code></li>', text=text) for text in view.config_errors]
    if not rows:
        return Html("")
    return html('<ul aria-label="{title}">{rows}</ul>', title=words("conditions.title"), rows=join(rows))


def _events(events: Sequence[Event], words: Words) -> Html:
    if not events:
        return html('<tr><td colspan="2">{t}</td></tr>', t=words("events.empty"))
    return join([
        html(
            '<tr><td>{at}{unsure}</td><td><span class="dot {kind}"></span>{text}</td></tr>',
            at=words.moment(e.wall_s), text=event_text(e, words), kind=_kind(e),
            unsure=None if e.clock_synced else html(' <abbr title="{t}">?</abbr>', t=words("events.unsynced")),
        )
        for e in reversed(events[-EVENTS:])
    ])  # fmt: skip


def _kind(event: Event) -> str:
    if event.kind != "began":
        return "ended" if event.kind == "ended" else "note"
    return _tone(Condition(event.name)) if event.name in {c.value for c in Condition} else "warn"


def _unit(view: View, words: Words, now_s: float) -> Html:
    ident = view.status.ident if view.status else None
    names = [ident.manufacturer, ident.model, ident.firmware, ident.serial] if ident else []
    unit = " ".join(n for n in names if n)
    unit = f"{unit} \N{MIDDLE DOT} " if unit else ""
    link = f" \N{MIDDLE DOT} {view.link_detail}" if view.link_detail else ""
    age = ""
    if view.age_s is not None and view.age_s + max(0.0, now_s - view.now_s) > 5.0:
        age = " \N{MIDDLE DOT} " + words("unit.age", age=clock(view.age_s + now_s - view.now_s))
    facts = words(
        "unit.facts", driver=view.driver or "\N{EN DASH}", failures=view.power_failures, version=view.version
    )
    return html("{unit}{facts}{link}{age}", unit=unit, facts=facts, link=link, age=age)


def can_simulate(view: View) -> bool:
    """Whether the page has buttons for the simulated mains."""
    return Command.SIMULATE in view.commands and not any(a.condition is Condition.NO_CORE for a in view.conditions)
