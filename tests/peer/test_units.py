"""systemd itself reads the units: no mistake, and little left that a taken-over service could do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.rccmd import units as rccmd_units
from tests.test_place import place

pytestmark = pytest.mark.peer
EXPOSURE_LIMIT = 2.0
IMAGE = Path(__file__).parent.parent.parent / "image/files/etc/systemd/system"


def analyze(*words: str | Path) -> tuple[int, str]:
    if not shutil.which("systemd-analyze"):
        pytest.fail("systemd-analyze is missing; mend with: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every unit of ours, with programs that are there: adapter, servers, image."""
    folder = tmp_path_factory.mktemp("units")
    texts = {path: text for path, text in place.files().items() if path.startswith(place.UNITS)}
    texts |= rccmd_units.systemd(rccmd_units.Places(python=f"{place.PROGRAM}/bin/python"), "rccmd")
    texts |= {str(path): path.read_text() for path in IMAGE.iterdir() if path.is_file()}
    for more in IMAGE.glob("*.d"):
        shutil.copytree(more, folder / more.name)
    for path, text in texts.items():
        text = re.sub(
            r"^(ExecStart|ExecStopPost)=/(opt|usr/lib/ridethrough|usr/sbin)\S*", r"\1=/bin/true", text, flags=re.M
        )
        (folder / Path(path).name).write_text(text)
    return folder


def test_no_unit_has_a_mistake(units: Path) -> None:
    found = sorted(path for path in units.iterdir() if path.is_file())
    names = {path.name for path in found}
    assert {
        "ridethrough-helper.socket",
        "ridethrough-helper@.service",
        "rccmd.service",
        "rccmd-root@.service",
    } < names
    assert {f"ridethrough-{name}.service" for name in ("core", "core@", "faces", "faces@", "provision")} < names
    code, said = analyze("verify", "--man=no", *found)
    said = "".join(row for row in said.splitlines(True) if re.search(f"{units}|ridethrough|rccmd", row))
    assert (code, said) == (0, "")


def test_a_mistake_would_be_seen(units: Path, tmp_path: Path) -> None:
    bad = tmp_path / "ridethrough-core.service"
    bad.write_text((units / bad.name).read_text().replace("Restart=always", "Restart=sometimes"))
    assert "sometimes" in analyze("verify", "--man=no", bad)[1]


def test_a_mistake_in_what_the_image_adds_to_a_unit_would_be_seen(units: Path, tmp_path: Path) -> None:
    shutil.copytree(units, tmp_path, dirs_exist_ok=True)
    added = tmp_path / "ridethrough-core@.service.d/data.conf"
    added.write_text(added.read_text().replace("ridethrough/%i", "../%i"))
    assert "data.conf" in analyze("verify", "--man=no", tmp_path / "ridethrough-core@.service")[1]


@pytest.mark.parametrize(
    "name",
    [
        "ridethrough-core", "ridethrough-faces", "ridethrough-core@", "ridethrough-faces@", "ridethrough-helper@",
        "ridethrough-spare", "rccmd",
    ],
)  # fmt: skip
def test_little_is_left_that_a_taken_over_service_could_do(units: Path, name: str) -> None:
    code, said = analyze("security", "--offline=true", "--no-pager", units / f"{name}.service")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert code == 0 and found and float(found[1]) <= EXPOSURE_LIMIT, said
