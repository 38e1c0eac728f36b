"""The plan as a ladder of stages on the status page: when each is due or was triggered, and its servers. Pure.

Makes pieces of HTML as agent/page.py does: by the number of the stage its head, which ticks, and its servers, which
seldom change; below them the foot; above them the forecast.
"""

from __future__ import annotations

from collections.abc import Sequence

from .model import Condition, Forecast, ServerView, StageView, View
from .words import Html, Words, clock, html, join, outcome

NAMES = 5  # servers that are named in a sentence; of more the number is said
TOLD = ("accepted", "delivered-unconfirmed", "dry-run")


def pieces(view: View, words: Words, now_s: float) -> dict[str, str]:
    """All pieces of the ladder. `now_s`: CLOCK_MONOTONIC."""
    gone_s = max(0.0, now_s - view.now_s)
    made: dict[str, str] = {
        "#shape": str(len(view.stages)),
        "drill": _drill(view, words, gone_s),
        "forecast": _forecast(view, words, gone_s if view.outage else 0.0),
        "foot": _foot(view, words, gone_s),
    }
    for number, stage in enumerate(view.stages):
        rows = [_server(s, view, words) for s in view.servers if s.stage == stage.name]
        made[f"stage-{number}"] = _head(stage, view, words, gone_s)
        nobody = html('<tr><td colspan="3">{t}</td></tr>', t=words("plan.no-server"))
        made[f"servers-{number}"] = join(rows) if rows else nobody
    return made


def told(servers: Sequence[ServerView]) -> int:
    """How many of them took the order, or would have."""
    return sum(s.delivery in TOLD for s in servers)


def taken_along(view: View) -> list[ServerView]:
    """The servers of the stages that are latched."""
    latched = {s.name for s in view.stages if s.latched}
    return [s for s in view.servers if s.stage in latched]


def names(servers: Sequence[ServerView], words: Words) -> str:
    """Whom a sentence speaks of: their names, or how many there are."""
    if len(servers) > NAMES:
        return words("plan.servers", n=len(servers))
    return ", ".join(s.name for s in servers)


# --- the forecast -----------------------------------------------------------------------------------------------


def too_long(view: View) -> bool:
    """Whether the battery would end before the last server is down."""
    cast = view.forecast
    if cast is None or not view.servers:
        return False
    return cast.down_s is None or (cast.margin_s is not None and cast.margin_s < 0)


def _forecast(view: View, words: Words, gone_s: float) -> Html:
    cast = view.forecast
    if cast is None or view.status is None or view.phase not in ("idle", "countdown"):
        return Html("")
    begins = [s.forecast_s if s.due_in_s is None else s.due_in_s for s in view.stages if not s.latched]
    first_s = min((s for s in begins if s is not None), default=None)
    short = too_long(view) and not view.aborted
    facts = [
        ("first", _later(first_s, gone_s), ""),
        ("down", _later(cast.down_s, gone_s), ""),
        ("battery", _later(cast.runtime_s, gone_s), words(f"basis.{cast.basis}")),
        ("margin", cast.margin_s, ""),
    ]
    if view.aborted:  # nothing is due any more
        facts = facts[2:3]
    shown = [
        html(
            '<div class="fact-{name}"><dt>{title}</dt><dd>{value}{basis}</dd></div>',
            name=name, title=words(f"forecast.{name}"), value=_signed(seconds),
            basis=html(" <small>{t}</small>", t=said) if said else None,
        )
        for name, seconds, said in facts
    ]  # fmt: skip
    problem = None
    if short:
        text = words("forecast.short" if cast.down_s is not None else "forecast.never")
        problem = html('<p class="error">{t}</p>', t=text)
    return html(
        '<div class="forecast{short}"><h3>{title}</h3><dl>{facts}</dl>{bar}{problem}</div>',
        short=" short" if short else "", title=words("forecast.now" if view.outage is None else "forecast.still"),
        facts=join(shown), bar=_bar(cast, first_s) if view.outage is None else None, problem=problem,
    )  # fmt: skip


def _later(seconds: float | None, gone_s: float) -> float | None:
    return None if seconds is None else max(0.0, seconds - gone_s)


def _signed(seconds: float | None) -> str:
    if seconds is None:
        return "\N{EN DASH}"
    return f"\N{MINUS SIGN}{clock(-seconds)}" if seconds <= -1 else clock(seconds)


def _bar(cast: Forecast, first_s: float | None) -> Html | None:
    """Battery and plan to the same scale; what of the plan lies behind the end of the battery is red."""
    if cast.down_s is None or first_s is None:
        return None
    whole_s = max(cast.runtime_s, cast.down_s, 1.0)
    first, down, end = (min(100.0, max(0.0, 100 * s / whole_s)) for s in (first_s, cast.down_s, cast.runtime_s))
    return html(
        '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="4"/><rect width="{end}" height="4"/>'
        '<rect class="during" x="{first}" width="{during}" height="4"/>'
        '<rect class="beyond" x="{end}" width="{beyond}" height="4"/></svg>',
        end=f"{end:.1f}", first=f"{first:.1f}", during=f"{max(0.0, down - first):.1f}",
        beyond=f"{max(0.0, down - end):.1f}",
    )  # fmt: skip


# --- the rungs --------------------------------------------------------------------------------------------------


def _head(stage: StageView, view: View, words: Words, gone_s: float) -> Html:
    kind, badge, note = _state(stage, view, words, gone_s)
    return html(
        '<span class="rung {kind}"></span><b>{name}</b> <span class="badge {kind}">{badge}</span>'
        "<small>{when}</small>",
        kind=kind, name=words("plan.stage", name=stage.name), badge=badge,
        when=" \N{MIDDLE DOT} ".join(t for t in ("" if stage.latched else _triggers(stage, words), note) if t),
    )  # fmt: skip


def _state(stage: StageView, view: View, words: Words, gone_s: float) -> tuple[str, str, str]:
    """What has become of a stage: the class, the badge, and what else there is to say."""
    if stage.latched:
        return "latched", words("plan.latched"), words.why(stage.why)
    running = view.phase == "countdown"
    if view.aborted and view.phase in ("countdown", "hold"):
        return "stopped", words("plan.stopped"), words("plan.stopped-note")
    if view.phase == "hold":
        return "waiting", words("plan.waiting"), words("plan.hold-note")
    held = words("plan.held", value=words.duration(view.held_s)) if running and view.held_s else ""
    if running and stage.due_in_s is not None:
        return "due", words("plan.due", due=clock(stage.due_in_s - gone_s)), held
    if stage.forecast_s is not None and view.forecast is not None:
        key = "plan.at" if view.outage is None else "plan.expected"
        return "waiting", words(key, due=clock(stage.forecast_s - (gone_s if view.outage else 0.0))), held
    return "waiting", words("plan.waiting"), held


def _triggers(stage: StageView, words: Words) -> str:
    when = []
    if stage.on_battery_s is not None:
        when.append(words("plan.on-battery", value=words.duration(stage.on_battery_s)))
    if stage.runtime_below_s is not None:
        when.append(words("plan.runtime-below", value=words.duration(stage.runtime_below_s)))
    if stage.charge_below_pct is not None:
        when.append(words("plan.charge-below", value=words.quantity(stage.charge_below_pct, "%")))
    return (" " + words("plan.or") + " ").join(when)


def _foot(view: View, words: Words, gone_s: float) -> Html:
    """The last rung: everybody is down, or back."""
    if not view.stages:
        return Html("")
    if view.phase == "recovery":
        wakes = [s.wake for s in view.servers if s.wake != "none"]
        kind, badge = "waiting", words("plan.of", n=wakes.count("back"), all=len(wakes))
    elif view.phase == "committed" and view.off_in_s is not None:
        kind, badge = "due", words("plan.due", due=clock(view.off_in_s - gone_s))
    elif view.phase == "off-armed":
        kind, badge = "latched", words("plan.reached")
    elif view.forecast is not None and view.forecast.down_s is not None and view.phase == "idle":
        kind, badge = "waiting", words("plan.at", due=clock(view.forecast.down_s))
    else:
        kind, badge = "waiting", ""
    return html(
        '<span class="rung {kind}"></span><b>{name}</b>{badge}', kind=kind,
        name=words("plan.back" if view.phase == "recovery" else "plan.end"),
        badge=html(' <span class="badge {k}">{b}</span>', k=kind, b=badge) if badge else None,
    )  # fmt: skip


def _drill(view: View, words: Words, gone_s: float) -> Html:
    if view.drill_left_s is None or any(a.condition is Condition.NO_CORE for a in view.conditions):
        return Html("")
    left = clock(view.drill_left_s - gone_s)
    return html("<p><strong>{t}</strong> {n}</p>", t=words("drill.banner"), n=words("drill.left", left=left))


# --- the servers ------------------------------------------------------------------------------------------------


def _server(server: ServerView, view: View, words: Words) -> Html:
    return html(
        '<tr><td><b>{name}</b><small>{place} \N{MIDDLE DOT} {needs}</small></td><td>{proof}</td><td>{done}</td></tr>',
        name=server.name, place=_place(server, words),
        needs=words("plan.needs", value=words.duration(server.needs_s)), proof=_proof(server, words),
        done=_done(server, view, words),
    )  # fmt: skip


def _place(server: ServerView, words: Words) -> str:
    port = f":{server.port}" if server.port else ""
    trust = f" ({words(f'trust.{server.trust}')})" if server.trust else ""
    return f"{server.how}{trust} {server.address}{port}".strip()


def _proof(server: ServerView, words: Words) -> Html:
    """What the server is, since when, and why not better."""
    if server.proof_age_s is not None:
        age = words.ago(server.proof_age_s)
        when = age if server.state != "unknown" else words("proof.last", ago=age)
    else:
        when = words("proof.never") if server.state == "unknown" else ""
    why = outcome(server.proof, words) if server.state != "proven" or server.failing else ""
    word = words(f"server.{server.state}")
    return html(
        '<span class="is-{state}">{word}</span><small>{when}</small><small>{why}</small>',
        state="failing" if server.failing else server.state,
        word=words("proof.failing", state=word) if server.failing and server.state != "unknown" else word,
        when=when, why=why,
    )  # fmt: skip


def _done(server: ServerView, view: View, words: Words) -> Html:
    """The delivery, and in the recovery how far he is back."""
    tried = words("plan.attempts", n=server.attempts) if server.attempts > 1 else ""
    delivery = html(
        '<span class="is-{delivery}">{word}</span><small>{detail} {tried}</small>', delivery=server.delivery,
        word=words(f"delivery.{server.delivery}"), detail=outcome(server.detail, words), tried=tried,
    )  # fmt: skip
    shown = ("waiting", "waking", "back", "by-hand") if view.phase == "recovery" else ("waiting", "waking")
    if server.wake not in shown:
        return delivery
    return html(
        '<span class="is-{wake}">{word}</span><small>{before}</small>', wake=server.wake,
        word=words(f"wake.{server.wake}"), before=words(f"delivery.{server.delivery}"),
    )  # fmt: skip
