"""How an answer of the Q1 family is read: a line of words, described by one line of text. Pure.

What it says are facts by name. Lines 2 and 3 of three-phase units have their number behind the name: input_v,
input_v2, input_v3. None: the unit does not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..model import LinkError

Facts = dict[str, Any]  # float, bool, str or None by name

NUMBER = re.compile(rb"\d{1,5}(\.\d{0,3})?")
SIGNED = re.compile(rb"[+-]?\d{1,4}(\.\d{0,3})?")
_ABSENT = re.compile(rb"[-@#.]*")  # --.-  @@.@  ##.#
_SKIPPED = re.compile(rb"[+-]?\d{1,5}(\.\d{0,3})?|[01]{8}")
_CLOCK = re.compile(rb"\d{3,4}\.[0-5]\d")
_ANY = re.compile(rb"[\x21-\x7e]*")
_I = re.compile(rb"#[\x20-\x7e]*")
SHOWN_BYTES = 80


class Flag(NamedTuple):
    """One of the 0 and 1 of a word; `sense`: what it is when the fact is so."""

    name: str  # "": nobody knows
    sense: bool = True


class Word(NamedTuple):
    """One word of an answer: a number (times `factor`, perhaps signed), text, flags, or a number that is not kept."""

    names: tuple[str, ...]  # of a number or text: more than one if the word is 1/2/3
    kind: str = "number"  # number | signed | clock | text | skip | flags
    factor: float = 1.0
    flags: tuple[Flag, ...] = ()
    digits: tuple[int, ...] = ()  # a whole number of so many, or so many; (): as it comes


@dataclass(frozen=True, slots=True)
class Form:
    """An answer: `lead`, then words with blanks between them. See `form`."""

    name: str
    lead: bytes
    words: tuple[Word, ...]
    columns: tuple[tuple[int, int], ...] = ()  # where the words are, for units that leave one blank
    nul_is_0: bool = False  # in the last 8 bytes: some units send NUL for a 0 (Armac, NUT issue 1978)
    is_status: bool = False  # it must have a number that can be read, or its flags say nothing either

    def parse(self, answer: bytes) -> Facts:
        """The facts in an answer without its CR. LinkError, with the bytes, if it is anything else."""
        body = answer
        if self.nul_is_0:
            body = answer[:-8] + answer[-8:].replace(b"\0", b"0")
        if body[: len(self.lead)] != self.lead or not body:
            raise LinkError(f"{self.name}: not an answer to it: {answer[:SHOWN_BYTES]!r}")
        fields = [word for word in body[len(self.lead) :].split(b" ") if word]
        if len(fields) < len(self.words) and self._has_columns(body):
            fields = [body[start:end].strip(b" ") for start, end in self.columns]
        if len(fields) != len(self.words):
            raise LinkError(
                f"{self.name}: {len(fields)} words instead of {len(self.words)}: {answer[:SHOWN_BYTES]!r}"
            )
        facts: Facts = {}
        for word, field in zip(self.words, fields, strict=True):
            facts |= _read(word, field, answer)
        if self.is_status and all(type(value) is not float for value in facts.values()):
            raise LinkError(f"{self.name}: no number in it: {answer[:SHOWN_BYTES]!r}")
        return facts

    def _has_columns(self, body: bytes) -> bool:
        return (
            bool(self.columns)
            and len(body) == self.columns[-1][1]
            and all(body[end : end + 1] == b" " for _, end in self.columns[:-1])
        )


def form(name: str, lead: bytes, words: str, **more: Any) -> Form:
    """A Form from its words (`more`: see there):

    input_v             a number           -      is not looked at
    +temperature_c      with a sign        :model is text
    runtime_s*60        in 60 seconds      a/b/c  three in one word
    charge_pct#3        of three digits, no more, no fewer (#3#5: three or five): a lost byte is no small number
    low|!beeper_on|.    flags: the second is so when it is 0, the third means nothing that we know
    """
    return Form(name, lead, tuple(_word(word) for word in words.split()), **more)


def _word(text: str) -> Word:
    if text == "-":
        return Word((), "skip")
    if "|" in text:
        flags = (("" if f == "." else f.lstrip("!"), not f.startswith("!")) for f in text.split("|"))
        return Word((), "flags", flags=tuple(Flag(*f) for f in flags))
    kind = {"+": "signed", ":": "text", "@": "clock"}.get(text[0], "number")
    name, _, factor = text.lstrip("+:@").partition("*")
    name, *digits = name.split("#")
    return Word(tuple(name.split("/")), kind, float(factor or 1), digits=tuple(int(many) for many in digits))


def _read(word: Word, field: bytes, answer: bytes) -> Facts:
    if word.kind == "flags":
        if len(field) != len(word.flags) or field.strip(b"01"):
            raise LinkError(f"not {len(word.flags)} flags: {field!r} in {answer[:SHOWN_BYTES]!r}")
        bits = zip(word.flags, field, strict=True)
        return {flag.name: (bit == ord("1")) is flag.sense for flag, bit in bits if flag.name}
    if word.kind == "skip":
        if not _SKIPPED.fullmatch(field) and not _ABSENT.fullmatch(field):
            raise LinkError(f"not a number: {field!r} in {answer[:SHOWN_BYTES]!r}")
        return {}
    if word.kind == "text":
        if not _ANY.fullmatch(field):
            raise LinkError(f"not text: {field!r} in {answer[:SHOWN_BYTES]!r}")
        return {word.names[0]: words_of(field)}
    parts = field.split(b"/")
    if len(parts) != len(word.names):
        raise LinkError(f"not {len(word.names)} numbers: {field!r} in {answer[:SHOWN_BYTES]!r}")
    if word.kind == "clock":
        if not _CLOCK.fullmatch(field):
            raise LinkError(f"not minutes and seconds: {field!r} in {answer[:SHOWN_BYTES]!r}")
        return {word.names[0]: float(int(field[:-3]) * 60 + int(field[-2:]))}
    whole = field.isdigit() and len(field) in word.digits
    if word.digits and not whole and not _ABSENT.fullmatch(field):
        raise LinkError(f"not {' or '.join(map(str, word.digits))} digits: {field!r} in {answer[:SHOWN_BYTES]!r}")
    signs = SIGNED if word.kind == "signed" else NUMBER
    return {name: number(part, answer, signs, word.factor) for name, part in zip(word.names, parts, strict=True)}


def number(field: bytes, answer: bytes, kind: re.Pattern[bytes] = NUMBER, factor: float = 1.0) -> float | None:
    """The number in a field, None if it is padding (--.- @ #). LinkError, with the answer, if it is neither."""
    field = field.lstrip(b"#")  # ###1000
    if kind.fullmatch(field):
        return float(field) if factor == 1.0 else round(float(field) * factor, 3)
    if _ABSENT.fullmatch(field):
        return None
    raise LinkError(f"not a number: {field!r} in {answer[:SHOWN_BYTES]!r}")


def words_of(field: bytes) -> str | None:
    """A field of text without its padding; None if there is nothing else in it."""
    text = " ".join(field.decode("ascii").strip(" #@").split())
    return text if text.strip("-. ") else None


def identity(answer: bytes) -> Facts:
    """The answer to I without its CR. LinkError otherwise.

    0 1               17         28
    # company........ model..... version...     15, 10 and 10 characters, padded with blanks or #
    """
    padded = answer.ljust(38)
    gaps = padded[16:17] + padded[27:28] + padded[38:].strip(b" ")
    if gaps != b"  " or len(answer) < 29 or not _I.fullmatch(answer):  # shorter: a late answer to F
        raise LinkError(f"I: not an answer to it: {answer[:SHOWN_BYTES]!r}")
    return {
        "manufacturer": words_of(padded[1:16]),
        "model": words_of(padded[17:27]),
        "firmware": words_of(padded[28:38]),
    }


def letter(name: str, said: Mapping[bytes, Facts]) -> Callable[[bytes], Facts]:
    """A reader of answers of which there are only a few: each with its facts."""

    def parse(answer: bytes) -> Facts:
        if answer not in said:
            raise LinkError(f"{name}: not an answer to it: {answer[:SHOWN_BYTES]!r}")
        return said[answer]

    return parse
