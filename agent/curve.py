"""The discharge curve of this battery, learned in real outages: how long each percent of charge really lasts. Pure.

Ten bands of charge; for each the seconds that one percent lasts at 100 % load. At another load it is scaled linearly.
Real batteries give less than that at higher loads (Peukert, an exponent of about 1.15 for lead), but nobody knows the
exponent of a unit, and what the UPS itself consumes works against it. So a forecast for less load than was learned is
cautious, one for twice the load some 10 % too good, until an outage at that load has taught better.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import Ident

NOBODY = Ident()
BANDS, WIDTH_PCT = 10, 10.0
GAP_S = 15.0  # between two frames; what is longer counts as not seen
LEARN_FROM_S, LEARN_FROM_PCT = 60.0, 5.0  # a shorter or flatter discharge teaches nothing
FALL_PCT = 1.0  # the charge has fallen to a new low; less is noise
BELIEVED_S = (0.05, 3600.0)  # for one percent at full load
NEWER_WEIGHS = 0.5
LOAD_FLOOR_PCT, LOAD_UNKNOWN_PCT = 10.0, 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`s_per_pct`: for 0-10, 10-20 .. 90-100 % of charge the seconds a percent lasts at full load; None: not seen."""

    s_per_pct: tuple[float | None, ...] = (None,) * BANDS
    outages: int = 0
    of: Ident = NOBODY  # the UPS that it was learned of: its model and serial number, as far as they are known
    guessed: bool = False  # percents that were guessed of the battery's voltage: another scale than a UPS's own

    def runtime_s(self, charge_pct: float | None, load_pct: float | None) -> float | None:
        """Seconds from this charge to empty at this load; None if nothing was learned or no charge is known.
        A band that was not seen takes the value of the nearest one that was; of guessed percents those above the
        highest one that was seen last no time."""
        if charge_pct is None or all(value is None for value in self.s_per_pct):
            return None
        total_s = 0.0
        for band in range(BANDS):
            width = min(WIDTH_PCT, max(0.0, charge_pct - band * WIDTH_PCT))
            total_s += width * self._near(band)
        return total_s * 100.0 / max(LOAD_FLOOR_PCT, LOAD_UNKNOWN_PCT if load_pct is None else load_pct)

    def _near(self, band: int) -> float:
        known = [(abs(band - number), value) for number, value in enumerate(self.s_per_pct) if value is not None]
        if self.guessed and all(self.s_per_pct[number] is None for number in range(band, BANDS)):
            return 0.0  # by so much the voltage falls as soon as the battery carries the load
        return min(known)[1]

    def merge(self, newer: Curve | None) -> Curve:
        """Both: where both know a band the newer one weighs half. Two scales cannot be mixed: then the newer one."""
        if newer is None:
            return self
        if newer.guessed != self.guessed:
            return newer
        mixed = tuple(
            new if old is None else old if new is None else old + NEWER_WEIGHS * (new - old)
            for old, new in zip(self.s_per_pct, newer.s_per_pct, strict=True)
        )
        return Curve(s_per_pct=mixed, outages=self.outages + 1, of=newer.of, guessed=newer.guessed)


def is_another(before: Ident, now: Ident) -> bool:
    """Whether these are two UPSes: by the serial number, else by the model. What one of them does not say is no
    difference: in an outage some lose their strings."""
    if before.serial and now.serial:
        return before.serial != now.serial
    return bool(before.model and now.model) and before.model != now.model


def shown(who: Ident) -> str:
    """Model and serial number, as far as they are known."""
    return " ".join(part for part in (who.model, who.serial) if part)


def known_as(before: Ident, now: Ident) -> Ident:
    """Model and serial number, the newest of each."""
    return Ident(model=now.model or before.model, serial=now.serial or before.serial)


def sane(curve: Curve) -> bool:
    """Is a curve from a file one that `Learner` could have made?"""
    low, high = BELIEVED_S
    return len(curve.s_per_pct) == BANDS and all(v is None or low <= v <= high for v in curve.s_per_pct)


class Learner:
    """Watches one discharge; it remembers sums, not frames.

    Many UPSes count in coarse steps, so only the moments count at which the charge has fallen to a new low: what lies
    between two of them is shared out evenly. Two frames must say so, one alone may be garbage. A load that the UPS
    does not say is taken for 50 %, here and in `Curve.runtime_s`.
    """

    def __init__(self) -> None:
        self._guessed: bool | None = None  # the scale of this discharge, as in Curve
        self._spent, self._fallen = [0.0] * BANDS, [0.0] * BANDS  # seconds x load/100, and percent, in each band
        self._seconds = 0.0
        self._low_pct: float | None = None  # the newest low
        self._since_low = 0.0  # seconds x load/100
        self._last_s: float | None = None
        self._last_pct: float | None = None
        self._paused = False

    def see(self, at_s: float, charge_pct: float | None, load_pct: float | None, guessed: bool = False) -> None:
        """One frame on battery. A charge of another scale than the first one's is none."""
        if self._last_s is not None:
            self._pass(at_s - self._last_s, load_pct)
        self._last_s = at_s
        if charge_pct is None or not 0 <= charge_pct <= 100:
            return
        self._guessed = guessed if self._guessed is None else self._guessed
        if guessed != self._guessed:
            return
        before_pct, self._last_pct = self._last_pct, charge_pct
        if before_pct is not None:
            self._sure(max(before_pct, charge_pct))

    def pause(self) -> None:
        """The mains is back for the moment."""
        self._last_s = self._last_pct = None
        self._paused = True

    def _pass(self, seconds: float, load_pct: float | None) -> None:
        """Time between two frames. What happened in a gap nobody knows: the next frame begins anew."""
        if not 0 <= seconds <= GAP_S:
            self._low_pct = self._last_pct = None
            return
        load = LOAD_UNKNOWN_PCT if load_pct is None else max(LOAD_FLOOR_PCT, load_pct)
        self._seconds += seconds
        self._since_low += seconds * load / 100.0

    def _sure(self, charge_pct: float) -> None:
        """The charge as two frames say it. One that has risen while the mains was there begins anew."""
        low_pct = self._low_pct
        if low_pct is None or (self._paused and charge_pct > low_pct):
            self._low_pct, self._since_low = charge_pct, 0.0
        elif charge_pct <= low_pct - FALL_PCT:
            self._share(low_pct, charge_pct, self._since_low / (low_pct - charge_pct))
            self._low_pct, self._since_low = charge_pct, 0.0
        self._paused = False

    def _share(self, high_pct: float, low_pct: float, spent_per_pct: float) -> None:
        for band in range(BANDS):
            part = min(high_pct, (band + 1) * WIDTH_PCT) - max(low_pct, band * WIDTH_PCT)
            if part > 0:
                self._spent[band] += part * spent_per_pct
                self._fallen[band] += part

    def finish(self, of: Ident = NOBODY) -> Curve | None:
        """What was learned so far `of` this UPS; None if it was too little."""
        if self._seconds < LEARN_FROM_S or sum(self._fallen) < LEARN_FROM_PCT:
            return None
        low_s, high_s = BELIEVED_S
        return Curve(
            s_per_pct=tuple(
                min(high_s, max(low_s, spent / fallen)) if fallen >= FALL_PCT else None
                for spent, fallen in zip(self._spent, self._fallen, strict=True)
            ),
            outages=1,
            of=of,
            guessed=bool(self._guessed),
        )
