"""A provisioning file: the whole configuration and `[system]` in one, read at once, with every mistake named."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import config, hostsetup, passwords, process, reading
from .config import Config
from .hostsetup import System

EXAMPLE = "ridethrough.toml.example"


@dataclass
class Given:
    """A provisioning file that is good: the configuration without [system] ("" : none), what is to be kept."""

    settings_text: str
    settings: Config | None
    system: System
    setup_code: str
    account: bytes
    secrets: Mapping[str, str]


class Wrong(Exception):
    """The file is not taken over; `lines` say why."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [plain(line) for line in lines]
        super().__init__(self.lines[0])


def plain(text: str) -> str:
    """Fit for a console: one line, and nothing that it would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def called(name: str, wanted: str) -> str:
    """What to say of a file that has nearly the name it should have."""
    return f"There is {name}: call it {wanted} (Windows may hide how a name ends)."


def read(data: bytes, before: System, zone_exists: Callable[[str], bool]) -> Given:
    """The bytes of a provisioning file; `before`: what was taken over last, for secrets that are kept. Wrong."""
    text = _text(data)
    try:
        if any(len(line) > config.LINE_LIMIT for line in text.splitlines()):
            raise ValueError(f"a line of more than {config.LINE_LIMIT} characters")
        raw = tomllib.loads(text)
        own, _ = _split(text)
    except (ValueError, RecursionError) as e:
        raise Wrong([f"is no TOML: {e}"[: config.PROBLEM_LIMIT] + f"; compare it with {EXAMPLE}"]) from None
    problems: list[str] = []
    values, wifi, secrets = _system(raw.get("system", {}), problems)
    if not problems:
        problems += hostsetup.wrong(values, zone_exists)
        problems += hostsetup.wrong_wifi(wifi) if wifi is not None else []
    account = b""
    if not problems and values["password_hash"] is not None:
        try:
            account = passwords.decode(values["password_hash"])
        except ValueError as e:
            problems.append(f"[system] password_hash: {e}; make it with: ridethrough password hash")
    system = System()
    if not problems:
        system = hostsetup.kept(values, wifi, before)
        if wifi is not None and system.wifi is None:
            problems.append(hostsetup.NO_PHRASE)
    settings = None
    if set(raw) - {"system"}:
        settings, mistakes = process.parse(own.encode())
        problems += [p.text for p in mistakes]
    if problems:
        raise Wrong(problems)
    return Given(
        settings_text=own if settings is not None else "",
        settings=settings,
        system=system,
        setup_code=values["setup_code"] or "",
        account=account,
        secrets=secrets,
    )


def without_secrets(data: bytes) -> bytes:
    """The file without what must not stay on a partition that anybody can read; as it is if that cannot be said."""
    try:
        text = _text(data)
        cleaned = _split(text)[1] if all(len(line) <= config.LINE_LIMIT for line in text.splitlines()) else text
    except (Wrong, ValueError, RecursionError):
        return data
    return data if cleaned == text else cleaned.encode()


def _text(data: bytes) -> str:
    """Without the mark and the line ends of Windows. Wrong."""
    if len(data) > config.FILE_LIMIT_BYTES:
        raise Wrong([f"larger than {config.FILE_LIMIT_BYTES // 1024} KiB: is this the right file?"])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Wrong(["is UTF-16; save it as UTF-8"])
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise Wrong([f"is not UTF-8 (byte {e.start}, line {line}); save it as UTF-8"]) from None
    if not text.strip():
        raise Wrong([f"is empty: write the settings into it; {EXAMPLE} shows how"])
    return text


def _system(raw: Any, problems: list[str]) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, str]]:
    """The three tables, typed; mistakes go to `problems`."""
    rest = {k: v for k, v in raw.items() if k not in ("wifi", "secrets")} if isinstance(raw, dict) else raw
    values, found = reading.table(rest, "system", "[system]", hostsetup.SYSTEM)
    problems += (hostsetup.shown(p.text) for p in found)
    tables = raw if isinstance(raw, dict) else {}
    wifi = None
    if "wifi" in tables:
        wifi, found = reading.table(tables["wifi"], "system", "[system.wifi]", hostsetup.WIFI)
        problems += (hostsetup.shown(p.text) for p in found)
    secrets = tables.get("secrets", {})
    if not isinstance(secrets, dict) or not all(
        isinstance(v, str) and config.NAME.fullmatch(k) and 1 <= len(v) <= 256 and v.isprintable()
        for k, v in secrets.items()
    ):
        problems.append('[system.secrets]: lines such as  LABEL = "VALUE", each of 1 to 256 printable characters')
        secrets = {}
    return values, wifi, secrets


def _split(text: str) -> tuple[str, str]:
    """The text without [system], and the whole text without secrets. ValueError, RecursionError."""
    raw = tomllib.loads(text)
    own = {key: value for key, value in raw.items() if key != "system"}
    _forget(whole := copy.deepcopy(raw))
    return _edited(text, lambda document: document.pop("system", None), own), _edited(text, _forget, whole)


def _forget(document: Any) -> None:
    """Take the secrets out."""
    system = document.get("system")
    if isinstance(system, dict):
        for key in ("setup_code", "password_hash", "secrets"):
            system.pop(key, None)
        if isinstance(wifi := system.get("wifi"), dict):
            wifi.pop("passphrase", None)


def _edited(text: str, edit: Callable[[Any], object], wanted: Mapping[str, Any]) -> str:
    """The text with an edit, comments and all; written anew if the library does not come to what is `wanted`."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        edit(document)
        made = tomlkit.dumps(document)
        if tomllib.loads(made) == wanted:
            return made
    except (TOMLKitError, ValueError, LookupError, TypeError, AttributeError):
        pass  # tomlkit 0.15: IndexError where a table stands in pieces
    return tomlkit.dumps(wanted)
