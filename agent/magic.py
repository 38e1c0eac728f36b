"""Wake-on-LAN: the magic packet, sent by UDP on every interface to everybody.

    | ff ff ff ff ff ff | MAC | MAC | ... 16 times | = 102 bytes

Source: AMD, Magic Packet Technology, 1995 (publication 20213).

It goes to 255.255.255.255 and, for an interface without IPv4, to ff02::1. The interface is named in each datagram
(IP_PKTINFO, man 7 ip): without that the kernel would take the one with the default route alone, or none.
"""

from __future__ import annotations

import re
import socket
import struct

PORT = 9  # discard
INTERFACES_LIMIT = 64
IP_PKTINFO = 8  # linux/in.h
MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


def packet(mac: str) -> bytes:
    """The magic packet for aa:bb:cc:dd:ee:ff. ValueError if that is no MAC."""
    if not MAC.fullmatch(mac):
        raise ValueError(f"not a MAC address: {mac!r}")
    return b"\xff" * 6 + bytes.fromhex(re.sub("[:-]", "", mac)) * 16


def send(mac: str) -> str:
    """Send the magic packet on every interface; '' or why it could not be sent on any."""
    try:
        data = packet(mac)
        interfaces = [(number, name) for number, name in socket.if_nameindex() if name != "lo"][:INTERFACES_LIMIT]
    except (ValueError, OSError) as e:
        return str(e)
    sent, error = False, "there is no network interface"
    for number, name in interfaces:
        for send_on in (_send_v4, _send_v6):
            try:
                send_on(data, number)
                sent = True
            except OSError as e:
                error = f"{name}: {e.strerror or e}"
    return "" if sent else error


def _send_v4(data: bytes, interface: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        info = struct.pack("=i4s4s", interface, bytes(4), bytes(4))  # in_pktinfo: interface, source, destination
        sock.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, ("255.255.255.255", PORT))


def _send_v6(data: bytes, interface: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.sendto(data, ("ff02::1", PORT, 0, interface))
