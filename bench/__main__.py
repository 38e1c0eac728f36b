"""`python -m bench [NAME ...] [--short]`: all measurements, or the named ones."""

from __future__ import annotations

import importlib
import platform
import sys
import time

NAMES = ("damaged", "day", "fanout", "memory", "rccmd", "shutdown", "snmp", "writes")
FILES = {"rccmd": "rccmd_client"}  # where the name says more than the word


def main(argv: list[str]) -> int:
    wanted = [a for a in argv if not a.startswith("-")] or list(NAMES)
    options = [a for a in argv if a.startswith("-")]
    if unknown := [name for name in wanted if name not in NAMES]:
        print(f"no such measurement: {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    kind = f"{platform.python_version()} ({sys.base_prefix})"
    print(f"python {kind}, {platform.machine()}, kernel {platform.release()}")
    failed = []
    for name in wanted:
        print(f"\n== {name}", flush=True)
        begin_s = time.monotonic()
        if importlib.import_module(f"bench.{FILES.get(name, name)}").main(options):
            failed.append(name)
        print(f"   ({time.monotonic() - begin_s:.0f} s)", flush=True)
    print("\nall limits kept" if not failed else f"\nlimits missed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
