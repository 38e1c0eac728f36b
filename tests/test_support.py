"""The support bundle: everything that helps, and no secret."""

from __future__ import annotations

import json
import tarfile
from argparse import Namespace
from pathlib import Path

import pytest

from agent import support, tape, vault
from agent.link import Silence
from agent.model import LinkError
from tests.simulators.script import ScriptLink

SECRETS = {
    "community": "pu8lic-ish",
    "token": 'a"quoted\\token-\u00e4',
    "short": "q7",
    "inline": "Inl1ne-Passw0rd",
    "url": "urlUser:urlPass77",
    "query": "qUeRyKeY99",
    "bearer": "eyJhbGciOiJIUzI1NiJ9",
    "listed": "one-time-code-4711",
    "multi": "line-one-of-key",
    "hash": "scrypt$16384$0123456789abcdef",
}
CONFIG = f"""
# password = "{SECRETS["inline"]}"
[agent]
name = "cellar"
state_dir = "STATE"
run_dir = "STATE/run"

[ups]
driver = "megatec"
port = "/dev/serial/by-id/usb-x"

[[server]]
name = "nas"
address = "192.0.2.9"
how = "http"
url = "https://{SECRETS["url"]}@192.0.2.9/off?key={SECRETS["query"]}"
secret = "nas-token"
headers = {{ Authorization = "Bearer {SECRETS["bearer"]}", X-Api-Key = "{SECRETS["inline"]}" }}
enrol_codes = [
  "{SECRETS["listed"]}",
]
private_key = \"\"\"
{SECRETS["multi"]}
\"\"\"

[[snmp.community]]
label = "ro"
community = "{SECRETS["community"]}"
from = ["192.0.2.0/24"]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A configuration file beside its state."""
    path = tmp_path / "ridethrough.toml"
    path.write_text(CONFIG.replace("STATE", str(tmp_path)))
    vault.write(tmp_path / "core" / "secrets.json", {"nas-token": SECRETS["token"], "s": SECRETS["short"]})
    vault.write(tmp_path / "faces" / "secrets.json", {"ro": SECRETS["community"]})
    vault.write_private(tmp_path / "faces" / "users.json", json.dumps({"admin": [SECRETS["hash"]]}).encode())
    return path


def test_no_secret_is_in_the_bundle_wherever_it_stood(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "frames": [{"asked": "b'Q1\\r'", "said": "b'(230.0'"}],
        "events": [
            {"text": f"login failed {SECRETS['token']} {SECRETS['community']}", "data": {"a": SECRETS["short"]}}
        ],
        "view": {"detail": SECRETS["hash"]},
    }
    monkeypatch.setattr(support.bus, "ask", lambda path, question: said)
    monkeypatch.setattr(support._asked, "__defaults__", (lambda path, question: said,))
    output = tmp_path / "bundle.tar.gz"
    assert support.main(Namespace(config=place, output=output)) == 0
    assert output.stat().st_mode & 0o077 == 0
    with tarfile.open(output) as archive:
        texts = {m.name.rpartition("/")[2]: (archive.extractfile(m) or m).read().decode() for m in archive}  # type: ignore[union-attr]
    assert set(texts) == {
        "version.txt", "ridethrough.toml", "problems.txt", "status.json", "events.json", "frames.json",
        "detection.json", "devices.json",
    }  # fmt: skip
    for name, secret in SECRETS.items():
        for form in {secret, json.dumps(secret)[1:-1], secret.replace(":", "%3A")}:
            for file, text in texts.items():
                if name == "short":
                    assert f'"{secret}"' not in text, (name, file)
                else:
                    assert form not in text, (name, file)
    for part in ('name = "cellar"', 'port = "/dev/serial/by-id/usb-x"', 'address = "192.0.2.9"', "https://***@192"):
        assert part in texts["ridethrough.toml"], texts["ridethrough.toml"]
    assert "(230.0" in texts["frames.json"] and "login failed" in texts["events.json"]


def test_a_bundle_is_written_without_a_core_and_never_over_a_file(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.tar.gz"
    assert support.main(Namespace(config=place, output=output)) == 0
    with tarfile.open(output) as archive:
        status = archive.extractfile("ridethrough-support/status.json")
        assert status is not None and b"no answer from the core" in status.read()
    with pytest.raises(support.ConfigError, match="File exists"):
        support.main(Namespace(config=place, output=output))


def test_the_tape_keeps_the_last_frames_and_why_there_was_none() -> None:
    now_s = [0.0]
    it = tape.Tape(lambda: now_s[0])
    link = tape.Taped(ScriptLink({b"Q1": b"(230.0\r"}), it)
    assert link.ask(b"Q1\r").data == b"(230.0" and link.wake_fd is None
    with pytest.raises(Silence):
        link.ask(b"F\r", within_s=1.0)
    assert [(row["asked"], row["said"][:10]) for row in it.rows()] == [
        ("b'Q1\\r'", "b'(230.0'"),
        ("b'F\\r'", "b'F\\r': no"),
    ]
    for _ in range(2 * tape.LIMIT):
        it.keep("x" * 1000, "y")
    assert len(it.rows()) == tape.LIMIT and len(it.rows()[0]["asked"]) == tape.LIMIT_BYTES
    assert issubclass(Silence, LinkError)
