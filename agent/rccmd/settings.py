"""What the listener may do and for whom: its options and `rccmd.ini`, checked before anything opens."""

from __future__ import annotations

import configparser
import ipaddress
import math
import os
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Callable, NamedTuple, Union

from .codec import PORT

FILE_LIMIT_BYTES = 64 * 1024
GRACE_LIMIT_S = 3600.0
VOTE_S, VOTE_LEAST_S, VOTE_LIMIT_S = 3600.0, 60.0, 86400.0
ALIVE_LIMIT_S = 7 * 86400.0
RELAYS_LIMIT = 64
USERS = ("users",)  # as on_message: the terminals of everybody who is logged in
_OPTIONS = {  # key in rccmd.ini -> option of the command line
    "bind": "--bind",
    "allow": "--allow",
    "udp": "--udp",
    "grace_s": "--grace",
    "need": "--need",
    "vote_s": "--vote",
    "state": "--state",
    "on_shutdown": "--on-shutdown",
    "on_message": "--on-message",
    "on_wakeup": "--on-wakeup",
    "log": "--log",
    "tls": "--tls",
    "senders": "--senders",
    "state_dir": "--state-dir",
    "dry_run": "--dry-run",
}
KEYS = (*_OPTIONS, "require_tls", "relay", "alive_s", "unreachable_counts", "selftest")

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class SettingsError(Exception):
    """The settings are wrong; one line for each mistake, with its place and the remedy."""


class Settings(NamedTuple):
    """Everything the listener needs to know. Commands are argument lists; () means none is configured."""

    allow: tuple[Network, ...]
    host: str = "0.0.0.0"
    port: int = PORT
    udp: bool = False
    grace_s: float = 0.0
    need: int = 1  # so many senders must ask before the shutdown runs
    vote_s: float = VOTE_S  # the word of one counts for so long
    state: str | None = None  # a file that keeps their words over a restart
    on_shutdown: tuple[str, ...] = ()
    on_message: tuple[str, ...] = ()
    on_wakeup: tuple[str, ...] = ()
    execute: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    log: str | None = None
    tls: str | None = None  # our key and certificate
    senders: str | None = None  # a folder with a certificate for each adapter that may command
    require_tls: bool = False
    state_dir: str | None = None
    dry_run: bool = False
    relay: tuple[tuple[str, int], ...] = ()
    alive_s: float = 0.0  # a sender that was not heard for so long is not alive; 0: nobody looks
    unreachable_counts: bool = False  # once one has asked, a sender that is not alive counts as having asked
    selftest: tuple[str, ...] = ()

    def allows(self, address: Address) -> bool:
        """Is this sender on the list? Without a list, which only secure mode permits, its certificate decides."""
        return not self.allow or any(address in network for network in self.allow)

    def state_file(self, name: str) -> str | None:
        """The path of a file in `state_dir`; None: nothing is kept."""
        return os.path.join(self.state_dir, name) if self.state_dir is not None else None


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
    values.update({key: (_OPTIONS.get(key, key), text) for key, text in options.items()})

    def text(key: str, default: str = "") -> tuple[str, str]:
        return values.get(key, (key, default))

    def number_s(key: str, default_s: float, limit_s: float, least_s: float = 0.0) -> float:
        return _seconds(*text(key, f"{default_s:.0f}"), problems, limit_s, least_s)

    def yes(key: str, default: str = "no") -> bool:
        return _yes(*text(key, default), problems)

    def command(key: str) -> tuple[str, ...]:
        return _command(*text(key), problems) if key in values else ()

    host, port = _bind(*text("bind", f"0.0.0.0:{PORT}"), problems)
    tls = text("tls")[1] or None
    require_tls = yes("require_tls", "yes" if tls else "no")
    state_dir = text("state_dir")[1] or None
    settings = Settings(
        allow=_allow(*text("allow"), problems, needed=not require_tls),
        host=host,
        port=port,
        udp=yes("udp"),
        grace_s=number_s("grace_s", 0.0, GRACE_LIMIT_S),
        need=_count(*text("need", "1"), problems),
        vote_s=number_s("vote_s", VOTE_S, VOTE_LIMIT_S, VOTE_LEAST_S),
        state=text("state")[1] or (os.path.join(state_dir, "votes") if state_dir else None),
        on_shutdown=command("on_shutdown"),
        on_message=_message(*text("on_message", "users"), problems),
        on_wakeup=command("on_wakeup"),
        execute=execute,
        log=text("log")[1] or None,
        tls=tls,
        senders=text("senders")[1] or None,
        require_tls=require_tls,
        state_dir=state_dir,
        dry_run=yes("dry_run"),
        relay=_relay(*text("relay"), problems),
        alive_s=number_s("alive_s", 0.0, ALIVE_LIMIT_S),
        unreachable_counts=yes("unreachable_counts"),
        selftest=command("selftest"),
    )
    if not problems:
        _together(settings, "on_message" in values, lambda key: text(key)[0], problems)
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _together(settings: Settings, message_given: bool, where: Callable[[str], str], problems: list[str]) -> None:
    """What is wrong with settings that are each right."""
    if not (settings.on_shutdown or message_given or settings.on_wakeup or settings.execute):
        problems.append("nothing to do: name a command with --on-shutdown CMD (or on_shutdown in rccmd.ini)")
    voices = sum(network.num_addresses for network in settings.allow)
    if settings.tls is None and settings.need > voices:
        problems.append(
            f"{where('need')} = {settings.need}: the list allows fewer senders, so nothing would ever run"
        )
    if (settings.tls is None) != (settings.senders is None):
        problems.append(
            "tls (our key and certificate) and senders (the folder of certificates that may command) need each other"
        )
    if settings.tls is not None and settings.state_dir is None:
        problems.append("tls: state_dir is missing: a folder that remembers which commands were run")
    if settings.require_tls and settings.tls is None:
        problems.append(f"{where('require_tls')} = yes: tls and senders are missing")
    if settings.require_tls and settings.udp:
        problems.append(f"{where('udp')} = yes: datagrams cannot be secured; remove it, or set require_tls = no")
    if settings.unreachable_counts and not settings.alive_s:
        problems.append(f"{where('unreachable_counts')} = yes: alive_s must say after how long a sender is not alive")
    if settings.state_dir is None and settings.selftest:
        problems.append(f"{where('selftest')}: state_dir is missing: a folder that remembers the result")


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
    import difflib  # only for a mistake: memory

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


def _allow(where: str, text: str, problems: list[str], *, needed: bool) -> tuple[Network, ...]:
    networks: list[Network] = []
    entries = text.replace(",", " ").split()
    for entry in entries:
        try:
            networks.append(ipaddress.ip_network(entry if "/" in entry else address_of(entry)))
        except ValueError:
            problems.append(f"{where}: {entry!r} is not an IP address or network (192.0.2.10, 192.0.2.0/24)")
    if not entries and needed:
        problems.append(
            "who may shut this machine down? Nobody is allowed yet: name the adapter with --allow IP[,IP...] "
            "(or allow in rccmd.ini)"
        )
    return tuple(networks)


def _relay(where: str, text: str, problems: list[str]) -> tuple[tuple[str, int], ...]:
    """HOST[:PORT] each; an IPv6 address with a port stands in brackets."""
    found: list[tuple[str, int]] = []
    for entry in text.replace(",", " ").split():
        host, colon, port = entry.rpartition(":")
        if not colon or ":" in host.strip("[]") and not host.endswith("]"):
            host, port = entry, str(PORT)
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if (
            host
            and (":" not in host or is_address(host))
            and port.isascii()
            and port.isdigit()
            and 1 <= int(port) <= 65535
        ):
            found.append((host, int(port)))
        else:
            problems.append(f"{where}: {entry!r} is not HOST or HOST:PORT (192.0.2.30, [2001:db8::7]:6003)")
    if len(found) > RELAYS_LIMIT:
        problems.append(f"{where}: {len(found)} addresses; at most {RELAYS_LIMIT}")
    return tuple(found)


def is_address(text: str) -> bool:
    """Is this an IP address?"""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _message(where: str, text: str, problems: list[str]) -> tuple[str, ...]:
    """`users`, `none`, or a program."""
    if text in ("users", "none"):
        return USERS if text == "users" else ()
    return _command(where, text, problems)


def _yes(where: str, text: str, problems: list[str]) -> bool:
    if text not in ("yes", "no"):
        problems.append(f"{where}: {text!r} is neither yes nor no")
    return text == "yes"


def _seconds(where: str, text: str, problems: list[str], limit_s: float, least_s: float = 0.0) -> float:
    try:
        value_s = float(text)
    except ValueError:
        value_s = math.nan
    if not least_s <= value_s <= limit_s:
        problems.append(f"{where}: {text!r} is not a number of seconds from {least_s:.0f} to {limit_s:.0f}")
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
    program = _which(argv[0])
    if program is None:
        problems.append(f"{where}: {argv[0]!r} is not there or not executable")
        return ()
    return (program, *argv[1:])


def _which(program: str) -> str | None:
    """Where the program is, as a shell would find it. (shutil.which does the same, and takes half a megabyte.)"""
    folders = [""] if os.path.dirname(program) else os.get_exec_path()
    endings = os.environ.get("PATHEXT", "").split(os.pathsep) if os.name == "nt" else []
    for folder in folders:
        for ending in ["", *endings]:
            path = os.path.join(folder, program + ending)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    return None
