"""The certificate of the web page: made once, right names, valid for a board without a clock."""

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent import tls
from agent.model import ConfigError


def certificate(folder):
    text = (folder / "tls.pem").read_bytes()
    return x509.load_pem_x509_certificate(text[text.index(b"-----BEGIN CERT") :])


def test_the_certificate_is_p256_for_all_names_and_valid_from_2020(tmp_path):
    _, fingerprint = tls.context(tmp_path, ["ups", "ups.local", "192.0.2.7", "2001:db8::7"])
    made = certificate(tmp_path)
    assert isinstance(made.public_key().curve, ec.SECP256R1)
    assert made.not_valid_before_utc == datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    assert made.not_valid_after_utc.year >= datetime.datetime.now(datetime.UTC).year + 10
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    host = socket.gethostname()
    assert {host, f"{host}.local", "ups", "ups.local"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {ipaddress.ip_address(a) for a in ("127.0.0.1", "192.0.2.7", "2001:db8::7")}
    assert addresses <= set(names.get_values_for_type(x509.IPAddress))
    assert fingerprint.replace(":", "").lower() == made.fingerprint(hashes.SHA256()).hex()


def test_a_name_that_no_host_can_have_is_left_out(tmp_path):
    tls.context(tmp_path, ["server room", "x" * 64, "", "größe", "good-name"])
    names = certificate(tmp_path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "good-name" in names.get_values_for_type(x509.DNSName)
    assert not {"server room", "x" * 64, "", "größe"} & set(names.get_values_for_type(x509.DNSName))


def test_it_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    _, first = tls.context(tmp_path, ["ups"])
    _, second = tls.context(tmp_path, ["other"])
    assert first == second
    assert os.stat(tmp_path / "tls.pem").st_mode & 0o777 == 0o600


def test_a_damaged_file_is_set_aside_and_a_new_one_made(tmp_path):
    (tmp_path / "tls.pem").write_text("half a fi")
    tls.context(tmp_path, ["ups"])
    assert (tmp_path / "tls.pem.damaged").read_text() == "half a fi"
    assert certificate(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no certificate could be made"):
        tls.context(tmp_path / "file", ["ups"])


def test_making_it_does_not_load_the_library_into_this_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from agent import tls; "
        f"tls.context(Path({str(tmp_path)!r}), ['ups']); sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "version, works",
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_old_versions_of_tls_are_refused(tmp_path, version, works):
    context, _ = tls.context(tmp_path, ["localhost"])
    ours, theirs = socket.socketpair()

    def serve():
        try:
            context.wrap_socket(ours, server_side=True).close()
        except OSError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    client = ssl.create_default_context(cafile=str(tmp_path / "tls.pem"))
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = version
    try:
        with client.wrap_socket(theirs, server_hostname="localhost") as sock:
            assert works and sock.version()
    except (ssl.SSLError, ConnectionError):
        assert not works
    thread.join(5)


def test_the_own_names_hold_the_host_name_and_loopback():
    names = tls.own_names()
    assert socket.gethostname() in names and "127.0.0.1" in names and len(names) == len(set(names))
