"""A backup holds all that makes an adapter the one it is; without the pass phrase nobody reads or changes it."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent import authority, backup, core, detect, engineid, enroll, pins, process, senderkey
from agent.config import Config
from agent.model import ConfigError
from agent.v3 import BOOTS_LIMIT

PHRASE = "correct horse battery"
FILES = {name: f"content of {name}".encode() for name in backup.KEPT} | {
    "faces/snmp/engine.json": b'{"engine_id": "8000000005aabbcc", "boots": 7}\n'
}


def configuration(root: Path) -> bytes:
    return f"""
[agent]
state_dir = "{root}/state"
run_dir = "{root}/run"
commands_dir = "{root}/commands.d"
[ups]
driver = "simulator"
[[stage]]
name = "all"
[[server]]
name = "web"
address = "192.0.2.7"
stage = "all"
""".encode()


COST = dict(backup.SCRYPT)
backup.SCRYPT["n"] = 2**4  # else each of these tests pays it


def test_guessing_the_pass_phrase_is_dear() -> None:
    assert COST["n"] * COST["r"] * COST["p"] >= 2**19


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The configuration of an adapter whose every kept file is there."""
    for name, data in FILES.items():
        path = tmp_path / "state" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name in backup.DROPPED:
        (tmp_path / "state" / name).write_bytes(b"of the outage")
    (tmp_path / "commands.d").mkdir(mode=0o755)
    (tmp_path / "commands.d" / "nas.ssh").write_text("poweroff\n")
    (tmp_path / "commands.d" / "stop-vms").write_text("#!/bin/sh\n")
    (tmp_path / "commands.d" / "stop-vms").chmod(0o755)
    path = tmp_path / "ridethrough.toml"
    path.write_bytes(configuration(tmp_path))
    return path


def say(monkeypatch: pytest.MonkeyPatch, phrase: str = PHRASE) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(phrase + "\n"))


def make(adapter: Path, monkeypatch: pytest.MonkeyPatch, name: str = "it.backup") -> Path:
    file = adapter.with_name(name)
    say(monkeypatch)
    assert backup.backup(Namespace(config=adapter, file=file), process.load(adapter)[0]) == 0
    return file


def restore(
    adapter: Path, file: Path, monkeypatch: pytest.MonkeyPatch, phrase: str = PHRASE, yes: bool = True
) -> int:
    say(monkeypatch, phrase)
    return backup.restore(Namespace(config=adapter, file=file, yes=yes))


def state(adapter: Path) -> dict[str, bytes]:
    """Every file of the adapter but backups and the lock."""
    found = {str(p.relative_to(adapter.parent)): p.read_bytes() for p in adapter.parent.rglob("*") if p.is_file()}
    return {n: d for n, d in found.items() if not n.endswith((".backup", "/lock"))}


def test_a_bare_board_becomes_the_adapter(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(adapter, monkeypatch)
    assert file.stat().st_mode & 0o777 == 0o600
    before = state(adapter)
    for name in before:
        (adapter.parent / name).unlink()
    assert restore(adapter, file, monkeypatch) == 0
    after = state(adapter)
    for name in backup.DROPPED:
        del before[f"state/{name}"]
    engine = "state/faces/snmp/engine.json"
    del before[engine]
    assert json.loads(after.pop(engine)) == {"engine_id": "8000000005aabbcc", "boots": 7 + backup.BOOTS_AHEAD}
    assert after == before
    assert (adapter.parent / "state/core/secrets.json").stat().st_mode & 0o777 == 0o600
    assert os.access(adapter.parent / "commands.d/stop-vms", os.X_OK)
    assert not os.access(adapter.parent / "commands.d/nas.ssh", os.X_OK)


def test_a_replaced_board_needs_no_new_enrolment(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real keys: servers know the sender, the core knows a server, the authority signs for the next one."""
    folder, enrol = adapter.parent / "state/core", adapter.parent / "state/faces" / enroll.FOLDER
    (folder / senderkey.NAME).write_bytes(senderkey.make("ridethrough"))
    (folder / pins.FILE).unlink()
    (enrol / authority.FILE).unlink()
    server, _ = authority.make(enrol, "web")
    found = x509.load_pem_x509_certificate(server[server.index(b"-----BEGIN CERTIFICATE") :])
    known = pins.Pins(folder / pins.FILE)
    known.add("web", hashlib.sha256(found.public_bytes(Encoding.DER)).hexdigest(), 1_800_000_000.0)
    sender, ca = senderkey.certificate(folder), (enrol / authority.FILE).read_bytes()
    file = make(adapter, monkeypatch)
    shutil.rmtree(adapter.parent / "state")
    assert restore(adapter, file, monkeypatch) == 0
    assert senderkey.certificate(folder) == sender and senderkey.damaged(folder) == ""
    assert pins.Pins(folder / pins.FILE).get("web") == known.get("web") != ""
    later, damaged = authority.make(enrol, "files")
    assert damaged == "" and (enrol / authority.FILE).read_bytes() == ca
    signed = x509.load_pem_x509_certificate(later[later.index(b"-----BEGIN CERTIFICATE") :])
    signed.verify_directly_issued_by(x509.load_pem_x509_certificate(ca[ca.index(b"-----BEGIN CERTIFICATE") :]))


def test_what_was_there_before_is_kept_and_can_be_restored(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(adapter, monkeypatch)
    (adapter.parent / "state/core" / senderkey.NAME).write_bytes(b"another key")
    (adapter.parent / "state/core" / pins.FILE).unlink()
    other = configuration(adapter.parent).replace(b"192.0.2.7", b"192.0.2.8")
    adapter.write_bytes(other)
    assert restore(adapter, file, monkeypatch) == 0
    assert b"192.0.2.7" in adapter.read_bytes()
    (saved,) = (adapter.parent / "state").glob("before-restore-*.backup")
    assert restore(adapter, saved, monkeypatch) == 0
    assert adapter.read_bytes() == other
    assert (adapter.parent / "state/core" / senderkey.NAME).read_bytes() == b"another key"
    assert not (adapter.parent / "state/core" / pins.FILE).exists()


def test_commands_that_are_not_in_it_go_and_come_back_with_what_was_before(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the adapter is not the one of the backup: a script by a name that its configuration uses, or that
    somebody put there since."""
    file = make(adapter, monkeypatch)
    folder = adapter.parent / "commands.d"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / "later").write_text("#!/bin/sh\n# put there since\n")
    (folder / "later").chmod(0o755)
    # what no configuration can use is nobody's business
    (folder / "a~").write_text("x")
    (folder / "link").symlink_to("/bin/true")
    (folder / "sub").mkdir()
    assert restore(adapter, file, monkeypatch, yes=False) == 1
    assert "commands that are not in it, and go: later\n" in capsys.readouterr().out and (folder / "later").exists()
    assert restore(adapter, file, monkeypatch) == 0
    left = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name not in ("a~", "link")}
    assert left == before and sorted(p.name for p in folder.iterdir()) == sorted([*before, "a~", "link", "sub"])
    (saved,) = (adapter.parent / "state").glob("before-restore-*.backup")
    assert restore(adapter, saved, monkeypatch) == 0
    assert "put there since" in (folder / "later").read_text() and os.access(folder / "later", os.X_OK)


def test_commands_without_a_configuration_are_kept_too(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make(adapter, monkeypatch)
    adapter.unlink()
    later = adapter.parent / "commands.d/later"
    later.write_text("echo later\n")
    assert restore(adapter, file, monkeypatch) == 0 and not later.exists()
    assert "What was before is in " in capsys.readouterr().out
    (saved,) = (adapter.parent / "state").glob("before-restore-*.backup")
    restore(adapter, saved, monkeypatch)
    assert later.read_text() == "echo later\n"


def test_a_backup_of_an_adapter_without_configuration_is_none(adapter: Path) -> None:
    settings = process.load(adapter)[0]
    adapter.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        backup.collect(adapter, settings, 0.0)


def test_a_restore_that_fails_keeps_the_commands_that_would_go(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = backup.unseal(make(adapter, monkeypatch).read_bytes(), PHRASE)
    (adapter.parent / "commands.d/later").write_text("echo later\n")
    (adapter.parent / "state/faces/tls.pem").unlink()
    (adapter.parent / "state/faces/tls.pem").mkdir()
    before = state(adapter)
    with pytest.raises(ConfigError, match="nothing was changed"):
        backup.put(content, adapter, process.load(adapter)[0])
    assert state(adapter) == before


@pytest.mark.parametrize("yes", [False, True])
def test_nothing_is_changed_without_yes_or_while_the_core_runs(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], yes: bool
) -> None:
    file = make(adapter, monkeypatch)
    adapter.write_bytes(adapter.read_bytes() + b"# changed\n")
    before = state(adapter)
    with open(adapter.parent / "state/core/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if yes:
            with pytest.raises(ConfigError, match="the agent runs; stop it first"):
                restore(adapter, file, monkeypatch)
        else:
            assert restore(adapter, file, monkeypatch, yes=False) == 1
            said = capsys.readouterr().out
            assert "1 servers" in said and "sender.pem" in said and "nothing was changed" in said
    assert state(adapter) == before


def test_the_wrong_phrase_opens_nothing(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(adapter, monkeypatch)
    with pytest.raises(ConfigError, match="another pass phrase, or the file was damaged"):
        restore(adapter, file, monkeypatch, "correct horse batterz")
    with pytest.raises(ConfigError, match="12 to 256 printable"):
        restore(adapter, file, monkeypatch, "short")


def test_a_backup_never_overwrites_a_file(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(adapter, monkeypatch)
    with pytest.raises(ConfigError, match="is there already"):
        make(adapter, monkeypatch, file.name)


def test_what_a_backup_takes_in_can_be_restored(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(process.load(adapter)[0].commands_dir)
    folder.mkdir(exist_ok=True)
    for name in ("one", "two"):
        (folder / name).write_bytes(random.Random(name).randbytes(1_900_000))
    file = make(adapter, monkeypatch)
    (folder / "one").unlink()
    assert restore(adapter, file, monkeypatch) == 0
    assert (folder / "one").stat().st_size == 1_900_000


def test_a_file_that_cannot_be_read_is_named_and_makes_no_backup(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = adapter.parent / "state/core" / pins.FILE
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"core/pins\.json: Is a directory"):
        make(adapter, monkeypatch)
    assert not adapter.with_name("it.backup").exists()


@pytest.mark.parametrize("place", ["commands.d/nas.ssh", "state/faces/tls.pem", "state/core/slots"])
def test_a_restore_that_fails_anywhere_leaves_everything_as_it_was(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = make(adapter, monkeypatch)
    old = configuration(adapter.parent).replace(b"192.0.2.7", b"192.0.2.8")
    adapter.write_bytes(old)
    for name in (senderkey.NAME, pins.FILE):
        (adapter.parent / "state/core" / name).write_bytes(b"mine")
    settings, content = process.load(adapter)[0], backup.unseal(file.read_bytes(), PHRASE)
    (adapter.parent / place).unlink()
    (adapter.parent / place).mkdir()
    before = state(adapter)
    with pytest.raises(ConfigError, match=f"{place}: Is a directory; nothing was changed"):
        backup.put(content, adapter, settings)
    assert state(adapter) == before and adapter.read_bytes() == old
    (adapter.parent / place).rmdir()
    backup.put(content, adapter, settings)
    assert adapter.read_bytes() == configuration(adapter.parent)


def test_mistakes_in_its_configuration_are_said_and_it_is_restored_all_the_same(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter.write_bytes(adapter.read_bytes().replace(b'stage = "all"', b'stage = "al"'))
    file = make(adapter, monkeypatch)
    assert restore(adapter, file, monkeypatch) == 2
    assert "mistake in its configuration: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "commands.d/../x", "commands.d/", "core/slots", "core/../ridethrough.toml"]
)
def test_a_name_that_is_not_ours_is_refused_though_the_seal_is_good(name: str) -> None:
    files = {backup.SETTINGS: b"", name: b"x"}
    with pytest.raises(ConfigError, match="does not belong there"):
        backup.unseal(backup.seal(backup.Content(files), PHRASE), PHRASE)


def test_a_second_line_that_never_ends_is_damaged() -> None:
    with pytest.raises(ConfigError, match="second line is damaged"):
        backup.unseal(backup.MAGIC + b"[" * 1000, PHRASE)


def test_what_only_a_newer_version_knows_is_said_to_be_that() -> None:
    with pytest.raises(ConfigError, match="'core/new.json' does not belong there: damaged, or of a newer version"):
        backup.unseal(backup.seal(backup.Content({backup.SETTINGS: b"", "core/new.json": b"x"}), PHRASE), PHRASE)


@pytest.mark.parametrize(
    "plain", [b"no tar" * 500, gzip.compress(bytes(20_000)), lzma.compress(bytes(20_000))], ids=["text", "gzip", "xz"]
)
def test_what_is_no_tar_is_said_in_one_line_and_not_decompressed_again(plain: bytes) -> None:
    with pytest.raises(ConfigError, match="the backup cannot be unpacked: ") as found:
        backup.unpack(gzip.compress(plain))
    assert "\n" not in str(found.value) and "method" not in str(found.value)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = {backup.SETTINGS: bytes(backup.TOTAL_LIMIT_BYTES)}
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        backup.unseal(backup.seal(backup.Content(bomb), PHRASE), PHRASE)


SEALED = backup.seal(backup.Content({backup.SETTINGS: b"[agent]\n", backup.ABOUT: b"{}"}), PHRASE)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: backup.MAGIC + b)))
@example(backup.MAGIC + b"[]\n")
@example(backup.MAGIC + b'{"n": 1e99}\n')
@example(SEALED.replace(b'"n": 16', b'"n": 1'))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        backup.unseal(data, PHRASE)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed(at: int, by: int) -> None:
    data = bytearray(SEALED)
    data[at] ^= by
    with pytest.raises(ConfigError):
        backup.unseal(bytes(data), PHRASE)


def test_the_names_are_those_that_the_others_use() -> None:
    assert f"core/{core.CURVE}" in backup.KEPT
    assert engineid.path(Path("faces/snmp")) == Path("faces/snmp/engine.json")
    assert f"core/{detect.MEMORY}" in backup.KEPT
    assert process.last_good(Config(state_dir="/s")) == Path("/s/core/last-good.toml")


def test_an_engine_that_was_started_too_often_stays_so() -> None:
    full = json.dumps({"engine_id": "8000000005aabbcc", "boots": BOOTS_LIMIT}).encode()
    assert json.loads(engineid.ahead(full, 5))["boots"] == BOOTS_LIMIT


@pytest.mark.parametrize(("name", "target"), [("faces/account.json", "core/sender.pem"), ("faces/snmp", "core")])
def test_root_follows_no_link_into_anothers_folder(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: str
) -> None:
    path = adapter.parent / "state" / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(adapter.parent / "state" / target)
    with pytest.raises(ConfigError, match=name):
        make(adapter, monkeypatch)
