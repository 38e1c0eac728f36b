"""Turns the model's data classes into JSON values and back, strictly: the form they have on the bus and in the API.

Enum -> its value; frozenset -> sorted list; tuple -> list; None stays null. Unknown keys are ignored (a newer
core may say more), a missing key takes the field's default, a wrong type raises ValueError naming the field.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

_PLAIN = frozenset((str, int, float, bool, type(None)))


def to_json(value: Any) -> Any:
    """Any value of the model as JSON values. Raises TypeError on what the model does not contain."""
    kind = type(value)
    if kind in _PLAIN:  # most are
        return value
    if is_dataclass(kind):
        return {name: to_json(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (str, int, float)):  # of a library's own kind
        return value
    if isinstance(value, (tuple, list)):  # a list: an option of a way, as the configuration has it
        return [to_json(v) for v in value]
    if isinstance(value, frozenset):
        return sorted(to_json(v) for v in value)
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    raise TypeError(f"not a value of the model: {value!r}")


def from_json(cls: type[T], value: Any) -> T:
    """JSON values as an instance of the data class `cls`. Raises ValueError naming the field that is wrong."""
    read: Reader = _reader(cls)  # type: ignore[arg-type]  # a type is hashable
    return typing.cast(T, read(value, cls.__name__))


@cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


Reader = Callable[[Any, str], Any]


@cache
def _reader(kind: Any) -> Reader:
    """The function that reads a JSON value as the annotated type `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = _reader(next(a for a in args if a is not type(None)))
        return lambda value, where: None if value is None else inner(value, where)
    if origin is tuple:
        item = _reader(args[0])
        return lambda value, where: tuple(item(v, where) for v in _typed(value, list, where))
    if origin is frozenset:
        item = _reader(args[0])
        return lambda value, where: frozenset(item(v, where) for v in _typed(value, list, where))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        item = _reader(args[1])
        return lambda value, where: {str(k): item(v, where) for k, v in _typed(value, dict, where).items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda value, where: _enum(kind, value, where)
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if kind is Any:
        return lambda value, where: value  # JSON as it is: an option of a way
    if kind is float:
        return lambda value, where: float(_typed(value, (int, float), where))
    if kind in (int, str, bool):
        return lambda value, where: _typed(value, kind, where)
    raise TypeError(f"the model does not contain {kind!r}")


def _dataclass_reader(cls: Any) -> Reader:
    hints = typing.get_type_hints(cls)
    readers = {name: _reader(hints[name]) for name in _names(cls)}
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}

    def read(value: Any, where: str) -> Any:
        given = _typed(value, dict, where)
        if missing := required - given.keys():
            raise ValueError(f"{where}: {', '.join(sorted(missing))} is missing")
        return cls(**{n: r(given[n], f"{where}.{n}") for n, r in readers.items() if n in given})

    return read


def _typed(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}: {value!r} has the wrong type")
    return value


def _enum(kind: type[Enum], value: Any, where: str) -> Enum:
    try:
        return kind(value)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from None
