"""`./run image-test`: the image starts in a virtual machine, and what it promises is looked at from outside.

QEMU's -M virt without KVM: the image's own kernel and initrd, its card on virtio. A serial UPS hangs on an emulated
USB adapter (usb-serial). The firmware of the boards is not part of it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import layout
from .step import BuildError, run

ROOT = Path(__file__).parent.parent
START_S = 900.0  # emulated, on a busy machine; on a board it is a fraction of that
STOP_S = 60.0
MEMORY_MIB = 512  # as the smallest board has
CODE = "a code for the test"
COMMUNITY = "image-test"

SETTINGS = f"""\
[system]
hostname = "image-test"
setup_code = "{CODE}"

[system.secrets]
reader = "{COMMUNITY}"

[agent]
name = "image-test"
mode = "dry-run"

[ups]
driver = "megatec"
port = "/dev/ttyUSB0"

[web]
listen = "[::]:443"
public_status = true

[snmp]
listen = "[::]:161"

[[snmp.community]]
label = "reader"
from = ["10.0.2.0/24"]
"""


class Failed(Exception):
    """What was promised did not come; the text says what."""


def free_port(kind: int) -> int:
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
        while data := sock.recv(256):
            held += data
            while b"\r" in held:
                word, _, held = held.partition(b"\r")
                if answer := self._answer(word):
                    sock.sendall(answer)

    def _answer(self, word: bytes) -> bytes:
        """Q1: input V, fault V, output V, load %, Hz, battery V, temperature, flags (the first: mains failed)."""
        if word == b"Q1":
            self.asked += 1
            line = b"(230.1 230.1 230.0 021 50.0 27.4 25.0 00000001\r"
            return line if self.mains else b"(000.0 000.0 230.0 021 50.0 25.2 25.0 10000001\r"
        return {b"F": b"#230.0 004 24.00 50.0\r", b"I": b"#SIMULATED       Image Test VERFW01.00\r"}.get(word, b"")


class Machine:
    """The image, running."""

    def __init__(self, card: Path, slot: Path, folder: Path, ups: SerialUps) -> None:
        self.web, self.snmp = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
        self.log = folder / "console.log"
        emulator = shutil.which("qemu-system-aarch64")
        if emulator is None:
            raise BuildError("qemu-system-aarch64 is missing; mend with: apt-get install qemu-system-arm")
        words = layout.cmdline("a").replace("console=ttyS1,115200", "console=ttyAMA0").strip()
        self._began_s = time.monotonic()
        self.process = subprocess.Popen([
            emulator, "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", str(MEMORY_MIB), "-no-reboot",
            "-display", "none", "-monitor", "none", "-serial", f"file:{self.log}",
            "-kernel", slot / "vmlinuz", "-initrd", slot / "initrd.img", "-append", words,
            "-drive", f"file={card},format=raw,if=none,id=card", "-device", "virtio-blk-device,drive=card",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.web}-:443,hostfwd=udp:127.0.0.1:{self.snmp}-:161",
            "-device", "virtio-net-device,netdev=net", "-device", "qemu-xhci",
            "-chardev", f"socket,id=ups,host=127.0.0.1,port={ups.port}", "-device", "usb-serial,chardev=ups",
        ], stdin=subprocess.DEVNULL)  # fmt: skip

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began_s

    def console(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def get(self, path: str) -> bytes:
        """A page. OSError if it does not answer."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its certificate is its own
        connection = http.client.HTTPSConnection("127.0.0.1", self.web, timeout=10, context=context)
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

    def view(self) -> dict[str, object]:
        """What the core says (docs/api.md). OSError, ValueError if nothing."""
        found: dict[str, object] = json.loads(self.get("/api/status"))["view"]
        return found

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
        """A loss of power."""
        self.process.kill()
        self.process.wait(STOP_S)


def prepare(image: Path, folder: Path, size_mib: int = 2048) -> Path:
    """A card of its own, larger than the image, with our settings on it. BuildError."""
    card = folder / "card.img"
    run(["cp", "--sparse=always", image, card])
    os.truncate(card, size_mib * layout.MIB)
    settings = folder / "ridethrough.toml"
    settings.write_text(SETTINGS)
    run(["mcopy", "-i", f"{card}@@{layout.Sizes().start * layout.MIB}", settings, "::/ridethrough.toml"])
    return card


def on_card(card: Path, name: str) -> str:
    """A file of the card's boot partition. BuildError if it is not there."""
    return run(["mtype", "-i", f"{card}@@{layout.Sizes().start * layout.MIB}", f"::/{name}"]).decode(
        "utf-8", "replace"
    )


def first_start(machine: Machine, ups: SerialUps) -> None:
    """It comes up, takes its settings over, finds the UPS, and says so to everybody."""
    machine.until("the kernel speaks", lambda: "systemd" in machine.console(), START_S)
    machine.until("the set-up code is on the serial line", lambda: CODE in machine.console(), START_S)
    machine.until("the page answers", lambda: bool(machine.get("/login")), START_S)
    machine.until("the UPS is read through the kernel's USB serial driver", lambda: ups.asked > 3, START_S)

    def source(word: str) -> bool:
        status = machine.view().get("status")
        return isinstance(status, dict) and status.get("source") == word

    machine.until("the page shows the UPS on mains", lambda: source("mains"), START_S)
    machine.until("SNMP answers (upsOutputSource: normal)", lambda: _snmp(machine) == "3", START_S)
    ups.mains = False
    machine.until("the page shows the UPS on battery", lambda: source("battery"), 60)
    machine.until("SNMP: on battery", lambda: _snmp(machine) == "5", 60)
    ups.mains = True
    machine.until("the page shows the UPS on mains again", lambda: source("mains"), 60)


def _snmp(machine: Machine) -> str:
    """upsOutputSource of RFC 1628."""
    words = ["snmpget", "-v2c", "-c", COMMUNITY, "-Oqv", "-t", "3", "-r", "0", f"127.0.0.1:{machine.snmp}"]
    return run([*words, "1.3.6.1.2.1.33.1.4.1.0"]).decode().strip()


def second_start(machine: Machine) -> None:
    """After a loss of power everything is there again."""
    machine.until("after a loss of power the page answers again", lambda: bool(machine.get("/login")), START_S)
    found = machine.view()
    if found.get("name") != "image-test":
        raise Failed(f"after a loss of power it is called {found.get('name')!r}")


def main() -> int:
    """0; 1 if a promise was not kept, with the end of the console."""
    parser = argparse.ArgumentParser(prog="./run image-test", description="Start the image and look at it.")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/image", metavar="DIR", help="of ./run image")
    args = parser.parse_args()
    images = sorted(args.cache.glob("card/*.img"))
    if not images:
        print("./run image-test: there is no image yet: ./run image", file=sys.stderr)
        return 1
    slot = args.cache / "kernel/slot"
    with tempfile.TemporaryDirectory(prefix="ridethrough-image-") as name:
        folder = Path(name)
        machine = None
        try:
            card, ups = prepare(images[-1], folder), SerialUps()
            machine = Machine(card, slot, folder, ups)
            first_start(machine, ups)
            machine.kill()
            report = on_card(card, "ridethrough-report.txt")
            if "taken over" not in report or CODE not in report:
                raise Failed(f"the report on the card says: {report}")
            left = on_card(card, "ridethrough.toml")
            if CODE in left or COMMUNITY in left or "image-test" not in left:
                raise Failed("the secrets are still on the card, or the rest is gone")
            print("        the report is on the card, the secrets are not")
            machine = Machine(card, slot, folder, ups)
            second_start(machine)
        except (Failed, BuildError, OSError) as e:
            print(f"./run image-test: {e}", file=sys.stderr)
            if machine is not None:
                print(machine.console()[-4000:], file=sys.stderr)
            return 1
        finally:
            if machine is not None and machine.process.poll() is None:
                machine.kill()
    print("the image does what it promises")
    return 0


if __name__ == "__main__":
    sys.exit(main())
