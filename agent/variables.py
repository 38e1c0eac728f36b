"""`#VARIABLES` in texts for people: `Battery #BATTCAP %` becomes `Battery 87 %`. Pure.

The names of the CS141 manual (page 65; more are known to exist) and of its Modbus table where we know the value, and
ours. What is not in the table stays as it is, because it may be no name; a value that this UPS does not say is n/a.
The units of the original are not public, but for the volts of #INVOLT; docs/servers.md has ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from .model import Condition, Line, Status, View

UNKNOWN = "n/a"
_NAME = re.compile(r"#([A-Z][A-Z0-9_]*)")


def _number(value: float | None, digits: int = 0) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _phases(lines: Iterable[Line], pick: Callable[[Line], float | None], digits: int = 0) -> str:
    """One value for each phase."""
    return " ".join(_number(pick(line), digits) for line in lines) or UNKNOWN


def _of(pick: Callable[[Status], str]) -> Callable[[View], str]:
    """Something of the frame, when there is one."""
    return lambda view: UNKNOWN if view.status is None else pick(view.status)


def _condition(view: View) -> str:
    """What is so, in the words of the log, or `ok`."""
    return " ".join(a.condition.value for a in view.conditions) or "ok"


def _minutes(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else str(int(seconds // 60))


def _on_battery(view: View) -> str:
    on = any(a.condition is Condition.ON_BATTERY for a in view.conditions)
    return "battery" if on else UNKNOWN if view.status is None else "mains"


#: name -> value. The first block: CS141 manual; the second: names of its Modbus table; the third: ours
VARIABLES: Mapping[str, Callable[[View], str]] = {
    "AGENTSOFTREV": lambda view: view.version,
    "AUTONOMTIME": _of(lambda status: _minutes(status.battery.runtime_s)),
    "BATTCAP": _of(lambda status: _number(status.battery.charge_pct)),
    "BATTVOLT": _of(lambda status: _number(status.battery.voltage_v, 1)),
    "INVOLT": _of(lambda status: _phases(status.inputs, lambda line: line.voltage_v)),
    "OUTPUT_VOLT": _of(lambda status: _phases(status.outputs, lambda line: line.voltage_v)),
    "OUTPOWER": _of(lambda status: _phases(status.outputs, lambda line: line.load_pct)),
    "TEMPDEG": _of(
        lambda status: _number(
            status.temperature_c if status.battery.temperature_c is None else status.battery.temperature_c
        )
    ),
    "STATUS": _condition,
    "INFREQ": _of(lambda status: _phases(status.inputs, lambda line: line.frequency_hz, 1)),
    "OUTFREQ": _of(lambda status: _phases(status.outputs, lambda line: line.frequency_hz, 1)),
    "CNT_PF": lambda view: str(view.power_failures),
    "UPS": lambda view: view.name,
    "MODEL": _of(lambda status: status.ident.model or UNKNOWN),
    "SOURCE": _on_battery,
    "RUNTIME_S": _of(lambda status: _number(status.battery.runtime_s)),
    "ON_BATTERY_S": lambda view: _number(view.on_battery_s or 0.0),
    "PHASE": lambda view: view.phase,
    "MODE": lambda view: view.mode,
}


def substitute(text: str, view: View) -> str:
    """The text with the values of this view."""

    def value(found: re.Match[str]) -> str:
        pick = VARIABLES.get(found[1])
        return found[0] if pick is None else pick(view)

    return _NAME.sub(value, text)
