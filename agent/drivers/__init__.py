"""The drivers: one module per protocol family, known by its file name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ..model import ConfigError
from ..reading import nearest


def available() -> list[str]:
    """Names of all drivers, sorted; a driver is registered by existing."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The driver module `name`. ConfigError naming the right ones if there is none."""
    names = available()
    if name not in names:
        raise ConfigError(f'[ups] driver: no driver "{name}"{nearest(name, names)}; there are: {", ".join(names)}')
    return importlib.import_module(f"{__name__}.{name}")
