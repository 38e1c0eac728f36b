"""Random bytes against all of RCCMD that reads: `python -m tests.fuzz_rccmd [RUNS] [--seed N] [--plain] [PART..]`.

With atheris (coverage leads it; `pip install atheris`, which ./run does), else with a mutator of our own. Parts:

    classic    the reader of a connection: whole, in pieces, byte by byte                        RUNS times
    secure     request and reply lines, the same way                                             RUNS times
    pairs      encoder and reader back to back, with seeded loss: cut streams, lost datagrams    RUNS / 4
    listener   a real listener on loopback: TCP and UDP, from its list and not                   RUNS / 20
    tls        the listener's TLS, its client's bytes changed on their way                       RUNS / 200

What may be a command is worked out here a second time, in another way (`may`, `may_secure`). An input that gets more,
or less, or that raises what nobody expects, ends its part; the input is printed, and the seed finds it again.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = 400_000
SHARES = {"classic": 1, "secure": 1, "pairs": 4, "listener": 20, "tls": 200}
LONGEST = 2600
LIMIT = 2048
HELLO = rb"CONNECT TO RCCMD \(SEND\)(?: ?[\r\n\0]{1,2}| )MSG_EXECUTE "
BARE, SAYING = rb"(?:SHUTDOWN|WAKEUP) *", rb"(?:MSG_TEXT|EXECUTE) (?=[^\r\n\0]*[^\r\n\0 ])[^\r\n\0]*"
ENDED = re.compile(HELLO + rb"((?:%s)|(?:%s))[\r\n\0]" % (BARE, SAYING))
WHOLE = re.compile(HELLO + rb"((?:%s)|(?:%s))(?:[\r\n\0].*)?" % (BARE, SAYING), re.DOTALL)


def may(data: bytes) -> tuple[str, str] | None:
    """The command that these bytes of one connection may be: (verb, argument)."""
    found = WHOLE.fullmatch(data) if len(data) <= LIMIT else ENDED.match(data[:LIMIT])
    if found is None:
        return None
    verb, _, argument = found[1].partition(b" ")
    if verb in (b"SHUTDOWN", b"WAKEUP"):
        argument = b""
    try:
        return verb.decode(), argument.decode("utf-8")
    except UnicodeDecodeError:
        return verb.decode(), argument.decode("latin-1")


def may_secure(data: bytes) -> tuple[str, str, str] | None:
    """The request that these bytes inside TLS may be: (verb, id, argument)."""
    line, end, _ = data.partition(b"\n")
    if not end or len(line) >= LIMIT or any(b < 32 or b == 127 for b in line):
        return None
    words = line.split(b" ", 3)
    if len(words) < 3 or words[0] != b"RT1" or len(words[2]) != 16 or words[2].translate(None, b"0123456789abcdef"):
        return None
    try:
        argument = words[3].decode("utf-8") if len(words) == 4 else None
    except UnicodeDecodeError:
        return None
    takes = {b"SHUTDOWN": False, b"WAKEUP": False, b"NOOP": False, b"MSG_TEXT": True, b"EXECUTE": True}.get(words[1])
    if takes is None or (argument is not None) != takes or (takes and not str(argument).strip(" ")):
        return None
    return words[1].decode(), words[2].decode(), argument or ""


def pieces(data: bytes, rng: random.Random) -> list[bytes]:
    at = sorted({rng.randrange(len(data) + 1) for _ in range(rng.randrange(6))} | {0, len(data)})
    return [data[a:b] for a, b in zip(at, at[1:], strict=False)]


def ways(data: bytes, rng: random.Random) -> tuple[list[bytes], ...]:
    """Whole, in pieces, byte by byte (long ones: in sevens)."""
    step = 1 if len(data) <= 300 else 7
    return [data], pieces(data, rng), [data[i : i + step] for i in range(0, len(data), step)]


def same(found: object, expected: object, data: bytes) -> None:
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r} for {data!r}")


class Classic:
    """codec.Feed and codec.parse."""

    def __init__(self) -> None:
        from agent.rccmd import codec

        self.codec = codec

    def read(self, parts: list[bytes]) -> tuple[str, str] | None:
        feed = self.codec.Feed()
        try:
            for part in parts:
                if (command := feed.feed(part, 0.0)) is not None:
                    return tuple(command)
            return tuple(feed.end())
        except self.codec.Refused:
            return None

    def __call__(self, data: bytes) -> None:
        expected = may(data)
        for parts in ways(data, random.Random(data)):
            same(self.read(parts), expected, data)
        found = self.codec.parse(data)
        same(found if found is None else tuple(found), expected if len(data) <= LIMIT else None, data)


class Secure:
    """secure.Line, parse_request, parse_reply."""

    def __init__(self) -> None:
        from agent.rccmd import secure

        self.secure = secure

    def read(self, parts: list[bytes]) -> tuple[str, str, str] | None:
        line = self.secure.Line(LIMIT)
        try:
            for part in parts:
                if (whole := line.feed(part)) is not None:
                    return tuple(self.secure.parse_request(whole))
        except self.secure.Malformed:
            pass
        return None

    def __call__(self, data: bytes) -> None:
        expected = may_secure(data)
        for parts in ways(data, random.Random(data)):
            same(self.read(parts), expected, data)
        if expected is not None:
            written = self.secure.encode_request(self.secure.Request(*expected))
            same(written, data.partition(b"\n")[0] + b"\n", data)
        try:
            reply = self.secure.parse_reply(data)
        except self.secure.Malformed:
            return
        same(self.secure.parse_reply(self.secure.encode_reply(reply)), reply, data)


class Pairs:
    """What the adapter encodes is what the client reads; what a loss leaves of it is never another order."""

    def __init__(self) -> None:
        self.classic, self.secure = Classic(), Secure()

    def __call__(self, data: bytes) -> None:
        rng = random.Random(data)
        codec, secure = self.classic.codec, self.secure.secure
        text = codec.printable(data.decode("utf-8", "ignore"))[: rng.choice([5, 300, 700])].strip(" ") or "x"
        verb = rng.choice(["SHUTDOWN", "WAKEUP", "MSG_TEXT", "EXECUTE"])
        argument = text if codec.TAKES_ARGUMENT[verb] else ""
        try:
            line = codec.encode(verb, argument, terminator=rng.choice(list(codec.TERMINATORS)))
        except ValueError:
            return  # too long, or a word in the text that nobody may send
        for parts in ways(line, rng):
            same(self.classic.read(parts), (verb, argument), line)
        cut = line[: rng.randrange(len(line) + 1)]
        left = self.classic.read(pieces(cut, rng))
        same(left, may(cut), cut)
        if left is not None and left[0] != verb:  # a text or a name may be shorter, nothing more
            raise AssertionError(f"{line!r} cut to {left!r}")
        datagram = codec.encode(verb, argument, terminator="none")
        arrived = [datagram for _ in range(3) if rng.random() > 0.3]
        same([tuple(codec.parse(one)) for one in arrived], [(verb, argument)] * len(arrived), datagram)
        request = secure.Request(verb, f"{rng.getrandbits(64):016x}", argument)
        try:
            line = secure.encode_request(request)
        except ValueError:
            return
        for parts in ways(line, rng):
            same(self.secure.read(parts), tuple(request), line)
        same(self.secure.read([line[: rng.randrange(len(line))]]), None, line)  # half a line is none
        same(self.classic.read([line]), None, line)
        word = rng.choice(secure.WORDS)
        reply = secure.Reply(word, {"why": "".join(c for c in text if c.isascii() and c.isalnum())[:40]})
        same(secure.parse_reply(secure.encode_reply(reply)), reply, data)


class Job:
    """A program that has ended well."""

    pid = 1

    def poll(self) -> int | None:
        return 0

    def kill(self) -> None:
        """Nothing to end."""


class Loopback:
    """A real listener; the first byte says by which way the rest comes, the second in pieces of what size."""

    NAMES = ("hello", "|AUX|1|1")

    def __init__(self) -> None:
        from agent.rccmd.journal import Journal, output
        from agent.rccmd.listen import Listener
        from agent.rccmd.orders import Orders
        from agent.rccmd.settings import Settings, load

        def see(line: str) -> None:
            if not line.isprintable():
                raise AssertionError(f"a line that is none: {line!r}")

        output.write = see  # type: ignore[method-assign]
        allow = load({"allow": "127.0.0.1", "on_shutdown": "true"}).allow
        settings = Settings(
            allow=allow, host="127.0.0.1", port=0, udp=True, on_shutdown=("/halt",), on_message=("/wall",),
            on_wakeup=("/resume",), execute={name: (name,) for name in self.NAMES},
        )  # fmt: skip
        self.now_s, self.ran = 0.0, [("", "")]
        journal = Journal()
        orders = Orders(settings, journal, self.start)
        self.listener = Listener(settings, orders, journal, lambda: self.now_s)
        self.where = ("127.0.0.1", self.listener.port)
        self.printable = __import__("agent.rccmd.codec", fromlist=["printable"]).printable

    def start(self, argv: Any, facts: Any, text: bytes | None) -> Job:
        verb = facts["RCCMD_VERB"]
        self.ran.append((verb, argv[0] if verb == "EXECUTE" else (text or b"").decode()))
        return Job()

    def turn(self, times: int) -> None:
        for _ in range(times):
            self.listener.turn(0.0)

    def __call__(self, data: bytes) -> None:
        if len(data) < 2:
            return
        way, size, said = data[0] % 4, data[1] % 50 * 40 + 1, data[2:]
        self.now_s += 1000.0  # a new SHUTDOWN is no repeat
        self.ran.clear()
        stranger = way & 1
        taken = self.udp(said, stranger) if way & 2 else self.tcp(said, size, stranger)
        order = may(said[:3000]) if not way & 2 or len(said) <= LIMIT else None
        if stranger or order is None or (order[0] == "EXECUTE" and order[1] not in self.NAMES):
            same(self.ran, [], data)
            same(taken or False, False, data)
            return
        runs = {"SHUTDOWN": [("SHUTDOWN", "")], "WAKEUP": [("WAKEUP", "")], "EXECUTE": [order]}
        same(self.ran, runs.get(order[0], [("MSG_TEXT", self.printable(order[1]) + "\n")]), data)
        same(taken is not False, not way & 2, data)

    def udp(self, said: bytes, stranger: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((f"127.0.0.{1 + stranger}", 0))
            sock.sendto(said, self.where)
            self.turn(2)
        return False

    def tcp(self, said: bytes, size: int, stranger: int) -> bool | None:
        """True: closed normally; False: reset; None: ended while we spoke, which may be either."""
        with socket.create_connection(self.where, 5, (f"127.0.0.{1 + stranger}", 0)) as sock:
            try:
                for at in range(0, len(said), max(size, len(said) // 20)):
                    sock.sendall(said[at : at + max(size, len(said) // 20)])
                    self.turn(1)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.turn(1)
                return None
            self.turn(3)
            try:
                return sock.recv(10) == b""
            except ConnectionResetError:
                return False


class Tls:
    """TlsLine: the bytes of a true and of a foreign adapter, changed on their way."""

    LINE = b"RT1 SHUTDOWN 00c0ffee00c0ffee\n"

    def __init__(self) -> None:
        from agent.rccmd import secure, trust
        from agent.rccmd.settings import Settings
        from tests.rccmd_keys import Adapter, Server

        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        server = Server(folder / "server")
        twin, foreign, true = Adapter("twin", folder).context(), Adapter("foreign", folder), Adapter("true", folder)
        server.enrol(Adapter("twin", folder))  # the same name, another key
        server.enrol(true)
        self.contexts = [true.context(), foreign.context(), twin, foreign.context(with_key=False)]
        self.trust = trust.Trust(Settings(allow=(), tls=str(server.key), senders=str(server.senders)))
        self.not_secure = secure.NotSecure

    def __call__(self, data: bytes) -> None:
        """data: which adapter, then (flight, place, change) three bytes each."""
        if not data:
            return
        who, changes = data[0] % len(self.contexts), [data[i : i + 4] for i in range(1, len(data) - 3, 4)][:3]
        text, changed = self.talk(self.contexts[who], changes)
        if who or not text:
            same(text, b"", data)
        else:
            same(text, self.LINE, data)
        if not changed:
            same(text, b"" if who else self.LINE, data)

    def talk(self, context: ssl.SSLContext, changes: list[bytes]) -> tuple[bytes, bool]:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client, server = context.wrap_bio(incoming, outgoing), self.trust.line()
        steps: list[Callable[[], object]] = [client.do_handshake, lambda: client.write(self.LINE)]
        text, changed = b"", False
        for flight in range(6):
            try:
                while steps:
                    steps[0]()
                    del steps[0]
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return text, changed  # it was told no
            said = bytearray(outgoing.read())
            for change in changes:
                if change[0] % 3 == flight and said:
                    at = int.from_bytes(change[1:3], "big") % len(said)
                    changed = changed or change[3] != 0
                    said[at] ^= change[3]
            try:
                text += server.feed(bytes(said))
            except self.not_secure:
                return text, changed
            if text or not (said or steps):
                return text, changed
            incoming.write(server.out())
        return text, changed


PARTS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "classic": Classic, "secure": Secure, "pairs": Pairs, "listener": Loopback, "tls": Tls,
}  # fmt: skip


def seeds(part: str) -> list[bytes]:
    """Where the mutations begin."""
    from tests.rccmd_hostile_kit import SHUTDOWN, STRANGERS

    prefix = SHUTDOWN[: -len("SHUTDOWN")]
    said = [*STRANGERS.values(), SHUTDOWN, prefix + b"WAKEUP\r\n", prefix + "MSG_TEXT Überlast\0".encode()]
    said += [prefix + b"EXECUTE hello\n", prefix + b"EXECUTE |AUX|1|1", SHUTDOWN.replace(b") ", b")\r\n") + b"\n"]
    pairs = (
        (b"NOOP", b""),
        (b"WAKEUP", b"  "),
        (b"EXECUTE", b" hello"),
        (b"MSG_TEXT", b"  "),
        (b"SHUTDOWN", b" now"),
    )
    said += [b"RT1 %s 00c0ffee00c0ffee%s\n" % pair for pair in pairs]
    said += [b"RT1 accepted version=0.1.0 selftest=ok votes=0\n", b"RT1 refused why=bad-line\n"]
    said = [one[:LONGEST] for one in said]
    if part == "listener":
        return [bytes([way, size]) + one for one in said for way in range(4) for size in (0, 1, 49)]
    if part == "tls":
        return [bytes([who, flight, 0, at, 1]) for who in range(4) for flight in range(3) for at in range(0, 250, 25)]
    return said


def mutated(pool: list[bytes], rng: random.Random) -> bytes:
    """One of the pool, with one to four changes."""
    data = bytearray(rng.choice(pool))
    for _ in range(rng.randint(1, 4)):
        at, how = rng.randrange(len(data) + 1), rng.randrange(6)
        if how == 0:
            data[at:at] = rng.randbytes(rng.randint(1, 4))
        elif how == 1:
            del data[at : at + rng.choice([1, 2, 8, 40])]
        elif how == 2 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 3:
            other = rng.choice(pool)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif how == 4:
            data[at:at] = rng.choice([b" ", b"\n", b"\r", b"\0", b"\xff", b"MSG_EXECUTE ", b"SHUTDOWN", b"RT1 "])
        else:
            data[at:at] = data[at : at + 300] * rng.choice([1, 1, 8])
    return bytes(data[:LONGEST])


def plain(part: str, runs: int, seed: int) -> None:
    one, pool, rng = PARTS[part](), seeds(part), random.Random(seed)
    for data in pool:
        one(data)
    for n in range(runs):
        data = mutated(pool, rng)
        try:
            one(data)
        except BaseException:
            print(f"input {n} of {part}, seed {seed}: {data!r}", flush=True)
            raise


def led(part: str, runs: int, seed: int, folder: Path) -> None:
    """With atheris, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["agent.rccmd"]):
        one = PARTS[part]()
    for n, data in enumerate(seeds(part)):
        (folder / f"seed{n}").write_bytes(data)
    argv = ["fuzz", f"-runs={runs}", f"-seed={seed % 2**31 or 1}", f"-max_len={LONGEST}", "-print_final_stats=1"]
    atheris.Setup([*argv, f"-artifact_prefix={folder}/", "-timeout=20", "-rss_limit_mb=1500", str(folder)], one)
    atheris.Fuzz()


def _part(part: str, runs: int, seed: int, by: str) -> bool:
    """One part in a process of its own; prints its line."""
    with tempfile.TemporaryDirectory(prefix="ridethrough-fuzz-") as name:
        argv = [sys.executable, "-m", "tests.fuzz_rccmd", "--one", part, str(runs), str(seed), by, name]
        begin_s = time.monotonic()
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        lasted_s = time.monotonic() - begin_s
        said = done.stdout + done.stderr
        covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
        more = f", {covered[-1][0]} edges, {covered[-1][1]} features, {covered[-1][2]} inputs kept" if covered else ""
        good = done.returncode == 0
        what = "0 crashes, 0 actions without authority" if good else f"FAILED, seed {seed}"
        print(f"   {part}: {runs} runs in {lasted_s:.0f} s ({by}): {what}{more}", flush=True)
        if not good:
            print(said[-6000:], flush=True)
            for found in Path(name).glob("crash-*"):
                print(f"   the input: {found.read_bytes()!r}", flush=True)
        return good


def main(words: list[str]) -> int:
    """1 if a part failed."""
    if words[:1] == ["--one"]:
        part, runs, seed, by, folder = words[1], int(words[2]), int(words[3]), words[4], Path(words[5])
        if by == "atheris":
            led(part, runs, seed, folder)
        plain(part, runs, seed)
        return 0
    seed = random.randrange(2**31)
    if "--seed" in words:
        place = words.index("--seed")
        seed = int(words[place + 1])
        words = words[:place] + words[place + 2 :]
    by = "atheris" if importlib.util.find_spec("atheris") and "--plain" not in words else "own mutator"
    words = [word for word in words if word != "--plain"]
    runs = next((int(word) for word in words if word.isdigit()), RUNS)
    wanted = [word for word in words if not word.isdigit()] or list(PARTS)
    if unknown := [word for word in wanted if word not in PARTS]:
        print(f"no such part: {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print(f"   python {sys.version.split()[0]}, seed {seed}, process {os.getpid()}", flush=True)
    good = [_part(part, max(1, runs // SHARES[part]), seed, by) for part in wanted]
    print(f"{'0 crashes, 0 actions without authority' if all(good) else 'FAILED'}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
