"""The house rules that a machine can check: floors, lonely imports, documented options, sizes, and words."""

from __future__ import annotations

import argparse
import ast
import graphlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __main__ as command_line
from agent import config, drivers, passwords, process, reach
from tests import mutants

ROOT = Path(__file__).resolve().parent.parent
AGENT = ROOT / "agent"

#: room -> floor; imports only go down or stay on the floor, and a face never imports another
FLOORS = {
    "__main__": 5, "run": 5, "core": 5, "faces": 5, "demo": 5, "verbs": 5, "steer": 5, "sayto": 5, "rehearse": 5,
    "process": 5, "invite": 5, "finding": 5, "support": 5, "backup": 5, "provision": 5, "bootfile": 5, "update": 5,
    "seconds": 5, "trial": 5, "host": 5, "spare": 5, "sealed": 1, "twoslots": 1, "download": 3,
    "bundle": 2, "redact": 2, "bootpart": 1, "certificates": 3,
    "web": 4, "httpd": 4, "httphead": 4, "httpanswer": 4, "login": 4, "passwords": 4, "tls": 4, "page": 4,
    "saying": 4, "ladder": 4, "controls": 4, "assets": 4, "words": 4, "layout": 4, "history": 4,
    "snmp": 4, "gate": 4, "setter": 4, "settexts": 4, "netif": 4, "engineid": 4, "snmpuser": 5, "snmpface": 5,
    "notify": 4, "receiver": 4, "notices": 2,
    "enroll": 4, "authority": 4, "codes": 4, "pyz": 4, "bootstrap": 4,
    "engine": 3, "portrait": 3, "telling": 3, "guard": 3, "deliver": 3, "reach": 3,
    "attempt": 3, "target": 3, "waker": 3, "places": 3, "tlssteps": 3, "enrolments": 3, "senderkey": 3,
    "book": 3, "requests": 3, "program": 3, "helper": 3,
    "bus": 3, "busserver": 3, "ups": 3,
    "drivers": 2, "apc": 2, "q1": 2, "usages": 2, "hid": 2, "hidtable": 2, "hidreader": 2,
    "hidlook": 2, "quirks": 2, "hidraw": 1, "hidusb": 1, "usbdevice": 1, "usbport": 1,
    "bridge": 1, "bridges": 1, "cards": 1,
    "rules": 2, "outage": 2, "protection": 2, "afterwards": 2, "byhand": 2,
    "drill": 2, "curve": 2, "forecast": 2,
    "crowd": 2, "kept": 2, "pretend": 2, "mib": 2, "mib2": 2, "upsmib": 2, "upsman": 2, "pdu": 2, "usm": 2,
    "v3": 2, "refusals": 2, "lasttest": 2, "enginemib": 2, "upsset": 2, "webrequest": 2, "variables": 2, "byword": 2,
    "config": 1, "reading": 1, "plans": 1, "store": 1, "slots": 1, "magic": 1, "neighbours": 1, "link": 1, "vault": 1,
    "routes": 1, "hostsetup": 1, "pins": 1, "lines": 1, "upsd": 1, "modbus": 1, "modbususb": 1,
    "snmplink": 1, "snmp3link": 1, "snmpchild": 1, "ber": 1,
    "snmptables": 2, "snmplook": 2, "nutlook": 2, "phases": 2, "shut": 1,
    "devices": 1, "tape": 1, "seldom": 1, "plausible": 2, "ages": 2, "detect": 3, "asking": 3,
    "wire": 1, "addresses": 1, "commands": 1, "errands": 2,
    "model": 0,
}  # fmt: skip
#: the rooms that make up one face
WEB, SNMP = (
    {
        "web", "httpd", "httphead", "httpanswer", "login", "tls", "page", "saying", "ladder", "controls", "assets",
        "words", "layout", "history", "enroll", "authority", "codes", "pyz", "bootstrap",
    },
    {"snmp", "gate", "netif", "engineid", "setter", "settexts", "notify", "receiver"},
)  # fmt: skip
MODULES = sorted(
    str(p.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__") for p in AGENT.rglob("*.py")
)


def imports(path: Path) -> set[str]:
    """The dotted names of the agent that a file imports, relative ones resolved."""
    return named(list(ast.walk(ast.parse(path.read_text()))), path)


def wanted_by_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def named(nodes: list[ast.AST], path: Path) -> set[str]:
    """The same of some of its statements."""
    package = list(path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "agent"}


def room(dotted: str) -> str | None:
    """`agent.drivers.megatec` -> drivers; None for the package itself and the annex."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else None


def test_every_room_has_a_floor() -> None:
    rooms = {room(m) for m in MODULES} - {None, "rccmd"}
    assert rooms == set(FLOORS) & rooms, f"without a floor: {sorted(str(r) for r in rooms - set(FLOORS))}"
    assert set(FLOORS) <= rooms, f"floors without a room: {sorted(set(FLOORS) - rooms)}"


def test_imports_only_go_down() -> None:
    wrong = []
    for path in AGENT.rglob("*.py"):
        here = room(".".join(path.relative_to(ROOT).with_suffix("").parts)) or ""
        for name in imports(path):
            there = room(name)
            if here == "rccmd":
                if there != "rccmd":
                    wrong.append(f"{path.name}: the annex imports {name}")
            elif there == "rccmd":
                if name.split(".")[2:3] not in (["codec"], ["secure"]):
                    wrong.append(f"{path.name}: only rccmd.codec and rccmd.secure may be used, not {name}")
            elif there is not None and there in FLOORS and here in FLOORS and FLOORS[there] > FLOORS[here]:
                wrong.append(f"{here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})")
    assert not wrong, "\n".join(sorted(wrong))


def test_faces_know_neither_each_other_nor_a_driver_nor_the_engine() -> None:
    wrong = []
    for face, others in ((WEB, SNMP), (SNMP, WEB)):
        for name in face:
            path = AGENT / f"{name}.py"
            if path.exists():
                used = {room(i) for i in imports(path)}
                wrong += [
                    f"{name} imports {u}" for u in used & (others | {"drivers", "link", "engine", "deliver", "store"})
                ]
    assert not wrong, wrong


def test_drivers_and_floor_two_read_no_clock_and_sleep_nowhere() -> None:
    pure = [
        p
        for p in AGENT.rglob("*.py")
        if FLOORS.get(room(f"agent.{p.relative_to(AGENT).parts[0].removesuffix('.py')}") or "", 9) <= 2
    ]
    wrong = []
    for path in pure:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import) and any(a.name in ("time", "datetime") for a in node.names):
                wrong.append(path.name)
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                wrong.append(path.name)
    assert not wrong, wrong


def test_nobody_swallows_every_error_or_evaluates_text() -> None:
    wrong = []
    for path in AGENT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"bare"}
                if names & {"bare", "Exception", "BaseException"}:
                    wrong.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                wrong.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Import) and any(a.name in ("pickle", "marshal", "shelve") for a in node.names):
                wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong, wrong


def test_every_module_imports_and_no_import_goes_round() -> None:
    """So each can be imported alone: none leans on another having been imported before."""
    graph = {}
    for name in MODULES:
        path = ROOT / (name.replace(".", "/") + ".py")
        path = path if path.exists() else ROOT / name.replace(".", "/") / "__init__.py"
        tops = [node for node in ast.parse(path.read_text()).body if not wanted_by_types_alone(node)]
        used = named(tops, path)
        graph[name] = {m for m in MODULES for u in used if m != name and f"{u}.".startswith(f"{m}.")} - {"agent"}
    tuple(graphlib.TopologicalSorter(graph).static_order())
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    names = [m for m in MODULES if not m.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_seeded_fault_still_applies() -> None:
    assert mutants.problems() == []


def test_every_file_says_what_it_is_for() -> None:
    wrong = []
    for path in [*AGENT.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]:
        text = path.read_text()
        if text.strip() and not ast.get_docstring(ast.parse(text)):
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong, wrong


def test_no_file_is_too_long_to_read() -> None:
    long = {p.name: n for p in AGENT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"split them: {long}"


def test_the_page_of_the_architecture_has_every_room_on_its_floor() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    said = {
        (name.removesuffix("/*"), int(floor))
        for floor, names in re.findall(r"^\| (\d) \|([^|]*)\|", text, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert said ^ set(FLOORS.items()) == set()


def test_the_links_between_the_documents_lead_somewhere() -> None:
    def heads(path: Path) -> set[str]:
        found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in found}

    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").glob("*.md")]
    dead, seen = [], 0
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            place, _, head = link.partition("#")
            target, seen = (page.parent / place if place else page), seen + 1
            if not target.exists() or (head and head not in heads(target)):
                dead.append(f"{page.name}: {link}")
    assert seen > 50 and not dead, dead


def documentation() -> str:
    return "\n".join(p.read_text() for p in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_every_option_of_the_configuration_is_documented() -> None:
    options = [
        *config.AGENT,
        *config.UPS,
        *config.WEB,
        *config.SNMP,
        *config.COMMUNITY,
        *config.SERVER,
        *config.STAGE,
    ]
    options += [o for module in process.LINKS.values() for o in module.OPTIONS]
    for name in drivers.available():
        options += drivers.load(name).OPTIONS
    for name in reach.available():
        options += reach.load(name).OPTIONS
    text = documentation()
    missing = sorted({o.name for o in options if f"`{o.name}`" not in text})
    assert not missing, missing
    assert all(o.help for o in options)


def test_every_verb_and_switch_of_the_command_line_is_documented() -> None:
    text, verb_list = documentation(), (ROOT / "docs/configuration.md").read_text()
    missing = []
    top = command_line.parser()
    verbs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    for verb, sub in verbs.choices.items():
        if f"`ridethrough {verb}" not in verb_list:
            missing.append(f"ridethrough {verb}")
        missing += [
            s
            for a in sub._actions
            for s in a.option_strings
            if s.startswith("--") and s != "--help" and s not in text
        ]
    assert not missing, missing


@pytest.mark.parametrize("verb", ["run", "core", "faces", "check", "status", "log", "secret", "password", "demo"])
def test_every_verb_has_a_help_text(verb: str) -> None:
    done = subprocess.run([sys.executable, "-m", "agent", verb, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout


def test_a_missing_configuration_is_one_clear_line(tmp_path: Path) -> None:
    for verb in ("run", "core", "faces", "check", "status", "log"):
        argv = [sys.executable, "-m", "agent", verb, "--config", str(tmp_path / "none.toml")]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
        assert "none.toml" in done.stderr


def test_a_password_hash_is_made_beside_an_empty_card_where_there_is_no_configuration(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "agent", "password", "hash", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(argv, cwd=ROOT, input="a fine pass phrase\n", capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and passwords.decode(done.stdout.strip()), done.stderr


def test_a_venv_that_is_a_link_is_refused_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    """`venv --clear` would empty the folder at its end: the one of another checkout."""
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here, other):
        folder.mkdir()
    for name in ("run", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, here)
    (other / "precious").write_text("")
    (here / ".venv").symlink_to(other)
    done = subprocess.run([here / "run", "setup"], capture_output=True, text=True, timeout=60)
    assert (other / "precious").exists() and done.returncode == 1 and "is a link" in done.stderr + done.stdout


def test_no_merge_was_left_half_done() -> None:
    folders = ("agent", "tests", "image", "bench", "systemd", "docs")
    files = [*ROOT.glob("*.*"), *(p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in (".py", ".md"))]
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    found = [
        p.name
        for p in files
        if p.is_file()
        for line in p.read_text("utf-8", "replace").splitlines()
        if line.startswith(marks)
    ]
    assert found == []
