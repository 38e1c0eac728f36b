"""The command line of Ridethrough: `ridethrough VERB --config FILE`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from .model import VERSION, Command, ConfigError

DEFAULT_CONFIG = Path("/etc/ridethrough/ridethrough.toml")
ORDERS = tuple(command.value for command in Command if command is not Command.SIMULATE)


def parser() -> argparse.ArgumentParser:
    """All verbs and their options; a test holds the documentation against it."""
    top = argparse.ArgumentParser(prog="ridethrough", description="The network adapter for your UPS.")
    top.add_argument("--version", action="version", version=f"ridethrough {VERSION}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.add_argument(
            "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"configuration ({DEFAULT_CONFIG})"
        )
        return sub

    for name, text in (
        ("run", "start core and faces, and start either again when it ends"),
        ("core", "read the UPS, decide, and tell the servers"),
        ("faces", "serve the web page and SNMP"),
    ):
        started = verb(name, text)
        started.add_argument("--verbose", action="store_true", help="log more")
        if name == "core":
            started.add_argument(
                "--faces", default="", metavar="USER", help="user of the faces, if not the core's own"
            )
    helper = verbs.add_parser("helper", help="root's side: does one fixed thing that the core asks for (systemd)")
    helper.add_argument(
        "--user", default="ridethrough", metavar="USER", help="who may ask besides root (ridethrough)"
    )
    verb("check", "say everything that is wrong with the configuration")
    status = verb("status", "show what the agent knows now")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument("--watch", action="store_true", help="go on showing it, once a second")
    history = verb("log", "show the last events")
    history.add_argument("--lines", type=int, default=20, metavar="N", help="how many (1..500)")
    history.add_argument("--json", action="store_true", help="one JSON object a line")
    for name, text in (
        ("hold", "put off every stage that is not yet latched by 5 minutes"),
        ("abort", "latch no further stage in this outage (an emergency still does)"),
        ("release", "undo hold and abort"),
        ("clear", "end a planned shutdown or a recovery"),
        ("disarm", "set mode to dry-run: nobody is told anything"),
        ("ssh-key", "show the key with which this box shuts servers down over ssh"),
    ):
        verb(name, text)
    down = verb("shutdown", "shut the servers of a stage and all before it down now; they stay down until woken")
    down.add_argument("stage", metavar="STAGE", help="name of the stage, or all")
    down.add_argument("--yes", action="store_true", help="really; without it this only says what would be done")
    wake = verb("wake", "wake the servers of a stage, until they answer")
    wake.add_argument("stage", metavar="STAGE", help="name of the stage, or all")
    message = verb("message", "show a text on servers, now and once (RCCMD)")
    message.add_argument("to", metavar="SERVER|STAGE|all", help="who gets it")
    message.add_argument("text", metavar="TEXT", help="one line; #BATTCAP and other variables are filled in")
    execute = verb("execute", "have a server run one of the commands that it was set up for (RCCMD)")
    execute.add_argument("to", metavar="SERVER", help="who runs it")
    execute.add_argument("text", metavar="NAME", help="the command's name in the server's rccmd.ini")
    ups = verb("ups", "give the UPS an order: a test, its beeper, off and on; without one: what this UPS can do")
    ups.add_argument("order", nargs="?", choices=ORDERS, metavar="ORDER", help="one of " + ", ".join(ORDERS))
    ups.add_argument("--delay", type=float, metavar="SECONDS", help="of a shutdown: so long after the order")
    ups.add_argument("--return-delay", type=float, metavar="SECONDS", help="of shutdown-return: off for so long")
    ups.add_argument("--minutes", type=int, metavar="N", help="of test-minutes")
    ups.add_argument("--number", type=int, metavar="N", help="of an outlet")
    ups.add_argument("--yes", action="store_true", help="really, for what can take power from somebody")
    drill = verb("drill", "play the plan through with a pretend outage: nobody is told, the protection goes on")
    drill.add_argument("--end", action="store_true", help="end it")
    rehearse = verb("rehearse", "prove every server and walk the plan: does it hold, does it fit the battery?")
    rehearse.add_argument("--json", action="store_true", help="as JSON")
    arm = verb("arm", "set mode to armed, after saying what should be mended before")
    arm.add_argument("--yes", action="store_true", help="also with warnings")
    enroll = verb("enroll", "print the one command that has a server told securely from now on; or who is enrolled")
    enroll.add_argument("name", nargs="?", metavar="NAME", help="the server; without it: which ones are enrolled")
    enroll.add_argument("--windows", action="store_true", help="the command for PowerShell instead of sh")
    enroll.add_argument("--address", metavar="HOST[:PORT]", help="where that server reaches this adapter's page")
    enroll.add_argument("--json", action="store_true", help="as JSON")
    secret = verb("secret", "keep a secret for the configuration, such as an SNMP community or a token")
    secret.add_argument("action", choices=("set", "remove", "list"), help="set reads the value from standard input")
    secret.add_argument("label", nargs="?", help="the secret's label in the configuration")
    user = verb("snmp-user", "give a user of SNMP version 3 his keys, from pass phrases on standard input")
    user.add_argument("name", nargs="?", metavar="NAME", help="of the [[snmp.user]]; without it all are listed")
    weak = "is weak, and off without allow_weak = true in [snmp]"
    user.add_argument(
        "--auth", default="sha256", metavar="WAY",
        help=f"how he signs: sha256 (default), sha384, sha512, sha224, sha1; md5 {weak}",
    )  # fmt: skip
    user.add_argument(
        "--priv", default="aes128", metavar="WAY",
        help="how he encrypts: aes128 (default), none; aes256 is an extension that is in no standard: not every "
        f"manager has it; des {weak}",
    )  # fmt: skip
    user.add_argument("--informs", action="store_true", help="keep them in a form that serves informs to others, too")
    user.add_argument("--remove", action="store_true", help="take his keys away")
    password = verb("password", "access to the web page")
    password.add_argument(
        "action",
        choices=("reset", "hash"),
        help="reset: end all sessions, print a new one-time password; hash: print what [system] password_hash wants",
    )
    found = verb("detect", "find out which UPS is connected, with which driver, and say why; sends only questions")
    found.add_argument(
        "--serial-ok", action="store_true", help="no contact or simple-signalling cable hangs on a serial port"
    )
    found.add_argument("--port", default="", metavar="PATH", help="look at this serial port alone")
    found.add_argument(
        "--host", action="append", default=[], metavar="ADDRESS",
        help="ask this host alone (Modbus TCP, a NUT server, SNMP); may be given several times",
    )  # fmt: skip
    found.add_argument("--secret", default="", metavar="LABEL", help="of the SNMP community for --host; else public")
    found.add_argument("--json", action="store_true", help="as JSON, with what was asked and said")
    found.add_argument("--forget", action="store_true", help='forget what driver = "auto" has found')
    bundle = verb("support", "write an archive for whoever shall help: configuration, events, frames; no secrets")
    bundle.add_argument("--output", type=Path, metavar="FILE", help="what to write (ridethrough-support-TIME.tar.gz)")
    keep = verb("backup", "keep everything that makes this adapter the one it is in one encrypted file")
    keep.add_argument(
        "file", type=Path, metavar="FILE", help="where to; the pass phrase is asked for, or standard input"
    )
    again = verb("restore", "make this machine the adapter of a backup; without --yes only says what is in it")
    again.add_argument("file", type=Path, metavar="FILE", help="what `backup` made")
    again.add_argument("--yes", action="store_true", help="really; what is there now is kept as a backup of its own")
    new = verb("update", "write a signed update into the image's other slot and start it on trial (as root)")
    new.add_argument("source", nargs="?", metavar="FILE|URL", help="the update")
    new.add_argument("--again", action="store_true", help="also the version that runs already")
    new.add_argument("--without-ups", action="store_true", help="also while the UPS says nothing")
    new.add_argument("--back", action="store_true", help="no update: the version in the other slot, on trial again")
    new.add_argument("--confirm", action="store_true", help="of a start on trial: keep it once it proves itself")
    own = verb("host", "set up this adapter itself (network, time: on the image), or start it again")
    own.add_argument("what", choices=("network", "time", "slot", "reboot", "power-off"), help="what to do")
    own.add_argument("--yes", action="store_true", help="reboot, power-off, slot: really")
    own.add_argument("--hostname", metavar="NAME", help="network: its name, also as NAME.local")
    own.add_argument("--address", metavar="ADDRESS", help='network: "dhcp" or such as 192.0.2.10/24')
    own.add_argument("--gateway", metavar="ADDRESS", help="network: the router")
    own.add_argument("--dns", action="append", metavar="ADDRESS", help="network: a name server, once for each")
    own.add_argument("--wifi", metavar="SSID", help='network: this Wi-Fi (its pass phrase is asked for); "": none')
    own.add_argument("--country", metavar="XX", help="network: of the Wi-Fi")
    own.add_argument("--timezone", metavar="ZONE", help="time: such as Europe/Berlin")
    own.add_argument("--ntp", action="append", metavar="HOST", help="time: a time server, once for each")
    verb("spare", "on the image: keep the settings once more, outside the data partition (as root; a timer runs it)")
    first = verb("provision", "take over what the image's boot partition says, and apply it to this host (as root)")
    first.add_argument("--boot", type=Path, default=Path("/boot/firmware"), metavar="DIR", help="the boot partition")
    first.add_argument(
        "--system", type=Path, default=Path("/var/lib/ridethrough/system"), metavar="DIR", help="what was taken over"
    )
    demo = verbs.add_parser("demo", help="run everything with a simulated UPS and one protected loopback server")
    demo.add_argument("--web", default="127.0.0.1:8080", metavar="HOST:PORT", help="web page (127.0.0.1:8080)")
    demo.add_argument("--snmp", default="127.0.0.1:1161", metavar="HOST:PORT", help="SNMP agent (127.0.0.1:1161)")
    demo.add_argument("--state", type=Path, default=Path(".demo"), metavar="DIR", help="where it keeps its state")
    return top


def main() -> int:
    """Entry of the console command; returns the exit code: 0 well, 1 failed, 2 wrong configuration or usage."""
    args = parser().parse_args()
    verbose = getattr(args, "verbose", False)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s {args.verb}: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    try:
        return _dispatch(args)
    except ConfigError as e:
        print(f"ridethrough: {e}", file=sys.stderr)
        return 2


def _dispatch(args: argparse.Namespace) -> int:
    """Import only what the verb needs: core and faces are small on purpose."""
    if args.verb == "core":
        from . import core

        return core.main(args.config, args.faces)
    if args.verb == "faces":
        from . import faces

        return faces.main(args.config)
    if args.verb == "run":
        from . import run

        return run.main(args.config)
    if args.verb == "helper":
        from . import helper

        return helper.main(args.user)
    if args.verb == "demo":
        from . import demo

        return demo.main(args.web, args.snmp, args.state)
    from . import verbs

    return verbs.main(args)


if __name__ == "__main__":
    sys.exit(main())
