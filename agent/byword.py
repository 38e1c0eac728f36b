"""Texts and named commands that an administrator sends to servers by hand: to whom, and what exactly. Pure."""

from __future__ import annotations

from .errands import Errand
from .model import OrderError, View
from .rccmd import codec
from .variables import substitute

WITHIN_S = 60.0  # what cannot be begun until then is not sent
TEXT_LIMIT_BYTES, NAME_LIMIT = 1800, 200  # of UTF-8, so that the line around it fits; characters
VERBS = {"message": codec.MSG_TEXT, "execute": codec.EXECUTE}


def errands(do: str, to: str, text: str, view: View) -> tuple[Errand, ...]:
    """What must be sent: `do` is message or execute, `to` a server, a stage or "all", `text` the message (with
    `#VARIABLES`) or the command's name. OrderError says why nothing is."""
    if do not in VERBS:
        raise OrderError(f"nobody knows how to {do}")
    if view.mode != "armed":
        raise OrderError("only in mode armed something is sent")
    servers = [s for s in view.servers if s.name == to]
    servers = servers or [s for s in view.servers if do == "message" and to in ("all", s.stage)]
    if not servers:
        raise OrderError(f"there is no server{' or stage' if do == 'message' else ''} {to}")
    able = [s for s in servers if s.how == "rccmd"]
    if not able:
        raise OrderError(f'{to}: only servers with how = "rccmd" understand this')
    text = substitute(text, view) if do == "message" else text
    plain = codec.printable(text).strip()
    if not plain:
        raise OrderError("there is nothing to send")
    if len(plain.encode("utf-8", "replace")) > TEXT_LIMIT_BYTES:
        raise OrderError(f"the text is longer than {TEXT_LIMIT_BYTES} bytes")
    if do == "execute" and (plain != text or len(text) > NAME_LIMIT):
        raise OrderError(f"a command's name is printable, without blanks around it, at most {NAME_LIMIT} characters")
    return tuple(Errand(s.name, VERBS[do], plain, view.now_s + WITHIN_S) for s in able)
