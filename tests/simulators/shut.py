"""A UPS that speaks SHUT on a pseudo terminal, made from a real USB unit's own descriptor and report bytes.

    python -m tests.simulators.shut --link PATH [--unit NAME] [--paced]

PATH becomes a symbolic link to the terminal. Standard input: `mains off`, `mains on`, `quit`. Frames as in
agent/shut.py, written down once more here, so that no mistake is made on both sides; NUT's `mge-shut` reads it too.
"""

from __future__ import annotations

import argparse
import os
import select
import struct
import sys
import threading
import time
import tty
from collections import deque
from pathlib import Path

from agent.link import Silence
from agent.model import Reply
from tests.simulators.hidunit import HidUnit
from tests.simulators.usbredir import UsbRedir

UNIT = "0463-ffff-eaton-9px-2200grt-l"
PACE_S = 10 / 2400  # a byte
AGAIN_S, TIMES = 1.0, 3  # a frame that nobody acknowledges
SYNCS, ACK, NAK = (0x16, 0x17, 0x18), 0x06, 0x15


def checked(kind: int, piece: bytes) -> bytes:
    total = 0
    for byte in piece:
        total ^= byte
    return bytes([kind, len(piece) * 17]) + piece + bytes([total])


class ShutUnit:
    """What the unit says: `hear` bytes, `tell` what it says unasked, `again` what nobody has acknowledged. `damage`
    spoils so many frames; `silent` says nothing; `told` are reports that wait to be told."""

    def __init__(self, unit: HidUnit) -> None:
        self.unit = unit
        self.usb = UsbRedir(unit)  # its control transfers
        self.silent, self.damage = False, 0
        self.syncs: list[int] = []
        self.requests: list[bytes] = []
        self.told: deque[bytes] = deque()
        self._held, self._request = bytearray(), bytearray()
        self._answer: deque[bytes] = deque()  # frames that go out one by one
        self._times, self._level = 0, 0x18

    def hear(self, data: bytes) -> bytes:
        """Bytes of the other side; what is said to them."""
        self._held += data
        said, held = b"", self._held
        while held:
            first = held[0]
            if first in SYNCS:
                del held[0]
                self.syncs.append(first)
                self._level = first
                self._answer.clear()
                self._request.clear()
                said += bytes([first])
            elif first in (ACK, NAK):
                del held[0]
                if first == ACK and self._answer:
                    self._answer.popleft()
                    self._times = 0
                said += self.again()
            elif first & 0x7F == 1:
                length = held[1] & 15 if len(held) > 1 else 8
                if len(held) < length + 3:
                    break
                whole = bytes(held[: length + 3])
                del held[: length + 3]
                said += self._take(whole)
            else:
                del held[0]
        return b"" if self.silent else said

    def again(self) -> bytes:
        """The first frame of those that wait, at most TIMES."""
        if not self._answer:
            return b""
        self._times += 1
        if self._times > TIMES:
            self._answer.clear()
            return b""
        whole = self._answer[0]
        if self.damage:
            self.damage -= 1
            whole = whole[:-1] + bytes([whole[-1] ^ 0x55])
        return b"" if self.silent else whole

    def tell(self) -> bytes:
        """A report that is told unasked, if it may and nothing else is under way."""
        if self._answer or not self.told or self._level != 0x16:
            return b""
        return self._begin(5, self.told.popleft())

    def mains(self, there: bool) -> None:
        """The mains fails or comes back; the input reports that say so wait to be told."""
        self.told.extend(self.unit.reports["input", report] for report in self.unit.mains(there))

    def _take(self, whole: bytes) -> bytes:
        if checked(whole[0], whole[2:-1]) != whole:
            return bytes([NAK])
        self._request += whole[2:-1]
        if not whole[0] & 0x80:
            return bytes([ACK])
        asked = bytes(self._request)
        self._request.clear()
        self.requests.append(asked)
        if len(asked) < 8:
            return bytes([NAK])
        to, request, value, _, length = struct.unpack_from("<BBHHH", asked)
        found = self.usb.control(to, request, value, length, asked[8:])
        if found is None and (to, request, value >> 8) == (0x80, 6, 3):
            found = b"\x02\x03"  # a text that is empty: NUT asks for ever for one that is refused
        if found is None:
            return bytes([NAK])
        return bytes([ACK]) + (self._begin(4, found) if found and to & 0x80 else b"")

    def _begin(self, kind: int, data: bytes) -> bytes:
        pieces = [data[at : at + 8] for at in range(0, len(data), 8)]
        ends = [0] * (len(pieces) - 1) + [0x80]
        self._answer.extend(checked(kind | end, piece) for end, piece in zip(ends, pieces, strict=True))
        self._times = 0
        return self.again()


class ShutScript:
    """The unit as a line without a terminal and without waiting; `sent`, `now_s`, `waited_s` and `closed` as of
    tests/simulators/script.py."""

    wake_fd: int | None = None

    def __init__(self, unit: HidUnit, pace_s: float = 0.0) -> None:
        """`pace_s`: what a byte costs."""
        self.there, self.pace_s = ShutUnit(unit), pace_s
        self.out = bytearray()
        self.sent: list[bytes] = []
        self.now_s, self.waited_s, self.closed = 1000.0, 0.0, False

    def send(self, command: bytes) -> None:
        self.sent.append(command)
        self.now_s += self.pace_s * len(command)
        self.out += self.there.hear(command)

    def read(self, limit_bytes: int, within_s: float) -> bytes:
        self.out += b"" if self.out else self.there.tell()
        data = bytes(self.out[:limit_bytes])
        del self.out[:limit_bytes]
        spent_s = len(data) * self.pace_s if data else within_s
        self.now_s += spent_s
        self.waited_s += 0.0 if data else within_s
        return data

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        self.out.clear()
        self.send(command)
        data, found, _ = bytes(self.out).partition(end)
        self.out.clear()
        if not found:
            self.now_s += within_s
            self.waited_s += within_s
            raise Silence("no answer")
        return Reply(data, self.now_s)

    def close(self) -> None:
        self.closed = True
        self.there.usb.close()


class ShutPty:
    """The unit on a terminal, with a thread that answers. What touches `there` holds `lock`."""

    def __init__(self, path: Path | str, unit: HidUnit | None = None, *, paced: bool = False) -> None:
        self.path, self._paced = Path(path), paced
        self.there = ShutUnit(unit if unit is not None else HidUnit.of(UNIT))
        self.lock = threading.Lock()
        self._stop = threading.Event()
        self._master = self._slave = -1
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ShutPty:
        self.replug()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        os.write(self._wake_w, b"x")
        self._thread.join()
        self.there.usb.close()
        self.unplug()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def unplug(self) -> None:
        """The terminal vanishes, as a USB adapter does; the unit goes on, and talks to nobody."""
        with self.lock:
            self.path.unlink(missing_ok=True)
            for fd in (self._slave, self._master):
                if fd >= 0:
                    os.close(fd)
            self._master = self._slave = -1

    def replug(self) -> None:
        """A new terminal appears under the same path."""
        with self.lock:
            self._master, self._slave = os.openpty()
            os.set_blocking(self._master, False)
            tty.setraw(self._slave)
            self.path.unlink(missing_ok=True)
            self.path.symlink_to(os.ttyname(self._slave))
        os.write(self._wake_w, b"x")

    def mains(self, there: bool) -> None:
        """The mains fails or comes back."""
        with self.lock:
            self.there.mains(there)
        os.write(self._wake_w, b"x")

    def _run(self) -> None:
        said_s = 0.0
        while not self._stop.is_set():
            with self.lock:
                poll = select.poll()
                poll.register(self._wake_r, select.POLLIN)
                if self._master >= 0:
                    poll.register(self._master, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(100)}
            if self._wake_r in ready:
                os.read(self._wake_r, 100)
            with self.lock:
                data = self._heard() if self._master in ready else b""
                said = self.there.hear(data) if data else b""
                if not said and time.monotonic() - said_s > AGAIN_S:
                    said = self.there.again()
                said = said or self.there.tell()
                if said and self._master >= 0:
                    self._say(said)
            if said:
                said_s = time.monotonic()

    def _heard(self) -> bytes:
        try:
            return os.read(self._master, 4096)
        except BlockingIOError:  # another terminal by now, with the same number
            return b""

    def _say(self, data: bytes) -> None:
        for at in range(len(data) if self._paced else 0):
            os.write(self._master, data[at : at + 1])
            time.sleep(PACE_S)
        if not self._paced:
            os.write(self._master, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--link", required=True)
    parser.add_argument("--unit", default=UNIT)
    parser.add_argument("--paced", action="store_true")
    args = parser.parse_args()
    with ShutPty(args.link, HidUnit.of(args.unit), paced=args.paced) as ups:
        for line in sys.stdin:
            words = line.split()
            if words == ["quit"]:
                break
            if words[:1] == ["mains"]:
                ups.mains(words[1:] == ["on"])


if __name__ == "__main__":
    main()
