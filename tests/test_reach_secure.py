"""The way `rccmd` over TLS, against servers of all manners: what each reply means, and whom it never speaks to."""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from agent import senderkey
from agent.config import Server
from agent.reach import ACCEPTED, NOT_DELIVERED, PROVEN, UNKNOWN, Job, Late, Outcome, rccmd
from tests import steps
from tests.secure_peer import SecurePeer, context, keys, secure_peer, sha256

ROOT = Path(__file__).resolve().parent.parent
OUTAGE = "00112233445566ff"
#: TLS 1.3 refuses a client after its handshake; when the server closes with bytes unread, its alert is lost
REFUSED = r"refuses this adapter's key \(.*\): enrol it anew|does it still know this adapter's key"


def job(port: int, folder: Path, *, pin: str | None = None, outage: str = OUTAGE, **options: Any) -> Job:
    if not (folder / senderkey.NAME).exists():
        (folder / senderkey.NAME).write_bytes(keys("sender"))
    return Job(
        server=Server(name="nas", address="127.0.0.1", port=port, options=options),
        address=(socket.AF_INET, ("127.0.0.1",)),
        outage=outage,
        connect_s=2.0,
        folder=folder,
        commands_dir=folder,
        secret=lambda label: None,
        pin=sha256(keys("server")) if pin is None else pin,
    )


def test_enrolled_anew_a_server_with_its_former_key_is_told_but_not_proven(tmp_path: Path) -> None:
    settled: list[str] = []
    replies = (b"RT1 accepted\n", b"RT1 accepted version=0.1.0 selftest=ok\n")
    with secure_peer(tmp_path, *replies) as peer:
        to = replace(job(peer.port, tmp_path, pin="ab" * 32), former=("cd" * 32, sha256(keys("server"))),
                     settle=settled.append)  # fmt: skip
        assert steps.run(rccmd.send(to)).word == ACCEPTED
        proof = steps.run(rccmd.prove(to))
        assert (proof.word, proof.up) == (UNKNOWN, True) and "by a former key" in proof.detail
    assert settled == [sha256(keys("server"))] * 2


def test_the_newest_certificate_settles_only_when_its_owner_has_answered(tmp_path: Path) -> None:
    settled: list[str] = []
    with secure_peer(tmp_path, b"nonsense\n", b"RT1 accepted version=0.1.0 selftest=ok\n") as peer:
        to = replace(job(peer.port, tmp_path), former=("ab" * 32,), settle=settled.append)
        with pytest.raises(OSError, match="not an answer"):
            steps.run(rccmd.prove(to))
        assert settled == []
        assert steps.run(rccmd.prove(to)).word == PROVEN and settled == [sha256(keys("server"))]


def test_a_key_that_is_neither_is_told_nothing(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 accepted\n") as peer:
        to = replace(job(peer.port, tmp_path, pin="ab" * 32), former=("cd" * 32,))
        with pytest.raises(OSError, match="another certificate"):
            steps.run(rccmd.send(to))
    assert peer.asked == []


def dated(name: str, years: tuple[int, int]) -> bytes:
    """A key and its certificate, valid from one year to another."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins, ends = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in years)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), begins, ends)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "reply, outcome",
    [
        (b"RT1 accepted\n", Outcome(ACCEPTED, "")),
        (b"RT1 duplicate\n", Outcome(ACCEPTED, "was told before")),
        (b"RT1 going-down version=0.1.0\n", Outcome(ACCEPTED, "is going down")),
        (b"RT1 busy\n", Outcome(NOT_DELIVERED, "busy")),
        (b"RT1 refused why=nothing-configured\n", Outcome(NOT_DELIVERED, "refused: nothing-configured")),
    ],
)
def test_a_reply_becomes_a_word_of_the_house(tmp_path: Path, reply: bytes, outcome: Outcome) -> None:
    with secure_peer(tmp_path, reply) as peer:
        assert steps.run(rccmd.send(job(peer.port, tmp_path))) == outcome
    assert peer.asked == [b"RT1 SHUTDOWN 00112233445566ff\n"]


@pytest.mark.parametrize(
    "facts, outcome",
    [
        (b"version=0.1.0 selftest=ok selftest_age_s=60 need=1", Outcome(PROVEN, "version 0.1.0, self test ok")),
        (b"version=0.1.0 selftest=never", Outcome(UNKNOWN, "self test not done yet", up=True)),
        (
            b"version=0.1.0 selftest=ok selftest_age_s=864000 need=2 votes=0",
            Outcome(PROVEN, "version 0.1.0, self test ok, 10 days ago, needs 2 adapters"),
        ),
        (
            b"version=0.1.0 selftest=ok need=2 votes=0 voices=1",
            Outcome(UNKNOWN, "too few adapters may ask", up=True),
        ),
        (
            b"version=0.1.0 selftest=ok need=2 votes=0 voices=2",
            Outcome(PROVEN, "version 0.1.0, self test ok, needs 2 adapters"),
        ),
        (b"version=0.1.0 selftest=failed", Outcome(UNKNOWN, "self test failed", up=True)),
    ],
)
def test_a_noop_proves_the_server_unless_its_self_test_failed(tmp_path: Path, facts: bytes, outcome: Outcome) -> None:
    with secure_peer(tmp_path, b"RT1 accepted " + facts + b"\n") as peer:
        assert steps.run(rccmd.prove(job(peer.port, tmp_path, outage=""))) == outcome
    assert peer.asked[0].startswith(b"RT1 NOOP ") and len(peer.asked[0]) == len("RT1 NOOP 0123456789abcdef\n")


def test_a_server_that_is_going_down_is_not_back(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 going-down\n") as peer:
        assert steps.run(rccmd.prove(job(peer.port, tmp_path))) == Outcome(UNKNOWN, "is going down")


def test_the_end_of_an_outage_carries_its_id_and_other_commands_fresh_ones(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 accepted\n") as peer:
        to = job(peer.port, tmp_path)
        for way in (rccmd.release(to), rccmd.say(to, "MSG_TEXT", "Über"), rccmd.say(to, "EXECUTE", "backup now")):
            assert steps.run(way).word == ACCEPTED
        steps.run(rccmd.release(job(peer.port, tmp_path, outage="")))
    wakeup, text, execute, by_hand = peer.asked
    assert wakeup == b"RT1 WAKEUP 00112233445566ff\n"
    assert text.endswith(" Über\n".encode()) and execute.endswith(b" backup now\n")
    idents = {line.split()[2] for line in peer.asked}
    assert len(idents) == 4 and by_hand.startswith(b"RT1 WAKEUP ")


def test_another_certificate_is_named_and_nothing_is_said_to_it(tmp_path: Path) -> None:
    peer = SecurePeer(context(tmp_path, keys("impostor"), keys("sender")), b"RT1 accepted\n")
    with pytest.raises(OSError, match=f"another certificate; its SHA-256 is {sha256(keys('impostor'))}"):
        steps.run(rccmd.send(job(peer.port, tmp_path)))
    peer.close()
    assert peer.asked == []


def test_a_server_that_does_not_know_our_key_says_so(tmp_path: Path) -> None:
    peer = SecurePeer(context(tmp_path, keys("server"), keys("another adapter")), b"RT1 accepted\n")
    with pytest.raises(OSError, match=REFUSED):
        steps.run(rccmd.send(job(peer.port, tmp_path)))
    peer.close()
    assert peer.asked == []


@pytest.mark.parametrize("years", [(1971, 1972), (2001, 2002), (2098, 2099)])
def test_no_end_looks_at_dates(tmp_path: Path, years: tuple[int, int]) -> None:
    """A certificate out of its time is what a wrong clock makes of every other."""
    server, sender = dated("server", years), dated("sender", years)
    peer = SecurePeer(context(tmp_path, server, sender), b"RT1 accepted\n")
    (tmp_path / senderkey.NAME).write_bytes(sender)
    assert steps.run(rccmd.send(job(peer.port, tmp_path, pin=sha256(server)))).word == ACCEPTED
    peer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken(tmp_path: Path, version: ssl.TLSVersion) -> None:
    made = context(tmp_path, keys("server"), keys("sender"))
    made.minimum_version = made.maximum_version = version
    peer = SecurePeer(made, b"RT1 accepted\n")
    assert steps.run(rccmd.send(job(peer.port, tmp_path))).word == ACCEPTED
    peer.close()


@pytest.mark.parametrize(
    "reply, why",
    [
        (b"HTTP/1.0 400 Bad Request\n", "not an answer: bad-line: b'HTTP/1.0 400 Bad Request"),
        (b"RT1 perhaps\n", "not an answer"),
        (b"x" * 600, "its answer is too long"),
        (b"RT1 acc", "closed in the middle of its answer b'RT1 acc'"),
    ],
)
def test_what_is_no_reply_is_refused_with_its_bytes(tmp_path: Path, reply: bytes, why: str) -> None:
    def talk(sock: ssl.SSLSocket) -> None:
        sock.recv(4096)
        sock.sendall(reply)

    with secure_peer(tmp_path, manner=talk) as peer, pytest.raises(OSError, match=why):
        steps.run(rccmd.send(job(peer.port, tmp_path)))


def test_a_reply_may_come_in_pieces(tmp_path: Path) -> None:
    def talk(sock: ssl.SSLSocket) -> None:
        sock.recv(4096)
        for byte in b"RT1 accepted a=b\n":
            sock.send(bytes([byte]))

    with secure_peer(tmp_path, manner=talk) as peer:
        assert steps.run(rccmd.send(job(peer.port, tmp_path))).word == ACCEPTED


def test_a_server_that_hangs_in_the_handshake_or_with_its_answer_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rccmd, "ANSWER_S", 0.1)
    listener = socket.create_server(("127.0.0.1", 0))
    quick = job(listener.getsockname()[1], tmp_path)
    object.__setattr__(quick, "connect_s", 0.1)
    with pytest.raises(Late, match="no TLS handshake in time"):
        steps.run(rccmd.send(quick))
    listener.close()
    held = threading.Event()
    with secure_peer(tmp_path, manner=lambda sock: bool(held.wait(2))) as peer:
        with pytest.raises(Late, match="no answer"):
            steps.run(rccmd.send(job(peer.port, tmp_path)))
        held.set()


def test_a_drip_does_not_stretch_the_time_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rccmd, "ANSWER_S", 0.15)

    def drip(sock: ssl.SSLSocket) -> None:
        for _ in range(20):
            sock.send(b"R")
            time.sleep(0.03)

    with secure_peer(tmp_path, manner=drip) as peer:
        begin_s = time.monotonic()
        with pytest.raises(Late, match="no answer"):
            steps.run(rccmd.send(job(peer.port, tmp_path)))
        assert time.monotonic() - begin_s < 1.0


def test_a_classic_listener_is_recognised(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(4096)
            sock.sendall(b"what?\n")

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(OSError, match="does not speak TLS"):
        steps.run(rccmd.send(job(listener.getsockname()[1], tmp_path)))
    thread.join(5)
    listener.close()


def test_no_step_leaves_a_descriptor_behind_and_none_takes_long(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 accepted\n") as peer:
        to = job(peer.port, tmp_path)
        steps.run(rccmd.send(to))
        before = steps.descriptors()
        for count in range(12):  # ended at each of its waits
            way = rccmd.send(to)
            try:
                for _ in range(count):
                    next(way)
            except StopIteration:
                break
            way.close()
        outcomes, longest_s = steps.run_all([rccmd.send(to) for _ in range(30)])
        assert {o.word for o in outcomes} == {ACCEPTED} and longest_s < 0.5  # it never waits; on a busy machine
        assert steps.descriptors() <= before + 1  # the peer's own


def test_secure_is_chosen_by_option_and_pin() -> None:
    def trust(pin: str, **options: Any) -> str:
        return rccmd.trust(Server(name="a", address="192.0.2.1", options=options), pin)

    assert (trust(""), trust("", secure=None), trust("ab")) == ("classic", "classic", "secure")
    assert (trust("", secure=True), trust("ab", secure=True)) == ("not-enrolled", "secure")
    assert (trust("ab", secure=False), trust("ab", udp=True)) == ("classic", "classic")


def test_a_server_that_must_be_secure_and_is_not_enrolled_is_told_nothing(tmp_path: Path) -> None:
    to = job(1, tmp_path, pin="", secure=True)
    why = "not enrolled yet: ridethrough enroll nas"
    assert steps.run(rccmd.send(to)) == Outcome(NOT_DELIVERED, why)
    assert steps.run(rccmd.prove(to)) == Outcome(UNKNOWN, why)
    assert steps.run(rccmd.release(to)) == Outcome(NOT_DELIVERED, why)


def test_a_key_that_is_gone_stays_in_force_and_a_new_one_is_taken(tmp_path: Path) -> None:
    with secure_peer(tmp_path, b"RT1 accepted\n") as peer:
        to = job(peer.port, tmp_path)
        assert steps.run(rccmd.send(to)).word == ACCEPTED
        (tmp_path / senderkey.NAME).unlink()
        assert steps.run(rccmd.send(to)).word == ACCEPTED  # the disk died in the outage
        (tmp_path / senderkey.NAME).write_bytes(keys("new sender"))
        assert steps.run(rccmd.send(to)).word == ACCEPTED  # not in the outage: the disk may hang
        with pytest.raises(OSError, match=REFUSED):
            steps.run(rccmd.prove(job(peer.port, tmp_path, outage="")))


@pytest.mark.parametrize("text", ["a\nRT1 SHUTDOWN 0123456789abcdef", "x" * 2048, ""])
def test_what_no_server_would_understand_is_not_sent(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        steps.run(rccmd.say(job(1, tmp_path), "MSG_TEXT", text))


def test_the_core_loads_no_tls_before_it_needs_it() -> None:
    code = (
        "import sys, agent.core, agent.reach.rccmd; "
        "sys.exit(any(m in sys.modules for m in ('ssl', 'hashlib', 'asyncio', 'cryptography', 'subprocess')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0
