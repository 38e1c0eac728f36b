"""What the pretend UPS says in each dialect of the Q1 family: written from the documents, not from our parsers."""

from __future__ import annotations

from collections.abc import Callable

from agent.pretend import NOMINAL_HZ, NOMINAL_V, NOMINAL_VA, Source, Unit

IDENTITY = b"#%-15s %-10s %-10s\r" % (b"MEGATEC", b"PTY1K", b"V1.00")
RATING = b"#%05.1f %03d %05.2f %04.1f\r" % (NOMINAL_V, 4, 24.0, NOMINAL_HZ)
LINES = (1.0, 0.98, 1.02)  # of a three-phase unit, so that none is another
BYPASS_HZ = 50.1


def flags(unit: Unit, *, online: bool = False) -> bytes:
    """The eight bits of Q1."""
    facts = (
        not unit.mains_usable,
        unit.low,
        unit.source in (Source.BYPASS, Source.BOOST, Source.BUCK),
        unit.fault,
        not online,  # line-interactive; on-line units give volts per cell
        unit.testing,
        unit.off_at_s is not None,
        unit.beeper,
    )
    return bytes(b"01"[fact] for fact in facts)


def hertz(unit: Unit) -> float:
    """Of the mains."""
    return NOMINAL_HZ if unit.mains else 0.0


def output_hz(unit: Unit) -> float:
    return NOMINAL_HZ if unit.output_on else 0.0


def q1(unit: Unit, *, per_cell: bool = False, frequency_hz: float | None = None) -> bytes:
    """The unit's answer to Q1."""
    volts = b"%04.2f" % (unit.battery_v / 12) if per_cell else b"%04.1f" % unit.battery_v
    return b"(%05.1f %05.1f %05.1f %03d %04.1f %s %04.1f %s\r" % (
        unit.input_v,
        unit.fault_v,
        unit.output_v,
        unit.load_now_pct,
        hertz(unit) if frequency_hz is None else frequency_hz,
        volts,
        unit.temperature_c,
        flags(unit, online=per_cell),
    )


def _obey(unit: Unit, command: bytes, refused: bytes, accepted: bytes = b"") -> bytes:
    return accepted if unit.obey(command) else refused


def megatec(unit: Unit, command: bytes, *, per_cell: bool = False) -> bytes:
    said = {b"Q1": q1(unit, per_cell=per_cell), b"D": q1(unit, per_cell=per_cell), b"F": RATING, b"I": IDENTITY}
    return said.get(command) or _obey(unit, command, command + b"\r")


def megatec_old(unit: Unit, command: bytes) -> bytes:
    return command + b"\r" if command == b"Q1" else megatec(unit, command)


def mecer(unit: Unit, command: bytes) -> bytes:
    said = {b"Q1": q1(unit), b"QPI": b"(PI98\r", b"F": RATING, b"I": IDENTITY}
    return said.get(command) or _obey(unit, command, b"(NAK\r", b"(ACK\r")


def mustek(unit: Unit, command: bytes) -> bytes:
    said = {b"QS": q1(unit), b"F": RATING, b"I": IDENTITY}
    return said.get(command) or _obey(unit, command, command + b"\r")


def zinto(unit: Unit, command: bytes) -> bytes:
    said = {b"Q1": q1(unit), b"F": RATING, b"FW?": IDENTITY}
    return said.get(command) or _obey(unit, command, command + b"\r")


def bestups(unit: Unit, command: bytes) -> bytes:
    said = {
        b"Q1": q1(unit)[:-2] + b"0\r",  # its beeper bit is always 0
        b"ID": b"FOR,750,230,230,20.0,27.6\r",
        b"RT": b"%03d\r" % min(999, int(unit.runtime_s / 60)),
        b"M": b"0\r",
        b"SS?": b"0\r",
    }
    return said.get(command) or _obey(unit, command, command + b"\r")


def gtec(unit: Unit, command: bytes) -> bytes:
    on_bypass = unit.source is Source.BYPASS
    facts = (not unit.mains_usable, unit.low, on_bypass, unit.fault, unit.testing, unit.off_at_s is not None)
    letters = bytes(letter for letter, so in zip(b"ABCDEF", facts, strict=True) if so) or b"IM"
    status = b"(%05.1f 243.2 212.1 %05.1f %05.1f 002 %03d %04.1f 371 372 %05.1f %04.1f %s\r" % (
        unit.input_v, unit.fault_v, unit.output_v, unit.load_now_pct, hertz(unit), unit.battery_v, unit.temperature_c,
        letters,
    )  # fmt: skip
    return {b"Q4": status, b"F": RATING, b"I": IDENTITY}.get(command) or _obey(unit, command, command + b"\r")


def hunnox(unit: Unit, command: bytes) -> bytes:
    said = {b"Q1": q1(unit), b"F": RATING, b"FW?": IDENTITY, b"BL": b"BL%d\r" % unit.charge_pct}
    return said.get(command) or _obey(unit, command, command + b"\r")


def ablerex(unit: Unit, command: bytes) -> bytes:
    numbers = (output_hz(unit) * 10, 0, 0, unit.battery_v * 50, 960, 0, 0, 27, 0, 0)
    said = {
        b"Q1": q1(unit),
        b"F": RATING,
        b"I": IDENTITY,
        b"Q5": b"(" + b"".join(int(number).to_bytes(2) for number in numbers) + b"\r",
    }
    return said.get(command) or _obey(unit, command, command + b"\r")


def omron(unit: Unit, command: bytes) -> bytes:
    status = q1(unit)
    said = {
        b"Q1": status[:40] + b"1" + status[41:],  # this bit is set whatever it does
        b"Bl ?": b"%03d\r" % unit.charge_pct,
        b"RTS": b"%04d\r" % min(9999, unit.runtime_s / 60),
        b"TPb": b"%+05.1f\r" % unit.temperature_c,
        b"Lf ?": b"%04.1f\r" % output_hz(unit),
        b"UN": b"1125W/1125VA/024V/160W/020W\r",
        b"FWV": b"M:0.17(S:2.00)\r",
        b"PSNR": b"A0Z25110005109G \r",
    }
    return said.get(command) or b"NAK\r"


# --- Voltronic --------------------------------------------------------------------------------------------------


def _in_eco(unit: Unit) -> bool:
    return unit.eco and unit.source is Source.MAINS and not unit.testing


def _qgs(unit: Unit) -> bytes:
    past = unit.source in (Source.BYPASS, Source.BOOST, Source.BUCK) or _in_eco(unit)
    bits = (
        not unit.mains_usable, unit.low, past, unit.fault, False,
        unit.testing, unit.off_at_s is not None, not unit.beeper, False, True,
    )  # fmt: skip
    return b"(%05.1f %04.1f %05.1f %04.1f %05.1f %03d 369.1 ---.- %05.1f ---.- %05.1f 10%s\r" % (
        unit.input_v, hertz(unit), unit.output_v, output_hz(unit), 10, unit.load_now_pct, unit.battery_v,
        unit.temperature_c, bytes(b"01"[bit] for bit in bits),
    )  # fmt: skip


def _mode(unit: Unit) -> bytes:
    mains = b"E" if _in_eco(unit) else b"L"
    letters = {Source.NONE: b"S", Source.BATTERY: b"B", Source.BYPASS: b"Y"}
    return b"(%s\r" % (b"F" if unit.fault else b"T" if unit.testing else letters.get(unit.source, mains))


def _lines(volts: float) -> bytes:
    """Three lines to neutral, and the three voltages between them."""
    each = tuple(volts * factor for factor in LINES)
    return b"(%s\r" % b" ".join(b"%05.1f" % value for value in (*each, *(value * 1.732 for value in each)))


def _whole(value: float) -> bytes:
    return b"(%s\r" % b" ".join(b"%03d" % (value * factor) for factor in LINES)


def voltronic(protocol: bytes) -> Callable[[Unit, bytes], bytes]:
    """A speaker of Pxx; 10 has three phases on both sides, 03 one output."""

    def speak(unit: Unit, command: bytes) -> bytes:
        said = {
            b"QPI": b"(PI%s\r" % protocol,
            b"QGS": _qgs(unit),
            b"QMOD": _mode(unit),
            b"QBV": b"(%05.1f 02 01 %03d %03d\r" % (unit.battery_v, unit.charge_pct, min(999, unit.runtime_s / 60)),
            b"QRI": b"(%05.1f %03d %05.1f %04.1f\r" % (NOMINAL_V, 4, 24.0, NOMINAL_HZ),
            b"QMD": b"(#######OLHVT1K0 ###%04d 80 1/1 %03d %03d 02 12.0\r" % (NOMINAL_VA, NOMINAL_V, NOMINAL_V),
            b"QMF": b"(#######BOH\r",
            b"QVFW": b"(VERFW:00322.02\r",
            b"QID": b"(12345679012345\r",
            b"F": RATING,
            b"I": IDENTITY,
            b"QWS": b"(%s\r" % bytes(b"01"[n == 55 and unit.fault] for n in range(64)),
            b"QFLAG": b"(EpashcjeDbrogfl\r" if unit.eco else b"(EpashcjDbroegfl\r",
            b"QSK1": b"(%d\r" % unit.outlets[0],
            b"QSK2": b"(%d\r" % unit.outlets[1],
            b"QLDL": b"(021 023\r",
        }
        if protocol in (b"03", b"10"):
            said |= {b"Q3PV": _lines(unit.input_v), b"Q3YV": _lines(unit.mains_v), b"Q3PC": _whole(9)}
        if protocol == b"10":
            said |= {b"Q3OV": _lines(unit.output_v), b"Q3LD": _whole(unit.load_now_pct), b"Q3OC": _whole(10)}
        if command in said:
            return said[command]
        if command in (b"BZON", b"BZOFF"):
            unit.beeper = command == b"BZON"
            return b"(ACK\r"
        if command in (b"PEE", b"PDE"):
            unit.eco = command == b"PEE"
            return b"(ACK\r"
        if command[:-1] in (b"SKON", b"SKOFF") and command[-1:] in b"12":
            unit.outlets[command[-1] - ord("1")] = command[:-1] == b"SKON"
            return b"(ACK\r"
        if command in (b"C", b"Q", b"CS"):
            return _obey(unit, {b"CS": b"C"}.get(command, b"-"), b"(NAK\r", b"(ACK\r")
        if command in (b"SON", b"SOFF"):
            return _obey(unit, b"C" if command == b"SON" else b"S00R0000", b"(NAK\r", b"(ACK\r")
        return _obey(unit, command, b"(NAK\r", b"(ACK\r")

    return speak


def voltronic_qs(unit: Unit, command: bytes) -> bytes:
    said = {b"M": b"V\r", b"QS": q1(unit, frequency_hz=output_hz(unit)), b"F": RATING}
    known = command in (b"T", b"C", b"Q") or command[:1] == b"S"
    return said.get(command) or (_obey(unit, command, command + b"\r") if known else command + b"\r")


def qs_hex(letter: bytes) -> Callable[[Unit, bytes], bytes]:
    """A speaker of the binary QS: P, or T with its rating and its test."""

    def speak(unit: Unit, command: bytes) -> bytes:
        if command == b"M":
            return letter + b"\r"
        if command == b"QS":
            return _binary(unit, with_rating=letter == b"T") + b"\r"
        known = command in (b"C", b"Q") or command[:1] == b"S" or (command == b"T" and letter == b"T")
        return _obey(unit, command, b"N\r") if known else b"N\r"

    return speak


_ESCAPES = {0x0D: b"\x28\x00", 0x11: b"\x28\x01", 0x13: b"\x28\x02", 0x0A: b"\x28\x03", 0x20: b"\x28\x04"}


def _binary(unit: Unit, *, with_rating: bool) -> bytes:
    hz = 4096
    fields = [
        round(unit.input_v * 256 * 51 / 104).to_bytes(2),
        b"\x68",
        round(unit.output_v * 256 * 51 / 105).to_bytes(2),
        b"\x69",
        bytes((int(unit.load_now_pct),)),
        hz.to_bytes(2),
        int(output_hz(unit) * hz).to_bytes(3),
        bytes((round(unit.battery_v * 510 / 60),)),
        b"\x3c",
        bytes((int(flags(unit), 2),)),
    ]
    if with_rating:
        fields.append(bytes((0b00100011,)))  # 50 Hz, 24 V, 230 V
    return b"#" + b" ".join(b"".join(_ESCAPES.get(byte, bytes((byte,))) for byte in field) for field in fields)


# --- three phases -----------------------------------------------------------------------------------------------


def _slashed(value: float) -> bytes:
    return b"/".join(b"%05.1f" % (value * factor) for factor in LINES)


def megatec_g(unit: Unit, command: bytes) -> bytes:
    on_inverter = unit.source in (Source.MAINS, Source.BATTERY, Source.BOOST, Source.BUCK)
    said = {
        b"G1": b"!%03d %03d %04d %05.1f %+05.1f %04.1f %04.1f %04.1f\r" % (
            unit.battery_v, unit.charge_pct, min(9999, unit.runtime_s / 60), 5.0, unit.temperature_c, hertz(unit),
            BYPASS_HZ, output_hz(unit),
        ),
        b"G2": b"!000%d0%d%d1 00000%d%d%d 00000000\r" % (
            unit.low, not unit.mains_usable, unit.charge_pct < 100, unit.mains_usable, on_inverter, on_inverter,
        ),
        b"G3": b"!%s %s %s %s\r" % (
            _slashed(unit.input_v), _slashed(unit.mains_v if unit.mains else 0), _slashed(unit.output_v),
            _slashed(unit.load_now_pct),
        ),
        b"GF": b"!220V/380V^3P4W 050 220V/380V^3P4W 050 220V/3P3W^^^^^ 050 024 150KVA^^^^\r",
    }  # fmt: skip
    return said.get(command) or megatec(unit, command)


def q6(unit: Unit, command: bytes) -> bytes:
    """Three in, one out, as the unit that was captured."""
    lines = tuple(unit.input_v * factor for factor in LINES)
    watts, load = unit.load_now_pct * 10, unit.load_now_pct
    said = {
        b"Q6": b"(%05.1f %05.1f %05.1f %04.1f %05.1f 000.0 000.0 %04.1f %03d 000 000 %05.1f 000.0 %04.1f %05d %03d 32 00000000 00000000 11\r" % (  # noqa: E501
            *lines, hertz(unit), unit.output_v, output_hz(unit), load, unit.battery_v, unit.temperature_c,
            min(99999, unit.runtime_s), unit.charge_pct,
        ),
        b"WA": b"(%05.1f 000.0 000.0 %05.1f 000.0 000.0 %05.1f %05.1f 006.5 000.0 000.0 %03d 00000000\r" % (
            watts / 1000, watts / 1000, watts / 1000, watts / 1000, load,
        ),
        b"BPS": b"(%05.1f 000.0 000.0 %04.1f\r" % (unit.mains_v, BYPASS_HZ),
        b"WH": b"(00 00.00 00.00 INN3T20K                 2 3/1 6 230 50.00 024 02.00 005.00 015.00 005 00 40 110 276 45.00 55.00\r",  # noqa: E501
    }  # fmt: skip
    return said.get(command) or megatec(unit, command, per_cell=True)


def q2(unit: Unit, command: bytes) -> bytes:
    """As the unit of q6 answers it."""
    minutes, seconds = divmod(int(min(unit.runtime_s, 59999)), 60)
    if command == b"Q6":
        return command + b"\r"
    if command != b"Q2":
        return q6(unit, command)
    return b"(%05.1f %05.1f %05.1f %05.1f %05.1f 000.0 000.0 %03d 000 000 %04.1f %05.1f %04.1f 00000000 %03d.%02d %03d 02 00 00 00 00 00000000 11\r" % (  # noqa: E501
        *(unit.input_v * factor for factor in LINES), unit.fault_v, unit.output_v, unit.load_now_pct, hertz(unit),
        unit.battery_v, unit.temperature_c, minutes, seconds, unit.charge_pct,
    )  # fmt: skip


def masterguard(unit: Unit, command: bytes) -> bytes:
    minutes, seconds = divmod(int(min(unit.runtime_s, 59999)), 60)
    test = b"001" if unit.testing else b"000"
    status = b"%05.1f %05.1f %05.1f %03d %04.1f %05.2f %04.1f %03d.%02d %03d %s 00000%s\r" % (
        unit.input_v, unit.fault_v, unit.output_v, unit.load_now_pct, hertz(unit), unit.battery_v / 12,
        unit.temperature_c, minutes, seconds, unit.charge_pct, flags(unit, online=True)[:-1] + b"0", test,
    )  # fmt: skip
    said = {
        b"Q3": b"(00 " + status,
        b"Q1": q1(unit, per_cell=True),
        b"WH": b"(00 10.06 03.09 A  700  + 0 Bat Pack-19        0 230 50.00 012 02.30 006.00 012.00 018 10 40 160 276 47.00 53.00\r",  # noqa: E501
    }  # fmt: skip
    if command in (b"SS---1,00", b"SS---0,00"):
        unit.beeper = command == b"SS---1,00"
        return b""
    if command in (b"FOFF", b"FON"):
        unit.bypass = command == b"FOFF"
        return b""
    return said.get(command) or _obey(unit, command, command + b"\r")


SPEAKERS: dict[str, Callable[[Unit, bytes], bytes]] = {
    "megatec": megatec,
    "megatec-old": megatec_old,
    "mecer": mecer,
    "mustek": mustek,
    "zinto": zinto,
    "bestups": bestups,
    "gtec": gtec,
    "voltronic": voltronic(b"01"),
    "voltronic-00": voltronic(b"00"),
    "voltronic-03": voltronic(b"03"),
    "voltronic-10": voltronic(b"10"),
    "voltronic-qs": voltronic_qs,
    "qs-hex-p": qs_hex(b"P"),
    "qs-hex-t": qs_hex(b"T"),
    "megatec-g": megatec_g,
    "q6": q6,
    "q2": q2,
    "hunnox": hunnox,
    "ablerex": ablerex,
    "omron": omron,
    "masterguard": masterguard,
}
