"""What every process of ours needs: its configuration, its supervisor, and a word to systemd."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from . import addresses, config, drivers, hidraw, link, reach, reading
from .config import Config
from .model import ConfigError, Option

log = logging.getLogger(__name__)

#: LINK of a driver -> the module that opens it
LINKS: Mapping[str, ModuleType] = {"serial": link, "usb": hidraw}


def ups_options(name: str) -> Sequence[Option]:
    """What `[ups]` may hold for driver `name`, its link's options included. ConfigError for an unknown driver."""
    module = drivers.load(name)
    return (*module.OPTIONS, *(LINKS[module.LINK].OPTIONS if module.LINK in LINKS else ()))


def back_off_s(driver: str) -> tuple[float, ...]:
    """The pauses before a driver's link is opened again; empty: the usual ones."""
    kind = drivers.load(driver).LINK if driver in drivers.available() else ""
    return getattr(LINKS.get(kind), "BACK_OFF_S", ())


def open_link(kind: str, section: Mapping[str, Any], now: Callable[[], float]) -> Any:
    """The link that a driver wants, None if it wants none. LinkError if it cannot be had."""
    return LINKS[kind].open(section, now) if kind in LINKS else None


def load(path: Path) -> tuple[Config, tuple[config.Problem, ...]]:
    """The configuration file, typed, and all that is wrong with it. ConfigError if it cannot be read at all."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    if len(data) > config.FILE_LIMIT_BYTES:
        return reading.broken("", f"larger than {config.FILE_LIMIT_BYTES // 1024} KiB")
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        return reading.broken(data.decode("utf-8", "replace"), f"not UTF-8 (byte {e.start})")
    return reading.parse(text, ups_options, reach.load, addresses.own)


def notify(state: str) -> None:
    """Tell systemd, if it listens (sd_notify protocol)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as e:
            log.warning("NOTIFY_SOCKET: %s", e)


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
