"""Addresses and names as people write them in the configuration: taken apart and checked."""

from __future__ import annotations

import fcntl
import ipaddress
import re
import socket
import struct

from .model import ConfigError

INTERFACES_LIMIT = 64
SIOCGIFADDR = 0x8915  # linux/sockios.h


def normal(host: str) -> str:
    """An address or name in its one form: 2001:db8::1 of 2001:0DB8:0::1, 192.0.2.1 of ::ffff:192.0.2.1, nas.lan of
    NAS.lan."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)


def is_loopback(host: str) -> bool:
    """Is `host` this machine itself, as an address or as the name localhost?"""
    host = normal(host)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def nearby(host: str) -> str:
    """Where this machine itself reaches what listens on `host`: loopback, if that is every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def own() -> frozenset[str]:
    """The addresses of this machine's interfaces, loopback and link-local ones aside."""
    found = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex()[:INTERFACES_LIMIT]:
            try:
                answer = fcntl.ioctl(sock, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # no IPv4
            found.add(socket.inet_ntoa(answer[20:24]))
    try:
        with open("/proc/net/if_inet6") as file:
            found |= {str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))) for line in file}
    except (OSError, ValueError, IndexError):
        pass  # no IPv6
    return frozenset(a for a in found if not is_loopback(a) and not ipaddress.ip_address(a).is_link_local)


def split_address(listen: str) -> tuple[str, int]:
    """('127.0.0.1', 8080) of "127.0.0.1:8080", ('::1', 80) of "[::1]:80". ConfigError if it is neither."""
    host, _, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f'"{listen}": write an IPv6 address as [ADDRESS]:PORT')
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f'"{listen}" is not HOST:PORT')
    return host, int(port)


def wrong_host(host: str) -> str:
    """What is wrong with the address or name of a server or receiver, or ''."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
        if re.fullmatch(r"[0-9.]+", host) or not re.fullmatch(rf"(?=.{{1,253}}$){label}(\.{label})*\.?", host):
            return "neither an IP address nor a host name"
        return ""
    if address.is_unspecified or address.is_multicast or host == "255.255.255.255":
        return "not the address of one machine"
    if address.version == 6 and address.is_link_local and not address.scope_id:
        return "a link-local address needs its interface, such as fe80::1%eth0"
    return ""
