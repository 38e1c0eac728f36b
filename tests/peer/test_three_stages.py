"""Three stages, three ways: classic RCCMD, real OpenSSH, this host; one server unplugged and back; and afterwards."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from agent import bus
from tests.peer.test_ways import Sshd
from tests.peer.world import World, free_port, until

pytestmark = pytest.mark.peer

STAGES = "".join(
    f'[[stage]]\nname = "{name}"\n{trigger}\n'
    for name, trigger in (("desks", "on_battery_s = 8"), ("servers", "on_battery_s = 16"), ("last", ""))
)


def server(name: str, how: str, port: int, stage: str, needs_s: float, more: str = "") -> str:
    port_line = f"port = {port}\n" if port else ""
    address = 'address = "127.0.0.1"\n' if port else ""
    head = f'[[server]]\nname = "{name}"\nhow = "{how}"\n{address}{port_line}'
    return f'{head}stage = "{stage}"\nneeds_s = {needs_s}\n{more}'


def deliveries(world: World) -> dict[str, str]:
    return {s.name: s.delivery for s in world.view().servers}


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def simulate(world: World, mains: str) -> None:
    bus.ask(
        str(world.folder / "run" / "core.sock"), {"type": "command", "command": "simulate", "args": {"mains": mains}}
    )


def test_all_are_told_in_their_order_the_ups_goes_off_and_all_come_back(tmp_path: Path) -> None:
    (tmp_path / "ssh").mkdir()
    sshd = Sshd(tmp_path / "ssh")
    commands = tmp_path / "commands.d"
    commands.mkdir(mode=0o755)
    shutil.copy(sshd.folder / "commands.d" / "poweroff.ssh", commands)
    host = commands / "poweroff"
    host.write_text(f"#!/bin/sh\ndate +%s.%N >> {tmp_path}/host-told\n")
    host.chmod(0o755)
    unplugged = free_port()
    key = f'user = "root"\nhost_key = "{sshd.host_key}"\ncommand = "poweroff"\n'
    try:
        with World(
            tmp_path,
            stages=STAGES,
            agent=f'commands_dir = "{commands}"\nwake_after_s = 5\n',
            ups='driver = "simulator"\nruntime_s = 3600\n',
            servers="",
        ) as world:
            classic = world.server_ports[0]
            state = tmp_path / "state" / "core"
            shutil.copy(sshd.folder / "core" / "ssh-key", state / "ssh-key")
            text = world.config.read_text() + "".join(
                (
                    server("desk", "rccmd", classic, "desks", 3),
                    server("unplugged", "rccmd", unplugged, "desks", 3),
                    server("nas", "ssh", sshd.port, "servers", 5, key),
                    server("host", "local", 0, "last", 2, 'command = "poweroff"\n'),
                )
            )
            world.config.write_text(text)
            bus.ask(str(tmp_path / "run" / "core.sock"), {"type": "reload"})
            until(lambda: len(world.view().servers) == 4, 5, "the plan is in force")
            bus.ask(str(tmp_path / "run" / "core.sock"), {"type": "protect", "do": "prove"})
            known = {"desk": "reachable", "unplugged": "unknown", "nas": "proven", "host": "proven"}
            until(lambda: {s.name: s.state for s in world.view().servers} == known, 10, "proofs")
            begin_s = time.time()
            simulate(world, "off")
            until(lambda: world.told(0), 20, "the first stage is told")
            assert world.told(0)[0] - begin_s >= 7.5 and not sshd.ran.exists()
            until(sshd.ran.exists, 15, "the second stage is told over ssh")
            until(lambda: deliveries(world)["nas"] == "accepted", 5, "ssh says that it was accepted")
            assert deliveries(world)["host"] == "none" and deliveries(world)["unplugged"] == "not-delivered"
            world.start_server(9, unplugged)
            until(lambda: world.told(9), 17, "the one that was unplugged is told")
            bus.ask(str(tmp_path / "run" / "core.sock"), {"type": "protect", "do": "shutdown", "stage": "last"})
            until(lambda: world.view().phase == "off-armed", 15, "everybody had his time")
            until((tmp_path / "host-told").exists, 5, "this host is told last")
            names = [e.name for e in world.events()]
            assert names.index("committed") < names.index("ups-off")
            off = next(e for e in world.events() if e.name == "ups-off")
            assert off.data["outcome"] == "ordered"
            assert len(world.told(0)) == 1 and len(world.told(9)) == 1 and sshd.ran.read_text().count("\n") == 1
            until(lambda: world.view().status.source.value == "none", 60, "the UPS is off")
            simulate(world, "on")
            until(lambda: world.view().phase in ("recovery", "idle"), 200, "the mains is back for good")
            until(lambda: world.view().phase == "idle", 60, "all answer again")
            names = [e.name for e in world.events()]
            assert "recovered" in names and names.count("back") >= 1
            until(
                lambda: "WAKEUP" in (tmp_path / "rccmd-0.log").read_text(), 5, "the classic one hears that it is over"
            )
    finally:
        sshd.close()
