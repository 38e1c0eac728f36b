"""What an installation puts onto a machine: each file of the system side and its place; for install and image."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
PROGRAM = "/opt/ridethrough"
FOLDERS = ("/etc/ridethrough", "/etc/ridethrough/commands.d")
CONFIG = "/etc/ridethrough/ridethrough.toml"
UNITS = "/etc/systemd/system"
ENABLED = {
    "ridethrough-helper.socket": "sockets.target",
    "ridethrough-core.service": "multi-user.target",
    "ridethrough-faces.service": "multi-user.target",
}
UDEV = ("hidraw", "usb", "gpio")  # what our rules are about
USERS = ("ridethrough-faces", "ridethrough")
STATE = ("/var/lib/ridethrough", "/run/ridethrough", "/run/ridethrough-helper.sock")
LINKS = {f"/usr/local/bin/{name}": f"{PROGRAM}/bin/{name}" for name in ("ridethrough", "rccmd")}

STARTER = """\
# Ridethrough: what may stand here is in docs/configuration.md; `ridethrough check` says what is wrong.
[agent]
name = "ups"
mode = "setup"                  # then dry-run, and `ridethrough arm`

# [ups]
# driver = "usbhid"             # or "megatec", "apcsmart", "contact", ...: docs/drivers.md
# port = "/dev/serial/by-id/usb-..."

[web]
listen = "127.0.0.1:8080"       # "0.0.0.0:443": for the LAN, with TLS
"""


def instance(text: str) -> str:
    """The template unit for further UPSes, made of the unit of the first: own settings, own state, own bus."""
    for old, new in (
        ("/etc/ridethrough/ridethrough.toml", "/etc/ridethrough/%i.toml"),
        ("StateDirectory=ridethrough/", "StateDirectory=ridethrough-%i/"),
        ("RuntimeDirectory=ridethrough\n", "RuntimeDirectory=ridethrough-%i\n"),
        ("ridethrough-core.service\n", "ridethrough-core@%i.service\n"),
        ("Description=Ridethrough ", "Description=Ridethrough %i "),
    ):
        text = text.replace(old, new)
    return "".join(
        row for row in text.splitlines(True) if not row.startswith("# Reads") and not row.startswith("# Page")
    )


def files() -> dict[str, str]:
    """Path on the host -> text of all that an installation puts there, the program itself aside. Mode 0644."""
    found = {
        "/etc/udev/rules.d/70-ridethrough-ups.rules": (HERE / "70-ridethrough-ups.rules").read_text(),
        "/etc/sysusers.d/ridethrough.conf": (HERE / "ridethrough.sysusers").read_text(),
        "/etc/tmpfiles.d/ridethrough.conf": (HERE / "ridethrough.tmpfiles").read_text(),
    }
    for unit in sorted(p for p in HERE.iterdir() if p.suffix in (".service", ".socket")):
        text = unit.read_text()
        found[f"{UNITS}/{unit.name}"] = text
        if unit.name in ("ridethrough-core.service", "ridethrough-faces.service"):
            found[f"{UNITS}/{unit.stem}@.service"] = instance(text)
    return found
