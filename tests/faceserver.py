"""A page in its own process beside a bus, for peer tests: `python -m tests.faceserver SOCKET FOLDER LISTEN [on]`.

Prints one line when it listens: `{"port": ..., "password": ..., "fingerprint": ...}`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(path: str, folder: str, listen: str, tls_setting: str) -> None:
    from agent import bus, config, httpd, login, tls, web

    client = bus.Client(path)
    client.start()
    accounts = login.Accounts(Path(folder), time.monotonic)
    context, fingerprint = None, ""
    if tls_setting == "on":
        context, fingerprint = tls.context(Path(folder), [])
    app = web.make_app(config.Web(public_status=True), client, accounts, fingerprint=fingerprint)
    server = httpd.Server(listen, app, context)
    server.bind()
    told = {"port": server.address[1], "password": accounts.first_password(), "fingerprint": fingerprint}
    print(json.dumps(told), flush=True)
    server.run(threading.Event())


class FaceServer:
    """The process; `port`, `password`, `url`. A context manager."""

    def __init__(self, path: str, folder: Path, *, tls: bool = False, listen: str = "127.0.0.1:0") -> None:
        argv = [sys.executable, "-m", "tests.faceserver", path, str(folder), listen, "on" if tls else "auto"]
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout
        told = json.loads(self.process.stdout.readline() or b"{}")
        assert told, self.log.read_text()
        self.port, self.password, self.fingerprint = told["port"], told["password"], told["fingerprint"]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"

    def rss_kb(self) -> int:
        """Resident memory now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])

    def peak_kb(self) -> int:
        """Resident memory at its peak."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0])

    def __enter__(self) -> FaceServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)


if __name__ == "__main__":
    main(*sys.argv[1:])
