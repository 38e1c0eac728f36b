"""Whatever a line may bring, the Megatec driver gives a Status or a LinkError, never anything else."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.drivers import megatec
from agent.model import Command, ConfigError, LinkError, OrderError, Status
from agent.pretend import Unit, parse_timeline
from agent.q1 import meaning, orders
from agent.q1.form import identity
from agent.q1.megatec import Q1, F
from tests.simulators.dialects import q1
from tests.simulators.script import ScriptLink

GOOD = b"(230.0 229.0 231.0 030 50.0 26.0 25.0 00001001"
junk = st.binary(max_size=80)


@st.composite
def bent_frames(draw: st.DrawFn) -> bytes:
    """A good answer with a few bytes replaced, removed or doubled."""
    answer = bytearray(GOOD)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(answer) - 1)) if answer else 0
        match draw(st.sampled_from(("replace", "remove", "insert", "cut"))):
            case "replace" if answer:
                answer[at] = draw(st.sampled_from(b"0123456789. -@#(\0N\xff"))
            case "remove":
                del answer[at : at + draw(st.integers(1, 6))]
            case "insert":
                answer[at:at] = draw(st.binary(min_size=1, max_size=4))
            case _:
                del answer[at:]
    return bytes(answer)


def numbers_of(status: Status) -> list[float]:
    line, out, battery = status.inputs[0], status.outputs[0], status.battery
    found = [line.voltage_v, line.frequency_hz, line.fault_voltage_v, out.voltage_v, out.load_pct, battery.charge_pct]
    return [n for n in (*found, battery.voltage_v, status.temperature_c) if n is not None]


@given(st.one_of(junk, bent_frames()))
def test_any_bytes_are_a_whole_answer_or_a_link_error(answer: bytes) -> None:
    try:
        facts = Q1.parse(answer)
    except LinkError as e:
        assert repr(answer[:80]) in str(e)
        return
    status = meaning.look(meaning.plausible(meaning.with_battery(facts, None))[0], taken_s=1.0)
    assert answer[:1] == b"(" and all(math.isfinite(n) and abs(n) < 1e6 for n in numbers_of(status))
    assert wire.from_json(Status, wire.to_json(status)) == status


@given(junk)
def test_any_bytes_are_a_rating_and_an_identity_or_a_link_error(answer: bytes) -> None:
    for parse in (F.parse, identity):
        try:
            parse(answer)
        except LinkError:
            pass


@given(st.lists(st.one_of(st.none(), junk, bent_frames()), min_size=3, max_size=12))
def test_a_driver_on_a_mad_line_polls_on(answers: list[bytes | None]) -> None:
    replies = iter(answers * 10)

    def next_reply() -> bytes | None:
        return next(replies)

    link = ScriptLink({b"Q1": next_reply, b"F": next_reply, b"I": next_reply, b"T": next_reply})
    driver: Any = megatec.connect({"dialect": "megatec"}, link, lambda: 0.0)
    for _ in range(5):
        waited_s = link.waited_s
        try:
            assert isinstance(driver.poll(), Status)
        except LinkError:
            pass
        assert link.waited_s - waited_s <= 5.0
    try:
        driver.order(Command.TEST_QUICK)
    except (LinkError, OrderError):
        pass


@given(
    st.floats(0, 999.9), st.floats(0, 999.9), st.floats(0, 150), st.floats(0, 100), st.floats(0, 99.9),
    st.tuples(*[st.booleans()] * 6),
)  # fmt: skip
def test_what_the_pretend_unit_sends_is_what_the_driver_reads(
    mains_v: float, fault_v: float, load_pct: float, charge_pct: float, temperature_c: float, flags: tuple[bool, ...]
) -> None:
    unit = Unit(0.0, load_pct=load_pct)
    unit.mains_v, unit.fault_v, unit.charge_pct, unit.temperature_c = mains_v, fault_v, charge_pct, temperature_c
    unit.mains, unit.force_low, unit.fault, unit.bypass, unit.beeper = flags[:5]
    if flags[5]:
        unit.start_test(10.0)
    read: dict[str, Any] = Q1.parse(q1(unit)[:-1])
    assert abs((read["input_v"] or 0) - unit.input_v) < 0.051 and abs((read["fault_v"] or 0) - fault_v) < 0.051
    assert abs((read["battery_v"] or 0) - unit.battery_v) < 0.051 and abs((read["load_pct"] or 0) - load_pct) < 1
    assert (read["utility_fail"], read["battery_low"], read["failed"]) == (
        not unit.mains_usable,
        unit.low,
        unit.fault,
    )
    assert (read["testing"], read["beeper_on"]) == (unit.testing, unit.beeper)


arguments = st.dictionaries(
    st.sampled_from(("minutes", "delay_s", "return_delay_s", "mains", "x")),
    st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5)),
    max_size=3,
)


@given(st.sampled_from(Command), arguments)
def test_any_order_is_bytes_of_the_protocol_or_refused(command: Command, args: dict[str, Any]) -> None:
    try:
        sent = orders.encode(command, args)
    except OrderError:
        return
    assert sent.endswith(b"\r") and len(sent) <= 10
    assert Unit(0.0).obey(sent[:-1])


@given(st.floats(12, 600), st.floats(0, 599940))
def test_a_delay_is_never_shorter_than_ordered(delay_s: float, return_s: float) -> None:
    args = {"delay_s": delay_s, "return_delay_s": return_s}
    unit = Unit(0.0)
    assert unit.obey(orders.encode(Command.SHUTDOWN_RETURN, args)[:-1])
    assert unit.off_at_s is not None and delay_s - 1e-6 <= unit.off_at_s <= delay_s + 60


lines = st.one_of(
    st.text(max_size=30),
    st.tuples(
        st.sampled_from(("0", "1.5", "2", "x")),
        st.sampled_from(("set", "reply", "silence", "garbage", "")),
        st.sampled_from(("", "mains on", "mains_v 1", "mains_v 1e400", "(1", "00ff", "0", "line live")),
    ).map(" ".join),
)


@given(st.lists(lines, max_size=6))
def test_any_text_is_a_timeline_or_a_config_error(texts: list[str]) -> None:
    try:
        steps = parse_timeline("\n".join(texts), "x.seq")
    except ConfigError as e:
        assert str(e).startswith("x.seq:")
    else:
        assert [s.at_s for s in steps] == sorted(s.at_s for s in steps)
