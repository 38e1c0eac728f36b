"""Version 3: the keys of the RFCs, and what a message gets that is old, forged, foreign, or too little secured."""

from __future__ import annotations

import hashlib
import hmac
import warnings
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import ber, engineid, mib, usm, v3
from agent.ber import Header, Malformed, Pdu
from agent.model import ConfigError

ENGINE_ID = bytes.fromhex("8000000005010203040506070809")
#: RFC 3414 A.3.1 and A.3.2
OF_THE_RFC = bytes.fromhex("000000000000000000000002")
SIGN, CRYPT = "the-signing-phrase", "the-secret-phrase"


def user(
    auth: str = "sha256", priv: str = "aes128", level: int = usm.AUTH_PRIV, engine: bytes = ENGINE_ID
) -> usm.User:
    size = usm.PRIVS[priv].key_bytes if priv else 0
    return usm.User(
        "ops", level, auth, usm.key(SIGN, auth, engine), priv, usm.key(CRYPT, auth, engine, size) if priv else b""
    )


KEYS = {(auth, priv): user(auth, priv) for auth in usm.AUTHS for priv in usm.PRIVS}
OPS = KEYS["sha256", "aes128"]
ENGINE = mib.Engine(ENGINE_ID, 7, 1000.0)
NOW_S = 1500.0
SIZE = ber.integer(v3.SIZE_LIMIT)  # msgMaxSize
SYS_UP_TIME = ber.oid_body((1, 3, 6, 1, 2, 1, 1, 3, 0))


def request(tag: int = ber.GET, context: bytes = ENGINE_ID, name: bytes = b"") -> bytes:
    body = ber.binding(ber.tlv(ber.OBJECT_ID, SYS_UP_TIME), b"\x05\x00")
    prefix = ber.tlv(ber.OCTET_STRING, context) + ber.tlv(ber.OCTET_STRING, name)
    return ber.message(prefix, tag, ber.integer(77), 0, 0, body)


def sent(
    who: usm.User = OPS, level: int = usm.AUTH_PRIV, *, boots: int = 7, time_s: int = 500, engine: bytes = ENGINE_ID,
    scoped: bytes | None = None, name: bytes | None = None, reportable: bool = True,
) -> bytes:  # fmt: skip
    flags = level | (v3.REPORTABLE if reportable else 0)
    called = who.name.encode() if name is None else name
    return v3.seal(4711, flags, engine, boots, time_s, who, called, scoped or request(), usm.Salts())


def made(header: Header, pdu: Pdu, room: int, _: usm.User) -> bytes:
    body = ber.binding(ber.tlv(ber.OBJECT_ID, SYS_UP_TIME), ber.integer(room, ber.TIMETICKS))
    return ber.message(header.prefix, ber.RESPONSE, pdu.request_id, 0, 0, body)


def asked(
    data: bytes, *, who: usm.User = OPS, engine: mib.Engine = ENGINE, allowed: bool = True, msg_id: int = 4711
) -> v3.Message:
    """The answer's clear parts, its scoped PDU decrypted."""
    responder = v3.Responder(engine, {who.name: who})
    answer = v3.read(responder.answer(data, NOW_S, lambda name: allowed, 1472, made))
    assert answer.msg_id == msg_id
    if answer.level == usm.AUTH_PRIV:
        return answer._replace(scoped=usm.decrypt(who, answer.boots, answer.time_s, answer.privacy, answer.scoped))
    return answer


def reported(answer: v3.Message) -> tuple[str, int]:
    """The counter that a Report names, and its level."""
    pdu = v3.read_scoped(answer.scoped)[3]
    assert pdu.tag == ber.REPORT and len(pdu.names) == 1
    names = {ber.oid_body((*oid, 0)): name for name, oid in v3.REPORTS.items()}
    return names[pdu.names[0]], answer.level


# --- encryption -------------------------------------------------------------------------------------------------


@given(
    st.sampled_from([16, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=400)), min_size=1, max_size=8),
)
def test_many_messages_with_one_key_are_encrypted_as_cfb_says(key: bytes, messages: list[tuple[int, bytes]]) -> None:
    who = usm.User("ops", usm.AUTH_PRIV, "sha256", bytes(32), f"aes{len(key) * 8}", key)
    for salt, data in messages:
        vector = (7).to_bytes(4, "big") + (500).to_bytes(4, "big") + salt.to_bytes(8, "big")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer releases of the library want CFB to be had from elsewhere
            way = Cipher(algorithms.AES(key), modes.CFB(vector)).encryptor()
        encrypted, params = usm.encrypt(who, 7, 500, salt, data)
        assert (encrypted, params) == (way.update(data), vector[8:])
        assert usm.decrypt(who, 7, 500, params, encrypted) == data


@pytest.mark.parametrize("auth", usm.AUTHS)
@given(st.binary(max_size=300))
def test_a_signature_is_the_hmac_of_the_standard_library(auth: str, message: bytes) -> None:
    who = KEYS[auth, "aes128"]
    way = usm.AUTHS[auth]
    assert who.sign(message) == hmac.digest(who.auth_key, message, way.digest)[: way.mac_bytes]


# --- keys -------------------------------------------------------------------------------------------------------


def test_the_keys_of_rfc_3414() -> None:
    assert usm.key("maplesyrup", "md5", OF_THE_RFC).hex() == "526f5eed9fcce26f8964c2930787d82b"
    assert usm.key("maplesyrup", "sha1", OF_THE_RFC).hex() == "6695febc9288e36282235fc7151f128497b38f3f"


def test_so_much_of_an_hmac_is_sent_as_the_rfcs_say() -> None:
    #: RFC 3414 sections 6 and 7, RFC 7860 section 4
    octets = {"md5": 12, "sha1": 12, "sha224": 16, "sha256": 24, "sha384": 32, "sha512": 48}
    assert {auth: len(KEYS[auth, "aes128"].sign(b"")) for auth in usm.AUTHS} == octets


@pytest.mark.parametrize("auth", ["sha1", "sha224", "md5"])
def test_a_key_is_lengthened_by_hashes_of_itself(auth: str) -> None:
    short = usm.key(CRYPT, auth, ENGINE_ID)
    assert usm.key(CRYPT, auth, ENGINE_ID, 32) == (short + hashlib.new(auth, short).digest())[:32]


def test_a_key_is_cut_to_what_is_wanted() -> None:
    assert usm.key(CRYPT, "sha256", ENGINE_ID, 16) == usm.key(CRYPT, "sha256", ENGINE_ID)[:16]


@pytest.mark.parametrize("phrase", ["", "seven77", "x" * 257])
def test_a_pass_phrase_has_eight_to_256_characters(phrase: str) -> None:
    with pytest.raises(ConfigError, match="8 to 256"):
        usm.key(phrase, "sha256", ENGINE_ID)


# --- the answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("auth", "priv"), KEYS)
def test_every_pair_of_ways_is_answered_in_kind(auth: str, priv: str) -> None:
    answer = asked(sent(KEYS[auth, priv]), who=KEYS[auth, priv])
    context, name, _, pdu = v3.read_scoped(answer.scoped)
    assert answer.level == usm.AUTH_PRIV and answer.user == b"ops" and (answer.boots, answer.time_s) == (7, 500)
    assert (context, name, pdu.tag, pdu.request_id) == (ENGINE_ID, b"", ber.RESPONSE, ber.integer(77))


def test_an_empty_engine_is_a_discovery() -> None:
    answer = asked(sent(level=usm.NO_AUTH, engine=b"", boots=0, time_s=0, name=b""))
    assert reported(answer) == ("usmStatsUnknownEngineIDs", usm.NO_AUTH)
    assert (answer.engine_id, answer.boots, answer.time_s) == (ENGINE_ID, 7, 500)


def other_key() -> usm.User:
    return replace(OPS, auth_key=OPS.auth_key[::-1])


def other_secret() -> usm.User:
    return replace(OPS, priv_key=OPS.priv_key[::-1])


ONLY_SIGNS = replace(OPS, priv="", priv_key=b"", level=usm.AUTH)


@pytest.mark.parametrize(
    ("data", "who", "name", "level"),
    [
        (sent(name=b"nobody"), OPS, "usmStatsUnknownUserNames", usm.NO_AUTH),
        (sent(), ONLY_SIGNS, "usmStatsUnsupportedSecLevels", usm.NO_AUTH),
        (sent(other_key()), OPS, "usmStatsWrongDigests", usm.NO_AUTH),
        (sent(other_secret()), OPS, "usmStatsDecryptionErrors", usm.NO_AUTH),
        (sent(boots=6), OPS, "usmStatsNotInTimeWindows", usm.AUTH),
        (sent(boots=8), OPS, "usmStatsNotInTimeWindows", usm.AUTH),
        (sent(time_s=349), OPS, "usmStatsNotInTimeWindows", usm.AUTH),
        (sent(time_s=651), OPS, "usmStatsNotInTimeWindows", usm.AUTH),
        (sent(scoped=request(name=b"vlan-1")), OPS, "snmpUnknownContexts", usm.AUTH_PRIV),
        (sent(scoped=request(context=b"another")), OPS, "snmpUnknownPDUHandlers", usm.AUTH_PRIV),
    ],
)  # fmt: skip
def test_what_is_wrong_gets_the_report_of_the_rfc(data: bytes, who: usm.User, name: str, level: int) -> None:
    assert reported(asked(data, who=who)) == (name, level)


@pytest.mark.parametrize(
    ("data", "request_id"),
    [
        (sent(level=usm.NO_AUTH, engine=b"", boots=0, time_s=0, name=b""), 77),
        (sent(level=usm.NO_AUTH, engine=b"", scoped=ber.tlv(ber.SEQUENCE, b"\x05\x00")), 0),
        (sent(level=usm.AUTH, name=b"nobody"), 77),
        (sent(level=usm.AUTH, boots=6), 77),
        (sent(scoped=request(name=b"vlan-1")), 77),
        (sent(scoped=request(context=b"another")), 77),
        (sent(name=b"nobody"), 0),  # encrypted: for whom, nobody knows
        (sent(boots=6), 0),
    ],
)
def test_a_report_has_the_request_id_as_far_as_that_can_be_read(data: bytes, request_id: int) -> None:
    pdu = v3.read_scoped(asked(data).scoped)[3]
    assert (pdu.tag, pdu.request_id) == (ber.REPORT, ber.integer(request_id))


@pytest.mark.parametrize("octets", [usm.NAME_LIMIT, usm.NAME_LIMIT + 1, 1200])
def test_a_name_that_is_longer_than_any_user_has_is_malformed(octets: int) -> None:
    data = sent(level=usm.NO_AUTH, name=b"x" * octets)
    if octets <= usm.NAME_LIMIT:
        assert reported(asked(data))[0] == "usmStatsUnknownUserNames"
        return
    with pytest.raises(Malformed, match="user"):
        asked(data)


@pytest.mark.parametrize("time_s", [350, 650])
def test_the_time_window_is_150_seconds_to_both_sides(time_s: int) -> None:
    assert v3.read_scoped(asked(sent(time_s=time_s)).scoped)[3].tag == ber.RESPONSE


def test_a_replayed_message_of_before_the_restart_is_refused() -> None:
    recorded = sent()
    assert reported(asked(recorded, engine=mib.Engine(ENGINE_ID, 8, 1000.0)))[0] == "usmStatsNotInTimeWindows"


@pytest.mark.parametrize("tag", [ber.GET, ber.GETNEXT, ber.GETBULK, ber.SET])
@pytest.mark.parametrize("level", [usm.NO_AUTH, usm.AUTH])
def test_who_must_encrypt_and_does_not_gets_an_authorization_error_and_no_value(level: int, tag: int) -> None:
    answer = asked(sent(level=level, scoped=request(tag)))
    pdu = v3.read_scoped(answer.scoped)[3]
    assert (answer.level, pdu.tag, pdu.first, pdu.second) == (level, ber.RESPONSE, v3.AUTHORIZATION_ERROR, 0)
    assert pdu.bindings == ber.binding(ber.tlv(ber.OBJECT_ID, SYS_UP_TIME), b"\x05\x00")


def test_a_user_from_a_foreign_network_is_nobody() -> None:
    assert reported(asked(sent(), allowed=False))[0] == "usmStatsUnknownUserNames"


def test_an_engine_at_its_last_boot_answers_nobody() -> None:
    last = mib.Engine(ENGINE_ID, v3.BOOTS_LIMIT, 1000.0)
    assert reported(asked(sent(boots=v3.BOOTS_LIMIT), engine=last))[0] == "usmStatsNotInTimeWindows"


@pytest.mark.parametrize(
    "data",
    [
        sent(name=b"nobody", reportable=False),
        sent(scoped=request(tag=ber.REPORT)),
        sent(scoped=request(tag=ber.RESPONSE)),
        v3.seal(1, 2 | v3.REPORTABLE, ENGINE_ID, 7, 500, OPS, b"ops", request(), usm.Salts()),
        sent().replace(SIZE, ber.tlv(ber.INTEGER, (483).to_bytes(len(SIZE) - 2, "big")), 1),
    ],
    ids=["no report wanted", "a report", "a response", "encrypted but not signed", "another size"],
)
def test_what_is_no_request_is_dropped(data: bytes) -> None:
    with pytest.raises((v3.Dropped, Malformed)):
        asked(data)


def test_no_two_messages_are_encrypted_with_the_same_salt() -> None:
    salts = usm.Salts()
    assert len({salts.take() for _ in range(1000)}) == 1000
    begun = {usm.Salts().take() for _ in range(50)}
    assert len(begun) == 50 and max(begun) > 2**60, "each start begins somewhere else"


@pytest.mark.parametrize("priv", usm.PRIVS)
def test_a_salt_makes_other_octets_of_the_same_text(priv: str) -> None:
    who = KEYS["sha256", priv]
    found = [usm.encrypt(who, 7, 500, salt, bytes(16)) for salt in (1, 2, 2**32 - 1)]
    assert len({params for _, params in found}) == len({data for data, _ in found}) == 3
    if priv == "des":  # RFC 3414 section 8.1.1.1: boots, and a number of our own
        assert [params.hex() for _, params in found] == ["0000000700000001", "0000000700000002", "00000007ffffffff"]


@pytest.mark.parametrize("at", range(len(sent())))
def test_no_changed_octet_is_believed(at: int) -> None:
    data = sent()
    changed = data[:at] + bytes((data[at] ^ 0x01,)) + data[at + 1 :]
    try:
        answer = asked(changed, msg_id=v3.read(changed).msg_id)
    except (v3.Dropped, Malformed):
        return
    assert v3.read_scoped(answer.scoped)[3].tag == ber.REPORT


def signed(who: usm.User, octets: int, size: bytes = SIZE) -> bytes:
    """A message with so much of the right signature; beyond that the rest of the HMAC, and zeros."""
    header = ber.integer(4711) + size + ber.tlv(ber.OCTET_STRING, b"\x05") + ber.integer(v3.MODEL)
    engine = ber.tlv(ber.OCTET_STRING, ENGINE_ID) + ber.integer(7) + ber.integer(500)

    def message(signature: bytes) -> bytes:
        parts = (
            ber.tlv(ber.OCTET_STRING, b"ops") + ber.tlv(ber.OCTET_STRING, signature) + ber.tlv(ber.OCTET_STRING, b"")
        )
        security = ber.tlv(ber.OCTET_STRING, ber.tlv(ber.SEQUENCE, engine + parts))
        return ber.tlv(ber.SEQUENCE, ber.integer(3) + ber.tlv(ber.SEQUENCE, header) + security + request())

    digest = hmac.digest(who.auth_key, message(bytes(octets)), usm.AUTHS[who.auth].digest)
    return message(digest.ljust(octets, b"\0")[:octets])


@pytest.mark.parametrize("auth", usm.AUTHS)
def test_only_a_whole_signature_is_believed(auth: str) -> None:
    who, whole = replace(KEYS[auth, "aes128"], level=usm.AUTH), usm.AUTHS[auth].mac_bytes
    for octets in range(66):
        tag = v3.read_scoped(asked(signed(who, octets), who=who).scoped)[3].tag
        assert tag == (ber.RESPONSE if octets == whole else ber.REPORT), octets


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.tuples(st.integers(0, 140), st.binary(min_size=1, max_size=6)))
def test_no_octets_do_more_than_being_malformed(junk: bytes | tuple[int, bytes]) -> None:
    data = sent()
    if isinstance(junk, bytes):
        data = junk
    else:
        data = data[: junk[0]] + junk[1] + data[junk[0] + len(junk[1]) :]
    responder = v3.Responder(ENGINE, {"ops": OPS})
    try:
        responder.answer(data, NOW_S, lambda name: True, 1472, made)
    except (v3.Dropped, Malformed):
        pass


@pytest.mark.parametrize("level", [usm.AUTH, usm.AUTH_PRIV])
def test_nothing_is_opened_that_was_changed_on_its_way(level: int) -> None:
    data = sent(level=level)
    assert v3.opened(data, v3.read(data), OPS) == request()
    for at in range(len(data)):
        changed = data[:at] + bytes((data[at] ^ 0x01,)) + data[at + 1 :]
        with pytest.raises((usm.Unreadable, Malformed)):
            v3.opened(changed, v3.read(changed), OPS)


def test_an_answer_is_no_longer_than_its_asker_reads() -> None:
    who = replace(OPS, level=usm.AUTH)

    def room(size: int) -> int:
        answer = asked(signed(who, 24, ber.integer(size)), who=who)
        ((_, _, body),) = ber.values(v3.read_scoped(answer.scoped)[3].bindings)
        return int.from_bytes(body, "big")

    assert 0 < room(v3.SIZE_LEAST) < v3.SIZE_LEAST and room(600) == room(v3.SIZE_LEAST) + 600 - v3.SIZE_LEAST
    assert room(65507) == room(1472) > room(1471), "and than fits one frame"


# --- what is kept -----------------------------------------------------------------------------------------------


def test_the_engine_is_the_same_for_ever_and_counts_its_starts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    first, boots = engineid.started(tmp_path)
    assert boots == 1 and 5 <= len(first) <= 32 and first[0] & 0x80
    assert engineid.started(tmp_path) == (first, 2)
    assert engineid.engine_id(tmp_path) == first
    assert (tmp_path / "engine.json").stat().st_mode & 0o777 == 0o600


ENGINES = ["", "{}", '{"engine_id": "80", "boots": 1}', '{"engine_id": "8000000005aa", "boots": -1}']


@pytest.mark.parametrize("text", ENGINES)
def test_a_damaged_engine_is_said_and_never_made_anew(tmp_path, text: str) -> None:  # type: ignore[no-untyped-def]
    engineid.path(tmp_path).write_text(text)
    engineid.path(tmp_path).chmod(0o600)
    with pytest.raises(ConfigError, match="damaged"):
        engineid.started(tmp_path)
    assert engineid.path(tmp_path).read_text() == text


def test_an_engine_that_started_too_often_stays_off(tmp_path) -> None:  # type: ignore[no-untyped-def]
    engineid.path(tmp_path).write_text('{"engine_id": "8000000005aabbcc", "boots": 2147483645}')
    engineid.path(tmp_path).chmod(0o600)
    last = mib.Engine(*engineid.started(tmp_path), 1000.0)
    assert last.boots == 2**31 - 2, "the last one that answers"
    who = user(engine=last.id)
    context = request(context=last.id)
    answer = asked(sent(who, boots=last.boots, engine=last.id, scoped=context), who=who, engine=last)
    assert v3.read_scoped(answer.scoped)[3].tag == ber.RESPONSE
    kept = engineid.path(tmp_path).read_text()
    for text in (kept, kept.replace("646", "647")):
        engineid.path(tmp_path).write_text(text)
        with pytest.raises(ConfigError, match="too often; remove it"):
            engineid.started(tmp_path)
        assert engineid.path(tmp_path).read_text() == text


def test_keys_are_kept_without_pass_phrases_and_are_good_for_one_engine_only(tmp_path) -> None:  # type: ignore[no-untyped-def]
    row = engineid.made(ENGINE_ID, "sha256", SIGN, "aes128", CRYPT)
    engineid.write_keys(tmp_path, {"ops": row})
    text = (tmp_path / "users.json").read_text()
    assert SIGN not in text and CRYPT not in text
    kept = engineid.keys(tmp_path)["ops"]
    assert engineid.user("ops", "auth-priv", False, kept, ENGINE_ID, False) == OPS
    with pytest.raises(ConfigError, match="not for this agent"):
        engineid.user("ops", "auth-priv", False, kept, ENGINE_ID + b"x", False)
    with pytest.raises(ConfigError, match="no key to encrypt"):
        engineid.user("ops", "auth-priv", False, engineid.made(ENGINE_ID, "sha256", SIGN), ENGINE_ID, False)
    with pytest.raises(ConfigError, match="allow_weak"):
        engineid.user("ops", "auth", False, engineid.made(ENGINE_ID, "md5", SIGN), ENGINE_ID, False)
    assert engineid.user("ops", "auth", False, engineid.made(ENGINE_ID, "md5", SIGN), ENGINE_ID, True).auth == "md5"
