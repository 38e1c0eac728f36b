"""`python -m tests.kills [ROUNDS] [--short]`: the core is killed at random moments of outages, and of what is none.

Each round: a real core, a UPS on a pty, three servers in two stages that note every line they get. In three of four
rounds the mains fails and the battery gets low; the core is killed (-9) up to three times meanwhile and started again
as its supervisor would. Everybody must be told. In the other rounds there is no outage: nobody may be told.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulators.megatec import MegatecPty

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, SHORT_ROUNDS, AT_ONCE = 200, 12, 6
AGAIN_S = 0.3  # the supervisor needs less than a second
TOLD_WITHIN_S, QUIET_S = 25.0, 9.0
NOTHING = ("blip", "low battery on mains", "silence on mains", "self test", "output off")
SERVERS = ("early", "late-1", "late-2")


class Servers:
    """Three listeners that note each line."""

    def __init__(self) -> None:
        self.told: dict[str, list[bytes]] = {name: [] for name in SERVERS}
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in SERVERS]
        self.ports = [listener.getsockname()[1] for listener in self._listeners]
        for name, listener in zip(SERVERS, self._listeners, strict=True):
            threading.Thread(target=self._serve, args=(name, listener), daemon=True).start()

    def _serve(self, name: str, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(5.0)
                data = b""
                try:
                    while chunk := sock.recv(1000):
                        data += chunk
                except OSError:
                    continue  # the core was killed in the middle of it
            if b"SHUTDOWN" in data:
                self.told[name].append(data)

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@dataclass
class Result:
    """What came of one round."""

    number: int
    what: str
    kills: list[float] = field(default_factory=list)
    missed: int = 0
    false: int = 0
    again: int = 0  # a server that was told more than once: harmless, the receiver knows a repeat


def play(number: int) -> Result:
    """One round; its random numbers come from its number."""
    dice = random.Random(number)  # noqa: S311
    outage = number % 4 != 3
    result = Result(number, "outage" if outage else dice.choice(NOTHING))
    result.kills = sorted(dice.uniform(0.0, 9.0) for _ in range(dice.randint(1, 3)))
    with tempfile.TemporaryDirectory(prefix="ridethrough-kills-") as name, MegatecPty(Path(name) / "ups") as ups:
        servers = Servers()
        core = _Core(Path(name), servers.ports)
        try:
            core.start()
            time.sleep(2.0)  # it has seen the mains
            begin_s = time.monotonic()
            events = [(at_s, core.kill) for at_s in result.kills] + _script(result.what, ups)
            for at_s, do in sorted(events, key=lambda row: row[0]):
                time.sleep(max(0.0, begin_s + at_s - time.monotonic()))
                do()
            end_s = begin_s + (TOLD_WITHIN_S if outage else QUIET_S)
            while time.monotonic() < end_s and not (outage and all(servers.told.values())):
                time.sleep(0.1)
        finally:
            core.stop()
            servers.close()
    if outage:
        result.missed = sum(not lines for lines in servers.told.values())
        result.again = sum(len(lines) > 1 for lines in servers.told.values())
    else:
        result.false = sum(len(lines) for lines in servers.told.values())
    return result


def _script(what: str, ups: MegatecPty) -> list[tuple[float, object]]:
    """What the UPS does, and when."""
    on, off = (lambda: ups.set("mains", "on")), (lambda: ups.set("mains", "off"))
    if what == "outage":
        return [(0.0, off), (6.5, lambda: ups.set("battery_low", "1"))]
    if what == "blip":
        return [(0.0, off), (1.8, on), (5.0, off), (6.8, on)]
    if what == "low battery on mains":
        return [(0.0, lambda: ups.set("battery_low", "1"))]
    if what == "silence on mains":
        return [(0.0, lambda: ups.fault("silence")), (7.0, lambda: ups.fault("none"))]
    if what == "self test":
        return [(0.0, lambda: ups.set("test", "on")), (7.0, lambda: ups.set("test", "off"))]
    return [(0.0, ups.unplug), (3.0, ups.replug)]


class _Core:
    """The real core, and its supervisor's patience."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self._folder = folder
        servers = "".join(
            f'[[server]]\nname = "{name}"\naddress = "127.0.0.1"\nport = {port}\nneeds_s = 5\n'
            f'stage = "{name.split("-")[0]}"\n'
            for name, port in zip(SERVERS, ports, strict=True)
        )
        (folder / "c.toml").write_text(
            f'[agent]\nstate_dir = "{folder}/state"\nrun_dir = "{folder}/run"\nmode = "armed"\n'
            f'[ups]\ndriver = "megatec"\nport = "{folder}/ups"\npoll_s = 0.2\n'
            f'[[stage]]\nname = "early"\non_battery_s = 5\n[[stage]]\nname = "late"\n{servers}'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            argv = [sys.executable, "-m", "agent", "core", "--config", str(self._folder / "c.toml")]
            self._process = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log)

    def kill(self) -> None:
        """kill -9, and started again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        time.sleep(AGAIN_S)
        self.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def main(options: list[str]) -> int:
    """Play the rounds; 1 if anybody was missed or told for nothing."""
    numbers = [int(o) for o in options if o.isdigit()]
    rounds = numbers[0] if numbers else SHORT_ROUNDS if "--short" in options else ROUNDS
    begin_s = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(play, range(rounds)))
    for r in results:
        if r.missed or r.false:
            kills = ", ".join(f"{at_s:.2f}" for at_s in r.kills)
            print(f"   round {r.number} ({r.what}, killed at {kills} s): {r.missed} missed, {r.false} false")
    outages = [r for r in results if r.what == "outage"]
    missed, false = sum(r.missed for r in results), sum(r.false for r in results)
    kills, again = sum(len(r.kills) for r in results), sum(r.again for r in results)
    print(
        f"{rounds} rounds, {len(outages)} of them outages, {kills} kills: {missed} missed, {false} false, "
        f"{again} of {3 * len(outages)} told more than once; {time.monotonic() - begin_s:.0f} s"
    )
    return 1 if missed or false else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
