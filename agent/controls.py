"""The buttons by which people steer the protection and test the UPS, and the pages on which a planned shutdown is
confirmed. Pure.

They ask, the core decides. Forms work without the script. Nothing here is shown to a reader who is not logged in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from . import layout
from .layout import Reader
from .model import FED_BY_MAINS, Command, Condition, ServerView, TestResult, View
from .words import Html, Words, html, join

ALL = "all"
#: what `POST /protect` takes: the bus request `protect` (docs/upsmon-protocol.md)
DEEDS = ("hold", "abort", "release", "shutdown", "clear", "wake", "drill", "drill-end", "prove")
#: what it takes as well, for the UPS: nothing that takes power from anybody
ORDERS = tuple(
    command.value for command in (Command.TEST_QUICK, Command.TEST_STOP, Command.BEEPER_OFF, Command.BEEPER_ON)
)
SAID = ("prove", "wake", *ORDERS)  # nothing is seen of these at once, so the page says that they were done


def pieces(view: View, reader: Reader, did: str = "") -> dict[str, str]:
    """The pieces of the status page that depend on who reads it: `urgent` stands at its top, `routine` with the plan,
    `orders` and `danger` at its foot. `did`: what was just asked for, without the script."""
    made: dict[str, str] = dict.fromkeys(("urgent", "routine", "orders", "danger"), Html(""))
    if reader.token is None or any(a.condition is Condition.NO_CORE for a in view.conditions):
        return made
    to_ups, text = did in ORDERS, said(reader, did)
    made["orders"] = _orders(reader, view, text if to_ups else "")
    if view.servers:
        made["urgent"] = _form(reader, _urgent(view), "card steer", "" if to_ups else text)
        made["routine"] = _form(reader, _routine(view), "steer", "" if to_ups else text)
        made["danger"] = _danger(reader, view)
    return made


def _urgent(view: View) -> list[str]:
    """What may be asked while something happens."""
    if view.phase in ("countdown", "hold") and not all(s.latched for s in view.stages):
        begun = ["release"] if view.held_s or view.aborted else []
        return ["hold", *([] if view.aborted else ["abort"]), *begun]
    if view.phase == "recovery":
        waited = view.wake_in_s != 0 or any(s.wake in ("waiting", "waking") for s in view.servers)
        return ["wake", "clear"] if waited and view.mode == "armed" else ["clear"]
    return ["clear"] if view.phase == "planned" else []


def _routine(view: View) -> list[str]:
    """What may be asked when nothing happens. Wake: those that a planned shutdown has left down."""
    if view.phase != "idle":
        return []
    drill = [] if view.mode == "setup" else ["drill" if view.drill_left_s is None else "drill-end"]
    return ["prove", *drill, *(["wake"] if view.mode == "armed" else [])]


def _orders(reader: Reader, view: View, text: str) -> Html:
    """What may be asked of the UPS, and what its last test brought."""
    words, deeds = reader.words, orders(view)
    result = view.status.test.result if view.status is not None and view.status.test is not None else TestResult.NONE
    if not deeds and result is TestResult.NONE:
        return Html("")
    last = None if result is TestResult.NONE else html("<p>{t}</p>", t=words(f"test.{result.value}"))
    return html(
        '<section class="card ups"><h2>{title}</h2>{last}{form}</section>', title=words("ups.title"), last=last,
        form=_form(reader, deeds, "steer", text),
    )  # fmt: skip


def orders(view: View) -> list[str]:
    """Of ORDERS what this UPS can do and what makes sense now."""
    status, found = view.status, []
    if status is None:
        return []
    if any(a.condition is Condition.TEST_RUNNING for a in view.conditions):
        found.append(Command.TEST_STOP)
    elif view.phase == "idle" and status.source in FED_BY_MAINS:
        found.append(Command.TEST_QUICK)
    found += [] if status.beeper_on is False else [Command.BEEPER_OFF]
    found += [] if status.beeper_on is True else [Command.BEEPER_ON]
    return [command.value for command in found if command in view.commands]


def said(reader: Reader, do: str) -> str:
    """What the page says when this was asked for and nothing is seen of it at once; else ''."""
    return reader.words(f"said.{do}") if do in SAID else ""


def _form(reader: Reader, deeds: Sequence[str], kind: str, text: str) -> Html:
    if not deeds:
        return Html("")
    words = reader.words
    buttons = [
        html(
            '<div class="deed"><button name="do" value="{do}" title="{help}" aria-describedby="help-{do}">{t}'
            "</button>"
            '<small id="help-{do}">{help}</small></div>',
            do=do, t=words(f"do.{do}"), help=words(f"do.{do}.help"),
        )
        for do in deeds
    ]  # fmt: skip
    return html(
        '<form class="{kind}" method="post" action="/protect" data-live><input type="hidden" name="token" '
        'value="{token}">{buttons}<p class="said well" role="status">{text}</p></form>',
        kind=kind, token=reader.token, buttons=join(buttons), text=text,
    )  # fmt: skip


def _danger(reader: Reader, view: View) -> Html:
    if view.phase == "recovery" or all(s.latched for s in view.stages):
        return Html("")
    words = reader.words
    return html(
        '<section class="card danger-zone"><div><h2>{title}</h2><p>{help}</p></div>'
        '<a class="button danger" href="/shutdown">{button}</a></section>',
        title=_title(view, words), help=_purpose(view, words),
        button=f"{_title(view, words)} \N{HORIZONTAL ELLIPSIS}",
    )  # fmt: skip


def _title(view: View, words: Words) -> str:
    return words("shutdown.title" if view.on_battery_s is None else "shutdown.now")


def _purpose(view: View, words: Words) -> str:
    return words("shutdown.help" if view.on_battery_s is None else "shutdown.sooner")


# --- a planned shutdown -----------------------------------------------------------------------------------------


def whom(view: View, stage: str) -> list[ServerView]:
    """The servers that the order to shut down `stage` (or "all") takes along: of this stage and those before it."""
    order = [s.name for s in view.stages]
    if stage != ALL and stage not in order:
        return []
    taken = order if stage == ALL else order[: order.index(stage) + 1]
    return sorted((s for s in view.servers if s.stage in taken), key=lambda s: taken.index(s.stage))


def checksum(servers: Sequence[ServerView]) -> str:
    """Of those who were shown: an order for others than these is not taken."""
    told = "\n".join(f"{s.name} {s.how} {s.address}:{s.port} {s.stage}" for s in servers)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def choose(reader: Reader, view: View) -> Html:
    """The page that asks how far down the ladder a planned shutdown goes."""
    words = reader.words
    reach = [(s.name, words("shutdown.up-to", stage=s.name)) for s in view.stages[:-1] if whom(view, s.name)]
    reach.append((ALL, words("shutdown.all")))
    choices = [
        html(
            '<label class="choice"><input type="radio" name="stage" value="{stage}" required><span>{text}'
            "<small>{names}</small></span></label>",
            stage=stage, text=text, names=", ".join(s.name for s in whom(view, stage)),
        )
        for stage, text in reach
    ]  # fmt: skip
    body = html(
        '<form class="card" method="get" action="/shutdown"><h2>{title}</h2><p class="hint">{help}</p>{choices}'
        '<button class="primary">{next}</button>{back}</form>',
        title=_title(view, words), help=_purpose(view, words), choices=join(choices),
        next=words("shutdown.next"), back=_back(words),
    )  # fmt: skip
    return _page(reader, view, body if view.servers else html('<p class="card">{t}</p>', t=words("plan.empty")))


def confirm(reader: Reader, view: View, stage: str) -> Html:
    """The page that lists whom a planned shutdown will tell, and asks once more."""
    words, servers = reader.words, whom(view, stage)
    rows = [
        html(
            "<li><b>{name}</b> <small>{how} {address} \N{MIDDLE DOT} {needs}</small>{lost}</li>",
            name=s.name, how=s.how, address=s.address, needs=words("plan.needs", value=words.duration(s.needs_s)),
            lost=None if s.mac else html("<small>{t}</small>", t=words("shutdown.no-mac")),
        )
        for s in servers
    ]  # fmt: skip
    after = "shutdown.outage" if view.on_battery_s is not None else "shutdown.after"
    body = html(
        """<form class="card" method="post" action="/protect"><h2>{title}</h2>{dry}
<p>{lead}</p><ul class="whom">{rows}</ul><p class="hint">{after}</p>
<input type="hidden" name="token" value="{token}"><input type="hidden" name="do" value="shutdown">
<input type="hidden" name="stage" value="{stage}"><input type="hidden" name="list" value="{list}">
<label class="choice"><input type="checkbox" name="sure" value="yes" required><span>{sure}</span></label>
<button class="danger">{button}</button>{back}</form>""",
        title=_title(view, words), lead=words("shutdown.lead", n=len(servers)), rows=join(rows),
        dry=None if view.mode == "armed" else html('<p class="hint">{t}</p>', t=words("shutdown.dry")),
        after=words(after), token=reader.token, stage=stage, list=checksum(servers), sure=words("shutdown.sure"),
        button=words("shutdown.button", n=len(servers)), back=_back(words),
    )  # fmt: skip
    return _page(reader, view, body)


def _page(reader: Reader, view: View, body: Html) -> Html:
    main = html('<main class="form" id="app" tabindex="-1">{body}</main>\n', body=body)
    return layout.document(reader, _title(view, reader.words), layout.home(view.name), main)


def _back(words: Words) -> Html:
    return html('<a class="button" href="/">{t}</a>', t=words("shutdown.back"))
