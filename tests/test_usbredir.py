"""The simulator of the USB bus speaks usbredir as QEMU asks for it: the bytes of a hello and of control transfers."""

from __future__ import annotations

import socket
import struct

from tests.simulators.hidunit import HidUnit
from tests.simulators.usbredir import UsbRedir


def packet(peer: socket.socket, header: str = "<IIQ") -> tuple[int, bytes]:
    kind, length, _ = struct.unpack(header, peer.recv(struct.calcsize(header), socket.MSG_WAITALL))
    return kind, peer.recv(length, socket.MSG_WAITALL) if length else b""


def control(peer: socket.socket, to: int, request: int, value: int, length: int) -> tuple[int, bytes]:
    """(status, data) of a transfer to the unit's interface 0."""
    body = struct.pack("<BBBBHHH", to & 0x80, request, to, 0, value, 0, length)
    peer.sendall(struct.pack("<IIQ", 100, len(body), 7) + body)
    kind, answer = packet(peer)
    assert kind == 100
    return answer[3], answer[10:]


def test_a_unit_is_connected_described_and_read_and_sends_interrupts() -> None:
    sim = UsbRedir(HidUnit.of("0764-0501"))
    with socket.create_connection(("127.0.0.1", sim.port), 5) as peer:
        kind, hello = packet(peer, "<III")
        assert kind == 0 and struct.unpack("<I", hello[64:])[0] & 0x72 == 0x72
        peer.sendall(struct.pack("<III64sI", 0, 68, 0, b"test", 0x72))
        assert [packet(peer)[0] for _ in range(3)] == [4, 5, 1]
        assert control(peer, 0x81, 6, 0x2200, 4096) == (0, sim.unit.descriptor)
        status, device = control(peer, 0x80, 6, 0x0100, 18)
        assert status == 0 and device[8:12] == struct.pack("<HH", 0x0764, 0x0501)
        report, data = next((r, d) for (k, r), d in sim.unit.reports.items() if k == "feature")
        assert control(peer, 0xA1, 1, 0x0300 | report, 64) == (0, data)
        assert control(peer, 0xA1, 1, 0x03EE, 64) == (4, b"")
        sim.stalls = True
        assert control(peer, 0xA1, 1, 0x0300 | report, 64) == (4, b"")
        peer.sendall(struct.pack("<IIQ", 15, 1, 8) + b"\x81")
        assert packet(peer) == (17, b"\0\x81")
        sim.push(report)
        assert packet(peer) == (103, struct.pack("<BBH", 0x81, 0, len(data)) + data)
        sim.halt()
        assert packet(peer) == (103, struct.pack("<BBH", 0x81, 4, 0))
        sim.push(report)  # it waits until the halt is cleared
        clear = struct.pack("<BBBBHHH", 0, 1, 0x02, 0, 0, 0, 0)  # CLEAR_FEATURE(ENDPOINT_HALT)
        peer.sendall(struct.pack("<IIQ", 100, len(clear), 7) + clear)
        assert [packet(peer)[0] for _ in range(2)] == [103, 100]
        sim.stalls = sim.until_reset = True
        assert control(peer, 0xA1, 1, 0x0300 | report, 64) == (4, b"")
        peer.sendall(struct.pack("<IIQ", 3, 0, 9))
        assert control(peer, 0xA1, 1, 0x0300 | report, 64) == (0, data) and sim.resets == 1
        sim.unplug()
        assert packet(peer)[0] == 2
    sim.close()
