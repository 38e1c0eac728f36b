"""`ridethrough rehearse`: walks the plan and tells nobody: each server's proof and time, and the battery's."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import wire
from .model import ServerView, View

WITHIN_S, AGAIN_S = 20.0, 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the rehearsal; `bad`: the plan does not hold."""

    text: str
    bad: bool = False


def rehearse(look: Callable[[], View], prove: Callable[[], None], *, as_json: bool, wait_s: float = WITHIN_S) -> int:
    """Have all servers proven, wait for that, and say what came of it: 0 if the plan holds, else 1."""
    view = proven(look, prove, wait_s)
    findings = walk(view)
    bad = any(f.bad for f in findings)
    if as_json:
        rows = [{"text": f.text, "bad": f.bad} for f in findings]
        print(json.dumps({"holds": not bad, "findings": rows, "view": wire.to_json(view)}))
    else:
        print("\n".join(("!! " if f.bad else "   ") + f.text for f in findings))
        print("the plan does not hold: see the lines with !!" if bad else "the plan holds; nobody was told")
    return 1 if bad else 0


def proven(look: Callable[[], View], prove: Callable[[], None], wait_s: float = WITHIN_S) -> View:
    """Have all servers proven, wait for that, and see what came of it."""
    prove()
    return _wait(look, wait_s)


def _wait(look: Callable[[], View], wait_s: float) -> View:
    """Until each server has an answer to the proof that was just asked for, or the time is over."""
    view = look()
    asked_s, end_s = view.now_s, time.monotonic() + wait_s
    before = {s.name: (s.proof, s.proof_age_s) for s in view.servers}
    while time.monotonic() < end_s:
        time.sleep(AGAIN_S)
        view = look()
        open_ = [s.name for s in view.servers if not _answered(s, view.now_s - asked_s, before)]
        if sys.stderr.isatty():
            print(f"\r{len(view.servers) - len(open_)} of {len(view.servers)} answered ", end="", file=sys.stderr)
        if not open_:
            break
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return view


def _answered(server: ServerView, since_s: float, before: dict[str, tuple[str, float | None]]) -> bool:
    fresh = server.proof_age_s is not None and server.proof_age_s <= since_s
    return fresh or (server.proof != "" and server.proof != before.get(server.name, ("", None))[0])


def walk(view: View) -> list[Finding]:
    """The plan, stage by stage, and whether it holds."""
    out = [Finding(f"mode {view.mode}" + ("" if view.mode == "armed" else ": in an outage nobody would be told"))]
    for stage in view.stages:
        begins_s = stage.forecast_s if stage.due_in_s is None else stage.due_in_s
        at = "not before the battery's end" if begins_s is None else f"at {_clock(begins_s)}"
        known = view.forecast is not None or begins_s is not None
        when = "in an outage now" if view.on_battery_s is None else "from now"
        out.append(Finding(f"stage {stage.name}: {when} {at if known else _triggers(stage.on_battery_s)}"))
        servers = [s for s in view.servers if s.stage == stage.name]
        if not servers:
            out.append(Finding(f"  no server belongs to {stage.name}"))
        for server in servers:
            ends_s = None if begins_s is None else begins_s + server.needs_s
            if server.how == "local":  # told when all others have had their time
                ends_s = view.forecast.down_s if view.forecast else None
            out += _server(server, ends_s)
    return [*out, *_battery(view)]


def _triggers(on_battery_s: float | None) -> str:
    return "by its other triggers" if on_battery_s is None else f"at {_clock(on_battery_s)} at the latest"


def _server(server: ServerView, down_s: float | None) -> list[Finding]:
    if server.how == "wake":
        return [Finding(f"  {server.name}: only woken ({_waking(server)})")]
    facts = [server.trust.replace("-", " "), server.proof]
    why = f" ({'; '.join(fact for fact in facts if fact)})" if any(facts) else ""
    state = f"{server.state} before, but not now" if server.failing and server.state != "unknown" else server.state
    down = "" if down_s is None else f", down at {_clock(down_s)}"
    text = f"  {server.name}: {state}{why}, needs {server.needs_s:.0f} s{down}; {_waking(server)}"
    return [Finding(text, bad=server.failing or server.state == "unknown")]


def _waking(server: ServerView) -> str:
    if server.how == "local":
        return "comes back with its power"
    return f"woken by its MAC {server.mac}" if server.mac else "no MAC known: switched on by an outlet, or by hand"


def _battery(view: View) -> list[Finding]:
    if not any(s.how != "wake" for s in view.servers):
        return [Finding("there is no server to shut down", bad=True)]
    forecast = view.forecast
    if forecast is None:
        text = "nobody knows how long the battery lasts: the UPS says no runtime and none was learned"
        return [Finding(text, bad=True)]
    lasts = f"the battery lasts {_clock(forecast.runtime_s)} ({forecast.basis})"
    if forecast.down_s is None or forecast.margin_s is None:
        return [Finding(f"{lasts}; no stage would be latched before its end", bad=True)]
    text = f"everything down at {_clock(forecast.down_s)}, {lasts}, margin {_clock(forecast.margin_s)}"
    return [Finding(text, bad=forecast.margin_s < 0)]


def _clock(seconds: float) -> str:
    """5:00, -0:30, 1:02:00."""
    sign, whole = ("-" if seconds < 0 else ""), abs(round(seconds))
    minutes, rest = divmod(whole, 60)
    text = f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    return sign + text
