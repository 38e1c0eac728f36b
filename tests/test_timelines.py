"""War stories as timelines (tests/cases/*.seq), played by the simulator driver through the real engine.

A comment of a timeline says what must come of it: `expect told: NAMES | nobody`, `expect told by: SECOND`,
`expect not told before: SECOND`, `expect log: began NAME, ended NAME, ... | nothing` (conditions, in this order),
`expect phase: PHASE` (at the end), `expect outages: NUMBER`. `with OPTION: true` sets an option of the configuration.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.config import Server, Stage
from agent.drivers import simulator
from agent.model import LinkError, Status
from tests.kit import Play

CASES = sorted((Path(__file__).parent / "cases").glob("*.seq"))
STAGES = (Stage(name="first", on_battery_s=100.0), Stage(name="last", charge_below_pct=5.0))
SERVERS = (
    Server(name="early", address="127.0.0.1", port=6003, stage="first", needs_s=60.0),
    Server(name="late", address="127.0.0.1", port=6004, stage="last", needs_s=60.0),
)


def expectations(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# expect ([a-z ]+): (.*)$", text, re.M))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_the_story_ends_as_it_must(path: Path) -> None:
    text = path.read_text()
    expected = expectations(text)
    assert "told" in expected, "the timeline must say what is expected"
    end_s = float(re.findall(r"^([\d.]+) ", text, re.M)[-1])
    options = dict.fromkeys(re.findall(r"^# with ([a-z_]+): true$", text, re.M), True)
    play = Play(stages=STAGES, servers=SERVERS, **options)  # type: ignore[arg-type]
    start_s = play.clock.now_s
    section = {"timeline": str(path), "runtime_s": 3600.0}
    driver = simulator.connect(section, None, play.clock.mono_s)
    told: dict[str, float] = {}
    while play.clock.now_s - start_s < end_s:
        status: Status | None
        try:
            status = driver.poll()
        except LinkError:
            status = None
        play.second(status)
        for name in play.tell:
            told.setdefault(name, play.clock.now_s - start_s - 1.0)
        for name in play.tell:
            if play.view.servers[[s.name for s in SERVERS].index(name)].delivery == "none":
                play.report(name, "delivered-unconfirmed")
        for server in play.orders[-1].wake if play.orders else ():
            play.report(server.name, "none", wake="back")
    if "phase" in expected:
        assert play.view.phase == expected["phase"]
    if "outages" in expected:
        assert play.names("began").count("on-battery") == int(expected["outages"])
    names = [] if expected["told"] == "nobody" else expected["told"].split()
    assert sorted(told) == sorted(names)
    if "told by" in expected:
        assert max(told.values()) <= float(expected["told by"]), told
    if "not told before" in expected:
        assert min(told.values()) >= float(expected["not told before"]), told
    if "log" in expected:
        rows = [f"{e.kind} {e.name}" for e in play.history.events if e.kind != "note"]
        assert ", ".join(rows) == ("" if expected["log"] == "nothing" else expected["log"])
