"""What may be shown of a configuration, and of texts that may quote it: only what is known to be harmless. Pure.

A configuration is written anew from what was read of it: numbers and yes or no of known options, words that an
option offers, defaults, IP and hardware addresses and devices stay. Every other text becomes `***1`, `***2`, ... (the
same text the same number, here and in whatever quotes it), and comments are gone with it. A secret becomes `***`.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from .addresses import split_address
from .model import ConfigError, Option

HIDDEN = "***"
SHORT = 4  # a secret of fewer characters is taken out only where it stands alone
LONG = 8  # a text of so many characters is taken out wherever it stands
BEGUN = 16  # of a long text so many characters are known again where the rest was cut off
TAIL = 6  # at the end of a text, that may have been cut there, so many

_WORD = (
    r"(?:secret|passw(?:or)?d|pass[ _-]?phrase|token|communit(?:y|ies)|credential|psk|cookie|api[ _-]?key|auth|priv)"
)
_CODE = r"(?:(?:setup|one[ _-]?time|enrol\w*)[ _-]?)codes?|(?<![a-z])(?:keys?|pin|pass)(?![a-z])"
_NAMED = rf"[\w.-]*(?:{_WORD}|{_CODE})[\w.-]*"
_SECRET_KEY = re.compile(rf"(?i){_NAMED}")
_IN_TEXT = (
    re.compile(r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)"),
    re.compile(r"(?i)((?:authorization|cookie|x-[a-z-]*(?:key|token|auth)[a-z-]*)[\"']?\s*[:=]\s*)[^\r\n\"']+"),
    re.compile(r"(?i)(\b(?:bearer|basic|digest)\s+)[\w+/=.~-]{6,}"),
    re.compile(r"(?i)([a-z][a-z0-9+.-]*://)[^\s\"'<>]*(@)"),
    re.compile(r"([\w/.-]\?)[^\s\"'<>?=]*=[^\s\"'<>]*"),  # ?key=value
    re.compile(rf"(?i)({_NAMED}(?:\\?[\"'])?\s*(?:[:=]|\bis\b)?\s*\\?[\"'])[^\"']+(?=\\?[\"'])"),
    re.compile(rf"(?i)({_NAMED}\s*[:=]\s*)(?![\s\"'\\])[^\s,;&\"']+"),
    re.compile(r"(?i)((?:secret|password|pass[ _-]?phrase|token|community|psk)\s+)(?:public|private)\b"),
    re.compile(r"((?i:secret|password|pass[ _-]?phrase|token|community|psk)\s+)(?=\S*[A-Z\d_@#$%&+=!*-])[^\s\"'=:]+"),
)
_MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")
_DEVICE = re.compile(r"/dev/(?!.*\.\.)[A-Za-z][\w./:+-]{0,150}")
_LINES = re.compile(r"-?(?:dtr|rts|cts|dsr|dcd|ri|break|none|\d{1,3})(?:\+(?:dtr|rts|\d{1,3}))*")  # of a cable
_OWN: Mapping[str, re.Pattern[str]] = {  # option -> what it may also be
    **dict.fromkeys(("usb_vendor", "usb_product"), re.compile(r"[0-9a-fA-F]{4}")),
    "usb_place": re.compile(r"\d{1,2}-\d{1,2}(?:\.\d{1,2}){0,5}"),
    "ok": re.compile(r"[1-5]\d\d"),
    **dict.fromkeys(("on_line", "low_battery", "replace_battery", "bypass", "sense", "power", "shutdown"), _LINES),
}
_NAME = re.compile(r"\w+(?:[.-]+\w+)*")


def is_harmless(option: Option, value: Any) -> bool:
    """Whether a value of this option can be no secret, whatever somebody has mistaken the option for."""
    if option.kind in (bool, int, float):
        return isinstance(value, (bool, int, float))
    if option.kind is list:
        return isinstance(value, list) and all(isinstance(one, str) and _is_plain(option, one) for one in value)
    return isinstance(value, str) and _is_plain(option, value)


def _is_plain(option: Option, text: str) -> bool:
    if text in ("", option.default, *option.choices) or _MAC.fullmatch(text) or _DEVICE.fullmatch(text):
        return True
    if option.name in _OWN and _OWN[option.name].fullmatch(text):
        return True
    try:
        host = split_address(text)[0] if text.count(":") == 1 or text.startswith("[") else text
        ipaddress.ip_network(host, strict=False)
    except (ConfigError, ValueError):
        return False
    return "." in text or ":" in text


class Redactor:
    """Remembers what must not be shown, and takes it out of whatever is.

    `secrets`: taken out wherever they stand. `words`: of the house; they stay, also where a configuration has used
    one of them as a name.
    """

    def __init__(self, secrets: Iterable[str], words: Iterable[str] = ()) -> None:
        self._words = frozenset(words)
        self._marks: dict[str, str] = {}  # text of the configuration -> what stands for it
        self._names: dict[str, str] = {}  # those that are one word: looked up, for there may be thousands
        self._long: dict[str, str] = {}  # the others
        self._secrets = {secret for secret in secrets if secret}
        self._forms: dict[str, list[tuple[str, str]]] | None = None

    # --- the configuration --------------------------------------------------------------------------------------

    def table(self, raw: Any, options: Sequence[Option]) -> Any:
        """One table of a configuration with what may be shown of it."""
        if not isinstance(raw, dict):
            return self.unknown(raw)
        known = {option.name: option for option in options}
        return {
            key if key in known else self._mark(key): value
            if key in known and is_harmless(known[key], value)
            else self.unknown(value)
            for key, value in raw.items()
        }

    def unknown(self, value: Any) -> Any:
        """The shape of a value of which nothing is known."""
        if isinstance(value, dict):
            return {self._mark(key): self.unknown(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.unknown(one) for one in value]
        if isinstance(value, bool):
            return value
        return self._mark(str(value))

    def _mark(self, text: str) -> str:
        if text not in self._marks:
            mark = self._marks[text] = f"{HIDDEN}{len(self._marks) + 1}"
            self._note(text, mark)
            for part in re.split(r"[^\w.+-]+", text):  # of a URL, a header, a body: it may come up by itself
                if part != text and len(part) >= SHORT:
                    self._note(part, mark)
            self._forms = None
        return self._marks[text]

    def _note(self, text: str, mark: str) -> None:
        for one in {text, *(line.strip() for line in text.splitlines())} - self._words:
            if not one.strip():
                continue
            target = self._names if _NAME.fullmatch(one) and len(one) < LONG else self._long
            target.setdefault(one, mark)

    # --- whatever quotes it -------------------------------------------------------------------------------------

    def value(self, value: Any) -> Any:
        """JSON values, with nothing in their texts and keys that must not be shown."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                self.text(str(key)): HIDDEN
                if isinstance(one, str) and one and _SECRET_KEY.fullmatch(str(key))
                else self.value(one)
                for key, one in value.items()
            }
        return [self.value(one) for one in value] if isinstance(value, (list, tuple)) else value

    def text(self, text: str) -> str:
        """A text without what must not be shown."""
        if text in self._words and text not in self._secrets:
            return text
        text = self._without_known(text)
        for secret in self._secrets:
            if len(secret) < SHORT:
                text = re.sub(rf"(?<![\w.]){re.escape(secret)}(?![\w.])", lambda _: HIDDEN, text)
        text = _NAME.sub(self._named, text)
        for pattern in _IN_TEXT:
            text = pattern.sub(lambda m: m[1] + HIDDEN + (m[2] if m.re.groups > 1 else ""), text)
        return text

    def _without_known(self, text: str) -> str:
        """Without every text of some length that is known, also where its rest was cut off."""
        known = self._known()
        end = len(text) - 3 if text.endswith("...") else len(text)
        shown, at = [], 0
        while at < len(text):
            found, mark = 0, ""
            for form, its_mark in (*known.get(text[at : at + TAIL], ()), *known.get(text[at : at + SHORT], ())):
                alike = _alike(text, at, form)
                enough = alike == len(form) or alike >= BEGUN or (at + alike >= end and alike >= TAIL)
                if enough and alike > found:
                    found, mark = alike, its_mark
            shown.append(mark or text[at])
            at += found or 1
        return "".join(shown)

    def _named(self, match: re.Match[str]) -> str:
        word = match[0]
        if len(word) >= SHORT:
            return self._names.get(word, word)
        before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
        alone = before in ("", "'", '"') and after in ("", "'", '"')
        return self._names.get(word, word) if alone else word

    def _known(self) -> Mapping[str, list[tuple[str, str]]]:
        """Every way in which what is known may be written, and its mark, by its first characters."""
        if self._forms is None:
            self._forms = {}
            marks = {form: mark for text, mark in self._long.items() for form in _forms(text)}
            marks |= {form: HIDDEN for text in self._secrets for form in _forms(text)}
            for form, mark in marks.items():
                if len(form) >= SHORT:
                    start = form[:TAIL] if len(form) >= TAIL else form[:SHORT]
                    self._forms.setdefault(start, []).append((form, mark))
        return self._forms


def _forms(text: str) -> set[str]:
    """As it is, and as JSON, our error texts, URLs, and dumps of bytes write it."""
    data = text.encode("utf-8", "surrogatepass")
    forms = {
        text,
        repr(text)[1:-1],
        repr(data)[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
    }
    if len(text) >= SHORT:
        forms |= {quote(text, safe="", errors="replace"), quote(text, errors="replace"), data.hex(), data.hex(" ")}
        forms.add(base64.b64encode(data).decode().rstrip("="))
    return forms


def _alike(text: str, at: int, form: str) -> int:
    """How many characters from `at` on are those of `form`."""
    if text.startswith(form, at):
        return len(form)
    return next((n for n, (a, b) in enumerate(zip(text[at:], form, strict=False)) if a != b), len(text) - at)
