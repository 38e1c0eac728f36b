"""A small SNMP manager for tests, made of pysnmp-lextudio: an implementation that shares no code with our agent.

pysnmp 6.1.2 imports `pyasn1.compat.octets`, which pyasn1 0.6.1 dropped: a stand-in goes into sys.modules first. pysmi
(MIB compiler) is blocked: nothing here needs it, and it takes 11 MB.
"""

from __future__ import annotations

import asyncio
import sys
import types
from typing import Any


def _stand_in() -> None:
    octets = types.ModuleType("pyasn1.compat.octets")
    octets.null = b""  # type: ignore[attr-defined]
    octets.int2oct = lambda number: bytes((number,))  # type: ignore[attr-defined]
    octets.oct2int = lambda octet: octet  # type: ignore[attr-defined]
    octets.ints2octs = bytes  # type: ignore[attr-defined]
    octets.octs2ints = list  # type: ignore[attr-defined]
    octets.str2octs = lambda text: text.encode("iso-8859-1")  # type: ignore[attr-defined]
    octets.octs2str = lambda data: data.decode("iso-8859-1")  # type: ignore[attr-defined]
    octets.isOctetsType = lambda value: isinstance(value, bytes)  # type: ignore[attr-defined]
    octets.isStringType = lambda value: isinstance(value, str)  # type: ignore[attr-defined]
    sys.modules.setdefault("pyasn1.compat.octets", octets)
    sys.modules.setdefault("pysmi", None)  # type: ignore[arg-type]


_stand_in()

from pysnmp.carrier.asyncio.dgram import udp  # noqa: E402
from pysnmp.entity import config as entity  # noqa: E402
from pysnmp.entity.rfc3413.ntfrcv import NotificationReceiver  # noqa: E402
from pysnmp.hlapi.asyncio import (  # noqa: E402
    CommunityData,
    ContextData,
    ObjectIdentity,
    ObjectType,
    SnmpEngine,
    UdpTransportTarget,
    UsmUserData,
    bulkCmd,
    getCmd,
    nextCmd,
    setCmd,
    usmAesBlumenthalCfb256Protocol,
    usmAesCfb128Protocol,
    usmDESPrivProtocol,
    usmHMAC128SHA224AuthProtocol,
    usmHMAC192SHA256AuthProtocol,
    usmHMAC256SHA384AuthProtocol,
    usmHMAC384SHA512AuthProtocol,
    usmHMACMD5AuthProtocol,
    usmHMACSHAAuthProtocol,
)
from pysnmp.proto.rfc1902 import OctetString  # noqa: E402

Binding = tuple[str, str, str]  # name, type of the value (its ASN.1 class), value as text


AUTHS = {
    "sha1": usmHMACSHAAuthProtocol, "sha224": usmHMAC128SHA224AuthProtocol, "sha256": usmHMAC192SHA256AuthProtocol,
    "sha384": usmHMAC256SHA384AuthProtocol, "sha512": usmHMAC384SHA512AuthProtocol, "md5": usmHMACMD5AuthProtocol,
}  # fmt: skip
PRIVS = {"aes128": usmAesCfb128Protocol, "aes256": usmAesBlumenthalCfb256Protocol, "des": usmDESPrivProtocol}


class Manager:
    """Asks one agent. Each request returns (error as text, error index, bindings); silence raises TimeoutError."""

    def __init__(self, port: int, community: str, version: int = 1, within_s: float = 2.0) -> None:
        """`version` 0 is SNMPv1, 1 is SNMPv2c."""
        self._loop = asyncio.new_event_loop()
        self._engine = SnmpEngine()
        self._who = CommunityData("tests", community, mpModel=version)
        self._at = ("127.0.0.1", port)
        self._within_s = within_s

    def with_user(self, name: str, auth: str, sign: str, priv: str, crypt: str) -> Manager:
        """Asks with version 3 from now on; `priv` "": signed only."""
        self._who = UsmUserData(
            name, sign, crypt if priv else None, authProtocol=AUTHS[auth],
            **({"privProtocol": PRIVS[priv]} if priv else {}),
        )  # fmt: skip
        return self

    def close(self) -> None:
        self._engine.transportDispatcher.closeDispatcher()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def get(self, *names: str) -> tuple[str, int, list[Binding]]:
        return self._ask(getCmd, [ObjectType(ObjectIdentity(n)) for n in names])

    def getnext(self, *names: str) -> tuple[str, int, list[Binding]]:
        return self._ask(nextCmd, [ObjectType(ObjectIdentity(n)) for n in names])

    def getbulk(self, singles: int, repetitions: int, *names: str) -> tuple[str, int, list[Binding]]:
        return self._ask(bulkCmd, [ObjectType(ObjectIdentity(n)) for n in names], singles, repetitions)

    def set(self, name: str, text: str) -> tuple[str, int, list[Binding]]:
        return self._ask(setCmd, [ObjectType(ObjectIdentity(name), OctetString(text))])

    def walk(self, root: str, limit: int = 1000) -> list[Binding]:
        """All below `root` by GETNEXT, at most `limit`."""
        found: list[Binding] = []
        name = root
        while len(found) < limit:
            error, _, bindings = self.getnext(name)
            name, kind, _ = bindings[0]
            if error or kind == "EndOfMibView" or not (name + ".").startswith(root + "."):
                return found
            found.append(bindings[0])
        raise AssertionError(f"no end after {limit} rows")

    def _ask(self, command: Any, bindings: list[Any], *numbers: int) -> tuple[str, int, list[Binding]]:
        async def ask() -> Any:
            target = UdpTransportTarget(self._at, timeout=self._within_s, retries=0)
            return await command(self._engine, self._who, target, ContextData(), *numbers, *bindings, lookupMib=False)

        silence, error, index, answered = self._loop.run_until_complete(ask())
        if silence:
            raise TimeoutError(str(silence))
        if answered and isinstance(answered[0], list):  # GETNEXT and GETBULK: rows
            answered = [binding for row in answered for binding in row]
        text = error.prettyPrint() if error else ""
        return text, int(index), [(str(n), type(v).__name__, v.prettyPrint()) for n, v in answered]


class Listener:
    """Takes notifications on a port (0: a free one); confirms informs. `got`: the bindings of each, without value."""

    def __init__(self, community: str, port: int = 0, engine_id: bytes = b"") -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._engine = SnmpEngine(*((OctetString(engine_id),) if engine_id else ()))
        way = udp.UdpTransport(loop=self._loop).openServerMode(("127.0.0.1", port))
        entity.addTransport(self._engine, udp.domainName, way)
        entity.addV1System(self._engine, "tests", community)
        self.got: list[list[tuple[str, str]]] = []
        NotificationReceiver(
            self._engine, lambda *said: self.got.append([(str(n), type(v).__name__) for n, v in said[4]])
        )
        while way.transport is None:
            self.listen()
        self.port = int(way.transport.get_extra_info("sockname")[1])

    def with_user(self, name: str, sign: str, crypt: str, of_engine: bytes) -> Listener:
        """Knows a user, sha256 and aes128: for informs, and for the traps of this engine."""
        for more in ({}, {"securityEngineId": OctetString(of_engine)}):
            entity.addV3User(self._engine, name, AUTHS["sha256"], sign, PRIVS["aes128"], crypt, **more)
        return self

    def listen(self, for_s: float = 0.05) -> None:
        self._loop.run_until_complete(asyncio.sleep(for_s))

    def close(self) -> None:
        self._engine.transportDispatcher.closeDispatcher()
        self.listen()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self.listen(0.0)
        self._loop.close()
        asyncio.set_event_loop(None)
