"""An APC Smart-UPS on a pseudo terminal: smart mode, alerts, settings in its memory, and orders that want their time.

    python -m tests.simulators.apcsmart --link PATH

Standard input takes the lines of tests/simulators/megatec.py, and `alert CHARACTERS` (said unasked, as they are).
The unit behind it is agent/pretend.py; what it says follows https://networkupstools.org/protocols/apcsmart.html.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

from agent.pretend import Source, TestResult, Unit
from tests.simulators.megatec import FAULTS, MegatecPty, control

CASES = json.loads((Path(__file__).parent.parent / "cases" / "apcsmart.json").read_text())
CAPABILITIES = next(c["text"] for c in CASES["capabilities"] if c["id"] == "full").encode("latin-1")
COMMANDS = b"\x01\x0e\x1a')+-/89@ABCDEFGKLMNOPQRSUVWXYZabcdefgjklmnopqrsuxyz~"
DOUBLE_PRESS_S = (1.45, 10.0)  # NUT waits 1.5 s, of which a terminal may swallow some
DIGITS_GAP_S = (0.03, 3.0)  # hurried, the unit stops listening to the order
SETTINGS = {
    b"u": ("253", "264", "271", "280"),
    b"l": ("196", "188", "208", "204"),
    b"q": ("02", "05", "07", "10"),
    b"p": ("020", "180", "300", "600"),
    b"k": ("0", "T", "L", "N"),
    b"r": ("000", "060", "180", "300"),
    b"o": ("230", "240", "220", "225"),
}
TEXTS = {
    b"\x01": b"Smart-UPS 1500",
    b"n": b"AS0525110123  ",
    b"V": b"FWI",
    b"b": b"601.3.I",
    b"g": b"024",
    b"E": b"336",
}


class ApcUnit:
    """What the unit says and does: `hear(byte, now_s)` gives what it says to it, `alerts()` what it says unasked."""

    def __init__(self, unit: Unit, *, commands: bytes | None = COMMANDS, okay: bytes = b"OK\r\n") -> None:
        """`commands`: what it lists, and knows; None: an old unit that does not list them. `okay`: how it says OK."""
        self.unit, self.commands, self._okay = unit, commands, okay
        self.smart = self.in_menu = self.mute_abort = False
        self.settings = {name: values[0] for name, values in SETTINGS.items()}
        self.writes = 0  # to its memory
        self.replace_battery = self.overload = self.calibrating = False
        self.register = {b"~": 0, b"'": 0, b"8": 0}
        self.cause = b"O"
        self._asked = b""  # the question before, which `-` changes
        self._pressed = (b"", 0.0)
        self._digits: bytes | None = None
        self._digit_s = 0.0
        self._was_on_battery = self._was_low = False

    def bits(self) -> int:
        """The answer to Q as a number."""
        unit = self.unit
        if not unit.output_on:
            return 0
        on_battery = unit.source is Source.BATTERY or unit.testing or self.calibrating
        facts = (
            self.calibrating, unit.source is Source.BUCK, unit.source is Source.BOOST, not on_battery, on_battery,
            self.overload, unit.low, self.replace_battery,
        )  # fmt: skip
        return sum(1 << n for n, so in enumerate(facts) if so)

    def alerts(self) -> bytes:
        """What has changed since the last call, as the unit says it by itself."""
        on_battery, low = bool(self.bits() & 0x10), self.unit.low
        said = b"!" if on_battery and not self._was_on_battery else b""
        said += b"$" if self._was_on_battery and not on_battery else b""
        said += b"%" if low and not self._was_low else b""
        said += b"+" if self._was_low and not low else b""
        if on_battery and not self._was_on_battery:
            self.cause = b"S" if self.unit.mains_usable else b"L"
        self._was_on_battery, self._was_low = on_battery, low
        return said if self.smart else b""

    def hear(self, byte: bytes, now_s: float) -> bytes:
        """What it says to one character that comes at this second."""
        if byte == b"\x1b":
            said, self.in_menu = (b"\r\n" if self.in_menu else b""), False
            return said
        if self.in_menu:
            return b"?\r\n"
        if byte == b"Y":
            self.smart = True
            return b"SM\r\n"
        if not self.smart:
            return b""
        if self._digits is not None:
            return self._digit(byte, now_s)
        said = self._say(byte, now_s)
        if byte != b"-":
            self._asked = byte
        return said

    def _say(self, byte: bytes, now_s: float) -> bytes:
        unit = self.unit
        numbers = {
            b"B": b"%05.2f" % unit.battery_v,
            b"C": b"%05.1f" % unit.temperature_c,
            b"F": b"%05.2f" % 50.0,
            b"L": b"%05.1f" % unit.input_v,
            b"O": b"%05.1f" % unit.output_v,
            b"P": b"%05.1f" % unit.load_now_pct,
            b"/": b"%05.2f" % (unit.load_now_pct / 20),
            b"f": b"%05.1f" % unit.charge_pct,
            b"j": b"%04d:" % min(9999, int(unit.runtime_s / 60)),
            b"M": b"%05.1f" % unit.input_v,
            b"N": b"%05.1f" % unit.fault_v,
            b"Q": b"%02X" % self.bits(),
            b"G": self.cause,
            b"X": {TestResult.PASSED: b"OK", TestResult.FAILED: b"BT"}.get(unit.test_result, b"NO"),
        }
        if byte == b"a":
            return b"3.!$%%+?=#|.%s\r\n" % self.commands if self.commands else b"NA\r\n"
        if self.commands is not None and byte not in self.commands + b"\x7f":
            return b"NA\r\n"
        if byte == b"\x1a":
            return CAPABILITIES + b"\r\n"
        if byte in numbers:
            return numbers[byte] + b"\r\n"
        if byte in self.settings:
            return self.settings[byte].encode() + b"\r\n"
        if byte in self.register:
            return b"%02X\r\n" % self.register[byte]
        return TEXTS[byte] + b"\r\n" if byte in TEXTS else self._obey(byte, now_s)

    def _obey(self, byte: bytes, now_s: float) -> bytes:
        unit = self.unit
        if byte == b"-":
            if self._asked not in SETTINGS:
                return b"NO\r\n"
            values = SETTINGS[self._asked]
            place = values.index(self.settings[self._asked]) + 1
            self.settings[self._asked] = values[place % len(values)]
            self.writes += 1
            return b"OK\r\n|"
        if byte == b"W":
            unit.start_test(10.0)
        elif byte == b"D":
            if not self.calibrating and unit.charge_pct < 99:
                return b"NO\r\n"
            self.calibrating = not self.calibrating
            return b""  # alerts alone
        elif byte == b"S":
            if not self.bits() & 0x10:
                return b"NA\r\n"
            self._off(float(self.settings[b"r"]))
        elif byte == b"@":
            self._digits, self._digit_s = b"", now_s
            return b""
        elif byte == b"\x7f":
            if self.mute_abort:
                return b""
            unit.off_at_s = None
        elif byte == b"R":
            self.smart = False
            return b"BYE\r\n"
        elif byte in (b"K", b"Z", b"\x0e"):
            (before, at_s), self._pressed = self._pressed, (byte, now_s)
            if before != byte or not DOUBLE_PRESS_S[0] <= now_s - at_s <= DOUBLE_PRESS_S[1]:
                return b""
            self._pressed = (b"", 0.0)
            if byte == b"K":
                self._off(None)
            else:
                unit.output_on = byte == b"\x0e"
        else:
            return b"NA\r\n"
        return self._okay

    def _digit(self, byte: bytes, now_s: float) -> bytes:
        rushed = not DIGITS_GAP_S[0] <= now_s - self._digit_s <= DIGITS_GAP_S[1]
        digits, self._digit_s = (self._digits or b"") + byte, now_s
        self._digits = digits if not rushed and digits.isdigit() and len(digits) < 3 else None
        if rushed or not digits.isdigit():
            return b""
        if len(digits) < 3:
            return b""
        self._off(360.0 * int(digits))
        return self._okay

    def _off(self, return_s: float | None) -> None:
        self.unit.order_off(float(self.settings[b"p"]), return_s)


class ApcPty(MegatecPty):
    """The unit behind a terminal: `with ApcPty(path) as ups: ups.set("mains", "off")`."""

    def __init__(
        self, path: Path | str, *, runtime_s: float = 1200.0, speed: float = 1.0, paced: bool = False
    ) -> None:
        super().__init__(path, runtime_s=runtime_s, speed=speed, paced=paced)
        self.apc = ApcUnit(self.unit)

    def set(self, key: str, value: str) -> None:
        super().set(key, value)
        with self._lock:
            said = self.apc.alerts()
        self.alert(said)

    def alert(self, said: bytes) -> None:
        """Say this unasked."""
        if said:
            with self._lock:
                self._queue(said)
            os.write(self._wake_w, b"x")

    def answer(self, command: bytes) -> bytes:
        """What the unit says to one character."""
        self._scene.play(self._now())
        if time.monotonic() >= self._fault_ends_s:
            self._fault, self._fault_ends_s = "none", float("inf")
        before = self.apc.alerts()
        said = self.apc.hear(command, time.monotonic())
        return before + (FAULTS[self._fault](said) if said else b"") + self.apc.alerts()

    def _read(self) -> None:
        try:
            heard = os.read(self._master, 4096)
        except OSError:
            return
        for n in range(len(heard)):
            byte = heard[n : n + 1]
            self.received.append(byte)
            if said := self.answer(byte):
                self._queue(said)


def main() -> None:
    parser = argparse.ArgumentParser(description="an APC Smart-UPS on a pseudo terminal")
    parser.add_argument("--link", required=True, help="symbolic link to make")
    options = parser.parse_args()
    with ApcPty(options.link) as ups:
        print(f"ready {options.link}", flush=True)
        for line in sys.stdin:
            try:
                if line.startswith("alert "):
                    ups.alert(line[6:].strip().encode())
                elif not control(ups, line):
                    return
                print("ok", flush=True)
            except ValueError as e:
                print(f"error: {e}", flush=True)
        threading.Event().wait()  # standard input is closed: go on until killed


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
