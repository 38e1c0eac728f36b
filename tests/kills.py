"""`python -m tests.kills [ROUNDS] [--short] [--seed N]`: the core is killed at random moments of outages.

Each round is a whole installation of real processes: `ridethrough run`, a UPS on a pty, and three servers in two
stages with `rccmd listen`. In every other round the mains fails and the battery gets low; the core is killed (-9)
once or twice in the phase that the round is about, and its supervisor starts it again. Everybody must be told, and
nobody's command may run twice. The other rounds are no outage, or are over before the first stage: nobody is told.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.bus import BusError, ask
from tests.peer.world import free_port
from tests.simulators.megatec import MegatecPty

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, SHORT_ROUNDS, AT_ONCE, SEED = 200, 20, 6, 1
#: what an outage is killed in -> what to wait for in the core's log ("": the mains fails), and the seconds after it
MOMENTS = {
    "before it is confirmed": ("", 0.0, 3.2),
    "in the countdown": ("protection: outage-began", 0.0, 1.9),
    "at the latch": ("protection: outage-began", 1.5, 2.5),
    "while telling": ("protection: latched early", 0.0, 0.15),
    "at the commit": ("protection: latched early", 1.0, 1.6),  # low battery comes after 1.2 s
    "committed": ("protection: committed", 0.0, 4.0),
    "off-armed": ("protection: ups-off-skipped", 0.0, 2.0),
    "hold": ("protection: mains-back", 0.0, 3.0),
    "recovery": ("protection: recovery-began", 0.0, 2.0),
}
NOTHING = ("blips", "a short outage", "low battery on mains", "silence on mains", "self test", "unplugged")
SERVERS = ("early", "late-1", "late-2")
STAGE_S = 5.0  # on battery, until the first stage is due
START_WITHIN_S, TOLD_WITHIN_S, RECOVERS_WITHIN_S, QUIET_S = 40.0, 40.0, 130.0, 7.0


@dataclass
class Result:
    """What came of one round."""

    number: int
    what: str
    outage: bool
    kills: list[float] = field(default_factory=list)  # seconds after the begin
    missed: int = 0
    false: int = 0
    twice: int = 0  # the command ran twice
    again: int = 0  # told again in the same outage: harmless, the receiver knows a repeat
    error: str = ""


class Installation:
    """One core with its supervisor, UPS and servers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ups = folder, MegatecPty(folder / "ups")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self.ups.__enter__()
        ports = [self._server(name) for name in SERVERS]
        servers = "".join(
            f'[[server]]\nname = "{name}"\naddress = "127.0.0.1"\nport = {port}\nneeds_s = 5\n'
            f'stage = "{name.split("-")[0]}"\n'
            for name, port in zip(SERVERS, ports, strict=True)
        )
        config = self.folder / "c.toml"
        config.write_text(
            f'[agent]\nstate_dir = "{self.folder}/state"\nrun_dir = "{self.folder}/run"\nmode = "armed"\n'
            "wake_after_s = 5\n"  # its charge is guessed: that wakes nobody
            f'[ups]\ndriver = "megatec"\nport = "{self.folder}/ups"\npoll_s = 0.2\n'
            f'[web]\nlisten = "127.0.0.1:{free_port()}"\n'
            f'[[stage]]\nname = "early"\non_battery_s = {STAGE_S}\n[[stage]]\nname = "late"\n{servers}'
        )
        self._start("agent", "agent", "run", "--config", str(config))
        self.until(self._sees_mains, START_WITHIN_S, "the core sees the mains")

    def _server(self, name: str) -> int:
        self._start(
            name, "agent.rccmd", "listen", "--bind", "127.0.0.1:0", "--allow", "127.0.0.1", "--on-shutdown", "true"
        )
        found = self.until(
            lambda: re.search(r"listening on [\d.]+:(\d+)", self.log(name)), START_WITHIN_S, f"{name} listens"
        )
        return int(found[1])

    def _start(self, name: str, module: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            argv = [sys.executable, "-m", module, *arguments]
            self._processes.append(subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log))

    def _sees_mains(self) -> bool:
        try:
            reply = ask(str(self.folder / "run" / "core.sock"), {"type": "query", "what": "status"})
        except BusError:
            return False
        return reply["view"]["status"] is not None

    def log(self, name: str = "agent") -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def runs(self, name: str) -> int:
        """How often the server's shutdown command ran."""
        return self.log(name).count("SHUTDOWN: started")

    def until(self, true: Callable[[], object], within_s: float, what: str) -> re.Match[str]:
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            if found := true():
                return found  # type: ignore[return-value]
            time.sleep(0.01)
        raise TimeoutError(f"not within {within_s:g} s: {what}")

    def kill(self) -> None:
        """kill -9 of the core; its supervisor starts it again."""
        pids = re.findall(r"core started as process (\d+)", self.log())
        try:
            os.kill(int(pids[-1]), signal.SIGKILL)
        except ProcessLookupError:
            pass  # killed a moment ago, and not yet back

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.ups.__exit__()


@contextmanager
def installation() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="ridethrough-kills-") as name:
        world = Installation(Path(name))
        try:
            world.start()
            yield world
        finally:
            world.stop()


def play(number: int, seed: int) -> Result:
    """One round; its random numbers come from its number and the seed."""
    dice = random.Random(f"{seed}/{number}")  # noqa: S311
    kinds: tuple[str, ...] = tuple(MOMENTS) if number % 2 == 0 else NOTHING
    result = Result(number, kinds[number // 2 % len(kinds)], number % 2 == 0)
    try:
        with installation() as world:
            killer = _Killer(world, result, dice)
            (_outage if result.outage else _nothing)(world, killer, dice)
            runs = {name: world.runs(name) for name in SERVERS}
            result.again = sum(world.log(name).count("duplicate") for name in SERVERS)
    except (TimeoutError, OSError) as e:
        result.error = str(e)
        return result
    if result.outage:
        result.missed = sum(not count for count in runs.values())
        result.twice = sum(count > 1 for count in runs.values())
    else:
        result.false = sum(runs.values())
    return result


class _Killer:
    """Kills the core once, and in one round of three once more soon after it is back."""

    def __init__(self, world: Installation, result: Result, dice: random.Random) -> None:
        self._world, self._result, self.what = world, result, result.what
        self._again_s = dice.uniform(0.6, 3.0) if dice.random() < 1 / 3 else None
        self.began_s = time.monotonic()

    def __call__(self) -> None:
        self._kill()
        if self._again_s is not None:
            time.sleep(self._again_s)
            self._kill()

    def _kill(self) -> None:
        self._world.kill()
        self._result.kills.append(time.monotonic() - self.began_s)


def _outage(world: Installation, kill: _Killer, dice: random.Random) -> None:
    """The mains fails, the first stage is told, the battery gets low; killed at the round's moment."""
    what = kill.what
    phrase, least_s, most_s = MOMENTS[what]
    after_s = dice.uniform(least_s, most_s)

    def when(text: str) -> None:
        world.until(lambda: text in world.log(), RECOVERS_WITHIN_S, text)

    def low() -> None:
        when("protection: latched early")
        time.sleep(1.2)
        world.ups.set("battery_low", "1")

    def moment() -> None:
        if phrase:
            when(phrase)
        time.sleep(after_s)
        kill()

    def told() -> bool:
        return all(world.runs(name) for name in SERVERS)

    kill.began_s = time.monotonic()
    world.ups.set("mains", "off")
    with ThreadPoolExecutor(2) as both:
        jobs = []
        if what == "hold":
            when("protection: latched early")
            world.ups.set("mains", "on")
            moment()
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
        else:
            jobs.append(both.submit(low))
            if what != "recovery":
                jobs.append(both.submit(moment))
        for job in jobs:
            job.result()
    try:
        world.until(told, TOLD_WITHIN_S, "all are told")
    except TimeoutError:
        return  # counted as missed
    if what == "recovery":
        world.ups.set("battery_low", "0")
        world.ups.set("mains", "on")
        moment()
        when("protection: recovered")
    time.sleep(1.0)  # would anybody be told twice?


def _nothing(world: Installation, kill: _Killer, dice: random.Random) -> None:
    """Something that is no outage, or one that ends before the first stage; killed meanwhile."""
    back_s = dice.uniform(3.5, STAGE_S - 0.3)
    kill_s = back_s - dice.uniform(0.0, 0.5) if kill.what == "a short outage" else dice.uniform(0.0, 5.0)
    script = _script(kill.what, world.ups, back_s)
    kill.began_s = time.monotonic()

    def moment() -> None:
        time.sleep(kill_s)
        kill()

    with ThreadPoolExecutor(1) as both:
        killed = both.submit(moment)
        for after_s, do in script:
            time.sleep(max(0.0, kill.began_s + after_s - time.monotonic()))
            do()
        killed.result()
    time.sleep(max(1.5, kill.began_s + QUIET_S - time.monotonic()))


def _script(what: str, ups: MegatecPty, back_s: float) -> list[tuple[float, Callable[[], None]]]:
    """What the UPS does, and when; in a short outage the mains is back after `back_s`."""

    def put(key: str, value: str) -> Callable[[], None]:
        return lambda: ups.set(key, value)

    if what == "blips":
        return [(0.0, put("mains", "off")), (1.8, put("mains", "on")), (4.0, put("mains", "off")), (6.5, put("mains", "on"))]  # fmt: skip  # noqa: E501
    if what == "a short outage":
        return [(0.0, put("mains", "off")), (back_s, put("mains", "on"))]
    if what == "low battery on mains":
        return [(0.0, put("battery_low", "1"))]
    if what == "silence on mains":
        return [(0.0, lambda: ups.fault("silence")), (7.0, lambda: ups.fault("none"))]
    if what == "self test":
        return [(0.0, put("test", "on")), (7.0, put("test", "off"))]
    return [(0.0, ups.unplug), (3.0, ups.replug)]


def main(arguments: list[str]) -> int:
    """Play the rounds; 1 if anybody was missed, told for nothing, or shut down twice."""
    parser = argparse.ArgumentParser(prog="kills", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=0, help=f"how many (default {ROUNDS})")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_ROUNDS} rounds")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the random moments (default {SEED})")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (SHORT_ROUNDS if options.short else ROUNDS)
    begin_s = time.monotonic()
    print(f"{rounds} rounds, {AT_ONCE} at a time, seed {options.seed}", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda number: play(number, options.seed), range(rounds)))
    for r in results:
        if r.missed or r.false or r.twice or r.error:
            kills = ", ".join(f"{at_s:.2f}" for at_s in r.kills)
            print(
                f"   round {r.number} ({r.what}, killed at {kills} s): {r.missed} missed, {r.false} false, "
                f"{r.twice} twice {r.error}"
            )
    print("   " + ", ".join(f"{what} {count}" for what, count in Counter(r.what for r in results).items()))
    outages, kills = sum(r.outage for r in results), sum(len(r.kills) for r in results)
    missed, false, twice = (sum(getattr(r, name) for r in results) for name in ("missed", "false", "twice"))
    again, broken = sum(r.again for r in results), sum(bool(r.error) for r in results)
    print(
        f"{rounds} rounds, {outages} of them outages, {kills} kills: {missed} missed, {false} false, {twice} shut "
        f"down twice, {again} of {3 * outages} told again in the same outage, {broken} not played; "
        f"{time.monotonic() - begin_s:.0f} s"
    )
    return 1 if missed or false or twice or broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
