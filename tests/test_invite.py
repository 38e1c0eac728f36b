"""The verb enroll: one command for one server, with the right address and fingerprint; and what stands in the way."""

import json
import shlex
import socket
import threading
from dataclasses import replace

import pytest

from agent import __main__ as command_line
from agent import enroll, httpd, invite, pyz, tls
from agent.codes import Codes
from agent.config import Config, Server, Web
from agent.model import ConfigError
from agent.vault import write_private
from tests.fakecore import FakeCore, on_line

VIEW = on_line(
    servers=tuple(
        replace(on_line().servers[0], name=name, address="127.0.0.1", how=how, trust=trust, state=state)
        for name, how, trust, state in (
            ("nas", "rccmd", "classic", "reachable"),
            ("vm-host", "rccmd", "secure", "proven"),
            ("db", "rccmd", "not-enrolled", "unknown"),
            ("switch", "ssh", "", "proven"),
        )
    )
)


def arguments(*words):
    return command_line.parser().parse_args(["enroll", *words, "--config", "/etc/r.toml"])


class Adapter:
    """A state folder, and the page in front of it if `listen` is one."""

    def __init__(self, folder, *, listen="127.0.0.1:0", program=None):
        self.folder = folder
        self.faces = folder / "faces"
        write_private(self.faces / "tls.pem", tls.make(["localhost"]))
        context, _ = tls.context(self.faces, [])
        desk = enroll.Desk(lambda e, s: [], None, self.faces / "enrol", "ups", program=program)
        self.server = httpd.Server(listen, desk, context)
        self.server.bind()
        self.port = self.server.address[1]
        self.thread = threading.Thread(target=self.server.run, args=(threading.Event(),))
        self.thread.start()

    def settings(self, listen=None, **more):
        web = Web(listen=listen or f"127.0.0.1:{self.port}", tls="on")
        return Config(**{"state_dir": str(self.folder), "web": web, **more})

    def stop(self):
        self.server.stop()
        self.thread.join(5)


@pytest.fixture
def adapter(tmp_path):
    made = Adapter(tmp_path)
    yield made
    made.stop()


def test_it_prints_one_command_and_explains_it_aside(adapter, capsys):
    assert invite.main(arguments("nas"), adapter.settings(), VIEW) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1, "one line, fit for a pipe"
    *_, place, fingerprint, sha256, name, code = shlex.split(out)
    assert place == f"127.0.0.1:{adapter.port}" and name == "nas"
    assert fingerprint == tls.fingerprint(adapter.faces) and sha256 == pyz.sha256(pyz.build())
    for part in ("within 10 minutes", "nas (127.0.0.1)", place, "--dry-run", f"code {code} is good once", "sudo"):
        assert part in err, err
    assert "warning" not in err and "enrolled already" not in err
    assert Codes(adapter.faces / "enrol").take("nas", code) is not None


def test_the_lines_that_make_it_secure_for_good_are_shown_unless_they_are_there(adapter, capsys):
    invite.main(arguments("nas"), adapter.settings(), VIEW)
    assert 'name = "nas"\n    address = "127.0.0.1"\n    secure = true' in capsys.readouterr().err
    settled = Server(name="nas", address="127.0.0.1", options={"secure": True})
    invite.main(arguments("nas"), replace(adapter.settings(), servers=(settled,)), VIEW)
    assert "secure = true" not in capsys.readouterr().err


def test_a_port_that_the_listener_cannot_have_is_refused_before_there_is_a_code(adapter):
    low = replace(VIEW, servers=tuple(replace(s, port=600) for s in VIEW.servers))
    with pytest.raises(ConfigError, match="port = 600: the listener has no privileges for ports below 1024"):
        invite.main(arguments("nas"), adapter.settings(), low)
    assert not (adapter.faces / "enrol" / "codes.json").exists()


def test_the_fingerprint_is_the_one_that_the_page_says(adapter):
    _, shown = tls.context(adapter.faces, [])
    assert tls.fingerprint(adapter.faces) == shown.replace(":", "").lower()


def test_for_windows_it_is_powershell(adapter, capsys):
    assert invite.main(arguments("nas", "--windows"), adapter.settings(), VIEW) == 0
    out, err = capsys.readouterr()
    assert out.startswith('py -3 -I -c "import ') and "administrator" in err


def test_as_json_it_is_one_object(adapter, capsys):
    assert invite.main(arguments("nas", "--json"), adapter.settings(), VIEW) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert set(told) == {
        "name", "adapter", "fingerprint", "sha256", "code", "life_s", "shell", "command", "warnings"
    }  # fmt: skip
    assert (told["name"], told["shell"], told["life_s"], told["warnings"]) == ("nas", "sh", 600.0, [])
    assert shlex.split(told["command"])[-1] == told["code"] and err == ""


def test_an_enrolled_server_gets_a_new_key_and_it_says_so(adapter, capsys):
    assert invite.main(arguments("vm-host"), adapter.settings(), VIEW) == 0
    assert "enrolled already" in capsys.readouterr().err


def test_without_a_name_it_lists_who_is_enrolled(capsys):
    assert invite.main(arguments(), Config(), VIEW) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nas  127.0.0.1:6003  not enrolled, told by classic RCCMD",
        "vm-host  127.0.0.1:6003  enrolled, proven",
        "db  127.0.0.1:6003  not enrolled, cannot be told",
    ]
    assert invite.main(arguments("--json"), Config(), VIEW) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["name"], r["trust"]) for r in rows] == [
        ("nas", "classic"),
        ("vm-host", "secure"),
        ("db", "not-enrolled"),
    ]
    assert invite.main(arguments(), Config(), replace(VIEW, servers=())) == 0
    assert "no server" in capsys.readouterr().out


# --- the address ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("192.0.2.1", "192.0.2.1:PORT"),
        ("192.0.2.1:8443", "192.0.2.1:8443"),
        ("2001:db8::1", "[2001:db8::1]:PORT"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("[2001:db8::1]", "[2001:db8::1]:PORT"),
        (socket.gethostname(), f"{socket.gethostname()}:PORT"),
        ("usv", "usv:PORT"),
    ],
)
def test_the_address_may_be_given(adapter, capsys, given, place):
    settings = adapter.settings(name="usv")
    assert invite.main(arguments("nas", "--address", given, "--json"), settings, VIEW) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] == place.replace("PORT", str(adapter.port))


@pytest.mark.parametrize(
    "given", ["", ":443", "a b", "192.0.2.1:99999", "fe80::1%eth0", "0.0.0.0", "300.1.1.1", "$(id)"]
)
def test_an_address_that_is_none_is_refused(adapter, given):
    with pytest.raises(ConfigError):
        invite.main(arguments("nas", "--address", given), adapter.settings(), VIEW)


def test_a_name_under_which_the_page_does_not_answer_is_refused(adapter):
    with pytest.raises(ConfigError, match="does not answer under the name ups.example.org"):
        invite.main(arguments("nas", "--address", "ups.example.org"), adapter.settings(), VIEW)


@pytest.mark.parametrize("listen", ["0.0.0.0", "[::]"])
def test_a_page_for_everybody_is_reached_at_our_address_on_the_way(tmp_path, capsys, listen):
    try:
        adapter = Adapter(tmp_path, listen=f"{listen}:0")
    except ConfigError:
        pytest.skip("there is no IPv6 here")
    try:
        settings = adapter.settings(f"{listen}:{adapter.port}")
        assert invite.main(arguments("nas", "--json"), settings, VIEW) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["adapter"] == f"127.0.0.1:{adapter.port}" and told["warnings"] == []
    finally:
        adapter.stop()


def test_a_loopback_page_is_warned_of(adapter, capsys):
    far = replace(VIEW, servers=(replace(VIEW.servers[0], address="192.0.2.10"),))
    assert invite.main(arguments("nas"), adapter.settings(), far) == 0
    assert "warning: 127.0.0.1 is this machine itself: nas cannot reach the page there" in capsys.readouterr().err


# --- what stands in the way -------------------------------------------------------------------------------------


def no_code(adapter):
    return not (adapter.faces / "enrol" / "codes.json").exists()


def test_a_page_without_tls_or_none_at_all_is_refused_with_the_lines_to_add(adapter):
    for web, why in ((None, "it is off"), (Web(listen="127.0.0.1:8080"), "without TLS")):
        with pytest.raises(ConfigError, match=f'{why}(.|\n)*/etc/r.toml(.|\n)*listen = "0.0.0.0:443"'):
            invite.main(arguments("nas"), adapter.settings(web=web), VIEW)
    assert no_code(adapter)


def test_a_server_that_is_not_there_is_refused_with_the_lines_to_add(adapter):
    with pytest.raises(ConfigError, match=r'no server web \(there are: nas, vm-host, db\)(.|\n)*name = "web"'):
        invite.main(arguments("web"), adapter.settings(), VIEW)
    with pytest.raises(ConfigError, match='how = "ssh"'):
        invite.main(arguments("switch"), adapter.settings(), VIEW)
    new = Server(name="new", address="192.0.2.7")
    with pytest.raises(ConfigError, match="not yet in force"):
        invite.main(arguments("new"), adapter.settings(servers=(new,)), VIEW)
    classic = Server(name="nas", address="192.0.2.7", options={"secure": False})
    with pytest.raises(ConfigError, match="secure = false"):
        invite.main(arguments("nas"), adapter.settings(servers=(classic,)), VIEW)
    assert no_code(adapter)


def test_without_a_certificate_it_says_how_to_get_one(tmp_path):
    settings = Config(state_dir=str(tmp_path), web=Web(listen="127.0.0.1:1", tls="on"))
    with pytest.raises(ConfigError, match="`ridethrough faces` makes it"):
        invite.main(arguments("nas"), settings, VIEW)


def test_a_page_that_does_not_run_or_runs_another_version_is_warned_of(adapter, tmp_path, capsys):
    assert invite.main(arguments("nas"), adapter.settings("127.0.0.1:1"), VIEW) == 0
    assert "warning: the page does not answer at 127.0.0.1:1" in capsys.readouterr().err
    older = Adapter(tmp_path / "older", program=b"older")
    try:
        assert invite.main(arguments("nas"), older.settings(), VIEW) == 0
        assert "hands out another rccmd.pyz" in capsys.readouterr().err
        (older.faces / "tls.pem").unlink()
        tls.context(older.faces, [])
        assert invite.main(arguments("nas"), older.settings(), VIEW) == 0
        assert "another certificate than tls.pem" in capsys.readouterr().err
    finally:
        older.stop()


def test_the_command_line_does_it_with_a_core_and_without_one_it_says_so(tmp_path, capsys):
    file = tmp_path / "ridethrough.toml"
    file.write_text(
        f'[agent]\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}"\n[ups]\ndriver = "simulator"\n'
        '[web]\nlisten = "127.0.0.1:1"\ntls = "on"\n'
    )
    tls.context(tmp_path / "state" / "faces", [])
    from agent import verbs

    args = command_line.parser().parse_args(["enroll", "nas", "--config", str(file)])
    assert verbs.main(args) == 1 and "no core" in capsys.readouterr().err
    with FakeCore(tmp_path / "core.sock", VIEW):
        assert verbs.main(args) == 0
        assert capsys.readouterr().out.startswith("python3 -I -c ")
