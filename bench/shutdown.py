"""How long it takes from the wire to the server: ours with its defaults, and NUT's stock chain beside it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from agent.protection import CONFIRM_S
from bench.gate import gate, p95
from tests.peer.world import World, free_port, until
from tests.simulators.megatec import MegatecPty

RUNS, SHORT_RUNS = 20, 4
POLL_S = 1.0


class TimedPty(MegatecPty):
    """Notes when the first answer that says battery and low left the UPS."""

    first_s: float | None = None

    def answer(self, command: bytes) -> bytes:
        found = super().answer(command)
        if self.first_s is None and command.strip() == b"Q1" and found[38:40] == b"11":
            self.first_s = time.time()
        return found


def main(options: list[str]) -> int:
    runs = SHORT_RUNS if "--short" in options else RUNS
    print(f"   defaults: poll {POLL_S:g} s, confirm {CONFIRM_S:g} s over 2 frames; {runs} outages of a fresh agent;")
    print("   'at the server' is when its shutdown command ran (sh and date), so an upper bound of the acceptance")
    from_frame, from_wire = [], []
    for number in range(runs):
        frame_s, wire_s = _ours(number)
        from_frame.append(frame_s)
        from_wire.append(wire_s)
    good = gate("first OB+LB frame to the server, worst", max(from_frame), CONFIRM_S + 0.5, "s")
    good &= gate("wire change to the server, p95", p95(from_wire), POLL_S + CONFIRM_S + 1.0, "s")
    print(f"   wire change to the server, median: {sorted(from_wire)[len(from_wire) // 2]:.2f} s")
    print(f"   NUT (nutdrv_qx, upsd, upsmon, stock settings), wire change to SHUTDOWNCMD: {_nut():.2f} s (no gate)")
    return 0 if good else 1


def _ours(number: int) -> tuple[float, float]:
    """(seconds from the first OB+LB frame, seconds from the change on the wire) to the server's shutdown command."""
    with tempfile.TemporaryDirectory(prefix="ridethrough-bench-") as name:
        world = World(Path(name), poll_s=POLL_S)
        world.ups = ups = TimedPty(Path(name) / "ups")
        with world:
            time.sleep(1.0 + (number * 0.37) % 1.0)  # at any phase of the poll
            wire_s = time.time()
            ups.set("battery_low", "1")
            ups.set("mains", "off")
            told_s = until(world.told, 15, "the server is told")[0]
            assert ups.first_s is not None
            return told_s - ups.first_s, told_s - wire_s


def _nut() -> float:
    """The same for NUT: from the wire to its SHUTDOWNCMD."""
    with tempfile.TemporaryDirectory(prefix="ridethrough-bench-") as name:
        folder, port = Path(name), free_port()
        os.chmod(folder, 0o755)
        with MegatecPty(folder / "ups") as ups:
            (folder / "ups.conf").write_text(
                f"[sim]\n  driver = nutdrv_qx\n  port = {folder}/ups\n  protocol = megatec\n"
            )
            (folder / "upsd.conf").write_text(f"LISTEN 127.0.0.1 {port}\n")
            (folder / "upsd.users").write_text("[mon]\n  password = mon\n  upsmon primary\n")
            (folder / "upsmon.conf").write_text(
                f"MONITOR sim@127.0.0.1:{port} 1 mon mon primary\nMINSUPPLIES 1\nRUN_AS_USER root\n"
                f'SHUTDOWNCMD "date +%s.%N > {folder}/told"\nPOWERDOWNFLAG {folder}/killpower\n'
            )
            for file in folder.glob("*.conf"):
                file.chmod(0o640)
            (folder / "upsd.users").chmod(0o640)
            env = {
                **os.environ,
                "NUT_CONFPATH": name,
                "NUT_STATEPATH": name,
                "NUT_ALTPIDPATH": name,
                "NUT_PIDPATH": name,
            }
            log = (folder / "log").open("ab")
            commands = (
                ["/lib/nut/nutdrv_qx", "-a", "sim", "-u", "root", "-F"],
                ["/lib/nut/upsd", "-u", "root", "-F"],
                ["/lib/nut/upsmon", "-F"],
            )
            processes = []
            try:
                for argv, ready in zip(commands, (f"{name}/nutdrv_qx-sim", None, None), strict=True):
                    processes.append(
                        subprocess.Popen(argv, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
                    )
                    if ready:
                        until(lambda r=ready: os.path.exists(r), 30, "NUT's driver is up")
                    time.sleep(1.0)
                until(lambda: _upsc(port, env) == "OL", 20, "upsd says OL")
                time.sleep(6.0)
                wire_s = time.time()
                ups.set("battery_low", "1")
                ups.set("mains", "off")
                told = folder / "told"
                until(lambda: told.exists() and told.read_text(), 60, "NUT's SHUTDOWNCMD")
                return float(told.read_text()) - wire_s
            except AssertionError as e:
                raise AssertionError(f"{e}; NUT said: {(folder / 'log').read_text()[-2000:]}") from None
            finally:
                for process in reversed(processes):
                    process.terminate()
                for process in processes:
                    process.wait(10)
                log.close()


def _upsc(port: int, env: dict[str, str]) -> str:
    argv = ["upsc", f"sim@127.0.0.1:{port}", "ups.status"]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=10).stdout.strip()
