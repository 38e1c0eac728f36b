"""Decides which SNMP datagrams are looked at: who may ask from where, how often, and what he may do."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from . import addresses, config
from .model import ConfigError

log = logging.getLogger(__name__)

# A walk of everything is some 250 requests; a burst of several walks passes at full speed. Sustained, a source gets
# two walks a second, and all together four: more than any manager asks for, and few enough that the web page, which
# lives in the same process, keeps most of the processor (docs/snmp.md has the arithmetic).
SOURCE_RATE_PER_S, SOURCE_BURST = 500.0, 2000.0
TOTAL_RATE_PER_S, TOTAL_BURST = 1000.0, 4000.0
SOURCES_LIMIT = 1024  # addresses whose rate and rights are remembered


@dataclass(frozen=True, slots=True)
class Community:
    """One that has a secret."""

    label: str
    secret: bytes
    networks: tuple[addresses.Network, ...]
    writes: bool


@dataclass(slots=True)
class _Sender:
    """What is remembered of one source address."""

    communities: tuple[Community, ...]
    users: frozenset[str]  # of version 3
    paid_s: float = -math.inf  # until then the rate is used up; see `Gate.refusal`


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address behind what recvfrom names; an IPv4 address on an IPv6 socket is an IPv4 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _networks(whose: str, sources: Iterable[str]) -> tuple[addresses.Network, ...]:
    """ConfigError names whose is wrong."""
    try:
        return tuple(addresses.network(source) for source in sources)
    except ConfigError as e:
        raise ConfigError(f"{whose} from: {e}") from None


class Gate:
    """Decides for each datagram, before its decoding, whether the sender may ask now."""

    def __init__(self, settings: config.Snmp, secrets: Mapping[str, str], keys: Container[str] = ()) -> None:
        """`keys`: the users that have some. A community without a secret is off; one log line says so. ConfigError:
        a source that is no network."""
        self._communities: list[Community] = []
        for community in settings.communities:
            if not secrets.get(community.label):
                log.warning(
                    "snmp: community %s is off, it has no secret; give it one with: ridethrough secret set %s",
                    community.label, community.label,
                )  # fmt: skip
                continue
            networks = _networks(f"[[snmp.community]] {community.label}", community.sources)
            self._communities.append(
                Community(
                    community.label, secrets[community.label].encode(), networks, community.access == "read-write"
                )
            )
        labels: dict[bytes, list[str]] = {}
        for one in self._communities:
            labels.setdefault(one.secret, []).append(one.label)
        for same in labels.values():
            if len(same) > 1:
                log.warning(
                    "snmp: communities %s have the same secret: where several could be meant, %s counts",
                    ", ".join(same), same[-1],
                )  # fmt: skip
        users = [user for user in settings.users if user.name in keys]
        self._users = {user.name: _networks(f"[[snmp.user]] {user.name}", user.sources) for user in users}
        self._senders: dict[str, _Sender] = {}
        self._paid_s = -math.inf  # of all together

    def __bool__(self) -> bool:
        return bool(self._communities or self._users)

    def refusal(self, host: str, now_s: float) -> str | None:
        """Why nothing of this source is looked at now; None: it may ask.

        A bucket that lets a burst through at once, and then a rate, is one number: until when what came is paid for.
        Each request adds the time that it costs, and who would be a whole burst ahead of now has to wait (half a
        request more, because such sums are not exact).
        """
        sender = self._senders.get(host) or self._meet(host)
        if not sender.communities and not sender.users:
            return "foreign source"
        paid_s = (sender.paid_s if sender.paid_s > now_s else now_s) + 1 / SOURCE_RATE_PER_S
        if paid_s - now_s > (SOURCE_BURST + 0.5) / SOURCE_RATE_PER_S:
            return "too many requests"
        sender.paid_s = paid_s
        paid_s = (self._paid_s if self._paid_s > now_s else now_s) + 1 / TOTAL_RATE_PER_S
        if paid_s - now_s > (TOTAL_BURST + 0.5) / TOTAL_RATE_PER_S:
            return "too many requests"
        self._paid_s = paid_s
        return None

    def community(self, host: str, secret: bytes) -> Community | None:
        """The community of a source, if it may use it; takes equally long wherever a wrong one differs."""
        found = None
        for allowed in self._senders[host].communities:
            if hmac.compare_digest(allowed.secret, secret):
                found = allowed
        return found

    def admits(self, host: str, user: str) -> bool:
        """Whether this user of version 3 may ask from a source."""
        return user in self._senders[host].users

    def _meet(self, host: str) -> _Sender:
        if len(self._senders) >= SOURCES_LIMIT:
            self._senders.clear()  # of spoofed addresses, most likely; the bucket of all still holds
        address = _address(host)
        allowed = tuple(c for c in self._communities if any(address in n for n in c.networks))
        users = frozenset(name for name, networks in self._users.items() if any(address in n for n in networks))
        sender = self._senders[host] = _Sender(allowed, users)
        return sender
