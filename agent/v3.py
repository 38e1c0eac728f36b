"""Answers SNMP version 3: who sends it, is it fresh, may he; everything else is the answer of version 2c. Pure.

Sources: RFC 3412 sections 6 and 7.2 (message, dispatching), RFC 3414 section 3.2 (the order of the checks), RFC 3413
section 3.2 (authorizationError), RFC 3416 (Report-PDU).

    SEQUENCE { 3, SEQUENCE { msgID, msgMaxSize, msgFlags, msgSecurityModel = 3 },
      OCTET STRING { SEQUENCE { engineID, engineBoots, engineTime, userName, signature, privacy parameters } },
      SEQUENCE { contextEngineID, contextName, PDU }      or the same, encrypted, as OCTET STRING }

What is not answered by the rules is dropped and counted. Nothing of a message is believed before its signature is
right, but for what a Report needs.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from . import ber, usm
from .ber import COUNTER32, INTEGER, OCTET_STRING, SEQUENCE, Header, Malformed, Oid, Pdu
from .mib import Engine
from .pdu import Later
from .usm import AUTH, AUTH_PRIV, NO_AUTH, User

MODEL = 3  # USM, in msgSecurityModel
REPORTABLE = 4  # in msgFlags
TIME_WINDOW_S = 150
BOOTS_LIMIT = 2**31 - 1  # RFC 3414 section 2.2.2: an engine that came so far answers nobody; of its time, too
FORMS_LIMIT, MANAGERS_LIMIT = 128, 4  # lengths of which forms are kept, and forms of each
SIZE_LEAST = 484  # msgMaxSize (RFC 3412)
SIZE_LIMIT = 1472  # ours: what fits an Ethernet frame; nobody asks for so much at once that it needs fragments
AUTHORIZATION_ERROR = 16

USM_STATS: Oid = (1, 3, 6, 1, 6, 3, 15, 1, 1)
MPD_STATS: Oid = (1, 3, 6, 1, 6, 3, 11, 2, 1)
CONTEXTS: Oid = (1, 3, 6, 1, 6, 3, 12, 1)
#: what is counted and, but for the first two, reported: name -> object
REPORTS: Mapping[str, Oid] = {
    "snmpUnknownSecurityModels": (*MPD_STATS, 1),
    "snmpInvalidMsgs": (*MPD_STATS, 2),
    "snmpUnknownPDUHandlers": (*MPD_STATS, 3),
    "usmStatsUnsupportedSecLevels": (*USM_STATS, 1),
    "usmStatsNotInTimeWindows": (*USM_STATS, 2),
    "usmStatsUnknownUserNames": (*USM_STATS, 3),
    "usmStatsUnknownEngineIDs": (*USM_STATS, 4),
    "usmStatsWrongDigests": (*USM_STATS, 5),
    "usmStatsDecryptionErrors": (*USM_STATS, 6),
    "snmpUnknownContexts": (*CONTEXTS, 5),
}
_REPORTED = {name: ber.oid((*oid, 0)) for name, oid in REPORTS.items()}


class Message(NamedTuple):
    """A version 3 message as far as it is in clear."""

    msg_id: int
    max_size: int
    flags: int
    model: int
    engine_id: bytes
    boots: int
    time_s: int
    user: bytes
    signature_at: int
    signature: bytes
    privacy: bytes
    scoped: bytes  # the scoped PDU's TLV, or what is encrypted
    places: tuple[int, ...] = ()  # where msgID, time, signature, privacy parameters and `scoped` begin and end

    @property
    def level(self) -> int:
        """NO_AUTH, AUTH, AUTH_PRIV, or 2, which is none."""
        return self.flags & 3


class Dropped(Exception):
    """A message is not answered; the text says why."""


class _Report(Exception):
    """It is answered by the counter of this name, on this level."""

    def __init__(self, name: str, level: int = NO_AUTH, user: User | None = None, request_id: bytes = b"") -> None:
        super().__init__(name)
        self.level, self.user, self.request_id = level, user, request_id


#: makes the encoded scoped PDU that answers a request; None: there is no answer
Answer = Callable[[Header, Pdu, int, User], bytes | None]


_HEADER = (INTEGER, INTEGER, OCTET_STRING, INTEGER)
_SECURITY = (OCTET_STRING, INTEGER, INTEGER, OCTET_STRING, OCTET_STRING, OCTET_STRING)


def read(data: bytes) -> Message:
    """The message's clear parts. Malformed."""
    start, end = ber.body(data, 0, len(data), SEQUENCE)
    if end != len(data):
        raise Malformed(f"{len(data) - end} octets after the message")
    at = ber.number(data, start, end)[1]
    start, after = ber.body(data, at, end, SEQUENCE)
    (msg_id_, max_size_, flags_, model_), (id_at, *_) = ber.bodies(data, start, after, _HEADER)
    msg_id, max_size, model = ber.whole(msg_id_), ber.whole(max_size_), ber.whole(model_)
    if len(flags_) != 1 or msg_id < 0 or model < 1:
        raise Malformed(f"impossible header of version 3: {data[start:after].hex()}")
    outer, stop = ber.body(data, after, end, OCTET_STRING)
    scoped, flags = data[stop:end], flags_[0]
    if model != MODEL:
        return Message(msg_id, max_size, flags, model, b"", 0, 0, b"", 0, b"", b"", scoped)
    at, last = ber.body(data, outer, stop, SEQUENCE)
    if last != stop:
        raise Malformed("octets after the security parameters")
    (engine_id, boots_, time_, user, signature, privacy), starts = ber.bodies(data, at, last, _SECURITY)
    boots, time_s = ber.whole(boots_), ber.whole(time_)
    if not (0 <= boots <= BOOTS_LIMIT and 0 <= time_s <= BOOTS_LIMIT and len(user) <= usm.NAME_LIMIT):
        raise Malformed(f"impossible time of an engine, or user: {boots}, {time_s}, {len(user)} octets")
    tag, first, last = ber.head(data, stop, end)
    if last != end or tag != (OCTET_STRING if flags & 2 else SEQUENCE):
        raise Malformed(f"no scoped PDU: {data[stop : stop + 6].hex()}")
    scoped_at = first if flags & 2 else stop
    places = (
        id_at, id_at + len(msg_id_), starts[2], starts[2] + len(time_), starts[4], starts[4] + len(signature),
        starts[5], starts[5] + len(privacy), scoped_at, end,
    )  # fmt: skip
    return Message(
        msg_id, max_size, flags, model, engine_id, boots, time_s, user, starts[4], signature, privacy,
        data[scoped_at:end], places,
    )  # fmt: skip


class Forms:
    """Forms of encrypted messages that were signed rightly. In what a manager sends next only the msgID, the time,
    the signature and what is encrypted are other octets, as long as before; such a message needs no reading.

    What is found agrees with `read`, because it is from there: it was read from octets that were the same but for
    those, and they are numbers within their limits, or any octets.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[_Form, ...]] = {}  # by the message's length

    def find(self, data: bytes) -> Message | None:
        """What `read` would say of these octets, if they have a form that is kept."""
        for cut, same, m in self._kept.get(len(data), ()):
            parts = cut(data)
            if parts[::2] == same:
                _, id_, _, time_, _, signature, _, privacy, _, scoped = parts
                msg_id, time_s = int.from_bytes(id_, "big", signed=True), int.from_bytes(time_, "big", signed=True)
                if msg_id < 0 or time_s < 0:
                    break
                _, max_size, flags, model, engine_id, boots, _, user, signature_at, *_, places = m
                # as Message(...) does it, without its detour
                return tuple.__new__(Message, (
                    msg_id, max_size, flags, model, engine_id, boots, time_s, user, signature_at, signature, privacy,
                    scoped, places,
                ))  # fmt: skip
        return None

    def keep(self, data: bytes, message: Message) -> None:
        """Keep the form of these octets, that were read as this."""
        if not message.flags & 2 or not message.places:
            return  # what is not encrypted has a form of its own, and so has what is not of our model
        at = (0, *message.places)
        sizes = [stop - start for start, stop in zip(at, at[1:], strict=False)]
        if sizes[1] > 4 or sizes[3] > 4:
            return
        if len(self._kept) >= FORMS_LIMIT:
            self._kept.clear()
        cut = struct.Struct("".join(f"{size}s" for size in sizes)).unpack
        before = self._kept.get(len(data), ())
        self._kept[len(data)] = (_Form(cut, cut(data)[::2], message), *before)[:MANAGERS_LIMIT]


class _Form(NamedTuple):
    cut: Callable[[bytes], tuple[bytes, ...]]  # into what is the same and what is not, in turns
    same: tuple[bytes, ...]
    message: Message


def read_scoped(data: bytes) -> tuple[bytes, bytes, bytes, Pdu]:
    """Context engine and name, their TLVs, and the PDU. Malformed. Octets behind it are padding (DES)."""
    start, end = ber.body(data, 0, len(data), SEQUENCE)
    engine_at, at = ber.body(data, start, end, OCTET_STRING)
    name_at, stop = ber.body(data, at, end, OCTET_STRING)
    return data[engine_at:at], data[name_at:stop], data[start:stop], ber.read_pdu(data[:end], stop)


def seal(
    msg_id: int, flags: int, engine_id: bytes, boots: int, time_s: int, user: User | None, name: bytes,
    scoped: bytes, salts: usm.Salts,
) -> bytes:  # fmt: skip
    """A whole message around a scoped PDU, encrypted and signed as `flags` say."""
    signer = user if flags & 1 else None
    privacy = b""
    if flags & 2 and signer is not None:
        scoped, privacy = usm.encrypt(signer, boots, time_s, salts.take(), scoped)
        scoped = ber.tlv(OCTET_STRING, scoped)
    mac_bytes = usm.AUTHS[signer.auth].mac_bytes if signer is not None else 0
    number = ber.integer(msg_id)
    security = _security(engine_id, boots, time_s, name, mac_bytes, len(privacy))
    header = _HEADERS[flags & 7]
    parts = (_VERSION, len(number) + len(header), number, header, security, privacy, scoped)
    message = ber.tlv(SEQUENCE, b"%b\x30%c%b%b%b%b%b" % parts)
    if signer is None:
        return message
    after = len(message) - len(scoped) - len(privacy) - 2
    return b"%b%b%b" % (message[: after - mac_bytes], signer.sign(message), message[after:])


_VERSION, _NO_ID = ber.integer(ber.V3), ber.integer(0)
#: what stands behind msgID, by msgFlags
_HEADERS = tuple(
    ber.integer(SIZE_LIMIT) + ber.tlv(OCTET_STRING, bytes((flags,))) + ber.integer(MODEL) for flags in range(8)
)


@lru_cache(maxsize=16)  # the same in all answers of a second to one user
def _security(engine_id: bytes, boots: int, time_s: int, name: bytes, mac_bytes: int, privacy_bytes: int) -> bytes:
    """The security parameters, with zeros as signature, up to where the privacy parameters' octets follow."""
    who = ber.tlv(OCTET_STRING, engine_id) + ber.integer(boots) + ber.integer(time_s) + ber.tlv(OCTET_STRING, name)
    signature, privacy = ber.tlv(OCTET_STRING, bytes(mac_bytes)), ber.tlv(OCTET_STRING, bytes(privacy_bytes))
    both = ber.tlv(OCTET_STRING, ber.tlv(SEQUENCE, who + signature + privacy))
    return both[: len(both) - privacy_bytes]


def is_signed(data: bytes, message: Message, user: User) -> bool:
    """Is the signature that of this user?"""
    at, signature = message.signature_at, message.signature
    blank = data[:at] + bytes(len(signature)) + data[at + len(signature) :]
    return hmac.compare_digest(user.sign(blank), signature)  # False if one is longer


def opened(data: bytes, message: Message, user: User) -> bytes:
    """The scoped PDU of an answer to us, on any level that is signed. Unreadable."""
    if message.level not in (AUTH, AUTH_PRIV) or not is_signed(data, message, user):
        raise usm.Unreadable("not signed with our key")
    if message.level == AUTH:
        return message.scoped
    return usm.decrypt(user, message.boots, message.time_s, message.privacy, message.scoped)


class Responder:
    """Answers the messages of our users."""

    def __init__(self, engine: Engine, users: Mapping[str, User], salts: usm.Salts | None = None) -> None:
        self.engine = engine
        self.counts = dict.fromkeys(REPORTS, 0)
        self.on_refused: Callable[[], None] = lambda: None  # a wrong key
        self._users = {name.encode(): user for name, user in users.items()}
        self._salts = salts or usm.Salts()
        self._forms = Forms()
        #: a message in a form that was signed rightly before; None: it must be read
        self.read_again = self._forms.find
        self._questions: ber.Questions[tuple[bytes, bytes, Header]] = ber.Questions()
        self._context = ber.tlv(OCTET_STRING, engine.id) + ber.tlv(OCTET_STRING, b"")

    def user(self, name: str) -> User | None:
        """A user of this name."""
        return self._users.get(name.encode())

    @property
    def users(self) -> frozenset[str]:
        """Their names."""
        return frozenset(user.name for user in self._users.values())

    def answer(
        self, data: bytes, now_s: float, allowed: Callable[[str], bool], budget_bytes: int, make: Answer,
        message: Message | None = None, below: Callable[[Pdu, User], None] = lambda pdu, user: None,
    ) -> bytes:  # fmt: skip
        """The reply to a datagram, which was `read_again` as `message`. `allowed`: may a user ask from where this
        comes? `make` answers in so many octets; `below` hears of signed ones below his level. Malformed, Dropped:
        there is no reply; Later: not yet."""
        is_new = message is None
        message = message or read(data)
        level = message.level
        try:
            if message.model != MODEL:
                raise _Report("snmpUnknownSecurityModels")
            if level == 2 or not SIZE_LEAST <= message.max_size < 2**31:
                raise _Report("snmpInvalidMsgs")
            user = self._known(data, message, now_s, allowed)
            scoped = message.scoped
            if level == AUTH_PRIV:
                if is_new:  # nobody without a key has forms kept
                    self._forms.keep(data, message)
                scoped = self._decrypted(user, message)
            return self._answered(message, user, scoped, now_s, budget_bytes, make, below)
        except _Report as e:
            return self._report(message, e, now_s)

    def _known(self, data: bytes, message: Message, now_s: float, allowed: Callable[[str], bool]) -> User:
        """Steps 3 to 7 of RFC 3414 section 3.2, in their order."""
        if message.engine_id != self.engine.id:
            raise _Report("usmStatsUnknownEngineIDs")
        user, level = self._users.get(message.user), message.level
        if user is None or not allowed(user.name):
            raise _Report("usmStatsUnknownUserNames")
        if level > user.knows:
            raise _Report("usmStatsUnsupportedSecLevels")
        if level == NO_AUTH:
            return user
        if not is_signed(data, message, user):
            raise _Report("usmStatsWrongDigests")
        fresh = abs(message.time_s - self.engine.time_s(now_s)) <= TIME_WINDOW_S
        if message.boots != self.engine.boots or not fresh or self.engine.boots >= BOOTS_LIMIT:
            raise _Report("usmStatsNotInTimeWindows", AUTH, user)
        return user

    def _decrypted(self, user: User, message: Message) -> bytes:
        try:
            return usm.decrypt(user, message.boots, message.time_s, message.privacy, message.scoped)
        except usm.Unreadable:
            raise _Report("usmStatsDecryptionErrors") from None

    def _answered(
        self, message: Message, user: User, scoped: bytes, now_s: float, budget_bytes: int, make: Answer,
        below: Callable[[Pdu, User], None],
    ) -> bytes:  # fmt: skip
        found = self._questions.find(scoped)
        if found is not None:
            (context_engine, context, header), pdu = found
        else:
            try:
                context_engine, context, prefix, pdu = read_scoped(scoped)
                header = Header(ber.V2C, b"", prefix, ber.body(scoped, 0, len(scoped), SEQUENCE)[0] + len(prefix))
            except Malformed:
                if message.level != AUTH_PRIV:
                    raise
                raise _Report("usmStatsDecryptionErrors") from None  # most likely another key
            if message.level:
                self._questions.keep(scoped, header.pdu_at, (context_engine, context, header), pdu)
        if pdu.tag == ber.REPORT or pdu.tag == ber.RESPONSE:
            raise Dropped("no request")
        if context_engine != self.engine.id:
            raise _Report("snmpUnknownPDUHandlers", message.level, user, pdu.request_id)
        if context:
            raise _Report("snmpUnknownContexts", message.level, user, pdu.request_id)
        if message.level < user.level:
            if message.level:  # else anybody can have said it
                below(pdu, user)
            reply = ber.message(header.prefix, ber.RESPONSE, pdu.request_id, AUTHORIZATION_ERROR, 0, pdu.bindings)
        else:
            room = min(budget_bytes, message.max_size) - self._around_bytes(message, user)
            try:
                made = make(header, pdu, room, user)
            except Later as later:
                later.seal = message.signature, self.engine.started_s + message.time_s + TIME_WINDOW_S + 1
                later.put_into(lambda inner: self._sealed(message, user, inner, now_s, message.level))
                raise
            if made is None:
                raise Dropped("no request")
            reply = made
        return self._sealed(message, user, reply, now_s, message.level)

    def _sealed(self, message: Message, user: User | None, reply: bytes, now_s: float, level: int) -> bytes:
        return seal(
            message.msg_id, level, self.engine.id, self.engine.boots, self.engine.time_s(now_s), user, message.user,
            reply, self._salts,
        )  # fmt: skip

    def _around_bytes(self, message: Message, user: User) -> int:
        """At most so much of the message is not the scoped PDU."""
        signature = usm.AUTHS[user.auth].mac_bytes if message.level else 0
        return 64 + len(self.engine.id) + len(message.user) + signature + 2 * usm.SALT_BYTES

    def _report(self, message: Message, why: _Report, now_s: float) -> bytes:
        name = why.args[0]
        self.counts[name] += 1
        if name == "usmStatsWrongDigests":
            self.on_refused()
        if name in ("snmpUnknownSecurityModels", "snmpInvalidMsgs") or not message.flags & REPORTABLE:
            raise Dropped(name)
        body = ber.binding(_REPORTED[name], ber.integer(self.counts[name] & 0xFFFFFFFF, COUNTER32))
        scoped = ber.message(self._context, ber.REPORT, why.request_id or _request_id(message), 0, 0, body)
        return self._sealed(message, why.user if why.level else None, scoped, now_s, why.level)


def _request_id(message: Message) -> bytes:
    """That of a request in clear, else 0 (RFC 3412 section 7.1, 3)."""
    try:
        return _NO_ID if message.flags & 2 else read_scoped(message.scoped)[3].request_id
    except Malformed:
        return _NO_ID
