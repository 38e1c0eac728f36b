"""Reads the plain part of YAML that our own files keep to: mappings, lists and scalars, one a line, by their indent.

No anchors, flow collections, block texts or tags: whatever else stands in a file is an error, as a slip would be.
"""

from __future__ import annotations

import re
from typing import Any

_ENTRY = re.compile(r"([A-Za-z_][\w-]*):(?: (.+))?")
_PLAIN = re.compile(r"(?![-?:,\[\]{}#&*!|>'\"%@`])(?:(?!: | #).)+")


def read(text: str) -> Any:
    """The document. ValueError names the line."""
    lines = [
        (number, len(line) - len(line.lstrip(" ")), line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    found, rest = _node(lines)
    if rest:
        raise ValueError(f"line {rest[0][0]}: indented otherwise than what is above it")
    return found


_Lines = list[tuple[int, int, str]]


def _node(lines: _Lines) -> tuple[Any, _Lines]:
    """The mapping or list that begins here, and the lines behind it."""
    indent, is_list = lines[0][1], lines[0][2].startswith("- ")
    items: list[Any] = []
    entries: dict[str, Any] = {}
    while lines and lines[0][1] == indent and lines[0][2].startswith("- ") == is_list:
        number, _, text = lines[0]
        if is_list:
            inner = text[2:].lstrip()
            if _ENTRY.fullmatch(inner) and inner[0] not in "'\"":
                value, lines = _node([(number, indent + len(text) - len(inner), inner), *lines[1:]])
            else:
                value, lines = _scalar(number, inner), lines[1:]
            items.append(value)
            continue
        match = _ENTRY.fullmatch(text)
        if match is None or match[1] in entries:
            raise ValueError(f"line {number}: no entry, or one twice: {text}")
        if match[2] is not None:
            entries[match[1]], lines = _scalar(number, match[2]), lines[1:]
            continue
        below = lines[1:]
        if not below or below[0][1] < indent or (below[0][1] == indent and not below[0][2].startswith("- ")):
            raise ValueError(f"line {number}: nothing below {text}")
        entries[match[1]], lines = _node(below)
    return (items if is_list else entries), lines


def _scalar(number: int, text: str) -> Any:
    if match := re.fullmatch(r"'((?:[^']|'')*)'", text):
        return match[1].replace("''", "'")
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d+\.\d+", text):
        return float(text)
    if not _PLAIN.fullmatch(text) or text.lower() in ("true", "false", "yes", "no", "on", "off", "null", "~"):
        raise ValueError(f"line {number}: put it in quotes: {text}")
    return text
