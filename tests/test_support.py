"""The support bundle: everything that helps, and no secret."""

from __future__ import annotations

import json
import tarfile
import tomllib
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent import config, drivers, hostsetup, process, reach, redact, support, tape, vault
from agent.link import Silence
from agent.model import LinkError, Option
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


def bundle_of(path: Path, output: Path, said: object, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a bundle for which the core has answered `said` to everything."""
    monkeypatch.setattr(support._asked, "__defaults__", (lambda path, question: said,))
    assert support.main(Namespace(config=path, output=output)) == 0
    with tarfile.open(output) as archive:
        return {m.name.rpartition("/")[2]: (archive.extractfile(m) or m).read().decode() for m in archive}  # type: ignore[union-attr]


def test_no_secret_is_in_the_bundle_wherever_it_stood(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "frames": [{"asked": "b'Q1\\r'", "said": "b'(230.0'"}],
        "events": [
            {"text": f"login failed {SECRETS['token']} {SECRETS['community']}", "data": {"a": SECRETS["short"]}}
        ],
        "view": {"detail": SECRETS["hash"], "source": "mains", "name": "cellar"},
    }
    output = tmp_path / "bundle.tar.gz"
    texts = bundle_of(place, output, said, monkeypatch)
    assert output.stat().st_mode & 0o077 == 0
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
    shown = tomllib.loads(texts["ridethrough.toml"])
    server = shown["server"][0]
    assert shown["ups"] == {"driver": "megatec", "port": "/dev/serial/by-id/usb-x"}
    assert (server["address"], server["how"]) == ("192.0.2.9", "http") and server["url"].startswith("***")
    assert shown["snmp"]["community"][0]["from"] == ["192.0.2.0/24"]
    assert json.loads(texts["status.json"])["view"]["name"] == shown["agent"]["name"]  # the same mark wherever it is
    assert json.loads(texts["status.json"])["view"]["source"] == "mains"
    assert "(230.0" in texts["frames.json"] and "login failed" in texts["events.json"]


class Planted:
    """Texts that are found again, each another one."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def text(self, kind: int = 0) -> str:
        """In one of the forms in which people write secrets."""
        core = f"{len(self.all):04d}pLntQz"
        self.all.append(core)
        forms = (
            "{}",
            "https://u:{}@h.example/x",
            "/off?k={}",
            "Authorization: Bearer {}",
            "{} " + "x" * 300,
            'x"{}\\',
        )
        return forms[kind % len(forms)].format(core)

    def table(self, options: Iterable[Option], kind: int, **fixed: str) -> str:
        """A table with something planted at every option, known and unknown, and in comments."""
        lines = [
            f"# {self.text()}",
            f"password = {json.dumps(self.text(kind))}",
            f'"{self.text()}" = "{self.text()}"',
        ]
        lines += [f"pin = 4{kind}11", f'deep = {{ a = ["{self.text()}"], b = {{ c = "{self.text()}" }} }}']
        for option in options:
            value = fixed.get(option.name) or self.text(kind)
            listed = option.kind is list and option.name not in fixed
            lines.append(f"{option.name} = {json.dumps([value] if listed else value)} # {self.text()}")
        return "\n".join(lines) + "\n"


def planted_configuration(planted: Planted, kind: int, driver: str) -> str:
    """Every section, every way, and [ups] of this driver ("": planted as well)."""
    text = f'# {planted.text()}\n"top {planted.text()}" = {json.dumps(planted.text())}\n'
    for name, options in (("agent", config.AGENT), ("web", config.WEB), ("snmp", config.SNMP)):
        text += f"[{name}]\n" + planted.table(options, kind)
    for name, options in support.SNMP_TABLES.items():
        text += f"[[snmp.{name}]]\n" + planted.table(options, kind)
    own = process.ups_options(driver) if driver else ()
    text += "[ups]\n" + planted.table([*config.UPS, *own], kind, **({"driver": driver} if driver else {}))
    text += "[[stage]]\n" + planted.table(config.STAGE, kind)
    for way in reach.available():
        text += "[[server]]\n" + planted.table([*config.SERVER, *reach.load(way).OPTIONS], kind, how=way)
    text += "[[server]]\n" + planted.table(config.SERVER, kind)
    text += "[system]\n" + planted.table(hostsetup.SYSTEM, kind)
    return text + "[system.wifi]\n" + planted.table(hostsetup.WIFI, kind) + f"[{planted.text()}]\nx = 1\n"


@pytest.mark.parametrize("kind", range(6))
def test_what_is_planted_at_every_option_and_in_comments_is_nowhere_in_the_bundle(
    kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ridethrough.toml"
    names = ("", *drivers.available(), "auto")
    for driver in names if kind == 0 else names[kind : kind + 1]:
        planted = Planted()
        path.write_text(planted_configuration(planted, kind, driver))
        values = [text for text in leaves(tomllib.loads(path.read_text())) if len(text) > 3]
        said = {
            "events": [{"text": f"no answer of {text}", "data": {"detail": text, text: 1}} for text in values],
            "log": [f"warning: {text!r} and {json.dumps(text)}" for text in values],
            "cut": [f"cut: {text[:150]}..." for text in values],
            "parts": [f"it said {core}" for core in planted.all if any(core in text for text in values)],
            "frames": [{"asked": repr(text.encode()), "said": text.encode().hex(" ")} for text in values],
        }
        texts = bundle_of(path, tmp_path / f"{driver}.tar.gz", said, monkeypatch)
        for core in planted.all:
            for file, text in texts.items():
                for form in (core, core.encode().hex(" "), core[:-2] + "\n", core[:-2] + '"'):
                    assert form not in text, (driver, core, file)


def leaves(value: object) -> Iterable[str]:
    """Every key and text of what tomllib reads."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield str(key)
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    elif isinstance(value, str):
        yield value


def test_what_the_core_quotes_of_the_configuration_that_is_in_force_is_taken_out(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was changed, or broken, and the core goes on with the last good one."""
    vault.write_private(tmp_path / "core" / "last-good.toml", place.read_bytes())
    said = {"servers": [{"name": "nas-in-the-cellar", "detail": SECRETS["bearer"], "url": SECRETS["query"]}]}
    for broken in (f'[agent]\nstate_dir = "{tmp_path}"\n', f'[agent]\nstate_dir = "{tmp_path}"\nx = "\n'):
        place.write_text(broken)
        texts = bundle_of(place, tmp_path / f"{len(broken)}.tgz", said, monkeypatch)
        for name in ("bearer", "query"):
            assert SECRETS[name] not in texts["status.json"], name


def test_of_a_file_that_is_no_toml_nothing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ridethrough.toml"
    for text in (
        '[server]\npassword = "Hunt3r2x\n',
        "Hunt3r2x",
        'x = "Hunt3r2x\\q"',
        "[a]\n[a]\n# Hunt3r2x",
        "Hunt3r2x = 1\nHunt3r2x = 2",
    ):
        path.write_text(text)
        output = tmp_path / "b.tar.gz"
        output.unlink(missing_ok=True)
        texts = bundle_of(path, output, {}, monkeypatch)
        assert not any("Hunt3r2x" in one for one in texts.values()) and "not TOML" in texts["problems.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "GET https://admin:Hunt3r2x@nas/off",
        "GET https://admin:Hun/Hunt3r2x@nas/off",
        "POST /off?key=Hunt3r2x HTTP/1.1",
        "https://nas/x?Hunt3r2x=1&b=Hunt3r2x",
        "Authorization: Basic Hunt3r2x==",
        "headers: {'Authorization': 'PVEAPIToken=root@pam!x=Hunt3r2x'}",
        "it sent X-Api-Key: Hunt3r2x",
        "Cookie: sid=Hunt3r2x; b=c",
        "bearer Hunt3r2x was refused",
        'wpa_supplicant: psk="Hunt3r2x"',
        "passphrase=Hunt3r2x ssid=cellar",
        "Wi-Fi pass phrase is 'Hunt3r2x'",
        "authentication failure, community Hunt3r2x from 192.0.2.7",
        "community: Hunt3r2x",
        "b'PASSWORD \"Hunt3r2x\"\\n'",
        '{"password": "Hunt3r2x"}',
        'said {\\"token\\": \\"Hunt3r2x\\"}',
        "-----BEGIN OPENSSH PRIVATE KEY-----\nHunt3r2x\n-----END OPENSSH PRIVATE KEY-----",
        "setup_code = Hunt3r2x",
    ],
)
def test_what_looks_like_a_secret_of_somebody_else_is_taken_out(text: str) -> None:
    shown = redact.Redactor(()).text(text)
    assert "Hunt3r2x" not in shown and redact.HIDDEN in shown
    assert "Hunt3r2x" not in json.dumps(redact.Redactor(()).value({"password": "Hunt3r2x", "rows": [text]}))


def test_our_own_words_stay() -> None:
    it = redact.Redactor(["s3cretlyLong-and-longer"], support.house_words())
    for text in (
        "poll failed: no answer in time", "a wrong community or key", "mains", "192.0.2.9 port 6003: refused",
        "b'(230.1 000.0 230.0 012 50.0 27.4 25.0 00001000'", "28 32 33 30", "wrong password from 192.0.2.1",
        "status code 500", "/dev/serial/by-id/usb-Prolific_Technology-if00-port0", "the secret is set",
    ):  # fmt: skip
        assert it.text(text) == text
    assert it.text("begun: s3cretlyLong-and-l; and on") == "begun: ***; and on"
    assert it.text("ended with s3cretly") == "ended with ***"  # cut where the text was cut
    assert it.text("s3cretlyLong-and-...") == "***..."
    assert it.text("czNjcmV0bHlMb25nLWFuZC1sb25nZXI=") == "***="


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
