"""The drivers: one module per protocol family, known by its file name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from ..model import ConfigError


def available() -> list[str]:
    """Names of all drivers, sorted; a driver is registered by existing."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The driver module `name`. ConfigError naming the right ones if there is none."""
    names = available()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise ConfigError(f'[ups] driver: no driver "{name}"{hint}; there are: {", ".join(names)}')
    return importlib.import_module(f"{__name__}.{name}")
