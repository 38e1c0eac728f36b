"""Every name in `integrations/` is answered by our agent, and the rules by which managers recognise a UPS hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from snmp_kit import ON_LINE, UPS, Net, Stage, dotted, request, since, three_phase, view, whole

from agent import ber
from agent.model import Condition, Source, View

FOLDER = Path(__file__).resolve().parent.parent / "integrations"
FILES = sorted(file for file in FOLDER.iterdir() if file.suffix in (".yml", ".yaml"))
SYS_DESCR, SYS_OBJECT_ID = "1.3.6.1.2.1.1.1.0", "1.3.6.1.2.1.1.2.0"


class Mib(NamedTuple):
    """A row of the MIB's list."""

    name: str
    syntax: str
    units: str
    values: dict[int, str]  # of an enumeration


def objects() -> Iterator[tuple[str, Mib]]:
    for line in (Path(__file__).parent / "cases" / "ups_mib_objects.tsv").read_text().splitlines():
        cells = line.split("\t")
        if not line.startswith("#") and len(cells) > 8:
            oid, name, _, syntax, _, _, _, units, legal = cells[:9]
            yield oid, Mib(name, syntax, units, {int(n): word for word, n in re.findall(r"(\w+)\((\d+)\)", legal)})


OBJECTS = dict(objects())


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


# --- Zabbix -----------------------------------------------------------------------------------------------------

EXPORT = yaml.safe_load((FOLDER / "zabbix-template.yaml").read_text())["zabbix_export"]
(TEMPLATE,) = EXPORT["templates"]
ITEMS = {item["key"]: item for item in TEMPLATE["items"]}
RULES = TEMPLATE["discovery_rules"]
PROTOTYPES = [prototype for rule in RULES for prototype in rule["item_prototypes"]]
TRIGGERS = [(item["key"], trigger) for item in TEMPLATE["items"] for trigger in item.get("triggers", ())]
TRIGGER = re.compile(r"last\(/([^/]+)/([^)]+)\)(>=|>|=)(\d+)")
HOLDS = {">=": int.__ge__, ">": int.__gt__, "=": int.__eq__}
FIELDS = {
    "uuid", "name", "type", "snmp_oid", "key", "delay", "value_type", "units", "preprocessing", "valuemap",
    "triggers",
}  # fmt: skip
FOUND_BY = {"uuid", "name", "type", "snmp_oid", "key", "delay", "item_prototypes"}


def everything(node: Any) -> Iterator[dict[str, Any]]:
    """All mappings."""
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict):
        yield node
    for one in below:
        yield from everything(one)


def test_zabbix_every_uuid_is_one_and_is_there_once() -> None:
    uuids = [node["uuid"] for node in everything(EXPORT) if "uuid" in node]
    assert len(uuids) == len(set(uuids)) and all(
        re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", u) for u in uuids
    )
    named = [*EXPORT["groups"], TEMPLATE, *TEMPLATE["items"], *(t for _, t in TRIGGERS), *TEMPLATE["valuemaps"]]
    named += RULES + PROTOTYPES
    assert all("uuid" in node for node in named) and len(named) == len(uuids)


def test_zabbix_items_are_the_objects_that_they_are_named_after() -> None:
    assert EXPORT["version"] == "6.0" and TEMPLATE["groups"] == [{"name": EXPORT["groups"][0]["name"]}]
    assert len(ITEMS) == len(TEMPLATE["items"])
    for key, item in ITEMS.items():
        row = OBJECTS[item["snmp_oid"]]
        assert item.keys() <= FIELDS and item["type"] == "SNMP_AGENT" and re.fullmatch(r"\d+[smh]", item["delay"])
        assert (key, item["name"]) == (row.name, row.name)
        scaled = [step["parameters"] for step in item.get("preprocessing", ()) if step["type"] == "MULTIPLIER"]
        assert scaled == ([["0.1"]] if row.units.startswith("0.1 ") else []), key
        assert not scaled or item["value_type"] == "FLOAT"


@pytest.mark.parametrize("phases", [1, 3])
def test_zabbix_finds_the_lines_that_there_are(tmp_path: Path, phases: int) -> None:
    served = Stage(view(three_phase() if phases == 3 else ON_LINE), Net(tmp_path).folder).walk(UPS)
    assert len({rule["key"] for rule in RULES}) == len(RULES) == 2
    for rule in RULES:
        assert rule.keys() == FOUND_BY and rule["type"] == "SNMP_AGENT"
        column = re.fullmatch(r"discovery\[\{#[A-Z]+\},([\d.]+)\]", rule["snmp_oid"])
        assert column
        lines = [one.removeprefix(column[1] + ".") for one in served if one.startswith(column[1] + ".")]
        assert lines == [str(n + 1) for n in range(phases)]
        for one in rule["item_prototypes"]:
            oid = one["snmp_oid"].removesuffix(".{#SNMPINDEX}")
            row = OBJECTS[f"{oid}.<index>"]
            assert one["name"] == f"{row.name} {{#SNMPINDEX}}" and one["key"] == f"{row.name}[{{#SNMPINDEX}}]"
            assert one["type"] == "SNMP_AGENT" and one.keys() <= FIELDS and not row.units.startswith("0.1 ")
            assert one["units"] == {"RMS Volts": "V", "Watts": "W", "percent": "%"}[row.units]
            assert all(f"{oid}.{line}" in served for line in lines)


def test_zabbix_value_maps_say_what_the_mib_says() -> None:
    maps = {one["name"]: one["mappings"] for one in TEMPLATE["valuemaps"]}
    used = {key: item["valuemap"]["name"] for key, item in ITEMS.items() if "valuemap" in item}
    assert used.keys() == {key for key, item in ITEMS.items() if OBJECTS[item["snmp_oid"]].values}
    assert set(used.values()) == maps.keys()
    for key, name in used.items():
        said = {int(one["value"]): one["newvalue"] for one in maps[name]}
        assert said == OBJECTS[ITEMS[key]["snmp_oid"]].values, key


LOST = view(None, since(Condition.COMM_LOST))
OUTAGE = view(replace(ON_LINE, source=Source.BATTERY), since(Condition.ON_BATTERY))
LOW = replace(ON_LINE, source=Source.BATTERY, battery=replace(ON_LINE.battery, low=True))


@pytest.mark.parametrize(
    ("shown", "fired"),
    [
        (view(), set()),
        (OUTAGE, {"upsOutputSource", "upsAlarmsPresent"}),
        (view(LOW, since(Condition.ON_BATTERY)), {"upsOutputSource", "upsAlarmsPresent", "upsBatteryStatus"}),
        (view(ON_LINE, since(Condition.OVERLOAD)), {"upsAlarmsPresent"}),
        (LOST, {"upsAlarmsPresent"}),
    ],
)  # fmt: skip
def test_zabbix_triggers_fire_when_they_should(tmp_path: Path, shown: View, fired: set[str]) -> None:
    served = Stage(shown, Net(tmp_path).folder).walk(UPS)
    found = set()
    for key, trigger in TRIGGERS:
        assert trigger["priority"] in ("INFO", "WARNING", "AVERAGE", "HIGH", "DISASTER")
        for macro in re.findall(r"\{[^}]*\}", trigger["name"]):
            assert macro == "{ITEM.LASTVALUE}"
        match = TRIGGER.fullmatch(trigger["expression"])
        assert match and match[1] == TEMPLATE["template"] and match[2] == key and key in ITEMS, trigger
        value = served.get(ITEMS[key]["snmp_oid"])
        if value is not None and HOLDS[match[3]](whole(value[1]), int(match[4])):
            found.add(key)
    assert found == fired and len({trigger["name"] for _, trigger in TRIGGERS}) == len(TRIGGERS) == 3


# --- Prometheus -------------------------------------------------------------------------------------------------


def test_prometheus_metrics_are_what_is_asked_for_with_the_units_of_the_mib() -> None:
    modules = yaml.safe_load((FOLDER / "prometheus-snmp.yml").read_text())["modules"]
    assert list(modules) == ["ridethrough_ups"]
    module = modules["ridethrough_ups"]
    assert module.keys() == {"walk", "get", "metrics"}
    asked = [*(oid for oid in module["walk"]), *(oid.removesuffix(".0") for oid in module["get"])]
    assert all(oid.endswith(".0") for oid in module["get"])
    metrics = {metric["oid"]: metric for metric in module["metrics"]}
    assert sorted(metrics) == sorted(asked) and len(metrics) == len(module["metrics"])
    for oid, metric in metrics.items():
        row = OBJECTS.get(f"{oid}.0") or OBJECTS[f"{oid}.<index>"]
        assert metric["name"] == row.name and metric["help"].startswith(f"RFC 1628 {row.name}")
        assert metric["type"] == ("counter" if row.syntax == "Counter32" else "gauge")
        assert metric.get("scale") == (0.1 if row.units.startswith("0.1 ") else None), row.name
        indexes = metric.get("indexes", [])
        assert [set(index) for index in indexes] == ([] if f"{oid}.0" in OBJECTS else [{"labelname", "type"}])
        assert all(re.fullmatch(r"ups\w+LineIndex", i["labelname"]) and i["type"] == "gauge" for i in indexes)


# --- notes ------------------------------------------------------------------------------------------------------


def test_the_notes_name_every_file_and_say_what_was_not_tried() -> None:
    text = (FOLDER / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert all(f"`{file.name}`" in text for file in FILES)
    for system in ("Zabbix", "Prometheus", "LibreNMS", "Checkmk"):
        (row,) = (row for row in rows if row.startswith(f"| {system}"))
        assert "not " in row.split("|")[3], row
    for module in re.findall(r"module=(\w+)", text):
        assert f"\n  {module}:" in (FOLDER / "prometheus-snmp.yml").read_text()


def test_librenms_and_checkmk_recognise_it(stage: Stage) -> None:
    answered = stage.ask(request(ber.GET, SYS_DESCR, SYS_OBJECT_ID))
    assert answered is not None
    (_, _, descr), (_, _, object_id) = answered.bindings
    assert ("." + dotted(object_id)).startswith(".1.3.6.1.2.1.33")
    assert re.search(r"^(.)* SNMP Agent$", descr.decode(), re.IGNORECASE)
    assert dotted(object_id) == "1.3.6.1.2.1.33", "NUT wants exactly this"
