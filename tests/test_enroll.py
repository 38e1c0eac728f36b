"""Enrolment against a real page over TLS and a real bus: who gets a key, who does not, and what it costs him."""

import hashlib
import http.client
import json
import socket
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import authority, bus, enroll, httpd, pyz, tls
from agent.codes import Codes
from agent.model import ConfigError
from agent.vault import write_private
from tests.fakecore import FakeCore
from tests.secure_peer import keys, pem, sha256

WRONG = "00000-00000-00000-00000"


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the page"]


def issued_here(folder, name):
    """What `authority.issue` does, without its child process."""
    made, _ = authority.make(folder, name)
    key, begin, certificate = made.decode().partition("-----BEGIN CERTIFICATE-----")
    return key, begin + certificate


class World:
    """A fake core, the desk in front of a page, over TLS or without, and clients of it."""

    def __init__(self, folder, *, secure=True, issue=issued_here, connect=True):
        self.folder, self.now_s, self.issue = folder, 1000.0, issue
        self.core = FakeCore(folder / "core.sock")
        self.core.__enter__()
        self.client = bus.Client(self.core.path)
        if connect:
            self.client.start()
            until(lambda: self.client.view().servers)
        self.codes = Codes(folder / "faces" / "enrol")
        self.desk = enroll.Desk(
            page,
            self.client,
            folder / "faces" / "enrol",
            "server room",
            issue=lambda *a: self.issue(*a),
            now=lambda: self.now_s,
        )
        write_private(folder / "faces" / "tls.pem", tls.make(["localhost"]))
        self.context, self.fingerprint = tls.context(folder / "faces", []) if secure else (None, "")
        self.server = httpd.Server("127.0.0.1:0", self.desk, self.context)
        self.server.bind()
        self.thread = threading.Thread(target=self.server.run, args=(threading.Event(),))
        self.thread.start()

    def close(self):
        self.server.stop()
        self.thread.join(5)
        self.client.stop()
        self.core.stop()

    def open(self, method, path, body=None, kind="application/json", secure=True, source="127.0.0.1"):
        host, port = self.server.address
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(
                host, port, timeout=10, context=context, source_address=(source, 0)
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data

    def post(self, name, code, source="127.0.0.1", **more):
        body = json.dumps({"name": name, "code": code, **more})
        answer, data = self.open("POST", "/enrol", body, source=source)
        return answer.status, json.loads(data)


def until(so):
    end_s = time.monotonic() + 5
    while not so() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert so()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


# --- the good case ----------------------------------------------------------------------------------------------


def test_a_code_is_traded_for_a_key_that_the_core_knows(world, caplog):
    world.issue = authority.issue
    seen = []
    world.core.react = lambda order: seen.append((world.folder / "faces/enrol/codes.json").read_text())
    code = world.codes.make("nas")
    caplog.set_level("INFO")
    status, told = world.post("nas", code)
    assert status == 200 and set(told) == {"name", "cert_pem", "key_pem", "sender_pem", "adapter", "port"}
    assert (told["name"], told["adapter"], told["port"]) == ("nas", "server room", 6003)
    assert told["sender_pem"] == world.core.sender_pem
    der = ssl.PEM_cert_to_DER_cert(told["cert_pem"])
    origin = {"user": "enrolment", "address": "127.0.0.1"}
    pin = {"v": 1, "type": "pin", "name": "nas", "sha256": hashlib.sha256(der).hexdigest(), "origin": origin}
    assert world.core.orders == [pin]
    assert json.loads(seen[0]) == {}, "the code was used up before the core was told"
    assert "nas is enrolled, from 127.0.0.1" in caplog.text
    for secret in (code, told["key_pem"].splitlines()[1]):
        assert secret not in caplog.text


def test_the_key_is_p256_and_its_certificate_is_valid_for_ever(world, tmp_path):
    _, told = world.post("nas", world.codes.make("nas"))
    made = x509.load_pem_x509_certificate(told["cert_pem"].encode())
    assert (made.not_valid_before_utc.year, made.not_valid_after_utc.year) == (2000, 9999)
    assert isinstance(made.public_key().curve, ec.SECP256R1)
    assert made.subject.rfc4514_string() == "CN=nas"
    ca_pem = tmp_path / "faces" / "enrol" / "ca.pem"
    assert ca_pem.stat().st_mode & 0o777 == 0o600
    text = ca_pem.read_bytes()
    ca = x509.load_pem_x509_certificate(text[text.index(b"-----BEGIN CERT") :])
    made.verify_directly_issued_by(ca)
    ends = [x.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for x in (made, ca)]
    assert ends == [False, True]
    path = tmp_path / "key.pem"
    path.write_text(told["key_pem"] + told["cert_pem"])
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)


def test_each_server_has_a_key_of_its_own_from_one_authority(world):
    one, two = (world.post(n, world.codes.make(n))[1] for n in ("nas", "vm-host"))
    assert one["key_pem"] != two["key_pem"]
    issuers = {x509.load_pem_x509_certificate(t["cert_pem"].encode()).issuer for t in (one, two)}
    assert len(issuers) == 1


def test_a_server_may_keep_the_key_that_another_adapter_trusts(world):
    own = pem(keys("nas"))
    status, told = world.post("nas", world.codes.make("nas"), cert_pem=own)
    assert status == 200 and told["key_pem"] == "" and told["cert_pem"] == own
    assert world.core.orders[0]["sha256"] == sha256(keys("nas"))


def test_the_program_is_fetched_without_a_code(world):
    answer, data = world.open("GET", "/enrol/rccmd.pyz")
    assert answer.status == 200 and data == pyz.build() and answer.headers["Content-Type"] == "application/zip"


def test_everything_else_is_the_pages(world):
    for path in ("/", "/enrol/", "/enrol/x", "/enroll"):
        assert world.open("GET", path)[1] == b"the page"


# --- who gets nothing -------------------------------------------------------------------------------------------


def test_a_used_code_is_refused(world):
    code = world.codes.make("nas")
    assert world.post("nas", code)[0] == 200
    assert world.post("nas", code) == (403, {"error": enroll.WRONG})
    assert len(world.core.orders) == 1


def test_wrong_used_and_foreign_codes_are_refused_in_the_same_words(world):
    code = world.codes.make("nas")
    said = [world.post(n, c) for n, c in (("nas", WRONG), ("vm-host", code), ("stranger", code), ("../..", "x"))]
    assert said == [(403, {"error": enroll.WRONG})] * 4 and not world.core.orders
    assert world.post("nas", code)[0] == 200


def test_a_server_that_left_the_configuration_gets_no_key(world):
    code = world.codes.make("old-host")
    assert world.post("old-host", code) == (403, {"error": enroll.WRONG})
    assert not world.core.orders


def test_wrong_codes_in_a_loop_are_stopped_and_end_the_code(world, caplog):
    code = world.codes.make("nas")
    said = [world.post("nas", WRONG)[0] for _ in range(30)]
    assert said == [403] * 5 + [429] * 25
    answer, _ = world.open("POST", "/enrol", json.dumps({"name": "nas", "code": code}))
    assert answer.status == 429 and int(answer.headers["Retry-After"]) == 60
    assert len([r for r in caplog.records if "refused" in r.message]) == 1
    world.now_s += 60.1
    assert world.post("nas", code) == (403, {"error": enroll.WRONG}), "five wrong tries have ended it"
    assert "(30 more since the last such line)" in caplog.text
    assert world.post("nas", world.codes.make("nas"))[0] == 200


def test_one_address_that_guesses_does_not_keep_out_another(world):
    for _ in range(6):
        world.post("nas", WRONG, source="127.0.0.2")
    assert world.post("vm-host", world.codes.make("vm-host"))[0] == 200


def test_all_addresses_together_have_twenty_wrong_tries_a_minute(world):
    said = [world.post("nas", WRONG, source=f"127.0.1.{n}")[0] for n in range(1, 26)]
    assert said == [403] * 20 + [429] * 5
    assert world.post("nas", world.codes.make("nas"))[0] == 429
    world.now_s += 60.1
    assert world.post("nas", world.codes.make("nas"))[0] == 200


def test_good_codes_count_as_no_try(world):
    made = {"key_pem": "k", "cert_pem": pem(keys("x"))}
    world.issue = lambda folder, name: (made["key_pem"], made["cert_pem"])
    for _ in range(25):
        assert world.post("nas", world.codes.make("nas"))[0] == 200


def test_two_at_once_with_one_code_get_one_key(world):
    code, said = world.codes.make("nas"), []
    tried = [threading.Thread(target=lambda: said.append(world.post("nas", code)[0])) for _ in range(4)]
    for thread in tried:
        thread.start()
    for thread in tried:
        thread.join(20)
    assert sorted(said) == [200, 403, 403, 403] and len(world.core.orders) == 1


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/x-www-form-urlencoded", "name=nas&code=x", 415),
        ("text/plain", '{"name": "nas", "code": "x"}', 415),
        ("", '{"name": "nas", "code": "x"}', 415),
        ("application/json", "", 400),
        ("application/json", "{", 400),
        ("application/json", "[]", 400),
        ("application/json", "[" * 4000, 400),
        ("application/json", b"\xff\xfe\x00", 400),
        ("application/json", '{"name": "nas"}', 400),
        ("application/json", '{"name": ["nas"], "code": 7}', 400),
        ("application/json", '{"name": "nas", "code": "x", "cert_pem": "-----BEGIN"}', 400),
        ("application/json", json.dumps({"name": "nas", "code": "x" * 5000}), 413),
        ("application/json", "x" * 70_000, 413),
    ],
)
def test_what_is_no_enrolment_is_refused_with_one_clear_text(world, kind, body, status):
    answer, data = world.open("POST", "/enrol", body, kind=kind)
    assert answer.status == status and set(json.loads(data)) == {"error"}
    assert not world.core.orders


def test_a_certificate_that_is_none_costs_no_code(world):
    code, good = world.codes.make("nas"), pem(keys("x"))
    junk = good.replace("MII", "AAA", 1)
    for text in (
        junk,
        good + good,
        good.replace("\n", "\n!", 2),
        "-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----",
    ):
        status, told = world.post("nas", code, cert_pem=text)
        assert status in (400, 413) and not world.core.orders, told
    assert world.post("nas", code)[0] == 200


def test_only_these_methods(world):
    for method, path in (("GET", "/enrol"), ("POST", "/enrol/rccmd.pyz"), ("DELETE", "/enrol"), ("HEAD", "/enrol")):
        answer, _ = world.open(method, path)
        assert answer.status == 405 and answer.headers["Allow"] in ("GET", "POST")


@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.text() | st.none() | st.integers(),
            lambda v: st.lists(v) | st.dictionaries(st.sampled_from(["name", "code", "cert_pem", "x"]), v),
        ).map(lambda v: json.dumps(v).encode()),
        st.fixed_dictionaries({"name": st.text(), "code": st.text()}, optional={"cert_pem": st.text()}).map(
            lambda v: json.dumps(v).encode()
        ),
    )
)
@settings(max_examples=300, deadline=None)
def test_any_body_is_a_request_or_refused(body):
    try:
        asked = enroll.parse("application/json", body)
    except enroll.Refused as e:
        assert e.status in (400, 413) and str(e).isprintable()
    else:
        assert asked.name and asked.code and all(isinstance(t, str) for t in (asked.name, asked.code, asked.cert_pem))


@given(st.text(max_size=300).map(lambda t: f"-----BEGIN CERTIFICATE-----\n{t}\n-----END CERTIFICATE-----\n"))
@settings(max_examples=200, deadline=None)
def test_no_text_passes_for_a_certificate(text):
    with pytest.raises(ValueError):
        enroll.certificate_sha256(text)


# --- TLS --------------------------------------------------------------------------------------------------------


def test_without_tls_there_is_neither_key_nor_program(tmp_path):
    world = World(tmp_path, secure=False)
    try:
        code = world.codes.make("nas")
        body = json.dumps({"name": "nas", "code": code})
        for method, path, sent in (("POST", "/enrol", body), ("GET", "/enrol/rccmd.pyz", None)):
            answer, data = world.open(method, path, sent, secure=False)
            assert (answer.status, json.loads(data)) == (403, {"error": "only over https"})
        assert not world.core.orders
    finally:
        world.close()


def test_plain_http_on_the_tls_port_gets_nothing(world):
    body = json.dumps({"name": "nas", "code": world.codes.make("nas")})
    assert world.open("POST", "/enrol", body, secure=False)[0].status == 403
    assert world.open("GET", "/enrol/rccmd.pyz", secure=False)[0].status == 301
    assert not world.core.orders


def test_a_connection_that_sends_half_a_body_uses_nothing_up(world):
    code = world.codes.make("nas")
    body = json.dumps({"name": "nas", "code": code}).encode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(world.server.address) as plain, context.wrap_socket(plain) as sock:
        head = "POST /enrol HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
    assert world.post("nas", code)[0] == 200


# --- when something is not there --------------------------------------------------------------------------------


def test_without_a_core_the_code_stays_good(tmp_path):
    world = World(tmp_path, connect=False)
    try:
        code = world.codes.make("nas")
        status, told = world.post("nas", code)
        assert status == 503 and "core is not running" in told["error"] and "still good" in told["error"]
        world.client.start()
        until(lambda: world.client.view().servers)
        assert world.post("nas", code)[0] == 200
    finally:
        world.close()


def test_what_the_core_refuses_is_said_and_the_code_stays_good(world):
    code = world.codes.make("nas")
    world.core.refuse = "[[server]] nas: secure = false or udp = true"
    status, told = world.post("nas", code)
    assert status == 503 and "secure = false" in told["error"] and "key" not in told
    world.core.refuse = None
    assert world.post("nas", code)[0] == 200


def test_a_key_that_cannot_be_made_is_said_and_the_code_stays_good(tmp_path):
    def fails(folder, name):
        raise ConfigError("no key could be made for nas: No space left on device")

    world = World(tmp_path, issue=fails)
    try:
        code = world.codes.make("nas")
        status, told = world.post("nas", code)
        assert status == 503 and "No space left" in told["error"] and not world.core.orders
        world.issue = authority.issue
        assert world.post("nas", code)[0] == 200
    finally:
        world.close()


def test_codes_that_cannot_be_read_are_no_codes(world, caplog):
    code = world.codes.make("nas")
    path = world.folder / "faces" / "enrol" / "codes.json"
    path.rename(path.with_name("kept"))
    path.mkdir()
    status, told = world.post("nas", code)
    assert status == 503 and "cannot read" in told["error"] and "cannot be read" in caplog.text
    path.rmdir()
    path.with_name("kept").rename(path)
    assert world.post("nas", code)[0] == 200


# --- the authority ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", None])
def test_a_damaged_authority_is_set_aside_and_a_new_one_made(tmp_path, damage, caplog):
    authority.issue(tmp_path, "nas")
    path = tmp_path / "ca.pem"
    if damage is None:  # a key with another's certificate
        mine = path.read_bytes()
        damage = mine[: mine.index(b"-----BEGIN CERT")] + pem(keys("other")).encode()
    path.write_bytes(damage)
    key, cert = authority.issue(tmp_path, "nas")
    assert "PRIVATE KEY" in key and x509.load_pem_x509_certificate(cert.encode())
    assert (tmp_path / "ca.pem.damaged").read_bytes() == damage and "set aside" in caplog.text
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() != damage


def test_an_authority_that_cannot_be_kept_is_one_clear_line(tmp_path):
    (tmp_path / "ca.pem").mkdir()
    with pytest.raises(ConfigError, match="no key could be made for nas: .*directory"):
        authority.issue(tmp_path, "nas")
    for name in ("-x", "a b", "", "../nas"):
        with pytest.raises(ConfigError):
            authority.issue(tmp_path, name)
