"""The discharge curve of this battery, learned in real outages: how long each percent of charge really lasts. Pure.

Ten bands of charge; for each the seconds that one percent lasts at 100 % load. At another load it is scaled linearly:
batteries give less at higher loads than that (Peukert), so a forecast for more load than was learned is a little too
good; the margin of protection is there for it.
"""

from __future__ import annotations

from dataclasses import dataclass

BANDS, WIDTH_PCT = 10, 10.0
GAP_S = 15.0  # between two frames; what is longer counts as not seen
LEARN_FROM_S, LEARN_FROM_PCT = 60.0, 5.0  # a shorter or flatter discharge teaches nothing
BELIEVED_S = (0.05, 3600.0)  # for one percent at full load
NEWER_WEIGHS = 0.5
LOAD_FLOOR_PCT, LOAD_UNKNOWN_PCT = 10.0, 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`s_per_pct`: for 0-10, 10-20 .. 90-100 % of charge the seconds a percent lasts at full load; None: not seen."""

    s_per_pct: tuple[float | None, ...] = (None,) * BANDS
    outages: int = 0

    def runtime_s(self, charge_pct: float | None, load_pct: float | None) -> float | None:
        """Seconds from this charge to empty at this load; None if nothing was learned or no charge is known.
        A band that was not seen takes the value of the nearest one that was."""
        if charge_pct is None or all(value is None for value in self.s_per_pct):
            return None
        total_s = 0.0
        for band in range(BANDS):
            width = min(WIDTH_PCT, max(0.0, charge_pct - band * WIDTH_PCT))
            total_s += width * self._near(band)
        return total_s * 100.0 / max(LOAD_FLOOR_PCT, LOAD_UNKNOWN_PCT if load_pct is None else load_pct)

    def _near(self, band: int) -> float:
        known = [(abs(band - number), value) for number, value in enumerate(self.s_per_pct) if value is not None]
        return min(known)[1]

    def merge(self, newer: Curve | None) -> Curve:
        """Both: where both know a band the newer one weighs half."""
        if newer is None:
            return self
        mixed = tuple(
            new if old is None else old if new is None else old + NEWER_WEIGHS * (new - old)
            for old, new in zip(self.s_per_pct, newer.s_per_pct, strict=True)
        )
        return Curve(s_per_pct=mixed, outages=self.outages + 1)


def sane(curve: Curve) -> bool:
    """Is a curve from a file one that `Learner` could have made?"""
    low, high = BELIEVED_S
    return len(curve.s_per_pct) == BANDS and all(v is None or low <= v <= high for v in curve.s_per_pct)


class Learner:
    """Watches one discharge. Many UPSes count in coarse steps, so only the moments count at which the charge has
    fallen to a new low: what lies between two of them is shared out evenly."""

    def __init__(self) -> None:
        self._lows: list[tuple[float, float]] = []  # charge, and seconds x load/100 until then
        self._spent, self._seconds, self._last_s = 0.0, 0.0, None  # type: float, float, float | None

    def see(self, at_s: float, charge_pct: float | None, load_pct: float | None) -> None:
        """One frame on battery."""
        if self._last_s is not None and 0 < at_s - self._last_s <= GAP_S:
            self._seconds += at_s - self._last_s
            load = LOAD_UNKNOWN_PCT if load_pct is None else max(LOAD_FLOOR_PCT, load_pct)
            self._spent += (at_s - self._last_s) * load / 100.0
        self._last_s = at_s
        if charge_pct is None or not 0 <= charge_pct <= 100:
            return
        if not self._lows or charge_pct <= self._lows[-1][0] - 1.0:
            self._lows.append((charge_pct, self._spent))

    def pause(self) -> None:
        """The mains is back for the moment."""
        self._last_s = None

    def finish(self) -> Curve | None:
        """What was learned so far; None if it was too little."""
        if self._seconds < LEARN_FROM_S or not self._lows or self._lows[0][0] - self._lows[-1][0] < LEARN_FROM_PCT:
            return None
        spent, fallen = [0.0] * BANDS, [0.0] * BANDS
        for (high, before), (low, after) in zip(self._lows, self._lows[1:], strict=False):
            per_pct = (after - before) / (high - low)
            for band in range(BANDS):
                part = min(high, (band + 1) * WIDTH_PCT) - max(low, band * WIDTH_PCT)
                if part > 0:
                    spent[band] += part * per_pct
                    fallen[band] += part
        low_s, high_s = BELIEVED_S
        return Curve(
            s_per_pct=tuple(
                min(high_s, max(low_s, s / pct)) if pct >= 1.0 else None for s, pct in zip(spent, fallen, strict=True)
            ),
            outages=1,
        )
