"""This host itself: runs a program that people put into `commands.d`.

The program gets no arguments, no shell, no input; RIDETHROUGH_OUTAGE and RIDETHROUGH_SERVER say what it is about.
One that still runs after 30 s is left to itself: it may be a slow shutdown.
"""

from __future__ import annotations

from .. import commands, program
from ..config import Server
from ..model import ConfigError, Option
from . import ACCEPTED, NOT_DELIVERED, PROVEN, UNKNOWN, Job, Late, Outcome, Steps

NAME, TITLE, PORT = "local", "This host: a program in commands.d", 0
OPTIONS = (
    Option(name="command", kind=str, required=True, help="which program in commands_dir shuts this host down"),
)

RUN_S = 30.0


def wrong(server: Server) -> str:
    """What is wrong with the options."""
    command = server.options.get("command") or ""
    problem = commands.wrong_name(command)
    return f'command = "{command}" {problem}' if problem else ""


def send(job: Job, run_s: float = RUN_S) -> Steps:
    """Run it. ACCEPTED: it ended with 0, or still runs."""
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


def prove(job: Job) -> Steps:
    """Look whether it may be run, without running it."""
    yield from ()
    try:
        path = commands.program(job.commands_dir, job.server.options["command"])
    except ConfigError as e:
        return Outcome(UNKNOWN, str(e))
    return Outcome(PROVEN, f"{path} may be run")
