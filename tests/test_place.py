"""What an installation puts onto a machine, and what taking it off leaves."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "systemd"))
import install as install_module  # noqa: E402
import place  # noqa: E402 - a folder of scripts, no package

SERVICES = ("ridethrough-core", "ridethrough-faces")


def install(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "systemd" / "install.py", *words], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


DEBIAN = Path("/usr/bin/python3.11")


@pytest.mark.parametrize(
    ("executable", "version", "missing", "said"),
    [
        (DEBIAN, (3, 11), (), ""),
        (Path("/usr/local/bin/python3.13"), (3, 13), (), ""),
        (DEBIAN, (3, 10), (), r"is Python 3\.10, and 3\.11 or newer is needed \(Debian 12, Ubuntu 24\.04 or later\)"),
        (DEBIAN, (3, 9), ("venv",), r"is Python 3\.9, and 3\.11 or newer"),
        (DEBIAN, (3, 11), ("ensurepip",), r"sudo apt-get install -y python3-venv$"),
        (Path("/usr/bin/python3.12"), (3, 12), ("ensurepip", "venv"), r"sudo apt-get install -y python3\.12-venv$"),
        (
            Path("/root/.pyenv/versions/3.13.0/bin/python3.13"),
            (3, 13),
            (),
            r"the services may not read it.*/usr/bin/python3",
        ),
        (Path("/home/me/bin/python3"), (3, 11), (), "the services may not read it"),
        (Path("/tmp/python3"), (3, 11), (), "the services may not read it"),
    ],
)
def test_a_python_that_cannot_serve_is_refused_with_the_package_that_mends_it(
    executable: Path, version: tuple[int, int], missing: tuple[str, ...], said: str
) -> None:
    found = install_module.unfit(executable, version, lambda name: name not in missing, DEBIAN)
    assert re.search(said, found) and bool(said) is bool(found)


def test_the_least_python_is_the_one_of_the_package() -> None:
    assert install_module.least() == (3, 11)
    assert f"python_requires = >={'.'.join(map(str, install_module.least()))}\n" in (ROOT / "setup.cfg").read_text()


@pytest.mark.parametrize("words", [("install",), ("install", "--dry-run")])
def test_nothing_is_changed_with_such_a_python(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install_module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(install_module, "unfit", lambda *_: "it is too old")
    monkeypatch.setattr(install_module.Host, "call", lambda *_, **__: pytest.fail("it goes on"))
    assert install_module.main(words) == 1
    assert capsys.readouterr() == ("", "./run install: it is too old\n")


@pytest.mark.parametrize("name", ["install.py", "place.py"])
def test_an_old_python_can_read_the_installer_and_so_say_what_is_wrong(name: str) -> None:
    ast.parse((ROOT / "systemd" / name).read_text(), feature_version=(3, 8))


def files_of(root: Path) -> set[str]:
    return {"/" + str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir() or p.is_symlink()}


def test_it_comes_and_goes_and_the_configuration_stays(tmp_path: Path) -> None:
    assert "would" in install("install", "--root", str(tmp_path), "--dry-run") and not any(tmp_path.iterdir())
    install("install", "--root", str(tmp_path))
    there = files_of(tmp_path)
    assert set(place.files()) | {place.CONFIG} <= there
    for unit, target in place.ENABLED.items():
        link = tmp_path / f"{place.UNITS[1:]}/{target}.wants/{unit}"
        assert str(link.readlink()) == f"{place.UNITS}/{unit}"
    mine = tmp_path / place.CONFIG[1:]
    mine.write_text("# mine\n")
    assert "write" not in install("install", "--root", str(tmp_path)) and mine.read_text() == "# mine\n"
    install("uninstall", "--root", str(tmp_path))
    assert files_of(tmp_path) == {place.CONFIG} and mine.read_text() == "# mine\n"
    install("uninstall", "--root", str(tmp_path), "--purge")
    assert files_of(tmp_path) == set()


def test_a_program_of_somebody_else_under_our_name_stays(tmp_path: Path) -> None:
    """`install` stops at it; taking back what that has done must not take it away."""
    theirs, ours = (tmp_path / f"usr/local/bin/{name}" for name in ("rccmd", "ridethrough"))
    theirs.parent.mkdir(parents=True)
    theirs.write_text("#!/bin/sh\n")
    ours.symlink_to(place.LINKS["/usr/local/bin/ridethrough"])
    install("uninstall", "--root", str(tmp_path), "--purge")
    assert files_of(tmp_path) == {"/usr/local/bin/rccmd"}
    theirs.unlink()
    theirs.symlink_to("/opt/rccmd/rccmd")
    install("uninstall", "--root", str(tmp_path), "--purge")
    assert files_of(tmp_path) == {"/usr/local/bin/rccmd"}


def test_the_first_configuration_has_no_mistake_but_the_missing_ups(tmp_path: Path) -> None:
    from agent.process import load

    path = tmp_path / "ridethrough.toml"
    path.write_text(place.STARTER)
    settings, problems = load(path)
    assert [p.section for p in problems] == ["ups"] and settings.web is not None and settings.mode == "setup"


@pytest.mark.parametrize("name", SERVICES)
def test_the_second_ups_has_nothing_in_common_with_the_first_but_its_users(name: str) -> None:
    text = place.files()[f"{place.UNITS}/{name}@.service"]
    assert "/etc/ridethrough/%i.toml" in text and "StateDirectory=ridethrough-%i/" in text
    assert "ridethrough.toml" not in text and "Directory=ridethrough/" not in text
    assert "Directory=ridethrough\n" not in text and "ridethrough-core.service" not in text


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_always_started_again_and_watched(name: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(place.files()[f"{place.UNITS}/{name}.service"])
    unit, service = parser["Unit"], parser["Service"]
    assert unit["StartLimitIntervalSec"] == "0" and service["Restart"] == "always"
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) <= 60
    assert service["User"] == {"ridethrough-core": "ridethrough"}.get(name, name)
    assert "AF_NETLINK" in service["RestrictAddressFamilies"], "the neighbour table is read"
    assert all("/dev/" not in row for row in parser["Service"].values()), "devices by class only"


def test_the_faces_get_no_device() -> None:
    text = place.files()[f"{place.UNITS}/ridethrough-faces.service"]
    assert "PrivateDevices=yes" in text and "DeviceAllow" not in text and "dialout" not in text


def test_gpio_lines_are_opened_by_a_group_that_the_core_is_in() -> None:
    """Driver contact: by class, as the systems of the boards have it, never by the name of a chip."""
    found = place.files()
    rules = found["/etc/udev/rules.d/70-ridethrough-ups.rules"].splitlines()
    rule = 'SUBSYSTEM=="gpio", KERNEL=="gpiochip[0-9]*", GROUP="gpio", MODE="0660"'
    assert rules.index(rule) < rules.index('GOTO="ridethrough_end"'), "else it is never come to"
    users = found["/etc/sysusers.d/ridethrough.conf"].splitlines()
    assert "g gpio -" in users and "m ridethrough gpio" in users
    for unit in ("ridethrough-core.service", "ridethrough-core@.service"):
        text = found[f"{place.UNITS}/{unit}"]
        assert "DeviceAllow=char-gpiochip rw\n" in text
        assert re.search(r"^SupplementaryGroups=.*\bgpio\b", text, re.M), (
            "by name: a user of an earlier one has it too"
        )
    assert "gpio" not in found[f"{place.UNITS}/ridethrough-faces.service"]
    assert "gpio" in place.UDEV, "chips that are there before the rule"
    assert install_module.GPIO in (ROOT / "setup.cfg").read_text()
