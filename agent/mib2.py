"""The adapter itself as SNMP managers see it: who it is, its network interfaces, and its SNMP traffic.

Sources: RFC 3418 (system, snmp group, sysORTable), RFC 2863 (ifNumber, ifTable, ifXTable). The numbers are handed in.
"""

from __future__ import annotations

from collections.abc import Callable

from .ber import COUNTER32, COUNTER64, GAUGE32, INTEGER, OBJECT_ID, OCTET_STRING, TIMETICKS, Oid
from .mib import INT_MAX, UINT_MAX, Look, Object, Row, Value, constant, row, text
from .model import VERSION
from .upsmib import UPS

SYSTEM: Oid = (1, 3, 6, 1, 2, 1, 1)
INTERFACES: Oid = (1, 3, 6, 1, 2, 1, 2)
SNMP: Oid = (1, 3, 6, 1, 2, 1, 11)
IFX: Oid = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1)

#: ends in "SNMP Agent": LibreNMS's rule for UPS cards that speak RFC 1628
DESCRIPTION = f"Ridethrough {VERSION} UPS network adapter, SNMP Agent"
SERVICES = 72  # layers 4 and 7 (RFC 3418): a host with applications

# --- the counters of the snmp group, by the last arc of their names ----------------------------------------------

IN_PKTS, OUT_PKTS, IN_BAD_VERSIONS, IN_BAD_COMMUNITY_NAMES, IN_BAD_COMMUNITY_USES, IN_PARSE_ERRORS = range(1, 7)
IN_TOO_BIGS, IN_NO_SUCH_NAMES, IN_BAD_VALUES, IN_READ_ONLYS, IN_GEN_ERRORS, IN_TOTAL_REQ_VARS = range(8, 14)
IN_TOTAL_SET_VARS, IN_GETS, IN_GETNEXTS, IN_SETS, IN_RESPONSES, IN_TRAPS, OUT_TOO_BIGS = range(14, 21)
OUT_NO_SUCH_NAMES, OUT_BAD_VALUES, OUT_GEN_ERRS, OUT_RESPONSES, OUT_TRAPS, SILENT_DROPS = 21, 22, 24, 28, 29, 31
ENABLE_AUTHEN_TRAPS = 30

_COUNTERS = {
    1: "snmpInPkts", 2: "snmpOutPkts", 3: "snmpInBadVersions", 4: "snmpInBadCommunityNames",
    5: "snmpInBadCommunityUses", 6: "snmpInASNParseErrs", 8: "snmpInTooBigs", 9: "snmpInNoSuchNames",
    10: "snmpInBadValues", 11: "snmpInReadOnlys", 12: "snmpInGenErrs", 13: "snmpInTotalReqVars",
    14: "snmpInTotalSetVars", 15: "snmpInGetRequests", 16: "snmpInGetNexts", 17: "snmpInSetRequests",
    18: "snmpInGetResponses", 19: "snmpInTraps", 20: "snmpOutTooBigs", 21: "snmpOutNoSuchNames",
    22: "snmpOutBadValues", 24: "snmpOutGenErrs", 25: "snmpOutGetRequests", 26: "snmpOutGetNexts",
    27: "snmpOutSetRequests", 28: "snmpOutGetResponses", 29: "snmpOutTraps", 31: "snmpSilentDrops",
    32: "snmpProxyDrops",
}  # fmt: skip


def new_counts() -> list[int]:
    """The counters of the snmp group, all 0, by the last arc of their name."""
    return [0] * 33


def _count(number: int) -> Callable[[Look], Value]:
    return lambda look: look.counts[number]


def _name(look: Look) -> str:
    return text("sysName")(look) or look.view.name or look.host


def _auth_traps(look: Look) -> int:
    return 1 if look.auth_traps else 2


# --- objects ----------------------------------------------------------------------------------------------------

SCALARS = (
    Object((*SYSTEM, 1), "sysDescr", OCTET_STRING, 0, 255, lambda _: DESCRIPTION),
    Object((*SYSTEM, 2), "sysObjectID", OBJECT_ID, 0, 0, lambda _: UPS),
    Object((*SYSTEM, 3), "sysUpTime", TIMETICKS, 0, UINT_MAX, lambda look: look.ticks),
    Object((*SYSTEM, 4), "sysContact", OCTET_STRING, 0, 255, text("sysContact")),  # "": not known
    Object((*SYSTEM, 5), "sysName", OCTET_STRING, 0, 255, _name),
    Object((*SYSTEM, 6), "sysLocation", OCTET_STRING, 0, 255, text("sysLocation")),
    Object((*SYSTEM, 7), "sysServices", INTEGER, 0, 127, lambda _: SERVICES),
    Object((*SYSTEM, 8), "sysORLastChange", TIMETICKS, 0, UINT_MAX, lambda _: 0),
    Object((*INTERFACES, 1), "ifNumber", INTEGER, 0, INT_MAX, lambda look: len(look.interfaces)),
    *(Object((*SNMP, n), name, COUNTER32, 0, UINT_MAX, _count(n)) for n, name in _COUNTERS.items()),
    Object((*SNMP, ENABLE_AUTHEN_TRAPS), "snmpEnableAuthenTraps", INTEGER, 1, 2, _auth_traps),
)

#: what we serve: sysORID, sysORDescr
_MODULES: tuple[tuple[Oid, str], ...] = (
    (UPS, "UPS-MIB: RFC 1628"),
    ((1, 3, 6, 1, 6, 3, 1), "SNMPv2-MIB: RFC 3418"),
    ((1, 3, 6, 1, 2, 1, 31), "IF-MIB: RFC 2863, ifNumber, ifTable, ifXTable"),
)
MODULE_COLUMNS = (
    Object((*SYSTEM, 9, 1, 2), "sysORID", OBJECT_ID, 0, 0, lambda module: module[0]),
    Object((*SYSTEM, 9, 1, 3), "sysORDescr", OCTET_STRING, 0, 255, lambda module: module[1]),
    Object((*SYSTEM, 9, 1, 4), "sysORUpTime", TIMETICKS, 0, UINT_MAX, lambda _: 0),
)

_IF_COLUMNS = (
    ("ifIndex", INTEGER), ("ifDescr", OCTET_STRING), ("ifType", INTEGER), ("ifMtu", INTEGER), ("ifSpeed", GAUGE32),
    ("ifPhysAddress", OCTET_STRING), ("ifAdminStatus", INTEGER), ("ifOperStatus", INTEGER),
    ("ifLastChange", TIMETICKS), ("ifInOctets", COUNTER32), ("ifInUcastPkts", COUNTER32),
    ("ifInNUcastPkts", COUNTER32), ("ifInDiscards", COUNTER32), ("ifInErrors", COUNTER32),
    ("ifInUnknownProtos", COUNTER32), ("ifOutOctets", COUNTER32), ("ifOutUcastPkts", COUNTER32),
    ("ifOutNUcastPkts", COUNTER32), ("ifOutDiscards", COUNTER32), ("ifOutErrors", COUNTER32),
    ("ifOutQLen", GAUGE32), ("ifSpecific", OBJECT_ID),
)  # fmt: skip


def _column(position: int) -> Callable[..., Value]:
    return lambda values: values[position]


IF_COLUMNS = tuple(
    Object((*INTERFACES, 2, 1, n), name, tag, 0, INT_MAX if tag == INTEGER else UINT_MAX, _column(n - 1))
    for n, (name, tag) in enumerate(_IF_COLUMNS, start=1)
)
#: ifXTable, of which Linux knows these: number, name, type, and the place in ifTable's columns
_IFX_COLUMNS = (
    (1, "ifName", OCTET_STRING, 1), (6, "ifHCInOctets", COUNTER64, 9), (7, "ifHCInUcastPkts", COUNTER64, 10),
    (8, "ifHCInMulticastPkts", COUNTER64, 11), (10, "ifHCOutOctets", COUNTER64, 15),
    (11, "ifHCOutUcastPkts", COUNTER64, 16),
)  # fmt: skip
IFX_COLUMNS = (
    *(Object((*IFX, n), name, tag, 0, UINT_MAX, _column(place)) for n, name, tag, place in _IFX_COLUMNS),
    Object((*IFX, 15), "ifHighSpeed", GAUGE32, 0, UINT_MAX, lambda values: values[4] // 1_000_000),
)
OBJECTS = (*SCALARS, *MODULE_COLUMNS, *IF_COLUMNS, *IFX_COLUMNS)

# --- the rows that there are for one look -----------------------------------------------------------------------


def shape(look: Look) -> tuple[object, ...]:
    """What the set of rows depends on."""
    return tuple(look.interfaces)


def rows(look: Look) -> list[Row]:
    """All rows of these groups."""
    found = [row(o, 0, o.read) for o in SCALARS]
    for number, module in enumerate(_MODULES, start=1):
        found += [constant(o, number, o.read(module)) for o in MODULE_COLUMNS]
    for index in look.interfaces:
        found += [row(o, index, _of_interface(o, index)) for o in (*IF_COLUMNS, *IFX_COLUMNS)]
    return found


def _of_interface(o: Object, index: int) -> Callable[[Look], Value]:
    read = o.read

    def value(look: Look) -> Value:
        columns = look.interfaces[index]
        return read(columns) if columns else None

    return value
