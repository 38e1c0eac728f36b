"""This host itself: asks the root helper for a fixed order, or runs a program that people put into `commands.d`.

The program gets no arguments, no shell, no input; RIDETHROUGH_OUTAGE and RIDETHROUGH_SERVER say what it is about.
One that still runs after 30 s is left to itself: it may be a slow shutdown. The helper (agent/helper.py) is asked one
line over its socket and answers one: "ok ..." or "no ...".
"""

from __future__ import annotations

import socket
from collections.abc import Generator

from .. import commands, helper, program
from ..config import Server
from ..model import ConfigError, Option
from . import ACCEPTED, NOT_DELIVERED, PROVEN, UNKNOWN, Job, Late, Outcome, Steps, Wait

PORT = 0
OPTIONS = (
    Option(name="command", kind=str, help="which program in commands_dir shuts this host down"),
    Option(name="order", kind=str, choices=tuple(helper.ORDERS), help="or what the root helper does instead"),
)

RUN_S = 30.0
ANSWER_S = helper.DONE_S + 5.0
ANSWER_LIMIT_BYTES = 512


def wrong(server: Server) -> str:
    """What is wrong with the options."""
    command, order = server.options.get("command"), server.options.get("order")
    if command is not None and order is not None:
        return "command and order: only one of them"
    if command is None:
        return "" if order is not None else "needs either command or order"
    problem = commands.wrong_name(command)
    return f'command = "{command}" {problem}' if problem else ""


def _ask(word: str, socket_path: str) -> Generator[Wait, None, str]:
    """The helper's answer to one word. OSError, Late if there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        helper.connect(sock, socket_path)
        sock.send(word.encode() + b"\n")  # a few bytes: they fit
        data = b""
        while not data.endswith(b"\n") and len(data) < ANSWER_LIMIT_BYTES:
            yield Wait(sock.fileno(), False, ANSWER_S, "no answer of the helper")
            more = sock.recv(ANSWER_LIMIT_BYTES)
            if not more:
                break
            data += more
    return helper.answered(data)


def send(job: Job, run_s: float = RUN_S, socket_path: str = helper.SOCKET) -> Steps:
    """Run it, or have the helper do it. ACCEPTED: it ended with 0, or still runs."""
    if order := job.server.options.get("order"):
        answer = yield from _ask(order, socket_path)
        return Outcome(ACCEPTED if answer.startswith("ok ") else NOT_DELIVERED, answer)
    if program.left() >= program.LEFT_LIMIT:
        return Outcome(NOT_DELIVERED, f"{program.left()} commands still run; no more are started")
    try:
        path = commands.program(job.commands_dir, job.server.options["command"])
    except ConfigError as e:
        return Outcome(NOT_DELIVERED, str(e))
    env = {"RIDETHROUGH_OUTAGE": job.outage, "RIDETHROUGH_SERVER": job.server.name}
    running = program.Program([str(path)], env)
    try:
        yield from running.run(run_s, "it still runs")
    except Late:
        return Outcome(ACCEPTED, f"{path.name} still runs after {run_s:g} s")
    finally:
        running.leave()
    said = running.text()[-1:]
    if running.code == 0:
        return Outcome(ACCEPTED, ": ".join(["exit code 0", *said]))
    how = f"signal {-running.code}" if running.code and running.code < 0 else f"exit code {running.code}"
    return Outcome(NOT_DELIVERED, ": ".join([how, *said]))


def prove(job: Job, socket_path: str = helper.SOCKET) -> Steps:
    """Look whether it may be run, without running it; the helper's whole way but for the last step."""
    if order := job.server.options.get("order"):
        answer = yield from _ask(helper.CHECK + order, socket_path)
        return Outcome(PROVEN if answer.startswith("ok ") else UNKNOWN, answer)
    try:
        path = commands.program(job.commands_dir, job.server.options["command"])
    except ConfigError as e:
        return Outcome(UNKNOWN, str(e))
    return Outcome(PROVEN, f"{path} may be run")
