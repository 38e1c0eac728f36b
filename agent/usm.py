"""Keys, signatures and encryption of SNMP version 3: nobody can read along, or say something in another's name. Pure.

Sources: RFC 3414 (user-based security; keys 2.6 and A.2), RFC 3826 (AES-128), RFC 7860 (SHA-2). AES-256 is in no RFC:
its key is lengthened as in draft-blumenthal-aes-usm-04, which net-snmp, pysnmp and most managers call "AES-256".

A key is made in three steps: a million octets of the pass phrase are hashed; that is mixed with the engineID of one
agent, so that what is stolen from one opens no other; it is lengthened, if encryption wants more than the hash gives.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from threading import get_ident
from typing import Any, NamedTuple

from .model import ConfigError

NO_AUTH, AUTH, AUTH_PRIV = 0, 1, 3  # the two lower bits of msgFlags
PASSPHRASE_LEAST, PASSPHRASE_LIMIT = 8, 256  # RFC 3414 section 11.2; characters
HASHED_OCTETS = 1048576
NAME_LIMIT = 32  # octets, RFC 3414 section 5
SALT_BYTES = 8
BLOCK_BYTES = 16  # of AES
KEYS_READY = 64  # for so many keys the beginnings are kept that a message does not change


class Auth(NamedTuple):
    """A way to sign: the name of its hash, and how much of the HMAC is sent."""

    digest: str
    mac_bytes: int
    weak: bool = False


class Priv(NamedTuple):
    """A way to encrypt, and how long its key is (DES: key and pre-IV). `standard`: some RFC has it."""

    key_bytes: int
    weak: bool = False
    standard: bool = True


AUTHS = {
    "sha256": Auth("sha256", 24),
    "sha384": Auth("sha384", 32),
    "sha512": Auth("sha512", 48),
    "sha224": Auth("sha224", 16),
    "sha1": Auth("sha1", 12),
    "md5": Auth("md5", 12, weak=True),
}
PRIVS = {"aes128": Priv(16), "aes256": Priv(32, standard=False), "des": Priv(16, weak=True)}
LEVELS = {"auth-priv": AUTH_PRIV, "auth": AUTH}


def remarks(auth: str, priv: str, allowed: bool = False) -> list[str]:
    """What a person must know of these ways; `allowed`: the weak ones are switched on. "" is no way."""
    off = "" if allowed else ", and off without allow_weak = true in [snmp]"
    weak = [way for way, how in ((auth, AUTHS.get(auth)), (priv, PRIVS.get(priv))) if how is not None and how.weak]
    found = [f"{way} is weak{off}" for way in weak]
    if priv in PRIVS and not PRIVS[priv].standard:
        found.append(f"{priv} is an extension that is in no standard: not every manager has it")
    return found


class Unreadable(Exception):
    """What is encrypted cannot be decrypted."""


# --- keys -------------------------------------------------------------------------------------------------------


def common_key(passphrase: str, auth: str) -> bytes:
    """The key of a pass phrase before it is mixed with an engine. ConfigError if it is too short."""
    octets = passphrase.encode()
    if not PASSPHRASE_LEAST <= len(octets) <= PASSPHRASE_LIMIT:
        raise ConfigError(f"a pass phrase has {PASSPHRASE_LEAST} to {PASSPHRASE_LIMIT} characters")
    stream = (octets * (HASHED_OCTETS // len(octets) + 1))[:HASHED_OCTETS]
    return hashlib.new(AUTHS[auth].digest, stream).digest()


def key(passphrase: str, auth: str, engine_id: bytes, size: int = 0) -> bytes:
    """The key of a pass phrase for one engine; `size` 0: as long as the hash. ConfigError if it is too short."""
    return localised(common_key(passphrase, auth), auth, engine_id, size)


def localised(common: bytes, auth: str, engine_id: bytes, size: int = 0) -> bytes:
    """A common key for one engine; `size` 0: as long as the hash."""
    digest = AUTHS[auth].digest
    found = hashlib.new(digest, common + engine_id + common).digest()
    while len(found) < size:
        found += hashlib.new(digest, found).digest()
    return found[:size] if size else found


@dataclass(frozen=True, slots=True)
class User:
    """Who may ask, with keys for this engine. `level`: AUTH or AUTH_PRIV, what he must use."""

    name: str
    level: int
    auth: str
    auth_key: bytes = field(repr=False)
    priv: str = ""
    priv_key: bytes = field(default=b"", repr=False)
    writes: bool = False

    @property
    def knows(self) -> int:
        """The highest level that his keys allow."""
        return AUTH_PRIV if self.priv else AUTH

    def sign(self, message: bytes) -> bytes:
        """The signature of a message whose own place is filled with zeros."""
        begun_inside, begun_outside, mac_bytes = _halves(self.auth, self.auth_key)
        inside, outside = begun_inside.copy(), begun_outside.copy()
        inside.update(message)
        outside.update(inside.digest())
        signature: bytes = outside.digest()
        return signature[:mac_bytes]


@lru_cache(maxsize=KEYS_READY)
def _halves(auth: str, key: bytes) -> tuple[Any, Any, int]:
    """HMAC (RFC 2104) as far as it depends on the key alone: what is hashed first, and what around that; how much of
    the result is sent."""
    way = AUTHS[auth]
    block = key.ljust(hashlib.new(way.digest).block_size, b"\0")  # no key of ours is longer than a block
    inside, outside = (hashlib.new(way.digest, bytes(k ^ pad for k in block)) for pad in (0x36, 0x5C))
    return inside, outside, way.mac_bytes


# --- encryption -------------------------------------------------------------------------------------------------


def encrypt(user: User, boots: int, time_s: int, salt: int, data: bytes) -> tuple[bytes, bytes]:
    """Encrypted data, and msgPrivacyParameters. `salt` must never be used twice with one key."""
    if user.priv == "des":
        params = boots.to_bytes(4, "big") + (salt & 0xFFFFFFFF).to_bytes(4, "big")
        data += bytes(-len(data) % 8)
    else:
        params = salt.to_bytes(SALT_BYTES, "big")
        return _stream(user.priv_key, get_ident()).encrypt(_vector(boots, time_s, params), data), params
    way = _des(user, params).encryptor()
    return way.update(data) + way.finalize(), params


def decrypt(user: User, boots: int, time_s: int, params: bytes, data: bytes) -> bytes:
    """What `encrypt` was given (DES: and up to 7 octets more). Unreadable."""
    if len(params) != SALT_BYTES:
        raise Unreadable(f"privacy parameters of {len(params)} octets")
    if user.priv != "des":
        return _stream(user.priv_key, get_ident()).decrypt(_vector(boots, time_s, params), data)
    if len(data) % 8:
        raise Unreadable(f"{len(data)} octets are no whole blocks")
    way = _des(user, params).decryptor()
    return bytes(way.update(data) + way.finalize())


class _Stream:
    """AES in CFB mode with one key, for many messages: an object of the library for each costs more than its work.

    CFB mixes each block of text with a mask: the encrypted ciphertext before it. To decrypt, all of that is there. To
    encrypt, CBC gives all masks at once: it encrypts each block mixed with its own last result, so if that is the
    mask and the block the text, it encrypts the ciphertext. The first block leads it from what it ended with to the
    vector of this message.
    """

    def __init__(self, key: bytes) -> None:
        cipher, aes, _, cbc, ecb = _ways()
        self._ecb = cipher(aes(key), ecb()).encryptor().update
        self._cbc = cipher(aes(key), cbc(bytes(BLOCK_BYTES))).encryptor().update
        self._last = 0  # what CBC ended with

    def encrypt(self, vector: bytes, data: bytes) -> bytes:
        first = (self._last ^ int.from_bytes(vector, "big")).to_bytes(BLOCK_BYTES, "big")
        whole = (len(data) - 1) // BLOCK_BYTES * BLOCK_BYTES  # the last block's own ciphertext is not needed
        masks = self._cbc(first + data[:whole])
        self._last = int.from_bytes(masks[-BLOCK_BYTES:], "big")
        return _xor(masks, data)

    def decrypt(self, vector: bytes, data: bytes) -> bytes:
        return _xor(self._ecb((vector + data)[: -(-len(data) // BLOCK_BYTES) * BLOCK_BYTES]), data)


def _xor(mask: bytes, data: bytes) -> bytes:
    """As long as `data`."""
    size = len(data)
    return (int.from_bytes(mask[:size], "big") ^ int.from_bytes(data, "big")).to_bytes(size, "big")


@lru_cache(maxsize=KEYS_READY)
def _stream(key: bytes, thread: int) -> _Stream:
    """One for each thread, because it remembers something and the library's objects are not made for two."""
    return _Stream(key)


_BOOTS_AND_TIME = struct.Struct(">II")


def _vector(boots: int, time_s: int, params: bytes) -> bytes:
    return _BOOTS_AND_TIME.pack(boots, time_s) + params


def _des(user: User, params: bytes) -> Any:
    cipher, _, triple_des, cbc, _ = _ways()
    vector = bytes(a ^ b for a, b in zip(user.priv_key[8:16], params, strict=True))
    return cipher(triple_des(user.priv_key[:8] * 3), cbc(vector))


@lru_cache(maxsize=1)
def _ways() -> tuple[Any, ...]:
    """What is needed of `cryptography`, which is imported only when somebody encrypts."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher, algorithms.AES, TripleDES, modes.CBC, modes.ECB


class Salts:
    """Numbers for `encrypt` that come only once, from a random beginning (RFC 3826 section 3.1.2.1)."""

    def __init__(self) -> None:
        self._numbers = count(secrets.randbits(64))  # one step, whichever threads take

    def take(self) -> int:
        """The next one. From any thread."""
        return next(self._numbers) & 0xFFFFFFFFFFFFFFFF
