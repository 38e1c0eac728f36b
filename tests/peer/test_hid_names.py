"""From the descriptor and report bytes of real units to NUT's names and back: no value between is written by hand.

bytes -> our driver usbhid -> Status -> our SNMP agent -> NUT's snmp-ups -> upsd: names; -> our driver nut: a Status.
The values that are compared are those that NUT's own log printed for these bytes (tests/cases/hid).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent import upsd
from agent.drivers import nut as driver
from tests.peer.test_snmp_agent import MISSING, nut, upsc
from tests.simulators.hidunit import HidUnit, case
from tests.snmp_kit import Net, listening, view
from tests.test_usbhid import polled

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"not run: {', '.join(MISSING)} missing"),
]

#: path of the log (without UPS.) -> NUT's variable, and how many of its steps make one of the log's
NAMES = {
    "PowerSummary.RemainingCapacity": "battery.charge",
    "PowerSummary.RunTimeToEmpty": "battery.runtime",
    "Battery.Voltage": "battery.voltage",
    "Input.Voltage": "input.voltage",
    "Output.Voltage": "output.voltage",
    "Output.PercentLoad": "ups.load",
    "PowerConverter.PercentLoad": "ups.load",
    "PowerSummary.PercentLoad": "ups.load",
}


@pytest.mark.parametrize("name", ["051d-0002-back-ups-bx", "0764-0501", "0463-ffff-eaton-prot"])
def test_from_descriptor_bytes_to_names_of_nut_and_back(name: str, tmp_path: Path) -> None:
    status = polled(HidUnit.of(name))
    logged = {path.removeprefix("UPS."): value for path, kind, *_, value in case(name)["expect"] if kind == "Feature"}
    with (
        listening(view(status), Net(tmp_path / "net").folder) as stage,
        nut(tmp_path, stage.agent.address[1], "mibs = ietf", "snmp_version = v2c") as port,
    ):
        found = upsc(port, "OL")
        compared = [
            (variable, float(found[variable]), logged[path])
            for path, variable in NAMES.items()
            if path in logged and variable in found
        ]
        link = upsd.open({"host": "127.0.0.1", "tcp_port": port}, time.monotonic)
        back = driver.connect({}, link, time.monotonic).poll()
        link.close()
    assert len(compared) >= 3
    for variable, ours, told in compared:
        step = 60.0 if variable == "battery.runtime" else 0.1 if variable == "battery.voltage" else 1.0
        assert told - step < ours <= told + step / 2, variable  # the MIB counts whole minutes, volts, tenths
    assert back.source is status.source and back.battery.charge_pct == status.battery.charge_pct
    assert back.ident.model == status.ident.model
