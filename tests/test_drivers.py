"""The contract of every driver, for all of them at once: see docs/drivers.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent import drivers, process, wire
from agent.drivers import contact
from agent.model import Command, ConfigError, Driver, LinkError, Option, OrderError, Status
from tests import devices
from tests.simulators.contact import Uart, UartLines
from tests.simulators.hidunit import HidUnit
from tests.simulators.modbusunit import RegistersLink
from tests.simulators.script import ScriptLink
from tests.simulators.shut import UNIT, ShutScript
from tests.simulators.snmpunit import RFC, SnmpUnit

ROOT = Path(__file__).parent.parent


def _apc() -> dict[bytes, Any]:
    """A Smart-UPS as a script; K, Z and Ctrl-N want to be pressed twice, D toggles the calibration."""
    state = {"K": 0, "D": 0}

    def pressed() -> bytes | None:
        state["K"] += 1
        return None if state["K"] % 2 else b"OK\r\n"

    def toggled() -> bytes:
        state["D"] ^= 1
        return b"OK\r\n"

    numbers = {
        b"L": b"230.0",
        b"O": b"230.0",
        b"B": b"27.10",
        b"f": b"100.0",
        b"j": b"0042:",
        b"p": b"600",
        b"r": b"300",
    }
    return {
        **{question: number + b"\r\n" for question, number in numbers.items()},
        **dict.fromkeys((b"W", b"S", b"\x7f", b"-"), b"OK\r\n"),
        b"Y": b"SM\r\n",
        b"Q": lambda: b"%02X\r\n" % (0x08 | state["D"]),
        **dict.fromkeys((b"K", b"Z", b"\x0e"), pressed),
        b"D": toggled,
        b"@": None,
        b"0": lambda: None,
        b"1": b"OK\r\n",
        b"k": b"0\r\n",
    }


#: driver -> a unit that works: a script of answers, or the name of a case in tests/cases/hid
WORKING: dict[str, Any] = {
    "apcmodbus": RegistersLink,  # made anew for each test
    "apcsmart": _apc(),
    "contact": {b"contacts": b"there"},  # not a script: a pretend port
    "megatec": {b"Q1": b"(230.0 229.0 231.0 030 50.0 26.0 25.0 00001001\r", b"F": b"#230.0 004 24.00 50.0\r"},
    "nut": {
        b"LIST VAR ups\n": b'BEGIN LIST VAR ups\nVAR ups ups.status "OL CHRG"\nVAR ups input.voltage "230.0"\n'
        b"END LIST VAR ups\n",
        b"LIST RW ups\n": b'BEGIN LIST RW ups\nRW ups ups.delay.shutdown "20"\nRW ups ups.delay.start "30"\n'
        b"END LIST RW ups\n",
        b"LIST CMD ups\n": b"BEGIN LIST CMD ups\nCMD ups shutdown.return\nCMD ups beeper.disable\n"
        b"CMD ups outlet.1.load.on\nEND LIST CMD ups\n",
        b"LIST UPS\n": b'BEGIN LIST UPS\nUPS ups "one"\nEND LIST UPS\n',
        b'SET VAR ups ups.delay.shutdown "60"\n': b"OK\n",
        b'SET VAR ups ups.delay.start "180"\n': b"OK\n",
        b"SET TRACKING ON\n": b"OK\n",
        b"INSTCMD ups shutdown.return\n": b"OK\n",
        b"INSTCMD ups beeper.disable\n": b"OK\n",
        b"INSTCMD ups outlet.1.load.on\n": b"OK TRACKING 1\n",
    },
    "shut": UNIT,  # its name, on a line that speaks SHUT
    "simulator": {},
    "snmp": RFC,  # rows of an agent
    "usbhid": "0764-0501",
}
ARGUMENTS: dict[Command, dict[str, Any]] = {
    Command.OUTLET_ON: {"number": 1},
    Command.OUTLET_OFF: {"number": 2},
    Command.TEST_MINUTES: {"minutes": 5},
    Command.SHUTDOWN_RETURN: {"delay_s": 60, "return_delay_s": 180},
    Command.SHUTDOWN_STAY_OFF: {"delay_s": 60},
    Command.SIMULATE: {"mains": "off"},
}


#: driver -> what its section must hold
SECTIONS: dict[str, dict[str, Any]] = {"contact": {"cable": "tripp-lite-lan22"}}
WITH_A_LINE = [name for name in drivers.available() if drivers.load(name).LINK != "none"]


def links(module: ModuleType) -> tuple[Option, ...]:
    return tuple(process.LINKS[module.LINK].OPTIONS) if module.LINK in process.LINKS else ()


def silent_and_senseless(module: ModuleType) -> list[Any]:
    """What may be at the other end and is no unit."""
    if module.NAME == "shut":
        silent, senseless = (ShutScript(HidUnit.of(UNIT)) for _ in range(2))
        silent.there.silent, senseless.there.damage = True, 10**6
        return [silent, senseless]
    if module.LINK != "usb":
        return [
            {},
            {q.rstrip(b"\r"): b"\x80\x00garbage\r" for q in module.QUERIES},
            {q.rstrip(b"\r"): b"\r" for q in module.QUERIES},
        ]
    refuses, hangs, lies, cut = (HidUnit.of(WORKING["usbhid"]) for _ in range(4))
    refuses.reports.clear()
    hangs.lost.update(range(256))
    lies.reports = dict.fromkeys(lies.reports, b"\xff\x01\x02")
    cut.reports = {key: data[:1] for key, data in cut.reports.items()}
    return [refuses, hangs, lies, cut]


@pytest.fixture(params=drivers.available())
def module(request: pytest.FixtureRequest) -> ModuleType:
    return drivers.load(request.param)


def link_of(unit: Any) -> Any:
    """A link to a unit of WORKING, or the link that it is."""
    if unit is RegistersLink:
        return RegistersLink()
    if unit is RFC:
        return SnmpUnit(unit)
    if unit is UNIT:
        return ShutScript(HidUnit.of(unit))
    return HidUnit.of(unit) if isinstance(unit, str) else ScriptLink(unit) if isinstance(unit, dict) else unit


def connect(module: ModuleType, unit: Any) -> tuple[Any, Any]:
    """`unit`: see WORKING, or a link of its own."""
    section = SECTIONS.get(module.NAME, {})
    if module.LINK == "lines":
        uart = Uart(contact.CABLES[section["cable"]])
        contacts = UartLines(uart)
        driver = module.connect(section, contacts, lambda: uart.now_s)
        uart.set(gone=not unit)
        return driver, contacts
    made = link_of(unit)
    clock = lambda: made.now_s  # noqa: E731 (one clock object for this unit)
    return module.connect(section, made if module.LINK != "none" else None, clock), made


def test_every_driver_has_a_working_unit_in_this_test() -> None:
    assert sorted(WORKING) == drivers.available()


def test_an_unknown_driver_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match='did you mean "megatec"'):
        drivers.load("megatek")


def test_it_says_who_it_is(module: ModuleType) -> None:
    assert module.__name__.rpartition(".")[2] == module.NAME
    assert re.fullmatch(r"[a-z][a-z0-9-]*", module.NAME) and module.TITLE
    assert module.LINK in (*process.LINKS, "none")
    assert (module.__doc__ or "").splitlines()[0].endswith(".")


def test_its_options_are_complete_and_do_not_collide_with_those_of_the_link(module: ModuleType) -> None:
    names = [o.name for o in (*module.OPTIONS, *links(module))]
    assert len(names) == len(set(names)) and not {"driver", "poll_s"} & set(names)
    for option in module.OPTIONS:
        assert isinstance(option, Option) and option.help and option.kind in (str, int, float, bool)
        if option.default is not None:
            assert isinstance(option.default, option.kind)
            assert option.low is None or option.low <= option.default
            assert option.high is None or option.default <= option.high
            assert not option.choices or option.default in option.choices


def test_its_options_and_its_status_card_are_documented(module: ModuleType) -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("drivers*.md")))
    assert f"## Driver `{module.NAME}`" in text
    for option in (*module.OPTIONS, *links(module)):
        assert f"`{option.name}`" in text, option.name


def test_its_functions_take_what_the_core_gives(module: ModuleType) -> None:
    assert list(inspect.signature(module.connect).parameters) == ["section", "link", "now"]
    assert list(inspect.signature(module.probe).parameters) == ["link"]


def test_probe_sends_nothing_but_its_queries_whatever_is_at_the_other_end(module: ModuleType) -> None:
    assert all(isinstance(q, bytes) and q for q in module.QUERIES)
    others: list[Any] = [{}, dict.fromkeys((b"Q1", b"F", b"I"), b"\xff\x00\r")]
    if module.LINK == "usb":
        others = [*silent_and_senseless(module), HidUnit(b"\xff\x00", {}, HidUnit.of(WORKING["usbhid"]).identity)]
    for unit in (*others, WORKING[module.NAME]):
        made = link_of(unit)
        assert 0.0 <= module.probe(made) <= 1.0
        assert set(made.sent) <= set(module.QUERIES)
        assert made.waited_s <= 5.0 and not made.closed
    assert module.probe(others[-1] if module.LINK == "usb" else ScriptLink({})) == 0.0


def test_connecting_sends_nothing(module: ModuleType) -> None:
    assert connect(module, WORKING[module.NAME])[1].sent == []


def test_a_working_unit_gives_a_status_that_survives_the_bus(module: ModuleType) -> None:
    driver, script = connect(module, WORKING[module.NAME])
    before_s = script.now_s
    status = driver.poll()
    assert isinstance(status, Status) and before_s <= status.taken_s <= script.now_s
    status = driver.poll()  # what is guessed by counts when it is said twice
    assert wire.from_json(Status, wire.to_json(status)) == status
    assert len(status.inputs) in (0, 1, 3) and len(status.outputs) in (0, 1, 3)
    assert status.battery.estimated <= {"charge_pct", "runtime_s", "voltage_v"}
    for name in status.battery.estimated:
        assert getattr(status.battery, name) is not None
    driver.close()


def test_what_is_read_of_a_driver_s_module_if_it_is_there_is_documented() -> None:
    read = {
        name
        for file in ("detect.py", "process.py")
        for name in re.findall(r'getattr\(m(?:odule)?, "(\w+)"', (ROOT / "agent" / file).read_text())
    }
    text = (ROOT / "docs" / "drivers.md").read_text().partition("## Writing a driver")[2]
    assert "USB_LINK" in read and [name for name in sorted(read) if f"`{name}" not in text] == []


def test_a_driver_has_what_the_contract_names_and_nothing_that_nobody_reads(module: ModuleType) -> None:
    driver, _ = connect(module, WORKING[module.NAME])
    driver.poll()
    must = {name for name in vars(Driver) if not name.startswith("_")}
    may = {"odd": Mapping, "again_s": float | None, "learning": bool}  # agent/ups.py asks whether it has them
    has = {name for name in dir(driver) if not name.startswith("_")}
    assert must <= has <= must | may.keys()
    assert all(isinstance(getattr(driver, name), may[name]) for name in has - must)


@pytest.mark.parametrize("module", WITH_A_LINE, indirect=True)
def test_a_silent_or_senseless_unit_is_a_link_error_in_bounded_time(module: ModuleType) -> None:
    for unit in silent_and_senseless(module):
        driver, made = connect(module, unit)
        with pytest.raises(LinkError):
            driver.poll()
        assert made.waited_s <= 5.0
        driver.close()
        assert made.closed


def test_each_of_its_commands_works_on_a_working_unit_and_leaves_it_readable(module: ModuleType) -> None:
    driver, _ = connect(module, WORKING[module.NAME])
    driver.poll()
    assert isinstance(driver.commands, frozenset) and driver.commands <= frozenset(Command)
    assert driver.wake_fd is None or isinstance(driver.wake_fd, int)
    for command in sorted(driver.commands, key=lambda c: c.value):  # a test is begun before it is stopped
        try:
            driver.order(command, **ARGUMENTS.get(command, {}))
        except OrderError as e:  # the beepers of these scripts cannot be switched
            assert command is Command.BEEPER_OFF and module.NAME in ("megatec", "apcsmart"), e
        assert isinstance(driver.poll(), Status)


def test_what_it_cannot_do_and_wrong_arguments_are_refused(module: ModuleType) -> None:
    driver, script = connect(module, WORKING[module.NAME])
    for command in Command:
        with pytest.raises(OrderError):
            driver.order(command, nonsense=1)
        if command not in driver.commands:
            with pytest.raises(OrderError):
                driver.order(command, **ARGUMENTS.get(command, {}))
    assert script.sent == []


def test_the_mains_can_be_cut_in_the_simulator_alone(module: ModuleType) -> None:
    assert (Command.SIMULATE in connect(module, WORKING[module.NAME])[0].commands) is (module.NAME == "simulator")


def test_the_page_of_devices_is_made_of_the_cards_as_they_are() -> None:
    assert devices.PAGE.read_text() == devices.page(), "it is old: ./run devices"


def test_a_card_says_how_we_know_and_complete_needs_more_than_a_document() -> None:
    cards = [card for name in drivers.available() for card in getattr(drivers.load(name), "CARDS", ())]
    assert len(cards) > 70
    for card in cards:
        assert card.what and card.evidence and card.state in ("complete", "partial", "untested"), card
        assert card.state != "complete" or card.evidence not in ("none", "document"), card


def test_what_the_cards_of_a_driver_offer_is_what_its_units_can_do(module: ModuleType) -> None:
    offered = {command for card in getattr(module, "CARDS", ()) for command in card.commands}
    driver, _ = connect(module, WORKING[module.NAME])
    driver.poll()
    assert not offered or driver.commands <= offered
