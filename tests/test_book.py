"""The address book: a dead name server delays nothing, MACs are learned, and a damaged file is set aside."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import magic, neighbours
from agent.book import Book
from agent.reach import Address

NAS: tuple[Address, ...] = ((socket.AF_INET, ("192.0.2.20",)),)


class Names:
    """A name server that can be switched off."""

    def __init__(self) -> None:
        self.works, self.asked = True, 0

    def __call__(self, name: str) -> tuple[Address, ...]:
        self.asked += 1
        if not self.works:
            raise OSError("Temporary failure in name resolution")
        return NAS


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def book(path: Path, names: Names, clock: Clock, **more: object) -> Book:
    table = {"192.0.2.20": "52:54:00:12:34:56"}
    found = Book(path, look_up=names, now=clock, table=lambda: table, **more)  # type: ignore[arg-type]
    found.plan({"nas": "nas.example"})
    return found


def test_an_address_that_is_one_needs_no_name_server(tmp_path: Path) -> None:
    names = Names()
    found = book(tmp_path / "known.json", names, Clock())
    assert found.addresses("192.0.2.9") == ((socket.AF_INET, ("192.0.2.9",)),)
    assert found.addresses("2001:db8::1")[0][1][0] == "2001:db8::1"
    assert names.asked == 0 and found.addresses("") == ()


def test_a_name_is_looked_up_each_hour_and_the_last_good_address_stays(tmp_path: Path) -> None:
    names, clock, changed = Names(), Clock(), list[str]()
    found = book(tmp_path / "known.json", names, clock, changed=changed.append)
    found.turn()
    assert found.addresses("nas.example") == NAS and changed == ["nas.example"]
    names.works = False
    clock.now_s += 3599
    found.turn()
    assert names.asked == 1
    clock.now_s += 2
    found.turn()
    assert names.asked == 2 and found.addresses("nas.example") == NAS
    clock.now_s += 15
    found.turn()
    assert names.asked == 3


def test_with_a_dead_name_server_the_address_of_the_last_run_is_used_at_once(tmp_path: Path) -> None:
    names, clock = Names(), Clock()
    first = book(tmp_path / "known.json", names, clock)
    first.met("nas", "192.0.2.20")
    first.turn()
    clock.now_s += 11
    first.turn()
    names.works = False
    again = book(tmp_path / "known.json", names, clock)
    assert again.addresses("nas.example") == NAS and again.mac("nas") == "52:54:00:12:34:56"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"addresses": 1, "macs": {}}', '{"addresses": {"a": [[2, ["x"]]]}, "macs": {}}',
     '{"addresses": {"a": [[99, ["192.0.2.1"]]]}, "macs": {}}', '{"addresses": {"a": ["no"]}, "macs": {}}',
     '{"addresses": {"a": [[2, ["192.0.2.1", 5]]]}, "macs": {}}', '{"addresses": {}, "macs": {"a": "no MAC"}}',
     '{"addresses": {"a": [[10, ["::1", 0, 99999999999]]]}, "macs": {}}', '{"addresses": {}, "macs": {"a": 1}}',
     "\0" * 100],
)  # fmt: skip
def test_a_damaged_file_is_set_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    found = book(path, Names(), Clock())
    assert found.addresses("nas.example") == () and not path.exists()
    assert (tmp_path / "known.json.damaged").read_text() == text


def test_what_is_no_longer_in_the_plan_is_forgotten(tmp_path: Path) -> None:
    names, clock = Names(), Clock()
    found = book(tmp_path / "known.json", names, clock)
    found.met("nas", "192.0.2.20")
    found.turn()
    found.plan({"web": "192.0.2.1"})
    clock.now_s += 20
    found.turn()
    assert json.loads((tmp_path / "known.json").read_text()) == {"addresses": {}, "macs": {}}


def test_nothing_is_forgotten_before_there_is_a_plan_or_when_it_is_empty(tmp_path: Path) -> None:
    first = book(tmp_path / "known.json", Names(), Clock())
    first.met("nas", "192.0.2.20")
    first.turn()
    again = Book(tmp_path / "known.json")
    again.turn()
    assert again.addresses("nas.example") == NAS
    again.plan({})
    again.turn()
    assert again.addresses("nas.example") == NAS and again.mac("nas")


def test_a_dead_name_server_keeps_nobody_from_learning_and_those_without_an_address_come_first(
    tmp_path: Path,
) -> None:
    names, clock, asked = Names(), Clock(), list[str]()
    found = book(tmp_path / "known.json", names, clock)
    found.turn()

    def dead(name: str) -> tuple[Address, ...]:
        clock.now_s += 10
        asked.append(name)
        raise OSError("Temporary failure in name resolution")

    slow = Book(tmp_path / "known.json", look_up=dead, now=clock, table=lambda: {"192.0.2.20": "52:54:00:12:34:56"})
    slow.plan({"nas": "nas.example", **{f"s{n}": f"s{n}.example" for n in range(1000)}})
    slow.met("nas", "192.0.2.20")
    slow.turn()
    assert slow.mac("nas") and len(asked) == 1 and asked != ["nas.example"]


def test_addresses_in_another_order_are_no_news(tmp_path: Path) -> None:
    clock, changed = Clock(), list[str]()
    rows: list[Address] = [(socket.AF_INET, ("192.0.2.1",)), (socket.AF_INET, ("192.0.2.2",))]
    found = Book(tmp_path / "known.json", changed.append, look_up=lambda name: tuple(rows), now=clock)
    found.plan({"nas": "nas.example"})
    found.turn()
    rows.reverse()
    clock.now_s += 3601
    found.turn()
    assert changed == ["nas.example"]


def test_a_disk_that_comes_back_is_written_again(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "core"
    folder.write_text("in the way")
    found = book(folder / "known.json", Names(), clock)
    found.turn()
    folder.unlink()
    clock.now_s += 11
    found.turn()
    assert json.loads((folder / "known.json").read_text())["addresses"]["nas.example"]


def test_the_scope_of_a_link_local_address_is_not_looked_for_in_the_table(tmp_path: Path) -> None:
    changed: list[str] = []
    found = Book(tmp_path / "known.json", changed.append, table=lambda: {"fe80::1": "52:54:00:12:34:56"})
    found.plan({"nas": "fe80::1%lo"})
    found.met("nas", "fe80::1%lo")
    found.turn()
    assert found.mac("nas") == "52:54:00:12:34:56" and changed == ["nas"]


def test_a_disk_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    found = book(Path("/proc/nowhere/known.json"), Names(), Clock())
    found.turn()
    assert found.addresses("nas.example") == NAS


def row(address: bytes, mac: bytes, family: int = 2, state: int = 2) -> bytes:
    body = neighbours.MESSAGE.pack(family, 1, state, 0, 1)
    for kind, value in ((1, address), (2, mac)):
        body += neighbours.ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
    return neighbours.HEADER.pack(16 + len(body), neighbours.RTM_NEWNEIGH, 2, 1, 0) + body


MAC = bytes.fromhex("525400123456")


def test_the_neighbours_of_an_answer_are_read() -> None:
    data = row(bytes([192, 0, 2, 20]), MAC) + row(socket.inet_pton(socket.AF_INET6, "2001:db8::20"), MAC, family=10)
    data += row(bytes([192, 0, 2, 21]), b"\0" * 6) + row(bytes([192, 0, 2, 22]), MAC, state=0x20)
    rows, done = neighbours.parse(data + neighbours.HEADER.pack(20, 3, 2, 1, 0) + b"\0" * 4)
    assert rows == [("192.0.2.20", "52:54:00:12:34:56"), ("2001:db8::20", "52:54:00:12:34:56")] and done


@given(st.binary(max_size=200), st.integers(0, 80), st.binary(max_size=8))
def test_hostile_answers_of_a_kernel_are_left_out(data: bytes, cut: int, patch: bytes) -> None:
    good = row(bytes([192, 0, 2, 20]), MAC) * 2
    for text in (data, good[:cut], good[:cut] + patch + good[cut + len(patch) :]):
        rows, _ = neighbours.parse(text)
        assert len(rows) <= 1 + len(text) // 16


def test_the_real_table_can_be_read() -> None:
    assert all(len(mac) == 17 for mac in neighbours.table().values())


def test_the_magic_packet_is_six_ff_and_sixteen_times_the_mac() -> None:
    assert magic.packet("52-54-00-12-34-56") == b"\xff" * 6 + MAC * 16
    for wrong in ("", "52:54:00:12:34", "52:54:00:12:34:5g", "525400123456"):
        with pytest.raises(ValueError, match="not a MAC"):
            magic.packet(wrong)
        assert "not a MAC" in magic.send(wrong)


def test_a_neighbour_table_that_cannot_be_read_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def table() -> dict[str, str]:
        raise OSError("Address family not supported by protocol")

    found = Book(tmp_path / "known.json", table=table)
    found.plan({"nas": "192.0.2.20"})
    for _ in range(3):
        found.met("nas", "192.0.2.20")
        found.turn()
    assert found.mac("nas") == "" and caplog.text.count("no MAC is learned") == 1
