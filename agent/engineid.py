"""Who this SNMP agent is, for version 3: its engineID, how often it was started, and the keys of its users.

`engine.json`: the engineID for ever, and engineBoots (RFC 3414 section 2.2: one more at every start, on the disk
before the first message, or else recorded messages could be played again). `users.json`: keys, made for this engine;
the pass phrases are nowhere.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import usm, vault
from .model import ConfigError
from .v3 import BOOTS_LIMIT

LIMIT_BYTES = 64 * 1024
# RFC 3411 section 5: the first bit, an enterprise's number (0, as long as we have none), 5: octets of our own choice
ENGINE_ID_BEGINS = bytes.fromhex("8000000005")
RANDOM_BYTES = 12


def path(folder: Path) -> Path:
    """The engine's file in a folder."""
    return folder / "engine.json"


def engine_id(folder: Path) -> bytes:
    """The engineID, made at the first time. ConfigError if the file is damaged or cannot be written."""
    return _read(folder)[0]


def started(folder: Path) -> tuple[bytes, int]:
    """engineID and the number of this start, which is on the disk now. ConfigError if it cannot be."""
    found, boots = _read(folder)
    if boots >= BOOTS_LIMIT:
        raise ConfigError(f"{path(folder)}: started too often; remove it and give the users their keys again")
    _write(folder, found, boots + 1)
    return found, boots + 1


def ahead(data: bytes, starts: int) -> bytes:
    """The engine's file as if it had been started so often more. ConfigError if it is damaged."""
    try:
        found, boots = _parse(data)
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ConfigError(f"engine.json: damaged ({e})") from e
    return _line(found, min(boots + starts, BOOTS_LIMIT))


def _parse(data: bytes) -> tuple[bytes, int]:
    """engineID and starts. ValueError, KeyError, TypeError, RecursionError if the file is damaged."""
    values = json.loads(data)
    found, boots = bytes.fromhex(values["engine_id"]), values["boots"]
    if not 5 <= len(found) <= 32 or type(boots) is not int or not 0 <= boots <= BOOTS_LIMIT:
        raise ValueError("impossible values")
    return found, boots


def _line(found: bytes, boots: int) -> bytes:
    return json.dumps({"engine_id": found.hex(), "boots": boots}).encode() + b"\n"


def _read(folder: Path) -> tuple[bytes, int]:
    where = path(folder)
    try:
        found, boots = _parse(_bytes(where))
    except FileNotFoundError:
        found, boots = ENGINE_ID_BEGINS + secrets.token_bytes(RANDOM_BYTES), 0
        _write(folder, found, boots)
    except OSError as e:
        raise ConfigError(f"{where}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ConfigError(f"{where}: damaged ({e}); remove it and give the users their keys again") from e
    return found, boots


def _write(folder: Path, found: bytes, boots: int) -> None:
    try:
        vault.write_private(path(folder), _line(found, boots))
    except OSError as e:
        raise ConfigError(f"{path(folder)}: {e.strerror}; version 3 needs it and stays off") from e


def _bytes(where: Path) -> bytes:
    """A private file. OSError; ConfigError if others may read it."""
    if where.stat().st_mode & 0o077:
        raise ConfigError(f"{where}: others may read it; mend with: chmod 600 {where}")
    with open(where, "rb") as stream:
        return stream.read(LIMIT_BYTES)


# --- the users' keys --------------------------------------------------------------------------------------------


def keys(folder: Path) -> dict[str, dict[str, Any]]:
    """What `users.json` holds: name -> auth, auth_key, priv, priv_key, engine_id. ConfigError."""
    where = folder / "users.json"
    try:
        values = json.loads(_bytes(where))
        if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
            raise ValueError("not an object of users")
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise ConfigError(f"{where}: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{where}: damaged ({e}); remove it and give the users their keys again") from e
    return values


def write_keys(folder: Path, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace `users.json`. OSError."""
    vault.write_private(folder / "users.json", json.dumps(values, indent=1, sort_keys=True).encode() + b"\n")


def made(
    engine: bytes, auth: str, auth_phrase: str, priv: str = "", priv_phrase: str = "", *, informs: bool = False
) -> dict[str, Any]:
    """The keys of one user for this engine; with `informs` also those from which keys for any engine are made.
    ConfigError: an unknown way, or a pass phrase that is too short."""
    if auth not in usm.AUTHS or (priv and priv not in usm.PRIVS):
        raise ConfigError(f"there are {', '.join(usm.AUTHS)} to sign and {', '.join(usm.PRIVS)} to encrypt")
    row = {"engine_id": engine.hex(), "auth": auth, "auth_key": usm.key(auth_phrase, auth, engine).hex()}
    if priv:
        row |= {"priv": priv, "priv_key": usm.key(priv_phrase, auth, engine, usm.PRIVS[priv].key_bytes).hex()}
    if informs:
        row["auth_common"] = usm.common_key(auth_phrase, auth).hex()
        row["priv_common"] = usm.common_key(priv_phrase, auth).hex() if priv else ""
    return row


Maker = Callable[[bytes], usm.User]


def for_engine(user: usm.User, row: Mapping[str, Any]) -> Maker:
    """Makes the user with keys for another engine, which confirms informs. ConfigError: his keys are not kept so."""
    try:
        auth_key, priv_key = bytes.fromhex(row["auth_common"]), bytes.fromhex(row["priv_common"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"user {user.name}: informs need his keys in another form; give them with: ridethrough snmp-user "
            f"{user.name} --informs"
        ) from None

    def made_for(engine: bytes) -> usm.User:
        size = usm.PRIVS[user.priv].key_bytes if user.priv else 0
        priv = usm.localised(priv_key, user.auth, engine, size) if user.priv else b""
        return replace(user, auth_key=usm.localised(auth_key, user.auth, engine), priv_key=priv)

    return made_for


def user(name: str, level: str, writes: bool, row: Mapping[str, Any], engine: bytes, weak: bool) -> usm.User:
    """A user as the agent needs him. ConfigError says why he cannot be one."""
    remedy = f"give him new ones with: ridethrough snmp-user {name}"
    try:
        auth, priv = row["auth"], row.get("priv", "")
        auth_key, priv_key = bytes.fromhex(row["auth_key"]), bytes.fromhex(row.get("priv_key", ""))
        sizes = hashlib.new(usm.AUTHS[auth].digest).digest_size, usm.PRIVS[priv].key_bytes if priv else 0
    except (KeyError, TypeError, ValueError) as e:
        raise ConfigError(f"user {name}: his keys are damaged ({e}); {remedy}") from e
    if (len(auth_key), len(priv_key)) != sizes or row.get("engine_id") != engine.hex():
        raise ConfigError(f"user {name}: his keys are not for this agent; {remedy}")
    if usm.LEVELS[level] == usm.AUTH_PRIV and not priv:
        raise ConfigError(f'user {name}: has no key to encrypt, but level = "auth-priv"; {remedy}')
    if not weak and (usm.AUTHS[auth].weak or (priv and usm.PRIVS[priv].weak)):
        raise ConfigError(f"user {name}: md5 and des are off; write allow_weak = true into [snmp], or {remedy}")
    return usm.User(name, usm.LEVELS[level], auth, auth_key, priv, priv_key, writes)
