"""Which network interface leads to an IP address: the kernel's own choice among its routes.

rtnetlink (man 7 rtnetlink; linux/rtnetlink.h): request RTM_GETROUTE, answer one message

| length 4 | type 2 | flags 2 | sequence 4 | port 4 |                                   nlmsghdr, 16 bytes
| family 1 | bits of destination 1 | 0 ... | flags 4 |                               rtmsg, 12 bytes
| length 2 | type 2 | value ... padded to 4 | ...         rtattr; RTA_DST 1, RTA_OIF 4

An answer of type NLMSG_ERROR has the negative errno where the rtmsg would be.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

from .neighbours import ATTRIBUTE, HEADER, NLMSG_ERROR

MESSAGE, NUMBER = struct.Struct("=BB6xI"), struct.Struct("=i")
RTM_NEWROUTE, RTM_GETROUTE, NLM_F_REQUEST = 24, 26, 1
RTA_DST, RTA_OIF = 1, 4
REPLY_LIMIT_BYTES, WITHIN_S = 4096, 1.0


def interface(host: str) -> int:
    """The ifIndex over which a datagram to this address would leave. OSError as the kernel says: there is no route,
    or it cannot be asked."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if scope := host.partition("%")[2]:
        return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    wanted = ATTRIBUTE.pack(ATTRIBUTE.size + len(address.packed), RTA_DST) + address.packed
    body = MESSAGE.pack(family, address.max_prefixlen, 0) + wanted
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(WITHIN_S)
        sock.send(HEADER.pack(HEADER.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + body)
        return parse(sock.recv(REPLY_LIMIT_BYTES))


def parse(data: bytes) -> int:
    """The ifIndex in an answer. OSError: it says that there is none, or it makes no sense."""
    if len(data) >= HEADER.size + NUMBER.size:
        length, kind, _, _, _ = HEADER.unpack_from(data)
        if kind == NLMSG_ERROR:
            number = -NUMBER.unpack_from(data, HEADER.size)[0]
            raise OSError(number, os.strerror(number))
        place, end = HEADER.size + MESSAGE.size, min(length, len(data))
        while kind == RTM_NEWROUTE and place + ATTRIBUTE.size <= end:
            size, what = ATTRIBUTE.unpack_from(data, place)
            if size < ATTRIBUTE.size or place + size > end:
                break
            if what == RTA_OIF and size == ATTRIBUTE.size + NUMBER.size:
                return int(NUMBER.unpack_from(data, place + ATTRIBUTE.size)[0])
            place += (size + 3) & ~3
    raise OSError(errno.EPROTO, f"the kernel named no interface: {data[:48].hex()}")
