"""Seeded faults: `python -m tests.mutants [--short] [--machine] [WORD...]` puts each into a copy of the tree; do the tests see it?

Each is one replacement in one file; it must apply exactly once. A fault that no test sees is a rule that nothing keeps.
First the tree as it is must pass. `--short`: every third one. `--machine`: by the state machine alone, to see how
blind random search is. WORD: of a name. EQUIVALENT names those that change nothing anybody could see, with the reason.
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
TESTS = tuple(
    f"tests/test_{name}.py" for name in ("protection", "edges", "invariants", "guard", "forgotten", "machine")
)
WITHIN_S = 180.0  # tests that have not ended by then have seen it
RUNS = "60"  # of the state machine
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
    Fault("silence counts though nobody asked", P, "if (age_s > STALE_S or state.unheard) and failed_polls < LOST_POLLS:", "if False:"),
    Fault("blind for ten minutes", P, "BLIND_S = 60.0", "BLIND_S = 600.0"),
    Fault("blind for fifteen seconds", P, "BLIND_S = 60.0", "BLIND_S = 15.0"),
    Fault("a virtual battery that does not run down", P, "else VIRTUAL_RUNTIME * last_s - age_s", "else VIRTUAL_RUNTIME * last_s"),
    Fault("a runtime that may jump up", P, "runtime_s = min(runtime_s, state.runtime_s * rise)", "runtime_s = max(runtime_s, 0.0)"),
    Fault("a self test excuses for ever", P, "return not _is_low(look) and look.taken_s - test_from_s < EXCUSE_S", "return not _is_low(look)"),
    Fault("a self test excuses low battery", P, "return not _is_low(look) and look", "return look"),
    Fault("no excuse while the input is seen", P, "if volts and all(_is_mains(voltage_v, look.rating.input_voltage_v) for voltage_v in volts):", "if False:"),
    Fault("a self test counts as an outage", P, "battery = look.source is Source.BATTERY and not _excused(look, test_from_s)", "battery = look.source is Source.BATTERY"),
    Fault("output off counts as battery", P, "battery = look.source is Source.BATTERY and", "battery = look.source in (Source.BATTERY, Source.NONE) and"),
    Fault("an unknown source counts as battery", P, "battery = look.source is Source.BATTERY and", "battery = look.source in (Source.BATTERY, Source.UNKNOWN) and"),
    Fault("bypass is not mains", P, "line = look.source in FED_BY_MAINS or look.source is Source.BYPASS", "line = look.source in FED_BY_MAINS"),
    Fault("earlier stages are not taken along", P, "for stage, why in zip(plan.stages[: last_due + 1], whys, strict=False)\n        if stage.name not in latched", "for stage, why in zip(plan.stages[: last_due + 1], whys, strict=False)\n        if stage.name not in latched and why"),
    Fault("later stages are taken along", P, "for stage, why in zip(plan.stages[: last_due + 1], whys, strict=False)", "for stage, why in zip(plan.stages[: last_due + 2], whys, strict=False)"),
    Fault("hold stops an emergency", P, "    critical = _critical(state, runtime_s, age_s, plan)", "    critical = _critical(state, runtime_s, age_s, plan) if now_s >= state.quiet_until_s else ''"),
    Fault("abort stops an emergency", P, "    critical = _critical(state, runtime_s, age_s, plan)", "    critical = _critical(state, runtime_s, age_s, plan) if not state.aborted else ''"),
    Fault("hold does not put off", P, "return state.began_s + stage.on_battery_s + state.held_s", "return state.began_s + stage.on_battery_s"),
    Fault("hold does not put off runtime and charge", P, "if state.aborted or now_s < state.quiet_until_s:", "if state.aborted:"),
    Fault("abort does not stop runtime and charge", P, "if state.aborted or now_s < state.quiet_until_s:", "if now_s < state.quiet_until_s:"),
    Fault("abort does not stop time", P, "or state.began_s is None or state.aborted:", "or state.began_s is None:"),
    Fault("low battery is ignored", P, "if _low(state, age_s) and not plan.ignore_low:", "if False:"),
    Fault("one frame that says low is believed", P, "low=low and state.said_low and not gap,", "low=low,"),
    Fault("the first frame after a gap that says low is believed", P, "low=low and state.said_low and not gap,", "low=low and state.said_low,"),
    Fault("one frame's runtime is believed", P, "_milder(said.runtime_s, state.said_runtime_s, on_battery=True)", "said.runtime_s"),
    Fault("one frame's charge is believed", P, "_milder(said.charge_pct, state.said_charge_pct, on_battery=battery)", "said.charge_pct"),
    Fault("a number after a frame without it is believed alone", P, "if said is None or before is None:\n        return None", "if said is None or before is None:\n        return said"),
    Fault("after a gap the runtime before it counts no more", P, "_milder(said.runtime_s, state.said_runtime_s, on", "_milder(said.runtime_s, None if gap else state.said_runtime_s, on"),
    Fault("silence forgets a runtime that was said once", P, "last_s = state.said_runtime_s if state.runtime_s is None else state.runtime_s", "last_s = state.runtime_s"),
    Fault("the last word before silence is nothing", P, "return state.low or (state.said_low and age_s > STALE_S)", "return state.low"),
    Fault("one frame that says low is believed at once", P, "return state.low or (state.said_low and age_s > STALE_S)", "return state.low or state.said_low"),
    Fault("an outage forgets half of the evidence", A, "        said_low=state.said_low,\n", ""),
    Fault("a guessed charge wakes the servers", A, "state.charge_pct is not None and not state.charge_guessed and", "state.charge_pct is not None and"),
    Fault("ignore_low is ignored", P, "if _low(state, age_s) and not plan.ignore_low:", "if _low(state, age_s):"),
    Fault("the budget latches nothing", P, "if runtime_s is not None and needed_s > 0 and runtime_s <= needed_s:", "if False:"),
    Fault("a budget without margin", O, "return max(needs) + plan.local_needs_s + MARGIN_S if needs", "return max(needs) + plan.local_needs_s if needs"),
    Fault("a budget without this host", O, "return max(needs) + plan.local_needs_s + MARGIN_S if needs", "return max(needs) + MARGIN_S if needs"),
    Fault("a budget without the stages that have no server", O, "for s in plan.stages if s.name not in latched]", "for s in plan.stages if s.name not in latched and s.name in plan.needs_s]"),
    Fault("a budget of the quickest server", O, "return max(needs) + plan", "return min(needs) + plan"),
    Fault("flapping resets the clock", P, "    return replace(state, phase=phase, on_battery=True, unproven=False, cycled=False)", "    return replace(state, phase=phase, on_battery=True, unproven=False, cycled=False, began_s=from_s)"),
    Fault("battery again is another outage", P, "if state.phase in (Phase.IDLE, Phase.RECOVERY):", "if state.phase in (Phase.IDLE, Phase.RECOVERY, Phase.HOLD):"),
    Fault("a new outage keeps the latches of the old one", P, "return replace(fresh, phase=Phase.COUNTDOWN", "return replace(fresh, latched=state.latched, phase=Phase.COUNTDOWN"),
    Fault("no hold: ten seconds of mains end everything", A, "CLOSE_S = 60.0", "CLOSE_S = 0.0"),
    Fault("one mains frame is on line", A, "ON_LINE_S = 10.0", "ON_LINE_S = 0.0"),
    Fault("off before the last server's time", A, "now_s >= down_s(state, plan, seen):", "now_s >= down_s(state, plan, seen) - 60.0:"),
    Fault("off though a server was told late", O, "return max([*ends, seen.down_by_s])", "return max([*ends, 0.0])"),
    Fault("no patience with those that could not be told", O, "0.0 if seen.all_told else UNACKED_S", "0.0"),
    Fault("off on mains though only battery is proven", A, 'if (state.runs_on_battery() and fresh) or (plan.ups_off == "always" and not state.on_battery):', "if True:"),
    Fault("off though nothing is proven", A, 'if plan.ups_off == "no":', "if False:"),
    Fault("off is never ordered", A, 'if (state.runs_on_battery() and fresh) or (plan.ups_off == "always" and not state.on_battery):', "if False:"),
    Fault("off is ordered once and never again", A, "if state.runs_on_battery() and state.last_frame_s is not None and state.last_frame_s >= ignored_s:", "if False:"),
    Fault("off is ordered again at once", A, "ignored_s = state.off_sent_s + delay_s + OFF_PATIENCE_S", "ignored_s = state.off_sent_s"),
    Fault("an output that is off counts as ignored", A, "if state.runs_on_battery() and state.last_frame_s", "if state.battery_now() and state.last_frame_s"),
    Fault("recovery before the UPS came back", A, "now_s < state.off_sent_s + plan.off_delay_s() + OFF_PATIENCE_S:\n        return state", "False:\n        return state"),
    Fault("woken before they had their time to go down", A, "if state.line_from_s is None or (not state.cycled and now_s < down_s(state, plan, seen)):", "if state.line_from_s is None:"),
    Fault("woken without charge", A, "return charged(state, plan) or line_s(state) >= plan.wake_after_s", "return True"),
    Fault("woken by charge alone", A, "return charged(state, plan) or line_s(state) >= plan.wake_after_s", "return charged(state, plan)"),
    Fault("woken by time alone", A, "return charged(state, plan) or line_s(state) >= plan.wake_after_s", "return line_s(state) >= plan.wake_after_s"),
    Fault("woken without mains", A, "if state.line_from_s is None or (not", "if False or (not"),
    Fault("recovery over before all are back", A, "if over or (state.waking and seen.all_back):", "if over or state.waking:"),
    Fault("recovery never over", A, "if over or (state.waking and seen.all_back):", "if over:"),
    Fault("a planned shutdown ends at once", A, "end_s = down_s(state, plan, seen)\n", "end_s = 0.0\n"),
    Fault("a planned shutdown waits for nobody", A, "0.0 if seen.all_told else PLANNED_LIMIT_S", "0.0"),
    Fault("reboot: told without evidence", P, "return replace(state, unproven=True, cycled=cycled,", "return replace(state, unproven=False, cycled=cycled,"),
    Fault("reboot: a cycle is forgotten", P, "unproven=True, cycled=cycled,", "unproven=True, cycled=False,"),
    Fault("a cycled board tells on silence", P, "    if state.battery_now() and not state.cycled:", "    if state.battery_now():"),
    Fault("reboot: unproven for ever", P, "and (not state.on_battery or state.unproven)\n    ):\n        return _on_battery", "and (not state.on_battery)\n    ):\n        return _on_battery"),
    Fault("reboot: the latches are dropped", P, "latched=tuple(replace(latch, at_s=now_s) for latch in state.latched),", "latched=(),"),
    Fault("reboot: the latches keep the old boot's clock", P, "latched=tuple(replace(latch, at_s=now_s) for latch in state.latched),", "latched=state.latched,"),
    Fault("reboot: a planned shutdown needs evidence", P, "    if state.phase is Phase.PLANNED:\n        return state\n    if state.phase is Phase.RECOVERY", "    if state.phase is Phase.RECOVERY"),
    Fault("reboot: silence tells nobody", P, "if critical and state.unproven:", "if False:"),
    Fault("restart: runs of frames go on", P, "state = replace(state, battery_from_s=None, battery_frames=0, line_from_s=None, test_from_s=None, unheard=True)\n    if same_boot", "state = replace(state, unheard=True)\n    if same_boot"),
    Fault("restart: latches before it has looked", P, "test_from_s=None, unheard=True)", "test_from_s=None)"),
    Fault("restart: a frame is no look", P, "        unheard=False,\n", ""),
    Fault("restart: deaf for the first look only when stale", P, "(age_s > STALE_S or state.unheard)", "(age_s > STALE_S)"),
    Fault("planned stages on mains commit", P, "and state.phase is Phase.COUNTDOWN and state.on_battery:", "and state.phase is not Phase.COMMITTED:"),
    Fault("never committed", P, "if everything and state.phase is Phase.COUNTDOWN and state.on_battery:", "if False:"),
    Fault("a planned shutdown counts as an outage", B, 'why = "ordered" if state.on_battery else "planned"', 'why = "ordered"'),
    Fault("a planned shutdown of one stage takes all", B, 'last = len(names) - 1 if stage == "all" else names.index(stage)', "last = len(names) - 1"),
    Fault("hold holds an hour", B, "HOLD_S = 300.0", "HOLD_S = 3600.0"),
    Fault("release releases nothing", B, "return replace(state, aborted=False, held_s=0.0, quiet_until_s=0.0)", "return replace(state)"),
    Fault("clear ends an outage", B, "if state.phase not in (Phase.PLANNED, Phase.RECOVERY):", "if state.phase is Phase.IDLE:"),
    Fault("told in the recovery", O, "if self.unproven or self.phase in (Phase.IDLE, Phase.RECOVERY):", "if self.unproven or self.phase is Phase.IDLE:"),
    Fault("told though unproven", O, "if self.unproven or self.phase in (", "if self.phase in ("),
    Fault("this host is told on mains", O, "return last and (self.off_taken or (self.power_ends and self.battery_now()))", "return last"),
    Fault("this host is told with the others", O, "last = self.phase is Phase.OFF_ARMED and not self.unproven", "last = True"),
    Fault("latches are not written", O, "self.phase, self.on_battery, self.outage, self.began_s, self.latched, self.unproven,", "self.on_battery, self.outage, self.began_s, self.unproven,"),
    # the second list: each rule at its edge, and where two rules meet
    Fault("an outage is closed straight from COMMITTED", A, "if state.phase is not Phase.HOLD and not (state.phase is Phase.COMMITTED and state.unproven):", "if state.phase not in (Phase.HOLD, Phase.COMMITTED):"),
    Fault("reboot: a committed outage is never closed", A, "if state.phase is not Phase.HOLD and not (state.phase is Phase.COMMITTED and state.unproven):", "if state.phase is not Phase.HOLD:"),
    Fault("off is ordered again without a frame that shows it", A, "and state.last_frame_s >= ignored_s:", "and now_s >= ignored_s:"),
    Fault("mains back undoes the commitment", P, "phase=Phase.HOLD if state.phase is Phase.COUNTDOWN else state.phase)", "phase=Phase.HOLD)"),
    Fault("battery again undoes the commitment", P, "phase = Phase.COUNTDOWN if state.phase is Phase.HOLD else state.phase", "phase = Phase.COUNTDOWN"),
    Fault("an order for all while the mains is back commits", P, "if everything and state.phase is Phase.COUNTDOWN and state.on_battery:", "if everything and state.phase in (Phase.COUNTDOWN, Phase.HOLD):"),
    Fault("one failed poll is silence", P, "LOST_POLLS = 3", "LOST_POLLS = 1"),
    Fault("stale after five seconds", P, "STALE_S = 15.0", "STALE_S = 5.0"),
    Fault("stale after forty seconds", P, "STALE_S = 15.0", "STALE_S = 40.0"),
    Fault("the virtual battery is believed in full", P, "VIRTUAL_RUNTIME = 0.8", "VIRTUAL_RUNTIME = 1.0"),
    Fault("the virtual battery begins at once", P, "    if age_s <= STALE_S:\n        return state.runtime_s", "    if age_s <= 0:\n        return state.runtime_s"),
    Fault("a runtime may rise a tenth a second", P, "RUNTIME_RISE_PER_S = 0.10 / 60", "RUNTIME_RISE_PER_S = 0.10"),
    Fault("a runtime may never rise", P, "RUNTIME_RISE_PER_S = 0.10 / 60", "RUNTIME_RISE_PER_S = 0.0"),
    Fault("a self test excuses for ten minutes", P, "EXCUSE_S = 60.0", "EXCUSE_S = 600.0"),
    Fault("each frame of a self test begins it anew", P, "(now_s if state.test_from_s is None else state.test_from_s) if testing", "now_s if testing"),
    Fault("a self test is excused though the input is dead", P, "if volts and all(_is_mains(voltage_v, look.rating.input_voltage_v) for voltage_v in volts):", "if volts:"),
    Fault("one live phase of three excuses a self test", P, "all(_is_mains(", "any(_is_mains("),
    Fault("a frame that says neither goes on with the run of battery", P, "if battery else None,\n        battery_frames=state.battery_frames + 1 if battery else 0,", "if battery else (None if line else state.battery_from_s),\n        battery_frames=state.battery_frames + 1 if battery else state.battery_frames,"),
    Fault("a frame that says neither goes on with the run of mains", P, "if line else None,\n        test_from_s", "if line else (None if battery else state.line_from_s),\n        test_from_s"),
    Fault("a frame that says neither takes back the battery", P, "seen_battery=battery or (state.seen_battery and not line)", "seen_battery=battery"),
    Fault("mains does not take back the battery", P, "seen_battery=battery or (state.seen_battery and not line)", "seen_battery=battery or state.seen_battery"),
    Fault("an outage counts from its confirmation", P, "return _on_battery(state, state.battery_from_s, fresh_id, effects)", "return _on_battery(state, now_s, fresh_id, effects)"),
    Fault("charge triggers at the limit already", P, "charge_pct < stage.charge_below_pct", "charge_pct <= stage.charge_below_pct"),
    Fault("charge triggers nothing", P, "charge_pct < stage.charge_below_pct", "charge_pct < 0.0"),
    Fault("runtime triggers at the limit already", P, "runtime_s < stage.runtime_below_s", "runtime_s <= stage.runtime_below_s"),
    Fault("time triggers a step late", P, "due_s is not None and now_s >= due_s", "due_s is not None and now_s > due_s"),
    Fault("silence latches a step late", P, "    if age_s >= BLIND_S:\n        return f", "    if age_s > BLIND_S:\n        return f"),
    Fault("the budget latches a step late", P, "runtime_s <= needed_s:", "runtime_s < needed_s:"),
    Fault("the budget counts who is latched already", O, "for s in plan.stages if s.name not in latched]", "for s in plan.stages]"),
    Fault("a stage is latched twice", P, "        if stage.name not in latched\n    ]", "        if True\n    ]"),
    Fault("reboot: the old runtime is believed", P, "        runtime_s=None,\n        said", "        said"),
    Fault("reboot: the old runtime counts in silence", P, "        said_runtime_s=None,\n", ""),
    Fault("reboot: a hold keeps the old boot's clock", P, "        quiet_until_s=0.0,\n        latched=tuple(", "        latched=tuple("),
    Fault("reboot: the outage keeps the old boot's clock", P, "        began_s=now_s,\n        last_frame_s=now_s,", "        last_frame_s=now_s,"),
    Fault("reboot: the last frame keeps the old boot's clock", P, "        last_frame_s=now_s,\n        runtime_s=None,", "        runtime_s=None,"),
    Fault("reboot: the recovery keeps the old boot's clock", P, "return replace(state, recovery_from_s=now_s, waking=False)", "return replace(state, waking=False)"),
    Fault("reboot: nobody is woken once more", P, "return replace(state, recovery_from_s=now_s, waking=False)", "return replace(state, recovery_from_s=now_s)"),
    Fault("a restart is taken for a reboot", P, "if same_boot or state.phase is Phase.IDLE:", "if state.phase is Phase.IDLE:"),
    Fault("a reboot is taken for a restart", P, "if same_boot or state.phase is Phase.IDLE:", "if True:"),
    Fault("reboot: the order to switch off counts as given", P, "cycled=cycled, off_sent_s=None,", "cycled=cycled,"),
    Fault("reboot: emergencies need no evidence", P, "    if state.unproven and age_s < BLIND_S:\n        return state\n", ""),
    Fault("seen again after a cycle, silence counts no more", P, "on_battery=True, unproven=False, cycled=False)", "on_battery=True, unproven=False)"),
    Fault("reboot: the UPS is off before everybody had his time once more", P, "if state.unproven and state.phase is Phase.OFF_ARMED:", "if False:"),
    Fault("reboot: what was left out is not said again", P, "phase=Phase.COMMITTED, off_skipped=False)", "phase=Phase.COMMITTED)"),
    Fault("an outage in a planned shutdown forgets whom it told", P, "if state.phase in (Phase.IDLE, Phase.RECOVERY):", "if state.phase in (Phase.IDLE, Phase.RECOVERY, Phase.PLANNED):"),
    Fault("an outage in a planned shutdown counts from the order", P, "phase=Phase.COUNTDOWN, on_battery=True, began_s=from_s)", "phase=Phase.COUNTDOWN, on_battery=True)"),
    Fault("an unknown charge is enough to wake", A, "return state.charge_pct is not None and not", "return state.charge_pct is None or not"),
    Fault("off on the word of a stale frame", A, "fresh = state.last_frame_s is not None and now_s - state.last_frame_s <= FRESH_S", "fresh = True"),
    Fault("the UPS is switched off without a delay", A, 'ups-off", delay_s=delay_s))\n            return', 'ups-off"))\n            return'),
    Fault("this host has no time of its own", O, "return max(OFF_DELAY_S, self.local_needs_s + MARGIN_S if self.local_needs_s else 0.0)", "return OFF_DELAY_S"),
    Fault("left out is said at every step", A, "    if state.off_skipped:\n        return state\n", ""),
    Fault("left out once is left out for ever", A, "    if state.off_sent_s is None:\n", "    if state.off_skipped:\n        return state\n    if state.off_sent_s is None:\n"),
    Fault("the order to switch off does not wait for who was told since", A, "    if now_s < down_s(state, plan, seen):\n        return state  # somebody", "    if False:\n        return state  # somebody"),
    Fault("a server's time is not counted", O, "latch.at_s + plan.needs_s.get(latch.stage, 0.0)", "latch.at_s"),
    Fault("ignored at once", A, "OFF_PATIENCE_S = 60.0", "OFF_PATIENCE_S = 5.0"),
    Fault("ignored only after ten minutes", A, "OFF_PATIENCE_S = 60.0", "OFF_PATIENCE_S = 600.0"),
    Fault("the recovery is given up after an hour", A, "RECOVERY_LIMIT_S = 24 * 3600.0", "RECOVERY_LIMIT_S = 3600.0"),
    Fault("a planned shutdown tries for a minute and a half", A, "PLANNED_LIMIT_S = 900.0", "PLANNED_LIMIT_S = 90.0"),
    Fault("a planned shutdown tries for two hours", A, "PLANNED_LIMIT_S = 900.0", "PLANNED_LIMIT_S = 7200.0"),
    Fault("mains is on line after half a minute", A, "ON_LINE_S = 10.0", "ON_LINE_S = 30.0"),
    Fault("an outage is closed after ten minutes", A, "CLOSE_S = 60.0", "CLOSE_S = 600.0"),
    Fault("an outage in which nobody was told has a recovery", A, "    if not state.latched and not state.owed:\n        return fresh(state)\n", ""),
    Fault("the recovery forgets whom it is for", A, "        latched=state.latched,\n        off_sent_s", "        off_sent_s"),
    Fault("the recovery forgets that the power was cycled", A, "        cycled=state.cycled,\n        recovery", "        recovery"),
    Fault("the time on line counts from the recovery", A, "        line_from_s=state.line_from_s,\n", ""),
    Fault("an outage forgets its last word", A, "        seen_battery=state.seen_battery,\n", ""),
    Fault("an outage forgets its last low battery", A, "        low=state.low,\n", ""),
    Fault("an outage forgets its last runtime", A, "        runtime_s=state.runtime_s,\n", ""),
    Fault("an outage forgets its last charge", A, "        charge_pct=state.charge_pct,\n", ""),
    Fault("who is not yet down counts as back", A, "if over or (state.waking and seen.all_back):", "if over or seen.all_back:"),
    Fault("waking is said at every step", A, "if not state.waking and may_wake", "if may_wake"),
    Fault("reboot: time passes for servers that nobody told", A, "if state.phase is Phase.COMMITTED and not state.unproven and now_s", "if state.phase is Phase.COMMITTED and now_s"),
    Fault("reboot: the UPS is switched off without evidence", A, "if state.phase is Phase.OFF_ARMED and not state.unproven:", "if state.phase is Phase.OFF_ARMED:"),
    Fault("reboot: this host is told without evidence", O, "last = self.phase is Phase.OFF_ARMED and not self.unproven", "last = self.phase is Phase.OFF_ARMED"),
    Fault("one battery frame in the recovery or in a planned shutdown latches", O, "return self.on_battery and self.seen_battery", "return self.seen_battery"),
    Fault("one battery frame switches the UPS off", O, "return self.on_battery and self.battery_from_s is not None", "return self.battery_from_s is not None"),
    Fault("nobody is told while the mains is back", O, "if self.unproven or self.phase in (Phase.IDLE, Phase.RECOVERY):", "if self.unproven or self.phase in (Phase.IDLE, Phase.RECOVERY, Phase.HOLD):"),
    Fault("nobody is told in a planned shutdown", O, "if self.unproven or self.phase in (Phase.IDLE, Phase.RECOVERY):", "if self.unproven or self.phase in (Phase.IDLE, Phase.RECOVERY, Phase.PLANNED):"),
    Fault("the second hold adds nothing to the quiet", B, "quiet_s = max(now_s, state.quiet_until_s) + HOLD_S", "quiet_s = now_s + HOLD_S"),
    Fault("the second hold adds nothing to the time", B, "held_s=state.held_s + HOLD_S, quiet", "held_s=HOLD_S, quiet"),
    Fault("holds without end", B, "if state.held_s + HOLD_S > HELD_LIMIT_S:", "if False:"),
    Fault("servers are ordered down while they are brought back", B, "    if state.phase is Phase.RECOVERY:", "    if False:"),
    Fault("orders are taken before the outage was seen again", B, "    if state.unproven:", "    if False:"),
    Fault("one battery frame is enough for a run of three seconds", P, "and state.battery_frames >= 2", "and state.battery_frames >= 1"),
    Fault("a countdown commits though not on battery", P, "if everything and state.phase is Phase.COUNTDOWN and state.on_battery:", "if everything and state.phase is Phase.COUNTDOWN:"),
    Fault("an interrupted recovery is forgotten", P, "owed = state.phase is Phase.RECOVERY", "owed = False"),
    Fault("who is owed is not brought back without a latch", A, "if not state.latched and not state.owed:", "if not state.latched:"),
    Fault("what was ordered in a hold is dropped with it", A, "if ordered_s and not seen.all_told and", "if False and"),
    Fault("what was ordered in a hold keeps the outage open for ever", A, "now_s < max(ordered_s) + PLANNED_LIMIT_S:", "now_s < max(ordered_s) + 1e9:"),
    Fault("this host goes as soon as all had their time", P, "    if age_s >= BLIND_S or (_low(state, age_s) and not plan.ignore_low):\n        return True\n    return runtime_s", "    return True\n    return runtime_s"),
    Fault("this host never goes by low battery", P, "if age_s >= BLIND_S or (_low(state, age_s) and not plan.ignore_low):\n        return True\n    return runtime_s", "if age_s >= BLIND_S:\n        return True\n    return runtime_s"),
    Fault("this host goes though the mains is back", P, "failed_polls)) and state.battery_now()", "failed_polls))"),
    Fault("this host does not wait for the UPS's word", O, "(self.off_taken or (self.power_ends", "(self.off_sent_s is not None or (self.power_ends"),
    Fault("a brownout is mains", P, "MAINS_PART = 0.8, 1.2", "MAINS_PART = 0.5, 1.5"),
    Fault("a planned shutdown takes the later stages along", B, "if number <= last else", "if number >= last else"),
)  # fmt: skip
# Faults that change nothing anybody could see: name -> why.
EQUIVALENT = {
    "one battery frame is enough for a run of three seconds": "a run that spans 3 s has two frames",
    "a countdown commits though not on battery": "a countdown is on battery, else it is a hold",
}


def problems() -> list[str]:
    """Faults that do not apply exactly once, and names that stand twice."""
    names = [fault.name for fault in FAULTS]
    found = [f"two of the name {name}" for name in set(names) if names.count(name) > 1]
    for fault in FAULTS:
        count = (ROOT / fault.file).read_text().count(fault.old)
        if count != 1:
            found.append(f"{fault.name}: applies {count} times")
    return found


def tried(fault: Fault | None, tests: tuple[str, ...] = TESTS) -> tuple[str, float]:
    """(the test that sees the fault, or "", seconds it took). None: the tree as it is."""
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ridethrough-mutant-") as name:
        folder = Path(name)
        for part in ("agent", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "peer"))
        shutil.copy(ROOT / "setup.cfg", folder)
        if fault is not None:
            path = folder / fault.file
            path.write_text(path.read_text().replace(fault.old, fault.new))
        env = {**os.environ, "RIDETHROUGH_FUZZ_RUNS": RUNS, "RIDETHROUGH_FUZZ_NO_SHRINK": "1"}
        argv = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                argv, cwd=folder, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False
            )
        except subprocess.TimeoutExpired:
            return "(too slow)", WITHIN_S
    if done.returncode not in (0, 1):  # not a test that failed, but a tree that cannot be tested
        raise SystemExit(f"{fault.name if fault else 'no fault'}: pytest ended with {done.returncode}\n{done.stdout}")
    failed = [line.split()[1].rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return (failed or ["(a test)"])[0] if done.returncode else "", time.monotonic() - begin_s


def main(options: list[str]) -> int:
    """Run them, two at a time; 1 if too many survive."""
    tests = tuple(t for t in TESTS if "machine" in t) if "--machine" in options else TESTS
    if wrong := problems():
        print("\n".join(wrong))
        return 1
    seen_by, took_s = tried(None, tests)
    if seen_by:
        print(f"without any fault a test fails already: {seen_by}")
        return 1
    print(f"   no fault  {took_s:5.1f} s  every test passes", flush=True)
    faults = [f for f in FAULTS if f.name not in EQUIVALENT]
    faults = faults[::3] if "--short" in options else faults
    words = [option for option in options if not option.startswith("-")]
    faults = [f for f in faults if not words or any(word in f.name for word in words)]
    if not faults:
        print(f"no fault is called {' or '.join(words)}")
        return 1
    survivors = []
    begin_s = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for fault, (seen_by, took_s) in zip(faults, pool.map(lambda f: tried(f, tests), faults), strict=True):
            print(f"   {'killed  ' if seen_by else 'SURVIVED'}  {took_s:5.1f} s  {fault.name}  {seen_by}", flush=True)
            if not seen_by:
                survivors.append(fault.name)
    for name, why in EQUIVALENT.items():
        print(f"   equivalent: {name}: {why}")
    score = 1 - len(survivors) / len(faults)
    print(
        f"{len(faults)} faults, {len(faults) - len(survivors)} killed, {100 * score:.1f} % "
        f"(at least {100 * SCORE:.0f}), {time.monotonic() - begin_s:.0f} s"
    )
    return 0 if score >= SCORE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
