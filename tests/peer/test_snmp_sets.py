"""net-snmp reads while a SET of net-snmp waits for a core that says nothing."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from agent import bus, config, snmpface
from agent.model import Command
from tests.peer.test_snmp_agent import PATH, snmp
from tests.peer.test_snmp_v3 import CRYPT, SIGN, staged
from tests.snmp_kit import COMMUNITY, ON_LINE, UPS, Net, view

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("snmpset", path=PATH) and not os.environ.get("CI"), reason="no net-snmp"),
]
GETS = 200
BEEPER, NAME = f".{UPS}.9.8.0", f".{UPS}.1.5.0"
V2C = ("-v2c", "-c", COMMUNITY)
V3 = ("-v3", "-u", "ops", "-l", "authPriv", "-a", "SHA-256", "-A", SIGN, "-x", "AES", "-X", CRYPT)


@pytest.mark.parametrize("who", [V2C, V3], ids=["2c", "3"])
def test_gets_are_answered_while_a_set_waits_for_a_stopped_core(tmp_path: Path, who: tuple[str, ...]) -> None:
    net = Net(tmp_path / "net").folder
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stopped:  # takes what comes, and never answers
        stopped.bind(str(tmp_path / "core.sock"))
        stopped.listen(64)
        writer = snmpface._writer(config.Snmp(), tmp_path, bus.Client(str(tmp_path / "core.sock")))
        shown = view(ON_LINE, commands=frozenset(Command))
        more = {"access": "read-write", "writer": writer}
        with staged(net, tmp_path / "snmp", "sha256", "aes128", shown, **more) as stage:  # type: ignore[arg-type]
            port = stage.agent.address[1]

            def get_ms() -> float:
                begun_s = time.monotonic()
                code, said = snmp("get", "2c", port, NAME)  # one try of a second
                assert code == 0, said
                return (time.monotonic() - begun_s) * 1000

            argv = ("snmpset", *who, "-On", "-t1", "-r5", f"127.0.0.1:{port}", BEEPER, "i", "1")
            idle_ms = [get_ms() for _ in range(20)]
            took_ms, outcomes = [], []
            while len(took_ms) < GETS:
                with subprocess.Popen(
                    argv,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env={**os.environ, "PATH": PATH},
                ) as child:
                    while child.poll() is None and len(took_ms) < GETS:
                        took_ms.append(get_ms())
                    outcomes.append(child.communicate(timeout=10)[0])
    assert all("genErr" in said or "General failure" in said for said in outcomes), outcomes
    said = f"GET idle: median {statistics.median(idle_ms):.0f}, worst {max(idle_ms):.0f} ms; beside a waiting SET: "
    said += f"median {statistics.median(took_ms):.0f}, worst {max(took_ms):.0f} ms"
    print(said)
    assert max(took_ms) < 1000
