"""The three lines of a three-phase UPS of the Q1 family on the page, in SNMP, in the log and on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from snmp_kit import view
from test_mib import ups

from agent import page, verbs, wire, words
from agent.drivers import megatec
from agent.model import Status
from agent.pretend import Unit
from agent.store import measurements
from tests.simulators.dialects import SPEAKERS
from tests.simulators.script import SpeakerLink


@pytest.fixture(params=["voltronic-10", "megatec-g"])
def status(request: pytest.FixtureRequest) -> Status:
    link = SpeakerLink(SPEAKERS[request.param], Unit(0.0))
    driver: Any = megatec.connect({}, link, lambda: link.now_s)
    driver.poll()
    return driver.poll()  # type: ignore[no-any-return]


def test_each_line_has_its_rows_in_the_ups_mib(status: Status) -> None:
    found = ups(view(status))
    assert found["upsInputNumLines"] == found["upsOutputNumLines"] == found["upsBypassNumLines"] == 3
    for row, volts in ((1, 230), (2, 225), (3, 235)):
        assert found[f"upsInputVoltage.{row}"] == found[f"upsOutputVoltage.{row}"] == volts
        assert found[f"upsBypassVoltage.{row}"] == volts and found[f"upsInputFrequency.{row}"] == 500
    assert [found[f"upsOutputPercentLoad.{row}"] for row in (1, 2, 3)] in ([30, 29, 30], [30, 29, 31])


@pytest.mark.parametrize("language", ["en", "de"])
def test_each_line_is_on_the_page(status: Status, language: str) -> None:
    shown = page.pieces(view(status), (), words.load()[language], 12.0)
    assert "230 / 225 / 235" in shown["t-input"] and "230 / 225 / 235" in shown["f-mains"]
    assert "230 / 225 / 235" in shown["f-ups"] and "30 / 29 / 3" in shown["t-load"]


def test_each_line_is_kept_in_the_history(status: Status) -> None:
    kept = measurements(status)
    assert [kept[f"input-voltage{n}-v"] for n in ("", "-2", "-3")] == [230.0, 225.4, 234.6]
    assert [kept[f"output-voltage{n}-v"] for n in ("", "-2", "-3")] == [230.0, 225.4, 234.6]
    assert {"load-pct", "load-2-pct", "load-3-pct"} <= set(kept)


def test_each_line_is_told_on_the_command_line_and_survives_the_bus(status: Status) -> None:
    told = "\n".join(verbs.describe(view(status)))
    for row in ("input 1: 230", "input 2: 225.4", "input 3: 234.6", "output 3: 234.6", "bypass 2: 225.4"):
        assert row in told, told
    assert wire.from_json(Status, wire.to_json(status)) == status
