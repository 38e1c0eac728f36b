"""The account: one-time password, guesses, sessions. Time is a number."""

import hashlib
import json
import os
import threading

import pytest

from agent import login
from agent.login import Accounts, LoginError


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


def cheap(password, salt, cost):
    """Quick: these tests are about who may, not about how long."""
    return hashlib.sha256(salt + password.encode()).digest()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def accounts(tmp_path, clock):
    return Accounts(tmp_path, clock, boot="b1", kdf=cheap)


GOOD = "blue door, 7 steps"


def set_up(accounts, password=GOOD):
    session = accounts.session(accounts.login(accounts.first_password(), "10.0.0.1"))
    return accounts.change(session, "", password, "10.0.0.1")


def refused(code, call, *args):
    with pytest.raises(LoginError) as e:
        call(*args)
    assert e.value.code == code
    return e.value.wait_s


def test_the_one_time_password_stays_until_it_is_replaced(accounts, tmp_path):
    first = accounts.first_password()
    assert first == accounts.first_password() and len(first) >= 12
    assert os.stat(tmp_path / "first-password").st_mode & 0o777 == 0o600
    session = accounts.session(accounts.login(first, "10.0.0.1"))
    assert session.new_password and accounts.first_password() == first
    accounts.change(session, "", GOOD, "10.0.0.1")
    assert accounts.first_password() is None and not (tmp_path / "first-password").exists()
    refused("wrong", accounts.login, first, "10.0.0.1")
    assert not accounts.session(accounts.login(GOOD, "10.0.0.1")).new_password


def test_the_password_is_not_on_the_disk(accounts, tmp_path):
    set_up(accounts)
    assert all(GOOD.encode() not in f.read_bytes() for f in tmp_path.iterdir())
    account = json.loads((tmp_path / "account.json").read_text())
    assert account["user"] == "admin" and len(bytes.fromhex(account["salt"])) == 16


def test_the_real_function_is_scrypt_at_the_documented_cost(tmp_path, clock):
    accounts = Accounts(tmp_path, clock, boot="")
    set_up(accounts)
    account = json.loads((tmp_path / "account.json").read_text())
    assert [account["n"], account["r"], account["p"]] == [2**15, 8, 3]
    salt = bytes.fromhex(account["salt"])
    expected = hashlib.scrypt(GOOD.encode(), salt=salt, n=2**15, r=8, p=3, maxmem=64 << 20, dklen=32)
    assert account["hash"] == expected.hex() and accounts.login(GOOD, "10.0.0.1")


@pytest.mark.parametrize(
    "password, code",
    [
        ("short", "too-short"),
        ("x" * 129, "too-long"),
        ("Password1234", "common"),
        ("aaaaaaaaaaaa", "common"),
        ("121212121212", "common"),
    ],
)
def test_a_bad_new_password_is_refused(accounts, password, code):
    session = accounts.session(accounts.login(accounts.first_password(), "a"))
    refused(code, accounts.change, session, "", password, "a")


def test_the_one_time_password_cannot_become_the_password(accounts):
    once = accounts.first_password()
    session = accounts.session(accounts.login(once, "a"))
    refused("same", accounts.change, session, "", once, "a")


def test_a_password_is_the_same_however_its_letters_are_composed(accounts):
    set_up(accounts, "ein schönes Wort")
    assert accounts.login("ein scho\u0308nes Wort", "10.0.0.1")


def test_a_change_asks_for_the_old_password_and_ends_the_other_sessions(accounts):
    mine, other = set_up(accounts), accounts.login(GOOD, "10.0.0.2")
    session = accounts.session(mine)
    refused("wrong", accounts.change, session, "no", "another good one", "10.0.0.1")
    refused("same", accounts.change, session, GOOD, GOOD, "10.0.0.1")
    new = accounts.change(session, GOOD, "another good one", "10.0.0.1")
    assert accounts.session(new) and not accounts.session(mine) and not accounts.session(other)


def test_five_failures_make_an_address_wait_and_the_wait_doubles(accounts, clock):
    set_up(accounts)
    for _ in range(5):
        refused("wrong", accounts.login, "nope", "10.0.0.9")
    assert refused("wait", accounts.login, GOOD, "10.0.0.9") == 30.0
    assert accounts.login(GOOD, "10.0.0.2")  # somebody else is not kept out
    waits = []
    for _ in range(7):
        clock.now_s += accounts._guesses["10.0.0.9"].until_s - clock.now_s
        refused("wrong", accounts.login, "nope", "10.0.0.9")
        waits.append(refused("wait", accounts.login, GOOD, "10.0.0.9"))
    assert waits == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0]
    clock.now_s += 900
    assert accounts.login(GOOD, "10.0.0.9")


def test_twenty_failures_a_minute_stop_strangers_but_not_who_was_in_before(accounts, clock):
    set_up(accounts)
    for n in range(20):
        refused("wrong", accounts.login, "nope", f"10.1.0.{n}")
    assert refused("wait", accounts.login, GOOD, "10.2.0.1") == 60.0
    assert accounts.login(GOOD, "10.0.0.1") and accounts.login(GOOD, "127.0.0.1")
    clock.now_s += 61
    assert accounts.login(GOOD, "10.2.0.1")


def test_the_memory_of_guessers_is_bounded(accounts, clock):
    for n in range(login.ADDRESSES + 50):
        clock.now_s += 60
        refused("wrong", accounts.login, "nope", f"10.1.{n // 250}.{n % 250}")
    assert len(accounts._guesses) == login.ADDRESSES


def test_a_session_ends_by_idleness_and_by_age(accounts, clock):
    sid = set_up(accounts)
    for _ in range(48):
        clock.now_s += login.IDLE_S
        alive = accounts.session(sid)
        assert alive
    clock.now_s += 1
    assert not accounts.session(sid)  # 12 h
    sid = accounts.login(GOOD, "10.0.0.1")
    clock.now_s += login.IDLE_S - 1
    assert accounts.session(sid, touch=False)
    clock.now_s += 2
    assert not accounts.session(sid)


def test_the_ninth_session_ends_the_one_unused_for_longest(accounts, clock):
    set_up(accounts)
    sids = []
    for _ in range(8):
        clock.now_s += 1
        sids.append(accounts.login(GOOD, "10.0.0.1"))
    clock.now_s += 1
    accounts.session(sids[0])
    accounts.login(GOOD, "10.0.0.1")
    assert accounts.session(sids[0]) and not accounts.session(sids[1])


def test_a_logout_ends_that_session_alone(accounts):
    mine, other = set_up(accounts), accounts.login(GOOD, "10.0.0.1")
    accounts.logout(mine)
    assert not accounts.session(mine) and accounts.session(other)


def test_session_ids_are_kept_hashed(accounts, tmp_path):
    sid = set_up(accounts)
    assert len(sid) == 32 and sid not in (tmp_path / "sessions.json").read_text()


def test_sessions_survive_a_restart_of_the_program_but_not_of_the_machine(accounts, tmp_path, clock):
    sid = set_up(accounts)
    assert Accounts(tmp_path, clock, boot="b1").session(sid)
    assert not Accounts(tmp_path, clock, boot="b2").session(sid)
    assert not Accounts(tmp_path, clock, boot="").session(sid)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"boot":"b1"}', '{"boot":"b1","sessions":[1]}'])
def test_a_damaged_session_file_only_logs_everybody_out(tmp_path, clock, text):
    (tmp_path / "sessions.json").write_text(text)
    assert not Accounts(tmp_path, clock, boot="b1").session("00" * 16)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"n":1}', '{"n":3,"r":8,"p":1,"salt":"00","hash":"00"}'])
def test_a_damaged_account_lets_nobody_in(tmp_path, clock, text):
    (tmp_path / "account.json").write_text(text)
    accounts = Accounts(tmp_path, clock, boot="b1")
    assert accounts.first_password() is None
    refused("wrong", accounts.login, "", "a")


def test_a_reset_by_another_process_ends_the_sessions_and_brings_a_new_one_time_password(accounts, tmp_path, clock):
    sid = set_up(accounts)
    new = Accounts(tmp_path, clock, boot="b1").reset()
    assert not accounts.session(sid)
    refused("wrong", accounts.login, GOOD, "10.0.0.1")
    assert accounts.first_password() == new and accounts.session(accounts.login(new, "10.0.0.1")).new_password


def test_a_disk_that_cannot_be_written_does_not_keep_anybody_out(accounts, tmp_path):
    set_up(accounts)
    (tmp_path / "sessions.json").unlink()
    (tmp_path / "sessions.json").mkdir()
    assert accounts.session(accounts.login(GOOD, "10.0.0.1"))


def test_of_ten_logins_at_once_five_are_sent_away_and_one_is_checked_at_a_time(tmp_path, clock):
    set_up(Accounts(tmp_path, clock, boot="b1", kdf=cheap))
    go, inside, peak = threading.Event(), [], []

    def slow(password, salt, cost):
        inside.append(1)
        peak.append(len(inside))
        go.wait(5)
        inside.pop()
        return cheap(password, salt, cost)

    accounts, outcomes = Accounts(tmp_path, clock, boot="b1", kdf=slow), []

    def attempt():
        try:
            outcomes.append(bool(accounts.login(GOOD, "10.0.0.1")))
        except LoginError as e:
            outcomes.append(e.code)

    threads = [threading.Thread(target=attempt) for _ in range(10)]
    for t in threads:
        t.start()
    for _ in range(500):
        if outcomes.count("busy") == 5:
            break
        threads[0].join(0.01)
    go.set()
    for t in threads:
        t.join(10)
    assert outcomes.count("busy") == 5 and outcomes.count(True) == 5 and max(peak) == 1


def test_the_form_token_belongs_to_one_session_and_looks_different_each_time():
    a, b = login.csrf_token("s1"), login.csrf_token("s1")
    assert a != b and login.csrf_is(a, "s1") and login.csrf_is(b, "s1") and not login.csrf_is(a, "s2")
    assert not login.csrf_is("", "s1") and not login.csrf_is("zz", "s1") and not login.csrf_is("00" * 32, "s1")
