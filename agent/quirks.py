"""What is known of makers and models whose USB reports do not mean what they say: one row each, with its evidence.

A unit without a row works as the standard says. Evidence: a case in tests/cases/hid, or what of NUT is named.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirk:
    """One row. `vendor` and `products` are USB ids; `name` is looked for in the product string.

    `state`: complete, bytes of such a unit make a whole status; partial, there are some bytes, or a log of values;
    untested, it rests on documents alone.
    """

    title: str
    evidence: str
    state: str = "untested"
    vendor: int
    products: Sequence[int] = ()  # empty: all of the vendor
    name: str = ""
    drop: frozenset[str] = frozenset()  # paths that say something else than their name
    more: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # variable -> paths of its own, before the usual
    factors: Mapping[str, float] = field(default_factory=dict)  # variable -> what its value must be multiplied with
    beeper_on: int = 2  # AudibleAlarmControl: 1 disabled, 2 enabled, 3 muted
    beeper_off: int = 1
    interrupts: bool = True  # its interrupt reports can be believed
    two_thirds: bool = False  # battery voltage may be 3/2 of the truth
    flag_lies: bool = False  # Discharging is set on mains as well
    discharging_is_battery: bool = False  # AC is said to be present on battery too
    imminent_early: bool = False  # ShutdownImminent with a full battery
    off_min_s: float = 0.0  # a shorter shutdown delay is taken for "now"
    on_delay_s: float | None = None  # the return delay that must be written whatever is asked
    shutdown: bool = True  # its shutdown timers are understood
    q1_reports: tuple[int, ...] = ()  # feature reports that together hold a Megatec Q1 line


GENERIC = Quirk(title="generic", evidence="USB-IF, HID Usage Tables for Power Devices 1.1", vendor=0)

_TENTHS = {  # exponent 1 in the descriptor, tenths in the report (hundredths would be the word for it)
    "input.voltage": 1e5, "output.voltage": 1e5, "battery.voltage": 1e5,
    "input.frequency": 0.01, "output.frequency": 0.01, "output.current": 0.01,
}  # fmt: skip

_AS_EATON = "no bytes of its own, taken to be as Eaton's"
_EVER = "00000000.ff000016.ff0000"  # a collection of messages; each a bit (NUT, drivers/ever-hid.c)

#: the first row that fits is taken, so a model stands before its maker
ROWS: tuple[Quirk, ...] = (
    Quirk(
        title="APC Smart-UPS, new",
        state="partial",
        evidence="051d-0003-smart-ups-x-750 (its description alone); NUT reads no interrupt reports from these",
        vendor=0x051D,
        products=(3, 4),
        interrupts=False,
    ),
    Quirk(
        title="APC Back-UPS BK and BX",
        state="complete",
        evidence="051d-0002-back-ups-bk650m2-ch (Discharging and ACPresent both set, full); NUT issues 1970, 2347",
        vendor=0x051D,
        products=(2,),
        name=r"\bB[KX]\d",
        flag_lies=True,
    ),
    Quirk(title="APC", state="complete", evidence="051d-0002-back-ups-cs-500", vendor=0x051D),
    Quirk(
        title="CyberPower UT",
        evidence="NUT pull request 811: ACPresent stays set on battery",
        vendor=0x0764,
        name=r"\bUT\d",
        discharging_is_battery=True,
        two_thirds=True,
        off_min_s=60.0,
    ),
    Quirk(
        title="CyberPower",
        state="complete",
        evidence="0764-0501-cp1500pfclcd (timers count minutes: -60..1966020); NUT issues 439, 578, 625, 1245, 2728",
        vendor=0x0764,
        products=(0x0501, 0x0601, 0x0005),
        two_thirds=True,
        off_min_s=60.0,
        on_delay_s=0.0,
    ),
    *(
        Quirk(
            title=title,
            state=state,
            evidence=f"{evidence}; NUT issue 1942",
            vendor=vendor,
            products=products,
            imminent_early=True,
        )
        for title, vendor, products, state, evidence in (
            (
                "Eaton / MGE",
                0x0463,
                (),
                "complete",
                "0463-ffff-eaton-protection-station, 0463-ffff-eaton-9px-2200grt-l",
            ),
            (
                "Phoenixtec (PowerWalker, Ippon)",
                0x06DA,
                (0xFFFF,),
                "partial",
                "fields_06da-ffff-ippon (a log of values)",
            ),
            ("Powerware", 0x0592, (), "untested", _AS_EATON),
            ("Dell by Eaton", 0x047C, (), "untested", _AS_EATON),
            ("HP by Eaton", 0x03F0, (), "untested", _AS_EATON),
            ("IBM by Eaton", 0x04B3, (), "untested", _AS_EATON),
        )
    ),
    Quirk(
        title="Tripp Lite 3016, 3024",
        state="partial",
        evidence="09ae-3016-tripp-lite (report 31: be 04 is 121.4 V, unit V with exponent 1); NUT issue 414",
        vendor=0x09AE,
        products=(0x3016, 0x3024),
        factors=_TENTHS,
    ),
    Quirk(
        title="Tripp Lite 1003 to 2014",
        evidence="NUT drivers/tripplite-hid.c: battery voltage in tenths on these products",
        vendor=0x09AE,
        products=range(0x1003, 0x2015),
        factors={"battery.voltage": 0.1},
    ),
    Quirk(
        title="Tripp Lite", evidence="NUT drivers/tripplite-hid.c: other products 3xxx, 4xxx as said", vendor=0x09AE
    ),
    Quirk(
        title="Liebert / Vertiv",
        state="partial",
        evidence="10af-0000-liebert-gxt4; NUT issues 2271, 2370: scales differ with the model, so they are picked",
        vendor=0x10AF,
    ),
    Quirk(
        title="PowerCOM",
        state="complete",
        evidence="0d9f-0004-powercom (PowerSummary.Voltage 228 is the mains; Q1 line in a0..a6); NUT issue 2766",
        vendor=0x0D9F,
        drop=frozenset({"PowerSummary.Voltage", "PowerSummary.ConfigVoltage"}),
        beeper_on=1,
        beeper_off=2,
        shutdown=False,
        q1_reports=tuple(range(0xA0, 0xA7)),
    ),
    Quirk(
        title="Minuteman",
        state="complete",
        evidence="05dd-a0a0-minuteman (report 46: 16 00 is 2.2 A, unit A with exponent 1); NUT pull request 1848",
        vendor=0x05DD,
        products=(0xA0A0,),
        factors=_TENTHS,
    ),
    Quirk(
        title="Delta",
        evidence="NUT drivers/delta_ups-hid.c: exponents as with Tripp Lite, so they are picked",
        vendor=0x05DD,
    ),
    Quirk(
        title="iDowell",
        state="partial",
        evidence="075d-0300-idowell-smart-battery (timers hold 1 and 257 while nothing is ordered); NUT issue 3015",
        vendor=0x075D,
        drop=frozenset({"PowerSummary.DelayBeforeShutdown"}),
        shutdown=False,
    ),
    Quirk(
        title="Salicru SPS ADV T",
        evidence="NUT's dump of an SPS 850 ADV T: input 228.0, output 22.8 V",
        vendor=0x2E66,
        products=(0x0302,),
        factors={"output.voltage": 10.0},
    ),
    Quirk(
        title="Salicru",
        state="partial",
        evidence="2e66-0201-slc-twin-pro2 (battery and charger alone); NUT's dumps of two SPS Home 850",
        vendor=0x2E66,
    ),
    Quirk(
        title="Legrand",
        state="partial",
        evidence="1cb0-0038-legrand-keor-pdu-800 (16 bits of volts with the maximum 25 ff); NUT issue 2073: 2160 V",
        vendor=0x1CB0,
    ),
    Quirk(
        title="Ever",
        evidence="NUT drivers/ever-hid.c: the usual places of these are there and not implemented; no bytes",
        vendor=0x2E51,
        more={
            "overload": (f"{_EVER}17",),
            "below_limit": (f"{_EVER}18",),
            "boost": (f"{_EVER}19",),
            "buck": (f"{_EVER}1a",),
            "charging": (f"{_EVER}1d",),
            "replace": (f"{_EVER}20",),
        },
    ),
)


def row(vendor: int, product: int, name: str) -> Quirk:
    """The row for a unit with these USB ids and this product string."""
    for quirk in ROWS:
        fits = quirk.vendor == vendor and (not quirk.products or product in quirk.products)
        if fits and (not quirk.name or re.search(quirk.name, name)):
            return quirk
    return GENERIC


# --- what can be believed ----------------------------------------------------------------------------------------

_POWERS = (10.0, 0.1, 100.0, 0.01, 1e3, 1e-3, 1e4, 1e-4, 1e5, 1e6, 1e7, 1e8)
_NOMINAL_SLACK = 0.25
_THIRDS = 2 / 3
_FULL = 1.2  # of the nominal voltage no battery has more while it is charged
MAINS_V = 85.0, 300.0
_LIMITS: Mapping[str, tuple[float, float]] = {  # inside: believed as it is
    "frequency": (0.0, 80.0),
    "load": (0.0, 250.0),
    "current": (0.0, 2000.0),
    "power": (0.0, 1e6),
    "apparent": (0.0, 1e6),
    "low_limit": (0.0, 65534.0),  # more are all ones: it does not know
}


class Scales:
    """Makes a value believable, or refuses it.

    The factor of a variable is kept when two readings in a row have asked for it, so that a glitch spoils nothing;
    and dropped in the same way when the unit's own scale is right after all.
    """

    def __init__(self, quirk: Quirk) -> None:
        self._quirk = quirk
        self._factors: dict[str, float] = {}
        self._asked: dict[
            str, tuple[float, float]
        ] = {}  # variable -> the factor that one reading asked for, and when
        self._told: set[str] = set()

    def believe(self, name: str, value: float, nominal: float | None, at_s: float) -> float | None:
        """The value of variable `name` in its unit; None if no power of ten makes it one. `nominal`: rated volts;
        `at_s`: the second of this reading."""
        said = value * self._quirk.factors.get(name, 1.0)
        kept = self._factors.get(name, 1.0)
        value = said * kept
        thirds = name == "battery.voltage" and self._quirk.two_thirds and bool(nominal)
        if credible(name, value, nominal):
            is_own = kept != 1.0 and is_plain(name, said, nominal)
            if thirds and kept == _THIRDS:  # an emptier battery looks like a full one of the unit's own scale
                is_own = said <= _FULL * (nominal or 0.0)
            self._ask(name, 1.0 if is_own else kept, at_s)
            return round(value, 6)
        factor = pick(name, said, nominal)
        if thirds and nominal and 1.4 < said / nominal < 1.8:
            factor = _THIRDS
        if name not in self._told:
            self._told.add(name)
            what = f"taken for {said * factor:g}" if factor is not None else "left out: no scale makes it credible"
            log.info("usbhid: %s says %g; %s", name, said, what)
        if factor is None:
            return None
        self._ask(name, factor, at_s)
        return round(said * factor, 6)

    def _ask(self, name: str, factor: float, at_s: float) -> None:
        """One reading asks for this factor; the second one gets it."""
        before = self._asked.get(name)
        if before is None or before[0] != factor:
            self._asked[name] = factor, at_s
        elif before[1] != at_s:
            self._factors[name] = factor


def credible(name: str, value: float, nominal: float | None) -> bool:
    """Whether a UPS may really have this value. A dead input shows a few volts, so small is credible down to 0.1."""
    kind = name.rpartition(".")[2]
    if name == "battery.voltage" and nominal:
        return 0.4 * nominal <= value <= 1.4 * nominal
    if kind == "voltage":
        return value == 0 or (0.1 <= value <= 600 if name != "battery.voltage" else 5 <= value <= 600)
    if name in ("rated.input_voltage", "rated.output_voltage"):
        return value == 0 or MAINS_V[0] <= value <= 500
    if name == "rated.battery_voltage":
        return value == 0 or 5 <= value <= 600
    if name in ("rated.power", "rated.apparent"):
        return value == 0 or 50 <= value <= 1e6
    low, high = _LIMITS.get(kind, (float("-inf"), float("inf")))
    return low <= value <= high and not (kind == "frequency" and 0 < value < 5)


def is_plain(name: str, value: float, nominal: float | None) -> bool:
    """Whether this value is what one expects of a UPS that runs. No two of a value, ten times and a tenth of it are,
    because each range is narrower than a decade."""
    kind = name.rpartition(".")[2]
    if kind == "frequency":
        return 40 <= value <= 70
    if kind == "voltage" and nominal:
        return abs(value / nominal - 1) <= _NOMINAL_SLACK
    is_mains = kind == "voltage" and name != "battery.voltage"
    return (is_mains or name in ("rated.input_voltage", "rated.output_voltage")) and MAINS_V[0] <= value <= MAINS_V[1]


def pick(name: str, value: float, nominal: float | None) -> float | None:
    """The power of ten that makes `value` plain."""
    return next((power for power in _POWERS if is_plain(name, value * power, nominal)), None)
