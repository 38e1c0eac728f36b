"""Wake-on-LAN: the magic packet, sent by UDP broadcast on every interface.

    | ff ff ff ff ff ff | MAC | MAC | ... 16 times | = 102 bytes

Source: AMD, Magic Packet Technology, 1995 (publication 20213).
"""

from __future__ import annotations

import fcntl
import logging
import re
import socket
import struct

log = logging.getLogger(__name__)

PORT = 9  # discard
INTERFACES_LIMIT = 64
SIOCGIFBRDADDR = 0x8919  # linux/sockios.h


def packet(mac: str) -> bytes:
    """The magic packet for aa:bb:cc:dd:ee:ff. ValueError if that is no MAC."""
    if not re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", mac):
        raise ValueError(f"not a MAC address: {mac!r}")
    return b"\xff" * 6 + bytes.fromhex(re.sub("[:-]", "", mac)) * 16


def broadcasts() -> list[str]:
    """The broadcast addresses of this machine's IPv4 interfaces."""
    found = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex()[:INTERFACES_LIMIT]:
            try:
                answer = fcntl.ioctl(sock, SIOCGIFBRDADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # no IPv4, or none to broadcast on
            found.add(socket.inet_ntoa(answer[20:24]))
    return sorted(found - {"0.0.0.0"})


def send(mac: str) -> str:
    """Send the magic packet on every interface; '' or why it could not be sent on any."""
    data, errors = packet(mac), []
    places = broadcasts() or ["255.255.255.255"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for place in places:
            try:
                sock.sendto(data, (place, PORT))
            except OSError as e:
                errors.append(f"{place}: {e.strerror or e}")
    return "; ".join(errors) if len(errors) == len(places) else ""
