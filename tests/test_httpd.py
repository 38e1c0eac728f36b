"""The web server: strict requests, limits, deadlines, TLS and plain on one port."""

import contextlib
import logging
import socket
import ssl
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import httpanswer, httpd, httphead, tls
from agent.httphead import Refused, parse_head
from agent.model import ConfigError


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise RuntimeError("boom")
    if path == "/stream":
        if not environ["httpd.stream"]():
            start_response("503 Service Unavailable", [])
            return [b"no place"]
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return endless()
    if path == "/none":
        start_response("304 Not Modified", [])
        return []
    body = environ["wsgi.input"].read() or path.encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Scheme", environ["wsgi.url_scheme"])])
    return [body]


def endless():
    while True:
        yield b": alive\n\n"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(application=app, **more):
    server = httpd.Server("127.0.0.1:0", application, **more)
    server.bind()
    stop = threading.Event()
    thread = threading.Thread(target=server.run, args=(stop,))
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    context, _ = tls.context(folder, ["localhost", "127.0.0.1"])
    return context, folder / "tls.pem"


def connect(server):
    return socket.create_connection(server.address, timeout=5)


def everything(sock):
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def ask(server, text):
    with connect(server) as sock:
        sock.sendall(text if isinstance(text, bytes) else text.encode())
        return everything(sock).decode("latin-1")


def get(server, path="/", more=""):
    return ask(server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n")


# --- heads ------------------------------------------------------------------------------------------------------


def test_a_head_is_read_field_by_field():
    head = parse_head(b"POST /a?b=c HTTP/1.1\r\nHost: ups.local:8080\r\nX-A: 1\r\nx-a:  2 \r\nContent-Length: 7")
    assert (head.method, head.target, head.version, head.host, head.length_bytes) == (
        "POST", "/a?b=c", "HTTP/1.1", "ups.local", 7,
    )  # fmt: skip
    assert head.fields["x-a"] == "1, 2"


@pytest.mark.parametrize(
    "head, status",
    [
        (b"GET / HTTP/1.1", "400"),
        (b"GET / HTTP/2.0\r\nHost: a", "400"),
        (b"get / HTTP/1.1\r\nHost: a", "400"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a", "400"),
        (b"GET /a b HTTP/1.1\r\nHost: a", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a", "400"),
        (b"GET / HTTP/1.1\r\nHost: a/b", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: b", "400"),
        (b"GET / HTTP/1.1\r\nHost : a", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: b", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537", "413"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", "411"),
    ],
)
def test_what_is_not_exactly_http_is_refused(head, status):
    with pytest.raises(Refused) as e:
        parse_head(head)
    assert e.value.status.startswith(status)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_refused(data):
    with contextlib.suppress(Refused):
        parse_head(data)


@given(st.binary(max_size=100))
def test_any_field_value_is_a_head_or_refused(data):
    with contextlib.suppress(Refused):
        assert set(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + data).fields) >= {"host", "x"}


@pytest.mark.parametrize(
    "host, own",
    [("192.0.2.1", True), ("[2001:db8::1]", True), ("ups", True), ("UPS.local.", True), ("evil.example", False)],
)
def test_only_addresses_and_own_names_are_answered(host, own):
    assert httphead.is_own_name(host, {"ups", "ups.local"}) is own


def test_an_ipv6_client_is_counted_by_its_64():
    assert (
        httphead.group_of("2001:db8::1")
        == httphead.group_of("2001:db8::ffff:1")
        != httphead.group_of("2001:db8:0:1::1")
    )
    assert httphead.group_of("::ffff:192.0.2.1") == httphead.group_of("192.0.2.1")
    assert httphead.group_of("fe80::1%eth0") == "fe80::/64"


# --- listening --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["", "8080", ":8080", "::1:80", "a:99999", "a:b"])
def test_an_address_that_is_none_names_the_setting(listen):
    with pytest.raises(ConfigError, match=r"\[web\] listen"):
        httpd.Server(listen, app).bind()


def test_a_port_in_use_names_the_setting_and_the_remedy(server):
    host, port = server.address
    with pytest.raises(ConfigError, match=r"\[web\] listen.*another program"):
        httpd.Server(f"{host}:{port}", app).bind()


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigError, match="does not have that address"):
        httpd.Server("192.0.2.254:8080", app).bind()


# --- requests ---------------------------------------------------------------------------------------------------


def test_a_request_is_answered_and_closed_with_the_security_headers(server):
    answer = get(server, "/h%C3%BC")
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n") and body == "/hü".encode().decode("latin-1")
    assert "Connection: close" in head and "Cache-Control: no-store" in head and "Content-Length: 4" in head
    for name, value in httpanswer.HEADERS.items():
        assert f"{name}: {value}\r\n" in head + "\r\n"


@pytest.mark.parametrize(
    "request_line, status",
    [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        ("nonsense\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n" + "x" * 70000, "413"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "x" * 9000 + "\r\n\r\n", "431"),
    ],
)
def test_an_early_refusal_is_json_with_the_security_headers(server, request_line, status):
    answer = ask(server, request_line)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert '{"error": ' in answer and "frame-ancestors 'none'" in answer and "nosniff" in answer


def test_a_body_is_read_whole(server):
    answer = ask(server, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n\r\n" + "y" * 65536)
    assert answer.endswith("y" * 65536)


def test_a_304_has_no_length(server):
    answer = get(server, "/none")
    assert answer.startswith("HTTP/1.1 304 ") and "Content-Length" not in answer


def test_the_configured_name_is_answered():
    with serving(names=["USV-Keller.example"]) as server:
        answer = ask(server, "GET / HTTP/1.1\r\nHost: usv-keller.EXAMPLE\r\n\r\n")
    assert answer.startswith("HTTP/1.1 200")


def test_a_failing_application_is_one_log_entry_and_a_500(server, caplog):
    for _ in range(3):
        answer = get(server, "/boom")
    assert answer.startswith("HTTP/1.1 500") and "RuntimeError" not in answer
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1 and "boom" in caplog.text


def test_an_aborted_connection_leaves_nothing_in_the_log(server, caplog):
    for text in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"):
        with connect(server) as sock:
            sock.sendall(text)
    with connect(server) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sock.recv(100)
    assert get(server).startswith("HTTP/1.1 200")
    wait_for(lambda: not server._slots)
    assert not caplog.records


def wait_for(so, within_s=5.0):
    until_s = time.monotonic() + within_s
    while not so() and time.monotonic() < until_s:
        time.sleep(0.01)
    assert so()


# --- limits -----------------------------------------------------------------------------------------------------


def test_a_slow_request_ends_at_the_deadline_however_it_trickles():
    with serving(receive_s=0.15) as server, connect(server) as sock:
        begun_s = time.monotonic()
        sock.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for _ in range(100):
                sock.sendall(b"X")
                time.sleep(0.02)
        assert time.monotonic() - begun_s < 1.0


def test_the_seventeenth_idle_connection_of_an_address_replaces_the_oldest(server):
    idle = [connect(server) for _ in range(httpd.SLOTS_PER_ADDRESS)]
    wait_for(lambda: len(server._slots) == httpd.SLOTS_PER_ADDRESS)
    assert get(server).startswith("HTTP/1.1 200")
    assert idle[0].recv(1) == b""
    idle[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        idle[1].recv(1)
    for sock in idle:
        sock.close()


def test_when_all_places_are_taken_the_greediest_address_gives_way(server):
    held = []
    for n in range(2, 6):
        for _ in range(httpd.SLOTS_PER_ADDRESS - (n == 2)):
            sock = socket.socket()
            sock.bind((f"127.0.0.{n}", 0))
            sock.connect(server.address)
            held.append(sock)
    modest = held[0]
    wait_for(lambda: len(server._slots) == httpd.SLOTS - 1)
    assert get(server).startswith("HTTP/1.1 200")
    first = connect(server)  # takes the last place
    wait_for(lambda: len(server._slots) == httpd.SLOTS)
    assert get(server).startswith("HTTP/1.1 200")
    modest.setblocking(False)
    with pytest.raises(BlockingIOError):
        modest.recv(1)  # of the address with 15 connections
    for sock in (*held, first):
        sock.close()


def test_an_address_has_four_streams_and_the_fifth_is_told(server):
    socks = []
    for _ in range(httpd.STREAMS_PER_ADDRESS):
        sock = connect(server)
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        socks.append(sock)
    assert get(server, "/stream").startswith("HTTP/1.1 503")
    socks.pop().close()
    wait_for(lambda: sum(s.phase == httpd._STREAMING for s in server._slots) < httpd.STREAMS_PER_ADDRESS)
    sock = connect(server)
    sock.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    for s in (*socks, sock):
        s.close()


def test_a_stream_outlives_the_deadline_of_an_answer():
    with serving(receive_s=0.1, send_s=0.1) as server, connect(server) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until_s, got = time.monotonic() + 0.4, b""
        while time.monotonic() < until_s:
            got = sock.recv(4096)
        assert got


# --- TLS --------------------------------------------------------------------------------------------------------


def test_tls_is_spoken_and_the_application_knows_it(certificate):
    context, pem = certificate
    with serving(tls=context) as server:
        client = ssl.create_default_context(cafile=str(pem))
        with client.wrap_socket(connect(server), server_hostname="localhost", suppress_ragged_eofs=False) as sock:
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = everything(sock)  # raises if the connection is not closed as TLS demands
    assert b"X-Scheme: https" in answer and answer.endswith(b"/x")


def test_plain_http_on_the_tls_port_is_only_redirected(certificate):
    with serving(tls=certificate[0]) as server:
        answer = get(server, "/a?b=c")
        assert answer.startswith("HTTP/1.1 301") and "Location: https://127.0.0.1/a?b=c\r\n" in answer
        posted = ask(server, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert posted.startswith("HTTP/1.1 403")
        foreign = ask(server, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert foreign.startswith("HTTP/1.1 421") and "Location" not in foreign


def test_a_half_handshake_gives_way_like_a_half_request(certificate, caplog):
    with serving(tls=certificate[0]) as server:
        idle = [connect(server) for _ in range(httpd.SLOTS_PER_ADDRESS)]
        for sock in idle:
            sock.sendall(b"\x16\x03\x01")
        wait_for(lambda: len(server._slots) == httpd.SLOTS_PER_ADDRESS)
        assert get(server).startswith("HTTP/1.1 301")
        for sock in idle:
            sock.close()
        wait_for(lambda: not server._slots and not server._threads)
    assert not caplog.records
