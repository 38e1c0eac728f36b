"""Trades the one-time code for this server's key: HTTPS to the adapter, whose fingerprint is checked before a byte.

POST /enrol {"name": NAME, "code": CODE [, "cert_pem": the certificate that another adapter trusts already]}
200 {"name", "cert_pem", "key_pem", "sender_pem", "adapter", "port"}      403, 429, ... {"error": TEXT}
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import re
import ssl
from dataclasses import dataclass

from .codec import PORT, printable

TIMEOUT_S = 15.0  # for the connection, and for each pause of the answer
ANSWER_LIMIT_BYTES = 64 * 1024
SHOW_LIMIT = 200  # characters of the adapter's own words in our message

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_KEY = re.compile(r"-----BEGIN ((?:EC |RSA )?PRIVATE KEY)-----\s[A-Za-z0-9+/=\s]+-----END \1-----")


class NotEnrolled(Exception):
    """The code was not traded; the text says why and what to do."""


@dataclass(frozen=True)
class Enrolled:
    """What the adapter gave: PEM texts; key_pem "" means that the certificate we showed stays in use."""

    adapter: str  # its name as it may stand in a file name
    cert_pem: str
    key_pem: str
    sender_pem: str
    port: int  # where the adapter will connect to
    address: str  # the adapter's, as this server sees it


def fingerprint_of(text: str) -> str:
    """A SHA-256 as 64 lower-case hex digits, from any usual spelling. Raises ValueError."""
    digits = text.replace(":", "").replace(" ", "").lower()
    digits = digits[7:] if digits.startswith("sha256=") else digits
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(f"{text!r} is not a SHA-256 fingerprint (64 hex digits)")
    return digits


def adapter_of(text: str) -> tuple[str, int]:
    """HOST and port of HOST[:PORT] or [IPv6]:PORT; the port is 443 if none is given. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = text, "443"
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (re.fullmatch(r"[A-Za-z0-9.:%_-]{1,253}", host) and re.fullmatch("[0-9]{1,5}", port)):
        raise ValueError(f"{text!r} is not HOST:PORT")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: the port is not 1 to 65535")
    return host, int(port)


def trade(adapter: str, fingerprint: str, name: str, code: str, cert_pem: str = "") -> Enrolled:
    """One try. `cert_pem`: keep this certificate, which other adapters trust. Raises NotEnrolled, ValueError."""
    host, port = adapter_of(adapter)
    told = {"name": name, "code": code}
    if cert_pem:
        told["cert_pem"] = cert_pem
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=_anyone())
    try:
        try:
            connection.connect()
        except OSError as e:
            why = e.strerror or str(e) or type(e).__name__
            raise NotEnrolled(
                f"cannot reach the adapter at {adapter}: {why}. Nothing was changed. Is the address right, and does "
                "the firewall let this server connect to it? (The code was not used.)"
            ) from None
        address = _check(connection, adapter, fingerprint)
        try:
            connection.request("POST", "/enrol", json.dumps(told).encode(), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read(ANSWER_LIMIT_BYTES + 1)
        except (OSError, http.client.HTTPException) as e:
            raise NotEnrolled(
                f"the adapter at {adapter} did not answer to the end: {e or type(e).__name__}. Nothing was changed "
                f"here. If the code is refused now, ask for a new one: ridethrough enroll {name}"
            ) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise NotEnrolled(_refusal(answer.status, body, name))
    return _understood(body, name, cert_pem, address)


def _anyone() -> ssl.SSLContext:
    """TLS to whoever answers: the fingerprint decides, no authority and no date."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _check(connection: http.client.HTTPSConnection, adapter: str, fingerprint: str) -> str:
    """Is this the adapter with this fingerprint? Returns its address. Raises NotEnrolled."""
    sock = connection.sock
    shown = sock.getpeercert(True) if isinstance(sock, ssl.SSLSocket) else None
    seen = hashlib.sha256(shown or b"").hexdigest()
    if not hmac.compare_digest(seen, fingerprint_of(fingerprint)):
        raise NotEnrolled(
            f"{adapter} shows another certificate (SHA-256 {seen}) than the adapter that made this command. Nothing "
            "was sent, the code was not used, nothing was changed. Either its certificate was renewed: ask for a new "
            "command; or somebody is between: do not go on before you know."
        )
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _refusal(status: int, body: bytes, name: str) -> str:
    try:
        said = json.loads(body)
        words = printable(str(said["error"]))[:SHOW_LIMIT]
    except (ValueError, KeyError, TypeError):
        words = ""
    said_so = f' The adapter says: "{words}"' if words else ""
    if status == 403:
        return (
            f"the adapter refused the code: it is wrong, used, older than 10 minutes, or made for another name than "
            f"{name}. Nothing was changed. Get a new one: ridethrough enroll {name}.{said_so}"
        )
    if status == 429:
        return (
            "too many tries at the adapter. Nothing was changed. Wait a minute and run the same command again; if "
            f"the code is refused then, get a new one: ridethrough enroll {name}.{said_so}"
        )
    if status == 503:
        return f"the adapter cannot enrol this server at this moment. Nothing was changed.{said_so}"
    return f"the adapter answered with HTTP status {status}; is this its web address? Nothing was changed.{said_so}"


def _understood(body: bytes, name: str, cert_pem: str, address: str) -> Enrolled:
    remedy = f"Nothing was changed here, but the code is used up: ridethrough enroll {name} makes a new one."
    try:
        if len(body) > ANSWER_LIMIT_BYTES:
            raise ValueError(f"more than {ANSWER_LIMIT_BYTES} bytes")
        told = json.loads(body)
        if not isinstance(told, dict) or told.get("name") != name:
            raise ValueError("it is for another name")
        port = told.get("port", PORT)
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise ValueError(f"port {port!r}")
        adapter = told.get("adapter")
        if not isinstance(adapter, str):
            raise ValueError("no adapter name")
        found = Enrolled(
            adapter=file_name(adapter),
            cert_pem=_pem(told, "cert_pem", _CERTIFICATE),
            key_pem=_pem(told, "key_pem", _KEY) if told.get("key_pem") else "",
            sender_pem=_pem(told, "sender_pem", _CERTIFICATE),
            port=port,
            address=address,
        )
    except ValueError as e:
        raise NotEnrolled(f"the adapter's answer cannot be used: {e}. {remedy}") from None
    if cert_pem and ssl.PEM_cert_to_DER_cert(found.cert_pem) != ssl.PEM_cert_to_DER_cert(cert_pem):
        raise NotEnrolled(
            "this adapter made a key of its own, but the adapters that this server trusts already know it by its "
            f"present key, which it would lose. {remedy} Update this adapter, or use --replace to trust it alone."
        )
    if not cert_pem and not found.key_pem:
        raise NotEnrolled(f"the adapter's answer cannot be used: no key_pem. {remedy}")
    return found


def _pem(told: dict[str, object], key: str, form: re.Pattern[str]) -> str:
    """One PEM block and nothing else, with a newline at its end."""
    text = told.get(key)
    if not isinstance(text, str) or not form.fullmatch(text.strip()):
        raise ValueError(f"{key} is not one PEM block")
    return text.strip() + "\n"


def file_name(adapter: str) -> str:
    """An adapter's name as a file name: letters, digits, dot, dash, underline; at most 48 characters."""
    clean = re.sub("[^A-Za-z0-9._-]+", "-", adapter).strip("._-")[:48]
    try:
        ipaddress.ip_address(clean)
        return f"adapter-{clean}"  # a bare address would be taken for a classic sender
    except ValueError:
        return clean or "adapter"
