"""The kernel's neighbour table: which MAC address an IP address of the LAN has.

rtnetlink (man 7 rtnetlink; linux/neighbour.h): request RTM_GETNEIGH, answer one message per neighbour

| length 4 | type 2 | flags 2 | sequence 4 | port 4 |                                   nlmsghdr, 16 bytes
| family 1 | pad 3 | interface 4 | state 2 | flags 1 | type 1 |                         ndmsg, 12 bytes
| length 2 | type 2 | value ... padded to 4 | ...         rtattr; NDA_DST 1, NDA_LLADDR 2
"""

from __future__ import annotations

import socket
import struct

HEADER, MESSAGE, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxxxiHBB"), struct.Struct("=HH")
RTM_NEWNEIGH, RTM_GETNEIGH, NLMSG_ERROR, NLMSG_DONE = 28, 30, 2, 3
NLM_F_REQUEST_DUMP = 0x301
NDA_DST, NDA_LLADDR = 1, 2
ADDRESS_BYTES = {socket.AF_INET: 4, socket.AF_INET6: 16}
NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP = 0x01, 0x20, 0x40
ROWS_LIMIT, REPLIES_LIMIT, WITHIN_S = 8192, 1024, 1.0


def table() -> dict[str, str]:
    """IP address -> MAC (aa:bb:cc:dd:ee:ff) of every neighbour that is known. OSError as the kernel says."""
    found: dict[str, str] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(WITHIN_S)
        size = HEADER.size + MESSAGE.size
        request = HEADER.pack(size, RTM_GETNEIGH, NLM_F_REQUEST_DUMP, 1, 0)
        sock.send(request + MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        for _ in range(REPLIES_LIMIT):
            rows, done = parse(sock.recv(65536))
            found.update(rows[: ROWS_LIMIT - len(found)])
            if done:
                break
    return found


def parse(data: bytes) -> tuple[list[tuple[str, str]], bool]:
    """(address and MAC of each neighbour in one answer, whether it was the last). Never an error: what makes no
    sense is left out, and ends the answer."""
    rows: list[tuple[str, str]] = []
    place = 0
    while place + HEADER.size <= len(data):
        length, kind, _, _, _ = HEADER.unpack_from(data, place)
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            return rows, True
        if length < HEADER.size or place + length > len(data):
            return rows, True
        if kind == RTM_NEWNEIGH and (row := _row(data[place + HEADER.size : place + length])):
            rows.append(row)
        place += (length + 3) & ~3
    return rows, False


def _row(body: bytes) -> tuple[str, str] | None:
    if len(body) < MESSAGE.size:
        return None
    family, _, state, _, _ = MESSAGE.unpack_from(body)
    if state & (NUD_INCOMPLETE | NUD_FAILED | NUD_NOARP):
        return None
    values: dict[int, bytes] = {}
    place = MESSAGE.size
    while place + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, place)
        if length < ATTRIBUTE.size or place + length > len(body):
            return None
        values[kind] = body[place + ATTRIBUTE.size : place + length]
        place += (length + 3) & ~3
    address, mac = values.get(NDA_DST, b""), values.get(NDA_LLADDR, b"")
    if len(mac) != 6 or not any(mac) or mac[0] & 1 or len(address) != ADDRESS_BYTES.get(family):
        return None
    return socket.inet_ntop(family, address), mac.hex(":")
