"""Speaks SNMP version 3 for agent/snmp3link.py: a program of its own, so that the core never loads pysnmp (30 MB).

JSON lines.
In, first: {"host", "port", "user", "auth", "auth_key", "priv", "priv_key"};
then requests: {"id", "tag", "bindings": [[name, value TLV in hex]], "within_s"}.
Out: {"ready": true} or {"missing": text}, then {"id", "error", "index", "bindings"} or {"id", "failed": text}.

It ends with its input, or when nobody asks for a minute. It imports nothing of the house: it is run by its path.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import sys
import types
from typing import Any

IDLE_S = 60.0
GET, GETNEXT, SET = 0xA0, 0xA1, 0xA3
DATAGRAM_LIMIT_BYTES = 1472
AGAIN_S = 0.6
KNOCK_S = 0.3  # of the time of a request
ANEW_EVERY = 10  # requests without an answer: making the keys anew costs a small board a second
#: GET without a user: whoever speaks version 3 names its engine to anybody (RFC 3414, 4)
DISCOVERY = bytes.fromhex(
    "3039 020103300e02026a61020205c0040104020103"  # version, msgID, msgMaxSize, reportable, USM
    "0410300e0400020100020100040004000400"  # no engine, no user, no keys
    "301204000400a00c02026a620201000201003000"  # GET of nothing
)


def stand_in() -> None:
    """pysnmp 6.1.2 imports pyasn1.compat.octets, which pyasn1 0.6.1 dropped; its MIB compiler is not needed."""
    octets = types.ModuleType("pyasn1.compat.octets")
    words: dict[str, Any] = {
        "null": b"",
        "int2oct": lambda number: bytes((number,)),
        "oct2int": lambda octet: octet,
        "ints2octs": bytes,
        "octs2ints": list,
        "str2octs": lambda text: text.encode("iso-8859-1"),
        "octs2str": lambda data: data.decode("iso-8859-1"),
        "isOctetsType": lambda value: isinstance(value, bytes),
        "isStringType": lambda value: isinstance(value, str),
    }
    vars(octets).update(words)
    sys.modules.setdefault("pyasn1.compat.octets", octets)
    sys.modules.setdefault("pysmi", None)  # type: ignore[arg-type]


def say(what: dict[str, Any]) -> None:
    """One line out."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def hear(inbox: bytearray) -> bytes:
    """The last line that has come in: who sent those before it has given them up. b"": the input has ended, or was
    silent for long. `inbox` keeps what is no whole line yet."""
    while select.select([0], [], [], IDLE_S)[0] and (part := os.read(0, 65536)):
        inbox += part
        if b"\n" in inbox:
            *_, line, rest = inbox.split(b"\n")
            inbox[:] = rest
            return bytes(line)
    return b""


def main() -> None:
    """Serve the requests on standard input, one after the other."""
    first = json.loads(hear(bytearray()))
    stand_in()
    try:
        from pyasn1.codec.ber import decoder, encoder
        from pyasn1.error import PyAsn1Error
        from pysnmp.error import PySnmpError
        from pysnmp.hlapi import asyncio as hlapi
        from pysnmp.proto import errind, rfc1902
    except ImportError as e:
        say({"missing": str(e)[:200]})
        return

    auths = {
        "md5": hlapi.usmHMACMD5AuthProtocol, "sha1": hlapi.usmHMACSHAAuthProtocol,
        "sha256": hlapi.usmHMAC192SHA256AuthProtocol, "sha512": hlapi.usmHMAC384SHA512AuthProtocol,
    }  # fmt: skip
    privs = {"des": hlapi.usmDESPrivProtocol, "aes128": hlapi.usmAesCfb128Protocol}
    who = hlapi.UsmUserData(
        first["user"], first["auth_key"], first["priv_key"],
        authProtocol=auths[first["auth"]], privProtocol=privs[first["priv"]],
    )  # fmt: skip

    def new_engine() -> Any:
        return hlapi.SnmpEngine(maxMessageSize=DATAGRAM_LIMIT_BYTES)

    engine = new_engine()
    transport = hlapi.Udp6TransportTarget if ":" in first["host"] else hlapi.UdpTransportTarget
    commands = {GET: hlapi.getCmd, GETNEXT: hlapi.nextCmd, SET: hlapi.setCmd}
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def value(name: str, data: bytes) -> Any:
        kinds = {0x02: rfc1902.Integer32(), 0x06: rfc1902.ObjectIdentifier(), 0x05: rfc1902.Null("")}
        return hlapi.ObjectType(hlapi.ObjectIdentity(name), decoder.decode(data, asn1Spec=kinds[data[0]])[0])

    def there() -> bool:
        """Whether an agent of version 3 is there, whatever it thinks of our user."""
        family = socket.AF_INET6 if ":" in first["host"] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as knock:
            try:
                knock.connect((first["host"], first["port"]))
                knock.settimeout(KNOCK_S)
                knock.send(DISCOVERY)
                return bool(knock.recv(DATAGRAM_LIMIT_BYTES))
            except OSError:
                return False

    async def ask(request: dict[str, Any]) -> dict[str, Any]:
        bindings = [value(name, bytes.fromhex(data)) for name, data in request["bindings"]]
        within_s = max(request["within_s"] - KNOCK_S, KNOCK_S)
        wait_s = min(AGAIN_S, within_s) if request["tag"] != SET else within_s
        again = int(within_s / wait_s) - 1
        target = transport((first["host"], first["port"]), timeout=wait_s, retries=again)
        asked = commands[request["tag"]](engine, who, target, hlapi.ContextData(), *bindings, lookupMib=False)
        # the library's own times begin anew after it has found the agent's engine
        silence, error, index, answered = await asyncio.wait_for(asked, within_s)
        if isinstance(silence, errind.RequestTimedOut):
            raise TimeoutError
        if silence:
            return {"id": request["id"], "failed": str(silence)}
        if answered and isinstance(answered[0], list):  # GETNEXT: rows
            answered = answered[0]
        found = [[str(name), encoder.encode(said).hex()] for name, said in answered]
        return {"id": request["id"], "error": int(error), "index": int(index), "bindings": found}

    worked = False
    silent = refused = 0  # requests in a row: the first may have spent its time on making keys of the passphrases
    say({"ready": True})
    inbox = bytearray()
    while line := hear(inbox):
        request = json.loads(line)
        try:
            said = loop.run_until_complete(ask(request))
            silent = refused = 0
            worked = worked or "error" in said
        except TimeoutError:
            silent += 1
            said = {"id": request["id"], "failed": "no answer in time"}
            if silent > 1 and there():
                refused += 1
                if refused > 1 or not worked:
                    said["failed"] = "there, but no answer"
                if refused % ANEW_EVERY == 1:  # an agent that was started again: the library holds on to the old one
                    if engine.transportDispatcher is not None:
                        engine.transportDispatcher.closeDispatcher()
                    engine = new_engine()
        except (PySnmpError, PyAsn1Error, OSError, ValueError) as e:
            said = {"id": request["id"], "failed": f"{type(e).__name__}: {e}"[:200]}
        say(said)


if __name__ == "__main__":
    main()
