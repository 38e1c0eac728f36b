"""Many random lives of protection: `python -m tests.fuzz [RUNS] [--seed N]`, in as many processes as there are cores.

`--frames`: instead, 100000 damaged answers to each parser of the Q1 family, to those of apcsmart, SHUT and Modbus,
and through each USB bridge (FRAME_TESTS).

`--snmp`: instead, 24000 damaged messages of SNMP, half of them SETs of who may write, and the crafted ones
(tests/test_fuzz_snmp.py, tests/test_fuzz_usm.py, tests/test_fuzz_sets.py), and the other half to a real agent beside
net-snmp's (bench/damaged.py).

`--hid`: instead, 30000 hostile report descriptors of USB units, half of them damaged real ones, each driven as a unit
(tests/test_fuzz_hid.py).

Each run is up to 40 steps of tests/test_machine.py. They are made in batches, because what hypothesis remembers of
its runs grows; each batch has the next seed. The seeds are printed, so that what was found is found again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = 20_000
FRAMES = 100_000
FRAME_TESTS = (
    "tests/test_q1.py", "tests/test_fuzz_apcsmart.py", "tests/test_fuzz_frames.py", "tests/test_bridge.py",
)  # fmt: skip
BATCH = 500
ARGV = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_machine.py"]


def batch(seed: int, runs: int) -> str:
    """What a batch says if an invariant broke, else ""."""
    env = {**os.environ, "RIDETHROUGH_FUZZ_RUNS": str(runs), "RIDETHROUGH_FUZZ_SEED": str(seed)}
    done = subprocess.run(ARGV, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return f"seed {seed}, {runs} runs:\n{done.stdout}{done.stderr}" if done.returncode else ""


def main(options: list[str]) -> int:
    """Run them; 1 if an invariant broke."""
    if "--frames" in options:
        env = {**os.environ, "RIDETHROUGH_FUZZ_FRAMES": str(FRAMES)}
        return subprocess.run(
            [*ARGV[:-1], *FRAME_TESTS, "-k", "damaged or millisecond"],
            cwd=ROOT,
            env=env,
            check=False,
        ).returncode
    if "--snmp" in options:
        files = ["tests/test_fuzz_snmp.py", "tests/test_fuzz_usm.py", "tests/test_fuzz_sets.py"]
        env = {**os.environ, "RIDETHROUGH_FUZZ_SNMP": "4000"}
        done = subprocess.run([*ARGV[:-1], "--durations=5", *files], cwd=ROOT, env=env, check=False).returncode
        beside = subprocess.run([sys.executable, "-m", "bench", "damaged"], cwd=ROOT, check=False).returncode
        return done or beside
    if "--hid" in options:
        env = {**os.environ, "RIDETHROUGH_FUZZ_HID": "15000"}
        return subprocess.run([*ARGV[:-1], "tests/test_fuzz_hid.py"], cwd=ROOT, env=env, check=False).returncode
    seed = random.randrange(2**31)
    if "--seed" in options:
        place = options.index("--seed")
        seed = int(options[place + 1])
        options = options[:place] + options[place + 2 :]
    runs = int(options[0]) if options else RUNS
    shares = [min(BATCH, runs - done) for done in range(0, runs, BATCH)]
    cores = len(os.sched_getaffinity(0))
    begin_s = time.monotonic()
    print(f"   {runs} runs on {cores} cores, seeds {seed} to {seed + len(shares) - 1}", flush=True)
    done, failed = 0, 0
    with ThreadPoolExecutor(cores) as pool:
        for share, said in zip(shares, pool.map(batch, range(seed, seed + len(shares)), shares), strict=True):
            done, failed = done + share, failed + bool(said)
            if said:
                print(said, flush=True)
            if done % 5000 == 0:
                print(f"   {done} runs, {time.monotonic() - begin_s:.0f} s", flush=True)
    print(
        f"{done} runs, {f'{failed} batches FAILED' if failed else 'no invariant broke'}, "
        f"{time.monotonic() - begin_s:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
