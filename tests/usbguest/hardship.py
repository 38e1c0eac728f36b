"""What a unit may do to us, and how long we may take: mains, refusals, silence, halts, a plug pulled any time."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.simulators.usbredir import UsbRedir

from .guest import Guest, Watch

DETECT_WITHIN_S, BACK_WITHIN_S = 0.3, 2.0
HANG_WITHIN_S = 12.0  # a transfer has 5 s by the kernel; one more may have begun when it answers again
RESET_WITHIN_S, REMEDY_WITHIN_S = 35.0, 55.0  # three polls of 5 s, one more, the reset; one more
AWAY_S = 2.0
TOGETHER_WITHIN_S = 120.0
GRACE = 2.0  # of the short form: so many times the promised time
RESET = "does not answer, its port is reset"  # in our log


class Trial:
    """One unit by one way; `lines` are for people; `broken` counts what was not kept, `late` what was let pass."""

    def __init__(self, guest: Guest, sim: UsbRedir, other: UsbRedir, way: str, grace: float = 1.0) -> None:
        """`grace`: so many times the promised time is let pass."""
        self._guest, self._sim, self._other, self._grace = guest, sim, other, grace
        self._section = {"usb_serial": sim.unit.identity.serial, "usb_access": way}
        self.lines = [f"{sim.unit.identity.name}, by {way}"]
        self.broken = self.late = 0

    def quick(self) -> None:
        """What has a promise in seconds: one unit at a time, since the guest enumerates one after the other."""
        watch = self._guest.watch(self._section)
        watch.until("mains")
        self._mains(watch)
        self._refuses(watch)
        self._halts(watch)
        self._pulled(watch)
        watch.rest()

    def slow(self, together: threading.Barrier) -> None:
        """What hangs for long. `together`: all units begin to hang at once, for one that is opened, or whose port is
        reset, waits for the transfers that hang at the others (libusb asks each, the kernel has one lock)."""
        self._only_a_reset(self._guest.watch(self._section), together)
        self._nothing_helps(self._guest.watch(self._section), together)

    def _told(self, what: str, took_s: float, limit_s: float) -> None:
        self.broken += took_s > limit_s * self._grace
        self.late += limit_s < took_s <= limit_s * self._grace
        late = "" if took_s <= limit_s else "  late" if took_s <= limit_s * self._grace else "  TOO LATE"
        self.lines.append(f"  {what:58} {took_s:6.3f} s (at most {limit_s:g} s){late}")

    def _so(self, what: str, so: bool, found: object) -> None:
        self.broken += not so
        self.lines.append(f"  {what:58} {'yes' if so else f'NO: {found}'}")

    def _mains(self, watch: Watch) -> None:
        for there, source in ((False, "battery"), (True, "mains")):
            at_s = self._sim.mains(there)
            took_s = watch.until(source) - at_s
            self._told(f"mains {'back' if there else 'failure'}: report to Status", took_s, DETECT_WITHIN_S)

    def _refuses(self, watch: Watch) -> None:
        for name, limit_s in (("stalls", BACK_WITHIN_S), ("hangs", HANG_WITHIN_S)):
            setattr(self._sim, name, True)
            watch.until("none")
            setattr(self._sim, name, False)
            at_s = time.monotonic()
            self._told(f"unit {name}: answers again to Status", watch.until("mains") - at_s, limit_s)

    def _halts(self, watch: Watch) -> None:
        """The kernel (hidraw) or we (libusb) clear the endpoint: the next report comes through it again."""
        self._sim.halt()
        end_s = time.monotonic() + 10.0
        while self._sim.halted and time.monotonic() < end_s:
            time.sleep(0.05)
        self._so("interrupt endpoint halted: cleared", not self._sim.halted, "halted")
        time.sleep(1.0)  # until it listens again
        self._mains(watch)

    def _pulled(self, watch: Watch) -> None:
        """Out and in again: as the mains fails, in the outage, in another socket, and as the mains comes back."""
        sim, other = self._sim, self._other
        for what, there, out, into in (
            ("as the mains fails", False, sim, sim),
            ("in an outage", None, sim, sim),
            ("in an outage, into another socket", None, sim, other),
            ("in an outage, back into the first", None, other, sim),
            ("as the mains comes back", True, sim, sim),
        ):
            if there is not None:
                sim.mains(there)
            out.unplug()
            watch.until("none")
            time.sleep(AWAY_S)
            into.plug()
            at_s = watch.until("mains" if there else "battery")
            self._told(f"unplugged {what}: enumerated to Status", at_s - into.configured_s, BACK_WITHIN_S)

    def _only_a_reset(self, watch: Watch, together: threading.Barrier) -> None:
        """In an outage it hangs until its port is reset."""
        sim = self._sim
        watch.until("mains")
        sim.mains(False)
        watch.until("battery")
        together.wait(TOGETHER_WITHIN_S)
        sim.hangs = sim.until_reset = True
        at_s = time.monotonic()
        watch.until("none")
        back_s = watch.until("battery", RESET_WITHIN_S + 10)
        self._told("hangs until its port is reset: hung to Status", back_s - at_s, RESET_WITHIN_S)
        once = len([one for one in watch.warnings if RESET in one]) == 1 and not watch.errors
        self._so("  by one reset, and nobody was troubled", once, watch.warnings)
        sim.until_reset = sim.hangs = False
        sim.mains(True)
        watch.until("mains")
        watch.rest()

    def _nothing_helps(self, watch: Watch, together: threading.Barrier) -> None:
        sim = self._sim
        watch.until("mains")
        together.wait(TOGETHER_WITHIN_S)
        sim.hangs = True
        at_s = time.monotonic()
        watch.until("none")
        said_s = watch.until_so(lambda said: bool(said["remedy"]), REMEDY_WITHIN_S + 10)
        self._told("hangs for ever: hung to the honest word", said_s - at_s, REMEDY_WITHIN_S)
        time.sleep(12.0)
        once = len(watch.errors) == 1 and len([one for one in watch.warnings if RESET in one]) == 1
        self._so("  said once, and one reset was tried", once, (watch.errors, watch.warnings))
        self.lines += [f"    {error}" for error in watch.errors[:1]]
        sim.hangs = False
        at_s = time.monotonic()
        self._told("  answers again to Status", watch.until("mains") - at_s, HANG_WITHIN_S)
        watch.rest()


def briefly(guest: Guest, sim: UsbRedir, other: UsbRedir) -> int:
    """The quick ones with one unit by hidraw, and twice their time: nobody may have the machine to himself."""
    trial = Trial(guest, sim, other, "hidraw", grace=GRACE)
    trial.quick()
    print("\n".join(trial.lines))
    if trial.late:
        print(f"  {trial.late} late, and let pass: within {GRACE:g} times what is promised")
    return trial.broken


def hardships(guest: Guest, sims: list[UsbRedir], others: list[UsbRedir], ways: tuple[str, ...]) -> int:
    """All of them with each unit, by one of the ways in turn; `others`: the same units in other sockets. Prints what
    came of it; the number of promises not kept."""
    trials = [Trial(guest, *one) for one in zip(sims, others, itertools.cycle(ways), strict=False)]
    for trial in trials:
        trial.quick()
    together = threading.Barrier(len(trials))
    with ThreadPoolExecutor(len(trials)) as pool:
        list(pool.map(lambda trial: trial.slow(together), trials))
    for trial in trials:
        print("\n".join(trial.lines))
    return sum(trial.broken for trial in trials)
