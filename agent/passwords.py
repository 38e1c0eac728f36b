"""The page's password: what is too easy to guess, and what is kept of one (scrypt, 32 MiB); pure."""

from __future__ import annotations

import hashlib
import json
import secrets
import unicodedata
from collections.abc import Callable, Mapping

USER = "admin"
SCRYPT = {"n": 2**15, "r": 8, "p": 3}
SCRYPT_MEMORY_BYTES = 64 * 1024 * 1024
SALT_BYTES, HASH_BYTES = 16, 32
LENGTH_MIN, LENGTH_MAX = 12, 128

_COMMON_TEXT = """
123456789012 1234567890123 12345678901234 123456789123 1234567890ab 0123456789ab 0123456789abc 012345678901
passwordpassword password1234 password12345 password123456 passw0rd1234 p@ssw0rd1234 administrator administrator1
adminadminadmin adminadmin12 adminadmin123 admin1234567 admin12345678 admin123456789 changemeplease changeme1234
qwertyuiop12 qwertyuiop123 qwertyuiop[] qwertyqwerty qwerty123456 qwerty1234567 1q2w3e4r5t6y 1q2w3e4r5t6y7u
1qaz2wsx3edc 1qaz2wsx3edc4rfv qazwsxedcrfv zaq12wsxcde3 asdfghjkl123 asdfghjkl;'# abcdefghijkl abcdefghijklm
abc123abc123 abcd12345678 iloveyou1234 iloveyouforever letmeinletmein letmein12345 welcome12345 welcome123456
raspberrypi1 raspberrypi3 raspberrypi4 raspberrypi5 raspberry1234 ridethrough1 ridethrough12 ridethrough123
ridethrough1234 ridethroughups uninterruptible uninterruptable powersupply1 unterbrechungsfrei passwort1234
passwort12345 passwortpasswort geheimgeheim geheim123456 hallohallohallo correcthorsebatterystaple
"""
#: The passwords of twelve and more characters that everybody tries first; shorter ones are refused anyway.
COMMON = frozenset(_COMMON_TEXT.split())


#: Password, salt, cost (n, r, p) -> hash.

Kdf = Callable[[str, bytes, Mapping[str, int]], bytes]


def wrong(new: str) -> str:
    """too-short | too-long | common, or ''."""
    if len(new) < LENGTH_MIN:
        return "too-short"
    if len(new) > LENGTH_MAX:
        return "too-long"
    return "common" if new.lower() in COMMON or len(set(new)) < 5 else ""


def scrypt(password: str, salt: bytes, cost: Mapping[str, int]) -> bytes:
    """The 32 bytes of a password; half a second on a small board."""
    raw = password.encode("utf-8", "replace")
    return hashlib.scrypt(raw, salt=salt, **cost, maxmem=SCRYPT_MEMORY_BYTES, dklen=HASH_BYTES)


def account(password: str, kdf: Kdf = scrypt) -> bytes:
    """The account's file for a new password (NFC): {"user": "admin", "n", "r", "p", "salt": HEX, "hash": HEX}."""
    salt = secrets.token_bytes(SALT_BYTES)
    return _file(salt, kdf(password, salt, SCRYPT))


def encode(password: str) -> str:
    """The line that `decode` reads: enough to check a password, not to know it. ValueError: too short, too long or
    too common."""
    password = unicodedata.normalize("NFC", password)
    if problem := wrong(password):
        raise ValueError(f"this password is {problem.replace('-', ' ')}; at least {LENGTH_MIN} characters")
    salt = secrets.token_bytes(SALT_BYTES)
    cost = ":".join(str(SCRYPT[name]) for name in ("n", "r", "p"))
    return f"scrypt:{cost}:{salt.hex()}:{scrypt(password, salt, SCRYPT).hex()}"


def decode(line: str) -> bytes:
    """The account's file of a line of `encode`. ValueError if it is none."""
    kind, *numbers = line.split(":")
    if kind != "scrypt" or len(numbers) != 5:
        raise ValueError("not of the form scrypt:N:R:P:SALT:HASH")
    cost = dict(zip(("n", "r", "p"), map(int, numbers[:3]), strict=True))
    salt, found = bytes.fromhex(numbers[3]), bytes.fromhex(numbers[4])
    if cost != SCRYPT or len(salt) != SALT_BYTES or len(found) != HASH_BYTES:
        raise ValueError("of another kind than this version makes")
    return _file(salt, found)


def _file(salt: bytes, found: bytes) -> bytes:
    return json.dumps({"user": USER, **SCRYPT, "salt": salt.hex(), "hash": found.hex()}).encode() + b"\n"
