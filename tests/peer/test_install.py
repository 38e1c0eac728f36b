"""`./run install` on a Debian with systemd: two users, the bus between them, the helper, a second UPS, and away.

The machine is a Debian booted in namespaces of its own (machine.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peer.machine import Booted, debian
from tests.peer.test_rccmd_install import cable
from tests.peer.world import ROOT, until

pytestmark = [
    pytest.mark.peer,
    pytest.mark.machines,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nsenter"), reason="needs root and namespaces"),
]
SETTINGS = """\
[agent]
name = "{name}"
mode = "dry-run"
{folders}
[ups]
driver = "simulator"
[web]
listen = "127.0.0.1:{port}"
public_status = true
[[stage]]
name = "last"
on_battery_s = 100
[[server]]
name = "board"
how = "local"
order = "power-off"
stage = "last"
needs_s = 10
"""


def with_sources(root: Path) -> None:
    """The clone in /src, and the Python packages in /wheels, because the machine has no network."""
    (root / "src").mkdir()
    for name in ("agent", "systemd", "docs", "run", "README.md", "setup.cfg", "pyproject.toml", "LICENSE"):
        subprocess.run(["cp", "-a", ROOT / name, root / "src"], check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--wheel-dir",
        root / "wheels",
        ROOT,
        "setuptools>=68",
        "wheel",
    ]
    subprocess.run(pip, check=True, timeout=300)


def test_it_is_installed_runs_and_goes_again(tmp_path: Path) -> None:
    root = tmp_path / "board"
    subprocess.run(["cp", "-a", "--reflink=auto", str(debian("systemd")), str(root)], check=True)
    with_sources(root)
    with cable() as namespace:
        board = Booted(root, namespace)
        try:

            def do(line: str) -> str:
                code, said = board.sh(line)
                assert code == 0, f"{line}: {said}" + board.sh("journalctl -n 60 --no-pager -u 'ridethrough*'")[1]
                return said

            def status(name: str = "ridethrough") -> dict[str, object]:
                found: dict[str, object] = json.loads(
                    do(f"/usr/local/bin/ridethrough status --json --config /etc/ridethrough/{name}.toml")
                )
                return found

            do("ip link set lo up; cd /src && PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels ./run install")
            (root / "etc/ridethrough/ridethrough.toml").write_text(SETTINGS.format(name="one", folders="", port=8080))
            do("systemctl restart ridethrough-core ridethrough-faces")
            core, faces = "ridethrough-core.service", "ridethrough-faces.service"
            for unit, user in ((core, "ridethrough"), (faces, "ridethrough-faces")):
                pid = do(f"systemctl show -P MainPID {unit}").strip()
                uid = do(f"id -u {user}").strip()
                shown = do(f"cat /proc/{pid}/status")
                assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in shown and "Seccomp:\t2\n" in shown
            # the faces hear the core though they are another user, and a third user may not
            fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/api/status').read().decode())"

            def page() -> str:
                code, said = board.sh(f'python3 -c "{fetch}"')
                return said if code == 0 else ""

            until(
                lambda: '"source":"mains"' in page().replace(" ", ""), 20, f"the page knows the UPS: {page()[:300]}"
            )
            bus = "import socket; s=socket.socket(1); s.connect('/run/ridethrough/core.sock')"
            code, said = board.sh(f'setpriv --reuid=65534 --regid=65534 --clear-groups python3 -c "{bus}"')
            assert code == 1 and "Permission denied" in said
            assert do("stat -c %a:%U:%G /run/ridethrough/core.sock") == "660:ridethrough:ridethrough-faces\n"
            # neither can read the other's files
            for user, other in (("ridethrough", "faces"), ("ridethrough-faces", "core")):
                read = f"setpriv --reuid={user} --regid={user} --clear-groups ls /var/lib/ridethrough/{other}"
                assert "Permission denied" in board.sh(read)[1]
            # the way to switch this host off is proven through the helper
            until(lambda: "would run" in json.dumps(status()), 30, f"proven: {json.dumps(status())[:2000]}")
            # a killed core is back within some seconds; a stopped one is noticed
            before = do(f"systemctl show -P MainPID {core}")
            do(f"systemctl kill -s KILL {core}")
            until(lambda: do(f"systemctl show -P MainPID {core}") not in (before, "0\n"), 10, "it is back")
            # a second UPS by name
            folders = 'state_dir = "/var/lib/ridethrough-two"\nrun_dir = "/run/ridethrough-two"'
            (root / "etc/ridethrough/two.toml").write_text(SETTINGS.format(name="two", folders=folders, port=8081))
            do("systemctl enable --now ridethrough-core@two ridethrough-faces@two")
            assert status("two")["name"] == "two" and status()["name"] == "one"
            # away, and the settings stay
            do("cd /src && ./run uninstall")
            assert do("ls /etc/ridethrough").split() == ["commands.d", "ridethrough.toml", "two.toml"]
            assert "ridethrough" not in do("systemctl list-units --all --plain --no-legend 'ridethrough*'")
            assert not (root / "opt/ridethrough").exists() and (root / "var/lib/ridethrough/core").exists()
            # once more, and now the core really orders the power off
            do("cd /src && PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels ./run install")
            ask = "import socket; s=socket.socket(1); s.connect('/run/ridethrough-helper.sock');"
            ask += " s.send(b'power-off\\n');"
            as_user = "setpriv --reuid={0} --regid={0} --clear-groups"
            code, said = board.sh(f'{as_user.format("ridethrough-faces")} python3 -c "{ask}"')
            assert code == 1 and "Permission denied" in said
            board.sh(f'{as_user.format("ridethrough")} python3 -c "{ask} print(s.recv(99))"')
            until(lambda: board.process.poll() is not None, 60, "it is off")
        finally:
            board.kill()
