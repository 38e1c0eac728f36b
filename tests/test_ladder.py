"""The plan as a ladder, its forecast, and the line under the word: what the page says in each phase of an outage."""

import re
from dataclasses import replace

import pytest

from agent import bus, controls, layout, page, words
from agent.model import Command, Condition, Forecast
from tests.fakecore import committed, event, forecast, on_battery, on_line, planned, recovery

WORDS = words.load()
MAINS = {"conditions": (), "on_battery_s": None, "status": on_line().status}


def said(view, language="en", later_s=0.0):
    return page.pieces(view, (), WORDS[language], view.now_s + later_s)


def text(piece):
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", piece.replace("\N{NARROW NO-BREAK SPACE}", " "))).strip()


# --- the line under the word ------------------------------------------------------------------------------------

HOLD = forecast(phase="hold", outage="00112233445566ff")


@pytest.mark.parametrize(
    "view, name, line",
    [
        (HOLD, "mains-back", "waiting whether it stays; no server has been told"),
        (replace(HOLD, stages=committed().stages, servers=committed().servers), "mains-back",
         "waiting whether it stays; 2 of 3 servers told to shut down"),
        (committed(), "shutting-down",
         "for 11:40 \N{EN DASH} 2 of 3 servers told to shut down; the UPS may switch off in 03:20"),
        (committed(commands=frozenset()), "shutting-down",
         "for 11:40 \N{EN DASH} 2 of 3 servers told to shut down; all servers are down in 03:20"),
        (committed(**MAINS), "shutting-down",
         "mains is back, but there is no way back: the servers go down and are woken then; 2 of 3 servers told to "
         "shut down; the UPS may switch off in 03:20"),
        (committed(phase="off-armed"), "shutting-down",
         "for 11:40 \N{EN DASH} 2 of 3 servers told to shut down; every server has had its time"),
        (committed(phase="off-armed", **MAINS), "shutting-down",
         "every server has had its time; waiting whether the mains stays"),
        (recovery(), "recovery", "servers are woken in 04:30, or as soon as the battery has 30 %"),
        (recovery(wake_charge_pct=None), "recovery", "servers are woken in 04:30 at the latest"),
        (recovery(wake_in_s=None), "recovery", "waiting for the mains"),
        (recovery(0.0), "recovery", "servers are being woken; waiting for vm-host; switch on by hand: backup"),
        (recovery(0.0, servers=()), "recovery", "all servers are back"),
        (planned(), "planned", "1 of 1 servers told to shut down; they stay down until somebody wakes them"),
        (planned(mode="dry-run"), "planned",
         "1 of 1 servers told to shut down; they stay down until somebody wakes them (dry run)"),
        (on_battery(aborted=True), "on-battery",
         "for 02:14 \N{EN DASH} stopped by hand: only an emergency still shuts servers down"),
    ],
)  # fmt: skip
def test_every_phase_is_one_word_and_one_line(view, name, line):
    assert page.state_of(view).name == name and page.state_of(view).tone != "ok"
    assert text(said(view)["line"]) == line


def test_a_stage_without_a_time_is_expected_when_the_forecast_says_so():
    view = on_battery(forecast=Forecast(runtime_s=1980.0, basis="ups"))
    view = replace(view, stages=(replace(view.stages[1], forecast_s=480.0),))
    assert said(view)["line"].endswith("next shutdown expected in 08:00")
    assert text(said(view)["stage-0"]).startswith("Stage default about 08:00")


def test_a_recovery_of_many_servers_says_how_many():
    servers = tuple(replace(recovery().servers[0], name=f"s{n}", wake="waking") for n in range(6))
    assert said(recovery(0.0, servers=servers))["line"].endswith("waiting for 6 servers")


@pytest.mark.parametrize(
    "view, line",
    [
        (HOLD, "es wird abgewartet, ob es bleibt; kein Server wurde heruntergefahren"),
        (recovery(), "Server werden in 04:30 geweckt oder sobald die Batterie 30 % hat"),
        (recovery(0.0), "Server werden geweckt; es fehlen noch: vm-host; von Hand einzuschalten: backup"),
    ],
)
def test_the_phases_in_german(view, line):
    assert text(said(view, "de")["line"]) == line


# --- the rungs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "view, first, second",
    [
        (on_line(), "Stage early waiting 10 min on battery", "Stage default waiting runtime below 5 min"),
        (forecast(), "Stage early after 10:00 10 min on battery", "Stage default after 26:00 runtime below 5 min"),
        (on_battery(), "Stage early in 07:46 10 min on battery", "Stage default waiting runtime below 5 min"),
        (on_battery(held_s=300.0), "Stage early in 07:46 10 min on battery \N{MIDDLE DOT} put off by 5 min",
         "Stage default waiting runtime below 5 min \N{MIDDLE DOT} put off by 5 min"),
        (on_battery(aborted=True),
         "Stage early stopped 10 min on battery \N{MIDDLE DOT} only an emergency triggers it", None),
        (replace(HOLD, stages=on_battery().stages),
         "Stage early waiting 10 min on battery \N{MIDDLE DOT} nothing begins while the mains is there", None),
        (committed(), "Stage early triggered 10 min on battery", "Stage default triggered low battery"),
        (planned(), "Stage early triggered planned shutdown", "Stage default waiting runtime below 5 min"),
    ],
)  # fmt: skip
def test_a_rung_says_what_has_become_of_its_stage(view, first, second):
    pieces = said(view)
    assert text(pieces["stage-0"]) == first
    assert second is None or text(pieces["stage-1"]) == second


def test_the_countdowns_go_on_between_two_views():
    assert "in 07:41" in said(on_battery(), later_s=5.0)["stage-0"]
    assert "in 03:15" in said(committed(), later_s=5.0)["foot"]
    assert "in 04:25" in said(recovery(), later_s=5.0)["line"]
    assert "04:55" in said(forecast(drill_left_s=300.0), later_s=5.0)["drill"]


@pytest.mark.parametrize(
    "view, foot",
    [
        (forecast(), "Every server is down after 30:00"),
        (on_battery(), "Every server is down"),
        (committed(), "Every server is down in 03:20"),
        (committed(phase="off-armed"), "Every server is down reached"),
        (recovery(0.0), "Every server is back 1 of 3"),
        (on_line(stages=()), ""),
    ],
)
def test_the_last_rung_is_everybody_down_or_back(view, foot):
    assert text(said(view)["foot"]) == foot


def test_a_server_shows_its_proof_how_old_it_is_and_why_it_is_not_better():
    pieces = said(forecast())
    assert "reachable 5 min ago" in text(pieces["servers-0"])
    assert "proven 2 h ago" in text(pieces["servers-1"]) and "the command is allowed" not in pieces["servers-1"]
    assert "unknown last proof 2 days ago connection refused" in text(pieces["servers-1"])
    view = on_line()
    view = replace(view, servers=(replace(view.servers[0], state="unknown"),))
    assert "unknown never proven" in text(said(view)["servers-0"])


@pytest.mark.parametrize(
    "language, said_so", [("en", "proven before, but not now"), ("de", "bisher geprüft, jetzt nicht")]
)
def test_a_server_that_does_not_answer_now_shows_it_though_it_was_proven(language, said_so):
    view = on_line()
    view = replace(
        view, servers=(replace(view.servers[1], failing=True, proof="Connection refused", proof_age_s=9.0),)
    )
    rung = said(view, language)["servers-1"]
    assert said_so in text(rung) and "is-failing" in rung
    assert language == "de" or "connection refused" in text(rung)


@pytest.mark.parametrize(
    "trust, english, german",
    [
        ("secure", "rccmd (secure) 192.0.2.10:6003", "rccmd (sicher) 192.0.2.10:6003"),
        ("not-enrolled", "rccmd (not enrolled) 192.0.2.10:6003", "rccmd (nicht aufgenommen) 192.0.2.10:6003"),
        ("", "rccmd 192.0.2.10:6003", "rccmd 192.0.2.10:6003"),
    ],
)
def test_a_server_shows_whether_it_is_told_securely(trust, english, german):
    view = on_line()
    view = replace(view, servers=(replace(view.servers[0], trust=trust),))
    assert english in text(said(view)["servers-0"]) and german in text(said(view, "de")["servers-0"])


def test_in_the_recovery_a_server_shows_how_far_it_is_back():
    pieces = said(recovery(0.0))
    assert text(pieces["servers-0"]).endswith("back delivered, unconfirmed")
    assert "being woken accepted" in text(pieces["servers-1"])
    assert text(pieces["servers-1"]).endswith("switch on by hand not delivered")
    assert "waiting to be woken" in said(recovery())["servers-0"]


def test_who_is_woken_after_a_planned_shutdown_shows_it_and_who_was_back_long_ago_does_not():
    nas, host, backup = recovery(0.0).servers
    pieces = said(forecast(servers=(nas, replace(host, stage="early"), backup)))
    assert "being woken" in pieces["servers-0"] and "back" not in text(pieces["servers-0"])
    assert "by hand" not in pieces["servers-1"]


@pytest.mark.parametrize(
    "seconds, ago", [(0, "just now"), (59, "just now"), (61, "1 min ago"), (7199, "119 min ago"), (7200, "2 h ago"),
                     (172799, "47 h ago"), (172800, "2 days ago")],
)  # fmt: skip
def test_ages_are_too_coarse_to_tick(seconds, ago):
    assert text(WORDS["en"].ago(seconds)) == ago


# --- the forecast -----------------------------------------------------------------------------------------------


def test_the_forecast_says_when_everything_is_down_and_what_is_left_of_the_battery():
    made = said(forecast())["forecast"]
    assert text(made) == (
        "If the mains failed now First stage 10:00 Everything down 30:00 "
        "Battery lasts 41:00 says the UPS Margin 11:00"
    )
    assert "short" not in made and page.state_of(on_line()).tone == "ok"


@pytest.mark.parametrize("basis, english", [("learned", "learned in outages"), ("configured", "as configured")])
def test_the_forecast_names_its_source(basis, english):
    cast = replace(forecast().forecast, basis=basis)
    assert english in said(forecast(forecast=cast))["forecast"]


def test_a_plan_longer_than_the_battery_is_red_and_said_at_the_top():
    view = on_line(forecast=Forecast(runtime_s=900.0, basis="ups", down_s=1500.0, margin_s=-600.0))
    pieces = said(view)
    assert (
        'class="forecast short"' in pieces["forecast"]
        and "The plan is longer than the battery." in pieces["forecast"]
    )
    assert "\N{MINUS SIGN}10:00" in pieces["forecast"] and page.state_of(view).tone == "warn"
    assert pieces["line"] == "in an outage now the battery would end before the last server is down"
    assert page.state_of(replace(view, mode="dry-run")).tone == "ok"


def test_a_battery_that_ends_before_the_stages_is_red_as_well():
    made = said(on_line(forecast=Forecast(runtime_s=900.0, basis="ups")))["forecast"]
    assert "short" in made and "The battery ends before every stage is due." in made


def test_without_a_measurement_there_is_no_forecast():
    assert said(forecast(status=None))["forecast"] == "" and said(on_line())["forecast"] == ""
    assert said(bus.without_core(forecast(), 1000.0))["forecast"] == ""


def test_in_an_outage_the_forecast_counts_down():
    view = on_battery(forecast=Forecast(runtime_s=1980.0, basis="ups", down_s=1500.0, margin_s=480.0))
    assert "From now on" in said(view)["forecast"] and "24:50" in said(view, later_s=10.0)["forecast"]


def test_what_was_stopped_is_not_forecast():
    cast = Forecast(runtime_s=1980.0, basis="ups", down_s=2500.0, margin_s=-520.0)
    assert text(said(on_battery(aborted=True, forecast=cast))["forecast"]) == (
        "From now on Battery lasts 33:00 says the UPS"
    )


# --- the drill, and the buttons ---------------------------------------------------------------------------------


def test_a_drill_is_said_as_long_as_it_runs():
    assert text(said(forecast(drill_left_s=1500.0))["drill"]) == (
        "Drill: nobody is told, the real protection goes on. It ends in 25:00, or at the first real outage."
    )
    assert said(forecast())["drill"] == ""
    assert said(bus.without_core(forecast(drill_left_s=1500.0), 1000.0))["drill"] == ""


def reader(language="en", token="t"):
    return layout.Reader(words=WORDS[language], names={"en": "English", "de": "Deutsch"}, token=token)


def test_without_the_core_nothing_can_be_steered():
    view = bus.without_core(on_battery(), 1000.0)
    assert set(controls.pieces(view, reader()).values()) == {""}


@pytest.mark.parametrize("language", words.LANGUAGES)
@pytest.mark.parametrize(
    "view", [forecast(), forecast(drill_left_s=9.0), on_battery(held_s=300.0), recovery(), planned()],
    ids=["mains", "drill", "outage", "recovery", "planned"],
)  # fmt: skip
def test_every_button_says_what_it_does_beside_it(view, language):
    made = controls.pieces(view, reader(language))
    buttons = re.findall(
        r'value="([a-z-]+)" title="([^"]+)" aria-describedby="help-', made["urgent"] + made["routine"]
    )
    assert buttons and all(len(help_text) > 30 for _, help_text in buttons)


def test_putting_off_and_stopping_say_that_an_emergency_still_counts():
    made = controls.pieces(on_battery(), reader())["urgent"]
    assert made.count("mergency") >= 2


def test_buttons_do_not_tick_so_that_nobody_s_finger_misses():
    one, two = (controls.pieces(on_battery(s, held_s=300.0), reader()) for s in (134.0, 135.0))
    assert one == two


def test_the_order_counts_for_the_stage_and_those_before_it():
    view = forecast()
    assert [s.name for s in controls.whom(view, "early")] == ["nas"]
    assert [s.name for s in controls.whom(view, "default")] == ["nas", "vm-host", "backup"]
    assert controls.whom(view, "all") == controls.whom(view, "default") and controls.whom(view, "none") == []
    assert controls.checksum(controls.whom(view, "early")) != controls.checksum(controls.whom(view, "all"))


# --- notes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, data, english",
    [
        ("ups-off-skipped", {"why": "unproven"}, "UPS is not switched off: not proven for this UPS"),
        ("ups-off", {"delay_s": "30", "outcome": ""}, "UPS told to switch off in 30 s and to return with the mains"),
        ("ups-off", {"delay_s": "30", "outcome": "the UPS was unplugged"},
         "UPS told to switch off in 30 s and to return with the mains: the UPS was unplugged"),
        ("command", {"user": "admin", "command": "hold", "args": ""}, "admin ordered \u201c+5 minutes\u201d"),
        ("command", {"user": "admin", "command": "shutdown", "args": "early"},
         "admin ordered \u201cPlanned shutdown\u201d early"),
        ("command", {"user": "admin", "command": "simulate", "args": "mains=off"},
         "admin ordered simulate mains=off"),
        ("held", {"seconds": "600"}, "Shutdown put off by 10 min in all"),
        ("held", {"seconds": "inf"}, "Shutdown put off by inf in all"),
        ("recovered", {"why": ""}, "Recovery over"),
        ("recovered", {"why": "given-up"}, "Recovery over: given up after a day"),
        ("drill-stage", {"stage": "early", "why": "on-battery 600", "servers": "nas"},
         "Drill: stage early would be triggered (10 min on battery): nas"),
        ("drill-ended", {"why": "outage"}, "Drill over: a real outage began"),
        ("proof-failed", {"server": "nas", "detail": "No answer"}, "nas could not be proven: no answer"),
        ("not-back", {"servers": "nas, vm"}, "Not back after 10 minutes: nas, vm"),
    ],
)  # fmt: skip
def test_a_note_is_a_sentence(name, data, english):
    assert text(words.event_text(event(1, "note", name, data=data), WORDS["en"])) == english


def test_the_last_servers_time_is_not_promised_as_the_end_of_the_ups_where_it_cannot_be_switched():
    assert "UPS may" in said(committed(commands=frozenset({Command.SHUTDOWN_RETURN})))["line"]
    assert "UPS may" not in said(committed(commands=frozenset({Command.SIMULATE})))["line"]


def test_a_server_without_a_proof_for_a_day_is_a_condition_with_a_text():
    view = on_line()
    lost = replace(on_battery().conditions[0], condition=Condition.SERVER_UNPROVEN)
    assert "has not been proven for a day" in said(replace(view, conditions=(lost,)))["conditions"]


def test_without_a_server_no_plan_is_too_long():
    view = forecast(forecast=Forecast(runtime_s=600.0, basis="ups", down_s=None, margin_s=None))
    assert "The battery ends" in "".join(map(str, said(view).values()))
    assert "The battery ends" not in "".join(map(str, said(replace(view, servers=())).values()))
