"""Every name in `integrations/` is answered by our agent, and the rules by which managers recognise a UPS hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from snmp_kit import Net, Stage, dotted, request, three_phase, view

from agent import ber

FOLDER = Path(__file__).resolve().parent.parent / "integrations"
FILES = sorted(file for file in FOLDER.iterdir() if file.suffix in (".yml", ".yaml"))
SYS_DESCR, SYS_OBJECT_ID = "1.3.6.1.2.1.1.1.0", "1.3.6.1.2.1.1.2.0"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(view(three_phase()), Net(tmp_path).folder)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_name_is_answered_with_a_number(stage: Stage, file: Path) -> None:
    names = re.findall(r"\b1\.3\.6(?:\.\d+)+", file.read_text())
    assert len(names) >= 11
    served = stage.walk("1.3.6.1.2.1.33")
    for name in names:
        under = [served[one] for one in served if (one + ".").startswith(name + ".")]
        assert under and all(tag in (ber.INTEGER, ber.COUNTER32, ber.GAUGE32) for tag, _ in under), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_stands_twice(file: Path) -> None:
    uuids = re.findall(r"uuid: (\w+)", file.read_text())
    assert len(uuids) == len(set(uuids)) and all(re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{19}", one) for one in uuids)


def test_librenms_and_checkmk_recognise_it(stage: Stage) -> None:
    answered = stage.ask(request(ber.GET, SYS_DESCR, SYS_OBJECT_ID))
    assert answered is not None
    (_, _, descr), (_, _, object_id) = answered.bindings
    assert ("." + dotted(object_id)).startswith(".1.3.6.1.2.1.33")
    assert re.search(r"^(.)* SNMP Agent$", descr.decode(), re.IGNORECASE)
    assert dotted(object_id) == "1.3.6.1.2.1.33", "NUT wants exactly this"
