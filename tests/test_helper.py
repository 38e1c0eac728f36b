"""The root helper: fixed words, only for who may ask; and the way `local` that asks it."""

from __future__ import annotations

import json
import os
import pwd
import socket
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent import bus, helper, host, hostsetup, vault, wire
from agent.__main__ import parser
from agent.config import Config, Server
from agent.hostsetup import System, Wifi
from agent.model import ConfigError
from agent.process import load
from agent.reach import ACCEPTED, NOT_DELIVERED, PROVEN, UNKNOWN, Job, local
from tests import steps

ME = pwd.getpwuid(os.geteuid()).pw_name
HERE = Job(
    server=Server(name="board", address="", port=0, how="local", options={"order": "power-off"}),
    address=None, outage="0123456789abcdef", connect_s=2.0, folder=Path("/none"), commands_dir=Path("/none"),
    secret=lambda label: None,
)  # fmt: skip


def programs(folder: Path, text: str) -> str:
    """A folder with a `systemctl` of ours."""
    path = folder / "systemctl"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(folder)


@contextmanager
def helping(folder: Path, path: str, user: str = ME, times: int = 1) -> Iterator[str]:
    """The helper behind a socket, one connection after the other, as systemd starts it."""
    place = str(folder / "helper.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()

        def turn() -> None:
            for _ in range(times):
                sock, _ = listener.accept()
                with sock:
                    helper.serve(sock, user, path=path)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            yield place
        finally:
            thread.join(10)
            assert not thread.is_alive()


def test_the_order_runs_the_one_command_that_stands_for_it(tmp_path: Path) -> None:
    path = programs(tmp_path, f'echo "$*" >{tmp_path}/ran')
    with helping(tmp_path, path) as place:
        outcome = steps.run(local.send(HERE, socket_path=place))
    assert outcome.word == ACCEPTED and "ended with 0" in outcome.detail
    assert (tmp_path / "ran").read_text() == "--no-block poweroff\n"


def test_the_proof_goes_the_whole_way_but_for_the_last_step(tmp_path: Path) -> None:
    path = programs(tmp_path, f"touch {tmp_path}/ran")
    with helping(tmp_path, path) as place:
        outcome = steps.run(local.prove(HERE, socket_path=place))
    assert not (tmp_path / "ran").exists()
    if os.geteuid() == 0:
        assert outcome.word == PROVEN and "would run" in outcome.detail
    else:
        assert outcome.word == UNKNOWN and "not as root" in outcome.detail


def test_a_command_that_fails_or_is_not_there_is_said(tmp_path: Path) -> None:
    path = programs(tmp_path, "echo 'Failed to connect to bus' >&2; exit 3")
    with helping(tmp_path, path) as place:
        outcome = steps.run(local.send(HERE, socket_path=place))
    assert outcome.word == NOT_DELIVERED and "exit code 3 Failed to connect to bus" in outcome.detail
    with pytest.raises(helper.Refused, match="systemctl is not on this host"):
        helper.obey("power-off", path=str(tmp_path / "empty"))


@pytest.mark.parametrize("word", ["", "halt", "power-off now", "check", "check halt", "power-off\0", "/bin/sh", "é"])
def test_no_other_word_is_obeyed(tmp_path: Path, word: str) -> None:
    with pytest.raises(helper.Refused, match="unknown word"):
        helper.obey(word, path=programs(tmp_path, f"touch {tmp_path}/ran"))
    assert not (tmp_path / "ran").exists()


def test_only_root_and_the_named_user_may_ask() -> None:
    assert helper.may_ask(0, "root") and helper.may_ask(0, "no-such-user")
    nobody = pwd.getpwnam("nobody").pw_uid
    assert helper.may_ask(nobody, "nobody") and not helper.may_ask(nobody, "root")
    assert not helper.may_ask(nobody, "no-such-user")


class Stranger:
    """A connection of another user: only its credentials differ."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def getsockopt(self, level: int, name: int, length: int) -> bytes:
        assert (level, name, length) == (socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return (1).to_bytes(4, "little") + (65534).to_bytes(4, "little") * 2

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


def test_a_stranger_is_refused_before_he_is_heard(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"power-off\n")
        assert helper.serve(Stranger(ours), "root", path=programs(tmp_path, f"touch {tmp_path}/ran")) == 1  # type: ignore[arg-type]
        assert theirs.recv(200) == b"no user id 65534 may not ask\n" and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sent", [b"", b"power-off", b"x" * 9000 + b"\n", b"network {" + b" " * 9000 + b"}\n"])
def test_half_a_word_or_a_long_one_is_none(tmp_path: Path, sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        assert helper.serve(ours, ME, path=str(tmp_path)) == 1
        assert theirs.recv(200) == b"no no whole word came\n"


def test_without_a_helper_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"is ridethrough-helper.socket started\?"):
        steps.run(local.prove(HERE, socket_path=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ('order = "power-off"', ""),
        ('command = "off"', ""),
        ("", "needs either command or order"),
        ('command = "off"\norder = "reboot"', "only one of them"),
        ('order = "halt"', "must be one of power-off, reboot"),
    ],
)
def test_this_host_needs_one_of_command_and_order(tmp_path: Path, options: str, wrong: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'[ups]\ndriver = "simulator"\n[[server]]\nname = "me"\nhow = "local"\n{options}\n')
    _, problems = load(path)
    assert [p.text for p in problems if wrong not in p.text or not wrong] == []
    assert bool(problems) == bool(wrong)


class Board:
    """A host that was started from the image: what the helper keeps, and which programs it ran."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.kept, self._image = folder / "system/system.json", folder / "ridethrough-version"
        self._image.write_text("0.1.0\n")
        self.answers(0)

    def answers(self, code: int, to: str = "*") -> None:
        """How `systemctl` ends when it is asked for `to`."""
        self.path = programs(self._folder, f'echo "$*" >>{self._folder}/ran\ncase "$*" in {to}) exit {code};; esac')

    def ask(self, line: str) -> str:
        return helper.obey(line, path=self.path, image=self._image, kept=self.kept)

    def system(self) -> System:
        return wire.from_json(System, json.loads(self.kept.read_bytes()))

    def ran(self) -> list[str]:
        path = self._folder / "ran"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(helper, "ZONES", tmp_path / "zoneinfo")
    (tmp_path / "zoneinfo/Europe").mkdir(parents=True)
    (tmp_path / "zoneinfo/Europe/Berlin").write_bytes(b"TZif")
    (tmp_path / "zoneinfo/Etc").mkdir()
    (tmp_path / "zoneinfo/Etc/UTC").write_bytes(b"TZif")
    return Board(tmp_path)


def test_network_is_kept_and_applied_by_the_images_own_units(board: Board) -> None:
    said = {"hostname": "ups-cellar", "address": "192.0.2.10/24", "gateway": "192.0.2.1", "dns": ["192.0.2.1"]}
    assert board.ask(f"network {json.dumps(said)}") == "network: kept, and applied now"
    assert board.system() == System(
        hostname="ups-cellar", address="192.0.2.10/24", gateway="192.0.2.1", dns=("192.0.2.1",)
    )
    assert board.kept.stat().st_mode & 0o777 == 0o600
    assert board.ran() == [
        "--no-block restart ridethrough-provision.service systemd-networkd.service systemd-resolved.service"
    ]
    assert board.ask('network {"hostname": "ups-cellar"}') == "network: it is so already" and len(board.ran()) == 1
    # what is not named stays; with DHCP the router goes by itself
    board.ask('network {"address": "dhcp"}')
    assert board.system() == System(hostname="ups-cellar", dns=("192.0.2.1",))
    board.ask('network {"dns": []}')
    assert board.system() == System(hostname="ups-cellar")


def test_time_is_kept_and_applied(board: Board) -> None:
    board.ask('time {"timezone": "Europe/Berlin", "ntp": ["ptbtime1.ptb.de"]}')
    assert board.system() == System(timezone="Europe/Berlin", ntp=("ptbtime1.ptb.de",))
    assert board.ran() == ["--no-block restart ridethrough-provision.service systemd-timesyncd.service"]


def test_wifi_is_kept_as_its_key_and_can_be_taken_away(board: Board) -> None:
    board.ask('network {"wifi": {"ssid": "cellar", "country": "DE", "passphrase": "very secret wifi"}}')
    key = hostsetup.psk("cellar", "very secret wifi")
    assert board.system().wifi == Wifi(ssid="cellar", country="DE", psk=key)
    assert b"very secret" not in board.kept.read_bytes() and "very secret" not in "".join(board.ran())
    assert board.ran()[-1] == "--no-block restart ridethrough-wifi@wlan0.service"
    board.ask('network {"hostname": "x"}')
    assert board.system().wifi and board.ran()[-1].endswith("systemd-resolved.service")
    board.ask('network {"wifi": {"ssid": "cellar", "country": "AT"}}')
    assert board.system().wifi == Wifi(ssid="cellar", country="AT", psk=key)
    with pytest.raises(helper.Refused, match="passphrase is missing"):
        board.ask('network {"wifi": {"ssid": "another", "country": "DE"}}')
    board.ask('network {"wifi": null}')
    assert board.system().wifi is None and board.ran()[-1] == "--no-block stop ridethrough-wifi@wlan0.service"


def test_the_slot_word_starts_the_images_unit(board: Board) -> None:
    assert "ended with 0" in board.ask("slot") and board.ran() == ["--no-block start ridethrough-slot.service"]
    unit = Path(__file__).parent.parent / "image/files/etc/systemd/system/ridethrough-slot.service"
    assert "-m agent update --back\n" in unit.read_text()


WRONG = {
    "network": "no JSON",
    "network ": "no JSON",
    "network {": "no JSON",
    "network null": "must be a table",
    "network []": "must be a table",
    "network 7": "must be a table",
    "network {}": "nothing is said",
    "network {} {}": "no JSON",
    'network {"hostname": "a"}\nreboot': "no JSON",
    'network {"hostname": "a;reboot"}': "letters, digits and dashes",
    'network {"hostname": "$(reboot)"}': "letters, digits and dashes",
    'network {"hostname": "a\\nb"}': "one line of printable text",
    'network {"hostname": "-x"}': "letters, digits and dashes",
    'network {"hostname": ["a"]}': "must be a text",
    'network {"hostname": null}': "must be a text",
    'network {"address": "192.0.2.10/24\\nDNS=192.0.2.66"}': "must be",
    'network {"address": "127.0.0.1/8"}': "no host can have this address",
    'network {"gateway": "192.0.2.1"}': "needs a fixed address",
    'network {"address": "192.0.2.10/24", "gateway": "10.0.0.1"}': "is not in 192.0.2.0/24",
    'network {"dns": ["one.example"]}': "must be an IP address",
    'network {"dns": "192.0.2.1"}': "must be a list",
    'network {"timezone": "Europe/Berlin"}': "unknown option",
    'network {"ssh_keys": ["ssh-ed25519 AAAA"]}': "unknown option",
    'network {"password_hash": "scrypt:1"}': "unknown option",
    'network {"wifi": 7}': "must be a table",
    'network {"wifi": {"ssid": "a", "country": "DE", "passphrase": 987654321}}': "passphrase: must be a text",
    'network {"wifi": {"ssid": "a", "country": "DE", "passphrase": "9876543"}}': "8 to 63",
    'network {"wifi": {"ssid": "a", "country": "DE\\n}", "passphrase": "987654321"}}': "one line of printable text",
    'network {"wifi": {"ssid": "a", "country": "DE", "passphrase": "98765432\\n}"}}': "one line of printable text",
    'time {"hostname": "a"}': "unknown option",
    'time {"wifi": null}': "unknown option",
    'time {"timezone": "../../etc/passwd"}': "no such time zone",
    'time {"timezone": "/etc/passwd"}': "no such time zone",
    'time {"timezone": "Europe"}': "no such time zone",
    'time {"ntp": ["a b"]}': "ntp",
    'time {"ntp": ["a\\nFallbackNTP=b"]}': "ntp",
    'time {"ntp": ["1.example", 7]}': "must be a list",
    "time " + "[" * 8000: "no JSON",
    "slot b": "unknown word",
    "slot ": "unknown word",
    "reboot {}": "unknown word",
    "Network {}": "unknown word",
    "check check network {}": "unknown word",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_not_whole_and_good_changes_nothing_and_shows_no_secret(board: Board, line: str) -> None:
    for word in (line, f"check {line}"):
        with pytest.raises(helper.Refused) as said:
            board.ask(word)
        assert WRONG[line] in str(said.value) or word != line, said.value
        assert "987654" not in str(said.value) and "\n" not in str(said.value)
    assert board.ran() == [] and not board.kept.exists()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.text(max_size=60), st.tuples(st.sampled_from(["network ", "time ", "slot ", "check "]), st.text(
    max_size=60)).map("".join), st.dictionaries(st.sampled_from(["hostname", "address", "dns", "ntp", "wifi", "x"]),
    st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=3) |
    st.dictionaries(st.sampled_from(["ssid", "country", "passphrase"]), inner, max_size=3), max_leaves=5),
    max_size=3).map(lambda d: "network " + json.dumps(d))))  # fmt: skip
@example("network \ud800")
@example('network {"hostname": "box"}')
def test_any_line_is_refused_or_leaves_what_would_pass_the_boot_partition(board: Board, line: str) -> None:
    board.kept.unlink(missing_ok=True)
    try:
        board.ask(line)
    except helper.Refused:
        assert not board.kept.exists()
        return
    if board.kept.exists():
        for text, _ in hostsetup.files(board.system()).values():
            assert all(row.isprintable() or row.startswith("\t") for row in text.splitlines())


def test_the_proof_of_a_setting_changes_nothing(board: Board) -> None:
    assert board.ask('check network {"hostname": "x"}') == "network: that can be done"
    assert board.ran() == [] and not board.kept.exists()


@pytest.mark.parametrize("before", ["", '{"hostname": "before"}'])
def test_what_cannot_be_applied_is_not_kept(board: Board, before: str) -> None:
    if before:
        vault.write_private(board.kept, json.dumps(wire.to_json(System(hostname="before"))).encode())
    data = board.kept.read_bytes() if before else None
    board.answers(1)
    with pytest.raises(helper.Refused, match="exit code 1"):
        board.ask('network {"hostname": "after"}')
    assert (board.kept.read_bytes() if board.kept.exists() else None) == data


def test_a_damaged_memory_is_not_overwritten(board: Board) -> None:
    board.kept.parent.mkdir()
    board.kept.write_text("{")
    with pytest.raises(helper.Refused, match="mend it with ridethrough.toml on the boot partition"):
        board.ask('network {"hostname": "x"}')
    assert board.kept.read_text() == "{" and board.ran() == []


@pytest.mark.parametrize("line", ["slot", 'network {"hostname": "x"}', 'time {"timezone": "Etc/UTC"}'])
def test_a_host_that_is_not_of_the_image_is_left_alone(tmp_path: Path, line: str) -> None:
    path = programs(tmp_path, f"touch {tmp_path}/ran")
    with pytest.raises(helper.Refused, match="only on the image"):
        helper.obey(line, path=path, image=tmp_path / "none", kept=tmp_path / "kept")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "kept").exists()


def test_a_pass_phrase_is_not_in_the_journal(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'network {"wifi": {"ssid": "a", "country": "DE", "passphrase": "very secret wifi"}}\n')
        assert helper.serve(ours, ME, path=board.path, image=board.kept.parent / "no", kept=board.kept) == 1
    said = capsys.readouterr().err
    assert "asked 'network'" in said and "secret" not in said


def test_asking_it_and_its_answer(tmp_path: Path) -> None:
    path = programs(tmp_path, "exit 0")
    with helping(tmp_path, path) as place:
        assert helper.ask("reboot", place).startswith("ok ")
    with pytest.raises(OSError, match=r"is ridethrough-helper.socket started\?"):
        helper.ask("reboot", str(tmp_path / "none"))


def switches(*words: str) -> Namespace:
    return parser().parse_args(["host", *words])


def test_the_command_line_says_what_the_helper_understands(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in helper.WORDS:
        assert switches(word).what == word
    for words, said in (
        (("network", "--hostname", "x", "--dns", "192.0.2.1", "--dns", "192.0.2.2"),
         {"hostname": "x", "dns": ["192.0.2.1", "192.0.2.2"]}),
        (("network", "--wifi", ""), {"wifi": None}),
        (("time", "--timezone", "Europe/Berlin", "--ntp", "a.example"),
         {"timezone": "Europe/Berlin", "ntp": ["a.example"]}),
    ):  # fmt: skip
        assert host.wanted(switches(*words)) == said
        board.ask(f"{words[0]} {json.dumps(said)}")
    monkeypatch.setattr(host.process, "hidden_line", lambda prompt: "very secret wifi")
    said = host.wanted(switches("network", "--wifi", "a", "--country", "DE"))
    assert said == {"wifi": {"ssid": "a", "country": "DE", "passphrase": "very secret wifi"}}
    assert host.wanted(switches("slot")) is None
    for words, why in (
        (("network",), "say what: --hostname"), (("time", "--hostname", "x"), "time knows no --hostname"),
        (("reboot", "--ntp", "x"), "reboot knows no --ntp"), (("time", "--wifi", "x"), "knows no --wifi"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            host.wanted(switches(*words))


def test_what_interrupts_the_protection_needs_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in set(helper.WORDS) - set(helper.SETTINGS):
        assert host.main(switches(word), Config(run_dir=str(tmp_path))) == 1
        assert host.MEANS[word] in capsys.readouterr().out
        with pytest.raises(bus.BusError):  # there is no core: it was asked
            host.main(switches(word, "--yes"), Config(run_dir=str(tmp_path)))


def test_the_helper_is_waited_for_as_long_as_it_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    def ask(_path: str, message: bus.Message, within_s: float = 5.0) -> bus.Message:
        waits.append(within_s)
        return {"said": "the time zone is set"}

    monkeypatch.setattr(host.bus, "ask", ask)
    assert host.main(switches("time", "--timezone", "Europe/Berlin"), Config(run_dir=str(tmp_path))) == 0
    assert waits[0] > helper.ASK_S + helper.DONE_S and "time zone" in capsys.readouterr().out
