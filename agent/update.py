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
import http.client
import json
import os
import platform
import re
import shutil
import socket
import ssl
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import addresses, bootpart, bundle, bus, steer, vault, wire
from .config import Config
from .model import VERSION, ConfigError, Source, View

CHARGE_LEAST_PCT = 80.0
TRIAL_S, LOOK_EVERY_S, FRESH_S = 300.0, 5.0, 30.0
ANSWER_S = 5.0
KEYS = Path("/usr/share/ridethrough/update-keys")
SLOTS = ("a", "b")
DISK = "72696465"  # the card's MBR signature (image/layout.py)
SLOT_FILE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*){0,5}")
NEEDED = ("vmlinuz", "initrd.img", "cmdline.txt")
SLOT_LIMIT_BYTES = 200 * 1024 * 1024
URL_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where the slots are; `running`: the slot of this start, "" if this host has no slots."""

    boot: Path
    roots: dict[str, Path]
    state: Path
    running: str
    mount: bootpart.Mount = bootpart.remount

    @property
    def other(self) -> str:
        """The slot that does not run."""
        return SLOTS[1 - SLOTS.index(self.running)]

    def selected(self) -> str:
        """The slot that is started without a trial. ConfigError if that is not to be seen."""
        try:
            text = (self.boot / "select.txt").read_text()
        except (OSError, ValueError) as e:
            raise ConfigError(f"{self.boot}/select.txt: {e}") from e
        found = re.fullmatch(r"os_prefix=([ab])/\s*", text)
        if not found:
            raise ConfigError(f"{self.boot}/select.txt: {text[:40]!r} names no slot")
        return found[1]


def card(settings: Config, command_line: str = "") -> Card:
    """This host's card."""
    text = command_line or Path("/proc/cmdline").read_text()
    found = re.search(r"(?:^|\s)ridethrough\.slot=([ab])(?:\s|$)", text)
    by_id = Path("/dev/disk/by-partuuid")
    return Card(
        boot=bootpart.PATH,
        roots={"a": by_id / f"{DISK}-02", "b": by_id / f"{DISK}-03"},
        state=Path(settings.state_dir) / "system",
        running=found[1] if found else "",
    )


# --- may it be done? --------------------------------------------------------------------------------------------


def refusal(view: View, without_ups: bool) -> str:
    """Why this is no time for an update, or ''."""
    status = view.status
    if view.phase != "idle":
        return f"protection is at work ({view.phase}): wait until it is over"
    if status is None or view.age_s is None or view.age_s > FRESH_S:
        return "" if without_ups else "the UPS says nothing: --without-ups, if that is what the update is to mend"
    if status.source not in (Source.MAINS, Source.BOOST, Source.BUCK):
        return f"the UPS is not on mains ({status.source.value}): a board must not lose its power in an update"
    charge_pct = status.battery.charge_pct
    if charge_pct is not None and charge_pct < CHARGE_LEAST_PCT:
        return f"the battery is at {charge_pct:.0f} %: wait for {CHARGE_LEAST_PCT:.0f} %"
    return ""


def wrong_version(manifest: bundle.Manifest, running: str, again: bool) -> str:
    """Why this update is not for this adapter, or ''."""
    if manifest.board != board():
        return f"the update is for {manifest.board}, this is {board()}"
    new, old = bundle.number(manifest.version), bundle.number(running)
    if new < old:
        return f"version {manifest.version} is older than {running}, which runs"
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
    packed = here.state / "slot.tar"
    try:
        with bootpart.writable(here.boot, here.mount):
            (here.boot / "tryboot.txt").unlink(missing_ok=True)
        vault.make_folder(here.state)
        with packed.open("wb") as file:
            bundle.copy_part(stream, by_name[bundle.SLOT], file.write)
        _write_root(stream, by_name[bundle.ROOT], here.roots[slot], say)
        say(f"writing {here.boot / slot}")
        with bootpart.writable(here.boot, here.mount):
            _unpack(packed, here.boot / slot)
            text = (here.boot / "config.txt").read_text().replace("include select.txt", f"os_prefix={slot}/")
            if f"os_prefix={slot}/" not in text:
                raise ConfigError(f"{here.boot}/config.txt does not include select.txt: this card is of another kind")
            vault.write_whole(here.boot / "tryboot.txt", text.encode(), None)
    except OSError as e:
        raise ConfigError(f"{e.filename or here.boot}: {e.strerror}; slot {here.running} stays in use") from e
    finally:
        packed.unlink(missing_ok=True)


def _write_root(stream: IO[bytes], part: bundle.Part, device: Path, say: Callable[[str], None]) -> None:
    """Write, flush, and read it back: a card that forgets must be found out now."""
    told = 0

    def done(count: int) -> None:
        nonlocal told
        if count * 10 // part.bytes > told:
            told = count * 10 // part.bytes
            say(f"writing {device}: {told * 10} %")

    with device.open("r+b") as file:
        bundle.copy_part(stream, part, file.write, done)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        digest, left = hashlib.sha256(), part.bytes
        while left and (data := file.read(min(bundle.CHUNK_BYTES, left))):
            digest.update(data)
            left -= len(data)
    if left or digest.hexdigest() != part.sha256:
        raise ConfigError(f"{device}: what was written cannot be read back: the card is failing, replace it")


def _unpack(packed: Path, folder: Path) -> None:
    """The slot's folder anew: only plain files with plain names. ConfigError, OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    total, names = 0, set()
    try:
        with tarfile.open(packed) as tar:
            for row in tar:
                if row.isdir():
                    continue
                if not row.isreg() or not SLOT_FILE.fullmatch(row.name):
                    raise ConfigError(f"{bundle.SLOT}: {row.name[:80]!r} does not belong there")
                total += row.size
                if total > SLOT_LIMIT_BYTES:
                    raise ConfigError(f"{bundle.SLOT}: more than {SLOT_LIMIT_BYTES // 2**20} MiB")
                names.add(row.name)
                target = folder / row.name
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(row)
                with target.open("wb") as file:
                    if source:
                        shutil.copyfileobj(source, file)
                    file.flush()
                    os.fsync(file.fileno())
    except tarfile.TarError as e:
        raise ConfigError(f"{bundle.SLOT}: {e}") from e
    if missing := [name for name in NEEDED if name not in names]:
        raise ConfigError(f"{bundle.SLOT}: {', '.join(missing)} is missing")
    # one bundle serves either slot: here it learns which root is its own
    told = folder / "cmdline.txt"
    text = re.sub(r"ridethrough\.slot=[ab]\b", f"ridethrough.slot={folder.name}", told.read_text(errors="replace"))
    vault.write_whole(told, text.encode(), None)


def select(here: Card, slot: str) -> None:
    """Let every later start be of this slot. OSError."""
    path, data = here.boot / "select.txt", f"os_prefix={slot}/\n".encode()
    with bootpart.writable(here.boot, here.mount):
        if path.exists() and path.stat().st_size == len(data):
            with path.open("r+b") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        else:
            vault.write_whole(path, data, None)
        (here.boot / "tryboot.txt").unlink(missing_ok=True)


# --- the trial --------------------------------------------------------------------------------------------------


def confirm(
    here: Card,
    healthy: Callable[[], str],
    now: Callable[[], float],
    sleep: Callable[[float], None],
    say: Callable[[str], None],
) -> bool:
    """Is this start one on trial, then wait until it is healthy (`healthy()` is '' then, else what is missing) and
    select its slot. False: it did not prove itself in time."""
    if not here.running or here.selected() == here.running:
        return True
    end_s = now() + TRIAL_S
    while True:
        missing = healthy()
        if not missing:
            select(here, here.running)
            say(f"slot {here.running} with version {VERSION} proved itself and is the one to start from now on")
            return True
        if now() >= end_s:
            say(f"slot {here.running} did not prove itself in {TRIAL_S:.0f} s: {missing}; the old one comes back")
            return False
        sleep(LOOK_EVERY_S)


def health(settings: Config, without_ups: bool) -> str:
    """What is not well, or ''."""
    try:
        reply = bus.ask(steer.socket_path(settings), {"type": "query", "what": "status"})
        view = wire.from_json(View, reply.get("view"))
    except (bus.BusError, ValueError) as e:
        return f"core: {e}"
    if not without_ups and (view.status is None or view.age_s is None or view.age_s > FRESH_S):
        return f"UPS: no fresh word of it ({view.link} {view.link_detail})".rstrip()
    return _page(settings)


def _page(settings: Config) -> str:
    """Does the page answer? '' also if none is wanted."""
    if settings.web is None:
        return ""
    host, port = addresses.split_address(settings.web.listen)
    host = addresses.nearby(host)
    blind = ssl.create_default_context()  # it is this host itself, whatever its certificate says
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    why = ""
    for connection in (
        http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=blind),
        http.client.HTTPConnection(host, port, timeout=ANSWER_S),
    ):
        try:
            connection.request("GET", "/", headers={"Host": socket.gethostname()})
            connection.getresponse()
            return ""
        except (OSError, http.client.HTTPException) as e:
            why = f"page: no answer ({e})"
        finally:
            connection.close()
    return why


# --- the verb ---------------------------------------------------------------------------------------------------


def main(args: argparse.Namespace, settings: Config, view: Callable[[], View]) -> int:
    """`ridethrough update FILE|URL`, or `--confirm`. ConfigError."""
    here = card(settings)
    if args.confirm:
        return _confirm(here, settings)
    if not args.source:
        raise ConfigError("say which: ridethrough update FILE or URL")
    if not here.running:
        raise ConfigError("this host was not started from an image with two slots; update it as it was installed")
    if os.geteuid() != 0:
        raise ConfigError("an update writes the card: run it as root")
    if why := refusal(view(), args.without_ups):
        raise ConfigError(f"not now: {why}")
    with _open(args.source) as stream:
        manifest = bundle.read_head(stream, trusted_keys(KEYS))
        if why := wrong_version(manifest, VERSION, args.again):
            raise ConfigError(why)
        print(f"version {manifest.version} into slot {here.other}")
        install(stream, manifest, here, print)
    vault.write_private(here.state / "trial.json", json.dumps({"without_ups": args.without_ups}).encode())
    if why := refusal(view(), args.without_ups):
        raise ConfigError(f"written, but not started: {why}; start again: ridethrough update --again ...")
    print("the host starts again now, with the new version on trial")
    _reboot("0 tryboot")
    return 0


def _confirm(here: Card, settings: Config) -> int:
    try:
        without_ups = bool(json.loads((here.state / "trial.json").read_bytes()[:1000])["without_ups"])
    except (OSError, ValueError, KeyError, TypeError):
        without_ups = False
    if confirm(here, lambda: health(settings, without_ups), time.monotonic, time.sleep, print):
        return 0
    _reboot("")
    return 1


def _reboot(argument: str) -> None:
    argv = ["systemctl", "reboot", *([f"--reboot-argument={argument}"] if argument else [])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{' '.join(argv)}: {done.stderr.strip()}")


@contextlib.contextmanager
def _open(source: str) -> Iterator[IO[bytes]]:
    """A file, or what is behind an https address; the signature is what is trusted, not the way. ConfigError."""
    try:
        if source.startswith(("https://", "http://")):
            with urllib.request.build_opener().open(source, timeout=URL_WITHIN_S) as answer:
                yield answer
        else:
            with open(source, "rb") as file:
                yield file
    except OSError as e:
        raise ConfigError(f"{source}: {getattr(e, 'reason', None) or e.strerror or e}") from e
