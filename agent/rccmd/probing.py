"""The command line of `rccmd probe`: its options, and the help text that says how to make the six captures."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import signal
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from . import probe
from .codec import PORT

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}
SECONDS_LIMIT = 7 * 86400.0

CAPTURES = r"""Nobody outside the maker knows all that genuine RCCMD parts say. If you own some, six records settle
it (docs/rccmd-compatibility.md says what each decides). PROBE is this machine, 192.0.2.255 your segment's broadcast
address; stop a genuine listener on PROBE first. Records hold addresses and texts of your network: read before you
share them.

1 sender, TCP    rccmd probe listen --seconds 900 --out 1-tcp.txt
                 In the adapter: PROBE as address of jobs RCCMD Shutdown, Message, Execute, WAKEUP; press Test.
                 Once more with --close 0, and with --greet --answer-text "\n": a sender may wait to be greeted.
2 broadcast      rccmd probe listen --seconds 900 --out 2-udp.txt
                 The same jobs with 192.0.2.255 as address.
3 trap, UPSMON   rccmd probe connect ADAPTER -p 5769 --seconds 120 --out 3-upsmon.txt
                 Meanwhile press Test on a job RCCMD Trap; keep `rccmd probe listen --ports 6003` running beside it.
4 client         rccmd probe connect CLIENT --seconds 30 --out 4-client.txt \
                   --send "CONNECT TO RCCMD (SEND) MSG_EXECUTE MSG_TEXT probe\n"
                 CLIENT has a genuine RCCMD client (30 days' trial) that allows PROBE. Once more with --half-close.
5 alive check    rccmd probe listen --ports 5769 --seconds 900 --out 5-alive.txt
                 In the genuine client: PROBE as sender, "UPSMAN alive check" on. Once more with --answer-text "\n".
6 encryption     rccmd probe listen --ports 6003 --seconds 900 --out 6-tls.txt       (encryption on in the adapter,
                 openssl s_client -connect CLIENT:6003 -showcerts </dev/null >6-client.txt 2>&1  and in the client)
"""


def main(words: Sequence[str]) -> int:
    """Run `rccmd probe` with these arguments and return the exit code; 2: wrong use."""
    parser = argparse.ArgumentParser(
        prog="rccmd probe",
        description="Record what genuine RCCMD parts say, byte by byte. Nothing that is heard has any effect.",
        epilog=CAPTURES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    ways = parser.add_subparsers(dest="way", metavar="{listen,connect}", required=True)
    _listen(ways.add_parser("listen", help="record who comes, on TCP and UDP", allow_abbrev=False))
    _connect(ways.add_parser("connect", help="connect to a part and record what it says", allow_abbrev=False))
    return _run(parser.parse_args(words))


def _listen(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    ports = ",".join(map(str, probe.PORTS))
    parser.description = "Record every connection and datagram: time, peer, bytes, and how it ended. Nothing is run."
    add("--ports", type=_ports, default=probe.PORTS, metavar="PORT[,PORT..]", help=f"TCP and UDP (default {ports})")
    add("--bind", default="0.0.0.0", metavar="ADDRESS", help="where to listen (default 0.0.0.0; :: hears IPv6 too)")
    said = parser.add_mutually_exclusive_group()
    said.add_argument("--answer", type=_hex, metavar="HEX", help="say these bytes after a peer's first")
    said.add_argument("--answer-text", type=_text, metavar="TEXT", help=r"the same as text; \n \r \t \0 \xHH \\")
    add("--greet", action="store_true", help="say the answer at once when a peer connects")
    add("--close", type=_seconds, metavar="SECONDS", help="close so long after a peer's last byte (default: never)")
    _common(parser, "end after so long (default: Ctrl-C)")


def _connect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = (
        f"Connect, wait {probe.GREETING_S:g} s for a greeting, send, record what comes. What you send may shut a "
        "machine down: use MSG_TEXT unless that is what you want."
    )
    add("host", metavar="HOST", help="name or address")
    add("-p", dest="port", type=_port, default=PORT, metavar="PORT", help=f"port (default {PORT})")
    sent = parser.add_mutually_exclusive_group()
    sent.add_argument("--send", type=_text, metavar="TEXT", help=r"what to say; \n \r \t \0 \xHH \\ are understood")
    sent.add_argument("--send-hex", type=_hex, metavar="HEX", help="the same as bytes")
    add("--half-close", action="store_true", help="end our side behind what is sent (FIN)")
    add("--udp", action="store_true", help="one datagram")
    _common(parser, "listen so long after that (default 10)")


def _common(parser: argparse.ArgumentParser, seconds: str) -> None:
    parser.add_argument("--seconds", type=_seconds, metavar="N", help=seconds)
    parser.add_argument("--out", metavar="FILE", help="write the record to FILE too; it must not exist yet")


def _run(given: argparse.Namespace) -> int:
    """0 recorded, 1 no port or no connection, 2 wrong use or a file that cannot be written."""
    with contextlib.ExitStack() as stack:
        streams: list[TextIO] = [sys.stdout]
        if given.out is not None:
            try:
                streams.append(stack.enter_context(open(given.out, "x", encoding="utf-8")))
            except OSError as e:
                return _wrong(f"{given.out}: {e.strerror}", 2)
        record = probe.Record(streams)
        stopping: list[int] = []
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, lambda n, frame: stopping.append(n)) for number in numbers}
        try:
            way = _listening if given.way == "listen" else _connecting
            return way(given, record, lambda: bool(stopping))
        except OSError as e:  # a full disk, a closed pipe
            return _wrong(f"the record cannot be written: {e.strerror}", 2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listening(given: argparse.Namespace, record: probe.Record, stopped: probe.Stopped) -> int:
    data = given.answer or given.answer_text or b""
    if given.greet and not data:
        return _wrong("--greet needs --answer or --answer-text", 2)
    answer = probe.Answer(data, given.greet, given.close)
    try:
        listener = probe.Probe(given.bind, given.ports, answer, record, time.monotonic)
    except OSError as e:
        return _wrong(f"cannot listen: {e.strerror}; stop what uses it, or leave it out with --ports", 1)
    record.note("-", f"the probe listens on {given.bind}, tcp and udp, ports {','.join(map(str, listener.ports))}")
    probe.listen(listener, record, given.seconds, stopped)
    return 0


def _connecting(given: argparse.Namespace, record: probe.Record, stopped: probe.Stopped) -> int:
    data = given.send or given.send_hex or b""
    if given.udp and not data:
        return _wrong("--udp needs --send or --send-hex", 2)
    seconds = 10.0 if given.seconds is None else given.seconds
    return probe.connect(
        given.host, given.port, data, record, stopped, seconds=seconds, half_close=given.half_close, udp=given.udp
    )


def _wrong(what: str, code: int) -> int:
    print(f"rccmd probe: {what}", file=sys.stderr)
    return code


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _ports(text: str) -> tuple[int, ...]:
    ports = tuple(dict.fromkeys(_port(word) for word in text.split(",")))
    if len(ports) > probe.PORTS_LIMIT:
        raise argparse.ArgumentTypeError(f"{len(ports)} ports; at most {probe.PORTS_LIMIT}")
    return ports


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds <= SECONDS_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {SECONDS_LIMIT:.0f}")
    return seconds


def _hex(text: str) -> bytes:
    try:
        return _sized(bytes.fromhex(text))
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} are not bytes in hex such as 0d0a or '0d 0a'") from e


def _text(text: str) -> bytes:
    """UTF-8, with the escapes replaced; a backslash before anything else is refused."""

    def one(found: re.Match[str]) -> str:
        word = found[1]
        if word[:1] == "x" and len(word) == 3:
            return chr(0xDC00 + int(word[1:], 16)) if int(word[1:], 16) >= 0x80 else chr(int(word[1:], 16))
        if word not in ESCAPES:
            raise argparse.ArgumentTypeError(rf"\{word} is no escape; there are \n \r \t \0 \xHH and \\")
        return ESCAPES[word]

    return _sized(re.sub(r"\\(x[0-9A-Fa-f]{2}|.|\Z)", one, text, flags=re.DOTALL).encode("utf-8", "surrogateescape"))


def _sized(data: bytes) -> bytes:
    if not 1 <= len(data) <= probe.SEND_LIMIT_BYTES:
        raise argparse.ArgumentTypeError(f"{len(data)} bytes; 1 to {probe.SEND_LIMIT_BYTES}")
    return data
