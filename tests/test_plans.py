"""Bad plans are refused with place and remedy; 200 mutations of a good file are refused or safe."""

from __future__ import annotations

import random

import pytest

from agent import process, reach
from agent.addresses import normal
from agent.config import Config, Problem
from agent.reading import parse
from tests.test_config import GOOD, options

OWN = frozenset({"192.0.2.7"})


def read(text: str) -> tuple[Config, tuple[Problem, ...]]:
    return parse(text, options, reach.load, lambda: OWN)


PLAN = """
[agent]
mode = "armed"
[ups]
driver = "megatec"
port = "/dev/ttyUSB0"
[[stage]]
name = "early"
on_battery_s = 120
[[stage]]
name = "late"
on_battery_s = 60
[[server]]
name = "web"
address = "192.0.2.10"
stage = "early"
[[server]]
name = "desk"
address = "192.0.2.11"
how = "wake"
stage = "late"
mac = "52-54-00-AB-cd-ef"
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"192.0.2.11"\nhow = "wake"', '"192.0.2.10"'), ["desk", "same address and port as web", "remove"]),
        (('"192.0.2.10"', '"192.0.2.7"'), ["web", "an address of this machine itself", 'how = "local"']),
        (('port = "/dev/ttyUSB0"', 'port = "/dev/ttyUSB0"\nfull_load_minutes = 2'), ["web needs_s = 120", "battery"]),
        (('stage = "late"', 'stage = "lat"'), ["desk", "no such [[stage]]", 'did you mean "late"']),
        (('how = "wake"', 'how = "wake"\nport = 0'), ["desk port = 0", "between 1 and 65535"]),
        (('"52-54-00-AB-cd-ef"', '"ff:ff:ff:ff:ff:ff"'), ["desk mac", "not the MAC of one machine"]),
        (('"52-54-00-AB-cd-ef"', '"52:54:00"'), ["desk mac", "not the MAC of one machine"]),
        (('how = "wake"', 'how = "wake"\nwake = false'), ["desk", "nothing would ever be done"]),
        (('how = "wake"', 'how = "wake"\nhost_key = "x"'), ["desk host_key", "unknown option"]),
    ],
)
def test_a_bad_plan_is_refused_with_place_and_remedy(change: tuple[str, str], words: list[str]) -> None:
    assert change[0] in PLAN
    found = read(PLAN.replace(*change))[1]
    text = "\n".join(p.text for p in found)
    assert found and all(word in text for word in words), text
    assert any(p.section in ("server", "stage") for p in found)


F = "00" * 32
HTTP = f'how = "http"\nfingerprint = "{F}"\n'


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ('[[server]]\nname = "a"\naddress = "2001:db8:0:0::5"\n', "address of this machine itself"),
        ('[[server]]\nname = "a"\naddress = "::ffff:192.0.2.7"\n', "address of this machine itself"),
        (
            f'[[server]]\nname = "a"\naddress = "192.0.2.77"\nurl = "https://192.0.2.7/x"\n{HTTP}',
            "url: goes to 192.0.2.7: an address of this machine itself",
        ),
        (
            '[[server]]\nname = "a"\naddress = "2001:db8::1"\n[[server]]\nname = "b"\naddress = "2001:0DB8::1"\n',
            "b: same address and port as a",
        ),
        (
            '[[server]]\nname = "a"\naddress = "nas.lan"\n[[server]]\nname = "b"\naddress = "NAS.lan."\n',
            "b: same address and port as a",
        ),
        (
            f'[[server]]\nname = "a"\naddress = "192.0.2.77"\nurl = "https://192.0.2.9/x"\n{HTTP}'
            f'[[server]]\nname = "b"\naddress = "192.0.2.78"\nurl = "https://[::ffff:192.0.2.9]/x"\n{HTTP}',
            "b: same address and port as a",
        ),
        (
            f'[[server]]\nname = "a"\naddress = "192.0.2.77"\nurl = "/x"\n{HTTP}'
            f'[[server]]\nname = "b"\naddress = "192.0.2.78"\nurl = "https://192.0.2.77/y"\n{HTTP}',
            "b: same address and port as a",
        ),
    ],
)
def test_where_an_order_really_goes_is_what_counts(servers: str, words: str) -> None:
    own = OWN | {"2001:db8::5"}
    found = parse(PLAN[: PLAN.index("[[server]]")] + servers, options, reach.load, lambda: own)[1]
    assert [p.section for p in found] == ["server"] and words in found[0].text, found


def test_a_hub_may_be_asked_for_several_servers() -> None:
    servers = "".join(
        f'[[server]]\nname = "{name}"\naddress = "192.0.2.{n}"\nurl = "https://192.0.2.9/{name}"\n{HTTP}'
        for n, name in enumerate(("a", "b"), start=77)
    )
    assert read(PLAN[: PLAN.index("[[server]]")] + servers)[1] == ()


def test_the_simulated_ups_reaches_no_other_machine_by_a_url() -> None:
    url = f'[[server]]\nname = "a"\naddress = "127.0.0.1"\nurl = "https://192.0.2.9/x"\n{HTTP}'
    text = '[agent]\nmode = "armed"\n[ups]\ndriver = "simulator"\n' + url
    assert "may only tell servers on loopback, not a" in read(text)[1][0].text
    assert read(text.replace("192.0.2.9", "127.0.0.1"))[1] == ()


def test_this_host_and_the_slowest_server_before_it_must_fit_the_battery() -> None:
    text = PLAN[: PLAN.index("[[stage]]")] + (
        "full_load_minutes = 3\n"
        '[[server]]\nname = "a"\naddress = "192.0.2.10"\nneeds_s = 120\n'
        '[[server]]\nname = "me"\nhow = "local"\ncommand = "off"\nneeds_s = 100\n'
        '[[server]]\nname = "pc"\naddress = "192.0.2.11"\nhow = "wake"\nneeds_s = 7000\n'
    )
    assert [p.text.partition(":")[0] for p in read(text)[1]] == ["[[server]] me needs_s = 100"]
    assert read(text.replace("100", "30"))[1] == ()


def test_a_plan_that_only_wakes_is_said() -> None:
    text = PLAN[: PLAN.index("[[server]]")] + '[[server]]\nname = "a"\naddress = "192.0.2.1"\nhow = "wake"\n'
    found, wrong = read(text)
    assert wrong == () and any("every one is only woken" in hint for hint in found.hints)


@pytest.mark.parametrize("who", ['[[snmp.community]]\nlabel = "x"', '[[snmp.user]]\nname = "x"'])
@pytest.mark.parametrize("everywhere", ["0.0.0.0/0", "::/0"])
def test_who_may_cut_the_power_from_everywhere_is_said(who: str, everywhere: str) -> None:
    table = who.partition("\n")[0]
    rest = f'{who}\naccess = "read-write"\nfrom = ["192.0.2.7/32", "{everywhere}"]\n'
    text = f"{PLAN}\n[snmp]\nallow_shutdown = true\n{rest}"
    found, wrong = read(text)
    assert wrong == () and found.hints[-1] == (
        f"{table} x: may switch the output off (allow_shutdown), and from = {everywhere} is every address there is"
    )
    for less in (("= true", "= false"), ("read-write", "read-only"), (everywhere, "192.0.2.0/24")):
        assert not any("allow_shutdown" in hint for hint in read(text.replace(*less))[0].hints)


@pytest.mark.parametrize(("poll_s", "sense", "said"), [(1, "", False), (1.5, "", True), (10, 'sense = "dsr"', False)])
def test_contacts_that_are_looked_at_too_seldom_are_said(poll_s: float, sense: str, said: bool) -> None:
    ups = f'driver = "contact"\ncable = "generic-rups"\n{sense}\npoll_s = {poll_s}'
    text = PLAN.replace('driver = "megatec"', ups)
    found, wrong = parse(text, process.ups_options, reach.load, lambda: OWN)
    assert wrong == () and any("taken for a missing cable" in hint for hint in found.hints) is said


def test_armed_without_a_server_is_refused_and_in_dry_run_it_is_not() -> None:
    text = PLAN[: PLAN.index("[[server]]")]
    assert "no [[server]]" in read(text)[1][0].text
    assert read(text.replace("armed", "dry-run"))[1] == ()


def test_a_good_plan_has_its_macs_in_one_form_its_ways_ports_and_hints() -> None:
    found, wrong = read(PLAN)
    assert wrong == ()
    web, desk = found.servers
    assert (web.port, desk.port, desk.mac) == (6003, 9, "52:54:00:ab:cd:ef")
    assert found.hints == ("[[stage]] late: due before early, which stands before it and is taken along then",)


def test_f26_two_hundred_mutations_of_a_good_file_are_refused_or_safe() -> None:
    random.seed(26)
    refused = 0
    for _ in range(200):
        lines = (PLAN + GOOD[GOOD.index("[web]") :]).splitlines()
        for _ in range(random.randint(1, 3)):
            place = random.randrange(len(lines))
            kind = random.randrange(5)
            if kind == 0:
                del lines[place]
            elif kind == 1:
                lines.insert(place, random.choice(lines))
            elif kind == 2:
                lines[place] = lines[place].replace(random.choice('="[]._1a'), random.choice('="[]0-x\0'))
            elif kind == 3:
                lines[place] = lines[place][: random.randint(0, len(lines[place]))]
            else:
                other = random.randrange(len(lines))
                lines[place], lines[other] = lines[other], lines[place]
        found, wrong = read("\n".join(lines))
        refused += bool(wrong)
        assert all(p.text for p in wrong)
        if not wrong:  # then it is a plan that can be carried out
            assert found.servers or found.mode != "armed"
            assert {s.stage for s in found.servers} <= {s.name for s in found.stages}
            assert len({(normal(s.address), s.port) for s in found.servers}) == len(found.servers)
    assert refused > 100
