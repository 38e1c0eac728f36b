"""Messages and commands by hand: to whom, what is filled in, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import byword, variables
from agent.errands import Errand
from agent.model import Battery, Line, OrderError, ServerView, Status, View
from agent.variables import VARIABLES, substitute
from tests.fakecore import on_battery, on_line

ROOT = Path(__file__).resolve().parent.parent
#: CS141 manual p. 65 (its list goes on), Huawei RMS-SNMP01A p. 66; and names of the Modbus table
DOCUMENTED = json.loads((ROOT / "tests/cases/rccmd_variables.json").read_text())
#: what nothing here can know
NOT_OURS = {"#BATT2OLD()", "#BATT2OLD_YEARS", "#BATTINSTDATE", "#BATTTESTDATE"}


def status_of(view: View) -> Status:
    assert view.status is not None
    return view.status


@pytest.mark.parametrize(
    "text, said",
    [
        ("Battery #BATTCAP %, #AUTONOMTIME min", "Battery 97 %, 41 min"),
        ("#INVOLT V in, #OUTPUT_VOLT V out, #INFREQ Hz", "230 V in, 230 V out, 50.0 Hz"),
        ("#AGENTSOFTREV #CNT_PF #STATUS", "0.1.0 3 ok"),
        ("#UPS (#MODEL) on #SOURCE, #PHASE, #MODE", "server room (Simulator 1000) on mains, idle, armed"),
        ("#BATTVOLT #OUTPOWER #RUNTIME_S #ON_BATTERY_S", "27.3 23 2460 0"),
        ("#TEMPDEG C, #OUTFREQ Hz", "n/a C, n/a Hz"),
        ("#BATTCAPX #battcap # #1 ## #BATT2OLD() a#BATTCAP", "#BATTCAPX #battcap # #1 ## #BATT2OLD() a97"),
        ("", ""),
    ],
)
def test_names_are_filled_in_and_what_is_none_stays(text: str, said: str) -> None:
    assert substitute(text, on_line()) == said


def test_an_outage_is_told() -> None:
    assert (
        substitute("#SOURCE since #ON_BATTERY_S s: #STATUS", on_battery(134.0)) == "battery since 134 s: on-battery"
    )


def test_three_phases_have_one_value_each() -> None:
    lines = tuple(Line(voltage_v=v) for v in (229.6, 231.0, None))
    view = on_line()
    assert substitute("#INVOLT", replace(view, status=replace(status_of(view), inputs=lines))) == "230 231 n/a"


def test_nothing_is_invented_when_the_ups_is_silent() -> None:
    silent = replace(on_line(), status=None)
    assert substitute("#BATTCAP #INVOLT #SOURCE #TEMPDEG", silent) == "n/a n/a n/a n/a"
    bare = replace(on_line(), status=replace(status_of(on_line()), battery=Battery(temperature_c=21.4), inputs=()))
    assert substitute("#BATTCAP #INVOLT #TEMPDEG", bare) == "n/a n/a 21"


def test_every_documented_name_is_known_or_said_to_be_unknown() -> None:
    names = {n for key in ("documented", "modbus_names_probably_valid") for n in DOCUMENTED[key]}
    assert names - {f"#{name}" for name in VARIABLES} == NOT_OURS
    text = (ROOT / "docs/servers.md").read_text()
    assert [n for n in {f"#{v}" for v in VARIABLES} | NOT_OURS if f"`{n}`" not in text] == []


def test_every_name_of_the_table_can_be_found_in_a_text() -> None:
    assert all(re.fullmatch(variables._NAME, f"#{name}") for name in VARIABLES)
    for view in (on_line(), on_battery(), replace(on_line(), status=None)):
        assert all(isinstance(pick(view), str) for pick in VARIABLES.values())


@given(st.text())
def test_a_text_without_a_known_name_is_not_touched(text: str) -> None:
    if not any(f"#{name}" in text for name in VARIABLES):
        assert substitute(text, on_line()) == text


# --- to whom ----------------------------------------------------------------------------------------------------


def errands(do: str, to: str, text: str, **changes: object) -> dict[str, tuple[str, str]]:
    found = byword.errands(do, to, text, on_line(**changes))
    return {e.server: (e.verb, e.argument) for e in found}


def test_a_message_goes_to_a_server_a_stage_or_all() -> None:
    assert errands("message", "nas", "#BATTCAP %") == {"nas": ("MSG_TEXT", "97 %")}
    assert errands("message", "default", "x").keys() == {"vm-host"}
    assert errands("message", "all", "x").keys() == {"nas", "vm-host"}


def test_a_command_goes_to_one_server_as_it_is() -> None:
    assert errands("execute", "nas", "#BATTCAP x") == {"nas": ("EXECUTE", "#BATTCAP x")}


def test_it_must_be_begun_within_a_minute() -> None:
    view = on_line()
    assert byword.errands("message", "nas", "x", view) == (Errand("nas", "MSG_TEXT", "x", view.now_s + 60.0),)


SSH = ServerView(name="by-ssh", address="192.0.2.3", port=22, how="ssh", stage="early", needs_s=1.0)


@pytest.mark.parametrize(
    "order, changes, why",
    [
        (("message", "nobody", "x"), {}, "no server or stage nobody"),
        (("execute", "all", "x"), {}, "no server all"),
        (("execute", "early", "x"), {}, "no server early"),
        (("message", "nas", " \x07 "), {}, "nothing to send"),
        (("message", "nas", "\N{EURO SIGN}" * 601), {}, "longer than 1800 bytes"),
        (("execute", "nas", "a\nb"), {}, "a command's name is printable"),
        (("execute", "nas", "x" * 201), {}, "at most 200"),
        (("poweroff", "nas", "x"), {}, "nobody knows how to poweroff"),
        (("message", "nas", "x"), {"mode": "dry-run"}, "only in mode armed"),
        (("message", "by-ssh", "x"), {"servers": (SSH,)}, "only servers with how"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    order: tuple[str, str, str], changes: Mapping[str, object], why: str
) -> None:
    with pytest.raises(OrderError, match=why):
        errands(*order, **changes)


def test_others_of_the_stage_are_left_out_and_control_characters_too() -> None:
    view = on_line()
    both = replace(view, servers=(*view.servers, SSH))
    found = byword.errands("message", "early", "a\x1b[31m\nb", both)
    assert [(e.server, e.argument) for e in found] == [("nas", "a[31mb")]
