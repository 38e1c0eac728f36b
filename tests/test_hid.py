"""The HID layer against real units: every value that a log of the unit printed is found again from its bytes."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import hid, usages
from agent.model import LinkError

CASES = Path(__file__).parent / "cases" / "hid"
UNITS: dict[str, Any] = {
    p.stem: case for p in sorted(CASES.glob("*.json")) if "descriptor" in (case := json.loads(p.read_text()))
}
DESCRIPTORS = [bytes.fromhex(case["descriptor"]) for case in UNITS.values()]
#: printed with the unit of an earlier field: string number 3 as "0.03", mode 2 as "0.02" (rule: only physical usages)
LEAKED = {
    ("051d-0002-back-ups-cs-500", "UPS.PowerSummary.iManufacturer"): 3.0,
    ("051d-0002-back-ups-cs-500", "UPS.PowerSummary.CapacityMode"): 2.0,
}
HUGE = bytes.fromhex("0584 0904 a101 0930 75 20 97 ffffffff b102 c0".replace(" ", ""))


def test_the_cases_are_those_of_fourteen_real_units() -> None:
    assert len(UNITS) == 14
    assert all(len(bytes.fromhex(case["descriptor"])) == case["descriptor_bytes"] for case in UNITS.values())
    assert all(case["source_url"] and case["via"] for case in UNITS.values())


@pytest.mark.parametrize("name", UNITS)
def test_every_value_that_a_log_printed_is_found_again_from_the_bytes(name: str) -> None:
    case = UNITS[name]
    parsed = hid.parse(bytes.fromhex(case["descriptor"]))
    with_bytes = 0
    for path, kind, report, offset, bits, logged in case.get("expect", []):
        place = usages.path(path), kind.lower(), report, offset, bits
        found = [f for f in parsed.fields if (f.path, f.kind, f.report, f.offset, f.bits) == place]
        assert len(found) == 1, (path, kind, report)
        if (data := case["reports"].get(f"{report:02x}")) is not None:
            want = LEAKED.get((name, path), logged)
            assert hid.value(found[0], bytes.fromhex(data)) == pytest.approx(want, abs=1e-9), (path, kind)
            with_bytes += 1
    assert with_bytes or not case.get("reports")


def test_there_are_495_values_and_two_that_a_log_had_wrong() -> None:
    checked = [
        (name, path)
        for name, case in UNITS.items()
        for path, _, report, *_ in case.get("expect", [])
        if f"{report:02x}" in case["reports"]
    ]
    assert len(checked) == 497 and len([c for c in checked if c in LEAKED]) == 2


@pytest.mark.parametrize("name", UNITS)
def test_every_report_is_as_long_as_the_log_says(name: str) -> None:
    parsed = hid.parse(bytes.fromhex(UNITS[name]["descriptor"]))
    ours = {
        f"{kind.capitalize()} {report:02x}": n for (kind, report), n in parsed.lengths.items() if kind != "output"
    }
    if "report_bytes_len" not in UNITS[name]:
        for report, data in UNITS[name]["reports"].items():
            assert len(bytes.fromhex(data)) in {ours.get(f"{kind} {report}") for kind in ("Feature", "Input")}
        return
    logged = {k: n for k, n in UNITS[name]["report_bytes_len"].items() if not k.startswith("Output")}
    assert ours == logged


def test_paths_are_read_and_written_alike() -> None:
    for descriptor in DESCRIPTORS:
        for field in hid.parse(descriptor).fields:
            assert usages.path(usages.text(field.path)) == field.path
    with pytest.raises(LinkError, match="no such usage"):
        usages.path("UPS.Nonsense")


# --- the rules, one by one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "path"), [(0x81, "UPS.Outlet.[1].Voltage"), (0x80, "UPS.Outlet.Voltage")])
def test_a_collection_of_a_makers_own_kind_is_a_number_from_one(kind: int, path: str) -> None:
    outlet = bytes.fromhex("05840904a1010920a1") + bytes([kind]) + bytes.fromhex("093015002564750895018102c0c0")
    (field,) = hid.parse(outlet).fields
    assert usages.text(field.path) == path


def one(body: str) -> hid.Field:
    (field,) = hid.parse(bytes.fromhex("05840904a1018501" + body.replace(" ", "") + "c0")).fields
    return field


def test_minima_and_maxima_are_signed_by_their_own_size() -> None:
    field = one("16ffff 26ff7f 7510 9501 0957 b102")
    assert (field.low, field.high) == (-1, 32767) and hid.raw(field, b"\1\xff\xff") == -1


def test_a_maximum_of_ff_in_one_byte_means_255_when_the_minimum_is_not_negative() -> None:
    assert one("1500 25ff 7508 9501 0935 b102").high == 255
    assert one("15ff 257f 7508 9501 0935 b102").low == -1


def test_a_missing_range_is_taken_from_the_size_and_marked() -> None:
    field = one("7504 9501 0935 b102")
    assert (field.low, field.high) == (0, 15)


def test_a_unit_left_standing_counts_only_where_the_usage_is_of_that_kind() -> None:
    body = "6721d1f000 5505 1500 26ff00 7508 9501 0930 b102 09fd b102 0932 b102"
    volts, string, hertz = hid.parse(bytes.fromhex(("05840904a1018501" + body + "c0").replace(" ", ""))).fields
    report = b"\1" + bytes((200, 3, 50))
    assert hid.value(volts, report) == 2.0
    assert hid.value(string, report) == 3.0 and hid.value(hertz, report) == 50.0


def test_offsets_count_for_each_kind_and_report_alone_and_constants_only_move_them() -> None:
    body = "7508 9501 b101 0930 b102 0930 8102 8502 0930 b102"
    fields = hid.parse(bytes.fromhex(("05840904a1018501" + body + "c0").replace(" ", ""))).fields
    assert [(f.kind, f.report, f.offset) for f in fields] == [("feature", 1, 8), ("input", 1, 0), ("feature", 2, 0)]


def test_the_last_usage_of_a_list_serves_all_fields_beyond_it() -> None:
    fields = hid.parse(bytes.fromhex("05840904a10185017508950309300931b102c0")).fields
    assert [usages.text(f.path[-1:]) for f in fields] == ["Voltage", "Current", "Current"]
    spread = hid.parse(bytes.fromhex("05840904a101850175089503193029 32b102c0".replace(" ", ""))).fields
    assert [usages.text(f.path[-1:]) for f in spread] == ["Voltage", "Current", "Frequency"]


def test_a_value_outside_of_its_range_is_not_forced_into_it() -> None:
    assert hid.value(one("258e 1688 00 268e00 7508 9501 0930 b102"), b"\1\x79") == 121.0


def test_a_physical_range_makes_minutes_of_a_timer_seconds() -> None:
    field = one("16ffff 26ff7f 36c4ff 47c4ff1d00 660110 5500 7510 9501 0957 b102")
    assert hid.value(field, b"\1\xff\xff") == -60.0 and hid.value(field, b"\1\x02\x00") == 120.0
    assert hid.put(field, 61, b"\1\0\0") == b"\1\x02\x00"  # rounded up, never earlier than asked
    assert hid.put(field, -1, b"\1\0\0") == b"\1\xff\xff"


def test_legrands_maximum_of_ff_over_sixteen_bits_hides_no_volts() -> None:
    parsed = hid.parse(bytes.fromhex(UNITS["1cb0-0038-legrand-keor-pdu-800"]["descriptor"]))
    field = parsed.find(usages.path("UPS.Output.Voltage"), "feature")
    assert field is not None and (field.bits, field.high) == (16, 255)
    assert hid.value(field, b"\x12\x70\x08") == 216.0


def test_a_report_that_is_too_short_for_a_field_has_no_value() -> None:
    assert hid.value(one("7510 9501 0930 b102"), b"\1\x79") is None


@given(st.sampled_from(DESCRIPTORS), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_is_put_into_a_report_is_what_comes_out_and_nothing_beside_it_moves(descriptor: bytes, rng: Any) -> None:
    parsed = hid.parse(descriptor)
    field = rng.choice(parsed.fields)
    before = bytes([field.report]) + rng.randbytes(parsed.lengths[field.kind, field.report] - 1)
    value = hid.value(field, before)
    assert value is not None
    try:
        after = hid.put(field, value, before)
    except LinkError:
        return
    assert after == before or value < 0


# --- hostile descriptors -------------------------------------------------------------------------------------------


def parse_bounded(data: bytes) -> None:
    begin_s = time.process_time()
    try:
        parsed = hid.parse(data)
        for field in parsed.fields[:50]:
            hid.value(field, bytes(parsed.lengths[field.kind, field.report]))
    except LinkError:
        pass
    assert time.process_time() - begin_s < 1.0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (HUGE, "longer than 1024 bytes"),
        (bytes.fromhex("05840904a101093077ffffffff9501b102c0"), "longer than 1024 bytes"),
        (bytes.fromhex("0584" + "0904a101" * 17), "in each other"),
        (b"\xa4" * 9, "Push"),
        (b"\xb4", "Pop without Push"),
        (b"\xc0", "did not begin"),
        (bytes.fromhex("05840904a101"), "not closed"),
        (bytes.fromhex("058409"), "cut off"),
        (b"\xfe", "cut off"),
        (bytes.fromhex("8500"), "report id 0"),
        (b"\x09\x30" * 300, "too many usages"),
        (bytes.fromhex("0584 1900 2aff7f".replace(" ", "")), "too many usages"),
        (bytes(5000), "limit is 4096"),
        (
            bytes.fromhex("05840904a10109307501 960020") + bytes.fromhex("b102850181028502b1028503b102c0"),
            "fields|longer",
        ),
    ],
)
def test_a_hostile_descriptor_is_refused_with_its_place(data: bytes, why: str) -> None:
    with pytest.raises(LinkError, match=why):
        hid.parse(data)


def test_a_descriptor_that_asks_for_much_gets_little_memory() -> None:
    bomb = bytes.fromhex("05840904a101093075019600 20".replace(" ", "")) + b"".join(
        b"\x85" + bytes([n]) + b"\x09\x30\xb1\x02" for n in range(1, 256)
    )
    tracemalloc.start()
    with pytest.raises(LinkError, match="fields"):
        hid.parse(bomb + b"\xc0")
    assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    tracemalloc.stop()


@pytest.mark.parametrize("name", UNITS)
def test_a_real_descriptor_cut_anywhere_is_refused(name: str) -> None:
    data = bytes.fromhex(UNITS[name]["descriptor"])
    for end in range(1, len(data)):
        with pytest.raises(LinkError):
            hid.parse(data[:end])


@given(st.binary(max_size=4200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_parsed_or_refused_in_bounded_time(data: bytes) -> None:
    parse_bounded(data)


@given(
    st.sampled_from(DESCRIPTORS),
    st.lists(st.tuples(st.integers(0, 1600), st.binary(min_size=1, max_size=6)), max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_a_damaged_descriptor_of_a_real_unit_is_parsed_or_refused(
    data: bytes, damage: list[tuple[int, bytes]]
) -> None:
    hurt = bytearray(data)
    for place, more in damage:
        place %= len(hurt)
        hurt[place : place + len(more)] = more
    parse_bounded(bytes(hurt))
