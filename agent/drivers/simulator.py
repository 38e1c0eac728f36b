"""The simulated UPS of the demo: its mains can be cut by a button, or by a timeline in a file.

The UPS itself is agent/pretend.py; here it becomes a driver that needs no link and says all that a Status can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..model import (
    VERSION,
    Battery,
    Command,
    Condition,
    ConfigError,
    Driver,
    Ident,
    Line,
    Link,
    LinkError,
    Option,
    OrderError,
    Outlet,
    Rating,
    Source,
    Status,
    Test,
)
from ..pretend import BATTERY_V, NOMINAL_HZ, NOMINAL_V, NOMINAL_VA, POWER_FACTOR, Scene, Step, Unit, parse_timeline
from ..q1 import meaning, orders
from ..q1.megatec import Q1

NAME, TITLE, LINK = "simulator", "Simulated UPS", "none"
OPTIONS = (
    Option(name="timeline", kind=str, help="path of a timeline (.seq) that the simulated UPS plays from its start"),
    Option(name="speed", kind=float, default=1.0, low=0.1, high=600, help="how many times faster the battery runs"),
    Option(name="load_pct", kind=float, default=30.0, low=0, high=150, help="load of the simulated UPS"),
    Option(
        name="runtime_s",
        kind=float,
        default=1200.0,
        low=10,
        high=86400,
        help="runtime of the full battery at that load",
    ),
    Option(name="battery_low_pct", kind=float, default=20.0, low=0, high=95, help="charge below which it is low"),
)
QUERIES: tuple[bytes, ...] = ()

TIMELINE_LIMIT_BYTES = 256 * 1024


def probe(link: Link) -> float:
    """Never found on a line."""
    return 0.0


_last: tuple[tuple[Any, ...], Scene] | None = None  # the pretend UPS lives on when the agent connects to it again


def connect(section: Mapping[str, Any], link: Link | None, now: Callable[[], float]) -> Driver:
    """The pretend UPS of this `section`; it needs no link. `now` is CLOCK_MONOTONIC in seconds.

    With the same options and clock it is the one of the last call, as it would be with a real unit: a timeline goes
    on through a lost connection. LinkError if the timeline cannot be read.
    """
    global _last
    identity = (now, *sorted(section.items()))
    if _last is None or _last[0] != identity:
        _last = identity, _scene(section, now())
    return Simulator(_last[1], now)


def _scene(section: Mapping[str, Any], now_s: float) -> Scene:
    options = {o.name: o.default if section.get(o.name) is None else section[o.name] for o in OPTIONS}
    path = options.pop("timeline")
    steps: tuple[Step, ...] = ()
    if path is not None:
        try:
            with Path(path).open("rb") as file:
                text = file.read(TIMELINE_LIMIT_BYTES + 1)
            if len(text) > TIMELINE_LIMIT_BYTES:
                raise LinkError(f"timeline {path} is longer than {TIMELINE_LIMIT_BYTES} bytes")
            steps = parse_timeline(text.decode(), str(path))
        except (OSError, ConfigError, UnicodeDecodeError) as e:
            raise LinkError(f"timeline: {e}") from e
    return Scene(Unit(now_s, wobble_v=1.5, **options), steps, now_s)


class Simulator:
    """The driver of a pretend UPS: reads it without a line, and can cut its mains (Command.SIMULATE)."""

    commands = frozenset(Command) - {Command.ECO_ON, Command.ECO_OFF}
    off_return = "always"
    wake_fd: int | None = None

    def __init__(self, scene: Scene, now: Callable[[], float]) -> None:
        self._scene, self._now = scene, now

    def poll(self) -> Status:
        """The unit as it is now. LinkError while the timeline says silence or garbage."""
        now_s = self._now()
        self._scene.play(now_s)
        if self._scene.line == "silence":
            raise LinkError("simulated silence")
        if self._scene.line == "live":
            return status(self._scene.unit)
        return meaning.look(meaning.with_battery(Q1.parse(self._scene.data), None), taken_s=now_s)

    def order(self, command: Command, **args: Any) -> None:
        """Obey. OrderError: an argument out of range."""
        self._scene.play(self._now())
        unit = self._scene.unit
        if command is Command.SIMULATE:
            if args.keys() != {"mains"} or args["mains"] not in ("on", "off"):
                raise OrderError(f"{command.value}: mains must be on or off")
            unit.assign("mains", args["mains"] == "on")
        elif command in (Command.OUTLET_ON, Command.OUTLET_OFF):
            (number,) = orders.check_arguments(command, args, number=(1, len(unit.outlets)))
            unit.outlets[int(number) - 1] = command is Command.OUTLET_ON
        elif command in (Command.BEEPER_ON, Command.BEEPER_OFF):
            orders.check_arguments(command, args)
            unit.beeper = command is Command.BEEPER_ON
        elif command in (Command.BYPASS_ON, Command.BYPASS_OFF):
            orders.check_arguments(command, args)
            unit.bypass = command is Command.BYPASS_ON
        else:
            unit.obey(orders.encode(command, args).rstrip(b"\r"))

    def close(self) -> None:
        """Nothing is held."""


def status(unit: Unit) -> Status:
    """Everything about the unit, as a UPS that says all would."""
    source = unit.source
    voltage_v, va = unit.output_v, NOMINAL_VA * unit.load_now_pct / 100
    facts = {
        Condition.LOW_BATTERY: unit.low,
        Condition.ON_BYPASS: source is Source.BYPASS,
        Condition.GENERAL_FAULT: unit.fault,
        Condition.TEST_RUNNING: unit.testing,
        Condition.SHUTDOWN_PENDING: unit.off_at_s is not None,
        Condition.AWAITING_POWER: unit.awaiting_power,
    }
    return Status(
        taken_s=unit.now_s,
        source=source,
        inputs=(
            Line(
                voltage_v=round(unit.input_v, 1),
                frequency_hz=NOMINAL_HZ if unit.mains else 0.0,
                fault_voltage_v=round(unit.fault_v, 1),
            ),
        ),
        outputs=(
            Line(
                voltage_v=round(voltage_v, 1),
                frequency_hz=NOMINAL_HZ if unit.output_on else 0.0,
                current_a=round(va / voltage_v, 1) if voltage_v else 0.0,
                power_w=round(va * POWER_FACTOR),
                load_pct=unit.load_now_pct,
                apparent_va=round(va),
            ),
        ),
        battery=Battery(
            charge_pct=round(unit.charge_pct, 1),
            runtime_s=round(unit.runtime_s),
            voltage_v=round(unit.battery_v, 1),
            temperature_c=unit.temperature_c,
            flow=unit.flow,
            low=unit.low,
        ),
        ident=Ident(manufacturer="Ridethrough", model="Simulated UPS", firmware=VERSION),
        rating=Rating(
            input_voltage_v=NOMINAL_V,
            input_frequency_hz=NOMINAL_HZ,
            output_voltage_v=NOMINAL_V,
            output_frequency_hz=NOMINAL_HZ,
            apparent_va=NOMINAL_VA,
            power_w=NOMINAL_VA * POWER_FACTOR,
            battery_voltage_v=BATTERY_V,
        ),
        outlets=tuple(
            Outlet(number=number, on=on and unit.output_on) for number, on in enumerate(unit.outlets, start=1)
        ),
        test=Test(result=unit.test_result),
        temperature_c=unit.temperature_c,
        beeper_on=unit.beeper,
        flags=frozenset(condition for condition, so in facts.items() if so),
    )
