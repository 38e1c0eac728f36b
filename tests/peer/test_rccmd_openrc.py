"""A server with OpenRC enrols, runs the listener under supervise-daemon, and is shut down by its root side.

The server is a Debian with python3 and openrc, booted in namespaces of its own (machine.py).
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
INIT = 'sh -c "openrc sysinit; openrc boot; openrc default; while :; do sleep 1; done"'
ON = ["--on-shutdown", "/usr/local/sbin/halt-it"]
RUNNING = "rc-status --runlevel | grep -qx default && echo running"


def test_a_server_with_openrc_is_proven_and_told(tmp_path: Path) -> None:
    root = tmp_path / "server"
    subprocess.run(["cp", "-a", "--reflink=auto", str(debian("openrc")), str(root)], check=True)
    (tmp_path / "adapter").mkdir()
    halt = root / "usr/local/sbin/halt-it"
    halt.write_text('#!/bin/sh\necho "$(id -u)" >> /told\n')
    halt.chmod(0o755)
    servers = (
        f'[[server]]\nname = "nas"\naddress = "{THERE}"\nport = 6003\nneeds_s = 10\nstage = "all"\nsecure = true\n'
    )
    with cable() as namespace, Adapter(tmp_path / "adapter", confirm_servers=0, servers=servers) as world:
        server = Booted(root, namespace, INIT, RUNNING)
        try:

            def enroll(*more: str) -> tuple[int, str]:
                line = world.ridethrough("enroll", "nas", "--address", f"{HERE}:{world.web_port}").strip()
                return server.sh(f"{line} {shlex.join([*ON, *more])}")

            def holding(port: int) -> None:
                rival = f"import socket,time;s=socket.socket();s.bind(('',{port}));s.listen();time.sleep(60)"
                server.sh(f"python3 -c {shlex.quote(rival)} > /dev/null 2>&1 & echo $! > /rival; sleep 1")

            def listener() -> str:
                return server.sh("cat /var/lib/rccmd/lock")[1].strip()

            def trace() -> str:
                """What of it is on the server."""
                files, levels = "find / -xdev -name '*rccmd*'", "rc-update show | grep rccmd"
                return server.sh(f"{files}; {levels}; grep -sl 'rccmd[.]pyz' /proc/[0-9]*/cmdline")[1]

            until(lambda: "not enrolled yet" in world.server().proof, 15, "it is not enrolled")
            # a first installation that does not work leaves nothing behind
            holding(6003)
            code, said = enroll()
            assert code == 1 and "everything was put back as it was.\n" in said, said
            assert trace() == "" and server.sh("id rccmd")[0] == 1
            server.sh("kill $(cat /rival)")
            # the next one does
            code, said = enroll()
            assert code == 0 and "proven by peer-ups\n" in said, (
                said + server.sh("cat /var/lib/rccmd/listener.log")[1]
            )
            until(lambda: world.server().state == "proven", 10, "the adapter has seen it")
            assert "self test ok" in world.server().proof
            assert server.sh("rc-update show default | grep -c rccmd")[1] == "2\n"
            uid = server.sh("id -u rccmd")[1].strip()
            shown = server.sh(f"cat /proc/{listener()}/status")[1]
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in shown and uid != "0"
            assert "listening on" in server.sh("cat /var/lib/rccmd/listener.log")[1]
            ask = "python3 /opt/rccmd/rccmd.pyz ask"
            code, said = server.sh(f"setpriv --reuid=65534 --regid=65534 --clear-groups {ask} shutdown")
            assert code == 1 and "Permission denied" in said, said
            # killed, it is back
            before = listener()
            server.sh(f"kill -9 {before}")
            until(lambda: listener() != before, 20, "it is started again")
            # an installation that does not work leaves the old one running
            holding(6004)
            code, said = enroll("--port", "6004")
            assert code == 1 and "everything was put back as it was.\n" in said, said
            assert server.sh("rc-service rccmd status && rc-service rccmd-root status")[0] == 0
            code, said = server.sh("python3 /opt/rccmd/rccmd.pyz status --config /etc/rccmd/rccmd.ini")
            assert code == 0 and "0.0.0.0:6003" in said, said
            # removed, and enrolled once more
            code, said = server.sh("python3 /opt/rccmd/rccmd.pyz uninstall")
            assert code == 0 and trace() == "" and server.sh("id rccmd")[0] == 1, said + trace()
            code, said = enroll()
            assert code == 0 and "proven by peer-ups\n" in said, said
            # the outage: its root side runs the command
            world.ups.set("mains", "off")
            world.ups.set("battery_low", "1")
            until(lambda: (root / "told").exists(), 30, "its command has run")
            assert (root / "told").read_text() == "0\n"
        finally:
            server.kill()
