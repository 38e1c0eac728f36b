"""What people write onto the boot partition is taken over whole and once, or not at all; the report says which."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import bootfile, config, hostsetup, login, passwords, process, provision, vault, wire
from agent.bootfile import Wrong
from agent.hostsetup import System
from agent.provision import Places


def ssh_key(kind: str, *fields: bytes) -> str:
    """The line of a public key: each field with its length before it (RFC 4253 section 6.6)."""
    data = b"".join(len(f).to_bytes(4, "big") + f for f in (kind.encode(), *fields))
    return f"{kind} {base64.b64encode(data).decode()} me@home"


KEY = ssh_key("ssh-ed25519", bytes(32))
SETTINGS = """
# our adapter
[agent]
state_dir = "{root}/state"
commands_dir = "{root}/commands.d"
[ups]
driver = "simulator"
[snmp]
listen = "127.0.0.1:1161"
[[snmp.community]]
label = "monitoring"
from = ["192.0.2.0/24"]
[[server]]
name = "nas"
address = "192.0.2.9"
"""
SYSTEM = f"""
[system]
hostname = "ups-cellar"
address = "192.0.2.10/24"
gateway = "192.0.2.1"
dns = ["192.0.2.1"]
timezone = "Europe/Berlin"
ntp = ["ptbtime1.ptb.de"]
ssh_keys = ["{KEY}"]
setup_code = "open sesame 42"
[system.wifi]
ssid = "Zähler"
passphrase = "very secret wifi"
country = "DE"
[system.secrets]
monitoring = "a-long-community"
"""


class Box:
    """A host with a boot partition."""

    def __init__(self, root: Path) -> None:
        self.root, self.names, self.started = root, list[str](), list[Sequence[str]]()
        self.boot = root / "boot"
        self.boot.mkdir()
        self.places = Places(
            boot=self.boot, system=root / "system", config=root / "etc/ridethrough.toml", run=root / "run",
            set_hostname=self.names.append, start=self.started.append,
        )  # fmt: skip

    def start(self, text: str | bytes | None = None) -> str:
        """One start, with this file if it is given; the report."""
        if text is not None:
            data = text if isinstance(text, bytes) else text.replace("{root}", str(self.root)).encode()
            (self.boot / provision.FILE).write_bytes(data)
        provision.run(self.places)
        report = (self.boot / provision.REPORT).read_bytes()
        assert report.count(b"\n") == report.count(b"\r\n")  # people open it with Notepad
        return report.decode()

    def written(self) -> str:
        return (self.boot / provision.FILE).read_text()

    def run_file(self, name: str) -> str:
        return (self.root / "run" / name).read_text()

    def first_password(self) -> str:
        return (self.root / "state/faces/first-password").read_text().strip()


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    zones = tmp_path / "zoneinfo"
    for name in ("Europe/Berlin", "Etc/UTC"):
        (zones / name).parent.mkdir(parents=True, exist_ok=True)
        (zones / name).write_bytes(b"TZif")
    monkeypatch.setattr(provision, "ZONES", zones)
    monkeypatch.setattr(process, "BOOT_PROBLEMS", tmp_path / "run/ridethrough-system/problems")
    monkeypatch.setattr(
        provision, "DEFAULT", provision.DEFAULT + f'[agent]\nstate_dir = "{tmp_path}/state"\n'
    )  # fmt: skip
    return Box(tmp_path)


def test_a_whole_file_becomes_the_adapters_configuration(box: Box) -> None:
    report = box.start(SETTINGS + '[web]\nlisten = "[::]:443"\n' + SYSTEM)
    assert "taken over." in report and "servers: 1, stages: 1, mode dry-run, driver simulator" in report
    assert "https://ups-cellar.local/" in report and "https://192.0.2.10/" in report
    assert "Set-up code: open sesame 42" in report
    found, problems = process.load(box.places.config)
    assert problems == () and [s.name for s in found.servers] == ["nas"]
    assert "# our adapter" in box.places.config.read_text() and "[system" not in box.places.config.read_text()
    assert vault.read(box.root / "state/faces/secrets.json") == {"monitoring": "a-long-community"}
    assert box.first_password() == "open sesame 42" and box.names == ["ups-cellar"]
    network = box.run_file("systemd/network/20-wired.network")
    assert "Address=192.0.2.10/24\nGateway=192.0.2.1\nDNS=192.0.2.1\n" in network and "DHCP" not in network
    assert box.run_file("ridethrough-system/authorized_keys") == KEY + "\n"
    assert os.readlink(box.root / "run/localtime") == str(provision.ZONES / "Europe/Berlin")
    assert "NTP=ptbtime1.ptb.de" in box.run_file("systemd/timesyncd.conf.d/ridethrough.conf")
    wifi = box.root / "run/wpa_supplicant/wpa_supplicant-wlan0.conf"
    assert f"ssid={'Zähler'.encode().hex()}" in wifi.read_text() and wifi.stat().st_mode & 0o777 == 0o600
    assert "Set-up code" in box.run_file("issue.d/ridethrough.issue")


NO_PAGE = "Web page: none in the network ([web] listen)"


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("", [NO_PAGE]),
        ('[web]\nlisten = "127.0.0.1:8080"\n', [NO_PAGE]),
        (
            '[web]\nlisten = "[::]:8443"\n',
            ["Web page: https://rack.local:8443/", "          https://192.0.2.10:8443/"],
        ),
    ],
)
def test_the_report_names_no_page_that_is_not_there(box: Box, listen: str, said: list[str]) -> None:
    report = box.start(SETTINGS + listen + '[system]\nhostname = "rack"\naddress = "192.0.2.10/24"\n').splitlines()
    assert [line for line in report if "https://" in line or "Web page" in line] == said


def test_its_secrets_leave_the_partition_and_the_rest_stays(box: Box) -> None:
    assert "secrets were removed" in box.start(SETTINGS + SYSTEM)
    left = box.written()
    for secret in ("open sesame", "very secret", "a-long-community"):
        assert secret not in left
    assert 'hostname = "ups-cellar"' in left and "# our adapter" in left and 'ssid = "Zähler"' in left


def test_what_the_file_was_is_overwritten_on_the_partition(box: Box) -> None:
    """A new file in its place leaves the clusters of the old one as they are: any reader of the card finds them."""
    (box.boot / provision.FILE).write_text((SETTINGS + SYSTEM).replace("{root}", str(box.root)))
    os.link(box.boot / provision.FILE, box.root / "old clusters")
    assert "secrets were removed" in box.start()
    old = (box.root / "old clusters").read_bytes()
    assert len(old) > 500 and not any(secret.encode() in old for secret in SECRETS)
    assert "ups-cellar" in box.written()


def test_once_per_content(box: Box) -> None:
    box.start(SETTINGS + SYSTEM)
    box.places.config.write_text(box.places.config.read_text().replace("192.0.2.9", "192.0.2.99"))
    assert "was taken over before" in box.start()  # what a page or an administrator changed since stays
    assert "192.0.2.99" in box.places.config.read_text()
    assert "was taken over before" in box.start(SETTINGS + SYSTEM)
    text = box.written().replace("ups-cellar", "ups-attic")
    assert "taken over." in box.start(text)
    assert box.names[-1] == "ups-attic" and "192.0.2.9" in box.places.config.read_text()


def test_a_content_that_was_replaced_by_another_is_taken_over_again(box: Box) -> None:
    """Back to the first settings with the first file: "once" is only for the content that was taken over last."""
    first, second = S + 'hostname = "first"\n', S + 'hostname = "second"\n'
    for text, name in ((first, "first"), (second, "second"), (first, "first"), (second, "second")):
        assert "taken over." in box.start(text) and box.names[-1] == name
        assert "was taken over before" in box.start() and box.names[-1] == name
    # also as it lies there without its secrets
    box.start(S + 'hostname = "third"\nsetup_code = "open sesame 42"\n')
    left = box.written()
    box.start(first)
    assert "taken over." in box.start(left) and box.names[-1] == "third" and "open sesame" not in left
    # what an earlier version has kept: every content there was
    (box.root / "system/taken.json").write_text(json.dumps([hashlib.sha256(first.encode()).hexdigest(), "1", "2"]))
    assert "taken over." in box.start(first)


def test_a_secret_that_is_not_said_again_is_kept(box: Box) -> None:
    box.start(SETTINGS + SYSTEM)
    wifi = box.run_file("wpa_supplicant/wpa_supplicant-wlan0.conf")
    box.start(box.written().replace("192.0.2.10/24", "192.0.2.11/24"))
    assert box.run_file("wpa_supplicant/wpa_supplicant-wlan0.conf") == wifi
    assert box.first_password() == "open sesame 42"
    assert vault.read(box.root / "state/faces/secrets.json") == {"monitoring": "a-long-community"}


def test_system_alone_leaves_the_configuration(box: Box) -> None:
    box.start(SETTINGS)
    before = box.places.config.read_text()
    assert "[system] alone" in box.start('[system]\nhostname = "x1"\n')
    assert box.places.config.read_text() == before and box.names[-1] == "x1"


def test_what_is_no_more_is_taken_back_without_another_start(box: Box) -> None:
    """The helper runs it again when the network is changed."""
    box.start(SETTINGS + SYSTEM)
    names = [box.root / "run" / name for name in hostsetup.SOMETIMES]
    assert all(path.exists() for path in names)
    vault.write_private(box.root / "system/system.json", json.dumps(wire.to_json(System())).encode())
    box.start()
    assert not any(path.exists() for path in names) and box.names[-1] == "ridethrough"


def test_a_secret_goes_to_whoever_needs_it(box: Box) -> None:
    """The core logs in to another server's UPS and to servers; communities are the faces'."""
    text = SETTINGS.replace('driver = "simulator"', 'driver = "nut"\nhost = "192.0.2.5"\nuser = "u"\nsecret = "upsd"')
    text += (
        'how = "http"\ninsecure = true\nurl = "http://192.0.2.9/off?{secret}"\nsecret = "token"\n[system.secrets]\n'
    )
    report = box.start(text + 'upsd = "of the UPS"\ntoken = "of the server"\nmonitoring = "a-long-community"\n')
    assert "ridethrough.toml: taken over." in report, report
    assert vault.read(box.root / "state/core/secrets.json") == {"upsd": "of the UPS", "token": "of the server"}
    assert vault.read(box.root / "state/faces/secrets.json") == {"monitoring": "a-long-community"}


def test_a_password_hash_lets_in(box: Box) -> None:
    line = passwords.encode("a fine pass phrase")
    report = box.start(SETTINGS + f'[system]\npassword_hash = "{line}"\n')
    assert "Set-up code" not in report and line not in box.written()
    accounts = login.Accounts(box.root / "state/faces", lambda: 0.0, boot="")
    assert accounts.session(accounts.login("a fine pass phrase", "192.0.2.1"))
    with pytest.raises(login.LoginError):
        accounts.login("another one phrase", "192.0.2.1")


S = "[system]\n"
GOOD = {o.name: o.default for o in hostsetup.SYSTEM}
BAD = {
    "a wrong key": (S + 'hostnam = "x"\n', "hostnam: unknown option"),
    "a wrong type": (S + "hostname = 7\n", "hostname = 7: must be a text"),
    "no TOML": ("[system\nhostname = x\n", "is no TOML"),
    "a word processor's": (b"\xff\xfe[\0s\0", "is UTF-16; save it as UTF-8"),
    "binary": (bytes(range(256)) * 4, "is not UTF-8"),
    "huge": (b"#" * 300_000, "larger than 256 KiB"),
    "a long line": (b"#" * 200_000, "a line of more than"),
    "a host name with blanks": (S + 'hostname = "my ups"\n', "letters, digits and dashes"),
    "an address without network": (S + 'address = "192.0.2.10"\n', 'such as "192.0.2.10/24"'),
    "a network's address": (S + 'address = "192.0.2.0/24"\n', "network's own or its broadcast"),
    "no network at all": (S + 'address = "192.0.2.10/0"\n', 'such as "192.0.2.10/24"'),
    "everybody's address": (S + 'address = "255.255.255.255/32"\n', "no host can have this address"),
    "IPv4 in other words": (S + 'address = "::ffff:192.0.2.10/120"\n', "write 192.0.2.10/24"),
    "this machine's own name": (S + 'hostname = "LocalHost"\n', "means each host itself"),
    "a gateway elsewhere": (S + 'address = "192.0.2.10/24"\ngateway = "10.0.0.1"\n', "is not in 192.0.2.0/24"),
    "a gateway and DHCP": (S + 'gateway = "10.0.0.1"\n', "needs a fixed address"),
    "a time zone": (S + 'timezone = "Berlin"\n', "called like Europe/Berlin"),
    "a time zone's path": (S + 'timezone = "../../etc/passwd"\n', "no such time zone"),
    "a cut ssh key": (S + f'ssh_keys = ["{KEY[:30]}"]\n', "cut or damaged"),
    "an ssh key without its end": (S + f'ssh_keys = ["{KEY[:-12]}"]\n', "cut or damaged"),
    "an ssh key of another kind": (S + f"ssh_keys = [\"{KEY.replace('-ed25519', '-rsa', 1)}\"]\n", "cut or damaged"),
    "line breaks in a name server": (S + 'dns = ["192.0.2.1", "fe80::1%a\\n[Route]"]\n', "must be an IP address"),
    "line breaks in an address": (S + 'address = "2001:db8::7%a\\nDNS=x/64"\n', "must be one line"),
    "a scope in an address": (S + 'address = "2001:db8::7%eth0/64"\n', "without %"),
    "a scope in a gateway": (S + 'address = "2001:db8::7/64"\ngateway = "fe80::1%eth0"\n', "address, without %"),
    "line breaks in a time server": (S + 'ntp = ["ntp.example\\nX=1"]\n', "[system] ntp"),
    "an ssh key with options": (S + f"ssh_keys = ['command=\"x\" {KEY}']\n", "the line of a public key"),
    "two ssh keys in one": (S + f'ssh_keys = ["{KEY}\\n{KEY}"]\n', "the line of a public key"),
    "a short set-up code": (S + 'setup_code = "1234567"\n', "setup_code: 8 to 64"),
    "a plain password": (S + 'password_hash = "hunter2hunter2"\n', "make it with: ridethrough password hash"),
    "a short pass phrase": (S + '[system.wifi]\nssid = "a"\ncountry = "DE"\npassphrase = "1"\n', "8 to 63"),
    "no pass phrase": (S + '[system.wifi]\nssid = "a"\ncountry = "DE"\n', "passphrase is missing"),
    "no country": (S + '[system.wifi]\nssid = "a"\npassphrase = "12345678"\n', "country is missing"),
    "secrets in a list": (S + 'secrets = ["a"]\n', 'LABEL = "VALUE"'),
    "system in a list": ('[[system]]\nhostname = "x"\n', "[system] must be a table"),
    "an unknown driver": ('[ups]\ndriver = "usbhit"\n', "usbhit"),
    "an unknown stage": (SETTINGS + 'stage = "late"\n', "no such [[stage]]"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_file_is_reported_and_the_box_comes_up_by_dhcp(box: Box, name: str) -> None:
    text, why = BAD[name]
    report = box.start(text)
    assert "NOT taken over" in report and why in report, report
    assert "runs with DHCP and no servers" in report
    assert "DHCP=yes" in box.run_file("systemd/network/20-wired.network") and box.names == ["ridethrough"]
    found, problems = process.load(box.places.config)
    assert found.web is not None and found.servers == () and found.driver
    assert problems and all(p.section == "system" for p in problems) and why in "\n".join(p.text for p in problems)
    assert "Set-up code: " in report and box.first_password() in report


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_file_changes_nothing_of_what_was(box: Box, name: str) -> None:
    box.start(SETTINGS + SYSTEM)
    before, network = box.places.config.read_text(), box.run_file("systemd/network/20-wired.network")
    if name == "no pass phrase":
        return  # of the first file: another network
    report = box.start(BAD[name][0])
    assert "runs with what it had before" in report
    assert box.places.config.read_text() == before
    assert box.run_file("systemd/network/20-wired.network") == network


def test_without_a_data_partition_it_protects_and_says_how_to_get_a_new_one(box: Box) -> None:
    (box.root / "run").mkdir()
    (box.root / "run" / provision.DATA_BAD).write_text("Superblock\n  invalid\n")
    report = box.start(SETTINGS + SYSTEM)
    found, problems = process.load(box.places.config)
    assert [s.name for s in found.servers] == ["nas"] and "taken over." in report
    for text in (report, box.run_file("issue.d/ridethrough.issue"), problems[0].text):
        assert "data partition cannot be used (Superblock invalid)" in text and "file called recreate-data" in text
    assert len(problems) == 1 and problems[0].section not in config.PROTECTING
    (box.root / "run" / provision.DATA_BAD).unlink()
    assert "data partition" not in box.start() and process.load(box.places.config)[1] == ()


#: file -> the report's whole line: what is wrong, where, and what to do
WRONG = {
    "wrong key": (S + 'hostnam = "x"\n', '[system] hostnam: unknown option (did you mean "hostname"?)'),
    "wrong type": (S + "hostname = 7\n", "[system] hostname = 7: must be a text in quotes"),
    "binary": (b"\x7fELF\x02\x01\n\xff" * 99, "is not UTF-8 (byte 7, line 2); save it as UTF-8"),
    "zeros": (bytes(4096), "is no TOML: Invalid statement (at line 1, column 1); "
              "compare it with ridethrough.toml.example"),
    "huge": (b"# \n" * 100_000, "larger than 256 KiB: is this the right file?"),
    "not UTF-8": ((S + 'hostname = "Keller-').encode() + b'\xe4"\n',
                  "is not UTF-8 (byte 28, line 2); save it as UTF-8"),
    "UTF-16": ("\ufeff[system]\n".encode("utf-16-le"), "is UTF-16; save it as UTF-8"),
    "no TOML": (S + "hostname = ups\n", "is no TOML: Invalid value (at line 2, column 12); "
                "compare it with ridethrough.toml.example"),
    "a number for a secret": (S + "setup_code = 987654321\n", "[system] setup_code: must be a text in quotes"),
    "a number for a pass phrase": ('[system.wifi]\nssid = "a"\ncountry = "DE"\npassphrase = 987654321\n',
                                   "[system.wifi] passphrase: must be a text in quotes"),
    "a list for a hash": (S + 'password_hash = ["987654321"]\n', "[system] password_hash: must be a text in quotes"),
    "a short secret": (S + 'setup_code = "9876543"\n',
                       "[system] setup_code: 8 to 64 printable characters, no blank at its ends"),
    "a secret twice": (S + f'setup_code = "987654321"\npassword_hash = "{passwords.encode("987654321 98")}"\n',
                       "[system] setup_code and password_hash: only one of them"),
    "a key twice": (S + 'setup_code = "987654321"\nsetup_code = "987654321"\n',
                    "is no TOML: Cannot overwrite a value (at line 3, column 25); "
                    "compare it with ridethrough.toml.example"),
    "a table twice": (S + 'setup_code = "987654321"\n[ups]\ndriver = "auto"\n' + S,
                      "is no TOML: Cannot declare ('system',) twice (at line 5, column 8); "
                      "compare it with ridethrough.toml.example"),
    "a secret in the wrong place": ('setup_code = "987654321"\n' + S, "[setup_code]: unknown section"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (S + '"a\\nb" = 1\n', "[system] a\\nb: unknown option"),
        ('["a\\u001b[2Jb"]\nx = 1\n', "[a\\x1b[2Jb]: unknown section"),
        ('[ups]\ndriver = "a\\nb"\n', 'driver: no driver "a\\nb"; there are: '),
    ],
)
def test_what_a_console_would_obey_is_shown_and_one_mistake_is_one_line(box: Box, text: str, line: str) -> None:
    report = box.start(text)
    assert line in report and line in box.run_file("ridethrough-system/problems")
    for shown in (report, box.run_file("issue.d/ridethrough.issue"), box.run_file("ridethrough-system/problems")):
        assert all(row.isprintable() for row in shown.splitlines())


@pytest.mark.parametrize("name", WRONG)
def test_the_report_names_place_and_remedy_and_no_secret(box: Box, name: str) -> None:
    text, line = WRONG[name]
    report = box.start(text)
    rows = report.split("\r\n")
    assert f"  {line}" in rows, report
    assert "NOT taken over, mistakes: " in report and "runs with DHCP and no servers" in report
    where = ["issue.d/ridethrough.issue", "ridethrough-system/problems"]
    assert line in box.run_file(where[1]) and line in box.run_file(where[0])
    for shown in (report, *map(box.run_file, where), box.places.config.read_text()):
        assert "987654" not in shown
    assert not (box.root / "system/taken.json").exists() and not (box.root / "system/system.json").exists()
    # mended, it is taken over
    assert "taken over." in box.start(S + 'hostname = "mended"\n') and box.names[-1] == "mended"
    assert box.run_file(where[1]) == ""


def test_a_wrong_file_with_secrets_keeps_them_and_says_so(box: Box) -> None:
    report = box.start(SETTINGS + SYSTEM.replace("Europe/Berlin", "Berlin"))
    assert "its secrets stay on this partition until it is taken over" in report and "open sesame" in box.written()
    for secret in ("open sesame", "very secret", "a-long-community"):
        assert secret not in report and secret not in box.run_file("ridethrough-system/problems")
    assert "secrets were removed" in box.start(SETTINGS + SYSTEM) and "open sesame" not in box.written()


SECRETS = ("open sesame", "very secret", "a-long-community")


def secrets_left(box: Box) -> list[str]:
    """Which secrets can be read on the boot partition, in the configuration or in what the page shows."""
    paths = [p for p in box.boot.rglob("*") if p.is_file() and p.name != provision.REPORT]
    paths += [box.places.config, box.root / "run/ridethrough-system/problems"]
    return [f"{secret} in {p.name}" for p in paths for secret in SECRETS if secret.encode() in p.read_bytes()]


#: a whole file in pieces that may stand in any order
PIECES = {
    "system": '[system]\nsetup_code = "open sesame 42"\n',
    "settings": SETTINGS, "web": '[web]\nlisten = "[::]:443"\n',
    "wifi": '[system.wifi]\nssid = "a"\ncountry = "DE"\npassphrase = "very secret wifi"\n',
    "secrets": '[system.secrets]\nmonitoring = "a-long-community"\n',
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        *("".join(PIECES[name] for name in order.split()) for order in (
            "wifi settings system web secrets", "system settings wifi web secrets",
            "secrets settings wifi system web",
        )),
        # the same in other words, which TOML allows
        'system.setup_code = "open sesame 42"\nsystem.dns = ["192.0.2.1"]\n' + SETTINGS + PIECES["web"],
        'system.setup_code = "open sesame 42"\nsystem.wifi.ssid = "a"\nsystem.wifi.country = "DE"\n'
        'system.wifi.passphrase = "very secret wifi"\nsystem.secrets.monitoring = "a-long-community"\n' + SETTINGS,
        'system = {dns = [], secrets = {monitoring = "a-long-community"}}\n' + SETTINGS,
        '["system"]\n\'dns\' = []\n"setup_c\\u006fde" = "open sesame 42"\n' + SETTINGS,
    ],
)  # fmt: skip
def test_tables_may_stand_in_any_order(box: Box, text: str) -> None:
    """tomlkit 0.15 raises IndexError when a key leaves a table that stands in pieces."""
    report = box.start(text)
    assert "ridethrough.toml: taken over." in report and "its secrets were removed" in report, report
    assert secrets_left(box) == []
    found, problems = process.load(box.places.config)
    assert problems == () and [s.name for s in found.servers] == ["nas"]
    assert "system" not in tomllib.loads(box.places.config.read_text())
    assert tomllib.loads(box.written())["server"][0]["name"] == "nas"
    assert "was taken over before" in box.start()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([*PIECES.values(), *("".join(p.splitlines(True)[1:]) for p in PIECES.values())])))
def test_whatever_stands_in_it_in_whatever_order_nothing_but_mistakes_is_said(pieces: list[str]) -> None:
    data = "".join(pieces).replace("{root}", "/x").encode()
    cleaned = bootfile.without_secrets(data)
    try:
        given = bootfile.read(data, System(), lambda name: True)
    except Wrong as e:
        assert e.lines and all(line.strip() for line in e.lines)
        return
    assert not any(secret.encode() in cleaned or secret in given.settings_text for secret in SECRETS)


def test_the_same_file_put_there_again_loses_its_secrets_again(box: Box) -> None:
    box.start(SETTINGS + SYSTEM)
    report = box.start(SETTINGS + SYSTEM)
    assert "was taken over before" in report and "its secrets were removed from this partition" in report
    assert secrets_left(box) == []


def test_secrets_that_could_not_be_removed_are_said_on_the_page_and_removed_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only card, or a power cut between the taking over and the removing."""

    class Fixed:
        f_flag = os.ST_RDONLY

    def refuse(path: Path, how: str) -> None:
        raise OSError(30, "Read-only file system", str(path))

    (box.boot / provision.FILE).write_text((SETTINGS + SYSTEM).replace("{root}", str(box.root)))
    with monkeypatch.context() as fixed:
        fixed.setattr(os, "statvfs", lambda path: Fixed())
        places = replace(box.places, mount=refuse)
        for begin in ("taken over.", "was taken over before"):
            said = "\n".join(provision.run(places))
            assert begin in said and "could NOT be removed from this partition (Read-only file system)" in said
            assert "report could not be written" in said
            assert "remove them yourself" in box.run_file("ridethrough-system/problems")
            assert "remove them yourself" in box.run_file("issue.d/ridethrough.issue")
        assert process.load(box.places.config)[0].servers  # it works all the same
    assert secrets_left(box) != []
    assert "its secrets were removed from this partition" in box.start() and secrets_left(box) == []
    assert box.run_file("ridethrough-system/problems") == ""


def test_a_file_that_cannot_be_kept_is_kept_not_at_all(box: Box) -> None:
    """A full or failing data partition: not half of the file."""
    box.start(SETTINGS + SYSTEM)
    before = {p: p.read_bytes() for place in ("state", "system", "etc") for p in (box.root / place).rglob("*")
              if p.is_file()}  # fmt: skip
    (box.root / "state/faces/sessions.json").mkdir()
    report = box.start((SETTINGS + SYSTEM).replace("192.0.2.10/24", "192.0.2.77/24"))
    assert "could not be kept" in report and "tried again at the next start" in report
    assert {p: p.read_bytes() for p in before} == before and "192.0.2.77" in box.written()
    assert "could not be kept" in box.run_file("ridethrough-system/problems")
    (box.root / "state/faces/sessions.json").rmdir()
    assert "taken over." in box.start() and "192.0.2.77" in box.run_file("systemd/network/20-wired.network")


def test_a_boot_partition_that_cannot_be_read_is_no_reason_not_to_come_up(box: Box) -> None:
    said = provision.run(replace(box.places, boot=box.boot / ("x" * 300)))  # whatever is asked of it fails
    assert "DHCP=yes" in box.run_file("systemd/network/20-wired.network") and box.places.config.exists()
    assert any("report could not be written" in line for line in said)
    (box.boot / provision.FILE).mkdir()
    assert "Is a directory; not taken over: write it anew" in box.start()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty: write the settings into it; ridethrough.toml.example shows how"),
        (" \n", "is empty: write the settings into it"),
        ("\ufeff\r\n", "is empty: write the settings into it"),
        (None, "There is no ridethrough.toml"),
    ],
)
def test_without_a_file_it_comes_up_with_defaults(box: Box, text: str | None, why: str) -> None:
    report = box.start(text)
    assert why in report and "NOT" not in report
    found, problems = process.load(box.places.config)
    assert problems == () and found.web is not None


def test_windows_names_and_line_ends(box: Box) -> None:
    (box.boot / "ridethrough.toml.txt").write_text("x")
    assert "call it ridethrough.toml" in box.start()
    assert "taken over." in box.start(b"\xef\xbb\xbf" + (S + 'hostname = "x2"\n').replace("\n", "\r\n").encode())
    assert box.names[-1] == "x2" and "was taken over before" in box.start()


def test_factory_reset_forgets_everything_and_once(box: Box) -> None:
    box.start(SETTINGS + SYSTEM)
    (box.root / "state/core").mkdir(exist_ok=True)
    (box.root / "state/core/slots").write_bytes(b"x")
    (box.root / "state/before-restore-20260101-000000.backup").write_bytes(b"x")
    (box.boot / provision.FILE).unlink()
    (box.boot / provision.RESET).touch()
    report = box.start()
    assert "everything was forgotten" in report and box.names[-1] == "ridethrough"
    assert [p.name for p in (box.root / "state").rglob("*") if p.is_file()] == ["first-password"]
    assert "nas" not in box.places.config.read_text()
    assert not list(box.boot.glob("factory*"))
    assert "forgotten" not in box.start()


def test_a_wish_for_a_reset_that_windows_has_named_is_said_and_not_done(box: Box) -> None:
    box.start(SETTINGS + SYSTEM)
    (box.boot / "factory-reset.txt").touch()
    assert "There is factory-reset.txt: call it factory-reset (Windows may hide" in box.start()
    assert (box.boot / "factory-reset.txt").exists() and "nas" in box.places.config.read_text()


def test_a_reset_that_was_cut_off_goes_on(box: Box) -> None:
    box.start(SETTINGS)
    (box.boot / provision.FILE).unlink()
    (box.boot / provision.DOING).touch()
    assert "everything was forgotten" in box.start()


def test_a_partition_that_cannot_be_written_is_said_and_nothing_is_forgotten(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.start(SETTINGS)
    (box.boot / provision.RESET).touch()

    def refuse(path: Path, how: str) -> None:
        raise OSError(30, f"cannot be made {how}", str(path))

    class Fixed:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda path: Fixed())
    said = provision.run(Places(boot=box.boot, system=box.root / "system", config=box.places.config,
                                run=box.root / "run", set_hostname=box.names.append, mount=refuse))  # fmt: skip
    assert any("not everything is forgotten" in line for line in said)
    assert "nas" in box.places.config.read_text()


def test_the_partition_is_writable_only_while_it_is_written(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts: list[str] = []

    class Fixed:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda path: Fixed())
    places = Places(boot=box.boot, system=box.root / "system", config=box.places.config, run=box.root / "run",
                    set_hostname=box.names.append, mount=lambda path, how: mounts.append(how))  # fmt: skip
    (box.boot / provision.FILE).write_text(S + 'setup_code = "12345678"\n')
    provision.run(places)
    assert mounts == ["rw", "ro", "rw", "ro"]  # without its secrets; the report
    provision.run(places)
    last = len(mounts)
    provision.run(places)
    assert len(mounts) == last  # the same report is not written again


def test_a_damaged_memory_comes_up_by_dhcp_and_says_so(box: Box) -> None:
    box.start(SETTINGS + SYSTEM)
    (box.root / "system/system.json").write_text("{")
    assert "system.json" in box.start() and box.names[-1] == "ridethrough"
    for damaged in ('{"address": "192.0.2.1p/24"}', '{"hostname": "a\\nb"}', "[" * 100_000):
        (box.root / "system/system.json").write_text(damaged)
        assert "system.json" in box.start() and box.names[-1] == "ridethrough"
        assert "DHCP=yes" in box.run_file("systemd/network/20-wired.network")
    (box.root / "system/taken.json").write_text("{")
    assert "passphrase is missing" in box.start()  # it was removed from the partition, and its key is lost
    assert "taken over." in box.start(SETTINGS + SYSTEM)


@pytest.mark.parametrize(
    "line",
    [
        ssh_key("ssh-rsa", b"\1\0\1", b"\0" + b"\xc5" * 256),
        ssh_key("ecdsa-sha2-nistp256", b"nistp256", b"\4" + bytes(64)),
        ssh_key("ecdsa-sha2-nistp521", b"nistp521", b"\4" + bytes(132)),
        ssh_key("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"),
        KEY.removesuffix(" me@home"),
        "ssh-ed25519  " + KEY.partition(" ")[2],
    ],
)
def test_a_whole_ssh_key_is_taken_and_no_part_of_it(box: Box, line: str) -> None:
    assert "taken over." in box.start(S + f'ssh_keys = ["{line}"]\n')
    kind, data = line.split()[:2]
    raw = base64.b64decode(data)
    for cut in range(1, len(raw)):
        part = f"{kind} {base64.b64encode(raw[:cut]).decode()}"
        assert hostsetup.wrong({**GOOD, "ssh_keys": [part]}, lambda name: True), cut
    longer = f"{kind} {base64.b64encode(raw + bytes(4)).decode()}"
    assert hostsetup.wrong({**GOOD, "ssh_keys": [longer]}, lambda name: True)


@pytest.mark.parametrize(
    "line",
    [
        ssh_key("ssh-ed25519", bytes(31)),
        ssh_key("ecdsa-sha2-nistp256", b"nistp384", b"\4" + bytes(64)),
        ssh_key("ecdsa-sha2-nistp256", b"nistp256", b"\2" + bytes(64)),
        ssh_key("ssh-rsa", b"\1\0\1", b"\x05" * 64),
        ssh_key("ssh-rsa", b"\1\0\1"),
        ssh_key("ssh-ed25519", bytes(32), b"more"),
    ],
)
def test_a_key_whose_fields_do_not_fit_its_kind_is_refused(line: str) -> None:
    assert "cut or damaged" in hostsetup.wrong({**GOOD, "ssh_keys": [line]}, lambda name: True)[0]


def test_a_name_server_may_have_the_scope_of_an_interface() -> None:
    assert hostsetup.wrong({**GOOD, "dns": ["fe80::1%eth0", "192.0.2.1", "2001:db8::1"]}, lambda name: True) == []
    for bad in ("fe80::1%", "fe80::1%a b", "fe80::1%eth0\n", "fe80::1%x/y", "192.0.2.1%eth0"):
        assert hostsetup.wrong({**GOOD, "dns": [bad]}, lambda name: True), bad


@pytest.mark.parametrize(
    ("said", "applied"),
    [
        ("192.0.2.10/255.255.255.0", "192.0.2.10/24"),
        ("192.0.2.10/024", "192.0.2.10/24"),
        ("2001:DB8:0::7/064", "2001:db8::7/64"),
    ],
)
def test_an_address_is_applied_in_the_one_form_that_networkd_reads(box: Box, said: str, applied: str) -> None:
    """Anything else after the slash makes systemd-networkd leave the line out: a box without an address."""
    box.start(S + f'address = "{said}"\n')
    lines = box.run_file("systemd/network/20-wired.network").splitlines()
    assert f"Address={applied}" in lines and "DHCP=yes" not in lines
    assert hostsetup.ways_in(System(address=said), 443, [])[1].strip().startswith("https://")


def test_a_wifi_key_is_that_of_the_standard() -> None:
    # IEEE 802.11i-2004, H.4.1, test cases 1 and 2
    assert hostsetup.psk("IEEE", "password") == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    assert hostsetup.psk("ThisIsASSID", "ThisIsAPassword") == (
        "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: ("[system]\n" + t).encode())))
def test_any_bytes_are_read_or_refused_with_lines(data: bytes) -> None:
    try:
        bootfile.read(data, System(), lambda name: True)
    except Wrong as e:
        assert e.lines and all(line.strip() for line in e.lines)


def test_what_is_kept_of_system_is_no_secret_of_the_page(box: Box) -> None:
    box.start(SETTINGS + SYSTEM)
    kept = (box.root / "system/system.json").read_text()
    assert "open sesame" not in kept and "very secret" not in kept
    assert json.loads(kept)["hostname"] == "ups-cellar"
