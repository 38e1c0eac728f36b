"""The one file for the servers: always the same bytes, and Python 3.9 runs it."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from agent import pyz
from agent.rccmd import archive
from tests import pythons

PYTHONS = [found for version in ("3.9", "3.10", "3.12", "3.13") if (found := pythons.other(version))]


def test_it_is_the_same_whenever_and_wherever_it_is_built(tmp_path):
    """Another time, another umask, another order in the folder, files touched, caches beside them."""
    first = pyz.build()
    copy = tmp_path / "else" / "rccmd"
    copy.mkdir(parents=True)
    old = os.umask(0o077)
    try:
        for path in sorted(pyz.SOURCE.rglob("*.py"), reverse=True):
            target = copy / path.relative_to(pyz.SOURCE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            os.utime(target, (86400 * 365 * 12, 86400 * 365 * 12))
            target.chmod(0o700)
    finally:
        os.umask(old)
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "codec.cpython-311.pyc").write_bytes(b"cache")
    assert pyz.build(copy) == first
    (copy / "codec.py").write_bytes((copy / "codec.py").read_bytes() + b"\n")
    assert pyz.build(copy) != first


@pytest.mark.parametrize("python", [sys.executable, *map(str, PYTHONS)], ids=lambda p: p.split("/")[-3])
def test_each_python_makes_the_same_file_and_runs_it(tmp_path, python):
    file = tmp_path / "x.pyz"
    done = subprocess.run([python, pyz.__file__, file], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == pyz.build()
    assert done.stdout.split()[0] == pyz.sha256(file.read_bytes())
    env = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([python, file, "--help"], capture_output=True, text=True, timeout=30, env=env, cwd=tmp_path)
    assert done.returncode == 0 and "listen" in done.stdout, done.stderr
    wrong = subprocess.run(
        [python, file, "nonsense"], capture_output=True, text=True, timeout=30, env=env, cwd=tmp_path
    )
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr


def test_it_begins_as_a_program_and_holds_the_package_and_nothing_else(tmp_path):
    file = tmp_path / "x.pyz"
    file.write_bytes(pyz.build())
    assert file.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(file) as packed:
        assert packed.testzip() is None
        names = packed.namelist()
        assert names == sorted(names) and set(names) == {
            "__main__.py", *("rccmd/" + p.relative_to(pyz.SOURCE).as_posix() for p in pyz.SOURCE.rglob("*.py"))
        }  # fmt: skip
        assert all(i.compress_type == zipfile.ZIP_STORED and i.date_time[0] == 2000 for i in packed.infolist())
    assert len(pyz.build()) < pyz.LIMIT_BYTES


def test_an_installer_that_runs_from_the_folder_packs_the_same_bytes():
    assert archive.pack(str(pyz.SOURCE)) == pyz.build()
