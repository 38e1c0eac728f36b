"""docs/hardening.md says what listens and who may do what: here it is held against the code and the units."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from agent import addresses, config, provision
from agent.hostsetup import System, files
from agent.rccmd import codec
from image import root
from tests.test_place import place

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "docs/hardening.md").read_text()
IMAGE_UNITS = REPOSITORY / "image/files/etc/systemd/system"
#: what may wait for others: module -> what its socket is
LISTENERS = {
    "httpd.py": "[web]", "snmp.py": "[snmp]", "busserver.py": "Unix", "process.py": "Unix", "demo.py": "loopback",
    "rccmd/listen.py": "6003", "rccmd/probe.py": "by hand", "rccmd/root.py": "Unix",
}  # fmt: skip
OF_DEBIAN = {"22/tcp", "5353/udp", "68/udp", "546/udp"}


def listed() -> dict[str, str]:
    """The first table: port -> where."""
    table = TEXT.partition("## What listens")[2].partition("## What goes out")[0]
    rows = re.findall(r"^\| (\d[^|]*) \| ([^|]*) \|", table, re.M)
    return {port: where for ports, where in rows for port in ports.split(", ")}


def test_the_ports_that_are_listed_are_those_that_the_code_opens() -> None:
    web = addresses.split_address(tomllib.loads(provision.DEFAULT)["web"]["listen"])
    local = {
        f"{addresses.split_address(config.Web().listen)[1]}/tcp": config.Web().listen,
        f"{addresses.split_address(config.Snmp().listen)[1]}/udp": config.Snmp().listen,
    }
    assert {port for port, where in listed().items() if where == "`127.0.0.1`"} == set(local)
    assert all(listen.startswith("127.0.0.1:") for listen in local.values())
    assert web[0] == "::" and listed()[f"{web[1]}/tcp"] == "all addresses"
    assert set(listed()) == {*local, f"{web[1]}/tcp", "161/udp", f"{codec.PORT}/tcp"} | OF_DEBIAN


def test_nobody_else_in_the_code_waits_for_a_connection() -> None:
    found = set()
    for path in (REPOSITORY / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                if node.func.attr in ("bind", "create_server", "create_datagram_endpoint", "start_server"):
                    found.add(str(path.relative_to(REPOSITORY / "agent")))
    assert found == set(LISTENERS)


def test_of_debian_the_image_starts_nothing_else_that_listens() -> None:
    wanted = {unit for units in root.WANTED.values() for unit in units if not unit.startswith("ridethrough-")}
    assert wanted == {"systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service"}
    assert {"ssh.service", "ssh.socket", "sshd.socket"} <= set(root.MASKED)
    ssh = (IMAGE_UNITS / "ridethrough-ssh.service").read_text()
    assert "ConditionPathExists=/run/ridethrough-system/authorized_keys" in ssh and "PasswordAuthentication=no" in ssh
    made = files(System())
    assert "ridethrough-system/authorized_keys" not in made
    assert "MulticastDNS=yes" in "".join(text for text, _ in made.values()) and "LLMNR=no" in str(made)


def test_the_services_may_do_what_is_said_and_no_more() -> None:
    units = {Path(path).name: text.splitlines() for path, text in place.files().items()}
    units["spare"] = (IMAGE_UNITS / "ridethrough-spare.service").read_text().splitlines()
    core, faces = units["ridethrough-core.service"], units["ridethrough-faces.service"]
    helper, spare = units["ridethrough-helper@.service"], units["spare"]
    assert "User=ridethrough" in core and "User=ridethrough-faces" in faces
    for unit in (core, helper):
        assert "CapabilityBoundingSet=" in unit
    assert (
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in faces and "CapabilityBoundingSet=CAP_DAC_READ_SEARCH" in spare
    )
    for unit in (faces, helper):
        assert "PrivateDevices=yes" in unit
    for unit in (helper, spare):
        assert "PrivateNetwork=yes" in unit
    assert {"MemoryMax=256M", "TasksMax=256"} <= set(faces)
    for unit in (core, faces, helper, spare):
        assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "MemoryDenyWriteExecute=yes"} <= set(unit)
        assert "RestrictNamespaces=yes" in unit and "SystemCallFilter=@system-service" in unit
    written = [row for unit in (core, faces, helper, spare) for row in unit if row.startswith("ReadWritePaths")]
    assert written == ["ReadWritePaths=-/var/lib/ridethrough/system"]
