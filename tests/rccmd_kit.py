"""An adapter's enrolment on loopback, and a server beneath a folder: for the tests of `rccmd install`."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agent.rccmd import archive  # noqa: E402

CODE = "7K3QX-9M2ZT-BC4VD-HJ6WP"


def made(folder: Path, name: str) -> tuple[str, str]:
    """A P-256 key and a self-signed certificate: (key PEM, certificate PEM)."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}", "-days", "36500"]
    subprocess.run(argv, check=True, capture_output=True)
    return key.read_text(), certificate.read_text()


def fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


class Adapter:
    """An adapter's /enrol over HTTPS: takes CODE once, and can answer anything instead."""

    def __init__(self, folder: Path, name: str = "ups-a") -> None:
        self.name, self.folder = name, folder
        key, self.web_pem = made(folder, f"{name}-web")
        _, self.sender_pem = made(folder, f"{name}-sender")
        self.heard: list[dict[str, str]] = []
        self.connections = 0
        self.codes = {CODE}
        self.instead: tuple[int, object] | None = None
        self.changes: dict[str, object] = {}
        adapter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = adapter.answer(self.path, told)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that saw a wrong fingerprint hangs up

            def process_request(self, request: object, client_address: object) -> None:
                adapter.connections += 1
                super().process_request(request, client_address)  # type: ignore[arg-type]

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / f"{name}-web.pem", folder / f"{name}-web.key")
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def answer(self, path: str, told: dict[str, str]) -> tuple[int, object]:
        self.heard.append(told)
        if path != "/enrol" or told["code"] not in self.codes:
            return 403, {"error": "not accepted"}
        self.codes.discard(told["code"])
        if self.instead is not None:
            return self.instead
        answer: dict[str, object] = {"name": told["name"], "adapter": self.name, "port": 6003}
        if "cert_pem" in told:
            answer["cert_pem"] = told["cert_pem"]
        else:
            answer["key_pem"], answer["cert_pem"] = made(self.folder, told["name"])
        answer["sender_pem"] = self.sender_pem
        return 200, {**answer, **self.changes}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Case(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.root = self.folder / "server"
        self.root.mkdir()
        self.adapter = self.new_adapter("ups-a")
        self.program = self.folder / "rccmd.pyz"
        self.program.write_bytes(archive.pack(str(ROOT / "agent" / "rccmd")))
        self.addCleanup(self.run_it, "uninstall", "--service", "none", "--root", str(self.root))

    def new_adapter(self, name: str) -> Adapter:
        adapter = Adapter(self.folder, name)
        self.addCleanup(adapter.close)
        return adapter

    def run_it(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(self.program), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=100,
            cwd="/",
        )
        return done.returncode, done.stdout.decode()

    def words(self, adapter: Adapter | None = None, code: str = CODE) -> list[str]:
        at = adapter or self.adapter
        words = ["install", "--adapter", f"127.0.0.1:{at.port}", "--fingerprint", fingerprint(at.web_pem)]
        return [*words, "--name", "db1", "--code", code, "--root", str(self.root)]

    def install(self, *more: str, adapter: Adapter | None = None, code: str = CODE) -> tuple[int, str]:
        """Install without starting; an option in `more` wins over the usual one."""
        words = ["--on-shutdown", "/bin/true", "--service", "none", "--no-start", *more]
        return self.run_it(*self.words(adapter, code), *words)

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.root)): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}
