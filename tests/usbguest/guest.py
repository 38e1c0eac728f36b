"""A running guest, and what the UPS threads in it say."""

from __future__ import annotations

import itertools
import json
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import usb

from tests.simulators.usbredir import UsbRedir

from . import build

BOOT_WITHIN_S = 300.0
ANSWER_WITHIN_S = 180.0


class Guest:
    """QEMU with Debian's kernel, and the line to what runs in it."""

    def __init__(self, folder: Path, sims: list[UsbRedir]) -> None:
        image, modules = build.kernel(folder)
        packed = build.initramfs(folder, modules, Path(usb.__file__).parent.parent)
        self._answers: dict[int, queue.Queue[Any]] = {}
        self._watches: dict[int, Watch] = {}
        self._numbers = itertools.count()
        self._ready = threading.Event()
        self._lock = threading.Lock()
        server = socket.create_server(("127.0.0.1", 0))
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-smp", "2", "-display", "none", "-no-reboot"]
        argv += ["-kernel", str(image), "-initrd", str(packed), "-append", "console=ttyS0 quiet panic=-1"]
        argv += ["-serial", f"file:{folder}/console", "-serial", f"tcp:127.0.0.1:{server.getsockname()[1]}"]
        argv += ["-nic", "none", "-device", "qemu-xhci,p2=15,p3=1"]
        for n, sim in enumerate(sims):
            argv += ["-chardev", f"socket,id=u{n},host=127.0.0.1,port={sim.port}"]
            argv += ["-device", f"usb-redir,chardev=u{n},port={n + 1}"]
        self._qemu = subprocess.Popen(argv)
        server.settimeout(BOOT_WITHIN_S)
        self._peer, _ = server.accept()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        if not self._ready.wait(BOOT_WITHIN_S):
            raise SystemExit(f"the guest did not start; see {folder}/console")

    def ask(self, do: str, **args: Any) -> Any:
        number = next(self._numbers)
        answers = self._answers[number] = queue.Queue()
        with self._lock:
            self._peer.sendall(json.dumps({"do": do, "number": number, **args}).encode() + b"\n")
        return answers.get(timeout=ANSWER_WITHIN_S)

    def watch(self, section: dict[str, str]) -> Watch:
        """Start a UPS thread on the unit that `section` means."""
        watch = Watch(self, next(self._numbers))
        self._watches[watch.number] = watch
        self.ask("watch", watch=watch.number, section=section)
        return watch

    def close(self) -> None:
        self._qemu.kill()
        self._qemu.wait()

    def _listen(self) -> None:
        for line in self._peer.makefile("rb"):
            said = json.loads(line)
            if "watch" in said:
                self._watches[said["watch"]].take(said["said"])
            elif "number" in said:
                self._answers.pop(said["number"]).put(said["answer"])
            else:
                self._ready.set()


class Watch:
    """What one UPS thread says: `heard` with our time of receipt, `errors` and `warnings` what its log has."""

    def __init__(self, guest: Guest, number: int) -> None:
        self._guest, self.number = guest, number
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._heard: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()

    def take(self, said: dict[str, Any]) -> None:
        if "log" not in said:
            self._heard.put((time.monotonic(), said))
        else:
            (self.errors if said["log"] == "ERROR" else self.warnings).append(said["text"])

    def until(self, source: str, within_s: float = 40.0) -> float:
        """Our second at which it said `source`; infinite: it did not."""
        return self.until_so(lambda said: bool(said["source"] == source), within_s)

    def until_so(self, true: Callable[[dict[str, Any]], bool], within_s: float) -> float:
        """As `until`, for anything it may say."""
        end_s = time.monotonic() + within_s
        while True:
            try:
                at_s, said = self._heard.get(timeout=max(0.01, end_s - time.monotonic()))
            except queue.Empty:
                return float("inf")
            if true(said):
                return at_s

    def rest(self) -> None:
        self._guest.ask("rest", watch=self.number)
