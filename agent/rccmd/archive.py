"""The program as one file, and the Python that a service of this machine can run it with."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile

from .hand import Failed

OLDEST = (3, 9)
_STAMP = (2000, 1, 1, 0, 0, 0)  # the same bytes at any time
_START = "import sys\n\nfrom rccmd.__main__ import main\n\nsys.exit(main())\n"
_PRIVATE = ("/root", "/home", "/Users", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # not for a service to read


def own_archive() -> bytes:
    """The bytes of the rccmd.pyz that runs now; started from a folder, it is packed. Raises Failed."""
    source = getattr(globals().get("__loader__"), "archive", "")
    try:
        if source:
            with open(source, "rb") as stream:
                return stream.read()
        return pack(os.path.dirname(os.path.abspath(__file__)))
    except OSError as e:
        raise Failed(f"cannot read the program {e.filename}: {e.strerror}") from None


def pack(folder: str) -> bytes:
    """The Python files of the folder rccmd as a zip that Python runs. Raises OSError."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:

        def add(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name, _STAMP)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            packed.writestr(entry, data)

        add("__main__.py", _START.encode())
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), "rb") as stream:
                    add(f"rccmd/{name}", stream.read())
    return b"#!/usr/bin/env python3\n" + out.getvalue()


def python_for_services(any_will_do: bool = False) -> str:
    """The path of a Python that every user of this machine can run. Raises Failed."""
    here = os.path.abspath(sys.executable)
    if any_will_do or os.name != "posix" or not here.startswith(tuple(f"{p}/" for p in _PRIVATE)):
        return here
    for path in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        found = shutil.which("python3", path=path)
        if found and _is_new_enough(found):
            return found
    raise Failed(
        f"{here} is in a private folder, where a service cannot run it, and there is no python3 of version "
        f"{'.'.join(map(str, OLDEST))} or newer in /usr/bin or /usr/local/bin: install one (nothing was changed)"
    )


def _is_new_enough(python: str) -> bool:
    try:
        done = subprocess.run(
            [python, "-I", "-c", f"import ssl, sys; sys.exit(sys.version_info < {OLDEST})"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
