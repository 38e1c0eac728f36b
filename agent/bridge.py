"""Talks to a UPS of the Q1 family through the USB bridge inside it: one question, one answer, as over a line.

Through libusb; the kernel's HID driver, which takes most of these devices for itself, gets the interface back at the
end. Which bridge it is and how it wants its bytes: agent/bridges.py.
"""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Callable, Mapping
from typing import Any

from . import hidraw
from .bridges import BRIDGES, NO_ACK, SHOWN_BYTES, Packets, Reports, Strings, number_of, row, string_of, taken
from .hidraw import Found
from .link import WITHIN_LIMIT_S, NotSent
from .model import LinkError, Option, Reply
from .usbdevice import Claim, Finder, find_all, identity, remedy

log = logging.getLogger(__name__)

Wait = Callable[[float], None]

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)
INTERFACE = 0
TRANSFER_WITHIN_MS = 1000  # each of those that make up a question
QUIET_MS = 300  # ends an answer that may come without its CR: packets are 40 ms apart
PACKETS_LIMIT = 600  # for one answer: also those without a byte are counted
DRAIN_LIMIT = 16  # packets that were waiting before a question
EPIPE, ETIMEDOUT = 32, 110
ENGLISH = 0x0409
LOCKSTEP = (0x0D, 0x03, 0x0C)

OPTIONS: tuple[Option, ...] = (
    *hidraw.WHICH,
    Option(
        name="bridge",
        kind=str,
        default="auto",
        choices=("auto", *(one.name for one in BRIDGES)),
        help="the USB bridge inside the UPS; auto takes it from the USB ids and strings; others must be named",
    ),
)


def pause(for_s: float) -> None:
    """Between a question and its answer, where nothing says that it is there."""
    select.select([], [], [], for_s)


def open(  # noqa: A001 (bridge.open reads well)
    section: Mapping[str, Any],
    now: Callable[[], float],
    finder: Finder | None = None,
    util: Any = None,
    meant: hidraw.Meant = hidraw.nobody,
    wait: Wait = pause,
) -> PacketLink | StringLink | ReportLink:
    """The device that `section` (see OPTIONS) describes; `meant` as of hidraw.choose. LinkError with the remedy.
    `finder` and `util` stand in for those of pyusb, `wait` for the time between a question and its answer."""
    import usb.core  # only here: nobody else needs its memory
    import usb.util

    named = str(section.get("bridge") or "auto")
    try:
        fits = []
        for device in (finder or find_all)():
            if _may_be(device, named, section):
                who = identity(device)
                if it := row(who, named):
                    fits.append((Found(hidraw.DEV, who), device, it))
        chosen = hidraw.choose(
            [found for found, *_ in fits], section, "a UPS on a serial line needs [ups] port", meant
        )
    except usb.core.USBError as e:
        raise LinkError(f"USB devices cannot be listed: {e}") from e
    device, it = next((device, it) for found, device, it in fits if found is chosen)
    if named == "auto" and not it.auto:
        raise LinkError(
            f"this USB device looks like bridge {it.name}, which nobody has tried with this program; "
            f'to try it set bridge = "{it.name}" in [ups]'
        )
    try:
        claim = Claim(device, INTERFACE, util or usb.util)
    except usb.core.USBError as e:
        raise LinkError(remedy(chosen.identity, e)) from e
    log.info("usb: bridge %s at %s", it.name, chosen.identity.place)
    if isinstance(it.how, Reports):
        return ReportLink(device, claim, it.name, it.how, now, wait)
    if isinstance(it.how, Strings):
        return StringLink(device, claim, it.name, it.how, now)
    return PacketLink(device, claim, it.name, it.how, now)


def _may_be(device: Any, named: str, section: Mapping[str, Any]) -> bool:
    """By its ids, before it is asked for its strings. A bridge that is named may have other ids: those configured."""
    ids = (int(device.idVendor), int(device.idProduct))
    if any(ids in one.ids for one in BRIDGES if named in ("auto", one.name)):
        return True
    told = [str(section.get(name) or "").lower().removeprefix("0x") for name in ("usb_vendor", "usb_product")]
    return named != "auto" and [f"{number:04x}" for number in ids] == [text.zfill(4) for text in told if text]


class _Device:
    """What both ways share: transfers with deadlines, and their errors."""

    wake_fd: int | None = None  # these never say anything unasked

    def __init__(self, device: Any, claim: Claim, name: str, now: Callable[[], float]) -> None:
        import usb.core

        # ValueError: pyusb says so of an endpoint that the device does not have
        self._errors: tuple[type[Exception], ...] = (usb.core.USBError, ValueError)
        self._device, self._claim, self.name, self._now = device, claim, name, now
        self._open = True

    def close(self) -> None:
        """Give the device back."""
        if self._open:
            self._open = False
            self._claim.give_back()

    def _left_ms(self, deadline_s: float, at_most: int = TRANSFER_WITHIN_MS) -> int:
        """For a transfer; never 0, which libusb takes for ever. LinkError when there is nothing left."""
        left = math.ceil((deadline_s - self._now()) * 1000)
        if left <= 0:
            raise LinkError("no time left")
        return min(left, at_most)


class PacketLink(_Device):
    """An open bridge with reports and packets. See model.Link."""

    def __init__(self, device: Any, claim: Claim, name: str, how: Packets, now: Callable[[], float]) -> None:
        super().__init__(device, claim, name, now)
        self._how, self.timers = how, how.timers

    def carries(self, command: bytes) -> bool:
        """Whether this bridge has a way to say `command` (with CR)."""
        return bool(self._how.frame(command))

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        """As link.SerialLink.ask. A command that the bridge cannot carry, or never answers, comes back as an echo,
        which is how a UPS refuses it."""
        deadline_s = self._now() + min(within_s, WITHIN_LIMIT_S)
        word = command.rstrip(b"\r")
        if word in self._how.unheard or not self.carries(command):
            return Reply(word, self._now())
        self._drain(deadline_s)
        self._send(command, deadline_s)
        inbox, packets = bytearray(), 0
        while (cut := inbox.find(end)) < 0:
            packets += 1
            if len(inbox) > limit_bytes or packets > PACKETS_LIMIT:
                raise LinkError(f"{word!r}: {packets} packets without an end: {bytes(inbox[:SHOWN_BYTES])!r}")
            packet = self._read(deadline_s, word, begun=bool(inbox))
            if packet is None:
                if self._how.silence_ends and inbox:
                    return Reply(bytes(inbox), self._now())
                got = f"only {bytes(inbox[:SHOWN_BYTES])!r}" if inbox else "no answer"
                raise LinkError(f"{word!r}: {got} within {within_s:g} s")
            inbox += taken(self._how, packet)
        return Reply(bytes(inbox[:cut]), self._now())

    def send(self, command: bytes) -> None:
        """Send `command` to which there is no reply. LinkError if it does not get there."""
        if not self.carries(command):
            raise NotSent(f"bridge {self.name} cannot carry {command!r}")
        self._send(command, self._now() + TRANSFER_WITHIN_MS / 1000)

    def _drain(self, deadline_s: float) -> None:
        """Throw away what is left of an earlier answer."""
        for _ in range(DRAIN_LIMIT):
            if self._one(self._left_ms(deadline_s, self._how.drain_ms)) is None:
                return
        raise LinkError("the bridge does not stop talking")

    def _send(self, command: bytes, deadline_s: float) -> None:
        how = self._how
        try:
            for piece in how.frame(command):
                within_ms = self._left_ms(deadline_s)
                if how.out:
                    sent = self._device.write(how.out, piece, within_ms)
                else:
                    sent = self._device.ctrl_transfer(*how.setup, INTERFACE, piece, within_ms)
                if sent != len(piece):
                    raise NotSent(f"{command!r}: {sent} of {len(piece)} bytes sent")
        except self._errors as e:
            raise NotSent(f"{command!r}: not sent: {e}") from e

    def _read(self, deadline_s: float, word: bytes, *, begun: bool) -> bytes | None:
        """The next packet; None: silence until the deadline, or long enough to end the answer that has `begun`."""
        ends = begun and self._how.silence_ends
        while self._now() < deadline_s:
            try:
                packet = self._one(self._left_ms(deadline_s, QUIET_MS if ends else TRANSFER_WITHIN_MS))
            except LinkError as e:
                raise LinkError(f"{word!r}: {e}") from e
            if packet is not None or ends:
                return packet
        return None

    def _one(self, within_ms: int) -> bytes | None:
        """A packet, None: none came."""
        try:
            return bytes(self._device.read(self._how.into, self._how.take_bytes, within_ms))
        except self._errors as e:
            number = getattr(e, "errno", None)
            if number == ETIMEDOUT:
                return None
            if number == EPIPE:
                self._clear_halt()
            raise LinkError(f"no packet: {e}") from e

    def _clear_halt(self) -> None:
        """Or it would refuse for ever."""
        try:
            self._device.clear_halt(self._how.into)
        except self._errors as e:
            log.debug("usb: clearing a halt: %s", e)


class ReportLink(_Device):
    """An open bridge with one report for both directions. See model.Link."""

    def __init__(
        self, device: Any, claim: Claim, name: str, how: Reports, now: Callable[[], float], wait: Wait
    ) -> None:
        super().__init__(device, claim, name, now)
        self._how, self.timers, self._wait = how, how.timers, wait

    def carries(self, command: bytes) -> bool:
        """Whether `command` (with CR) fits into the report."""
        return bool(self._how.frame(command))

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        """As PacketLink.ask."""
        deadline_s = self._now() + min(within_s, WITHIN_LIMIT_S)
        word = command.rstrip(b"\r")
        if not self.carries(command):
            return Reply(word, self._now())
        data = b""
        for _ in range(self._how.tries if word in self._how.questions else 1):
            self._send(command, deadline_s)
            self._wait(min(self._how.wait_s, max(0.0, deadline_s - self._now())))
            data = self._report(deadline_s, word)
            answer, found, _ = data.partition(end)
            if found:
                return Reply(answer, self._now())
            if self._now() >= deadline_s:
                break
        raise LinkError(f"{word!r}: no answer within {within_s:g} s: {data[:SHOWN_BYTES]!r}")

    def send(self, command: bytes) -> None:
        """Send `command` to which there is no reply. LinkError if it does not get there."""
        if not self.carries(command):
            raise NotSent(f"bridge {self.name} cannot carry {command!r}")
        self._send(command, self._now() + TRANSFER_WITHIN_MS / 1000)

    def _send(self, command: bytes, deadline_s: float) -> None:
        frame = self._how.frame(command)[0]
        try:
            sent = self._device.ctrl_transfer(
                0x21, 0x09, self._how.value, INTERFACE, frame, self._left_ms(deadline_s)
            )
        except self._errors as e:
            raise NotSent(f"{command!r}: not sent: {e}") from e
        if sent != len(frame):
            raise NotSent(f"{command!r}: {sent} of {len(frame)} bytes sent")

    def _report(self, deadline_s: float, word: bytes) -> bytes:
        size = self._how.size_bytes
        try:
            return bytes(
                self._device.ctrl_transfer(0xA1, 0x01, self._how.value, INTERFACE, size, self._left_ms(deadline_s))
            )
        except self._errors as e:
            raise LinkError(f"{word!r}: {e}") from e


class StringLink(_Device):
    """An open bridge whose answers are string descriptors. See model.Link."""

    def __init__(self, device: Any, claim: Claim, name: str, how: Strings, now: Callable[[], float]) -> None:
        super().__init__(device, claim, name, now)
        self._how, self.timers = how, how.timers
        self._language = 0  # not asked yet
        self._step = 0

    def carries(self, command: bytes) -> bool:
        """Whether this bridge has a number for `command` (with CR)."""
        return number_of(self._how, command.rstrip(b"\r")) is not None

    def ask(self, command: bytes, *, end: bytes = b"\r", limit_bytes: int = 512, within_s: float = 3.0) -> Reply:
        """As PacketLink.ask. What is no question is asked for once, and its answer, which says nothing, left out."""
        deadline_s = self._now() + min(within_s, WITHIN_LIMIT_S)
        word = command.rstrip(b"\r")
        number = number_of(self._how, word)
        if number is None:
            return Reply(word, self._now())
        self._prepare(number, deadline_s)
        begins = self._how.first.get(word)
        if begins is None:
            try:
                self._string(number, deadline_s)
            except LinkError as e:
                raise NotSent(f"{word!r}: {e}") from e
            return Reply(b"", self._now())
        error = ""
        for _ in range(self._how.tries):
            descriptor = self._string(number, deadline_s)
            try:
                text = string_of(descriptor).partition(end)[0]
            except LinkError as e:
                error = str(e)
                continue
            if text.strip(b"\0 ").upper() != NO_ACK:
                return Reply(begins + text[1:] if self._how.replaced else text, self._now())
            error = "UPS No Ack"
        raise LinkError(f"{word!r}: {error}")

    def send(self, command: bytes) -> None:
        """Send `command` to which there is no reply. LinkError if it does not get there."""
        if not self.carries(command):
            raise NotSent(f"bridge {self.name} cannot carry {command!r}")
        self.ask(command, within_s=TRANSFER_WITHIN_MS / 1000)

    def _string(self, number: int, deadline_s: float, limit_bytes: int = 0) -> bytes:
        """The string descriptor of this number, as it comes (USB 2.0, 9.4.3). LinkError."""
        limit_bytes = limit_bytes or self._how.limit_bytes
        try:
            return bytes(
                self._device.ctrl_transfer(
                    0x80, 0x06, 0x0300 | number, self._language, limit_bytes, self._left_ms(deadline_s)
                )
            )
        except self._errors as e:
            raise LinkError(f"string {number:#04x}: {e}") from e

    def _prepare(self, number: int, deadline_s: float) -> None:
        """What must come before: the language once; a knock; the other strings of a lockstep. None of them counts."""
        if not self._language:
            languages = self._tried(0, deadline_s)
            known = len(languages) >= 4 and languages[1] == 3
            self._language = int.from_bytes(languages[2:4], "little") if known else ENGLISH
            self._language = self._language or ENGLISH
            if self._how.lockstep:
                self._tried(0, deadline_s)
                self._tried(1, deadline_s)
        elif self._how.lockstep:
            other = LOCKSTEP[self._step]
            self._step = (self._step + 1) % len(LOCKSTEP)
            if other != number:
                self._tried(other, deadline_s)
        if self._how.knock:
            try:
                self._device.read(0x81, self._how.limit_bytes, self._left_ms(deadline_s, 200))
            except self._errors as e:
                log.debug("usb: knock: %s", e)

    def _tried(self, number: int, deadline_s: float) -> bytes:
        try:
            return self._string(number, deadline_s)
        except LinkError as e:
            log.debug("usb: %s", e)
            return b""
