"""The line under the state's word on the status page: what comes next, what is waited for, whom we save. Pure."""

from __future__ import annotations

from . import ladder
from .model import Command, Condition, ServerView, View
from .words import Words, clock

HINTS = ("usb-silent", "usb-no-reset")  # of View.link_hint


def unsure_servers(view: View) -> list[ServerView]:
    """Armed, and not known to be reachable."""
    return [s for s in view.servers if s.state == "unknown"] if view.mode == "armed" else []


def too_long(view: View) -> bool:
    """Armed, and the battery would end before the last server is down."""
    return view.mode == "armed" and ladder.too_long(view)


def line(view: View, state: str, words: Words, now_s: float) -> str:
    """What there is to say in the state of this name."""
    since_view_s = max(0.0, now_s - view.now_s)
    was = " " + words("line.was-on-battery") if on_battery(view) and view.status is None else ""
    if state == "no-core":
        lost_s = next((now_s - a.since_s for a in view.conditions if a.condition is Condition.NO_CORE), 0.0)
        return words("line.no-core", since=clock(lost_s)) + was
    if state == "no-data":
        since = "" if view.age_s is None else clock(view.age_s + since_view_s)
        said = words("line.no-data", since=since) if since else words("line.never-data")
        remedy = f". {words(f'remedy.{view.link_hint}')}" if view.link_hint in HINTS else ""
        return said + was + remedy
    if state == "starting":
        return words("line.starting")
    if on_battery(view):
        spent = clock((view.on_battery_s or 0.0) + since_view_s)
        return f"{words('line.on-battery', since=spent)} \N{EN DASH} {_next(view, words, since_view_s)}"
    if view.phase != "idle":
        return _after(view, words, since_view_s) + _dry(view, words)
    return _protection(view, words)


def on_battery(view: View) -> bool:
    """Whether the outage is confirmed; stays known when the UPS or the core is silent."""
    return any(a.condition is Condition.ON_BATTERY for a in view.conditions)


def _dry(view: View, words: Words) -> str:
    return "" if view.mode == "armed" else " " + words("next.dry-run")


def _next(view: View, words: Words, since_view_s: float) -> str:
    """What will happen in this outage, or has."""
    if not view.servers:
        return words("next.no-server")
    dry = "" if view.mode == "armed" else "-dry"
    waiting = [s for s in view.stages if not s.latched]
    if view.stages and not waiting:
        text = words(f"next.told{dry}", told=ladder.told(view.servers), all=len(view.servers))
        return "; ".join([text, *_off(view, words, since_view_s)])
    if view.aborted:
        return words("next.stopped") + _dry(view, words)
    which = "first" if len(waiting) == len(view.stages) else "further"
    due_s = min((s.due_in_s for s in waiting if s.due_in_s is not None), default=None)
    if due_s is not None:
        return words(f"next.{which}{dry}", due=clock(due_s - since_view_s))
    cast_s = min((s.forecast_s for s in waiting if s.forecast_s is not None), default=None)
    if cast_s is not None and view.forecast is not None:
        return words("next.expected", due=clock(cast_s - since_view_s)) + _dry(view, words)
    return words(f"next.unknown{dry}")


def _off(view: View, words: Words, since_view_s: float) -> list[str]:
    """All were told: when the power may go."""
    if view.phase == "off-armed":
        return [words("off.reached")]
    if view.off_in_s is None:
        return []
    key = "off.ups" if Command.SHUTDOWN_RETURN in view.commands else "off.servers"
    return [words(key, due=clock(view.off_in_s - since_view_s))]


def _after(view: View, words: Words, since_view_s: float) -> str:
    """On mains, before protection is at rest: what is waited for."""
    if view.phase == "recovery":
        return _recovery(view, words, since_view_s)
    servers = view.servers if view.phase == "committed" else ladder.taken_along(view)
    told = words("after.told", told=ladder.told(servers), all=len(servers))
    if view.phase == "planned":
        return f"{told}; {words('after.planned')}"
    if view.phase == "hold":
        return words("after.hold" if servers else "after.hold-nobody", told=told)
    if view.phase == "off-armed":
        return words("after.off-armed")
    return "; ".join([words("after.committed"), told, *_off(view, words, since_view_s)])


def _recovery(view: View, words: Words, since_view_s: float) -> str:
    if view.wake_in_s is None:
        return words("recovery.no-mains")
    if view.wake_in_s > 0:
        due, charge_pct = clock(view.wake_in_s - since_view_s), view.wake_charge_pct
        if charge_pct is None:
            return words("recovery.due", due=due)
        return words("recovery.due-charge", due=due, charge=words.quantity(charge_pct, "%"))
    woken = [s for s in view.servers if s.wake in ("waiting", "waking")]
    by_hand = [s for s in view.servers if s.wake == "by-hand"]
    said = [words("recovery.woken", names=ladder.names(woken, words))] if woken else []
    said += [words("recovery.by-hand", names=ladder.names(by_hand, words))] if by_hand else []
    return "; ".join(said) or words("recovery.back")


def _protection(view: View, words: Words) -> str:
    """On mains: whom we would save."""
    if view.mode != "armed":
        return words(f"protection.{view.mode}")
    if any(a.condition is Condition.NOT_PROTECTED for a in view.conditions):
        return words("protection.not")
    if not view.servers:
        return words("protection.none")
    if too_long(view):
        return words("protection.too-long")
    if unsure := unsure_servers(view):
        return words("protection.some", unsure=len(unsure), all=len(view.servers))
    return words("protection.all")
