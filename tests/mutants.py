"""Seeded faults: `python -m tests.mutants [--short]` puts each into a copy of the tree and looks whether the tests see it.

Each is one replacement in one file; it must apply exactly once. A fault that no test sees is a rule that nothing keeps.
`--short`: every fourth one. EQUIVALENT names those that change nothing anybody could see, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/test_protection.py", "tests/test_invariants.py", "tests/test_machine.py", "tests/test_guard.py")
WITHIN_S = 180.0
SCORE = 0.95


class Fault(NamedTuple):
    """One seeded fault."""

    name: str
    file: str
    old: str
    new: str


P, A, B, O = "agent/protection.py", "agent/afterwards.py", "agent/byhand.py", "agent/outage.py"  # noqa: E741
FAULTS = (
    Fault("recovery straight from COMMITTED", A, "if state.phase is not Phase.HOLD and not (", "if state.phase is Phase.IDLE and not ("),
    Fault("confirmed by the passing of time", P, "    if state.battery_now() and not state.cycled:", "    state = _confirm(state, now_s, fresh_id, effects)\n    if state.battery_now() and not state.cycled:"),
    Fault("one second confirms", P, "CONFIRM_S = 3.0", "CONFIRM_S = 1.0"),
    Fault("confirmation takes ten seconds", P, "CONFIRM_S = 3.0", "CONFIRM_S = 10.0"),
    Fault("latches are dropped when the mains is back", P, "state, on_battery=False, phase=", "state, latched=(), on_battery=False, phase="),
    Fault("low battery on mains latches", P, "    if state.battery_now() and not state.cycled:", "    if (state.battery_now() or state.low) and not state.cycled:"),
    Fault("latches go on while the mains is seen", P, "    if state.battery_now() and not state.cycled:", "    if state.on_battery and not state.cycled:"),
    Fault("a gap does not start the run anew", P, "> STALE_S\n    if gap:", "> STALE_S\n    if False:"),
    Fault("silence counts though nobody asked", P, "if age_s > STALE_S and failed_polls < LOST_POLLS:", "if False:"),
    Fault("blind for ten minutes", P, "BLIND_S = 60.0", "BLIND_S = 600.0"),
    Fault("blind for fifteen seconds", P, "BLIND_S = 60.0", "BLIND_S = 15.0"),
    Fault("a virtual battery that does not run down", P, "else VIRTUAL_RUNTIME * state.runtime_s - age_s", "else VIRTUAL_RUNTIME * state.runtime_s"),
    Fault("a runtime that may jump up", P, "runtime_s = min(runtime_s, state.runtime_s * rise)", "runtime_s = max(runtime_s, 0.0)"),
    Fault("a self test excuses for ever", P, "return not _is_low(look) and look.taken_s - test_from_s < EXCUSE_S", "return not _is_low(look)"),
    Fault("a self test excuses low battery", P, "return not _is_low(look) and look", "return look"),
    Fault("no excuse while the input is seen", P, "if volts and min(volts) > MAINS_SEEN_V:", "if False:"),
    Fault("a self test counts as an outage", P, "battery = look.source is Source.BATTERY and not _excused(look, test_from_s)", "battery = look.source is Source.BATTERY"),
    Fault("output off counts as battery", P, "battery = look.source is Source.BATTERY and", "battery = look.source in (Source.BATTERY, Source.NONE) and"),
    Fault("an unknown source counts as battery", P, "battery = look.source is Source.BATTERY and", "battery = look.source in (Source.BATTERY, Source.UNKNOWN) and"),
    Fault("bypass is not mains", P, "Source.MAINS, Source.BYPASS, Source.BOOST", "Source.MAINS, Source.BOOST"),
    Fault("earlier stages are not taken along", P, "for stage, why in zip(plan.stages[: last_due + 1], whys, strict=False)\n        if stage.name not in latched", "for stage, why in zip(plan.stages[: last_due + 1], whys, strict=False)\n        if stage.name not in latched and why"),
    Fault("later stages are taken along", P, "for stage, why in zip(plan.stages[: last_due + 1], whys, strict=False)", "for stage, why in zip(plan.stages[: last_due + 2], whys, strict=False)"),
    Fault("hold stops an emergency", P, "    critical = _critical(state, runtime_s, age_s, plan)", "    critical = _critical(state, runtime_s, age_s, plan) if now_s >= state.quiet_until_s else ''"),
    Fault("abort stops an emergency", P, "    critical = _critical(state, runtime_s, age_s, plan)", "    critical = _critical(state, runtime_s, age_s, plan) if not state.aborted else ''"),
    Fault("hold does not put off", P, "return state.began_s + stage.on_battery_s + state.held_s", "return state.began_s + stage.on_battery_s"),
    Fault("hold does not put off runtime and charge", P, "if state.aborted or now_s < state.quiet_until_s:", "if state.aborted:"),
    Fault("abort does not stop runtime and charge", P, "if state.aborted or now_s < state.quiet_until_s:", "if now_s < state.quiet_until_s:"),
    Fault("abort does not stop time", P, "or state.began_s is None or state.aborted:", "or state.began_s is None:"),
    Fault("low battery is ignored", P, "if state.low and not plan.ignore_low:", "if False:"),
    Fault("ignore_low is ignored", P, "if state.low and not plan.ignore_low:", "if state.low:"),
    Fault("the budget latches nothing", P, "if runtime_s is not None and needed_s > 0 and runtime_s <= needed_s:", "if False:"),
    Fault("a budget without margin", O, "return max(needs) + plan.local_needs_s + MARGIN_S if needs", "return max(needs) + plan.local_needs_s if needs"),
    Fault("a budget without this host", O, "return max(needs) + plan.local_needs_s + MARGIN_S if needs", "return max(needs) + MARGIN_S if needs"),
    Fault("a budget of the quickest server", O, "return max(needs) + plan", "return min(needs) + plan"),
    Fault("flapping resets the clock", P, "    return replace(state, phase=phase, on_battery=True, unproven=False, cycled=False)", "    return replace(state, phase=phase, on_battery=True, unproven=False, cycled=False, began_s=from_s)"),
    Fault("battery again is another outage", P, "if state.phase in (Phase.IDLE, Phase.RECOVERY):", "if state.phase in (Phase.IDLE, Phase.RECOVERY, Phase.HOLD):"),
    Fault("a new outage keeps the latches of the old one", P, "return replace(fresh, phase=Phase.COUNTDOWN", "return replace(fresh, latched=state.latched, phase=Phase.COUNTDOWN"),
    Fault("no hold: ten seconds of mains end everything", A, "CLOSE_S = 60.0", "CLOSE_S = 0.0"),
    Fault("one mains frame is on line", A, "ON_LINE_S = 10.0", "ON_LINE_S = 0.0"),
    Fault("off before the last server's time", A, "now_s >= down_s(state, plan, seen):", "now_s >= down_s(state, plan, seen) - 60.0:"),
    Fault("off though a server was told late", O, "return max([*ends, seen.down_by_s])", "return max([*ends, 0.0])"),
    Fault("no patience with those that could not be told", O, "0.0 if seen.all_told else UNACKED_S", "0.0"),
    Fault("off on mains though only battery is proven", A, 'if state.runs_on_battery() or (plan.ups_off == "always" and not state.on_battery):', "if True:"),
    Fault("off though nothing is proven", A, 'if plan.ups_off == "no":', "if False:"),
    Fault("off is never ordered", A, 'if state.runs_on_battery() or (plan.ups_off == "always" and not state.on_battery):', "if False:"),
    Fault("off is ordered once and never again", A, "if state.runs_on_battery() and state.last_frame_s is not None and state.last_frame_s >= ignored_s:", "if False:"),
    Fault("off is ordered again at once", A, "ignored_s = state.off_sent_s + delay_s + OFF_PATIENCE_S", "ignored_s = state.off_sent_s"),
    Fault("an output that is off counts as ignored", A, "if state.runs_on_battery() and state.last_frame_s", "if state.battery_now() and state.last_frame_s"),
    Fault("recovery before the UPS came back", A, "now_s < state.off_sent_s + plan.off_delay_s() + OFF_PATIENCE_S:\n        return state", "False:\n        return state"),
    Fault("woken before they had their time to go down", A, "if state.line_from_s is None or (not state.cycled and now_s < down_s(state, plan, seen)):", "if state.line_from_s is None:"),
    Fault("woken without charge", A, "return charged or line_s(state) >= plan.wake_after_s", "return True"),
    Fault("woken by charge alone", A, "return charged or line_s(state) >= plan.wake_after_s", "return charged"),
    Fault("woken by time alone", A, "return charged or line_s(state) >= plan.wake_after_s", "return line_s(state) >= plan.wake_after_s"),
    Fault("woken without mains", A, "if state.line_from_s is None or (not", "if False or (not"),
    Fault("recovery over before all are back", A, "if over or (state.waking and seen.all_back):", "if over or state.waking:"),
    Fault("recovery never over", A, "if over or (state.waking and seen.all_back):", "if over:"),
    Fault("a planned shutdown ends at once", A, "end_s = down_s(state, plan, seen)\n", "end_s = 0.0\n"),
    Fault("a planned shutdown waits for nobody", A, "0.0 if seen.all_told else PLANNED_LIMIT_S", "0.0"),
    Fault("reboot: told without evidence", P, "return replace(state, unproven=True, cycled=cycled, off_sent_s=None)", "return replace(state, unproven=False, cycled=cycled, off_sent_s=None)"),
    Fault("reboot: a cycle is forgotten", P, "unproven=True, cycled=cycled,", "unproven=True, cycled=False,"),
    Fault("a cycled board tells on silence", P, "    if state.battery_now() and not state.cycled:", "    if state.battery_now():"),
    Fault("reboot: unproven for ever", P, "and (not state.on_battery or state.unproven)\n    ):\n        return _on_battery", "and (not state.on_battery)\n    ):\n        return _on_battery"),
    Fault("reboot: the latches are dropped", P, "latched=tuple(replace(latch, at_s=now_s) for latch in state.latched),", "latched=(),"),
    Fault("reboot: the latches keep the old boot's clock", P, "latched=tuple(replace(latch, at_s=now_s) for latch in state.latched),", "latched=state.latched,"),
    Fault("reboot: a planned shutdown needs evidence", P, "    if state.phase is Phase.PLANNED:\n        return state\n    if state.phase is Phase.RECOVERY", "    if state.phase is Phase.RECOVERY"),
    Fault("reboot: silence tells nobody", P, "if critical and state.unproven:", "if False:"),
    Fault("restart: runs of frames go on", P, "state = replace(state, battery_from_s=None, battery_frames=0, line_from_s=None, test_from_s=None)\n    if same_boot", "if same_boot"),
    Fault("planned stages on mains commit", P, "and state.phase is Phase.COUNTDOWN and state.on_battery:", "and state.phase is not Phase.COMMITTED:"),
    Fault("never committed", P, "if everything and state.phase is Phase.COUNTDOWN and state.on_battery:", "if False:"),
    Fault("a planned shutdown counts as an outage", B, 'why = "ordered" if state.on_battery else "planned"', 'why = "ordered"'),
    Fault("a planned shutdown of one stage takes all", B, 'last = len(names) - 1 if stage == "all" else names.index(stage)', "last = len(names) - 1"),
    Fault("hold holds an hour", B, "HOLD_S = 300.0", "HOLD_S = 3600.0"),
    Fault("release releases nothing", B, "return replace(state, aborted=False, held_s=0.0, quiet_until_s=0.0)", "return replace(state)"),
    Fault("clear ends an outage", B, "if state.phase not in (Phase.PLANNED, Phase.RECOVERY):", "if state.phase is Phase.IDLE:"),
    Fault("told in the recovery", O, "if self.unproven or self.phase in (Phase.IDLE, Phase.RECOVERY):", "if self.unproven or self.phase is Phase.IDLE:"),
    Fault("told though unproven", O, "if self.unproven or self.phase in (", "if self.phase in ("),
    Fault("this host is told on mains", O, "return last and (self.off_sent_s is not None or self.battery_now())", "return last"),
    Fault("this host is told with the others", O, "last = self.phase is Phase.OFF_ARMED and not self.unproven", "last = True"),
    Fault("latches are not written", O, "self.phase, self.on_battery, self.outage, self.began_s, self.latched, self.unproven,", "self.on_battery, self.outage, self.began_s, self.unproven,"),
)  # fmt: skip
EQUIVALENT: dict[str, str] = {}


def problems() -> list[str]:
    """Faults that do not apply exactly once, and names that stand twice."""
    names = [fault.name for fault in FAULTS]
    found = [f"two of the name {name}" for name in set(names) if names.count(name) > 1]
    for fault in FAULTS:
        count = (ROOT / fault.file).read_text().count(fault.old)
        if count != 1:
            found.append(f"{fault.name}: applies {count} times")
    return found


def killed(fault: Fault) -> tuple[bool, float]:
    """(do the tests see the fault, seconds it took)."""
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ridethrough-mutant-") as name:
        folder = Path(name)
        for part in ("agent", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "peer"))
        shutil.copy(ROOT / "setup.cfg", folder)
        path = folder / fault.file
        path.write_text(path.read_text().replace(fault.old, fault.new))
        tests = [t for t in TESTS if (folder / t).exists()]
        env = {**os.environ, "RIDETHROUGH_FUZZ_RUNS": "60", "PYTHONDONTWRITEBYTECODE": "1"}
        argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, timeout=WITHIN_S, check=False)
        except subprocess.TimeoutExpired:
            return True, WITHIN_S
        return done.returncode == 1, time.monotonic() - begin_s


def main(options: list[str]) -> int:
    """Run them, two at a time; 1 if too many survive."""
    if wrong := problems():
        print("\n".join(wrong))
        return 1
    faults = [f for f in FAULTS if f.name not in EQUIVALENT]
    faults = faults[::4] if "--short" in options else faults
    survivors = []
    with ThreadPoolExecutor(2) as pool:
        for fault, (seen, took_s) in zip(faults, pool.map(killed, faults), strict=True):
            print(f"   {'killed  ' if seen else 'SURVIVED'} {took_s:5.1f} s  {fault.name}", flush=True)
            if not seen:
                survivors.append(fault.name)
    for name, why in EQUIVALENT.items():
        print(f"   equivalent: {name}: {why}")
    score = 1 - len(survivors) / len(faults)
    print(
        f"{len(faults)} faults, {len(faults) - len(survivors)} killed, {100 * score:.0f} % (at least {100 * SCORE:.0f})"
    )
    return 0 if score >= SCORE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
