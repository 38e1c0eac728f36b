"""What is on the server already, and what its settings shall be: decided here, without changing anything."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import shlex
import shutil
import ssl
import tempfile
from dataclasses import dataclass

from . import inifile, settings
from .codec import PORT
from .hand import Failed
from .root import SOCKET
from .trade import Enrolled
from .trust import SENDERS_LIMIT
from .units import Places

_OLD_TOUCH = "/run/rccmd/shutdown"  # what the hand-written units of earlier versions waited for
_NEW_INI = """\
# The RCCMD listener of this server; see docs/rccmd.md. After a change: restart the service.
[listen]
"""
_ROOT_INI = """\
# What the root side does for the listener; only root may change this file. No shell is involved.
[root]
"""


@dataclass(frozen=True)
class Before:
    """What was found: texts of the settings ("" where there are none), certificates by adapter, our certificate."""

    ini: str
    root_ini: str
    senders: dict[str, str]
    certificate: str
    running_ini: bool  # rccmd.ini was where the installer puts it
    listen: dict[str, str]  # [listen] of ini

    def others_stay(self, replace: bool, adapter: str) -> bool:
        """Do other adapters stay, which know this server by its present key?"""
        others = [pem for pem in self.senders.values() if not pem.startswith(sender_text(adapter, ""))]
        return bool(self.certificate) and bool(others) and not replace

    def port(self, wish: Wish, given: Enrolled) -> int:
        """Where the listener will listen."""
        if wish.port:
            return wish.port
        try:
            return int(self.listen["bind"].rpartition(":")[2])
        except (KeyError, ValueError):
            return given.port


@dataclass(frozen=True)
class Wish:
    """What the options ask for; "" or None: nothing special."""

    service: str
    on_shutdown: str = ""
    port: int | None = None
    replace: bool = False


def check_words(name: str, code: str, port: int | None) -> None:
    """Raises ValueError if an option cannot be right."""
    if not (0 < len(name) <= 64 and name.isprintable() and name == name.strip()):
        raise ValueError(f"--name {name!r} is not a server's name")
    if not (0 < len(code) <= 64 and code.isascii() and code.replace("-", "").isalnum()):
        raise ValueError("--code is not a one-time code (letters and digits in groups)")
    if port is not None and not 1024 <= port <= 65535:
        raise ValueError(f"--port {port}: 1024 to 65535; the listener has no privileges for those below")


def look(places: Places) -> Before:
    """What is here already. Raises Failed."""
    running = os.path.exists(places.ini)
    ini = text_of(places.ini if running else places.old_ini)
    try:
        listen = inifile.values(ini)
    except ValueError as e:
        raise Failed(
            f"the settings of this server cannot be read, correct them first (nothing was changed): {e}"
        ) from None
    senders = {}
    if os.path.isdir(places.senders):
        for file in sorted(os.listdir(places.senders)):
            if file.endswith(".pem"):
                senders[file[:-4]] = text_of(places.join(places.senders, file))
    key = text_of(places.key)
    start = key.find("-----BEGIN CERTIFICATE-----")
    return Before(ini, text_of(places.root_ini), senders, key[start:] if start >= 0 else "", running, listen)


def problems(before: Before, replace: bool) -> list[str]:
    """Why the installation cannot be done as things are."""
    found = []
    need = before.listen.get("need", "1")
    if replace and need.isdigit() and int(need) > 1:
        found.append(
            f"rccmd.ini says need = {need}, so with --replace the only adapter left could never shut this server "
            "down alone: set need = 1 first, or add the adapter without --replace"
        )
    elif not before.senders and before.listen.get("require_tls") != "no" and need.isdigit() and int(need) > 1:
        found.append(
            f"rccmd.ini says need = {need}, and once it is secure only this adapter would be heard, so nobody could "
            f"shut this server down: set need = 1 first, enrol every adapter, then set need = {need} again"
        )
    if len(before.senders) >= SENDERS_LIMIT and not replace:
        found.append(f"{len(before.senders)} adapters are trusted already, more than {SENDERS_LIMIT} cannot be")
    return found


def shutdown_command(before: Before, wish: Wish) -> str:
    """The command of the root side, as it stands in root.ini. Raises Failed if there is none that works."""
    text = wish.on_shutdown or inifile.values(before.root_ini, "root").get("shutdown", "")
    if not text and not _ours(before.listen.get("on_shutdown", "")):
        text = before.listen.get("on_shutdown", "")  # the classic listener ran it itself
    if not text:
        choices = {
            "systemd": ("systemctl poweroff",),
            "windows": ("C:\\Windows\\System32\\shutdown.exe /s /f /t 0",),
        }.get(wish.service, ("shutdown -h now", "poweroff"))
        for choice in choices:
            program, *words = choice.split()
            if found := shutil.which(program, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin:/sbin"):
                return shlex.join([found, *words])
        raise Failed("no program was found that powers this machine off: name one with --on-shutdown CMD")
    try:
        argv = shlex.split(text)
    except ValueError as e:
        raise Failed(f"the shutdown command {text!r} cannot be understood: {e}") from None
    found = shutil.which(argv[0]) if argv else None
    if found is None:
        raise Failed(f"the program of the shutdown command {text!r} is not there or not executable")
    return shlex.join([found, *argv[1:]])


def _ours(command: str) -> bool:
    return (
        not command
        or _OLD_TOUCH in command
        or ("rccmd.pyz" in command and (" ask " in command or " root " in command))
    )


def root_ini(before: Before, wish: Wish, shutdown: str) -> str:
    """root.ini: the old one with what has to change."""
    text = before.root_ini or _ROOT_INI
    known = inifile.values(text, "root")
    if wish.on_shutdown or "shutdown" not in known:
        text = inifile.put(text, "shutdown", shutdown, section="root")
    if not before.root_ini and wish.service != "windows" and (wall := shutil.which("wall")):
        text = inifile.put(text, "message", wall, section="root")
    return text


def listener_ini(before: Before, wish: Wish, given: Enrolled, places: Places, messages: bool) -> tuple[str, str]:
    """rccmd.ini: the old one with what has to change; and the log file, if it names one."""
    text = before.ini or _NEW_INI
    had = before.listen
    asks = wish.service in ("systemd", "openrc", "launchd")

    def path(word: str) -> str:
        if asks:
            return shlex.join(
                places.line("ask", word, *(["--socket", places.socket] if places.socket != SOCKET else []))
            )
        return shlex.join(places.line("root", word, "--ini", places.root_ini))

    first = not before.root_ini
    if first or _ours(had.get("on_shutdown", "")):
        moved = (
            "" if _ours(had.get("on_shutdown", "")) else "moved to root.ini, because the listener has no privileges:"
        )
        text = inifile.put(text, "on_shutdown", path("shutdown"), moved)
        text = inifile.put(text, "selftest", path("selftest"))
    if messages and _ours(had.get("on_message", "")):
        text = inifile.put(text, "on_message", path("message"))
    for key, value in (("tls", places.key), ("senders", places.senders), ("state_dir", places.state)):
        text = inifile.put(text, key, value)
    if "require_tls" not in had:
        text = inifile.put(text, "require_tls", "yes")
        if had.get("udp") == "yes":
            text = inifile.put(text, "udp", "no", "datagrams cannot be secured:")
    if "state" in had:
        text = inifile.drop(text, "state", "state_dir keeps it now:")
    text = _bind(text, before, wish, given)
    if had.get("allow") and not _allowed(had["allow"], given.address):
        text = inifile.put(text, "allow", f"{had['allow'].rstrip(', ')}, {given.address}")
    log = had.get("log", "")
    folder = places.at("/var/log/rccmd")
    if log and not places.windows and not log.startswith((f"{folder}/", f"{places.state}/")):
        log = f"{folder}/{os.path.basename(log)}"
        text = inifile.put(text, "log", log, "the listener has no privileges to write it where it was:")
    return text, log


def _bind(text: str, before: Before, wish: Wish, given: Enrolled) -> str:
    old = before.listen.get("bind", "")
    port = before.port(wish, given)
    host = old.rpartition(":")[0] or ("[::]" if ":" in given.address else "0.0.0.0")
    new = f"{host}:{port}"
    default = f"0.0.0.0:{PORT}"
    return text if new == (old or default) else inifile.put(text, "bind", new)


def _allowed(allow: str, address: str) -> bool:
    found = ipaddress.ip_address(address)
    for entry in allow.replace(",", " ").split():
        try:
            if found in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue  # the listener's own check names it
    return False


def check_ini(text: str, places: Places) -> None:
    """Would the listener start with these settings? Raises Failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "rccmd.ini")
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(text)
        try:
            settings.load({}, file)
        except settings.SettingsError as e:
            raise Failed(
                f"the listener would not start with its settings: {str(e).replace(file, places.ini)}"
            ) from None


def sender_text(adapter: str, pem: str) -> str:
    """The text of an adapter's file: the address at which it was enrolled, and its certificate."""
    return f"# {adapter}\n{pem}"


def sender_name(before: Before, given: Enrolled, replace: bool, adapter: str) -> str:
    """The name of the adapter's file: its own name, unless another adapter (at another address) has it already."""
    if replace:
        return given.adapter
    for name, pem in before.senders.items():
        if _same(pem, given.sender_pem):
            return name  # the same one, though it may be called otherwise now: one adapter has one vote
    known = before.senders.get(given.adapter, "")
    if not known or known.startswith(sender_text(adapter, "")):
        return given.adapter
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(given.sender_pem)).hexdigest()
    return f"{given.adapter}-{digest[:8]}"


def _same(one: str, other: str) -> bool:
    return "".join(one[one.find("-----BEGIN") :].split()) == "".join(other[other.find("-----BEGIN") :].split())


def explain(before: Before, given: Enrolled, sender: str, replace: bool, places: Places) -> list[str]:
    """What the administrator should know about this installation: lines."""
    lines = []
    others = [] if replace else [name for name in before.senders if name != sender]
    if sender != given.adapter:
        lines.append(
            f"another adapter named {given.adapter} is trusted already, so this one is {sender} here; if it is the "
            f"same one, installed anew, remove {places.join(places.senders, given.adapter + '.pem')}"
        )
    if others:
        need = before.listen.get("need", "1")
        lines.append(
            f"adapters that may shut this server down: {', '.join([*others, sender])}; need = {need} of them must "
            "ask. Two adapters that feed one power supply each: need = 2; either of them alone: need = 1 (rccmd.ini)"
        )
    if before.listen.get("require_tls") == "no":
        lines.append("require_tls = no was kept: the addresses in allow may still command without a key")
    elif not before.senders and set(",/") & set(before.listen.get("allow", "")):  # more than one
        lines.append(
            f"from now on only {sender} is heard; enrol every other adapter of allow = {before.listen['allow']} too, "
            "their commands in clear are refused"
        )
    if before.ini and not before.root_ini:
        words = ("", "users", "none")  # no programs
        programs = [k for k in ("on_message", "on_wakeup") if before.listen.get(k, "") not in words]
        programs += [f"[execute] {name}" for name in inifile.values(before.ini, "execute")]
        if programs:
            lines.append(f"these programs run without privileges now, try them: {', '.join(programs)}")
    if before.ini and not before.running_ini:
        lines.append(f"{places.old_ini} was copied to {places.ini} and is not used any more")
    return lines


def old_units(places: Places) -> list[str]:
    """Units that earlier versions told the administrator to write by hand and that have no work any more."""
    folder = places.at("/etc/systemd/system")
    found = [f"{folder}/rccmd-shutdown.path", f"{folder}/rccmd-shutdown.service"]
    return [p for p in found if "RCCMD listener's word" in text_of(p)]


def text_of(path: str) -> str:
    """A small file's text; "" if it is not there. Raises Failed."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as e:
        raise Failed(f"cannot read {path}: {e} (nothing was changed)") from None
