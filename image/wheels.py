"""The program of the board: Python packages as wheels of known hashes, and the agent, under /opt/ridethrough."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

from .step import BuildError, digest, run

HERE = Path(__file__).parent
ROOT = HERE.parent
LOCK = HERE / "requirements.txt"
PYTHON, ABI, PLATFORMS = (
    "3.13",
    "cp313",
    ("manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_34_aarch64"),
)
SITE = f"lib/python{PYTHON}/site-packages"
STARTER = "#!/opt/ridethrough/bin/python -I\nimport sys\nfrom agent.__main__ import main\nsys.exit(main())\n"


def key() -> str:
    """What the wheels depend on."""
    return digest(LOCK, PYTHON, *PLATFORMS)


def download(folder: Path) -> None:
    """The wheels of requirements.txt for the board, each with its hash. BuildError if one differs or is missing."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    run([
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
        "--no-deps", "--require-hashes", "--python-version", PYTHON, "--implementation", "cp", "--abi", ABI,
        "--abi", "abi3", "--abi", "none", *platforms, "--dest", folder, "--requirement", LOCK,
    ])  # fmt: skip


def agent(folder: Path) -> None:
    """The agent itself, to be laid over what libraries() made."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "agent", folder / SITE / "agent", ignore=ignored)
    shutil.copyfile(ROOT / "README.md", folder / "README.md")


def libraries(wheels: Path, folder: Path) -> None:
    """/opt/ridethrough of the board into `folder`, without the agent."""
    site = folder / SITE
    site.mkdir(parents=True)
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise BuildError(f"no wheels in {wheels}")
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    (folder / "bin").mkdir()
    (folder / "bin/ridethrough").write_text(STARTER)
    (folder / "bin/ridethrough").chmod(0o755)
    (folder / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")
