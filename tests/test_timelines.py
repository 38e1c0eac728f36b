"""War stories as timelines (tests/cases/*.seq), played by the simulator driver through the real engine.

A comment of a timeline says where the story is from, and what must come of it:

    expect told: NAMES | nobody          expect told by: SECOND          expect not told before: SECOND
    expect times told: NUMBER            every server in so many outages
    expect log: began NAME, ended NAME, ... | nothing      conditions, in this order
    expect phase: PHASE                  at the end
    expect outages: NUMBER               expect woken: NAMES | nobody
    expect ups off: NUMBER               so many orders to switch off

    with OPTION: true                    an option of the configuration
    with off_return: battery | always    what the driver is proven to do
    with stages: NAME TRIGGER VALUE; ...
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.config import Server, Stage
from agent.drivers import simulator
from agent.model import Command, LinkError, Status
from tests.kit import Play

CASES = sorted((Path(__file__).parent / "cases").glob("*.seq"))
STAGES = (Stage(name="first", on_battery_s=100.0), Stage(name="last", charge_below_pct=5.0))
SERVERS = (
    Server(name="early", address="127.0.0.1", port=6003, stage="first", needs_s=60.0),
    Server(name="late", address="127.0.0.1", port=6004, stage="last", needs_s=60.0),
)


def lines(word: str, text: str) -> dict[str, str]:
    """The comments `# WORD KEY: VALUE`."""
    return dict(re.findall(rf"^# {word} ([a-z_ ]+): (.*)$", text, re.M))


def names(text: str) -> list[str]:
    return [] if text == "nobody" else text.split()


def a_play(text: str) -> Play:
    """The engine as the timeline wants it."""
    options = lines("with", text)
    stages = STAGES
    if "stages" in options:
        rows = [row.split() for row in options.pop("stages").split(";")]
        stages = tuple(Stage(name=name, **{trigger: float(value)}) for name, trigger, value in rows)  # type: ignore[arg-type]
    off_return = options.pop("off_return", "no")
    return Play(
        stages=stages,
        servers=SERVERS,
        off_return=off_return,
        **{key: value == "true" for key, value in options.items()},
    )


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_the_story_ends_as_it_must(path: Path) -> None:
    text = path.read_text()
    expected = lines("expect", text)
    assert "told" in expected, "the timeline must say what is expected"
    end_s = float(re.findall(r"^([\d.]+) ", text, re.M)[-1])
    play = a_play(text)
    start_s = play.clock.now_s
    driver = simulator.connect({"timeline": str(path), "runtime_s": 3600.0}, None, play.clock.mono_s)
    told: dict[str, float] = {}
    times, woken = set[tuple[str, str | None]](), set[str]()
    while play.clock.now_s - start_s < end_s:
        status: Status | None
        try:
            status = driver.poll()
        except LinkError:
            status = None
        play.second(status)
        for name in play.tell:
            told.setdefault(name, play.clock.now_s - start_s - 1.0)
            if (name, play.view.outage) not in times:
                times.add((name, play.view.outage))
                play.report(name, "delivered-unconfirmed")
        for server in play.orders[-1].wake if play.orders else ():
            woken.add(server.name)
            play.report(server.name, "none", wake="back")
    assert sorted(told) == sorted(names(expected["told"]))
    offs = sum(command is Command.SHUTDOWN_RETURN for command, _ in play.powered)
    found = {
        "phase": play.view.phase,
        "outages": str(play.names("began").count("on-battery")),
        "ups off": str(offs),
        "times told": str(len(times) / len(SERVERS)).removesuffix(".0"),
    }
    assert {key: found[key] for key in found if key in expected} == {k: v for k, v in expected.items() if k in found}
    if "woken" in expected:
        assert sorted(woken) == sorted(names(expected["woken"]))
    if "told by" in expected:
        assert max(told.values()) <= float(expected["told by"]), told
    if "not told before" in expected:
        assert min(told.values()) >= float(expected["not told before"]), told
    if "log" in expected:
        rows = [f"{e.kind} {e.name}" for e in play.history.events if e.kind != "note"]
        assert ", ".join(rows) == ("" if expected["log"] == "nothing" else expected["log"])
