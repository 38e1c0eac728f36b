"""The `[system]` table of a provisioning file: how this host is called, reached and kept, as files of systemd and its
kin; pure.

Every value may be absent: then it stays as it is (a secret), or becomes the default (all else: DHCP, UTC, no Wi-Fi).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import reading, wire
from .addresses import wrong_host
from .model import ConfigError, Option

SYSTEM = (
    Option(name="hostname", kind=str, default="ridethrough", help="name of this host, also as NAME.local"),
    Option(name="address", kind=str, default="dhcp", help='"dhcp", or "192.0.2.10/24": a fixed one with its network'),
    Option(name="gateway", kind=str, help="the router, with a fixed address"),
    Option(name="dns", kind=list, default=(), help="name servers, as addresses"),
    Option(name="timezone", kind=str, default="Etc/UTC", help="such as Europe/Berlin"),
    Option(name="ntp", kind=list, default=(), help="time servers; without: those of DHCP, else of Debian"),
    Option(name="ssh_keys", kind=list, default=(), help="public keys that may log in as root; without: no ssh"),
    Option(name="setup_code", kind=str, help="one-time password of the page (8 to 64 characters)"),
    Option(name="password_hash", kind=str, help="the page's password, as `ridethrough password hash` prints it"),
)
WIFI = (
    Option(name="ssid", kind=str, required=True, help="name of the network"),
    Option(name="passphrase", kind=str, help="8 to 63 characters (WPA2)"),
    Option(name="country", kind=str, required=True, help="two letters, such as DE: the channels that are allowed"),
)
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
#: kind of an ssh key -> bytes of each field of its data after the name of the kind (least, most), and how it begins;
#: RFC 4253 section 6.6, RFC 5656 section 3.1, RFC 8709 section 4, PROTOCOL.u2f of OpenSSH
_SSH_KINDS: Mapping[str, Sequence[tuple[int, int, bytes]]] = {
    "ssh-ed25519": [(32, 32, b"")],
    "ssh-rsa": [(1, 32, b""), (128, 2049, b"")],  # sshd takes none of less than 1024 bits
    **{
        f"ecdsa-sha2-nistp{bits}": [(8, 8, f"nistp{bits}".encode()), (length, length, b"\4")]
        for bits, length in ((256, 65), (384, 97), (521, 133))
    },
    "sk-ssh-ed25519@openssh.com": [(32, 32, b""), (1, 256, b"")],
}
_CUT = "the key is cut or damaged; copy the whole line"
SSH_KEYS_LIMIT, SSH_KEY_LIMIT, SERVERS_LIMIT = 20, 1000, 8
CODE_MIN, CODE_MAX = 8, 64
NO_PHRASE = "[system.wifi]: passphrase is missing (open networks are not supported)"
_EVERYBODY = "255.255.255.255"
_PSK = re.compile(r"[0-9a-f]{64}")
_SECRET = re.compile(r"^(\[system(?:\.wifi)?\] (?:setup_code|password_hash|passphrase)) = ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wifi:
    """One network; `psk`: the key that follows from its name and pass phrase, hex."""

    ssid: str
    country: str
    psk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What is kept of the table, and applied at each start; secrets of the page are not in it."""

    hostname: str = "ridethrough"
    address: str = "dhcp"
    gateway: str = ""
    dns: tuple[str, ...] = ()
    timezone: str = "Etc/UTC"
    ntp: tuple[str, ...] = ()
    ssh_keys: tuple[str, ...] = ()
    wifi: Wifi | None = None


def wrong(values: Mapping[str, Any], zone_exists: Callable[[str], bool]) -> list[str]:
    """What is wrong with the typed values of `[system]`: lines that name place and remedy."""
    found: list[str] = []

    def bad(key: str, value: object, why: str) -> None:
        said = str(value) if str(value).isprintable() else ascii(value)[1:-1]
        found.append(f'[system] {key} = "{said}": {why}')

    if not _HOSTNAME.fullmatch(values["hostname"]):
        bad("hostname", values["hostname"], "letters, digits and dashes, at most 63, without dots")
    elif values["hostname"].lower() == "localhost":
        bad("hostname", values["hostname"], "means each host itself")
    if problem := _wrong_address(values["address"]):
        bad("address", values["address"], problem)
    elif problem := _wrong_gateway(values["address"], values["gateway"]):
        bad("gateway", values["gateway"] or "", problem)
    for server in values["dns"]:
        host, scope, interface = server.partition("%")
        if not _is_address(host) or (scope and (":" not in host or not _INTERFACE.fullmatch(interface))):
            bad("dns", server, "must be an IP address")
    for key in ("dns", "ntp"):
        if len(values[key]) > SERVERS_LIMIT:
            bad(key, f"{len(values[key])} servers", f"at most {SERVERS_LIMIT}")
    for server in values["ntp"]:
        if problem := wrong_host(server):
            bad("ntp", server, problem)
    if not _ZONE.fullmatch(values["timezone"]) or not zone_exists(values["timezone"]):
        bad("timezone", values["timezone"], "there is no such time zone; they are called like Europe/Berlin")
    if len(values["ssh_keys"]) > SSH_KEYS_LIMIT:
        bad("ssh_keys", f"{len(values['ssh_keys'])} keys", f"at most {SSH_KEYS_LIMIT}")
    for key in values["ssh_keys"]:
        if problem := _wrong_ssh_key(key):
            bad("ssh_keys", key[:40] + ("..." if len(key) > 40 else ""), problem)
    code = values["setup_code"]
    if code is not None and (not CODE_MIN <= len(code) <= CODE_MAX or not code.isprintable() or code != code.strip()):
        found.append(f"[system] setup_code: {CODE_MIN} to {CODE_MAX} printable characters, no blank at its ends")
    if code is not None and values["password_hash"] is not None:
        found.append("[system] setup_code and password_hash: only one of them")
    return found


def wrong_wifi(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the typed values of `[system.wifi]`; the pass phrase itself is never shown."""
    found = []
    ssid, phrase, country = values["ssid"] or "", values["passphrase"], values["country"] or ""
    if not 1 <= len(ssid.encode()) <= 32:
        found.append("[system.wifi] ssid: must be 1 to 32 bytes")
    if phrase is not None and (not 8 <= len(phrase) <= 63 or not (phrase.isascii() and phrase.isprintable())):
        found.append("[system.wifi] passphrase: must be 8 to 63 printable characters without umlauts (WPA2)")
    if not re.fullmatch(r"[A-Z]{2}", country):
        found.append(f'[system.wifi] country = "{country}": two capital letters, such as DE')
    return found


def kept(values: Mapping[str, Any], wifi: Mapping[str, Any] | None, before: System) -> System:
    """The typed values as what is kept; a Wi-Fi network without a pass phrase keeps the key it had, or gets lost."""
    found = None
    if wifi is not None:
        ssid, phrase = wifi["ssid"], wifi["passphrase"]
        known = before.wifi.psk if before.wifi is not None and before.wifi.ssid == ssid else ""
        key = known if phrase is None else psk(ssid, phrase)
        found = Wifi(ssid=ssid, country=wifi["country"], psk=key) if key else None
    lists: dict[str, Any] = {key: tuple(values[key]) for key in ("dns", "ntp", "ssh_keys")}
    texts: dict[str, Any] = {key: values[key] or "" for key in ("hostname", "address", "gateway", "timezone")}
    return System(**texts, **lists, wifi=found)


def read(data: bytes) -> System:
    """What is kept, as it was written. ValueError if it is damaged: it must not become a file of systemd."""
    try:
        found: System = wire.from_json(System, json.loads(data))
    except RecursionError as e:
        raise ValueError(str(e)) from None
    values = {o.name: getattr(found, o.name, None) for o in SYSTEM}
    lines = wrong({**values, "gateway": found.gateway or None}, lambda zone: True)
    if (wifi := found.wifi) is not None:
        lines += wrong_wifi({"ssid": wifi.ssid, "country": wifi.country, "passphrase": None})
        lines += [] if _PSK.fullmatch(wifi.psk) else ["[system.wifi]: its key is damaged"]
    if lines:
        raise ValueError(lines[0])
    return found


def changed(before: System, keys: Sequence[str], said: Any, zone_exists: Callable[[str], bool]) -> System:
    """`before` with what `said`, an object with some of these keys, has others; "wifi": its table, or null for none.
    ConfigError names every mistake, and no secret."""
    options = tuple(option for option in SYSTEM if option.name in keys)
    rest = {k: v for k, v in said.items() if k != "wifi" or "wifi" not in keys} if isinstance(said, dict) else said
    values, problems = reading.table(rest, "system", "[system]", options)
    lines = [shown(problem.text) for problem in problems]
    if lines or not said:
        raise ConfigError("; ".join(lines) or "nothing is said")
    whole: dict[str, Any] = {o.name: getattr(before, o.name, None) for o in SYSTEM}
    whole |= {key: values[key] for key in rest}
    if whole["address"] == "dhcp" and "gateway" not in rest:
        whole["gateway"] = None
    lines = wrong({**whole, "gateway": whole["gateway"] or None}, zone_exists)
    wifi: dict[str, Any] | None = None
    if said.get("wifi") is not None:
        wifi, problems = reading.table(said["wifi"], "system", "[system.wifi]", WIFI)
        lines += [shown(problem.text) for problem in problems] or wrong_wifi(wifi)
    if lines:
        raise ConfigError("; ".join(lines))
    system = kept(whole, wifi, before)
    if wifi is not None and system.wifi is None:
        raise ConfigError(NO_PHRASE)
    return system if "wifi" in said else replace(system, wifi=before.wifi)


def shown(text: str) -> str:
    """A mistake, without the value of what is a secret: a report is read, copied and mailed."""
    found = _SECRET.match(text)
    if not found:
        return text
    line = text.endswith(": must be one line of printable text")
    return f"{found[1]}: must be {'one line of printable text' if line else 'a text in quotes'}"


def psk(ssid: str, passphrase: str) -> str:
    """The key of a Wi-Fi network in hex (IEEE 802.11i-2004, H.4)."""
    return hashlib.pbkdf2_hmac("sha1", passphrase.encode(), ssid.encode(), 4096, 32).hex()


#: of the files beneath /run those that are not always there
SOMETIMES = (
    "ridethrough-system/authorized_keys",
    "systemd/network/30-wifi.network",
    "wpa_supplicant/wpa_supplicant-wlan0.conf",
)


def files(system: System) -> dict[str, tuple[str, int]]:
    """The files beneath /run that make it so: path -> (text, mode)."""
    made = {
        "systemd/network/20-wired.network": (_network("en* eth* end*", system), 0o644),
        "systemd/resolved.conf.d/ridethrough.conf": ("[Resolve]\nMulticastDNS=yes\nLLMNR=no\n", 0o644),
        "systemd/timesyncd.conf.d/ridethrough.conf": (
            "[Time]\n" + (f"NTP={' '.join(system.ntp)}\n" if system.ntp else ""),
            0o644,
        ),
    }
    if system.ssh_keys:
        made["ridethrough-system/authorized_keys"] = ("".join(f"{key}\n" for key in system.ssh_keys), 0o644)
    if (wifi := system.wifi) is not None:
        made["systemd/network/30-wifi.network"] = (_network("wl*", System()), 0o644)
        text = f"country={wifi.country}\nnetwork={{\n\tssid={wifi.ssid.encode().hex()}\n\tpsk={wifi.psk}\n}}\n"
        made["wpa_supplicant/wpa_supplicant-wlan0.conf"] = (text, 0o600)
    return made


def _network(names: str, system: System) -> str:
    """A file of systemd-networkd; a fixed address keeps the box reachable by mDNS on a link-local one, too."""
    lines = ["[Match]", f"Name={names}", "", "[Network]", "MulticastDNS=yes", "IPv6AcceptRA=yes"]
    if system.address == "dhcp":
        lines += ["DHCP=yes", *(f"DNS={server}" for server in system.dns), "", "[DHCPv4]", "ClientIdentifier=mac"]
        if system.ntp:
            lines.append("UseNTP=no")
    else:
        lines.append(f"Address={ipaddress.ip_interface(system.address)}")  # networkd knows no mask
        lines += [f"Gateway={system.gateway}"] if system.gateway else []
        lines += [f"DNS={server}" for server in system.dns]
    return "\n".join(lines) + "\n"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _wrong_address(text: str) -> str:
    if text == "dhcp":
        return ""
    if "%" in text:
        return "must be an address without %"
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        return 'must be "dhcp" or an address with its network, such as "192.0.2.10/24"'
    address, network = found.ip, found.network
    if network.prefixlen == 0 or "/" not in text:
        return f'the network is missing, such as "{address}/{24 if address.version == 4 else 64}"'
    if address.version == 6 and (mapped := address.ipv4_mapped):
        return f"is IPv4 in other words: write {mapped}/{max(network.prefixlen - 96, 1)}"
    if address.is_loopback or address.is_multicast or address.is_unspecified or str(address) == _EVERYBODY:
        return "no host can have this address"
    if network.version == 4 and network.prefixlen < 31 and address in (network[0], network[-1]):
        return "is the network's own or its broadcast address"
    return ""


def _wrong_gateway(address: str, gateway: str | None) -> str:
    if gateway is None:
        return ""
    if address == "dhcp":
        return "needs a fixed address; with DHCP the router says it"
    if "%" in gateway or not _is_address(gateway):
        return "must be an IP address, without %"
    own = ipaddress.ip_interface(address)
    router = ipaddress.ip_address(gateway)
    if router.is_link_local and router.version == 6 == own.version:
        return ""
    if router == own.ip:
        return "is this host itself"
    return "" if router in own.network else f"is not in {own.network}"


def _wrong_ssh_key(text: str) -> str:
    """Only keys, no options: those could name a command."""
    kind, *rest = text.split(None, 2) or [""]
    if kind not in _SSH_KINDS or not text.isprintable() or len(text) > SSH_KEY_LIMIT:
        return 'must be the line of a public key, such as "ssh-ed25519 AAAA... you@home"'
    try:
        data = base64.b64decode(rest[0] if rest else "", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    for least, most, begin in ((len(kind), len(kind), kind.encode()), *_SSH_KINDS[kind]):
        length = int.from_bytes(data[:4], "big")
        field, data = data[4 : 4 + length], data[4 + length :]
        if len(field) != length or not least <= length <= most or not field.startswith(begin):
            return _CUT
    return _CUT if data else ""


def ways_in(system: System, port: int | None, codes: Sequence[str]) -> list[str]:
    """How people reach the page, which has this port (None: there is none): lines for console and report."""
    if port is None:
        lines = ["Web page: none in the network ([web] listen)"]
    else:
        end = "/" if port == 443 else f":{port}/"
        lines = [f"Web page: https://{system.hostname}.local{end}"]
        if system.address != "dhcp":
            host = str(ipaddress.ip_interface(system.address).ip)
            lines.append(f"          https://{f'[{host}]' if ':' in host else host}{end}")
    return [*lines, *(f"Set-up code: {code} (user admin, once: the first login sets a password)" for code in codes)]
