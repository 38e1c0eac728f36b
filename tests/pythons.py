"""Other Pythons on this machine, for what must run under them: on PATH, or among pyenv's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def other(version: str) -> Path | None:
    """A Python of this version ("3.9") that runs; None: there is none here."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = [Path(folder) / f"python{version}" for folder in os.environ.get("PATH", "").split(os.pathsep)]
    for path in (*sorted(pyenv.glob(f"versions/{version}.*/bin/python")), *on_path):
        try:
            if subprocess.run([path, "-c", ""], capture_output=True, timeout=10, check=False).returncode == 0:
                return path
        except OSError:
            continue
    return None
