"""The configuration: everything that is wrong is said at once, with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import config, process, reach
from agent.addresses import split_address
from agent.config import Config, Problem, Stage
from agent.model import ConfigError, Option
from agent.reading import parse

GOOD = """
[agent]
name = "rack-1"
state_dir = "/tmp/x"
run_dir = "/tmp/y"
mode = "armed"
[ups]
driver = "megatec"
port = "/dev/ttyUSB0"
poll_s = 2
[[stage]]
name = "early"
on_battery_s = 120
[[stage]]
name = "late"
charge_below_pct = 30.5
[[server]]
name = "web"
address = "192.0.2.10"
stage = "early"
needs_s = 60
[[server]]
name = "files"
address = "nas.example.org"
port = 6004
stage = "late"
[web]
listen = "[::1]:8443"
tls = "on"
public_status = true
[snmp]
listen = "0.0.0.0:161"
[[snmp.community]]
label = "monitoring"
from = ["192.0.2.0/24", "2001:db8::/32"]
"""


def options(driver: str) -> tuple[Option, ...]:
    if driver not in ("megatec", "simulator"):
        raise ConfigError(f'[ups] driver: no driver "{driver}"')
    return (
        *([Option(name="port", kind=str, required=True, help="")] if driver == "megatec" else []),
        Option(name="cells", kind=int, default=6, low=1, high=400, help=""),
    )


def read(text: str) -> tuple[Config, tuple[Problem, ...]]:
    return parse(text, options, reach.load)


def problems(text: str) -> list[str]:
    return [p.text for p in read(text)[1]]


def test_a_good_file_is_typed_and_has_no_problem() -> None:
    found, wrong = read(GOOD)
    assert wrong == ()
    assert found.mode == "armed" and found.poll_s == 2.0 and found.ups == {"port": "/dev/ttyUSB0", "cells": 6}
    assert found.stages == (Stage(name="early", on_battery_s=120.0), Stage(name="late", charge_below_pct=30.5))
    assert [(s.name, s.port, s.needs_s) for s in found.servers] == [("web", 6003, 60.0), ("files", 6004, 120.0)]
    assert found.web is not None and found.web.tls == "on" and found.web.public_status
    assert found.snmp is not None and found.snmp.communities[0].sources == ("192.0.2.0/24", "2001:db8::/32")


def test_a_server_without_a_stage_gets_the_default_one() -> None:
    found, wrong = read('[ups]\ndriver="megatec"\nport="x"\n[[server]]\nname="a"\naddress="192.0.2.1"\n')
    assert wrong == () and found.stages == (Stage(name="default"),) and found.mode == "dry-run"


@pytest.mark.parametrize(
    ("change", "section", "words"),
    [
        (('mode = "armed"', 'mode = "aremd"'), "agent", ["[agent] mode", 'did you mean "armed"']),
        (("poll_s = 2", "poll_s = 0"), "ups", ["[ups] poll_s = 0", "between 0.2 and 10"]),
        (("poll_s = 2", "pol_s = 2"), "ups", ["[ups] pol_s: unknown option", 'did you mean "poll_s"']),
        (('driver = "megatec"', 'driver = "megatek"'), "ups", ["no driver"]),
        (('driver = "megatec"', ""), "ups", ["[ups]: driver is missing"]),
        (('port = "/dev/ttyUSB0"', ""), "ups", ["[ups]: port is missing"]),
        (('from = ["192.0.2.0/24", "2001:db8::/32"]', ""), "snmp", ["monitoring: from is missing"]),
        (('"192.0.2.0/24", "2001:db8::/32"', ""), "snmp", ["name at least one network"]),
        (('"192.0.2.0/24"', '"::ffff:192.0.2.0/120"'), "snmp", ["from: ::ffff:192.0.2.0/120", "192.0.2.0/24"]),
        (('"192.0.2.0/24"', '"::ffff:0:0/96"'), "snmp", ["from: ::ffff:0:0/96", "write 0.0.0.0/0"]),
        (('port = "/dev/ttyUSB0"', "port = 3"), "ups", ["[ups] port = 3", "text in quotes"]),
        (('stage = "early"\nneeds', 'stage = "erly"\nneeds'), "server", ["[[server]] web", 'did you mean "early"']),
        (("port = 6004", "port = 70000"), "server", ["[[server]] files port", "between 1 and 65535"]),
        (("needs_s = 60", "needs_s = true"), "server", ["needs_s = True", "a number"]),
        (("needs_s = 60", 'how = "pigeon"'), "server", ["[[server]] web", "no way"]),
        (('name = "files"', 'name = "web"'), "server", ["two of that name"]),
        (('name = "late"', 'name = "la te"'), "stage", ["letters, digits"]),
        (('address = "192.0.2.10"', 'address = "192.0.2.300"'), "server", ["neither an IP address"]),
        (('address = "192.0.2.10"', 'address = "0.0.0.0"'), "server", ["not the address of one machine"]),
        (('address = "192.0.2.10"', ""), "server", ["[[server]] web: address is missing"]),
        (('listen = "[::1]:8443"', 'listen = "::1:8443"'), "web", ["[web] listen", "[ADDRESS]:PORT"]),
        (('listen = "0.0.0.0:161"', 'listen = "snmp"'), "snmp", ["[snmp] listen", "HOST:PORT"]),
        (('"192.0.2.0/24", ', '"192.0.2.1/24", '), "snmp", ["[[snmp.community]] monitoring from"]),
        (("[web]", "[wed]"), "agent", ["[wed]: unknown section", 'did you mean "web"']),
    ],
)
def test_a_mistake_is_named_with_its_place(change: tuple[str, str], section: str, words: list[str]) -> None:
    assert change[0] in GOOD
    wrong = read(GOOD.replace(*change))[1]
    assert section in {p.section for p in wrong}
    text = "\n".join(p.text for p in wrong)
    for word in words:
        assert word in text, text


def test_all_mistakes_are_said_at_once() -> None:
    text = GOOD.replace("poll_s = 2", "poll_s = 99").replace("port = 6004", "port = 0").replace('"on"', '"maybe"')
    assert len(problems(text)) == 3


def test_a_row_with_several_mistakes_says_all_of_them() -> None:
    text = """
[ups]
driver = "simulator"
[[stage]]
name = "x"
on_battery_s = -1
[[stage]]
name = "x"
[[server]]
name = "a"
address = "192.0.2.1"
port = 0
how = "pigeon"
stage = "x"
[[server]]
name = "b"
address = "999.1.1.1"
how = "gull"
stage = "nope"
[snmp]
listen = "x"
[[snmp.community]]
label = "m"
access = "write"
from = ["10.0.0.1/8"]
"""
    wrong = "\n".join(problems(text))
    for word in ("on_battery_s", "two of that name", "port = 0", '"pigeon"', "999.1.1.1", '"gull"', '"nope"',
                 "listen", "access", "has host bits set"):  # fmt: skip
        assert word in wrong, (word, wrong)
    assert 'a stage = "x"' not in wrong


def test_a_mistake_in_web_switches_off_web_alone() -> None:
    found, wrong = read(GOOD.replace('tls = "on"', 'tls = "never"'))
    assert found.web is None and found.snmp is not None and {p.section for p in wrong} == {"web"}


def test_what_is_not_toml_is_one_mistake_of_the_whole_file() -> None:
    (problem,) = read("[agent\n")[1]
    assert problem.section == "file" and "line 1" in problem.text and "file" in config.PROTECTING


def test_the_simulated_ups_may_be_armed_only_against_loopback() -> None:
    text = GOOD.replace('"megatec"', '"simulator"').replace('port = "/dev/ttyUSB0"', "")
    assert any("simulated UPS may only tell servers on loopback" in p for p in problems(text))
    assert problems(text.replace('mode = "armed"', 'mode = "dry-run"')) == []
    assert problems(text.replace("192.0.2.10", "127.0.0.1").replace("nas.example.org", "::1")) == []


def test_two_servers_at_one_address_and_port_are_a_mistake() -> None:
    text = GOOD.replace('"nas.example.org"\nport = 6004', '"192.0.2.10"')
    assert any("same address and port as web" in p for p in problems(text))


@pytest.mark.parametrize(
    "junk", ["x = " + "9" * 5000, "x = " + "[" * 4000, "a" + ".a" * 60_000 + " = 1", "x = 1\nx = 2"]
)
def test_toml_that_trips_the_parser_is_one_mistake_and_the_folders_are_still_found(junk: str) -> None:
    text = f'[agent]\nstate_dir = "/srv/state"\nrun_dir = "/srv/run"\n{junk}\n'
    found, wrong = read(text)
    assert "file" in {p.section for p in wrong}
    assert found.state_dir == "/srv/state" and found.run_dir == "/srv/run"
    assert all(len(p.text) < 400 for p in wrong)


def test_a_broken_file_is_no_simulated_ups() -> None:
    found, _ = read("[agent")
    assert found.driver == "" and found.state_dir == "/var/lib/ridethrough" and found.servers == ()


@pytest.mark.parametrize("address", ["nas..lan", "x" * 64 + ".lan", "-a.lan", "a-.lan", "fe80::1", "a b", ""])
def test_an_address_that_can_never_be_reached_is_a_mistake(address: str) -> None:
    assert problems(GOOD.replace("192.0.2.10", address))


@pytest.mark.parametrize("address", ["nas.lan", "nas.lan.", "a", "fe80::1%eth0", "2001:db8::7"])
def test_an_address_that_may_be_reached_is_good(address: str) -> None:
    assert problems(GOOD.replace("192.0.2.10", address)) == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("255.255.255.255", "not the address of one machine"),
        ("0.0.0.0", "not the address of one machine"),
        ("ff02::1", "not the address of one machine"),
        ("fe80::1", "needs its interface"),
        ("nms.lan", "is not an IP address"),
        ("192.0.2.50", ""),
        ("fe80::1%eth0", ""),
    ],
)
def test_a_receiver_that_nothing_could_ever_reach_is_a_mistake(address: str, words: str) -> None:
    text = f'[snmp]\n[[snmp.receiver]]\nname = "nms"\naddress = "{address}"\nlabel = "l"\n'
    found = [p for p in problems(text) if "receiver" in p]
    assert len(found) == (1 if words else 0) and all(words in p and "nms" in p for p in found)


def test_folders_must_be_absolute_and_a_flood_of_mistakes_is_cut() -> None:
    assert any("must begin with /" in p for p in problems(GOOD.replace('"/tmp/x"', '"x"')))
    many = problems(GOOD + "".join(f"[web{n}]\n" for n in range(500)))
    assert len(many) == config.PROBLEMS_LIMIT


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::]:1", ("::", 1)), ("box.local:65535", ("box.local", 65535))],
)
def test_addresses_are_split(listen: str, expected: tuple[str, int]) -> None:
    assert split_address(listen) == expected


@pytest.mark.parametrize("listen", ["", ":", "x", "x:", ":80", "::1:80", "x:99999", "x:-1", "x:1e3", "x:²"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError):
        split_address(listen)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 40), st.text(max_size=10))
def test_a_file_that_was_cut_or_scribbled_on_never_crashes(place: int, length: int, scribble: str) -> None:
    found, _ = read(GOOD[:place] + scribble + GOOD[place + length :])
    assert isinstance(found, Config)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["agent", "ups", "web", "snmp", "server", "stage"]), VALUES)
def test_any_type_in_any_section_is_a_problem_and_no_crash(section: str, value: object) -> None:
    import tomlkit

    try:
        text = tomlkit.dumps({section: value, **({} if section == "ups" else {"ups": {"driver": "megatec"}})})
    except (TypeError, ValueError, tomlkit.exceptions.TOMLKitError):
        return
    read(text)


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        process.load(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in process.load(binary)[1][0].text
    binary.write_bytes(b'state_dir = "/srv/x"\n# \xe9\n')
    assert process.load(binary)[0].state_dir == "/srv/x"
    binary.write_bytes(b"#" * (config.FILE_LIMIT_BYTES + 1))
    assert "larger than" in process.load(binary)[1][0].text


@pytest.mark.parametrize(
    "text",
    [
        '[agent]\nstate_dir = "/data/ups"\nmode=armed\n',
        "[agent]\nstate_dir = '/data/ups'  # here\nmode=armed\n",
        '[agent]\n  "state_dir"="/data/ups"\r\nmode=armed\r\n',
        'agent.state_dir = "/data/ups"\nmode=armed\n',
        "'agent' . 'state_dir' = '/data/ups'\nmode=armed\n",
        "agent = { mode = 'armed', state_dir = '/data/ups' }\n[ups\n",
        "agent = { state_dir = '/data/ups', mode = armed }\n",
        '[agent]\nstate_dir = "/data/\\u0075ps"\nmode=armed\n',
        "[agent]\n# state_dir = '/old'\nstate_dir = '/data/ups'\nmode=armed\n",
    ],
)
def test_of_a_file_that_is_no_toml_the_state_is_found_however_it_is_written(text: str) -> None:
    found, wrong = parse(text, options, reach.load)
    assert wrong[0].section == "file" and found.state_dir == "/data/ups"


def test_a_file_that_is_too_large_or_in_another_encoding_says_where_the_state_is(tmp_path: Path) -> None:
    path = tmp_path / "ridethrough.toml"
    for rest in (b"#" * config.FILE_LIMIT_BYTES, b"name = '\xfc'\n"):
        path.write_bytes(b"[agent]\nstate_dir = '/data/ups'\n" + rest)
        found, wrong = process.load(path)
        assert wrong[0].section == "file" and found.state_dir == "/data/ups"
