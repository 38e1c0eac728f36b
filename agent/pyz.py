"""Packs the program for the servers into one file, rccmd.pyz: the same bytes at each time and on any machine.

    #!/usr/bin/env python3 LF, then a zip: __main__.py and rccmd/*.py in the order of their names

Nothing in it depends on when, where or by which Python it is made: stored, not compressed; one date; one mode. So the
adapter can print its SHA-256 before anybody fetches it, and whoever has the source can make the file himself:
`python3 agent/pyz.py rccmd.pyz`.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

FILE = "rccmd.pyz"
LIMIT_BYTES = 4 * 1024 * 1024  # that the bootstrap fetches
FIRST_LINE = b"#!/usr/bin/env python3\n"
MAIN = b"import sys\n\nfrom rccmd.__main__ import main\n\nsys.exit(main())\n"
STAMP = (2000, 1, 1, 0, 0, 0)
UNIX, MODE = 3, 0o100644

SOURCE = Path(__file__).resolve().parent / "rccmd"


def build(source: Path = SOURCE) -> bytes:
    """The whole file. OSError if the program cannot be read."""
    files = {"__main__.py": MAIN}
    for path in source.rglob("*.py"):
        files["rccmd/" + path.relative_to(source).as_posix()] = path.read_bytes()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, STAMP)
            entry.create_system, entry.external_attr = UNIX, MODE << 16
            packed.writestr(entry, files[name], zipfile.ZIP_STORED)
    return FIRST_LINE + out.getvalue()


def sha256(data: bytes) -> str:
    """64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    made = build()
    Path(sys.argv[1]).write_bytes(made)
    print(sha256(made), sys.argv[1])
