"""`ridethrough snmp-user`: gives a user of SNMP version 3 his keys; what is kept are keys for this agent alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import engineid, process, usm
from .config import NAME, Config
from .model import ConfigError


def main(args: argparse.Namespace, settings: Config) -> int:
    """List, set or remove. ConfigError."""
    folder = Path(settings.state_dir) / "faces" / "snmp"
    rows = engineid.keys(folder)
    wanted = {user.name for user in settings.snmp.users} if settings.snmp else set()
    if args.name is None:
        for name in sorted(wanted | set(rows)):
            row = rows.get(name)
            ways = f"{row['auth']} {row.get('priv', 'not encrypted')}" if row else "no keys yet"
            weak = settings.snmp is not None and settings.snmp.allow_weak
            remarks = usm.remarks(str(row["auth"]), str(row.get("priv", "")), weak) if row else []
            ways = "; ".join((ways, *remarks))
            print(f"{name}: {ways}{'' if name in wanted else ' (no [[snmp.user]] of the configuration)'}")
        if not wanted and not rows:
            print("no users yet")
        return 0
    if not NAME.fullmatch(args.name) or len(args.name) > usm.NAME_LIMIT:
        raise ConfigError(f"a name may hold letters, digits, dot, dash and underscore, at most {usm.NAME_LIMIT}")
    if args.remove:
        if rows.pop(args.name, None) is None:
            raise ConfigError(f"there is no user {args.name} with keys")
    else:
        priv = "" if args.priv == "none" else args.priv
        auth_phrase = _phrase(f"pass phrase to sign, of {args.name}: ")
        priv_phrase = _phrase("pass phrase to encrypt: ") if priv else ""
        if priv and priv_phrase == auth_phrase:
            print("note: both pass phrases are the same; two are safer", file=sys.stderr)
        rows[args.name] = engineid.made(
            engineid.engine_id(folder), args.auth, auth_phrase, priv, priv_phrase, informs=args.informs
        )
        for remark in usm.remarks(args.auth, priv):
            print(f"note: {remark}", file=sys.stderr)
        if args.name not in wanted:
            print(f"note: the configuration has no [[snmp.user]] {args.name}", file=sys.stderr)
    try:
        engineid.write_keys(folder, rows)
    except OSError as e:
        raise ConfigError(f"{folder}: {e.strerror}") from e
    done = "removed" if args.remove else f"keys kept, for engineID {engineid.engine_id(folder).hex()}"
    print(f"{args.name}: {done} (takes effect when the faces start again)")
    return 0


def _phrase(ask: str) -> str:
    text = process.hidden_line(ask)
    if not text.isprintable() or not usm.PASSPHRASE_LEAST <= len(text) <= usm.PASSPHRASE_LIMIT:
        raise ConfigError(
            f"a pass phrase is one line of {usm.PASSPHRASE_LEAST} to {usm.PASSPHRASE_LIMIT} printable characters on "
            "standard input"
        )
    return text
