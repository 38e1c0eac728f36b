"""`ridethrough update`: writes a signed update into the slot that does not run, starts it on trial, and keeps it only
if it proves itself.

    card:  FAT with a/ and b/ (kernel, initrd, device trees) and select.txt     partition 2: root A     3: root B

    update   root of the other slot -> its folder on the FAT -> tryboot.txt, which the firmware reads instead of
             config.txt for one single start -> reboot on trial
    trial    `ridethrough update --confirm` (a service): core, page and a fresh word of the UPS within 5 minutes:
             select.txt names the new slot; else reboot, and the firmware starts the old one

Until select.txt is written, every start but that one is of the old slot. select.txt has the same length for both
slots and is overwritten in place, one sector: there is no moment without it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from . import bootpart, bundle, download, twoslots, vault
from .config import Config
from .model import FED_BY_MAINS, VERSION, Condition, ConfigError, View
from .twoslots import Card

CHARGE_LEAST_PCT = 80.0
FRESH_S = 30.0
KEYS = Path("/usr/share/ridethrough/update-keys")
SLOT_FILE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*){0,5}")
SLOT_LIMIT_BYTES, SLOT_FILES_LIMIT = 200 * 1024 * 1024, 2000
BUNDLE_LIMIT_BYTES = 2 * bundle.LINE_LIMIT_BYTES + 2**30
FORGETS = "what was written cannot be read back: the card is failing, replace it"


# --- may it be done? --------------------------------------------------------------------------------------------


def refusal(view: View, without_ups: bool) -> str:
    """Why this is no time for an update, or ''."""
    status = view.status
    if view.phase != "idle":
        return f"protection is at work ({view.phase}): wait until it is over"
    if status is None or view.age_s is None or view.age_s > FRESH_S:
        return "" if without_ups else "the UPS says nothing: --without-ups, if that is what the update is to mend"
    if status.source not in FED_BY_MAINS:
        return f"the UPS is not on mains ({status.source.value}): a board must not lose its power in an update"
    charge_pct = status.battery.charge_pct
    if charge_pct is not None and charge_pct < CHARGE_LEAST_PCT:
        return f"the battery is at {int(charge_pct)} %: wait for {CHARGE_LEAST_PCT:.0f} %"
    if status.battery.low or Condition.LOW_BATTERY in status.flags:
        return "the battery is low: wait until it is charged"
    return ""


def refusal_of_all(views: Mapping[str, View], without_ups: bool) -> str:
    """As `refusal`, of each UPS of this host; the first one's name is ''."""
    for name, view in views.items():
        if why := refusal(view, without_ups):
            return f"UPS {name}: {why}" if name else why
    return ""


def wrong_version(manifest: bundle.Manifest, running: str, again: bool, since_s: int = 0) -> str:
    """Why this update is not for this adapter, or ''; `since_s`: when the one that runs was made, 0: not known."""
    if manifest.board != board():
        return f"the update is for {manifest.board}, this is {board()}"
    new, old = bundle.number(manifest.version), bundle.number(running)
    if new < old:
        return f"version {manifest.version} is older than {running}, which runs"
    if new == old and manifest.made_s < since_s:
        return f"this version {manifest.version} was made before the one that runs"
    if new == old and not again:
        return f"version {running} runs already (--again writes it all the same)"
    return ""


def board() -> str:
    """This board's kind, as bundles name it."""
    return {"aarch64": "arm64", "x86_64": "amd64"}.get(platform.machine(), platform.machine())


def trusted_keys(folder: Path) -> list[bytes]:
    """The public keys of the image, one file each. ConfigError if there is none."""
    found = [bundle.public_key(path.read_text()) for path in sorted(folder.glob("*.pub"))]
    if not found:
        raise ConfigError(f"{folder}: no key is there, so no update can be trusted")
    return found


# --- writing ----------------------------------------------------------------------------------------------------


def install(stream: IO[bytes], manifest: bundle.Manifest, here: Card, say: Callable[[str], None]) -> None:
    """Write the other slot whole and make the next start its trial. ConfigError names what failed; the running slot
    stays the selected one in any case."""
    if here.selected() != here.running:
        raise ConfigError(f"slot {here.running} is on trial itself: wait until it is confirmed")
    slot, by_name = here.other, {part.name: part for part in manifest.parts}
    where = here.state
    try:
        lock = vault.lock(here.state / "update.lock")
    except BlockingIOError:
        raise ConfigError("another update is being written") from None
    except OSError as e:
        raise ConfigError(f"{here.state}: {e.strerror}") from e
    packed = here.state / "slot.tar"
    try:
        where = here.boot
        twoslots.of_one_card(here)
        with bootpart.writable(here.boot, here.mount):
            (here.boot / "tryboot.txt").unlink(missing_ok=True)
        where = packed
        packed.unlink(missing_ok=True)
        with packed.open("x+b") as file:
            _room(packed, by_name[bundle.SLOT].bytes)
            bundle.copy_part(stream, by_name[bundle.SLOT], file.write, _telling(say, packed, by_name[bundle.SLOT]))
            where = here.roots[slot]
            _write_root(stream, by_name[bundle.ROOT], where, say)
            if stream.read(1):
                raise ConfigError("the update goes on after its end: not what was signed")
            where = here.boot / slot
            say(f"writing {where}")
            with bootpart.writable(here.boot, here.mount):
                file.flush()
                _unpack(file, by_name[bundle.SLOT], where)
                twoslots.next_is_trial(here)
    except OSError as e:
        raise ConfigError(f"{e.filename or where}: {e.strerror or e}; slot {here.running} stays in use") from e
    finally:
        packed.unlink(missing_ok=True)
        os.close(lock)


def _room(path: Path, wanted: int) -> None:
    """ConfigError if the file system has no room for so many bytes."""
    found = os.statvfs(path.parent)
    if found.f_bavail * found.f_frsize < wanted:
        raise ConfigError(
            f"{path}: needs {wanted // 2**20 + 1} MiB, {found.f_bavail * found.f_frsize // 2**20} are free"
        )


def _telling(say: Callable[[str], None], where: Path, part: bundle.Part) -> Callable[[int], None]:
    """Says every tenth of a part that is done."""
    told = 0

    def done(count: int) -> None:
        nonlocal told
        if count * 10 // part.bytes > told:
            told = count * 10 // part.bytes
            say(f"writing {where}: {told * 10} %")

    return done


def _write_root(stream: IO[bytes], part: bundle.Part, device: Path, say: Callable[[str], None]) -> None:
    """Write, flush, and read it back: a card that forgets must be found out now."""
    with device.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if part.bytes > size:
            raise ConfigError(f"{device}: {part.bytes} bytes do not fit into its {size}")
        file.seek(0)
        bundle.copy_part(stream, part, file.write, _telling(say, device, part))
        file.flush()
        os.fsync(file.fileno())
        if _kept(file, part.bytes) != part.sha256:
            raise ConfigError(f"{device}: {FORGETS}")


def _kept(file: IO[bytes], count: int) -> str:
    """SHA-256 of the first `count` bytes as the card has them, not the memory."""
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    digest, left = hashlib.sha256(), count
    while left and (data := file.read(min(bundle.CHUNK_BYTES, left))):
        digest.update(data)
        left -= len(data)
    return digest.hexdigest() if not left else ""


class _Counted:
    """A file that is read once from its beginning, and the digest of that."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.digest.update(data)
        return data


def _unpack(packed: IO[bytes], part: bundle.Part, folder: Path) -> None:
    """The slot's folder anew: only plain files with plain names, out of the very bytes that were signed, read back.
    ConfigError, OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    total, written = 0, dict[str, tuple[int, str]]()
    packed.seek(0)
    source = _Counted(packed)
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", source), mode="r|"
        ) as tar:  # "|": as it comes, and nothing is decompressed
            for row in tar:
                if row.isdir():
                    continue
                if not row.isreg() or not SLOT_FILE.fullmatch(row.name) or row.name in written:
                    raise ConfigError(f"{bundle.SLOT}: {row.name[:80]!r} does not belong there")
                total += row.size
                if total > SLOT_LIMIT_BYTES or len(written) >= SLOT_FILES_LIMIT:
                    raise ConfigError(
                        f"{bundle.SLOT}: more than {SLOT_LIMIT_BYTES // 2**20} MiB or {SLOT_FILES_LIMIT} files"
                    )
                inner = tar.extractfile(row)
                data = inner.read() if inner else b""
                written[row.name] = _write(folder / row.name, data)
    except tarfile.TarError as e:
        raise ConfigError(f"{bundle.SLOT}: {e}") from e
    while source.read(bundle.CHUNK_BYTES):
        pass  # what follows the archive's end was signed as well
    if source.digest.hexdigest() != part.sha256:
        raise ConfigError(f"{packed.name}: {FORGETS}")
    if missing := [name for name in twoslots.NEEDED if name not in written]:
        raise ConfigError(f"{bundle.SLOT}: {', '.join(missing)} is missing")
    # one bundle serves either slot: here it learns which root is its own
    told = folder / "cmdline.txt"
    text = re.sub(r"ridethrough\.slot=[ab]\b", f"ridethrough.slot={folder.name}", told.read_text(errors="replace"))
    written["cmdline.txt"] = _write(told, text.encode())
    for name, (size, digest) in written.items():
        with (folder / name).open("rb") as file:
            if _kept(file, size) != digest or file.read(1):
                raise ConfigError(f"{folder / name}: {FORGETS}")


def _write(path: Path, data: bytes) -> tuple[int, str]:
    """Write a file of the slot, through to the card; its size and digest. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data), hashlib.sha256(data).hexdigest()


# --- the verb ---------------------------------------------------------------------------------------------------


def main(args: argparse.Namespace, settings: Config, views: Callable[[], Mapping[str, View]]) -> int:
    """`ridethrough update FILE|URL`. `views()`: what the core of each UPS says (`refusal_of_all`). ConfigError."""
    here = twoslots.find(settings)
    if bool(args.source) == args.back:
        raise ConfigError("say which: ridethrough update FILE or URL, or --back")
    if not here.running:
        raise ConfigError("this host was not started from an image with two slots; update it as it was installed")
    if os.geteuid() != 0:
        raise ConfigError("an update writes the card: run it as root")
    seen = views()
    if why := refusal_of_all(seen, args.without_ups):
        raise ConfigError(f"not now: {why}")
    about: dict[str, object] = {"without_ups": args.without_ups, "seconds": [name for name in seen if name]}
    if args.back:
        twoslots.back(here)
        twoslots.begin_trial(here, about)
        reboot("0 tryboot")
        return 0
    with _open(args.source) as stream:
        manifest = bundle.read_head(stream, trusted_keys(KEYS))
        if why := wrong_version(manifest, VERSION, args.again, twoslots.proven_s(here, VERSION)):
            raise ConfigError(why)
        print(f"version {manifest.version} into slot {here.other}", flush=True)
        install(stream, manifest, here, lambda line: print(line, flush=True))
    twoslots.begin_trial(here, {**about, "version": manifest.version, "made_s": manifest.made_s})
    if why := refusal_of_all(views(), args.without_ups):
        raise ConfigError(f"written, but not started: {why}; then once more: ridethrough update {args.source}")
    print("the host starts again now, with the new version on trial")
    reboot("0 tryboot")
    return 0


def reboot(argument: str) -> None:
    """Start again, with a word for the firmware. ConfigError."""
    argv = ["systemctl", "reboot", *([f"--reboot-argument={argument}"] if argument else [])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{' '.join(argv)}: {done.stderr.strip()}")


@contextlib.contextmanager
def _open(source: str) -> Iterator[IO[bytes]]:
    """A file, or what is behind an address; the signature is what is trusted, not the way. ConfigError."""
    if source.startswith(("https://", "http://")):
        with download.stream(source, BUNDLE_LIMIT_BYTES, lambda line: print(line, flush=True)) as answer:
            yield answer
        return
    try:
        with open(source, "rb") as file:
            yield file
    except OSError as e:
        raise ConfigError(f"{source}: {e.strerror or e}") from e
