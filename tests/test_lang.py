"""The texts of the page: the same keys in every language, none missing, none unused, every name has a text."""

import ast
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import controls, layout, outage, page, saying, words
from agent.model import Condition, TestResult

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {name: json.loads((ROOT / f"agent/static/lang/{name}.json").read_text()) for name in words.LANGUAGES}
#: What is said of a server, a delivery and a mode: agent/model.py, ServerView and View.
STATES = ("unknown", "reachable", "proven")
DELIVERIES = ("none", "sending", "accepted", "delivered-unconfirmed", "not-delivered", "dry-run")
MODES = ("setup", "dry-run", "armed")
PHASES = ("idle", "countdown", "hold", "committed", "off-armed", "recovery", "planned")
WAKES = ("waiting", "waking", "back", "by-hand")  # and none, of which nothing is said
BASES = ("ups", "learned", "configured")
#: notes of what comes after an outage, of orders, drills and proofs
NOTES = (
    "committed", "ups-off", "ups-off-skipped", "ups-off-ignored", "recovery-began", "waking", "back", "not-back",
    "recovered", "planned-ended", "held", "aborted", "released", "cleared", "drill-began", "drill-stage",
    "drill-ended", "proof-failed", "proven-again", "state-lost", "execute", "message",
)  # fmt: skip
#: why people had a stage latched, the UPS was left on, or something ended
WHYS = (
    "ordered", "planned", "recovery", "unproven", "configured", "not-armed", "mains", "given-up", "played", "time",
    "outage", "asked",
)  # fmt: skip
STATE_WORDS = set(re.findall(r'State\(\s*"([a-z-]+)"', Path(page.__file__).read_text())) | {
    "low-battery",
    "on-battery",
}


def notes():
    """The names of the notes that the core writes, as they stand in its source."""
    found = set()
    for path in (ROOT / "agent").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                first = node.args[0] if node.args else None
                if (
                    called in ("_note", "Note", "Notice", "Row")
                    and isinstance(first, ast.Constant)
                    and isinstance(first.value, str)
                ):
                    found.add(first.value)
    return found | {"mains-back", "outage-closed", *NOTES}  # names that come from protection's effects


#: what the ways in agent/reach say of a server, agent/guard.py of the UPS, and two frequent errors of the system
DETAILS = (
    "accepts connections", "answers", "only woken", "ordered",
    "closed without a word", "closed without reading", "no answer", "no connection in time",
    "the line was not taken whole", "was told before", "is going down", "self test failed", "self test not done yet",
    "too few adapters may ask",
    "Connection refused", "No route to host",
)  # fmt: skip


def test_the_details_are_those_of_the_ways():
    text = "".join(path.read_text() for path in [*(ROOT / "agent/reach").glob("*.py"), ROOT / "agent/guard.py"])
    assert [d for d in DETAILS[:-2] if f'"{d}"' not in text] == []


def families():
    """The keys that are put together from a name."""
    keys = {f"condition.{c.value}" for c in Condition} | {f"note.{n}" for n in notes()}
    keys |= {f"server.{s}" for s in STATES} | {f"delivery.{d}" for d in DELIVERIES}
    keys |= {f"mode.{m}{h}" for m in MODES for h in ("", ".help")} | {f"state.{s}" for s in STATE_WORDS}
    keys |= {f"theme.{t}" for t in layout.THEMES} | {"event.began", "event.ended"}
    keys |= {f"next.{n}{d}" for n in ("first", "further", "told", "unknown") for d in ("", "-dry")}
    keys |= {f"tile.{t}" for t in ("charge", "runtime", "load", "input")} | {f"protection.{m}" for m in MODES[:2]}
    keys |= {f"why.{w}" for w in outage.WHYS} | {f"detail.{d.lower().replace(' ', '-')}" for d in DETAILS}
    keys |= {f"why.{w}" for w in WHYS} | {f"wake.{w}" for w in WAKES} | {f"basis.{b}" for b in BASES}
    keys |= {f"do.{d}{h}" for d in (*controls.DEEDS, *controls.ORDERS) if d != "shutdown" for h in ("", ".help")}
    keys |= (
        {"quote", "shutdown.title"}
        | {f"ago.{a}" for a in ("now", "before", "days")}
        | {f"said.{d}" for d in controls.SAID}
    )
    keys |= {f"test.{r.value}" for r in TestResult if r is not TestResult.NONE}
    keys |= {f"forecast.{f}" for f in ("first", "down", "battery", "margin")}
    keys |= {f"trust.{t}" for t in ("secure", "classic", "not-enrolled")}  # agent/reach/rccmd.py
    keys |= {f"remedy.{h}" for h in saying.HINTS}
    keys |= {f"flow.{b}" for b in ("mains", "ups", "load", "battery")}
    keys |= {f"error.{c}" for c in ("wrong", "wait", "busy", "too-short", "too-long", "common", "same")}
    return keys


def literals():
    """The keys that stand whole in the source."""
    found = set()
    for name in ("page", "saying", "ladder", "controls", "layout", "web"):
        text = (ROOT / f"agent/{name}.py").read_text()
        found |= set(re.findall(r"""["']((?:[a-z-]+)\.[a-z-]+(?:\.[a-z-]+)?)["']""", text)) & set(TEXTS["en"])
        found |= {k for k in re.findall(r"""words\(\s*["']([a-z.-]+)["']""", text) if not k.endswith(".")}
        found |= {k for k in TEXTS["en"] if "." not in k and f'words("{k}")' in text}
    return found


def test_every_language_has_the_same_keys():
    assert set(TEXTS["en"]) == set(TEXTS["de"])


def test_no_key_is_missing():
    assert (families() | literals()) - set(TEXTS["en"]) == set()


def test_no_key_is_unused():
    assert set(TEXTS["en"]) - families() - literals() == set()


@pytest.mark.parametrize("key", sorted(TEXTS["en"]))
def test_both_languages_fill_in_the_same_values(key):
    slots = [sorted(re.findall(r"\{[^}]*\}", texts[key])) for texts in TEXTS.values()]
    assert slots[0] == slots[1] and all(re.fullmatch(r"\{[a-z_]+\}", s) for s in slots[0])
    assert all(texts[key].strip() for texts in TEXTS.values())


def test_the_notes_of_the_core_are_found():
    assert {"started", "told", "not-told", "config-changed", "command"} <= notes()


# --- numbers, durations, languages ------------------------------------------------------------------------------

EN, DE = words.load()["en"], words.load()["de"]


def plain(text):
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_numbers_follow_the_language():
    assert (EN.number(230.44, 1), DE.number(230.44, 1), EN.number(None)) == ("230.4", "230,4", "\N{EN DASH}")
    assert plain(DE.quantity(49.98, "Hz", 1)) == "50,0 Hz" and EN.quantity(None, "V") == "\N{EN DASH}"


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (95, "95 s"), (120, "2 min"), (2460, "41 min"), (7500, "2 h 05 min"), (None, "\N{EN DASH}")],
)
def test_durations_are_written_for_people(seconds, text):
    assert plain(EN.duration(seconds)) == text


@pytest.mark.parametrize("seconds, text", [(0, "00:00"), (-3, "00:00"), (134.9, "02:14"), (3734, "1:02:14")])
def test_running_times_tick_like_a_clock(seconds, text):
    assert words.clock(seconds) == text


@pytest.mark.parametrize(
    "accepted, chosen, language",
    [
        ("", None, "en"),
        ("de-DE,de;q=0.9,en;q=0.8", None, "de"),
        ("en-GB,de;q=0.9", None, "en"),
        ("fr,de;q=0.5", None, "de"),
        ("de;q=0.2,en;q=0.7", None, "en"),
        ("de;q=0,fr", None, "en"),
        ("de;q=x", None, "en"),
        ("de", "en", "en"),
        ("de", "fr", "de"),
    ],
)
def test_the_language_is_the_chosen_one_or_the_browsers(accepted, chosen, language):
    assert words.choose(accepted, chosen) == language


@given(st.text(max_size=60))
def test_any_header_gives_a_language(text):
    assert words.choose(text, None) in words.LANGUAGES


@given(st.text(max_size=60), st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_filling_in_values_never_fails(text, values):
    words.fill(text, values)


def test_a_value_is_not_filled_in_twice():
    assert words.fill("{a} {b}", {"a": "{b}", "b": "2"}) == "{b} 2"


@given(st.text(max_size=60))
def test_whatever_is_put_into_html_cannot_become_markup(text):
    made = words.html("<b>{t}</b>", t=text)
    assert not set(made[3:-4]) & set("<>\"'")
