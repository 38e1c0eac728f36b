"""What an SNMP message is taken for because one like it was read before: the same as the readers say, or nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import test_usm as secured
from hypothesis import given
from hypothesis import strategies as st
from snmp_kit import UPS, request

from agent import ber, usm, v3
from agent.ber import Malformed
from tests.snmp_damage import mutated

NAMES = [f"{UPS}.2.1.0", f"{UPS}.4.4.1.2.{2**32 - 1}"]
PLAIN = [request(tag, *names, second=5) for tag in (ber.GET, ber.GETBULK) for names in (NAMES[:1], NAMES, NAMES * 6)]
LEVELS = [level | v3.REPORTABLE for level in (usm.AUTH_PRIV, usm.AUTH)]
PRIVATE = LEVELS[0]
OCTETS = (0, 1, 2, 3, 4, 5, 6, 0x20, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xA0, 0xA8, 0xFF)


def sealed(number: int, flags: int) -> bytes:
    scoped = secured.request()
    return v3.seal(number, flags, secured.ENGINE_ID, 7, 500, secured.OPS, b"ops", scoped, usm.Salts())


SEALED = [sealed(number, flags) for number in (5, 2**31 - 1) for flags in LEVELS]


def near(message: bytes) -> Iterator[bytes]:
    """Each octet of a message in turn is another; four in a row are; one is missing, one too many."""
    for at in range(len(message)):
        for octet in OCTETS:
            yield message[:at] + bytes((octet,)) + message[at + 1 :]
            yield message[:at] + bytes((octet,)) * 4 + message[at + 4 :]
        yield message[:at] + message[at + 1 :]
        yield message[:at] + b"\x00" + message[at:]


def read(data: bytes) -> tuple[ber.Header, ber.Pdu] | None:
    try:
        header = ber.read_header(data)
        return (header, ber.read_pdu(data, header.pdu_at)) if header.version != ber.V3 else None
    except Malformed:
        return None


class Plain:
    """Versions 1 and 2c, as the agent keeps them."""

    def __init__(self) -> None:
        self.kept: ber.Questions[ber.Header] = ber.Questions()

    def hears(self, data: bytes) -> bool:
        found, careful = self.kept.find(data), read(data)
        assert found is None or found == careful
        if careful is not None and found is None:
            self.kept.keep(data, careful[0].pdu_at, *careful)
        return found is not None


class Secured:
    """Version 3, but more is kept: also what has no right signature."""

    def __init__(self) -> None:
        self.kept = v3.Forms()

    def hears(self, data: bytes) -> bool:
        found = self.kept.find(data)
        try:
            careful = v3.read(data)
        except Malformed:
            careful = None
        assert found is None or found == careful
        if careful is not None and found is None:
            self.kept.keep(data, careful)
        return found is not None


KINDS: list[tuple[Callable[[], Plain | Secured], list[bytes]]] = [(Plain, PLAIN), (Secured, SEALED)]


@pytest.mark.parametrize(("kind", "messages"), KINDS)
def test_a_message_that_is_nearly_one_of_before_is_read_as_it_is(
    kind: Callable[[], Plain | Secured], messages: list[bytes]
) -> None:
    as_before = 0
    for message in messages:
        agent = kind()
        agent.hears(message)
        as_before += sum(agent.hears(data) for data in near(message))
    assert as_before > 50, "or this shows nothing"


@pytest.mark.parametrize(("kind", "messages"), KINDS)
@given(seed=st.integers(0, 2**32))
def test_damaged_messages_one_after_the_other_are_read_as_they_are(
    kind: Callable[[], Plain | Secured], messages: list[bytes], seed: int
) -> None:
    chance, agent = random.Random(seed), kind()
    heard = list(messages)
    for _ in range(60):
        heard.append(mutated(chance, chance.choice(heard)) or b"\x30")
        agent.hears(heard[-1])


@given(st.sampled_from([1, 2, 4]), st.integers(-(2**31), 2**31 - 1), st.lists(st.sampled_from(NAMES), max_size=6))
def test_a_question_of_before_is_found_whatever_its_request_id_is(size: int, number: int, names: list[str]) -> None:
    agent = Plain()
    number >>= 32 - 8 * size
    first, again = ({1: 77, 2: 7777, 4: 77777777}[size], number)
    agent.hears(request(ber.GET, *names, request_id=first))
    assert agent.hears(request(ber.GET, *names, request_id=again)) or len(ber.integer(again)) != size + 2


def test_a_message_of_before_is_found_with_another_id_time_signature_and_secret() -> None:
    agent = Secured()
    agent.hears(sealed(1_000_000, PRIVATE))
    for number, time_s in ((2_000_000, 300), (8_000_000, 700)):
        scoped = secured.request()
        again = v3.seal(number, PRIVATE, secured.ENGINE_ID, 7, time_s, secured.OPS, b"ops", scoped, usm.Salts())
        assert agent.hears(again)


def test_nothing_is_kept_of_who_has_no_key() -> None:
    responder = v3.Responder(secured.ENGINE, {"ops": secured.replace(secured.OPS, level=usm.NO_AUTH)})

    def hears(data: bytes) -> None:
        responder.answer(data, secured.NOW_S, lambda _: True, 1472, secured.made)

    forged = bytearray(secured.sent())
    forged[v3.read(bytes(forged)).signature_at] ^= 1
    for data in (bytes(forged), secured.sent(level=usm.NO_AUTH), secured.sent(time_s=900)):
        hears(data)
        assert responder.read_again(data) is None and not responder._questions._kept
    hears(secured.sent())
    assert responder.read_again(secured.sent()) is not None and responder._questions._kept


@pytest.mark.parametrize("in_five_octets", ["msgID", "time"])
def test_of_a_number_that_another_in_its_place_could_be_too_great_for_no_form_is_kept(in_five_octets: str) -> None:
    plain = sealed(1_000_000, PRIVATE)
    message, forms = v3.read(plain), v3.Forms()
    forms.keep(plain, message)
    assert forms.find(plain) is not None
    at, stop = message.places[0:2] if in_five_octets == "msgID" else message.places[2:4]
    grown = 5 - (stop - at)
    data = bytearray(plain[: at - 1] + b"\x05" + bytes(grown) + plain[at:])
    start, end = ber.body(plain, 0, len(plain), ber.SEQUENCE)
    header_at = ber.number(plain, start, end)[1]
    security_at = ber.body(plain, header_at, end, ber.SEQUENCE)[1]
    around = [header_at] if in_five_octets == "msgID" else [security_at, security_at + 2]
    for place in (*around, start - 2 if plain[1] < 128 else 1):  # the lengths that grow with it
        data[place + 1] += grown
    again = v3.read(bytes(data))
    assert again == message._replace(places=again.places, signature_at=again.signature_at)
    forms = v3.Forms()
    forms.keep(bytes(data), again)
    assert forms.find(bytes(data)) is None


def test_what_is_kept_is_bounded() -> None:
    plain, forms = Plain(), v3.Forms()
    for number in range(3 * ber.REMEMBERED):
        plain.hears(request(ber.GET, f"{UPS}.2.{number}"))
        data = sealed(number + 1, PRIVATE) + bytes(number)
        forms.keep(data, v3.read(data[: len(data) - number])._replace(places=(0,) * 9 + (len(data),)))
    assert len(plain.kept._kept) == ber.REMEMBERED
    assert len(forms._kept) <= v3.FORMS_LIMIT
    plain.hears(long := request(ber.GET, *NAMES * 12))
    assert not plain.hears(long), "a long one costs memory, and is rare"
