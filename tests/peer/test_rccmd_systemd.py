"""A server with systemd enrols, runs the sandboxed listener, and is powered off by its root side, for real.

The server is a Debian with python3 and systemd, booted in namespaces of its own (machine.py).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.peer.machine import Booted, debian
from tests.peer.test_rccmd_install import HERE, THERE, Adapter, cable
from tests.peer.world import until

pytestmark = [
    pytest.mark.peer,
    pytest.mark.machines,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nsenter"), reason="needs root and namespaces"),
]


def test_a_server_with_systemd_is_proven_and_powered_off(tmp_path: Path) -> None:
    root = tmp_path / "server"
    subprocess.run(["cp", "-a", "--reflink=auto", str(debian("systemd")), str(root)], check=True)
    (tmp_path / "adapter").mkdir()
    servers = (
        f'[[server]]\nname = "nas"\naddress = "{THERE}"\nport = 6003\nneeds_s = 10\nstage = "all"\nsecure = true\n'
    )
    with cable() as namespace, Adapter(tmp_path / "adapter", confirm_servers=0, servers=servers) as world:
        server = Booted(root, namespace)
        try:

            def enroll() -> str:
                return world.ridethrough("enroll", "nas", "--address", f"{HERE}:{world.web_port}").strip()

            until(lambda: "not enrolled yet" in world.server().proof, 15, "it is not enrolled")
            code, said = server.sh(enroll())
            assert code == 0 and "proven by peer-ups\n" in said, said + server.sh("journalctl -u 'rccmd*'")[1]
            until(lambda: world.server().state == "proven", 10, "the adapter has seen it")
            assert "self test ok" in world.server().proof
            # the listener has no privileges
            pid = server.sh("systemctl show -P MainPID rccmd.service")[1].strip()
            shown = server.sh(f"cat /proc/{pid}/status")[1]
            uid = server.sh("id -u rccmd")[1].strip()
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in shown and uid != "0"
            assert "CapBnd:\t0000000000000000\n" in shown and "NoNewPrivs:\t1\n" in shown and "Seccomp:\t2\n" in shown
            assert server.sh("systemctl show -P Id ridethrough-rccmd.service")[1] == "rccmd.service\n"
            # root asks it for its self test, with no more rights than the listener's own
            code, said = server.sh("python3 /opt/rccmd/rccmd.pyz selftest --config /etc/rccmd/rccmd.ini")
            assert (code, said) == (0, "self test ok, exit code 0\n")
            forged = "sleep 99 & echo $! > /var/lib/rccmd/lock; python3 /opt/rccmd/rccmd.pyz selftest"
            code, said = server.sh(f"{forged} --state-dir /var/lib/rccmd; kill -0 $! && kill $! && echo spared")
            assert "cannot be asked: Operation not permitted" in said and said.endswith("spared\n"), said
            server.sh(f"echo {pid} > /var/lib/rccmd/lock")
            # nobody else may ask
            ask = "python3 /opt/rccmd/rccmd.pyz ask"
            code, said = server.sh(f"setpriv --reuid=65534 --regid=65534 --clear-groups {ask} shutdown")
            assert code == 1 and "Permission denied" in said, said
            # the old installation goes on when a new one does not work
            code, said = server.sh(f"{enroll()} --on-shutdown /no/such")
            assert code == 1 and "not there or not executable" in said, said
            rival = "import socket,time;s=socket.socket();s.bind(('',6004));s.listen();time.sleep(60)"
            server.sh(f"python3 -c {shlex.quote(rival)} > /dev/null 2>&1 &")
            code, said = server.sh(f"{enroll()} --port 6004")
            assert code == 1 and "everything was put back as it was.\n" in said, said
            assert server.sh("systemctl is-active rccmd.service rccmd-root.socket")[1] == "active\nactive\n"
            # removed, and enrolled once more
            code, said = server.sh("python3 /opt/rccmd/rccmd.pyz uninstall")
            assert code == 0, said
            assert server.sh("find / -xdev -name '*rccmd*' -not -path '/var/log/journal/*'")[1] == ""
            assert (
                server.sh("id rccmd")[0] == 1
                and "rccmd" not in server.sh("systemctl list-units --all --type=service,socket")[1]
            )
            code, said = server.sh(enroll())
            assert code == 0 and "proven by peer-ups\n" in said, said
            until(lambda: world.server().state == "proven", 10, "the adapter has seen it")
            # the outage: it powers off
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: server.process.poll() is not None, 60, "it has powered itself off")
        finally:
            server.kill()
