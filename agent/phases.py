"""What a UPS says once for its whole output, said of its lines. Pure."""

from __future__ import annotations

from dataclasses import replace

from .model import Line


def with_load(lines: tuple[Line, ...], load_pct: float | None) -> tuple[Line, ...]:
    """The load of the whole unit belongs to the one output; of three, to each that does not say its own."""
    if load_pct is None:
        return lines
    if len(lines) > 1:
        return tuple(replace(line, load_pct=load_pct) if line.load_pct is None else line for line in lines)
    return (replace(lines[0] if lines else Line(), load_pct=load_pct),)
