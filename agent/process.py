"""What every process of ours needs: its configuration, its supervisor, the time, and a word to systemd."""

from __future__ import annotations

import logging
import os
import pwd
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from . import addresses, bridge, config, detect, drivers, hidraw, lines, link, modbus, reach, reading, snmplink, upsd
from .config import Config
from .model import ConfigError, Driver, LinkError, Option
from .tape import Tape, Taped

log = logging.getLogger(__name__)

#: LINK of a driver -> the module that opens it
LINKS: Mapping[str, ModuleType] = {
    "serial": link, "lines": lines, "usb": hidraw, "bridge": bridge, "upsd": upsd, "snmp": snmplink, "modbus": modbus,
}  # fmt: skip
USB_KINDS = ("usb", "bridge", "modbus")  # of which the device may be a USB device
UCRED = struct.Struct("3i")  # process, user, group: unix(7)
PINGS_AT_ONCE = 100
AUTO_BACK_OFF_S = (0.5,)  # each opening looks at one thing more

#: what root's services on the image say is wrong: with the boot partition's file (provision.py), and why the spare
#: settings are not kept (spare.py)
BOOT_PROBLEMS = Path("/run/ridethrough-system/problems")
SPARE_PROBLEM = Path("/run/ridethrough-spare/problem")
TIMESYNC = Path("/run/systemd/timesync")
BUILT_WALL_S = 1_767_225_600.0  # 2026-01-01: a clock before this is certainly wrong


class SystemClock:
    """The real time."""

    def mono_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()

    def synced(self) -> bool:
        """Has the clock been set? systemd-timesyncd says so in a file; without it, a plausible year must do."""
        if TIMESYNC.is_dir():
            return (TIMESYNC / "synchronized").exists()
        return time.time() > BUILT_WALL_S


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def ups_options(name: str) -> Sequence[Option]:
    """What `[ups]` may hold for driver `name`, its links' options included. ConfigError for an unknown driver."""
    if name == detect.AUTO:
        return detect.OPTIONS
    module = drivers.load(name)
    options = [*module.OPTIONS, *(LINKS[module.LINK].OPTIONS if module.LINK in LINKS else ())]
    theirs = getattr(module, "LINK_DEFAULTS", {})
    options = [replace(o, default=theirs[o.name]) if o.name in theirs else o for o in options]
    if other := getattr(module, "USB_LINK", ""):
        options = [replace(o, required=False) if o.name == "port" else o for o in options]
        options += LINKS[other].OPTIONS
    return options


def link_kind(module: ModuleType, section: Mapping[str, Any]) -> str:
    """The kind of link that a driver wants: its USB_LINK, if it has one and no port is configured, else its LINK.
    LinkError if the section means both."""
    other = str(getattr(module, "USB_LINK", ""))
    if not other:
        return str(module.LINK)
    usb = [option.name for option in LINKS[other].OPTIONS if section.get(option.name) not in (None, option.default)]
    if section.get("port") and usb:
        raise LinkError(f"[ups] has port, a serial line, and {usb[0]}, which is for USB: remove one of them")
    return str(module.LINK) if section.get("port") else other


def back_off_s(driver: str, section: Mapping[str, Any]) -> tuple[float, ...]:
    """The pauses before a driver's link is opened again; empty: the usual ones."""
    if driver == detect.AUTO:
        return AUTO_BACK_OFF_S
    if driver not in drivers.available():
        return ()
    module = drivers.load(driver)
    kind = module.LINK if section.get("port") else getattr(module, "USB_LINK", module.LINK)
    return getattr(LINKS.get(kind), "BACK_OFF_S", ())


def open_link(
    kind: str, section: Mapping[str, Any], now: Callable[[], float], meant: hidraw.Meant = hidraw.nobody
) -> Any:
    """The link that a driver wants, None if it wants none; `meant` is told the socket of a USB device before it is
    opened. LinkError if it cannot be had."""
    if kind in USB_KINDS:
        return LINKS[kind].open(section, now, meant=meant)
    return LINKS[kind].open(section, now) if kind in LINKS else None


def connect(
    settings: Config,
    auto: detect.Auto,
    tape: Tape,
    now: Callable[[], float],
    secrets: Callable[[], Mapping[str, str]],
    meant: hidraw.Meant = hidraw.nobody,
) -> Driver:
    """Open the configured UPS, or the one that `auto` has detected; `secrets` by label, `meant` as of `open_link` (of
    what a search looks at it is told nothing). LinkError if that is not possible now."""
    if not settings.driver:
        raise LinkError("no driver is configured")
    name, section = settings.driver, settings.ups
    if name == detect.AUTO:
        found = auto.choose()
        name, section = found.driver, typed(found)
    module: ModuleType = drivers.load(name)
    names = {o.name for o in module.OPTIONS}
    kind, label = link_kind(module, section), section.get("secret")
    opened = open_link(kind, {**section, "password": secrets().get(label) if label else None}, now, meant)
    taped = Taped(opened, tape) if opened is not None and kind != "lines" else opened
    try:
        driver: Driver = module.connect({k: v for k, v in section.items() if k in names}, taped, now)
    except LinkError:
        if opened is not None:
            opened.close()
        raise
    return driver


def typed(found: detect.Found) -> dict[str, Any]:
    """The section of what was detected, with the defaults of all that it does not say."""
    return {o.name: found.section.get(o.name, o.default) for o in ups_options(found.driver)}


def load(path: Path) -> tuple[Config, tuple[config.Problem, ...]]:
    """The configuration file, typed, and all that is wrong with it. ConfigError if it cannot be read at all."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    settings, problems = parse(data)
    return settings, (*problems, *(config.Problem("system", line) for line in host_problems()))


def host_problems() -> tuple[str, ...]:
    """What is wrong with this host, as root's services on the image say it."""
    found = list[str]()
    for path in (BOOT_PROBLEMS, SPARE_PROBLEM):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                found += file.read(config.FILE_LIMIT_BYTES).splitlines()[: config.PROBLEMS_LIMIT]
        except OSError:
            continue  # nothing is wrong, or this is not the image
    return tuple(found)


def parse(data: bytes) -> tuple[Config, tuple[config.Problem, ...]]:
    """The bytes of a configuration file, typed, and all that is wrong with them."""
    if len(data) > config.FILE_LIMIT_BYTES:
        start = data[: config.FILE_LIMIT_BYTES].decode("utf-8", "replace")
        return reading.broken(start, f"larger than {config.FILE_LIMIT_BYTES // 1024} KiB")
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        return reading.broken(data.decode("utf-8", "replace"), f"not UTF-8 (byte {e.start})")
    return reading.parse(text, ups_options, reach.load, addresses.own)


def account(user: str) -> tuple[int, int | None]:
    """User and group id of a user; of "" our own, and no group. ConfigError if there is no such user."""
    if not user:
        return os.getuid(), None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"there is no user {user}") from None
    return found.pw_uid, found.pw_gid


def hidden_line(prompt: str) -> str:
    """A secret from the terminal, where it is not shown, or else a line of standard input."""
    import getpass  # the core has no use for it

    return getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")


def notify(state: str) -> None:
    """Tell systemd, or our supervisor, if it listens (sd_notify protocol)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto(state.encode(), address)
        except BlockingIOError:
            pass  # whoever listens is behind: we do not wait for him, and he has enough to read
        except OSError as e:
            log.warning("NOTIFY_SOCKET: %s", e)


class Pings:
    """The other end of `notify`: what one child says is heard, and nobody else."""

    def __init__(self) -> None:
        """OSError if there is no socket to be had."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind("")  # the kernel picks an abstract name: no disk is needed
        self.name = "@" + self._sock.getsockname()[1:].decode()

    def heard(self, pid: int) -> bool:
        """Has process `pid` said since the last call that it works? Takes all that waits."""
        found = False
        for _ in range(PINGS_AT_ONCE):
            try:
                data, more, _, _ = self._sock.recvmsg(256, socket.CMSG_SPACE(UCRED.size))
            except BlockingIOError:
                break
            senders = [UCRED.unpack(row[: UCRED.size])[0] for _, kind, row in more if kind == socket.SCM_CREDENTIALS]
            found = found or (senders == [pid] and b"WATCHDOG=1" in data.split(b"\n"))
        return found

    def close(self) -> None:
        self._sock.close()


def many_descriptors() -> None:
    """A thousand servers need a thousand sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536, hard))


def follow_parent(stop: threading.Event) -> None:
    """End when the supervisor that started us is gone: it holds the other end of a pipe."""
    fd = os.environ.get("RIDETHROUGH_PARENT_FD")
    if fd is None or not fd.isdigit():
        return

    def wait() -> None:
        while os.read(int(fd), 1):
            pass
        stop.set()

    threading.Thread(target=wait, name="parent", daemon=True).start()


def last_good(settings: Config) -> Path:
    """Where the core keeps the last configuration whose protecting parts were good."""
    return Path(settings.state_dir) / "core" / "last-good.toml"


def stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set `stop`."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def end_with_thread(args: threading.ExceptHookArgs) -> None:
    """A thread that dies takes its process with it: half a process serves nobody; it is started again at once."""
    log.critical("thread %s died", args.thread.name if args.thread else "?", exc_info=args.exc_value)
    sys.stderr.flush()
    os._exit(70)
