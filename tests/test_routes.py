"""Which interface leads to an address, and whether what is sent over it leaves."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snmp_kit import Net

from agent import routes
from agent.netif import Interfaces

#: recorded from Linux 6.18: the answers for 192.0.2.9, which is behind interface 3, for ::1, and for 198.51.100.1, to
#: which there is no route
ANSWER = bytes.fromhex(
    "6800000018000000010000002559000002200000fe0000010002000008000f00fe00000008000100c0000209080004000300000008000700"
    "c0000201080019000000000024000c000200000000000000000000000000000000000000000000000000000000000000"
)
ANSWER_V6 = bytes.fromhex(
    "9c0000001800000001000000255900000a808000ff0200020000000008000f00ff0000001400010000000000000000000000000000000001"
    "140002000000000000000000000000000000000014000700000000000000000000000000000000010800060000000000080004000100000024"
    "000c0002000000000000000000000000000000000000000000000000000000000000000500140000000000"
)
NO_ROUTE = bytes.fromhex(
    "380000000200000001000000255900009bffffff240000001a000100010000000000000002200000000000000000000008000100c6336401"
)


def test_the_way_to_this_machine_is_its_loopback() -> None:
    assert routes.interface("127.0.0.1") == socket.if_nametoindex("lo")


def test_a_scoped_address_names_its_interface() -> None:
    assert routes.interface("fe80::1%lo") == socket.if_nametoindex("lo") == 1
    assert routes.interface("fe80::1%1") == 1


def test_the_interface_of_an_answer_is_read() -> None:
    assert routes.parse(ANSWER) == 3 and routes.parse(ANSWER_V6) == 1


def test_no_route_is_what_the_kernel_says() -> None:
    with pytest.raises(OSError, match="unreachable") as e:
        routes.parse(NO_ROUTE)
    assert e.value.errno == errno.ENETUNREACH


@given(st.binary(max_size=120) | st.integers(0, len(ANSWER)).map(lambda cut: ANSWER[:cut]))
def test_an_answer_that_makes_no_sense_is_an_error_and_nothing_else(data: bytes) -> None:
    try:
        assert isinstance(routes.parse(data), int)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("operstate", "carrier", "leaves"),
    [
        ("up", "1", True), ("up", "0", False), ("unknown", "1", True), ("unknown", "0", False), ("", "", True),
        ("down", "0", False), ("lowerlayerdown", "0", False), ("dormant", "1", False), ("notpresent", "0", False),
    ],
)  # fmt: skip
def test_without_a_carrier_nothing_leaves(tmp_path: Path, operstate: str, carrier: str, leaves: bool) -> None:
    net = Net(tmp_path)
    net.set("lo", operstate=operstate, carrier=carrier, ifindex=str(socket.if_nametoindex("lo")))
    assert Interfaces(str(tmp_path)).leads_to("127.0.0.1") is leaves


def test_what_cannot_be_known_hinders_nothing(tmp_path: Path) -> None:
    nowhere = Interfaces(str(tmp_path / "none"))
    assert nowhere.leads_to("127.0.0.1") and nowhere.leads_to("fe80::1%no-such-interface")
