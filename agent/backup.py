"""`ridethrough backup` and `restore`: everything that makes this adapter the one it is, in one encrypted file.

With it a replaced board is the same adapter: servers trust its key, managers its engineID, people their password.
Left out are the history, open sessions, one-time codes and the state of an outage.

    RIDETHROUGH-BACKUP 1 LF
    {"n": 32768, "r": 8, "p": 3, "salt": HEX, "nonce": HEX} LF     scrypt (RFC 7914) of the pass phrase: the key
    AES-256-GCM of a tar.gz; the two lines above are its associated data

In the tar: `about.json`, `ridethrough.toml`, `commands.d/NAME`, `core/NAME`, `faces/NAME`.
"""

from __future__ import annotations

import argparse
import errno
import gzip
import io
import json
import os
import secrets
import socket
import stat
import sys
import tarfile
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import authority, codes, commands, engineid, enroll, pins, process, senderkey, vault
from .config import Config
from .model import VERSION, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"RIDETHROUGH-BACKUP 1\n"
SCRYPT = {"n": 2**15, "r": 8, "p": 3}  # 32 MiB and half a second on a small board
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
PHRASE_MIN, PHRASE_MAX = 12, 256
FILE_LIMIT_BYTES, TOTAL_LIMIT_BYTES = 2 * 1024 * 1024, 16 * 1024 * 1024
SETTINGS, ABOUT, COMMANDS = "ridethrough.toml", "about.json", "commands.d"
#: what is kept of `state_dir`
KEPT = (
    "core/secrets.json", f"core/{senderkey.NAME}", f"core/{pins.FILE}", "core/ssh-key", "core/ssh-key.pub",
    "core/known.json", "core/detected.json", "core/discharge-curve.json", "core/last-good.toml",
    "faces/secrets.json", "faces/account.json", "faces/first-password", "faces/tls.pem", "faces/snmp/engine.json",
    "faces/snmp/users.json", "faces/snmp/texts.json", "system/system.json",
    f"faces/{enroll.FOLDER}/{authority.FILE}",
)  # fmt: skip
#: what a restore removes besides: it belongs to the adapter that was
DROPPED = ("core/slots", "faces/sessions.json", f"faces/{enroll.FOLDER}/{codes.FILE}")
BOOTS_AHEAD = 1000  # an old backup must not say fewer starts than managers have heard of (RFC 3414 section 2.3)


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a backup: bytes by name, and which commands may be executed."""

    files: Mapping[str, bytes]
    programs: frozenset[str] = field(default=frozenset())

    def about(self) -> dict[str, str]:
        """When, where and by which version it was made."""
        try:
            said = json.loads(self.files.get(ABOUT, b"{}"))
            return {key: str(said[key])[:100] for key in ("made", "host", "version")}
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(f"{ABOUT} in the backup is damaged ({e})") from e


# --- the file -------------------------------------------------------------------------------------------------------


def seal(content: Content, phrase: str) -> bytes:
    """The backup as one encrypted file."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    head = MAGIC + json.dumps({**SCRYPT, "salt": salt.hex(), "nonce": nonce.hex()}).encode() + b"\n"
    return head + AESGCM(_key(phrase, salt)).encrypt(nonce, pack(content), head)


def unseal(data: bytes, phrase: str) -> Content:
    """What `seal` was given. ConfigError: no backup, another pass phrase, or a byte of it was changed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not data.startswith(MAGIC):
        raise ConfigError("this is no backup of an adapter (or one of a newer version)")
    line, _, _ = data[len(MAGIC) : len(MAGIC) + 1000].partition(b"\n")
    try:
        said = json.loads(line)
        salt, nonce = bytes.fromhex(said["salt"]), bytes.fromhex(said["nonce"])
        if {k: said[k] for k in SCRYPT} != SCRYPT or (len(salt), len(nonce)) != (SALT_BYTES, NONCE_BYTES):
            raise ValueError("numbers that no version used")
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ConfigError(f"the backup's second line is damaged ({e})") from e
    begin = len(MAGIC) + len(line) + 1
    try:
        packed = AESGCM(_key(phrase, salt)).decrypt(nonce, data[begin:], data[:begin])
    except InvalidTag:
        raise ConfigError("another pass phrase, or the file was damaged or cut: nothing was read") from None
    return unpack(packed)


def pack(content: Content) -> bytes:
    """The tar.gz of a backup; the same content gives the same bytes."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in sorted(content.files.items()):
            row = tarfile.TarInfo(name)
            row.size, row.mode = len(data), 0o755 if name in content.programs else 0o600
            tar.addfile(row, io.BytesIO(data))
    return gzip.compress(made.getvalue(), mtime=0)


def unpack(packed: bytes, more: Sequence[str] = ()) -> Content:
    """What `pack` was given. `more`: names that may be in it besides KEPT; then it is this card's own, and what only
    a newer version knows is left out. ConfigError."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(packed, TOTAL_LIMIT_BYTES)
        if not unpacker.eof:
            raise ValueError(f"more than {TOTAL_LIMIT_BYTES // 2**20} MiB")
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            files, programs = {}, set()
            for row in tar:
                known = _ours(row.name) or row.name in more
                if not row.isreg() or row.name in files or not (known or more):
                    raise ValueError(f"{row.name[:80]!r} does not belong there: damaged, or of a newer version")
                if not known:
                    continue
                stream = tar.extractfile(row)
                files[row.name] = stream.read() if stream else b""
                if row.mode & 0o100:
                    programs.add(row.name)
    except (ValueError, zlib.error, tarfile.TarError) as e:
        raise ConfigError(f"the backup cannot be unpacked: {e}") from e
    if SETTINGS not in files:
        raise ConfigError(f"the backup has no {SETTINGS}")
    return Content(files, frozenset(programs))


def _ours(name: str) -> bool:
    folder, _, file = name.partition("/")
    return name in (SETTINGS, ABOUT, *KEPT) or (folder == COMMANDS and not commands.wrong_name(file))


def _key(phrase: str, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=KEY_BYTES, **SCRYPT).derive(phrase.encode())


# --- the machine ----------------------------------------------------------------------------------------------------


def collect(
    path: Path, settings: Config, now_s: float, more: Sequence[str] = (), *, without: bytes | None = None
) -> Content:
    """Everything of this adapter; `path`: its configuration, `now_s`: wall clock, `more`: names besides KEPT,
    `without`: what stands for a configuration that is not there. ConfigError if a file cannot be read: a backup is
    whole, or there is none."""
    about = {"made": time.strftime("%Y-%m-%d %H:%M", time.localtime(now_s)), "host": socket.gethostname()}
    files: dict[str, bytes] = {ABOUT: json.dumps({**about, "version": VERSION}).encode()}
    files[SETTINGS] = _read(path) if without is None or path.exists() else without
    programs = set()
    for name in (*KEPT, *more):
        if (data := _kept(Path(settings.state_dir), name)) is not None:
            files[name] = data
    folder = Path(settings.commands_dir)
    for where in _commands(folder):
        files[f"{COMMANDS}/{where.name}"] = _read(where)
        if where.stat().st_mode & 0o100:
            programs.add(f"{COMMANDS}/{where.name}")
    if sum(map(len, files.values())) > TOTAL_LIMIT_BYTES // 2:
        raise ConfigError(f"{folder}: too much for a backup (8 MiB): commands belong there, not data")
    return Content(files, frozenset(programs))


def _nothing(settings: Config) -> bytes:
    """What stands for a configuration that is not there: where all else is."""
    named = {key: json.dumps(getattr(settings, key)) for key in ("state_dir", "run_dir", "commands_dir")}
    return ("[agent]\n" + "".join(f"{key} = {text}\n" for key, text in named.items())).encode()


def _commands(folder: Path) -> list[Path]:
    """The files in `folder` that a configuration could name."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in found if p.is_file() and not p.is_symlink() and not commands.wrong_name(p.name)]


def gone(content: Content, settings: Config) -> list[Path]:
    """The commands that are here and not in the backup."""
    return [p for p in _commands(Path(settings.commands_dir)) if f"{COMMANDS}/{p.name}" not in content.files]


def put(content: Content, path: Path, settings: Config, more: Sequence[str] = ()) -> None:
    """Make this machine that adapter, wholly or not at all; the configuration comes last; `more`: names besides
    KEPT. ConfigError names the file that could not be written."""
    state, ahead = Path(settings.state_dir), dict(content.files)
    if "faces/snmp/engine.json" in ahead:
        ahead["faces/snmp/engine.json"] = engineid.ahead(ahead["faces/snmp/engine.json"], BOOTS_AHEAD)
    changes = [vault.Change(state / name, ahead.get(name)) for name in (*KEPT, *more, *DROPPED)]
    for name in sorted(n for n in ahead if n.startswith(f"{COMMANDS}/")):
        mode = 0o755 if name in content.programs else 0o644
        changes.append(vault.Change(Path(settings.commands_dir) / name.partition("/")[2], ahead[name], mode, True))
    changes += [vault.Change(where, None) for where in gone(content, settings)]
    # a new one as `provision` makes it: core and faces, two users, read it
    changes.append(vault.Change(path, ahead[SETTINGS], None if path.exists() else 0o644, True))
    try:
        for folder in (Path(settings.commands_dir), path.parent):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        vault.replace_all(changes)
    except OSError as e:
        raise ConfigError(f"{e.filename or state}: {e.strerror}; nothing was changed") from e


def _kept(state: Path, name: str) -> bytes | None:
    """A file beneath the state folder; None if it is not there. Links are not followed: root reads here what core and
    faces have put there, and either gets his own folder back. ConfigError."""
    folder, *rest = name.split("/")
    opened = []
    try:
        opened.append(os.open(state / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        for part in rest[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(rest[-1], flags, dir_fd=opened[-1]), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{state / name}: no plain file")
            data = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        link = e.errno == errno.ELOOP
        raise ConfigError(f"{state / name}: {'a link: put the file itself there' if link else e.strerror}") from e
    finally:
        for fd in opened:
            os.close(fd)
    return _whole(state / name, data, FILE_LIMIT_BYTES)


def _read(path: Path, limit_bytes: int = FILE_LIMIT_BYTES) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    return _whole(path, data, limit_bytes)


def _whole(path: Path, data: bytes, limit_bytes: int) -> bytes:
    if len(data) > limit_bytes:
        raise ConfigError(f"{path}: larger than {limit_bytes // 2**20} MiB")
    return data


# --- the verbs ------------------------------------------------------------------------------------------------------


def backup(args: argparse.Namespace, settings: Config) -> int:
    """`ridethrough backup FILE`."""
    content = collect(args.config, settings, time.time())
    if args.file.exists():
        raise ConfigError(f"{args.file} is there already; give another name, or remove it")
    data = seal(content, _phrase(twice=True))
    _save(args.file, data)
    print(
        f"{args.file}: {len(data)} bytes, {len(content.files) - 1} files; without the pass phrase it is worth nothing"
    )
    return 0


def restore(args: argparse.Namespace) -> int:
    """`ridethrough restore FILE`: without --yes only says what is in it."""
    phrase = _phrase(twice=False)
    content = unseal(_read(args.file, TOTAL_LIMIT_BYTES), phrase)
    settings, problems = process.parse(content.files[SETTINGS])
    about = content.about()
    print(f"{args.file}: made {about['made']} on {about['host']} by version {about['version']}")
    print(f"  mode {settings.mode}, driver {settings.driver}, {len(settings.servers)} servers")
    print("  " + ", ".join(sorted(n for n in content.files if n not in (ABOUT, SETTINGS))))
    if extra := gone(content, settings):
        print(f"  commands that are not in it, and go: {', '.join(where.name for where in extra)}")
    for problem in problems:
        print(f"  mistake in its configuration: {problem.text}")
    if not args.yes:
        print("nothing was changed; with --yes this machine becomes that adapter")
        return 1
    with _stopped(settings):
        saved = _save_what_is(args.config, settings, phrase)
        put(content, args.config, settings)
    print(f"restored; start the agent now. {saved}")
    print("the adapter that this was must not run any more: both would be the same one to servers and managers")
    return 2 if problems else 0


def _save_what_is(path: Path, settings: Config, phrase: str) -> str:
    """Keep what this machine was, so that a restore can be undone; what to tell people about it."""
    was = collect(path, settings, time.time(), without=_nothing(settings))
    if not path.exists() and was.files.keys() == {ABOUT, SETTINGS}:
        return "There was nothing before."
    keep = Path(settings.state_dir) / time.strftime("before-restore-%Y%m%d-%H%M%S.backup")
    _save(keep, seal(was, phrase))
    return f"What was before is in {keep} (same pass phrase)."


def _save(path: Path, data: bytes) -> None:
    try:
        vault.write_private(path, data)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e


def _phrase(twice: bool) -> str:
    """The pass phrase, from the terminal or a line of standard input."""
    text = process.hidden_line("Pass phrase: ")
    if not PHRASE_MIN <= len(text) <= PHRASE_MAX or not text.isprintable():
        raise ConfigError(
            f"a pass phrase is one line of {PHRASE_MIN} to {PHRASE_MAX} printable characters, on the terminal or on "
            "standard input"
        )
    if twice and sys.stdin.isatty() and process.hidden_line("Once more: ") != text:
        raise ConfigError("that were two different ones: nothing was made")
    return text


@contextmanager
def _stopped(settings: Config) -> Iterator[None]:
    """Hold the core's lock: it neither runs nor starts meanwhile. ConfigError if it runs."""
    path = Path(settings.state_dir) / "core/lock"
    try:
        fd = vault.lock(path)
    except BlockingIOError:
        raise ConfigError("the agent runs; stop it first (systemctl stop 'ridethrough-*')") from None
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    try:
        yield
    finally:
        os.close(fd)
