"""More UPSes on one adapter of the image: each has a configuration of its own, and its own core and faces.

    BOOT/ridethrough-NAME.toml   the configuration of the UPS NAME; taken over like ridethrough.toml (provision.py)
    ETC/NAME.toml                as it was taken over; as long as it is there, its services are started at each start

They run as ridethrough-core@NAME and ridethrough-faces@NAME, with their state in a folder of the first one's, because
only that is on the data partition.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from . import addresses, bootfile, detect, process
from .bootfile import Given
from .config import Config
from .hostsetup import System
from .model import ConfigError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
FILE = re.compile(r"ridethrough-(.+)\.toml(\.txt)?", re.IGNORECASE)
#: what lies in the first one's folders already
TAKEN = ("core", "faces", "system", "ridethrough")


def file_of(name: str) -> str:
    """What its file on the boot partition is called."""
    return f"ridethrough-{name}.toml"


def config_of(config: Path, name: str) -> Path:
    """Where its configuration is, beside the first one's, which is `config`."""
    return config.with_name(f"{name}.toml")


def units(name: str) -> tuple[str, ...]:
    """Its services."""
    return (f"ridethrough-core@{name}.service", f"ridethrough-faces@{name}.service")


def start_units(units: Sequence[str]) -> None:
    """Have systemd start them as soon as their time has come. OSError with what it says."""
    done = subprocess.run(["systemctl", "--no-block", "start", *units], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(5, f"cannot be started: {done.stderr.strip()}", units[0])


def wrong_name(name: str, file: str = "") -> str:
    """What is wrong with the name of a second UPS, or with that of its file on the boot partition, or ''."""
    if NAME.fullmatch(name) and name not in TAKEN:
        hidden = " (Windows may hide how a name ends)" if file.lower().endswith(".txt") else ""
        return f"call it {file_of(name)}{hidden}" if file not in ("", file_of(name)) else ""
    return f"a second UPS is called by 1 to 31 small letters, digits and dashes, and not {' or '.join(TAKEN)}"


def offered(boot: Path) -> dict[str, str]:
    """The files on the boot partition and the NAMEs that they mean, right or wrong. OSError."""
    names = sorted(bootfile.plain(entry.name) for entry in boot.iterdir())
    found = {name: FILE.fullmatch(name) for name in names}
    # FAT knows no small and capital letters: whoever's file is called by capitals alone means small ones
    return {
        file: match[1] if file.startswith("ridethrough-") else match[1].lower()
        for file, match in found.items()
        if match
    }


def known(config: Path) -> list[str]:
    """The NAMEs of the configurations beside the first one's, which is `config`."""
    if not config.parent.is_dir():
        return []
    return sorted(p.stem for p in config.parent.glob("*.toml") if p != config and not wrong_name(p.stem))


def states(state: Path) -> list[Path]:
    """The folders in that of the first one in which others keep, or have kept, their state. OSError."""
    found = sorted(p for p in state.iterdir() if p.is_dir() and not p.is_symlink()) if state.is_dir() else []
    return [p for p in found if not wrong_name(p.name) and any((p / part).is_dir() for part in ("core", "faces"))]


def wrong(name: str, given: Given, first: Config, others: Mapping[str, Config]) -> list[str]:
    """What keeps a file that is good in itself from being the UPS `name`, beside the first and the others."""
    settings = given.settings
    if settings is None:
        return ["says nothing of a UPS: write its whole configuration into it"]
    found = []
    if given.system != System():
        found.append(
            "[system]: the host itself is set up in ridethrough.toml; here only setup_code, password_hash, secrets"
        )
    for key, path in folders(name, first).items():
        if getattr(settings, key) != path:
            found.append(f'[agent] {key}: must be "{path}" for this UPS')
    for who, other in {"ridethrough.toml": first, **{file_of(n): c for n, c in others.items()}}.items():
        found += clash(settings, who, other)
    return found


def clash(settings: Config, who: str, other: Config) -> list[str]:
    """What `settings` cannot have because `other`, the configuration of the file `who`, has it."""
    found = []
    if detect.AUTO in (settings.driver, other.driver):
        found.append(f'[ups] driver = "auto", here or in {who}: with a second UPS each must say which one is its own')
    if settings.driver not in ("", detect.AUTO, "simulator") and _same_ups(settings, other):
        found.append(f"[ups]: {who} means the same UPS: each must say which one is its own")
    for key, mine, theirs in (("web", settings.web, other.web), ("snmp", settings.snmp, other.snmp)):
        if mine and theirs and _port(mine.listen) == _port(theirs.listen):
            found.append(f'[{key}] listen = "{mine.listen}": {who} has this port already')
    return found


def _same_ups(one: Config, other: Config) -> bool:
    port = one.ups.get("port")
    return (one.driver, one.ups) == (other.driver, other.ups) or bool(port and port == other.ups.get("port"))


def folders(name: str, first: Config) -> dict[str, str]:
    """The options that say where it keeps what; as the units of the image have it."""
    return {"state_dir": f"{first.state_dir}/{name}", "run_dir": f"{first.run_dir}-{name}"}


def page_port(settings: Config) -> int | None:
    """The port at which the network reaches the page; None: it does not."""
    if settings.web is None:
        return None
    host, port = addresses.split_address(settings.web.listen)
    return None if addresses.is_loopback(host) else port


def page(name: str, settings: Config, hostname: str, codes: Iterable[str]) -> list[str]:
    """How people reach its page: lines for console and report."""
    port = page_port(settings)
    if port is None:
        return [f"UPS {name}: no page in the network ([web] listen)"]
    lines = [f"UPS {name}: https://{hostname}.local:{port}/"]
    return [*lines, *(f"Set-up code of {name}: {code} (user admin, once)" for code in codes)]


def read(config: Path, name: str) -> Config | None:
    """The configuration of a known one; None if it is not good."""
    try:
        settings, problems = process.load(config_of(config, name))
    except ConfigError:
        return None
    return None if any(p.section == "agent" for p in problems) else settings


def _port(listen: str) -> int:
    return addresses.split_address(listen)[1]
