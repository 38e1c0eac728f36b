"""The command `rccmd`: listen on a server for a shutdown, send one, or record what others say."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import journal, listen, orders, settings, status
from .codec import MSG_TEXT, PORT, SHUTDOWN, TEMPLATE, TERMINATORS, WAKEUP

if TYPE_CHECKING:
    import argparse

    from .trust import Trust

OVERVIEW = """\
On the server that shall be shut down (192.0.2.10 is the UPS adapter):
  rccmd listen --allow 192.0.2.10 --on-shutdown "/usr/sbin/shutdown -h now"

From anywhere that the listener allows:
  rccmd send --message "the cleaners pulled the plug" -a 192.0.2.20,192.0.2.21
  rccmd send --shutdown -a 192.0.2.20
  rccmd -s -se "EXECUTE helloworld" -a 192.0.2.20 -p 6003      (the original's way)
"""

LISTEN = """\
The sender's address is the only check there is: RCCMD has no password. Nothing from the network becomes part of a
command line; the program finds RCCMD_VERB and RCCMD_SENDER in its environment. Options win over --config.
Exit codes: 0 stopped by SIGTERM or SIGINT, 1 the port cannot be had, 2 the settings are wrong.
"""

SEND = """\
TCP: "delivered, unconfirmed" means that the listener took the whole message and closed normally; RCCMD has no
confirmation. UDP: "sent" is all that can be known. Exit codes: 0 all delivered (UDP: sent), 1 not all, 2 wrong use.
"""


#: verbs with a parser of their own, loaded only when they are used: (module, function, help)
OTHERS = {
    "install": ("install", "main", "install the listener on this server and enrol it at a UPS adapter"),
    "uninstall": ("uninstall", "main", "remove what install made"),
    "ask": ("root", "ask_main", "what the listener's commands say to the root side"),
    "root": ("root", "main", "the root side: shuts the server down on the listener's word"),
    "probe": ("probing", "main", "record what genuine RCCMD parts say, byte by byte"),
}


def _parser() -> argparse.ArgumentParser:
    import argparse  # a megabyte that the service does without

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="rccmd", description=__doc__, epilog=OVERVIEW, formatter_class=raw, allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="what", metavar="VERB", required=True)
    _listen_options(
        verbs.add_parser(
            "listen",
            help="wait for commands of a UPS adapter and run what you configured",
            description="Wait for commands of a UPS adapter and run what you configured.",
            epilog=LISTEN,
            formatter_class=raw,
            allow_abbrev=False,
        )
    )
    for verb, (_, _, what) in OTHERS.items():
        verbs.add_parser(verb, help=what, add_help=False)
    _send_options(
        verbs.add_parser(
            "send",
            help="tell a command to one or many listeners",
            description="Tell a command to one or many listeners, all at the same time.",
            epilog=SEND,
            formatter_class=raw,
            allow_abbrev=False,
        )
    )
    for verb, what in (
        ("status", "what the listener on this server knows: adapters, who has asked, the last commands"),
        ("selftest", "let the listener do its self test now, and say how it went"),
    ):
        tool = verbs.add_parser(verb, help=what, description=what, allow_abbrev=False)
        tool.add_argument("--config", metavar="FILE", help="rccmd.ini, which says where the state is")
        tool.add_argument("--state-dir", metavar="FOLDER", help="where it is, if not as in --config")
        if verb == "status":
            tool.add_argument("--json", action="store_true", help="for programs: one object")
    return parser


def _listen_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--bind", metavar="HOST:PORT", help=f"where to listen (default 0.0.0.0:{PORT}; IPv6: [::]:{PORT})")
    add("--allow", metavar="IP[,IP...]", help="who may command: addresses or networks such as 192.0.2.0/28; needed")
    add("--on-shutdown", metavar="CMD", help="program and arguments for SHUTDOWN; no shell is involved")
    add("--on-message", metavar="CMD", help="program for MSG_TEXT, which gets the text on its standard input")
    add("--on-wakeup", metavar="CMD", help="program for WAKEUP: the sender's outage is over")
    add("--need", metavar="N", help="run the shutdown only when N of the allowed senders have asked (default 1)")
    add("--vote", metavar="SECONDS", help="with --need: the word of one sender counts for so long (default 3600)")
    add("--state", metavar="FILE", help="with --need: keep who has asked in FILE, so that a restart forgets nobody")
    add("--grace", metavar="SECONDS", help="wait so long before the shutdown; WAKEUP cancels it (default 0)")
    add("--udp", action="store_true", help="listen on UDP too (broadcasts); such senders are easily forged")
    add("--tls", metavar="FILE", help="secure mode: our key and certificate (PEM); then only TLS is heard")
    add("--senders", metavar="FOLDER", help="secure mode: NAME.pem, the certificate of each adapter that may command")
    add("--state-dir", metavar="FOLDER", help="what must be remembered: commands that were run, who has asked")
    add("--dry-run", action="store_true", help="do everything but start programs; the log says what would run")
    add("--config", metavar="FILE", help="read rccmd.ini: the same settings, and the names for EXECUTE")
    add("--log", metavar="FILE", help="write the log lines to FILE too (1 MiB, one older file kept)")


def _send_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-se", dest="text", metavar="STRING", help='the command, e.g. "EXECUTE |AUX|1|1"')
    what.add_argument(
        "--shutdown", dest="text", action="store_const", const=SHUTDOWN, help="the same as -se SHUTDOWN"
    )
    what.add_argument("--wakeup", dest="text", action="store_const", const=WAKEUP, help="the same as -se WAKEUP")
    what.add_argument("--message", metavar="TEXT", help='the same as -se "MSG_TEXT TEXT"')
    add("-s", action="store_true", help="send; understood because the original needs it")
    add("-a", dest="addresses", metavar="ADDRESS[,ADDRESS..]", required=True, help="to whom; names or addresses")
    add("-p", dest="port", metavar="PORT", type=int, default=PORT, help=f"port (default {PORT})")
    add("--udp", action="store_true", help="one datagram, SHUTDOWN and WAKEUP three, 1 s apart; broadcast works")
    add("--terminator", choices=list(TERMINATORS), help="what ends the message (default lf; over UDP none)")
    add("--no-half-close", action="store_true", help="do not close our side before the listener has closed")
    add("--template", metavar="TEXT", help=f'the whole message (default "{TEMPLATE}")')


def _listen_as_told(options: argparse.Namespace) -> int:
    given = {"bind": options.bind, "allow": options.allow, "udp": "yes" if options.udp else None}
    given.update({"grace_s": options.grace, "log": options.log})
    given.update({"need": options.need, "vote_s": options.vote, "state": options.state})
    given.update({"tls": options.tls, "senders": options.senders, "state_dir": options.state_dir})
    given.update({"dry_run": "yes" if options.dry_run else None})
    given.update({"on_shutdown": options.on_shutdown, "on_message": options.on_message})
    given.update({"on_wakeup": options.on_wakeup})
    return _listen({key: text for key, text in given.items() if text is not None}, options.config)


def _listen(given: Mapping[str, str], config: str | None) -> int:
    try:
        what = settings.load(given, config)
        trust = _trust(what)
        if what.log is not None:
            journal.output.begin(what.log)
    except settings.SettingsError as e:
        for line in str(e).splitlines():
            print(f"rccmd: {line}", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"rccmd: log file {e.filename}: {e.strerror}", file=sys.stderr)
        return 2
    lines = journal.Journal()
    names = tuple if trust is None else trust.names
    who = orders.Orders(what, lines, names=names)
    seen = status.Status(what, who, names, lines)
    try:
        lock = status.Lock(what.state_dir) if what.state_dir else None
    except (status.Busy, OSError) as e:
        print(f"rccmd: state_dir: {e}", file=sys.stderr)
        return 2
    try:
        listener = listen.Listener(what, who, lines, time.monotonic, trust, seen)
    except OSError as e:
        print(f"rccmd: cannot listen on {what.host}:{what.port}: {e.strerror}", file=sys.stderr)
        return 1
    listen.run(listener, what, lines)
    if lock is not None:
        lock.close()
    return 0


def _trust(what: settings.Settings) -> Trust | None:
    """Who may command in secure mode. Raises SettingsError."""
    if what.tls is None:
        return None
    from .trust import Trust  # ssl takes memory that a classic listener does not need

    return Trust(what)


def _send(options: argparse.Namespace) -> int:
    from . import send  # a listener need not have it in memory

    addresses = [a.strip() for a in options.addresses.split(",") if a.strip()]
    if not addresses or not 1 <= options.port <= 65535:
        print("rccmd: -a needs an address, and -p a port from 1 to 65535", file=sys.stderr)
        return 2
    message = send.Message(
        text=f"{MSG_TEXT} {options.message}" if options.message is not None else options.text,
        port=options.port,
        udp=options.udp,
        template=options.template,
        terminator=options.terminator,
        half_close=not options.no_half_close,
    )
    return send.run(addresses, message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rccmd` with these arguments (None: those of the process) and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words.insert(0, "send")  # the original has no verb: rccmd -s -se "..." -a ...
    if words and words[0] in OTHERS:
        module, function, _ = OTHERS[words[0]]
        return int(getattr(importlib.import_module(f"{__package__}.{module}"), function)(words[1:]))
    if words[:2] == ["listen", "--config"] and len(words) == 3:  # as the service is started: without argparse
        return _listen({}, words[2])
    options = _parser().parse_args(words)
    if options.what in ("status", "selftest"):
        from . import tools

        if options.what == "status":
            return tools.show(options.config, options.state_dir, as_json=options.json)
        return tools.selftest(options.config, options.state_dir)
    return _listen_as_told(options) if options.what == "listen" else _send(options)


if __name__ == "__main__":
    sys.exit(main())
