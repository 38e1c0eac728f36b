"""Addresses and names as people write them in the configuration: taken apart and checked."""

from __future__ import annotations

import ipaddress
import re

from .model import ConfigError


def is_loopback(host: str) -> bool:
    """Is `host` this machine itself, as an address or as the name localhost?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
    """What is wrong with a server's address or name, or ''."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
        if re.fullmatch(r"[0-9.]+", host) or not re.fullmatch(rf"(?=.{{1,253}}$){label}(\.{label})*\.?", host):
            return "neither an IP address nor a host name"
        return ""
    if address.is_unspecified or address.is_multicast or host == "255.255.255.255":
        return "not the address of one server"
    if address.version == 6 and address.is_link_local and not address.scope_id:
        return "a link-local address needs its interface, such as fe80::1%eth0"
    return ""
