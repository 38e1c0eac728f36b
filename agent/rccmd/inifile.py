"""Changes single settings in rccmd.ini and keeps everything else of the file: comments, order, blank lines."""

from __future__ import annotations

import configparser
import re

_SECTION = re.compile(r"\s*\[([^\]]+)\]")


def values(text: str, section: str = "listen") -> dict[str, str]:
    """The settings of one section; {} if it is not there. Raises ValueError if the text is no ini file."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="\0")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case
    try:
        parser.read_string(text)
    except configparser.Error as e:
        raise ValueError(" ".join(str(e).split())) from None
    return dict(parser.items(section)) if parser.has_section(section) else {}


def put(text: str, key: str, value: str, note: str = "", section: str = "listen") -> str:
    """The text with this setting changed, or added at the end of its section; `note` is a comment above it.

    A line that held another value stays as a comment only if there is a note to explain it.
    """
    lines = text.splitlines()
    first, last = _section(lines, section)
    if first is None:
        lines += [*([""] if lines and lines[-1].strip() else []), f"[{section}]"]
        first = last = len(lines)
    new = [f"# {note}"] * bool(note) + [f"{key} = {value}"]
    for at in range(first, last):
        if lines[at].partition("=")[0].strip() == key and not lines[at][:1].isspace():
            end = at + 1
            while end < last and lines[end][:1].isspace() and lines[end].strip():
                end += 1  # a value may go on in indented lines
            old = [f"# {line.strip()}" for line in lines[at:end]] if note else []
            if lines[at:end] == new[-1:]:
                return text
            lines[at:end] = new[:-1] + old + new[-1:]
            return "\n".join(lines) + "\n"
    while last > first and not lines[last - 1].strip():
        last -= 1
    lines[last:last] = new
    return "\n".join(lines) + "\n"


def drop(text: str, key: str, note: str, section: str = "listen") -> str:
    """The text with this setting made a comment, `note` above it."""
    lines = text.splitlines()
    first, last = _section(lines, section)
    for at in range(first or 0, last):
        if lines[at].partition("=")[0].strip() == key:
            lines[at : at + 1] = [f"# {note}", f"# {lines[at].strip()}"]
            return "\n".join(lines) + "\n"
    return text


def _section(lines: list[str], section: str) -> tuple[int | None, int]:
    """The lines of a section without its head: (first, behind the last); (None, 0) if there is none."""
    first: int | None = None
    for at, line in enumerate(lines):
        head = _SECTION.match(line)
        if head and first is not None:
            return first, at
        if head and head[1] == section:
            first = at + 1
    return (first, len(lines)) if first is not None else (None, 0)
