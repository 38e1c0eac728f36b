"""What is asked over the bus of RCCMD: texts, commands, pins; every order leaves an audit row, also a refused one."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from agent import bus
from agent.busserver import Peer
from agent.engine import Note
from agent.errands import Errand
from agent.model import ConfigError
from agent.requests import Requests
from agent.tape import Tape
from tests.fakecore import on_line

PEER = Peer(uid=1000, pid=1)
ORIGIN = {"user": "admin", "address": "192.0.2.7"}


class Asked:
    """A Requests with nothing real behind it."""

    def __init__(self, **changes: Any) -> None:
        self.rows, self.posted, self.pinned = list[Any](), list[Errand](), list[tuple[str, str]]()
        engine: Any = SimpleNamespace(view=on_line(**changes))
        nothing: Any = None
        self.requests = Requests(
            engine,
            nothing,
            nothing,
            self.rows.append,
            dict,
            self.enrol,
            self.posted.append,
            Tape(lambda: 0.0),
            self.help,
        )
        self.helped, self.answer = list[str](), "ok done"

    def help(self, line: str) -> str:
        self.helped.append(line)
        if not self.answer:
            raise OSError(2, "No such file (is ridethrough-helper.socket started?)", "/run/x")
        return self.answer

    def enrol(self, name: str, sha256: str) -> str:
        if name != "nas":
            raise ConfigError("there is no such server")
        self.pinned.append((name, sha256))
        return "PEM"

    def ask(self, **message: Any) -> bus.Message:
        return self.requests.answer({"origin": ORIGIN, **message}, PEER)

    def row(self) -> dict[str, str]:
        (note,) = self.rows
        assert isinstance(note, Note) and note.name == "command" and note.data is not None
        return {"text": note.text, **note.data}


def test_a_text_is_said_to_all_and_leaves_a_row() -> None:
    asked = Asked()
    assert asked.ask(type="say", do="message", to="all", text="#BATTCAP %") == {"servers": ["nas", "vm-host"]}
    assert [(e.server, e.verb, e.argument) for e in asked.posted] == [
        ("nas", "MSG_TEXT", "97 %"),
        ("vm-host", "MSG_TEXT", "97 %"),
    ]
    assert asked.row() == {"text": "", "command": "message", "args": "all #BATTCAP %", **ORIGIN, "outcome": "done"}


@pytest.mark.parametrize(("why", "outcome"), [("", "done"), ("noAccess", "refused")])
def test_what_a_face_has_set_or_refused_leaves_a_row(why: str, outcome: str) -> None:
    asked = Asked()
    asked.ask(type="audit", what="sysContact", why=why)
    assert asked.row() == {"text": why, "command": "set", "args": "sysContact", **ORIGIN, "outcome": outcome}


def test_what_is_refused_leaves_a_row_and_says_nothing() -> None:
    asked = Asked(mode="dry-run")
    with pytest.raises(bus.BusError, match="only in mode armed"):
        asked.ask(type="say", do="execute", to="nas", text="backup")
    assert asked.row()["outcome"] == "refused" and "only in mode armed" in asked.row()["text"]
    assert asked.posted == []


@pytest.mark.parametrize(
    "message",
    [
        {"type": "say", "do": "message", "to": "all"},
        {"type": "say", "do": 1, "to": "all", "text": "x"},
        {"type": "say", "do": "message", "to": ["all"], "text": "x"},
        {"type": "say", "do": "message", "to": "all", "text": "x", "origin": "me"},
        {"type": "pin", "name": "nas"},
        {"type": "pin", "name": 1, "sha256": "x"},
    ],
)
def test_a_request_of_a_wrong_form_is_refused(message: dict[str, Any]) -> None:
    asked = Asked()
    with pytest.raises(bus.BusError):
        asked.ask(**message)
    assert asked.posted == [] and asked.pinned == [] and asked.rows == []


def test_what_a_ups_makes_of_an_order_is_in_the_answer_and_in_the_row() -> None:
    asked = Asked()
    ups: Any = SimpleNamespace(order=lambda command, args, until_s: "off after 54 s, not 50" if args else "")
    asked.requests._ups = ups
    args = {"delay_s": 50}
    assert asked.ask(type="command", command="shutdown-stay-off", args=args) == {"remark": "off after 54 s, not 50"}
    assert asked.row()["text"] == "off after 54 s, not 50" and asked.row()["outcome"] == "done"
    asked.rows.clear()
    assert asked.ask(type="command", command="test-quick") == {} and asked.row()["text"] == ""


def test_a_pin_is_answered_with_our_certificate_and_leaves_a_row() -> None:
    asked = Asked()
    assert asked.ask(type="pin", name="nas", sha256="ab" * 32) == {"sender_pem": "PEM"}
    assert asked.pinned == [("nas", "ab" * 32)]
    assert asked.row() == {"text": "", "command": "pin", "args": "nas", **ORIGIN, "outcome": "done"}
    refused = Asked()
    with pytest.raises(bus.BusError, match="there is no such server"):
        refused.ask(type="pin", name="other", sha256="ab" * 32)
    assert refused.row()["outcome"] == "refused"


def test_the_host_is_set_up_by_the_helper_and_the_row_has_no_secret() -> None:
    asked = Asked()
    said = {"hostname": "x", "wifi": {"ssid": "a", "country": "DE", "passphrase": "very secret wifi"}}
    assert asked.ask(type="host", do="network", said=said) == {"said": "done"}
    verb, _, rest = asked.helped[0].partition(" ")
    assert (verb, json.loads(rest)) == ("network", said) and "\n" not in rest
    assert asked.row() == {
        "text": "", "command": "host-network", "args": "hostname wifi", **ORIGIN, "outcome": "done"
    }  # fmt: skip
    assert Asked().ask(type="host", do="slot", said=None) == {"said": "done"}


@pytest.mark.parametrize("answer", ["no network: it is wrong", ""])
def test_a_helper_that_refuses_or_is_not_there_is_said(answer: str) -> None:
    asked = Asked()
    asked.answer = answer
    with pytest.raises(bus.BusError, match="^network: it is wrong$" if answer else "helper.socket started"):
        asked.ask(type="host", do="network", said={"hostname": "x"})
    assert asked.row()["outcome"] == "refused"


@pytest.mark.parametrize("do", ["network", "reboot", "power-off", "slot", "time"])
def test_the_host_is_left_alone_while_protection_is_at_work(do: str) -> None:
    asked = Asked(phase="countdown")
    with pytest.raises(bus.BusError, match="protection is at work"):
        asked.ask(type="host", do=do)
    assert asked.helped == [] and asked.row()["outcome"] == "refused"


@pytest.mark.parametrize("message", [{"do": "halt"}, {"do": "reboot\nslot"}, {"do": 7}, {"do": ["network"]}, {},
                                     {"do": "network", "said": "x"}, {"do": "network", "said": [1]}])  # fmt: skip
def test_no_other_word_reaches_the_helper(message: dict[str, Any]) -> None:
    asked = Asked()
    with pytest.raises(bus.BusError, match="do must be one of"):
        asked.ask(type="host", **message)
    assert asked.helped == [] and asked.rows == []
