"""What rehearse, arm and status say of a view."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import config, engineid, steer, verbs
from agent.__main__ import ORDERS, parser
from agent.config import Config, Server
from agent.model import Command, ConfigError, Forecast, ServerView, StageView, View
from agent.process import load
from agent.rehearse import rehearse, walk
from agent.steer import RISKY, arm, disarm, warnings
from agent.verbs import describe
from tests.fakecore import FakeCore, committed, on_battery, on_line, recovery

GOOD = replace(
    on_line(),
    mode="armed",
    stages=(StageView(name="all", on_battery_s=300.0, forecast_s=300.0),),
    servers=(
        ServerView(name="nas", address="192.0.2.1", port=22, how="ssh", stage="all", needs_s=120.0, state="proven",
                   proof="host key and login are right", proof_age_s=1.0, mac="52:54:00:12:34:56"),
        ServerView(name="web", address="192.0.2.2", port=6003, how="rccmd", stage="all", needs_s=60.0,
                   state="reachable", proof="accepts connections", proof_age_s=1.0),
    ),
    forecast=Forecast(runtime_s=1440.0, basis="learned", down_s=420.0, margin_s=1020.0),
)  # fmt: skip


def lines(view: View, *, bad: bool) -> list[str]:
    return [f.text for f in walk(view) if f.bad is bad]


def test_a_plan_that_holds_is_walked_stage_by_stage() -> None:
    assert lines(GOOD, bad=True) == []
    text = "\n".join(lines(GOOD, bad=False))
    for part in ("stage all: in an outage now at 5:00", "nas: proven (host key and login are right)", "down at 7:00",
                 "woken by its MAC 52:54:00:12:34:56", "web: reachable", "by hand", "margin 17:00"):  # fmt: skip
        assert part in text, text


def test_what_does_not_hold_is_marked() -> None:
    nas, web = GOOD.servers
    unknown = replace(GOOD, servers=(replace(nas, state="unknown", proof="permission denied"), web))
    assert any("permission denied" in text for text in lines(unknown, bad=True))
    longer = replace(GOOD, forecast=Forecast(runtime_s=300.0, basis="ups", down_s=420.0, margin_s=-120.0))
    assert any("margin -2:00" in text for text in lines(longer, bad=True))
    assert any("nobody knows" in text for text in lines(replace(GOOD, forecast=None), bad=True))
    assert any("no server" in text for text in lines(replace(GOOD, servers=()), bad=True))
    never = replace(GOOD, forecast=Forecast(runtime_s=300.0, basis="ups"))
    assert any("before its end" in text for text in lines(never, bad=True))


def test_a_server_that_was_good_and_does_not_answer_now_is_said_by_all(capsys) -> None:
    nas, web = GOOD.servers
    dead = replace(GOOD, servers=(nas, replace(web, failing=True, proof="Connection refused", proof_age_s=7200.0)))
    assert any("web: reachable before, but not now (Connection refused)" in text for text in lines(dead, bad=True))
    assert rehearse(lambda: dead, lambda: None, as_json=False, wait_s=0.0) == 1
    assert "does not hold" in capsys.readouterr().out
    assert warnings(Config(), dead, frozenset()) == ["web was reachable before, but not now: Connection refused"]
    assert "not now (Connection refused)" in "\n".join(describe(dead))


def test_this_host_is_down_when_all_others_are() -> None:
    host = ServerView(name="me", address="", port=0, how="local", stage="all", needs_s=40.0, state="proven")
    view = replace(GOOD, servers=(*GOOD.servers, host), forecast=replace(GOOD.forecast, down_s=460.0))
    assert any("me: proven, needs 40 s, down at 7:40" in text for text in lines(view, bad=False))


def test_rehearse_asks_for_proofs_and_waits_for_them(capsys) -> None:
    asked: list[int] = []
    old = replace(GOOD, servers=tuple(replace(s, proof_age_s=9.0) for s in GOOD.servers))
    looks = iter([old, replace(old, now_s=old.now_s + 1), replace(GOOD, now_s=old.now_s + 2)])
    assert rehearse(lambda: next(looks), lambda: asked.append(1), as_json=False) == 0
    assert asked == [1] and "nobody was told" in capsys.readouterr().out


def test_arm_warns_of_what_should_be_mended() -> None:
    nas, web = GOOD.servers
    settings = Config(servers=(Server(name="pve", address="192.0.2.9", how="http", options={"secret": "token"}),))
    view = replace(
        GOOD,
        servers=(replace(nas, state="unknown", proof="no answer"), web),
        forecast=Forecast(runtime_s=300.0, basis="ups", down_s=420.0, margin_s=-120.0),
    )
    found = "\n".join(warnings(settings, view, frozenset()))
    for part in ("nas is not proven: no answer", "longer than the battery", "secret set token"):
        assert part in found
    assert warnings(Config(), GOOD, frozenset()) == []
    never = replace(GOOD, forecast=Forecast(runtime_s=300.0, basis="ups"))
    assert "ends before every stage is due" in warnings(Config(), never, frozenset())[0]
    assert "no server" in warnings(Config(), replace(GOOD, servers=()), frozenset())[0]


def test_the_status_says_how_far_it_has_come() -> None:
    for view, parts in (
        (GOOD, ["the battery lasts 1440 s (learned)", "margin 1020 s", "in an outage now after 300 s"]),
        (on_battery(held_s=300.0, aborted=True), ["put off by 300 s", "stopped by hand"]),
        (committed(), ["all servers had their time in 200 s", "latched (on-battery 600)"]),
        (recovery(), ["woken in 270 s at the latest", "will be woken"]),
    ):
        text = "\n".join(describe(view))
        assert all(part in text for part in parts), text


def test_status_and_rehearsal_say_whether_a_server_is_told_securely() -> None:
    for trust, shown, walked in (
        ("secure", "web (192.0.2.2:6003, secure)", "web: reachable (secure; accepts connections)"),
        ("not-enrolled", "web (192.0.2.2:6003, not enrolled)", "web: reachable (not enrolled; accepts connections)"),
        ("", "web (192.0.2.2:6003)", "web: reachable (accepts connections)"),
    ):
        view = replace(GOOD, servers=(GOOD.servers[0], replace(GOOD.servers[1], trust=trust)))
        assert shown in "\n".join(describe(view)) and walked in "\n".join(lines(view, bad=False))


FILE = """# of the administrator
[agent]
mode = "armed"
state_dir = "{folder}"
run_dir = "{folder}"
[ups]
driver = "megatec"
port = "/dev/ttyS0"
[[server]]
name = "a"
address = "192.0.2.1"
"""


def file(folder: Path, *change: str) -> argparse.Namespace:
    path = folder / "ridethrough.toml"
    path.write_text(FILE.format(folder=folder).replace(*change) if change else FILE.format(folder=folder))
    return argparse.Namespace(config=path, yes=False)


def test_armed_already_is_who_is_so_in_the_core_and_not_only_in_the_file(tmp_path: Path, capsys) -> None:
    args = file(tmp_path)
    settings = load(args.config)[0]
    assert arm(args, settings, GOOD) == 0 and "armed already" in capsys.readouterr().out
    for view in (replace(GOOD, mode="dry-run"), replace(GOOD, config_errors=("something",))):
        assert arm(args, settings, view) == 1  # no core listens here
        said_so = capsys.readouterr()
        assert "already" not in said_so.out and "in force when the core runs" in said_so.err
    args = file(tmp_path, '"192.0.2.1"', '"192.0.2.1"\nstage = "none"')
    assert arm(args, load(args.config)[0], replace(GOOD, mode="dry-run")) == 1
    out = capsys.readouterr().out
    assert "no such [[stage]]" in out and "the core refuses" in out and "dry-run" in out


@pytest.mark.parametrize("mistake", ['"192.0.2.1"\nstage = "none"', "192.0.2.1"])
def test_a_file_with_another_mistake_is_disarmed_and_so_is_the_last_good_one(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "last-good.toml").write_text(FILE.format(folder=tmp_path))
    args = file(tmp_path, '"192.0.2.1"', mistake)
    assert disarm(args, load(args.config)[0]) == 1  # no core listens here
    for path in (args.config, tmp_path / "core" / "last-good.toml"):
        assert 'mode = "dry-run"' in path.read_text() and "# of the administrator" in path.read_text()
    assert mistake in args.config.read_text()


def test_the_password_of_a_nut_server_is_a_secret_of_the_core() -> None:
    settings = Config(driver="nut", ups={"secret": "upsd"}, servers=(Server(name="a", address="192.0.2.9"),))
    assert steer.core_labels(settings) == {"upsd"}


def test_the_label_of_a_receiver_of_traps_is_a_secret_of_the_face() -> None:
    public = config.Community(label="public", sources=("127.0.0.0/8",))
    told = config.TrapReceiver(name="nms", address="127.0.0.1", label="traps")
    by_user = config.TrapReceiver(name="nms 3", address="127.0.0.1", version="3", user="ops")
    snmp = config.Snmp(communities=(public,), receivers=(told, by_user))
    assert verbs._snmp_labels(Config(snmp=snmp)) == {"public", "traps"}
    assert verbs._snmp_labels(Config()) == set()


def test_the_check_says_which_users_of_snmp_have_no_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = "".join(f'[[snmp.user]]\nname = "{name}"\nfrom = ["192.0.2.0/24"]\n' for name in ("ops", "boss"))
    path, folder = tmp_path / "agent.toml", tmp_path / "faces" / "snmp"
    path.write_text(f'[agent]\nname = "a"\nstate_dir = "{tmp_path}"\n[ups]\ndriver = "simulator"\n[snmp]\n{users}')
    engineid.write_keys(folder, {"boss": engineid.made(engineid.engine_id(folder), "sha256", "a-pass-phrase")})
    verbs._check(path)
    said = [line for line in capsys.readouterr().out.splitlines() if "keys" in line]
    assert said == [f"{path}: user ops: no keys yet; give him some with: ridethrough snmp-user ops"]
    (folder / "users.json").write_text("{")
    verbs._check(path)
    assert f"{folder / 'users.json'}: damaged" in capsys.readouterr().out


# --- orders to the UPS ------------------------------------------------------------------------------------------


def ordered(core: FakeCore, tmp_path: Path, *words: str) -> tuple[int, list[dict[str, object]]]:
    """`ridethrough ups WORDS`: its exit code, and what the core was asked."""
    path = tmp_path / "ups.toml"
    path.write_text(f'[agent]\nrun_dir = "{tmp_path}"\nstate_dir = "{tmp_path}"\n')
    code = verbs.main(parser().parse_args(["ups", *words, "--config", str(path)]))
    return code, [{k: v for k, v in order.items() if k not in ("origin", "v")} for order in core.orders]


@pytest.fixture
def core(tmp_path: Path) -> Iterator[FakeCore]:
    can = frozenset({Command.TEST_QUICK, Command.SHUTDOWN_RETURN, Command.OUTLET_OFF, Command.SIMULATE})
    with FakeCore(tmp_path / "core.sock", on_line(commands=can)) as made:
        yield made


def test_what_the_ups_can_do_is_listed_with_what_it_risks(
    core: FakeCore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ordered(core, tmp_path) == (0, [])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["test-quick", "shutdown-return", "outlet-off"]
    assert "no server is told before" in lines[1] and "--yes" not in lines[0]


def test_an_order_goes_to_the_ups_with_its_arguments(
    core: FakeCore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ordered(core, tmp_path, "test-quick") == (0, [{"type": "command", "command": "test-quick", "args": {}}])
    assert "the UPS took it" in capsys.readouterr().out
    core.orders.clear()
    code, orders = ordered(core, tmp_path, "shutdown-return", "--delay", "60", "--return-delay", "180", "--yes")
    args = {"delay_s": 60.0, "return_delay_s": 180.0}
    assert (code, orders) == (0, [{"type": "command", "command": "shutdown-return", "args": args}])


def test_what_takes_the_power_from_somebody_needs_a_yes(
    core: FakeCore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ordered(core, tmp_path, "outlet-off", "--number", "2") == (2, [])
    assert "nothing was done; outlet-off takes the power from what hangs on this outlet" in capsys.readouterr().out


def test_what_the_ups_cannot_do_is_said_with_what_it_can(core: FakeCore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot do beeper-off; it can: test-quick, shutdown-return, outlet-off"):
        ordered(core, tmp_path, "beeper-off")
    with pytest.raises(SystemExit):
        ordered(core, tmp_path, "explode")


def test_every_order_that_takes_power_is_among_those_that_need_a_yes() -> None:
    harmless = {"test-quick", "test-stop", "beeper-on", "beeper-off", "shutdown-stop", "load-on", "outlet-on",
                "bypass-off", "eco-off"}  # fmt: skip
    assert {command.value for command in RISKY} | harmless == set(ORDERS) and not harmless & set(RISKY)
