"""Which modules the initrd gets: a card slot stays off until the drivers of its supply are there."""

from __future__ import annotations

import pytest

from image.kernel import supplies
from image.step import BuildError

ALIASES = """\
# Aliases extracted from modules themselves.
alias of:N*T*Cregulator-fixed fixed
alias of:N*T*Cregulator-fixedC* fixed
alias of:N*T*Cbrcm,brcmstb-gpio gpio_brcmstb
alias of:N*T*Cbrcm,bcm2712-pinctrl pinctrl-brcmstb-bcm2712
alias of:N*T*Cbrcm,other-board gpio_other
alias of:N*T*Cbrcm,bcm2835-sound snd_bcm2835
alias usb:v0483p* fixed
"""
DEPENDS = """\
kernel/drivers/regulator/fixed.ko.xz:
kernel/drivers/gpio/gpio-brcmstb.ko.xz: kernel/drivers/gpio/gpio-generic.ko.xz
kernel/drivers/gpio/gpio-other.ko.xz:
kernel/drivers/pinctrl/bcm/pinctrl-brcmstb-bcm2712.ko.xz:
kernel/sound/arm/snd-bcm2835.ko.xz:
"""
PI4 = b"\0\0compatible\0regulator-fixed\0\0\0brcm,bcm2835-sound\0"
PI5 = b"brcm,bcm7445-gpio\0brcm,brcmstb-gpio\0regulator-fixed\0brcm,bcm2712-pinctrl\0brcm,other-board-too\0"


def test_the_drivers_of_what_the_boards_card_slots_hang_on_are_found_by_their_device_trees() -> None:
    assert supplies(ALIASES, DEPENDS, [PI4]) == ["fixed"]
    assert supplies(ALIASES, DEPENDS, [PI4, PI5]) == ["fixed", "gpio_brcmstb", "pinctrl_brcmstb_bcm2712"]


def test_a_driver_that_is_built_in_is_no_module() -> None:
    assert supplies(ALIASES, DEPENDS.replace("kernel/drivers/regulator/fixed.ko.xz:\n", ""), [PI4]) == []


def test_a_kernel_whose_supply_is_under_another_name_is_no_image() -> None:
    with pytest.raises(BuildError, match="from regulator-fixed to fixed"):
        supplies(ALIASES.replace("regulator-fixed", "regulator-new"), DEPENDS, [PI4])
