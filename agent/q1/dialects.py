"""All dialects of the Q1 family by name, in the order in which the documentation shows them."""

from __future__ import annotations

from . import megatec, threephase, voltronic

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        megatec.MEGATEC,
        megatec.MEGATEC_OLD,
        megatec.MECER,
        megatec.MUSTEK,
        megatec.ZINTO,
        megatec.BESTUPS,
        megatec.GTEC,
        megatec.HUNNOX,
        megatec.ABLEREX,
        megatec.OMRON,
        voltronic.VOLTRONIC,
        voltronic.VOLTRONIC_QS,
        voltronic.QS_HEX_P,
        voltronic.QS_HEX_T,
        threephase.MEGATEC_G,
        threephase.Q6_DIALECT,
        threephase.Q2_DIALECT,
        threephase.MASTERGUARD,
    )
}
