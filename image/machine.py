"""The image in a virtual machine, seen from outside: its console, its page, its SNMP agent, and the UPS beside it.

QEMU's -M virt without KVM: the image's own kernel and initrd, its card on virtio. A serial UPS hangs on an emulated
USB adapter (usb-serial), whatever else by usb-redir. -M raspi3b (`Pi3`) has the card on the board's own SD host and
the network on its USB. The firmware of the boards is not part of either.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import layout
from .step import BuildError, run

START_S = 900.0  # emulated, on a busy machine; on a board it is a fraction of that
STOP_S = 60.0
MEMORY_MIB = 512  # as the smallest board has
CODE = "a code for the test"
READER, WRITER = "image-test", "image-test-writes"
HOST = "10.0.2.2"  # we, as the machine sees us

SETTINGS = """\
[system]
hostname = "image-test"
setup_code = "{code}"
ssh_keys = [{keys}]

[system.secrets]
reader = "{reader}"
writer = "{writer}"

[agent]
name = "image-test"
mode = "armed"

[ups]
{ups}

[[stage]]
name = "all"
on_battery_s = 15

[[server]]
name = "beside"
address = "{host}"
port = {port}
stage = "all"
needs_s = 10

[web]
listen = "[::]:443"
public_status = true

[snmp]
listen = "[::]:161"

[[snmp.community]]
label = "reader"
from = ["10.0.2.0/24"]

[[snmp.community]]
label = "writer"
access = "read-write"
from = ["10.0.2.0/24"]
"""
SECOND = "rack-2"  # the second UPS
SECOND_CODE, SECOND_PORT = "another code for it", 8443
SECOND_SETTINGS = """\
[system]
setup_code = "{code}"

[agent]
name = "{name}"
state_dir = "/var/lib/ridethrough/{name}"
run_dir = "/run/ridethrough-{name}"
mode = "armed"
ups_off = false

[ups]
{ups}

[[stage]]
name = "all"
on_battery_s = 15

[[server]]
name = "its-own"
address = "{host}"
port = {port}
stage = "all"
needs_s = 10

[web]
listen = "[::]:{page}"
public_status = true
"""
SERIAL = 'driver = "megatec"\nport = "/dev/ttyUSB0"'


class Failed(Exception):
    """What was promised did not come; the text says what."""


def settings(port: int, ups: str = SERIAL, ssh_key: str = "") -> str:
    """A `ridethrough.toml` whose one server listens at our `port`."""
    return SETTINGS.format(
        code=CODE, reader=READER, writer=WRITER, host=HOST, port=port, ups=ups, keys=f'"{ssh_key}"' if ssh_key else ""
    )


def second_settings(port: int, ups: str) -> str:
    """A `ridethrough-NAME.toml` of the second UPS, whose one server listens at our `port`."""
    return SECOND_SETTINGS.format(code=SECOND_CODE, name=SECOND, host=HOST, port=port, ups=ups, page=SECOND_PORT)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port of loopback that nobody uses."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class SerialUps:
    """A Megatec UPS behind a TCP socket, which QEMU hangs on a USB adapter."""

    def __init__(self) -> None:
        self.mains = True
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        held = b""
        try:
            while data := sock.recv(256):
                held += data
                while b"\r" in held:
                    word, _, held = held.partition(b"\r")
                    if answer := self._answer(word):
                        sock.sendall(answer)
        except ConnectionError:
            pass  # the machine was killed

    def _answer(self, word: bytes) -> bytes:
        """Q1: input V, fault V, output V, load %, Hz, battery V, temperature, flags (the first: mains failed)."""
        if word == b"Q1":
            self.asked += 1
            line = b"(230.1 230.1 230.0 021 50.0 27.4 25.0 00000001\r"
            return line if self.mains else b"(000.0 000.0 230.0 021 50.0 25.2 25.0 10000001\r"
        return {b"F": b"#230.0 004 24.00 50.0\r", b"I": b"#SIMULATED       Image Test VERFW01.00\r"}.get(word, b"")


class Machine:
    """The image, running. `disk`: as QEMU's -drive names it. `devices`: more of QEMU's options. `words`: the
    kernel's, else those of slot a."""

    def __init__(
        self, disk: str, slot: Path, log: Path, ups: SerialUps, devices: Sequence[str] = (), words: str = ""
    ) -> None:
        self.web, self.ssh, self.snmp = free_port(), free_port(), free_port(socket.SOCK_DGRAM)
        self.second = free_port()  # the page of a second UPS
        self.log = log
        emulator = shutil.which("qemu-system-aarch64")
        if emulator is None:
            raise BuildError("qemu-system-aarch64 is missing; mend with: apt-get install qemu-system-arm")
        words = (words or layout.cmdline("a")).replace(layout.SERIAL, "console=ttyAMA0").strip()
        net = (
            f"user,id=net,hostfwd=tcp:127.0.0.1:{self.web}-:443,hostfwd=udp:127.0.0.1:{self.snmp}-:161,"
            f"hostfwd=tcp:127.0.0.1:{self.ssh}-:22,hostfwd=tcp:127.0.0.1:{self.second}-:{SECOND_PORT}"
        )
        self._began_s = time.monotonic()
        self.process = subprocess.Popen([
            emulator, "-no-reboot", "-display", "none", "-monitor", "none", "-serial", f"file:{self.log}",
            "-kernel", slot / "vmlinuz", "-initrd", slot / "initrd.img", "-netdev", net,
            "-chardev", f"socket,id=ups,host=127.0.0.1,port={ups.port}", *self._board(disk, slot, words), *devices,
        ], stdin=subprocess.DEVNULL)  # fmt: skip

    def _board(self, disk: str, slot: Path, words: str) -> list[str | Path]:
        return [
            "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", str(MEMORY_MIB), "-append", words,
            "-drive", f"file={disk},format=raw,if=none,id=card", "-device", "virtio-blk-device,drive=card",
            "-device", "virtio-net-device,netdev=net", "-device", "qemu-xhci", "-device", "usb-serial,chardev=ups",
        ]  # fmt: skip

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began_s

    def console(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def get(self, path: str, port: int = 0) -> bytes:
        """A page of the first UPS, or of the one at `port`. OSError if it does not answer."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its certificate is its own
        connection = http.client.HTTPSConnection("127.0.0.1", port or self.web, timeout=10, context=context)
        try:
            connection.request("GET", path, headers={"Host": "image-test.local"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise OSError(f"{path}: {answer.status}")
            return answer.read()
        except (http.client.HTTPException, ssl.SSLError) as e:
            raise OSError(str(e)) from e
        finally:
            connection.close()

    def view(self, port: int = 0) -> dict[str, object]:
        """What the core says (docs/api.md). OSError, ValueError if nothing."""
        found: dict[str, object] = json.loads(self.get("/api/status", port))["view"]
        return found

    def source(self, port: int = 0) -> object:
        """Where the UPS's power comes from; None if it is not read."""
        status = self.view(port).get("status")
        return status.get("source") if isinstance(status, dict) else None

    def snmp_get(self, oid: str) -> str:
        """A value. BuildError if there is no answer."""
        words = ["snmpget", "-v2c", "-c", READER, "-Oqv", "-t", "3", "-r", "0", f"127.0.0.1:{self.snmp}"]
        return run([*words, oid]).decode().strip().strip('"')

    def snmp_set(self, oid: str, text: str) -> None:
        """Set a text. BuildError if it was not acknowledged."""
        words = ["snmpset", "-v2c", "-c", WRITER, "-t", "5", "-r", "0", f"127.0.0.1:{self.snmp}"]
        run([*words, oid, "s", text])

    def until(self, what: str, true: Callable[[], bool], within_s: float) -> None:
        """Wait for it, and say when it came. Failed if it does not."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            if self.process.poll() is not None:
                raise Failed(f"{what}: the machine ended ({self.process.returncode})")
            try:
                if true():
                    print(f"{self.age_s:6.1f} s  {what}", flush=True)
                    return
            except (OSError, ValueError, BuildError):
                pass  # not yet
            time.sleep(0.5)
        raise Failed(f"{what}: not within {within_s:.0f} s")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(STOP_S)


class Pi3(Machine):
    """The same as a Raspberry Pi 3 B. QEMU's hardware watchdog bites as soon as it is armed: left alone."""

    def _board(self, disk: str, slot: Path, words: str) -> list[str | Path]:
        return [
            "-M", "raspi3b", "-m", "1G", "-dtb", slot / "bcm2837-rpi-3-b.dtb",
            "-append", f"{words} systemd.watchdog_sec=0", "-drive", f"file={disk},format=raw,if=sd",
            "-device", "usb-hub,bus=usb-bus.0,port=1", "-device", "usb-net,netdev=net,bus=usb-bus.0,port=1.1",
            "-device", "usb-serial,chardev=ups,bus=usb-bus.0,port=1.2",
        ]  # fmt: skip


@contextmanager
def one_at_a_time(kind: type[Machine] = Machine) -> Iterator[Callable[..., Machine]]:
    """What makes a machine, one after the other: the last is ended; when something fails its console is shown."""
    made: list[Machine] = []

    def start(*args: Any, **more: Any) -> Machine:
        made.append(kind(*args, **more))
        return made[-1]

    try:
        yield start
    except (Failed, BuildError, OSError, subprocess.TimeoutExpired):
        if made:
            print(made[-1].console()[-4000:], file=sys.stderr)
        raise
    finally:
        if made and made[-1].process.poll() is None:
            made[-1].kill()


def prepare(image: Path, folder: Path, text: str, size_mib: int = 2048) -> Path:
    """A card of its own, larger than the image, with the settings `text` on it. BuildError."""
    card = folder / "card.img"
    run(["cp", "--sparse=always", image, card])
    os.truncate(card, size_mib * layout.MIB)
    put(card, text)
    return card


def fat(card: Path) -> str:
    """The card's boot partition, as mtools name it."""
    return f"{card}@@{layout.Sizes().start * layout.MIB}"


def put(card: Path, text: str, name: str = "ridethrough.toml") -> None:
    """Settings onto the boot partition, over those that are there. BuildError."""
    file = card.with_name(name)
    file.write_text(text)
    run(["mcopy", "-o", "-i", fat(card), file, f"::/{name}"])


def on_card(card: Path, name: str) -> str:
    """A file of the card's boot partition. BuildError if it is not there."""
    return run(["mtype", "-i", fat(card), f"::/{name}"]).decode("utf-8", "replace")


def off_card(card: Path, name: str, target: Path) -> None:
    """Copy a file of the boot partition. BuildError."""
    run(["mcopy", "-n", "-o", "-i", fat(card), f"::/{name}", target])


def built(cache: Path) -> tuple[Path, Path]:
    """The newest image that `./run image` made, and the folder of its kernel. BuildError if there is none."""
    images = sorted(cache.glob("card/*.img"))
    if not images:
        raise BuildError("there is no image yet: ./run image")
    return images[-1], cache / "kernel/slot"
