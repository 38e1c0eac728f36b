"""What the numbers in a USB power device's description mean: names of usages, and which of them are physical.

Sources: USB-IF, HID Usage Tables for Power Devices 1.1 (pages 0x84 and 0x85); vendor pages: the tables of NUT's
drivers/apc-hid.c and drivers/mge-hid.c (facts, no code), and the logs that the cases in tests/cases/hid name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .model import LinkError

INDEX = 0x00FF0000  # a collection of type 0x81..0xFF: the [n] of a path, as in Outlet.[1]


def _page(page: int, text: str) -> dict[str, int]:
    """`05 iModel 06 iName` -> usages of `page`."""
    words = text.split()
    return {name: page << 16 | int(number, 16) for number, name in zip(words[::2], words[1::2], strict=True)}


NAMES: Mapping[str, int] = {
    **_page(
        0x84,
        """01 iName 02 PresentStatus 03 ChangedStatus 04 UPS 05 PowerSupply 10 BatterySystem 11 BatterySystemID
        12 Battery 13 BatteryID 14 Charger 15 ChargerID 16 PowerConverter 17 PowerConverterID 18 OutletSystem
        19 OutletSystemID 1A Input 1B InputID 1C Output 1D OutputID 1E Flow 1F FlowID 20 Outlet 21 OutletID 22 Gang
        23 GangID 24 PowerSummary 25 PowerSummaryID 30 Voltage 31 Current 32 Frequency 33 ApparentPower 34 ActivePower
        35 PercentLoad 36 Temperature 37 Humidity 38 BadCount 40 ConfigVoltage 41 ConfigCurrent 42 ConfigFrequency
        43 ConfigApparentPower 44 ConfigActivePower 45 ConfigPercentLoad 46 ConfigTemperature 47 ConfigHumidity
        50 SwitchOnControl 51 SwitchOffControl 52 ToggleControl 53 LowVoltageTransfer 54 HighVoltageTransfer
        55 DelayBeforeReboot 56 DelayBeforeStartup 57 DelayBeforeShutdown 58 Test 59 ModuleReset
        5A AudibleAlarmControl 60 Present 61 Good 62 InternalFailure 63 VoltageOutOfRange 64 FrequencyOutOfRange
        65 Overload 66 OverCharged 67 OverTemperature 68 ShutdownRequested 69 ShutdownImminent 6B SwitchOn/Off
        6C Switchable 6D Used 6E Boost 6F Buck 70 Initialized 71 Tested 72 AwaitingPower 73 CommunicationLost
        FD iManufacturer FE iProduct FF iSerialNumber""",
    ),
    **_page(
        0x85,
        """28 RemainingCapacityLimitOld 29 RemainingCapacityLimit 2A RemainingTimeLimit 2C CapacityMode
        42 BelowRemainingCapacityLimit 43 RemainingTimeLimitExpired 44 Charging 45 Discharging 46 FullyCharged
        47 FullyDischarged 48 ConditioningFlag 49 AtRateOK 4A SMBErrorCode 4B NeedReplacement
        64 RelativeStateOfCharge 65 AbsoluteStateOfCharge 66 RemainingCapacity 67 FullChargeCapacity
        68 RunTimeToEmpty 69 AverageTimeToEmpty 6B CycleCount 83 DesignCapacity 85 ManufacturerDate
        86 SerialNumber 87 iManufacturerName 88 iDeviceName 89 iDeviceChemistry 8B Rechargeable
        8C WarningCapacityLimit 8D CapacityGranularity1 8E CapacityGranularity2 8F iOEMInformation
        D0 ACPresent D1 BatteryPresent D2 PowerFail DB VoltageNotRegulated""",
    ),
    **_page(
        0xFF86,
        """05 APCGeneralCollection 16 APCBattReplaceDate 42 APC_UPS_FirmwareRevision 52 APCLineFailCause
        60 APCStatusFlag 61 APCSensitivity 72 APCPanelTest 79 APC_USB_FirmwareRevision 7C APCDelayBeforeReboot
        7D APCDelayBeforeShutdown 7E APCDelayBeforeStartup""",
    ),
    **_page(
        0xFFFF,
        """10 Phase 22 OverallAlarm 45 TestPeriod 4D RemainingCapacityLimitSetting 5D ShutdownTimer 5E StartupTimer
        64 FuseFault 68 EmergencyStop 77 FanFailure F0 iModel F1 iVersion""",
    ),
}
_NAME_OF = {number: name for name, number in NAMES.items()}
_HEX = re.compile(r"[0-9a-f]{8}")
_BRACKET = re.compile(r"\[(\d{1,3})\]")


def path(text: str) -> tuple[int, ...]:
    """`UPS.Outlet.[1].ff860060` as a tuple of usages. LinkError for a word that is no usage."""
    return tuple(_usage(word) for word in text.split("."))


def _usage(word: str) -> int:
    if word in NAMES:
        return NAMES[word]
    if _HEX.fullmatch(word):
        return int(word, 16)
    if bracket := _BRACKET.fullmatch(word):
        return INDEX | int(bracket[1])
    raise LinkError(f"no such usage: {word!r}")


def text(usages: Iterable[int]) -> str:
    """The opposite of `path`; what has no name is written as 8 hex digits."""
    return ".".join(_word(usage) for usage in usages)


def _word(usage: int) -> str:
    if usage >> 16 == INDEX >> 16:
        return f"[{usage & 0xFFFF}]"
    return _NAME_OF.get(usage, f"{usage:08x}")


# --- physical quantities -----------------------------------------------------------------------------------------

#: kind of quantity -> (HID unit code of it, exponent of ten at which that code stands for one SI unit): the HID unit
#: of volt is built on centimetre and gram, so a volt is 10^7 of it (HID 1.11, 6.2.2.7)
UNITS: Mapping[str, tuple[int, int]] = {
    "volt": (0x00F0D121, 7),
    "watt": (0x0000D121, 7),
    "ampere": (0x00100001, 0),
    "hertz": (0x0000F001, 0),
    "second": (0x00001001, 0),
    "kelvin": (0x00010001, 0),
    "charge": (0x00101001, 0),  # ampere seconds
}

_KINDS = {
    "volt": "Voltage ConfigVoltage LowVoltageTransfer HighVoltageTransfer",
    "watt": "ApparentPower ActivePower ConfigApparentPower ConfigActivePower",
    "ampere": "Current ConfigCurrent",
    "hertz": "Frequency ConfigFrequency",
    "second": "DelayBeforeReboot DelayBeforeStartup DelayBeforeShutdown RemainingTimeLimit RunTimeToEmpty "
    "AverageTimeToEmpty APCDelayBeforeReboot APCDelayBeforeShutdown APCDelayBeforeStartup ShutdownTimer StartupTimer",
    "kelvin": "Temperature ConfigTemperature",
    "charge": "RemainingCapacity FullChargeCapacity DesignCapacity RemainingCapacityLimit WarningCapacityLimit",
}
#: usage -> kind of quantity; all other usages are plain numbers, whatever unit was left standing before them
KIND: Mapping[int, str] = {NAMES[name]: kind for kind, names in _KINDS.items() for name in names.split()}
