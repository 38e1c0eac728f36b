"""Which test of the UPS began last: by an order, or by itself."""

from __future__ import annotations

from agent.lasttest import BEGINS_WITHIN_S, LastTest
from agent.model import Event


def order(command: str, outcome: str = "done") -> Event:
    return Event(id=1, kind="note", name="command", data={"command": command, "outcome": outcome})


BEGAN, ENDED = (Event(id=1, kind=kind, name="test-running") for kind in ("began", "ended"))


def heard(*news: tuple[float, Event]) -> tuple[str, float | None]:
    last = LastTest()
    for now_s, event in news:
        last.hear([event], now_s)
    return last.order, last.began_s


def test_an_order_counts_from_its_giving_and_a_refused_one_never() -> None:
    assert heard() == ("", None)
    assert heard((5.0, order("test-deep", "refused")), (6.0, order("beeper-off"))) == ("", None)
    assert heard((5.0, order("test-deep"))) == ("test-deep", 5.0)
    assert heard((5.0, order("test-quick")), (7.0, BEGAN), (9.0, ENDED)) == ("test-quick", 5.0)
    assert heard((5.0, order("test-quick")), (7.0, BEGAN), (8.0, order("test-stop"))) == ("test-quick", 5.0)
    assert heard((7.0, BEGAN), (7.1, order("test-quick"))) == ("test-quick", 7.1), "the unit was faster than the row"


def test_one_that_begins_without_an_order_is_the_units_own() -> None:
    assert heard((7.0, BEGAN)) == ("", 7.0)
    assert heard((5.0, order("test-quick")), (6.0, BEGAN), (8.0, ENDED), (9.0, BEGAN)) == ("", 9.0)
    late_s = 5.0 + BEGINS_WITHIN_S + 1
    assert heard((5.0, order("test-quick")), (late_s, BEGAN)) == ("", late_s)
