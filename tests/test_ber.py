"""The SNMP codec: real captured messages, the shortest forms on writing, refusal of everything else on reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import ber

# captured: `snmpget -v2c -c public HOST .1.3.6.1.2.1.1.3.0` of net-snmp 5.9.3
NET_SNMP_GET = bytes.fromhex("302902010104067075626c6963a01c0204341aa831020100020100300e300c06082b060102010103000500")


def test_a_request_of_net_snmp_is_read() -> None:
    header = ber.read_header(NET_SNMP_GET)
    assert (header.version, header.community) == (ber.V2C, b"public")
    pdu = ber.read_pdu(NET_SNMP_GET, header.pdu_at)
    assert (pdu.tag, pdu.request_id, pdu.first, pdu.second) == (ber.GET, bytes.fromhex("0204341aa831"), 0, 0)
    assert [ber.arcs(n) for n in pdu.names] == [(1, 3, 6, 1, 2, 1, 1, 3, 0)]


def test_what_was_read_is_written_the_same() -> None:
    header = ber.read_header(NET_SNMP_GET)
    pdu = ber.read_pdu(NET_SNMP_GET, header.pdu_at)
    assert ber.message(header.prefix, pdu.tag, pdu.request_id, 0, 0, pdu.bindings) == NET_SNMP_GET


def test_lengths_longer_than_needed_are_read() -> None:
    wire = """
        30 84 00000029  02 01 01  04 82 0003 616263
            a0 82 001b  02 01 07  02 81 01 00  02 01 00
                30 82 000d  30 82 0009  06 82 0003 2b0601  05 00
    """
    data = bytes.fromhex(wire)
    header = ber.read_header(data)
    assert header.community == b"abc"
    assert [ber.arcs(n) for n in ber.read_pdu(data, header.pdu_at).names] == [(1, 3, 6, 1)]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (0, "020100"),
        (127, "02017f"),
        (128, "02020080"),
        (-1, "0201ff"),
        (-128, "020180"),
        (-129, "0202ff7f"),
        (2**31 - 1, "02047fffffff"),
        (-(2**31), "020480000000"),
    ],
)
def test_integers_have_the_fewest_octets(value: int, wire: str) -> None:
    assert ber.integer(value).hex() == wire


def test_an_unsigned_value_with_the_high_bit_has_a_leading_zero() -> None:
    assert ber.integer(2**32 - 1, ber.COUNTER32).hex() == "410500ffffffff"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 1472, 65535])
def test_lengths_are_written_in_their_shortest_form(size: int) -> None:
    data = ber.tlv(4, bytes(size))
    assert ber.head(data, 0, len(data)) == (4, len(data) - size, len(data))
    assert len(data) - size == (2 if size < 128 else 3 if size < 256 else 4)


@given(st.integers(-(2**39), 2**39 - 1))
def test_integers_come_back(value: int) -> None:
    data = ber.integer(value)
    assert ber.number(data, 0, len(data)) == (value, len(data))


names = st.one_of(
    st.tuples(st.integers(0, 1), st.integers(0, 39)), st.tuples(st.just(2), st.integers(0, 2**32 - 1 - 80))
).flatmap(lambda root: st.lists(st.integers(0, 2**32 - 1), max_size=126).map(lambda rest: (*root, *rest)))


@given(names)
def test_names_come_back(name: ber.Oid) -> None:
    assert ber.arcs(ber.oid_body(name)) == name


@pytest.mark.parametrize(
    "body",
    [
        b"",  # none
        b"\x2b\x86",  # ends within an arc
        b"\x2b\x80\x01",  # padded
        b"\x2b\x90\x80\x80\x80\x00",  # 2**32
        b"\x2b" + b"\x01" * 127,  # 129 arcs
        b"\x2b" + b"\xff" * 60000 + b"\x01",  # one endless arc
        b"\x2b" * 60000,
    ],
    ids=["none", "cut", "padded", "over-32-bits", "too-many", "one-endless", "60000"],
)
def test_impossible_names_are_refused(body: bytes) -> None:
    with pytest.raises(ber.Malformed):
        ber.arcs(body)


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "30",
        "3080020101",  # indefinite length
        "3085000000000902010104017a",  # five octets of length
        "30ff",
        "3003020101",  # no community
        "300602010104017a00",  # an octet behind the message
        "31060201010401 7a",  # no SEQUENCE
        "30060301010401 7a",  # the version is no INTEGER
        "30050200 04017a",  # an INTEGER without octets
        "300b0206010000000001 04017a",  # an INTEGER of six octets
        "300602010104057a",  # the community reaches beyond the message
    ],
)
def test_a_malformed_head_is_refused(wire: str) -> None:
    with pytest.raises(ber.Malformed):
        ber.read_header(bytes.fromhex(wire.replace(" ", "")))


def pdu_of(bindings: bytes, numbers: bytes = bytes.fromhex("020101020100020100"), tag: int = ber.GET) -> bytes:
    return ber.tlv(tag, numbers + ber.tlv(ber.SEQUENCE, bindings))


NAME = bytes.fromhex("06032b0601")
GOOD = ber.tlv(ber.SEQUENCE, NAME + b"\x05\x00")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pdu_of(ber.tlv(0x30, NAME)),  # no value
        pdu_of(ber.tlv(0x30, NAME + b"\x05\x00\x00")),  # something behind the value
        pdu_of(ber.tlv(0x30, NAME + b"\x04\x05abc")),  # the value reaches beyond the binding
        pdu_of(ber.tlv(0x31, NAME + b"\x05\x00")),
        pdu_of(ber.tlv(0x30, b"\x05\x00" + NAME)),  # value before name
        pdu_of(b"", numbers=bytes.fromhex("0208000000000000000102010002 0100".replace(" ", ""))),
        pdu_of(b"", numbers=b"\x02\x01\x01\x02\x01\x00"),  # no error-index
        pdu_of(b"", tag=0xA4),  # trap of version 1
        pdu_of(b"", tag=0x30),
        pdu_of(b"", tag=0xAF),
        pdu_of(b"") + b"\x00",
        b"\xa0\x0c\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x00\x00",  # an octet behind the bindings
        ber.tlv(ber.GET, bytes.fromhex("0201010201000201003000") + GOOD),  # a binding behind the bindings
        ber.tlv(ber.GET, bytes.fromhex("0201010201000201003009")) + GOOD,  # the bindings reach beyond the PDU
    ],
)
def test_a_malformed_pdu_is_refused(data: bytes) -> None:
    with pytest.raises(ber.Malformed):
        ber.read_pdu(data, 0)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        header = ber.read_header(data)
        ber.read_pdu(data, header.pdu_at)
    except ber.Malformed:
        pass
    try:
        assert ber.oid_body(ber.arcs(data)) == data
    except ber.Malformed:
        pass
