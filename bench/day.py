"""A day of frames, one every 5 s, through protection and rules: the CPU time it costs."""

from __future__ import annotations

import time
from dataclasses import replace

from agent import outage, protection, rules
from agent.config import Stage
from agent.model import Battery, Line, Rating, Source, Status
from bench.gate import gate

FRAME_S = 5.0
LIMIT_S = 2.0


def main(_options: list[str]) -> int:
    """Mains with an outage of 10 minutes every 4 hours."""
    plan = outage.Plan(
        stages=tuple(Stage(name=f"s{n}", on_battery_s=300.0 + n, runtime_below_s=60.0) for n in range(10)),
        needs_s={f"s{n}": 60.0 for n in range(10)},
    )
    base = Status(
        taken_s=0.0,
        source=Source.MAINS,
        inputs=(Line(voltage_v=230.0, frequency_hz=50.0),),
        outputs=(Line(voltage_v=230.0, load_pct=30.0),),
        battery=Battery(charge_pct=100.0, runtime_s=1800.0, low=False),
        rating=Rating(input_voltage_v=230.0),
    )
    frames = []
    for number in range(int(86400 / FRAME_S)):
        at_s = number * FRAME_S
        battery = at_s % 14400 > 13800
        frames.append(
            replace(
                base,
                taken_s=at_s,
                source=Source.BATTERY if battery else Source.MAINS,
                inputs=(Line(voltage_v=0.0 if battery else 230.0, frequency_hz=50.0),),
            )
        )
    state, settled = outage.State(), rules.Settled()
    latches = changes = 0
    begin_s = time.process_time()
    for frame in frames:
        state, effects = protection.step(state, frame, frame.taken_s, plan=plan, failed_polls=0, fresh_id="0" * 16)
        before = settled.conditions
        settled = rules.settle(settled, frame, rules.Known(on_battery=state.on_battery), frame.taken_s)
        changes += len(rules.changes(before, settled.conditions))
        latches += sum(e.kind == "latched" for e in effects)
    cpu_s = time.process_time() - begin_s
    print(f"   {len(frames)} frames, 10 stages, {latches} latches, {changes} events")
    return 0 if gate("cpu for a day", cpu_s, LIMIT_S, "s") and latches == 60 else 1
