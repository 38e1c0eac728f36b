"""The verb enroll: prints the one command that makes a server one of ours, or says who is enrolled."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
import sys
import time
from pathlib import Path

from . import addresses, bootstrap, codes, enroll, pyz, tls
from .config import Config
from .faces import speaks_tls
from .httpd import own_names
from .httphead import is_own_name
from .model import ConfigError, ServerView, View

ANYWHERE = ("0.0.0.0", "::")
LOOK_WITHIN_S = 5.0
LISTENER_PORT_LEAST = 1024
TRUST = {
    "secure": "enrolled",
    "classic": "not enrolled, told by classic RCCMD",
    "not-enrolled": "not enrolled, cannot be told",
}


def main(args: argparse.Namespace, settings: Config, view: View) -> int:
    """Do the verb; `view` is what is in force. ConfigError says what stands in the way."""
    if args.name is None:
        return _list(view, as_json=args.json)
    server = _server(args.name, settings, view)
    web = settings.web
    if web is None:
        raise ConfigError(f"servers enrol at the web page, and it is off. {_remedy(args.config)}")
    if not speaks_tls(web):
        raise ConfigError(f"the web page listens on {web.listen} without TLS, where no server can enrol. "
                          + _remedy(args.config))  # fmt: skip
    host, port = _adapter(args.address, settings, server)
    folder, sha256 = Path(settings.state_dir) / "faces", pyz.sha256(pyz.build())
    fingerprint = tls.fingerprint(folder)
    warnings = []
    if addresses.is_loopback(host) and not addresses.is_loopback(server.address):
        warnings.append(f"{host} is this machine itself: {server.name} cannot reach the page there (see --address)")
    if wrong := _look(web.listen, fingerprint, sha256):
        warnings.append(wrong)
    try:
        code = codes.Codes(folder / enroll.FOLDER).make(server.name)
    except OSError as e:
        raise ConfigError(f"{folder / enroll.FOLDER}: {e.strerror}") from e
    order = bootstrap.Order(
        adapter=_place(host, port), fingerprint=fingerprint, sha256=sha256, name=server.name, code=code
    )
    command = (bootstrap.for_powershell if args.windows else bootstrap.for_sh)(order)
    if args.json:
        told = {
            "name": server.name, "adapter": order.adapter, "fingerprint": fingerprint, "sha256": sha256, "code": code,
            "life_s": codes.LIFE_S, "shell": "powershell" if args.windows else "sh", "command": command,
            "warnings": warnings,
        }  # fmt: skip
        print(json.dumps(told))
        return 0
    mine = next((s for s in settings.servers if s.name == args.name), None)
    _explain(server, order, warnings, windows=args.windows)
    if mine is None or mine.options.get("secure") is not True:
        _tell(
            f"Once it is proven, let nobody take it for a classic one, whatever happens to its enrolment:\n\n"
            f'    [[server]]\n    name = "{server.name}"\n    address = "{server.address}"\n    secure = true\n'
        )
    print(command, flush=True)
    until = time.strftime("%H:%M", time.localtime(time.time() + codes.LIFE_S))
    _tell(
        f"\nIts code {code} is good once, for {server.name} alone, until {until}. See how it went: ridethrough status"
    )
    return 0


def _tell(text: str) -> None:
    """For people: the command alone goes to standard output, so that it can be piped to `ssh root@NAME sh`."""
    print(text, file=sys.stderr, flush=True)


def _explain(server: ServerView, order: bootstrap.Order, warnings: list[str], *, windows: bool) -> None:
    who = "in a PowerShell that runs as administrator" if windows else "as root, or as a user who may use sudo"
    _tell(
        f"Run this line on {server.name} ({server.address}) within {codes.LIFE_S / 60:.0f} minutes, {who}.\n"
        f"Python 3.9 or newer must be there. It fetches the RCCMD listener from this adapter at {order.adapter},\n"
        "checks it, trades the code for a key of its own, installs and starts it, and waits until this adapter\n"
        "has proven it. To see first what it would do, add --dry-run at its end."
    )
    if server.trust == "secure":
        _tell(f"{server.name} is enrolled already: this gives it a new key; the present one is good until then.")
    for text in warnings:
        _tell(f"warning: {text}")
    _tell("")


def _list(view: View, *, as_json: bool) -> int:
    """Who is enrolled."""
    servers = [s for s in view.servers if s.how == "rccmd"]
    if as_json:
        rows = [{"name": s.name, "address": s.address, "port": s.port, "trust": s.trust, "state": s.state}
                for s in servers]  # fmt: skip
        print(json.dumps(rows))
        return 0
    for s in servers:
        proven = f", {s.state}" if s.trust == "secure" else ""
        print(f"{s.name}  {_place(s.address, s.port)}  {TRUST.get(s.trust, s.trust)}{proven}")
    if not servers:
        print('no server has how = "rccmd"; only those can be enrolled')
    return 0


def _server(name: str, settings: Config, view: View) -> ServerView:
    """The server of this name that is in force. ConfigError with the lines to add."""
    server = next((s for s in view.servers if s.name == name), None)
    mine = next((s for s in settings.servers if s.name == name), None)
    if server is None and mine is not None and mine.how == "rccmd":
        raise ConfigError(f"{name} is in the configuration, but not yet in force: reload the core (kill -HUP), and "
                          "see `ridethrough check`")  # fmt: skip
    if server is None:
        known = ", ".join(s.name for s in view.servers if s.how == "rccmd")
        lines = f'    [[server]]\n    name = "{name}"\n    address = "192.0.2.10"    # its own\n    secure = true'
        raise ConfigError(f"there is no server {name}{f' (there are: {known})' if known else ''}. Add it to the "
                          f"configuration and reload the core:\n\n{lines}\n")  # fmt: skip
    if server.how != "rccmd":
        raise ConfigError(f'{name} has how = "{server.how}"; only servers with how = "rccmd" are enrolled')
    if server.port < LISTENER_PORT_LEAST:
        raise ConfigError(
            f"[[server]] {name}: port = {server.port}: the listener has no privileges for ports below "
            f"{LISTENER_PORT_LEAST}; remove port (6003 is the default) and reload the core"
        )
    if mine is not None and (mine.options.get("secure") is False or mine.options.get("udp")):
        raise ConfigError(
            f"[[server]] {name}: secure = false or udp = true: it is told by classic RCCMD; remove that"
        )
    return server


def _remedy(path: Path) -> str:
    return f'In {path}:\n\n    [web]\n    listen = "0.0.0.0:443"\n\nand start the faces again'


def _adapter(given: str | None, settings: Config, server: ServerView) -> tuple[str, int]:
    """Where the server reaches our page: as `given`, else as the page listens, else our address on the way to it."""
    listen, port = addresses.split_address(settings.web.listen if settings.web else "")
    if given is None:
        host = _toward(server.address, listen) if listen in ANYWHERE else listen
    elif given.count(":") == 1 or "]:" in given:
        host, port = addresses.split_address(given)
    else:
        host = given[1:-1] if given.startswith("[") and given.endswith("]") else given
    if "%" in host or (wrong := addresses.wrong_host(host)):
        raise ConfigError(f"{host}: {'a link-local address' if '%' in host else wrong}; say where {server.name} "
                          "reaches this adapter: --address HOST[:PORT]")  # fmt: skip
    names = own_names([settings.name])
    if not is_own_name(host, names):
        raise ConfigError(f"the page does not answer under the name {host}, only under an address or one of "
                          f"{', '.join(sorted(names))}: give the address")  # fmt: skip
    return host, port


def _toward(address: str, listen: str) -> str:
    """Our address on the way to `address`. Nothing is sent. ConfigError if there is none."""
    family = socket.AF_INET if listen == "0.0.0.0" else socket.AF_UNSPEC
    try:
        for kind, _, _, _, place in socket.getaddrinfo(address, 9, family, socket.SOCK_DGRAM):
            with socket.socket(kind, socket.SOCK_DGRAM) as sock:
                sock.connect(place)
                return str(sock.getsockname()[0])
    except OSError as e:
        raise ConfigError(f"no way to {address}: {e.strerror}; say where it reaches this adapter: "
                          "--address HOST[:PORT]") from e  # fmt: skip
    raise ConfigError(f"{address}: no address; say where it reaches this adapter: --address HOST[:PORT]")


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _look(listen: str, fingerprint: str, sha256: str) -> str:
    """What is wrong with the page as it runs now, as the command would find it; or ''."""
    host, port = addresses.split_address(listen)
    host = addresses.nearby(host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the fingerprint decides
    page = http.client.HTTPSConnection(host, port, timeout=LOOK_WITHIN_S, context=context)
    try:
        page.connect()
        seen = page.sock.getpeercert(True) if isinstance(page.sock, ssl.SSLSocket) else None
        if pyz.sha256(seen or b"") != fingerprint:
            return "the page shows another certificate than tls.pem holds: start the faces again, then ask anew"
        page.request("GET", f"/enrol/{pyz.FILE}")
        answer = page.getresponse()
        data = answer.read(pyz.LIMIT_BYTES)
    except (OSError, http.client.HTTPException) as e:
        return f"the page does not answer at {listen} ({e}): is `ridethrough faces` running?"
    finally:
        page.close()
    if answer.status != 200 or pyz.sha256(data) != sha256:
        return f"the page hands out another {pyz.FILE} than this version's: start the faces again, then ask anew"
    return ""
