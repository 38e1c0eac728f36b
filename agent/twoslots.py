"""The two slots of the image's card: which one runs, which is selected, which is tried at the next start."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import bootpart, vault
from .config import Config
from .model import ConfigError

SLOTS = ("a", "b")
DISK = "72696465"  # the card's MBR signature (image/layout.py)
NEEDED = ("vmlinuz", "initrd.img", "cmdline.txt")
SQUASHFS = b"hsqs"
TRIAL, PROVEN = "trial.json", "update.json"


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


def find(settings: Config, command_line: str = "") -> Card:
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


def disk(number: int, devices: Path = Path("/sys/dev/block")) -> Path:
    """The disk on which the block device of this number is a partition. OSError."""
    return (devices / f"{os.major(number)}:{os.minor(number)}").resolve(strict=True).parent


def of_one_card(here: Card, devices: Path = Path("/sys/dev/block")) -> None:
    """ConfigError if boot partition and roots are not of one disk: a copy of the card has the same marks."""
    boot = here.boot.stat().st_dev
    for device in here.roots.values():
        found = device.stat()
        if stat.S_ISBLK(found.st_mode) and disk(found.st_rdev, devices) != disk(boot, devices):
            raise ConfigError(f"{device} is on another disk than {here.boot}: is there a copy of the card? Unplug it")


def next_is_trial(here: Card) -> None:
    """The file that the firmware reads instead of config.txt for one start. ConfigError, OSError."""
    text = (here.boot / "config.txt").read_text().replace("include select.txt", f"os_prefix={here.other}/")
    if f"os_prefix={here.other}/" not in text:
        raise ConfigError(f"{here.boot}/config.txt includes no select.txt: this card is of another kind")
    vault.write_whole(here.boot / "tryboot.txt", text.encode(), None)


def back(here: Card) -> None:
    """Make the next start a trial of what stands in the other slot. ConfigError if nothing whole does."""
    if here.selected() != here.running:
        raise ConfigError(f"slot {here.running} is on trial itself: wait until it is confirmed")
    folder, device = here.boot / here.other, here.roots[here.other]
    try:
        of_one_card(here)
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        with device.open("rb") as file:
            if missing or file.read(len(SQUASHFS)) != SQUASHFS:
                raise ConfigError(f"slot {here.other} is empty: there is no other version to go back to")
        told = (folder / "cmdline.txt").read_text(errors="replace")
        if f"ridethrough.slot={here.other}" not in told.split():
            raise ConfigError(f"{folder}/cmdline.txt is not of this slot")
        with bootpart.writable(here.boot, here.mount):
            next_is_trial(here)
    except OSError as e:
        raise ConfigError(f"{e.filename or folder}: {e.strerror}; slot {here.running} stays in use") from e


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


def begin_trial(here: Card, about: Mapping[str, object]) -> None:
    """Keep what the trial must know. ConfigError."""
    try:
        vault.write_private(here.state / TRIAL, json.dumps({"slot": here.other, **about}).encode())
    except OSError as e:
        raise ConfigError(f"{here.state / TRIAL}: {e.strerror}; slot {here.running} stays in use") from e


def trial_of(here: Card) -> dict[str, object]:
    """What `begin_trial` kept of this slot's trial; empty if it is of another, or damaged."""
    try:
        found = json.loads((here.state / TRIAL).read_bytes()[:1000])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("slot") == here.running else {}


def proven_s(here: Card, version: str) -> int:
    """When the update of this version was made that proved itself last; 0 if that is not known."""
    try:
        found = json.loads((here.state / PROVEN).read_bytes()[:1000])
        return int(found["made_s"]) if found["version"] == version else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
