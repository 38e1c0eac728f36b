"""Many random lives of protection: `python -m tests.fuzz [RUNS] [--seed N]`, in as many processes as there are cores.

Each run is up to 40 steps of tests/test_machine.py. The seed is printed, so that what was found is found again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = 20_000
CORES_LIMIT = 8
ARGV = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_machine.py"]


def main(options: list[str]) -> int:
    """Run them; 1 if an invariant broke."""
    first_seed = random.randrange(2**31)
    if "--seed" in options:
        place = options.index("--seed")
        first_seed = int(options[place + 1])
        options = options[:place] + options[place + 2 :]
    runs = int(options[0]) if options else RUNS
    cores = min(CORES_LIMIT, len(os.sched_getaffinity(0)), max(1, runs // 100))
    begin_s = time.monotonic()
    print(f"   {runs} runs in {cores} processes, seed {first_seed}", flush=True)
    started = []
    for number in range(cores):
        share = runs // cores + (number < runs % cores)
        env = {"RIDETHROUGH_FUZZ_RUNS": str(share), "RIDETHROUGH_FUZZ_SEED": str(first_seed + number)}
        started.append(
            subprocess.Popen(
                ARGV, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    failed = False
    for process in started:  # each says little before its end, so no pipe fills
        said, _ = process.communicate()
        if process.returncode:
            failed = True
            print(said)
    print(f"{runs} runs, {'FAILED' if failed else 'no invariant broke'}, {time.monotonic() - begin_s:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
