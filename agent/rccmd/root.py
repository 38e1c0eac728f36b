"""The shutdown's root side: does one of four words that the listener may say to it, and nothing else.

    listener (user rccmd, sandboxed)                      root side (outside the sandbox)
      | rccmd ask shutdown -> /run/rccmd-root.sock ------->|  runs `shutdown` of root.ini, waits for its end
      |<----------------------------- "ok exit code 0" ----|
      | rccmd ask selftest ------------------------------->|  looks whether it could: root, program there
      | rccmd ask message + the text --------------------->|  runs `message` of root.ini, the text on its stdin
      | rccmd ask wakeup --------------------------------->|  runs `wakeup` of root.ini

Only the group of the listener may open the socket (mode 0660). The selftest goes the whole way of the shutdown but
for the last step. Exit code of `ask`: 0 it was done, 1 it was not.
"""

from __future__ import annotations

import argparse
import configparser
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence

from . import journal
from .codec import LIMIT_BYTES, printable

WORDS = ("shutdown", "selftest", "message", "wakeup")
SOCKET = "/run/rccmd-root.sock"
INI = "/etc/rccmd/root.ini"
ASK_S = 5.0  # for a word to come, and for the root side to take it
MESSAGE_S = 20.0  # for the program that shows a text
ANSWER_LIMIT_BYTES = 512
INI_LIMIT_BYTES = 16 * 1024


class CannotDo(Exception):
    """The word cannot be done; the text says why."""


def commands(ini: str) -> dict[str, list[str]]:
    """The programs of root.ini by word. Only root may be able to write the file. Raises CannotDo."""
    try:
        with open(ini, "rb") as stream:
            found = os.fstat(stream.fileno())
            data = stream.read(INI_LIMIT_BYTES)
        if os.name == "posix" and (found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH):
            raise CannotDo(f"{ini} is not root's alone to write")
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="\0")
        parser.read_string(data.decode("utf-8-sig"), source=ini)
        return {word: shlex.split(text) for word, text in parser.items("root")}
    except OSError as e:
        raise CannotDo(f"{ini}: {e.strerror}") from None
    except (ValueError, configparser.Error) as e:
        raise CannotDo(f"{ini}: {' '.join(str(e).split())}") from None


def do(word: str, text: bytes, ini: str) -> str:
    """Do one word; returns what became of it. Raises CannotDo."""
    if word not in WORDS:
        raise CannotDo(f"unknown word {printable(word)[:40]!r}")
    known = commands(ini)
    argv = known.get("shutdown" if word == "selftest" else word, [])
    program = shutil.which(argv[0]) if argv else None
    if program is None:
        raise CannotDo(f"{ini}: the program for {word} is not there or not executable")
    if word == "selftest":
        if os.name == "posix" and os.geteuid() != 0:
            raise CannotDo(f"the root side runs as user id {os.geteuid()}, not as root")
        return f"the root side would run {program}"
    shown = "\n".join(printable(line) for line in text.decode("utf-8", "replace").splitlines()).encode() + b"\n"
    here = sys.stderr.fileno()
    try:
        if word == "message":
            done = subprocess.run([program, *argv[1:]], stdout=here, input=shown, timeout=MESSAGE_S)
        else:
            done = subprocess.run([program, *argv[1:]], stdout=here, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as e:
        raise CannotDo(f"{program}: {e}") from None
    if done.returncode != 0:
        raise CannotDo(f"{program} ended with exit code {done.returncode}")
    return f"{program} ended with exit code 0"


def serve(sock: socket.socket, ini: str) -> int:
    """Hear one word on this connection, do it, answer with one line. Returns an exit code."""
    sock.settimeout(ASK_S)
    data = b""
    try:
        while len(data) <= LIMIT_BYTES and (more := sock.recv(LIMIT_BYTES + 1 - len(data))):
            data += more
        word, _, text = data.partition(b"\n")
        answer, code = f"ok {do(word.decode('ascii', 'replace'), text, ini)}", 0
    except socket.timeout:
        answer, code = "failed: no word came", 1
    except CannotDo as e:
        answer, code = f"failed: {e}", 1
    except OSError as e:
        answer, code = f"failed: {e.strerror}", 1
    journal.bound(sys.stderr.fileno())  # a file where no service manager takes it
    print(
        f"rccmd root: {printable(data.partition(bytes([10]))[0].decode('ascii', 'replace'))}: {answer}",
        file=sys.stderr,
    )
    try:
        sock.sendall(answer.encode()[: ANSWER_LIMIT_BYTES - 1] + b"\n")
    except OSError:
        pass  # the listener is gone already: the machine is going down
    return code


def ask(word: str, path: str, text: bytes = b"") -> tuple[bool, str]:
    """Say a word to the root side and wait for its end, however long that takes: (done, its answer)."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ASK_S)
            sock.connect(path)
            sock.sendall(word.encode() + b"\n" + text[: LIMIT_BYTES - 64])
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(None)
            answer = b""
            while len(answer) < ANSWER_LIMIT_BYTES and (more := sock.recv(ANSWER_LIMIT_BYTES)):
                answer += more
    except OSError as e:
        return False, f"{path}: {e.strerror or e}"
    said = printable(answer.decode("utf-8", "replace"))
    return said.startswith("ok "), said or f"{path}: closed without an answer"


def listen(path: str, group: str, ini: str) -> int:
    """Where the service manager holds no socket for us: hold it, and start one root side for each connection."""
    if os.path.lexists(path):
        os.remove(path)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        return _hold(path, group, ini)
    finally:
        if os.path.lexists(path):
            os.remove(path)


def _hold(path: str, group: str, ini: str) -> int:
    with socket.socket(socket.AF_UNIX) as waiting:
        mask = os.umask(0o177)
        try:
            waiting.bind(path)
        finally:
            os.umask(mask)
        if group:
            shutil.chown(path, 0, group)
            os.chmod(path, 0o660)
        waiting.listen(8)
        running: list[subprocess.Popen[bytes]] = []
        while True:
            sock, _ = waiting.accept()
            with sock:
                running = [process for process in running if process.poll() is None]
                if len(running) >= 8:
                    continue  # closed without an answer: the listener sees that it failed
                running.append(
                    subprocess.Popen([sys.executable, "-I", *_myself(), "root", "--ini", ini], stdin=sock.fileno())
                )


def _myself() -> list[str]:
    return [os.path.abspath(sys.argv[0])]


def ask_main(arguments: Sequence[str]) -> int:
    """`rccmd ask`."""
    parser = argparse.ArgumentParser(prog="rccmd ask", description="Say one word to the root side of this server.")
    parser.add_argument("word", choices=WORDS)
    parser.add_argument("--socket", default=SOCKET, metavar="FILE", help=f"where it listens (default {SOCKET})")
    options = parser.parse_args(arguments)
    text = sys.stdin.buffer.read(LIMIT_BYTES) if options.word == "message" else b""
    done, said = ask(options.word, options.socket, text)
    print(f"rccmd ask {options.word}: {said}", file=sys.stderr)
    return 0 if done else 1


def main(arguments: Sequence[str]) -> int:
    """`rccmd root`: one word from the socket on standard input, or, given here, at once; or hold the socket."""
    parser = argparse.ArgumentParser(prog="rccmd root", description="The root side: does one word of the listener.")
    parser.add_argument("word", nargs="?", choices=WORDS, help="do this word at once instead of hearing one")
    parser.add_argument("--ini", default=INI, metavar="FILE", help=f"its programs (default {INI})")
    parser.add_argument("--listen", metavar="FILE", help="hold this socket (where systemd does not)")
    parser.add_argument("--group", default="", metavar="NAME", help="with --listen: the group that may speak")
    options = parser.parse_args(arguments)
    try:
        if options.listen:
            return listen(options.listen, options.group, options.ini)
        if options.word is None:
            return serve(socket.socket(fileno=0), options.ini)
        text = sys.stdin.buffer.read(LIMIT_BYTES) if options.word == "message" else b""
        print(f"rccmd root: {options.word}: {do(options.word, text, options.ini)}", file=sys.stderr)
        return 0
    except CannotDo as e:
        print(f"rccmd root: {e}", file=sys.stderr)
    except (OSError, LookupError) as e:
        print(f"rccmd root: {e}", file=sys.stderr)
    return 1
