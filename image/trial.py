"""Updates of the image in QEMU: good, bad, torn and tampered. The right slot runs after each; then root's helper.

The boards' firmware is not there, so a small loader applies its rule: tryboot.txt for the one start that asked
for it, else select.txt; kernel, initrd and command line from the slot that it names, on the card.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from . import signed
from .machine import START_S, Failed, Machine, SerialUps, free_port, off_card, on_card, prepare, settings
from .step import BuildError, run

ROOT = Path(__file__).parent.parent
KEYS = "/usr/share/ridethrough/update-keys"
SLOT = re.compile(r"os_prefix=([ab])/")
TRIAL_S = 900.0  # 5 minutes of the trial, and two starts
BAD = " systemd.mask=ridethrough-core.service"


class Lab:
    """A card, its updates, and the machine that runs it."""

    def __init__(self, image: Path, cache: Path, folder: Path) -> None:
        self._folder, self._cache = folder, cache
        self._ups, self._starts = SerialUps(), 0
        self._key = folder / "id"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", self._key])
        public = self._key.with_suffix(".pub").read_text().strip()
        self.card = prepare(image, folder, settings(free_port(), ssh_key=public))
        self._update_key = folder / "update.key"
        self._public = self._bundle("key", str(self._update_key)).strip()
        self._served = folder / "served"
        self._served.mkdir()
        handler = functools.partial(_Quiet, directory=str(self._served))
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.machine: Machine | None = None

    @staticmethod
    def _bundle(*words: str) -> str:
        return run([sys.executable, "-m", "agent.bundle", *words], cwd=ROOT).decode()

    def make(self, name: str, more: str = "") -> Path:
        """An update of the version that runs; `more`: words for its kernel."""
        from agent.model import VERSION

        made = self._served / f"{name}.update"
        words = on_card(self.card, "a/cmdline.txt").strip() + more + "\n"
        kernel, root = self._cache / "kernel/slot", self._cache / "root/root.squashfs"
        signed.make(kernel, root, VERSION, int(time.time()), self._update_key, made, words)
        return made

    def start(self, trial: bool = False) -> str:
        """The loader: start what the card says; the slot."""
        text = on_card(self.card, "tryboot.txt") if trial else on_card(self.card, "select.txt")
        found = SLOT.search(text)
        if not found:
            raise Failed(f"the card names no slot: {text!r}")
        slot, self._starts = found[1], self._starts + 1
        place = self._folder / f"start-{self._starts}"
        place.mkdir()
        for name in ("vmlinuz", "initrd.img"):
            off_card(self.card, f"{slot}/{name}", place / name)
        words = on_card(self.card, f"{slot}/cmdline.txt").strip()
        self.machine = Machine(str(self.card), place, place / "console.log", self._ups, words=words)
        print(f"        start {self._starts}: slot {slot}{' on trial' if trial else ''}", flush=True)
        return slot

    def up(self) -> Machine:
        """The machine, once page and UPS are there."""
        assert self.machine is not None
        machine = self.machine
        machine.until("page and UPS are there", lambda: machine.source() == "mains", START_S)
        return machine

    def ssh(self, words: str, within_s: float = 600.0) -> subprocess.Popen[str]:
        """A program in the machine, as root."""
        assert self.machine is not None
        return subprocess.Popen(
            ["ssh", "-q", "-i", self._key, "-p", str(self.machine.ssh), "-o", "StrictHostKeyChecking=no",
             "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={int(within_s)}",
             "root@127.0.0.1", words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def update(self, made: Path) -> subprocess.Popen[str]:
        """`ridethrough update`, with our key among those that are trusted (the image itself is never written)."""
        url = f"http://10.0.2.2:{self._http.server_address[1]}/{made.name}"
        keys = f"mkdir -p /data/keys && echo '{self._public}' > /data/keys/test.pub && mount --bind /data/keys {KEYS}"
        return self.ssh(f"{keys} && /opt/ridethrough/bin/python -I -u -m agent update --again {url}")

    def ends(self, within_s: float) -> None:
        """Wait until the machine starts anew by itself."""
        assert self.machine is not None
        try:
            self.machine.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"it did not start anew within {within_s:.0f} s") from None

    def selected(self) -> str:
        """The slot that select.txt on the card names."""
        found = SLOT.search(on_card(self.card, "select.txt"))
        return found[1] if found else ""

    def close(self) -> None:
        if self.machine is not None and self.machine.process.poll() is None:
            self.machine.kill()
        self._http.shutdown()
        self._http.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, _format: str, *_: object) -> None:
        pass

    def copyfile(self, *args: Any) -> None:
        """The machine may lose its power in the middle: that is what `torn` is for."""
        with contextlib.suppress(ConnectionError):
            super().copyfile(*args)


def tampered(lab: Lab) -> None:
    """One bit of the root is another: refused, and nothing is started."""
    made = lab.make("tampered")
    with made.open("r+b") as file:
        file.seek(-1000, 2)
        byte = file.read(1)
        file.seek(-1000, 2)
        file.write(bytes([byte[0] ^ 1]))
    lab.up()
    said, _ = (run_ := lab.update(made)).communicate(timeout=900)
    if run_.returncode == 0 or lab.selected() != "a":
        raise Failed(f"a tampered update was taken: {said}")
    print(f"        tampered: {said.strip().splitlines()[-1]}")


def torn(lab: Lab, made: Path) -> None:
    """The power goes in the middle of the writing."""
    process = lab.update(made)
    assert process.stdout is not None and lab.machine is not None
    for line in process.stdout:
        if re.search(r"by-partuuid/\S+: 50 %", line):
            break
    else:
        raise Failed("the update was never half written")
    lab.machine.kill()
    process.kill()
    process.wait()
    if lab.start() != "a":
        raise Failed("a torn update is started")
    lab.up()
    print("        torn: the old slot runs")


def bad(lab: Lab) -> None:
    """It starts, but its core does not: given up after the trial, and the firmware starts the old one."""
    process = lab.update(lab.make("bad", BAD))
    lab.ends(900)
    process.wait(30)
    if lab.start(trial=True) != "b":
        raise Failed("the new slot is not the one on trial")
    lab.ends(START_S + TRIAL_S)
    if lab.selected() != "a" or lab.start() != "a":
        raise Failed("a bad update is kept")
    lab.up()
    print("        bad: given up, the old slot runs")


def good(lab: Lab, made: Path) -> None:
    """It proves itself and is the one from now on."""
    process = lab.update(made)
    lab.ends(900)
    process.wait(30)
    if lab.start(trial=True) != "b":
        raise Failed("the new slot is not the one on trial")
    machine = lab.up()
    machine.until("the new slot is selected", lambda: lab.selected() == "b", 400)
    time.sleep(5)
    machine.kill()
    if lab.start() != "b":
        raise Failed("the good update is not the one that is started")
    lab.up()
    print("        good: kept, the new slot runs")


def set_up(lab: Lab) -> None:
    """Root's helper in its own sandbox: another time zone and another name, without another start."""
    assert lab.machine is not None
    for words, look, wanted in (
        ("time --timezone Europe/Berlin", "readlink /run/localtime", "Europe/Berlin"),
        ("network --hostname ups-two", "cat /proc/sys/kernel/hostname", "ups-two"),
    ):
        asked = lab.ssh(f"/opt/ridethrough/bin/python -I -m agent host {words}")
        said, _ = asked.communicate(timeout=300)
        if asked.returncode:
            raise Failed(f"host {words}: {said}")
        see = functools.partial(_says, lab, look, wanted)
        lab.machine.until(f"the host has it at once: {words}", see, 300)


def _says(lab: Lab, words: str, wanted: str) -> bool:
    return wanted in lab.ssh(words).communicate(timeout=300)[0]


def main(image: Path, cache: Path, folder: Path) -> None:
    """All of it. Failed, BuildError, OSError."""
    lab = Lab(image, cache, folder)
    try:
        lab.start()
        made = lab.make("good")
        tampered(lab)
        torn(lab, made)
        bad(lab)
        good(lab, made)
        set_up(lab)
    except (Failed, BuildError, subprocess.TimeoutExpired):
        if lab.machine is not None:
            print(lab.machine.console()[-3000:], file=sys.stderr)
        raise
    finally:
        lab.close()
