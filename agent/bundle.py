"""An update as one signed file: a new root file system and what the boot partition needs to start it; pure.

    RIDETHROUGH-UPDATE 1 LF
    {"version": "0.2.0", "made_s": 1780000000, "board": "arm64", "parts": [{"name": "slot.tar", "bytes": 31457280,
     "sha256": HEX}, {"name": "root.squashfs", "bytes": 94371840, "sha256": HEX}]} LF           in one line
    BASE64 of the Ed25519 signature (RFC 8032) of the two lines, their LF included LF
    the parts, one after another

`python -m agent.bundle key FILE` makes a key and prints its public half, which the image has in its `update-keys`;
`python -m agent.bundle make --key FILE --slot SLOT.tar --root ROOT.squashfs --version V OUT` makes a bundle.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .model import ConfigError

MAGIC = b"RIDETHROUGH-UPDATE 1\n"
LINE_LIMIT_BYTES = 16 * 1024
CHUNK_BYTES = 256 * 1024
SLOT, ROOT = "slot.tar", "root.squashfs"
PARTS = (SLOT, ROOT)
PART_LIMIT_BYTES = 2 * 1024**3
VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,3}")
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Part:
    """One of PARTS."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a bundle; `made_s`: wall-clock second of its making."""

    version: str
    made_s: int
    board: str
    parts: tuple[Part, ...]


def number(version: str) -> tuple[int, ...]:
    """0.10.0 as (0, 10, 0), so that versions can be compared. ConfigError if it is no version."""
    if not VERSION.fullmatch(version):
        raise ConfigError(f"{version[:40]!r} is no version such as 0.2.0")
    return tuple(map(int, version.split(".")))


def read_head(stream: IO[bytes], keys: Iterable[bytes]) -> Manifest:
    """The manifest of a bundle that one of these public keys (32 bytes each) signed; the stream then stands at the
    first part. ConfigError; OSError of the stream."""
    if stream.read(len(MAGIC)) != MAGIC:
        raise ConfigError("this is no update (or one of a newer form)")
    line, signature = _line(stream), _line(stream)
    try:
        signed = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError):
        signed = b""
    if not any(_is_signed(key, signed, MAGIC + line) for key in keys):
        raise ConfigError("not signed by a key that this adapter trusts: it is not from where its updates come from")
    try:
        said = json.loads(line)
        parts = tuple(Part(str(p["name"]), int(p["bytes"]), str(p["sha256"])) for p in said["parts"])
        found = Manifest(str(said["version"]), int(said["made_s"]), str(said["board"]), parts)
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"the update's second line is damaged ({e})") from e
    number(found.version)
    if tuple(p.name for p in parts) != PARTS or not all(0 < p.bytes <= PART_LIMIT_BYTES for p in parts):
        raise ConfigError(f"the update does not hold {' and '.join(PARTS)}")
    return found


def copy_part(
    stream: IO[bytes], part: Part, write: Callable[[bytes], object], done: Callable[[int], None] = lambda n: None
) -> None:
    """Hand the bytes of the next part to `write`, `done(n)` after n of them. ConfigError if they end early or are
    others than those that were signed: whatever was written is then worth nothing."""
    digest, left = hashlib.sha256(), part.bytes
    while left:
        data = stream.read(min(CHUNK_BYTES, left))
        if not data:
            raise ConfigError(f"{part.name}: the update ends {left} bytes early")
        digest.update(data)
        write(data)
        left -= len(data)
        done(part.bytes - left)
    if digest.hexdigest() != part.sha256:
        raise ConfigError(f"{part.name}: damaged: not the bytes that were signed")


def seal(parts: Sequence[tuple[str, Path]], version: str, made_s: int, board: str, private: bytes) -> bytes:
    """The head of a bundle: three lines. `private`: the 32 bytes of an Ed25519 key. OSError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    number(version)
    rows = []
    for name, path in parts:
        with path.open("rb") as file:
            rows.append(
                {
                    "name": name,
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
            )
    said = {"version": version, "made_s": made_s, "board": board, "parts": rows}
    lines = MAGIC + json.dumps(said).encode() + b"\n"
    return lines + base64.b64encode(Ed25519PrivateKey.from_private_bytes(private).sign(lines)) + b"\n"


def public_key(text: str) -> bytes:
    """A public key as `key` printed it: 64 hex digits. ConfigError."""
    try:
        key = bytes.fromhex(text.split()[0])
    except (ValueError, IndexError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError("a public key is 64 hex digits")
    return key


def _is_signed(key: bytes, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline(LINE_LIMIT_BYTES)
    if not line.endswith(b"\n"):
        raise ConfigError("the update is cut in its head")
    return line


def _make_key(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from .vault import write_private

    if path.exists():
        raise ConfigError(f"{path} is there already")
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes_raw().hex().encode() + b"\n")
    print(key.public_key().public_bytes_raw().hex())


def main(argv: Sequence[str]) -> int:
    """The maker's side. Exit code 2 with one line if something is wrong."""
    top = argparse.ArgumentParser(prog="python -m agent.bundle", description="Make signed updates.")
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("key", help="make a key, print its public half").add_argument("file", type=Path)
    make = verbs.add_parser("make", help="make an update")
    for name in ("key", "slot", "root"):
        make.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    make.add_argument("--version", required=True)
    make.add_argument("--board", default="arm64")
    make.add_argument("--made", type=int, required=True, metavar="SECONDS", help="SOURCE_DATE_EPOCH")
    make.add_argument("out", type=Path)
    args = top.parse_args(argv)
    try:
        if args.verb == "key":
            _make_key(args.file)
            return 0
        parts = [(SLOT, args.slot), (ROOT, args.root)]
        head = seal(parts, args.version, args.made, args.board, public_key(args.key.read_text()))
        with args.out.open("wb") as out:
            out.write(head)
            for _, path in parts:
                with path.open("rb") as file:
                    while data := file.read(CHUNK_BYTES):
                        out.write(data)
    except (OSError, ConfigError) as e:
        print(f"bundle: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
