"""What the listener may do and for whom: its options and `rccmd.ini`, checked before anything opens."""

from __future__ import annotations

import configparser
import difflib
import ipaddress
import math
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from .codec import PORT

FILE_LIMIT_BYTES = 64 * 1024
GRACE_LIMIT_S = 3600.0
_OPTIONS = {  # key in rccmd.ini -> option of the command line
    "bind": "--bind",
    "allow": "--allow",
    "udp": "--udp",
    "grace_s": "--grace",
    "need": "--need",
    "on_shutdown": "--on-shutdown",
    "on_message": "--on-message",
    "log": "--log",
}
KEYS = tuple(_OPTIONS)

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class SettingsError(Exception):
    """The settings are wrong; one line for each mistake, with its place and the remedy."""


@dataclass(frozen=True)
class Settings:
    """Everything the listener needs to know. Commands are argument lists; () means none is configured."""

    allow: tuple[Network, ...]
    host: str = "0.0.0.0"
    port: int = PORT
    udp: bool = False
    grace_s: float = 0.0
    need: int = 1  # so many senders must ask before the shutdown runs
    on_shutdown: tuple[str, ...] = ()
    on_message: tuple[str, ...] = ()
    execute: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    log: str | None = None

    def allows(self, address: Address) -> bool:
        """Is this sender on the list?"""
        return any(address in network for network in self.allow)


def address_of(host: str) -> Address:
    """A peer's address as the socket names it: IPv4 inside IPv6 becomes IPv4, a zone (%eth0) is dropped."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def load(options: Mapping[str, str], file: str | None = None) -> Settings:
    """Settings from `rccmd.ini` (if a file is given) and options, by KEYS; options win. Raises SettingsError."""
    problems: list[str] = []
    values: dict[str, tuple[str, str]] = {}  # key -> (where it stands, text)
    execute: dict[str, tuple[str, ...]] = {}
    if file is not None:
        _read(file, values, execute, problems)
    values.update({key: (_OPTIONS[key], text) for key, text in options.items()})

    def text(key: str, default: str = "") -> tuple[str, str]:
        return values.get(key, (key, default))

    host, port = _bind(*text("bind", f"0.0.0.0:{PORT}"), problems)
    settings = Settings(
        allow=_allow(*text("allow"), problems),
        host=host,
        port=port,
        udp=_yes(*text("udp", "no"), problems),
        grace_s=_seconds(*text("grace_s", "0"), problems),
        need=_count(*text("need", "1"), problems),
        on_shutdown=_command(*text("on_shutdown"), problems) if "on_shutdown" in values else (),
        on_message=_command(*text("on_message"), problems) if "on_message" in values else (),
        execute=execute,
        log=text("log")[1] or None,
    )
    if not (problems or settings.on_shutdown or settings.on_message or settings.execute):
        problems.append("nothing to do: name a command with --on-shutdown CMD (or on_shutdown in rccmd.ini)")
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _count(where: str, text: str, problems: list[str]) -> int:
    """A number of senders."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 16:
        return int(text)
    problems.append(f"{where} = {text}: so many senders must ask, 1 to 16")
    return 1


def _read(
    file: str, values: dict[str, tuple[str, str]], execute: dict[str, tuple[str, ...]], problems: list[str]
) -> None:
    """Collects what the file says. Names in [execute] keep their case; % and : have no meaning of their own."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="\0")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case
    try:
        with open(file, "rb") as stream:
            data = stream.read(FILE_LIMIT_BYTES + 1)
        if len(data) > FILE_LIMIT_BYTES:
            raise ValueError(f"more than {FILE_LIMIT_BYTES} bytes")
        parser.read_string(data.decode("utf-8-sig"), source=file)
    except OSError as e:
        problems.append(f"{file}: {e.strerror}")
        return
    except (ValueError, configparser.Error) as e:
        problems.append(f"{file}: {' '.join(str(e).split())}")
        return
    for section in parser.sections():
        if section == "listen":
            for key, text in parser.items(section):
                if key in KEYS:
                    values[key] = (f"{file}: [listen] {key}", text)
                else:
                    problems.append(f"{file}: [listen]: unknown key {key!r}{_nearest(key, KEYS)}")
        elif section == "execute":
            for name, text in parser.items(section):
                execute[name] = _command(f"{file}: [execute] {name}", text, problems)
        else:
            problems.append(f"{file}: unknown section [{section}]{_nearest(section, ('listen', 'execute'))}")


def _nearest(name: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"


def _bind(where: str, text: str, problems: list[str]) -> tuple[str, int]:
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        problems.append(f"{where}: {text!r} is not HOST:PORT (examples: 0.0.0.0:{PORT}, [::]:{PORT})")
        return "", 0
    return host, int(port)


def _allow(where: str, text: str, problems: list[str]) -> tuple[Network, ...]:
    networks: list[Network] = []
    entries = text.replace(",", " ").split()
    for entry in entries:
        try:
            networks.append(ipaddress.ip_network(entry if "/" in entry else address_of(entry)))
        except ValueError:
            problems.append(f"{where}: {entry!r} is not an IP address or network (192.0.2.10, 192.0.2.0/24)")
    if not entries:
        problems.append(
            "who may shut this machine down? Nobody is allowed yet: name the adapter with --allow IP[,IP...] "
            "(or allow in rccmd.ini)"
        )
    return tuple(networks)


def _yes(where: str, text: str, problems: list[str]) -> bool:
    if text not in ("yes", "no"):
        problems.append(f"{where}: {text!r} is neither yes nor no")
    return text == "yes"


def _seconds(where: str, text: str, problems: list[str]) -> float:
    try:
        value_s = float(text)
    except ValueError:
        value_s = math.nan
    if not 0 <= value_s <= GRACE_LIMIT_S:
        problems.append(f"{where}: {text!r} is not a number of seconds from 0 to {GRACE_LIMIT_S:.0f}")
        return 0.0
    return value_s


def _command(where: str, text: str, problems: list[str]) -> tuple[str, ...]:
    """The command as an argument list with the program's full path, which must be there and executable."""
    try:
        argv = shlex.split(text)
    except ValueError as e:
        problems.append(f"{where}: {text!r}: {e}")
        return ()
    if not argv:
        problems.append(f"{where}: the command is empty")
        return ()
    program = shutil.which(argv[0])
    if program is None:
        problems.append(f"{where}: {argv[0]!r} is not there or not executable")
        return ()
    return (program, *argv[1:])
