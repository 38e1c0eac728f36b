"""The command that is typed on a server: run by real shells and Python 3.9, against the real page and impostors."""

import json
import os
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from agent import bootstrap, enroll, httpd, pyz, tls
from agent.bootstrap import Order, for_powershell, for_sh
from tests import pythons

OLDEST = pythons.other("3.9")
PYTHONS = [sys.executable, *([str(OLDEST)] if OLDEST else [])]
ORDER = Order(adapter="[2001:db8::1]:443", fingerprint="ab" * 32, sha256="cd" * 32, name="nas", code="AAAAA-BBBBB")
CODE = "ABCDE-FGHJK-MNPQR-STVWX"

#: stands in for the real program: says what it was asked, and from where it runs
PROGRAM = """import json, os, sys
def main():
    if sys.argv[-1] == "fail":
        return 3
    print(json.dumps([sys.argv, os.stat(os.path.dirname(sys.argv[0])).st_mode & 0o777]))
    return 0
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A real page over TLS that hands out a small program; `order` fits it."""
    folder = tmp_path_factory.mktemp("adapter")
    source = folder / "rccmd"
    source.mkdir()
    (source / "__init__.py").write_text("")
    (source / "__main__.py").write_text(PROGRAM)
    program = pyz.build(source)
    desk = enroll.Desk(lambda e, s: [], None, folder / "enrol", "ups", program=program)
    context, _ = tls.context(folder, [])
    server = httpd.Server("127.0.0.1:0", desk, context)
    server.bind()
    thread = threading.Thread(target=server.run, args=(threading.Event(),))
    thread.start()
    order = Order(
        adapter=f"127.0.0.1:{server.address[1]}",
        fingerprint=tls.fingerprint(folder),
        sha256=pyz.sha256(program),
        name="nas",
        code=CODE,
    )
    yield order
    server.stop()
    thread.join(5)


def other(order, **changes):
    words = {f: getattr(order, f) for f in ("adapter", "fingerprint", "sha256", "name", "code")}
    return Order(**{**words, **changes})


def run(command, tmp_path, python=sys.executable, shell="/bin/sh"):
    """As an administrator would; `python` is the python3 that is there, and nothing of ours is in the environment."""
    programs, temporary = tmp_path / "bin", tmp_path / "tmp"
    programs.mkdir(exist_ok=True)
    temporary.mkdir(exist_ok=True)
    here = programs / "python3"
    here.unlink(missing_ok=True)
    here.symlink_to(python)
    env = {"PATH": f"{programs}:/usr/bin:/bin", "TMPDIR": str(temporary), "HOME": str(tmp_path)}
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, timeout=30, env=env, cwd=tmp_path)
    assert list(temporary.iterdir()) == [], "nothing is left behind"
    assert "Traceback" not in done.stderr, done.stderr
    return done


# --- the text ---------------------------------------------------------------------------------------------------


def test_the_text_holds_nothing_that_a_shell_would_change():
    assert not set(bootstrap.TEXT) & set("'\\$`!%^\n\r\t"), "neither in sh's '...' nor, exchanged, in PowerShell's"
    assert bootstrap.TEXT.isascii() and len(for_sh(ORDER)) < 2500
    compile(bootstrap.TEXT.replace('"', "'"), "windows", "exec")


def test_a_posix_shell_reads_it_as_it_was_meant():
    words = shlex.split(for_sh(ORDER))
    assert words == [
        "python3",
        "-I",
        "-c",
        bootstrap.TEXT,
        ORDER.adapter,
        ORDER.fingerprint,
        ORDER.sha256,
        "nas",
        ORDER.code,
    ]
    assert "'[2001:db8::1]:443'" in for_sh(ORDER), "zsh would look for files"


def test_windows_reads_it_as_it_was_meant():
    """PowerShell changes nothing in these double quotes; what it hands on is read as CommandLineToArgvW does."""
    command = for_powershell(ORDER)
    text = bootstrap.TEXT.replace('"', "'")
    assert command.startswith(f'py -3 -I -c "{text}" "[2001:db8::1]:443" ')
    line = subprocess.list2cmdline(["py", "-3", "-I", "-c", text, *ORDER.words()])
    assert line.replace(ORDER.adapter, f'"{ORDER.adapter}"') == command


@pytest.mark.parametrize(
    "shell", [s for s in ("/bin/sh", "/bin/bash", "/bin/zsh", "/usr/bin/fish") if os.path.exists(s)]
)
def test_real_shells_hand_it_on_unchanged(tmp_path, shell):
    show = "import json,sys;print(json.dumps(sys.argv[1:]))"
    command = for_sh(ORDER).replace("python3 -I -c", f"{shlex.quote(sys.executable)} -c {shlex.quote(show)}", 1)
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == [bootstrap.TEXT, *ORDER.words()]


@pytest.mark.parametrize("wrong", ["a b", "$(id)", "'", '"', "`id`", "", "a;b", "nas\n", "%PATH%", "é"])
def test_a_word_that_a_shell_might_run_is_refused(wrong):
    for field in ("adapter", "name", "code"):
        with pytest.raises(ValueError):
            for_sh(other(ORDER, **{field: wrong}))


# --- the good case ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", PYTHONS, ids=lambda p: p.split("/")[-3])
def test_it_fetches_checks_and_runs_the_installer(adapter, tmp_path, python):
    done = run(for_sh(adapter) + " --dry-run", tmp_path, python)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (program, *words), mode = json.loads(done.stdout)
    assert Path(program).name == "rccmd.pyz" and mode == 0o700
    trust = ["--adapter", adapter.adapter, "--fingerprint", adapter.fingerprint]
    assert words == ["install", *trust, "--name", "nas", "--code", CODE, "--dry-run"]


def test_the_windows_text_does_the_same(adapter, tmp_path):
    words = ["python3", "-c", bootstrap.TEXT.replace('"', "'"), *adapter.words()]
    done = run(shlex.join(words), tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)[0][1] == "install"


def test_it_can_be_piped_to_a_shell(adapter, tmp_path):
    (tmp_path / "command").write_text(for_sh(adapter) + "\n")
    done = run(f"sh < {tmp_path}/command", tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)[0][1] == "install"


def test_the_installers_exit_code_is_its_own(adapter, tmp_path):
    assert run(for_sh(adapter) + " fail", tmp_path).returncode == 3


@pytest.mark.parametrize("date", ["1970-01-02", "2001-09-09", "2099-12-31"])
def test_no_clock_plays_a_part(adapter, tmp_path, date):
    if not os.path.exists("/usr/bin/faketime"):
        pytest.skip("faketime is not there (apt install faketime)")
    done = run(f"faketime '{date} 00:00:00' " + for_sh(adapter), tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)[0][1] == "install", done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="needs root to become nobody")
def test_whoever_is_not_root_is_asked_by_sudo(adapter):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        sudo = folder / "sudo"
        sudo.write_text('#!/bin/sh\necho asked\nexec "$@"\n')
        sudo.chmod(0o755)
        env = {"PATH": f"{folder}:/usr/bin:/bin"}
        argv = ["/bin/sh", "-c", for_sh(adapter)]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=30, env=env, cwd="/", user=65534, group=65534
        )
        said = done.stdout.splitlines()
        assert done.returncode == 0 and said[0] == "asked" and json.loads(said[1])[0][1] == "install", done.stderr


def test_whoever_interrupts_the_installer_is_not_told_that_nothing_happened(tmp_path):
    """The installer has begun by then: what it says counts."""
    begun = bootstrap.TEXT.index("subprocess.call(")
    assert bootstrap.TEXT.rindex("sys.excepthook=", 0, begun) > bootstrap.TEXT.rindex("safe", 0, begun)


# --- when something is wrong ------------------------------------------------------------------------------------


def test_another_certificate_stops_it_before_anything_is_sent(adapter, tmp_path):
    """An impostor with a certificate of its own, who notes each byte that it is sent."""
    folder = tmp_path / "impostor"
    context, _ = tls.context(folder, [])
    heard = []

    def take(listener):
        sock, _ = listener.accept()
        sock.settimeout(5)
        try:
            with context.wrap_socket(sock, server_side=True) as secured:
                heard.append(secured.recv(4096))
        except OSError as e:
            heard.append(e)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take, args=(listener,))
        thread.start()
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        done = run(for_sh(other(adapter, adapter=place)), tmp_path)
        thread.join(5)
    assert done.returncode == 1 and done.stdout == ""
    assert "STOP" in done.stderr and tls.fingerprint(folder) in done.stderr and len(done.stderr.splitlines()) == 1
    assert heard == [b""] or isinstance(heard[0], ssl.SSLError), "not a byte but the handshake"
    assert CODE not in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "00" * 32}, "rccmd.pyz is not the file that was promised"),
        ({"adapter": "127.0.0.1:1"}, "cannot get the program from 127.0.0.1:1: [Errno 111] Connection refused"),
        ({"adapter": "name.invalid:443"}, "cannot get the program from name.invalid:443: "),
    ],
)
def test_what_goes_wrong_is_one_clear_line_and_nothing_runs(adapter, tmp_path, changes, said):
    done = run(for_sh(other(adapter, **changes)), tmp_path)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert said in done.stderr and "Nothing was changed here, and the code was not used" in done.stderr


@pytest.mark.parametrize("version", ["3.8", "3.7", "3.6"])
def test_an_old_python_is_one_clear_line(adapter, tmp_path, version):
    python = pythons.other(version)
    if python is None:
        pytest.skip(f"Python {version} is not there")
    done = run(for_sh(adapter), tmp_path, python)
    assert done.returncode == 1 and f"Python 3.9 or newer is needed, this is {version}." in done.stderr


def test_a_python_without_its_library_is_one_clear_line(adapter, tmp_path):
    """As with Debian's python3-minimal."""
    (tmp_path / "http.py").write_text("raise ImportError('No module named http')")
    command = for_sh(adapter)
    done = run(command.replace("python3 -I -c", "python3 -c", 1), tmp_path)
    assert done.returncode == 1 and "No module named http. Nothing was changed" in done.stderr
    assert run(command, tmp_path).returncode == 0, "what lies in the current folder is not run"


def test_somebody_who_speaks_no_tls_is_one_clear_line(tmp_path):
    def greet(listener):
        sock, _ = listener.accept()
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,))
        thread.start()
        done = run(for_sh(other(ORDER, adapter=f"127.0.0.1:{listener.getsockname()[1]}")), tmp_path)
        thread.join(5)
    assert done.returncode == 1 and "cannot get the program" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_adapter_that_has_no_such_file_is_one_clear_line(adapter, tmp_path):
    """The right certificate, but an older page."""
    folder = tmp_path / "older"
    context, _ = tls.context(folder, [])

    def page(environ, start_response):
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no"]

    server = httpd.Server("127.0.0.1:0", page, context)
    server.bind()
    thread = threading.Thread(target=server.run, args=(threading.Event(),))
    thread.start()
    place = f"127.0.0.1:{server.address[1]}"
    done = run(for_sh(other(adapter, adapter=place, fingerprint=tls.fingerprint(folder))), tmp_path)
    server.stop()
    thread.join(5)
    assert done.returncode == 1 and f"{place} answers 404 Not Found" in done.stderr
