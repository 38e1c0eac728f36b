"""The texts of the web page in English and German, and how numbers, durations and moments are written there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from .model import Event

LANGUAGES = ("en", "de")
_FOLDER = Path(__file__).parent / "static" / "lang"
_IN_SECONDS = ("on-battery", "runtime", "budget", "silence")  # the reasons whose value is a time
_NO_VALUE = "\N{EN DASH}"
_THIN = "\N{NARROW NO-BREAK SPACE}"


class Html(str):
    """Text that is HTML already; everything else is escaped by `html`."""

    __slots__ = ()


def html(template: str, **values: object) -> Html:
    """`template` with its {names} replaced: Html as it is, None as nothing, everything else escaped."""
    return Html(template.format_map({name: _safe(value) for name, value in values.items()}))


def join(pieces: list[Html]) -> Html:
    """Pieces of HTML, one after the other."""
    return Html("".join(pieces))


def _safe(value: object) -> str:
    if isinstance(value, Html):
        return value
    return "" if value is None else escape(str(value))


class Words:
    """One language: `words("key", name=value)` is its text."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language, self._texts = language, texts
        self._point = "," if language == "de" else "."

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def __call__(self, key: str, **values: object) -> str:
        """The text of `key` with its {names} replaced; of an unknown key the key."""
        return fill(self._texts.get(key, key), values)

    def number(self, value: float | None, digits: int = 0) -> str:
        """A number as this language writes it; a dash for None."""
        return _NO_VALUE if value is None else f"{value:.{digits}f}".replace(".", self._point)

    def quantity(self, value: float | None, unit: str, digits: int = 0) -> str:
        """A number with its unit; a dash for None."""
        return _NO_VALUE if value is None else f"{self.number(value, digits)}{_THIN}{unit}"

    def duration(self, seconds: float | None) -> str:
        """A duration for people: 95 s, 41 min, 2 h 05 min; a dash for None."""
        if seconds is None:
            return _NO_VALUE
        if seconds < 120:
            return f"{seconds:.0f}{_THIN}s"
        minutes = int(seconds // 60)
        if minutes < 120:
            return f"{minutes}{_THIN}min"
        return f"{minutes // 60}{_THIN}h {minutes % 60:02d}{_THIN}min"

    def ago(self, seconds: float) -> str:
        """An age for people, too coarse to tick: just now, 5 min ago, 3 h ago, 2 days ago."""
        if seconds < 60:
            return self("ago.now")
        if seconds < 2 * 3600:
            return self("ago.before", value=f"{int(seconds // 60)}{_THIN}min")
        if seconds < 48 * 3600:
            return self("ago.before", value=f"{int(seconds // 3600)}{_THIN}h")
        return self("ago.days", value=int(seconds // 86400))

    def why(self, said: str) -> str:
        """Why something was done, in this language: a code, and a value behind a blank."""
        code, _, value = said.partition(" ")
        if code in _IN_SECONDS:
            value = _duration(value, self)
        return self(f"why.{code}", value=value) if f"why.{code}" in self else said

    def moment(self, wall_s: float) -> Html:
        """A moment of the wall clock, in this machine's zone; the page's script turns it into the reader's."""
        iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))
        return html(
            '<time datetime="{i}">{t}</time>', i=iso, t=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_s))
        )


def clock(seconds: float) -> str:
    """A running time: 02:14, 1:02:14."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    return f"{minutes:02d}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def fill(text: str, values: Mapping[str, Any]) -> str:
    """`text` with {name} replaced by values[name], if there is one. Never fails, whatever the values hold."""
    return re.sub(r"\{([a-z_]+)\}", lambda m: str(values.get(m[1], "")), text)


def load() -> dict[str, Words]:
    """All languages. OSError or ValueError if a file is not there or damaged."""
    return {name: Words(name, json.loads((_FOLDER / f"{name}.json").read_bytes())) for name in LANGUAGES}


def choose(accepted: str, chosen: str | None) -> str:
    """The language of a reader: as chosen before, else the first of the browser's (Accept-Language) that we have."""
    if chosen in LANGUAGES:
        return chosen
    ranked: list[tuple[float, int, str]] = []
    for place, item in enumerate(accepted[:500].split(",")):
        name, _, quality = item.partition(";q=")
        match = re.fullmatch(r"[01](\.\d{0,3})?", quality.strip() or "1")
        if match and float(match[0]) > 0:
            ranked.append((-float(match[0]), place, name.strip().lower()[:2]))
    return next((name for _, _, name in sorted(ranked) if name in LANGUAGES), LANGUAGES[0])


def event_text(event: Event, words: Words) -> str:
    """An event as a sentence; of a name that this version does not know, what the core said."""
    if event.kind in ("began", "ended"):
        subject = words(f"condition.{event.name}") if f"condition.{event.name}" in words else event.name
        return words(f"event.{event.kind}", condition=subject)
    data = {**event.data, "why": words.why(event.data.get("why", "")), "detail": _detail(event, words)}
    if f"delivery.{event.data.get('outcome', '')}" in words:
        data["outcome"] = words(f"delivery.{event.data['outcome']}")
    if "seconds" in event.data:
        data["seconds"] = _duration(event.data["seconds"], words)
    if event.name == "ups-off":
        remark = f"; {event.data['remark']}" if event.data.get("remark") else ""
        data["outcome"] = outcome(event.data.get("outcome", ""), words) + remark
    if event.name == "command":
        data["command"] = _command(event.data.get("command", ""), words)
    said = words(f"note.{event.name}", **data) if f"note.{event.name}" in words else event.name
    return f"{said}: {event.text}" if event.text else said.rstrip(" :")


def outcome(detail: str, words: Words) -> str:
    """What the delivery says of a server, in this language; a system's error text as it is."""
    key = "detail." + detail.lower().replace(" ", "-")
    return words(key) if key in words else detail


def _detail(event: Event, words: Words) -> str:
    return outcome(event.data.get("detail", ""), words)


def _duration(text: str, words: Words) -> str:
    try:
        return words.duration(float(text))
    except ValueError:
        return text


def _command(name: str, words: Words) -> str:
    """An order as its button calls it; one without a button by its name."""
    key = "shutdown.title" if name == "shutdown" else f"do.{name}"
    return words("quote", text=words(key)) if key in words else name
