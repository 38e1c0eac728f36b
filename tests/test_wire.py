"""The model on the wire: what goes out comes back, and what is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import wire
from agent.model import Battery, Condition, Event, Line, Source, Status, View
from tests.kit import Play

NUMBER = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
LINES = st.lists(st.builds(Line, voltage_v=NUMBER, load_pct=NUMBER), max_size=3).map(tuple)
STATUS = st.builds(
    Status,
    taken_s=st.floats(0, 1e9),
    source=st.sampled_from(list(Source)),
    inputs=LINES,
    outputs=LINES,
    battery=st.builds(Battery, charge_pct=NUMBER, low=st.one_of(st.none(), st.booleans())),
    flags=st.frozensets(st.sampled_from(list(Condition))),
)


@settings(max_examples=100, deadline=None)
@given(STATUS)
def test_every_status_survives_the_wire(status: Status) -> None:
    assert wire.from_json(Status, json.loads(json.dumps(wire.to_json(status)))) == status


def test_a_whole_view_survives_the_wire() -> None:
    play = Play()
    play.battery(100, low=True)
    assert wire.from_json(View, json.loads(json.dumps(wire.to_json(play.view)))) == play.view


def test_unknown_keys_are_ignored_and_missing_ones_take_their_default() -> None:
    event = wire.from_json(Event, {"id": 1, "kind": "note", "name": "n", "of-tomorrow": [1]})
    assert event == Event(id=1, kind="note", name="n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"taken_s": "soon"}, "Status.taken_s"),
        ({"taken_s": True}, "Status.taken_s"),
        ({"source": "wind"}, "Status.source"),
        ({"inputs": {}}, "Status.inputs"),
        ({"inputs": [5]}, "Status.inputs"),
        ({"battery": {"low": 1}}, "Status.battery.low"),
        ({"flags": ["on-fire"]}, "Status.flags"),
        ({"source": None}, "Status.source"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wire.from_json(Status, {"taken_s": 1.0, "source": "mains", **change})


def test_a_missing_field_without_a_default_is_named() -> None:
    with pytest.raises(ValueError, match="taken_s is missing"):
        wire.from_json(Status, {"source": "mains"})
